//! What the sender does in the background: it forgets releases that are not kept, notes damage that sending has found,
//! sends everything again when that is due, and opens a journal that failed.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::journal::Revived;
use diodesync::quantity::Bytes;
use diodesync_control::clock_s;

use crate::api::Daemon;

/// How often there is a look.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looks between two attempts to open the journal.
const REVIVE_LOOKS: u32 = 3;

/// What retention depends on: the newest and the completed release of each channel.
type Seen = BTreeMap<Channel, (ReleaseNo, Option<ReleaseNo>)>;

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
            Ok(Ok(now)) => seen = now,
            Ok(Err(error)) => {
                let text = format!("{error:#}");
                let mut failure = daemon.housekeeping.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.as_ref() != Some(&text) {
                    tracing::error!(error = text, "what is not kept cannot be given back; it is tried again");
                }
                *failure = Some(text);
            }
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
    for channel in channels {
        // One that is on its way is not superseded for this.
        let is_idle = daemon.sending.view(&channel).is_none_or(|(_, is_on_its_way)| !is_on_its_way);
        if is_idle && daemon.is_full_due(&channel, clock_s())? {
            let cut = daemon.cut(&channel, true)?;
            tracing::info!(%channel, release = cut.number.0, "everything is sent again, as full_every says");
        }
    }
    Ok(())
}

fn turn(daemon: &Daemon, before: Option<Seen>, is_revival_due: bool) -> anyhow::Result<Option<Seen>> {
    if is_revival_due && daemon.journal.failure().is_some() {
        match daemon.journal.revive() {
            Ok(Revived::Alive) => {}
            Ok(revived) => tracing::warn!(?revived, "the journal is open again"),
            Err(error) => tracing::debug!(%error, "the journal stays closed"),
        }
    }
    release_what_is_due(daemon)?;
    let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    store.note_damage(&daemon.packs)?;
    let mut now = Seen::new();
    for (channel, index) in &store.newest {
        now.insert(channel.clone(), (index.number, store.complete(channel)?));
    }
    if before.as_ref() == Some(&now) {
        return Ok(before);
    }
    drop(store);
    // A submission refers to blobs that are there; what it refers to stays while it is under way.
    let Ok(_writer) = daemon.writer.try_lock() else { return Ok(before) };
    let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    let exported = daemon.exports.needed_blocks()?;
    let freed = store.retain(&daemon.packs, &daemon.config.keep(), &exported)?;
    if freed > 0 {
        tracing::info!("{} given back: no kept release needs it", Bytes(freed));
    }
    daemon.freed_bytes.fetch_add(freed, std::sync::atomic::Ordering::Relaxed);
    *daemon.housekeeping.lock().unwrap_or_else(PoisonError::into_inner) = None;
    Ok(Some(now))
}
