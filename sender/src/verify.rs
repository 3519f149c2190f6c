//! `verify`: hashes everything that is kept. What lies in damaged blocks is not sent, and has to be submitted again.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use diodesync::pack::PackStore;
use diodesync::pack::verify::{DamagedFact, Report};

use crate::store::Store;

/// The fact files, and folders of them.
const FACTS: &[&str] = &[
    "link.json",
    "keys/link.key",
    "keys/targets.key",
    "keys/timestamp.key",
    "keys/pairing.key",
    "repository",
    "trust",
    "session",
    "complete",
    "full",
    "staged",
    "withdrawn",
    "resends",
    "releases",
    "damaged",
];

/// What to do about damaged blocks.
pub const MEND: &str = "These blocks are not sent. Submit what lies in them again (diode-sender submit), then: \
                        diode-sender release";

/// Looks at everything.
pub fn verify(
    dir: &Path,
    packs: &PackStore,
    store: &Mutex<Store>,
    progress: impl FnMut(u64, u64),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    report.look_at_facts(dir, FACTS);
    let mut releases = Vec::new();
    {
        let store = store.lock().unwrap_or_else(PoisonError::into_inner);
        for (channel, numbers) in store.releases()? {
            for number in numbers {
                match store.release(&channel, number) {
                    Ok(index) => releases.push(Arc::new(index)),
                    Err(error) => {
                        let path = store.release_path(&channel, number);
                        if !report.damaged_facts.iter().any(|damaged| damaged.path == path) {
                            report.damaged_facts.push(DamagedFact { path, why: format!("{error:#}") });
                        }
                    }
                }
            }
        }
        releases.extend(store.staged.values().cloned().map(Arc::new));
    }
    let condemn = |block: &diodesync::release::index::NeededBlock| {
        // Retention may have taken it away while it was read.
        let is_kept = || {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.catalog.block(&block.id) == Some((block.bytes, block.hash))
        };
        let is_damaged = is_kept();
        if is_damaged {
            packs.condemn(block.id);
        }
        is_damaged
    };
    report.look_at_releases(packs, &releases, |_| true, condemn, progress);
    store.lock().unwrap_or_else(PoisonError::into_inner).note_damage(packs)?;
    Ok(report)
}
