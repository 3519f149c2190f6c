//! The **lane** role: from datagrams to blocks in packs. It knows the link's keys and no site key.
//!
//! ```text
//! socket ──► Intake (authenticate) ──► Collector (symbols) ──► workers (decode, hash, write) ──► Ledger ──► publish
//! ```
//!
//! The lane's thread does nothing but receive, authenticate and place symbols; what takes longer is the workers'.

mod ledger;
pub(crate) mod partial;
mod socket;
pub(crate) mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{Sbn, SessionNo};
use diodesync::journal::{JournalExt, Key, SequenceFloor, SledJournal};
use diodesync::limits::{COLLECTING_MAX, REPLAY_WINDOW};
use diodesync::link::Paired;
use diodesync::pack::{PackStore, fact};
use diodesync::recv::{
    Action, Assembled, Assembler, Collector, CollectorStats, Intake, IntakeStats, Intaken, PendingSession,
    Reject,
};
use diodesync::wire::ObjectId;
use diodesync_control::clock_ms;

use crate::config::Lane as LaneConfig;
use crate::handover::{Inbox, Notice, Order};
use crate::link_keys;
pub use ledger::{Claim, Ledger};
use partial::Partials;
use socket::LaneSocket;
use worker::{Outcome, Workers};

/// The longest time without a look at orders and results.
const TICK: Duration = Duration::from_millis(20);
/// Blocks that got no symbol for so long are kept on disk.
const IDLE: Duration = Duration::from_secs(10);
/// How long a refused session is shown after it was last offered.
const REFUSED_KEPT: Duration = Duration::from_secs(60);
/// How often the place in the session is journalled and the counters are shown.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// What the lane's thread and the rest of the daemon share.
#[derive(Debug, Default)]
pub struct LaneShared {
    /// Set to end the thread.
    pub stop: AtomicBool,
    view: Mutex<View>,
}

/// What a lane has seen.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The session.
    pub session: Option<SessionNo>,
    /// Datagrams.
    pub intake: IntakeStats,
    /// Symbols and blocks.
    pub collector: CollectorStats,
    /// Blocks that are being collected.
    pub collecting: usize,
    /// Blocks that decoded to something else than the index names.
    pub mismatched: u64,
    /// Packets that the kernel dropped because its buffer was full; it may have joined up to 64 datagrams in one.
    pub kernel_drops: u64,
    /// Octets of the kernel's buffer, as granted.
    pub buffer_bytes: usize,
    /// When the last authentic datagram came, by this side's clock.
    pub last_ms: Option<u64>,
    /// Octets per second over the last moments, in bits.
    pub rate_bits_per_s: u64,
    /// The newest reason for which a session was refused.
    pub refused_session: Option<String>,
}

impl LaneShared {
    /// What it has seen.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a lane's thread needs.
#[derive(Debug)]
pub struct LaneInput {
    /// Its configuration.
    pub config: LaneConfig,
    /// The receiver's folder.
    pub dir: PathBuf,
    /// The link's keys.
    pub paired: Paired,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Which blocks are there.
    pub ledger: Arc<Ledger>,
    /// Progress.
    pub journal: Arc<SledJournal>,
    /// Objects for the publisher.
    pub inbox: Inbox,
    /// Notices for the publisher.
    pub notices: Sender<Notice>,
    /// Orders of the publisher.
    pub orders: Receiver<Order>,
}

/// Binds the lane's socket and starts its thread.
pub fn start(shared: Arc<LaneShared>, input: LaneInput) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let name = input.config.name.clone();
    let socket = LaneSocket::open(input.config.listen).with_context(|| format!("lane {name}"))?;
    let session_path = input.dir.join("session").join(&name);
    if let Some(folder) = session_path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let newest = read_session(&session_path)?;
    let partials = Partials::open(&input.dir.join("partial"))?;
    let mut collector = Collector::new(COLLECTING_MAX, partials.keys());
    input.ledger.held_blocks().into_iter().for_each(|id| collector.mark_done(ObjectId::Block(id), Sbn(0)));
    tracing::info!(lane = name, listen = %input.config.listen, buffer = socket.buffer_bytes(), "lane is up");
    let lane = Lane {
        intake: Intake::new(input.paired.clone(), newest),
        workers: Workers::start(input.packs.clone(), input.ledger.clone())?,
        assembler: Assembler::default(),
        mismatched: 0,
        refused_session: None,
        last_ms: None,
        reported: (Instant::now(), 0),
        collector,
        partials,
        session_path,
        socket: Arc::new(socket),
        shared,
        input,
    };
    std::thread::Builder::new()
        .name(format!("lane {name}"))
        .spawn(move || lane.run())
        .context("cannot start the lane's thread")
}

