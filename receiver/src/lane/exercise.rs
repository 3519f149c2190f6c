//! The work that a block makes, done for nothing: what probes are for. Octets are copied, hashed twice, and written where
//! packs lie, into a file that has no name and is gone with the last probe.

use std::fs::File;
use std::os::unix::fs::FileExt;

use diodesync::id::Blake3;
use diodesync::limits::BLOCK_BYTES;
use diodesync::pack::PackStore;
use sha2::Digest;

/// Blocks that the file has room for.
const BLOCKS: u64 = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Exercise {
    file: Option<File>,
    next: u64,
}

impl Exercise {
    /// Does the work of a block. What the disk refuses is no matter here: a full one is an alarm by itself.
    pub fn work(&mut self, packs: &PackStore, octets: &[u8]) {
        let digests = (Blake3::of(octets), sha2::Sha256::digest(octets));
        std::hint::black_box(digests);
        if self.file.is_none() && packs.admit("a probe", BLOCKS * BLOCK_BYTES as u64).is_ok() {
            self.file =
                packs.nameless().inspect_err(|error| tracing::debug!(%error, "probes write nothing")).ok();
        }
        if let Some(file) = &self.file {
            let _ = file.write_all_at(octets, self.next % BLOCKS * BLOCK_BYTES as u64);
            self.next += 1;
        }
    }

    /// Gives its room back.
    pub fn end(&mut self) {
        self.file = None;
    }
}
