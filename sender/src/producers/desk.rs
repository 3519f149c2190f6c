//! What the daemon keeps of each producer while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use diodesync::audit::{Actor, Event};
use diodesync::id::Sha256;
use diodesync::quantity::Bytes;
use diodesync_control::audit::Audit;
use diodesync_control::clock_s;
use serde::{Deserialize, Serialize};

use super::config::Listen;
use super::folder::{Day, Folder};
use super::identity::{Identity, Pin};
use super::rights::Producer;

/// The key of the sender's own end, in its folder of keys.
const KEY_FILE: &str = "keys/producers.key";
/// Octets after which it is kept how many came.
const KEEP_BYTES: u64 = 64 << 20;
/// Connections of one producer at once.
const CONNECTIONS_MAX: usize = 8;

/// All of them, and the sender's end.
#[derive(Debug, Default)]
pub struct Producers {
    /// Where they are heard; none if they are not.
    pub open: Option<Open>,
    /// Each by its key.
    desks: BTreeMap<Pin, Arc<Desk>>,
    /// Why they cannot be heard.
    trouble: Mutex<Option<String>>,
    /// Octets that were announced, and are neither here nor broken off.
    promised: AtomicU64,
}

/// The sender's end.
#[derive(Debug)]
pub struct Open {
    /// As it is configured.
    pub config: Listen,
    /// Its key.
    pub identity: Identity,
}

/// One producer.
#[derive(Debug)]
pub struct Desk {
    /// Who it is, and what it may.
    pub producer: Producer,
    /// What has come of it.
    pub folder: Folder,
    /// Held by the submission under way: those of one producer go one after the other.
    pub turn: tokio::sync::Mutex<()>,
    connections: AtomicUsize,
    day: Mutex<Day>,
    /// Octets since it was kept.
    unkept: AtomicU64,
    seen: Mutex<Seen>,
}

/// What was seen of it since the start.
#[derive(Debug, Clone, Default)]
struct Seen {
    last_s: Option<u64>,
    from: String,
    submitted: u64,
    refused: u64,
}

/// A producer, as `status` and `producers` show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProducerStatus {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Pin,
    /// Octets that were taken from it today.
    pub today_bytes: u64,
    /// Octets that are taken on a day.
    pub bytes_per_day: u64,
    /// Connections.
    pub connections: usize,
    /// When it was heard last, seconds since 1970; none if it was not since the start.
    pub last_s: Option<u64>,
    /// From where.
    pub from: String,
    /// Submissions since the start.
    pub submitted: u64,
    /// Those that were refused.
    pub refused: u64,
}

