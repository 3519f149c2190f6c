//! Mirror hosts on the dashboard and in `/metrics`: at the diode each host that is fed, on a host the receiver that it follows.
//! What is shown, `status --json` and `/api/v1/status` say as `feed` and `upstream`.

use std::time::Duration;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{Bytes, Span};
use diodesync_control::dashboard::page::{Mark, chip, figure};
use diodesync_control::dashboard::{Html, Kind, Metrics, count};
use diodesync_control::put;

use crate::feed::{FeedView, HostView};
use crate::status::Status;
use crate::upstream::UpstreamView;

/// The hosts that are fed; nothing where none is.
pub fn section(status: &Status) -> Html {
    let mut out = Html::default();
    let Some(feed) = &status.feed else { return out };
    put!(&mut out, "<h2>Mirror hosts</h2><p class=\"dim\">They are fed on <code>" (feed.listen) "</code>");
    if let Some(pin) = &feed.pin {
        put!(&mut out, " and know this receiver by <code>" (pin) "</code>");
    }
    out.raw(".</p>");
    for note in &feed.notes {
        put!(&mut out, "<p>" (note) "</p>");
    }
    if let Some(refused) = &feed.last_refused {
        put!(&mut out, "<p class=\"dim\">" (count(feed.refused)) " connections were refused since the start, the last: " (refused) "</p>");
    }
    if feed.hosts.is_empty() {
        out.raw("<div class=\"card empty\">None is known. <code>diode-receiver feed-file</code> makes one that follows this receiver.</div>");
        return out;
    }
    let published: Vec<(Channel, ReleaseNo)> = published(status).collect();
    out.raw("<div class=\"grid\">");
    feed.hosts.iter().for_each(|host| card(&mut out, host, &published, status.clock_ms));
    out.raw("</div>");
    out
}

fn published(status: &Status) -> impl Iterator<Item = (Channel, ReleaseNo)> {
    let published = status.channels.iter().filter_map(|channel| Some((&channel.channel, channel.published?)));
    published.map(|(channel, number)| (channel.clone(), number))
}

/// Whether a host serves an older release of a channel that it has. Which channels it gets it does not say.
fn is_behind(host: &HostView, published: &[(Channel, ReleaseNo)]) -> bool {
    let newest = |channel: &Channel| published.iter().find(|(other, _)| other == channel);
    let older =
        |(channel, number): &(Channel, ReleaseNo)| newest(channel).is_some_and(|(_, newest)| number < newest);
    host.published.iter().any(older)
}

fn card(out: &mut Html, host: &HostView, published: &[(Channel, ReleaseNo)], clock_ms: u64) {
    put!(out, "<div class=\"card\" data-host=\"" (host.name) "\"><div class=\"top\"><h3>" (host.name) "</h3>");
    match &host.from {
        None => chip(out, Mark::Bad, "not connected"),
        Some(_) if host.lacking > 0 => chip(out, Mark::Busy, "being fed"),
        Some(_) if host.published.is_empty() => chip(out, Mark::Idle, "serves nothing yet"),
        Some(_) if is_behind(host, published) => chip(out, Mark::Warn, "serves an older release"),
        Some(_) => chip(out, Mark::Good, "up to date"),
    }
    out.raw("</div><dl class=\"facts\">");
    figure(out, "Serves", names(&host.published), format!("published here: {}", names(published)));
    figure(out, "Lacks", count(host.lacking), "blocks of what it was told");
    figure(out, "Sent", Bytes(host.sent_bytes), "since the start");
    let since = ago(host.since_ms, clock_ms);
    match &host.from {
        Some(from) => figure(out, "Connected", since, format!("from {from}")),
        None => figure(out, "Not connected", since, ""),
    }
    out.raw("</dl></div>");
}

fn ago(ms: u64, clock_ms: u64) -> Span {
    Span(Duration::from_millis(clock_ms.saturating_sub(ms)))
}

fn names(releases: &[(Channel, ReleaseNo)]) -> String {
    let names: Vec<String> = releases.iter().map(|(channel, number)| format!("{channel} {number}")).collect();
    if names.is_empty() { "nothing yet".to_owned() } else { names.join(", ") }
}

/// On a mirror host, in place of the lanes.
pub fn upstream(upstream: &UpstreamView, clock_ms: u64) -> Html {
    let mut out = Html::default();
    put!(&mut out, "<h2>Upstream</h2><div class=\"grid\"><div class=\"card\" data-upstream=\"" (upstream.from)
        "\"><div class=\"top\"><h3>" (upstream.from) "</h3>");
    match (upstream.connected, &upstream.wrong) {
        (_, Some(_)) => chip(&mut out, Mark::Bad, "gives what was not signed"),
        (true, None) => chip(&mut out, Mark::Good, "connected"),
        (false, None) => chip(&mut out, Mark::Bad, "not connected"),
    }
    out.raw("</div><dl class=\"facts\">");
    let label = if upstream.connected { "Connected" } else { "Not connected" };
    figure(&mut out, label, ago(upstream.since_ms, clock_ms), "");
    let when = upstream.told_ms.map_or(String::new(), |ms| format!("{} ago", ago(ms, clock_ms)));
    figure(&mut out, "Told of", upstream.told.as_deref().unwrap_or("nothing yet"), when);
    let absent = format!("blocks, {} of them not to be had there now", count(upstream.absent));
    figure(&mut out, "Lacking", count(upstream.lacking), absent);
    let blocks = format!("since the start, {} blocks kept", count(upstream.blocks));
    figure(&mut out, "Received", Bytes(upstream.received_bytes), blocks);
    out.raw("</dl>");
    for why in upstream.why.iter().filter(|_| !upstream.connected).chain(&upstream.wrong) {
        put!(&mut out, "<p>" (why) "</p>");
    }
    put!(&mut out, "<p class=\"dim\">knows this host by <code>" (upstream.key) "</code></p></div></div>");
    out
}

