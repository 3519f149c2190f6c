//! What is promised with a number: the reordering window, and the burst that interleaving spreads.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use diodesync::fec::{Codec, Oti, RepairUse, repair_window};
use diodesync::id::{BlockId, BlockNo, PackId, Sbn};
use diodesync::limits::REPLAY_WINDOW;
use diodesync::send::{Interleaver, Job, RunId};
use diodesync::wire::ObjectId;

use crate::scenario::Scenario;
use crate::story;
use crate::weather::Weather;
use crate::world::Rng;

#[test]
fn datagrams_may_come_in_any_order_within_the_whole_window() {
    let scenario = Scenario {
        blocks: vec![6000; 1300],
        baseline_blocks: 0,
        symbol_bytes: 64,
        repair_percent: 10,
        rounds: 1,
        round_gap: Duration::ZERO,
        depth: 12,
        rate_bits_per_s: None,
        first_session: 1,
        capacity: 192,
        laziness: 1,
        record_every: 0,
        idle_spills: 0,
        weather: Weather::default(),
        joins_after: 0,
        sender_restarts: Vec::new(),
        receiver_restarts: Vec::new(),
        first_round_suffices: true,
        ..Scenario::from_seed(0)
    };
    let sealed = story::tell_backwards(&scenario, REPLAY_WINDOW as usize);
    assert!(sealed > REPLAY_WINDOW, "{sealed} datagrams do not fill the window");
}

fn job(number: u32, bytes: usize, percent: u32) -> (Job, Vec<u8>) {
    let oti = Oti::for_object(bytes as u32, 64, RepairUse::Data);
    let window = repair_window(oti.source_symbols(Sbn(0)) as usize, percent) as u32;
    let job = Job {
        run: RunId(1),
        object: ObjectId::Block(BlockId { pack: PackId([1; 8]), block: BlockNo(number) }),
        oti,
        sbn: Sbn(0),
        window_start: 0,
        window_symbols: window.min(oti.repair_symbols()),
        position: None,
        hash: None,
        round: 0,
    };
    (job, vec![7; bytes])
}

/// As long as the interleaver is full, a burst of n datagrams takes at most half more than n / depth from a block, give
/// or take three: half more from the one whose pace is the fastest among slow ones, two for the odd turn, one for the
/// block that moves up when another is through.
#[test]
fn a_burst_is_spread_over_the_depth() {
    for seed in 0..200 {
        let rng = &mut Rng::new(seed, "burst");
        let depth = rng.range(1, 16);
        let is_even = rng.chance(500);
        let mut codec = Codec::default();
        let mut interleaver = Interleaver::new(depth);
        let burst = depth * rng.range(1, 10);
        let mut recent: VecDeque<ObjectId> = VecDeque::new();
        let mut taken: BTreeMap<ObjectId, usize> = BTreeMap::new();
        let mut next = 0..60;
        loop {
            while interleaver.has_room()
                && let Some(number) = next.next()
            {
                let bytes = if is_even { 6400 } else { rng.range(1, 6400) };
                let (job, octets) = job(number, bytes, 10);
                interleaver.push(job, codec.encode(job.oti, job.sbn, octets, Vec::new()));
            }
            if interleaver.has_room() {
                break;
            }
            let mut sent = None;
            interleaver.next_symbol(|header, _| sent = Some(header.object)).unwrap();
            recent.extend(sent);
            *taken.entry(sent.unwrap()).or_default() += 1;
            if recent.len() > burst {
                *taken.get_mut(&recent.pop_front().unwrap()).unwrap() -= 1;
            }
            let most = taken.values().max().unwrap();
            assert!(
                *most <= (3 * burst).div_ceil(2 * depth) + 3,
                "seed {seed}: {most} of one block in {burst} datagrams at depth {depth}"
            );
        }
    }
}

/// Blocks that begin together are not through together: who encodes, and who decodes, has one at a time to do.
#[test]
fn the_ends_of_blocks_lie_apart() {
    let (depth, bytes) = (32, 6400);
    let mut codec = Codec::default();
    let mut interleaver = Interleaver::new(depth);
    let mut next = 0..20 * depth as u32;
    let (mut sent, mut ends) = (0usize, Vec::new());
    loop {
        while interleaver.has_room()
            && let Some(number) = next.next()
        {
            let (job, octets) = job(number, bytes, 10);
            interleaver.push(job, codec.encode(job.oti, job.sbn, octets, Vec::new()));
        }
        if interleaver.has_room() {
            break;
        }
        let finished = interleaver.next_symbol(|_, _| ()).unwrap();
        sent += 1;
        ends.extend(finished.0.map(|_| sent));
    }
    // After a few blocks in each place: while as much goes out as four blocks have, how many are through?
    let block = sent / ends.len();
    let late = ends.split_off(8 * depth);
    let most =
        late.iter().map(|end| late.iter().filter(|other| (*end..end + 4 * block).contains(other)).count());
    let most = most.max().unwrap();
    assert!(most <= 10, "{most} blocks of {depth} are through while 4 should be");
}

#[test]
fn every_symbol_of_a_round_goes_out_once() {
    for seed in 0..100 {
        let rng = &mut Rng::new(seed, "once");
        let mut codec = Codec::default();
        let mut interleaver = Interleaver::new(rng.range(1, 8));
        let mut sent: BTreeMap<ObjectId, Vec<u32>> = BTreeMap::new();
        let mut finished = BTreeMap::new();
        let mut next = 0..12;
        loop {
            while interleaver.has_room()
                && let Some(number) = next.next()
            {
                let (mut job, octets) = job(number, rng.range(1, 6400), 10);
                job.window_start = rng.number() as u32;
                interleaver.push(job, codec.encode(job.oti, job.sbn, octets, Vec::new()));
            }
            let symbol = interleaver.next_symbol(|header, symbol| {
                assert_eq!(symbol.len(), header.oti.symbol_bytes());
                sent.entry(header.object).or_default().push(header.esi.0);
            });
            let Some(done) = symbol else { break };
            finished.extend(done.0.map(|(job, _)| (job.object, job)));
        }
        assert_eq!(finished.len(), 12, "seed {seed}");
        for (object, mut esis) in sent {
            let job = finished[&object];
            let k = job.oti.source_symbols(Sbn(0));
            assert_eq!(esis.len() as u32, k + job.window_symbols, "seed {seed}");
            esis.sort_unstable();
            esis.dedup();
            assert_eq!(esis.len() as u32, k + job.window_symbols, "seed {seed}: a symbol twice");
            assert!(esis.iter().take(k as usize).copied().eq(0..k), "seed {seed}: source symbols first");
        }
    }
}
