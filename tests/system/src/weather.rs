//! A one-way UDP path in user space, for machines without privileges: a thread that reads datagrams on one loopback
//! port and passes them to another, with seeded weather on the way. It never passes anything back, and counts what
//! the receiving side sends towards it.
//!
//! ```text
//! sender ──► entry (127.0.0.1:p) ──► weather ──► exit (127.0.0.1:q) ──► receiver
//!                                                  └─◄─ counted as `back`, goes nowhere
//! ```
//!
//! The same seed makes the same decisions for the same datagrams; how the kernel interleaves is not ours to repeat.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::nonces::Nonces;
use crate::prng::Prng;

/// How long a blocked read waits before it looks whether the link was closed, and flushes what it holds back.
const POLL: Duration = Duration::from_millis(20);
/// What the sockets ask for. Without privileges the kernel's own limit holds, which is less.
const SOCKET_BYTES: usize = 16 << 20;
/// Old datagrams kept for replays.
const MEMORY: usize = 512;
/// More than any datagram, so that nothing is cut by accident.
const DATAGRAM_BYTES: usize = 65_536;

/// What happens on the way. Probabilities are per datagram, 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weather {
    /// Where the decisions start.
    pub seed: u64,
    /// Lost one by one.
    pub loss: f64,
    /// A run of losses starts.
    pub burst: f64,
    /// Datagrams in the longest run.
    pub burst_length_max: usize,
    /// Held back.
    pub reorder: f64,
    /// Datagrams that may overtake one that is held back.
    pub reorder_depth: usize,
    /// Passed twice.
    pub duplicate: f64,
    /// Cut somewhere.
    pub truncate: f64,
    /// One to three bits flipped.
    pub flip: f64,
    /// A forgery is added: noise of any length, or a real header with noise behind it.
    pub forge: f64,
    /// An old datagram is added.
    pub replay: f64,
}

impl Weather {
    /// Everything passes.
    pub fn clear() -> Self {
        Self::default()
    }

    /// 2 % is lost and nothing else happens.
    pub fn lossy(seed: u64) -> Self {
        Self { seed, loss: 0.02, ..Self::default() }
    }

    /// All of it at once.
    pub fn foul(seed: u64) -> Self {
        Self {
            seed,
            loss: 0.01,
            burst: 0.000_2,
            burst_length_max: 64,
            reorder: 0.02,
            reorder_depth: 200,
            duplicate: 0.01,
            truncate: 0.002,
            flip: 0.002,
            forge: 0.005,
            replay: 0.005,
        }
    }
}

/// What the link has counted so far, in datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came in from the sender.
    pub received: u64,
    /// Octets of those.
    pub received_bytes: u64,
    /// Went out to the receiver, everything included.
    pub forwarded: u64,
    /// Lost on purpose, one by one or in a burst, or while the cable was out.
    pub dropped: u64,
    /// Runs of losses.
    pub bursts: u64,
    /// Held back.
    pub reordered: u64,
    /// Passed twice.
    pub duplicated: u64,
    /// Cut.
    pub truncated: u64,
    /// Changed.
    pub flipped: u64,
    /// Added, never sent by the sender.
    pub forged: u64,
    /// Added, sent by the sender before.
    pub replayed: u64,
    /// The kernel would not take it from us.
    pub refused: u64,
    /// Sent towards us by the receiving side. A diode has none.
    pub back: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    cut: AtomicBool,
    /// Set to have every datagram's nonce recorded.
    records_nonces: AtomicBool,
    nonces: Mutex<Nonces>,
    counts: [AtomicU64; 13],
}

/// Indices into `Shared::counts`, in the order of [`Counts`].
#[derive(Clone, Copy)]
enum Count {
    Received,
    ReceivedBytes,
    Forwarded,
    Dropped,
    Bursts,
    Reordered,
    Duplicated,
    Truncated,
    Flipped,
    Forged,
    Replayed,
    Refused,
    Back,
}

