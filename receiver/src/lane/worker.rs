//! Workers: threads that decode blocks, hash them, compare them with the index, and write them into their packs.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use diodesync::buffer::Buffer;
use diodesync::fec::{Block, Codec, Collecting};
use diodesync::id::BlockId;
use diodesync::pack::PackStore;
use diodesync::recv::BlockKey;
use diodesync::wire::ObjectId;

use super::exercise::Exercise;
use crate::handover::{Claim, Judge};

/// What became of a block.
#[derive(Debug)]
pub enum Outcome {
    /// It is in its pack; its buffer comes back.
    Held(BlockId, Buffer),
    /// It is a source block of an index or a trust bundle.
    Piece(BlockKey, Vec<u8>),
    /// The octets of probes; their buffer comes back.
    Exercised(Buffer),
    /// It cannot be kept; its buffer comes back. True if it is not the block that the index names.
    Dropped(BlockKey, Buffer, bool),
}

/// What a worker does next.
#[derive(Debug)]
pub enum Work {
    /// A block with enough symbols.
    Block(BlockKey, Block<Collecting>),
    /// As many octets as a block has, of probes: they cost what a block costs, and are nothing.
    Exercise(Buffer),
}

/// A few threads behind a bounded queue.
#[derive(Debug)]
pub struct Workers {
    blocks: Option<SyncSender<Work>>,
    outcomes: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
}

/// Where work waits for a worker.
pub type Queue = SyncSender<Work>;

/// Has the work done that a block makes, for nothing. Waits for room in the queue.
pub fn exercise(queue: Option<Queue>, octets: Buffer) {
    if let Some(queue) = queue {
        let _ = queue.send(Work::Exercise(octets));
    }
}

/// Threads. They do not step back as the publisher does: beside it, at `rate = "max"` and on two cores, they would not keep
/// up, and when the queue is full the lane waits for them (2026-11-27, AMD EPYC, `tests/bench/link --size 2GiB`: 628
/// blocks of 2048 were lacking after a round, and none without it).
const THREADS: usize = 2;
/// Blocks that wait for a worker. When they are more, the lane waits, and the kernel's buffer fills.
const QUEUE: usize = 32;

impl Workers {
    /// Starts the threads.
    pub fn start(packs: Arc<PackStore>, judge: Arc<dyn Judge>) -> anyhow::Result<Self> {
        let (blocks, queue) = sync_channel(QUEUE);
        let (done, outcomes) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for number in 0..THREADS {
            let worker = Worker::new(packs.clone(), judge.clone());
            let (queue, done) = (queue.clone(), done.clone());
            let thread = std::thread::Builder::new().name(format!("decoder {number}"));
            threads.push(
                thread.spawn(move || worker.run(&queue, &done)).context("cannot start a decoder's thread")?,
            );
        }
        Ok(Self { blocks: Some(blocks), outcomes, threads })
    }

    /// Has a block decoded.
    pub fn decode(&self, key: BlockKey, block: Block<Collecting>) {
        if let Some(blocks) = &self.blocks {
            let _ = blocks.send(Work::Block(key, block));
        }
    }

    /// Where work waits; none after the end.
    pub fn queue(&self) -> Option<Queue> {
        self.blocks.clone()
    }

    /// The next outcome.
    pub fn poll(&self) -> Option<Outcome> {
        self.outcomes.try_recv().ok()
    }

    /// Waits until everything that was handed over is done.
    pub fn finish(&mut self) {
        self.blocks = None;
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// What decodes one block after the other.
pub struct Worker {
    packs: Arc<PackStore>,
    judge: Arc<dyn Judge>,
    codec: Codec,
    exercise: Exercise,
}

impl Worker {
    /// One that writes into these packs.
    pub fn new(packs: Arc<PackStore>, judge: Arc<dyn Judge>) -> Self {
        Self { packs, judge, codec: Codec::default(), exercise: Exercise::default() }
    }

    fn run(mut self, queue: &Mutex<Receiver<Work>>, done: &Sender<Outcome>) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let outcome = match next {
                Ok(Work::Block(key, block)) => {
                    self.exercise.end();
                    self.work(key, block)
                }
                Ok(Work::Exercise(octets)) => {
                    self.exercise.work(&self.packs, &octets);
                    Outcome::Exercised(octets)
                }
                Err(_) => return,
            };
            if done.send(outcome).is_err() {
                return;
            }
        }
    }

