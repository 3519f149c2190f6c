//! `verify`: everything that is kept, compared with its digest, and what it means where something is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::{Blobs, PackError, PackStore, fact};
use crate::id::{Blake3, BlockId, PackId, Sha256};
use crate::quantity::Bytes;
use crate::release::index::{Blob, Index, NeededBlock};

/// Octets that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Artifacts that are named for people before the rest is counted.
const NAMED_MAX: usize = 20;

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Blocks that were compared with their BLAKE3.
    pub blocks: u64,
    /// Blobs that were compared with their SHA-256.
    pub blobs: u64,
    /// Octets that were read.
    pub bytes: u64,
    /// Fact files that were read.
    pub facts: u64,
    /// Blocks that are not what they were, or gone.
    pub damaged_blocks: Vec<DamagedBlocks>,
    /// Blobs that are not what their digest says although their blocks are right.
    pub wrong_blobs: Vec<WrongBlob>,
    /// Fact files that are not what was written.
    pub damaged_facts: Vec<DamagedFact>,
}

/// Neighbouring blocks of one pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBlocks {
    /// The pack.
    pub pack: PackId,
    /// Its file.
    pub path: PathBuf,
    /// The first block.
    pub first: u32,
    /// The last block.
    pub last: u32,
    /// What is wrong with the first one.
    pub why: String,
    /// Artifacts that lie in them, as `CHANNEL: NAME`.
    pub artifacts: BTreeSet<String>,
}

/// See [`Report::wrong_blobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongBlob {
    /// What it is named.
    pub sha256: Sha256,
    /// What is wrong.
    pub why: String,
}

