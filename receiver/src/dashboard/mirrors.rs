//! The site's own mirrors on the dashboard, in `/api/v1` and in `/metrics`: what each holds, whether it is behind, why, and
//! when it is tried again. What is shown each has said of itself ([`crate::mirror`]), whatever process it is in.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{Bytes, Span};
use diodesync::release::ArtifactName;
use diodesync_control::dashboard::page::{Mark, chip, figure};
use diodesync_control::dashboard::{Board, Html, Kind, Metrics, count, time};
use diodesync_control::put;
use serde::Serialize;

use super::api::Shared;
use crate::api::Daemon;
use crate::mirror::{MirrorConfig, MirrorStatus};
use crate::status::Status;

/// The handlers.
pub fn routes() -> Router<Arc<Board<Daemon>>> {
    Router::new().route("/api/v1/mirrors", get(mirrors))
}

#[derive(Debug, Serialize)]
struct MirrorList {
    mirrors: Vec<MirrorStatus>,
}

async fn mirrors(State(board): Shared) -> Json<MirrorList> {
    Json(MirrorList { mirrors: board.seen().view.mirrors.clone() })
}

/// Where an artifact is of a mirror that is to hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The mirror.
    pub mirror: String,
    /// held, behind (the mirror cannot be brought up to date), unknown (nothing pushes to it), or waiting.
    pub state: &'static str,
}

/// Which mirrors are to hold a published artifact, and whether they do. A mirror counts as one that does when it was found to
/// hold the whole release.
pub fn held(
    mirrors: &[MirrorConfig],
    states: &[MirrorStatus],
    name: &ArtifactName,
    release: &(Channel, ReleaseNo),
) -> Vec<Held> {
    let taking = mirrors.iter().filter(|mirror| mirror.kind.takes(name));
    let held = taking.filter_map(|mirror| {
        let said = states.iter().find(|said| said.name == mirror.name)?;
        let state = match said {
            said if said.state == "unknown" => "unknown",
            said if said.holds.contains(release) => "held",
            said if said.reason.is_some() => "behind",
            _ => "waiting",
        };
        Some(Held { mirror: mirror.name.clone(), state })
    });
    held.collect()
}

/// One of [`Held`].
pub fn held_chip(out: &mut Html, mirror: &str, state: &'static str) {
    match state {
        "held" => chip(out, Mark::Good, format_args!("in {mirror}")),
        "behind" => chip(out, Mark::Warn, format_args!("not in {mirror}, which is behind")),
        "unknown" => chip(out, Mark::Warn, format_args!("in {mirror} or not: nothing pushes to it")),
        _ => chip(out, Mark::Busy, format_args!("not in {mirror} yet")),
    }
}

/// The page of all mirrors.
pub fn page(status: &Status) -> Html {
    if status.mirrors.is_empty() {
        let mut out = Html::default();
        out.raw(
            "<div class=\"card empty\">This gateway is the only mirror. A <code>[[mirror]]</code> in \
             <code>receiver.toml</code> has a registry or a tree of files follow it, a <code>[feed]</code> other hosts.</div>",
        );
        return out;
    }
    cards(status)
}

/// The section of the overview.
pub fn section(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<h2>Mirrors of the site</h2>").add(&cards(status));
    out
}

fn cards(status: &Status) -> Html {
    let mut out = Html::default();
    out.raw("<div class=\"grid\">");
    for mirror in &status.mirrors {
        card(&mut out, mirror, status.clock_ms);
    }
    out.raw("</div>");
    out
}

