//! Where producers are heard: a thread of its own with its own runtime, behind everything else (`nice`), so that whoever
//! comes over the network takes no time from the lanes.
//!
//! Before a producer has proved its key it costs next to nothing ([`diodesync_control::quic::door`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::audit::{Actor, Event};
use diodesync_control::quic::door::{Handshake, Handshakes, Places, Strangers, key_of, knock, shake};
use diodesync_control::service;
use quinn::{Endpoint, Incoming, VarInt};
use tokio::sync::watch;

use super::desk::Open;
use super::session::Session;
use crate::api::Daemon;

/// How often it is tried to listen.
const RETRY: Duration = Duration::from_secs(5);
/// Time for those who are connected to hear of the end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked for what nobody has gone on with.
const TIDY: Duration = Duration::from_secs(600);
/// How much it stands behind the others.
const NICE: i32 = 5;

/// Why a connection is closed, for the other end.
#[derive(Debug, Clone, Copy)]
pub enum Close {
    /// The sender stops.
    Stopping = 1,
    /// There are too many.
    Busy = 2,
    /// Nothing has come for too long, or what came is not what was announced.
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
pub struct Listening {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Listening {
    /// Starts it, if producers are to be heard. That it cannot listen is an alarm, and tried again.
    pub fn start(daemon: Arc<Daemon>) -> anyhow::Result<Option<Self>> {
        if daemon.producers.open.is_none() {
            return Ok(None);
        }
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_name("producers work")
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("producers".to_owned()).spawn(move || {
            service::yield_to_others(NICE);
            runtime.block_on(run(&daemon, stopped));
            runtime.shutdown_background();
        });
        Ok(Some(Self { stop, thread: thread.context("cannot start the producers' thread")? }))
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

async fn run(daemon: &Arc<Daemon>, mut stopped: watch::Receiver<bool>) {
    let Some(open) = &daemon.producers.open else { return };
    let mut configs = open.server.subscribe();
    let listen = open.config().listen;
    loop {
        let config = configs.borrow_and_update().clone();
        match Endpoint::server(config, listen) {
            Ok(endpoint) => {
                daemon.producers.set_trouble(None);
                tracing::info!(%listen, pin = %open.identity.pin(), "producers are heard");
                tokio::select! {
                    () = accept(daemon, open, &endpoint) => {}
                    () = tidy(daemon) => {}
                    () = follow(&endpoint, &mut configs) => {}
                    _ = stopped.changed() => {
                        endpoint.close(Close::Stopping.code(), b"the sender stops");
                        let _ = tokio::time::timeout(GOODBYE_MAX, endpoint.wait_idle()).await;
                        return;
                    }
                }
            }
            Err(error) => {
                let text = format!(
                    "producers are not heard: cannot listen on {listen}, which [producers] listen names: {error}. It is tried again"
                );
                if daemon.producers.trouble().as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                }
                daemon.producers.set_trouble(Some(text));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Lets in who is let in now.
async fn follow(endpoint: &Endpoint, configs: &mut watch::Receiver<quinn::ServerConfig>) {
    while configs.changed().await.is_ok() {
        endpoint.set_server_config(Some(configs.borrow_and_update().clone()));
    }
}

/// Takes away, now and then, what has come in part and nobody has gone on with.
async fn tidy(daemon: &Arc<Daemon>) {
    loop {
        for desk in daemon.producers.desks() {
            let daemon = daemon.clone();
            let work = move || {
                // A submission under way tidies up itself.
                let Ok(_turn) = desk.turn.try_lock() else { return };
                if let Err(error) = daemon.producers.tidy(&desk, u64::MAX, &BTreeMap::new()) {
                    tracing::warn!(error = format!("{error:#}"), "what came in part cannot be taken away");
                }
            };
            let _ = tokio::task::spawn_blocking(work).await;
        }
        tokio::time::sleep(TIDY).await;
    }
}

async fn accept(daemon: &Arc<Daemon>, open: &Open, endpoint: &Endpoint) {
    let (handshakes, strangers) = (Handshakes::default(), Arc::new(Strangers::default()));
    let places = Places::default();
    while let Some(incoming) = endpoint.accept().await {
        if places.are_taken(open.config().connections_max) {
            incoming.refuse();
            continue;
        }
        let Some((incoming, handshake)) = knock(incoming, &handshakes) else { continue };
        tokio::spawn(meet(daemon.clone(), incoming, handshake, places.clone(), strangers.clone()));
    }
}

/// A connection, from its first packet to its last.
async fn meet(
    daemon: Arc<Daemon>,
    incoming: Incoming,
    handshake: Handshake,
    places: Places,
    strangers: Arc<Strangers>,
) {
    let ip = incoming.remote_address().ip();
    let connection = match shake(incoming, handshake).await {
        Ok(connection) => connection,
        Err(why) => return tell_stranger(&daemon, &strangers, ip, &why).await,
    };
    let known = key_of(&connection).and_then(|key| Some((key, daemon.producers.desk(&key)?)));
    let Some((key, desk)) = known else {
        // TLS let nobody in but who was known then.
        return connection.close(Close::Dropped.code(), b"unknown key");
    };
    let Some(_connected) = desk.connect() else {
        return connection.close(Close::Busy.code(), b"this producer has too many connections at once");
    };
    let places_max = daemon.producers.open.as_ref().map_or(0, |open| open.config().connections_max);
    let Some(_place) = places.enter(places_max) else {
        return connection.close(Close::Busy.code(), b"the sender has too many connections");
    };
    let mut serving = pin!(Session::new(daemon.clone(), desk.clone(), key, connection.clone()).serve());
    tokio::select! {
        () = &mut serving => return,
        () = daemon.producers.dismissed(&desk, &key) => {}
    }
    connection.close(Close::Dropped.code(), b"this key is in no [[producer]] any more");
    serving.await;
}

async fn tell_stranger(daemon: &Arc<Daemon>, strangers: &Strangers, ip: IpAddr, why: &str) {
    let Some(why) = strangers.tell(Instant::now(), why) else { return };
    tracing::warn!(%ip, why, "a connection was refused: its key is in no [[producer]], or it is no producer");
    let daemon = daemon.clone();
    let what = format!("a producer's connection from {ip}");
    let note = move || daemon.audit.note(&Actor::daemon("producers"), Event::Refused { what, why });
    let _ = tokio::task::spawn_blocking(note).await;
}
