//! `run`: the daemon, with its roles in one process or one of them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::LinkId;
use diodesync::journal::{Journal, SledJournal};
use diodesync::link::Paired;
use diodesync::pack::PackStore;
use diodesync_control::audit::Audit;
use diodesync_control::dashboard::Dashboard;
use diodesync_control::reload::InForce;
use diodesync_control::service::Pulse;
use diodesync_control::{DirLock, clock_s, service};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::alarms;
use crate::api::{self, Daemon, Others};
use crate::apt::Signer;
use crate::audit;
use crate::config::Config;
use crate::feed::Feeding;
use crate::handover::remote::{self, Desk, Relay, Remote};
use crate::handover::{Inbox, Judge, Notice, Order, Orders};
use crate::import::{Imports, Sink};
use crate::init::{self, Origin};
use crate::lane::{self, Lanes, LanesInput, LanesShared};
use crate::link_keys;
use crate::mirror;
use crate::publish::{self, Ledger, PublishInput, PublishShared, Rules};
use crate::reload;
use crate::serve::{self, ClientFiles, Follower, MIRROR, SERVE, SiteHandle, Tls, TlsHandle};
use crate::upstream::{self, Following, UpstreamInput};

/// How often the end of our own certificate is looked at.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// How often it is looked whether its files were replaced.
const TLS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a role that waits for the publisher looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(100);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Receives: knows the link's keys and no site key
    Lane,
    /// Receives on a mirror host, in place of the lane: follows the receiver at the diode
    Upstream,
    /// Judges and publishes; holds the site's keys and answers the commands
    Publish,
    /// Serves what is published
    Serve,
    /// Pushes to the site's own mirrors; holds their credentials
    Mirror,
}

/// Runs until SIGTERM or SIGINT.
pub fn run(path: &Path, role: Option<Role>) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let (receives, other) = match &config.upstream {
        None => (Role::Lane, Role::Upstream),
        Some(_) => (Role::Upstream, Role::Lane),
    };
    if role == Some(other) {
        bail!(
            "{}",
            match other {
                Role::Lane =>
                    "this is a mirror host, which has no lanes; run: diode-receiver run --role upstream",
                _ => "this receiver has lanes and no [upstream]; run: diode-receiver run --role lane",
            }
        );
    }
    let roles = role.map_or(vec![receives, Role::Publish, Role::Serve, Role::Mirror], |role| vec![role]);
    let locks = roles.iter().map(|role| DirLock::take(&config.dir, lock_name(*role)));
    let _locks = locks.collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match role {
        None => run_all(config, path, &runtime),
        Some(Role::Lane | Role::Upstream) => run_receiving(&config, &runtime),
        Some(Role::Publish) => run_publish(config, path, &runtime),
        Some(Role::Serve) => run_serve(&config, &runtime),
        Some(Role::Mirror) => run_mirror(&config, &runtime),
    }
}

fn lock_name(role: Role) -> &'static str {
    match role {
        Role::Lane => "lock.lane",
        Role::Upstream => "lock.upstream",
        Role::Publish => "lock",
        Role::Serve => "lock.serve",
        Role::Mirror => "lock.mirror",
    }
}

/// The publish role, started.
struct Publisher {
    link: LinkId,
    paired: Option<Paired>,
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    ledger: Arc<Ledger>,
    inbox: Inbox,
    notices: Sender<Notice>,
    orders: Orders,
    shared: Arc<PublishShared>,
    site: SiteHandle,
    apt: Arc<Signer>,
    audit: Audit,
    in_force: Arc<InForce>,
    thread: JoinHandle<()>,
}

