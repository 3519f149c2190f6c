//! The judgement of what arrived: trust bundles by TUF, indexes by what the accepted metadata names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use diodesync::audit::Event;
use diodesync::id::{BlockId, Channel, ReleaseNo, Sha256};
use diodesync::pack::{PackError, fact};
use diodesync::release::index::{Index, NeededBlock};
use diodesync::trust::{Bundle, Target, TrustError, TrustState, target_name, verify};
use diodesync::wire::ObjectId;
use diodesync_control::clock_ms;

use super::arrival::Arrival;
use super::{INBOX_MAX, Publisher};
use crate::handover::{Judged, Order};
use crate::link_keys;

impl Publisher {
    /// Trust first, then the indexes that it names.
    pub(super) fn judge_inbox(&mut self) -> anyhow::Result<()> {
        if self.input.is_mirror_host {
            self.judge_told()?;
        } else {
            for object in self.input.inbox.list()? {
                if let ObjectId::Trust(_) = object {
                    self.judge_trust(object)?;
                }
            }
            self.judge_indexes()?;
        }
        // Indexes that no metadata has named: some may have overtaken theirs, a heap of them has not.
        let unnamed = self.input.inbox.list()?;
        self.unnamed.retain(|object, _| unnamed.contains(object));
        let surplus = unnamed.len().saturating_sub(INBOX_MAX);
        self.expired.retain(|object, _| unnamed.contains(object));
        unnamed.into_iter().take(surplus).try_for_each(|object| self.input.inbox.remove(object))?;
        Ok(())
    }

    fn judge_indexes(&mut self) -> anyhow::Result<()> {
        for object in self.input.inbox.list()? {
            if let ObjectId::Index(_) = object {
                self.judge_index(object)?;
            }
        }
        Ok(())
    }

