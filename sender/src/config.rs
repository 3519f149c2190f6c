//! `sender.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::Channel;
use diodesync::limits::{DATAGRAM_BYTES_MAX, LANE_SYMBOL_BYTES_MIN};
use diodesync::quantity::{Rate, parse_bytes, parse_duration, parse_percent};
use diodesync::release::retention::KEEP_DEFAULT;
use diodesync::wire::symbol_bytes_for_mtu;
use serde::{Deserialize, Deserializer};

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
    /// Channels of which something else holds than the defaults.
    #[serde(default)]
    pub channel: Vec<ChannelConfig>,
    /// Lives of signatures.
    #[serde(default)]
    pub trust: Trust,
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

/// What is particular to a channel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// Its name.
    pub name: Channel,
    /// Releases that are kept, the one in use among them.
    #[serde(default = "default_keep")]
    pub keep: usize,
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
    /// Its name in status and logs.
    pub name: String,
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
    /// How often a release is sent.
    #[serde(default = "default_rounds")]
    pub rounds: u8,
    /// The time from the end of one round to the start of the next.
    #[serde(default = "default_round_gap", deserialize_with = "duration")]
    pub round_gap: Duration,
    /// The longest burst of losses that the repair symbols must cover. Memory on both sides grows with it.
    #[serde(default = "default_burst", deserialize_with = "duration")]
    pub burst: Duration,
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

fn default_repair() -> u32 {
    10
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

fn percent<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    parse_percent(&String::deserialize(d)?).map_err(serde::de::Error::custom)
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
        let config: Self = toml::from_str(text)?;
        let [lane] = config.lane.as_slice() else {
            bail!("expected one [[lane]], found {}: this version sends on one lane", config.lane.len());
        };
        if symbol_bytes_for_mtu(lane.mtu) < LANE_SYMBOL_BYTES_MIN || lane.mtu > DATAGRAM_BYTES_MAX {
            bail!("lane {}: mtu is {}, expected 576 to {DATAGRAM_BYTES_MAX}", lane.name, lane.mtu);
        }
        if lane.repair > REPAIR_PERCENT_MAX {
            bail!(
                "lane {}: repair is {}%, expected 0% to {REPAIR_PERCENT_MAX}%: a block has no more repair symbols; more \
                 rounds repair more",
                lane.name,
                lane.repair
            );
        }
        if lane.rounds == 0 {
            bail!("lane {}: rounds is 0, expected 1 to 255", lane.name);
        }
        check_keep(&config.channel)?;
        if !(1..=365).contains(&config.trust.timestamp_days) {
            bail!("trust: timestamp_days is {}, expected 1 to 365", config.trust.timestamp_days);
        }
        if !(1..=365).contains(&config.trust.carry_days) {
            bail!("trust: carry_days is {}, expected 1 to 365", config.trust.carry_days);
        }
        Ok(config)
    }

    /// Releases that each channel keeps, where that is configured.
    pub fn keep(&self) -> BTreeMap<Channel, usize> {
        self.channel.iter().map(|channel| (channel.name.clone(), channel.keep)).collect()
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
# How often each release is sent, and the time in between.
# rounds = 2
# round_gap = "10m"
# The longest burst of losses to be repaired. Both sides keep rate x burst / repair share in memory.
# burst = "50ms"

[trust]
# Days of silence after which the receiver publishes nothing more; renewed daily.
# timestamp_days = 7
# Days for which the receiver takes what is carried to it on removable media.
# carry_days = 30

[space]
# Room that submissions leave free on the file system of the packs.
# reserve = "1GB"

# Releases that a channel keeps, the newest among them. What the next release builds on is kept in any case.
#[[channel]]
#name = "main"
#keep = 2
"#
        )
    }
}

fn check_keep(channels: &[ChannelConfig]) -> anyhow::Result<()> {
    for (at, channel) in channels.iter().enumerate() {
        if channel.keep == 0 {
            bail!(
                "channel {}: keep is 0, expected 1 or more: the release in use is always kept",
                channel.name
            );
        }
        if channels.iter().take(at).any(|other| other.name == channel.name) {
            bail!("channel {} is configured twice", channel.name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_and_says_the_defaults() {
        let config = Config::parse(&Config::template(Path::new("/var/lib/x"))).unwrap();
        assert_eq!((config.lane[0].rate, config.lane[0].rounds), (Rate::BitsPerS(500_000_000), 2));
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
            format!("{lane:?}")
        };
        assert_eq!(strip(explicit.lane[0].clone()), strip(config.lane[0].clone()));
        assert_eq!(explicit.trust.timestamp_days, config.trust.timestamp_days);
        assert_eq!(explicit.space.reserve, config.space.reserve);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let good = "dir = '/x'\n[[lane]]\nname = 'a'\nto = '127.0.0.1:1'\n";
        assert!(Config::parse(good).is_ok());
        for (bad, expected) in [
            (format!("{good}ratte = '1gbit'\n"), "unknown field `ratte`"),
            (format!("{good}rate = '1gib'\n"), "line 5"),
            (format!("{good}[space]\nreserve = '1 lot'\n"), "expected a size"),
            (format!("{good}[[channel]]\nname = 'main'\nkeep = 0\n"), "keep is 0"),
            (format!("{good}[[channel]]\nname = 'a'\n[[channel]]\nname = 'a'\n"), "configured twice"),
            (format!("{good}rounds = 0\n"), "rounds is 0"),
            (format!("{good}mtu = 90\n"), "mtu is 90"),
            (format!("{good}repair = '40%'\n"), "repair is 40%"),
            (format!("{good}[[lane]]\nname = 'b'\nto = '127.0.0.1:2'\n"), "found 2"),
            ("dir = '/x'\n".to_owned(), "missing field `lane`"),
        ] {
            let error = format!("{:#}", Config::parse(&bad).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
