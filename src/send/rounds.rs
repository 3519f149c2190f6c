//! Which object comes next: the carousel.
//!
//! A round sends the trust bundle and the index, then every block with a window of its repair symbols, and the trust
//! bundle and the index again in between and at the end. The next round, after a gap, sends the same with the next
//! windows, so that what one round lost another completes.

use std::time::{Duration, Instant};

use crate::fec::{Oti, RepairUse, repair_window};
use crate::id::{Blake3, Channel, ObjectTag, ReleaseNo, Sbn};
use crate::release::index::NeededBlock;
use crate::wire::ObjectId;

/// A release, as far as sending goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleasePlan {
    /// Its channel.
    pub channel: Channel,
    /// Its number.
    pub number: ReleaseNo,
    /// The trust bundle and its octets.
    pub trust: (ObjectTag, u32),
    /// The index and its octets.
    pub index: (ObjectTag, u32),
    /// The blocks to send.
    pub blocks: Vec<NeededBlock>,
}

/// How a lane repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundSettings {
    /// Octets of the lane's symbols.
    pub symbol_bytes: usize,
    /// Repair symbols of a round, in percent of the source symbols.
    pub repair_percent: u32,
    /// Rounds of a release.
    pub rounds: u8,
    /// Time between the end of one and the start of the next.
    pub round_gap: Duration,
}

/// A source block to be sent, with a window of its repair symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The object.
    pub object: ObjectId,
    /// Its transmission information.
    pub oti: Oti,
    /// Which source block.
    pub sbn: Sbn,
    /// The first repair symbol of the window.
    pub window_start: u32,
    /// Repair symbols of the window.
    pub window_symbols: u32,
    /// The place of a block in the plan; none for trust and index.
    pub position: Option<usize>,
    /// What the octets of a block must hash to; none for trust and index, which name themselves.
    pub hash: Option<Blake3>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upcoming {
    /// Read and encode this.
    Job(Job),
    /// Nothing until what is under way went out.
    Drain,
    /// Nothing until then.
    Wait(Instant),
    /// All rounds are complete.
    Complete,
}

/// Blocks between two repetitions of trust and index, at least.
const CONTROL_INTERVAL: usize = 128;

/// The state of a release on a lane.
#[derive(Debug)]
pub struct Rounds {
    plan: ReleasePlan,
    settings: RoundSettings,
    /// The round under way, from 0; `settings.rounds` when all are complete.
    round: u8,
    /// The next block of the plan.
    next: usize,
    /// Which blocks of this round went out, beyond `confirmed`.
    finished: std::collections::BTreeSet<usize>,
    /// All blocks of this round before this one went out.
    confirmed: usize,
    /// Trust and index source blocks to be sent before the next block.
    control: std::collections::VecDeque<(ObjectId, u32, Sbn)>,
    control_sent: u32,
    since_control: usize,
    closing: bool,
    under_way: usize,
    resume_at: Option<Instant>,
}

impl Rounds {
    /// Starts, or goes on at block `position` of round `round` after a restart.
    pub fn new(plan: ReleasePlan, settings: RoundSettings, round: u8, position: usize) -> Self {
        let position = position.min(plan.blocks.len());
        let mut rounds = Self {
            plan,
            settings,
            round,
            next: position,
            finished: Default::default(),
            confirmed: position,
            control: Default::default(),
            control_sent: 0,
            since_control: 0,
            closing: false,
            under_way: 0,
            resume_at: None,
        };
        rounds.queue_control();
        rounds
    }

    /// The release.
    pub fn plan(&self) -> &ReleasePlan {
        &self.plan
    }

    /// The round under way from 0, and how many blocks of it went out before the first that did not.
    pub fn position(&self) -> (u8, usize) {
        (self.round, self.confirmed)
    }

    /// Rounds that it will have.
    pub fn rounds(&self) -> u8 {
        self.settings.rounds
    }

