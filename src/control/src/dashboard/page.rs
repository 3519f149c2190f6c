//! What all pages of both sides look like, and the parts that they share.

use diodesync::pack::Disk;
use diodesync::quantity::{Bytes, Span};

use super::history::History;
use super::html::{Html, count, encode, time};
use super::plot::{Plot, Range};
use crate::put;

/// A part of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name in the page.
    pub id: &'static str,
    /// Whether it changes by itself while the page is open.
    pub is_live: bool,
    /// What is in it.
    pub html: Html,
}

/// A page without its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What it is.
    pub title: String,
    /// Its parts.
    pub sections: Vec<Section>,
}

impl Page {
    /// Without any part.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), sections: Vec::new() }
    }

    /// Adds a part that changes by itself.
    pub fn live(mut self, id: &'static str, html: Html) -> Self {
        self.sections.push(Section { id, is_live: true, html });
        self
    }

    /// Adds a part that stays.
    pub fn fixed(mut self, id: &'static str, html: Html) -> Self {
        self.sections.push(Section { id, is_live: false, html });
        self
    }
}

/// What stands around a page.
#[derive(Debug)]
pub struct Frame<'a> {
    /// `Sender` or `Receiver`.
    pub side: &'static str,
    /// `Low side` or `High side`.
    pub place: &'static str,
    /// The link.
    pub link: String,
    /// The program's version.
    pub version: &'static str,
    /// The paths and names of the pages.
    pub pages: &'static [(&'static str, &'static str)],
    /// The path of this page.
    pub path: &'a str,
    /// What the live parts are asked for by: the path and the query.
    pub asked: &'a str,
    /// When what is shown was seen, seconds since 1970.
    pub seen_s: u64,
    /// Whether there can be someone who may do more than look, and whether this is one.
    pub access: (bool, bool),
}

impl Frame<'_> {
    /// The whole document.
    pub fn document(&self, page: &Page) -> String {
        let mut out = Html::default();
        put!(&mut out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            "<meta name=\"color-scheme\" content=\"light dark\"><title>" (page.title) " · Diodesync " (self.side)
            "</title><link rel=\"stylesheet\" href=\"/assets/style.css\"><link rel=\"icon\" href=\"/assets/icon.svg\">"
            "<script src=\"/assets/live.js\" defer></script></head>\n");
        let is_live = page.sections.iter().any(|section| section.is_live);
        if is_live {
            put!(&mut out, "<body data-live=\"/live?page=" (encode(self.asked)) "\">");
        } else {
            out.raw("<body>");
        }
        put!(&mut out, "<a class=\"skip\" href=\"#main\">Skip to content</a><header><div class=\"bar\">"
            "<a class=\"brand\" href=\"/\"><svg viewBox=\"0 0 32 32\" aria-hidden=\"true\">"
            "<path d=\"M4 16h6M24 16h4M10 8v16l13-8zM24 8v16\"/></svg><span>Diodesync <b>" (self.side)
            "</b></span></a><span class=\"place\">" (self.place) "</span><nav aria-label=\"Pages\">");
        for (path, name) in self.pages {
            let is_here = *path == self.path || *path != "/" && self.path.starts_with(path);
            put!(&mut out, "<a href=\"" (path) "\"");
            out.raw(if is_here { " aria-current=\"page\"" } else { "" });
            put!(&mut out, ">" (name) "</a>");
        }
        out.raw("</nav>");
        match self.access {
            (true, true) => out.raw(
                "<form method=\"post\" action=\"/sign-out\" class=\"sign\"><button>Sign out</button></form>",
            ),
            (true, false) => out.raw("<a class=\"sign\" href=\"/sign-in\">Sign in</a>"),
            (false, _) => out.raw("<span class=\"sign dim\">read-only</span>"),
        };
        put!(&mut out, "</div></header>\n<main id=\"main\"><div class=\"head\"><h1>" (page.title) "</h1>");
        if is_live {
            put!(&mut out, "<p id=\"when\" class=\"dim\" role=\"status\">as of " (clock(self.seen_s)) " UTC</p>");
        }
        out.raw("</div>\n");
        for section in &page.sections {
            put!(&mut out, "<section id=\"" (section.id) "\">");
            out.add(&section.html).raw("</section>\n");
        }
        put!(&mut out, "</main>\n<footer><span>Diodesync " (self.version) " · link <code>" (self.link) "</code></span><span>"
            "<a href=\"/api/v1/openapi.json\">API</a> · <a href=\"/metrics\">Metrics</a></span></footer></body></html>\n");
        out.into_string()
    }
}

