//! Where the symbols of all lanes come together: blocks are collected, handed to the workers, and kept on disk when they
//! fall behind.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::fec::Oti;
use diodesync::id::Sbn;
use diodesync::limits::{BLOCK_BYTES, COLLECTING_MAX};
use diodesync::link::{LinkVerifier, OpenError, Paired};
use diodesync::pack::PackStore;
use diodesync::recv::{Action, Assembled, Assembler, Collector};
use diodesync::wire::{Beacon, ObjectId, SymbolHeader};

use super::Decoding;
use super::partial::Partials;
use super::worker::{self, Outcome, Workers};
use crate::handover::{Inbox, Judge, Notice, Order};

/// Blocks that got no symbol for so long are kept on disk.
const IDLE: Duration = Duration::from_secs(10);
/// How often idle blocks are looked for.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);
/// A beacon that is older than the newest one came late, over a slower lane, unless the sender's clock was set back.
const BEACON_LATE_MAX: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Hub {
    packs: Arc<PackStore>,
    judge: Arc<dyn Judge>,
    inbox: Inbox,
    state: Mutex<State>,
    senders: Mutex<Senders>,
}

/// The link keys that sessions may be signed with, the oldest first, and how often that has changed.
#[derive(Debug)]
struct Senders {
    generation: u64,
    keys: Vec<LinkVerifier>,
}

#[derive(Debug)]
struct State {
    collector: Collector,
    assembler: Assembler,
    partials: Partials,
    workers: Workers,
    notices: Sender<Notice>,
    orders: Receiver<Order>,
    mismatched: u64,
    /// The sender's clock in the newest beacon, and when that came.
    newest_beacon: Option<(u64, Instant)>,
    idle_due: Option<Instant>,
    /// Octets of probes that make no block yet.
    probed_bytes: usize,
}

