//! One seed from the first datagram to the last, with everything that must hold on the way.

use std::time::{Duration, Instant};

use diodesync::fec::Added;
use diodesync::id::SessionNo;
use diodesync::recv::{BlockKey, CollectorStats};
use diodesync::send::ReleasePlan;
use diodesync::wire::SymbolHeader;

use crate::model::{Model, Verdict};
use crate::receiver::{Disk, High};
use crate::scenario::Scenario;
use crate::sender::{Low, Next, Sent, Source, Truth};
use crate::weather::{Arrival, Path, Weather};
use crate::world::{Rng, start};

/// What a seed showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub datagrams: u64,
    pub refused: u64,
    pub repaired: u64,
    /// Whether the configured rounds were enough.
    pub is_complete: bool,
}

struct Story<'a> {
    scenario: &'a Scenario,
    source: &'a Source,
    now: Instant,
    path: Path,
    /// None before it joins.
    high: Option<High<'a>>,
    model: Model,
    /// What must have become ready since the actions were done last.
    due: Vec<BlockKey>,
    idle: usize,
    arrived: usize,
    dice: Rng,
    outcome: Outcome,
}

/// Lives through a seed.
pub fn run(seed: u64) -> Outcome {
    tell(&Scenario::from_seed(seed))
}

/// Lives through a scenario.
fn tell(scenario: &Scenario) -> Outcome {
    let source = Source::new(scenario);
    let mut story = Story::new(scenario, &source);
    let last = story.rounds(source.plan.clone());
    story.outcome.is_complete = story.high().missing().is_empty();
    story.resend(SessionNo(last.0 + 1));
    assert_eq!(story.high().missing(), []);
    story.outcome
}

/// Sends all rounds, and lets sealed datagrams arrive last one first, `span` at a time. Returns how many there were.
pub fn tell_backwards(scenario: &Scenario, span: usize) -> u64 {
    let source = Source::new(scenario);
    let mut story = Story::new(scenario, &source);
    let number = SessionNo(scenario.first_session);
    let mut low = Low::start(&source, source.plan.clone(), scenario, number, (0, 0), story.now);
    let mut sealed = Vec::new();
    story.high();
    loop {
        match low.poll(story.now) {
            Next::Done => break,
            Next::Sleep(until) => story.now = until,
            Next::Datagram(Sent { octets, truth: Truth::Session(number) }) => {
                story.arrive(vec![Arrival { octets, truth: Truth::Session(number) }]);
            }
            Next::Datagram(Sent { octets, truth }) => sealed.push(Arrival { octets, truth }),
        }
    }
    let count = sealed.len() as u64;
    let oldest = sealed[0].clone();
    for chunk in sealed.chunks(span) {
        story.arrive(chunk.iter().rev().cloned().collect());
    }
    story.settle();
    let high = story.high();
    assert_eq!((high.intake().stats().lost(), high.missing()), (0, Vec::new()));
    let refused = story.outcome.refused;
    story.arrive(vec![oldest]);
    assert_eq!((refused, story.outcome.refused), (0, 1), "what is older than the window is refused");
    count
}

impl<'a> Story<'a> {
    fn new(scenario: &'a Scenario, source: &'a Source) -> Self {
        Self {
            scenario,
            source,
            now: start(),
            path: Path::new(scenario.seed, scenario.weather.clone(), scenario.repair_percent),
            high: None,
            model: Model::default(),
            due: Vec::new(),
            idle: 0,
            arrived: 0,
            dice: Rng::new(scenario.seed, "dice"),
            outcome: Outcome::default(),
        }
    }

