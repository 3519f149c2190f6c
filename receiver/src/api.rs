//! The control interface: what the commands and the dashboard ask of the daemon.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::{Actor, Checkpoint, Event};
use diodesync::id::{BlockId, Channel, LinkId, Sha256};
use diodesync::journal::SledJournal;
use diodesync::link::Paired;
use diodesync::pack::{Disk, PackError, PackStore};
use diodesync::quantity::Span;
use diodesync_control::audit::{Audit, Caller};
use diodesync_control::dashboard::Trouble;
use diodesync_control::reload::{InForce, Reloaded};
use diodesync_control::{ApiError, VerifyJob, VerifyState, clock_ms, clock_s, on_thread};
use serde::Deserialize;

use crate::alarms;
use crate::approve::HeldReleases;
use crate::apt::Signer;
use crate::config::Config;
use crate::feed::FeedView;
use crate::handover::Notice;
use crate::import::{self, Imports};
use crate::lane::{LaneView, LanesShared, View as LanesView};
use crate::mirror::{self, MirrorDir, MirrorStatus};
use crate::publish::{
    DamagedRelease, Decided, GcReport, GcRequest, Handed, Ledger, PublishShared, Stage, View as PublishView,
};
use crate::reload;
use crate::serve::{MIRROR, SERVE, Serving, SiteHandle, TlsStatus};
use crate::status::{
    Alarm, ChannelStatus, DecodingStatus, LaneStatus, Missing, MissingRelease, ProbeStatus, ReleaseStatus,
    Status, ranges,
};
use crate::ticket;
use crate::verify::verify;

/// Silence after which there is an alarm: sessions come every 250 ms and beacons every second.
const SILENCE: Duration = Duration::from_secs(10);
/// Small beacons in a row, without a full-size one in between, that are no chance: they take turns.
const SMALL_BEACONS: u32 = 6;
/// Time in which the metadata of an index should have come: it goes before it, and again.
const UNNAMED: Duration = Duration::from_secs(10);
/// Time before the metadata's expiry at which there is an alarm; it is renewed daily.
const EXPIRY_S: u64 = 2 * 86_400;

/// What the handlers share.
#[derive(Debug)]
pub struct Daemon {
    /// `receiver.toml`.
    pub config: Config,
    /// The link whose releases these are.
    pub link: LinkId,
    /// What this receiver was paired with; a mirror host is not.
    pub paired: Option<Paired>,
    /// The lanes.
    pub lanes: Arc<LanesShared>,
    /// How the other roles are.
    pub others: Others,
    /// The publisher.
    pub publish: Arc<PublishShared>,
    /// What is served.
    pub site: SiteHandle,
    /// Signs the archive of packages.
    pub apt: Arc<Signer>,
    /// What comes on removable media.
    pub imports: Imports,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Which blocks are there.
    pub ledger: Arc<Ledger>,
    /// Progress.
    pub journal: Arc<SledJournal>,
    /// Notices for the publisher.
    pub notices: Sender<Notice>,
    /// `verify`.
    pub verify: VerifyJob,
    /// What is wrong with the dashboard.
    pub dashboard: Trouble,
    /// Who did what.
    pub audit: Audit,
    /// The configuration that is in force.
    pub in_force: Arc<InForce>,
}

/// How the roles are that this process may not fill.
#[derive(Debug)]
pub enum Others {
    /// They are in this process; the certificate is looked at here.
    Here(Arc<Mutex<TlsStatus>>),
    /// They run for themselves; how many lane roles have joined.
    Elsewhere(Arc<AtomicUsize>),
}

/// The handlers.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/missing", get(missing))
        .route("/v1/ticket", get(ticket))
        .merge(import::router())
        .route("/v1/verify", get(verify_state).post(start_verify))
        .route("/v1/gc", get(gc_dry_run).post(gc))
        .route("/v1/held", get(held))
        .route("/v1/decisions", post(decide))
        .route("/v1/acknowledge-clock", post(acknowledge_clock))
        .route("/v1/reload", post(reload_config))
        .route("/v1/audit/checkpoint", get(checkpoint))
        .with_state(daemon)
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Json<Status> {
    Json(daemon.status())
}

async fn missing(State(daemon): State<Arc<Daemon>>) -> Json<Missing> {
    Json(daemon.missing())
}

