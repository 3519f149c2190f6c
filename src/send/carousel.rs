//! The carousel: the releases that are on their way, one of each channel, and the lanes that take their jobs from it.
//!
//! A job is one block, so an urgent channel overtakes a bulk one between two blocks, and the bulk one goes on where it
//! was. A channel that waits for its next round lets the others go. Channels of one priority share in octets
//! (start-time fair queueing, Goyal, Vin and Cheng 1996).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use super::rounds::{Job, LaneSet, LaneSlot, ReleasePlan, RoundSettings, Rounds, RunId, Upcoming, Via};
use crate::id::{Channel, ObjectTag};

/// What a channel gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSettings {
    /// A higher one overtakes.
    pub priority: u8,
    /// How its releases repeat.
    pub rounds: RoundSettings,
}

/// Where a release begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With all of its blocks, whatever went out before.
    Anew,
    /// Blocks that went out with the unfinished release that it supersedes count as sent in the first round.
    Superseding,
    /// At this block of this round, after a restart.
    At(u8, usize),
}

/// What a lane is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Read, encode and send this.
    Job(Job),
    /// There is nothing before then, or, if it is none, before something changes.
    Wait(Option<Instant>),
}

/// What is on its way of a channel: its newest release, and blocks of it that a receiver has asked for by a ticket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Resend(Channel),
    Release(Channel),
}

/// The priority of what a ticket asks for: before every release.
const RESEND_PRIORITY: u16 = u8::MAX as u16 + 1;

#[derive(Debug)]
struct Entry {
    rounds: Rounds,
    priority: u16,
    /// Octets that it had at the end of its last job, in the time of its priority.
    finish: u64,
}

/// The releases on their way.
#[derive(Debug, Default)]
pub struct Carousel {
    entries: BTreeMap<Line, Entry>,
    working: LaneSet,
    runs: u64,
    /// For each priority the octets at which the job that was given out last began.
    times: BTreeMap<u16, u64>,
}

impl Carousel {
    /// Puts blocks of a channel's newest release on that a ticket asks for, in place of what an earlier one did.
    pub fn put_resend(&mut self, plan: ReleasePlan, settings: ChannelSettings) -> RunId {
        self.runs += 1;
        let run = RunId(self.runs);
        let line = Line::Resend(plan.channel.clone());
        // The repair symbols of the release's own rounds have gone out.
        let rounds = Rounds::new(run, plan, settings.rounds, 0, 0).with_window_base(settings.rounds.rounds);
        self.entries.insert(line, Entry { rounds, priority: RESEND_PRIORITY, finish: 0 });
        run
    }

    /// Puts a release on, in place of an unfinished one of its channel. Its trust bundle becomes that of all; what a
    /// ticket asked for of the channel goes on with its index.
    pub fn put(&mut self, plan: ReleasePlan, settings: ChannelSettings, begin: Begin) -> RunId {
        self.runs += 1;
        let run = RunId(self.runs);
        let channel = plan.channel.clone();
        let (tag, bytes) = plan.trust;
        if let Some(resend) = self.entries.get_mut(&Line::Resend(channel.clone())) {
            resend.rounds.set_index(plan.number, plan.index);
        }
        let old = self.entries.remove(&Line::Release(channel.clone()));
        let finish = old.as_ref().map_or(0, |old| old.finish);
        let rounds = match (begin, &old) {
            (Begin::Superseding, Some(old)) => Rounds::superseding(run, plan, settings.rounds, &old.rounds),
            (Begin::At(round, position), _) => Rounds::new(run, plan, settings.rounds, round, position),
            (Begin::Anew | Begin::Superseding, _) => Rounds::new(run, plan, settings.rounds, 0, 0),
        };
        let priority = u16::from(settings.priority);
        self.entries.insert(Line::Release(channel), Entry { rounds, priority, finish });
        self.set_trust(tag, bytes);
        run
    }

    /// Has everything that is still to go out go with this trust bundle: there is one for all channels.
    pub fn set_trust(&mut self, tag: ObjectTag, bytes: u32) {
        let others = self.entries.values_mut().filter(|entry| entry.rounds.plan().trust != (tag, bytes));
        others.for_each(|entry| entry.rounds.set_trust(tag, bytes));
    }

    /// Says that a lane can send.
    pub fn lane_up(&mut self, slot: LaneSlot) {
        self.set_working(self.working.with(slot));
    }

