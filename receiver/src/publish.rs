//! The **publish** role: judges what arrived, and switches what is served.
//!
//! ```text
//! inbox: trust bundle ──► TUF ──► index named by it ──► wanted blocks ──► blobs (SHA-256) ──► proofs ──► gate ──► switch
//! ```
//!
//! A release is published whole or not at all. One artifact that is refused holds it, with the reason, and what is
//! served stays.

mod arrival;
mod clock;
mod damage;
mod desk;
#[cfg(test)]
mod every_byte;
mod facts;
mod gate;
mod gc;
mod image;
mod judge;
mod ledger;
mod module;
mod package;
mod proof;
mod retention;
mod switch;
mod telling;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::audit::Event;
use diodesync::id::{Blake3, BlockId, Channel, ReleaseNo, Sha256};
use diodesync::journal::{CheckedBlob, Journal, Key, Record, SledJournal};
use diodesync::pack::PackStore;
use diodesync::release::approval::Approval;
use diodesync::release::index::{Index, NeededBlock};
use diodesync::release::retention::Keep;
use diodesync::trust::{Bundle, Target, TrustState, verify, verify_timestamp};
use diodesync::wire::{Beacon, ObjectId};
use diodesync_control::audit::Audit;
use diodesync_control::clock_ms;
use diodesync_control::service::{Pulse, yield_to_others};

use crate::apt::Signer;
use crate::handover::{Inbox, Notice, Order, Orders};
use crate::scan::Scan;
use crate::serve::SiteHandle;
use arrival::Arrival;
pub use arrival::{ArrivalView, Stage};
use clock::Clocks;
pub use damage::DamagedRelease;
use desk::Desk;
pub use facts::Facts;
pub use gate::{Decided, Gate, Handed, Held, Rules};
pub use gc::{GcReport, GcRequest};
pub use ledger::Ledger;
use retention::Retention;
pub use switch::restore_site;
use telling::Teller;

/// The longest time without a look at the inbox and the ledger.
const TICK: Duration = Duration::from_millis(100);
/// How often what was written is made durable while a release arrives.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// Objects that wait for their metadata.
const INBOX_MAX: usize = 16;
/// Blocks that are looked for before notices are looked at again.
const RESCAN_SLICE: usize = 32;
/// The time for which blobs are hashed before notices are looked at again.
const HASHING_SLICE: Duration = Duration::from_millis(50);

/// How much the publisher steps back.
const PUBLISHER_NICE: i32 = 5;

/// What the publisher's thread and the rest of the daemon share.
#[derive(Debug)]
pub struct PublishShared {
    /// Set to end the thread.
    pub stop: AtomicBool,
    /// Beats with each turn.
    pub pulse: Pulse,
    /// Set by an operator who knows of the clocks' difference.
    pub acknowledge_clock: AtomicBool,
    view: Mutex<View>,
    /// Who asks what is not kept.
    gc: Desk<GcRequest, GcReport>,
    /// Who hands in a decision.
    decisions: Desk<Handed, Decided>,
    /// Who has read other rules.
    rules: Desk<Rules, ()>,
}

/// What the publisher knows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What each channel serves.
    pub published: BTreeMap<Channel, ReleaseNo>,
    /// Releases that arrive, or were refused.
    pub arrivals: Vec<ArrivalView>,
    /// The newest beacon, and when it came by this side's clock.
    pub beacon: Option<(Beacon, u64)>,
    /// When the accepted TUF timestamp expires, seconds since 1970.
    pub trust_expires_s: Option<u64>,
    /// Why nothing is published for the clocks' sake.
    pub clock_hold: Option<String>,
    /// What a sender that was restored from a backup is told.
    pub restore_with: Option<String>,
    /// The newest reason why metadata or an index was refused.
    pub refused: Option<String>,
    /// Indexes that no accepted metadata names, and when each was first seen, milliseconds since 1970.
    pub unnamed: Vec<(ObjectId, u64)>,
    /// Blocks that are being looked for in the packs.
    pub looking_for: usize,
    /// Why the publisher cannot go on.
    pub failure: Option<String>,
    /// Why releases that are not kept cannot be forgotten.
    pub retention_failure: Option<String>,
    /// Octets and blocks that were given back since the start.
    pub freed: (u64, u64),
    /// Releases that are served, or kept, and lack blocks.
    pub damaged: Vec<DamagedRelease>,
}

