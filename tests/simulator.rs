//! A seeded link simulator: the pure `send` and `recv` on a virtual clock, with bad weather between them.
//!
//! A seed decides a release, a lane, the weather on it, and the restarts of either end (`simulator/scenario.rs`). The
//! low side (`sender.rs`) and the high side (`receiver.rs`) are driven as the daemons drive them; nothing leads back.
//! A model of sets (`model.rs`) says of each datagram what must become of it, and of each source block when it must be
//! ready; the story (`story.rs`) compares after every datagram:
//!
//! - each datagram is taken or refused exactly as the model says, so no lie and no replay is taken as new;
//! - a source block is ready with the symbol that makes it so, neither earlier nor later, and is the right one;
//! - the receiver's memory keeps to its bound, and its counters agree with what the path swallowed;
//! - within the repair budget the first round suffices; otherwise everything is complete once enough arrived.
//!
//! A failure prints its seed. `DIODESYNC_SEED=N` lives through that one alone, `DIODESYNC_SEEDS=N` through the first N.

#[path = "simulator/model.rs"]
mod model;
#[path = "simulator/promises.rs"]
mod promises;
#[path = "simulator/receiver.rs"]
mod receiver;
#[path = "simulator/scenario.rs"]
mod scenario;
#[path = "simulator/sender.rs"]
mod sender;
#[path = "simulator/story.rs"]
mod story;
#[path = "simulator/weather.rs"]
mod weather;
#[path = "simulator/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 2000;

/// Seeds that found a bug once.
const REGRESSIONS: &[u64] = &[45, 54];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Lives through seeds on all cores; names those that fail.
fn live_through(seeds: &[u64]) -> Vec<story::Outcome> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results = std::thread::scope(|scope| {
        let worker = || {
            let mut results = Vec::new();
            while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                let outcome = catch_unwind(AssertUnwindSafe(|| story::run(*seed)));
                if outcome.is_err() {
                    eprintln!("seed {seed} fails: DIODESYNC_SEED={seed} cargo test --test simulator");
                }
                results.push((*seed, outcome.ok()));
            }
            results
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let failed: Vec<u64> =
        results.iter().filter(|(_, outcome)| outcome.is_none()).map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {} seeds fail: {failed:?}", failed.len(), seeds.len());
    results.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

#[test]
fn thousands_of_seeds() {
    let seeds: Vec<u64> = match number("DIODESYNC_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DIODESYNC_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let outcomes = live_through(&seeds);
    let sum = |of: fn(&story::Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let complete = sum(|outcome| u64::from(outcome.is_complete));
    let (datagrams, refused) = (sum(|outcome| outcome.datagrams), sum(|outcome| outcome.refused));
    let repaired = sum(|outcome| outcome.repaired);
    println!(
        "{} seeds, {datagrams} datagrams, {refused} refused, {repaired} symbols repaired, {complete} complete in time",
        outcomes.len()
    );
    // The weather must be neither so fair nor so foul that nothing is tested.
    if outcomes.len() > 1000 {
        let share = complete * 100 / outcomes.len() as u64;
        assert!((50..100).contains(&share), "{share} % complete in time");
        assert!(refused > 0 && repaired > 0);
    }
}

#[test]
fn seeds_that_found_a_bug_once() {
    live_through(REGRESSIONS);
}
