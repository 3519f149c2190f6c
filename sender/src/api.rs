//! The control interface: what the commands and the dashboard ask of the daemon.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::{Actor, Checkpoint, Event};
use diodesync::id::{Channel, LinkId, ReleaseNo, Sha256};
use diodesync::journal::SledJournal;
use diodesync::link::ReceiverPublic;
use diodesync::pack::{Disk, PackError, PackStore};
use diodesync_control::audit::{Audit, Caller};
use diodesync_control::dashboard::Trouble;
use diodesync_control::reload::{InForce, Reloaded};
use diodesync_control::{ApiError, VerifyJob, VerifyState, clock_ms, clock_s, on_thread};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::alarms;
use crate::config::Config;
use crate::dashboard::Changes;
use crate::export::{self, Exports};
use crate::ingest::SharedStore;
use crate::init::Keys;
use crate::lane::{self, LaneShared};
use crate::link_key;
use crate::probe;
use crate::producers::{Listing as ProducerListing, Producers};
use crate::release::{self, Cut};
use crate::reload::reload;
use crate::resend::{self, Again};
use crate::sending::Sending;
use crate::sources::{self, Sources};
use crate::status::{Alarm, ChannelStatus, LaneStatus, ResendStatus, Status};
use crate::submit;
use crate::verify::verify;
use crate::withdraw::{self, Listing};

/// What the handlers share.
#[derive(Debug)]
pub struct Daemon {
    /// `sender.toml`, as far as it is in force.
    pub config: Mutex<Arc<Config>>,
    /// What is compared with it.
    pub in_force: InForce,
    /// The link.
    pub link: LinkId,
    /// Keys.
    pub keys: Arc<Keys>,
    /// Releases and what is staged.
    pub store: SharedStore,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Held by the submission under way.
    pub writer: Mutex<()>,
    /// Held while a release is cut and handed to the lane, so that the lane gets them in the order of their numbers.
    pub releaser: Mutex<()>,
    /// The lanes.
    pub lanes: Vec<Arc<LaneShared>>,
    /// What goes out on them.
    pub sending: Arc<Sending>,
    /// Who can read what is sent.
    pub receivers: Vec<ReceiverPublic>,
    /// Releases on their way to removable media.
    pub exports: Exports,
    /// Progress.
    pub journal: Arc<SledJournal>,
    /// Octets that retention has given back since the start.
    pub freed_bytes: AtomicU64,
    /// Why releases that are not kept cannot be forgotten.
    pub housekeeping: Mutex<Vec<String>>,
    /// `verify`.
    pub verify: VerifyJob,
    /// What releases changed.
    pub changes: Changes,
    /// What is wrong with the dashboard.
    pub dashboard: Trouble,
    /// What is pulled from upstreams.
    pub sources: Sources,
    /// Who submits over the network.
    pub producers: Producers,
    /// Who did what.
    pub audit: Audit,
}

/// The body of a release request.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReleaseRequest {
    /// The channel.
    pub channel: Channel,
    /// Send everything, whatever went out before.
    pub full: bool,
}

/// Blobs by digest.
#[derive(Debug, Deserialize)]
struct HeldRequest {
    blobs: Vec<Sha256>,
}

/// The handlers.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/held", post(held))
        .route("/v1/submit", post(take_submission))
        .route("/v1/artifacts/{channel}", get(artifacts))
        .route("/v1/withdraw", post(withdraw))
        .route("/v1/release", post(cut))
        .route("/v1/resend", post(resend))
        .route("/v1/producers", get(producers))
        .route("/v1/verify", get(verify_state).post(start_verify))
        .merge(export::router())
        .merge(probe::router())
        .merge(sources::api::router())
        .route("/v1/sign", post(sign))
        .route("/v1/reload", post(take_configuration))
        .route("/v1/audit/checkpoint", get(checkpoint))
        .layer(DefaultBodyLimit::disable())
        .with_state(daemon)
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Json<Status> {
    Json(daemon.status())
}

async fn producers(State(daemon): State<Arc<Daemon>>) -> Json<ProducerListing> {
    Json(daemon.producers.listing())
}

/// Which of these blobs are here, and need not be submitted again.
async fn held(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<HeldRequest>,
) -> Json<serde_json::Value> {
    let store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    let held: Vec<Sha256> =
        request.blobs.into_iter().filter(|digest| store.catalog.blob(digest).is_some()).collect();
    Json(serde_json::json!({ "held": held }))
}

