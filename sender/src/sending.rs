//! What is being sent: the carousel, what goes with it, and how far it is. The lanes take their jobs here.
//!
//! The carousel's lock and the store's are never held at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diodesync::id::{Blake3, BlockId, Channel, ReleaseNo};
use diodesync::journal::{JournalExt, Key, Progress, SledJournal};
use diodesync::send::{
    Begin, Carousel, ChannelSettings, Job, LaneSlot, ReleasePlan, Rounds, RunId, Turn, Via,
};
use diodesync::trust::Bundle;
use diodesync::wire::{Beacon, BeaconChannel};
use diodesync_control::clock_ms;

use crate::config::Channels;
use crate::ingest::SharedStore;
use crate::lane::Control;

/// How often progress is journalled.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Sending {
    state: Mutex<State>,
    /// Rises with everything that may make a job that a lane has worthless.
    changes: AtomicU64,
    channels: Mutex<Channels>,
    store: SharedStore,
    journal: Arc<SledJournal>,
}

#[derive(Debug, Default)]
struct State {
    carousel: Carousel,
    trust: Arc<Vec<u8>>,
    indexes: BTreeMap<RunId, Arc<Vec<u8>>>,
    /// What went out last of each channel.
    complete: BTreeMap<Channel, View>,
    /// Tickets that are being answered: the facts that say so, by what is sent for them.
    tickets: BTreeMap<RunId, BTreeSet<PathBuf>>,
    journalled: BTreeMap<Channel, (RunId, u8, usize)>,
    journalled_at: Option<Instant>,
}

/// A release to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// What has to be sent of it.
    pub plan: ReleasePlan,
    /// What is not in packs.
    pub control: Control,
    /// Where to begin.
    pub begin: Begin,
}

/// How far a release is.
#[derive(Debug, Clone)]
pub struct View {
    /// Its number.
    pub number: ReleaseNo,
    /// The round under way, from 0; that of all rounds when they are complete.
    pub round: u8,
    /// Blocks of this round that went out, and their octets.
    pub sent: (usize, u64),
    /// Blocks of a round, and their octets.
    pub total: (usize, u64),
    /// Whether the next round waits for its time.
    pub is_waiting: bool,
    /// Rounds that it has.
    pub rounds: u8,
}

impl View {
    fn of(rounds: &Rounds) -> Self {
        let blocks = &rounds.plan().blocks;
        Self {
            number: rounds.plan().number,
            round: rounds.position().0,
            sent: rounds.sent(),
            total: (blocks.len(), blocks.iter().map(|block| u64::from(block.bytes)).sum()),
            is_waiting: rounds.is_waiting(),
            rounds: rounds.rounds(),
        }
    }
}

