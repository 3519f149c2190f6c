//! A blob as a file of its own. Where the file system can share extents, the file shares those of the pack: large blobs
//! start at a multiple of [`BLOB_ALIGN_BYTES`](crate::limits::BLOB_ALIGN_BYTES) for that. Else the kernel copies, and
//! between file systems that it cannot copy between, we do.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use super::{PackError, PackStore};
use crate::release::index::{Blob, Extent};

/// Octets that the kernel copies at once, between two calls of `beat`.
const PIECE_BYTES: u64 = 64 << 20;
/// Octets of our own copies.
const BUFFER_BYTES: usize = 1 << 20;

impl PackStore {
    /// Writes a blob into an empty file at `path`, which is `out`. `beat` is called between pieces.
    ///
    /// # Errors
    /// If the pack or the file fails, or a block is condemned. What is in the file then is of no use.
    pub fn copy_blob(
        &self,
        blob: &Blob,
        out: &File,
        path: &Path,
        mut beat: impl FnMut(),
    ) -> Result<(), PackError> {
        let mut at = 0;
        for extent in &blob.extents {
            self.refuse_condemned(extent.pack, extent.offset, extent.bytes)?;
            self.copy_extent(extent, out, at, path, &mut beat)?;
            self.refuse_condemned(extent.pack, extent.offset, extent.bytes)?;
            at += extent.bytes;
        }
        Ok(())
    }

    fn copy_extent(
        &self,
        extent: &Extent,
        out: &File,
        at: u64,
        path: &Path,
        beat: &mut impl FnMut(),
    ) -> Result<(), PackError> {
        let pack = self.file(extent.pack, false)?;
        let mut done = 0;
        while done < extent.bytes {
            beat();
            let (mut from, mut to) = (extent.offset + done, at + done);
            let piece = (extent.bytes - done).min(PIECE_BYTES) as usize;
            match copy_file_range(&*pack, Some(&mut from), out, Some(&mut to), piece) {
                Ok(0) => {
                    let short = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(PackError::io("read", self.path(extent.pack))(short));
                }
                Ok(copied) => done += copied as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                    return self.copy_by_hand(extent, done, out, at, path, beat);
                }
                Err(errno) => return Err(PackError::io("write", path)(errno.into())),
            }
        }
        Ok(())
    }

    fn copy_by_hand(
        &self,
        extent: &Extent,
        mut done: u64,
        out: &File,
        at: u64,
        path: &Path,
        beat: &mut impl FnMut(),
    ) -> Result<(), PackError> {
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(extent.bytes).unwrap_or(BUFFER_BYTES))];
        while done < extent.bytes {
            beat();
            let piece = (extent.bytes - done).min(buffer.len() as u64) as usize;
            let Some(piece) = buffer.get_mut(..piece) else { break };
            self.read_whatever(extent.pack, extent.offset + done, piece)?;
            out.write_all_at(piece, at + done).map_err(PackError::io("write", path))?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BlockId, BlockNo, PackId};
    use crate::testing::TempDir;

    #[test]
    fn a_blob_becomes_a_file_whatever_way() {
        let dir = TempDir::new("copy");
        let store = PackStore::open(&dir.path().join("packs")).unwrap();
        let (one, two) = (PackId([1; 8]), PackId([2; 8]));
        let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        store.write_at(one, 4096, &content[..100_000]).unwrap();
        store.write_at(two, 7, &content[100_000..]).unwrap();
        let extents = vec![
            Extent { pack: one, offset: 4096, bytes: 100_000 },
            Extent { pack: two, offset: 7, bytes: 200_000 },
        ];
        let blob = Blob { bytes: 300_000, extents };
        let path = dir.path().join("file");
        let out = File::create(&path).unwrap();
        let mut beats = 0;
        store.copy_blob(&blob, &out, &path, || beats += 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert!(beats >= 2);
        // Where the kernel does not copy.
        let out = File::create(&path).unwrap();
        for (extent, at) in blob.extents.iter().zip([0, 100_000]) {
            store.copy_by_hand(extent, 0, &out, at, &path, &mut || ()).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), content);
        store.condemn(BlockId { pack: two, block: BlockNo(0) });
        assert!(matches!(store.copy_blob(&blob, &out, &path, || ()), Err(PackError::Condemned { .. })));
        // A pack that was cut is no endless copy.
        store.absolve(&BlockId { pack: two, block: BlockNo(0) });
        store.truncate(two, 10).unwrap();
        assert!(store.copy_blob(&blob, &out, &path, || ()).is_err());
    }
}
