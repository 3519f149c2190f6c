//! `verify`: hashes everything that is kept. Damaged blocks are condemned: not served, and missing until they come
//! again.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use diodesync::journal::HeldBlock;
use diodesync::pack::PackStore;
use diodesync::pack::verify::{DamagedFact, Report};

use crate::handover::Notice;
use crate::publish::{Facts, Ledger};

/// The fact files, and folders of them.
const FACTS: &[&str] = &[
    "pairing",
    "keys/receiver.key",
    "keys/receiver.next.key",
    "keys/pairing.key",
    "keys/host.key",
    "upstream",
    "link-keys",
    "trust",
    "clock",
    "session",
    "releases",
    "published",
    "before",
    "damaged",
    "site",
];

/// What to do about damaged blocks.
pub const MEND: &str = "These blocks are not served, and are named by diode-receiver missing. They come again with: \
                        diode-sender release --full (on the low side)";

/// Looks at everything.
pub fn verify(
    dir: &Path,
    packs: &PackStore,
    ledger: &Ledger,
    notices: &Sender<Notice>,
    progress: impl FnMut(u64, u64),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    report.look_at_facts(dir, FACTS);
    let facts = Facts::open(dir)?;
    let mut releases = Vec::new();
    for channel in facts.channels()? {
        for number in facts.numbers(&channel)? {
            match facts.index(&channel, number) {
                Ok(index) => releases.push(Arc::new(index)),
                Err(error) => {
                    let path = facts.index_path(&channel, number);
                    // It may have been forgotten meanwhile; what is damaged as a file was found above.
                    if path.exists() && !report.damaged_facts.iter().any(|damaged| damaged.path == path) {
                        report.damaged_facts.push(DamagedFact { path, why: format!("{error:#}") });
                    }
                }
            }
        }
    }
    let condemn = |block: &diodesync::release::index::NeededBlock| {
        let is_condemned = ledger.condemn(block.id, Some(HeldBlock { hash: block.hash, bytes: block.bytes }));
        if is_condemned {
            tracing::error!(block = %block.id, "it is damaged, is not served, and must come again");
            let _ = notices.send(Notice::Damaged(vec![block.id]));
        }
        is_condemned
    };
    report.look_at_releases(packs, &releases, |block| ledger.holds(block), condemn, progress);
    Ok(report)
}