impl Publisher {
    fn start(config: &Config, path: &Path, is_served_elsewhere: bool) -> anyhow::Result<Self> {
        let dir = &config.dir;
        let Origin { link, root, paired } = init::load_origin(config)?;
        let in_force = Arc::new(InForce::open(path)?);
        let audit = audit::open(dir)?;
        audit.start(path);
        let packs = Arc::new(PackStore::open(&dir.join("packs"))?.with_reserve(config.space.reserve));
        let (journal, aside) = SledJournal::open(&dir.join("journal"))?;
        if let Some(aside) = aside {
            tracing::warn!(aside = %aside.display(), "the journal was damaged and is rebuilt by hashing what is in the packs");
        }
        let journal = Arc::new(journal);
        let ledger = Arc::new(Ledger::open(dir, packs.clone(), journal.clone())?);
        let inbox = Inbox::open(dir)?;
        let host = config.serve.hosts.first().map_or("", String::as_str);
        let apt = Arc::new(Signer::open(dir, config.apt.signing_key.as_deref(), host, clock_s())?);
        let site = SiteHandle::new(Arc::new(publish::restore_site(dir, &packs, &apt)?));
        let (notices, from_lanes) = channel();
        let orders = Orders::default();
        let shared = Arc::new(PublishShared::new());
        let Rules { gate, keep } = reload::rules(config, link)?;
        let input = PublishInput {
            dir: dir.clone(),
            skew_max: config.trust.skew_max,
            root,
            packs: packs.clone(),
            ledger: ledger.clone(),
            journal: journal.clone(),
            inbox: inbox.clone(),
            notices: from_lanes,
            orders: orders.clone(),
            site: site.clone(),
            apt: apt.clone(),
            gate,
            keep,
            is_served_elsewhere,
            has_mirrors: !config.mirrors.is_empty(),
            is_mirror_host: config.upstream.is_some(),
            feeds: config.feed.is_some(),
            audit: audit.clone(),
        };
        // Before any lane, so that the ledger knows which blocks are wanted before one is written.
        let thread = publish::start(shared.clone(), input)?;
        Ok(Self {
            link,
            paired,
            packs,
            journal,
            ledger,
            inbox,
            notices,
            orders,
            shared,
            site,
            apt,
            audit,
            in_force,
            thread,
        })
    }

    fn daemon(&self, config: Config, lanes: Arc<LanesShared>, others: Others) -> Arc<Daemon> {
        let sink = Sink {
            packs: self.packs.clone(),
            ledger: self.ledger.clone(),
            inbox: self.inbox.clone(),
            notices: self.notices.clone(),
            orders: self.orders.clone(),
        };
        Arc::new(Daemon {
            link: self.link,
            paired: self.paired.clone(),
            imports: Imports::new(&config.dir, self.paired.clone(), sink),
            lanes,
            others,
            publish: self.shared.clone(),
            site: self.site.clone(),
            apt: self.apt.clone(),
            packs: self.packs.clone(),
            ledger: self.ledger.clone(),
            journal: self.journal.clone(),
            notices: self.notices.clone(),
            verify: Default::default(),
            dashboard: Default::default(),
            audit: self.audit.clone(),
            in_force: self.in_force.clone(),
            config,
        })
    }

    /// What who receives is told first.
    fn first_orders(ledger: &Ledger, is_mirror_host: bool) -> Vec<Order> {
        if is_mirror_host { vec![ledger.to_ask_for()] } else { ledger.orders().into() }
    }

    fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.audit.stop();
        // One that failed is rebuilt.
        let _ = self.journal.flush();
    }
}

