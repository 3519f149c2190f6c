//! One pull from its beginning to its end, and the clock that begins it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::pack::fact;
use diodesync_control::clock_s;

use super::config::{Gone, Source};
use super::fetch::Fetcher;
use super::job::Job;
use super::nearest;
use super::state::{Report, SourceDetail, SourceStatus, State};
use crate::api::Daemon;
use crate::status::Alarm;
use crate::withdraw;

/// How long what came in part is kept after it was last added to.
const PARTS_KEPT: Duration = Duration::from_secs(2 * 24 * 3600);

/// How often it is looked whether a source is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pulls in a row that fail before it is an alarm.
const ALARM_FAILURES: u32 = 2;

/// All sources.
#[derive(Debug)]
pub struct Sources {
    dir: PathBuf,
    all: BTreeMap<String, Arc<Source>>,
    live: Mutex<BTreeMap<String, Live>>,
}

/// What is known of a source.
#[derive(Debug, Default)]
struct Live {
    state: State,
    is_running: bool,
    /// Set once it has begun.
    job: Option<Arc<Job>>,
    /// Someone wants it pulled now.
    is_asked: bool,
    runs: u64,
    /// Those of them that did not bring everything.
    failed_runs: u64,
}

impl Sources {
    /// Reads what is kept of them.
    pub fn open(dir: &Path, sources: &[Source], now_s: u64) -> anyhow::Result<Self> {
        let dir = dir.join("sources");
        let mut live = BTreeMap::new();
        for source in sources {
            let folder = dir.join(&source.name);
            std::fs::create_dir_all(folder.join("parts"))
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let path = folder.join("state");
            let state = match fact::read(&path)? {
                Some(content) => serde_json::from_slice(&content)
                    .with_context(|| format!("the fact file {} is damaged", path.display()))?,
                None => {
                    let state = State { first_seen_s: now_s, ..State::default() };
                    fact::write(&path, &serde_json::to_vec(&state)?)?;
                    state
                }
            };
            live.insert(source.name.clone(), Live { state, ..Live::default() });
        }
        let all = sources.iter().map(|source| (source.name.clone(), Arc::new(source.clone()))).collect();
        Ok(Self { dir, all, live: Mutex::new(live) })
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that are meant: all of them if none is given.
    pub fn named(&self, names: &[String]) -> anyhow::Result<Vec<String>> {
        if self.all.is_empty() {
            bail!("no [[source]] is configured; add one to sender.toml and restart the daemon");
        }
        if names.is_empty() {
            return Ok(self.all.keys().cloned().collect());
        }
        if let Some(name) = names.iter().find(|name| !self.all.contains_key(*name)) {
            let hint = match nearest(name, self.all.keys().map(String::as_str)) {
                Some(near) => format!("{near:?} is probably meant"),
                None => format!("there are {}", self.all.keys().cloned().collect::<Vec<_>>().join(", ")),
            };
            bail!("there is no source {name:?}; {hint}");
        }
        Ok(names.to_vec())
    }

    /// What is due now.
    fn due(&self, now_s: u64) -> Vec<String> {
        let live = self.live();
        let is_due = |name: &&String| {
            let is_time = || self.next_s(name, &live, now_s).is_some_and(|next_s| next_s <= now_s);
            live.get(*name).is_some_and(|live| !live.is_running && (live.is_asked || is_time()))
        };
        self.all.keys().filter(is_due).cloned().collect()
    }

    fn next_s(&self, name: &str, live: &BTreeMap<String, Live>, now_s: u64) -> Option<u64> {
        let State { last_began_s, failures, first_seen_s, .. } = &live.get(name)?.state;
        let schedule = self.all.get(name)?.schedule.as_ref()?;
        // What lies ahead was recorded before the clock was set back, and would hold the source for as long.
        let last_began_s = last_began_s.filter(|last_s| *last_s <= now_s);
        Some(schedule.next_s(last_began_s, *failures, (*first_seen_s).min(now_s)))
    }

    /// How one stands, with what its pull under way or its last one brought.
    fn look<'l>(
        &self,
        name: &str,
        live: &'l BTreeMap<String, Live>,
    ) -> Option<(SourceStatus, Cow<'l, Report>)> {
        let (source, one) = (self.all.get(name)?, live.get(name)?);
        let job = one.job.as_ref().filter(|_| one.is_running);
        let report = job.map_or(Cow::Borrowed(&one.state.report), |job| Cow::Owned(job.report()));
        let now_s = clock_s();
        let next_s = if one.is_asked { Some(now_s) } else { self.next_s(name, live, now_s) };
        let status = SourceStatus {
            name: name.to_owned(),
            kind: source.kind.name().to_owned(),
            channel: source.channel.clone(),
            running: one.is_running,
            message: job.map(|job| job.message()).unwrap_or_default(),
            bytes: report.bytes,
            new: report.new.len(),
            unchanged: report.unchanged,
            gone: report.gone.len(),
            refused: report.refused.len(),
            failed: report.failed.len(),
            runs: one.runs,
            failed_runs: one.failed_runs,
            failures: one.state.failures,
            last_began_s: one.state.last_began_s,
            last_good_s: one.state.last_good_s,
            next_s,
            problem: one.state.report.failed.iter().chain(&one.state.report.refused).next().cloned(),
        };
        Some((status, report))
    }

