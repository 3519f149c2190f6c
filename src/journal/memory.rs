//! The journal's twin in memory, for tests and simulations.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Change, Journal, JournalError, Row};

/// Forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Journal for MemoryJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), JournalError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, JournalError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = map.range(prefix.to_vec()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn flush(&self) -> Result<(), JournalError> {
        Ok(())
    }
}
