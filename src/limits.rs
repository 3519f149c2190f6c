//! Every bound in one place. What comes off a wire, a volume or a disk is compared with these before a byte is
//! allocated for it.

use std::time::Duration;

/// Octets of a block: the unit of checking, FEC, journal, resend ticket and retention.
///
/// One MiB is 754 symbols at an MTU of 1500, where Reed–Solomon over GF(2^16) still runs in the second-level cache,
/// and a block in flight costs a receiver little enough that a burst can be spread over many of them.
pub const BLOCK_BYTES: usize = 1 << 20;
/// Octets after which a pack is sealed and the next one opened.
pub const PACK_BYTES_MAX: u64 = 2 << 30;
/// Blocks of one pack.
pub const PACK_BLOCKS_MAX: u32 = (PACK_BYTES_MAX / BLOCK_BYTES as u64) as u32;
/// Blobs of this many octets and more start at a multiple of [`BLOB_ALIGN_BYTES`].
pub const BLOB_ALIGN_MIN_BYTES: u64 = 64 * 1024;
/// The alignment that lets a file system share a blob's extents instead of copying them.
pub const BLOB_ALIGN_BYTES: u64 = 4096;

/// Octets of the largest datagram read or sent (the payload of a jumbo frame).
pub const DATAGRAM_BYTES_MAX: usize = 9000;
/// Octets of the largest symbol.
pub const SYMBOL_BYTES_MAX: usize = 8896;
/// Octets of the smallest symbol that a lane may be configured for. Short objects use shorter symbols.
pub const LANE_SYMBOL_BYTES_MIN: usize = 400;
/// log2 of the largest nominal repair count of a source block.
pub const REPAIR_LOG2_MAX: u8 = 10;
/// Octets of the largest index.
pub const INDEX_BYTES_MAX: u32 = 256 << 20;
/// Octets of the largest trust bundle (the TUF metadata that goes with a release).
pub const TRUST_BYTES_MAX: u32 = 4 << 20;
/// Octets of the largest TUF timestamp that a beacon carries.
pub const BEACON_TIMESTAMP_BYTES_MAX: usize = 900;
/// Channels of one link.
pub const CHANNELS_MAX: usize = 16;

/// Lanes of one side.
pub const LANES_MAX: usize = 8;

/// Receivers that one session can be sealed to (standby, splitter, rotation).
pub const RECEIVER_KEYS_MAX: usize = 8;
/// How often the sender repeats its SESSION datagram.
pub const SESSION_INTERVAL: Duration = Duration::from_millis(250);
/// How often the sender sends a BEACON.
pub const BEACON_INTERVAL: Duration = Duration::from_secs(1);
/// log2 of the datagrams sealed under one key.
pub const KEY_EPOCH_LOG2: u32 = 28;
/// Sequence numbers that the replay window spans; older datagrams are refused.
pub const REPLAY_WINDOW: u64 = 1 << 17;
/// SESSION datagrams that are worth a signature check per second.
pub const SESSION_CHECKS_PER_S: u32 = 200;

/// Source blocks that a receiver collects at once; the least recently touched goes first when one more comes.
pub const COLLECTING_MAX: usize = 192;
/// Octets of blocks kept although no index has named them yet.
pub const UNCLAIMED_BYTES_MAX: u64 = 4 << 30;

/// Octets of a relative path that an artifact may have.
pub const PATH_BYTES_MAX: usize = 1024;
/// Octets of one component of a path.
pub const NAME_BYTES_MAX: usize = 255;
/// Components of a path.
pub const PATH_DEPTH_MAX: usize = 64;
/// Artifacts of one release.
pub const ARTIFACTS_MAX: u64 = 4_000_000;
/// Blobs of one release.
pub const BLOBS_MAX: u64 = 4_000_000;
/// Packs of one release.
pub const PACKS_MAX: u64 = 65_536;
/// Extents of one blob.
pub const EXTENTS_MAX: u64 = 65_536;
/// Octets of a proof that is parsed whole (SHA256SUMS, a signature, a key).
pub const PROOF_BYTES_MAX: u64 = 4 << 20;
/// Platforms of one provider version, and keys and protocols of it.
pub const PROVIDER_PARTS_MAX: u64 = 256;
/// Manifests of one image reference, referrers included.
pub const IMAGE_MANIFESTS_MAX: u64 = 4096;
/// Configurations and layers of one image reference.
pub const IMAGE_BLOBS_MAX: u64 = 65_536;
/// Octets of a manifest: what registries accept.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Octets of all manifests of one image reference, and of those of one submission.
pub const IMAGE_MANIFESTS_BYTES_MAX: u64 = 64 << 20;
/// Octets of what is said of all published manifests that refer to others, which the gateway keeps in memory.
pub const REFERRERS_BYTES_MAX: usize = 64 << 20;
/// Octets of the control paragraph of a Debian package.
pub const CONTROL_BYTES_MAX: u64 = 1 << 20;
/// Fields of it.
pub const CONTROL_FIELDS_MAX: usize = 256;
/// Octets of an archive's `Packages` file as it is packed. Debian's largest have 10 MB.
pub const PACKAGES_PACKED_BYTES_MAX: u64 = 128 << 20;
/// Octets of it when it is unpacked.
pub const PACKAGES_BYTES_MAX: u64 = 512 << 20;
/// Files that one `InRelease` names.
pub const ARCHIVE_FILES_MAX: usize = 65_536;

/// Octets of the archive of a Terraform module: modules are text.
pub const MODULE_BYTES_MAX: u64 = 256 << 20;
/// Octets of all that is in one.
pub const MODULE_UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Entries of one.
pub const MODULE_ENTRIES_MAX: u64 = 50_000;

/// Octets of one journal value.
pub const JOURNAL_VALUE_BYTES_MAX: usize = 4096;
