//! Numbers as people write them, in configurations and in status: rates, sizes, times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// A quantity cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected {expected}, found {found:?}")]
pub struct QuantityError {
    expected: &'static str,
    found: String,
}

/// Splits `12.5kbit` into the number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    number.is_finite().then_some((number, unit.trim()))
}

fn read(text: &str, units: &[(&str, f64)], expected: &'static str) -> Result<f64, QuantityError> {
    let error = || QuantityError { expected, found: text.to_owned() };
    let (number, unit) = split(text.trim()).ok_or_else(error)?;
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor).ok_or_else(error)?;
    Ok(number * factor)
}

/// A lane's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Bits per second, at least 1000.
    BitsPerS(u64),
    /// As fast as it goes.
    Max,
}

impl Rate {
    /// Bits per second; none for as fast as it goes.
    pub fn bits_per_s(self) -> Option<u64> {
        match self {
            Self::BitsPerS(rate) => Some(rate),
            Self::Max => None,
        }
    }
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const EXPECTED: &str = "a rate of at least 1kbit like \"500mbit\", \"2.5gbit\" or \"max\"";
        if text == "max" {
            return Ok(Self::Max);
        }
        let rate = read(text, &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)], EXPECTED)?;
        if (1e3..=1e12).contains(&rate) {
            Ok(Self::BitsPerS(rate as u64))
        } else {
            Err(QuantityError { expected: EXPECTED, found: text.to_owned() })
        }
    }
}

/// Reads a time like `50ms`, `10m`, `6h`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    const EXPECTED: &str = "a time like \"50ms\", \"30s\", \"10m\", \"6h\" or \"2d\"";
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];
    let seconds = read(text, &units, EXPECTED)?;
    if seconds <= 86400.0 * 3660.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(QuantityError { expected: EXPECTED, found: text.to_owned() })
    }
}

/// Reads a size like `500MB` or `1GiB`, in octets: powers of 1000, with an `i` of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    const EXPECTED: &str = "a size like \"0B\", \"500MB\", \"1GB\" or \"1GiB\"";
    let units = [
        ("B", 1.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
    ];
    let bytes = read(text, &units, EXPECTED)?;
    if bytes <= 1e18 {
        Ok(bytes as u64)
    } else {
        Err(QuantityError { expected: EXPECTED, found: text.to_owned() })
    }
}

/// Reads a share like `10%`; at most 100 %.
pub fn parse_percent(text: &str) -> Result<u32, QuantityError> {
    const EXPECTED: &str = "a whole share from \"0%\" to \"100%\"";
    let error = || QuantityError { expected: EXPECTED, found: text.to_owned() };
    let percent: u32 = text.trim().strip_suffix('%').and_then(|n| n.parse().ok()).ok_or_else(error)?;
    if percent <= 100 { Ok(percent) } else { Err(error()) }
}

/// Octets, written as `1.5 GiB`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
    }
}

/// A rate, written as `1.2 Gbit/s`.
#[derive(Debug, Clone, Copy)]
pub struct BitsPerS(pub u64);

impl fmt::Display for BitsPerS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0 as f64, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
    }
}

fn scaled(f: &mut fmt::Formatter<'_>, mut value: f64, step: f64, units: &[&str]) -> fmt::Result {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= step {
        let Some(next) = units.next() else { break };
        value /= step;
        unit = next;
    }
    let digits = if value.fract() == 0.0 || value >= 100.0 { 0 } else { 1 };
    write!(f, "{value:.digits$} {unit}")
}

/// A time, written as `2 h 5 min`, in its two largest units.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0.as_secs();
        match s {
            0..60 => write!(f, "{s} s"),
            60..3600 => write!(f, "{} min {} s", s / 60, s % 60),
            3600..86400 => write!(f, "{} h {} min", s / 3600, s % 3600 / 60),
            _ => write!(f, "{} d {} h", s / 86400, s % 86400 / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_times_and_shares() {
        assert_eq!("1gbit".parse(), Ok(Rate::BitsPerS(1_000_000_000)));
        assert_eq!("2.5mbit".parse(), Ok(Rate::BitsPerS(2_500_000)));
        assert_eq!("max".parse(), Ok(Rate::Max));
        for bad in ["", "1", "gbit", "0gbit", "-1gbit", "1gib", "1e9mbit", "999bit", "nan"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!(parse_duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "5 minutes", "-1s", "99999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("1.5MiB"), Ok(3 << 19));
        assert_eq!(parse_bytes("0B"), Ok(0));
        for bad in ["", "5", "-1GB", "1gb", "9999999TB", "1G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_percent("10%"), Ok(10));
        for bad in ["10", "101%", "-1%", "1.5%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn people_read_them() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(30 << 30).to_string(), "30 GiB");
        assert_eq!(BitsPerS(1_234_000_000).to_string(), "1.2 Gbit/s");
        assert_eq!(Span(Duration::from_secs(7500)).to_string(), "2 h 5 min");
    }
}
