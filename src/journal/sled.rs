//! The journal on disk.
//!
//! sled 0.34.7's `flush` was seen to issue only `sync_file_range`, abrupt stops have left databases that do not open, and
//! after one failed write it fails for ever, or panics. So nothing depends on it: a database that cannot be opened is
//! moved aside and begun anew, one that fails is let go of and opened again ([`SledJournal::revive`]), and the daemon
//! rebuilds what it held. While there is none, reading and writing it are errors, and nothing else stops.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::{Change, Journal, JournalError, Row};

/// Octets of sled's cache: the journal is small and read at start.
const CACHE_BYTES: u64 = 16 << 20;

/// A sled database, or why there is none at present.
#[derive(Debug)]
pub struct SledJournal {
    dir: PathBuf,
    database: RwLock<Result<sled::Db, String>>,
}

/// What [`SledJournal::revive`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revived {
    /// It had not failed.
    Alive,
    /// It was opened again; what was written last may not be in it.
    Reopened,
    /// It could not be opened, was moved aside, and is begun anew.
    Anew(PathBuf),
}

enum Unopened {
    /// Another process owns it.
    Owned(String),
    /// There is no room. That is not damage.
    Full(String),
    Damaged(String),
}

impl SledJournal {
    /// Opens the database in `dir`, or begins it. If one is there and cannot be opened it is moved aside, and the
    /// second value says where to. For want of room it is not opened; [`failure`](Self::failure) says so.
    pub fn open(dir: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let journal =
            Self { dir: dir.to_owned(), database: RwLock::new(Err("it is not open yet".to_owned())) };
        match journal.revive() {
            Ok(Revived::Anew(aside)) => Ok((journal, Some(aside))),
            Ok(Revived::Alive | Revived::Reopened) => Ok((journal, None)),
            Err(JournalError::Closed { .. }) => Ok((journal, None)),
            Err(error) => Err(error),
        }
    }

    /// Why it cannot be used at present.
    pub fn failure(&self) -> Option<String> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).as_ref().err().cloned()
    }

    /// Opens it again if it has failed.
    ///
    /// # Errors
    /// [`JournalError::Closed`] as long as there is no room.
    pub fn revive(&self) -> Result<Revived, JournalError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_ok() {
            return Ok(Revived::Alive);
        }
        let dir = self.dir.display().to_string();
        let failed = |why: String| JournalError::Database { dir: dir.clone(), why };
        let closed = |why: String| JournalError::Closed { dir: dir.clone(), why };
        let why = match try_open(&self.dir) {
            Ok(opened) => {
                *database = Ok(opened);
                return Ok(Revived::Reopened);
            }
            Err(Unopened::Owned(why)) => return Err(failed(format!("another process owns it ({why})"))),
            Err(Unopened::Full(why)) => {
                *database = Err(why.clone());
                return Err(closed(why));
            }
            Err(Unopened::Damaged(why)) => why,
        };
        let aside =
            (0..).map(|n| self.dir.with_extension(format!("damaged-{n}"))).find(|path| !path.exists());
        let aside = aside.unwrap_or_else(|| self.dir.with_extension("damaged"));
        std::fs::rename(&self.dir, &aside)
            .map_err(|error| failed(format!("{why}; and cannot be moved aside: {error}")))?;
        match try_open(&self.dir) {
            Ok(opened) => {
                *database = Ok(opened);
                Ok(Revived::Anew(aside))
            }
            Err(Unopened::Full(why)) => {
                *database = Err(why.clone());
                Err(closed(why))
            }
            Err(Unopened::Damaged(why) | Unopened::Owned(why)) => Err(failed(why)),
        }
    }

    /// Does something with the database. If that fails, or panics, the database is let go of.
    fn with<T>(&self, what: impl FnOnce(&sled::Db) -> Result<T, sled::Error>) -> Result<T, JournalError> {
        let dir = || self.dir.display().to_string();
        let why = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = match &*database {
                Ok(database) => database,
                Err(why) => return Err(JournalError::Closed { dir: dir(), why: why.clone() }),
            };
            match std::panic::catch_unwind(AssertUnwindSafe(|| what(database))) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked".to_owned(),
            }
        };
        tracing::error!(
            dir = dir(),
            why,
            "the journal failed; nothing else depends on it, it is opened again"
        );
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let failed = std::mem::replace(&mut *database, Err(why.clone()));
        // It flushes when it goes, and may panic again.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(failed)));
        Err(JournalError::Closed { dir: dir(), why })
    }
}

/// sled panics on some damage instead of returning an error.
fn try_open(dir: &Path) -> Result<sled::Db, Unopened> {
    // What sled says when there is no room is not always that, so a file is written first.
    probe(dir).map_err(|error| Unopened::Full(format!("cannot write in {}: {error}", dir.display())))?;
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(500));
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(sled::Error::Io(error))) if is_full(&error) => Err(Unopened::Full(error.to_string())),
        Ok(Err(error)) if error.to_string().contains("could not acquire lock") => {
            Err(Unopened::Owned(error.to_string()))
        }
        Ok(Err(error)) => Err(Unopened::Damaged(error.to_string())),
        Err(_) => Err(Unopened::Damaged("it is damaged so that opening it panics".to_owned())),
    }
}

/// Octets that opening a database takes, about.
const PROBE_BYTES: usize = 1 << 20;

fn probe(dir: &Path) -> std::io::Result<()> {
    let path = dir.with_extension("probe");
    let written = std::fs::write(&path, vec![0x5a; PROBE_BYTES]);
    let _ = std::fs::remove_file(&path);
    match written {
        Err(error) if is_full(&error) => Err(error),
        // What else is wrong, opening says better.
        _ => Ok(()),
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

impl Journal for SledJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.with(|database| Ok(database.get(key)?.map(|value| value.to_vec())))
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), JournalError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.with(|database| database.apply_batch(batch))
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, JournalError> {
        self.with(|database| {
            database
                .scan_prefix(prefix)
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.with(|database| database.flush().map(|_| ()))
    }
}
