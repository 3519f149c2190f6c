//! What is known of the mirror hosts, and where it is told to the publisher.
//!
//! ```text
//! DIR/serve/feed   which hosts are connected, and what they have; written here, by who serves. It is no fact
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::fact;
use diodesync::quantity::{Bytes, Span};
use diodesync_control::clock_ms;
use diodesync_control::quic::Pin;
use quinn::Connection;
use serde::{Deserialize, Serialize};

use super::config::{Feed, FeedHost};
use super::listen::Close;
use super::protocol::Have;

/// Time after which a process that did not write is not there.
const SILENT_MS: u64 = 10_000;

/// How the mirror hosts are fed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedView {
    /// Where they connect.
    pub listen: String,
    /// By what they know this receiver; none if there is no key.
    pub pin: Option<Pin>,
    /// Why they cannot connect.
    pub trouble: Option<String>,
    /// What an operator may want to know.
    pub notes: Vec<String>,
    /// Connections that were refused since the start, and the newest of them.
    pub refused: u64,
    /// See `refused`.
    pub last_refused: Option<String>,
    /// They, as they are configured.
    pub hosts: Vec<HostView>,
    /// When it was written, milliseconds since 1970.
    pub written_ms: u64,
}

/// A mirror host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// The channels that it gets; all if none are named.
    #[serde(default)]
    pub channels: Option<Vec<Channel>>,
    /// Whether it has said what it has since the start. Until then nothing is known of that.
    #[serde(default)]
    pub heard: bool,
    /// From where it is connected; none if it is not.
    pub from: Option<String>,
    /// Since when it is, or is not, milliseconds since 1970.
    pub since_ms: u64,
    /// The releases that it serves, as it said last.
    pub published: Vec<(Channel, ReleaseNo)>,
    /// Blocks that it lacks of what it was told, as it said last.
    pub lacking: u64,
    /// Octets of blocks that it was sent since the start.
    pub sent_bytes: u64,
}

impl FeedView {
    fn path(dir: &Path) -> PathBuf {
        dir.join("serve/feed")
    }

    /// What was written last; none if nobody feeds now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(dir: &Path, now_ms: u64) -> anyhow::Result<Option<Self>> {
        let path = Self::path(dir);
        let Some(content) = fact::read(&path)? else { return Ok(None) };
        let view: Self =
            serde_json::from_slice(&content).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(view).filter(|view| now_ms.saturating_sub(view.written_ms) <= SILENT_MS))
    }

    /// Writes it.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(fact::write_lazily(&Self::path(dir), &serde_json::to_vec(self)?)?)
    }

    /// For people.
    pub fn to_text(&self, now_ms: u64) -> String {
        let mut out = format!("mirror hosts are fed on {}\n", self.listen);
        if let Some(pin) = &self.pin {
            let _ = writeln!(out, "  pin       {pin}");
        }
        for note in &self.notes {
            let _ = writeln!(out, "  note      {note}");
        }
        for host in &self.hosts {
            let since = Span(Duration::from_millis(now_ms.saturating_sub(host.since_ms)));
            let state = match &host.from {
                Some(from) => format!("connected from {from} for {since}"),
                None => format!("not connected for {since}"),
            };
            let has: Vec<String> =
                host.published.iter().map(|(channel, number)| format!("{channel} {number}")).collect();
            let has = if has.is_empty() { "nothing yet".to_owned() } else { has.join(", ") };
            let has = match (host.heard, &host.from) {
                (false, _) => "has said nothing since the start".to_owned(),
                (true, Some(_)) => format!("serves {has}; lacks {} blocks", host.lacking),
                (true, None) => format!("served {has} and lacked {} blocks, as it said last", host.lacking),
            };
            let _ = writeln!(out, "  {}: {state}; {has}; {} sent", host.name, Bytes(host.sent_bytes));
        }
        out
    }
}

/// The hosts that may connect.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Arc<Host>>,
}

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// As it is configured.
    pub config: FeedHost,
    sent_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The connection, and from where it comes.
    connection: Option<(Connection, String)>,
    /// Counts connections.
    turn: u64,
    since_ms: u64,
    /// What it said last.
    have: Option<Have>,
}

impl Hosts {
    /// As they are configured.
    pub fn new(feed: &Feed) -> Self {
        let host = |config: &FeedHost| {
            let state = State { connection: None, turn: 0, since_ms: clock_ms(), have: None };
            Arc::new(Host { config: config.clone(), sent_bytes: AtomicU64::new(0), state: Mutex::new(state) })
        };
        Self { hosts: feed.host.iter().map(host).collect() }
    }

    /// By its key.
    pub fn find(&self, key: &Pin) -> Option<Arc<Host>> {
        self.hosts.iter().find(|host| host.config.key == *key).cloned()
    }

    /// How they are.
    pub fn view(&self) -> Vec<HostView> {
        self.hosts.iter().map(|host| host.view()).collect()
    }

    /// Their keys.
    pub fn keys(&self) -> impl Iterator<Item = Pin> {
        self.hosts.iter().map(|host| host.config.key)
    }
}

impl Host {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has connected. A connection that it had before is over: who was killed did not say so.
    pub fn connect(&self, connection: &Connection) -> u64 {
        let mut state = self.lock();
        let from = connection.remote_address().to_string();
        state.turn += 1;
        state.since_ms = clock_ms();
        if let Some((before, _)) = state.connection.replace((connection.clone(), from)) {
            before.close(Close::Replaced.code(), b"this mirror host has connected again");
        }
        state.turn
    }

    /// The connection of this turn is over.
    pub fn disconnect(&self, turn: u64) {
        let mut state = self.lock();
        if state.turn == turn {
            state.connection = None;
            state.since_ms = clock_ms();
        }
    }

    /// It says what it has.
    pub fn has(&self, have: Have) {
        self.lock().have = Some(have);
    }

    /// So much was sent to it.
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn view(&self) -> HostView {
        let state = self.lock();
        let channels = state.have.iter().flat_map(|have| &have.channels);
        HostView {
            name: self.config.name.clone(),
            channels: self.config.channels.clone(),
            heard: state.have.is_some(),
            from: state.connection.as_ref().map(|(_, from)| from.clone()),
            since_ms: state.since_ms,
            published: channels.filter_map(|have| Some((have.channel.clone(), have.published?))).collect(),
            lacking: state.have.as_ref().map_or(0, |have| have.lacking),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
        }
    }
}
