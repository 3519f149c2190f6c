//! Sources on the dashboard and in `/api/v1`: when each is pulled, what the last pull brought, and why not everything.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::Event;
use diodesync::id::ReleaseNo;
use diodesync::quantity::{Bytes, Span};
use diodesync::release::change::Names;
use diodesync_control::ApiError;
use diodesync_control::dashboard::page::{Mark, Page, chip, figure};
use diodesync_control::dashboard::{Board, Html, Kind, Metrics, count, encode, time};
use diodesync_control::put;
use serde::{Deserialize, Serialize};

use super::api::{Shared, by};
use crate::api::Daemon;
use crate::sources::{Problem, Report, SourceDetail, SourceStatus};
use crate::status::Status;

/// Names and problems of one pull that are told; of more it is said how many there are.
const TOLD_MAX: usize = 1000;

/// The handlers.
pub fn routes() -> Router<Arc<Board<Daemon>>> {
    Router::new()
        .route("/api/v1/sources", get(sources))
        .route("/api/v1/sources/{source}", get(source))
        .route("/api/v1/sync", post(sync))
        .route("/sync", post(sync_form))
}

#[derive(Debug, Serialize)]
struct Sources {
    sources: Vec<SourceStatus>,
}

async fn sources(State(board): Shared) -> Json<Sources> {
    Json(Sources { sources: board.seen().view.sources.clone() })
}

/// A source with what its last pull brought.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    status: SourceStatus,
    report: Last,
}

/// A report that is not longer than a page.
#[derive(Debug, Serialize)]
struct Last {
    new: Names,
    unchanged: u64,
    renewed: Names,
    gone: Names,
    refused: Problems,
    failed: Problems,
    bytes: u64,
    new_bytes: u64,
    released: Option<ReleaseNo>,
}

#[derive(Debug, Serialize)]
struct Problems {
    count: usize,
    /// The first of them.
    problems: Vec<Problem>,
}

impl Last {
    fn of(report: Report) -> Self {
        let names = |mut names: Vec<String>| {
            let count = names.len();
            names.truncate(TOLD_MAX);
            Names { count, names }
        };
        let problems = |mut problems: Vec<Problem>| {
            let count = problems.len();
            problems.truncate(TOLD_MAX);
            Problems { count, problems }
        };
        Self {
            new: names(report.new),
            unchanged: report.unchanged,
            renewed: names(report.renewed),
            gone: names(report.gone),
            refused: problems(report.refused),
            failed: problems(report.failed),
            bytes: report.bytes,
            new_bytes: report.new_bytes,
            released: report.released,
        }
    }
}