    /// Decodes a block, and keeps it if it is wanted or nobody has said yet.
    pub fn work(&mut self, key: BlockKey, block: Block<Collecting>) -> Outcome {
        let Ok(block) = block.decode(&mut self.codec) else {
            tracing::error!(object = %key.object, "it has enough symbols and cannot be decoded; it must come again");
            return Outcome::Dropped(key, Buffer::default(), false);
        };
        let ObjectId::Block(id) = key.object else {
            return Outcome::Piece(key, block.bytes().to_vec());
        };
        let bytes = block.bytes().len() as u32;
        let (hash, octets) = match self.judge.claim(&id) {
            Claim::Wanted(wanted) if wanted.bytes != bytes => {
                self.judge.gave_up(&id);
                tracing::warn!(block = %id, expected = wanted.bytes, found = bytes, "its length is not that in the index");
                return Outcome::Dropped(key, block.into_bytes(), true);
            }
            Claim::Wanted(wanted) => match block.verify(wanted.hash) {
                Ok(block) => (block.hash(), block.into_bytes()),
                Err((mismatch, buffer)) => {
                    self.judge.gave_up(&id);
                    tracing::warn!(block = %id, %mismatch, "it is dropped");
                    return Outcome::Dropped(key, buffer, true);
                }
            },
            // Its index has not come yet: it is kept with its digest, and judged then.
            Claim::Unknown => (block.hash(), block.into_bytes()),
            Claim::NoRoom => return Outcome::Dropped(key, block.into_bytes(), false),
            Claim::NoSpace(why) => {
                self.judge.note_trouble(why);
                return Outcome::Dropped(key, block.into_bytes(), false);
            }
        };
        if let Err(error) = self.packs.write_at(id.pack, id.offset(), &octets) {
            self.judge.gave_up(&id);
            self.judge.note_trouble(error.to_string());
            return Outcome::Dropped(key, octets, false);
        }
        self.judge.written(id, hash, bytes);
        Outcome::Held(id, octets)
    }
}

#[cfg(test)]
mod tests {
    use diodesync::fec::{Oti, RepairUse};
    use diodesync::id::{Blake3, BlockNo, Esi, PackId, Sbn};
    use diodesync::journal::SledJournal;
    use diodesync::release::index::NeededBlock;

    use super::*;
    use crate::publish::Ledger;
    use crate::serve::testing::TempDir;

    /// Octets of the block; its last symbol is filled up.
    const BYTES: usize = 1990;

    /// Who holds the link's key can send any symbols under a block's name.
    #[test]
    fn no_changed_octet_of_a_block_is_written() {
        let dir = TempDir::in_memory("every-block");
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
        let ledger = Arc::new(Ledger::open(dir.path(), packs.clone(), journal).unwrap());
        let content: Vec<u8> = (0..BYTES).map(|n| (n * 31) as u8).collect();
        let id = BlockId { pack: PackId([7; 8]), block: BlockNo(0) };
        let needed = NeededBlock { id, bytes: BYTES as u32, hash: Blake3::of(&content) };
        ledger.want([needed].into_iter());
        let mut worker = Worker::new(packs.clone(), ledger.clone());
        let oti = Oti::for_object(BYTES as u32, 400, RepairUse::Data);
        let key = BlockKey { object: ObjectId::Block(id), sbn: Sbn(0), oti };
        let collected = |octets: &[u8]| {
            let mut block = Block::new(oti, Sbn(0), Vec::new());
            let mut filled = octets.to_vec();
            filled.resize(2000, 0);
            for (esi, symbol) in filled.chunks(400).enumerate() {
                block.add(Esi(esi as u32), symbol);
            }
            block
        };
        for at in 0..BYTES * 8 {
            let mut changed = content.clone();
            changed[at / 8] ^= 1 << (at % 8);
            let outcome = worker.work(key, collected(&changed));
            assert!(matches!(outcome, Outcome::Dropped(_, _, true)), "octet {}: {outcome:?}", at / 8);
            assert!(!ledger.holds(&needed) && !packs.path(id.pack).exists());
        }
        let outcome = worker.work(key, collected(&content));
        assert!(matches!(outcome, Outcome::Held(..)), "{outcome:?}");
        assert!(ledger.holds(&needed));
    }
}
