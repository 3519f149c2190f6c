//! `sender.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::{Channel as ChannelName, LaneId};
use diodesync::limits::{DATAGRAM_BYTES_MAX, LANE_SYMBOL_BYTES_MIN, LANES_MAX};
use diodesync::quantity::{Rate, parse_bytes, parse_duration, parse_percent};
use diodesync::release::retention::{KEEP_DEFAULT, check_keep};
use diodesync::send::{ChannelSettings, RateWindow, RateWindows, RoundSettings};
use diodesync::wire::symbol_bytes_for_mtu;
use diodesync_control::{alarms, dashboard};
use serde::{Deserialize, Deserializer};

use crate::producers;
use crate::sources::{self, Source};

/// The largest share of repair symbols that a round can send: see `nominal_repair_log2`.
const REPAIR_PERCENT_MAX: u32 = 30;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where keys, packs, releases and the journal are.
    pub dir: PathBuf,
    /// The one-way paths.
    pub lane: Vec<Lane>,
    /// Room on the disk.
    #[serde(default)]
    pub space: Space,
    /// What channels get that are not to be like the others.
    #[serde(default)]
    pub channel: Vec<Channel>,
    /// Lives of signatures.
    #[serde(default)]
    pub trust: Trust,
    /// Pages, API and metrics for this host.
    #[serde(default)]
    pub dashboard: dashboard::Config,
    /// Where alarms go.
    #[serde(default)]
    pub alarms: alarms::Config,
    /// What is pulled from upstreams. Read by itself, for better messages.
    #[serde(default, deserialize_with = "later")]
    pub source: Vec<Source>,
    /// Where producers are heard, and who they are; none if they are not. Read by itself, too.
    #[serde(default, deserialize_with = "later")]
    pub producers: Option<(producers::Listen, Vec<producers::Producer>)>,
    #[serde(default, rename = "producer", deserialize_with = "later")]
    _producer: (),
}

/// Room on the disk.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Space {
    /// Octets that bulk data leaves free on the file system of the packs.
    #[serde(deserialize_with = "bytes")]
    pub reserve: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self { reserve: 1_000_000_000 }
    }
}

fn later<'de, D: Deserializer<'de>, T: Default>(d: D) -> Result<T, D::Error> {
    serde::de::IgnoredAny::deserialize(d).map(|_| T::default())
}

fn default_keep() -> usize {
    KEEP_DEFAULT
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    parse_bytes(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// A one-way UDP path.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// Its name, the same as on the receiver.
    pub name: LaneId,
    /// The receiver's address.
    pub to: SocketAddr,
    /// The address to send from; any, if it is not given.
    pub from: Option<SocketAddr>,
    /// Bits per second, or `max`.
    #[serde(default = "default_rate", deserialize_with = "parsed")]
    pub rate: Rate,
    /// The path's MTU.
    #[serde(default = "default_mtu")]
    pub mtu: usize,
    /// Repair symbols of each round, as a share of the data.
    #[serde(default = "default_repair", deserialize_with = "percent")]
    pub repair: u32,
    /// Rates by the hour.
    #[serde(default, deserialize_with = "windows")]
    pub rate_windows: RateWindows,
    /// The wire version that is written: 2, or 1 as long as the receiver is not upgraded.
    #[serde(default = "default_wire_version")]
    pub wire_version: u8,
    /// The longest burst of losses that the repair symbols must cover. Memory on both sides grows with it.
    #[serde(default = "default_burst", deserialize_with = "duration")]
    pub burst: Duration,
}

impl Lane {
    fn check(&self) -> anyhow::Result<()> {
        if symbol_bytes_for_mtu(self.mtu) < LANE_SYMBOL_BYTES_MIN || self.mtu > DATAGRAM_BYTES_MAX {
            bail!("lane {}: mtu is {}, expected 576 to {DATAGRAM_BYTES_MAX}", self.name, self.mtu);
        }
        if !(1..=2).contains(&self.wire_version) {
            bail!(
                "lane {}: wire_version is {}, expected 2, or 1 for an older receiver",
                self.name,
                self.wire_version
            );
        }
        if self.repair > REPAIR_PERCENT_MAX {
            bail!(
                "lane {}: repair is {}%, expected 0% to {REPAIR_PERCENT_MAX}%: a block has no more repair symbols; more \
                 rounds repair more",
                self.name,
                self.repair
            );
        }
        Ok(())
    }
}

/// What a channel gets.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// The channel.
    pub name: ChannelName,
    /// A higher one overtakes.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// How often a release is sent.
    #[serde(default = "default_rounds")]
    pub rounds: u8,
    /// The time from the end of one round to the start of the next.
    #[serde(default = "default_round_gap", deserialize_with = "duration")]
    pub round_gap: Duration,
    /// Releases that are kept, the one in use among them.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// How often everything is sent again, whatever went out before; `never` is the default.
    #[serde(default, deserialize_with = "some_duration")]
    pub full_every: Option<Duration>,
}

