//! What a side holds: blobs, blocks and artifacts of several indexes, from which a new index is composed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::index::{Artifact, ArtifactKind, Blob, Extent, Index, PackRun};
use super::name::ArtifactName;
use crate::id::{Blake3, BlockId, BlockNo, Channel, PackId, ReleaseNo, Sha256};
use crate::limits::BLOCK_BYTES;

/// The blobs and blocks of all indexes that were absorbed.
#[derive(Debug, Default)]
pub struct Catalog {
    blobs: BTreeMap<Sha256, Blob>,
    blocks: BTreeMap<PackId, BTreeMap<u32, (u32, Blake3)>>,
    /// The first free block of packs whose last blocks belong to nothing that was absorbed.
    reserved: BTreeMap<PackId, BlockNo>,
    /// Blocks that are damaged: a blob that lies in one is not there.
    condemned: BTreeSet<BlockId>,
}

/// What a new index says besides its artifacts.
#[derive(Debug, Clone)]
pub struct Heading {
    /// The channel.
    pub channel: Channel,
    /// Its number.
    pub number: ReleaseNo,
    /// When it is cut, in seconds since 1970.
    pub created_s: u64,
    /// The release whose blocks the sender takes to be there already.
    pub baseline: Option<ReleaseNo>,
}

impl Catalog {
    /// Adds the blobs and blocks of an index.
    pub fn absorb(&mut self, index: &Index) {
        for (digest, blob) in &index.blobs {
            if !self.is_condemned(blob) {
                self.blobs.entry(*digest).or_insert_with(|| blob.clone());
            }
        }
        for block in index.blocks() {
            self.insert_block(block.id.pack, block.id.block, block.bytes, block.hash);
        }
    }

    /// Adds a block.
    pub fn insert_block(&mut self, pack: PackId, block: BlockNo, bytes: u32, hash: Blake3) {
        self.blocks.entry(pack).or_default().insert(block.0, (bytes, hash));
    }

    /// Adds a blob.
    pub fn insert_blob(&mut self, digest: Sha256, blob: Blob) {
        if !self.is_condemned(&blob) {
            self.blobs.entry(digest).or_insert(blob);
        }
    }

    /// Forgets the blobs that lie in a damaged block, for good, so that the same octets can be taken in again and lie
    /// elsewhere.
    pub fn condemn(&mut self, id: BlockId) {
        if self.condemned.insert(id) {
            self.blobs.retain(|_, blob| blob.blocks().all(|block| block != id));
        }
    }

    /// The damaged blocks.
    pub fn condemned(&self) -> &BTreeSet<BlockId> {
        &self.condemned
    }

    fn is_condemned(&self, blob: &Blob) -> bool {
        !self.condemned.is_empty() && blob.blocks().any(|block| self.condemned.contains(&block))
    }

    /// A block's octets and digest.
    pub fn block(&self, id: &BlockId) -> Option<(u32, Blake3)> {
        self.blocks.get(&id.pack)?.get(&id.block.0).copied()
    }

    /// Takes over the blocks that a blob lies in.
    pub fn copy_blocks(&mut self, from: &Self, blob: &Blob) {
        for (pack, range) in blob.extents.iter().filter_map(block_range) {
            let held = from.blocks.get(&pack).into_iter().flat_map(|blocks| blocks.range(range.clone()));
            let held: Vec<_> = held.map(|(number, block)| (*number, *block)).collect();
            self.blocks.entry(pack).or_default().extend(held);
        }
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &Sha256) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// Keeps all blocks of a pack before this one from being used again: older releases hold them.
    pub fn reserve(&mut self, pack: PackId, end: BlockNo) {
        let reserved = self.reserved.entry(pack).or_insert(end);
        *reserved = end.max(*reserved);
    }

    /// The first block of each pack that nothing uses yet.
    pub fn pack_ends(&self) -> BTreeMap<PackId, BlockNo> {
        let mut ends = self.reserved.clone();
        for (pack, blocks) in &self.blocks {
            let end = BlockNo(blocks.last_key_value().map_or(0, |(last, _)| last + 1));
            let known = ends.entry(*pack).or_insert(end);
            *known = end.max(*known);
        }
        ends
    }

    /// Writes the index of these artifacts: the blobs that they name and the blocks that those lie in, and nothing else.
    ///
    /// # Errors
    /// The digest of a blob that was never absorbed.
    pub fn compose(
        &self,
        heading: Heading,
        artifacts: BTreeMap<ArtifactName, ArtifactKind>,
    ) -> Result<Index, Sha256> {
        let mut blobs = BTreeMap::new();
        let mut needed: BTreeMap<PackId, BTreeMap<u32, (u32, Blake3)>> = BTreeMap::new();
        for (name, kind) in &artifacts {
            for digest in (Artifact { name: name.clone(), kind: kind.clone() }).blobs() {
                if blobs.contains_key(&digest) {
                    continue;
                }
                let blob = self.blobs.get(&digest).ok_or(digest)?;
                for (pack, range) in blob.extents.iter().filter_map(block_range) {
                    let held = self.blocks.get(&pack).ok_or(digest)?;
                    let into = needed.entry(pack).or_default();
                    for number in range {
                        into.insert(number, *held.get(&number).ok_or(digest)?);
                    }
                }
                blobs.insert(digest, blob.clone());
            }
        }
        let packs = needed.into_iter().map(|(pack, blocks)| (pack, runs(blocks))).collect();
        let Heading { channel, number, created_s, baseline } = heading;
        Ok(Index { channel, number, created_s, baseline, packs, blobs, artifacts })
    }
}

