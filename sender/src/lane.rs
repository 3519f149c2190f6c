//! A lane's thread: the only one that touches its socket, and it does nothing else.
//!
//! ```text
//! Rounds ──jobs──► encoders (read, repair symbols) ──blocks──► Transmitter (interleave, seal) ──► Pacer ──► GSO ──► UDP
//! ```

mod encoder;
mod socket;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::fec::EncodedBlock;
use diodesync::id::{Blake3, LinkId, ReleaseNo};
use diodesync::journal::{JournalExt, Key, Progress, SledJournal};
use diodesync::limits::COLLECTING_MAX;
use diodesync::link::{ReceiverPublic, Sealer, offer_session};
use diodesync::pack::PackStore;
use diodesync::send::{
    Job, Pacer, ReleasePlan, RoundSettings, Rounds, Transmitter, Upcoming, depth_for_burst,
};
use diodesync::trust::Bundle;
use diodesync::wire::{Beacon, BeaconChannel, symbol_bytes_for_mtu};
use diodesync_control::clock_ms;

use crate::config::Lane as LaneConfig;
use crate::ingest::SharedStore;
use crate::init::Keys;
use crate::random;
pub use encoder::Control;
use encoder::Encoders;
use socket::LaneSocket;

/// Blocks that are read and encoded ahead of their turn.
const AHEAD: usize = 4;
/// The longest time without a look at what else there is to do.
const TICK: Duration = Duration::from_millis(20);
/// How often progress is journalled.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// The time between two attempts to send while the operating system refuses.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Octets of a batch: what one GSO call carries.
const BATCH_BYTES: usize = 60_000;

/// What the lane's thread and the rest of the daemon share.
#[derive(Debug)]
pub struct LaneShared {
    /// The lane's configuration.
    pub config: LaneConfig,
    /// A release to be sent now.
    next: Mutex<Option<Outgoing>>,
    /// A trust bundle with a fresher timestamp, for the release that is being sent.
    next_trust: Mutex<Option<Arc<Vec<u8>>>>,
    /// What is being sent.
    view: Mutex<View>,
    /// Set to end the thread.
    pub stop: AtomicBool,
    /// Counters.
    pub counters: Counters,
}

/// A release to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// What has to be sent of it.
    pub plan: ReleasePlan,
    /// What is not in packs.
    pub control: Control,
    /// The round to begin with.
    pub round: u8,
    /// The block of the round to begin with.
    pub position: usize,
}

/// Counters of a lane.
#[derive(Debug, Default)]
pub struct Counters {
    /// The session.
    pub session: AtomicU64,
    /// Datagrams sent.
    pub datagrams: AtomicU64,
    /// Octets of them, headers of UDP and IP not counted.
    pub bytes: AtomicU64,
    /// Send calls that the operating system refused.
    pub errors: AtomicU64,
    /// Blocks that could not be read or were not what was submitted, and were not sent.
    pub unreadable: AtomicU64,
}

/// What a lane is doing.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The release being sent.
    pub release: Option<ReleaseNo>,
    /// The round under way, from 0; `rounds` when all are complete.
    pub round: u8,
    /// Rounds that it will have.
    pub rounds: u8,
    /// Blocks of this round that went out.
    pub sent_blocks: usize,
    /// Blocks of a round.
    pub total_blocks: usize,
    /// Octets of a round's blocks.
    pub total_bytes: u64,
    /// Octets of this round's blocks that went out.
    pub sent_bytes: u64,
    /// Whether the next round waits for its time.
    pub is_waiting: bool,
    /// Why nothing can be sent at present.
    pub send_error: Option<String>,
    /// Octets per second over the last seconds.
    pub rate_bits_per_s: u64,
}

