//! Symbols into blocks.
//!
//! Blocks are collected in memory, as many as a burst is spread over and some more. One that falls behind is spilled to
//! disk with the symbols that it has, and comes back when another of its symbols does, be it in a later round.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::fec::{Added, Block, Collecting, Oti};
use crate::id::{BlockId, Esi, PackId, Sbn};
use crate::limits::PACK_BLOCKS_MAX;
use crate::wire::{ObjectId, SymbolHeader};

/// A source block: symbols with equal keys add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The object.
    pub object: ObjectId,
    /// Which of its source blocks.
    pub sbn: Sbn,
    /// Its transmission information.
    pub oti: Oti,
}

/// What the daemon has to do.
#[derive(Debug)]
pub enum Action {
    /// Enough symbols are there: decode and check.
    Ready(BlockKey, Block<Collecting>),
    /// Keep these symbols on disk.
    Spill(BlockKey, Block<Collecting>),
    /// Symbols of this block were spilled: give them back through [`Collector::restore`].
    Load(BlockKey),
}

/// Counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct CollectorStats {
    /// Symbols that were new. One of a spilled block is taken for new until the others are back.
    pub symbols: u64,
    /// Symbols that were there already.
    pub duplicates: u64,
    /// Symbols of blocks that were complete.
    pub surplus: u64,
    /// Source symbols that repair symbols replaced.
    pub repaired: u64,
    /// Blocks that became complete.
    pub blocks: u64,
}

struct Entry {
    block: Block<Collecting>,
    touched: Instant,
}

/// Hashes a key for the lookup that each symbol needs. Keys come authenticated, so nobody chooses them to collide; and
/// pack ids are random, so that they need little mixing.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, octets: &[u8]) {
        for piece in octets.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        // Multiplication by an odd number with bits all over: Fibonacci hashing.
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

/// The blocks that are being collected, over all lanes.
pub struct Collector {
    capacity: usize,
    entries: HashMap<BlockKey, Entry, BuildHasherDefault<KeyHasher>>,
    spilled: HashSet<BlockKey>,
    done_blocks: BTreeMap<PackId, Vec<u64>>,
    done_objects: HashSet<(ObjectId, Sbn)>,
    actions: VecDeque<Action>,
    buffers: Vec<Buffer>,
    stats: CollectorStats,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collector({} blocks, {:?})", self.entries.len(), self.stats)
    }
}

impl Collector {
    /// Collects at most `capacity` blocks at once. `spilled` are those that are on disk from before.
    pub fn new(capacity: usize, spilled: impl IntoIterator<Item = BlockKey>) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: HashMap::default(),
            spilled: spilled.into_iter().collect(),
            done_blocks: BTreeMap::new(),
            done_objects: HashSet::new(),
            actions: VecDeque::new(),
            buffers: Vec::new(),
            stats: CollectorStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> CollectorStats {
        self.stats
    }

