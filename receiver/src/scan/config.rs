//! `[scan]` of `receiver.toml`.

use std::time::Duration;

use serde::Deserialize;

use super::unpack::Limits;
use super::{Clamd, Command, Scanner};
use crate::config::{bytes, duration};

/// Less would have ended before a release can be published.
const VALID_MIN: Duration = Duration::from_secs(1);

/// `[scan]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScanConfig {
    /// clamd's socket.
    clamd: Option<String>,
    /// Another scanner.
    command: Option<Vec<String>>,
    /// What it means that something was not scanned.
    unscanned: Unscanned,
    /// Time after which a release that has waited for approvers is scanned once more.
    #[serde(default = "default_valid", deserialize_with = "duration")]
    valid: Duration,
    /// Time for one file.
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    timeout: Duration,
    /// Octets of the largest file that is scanned.
    #[serde(default = "default_bytes_max", deserialize_with = "bytes")]
    bytes_max: u64,
    /// Octets that an archive may unpack to.
    #[serde(default = "default_unpacked_max", deserialize_with = "bytes")]
    unpacked_max: u64,
    /// The same as a multiple of its own.
    #[serde(default = "default_ratio_max")]
    ratio_max: u64,
    /// Files in an archive.
    #[serde(default = "default_entries_max")]
    entries_max: u64,
    /// Archives within each other.
    #[serde(default = "default_depth_max")]
    depth_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unscanned {
    Allow,
    Deny,
}

fn default_timeout() -> Duration {
    Duration::from_secs(300)
}

fn default_valid() -> Duration {
    Duration::from_secs(86_400)
}

/// What clamd takes at most unless its `StreamMaxLength` is set.
fn default_bytes_max() -> u64 {
    100 << 20
}

fn default_unpacked_max() -> u64 {
    20 << 30
}

fn default_ratio_max() -> u64 {
    500
}

fn default_entries_max() -> u64 {
    1_000_000
}

/// A `.deb` in an image's layer: gzip, tar, ar, xz, tar, and two more.
fn default_depth_max() -> u32 {
    7
}

impl ScanConfig {
    /// What it says.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn scanner(&self) -> anyhow::Result<Scanner> {
        let named = |error: String| anyhow::anyhow!("scan: {error}");
        let clamd = self.clamd.as_deref().map(|place| Clamd::new(place, self.timeout));
        let command = self.command.as_deref().map(|words| Command::new(words, self.timeout));
        if clamd.is_none() && command.is_none() {
            anyhow::bail!("scan: expected clamd or command, found neither");
        }
        if self.valid < VALID_MIN {
            anyhow::bail!("scan: valid is {:?}, expected {VALID_MIN:?} at least", self.valid);
        }
        Ok(Scanner {
            clamd: clamd.transpose().map_err(named)?,
            command: command.transpose().map_err(named)?,
            limits: Limits {
                file_bytes_max: self.bytes_max,
                unpacked_bytes_max: self.unpacked_max,
                ratio_max: self.ratio_max,
                entries_max: self.entries_max,
                depth_max: self.depth_max,
            },
            allows_unscanned: self.unscanned == Unscanned::Allow,
            valid: self.valid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scanner, String> {
        let config: ScanConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.scanner().map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_read_and_mistakes_are_named() {
        let scanner = parse("clamd = '/run/clamd'\nunscanned = 'deny'\nbytes_max = '10MB'\n").unwrap();
        assert_eq!((scanner.limits.file_bytes_max, scanner.allows_unscanned), (10_000_000, false));
        assert!(parse("command = ['/bin/scan', '-']\nunscanned = 'allow'\n").unwrap().allows_unscanned);
        for (text, expected) in [
            ("unscanned = 'deny'\n", "expected clamd or command"),
            ("clamd = '/run/clamd'\n", "missing field `unscanned`"),
            ("clamd = 'here'\nunscanned = 'deny'\n", "clamd's socket like"),
            ("command = ['scan']\nunscanned = 'deny'\n", "absolute path"),
            ("clamd = '/x'\nunscanned = 'deny'\nsizes = 1\n", "unknown field `sizes`"),
            ("clamd = '/x'\nunscanned = 'deny'\nvalid = '0s'\n", "expected 1s at least"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
