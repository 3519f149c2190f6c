//! Retention: which releases are kept, and which blocks then go. Nothing here touches a disk, so that what would go can
//! also be shown and not done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{BlockId, BlockNo, Channel, PackId, ReleaseNo};

/// Releases of a channel that are kept when nothing is configured: the one in use and the one before.
pub const KEEP_DEFAULT: usize = 2;

/// What a channel keeps of the releases that were in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// So many of them, the one in use among them.
    pub releases: usize,
    /// Those too that were in use within this time.
    pub span: Option<Duration>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { releases: KEEP_DEFAULT, span: None }
    }
}

impl Keep {
    /// How many of the newest are kept, of releases that were in use one after the other. `cut_s` says when each was cut,
    /// oldest first, in seconds since 1970; each was in use until the next was cut, and the last one is.
    pub fn count(&self, cut_s: &[u64], now_s: u64) -> usize {
        let by_time = self.span.map_or(0, |span| {
            let since = now_s.saturating_sub(span.as_secs());
            1 + cut_s.iter().skip(1).rev().take_while(|replaced| **replaced >= since).count()
        });
        self.releases.max(1).max(by_time)
    }
}

/// What a configuration says of channels cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeepError {
    /// A channel would keep nothing.
    #[error("channel {0}: keep is 0, expected 1 or more: the release in use is always kept")]
    Nothing(Channel),
    /// A channel stands twice.
    #[error("channel {0} is configured twice")]
    Twice(Channel),
}

/// Checks what a configuration says of each channel: its name, and how many releases it keeps.
///
/// # Errors
/// The first channel that keeps nothing, or that stands twice.
pub fn check_keep<'a>(channels: impl IntoIterator<Item = (&'a Channel, usize)>) -> Result<(), KeepError> {
    let mut seen = BTreeSet::new();
    for (name, keep) in channels {
        if keep == 0 {
            return Err(KeepError::Nothing(name.clone()));
        }
        if !seen.insert(name) {
            return Err(KeepError::Twice(name.clone()));
        }
    }
    Ok(())
}

/// The releases of one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Those of which there is an index, with the baseline that each names.
    pub releases: BTreeMap<ReleaseNo, Option<ReleaseNo>>,
    /// Those that were in use, oldest first; the last one is (on the high side: published).
    pub used: Vec<ReleaseNo>,
    /// Others that something still needs (on the low side: the one whose rounds are complete).
    pub needed: BTreeSet<ReleaseNo>,
}

/// Which releases of a channel are kept: the newest, which may be on its way; the last `keep` that were in use, at least
/// the one that is; what else is needed; and the baselines of all of these, because the next release may build on the
/// same one.
pub fn kept_releases(known: &Known, keep: usize) -> BTreeSet<ReleaseNo> {
    let mut kept = known.needed.clone();
    kept.extend(known.used.iter().rev().take(keep.max(1)));
    kept.extend(known.releases.last_key_value().map(|(number, _)| number));
    let baselines: Vec<ReleaseNo> =
        kept.iter().filter_map(|number| known.releases.get(number).copied().flatten()).collect();
    kept.extend(baselines);
    kept.retain(|number| known.releases.contains_key(number));
    kept
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs of which nothing is kept.
    pub packs: Vec<PackId>,
    /// Blocks of other packs, as ranges that rise.
    pub holes: Vec<(PackId, Range<u32>)>,
}

impl Plan {
    /// Plans to free every stored block that is not in `kept`. A pack that holds a kept block, be it stored or only
    /// expected, stays a file.
    pub fn new(stored: &BTreeMap<PackId, Vec<Range<u32>>>, kept: &BTreeSet<BlockId>) -> Self {
        let mut plan = Self::default();
        for (pack, ranges) in stored {
            let of_pack = |blocks: Range<u32>| {
                let at = |number| BlockId { pack: *pack, block: BlockNo(number) };
                kept.range(at(blocks.start)..at(blocks.end))
            };
            if of_pack(0..u32::MAX).next().is_none() {
                plan.packs.push(*pack);
                continue;
            }
            for range in ranges {
                let mut start = range.start;
                for BlockId { block, .. } in of_pack(range.clone()) {
                    if start < block.0 {
                        plan.holes.push((*pack, start..block.0));
                    }
                    start = block.0 + 1;
                }
                if start < range.end {
                    plan.holes.push((*pack, start..range.end));
                }
            }
        }
        plan
    }