impl View {
    /// Releases whose rounds are over and of which not even the index came.
    pub fn never_came(&self) -> Vec<(Channel, ReleaseNo)> {
        let channels = self.beacon.iter().flat_map(|(beacon, _)| &beacon.channels);
        let is_lacking = |channel: &&diodesync::wire::BeaconChannel| {
            let arriving = self.arrivals.iter().filter(|arrival| arrival.channel == channel.channel);
            let seen = arriving.map(|arrival| arrival.number).max();
            let seen = seen.max(self.published.get(&channel.channel).copied());
            let is_over = channel.rounds > 0 && channel.rounds_done >= channel.rounds;
            is_over && seen.is_none_or(|seen| seen < channel.newest)
        };
        channels.filter(is_lacking).map(|channel| (channel.channel.clone(), channel.newest)).collect()
    }
}

impl PublishShared {
    /// For a publisher that is about to start.
    pub fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            pulse: Pulse::default(),
            acknowledge_clock: AtomicBool::new(false),
            view: Mutex::default(),
            gc: Desk::default(),
            decisions: Desk::default(),
            rules: Desk::default(),
        }
    }

    /// What it knows.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the publisher's thread needs.
#[derive(Debug)]
pub struct PublishInput {
    /// The receiver's folder.
    pub dir: PathBuf,
    /// Difference of the clocks above which nothing is published.
    pub skew_max: Duration,
    /// The root of trust from the pairing.
    pub root: TrustState,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Which blocks are there.
    pub ledger: Arc<Ledger>,
    /// Which blobs were checked.
    pub journal: Arc<SledJournal>,
    /// Objects that came.
    pub inbox: Inbox,
    /// Notices from the lane.
    pub notices: Receiver<Notice>,
    /// Orders to the lanes.
    pub orders: Orders,
    /// What is served.
    pub site: SiteHandle,
    /// Signs the archive of packages.
    pub apt: Arc<Signer>,
    /// Who and what decides on a release that was found right.
    pub gate: Gate,
    /// What each channel keeps.
    pub keep: BTreeMap<Channel, Keep>,
    /// Whether other processes serve and mirror.
    pub is_served_elsewhere: bool,
    /// Whether there are mirrors that are pushed to.
    pub has_mirrors: bool,
    /// Whether this is a mirror host: what comes was judged at the diode, and is judged by the time of then.
    pub is_mirror_host: bool,
    /// Whether mirror hosts are fed from here.
    pub feeds: bool,
    /// Who did what.
    pub audit: Audit,
}

/// Starts the publisher's thread.
pub fn start(shared: Arc<PublishShared>, input: PublishInput) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let publisher = open(shared, input)?;
    std::thread::Builder::new()
        .name("publish".to_owned())
        .spawn(move || {
            // Hashing can wait; what comes over the lanes cannot.
            yield_to_others(PUBLISHER_NICE);
            publisher.run();
        })
        .context("cannot start the publisher's thread")
}

/// A publisher that knows what it knew before the stop.
fn open(shared: Arc<PublishShared>, mut input: PublishInput) -> anyhow::Result<Publisher> {
    let facts = Facts::open(&input.dir)?;
    let trust = facts.trust()?.unwrap_or_else(|| input.root.clone());
    let mut publisher = Publisher {
        published: facts.published()?,
        checked: Default::default(),
        arrivals: BTreeMap::new(),
        targets: BTreeMap::new(),
        roots: facts.newest_roots(),
        to_rescan: Vec::new(),
        doubted: HashSet::new(),
        is_restoring: true,
        is_inbox_stale: true,
        unnamed: BTreeMap::new(),
        retention: Retention::new(std::mem::take(&mut input.keep)),
        served: Vec::new(),
        is_damage_stale: true,
        space_due: Instant::now(),
        clocks: Clocks::open(&input.dir, input.skew_max)?,
        expired: BTreeMap::new(),
        decisions: BTreeMap::new(),
        scans: BTreeMap::new(),
        committed: Instant::now(),
        teller: Teller::new(input.audit.clone()),
        facts,
        trust,
        shared,
        input,
    };
    publisher.restore()?;
    Ok(publisher)
}

