//! Bulk data and small facts on disk. The only place of the library that touches a file system, besides the journal.
//!
//! A [`PackStore`] is a folder of packs: append-only runs of blobs, written in blocks and read in ranges. A
//! [`fact`] is a small file that must not be lost.

pub mod fact;
mod store;

use std::path::PathBuf;

use thiserror::Error;

pub use store::{Blobs, PackStore};

/// A file operation failed.
#[derive(Debug, Error)]
pub enum PackError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A fact file is not what was written.
    #[error(
        "{path} is damaged: {why}. It records a fact that cannot be guessed; restore it from a backup of this host",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl PackError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}
