//! Mirror hosts on the dashboard and in `/metrics`: at the diode each host that is fed, on a host the receiver that it follows.
//! What is shown, `status --json` and `/api/v1/status` say as `feed` and `upstream`.

use std::time::Duration;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{Bytes, Span};
use diodesync_control::dashboard::page::{Mark, chip, figure};
use diodesync_control::dashboard::{Html, Kind, Metrics, count};
use diodesync_control::put;

use super::mirrors::releases;
use crate::feed::{FeedView, HostView};
use crate::status::Status;
use crate::upstream::UpstreamView;

/// The hosts that are fed, where [`crate::feed`] is configured.
pub fn section(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Mirror hosts</h2>");
    let Some(feed) = &status.feed else {
        out.raw(
            "<div class=\"card empty\">It is not known how they are: nothing that feeds them has written for 10 s.</div>",
        );
        return out;
    };
    put!(&mut out, "<p class=\"dim\">They are fed on <code>" (feed.listen) "</code>");
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
        out.raw(
            "<div class=\"card empty\">None is known. <code>diode-receiver feed-file</code> makes the file from which a host \
             follows this receiver.</div>",
        );
        return out;
    }
    let published: Vec<_> = published(status).collect();
    out.raw("<div class=\"grid\">");
    feed.hosts.iter().for_each(|host| card(&mut out, host, &published, status.clock_ms));
    out.raw("</div>");
    out
}

fn published(status: &Status) -> impl Iterator<Item = (Channel, ReleaseNo)> {
    let published = status.channels.iter().filter_map(|channel| Some((&channel.channel, channel.published?)));
    published.map(|(channel, number)| (channel.clone(), number))
}

/// What a host should serve: its channels of what is published here.
fn meant(host: &HostView, published: &[(Channel, ReleaseNo)]) -> Vec<(Channel, ReleaseNo)> {
    let gets = |channel: &Channel| host.channels.as_ref().is_none_or(|channels| channels.contains(channel));
    published.iter().filter(|(channel, _)| gets(channel)).cloned().collect()
}

/// How a host stands: a word for programs, and a mark and words for people.
fn state(host: &HostView, meant: &[(Channel, ReleaseNo)]) -> (&'static str, Mark, &'static str) {
    let serves = |channel: &Channel| {
        host.published.iter().find(|(other, _)| other == channel).map(|(_, number)| *number)
    };
    match host.from {
        None => ("gone", Mark::Bad, "not connected"),
        Some(_) if !host.heard => ("silent", Mark::Idle, "has said nothing yet"),
        Some(_) if host.lacking > 0 => ("fed", Mark::Busy, "being fed"),
        Some(_) if meant.iter().any(|(channel, number)| serves(channel) < Some(*number)) => {
            ("behind", Mark::Warn, "does not serve all of it")
        }
        Some(_) => ("current", Mark::Good, "up to date"),
    }
}

fn card(out: &mut Html, host: &HostView, published: &[(Channel, ReleaseNo)], clock_ms: u64) {
    let meant = meant(host, published);
    let (state, mark, words) = state(host, &meant);
    put!(out, "<div class=\"card\" data-host=\"" (host.name) "\" data-state=\"" (state) "\"><div class=\"top\"><h3>"
        (host.name) "</h3>");
    chip(out, mark, words);
    out.raw("</div><dl class=\"facts\">");
    let is_there = host.from.is_some();
    let label = |now: &'static str, last: &'static str| if is_there { now } else { last };
    let meant = format!("to serve: {}", releases(&meant));
    if host.heard {
        figure(out, label("Serves", "Served, as it said last"), releases(&host.published), meant);
        figure(
            out,
            label("Lacks", "Lacked, as it said last"),
            count(host.lacking),
            "blocks of what it was told",
        );
    } else {
        figure(out, "Serves", "not known", meant);
    }
    figure(out, "Sent", Bytes(host.sent_bytes), "since the start");
    let from = host.from.as_ref().map_or(String::new(), |from| format!("from {from}"));
    figure(out, label("Connected", "Not connected"), ago(host.since_ms, clock_ms), from);
    out.raw("</dl></div>");
}