/// See [`Report::damaged_facts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFact {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damaged_blocks.is_empty() && self.wrong_blobs.is_empty() && self.damaged_facts.is_empty()
    }

    /// For people. `mend` says what to do about damaged blocks.
    pub fn to_text(&self, mend: &str) -> String {
        let mut out = String::new();
        let Self { blocks, blobs, bytes, facts, .. } = self;
        let _ = writeln!(
            out,
            "{blocks} blocks, {blobs} blobs and {facts} fact files looked at, {} read",
            Bytes(*bytes)
        );
        for DamagedBlocks { path, first, last, why, artifacts, .. } in &self.damaged_blocks {
            let _ = writeln!(out, "\nDAMAGED {}, blocks {first} to {last}: {why}", path.display());
            artifacts.iter().take(NAMED_MAX).for_each(|artifact| {
                let _ = writeln!(out, "  {artifact}");
            });
            if artifacts.len() > NAMED_MAX {
                let _ = writeln!(out, "  and {} more; all of them: --json", artifacts.len() - NAMED_MAX);
            }
        }
        for WrongBlob { sha256, why } in &self.wrong_blobs {
            let _ = writeln!(out, "\nDAMAGED blob {sha256}: {why}");
        }
        for DamagedFact { path, why } in &self.damaged_facts {
            let _ = writeln!(out, "\nDAMAGED {}: {why}", path.display());
        }
        if !self.damaged_blocks.is_empty() {
            let _ = writeln!(out, "\n{mend}");
        }
        let _ =
            writeln!(out, "{}", if self.is_clean() { "nothing is damaged" } else { "look at the disk, too" });
        out
    }

    /// Reads the fact files of these names in `dir`, which may be folders.
    pub fn look_at_facts(&mut self, dir: &Path, names: &[&str]) {
        for name in names {
            self.look_at_fact(&dir.join(name));
        }
    }

    fn look_at_fact(&mut self, path: &Path) {
        if path.is_dir() {
            let mut entries: Vec<PathBuf> =
                std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries.sort();
            // A temporary that a crash left is no fact.
            entries.retain(|path| path.extension().is_none_or(|extension| extension != "new"));
            return entries.iter().for_each(|path| self.look_at_fact(path));
        }
        match fact::read(path) {
            Ok(content) => self.facts += u64::from(content.is_some()),
            Err(error) => {
                self.facts += 1;
                self.damaged_facts.push(DamagedFact { path: path.to_owned(), why: error.to_string() });
            }
        }
    }

    /// Compares the blocks and blobs of these releases with their digests. `is_held` says which blocks should be there;
    /// `condemn` is told of each that is not right, and says whether that is still so. `progress` is told octets: done,
    /// and of how many.
    pub fn look_at_releases(
        &mut self,
        packs: &PackStore,
        releases: &[Arc<Index>],
        is_held: impl Fn(&NeededBlock) -> bool,
        condemn: impl Fn(&NeededBlock) -> bool,
        mut progress: impl FnMut(u64, u64),
    ) {
        let known = packs.condemned();
        let mut blocks: BTreeMap<BlockId, NeededBlock> = BTreeMap::new();
        let mut blobs: BTreeMap<Sha256, &Blob> = BTreeMap::new();
        for index in releases {
            blocks.extend(index.blocks().map(|block| (block.id, block)));
            blobs.extend(index.blobs.iter().map(|(digest, blob)| (*digest, blob)));
        }
        let total = blocks.values().map(|block| u64::from(block.bytes)).sum::<u64>()
            + blobs.values().map(|blob| blob.bytes).sum::<u64>();
        let mut damaged: BTreeMap<BlockId, String> = BTreeMap::new();
        let mut buffer = Vec::new();
        let mut done = 0;
        for block in blocks.values() {
            if known.contains(&block.id) {
                damaged.insert(
                    block.id,
                    "it was known to be damaged or gone, and has not come again".to_owned(),
                );
            } else if is_held(block) {
                self.blocks += 1;
                self.bytes += u64::from(block.bytes);
                if let Err(why) = judge_block(packs, block, &mut buffer)
                    && condemn(block)
                {
                    damaged.insert(block.id, why);
                }
            }
            done += u64::from(block.bytes);
            progress(done, total);
        }
        // In the order of the packs, so that reading is sequential.
        let mut blobs: Vec<_> = blobs.into_iter().collect();
        blobs.sort_by_key(|(_, blob)| blob.extents.first().map(|extent| (extent.pack, extent.offset)));
        for (digest, blob) in blobs {
            let is_there = |id| !damaged.contains_key(&id) && blocks.get(&id).is_some_and(&is_held);
            if blob.blocks().all(is_there) {
                self.blobs += 1;
                self.bytes += blob.bytes;
                if let Err(why) = judge_blob(packs, &digest, blob, &mut buffer) {
                    self.wrong_blobs.push(WrongBlob { sha256: digest, why });
                }
            }
            done += blob.bytes;
            progress(done, total);
        }
        self.name(packs, releases, &damaged);
    }

    /// Joins neighbours, and names what lies in them.
    fn name(&mut self, packs: &PackStore, releases: &[Arc<Index>], damaged: &BTreeMap<BlockId, String>) {
        let mut runs: Vec<(BTreeSet<BlockId>, &String)> = Vec::new();
        for (id, why) in damaged {
            let follows = |last: &BlockId| last.pack == id.pack && last.block.0 + 1 == id.block.0;
            match runs.last_mut() {
                Some((run, _)) if run.last().is_some_and(follows) => {
                    run.insert(*id);
                }
                _ => runs.push((BTreeSet::from([*id]), why)),
            }
        }
        for (run, why) in runs {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let named = releases.iter().flat_map(|index| {
                index.artifacts_in(&run).into_iter().map(|name| format!("{}: {name}", index.channel))
            });
            self.damaged_blocks.push(DamagedBlocks {
                pack: first.pack,
                path: packs.path(first.pack),
                first: first.block.0,
                last: last.block.0,
                why: why.clone(),
                artifacts: named.collect(),
            });
        }
    }
}

/// Compares a block on the disk with its digest.
///
/// # Errors
/// What is wrong.
pub fn judge_block(packs: &PackStore, block: &NeededBlock, buffer: &mut Vec<u8>) -> Result<(), String> {
    buffer.resize(block.bytes as usize, 0);
    packs.read_whatever(block.id.pack, block.id.offset(), buffer).map_err(|error| error.to_string())?;
    let found = Blake3::of(buffer);
    if found == block.hash {
        return Ok(());
    }
    Err(format!("block {} has BLAKE3 {found}, expected {}", block.id, block.hash))
}

