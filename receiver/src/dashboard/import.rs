//! The page of imports from media: what is under way, and where volumes are handed in ([`super::hand_in`]).

use diodesync::id::ExportId;
use diodesync_control::dashboard::page::{Mark, Page, chip, figure, progress};
use diodesync_control::dashboard::{Html, count, time};
use diodesync_control::put;

use super::hand_in::{Finished, FormDone};
use crate::api::Daemon;
use crate::import::{Stuck, UnderWay, VolumeLack};

/// What came of a form.
pub fn outcome(FormDone { files, finished }: &FormDone) -> Html {
    let mut out = Html::default();
    out.raw("<div class=\"table\"><table><thead><tr><th>File</th><th class=\"num\">Pieces</th>");
    out.raw("<th class=\"num\">New</th><th class=\"num\">Damaged</th></tr></thead><tbody>");
    for (name, taken) in files {
        put!(&mut out, "<tr><td class=\"name\">" (name) "</td><td class=\"num\">" (count(taken.slots)) "</td><td class=\"num\">"
            (count(taken.new)) "</td><td class=\"num\">" (count(taken.damaged.len() as u64)) "</td></tr>");
    }
    out.raw("</tbody></table></div><div class=\"card\"><div class=\"top\">");
    put!(&mut out, "<h3>Export " (finished.export) "</h3>");
    match finished {
        Finished { was_whole: true, .. } => chip(&mut out, Mark::Good, "all of it came before"),
        Finished { missing_slots: 0, .. } => chip(&mut out, Mark::Good, "everything is here"),
        _ => chip(&mut out, Mark::Warn, "not whole yet"),
    }
    out.raw("</div>");
    if finished.repaired > 0 {
        put!(&mut out, "<p>" (count(finished.repaired)) " pieces were repaired by parity.</p>");
    }
    if !finished.was_whole {
        lacks(&mut out, &finished.missing);
    }
    for why in &finished.dropped {
        put!(&mut out, "<p>Not kept: " (why) "</p>");
    }
    out.raw("<p><a href=\"/import\">Hand in more</a> · <a href=\"/\">Overview</a></p></div>");
    out
}

fn lacks(out: &mut Html, missing: &[VolumeLack]) {
    if missing.is_empty() {
        return;
    }
    out.raw("<ul>");
    for VolumeLack { volume, slots } in missing {
        put!(out, "<li>Volume " (format_args!("{volume:03}")) ": " (count(*slots)) " pieces are missing</li>");
    }
    out.raw("</ul>");
}

/// The page.
pub fn page(daemon: &Daemon, may_act: bool) -> Page {
    let page = Page::new("Import").live("imports", under_way(&daemon.imports.under_way(false), may_act));
    let mut out = Html::default();
    if may_act {
        // The script puts a choice of whole folders in, and lets files come without a manifest.
        out.raw(
            "<h2>Hand in volumes</h2><div class=\"card\"><form method=\"post\" action=\"/hand-in\" \
             enctype=\"multipart/form-data\" class=\"stack\" id=\"import-form\">\
             <p>A volume is a folder <code>diodesync-EXPORT-NNN</code> on a medium that this browser can reach. Volumes may come \
             in any order, on different days; what came is kept.</p>\
             <div id=\"folder-field\" hidden><label for=\"folder\">The whole folder, or the whole medium</label>\
             <input id=\"folder\" type=\"file\" multiple webkitdirectory></div>\
             <label for=\"manifest\">A volume's file <code>manifest</code></label>\
             <input id=\"manifest\" name=\"manifest\" type=\"file\" required>\
             <label for=\"slots\">Its files <code>.slots</code></label>\
             <input id=\"slots\" name=\"slots\" type=\"file\" multiple required>\
             <button class=\"main\">Hand in</button></form></div>\
             <div id=\"outcome\" aria-live=\"polite\"></div><script src=\"/assets/import.js\" defer></script>",
        );
    } else {
        out.raw(
            "<h2>Hand in volumes</h2><div class=\"card\"><p>On this host: <code>diode-receiver import DIR</code>, where DIR is \
             the folder where the medium is mounted. Who has the token of this dashboard can sign in and hand volumes in from \
             the browser.</p></div>",
        );
    }
    page.fixed("hand-in", out)
}

