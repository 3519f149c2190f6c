//! A release on its way: which blocks are there, which blobs were found right.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use diodesync::buffer::Buffer;
use diodesync::id::{Blake3, BlockId, Channel, ReleaseNo, Sha256};
use diodesync::pack::{Blobs, PackError, PackStore};
use diodesync::release::index::{Blob, Extent, Index, NeededBlock};
use diodesync::wire::BeaconChannel;
use sha2::Digest;

use super::{Held, Ledger};
use crate::scan::Progress;

/// Octets that are read at once for hashing.
const READ_BYTES: usize = 1 << 18;

/// Where a release stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Blocks are missing.
    Arriving,
    /// Blocks are missing, and the sender's last round is over.
    Incomplete,
    /// Blocks are missing, and there is no room for them: why.
    NoSpace(String),
    /// All blocks are there; blobs are being hashed.
    Checking,
    /// Everything is there and right, and scanners look at it: how far they are.
    Scanning(String),
    /// It waits for a scanner: why.
    Unscanned(String),
    /// Everything is there and right, and it waits for approvers.
    Held(Held),
    /// It will not be published, for this reason.
    Refused(String),
}

/// A release that was accepted and is not published.
#[derive(Debug)]
pub struct Arrival {
    index: Arc<Index>,
    blocks_needed: usize,
    bytes_needed: u64,
    /// Blocks that are not there.
    lacking: HashMap<BlockId, NeededBlock>,
    lacking_bytes: u64,
    /// Blobs that lie in a block that is not there.
    waiting: HashMap<BlockId, Vec<Sha256>>,
    /// Blocks that a blob waits for.
    left: HashMap<Sha256, usize>,
    /// Blobs that can be hashed, in the order in which they became whole.
    ready: VecDeque<Sha256>,
    /// What is read of them.
    buffer: Buffer,
    checked: usize,
    rounds: (u8, u8),
    no_space: Option<String>,
    refused: Option<String>,
    /// The digest of the index, once somebody asks.
    digest: OnceCell<Sha256>,
    /// Whether everything in it was found right and allowed.
    is_passed: bool,
    held: Option<Held>,
    /// How far scanners are.
    scan: Option<Progress>,
    /// What is lacking, named, until it changes.
    named: Option<Arc<Lacking>>,
}

/// What others see of an arrival.
#[derive(Debug, Clone)]
pub struct ArrivalView {
    /// The channel.
    pub channel: Channel,
    /// The number.
    pub number: ReleaseNo,
    /// Where it stands.
    pub stage: Stage,
    /// Artifacts.
    pub artifacts: usize,
    /// Blocks that it needs, and those that are there.
    pub blocks: (usize, usize),
    /// Octets of them.
    pub bytes: (u64, u64),
    /// What is not there.
    pub lacking: Arc<Lacking>,
    /// What it is.
    pub index: Arc<Index>,
}

/// What a release lacks, named exactly.
#[derive(Debug, Clone, Default)]
pub struct Lacking {
    /// Blocks.
    pub blocks: Vec<BlockId>,
    /// Artifacts that lie in them.
    pub artifacts: Vec<String>,
}

impl Arrival {
    /// For an index that was just accepted.
    pub fn new(index: impl Into<Arc<Index>>, ledger: &Ledger, checked: &HashMap<Sha256, Blake3>) -> Self {
        let index = index.into();
        let lacking: HashMap<_, _> =
            index.blocks().filter(|block| !ledger.holds(block)).map(|block| (block.id, block)).collect();
        let mut arrival = Self {
            blocks_needed: index.blocks().count(),
            bytes_needed: index.blocks().map(|block| u64::from(block.bytes)).sum(),
            lacking_bytes: lacking.values().map(|block| u64::from(block.bytes)).sum(),
            lacking,
            waiting: HashMap::new(),
            left: HashMap::new(),
            ready: VecDeque::new(),
            buffer: Buffer::default(),
            checked: 0,
            rounds: (0, 0),
            no_space: None,
            refused: None,
            digest: OnceCell::new(),
            is_passed: false,
            held: None,
            scan: None,
            named: None,
            index,
        };
        // In the order of the packs, so that reading is sequential.
        let mut blobs: Vec<_> = arrival.index.blobs.iter().collect();
        blobs.sort_by_key(|(_, blob)| blob.extents.first().map(|extent| (extent.pack, extent.offset)));
        for (digest, blob) in blobs {
            let lacking: HashSet<BlockId> =
                blob.blocks().filter(|id| arrival.lacking.contains_key(id)).collect();
            if !lacking.is_empty() {
                arrival.left.insert(*digest, lacking.len());
                lacking.into_iter().for_each(|id| arrival.waiting.entry(id).or_default().push(*digest));
            } else if checked.get(digest).is_some_and(|place| *place == place_of(&arrival.index, blob)) {
                arrival.checked += 1;
            } else {
                arrival.ready.push_back(*digest);
            }
        }
        arrival
    }

