//! What a seed decides: the release, the lane, the weather, and when which end is restarted.

use std::time::Duration;

use crate::weather::Weather;
use crate::world::Rng;

/// Everything that one seed stands for.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    /// Octets of each block to send.
    pub blocks: Vec<u32>,
    /// Blocks of the baseline, which the index lists and nobody sends.
    pub baseline_blocks: u32,
    pub symbol_bytes: usize,
    pub repair_percent: u32,
    pub rounds: u8,
    pub round_gap: Duration,
    pub depth: usize,
    pub rate_bits_per_s: Option<u64>,
    pub first_session: u64,
    /// Blocks that the receiver collects at once.
    pub capacity: usize,
    /// Datagrams between two looks at the collector's actions.
    pub laziness: usize,
    /// Datagrams between two records of the receiver's position; 0 for none but at a clean stop.
    pub record_every: usize,
    /// The chance, in a thousand, that idle blocks are spilled after a datagram.
    pub idle_spills: usize,
    pub weather: Weather,
    /// Datagrams sent before the receiver is there.
    pub joins_after: usize,
    /// Datagrams sent before each restart of the sender.
    pub sender_restarts: Vec<usize>,
    /// Datagrams sent before each restart of the receiver, and whether it could say goodbye.
    pub receiver_restarts: Vec<(usize, bool)>,
    /// Whether the first round must suffice: losses stay within the repair window, and nobody is late.
    pub first_round_suffices: bool,
}

impl Scenario {
    /// The same seed, the same story.
    pub fn from_seed(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, "scenario");
        let large = seed % 64 == 63;
        let symbol_bytes = if large { rng.pick(&[400, 1392, 8896]) } else { 2 * rng.range(32, 200) };
        let sizes: &[u32] = &[1, 2, 63, 64, 65, 399, 400, 1000, 2048, 4095, 4096, 6000];
        let size = |rng: &mut Rng| if rng.chance(300) { rng.range(1, 6000) as u32 } else { rng.pick(sizes) };
        let blocks = match large {
            true => vec![1 << 20, (1 << 20) - 1, rng.range(1, 1 << 20) as u32],
            false => (0..rng.range(1, 20)).map(|_| size(rng)).collect(),
        };
        let weather = Weather::from_seed(seed);
        let datagrams = blocks.iter().map(|bytes| *bytes as usize / symbol_bytes + 4).sum::<usize>() + 50;
        let times = |rng: &mut Rng, most: usize| -> Vec<usize> {
            let mut times: Vec<usize> = (0..rng.range(0, most)).map(|_| rng.range(0, datagrams)).collect();
            times.sort_unstable();
            times
        };
        let rough = !weather.within_budget;
        let joins_after = if rough && rng.chance(300) { rng.range(1, datagrams) } else { 0 };
        let receiver_restarts = if rough { times(rng, 2) } else { Vec::new() };
        let depth = rng.range(1, 12);
        Self {
            seed,
            blocks,
            // Once in a while the index is so long that it has several source blocks itself.
            baseline_blocks: if large && rng.chance(400) { 20_000 } else { rng.range(0, 5) as u32 },
            symbol_bytes,
            repair_percent: rng.range(5, 30) as u32,
            rounds: rng.range(1, if large { 2 } else { 4 }) as u8,
            round_gap: Duration::from_millis(rng.pick(&[0, 10, 1000, 5000])),
            depth,
            rate_bits_per_s: rng.pick(&[None, Some(1_000_000), Some(100_000_000), Some(10_000_000_000)]),
            first_session: rng.pick(&[0, 1, (1 << 32) - 2, 1_795_000_000_000]),
            capacity: if rng.chance(200) { rng.range(1, depth) } else { depth + 4 },
            laziness: if rng.chance(200) { rng.range(2, 40) } else { 1 },
            record_every: rng.pick(&[0, 1, 10, 100]),
            idle_spills: rng.pick(&[0, 0, 5, 50]),
            first_round_suffices: weather.within_budget,
            weather,
            joins_after,
            sender_restarts: times(rng, 2),
            receiver_restarts: receiver_restarts.into_iter().map(|at| (at, rng.chance(500))).collect(),
        }
    }
}
