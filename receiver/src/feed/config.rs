//! `[feed]` of the receiver at the diode, and `[upstream]` of a mirror host.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::bail;
use diodesync::id::Channel;
use diodesync_control::quic::Pin;
use serde::Deserialize;

/// Mirror hosts of a receiver.
const HOSTS_MAX: usize = 256;
/// Characters of a host's name.
const NAME_CHARS_MAX: usize = 32;

/// `[feed]`: the mirror hosts that follow this receiver.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Where they connect.
    pub listen: SocketAddr,
    /// They.
    #[serde(default)]
    pub host: Vec<FeedHost>,
}

/// `[[feed.host]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedHost {
    /// Its name, for people.
    pub name: String,
    /// The pin that its `init` has shown.
    pub key: Pin,
    /// The channels that it gets; all, if nothing is said.
    pub channels: Option<Vec<Channel>>,
}

/// `[upstream]`: the receiver that a mirror host follows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it feeds, `HOST:PORT`.
    pub from: String,
    /// Its pin.
    pub pin: Pin,
}

impl Feed {
    /// Refuses what contradicts itself.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.host.len() > HOSTS_MAX {
            bail!("feed: expected at most {HOSTS_MAX} [[feed.host]], found {}", self.host.len());
        }
        let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for FeedHost { name, key, channels } in &self.host {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !(1..=NAME_CHARS_MAX).contains(&name.len()) || !name.chars().all(is_plain) {
                bail!(
                    "feed: expected a host's name of 1 to {NAME_CHARS_MAX} of a-z, 0-9 and -, found {name:?}"
                );
            }
            if !names.insert(name) {
                bail!("feed: two hosts are named {name}; give each a name of its own");
            }
            if !keys.insert(key) {
                bail!("feed: host {name} has the key of another one; each mirror host makes its own");
            }
            if channels.as_ref().is_some_and(Vec::is_empty) {
                bail!("feed: host {name} gets no channel; name some, or leave channels out for all of them");
            }
        }
        Ok(())
    }
}

impl FeedHost {
    /// Whether it gets a channel.
    pub fn gets(&self, channel: &Channel) -> bool {
        self.channels.as_ref().is_none_or(|channels| channels.contains(channel))
    }
}

impl Upstream {
    /// Refuses what is no address.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_address = self
            .from
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_address {
            bail!(
                "upstream: from: expected HOST:PORT, like gateway.site.example:7444, found {:?}",
                self.from
            );
        }
        Ok(())
    }
}