    /// On a mirror host: the older metadata first, and behind each the indexes that it names, because newer metadata may not
    /// name them any more. Whether it has expired was judged on arrival, at the diode, and is not judged again.
    fn judge_told(&mut self) -> anyhow::Result<()> {
        let mut told = Vec::new();
        for path in self.input.inbox.list_judged()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match self.read_told(&path) {
                Ok(judged) => told.push((judged, path)),
                Err(error) => {
                    let text =
                        format!("the metadata {name} from upstream is refused: {error:#}; it is told again");
                    tracing::warn!("{text}");
                    self.set_refused(Some(text));
                    remove(&path)?;
                }
            }
        }
        told.sort_by_key(|(judged, _)| judged.version());
        for (judged, path) in told {
            match verify(&self.trust, &judged.bundle, judged.judged_s) {
                Ok((trust, targets)) => self.take_trust(trust, targets, judged.bundle.roots)?,
                Err(error) => {
                    let text = format!("metadata from upstream is refused: {error}");
                    tracing::warn!("{text}");
                    self.set_refused(Some(text));
                }
            }
            self.judge_indexes()?;
            remove(&path)?;
        }
        self.judge_indexes()
    }

    fn read_told(&self, path: &Path) -> anyhow::Result<Judged> {
        let octets = fact::read(path)?.context("it is gone")?;
        Ok(Judged::parse(&octets)?)
    }

    /// What a damaged disk garbled is no fact: it comes again.
    fn read_inbox(&self, object: ObjectId) -> anyhow::Result<Option<Vec<u8>>> {
        match self.input.inbox.read(object) {
            Err(PackError::Damaged { why, .. }) => {
                let text =
                    format!("{object} was garbled on the disk; it is removed, and must come again: {why}");
                tracing::warn!("{text}");
                self.set_refused(Some(text));
                self.input.inbox.remove(object)?;
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    fn judge_trust(&mut self, object: ObjectId) -> anyhow::Result<()> {
        let now_s = self.judging_s();
        // It waits for the clock to be set; at a later time it is no better.
        if self.clocks.why_held().is_some() || self.expired.get(&object).is_some_and(|then| *then <= now_s) {
            return Ok(());
        }
        let Some(octets) = self.read_inbox(object)? else { return Ok(()) };
        let judged = Bundle::parse(&octets)
            .map_err(anyhow::Error::from)
            .and_then(|bundle| Ok((verify(&self.trust, &bundle, now_s)?, bundle.roots)));
        match judged {
            Ok(((trust, targets), roots)) => {
                self.take_trust(trust, targets, roots)?;
                // Older ones are of no use any more.
                for object in std::mem::take(&mut self.expired).into_keys().filter(|other| *other != object) {
                    self.input.inbox.remove(object)?;
                }
            }
            Err(error) => {
                let trust_error = error.downcast_ref::<TrustError>();
                let is_about_time = trust_error.is_some_and(TrustError::is_about_time);
                let mut text = format!("{object}: {error:#}");
                if let (Some(TrustError::Rollback { .. }), Some(line)) = (trust_error, self.restore_with()) {
                    text = format!("{text}; here: {line}");
                }
                tracing::warn!("refused: {text}");
                self.set_refused(Some(text));
                if is_about_time {
                    self.expired.insert(object, now_s);
                    return Ok(());
                }
            }
        }
        Ok(self.input.inbox.remove(object)?)
    }

    /// Goes by metadata that was found good.
    fn take_trust(
        &mut self,
        trust: TrustState,
        targets: BTreeMap<String, Target>,
        roots: Vec<Vec<u8>>,
    ) -> anyhow::Result<()> {
        if trust != self.trust {
            self.tell_trust(&trust)?;
            self.facts.record_trust(&trust)?;
            self.trust = trust;
        }
        if let Some(keys) = link_keys::record(&self.input.dir, &self.trust)? {
            tracing::info!(keys = keys.len(), "the metadata names the link keys that may sign sessions");
            self.input.orders.send(Order::Senders(keys));
        }
        self.targets = targets;
        self.roots = roots;
        self.set_refused(None);
        self.keep_for_hosts()
    }

    /// Keeps the newest metadata of each release that it names, so that mirror hosts can judge it when it is published.
    pub(super) fn keep_for_hosts(&self) -> anyhow::Result<()> {
        let Some(accepted) = self.trust.accepted.as_ref().filter(|_| self.input.feeds) else { return Ok(()) };
        let arriving =
            self.arrivals.values().map(|arrival| (&arrival.index().channel, arrival.index().number));
        let published = self.published.iter().map(|(channel, number)| (channel, *number));
        let is_named = |(channel, number): &(&Channel, ReleaseNo)| {
            self.targets.contains_key(&target_name(channel, *number))
        };
        for (channel, number) in published.chain(arriving).filter(is_named) {
            let roots = match self.roots.as_slice() {
                [] => vec![self.trust.root.clone().into_bytes()],
                roots => roots.to_vec(),
            };
            let bundle = Bundle {
                roots,
                timestamp: accepted.timestamp.clone().into_bytes(),
                snapshot: accepted.snapshot.clone().into_bytes(),
                targets: accepted.targets.clone().into_bytes(),
            };
            // One that is damaged is written anew.
            let before = self.facts.judged(channel, number).ok().flatten();
            if before.is_none_or(|before| before.bundle != bundle) {
                self.facts.record_judged(channel, number, &Judged { judged_s: accepted.judged_s, bundle })?;
            }
        }
        Ok(())
    }

    fn judge_index(&mut self, object: ObjectId) -> anyhow::Result<()> {
        let Some(octets) = self.read_inbox(object)? else { return Ok(()) };
        let digest = Sha256::of(&octets);
        let target = self
            .targets
            .iter()
            .find(|(_, target)| target.sha256 == digest && target.bytes == octets.len() as u64);
        let Some((name, _)) = target.map(|(name, target)| (name.clone(), target.clone())) else {
            return self.judge_unnamed(object, &octets);
        };
        match Index::parse(&octets) {
            Ok(index) if target_name(&index.channel, index.number) == name => {
                let newest = self.newest(&index.channel);
                if newest.is_some_and(|newest| index.number < newest) {
                    let text = format!(
                        "release {} {} is older than {}, the newest seen",
                        index.channel,
                        index.number,
                        newest.map_or(0, |n| n.0)
                    );
                    tracing::warn!("{text}");
                    self.set_refused(Some(text));
                } else if let Some(block) = self.contradiction(&index) {
                    let text = format!(
                        "release {} {} names another content for block {block}, which an accepted release needs: what was \
                         sent never changes. If the sender was restored from a backup, set up a new link",
                        index.channel, index.number
                    );
                    tracing::warn!("{text}");
                    self.set_refused(Some(text));
                } else if newest != Some(index.number) {
                    self.teller.tell(Event::Arrived {
                        channel: index.channel.clone(),
                        number: index.number,
                        index: digest,
                        artifacts: index.artifacts.len(),
                        bytes: index.blob_bytes(),
                    })?;
                    self.facts.record_index(&index)?;
                    self.accept(index);
                    self.keep_for_hosts()?;
                }
            }
            Ok(index) => {
                let text =
                    format!("the index named {name} says that it is {} {}", index.channel, index.number);
                tracing::warn!("{text}");
                self.set_refused(Some(text));
            }
            Err(error) => {
                tracing::warn!(%object, %error, "refused");
                self.set_refused(Some(format!("{name}: {error}")));
            }
        }
        Ok(self.input.inbox.remove(object)?)
    }

    /// An index that no accepted metadata names. It may have come before its metadata, so it waits; the metadata may have
    /// gone on, so one that is older goes; and somebody may send what nobody has signed, so it is shown if it stays.
    fn judge_unnamed(&mut self, object: ObjectId, octets: &[u8]) -> anyhow::Result<()> {
        let is_older = Index::parse(octets).is_ok_and(|index| {
            let numbers = self.targets.keys().filter_map(|name| name.strip_suffix(".index")?.split_once('/'));
            let mut numbers = numbers.filter(|(channel, _)| *channel == index.channel.as_str());
            numbers.any(|(_, number)| number.parse().is_ok_and(|number: u64| index.number.0 < number))
        });
        if is_older {
            tracing::info!(%object, "an index of an older release, which no metadata names any more; removed");
            self.input.inbox.remove(object)?;
        } else {
            self.unnamed.entry(object).or_insert_with(clock_ms);
        }
        Ok(())
    }

    /// A block of which an index says something else than a release that is served, or than one of another channel that
    /// arrives. To take it would destroy what is served.
    fn contradiction(&self, index: &Index) -> Option<BlockId> {
        let served = self.input.site.load();
        let others =
            self.arrivals.values().map(Arrival::index).filter(|other| other.channel != index.channel);
        let kept: std::collections::HashMap<BlockId, NeededBlock> = served
            .releases()
            .iter()
            .chain(others)
            .flat_map(|release| release.blocks())
            .map(|block| (block.id, block))
            .collect();
        index
            .blocks()
            .find(|block| kept.get(&block.id).is_some_and(|kept| kept != block))
            .map(|block| block.id)
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
