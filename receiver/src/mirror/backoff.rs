//! How long a mirror that failed is left alone.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// After many.
const LAST: Duration = Duration::from_secs(300);

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: twice the one before, or what the mirror has asked for, if that is longer.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let pause =
            FIRST.saturating_mul(1u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        pause.max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_no_mirror_is_asked_before_it_wants() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..12).map(|_| backoff.pause(None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(Backoff::default().pause(Some(Duration::from_secs(40))).as_secs(), 40);
        (0..100).for_each(|_| assert!(backoff.pause(None) == LAST));
    }
}