/// Hours, minutes and seconds of a day.
fn clock(time_s: u64) -> String {
    let s = time_s % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Nothing to do.
    Idle,
    /// Someone should look.
    Warn,
    /// It does not work.
    Bad,
}

/// A status: a shape and a word, and a colour besides.
pub fn chip(out: &mut Html, mark: Mark, word: impl std::fmt::Display) {
    let (class, shape): (&'static str, &'static str) = match mark {
        Mark::Good => {
            ("good", "<circle cx=\"6\" cy=\"6\" r=\"5\"/><path class=\"in\" d=\"M3.4 6.2 5.3 8l3.4-3.8\"/>")
        }
        Mark::Busy => (
            "busy",
            "<circle class=\"ring\" cx=\"6\" cy=\"6\" r=\"4.2\"/><path d=\"M6 1.8a4.2 4.2 0 0 1 0 8.4z\"/>",
        ),
        Mark::Idle => ("idle", "<circle class=\"ring\" cx=\"6\" cy=\"6\" r=\"4.2\"/>"),
        Mark::Warn => ("warn", "<path d=\"M6 .8 11.6 11H.4z\"/><path class=\"in\" d=\"M6 4.4v3M6 8.8v.6\"/>"),
        Mark::Bad => (
            "bad",
            "<path d=\"M3.6.6h4.8l3 3v4.8l-3 3H3.6l-3-3V3.6z\"/><path class=\"in\" d=\"m4 4 4 4m0-4-4 4\"/>",
        ),
    };
    put!(out, "<span class=\"chip " (class) "\"><svg viewBox=\"0 0 12 12\" aria-hidden=\"true\">");
    out.raw(shape);
    put!(out, "</svg>" (word) "</span>");
}

/// A number with its name.
pub fn figure(out: &mut Html, name: &str, value: impl std::fmt::Display, note: impl std::fmt::Display) {
    put!(out, "<div class=\"fact\"><dt>" (name) "</dt><dd>" (value) " <small>" (note) "</small></dd></div>");
}

/// A bar with what it says in words.
pub fn progress(out: &mut Html, label: &str, done: u64, total: u64) {
    let percent = percent(done, total);
    put!(out, "<span class=\"progress\"><progress aria-label=\"" (label) "\" max=\"" (total.max(1)) "\" value=\""
        (if total == 0 { 1 } else { done.min(total) }) "\">" (percent) " %</progress><b>" (percent) " %</b></span>");
}

/// Whole percents; 100 only when nothing is lacking.
pub fn percent(done: u64, total: u64) -> u64 {
    if total == 0 { 100 } else { (u128::from(done.min(total)) * 100 / u128::from(total)) as u64 }
}

/// What needs an operator: kind and text.
pub fn alarms<'a>(alarms: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Html {
    let mut out = Html::default();
    if alarms.len() == 0 {
        out.raw("<div class=\"card calm\">");
        chip(&mut out, Mark::Good, "No alarms");
        out.raw("</div>");
        return out;
    }
    put!(&mut out, "<h2>Alarms <span class=\"n\">" (alarms.len()) "</span></h2><ul class=\"alarms\">");
    for (id, text) in alarms {
        out.raw("<li>");
        chip(&mut out, Mark::Warn, id);
        put!(&mut out, "<p>" (text) "</p></li>");
    }
    out.raw("</ul>");
    out
}

