//! Giving back the room of blocks that nothing needs any more.
//!
//! The order is such that a crash at any point leaves no block that the journal says is held and that is a hole: the
//! blocks are forgotten, their rows are removed, and only then is a hole punched. (A journal that a power failure put
//! back is seen through at the start, by the holes.) Meanwhile nothing is written to the packs in question.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use diodesync::id::{BlockId, BlockNo, PackId};
use diodesync::journal::{HeldBlock, Journal, Key};
use diodesync::pack::BlockRanges;
use diodesync::release::retention::Plan;

use super::{Ledger, ROWS_MAX, State, Unclaimed};

/// What was given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Blocks that were held and were forgotten.
    pub blocks: Vec<BlockId>,
    /// Octets by which the packs became smaller on the disk.
    pub bytes: u64,
}

impl Ledger {
    /// Wants exactly `kept`, and gives the room of all other blocks back. Blocks that no index has named are spared
    /// while one may still come (`is_index_due`), and for one turn after they came.
    ///
    /// # Errors
    /// If a file cannot be changed; what was not given back is at the next turn. A journal that takes no changes is one
    /// too.
    pub fn free(&self, kept: HashMap<BlockId, HeldBlock>, is_index_due: bool) -> anyhow::Result<Freed> {
        let _alone = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.packs.stored_blocks()?;
        let (plan, blocks) = {
            let mut state = self.state();
            state.wanted = kept;
            // What nobody reads need not be mended.
            let State { wanted, damaged, is_damaged_stale, .. } = &mut *state;
            let before = damaged.len();
            damaged.retain(|id| wanted.contains_key(id) || !self.packs.absolve(id));
            *is_damaged_stale |= damaged.len() != before;
            let now_wanted: Vec<BlockId> =
                state.unclaimed.keys().filter(|id| state.wanted.contains_key(id)).copied().collect();
            for id in now_wanted {
                if let Some(held) = state.held.get(&id).copied() {
                    state.claimed(&id, &held);
                }
            }
            let not_wanted: Vec<(BlockId, HeldBlock)> = state
                .held
                .iter()
                .filter(|(id, _)| !state.wanted.contains_key(id) && !state.unclaimed.contains_key(id))
                .map(|(id, held)| (*id, *held))
                .collect();
            not_wanted.into_iter().for_each(|(id, held)| state.unclaim(id, &held, Unclaimed::Superseded));
            let needed = needed(&state, state.wanted.keys(), &stored, is_index_due);
            let waited = state.unclaimed.values_mut().filter(|why| **why == Unclaimed::New && !is_index_due);
            waited.for_each(|why| *why = Unclaimed::Waited);
            let mut plan = Plan::new(&stored, &needed);
            if self.punches_no_holes.load(Ordering::Relaxed) {
                plan.holes.clear();
            }
            let blocks: Vec<BlockId> = state.held.keys().filter(|id| !needed.contains(id)).copied().collect();
            if plan.is_empty() && blocks.is_empty() {
                return Ok(Freed::default());
            }
            for id in &blocks {
                state.remove(id);
            }
            state.barred =
                plan.packs.iter().copied().chain(plan.holes.iter().map(|(pack, _)| *pack)).collect();
            (plan, blocks)
        };
        let before = self.packs.stored_bytes().unwrap_or_default();
        let done = self.free_on_disk(&stored, &plan, &blocks);
        self.state().barred.clear();
        done?;
        let bytes = before.saturating_sub(self.packs.stored_bytes().unwrap_or(before));
        Ok(Freed { blocks, bytes })
    }

    /// What [`free`](Self::free) would give back now: blocks, and octets on the disk.
    ///
    /// # Errors
    /// If the packs cannot be looked at.
    pub fn would_free(
        &self,
        kept: &HashMap<BlockId, HeldBlock>,
        is_index_due: bool,
    ) -> anyhow::Result<(u64, u64)> {
        let stored = self.packs.stored_blocks()?;
        let (needed, held) = {
            let state = self.state();
            let needed = needed(&state, kept.keys(), &stored, is_index_due);
            let held = state.held.keys().filter(|id| !needed.contains(id)).count();
            (needed, held as u64)
        };
        let plan = Plan::new(&stored, &needed);
        let mut bytes = 0;
        for pack in &plan.packs {
            bytes += self.packs.stored_bytes_of(*pack)?;
        }
        if !self.punches_no_holes.load(Ordering::Relaxed) {
            let mut by_pack: BTreeMap<PackId, Vec<_>> = BTreeMap::new();
            plan.holes.iter().for_each(|(pack, range)| by_pack.entry(*pack).or_default().push(range.clone()));
            for (pack, holes) in by_pack {
                bytes += self.packs.bytes_in(pack, &holes)?;
            }
        }
        Ok((held, bytes))
    }

    fn free_on_disk(&self, stored: &BlockRanges, plan: &Plan, blocks: &[BlockId]) -> anyhow::Result<()> {
        // Rows of blocks that are not in memory, too: a journal may know more than was right.
        let at = |pack: PackId| move |number: u32| BlockId { pack, block: BlockNo(number) };
        let whole = plan
            .packs
            .iter()
            .flat_map(|pack| stored.get(pack).into_iter().flatten().cloned().flatten().map(at(*pack)));
        let holes = plan.holes.iter().flat_map(|(pack, range)| range.clone().map(at(*pack)));
        let rows: BTreeSet<BlockId> = whole.chain(holes).chain(blocks.iter().copied()).collect();
        let rows: Vec<BlockId> = rows.into_iter().collect();
        for rows in rows.chunks(ROWS_MAX) {
            self.journal.apply(rows.iter().map(|id| (Key::Block(*id).encode(), None)).collect())?;
        }
        self.journal.flush()?;
        for id in &rows {
            self.packs.absolve(id);
        }
        for pack in &plan.packs {
            self.packs.remove(*pack)?;
        }
        for (pack, range) in &plan.holes {
            if !self.packs.punch(*pack, range)? {
                let path = self.packs.path(*pack);
                tracing::warn!(path = %path.display(), "this file system punches no holes: a pack goes when nothing of it is needed");
                self.punches_no_holes.store(true, Ordering::Relaxed);
                break;
            }
        }
        let mut state = self.state();
        let before = state.damaged.len();
        rows.iter().for_each(|id| {
            state.damaged.remove(id);
        });
        state.is_damaged_stale |= state.damaged.len() != before;
        Ok(())
    }
}

/// The blocks that stay although nothing may want them: those that are being written, and those that an index may still
/// name.
fn needed<'a>(
    state: &State,
    wanted: impl Iterator<Item = &'a BlockId>,
    stored: &BlockRanges,
    is_index_due: bool,
) -> BTreeSet<BlockId> {
    let is_spared = |why: &Unclaimed| match why {
        Unclaimed::New => true,
        Unclaimed::Waited => is_index_due,
        Unclaimed::Superseded => false,
    };
    let mut needed: BTreeSet<BlockId> = wanted.copied().collect();
    needed.extend(state.writing.iter());
    needed.extend(state.unclaimed.iter().filter(|(_, why)| is_spared(why)).map(|(id, _)| id));
    // What nobody knows of may be a block of that index, written before a crash.
    if is_index_due {
        let at = |pack: PackId| move |number: u32| BlockId { pack, block: BlockNo(number) };
        let all = stored.iter().flat_map(|(pack, ranges)| ranges.iter().cloned().flatten().map(at(*pack)));
        needed.extend(all.filter(|id| !state.held.contains_key(id)));
    }
    needed
}