fn read_session(path: &std::path::Path) -> anyhow::Result<Option<SessionNo>> {
    let Some(content) = fact::read(path)? else { return Ok(None) };
    let number = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok());
    Ok(Some(SessionNo(number.with_context(|| format!("the fact file {} holds no number", path.display()))?)))
}

struct Lane {
    shared: Arc<LaneShared>,
    input: LaneInput,
    socket: Arc<LaneSocket>,
    session_path: PathBuf,
    intake: Intake,
    collector: Collector,
    assembler: Assembler,
    workers: Workers,
    partials: Partials,
    mismatched: u64,
    refused_session: Option<(String, Instant)>,
    last_ms: Option<u64>,
    reported: (Instant, u64),
}

impl Lane {
    fn run(mut self) {
        let socket = self.socket.clone();
        let mut buffers = socket.take_buffers();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_orders();
            let now = Instant::now();
            let received = buffers.receive(&socket, TICK, |datagram| self.take_datagram(now, datagram));
            if let Err(error) = received {
                tracing::warn!(lane = self.input.config.name, %error, "receiving failed");
                std::thread::sleep(TICK);
            }
            let now = Instant::now();
            self.act(now);
            self.take_results();
            self.report(now);
        }
        self.collector.handle_stop();
        self.act(Instant::now());
        self.workers.finish();
        self.take_results();
        self.journal_floor();
    }

    fn take_datagram(&mut self, now: Instant, datagram: &mut [u8]) {
        match self.intake.handle_datagram(now, datagram) {
            Ok(Intaken::Symbol(header, symbol)) => self.collector.handle_symbol(now, &header, symbol),
            Ok(Intaken::Beacon(beacon)) => {
                self.last_ms = Some(clock_ms());
                let _ = self.input.notices.send(Notice::Beacon(Box::new(beacon)));
            }
            Ok(Intaken::NewSession(session)) => self.adopt(now, session),
            Ok(Intaken::SameSession | Intaken::OldBeacon) => {}
            // Everything else is counted; what an operator can mend is kept.
            Err(Reject::Open(error)) if is_pairing_trouble(&error) => {
                self.refused_session = Some((error.to_string(), now));
            }
            Err(Reject::Wire(error @ diodesync::wire::WireError::Version { .. })) => {
                self.refused_session = Some((error.to_string(), now));
            }
            Err(_) => {}
        }
    }

    /// Goes over to a new session, whose number is made durable first.
    fn adopt(&mut self, now: Instant, session: PendingSession) {
        let number = session.number;
        let signer = link_keys::record_signer(&self.input.dir, &session.signer);
        let recorded =
            signer.and_then(|()| Ok(fact::write(&self.session_path, number.to_string().as_bytes())?));
        if let Err(error) = recorded {
            // It is offered four times a second.
            if self.refused_session.as_ref().is_none_or(|(why, _)| *why != error.to_string()) {
                tracing::error!(%error, "the session's number cannot be recorded; the session is not accepted");
            }
            self.refused_session = Some((error.to_string(), now));
            return;
        }
        let key = Key::Floor(self.input.config.name.clone());
        let floor: Option<SequenceFloor> = self.input.journal.read(&key).unwrap_or_default();
        let floor = floor.filter(|floor| floor.session == number).map_or(0, |floor| floor.floor);
        tracing::info!(lane = self.input.config.name, session = number.0, floor, "new session");
        self.refused_session = None;
        self.intake.adopt(session, floor);
    }

    fn act(&mut self, now: Instant) {
        while let Some(action) = self.collector.poll_action() {
            match action {
                Action::Ready(key, block) => self.workers.decode(key, block),
                Action::Spill(key, block) => {
                    let bytes = u64::from(key.oti.transfer_bytes());
                    let room = self.input.packs.admit("blocks that are not complete", bytes);
                    if let Err(error) = room.and_then(|()| self.partials.put(&key, &block)) {
                        self.input.ledger.note_trouble(error.to_string());
                    }
                }
                Action::Load(key) => match self.partials.take(&key) {
                    Ok(symbols) => {
                        let symbols = symbols.iter().map(|(esi, symbol)| (*esi, symbol.as_slice()));
                        self.collector.restore(now, key, symbols);
                    }
                    Err(error) => {
                        tracing::warn!(%error, object = %key.object, "its symbols are lost; they must come again")
                    }
                },
            }
        }
    }

    fn take_results(&mut self) {
        let mut held = Vec::new();
        while let Some(outcome) = self.workers.poll() {
            match outcome {
                Outcome::Held(id, buffer) => {
                    self.partials.forget(ObjectId::Block(id));
                    // The publisher may have asked for it while it was being decoded.
                    self.collector.mark_done(ObjectId::Block(id), Sbn(0));
                    held.push(id);
                    self.collector.recycle(buffer);
                }
                Outcome::Piece(key, octets) => {
                    self.partials.forget(key.object);
                    self.take_piece(key.object, key.oti, key.sbn, octets);
                }
                Outcome::Dropped(key, buffer, is_mismatch) => {
                    self.mismatched += u64::from(is_mismatch);
                    self.collector.mark_missing(key.object, key.sbn);
                    self.collector.recycle(buffer);
                }
            }
        }
        if !held.is_empty() {
            let _ = self.input.notices.send(Notice::Held(held));
        }
    }

    /// A source block of an index or a trust bundle.
    fn take_piece(&mut self, object: ObjectId, oti: diodesync::fec::Oti, sbn: Sbn, octets: Vec<u8>) {
        match self.assembler.handle_block(object, oti, sbn, octets) {
            Assembled::Waiting => {}
            Assembled::Whole(whole) => match self.input.inbox.put(object, &whole) {
                Ok(()) => {
                    let _ = self.input.notices.send(Notice::Object);
                }
                Err(error) => {
                    self.input.ledger.note_trouble(format!("{object}: {error}"));
                    self.collect_again(object, oti.source_blocks());
                }
            },
            Assembled::Forgotten(forgotten, source_blocks) => {
                self.mismatched += u64::from(forgotten == object);
                tracing::warn!(object = %forgotten, "it is not whole, or not what it is named; it must come again");
                self.collect_again(forgotten, source_blocks);
            }
        }
    }

    fn collect_again(&mut self, object: ObjectId, source_blocks: u32) {
        (0..source_blocks).for_each(|sbn| self.collector.mark_missing(object, Sbn(sbn)));
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.input.orders.try_recv() {
            match order {
                Order::Done(blocks) => {
                    blocks.into_iter().for_each(|id| self.collector.mark_done(ObjectId::Block(id), Sbn(0)));
                }
                Order::Senders(senders) => self.intake.set_senders(senders),
                Order::Missing(blocks) => {
                    blocks
                        .into_iter()
                        .for_each(|id| self.collector.mark_missing(ObjectId::Block(id), Sbn(0)));
                }
            }
        }
    }

    fn report(&mut self, now: Instant) {
        let (then, bytes) = self.reported;
        let elapsed = now.duration_since(then);
        if elapsed < REPORT_INTERVAL {
            return;
        }
        let intake = self.intake.stats();
        self.reported = (now, intake.received_bytes);
        self.journal_floor();
        self.collector.handle_timeout(now, IDLE);
        // A sender repeats its session four times a second; a stranger's single datagram is weather.
        self.refused_session.take_if(|(_, then)| now.saturating_duration_since(*then) >= REFUSED_KEPT);
        let rate = (intake.received_bytes - bytes) as f64 * 8.0 / elapsed.as_secs_f64();
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        if intake.authentic > view.intake.authentic {
            self.last_ms = Some(clock_ms());
        }
        *view = View {
            session: self.intake.position().map(|(session, _)| session),
            intake,
            collector: self.collector.stats(),
            collecting: self.collector.collecting(),
            mismatched: self.mismatched,
            kernel_drops: self.socket.kernel_drops(),
            buffer_bytes: self.socket.buffer_bytes(),
            last_ms: self.last_ms,
            rate_bits_per_s: rate as u64,
            refused_session: self.refused_session.as_ref().map(|(why, _)| why.clone()),
        };
    }

    /// Records where the session is, so that after a restart old datagrams of it are not taken again. Numbers within the
    /// reordering window stay open: their symbols only repeat what is known.
    fn journal_floor(&self) {
        let Some((session, end)) = self.intake.position() else { return };
        let floor = SequenceFloor { session, floor: end.saturating_sub(REPLAY_WINDOW) };
        if let Err(error) = self.input.journal.write(&Key::Floor(self.input.config.name.clone()), &floor) {
            tracing::debug!(%error, "the place in the session is not journalled");
        }
    }
}

/// Whether an operator has to do something about a refused session.
fn is_pairing_trouble(error: &diodesync::link::OpenError) -> bool {
    use diodesync::link::OpenError;
    matches!(error, OpenError::OtherLink { .. } | OpenError::NotForUs | OpenError::Signature)
}
