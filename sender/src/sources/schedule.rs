//! When a source is pulled: every so often, or at the times of a cron line, in UTC. Pure: the time is an argument.

use std::time::Duration;

use diodesync::quantity::parse_duration;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The shortest time between two pulls.
const EVERY_MIN: Duration = Duration::from_secs(60);
/// Days in which a cron line must have a time: the 29th of February can be eight years away.
const DAYS_MAX: u32 = 9 * 366;
/// The first wait after a pull that failed.
const RETRY_FIRST_S: u64 = 300;
/// The longest.
const RETRY_MAX_S: u64 = 6 * 3600;

/// When a source is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// That long after the last one began.
    Every(Duration),
    /// At these times.
    Cron(Cron),
}

impl Schedule {
    /// Reads `every`.
    pub fn every(text: &str) -> Result<Self, String> {
        let every = parse_duration(text).map_err(|error| error.to_string())?;
        if every < EVERY_MIN {
            return Err(format!("expected 1m or more between two pulls, found {text:?}"));
        }
        Ok(Self::Every(every))
    }

    /// Reads `cron`.
    pub fn cron(text: &str) -> Result<Self, String> {
        Cron::parse(text).map(Self::Cron)
    }

    /// When the next pull is due, in seconds since 1970. One that has none yet is due when it is first seen, or at its
    /// first time after that. After `failures` in a row it comes sooner than the schedule says, but ever later.
    pub fn next_s(&self, last_began_s: Option<u64>, failures: u32, first_seen_s: u64) -> u64 {
        let planned = match (self, last_began_s) {
            (Self::Every(_), None) => return first_seen_s,
            (Self::Every(every), Some(last_s)) => last_s.saturating_add(every.as_secs()),
            (Self::Cron(cron), last_s) => cron.next_s(last_s.unwrap_or(first_seen_s)).unwrap_or(u64::MAX),
        };
        match (failures, last_began_s) {
            (1.., Some(last_s)) => {
                let wait_s = RETRY_FIRST_S.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_MAX_S);
                planned.min(last_s.saturating_add(wait_s))
            }
            _ => planned,
        }
    }
}

