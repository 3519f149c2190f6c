//! Scanning: every file of a release, also inside archives, is shown to the site's scanners before it is published.
//!
//! ```text
//! artifact ──► its blobs ──► unpack: zip, ar (.deb), tar, gzip, xz, zstd, within limits ──► each file ──► clamd
//!                       └──────────────────────────────────────────────► the blob as it is ──► clamd, command
//! ```
//!
//! A file is clean only if a scanner has seen all of it and said so. What no scanner has seen whole (too large, encrypted,
//! damaged, nested too deep, a scanner that is down) is *unscanned*, and the configuration says what that means: clamd
//! itself answers OK for what is over its own limits, so ours come first.
//!
//! It runs on a thread of its own. A blob that was found clean is not looked at again until the scanner, or what it knows,
//! is another.

mod clamd;
mod command;
mod config;
mod unpack;
mod zstd;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{Blake3, Sha256};
use diodesync::journal::{Journal, JournalExt, Key, Record, ScannedBlob, SledJournal};
use diodesync::pack::{BlobReader, PackStore};
use diodesync::release::{Artifact, Index};
use diodesync_control::service::{rest, yield_to_others};

pub use self::clamd::Clamd;
pub use self::command::Command;
pub use self::config::ScanConfig;
use self::unpack::{Limits, Unpacker};

/// The wait before a scanner that is down is asked again.
const AGAIN: Duration = Duration::from_secs(10);
/// What is named of what was found, or was not scanned.
const NAMED_MAX: usize = 20;
/// How much a scan steps back.
const NICE: i32 = 10;

/// What a scanner says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// This was.
    Found(String),
    /// It was not looked at whole, for this reason.
    Unscanned(String),
}

/// A scanner cannot be asked at present.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Down(pub String);

/// What scans, and within which limits.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// clamd.
    pub clamd: Option<Clamd>,
    /// Any other program.
    pub command: Option<Command>,
    /// Within archives.
    pub limits: Limits,
    /// Whether a release may be published of which something is unscanned.
    pub allows_unscanned: bool,
    /// For how long it holds what was found out of a release that waits for its approvers.
    pub valid: Duration,
}

impl Scanner {
    /// What scans, and what it knows: blobs that were clean for another are scanned again.
    fn version(&self) -> Result<String, Down> {
        let mut version = String::new();
        if let Some(clamd) = &self.clamd {
            version.push_str(&clamd.version()?);
        }
        if let Some(command) = &self.command {
            let _ = write!(version, "{}{command}", if version.is_empty() { "" } else { ", " });
        }
        Ok(version)
    }

    fn identity(&self, version: &str) -> Blake3 {
        Blake3::of(format!("{version}\n{:?}", self.limits).as_bytes())
    }
}

/// Something in a release that is not clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The artifact, and where in it.
    pub place: String,
    /// What was found, or why it was not scanned.
    pub what: String,
}

/// What came of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By what.
    pub version: String,
    /// Files that a scanner has seen, those in archives too; without blobs that were clean before.
    pub files: u64,
    /// How much was found.
    pub found_count: u64,
    /// The first of it.
    pub found: Vec<Remark>,
    /// How much was not scanned.
    pub unscanned_count: u64,
    /// The first of it.
    pub unscanned: Vec<Remark>,
}

impl Outcome {
    fn add(&mut self, place: &str, verdict: Verdict) {
        let (count, list, what) = match verdict {
            Verdict::Clean => return,
            Verdict::Found(what) => (&mut self.found_count, &mut self.found, what),
            Verdict::Unscanned(why) => (&mut self.unscanned_count, &mut self.unscanned, why),
        };
        *count += 1;
        if list.len() < NAMED_MAX {
            list.push(Remark { place: place.to_owned(), what });
        }
    }

    /// Why the release may not be published; nothing if it may.
    pub fn refusal(&self, allows_unscanned: bool) -> Option<String> {
        if self.found_count > 0 {
            let found = self.found.iter().map(|it| format!("{}: {}", it.place, it.what));
            return Some(format!("{} was found by {}", listed(found, self.found_count), self.version));
        }
        (self.unscanned_count > 0 && !allows_unscanned).then(|| {
            let unscanned = self.unscanned.iter().map(|it| format!("{}: {}", it.place, it.what));
            format!(
                "it is not scanned whole, and [scan] unscanned is \"deny\": {}",
                listed(unscanned, self.unscanned_count)
            )
        })
    }

    /// For an approver.
    pub fn summary(&self) -> String {
        let Self { version, files, unscanned_count, .. } = self;
        let mut text = format!("{version}: {files} files looked at, nothing found");
        if *unscanned_count > 0 {
            let unscanned = self.unscanned.iter().map(|it| format!("{}: {}", it.place, it.what));
            let _ = write!(text, "; NOT scanned: {}", listed(unscanned, *unscanned_count));
        }
        text
    }
}

fn listed(items: impl Iterator<Item = String>, count: u64) -> String {
    let items: Vec<String> = items.collect();
    let more = count - items.len() as u64;
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", items.join("; "))
}

#[derive(Debug, Default)]
struct State {
    done: usize,
    /// Why it waits.
    waits: Option<String>,
    outcome: Option<Outcome>,
    /// When it was over.
    ended: Option<Instant>,
}

