//! The test stand: a sender that holds the data, and a receiver that forgets everything between two measurements.
//!
//! The sender ingests once. Before each measurement both daemons are started anew, the receiver from the copy of its
//! folder that was made right after pairing; then the sender cuts a full release. So each measurement begins with an
//! empty receiver, and counters and peak memory are its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use diodesync_system::netns::Gap;
use diodesync_system::prng::Prng;
use diodesync_system::side::{LANE_PORT, Pair, Setup};
use diodesync_system::status::{ReceiverStatus, ReleaseState, SendState, SenderStatus};
use serde::Serialize;

use crate::control;
use crate::meter::{Besides, Cost, Machine, arrivals};

/// Without any progress for so long, something is wrong.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long the submission of anything may take.
const SUBMIT_MAX: Duration = Duration::from_secs(1200);
/// How often the arriving packets are looked at: the resolution of "last datagram to published".
const SAMPLE: Duration = Duration::from_millis(4);
/// How often the receiver is asked while data flows.
const ASK: Duration = Duration::from_millis(25);
/// Packets in a [`SAMPLE`] that are more than sessions and beacons.
const FLOW_PACKETS: u64 = 3;
/// Who runs the daemons when they have no privileges.
const NOBODY: u32 = 65_534;
/// If this process ends in whatever way, the daemons end too.
const WRAPPER: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// The circumstances of a measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Weather {
    /// `lane.rate`.
    pub rate: String,
    /// `lane.mtu`, and the path's.
    pub mtu: u16,
    /// The share of packets lost at random.
    pub loss: f64,
    /// Whether the receiving device joins datagrams before they are lost.
    pub gro: bool,
    /// `lane.rounds`, with nothing between them.
    pub rounds: u32,
    /// Whether the daemons run as nobody.
    pub unprivileged: bool,
    /// Whether the receiver shares one core with something that never stops.
    pub slow_receiver: bool,
    /// Octets to be lost at once, one second after the start.
    pub burst_bytes: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            rate: "max".to_owned(),
            mtu: 1500,
            loss: 0.0,
            gro: true,
            rounds: 1,
            unprivileged: false,
            slow_receiver: false,
            burst_bytes: 0,
        }
    }
}

/// One release that crossed.
#[derive(Debug, Clone, Serialize)]
pub struct Crossing {
    /// Whether it was published.
    pub is_published: bool,
    /// Blocks that it lacked when the sender was through.
    pub blocks_lacking: u64,
    /// Octets of its content.
    pub content_bytes: u64,
    /// From the release command to its publication (or to the sender's end, if there was none).
    pub seconds: f64,
    /// From the last datagram of the release to its publication; 0 if it was published before.
    pub last_to_published_s: f64,
    /// Datagrams that the sender sent.
    pub sent_datagrams: u64,
    /// Octets of them.
    pub sent_bytes: u64,
    /// Datagrams that came.
    pub received: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Packets that the path lost on purpose: runs of datagrams where the device joins them.
    pub lost_packets: u64,
    /// Octets lost by the burst.
    pub burst_bytes: u64,
    /// Of the lost ones, those that found the receiver's socket buffer full.
    pub kernel_drops: u64,
    /// Source symbols that repair symbols replaced.
    pub repaired: u64,
    /// What the sender used.
    pub low: Cost,
    /// What the receiver used.
    pub high: Cost,
    /// What else the machine did.
    pub besides: Besides,
}

impl Crossing {
    /// Content per time.
    pub fn gbit_s(&self) -> f64 {
        self.content_bytes as f64 * 8.0 / self.seconds / 1e9
    }

    /// CPU seconds of both daemons for each GiB of content.
    pub fn cpu_s_per_gib(&self) -> f64 {
        (self.low.cpu_s + self.high.cpu_s) / gib(self.content_bytes)
    }
}

/// Octets in GiB.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// A sender, a receiver and the path.
#[derive(Debug)]
pub struct Stand {
    pair: Pair,
    /// The receiver's folder as it was after pairing.
    fresh: PathBuf,
    cpus: usize,
    /// Where profiles go.
    profiles: Option<PathBuf>,
    profiled: u32,
}

