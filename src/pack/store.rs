//! Packs in a folder, one file each, named by their id.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{Mode, OFlags};

use super::{PackError, fact};
use crate::id::{BlockId, BlockNo, PackId};
use crate::limits::BLOCK_BYTES;
use crate::release::index::Blob;

/// Packs that are kept open: less than the 1024 files that a process may have by default.
const OPEN_FILES_MAX: usize = 256;

/// A folder of packs. Shared by all threads of a daemon; files stay open, up to a number.
#[derive(Debug)]
pub struct PackStore {
    dir: PathBuf,
    files: Mutex<HashMap<PackId, Arc<File>>>,
    reserve_bytes: u64,
    /// Blocks that are not what they were.
    condemned: RwLock<BTreeSet<BlockId>>,
}

impl PackStore {
    /// Opens the folder, making it if need be.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        std::fs::create_dir_all(dir).map_err(PackError::io("create the folder", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            files: Mutex::default(),
            reserve_bytes: 0,
            condemned: RwLock::default(),
        })
    }

    /// Has bulk data leave this much room on the file system.
    pub fn with_reserve(mut self, bytes: u64) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// Octets that bulk data leaves free.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a pack is.
    pub fn path(&self, pack: PackId) -> PathBuf {
        self.dir.join(format!("{pack}.pack"))
    }

    pub(super) fn forget_file(&self, pack: PackId) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&pack);
    }

    pub(super) fn file(&self, pack: PackId, create: bool) -> Result<Arc<File>, PackError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&pack) {
            // Another process may have removed it.
            if file.metadata().is_ok_and(|found| found.nlink() > 0) {
                return Ok(file.clone());
            }
            files.remove(&pack);
        }
        let path = self.path(pack);
        let is_new = create && !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(0o640);
        let file = match fact::open_regular(&path, &mut options) {
            // Who serves may have leave to read only.
            Err(error) if !create && is_read_only(&error) => {
                fact::open_regular(&path, OpenOptions::new().read(true))
            }
            opened => opened,
        };
        let file = file.map_err(PackError::io("open", &path))?;
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
    ///
    /// # Errors
    /// [`PackError::Condemned`] if it lies in a block that is known to be damaged.
    pub fn read_at(&self, pack: PackId, offset: u64, out: &mut [u8]) -> Result<(), PackError> {
        self.refuse_condemned(pack, offset, out.len() as u64)?;
        self.read_whatever(pack, offset, out)?;
        // It may have been condemned while it was read.
        self.refuse_condemned(pack, offset, out.len() as u64)
    }

    /// [`read_at`](Self::read_at) for who compares it with a digest.
    pub fn read_whatever(&self, pack: PackId, offset: u64, out: &mut [u8]) -> Result<(), PackError> {
        self.file(pack, false)?.read_exact_at(out, offset).map_err(PackError::io("read", self.path(pack)))
    }

    pub(super) fn refuse_condemned(&self, pack: PackId, offset: u64, bytes: u64) -> Result<(), PackError> {
        let condemned = self.condemned.read().unwrap_or_else(PoisonError::into_inner);
        if condemned.is_empty() || bytes == 0 {
            return Ok(());
        }
        let at = |octet: u64| {
            let number = u32::try_from(octet / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
            BlockId { pack, block: BlockNo(number) }
        };
        match condemned.range(at(offset)..=at(offset.saturating_add(bytes - 1))).next() {
            Some(block) => Err(PackError::Condemned { block: *block, path: self.path(pack) }),
            None => Ok(()),
        }
    }

    /// Has a block that is not what it was refused to every reader.
    pub fn condemn(&self, block: BlockId) {
        self.condemned.write().unwrap_or_else(PoisonError::into_inner).insert(block);
    }

    /// Says that a block is right again, or not needed any more. Returns whether it was condemned.
    pub fn absolve(&self, block: &BlockId) -> bool {
        self.is_condemned(block)
            && self.condemned.write().unwrap_or_else(PoisonError::into_inner).remove(block)
    }

    /// Whether a block is condemned.
    pub fn is_condemned(&self, block: &BlockId) -> bool {
        self.condemned.read().unwrap_or_else(PoisonError::into_inner).contains(block)
    }

    /// The blocks that are condemned.
    pub fn condemned(&self) -> BTreeSet<BlockId> {
        self.condemned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A file in the folder that has no name (`O_TMPFILE`, open(2)): it is gone when it is closed.
    pub fn nameless(&self) -> Result<File, PackError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.dir, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|errno| PackError::io("make a file in", &self.dir)(errno.into()))
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
}

fn is_read_only(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
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
    fn a_pack_that_another_process_removed_is_not_written_into_the_void() {
        let dir = crate::testing::TempDir::new("pack-removed");
        let (store, other) = (PackStore::open(dir.path()).unwrap(), PackStore::open(dir.path()).unwrap());
        let pack = PackId([4; 8]);
        store.write_at(pack, 0, b"old").unwrap();
        std::fs::remove_file(other.path(pack)).unwrap();
        assert!(store.read_at(pack, 0, &mut [0]).unwrap_err().is_missing());
        store.write_at(pack, 0, b"new").unwrap();
        let mut out = [0; 3];
        other.read_at(pack, 0, &mut out).unwrap();
        assert_eq!(&out, b"new");
    }

    #[test]
    fn what_is_condemned_is_not_read() {
        let dir = crate::testing::TempDir::new("condemned");
        let store = PackStore::open(dir.path()).unwrap();
        let pack = PackId([3; 8]);
        store.write_at(pack, 0, &vec![1; 3 * BLOCK_BYTES]).unwrap();
        let bad = BlockId { pack, block: BlockNo(1) };
        store.condemn(bad);
        let block = BLOCK_BYTES as u64;
        let mut two = [0; 2];
        let mut is_read = |offset| store.read_at(pack, offset, &mut two).is_ok();
        assert!(is_read(block - 2) && is_read(2 * block));
        assert!(!is_read(block - 1) && !is_read(block) && !is_read(2 * block - 1));
        let mut all = vec![0; 3 * BLOCK_BYTES];
        let error = store.read_at(pack, 0, &mut all).unwrap_err();
        assert!(error.to_string().contains("0303030303030303/1"), "{error}");
        assert!(store.read_whatever(pack, 0, &mut all).is_ok());
        assert_eq!(store.condemned(), BTreeSet::from([bad]));
        assert!(store.absolve(&bad) && !store.absolve(&bad));
        store.read_at(pack, 0, &mut all).unwrap();
    }

    #[test]
    fn a_pack_that_is_not_there_is_an_error_with_its_path() {
        let dir = crate::testing::TempDir::new("pack-missing");
        let store = PackStore::open(dir.path()).unwrap();
        let error = store.read_at(PackId([7; 8]), 0, &mut [0]).unwrap_err();
        assert!(error.is_missing() && error.to_string().contains("0707070707070707.pack"), "{error}");
    }
}
