//! `run`: the daemon.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use diodesync::journal::{JournalExt, Key, Progress, SledJournal};
use diodesync::link::ReceiverPublic;
use diodesync::pack::{PackStore, fact};
use diodesync::send::{Begin, LaneSlot};
use diodesync_control::dashboard::Dashboard;
use diodesync_control::reload::InForce;
use diodesync_control::{DirLock, clock_s, service};
use tokio::signal::unix::{SignalKind, signal};

use crate::alarms;
use crate::api::{self, Daemon};
use crate::audit;
use crate::config::Config;
use crate::export::Exports;
use crate::housekeep;
use crate::init::{Keys, LinkFile};
use crate::lane::{self, LaneInput, LaneShared};
use crate::producers::{Listening, Producers};
use crate::release;
use crate::resend;
use crate::sending::Sending;
use crate::sources::{self, Sources};
use crate::store::Store;

/// How often the TUF timestamp is renewed.
const TIMESTAMP_INTERVAL: Duration = Duration::from_secs(86_400);

/// Runs until SIGTERM or SIGINT.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let in_force = InForce::open(path)?;
    let dir = config.dir.clone();
    let link = fact::read(&dir.join("link.json"))?;
    let link = link.with_context(|| {
        format!(
            "{} is not initialised; run: diode-sender init --dir {0} --receiver receiver.pub",
            dir.display()
        )
    })?;
    let link: LinkFile = serde_json::from_slice(&link).context("the fact file link.json is damaged")?;
    let _lock = DirLock::take(&dir, "lock")?;
    let audit = audit::open(&dir)?;
    audit.start(path);
    let keys = Arc::new(Keys::load(&dir)?);
    let mut store = Store::open(&dir)?;
    let packs = Arc::new(PackStore::open(&store.packs_dir())?.with_reserve(config.space.reserve));
    store.open_damaged(&packs)?;
    let (journal, aside) = SledJournal::open(&dir.join("journal"))?;
    if let Some(aside) = aside {
        tracing::warn!(aside = %aside.display(), "the journal was damaged and is begun anew: the rounds of the newest release begin anew");
    }
    let journal = Arc::new(journal);
    let lanes: Vec<_> = config.lane.iter().cloned().map(|lane| Arc::new(LaneShared::new(lane))).collect();
    let store = Arc::new(Mutex::new(store));
    let sending = Arc::new(Sending::new(config.channels(), store.clone(), journal.clone()));
    release::renew_timestamp(&store, &keys, clock_s(), config.trust.timestamp_days)?;
    {
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        resume(&store, &journal, &sending)?;
        for ticket in resend::pending(&dir)? {
            answer(&store, &dir, &link, &keys, &sending, &ticket);
        }
    }
    let receivers: Vec<ReceiverPublic> =
        link.receivers.iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
    let input = LaneInput {
        link: link.link,
        receivers: receivers.clone(),
        keys: keys.clone(),
        store: store.clone(),
        packs: packs.clone(),
        sending: sending.clone(),
        lanes: lanes.len(),
    };
    let sources = Sources::open(&dir, &config.source, clock_s())?;
    let producers = Producers::open(&dir, &config.producers, &audit)?;
    let mut threads = Vec::new();
    for (slot, lane) in (0..).zip(&lanes) {
        threads.push(lane::start(lane.clone(), LaneSlot(slot), &input)?);
    }
    let daemon = Arc::new(Daemon {
        link: link.link,
        keys,
        store,
        packs: packs.clone(),
        writer: Mutex::new(()),
        releaser: Mutex::new(()),
        lanes: lanes.clone(),
        sending,
        receivers,
        exports: Exports::new(&dir, packs),
        config: Mutex::new(Arc::new(config)),
        in_force,
        journal: journal.clone(),
        freed_bytes: Default::default(),
        housekeeping: Default::default(),
        verify: Default::default(),
        changes: Default::default(),
        dashboard: Default::default(),
        sources,
        producers,
        audit: audit.clone(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let watching = alarms::start(daemon.clone())?;
    let listening = Listening::start(daemon.clone())?;
    let result = runtime.block_on(serve(daemon));
    if let Some(listening) = listening {
        listening.stop();
    }
    watching.stop();
    lanes.iter().for_each(|lane| lane.stop.store(true, Ordering::Relaxed));
    threads.into_iter().for_each(|thread| drop(thread.join()));
    audit.stop();
    // One that failed is no loss.
    let _ = diodesync::journal::Journal::flush(journal.as_ref());
    result
}

/// Goes on with a ticket that was not answered wholly.
fn answer(store: &Store, dir: &Path, link: &LinkFile, keys: &Keys, sending: &Sending, ticket: &str) {
    match resend::take(store, dir, link.link, &keys.pairing, ticket, &|_| Ok(())) {
        Ok((sent, path)) => {
            sent.into_iter().for_each(|(_, outgoing)| sending.resend(outgoing, path.clone()));
        }
        // It was good when it was taken; what it asks for may be gone since.
        Err(error) => tracing::warn!(error = format!("{error:#}"), "a ticket cannot be answered any more"),
    }
}

/// Goes on with the releases whose rounds are not complete.
fn resume(store: &Store, journal: &SledJournal, sending: &Sending) -> anyhow::Result<()> {
    for (channel, index) in &store.newest {
        // What was restored is released anew.
        if store.complete(channel)?.max(store.floor(channel)).is_some_and(|complete| complete >= index.number)
        {
            continue;
        }
        let progress: Option<Progress> = journal.read(&Key::Progress(channel.clone())).unwrap_or_default();
        let progress = progress.filter(|progress| progress.release == index.number.0);
        let begin = progress.map_or(Begin::Anew, |p| Begin::At(p.round, p.position as usize));
        sending.send(release::outgoing(store, index, begin)?);
    }
    Ok(())
}

async fn serve(daemon: Arc<Daemon>) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
    };
    let renewal = tokio::spawn(renew(daemon.clone()));
    let housekeeping = tokio::spawn(housekeep::run(daemon.clone()));
    let pulling = tokio::spawn(sources::run(daemon.clone()));
    let pulses = daemon.lanes.iter().map(|lane| lane.pulse.clone());
    let watchdog = tokio::spawn(service::feed_watchdog(pulses.collect()));
    tracing::info!(socket = %daemon.config().socket().display(), "sender is up");
    let (config, trouble) = (daemon.config(), daemon.dashboard.clone());
    let default = Config::dashboard_default();
    let dashboard = Dashboard::start(daemon.clone(), &config.dashboard, default, &config.dir, trouble)?;
    let result = diodesync_control::serve(
        &config.socket(),
        api::router(daemon.clone()),
        daemon.audit.clone(),
        shutdown,
    )
    .await;
    if let Some(dashboard) = dashboard {
        dashboard.stop();
    }
    renewal.abort();
    housekeeping.abort();
    pulling.abort();
    watchdog.abort();
    result
}

/// Signs a fresh timestamp every day, which the beacons carry: as long as it comes, the receiver knows that it is not
/// kept from newer releases.
async fn renew(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(TIMESTAMP_INTERVAL).await;
        let days = daemon.config().trust.timestamp_days;
        // A release that is cut in the meantime must not go out with older metadata.
        let _one_at_a_time = daemon.releaser.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = release::renew_timestamp(&daemon.store, &daemon.keys, clock_s(), days);
        if let Err(error) = renewed {
            tracing::error!(error = format!("{error:#}"), "the TUF timestamp is not renewed");
            continue;
        }
        let store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bundle) = &store.bundle {
            daemon.sending.trust_changed(bundle);
        }
    }
}