impl Stand {
    /// Makes and pairs both sides.
    pub fn new(name: &'static str) -> Result<Self> {
        let gap = Gap::open_fast().map_err(|skip| anyhow::anyhow!("{}", skip.reason))?;
        let mut pair = Pair::over_gap(&Setup { name, ..Setup::default() }, gap)?;
        // The defaults are what is measured.
        for key in ["repair", "burst", "round_gap"] {
            pair.low.unset(&["lane", key])?;
        }
        pair.low.set_wrapper(&WRAPPER);
        pair.high.set_wrapper(&WRAPPER);
        let fresh = pair.dir.join("high.fresh");
        copy_tree(pair.high.dir(), &fresh)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { pair, fresh, cpus, profiles: None, profiled: 0 })
    }

    /// Has `perf` record both daemons while releases cross, into this folder.
    pub fn profile_into(&mut self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        self.profiles = Some(fs::canonicalize(folder)?);
        Ok(())
    }

    fn perf(&mut self, low: u32, high: u32) -> Result<Option<Perf>> {
        let Some(folder) = &self.profiles else { return Ok(None) };
        self.profiled += 1;
        Perf::start(folder, self.profiled, low, high).map(Some)
    }

    /// The path.
    pub fn gap(&self) -> Result<&Gap> {
        self.pair.gap().context("there are no namespaces")
    }

    /// Where the sender's datagrams go.
    pub fn low_address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.gap()?.high_ip(), LANE_PORT))
    }

    /// The pair.
    pub fn pair(&mut self) -> &mut Pair {
        &mut self.pair
    }

    /// Starts the sender alone.
    pub fn start_low(&mut self) -> Result<()> {
        if self.pair.low.is_started() { Ok(()) } else { self.pair.low.start() }
    }

    /// Writes files of random content and submits them under `data/`, then removes them. How long the submission took.
    pub fn submit(&mut self, files: impl Iterator<Item = (String, u64)>, bytes: u64) -> Result<f64> {
        self.start_low()?;
        let folder = self.pair.dir.join("data");
        fs::create_dir(&folder)?;
        let mut buffer = vec![0; usize::try_from(bytes)?];
        for (name, seed) in files {
            Prng::new(seed).fill(&mut buffer);
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, &buffer)?;
        }
        let started = Instant::now();
        let done = self.pair.low.run_within(&["submit", "files", &folder.display().to_string()], SUBMIT_MAX);
        let seconds = started.elapsed().as_secs_f64();
        fs::remove_dir_all(&folder)?;
        done?.ok()?;
        Ok(seconds)
    }

    /// Sends everything to an empty receiver.
    pub fn cross(&mut self, weather: &Weather) -> Result<Crossing> {
        self.prepare(weather)?;
        let burner = weather.slow_receiver.then(|| Burner::start(self.cpus - 1)).transpose()?;
        let crossing = self.release(weather, &["release", "--full", "--json"]);
        drop(burner);
        if weather.unprivileged {
            // What nobody wrote belongs to root again, as its daemon expects.
            self.pair.stop()?;
            own(self.pair.low.dir(), 0)?;
        }
        crossing
    }

    /// Sends what was submitted since, to the receiver as it is.
    pub fn cross_again(&mut self) -> Result<Crossing> {
        self.release(&Weather::default(), &["release", "--json"])
    }

    fn prepare(&mut self, weather: &Weather) -> Result<()> {
        self.pair.stop()?;
        let high = self.pair.high.dir().to_owned();
        fs::remove_dir_all(&high)?;
        copy_tree(&self.fresh, &high)?;
        self.pair.low.set(&["lane", "rate"], weather.rate.clone())?;
        self.pair.low.set(&["lane", "mtu"], i64::from(weather.mtu))?;
        self.pair.low.set(&["channel", "rounds"], i64::from(weather.rounds))?;
        match weather.rounds {
            1 => self.pair.low.unset(&["channel", "round_gap"])?,
            _ => self.pair.low.set(&["channel", "round_gap"], "0s")?,
        }
        let mut wrapper = WRAPPER.to_vec();
        if weather.unprivileged {
            own(self.pair.low.dir(), NOBODY)?;
            own(self.pair.high.dir(), NOBODY)?;
            wrapper.truncate(3);
            wrapper.extend(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]);
        }
        self.pair.low.set_wrapper(&wrapper);
        let core = (self.cpus - 1).to_string();
        if weather.slow_receiver {
            wrapper.extend(["taskset", "-c", &core]);
        }
        self.pair.high.set_wrapper(&wrapper);
        let gap = self.gap()?;
        gap.set_mtu(weather.mtu)?;
        gap.set_gro(weather.gro)?;
        gap.set_loss(weather.loss)?;
        self.pair.start()
    }

    /// Cuts a release and watches it cross.
    fn release(&mut self, weather: &Weather, command: &[&str]) -> Result<Crossing> {
        let (low, high) = (self.pid(true)?, self.pid(false)?);
        let before = (Cost::of(low)?, Cost::of(high)?, Machine::now()?, Cost::of(std::process::id())?);
        let (low_before, high_before) = (self.low()?, self.high()?);
        let perf = self.perf(low, high)?;
        let started = Instant::now();
        let cut: serde_json::Value = serde_json::from_str(&self.pair.low.ok(command)?)?;
        let number = cut["number"].as_u64().context("the release has no number")?;
        let size = |key: &str| cut[key].as_u64().context("the release has no size");
        let content_bytes = size("bytes")?.min(size("send_bytes")?);
        let watched = self.watch(weather, number, started, (low, high))?;
        let seconds = watched.end.duration_since(started).as_secs_f64();
        drop(perf);
        let (low_cost, high_cost) = (watched.costs.0.since(&before.0), watched.costs.1.since(&before.1));
        let own = Cost::of(std::process::id())?.since(&before.3);
        let whole = (Cost::of(low)?.since(&before.0), Cost::of(high)?.since(&before.1));
        let ours_s = whole.0.cpu_s + whole.1.cpu_s + own.cpu_s;
        let besides = Machine::now()?.since(&before.2, started.elapsed().as_secs_f64(), ours_s);
        let (low_after, high_after) = (self.low()?, self.high()?);
        let lane = |status: &ReceiverStatus| status.lanes.first().cloned().context("there is no lane");
        let (lane_before, lane) = (lane(&high_before)?, lane(&high_after)?);
        let sent = |status: &SenderStatus| status.lanes.iter().map(|lane| lane.sent_datagrams).sum::<u64>();
        let gap = self.gap()?;
        Ok(Crossing {
            is_published: watched.is_published,
            blocks_lacking: watched.blocks_lacking,
            content_bytes,
            seconds,
            last_to_published_s: watched.end.saturating_duration_since(watched.last_datagram).as_secs_f64(),
            sent_datagrams: sent(&low_after) - sent(&low_before),
            sent_bytes: low_after.sent_bytes() - low_before.sent_bytes(),
            received: lane.received - lane_before.received,
            lost: lane.lost - lane_before.lost,
            lost_packets: if weather.loss > 0.0 { gap.lost()? } else { 0 },
            burst_bytes: if weather.burst_bytes > 0 { gap.lost_in_burst()? } else { 0 },
            kernel_drops: lane.kernel_drops - lane_before.kernel_drops,
            repaired: high_after.decoding.repaired - high_before.decoding.repaired,
            low: low_cost,
            high: high_cost,
            besides,
        })
    }

    /// Waits until the release is published, or the sender is through and nothing comes any more.
    fn watch(
        &mut self,
        weather: &Weather,
        number: u64,
        started: Instant,
        pids: (u32, u32),
    ) -> Result<Watched> {
        let costs = || Ok::<_, anyhow::Error>((Cost::of(pids.0)?, Cost::of(pids.1)?));
        let high = pids.1;
        let mut packets = arrivals(high)?;
        let mut last_datagram = Instant::now();
        let (mut asked, mut progress) = (Instant::now(), (Instant::now(), 0));
        let mut burst = (weather.burst_bytes > 0).then_some(weather.burst_bytes);
        let mut published = None;
        let mut lacking = 0;
        loop {
            std::thread::sleep(SAMPLE);
            let now = Instant::now();
            let arrived = arrivals(high)?;
            if arrived - packets > FLOW_PACKETS {
                last_datagram = now;
            }
            packets = arrived;
            if started.elapsed() > Duration::from_secs(1)
                && let Some(bytes) = burst.take()
            {
                self.gap()?.lose_next(bytes)?;
            }
            let is_quiet = now.duration_since(last_datagram) > 2 * SAMPLE;
            if now.duration_since(asked) < if is_quiet { SAMPLE } else { ASK } {
                continue;
            }
            asked = now;
            self.pair.low.check_alive()?;
            self.pair.high.check_alive()?;
            if published.is_none() {
                let status = self.high()?;
                let is_served = status.channel("main").and_then(|main| main.published) == Some(number);
                if is_served {
                    published = Some((Instant::now(), costs()?));
                }
                let held = match status.release("main", number) {
                    Some(release) if release.state == ReleaseState::Refused => {
                        bail!(
                            "release {number} is refused: {}",
                            release.reason.as_deref().unwrap_or_default()
                        )
                    }
                    Some(release) => {
                        lacking = release.blocks_needed - release.blocks_held;
                        release.bytes_held
                    }
                    None => arrived,
                };
                if held != progress.1 {
                    progress = (now, held);
                }
            }
            let sender = self.low()?;
            let is_through = sender.channel("main").is_some_and(|main| main.state == SendState::Complete);
            let is_over = is_through && now.duration_since(last_datagram) > Duration::from_millis(100);
            match &published {
                Some((end, costs)) if is_through => {
                    let (end, costs) = (*end, costs.clone());
                    return Ok(Watched { is_published: true, blocks_lacking: 0, end, last_datagram, costs });
                }
                None if is_over && lacking > 0 && now.duration_since(progress.0) > Duration::from_secs(2) => {
                    let (end, costs) = (last_datagram, costs()?);
                    return Ok(Watched {
                        is_published: false,
                        blocks_lacking: lacking,
                        end,
                        last_datagram,
                        costs,
                    });
                }
                _ if now.duration_since(progress.0) > STALL_MAX
                    && now.duration_since(last_datagram) > STALL_MAX =>
                {
                    bail!("nothing happens any more; {lacking} blocks are lacking");
                }
                _ => {}
            }
        }
    }

    fn pid(&self, is_low: bool) -> Result<u32> {
        let side = if is_low { &self.pair.low } else { &self.pair.high };
        side.pid().context("the daemon does not run")
    }

    /// The sender's status.
    pub fn low(&self) -> Result<SenderStatus> {
        control::status(self.pair.low.dir())
    }

    fn high(&self) -> Result<ReceiverStatus> {
        control::status(self.pair.high.dir())
    }
}

