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
use tokio::sync::watch;

use super::config::Listen;
use super::folder::{Day, Folder};
use super::identity::{self, Identity, Pin, TALK};
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
    /// Each by its name, and those who were producers since the start.
    desks: Mutex<BTreeMap<String, Arc<Desk>>>,
    /// Why they cannot be heard.
    trouble: Mutex<Option<String>>,
    /// Octets that were announced, and are neither here nor broken off.
    promised: AtomicU64,
}

/// The sender's end.
#[derive(Debug)]
pub struct Open {
    config: Mutex<Listen>,
    /// Its key.
    pub identity: Identity,
    /// Who is let in; it changes with the producers.
    pub server: watch::Sender<quinn::ServerConfig>,
}

impl Open {
    /// As it is configured.
    pub fn config(&self) -> Listen {
        lock(&self.config).clone()
    }
}

/// Producers, with what is kept of those that were not known before.
#[derive(Debug, Default)]
pub struct Prepared {
    listen: Option<Listen>,
    producers: BTreeMap<String, (Arc<Producer>, Option<Desk>)>,
    server: Option<quinn::ServerConfig>,
}

/// One producer.
#[derive(Debug)]
pub struct Desk {
    /// What it is called.
    pub name: String,
    /// Its key, and what it may; none once it is no producer any more.
    producer: Mutex<Option<Arc<Producer>>>,
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
        let (identity, is_new) = identity::open(&dir.join(KEY_FILE))?;
        if is_new {
            audit.tell(&Actor::daemon("start"), Event::key("producers", "made", identity.pin()))?;
        }
        let server = watch::Sender::new(identity.server(keys(producers), &TALK)?);
        let open = Some(Open { config: Mutex::new(listen.clone()), identity, server });
        let all = Self { open, ..Self::default() };
        all.set(all.prepare(dir, config)?);
        Folder::forget_others(dir, producers.iter().map(|producer| producer.name.as_str()))?;
        Ok(all)
    }

    /// Opens what is kept of these, in place of those that are known.
    ///
    /// # Errors
    /// If something cannot be opened; nothing has changed by then.
    pub fn prepare(&self, dir: &Path, config: &Option<(Listen, Vec<Producer>)>) -> anyhow::Result<Prepared> {
        let Some(open) = &self.open else { return Ok(Prepared::default()) };
        let (listen, all) = config.as_ref().map(|(listen, all)| (listen.clone(), all.as_slice())).unzip();
        let mut prepared = Prepared { listen, ..Prepared::default() };
        for producer in all.unwrap_or_default() {
            let is_known = lock(&self.desks).contains_key(&producer.name);
            let desk = if is_known { None } else { Some(Desk::open(dir, &producer.name)?) };
            prepared.producers.insert(producer.name.clone(), (Arc::new(producer.clone()), desk));
        }
        prepared.server = Some(open.identity.server(keys(all.unwrap_or_default()), &TALK)?);
        Ok(prepared)
    }

    /// Has these be all that there are. Connections of others are closed.
    pub fn set(&self, prepared: Prepared) {
        let Prepared { listen, mut producers, server: Some(server) } = prepared else { return };
        let Some(open) = &self.open else { return };
        if let Some(listen) = listen {
            let mut config = lock(&open.config);
            // Where they are heard waits for a restart.
            *config = Listen { listen: config.listen, ..listen };
        }
        let mut desks = lock(&self.desks);
        for (name, desk) in desks.iter() {
            *lock(&desk.producer) = producers.remove(name).map(|(producer, _)| producer);
        }
        for (name, (producer, desk)) in producers {
            let Some(desk) = desk else { continue };
            *lock(&desk.producer) = Some(producer);
            desks.insert(name, Arc::new(desk));
        }
        drop(desks);
        open.server.send_replace(server);
    }

    /// The producer who has this key.
    pub fn desk(&self, key: &Pin) -> Option<Arc<Desk>> {
        lock(&self.desks).values().find(|desk| desk.rights(key).is_some()).cloned()
    }

    /// All of them, and those who were.
    pub fn desks(&self) -> Vec<Arc<Desk>> {
        lock(&self.desks).values().cloned().collect()
    }

    /// Returns when this is not the key of this producer any more.
    pub async fn dismissed(&self, desk: &Desk, key: &Pin) {
        let Some(open) = &self.open else { return };
        let mut changes = open.server.subscribe();
        while desk.rights(key).is_some() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes away what a producer has sent too long ago or too much of, but for what is `spared`. The caller holds its turn.
    pub fn tidy(&self, desk: &Desk, bytes_max: u64, spared: &BTreeMap<Sha256, u64>) -> anyhow::Result<()> {
        let keep = self.open.as_ref().map(|open| open.config().keep_parts).unwrap_or_default();
        desk.folder.tidy(SystemTime::now(), keep, bytes_max, spared)
    }

    /// Why they cannot be heard, and from whom nothing is taken.
    pub fn troubles(&self) -> Vec<String> {
        self.trouble().into_iter().chain(self.desks().iter().filter_map(|desk| desk.trouble())).collect()
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
        self.desks().iter().filter_map(|desk| desk.status()).collect()
    }

    /// What `producers` shows.
    pub fn listing(&self) -> Listing {
        Listing {
            listen: self.open.as_ref().map(|open| open.config().listen.to_string()),
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

fn keys(producers: &[Producer]) -> BTreeSet<Pin> {
    producers.iter().map(|producer| producer.key).collect()
}

impl Desk {
    fn open(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = Folder::open(dir, name)?;
        Ok(Self {
            name: name.to_owned(),
            producer: Mutex::default(),
            day: Mutex::new(folder.day_or_full(clock_s())),
            folder,
            turn: Default::default(),
            connections: Default::default(),
            unkept: Default::default(),
            seen: Default::default(),
        })
    }

    /// What it may, if this is its key.
    pub fn rights(&self, key: &Pin) -> Option<Arc<Producer>> {
        lock(&self.producer).clone().filter(|producer| producer.key == *key)
    }

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

    /// Why nothing is taken from it.
    fn trouble(&self) -> Option<String> {
        (self.today_bytes() == u64::MAX).then(|| {
            format!(
                "it is not known how much came from producer {} today, and nothing more is taken from it before 00:00 UTC: {} was \
                 damaged. To count from 0: remove it, and restart the sender",
                self.name,
                self.folder.day_path().display()
            )
        })
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

    /// None if it is no producer any more.
    fn status(&self) -> Option<ProducerStatus> {
        let producer = lock(&self.producer).clone()?;
        let Seen { last_s, from, submitted, refused } = lock(&self.seen).clone();
        Some(ProducerStatus {
            name: self.name.clone(),
            key: producer.key,
            today_bytes: self.today_bytes(),
            bytes_per_day: producer.bytes_per_day,
            connections: self.connections.load(Ordering::Relaxed),
            last_s,
            from,
            submitted,
            refused,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_day_is_told_and_stops_nobody_else() {
        let dir = std::env::temp_dir().join(format!("diode-sender-desk-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("producers/ci")).unwrap();
        std::fs::write(dir.join("producers/ci/day"), "x").unwrap();
        let all = Producers::default();
        for name in ["ci", "other"] {
            let desk = Desk::open(&dir, name).unwrap();
            lock(&all.desks).insert(name.to_owned(), Arc::new(desk));
        }
        let troubles = all.troubles();
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        assert!(
            troubles[0].contains("came from producer ci today") && troubles[0].contains("producers/ci/day")
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