    /// Whether nothing goes.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.holes.is_empty()
    }

    /// Whether a block goes.
    pub fn frees(&self, block: &BlockId) -> bool {
        let at = block.block.0;
        self.packs.contains(&block.pack)
            || self.holes.iter().any(|(pack, range)| *pack == block.pack && range.contains(&at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededRng;
    use hpke::rand_core::Rng as _;

    fn numbers(of: &[u64]) -> Vec<ReleaseNo> {
        of.iter().copied().map(ReleaseNo).collect()
    }

    fn known(releases: &[(u64, u64)], used: &[u64]) -> Known {
        let baseline = |baseline: u64| (baseline > 0).then_some(ReleaseNo(baseline));
        Known {
            releases: releases.iter().map(|(n, b)| (ReleaseNo(*n), baseline(*b))).collect(),
            used: numbers(used),
            needed: BTreeSet::new(),
        }
    }

    fn kept(known: &Known, keep: usize) -> Vec<u64> {
        kept_releases(known, keep).into_iter().map(|number| number.0).collect()
    }

    #[test]
    fn what_is_in_use_arrives_or_is_built_on_stays() {
        // 4 is published, 6 arrives, 5 was never whole.
        let all = known(&[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 4)], &[1, 2, 3, 4]);
        assert_eq!(kept(&all, 2), [2, 3, 4, 6], "2 is the baseline of 3");
        assert_eq!(kept(&all, 1), [3, 4, 6]);
        assert_eq!(kept(&all, 0), [3, 4, 6], "what is published stays, whatever is configured");
        assert_eq!(kept(&all, 9), [1, 2, 3, 4, 6]);
        // The sender's rounds were not complete: everything still builds on 1.
        let slow = known(&[(1, 0), (2, 1), (3, 1), (4, 1)], &[1, 2, 3, 4]);
        assert_eq!(kept(&slow, 2), [1, 3, 4]);
        let mut sender = known(&[(1, 0), (2, 0), (3, 0)], &[3]);
        sender.needed.insert(ReleaseNo(1));
        assert_eq!(kept(&sender, 1), [1, 3]);
        assert!(kept(&Known::default(), 2).is_empty());
        // An index that is gone is not kept, whoever names it.
        assert_eq!(kept(&known(&[(3, 2)], &[1, 3]), 2), [3]);
    }

    #[test]
    fn what_was_in_use_lately_is_kept_however_many_they_are() {
        let days = |days: u64| days * 86_400;
        let cut: Vec<u64> = [0, 10, 20, 28, 29].map(days).to_vec();
        let keep =
            |releases, span: Option<u64>| Keep { releases, span: span.map(|d| Duration::from_secs(days(d))) };
        let now = days(30);
        assert_eq!(keep(2, None).count(&cut, now), 2);
        // Within ten days 20 (until 28), 28 and 29 were in use; and 10 until the very first moment of them.
        assert_eq!(keep(2, Some(10)).count(&cut, now), 4);
        assert_eq!(keep(2, Some(9)).count(&cut, now), 3);
        assert_eq!(keep(4, Some(9)).count(&cut, now), 4, "either of the two is enough");
        assert_eq!(keep(1, Some(1)).count(&cut, now), 2);
        assert_eq!(keep(1, Some(400)).count(&cut, now), 5);
        // A clock that is behind the sender's.
        assert_eq!(keep(1, Some(1)).count(&cut, 0), 5);
        assert_eq!(keep(0, Some(1)).count(&[], now), 1);
    }

    #[test]
    fn a_pack_that_expects_a_block_stays_a_file() {
        let pack = |n| PackId([n; 8]);
        let block = |n, number| BlockId { pack: pack(n), block: BlockNo(number) };
        let stored =
            BTreeMap::from([(pack(1), vec![0..2, 2..3]), (pack(2), vec![0..3, 5..6]), (pack(3), vec![])]);
        let plan = Plan::new(&stored, &BTreeSet::from([block(2, 1), block(3, 7)]));
        assert_eq!(plan.packs, [pack(1)]);
        assert_eq!(plan.holes, [(pack(2), 0..1), (pack(2), 2..3), (pack(2), 5..6)]);
        assert!(
            Plan::new(&stored, &BTreeSet::from([block(1, 0), block(2, 9), block(3, 0)])).packs.is_empty()
        );
    }

    /// Random packs and releases: what a kept release needs never goes, and everything else does.
    #[test]
    fn nothing_that_a_kept_release_needs_ever_goes() {
        for seed in 0..2000 {
            let mut rng = SeededRng::new(seed);
            let mut below = move |max: u32| rng.next_u32() % max.max(1);
            let packs = 1 + below(4) as u8;
            let mut all = Vec::new();
            let mut stored = BTreeMap::new();
            for pack in 0..packs {
                let mut ranges: Vec<Range<u32>> = Vec::new();
                for number in 0..below(40) {
                    if below(4) > 0 {
                        all.push(BlockId { pack: PackId([pack; 8]), block: BlockNo(number) });
                        match ranges.last_mut() {
                            Some(last) if last.end == number => last.end += 1,
                            _ => ranges.push(number..number + 1),
                        }
                    }
                }
                stored.insert(PackId([pack; 8]), ranges);
            }
            let mut releases = Known::default();
            let mut needs: BTreeMap<ReleaseNo, BTreeSet<BlockId>> = BTreeMap::new();
            for number in 1..=1 + below(8) {
                let number = ReleaseNo(u64::from(number));
                let baseline = (number.0 > 1 && below(2) > 0)
                    .then(|| ReleaseNo(1 + u64::from(below(number.0 as u32 - 1))));
                releases.releases.insert(number, baseline);
                if below(3) > 0 {
                    releases.used.push(number);
                }
                needs.insert(number, all.iter().filter(|_| below(5) == 0).copied().collect());
            }
            let keep = below(4) as usize;
            let kept = kept_releases(&releases, keep);
            let needed: BTreeSet<BlockId> = kept.iter().flat_map(|number| needs[number].clone()).collect();
            let plan = Plan::new(&stored, &needed);
            for block in &all {
                assert_eq!(plan.frees(block), !needed.contains(block), "seed {seed}: {block}");
            }
            if let Some(in_use) = releases.used.last() {
                assert!(kept.contains(in_use), "seed {seed}: what is in use goes");
            }
            assert!(releases.used.iter().rev().take(keep).all(|number| kept.contains(number)), "seed {seed}");
            assert!(kept.contains(releases.releases.last_key_value().unwrap().0), "seed {seed}");
            for number in
                kept.iter().filter(|n| releases.used.iter().rev().take(keep.max(1)).any(|u| u == *n))
            {
                let baseline = releases.releases[number];
                assert!(
                    baseline.is_none_or(|baseline| kept.contains(&baseline)),
                    "seed {seed}: a baseline goes"
                );
            }
        }
    }
}