fn card(out: &mut Html, mirror: &MirrorStatus, clock_ms: u64) {
    let since = |ms: u64| Span(Duration::from_millis(clock_ms.saturating_sub(ms)));
    put!(out, "<div class=\"card\" data-mirror=\"" (mirror.name) "\" data-state=\"" (mirror.state)
        "\"><div class=\"top\"><h3>" (mirror.name) "</h3>");
    match mirror.state.as_str() {
        "current" => chip(out, Mark::Good, "up to date"),
        "behind" => chip(out, Mark::Bad, "behind"),
        "unknown" => chip(out, Mark::Bad, "not known"),
        "working" => chip(out, Mark::Busy, "being brought up to date"),
        "starting" => chip(out, Mark::Idle, "not heard of yet"),
        other => chip(out, Mark::Warn, other),
    }
    out.raw("</div><dl class=\"facts\">");
    figure(out, "Holds", releases(&mirror.holds), format!("{} artifacts", count(mirror.artifacts)));
    figure(out, "Published", releases(&mirror.published), "what it should hold");
    let compared = mirror.current_ms.map_or("never".to_owned(), |ms| format!("{} ago", since(ms)));
    figure(out, "Compared", compared, "and found to hold everything");
    match mirror.failed_ms {
        Some(ms) => figure(
            out,
            "Last failure",
            time(ms / 1000),
            format!("{} since the start", count(mirror.failures)),
        ),
        None => figure(out, "Last failure", "none", ""),
    }
    if let Some(retry_ms) = mirror.retry_ms {
        let wait = Span(Duration::from_millis(retry_ms.saturating_sub(clock_ms)));
        figure(out, "Next try", time(retry_ms / 1000), format!("in {wait}"));
    }
    figure(out, "Pushed", Bytes(mirror.pushed_bytes), "since the start");
    out.raw("</dl>");
    if let Some(doing) = &mirror.doing {
        put!(out, "<p>" (doing) "</p>");
    }
    match (&mirror.reason, mirror.behind_since_ms) {
        (Some(reason), _) if mirror.state == "unknown" => put!(out, "<p>" (reason) "</p>"),
        (Some(reason), Some(ms)) => put!(out, "<p>Behind for " (since(ms)) ": " (reason) "</p>"),
        (Some(reason), None) => put!(out, "<p>Behind: " (reason) "</p>"),
        (None, _) => {
            if let Some(failure) = &mirror.failure {
                put!(out, "<p class=\"dim\">What failed last, and is over: " (failure) "</p>");
            }
        }
    }
    if !mirror.notes.is_empty() {
        put!(out, "<details><summary>" (mirror.notes.len()) " notes</summary><ul>");
        for note in &mirror.notes {
            put!(out, "<li>" (note) "</li>");
        }
        out.raw("</ul></details>");
    }
    put!(out, "<p class=\"dim\">" (mirror.kind) " <code>" (mirror.target) "</code></p></div>");
}

/// Releases as a person reads them.
pub fn releases(releases: &[(Channel, ReleaseNo)]) -> String {
    let names: Vec<String> = releases.iter().map(|(channel, number)| format!("{channel} {number}")).collect();
    if names.is_empty() { "nothing yet".to_owned() } else { names.join(", ") }
}