impl State {
    /// Forgets what belongs to nothing that is on its way any more.
    fn forget_superseded(&mut self) {
        let Self { carousel, indexes, tickets, .. } = self;
        let is_on_its_way = |run: &RunId| carousel.all().any(|rounds| rounds.run() == *run);
        indexes.retain(|run, _| is_on_its_way(run));
        let over: Vec<RunId> = tickets.keys().filter(|run| !is_on_its_way(run)).copied().collect();
        for path in over.iter().filter_map(|run| tickets.remove(run)).flatten().collect::<BTreeSet<_>>() {
            if !tickets.values().any(|others| others.contains(&path)) {
                tracing::info!(ticket = %path.display(), "what the ticket asked for went out");
                // If it stays, it is answered once more after a restart.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Sending {
    /// Nothing is sent yet.
    pub fn new(channels: Channels, store: SharedStore, journal: Arc<SledJournal>) -> Self {
        let channels = Mutex::new(channels);
        Self { state: Mutex::default(), changes: AtomicU64::new(0), channels, store, journal }
    }

    /// Has what is sent from now on get this; what is on its way goes on with what it has.
    pub fn set_channels(&self, channels: Channels) {
        *self.channels.lock().unwrap_or_else(PoisonError::into_inner) = channels;
    }

    fn settings(&self, channel: &Channel) -> ChannelSettings {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).of(channel).carousel()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Rises with everything that may make a job that a lane has worthless: see [`Sending::is_current`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Has a release sent, in place of an unfinished one of its channel.
    pub fn send(&self, outgoing: Outgoing) {
        let Outgoing { plan, control, begin } = outgoing;
        let settings = self.settings(&plan.channel);
        tracing::info!(
            channel = %plan.channel, release = plan.number.0, blocks = plan.blocks.len(), ?begin,
            priority = settings.priority, "sending"
        );
        let (mut state, channel, index) = (self.state(), plan.channel.clone(), control.index);
        state.complete.remove(&channel);
        let run = state.carousel.put(plan, settings, begin);
        state.trust = control.trust;
        state.indexes.insert(run, index.clone());
        // What a ticket asked for of this channel goes on with this index.
        if let Some(resend) = state.carousel.resend(&channel).map(Rounds::run) {
            state.indexes.insert(resend, index);
        }
        state.forget_superseded();
        drop(state);
        self.changed();
    }

    /// Has what a ticket asks for sent before everything else, together with what earlier tickets of the channel asked
    /// for and is not out yet. The fact `ticket` goes when all of it went out.
    pub fn resend(&self, outgoing: Outgoing, ticket: PathBuf) {
        let Outgoing { mut plan, control, .. } = outgoing;
        let settings = self.settings(&plan.channel);
        let mut state = self.state();
        let mut tickets = BTreeSet::from([ticket]);
        if let Some(earlier) = state.carousel.resend(&plan.channel) {
            let asked: BTreeSet<BlockId> = plan.blocks.iter().map(|block| block.id).collect();
            plan.blocks.extend(earlier.plan().blocks.iter().filter(|block| !asked.contains(&block.id)));
            tickets.extend(state.tickets.get(&earlier.run()).into_iter().flatten().cloned());
        }
        tracing::info!(
            channel = %plan.channel, release = plan.number.0, blocks = plan.blocks.len(), "sending again, by a ticket"
        );
        let run = state.carousel.put_resend(plan, settings);
        state.indexes.insert(run, control.index);
        state.tickets.insert(run, tickets);
        state.forget_superseded();
        drop(state);
        self.changed();
    }

    /// The blocks that tickets ask for: retention keeps them.
    pub fn resent_blocks(&self) -> BTreeSet<BlockId> {
        let state = self.state();
        let resends =
            state.tickets.keys().filter_map(|run| state.carousel.all().find(|rounds| rounds.run() == *run));
        resends.flat_map(|rounds| &rounds.plan().blocks).map(|block| block.id).collect()
    }

    /// How much of what a ticket asked for of a channel is still to go out.
    pub fn resending(&self, channel: &Channel) -> Option<View> {
        self.state().carousel.resend(channel).map(View::of)
    }

    /// Has everything that is still to go out go with this metadata.
    pub fn trust_changed(&self, bundle: &Bundle) {
        let trust = bundle.encode();
        let mut state = self.state();
        state.carousel.set_trust(Blake3::of(&trust).tag(), trust.len() as u32);
        state.trust = Arc::new(trust);
        drop(state);
        self.changed();
    }

    /// What a lane is to do next, and what it needs for it.
    pub fn poll(&self, now: Instant, via: &Via) -> Result<(Job, Control), Option<Instant>> {
        let mut state = self.state();
        match state.carousel.poll(now, via) {
            Turn::Job(job) => {
                let index = state.indexes.get(&job.run).cloned().unwrap_or_default();
                Ok((job, Control { trust: state.trust.clone(), index }))
            }
            Turn::Wait(until) => Err(until),
        }
    }

    /// Whether a job is worth sending.
    pub fn is_current(&self, job: &Job) -> bool {
        self.state().carousel.is_current(job)
    }

    /// Records that jobs went out.
    pub fn finished(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut state = self.state();
        jobs.into_iter().for_each(|job| state.carousel.finished(&job));
    }

    /// Takes back the jobs of a lane that does not send them.
    pub fn give_back(&self, slot: LaneSlot, jobs: impl IntoIterator<Item = Job>) {
        let mut state = self.state();
        jobs.into_iter().for_each(|job| state.carousel.give_back(slot, &job));
    }

    /// Says whether a lane can send.
    pub fn set_working(&self, slot: LaneSlot, works: bool) {
        let mut state = self.state();
        if works { state.carousel.lane_up(slot) } else { state.carousel.lane_down(slot) }
    }

    /// Records the ends of last rounds, and now and then how far the others are.
    pub fn settle(&self, now: Instant) {
        let mut state = self.state();
        let is_due = state.journalled_at.is_none_or(|then| now.duration_since(then) >= PROGRESS_INTERVAL);
        let ended = state.carousel.all().any(Rounds::is_complete);
        if is_due {
            state.journalled_at = Some(now);
        }
        drop(state);
        if ended {
            self.complete();
        }
        if is_due {
            self.journal_progress();
        }
    }

    /// The fact first, so that whoever sees that the rounds are over can build on it.
    fn complete(&self) {
        self.complete_tickets();
        let ended: Vec<(RunId, Channel, View)> = {
            let state = self.state();
            let ended = state.carousel.releases().filter(|rounds| rounds.is_complete());
            ended.map(|rounds| (rounds.run(), rounds.plan().channel.clone(), View::of(rounds))).collect()
        };
        for (run, channel, view) in ended {
            let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            // Another lane may have been faster, and a newer release too.
            let is_newest = store.newest.get(&channel).is_none_or(|index| index.number == view.number);
            if is_newest && let Err(error) = store.commit_complete(&channel, view.number) {
                tracing::error!(%error, "the end of the rounds is not recorded; they will be sent again");
            }
            drop(store);
            let mut state = self.state();
            if state.carousel.release(&channel).is_some_and(|rounds| rounds.run() == run) {
                tracing::info!(%channel, release = view.number.0, "all rounds went out");
                state.carousel.remove(run);
                state.indexes.remove(&run);
                state.complete.insert(channel, view);
            }
        }
    }

    /// Takes off what tickets asked for and went out in all rounds, and forgets the tickets of which that was all.
    fn complete_tickets(&self) {
        let mut state = self.state();
        let State { carousel, tickets, .. } = &*state;
        let ended =
            carousel.all().filter(|rounds| rounds.is_complete() && tickets.contains_key(&rounds.run()));
        let ended: Vec<RunId> = ended.map(Rounds::run).collect();
        for run in ended {
            state.carousel.remove(run);
        }
        state.forget_superseded();
    }

    /// Journals how far each release is.
    pub fn journal_progress(&self) {
        let mut state = self.state();
        let at = |rounds: &Rounds| (rounds.run(), rounds.position().0, rounds.position().1);
        let moved: Vec<_> = state
            .carousel
            .releases()
            .filter(|rounds| state.journalled.get(&rounds.plan().channel) != Some(&at(rounds)))
            .map(|rounds| (rounds.plan().channel.clone(), rounds.plan().number, at(rounds)))
            .collect();
        for (channel, _, at) in &moved {
            state.journalled.insert(channel.clone(), *at);
        }
        drop(state);
        for (channel, number, (_, round, position)) in moved {
            let progress = Progress { release: number.0, round, position: position as u64 };
            if let Err(error) = self.journal.write(&Key::Progress(channel), &progress) {
                tracing::debug!(%error, "progress is not journalled; after a restart the round begins anew");
            }
        }
    }

    /// How far a channel's release is, and whether it is on its way still.
    pub fn view(&self, channel: &Channel) -> Option<(View, bool)> {
        let state = self.state();
        let on_its_way = state.carousel.release(channel).map(|rounds| (View::of(rounds), true));
        on_its_way.or_else(|| state.complete.get(channel).cloned().map(|view| (view, false)))
    }

    /// Rounds of the newest release of this channel.
    pub fn rounds(&self, channel: &Channel) -> u8 {
        match self.view(channel) {
            Some((view, _)) => view.rounds,
            None => self.settings(channel).rounds.rounds,
        }
    }

    /// What a beacon says now, on a lane of this rate.
    pub fn beacon(&self, rate_bits_per_s: Option<u64>) -> Beacon {
        let (on_their_way, queued_bytes) = {
            let state = self.state();
            let mut done: BTreeMap<(Channel, ReleaseNo), u8> = BTreeMap::new();
            let mut queued = 0;
            for resend in state.carousel.all().filter(|rounds| state.tickets.contains_key(&rounds.run())) {
                let view = View::of(resend);
                queued += view.total.1 - view.sent.1;
            }
            for rounds in state.carousel.releases() {
                let view = View::of(rounds);
                done.insert((rounds.plan().channel.clone(), view.number), view.round);
                queued += view.total.1 - view.sent.1;
            }
            (done, queued)
        };
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let channels = store.newest.values().map(|index| {
            let rounds = self.rounds(&index.channel);
            let rounds_done = match on_their_way.get(&(index.channel.clone(), index.number)) {
                Some(round) => *round,
                None => match store.complete(&index.channel) {
                    Ok(Some(complete)) if complete >= index.number => rounds,
                    _ => 0,
                },
            };
            BeaconChannel { channel: index.channel.clone(), newest: index.number, rounds_done, rounds }
        });
        Beacon {
            is_full: false,
            clock_ms: clock_ms(),
            rate_bits_per_s: rate_bits_per_s.unwrap_or(0),
            queued_bytes,
            timestamp: store.bundle.as_ref().map(|bundle| bundle.timestamp.clone()).unwrap_or_default(),
            channels: channels.collect(),
        }
    }
}
