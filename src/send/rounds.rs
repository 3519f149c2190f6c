//! Which object of a release comes next.
//!
//! A round sends the trust bundle and the index, then every block with a window of its repair symbols, and the trust
//! bundle and the index again in between and at the end. The next round, after a gap, sends the same with the next
//! windows, so that what one round lost another completes.
//!
//! Several lanes may take their jobs from one release. A block goes over another lane in each round, as long as there
//! is one that works: what a lane lost without anybody knowing, the next round brings. A lane that is left with nothing
//! but what it has carried before waits for the others, for a round gap at most.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::fec::{Oti, RepairUse, repair_window};
use crate::id::{Blake3, BlockId, Channel, ObjectTag, ReleaseNo, Sbn};
use crate::limits::LANES_MAX;
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

/// How a release repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundSettings {
    /// Rounds of a release.
    pub rounds: u8,
    /// Time between the end of one and the start of the next.
    pub round_gap: Duration,
}

/// A lane's place among those of one sender, from 0 to [`LANES_MAX`] − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneSlot(pub u8);

impl LaneSlot {
    fn bit(self) -> u8 {
        1u8.checked_shl(u32::from(self.0)).unwrap_or(0)
    }
}

/// A set of lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneSet(u8);

impl LaneSet {
    /// Puts a lane in.
    #[must_use]
    pub fn with(self, slot: LaneSlot) -> Self {
        Self(self.0 | slot.bit())
    }

    /// Takes a lane out.
    #[must_use]
    pub fn without(self, slot: LaneSlot) -> Self {
        Self(self.0 & !slot.bit())
    }

    /// Whether a lane is in it.
    pub fn contains(self, slot: LaneSlot) -> bool {
        self.0 & slot.bit() != 0
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The lane that asks for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via {
    /// Its place.
    pub slot: LaneSlot,
    /// Octets of its symbols.
    pub symbol_bytes: usize,
    /// Repair symbols of a round, in percent of the source symbols.
    pub repair_percent: u32,
}

/// One release on its way, from when it was put on the carousel until it is superseded or complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// A source block to be sent, with a window of its repair symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// What it belongs to.
    pub run: RunId,
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
    /// The round that it is of, from 0.
    pub round: u8,
}

impl Job {
    /// Octets of its symbols.
    pub fn symbols_bytes(&self) -> u64 {
        let symbols = self.oti.source_symbols(self.sbn) + self.window_symbols;
        u64::from(symbols) * self.oti.symbol_bytes() as u64
    }
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

/// Where a block is in the round under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Due,
    UnderWay,
    Sent,
}

#[derive(Debug, Clone, Copy, Default)]
struct BlockState {
    place: Place,
    /// The lanes that it went over, since all that work had carried it.
    over: LaneSet,
}

/// What a lane has looked at in this round.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    /// No block before this one is for the lane.
    from: usize,
    /// Since when there is nothing for it but what it has carried before.
    starved: Option<Instant>,
    /// Whether it takes that now.
    takes_all: bool,
}

/// The state of a release on its way.
#[derive(Debug)]
pub struct Rounds {
    run: RunId,
    plan: ReleasePlan,
    settings: RoundSettings,
    /// The round under way, from 0; `settings.rounds` when all are complete.
    round: u8,
    /// The windows of repair symbols that went out before the first round.
    window_base: u8,
    /// One for each block of the plan.
    blocks: Vec<BlockState>,
    /// Blocks of this round that nobody has taken.
    due: usize,
    /// Blocks of this round that went out, and their octets.
    sent: (usize, u64),
    /// All blocks of this round before this one went out.
    confirmed: usize,
    looks: [Look; LANES_MAX],
    /// Trust and index source blocks to be sent before the next block.
    control: VecDeque<(ObjectId, u32, Sbn)>,
    control_sent: u32,
    since_control: usize,
    closing: bool,
    under_way: usize,
    resume_at: Option<Instant>,
}

impl Rounds {
    /// Starts, or goes on at block `position` of round `round` after a restart.
    pub fn new(run: RunId, plan: ReleasePlan, settings: RoundSettings, round: u8, position: usize) -> Self {
        let position = position.min(plan.blocks.len());
        let mut blocks = vec![BlockState::default(); plan.blocks.len()];
        blocks.iter_mut().take(position).for_each(|block| block.place = Place::Sent);
        Self::with(run, plan, settings, round, blocks)
    }