fn ago(ms: u64, clock_ms: u64) -> Span {
    Span(Duration::from_millis(clock_ms.saturating_sub(ms)))
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
    let mut put = |kind, name, help, value: fn(&HostView) -> Option<u64>| {
        let samples = feed.hosts.iter().filter_map(|host| Some((labels(host), value(host)?)));
        out.put(kind, name, help, samples.collect::<Vec<_>>());
    };
    put(
        Kind::Gauge,
        "diodesync_receiver_host_connected",
        "1 while a mirror host that this receiver feeds is connected.",
        |host| Some(u64::from(host.from.is_some())),
    );
    put(
        Kind::Gauge,
        "diodesync_receiver_host_lacking_blocks",
        "Blocks that a mirror host has yet to fetch, as it said last.",
        |host| host.heard.then_some(host.lacking),
    );
    put(
        Kind::Counter,
        "diodesync_receiver_host_sent_bytes_total",
        "Octets of blocks that a mirror host was sent.",
        |host| Some(host.sent_bytes),
    );
    let served = feed.hosts.iter().flat_map(|host| {
        host.published.iter().map(|(channel, number)| {
            (vec![("host", host.name.clone()), ("channel", channel.to_string())], number.0)
        })
    });
    out.put(
        Kind::Gauge,
        "diodesync_receiver_host_release",
        "The number of the release that a mirror host serves, as it said last.",
        served,
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
            channels: None,
            heard: true,
            from: Some("10.1.0.7:4433".to_owned()),
            since_ms: 1_000,
            published: vec![(Channel::main(), ReleaseNo(number))],
            lacking: 0,
            sent_bytes: 3_000_000,
        }
    }

    #[test]
    fn a_host_is_up_to_date_or_says_what_is_not_as_it_should_be() {
        let (main, dev) = (Channel::main(), "dev".parse::<Channel>().unwrap());
        let published = vec![(main.clone(), ReleaseNo(5)), (dev, ReleaseNo(3))];
        let of_main = |number| HostView { channels: Some(vec![main.clone()]), ..host(number) };
        let said = |host: HostView| state(&host, &meant(&host, &published)).0;
        assert_eq!(said(of_main(5)), "current", "it gets no other channel");
        assert_eq!((said(of_main(4)), said(of_main(6))), ("behind", "current"));
        assert_eq!(said(host(5)), "behind", "it serves nothing of a channel that it gets");
        assert_eq!(said(HostView { lacking: 7, ..of_main(4) }), "fed");
        assert_eq!(said(HostView { published: Vec::new(), ..of_main(5) }), "behind");
        assert_eq!(said(HostView { heard: false, published: Vec::new(), ..of_main(5) }), "silent");
        assert_eq!(said(HostView { from: None, ..of_main(5) }), "gone");

        let text = |host: HostView| {
            let mut out = Html::default();
            card(&mut out, &host, &published, 61_000);
            out.as_str().to_owned()
        };
        let good = text(of_main(5));
        for expected in ["up to date", "to serve: main 5<", "from 10.1.0.7:4433", "1 min 0 s"] {
            assert!(good.contains(expected), "{expected:?} is not in {good}");
        }
        assert!(!good.contains("<b>") && !good.contains("as it said last"), "{good}");
        assert!(text(HostView { from: None, ..of_main(5) }).contains("Served, as it said last"));
        let silent = text(HostView { heard: false, from: None, ..of_main(5) });
        assert!(silent.contains("not known") && !silent.contains("Lack"), "{silent}");
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
            hosts: vec![HostView { name: "east".to_owned(), heard: false, ..host(5) }, gone],
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
        assert!(!text.contains("lacking_blocks{host=\"east\"}"), "it has said nothing: {text}");
    }
}
