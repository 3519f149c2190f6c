//! Whether the log is what was written.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use diodesync::audit::{AuditPublic, Chain, Checkpoint, CheckpointError, Head, Wrong};
use diodesync::pack::PackError;

use super::{Place, log};

/// Time in which an entry that is being written is whole.
const WRITING: Duration = Duration::from_millis(300);

/// A log that was found good.
#[derive(Debug)]
pub struct Good {
    /// Its last entry.
    pub head: Head,
    /// What it was compared with, the log's own checkpoint first.
    pub checkpoints: Vec<Checkpoint>,
    /// Whether the log's own checkpoint is there.
    pub has_own: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{wrong}; in {path}")]
    Wrong { wrong: Wrong, path: String },
    #[error(transparent)]
    Io(#[from] PackError),
}

/// Goes through the whole log, and compares it with its own checkpoint and with others.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(place: &Place, checkpoints: &[PathBuf], key: AuditPublic) -> anyhow::Result<Good> {
    let mut all = Vec::new();
    let parse = |path: &PathBuf| -> anyhow::Result<Checkpoint> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Checkpoint::parse(&text, key).with_context(|| path.display().to_string())
    };
    let own = place.checkpoint();
    if own.exists() {
        match parse(&own) {
            Ok(checkpoint) => all.push(checkpoint),
            // A power cut may have garbled it.
            Err(error) if matches!(error.downcast_ref(), Some(CheckpointError::Syntax(_))) => {}
            Err(error) => return Err(error),
        }
    }
    let has_own = !all.is_empty();
    for path in checkpoints {
        all.push(parse(path)?);
    }
    let heads: Vec<Head> = all.iter().map(Checkpoint::head).collect();
    if let Some((a, b)) = contradiction(&all) {
        anyhow::bail!(
            "two checkpoints name different entries {}: SHA-256 {} at {} and {} at {}; the log was written anew in between",
            a.seq,
            a.hash,
            a.time_ms,
            b.hash,
            b.time_ms
        );
    }
    let head = match read(place, &heads) {
        // Somebody is writing it, maybe.
        Err(Failure::Wrong { wrong: Wrong::Torn { .. }, .. }) => {
            std::thread::sleep(WRITING);
            read(place, &heads)
        }
        other => other,
    }?;
    Ok(Good { head, checkpoints: all, has_own })
}

fn contradiction(all: &[Checkpoint]) -> Option<(&Checkpoint, &Checkpoint)> {
    let pairs = all.iter().enumerate().flat_map(|(at, a)| all.iter().skip(at + 1).map(move |b| (a, b)));
    pairs.into_iter().find(|(a, b)| a.seq == b.seq && a.hash != b.hash)
}

fn read(place: &Place, heads: &[Head]) -> Result<Head, Failure> {
    let mut chain = Chain::new(heads.iter().copied());
    let files = log::files(&place.folder())?;
    let mut rest = Vec::new();
    for (_, path) in &files {
        let wrong = |wrong| Failure::Wrong { wrong, path: path.display().to_string() };
        rest = log::each_line(path, |line| chain.push(line).map_err(wrong))?;
        // No file ends in the middle of a line, and none goes on with that of another.
        if !rest.is_empty() {
            break;
        }
    }
    let folder = place.folder().display().to_string();
    chain.end(&rest).map_err(|wrong| Failure::Wrong { wrong, path: folder })
}
