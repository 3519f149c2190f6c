//! The ledger: which blocks are in their packs, which are wanted, and which are damaged.
//!
//! A block is *written* when its octets were handed to the operating system, *durable* when they are on the disk, and
//! then *journalled*. What was written and not journalled before a crash is found again by hashing, so a journal that
//! fails costs time and nothing else: it is opened again, and written anew from here.
//!
//! What is damaged is a fact (`DIR/damaged`, a JSON list of blocks): it is not served before the block came again.

mod freeing;

pub use freeing::Freed;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{Blake3, BlockId, PackId};
use diodesync::journal::{HeldBlock, Journal, JournalError, Key, Record, Revived, SledJournal};
use diodesync::limits::{BLOCK_BYTES, UNCLAIMED_BYTES_MAX};
use diodesync::pack::{PackError, PackStore, fact};
use diodesync::release::index::NeededBlock;

use crate::handover::{Claim, Judge, Order};

/// Commits between two attempts to open a journal that failed.
const REVIVE_COMMITS: u32 = 10;
/// Rows of one change of the journal.
const ROWS_MAX: usize = 4096;
/// How long an error is shown after it was last met.
const TROUBLE_KEPT: Duration = Duration::from_secs(60);
/// The time between two lines of the log about one error.
const TROUBLE_LOGGED: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    damaged_path: PathBuf,
    state: Mutex<State>,
    /// One commit, or one freeing, at a time. Holds the commits that the journal has failed.
    committing: Mutex<u32>,
    trouble: Mutex<Option<Trouble>>,
    /// What the file system of the packs cannot do.
    punches_no_holes: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<BlockId, HeldBlock>,
    wanted: HashMap<BlockId, HeldBlock>,
    /// Wanted, not held, and not looked for in the packs yet.
    unlooked: HashSet<BlockId>,
    /// Written and not durable.
    pending: BTreeSet<BlockId>,
    /// Durable and not journalled.
    unjournalled: BTreeSet<BlockId>,
    /// Held and not wanted.
    unclaimed: HashMap<BlockId, Unclaimed>,
    unclaimed_bytes: u64,
    /// Being written now.
    writing: HashSet<BlockId>,
    /// Room is being given back: nothing is written to these packs.
    barred: BTreeSet<PackId>,
    /// What the fact says is damaged, and whether it has to be written.
    damaged: BTreeSet<BlockId>,
    is_damaged_stale: bool,
}

/// Why nothing wants a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unclaimed {
    /// No index has named it since it came, or since the start.
    New,
    /// The same, and room was given back meanwhile.
    Waited,
    /// The releases that needed it are not kept.
    Superseded,
}

#[derive(Debug)]
struct Trouble {
    text: String,
    count: u64,
    last: Instant,
    logged: Instant,
}

impl State {
    fn remove(&mut self, id: &BlockId) -> Option<HeldBlock> {
        let held = self.held.remove(id)?;
        self.pending.remove(id);
        self.unjournalled.remove(id);
        self.claimed(id, &held);
        Some(held)
    }

    fn claimed(&mut self, id: &BlockId, held: &HeldBlock) {
        if self.unclaimed.remove(id).is_some() {
            self.unclaimed_bytes = self.unclaimed_bytes.saturating_sub(u64::from(held.bytes));
        }
    }

    fn unclaim(&mut self, id: BlockId, held: &HeldBlock, why: Unclaimed) {
        if self.unclaimed.insert(id, why).is_none() {
            self.unclaimed_bytes += u64::from(held.bytes);
        }
    }
}

