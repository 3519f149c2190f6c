//! The receiver's pages.

use std::sync::Arc;
use std::time::Duration;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{BitsPerS, Bytes, Span};
use diodesync::release::Index;
use diodesync_control::dashboard::page::{self, Mark, Page, chip, figure, progress};
use diodesync_control::dashboard::{Asked, Board, Html, Range, Unit, count, encode, time};
use diodesync_control::put;
use qrcodegen::QrCode;

use super::api::ticket_of;
use super::catalog::{Entry, Search, search};
use super::mirrors::{self, Held};
use super::{DISK_FREE, blocks, counts, held, hosts, import, lacking_blocks};
use crate::api::Daemon;
use crate::approve::HeldReleases;
use crate::status::{ChannelStatus, LaneStatus, MissingRelease, ReleaseStatus, Status};
use crate::ticket;

/// How long a lane may be silent before it counts as such.
const SILENCE_MS: u64 = 10_000;
/// Artifacts that are named where some are lacking.
const NAMED_MAX: usize = 20;
/// Modules of the margin of a QR code that readers need.
const QR_MARGIN: i32 = 4;

/// See [`diodesync_control::dashboard::Source::page`].
pub fn page(board: &Board<Daemon>, asked: &Asked) -> anyhow::Result<Option<Page>> {
    let seen = board.seen();
    let status = &seen.view;
    Ok(Some(match asked.parts().as_slice() {
        [] => overview(board, status, seen.at_ms),
        ["releases"] => Page::new("Releases").live("releases", releases(status)),
        ["releases", channel, number] => return Ok(release(board, asked, status, channel, number)),
        ["artifacts"] => artifacts(board, asked),
        ["mirrors"] if !feeds(board) => Page::new("Mirrors").live("mirrors", mirrors::page(status)),
        ["mirrors"] if status.mirrors.is_empty() => {
            Page::new("Mirrors").live("hosts", hosts::section(status))
        }
        ["mirrors"] => {
            Page::new("Mirrors").live("mirrors", mirrors::page(status)).live("hosts", hosts::section(status))
        }
        ["missing"] => missing(board)?,
        ["import"] => import::page(&board.source, asked.may_act),
        _ => return Ok(None),
    }))
}

/// Whether mirror hosts are fed: by the configuration, so that a page has the same parts for as long as it is open.
fn feeds(board: &Board<Daemon>) -> bool {
    board.source.config.feed.is_some()
}

fn overview(board: &Board<Daemon>, status: &Status, at_ms: u64) -> Page {
    let alarms = status.alarms.iter().map(|alarm| (alarm.id.as_str(), alarm.text.as_str()));
    let history = board.history();
    let disk = page::disk(status.disk.as_ref(), &history, DISK_FREE);
    let plots = |range: Range| {
        let rate = [("received", counts::BYTES, 8.0)];
        let losses = [
            ("lost", counts::LOST, 1.0),
            ("dropped by the kernel", counts::KERNEL_DROPS, 1.0),
            ("repaired", counts::REPAIRED, 1.0),
        ];
        let rate = history.plot("Rate", Unit::BitsPerS, range, at_ms, &rate);
        // A mirror host has no lanes on which something could be lost.
        if status.upstream.is_some() {
            return page::plots(range, &[rate]);
        }
        page::plots(range, &[rate, history.plot("Losses and repairs", Unit::PerS, range, at_ms, &losses)])
    };
    let (minutes, day) = (plots(Range::TenMinutes), plots(Range::Day));
    drop(history);
    let page = Page::new("Overview").live("alarms", page::alarms(alarms)).live("now", current(status));
    let page = match status.mirrors.is_empty() {
        true => page,
        false => page.live("mirrors", mirrors::section(status)),
    };
    let link = status.upstream.as_ref().map(|upstream| hosts::upstream(upstream, status.clock_ms));
    let page = match feeds(board) {
        true => page.live("hosts", hosts::section(status)),
        false => page,
    };
    page.live("lanes", link.unwrap_or_else(|| lanes(status)))
        .live("minutes", minutes)
        .live("day", day)
        .live("disk", disk)
}