    /// Replaces the trust bundle by one with a fresher timestamp, also where the one before was about to be sent.
    pub fn set_trust(&mut self, tag: ObjectTag, bytes: u32) {
        self.plan.trust = (tag, bytes);
        let is_trust = |object: &ObjectId| matches!(object, ObjectId::Trust(_));
        if self.control.iter().any(|(object, ..)| is_trust(object)) {
            self.control.retain(|(object, ..)| !is_trust(object));
            let trust = self.control_blocks(ObjectId::Trust(tag), bytes);
            trust.into_iter().rev().for_each(|block| self.control.push_front(block));
        }
    }

    fn control_blocks(&self, object: ObjectId, bytes: u32) -> Vec<(ObjectId, u32, Sbn)> {
        let oti = Oti::for_object(bytes.max(1), self.settings.symbol_bytes, RepairUse::Control);
        (0..oti.source_blocks()).map(|sbn| (object, bytes, Sbn(sbn))).collect()
    }

    /// Blocks of this round that went out.
    pub fn sent_blocks(&self) -> usize {
        self.confirmed + self.finished.len()
    }

    fn queue_control(&mut self) {
        for (object, bytes) in [
            (ObjectId::Trust(self.plan.trust.0), self.plan.trust.1),
            (ObjectId::Index(self.plan.index.0), self.plan.index.1),
        ] {
            let blocks = self.control_blocks(object, bytes);
            self.control.extend(blocks);
        }
        self.since_control = 0;
    }

    /// What comes next.
    pub fn poll(&mut self, now: Instant) -> Upcoming {
        loop {
            if self.round >= self.settings.rounds {
                return Upcoming::Complete;
            }
            if let Some(at) = self.resume_at {
                if now < at {
                    return Upcoming::Wait(at);
                }
                self.resume_at = None;
                self.queue_control();
            }
            if let Some((object, bytes, sbn)) = self.control.pop_front() {
                self.under_way += 1;
                return Upcoming::Job(self.control_job(object, bytes, sbn));
            }
            if let Some(block) = self.plan.blocks.get(self.next).copied() {
                let interval = CONTROL_INTERVAL.max(20 * (self.plan.index.1 as usize).div_ceil(1 << 20));
                if self.since_control >= interval {
                    self.queue_control();
                    continue;
                }
                self.since_control += 1;
                self.next += 1;
                self.under_way += 1;
                return Upcoming::Job(self.block_job(block, self.next - 1));
            }
            if !self.closing {
                self.closing = true;
                self.queue_control();
                continue;
            }
            if self.under_way > 0 {
                return Upcoming::Drain;
            }
            self.round += 1;
            (self.next, self.confirmed, self.closing) = (0, 0, false);
            self.finished.clear();
            self.resume_at = Some(now + self.settings.round_gap);
        }
    }

    fn block_job(&self, block: NeededBlock, position: usize) -> Job {
        let oti = Oti::for_object(block.bytes, self.settings.symbol_bytes, RepairUse::Data);
        let window = repair_window(oti.source_symbols(Sbn(0)) as usize, self.settings.repair_percent) as u32;
        let window = window.min(oti.repair_symbols());
        Job {
            object: ObjectId::Block(block.id),
            oti,
            sbn: Sbn(0),
            window_start: u32::from(self.round).wrapping_mul(window),
            window_symbols: window,
            position: Some(position),
            hash: Some(block.hash),
        }
    }

    fn control_job(&mut self, object: ObjectId, bytes: u32, sbn: Sbn) -> Job {
        let oti = Oti::for_object(bytes.max(1), self.settings.symbol_bytes, RepairUse::Control);
        let window = oti.source_symbols(sbn).max(2).min(oti.repair_symbols());
        self.control_sent = self.control_sent.wrapping_add(1);
        let window_start = self.control_sent.wrapping_mul(window);
        Job { object, oti, sbn, window_start, window_symbols: window, position: None, hash: None }
    }