impl State {
    fn end(&mut self, outcome: Outcome) {
        (self.outcome, self.waits, self.ended) = (Some(outcome), None, Some(Instant::now()));
    }
}

/// How far a scan is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It runs.
    Runs(String),
    /// It waits for a scanner: why.
    Waits(String),
}

/// A scan under way. It ends with the value.
#[derive(Debug)]
pub struct Scan {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    artifacts: usize,
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scan {
    /// Begins to scan a release.
    pub fn start(
        scanner: Scanner,
        packs: Arc<PackStore>,
        journal: Arc<SledJournal>,
        index: Arc<Index>,
    ) -> anyhow::Result<Self> {
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let artifacts = index.artifacts.len();
        let (shared, halt) = (state.clone(), stop.clone());
        std::thread::Builder::new()
            .name("scan".to_owned())
            .spawn(move || {
                yield_to_others(NICE);
                Work { scanner, packs, journal, index, state: shared, stop: halt }.run();
            })
            .context("cannot start a thread that scans")?;
        Ok(Self { state, stop, artifacts })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let state = lock(&self.state);
        match &state.waits {
            Some(why) => Progress::Waits(format!("it is not scanned: {why}. It is tried again by itself")),
            None => Progress::Runs(format!("{} of {} artifacts", state.done, self.artifacts)),
        }
    }

    /// How long ago it was over.
    pub fn age(&self) -> Option<Duration> {
        lock(&self.state).ended.map(|ended| ended.elapsed())
    }

    /// What came of it, once it is over.
    pub fn outcome(&self) -> Option<Outcome> {
        lock(&self.state).outcome.clone()
    }
}

/// A thread that scans.
struct Work {
    scanner: Scanner,
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    index: Arc<Index>,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(self) {
        loop {
            let mut outcome = Outcome::default();
            match self.scan(&mut outcome) {
                Ok(()) => {
                    lock(&self.state).end(outcome);
                    return;
                }
                Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Err(Down(why)) if self.scanner.allows_unscanned => {
                    // What was found before stays found.
                    outcome.add("the release", Verdict::Unscanned(why));
                    lock(&self.state).end(outcome);
                    return;
                }
                Err(Down(why)) => {
                    tracing::warn!(channel = %self.index.channel, release = self.index.number.0, why, "scanner is down");
                    lock(&self.state).waits = Some(why);
                    rest(AGAIN, &self.stop);
                }
            }
        }
    }

    fn scan(&self, outcome: &mut Outcome) -> Result<(), Down> {
        let version = self.scanner.version()?;
        let by = self.scanner.identity(&version);
        outcome.version = version;
        let mut seen: BTreeSet<Sha256> = BTreeSet::new();
        for (done, (name, kind)) in self.index.artifacts.iter().enumerate() {
            {
                let mut state = lock(&self.state);
                (state.done, state.waits) = (done, None);
            }
            for digest in (Artifact { name: name.clone(), kind: kind.clone() }).blobs() {
                if seen.insert(digest) && !self.is_known(&digest, by) {
                    self.scan_blob(&name.to_string(), &digest, by, outcome)?;
                }
            }
        }
        Ok(())
    }

    fn is_known(&self, digest: &Sha256, by: Blake3) -> bool {
        let record = self.journal.read::<ScannedBlob>(&Key::Scanned(*digest));
        matches!(record, Ok(Some(scanned)) if scanned.by == by)
    }

    fn scan_blob(&self, name: &str, digest: &Sha256, by: Blake3, outcome: &mut Outcome) -> Result<(), Down> {
        let Some(blob) = self.index.blobs.get(digest) else { return Ok(()) };
        let before = (outcome.found_count, outcome.unscanned_count);
        let mut content = BlobReader::new(&self.packs, blob.clone());
        if let Some(command) = &self.scanner.command {
            outcome.files += 1;
            outcome.add(name, command.scan(&mut content, name, digest, &self.stop)?);
            if let Err(error) = content.seek(SeekFrom::Start(0)) {
                outcome.add(name, Verdict::Unscanned(error.to_string()));
            }
        }
        if let Some(clamd) = &self.scanner.clamd {
            let limits = self.scanner.limits;
            let files = Cell::new(0);
            let mut visit = |path: &str, file: &mut dyn Read| -> io::Result<Verdict> {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(io::Error::other(Down("it is to stop".to_owned())));
                }
                files.set(files.get() + 1);
                clamd.scan(file, limits.file_bytes_max).map_err(|error| match error.downcast::<Down>() {
                    Ok(down) => io::Error::other(down),
                    Err(error) => io::Error::other(format!("{path}: {error:#}")),
                })
            };
            let mut tell = |place: &str, verdict| outcome.add(place, verdict);
            let result =
                Unpacker::new(limits, blob.bytes, &mut visit, &mut tell).look(name, &mut content, blob.bytes);
            outcome.files += files.get();
            result.map_err(|error| match error.downcast::<Down>() {
                Ok(down) => down,
                Err(error) => Down(error.to_string()),
            })?;
        }
        // Nobody knows what else a program has learnt since.
        if self.scanner.command.is_none()
            && before == (outcome.found_count, outcome.unscanned_count)
            && let Ok(value) = (ScannedBlob { by }).to_value()
            && let Err(error) = self.journal.apply(vec![(Key::Scanned(*digest).encode(), Some(value))])
        {
            tracing::debug!(%error, "a clean blob is not journalled");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
