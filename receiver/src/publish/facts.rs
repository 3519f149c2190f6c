//! What the publisher must not forget.
//!
//! ```text
//! DIR/trust                      the TUF metadata that was accepted last
//! DIR/releases/CHANNEL/N.index   accepted indexes
//! DIR/releases/CHANNEL/N.judged  the newest metadata that names it, where mirror hosts are fed
//! DIR/published/CHANNEL          the number of the release that is served
//! DIR/approvals/CHANNEL/N        what approvers have said of an accepted release, as they signed it
//! DIR/before/CHANNEL             the numbers of those that were served before it, oldest first
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::fact;
use diodesync::release::approval::Approval;
use diodesync::release::index::Index;
use diodesync::trust::TrustState;

use crate::handover::Judged;

/// The publisher's facts.
#[derive(Debug)]
pub struct Facts {
    dir: PathBuf,
}

impl Facts {
    /// In the receiver's folder.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        for sub in ["releases", "published", "before", "approvals"] {
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

    /// Where an accepted index is.
    pub fn index_path(&self, channel: &Channel, number: ReleaseNo) -> PathBuf {
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

    /// Where the newest metadata is that names a release.
    pub fn judged_path(&self, channel: &Channel, number: ReleaseNo) -> PathBuf {
        self.dir.join("releases").join(channel.as_str()).join(format!("{number}.judged"))
    }

    /// Records it.
    pub fn record_judged(&self, channel: &Channel, number: ReleaseNo, judged: &Judged) -> anyhow::Result<()> {
        Ok(fact::write(&self.judged_path(channel, number), &judged.encode())?)
    }

    /// Reads it; none if it was not kept.
    pub fn judged(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Option<Judged>> {
        let path = self.judged_path(channel, number);
        let damaged = || format!("{} is damaged", path.display());
        let Some(content) = fact::read(&path).with_context(damaged)? else { return Ok(None) };
        Judged::parse(&content).with_context(damaged).map(Some)
    }

    /// The roots in the newest metadata that was kept for mirror hosts; none if there is none that can be read.
    pub fn newest_roots(&self) -> Vec<Vec<u8>> {
        let mut newest: Option<Judged> = None;
        for channel in self.channels().unwrap_or_default() {
            for number in self.numbers(&channel).unwrap_or_default() {
                let judged = self.judged(&channel, number).ok().flatten();
                if judged.as_ref().map(Judged::version) > newest.as_ref().map(Judged::version) {
                    newest = judged;
                }
            }
        }
        newest.map(|judged| judged.bundle.roots).unwrap_or_default()
    }

    /// The channels of which there are accepted indexes.
    pub fn channels(&self) -> anyhow::Result<Vec<Channel>> {
        Ok(entries(&self.dir.join("releases"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The accepted indexes of a channel.
    pub fn numbers(&self, channel: &Channel) -> anyhow::Result<BTreeSet<ReleaseNo>> {
        let names = entries(&self.dir.join("releases").join(channel.as_str()))?;
        Ok(names
            .iter()
            .filter_map(|name| Some(ReleaseNo(name.strip_suffix(".index")?.parse().ok()?)))
            .collect())
    }

    /// Removes the indexes of a channel that are not among these.
    pub fn forget_others(&self, channel: &Channel, kept: &BTreeSet<ReleaseNo>) -> anyhow::Result<()> {
        for number in self.numbers(channel)?.difference(kept) {
            let path = self.index_path(channel, *number);
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            for beside in [self.decisions_path(channel, *number), self.judged_path(channel, *number)] {
                if let Err(error) = std::fs::remove_file(&beside)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    return Err(error).with_context(|| format!("cannot remove {}", beside.display()));
                }
            }
            tracing::info!(%channel, release = number.0, "release forgotten");
        }
        Ok(fact::sync_dir(&self.dir.join("releases").join(channel.as_str()))?)
    }

    /// The releases of a channel that were served before, oldest first.
    pub fn before(&self, channel: &Channel) -> anyhow::Result<Vec<ReleaseNo>> {
        let path = self.dir.join("before").join(channel.as_str());
        let Some(content) = fact::read(&path)? else { return Ok(Vec::new()) };
        serde_json::from_slice(&content)
            .with_context(|| format!("the fact file {} is damaged", path.display()))
    }

    /// Records which releases of a channel were served before, the last `keep` of them.
    pub fn record_before(&self, channel: &Channel, before: &[ReleaseNo], keep: usize) -> anyhow::Result<()> {
        let before = before.get(before.len().saturating_sub(keep)..).unwrap_or_default();
        let path = self.dir.join("before").join(channel.as_str());
        Ok(fact::write(&path, &serde_json::to_vec(before)?)?)
    }

    fn decisions_path(&self, channel: &Channel, number: ReleaseNo) -> PathBuf {
        self.dir.join("approvals").join(channel.as_str()).join(number.to_string())
    }

    /// What approvers have said of a release, in the order in which it came.
    pub fn decisions(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Vec<Approval>> {
        let path = self.decisions_path(channel, number);
        let Some(content) = fact::read(&path)? else { return Ok(Vec::new()) };
        let damaged = || {
            format!(
                "the fact file {} is damaged; remove it and have the approvers sign again",
                path.display()
            )
        };
        let texts: Vec<String> = serde_json::from_slice(&content).with_context(damaged)?;
        texts.iter().map(|text| Approval::parse(text).with_context(damaged)).collect()
    }

    /// Records what approvers have said of a release.
    pub fn record_decisions(
        &self,
        channel: &Channel,
        number: ReleaseNo,
        decisions: &[Approval],
    ) -> anyhow::Result<()> {
        let path = self.decisions_path(channel, number);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let texts: Vec<String> = decisions.iter().map(ToString::to_string).collect();
        Ok(fact::write(&path, &serde_json::to_vec_pretty(&texts)?)?)
    }

    /// The newest accepted release of each channel.
    pub fn accepted(&self) -> anyhow::Result<BTreeMap<Channel, ReleaseNo>> {
        let mut newest = BTreeMap::new();
        for channel in self.channels()? {
            if let Some(number) = self.numbers(&channel)?.last() {
                newest.insert(channel, *number);
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