/// The five fields of a cron line, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month, and of the week, are restricted: with both, either is enough (crontab(5)).
    by_day: bool,
    by_weekday: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Cron {
    /// Reads `MINUTE HOUR DAY MONTH WEEKDAY`: numbers, names, `*`, lists, ranges and steps, as in crontab(5).
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!(
                "expected five fields, MINUTE HOUR DAY MONTH WEEKDAY, like \"30 2 * * mon-fri\", found {} in {text:?}",
                fields.len()
            ));
        };
        let weekdays = field("weekdays", weekday, 0, 7, &WEEKDAYS, 0)?;
        let cron = Self {
            minutes: field("minutes", minute, 0, 59, &[], 0)?,
            hours: field("hours", hour, 0, 23, &[], 0)?,
            days: field("days", day, 1, 31, &[], 0)?,
            months: field("months", month, 1, 12, &MONTHS, 1)?,
            // Sunday is 0 and 7.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            by_day: !day.starts_with('*'),
            by_weekday: !weekday.starts_with('*'),
        };
        // Any moment will do: what never comes within nine years never comes.
        if cron.next_s(0).is_none() {
            return Err(format!("expected times that come, found {text:?}: no month has such a day"));
        }
        Ok(cron)
    }

    /// The first time after `after_s`, in seconds since 1970; none if there is none within nine years.
    pub fn next_s(&self, after_s: u64) -> Option<u64> {
        let after = Timestamp::from_second(i64::try_from(after_s).ok()?).ok()?;
        let after = TimeZone::UTC.to_datetime(after);
        let mut day = after.date();
        for turn in 0..DAYS_MAX {
            if self.is_day(&day) {
                let from = if turn == 0 {
                    (i64::from(after.hour()) * 60 + i64::from(after.minute())) + 1
                } else {
                    0
                };
                let is_it = |minute: &i64| {
                    self.hours >> (minute / 60) & 1 == 1 && self.minutes >> (minute % 60) & 1 == 1
                };
                if let Some(minute) = (from..24 * 60).find(is_it) {
                    let time = DateTime::from_parts(
                        day,
                        jiff::civil::time((minute / 60) as i8, (minute % 60) as i8, 0, 0),
                    );
                    return u64::try_from(TimeZone::UTC.to_timestamp(time).ok()?.as_second()).ok();
                }
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn is_day(&self, day: &jiff::civil::Date) -> bool {
        let by_day = self.days >> day.day() & 1 == 1;
        let by_weekday = self.weekdays >> day.weekday().to_sunday_zero_offset() & 1 == 1;
        let is_day = match (self.by_day, self.by_weekday) {
            (true, true) => by_day || by_weekday,
            _ => by_day && by_weekday,
        };
        is_day && self.months >> day.month() & 1 == 1
    }
}

/// The numbers that a field names, as bits. `names` count from `names_from`.
fn field(what: &str, text: &str, min: u32, max: u32, names: &[&str], names_from: u32) -> Result<u64, String> {
    let no = || {
        let names = if names.is_empty() { String::new() } else { format!(" or {}", names.join(", ")) };
        format!("expected {what} from {min} to {max}{names}, found {text:?}")
    };
    let number = |word: &str| -> Option<u32> {
        let named = names.iter().zip(names_from..).find(|(name, _)| word.eq_ignore_ascii_case(name));
        let is_digits = word.bytes().all(|octet| octet.is_ascii_digit());
        let number = named.map(|(_, number)| number).or_else(|| word.parse().ok().filter(|_| is_digits))?;
        (min..=max).contains(&number).then_some(number)
    };
    let mut bits = 0;
    for part in text.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((first, last)) => (number(first).ok_or_else(no)?, number(last).ok_or_else(no)?),
            None => {
                let first = number(range).ok_or_else(no)?;
                (first, if step.is_some() { max } else { first })
            }
        };
        let step: u32 =
            step.map_or(Some(1), |step| step.parse().ok()).filter(|step| *step > 0).ok_or_else(no)?;
        if first > last {
            return Err(no());
        }
        (first..=last).step_by(step as usize).for_each(|number| bits |= 1u64 << number);
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_second() as u64
    }

    #[test]
    fn a_cron_line_means_what_crontab_says() {
        for (line, after, next) in [
            ("30 2 * * *", "2026-11-24T02:29:59Z", "2026-11-24T02:30:00Z"),
            ("30 2 * * *", "2026-11-24T02:30:00Z", "2026-11-25T02:30:00Z"),
            ("*/15 * * * *", "2026-11-24T02:31:10Z", "2026-11-24T02:45:00Z"),
            ("0 0 29 2 *", "2026-11-24T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("5 4 * * sun", "2026-11-24T00:00:00Z", "2026-11-29T04:05:00Z"),
            ("5 4 * * 7", "2026-11-24T00:00:00Z", "2026-11-29T04:05:00Z"),
            ("0 12 1 jan mon-fri", "2026-11-24T00:00:00Z", "2027-01-01T12:00:00Z"),
            // Both are restricted: either is enough. The 13th is a Sunday.
            ("0 0 13 * fri", "2026-12-05T00:00:00Z", "2026-12-11T00:00:00Z"),
            ("0 0 13 * fri", "2026-12-11T00:00:00Z", "2026-12-13T00:00:00Z"),
            ("0 8-18/4,23 * * *", "2026-11-24T16:00:00Z", "2026-11-24T23:00:00Z"),
            ("59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"),
        ] {
            let Schedule::Cron(cron) = Schedule::cron(line).unwrap() else { panic!() };
            assert_eq!(cron.next_s(at(after)), Some(at(next)), "{line} after {after}");
        }
    }

    #[test]
    fn what_never_comes_is_refused() {
        for (bad, why) in [
            ("0 0 31 2 *", "no month has such a day"),
            ("0 0 31 4,6,9,11 *", "no month has such a day"),
            ("60 * * * *", "expected minutes from 0 to 59"),
            ("* 24 * * *", "expected hours from 0 to 23"),
            ("* * 0 * *", "expected days from 1 to 31"),
            ("* * * 13 *", "expected months"),
            ("* * * * 8", "expected weekdays"),
            ("* * * * mo", "sun, mon"),
            ("5-1 * * * *", "found \"5-1\""),
            ("*/0 * * * *", "found \"*/0\""),
            ("+5 * * * *", "found \"+5\""),
            (", * * * *", "expected minutes"),
            ("* * * *", "five fields"),
            ("@daily", "five fields"),
            ("", "five fields"),
        ] {
            let error = Schedule::cron(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(Schedule::every("10s").unwrap_err().contains("1m or more"));
        assert!(Schedule::every("6 hours").is_err());
        assert_eq!(Schedule::every("6h"), Ok(Schedule::Every(Duration::from_secs(21_600))));
    }

    #[test]
    fn what_failed_is_tried_sooner_and_ever_later() {
        let every = Schedule::every("6h").unwrap();
        assert_eq!(every.next_s(None, 0, 1000), 1000, "the first one is due at once");
        assert_eq!(every.next_s(Some(1000), 0, 1500), 1000 + 21_600);
        assert_eq!(every.next_s(Some(1000), 1, 1500), 1300);
        assert_eq!(every.next_s(Some(1000), 2, 1500), 1600);
        assert_eq!(every.next_s(Some(1000), 99, 1500), 1000 + 21_600, "never later than planned");
        let yearly = Schedule::cron("0 0 1 1 *").unwrap();
        assert_eq!(yearly.next_s(None, 0, at("2026-11-24T00:00:00Z")), at("2027-01-01T00:00:00Z"));
        assert_eq!(yearly.next_s(Some(at("2027-01-01T00:00:00Z")), 50, 0), at("2027-01-01T06:00:00Z"));
    }
}