    /// Starts in place of an unfinished release of the channel. Blocks that went out with it count as sent in the first
    /// round.
    pub fn superseding(run: RunId, plan: ReleasePlan, settings: RoundSettings, old: &Self) -> Self {
        let went_out: HashMap<BlockId, (&NeededBlock, LaneSet)> = old
            .plan
            .blocks
            .iter()
            .zip(&old.blocks)
            .filter(|(_, state)| old.round > 0 || state.place == Place::Sent)
            .map(|(block, state)| (block.id, (block, state.over)))
            .collect();
        let state = |block: &NeededBlock| match went_out.get(&block.id) {
            Some((sent, over)) if *sent == block => BlockState { place: Place::Sent, over: *over },
            _ => BlockState::default(),
        };
        let blocks = plan.blocks.iter().map(state).collect();
        Self::with(run, plan, settings, 0, blocks)
    }

    fn with(
        run: RunId,
        plan: ReleasePlan,
        settings: RoundSettings,
        round: u8,
        blocks: Vec<BlockState>,
    ) -> Self {
        let sent = plan.blocks.iter().zip(&blocks).filter(|(_, state)| state.place == Place::Sent);
        let sent =
            sent.fold((0, 0), |(count, bytes), (block, _)| (count + 1, bytes + u64::from(block.bytes)));
        let mut rounds = Self {
            run,
            plan,
            settings,
            round,
            window_base: 0,
            due: blocks.len() - sent.0,
            sent,
            blocks,
            confirmed: 0,
            looks: [Look::default(); LANES_MAX],
            control: VecDeque::new(),
            control_sent: 0,
            since_control: 0,
            closing: false,
            under_way: 0,
            resume_at: None,
        };
        rounds.confirm();
        rounds.queue_control();
        rounds
    }

    /// Begins with other windows of repair symbols: so many went out before.
    #[must_use]
    pub fn with_window_base(mut self, windows: u8) -> Self {
        self.window_base = windows;
        self
    }

