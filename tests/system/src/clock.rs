//! A daemon's clock, shifted by libfaketime (Debian package `faketime`): that of the calendar, not the monotonic one.

use std::path::PathBuf;

use anyhow::Result;

use crate::side::Side;
use crate::skip::Skip;

/// The library, and the file that it reads the shift from.
#[derive(Debug, Clone)]
pub struct ShiftedClock {
    library: PathBuf,
    shift: PathBuf,
}

impl ShiftedClock {
    /// A clock that is right at first. `file` is where its shift is kept.
    pub fn new(file: PathBuf) -> Result<Self, Skip> {
        let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let found =
            libraries.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let skip = || Skip::curable("libfaketime is not installed (apt-get install faketime)");
        let clock = Self { library: found.ok_or_else(skip)?, shift: file };
        clock.set("+0").map_err(|error| Skip::incurable(format!("{error:#}")))?;
        Ok(clock)
    }

    /// Has a side go by this clock from its next start on. (The program `faketime` would stay between us and the daemon.)
    pub fn give_to(&self, side: &mut Side) {
        let words = [
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.shift.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        side.set_wrapper(&words.each_ref().map(String::as_str));
    }

    /// Shifts it, also while the daemon runs: `+1d`, `-3653d`, `+240`.
    pub fn set(&self, by: &str) -> Result<()> {
        // Renamed into its place, so that the daemon never reads an empty one.
        let new = self.shift.with_extension("new");
        std::fs::write(&new, format!("{by}\n"))?;
        std::fs::rename(new, &self.shift)?;
        Ok(())
    }
}