fn throw_away(out: &mut Html, export: ExportId, sure: bool) {
    out.raw("<form method=\"post\" action=\"/discard-import\">");
    if sure {
        out.raw("<input type=\"hidden\" name=\"sure\" value=\"true\">");
    }
    put!(out, "<input type=\"hidden\" name=\"export\" value=\"" (export) "\"><button aria-label=\"Throw away what came of export "
        (export) "\">Throw away" (if sure { "" } else { "…" }) "</button></form>");
}

/// What is asked before what came of an import is thrown away.
pub fn are_you_sure(export: ExportId) -> Html {
    let mut out = Html::default();
    put!(&mut out, "<div class=\"card\"><h3>Export " (export) "</h3><p>What came of it in part is thrown away and must be read from \
        its media again. Blocks that were whole stay with the releases.</p>");
    throw_away(&mut out, export, true);
    out.raw("<p><a href=\"/import\">Keep it</a></p></div>");
    out
}

fn under_way(UnderWay { imports, stuck }: &UnderWay, may_act: bool) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Under way</h2>");
    if imports.is_empty() && stuck.is_empty() {
        out.raw(
            "<div class=\"card empty\">No import is under way. What came on media and was whole is among the releases.</div>",
        );
    }
    for import in imports {
        put!(&mut out, "<div class=\"card\" data-export=\"" (import.export) "\"><div class=\"top\"><h3>Export "
            (import.export) "</h3>");
        chip(&mut out, Mark::Busy, "not whole yet");
        out.raw("</div>");
        let here = import.data_slots.saturating_sub(import.missing_slots);
        progress(&mut out, "pieces that are here", here.into(), import.data_slots.into());
        out.raw("<dl class=\"facts\">");
        figure(&mut out, "Made", time(import.made_s), "by the sender's clock");
        figure(&mut out, "Pieces", count(here), format!("of {}", count(import.data_slots)));
        figure(
            &mut out,
            "Volumes",
            count(import.missing.len() as u64),
            format!("of {} bring something new", import.volumes),
        );
        out.raw("</dl>");
        lacks(&mut out, &import.missing);
        out.raw("<p class=\"dim\">Parity may make up for some of it.</p>");
        if may_act {
            throw_away(&mut out, import.export, false);
        }
        out.raw("</div>");
    }
    for Stuck { export, why } in stuck {
        put!(&mut out, "<div class=\"card\" data-export=\"" (export) "\"><div class=\"top\"><h3>Export " (export) "</h3>");
        chip(&mut out, Mark::Bad, "its state cannot be read now");
        put!(&mut out, "</div><p>" (why) "</p><p class=\"dim\">To hand in one of its volumes again may mend it.</p>");
        if may_act {
            throw_away(&mut out, *export, false);
        }
        out.raw("</div>");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::Taken;

    #[test]
    fn what_is_missing_is_told_by_volume() {
        let missing = vec![VolumeLack { volume: 2, slots: 5 }];
        let taken = Taken { slots: 3, new: 2, damaged: vec![1] };
        let finished = Finished {
            export: ExportId([1; 8]),
            repaired: 1,
            missing_slots: 5,
            missing,
            dropped: vec!["<b>no room</b>".to_owned()],
            was_whole: false,
        };
        let text = outcome(&FormDone { files: vec![("<i>.slots".to_owned(), taken)], finished });
        for expected in ["Volume 002: 5 pieces are missing", "not whole yet", "1 pieces were repaired"] {
            assert!(text.as_str().contains(expected), "{expected:?} is not in {}", text.as_str());
        }
        assert!(!text.as_str().contains("<b>") && !text.as_str().contains("<i>"), "{}", text.as_str());
    }
}
