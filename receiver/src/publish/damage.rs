//! What goes wrong with what was there already: damaged blocks of releases that are served, and a full disk under those
//! that arrive.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use diodesync::audit::Event;
use diodesync::id::{BlockId, Channel, ReleaseNo};

use super::Publisher;
use super::arrival::Lacking;
use crate::handover::Order;

/// How often there is a look at what is free.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// Damaged blocks that the audit log names.
const DAMAGE_NAMED_MAX: usize = 20;

/// A release that is served, or kept, and lacks blocks.
#[derive(Debug, Clone)]
pub struct DamagedRelease {
    /// The channel.
    pub channel: Channel,
    /// The number.
    pub number: ReleaseNo,
    /// What it lacks.
    pub lacking: Arc<Lacking>,
}

impl Publisher {
    /// Blocks were found not to be what they were; they are condemned already.
    pub(super) fn take_damage(&mut self, blocks: Vec<BlockId>) {
        let first = blocks.iter().take(DAMAGE_NAMED_MAX).copied().collect();
        self.teller.note(Event::Damaged { blocks: blocks.len(), first });
        let set: HashSet<BlockId> = blocks.iter().copied().collect();
        for arrival in self.arrivals.values_mut().filter(|arrival| arrival.needs(&set)) {
            *arrival = arrival.again(&self.input.ledger, &self.checked);
        }
        self.is_damage_stale = true;
        self.input.orders.send(Order::Missing(blocks));
    }

    /// Whether one of these blocks is one that a damaged release lacks.
    pub(super) fn mends(&self, blocks: &[BlockId]) -> bool {
        let view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = |id: &BlockId| {
            view.damaged.iter().any(|release| release.lacking.blocks.binary_search(id).is_ok())
        };
        blocks.iter().any(lacks)
    }

    /// Finds what the served and kept releases lack. It is not served before it came again.
    pub(super) fn look_for_damage(&mut self) {
        if !self.is_damage_stale || self.is_restoring {
            return;
        }
        self.is_damage_stale = false;
        let site = self.input.site.load();
        let mut damaged = Vec::new();
        for index in site.releases().iter().chain(site.kept()) {
            let lacking =
                index.blocks().filter(|block| !self.input.ledger.holds(block)).map(|block| block.id);
            let lacking: BTreeSet<BlockId> = lacking.collect();
            if lacking.is_empty() {
                continue;
            }
            lacking.iter().for_each(|id| {
                self.input.ledger.condemn(*id, None);
            });
            damaged.push(DamagedRelease {
                channel: index.channel.clone(),
                number: index.number,
                lacking: Arc::new(Lacking::new(index, lacking)),
            });
        }
        let mut view = self.shared.view.lock().unwrap_or_else(PoisonError::into_inner);
        for release in damaged.iter().filter(|_| view.damaged.is_empty()) {
            tracing::error!(
                channel = %release.channel, release = release.number.0, blocks = release.lacking.blocks.len(),
                "a release that is kept is damaged; see: diode-receiver missing"
            );
        }
        if damaged.is_empty() && !view.damaged.is_empty() {
            tracing::info!("all damage is mended");
        }
        view.damaged = damaged;
    }

    /// Compares what the arriving releases lack with what is free.
    pub(super) fn measure_space(&mut self) -> anyhow::Result<()> {
        // What is still looked for in the packs takes no room.
        if Instant::now() < self.space_due || !self.to_rescan.is_empty() {
            return Ok(());
        }
        self.space_due = Instant::now() + SPACE_INTERVAL;
        let mut space = self.input.packs.space()?;
        for arrival in self.arrivals.values_mut() {
            let needed = arrival.lacking_bytes();
            let index = arrival.index();
            let what = format!("what release {} {} lacks", index.channel, index.number);
            let why = if needed == 0 { None } else { space.admit(what, needed).err() };
            space.free_bytes = space.free_bytes.saturating_sub(needed);
            arrival.set_no_space(why.map(|why| why.to_string()));
        }
        Ok(())
    }
}