    /// The index.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Looks whether a block that was written is the one that is needed; says no only if another one is in its place.
    pub fn block_was_written(&mut self, id: &BlockId, ledger: &Ledger) -> bool {
        let Some(block) = self.lacking.get(id).copied() else { return true };
        // It may have been written before this release named it, and be another one.
        if !ledger.holds(&block) {
            return false;
        }
        self.lacking.remove(id);
        self.named = None;
        self.lacking_bytes -= u64::from(block.bytes);
        for digest in self.waiting.remove(id).unwrap_or_default() {
            let Some(left) = self.left.get_mut(&digest) else { continue };
            *left -= 1;
            if *left == 0 {
                self.left.remove(&digest);
                self.ready.push_back(digest);
            }
        }
        true
    }

    /// Blocks that it lacks and that are there: nobody has told of them.
    pub fn untold(&self, ledger: &Ledger) -> Vec<BlockId> {
        self.lacking.values().filter(|block| ledger.holds(block)).map(|block| block.id).collect()
    }

    /// Whether there is a blob to be hashed.
    pub fn has_work(&self) -> bool {
        self.refused.is_none() && !self.ready.is_empty()
    }

    /// Hashes the next blob and returns its digest and place. A blob that is another one refuses the release.
    pub fn check_next(&mut self, packs: &PackStore) -> Result<Option<(Sha256, Blake3)>, PackError> {
        if self.refused.is_some() {
            return Ok(None);
        }
        let Some(digest) = self.ready.front().copied() else { return Ok(None) };
        let index = self.index.clone();
        let Some(blob) = index.blobs.get(&digest) else { return Ok(None) };
        // One that cannot be read now stays the next one.
        let mut hasher = sha2::Sha256::new();
        self.buffer.resize(READ_BYTES);
        let mut at = 0;
        while at < blob.bytes {
            let read = packs.read_blob(blob, at, &mut self.buffer)?;
            hasher.update(self.buffer.get(..read).unwrap_or_default());
            at += read as u64;
        }
        self.ready.pop_front();
        let found = Sha256(hasher.finalize().into());
        if found != digest {
            self.refuse(format!(
                "a blob has SHA-256 {found}, the signed index says {digest}: either the sender's packs were damaged before \
                 they were signed, then submit the artifact there again; or this side's packs were after they were \
                 checked, then look at its disk"
            ));
            return Ok(None);
        }
        self.checked += 1;
        let place = self.index.blobs.get(&digest).map(|blob| place_of(&self.index, blob));
        Ok(place.map(|place| (digest, place)))
    }

    /// Whether everything is there and was found right.
    pub fn is_whole(&self) -> bool {
        self.refused.is_none() && self.lacking.is_empty() && self.checked == self.index.blobs.len()
    }

    /// The digest of the index.
    pub fn digest(&self) -> Sha256 {
        *self.digest.get_or_init(|| Sha256::of(&self.index.encode()))
    }

    /// Whether everything in it was found right and allowed.
    pub fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// Everything in it was found right and allowed.
    pub fn set_passed(&mut self) {
        self.is_passed = true;
    }

    /// What it waits for.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Says what it waits for; nothing if it need not wait.
    pub fn hold(&mut self, held: Option<Held>) {
        if let (None, Some(held)) = (&self.held, &held) {
            tracing::info!(channel = %self.index.channel, release = self.index.number.0, why = held.why(), "release held");
        }
        self.held = held;
    }

    /// Says how far scanners are; nothing if they are done.
    pub fn set_scan(&mut self, progress: Option<Progress>) {
        self.scan = progress;
    }

