//! Room on the file system of the packs: what is free, and what is kept back for what must not fail.
//!
//! Bulk data stops at the reserve, so that facts, indexes and the journal can still be written.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{PackError, PackStore};
use crate::id::PackId;
use crate::quantity::Bytes;

/// A file system, as the packs see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// A folder on it.
    pub path: PathBuf,
    /// Octets of the file system.
    pub total_bytes: u64,
    /// Octets free for an unprivileged writer.
    pub free_bytes: u64,
    /// Octets that bulk data leaves free.
    pub reserve_bytes: u64,
}

/// What `status` says of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The folder of the packs.
    pub path: PathBuf,
    /// Octets of its file system.
    pub total_bytes: u64,
    /// Octets free on it.
    pub free_bytes: u64,
    /// Octets that bulk data leaves free.
    pub reserve_bytes: u64,
    /// Octets that the packs take.
    pub packs_bytes: u64,
    /// Octets that retention has given back since the start.
    pub freed_bytes: u64,
}

impl Disk {
    /// A line for people.
    pub fn to_text(&self) -> String {
        format!(
            "disk {}\n  free      {} of {}, {} kept back\n  packs     {}, {} given back since the start",
            self.path.display(),
            Bytes(self.free_bytes),
            Bytes(self.total_bytes),
            Bytes(self.reserve_bytes),
            Bytes(self.packs_bytes),
            Bytes(self.freed_bytes)
        )
    }

    /// What an operator should know.
    pub fn alarm(&self) -> Option<String> {
        (self.free_bytes < self.reserve_bytes).then(|| {
            format!(
                "the file system of {} has {} free ({} octets), less than the {} that are kept back: no bulk data is \
                 taken in. Free {} there, or lower reserve in [space]",
                self.path.display(),
                Bytes(self.free_bytes),
                self.free_bytes,
                Bytes(self.reserve_bytes),
                Bytes(self.reserve_bytes - self.free_bytes)
            )
        })
    }
}

/// Something would not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "there is no room for {what}: it takes {needed} ({needed_bytes} octets), the file system of {path} has {free} free \
     ({free_bytes} octets) and {reserve} are kept back; free {lack} there, or give it more room",
    needed = Bytes(*needed_bytes),
    path = path.display(),
    free = Bytes(*free_bytes),
    reserve = Bytes(*reserve_bytes),
    lack = Bytes(needed_bytes.saturating_add(*reserve_bytes).saturating_sub(*free_bytes))
)]
pub struct NoSpace {
    /// What it is.
    pub what: String,
    /// A folder on the file system.
    pub path: PathBuf,
    /// Octets that it takes.
    pub needed_bytes: u64,
    /// Octets that are free.
    pub free_bytes: u64,
    /// Octets of them that are kept back.
    pub reserve_bytes: u64,
}

impl Space {
    /// Measures the file system of a folder.
    pub fn of(path: &Path, reserve_bytes: u64) -> Result<Self, PackError> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|errno| PackError::io("measure", path)(io::Error::from(errno)))?;
        Ok(Self {
            path: path.to_owned(),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            reserve_bytes,
        })
    }

    /// Whether `needed_bytes` of bulk data fit before the reserve.
    ///
    /// # Errors
    /// What is needed and what is free; `what` is named in the text.
    pub fn admit(&self, what: impl Into<String>, needed_bytes: u64) -> Result<(), NoSpace> {
        if self.free_bytes >= needed_bytes.saturating_add(self.reserve_bytes) {
            return Ok(());
        }
        let Self { path, free_bytes, reserve_bytes, .. } = self.clone();
        Err(NoSpace { what: what.into(), path, needed_bytes, free_bytes, reserve_bytes })
    }
}

impl PackStore {
    /// What is free now.
    pub fn space(&self) -> Result<Space, PackError> {
        Space::of(self.dir(), self.reserve_bytes())
    }

    /// Refuses bulk data that would not fit before the reserve.
    pub fn admit(&self, what: impl Into<String>, needed_bytes: u64) -> Result<(), PackError> {
        Ok(self.space()?.admit(what, needed_bytes)?)
    }

    /// What `status` says.
    pub fn disk(&self, freed_bytes: u64) -> Result<Disk, PackError> {
        let Space { path, total_bytes, free_bytes, reserve_bytes } = self.space()?;
        let packs_bytes = self.stored_bytes()?;
        Ok(Disk { path, total_bytes, free_bytes, reserve_bytes, packs_bytes, freed_bytes })
    }

    /// Octets that the packs take on the disk; holes take none.
    pub fn stored_bytes(&self) -> Result<u64, PackError> {
        self.list()?.into_iter().map(|pack| self.stored_bytes_of(pack)).sum()
    }

    /// Octets that one pack takes on the disk; none if there is no such pack.
    pub fn stored_bytes_of(&self, pack: PackId) -> Result<u64, PackError> {
        match std::fs::metadata(self.path(pack)) {
            Ok(data) => Ok(data.blocks() * 512),
            // It went in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(PackError::io("measure", self.path(pack))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_and_the_text_says_everything() {
        let space = Space {
            path: "/srv/packs".into(),
            total_bytes: 100 << 20,
            free_bytes: 30 << 20,
            reserve_bytes: 10 << 20,
        };
        space.admit("it", 20 << 20).unwrap();
        let error = space.admit("the submission", (20 << 20) + 1).unwrap_err().to_string();
        for word in [
            "the submission",
            "/srv/packs",
            "30 MiB free",
            "31457280 octets",
            "20971521 octets",
            "10 MiB are kept",
        ] {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
        assert!(space.admit("more than there can be", u64::MAX).is_err());
    }
}
