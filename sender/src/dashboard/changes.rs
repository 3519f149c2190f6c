//! What each release that is kept changed, remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use diodesync::id::{Channel, ReleaseNo};
use diodesync::release::change::Change;

use crate::api::Daemon;

/// Releases whose changes are remembered.
const KNOWN_MAX: usize = 64;

/// What is known of releases, so that their indexes are read once.
#[derive(Debug, Default)]
pub struct Changes(Mutex<BTreeMap<(Channel, ReleaseNo), Arc<Change>>>);

impl Changes {
    /// The releases that are kept, the newest first.
    pub fn releases(daemon: &Daemon) -> anyhow::Result<Vec<(Channel, ReleaseNo)>> {
        let releases = daemon.store.lock().unwrap_or_else(PoisonError::into_inner).releases()?;
        let number = |(channel, numbers): (Channel, BTreeSet<ReleaseNo>)| {
            numbers.into_iter().rev().map(move |number| (channel.clone(), number))
        };
        Ok(releases.into_iter().flat_map(number).collect())
    }

    /// What a release changed. None if it is not kept. May read two indexes.
    pub fn of(
        &self,
        daemon: &Daemon,
        channel: &Channel,
        number: ReleaseNo,
    ) -> anyhow::Result<Option<Arc<Change>>> {
        let numbers = Self::releases(daemon)?;
        if !numbers.contains(&(channel.clone(), number)) {
            return Ok(None);
        }
        let key = (channel.clone(), number);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Some(known.clone()));
        }
        let before = numbers.iter().filter(|(other, _)| other == channel).map(|(_, other)| *other);
        let before = before.filter(|other| *other < number).max();
        let read = |number| {
            let path =
                daemon.store.lock().unwrap_or_else(PoisonError::into_inner).release_path(channel, number);
            crate::store::read_index(&path)
        };
        let (index, before) = (read(number)?, before.map(read).transpose()?);
        let change = Arc::new(Change::between(&index, before.as_ref()));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, change.clone());
        Ok(Some(change))
    }
}
