//! A paired sender and receiver, as real processes with real configurations in a temporary folder:
//!
//! ```text
//! D/high  diode-receiver init --dir D/high --host localhost
//! D/low   diode-sender init --dir D/low --receiver D/high/receiver.pub
//!         diode-receiver pair --config D/high/receiver.toml D/low/pairing.json
//! ```
//!
//! Whatever happens, dropping a [`Pair`] ends both daemons and removes the folder; when the test is panicking, it
//! prints what they had to say first.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::bins::bins;
use crate::http::Http;
use crate::https::Https;
use crate::mirror::Mirror;
use crate::netns::Gap;
use crate::scratch::Scratch;
use crate::status::{MirrorStatus, ReceiverStatus, ReleaseState, SenderStatus};
use crate::wait_for;
use crate::weather::{Link, Weather};

/// How long a daemon may take to answer its first `status`, and how long to end when it is asked to.
const START_MAX: Duration = Duration::from_secs(30);
/// Time for a release to come to a state.
const STATE_MAX: Duration = Duration::from_secs(120);
/// How long a command may take that has no reason to wait.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// The lane's port, between namespaces.
pub const LANE_PORT: u16 = 7400;
/// The token of a dashboard that [`Side::let_in`] has.
pub const TOKEN: &str = "a token of the test's own";
/// How much of each log a failing test shows.
const LOG_LINES: usize = 120;

/// What the two are joined by.
#[derive(Debug)]
pub enum Route {
    /// A forwarder in user space.
    Link(Link),
    /// Two network namespaces.
    Gap(Gap),
}

/// What to make.
#[derive(Debug)]
pub struct Setup {
    /// In the folder's name.
    pub name: &'static str,
    /// `lane.rate` of the sender, like `200mbit`.
    pub rate: String,
    /// `lane.mtu`.
    pub mtu: u16,
    /// `lane.repair`.
    pub repair: String,
    /// `channel.rounds` of `main`.
    pub rounds: u32,
    /// `channel.round_gap` of `main`.
    pub round_gap: String,
    /// `lane.burst`.
    pub burst: String,
    /// Whether the daemons get process groups of their own, so that a terminal's Ctrl-C does not reach them.
    pub own_group: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            name: "pair",
            rate: "200mbit".to_owned(),
            mtu: 1500,
            repair: "10%".to_owned(),
            rounds: 4,
            round_gap: "1s".to_owned(),
            burst: "20ms".to_owned(),
            own_group: false,
        }
    }
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// The command, for messages.
    pub line: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// One daemon: its folder, its configuration, and its process when it runs.
#[derive(Debug)]
pub struct Side {
    program: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    prefix: Vec<OsString>,
    wrapper: Vec<OsString>,
    own_group: bool,
    /// What the daemon is split into; one process if there is none.
    roles: Vec<&'static str>,
    /// Its processes, by role.
    children: BTreeMap<&'static str, Child>,
    /// What the role that answers commands gets as its standard input, as from a service manager.
    listener: Option<TcpListener>,
}

/// The roles of the receiver, as they are started.
pub const ROLES: [&str; 3] = ["publish", "lane", "serve"];

impl Side {
    /// A side that runs `program` and has its state in `dir`, its configuration at `dir/NAME.toml`.
    pub(crate) fn new(
        program: &Path,
        dir: PathBuf,
        name: &str,
        prefix: Vec<OsString>,
        own_group: bool,
    ) -> Self {
        let config = dir.join(format!("{name}.toml"));
        let log = dir.with_extension("log");
        Self {
            program: program.to_owned(),
            dir,
            config,
            log,
            prefix,
            wrapper: Vec::new(),
            own_group,
            roles: vec![""],
            children: BTreeMap::new(),
            listener: None,
        }
    }