    /// Blocks in memory.
    pub fn collecting(&self) -> usize {
        self.entries.len()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes an authentic symbol.
    pub fn handle_symbol(&mut self, now: Instant, header: &SymbolHeader, symbol: &[u8]) {
        let SymbolHeader { object, oti, sbn, esi } = *header;
        if self.is_done(object, sbn) {
            self.stats.surplus += 1;
            return;
        }
        let key = BlockKey { object, sbn, oti };
        // Most symbols are of blocks that are open.
        let mut added = self.add(now, key, esi, symbol);
        if added.is_none() {
            self.open(now, key);
            added = self.add(now, key, esi, symbol);
        }
        match added {
            Some(Added::Duplicate) => self.stats.duplicates += 1,
            Some(Added::New | Added::Enough) => self.stats.symbols += 1,
            None => {}
        }
    }

    /// Gives back symbols that were spilled, before the next action is asked for.
    pub fn restore<'a>(
        &mut self,
        now: Instant,
        key: BlockKey,
        symbols: impl IntoIterator<Item = (Esi, &'a [u8])>,
    ) {
        if self.is_done(key.object, key.sbn) {
            return;
        }
        if let Some(at) = self.queued_spill(&key) {
            return self.restore_queued(at, symbols);
        }
        if !self.entries.contains_key(&key) {
            self.open(now, key);
        }
        for (esi, symbol) in symbols {
            if !self.entries.contains_key(&key) {
                break;
            }
            // Counted already, when it came over the lane.
            let _ = self.add(now, key, esi, symbol);
        }
    }

    /// The block fell behind again before its symbols were back. To open it once more would spill another, whose
    /// return would spill this one, without end.
    fn restore_queued<'a>(&mut self, at: usize, symbols: impl IntoIterator<Item = (Esi, &'a [u8])>) {
        let Some(Action::Spill(key, block)) = self.actions.get_mut(at) else { return };
        let key = *key;
        let is_enough = symbols.into_iter().any(|(esi, symbol)| block.add(esi, symbol) == Added::Enough);
        if is_enough && let Some(Action::Spill(_, block)) = self.actions.remove(at) {
            self.spilled.remove(&key);
            self.complete(key, block);
        }
    }

    fn queued_spill(&self, key: &BlockKey) -> Option<usize> {
        self.actions.iter().position(|action| matches!(action, Action::Spill(spilled, _) if spilled == key))
    }

    fn open(&mut self, now: Instant, key: BlockKey) {
        if self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().min_by_key(|(key, entry)| (entry.touched, **key));
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.spill(oldest);
            }
        }
        let was_spilled = self.spilled.remove(&key);
        let queued = self.queued_spill(&key).and_then(|at| self.actions.remove(at));
        let block = match queued {
            // Nobody wrote it yet.
            Some(Action::Spill(_, block)) => block,
            _ => {
                if was_spilled {
                    self.actions.push_back(Action::Load(key));
                }
                Block::new(key.oti, key.sbn, self.take_buffer())
            }
        };
        self.entries.insert(key, Entry { block, touched: now });
    }

    fn add(&mut self, now: Instant, key: BlockKey, esi: Esi, symbol: &[u8]) -> Option<Added> {
        let entry = self.entries.get_mut(&key)?;
        entry.touched = now;
        let added = entry.block.add(esi, symbol);
        if added == Added::Enough
            && let Some(entry) = self.entries.remove(&key)
        {
            self.complete(key, entry.block);
        }
        Some(added)
    }

    fn complete(&mut self, key: BlockKey, block: Block<Collecting>) {
        self.stats.repaired += u64::from(block.lost());
        self.stats.blocks += 1;
        // Until the daemon says otherwise: its symbols are surplus from now on.
        self.set_done(key.object, key.sbn, true);
        self.actions.push_back(Action::Ready(key, block));
    }

    fn spill(&mut self, key: BlockKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.spilled.insert(key);
            self.actions.push_back(Action::Spill(key, entry.block));
        }
    }

    /// Spills what was not touched for `idle`, so that a stop of the receiver loses little.
    pub fn handle_timeout(&mut self, now: Instant, idle: Duration) {
        let is_idle = |entry: &Entry| now.saturating_duration_since(entry.touched) >= idle;
        let mut idle: Vec<BlockKey> =
            self.entries.iter().filter(|(_, entry)| is_idle(entry)).map(|(key, _)| *key).collect();
        idle.sort_unstable();
        idle.into_iter().for_each(|key| self.spill(key));
    }

    /// Spills everything, before a stop.
    pub fn handle_stop(&mut self) {
        let mut keys: Vec<BlockKey> = self.entries.keys().copied().collect();
        keys.sort_unstable();
        keys.into_iter().for_each(|key| self.spill(key));
    }

    /// Says that an object's source block is there: its symbols are surplus from now on.
    pub fn mark_done(&mut self, object: ObjectId, sbn: Sbn) {
        self.set_done(object, sbn, true);
        let same = |key: &BlockKey| (key.object, key.sbn) == (object, sbn);
        self.entries.retain(|key, _| !same(key));
        self.spilled.retain(|key| !same(key));
        self.actions.retain(|action| match action {
            Action::Spill(key, _) | Action::Load(key) => !same(key),
            Action::Ready(..) => true,
        });
    }

    /// Says that it is not there after all: it was not the one that the index names, or it was damaged.
    pub fn mark_missing(&mut self, object: ObjectId, sbn: Sbn) {
        self.set_done(object, sbn, false);
    }

    /// Gives out a buffer that was recycled, or an empty one.
    pub fn take_buffer(&mut self) -> Buffer {
        self.buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer that is not needed any more.
    pub fn recycle(&mut self, buffer: Buffer) {
        if self.buffers.len() < self.capacity {
            self.buffers.push(buffer);
        }
    }

    /// Whether an object's source block is there, or on its way through the decoder.
    pub fn is_done(&self, object: ObjectId, sbn: Sbn) -> bool {
        match object {
            ObjectId::Block(BlockId { pack, block }) => {
                let at = block.0 as usize;
                let word = self.done_blocks.get(&pack).and_then(|words| words.get(at / 64));
                word.is_some_and(|word| word >> (at % 64) & 1 == 1)
            }
            ObjectId::Index(_) | ObjectId::Trust(_) => self.done_objects.contains(&(object, sbn)),
        }
    }

    fn set_done(&mut self, object: ObjectId, sbn: Sbn, done: bool) {
        match object {
            ObjectId::Block(BlockId { pack, block }) => {
                let words = self
                    .done_blocks
                    .entry(pack)
                    .or_insert_with(|| vec![0; PACK_BLOCKS_MAX.div_ceil(64) as usize]);
                let at = block.0 as usize;
                if let Some(word) = words.get_mut(at / 64) {
                    *word = *word & !(1 << (at % 64)) | u64::from(done) << (at % 64);
                }
            }
            ObjectId::Index(_) | ObjectId::Trust(_) if done => {
                // Control objects come and go with the releases; forgetting all of them costs a decoding.
                if self.done_objects.len() >= 4096 {
                    self.done_objects.clear();
                }
                self.done_objects.insert((object, sbn));
            }
            ObjectId::Index(_) | ObjectId::Trust(_) => {
                self.done_objects.remove(&(object, sbn));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::RepairUse;
    use crate::id::BlockNo;

    fn header(block: u32, esi: u32) -> SymbolHeader {
        let object = ObjectId::Block(BlockId { pack: PackId([1; 8]), block: BlockNo(block) });
        SymbolHeader { object, oti: Oti::for_object(1000, 100, RepairUse::Data), sbn: Sbn(0), esi: Esi(esi) }
    }

    #[test]
    fn a_symbol_that_was_spilled_and_came_back_counts_once() {
        let now = Instant::now();
        let mut collector = Collector::new(1, []);
        (0..4).for_each(|esi| collector.handle_symbol(now, &header(0, esi), &[0; 100]));
        collector.handle_symbol(now, &header(1, 0), &[0; 100]);
        let Some(Action::Spill(key, block)) = collector.poll_action() else { panic!("not spilled") };
        collector.handle_symbol(now, &header(0, 4), &[0; 100]);
        assert!(matches!(collector.poll_action(), Some(Action::Spill(..))));
        assert!(matches!(collector.poll_action(), Some(Action::Load(loaded)) if loaded == key));
        collector.restore(now, key, block.symbols());
        assert_eq!(collector.stats(), CollectorStats { symbols: 6, ..CollectorStats::default() });
        (5..10).for_each(|esi| collector.handle_symbol(now, &header(0, esi), &[0; 100]));
        assert_eq!(collector.stats().symbols, 11);
        assert!(matches!(collector.poll_action(), Some(Action::Ready(..))));
    }

    #[test]
    fn two_blocks_that_displace_each_other_come_to_rest() {
        let now = Instant::now();
        let mut collector = Collector::new(1, []);
        let mut disk = HashMap::new();
        for esi in 0..9 {
            (0..3).for_each(|block| collector.handle_symbol(now, &header(block, esi), &[0; 100]));
            let mut actions = 0;
            while let Some(action) = collector.poll_action() {
                actions += 1;
                assert!(actions < 100, "blocks are spilled and loaded without end");
                match action {
                    Action::Spill(key, block) => {
                        let symbols = block.symbols().map(|(esi, symbol)| (esi, symbol.to_vec()));
                        let before = disk.insert(key, symbols.collect::<Vec<_>>());
                        assert!(before.is_none());
                    }
                    Action::Load(key) => {
                        let symbols = disk.remove(&key).unwrap();
                        let symbols = symbols.iter().map(|(esi, symbol)| (*esi, symbol.as_slice()));
                        collector.restore(now, key, symbols);
                    }
                    Action::Ready(key, _) => panic!("{key:?} lacks a symbol"),
                }
            }
        }
        let kept = disk.values().map(Vec::len).sum::<usize>();
        let collecting = collector.entries.values().map(|entry| entry.block.symbols().count()).sum::<usize>();
        assert_eq!(kept + collecting, 27);
    }
}