impl Hub {
    /// With what is kept in the receiver's folder.
    pub fn open(
        dir: &Path,
        paired: &Paired,
        packs: Arc<PackStore>,
        judge: Arc<dyn Judge>,
        inbox: Inbox,
        notices: Sender<Notice>,
        orders: Receiver<Order>,
    ) -> anyhow::Result<Self> {
        let partials = Partials::open(&dir.join("partial"))?;
        let state = State {
            collector: Collector::new(COLLECTING_MAX, partials.keys()),
            assembler: Assembler::default(),
            workers: Workers::start(packs.clone(), judge.clone())?,
            partials,
            notices,
            orders,
            mismatched: 0,
            newest_beacon: None,
            idle_due: None,
            probed_bytes: 0,
        };
        let senders = Senders { generation: 0, keys: paired.senders.clone() };
        Ok(Self { packs, judge, inbox, state: Mutex::new(state), senders: Mutex::new(senders) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_senders(&self) -> MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link keys, if they are others than those of `generation`.
    pub fn newer_senders(&self, generation: u64) -> Option<(u64, Vec<LinkVerifier>)> {
        let senders = self.lock_senders();
        (senders.generation != generation).then(|| (senders.generation, senders.keys.clone()))
    }

    /// Has `record` write that sessions of this key count, if the key may sign. Keys before it are over then, on all
    /// lanes: who holds one of them cannot bring it back over another lane.
    pub fn admit_signer(
        &self,
        signer: &LinkVerifier,
        record: impl FnOnce(&LinkVerifier) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut senders = self.lock_senders();
        let at = senders.keys.iter().position(|key| key == signer).ok_or(OpenError::Signature)?;
        record(signer).context("the session's number cannot be recorded")?;
        if at > 0 {
            senders.keys.drain(..at);
            senders.generation += 1;
        }
        Ok(())
    }

    /// Takes authentic symbols.
    pub fn place<'a>(&self, now: Instant, symbols: impl Iterator<Item = &'a (SymbolHeader, &'a [u8])>) {
        let mut symbols = symbols.peekable();
        if symbols.peek().is_none() {
            return;
        }
        let mut state = self.lock();
        for (header, symbol) in symbols {
            state.collector.handle_symbol(now, header, symbol);
        }
        self.act(&mut state, now);
    }

    /// Has the workers do for the octets of a probe what they would do for those of a symbol, so that a rate counts as
    /// clean only if they keep up with it too.
    pub fn take_probe(&self, bytes: usize) {
        let mut state = self.lock();
        state.probed_bytes += bytes;
        if state.probed_bytes >= BLOCK_BYTES {
            state.probed_bytes -= BLOCK_BYTES;
            let mut buffer = state.collector.take_buffer();
            buffer.resize(BLOCK_BYTES);
            let queue = state.workers.queue();
            // Who probes one lane waits for the workers; the other lanes do not.
            drop(state);
            worker::exercise(queue, buffer);
        }
    }

    /// Takes a beacon to the publisher, if none was newer.
    pub fn take_beacon(&self, now: Instant, beacon: Beacon) {
        let mut state = self.lock();
        let is_late = |(clock_ms, came): (u64, Instant)| {
            beacon.clock_ms < clock_ms && now.saturating_duration_since(came) < BEACON_LATE_MAX
        };
        if !state.newest_beacon.is_some_and(is_late) {
            state.newest_beacon = Some((beacon.clock_ms, now));
            let _ = state.notices.send(Notice::Beacon(Box::new(beacon)));
        }
    }

    /// What became of the symbols.
    pub fn decoding(&self) -> Decoding {
        let state = self.lock();
        Decoding {
            collector: state.collector.stats(),
            collecting: state.collector.collecting() as u64,
            mismatched: state.mismatched,
        }
    }

    /// Does what the publisher has ordered, and takes what the workers have done.
    pub fn turn(&self, now: Instant) {
        let mut state = self.lock();
        self.take_orders(&mut state);
        if state.idle_due.is_none_or(|due| now >= due) {
            state.idle_due = Some(now + IDLE_INTERVAL);
            state.collector.handle_timeout(now, IDLE);
        }
        self.act(&mut state, now);
        self.take_results(&mut state);
    }

    /// Keeps on disk what is not complete.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.collector.handle_stop();
        self.act(&mut state, Instant::now());
        state.workers.finish();
        self.take_results(&mut state);
    }

    fn act(&self, state: &mut State, now: Instant) {
        while let Some(action) = state.collector.poll_action() {
            match action {
                Action::Ready(key, block) => state.workers.decode(key, block),
                Action::Spill(key, block) => {
                    let bytes = u64::from(key.oti.transfer_bytes());
                    let room = self.packs.admit("blocks that are not complete", bytes);
                    if let Err(error) = room.and_then(|()| state.partials.put(&key, &block)) {
                        self.judge.note_trouble(error.to_string());
                    }
                }
                Action::Load(key) => match state.partials.take(&key) {
                    Ok(symbols) => {
                        let symbols = symbols.iter().map(|(esi, symbol)| (*esi, symbol.as_slice()));
                        state.collector.restore(now, key, symbols);
                    }
                    Err(error) => {
                        tracing::warn!(%error, object = %key.object, "its symbols are lost; they must come again")
                    }
                },
            }
        }
    }

    fn take_results(&self, state: &mut State) {
        let mut held = Vec::new();
        while let Some(outcome) = state.workers.poll() {
            match outcome {
                Outcome::Held(id, buffer) => {
                    state.partials.forget(ObjectId::Block(id));
                    // The publisher may have asked for it while it was being decoded.
                    state.collector.mark_done(ObjectId::Block(id), Sbn(0));
                    held.push(id);
                    state.collector.recycle(buffer);
                }
                Outcome::Exercised(buffer) => state.collector.recycle(buffer),
                Outcome::Piece(key, octets) => {
                    state.partials.forget(key.object);
                    self.take_piece(state, key.object, key.oti, key.sbn, octets);
                }
                Outcome::Dropped(key, buffer, is_mismatch) => {
                    state.mismatched += u64::from(is_mismatch);
                    state.collector.mark_missing(key.object, key.sbn);
                    state.collector.recycle(buffer);
                }
            }
        }
        if !held.is_empty() {
            let _ = state.notices.send(Notice::Held(held));
        }
    }

    /// A source block of an index or a trust bundle.
    fn take_piece(&self, state: &mut State, object: ObjectId, oti: Oti, sbn: Sbn, octets: Vec<u8>) {
        let State { assembler, collector, mismatched, notices, .. } = state;
        let mut collect_again = |object: ObjectId, source_blocks: u32| {
            (0..source_blocks).for_each(|sbn| collector.mark_missing(object, Sbn(sbn)));
        };
        match assembler.handle_block(object, oti, sbn, octets) {
            Assembled::Waiting => {}
            Assembled::Whole(whole) => match self.inbox.put(object, &whole) {
                Ok(()) => {
                    let _ = notices.send(Notice::Object);
                }
                Err(error) => {
                    self.judge.note_trouble(format!("{object}: {error}"));
                    collect_again(object, oti.source_blocks());
                }
            },
            Assembled::Forgotten(forgotten, source_blocks) => {
                *mismatched += u64::from(forgotten == object);
                tracing::warn!(object = %forgotten, "it is not whole, or not what it is named; it must come again");
                collect_again(forgotten, source_blocks);
            }
        }
    }

    fn take_orders(&self, state: &mut State) {
        while let Ok(order) = state.orders.try_recv() {
            let State { collector, partials, .. } = state;
            match order {
                Order::Done(blocks) => {
                    for id in blocks {
                        collector.mark_done(ObjectId::Block(id), Sbn(0));
                        partials.forget(ObjectId::Block(id));
                    }
                }
                Order::Missing(blocks) => {
                    blocks.into_iter().for_each(|id| collector.mark_missing(ObjectId::Block(id), Sbn(0)));
                }
                Order::Senders(keys) => {
                    let mut senders = self.lock_senders();
                    senders.keys = keys;
                    senders.generation += 1;
                }
            }
        }
    }
}