/// The sender's end, as `producers` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    /// Where producers are heard; none if they are not.
    pub listen: Option<String>,
    /// The pin that they give as `--server-pin`.
    pub pin: Option<Pin>,
    /// They.
    pub producers: Vec<ProducerStatus>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Producers {
    /// Opens what is kept; the sender's key is made, if producers are to be heard and there is none yet.
    pub fn open(dir: &Path, config: &Option<(Listen, Vec<Producer>)>, audit: &Audit) -> anyhow::Result<Self> {
        let Some((listen, producers)) = config else { return Ok(Self::default()) };
        let (identity, is_new) = Identity::open(&dir.join(KEY_FILE))?;
        if is_new {
            audit.tell(&Actor::daemon("start"), Event::key("producers", "made", identity.pin()))?;
        }
        let mut desks = BTreeMap::new();
        for producer in producers {
            let folder = Folder::open(dir, &producer.name)?;
            let desk = Desk {
                day: Mutex::new(folder.day()?),
                producer: producer.clone(),
                folder,
                turn: Default::default(),
                connections: Default::default(),
                unkept: Default::default(),
                seen: Default::default(),
            };
            desks.insert(producer.key, Arc::new(desk));
        }
        Folder::forget_others(dir, producers.iter().map(|producer| producer.name.as_str()))?;
        let open = Some(Open { config: listen.clone(), identity });
        Ok(Self { open, desks, ..Self::default() })
    }

    /// Whose keys are known.
    pub fn keys(&self) -> BTreeSet<Pin> {
        self.desks.keys().copied().collect()
    }

    /// The producer who has this key.
    pub fn desk(&self, key: &Pin) -> Option<Arc<Desk>> {
        self.desks.get(key).cloned()
    }

    /// All of them.
    pub fn desks(&self) -> impl Iterator<Item = &Arc<Desk>> {
        self.desks.values()
    }

    /// Takes away what a producer has sent too long ago or too much of, but for what is `spared`. The caller holds its turn.
    pub fn tidy(&self, desk: &Desk, bytes_max: u64, spared: &BTreeMap<Sha256, u64>) -> anyhow::Result<()> {
        let keep = self.open.as_ref().map(|open| open.config.keep_parts).unwrap_or_default();
        desk.folder.tidy(SystemTime::now(), keep, bytes_max, spared)
    }

    /// Why they cannot be heard.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub(super) fn set_trouble(&self, text: Option<String>) {
        *lock(&self.trouble) = text;
    }

    /// Octets that are on their way already.
    pub fn promised(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    /// So many more are, for as long as the value lives.
    pub fn promise(&self, bytes: u64) -> Promise<'_> {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        Promise { of: self, bytes }
    }

    /// Each of them.
    pub fn status(&self) -> Vec<ProducerStatus> {
        let mut all: Vec<ProducerStatus> = self.desks().map(|desk| desk.status()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What `producers` shows.
    pub fn listing(&self) -> Listing {
        Listing {
            listen: self.open.as_ref().map(|open| open.config.listen.to_string()),
            pin: self.open.as_ref().map(|open| open.identity.pin()),
            producers: self.status(),
        }
    }
}

/// Octets that are on their way.
#[derive(Debug)]
pub struct Promise<'a> {
    of: &'a Producers,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.of.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One connection of a producer; it counts for as long as the value lives.
#[derive(Debug)]
pub struct Connected(Arc<Desk>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    /// Counts a connection; none if there are too many.
    pub fn connect(self: &Arc<Self>) -> Option<Connected> {
        let more = |now: usize| (now < CONNECTIONS_MAX).then_some(now + 1);
        let counted = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Connected(self.clone()))
    }

    /// It was heard.
    pub fn heard(&self, from: &str, is_taken: bool) {
        let mut seen = lock(&self.seen);
        seen.last_s = Some(clock_s());
        from.clone_into(&mut seen.from);
        if is_taken {
            seen.submitted += 1;
        } else {
            seen.refused += 1;
        }
    }

    /// Octets that were taken from it today.
    pub fn today_bytes(&self) -> u64 {
        lock(&self.day).bytes(clock_s())
    }

    /// So many more were.
    pub fn took(&self, bytes: u64) -> anyhow::Result<()> {
        let mut day = lock(&self.day);
        *day = day.plus(bytes, clock_s());
        // A crash forgets less than this.
        let is_due = self.unkept.fetch_add(bytes, Ordering::Relaxed) + bytes >= KEEP_BYTES;
        if is_due { self.keep(&day) } else { Ok(()) }
    }

    /// Keeps what was counted.
    pub fn keep_day(&self) -> anyhow::Result<()> {
        self.keep(&lock(&self.day))
    }

    fn keep(&self, day: &Day) -> anyhow::Result<()> {
        self.unkept.store(0, Ordering::Relaxed);
        self.folder.set_day(day)
    }

    fn status(&self) -> ProducerStatus {
        let Seen { last_s, from, submitted, refused } = lock(&self.seen).clone();
        ProducerStatus {
            name: self.producer.name.clone(),
            key: self.producer.key,
            today_bytes: self.today_bytes(),
            bytes_per_day: self.producer.bytes_per_day,
            connections: self.connections.load(Ordering::Relaxed),
            last_s,
            from,
            submitted,
            refused,
        }
    }
}

impl ProducerStatus {
    /// For people; `now_s` is the sender's clock.
    pub fn to_text(&self, now_s: u64) -> String {
        let mut out = format!("producer {}\n", self.name);
        let (today, most) = (Bytes(self.today_bytes), Bytes(self.bytes_per_day));
        let _ = writeln!(out, "  today     {today} of {most}");
        let heard = match self.last_s {
            Some(last_s) => format!("{} s ago from {}", now_s.saturating_sub(last_s), self.from),
            None => "not since the start".to_owned(),
        };
        let _ = writeln!(out, "  heard     {heard}; {} taken, {} refused", self.submitted, self.refused);
        out
    }
}

impl Listing {
    /// For people; `now_s` is the sender's clock.
    pub fn to_text(&self, now_s: u64) -> String {
        let (Some(listen), Some(pin)) = (&self.listen, &self.pin) else {
            return "producers are not heard: sender.toml has no [producers]\n".to_owned();
        };
        let mut out = format!("listen     {listen}\nserver pin {pin}\n");
        for producer in &self.producers {
            let _ = write!(out, "\n{}  key       {}\n", producer.to_text(now_s), producer.key);
        }
        out
    }
}
