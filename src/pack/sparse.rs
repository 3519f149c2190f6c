//! Holes in packs: which blocks have octets on the disk, and giving room back without moving anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::{PackError, PackStore, fact};
use crate::id::{BlockId, PackId};
use crate::limits::{BLOCK_BYTES, PACK_BYTES_MAX};

/// Ranges of blocks, by pack, rising.
pub type BlockRanges = BTreeMap<PackId, Vec<Range<u32>>>;

impl PackStore {
    /// The octets of a pack that are on the disk and not in a hole, as ranges that rise; empty if there is no such pack.
    pub fn data_ranges(&self, pack: PackId) -> Result<Vec<Range<u64>>, PackError> {
        let file = match self.file(pack, false) {
            Ok(file) => file,
            Err(error) if error.is_missing() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        data_ranges(&file).map_err(|errno| PackError::io("look for holes in", self.path(pack))(errno.into()))
    }

    /// Those of these blocks, each with its octets, of which some octets are in a hole of their pack or past its end.
    /// (They may still be what they should be: some file systems keep zeros as holes.)
    pub fn not_stored(
        &self,
        blocks: impl Iterator<Item = (BlockId, u32)>,
    ) -> Result<Vec<BlockId>, PackError> {
        let mut by_pack: BTreeMap<PackId, Vec<(BlockId, u64)>> = BTreeMap::new();
        for (id, bytes) in blocks {
            by_pack.entry(id.pack).or_default().push((id, id.offset() + u64::from(bytes)));
        }
        let mut gone = Vec::new();
        for (pack, blocks) in by_pack {
            let ranges = self.data_ranges(pack)?;
            let is_there = |(id, end): &(BlockId, u64)| {
                let at = ranges.partition_point(|range| range.end <= id.offset());
                ranges.get(at).is_some_and(|range| range.start <= id.offset() && *end <= range.end)
            };
            gone.extend(blocks.iter().filter(|block| !is_there(block)).map(|(id, _)| *id));
        }
        Ok(gone)
    }

    /// The blocks of every pack of which at least one octet is on the disk.
    pub fn stored_blocks(&self) -> Result<BlockRanges, PackError> {
        let mut stored = BlockRanges::new();
        for pack in self.list()? {
            let mut ranges: Vec<Range<u32>> = Vec::new();
            for range in self.data_ranges(pack)? {
                let end = range.end.min(PACK_BYTES_MAX).div_ceil(BLOCK_BYTES as u64) as u32;
                let start = (range.start.min(PACK_BYTES_MAX) / BLOCK_BYTES as u64) as u32;
                match ranges.last_mut() {
                    Some(last) if last.end >= start => last.end = last.end.max(end),
                    _ => ranges.push(start..end),
                }
            }
            stored.insert(pack, ranges);
        }
        Ok(stored)
    }

    /// Octets on the disk within these ranges of blocks of a pack.
    pub fn bytes_in(&self, pack: PackId, blocks: &[Range<u32>]) -> Result<u64, PackError> {
        let block = BLOCK_BYTES as u64;
        let data = self.data_ranges(pack)?;
        let within = |range: &Range<u64>| -> u64 {
            let common =
                |data: &Range<u64>| data.end.min(range.end).saturating_sub(data.start.max(range.start));
            data.iter().map(common).sum()
        };
        Ok(blocks
            .iter()
            .map(|range| within(&(u64::from(range.start) * block..u64::from(range.end) * block)))
            .sum())
    }

    /// Gives the room of some blocks back; every other block stays where it is. Where the file system cannot do it
    /// the answer is false, and nothing has changed.
    pub fn punch(&self, pack: PackId, blocks: &Range<u32>) -> Result<bool, PackError> {
        let file = match self.file(pack, false) {
            Ok(file) => file,
            Err(error) if error.is_missing() => return Ok(true),
            Err(error) => return Err(error),
        };
        let block = BLOCK_BYTES as u64;
        let (start, count) = (u64::from(blocks.start), u64::from(blocks.end.saturating_sub(blocks.start)));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&*file, flags, start * block, count * block) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(PackError::io("punch a hole into", self.path(pack))(io::Error::from(errno))),
        }
    }

    /// Removes a pack.
    pub fn remove(&self, pack: PackId) -> Result<(), PackError> {
        self.forget_file(pack);
        match std::fs::remove_file(self.path(pack)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(PackError::io("remove", self.path(pack))(error))
            }
            _ => fact::sync_dir(self.dir()),
        }
    }

    /// Cuts off what follows `bytes`; a pack of which nothing is left goes.
    pub fn truncate(&self, pack: PackId, bytes: u64) -> Result<(), PackError> {
        let file = match self.file(pack, false) {
            Ok(file) => file,
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(error),
        };
        if bytes == 0 {
            return self.remove(pack);
        }
        let cut = || if file.metadata()?.len() > bytes { file.set_len(bytes) } else { Ok(()) };
        cut().map_err(PackError::io("cut", self.path(pack)))
    }
}

fn data_ranges(file: &File) -> Result<Vec<Range<u64>>, Errno> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(ranges),
            // A file system that knows no holes: all of it is there.
            Err(Errno::INVAL) => {
                let end = seek(file, SeekFrom::End(0))?;
                return Ok(std::iter::once(0..end).collect());
            }
            Err(errno) => return Err(errno),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        if end <= start {
            return Ok(ranges);
        }
        ranges.push(start..end);
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_hole_frees_its_blocks_and_moves_nothing() {
        let dir = TempDir::new("sparse");
        let store = PackStore::open(dir.path()).unwrap();
        let pack = PackId([1; 8]);
        let block = BLOCK_BYTES as u64;
        for number in [0, 1, 2, 5] {
            store.write_at(pack, number * block, &vec![number as u8 + 1; BLOCK_BYTES]).unwrap();
        }
        store.write_at(pack, 6 * block, b"tail").unwrap();
        assert_eq!(store.stored_blocks().unwrap()[&pack], [0..3, 5..7]);
        let before = store.stored_bytes().unwrap();
        assert_eq!(store.bytes_in(pack, &[1..2, 3..6]).unwrap(), 2 * block);
        assert!(store.punch(pack, &(1..2)).unwrap(), "this file system punches no holes");
        assert!(store.punch(pack, &(6..7)).unwrap());
        assert_eq!(store.stored_blocks().unwrap()[&pack], [0..1, 2..3, 5..6]);
        assert!(store.stored_bytes().unwrap() < before);
        let mut octet = [9];
        for (number, expected) in [(0, 1), (1, 0), (2, 3), (5, 6)] {
            store.read_at(pack, number * block + 7, &mut octet).unwrap();
            assert_eq!(octet, [expected]);
        }
        assert_eq!(std::fs::metadata(store.path(pack)).unwrap().len(), 6 * block + 4);
        store.truncate(pack, 3 * block).unwrap();
        assert_eq!(store.stored_blocks().unwrap()[&pack], [0..1, 2..3]);
        store.truncate(pack, 9 * block).unwrap();
        assert_eq!(std::fs::metadata(store.path(pack)).unwrap().len(), 3 * block);
        store.remove(pack).unwrap();
        store.remove(pack).unwrap();
        assert!(store.stored_blocks().unwrap().is_empty() && store.punch(pack, &(0..1)).unwrap());
    }
}