impl Channel {
    fn usual(name: ChannelName) -> Self {
        let (rounds, round_gap) = (default_rounds(), default_round_gap());
        Self { name, priority: default_priority(), rounds, round_gap, keep: default_keep(), full_every: None }
    }

    /// As the carousel wants it.
    pub fn carousel(&self) -> ChannelSettings {
        let rounds = RoundSettings { rounds: self.rounds, round_gap: self.round_gap };
        ChannelSettings { priority: self.priority, rounds }
    }
}

/// What each channel gets, be it configured or not.
#[derive(Debug, Clone, Default)]
pub struct Channels(BTreeMap<ChannelName, Channel>);

impl Channels {
    /// What a channel gets.
    pub fn of(&self, name: &ChannelName) -> Channel {
        self.0.get(name).cloned().unwrap_or_else(|| Channel::usual(name.clone()))
    }
}

/// Lives of signatures.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Days after which the receiver takes silence for a freeze: the life of the TUF timestamp, which is renewed daily.
    pub timestamp_days: u64,
    /// Days for which the receiver takes an export: the life of the TUF timestamp on removable media.
    pub carry_days: u64,
}

impl Default for Trust {
    fn default() -> Self {
        Self { timestamp_days: 7, carry_days: 30 }
    }
}

fn default_rate() -> Rate {
    Rate::BitsPerS(500_000_000)
}

fn default_mtu() -> usize {
    1500
}

fn default_wire_version() -> u8 {
    2
}

fn default_repair() -> u32 {
    10
}

fn default_priority() -> u8 {
    100
}

fn default_rounds() -> u8 {
    2
}

fn default_round_gap() -> Duration {
    Duration::from_secs(600)
}

fn default_burst() -> Duration {
    Duration::from_millis(50)
}

fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    d: D,
) -> Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn some_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(d)?;
    if text == "never" {
        return Ok(None);
    }
    parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A rate window as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    from: String,
    to: String,
    rate: String,
    #[serde(default)]
    days: Vec<String>,
}

fn windows<'de, D: Deserializer<'de>>(d: D) -> Result<RateWindows, D::Error> {
    let windows = Vec::<Window>::deserialize(d)?;
    let window = |Window { from, to, rate, days }: &Window| RateWindow::parse(from, to, rate, days);
    let windows = windows.iter().map(window).collect::<Result<_, _>>().map_err(serde::de::Error::custom)?;
    RateWindows::new(windows).map_err(serde::de::Error::custom)
}