    /// Refuses the release for a reason.
    pub fn refuse(&mut self, why: String) {
        self.refused = Some(why);
    }

    /// Why it is held.
    pub fn why_refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Octets that are not there.
    pub fn lacking_bytes(&self) -> u64 {
        self.lacking_bytes
    }

    /// Says why there is no room for what it lacks; nothing if there is.
    pub fn set_no_space(&mut self, why: Option<String>) {
        if let (Some(why), None) = (&why, &self.no_space) {
            tracing::error!(channel = %self.index.channel, release = self.index.number.0, why, "release held");
        } else if let (None, Some(_)) = (&why, &self.no_space) {
            tracing::info!(channel = %self.index.channel, release = self.index.number.0, "there is room again");
        }
        self.no_space = why;
    }

    /// Whether it needs one of these blocks.
    pub fn needs(&self, blocks: &HashSet<BlockId>) -> bool {
        self.index.blocks().any(|block| blocks.contains(&block.id))
    }

    /// The same release, looked at anew.
    pub fn again(&self, ledger: &Ledger, checked: &HashMap<Sha256, Blake3>) -> Self {
        let rounds = self.rounds;
        Self { rounds, ..Self::new(self.index.clone(), ledger, checked) }
    }

    /// Takes what a beacon says of the channel.
    pub fn take_rounds(&mut self, beacon: &BeaconChannel) {
        if beacon.newest == self.index.number {
            self.rounds = (beacon.rounds_done, beacon.rounds);
        }
    }

    /// What others see.
    pub fn view(&mut self) -> ArrivalView {
        let is_over = self.rounds.1 > 0 && self.rounds.0 >= self.rounds.1;
        let stage = match &self.refused {
            Some(why) => Stage::Refused(why.clone()),
            None if self.lacking.is_empty() => match &self.held {
                Some(held) if !held.standing.rejected.is_empty() => {
                    let by =
                        held.standing.rejected.iter().map(|(who, why)| format!("{who} rejects it: {why}"));
                    Stage::Refused(by.collect::<Vec<_>>().join("; "))
                }
                Some(held) => Stage::Held(held.clone()),
                None => match self.scan.clone() {
                    None => Stage::Checking,
                    Some(Progress::Runs(text)) => Stage::Scanning(text),
                    Some(Progress::Waits(why)) => Stage::Unscanned(why),
                },
            },
            None if self.no_space.is_some() => Stage::NoSpace(self.no_space.clone().unwrap_or_default()),
            None if is_over => Stage::Incomplete,
            None => Stage::Arriving,
        };
        let needed = (self.blocks_needed, self.bytes_needed);
        ArrivalView {
            channel: self.index.channel.clone(),
            number: self.index.number,
            artifacts: self.index.artifacts.len(),
            blocks: (needed.0, needed.0 - self.lacking.len()),
            bytes: (needed.1, needed.1 - self.lacking_bytes),
            // Naming it all takes time, and while blocks still come it says nothing.
            lacking: if stage == Stage::Incomplete { self.lacking() } else { Arc::default() },
            index: self.index.clone(),
            stage,
        }
    }

    fn lacking(&mut self) -> Arc<Lacking> {
        if let Some(named) = &self.named {
            return named.clone();
        }
        let blocks: BTreeSet<BlockId> = self.lacking.keys().copied().collect();
        self.named.insert(Arc::new(Lacking::new(&self.index, blocks))).clone()
    }
}

impl Lacking {
    /// Names the artifacts that lie in these blocks.
    pub fn new(index: &Index, blocks: BTreeSet<BlockId>) -> Self {
        let artifacts = index.artifacts_in(&blocks).into_iter().map(|name| name.to_string()).collect();
        Self { blocks: blocks.into_iter().collect(), artifacts }
    }
}

/// What a blob's digest was compared with: the extents, and the digests of the blocks that they lie in.
pub(super) fn place_of(index: &Index, blob: &Blob) -> Blake3 {
    let mut place = blake3::Hasher::new();
    for Extent { pack, offset, bytes } in &blob.extents {
        place.update(&pack.0).update(&offset.to_be_bytes()).update(&bytes.to_be_bytes());
    }
    for id in blob.blocks() {
        place.update(&index.block_hash(&id).map_or([0; 32], |hash| hash.0));
    }
    Blake3(*place.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