/// For Prometheus.
pub fn metrics(mirrors: &[MirrorStatus], out: &mut Metrics) {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let mut put = |kind, name, help, value: &dyn Fn(&MirrorStatus) -> Option<f64>| {
        let labels = |mirror: &MirrorStatus| vec![("mirror", mirror.name.clone())];
        let samples = mirrors.iter().filter_map(|mirror| Some((labels(mirror), value(mirror)?)));
        out.put(kind, name, help, samples.collect::<Vec<_>>());
    };
    put(
        Kind::Gauge,
        "diodesync_receiver_mirror_behind",
        "1 while a mirror lacks something that is published and could not be brought up to date, or nothing pushes to it.",
        &|mirror| Some(f64::from(u8::from(mirror.reason.is_some()))),
    );
    put(
        Kind::Gauge,
        "diodesync_receiver_mirror_behind_since_timestamp_seconds",
        "Since when it is so, since 1970.",
        &|mirror| mirror.behind_since_ms.map(seconds),
    );
    put(
        Kind::Gauge,
        "diodesync_receiver_mirror_last_success_timestamp_seconds",
        "When it was last found to hold everything, since 1970.",
        &|mirror| mirror.current_ms.map(seconds),
    );
    put(
        Kind::Gauge,
        "diodesync_receiver_mirror_retry_timestamp_seconds",
        "When it is tried again after a failure, since 1970.",
        &|mirror| mirror.retry_ms.map(seconds),
    );
    put(
        Kind::Counter,
        "diodesync_receiver_mirror_failures_total",
        "Tries that failed since the start.",
        &|mirror| Some(mirror.failures as f64),
    );
    put(
        Kind::Counter,
        "diodesync_receiver_mirror_pushed_bytes_total",
        "Octets that were sent or written since the start.",
        &|mirror| Some(mirror.pushed_bytes as f64),
    );
    let holds = mirrors.iter().flat_map(|mirror| {
        mirror.holds.iter().map(|(channel, number)| {
            (vec![("mirror", mirror.name.clone()), ("channel", channel.to_string())], number.0)
        })
    });
    out.put(
        Kind::Gauge,
        "diodesync_receiver_mirror_release",
        "The number of the release that a mirror holds.",
        holds.collect::<Vec<_>>(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::parse_mirrors;

    fn behind() -> MirrorStatus {
        MirrorStatus {
            name: "harbor".to_owned(),
            kind: "oci".to_owned(),
            target: "harbor.site".to_owned(),
            state: "behind".to_owned(),
            holds: vec![(Channel::main(), ReleaseNo(4))],
            published: vec![(Channel::main(), ReleaseNo(5))],
            reason: Some("<b>it does not answer</b>".to_owned()),
            failure: Some("<b>it does not answer</b>".to_owned()),
            failures: 3,
            failed_ms: Some(4_000),
            retry_ms: Some(9_000),
            behind_since_ms: Some(1_000),
            ..MirrorStatus::default()
        }
    }

    #[test]
    fn a_mirror_that_is_behind_says_why_and_when_it_is_tried_again() {
        let mut out = Html::default();
        card(&mut out, &behind(), 5_000);
        let text = out.as_str();
        for expected in ["data-state=\"behind\"", "main 4", "main 5", "Behind for 4 s: ", "in 4 s", "3 since"]
        {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        assert!(!text.contains("<b>"), "{text}");
        let mut out = Html::default();
        let (reason, behind_since_ms) = (None, None);
        let state = "current".to_owned();
        card(&mut out, &MirrorStatus { reason, behind_since_ms, state, ..behind() }, 5_000);
        assert!(out.as_str().contains("What failed last, and is over"), "{}", out.as_str());
    }

    #[test]
    fn prometheus_is_told_of_each_mirror() {
        let mut out = Metrics::default();
        metrics(&[behind()], &mut out);
        let text = out.into_text();
        for expected in [
            "diodesync_receiver_mirror_behind{mirror=\"harbor\"} 1\n",
            "diodesync_receiver_mirror_behind_since_timestamp_seconds{mirror=\"harbor\"} 1\n",
            "diodesync_receiver_mirror_retry_timestamp_seconds{mirror=\"harbor\"} 9\n",
            "diodesync_receiver_mirror_failures_total{mirror=\"harbor\"} 3\n",
            "diodesync_receiver_mirror_release{mirror=\"harbor\",channel=\"main\"} 4\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        assert!(!text.contains("last_success"), "it never was: {text}");
    }

    #[test]
    fn only_mirrors_that_take_an_artifact_are_named() {
        let configured = parse_mirrors(
            "[[mirror]]\nname = 'harbor'\nkind = 'oci'\nregistry = 'harbor.site'\n\
             map = [{ from = 'ghcr.io/*', to = 'harbor.site/ghcr/*' }]\n\
             [[mirror]]\nname = 'tree'\nkind = 'files-tree'\npath = '/srv/files'\n\
             [[mirror]]\nname = 'tf'\nkind = 'terraform-tree'\npath = '/srv/tf'\n",
        )
        .unwrap();
        let current = |name: &str, number| MirrorStatus {
            name: name.to_owned(),
            holds: vec![(Channel::main(), ReleaseNo(number))],
            ..MirrorStatus::default()
        };
        let states = [behind(), current("tree", 5), current("tf", 4)];
        let said = |name: ArtifactName| {
            let held = held(&configured, &states, &name, &(Channel::main(), ReleaseNo(5)));
            held.into_iter().map(|held| format!("{} {}", held.mirror, held.state)).collect::<Vec<_>>()
        };
        let image =
            |repository: &str| ArtifactName::Image(repository.parse().unwrap(), "v1".parse().unwrap());
        assert_eq!(said(image("ghcr.io/coder/coder")), ["harbor behind"]);
        assert_eq!(said(image("quay.io/coder/coder")), [""; 0]);
        let lost = [MirrorStatus { state: "unknown".to_owned(), ..current("tree", 5) }];
        let name = ArtifactName::File("a/b".parse().unwrap());
        assert_eq!(held(&configured, &lost, &name, &(Channel::main(), ReleaseNo(5)))[0].state, "unknown");
        assert_eq!(said(ArtifactName::File("a/b".parse().unwrap())), ["tree held"]);
        let provider = ArtifactName::Provider(
            "registry.terraform.io/coder/coder".parse().unwrap(),
            "2.1.0".parse().unwrap(),
        );
        assert_eq!(said(provider), ["tf waiting"]);
    }
}