/// What is on its way, and then what is served.
fn current(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Releases</h2><div class=\"grid\">");
    let all = || {
        status.channels.iter().flat_map(|channel| channel.releases.iter().rev().map(move |r| (channel, r)))
    };
    let is_served = |release: &ReleaseStatus| release.state == "published";
    let shown = all().filter(|(_, r)| !is_served(r)).chain(all().filter(|(_, r)| is_served(r)));
    let mut is_any = false;
    for (channel, release) in shown {
        is_any = true;
        release_card(&mut out, channel, release);
    }
    if !is_any {
        out.raw("<div class=\"card empty\">Nothing has arrived yet. The sender's first release will show here.</div>");
    }
    out.raw("</div>");
    out
}

fn lanes(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Link</h2><div class=\"grid\">");
    for lane in &status.lanes {
        put!(&mut out, "<div class=\"card\"><div class=\"top\"><h3>" (lane.name) "</h3>");
        lane_chip(&mut out, status, lane);
        out.raw("</div><dl class=\"facts\">");
        let silence = lane.last_ms.map_or("nothing came yet".to_owned(), |last| {
            match status.clock_ms.saturating_sub(last) {
                0..2000 => "last datagram just now".to_owned(),
                ago => format!("last datagram {} ago", Span(Duration::from_millis(ago))),
            }
        });
        figure(&mut out, "Rate", BitsPerS(lane.rate_bits_per_s), silence);
        figure(
            &mut out,
            "Received",
            count(lane.received),
            format!("datagrams, {}", Bytes(lane.received_bytes)),
        );
        figure(&mut out, "Lost on the way", count(lane.lost), share(lane.lost, lane.received));
        let buffer = format!("packets, buffer {}", Bytes(lane.buffer_bytes));
        figure(&mut out, "Kernel drops", count(lane.kernel_drops), buffer);
        let why = format!("{} forged, {} replayed", count(lane.forged), count(lane.replayed));
        figure(&mut out, "Rejected", count(lane.rejected), why);
        put!(&mut out, "</dl><p class=\"dim\">listens on <code>" (lane.listen) "</code></p></div>");
    }
    out.raw("<div class=\"card\"><div class=\"top\"><h3>Error correction, all lanes</h3>");
    let lacking = lacking_blocks(status);
    match lacking {
        0 => chip(&mut out, Mark::Good, "nothing unrepaired"),
        _ => chip(&mut out, Mark::Warn, "blocks are lacking"),
    }
    out.raw("</div><dl class=\"facts\">");
    let decoding = &status.decoding;
    figure(&mut out, "Repaired", count(decoding.repaired), "symbols that were lost");
    figure(&mut out, "Unrepairable", count(lacking), "blocks, after all rounds");
    let collecting = format!("complete, {} under way", count(decoding.collecting));
    figure(&mut out, "Blocks", count(decoding.blocks), collecting);
    figure(&mut out, "Wrong", count(decoding.mismatched), "blocks other than named");
    out.raw("</dl></div></div>");
    out
}

fn lane_chip(out: &mut Html, status: &Status, lane: &LaneStatus) {
    match lane.last_ms.map(|last| status.clock_ms.saturating_sub(last)) {
        None => chip(out, Mark::Idle, "nothing heard yet"),
        Some(SILENCE_MS..) => chip(out, Mark::Bad, "silent"),
        Some(_) if lane.kernel_drops > 0 => chip(out, Mark::Warn, "heard, kernel drops"),
        Some(_) => chip(out, Mark::Good, "heard"),
    }
}

/// A share as a person reads it.
fn share(lost: u64, received: u64) -> String {
    let all = lost + received;
    if all == 0 {
        "datagrams".to_owned()
    } else {
        format!("datagrams, {:.2} %", lost as f64 * 100.0 / all as f64)
    }
}

