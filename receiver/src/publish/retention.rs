//! Retention: after a publication, releases that nothing needs are forgotten, and the room of their blocks is given back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use diodesync::audit::{self, Event};
use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync::journal::HeldBlock;
use diodesync::quantity::Bytes;
use diodesync::release::index::Index;
use diodesync::release::retention::{Keep, Known, kept_releases};
use diodesync_control::clock_s;

use super::Publisher;
use super::ledger::Freed;
use crate::handover::Order;
use crate::serve::{MIRROR, SERVE, Serving, Site, SiteFact};

/// How often there is a look at what waits in vain for an index, or for who reads it.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often there is a look at what has become too old.
const AGING_INTERVAL: Duration = Duration::from_secs(3600);

/// What each channel keeps, and when there is something to do.
#[derive(Debug)]
pub struct Retention {
    keep: BTreeMap<Channel, Keep>,
    /// Whether something was published or superseded.
    is_asked: bool,
    has_failed: bool,
    /// Whether something stays only because somebody reads it.
    is_read_still: bool,
    /// When there is the next look.
    due: Instant,
    /// When there is the next look at ages.
    aging_due: Instant,
    /// Octets given back since the start.
    pub freed_bytes: u64,
    /// Blocks given back since the start.
    pub freed_blocks: u64,
}

impl Retention {
    /// By the configuration.
    pub fn new(keep: BTreeMap<Channel, Keep>) -> Self {
        let now = Instant::now();
        Self {
            keep,
            is_asked: true,
            has_failed: false,
            is_read_still: false,
            due: now,
            aging_due: now,
            freed_bytes: 0,
            freed_blocks: 0,
        }
    }

    /// What a channel keeps.
    pub fn keep(&self, channel: &Channel) -> Keep {
        self.keep.get(channel).copied().unwrap_or_default()
    }

    /// Takes over what channels keep; returns what they kept before.
    pub fn set_keep(&mut self, keep: BTreeMap<Channel, Keep>) -> BTreeMap<Channel, Keep> {
        std::mem::replace(&mut self.keep, keep)
    }

    /// Has it done as soon as may be.
    pub fn hurry(&mut self) {
        self.is_asked = true;
    }
}

/// What is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// Releases, by channel.
    pub numbers: BTreeMap<Channel, BTreeSet<ReleaseNo>>,
    /// Those that are not.
    pub forgotten: Vec<(Channel, ReleaseNo)>,
    /// Those that are kept only because somebody reads them still.
    pub read_still: Vec<(Channel, ReleaseNo)>,
    /// The indexes, and those that are read still.
    pub indexes: Vec<Arc<Index>>,
    /// The blocks of all of them.
    pub blocks: HashMap<BlockId, HeldBlock>,
}

