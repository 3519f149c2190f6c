//! The rates of a lane: what of its configuration is taken while it runs.

use diodesync::limits::COLLECTING_MAX;
use diodesync::quantity::Rate;
use diodesync::send::{RateWindows, WindowRate, depth_for_burst};

use crate::config::Lane as LaneConfig;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// Outside of the windows.
    pub usual: Rate,
    windows: RateWindows,
}

impl Rates {
    /// As they are configured.
    pub fn of(config: &LaneConfig) -> Self {
        Self { usual: config.rate, windows: config.rate_windows.clone() }
    }

    /// The rate of the hour.
    pub fn at(&self, now_s: u64) -> WindowRate {
        self.windows.rate_at(now_s, self.usual)
    }

    /// Blocks that go out at once on one of so many lanes, so that the burst that it must bear is repaired at any of these
    /// rates.
    pub fn depth(&self, config: &LaneConfig, lanes: usize) -> usize {
        // As fast as it goes is at most what the fastest machines do.
        let rate = self.windows.rate_max(self.usual).bits_per_s().unwrap_or(10_000_000_000);
        // The receiver collects the blocks of all lanes, and some more.
        let max = COLLECTING_MAX / 2 / lanes.max(1);
        depth_for_burst(rate, config.burst, config.repair, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_depth_is_that_of_the_highest_rate() {
        let lane = |more: &str| {
            let text = format!("dir = '/x'\n[[lane]]\nname = 'a'\nto = '127.0.0.1:1'\n{more}");
            Config::parse(&text).unwrap().lane.remove(0)
        };
        let depth = |more: &str, lanes| Rates::of(&lane(more)).depth(&lane(""), lanes);
        let night = "rate = '100mbit'\nrate_windows = [{ from = '22:00', to = '06:00', rate = '1gbit' }]\n";
        assert_eq!((depth("rate = '100mbit'\n", 1), depth("rate = '1gbit'\n", 1)), (8, 72));
        assert_eq!(depth(night, 1), 72);
        assert_eq!(depth("rate = 'max'\n", 8), COLLECTING_MAX / 16);
    }
}