fn run_all(config: Config, path: &Path, runtime: &Runtime) -> anyhow::Result<()> {
    init::load_origin(&config)?;
    let listener = listen(&config, runtime)?;
    renew_certificate(&config)?;
    let tls = Tls::open(&config, clock_s())?;
    let publisher = Publisher::start(&config, path, false)?;
    let shared = Arc::new(LanesShared::default());
    let (to_lanes, orders) = channel();
    let is_mirror_host = config.upstream.is_some();
    publisher.orders.join(to_lanes, || Publisher::first_orders(&publisher.ledger, is_mirror_host));
    let receiving = ReceivingInput {
        paired: publisher.paired.clone(),
        packs: publisher.packs.clone(),
        judge: publisher.ledger.clone(),
        inbox: publisher.inbox.clone(),
        notices: publisher.notices.clone(),
        orders,
    };
    let lanes = Receiving::start(&config, shared.clone(), receiving)?;
    let feeding = feed(&config, &publisher.site, &publisher.packs)?;
    let mirrors = mirror::start(&config.dir, &config.mirrors, &publisher.site, &publisher.packs)?;
    let tls_status = Arc::new(Mutex::new(tls.status(clock_s())));
    let (handle, ca_pem) = (tls.handle(), tls.ca_pem().cloned());
    let daemon = publisher.daemon(config.clone(), shared, Others::Here(tls_status.clone()));
    let watching = alarms::with_webhook(alarms::watch(daemon.clone())?, &config.dir, &config.alarms)?;
    let result = runtime.block_on(async {
        let stopped = until_signal()?;
        let watching = tokio::spawn(watch_tls(tls, tls_status));
        let renewal = tokio::spawn(renew(config.clone()));
        let pulses = lanes.pulses().into_iter().chain([publisher.shared.pulse.clone()]);
        let watchdog = tokio::spawn(service::feed_watchdog(pulses.collect()));
        let https = https(&config, publisher.site.clone(), ca_pem, listener, handle, stopped.clone())?;
        let result = control(daemon, stopped).await;
        watching.abort();
        renewal.abort();
        watchdog.abort();
        let _ = https.await;
        result
    });
    watching.stop();
    mirrors.stop();
    lanes.stop();
    feeding.into_iter().for_each(Feeding::stop);
    publisher.stop();
    result
}

/// Feeds mirror hosts, if there are any.
fn feed(config: &Config, site: &SiteHandle, packs: &Arc<PackStore>) -> anyhow::Result<Option<Feeding>> {
    let start = |feed| Feeding::start(feed, config.dir.clone(), site.clone(), packs.clone());
    config.feed.as_ref().map(start).transpose()
}

/// What receives: lanes, or on a mirror host what follows upstream.
enum Receiving {
    Lanes(Lanes),
    Upstream(Following),
}

/// What it needs.
struct ReceivingInput {
    paired: Option<Paired>,
    packs: Arc<PackStore>,
    judge: Arc<dyn Judge>,
    inbox: Inbox,
    notices: Sender<Notice>,
    orders: Receiver<Order>,
}

impl Receiving {
    fn start(config: &Config, shared: Arc<LanesShared>, input: ReceivingInput) -> anyhow::Result<Self> {
        let ReceivingInput { paired, packs, judge, inbox, notices, orders } = input;
        let dir = config.dir.clone();
        if let Some(upstream) = config.upstream.clone() {
            let input = UpstreamInput { upstream, dir, packs, judge, inbox, notices, orders };
            return Ok(Self::Upstream(upstream::start(shared, input)?));
        }
        let paired = paired.context("a receiver with lanes is paired")?;
        let lanes = config.lane.clone();
        let input = LanesInput { lanes, dir, paired, packs, judge, inbox, notices, orders };
        Ok(Self::Lanes(lane::start(shared, input)?))
    }

    fn pulses(&self) -> Vec<Pulse> {
        match self {
            Self::Lanes(lanes) => lanes.pulses(),
            Self::Upstream(following) => following.pulses(),
        }
    }

    fn stop(self) {
        match self {
            Self::Lanes(lanes) => lanes.stop(),
            Self::Upstream(following) => following.stop(),
        }
    }
}