    fn high(&mut self) -> &mut High<'a> {
        let (source, capacity) = (self.source, self.scenario.capacity);
        self.high.get_or_insert_with(|| High::start(source, capacity, Disk::default()))
    }

    /// All rounds that are configured, with the restarts. Returns the last session.
    fn rounds(&mut self, plan: ReleasePlan) -> SessionNo {
        let scenario = self.scenario;
        let mut number = SessionNo(scenario.first_session);
        let mut low = Low::start(self.source, plan.clone(), scenario, number, (0, 0), self.now);
        let mut sender_restarts = scenario.sender_restarts.iter().copied().peekable();
        let mut receiver_restarts = scenario.receiver_restarts.iter().copied().peekable();
        let mut sent = 0;
        let mut naps = 0;
        loop {
            if sender_restarts.next_if(|at| *at <= sent).is_some() {
                // What is on its way arrives while the sender is down.
                self.sleep(self.now + Duration::from_secs(2));
                number = SessionNo(number.0 + 1 + self.dice.range(0, 3) as u64);
                let position = low.position();
                low = Low::start(self.source, plan.clone(), scenario, number, position, self.now);
            }
            if let Some((_, is_clean)) = receiver_restarts.next_if(|(at, _)| *at <= sent) {
                self.restart_receiver(is_clean);
            }
            let round = low.position().0;
            match low.poll(self.now) {
                Next::Done => break,
                Next::Sleep(until) => {
                    assert!(until > self.now, "the sender asks to be woken in the past");
                    naps += 1;
                    assert!(naps < 10_000_000, "the sender stalls");
                    self.sleep(until);
                }
                Next::Datagram(datagram) => {
                    sent += 1;
                    let arrivals = self.path.carry(datagram);
                    if sent > scenario.joins_after {
                        self.high();
                    }
                    self.arrive(arrivals);
                }
            }
            if scenario.first_round_suffices && round == 0 && low.position().0 > 0 {
                self.settle();
                assert_eq!(self.high().missing(), [], "the first round did not suffice");
            }
        }
        self.settle();
        low.number()
    }

    /// What the operator does at the end: send again what is missing, in fair weather.
    fn resend(&mut self, number: SessionNo) {
        // A flood of forged sessions is over.
        self.sleep(self.now + Duration::from_secs(2));
        let missing = self.high().missing();
        let mut plan = self.source.plan.clone();
        plan.blocks.retain(|block| missing.contains(&block.id));
        let fair = Scenario { rounds: 1, ..self.scenario.clone() };
        self.path = Path::new(fair.seed, Weather::default(), fair.repair_percent);
        let mut low = Low::start(self.source, plan, &fair, number, (0, 0), self.now);
        loop {
            match low.poll(self.now) {
                Next::Done => break,
                Next::Sleep(until) => self.sleep(until),
                Next::Datagram(datagram) => {
                    let arrivals = self.path.carry(datagram);
                    self.arrive(arrivals);
                }
            }
        }
        self.settle();
    }

    fn sleep(&mut self, until: Instant) {
        if until.duration_since(self.now) > Duration::from_millis(100) {
            self.settle();
        }
        self.now = until;
    }

    fn settle(&mut self) {
        let arrivals = self.path.settle();
        self.arrive(arrivals);
        if self.high.is_some() {
            self.act();
            self.check_counters();
        }
    }

    fn restart_receiver(&mut self, is_clean: bool) {
        let Some(mut high) = self.high.take() else { return };
        if is_clean {
            // The daemon reads no datagram any more, and does what is due.
            let ready = high.act(self.now);
            self.expect_ready(ready);
            self.model.record();
        }
        let disk = high.stop(self.now, is_clean);
        if is_clean {
            let kept: usize = disk.spilled.values().map(Vec::len).sum();
            let known: usize = self.model.incomplete().values().map(|set| set.len()).sum();
            assert_eq!(kept, known, "a clean stop lost symbols");
        }
        let disk_blocks = disk.spilled.clone();
        self.model.restart(&disk_blocks, disk.objects.keys().copied());
        // What became ready and was not decoded is gone as if it had never come.
        let lost = std::mem::take(&mut self.due);
        lost.iter().for_each(|key| self.model.forget(key));
        self.high = Some(High::start(self.source, self.scenario.capacity, disk));
    }

    fn arrive(&mut self, arrivals: Vec<Arrival>) {
        if self.high.is_none() {
            return arrivals.iter().for_each(|arrival| self.path.note_gone(&arrival.truth));
        }
        for arrival in arrivals {
            self.outcome.datagrams += 1;
            let expected = self.model.judge(self.now, &arrival);
            let now = self.now;
            let found = self.high().handle(now, &arrival.octets);
            let is_lie_refused =
                arrival.truth == Truth::Lie && expected == Verdict::Refused && found == Verdict::Replayed;
            assert!(
                found == expected || is_lie_refused,
                "expected {expected:?}, found {found:?}: {arrival:?}"
            );
            match found {
                Verdict::Symbol(header) => self.add(&header),
                Verdict::Refused | Verdict::Replayed => {
                    self.outcome.refused += 1;
                    // What overtakes its session is as good as lost.
                    self.path.note_gone(&arrival.truth);
                }
                _ => {}
            }
            self.arrived += 1;
            self.idle += 1;
            if self.dice.chance(self.scenario.idle_spills) {
                self.high().spill_idle(now, Duration::ZERO);
            }
            if self.idle >= self.scenario.laziness {
                self.act();
            }
            if self.scenario.record_every > 0 && self.arrived.is_multiple_of(self.scenario.record_every) {
                self.high().record();
                self.model.record();
            }
        }
    }

    fn add(&mut self, header: &SymbolHeader) {
        if self.model.add(header) == Some(Added::Enough) {
            self.due.push(BlockKey { object: header.object, sbn: header.sbn, oti: header.oti });
        }
    }

    fn act(&mut self) {
        self.idle = 0;
        let now = self.now;
        let ready = self.high().act(now);
        self.expect_ready(ready);
    }

    /// Exactly what the model says is ready: neither later nor earlier.
    fn expect_ready(&mut self, mut ready: Vec<BlockKey>) {
        let mut due = std::mem::take(&mut self.due);
        ready.sort_unstable();
        due.sort_unstable();
        assert_eq!(ready, due, "what is ready is not what must be ready");
    }

    fn check_counters(&mut self) {
        let (high, model) = (self.high.as_ref().unwrap(), &self.model);
        let stats = high.intake().stats();
        assert_eq!((stats.received, stats.authentic), (model.received, model.authentic));
        assert_eq!(stats.lost(), model.lost(), "losses");
        let collected = high.collector_stats();
        assert_eq!(collected.blocks, model.stats.blocks);
        // Who looks rarely counts what waits on disk as new.
        if self.scenario.laziness == 1 {
            let expected = CollectorStats {
                symbols: collected.symbols,
                duplicates: collected.duplicates,
                ..model.stats
            };
            assert_eq!(collected, expected);
            // A symbol of a spilled block may be taken for new, once for each time that the block came back.
            let (taken, expected) =
                (collected.symbols - model.stats.symbols, model.stats.duplicates - collected.duplicates);
            assert!(taken == expected && taken <= high.loads(), "{collected:?} {:?}", model.stats);
        }
        self.outcome.repaired = self.outcome.repaired.max(collected.repaired);
        // What counts as lost is what the path swallowed.
        if self.scenario.receiver_restarts.is_empty() {
            let (session, lost) = model.lost_now();
            let gone = |number: &u64| self.path.gone.contains(&(session, *number));
            assert!(lost.iter().all(gone), "counted as lost, and it was not: {lost:?}");
        }
    }
}
