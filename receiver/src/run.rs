//! `run`: the daemon, with its three roles in one process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context;
use diodesync::journal::{Journal, SledJournal};
use diodesync::pack::PackStore;
use diodesync_control::{DirLock, clock_s};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{self, Daemon};
use crate::apt::Signer;
use crate::certs;
use crate::config::Config;
use crate::handover::Inbox;
use crate::import::{Imports, Sink};
use crate::init;
use crate::lane::{self, LaneInput, LaneShared, Ledger};
use crate::publish::{self, PublishInput, PublishShared};
use crate::serve::{self, ClientFiles, SiteHandle, TlsHandle};

/// How often the certificate's end is looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// Runs until SIGTERM or SIGINT.
pub fn run(path: &Path) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let dir = config.dir.clone();
    let (paired, root) = init::load_pairing(&dir)?;
    let _lock = DirLock::take(&dir)?;
    let link = paired.link;
    let packs = Arc::new(PackStore::open(&dir.join("packs"))?.with_reserve(config.space.reserve));
    let (journal, aside) = SledJournal::open(&dir.join("journal"))?;
    if let Some(aside) = aside {
        tracing::warn!(aside = %aside.display(), "the journal was damaged and is rebuilt by hashing what is in the packs");
    }
    let journal = Arc::new(journal);
    let ledger = Arc::new(Ledger::open(&dir, packs.clone(), journal.clone())?);
    let inbox = Inbox::open(&dir)?;
    let host = config.serve.hosts.first().map_or("", String::as_str);
    let apt = Arc::new(Signer::open(&dir, config.apt.signing_key.as_deref(), host)?);
    let site = SiteHandle::new(Arc::new(publish::restore_site(&dir, &packs, &apt)?));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(config.serve.listen));
    let listener = listener.with_context(|| {
        format!(
            "cannot serve on {}; is the port in use, or the address not of this host?",
            config.serve.listen
        )
    })?;
    let tls = Tls::load(&config)?;

    let (notices, from_lane) = channel();
    let for_verify = notices.clone();
    let (orders, from_publisher) = channel();
    let import_orders = orders.clone();
    let publish = Arc::new(PublishShared::new());
    let publish_input = PublishInput {
        dir: dir.clone(),
        skew_max: config.trust.skew_max,
        root,
        packs: packs.clone(),
        ledger: ledger.clone(),
        journal: journal.clone(),
        inbox: inbox.clone(),
        notices: from_lane,
        orders,
        site: site.clone(),
        apt,
        keep: config.keep(),
    };
    // First, so that the lane knows which blocks are wanted before it writes one.
    let publisher = publish::start(publish.clone(), publish_input)?;
    let sink = Sink {
        packs: packs.clone(),
        ledger: ledger.clone(),
        inbox: inbox.clone(),
        notices: notices.clone(),
        orders: import_orders,
    };
    let imports = Imports::new(&dir, paired.clone(), sink);
    let lane = Arc::new(LaneShared::default());
    let lane_input = LaneInput {
        config: config.lane.first().context("there is no lane")?.clone(),
        dir: dir.clone(),
        paired,
        packs: packs.clone(),
        ledger: ledger.clone(),
        journal: journal.clone(),
        inbox,
        notices,
        orders: from_publisher,
    };
    let lane_thread = lane::start(lane.clone(), lane_input)?;

    let daemon = Arc::new(Daemon {
        config,
        link,
        lane: lane.clone(),
        publish: publish.clone(),
        site,
        imports,
        packs,
        ledger,
        journal: journal.clone(),
        notices: for_verify,
        verify: Default::default(),
    });
    let result = runtime.block_on(serve_until_stopped(daemon, listener, tls));
    lane.stop.store(true, Ordering::Relaxed);
    let _ = lane_thread.join();
    publish.stop.store(true, Ordering::Relaxed);
    let _ = publisher.join();
    // One that failed is rebuilt.
    let _ = journal.flush();
    result
}

/// The listener's certificate.
struct Tls {
    handle: TlsHandle,
    ca_pem: Option<String>,
}

impl Tls {
    fn load(config: &Config) -> anyhow::Result<Self> {
        let dir = &config.dir;
        if let (Some(certificate), Some(key)) = (&config.serve.certificate, &config.serve.key) {
            let server = certs::load(certificate, key, clock_s())?;
            return Ok(Self { handle: TlsHandle::new(Arc::new(server)), ca_pem: None });
        }
        if init::renew_certificate(dir, &config.serve.hosts, clock_s())? {
            tracing::info!("the mirror's certificate is renewed");
        }
        let ca = dir.join("ca.pem");
        let ca_pem = std::fs::read_to_string(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
        let server = certs::load(&dir.join("server.pem"), &dir.join("keys/server.key"), clock_s())?;
        Ok(Self { handle: TlsHandle::new(Arc::new(server)), ca_pem: Some(ca_pem) })
    }
}

async fn serve_until_stopped(
    daemon: Arc<Daemon>,
    listener: tokio::net::TcpListener,
    tls: Tls,
) -> anyhow::Result<()> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let wait = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    let host = daemon.config.serve.hosts.first().cloned().unwrap_or_default();
    let port = listener.local_addr()?.port();
    let client = ClientFiles { ca_pem: tls.ca_pem.clone(), base_url: format!("https://{host}:{port}") };
    tracing::info!(url = client.base_url, "mirror is up");
    let router = serve::router(daemon.site.clone(), client);
    let mirror = tokio::spawn(serve::run(listener, tls.handle.clone(), router, wait(stopped.clone())));
    let renewal = tokio::spawn(renew(daemon.clone(), tls.handle));
    let socket = daemon.config.socket();
    let result = diodesync_control::serve(&socket, api::router(daemon), wait(stopped)).await;
    renewal.abort();
    let _ = mirror.await;
    result
}

/// Renews our own certificate in time, without a restart.
async fn renew(daemon: Arc<Daemon>, handle: TlsHandle) {
    loop {
        tokio::time::sleep(CERTIFICATE_INTERVAL).await;
        match Tls::load(&daemon.config) {
            Ok(tls) => handle.switch(tls.handle.load()),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the mirror's certificate cannot be renewed")
            }
        }
    }
}