fn run_publish(config: Config, path: &Path, runtime: &Runtime) -> anyhow::Result<()> {
    init::load_origin(&config)?;
    renew_certificate(&config)?;
    let publisher = Publisher::start(&config, path, true)?;
    let (lanes, joined) = (Arc::new(LanesShared::default()), Arc::new(AtomicUsize::new(0)));
    let senders = publisher.paired.as_ref().map(|paired| paired.senders.clone()).unwrap_or_default();
    let (dir, ledger, is_mirror_host) =
        (config.dir.clone(), publisher.ledger.clone(), config.upstream.is_some());
    let first = move || {
        let mut first = Publisher::first_orders(&ledger, is_mirror_host);
        let senders = link_keys::load(&dir, senders.clone()).unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "the newest link keys cannot be read");
            senders.clone()
        });
        first.push(Order::Senders(senders));
        first
    };
    let desk = Desk {
        judge: publisher.ledger.clone(),
        notices: publisher.notices.clone(),
        orders: publisher.orders.clone(),
        first: Box::new(first),
        lanes: lanes.clone(),
        joined: joined.clone(),
    };
    remote::listen(&config.dir, desk)?;
    let daemon = publisher.daemon(config.clone(), lanes, Others::Elsewhere(joined));
    let watching = alarms::watch(daemon.clone())?;
    tracing::info!("publishing");
    let result = runtime.block_on(async {
        let stopped = until_signal()?;
        let renewal = tokio::spawn(renew(config));
        let watchdog = tokio::spawn(service::feed_watchdog(vec![publisher.shared.pulse.clone()]));
        let result = control(daemon, stopped).await;
        renewal.abort();
        watchdog.abort();
        result
    });
    watching.stop();
    publisher.stop();
    result
}

/// The lane role, or on a mirror host the upstream role.
fn run_receiving(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    let dir = &config.dir;
    let paired = init::load_origin(config)?.paired;
    let packs = Arc::new(PackStore::open(&dir.join("packs"))?.with_reserve(config.space.reserve));
    let remote = Arc::new(Remote::new(dir, packs.clone()));
    let (notices, to_publisher) = channel();
    let (to_lanes, orders) = channel();
    let (to_us, joined) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Arc::new(LanesShared::default());
    let relay = Relay {
        remote: remote.clone(),
        notices: to_publisher,
        orders: to_lanes,
        lanes: shared.clone(),
        stop: stop.clone(),
        joined: to_us,
    };
    let relay = std::thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || relay.run())
        .context("cannot start the relay's thread")?;
    let stopped = runtime.block_on(async { until_signal() })?;
    // What is there already must be known before a block is written.
    let lanes = loop {
        if *stopped.borrow() {
            break None;
        }
        match joined.recv_timeout(WAIT) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => {
                let inbox = Inbox::open(dir)?;
                let input = ReceivingInput { paired, packs, judge: remote, inbox, notices, orders };
                break Some(Receiving::start(config, shared, input)?);
            }
        }
    };
    if let Some(lanes) = &lanes {
        service::ready();
        runtime.spawn(service::feed_watchdog(lanes.pulses()));
    }
    runtime.block_on(until(stopped));
    service::stopping();
    if let Some(lanes) = lanes {
        lanes.stop();
    }
    stop.store(true, Ordering::Relaxed);
    let _ = relay.join();
    Ok(())
}

/// A follower's thread, which ends after `stop` is set.
fn follow(follower: Follower, stop: Arc<AtomicBool>) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("follow".to_owned())
        .spawn(move || follower.run(|| stop.load(Ordering::Relaxed)))
        .context("cannot start a thread")
}

fn run_serve(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    let stopped = runtime.block_on(async { until_signal() })?;
    let listener = listen(config, runtime)?;
    let packs = Arc::new(PackStore::open(&config.dir.join("packs"))?);
    let tls = Tls::open(config, clock_s())?;
    let (handle, ca_pem) = (tls.handle(), tls.ca_pem().cloned());
    let follower = Follower::open(&config.dir, packs.clone(), SERVE, Some(tls))?;
    let (site, pulse) = (follower.site(), follower.pulse());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = follow(follower, stop.clone())?;
    let feeding = feed(config, &site, &packs)?;
    let result = runtime.block_on(async {
        let https = https(config, site, ca_pem, listener, handle, stopped.clone())?;
        service::ready();
        let watchdog = tokio::spawn(service::feed_watchdog(vec![pulse]));
        until(stopped).await;
        service::stopping();
        watchdog.abort();
        https.await.context("the mirror's task failed")
    });
    feeding.into_iter().for_each(Feeding::stop);
    stop.store(true, Ordering::Relaxed);
    let _ = thread.join();
    result
}