    /// Says that a lane cannot send. What it has taken it gives back.
    pub fn lane_down(&mut self, slot: LaneSlot) {
        self.set_working(self.working.without(slot));
    }

    fn set_working(&mut self, working: LaneSet) {
        if working != self.working {
            self.working = working;
            self.entries.values_mut().for_each(|entry| entry.rounds.look_again());
        }
    }

    /// What a lane is to do next.
    pub fn poll(&mut self, now: Instant, via: &Via) -> Turn {
        let mut order: Vec<(Reverse<u16>, u64, &mut Entry)> = Vec::with_capacity(self.entries.len());
        for entry in self.entries.values_mut() {
            let time = self.times.get(&entry.priority).copied().unwrap_or(0);
            order.push((Reverse(entry.priority), entry.finish.max(time), entry));
        }
        order.sort_by_key(|(priority, start, entry)| (*priority, *start, entry.finish));
        let mut wake: Option<Instant> = None;
        for (_, start, entry) in order {
            match entry.rounds.poll(now, via, self.working) {
                Upcoming::Job(job) => {
                    entry.finish = start + job.symbols_bytes();
                    self.times.insert(entry.priority, start);
                    return Turn::Job(job);
                }
                Upcoming::Wait(until) => wake = Some(wake.map_or(until, |wake| wake.min(until))),
                Upcoming::Drain | Upcoming::Complete => {}
            }
        }
        Turn::Wait(wake)
    }

    fn of(&mut self, job: &Job) -> Option<&mut Rounds> {
        self.entries.values_mut().map(|entry| &mut entry.rounds).find(|rounds| rounds.run() == job.run)
    }

    /// Records that a job's symbols went out.
    pub fn finished(&mut self, job: &Job) {
        if let Some(rounds) = self.of(job) {
            rounds.finished(job);
        }
    }

    /// Takes back a job of a lane that cannot send it, or that is of an older trust bundle.
    pub fn give_back(&mut self, slot: LaneSlot, job: &Job) {
        if let Some(rounds) = self.of(job) {
            rounds.give_back(slot, job);
        }
    }

    /// Whether a job is worth sending: its release was not superseded, nor its trust bundle.
    pub fn is_current(&mut self, job: &Job) -> bool {
        self.of(job).is_some_and(|rounds| rounds.is_current(job))
    }

    /// Everything on its way: releases, and what tickets ask for.
    pub fn all(&self) -> impl Iterator<Item = &Rounds> {
        self.entries.values().map(|entry| &entry.rounds)
    }

    /// The releases on their way.
    pub fn releases(&self) -> impl Iterator<Item = &Rounds> {
        let releases = self.entries.iter().filter(|(line, _)| matches!(line, Line::Release(_)));
        releases.map(|(_, entry)| &entry.rounds)
    }

    /// The release of a channel that is on its way.
    pub fn release(&self, channel: &Channel) -> Option<&Rounds> {
        self.entries.get(&Line::Release(channel.clone())).map(|entry| &entry.rounds)
    }

    /// What a ticket asks for of a channel.
    pub fn resend(&self, channel: &Channel) -> Option<&Rounds> {
        self.entries.get(&Line::Resend(channel.clone())).map(|entry| &entry.rounds)
    }

