//! `receiver.toml`.

mod rules;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::{Channel, LaneId};
use diodesync::limits::LANES_MAX;
use diodesync::quantity::{parse_bytes, parse_duration};
use diodesync::release::approval::Quorum;
use diodesync::release::retention::{KEEP_DEFAULT, Keep, check_keep};
use diodesync_control::quic::Pin;
use diodesync_control::{alarms, dashboard};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use self::rules::{ApproverConfig, PolicyConfig};
use crate::feed::{Feed, Upstream};
use crate::mirror::{MirrorConfig, parse_mirrors};
use crate::scan::ScanConfig;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where keys, packs, releases and the journal are.
    pub dir: PathBuf,
    /// The one-way paths.
    #[serde(default)]
    pub lane: Vec<Lane>,
    /// Whom a mirror host follows, in place of lanes.
    pub upstream: Option<Upstream>,
    /// Mirror hosts that follow this receiver.
    pub feed: Option<Feed>,
    /// Room on the disk.
    #[serde(default)]
    pub space: Space,
    /// Channels of which something else holds than the defaults.
    #[serde(default)]
    pub channel: Vec<ChannelConfig>,
    /// Which artifacts may be published.
    policy: Option<PolicyConfig>,
    /// What looks for malware.
    pub scan: Option<ScanConfig>,
    /// Whose approvals count.
    #[serde(default)]
    approver: Vec<ApproverConfig>,
    /// The mirror.
    pub serve: Serve,
    /// The archive of Debian packages.
    #[serde(default)]
    pub apt: Apt,
    /// What is believed.
    #[serde(default)]
    pub trust: Trust,
    /// Mirrors that are pushed to.
    #[serde(default, rename = "mirror", deserialize_with = "read_apart")]
    pub mirrors: Vec<MirrorConfig>,
    /// Pages, API and metrics for this host.
    #[serde(default)]
    pub dashboard: dashboard::Config,
    /// Where alarms go.
    #[serde(default)]
    pub alarms: alarms::Config,
}

/// Passes over tables that are read key by key, to name the place of a mistake.
fn read_apart<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<MirrorConfig>, D::Error> {
    IgnoredAny::deserialize(d).map(|_| Vec::new())
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

/// A time, as it is written.
pub(crate) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
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
    /// Days within which releases that were in use are kept too.
    pub keep_days: Option<u32>,
    /// How many approvers its releases need.
    #[serde(default)]
    pub approval: Quorum,
}

/// The longest time that releases are kept for, a hundred years.
const DAYS_MAX: u32 = 36_525;

fn default_keep() -> usize {
    KEEP_DEFAULT
}

