//! One pull under way: what a kind of source sees of the daemon, and what it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::pack::Blobs;
use diodesync::release::index::{ArtifactKind, Package};
use diodesync::release::name::{ArtifactName, Suite};

use super::config::Source;
use super::fetch::{Download, Downloaded, FetchError, Fetcher, Request};
use super::state::{Problem, Report};
use crate::api::Daemon;
use crate::ingest::Totals;
use crate::submit::{self, Item, What};

/// One pull of one source.
#[derive(Debug)]
pub struct Job {
    /// What is pulled.
    pub source: Arc<Source>,
    /// How upstreams are reached.
    pub fetch: Fetcher,
    /// A folder for what came in part.
    pub folder: PathBuf,
    daemon: Arc<Daemon>,
    report: Mutex<Report>,
    seen: Mutex<BTreeSet<String>>,
    keeps_all: AtomicBool,
    message: Mutex<String>,
    /// How often each file of the folder was given out and is still to be submitted.
    given: Mutex<BTreeMap<PathBuf, usize>>,
    kept: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    pub(super) fn new(daemon: Arc<Daemon>, source: Arc<Source>, fetch: Fetcher, folder: PathBuf) -> Self {
        Self {
            source,
            fetch,
            folder,
            daemon,
            report: Mutex::default(),
            seen: Mutex::default(),
            keeps_all: AtomicBool::new(false),
            message: Mutex::default(),
            given: Mutex::default(),
            kept: AtomicU64::default(),
        }
    }

    /// What the next release of the source's channel would have under this name.
    pub fn present(&self, name: &ArtifactName) -> Option<ArtifactKind> {
        let store = lock(&self.daemon.store);
        if store.withdrawn(&self.source.channel).contains(&name.to_string()) {
            return None;
        }
        let staged = store.staged.values().rev().filter(|index| index.channel == self.source.channel);
        staged
            .chain(store.newest.get(&self.source.channel))
            .find_map(|index| index.artifacts.get(name))
            .cloned()
    }

    /// What the source's channel has of a suite.
    pub fn packages(&self, suite: &Suite) -> Vec<Package> {
        let store = lock(&self.daemon.store);
        let staged = store.staged.values().filter(|index| index.channel == self.source.channel);
        let all = staged.chain(store.newest.get(&self.source.channel)).flat_map(|index| &index.artifacts);
        let package = |(name, kind): (&ArtifactName, &ArtifactKind)| match (name, kind) {
            (ArtifactName::Package(name), ArtifactKind::Package(package)) if name.suite == *suite => {
                Some(*package)
            }
            _ => None,
        };
        all.filter_map(package).collect()
    }

    /// Whether a blob is here and need not be fetched.
    pub fn holds(&self, digest: &Sha256) -> bool {
        lock(&self.daemon.store).catalog.blob(digest).is_some()
    }

    /// A blob that is here, if it has at most `max` octets and is what its digest says.
    pub fn held(&self, digest: &Sha256, max: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let blob = lock(&self.daemon.store).catalog.blob(digest).cloned();
        let Some(blob) = blob else { return Ok(None) };
        let octets = self.daemon.packs.whole_blob(&blob, max)?;
        Ok(octets.filter(|octets| Sha256::of(octets) == *digest))
    }

    /// What is being done, for whoever watches.
    pub fn say(&self, text: impl Into<String>) {
        *lock(&self.message) = text.into();
    }

    /// What was said last.
    pub(super) fn message(&self) -> String {
        lock(&self.message).clone()
    }

    /// Refuses a pull that names more artifacts than the source may.
    pub fn plan(&self, artifacts: usize) -> anyhow::Result<()> {
        let max = self.source.artifacts_max;
        if artifacts as u64 > max {
            bail!(
                "it names {artifacts} artifacts, the limit of this source is {max}; name fewer, or raise artifacts_max"
            );
        }
        Ok(())
    }

    /// An artifact is here already, as the upstream has it.
    pub fn unchanged(&self, name: &ArtifactName) {
        if lock(&self.seen).insert(name.to_string()) {
            lock(&self.report).unchanged += 1;
        }
    }

    /// Artifacts that are here already have a newer proof of their upstream.
    pub fn renewed(&self, what: String) {
        lock(&self.report).renewed.push(what);
    }

    /// Something is not taken, or cannot be had. `what` is the artifact where there is one, so that it does not count as
    /// gone. What the way to it hindered has failed, and is tried again; anything else is refused.
    pub fn problem(&self, what: &impl Display, error: &anyhow::Error) {
        let what = what.to_string();
        let problem = Problem { what: what.clone(), why: format!("{error:#}") };
        let fetched = error.chain().find_map(|cause| cause.downcast_ref::<FetchError>());
        let is_refused = fetched.is_none_or(FetchError::is_refusal);
        let (word, source) = (if is_refused { "refused" } else { "failed" }, &self.source.name);
        tracing::warn!(source, "{} {word}: {}", problem.what, problem.why);
        let mut report = lock(&self.report);
        if is_refused {
            report.refused.push(problem)
        } else {
            report.failed.push(problem)
        }
        lock(&self.seen).insert(what);
    }

    /// Something hinders part of the pull, like a list that cannot be had: nobody knows what is gone.
    pub fn failed(&self, what: &impl Display, error: &anyhow::Error) {
        let problem = Problem { what: what.to_string(), why: format!("{error:#}") };
        tracing::warn!(source = self.source.name, "{} failed: {}", problem.what, problem.why);
        lock(&self.report).failed.push(problem);
    }