/// For Prometheus.
pub fn metrics(status: &Status, out: &mut Metrics) {
    if let Some(feed) = &status.feed {
        feed_metrics(feed, out);
    }
    let Some(upstream) = &status.upstream else { return };
    out.one(
        Kind::Gauge,
        "diodesync_receiver_upstream_connected",
        "1 while the receiver that this mirror host follows is connected.",
        u8::from(upstream.connected),
    );
    out.one(
        Kind::Gauge,
        "diodesync_receiver_upstream_lacking_blocks",
        "Blocks that this mirror host has yet to fetch.",
        upstream.lacking,
    );
    out.one(
        Kind::Counter,
        "diodesync_receiver_upstream_received_bytes_total",
        "Octets of blocks that this mirror host was sent.",
        upstream.received_bytes,
    );
}

fn feed_metrics(feed: &FeedView, out: &mut Metrics) {
    let labels = |host: &HostView| vec![("host", host.name.clone())];
    let mut put = |kind, name, help, value: fn(&HostView) -> u64| {
        out.put(kind, name, help, feed.hosts.iter().map(|host| (labels(host), value(host))));
    };
    put(
        Kind::Gauge,
        "diodesync_receiver_host_connected",
        "1 while a mirror host that this receiver feeds is connected.",
        |host| u64::from(host.from.is_some()),
    );
    put(
        Kind::Gauge,
        "diodesync_receiver_host_lacking_blocks",
        "Blocks that a mirror host has yet to fetch, as it says.",
        |host| host.lacking,
    );
    put(
        Kind::Counter,
        "diodesync_receiver_host_sent_bytes_total",
        "Octets of blocks that a mirror host was sent.",
        |host| host.sent_bytes,
    );
    let releases = feed.hosts.iter().flat_map(|host| {
        host.published.iter().map(|(channel, number)| {
            (vec![("host", host.name.clone()), ("channel", channel.to_string())], number.0)
        })
    });
    out.put(
        Kind::Gauge,
        "diodesync_receiver_host_release",
        "The number of the release that a mirror host serves, as it says.",
        releases,
    );
    out.one(
        Kind::Counter,
        "diodesync_receiver_host_refused_total",
        "Connections of mirror hosts that were refused.",
        feed.refused,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u64) -> HostView {
        HostView {
            name: "<b>east</b>".to_owned(),
            from: Some("10.1.0.7:4433".to_owned()),
            since_ms: 1_000,
            published: vec![(Channel::main(), ReleaseNo(number))],
            lacking: 0,
            sent_bytes: 3_000_000,
        }
    }

    #[test]
    fn a_host_is_up_to_date_or_says_what_is_not_as_it_should_be() {
        let published = [(Channel::main(), ReleaseNo(5))];
        let text = |host: HostView| {
            let mut out = Html::default();
            card(&mut out, &host, &published, 61_000);
            out.as_str().to_owned()
        };
        let good = text(host(5));
        for expected in ["up to date", "main 5", "from 10.1.0.7:4433", "1 min 0 s"] {
            assert!(good.contains(expected), "{expected:?} is not in {good}");
        }
        assert!(!good.contains("<b>"), "{good}");
        assert!(text(host(4)).contains("serves an older release"));
        assert!(text(HostView { lacking: 7, ..host(4) }).contains("being fed"));
        assert!(text(HostView { published: Vec::new(), ..host(4) }).contains("serves nothing yet"));
        let gone = text(HostView { from: None, ..host(5) });
        assert!(gone.contains(">not connected<"), "{gone}");
    }

    #[test]
    fn prometheus_is_told_of_each_host() {
        let gone = HostView { name: "west".to_owned(), from: None, lacking: 9, ..host(4) };
        let feed = FeedView {
            listen: "[::]:7444".to_owned(),
            pin: None,
            trouble: None,
            notes: Vec::new(),
            refused: 2,
            last_refused: None,
            hosts: vec![HostView { name: "east".to_owned(), ..host(5) }, gone],
            written_ms: 0,
        };
        let mut out = Metrics::default();
        feed_metrics(&feed, &mut out);
        let text = out.into_text();
        for expected in [
            "diodesync_receiver_host_connected{host=\"east\"} 1\n",
            "diodesync_receiver_host_connected{host=\"west\"} 0\n",
            "diodesync_receiver_host_lacking_blocks{host=\"west\"} 9\n",
            "diodesync_receiver_host_sent_bytes_total{host=\"east\"} 3000000\n",
            "diodesync_receiver_host_release{host=\"west\",channel=\"main\"} 4\n",
            "diodesync_receiver_host_refused_total 2\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
    }
}
