//! Trains of datagrams at rising rates: what a lane sends when it is asked how fast its path is.
//!
//! Nobody answers. The receiver counts, and its status names the highest rate of which nothing was lost.

use std::time::{Duration, Instant};

use super::Pacer;
use crate::wire::Probe;

/// Rates of the trains, bits per second over UDP payloads.
pub const PROBE_RATES: [u64; 15] = {
    const M: u64 = 1_000_000;
    [
        50 * M,
        100 * M,
        200 * M,
        300 * M,
        500 * M,
        700 * M,
        1000 * M,
        1500 * M,
        2000 * M,
        2500 * M,
        3000 * M,
        4000 * M,
        5000 * M,
        7000 * M,
        10_000 * M,
    ]
};
/// How long a train takes: long enough to fill every buffer that hides a rate that is too high.
const TRAIN: Duration = Duration::from_secs(1);
/// The pause after it, in which buffers drain.
const PAUSE: Duration = Duration::from_millis(300);
/// How often a train's end is told, spread over the pause.
const ENDS: u32 = 5;
/// A sender that comes no nearer than this to a rate cannot send faster.
const REACHED: f64 = 0.9;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeTurn {
    /// Send this, filled up to the lane's full size, and say so by [`Probing::sent`].
    Send(Probe),
    /// Nothing before this time.
    Wait(Duration),
    /// That was all.
    Over,
}

/// A train that went out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Train {
    /// The rate that was wanted, bits per second.
    pub wanted_bits_per_s: u64,
    /// The rate that it had.
    pub rate_bits_per_s: u64,
    /// Its datagrams.
    pub datagrams: u32,
}

/// A run of trains.
#[derive(Debug)]
pub struct Probing {
    run: u64,
    /// Rates that are left, the next one first.
    rates: Vec<u64>,
    pacer: Pacer,
    /// When the train began.
    began: Option<Instant>,
    bytes: u64,
    number: u32,
    /// When the train was over, and how often that was told.
    ended: Option<(Instant, u32)>,
    trains: Vec<Train>,
}

impl Probing {
    /// Trains up to `max_bits_per_s`. `run` rises from run to run.
    pub fn new(run: u64, max_bits_per_s: u64) -> Self {
        let rates: Vec<u64> = PROBE_RATES.into_iter().filter(|rate| *rate <= max_bits_per_s).collect();
        let pacer = Pacer::new(rates.first().copied());
        Self { run, rates, pacer, began: None, bytes: 0, number: 0, ended: None, trains: Vec::new() }
    }

    /// What went out so far.
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// What to do now.
    pub fn poll(&mut self, now: Instant) -> ProbeTurn {
        let Some(wanted) = self.rates.first().copied() else { return ProbeTurn::Over };
        let probe = Probe {
            is_end: false,
            run: self.run,
            train: self.trains.len() as u16,
            rate_bits_per_s: 0,
            number: self.number,
        };
        let Some((ended, told)) = &mut self.ended else {
            let began = *self.began.get_or_insert(now);
            if now.saturating_duration_since(began) >= TRAIN && self.number > 0 {
                self.ended = Some((now, 0));
                return self.poll(now);
            }
            let wait = self.pacer.wait(now);
            return if wait.is_zero() { ProbeTurn::Send(probe) } else { ProbeTurn::Wait(wait) };
        };
        let took = ended.saturating_duration_since(self.began.unwrap_or(*ended)).as_secs_f64();
        let rate_bits_per_s = (self.bytes as f64 * 8.0 / took.max(1e-9)) as u64;
        let due = *ended + PAUSE * (*told + 1) / (ENDS + 1);
        if now < due {
            return ProbeTurn::Wait(due - now);
        }
        if *told < ENDS {
            *told += 1;
            return ProbeTurn::Send(Probe { is_end: true, rate_bits_per_s, ..probe });
        }
        self.trains.push(Train { wanted_bits_per_s: wanted, rate_bits_per_s, datagrams: self.number });
        self.rates.remove(0);
        if (rate_bits_per_s as f64) < wanted as f64 * REACHED {
            self.rates.clear();
        }
        self.pacer = Pacer::new(self.rates.first().copied());
        (self.began, self.bytes, self.number, self.ended) = (None, 0, 0, None);
        self.poll(now)
    }

    /// Says that a datagram of so many octets went out.
    pub fn sent(&mut self, now: Instant, probe: &Probe, bytes: u64) {
        if !probe.is_end {
            self.pacer.sent(now, bytes);
            self.bytes += bytes;
            self.number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets it run on a sender that needs `cost` for each datagram; what went out.
    fn run(max: u64, cost: Duration) -> (Vec<Train>, Vec<Probe>) {
        let mut now = Instant::now();
        let mut probing = Probing::new(3, max);
        let mut sent = Vec::new();
        loop {
            match probing.poll(now) {
                ProbeTurn::Send(probe) => {
                    now += cost;
                    probing.sent(now, &probe, 1_250);
                    sent.push(probe);
                }
                ProbeTurn::Wait(time) => now += time,
                ProbeTurn::Over => return (probing.trains().to_vec(), sent),
            }
        }
    }

    #[test]
    fn each_train_has_its_rate_and_tells_its_end() {
        let (trains, sent) = run(300_000_000, Duration::from_nanos(100));
        let rates: Vec<u64> = trains.iter().map(|train| train.wanted_bits_per_s).collect();
        assert_eq!(rates, [50_000_000, 100_000_000, 200_000_000, 300_000_000]);
        for (number, train) in trains.iter().enumerate() {
            let (wanted, had) = (train.wanted_bits_per_s as f64, train.rate_bits_per_s as f64);
            assert!((wanted * 0.98..wanted * 1.02).contains(&had), "{train:?}");
            let of_it: Vec<&Probe> = sent.iter().filter(|probe| probe.train == number as u16).collect();
            let (ends, datagrams): (Vec<&Probe>, Vec<&Probe>) = of_it.iter().partition(|probe| probe.is_end);
            assert_eq!(ends.len() as u32, ENDS);
            assert!(datagrams.iter().enumerate().all(|(at, probe)| probe.number == at as u32));
            assert!(
                ends.iter().all(|end| end.number == train.datagrams && datagrams.len() as u32 == end.number)
            );
            assert!(ends.iter().all(|end| end.rate_bits_per_s == train.rate_bits_per_s && end.run == 3));
        }
    }

    #[test]
    fn a_sender_that_cannot_go_faster_stops() {
        // 1250 octets in 20 µs: 500 Mbit/s.
        let (trains, _) = run(10_000_000_000, Duration::from_micros(20));
        let last = trains.last().unwrap();
        assert_eq!(last.wanted_bits_per_s, 700_000_000);
        assert!((480_000_000..=500_000_000).contains(&last.rate_bits_per_s), "{last:?}");
    }
}