    /// Everything about one; none if none has this name.
    pub fn detail(&self, name: &str) -> Option<SourceDetail> {
        let live = self.live();
        let (status, report) = self.look(name, &live)?;
        Some(SourceDetail { status, report: report.into_owned() })
    }

    /// Everything about them.
    pub fn details(&self) -> Vec<SourceDetail> {
        self.all.keys().filter_map(|name| self.detail(name)).collect()
    }

    /// What `status` says of them, and what needs an operator.
    pub fn status(&self) -> (Vec<SourceStatus>, Vec<Alarm>) {
        let live = self.live();
        let all: Vec<SourceStatus> =
            self.all.keys().filter_map(|name| Some(self.look(name, &live)?.0)).collect();
        drop(live);
        let alarm = |status: &SourceStatus| {
            let problem = status.problem.as_ref().filter(|_| status.failures >= ALARM_FAILURES)?;
            let text = format!(
                "source {} could not be pulled wholly {} times in a row; what it brought before is served. {}: {}",
                status.name, status.failures, problem.what, problem.why
            );
            Some(Alarm { id: "source".to_owned(), text })
        };
        let alarms = all.iter().filter_map(alarm).collect();
        (all, alarms)
    }

    /// Has these pulled as soon as the clock looks, which has the runtime for it; those under way are joined.
    pub fn ask(&self, names: &[String]) {
        let mut live = self.live();
        for name in names {
            if let Some(one) = live.get_mut(name).filter(|one| !one.is_running) {
                one.is_asked = true;
            }
        }
    }

    /// Begins a pull; nothing, if one is under way.
    pub fn start(&self, daemon: &Arc<Daemon>, name: &str) {
        let Some(source) = self.all.get(name).cloned() else { return };
        {
            let mut live = self.live();
            let Some(one) = live.get_mut(name).filter(|one| !one.is_running) else { return };
            (one.is_running, one.is_asked, one.job) = (true, false, None);
        }
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

    fn write(&self, name: &str, state: &State) -> anyhow::Result<()> {
        Ok(fact::write(&self.dir.join(name).join("state"), &serde_json::to_vec(state)?)?)
    }
}

/// Withdraws what is gone, if that is wanted, and cuts a release if something has changed, now or before a pull that ended
/// in the middle.
fn settle(daemon: &Daemon, source: &Source, was_open: bool, report: &mut Report) -> anyhow::Result<()> {
    let mut is_changed = !report.new.is_empty() || was_open;
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