    /// Records that a job's symbols went out.
    pub fn finished(&mut self, job: &Job) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(position) = job.position {
            self.finished.insert(position);
            while self.finished.remove(&self.confirmed) {
                self.confirmed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Blake3, BlockId, BlockNo, PackId};

    fn plan(blocks: u32) -> ReleasePlan {
        let block = |n| NeededBlock {
            id: BlockId { pack: PackId([1; 8]), block: BlockNo(n) },
            bytes: 1 << 20,
            hash: Blake3([0; 32]),
        };
        ReleasePlan {
            channel: Channel::main(),
            number: ReleaseNo(1),
            trust: (ObjectTag([2; 8]), 3000),
            index: (ObjectTag([3; 8]), 500),
            blocks: (0..blocks).map(block).collect(),
        }
    }

    fn settings() -> RoundSettings {
        RoundSettings { symbol_bytes: 1392, repair_percent: 10, rounds: 2, round_gap: Duration::from_secs(5) }
    }

    #[test]
    fn index_first_in_between_and_last_in_each_round() {
        let now = Instant::now();
        let mut rounds = Rounds::new(plan(300), settings(), 0, 0);
        let mut objects = Vec::new();
        let mut windows = Vec::new();
        while let Upcoming::Job(job) = rounds.poll(now) {
            objects.push(job.object);
            windows.extend(job.position.map(|_| job.window_start));
            rounds.finished(&job);
        }
        let indexes: Vec<usize> = objects
            .iter()
            .enumerate()
            .filter(|(_, o)| matches!(o, ObjectId::Index(_)))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(indexes, [1, 131, 261, 307]);
        assert!(matches!(objects[0], ObjectId::Trust(_)));
        assert!(windows.iter().all(|start| *start == 0));
        let Upcoming::Wait(until) = rounds.poll(now) else { panic!("no gap") };
        assert_eq!(until, now + Duration::from_secs(5));
        assert_eq!(rounds.position(), (1, 0));
        let mut second = 0;
        while let Upcoming::Job(job) = rounds.poll(until) {
            second += usize::from(job.position.is_some_and(|_| job.window_start == 94));
            rounds.finished(&job);
        }
        assert_eq!(second, 300);
        assert_eq!(rounds.poll(until), Upcoming::Complete);
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let now = Instant::now();
        let mut rounds = Rounds::new(plan(10), settings(), 0, 0);
        let mut jobs = Vec::new();
        while let Upcoming::Job(job) = rounds.poll(now) {
            jobs.push(job);
        }
        assert_eq!(rounds.poll(now), Upcoming::Drain);
        for job in jobs.iter().filter(|job| job.position.is_some_and(|at| at != 4)) {
            rounds.finished(job);
        }
        assert_eq!(rounds.position(), (0, 4));
        let mut rounds = Rounds::new(plan(10), settings(), 0, 4);
        let mut first = None;
        while let Upcoming::Job(job) = rounds.poll(now) {
            first = first.or(job.position);
            rounds.finished(&job);
        }
        assert_eq!(first, Some(4));
    }

    #[test]
    fn a_fresher_trust_bundle_goes_out_instead_of_the_one_before() {
        let now = Instant::now();
        let mut rounds = Rounds::new(plan(1), settings(), 0, 0);
        rounds.set_trust(ObjectTag([9; 8]), 4000);
        let mut objects = Vec::new();
        while let Upcoming::Job(job) = rounds.poll(now) {
            objects.push(job.object);
            rounds.finished(&job);
        }
        let (trust, index) = (ObjectId::Trust(ObjectTag([9; 8])), ObjectId::Index(ObjectTag([3; 8])));
        assert_eq!(
            (objects.len(), &objects[..2], &objects[3..]),
            (5, &[trust, index][..], &[trust, index][..])
        );
    }
}
