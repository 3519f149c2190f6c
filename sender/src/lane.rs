//! A lane's thread: the only one that touches its socket, and it does nothing else.
//!
//! ```text
//! Sending ──jobs──► encoders (read, repair symbols) ──blocks──► Transmitter (interleave, seal) ──► Pacer ──► GSO ──► UDP
//! ```
//!
//! While the operating system refuses (no carrier, no route, a datagram larger than the interface takes), the lane
//! gives its jobs back and probes until it works: a round that went nowhere must not count as one that went out.

mod encoder;
mod neighbour;
mod probe;
mod rates;
mod socket;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::fec::EncodedBlock;
use diodesync::id::LinkId;
use diodesync::link::{ReceiverPublic, Sealer, offer_session};
use diodesync::pack::PackStore;
use diodesync::send::{Job, LaneSlot, Pacer, Transmitter, Via, WindowRate, rate_of_round};
use diodesync::wire::{SessionId, symbol_bytes_for_mtu};
use diodesync_control::service::Pulse;
use diodesync_control::{clock_ms, clock_s};

use crate::config::Lane as LaneConfig;
use crate::ingest::SharedStore;
use crate::init::Keys;
use crate::random;
use crate::sending::Sending;
pub use encoder::Control;
use encoder::Encoders;
pub use neighbour::trouble as neighbour_trouble;
pub use probe::{ProbeState, Trains};
use rates::Rates;
use socket::LaneSocket;

/// Blocks that are read and encoded ahead of their turn.
const AHEAD: usize = 4;
/// The longest time without a look at what else there is to do.
const TICK: Duration = Duration::from_millis(20);
/// How often the rate is looked up, and shown.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// The time between two attempts to send while the operating system refuses.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How long blocks wait for another that is being encoded.
const FILLING_MAX: Duration = Duration::from_millis(500);
/// Attempts before the lane gives its jobs back.
const RETRIES: u32 = 3;
/// Octets of a batch: what one GSO call carries.
const BATCH_BYTES: usize = 60_000;

/// What the lane's thread and the rest of the daemon share.
#[derive(Debug)]
pub struct LaneShared {
    /// The lane's configuration, as it was at the start.
    pub config: LaneConfig,
    rates: Mutex<Rates>,
    view: Mutex<View>,
    /// Trains that were asked for.
    pub probe: ProbeState,
    /// Set to end the thread.
    pub stop: AtomicBool,
    /// Beats with each turn.
    pub pulse: Pulse,
    /// Counters.
    pub counters: Counters,
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
    /// Why nothing can be sent at present.
    pub send_error: Option<String>,
    /// Whether a rate window holds data back.
    pub is_paused: bool,
    /// The rate that holds now; none for as fast as it goes.
    pub rate_max_bits_per_s: Option<u64>,
    /// Bits per second over the last moments.
    pub rate_bits_per_s: u64,
}

impl LaneShared {
    /// For a lane that is about to start.
    pub fn new(config: LaneConfig) -> Self {
        let view = View { rate_max_bits_per_s: config.rate.bits_per_s(), ..View::default() };
        let (stop, counters) = (AtomicBool::new(false), Counters::default());
        Self {
            rates: Mutex::new(Rates::of(&config)),
            config,
            view: Mutex::new(view),
            probe: ProbeState::default(),
            stop,
            pulse: Pulse::default(),
            counters,
        }
    }

    fn lock_view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it go by the rates of this configuration.
    pub fn set_rates(&self, config: &LaneConfig) {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner) = Rates::of(config);
    }

    fn rates(&self) -> Rates {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is doing.
    pub fn view(&self) -> View {
        self.lock_view().clone()
    }
}

/// What a lane's thread needs.
#[derive(Debug, Clone)]
pub struct LaneInput {
    /// The link.
    pub link: LinkId,
    /// Its receivers.
    pub receivers: Vec<ReceiverPublic>,
    /// Keys.
    pub keys: Arc<Keys>,
    /// Session numbers.
    pub store: SharedStore,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Where jobs come from.
    pub sending: Arc<Sending>,
    /// How many lanes there are.
    pub lanes: usize,
}

