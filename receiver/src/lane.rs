//! The **lane** role: from datagrams to blocks in packs. It knows the link's keys and no site key.
//!
//! ```text
//! socket ──► Intake (authenticate) ──┐
//! socket ──► Intake (authenticate) ──┴─► Hub: Collector (symbols) ──► workers (decode, hash, write) ──► publish
//! ```
//!
//! Each lane has a thread that does nothing but receive, authenticate and place symbols; what takes longer is the
//! workers'. Symbols add up over the lanes, so all of them place theirs in one [`Hub`].

mod exercise;
mod hub;
pub(crate) mod partial;
mod place;
mod socket;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::SessionNo;
use diodesync::limits::REPLAY_WINDOW;
use diodesync::link::{OpenError, Paired};
use diodesync::pack::{PackStore, fact};
use diodesync::recv::{CollectorStats, Intake, IntakeStats, Intaken, PendingSession, ProbeSeen, Reject};
use diodesync::wire::{SymbolHeader, WireError};
use diodesync_control::clock_ms;
use diodesync_control::service::Pulse;

use crate::config::Lane as LaneConfig;
use crate::handover::{Inbox, Judge, Notice, Order};
use crate::link_keys;
use crate::upstream::UpstreamView;
use hub::Hub;
use place::{Floor, Place, Places};
use socket::{Given, LaneSocket, pause};

/// The longest time without a look at orders and results.
const TICK: Duration = Duration::from_millis(20);
/// How long a refused session is shown after it was last offered.
const REFUSED_KEPT: Duration = Duration::from_secs(60);
/// Datagrams whose symbols are placed at once: more than the kernel joins in most cases.
const TOGETHER: usize = 64;
/// How often the place in the session is recorded and the counters are shown.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// What the lanes have seen, as others see it.
#[derive(Debug, Default)]
pub struct LanesShared {
    /// Set to end the threads.
    stop: AtomicBool,
    view: Mutex<View>,
}

/// What the lanes have seen.
#[derive(Debug, Clone, Default, PartialEq, bincode::Encode, bincode::Decode)]
pub struct View {
    /// Each lane, as they are configured.
    pub lanes: Vec<LaneView>,
    /// What became of the symbols of all of them.
    pub decoding: Decoding,
    /// Whom a mirror host follows, which has no lanes.
    pub upstream: Option<Box<UpstreamView>>,
}

/// What a lane has seen.
#[derive(Debug, Clone, Default, PartialEq, bincode::Encode, bincode::Decode)]
pub struct LaneView {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// The session.
    pub session: Option<SessionNo>,
    /// The wire version that the sender writes in it.
    pub wire_version: Option<u8>,
    /// Datagrams.
    pub intake: IntakeStats,
    /// Packets that the kernel dropped because its buffer was full; it may have joined up to 64 datagrams in one.
    pub kernel_drops: u64,
    /// Octets of the kernel's buffer, as granted.
    pub buffer_bytes: u64,
    /// When it began to listen, by this side's clock.
    pub since_ms: u64,
    /// When the last authentic datagram came, by this side's clock.
    pub last_ms: Option<u64>,
    /// Small beacons that came since a full-size one did, or since the session began; and when that was.
    pub small_beacons: u32,
    /// See `small_beacons`; by this side's clock.
    pub full_beacon_ms: u64,
    /// Octets per second over the last moments, in bits.
    pub rate_bits_per_s: u64,
    /// The newest reason for which a session was refused.
    pub refused_session: Option<String>,
    /// The newest run of probes.
    pub probe: ProbeSeen,
}

/// What became of the symbols of all lanes.
#[derive(Debug, Clone, Default, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Decoding {
    /// Symbols and blocks.
    pub collector: CollectorStats,
    /// Blocks that are being collected.
    pub collecting: u64,
    /// Blocks that decoded to something else than the index names.
    pub mismatched: u64,
}

impl LanesShared {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they have seen.
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// How it stands with whom a mirror host follows.
    pub fn set_upstream(&self, upstream: UpstreamView) {
        self.lock().upstream = Some(Box::new(upstream));
    }

    /// Whoever follows upstream is gone, and so is the connection.
    pub fn upstream_gone(&self) {
        if let Some(upstream) = &mut self.lock().upstream {
            upstream.connected = false;
            upstream.since_ms = clock_ms();
            upstream.why = Some("the upstream role is not there".to_owned());
        }
    }

    /// Takes over what a process that runs the lanes has seen.
    pub fn set_view(&self, view: View) {
        *self.lock() = view;
    }
}

/// What the lanes need.
#[derive(Debug)]
pub struct LanesInput {
    /// Their configuration.
    pub lanes: Vec<LaneConfig>,
    /// The receiver's folder.
    pub dir: PathBuf,
    /// The link's keys.
    pub paired: Paired,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Judges blocks.
    pub judge: Arc<dyn Judge>,
    /// Objects for the publisher.
    pub inbox: Inbox,
    /// Notices for the publisher.
    pub notices: Sender<Notice>,
    /// Orders of the publisher.
    pub orders: Receiver<Order>,
}