impl LaneShared {
    /// For a lane that is about to start.
    pub fn new(config: LaneConfig) -> Self {
        Self {
            config,
            next: Mutex::default(),
            next_trust: Mutex::default(),
            view: Mutex::default(),
            stop: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// Has a release sent, in place of the one that is being sent.
    pub fn send(&self, outgoing: Outgoing) {
        let Outgoing { plan, round, position, .. } = &outgoing;
        // So that whoever looks now sees the new release, not the completed old one.
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.release = Some(plan.number);
        view.round = *round;
        view.rounds = self.config.rounds;
        view.total_blocks = plan.blocks.len();
        view.total_bytes = plan.blocks.iter().map(|block| u64::from(block.bytes)).sum();
        view.sent_blocks = *position;
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(outgoing);
    }

    /// Has the rest of the release go out with this metadata.
    pub fn trust_changed(&self, bundle: &Bundle) {
        *self.next_trust.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(bundle.encode()));
    }

    /// What it is doing.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a lane's thread needs.
#[derive(Debug)]
pub struct LaneInput {
    /// The link.
    pub link: LinkId,
    /// Its receivers.
    pub receivers: Vec<ReceiverPublic>,
    /// Keys.
    pub keys: Arc<Keys>,
    /// Releases and metadata.
    pub store: SharedStore,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Progress.
    pub journal: Arc<SledJournal>,
}

/// Binds the lane's socket and starts its thread.
pub fn start(shared: Arc<LaneShared>, input: LaneInput) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let config = &shared.config;
    let socket = LaneSocket::open(config).with_context(|| format!("lane {}", config.name))?;
    let store = input.store.lock().unwrap_or_else(PoisonError::into_inner);
    let number = store.next_session(clock_ms())?;
    drop(store);
    let keys = &input.keys;
    let (secret, offer) =
        offer_session(&mut random::rng(), input.link, number, &keys.pairing, &keys.link, &input.receivers)?;
    let sealer = Sealer::new(secret, number)?;
    let symbol_bytes = symbol_bytes_for_mtu(config.mtu);
    let rate = config.rate.bits_per_s();
    // As fast as it goes is at most what the fastest machines do.
    let depth_rate = rate.unwrap_or(10_000_000_000);
    let depth = depth_for_burst(depth_rate, config.burst, config.repair, COLLECTING_MAX / 2);
    tracing::info!(
        lane = config.name, to = %config.to, session = number.0, symbol_bytes, depth,
        "lane is up; up to {} MiB of blocks are on their way", depth * 5 / 4
    );
    shared.counters.session.store(number.0, Ordering::Relaxed);
    let lane = Lane {
        transmitter: Transmitter::new(sealer, offer, symbol_bytes, depth),
        encoders: Encoders::start(input.packs.clone())?,
        pacer: Pacer::new(rate),
        rounds: None,
        control: None,
        generation: 0,
        encoding: 0,
        ready: VecDeque::new(),
        journalled: None,
        measured: (Instant::now(), 0),
        batch: Vec::with_capacity(BATCH_BYTES + 9000),
        symbol_bytes,
        socket,
        shared: shared.clone(),
        input,
    };
    let thread = std::thread::Builder::new().name(format!("lane {}", shared.config.name));
    thread.spawn(move || lane.run()).context("cannot start the lane's thread")
}

struct Lane {
    shared: Arc<LaneShared>,
    input: LaneInput,
    socket: LaneSocket,
    transmitter: Transmitter,
    encoders: Encoders,
    pacer: Pacer,
    rounds: Option<Rounds>,
    control: Option<Control>,
    /// Counts releases, so that blocks of one that was superseded are recognised.
    generation: u64,
    encoding: usize,
    ready: VecDeque<(Job, EncodedBlock)>,
    journalled: Option<(Instant, (u8, usize))>,
    measured: (Instant, u64),
    batch: Vec<u8>,
    symbol_bytes: usize,
}

impl Lane {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.take_release();
            let idle_until = self.feed(now);
            // Before anyone sees that the last round is over, so that what follows builds on it.
            self.complete();
            let wait = self.pacer.wait(now);
            if !wait.is_zero() {
                // Encoding goes on in the meantime.
                std::thread::sleep(wait.min(TICK));
                continue;
            }
            match self.transmit(now) {
                0 => self.idle(now, idle_until),
                bytes => self.pacer.sent(now, bytes),
            }
            self.report(now);
        }
        self.journal_progress(Instant::now());
    }

    /// Goes over to a new release.
    fn take_release(&mut self) {
        let trust = self.shared.next_trust.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(trust), Some(rounds), Some(control)) =
            (trust, self.rounds.as_mut(), self.control.as_mut())
        {
            rounds.set_trust(Blake3::of(&trust).tag(), trust.len() as u32);
            control.trust = trust;
        }
        let next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Outgoing { plan, control, round, position }) = next else { return };
        tracing::info!(
            channel = %plan.channel, release = plan.number.0, round, blocks = plan.blocks.len(), position, "sending"
        );
        let settings = RoundSettings {
            symbol_bytes: self.symbol_bytes,
            repair_percent: self.shared.config.repair,
            rounds: self.shared.config.rounds,
            round_gap: self.shared.config.round_gap,
        };
        self.generation += 1;
        self.encoding = 0;
        self.ready.clear();
        self.transmitter.interleaver().clear();
        self.rounds = Some(Rounds::new(plan, settings, round, position));
        self.control = Some(control);
        self.journalled = None;
    }

    /// Keeps the encoders and the interleaver busy; returns until when there is nothing to do.
    fn feed(&mut self, now: Instant) -> Option<Instant> {
        while let Some((generation, job, block)) = self.encoders.poll() {
            if generation == self.generation {
                self.encoding -= 1;
                match block {
                    Some(block) => self.ready.push_back((job, block)),
                    // It was logged; the round goes on without it, and the receiver will miss it.
                    None => {
                        self.shared.counters.unreadable.fetch_add(1, Ordering::Relaxed);
                        self.finish(&job);
                    }
                }
            }
        }
        while self.transmitter.interleaver().has_room() {
            let Some((job, block)) = self.ready.pop_front() else { break };
            self.transmitter.interleaver().push(job, block);
        }
        let (rounds, control) = (self.rounds.as_mut()?, self.control.as_ref()?);
        while self.encoding + self.ready.len() < AHEAD {
            match rounds.poll(now) {
                Upcoming::Job(job) => {
                    self.encoding += 1;
                    self.encoders.encode(self.generation, job, control);
                }
                Upcoming::Wait(until) => return Some(until),
                Upcoming::Drain | Upcoming::Complete => break,
            }
        }
        None
    }

    /// Sends one batch of equally long datagrams; returns the octets that went out.
    fn transmit(&mut self, now: Instant) -> u64 {
        self.batch.clear();
        let mut segment = 0;
        let mut datagrams = 0u64;
        let mut bytes_out = 0;
        let max = self.socket.segments_max();
        loop {
            let start = self.batch.len();
            let (shared, input, rounds) = (&self.shared, &self.input, &self.rounds);
            let sent = self.transmitter.poll_transmit(now, || beacon(shared, input, rounds), &mut self.batch);
            let sent = match sent {
                Ok(Some(sent)) => sent,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the lane stops");
                    self.shared.stop.store(true, Ordering::Relaxed);
                    return 0;
                }
            };
            if let Some((job, block)) = sent.finished.0 {
                self.encoders.recycle(block);
                self.finish(&job);
                // The next block must not wait for the end of the batch.
                while self.transmitter.interleaver().has_room() {
                    let Some((job, block)) = self.ready.pop_front() else { break };
                    self.transmitter.interleaver().push(job, block);
                }
            }
            datagrams += 1;
            if datagrams > 1 && sent.bytes != segment {
                // Segments are of one length, but the last may be shorter; a longer one begins the next batch.
                if sent.bytes > segment {
                    bytes_out += self.flush(0..start, segment);
                    self.batch.drain(..start);
                    segment = sent.bytes;
                    datagrams = 1;
                    continue;
                }
                break;
            }
            segment = sent.bytes;
            if datagrams as usize >= max || self.batch.len() + segment > BATCH_BYTES {
                break;
            }
        }
        let end = self.batch.len();
        bytes_out + self.flush(0..end, segment)
    }

    /// Sends what is in the batch. While the operating system refuses (no carrier, no route, a datagram larger than the
    /// interface takes) it waits: a round that went nowhere must not count as one that went out.
    fn flush(&mut self, range: std::ops::Range<usize>, segment: usize) -> u64 {
        let octets = self.batch.get(range).unwrap_or_default();
        let counters = &self.shared.counters;
        let mut done = 0;
        let mut is_failing = false;
        while let Some(rest) = octets.get(done..).filter(|rest| !rest.is_empty()) {
            let (sent, result) = self.socket.send(rest, segment);
            done += sent;
            counters.datagrams.fetch_add(sent.div_ceil(segment.max(1)) as u64, Ordering::Relaxed);
            counters.bytes.fetch_add(sent as u64, Ordering::Relaxed);
            let Err(error) = result else { continue };
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if error.kind() == std::io::ErrorKind::WouldBlock {
                continue;
            }
            let count = counters.errors.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                tracing::warn!(lane = self.shared.config.name, %error, count, "sending failed; it is tried again");
            }
            is_failing = true;
            let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
            view.send_error = Some(error.to_string());
            view.rate_bits_per_s = 0;
            drop(view);
            std::thread::sleep(RETRY_INTERVAL);
        }
        if is_failing {
            self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).send_error = None;
        }
        done as u64
    }

    fn finish(&mut self, job: &Job) {
        if let Some(rounds) = self.rounds.as_mut() {
            rounds.finished(job);
        }
    }

    /// Waits for the encoders, the next session or beacon, or the next round.
    fn idle(&mut self, now: Instant, until: Option<Instant>) {
        let due = [self.transmitter.poll_timeout(), until].into_iter().flatten().min();
        let wait =
            due.map_or(TICK, |due| due.saturating_duration_since(now)).clamp(Duration::from_micros(50), TICK);
        if self.encoding > 0 {
            self.encoders.wait(wait);
        } else {
            std::thread::sleep(wait);
        }
    }

    /// Records the end of the last round.
    fn complete(&mut self) {
        let Some(rounds) = &self.rounds else { return };
        if rounds.position().0 < rounds.rounds() {
            return;
        }
        let plan = rounds.plan();
        tracing::info!(channel = %plan.channel, release = plan.number.0, "all rounds went out");
        let store = self.input.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = store.commit_complete(&plan.channel, plan.number) {
            tracing::error!(%error, "the end of the rounds is not recorded; they will be sent again");
        }
        drop(store);
        self.journal_progress(Instant::now());
        self.update_view();
        self.rounds = None;
    }

    /// Journals progress and updates what others see.
    fn report(&mut self, now: Instant) {
        let is_due = self.journalled.is_none_or(|(then, _)| now.duration_since(then) >= PROGRESS_INTERVAL);
        if is_due && self.rounds.is_some() {
            self.journal_progress(now);
        }
        let (then, bytes) = self.measured;
        let elapsed = now.duration_since(then);
        if elapsed >= Duration::from_millis(250) {
            let total = self.shared.counters.bytes.load(Ordering::Relaxed);
            let rate = ((total - bytes) as f64 * 8.0 / elapsed.as_secs_f64()) as u64;
            self.measured = (now, total);
            self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).rate_bits_per_s = rate;
            self.update_view();
        }
    }

    fn update_view(&mut self) {
        let Some(rounds) = &self.rounds else { return };
        if self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let (round, _) = rounds.position();
        let sent = rounds.sent_blocks();
        let sizes = rounds.plan().blocks.iter().map(|block| u64::from(block.bytes));
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.release = Some(rounds.plan().number);
        (view.round, view.rounds) = (round, rounds.rounds());
        (view.sent_blocks, view.total_blocks) = (sent, rounds.plan().blocks.len());
        view.is_waiting = sent == 0 && self.encoding == 0 && round > 0 && round < rounds.rounds();
        view.total_bytes = sizes.clone().sum();
        view.sent_bytes = sizes.take(sent).sum();
    }

    fn journal_progress(&mut self, now: Instant) {
        let Some(rounds) = &self.rounds else { return };
        let position = rounds.position();
        if self.journalled.is_some_and(|(_, journalled)| journalled == position) {
            return;
        }
        self.journalled = Some((now, position));
        let plan = rounds.plan();
        let progress = Progress { release: plan.number.0, round: position.0, position: position.1 as u64 };
        if let Err(error) = self.input.journal.write(&Key::Progress(plan.channel.clone()), &progress) {
            tracing::debug!(%error, "progress is not journalled; after a restart the round begins anew");
        }
    }
}