/// Binds the lane's socket and starts its thread.
pub fn start(
    shared: Arc<LaneShared>,
    slot: LaneSlot,
    input: &LaneInput,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let config = &shared.config;
    let socket = LaneSocket::open(config).with_context(|| format!("lane {}", config.name))?;
    let store = input.store.lock().unwrap_or_else(PoisonError::into_inner);
    let number = store.next_session(clock_ms())?;
    drop(store);
    let keys = &input.keys;
    let lane = (config.wire_version > 1).then(|| config.name.clone());
    let id = SessionId { link: input.link, number, lane };
    let (secret, offer) =
        offer_session(&mut random::rng(), &id, &keys.pairing, &keys.link, &input.receivers)?;
    let sealer = Sealer::new(secret, &id)?;
    let via = Via { slot, symbol_bytes: symbol_bytes_for_mtu(config.mtu), repair_percent: config.repair };
    let rates = shared.rates();
    let depth = rates.depth(config, input.lanes);
    tracing::info!(
        lane = %config.name, to = %config.to, session = number.0, symbol_bytes = via.symbol_bytes, depth,
        "lane is up; up to {} MiB of blocks are on their way", depth * 5 / 4
    );
    shared.counters.session.store(number.0, Ordering::Relaxed);
    let lane = Lane {
        transmitter: Transmitter::new(sealer, offer, via.symbol_bytes, depth),
        encoders: Encoders::start(input.packs.clone(), config.rate.bits_per_s().is_none())?,
        pacer: Pacer::new(config.rate.bits_per_s()),
        sending: input.sending.clone(),
        rates,
        lanes: input.lanes,
        via,
        is_down: false,
        is_paused: false,
        looked_at: None,
        changes: 0,
        generation: 0,
        encoding: Vec::new(),
        came: Instant::now(),
        ready: VecDeque::new(),
        leaving: Vec::new(),
        measured: (Instant::now(), 0),
        fastest: 0,
        round: 0,
        batch: Vec::with_capacity(BATCH_BYTES + 9000),
        socket,
        shared: shared.clone(),
    };
    let thread = std::thread::Builder::new().name(format!("lane {}", shared.config.name));
    thread.spawn(move || lane.run()).context("cannot start the lane's thread")
}

struct Lane {
    shared: Arc<LaneShared>,
    sending: Arc<Sending>,
    socket: LaneSocket,
    transmitter: Transmitter,
    encoders: Encoders,
    pacer: Pacer,
    rates: Rates,
    /// How many lanes there are.
    lanes: usize,
    via: Via,
    /// Whether the operating system refuses to send.
    is_down: bool,
    /// Whether a rate window holds data back.
    is_paused: bool,
    /// When the rate windows were looked at.
    looked_at: Option<Instant>,
    /// What was looked at of [`Sending::changes`].
    changes: u64,
    /// Counts how often everything was given back, so that blocks from before are recognised.
    generation: u64,
    encoding: Vec<Job>,
    /// When an encoder was done with one last, or had nothing to do.
    came: Instant,
    ready: VecDeque<(Job, EncodedBlock)>,
    /// Jobs whose last symbol is in the batch.
    leaving: Vec<Job>,
    measured: (Instant, u64),
    /// The best rate that was measured, bits per second; and the round of what is being sent.
    fastest: u64,
    round: u8,
    batch: Vec<u8>,
}

