//! Rates by the hour: a lane may be faster at night, and silent while somebody else needs the line.
//!
//! Hours are UTC, so that neither a time zone nor the day on which clocks are set makes an hour come twice or never.

use std::str::FromStr;

use thiserror::Error;

use crate::quantity::{QuantityError, Rate};

const DAY_MINUTES: u32 = 24 * 60;
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A window cannot be, or two cannot be at once.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WindowError {
    /// Not a time of day.
    #[error("expected a time of day from \"00:00\" to \"24:00\" (UTC), found {0:?}")]
    Time(String),
    /// Not a day.
    #[error("expected days of \"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\", found {0:?}")]
    Day(String),
    /// Begins when it ends.
    #[error("the window from {0} to {0} is empty; for a whole day write from \"00:00\" to \"24:00\"")]
    Empty(String),
    /// No rate.
    #[error("{0}, or \"off\" for no data at all")]
    Rate(#[from] QuantityError),
    /// Two rates at once.
    #[error("windows {first} and {second} overlap on {day} at {time} UTC; a lane has one rate at a time")]
    Overlap {
        /// The first one, from 1.
        first: usize,
        /// The other.
        second: usize,
        /// The day of the first minute that both claim.
        day: &'static str,
        /// Its time.
        time: String,
    },
}

/// What a lane may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRate {
    /// At this rate.
    At(Rate),
    /// No data. Sessions and beacons go on, so that the high side knows that the lane is there.
    Off,
}

impl FromStr for WindowRate {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        match text {
            "off" | "0" => Ok(Self::Off),
            rate => Ok(Self::At(rate.parse()?)),
        }
    }
}

/// A window: on these days, from this minute on, for so long, over midnight if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateWindow {
    days: Vec<u32>,
    from: u32,
    minutes: u32,
    rate: WindowRate,
}

impl RateWindow {
    /// As it is written: times like `22:00`, days like `mon` on which it begins, none for every day.
    pub fn parse(from: &str, to: &str, rate: &str, days: &[String]) -> Result<Self, WindowError> {
        let (start, end) = (minute_of_day(from)?, minute_of_day(to)?);
        if start == end || start == DAY_MINUTES {
            return Err(WindowError::Empty(from.to_owned()));
        }
        let day = |name: &String| {
            let at = DAYS.iter().position(|day| day == name);
            at.map(|at| at as u32).ok_or_else(|| WindowError::Day(name.clone()))
        };
        let days = match days {
            [] => (0..7).collect(),
            days => days.iter().map(day).collect::<Result<_, _>>()?,
        };
        let minutes = if end > start { end - start } else { DAY_MINUTES - start + end };
        Ok(Self { days, from: start, minutes, rate: rate.parse()? })
    }

    /// The minutes of the week in it.
    fn covered(&self) -> impl Iterator<Item = u32> {
        let begins = self.days.iter().map(|day| day * DAY_MINUTES + self.from);
        begins.flat_map(|begin| (begin..begin + self.minutes).map(|minute| minute % WEEK_MINUTES))
    }
}

fn minute_of_day(text: &str) -> Result<u32, WindowError> {
    let two_digits = |text: &str| {
        let is_good = text.len() == 2 && text.bytes().all(|octet| octet.is_ascii_digit());
        is_good.then(|| text.parse::<u32>().ok()).flatten()
    };
    let parsed = text.split_once(':').and_then(|(h, m)| Some((two_digits(h)?, two_digits(m)?)));
    match parsed {
        Some((hours, minutes)) if minutes < 60 && hours * 60 + minutes <= DAY_MINUTES => {
            Ok(hours * 60 + minutes)
        }
        _ => Err(WindowError::Time(text.to_owned())),
    }
}

/// The windows of a lane, of which no two overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateWindows(Vec<RateWindow>);

impl RateWindows {
    /// Takes windows that do not overlap.
    pub fn new(windows: Vec<RateWindow>) -> Result<Self, WindowError> {
        let mut claimed = std::collections::BTreeMap::new();
        for (number, window) in (1..).zip(&windows) {
            for minute in window.covered() {
                if let Some(first) = claimed.insert(minute, number) {
                    let (day, time) = (minute / DAY_MINUTES, minute % DAY_MINUTES);
                    return Err(WindowError::Overlap {
                        first,
                        second: number,
                        day: DAYS.get(day as usize).copied().unwrap_or_default(),
                        time: format!("{:02}:{:02}", time / 60, time % 60),
                    });
                }
            }
        }
        Ok(Self(windows))
    }

