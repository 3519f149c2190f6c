//! Spreading a burst of losses over many blocks.
//!
//! A block's symbols go out in turn with those of `depth − 1` other blocks. A burst that takes B octets takes about
//! B / depth from each, which its repair symbols must cover. When a block is through, the next one takes its place, so
//! that the memory is that of `depth` blocks and never more.
//!
//! Blocks that began together must not all be through together: the encoders would have `depth` blocks to make at once,
//! the receiver as many to decode, and in between the depth would be gone. So each has a pace of its own: now and then
//! it gets a second symbol in its turn, the slowest never and the fastest at every other turn, and after a few blocks
//! their ends lie evenly apart.

use std::time::Duration;

use crate::fec::EncodedBlock;
use crate::id::Esi;
use crate::limits::BLOCK_BYTES;
use crate::send::Job;
use crate::wire::SymbolHeader;

struct Slot {
    job: Job,
    block: EncodedBlock,
    /// Symbols of it that went out.
    sent: u32,
    /// Parts of a symbol ([`SYMBOL_PARTS`]) that it gets with each turn besides the one.
    pace: u32,
    /// Those that it has not had yet.
    owed: u32,
}

const SYMBOL_PARTS: u32 = 256;
/// The most that a turn brings besides the one symbol.
const PACE_MAX: u32 = SYMBOL_PARTS / 2;
/// Steps of the golden section: whatever the number of blocks, their paces lie evenly apart.
const PACE_STEP: u32 = 79;

/// Blocks that are being sent.
pub struct Interleaver {
    slots: Vec<Slot>,
    depth: usize,
    turn: usize,
    next_pace: u32,
}

impl std::fmt::Debug for Interleaver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interleaver({} of {})", self.slots.len(), self.depth)
    }
}

/// The depth at which a burst that takes everything for `burst` is repaired, for a share of repair symbols.
/// Memory on either side is about `depth` × 1.25 MiB.
pub fn depth_for_burst(rate_bits_per_s: u64, burst: Duration, repair_percent: u32, max: usize) -> usize {
    let burst_bytes = rate_bits_per_s as f64 / 8.0 * burst.as_secs_f64();
    let repairable = BLOCK_BYTES as f64 * f64::from(repair_percent.max(1)) / 100.0;
    // A block at the fastest pace has more than its share in a burst.
    let share = f64::from(SYMBOL_PARTS + PACE_MAX) / f64::from(SYMBOL_PARTS + PACE_MAX / 2);
    ((burst_bytes * share / repairable).ceil() as usize).clamp(1, max.max(1))
}

impl Interleaver {
    /// Sends `depth` blocks at once.
    pub fn new(depth: usize) -> Self {
        Self { slots: Vec::new(), depth: depth.max(1), turn: 0, next_pace: 0 }
    }

    /// Sends so many at once from now on; if it has more, it takes no other until they are through.
    pub fn set_depth(&mut self, depth: usize) {
        self.depth = depth.max(1);
    }

    /// Whether there is a place for another block.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.depth
    }

    /// Whether nothing is being sent.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Puts a block in.
    pub fn push(&mut self, job: Job, block: EncodedBlock) {
        self.slots.push(Slot { job, block, sent: 0, pace: self.next_pace, owed: 0 });
        self.next_pace = (self.next_pace + PACE_STEP) % PACE_MAX;
    }

    /// Takes out what is not worth sending any more, or cannot be sent.
    pub fn take_out(&mut self, mut which: impl FnMut(&Job) -> bool) -> Vec<(Job, EncodedBlock)> {
        let out = self.slots.extract_if(.., |slot| which(&slot.job));
        let out = out.map(|slot| (slot.job, slot.block)).collect();
        self.turn = 0;
        out
    }

    /// The next symbol, and the job whose last one it is, with its block's buffers.
    pub fn next_symbol(&mut self, write: impl FnOnce(&SymbolHeader, &[u8])) -> Option<Finished> {
        if self.turn >= self.slots.len() {
            self.turn = 0;
        }
        let slot = self.slots.get_mut(self.turn)?;
        let (oti, sbn) = (slot.block.oti(), slot.block.sbn());
        let source_symbols = oti.source_symbols(sbn);
        let esi = if slot.sent < source_symbols {
            Esi(slot.sent)
        } else {
            // Windows wrap around: after R repair symbols the first comes again.
            let number =
                slot.job.window_start.wrapping_add(slot.sent - source_symbols) % oti.repair_symbols();
            Esi(source_symbols + number)
        };
        write(&SymbolHeader { object: slot.job.object, oti, sbn, esi }, slot.block.symbol(esi));
        slot.sent += 1;
        if slot.sent < source_symbols + slot.job.window_symbols.min(oti.repair_symbols()) {
            slot.owed += slot.pace;
            match slot.owed.checked_sub(SYMBOL_PARTS) {
                Some(owed) => slot.owed = owed,
                None => self.turn += 1,
            }
            return Some(Finished(None));
        }
        // The place is taken by the last one, whose turn it would be anyway before long.
        let slot = self.slots.swap_remove(self.turn);
        Some(Finished(Some((slot.job, slot.block))))
    }
}

/// What [`Interleaver::next_symbol`] completed.
#[derive(Debug)]
pub struct Finished(pub Option<(Job, EncodedBlock)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_follows_from_the_burst() {
        let gigabit = 1_000_000_000;
        assert_eq!(depth_for_burst(gigabit, Duration::from_millis(50), 10, 192), 72);
        assert_eq!(depth_for_burst(gigabit, Duration::from_millis(50), 10, 32), 32);
        assert_eq!(depth_for_burst(gigabit, Duration::ZERO, 10, 192), 1);
        assert_eq!(depth_for_burst(gigabit, Duration::from_millis(50), 0, 192), 192);
    }
}