fn state_chip(out: &mut Html, state: &str) {
    let (mark, word) = match state {
        "published" => (Mark::Good, "published"),
        "arriving" => (Mark::Busy, "arriving"),
        "checking" => (Mark::Busy, "checking"),
        "scanning" => (Mark::Busy, "scanning"),
        "unscanned" => (Mark::Warn, "waits for a scanner"),
        "incomplete" => (Mark::Warn, "incomplete"),
        "no-space" => (Mark::Warn, "held, no space"),
        "damaged" => (Mark::Bad, "damaged"),
        "held" => (Mark::Warn, "held for approval"),
        "refused" => (Mark::Bad, "refused"),
        other => (Mark::Warn, other),
    };
    chip(out, mark, word);
}

fn release_card(out: &mut Html, channel: &ChannelStatus, release: &ReleaseStatus) {
    let name = format!("{} {}", channel.channel, release.number);
    put!(out, "<div class=\"card\" data-release=\"" (name) "\" data-state=\"" (release.state) "\"><div class=\"top\">"
        "<h3><a href=\"/releases/" (encode(channel.channel.as_str())) "/" (release.number) "\">Release " (name) "</a></h3>");
    state_chip(out, &release.state);
    out.raw("</div>");
    progress(out, &format!("release {name}, octets that are here"), release.bytes_held, release.bytes_needed);
    put!(out, "<p class=\"dim\">" (count(release.blocks_held as u64)) " of " (count(release.blocks_needed as u64))
        " blocks, " (Bytes(release.bytes_held)) " of " (Bytes(release.bytes_needed)) ", "
        (count(release.artifacts as u64)) " artifacts</p>");
    if let Some(reason) = &release.reason {
        put!(out, "<p>" (reason) "</p>");
    }
    out.raw("</div>");
}

fn releases(status: &Status) -> Html {
    let mut out = Html::default();
    for channel in &status.channels {
        put!(&mut out, "<h2>Channel " (channel.channel) "</h2><p class=\"dim\">");
        match channel.newest {
            Some(newest) => put!(&mut out, "The sender's newest release is " (newest) ". "),
            None => put!(&mut out, "The sender has named no release yet. "),
        }
        match channel.published {
            Some(published) => put!(&mut out, "Release " (published) " is served.</p>"),
            None => put!(&mut out, "None is served yet.</p>"),
        }
        if channel.releases.is_empty() {
            out.raw("<div class=\"card empty\">No release is here.</div>");
        }
        for release in channel.releases.iter().rev() {
            release_card(&mut out, channel, release);
        }
    }
    out
}

/// The index of a release that is served, kept or on its way.
pub fn index_of(daemon: &Daemon, channel: &Channel, number: ReleaseNo) -> Option<Arc<Index>> {
    let is_it = |index: &&Arc<Index>| (&index.channel, index.number) == (channel, number);
    let arrivals = daemon.publish.view().arrivals;
    let arriving = arrivals.iter().map(|arrival| &arrival.index).find(is_it).cloned();
    arriving.or_else(|| {
        let site = daemon.site.load();
        site.releases().iter().chain(site.kept()).find(is_it).cloned()
    })
}

