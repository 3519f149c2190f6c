//! Which blocks are asked for, and when again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use diodesync::id::BlockId;

use super::keep::Fate;
use crate::handover::Order;

/// Time after which a block is asked for again that was not the right one, or was not to be had.
const AGAIN: Duration = Duration::from_secs(10);
/// The same of one that could not be kept.
const LATER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Wants {
    /// Blocks that are lacking, and until when one is not asked for.
    lacking: BTreeMap<BlockId, Option<Instant>>,
    under_way: BTreeSet<BlockId>,
    /// Blocks that came and were not those of the index, and how not.
    wrong: BTreeMap<BlockId, String>,
    /// Blocks that upstream has not.
    absent: BTreeSet<BlockId>,
}

impl Wants {
    /// Takes an order of the publisher.
    pub fn order(&mut self, order: Order) {
        match order {
            Order::Missing(blocks) => blocks.into_iter().for_each(|id| _ = self.lacking.insert(id, None)),
            Order::Done(blocks) => blocks.iter().for_each(|id| self.forget(id)),
            Order::Senders(_) => {}
        }
    }

    fn forget(&mut self, id: &BlockId) {
        self.lacking.remove(id);
        self.wrong.remove(id);
        self.absent.remove(id);
    }

    /// The next blocks to ask for at `now`, `max` of them at most. They are under way from then on.
    pub fn next(&mut self, now: Instant, max: usize) -> Vec<BlockId> {
        let is_due = |until: &Option<Instant>| until.is_none_or(|until| until <= now);
        let due = self.lacking.iter().filter(|(id, until)| is_due(until) && !self.under_way.contains(*id));
        let batch: Vec<BlockId> = due.map(|(id, _)| *id).take(max).collect();
        self.under_way.extend(&batch);
        batch
    }

    /// What became of a block; why it is refused, if that is new.
    pub fn came(&mut self, now: Instant, id: BlockId, fate: Fate) -> Option<String> {
        match fate {
            Fate::Kept | Fate::Unwanted => self.forget(&id),
            Fate::Wrong(why) => {
                self.hold_back(id, now + AGAIN);
                return self.wrong.insert(id, why.clone()).is_none().then_some(why);
            }
            Fate::Absent => {
                self.hold_back(id, now + AGAIN);
                self.absent.insert(id);
            }
            Fate::Later => self.hold_back(id, now + LATER),
        }
        None
    }

    /// A batch is over; what of it came to no end is asked for again.
    pub fn end(&mut self, batch: &[BlockId]) {
        batch.iter().for_each(|id| _ = self.under_way.remove(id));
    }

    fn hold_back(&mut self, id: BlockId, until: Instant) {
        if let Some(place) = self.lacking.get_mut(&id) {
            *place = Some(until);
        }
    }

    /// There is news from upstream: what it had not, it may have.
    pub fn ask_again(&mut self) {
        for id in std::mem::take(&mut self.absent) {
            if let Some(place) = self.lacking.get_mut(&id) {
                *place = None;
            }
        }
    }

    /// No connection: nothing is under way.
    pub fn broke_off(&mut self) {
        self.under_way.clear();
    }

    /// How many are lacking.
    pub fn lacking(&self) -> u64 {
        self.lacking.len() as u64
    }

    /// How many upstream has not.
    pub fn absent(&self) -> u64 {
        self.absent.len() as u64
    }

    /// How many came and were wrong, and how the first was.
    pub fn wrong(&self) -> Option<(usize, String)> {
        Some((self.wrong.len(), self.wrong.values().next()?.clone()))
    }
}

#[cfg(test)]
mod tests {
    use diodesync::id::{BlockNo, PackId};

    use super::*;

    fn block(number: u32) -> BlockId {
        BlockId { pack: PackId([1; 8]), block: BlockNo(number) }
    }

    #[test]
    fn each_block_is_asked_for_once_at_a_time_and_again_when_it_is_due() {
        let (mut wants, now) = (Wants::default(), Instant::now());
        wants.order(Order::Missing((0..5).map(block).collect()));
        wants.order(Order::Done(vec![block(4)]));
        let first = wants.next(now, 2);
        assert_eq!(first, [block(0), block(1)]);
        assert_eq!(wants.next(now, 9), [block(2), block(3)]);
        assert!(wants.next(now, 9).is_empty(), "all are under way");
        // One is kept, of the other nothing was heard.
        wants.came(now, block(0), Fate::Kept);
        wants.end(&first);
        assert_eq!((wants.next(now, 9), wants.lacking()), (vec![block(1)], 3));
        let wrong = || Fate::Wrong("it is another".to_owned());
        assert_eq!(wants.came(now, block(1), wrong()).as_deref(), Some("it is another"));
        wants.end(&[block(1)]);
        assert!(wants.next(now, 9).is_empty(), "not at once");
        assert_eq!(wants.next(now + AGAIN, 9), [block(1)]);
        assert_eq!(wants.came(now, block(1), wrong()), None, "it was said already");
        assert_eq!(wants.wrong().unwrap().0, 1);
        wants.order(Order::Done(vec![block(1)]));
        assert_eq!(wants.wrong(), None);

        wants.came(now, block(2), Fate::Absent);
        wants.came(now, block(3), Fate::Unwanted);
        wants.end(&[block(1), block(2), block(3)]);
        assert_eq!((wants.lacking(), wants.absent()), (1, 1));
        assert!(wants.next(now, 9).is_empty());
        wants.ask_again();
        assert_eq!(wants.next(now, 9), [block(2)]);
        wants.broke_off();
        assert_eq!(wants.next(now, 9), [block(2)]);
    }
}
