//! What an approver sees of a release that waits: what it changes, what is signed, and where that is handed in.

use diodesync::quantity::Bytes;
use diodesync::release::change::Names;
use diodesync_control::dashboard::page::figure;
use diodesync_control::dashboard::{Html, count};
use diodesync_control::put;

use crate::approve::HeldRelease;

/// Names of a kind of change that are shown.
const NAMES_SHOWN: usize = 200;

/// The section of a release that waits.
pub fn section(held: &HeldRelease, may_act: bool) -> Html {
    let (change, needed) = (&held.change, held.quorum.count());
    let mut out = Html::default();
    out.raw("<h2>Approval</h2><div class=\"card\" data-held><dl class=\"facts\">");
    let approved =
        if held.approved.is_empty() { "by nobody yet".to_owned() } else { held.approved.join(", ") };
    figure(&mut out, "Approvals", format!("{} of {needed}", held.approved.len()), approved);
    let against =
        change.against.map_or("nothing is served yet".to_owned(), |n| format!("against release {n}"));
    figure(&mut out, "New content", Bytes(change.new_bytes), against);
    figure(&mut out, "Added", count(change.added.count as u64), "artifacts");
    figure(&mut out, "Changed", count(change.changed.count as u64), "artifacts");
    figure(&mut out, "Removed", count(change.removed.count as u64), "artifacts");
    out.raw("</dl>");
    if let Some(scan) = &held.scan {
        put!(&mut out, "<p>Scanned by " (scan) "</p>");
    }
    for why in &held.void {
        put!(&mut out, "<p>Does not count: " (why) "</p>");
    }
    for (title, names) in
        [("Added", &change.added), ("Changed", &change.changed), ("Removed", &change.removed)]
    {
        list(&mut out, title, names);
    }
    put!(&mut out, "<details><summary>What is signed</summary><pre tabindex=\"0\" aria-label=\"The request\">"
        (held.to_request()) "</pre></details><p class=\"dim\">Where the key is: <code>diode-receiver approve --offline "
        "REQUEST --key KEY</code>, or <code>reject … --why TEXT</code>.</p>");
    if may_act {
        out.raw(
            "<form method=\"post\" action=\"/decide\" class=\"stack\"><label for=\"decision\">What an approver has \
             signed</label><textarea id=\"decision\" name=\"decision\" required spellcheck=\"false\"></textarea>\
             <button class=\"main\">Hand in</button></form>",
        );
    }
    out.raw("</div>");
    out
}

fn list(out: &mut Html, title: &str, names: &Names) {
    if names.count == 0 {
        return;
    }
    put!(out, "<details><summary>" (title) ": " (count(names.count as u64)) "</summary><ul>");
    for name in names.names.iter().take(NAMES_SHOWN) {
        put!(out, "<li>" (name) "</li>");
    }
    if let Some(more @ 1..) = names.count.checked_sub(NAMES_SHOWN.min(names.names.len())) {
        put!(out, "<li class=\"dim\">and " (count(more as u64)) " more</li>");
    }
    out.raw("</ul></details>");
}