    /// Has the role that answers commands find a listening socket as its standard input, as socket activation gives it,
    /// from its next start on; the port.
    pub fn activate(&mut self) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        self.listener = Some(listener);
        Ok(port)
    }

    /// Has the daemon run as one process for each role, from its next start on.
    pub fn split(&mut self) {
        self.roles = ROLES.to_vec();
    }

    /// The same with these roles; the first answers commands.
    pub fn split_into(&mut self, roles: &[&'static str]) {
        self.roles = roles.to_vec();
    }

    /// The same with a process for a role more.
    pub fn split_with(&mut self, more: &'static str) {
        self.split();
        self.roles.push(more);
    }

    /// The folder of keys and state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What the daemon has written to its standard error, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs a command of this side's program as it stands, without `--config`.
    pub fn command(&self, arguments: &[impl AsRef<str>]) -> Result<Done> {
        finish(Command::new(&self.program), &self.program, arguments, COMMAND_MAX)
    }

    /// Runs a command with this side's configuration.
    pub fn run(&self, arguments: &[impl AsRef<str>]) -> Result<Done> {
        self.run_within(arguments, COMMAND_MAX)
    }

    /// Starts a command with this side's configuration, whose output nobody reads.
    pub fn spawn_command(&self, arguments: &[impl AsRef<str>]) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(arguments.iter().map(AsRef::as_ref)).arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// [`Side::run`] with another time limit.
    pub fn run_within(&self, arguments: &[impl AsRef<str>], limit: Duration) -> Result<Done> {
        let mut words: Vec<String> = arguments.iter().map(|word| word.as_ref().to_owned()).collect();
        words.extend(["--config".to_owned(), self.config.display().to_string()]);
        finish(Command::new(&self.program), &self.program, &words, limit)
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, arguments: &[impl AsRef<str>]) -> Result<String> {
        self.run(arguments)?.ok()
    }

    /// `status --json`.
    pub(crate) fn status<T: DeserializeOwned>(&self) -> Result<T> {
        let text = self.ok(&["status", "--json"])?;
        serde_json::from_str(&text)
            .with_context(|| format!("status --json says what nobody expects:\n{text}"))
    }

    /// Sets a key of the configuration; the daemon reads it at its next start. Of an array of tables, like `[[lane]]`,
    /// the first is meant.
    pub fn set(&self, keys: &[&str], value: impl Into<toml::Value>) -> Result<()> {
        let what = || format!("cannot set {} in {}", keys.join("."), self.config.display());
        let value = value.into();
        self.edit(keys, what, |table, key| {
            table.insert(key.to_owned(), value);
        })
    }

    /// Has who shows [`TOKEN`] to the dashboard do more than look, from the next start on; the token's file.
    pub fn let_in(&self) -> Result<PathBuf> {
        let file = self.dir.join("keys/dashboard.token");
        std::fs::write(&file, format!("{TOKEN}\n"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        self.set(&["dashboard", "token_file"], "keys/dashboard.token")?;
        Ok(file)
    }

    /// Takes a key out of the configuration, so that its default holds.
    pub fn unset(&self, keys: &[&str]) -> Result<()> {
        let what = || format!("cannot unset {} in {}", keys.join("."), self.config.display());
        self.edit(keys, what, |table, key| {
            table.remove(key);
        })
    }

    fn edit(
        &self,
        keys: &[&str],
        what: impl Fn() -> String + Copy,
        change: impl FnOnce(&mut toml::Table, &str),
    ) -> Result<()> {
        let text = std::fs::read_to_string(&self.config).with_context(what)?;
        let mut root: toml::Table = text.parse().with_context(what)?;
        let (last, tables) = keys.split_last().with_context(what)?;
        let mut table = &mut root;
        for key in tables {
            let entry = table.entry(*key).or_insert_with(|| toml::Table::new().into());
            let entry = match entry {
                toml::Value::Array(entries) => entries.first_mut().with_context(what)?,
                entry => entry,
            };
            table = entry.as_table_mut().with_context(what)?;
        }
        change(table, last);
        std::fs::write(&self.config, toml::to_string(&root)?).with_context(what)
    }

    /// Puts words between the namespace's prefix and the program at its next start, like `setpriv --reuid 65534`.
    pub fn set_wrapper(&mut self, words: &[&str]) {
        self.wrapper = words.iter().map(OsString::from).collect();
    }

    /// The daemon's process, while it runs: of a split one, that which answers commands.
    pub fn pid(&self) -> Option<u32> {
        self.roles.first().and_then(|role| self.children.get(role)).map(Child::id)
    }

    /// One role's process, while it runs.
    pub fn role_pid(&self, role: &str) -> Option<u32> {
        self.children.get(role).map(Child::id)
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the daemon, all of its processes.
    pub fn spawn(&mut self) -> Result<()> {
        self.roles.clone().into_iter().try_for_each(|role| self.spawn_role(role))
    }

    /// Starts one role's process.
    pub fn spawn_role(&mut self, role: &'static str) -> Result<()> {
        if self.children.contains_key(role) {
            bail!("{} {role} runs already", self.program.display());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut words = [self.prefix.clone(), self.wrapper.clone()].concat();
        words.push(self.program.clone().into());
        words.extend(["run".into(), "--config".into(), self.config.clone().into()]);
        if !role.is_empty() {
            words.extend(["--role".into(), role.into()]);
        }
        let mut command = Command::new(&words[0]);
        let stdin = match &self.listener {
            Some(listener) if self.roles.first() == Some(&role) => {
                Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone()?))
            }
            _ => Stdio::null(),
        };
        command.args(&words[1..]).stdin(stdin).stdout(log.try_clone()?).stderr(log);
        if self.own_group {
            command.process_group(0);
        }
        self.children.insert(role, command.spawn().with_context(|| format!("cannot run {words:?}"))?);
        Ok(())
    }

    /// Waits until the daemon answers `status`, and all of its roles are there.
    pub fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.check_alive()?;
            let done = self.run(&["status", "--json"])?;
            // The alarms that say that a role is not there.
            let is_whole = !["\"lane-role\"", "\"serve-role\""].iter().any(|id| done.stdout.contains(id));
            if done.code == Some(0) && is_whole {
                return Ok(());
            }
            if start.elapsed() > START_MAX {
                bail!("{} does not answer; it says:\n{}", self.program.display(), self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails when the daemon should run and does not.
    pub fn check_alive(&mut self) -> Result<()> {
        for role in self.children.keys().copied().collect::<Vec<_>>() {
            let Some(child) = self.children.get_mut(role) else { continue };
            if let Some(status) = child.try_wait()? {
                self.children.remove(role);
                let _ = self.kill_9();
                bail!(
                    "{} {role} ended by itself ({status}); it says:\n{}",
                    self.program.display(),
                    self.log()
                );
            }
        }
        Ok(())
    }

    /// Whether the daemon was started and not stopped.
    pub fn is_started(&self) -> bool {
        !self.children.is_empty()
    }

    /// Ends the daemon as a power cut would.
    pub fn kill_9(&mut self) -> Result<()> {
        if self.children.is_empty() {
            bail!("it does not run");
        }
        // All at once, then each is waited for.
        self.children.values_mut().try_for_each(Child::kill)?;
        while let Some((_, mut child)) = self.children.pop_first() {
            child.wait()?;
        }
        Ok(())
    }

    /// Ends one role as a power cut would.
    pub fn kill_9_role(&mut self, role: &str) -> Result<()> {
        let mut child = self.children.remove(role).context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the daemon to end, and waits until it has. Its exit code; of a split one, the first that is not 0.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        let mut first = None;
        for child in self.children.values() {
            kill_process(Pid::from_child(child), Signal::TERM)?;
        }
        while let Some((role, child)) = self.children.pop_first() {
            let code = self.wait_end(role, child)?;
            first = first.filter(|first| *first != Some(0)).or(Some(code));
        }
        Ok(first.flatten())
    }

    /// Asks one role to end, and waits until it has. Its exit code.
    pub fn stop_role(&mut self, role: &'static str) -> Result<Option<i32>> {
        let child = self.children.remove(role).context("it does not run")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        self.wait_end(role, child)
    }

    fn wait_end(&self, role: &str, mut child: Child) -> Result<Option<i32>> {
        let code = wait_within(&mut child, START_MAX)?;
        if code.is_none() {
            child.kill()?;
            child.wait()?;
            let s = START_MAX.as_secs();
            bail!("{} {role} did not end within {s} s of SIGTERM", self.program.display())
        }
        Ok(code.flatten())
    }

    /// Whether a serve role that runs for itself has gone over to a release of `main`.
    pub(crate) fn serves(&self, number: u64) -> bool {
        !self.children.contains_key("serve")
            || self.served().is_some_and(|served| {
                served.iter().any(|release| *release == serde_json::json!(["main", number]))
            })
    }

    /// What a serve role says that it serves, behind the line that a fact begins with.
    fn served(&self) -> Option<Vec<serde_json::Value>> {
        let serving = std::fs::read_to_string(self.dir.join("serve/serving")).ok()?;
        let serving: serde_json::Value = serde_json::from_str(serving.split_once('\n')?.1).ok()?;
        Some(serving["served"].as_array()?.clone())
    }

    /// Prints the end of the daemon's log.
    pub fn print_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("── {} says (last {LOG_LINES} of {} lines)", self.program.display(), lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_LINES)) {
            eprintln!("   {line}");
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.kill_9();
        if std::thread::panicking() {
            self.print_log();
        }
    }
}

impl Done {
    /// Standard output when it succeeded.
    pub fn ok(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("{} ends with {:?}:\n{}{}", self.line, self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end, or kills it at the limit. Output goes through files, so that no pipe can fill up.
pub(crate) fn finish(
    mut command: Command,
    program: &Path,
    arguments: &[impl AsRef<str>],
    limit: Duration,
) -> Result<Done> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let line = format!("{name} {}", words.join(" "));
    let scratch = Scratch::new(&format!("out{}", NEXT.fetch_add(1, Ordering::Relaxed)))?;
    let (out, err) = (scratch.join("out"), scratch.join("err"));
    command.args(&words).stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = command.spawn().with_context(|| format!("cannot run {line}"))?;
    let code = wait_within(&mut child, limit)?;
    if code.is_none() {
        child.kill()?;
        child.wait()?;
    }
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let (stdout, stderr) = (read(&out), read(&err));
    match code {
        Some(code) => Ok(Done { line, code, stdout, stderr }),
        None => bail!("{line} did not end within {} s; it says:\n{stdout}{stderr}", limit.as_secs()),
    }
}

/// The exit code (`None` in it after a signal), or `None` when the limit passed first.
fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<Option<i32>>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code()));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A sender and a receiver that know each other, and what joins them. The fields are dropped from the top down:
/// first the daemons, then the path, then the folder.
#[derive(Debug)]
pub struct Pair {
    /// The sender.
    pub low: Side,
    /// The receiver.
    pub high: Side,
    /// What joins them.
    pub route: Route,
    /// Further lanes.
    pub more: Vec<Link>,
    /// Everything on disk.
    pub dir: Scratch,
    serve_port: u16,
    /// The dashboards of sender and receiver; none between namespaces.
    dashboards: Option<[u16; 2]>,
}

impl Pair {
    /// Adds a `[[mirror]]` to the receiver's configuration; it reads it at its next start.
    pub fn add_mirror(&self, table: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.high.config)?;
        Ok(std::fs::write(&self.high.config, format!("{text}\n[[mirror]]\n{table}\n"))?)
    }

    /// Waits until a mirror is as `is_so` wants it. Fails at once when a daemon ends.
    pub fn wait_mirror(
        &mut self,
        name: &str,
        limit: Duration,
        is_so: impl Fn(&MirrorStatus) -> bool,
    ) -> Result<MirrorStatus> {
        let mut last = None;
        let waited = wait_for(&format!("mirror {name}"), limit, || {
            self.high.check_alive()?;
            last = self.high_status()?.mirror(name).cloned();
            Ok(last.clone().filter(&is_so))
        });
        waited.with_context(|| format!("it said last: {last:#?}"))
    }

    /// Makes and pairs both sides over a userspace link. Nothing runs yet.
    pub fn over_link(setup: &Setup, weather: Weather) -> Result<Self> {
        let lane_port = free_port()?;
        let link = Link::open(SocketAddr::from((Ipv4Addr::LOCALHOST, lane_port)), weather)?;
        let to = link.entry();
        Self::make(setup, Route::Link(link), to, SocketAddr::from((Ipv4Addr::LOCALHOST, lane_port)))
    }

    /// Makes and pairs both sides in two namespaces. Nothing runs yet.
    pub fn over_gap(setup: &Setup, gap: Gap) -> Result<Self> {
        let lane = SocketAddr::from((gap.high_ip(), LANE_PORT));
        Self::make(setup, Route::Gap(gap), lane, lane)
    }

    fn make(setup: &Setup, route: Route, to: SocketAddr, listen: SocketAddr) -> Result<Self> {
        let bins = bins()?;
        let dir = Scratch::new(setup.name)?;
        let prefix = |namespace: &str| ["ip", "netns", "exec", namespace].map(OsString::from).to_vec();
        let (low_prefix, high_prefix, serve_port) = match &route {
            Route::Link(_) => (Vec::new(), Vec::new(), free_port()?),
            Route::Gap(gap) => (prefix(gap.low()), prefix(gap.high()), 8443),
        };
        let low = Side::new(&bins.sender, dir.join("low"), "sender", low_prefix, setup.own_group);
        let mut high = Side::new(&bins.receiver, dir.join("high"), "receiver", high_prefix, setup.own_group);
        // So that every test can be run with the receiver in three processes.
        if std::env::var_os("DIODESYNC_ROLES").is_some_and(|value| value == "3") {
            high.split();
        }
        let dashboards = match &route {
            Route::Link(_) => Some([free_port()?, free_port()?]),
            Route::Gap(_) => None,
        };
        let pair = Self { low, high, route, more: Vec::new(), dir, serve_port, dashboards };
        pair.introduce()?;
        pair.configure(setup, to, listen)?;
        Ok(pair)
    }

    /// `init`, `init`, `pair`.
    fn introduce(&self) -> Result<()> {
        let path = |path: PathBuf| path.display().to_string();
        let (high, low) = (path(self.high.dir.clone()), path(self.low.dir.clone()));
        self.high.command(&["init", "--dir", &high, "--host", "localhost"])?.ok()?;
        let public = path(self.high.dir.join("receiver.pub"));
        self.low.command(&["init", "--dir", &low, "--receiver", &public])?.ok()?;
        self.high.ok(&["pair", &path(self.low.dir.join("pairing.json"))])?;
        Ok(())
    }

    fn configure(&self, setup: &Setup, to: SocketAddr, listen: SocketAddr) -> Result<()> {
        let low = |key: &str, value: toml::Value| self.low.set(&["lane", key], value);
        low("to", to.to_string().into())?;
        low("rate", setup.rate.clone().into())?;
        low("mtu", i64::from(setup.mtu).into())?;
        low("repair", setup.repair.clone().into())?;
        self.low.set(&["channel", "rounds"], i64::from(setup.rounds))?;
        self.low.set(&["channel", "round_gap"], setup.round_gap.clone())?;
        low("burst", setup.burst.clone().into())?;
        self.high.set(&["lane", "listen"], listen.to_string())?;
        for (at, side) in [&self.low, &self.high].into_iter().enumerate() {
            let port = self.dashboards.and_then(|ports| ports.get(at).copied());
            let listen = port.map_or("off".to_owned(), |port| format!("127.0.0.1:{port}"));
            side.set(&["dashboard", "listen"], listen)?;
        }
        self.high.set(&["serve", "listen"], format!("127.0.0.1:{}", self.serve_port))
    }

    /// Adds a lane over another userspace link to this loopback address. The daemons take it at their next start.
    pub fn add_link(&mut self, name: &str, host: IpAddr, weather: Weather) -> Result<()> {
        let listen = SocketAddr::new(host, free_port()?);
        let link = Link::open(listen, weather)?;
        self.add_lane(name, link.entry(), listen)?;
        self.more.push(link);
        Ok(())
    }

    /// Adds a lane like the first, to other addresses. The daemons take it at their next start.
    pub fn add_lane(&self, name: &str, to: SocketAddr, listen: SocketAddr) -> Result<()> {
        for (side, key, address) in [(&self.low, "to", to), (&self.high, "listen", listen)] {
            let what = || format!("cannot add a lane in {}", side.config.display());
            let text = std::fs::read_to_string(&side.config).with_context(what)?;
            let mut root: toml::Table = text.parse().with_context(what)?;
            let lanes = root.get_mut("lane").and_then(toml::Value::as_array_mut).with_context(what)?;
            let mut lane = lanes.first().and_then(toml::Value::as_table).cloned().with_context(what)?;
            lane.insert("name".to_owned(), name.into());
            lane.insert(key.to_owned(), address.to_string().into());
            lanes.push(lane.into());
            std::fs::write(&side.config, toml::to_string(&root)?).with_context(what)?;
        }
        Ok(())
    }

    /// Starts the receiver, then the sender.
    pub fn start(&mut self) -> Result<()> {
        self.high.start()?;
        self.low.start()
    }

    /// Stops the sender, then the receiver.
    pub fn stop(&mut self) -> Result<()> {
        self.low.stop()?;
        self.high.stop()?;
        Ok(())
    }

    /// `status --json` of the sender.
    pub fn low_status(&self) -> Result<SenderStatus> {
        self.low.status()
    }

    /// `status --json` of the receiver.
    pub fn high_status(&self) -> Result<ReceiverStatus> {
        self.high.status()
    }

    /// The mirror's CA certificate.
    pub fn ca(&self) -> PathBuf {
        self.high.dir.join("ca.pem")
    }

    /// The port of the mirrors.
    pub fn serve_port(&self) -> u16 {
        self.serve_port
    }

    /// The dashboards of sender and receiver.
    ///
    /// # Panics
    /// Between namespaces there are none.
    pub fn dashboards(&self) -> [Http; 2] {
        self.dashboards.expect("dashboards are of a userspace link").map(Http::new)
    }

    /// A client of the mirrors, on the receiving side.
    pub fn mirror(&self) -> Result<Mirror> {
        let namespace = match &self.route {
            Route::Link(_) => None,
            Route::Gap(gap) => Some(gap.high()),
        };
        Ok(Mirror::new(Https::new(&self.ca(), self.serve_port, namespace)?))
    }

    /// What goes before a command that is to run on the high side.
    pub fn high_prefix(&self) -> &[OsString] {
        &self.high.prefix
    }

    /// The userspace link.
    pub fn link(&self) -> Option<&Link> {
        match &self.route {
            Route::Link(link) => Some(link),
            Route::Gap(_) => None,
        }
    }

    /// The namespaces.
    pub fn gap(&self) -> Option<&Gap> {
        match &self.route {
            Route::Link(_) => None,
            Route::Gap(gap) => Some(gap),
        }
    }

    /// Waits until a release of `main` is in a state; why it is.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn wait_state(&self, number: u64, state: ReleaseState) -> String {
        let mut last = String::new();
        wait_for(&format!("release {number} is {state:?}"), STATE_MAX, || {
            let release = self.high_status()?.release("main", number).cloned();
            last = format!("{release:?}");
            Ok(release.filter(|release| release.state == state))
        })
        .unwrap_or_else(|error| panic!("{error:#}; it was {last}"))
        .reason
        .unwrap_or_default()
    }

    /// Waits until the mirrors serve release `number` of `main`. Fails at once when a daemon ends or the release is
    /// refused.
    pub fn wait_published(&mut self, number: u64, limit: Duration) -> Result<ReceiverStatus> {
        let mut last = None;
        let published = wait_for(&format!("release {number} is published"), limit, || {
            self.low.check_alive()?;
            self.high.check_alive()?;
            let status = self.high_status()?;
            if let Some(release) = status.release("main", number)
                && release.state == ReleaseState::Refused
            {
                bail!(
                    "release {number} is refused: {}",
                    release.reason.as_deref().unwrap_or("no reason given")
                );
            }
            let is_published = status.channel("main").and_then(|channel| channel.published) == Some(number)
                && self.high.serves(number);
            last = Some(status.clone());
            Ok(is_published.then_some(status))
        });
        published.with_context(|| {
            format!("the receiver said last: {last:#?}\nthe sender says: {:#?}", self.low_status())
        })
    }
}

/// A port of 127.0.0.1 that neither UDP nor TCP uses, below those that the kernel gives out by itself.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 500) as u16 * 20;
    for _ in 0..2000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 20000 and 30000")
}
