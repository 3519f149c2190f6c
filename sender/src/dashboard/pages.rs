//! The sender's pages.

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{BitsPerS, Bytes};
use diodesync::release::change::{Change, Names};
use diodesync_control::dashboard::page::{self, Mark, Page, chip, figure, progress};
use diodesync_control::dashboard::{Asked, Board, Html, Range, Unit, count, encode, time};
use diodesync_control::put;

use super::api::newest;

use super::{DISK_FREE, counts, queued_bytes, sources};
use crate::api::Daemon;
use crate::status::{ChannelStatus, Status};

/// See [`diodesync_control::dashboard::Source::page`].
pub fn page(board: &Board<Daemon>, asked: &Asked) -> anyhow::Result<Option<Page>> {
    let seen = board.seen();
    let status = &seen.view;
    Ok(Some(match asked.parts().as_slice() {
        [] => overview(board, status, seen.at_ms),
        ["releases"] => {
            let page = Page::new("Releases")
                .live("now", channels(status))
                .live("releases", releases(&newest(board)?));
            if asked.may_act { page.fixed("act", forms(status)) } else { page }
        }
        ["releases", channel, number] => {
            let (Ok(channel), Ok(number)) = (channel.parse::<Channel>(), number.parse()) else {
                return Ok(None);
            };
            match board.source.changes.of(&board.source, &channel, ReleaseNo(number))? {
                Some(change) => release(&change),
                None => return Ok(None),
            }
        }
        ["sources"] => Page::new("Sources").live("sources", sources::list(status, asked.may_act)),
        ["sources", name] => {
            return Ok(sources::page(&board.source, name, seen.at_ms / 1000, asked.may_act));
        }
        ["exports"] => Page::new("Exports").live("exports", exports(board)?),
        _ => return Ok(None),
    }))
}

fn overview(board: &Board<Daemon>, status: &Status, at_ms: u64) -> Page {
    let alarms = status.alarms.iter().map(|alarm| (alarm.id.as_str(), alarm.text.as_str()));
    let history = board.history();
    let disk = page::disk(status.disk.as_ref(), &history, DISK_FREE);
    let plots = |range: Range| {
        let rate = history.plot("Rate", Unit::BitsPerS, range, at_ms, &[("sent", counts::BYTES, 8.0)]);
        let datagrams = [("sent", counts::DATAGRAMS, 1.0), ("refused by the system", counts::ERRORS, 1.0)];
        page::plots(range, &[rate, history.plot("Datagrams", Unit::PerS, range, at_ms, &datagrams)])
    };
    let (minutes, day) = (plots(Range::TenMinutes), plots(Range::Day));
    drop(history);
    Page::new("Overview")
        .live("alarms", page::alarms(alarms))
        .live("now", channels(status))
        .live("lanes", lanes(status))
        .live("minutes", minutes)
        .live("day", day)
        .live("disk", disk)
}

fn channels(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Channels</h2><div class=\"grid\">");
    for channel in &status.channels {
        put!(&mut out, "<div class=\"card\" data-channel=\"" (channel.channel) "\" data-state=\"" (channel.state)
            "\"><div class=\"top\"><h3>");
        match channel.newest {
            Some(number) => {
                put!(&mut out, "<a href=\"/releases/" (encode(channel.channel.as_str())) "/" (number)
                "\">Release " (channel.channel) " " (number) "</a>")
            }
            None => put!(&mut out, "Channel "(channel.channel)),
        }
        out.raw("</h3>");
        channel_chip(&mut out, channel);
        out.raw("</div>");
        if channel.newest.is_some() {
            let label = format!("round {} of {}, octets that went out", channel.round, channel.rounds);
            progress(&mut out, &label, channel.sent_bytes, channel.total_bytes);
        }
        out.raw("<dl class=\"facts\">");
        if channel.newest.is_some() {
            let blocks = format!(
                "{} of {} blocks",
                count(channel.sent_blocks as u64),
                count(channel.total_blocks as u64)
            );
            figure(&mut out, "Round", format!("{} of {}", channel.round, channel.rounds), blocks);
            figure(&mut out, "Queue", Bytes(queued_bytes(channel)), "that rounds have still to send");
        }
        let withdrawn = match channel.withdrawn {
            0 => "artifacts for the next release".to_owned(),
            n => format!("artifacts for the next release, {} withdrawn", count(n as u64)),
        };
        figure(&mut out, "Waiting", count(channel.staged as u64), withdrawn);
        if let Some(resend) = &channel.resend {
            let blocks = format!("blocks, round {}", resend.round);
            let sent =
                format!("{} of {}", count(resend.sent_blocks as u64), count(resend.total_blocks as u64));
            figure(&mut out, "Ticket", sent, blocks);
        }
        out.raw("</dl></div>");
    }
    out.raw("</div><p class=\"dim\">Sent is not delivered: nothing comes back over a diode. What arrived, the receiver's dashboard shows.</p>");
    out
}