impl Ledger {
    /// Reads the journal, and compares it with what the packs can hold: a block in a hole, or past the end of a file
    /// that was cut, is not there, whatever the journal says.
    pub fn open(dir: &Path, packs: Arc<PackStore>, journal: Arc<SledJournal>) -> anyhow::Result<Self> {
        let damaged_path = dir.join("damaged");
        let mut state = State::default();
        if let Some(content) = fact::read(&damaged_path)? {
            state.damaged = serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", damaged_path.display()))?;
            state.damaged.iter().for_each(|id| packs.condemn(*id));
        }
        let rows = journal.scan(Key::BLOCKS).unwrap_or_else(|error| {
            tracing::warn!(%error, "the journal cannot be read; blocks are looked for in the packs");
            Vec::new()
        });
        for (key, value) in rows {
            // A record that cannot be read is as good as none: the block is found again by hashing.
            if let (Some(id), Ok(held)) = (Key::block_of(&key), HeldBlock::from_value(&value))
                && !state.damaged.contains(&id)
            {
                state.held.insert(id, held);
            }
        }
        let gone = packs.not_stored(state.held.iter().map(|(id, held)| (*id, held.bytes)))?;
        if let Some(first) = gone.iter().min() {
            let path = packs.path(first.pack);
            tracing::error!(
                blocks = gone.len(), %first, path = %path.display(),
                "blocks that the journal knows are not in their packs: files were cut or removed. They are not served, and must come again"
            );
        }
        for id in gone {
            state.held.remove(&id);
            packs.condemn(id);
            state.is_damaged_stale |= state.damaged.insert(id);
        }
        for (id, held) in state.held.clone() {
            state.unclaim(id, &held, Unclaimed::New);
        }
        Ok(Self {
            packs,
            journal,
            punches_no_holes: AtomicBool::new(false),
            damaged_path,
            state: Mutex::new(state),
            committing: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lanes that join are told: the blocks that are there, and those that are wanted and are not.
    pub fn orders(&self) -> [Order; 2] {
        let state = self.state();
        let held = state.held.keys().copied().collect();
        let lacking = state.wanted.keys().filter(|id| !state.held.contains_key(id)).copied().collect();
        [Order::Done(held), Order::Missing(lacking)]
    }

    /// What a mirror host asks for: the blocks that are wanted, are not there, and were looked for in the packs.
    pub fn to_ask_for(&self) -> Order {
        let state = self.state();
        let is_lacking = |id: &&BlockId| !state.held.contains_key(*id) && !state.unlooked.contains(*id);
        Order::Missing(state.wanted.keys().filter(is_lacking).copied().collect())
    }

    /// Whether a block is there with this content.
    pub fn holds(&self, block: &NeededBlock) -> bool {
        self.state().held.get(&block.id) == Some(&HeldBlock { hash: block.hash, bytes: block.bytes })
    }

    /// Whether an index names this block with another content.
    pub fn wants_another(&self, block: &NeededBlock) -> bool {
        let this = HeldBlock { hash: block.hash, bytes: block.bytes };
        self.state().wanted.get(&block.id).is_some_and(|wanted| *wanted != this)
    }

    /// Octets that are there and that nothing wants.
    pub fn unclaimed_bytes(&self) -> u64 {
        self.state().unclaimed_bytes
    }

    /// Why blocks could not be written lately.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.as_ref().filter(|trouble| trouble.last.elapsed() < TROUBLE_KEPT)?;
        Some(format!(
            "{} blocks came and could not be written, and must come again: {}",
            trouble.count, trouble.text
        ))
    }

    /// Says which blocks an accepted index needs. Returns those that are not there; what is there under their names and
    /// is something else is forgotten.
    pub fn want(&self, blocks: impl Iterator<Item = NeededBlock>) -> Vec<NeededBlock> {
        let mut state = self.state();
        let mut missing = Vec::new();
        for block in blocks {
            let wanted = HeldBlock { hash: block.hash, bytes: block.bytes };
            state.wanted.insert(block.id, wanted);
            let held = state.held.get(&block.id).copied();
            if let Some(held) = held {
                state.claimed(&block.id, &held);
            }
            if held != Some(wanted) {
                state.remove(&block.id);
                state.unlooked.insert(block.id);
                missing.push(block);
            }
        }
        missing
    }

    /// Takes back what the journal says of these blocks, until they were looked at: they count as not there. Returns
    /// those that it knew.
    pub fn doubt(&self, blocks: impl Iterator<Item = BlockId>) -> Vec<BlockId> {
        let mut state = self.state();
        blocks.filter(|id| state.remove(id).is_some()).collect()
    }

    /// Looks for blocks in the packs that the journal does not know of, by hashing; returns those that are there.
    pub fn rescan(&self, blocks: &[NeededBlock]) -> Vec<BlockId> {
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        for block in blocks {
            buffer.resize(block.bytes as usize, 0);
            let is_read = self.packs.read_whatever(block.id.pack, block.id.offset(), &mut buffer).is_ok();
            if is_read && Blake3::of(&buffer) == block.hash {
                self.written(block.id, block.hash, block.bytes);
                found.push(block.id);
            }
        }
        let mut state = self.state();
        blocks.iter().for_each(|block| _ = state.unlooked.remove(&block.id));
        drop(state);
        found
    }

    /// Records that a block of a kept release is not there, or not what it was: it is not read before it came again.
    /// False if it is not the one that was looked at any more.
    pub fn condemn(&self, id: BlockId, looked_at: Option<HeldBlock>) -> bool {
        let mut state = self.state();
        if state.held.get(&id).copied() != looked_at || state.writing.contains(&id) {
            return false;
        }
        self.packs.condemn(id);
        state.is_damaged_stale |= state.damaged.insert(id);
        state.remove(&id);
        drop(state);
        // The fact is what counts after a restart.
        let _ = self.journal.apply(vec![(Key::Block(id).encode(), None)]);
        true
    }

    /// Makes everything that was written durable, then journals it.
    ///
    /// # Errors
    /// If it is not durable. A journal that fails is no error here: [`SledJournal::failure`] says so.
    pub fn commit(&self) -> Result<(), PackError> {
        let mut failed_commits = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let pending: Vec<(BlockId, HeldBlock)> = {
            let state = self.state();
            state.pending.iter().filter_map(|id| Some((*id, *state.held.get(id)?))).collect()
        };
        let packs: BTreeSet<PackId> = pending.iter().map(|(id, _)| id.pack).collect();
        packs.into_iter().try_for_each(|pack| self.packs.sync(pack))?;
        let mut state = self.state();
        for (id, durable) in pending {
            // It may have been written again meanwhile, with other content.
            if state.held.get(&id).is_none_or(|held| *held == durable) {
                state.pending.remove(&id);
                if state.held.contains_key(&id) {
                    state.unjournalled.insert(id);
                }
            }
        }
        drop(state);
        self.record_damaged()?;
        match self.journal_all() {
            Ok(()) => *failed_commits = 0,
            Err(error) => {
                tracing::debug!(%error, "not journalled");
                *failed_commits += 1;
                if failed_commits.is_multiple_of(REVIVE_COMMITS) {
                    self.revive();
                }
            }
        }
        Ok(())
    }

    /// Writes the fact of what is damaged, if it changed and what mended it is durable.
    fn record_damaged(&self) -> Result<(), PackError> {
        let damaged = {
            let mut state = self.state();
            if !state.is_damaged_stale {
                return Ok(());
            }
            state.is_damaged_stale = false;
            let State { damaged, held, pending, .. } = &mut *state;
            damaged.retain(|id| !held.contains_key(id) || pending.contains(id));
            damaged.clone()
        };
        let content = serde_json::to_vec(&damaged).unwrap_or_default();
        let written = fact::write(&self.damaged_path, &content);
        self.state().is_damaged_stale |= written.is_err();
        written
    }

    fn journal_all(&self) -> Result<(), JournalError> {
        loop {
            let rows: Vec<(BlockId, HeldBlock)> = {
                let state = self.state();
                let rows = state.unjournalled.iter().filter_map(|id| Some((*id, *state.held.get(id)?)));
                rows.take(ROWS_MAX).collect()
            };
            if rows.is_empty() {
                return Ok(());
            }
            let change =
                |(id, held): &(BlockId, HeldBlock)| Ok((Key::Block(*id).encode(), Some(held.to_value()?)));
            self.journal.apply(rows.iter().map(change).collect::<Result<_, JournalError>>()?)?;
            self.journal.flush()?;
            let mut state = self.state();
            for (id, journalled) in rows {
                if state.held.get(&id).is_none_or(|held| *held == journalled) {
                    state.unjournalled.remove(&id);
                }
            }
        }
    }

    /// Opens a journal that failed, and has it written anew.
    fn revive(&self) {
        match self.journal.revive() {
            Ok(Revived::Alive) => {}
            Ok(revived) => {
                let mut state = self.state();
                let State { held, pending, unjournalled, .. } = &mut *state;
                unjournalled.extend(held.keys().filter(|id| !pending.contains(id)));
                tracing::warn!(
                    blocks = unjournalled.len(),
                    ?revived,
                    "the journal is open again, and written anew"
                );
            }
            Err(error) => tracing::debug!(%error, "the journal stays closed"),
        }
    }
}

impl Judge for Ledger {
    fn claim(&self, id: &BlockId) -> Claim {
        if let Err(error) = self.packs.admit("blocks that arrive", BLOCK_BYTES as u64) {
            return Claim::NoSpace(error.to_string());
        }
        let mut state = self.state();
        if state.barred.contains(&id.pack) {
            return Claim::NoRoom;
        }
        let claim = match state.wanted.get(id) {
            Some(wanted) => Claim::Wanted(*wanted),
            None if state.unclaimed_bytes < UNCLAIMED_BYTES_MAX => Claim::Unknown,
            None => return Claim::NoRoom,
        };
        // Two lanes may have decoded it at once.
        if state.writing.insert(*id) { claim } else { Claim::NoRoom }
    }

    fn written(&self, id: BlockId, hash: Blake3, bytes: u32) {
        let mut state = self.state();
        let held = HeldBlock { hash, bytes };
        state.writing.remove(&id);
        if let Some(before) = state.held.insert(id, held) {
            state.claimed(&id, &before);
        }
        if !state.wanted.contains_key(&id) {
            state.unclaim(id, &held, Unclaimed::New);
        }
        state.unjournalled.remove(&id);
        state.pending.insert(id);
        self.packs.absolve(&id);
        state.is_damaged_stale |= state.damaged.contains(&id);
        drop(state);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn gave_up(&self, id: &BlockId) {
        self.state().writing.remove(id);
    }

    fn note_trouble(&self, text: String) {
        let now = Instant::now();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, logged) = match &*trouble {
            Some(before) if now.duration_since(before.logged) < TROUBLE_LOGGED => {
                (before.count + 1, before.logged)
            }
            before => {
                let count = before.as_ref().map_or(1, |before| before.count + 1);
                tracing::error!(
                    why = text,
                    blocks = count,
                    "blocks came and cannot be written; they must come again"
                );
                (count, now)
            }
        };
        *trouble = Some(Trouble { text, count, last: now, logged });
    }
}

#[cfg(test)]
mod tests;