async fn take_submission(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    body: Body,
) -> Result<Json<serde_json::Value>, ApiError> {
    let (chunks, receiver) = mpsc::channel(8);
    let work = tokio::task::spawn_blocking(move || {
        let tell = |event| daemon.audit.tell(&by, event);
        submit::receive(
            &daemon.packs,
            &daemon.store,
            &daemon.writer,
            receiver,
            &submit::Submitter::trusted(&tell),
        )
    });
    let mut body = body;
    // A body that breaks off ends the chunks without an end message, which the other side takes as what it is.
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if chunks.send(data).await.is_err() {
            // It was refused before its end. Who still writes must be read from, or never reads why.
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
            break;
        }
    }
    drop(chunks);
    let totals =
        work.await.map_err(|error| ApiError::refused(format!("the submission crashed: {error}")))??;
    Ok(Json(serde_json::json!({
        "artifacts": totals.artifacts, "bytes": totals.bytes, "new_bytes": totals.new_bytes,
    })))
}

/// What the next release of a channel would serve.
async fn artifacts(
    State(daemon): State<Arc<Daemon>>,
    Path(channel): Path<Channel>,
) -> Result<Json<Listing>, ApiError> {
    on_thread("listing", move || {
        Ok(withdraw::list(&daemon.store.lock().unwrap_or_else(PoisonError::into_inner), &channel))
    })
    .await
}

/// Takes artifacts out of the next release.
async fn withdraw(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<withdraw::Request>,
) -> Result<Json<Vec<String>>, ApiError> {
    on_thread("withdrawal", move || {
        let tell = |event| daemon.audit.tell(&by, event);
        withdraw::withdraw(&mut daemon.store.lock().unwrap_or_else(PoisonError::into_inner), &request, &tell)
    })
    .await
}

async fn cut(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<ReleaseRequest>,
) -> Result<Json<Cut>, ApiError> {
    on_thread("release", move || daemon.cut(&by, &request.channel, request.full)).await
}

/// Sends what a ticket asks for.
async fn resend(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<resend::Request>,
) -> Result<Json<Vec<Again>>, ApiError> {
    on_thread("resend", move || daemon.resend(&by, request)).await
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
        Ok(serde_json::to_value(verify(&work.config().dir, &work.packs, &work.store, progress)?)?)
    })?;
    Ok(Json(daemon.verify.state()))
}