fn channel_chip(out: &mut Html, channel: &ChannelStatus) {
    match channel.state.as_str() {
        "sending" => chip(out, Mark::Busy, "sending"),
        "waiting" => chip(out, Mark::Busy, "waits for the next round"),
        "complete" => chip(out, Mark::Good, "all rounds sent"),
        "idle" => chip(out, Mark::Idle, "no release yet"),
        other => chip(out, Mark::Warn, other),
    }
}

fn lanes(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Lanes</h2><div class=\"grid\">");
    for lane in &status.lanes {
        put!(&mut out, "<div class=\"card\"><div class=\"top\"><h3>" (lane.name) "</h3>");
        let is_refused = status.alarms.iter().any(|alarm| {
            matches!(alarm.id.as_str(), "lane-send" | "lane-stopped")
                && alarm.text.contains(&format!("lane {}", lane.name))
        });
        match (is_refused, lane.is_paused) {
            (true, _) => chip(&mut out, Mark::Bad, "cannot send"),
            (_, true) => chip(&mut out, Mark::Idle, "held by a rate window"),
            _ => chip(&mut out, Mark::Good, "up"),
        }
        out.raw("</div><dl class=\"facts\">");
        let limit =
            lane.rate_max_bits_per_s.map_or("no limit".to_owned(), |rate| format!("of {}", BitsPerS(rate)));
        figure(&mut out, "Rate", BitsPerS(lane.rate_bits_per_s), limit);
        figure(
            &mut out,
            "Sent",
            count(lane.sent_datagrams),
            format!("datagrams, {}", Bytes(lane.sent_bytes)),
        );
        figure(&mut out, "Errors", count(lane.send_errors), "sends that the system refused");
        put!(&mut out, "</dl><p class=\"dim\">to <code>" (lane.to) "</code>, session " (lane.session) "</p></div>");
    }
    out.raw("</div>");
    out
}

fn releases(releases: &[std::sync::Arc<Change>]) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Kept releases</h2>");
    if releases.is_empty() {
        out.raw("<div class=\"card empty\">No release was cut yet. Submit something, then: <code>diode-sender release</code></div>");
        return out;
    }
    out.raw(
        "<div class=\"table\"><table><thead><tr><th>Release</th><th>Cut</th><th class=\"num\">Added</th>",
    );
    out.raw("<th class=\"num\">Changed</th><th class=\"num\">Removed</th><th class=\"num\">New</th>");
    out.raw("<th class=\"num\">Artifacts</th><th class=\"num\">Content</th></tr></thead><tbody>");
    for change in releases {
        put!(&mut out, "<tr><td><a href=\"/releases/" (encode(change.channel.as_str())) "/" (change.number) "\">"
            (change.channel) " " (change.number) "</a></td><td>" (time(change.created_s)) "</td><td class=\"num plus\">+"
            (count(change.added.count as u64)) "</td><td class=\"num\">" (count(change.changed.count as u64))
            "</td><td class=\"num minus\">−" (count(change.removed.count as u64)) "</td><td class=\"num\">"
            (Bytes(change.new_bytes)) "</td><td class=\"num\">" (count(change.artifacts as u64)) "</td><td class=\"num\">"
            (Bytes(change.bytes)) "</td></tr>");
    }
    out.raw("</tbody></table></div>");
    out
}

