//! The **mirror** role: the site's own mirrors follow what is published.
//!
//! ```text
//! facts, packs ──► one worker for each [[mirror]] ──► a registry ([`oci`]), a tree of files ([`tree`])
//! ```
//!
//! Each worker compares its mirror with what is published and pushes what it lacks: when something is published, every now
//! and then, and after a failure, with growing pauses. It holds the mirror's credentials and opens the connections; it
//! needs no key of the lanes, of the site, or of the gateway's own mirror. What is published stays in the packs for as
//! long as a worker reads it. What each says of itself is in [`state`].

mod backoff;
mod config;
mod layout;
mod oci;
mod state;
mod tree;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::PackStore;
use diodesync_control::service::Pulse;
use diodesync_control::{clock_ms, clock_s};

use crate::serve::{Site, SiteHandle};
use backoff::Backoff;
pub use config::{Kind, MirrorConfig, parse_mirrors};
use config::{OciConfig, TreeConfig};
use oci::PushError;
pub use state::{MirrorDir, MirrorStatus};

/// How often a worker looks whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often it says how far it is.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// The workers.
#[derive(Debug)]
pub struct Mirrors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pulses: Vec<Pulse>,
}

/// Starts a worker for each mirror.
pub fn start(
    dir: &Path,
    mirrors: &[MirrorConfig],
    site: &SiteHandle,
    packs: &Arc<PackStore>,
) -> anyhow::Result<Mirrors> {
    let stop = Arc::new(AtomicBool::new(false));
    let mirror_dir = MirrorDir::of(dir);
    mirror_dir.make()?;
    let (mut threads, mut pulses) = (Vec::new(), Vec::new());
    for config in mirrors {
        let worker =
            Worker::new(config.clone(), mirror_dir.clone(), site.clone(), packs.clone(), stop.clone());
        pulses.push(worker.pulse.clone());
        let thread = std::thread::Builder::new().name(format!("mirror {}", config.name));
        threads.push(thread.spawn(move || worker.run()).context("cannot start a mirror's thread")?);
    }
    Ok(Mirrors { stop, threads, pulses })
}

impl Mirrors {
    /// Beat with each worker's turns.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.pulses.clone()
    }

    /// Ends them where they are; they go on from there.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The releases of a site.
pub fn releases(site: &Site) -> Vec<(Channel, ReleaseNo)> {
    site.releases().iter().map(|index| (index.channel.clone(), index.number)).collect()
}

/// What a mirror is before anything is known of it.
pub fn unknown(config: &MirrorConfig) -> MirrorStatus {
    let target = match &config.kind {
        Kind::Oci(oci) => oci.registry.to_string(),
        Kind::Tree(tree) => tree.path.display().to_string(),
    };
    MirrorStatus {
        name: config.name.clone(),
        kind: config.kind.name().to_owned(),
        target,
        state: "starting".to_owned(),
        ..MirrorStatus::default()
    }
}

/// What a mirror said last, if it was said of this one.
pub fn status(dir: &MirrorDir, config: &MirrorConfig) -> MirrorStatus {
    let fresh = unknown(config);
    let said =
        dir.status(&config.name).filter(|said| (&said.kind, &said.target) == (&fresh.kind, &fresh.target));
    said.unwrap_or(fresh)
}

/// Why a turn ended without a mirror that holds everything.
enum Ended {
    /// The process stops.
    Stopped,
    /// Something newer is published.
    Superseded,
    /// It did not work.
    Failed { why: String, retry_after: Option<Duration> },
}

impl From<PushError> for Ended {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Superseded => Self::Superseded,
            error => Self::Failed { why: error.to_string(), retry_after: error.retry_after() },
        }
    }
}

struct Worker {
    config: MirrorConfig,
    site: SiteHandle,
    packs: Arc<PackStore>,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
    report: Report,
    backoff: Backoff,
    /// What the last turn was about.
    tried: Vec<(Channel, ReleaseNo)>,
    due: Instant,
    /// When there is something to do before the next comparison.
    again: Option<Duration>,
}