struct Publisher {
    shared: Arc<PublishShared>,
    input: PublishInput,
    facts: Facts,
    trust: TrustState,
    /// Indexes that the accepted metadata names.
    targets: BTreeMap<String, Target>,
    /// The roots of the bundle that was accepted last, for mirror hosts.
    roots: Vec<Vec<u8>>,
    published: BTreeMap<Channel, ReleaseNo>,
    /// Releases that were accepted and are not published, the newest of each channel.
    arrivals: BTreeMap<Channel, Arrival>,
    /// Blobs whose SHA-256 was found right, and in which place.
    checked: HashMap<Sha256, Blake3>,
    /// Blocks to be looked for in the packs.
    to_rescan: Vec<NeededBlock>,
    /// Blocks that were there before the start and were not looked at since.
    doubted: HashSet<BlockId>,
    /// Whether those from before the start are not all looked for.
    is_restoring: bool,
    /// Whether the inbox has to be judged: what came before the start may have been told to nobody.
    is_inbox_stale: bool,
    /// Indexes that no accepted metadata names, and when they were first seen, milliseconds since 1970.
    unnamed: BTreeMap<ObjectId, u64>,
    retention: Retention,
    /// Everything that was served since the start, as long as somebody reads it.
    served: Vec<Weak<Index>>,
    /// Whether it has to be looked again what the served releases lack.
    is_damage_stale: bool,
    /// When there is the next look at what is free.
    space_due: Instant,
    clocks: Clocks,
    /// Trust bundles that were refused for the time, with the time by which they were judged, seconds since 1970.
    expired: BTreeMap<ObjectId, u64>,
    /// What approvers have said of releases that wait.
    decisions: BTreeMap<(Channel, ReleaseNo), Vec<Approval>>,
    /// Scans of releases that wait.
    scans: BTreeMap<Channel, (ReleaseNo, Scan)>,
    committed: Instant,
    /// Tells the audit log.
    teller: Teller,
}

impl Publisher {
    /// Takes up what was accepted before.
    fn restore(&mut self) -> anyhow::Result<()> {
        // What it does not know is hashed again.
        for (key, value) in self.input.journal.scan(Key::CHECKED).unwrap_or_default() {
            if let (Some(digest), Ok(checked)) = (Key::checked_of(&key), CheckedBlob::from_value(&value)) {
                self.checked.insert(digest, checked.place);
            }
        }
        let site = self.input.site.load();
        for index in site.kept().iter().chain(site.releases()) {
            self.to_rescan.extend(self.input.ledger.want(index.blocks()));
            self.served.push(Arc::downgrade(index));
        }
        if !self.to_rescan.is_empty() {
            let blocks = self.to_rescan.len();
            tracing::warn!(
                blocks,
                "blocks of published releases are not in the journal; looking for them in the packs"
            );
        }
        if let Some(accepted) = &self.trust.accepted {
            let bundle = Bundle {
                roots: Vec::new(),
                timestamp: accepted.timestamp.clone().into_bytes(),
                snapshot: accepted.snapshot.clone().into_bytes(),
                targets: accepted.targets.clone().into_bytes(),
            };
            // What was judged in its time is not judged again.
            let (_, targets) =
                verify(&self.trust, &bundle, accepted.judged_s).context("the fact file trust")?;
            self.targets = targets;
        }
        for (channel, number) in self.facts.accepted()? {
            if self.published.get(&channel).is_none_or(|published| number > *published) {
                let index = self.facts.index(&channel, number)?;
                self.doubt(&index);
                self.accept(index);
            }
        }
        self.keep_for_hosts()?;
        self.update_view();
        Ok(())
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.shared.pulse.beat();
            let failure = self.turn().err().map(|error| format!("{error:#}"));
            let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(text) = failure.as_ref().filter(|_| view.failure != failure) {
                tracing::error!(error = text, "the publisher cannot go on; it tries again every second");
            }
            view.failure = failure;
            let has_failed = view.failure.is_some();
            drop(view);
            if has_failed {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        self.tell_end();
        if let Err(error) = self.input.ledger.commit() {
            tracing::error!(%error, "what arrived last is not journalled; it is found again at the next start");
        }
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        let is_busy = !self.to_rescan.is_empty() || self.arrivals.values().any(Arrival::has_work);
        let wait = if is_busy { Duration::ZERO } else { TICK };
        match self.input.notices.recv_timeout(wait) {
            Ok(notice) => self.take(notice)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
        }
        while let Ok(notice) = self.input.notices.try_recv() {
            self.take(notice)?;
        }
        if self.shared.acknowledge_clock.swap(false, Ordering::Relaxed)
            && let Some(skew_ms) = self.clocks.acknowledge()?
        {
            tracing::warn!(skew_ms, "an operator has acknowledged the difference of the clocks");
            self.is_inbox_stale = true;
        }
        if self.is_inbox_stale {
            self.judge_inbox()?;
            self.is_inbox_stale = false;
        }
        self.rescan_some();
        self.measure_space()?;
        // What cannot be read holds its own release, and is tried again; everything else goes on.
        let hashed = self.hash_some();
        if self.committed.elapsed() >= COMMIT_INTERVAL {
            self.input.ledger.commit()?;
            self.committed = Instant::now();
            self.take_untold();
        }
        self.teller.retry();
        self.take_rules();
        self.answer_decisions();
        let published = self.publish_what_is_whole();
        self.tell_refused();
        self.tell_served();
        published?;
        self.renew_apt()?;
        self.look_for_damage();
        self.update_view();
        self.answer_gc();
        self.retain_some();
        hashed
    }

    fn take(&mut self, notice: Notice) -> anyhow::Result<()> {
        match notice {
            Notice::Object => {
                self.is_inbox_stale = true;
                Ok(())
            }
            Notice::Held(blocks) => {
                self.take_blocks(&blocks);
                Ok(())
            }
            Notice::Unjudged(blocks) => {
                self.take_unjudged(blocks);
                Ok(())
            }
            Notice::Beacon(beacon) => self.take_beacon(*beacon),
            Notice::Damaged(blocks) => {
                self.take_damage(blocks);
                Ok(())
            }
        }
    }

    fn take_blocks(&mut self, blocks: &[BlockId]) {
        self.is_damage_stale |= self.mends(blocks);
        let mut wrong = Vec::new();
        for arrival in self.arrivals.values_mut() {
            wrong.extend(blocks.iter().filter(|id| !arrival.block_was_written(id, &self.input.ledger)));
        }
        if !wrong.is_empty() {
            self.input.orders.send(Order::Missing(wrong));
        }
    }

    /// What a lane wrote and could not tell of, because it was killed, would be missing for ever: nobody sends it again.
    fn take_untold(&mut self) {
        let untold: HashSet<BlockId> =
            self.arrivals.values().flat_map(|arrival| arrival.untold(&self.input.ledger)).collect();
        self.take_blocks(&untold.into_iter().collect::<Vec<_>>());
    }

    /// Blocks that a lane has written while there was no publisher: they count when they were hashed.
    fn take_unjudged(&mut self, blocks: Vec<NeededBlock>) {
        let (wrong, to_look_at): (Vec<_>, Vec<_>) =
            blocks.into_iter().partition(|block| self.input.ledger.wants_another(block));
        if !wrong.is_empty() {
            self.input.orders.send(Order::Missing(wrong.iter().map(|block| block.id).collect()));
        }
        self.to_rescan.extend(to_look_at);
    }

    /// The time by which expiry is judged: the later of this side's clock and the sender's.
    fn judging_s(&self) -> u64 {
        self.clocks.judging_s(clock_ms())
    }

    fn take_beacon(&mut self, beacon: Beacon) -> anyhow::Result<()> {
        self.clocks.take_beacon(beacon.clock_ms, clock_ms())?;
        if !beacon.timestamp.is_empty() && self.clocks.why_held().is_none() {
            // Anything else is nothing new, or of a release whose metadata has not come yet.
            if let Ok(Some(trust)) = verify_timestamp(&self.trust, &beacon.timestamp, self.judging_s()) {
                self.tell_trust(&trust)?;
                self.facts.record_trust(&trust)?;
                self.trust = trust;
                self.keep_for_hosts()?;
            }
        }
        for channel in &beacon.channels {
            if let Some(arrival) = self.arrivals.get_mut(&channel.channel) {
                arrival.take_rounds(channel);
            }
        }
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).beacon = Some((beacon, clock_ms()));
        self.is_inbox_stale = true;
        Ok(())
    }