/// The lanes, running.
#[derive(Debug)]
pub struct Lanes {
    shared: Arc<LanesShared>,
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
    /// One for each lane; they beat with each look at the socket.
    pulses: Vec<Pulse>,
    /// Ends behind the lanes.
    recording: JoinHandle<()>,
}

/// Binds the lanes' sockets and starts their threads.
pub fn start(shared: Arc<LanesShared>, input: LanesInput) -> anyhow::Result<Lanes> {
    let LanesInput { lanes, dir, paired, packs, judge, inbox, notices, orders } = input;
    let folder = dir.join("session");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut places = Places::new(&dir)?;
    let (mut ready, mut given) = (Vec::new(), Given::take()?);
    for config in lanes {
        let socket =
            LaneSocket::open(config.listen, &mut given).with_context(|| format!("lane {}", config.name))?;
        let session_path = dir.join("session").join(config.name.as_str());
        let newest = read_session(&session_path)?;
        tracing::info!(lane = %config.name, listen = %config.listen, buffer = socket.buffer_bytes(), "lane is up");
        ready.push((config, socket, session_path, newest));
    }
    given.check_taken()?;
    let hub = Arc::new(Hub::open(&dir, &paired, packs, judge, inbox, notices, orders)?);
    shared.lock().lanes = ready
        .iter()
        .map(|(config, socket, ..)| LaneView {
            name: config.name.to_string(),
            listen: config.listen.to_string(),
            buffer_bytes: socket.buffer_bytes() as u64,
            since_ms: clock_ms(),
            ..LaneView::default()
        })
        .collect();
    let (mut threads, mut pulses) = (Vec::new(), Vec::new());
    for (slot, (config, socket, session_path, newest)) in ready.into_iter().enumerate() {
        let name = config.name.clone();
        let pulse = Pulse::default();
        pulses.push(pulse.clone());
        let lane = Lane {
            slot,
            pulse,
            shared: shared.clone(),
            hub: hub.clone(),
            intake: Intake::new(name.clone(), paired.clone(), newest),
            senders_seen: 0,
            wire_version: None,
            place: places.place(name.as_str()),
            session_path,
            refused_session: None,
            last_ms: None,
            beacons: (0, clock_ms()),
            reported: (Instant::now(), 0),
            pause: Duration::ZERO,
            probe: ProbeSeen::default(),
            dir: dir.clone(),
            socket,
            config,
        };
        let thread = std::thread::Builder::new().name(format!("lane {name}"));
        threads.push(thread.spawn(move || lane.run()).context("cannot start a lane's thread")?);
    }
    let recording = places.start()?;
    Ok(Lanes { shared, hub, threads, pulses, recording })
}

impl Lanes {
    /// What beats as long as the lanes get on.
    pub fn pulses(&self) -> Vec<Pulse> {
        self.pulses.clone()
    }

    /// Ends the threads, and keeps on disk what is not complete.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = self.recording.join();
        self.hub.stop();
    }
}

fn read_session(path: &Path) -> anyhow::Result<Option<SessionNo>> {
    let Some(content) = fact::read(path)? else { return Ok(None) };
    let number = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok());
    Ok(Some(SessionNo(number.with_context(|| format!("the fact file {} holds no number", path.display()))?)))
}

struct Lane {
    slot: usize,
    pulse: Pulse,
    config: LaneConfig,
    shared: Arc<LanesShared>,
    hub: Arc<Hub>,
    dir: PathBuf,
    socket: LaneSocket,
    session_path: PathBuf,
    place: Place,
    intake: Intake,
    /// Which of the hub's lists of link keys the intake has.
    senders_seen: u64,
    wire_version: Option<u8>,
    refused_session: Option<(String, Instant)>,
    last_ms: Option<u64>,
    /// Small beacons since the last full-size one, and when that came.
    beacons: (u32, u64),
    reported: (Instant, u64),
    /// See [`pause`].
    pause: Duration,
    probe: ProbeSeen,
}

impl Lane {
    fn run(mut self) {
        let mut buffers = self.socket.take_buffers();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.pulse.beat();
            if let Some((generation, senders)) = self.hub.newer_senders(self.senders_seen) {
                self.senders_seen = generation;
                self.intake.set_senders(senders);
            }
            if let Err(error) = buffers.receive(&self.socket, TICK) {
                tracing::warn!(lane = %self.config.name, %error, "receiving failed");
                std::thread::sleep(TICK);
            }
            let now = Instant::now();
            for (octets, stride) in buffers.received() {
                // Opened before the hub is locked, so that the lanes do that side by side.
                if octets.is_empty() {
                    self.take_datagram(now, octets);
                    continue;
                }
                let mut datagrams = octets.chunks_mut(stride);
                loop {
                    let mut symbols = [None; TOGETHER];
                    let taken = datagrams.by_ref().take(TOGETHER);
                    let mut count = 0;
                    for (datagram, symbol) in taken.zip(&mut symbols) {
                        *symbol = self.take_datagram(now, datagram);
                        count += 1;
                    }
                    self.hub.place(now, symbols.iter().flatten());
                    if count < TOGETHER {
                        break;
                    }
                }
            }
            let now = Instant::now();
            self.hub.turn(now);
            self.report(now);
            if !buffers.is_full() && !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        self.record_floor();
    }

