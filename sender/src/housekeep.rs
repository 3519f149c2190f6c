//! What the sender does in the background: it forgets releases that are not kept, notes damage that sending has found,
//! sends everything again when that is due, and opens a journal that failed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use diodesync::audit::Actor;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::journal::Revived;
use diodesync::quantity::Bytes;
use diodesync_control::clock_s;

use crate::api::Daemon;

/// How often there is a look.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looks between two attempts to open the journal.
const REVIVE_LOOKS: u32 = 3;

/// What retention depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// The newest and the completed release of each channel.
    releases: BTreeMap<Channel, (ReleaseNo, Option<ReleaseNo>)>,
    /// How many each channel keeps.
    keep: BTreeMap<Channel, usize>,
}

/// Goes on until it is aborted.
pub async fn run(daemon: Arc<Daemon>) {
    let mut seen = None;
    for look in 0u32.. {
        let worker = daemon.clone();
        let before = seen.clone();
        // Files are removed and synced.
        let turn =
            tokio::task::spawn_blocking(move || turn(&worker, before, look.is_multiple_of(REVIVE_LOOKS)));
        match turn.await {
            Ok(now) => seen = now,
            Err(error) => tracing::error!(%error, "housekeeping crashed"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Sends everything of the channels again whose time has come, so that a receiver that lacks what nobody has missed gets
/// it without a ticket.
fn release_what_is_due(daemon: &Daemon) -> anyhow::Result<()> {
    let channels: Vec<Channel> =
        daemon.store.lock().unwrap_or_else(PoisonError::into_inner).newest.keys().cloned().collect();
    let mut failure = None;
    for channel in channels {
        // One that is on its way is not superseded for this.
        let is_idle = daemon.sending.view(&channel).is_none_or(|(_, is_on_its_way)| !is_on_its_way);
        if !is_idle || !daemon.is_full_due(&channel, clock_s())? {
            continue;
        }
        match daemon.cut(&Actor::daemon("full_every"), &channel, true) {
            Ok(cut) => {
                tracing::info!(%channel, release = cut.number.0, "everything is sent again, as full_every says")
            }
            // Other channels have theirs.
            Err(error) => failure = failure.or(Some(error.context(format!("channel {channel}, full_every")))),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// One look. What fails is an alarm, and hinders nothing else.
fn turn(daemon: &Daemon, before: Option<Seen>, is_revival_due: bool) -> Option<Seen> {
    daemon.audit.retry();
    if is_revival_due && daemon.journal.failure().is_some() {
        match daemon.journal.revive() {
            Ok(Revived::Alive) => {}
            Ok(revived) => tracing::warn!(?revived, "the journal is open again"),
            Err(error) => tracing::debug!(%error, "the journal stays closed"),
        }
    }
    let retained = retain(daemon, before.clone());
    let failures = [
        retained.as_ref().err().map(|error| format!("what is not kept cannot be given back: {error:#}")),
        release_what_is_due(daemon).err().map(|error| format!("what is due cannot be sent again: {error:#}")),
    ];
    let failures: Vec<String> = failures.into_iter().flatten().collect();
    let mut known = daemon.housekeeping.lock().unwrap_or_else(PoisonError::into_inner);
    for text in failures.iter().filter(|text| !known.contains(text)) {
        tracing::error!("{text}; it is tried again");
    }
    *known = failures;
    retained.unwrap_or(before)
}

fn retain(daemon: &Daemon, before: Option<Seen>) -> anyhow::Result<Option<Seen>> {
    let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    store.note_damage(&daemon.packs)?;
    let mut now = Seen { keep: daemon.config().keep(), ..Seen::default() };
    for (channel, index) in &store.newest {
        now.releases.insert(channel.clone(), (index.number, store.complete(channel)?));
    }
    if before.as_ref() == Some(&now) {
        return Ok(before);
    }
    drop(store);
    // A submission refers to blobs that are there; what it refers to stays while it is under way.
    let Ok(_writer) = daemon.writer.try_lock() else { return Ok(before) };
    let mut needed = daemon.sending.resent_blocks();
    let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    needed.extend(daemon.exports.needed_blocks()?);
    let freed = store.retain(&daemon.packs, &now.keep, &needed)?;
    if freed > 0 {
        tracing::info!("{} given back: no kept release needs it", Bytes(freed));
    }
    daemon.freed_bytes.fetch_add(freed, std::sync::atomic::Ordering::Relaxed);
    Ok(Some(now))
}
