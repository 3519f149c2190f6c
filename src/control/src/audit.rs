//! The audit log of a daemon ([`diodesync::audit`] says what it is): where it lies, who writes it, and its commands.
//!
//! ```text
//! DIR/audit/N.jsonl      entries from number N on; when one is long a new one is begun. Whole ones may be moved away
//! DIR/audit/checkpoint   the last entry, signed, as it was written last; lost in a power cut it may be an older one
//! DIR/audit/key.pub      the public audit key
//! DIR/audit/lock         held for the time of one entry, because commands that need no daemon write, too
//! ```
//!
//! [`Audit::tell`] is for what is about to be done: if it cannot be written, it must not be done. [`Audit::note`] is for
//! what has happened anyway: it is kept in memory while the disk is full, and written in its turn.

mod commands;
mod log;
mod person;
mod verify;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use diodesync::audit::{Actor, AuditKey, AuditPublic, Checkpoint, Event, Head, Side, Told};
use diodesync::id::LinkId;
use diodesync::pack::fact;

use crate::{clock_ms, secret};
pub use commands::{ShowArgs, VerifyArgs, show, verify};
use log::Log;
pub use person::{Caller, command, refusals};

/// Tells what is about to be done, in the name of someone.
pub type Tell<'a> = dyn Fn(Event) -> anyhow::Result<()> + 'a;

/// Entries that wait for room on the disk.
const UNTOLD_MAX: usize = 10_000;
/// Why nothing is done.
const WHY: &str = "the audit log takes no entry, and what it cannot tell is not done";

/// Where a side has its audit log.
#[derive(Debug, Clone)]
pub struct Place {
    /// The side's folder.
    pub dir: PathBuf,
    /// Which side it is.
    pub side: Side,
    /// The file of the audit key, in that folder.
    pub key: &'static str,
}

impl Place {
    fn folder(&self) -> PathBuf {
        self.dir.join("audit")
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder().join("checkpoint")
    }

    fn public(&self) -> PathBuf {
        self.folder().join("key.pub")
    }

    /// The audit key; made, if there is none yet.
    fn key(&self) -> anyhow::Result<AuditKey> {
        let path = self.dir.join(self.key);
        if !path.exists() {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).context("the operating system gives no random numbers")?;
            fact::write_secret(&path, &seed)?;
        }
        Ok(AuditKey::from_seed(&secret::read_key_file(&path)?))
    }

    /// The public key, as it lies beside the log.
    fn public_key(&self) -> anyhow::Result<AuditPublic> {
        let path = self.public();
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("cannot read {}; give the public audit key with --key FILE", path.display())
        })?;
        text.parse().with_context(|| path.display().to_string())
    }
}

/// Writes the log of a side. Clones write the same.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    key: AuditKey,
    link: Option<LinkId>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: Log,
    /// What has happened and could not be written.
    untold: VecDeque<Told>,
    /// Why not.
    trouble: Option<String>,
    /// How the log did not verify at the start.
    broken: Option<String>,
}

impl Audit {
    /// Opens the log of a side, and begins it if there is none. `link` is what the side was paired for.
    pub fn open(place: Place, link: Option<LinkId>) -> anyhow::Result<Self> {
        let folder = place.folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let key = place.key()?;
        let public = format!("{}\n", key.public());
        if std::fs::read_to_string(place.public()).ok().as_ref() != Some(&public) {
            fact::write_atomic(&place.public(), 0o644, &[public.as_bytes()])?;
        }
        let log = Log::new(folder, place.side, key.public());
        let state = State { log, untold: VecDeque::new(), trouble: None, broken: None };
        Ok(Self(Arc::new(Inner { place, key, link, state: Mutex::new(state) })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a daemon that starts: looks whether the log is what was written, and tells that it starts. What is wrong is an
    /// alarm and an entry, and the log goes on.
    pub fn start(&self, config: &Path) {
        let place = &self.0.place;
        let found = place.public_key().and_then(|public| verify::verify(place, &[], public));
        if let Err(error) = found {
            let why = format!("{error:#}");
            tracing::error!(why, "the audit log is not what was written");
            self.state().broken = Some(why.clone());
            self.note(&Actor::daemon("start"), Event::Broken { why });
        }
        let config = diodesync::id::Sha256::of(&std::fs::read(config).unwrap_or_default());
        let program = env!("CARGO_PKG_VERSION").to_owned();
        self.note(&Actor::daemon("start"), Event::Started { program, config });
    }

    /// For a daemon that ends.
    pub fn stop(&self) {
        self.note(&Actor::daemon("stop"), Event::Stopped {});
    }

    /// Tells what is about to be done.
    ///
    /// # Errors
    /// If it cannot be told; then it must not be done.
    pub fn tell(&self, by: &Actor, event: Event) -> anyhow::Result<()> {
        let told = Told { time_ms: clock_ms(), by: by.clone(), event };
        self.write(&mut self.state(), Some(told)).context(WHY)
    }

    /// Tells what has happened, as soon as it can be written.
    pub fn note(&self, by: &Actor, event: Event) {
        let mut state = self.state();
        if state.untold.len() < UNTOLD_MAX {
            state.untold.push_back(Told { time_ms: clock_ms(), by: by.clone(), event });
        }
        // The alarm says why it is not.
        let _ = self.write(&mut state, None);
    }

    /// Writes what could not be written before.
    pub fn retry(&self) {
        let mut state = self.state();
        if !state.untold.is_empty() {
            let _ = self.write(&mut state, None);
        }
    }

    /// What an operator must know.
    pub fn alarm(&self) -> Option<String> {
        let state = self.state();
        let broken = state.broken.as_ref().map(|why| {
            format!(
                "the audit log is not what was written: {why}. See: audit verify; and who could write to it"
            )
        });
        let trouble = state.trouble.as_ref().map(|why| format!("{WHY}: {why}. It goes on by itself"));
        match (broken, trouble) {
            (Some(broken), Some(trouble)) => Some(format!("{broken}. And {trouble}")),
            (broken, trouble) => broken.or(trouble),
        }
    }

    /// Signs how far the log goes.
    pub fn checkpoint(&self) -> anyhow::Result<Checkpoint> {
        let head = self.state().log.head()?;
        anyhow::ensure!(head != Head::NONE, "the audit log has no entry yet");
        Ok(self.sign(head))
    }

    fn sign(&self, head: Head) -> Checkpoint {
        let Inner { place, key, link, .. } = &*self.0;
        Checkpoint::sign(key, place.side, *link, head, clock_ms())
    }

    /// Writes what waits, and then `told`.
    fn write(&self, state: &mut State, told: Option<Told>) -> anyhow::Result<()> {
        let all: Vec<Told> = state.untold.iter().cloned().chain(told).collect();
        match state.log.append(&all) {
            Ok(head) => {
                state.untold.clear();
                if state.trouble.take().is_some() {
                    tracing::info!("the audit log is written again");
                }
                // A crash may lose it, and then an older one is there.
                let text = self.sign(head).encode();
                if let Err(error) = fact::replace_lazily(&self.0.place.checkpoint(), 0o640, text.as_bytes()) {
                    tracing::debug!(%error, "the newest checkpoint is not kept");
                }
                Ok(())
            }
            Err(error) => {
                let why = format!("{error:#}");
                if state.trouble.as_ref() != Some(&why) {
                    tracing::error!(why, "the audit log cannot be written");
                }
                state.trouble = Some(why);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