/// How a crossing ended.
struct Watched {
    is_published: bool,
    blocks_lacking: u64,
    end: Instant,
    last_datagram: Instant,
    /// At the end, of the sender and the receiver since they started.
    costs: (Cost, Cost),
}

/// `perf record` of both daemons; dropping it ends the recording.
struct Perf(Vec<std::process::Child>);

impl Perf {
    fn start(folder: &Path, number: u32, low: u32, high: u32) -> Result<Self> {
        let mut children = Vec::new();
        for (side, pid) in [("tx", low), ("rx", high)] {
            let file = folder.join(format!("{number:02}-{side}.data"));
            let mut command = std::process::Command::new("perf");
            command.args([
                "record",
                "--quiet",
                "-e",
                "cpu-clock",
                "-F",
                "499",
                "-g",
                "-p",
                &pid.to_string(),
                "-o",
            ]);
            command.arg(file).stdout(std::process::Stdio::null());
            children.push(command.spawn().context("cannot run perf; the package is linux-perf")?);
        }
        // It has to find all threads first.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self(children))
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Not killed: the file is written at the end.
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(child),
                rustix::process::Signal::INT,
            );
            let _ = child.wait();
        }
    }
}

/// Something that never stops, on one core.
struct Burner(std::process::Child);

impl Burner {
    fn start(core: usize) -> Result<Self> {
        let mut command = std::process::Command::new("taskset");
        command.args(["-c", &core.to_string()]).args(WRAPPER).args(["sh", "-c", "while :; do :; done"]);
        Ok(Self(command.spawn().context("cannot run taskset; the package is util-linux")?))
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies a folder with modes.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Gives a folder with all that is in it to a user.
fn own(path: &Path, user: u32) -> Result<()> {
    chown(path, Some(user), Some(user)).with_context(|| format!("cannot chown {}", path.display()))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), user)?;
        }
    }
    Ok(())
}