    /// Something newer was refused, and what it would have replaced serves on: nothing counts as gone in this pull.
    pub fn keep_all(&self) {
        self.keeps_all.store(true, Ordering::Relaxed);
    }

    /// See [`Self::keep_all`].
    pub(super) fn keeps_all(&self) -> bool {
        self.keeps_all.load(Ordering::Relaxed)
    }

    /// The artifact is left for the next time, and is not gone.
    pub fn later(&self, name: &ArtifactName) {
        lock(&self.seen).insert(name.to_string());
    }

    /// Downloads a file into the job's folder. Those that want the same digest share it.
    pub async fn download(
        &self,
        request: Request,
        sha256: Option<Sha256>,
        bytes: Option<u64>,
    ) -> Result<Downloaded, FetchError> {
        let bytes_max = bytes.unwrap_or(self.source.bytes_max);
        self.fetch_file(Download { request, folder: self.folder.clone(), sha256, bytes, bytes_max }).await
    }

    /// As [`Self::download`], of a file that has at most `max` octets.
    pub async fn download_at_most(
        &self,
        request: Request,
        sha256: Option<Sha256>,
        max: u64,
    ) -> Result<Downloaded, FetchError> {
        let bytes_max = max.min(self.source.bytes_max);
        self.fetch_file(Download { request, folder: self.folder.clone(), sha256, bytes: None, bytes_max })
            .await
    }

    async fn fetch_file(&self, want: Download) -> Result<Downloaded, FetchError> {
        // Counted before it is there: who is done with the same file must not remove it meanwhile.
        let path = want.path();
        *lock(&self.given).entry(path.clone()).or_default() += 1;
        let it = self.fetch.file(&want).await;
        if it.is_err() {
            Self::forget(&mut lock(&self.given), &path);
        }
        it
    }

    /// One fewer waits to submit a file; how many are left.
    fn forget(given: &mut BTreeMap<PathBuf, usize>, path: &Path) -> usize {
        let left = given.remove(path).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            given.insert(path.to_owned(), left);
        }
        left
    }

    /// A blob that is here, as a file in the job's folder, to be submitted again with another proof.
    pub async fn take_out(&self, digest: &Sha256) -> anyhow::Result<Option<Downloaded>> {
        let blob = lock(&self.daemon.store).catalog.blob(digest).cloned();
        let Some(blob) = blob else { return Ok(None) };
        let (packs, digest, path) = (self.daemon.packs.clone(), *digest, self.own_path());
        let work = move || -> anyhow::Result<Downloaded> {
            packs.admit("what is checked again", blob.bytes)?;
            let mut file = std::fs::File::create(&path)?;
            let (mut at, mut buffer) = (0, vec![0; 1 << 20]);
            while at < blob.bytes {
                let read = packs.read_blob(&blob, at, &mut buffer)?;
                if read == 0 {
                    bail!("a blob ends before its end");
                }
                file.write_all(buffer.get(..read).unwrap_or_default())?;
                at += read as u64;
            }
            Ok(Downloaded { path, sha256: digest, bytes: blob.bytes })
        };
        tokio::task::spawn_blocking(work).await.context("reading a blob crashed")?.map(Some)
    }

    /// Keeps octets in a file of the job's folder, to be submitted from there.
    pub fn keep(&self, octets: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.own_path();
        std::fs::write(&path, octets).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A file of the job's folder that nobody else has.
    fn own_path(&self) -> PathBuf {
        self.folder.join(format!("{}.kept", self.kept.fetch_add(1, Ordering::Relaxed)))
    }

    /// Removes a file of the job's folder once nobody waits to submit it.
    fn let_go(&self, path: &Path) {
        let mut given = lock(&self.given);
        if Self::forget(&mut given, path) == 0 {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(path.with_extension("of"));
        }
    }

    /// Hands files to the ingest, as `submit` does, with the same checks; those in the job's folder are removed then.
    /// `names` are the artifacts that it makes.
    pub async fn submit(
        &self,
        what: What,
        items: Vec<Item>,
        names: &[ArtifactName],
    ) -> anyhow::Result<Totals> {
        let (daemon, channel) = (self.daemon.clone(), self.source.channel.clone());
        let own: Vec<PathBuf> = items
            .iter()
            .filter(|item| item.source.starts_with(&self.folder))
            .map(|item| item.source.clone())
            .collect();
        let by = self.source.actor();
        let work = move || {
            let tell = |event| daemon.audit.tell(&by, event);
            submit::hand_over(&daemon.packs, &daemon.store, &daemon.writer, channel, what, &items, &tell)
        };
        let totals = tokio::task::spawn_blocking(work).await.context("the submission crashed")?;
        // What was refused would be refused again.
        own.iter().for_each(|path| self.let_go(path));
        let totals = totals?;
        let mut report = lock(&self.report);
        report.new_bytes += totals.new_bytes;
        for name in names {
            lock(&self.seen).insert(name.to_string());
            report.new.push(name.to_string());
        }
        Ok(totals)
    }

    /// What was told so far.
    pub(super) fn report(&self) -> Report {
        let mut report = lock(&self.report).clone();
        report.bytes = self.fetch.done_bytes();
        report
    }

    /// The names of everything that the upstream has.
    pub(super) fn seen(&self) -> BTreeSet<String> {
        lock(&self.seen).clone()
    }
}
