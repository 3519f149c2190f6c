//! Which time it is, as far as trust goes.
//!
//! Expiry is judged at the later of this side's clock and the newest time that the sender said under authentication. Where
//! the two are further apart than `skew_max`, one of them is wrong and nobody here can tell which: metadata is not judged
//! and nothing is published until an operator sets the clock or acknowledges the difference. What is served stays.
//!
//! ```text
//! DIR/clock   the newest time of the sender, never further ahead of this side's than skew_max (fact)
//!             the difference that an operator has acknowledged
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use diodesync::pack::fact;
use diodesync::quantity::Span;
use serde::{Deserialize, Serialize};

/// How much the recorded time may lag: one write a minute.
const RECORD_EVERY_MS: u64 = 60_000;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClockFile {
    /// The newest authenticated time of the sender, milliseconds since 1970.
    sender_ms: u64,
    /// The sender's clock less this one, milliseconds, as it was acknowledged.
    acknowledged_ms: Option<i64>,
}

/// The judge of clocks.
#[derive(Debug)]
pub struct Clocks {
    path: PathBuf,
    file: ClockFile,
    skew_max_ms: u64,
    /// The sender's clock less this one, when the newest beacon came.
    skew_ms: Option<i64>,
    /// The sender's clock in the newest beacon.
    sender_ms: u64,
}

impl Clocks {
    /// In the receiver's folder.
    pub fn open(dir: &Path, skew_max: Duration) -> anyhow::Result<Self> {
        let path = dir.join("clock");
        let file = match fact::read(&path)? {
            Some(content) => serde_json::from_slice(&content).context("the fact file clock is damaged")?,
            None => ClockFile::default(),
        };
        let skew_max_ms = u64::try_from(skew_max.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { path, file, skew_max_ms, skew_ms: None, sender_ms: 0 })
    }

    /// Takes the sender's clock from a beacon that came at `clock_ms` by this side's.
    pub fn take_beacon(&mut self, sender_ms: u64, clock_ms: u64) -> anyhow::Result<()> {
        let skew = i64::try_from(i128::from(sender_ms) - i128::from(clock_ms)).unwrap_or(i64::MAX);
        self.skew_ms = Some(skew);
        self.sender_ms = sender_ms;
        let mut file = self.file.clone();
        // An acknowledged difference that is gone, or is another one by now, has to be acknowledged again.
        let is_far = |from: i64| skew.abs_diff(from) > self.skew_max_ms;
        if file.acknowledged_ms.is_some_and(|acknowledged| is_far(acknowledged) || !is_far(0)) {
            file.acknowledged_ms = None;
        }
        // A clock that runs far ahead must not spoil what is judged once it is set right.
        let bounded = sender_ms.min(clock_ms.saturating_add(self.skew_max_ms));
        let is_held = is_far(0) && file.acknowledged_ms.is_none();
        if !is_held && bounded >= file.sender_ms.saturating_add(RECORD_EVERY_MS) {
            file.sender_ms = bounded;
        }
        self.record(file)
    }

    fn record(&mut self, file: ClockFile) -> anyhow::Result<()> {
        if file != self.file {
            fact::write(&self.path, &serde_json::to_vec_pretty(&file)?)?;
            self.file = file;
        }
        Ok(())
    }

    /// The operator says that the difference is known; returns it.
    pub fn acknowledge(&mut self) -> anyhow::Result<Option<i64>> {
        let Some(skew) = self.skew_ms.filter(|_| self.why_held().is_some()) else { return Ok(None) };
        let file = ClockFile { acknowledged_ms: Some(skew), ..self.file.clone() };
        self.record(file)?;
        Ok(Some(skew))
    }

    /// The time by which expiry is judged, seconds since 1970.
    pub fn judging_s(&self, clock_ms: u64) -> u64 {
        clock_ms.max(self.file.sender_ms).max(self.sender_ms) / 1000
    }

    /// Why nothing is judged and published, if that is so.
    pub fn why_held(&self) -> Option<String> {
        let skew = self.skew_ms.filter(|skew| skew.unsigned_abs() > self.skew_max_ms)?;
        if self.file.acknowledged_ms.is_some() {
            return None;
        }
        let ahead = if skew > 0 { "ahead of" } else { "behind" };
        Some(format!(
            "the sender's clock is {} {ahead} this one, more than skew_max ({}): nothing is published until the wrong \
             clock is set, or: diode-receiver acknowledge-clock",
            Span(Duration::from_millis(skew.unsigned_abs())),
            Span(Duration::from_millis(self.skew_max_ms)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::TempDir;

    const NOW_MS: u64 = 1_795_000_000_000;
    const DAY_MS: u64 = 86_400_000;
    const SKEW_MAX: Duration = Duration::from_secs(300);

    #[test]
    fn a_difference_holds_in_both_directions_until_it_is_gone_or_known() {
        let dir = TempDir::new("clocks");
        let mut clocks = Clocks::open(dir.path(), SKEW_MAX).unwrap();
        assert_eq!(clocks.why_held(), None, "no beacon has come");
        for days in [1, 3653] {
            for (sender, clock, says) in
                [(NOW_MS + days * DAY_MS, NOW_MS, "ahead of"), (NOW_MS, NOW_MS + days * DAY_MS, "behind")]
            {
                clocks.take_beacon(sender, clock).unwrap();
                let why = clocks.why_held().unwrap();
                assert!(why.contains(says) && why.contains("acknowledge-clock"), "{why}");
                clocks.take_beacon(clock, clock).unwrap();
                assert_eq!(clocks.why_held(), None, "the clock is set");

                clocks.take_beacon(sender, clock).unwrap();
                clocks.acknowledge().unwrap().unwrap();
                assert_eq!(clocks.why_held(), None);
                // It is known after a restart too.
                clocks = Clocks::open(dir.path(), SKEW_MAX).unwrap();
                clocks.take_beacon(sender + 1000, clock).unwrap();
                assert_eq!(clocks.why_held(), None);
                // Another one is not.
                clocks.take_beacon(sender + DAY_MS * 2, clock).unwrap();
                assert!(clocks.why_held().is_some());
                clocks.take_beacon(clock, clock).unwrap();
            }
        }
    }

    #[test]
    fn the_senders_time_is_kept_and_is_bounded() {
        let dir = TempDir::new("sender-time");
        let mut clocks = Clocks::open(dir.path(), SKEW_MAX).unwrap();
        clocks.take_beacon(NOW_MS, NOW_MS).unwrap();
        // Set back over a restart: expiry is still judged at what the sender said.
        let clocks = Clocks::open(dir.path(), SKEW_MAX).unwrap();
        assert_eq!(clocks.judging_s(NOW_MS - 30 * DAY_MS), NOW_MS / 1000);

        let mut clocks = clocks;
        clocks.take_beacon(NOW_MS + 3653 * DAY_MS, NOW_MS).unwrap();
        clocks.acknowledge().unwrap();
        clocks.take_beacon(NOW_MS + 3653 * DAY_MS, NOW_MS).unwrap();
        assert_eq!(clocks.judging_s(NOW_MS), (NOW_MS + 3653 * DAY_MS) / 1000, "as long as it says so");
        clocks.take_beacon(NOW_MS + 1000, NOW_MS + 1000).unwrap();
        assert!(clocks.judging_s(NOW_MS + 1000) <= NOW_MS / 1000 + 301, "and not for ten years");
    }
}