    /// The newest release of a channel that was accepted.
    fn newest(&self, channel: &Channel) -> Option<ReleaseNo> {
        let arriving = self.arrivals.get(channel).map(|arrival| arrival.index().number);
        arriving.max(self.published.get(channel).copied())
    }

    /// Begins to wait for the blocks of a release, in place of an unfinished one of its channel.
    fn accept(&mut self, index: Index) {
        let missing = self.input.ledger.want(index.blocks());
        tracing::info!(
            channel = %index.channel, release = index.number.0, artifacts = index.artifacts.len(),
            blocks = index.blocks().count(), missing = missing.len(), "release accepted"
        );
        let arrival = Arrival::new(index, &self.input.ledger, &self.checked);
        if let Some(old) = self.arrivals.insert(arrival.index().channel.clone(), arrival) {
            tracing::info!(channel = %old.index().channel, release = old.index().number.0, "superseded unfinished");
        }
        // What a mirror host asks for comes at once: it is asked for when it was looked for in the packs.
        if !self.input.is_mirror_host {
            self.input.orders.send(Order::Missing(missing.iter().map(|block| block.id).collect()));
        }
        self.to_rescan.extend(missing);
        self.space_due = Instant::now();
        self.retention.hurry();
    }

    /// What was there before the start is looked at once more before it is published: its disk may have changed it, and
    /// blobs that were checked are not checked again. What is served already is for `verify` to look at.
    fn doubt(&mut self, index: &Index) {
        let served = self.input.site.load();
        let served: HashSet<BlockId> =
            served.releases().iter().flat_map(|release| release.blocks()).map(|block| block.id).collect();
        let blocks = index.blocks().map(|block| block.id).filter(|id| !served.contains(id));
        self.doubted.extend(self.input.ledger.doubt(blocks));
    }