/// Plots of one time beside each other.
pub fn plots(range: Range, plots: &[Plot]) -> Html {
    let mut out = Html::default();
    out.raw(match range {
        Range::TenMinutes => "<h2>Last ten minutes</h2><div class=\"grid\">",
        Range::Day => "<h2>Last day</h2><div class=\"grid\">",
    });
    for plot in plots {
        out.raw("<div class=\"card\">").add(&plot.draw()).raw("</div>");
    }
    out.raw("</div>");
    out
}

/// The disk, and the day on which it will be full.
pub fn disk(disk: Option<&Disk>, history: &History, gauge: usize) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Disk</h2><div class=\"card\">");
    let Some(disk) = disk else {
        chip(&mut out, Mark::Bad, "It cannot be measured; see the alarms");
        out.raw("</div>");
        return out;
    };
    let used = disk.total_bytes.saturating_sub(disk.free_bytes);
    progress(&mut out, "disk in use", used, disk.total_bytes);
    out.raw("<dl class=\"facts\">");
    let reserve = format!("of {}, {} kept back", Bytes(disk.total_bytes), Bytes(disk.reserve_bytes));
    figure(&mut out, "Free", Bytes(disk.free_bytes), reserve);
    figure(
        &mut out,
        "Packs",
        Bytes(disk.packs_bytes),
        format!("{} given back since the start", Bytes(disk.freed_bytes)),
    );
    match history.full_at_s(gauge, disk.reserve_bytes) {
        Some((at_s, span_ms)) => {
            let span = Span(std::time::Duration::from_millis(span_ms));
            figure(&mut out, "Full on", time(at_s), format!("at the pace of the last {span}"));
        }
        None => figure(&mut out, "Full on", "no day in sight", "by what half an hour to a day show"),
    }
    put!(&mut out, "</dl><p class=\"dim\"><code>" (disk.path.display()) "</code></p></div>");
    out
}

/// Links to the pages of a long list. `href` is a path with a query, to which the number of a page is added.
pub fn pager(out: &mut Html, href: &str, page: usize, pages: usize, total: usize) {
    put!(out, "<nav class=\"pager\" aria-label=\"Pages of the list\"><span>" (count(total as u64)) " in all, page "
        (page) " of " (pages.max(1)) "</span>");
    if page > 1 {
        put!(out, "<a rel=\"prev\" href=\"" (href) (page - 1) "\">← Previous</a>");
    }
    if page < pages {
        put!(out, "<a rel=\"next\" href=\"" (href) (page + 1) "\">Next →</a>");
    }
    out.raw("</nav>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_elsewhere_stay_text_wherever_they_stand() {
        let evil = "\"><img src=x onerror=alert(1)>";
        let mut html = Html::default();
        chip(&mut html, Mark::Bad, evil);
        figure(&mut html, evil, evil, evil);
        progress(&mut html, evil, 1, 2);
        pager(&mut html, evil, 2, 3, 100);
        html.add(&alarms([(evil, evil)].into_iter()));
        let page = Page::new(evil).live("x", html);
        let frame = Frame {
            side: "Sender",
            place: "Low side",
            link: evil.to_owned(),
            version: "0",
            pages: &[("/", "Overview")],
            path: "/",
            asked: evil,
            seen_s: 0,
            access: (false, false),
        };
        let document = frame.document(&page);
        assert!(!document.contains("<img"), "{document}");
        assert!(!document.contains(" style=") && !document.contains("<script>"), "the policy would drop it");
    }

    #[test]
    fn all_of_it_is_said_only_of_all_of_it() {
        assert_eq!(
            [percent(0, 3), percent(999, 1000), percent(1000, 1000), percent(0, 0)],
            [0, 99, 100, 100]
        );
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(clock(86_399), "23:59:59");
    }
}
