//! Packs in a folder, one file each, named by their id.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{PackError, fact};
use crate::id::PackId;
use crate::release::index::Blob;

/// Packs that are kept open: less than the 1024 files that a process may have by default.
const OPEN_FILES_MAX: usize = 256;

/// A folder of packs. Shared by all threads of a daemon; files stay open, up to a number.
#[derive(Debug)]
pub struct PackStore {
    dir: PathBuf,
    files: Mutex<HashMap<PackId, Arc<File>>>,
}

impl PackStore {
    /// Opens the folder, making it if need be.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        std::fs::create_dir_all(dir).map_err(PackError::io("create the folder", dir))?;
        Ok(Self { dir: dir.to_owned(), files: Mutex::default() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a pack is.
    pub fn path(&self, pack: PackId) -> PathBuf {
        self.dir.join(format!("{pack}.pack"))
    }

    fn file(&self, pack: PackId, create: bool) -> Result<Arc<File>, PackError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&pack) {
            return Ok(file.clone());
        }
        let path = self.path(pack);
        let is_new = create && !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(PackError::io("open", &path))?;
        if is_new {
            fact::sync_dir(&self.dir)?;
        }
        let file = Arc::new(file);
        // Who uses one of these has it open still.
        if files.len() >= OPEN_FILES_MAX {
            files.clear();
        }
        files.insert(pack, file.clone());
        Ok(file)
    }

    /// Writes `bytes` at `offset`, making the pack if it is new. Durable after [`sync`](Self::sync).
    pub fn write_at(&self, pack: PackId, offset: u64, bytes: &[u8]) -> Result<(), PackError> {
        self.file(pack, true)?.write_all_at(bytes, offset).map_err(PackError::io("write", self.path(pack)))
    }

    /// Fills `out` from `offset`.
    pub fn read_at(&self, pack: PackId, offset: u64, out: &mut [u8]) -> Result<(), PackError> {
        self.file(pack, false)?.read_exact_at(out, offset).map_err(PackError::io("read", self.path(pack)))
    }

    /// Makes what was written to the pack durable.
    pub fn sync(&self, pack: PackId) -> Result<(), PackError> {
        self.file(pack, true)?.sync_data().map_err(PackError::io("sync", self.path(pack)))
    }

    /// The packs that are there.
    pub fn list(&self) -> Result<Vec<PackId>, PackError> {
        let mut packs = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(PackError::io("list", &self.dir))? {
            let entry = entry.map_err(PackError::io("list", &self.dir))?;
            let name = entry.file_name();
            let id: Option<PackId> =
                name.to_str().and_then(|name| name.strip_suffix(".pack")).and_then(|id| id.parse().ok());
            packs.extend(id);
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// Octets free for an unprivileged writer on the file system that holds the packs.
    pub fn free_bytes(&self) -> Result<u64, PackError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|errno| PackError::io("measure", &self.dir)(io::Error::from(errno)))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Reading of blobs out of packs.
pub trait Blobs {
    /// Fills `out` from `offset` of the blob, and returns how much of it that was: all, but for the blob's end.
    fn read_blob(&self, blob: &Blob, offset: u64, out: &mut [u8]) -> Result<usize, PackError>;

    /// The whole blob, which must have at most `max` octets.
    fn whole_blob(&self, blob: &Blob, max: u64) -> Result<Option<Vec<u8>>, PackError> {
        if blob.bytes > max {
            return Ok(None);
        }
        let mut out = vec![0; blob.bytes as usize];
        let read = self.read_blob(blob, 0, &mut out)?;
        out.truncate(read);
        Ok(Some(out))
    }
}

impl Blobs for PackStore {
    fn read_blob(&self, blob: &Blob, offset: u64, out: &mut [u8]) -> Result<usize, PackError> {
        let (mut skip, mut done) = (offset, 0usize);
        for extent in &blob.extents {
            if skip >= extent.bytes {
                skip -= extent.bytes;
                continue;
            }
            let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
            let len = rest.len().min(usize::try_from(extent.bytes - skip).unwrap_or(usize::MAX));
            let Some(piece) = rest.get_mut(..len) else { break };
            self.read_at(extent.pack, extent.offset + skip, piece)?;
            done += len;
            skip = 0;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::index::Extent;

    #[test]
    fn a_blob_is_read_across_its_extents() {
        let dir = crate::testing::TempDir::new("pack");
        let store = PackStore::open(dir.path()).unwrap();
        let (one, two) = (PackId([1; 8]), PackId([2; 8]));
        store.write_at(one, 10, b"hello ").unwrap();
        store.write_at(two, 0, b"world").unwrap();
        let extents =
            vec![Extent { pack: one, offset: 10, bytes: 6 }, Extent { pack: two, offset: 0, bytes: 5 }];
        let blob = Blob { bytes: 11, extents };
        assert_eq!(store.whole_blob(&blob, 11).unwrap().unwrap(), b"hello world");
        assert_eq!(store.whole_blob(&blob, 10).unwrap(), None);
        let mut out = [0; 4];
        assert_eq!(store.read_blob(&blob, 4, &mut out).unwrap(), 4);
        assert_eq!(&out, b"o wo");
        assert_eq!(store.read_blob(&blob, 9, &mut out).unwrap(), 2);
        assert_eq!(store.list().unwrap(), [one, two]);
    }

    #[test]
    fn a_pack_that_is_not_there_is_an_error_with_its_path() {
        let dir = crate::testing::TempDir::new("pack-missing");
        let store = PackStore::open(dir.path()).unwrap();
        let error = store.read_at(PackId([7; 8]), 0, &mut [0]).unwrap_err();
        assert!(error.is_missing() && error.to_string().contains("0707070707070707.pack"), "{error}");
    }
}