/// What a worker says of itself.
struct Report {
    dir: MirrorDir,
    status: MirrorStatus,
    written: Instant,
    site: SiteHandle,
    /// What the turn is about.
    of: Vec<(Channel, ReleaseNo)>,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
}

impl Report {
    fn write(&mut self) {
        self.written = Instant::now();
        if let Err(error) = self.dir.write_status(&self.status) {
            tracing::warn!(error = format!("{error:#}"), "how a mirror stands cannot be told");
        }
    }

    fn write_sometimes(&mut self) {
        if self.written.elapsed() >= STATUS_INTERVAL {
            self.write();
        }
    }
}

impl oci::Reporter for Report {
    fn doing(&mut self, what: String) {
        self.status.doing = Some(what);
        self.write_sometimes();
    }

    fn sent(&mut self, bytes: u64) {
        self.status.pushed_bytes += bytes;
        self.write_sometimes();
    }

    fn remember(&mut self, memory: &oci::Memory) -> anyhow::Result<()> {
        self.dir.write_memory(&self.status.name, memory)
    }

    fn is_superseded(&self) -> bool {
        releases(&self.site.load()) != self.of
    }
}

/// The reason with which a tree is left where it is.
const LEFT: &str = "left where it is";

impl tree::Watch for Report {
    fn wrote(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.pulse.beat();
        self.status.pushed_bytes += bytes;
        self.write_sometimes();
        let is_left = self.stop.load(Ordering::Relaxed) || oci::Reporter::is_superseded(self);
        if is_left { anyhow::bail!(LEFT) } else { Ok(()) }
    }
}

impl Worker {
    fn new(
        config: MirrorConfig,
        dir: MirrorDir,
        site: SiteHandle,
        packs: Arc<PackStore>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let pulse = Pulse::default();
        let mut status = status(&dir, &config);
        (status.doing, status.retry_ms, status.pushed_bytes, status.failures) = (None, None, 0, 0);
        let report = Report {
            dir,
            status,
            written: Instant::now(),
            site: site.clone(),
            of: Vec::new(),
            stop: stop.clone(),
            pulse: pulse.clone(),
        };
        let (backoff, tried, due) = (Backoff::default(), Vec::new(), Instant::now());
        Self { config, site, packs, stop, pulse, report, backoff, tried, due, again: None }
    }

    fn run(mut self) {
        self.report.write();
        while !self.stop.load(Ordering::Relaxed) {
            self.pulse.beat();
            let site = self.site.load();
            let wanted = releases(&site);
            // Where nothing is published nothing is taken away: whatever is there was published once.
            let is_new = wanted != self.tried;
            if !wanted.is_empty() && (is_new || Instant::now() >= self.due) {
                if is_new {
                    self.backoff = Backoff::default();
                }
                self.turn(&site, wanted);
            } else {
                drop(site);
                std::thread::sleep(INTERVAL);
            }
        }
    }

    fn turn(&mut self, site: &Arc<Site>, wanted: Vec<(Channel, ReleaseNo)>) {
        self.tried.clone_from(&wanted);
        self.report.of.clone_from(&wanted);
        let status = &mut self.report.status;
        status.published.clone_from(&wanted);
        status.retry_ms = None;
        // What was behind is so until it is not.
        if status.reason.is_none() && (status.state != "current" || status.holds != wanted) {
            status.state = "working".to_owned();
        }
        self.report.write();
        let ended = match &self.config.kind {
            Kind::Oci(oci) => self.push(oci.clone(), site),
            Kind::Tree(tree) => self.make_tree(tree.clone(), site),
        };
        self.report.status.doing = None;
        match ended {
            Ok(outcome) => self.is_current(wanted, outcome),
            Err(Ended::Superseded) => self.tried.clear(),
            Err(Ended::Stopped) => {}
            Err(Ended::Failed { why, retry_after }) => self.is_behind(why, retry_after),
        }
        self.report.write();
    }

