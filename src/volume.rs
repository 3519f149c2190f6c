//! Releases on removable media, for when the path is down or there is none.
//!
//! # Goals
//!
//! The same objects that the wire carries (trust bundle, index, blocks) go onto one medium or several, of any size, in
//! files that FAT32 holds. Volumes are written and read in any order, on different days. Rotten sectors are repaired,
//! and as many lost volumes as the parity share allows. A lost stick tells nothing but sizes and times.
//!
//! # Non-goals
//!
//! Nothing on a medium is trusted for being there: what the import takes goes through the same judgement as what came
//! over the wire, TUF metadata and digests included. Parity is never trusted; only what authenticates afterwards counts.
//!
//! # The exchange
//!
//! An *export* has a random id and a random secret, sealed by HPKE to each receiver as a session's is. Its objects are
//! cut into *slots* of 64 KiB, each sealed by AES-256-GCM with the slot's number as nonce, so that one slot has one
//! ciphertext however often it is made: an export that was broken off goes on, and parity is computed from packs without
//! a second copy of the data. A slot says itself which piece of which object it is. Reed–Solomon parity is computed over
//! the sealed slots; parity slots are sealed once more, so that a rotten one is known for what it is.
//!
//! Slot `i` belongs to codeword `i mod C`, so that neighbours are in different codewords: a stretch of `n` lost slots
//! costs each codeword `n / C` of its shards, be it a bad patch or a whole volume.
//!
//! ```text
//! MEDIUM/diodesync-EXPORT-VOLUME/    EXPORT in 16 hexadecimal digits, VOLUME from 001
//!     manifest                       what the export is, signed: [`Manifest`]. The same on each volume
//!     00000000.slots …               slots from that one on, end to end, at most 1 GiB a file
//!     complete                       the BLAKE3 of all files above, written when they were read back right
//! ```
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |

mod codeword;
mod layout;
mod manifest;
mod slot;

use crate::id::ExportId;
pub use codeword::{parity_of, repair};
pub use layout::{Layout, LayoutError, Shard, Stretch, VolumeNo};
pub use manifest::{Manifest, ManifestError, Offer};
pub use slot::{ExportSecret, Piece, SlotError, SlotKeys};

/// Octets of an object that one slot carries.
pub const SLOT_PAYLOAD_BYTES: usize = 64 * 1024;
/// Octets of a slot of data: header, payload, tag.
pub const DATA_SLOT_BYTES: usize = slot::HEADER_BYTES + SLOT_PAYLOAD_BYTES + slot::TAG_BYTES;
/// Octets of a parity slot: a shard as long as a slot of data, and a tag of its own.
pub const PARITY_SLOT_BYTES: usize = DATA_SLOT_BYTES + slot::TAG_BYTES;
/// Octets of the largest file on a medium. FAT32 holds 4 GiB - 1.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// Octets of a manifest at most.
pub const MANIFEST_BYTES_MAX: usize = 4096;
/// The name of the file that says what an export is.
pub const MANIFEST_FILE: &str = "manifest";
/// The name of the file that says that a volume is whole.
pub const COMPLETE_FILE: &str = "complete";

/// The folder of a volume on its medium.
pub fn volume_dir(export: ExportId, volume: VolumeNo) -> String {
    format!("diodesync-{export}-{:03}", volume.0 + 1)
}

/// The file of slots that starts with slot `first`.
pub fn slots_file(first: u32) -> String {
    format!("{first:08}.slots")
}