/// The ticket for what is lacking; none if nothing is.
async fn ticket(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<Option<String>>, ApiError> {
    on_thread("ticket", move || {
        let ticket = daemon.ticket()?;
        if let Some(ticket) = &ticket {
            daemon.audit.tell(&by, Event::Ticket { ticket: Sha256::of(ticket.as_bytes()) })?;
        }
        Ok(ticket)
    })
    .await
}

/// How far the audit log goes, signed.
async fn checkpoint(State(daemon): State<Arc<Daemon>>) -> Result<Json<Checkpoint>, ApiError> {
    on_thread("checkpoint", move || daemon.audit.checkpoint()).await
}

async fn verify_state(State(daemon): State<Arc<Daemon>>) -> Json<VerifyState> {
    Json(daemon.verify.state())
}

async fn start_verify(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<VerifyState>, ApiError> {
    daemon.told(by, Event::Verify {}).await?;
    let work = daemon.clone();
    daemon.verify.start(move |progress| {
        let Daemon { config, packs, ledger, notices, .. } = &*work;
        Ok(serde_json::to_value(verify(&config.dir, packs, ledger, notices, progress)?)?)
    })?;
    Ok(Json(daemon.verify.state()))
}

/// What waits for approvers.
async fn held(State(daemon): State<Arc<Daemon>>) -> Result<Json<HeldReleases>, ApiError> {
    on_thread("held", move || Ok(HeldReleases::of(&daemon))).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    /// What an approver has signed.
    decision: String,
}

async fn decide(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<Decision>,
) -> Result<Json<Decided>, ApiError> {
    on_thread("decide", move || daemon.publish.decide(Handed { decision: request.decision, by })).await
}

/// What is not kept, shown.
async fn gc_dry_run(State(daemon): State<Arc<Daemon>>) -> Result<Json<GcReport>, ApiError> {
    let request = GcRequest { is_dry_run: true, keep: None };
    on_thread("gc", move || daemon.publish.gc(request)).await
}

/// What is not kept, given back, unless it is only to be shown.
async fn gc(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<GcRequest>,
) -> Result<Json<GcReport>, ApiError> {
    if !request.is_dry_run {
        daemon.told(by, Event::Asked { what: "gc".to_owned() }).await?;
    }
    on_thread("gc", move || daemon.publish.gc(request)).await
}

async fn acknowledge_clock(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<serde_json::Value>, ApiError> {
    let Some(why) = daemon.publish.view().clock_hold else {
        return Err(ApiError::refused(
            "the clocks are not further apart than skew_max; there is nothing to acknowledge",
        ));
    };
    daemon.told(by, Event::ClockAcknowledged { why: why.clone() }).await?;
    daemon.publish.acknowledge_clock.store(true, Ordering::Relaxed);
    Ok(Json(serde_json::json!({ "acknowledged": why })))
}

async fn reload_config(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<Reloaded>, ApiError> {
    let reload = move || {
        let tell = |reloaded: &Reloaded| daemon.audit.tell(&by, reloaded.event());
        reload::reload(&daemon.in_force, daemon.link, &daemon.publish, tell)
    };
    on_thread("reload", reload).await
}

impl Daemon {
    /// Tells what is about to be done; where it cannot be told, it must not be.
    async fn told(&self, by: Actor, event: Event) -> Result<(), ApiError> {
        let audit = self.audit.clone();
        on_thread("audit log", move || audit.tell(&by, event)).await.map(drop)
    }

    /// The ticket for everything that is lacking and does not come by itself; none if nothing is.
    pub fn ticket(&self) -> anyhow::Result<Option<String>> {
        let paired = self.paired.as_ref().context(
            "a mirror host makes no tickets: what it lacks comes from the receiver at the diode, and what is lacking \
             there is named by diode-receiver missing there",
        )?;
        ticket::make(&self.config.dir, paired, &self.site.load(), &self.publish.view(), clock_s())
    }

    /// What `status` answers.
    pub fn status(&self) -> Status {
        let (lanes, publish) = (self.lanes.view(), self.publish.view());
        let clock_ms = clock_ms();
        let skew_ms = publish.beacon.as_ref().map(|(beacon, then)| {
            i64::try_from(i128::from(beacon.clock_ms) - i128::from(*then)).unwrap_or(i64::MAX)
        });
        let channels = self.channels(&publish);
        let disk = self.packs.disk(publish.freed.0);
        let mut alarms = lane_alarms(clock_ms, &lanes);
        let tls = self.others.look(&self.config, clock_ms, &mut alarms);
        let feed = self.feed(clock_ms, &mut alarms);
        alarms.extend(self.alarms(clock_ms, skew_ms, &publish, &channels));
        alarms.extend(self.storage_alarms(&publish, &disk));
        let mirrors = self.mirrors(clock_ms, &mut alarms);
        let troubles = alarms::troubles(&self.config.dir, &self.config.alarms);
        alarms.extend(troubles.into_iter().map(|(id, text)| Alarm { id: id.to_owned(), text }));
        Status {
            side: "receiver".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            link: self.link,
            clock_ms,
            skew_ms,
            trust_expires_s: publish.trust_expires_s,
            disk: disk.ok(),
            restore_with: publish.restore_with.clone(),
            alarms,
            certificate_expires_s: tls.map(|tls| tls.expires_s),
            lanes: lanes.lanes.iter().map(lane_status).collect(),
            decoding: decoding_status(&lanes),
            channels,
            mirrors,
            upstream: lanes.upstream.as_deref().cloned(),
            feed,
        }
    }

    /// How mirror hosts are fed, and alarms about that.
    fn feed(&self, clock_ms: u64, alarms: &mut Vec<Alarm>) -> Option<FeedView> {
        self.config.feed.as_ref()?;
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        match FeedView::read(&self.config.dir, clock_ms) {
            Ok(Some(view)) => {
                view.trouble.iter().for_each(|why| alarm("feed", why.clone()));
                return Some(view);
            }
            // Right after the start, or without the role that serves: that is an alarm of its own.
            Ok(None) => {}
            Err(error) => alarm("feed", format!("it is not known how mirror hosts are fed: {error:#}")),
        }
        None
    }

    /// How the site's own mirrors stand, and alarms about those behind.
    fn mirrors(&self, clock_ms: u64, alarms: &mut Vec<Alarm>) -> Vec<MirrorStatus> {
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        let (dir, published) = (MirrorDir::of(&self.config.dir), mirror::releases(&self.site.load()));
        let mut mirrors = Vec::new();
        let is_pushed = !self.config.mirrors.is_empty() || self.config.alarms.webhook.is_some();
        let unknown = match self.others {
            Others::Elsewhere(_) if is_pushed => self.mirror_role(clock_ms, &mut alarm),
            _ => None,
        };
        for config in &self.config.mirrors {
            let mut status = mirror::status(&dir, config);
            // What was published just now, it has not seen yet.
            if status.state == "current" && status.holds != published {
                status.state = "working".to_owned();
            }
            status.published.clone_from(&published);
            if let Some(why) = &unknown {
                // What it said last may be as old as it likes.
                "unknown".clone_into(&mut status.state);
                (status.reason, status.doing, status.retry_ms) = (Some(why.clone()), None, None);
            } else if let Some(reason) = &status.reason {
                alarm(
                    "mirror-behind",
                    format!("mirror {} is behind: {reason}. It is tried again by itself", config.name),
                );
            }
            mirrors.push(status);
        }
        mirrors
    }

    /// Why it is not known how the mirrors stand; none if the role that pushes to them runs.
    fn mirror_role(&self, clock_ms: u64, alarm: &mut impl FnMut(&str, String)) -> Option<String> {
        let why = match Serving::read(&self.config.dir, MIRROR) {
            Ok(Some(serving)) if !serving.is_silent(clock_ms) => {
                if let Some(why) = serving.failure {
                    alarm("mirror-role", format!("what was published before is mirrored still: {why}"));
                }
                return None;
            }
            Ok(_) => {
                "nothing pushes to mirrors and webhook; run: diode-receiver run --role mirror".to_owned()
            }
            Err(error) => format!("it is not known what is mirrored: {error:#}"),
        };
        alarm("mirror-role", why.clone());
        Some(why)
    }

    fn channels(&self, publish: &PublishView) -> Vec<ChannelStatus> {
        let site = self.site.load();
        let beacon = publish.beacon.iter().flat_map(|(beacon, _)| &beacon.channels);
        let mut names: Vec<Channel> = publish.published.keys().cloned().collect();
        names.extend(publish.arrivals.iter().map(|arrival| arrival.channel.clone()));
        names.extend(beacon.clone().map(|channel| channel.channel.clone()));
        names.push(Channel::main());
        names.sort();
        names.dedup();
        let channel = |channel: Channel| {
            let served = site.releases().iter().filter(|index| index.channel == channel).map(|index| {
                let blocks = index.blocks().count();
                let bytes = index.blocks().map(|block| u64::from(block.bytes)).sum();
                let is_it = |damaged: &&DamagedRelease| {
                    (&damaged.channel, damaged.number) == (&index.channel, index.number)
                };
                let lacking: &[BlockId] =
                    publish.damaged.iter().find(is_it).map_or(&[], |damaged| &damaged.lacking.blocks);
                let lacks = |id: &BlockId| lacking.binary_search(id).is_ok();
                let lost = index.blocks().filter(|block| !lacking.is_empty() && lacks(&block.id));
                let lost_bytes: u64 = lost.map(|block| u64::from(block.bytes)).sum();
                let reason = (!lacking.is_empty()).then(|| {
                    format!(
                        "{} of its blocks are damaged or gone and not served; see: diode-receiver missing",
                        lacking.len()
                    )
                });
                ReleaseStatus {
                    number: index.number,
                    state: if reason.is_some() { "damaged" } else { "published" }.to_owned(),
                    artifacts: index.artifacts.len(),
                    blocks_needed: blocks,
                    blocks_held: blocks - lacking.len(),
                    bytes_needed: bytes,
                    bytes_held: bytes - lost_bytes,
                    reason,
                }
            });
            let arriving =
                publish.arrivals.iter().filter(|arrival| arrival.channel == channel).map(|arrival| {
                    let (state, reason) = match &arrival.stage {
                        Stage::Arriving => ("arriving", None),
                        Stage::Incomplete => {
                        let lacking = arrival.blocks.0 - arrival.blocks.1;
                        let why = format!("its last round is over and {lacking} blocks are lacking; see: diode-receiver missing");
                        ("incomplete", Some(why))
                    }
                        Stage::NoSpace(why) => ("no-space", Some(why.clone())),
                        Stage::Checking => ("checking", None),
                        Stage::Scanning(progress) => ("scanning", Some(progress.clone())),
                        Stage::Unscanned(why) => ("unscanned", Some(why.clone())),
                        Stage::Held(held) => ("held", Some(held.why())),
                        Stage::Refused(why) => ("refused", Some(why.clone())),
                    };
                    ReleaseStatus {
                        number: arrival.number,
                        state: state.to_owned(),
                        artifacts: arrival.artifacts,
                        blocks_needed: arrival.blocks.0,
                        blocks_held: arrival.blocks.1,
                        bytes_needed: arrival.bytes.0,
                        bytes_held: arrival.bytes.1,
                        reason,
                    }
                });
            ChannelStatus {
                published: publish.published.get(&channel).copied(),
                newest: beacon.clone().find(|beacon| beacon.channel == channel).map(|beacon| beacon.newest),
                releases: served.chain(arriving).collect(),
                channel,
            }
        };
        names.into_iter().map(channel).collect()
    }

    /// What `missing` answers.
    pub fn missing(&self) -> Missing {
        let publish = self.publish.view();
        let mut releases: Vec<MissingRelease> = publish
            .arrivals
            .iter()
            .filter(|arrival| arrival.stage == Stage::Incomplete)
            .map(|arrival| MissingRelease {
                channel: arrival.channel.clone(),
                number: arrival.number,
                index: false,
                blocks: ranges(&arrival.lacking.blocks),
                block_count: arrival.lacking.blocks.len(),
                artifacts: arrival.lacking.artifacts.clone(),
            })
            .collect();
        releases.extend(publish.damaged.iter().map(|damaged| MissingRelease {
            channel: damaged.channel.clone(),
            number: damaged.number,
            index: false,
            blocks: ranges(&damaged.lacking.blocks),
            block_count: damaged.lacking.blocks.len(),
            artifacts: damaged.lacking.artifacts.clone(),
        }));
        releases.extend(publish.never_came().into_iter().map(|(channel, number)| MissingRelease {
            channel,
            number,
            index: true,
            blocks: Vec::new(),
            block_count: 0,
            artifacts: Vec::new(),
        }));
        Missing { releases }
    }

    /// What is wrong with the disk, and what came of it.
    fn storage_alarms(&self, publish: &PublishView, disk: &Result<Disk, PackError>) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        match disk {
            Ok(disk) => disk.alarm().into_iter().for_each(|text| alarm("disk-full", text)),
            Err(error) => alarm("disk", error.to_string()),
        }
        for arrival in &publish.arrivals {
            if let Stage::NoSpace(why) = &arrival.stage {
                let text = format!(
                    "release {} {} is held: {why}. It goes on by itself",
                    arrival.channel, arrival.number
                );
                alarm("no-space", text);
            }
        }
        if let Some(why) = self.ledger.trouble() {
            alarm("blocks-not-written", why);
        }
        if let Some(why) = self.journal.failure() {
            let text = format!(
                "the journal is closed: {why}. Nothing is lost and everything goes on; it is opened again by itself, and \
                 until then a restart means hashing what is in the packs"
            );
            alarm("journal", text);
        }
        if let Some(why) = self.audit.alarm() {
            alarm("audit", why);
        }
        if let Some(why) = &publish.retention_failure {
            alarm("retention", format!("what is not kept cannot be given back: {why}"));
        }
        for damaged in &publish.damaged {
            let text = format!(
                "release {} {}: {} blocks are damaged or gone, {} artifacts in them are not served: look at the disk, and \
                 on the low side: diode-sender release --full --channel {}. They are named by: diode-receiver missing",
                damaged.channel,
                damaged.number,
                damaged.lacking.blocks.len(),
                damaged.lacking.artifacts.len(),
                damaged.channel
            );
            alarm("damaged", text);
        }
        alarms
    }

    fn alarms(
        &self,
        clock_ms: u64,
        skew_ms: Option<i64>,
        publish: &PublishView,
        channels: &[ChannelStatus],
    ) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        if let Some(why) = &publish.clock_hold {
            alarm("clock-skew", why.clone());
        } else if let Some(skew) =
            skew_ms.filter(|skew| u128::from(skew.unsigned_abs()) > self.config.trust.skew_max.as_millis())
        {
            let span = Span(Duration::from_millis(skew.unsigned_abs()));
            alarm(
                "clock-acknowledged",
                format!("the clocks are {span} apart, which was acknowledged; set the wrong one"),
            );
        }
        if let Some(expires) = publish.trust_expires_s.filter(|expires| *expires < clock_ms / 1000 + EXPIRY_S)
        {
            let left = Duration::from_secs(expires.saturating_sub(clock_ms / 1000));
            let from = if self.config.upstream.is_some() {
                "upstream; is a release held there, or is it not reached?"
            } else {
                "the sender"
            };
            let text =
                format!("the accepted metadata expires in {}: no fresh one comes from {from}", Span(left));
            alarm("metadata-expires", text);
        }
        if let Some(why) = &publish.refused {
            alarm("refused", why.clone());
        }
        // Where there are no packages, nobody asks for the key.
        if let Some(why) =
            self.apt.alarm(clock_ms / 1000).filter(|_| !self.site.load().apt().suites().is_empty())
        {
            alarm("apt-key", why);
        }
        let waits = |since: u64| Duration::from_millis(clock_ms.saturating_sub(since));
        for (object, since) in publish.unnamed.iter().filter(|(_, since)| waits(*since) >= UNNAMED) {
            let text = format!(
                "{object} came {} ago and no accepted metadata names it: the metadata is lacking or refused, or the index \
                 was changed by someone who holds the link's key. It is not published",
                Span(waits(*since))
            );
            alarm("unnamed-index", text);
        }
        if publish.looking_for > 0 {
            let text = format!(
                "looking through the packs for {} blocks that were written before the start; what is found need not come again",
                publish.looking_for
            );
            alarm("looking-for-blocks", text);
        }
        if let Some(why) = &publish.failure {
            alarm("publisher", why.clone());
        }
        if let Some(why) = self.dashboard.text() {
            alarm("dashboard", why);
        }
        for (channel, release) in
            channels.iter().flat_map(|c| c.releases.iter().map(move |r| (&c.channel, r)))
        {
            match (release.state.as_str(), &release.reason) {
                ("refused", Some(reason)) => {
                    alarm(
                        "release-refused",
                        format!("release {channel} {} is refused: {reason}", release.number),
                    );
                }
                ("unscanned", Some(reason)) => {
                    alarm(
                        "release-unscanned",
                        format!("release {channel} {} waits: {reason}", release.number),
                    );
                }
                ("held", Some(reason)) => {
                    alarm("release-held", format!("release {channel} {} is held: {reason}", release.number));
                }
                ("incomplete", Some(reason)) => {
                    alarm("release-incomplete", format!("release {channel} {}: {reason}", release.number));
                }
                _ => {}
            }
        }
        for release in self.missing().releases.iter().filter(|release| release.index) {
            let text = format!(
                "release {} {} was sent and nothing of it was understood; see: diode-receiver missing",
                release.channel, release.number
            );
            alarm("release-never-came", text);
        }
        alarms
    }
}

impl Others {
    /// How the certificate stands, if something serves; and alarms about roles that do not run.
    fn look(&self, config: &Config, clock_ms: u64, alarms: &mut Vec<Alarm>) -> Option<TlsStatus> {
        let dir = &config.dir;
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        let tls = match self {
            Self::Here(tls) => tls.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Self::Elsewhere(lanes) => {
                if lanes.load(Ordering::Relaxed) == 0 {
                    let role = if config.upstream.is_some() { "upstream" } else { "lane" };
                    alarm("lane-role", format!("nothing receives; run: diode-receiver run --role {role}"));
                }
                let serving = Serving::read(dir, SERVE).unwrap_or_else(|error| {
                    alarm("serve-role", format!("it is not known what is served: {error:#}"));
                    None
                });
                match serving.filter(|serving| !serving.is_silent(clock_ms)) {
                    Some(serving) => {
                        if let Some(why) = serving.failure {
                            alarm("serve-role", format!("what was served before is served still: {why}"));
                        }
                        serving.tls
                    }
                    None => {
                        alarm(
                            "serve-role",
                            "nothing serves; run: diode-receiver run --role serve".to_owned(),
                        );
                        return None;
                    }
                }
            }
        };
        if let Some(problem) = &tls.problem {
            alarm("certificate", problem.clone());
        }
        Some(tls)
    }
}

fn lane_status(view: &LaneView) -> LaneStatus {
    let intake = &view.intake;
    LaneStatus {
        name: view.name.clone(),
        listen: view.listen.clone(),
        session: view.session.map(|session| session.0),
        wire_version: view.wire_version,
        rate_bits_per_s: view.rate_bits_per_s,
        received: intake.received,
        received_bytes: intake.received_bytes,
        lost: intake.lost(),
        rejected: intake.rejected(),
        malformed: intake.malformed,
        forged: intake.forged,
        replayed: intake.replayed,
        other_session: intake.other_session,
        kernel_drops: view.kernel_drops,
        buffer_bytes: view.buffer_bytes,
        last_ms: view.last_ms,
        probe: ProbeStatus::of(&view.probe),
    }
}

fn decoding_status(view: &LanesView) -> DecodingStatus {
    let (decoding, collector) = (&view.decoding, &view.decoding.collector);
    DecodingStatus {
        duplicates: collector.duplicates + collector.surplus,
        repaired: collector.repaired,
        blocks: collector.blocks,
        mismatched: decoding.mismatched,
        collecting: decoding.collecting,
    }
}

/// What is wrong with the lanes.
fn lane_alarms(clock_ms: u64, view: &LanesView) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
    if let Some(upstream) = &view.upstream {
        upstream.silent(clock_ms).into_iter().for_each(|text| alarm("upstream", text));
        if let Some(why) = &upstream.wrong {
            let text = format!(
                "what {} gives is not what was signed, and is refused: {why}. What is served stays. Look there for a damaged \
                 disk, with: diode-receiver verify; it is asked for again",
                upstream.from
            );
            alarm("upstream-wrong", text);
        }
    }
    let is_any_heard = view.lanes.iter().any(|lane| lane.last_ms.is_some());
    for lane in &view.lanes {
        let name = &lane.name;
        // Before the first datagram on any lane the sender may not have been started yet.
        let last = lane.last_ms.or(is_any_heard.then_some(lane.since_ms));
        let silence = last.map(|last| Duration::from_millis(clock_ms.saturating_sub(last)));
        if let Some(silence) = silence.filter(|silence| *silence >= SILENCE) {
            let text =
                format!("lane {name}: nothing came for {}; look at the sender and the path", Span(silence));
            alarm("silence", text);
        }
        if lane.small_beacons >= SMALL_BEACONS {
            let since = Span(Duration::from_millis(clock_ms.saturating_sub(lane.full_beacon_ms)));
            let text = format!(
                "lane {name}: small datagrams come, and full-size ones have not for {since}: something on the path takes no \
                 datagrams of the sender's mtu. Set the lane's mtu there to what the path takes"
            );
            alarm("mtu", text);
        }
        if let Some(why) = &lane.refused_session {
            alarm("session-refused", format!("lane {name}: {why}"));
        }
        if lane.kernel_drops > 0 {
            let text = format!(
                "lane {name}: the kernel dropped {} packets (of up to 64 datagrams each) because its buffer was full; raise \
                 net.core.rmem_max or lower the sender's rate",
                lane.kernel_drops
            );
            alarm("kernel-drops", text);
        }
    }
    alarms
}