async fn source(State(board): Shared, Path(name): Path<String>) -> Response {
    match board.source.sources.detail(&name) {
        Some(SourceDetail { status, report }) => {
            Json(Told { status, report: Last::of(report) }).into_response()
        }
        None => {
            let error = serde_json::json!({ "error": "there is no such source here" });
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    }
}

/// What is to be pulled.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncRequest {
    /// Names; all, if there is none.
    sources: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Asked {
    /// What is pulled now.
    sources: Vec<String>,
}

/// Has sources pulled, and does not wait for it.
fn ask(daemon: &Daemon, names: &[String]) -> anyhow::Result<Vec<String>> {
    let names = daemon.sources.named(names)?;
    daemon.audit.tell(&by(), Event::Pull { sources: names.clone() })?;
    daemon.sources.ask(&names);
    Ok(names)
}

async fn sync(State(board): Shared, Json(request): Json<SyncRequest>) -> Result<Json<Asked>, ApiError> {
    let sources = board.work(move |board| ask(&board.source, &request.sources)).await?;
    Ok(Json(Asked { sources }))
}

#[derive(Debug, Deserialize)]
struct SyncForm {
    source: String,
}

async fn sync_form(State(board): Shared, Form(SyncForm { source }): Form<SyncForm>) -> Response {
    let asked = board.work(move |board| ask(&board.source, &[source])).await;
    let said = asked.map(|names| {
        format!("{} is being pulled. What comes of it, the page of the source shows.", names.join(", "))
    });
    board.answer("Pull now", said)
}

/// The list, for the page of all.
pub fn list(status: &Status, may_act: bool) -> Html {
    let mut out = Html::default();
    if status.sources.is_empty() {
        out.raw(
            "<div class=\"card empty\">Nothing is pulled by itself. A <code>[[source]]</code> in <code>sender.toml</code> \
             names an upstream.</div>",
        );
        return out;
    }
    out.raw("<div class=\"grid\">");
    for source in &status.sources {
        card(&mut out, source, status.clock_ms / 1000, may_act);
    }
    out.raw("</div>");
    out
}

/// The page of one; none if there is none of this name.
pub fn page(daemon: &Daemon, name: &str, now_s: u64, may_act: bool) -> Option<Page> {
    let SourceDetail { status, report } = daemon.sources.detail(name)?;
    let mut head = Html::default();
    card(&mut head, &status, now_s, may_act);
    let Last { new, renewed, gone, refused, failed, released, new_bytes, .. } = Last::of(report);
    let mut last = Html::default();
    put!(&mut last, "<h2>" (if status.running { "This pull" } else { "The last pull" }) "</h2>");
    if let Some(number) = released {
        put!(&mut last, "<p>Release <a href=\"/releases/" (encode(status.channel.as_str())) "/" (number) "\">"
            (status.channel) " " (number) "</a> was cut of it, with " (Bytes(new_bytes)) " that were not here before.</p>");
    }
    problems(&mut last, "Failed", &failed);
    problems(&mut last, "Refused", &refused);
    super::pages::list(&mut last, "New", &new);
    super::pages::list(&mut last, "Renewed", &renewed);
    super::pages::list(&mut last, "Gone", &gone);
    Some(Page::new(format!("Source {name}")).live("source", head).live("last", last))
}

fn problems(out: &mut Html, title: &str, problems: &Problems) {
    if problems.count == 0 {
        return;
    }
    put!(out, "<h2>" (title) " <span class=\"n\">" (count(problems.count as u64)) "</span></h2>");
    out.raw("<div class=\"table\"><table><thead><tr><th>What</th><th>Why</th></tr></thead><tbody>");
    for Problem { what, why } in &problems.problems {
        put!(out, "<tr><td class=\"name\">" (what) "</td><td class=\"name\">" (why) "</td></tr>");
    }
    out.raw("</tbody></table></div>");
    if let Some(more @ 1..) = problems.count.checked_sub(problems.problems.len()) {
        put!(out, "<p class=\"dim\">and " (count(more as u64)) " more</p>");
    }
}

/// How a source stands, in one word.
fn state(source: &SourceStatus) -> (Mark, &'static str) {
    match source {
        SourceStatus { running: true, .. } => (Mark::Busy, "being pulled"),
        SourceStatus { last_began_s: None, .. } => (Mark::Idle, "never pulled yet"),
        SourceStatus { failed: 1.., .. } => (Mark::Bad, "failed"),
        SourceStatus { refused: 1.., .. } => (Mark::Warn, "something was refused"),
        SourceStatus { failures: 1.., .. } => (Mark::Bad, "failed"),
        _ => (Mark::Good, "good"),
    }
}

fn card(out: &mut Html, source: &SourceStatus, now_s: u64, may_act: bool) {
    let ago = |then: u64| format!("{} ago", Span(Duration::from_secs(now_s.saturating_sub(then))));
    let (mark, word) = state(source);
    put!(out, "<div class=\"card\" data-source=\"" (source.name) "\" data-state=\"" (word) "\"><div class=\"top\"><h3>"
        "<a href=\"/sources/" (encode(&source.name)) "\">" (source.name) "</a></h3>");
    chip(out, mark, word);
    out.raw("</div><dl class=\"facts\">");
    let good = source.last_good_s.map_or("never wholly".to_owned(), |good| format!("wholly {}", ago(good)));
    figure(out, "Last pull", source.last_began_s.map_or("none yet".to_owned(), time), good);
    match source.next_s {
        None => figure(out, "Next pull", "by hand", "it has no schedule"),
        Some(next) if next <= now_s => figure(out, "Next pull", "now", ""),
        Some(next) => {
            let wait = format!("in {}", Span(Duration::from_secs(next - now_s)));
            figure(out, "Next pull", time(next), wait);
        }
    }
    let unchanged = format!("artifacts, {} unchanged", count(source.unchanged));
    figure(out, "New", count(source.new as u64), unchanged);
    figure(out, "Gone", count(source.gone as u64), "its upstream names them no more");
    let failed = format!("artifacts, {} failed", count(source.failed as u64));
    figure(out, "Refused", count(source.refused as u64), failed);
    figure(out, "Downloaded", Bytes(source.bytes), "");
    out.raw("</dl>");
    if source.running {
        put!(out, "<p>" (source.message) "</p>");
    }
    if let Some(Problem { what, why }) = &source.problem {
        put!(out, "<p><strong>" (what) "</strong>: " (why) "</p>");
    }
    if source.failures > 1 {
        put!(out, "<p class=\"dim\">" (source.failures) " pulls in a row did not bring everything.</p>");
    }
    put!(out, "<p class=\"dim\">" (source.kind) ", for channel " (source.channel) "</p>");
    if may_act && !source.running {
        put!(out, "<form method=\"post\" action=\"/sync\"><input type=\"hidden\" name=\"source\" value=\"" (source.name)
            "\"><button aria-label=\"Pull " (source.name) " now\">Pull now</button></form>");
    }
    out.raw("</div>");
}

/// For Prometheus. A source that never succeeded has no time of success.
pub fn metrics(sources: &[SourceStatus], out: &mut Metrics) {
    let mut put = |kind, name, help, value: fn(&SourceStatus) -> Option<u64>| {
        let labels = |source: &SourceStatus| vec![("source", source.name.clone())];
        let samples = sources.iter().filter_map(|source| Some((labels(source), value(source)?)));
        out.put(kind, name, help, samples.collect::<Vec<_>>());
    };
    put(
        Kind::Counter,
        "diodesync_sender_source_pulls_total",
        "Pulls of a source that ended since the start.",
        |s| Some(s.runs),
    );
    put(
        Kind::Counter,
        "diodesync_sender_source_failures_total",
        "Those of them that did not bring everything.",
        |s| Some(s.failed_runs),
    );
    put(
        Kind::Gauge,
        "diodesync_sender_source_failing_pulls",
        "Pulls in a row that did not bring everything, up to the last one.",
        |s| Some(s.failures.into()),
    );
    put(
        Kind::Gauge,
        "diodesync_sender_source_last_success_timestamp_seconds",
        "When everything that the upstream names was here, since 1970.",
        |s| s.last_good_s,
    );
    put(
        Kind::Gauge,
        "diodesync_sender_source_next_timestamp_seconds",
        "When it is pulled next, since 1970; left out if only by hand.",
        |s| s.next_s,
    );
    put(Kind::Gauge, "diodesync_sender_source_running", "1 while it is being pulled.", |s| {
        Some(s.running.into())
    });
}

#[cfg(test)]
mod tests {
    use diodesync::id::Channel;

    use super::*;

    fn source() -> SourceStatus {
        SourceStatus {
            name: "registry".to_owned(),
            kind: "terraform".to_owned(),
            channel: Channel::main(),
            running: false,
            message: String::new(),
            bytes: 7,
            new: 1,
            unchanged: 2,
            gone: 0,
            refused: 0,
            failed: 0,
            runs: 4,
            failed_runs: 1,
            failures: 0,
            last_began_s: Some(100),
            last_good_s: Some(101),
            next_s: Some(400),
            problem: None,
        }
    }

    #[test]
    fn a_word_says_how_a_source_stands() {
        let word = |source: SourceStatus| state(&source).1;
        assert_eq!(word(source()), "good");
        assert_eq!(word(SourceStatus { running: true, failed: 1, ..source() }), "being pulled");
        assert_eq!(word(SourceStatus { last_began_s: None, ..source() }), "never pulled yet");
        assert_eq!(word(SourceStatus { refused: 1, failures: 1, ..source() }), "something was refused");
        assert_eq!(word(SourceStatus { failed: 1, refused: 1, failures: 1, ..source() }), "failed");
    }

    #[test]
    fn what_an_upstream_says_stays_text_and_who_only_looks_gets_no_button() {
        let evil = "<img src=x>";
        let problem = Some(Problem { what: evil.to_owned(), why: evil.to_owned() });
        let told = SourceStatus { problem, failed: 1, failures: 3, ..source() };
        let mut out = Html::default();
        card(&mut out, &told, 160, false);
        assert!(!out.as_str().contains("<img") && !out.as_str().contains("<form"), "{}", out.as_str());
        assert!(out.as_str().contains("wholly 59 s ago") && out.as_str().contains("in 4 min 0 s"));
        let mut out = Html::default();
        card(&mut out, &told, 160, true);
        assert!(out.as_str().contains("action=\"/sync\""));
    }

    #[test]
    fn a_long_report_is_told_in_part_with_its_count() {
        let new = (0..TOLD_MAX + 5).map(|n| n.to_string()).collect();
        let last = Last::of(Report { new, ..Report::default() });
        assert_eq!((last.new.count, last.new.names.len()), (TOLD_MAX + 5, TOLD_MAX));
    }

    #[test]
    fn a_source_that_never_succeeded_has_no_time_of_success() {
        let mut out = Metrics::default();
        metrics(&[SourceStatus { last_good_s: None, ..source() }], &mut out);
        let text = out.into_text();
        assert!(text.contains("diodesync_sender_source_failures_total{source=\"registry\"} 1\n"), "{text}");
        assert!(!text.contains("last_success"), "{text}");
    }
}