/// Signs everything anew, after a rotation, and has it sent.
async fn sign(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<serde_json::Value>, ApiError> {
    on_thread("signing", move || {
        daemon.audit.tell(&by, Event::Signed {})?;
        daemon.sign_anew().map(|()| serde_json::json!({}))
    })
    .await
}

/// Takes what has changed in the configuration.
async fn take_configuration(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
) -> Result<Json<Reloaded>, ApiError> {
    on_thread("reload", move || reload(&daemon, &by)).await
}

/// How far the audit log goes, signed.
async fn checkpoint(State(daemon): State<Arc<Daemon>>) -> Result<Json<Checkpoint>, ApiError> {
    on_thread("checkpoint", move || daemon.audit.checkpoint()).await
}

impl Daemon {
    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lane of this name.
    pub fn lane(&self, name: &str) -> Result<&LaneShared, ApiError> {
        let lane = self.lanes.iter().find(|lane| lane.config.name.as_str() == name);
        lane.map(Arc::as_ref).ok_or_else(|| {
            let names: Vec<&str> = self.lanes.iter().map(|lane| lane.config.name.as_str()).collect();
            ApiError::refused(format!("there is no lane {name}; there are {}", names.join(", ")))
        })
    }

    /// Tells what is about to be done; where it cannot be told, it must not be.
    pub async fn told(&self, by: Actor, event: Event) -> Result<(), ApiError> {
        let audit = self.audit.clone();
        on_thread("audit log", move || audit.tell(&by, event)).await.map(drop)
    }

    /// Cuts a release and has it sent; full, if that is asked for or due.
    pub fn cut(&self, by: &Actor, channel: &Channel, full: bool) -> anyhow::Result<Cut> {
        let (now_s, days) = (clock_s(), self.config().trust.timestamp_days);
        let _one_at_a_time = self.releaser.lock().unwrap_or_else(PoisonError::into_inner);
        let full = full || self.is_full_due(channel, now_s)?;
        let tell = |event| self.audit.tell(by, event);
        let (cut, outgoing) = release::cut(&self.store, &self.keys, channel, full, now_s, days, &tell)?;
        self.sending.send(outgoing);
        Ok(cut)
    }

    /// Has what a ticket asks for sent.
    pub fn resend(&self, by: &Actor, request: resend::Request) -> anyhow::Result<Vec<Again>> {
        let _one_at_a_time = self.releaser.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, path) = {
            let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let (link, secret) = (self.link, &self.keys.pairing);
            let ticket = request.into_ticket(link, secret, clock_s());
            let tell = |event| self.audit.tell(by, event);
            resend::take(&store, &self.config().dir, link, secret, &ticket, &tell)?
        };
        let mut answer = Vec::new();
        for (again, outgoing) in sent {
            self.sending.resend(outgoing, path.clone());
            answer.push(again);
        }
        Ok(answer)
    }

    /// Whether it is time to send everything of a channel again.
    pub fn is_full_due(&self, channel: &Channel, now_s: u64) -> anyhow::Result<bool> {
        let Some(every) = self.config().channels().of(channel).full_every else { return Ok(false) };
        let last_s = self.store.lock().unwrap_or_else(PoisonError::into_inner).last_full_s(channel)?;
        Ok(last_s.is_none_or(|last_s| now_s.saturating_sub(last_s) >= every.as_secs()))
    }

    /// Signs fresh metadata. It goes with what is being sent; where nothing is, it goes by itself.
    pub fn sign_anew(&self) -> anyhow::Result<()> {
        let _one_at_a_time = self.releaser.lock().unwrap_or_else(PoisonError::into_inner);
        release::renew_timestamp(&self.store, &self.keys, clock_s(), self.config().trust.timestamp_days)?;
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bundle) = store.bundle.clone() else { return Ok(()) };
        let mut nothing_is_sent = true;
        for (channel, index) in &store.newest {
            nothing_is_sent &= store.complete(channel)?.is_some_and(|complete| complete >= index.number);
        }
        let newest = store.newest.values().next().filter(|_| nothing_is_sent);
        let alone =
            newest.map(|index| release::outgoing(&store, index, diodesync::send::Begin::Anew)).transpose()?;
        drop(store);
        self.sending.trust_changed(&bundle);
        if let Some(mut alone) = alone {
            alone.plan.blocks.clear();
            self.sending.send(alone);
        }
        Ok(())
    }

    /// What is wrong with the disk, and what came of it.
    fn storage_alarms(&self, disk: &Result<Disk, PackError>) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
        match disk {
            Ok(disk) => disk.alarm().into_iter().for_each(|text| alarm("disk-full", text)),
            Err(error) => alarm("disk", error.to_string()),
        }
        if let Some(why) = self.journal.failure() {
            let text = format!(
                "the journal is closed: {why}. Nothing is lost and everything goes on; it is opened again by itself, and \
                 until then a restart means that the round begins anew"
            );
            alarm("journal", text);
        }
        if let Some(why) = self.audit.alarm() {
            alarm("audit", why);
        }
        for why in self.housekeeping.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            alarm("housekeeping", why.clone());
        }
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let artifacts = store.damaged_artifacts();
        if let Some(first) = artifacts.first() {
            let text = format!(
                "{} blocks in {} are damaged or gone and are not sent; in them lie {} artifacts, like {first}. Look at the \
                 disk, and submit them again; diode-sender verify names all of them",
                store.catalog.condemned().len(),
                self.packs.dir().display(),
                artifacts.len()
            );
            alarm("packs-damaged", text);
        }
        alarms
    }

    /// What `status` answers.
    pub fn status(&self) -> Status {
        let mut alarms = Vec::new();
        let lanes = self.lanes.iter().map(|lane| lane_status(lane, &mut alarms)).collect();
        let disk = self.packs.disk(self.freed_bytes.load(Ordering::Relaxed));
        alarms.extend(self.storage_alarms(&disk));
        alarms.extend(self.dashboard.text().map(|text| Alarm { id: "dashboard".to_owned(), text }));
        let troubles = alarms::troubles(&self.config().dir, &self.config().alarms);
        alarms.extend(troubles.into_iter().map(|(id, text)| Alarm { id: id.to_owned(), text }));
        let troubles = self.producers.troubles().into_iter();
        alarms.extend(troubles.map(|text| Alarm { id: "producers".to_owned(), text }));
        let (sources, of_sources) = self.sources.status();
        alarms.extend(of_sources);
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut channels: Vec<Channel> = store.newest.keys().cloned().collect();
        channels.extend(store.staged.values().map(|index| index.channel.clone()));
        channels.push(Channel::main());
        channels.sort();
        channels.dedup();
        let staged: Vec<usize> = channels
            .iter()
            .map(|channel| store.staged.values().filter(|index| index.channel == *channel))
            .map(|staged| staged.map(|index| index.artifacts.len()).sum())
            .collect();
        let withdrawn: Vec<usize> = channels.iter().map(|channel| store.withdrawn(channel).len()).collect();
        let newest: Vec<Option<ReleaseNo>> =
            channels.iter().map(|channel| store.newest.get(channel).map(|index| index.number)).collect();
        let complete: Vec<Option<ReleaseNo>> =
            channels.iter().map(|channel| store.complete(channel).unwrap_or_default()).collect();
        drop(store);
        let changes = staged.into_iter().zip(withdrawn);
        let channels = channels.into_iter().zip(changes).zip(newest.into_iter().zip(complete));
        let channels = channels.map(|((channel, (staged, withdrawn)), (newest, complete))| {
            let view = self.sending.view(&channel).filter(|(view, _)| Some(view.number) == newest);
            let state = match &view {
                _ if newest.is_none() => "idle",
                Some((view, true)) if view.is_waiting => "waiting",
                Some((_, true)) => "sending",
                _ if complete >= newest => "complete",
                _ => "waiting",
            };
            let rounds = self.sending.rounds(&channel);
            let (round, sent, total) = match view {
                Some((view, true)) => (view.round + 1, view.sent, view.total),
                Some((view, false)) => (rounds, view.total, view.total),
                None => (if state == "complete" { rounds } else { 1 }, (0, 0), (0, 0)),
            };
            ChannelStatus {
                staged,
                withdrawn,
                newest,
                state: state.to_owned(),
                round: round.min(rounds),
                rounds,
                sent_blocks: sent.0,
                total_blocks: total.0,
                sent_bytes: sent.1,
                total_bytes: total.1,
                resend: self.sending.resending(&channel).map(|view| ResendStatus {
                    round: view.round + 1,
                    sent_blocks: view.sent.0,
                    total_blocks: view.total.0,
                }),
                channel,
            }
        });
        Status {
            side: "sender".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            link: self.link,
            link_key: link_key::text(&self.keys.link),
            clock_ms: clock_ms(),
            lanes,
            channels: channels.collect(),
            sources,
            producers: self.producers.status(),
            disk: disk.ok(),
            alarms,
        }
    }
}

