//! What was: one sample each second for ten minutes, one each minute for a day. Bounded, in memory, and pure: the clock
//! is an argument.

use std::collections::VecDeque;

use serde::Serialize;

/// Samples of a second.
pub const SECONDS_MAX: usize = 600;
/// Samples of a minute.
pub const MINUTES_MAX: usize = 1440;
/// Time that must be known before its end is foretold: less is chance.
const KNOWN_MS_MIN: u64 = 30 * 60_000;
/// Octets that a disk must lose in the time that is known, before its end is foretold.
const LOSS_BYTES_MIN: u64 = 1 << 20;

/// What was read at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Counters, which rise from the start of what counts.
    pub counts: Vec<u64>,
    /// What is measured; none if it could not be.
    pub gauges: Vec<Option<u64>>,
}

/// What happened in a span of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The end of the span, milliseconds since 1970.
    pub at_ms: u64,
    /// Its length, milliseconds.
    pub span_ms: u64,
    /// How much each counter rose.
    pub counts: Vec<u64>,
    /// What was measured at its end.
    pub gauges: Vec<Option<u64>>,
}

impl Sample {
    /// How much a counter rose for each second.
    pub fn per_s(&self, count: usize) -> f64 {
        let rise = self.counts.get(count).copied().unwrap_or(0);
        rise as f64 * 1000.0 / self.span_ms.max(1) as f64
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    last: Option<(u64, Reading)>,
    seconds: VecDeque<Sample>,
    minute: Option<Sample>,
    minutes: VecDeque<Sample>,
}

impl History {
    /// Takes a reading, about once a second.
    pub fn add(&mut self, at_ms: u64, reading: Reading) {
        let Some((last_ms, last)) = self.last.replace((at_ms, reading.clone())) else { return };
        // A clock that was set back says nothing about this span.
        let Some(span_ms) = at_ms.checked_sub(last_ms).filter(|span| *span > 0) else {
            self.seconds.retain(|sample| sample.at_ms < at_ms);
            self.minutes.retain(|sample| sample.at_ms < at_ms);
            self.minute = None;
            return;
        };
        let rise = |at: usize, now: u64| match last.counts.get(at) {
            // What is lower began anew.
            Some(before) if *before <= now => now - before,
            _ => now,
        };
        let counts: Vec<u64> = reading.counts.iter().enumerate().map(|(at, now)| rise(at, *now)).collect();
        let sample = Sample { at_ms, span_ms, counts, gauges: reading.gauges };
        self.add_to_minute(&sample);
        push(&mut self.seconds, sample, SECONDS_MAX);
    }

    fn add_to_minute(&mut self, sample: &Sample) {
        match &mut self.minute {
            None => self.minute = Some(sample.clone()),
            Some(minute) => {
                minute.at_ms = sample.at_ms;
                minute.span_ms += sample.span_ms;
                minute.gauges.clone_from(&sample.gauges);
                for (at, count) in sample.counts.iter().enumerate() {
                    match minute.counts.get_mut(at) {
                        Some(sum) => *sum += count,
                        None => minute.counts.push(*count),
                    }
                }
            }
        }
        if let Some(minute) = self.minute.take_if(|minute| minute.span_ms >= 60_000) {
            push(&mut self.minutes, minute, MINUTES_MAX);
        }
    }

    /// The last ten minutes, oldest first.
    pub fn seconds(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.seconds.iter()
    }

    /// The last day, oldest first; its end is the minute that has begun.
    pub fn minutes(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.minutes.iter().chain(&self.minute)
    }

    /// When a disk will be full, seconds since 1970, if it goes on as in the time that is known (a day at most), and the
    /// milliseconds of that time. `gauge` holds its free octets, of which `reserve_bytes` are not used.
    pub fn full_at_s(&self, gauge: usize, reserve_bytes: u64) -> Option<(u64, u64)> {
        let known = self.minutes().filter_map(|sample| Some((sample.at_ms, (*sample.gauges.get(gauge)?)?)));
        let known: Vec<(u64, u64)> = known.collect();
        let ((first_ms, before), (last_ms, now)) = (known.first()?, known.last()?);
        let span_ms = last_ms.checked_sub(*first_ms).filter(|span| *span >= KNOWN_MS_MIN)?;
        let loss = before.checked_sub(*now).filter(|loss| *loss >= LOSS_BYTES_MIN)?;
        let left = now.saturating_sub(reserve_bytes);
        let rest_ms = u128::from(left) * u128::from(span_ms) / u128::from(loss);
        let at_s = u64::try_from((u128::from(*last_ms) + rest_ms) / 1000).ok()?;
        Some((at_s, span_ms))
    }
}

fn push(samples: &mut VecDeque<Sample>, sample: Sample, max: usize) {
    while samples.len() >= max {
        samples.pop_front();
    }
    samples.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(count: u64, gauge: u64) -> Reading {
        Reading { counts: vec![count], gauges: vec![Some(gauge)] }
    }

    #[test]
    fn it_is_bounded_and_adds_up() {
        let mut history = History::default();
        for s in 0..100_000u64 {
            history.add(s * 1000, reading(s * 5, 7));
        }
        assert_eq!(history.seconds().count(), SECONDS_MAX);
        assert!(history.minutes().count() <= MINUTES_MAX + 1);
        assert!(history.seconds().all(|sample| sample.counts == [5] && sample.per_s(0) == 5.0));
        let minute = history.minutes().next().unwrap();
        assert_eq!((minute.counts[0], minute.span_ms), (300, 60_000));
    }

    #[test]
    fn a_restart_and_a_clock_set_back_make_no_peaks() {
        let mut history = History::default();
        history.add(1000, reading(1_000_000, 0));
        history.add(2000, reading(3, 0));
        history.add(3000, reading(4, 0));
        history.add(2500, reading(5, 0));
        history.add(3500, reading(7, 0));
        let rises: Vec<u64> = history.seconds().map(|sample| sample.counts[0]).collect();
        assert_eq!(rises, [3, 2]);
        let times: Vec<u64> = history.seconds().map(|sample| sample.at_ms).collect();
        assert!(times.is_sorted(), "{times:?}");
    }

    #[test]
    fn the_end_of_a_disk_is_foretold_from_what_was() {
        let mut history = History::default();
        assert_eq!(history.full_at_s(0, 0), None);
        // 1 MiB goes each minute, 100 MiB are there at the end.
        for minute in 0..=60u64 {
            for s in 0..60 {
                history.add((minute * 60 + s) * 1000, reading(0, (160 - minute) << 20));
            }
        }
        let (at_s, span_ms) = history.full_at_s(0, 0).unwrap();
        assert!(span_ms > 3_000_000 && at_s.abs_diff(60 * 60 + 100 * 60) < 300, "{at_s}");
        let (with_reserve_s, _) = history.full_at_s(0, 50 << 20).unwrap();
        assert!(with_reserve_s.abs_diff(60 * 60 + 50 * 60) < 200, "{with_reserve_s}");
        assert_eq!(history.full_at_s(1, 0), None);
        let mut short = History::default();
        for s in 0..600 {
            short.add(s * 1000, reading(0, (1 << 40) - (s << 20)));
        }
        assert_eq!(short.full_at_s(0, 0), None, "ten minutes foretell nothing");
    }
}
