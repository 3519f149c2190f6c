//! The journal on disk.
//!
//! sled 0.34.7's `flush` was seen to issue only `sync_file_range`, and abrupt stops have left databases that do not open.
//! So nothing depends on it: a database that cannot be opened is moved aside and begun anew, and the daemon rebuilds
//! what it held.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use super::{Change, Journal, JournalError, Row};

/// Octets of sled's cache: the journal is small and read at start.
const CACHE_BYTES: u64 = 16 << 20;

/// A sled database.
#[derive(Debug)]
pub struct SledJournal {
    database: sled::Db,
    dir: PathBuf,
}

impl SledJournal {
    /// Opens the database in `dir`, or begins it. If one is there and cannot be opened it is moved aside, and the
    /// second value says where to.
    pub fn open(dir: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let why = match try_open(dir) {
            Ok(database) => return Ok((Self { database, dir: dir.to_owned() }, None)),
            Err(why) => why,
        };
        let failed = |why: String| JournalError::Database { dir: dir.display().to_string(), why };
        // Another process that owns it is not damage.
        if why.contains("could not acquire lock") {
            return Err(failed(format!("another process owns it ({why})")));
        }
        let aside = (0..).map(|n| dir.with_extension(format!("damaged-{n}"))).find(|path| !path.exists());
        let aside = aside.unwrap_or_else(|| dir.with_extension("damaged"));
        std::fs::rename(dir, &aside)
            .map_err(|error| failed(format!("{why}; and cannot be moved aside: {error}")))?;
        let database = try_open(dir).map_err(failed)?;
        Ok((Self { database, dir: dir.to_owned() }, Some(aside)))
    }

    fn failed(&self, error: &sled::Error) -> JournalError {
        JournalError::Database { dir: self.dir.display().to_string(), why: error.to_string() }
    }
}

/// sled panics on some damage instead of returning an error.
fn try_open(dir: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(500));
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it is damaged so that opening it panics".to_owned()),
    }
}

impl Journal for SledJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.database.get(key).map_err(|error| self.failed(&error))?.map(|value| value.to_vec()))
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), JournalError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.database.apply_batch(batch).map_err(|error| self.failed(&error))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, JournalError> {
        self.database
            .scan_prefix(prefix)
            .map(|row| {
                row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|error| self.failed(&error))
            })
            .collect()
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.database.flush().map(|_| ()).map_err(|error| self.failed(&error))
    }
}
