//! Where mirror hosts are fed: a thread of its own with its own runtime, behind everything else (`nice`).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::pack::PackStore;
use diodesync_control::clock_ms;
use diodesync_control::quic::door::{Handshake, Handshakes, Strangers, key_of, knock, shake};
use diodesync_control::quic::{Identity, Pin};
use diodesync_control::service;
use quinn::{Endpoint, Incoming, VarInt};
use tokio::sync::watch;

use super::config::Feed;
use super::hosts::{FeedView, Hosts};
use super::introduction;
use super::protocol::TALK;
use super::session::Session;
use super::stock::Stock;
use crate::serve::SiteHandle;

/// How often it is looked what is published.
const STOCK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is told how the hosts are.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is tried to listen.
const RETRY: Duration = Duration::from_secs(5);
/// Time for those who are connected to hear of the end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How much it stands behind the others.
const NICE: i32 = 5;

/// Why a connection is closed, for the other end.
#[derive(Debug, Clone, Copy)]
pub enum Close {
    /// The feeder stops.
    Stopping = 1,
    /// The host has connected again.
    Replaced = 2,
    /// The host does not keep to the protocol.
    Dropped = 3,
}

impl Close {
    /// As it is written.
    pub fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// The thread; it ends when it is told to.
#[derive(Debug)]
pub struct Feeding {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Feeding {
    /// Starts it. That it cannot listen is told in the view, and tried again.
    pub fn start(feed: &Feed, dir: PathBuf, site: SiteHandle, packs: Arc<PackStore>) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime =
            tokio::runtime::Builder::new_current_thread().thread_name("feed work").enable_all().build()?;
        let folder = dir.join("serve");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let feeder = Arc::new(Feeder {
            hosts: Hosts::new(feed),
            config: feed.clone(),
            stock: watch::Sender::new(Arc::default()),
            pin: Mutex::default(),
            trouble: Mutex::default(),
            refused: Mutex::default(),
            dir,
            site,
            packs,
        });
        let thread = std::thread::Builder::new().name("feed".to_owned()).spawn(move || {
            service::yield_to_others(NICE);
            runtime.block_on(run(&feeder, stopped));
            runtime.shutdown_background();
        });
        Ok(Self { stop, thread: thread.context("cannot start the thread that feeds mirror hosts")? })
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

/// What its tasks share.
#[derive(Debug)]
pub struct Feeder {
    config: Feed,
    dir: PathBuf,
    site: SiteHandle,
    hosts: Hosts,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// What there is to feed.
    pub stock: watch::Sender<Arc<Stock>>,
    pin: Mutex<Option<Pin>>,
    trouble: Mutex<Option<String>>,
    /// How many were refused, and the last.
    refused: Mutex<(u64, Option<String>)>,
}

fn set<T>(place: &Mutex<T>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

fn get<T: Clone>(place: &Mutex<T>) -> T {
    place.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn run(feeder: &Arc<Feeder>, mut stopped: watch::Receiver<bool>) {
    let looking = tokio::spawn(look(feeder.clone()));
    let telling = tokio::spawn(tell(feeder.clone()));
    loop {
        match open(feeder) {
            Ok((endpoint, pin)) => {
                set(&feeder.trouble, None);
                tracing::info!(listen = %feeder.config.listen, %pin, "mirror hosts are fed");
                tokio::select! {
                    () = accept(feeder, &endpoint) => {}
                    _ = stopped.changed() => {
                        endpoint.close(Close::Stopping.code(), b"the receiver at the diode stops");
                        let _ = tokio::time::timeout(GOODBYE_MAX, endpoint.wait_idle()).await;
                        break;
                    }
                }
            }
            Err(error) => {
                let text = format!("mirror hosts are not fed: {error:#}. It is tried again");
                if get(&feeder.trouble).as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                set(&feeder.trouble, Some(text));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stopped.changed() => break,
        }
    }
    looking.abort();
    telling.abort();
}

fn open(feeder: &Feeder) -> anyhow::Result<(Endpoint, Pin)> {
    let identity: Identity = introduction::identity(&feeder.dir)?;
    set(&feeder.pin, Some(identity.pin()));
    let config = identity.server(feeder.hosts.keys().collect(), &TALK)?;
    let listen = feeder.config.listen;
    let endpoint = Endpoint::server(config, listen)
        .with_context(|| format!("cannot listen on {listen}, which [feed] names"))?;
    Ok((endpoint, identity.pin()))
}

/// Looks what there is to feed.
async fn look(feeder: Arc<Feeder>) {
    loop {
        let (stock, site, dir) = (feeder.stock.borrow().clone(), feeder.site.load(), feeder.dir.clone());
        let renewed = tokio::task::spawn_blocking(move || stock.renew(&dir, &site)).await;
        if let Ok(Some(stock)) = renewed {
            for note in &stock.notes {
                tracing::warn!("{note}");
            }
            feeder.stock.send_replace(Arc::new(stock));
        }
        tokio::time::sleep(STOCK_INTERVAL).await;
    }
}

/// Tells the publisher how the hosts are.
async fn tell(feeder: Arc<Feeder>) {
    let mut is_said = false;
    loop {
        let (refused, last_refused) = get(&feeder.refused);
        let view = FeedView {
            listen: feeder.config.listen.to_string(),
            pin: get(&feeder.pin),
            trouble: get(&feeder.trouble),
            notes: feeder.stock.borrow().notes.clone(),
            refused,
            last_refused,
            hosts: feeder.hosts.view(),
            written_ms: clock_ms(),
        };
        match view.write(&feeder.dir) {
            Ok(()) => is_said = false,
            Err(error) if !is_said => {
                is_said = true;
                tracing::warn!(
                    error = format!("{error:#}"),
                    "how mirror hosts are cannot be told to the publisher"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(VIEW_INTERVAL).await;
    }
}

async fn accept(feeder: &Arc<Feeder>, endpoint: &Endpoint) {
    let (handshakes, strangers) = (Handshakes::default(), Arc::new(Strangers::default()));
    // Handshakes are few at once, and each host has one connection: a newer one ends that before.
    while let Some(incoming) = endpoint.accept().await {
        let Some((incoming, handshake)) = knock(incoming, &handshakes) else { continue };
        tokio::spawn(meet(feeder.clone(), incoming, handshake, strangers.clone()));
    }
}

/// A connection, from its first packet to its last.
async fn meet(feeder: Arc<Feeder>, incoming: Incoming, handshake: Handshake, strangers: Arc<Strangers>) {
    let ip = incoming.remote_address().ip();
    let connection = match shake(incoming, handshake).await {
        Ok(connection) => connection,
        Err(why) => return refuse(&feeder, &strangers, ip, &why),
    };
    let Some(host) = key_of(&connection).and_then(|key| feeder.hosts.find(&key)) else {
        // TLS let nobody else in.
        return connection.close(Close::Dropped.code(), b"unknown key");
    };
    let turn = host.connect(&connection);
    tracing::info!(host = host.config.name, from = %connection.remote_address(), "a mirror host has connected");
    let why = Session { feeder, host: host.clone(), connection: connection.clone() }.serve().await;
    connection.close(Close::Dropped.code(), why.as_bytes());
    host.disconnect(turn);
    tracing::info!(host = host.config.name, why, "a mirror host is gone");
}

fn refuse(feeder: &Feeder, strangers: &Strangers, ip: IpAddr, why: &str) {
    let mut refused = feeder.refused.lock().unwrap_or_else(PoisonError::into_inner);
    refused.0 += 1;
    let Some(why) = strangers.tell(Instant::now(), why) else { return };
    tracing::warn!(%ip, why, "a connection was refused: its key is in no [[feed.host]], or it is no mirror host");
    refused.1 = Some(format!("{ip}: {why}"));
}