fn judge_blob(packs: &PackStore, digest: &Sha256, blob: &Blob, buffer: &mut Vec<u8>) -> Result<(), String> {
    buffer.resize(READ_BYTES, 0);
    let mut hasher = sha2::Sha256::new();
    let mut at = 0;
    while at < blob.bytes {
        match packs.read_blob(blob, at, buffer) {
            Ok(read) => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                at += (read as u64).max(1);
            }
            // Damage that was found meanwhile, by someone else, is not another one.
            Err(PackError::Condemned { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
    let found = Sha256(hasher.finalize().into());
    if found == *digest { Ok(()) } else { Err(format!("it has SHA-256 {found}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BlockNo, Channel, ReleaseNo};
    use crate::limits::BLOCK_BYTES;
    use crate::release::catalog::{Catalog, Heading};
    use crate::release::index::{ArtifactKind, Extent};
    use crate::release::name::ArtifactName;
    use crate::testing::TempDir;

    /// Three blocks: `a` lies in the first, `b` in the second and third, `c` in the third.
    fn release(packs: &PackStore) -> Arc<Index> {
        let pack = PackId([1; 8]);
        let content: Vec<u8> = (0..3 * BLOCK_BYTES - 5).map(|at| (at / 1000 % 251) as u8).collect();
        packs.write_at(pack, 0, &content).unwrap();
        let mut catalog = Catalog::default();
        for (number, block) in content.chunks(BLOCK_BYTES).enumerate() {
            catalog.insert_block(pack, BlockNo(number as u32), block.len() as u32, Blake3::of(block));
        }
        let block = BLOCK_BYTES;
        let mut artifacts = BTreeMap::new();
        for (path, range) in
            [("a", 10..500), ("b", block + 7..2 * block + 100), ("c", 3 * block - 99..3 * block - 5)]
        {
            let octets = &content[range.clone()];
            let blob = Sha256::of(octets);
            let extents = vec![Extent { pack, offset: range.start as u64, bytes: octets.len() as u64 }];
            catalog.insert_blob(blob, Blob { bytes: octets.len() as u64, extents });
            let kind = ArtifactKind::File { blob, executable: false };
            artifacts.insert(ArtifactName::File(path.parse().unwrap()), kind);
        }
        let (channel, number) = (Channel::main(), ReleaseNo(1));
        Arc::new(
            catalog.compose(Heading { channel, number, created_s: 1, baseline: None }, artifacts).unwrap(),
        )
    }

    fn look(packs: &PackStore, releases: &[Arc<Index>]) -> Report {
        let mut report = Report::default();
        let condemn = |block: &NeededBlock| {
            packs.condemn(block.id);
            true
        };
        let mut last = (0, 1);
        report.look_at_releases(packs, releases, |_| true, condemn, |done, total| last = (done, total));
        assert_eq!(last.0, last.1, "all of it was looked at");
        report
    }

    #[test]
    fn what_is_damaged_is_named_and_condemned() {
        let dir = TempDir::new("verify");
        let packs = PackStore::open(dir.path()).unwrap();
        let releases = [release(&packs)];
        let clean = look(&packs, &releases);
        assert!(clean.is_clean() && (clean.blocks, clean.blobs) == (3, 3), "{clean:?}");
        // One octet that no artifact uses, in the second block.
        packs.write_at(PackId([1; 8]), BLOCK_BYTES as u64 + 1, &[99]).unwrap();
        let report = look(&packs, &releases);
        let [damaged] = &report.damaged_blocks[..] else { panic!("{report:?}") };
        assert_eq!((damaged.first, damaged.last), (1, 1));
        assert_eq!(damaged.artifacts, BTreeSet::from(["main: file b".to_owned()]));
        assert!(damaged.why.contains("BLAKE3"), "{damaged:?}");
        assert_eq!((report.blobs, report.wrong_blobs.len()), (2, 0));
        let text = report.to_text("send it again");
        assert!(
            text.contains("0101010101010101.pack, blocks 1 to 1") && text.contains("send it again"),
            "{text}"
        );
        // The file ends too early: the third block is gone, and joins the second.
        packs.truncate(PackId([1; 8]), 2 * BLOCK_BYTES as u64 + 1).unwrap();
        let report = look(&packs, &releases);
        let [damaged] = &report.damaged_blocks[..] else { panic!("{report:?}") };
        assert_eq!((damaged.first, damaged.last, damaged.artifacts.len()), (1, 2, 2));
    }

    #[test]
    fn a_garbled_fact_is_named() {
        let dir = TempDir::new("verify-facts");
        std::fs::create_dir_all(dir.path().join("sub/sub")).unwrap();
        fact::write(&dir.path().join("one"), b"1").unwrap();
        fact::write(&dir.path().join("sub/sub/two"), b"2").unwrap();
        std::fs::write(dir.path().join("sub/two.new"), b"half").unwrap();
        let mut report = Report::default();
        report.look_at_facts(dir.path(), &["one", "sub", "never"]);
        assert!(report.is_clean() && report.facts == 2, "{report:?}");
        std::fs::write(dir.path().join("sub/sub/two"), b"2").unwrap();
        let mut report = Report::default();
        report.look_at_facts(dir.path(), &["one", "sub"]);
        assert_eq!(report.damaged_facts[0].path, dir.path().join("sub/sub/two"));
    }
}