/// What a lane is doing, and what needs an operator.
fn lane_status(lane: &LaneShared, alarms: &mut Vec<Alarm>) -> LaneStatus {
    let (view, counters, config) = (lane.view(), &lane.counters, &lane.config);
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (name, to) = (&config.name, config.to);
    let mut alarm = |id: &str, text: String| alarms.push(Alarm { id: id.to_owned(), text });
    if let Some(error) = &view.send_error {
        let text = format!(
            "nothing can be sent on lane {name}: {error}. It is tried again until it works; look at the interface and the \
             route to {to}, and whether the lane's mtu is at most the interface's"
        );
        alarm("lane-send", text);
    }
    if let Some(why) = lane::neighbour_trouble(to) {
        alarm("neighbour", format!("lane {name}: {why}"));
    }
    let unreadable = load(&counters.unreadable);
    if unreadable > 0 {
        let text = format!(
            "{unreadable} blocks could not be read from the packs, or are not what was submitted, and were not sent on lane \
             {name} since the start; the log says which and why. Mend that, then: diode-sender release --full"
        );
        alarm("packs-unreadable", text);
    }
    if lane.stop.load(Ordering::Relaxed) {
        alarm("lane-stopped", format!("lane {name} has stopped; the log says why. Restart the sender"));
    }
    LaneStatus {
        name: name.to_string(),
        to: to.to_string(),
        session: load(&counters.session),
        rate_max_bits_per_s: view.rate_max_bits_per_s,
        is_paused: view.is_paused,
        rate_bits_per_s: view.rate_bits_per_s,
        sent_datagrams: load(&counters.datagrams),
        sent_bytes: load(&counters.bytes),
        send_errors: load(&counters.errors),
    }
}
