//! Retention: after a publication, releases that nothing needs are forgotten, and the room of their blocks is given back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync::journal::HeldBlock;
use diodesync::quantity::Bytes;
use diodesync::release::index::Index;
use diodesync::release::retention::{KEEP_DEFAULT, Known, kept_releases};

use super::Publisher;
use crate::handover::Order;
use crate::serve::Serving;

/// How often there is a look at what waits in vain for an index.
const INTERVAL: Duration = Duration::from_secs(60);

/// What each channel keeps, and when there is something to do.
#[derive(Debug)]
pub struct Retention {
    keep: BTreeMap<Channel, usize>,
    /// Whether something was published or superseded.
    is_asked: bool,
    has_failed: bool,
    /// When there is the next look.
    due: Instant,
    /// Octets given back since the start.
    pub freed_bytes: u64,
    /// Blocks given back since the start.
    pub freed_blocks: u64,
}

impl Retention {
    /// By the configuration.
    pub fn new(keep: BTreeMap<Channel, usize>) -> Self {
        Self { keep, is_asked: true, has_failed: false, due: Instant::now(), freed_bytes: 0, freed_blocks: 0 }
    }

    /// Releases that a channel keeps.
    pub fn keep(&self, channel: &Channel) -> usize {
        self.keep.get(channel).copied().unwrap_or(KEEP_DEFAULT).max(1)
    }

    /// Has it done as soon as may be.
    pub fn hurry(&mut self) {
        self.is_asked = true;
    }
}

impl Publisher {
    /// Forgets and frees, when it is time and the packs were looked through.
    pub(super) fn retain_some(&mut self) {
        let is_due = Instant::now() >= self.retention.due;
        if self.is_restoring || !(self.retention.is_asked || is_due) {
            return;
        }
        let is_idle = !self.retention.is_asked
            && !self.retention.has_failed
            && self.input.ledger.unclaimed_bytes() == 0;
        self.retention.is_asked = false;
        self.retention.due = Instant::now() + INTERVAL;
        if is_idle {
            return;
        }
        let failure = self.retain().err().map(|error| format!("{error:#}"));
        if let Some(why) = &failure {
            tracing::error!(why, "what is not kept cannot be given back; it is tried again");
        }
        self.retention.has_failed = failure.is_some();
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner).retention_failure = failure;
    }

    fn retain(&mut self) -> anyhow::Result<()> {
        let mut kept: Vec<Arc<Index>> = Vec::new();
        let site = self.input.site.load();
        // What a serve role in another process serves still.
        let elsewhere = match self.input.is_served_elsewhere {
            true => Serving::read(&self.input.dir)?.map(|serving| serving.releases).unwrap_or_default(),
            false => BTreeSet::new(),
        };
        for channel in self.facts.channels()? {
            let mut numbers = self.kept_numbers(&channel)?;
            let known = self.facts.numbers(&channel)?;
            let used = elsewhere.iter().filter(|(of, number)| *of == channel && known.contains(number));
            numbers.extend(used.map(|(_, number)| *number));
            // What was switched to in memory and could not be recorded is served all the same.
            let here = site.releases().iter().chain(site.kept()).filter(|index| index.channel == channel);
            numbers.extend(here.map(|index| index.number));
            self.facts.forget_others(&channel, &numbers)?;
            for number in numbers {
                kept.push(self.kept_index(&channel, number)?);
            }
        }
        // Who downloads from a site that was switched away still reads what it was told of.
        self.served.retain(|index| index.strong_count() > 0);
        kept.extend(self.served.iter().filter_map(Weak::upgrade));
        let mut blocks: HashMap<BlockId, HeldBlock> = HashMap::new();
        // What is served counts most, should two say different things.
        for block in kept.iter().flat_map(|index| index.blocks()) {
            blocks.insert(block.id, HeldBlock { hash: block.hash, bytes: block.bytes });
        }
        for block in site.releases().iter().flat_map(|index| index.blocks()) {
            blocks.insert(block.id, HeldBlock { hash: block.hash, bytes: block.bytes });
        }
        let freed = self.input.ledger.free(blocks, self.is_index_due())?;
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
            self.input.orders.send(Order::Missing(freed.blocks));
        }
        let is_listed = |digest: &_| kept.iter().any(|index| index.blobs.contains_key(digest));
        self.checked.retain(|digest, _| is_listed(digest));
        Ok(())
    }

    fn kept_numbers(&self, channel: &Channel) -> anyhow::Result<BTreeSet<ReleaseNo>> {
        let mut known = Known { used: self.facts.before(channel)?, ..Known::default() };
        if let Some(published) = self.published.get(channel) {
            known.used.retain(|number| number != published);
            known.used.push(*published);
        }
        for number in self.facts.numbers(channel)? {
            let baseline = self.kept_index(channel, number)?.baseline;
            known.releases.insert(number, baseline);
        }
        Ok(kept_releases(&known, self.retention.keep(channel)))
    }

    /// An index from memory, if it is there.
    fn kept_index(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Arc<Index>> {
        let is_it = |index: &&Arc<Index>| (&index.channel, index.number) == (channel, number);
        let arriving = self.arrivals.get(channel).map(|arrival| arrival.index());
        let site = self.input.site.load();
        let known = site.releases().iter().chain(site.kept()).chain(arriving).find(is_it).cloned();
        known.map_or_else(|| self.facts.index(channel, number).map(Arc::new), Ok)
    }

    /// Whether the sender has told of a release whose index did not come, or one may be on the media that are imported.
    fn is_index_due(&self) -> bool {
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