fn run_mirror(config: &Config, runtime: &Runtime) -> anyhow::Result<()> {
    let stopped = runtime.block_on(async { until_signal() })?;
    let packs = Arc::new(PackStore::open(&config.dir.join("packs"))?);
    let follower = Follower::open(&config.dir, packs.clone(), MIRROR, None)?;
    let (site, pulse) = (follower.site(), follower.pulse());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = follow(follower, stop.clone())?;
    let mirrors = mirror::start(&config.dir, &config.mirrors, &site, &packs)?;
    let posting = alarms::with_webhook(Default::default(), &config.dir, &config.alarms)?;
    if config.mirrors.is_empty() && config.alarms.webhook.is_none() {
        tracing::info!(
            "there is no [[mirror]] in the configuration, and no webhook of [alarms]; nothing to do"
        );
    }
    let result = runtime.block_on(async {
        service::ready();
        let pulses = mirrors.pulses().into_iter().chain([pulse]);
        let watchdog = tokio::spawn(service::feed_watchdog(pulses.collect()));
        until(stopped).await;
        service::stopping();
        watchdog.abort();
        Ok(())
    });
    posting.stop();
    mirrors.stop();
    stop.store(true, Ordering::Relaxed);
    let _ = thread.join();
    result
}

fn listen(config: &Config, runtime: &Runtime) -> anyhow::Result<TcpListener> {
    let listen = config.serve.listen;
    runtime.block_on(TcpListener::bind(listen)).with_context(|| {
        format!("cannot serve on {listen}; is the port in use, or the address not of this host?")
    })
}

/// True as soon as the process is to stop. Called within the runtime.
fn until_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    Ok(stopped)
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Starts the mirror's listener.
fn https(
    config: &Config,
    site: SiteHandle,
    ca_pem: Option<String>,
    listener: TcpListener,
    tls: TlsHandle,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let host = config.serve.hosts.first().cloned().unwrap_or_default();
    let port = listener.local_addr()?.port();
    let client = ClientFiles { ca_pem, base_url: format!("https://{host}:{port}") };
    tracing::info!(url = client.base_url, "mirror is up");
    Ok(tokio::spawn(serve::run(listener, tls, serve::router(site, client), until(stopped))))
}

async fn control(daemon: Arc<Daemon>, stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let (socket, config) = (daemon.config.socket(), &daemon.config);
    let default = Config::dashboard_default();
    let dashboard =
        Dashboard::start(daemon.clone(), &config.dashboard, default, &config.dir, daemon.dashboard.clone())?;
    let (router, audit) = (api::router(daemon.clone()), daemon.audit.clone());
    let result = diodesync_control::serve(&socket, router, audit, until(stopped)).await;
    if let Some(dashboard) = dashboard {
        dashboard.stop();
    }
    result
}

/// Goes over to a certificate whose files were replaced.
async fn watch_tls(mut tls: Tls, status: Arc<Mutex<serve::TlsStatus>>) {
    loop {
        tokio::time::sleep(TLS_INTERVAL).await;
        tls.look(clock_s());
        *status.lock().unwrap_or_else(PoisonError::into_inner) = tls.status(clock_s());
    }
}

fn renew_certificate(config: &Config) -> anyhow::Result<()> {
    if let Some(dir) = serve::renewed_dir(config)
        && init::renew_certificate(dir, &config.serve.hosts, clock_s())?
    {
        tracing::info!("the mirror's certificate is renewed");
    }
    Ok(())
}

/// Renews our own certificate in time; who serves sees the new file.
async fn renew(config: Config) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        if let Err(error) = renew_certificate(&config) {
            tracing::error!(error = format!("{error:#}"), "the mirror's certificate cannot be renewed");
        }
    }
}