fn release(change: &Change) -> Page {
    let mut facts = Html::default();
    facts.raw("<div class=\"card\"><dl class=\"facts\">");
    figure(&mut facts, "Cut", time(change.created_s), "");
    figure(
        &mut facts,
        "Content",
        Bytes(change.bytes),
        format!("{} artifacts", count(change.artifacts as u64)),
    );
    let against = change
        .against
        .map_or("nothing before it is kept".to_owned(), |before| format!("since release {before}"));
    figure(&mut facts, "New", Bytes(change.new_bytes), against);
    let baseline =
        change.baseline.map_or("everything".to_owned(), |baseline| format!("what {baseline} lacks"));
    figure(&mut facts, "Sends", baseline, "and more if a ticket asks");
    facts.raw("</dl></div>");
    let mut lists = Html::default();
    for (title, names) in
        [("Added", &change.added), ("Changed", &change.changed), ("Removed", &change.removed)]
    {
        list(&mut lists, title, names);
    }
    Page::new(format!("Release {} {}", change.channel, change.number))
        .fixed("facts", facts)
        .fixed("changes", lists)
}

/// Names under a title.
pub fn list(out: &mut Html, title: &str, names: &Names) {
    put!(out, "<h2>" (title) " <span class=\"n\">" (count(names.count as u64)) "</span></h2>");
    if names.count == 0 {
        out.raw("<div class=\"card empty\">Nothing.</div>");
        return;
    }
    out.raw("<div class=\"table\"><table><tbody>");
    for name in &names.names {
        put!(out, "<tr><td class=\"name\">" (name) "</td></tr>");
    }
    out.raw("</tbody></table></div>");
    if let Some(more @ 1..) = names.count.checked_sub(names.names.len()) {
        put!(out, "<p class=\"dim\">and " (count(more as u64)) " more</p>");
    }
}

fn exports(board: &Board<Daemon>) -> anyhow::Result<Html> {
    let exports = board.source.exports.list()?;
    let mut out = Html::default();
    if exports.is_empty() {
        out.raw(
            "<div class=\"card empty\">No export is under way. To write a release onto a medium: \
             <code>diode-sender export --to DIR</code></div>",
        );
        return Ok(out);
    }
    for export in &exports {
        put!(&mut out, "<div class=\"card\"><div class=\"top\"><h3>Export " (export.export) "</h3>");
        let (written, volumes) = (u64::from(export.volumes_written), u64::from(export.volumes));
        match written == volumes {
            true => chip(&mut out, Mark::Good, "written"),
            false => chip(&mut out, Mark::Busy, "under way"),
        }
        out.raw("</div>");
        progress(&mut out, "volumes that are written", written, volumes);
        out.raw("<dl class=\"facts\">");
        figure(&mut out, "Release", format!("{} {}", export.channel, export.number), "");
        figure(
            &mut out,
            "Volumes",
            format!("{written} of {volumes}"),
            format!("{} may be lost", export.expendable),
        );
        figure(&mut out, "Content", Bytes(export.bytes), format!("{} blocks", count(export.blocks as u64)));
        figure(&mut out, "Carry until", time(export.expires_s), "then its metadata has expired");
        out.raw("</dl></div>");
    }
    Ok(out)
}

/// What who has signed in can do.
fn forms(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw(
        "<h2>Cut a release</h2><div class=\"card\"><form method=\"post\" action=\"/release\" class=\"stack\">\
         <label for=\"channel\">Channel</label><select id=\"channel\" name=\"channel\">",
    );
    for channel in &status.channels {
        put!(&mut out, "<option>" (channel.channel) "</option>");
    }
    out.raw(
        "</select><label class=\"check\"><input type=\"checkbox\" name=\"full\" value=\"1\"> send everything, not only what \
         the release before lacks</label><button class=\"main\">Cut and send</button></form></div>\
         <h2>Answer a ticket</h2><div class=\"card\"><form method=\"post\" action=\"/resend\" class=\"stack\">\
         <label for=\"ticket\">The receiver's ticket</label>\
         <textarea id=\"ticket\" name=\"ticket\" required spellcheck=\"false\"></textarea>\
         <button class=\"main\">Send again</button></form></div>",
    );
    out
}