/// What the beacon says now.
fn beacon(shared: &LaneShared, input: &LaneInput, rounds: &Option<Rounds>) -> Beacon {
    let store = input.store.lock().unwrap_or_else(PoisonError::into_inner);
    let channels = store.newest.values().map(|index| {
        let sending = rounds.as_ref().filter(|rounds| {
            (&rounds.plan().channel, rounds.plan().number) == (&index.channel, index.number)
        });
        let total = shared.config.rounds;
        let done = match sending {
            Some(rounds) => rounds.position().0,
            None => match store.complete(&index.channel) {
                Ok(Some(complete)) if complete >= index.number => total,
                _ => 0,
            },
        };
        BeaconChannel {
            channel: index.channel.clone(),
            newest: index.number,
            rounds_done: done,
            rounds: total,
        }
    });
    let queued_bytes = rounds.as_ref().map_or(0, |rounds| {
        let left = rounds.plan().blocks.iter().skip(rounds.sent_blocks());
        left.map(|block| u64::from(block.bytes)).sum()
    });
    Beacon {
        is_full: false,
        clock_ms: clock_ms(),
        rate_bits_per_s: shared.config.rate.bits_per_s().unwrap_or(0),
        queued_bytes,
        timestamp: store.bundle.as_ref().map(|bundle| bundle.timestamp.clone()).unwrap_or_default(),
        channels: channels.collect(),
    }
}