    /// What its jobs belong to.
    pub fn run(&self) -> RunId {
        self.run
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

    /// Whether all rounds are complete.
    pub fn is_complete(&self) -> bool {
        self.round >= self.settings.rounds
    }

    /// Whether the next round waits for its time.
    pub fn is_waiting(&self) -> bool {
        self.resume_at.is_some()
    }

    /// Blocks of this round that went out, and their octets.
    pub fn sent(&self) -> (usize, u64) {
        self.sent
    }

    /// Replaces the trust bundle by one with a fresher timestamp, also where the one before was about to be sent.
    pub fn set_trust(&mut self, tag: ObjectTag, bytes: u32) {
        self.plan.trust = (tag, bytes);
        if self.control.iter().any(|(object, ..)| is_trust(object)) {
            self.control.retain(|(object, ..)| !is_trust(object));
            self.queue_trust_first();
        }
    }

    /// Goes on with the index of a newer release.
    pub fn set_index(&mut self, number: ReleaseNo, index: (ObjectTag, u32)) {
        (self.plan.number, self.plan.index) = (number, index);
        if !self.control.is_empty() {
            self.control.clear();
            self.queue_control();
        }
    }

    fn queue_trust_first(&mut self) {
        let (tag, bytes) = self.plan.trust;
        let trust = control_blocks(ObjectId::Trust(tag), bytes);
        trust.into_iter().rev().for_each(|block| self.control.push_front(block));
    }

    fn queue_control(&mut self) {
        for (object, bytes) in [
            (ObjectId::Trust(self.plan.trust.0), self.plan.trust.1),
            (ObjectId::Index(self.plan.index.0), self.plan.index.1),
        ] {
            self.control.extend(control_blocks(object, bytes));
        }
        self.since_control = 0;
    }

    /// Whether a job is of the present trust bundle, if it is of one at all.
    pub fn is_current(&self, job: &Job) -> bool {
        match job.object {
            ObjectId::Trust(tag) => tag == self.plan.trust.0,
            ObjectId::Index(tag) => tag == self.plan.index.0,
            ObjectId::Block(_) => true,
        }
    }

    /// What comes next on a lane; `working` are those that can send now.
    pub fn poll(&mut self, now: Instant, via: &Via, working: LaneSet) -> Upcoming {
        loop {
            if self.is_complete() {
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
                return Upcoming::Job(self.control_job(object, bytes, sbn, via));
            }
            if self.due > 0 {
                let interval = CONTROL_INTERVAL.max(20 * (self.plan.index.1 as usize).div_ceil(1 << 20));
                if self.since_control >= interval {
                    self.queue_control();
                    continue;
                }
                return self.poll_block(now, via, working);
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
            self.blocks.iter_mut().for_each(|block| block.place = Place::Due);
            (self.due, self.sent, self.confirmed, self.closing) = (self.blocks.len(), (0, 0), 0, false);
            self.look_again();
            self.resume_at = Some(now + self.settings.round_gap);
        }
    }

    /// The next block for a lane, or until when it waits for the others.
    fn poll_block(&mut self, now: Instant, via: &Via, working: LaneSet) -> Upcoming {
        let slot = via.slot;
        let Some(look) = self.looks.get_mut(usize::from(slot.0)) else { return Upcoming::Drain };
        loop {
            let from = look.from.max(self.confirmed);
            let is_for_it = |block: &BlockState| {
                let others = working.minus(block.over).without(slot);
                block.place == Place::Due
                    && (look.takes_all || !block.over.contains(slot) || others.is_empty())
            };
            let rest = self.blocks.get(from..).unwrap_or_default();
            if let Some(position) = rest.iter().position(is_for_it).map(|ahead| from + ahead) {
                look.from = position + 1;
                look.starved = None;
                return self.take(position, via, working);
            }
            look.from = self.blocks.len();
            let until = *look.starved.get_or_insert(now) + self.settings.round_gap;
            if look.takes_all || now < until {
                return Upcoming::Wait(until.max(now + Duration::from_millis(1)));
            }
            (look.takes_all, look.from) = (true, 0);
        }
    }

    fn take(&mut self, position: usize, via: &Via, working: LaneSet) -> Upcoming {
        let (Some(state), Some(block)) = (self.blocks.get_mut(position), self.plan.blocks.get(position))
        else {
            return Upcoming::Drain;
        };
        state.place = Place::UnderWay;
        state.over = state.over.with(via.slot);
        // Every lane has carried it: from here on they take turns again.
        if working.minus(state.over).is_empty() && working != LaneSet::default().with(via.slot) {
            state.over = LaneSet::default().with(via.slot);
        }
        self.due -= 1;
        self.since_control += 1;
        self.under_way += 1;
        let oti = Oti::for_object(block.bytes, via.symbol_bytes, RepairUse::Data);
        let window = repair_window(oti.source_symbols(Sbn(0)) as usize, via.repair_percent) as u32;
        let window = window.min(oti.repair_symbols());
        Upcoming::Job(Job {
            run: self.run,
            object: ObjectId::Block(block.id),
            oti,
            sbn: Sbn(0),
            window_start: (u32::from(self.window_base) + u32::from(self.round)).wrapping_mul(window),
            window_symbols: window,
            position: Some(position),
            hash: Some(block.hash),
            round: self.round,
        })
    }

    fn control_job(&mut self, object: ObjectId, bytes: u32, sbn: Sbn, via: &Via) -> Job {
        let oti = Oti::for_object(bytes.max(1), via.symbol_bytes, RepairUse::Control);
        let window = oti.source_symbols(sbn).max(2).min(oti.repair_symbols());
        self.control_sent = self.control_sent.wrapping_add(1);
        let window_start = self.control_sent.wrapping_mul(window);
        Job {
            run: self.run,
            object,
            oti,
            sbn,
            window_start,
            window_symbols: window,
            position: None,
            hash: None,
            round: self.round,
        }
    }

    /// Records that a job's symbols went out.
    pub fn finished(&mut self, job: &Job) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(position) = job.position else { return };
        if let Some(state) = self.blocks.get_mut(position).filter(|state| state.place == Place::UnderWay) {
            state.place = Place::Sent;
            let bytes = self.plan.blocks.get(position).map_or(0, |block| u64::from(block.bytes));
            self.sent = (self.sent.0 + 1, self.sent.1 + bytes);
            self.confirm();
        }
    }

    /// Takes back a job of a lane that cannot send it.
    pub fn give_back(&mut self, slot: LaneSlot, job: &Job) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(position) = job.position else {
            if self.is_current(job) {
                self.control.push_front((job.object, job.oti.transfer_bytes(), job.sbn));
            } else if is_trust(&job.object) && !self.control.iter().any(|(object, ..)| is_trust(object)) {
                self.queue_trust_first();
            }
            return;
        };
        if let Some(state) = self.blocks.get_mut(position).filter(|state| state.place == Place::UnderWay) {
            *state = BlockState { place: Place::Due, over: state.over.without(slot) };
            self.due += 1;
            self.looks.iter_mut().for_each(|look| look.from = look.from.min(position));
        }
    }