    /// Looks for some blocks in the packs that the journal does not know of: what a crash left, or what a lost journal
    /// knew.
    fn rescan_some(&mut self) {
        let rest = self.to_rescan.len().saturating_sub(RESCAN_SLICE);
        let blocks = self.to_rescan.split_off(rest);
        let found = self.input.ledger.rescan(&blocks);
        let mut not_there = blocks.clone();
        not_there.retain(|block| !found.contains(&block.id) && !self.input.ledger.holds(block));
        if !not_there.is_empty() {
            self.input.orders.send(Order::Missing(not_there.iter().map(|block| block.id).collect()));
        }
        self.doubted.retain(|id| !found.contains(id));
        let doubted = &mut self.doubted;
        let lost: Vec<_> = blocks.iter().filter(|block| doubted.remove(&block.id)).collect();
        // One that came again meanwhile is there.
        for block in lost.into_iter().filter(|block| !self.input.ledger.holds(block)) {
            let text = format!(
                "block {} is not in its pack as it was written: the disk has changed it. It must come again; see: \
                 diode-receiver missing",
                block.id
            );
            tracing::error!("{text}");
            self.teller.note(Event::Damaged { blocks: 1, first: vec![block.id] });
            self.set_refused(Some(text));
        }
        if !found.is_empty() {
            self.take_blocks(&found);
            self.input.orders.send(Order::Done(found));
        }
    }

    /// Hashes blobs whose blocks are all there, for a while.
    fn hash_some(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut rows = Vec::new();
        let mut failure = None;
        for arrival in self.arrivals.values_mut() {
            while started.elapsed() < HASHING_SLICE {
                let (digest, place) = match arrival.check_next(&self.input.packs) {
                    Ok(Some(checked)) => checked,
                    Ok(None) => break,
                    // Releases of other channels go on.
                    Err(error) => {
                        failure = failure.or(Some(error));
                        break;
                    }
                };
                self.checked.insert(digest, place);
                let record =
                    CheckedBlob { place }.to_value().map_err(diodesync::journal::JournalError::from)?;
                rows.push((Key::Checked(digest).encode(), Some(record)));
            }
        }
        // If it takes none, they are hashed again after the next start.
        if !rows.is_empty()
            && let Err(error) = self.input.journal.apply(rows)
        {
            tracing::debug!(%error, "checked blobs are not journalled");
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The command by which a sender that was restored from a backup goes on above what is known here.
    fn restore_with(&self) -> Option<String> {
        let version = self.trust.version()?;
        let channels: std::collections::BTreeSet<&Channel> =
            self.published.keys().chain(self.arrivals.keys()).collect();
        let floors = channels.into_iter().filter_map(|channel| Some((channel, self.newest(channel)?)));
        let floors: String = floors.map(|(channel, number)| format!(" --floor {channel}={number}")).collect();
        (!floors.is_empty()).then(|| format!("diode-sender restore{floors} --versions {version}"))
    }

    /// Tells that metadata is accepted.
    fn tell_trust(&self, trust: &TrustState) -> anyhow::Result<()> {
        let (version, expires_s) = (trust.version().unwrap_or(0), trust.expires_s().unwrap_or(0));
        self.teller.tell(Event::Trusted { version, expires_s })
    }

    fn set_refused(&self, why: Option<String>) {
        if let Some(why) = &why {
            self.teller.refused("what came", why);
        }
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).refused = why;
    }

    fn update_view(&mut self) {
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.published = self.published.clone();
        view.looking_for = self.to_rescan.len();
        if self.is_restoring && self.to_rescan.is_empty() {
            self.is_restoring = false;
            self.is_damage_stale = true;
        }
        view.freed = (self.retention.freed_bytes, self.retention.freed_blocks);
        // After a start, what is there is not known before the packs were looked through.
        if !self.is_restoring {
            view.arrivals = self.arrivals.values_mut().map(Arrival::view).collect();
        }
        view.unnamed = self.unnamed.iter().map(|(object, since)| (*object, *since)).collect();
        view.trust_expires_s = self.trust.expires_s();
        view.clock_hold = self.clocks.why_held();
        view.restore_with = self.restore_with();
    }
}
