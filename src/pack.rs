//! Bulk data and small facts on disk. The only place of the library that touches a file system, besides the journal.
//!
//! A [`PackStore`] is a folder of packs: append-only runs of blobs, written in blocks and read in ranges. A
//! [`fact`] is a small file that must not be lost.

mod copy;
pub mod fact;
mod reader;
mod space;
mod sparse;
mod stamp;
mod store;
pub mod verify;

use std::path::PathBuf;

use thiserror::Error;

use crate::id::BlockId;

pub use reader::BlobReader;
pub use space::{Disk, NoSpace, Space};
pub use sparse::BlockRanges;
pub use stamp::Stamp;
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
    /// A block is known not to be what it was, and is not read until it is mended.
    #[error("block {block} in {path} is damaged and is not read before it is mended", path = path.display())]
    Condemned {
        /// The block.
        block: BlockId,
        /// Its pack.
        path: PathBuf,
    },
    /// It would not fit.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
}

impl PackError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Whether there is no room on the file system.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            Self::NoSpace(_) => true,
            Self::Damaged { .. } | Self::Condemned { .. } => false,
        }
    }

    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}