impl Publisher {
    /// Forgets and frees, when it is time and the packs were looked through.
    pub(super) fn retain_some(&mut self) {
        let now = Instant::now();
        let is_aging = now >= self.retention.aging_due;
        if self.is_restoring || !(self.retention.is_asked || is_aging || now >= self.retention.due) {
            return;
        }
        let is_idle = !self.retention.is_asked
            && !self.retention.has_failed
            && !self.retention.is_read_still
            && !is_aging
            && self.input.ledger.unclaimed_bytes() == 0;
        self.retention.is_asked = false;
        self.retention.due = now + INTERVAL;
        if is_idle {
            return;
        }
        if is_aging {
            self.retention.aging_due = now + AGING_INTERVAL;
        }
        let done = self.expire_kept().and_then(|()| self.kept()).and_then(|mut kept| self.retain(&mut kept));
        let failure = done.err().map(|error| format!("{error:#}"));
        if let Some(why) = &failure {
            tracing::error!(why, "what is not kept cannot be given back; it is tried again");
        }
        self.retention.has_failed = failure.is_some();
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).retention_failure = failure;
    }

    /// Those of the releases before that are still to be read by digest: not too many, and not too old.
    fn still_kept(&self, site: &Site) -> Vec<Arc<Index>> {
        let mut kept = Vec::new();
        for channel in site.releases() {
            let mut before: Vec<_> =
                site.kept().iter().filter(|index| index.channel == channel.channel).cloned().collect();
            let cut_s: Vec<u64> = before.iter().chain([channel]).map(|index| index.created_s).collect();
            let keep = self.retention.keep(&channel.channel).count(&cut_s, clock_s());
            before.drain(..before.len().saturating_sub(keep - 1));
            kept.extend(before);
        }
        kept
    }

    /// Lets nobody read by digest any more what is not kept: for its age, or because less is kept than before the start.
    pub(super) fn expire_kept(&mut self) -> anyhow::Result<()> {
        let served = self.input.site.load();
        let kept = self.still_kept(&served);
        if kept.len() == served.kept().len() {
            return Ok(());
        }
        let site = Site::new(served.releases().to_vec(), self.input.packs.clone())?;
        let site = self.with_apt(site.keeping(kept.clone()), &served)?;
        for release in served.releases() {
            let of_channel = kept.iter().filter(|index| index.channel == release.channel);
            let numbers: Vec<ReleaseNo> = of_channel.map(|index| index.number).collect();
            self.facts.record_before(&release.channel, &numbers, numbers.len())?;
        }
        SiteFact::record(&self.input.dir, &site)?;
        self.input.site.switch(Arc::new(site));
        Ok(())
    }

    /// What is kept, and what is not.
    pub(super) fn kept(&mut self) -> anyhow::Result<Kept> {
        let mut kept = Kept::default();
        let site = self.input.site.load();
        let still_kept = self.still_kept(&site);
        // What other processes read still.
        let mut elsewhere = BTreeSet::new();
        if self.input.is_served_elsewhere {
            // What a mirror role of before said counts for nothing where there are no mirrors.
            for role in std::iter::once(SERVE).chain(self.input.has_mirrors.then_some(MIRROR)) {
                let serving = Serving::read(&self.input.dir, role)?;
                elsewhere.extend(serving.into_iter().flat_map(|serving| serving.releases));
            }
        }
        for channel in self.facts.channels()? {
            let known = self.facts.numbers(&channel)?;
            let mut numbers = self.kept_numbers(&channel, &still_kept)?;
            // What was switched to in memory and could not be recorded is served all the same.
            let here = site.releases().iter().chain(&still_kept).filter(|index| index.channel == channel);
            numbers.extend(here.map(|index| index.number));
            for (_, used) in elsewhere.iter().filter(|(of, number)| *of == channel && known.contains(number))
            {
                if numbers.insert(*used) {
                    kept.read_still.push((channel.clone(), *used));
                }
            }
            kept.forgotten.extend(known.difference(&numbers).map(|number| (channel.clone(), *number)));
            for number in &numbers {
                kept.indexes.push(self.kept_index(&channel, *number)?);
            }
            kept.numbers.insert(channel, numbers);
        }
        // Who downloads from a site that was switched away still reads what it was told of.
        self.served.retain(|index| index.strong_count() > 0);
        for index in self.served.iter().filter_map(Weak::upgrade) {
            let is_it = |other: &Arc<Index>| Arc::ptr_eq(other, &index);
            // What only the site of now keeps is about to go.
            if kept.indexes.iter().any(is_it) || site.kept().iter().any(is_it) {
                continue;
            }
            if !kept.numbers.get(&index.channel).is_some_and(|numbers| numbers.contains(&index.number)) {
                kept.read_still.push((index.channel.clone(), index.number));
            }
            kept.indexes.push(index);
        }
        // What is served counts most, should two say different things.
        for block in kept.indexes.iter().chain(site.releases()).flat_map(|index| index.blocks()) {
            kept.blocks.insert(block.id, HeldBlock { hash: block.hash, bytes: block.bytes });
        }
        Ok(kept)
    }

    /// Forgets and frees what is not kept. Takes the blocks out of `kept`.
    pub(super) fn retain(&mut self, kept: &mut Kept) -> anyhow::Result<Freed> {
        if !kept.forgotten.is_empty() {
            let names = kept.forgotten.iter().map(|(channel, number)| format!("{channel} {number}"));
            self.teller.tell(Event::Gc { releases: audit::names(names) })?;
        }
        for (channel, numbers) in &kept.numbers {
            self.facts.forget_others(channel, numbers)?;
        }
        self.retention.is_read_still = !kept.read_still.is_empty();
        let freed = self.input.ledger.free(std::mem::take(&mut kept.blocks), self.is_index_due())?;
        if !freed.blocks.is_empty() || freed.bytes > 0 {
            tracing::info!(
                blocks = freed.blocks.len(),
                "{} given back: no kept release needs it",
                Bytes(freed.bytes)
            );
        }
        self.retention.freed_bytes += freed.bytes;
        self.retention.freed_blocks += freed.blocks.len() as u64;
        // A later release may need them again.
        if !freed.blocks.is_empty() {
            self.input.orders.send(Order::Missing(freed.blocks.clone()));
        }
        let is_listed = |digest: &_| kept.indexes.iter().any(|index| index.blobs.contains_key(digest));
        self.checked.retain(|digest, _| is_listed(digest));
        Ok(freed)
    }

    fn kept_numbers(
        &self,
        channel: &Channel,
        still_kept: &[Arc<Index>],
    ) -> anyhow::Result<BTreeSet<ReleaseNo>> {
        let of_channel = still_kept.iter().filter(|index| index.channel == *channel);
        let mut known = Known { used: of_channel.map(|index| index.number).collect(), ..Known::default() };
        if let Some(published) = self.published.get(channel) {
            known.used.retain(|number| number != published);
            known.used.push(*published);
        }
        for number in self.facts.numbers(channel)? {
            let baseline = self.kept_index(channel, number)?.baseline;
            known.releases.insert(number, baseline);
        }
        Ok(kept_releases(&known, known.used.len()))
    }

    /// An index from memory, if it is there.
    pub(super) fn kept_index(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Arc<Index>> {
        let is_it = |index: &&Arc<Index>| (&index.channel, index.number) == (channel, number);
        let arriving = self.arrivals.get(channel).map(|arrival| arrival.index());
        let site = self.input.site.load();
        let known = site.releases().iter().chain(site.kept()).chain(arriving).find(is_it).cloned();
        known.map_or_else(|| self.facts.index(channel, number).map(Arc::new), Ok)
    }

    /// Whether the sender has told of a release whose index did not come, or one may be on the media that are imported.
    pub(super) fn is_index_due(&self) -> bool {
        if crate::import::is_under_way(&self.input.dir) {
            return true;
        }
        let view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((beacon, _)) = &view.beacon else { return true };
        beacon
            .channels
            .iter()
            .any(|told| self.newest(&told.channel).is_none_or(|newest| newest < told.newest))
    }
}