/// A size, as it is written.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
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
        let mut config: Self = toml::from_str(text)?;
        config.mirrors = parse_mirrors(text)?;
        config.alarms.check()?;
        match (&config.upstream, config.lane.len()) {
            (None, 1..=LANES_MAX) => {}
            (None, found) => {
                bail!(
                    "expected 1 to {LANES_MAX} [[lane]], or [upstream] on a mirror host; found {found} [[lane]]"
                )
            }
            (Some(upstream), 0) => upstream.check()?,
            (Some(_), _) => bail!(
                "found [[lane]] and [upstream]: a receiver has lanes, at a diode, or follows another one, as a mirror host"
            ),
        }
        if config.upstream.is_some() && config.feed.is_some() {
            bail!(
                "found [upstream] and [feed]: a mirror host feeds no others; they follow the receiver at the diode"
            );
        }
        config.feed.iter().try_for_each(Feed::check)?;
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
        if let Some(channel) =
            config.channel.iter().find(|channel| channel.keep_days.is_some_and(|days| days > DAYS_MAX))
        {
            bail!("channel {}: expected keep_days of {DAYS_MAX} at most", channel.name);
        }
        config.check_rules()?;
        config.scan.iter().try_for_each(|scan| scan.scanner().map(drop))?;
        if config.serve.hosts.is_empty() {
            bail!("serve: hosts is empty; give at least the name under which clients reach this mirror");
        }
        Ok(config)
    }

    /// What each channel keeps, where that is configured.
    pub fn keep(&self) -> BTreeMap<Channel, Keep> {
        let keep = |channel: &ChannelConfig| {
            let span = channel.keep_days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
            (channel.name.clone(), Keep { releases: channel.keep, span })
        };
        self.channel.iter().map(keep).collect()
    }

    /// Where the dashboard listens if nothing is said.
    pub fn dashboard_default() -> dashboard::Listen {
        dashboard::Listen::Tcp(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 7481)))
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// What `init` writes of the lanes.
    pub fn lanes_template() -> String {
        r#"# Up to 8, each with the name that it has on the sender.
[[lane]]
name = "lane0"
# The address at the end of the one-way path. Nothing is ever sent from it.
listen = "0.0.0.0:7400"

# Mirror hosts: receivers on other hosts that follow this one; README, "Mirror hosts":
#[feed]
#listen = "0.0.0.0:7444"
#[[feed.host]]
#name = "berlin"
#key = "sha256:64 hexadecimal digits"  # as its diode-receiver init shows it
#channels = ["main"]               # without this line: all
"#
        .to_owned()
    }

    /// What `init` writes of whom a mirror host follows.
    pub fn upstream_template(from: &str, pin: Pin) -> String {
        format!(
            r#"# The receiver at the diode, which this mirror host follows.
[upstream]
from = {from:?}
pin = "{pin}"
"#
        )
    }

    /// What `init` writes; `origin` says where releases come from.
    pub fn template(dir: &Path, hosts: &[String], origin: &str) -> String {
        let credentials = dir.join("credentials");
        let credentials = credentials.display();
        format!(
            r#"# Diodesync receiver.
dir = {dir:?}

{origin}
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

# Releases that a channel keeps: the last so many, the published one among them, and those that were in use within so
# many days. diode-receiver gc --dry-run tells what would go.
#[[channel]]
#name = "main"
#keep = 2
#keep_days = 30
#approval = "two"                # different approvers before it is published; or "one", or "auto": none

# Who may approve, each with the key that diode-receiver approver-key made for them; README, "What may be published":
#[[approver]]
#name = "alice"
#key = "64 hexadecimal digits"
#until = "2028-01-31"

# What looks into every file of a release, archives too, before it is published.
#[scan]
#clamd = "/run/clamav/clamd.ctl"
#command = ["/usr/local/bin/scan"]  # a file on standard input; 0: clean, 1: found, anything else: unscanned
#unscanned = "deny"                # or "allow": what is too large, encrypted, damaged; or the scanner is down
#bytes_max = "100MiB"              # of one file: clamd's StreamMaxLength

# Which artifacts may be published. The first rule whose conditions all hold decides. A release with one artifact that is
# denied is not published at all.
[policy]
default = "allow"
#[[policy.rule]]
#name = "providers"
#then = "allow"                  # or "deny"
#kinds = ["provider"]            # file, provider, module, image, package
#names = ["registry.terraform.io/coder/*"]
#versions = ">= 2, < 3"
#platforms = ["linux/amd64"]
#signers = ["whole fingerprint of an OpenPGP key"]
#bytes_max = "500MB"
#channels = ["main"]

# Mirrors of the site's own that follow what is published, each with a name; README, "The site's own mirrors":
#[[mirror]]
#name = "harbor"
#kind = "oci"
#registry = "harbor.site.example"
#map = [{{ from = "ghcr.io/coder/*", to = "harbor.site.example/coder/*" }}]
#user_file = "{credentials}/harbor.user"
#password_file = "{credentials}/harbor.password"
#ca_file = "/etc/ssl/site-ca.pem"
#
#[[mirror]]
#name = "providers"
#kind = "terraform-tree"         # or "files-tree"
#path = "/srv/diodesync/terraform"

[trust]
# A greater difference of the two clocks holds publication until a clock is set, or: diode-receiver acknowledge-clock
# skew_max = "5m"

# Pages, /api/v1 and /metrics, for this host alone: an address of its own, "unix:/PATH", or "off".
[dashboard]
# listen = "127.0.0.1:7481"
# Further names under which browsers reach it, as behind a proxy with TLS and accounts:
# hosts = ["diodesync.site.example"]

# Where alarms go besides the journal: each that is raised or over, as JSON, to a program (its standard input; no shell) and
# to a server (POST).
[alarms]
# command = ["/usr/local/bin/page", "--team", "platform"]
# webhook = "https://alerts.site.example/diodesync"
# token_file = "{credentials}/alarms.token"
# ca_file = "/etc/ssl/site-ca.pem"
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
        let template = |origin: &str| Config::template(Path::new("/var/lib/x"), &hosts, origin);
        let lanes = template(&Config::lanes_template());
        assert_eq!(Config::parse(&lanes).unwrap().serve.hosts, hosts);
        // What is commented out is valid, too.
        let pin = Pin(diodesync::id::Sha256([1; 32]));
        let feed = lanes.replace("#[feed", "[feed").replace("#[[feed", "[[feed").replace("#listen", "listen");
        let feed = feed.replace(
            "#name = \"berlin\"\n#key = \"sha256:64 hexadecimal digits\"",
            &format!("name = \"berlin\"\nkey = \"{pin}\""),
        );
        assert_eq!(Config::parse(&feed).unwrap().feed.unwrap().host.len(), 1);
        let host = template(&Config::upstream_template("gateway.example:7444", pin));
        assert_eq!(Config::parse(&host).unwrap().upstream.unwrap().pin, pin);
    }

    const UPSTREAM: &str = "[upstream]\nfrom = 'h:7444'\npin = 'sha256:0101010101010101010101010101010101010101010101010101010101010101'\n";
    const HOST: &str = "dir = '/x'\n[serve]\nlisten = '0.0.0.0:2'\nhosts = ['h']\n[upstream]\nfrom = 'h:7444'\npin = 'sha256:0101010101010101010101010101010101010101010101010101010101010101'\n";
    const FEED: &str = "[feed]\nlisten = '0.0.0.0:3'\n";
    const FEED_HOST: &str = "[[feed.host]]\nname = 'a'\nkey = 'sha256:0101010101010101010101010101010101010101010101010101010101010101'\n";

    #[test]
    fn mistakes_are_named() {
        let good = "dir = '/x'\n[[lane]]\nname = 'a'\nlisten = '0.0.0.0:1'\n[serve]\nlisten = '0.0.0.0:2'\nhosts = ['h']\n";
        assert!(Config::parse(good).is_ok());
        for (bad, expected) in [
            (format!("{good}hots = ['x']\n"), "unknown field `hots`"),
            (format!("{good}certificate = '/a'\n"), "belong together"),
            (format!("{good}[space]\nreserve = '1 lot'\n"), "expected a size"),
            (format!("{good}[[channel]]\nname = 'main'\nkeep = 0\n"), "keep is 0"),
            (format!("{good}[[channel]]\nname = 'main'\nkeep_days = 100000\n"), "keep_days of 36525 at most"),
            (format!("{good}[[mirror]]\nnmae = 'x'\n"), "line 8, column 1: name is missing here"),
            (format!("{good}[[channel]]\nname = 'a'\n[[channel]]\nname = 'a'\n"), "configured twice"),
            (good.replace("'a'", "'Lane 0'"), "a-z, 0-9 and -"),
            (format!("{good}[[lane]]\nname = 'a'\nlisten = '0.0.0.0:3'\n"), "two lanes are named a"),
            (format!("{good}[[lane]]\nname = 'b'\nlisten = '0.0.0.0:1'\n"), "both listen on"),
            (good.replace("['h']", "[]"), "hosts is empty"),
            (good.replace("0.0.0.0:1", "nowhere"), "line 4"),
            ("dir = '/x'\n[serve]\nlisten = '0.0.0.0:2'\nhosts = ['h']\n".to_owned(), "or [upstream]"),
            (format!("{good}{UPSTREAM}"), "found [[lane]] and [upstream]"),
            (format!("{HOST}[feed]\nlisten = '0.0.0.0:3'\n"), "a mirror host feeds no others"),
            (HOST.replace("h:7444", "h"), "expected HOST:PORT"),
            (HOST.replace("sha256:", ""), "expected a pin"),
            (format!("{good}{FEED}{FEED_HOST}{FEED_HOST}"), "two hosts are named a"),
            (
                format!("{good}{FEED}{FEED_HOST}{}", FEED_HOST.replace("'a'", "'b'")),
                "host b has the key of another one",
            ),
            (format!("{good}{FEED}{}", FEED_HOST.replace("'a'", "'A b'")), "of a-z, 0-9 and -"),
            (format!("{good}{FEED}{FEED_HOST}channels = []\n"), "host a gets no channel"),
        ] {
            let error = format!("{:#}", Config::parse(&bad).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