impl Shared {
    fn add(&self, count: Count, n: u64) {
        self.counts[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }
}

/// A running link. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Link {
    entry: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Opens a link towards `to`. Send to [`Link::entry`].
    pub fn open(to: SocketAddr, weather: Weather) -> Result<Self> {
        let (inlet, entry) = socket(to.is_ipv6()).context("cannot open the link's entry")?;
        let (outlet, _) = socket(to.is_ipv6()).context("cannot open the link's exit")?;
        let shared = Arc::new(Shared::default());
        let back = outlet.try_clone().context("cannot watch the link's exit")?;
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")
        };
        let watched = Arc::clone(&shared);
        let passed = Arc::clone(&shared);
        let threads = vec![
            spawn("link-back", Box::new(move || watch(&back, &watched)))?,
            spawn("link", Box::new(move || Forwarder::new(outlet, to, weather, passed).run(&inlet)))?,
        ];
        Ok(Self { entry, shared, threads })
    }

    /// Where the sender sends to.
    pub fn entry(&self) -> SocketAddr {
        self.entry
    }

    /// Pulls the cable out (`true`) or puts it back.
    pub fn cut(&self, cut: bool) {
        self.shared.cut.store(cut, Ordering::Relaxed);
    }

    /// From now on records the nonce of every datagram that the sender sends.
    pub fn record_nonces(&self) {
        self.shared.records_nonces.store(true, Ordering::Relaxed);
    }

    /// What was recorded.
    pub fn nonces(&self) -> MutexGuard<'_, Nonces> {
        self.shared.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let get = |count| self.shared.get(count);
        Counts {
            received: get(Count::Received),
            received_bytes: get(Count::ReceivedBytes),
            forwarded: get(Count::Forwarded),
            dropped: get(Count::Dropped),
            bursts: get(Count::Bursts),
            reordered: get(Count::Reordered),
            duplicated: get(Count::Duplicated),
            truncated: get(Count::Truncated),
            flipped: get(Count::Flipped),
            forged: get(Count::Forged),
            replayed: get(Count::Replayed),
            refused: get(Count::Refused),
            back: get(Count::Back),
        }
    }

    /// Datagrams that the kernel dropped at the entry because this thread was too slow, where `/proc` tells.
    pub fn kernel_drops(&self) -> Option<u64> {
        kernel_drops(self.entry.port())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A loopback socket with buffers as large as the kernel grants.
fn socket(is_ipv6: bool) -> Result<(UdpSocket, SocketAddr)> {
    let (domain, host): (_, IpAddr) = match is_ipv6 {
        true => (Domain::IPV6, Ipv6Addr::LOCALHOST.into()),
        false => (Domain::IPV4, Ipv4Addr::LOCALHOST.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Past the limit with privileges, up to it without.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    }
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.bind(&SocketAddr::from((host, 0)).into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(POLL))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// The `drops` column of this port's line in `/proc/net/udp`.
fn kernel_drops(port: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/udp").ok()?;
    let local = format!("0100007F:{port:04X}");
    table.lines().find(|line| line.contains(&local))?.split_whitespace().last()?.parse().ok()
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Counts what the receiving side sends. The exit is not connected, so that nothing is filtered before it is counted.
fn watch(exit: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    while !shared.stop.load(Ordering::Relaxed) {
        if exit.recv_from(&mut buffer).is_ok() {
            shared.add(Count::Back, 1);
        }
    }
}

/// A datagram that others may overtake.
struct Held {
    /// How many still may.
    overtakers: usize,
    datagram: Vec<u8>,
}

struct Forwarder {
    exit: UdpSocket,
    to: SocketAddr,
    weather: Weather,
    prng: Prng,
    shared: Arc<Shared>,
    burst_left: usize,
    held: VecDeque<Held>,
    memory: Vec<Vec<u8>>,
}

impl Forwarder {
    fn new(exit: UdpSocket, to: SocketAddr, weather: Weather, shared: Arc<Shared>) -> Self {
        let prng = Prng::new(weather.seed);
        Self { exit, to, weather, prng, shared, burst_left: 0, held: VecDeque::new(), memory: Vec::new() }
    }

    fn run(mut self, entry: &UdpSocket) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while !self.shared.stop.load(Ordering::Relaxed) {
            match entry.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    self.shared.add(Count::Received, 1);
                    self.shared.add(Count::ReceivedBytes, length as u64);
                    if self.shared.records_nonces.load(Ordering::Relaxed) {
                        let mut nonces = self.shared.nonces.lock().unwrap_or_else(PoisonError::into_inner);
                        nonces.record(&buffer[..length]);
                    }
                    self.pass(&mut buffer[..length]);
                }
                Err(error) if is_timeout(&error) => self.flush(),
                Err(_) => return,
            }
        }
    }

    /// One datagram through the weather.
    fn pass(&mut self, datagram: &mut [u8]) {
        if self.is_lost() {
            self.shared.add(Count::Dropped, 1);
            return;
        }
        if self.weather.replay > 0.0 {
            self.remember(datagram);
        }
        if self.prng.chance(self.weather.forge) {
            self.forge(datagram);
        }
        if self.prng.chance(self.weather.replay) && !self.memory.is_empty() {
            let at = self.prng.below(self.memory.len());
            self.send(&self.memory[at]);
            self.shared.add(Count::Replayed, 1);
        }
        let mut length = datagram.len();
        if self.prng.chance(self.weather.truncate) {
            length = self.prng.below(length);
            self.shared.add(Count::Truncated, 1);
        }
        let datagram = &mut datagram[..length];
        if self.prng.chance(self.weather.flip) && !datagram.is_empty() {
            for _ in 0..=self.prng.below(3) {
                let bit = self.prng.below(datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            self.shared.add(Count::Flipped, 1);
        }
        if self.prng.chance(self.weather.duplicate) {
            self.send(datagram);
            self.shared.add(Count::Duplicated, 1);
        }
        if self.prng.chance(self.weather.reorder) {
            let overtakers = 1 + self.prng.below(self.weather.reorder_depth);
            self.held.push_back(Held { overtakers, datagram: datagram.to_vec() });
            self.shared.add(Count::Reordered, 1);
        } else {
            self.send(datagram);
        }
        self.release_overtaken();
    }

    fn is_lost(&mut self) -> bool {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        if self.prng.chance(self.weather.burst) {
            self.burst_left = self.prng.below(self.weather.burst_length_max);
            self.shared.add(Count::Bursts, 1);
            return true;
        }
        self.prng.chance(self.weather.loss) || self.shared.cut.load(Ordering::Relaxed)
    }

    /// Keeps a datagram, in the place of a random older one once the memory is full: some stay for very long.
    fn remember(&mut self, datagram: &[u8]) {
        if self.memory.len() < MEMORY {
            self.memory.push(datagram.to_vec());
        } else if self.prng.chance(0.01) {
            let at = self.prng.below(MEMORY);
            self.memory[at] = datagram.to_vec();
        }
    }

    fn forge(&mut self, real: &[u8]) {
        let genuine_octets = self.prng.below(40).min(real.len());
        let mut forgery = match self.prng.below(2) {
            0 => vec![0; self.prng.below(9001)],
            _ => real.to_vec(),
        };
        self.prng.fill(&mut forgery);
        if forgery.len() >= genuine_octets {
            forgery[..genuine_octets].copy_from_slice(&real[..genuine_octets]);
        }
        self.send(&forgery);
        self.shared.add(Count::Forged, 1);
    }

    fn release_overtaken(&mut self) {
        for held in &mut self.held {
            held.overtakers = held.overtakers.saturating_sub(1);
        }
        while let Some(at) = self.held.iter().position(|held| held.overtakers == 0) {
            if let Some(held) = self.held.remove(at) {
                self.send(&held.datagram);
            }
        }
    }

    /// Nobody is left to overtake.
    fn flush(&mut self) {
        while let Some(held) = self.held.pop_front() {
            self.send(&held.datagram);
        }
    }

    fn send(&self, datagram: &[u8]) {
        match self.exit.send_to(datagram, self.to) {
            Ok(_) => self.shared.add(Count::Forwarded, 1),
            Err(_) => self.shared.add(Count::Refused, 1),
        }
    }
}
