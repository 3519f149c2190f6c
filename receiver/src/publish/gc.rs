//! `gc`: what is not kept, and how much room it takes; shown, or given back at once. The publisher does the same by itself
//! after each publication.

use std::collections::BTreeMap;
use std::fmt::Write;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::Bytes;
use diodesync::release::retention::Keep;
use serde::{Deserialize, Serialize};

use super::retention::Kept;
use super::{PublishShared, Publisher};

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Whether it is only to be shown.
    pub is_dry_run: bool,
    /// What channels keep from now on, as the configuration says it by now; none for what the daemon knows.
    pub keep: Option<BTreeMap<Channel, Keep>>,
}

/// What is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether it is only shown.
    pub is_dry_run: bool,
    /// Releases that are forgotten.
    pub releases: Vec<(Channel, ReleaseNo)>,
    /// Releases that stay.
    pub kept: Vec<(Channel, ReleaseNo)>,
    /// Those of them that stay only because somebody reads them still.
    pub read_still: Vec<(Channel, ReleaseNo)>,
    /// Blocks that nothing kept needs.
    pub blocks: u64,
    /// Octets that they take on the disk.
    pub bytes: u64,
}

impl GcReport {
    /// For people.
    pub fn to_text(&self) -> String {
        let list = |releases: &[(Channel, ReleaseNo)]| -> String {
            let names: Vec<String> =
                releases.iter().map(|(channel, number)| format!("{channel} {number}")).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let mut out = String::new();
        let (goes, frees) = match self.is_dry_run {
            true => ("would go", "would give back"),
            false => ("gone", "given back"),
        };
        let _ = writeln!(out, "releases kept   {}", list(&self.kept));
        let _ = writeln!(out, "releases {goes:<6} {}", list(&self.releases));
        if !self.read_still.is_empty() {
            let _ = writeln!(
                out,
                "read still      {}; their room comes when that is over",
                list(&self.read_still)
            );
        }
        let _ =
            writeln!(out, "{frees}: {} ({} octets) in {} blocks", Bytes(self.bytes), self.bytes, self.blocks);
        out
    }
}

impl PublishShared {
    /// What is not kept; given back at once, unless it is only to be shown. Blocks the thread.
    pub fn gc(&self, request: GcRequest) -> anyhow::Result<GcReport> {
        self.gc.ask(request)
    }
}

impl Publisher {
    /// Answers whoever asks.
    pub(super) fn answer_gc(&mut self) {
        let shared = self.shared.clone();
        shared.gc.answer(|request| match self.is_restoring {
            true => Err("after the start the packs are looked through first; try again".to_owned()),
            false => self.gc(request).map_err(|error| format!("{error:#}")),
        });
    }

    fn gc(&mut self, request: GcRequest) -> anyhow::Result<GcReport> {
        let GcRequest { is_dry_run, keep } = request;
        let before = keep.map(|keep| self.retention.set_keep(keep));
        let report = self.collect(is_dry_run);
        if let Some(before) = before.filter(|_| is_dry_run) {
            self.retention.set_keep(before);
        }
        report
    }

    fn collect(&mut self, is_dry_run: bool) -> anyhow::Result<GcReport> {
        if !is_dry_run {
            self.expire_kept()?;
        }
        let mut kept = self.kept()?;
        let (blocks, bytes) = match is_dry_run {
            true => self.input.ledger.would_free(&kept.blocks, self.is_index_due())?,
            false => {
                let freed = self.retain(&mut kept)?;
                (freed.blocks.len() as u64, freed.bytes)
            }
        };
        let Kept { numbers, forgotten, read_still, .. } = kept;
        let kept = numbers
            .into_iter()
            .flat_map(|(channel, numbers)| numbers.into_iter().map(move |n| (channel.clone(), n)));
        Ok(GcReport { is_dry_run, releases: forgotten, kept: kept.collect(), read_still, blocks, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_goes() {
        let main = |number| (Channel::main(), ReleaseNo(number));
        let report = GcReport {
            is_dry_run: true,
            releases: vec![main(1)],
            kept: vec![main(2), main(3)],
            read_still: vec![main(2)],
            blocks: 3,
            bytes: 3 << 20,
        };
        assert_eq!(
            report.to_text(),
            "releases kept   main 2, main 3\nreleases would go main 1\n\
             read still      main 2; their room comes when that is over\n\
             would give back: 3 MiB (3145728 octets) in 3 blocks\n"
        );
        assert!(GcReport::default().to_text().ends_with("given back: 0 B (0 octets) in 0 blocks\n"));
    }
}