    fn take_datagram<'a>(
        &mut self,
        now: Instant,
        datagram: &'a mut [u8],
    ) -> Option<(SymbolHeader, &'a [u8])> {
        let length = datagram.len();
        match self.intake.handle_datagram(now, datagram) {
            Ok(Intaken::Symbol(header, symbol)) => return Some((header, symbol)),
            Ok(Intaken::Beacon(beacon)) => {
                self.last_ms = Some(clock_ms());
                match beacon.is_full {
                    true => self.beacons = (0, clock_ms()),
                    false => self.beacons.0 = self.beacons.0.saturating_add(1),
                }
                self.hub.take_beacon(now, beacon);
            }
            Ok(Intaken::NewSession(session)) => self.adopt(now, session),
            Ok(Intaken::Probe(probe)) => {
                self.probe.take(&probe);
                self.hub.take_probe(length);
            }
            Ok(Intaken::SameSession | Intaken::OldBeacon) => {}
            // Everything else is counted; what an operator can mend is kept.
            Err(Reject::Open(
                error @ (OpenError::OtherLink { .. }
                | OpenError::OtherLane { .. }
                | OpenError::NotForUs
                | OpenError::Signature),
            )) => self.refused_session = Some((error.to_string(), now)),
            Err(Reject::Wire(error @ WireError::Version { .. })) => {
                self.refused_session = Some((error.to_string(), now));
            }
            Err(_) => {}
        }
        None
    }

    /// Goes over to a new session, whose number is made durable first.
    fn adopt(&mut self, now: Instant, session: PendingSession) {
        let number = session.number;
        let recorded = self.hub.admit_signer(&session.signer, |signer| {
            link_keys::record_signer(&self.dir, signer)?;
            link_keys::record_receivers(&self.dir, &session.receivers)?;
            Ok(fact::write(&self.session_path, number.to_string().as_bytes())?)
        });
        if let Err(error) = recorded {
            // It is offered four times a second.
            let why = format!("{error:#}");
            if self.refused_session.as_ref().is_none_or(|(before, _)| *before != why) {
                tracing::error!(lane = %self.config.name, why, "the session is not accepted");
            }
            self.refused_session = Some((why, now));
            return;
        }
        let floor = self.read_floor().filter(|(session, _)| *session == number).map_or(0, |(_, floor)| floor);
        let wire_version = session.version as u8;
        tracing::info!(lane = %self.config.name, session = number.0, floor, wire_version, "new session");
        self.wire_version = Some(wire_version);
        // The sender's clock may have been set back since, by which runs of probes are told apart.
        self.probe = ProbeSeen::default();
        self.refused_session = None;
        self.beacons = (0, clock_ms());
        self.intake.adopt(session, floor);
    }

    fn report(&mut self, now: Instant) {
        let (then, bytes) = self.reported;
        let elapsed = now.duration_since(then);
        if elapsed < REPORT_INTERVAL {
            return;
        }
        let intake = self.intake.stats();
        self.reported = (now, intake.received_bytes);
        self.record_floor();
        // A sender repeats its session four times a second; a stranger's single datagram is weather.
        self.refused_session.take_if(|(_, then)| now.saturating_duration_since(*then) >= REFUSED_KEPT);
        let rate = (intake.received_bytes - bytes) as f64 * 8.0 / elapsed.as_secs_f64();
        self.pause = pause(self.socket.buffer_bytes(), rate as u64);
        let decoding = self.hub.decoding();
        let mut view = self.shared.lock();
        view.decoding = decoding;
        let Some(view) = view.lanes.get_mut(self.slot) else { return };
        if intake.authentic > view.intake.authentic {
            self.last_ms = Some(clock_ms());
        }
        view.session = self.intake.position().map(|(session, _)| session);
        view.wire_version = self.wire_version;
        view.intake = intake;
        view.probe.clone_from(&self.probe);
        view.kernel_drops = self.socket.kernel_drops();
        view.last_ms = self.last_ms;
        (view.small_beacons, view.full_beacon_ms) = self.beacons;
        view.rate_bits_per_s = rate as u64;
        view.refused_session = self.refused_session.as_ref().map(|(why, _)| why.clone());
    }

    /// Has it recorded where the session is. Numbers within the reordering window stay open: their symbols only repeat what
    /// is known.
    fn record_floor(&self) {
        if let Some((session, end)) = self.intake.position() {
            self.place.set((session, end.saturating_sub(REPLAY_WINDOW)));
        }
    }

    fn read_floor(&self) -> Option<Floor> {
        self.place.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the place in the session is not known; datagrams that were recorded since its start count as duplicates");
            None
        })
    }
}