    /// Takes a release off whose rounds are complete.
    pub fn remove(&mut self, run: RunId) {
        self.entries.retain(|_, entry| entry.rounds.run() != run);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::{Blake3, BlockId, BlockNo, PackId, ReleaseNo};
    use crate::release::index::NeededBlock;
    use crate::wire::ObjectId;

    const GAP: Duration = Duration::from_secs(60);

    fn plan(channel: &str, number: u64, blocks: u32) -> ReleasePlan {
        let pack = PackId(Blake3::of(channel.as_bytes()).tag().0);
        let block = |n| NeededBlock {
            id: BlockId { pack, block: BlockNo(n) },
            bytes: 100_000,
            hash: Blake3([0; 32]),
        };
        ReleasePlan {
            channel: channel.parse().unwrap(),
            number: ReleaseNo(number),
            trust: (ObjectTag([number as u8; 8]), 3000),
            index: (ObjectTag([3; 8]), 500),
            blocks: (0..blocks).map(block).collect(),
        }
    }

    fn settings(priority: u8) -> ChannelSettings {
        ChannelSettings { priority, rounds: RoundSettings { rounds: 2, round_gap: GAP } }
    }

    fn via(slot: u8) -> Via {
        Via { slot: LaneSlot(slot), symbol_bytes: 1392, repair_percent: 10 }
    }

    fn carousel(lanes: u8) -> Carousel {
        let mut carousel = Carousel::default();
        (0..lanes).for_each(|slot| carousel.lane_up(LaneSlot(slot)));
        carousel
    }

    /// The channel of the next job, which goes out at once; none if there is none now.
    fn step(carousel: &mut Carousel, now: Instant) -> Option<(String, Job)> {
        let Turn::Job(job) = carousel.poll(now, &via(0)) else { return None };
        let channel = carousel.releases().find(|rounds| rounds.run() == job.run).unwrap();
        let channel = channel.plan().channel.to_string();
        carousel.finished(&job);
        Some((channel, job))
    }

    fn drain(carousel: &mut Carousel, now: Instant) -> Vec<(String, Job)> {
        std::iter::from_fn(|| step(carousel, now)).collect()
    }

    #[test]
    fn an_urgent_channel_overtakes_and_the_bulk_one_keeps_its_place() {
        let now = Instant::now();
        let mut carousel = carousel(1);
        carousel.put(plan("bulk", 1, 50), settings(10), Begin::Anew);
        let mut jobs: Vec<_> = (0..20).map(|_| step(&mut carousel, now).unwrap()).collect();
        carousel.put(plan("urgent", 2, 5), settings(200), Begin::Anew);
        let urgent: Vec<_> = (0..9).map(|_| step(&mut carousel, now).unwrap()).collect();
        assert!(urgent.iter().all(|(channel, _)| channel == "urgent"), "{urgent:?}");
        jobs.extend(drain(&mut carousel, now));
        let bulk: Vec<usize> = jobs
            .iter()
            .filter(|(channel, _)| channel == "bulk")
            .filter_map(|(_, job)| job.position)
            .collect();
        assert!(bulk.into_iter().eq(0..50), "each block once, in its order");
        assert!(carousel.releases().all(Rounds::is_waiting));
        let second = drain(&mut carousel, now + GAP);
        assert_eq!(second.iter().filter(|(_, job)| job.position.is_some()).count(), 55);
        assert!(second[..9].iter().all(|(channel, _)| channel == "urgent"));
        assert!(carousel.releases().all(Rounds::is_complete));
    }

    #[test]
    fn a_channel_in_its_gap_lets_the_others_go() {
        let now = Instant::now();
        let mut carousel = carousel(1);
        carousel.put(plan("urgent", 1, 3), settings(200), Begin::Anew);
        drain(&mut carousel, now);
        assert_eq!(carousel.poll(now, &via(0)), Turn::Wait(Some(now + GAP)));
        carousel.put(plan("bulk", 2, 40), settings(10), Begin::Anew);
        let bulk: Vec<_> = (0..20).map(|_| step(&mut carousel, now).unwrap().0).collect();
        assert!(bulk.iter().all(|channel| channel == "bulk"));
        assert_eq!(step(&mut carousel, now + GAP).unwrap().0, "urgent");
    }

    #[test]
    fn equals_share_in_octets() {
        let now = Instant::now();
        let mut carousel = carousel(1);
        let mut small = plan("small", 1, 4000);
        small.blocks.iter_mut().for_each(|block| block.bytes = 1000);
        carousel.put(small, settings(10), Begin::Anew);
        carousel.put(plan("large", 2, 400), settings(10), Begin::Anew);
        let mut octets: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..1000 {
            let (channel, job) = step(&mut carousel, now).unwrap();
            *octets.entry(channel).or_default() += job.symbols_bytes();
        }
        let (small, large) = (octets["small"] as f64, octets["large"] as f64);
        assert!((0.8..1.25).contains(&(small / large)), "{octets:?}");
        // Who comes late has nothing to catch up.
        carousel.put(plan("late", 3, 400), settings(10), Begin::Anew);
        let late = (0..300).filter(|_| step(&mut carousel, now).unwrap().0 == "late").count();
        assert!((1..=20).contains(&late), "{late}");
    }

    #[test]
    fn a_newer_release_supersedes_and_what_was_taken_for_the_old_one_counts_for_nothing() {
        let now = Instant::now();
        let mut carousel = carousel(1);
        carousel.put(plan("main", 1, 10), settings(10), Begin::Anew);
        let Turn::Job(trust) = carousel.poll(now, &via(0)) else { panic!() };
        let Turn::Job(index) = carousel.poll(now, &via(0)) else { panic!() };
        let Turn::Job(block) = carousel.poll(now, &via(0)) else { panic!() };
        assert!(carousel.is_current(&block));
        for begin in [Begin::Superseding, Begin::Anew] {
            carousel.put(plan("main", 2, 10), settings(10), begin);
            for job in [&trust, &index, &block] {
                assert!(!carousel.is_current(job));
                carousel.finished(job);
                carousel.give_back(LaneSlot(0), job);
            }
        }
        let sent = drain(&mut carousel, now);
        assert_eq!(sent.iter().filter(|(_, job)| job.position.is_some()).count(), 10);
    }

    #[test]
    fn there_is_one_trust_bundle_for_all_channels() {
        let now = Instant::now();
        let mut carousel = carousel(1);
        carousel.put(plan("bulk", 1, 5), settings(10), Begin::Anew);
        let Turn::Job(stale) = carousel.poll(now, &via(0)) else { panic!("nothing to do") };
        assert_eq!(stale.object, ObjectId::Trust(ObjectTag([1; 8])));
        carousel.put(plan("urgent", 2, 1), settings(20), Begin::Anew);
        assert!(!carousel.is_current(&stale));
        carousel.give_back(LaneSlot(0), &stale);
        let sent = drain(&mut carousel, now);
        let trust = |(channel, job): &(String, Job)| match job.object {
            ObjectId::Trust(tag) => Some((channel.clone(), tag)),
            _ => None,
        };
        let trust: Vec<_> = sent.iter().filter_map(trust).collect();
        assert_eq!(trust.len(), 4, "{trust:?}");
        assert!(trust.iter().all(|(_, tag)| *tag == ObjectTag([2; 8])), "{trust:?}");
    }

    #[test]
    fn two_lanes_share_and_one_that_dies_is_made_good() {
        let now = Instant::now();
        let mut carousel = carousel(2);
        carousel.put(plan("main", 1, 40), settings(10), Begin::Anew);
        let mut out: Vec<usize> = Vec::new();
        let mut held = Vec::new();
        for turn in 0..20 {
            let Turn::Job(job) = carousel.poll(now, &via(turn % 2)) else { panic!("nothing to do") };
            if turn % 2 == 1 && turn > 8 {
                held.push(job);
            } else {
                carousel.finished(&job);
                out.extend(job.position);
            }
        }
        carousel.lane_down(LaneSlot(1));
        held.iter().for_each(|job| carousel.give_back(LaneSlot(1), job));
        out.extend(drain(&mut carousel, now).into_iter().filter_map(|(_, job)| job.position));
        out.sort_unstable();
        assert!(out.into_iter().eq(0..40), "every block went out in the first round, once");
        carousel.lane_up(LaneSlot(1));
        assert!(matches!(carousel.poll(now + GAP, &via(1)), Turn::Job(_)), "it is back by itself");
    }

    #[test]
    fn what_a_ticket_asks_for_goes_first_with_other_repair_symbols() {
        let mut carousel = carousel(1);
        let now = Instant::now();
        let run = carousel.put(plan("main", 1, 8), settings(255), Begin::Anew);
        let first = loop {
            match carousel.poll(now, &via(0)) {
                Turn::Job(job) if job.position.is_some() => break job,
                Turn::Job(job) => carousel.finished(&job),
                other => panic!("{other:?}"),
            }
        };
        carousel.finished(&first);
        let mut asked = plan("main", 1, 8);
        asked.blocks.truncate(2);
        let resend = carousel.put_resend(asked.clone(), settings(255));
        let mut blocks = Vec::new();
        while blocks.len() < 2 {
            let Turn::Job(job) = carousel.poll(now, &via(0)) else { panic!("there is nothing to do") };
            assert_eq!(job.run, resend);
            blocks.extend(job.position.map(|_| job));
            carousel.finished(&job);
        }
        assert_eq!(blocks[0].object, first.object);
        assert_ne!(blocks[0].window_start, first.window_start);
        // A newer release is what its blocks go with from then on.
        let mut newer = plan("main", 2, 9);
        newer.index = (ObjectTag([9; 8]), 700);
        carousel.put(newer, settings(255), Begin::Anew);
        let going_on = carousel.resend(&"main".parse().unwrap()).unwrap();
        assert_eq!((going_on.plan().number, going_on.plan().index.1), (ReleaseNo(2), 700));
        assert_eq!(going_on.plan().blocks, asked.blocks);
        assert!(carousel.releases().all(|rounds| rounds.run() != resend && rounds.run() != run));
        assert_eq!(carousel.all().count(), 2);
    }
}
