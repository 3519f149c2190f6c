//! The ledger: which blocks are in their packs, and which are wanted.
//!
//! A block is *written* when its octets were handed to the operating system, and *committed* when they are durable and
//! journalled, in this order. What was written and not committed before a crash is found again by hashing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use diodesync::id::{Blake3, BlockId, PackId};
use diodesync::journal::{HeldBlock, Journal, JournalError, Key, Record, SledJournal};
use diodesync::limits::UNCLAIMED_BYTES_MAX;
use diodesync::pack::{PackError, PackStore};
use diodesync::release::index::NeededBlock;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    state: Mutex<State>,
    /// One commit at a time.
    committing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<BlockId, HeldBlock>,
    wanted: HashMap<BlockId, HeldBlock>,
    /// Written and not committed.
    pending: BTreeSet<BlockId>,
    /// Octets held that nothing wants.
    unclaimed_bytes: u64,
}

/// Whether a block that was decoded may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// An accepted index names it.
    Wanted(HeldBlock),
    /// No index names it yet.
    Unknown,
    /// No index names it, and too much of the kind is there already.
    NoRoom,
}

/// Octets or records could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The packs.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Ledger {
    /// Reads the journal.
    pub fn open(packs: Arc<PackStore>, journal: Arc<SledJournal>) -> Result<Self, LedgerError> {
        let mut state = State::default();
        for (key, value) in journal.scan(Key::BLOCKS)? {
            // A record that cannot be read is as good as none: the block is found again by hashing.
            if let (Some(id), Ok(held)) = (Key::block_of(&key), HeldBlock::from_value(&value)) {
                state.unclaimed_bytes += u64::from(held.bytes);
                state.held.insert(id, held);
            }
        }
        Ok(Self { packs, journal, state: Mutex::new(state), committing: Mutex::new(()) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All blocks that are there.
    pub fn held_blocks(&self) -> Vec<BlockId> {
        self.state().held.keys().copied().collect()
    }

    /// Whether a block is there with this content.
    pub fn holds(&self, block: &NeededBlock) -> bool {
        self.state().held.get(&block.id) == Some(&HeldBlock { hash: block.hash, bytes: block.bytes })
    }

    /// Whether a decoded block may be written.
    pub fn claim(&self, id: &BlockId) -> Claim {
        let state = self.state();
        match state.wanted.get(id) {
            Some(wanted) => Claim::Wanted(*wanted),
            None if state.unclaimed_bytes < UNCLAIMED_BYTES_MAX => Claim::Unknown,
            None => Claim::NoRoom,
        }
    }

    /// Records that a block was written.
    pub fn written(&self, id: BlockId, hash: Blake3, bytes: u32) {
        let mut state = self.state();
        let held = HeldBlock { hash, bytes };
        if !state.wanted.contains_key(&id) && !state.held.contains_key(&id) {
            state.unclaimed_bytes += u64::from(bytes);
        }
        state.held.insert(id, held);
        state.pending.insert(id);
    }

    /// Says which blocks an accepted index needs. Returns those that are not there; what is there under their names and
    /// is something else is forgotten.
    pub fn want(&self, blocks: impl Iterator<Item = NeededBlock>) -> Vec<NeededBlock> {
        let mut state = self.state();
        let mut missing = Vec::new();
        for block in blocks {
            let wanted = HeldBlock { hash: block.hash, bytes: block.bytes };
            let is_new = state.wanted.insert(block.id, wanted).is_none();
            let held = state.held.get(&block.id).copied();
            if let (Some(held), true) = (held, is_new) {
                state.unclaimed_bytes = state.unclaimed_bytes.saturating_sub(u64::from(held.bytes));
            }
            if held != Some(wanted) {
                state.held.remove(&block.id);
                missing.push(block);
            }
        }
        missing
    }

    /// Takes back what the journal says of these blocks, until they were looked at: they count as not there. Returns
    /// those that it knew.
    pub fn doubt(&self, blocks: impl Iterator<Item = BlockId>) -> Vec<BlockId> {
        let mut state = self.state();
        blocks.filter(|id| state.held.remove(id).is_some()).collect()
    }

    /// Looks for blocks in the packs that the journal does not know of, by hashing; returns those that are there.
    pub fn rescan(&self, blocks: &[NeededBlock]) -> Vec<BlockId> {
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for block in blocks {
            buffer.resize(block.bytes as usize, 0);
            let is_read = self.packs.read_at(block.id.pack, block.id.offset(), &mut buffer).is_ok();
            if is_read && Blake3::of(&buffer) == block.hash {
                self.written(block.id, block.hash, block.bytes);
                found.push(block.id);
            }
        }
        found
    }

    /// Makes everything that was written durable, then journals it.
    pub fn commit(&self) -> Result<(), LedgerError> {
        let _one_at_a_time = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let pending: Vec<(BlockId, HeldBlock)> = {
            let state = self.state();
            state.pending.iter().filter_map(|id| Some((*id, *state.held.get(id)?))).collect()
        };
        let packs: BTreeSet<PackId> = pending.iter().map(|(id, _)| id.pack).collect();
        packs.into_iter().try_for_each(|pack| self.packs.sync(pack))?;
        let rows = pending.iter().map(|(id, held)| Ok((Key::Block(*id).encode(), Some(held.to_value()?))));
        let rows =
            rows.collect::<Result<Vec<_>, diodesync::journal::RecordError>>().map_err(JournalError::from)?;
        if !rows.is_empty() {
            self.journal.apply(rows)?;
            self.journal.flush()?;
        }
        let mut state = self.state();
        for (id, committed) in pending {
            // It may have been written again meanwhile, with other content.
            if state.held.get(&id).is_none_or(|held| *held == committed) {
                state.pending.remove(&id);
            }
        }
        Ok(())
    }
}