/// The blocks that an extent lies in.
fn block_range(extent: &Extent) -> Option<(PackId, RangeInclusive<u32>)> {
    let block = BLOCK_BYTES as u64;
    let last = extent.offset.checked_add(extent.bytes)?.checked_sub(1)?.checked_div(block)?;
    let range = u32::try_from(extent.offset / block).ok()?..=u32::try_from(last).ok()?;
    (extent.bytes > 0).then_some((extent.pack, range))
}

/// Joins neighbouring blocks; a short one ends its run.
fn runs(blocks: BTreeMap<u32, (u32, Blake3)>) -> Vec<PackRun> {
    let mut runs: Vec<PackRun> = Vec::new();
    for (number, (bytes, hash)) in blocks {
        match runs.last_mut() {
            Some(run)
                if run.first.0 + run.hashes.len() as u32 == number
                    && run.last_bytes as usize == BLOCK_BYTES =>
            {
                run.hashes.push(hash);
                run.last_bytes = bytes;
            }
            _ => runs.push(PackRun { first: BlockNo(number), last_bytes: bytes, hashes: vec![hash] }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_holds_what_its_artifacts_need_and_nothing_else() {
        let pack = PackId([1; 8]);
        let mut catalog = Catalog::default();
        for (number, bytes) in [(0, BLOCK_BYTES as u32), (1, 500), (2, BLOCK_BYTES as u32), (3, 9)] {
            catalog.insert_block(pack, BlockNo(number), bytes, Blake3([number as u8; 32]));
        }
        let blob = |offset, bytes| Blob { bytes, extents: vec![Extent { pack, offset, bytes }] };
        let (long, last, empty) = (Sha256([1; 32]), Sha256([2; 32]), Sha256::of(b""));
        catalog.insert_blob(long, blob(10, BLOCK_BYTES as u64));
        catalog.insert_blob(last, blob(3 * BLOCK_BYTES as u64, 9));
        catalog.insert_blob(empty, Blob { bytes: 0, extents: vec![] });
        let heading = || Heading {
            channel: Channel::main(),
            number: ReleaseNo(3),
            created_s: 1,
            baseline: Some(ReleaseNo(2)),
        };
        let file = |path: &str, blob| {
            let kind = ArtifactKind::File { blob, executable: false };
            (ArtifactName::File(path.parse().unwrap()), kind)
        };
        let artifacts = BTreeMap::from([file("a", long), file("b", last), file("e", empty)]);
        let index = catalog.compose(heading(), artifacts).unwrap();
        let places: Vec<_> = index.blocks().map(|block| (block.id.block.0, block.bytes)).collect();
        assert_eq!(places, [(0, BLOCK_BYTES as u32), (1, 500), (3, 9)]);
        assert_eq!(index.packs[&pack].len(), 2);
        assert_eq!(Index::parse(&index.encode()).as_ref(), Ok(&index));
        assert_eq!(catalog.pack_ends(), BTreeMap::from([(pack, BlockNo(4))]));
        catalog.reserve(pack, BlockNo(2));
        assert_eq!(catalog.pack_ends()[&pack], BlockNo(4));
        catalog.reserve(pack, BlockNo(9));
        catalog.reserve(pack, BlockNo(7));
        assert_eq!(catalog.pack_ends()[&pack], BlockNo(9));
        // What lies in a damaged block is not there, until it is put elsewhere.
        let both = || BTreeMap::from([file("a", long), file("b", last)]);
        catalog.condemn(BlockId { pack, block: BlockNo(3) });
        assert_eq!(catalog.compose(heading(), both()), Err(last));
        catalog.absorb(&index);
        assert_eq!(catalog.compose(heading(), both()), Err(last));
        catalog.insert_block(pack, BlockNo(9), 9, Blake3([9; 32]));
        catalog.insert_blob(last, blob(9 * BLOCK_BYTES as u64, 9));
        let places: Vec<_> =
            catalog.compose(heading(), both()).unwrap().blocks().map(|block| block.id.block.0).collect();
        assert_eq!(places, [0, 1, 9]);
        let missing = BTreeMap::from([file("m", Sha256([7; 32]))]);
        assert_eq!(catalog.compose(heading(), missing), Err(Sha256([7; 32])));
    }
}