fn percent<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    parse_percent(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// Adds to an unknown key the one that was probably meant.
fn with_hint(error: toml::de::Error) -> anyhow::Error {
    let names: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let hint = match names.split_first() {
        Some((found, expected)) if error.message().starts_with("unknown field") => {
            sources::nearest(found, expected.iter().copied())
                .map(|near| format!("`{near}` is probably meant"))
        }
        _ => None,
    };
    match hint {
        Some(hint) => anyhow::anyhow!("{}\n{hint}", error.to_string().trim_end()),
        None => error.into(),
    }
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read {}; make it with: diode-sender init --dir DIR --receiver receiver.pub",
                path.display()
            )
        })?;
        let config = Self::parse(&text).with_context(|| format!("in {}", path.display()))?;
        Ok(config)
    }

    /// Reads and checks a text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut config: Self = toml::from_str(text).map_err(with_hint)?;
        config.source = sources::parse_all(text)?;
        config.producers = producers::parse(text)?;
        config.alarms.check()?;
        if !(1..=LANES_MAX).contains(&config.lane.len()) {
            bail!("expected 1 to {LANES_MAX} [[lane]], found {}", config.lane.len());
        }
        let mut names = BTreeSet::new();
        for lane in &config.lane {
            if !names.insert(&lane.name) {
                bail!("two lanes are named {}; give each a name of its own", lane.name);
            }
            lane.check()?;
        }
        for channel in &config.channel {
            if channel.rounds == 0 {
                bail!("channel {}: rounds is 0, expected 1 to 255", channel.name);
            }
        }
        check_keep(config.channel.iter().map(|channel| (&channel.name, channel.keep)))?;
        if !(1..=365).contains(&config.trust.timestamp_days) {
            bail!("trust: timestamp_days is {}, expected 1 to 365", config.trust.timestamp_days);
        }
        if !(1..=365).contains(&config.trust.carry_days) {
            bail!("trust: carry_days is {}, expected 1 to 365", config.trust.carry_days);
        }
        Ok(config)
    }

    /// Releases that each channel keeps, where that is configured.
    pub fn keep(&self) -> BTreeMap<ChannelName, usize> {
        self.channel.iter().map(|channel| (channel.name.clone(), channel.keep)).collect()
    }

    /// What each channel gets.
    pub fn channels(&self) -> Channels {
        Channels(self.channel.iter().map(|channel| (channel.name.clone(), channel.clone())).collect())
    }

    /// Where the dashboard listens if nothing is said.
    pub fn dashboard_default() -> dashboard::Listen {
        dashboard::Listen::Tcp(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 7480)))
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// What `init` writes.
    pub fn template(dir: &Path) -> String {
        format!(
            r#"# Diodesync sender. Values that are commented out are the defaults.
dir = {dir:?}

[[lane]]
name = "lane0"
# The receiver's address on the one-way path. A diode carries no ARP reply: give the interface a permanent neighbour.
to = "192.0.2.2:7400"
# from = "192.0.2.1:0"
# What the path and the receiver can take, or "max".
# rate = "500mbit"
# mtu = 1500
# Repair symbols of each round, as a share of the data.
# repair = "10%"
# The longest burst of losses to be repaired. Both sides keep rate x burst / repair share in memory.
# burst = "50ms"
# Rates by the hour (UTC); "off" holds data back. Days are those on which a window begins.
# rate_windows = [{{ from = "22:00", to = "06:00", rate = "900mbit", days = ["mon", "tue"] }}]

# More lanes are more tables: blocks go over all of them, and one that fails is made good by the others.

[[channel]]
name = "main"
# A channel with a higher priority (0 to 255) overtakes.
# priority = 100
# How often each release is sent, and the time in between.
# rounds = 2
# round_gap = "10m"
# How often everything is sent again, for what nobody has missed; "never", or for example "30d".
# full_every = "never"
# Releases that it keeps, the newest among them. What the next release builds on is kept in any case.
# keep = 2

[trust]
# Days of silence after which the receiver publishes nothing more; renewed daily.
# timestamp_days = 7
# Days for which the receiver takes what is carried to it on removable media.
# carry_days = 30

[space]
# Room that submissions leave free on the file system of the packs.
# reserve = "1GB"

# Pages, /api/v1 and /metrics, for this host alone: an address of its own, "unix:/PATH", or "off".
[dashboard]
# listen = "127.0.0.1:7480"
# Who knows the token in this file (16 to 256 characters, mode 0600) can cut a release and answer a ticket there:
# token_file = "keys/dashboard.token"
# Further names under which browsers reach it, as behind a proxy with TLS and accounts:
# hosts = ["diodesync.site.example"]

# Where alarms go besides the journal: each that is raised or over, as JSON, to a program (its standard input; no shell) and
# to a server (POST).
[alarms]
# command = ["/usr/local/bin/page", "--team", "platform"]
# webhook = "https://alerts.site.example/diodesync"
# token_file = "/etc/diodesync/alarms.token"
# ca_file = "/etc/ssl/site-ca.pem"

# What is pulled from upstreams: one table for each source. diode-sender sync pulls now; every and cron (UTC) pull by
# themselves. Credentials are in files of mode 0600: token_file, or user_file and password_file.
#[[source]]
#name = "tools"
#kind = "http"
#every = "6h"
#files = [{{ url = "https://releases.example/tool_1.0_linux_amd64.zip", sums = "tool_1.0_SHA256SUMS", into = "tools/" }}]

#[[source]]
#name = "images"
#kind = "oci"
#images = ["ghcr.io/coder/coder:v2.*"]
#newest = 2
#platforms = ["linux/amd64"]
#every = "6h"

#[[source]]
#name = "debian"
#kind = "apt"
#url = "https://archive.example/debian"
#suites = ["bookworm", "bookworm-updates"]
#architectures = ["amd64"]
#packages = ["nginx"]
#keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
#every = "1d"

#[[source]]
#name = "drop"
#kind = "directory"
#path = "/srv/drop"
#every = "5m"

# Build hosts that submit over QUIC (UDP): diode-sender submit KIND ... --to HOST:PORT. Nobody is heard without this table.
#[producers]
#listen = "0.0.0.0:7443"
#connections_max = 64
# Time in which something must come of what was announced, and for which a blob that has come in part is kept.
#stall_max = "1m"
#keep_parts = "1d"

# Each with the pin that diode-sender producer-key has printed there, and with what it may submit. Patterns are compared with
# PATH, HOST/NAMESPACE/TYPE, HOST/NAMESPACE/NAME/SYSTEM, REGISTRY/REPOSITORY:TAG or SUITE/COMPONENT/PACKAGE.
#[[producer]]
#name = "ci"
#key = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
#channels = ["main"]
#kinds = ["file", "image"]
#names = ["tools/*", "registry.site.example/ci/*"]
#unsigned = false
#bytes_max = "10GB"
#bytes_per_day = "50GB"
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_and_says_the_defaults() {
        let config = Config::parse(&Config::template(Path::new("/var/lib/x"))).unwrap();
        assert_eq!((config.lane[0].rate, config.channel[0].rounds), (Rate::BitsPerS(500_000_000), 2));
        let uncommented: String = Config::template(Path::new("/var/lib/x"))
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let explicit = Config::parse(&uncommented).unwrap();
        let strip = |mut lane: Lane| {
            lane.from = None;
            lane.rate_windows = RateWindows::default();
            format!("{lane:?}")
        };
        assert_eq!(strip(explicit.lane[0].clone()), strip(config.lane[0].clone()));
        assert_eq!(format!("{:?}", explicit.channel), format!("{:?}", config.channel));
        let unnamed = config.channels().of(&"other".parse().unwrap());
        assert_eq!(unnamed.carousel(), config.channel[0].carousel());
        assert_eq!(explicit.trust.timestamp_days, config.trust.timestamp_days);
        assert_eq!(explicit.space.reserve, config.space.reserve);
    }

    #[test]
    fn the_producers_of_the_template_are_valid_and_have_the_defaults() {
        let template = Config::template(Path::new("/var/lib/x"));
        let (before, tables) = template.split_once("#[producers]\n").unwrap();
        assert!(Config::parse(before).unwrap().producers.is_none());
        let tables = |keep: &dyn Fn(&str) -> bool| {
            let settings = tables
                .lines()
                .filter_map(|line| line.strip_prefix('#'))
                .filter(|line| !line.starts_with(' '));
            let settings: Vec<&str> = settings.filter(|line| keep(line)).collect();
            Config::parse(&format!("{before}[producers]\n{}\n", settings.join("\n")))
                .unwrap()
                .producers
                .unwrap()
        };
        let needed = ["listen", "name", "key", "kinds", "[["];
        assert_eq!(tables(&|_| true), tables(&|line| needed.iter().any(|key| line.starts_with(key))));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let good = "dir = '/x'\n[[lane]]\nname = 'a'\nto = '127.0.0.1:1'\n";
        assert!(Config::parse(good).is_ok());
        for (bad, expected) in [
            (format!("{good}ratte = '1gbit'\n"), "unknown field `ratte`"),
            (format!("{good}ratte = '1gbit'\n"), "`rate` is probably meant"),
            (
                format!("{good}[[source]]\nname = 'x'\nknid = 'http'\n"),
                "line 5, column 1: kind is missing here",
            ),
            (
                format!("{good}[[source]]\nname = 'x'\nkind = 'htp'\n"),
                "line 7, column 8: kind: there is no \"htp\"; `http`",
            ),
            (
                format!("{good}[[source]]\nname = 'x'\nkind = 'directory'\npath = '/d'\nsetle = '1m'\n"),
                "line 9, column 1: a source of kind directory has no key `setle`; `settle` is probably meant",
            ),
            (
                format!(
                    "{good}[[source]]\nname = 'x'\nkind = 'directory'\npath = '/d'\ncron = '0 0 31 2 *'\n"
                ),
                "line 9, column 8: cron: expected times that come",
            ),
            (
                format!(
                    "{good}[[source]]\nname = 'x'\nkind = 'directory'\npath = '/d'\ntoken_file = 'token'\n"
                ),
                "line 9, column 14: token_file: expected an absolute path",
            ),
            (
                format!("{good}{}", "[[source]]\nname = 'x'\nkind = 'directory'\npath = '/d'\n".repeat(2)),
                "line 10, column 8: two sources are named x",
            ),
            (format!("{good}rate = '1gib'\n"), "line 5"),
            (format!("{good}[space]\nreserve = '1 lot'\n"), "expected a size"),
            (format!("{good}[[channel]]\nname = 'main'\nkeep = 0\n"), "keep is 0"),
            (format!("{good}[[channel]]\nname = 'a'\n[[channel]]\nname = 'a'\n"), "configured twice"),
            (format!("{good}[[channel]]\nname = 'main'\nrounds = 0\n"), "rounds is 0"),
            (format!("{good}[[channel]]\nname = 'Main'\n"), "a channel name"),
            (format!("{good}rate_windows = [{{ from = '1:00', to = '02:00', rate = 'off' }}]\n"), "line 5"),
            (
                format!(
                    "{good}rate_windows = [{{ from = '22:00', to = '06:00', rate = 'off' }}, {{ from = '05:00', to = \
                     '07:00', rate = '1gbit' }}]\n"
                ),
                "overlap on mon at 05:00",
            ),
            (format!("{good}mtu = 90\n"), "mtu is 90"),
            (format!("{good}repair = '40%'\n"), "repair is 40%"),
            (format!("{good}[[lane]]\nname = 'a'\nto = '127.0.0.1:2'\n"), "two lanes are named a"),
            (format!("dir = '/x'\n{}", "[[lane]]\nname = 'b'\nto = '127.0.0.1:2'\n".repeat(9)), "found 9"),
            ("dir = '/x'\n".to_owned(), "missing field `lane`"),
        ] {
            let error = format!("{:#}", Config::parse(&bad).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