    /// Says that other lanes work now than before.
    pub fn look_again(&mut self) {
        self.looks = [Look::default(); LANES_MAX];
    }

    fn confirm(&mut self) {
        let rest = self.blocks.get(self.confirmed..).unwrap_or_default();
        self.confirmed += rest.iter().take_while(|state| state.place == Place::Sent).count();
    }
}

fn is_trust(object: &ObjectId) -> bool {
    matches!(object, ObjectId::Trust(_))
}

/// The source blocks of a control object. They are of one length on every lane.
fn control_blocks(object: ObjectId, bytes: u32) -> impl DoubleEndedIterator<Item = (ObjectId, u32, Sbn)> {
    let source_blocks = bytes.max(1).div_ceil(crate::limits::BLOCK_BYTES as u32);
    (0..source_blocks).map(move |sbn| (object, bytes, Sbn(sbn)))
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

    const GAP: Duration = Duration::from_secs(5);

    fn via(slot: u8) -> Via {
        Via { slot: LaneSlot(slot), symbol_bytes: 1392, repair_percent: 10 }
    }

    fn begun(blocks: u32, round: u8, position: usize) -> Rounds {
        Rounds::new(RunId(1), plan(blocks), RoundSettings { rounds: 2, round_gap: GAP }, round, position)
    }

    /// What the only lane is to do.
    fn poll(rounds: &mut Rounds, now: Instant) -> Upcoming {
        rounds.poll(now, &via(0), LaneSet::default().with(LaneSlot(0)))
    }

    #[test]
    fn index_first_in_between_and_last_in_each_round() {
        let now = Instant::now();
        let mut rounds = begun(300, 0, 0);
        let mut objects = Vec::new();
        let mut windows = Vec::new();
        while let Upcoming::Job(job) = poll(&mut rounds, now) {
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
        let Upcoming::Wait(until) = poll(&mut rounds, now) else { panic!("no gap") };
        assert_eq!(until, now + Duration::from_secs(5));
        assert_eq!(rounds.position(), (1, 0));
        let mut second = 0;
        while let Upcoming::Job(job) = poll(&mut rounds, until) {
            second += usize::from(job.position.is_some_and(|_| job.window_start == 94));
            rounds.finished(&job);
        }
        assert_eq!(second, 300);
        assert_eq!(poll(&mut rounds, until), Upcoming::Complete);
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let now = Instant::now();
        let mut rounds = begun(10, 0, 0);
        let mut jobs = Vec::new();
        while let Upcoming::Job(job) = poll(&mut rounds, now) {
            jobs.push(job);
        }
        assert_eq!(poll(&mut rounds, now), Upcoming::Drain);
        for job in jobs.iter().filter(|job| job.position.is_some_and(|at| at != 4)) {
            rounds.finished(job);
        }
        assert_eq!(rounds.position(), (0, 4));
        let mut rounds = begun(10, 0, 4);
        let mut first = None;
        while let Upcoming::Job(job) = poll(&mut rounds, now) {
            first = first.or(job.position);
            rounds.finished(&job);
        }
        assert_eq!(first, Some(4));
    }

    #[test]
    fn a_fresher_trust_bundle_goes_out_instead_of_the_one_before() {
        let now = Instant::now();
        let mut rounds = begun(1, 0, 0);
        rounds.set_trust(ObjectTag([9; 8]), 4000);
        let mut objects = Vec::new();
        while let Upcoming::Job(job) = poll(&mut rounds, now) {
            objects.push(job.object);
            rounds.finished(&job);
        }
        let (trust, index) = (ObjectId::Trust(ObjectTag([9; 8])), ObjectId::Index(ObjectTag([3; 8])));
        assert_eq!(
            (objects.len(), &objects[..2], &objects[3..]),
            (5, &[trust, index][..], &[trust, index][..])
        );
    }

    /// Two lanes, of which the first is given `turns` jobs for each of the second; returns who carried which block.
    fn round_over_two(
        rounds: &mut Rounds,
        now: Instant,
        turns: usize,
    ) -> std::collections::BTreeMap<usize, u8> {
        let both = LaneSet::default().with(LaneSlot(0)).with(LaneSlot(1));
        let mut carried = std::collections::BTreeMap::new();
        let round = rounds.position().0;
        for turn in 0..1000 {
            let slot = u8::from(turn % (turns + 1) == turns);
            if let Upcoming::Job(job) = rounds.poll(now, &via(slot), both) {
                carried.extend(job.position.map(|position| (position, slot)));
                rounds.finished(&job);
            }
            if rounds.position().0 > round {
                break;
            }
        }
        carried
    }

    #[test]
    fn each_round_goes_over_the_other_lane() {
        let mut now = Instant::now();
        for turns in [1, 3] {
            let settings = RoundSettings { rounds: 4, round_gap: GAP };
            let mut rounds = Rounds::new(RunId(1), plan(100), settings, 0, 0);
            let first = round_over_two(&mut rounds, now, turns);
            now += GAP;
            let second = round_over_two(&mut rounds, now, turns);
            now += GAP;
            let third = round_over_two(&mut rounds, now, turns);
            assert_eq!((first.len(), second.len(), third.len()), (100, 100, 100));
            assert!(first.values().any(|slot| *slot == 0) && first.values().any(|slot| *slot == 1));
            assert!(first.iter().all(|(at, slot)| second[at] != *slot && third[at] == *slot), "{turns}");
        }
    }

    #[test]
    fn a_fast_lane_waits_a_gap_for_a_slow_one_and_no_longer() {
        let mut now = Instant::now();
        let both = LaneSet::default().with(LaneSlot(0)).with(LaneSlot(1));
        let mut rounds = begun(20, 0, 0);
        while let Upcoming::Job(job) = rounds.poll(now, &via(0), both) {
            rounds.finished(&job);
        }
        now += GAP;
        let mut carried = 0;
        let Upcoming::Wait(until) = (loop {
            match rounds.poll(now, &via(0), both) {
                Upcoming::Job(job) => {
                    carried += usize::from(job.position.is_some());
                    rounds.finished(&job);
                }
                other => break other,
            }
        }) else {
            panic!("it does not wait")
        };
        assert_eq!((carried, until), (0, now + GAP));
        // Or until the other one is known not to work.
        let alone = LaneSet::default().with(LaneSlot(0));
        rounds.look_again();
        let Upcoming::Job(job) = rounds.poll(now, &via(0), alone) else { panic!("it waits for nobody") };
        rounds.finished(&job);
        rounds.look_again();
        assert!(matches!(rounds.poll(until, &via(0), both), Upcoming::Wait(_)));
        while let Upcoming::Job(job) = rounds.poll(until + GAP, &via(0), both) {
            carried += usize::from(job.position.is_some());
            rounds.finished(&job);
        }
        assert_eq!((carried, rounds.is_complete()), (19, true));
    }

    #[test]
    fn what_a_dead_lane_gives_back_goes_over_another() {
        let now = Instant::now();
        let both = LaneSet::default().with(LaneSlot(0)).with(LaneSlot(1));
        let mut rounds = begun(10, 0, 0);
        let mut dead = Vec::new();
        while dead.len() < 5 {
            let Upcoming::Job(job) = rounds.poll(now, &via(1), both) else { panic!("nothing to do") };
            dead.push(job);
        }
        for job in &dead {
            rounds.give_back(LaneSlot(1), job);
        }
        rounds.look_again();
        let mut objects = Vec::new();
        while let Upcoming::Job(job) = poll(&mut rounds, now) {
            objects.push(job.object);
            rounds.finished(&job);
        }
        for job in &dead {
            assert!(objects.contains(&job.object), "{} never went out", job.object);
        }
        assert_eq!((rounds.position(), objects.len()), ((1, 0), 14), "ten blocks, trust and index twice");
    }

    #[test]
    fn what_went_out_with_a_release_need_not_go_twice_with_the_next() {
        let now = Instant::now();
        let mut old = begun(10, 0, 0);
        for _ in 0..6 {
            let Upcoming::Job(job) = poll(&mut old, now) else { panic!("nothing to do") };
            old.finished(&job);
        }
        let mut plan = plan(12);
        // One of those that went out is another one now.
        plan.blocks[1].hash = Blake3([9; 32]);
        let settings = RoundSettings { rounds: 2, round_gap: GAP };
        let mut new = Rounds::superseding(RunId(2), plan, settings, &old);
        let mut positions = Vec::new();
        while let Upcoming::Job(job) = poll(&mut new, now) {
            positions.extend(job.position);
            new.finished(&job);
        }
        assert_eq!(positions, [1, 4, 5, 6, 7, 8, 9, 10, 11]);
        while let Upcoming::Job(job) = poll(&mut new, now + GAP) {
            positions.extend(job.position);
            new.finished(&job);
        }
        assert_eq!((positions.len(), new.is_complete()), (21, true), "the second round sends all");
    }
}
