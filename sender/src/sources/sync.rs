//! One pull from its beginning to its end, and the clock that begins it.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use diodesync::audit::Event;
use diodesync_control::clock_s;

use super::config::{Gone, Source};
use super::fetch::Fetcher;
use super::job::Job;
use super::known::Sources;
use super::state::Report;
use crate::api::Daemon;
use crate::withdraw;

/// How long what came in part is kept after it was last added to.
const PARTS_KEPT: Duration = Duration::from_secs(2 * 24 * 3600);

/// How often it is looked whether a source is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Sources {
    /// Begins a pull; nothing, if one is under way.
    pub fn start(&self, daemon: &Arc<Daemon>, name: &str) {
        let source = {
            let mut live = self.live();
            let Some(one) = live.get_mut(name).filter(|one| !one.is_running) else { return };
            let Some(source) = one.source.clone() else { return };
            (one.is_running, one.is_asked, one.job) = (true, false, None);
            source
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            let began_s = clock_s();
            let was_open = daemon.sources.begin(&source.name);
            let work = tokio::spawn(pull(daemon.clone(), source.clone()));
            let ended = work.await.unwrap_or_else(|error| {
                Err(anyhow::anyhow!("the pull of source {} crashed: {error}", source.name))
            });
            let name = source.name.clone();
            let sources = daemon.clone();
            let kept = tokio::task::spawn_blocking(move || {
                sources.sources.end(&sources, &source, (began_s, was_open), ended)
            })
            .await;
            if let Err(error) = kept {
                tracing::error!(%error, source = name, "the end of a pull crashed");
                daemon.sources.live().entry(name).or_default().is_running = false;
            }
        });
    }

    /// Records that what comes is not released yet, in case that this ends in the middle; whether that was so before.
    fn begin(&self, name: &str) -> bool {
        let mut live = self.live();
        let Some(one) = live.get_mut(name) else { return false };
        let was_open = std::mem::replace(&mut one.state.is_open, true);
        if !was_open && let Err(error) = self.write(name, &one.state) {
            tracing::warn!(error = format!("{error:#}"), source = name, "that a pull began cannot be kept");
        }
        was_open
    }

    /// Counts what is gone, cuts the release, and records how it went.
    fn end(
        &self,
        daemon: &Daemon,
        source: &Source,
        (began_s, was_open): (u64, bool),
        ended: anyhow::Result<Arc<Job>>,
    ) {
        let mut state = self.live().get(&source.name).map(|live| live.state.clone()).unwrap_or_default();
        let mut report = match &ended {
            Ok(job) => job.report(),
            Err(error) => {
                let problem = super::state::Problem { what: source.name.clone(), why: format!("{error:#}") };
                tracing::warn!(source = source.name, "{}", problem.why);
                Report { failed: vec![problem], ..Report::default() }
            }
        };
        if let Ok(job) = &ended
            && report.failed.is_empty()
        {
            let mut seen = job.seen();
            if job.keeps_all() {
                seen.extend(state.held.iter().cloned());
            }
            report.gone = state.held.difference(&seen).cloned().collect();
            if seen.is_empty() && !report.gone.is_empty() && source.gone == Gone::Withdraw {
                // A folder that is not mounted, a registry that was emptied: more likely than that it is meant.
                seen.extend(state.held.iter().cloned());
                report.gone.clear();
                report.failed.push(super::state::Problem {
                    what: source.name.clone(),
                    why: "there is nothing any more of what it had, and nothing was withdrawn; if that is right: \
                          diode-sender withdraw"
                        .to_owned(),
                });
            }
            match settle(daemon, source, was_open, &mut report) {
                Ok(()) => state.is_open = false,
                Err(error) => {
                    // They are counted as gone again the next time.
                    seen.extend(report.gone.iter().cloned());
                    report.failed.push(super::state::Problem {
                        what: format!("release of channel {}", source.channel),
                        why: format!("{error:#}"),
                    });
                }
            }
            state.held = seen;
            if report.is_good() {
                remove_all(&job.folder);
            }
        } else if let Ok(job) = &ended {
            // Nobody knows what is gone; what came is remembered.
            state.held.extend(job.seen());
        }
        if let Ok(job) = &ended {
            remove_old(&job.folder);
        }
        let is_good = report.is_good();
        state.last_began_s = Some(began_s);
        state.last_good_s = if is_good { Some(clock_s().max(began_s)) } else { state.last_good_s };
        state.failures = if is_good { 0 } else { state.failures.saturating_add(1) };
        let text = report.to_text(&source.name);
        tracing::info!("source {}", text.lines().next().unwrap_or_default());
        daemon.audit.note(&source.actor(), Event::Pulled { source: source.name.clone(), report: text });
        state.report = report;
        if let Err(error) = self.write(&source.name, &state) {
            tracing::error!(
                error = format!("{error:#}"),
                source = source.name,
                "how the pull went cannot be kept"
            );
        }
        if let Some(live) = self.live().get_mut(&source.name) {
            (live.is_running, live.job) = (false, None);
            live.state = state;
            live.runs += 1;
            live.failed_runs += u64::from(!is_good);
        }
    }
}

/// Withdraws what is gone, if that is wanted, and cuts a release if something has changed, now or before a pull that ended
/// in the middle.
fn settle(daemon: &Daemon, source: &Source, was_open: bool, report: &mut Report) -> anyhow::Result<()> {
    let mut is_changed = !report.new.is_empty() || !report.renewed.is_empty() || was_open;
    if source.gone == Gone::Withdraw && !report.gone.is_empty() {
        let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
        let present = withdraw::list(&store, &source.channel).artifacts;
        let names: Vec<String> = report.gone.iter().filter(|name| present.contains(name)).cloned().collect();
        is_changed |= !names.is_empty();
        let tell = |event| daemon.audit.tell(&source.actor(), event);
        let request = withdraw::Request { channel: source.channel.clone(), names };
        withdraw::withdraw(&mut store, &request, &tell)?;
    }
    let is_pending = {
        let store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.staged.values().any(|index| index.channel == source.channel)
            || !store.withdrawn(&source.channel).is_empty()
    };
    if source.release && is_changed && is_pending {
        report.released = Some(daemon.cut(&source.actor(), &source.channel, false)?.number);
    }
    Ok(())
}

/// What came in part for a pull that has failed is gone on with, but not for ever: an upstream whose artifacts change would
/// fill the disk with the beginnings of old ones.
fn remove_old(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|found| found.modified()).map(|changed| changed.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > PARTS_KEPT)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What came in part is not needed any more.
fn remove_all(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Pulls once.
async fn pull(daemon: Arc<Daemon>, source: Arc<Source>) -> anyhow::Result<Arc<Job>> {
    let packs = daemon.packs.clone();
    let admit = Arc::new(move |bytes| Ok(packs.admit("the download", bytes)?));
    let fetch = Fetcher::new(&source.access, &source.kind.homes(), source.bytes_max, admit)?;
    let folder = daemon.sources.dir.join(&source.name).join("parts");
    let job = Arc::new(Job::new(daemon.clone(), source.clone(), fetch, folder));
    if let Some(live) = daemon.sources.live().get_mut(&source.name) {
        live.job = Some(job.clone());
    }
    if let Err(error) = source.kind.pull(&job).await {
        job.failed(&source.name, &error);
    }
    Ok(job)
}

/// Begins what is due, until it is aborted.
pub async fn run(daemon: Arc<Daemon>) {
    loop {
        for name in daemon.sources.due(clock_s()) {
            daemon.sources.start(&daemon, &name);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
