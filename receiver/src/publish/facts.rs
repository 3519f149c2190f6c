//! What the publisher must not forget.
//!
//! ```text
//! DIR/trust                      the TUF metadata that was accepted last
//! DIR/releases/CHANNEL/N.index   accepted indexes
//! DIR/published/CHANNEL          the number of the release that is served
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::fact;
use diodesync::release::index::Index;
use diodesync::trust::TrustState;

/// The publisher's facts.
#[derive(Debug)]
pub struct Facts {
    dir: PathBuf,
}

impl Facts {
    /// In the receiver's folder.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        for sub in ["releases", "published"] {
            std::fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("cannot create {}", dir.join(sub).display()))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The metadata that was accepted last.
    pub fn trust(&self) -> anyhow::Result<Option<TrustState>> {
        let Some(content) = fact::read(&self.dir.join("trust"))? else { return Ok(None) };
        serde_json::from_slice(&content).context("the fact file trust is damaged").map(Some)
    }

    /// Records accepted metadata.
    pub fn record_trust(&self, trust: &TrustState) -> anyhow::Result<()> {
        Ok(fact::write(&self.dir.join("trust"), &serde_json::to_vec_pretty(trust)?)?)
    }

    fn index_path(&self, channel: &Channel, number: ReleaseNo) -> PathBuf {
        self.dir.join("releases").join(channel.as_str()).join(format!("{number}.index"))
    }

    /// Records an accepted index.
    pub fn record_index(&self, index: &Index) -> anyhow::Result<()> {
        let path = self.index_path(&index.channel, index.number);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(fact::write(&path, &index.encode())?)
    }

    /// Reads an accepted index.
    pub fn index(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Index> {
        let path = self.index_path(channel, number);
        let content = fact::read(&path)?.with_context(|| format!("{} is missing", path.display()))?;
        Index::parse(&content).with_context(|| format!("{} is damaged", path.display()))
    }

    /// The newest accepted release of each channel.
    pub fn accepted(&self) -> anyhow::Result<BTreeMap<Channel, ReleaseNo>> {
        let releases = self.dir.join("releases");
        let mut newest = BTreeMap::new();
        for channel in entries(&releases)? {
            let Ok(channel) = channel.parse::<Channel>() else { continue };
            let numbers = entries(&releases.join(channel.as_str()))?;
            let numbers = numbers.iter().filter_map(|name| name.strip_suffix(".index")?.parse().ok());
            if let Some(number) = numbers.max() {
                newest.insert(channel, ReleaseNo(number));
            }
        }
        Ok(newest)
    }

    /// What each channel serves.
    pub fn published(&self) -> anyhow::Result<BTreeMap<Channel, ReleaseNo>> {
        let folder = self.dir.join("published");
        let mut published = BTreeMap::new();
        for name in entries(&folder)? {
            let Ok(channel) = name.parse::<Channel>() else { continue };
            let content = fact::read(&folder.join(&name))?.unwrap_or_default();
            let number = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok());
            let number = number.with_context(|| format!("the fact file published/{name} holds no number"))?;
            published.insert(channel, ReleaseNo(number));
        }
        Ok(published)
    }

    /// Records what a channel serves.
    pub fn record_published(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<()> {
        let path = self.dir.join("published").join(channel.as_str());
        Ok(fact::write(&path, number.to_string().as_bytes())?)
    }
}

fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in list {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