fn release(
    board: &Board<Daemon>,
    asked: &Asked,
    status: &Status,
    channel: &str,
    number: &str,
) -> Option<Page> {
    let (name, number) = (channel.parse::<Channel>().ok()?, ReleaseNo(number.parse().ok()?));
    let index = index_of(&board.source, &name, number)?;
    let known = status.channels.iter().filter(|channel| channel.channel == name);
    let mut known = known.flat_map(|channel| channel.releases.iter().map(move |release| (channel, release)));
    let mut head = Html::default();
    match known.find(|(_, release)| release.number == number) {
        Some((channel, release)) => release_card(&mut head, channel, release),
        None => {
            head.raw("<div class=\"card\">");
            chip(&mut head, Mark::Idle, "kept");
            head.raw("<p class=\"dim\">It was served before; who began with it can still read it by digest.</p></div>");
        }
    }
    let held: Vec<bool> = index.blocks().map(|block| board.source.ledger.holds(&block)).collect();
    let mut picture = Html::default();
    picture.raw("<h2>Blocks</h2><div class=\"card\">").add(&blocks::draw(&held)).raw("</div>");
    let mut facts = Html::default();
    facts.raw("<h2>What it is</h2><div class=\"card\"><dl class=\"facts\">");
    figure(&mut facts, "Cut", time(index.created_s), "by the sender's clock");
    let baseline = index.baseline.map_or("nothing".to_owned(), |baseline| format!("release {baseline}"));
    figure(&mut facts, "Builds on", baseline, "what the sender took to be here");
    figure(
        &mut facts,
        "Content",
        Bytes(index.blob_bytes()),
        format!("{} blobs", count(index.blobs.len() as u64)),
    );
    figure(&mut facts, "Artifacts", count(index.artifacts.len() as u64), "");
    facts.raw("</dl><p><a href=\"/artifacts\">All artifacts</a></p></div>");
    let page = Page::new(format!("Release {name} {number}"));
    let page = page.live("release", head);
    let waiting = HeldReleases::of(&board.source);
    let page = match waiting.find(&name, Some(number)) {
        Ok(waiting) => page.fixed("approval", held::section(waiting, asked.may_act)),
        Err(_) => page,
    };
    Some(page.live("blocks", picture).fixed("facts", facts))
}

fn artifacts(board: &Board<Daemon>, asked: &Asked) -> Page {
    let (text, kind) = (asked.field("q").to_owned(), asked.field("kind").to_owned());
    let found = search(
        &board.source,
        &board.seen().view.mirrors,
        &Search { text: text.clone(), kind: kind.clone(), page: asked.page() },
    );
    let mut out = Html::default();
    put!(&mut out, "<form class=\"row\" role=\"search\" method=\"get\" action=\"/artifacts\"><div>"
        "<label for=\"q\">Name or digest</label><input id=\"q\" name=\"q\" type=\"search\" value=\"" (text)
        "\" maxlength=\"200\"></div><div><label for=\"kind\">Kind</label><select id=\"kind\" name=\"kind\">");
    for (value, word) in [
        ("", "all"),
        ("file", "files"),
        ("provider", "providers"),
        ("image", "images"),
        ("package", "packages"),
        ("module", "modules"),
    ] {
        put!(&mut out, "<option value=\"" (value) "\"");
        out.raw(if value == kind { " selected" } else { "" });
        put!(&mut out, ">" (word) "</option>");
    }
    out.raw("</select></div><button class=\"main\">Search</button></form>");
    if found.artifacts.is_empty() {
        out.raw("<div class=\"card empty\">Nothing is found.</div>");
        return Page::new("Artifacts").fixed("artifacts", out);
    }
    out.raw(
        "<div class=\"table\"><table><thead><tr><th>Artifact</th><th>Digest</th><th>Upstream's proof</th>",
    );
    out.raw("<th>Release</th><th>State</th><th class=\"num\">Size</th></tr></thead><tbody>");
    for entry in &found.artifacts {
        row(&mut out, entry);
    }
    out.raw("</tbody></table></div>");
    let href = format!("/artifacts?q={}&kind={}&page=", encode(&text), encode(&kind));
    page::pager(&mut out, &href, found.page, found.pages, found.total);
    Page::new("Artifacts").fixed("artifacts", out)
}