impl Lane {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.shared.pulse.beat();
            self.look_at_rate(now);
            if self.is_down {
                self.probe();
                continue;
            }
            if let Some(max) = self.shared.probe.take_request() {
                self.send_trains(max);
            }
            self.drop_worthless();
            let idle_until = self.feed(now);
            // Before anyone sees that the last round is over, so that what follows builds on it.
            self.sending.settle(now);
            let wait = self.pacer.wait(now);
            if !wait.is_zero() {
                // Encoding goes on in the meantime.
                std::thread::sleep(wait.min(TICK));
                continue;
            }
            // A burst is spread over the blocks that are on their way, so nothing goes out while others could join them.
            let is_filling = self.transmitter.interleaver().has_room()
                && !self.encoding.is_empty()
                && now.saturating_duration_since(self.came) < FILLING_MAX;
            match if is_filling && !self.transmitter.is_due(now) { 0 } else { self.transmit(now) } {
                0 => self.idle(now, idle_until),
                bytes => self.pacer.sent(now, bytes),
            }
            self.report(now);
        }
        self.give_everything_back();
        self.sending.set_working(self.via.slot, false);
        self.sending.journal_progress();
    }

    /// Goes over to the rate of the hour.
    fn look_at_rate(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|then| now.duration_since(then) < REPORT_INTERVAL) {
            return;
        }
        let is_first = self.looked_at.replace(now).is_none();
        let config = &self.shared.config;
        let rates = self.shared.rates();
        if rates != self.rates {
            tracing::info!(lane = %config.name, "the rates are others now");
            self.transmitter.interleaver().set_depth(rates.depth(config, self.lanes));
            self.rates = rates;
        }
        let rate = self.rates.at(clock_s());
        let is_paused = rate == WindowRate::Off;
        if let WindowRate::At(rate) = rate {
            self.pacer.set_rate(rate.bits_per_s().or(rate_of_round(self.fastest, self.round)));
            self.shared.lock_view().rate_max_bits_per_s = rate.bits_per_s();
        }
        if is_paused != self.is_paused || is_first {
            self.is_paused = is_paused;
            self.shared.lock_view().is_paused = is_paused;
            if !is_first || is_paused {
                tracing::info!(lane = %config.name, is_paused, "the rate window changes");
            }
            if is_paused {
                self.give_everything_back();
            }
            self.sending.set_working(self.via.slot, !is_paused && !self.is_down);
        }
    }

    /// Takes out what was superseded while it was on its way.
    fn drop_worthless(&mut self) {
        let changes = self.sending.changes();
        if changes == self.changes {
            return;
        }
        self.changes = changes;
        let sending = &self.sending;
        let out = self.transmitter.interleaver().take_out(|job| !sending.is_current(job));
        let (ready, worthless): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ready).into_iter().partition(|(job, _)| sending.is_current(job));
        self.ready = ready.into();
        let worthless: Vec<_> = out.into_iter().chain(worthless).collect();
        sending.give_back(self.via.slot, worthless.iter().map(|(job, _)| *job));
        worthless.into_iter().for_each(|(_, block)| self.encoders.recycle(block));
    }

    fn give_everything_back(&mut self) {
        self.generation += 1;
        let mut jobs = std::mem::take(&mut self.encoding);
        jobs.append(&mut self.leaving);
        let out = self.transmitter.interleaver().take_out(|_| true);
        for (job, block) in out.into_iter().chain(std::mem::take(&mut self.ready)) {
            jobs.push(job);
            self.encoders.recycle(block);
        }
        self.sending.give_back(self.via.slot, jobs);
    }

    /// Keeps the encoders and the interleaver busy; returns until when there is nothing to do.
    fn feed(&mut self, now: Instant) -> Option<Instant> {
        while let Some((generation, job, block)) = self.encoders.poll() {
            if generation != self.generation {
                continue;
            }
            self.encoding.retain(|encoding| *encoding != job);
            self.came = now;
            match block {
                Some(block) if self.sending.is_current(&job) => self.ready.push_back((job, block)),
                Some(_) => self.sending.give_back(self.via.slot, [job]),
                // It was logged; the round goes on without it, and the receiver will miss it.
                None => {
                    self.shared.counters.unreadable.fetch_add(1, Ordering::Relaxed);
                    self.sending.finished([job]);
                }
            }
        }
        self.fill();
        while !self.is_paused && self.encoding.len() + self.ready.len() < AHEAD {
            match self.sending.poll(now, &self.via) {
                Ok((job, control)) => {
                    // The rate of the hour is looked up soon enough.
                    self.round = job.round;
                    if self.encoding.is_empty() {
                        self.came = now;
                    }
                    self.encoding.push(job);
                    self.encoders.encode(self.generation, job, &control);
                }
                Err(until) => return until,
            }
        }
        None
    }

    fn fill(&mut self) {
        while self.transmitter.interleaver().has_room() {
            let Some((job, block)) = self.ready.pop_front() else { break };
            self.transmitter.interleaver().push(job, block);
        }
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
            let (sending, rate) = (&self.sending, self.rates.usual.bits_per_s());
            let sent = self.transmitter.poll_transmit(now, || sending.beacon(rate), &mut self.batch);
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
                self.leaving.push(job);
                // The next block must not wait for the end of the batch.
                self.fill();
            }
            datagrams += 1;
            if datagrams > 1 && sent.bytes != segment {
                // Segments are of one length, but the last may be shorter; a longer one begins the next batch.
                if sent.bytes > segment {
                    let Ok(bytes) = self.flush(0..start, segment) else { return 0 };
                    bytes_out += bytes;
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
        let Ok(bytes) = self.flush(0..end, segment) else { return 0 };
        if !self.leaving.is_empty() {
            self.sending.finished(self.leaving.drain(..));
        }
        bytes_out + bytes
    }

    /// Sends what is in the batch; an error if the operating system refuses, and the lane is down then.
    fn flush(&mut self, range: std::ops::Range<usize>, segment: usize) -> Result<u64, Refused> {
        let octets = self.batch.get(range).unwrap_or_default();
        let counters = &self.shared.counters;
        let mut done = 0;
        let mut attempts = 0;
        while let Some(rest) = octets.get(done..).filter(|rest| !rest.is_empty()) {
            let (sent, result) = self.socket.send(rest, segment);
            done += sent;
            counters.datagrams.fetch_add(sent.div_ceil(segment.max(1)) as u64, Ordering::Relaxed);
            counters.bytes.fetch_add(sent as u64, Ordering::Relaxed);
            let Err(error) = result else { continue };
            if self.shared.stop.load(Ordering::Relaxed) {
                return Err(Refused);
            }
            if error.kind() == std::io::ErrorKind::WouldBlock {
                continue;
            }
            counters.errors.fetch_add(1, Ordering::Relaxed);
            attempts += 1;
            if attempts < RETRIES {
                std::thread::sleep(RETRY_INTERVAL);
                continue;
            }
            self.go_down(&error);
            return Err(Refused);
        }
        Ok(done as u64)
    }

    fn go_down(&mut self, error: &std::io::Error) {
        tracing::warn!(lane = %self.shared.config.name, %error, "sending fails; what it had goes over another lane, or waits");
        self.is_down = true;
        self.sending.set_working(self.via.slot, false);
        self.give_everything_back();
        let mut view = self.shared.lock_view();
        view.send_error = Some(error.to_string());
        view.rate_bits_per_s = 0;
    }

    /// Looks whether the lane works again.
    fn probe(&mut self) {
        std::thread::sleep(RETRY_INTERVAL);
        self.sending.settle(Instant::now());
        self.batch.clear();
        let beacon = self.sending.beacon(self.rates.usual.bits_per_s());
        let Ok(segment) = self.transmitter.probe(beacon, &mut self.batch) else {
            self.shared.stop.store(true, Ordering::Relaxed);
            return;
        };
        if let (_, Err(error)) = self.socket.send(&self.batch, segment) {
            self.shared.counters.errors.fetch_add(1, Ordering::Relaxed);
            self.shared.lock_view().send_error = Some(error.to_string());
            return;
        }
        tracing::info!(lane = %self.shared.config.name, "it can send again");
        self.is_down = false;
        self.shared.lock_view().send_error = None;
        self.sending.set_working(self.via.slot, !self.is_paused);
    }

    /// Waits for the encoders, the next session or beacon, or the next round.
    fn idle(&mut self, now: Instant, until: Option<Instant>) {
        let due = [self.transmitter.poll_timeout(), until].into_iter().flatten().min();
        let wait =
            due.map_or(TICK, |due| due.saturating_duration_since(now)).clamp(Duration::from_micros(50), TICK);
        if self.encoding.is_empty() {
            std::thread::sleep(wait);
        } else {
            self.encoders.wait(wait);
        }
    }

    fn report(&mut self, now: Instant) {
        let (then, bytes) = self.measured;
        let elapsed = now.duration_since(then);
        if elapsed >= REPORT_INTERVAL {
            let total = self.shared.counters.bytes.load(Ordering::Relaxed);
            let rate = ((total - bytes) as f64 * 8.0 / elapsed.as_secs_f64()) as u64;
            self.measured = (now, total);
            self.fastest = self.fastest.max(rate);
            self.shared.lock_view().rate_bits_per_s = rate;
        }
    }
}

/// The operating system refused to send.
struct Refused;