    fn is_current(&mut self, wanted: Vec<(Channel, ReleaseNo)>, outcome: oci::Outcome) {
        let status = &mut self.report.status;
        if status.holds != wanted || status.state != "current" {
            tracing::info!(mirror = status.name, artifacts = outcome.artifacts, "holds what is published");
        }
        status.state = "current".to_owned();
        status.holds = wanted;
        status.artifacts = outcome.artifacts;
        status.current_ms = Some(clock_ms());
        (status.reason, status.behind_since_ms) = (None, None);
        status.set_notes(outcome.notes);
        self.backoff = Backoff::default();
        let again = self.again.take().unwrap_or(self.config.check_every);
        self.due = Instant::now() + again.min(self.config.check_every);
    }

    fn is_behind(&mut self, why: String, retry_after: Option<Duration>) {
        let pause = self.backoff.pause(retry_after);
        let status = &mut self.report.status;
        // Once, and not with every try.
        if status.reason.as_ref() != Some(&why) {
            tracing::error!(mirror = status.name, why, "a mirror is behind; it is tried again");
        }
        let now_ms = clock_ms();
        status.state = "behind".to_owned();
        (status.failures, status.failed_ms) = (status.failures + 1, Some(now_ms));
        (status.failure, status.reason) = (Some(why.clone()), Some(why));
        status.behind_since_ms.get_or_insert(now_ms);
        status.retry_ms = Some(now_ms + pause.as_millis() as u64);
        self.due = Instant::now() + pause;
    }

    fn push(&mut self, config: OciConfig, site: &Arc<Site>) -> Result<oci::Outcome, Ended> {
        let here = |error: std::io::Error| Ended::Failed { why: error.to_string(), retry_after: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(here)?;
        let memory = self.report.dir.memory(&self.config.name);
        let (stop, pulse) = (self.stop.clone(), self.pulse.clone());
        let stopped = async move {
            while !stop.load(Ordering::Relaxed) {
                pulse.beat();
                tokio::time::sleep(INTERVAL).await;
            }
        };
        let report = &mut self.report;
        let ended = runtime.block_on(async {
            tokio::select! {
                pushed = oci::push(&config, site, memory, report) => pushed.map_err(Ended::from),
                () = stopped => Err(Ended::Stopped),
            }
        });
        // What reads a pack at this moment need not be waited for.
        runtime.shutdown_background();
        ended
    }

    fn make_tree(&mut self, config: TreeConfig, site: &Arc<Site>) -> Result<oci::Outcome, Ended> {
        let layout = layout::layout(site, config.what);
        self.report.status.doing = Some(format!("comparing {} files", layout.len()));
        let tree = tree::Tree { path: &config.path, grace: config.grace, packs: &self.packs };
        let made = tree.converge(&layout, |digest| site.blob(digest), clock_s(), &mut self.report);
        match made {
            Ok(is_switched) => {
                if is_switched {
                    tracing::info!(mirror = self.config.name, files = layout.len(), "the tree is switched");
                }
                // The tree that was replaced goes in its time, which may come before the next comparison.
                if let Some(due_s) = tree.sweep_due_s() {
                    let left = Duration::from_secs(due_s.saturating_sub(clock_s()));
                    self.again = Some(left.max(Duration::from_secs(1)));
                }
                Ok(oci::Outcome { artifacts: layout.len() as u64, notes: Vec::new() })
            }
            Err(_) if self.stop.load(Ordering::Relaxed) => Err(Ended::Stopped),
            Err(_) if oci::Reporter::is_superseded(&self.report) => Err(Ended::Superseded),
            Err(error) => Err(Ended::Failed { why: format!("{error:#}"), retry_after: None }),
        }
    }
}
