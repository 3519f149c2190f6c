//! `receiver.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::{Channel, LaneId};
use diodesync::limits::LANES_MAX;
use diodesync::quantity::{parse_bytes, parse_duration};
use diodesync::release::retention::{KEEP_DEFAULT, check_keep};
use serde::{Deserialize, Deserializer};

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
    /// The mirror.
    pub serve: Serve,
    /// The archive of Debian packages.
    #[serde(default)]
    pub apt: Apt,
    /// What is believed.
    #[serde(default)]
    pub trust: Trust,
}

/// The archive of Debian packages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apt {
    /// The site's OpenPGP secret key, ASCII-armored, without a passphrase, readable by its owner alone; in place of ours.
    pub signing_key: Option<PathBuf>,
}

/// What is believed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Difference of the sender's and this side's clock above which nothing is published.
    #[serde(deserialize_with = "duration")]
    pub skew_max: Duration,
}

impl Default for Trust {
    fn default() -> Self {
        Self { skew_max: Duration::from_secs(300) }
    }
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
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
    /// Its name, the same as on the sender.
    pub name: LaneId,
    /// The address to receive on.
    pub listen: SocketAddr,
}

/// The mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The address of the HTTPS listener.
    pub listen: SocketAddr,
    /// Names under which clients reach it: the names in its certificate.
    pub hosts: Vec<String>,
    /// The site's own certificate chain, PEM; with `key`, in place of ours.
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`, PEM, readable by its owner alone.
    pub key: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read {}; make it with: diode-receiver init --dir DIR", path.display())
        })?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks a text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        if !(1..=LANES_MAX).contains(&config.lane.len()) {
            bail!("expected 1 to {LANES_MAX} [[lane]], found {}", config.lane.len());
        }
        for (at, lane) in config.lane.iter().enumerate() {
            for other in config.lane.iter().take(at) {
                if other.name == lane.name {
                    bail!("two lanes are named {}; each has the name that it has on the sender", lane.name);
                }
                if other.listen == lane.listen {
                    bail!("lanes {} and {} both listen on {}", other.name, lane.name, lane.listen);
                }
            }
        }
        if config.serve.certificate.is_some() != config.serve.key.is_some() {
            bail!("serve: certificate and key belong together; give both or neither");
        }
        check_keep(config.channel.iter().map(|channel| (&channel.name, channel.keep)))?;
        if config.serve.hosts.is_empty() {
            bail!("serve: hosts is empty; give at least the name under which clients reach this mirror");
        }
        Ok(config)
    }

    /// Releases that each channel keeps, where that is configured.
    pub fn keep(&self) -> BTreeMap<Channel, usize> {
        self.channel.iter().map(|channel| (channel.name.clone(), channel.keep)).collect()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// What `init` writes.
    pub fn template(dir: &Path, hosts: &[String]) -> String {
        format!(
            r#"# Diodesync receiver.
dir = {dir:?}

# Up to 8, each with the name that it has on the sender.
[[lane]]
name = "lane0"
# The address at the end of the one-way path. Nothing is ever sent from it.
listen = "0.0.0.0:7400"

[serve]
listen = "0.0.0.0:8443"
# Names and addresses under which clients reach the mirror; they are in its certificate.
hosts = {hosts:?}
# The site's own certificate in place of ours:
# certificate = "/etc/ssl/mirror.pem"
# key = "/etc/ssl/private/mirror.key"

[apt]
# The site's OpenPGP key for the archive of packages, ASCII-armored, in place of ours (keys/site/apt.key):
# signing_key = "/etc/diodesync/apt.key"

# Room that blocks leave free on the file system of the packs.
# [space]
# reserve = "1GB"

# Releases that a channel keeps: the published one and those before it, for a while.
#[[channel]]
#name = "main"
#keep = 2

[trust]
# A greater difference of the two clocks holds publication until a clock is set, or: diode-receiver acknowledge-clock
# skew_max = "5m"
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        let hosts = ["mirror.example".to_owned(), "10.0.0.7".to_owned()];
        let config = Config::parse(&Config::template(Path::new("/var/lib/x"), &hosts)).unwrap();
        assert_eq!(config.serve.hosts, hosts);
    }

    #[test]
    fn mistakes_are_named() {
        let good = "dir = '/x'\n[[lane]]\nname = 'a'\nlisten = '0.0.0.0:1'\n[serve]\nlisten = '0.0.0.0:2'\nhosts = ['h']\n";
        assert!(Config::parse(good).is_ok());
        for (bad, expected) in [
            (format!("{good}hots = ['x']\n"), "unknown field `hots`"),
            (format!("{good}certificate = '/a'\n"), "belong together"),
            (format!("{good}[space]\nreserve = '1 lot'\n"), "expected a size"),
            (format!("{good}[[channel]]\nname = 'main'\nkeep = 0\n"), "keep is 0"),
            (format!("{good}[[channel]]\nname = 'a'\n[[channel]]\nname = 'a'\n"), "configured twice"),
            (good.replace("'a'", "'Lane 0'"), "a-z, 0-9 and -"),
            (format!("{good}[[lane]]\nname = 'a'\nlisten = '0.0.0.0:3'\n"), "two lanes are named a"),
            (format!("{good}[[lane]]\nname = 'b'\nlisten = '0.0.0.0:1'\n"), "both listen on"),
            (good.replace("['h']", "[]"), "hosts is empty"),
            (good.replace("0.0.0.0:1", "nowhere"), "line 4"),
        ] {
            let error = format!("{:#}", Config::parse(&bad).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
