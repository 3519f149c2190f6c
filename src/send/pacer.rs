//! When the next datagram may go out.

use std::time::{Duration, Instant};

/// Octets that may go out at once: what one GSO call carries. Less would cost a system call for each datagram.
const BURST_BYTES: u64 = 64 * 1024;
/// On fast lanes as much goes out at once as is due in this time, for each pause costs a sleep and a wake-up on either
/// side. More would overrun the buffer that a receiver gets without privileges.
const BURST_TIME: Duration = Duration::from_micros(500);

/// Spreads octets evenly over time.
#[derive(Debug)]
pub struct Pacer {
    rate_bits_per_s: Option<u64>,
    /// When the next octet is due.
    next: Option<Instant>,
    /// Whether nothing goes out until then.
    is_holding: bool,
}

impl Pacer {
    /// At `rate_bits_per_s`, counted over UDP payloads with their headers; `None` is as fast as it goes.
    pub fn new(rate_bits_per_s: Option<u64>) -> Self {
        Self { rate_bits_per_s, next: None, is_holding: false }
    }

    /// Goes on at another rate.
    pub fn set_rate(&mut self, rate_bits_per_s: Option<u64>) {
        self.rate_bits_per_s = rate_bits_per_s;
    }

    /// How long to wait before the next datagram.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let early = self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        self.is_holding &= !early.is_zero();
        if self.is_holding { early } else { Duration::ZERO }
    }

    /// Records that `bytes` went out.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        let Some(rate) = self.rate_bits_per_s.filter(|rate| *rate > 0) else { return };
        // Time that was not used is lost, but for one burst, so that a late wake-up does not lower the rate.
        let credit = time_for(BURST_BYTES, rate).max(BURST_TIME);
        let earliest = now.checked_sub(credit).unwrap_or(now);
        let start = self.next.map_or(now, |next| next.max(earliest));
        let next = start + time_for(bytes, rate);
        self.next = Some(next);
        self.is_holding = next.saturating_duration_since(now) >= BURST_TIME;
    }
}

fn time_for(bytes: u64, rate_bits_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(rate_bits_per_s);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The least that a later round is slowed down to, bits per second.
const ROUND_RATE_MIN: u64 = 50_000_000;

/// The rate of a round on a lane that has none of its own: the first goes as fast as it can, and nobody can say whether
/// that was too fast for the path or the receiver. So each later one goes at half the pace of the one before, and after
/// a few of them what was too fast is not any more. `fastest` is the best rate that the lane was seen at.
pub fn rate_of_round(fastest_bits_per_s: u64, round: u8) -> Option<u64> {
    let rate = fastest_bits_per_s.checked_shr(u32::from(round)).unwrap_or(0);
    (round > 0 && fastest_bits_per_s > 0).then_some(rate.max(ROUND_RATE_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_a_late_wake_up_is_made_good() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(8_000_000));
        let mut now = start;
        let mut sent = 0u64;
        for turn in 0..10_000u64 {
            now += pacer.wait(now) + Duration::from_micros(turn % 7 * 20);
            pacer.sent(now, 1000);
            sent += 1000;
        }
        let rate = sent as f64 / now.duration_since(start).as_secs_f64();
        assert!((990_000.0..1_010_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_fast_lane_pauses_once_for_several_batches() {
        let mut now = Instant::now();
        let mut pacer = Pacer::new(Some(3_000_000_000));
        let (mut pauses, mut sent) = (0, 0u64);
        let start = now;
        while sent < 375_000_000 {
            let wait = pacer.wait(now);
            pauses += u32::from(!wait.is_zero());
            now += wait;
            pacer.sent(now, 60_000);
            sent += 60_000;
        }
        let rate = sent as f64 / now.duration_since(start).as_secs_f64();
        assert!((372e6..379e6).contains(&rate), "{rate}");
        assert!((1400..2010).contains(&pauses), "{pauses} pauses in one second");
    }

    #[test]
    fn idle_time_does_not_pile_up() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(8_000_000));
        pacer.sent(start, 1000);
        let later = start + Duration::from_secs(3600);
        let mut burst = 0;
        while pacer.wait(later).is_zero() {
            pacer.sent(later, 1000);
            burst += 1000;
        }
        assert!(burst <= BURST_BYTES + 2000, "{burst}");
        assert!(Pacer::new(None).wait(start).is_zero());
    }

    #[test]
    fn what_went_too_fast_goes_slower_the_next_time() {
        assert_eq!(rate_of_round(8_000_000_000, 0), None);
        assert_eq!(rate_of_round(8_000_000_000, 1), Some(4_000_000_000));
        assert_eq!(rate_of_round(8_000_000_000, 2), Some(2_000_000_000));
        assert_eq!(rate_of_round(8_000_000_000, 255), Some(ROUND_RATE_MIN));
        assert_eq!(rate_of_round(0, 1), None, "nothing was seen yet");
    }
}