fn row(out: &mut Html, entry: &Entry) {
    put!(out, "<tr><td class=\"name\"><small>" (entry.kind) "</small><br>" (entry.name) "</td><td class=\"name\">");
    match entry.digests.as_slice() {
        [one] => put!(out, "<code>" (one.sha256) "</code>"),
        many => {
            put!(out, "<details><summary>" (many.len()) " platforms</summary>");
            for digest in many {
                put!(out, "<p><small>" (digest.of) "</small><br><code>" (digest.sha256) "</code></p>");
            }
            out.raw("</details>");
        }
    }
    put!(out, "</td><td>" (entry.proof) "</td><td><a href=\"/releases/" (encode(entry.channel.as_str())) "/"
        (entry.release) "\">" (entry.channel) " " (entry.release) "</a></td><td>");
    state_chip(out, entry.state);
    for Held { mirror, state } in &entry.mirrors {
        out.raw("<br>");
        mirrors::held_chip(out, mirror, state);
    }
    put!(out, "</td><td class=\"num\">" (Bytes(entry.bytes)) "</td></tr>");
}

fn missing(board: &Board<Daemon>) -> anyhow::Result<Page> {
    let missing = board.source.missing();
    let mut list = Html::default();
    if missing.releases.is_empty() {
        list.raw("<div class=\"card calm\">");
        chip(&mut list, Mark::Good, "Nothing is missing");
        list.raw("<p class=\"dim\">A release that is not whole when its last round is over would show here.</p></div>");
    }
    for release in &missing.releases {
        missing_card(&mut list, release);
    }
    let page = Page::new("Missing").live("missing", list);
    // A mirror host makes none.
    let ticket = board.source.paired.as_ref().map(|_| ticket_of(&board.source)).transpose()?.flatten();
    Ok(match ticket {
        Some(text) => page.fixed("ticket", ticket_section(&text)?),
        None => page,
    })
}

fn missing_card(out: &mut Html, release: &MissingRelease) {
    put!(out, "<div class=\"card\"><div class=\"top\"><h3><a href=\"/releases/" (encode(release.channel.as_str())) "/"
        (release.number) "\">Release " (release.channel) " " (release.number) "</a></h3>");
    chip(out, Mark::Warn, if release.index { "nothing came" } else { "incomplete" });
    out.raw("</div>");
    if release.index {
        out.raw("<p>It was sent, and not even its index was understood.</p></div>");
        return;
    }
    put!(out, "<p>" (count(release.block_count as u64)) " blocks are lacking. In them lie, whole or in part, "
        (count(release.artifacts.len() as u64)) " artifacts:</p><ul>");
    for artifact in release.artifacts.iter().take(NAMED_MAX) {
        put!(out, "<li>" (artifact) "</li>");
    }
    if let Some(more @ 1..) = release.artifacts.len().checked_sub(NAMED_MAX) {
        put!(out, "<li class=\"dim\">and " (count(more as u64)) " more</li>");
    }
    out.raw("</ul></div>");
}

/// The ticket as text and as codes.
fn ticket_section(text: &str) -> anyhow::Result<Html> {
    let mut out = Html::default();
    put!(&mut out, "<h2>Resend ticket</h2><div class=\"card\"><p>Carry this to the low side, where it goes to "
        "<code>diode-sender resend</code> or into the dashboard.</p><pre tabindex=\"0\" aria-label=\"The ticket\">" (text)
        "</pre><div class=\"qr\">");
    let codes = ticket::codes(text)?;
    for (at, code) in codes.iter().enumerate() {
        let (side, of) = (code.size() + 2 * QR_MARGIN, format!("{} of {}", at + 1, codes.len()));
        put!(&mut out, "<figure><svg viewBox=\"0 0 " (side) " " (side) "\" role=\"img\" shape-rendering=\"crispEdges\">"
            "<title>QR code " (of) " of the ticket</title><path fill=\"#000\" d=\"" (modules(code)) "\"/></svg>"
            "<figcaption>" (of) "</figcaption></figure>");
    }
    out.raw("</div></div>");
    Ok(out)
}

/// The dark modules of a code as a path.
fn modules(code: &QrCode) -> String {
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            path.push_str(&format!("M{} {}h1v1h-1z", x + QR_MARGIN, y + QR_MARGIN));
        }
    }
    path
}
