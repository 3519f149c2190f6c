//! `list` and `withdraw`: what a channel's next release would serve, and taking things out of it.
//!
//! ```text
//! DIR/withdrawn/CHANNEL   names that the next release does not serve any more (fact), until it is cut
//! ```
//!
//! What was withdrawn is served on the high side until the next release is published there, and stays readable by digest
//! for as long as the release before is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use diodesync::audit::{self, Event};
use diodesync::id::Channel;
use diodesync::pack::fact;
use diodesync_control::audit::Tell;
use serde::{Deserialize, Serialize};

use crate::store::Store;

/// The names that were withdrawn from each channel.
pub type Withdrawn = BTreeMap<Channel, BTreeSet<String>>;

/// What an operator asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The channel.
    pub channel: Channel,
    /// Names as `list` shows them; with a `*` at the end, all that begin so.
    pub names: Vec<String>,
}

/// What a channel's next release would serve, and what it would not any more.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The channel.
    pub channel: Channel,
    /// Names of artifacts.
    pub artifacts: Vec<String>,
    /// Names that were withdrawn since the newest release.
    pub withdrawn: Vec<String>,
}

/// Reads the facts.
pub fn open(dir: &Path) -> anyhow::Result<Withdrawn> {
    let folder = dir.join("withdrawn");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut withdrawn = Withdrawn::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let channel = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(channel) = channel
            && let Some(content) = fact::read(&path)?
        {
            let names = serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", path.display()))?;
            withdrawn.insert(channel, names);
        }
    }
    Ok(withdrawn)
}

/// Records what is withdrawn from a channel.
pub fn record(dir: &Path, channel: &Channel, names: &BTreeSet<String>) -> anyhow::Result<()> {
    let path = dir.join("withdrawn").join(channel.as_str());
    Ok(fact::write(&path, &serde_json::to_vec(names)?)?)
}

/// What a channel holds.
pub fn list(store: &Store, channel: &Channel) -> Listing {
    let artifacts = store.present(channel).keys().map(ToString::to_string).collect();
    let withdrawn = store.withdrawn(channel).iter().cloned().collect();
    Listing { channel: channel.clone(), artifacts, withdrawn }
}

/// Takes names out of a channel's next release; those that it took.
///
/// # Errors
/// A name that nothing has; then nothing is withdrawn.
pub fn withdraw(store: &mut Store, request: &Request, tell: &Tell<'_>) -> anyhow::Result<Vec<String>> {
    let present: Vec<String> = store.present(&request.channel).keys().map(ToString::to_string).collect();
    let mut taken = BTreeSet::new();
    for asked in &request.names {
        let is_it = |name: &&String| match asked.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *name == asked,
        };
        let before = taken.len();
        taken.extend(present.iter().filter(is_it).cloned());
        if taken.len() == before && !present.iter().any(|name| is_it(&name)) {
            bail!(
                "channel {} has no {asked:?}; names are as diode-sender list shows them, like \"image ghcr.io/a/b:v1\"",
                request.channel
            );
        }
    }
    if taken.len() == present.len() && !present.is_empty() {
        tracing::warn!(channel = %request.channel, "the next release of this channel serves nothing");
    }
    let (channel, artifacts) = (request.channel.clone(), taken.len());
    tell(Event::Withdrawn { channel, artifacts, names: audit::names(&taken) })?;
    store.withdraw(&request.channel, taken.clone())?;
    Ok(taken.into_iter().collect())
}