    /// What a lane may send at `clock_s` (seconds since 1970): as a window says, or else `usual`.
    pub fn rate_at(&self, clock_s: u64, usual: Rate) -> WindowRate {
        // 1970 began on a Thursday.
        let minute = ((clock_s / 60 + u64::from(3 * DAY_MINUTES)) % u64::from(WEEK_MINUTES)) as u32;
        let is_open = |window: &&RateWindow| {
            let since = |day: &u32| {
                (minute + WEEK_MINUTES - day * DAY_MINUTES - window.from) % WEEK_MINUTES < window.minutes
            };
            window.days.iter().any(since)
        };
        self.0.iter().find(is_open).map_or(WindowRate::At(usual), |window| window.rate)
    }

    /// The highest rate that the lane ever has.
    pub fn rate_max(&self, usual: Rate) -> Rate {
        let rates = self.0.iter().filter_map(|window| match window.rate {
            WindowRate::At(rate) => Some(rate),
            WindowRate::Off => None,
        });
        rates.chain([usual]).max_by_key(|rate| rate.bits_per_s().unwrap_or(u64::MAX)).unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Rate = Rate::BitsPerS(100_000_000);
    /// Monday, 23 November 2026, 00:00 UTC.
    const MONDAY_S: u64 = 1_795_392_000;

    fn window(from: &str, to: &str, rate: &str, days: &[&str]) -> Result<RateWindow, WindowError> {
        RateWindow::parse(from, to, rate, &days.iter().map(|day| (*day).to_owned()).collect::<Vec<_>>())
    }

    fn at(windows: &RateWindows, day: u64, hour: u64, minute: u64) -> WindowRate {
        windows.rate_at(MONDAY_S + day * 86_400 + hour * 3600 + minute * 60 + 59, USUAL)
    }

    #[test]
    fn a_window_holds_from_its_first_minute_to_its_last_over_midnight() {
        let night = window("22:00", "06:00", "900mbit", &[]).unwrap();
        let windows = RateWindows::new(vec![night]).unwrap();
        let fast = WindowRate::At(Rate::BitsPerS(900_000_000));
        for day in 0..14 {
            for (hour, minute, expected) in [
                (21, 59, WindowRate::At(USUAL)),
                (22, 0, fast),
                (23, 59, fast),
                (0, 0, fast),
                (5, 59, fast),
                (6, 0, WindowRate::At(USUAL)),
            ] {
                assert_eq!(at(&windows, day, hour, minute), expected, "day {day}, {hour}:{minute:02}");
            }
        }
        assert_eq!(windows.rate_max(USUAL), Rate::BitsPerS(900_000_000));
        assert_eq!(RateWindows::default().rate_max(USUAL), USUAL);
    }

    #[test]
    fn days_are_those_on_which_it_begins() {
        let off = window("20:00", "04:00", "off", &["fri", "sun"]).unwrap();
        let windows = RateWindows::new(vec![off]).unwrap();
        let is_off = |day, hour| at(&windows, day, hour, 0) == WindowRate::Off;
        assert!(is_off(4, 20) && is_off(5, 3) && !is_off(5, 4) && !is_off(5, 20) && !is_off(3, 20));
        assert!(is_off(6, 23) && is_off(7, 3) && !is_off(7, 4), "Sunday's window ends on Monday");
        let day = RateWindows::new(vec![window("00:00", "24:00", "0", &["tue"]).unwrap()]).unwrap();
        assert_eq!((at(&day, 1, 0, 0), at(&day, 1, 23, 59)), (WindowRate::Off, WindowRate::Off));
        assert_eq!((at(&day, 0, 23, 59), at(&day, 2, 0, 0)), (WindowRate::At(USUAL), WindowRate::At(USUAL)));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (from, to, rate, days, expected) in [
            ("22", "06:00", "1gbit", &[][..], "time of day"),
            ("22:60", "06:00", "1gbit", &[], "22:60"),
            ("24:01", "06:00", "1gbit", &[], "24:01"),
            ("+1:00", "+2:00", "1gbit", &[], "time of day"),
            ("06:00", "06:00", "1gbit", &[], "empty"),
            ("06:00", "07:00", "fast", &[], "or \"off\""),
            ("06:00", "07:00", "1gbit", &["monday"], "monday"),
        ] {
            let error = window(from, to, rate, days).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let overlapping = vec![
            window("08:00", "10:00", "1gbit", &["mon"]).unwrap(),
            window("22:00", "08:01", "off", &["sun"]).unwrap(),
        ];
        let error = RateWindows::new(overlapping).unwrap_err().to_string();
        assert!(error.contains("windows 1 and 2 overlap on mon at 08:00"), "{error}");
        let side_by_side = vec![
            window("08:00", "10:00", "1gbit", &[]).unwrap(),
            window("10:00", "08:00", "off", &[]).unwrap(),
        ];
        assert!(RateWindows::new(side_by_side).is_ok());
    }
}
