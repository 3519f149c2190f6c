//! Which sequence numbers were seen (RFC 4303 §3.4.3, widened to the reordering that a fast lane may show).

use crate::limits::REPLAY_WINDOW;

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// A sliding window over the sequence numbers of one session.
#[derive(Debug)]
pub struct ReplayWindow {
    /// One bit for each number, at the number modulo the window.
    seen: Vec<u64>,
    /// One more than the highest number seen.
    end: u64,
    /// Lower numbers are refused.
    floor: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { seen: vec![0; WORDS], end: 0, floor: 0 }
    }
}

impl ReplayWindow {
    /// A window that takes no number below `floor`.
    pub fn starting_at(floor: u64) -> Self {
        Self { floor, end: floor, ..Self::default() }
    }

    /// Whether a datagram with this number may be opened: it is not older than the window and was not seen.
    pub fn is_fresh(&self, sequence: u64) -> bool {
        if sequence >= self.end {
            // The last number is never sealed: see `Sealer::seal`.
            return sequence != u64::MAX;
        }
        sequence >= self.floor && self.end - sequence <= REPLAY_WINDOW && !self.bit(sequence)
    }

    /// Records a number whose datagram was authentic.
    pub fn record(&mut self, sequence: u64) {
        if sequence >= self.end {
            let skipped = sequence - self.end;
            if skipped >= REPLAY_WINDOW {
                self.seen.fill(0);
            } else {
                (self.end..sequence).for_each(|number| self.set(number, false));
            }
            self.end = sequence.saturating_add(1);
        }
        self.set(sequence, true);
    }

    /// One more than the highest number seen: what the sender must have sent at least.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn bit(&self, sequence: u64) -> bool {
        let at = (sequence % REPLAY_WINDOW) as usize;
        self.seen.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, sequence: u64, value: bool) {
        let at = (sequence % REPLAY_WINDOW) as usize;
        if let Some(word) = self.seen.get_mut(at / 64) {
            *word = *word & !(1 << (at % 64)) | u64::from(value) << (at % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once_within_the_window() {
        let mut window = ReplayWindow::default();
        for sequence in [5, 0, 3, REPLAY_WINDOW + 2, 4] {
            assert!(window.is_fresh(sequence), "{sequence}");
            window.record(sequence);
            assert!(!window.is_fresh(sequence), "{sequence}");
        }
        assert!(!window.is_fresh(2), "older than the window");
        assert!(window.is_fresh(6), "never seen");
        assert!(!window.is_fresh(5), "seen, at the window's end");
    }

    #[test]
    fn a_leap_forgets_the_old_bits() {
        let mut window = ReplayWindow::default();
        (0..100).for_each(|sequence| window.record(sequence));
        window.record(10 * REPLAY_WINDOW);
        for sequence in [9 * REPLAY_WINDOW + 1, 9 * REPLAY_WINDOW + 50, 10 * REPLAY_WINDOW - 1] {
            assert!(window.is_fresh(sequence), "{sequence}");
        }
        window.record(u64::MAX - 1);
        assert!(!window.is_fresh(u64::MAX) && !window.is_fresh(u64::MAX - 1) && !window.is_fresh(0));
    }

    #[test]
    fn nothing_below_the_floor() {
        let mut window = ReplayWindow::starting_at(100);
        assert!(!window.is_fresh(99) && window.is_fresh(100));
        window.record(105);
        assert!(!window.is_fresh(99) && window.is_fresh(104) && !window.is_fresh(105));
    }

    #[test]
    fn it_agrees_with_a_set_of_numbers() {
        let mut window = ReplayWindow::default();
        let mut model = std::collections::BTreeSet::new();
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let base = model.last().copied().unwrap_or(0u64);
            let sequence = (base + 40).saturating_sub(state >> 33 & 0xff);
            let old = base.saturating_add(1) > REPLAY_WINDOW + sequence;
            assert_eq!(window.is_fresh(sequence), !old && !model.contains(&sequence), "{sequence}");
            if window.is_fresh(sequence) {
                window.record(sequence);
                model.insert(sequence);
            }
        }
    }
}
