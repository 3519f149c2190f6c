//! Mirror hosts: receivers that follow the one at the diode, and a way to it that can be slow.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bins::bins;
use crate::https::Https;
use crate::mirror::Mirror;
use crate::side::{Pair, Side, free_port};
use crate::status::ReceiverStatus;
use crate::wait_for;

/// How long a socket waits before it is looked whether to end.
const TICK: Duration = Duration::from_millis(20);

/// A mirror host.
#[derive(Debug)]
pub struct MirrorHost {
    /// The receiver.
    pub side: Side,
    serve_port: u16,
}

/// Has the receiver of a pair feed mirror hosts, from its next start on; the address.
pub fn feed(pair: &Pair) -> Result<SocketAddr> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    pair.high.set(&["feed", "listen"], listen.to_string())?;
    Ok(listen)
}

impl MirrorHost {
    /// Makes one that the receiver of the pair does not know, and that follows it at `from`.
    pub fn stranger(pair: &Pair, name: &str, from: SocketAddr) -> Result<Self> {
        let file = pair.dir.join("feed.json").display().to_string();
        pair.high.ok(&["feed-file", "--out", &file])?;
        let dir = pair.dir.join(name);
        let side = Side::new(&bins()?.receiver, dir.clone(), "receiver", Vec::new(), false);
        let dir = dir.display().to_string();
        side.command(&["init", "--dir", &dir, "--host", "localhost", "--mirror-host", &file])?.ok()?;
        let serve_port = free_port()?;
        side.set(&["upstream", "from"], from.to_string())?;
        side.set(&["serve", "listen"], format!("127.0.0.1:{serve_port}"))?;
        side.set(&["dashboard", "listen"], "off")?;
        Ok(Self { side, serve_port })
    }

    /// Makes one that the receiver of the pair knows from its next start on.
    pub fn make(pair: &Pair, name: &str, from: SocketAddr) -> Result<Self> {
        let host = Self::stranger(pair, name, from)?;
        let text = std::fs::read_to_string(pair.high.config())?;
        let mut root: toml::Table = text.parse()?;
        let feed = root.get_mut("feed").and_then(toml::Value::as_table_mut).context("there is no [feed]")?;
        let hosts = feed.entry("host").or_insert_with(|| toml::Value::Array(Vec::new()));
        let entry = toml::Table::from_iter([
            ("name".to_owned(), name.into()),
            ("key".to_owned(), toml::Value::from(host.pin()?)),
        ]);
        hosts.as_array_mut().context("[feed] host is no array")?.push(entry.into());
        std::fs::write(pair.high.config(), toml::to_string(&root)?)?;
        Ok(host)
    }

    /// What it shows for its `[[feed.host]]`.
    pub fn pin(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.side.dir().join("host.pin"))?.trim().to_owned())
    }

    /// Has it run in one process for each role.
    pub fn split(&mut self) {
        self.side.split_into(&["publish", "upstream", "serve"]);
    }

    /// `status --json`.
    pub fn status(&self) -> Result<ReceiverStatus> {
        self.side.status()
    }

    /// How it stands with whom it follows, as `status --json` says.
    pub fn upstream(&self) -> Result<serde_json::Value> {
        let status: serde_json::Value = self.side.status()?;
        Ok(status["upstream"].clone())
    }

    /// A client of what it serves.
    pub fn mirror(&self) -> Result<Mirror> {
        Ok(Mirror::new(Https::new(&self.side.dir().join("ca.pem"), self.serve_port, None)?))
    }

    /// Waits until it serves a release of `main`.
    pub fn wait_published(&mut self, number: u64, limit: Duration) -> Result<()> {
        let mut last = None;
        let published = wait_for(&format!("the mirror host serves release {number}"), limit, || {
            self.side.check_alive()?;
            let status = self.status()?;
            if let Some(reason) = status.release("main", number).and_then(|release| release.reason.clone()) {
                bail!("release {number}: {reason}");
            }
            let is_published = status.channel("main").and_then(|channel| channel.published) == Some(number);
            last = Some(status);
            Ok((is_published && self.side.serves(number)).then_some(()))
        });
        published
            .with_context(|| format!("it said last: {last:#?}\n{:#}", self.upstream().unwrap_or_default()))
    }

    /// Waits for an alarm; its text.
    pub fn wait_alarm(&self, id: &str, limit: Duration) -> Result<String> {
        wait_for(&format!("alarm {id}"), limit, || {
            Ok(self.status()?.alarm(id).map(|alarm| alarm.text.clone()))
        })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.side.dir()
    }
}

/// A UDP path in both directions between one client and a server, with so many octets a second from the server.
#[derive(Debug)]
pub struct Relay {
    entry: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Octets from the server.
    came: AtomicU64,
    client: Mutex<Option<SocketAddr>>,
}

impl Relay {
    /// To a server.
    pub fn open(to: SocketAddr, bytes_per_s: u64) -> Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        back.connect(to)?;
        front.set_read_timeout(Some(TICK))?;
        back.set_read_timeout(Some(TICK))?;
        let entry = front.local_addr()?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            came: AtomicU64::new(0),
            client: Mutex::default(),
        });
        let (up, down) = (shared.clone(), shared.clone());
        let (front_up, back_up) = (front.try_clone()?, back.try_clone()?);
        let threads = vec![
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while !up.stop.load(Ordering::Relaxed) {
                    let Ok((octets, from)) = front_up.recv_from(&mut buffer) else { continue };
                    *up.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
                    let _ = back_up.send(&buffer[..octets]);
                }
            }),
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                let mut due = Instant::now();
                while !down.stop.load(Ordering::Relaxed) {
                    let octets = match back.recv(&mut buffer) {
                        Ok(octets) => octets,
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                            std::thread::sleep(TICK);
                            continue;
                        }
                        Err(_) => continue,
                    };
                    due =
                        due.max(Instant::now()) + Duration::from_secs_f64(octets as f64 / bytes_per_s as f64);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    down.came.fetch_add(octets as u64, Ordering::Relaxed);
                    let client = *down.client.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(client) = client {
                        let _ = front.send_to(&buffer[..octets], client);
                    }
                }
            }),
        ];
        Ok(Self { entry, shared, threads })
    }

    /// Where the client connects.
    pub fn entry(&self) -> SocketAddr {
        self.entry
    }

    /// Octets that came from the server.
    pub fn came(&self) -> u64 {
        self.shared.came.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
