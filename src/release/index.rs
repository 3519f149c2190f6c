//! The index: a release's list of artifacts, blobs with their extents, and the blocks that hold them.
//!
//! It is a TUF target, so its bytes are signed through the metadata and there is one encoding of one release: lists
//! are sorted and free of duplicates, integers are in their shortest form ([`crate::codec`]), and nothing may follow
//! the end. Parsing checks all of it, so an [`Index`] that exists can be served.
//!
//! ```text
//! "DSIX"  version u8: 4 if there is an artifact of kind 7, else 3 if there is one of kind 5 or 6, else 2 if there is one of
//!         kind 3 or 4, else 1
//! channel text   number varint   created varint (seconds since 1970)   baseline: 0 | 1 varint
//! packs   count, then for each: id [8], runs count, then for each run:
//!             first block varint, block count varint (1…), octets of its last block varint, BLAKE3 [32] × count
//! blobs   count, then for each, by rising SHA-256:
//!             SHA-256 [32], octets varint, extents count, then for each: pack (place in the list), offset, octets
//! artifacts count, then for each, by rising name: kind u8, then
//!     1 file      path text, flags u8 (1: executable), blob varint
//!     2 provider  host, namespace, type, version: text; protocols: count, text…; flags u8 (1: proof follows);
//!                 [ sums blob, signature blob; keys: count, then key id text, ASCII armor blob ]
//!                 archives: count, then for each, by rising platform: platform text, blob, h1 [32]
//!     3 image     registry, repository, tag: text; manifest blob;
//!                 manifests: count, then for each, by rising SHA-256: blob, media type text;
//!                 blobs: count, then each, by rising SHA-256: blob
//!     4 package   suite, component, package, version, architecture: text; deb blob, control blob
//!     5 package with its archive's proof      as 4, then InRelease blob, Packages blob, ASCII armor blob
//!     6 image of which manifests are omitted  as 3, then count and, by rising SHA-256: SHA-256 [32]
//!     7 module    host, namespace, name, system, version: text; format u8 (1: tar.gz, 2: zip); folder text; archive blob
//! ```
//!
//! A blob is written as its place in the list of blobs, a varint.
//!
//! All blocks are [`BLOCK_BYTES`] long but the last of a run, which may be shorter: a release ends its last block,
//! and the next release starts a fresh one, so that a block never changes once it was sent.

mod artifact;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::name::{self, ArtifactName, FilePath, NameError, Platform, ProviderAddress, Version};
use crate::codec::{CodecError, Reader, put_run, put_varint};
use crate::id::{Blake3, BlockId, BlockNo, Channel, IdError, PackId, ReleaseNo, Sha256};
use crate::limits::{BLOBS_MAX, BLOCK_BYTES, EXTENTS_MAX, INDEX_BYTES_MAX, PACK_BLOCKS_MAX, PACKS_MAX};

pub use artifact::{
    Artifact, ArtifactKind, Image, Module, Package, PackageProof, Provider, ProviderArchive, ProviderProof,
    is_media_type,
};
use artifact::{parse_artifacts, put_artifact, version_for};

const MAGIC: &[u8; 4] = b"DSIX";
/// The newest version.
const VERSION: u8 = 4;
/// The version before, which knows no modules.
const VERSION_PARTS_AND_PROOFS: u8 = 3;
/// The version that knows images of all platforms, and packages without proof.
const VERSION_IMAGES_AND_PACKAGES: u8 = 2;
/// The first version, which knows files and providers.
const VERSION_FILES_AND_PROVIDERS: u8 = 1;

/// Why bytes are not an index.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// Not an index at all.
    #[error("this is not an index: it does not start with DSIX")]
    Magic,
    /// Written by another version.
    #[error(
        "the index is of version {found}; this receiver reads versions {VERSION_FILES_AND_PROVIDERS} to {VERSION}; upgrade \
         the receiver first"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The index is too large.
    #[error("the index has {found} octets, the limit is {INDEX_BYTES_MAX}")]
    Size {
        /// Its octets.
        found: usize,
    },
    /// The bytes are broken.
    #[error("the index is malformed: {0}")]
    Codec(#[from] CodecError),
    /// A name in it is unsafe.
    #[error("the index holds an unsafe name: {0}")]
    Name(#[from] NameError),
    /// A channel name in it is unsafe.
    #[error("the index is malformed: {0}")]
    Id(#[from] IdError),
    /// Its parts contradict each other.
    #[error("the index contradicts itself: {0}")]
    Contradiction(String),
}

fn contradiction<T>(what: impl Into<String>) -> Result<T, IndexError> {
    Err(IndexError::Contradiction(what.into()))
}

/// Consecutive blocks of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRun {
    /// The first block.
    pub first: BlockNo,
    /// Octets of the last block; the others have [`BLOCK_BYTES`].
    pub last_bytes: u32,
    /// The digest of each block.
    pub hashes: Vec<Blake3>,
}

/// One stretch of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The pack.
    pub pack: PackId,
    /// The octet of the pack at which it starts.
    pub offset: u64,
    /// Its octets.
    pub bytes: u64,
}

/// Immutable bytes named by SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Octets.
    pub bytes: u64,
    /// Where they are, in order.
    pub extents: Vec<Extent>,
}

impl Blob {
    /// The blocks that it lies in; the one in which an extent ends and the next begins may come twice.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.extents.iter().filter(|extent| extent.bytes > 0).flat_map(|extent| {
            let block = BLOCK_BYTES as u64;
            let last = extent.offset.saturating_add(extent.bytes - 1) / block;
            let number = |number: u64| BlockNo(u32::try_from(number).unwrap_or(u32::MAX));
            (extent.offset / block..=last).map(move |at| BlockId { pack: extent.pack, block: number(at) })
        })
    }
}

/// A release, whole and consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The channel.
    pub channel: Channel,
    /// Its number.
    pub number: ReleaseNo,
    /// When it was cut, in seconds since 1970.
    pub created_s: u64,
    /// The release whose blocks the sender takes to be there already.
    pub baseline: Option<ReleaseNo>,
    /// The blocks that it needs, by pack; the runs of a pack rise and do not overlap.
    pub packs: BTreeMap<PackId, Vec<PackRun>>,
    /// Its blobs.
    pub blobs: BTreeMap<Sha256, Blob>,
    /// Its artifacts.
    pub artifacts: BTreeMap<ArtifactName, ArtifactKind>,
}

/// A block that a release needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededBlock {
    /// Which.
    pub id: BlockId,
    /// Its octets.
    pub bytes: u32,
    /// Its digest.
    pub hash: Blake3,
}

impl Index {
    /// Every block that the release needs, by pack and place.
    pub fn blocks(&self) -> impl Iterator<Item = NeededBlock> {
        self.packs.iter().flat_map(|(pack, runs)| {
            runs.iter().flat_map(move |run| {
                let last = run.hashes.len().saturating_sub(1);
                run.hashes.iter().enumerate().map(move |(at, hash)| NeededBlock {
                    id: BlockId { pack: *pack, block: BlockNo(run.first.0 + at as u32) },
                    bytes: if at == last { run.last_bytes } else { BLOCK_BYTES as u32 },
                    hash: *hash,
                })
            })
        })
    }

    /// The digest of one of its blocks.
    pub fn block_hash(&self, id: &BlockId) -> Option<Blake3> {
        let runs = self.packs.get(&id.pack)?;
        let at = runs.partition_point(|run| run.first <= id.block).checked_sub(1)?;
        let run = runs.get(at)?;
        run.hashes.get((id.block.0 - run.first.0) as usize).copied()
    }

    /// The artifacts that lie in one of these blocks, whole or in part.
    pub fn artifacts_in(&self, blocks: &BTreeSet<BlockId>) -> Vec<&ArtifactName> {
        let touched = self.blobs.iter().filter(|(_, blob)| blob.blocks().any(|id| blocks.contains(&id)));
        let touched: BTreeSet<Sha256> = touched.map(|(digest, _)| *digest).collect();
        let lies_in = |(name, kind): &(&ArtifactName, &ArtifactKind)| {
            let artifact = Artifact { name: (*name).clone(), kind: (*kind).clone() };
            artifact.blobs().iter().any(|digest| touched.contains(digest))
        };
        self.artifacts.iter().filter(lies_in).map(|(name, _)| name).collect()
    }

    /// Octets of all its blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.values().map(|blob| blob.bytes).sum()
    }

    /// Writes the one encoding of this release.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.blobs.len() * 48 + self.artifacts.len() * 64);
        out.extend_from_slice(MAGIC);
        out.push(version_for(&self.artifacts));
        put_run(&mut out, self.channel.as_str().as_bytes());
        put_varint(&mut out, self.number.0);
        put_varint(&mut out, self.created_s);
        match self.baseline {
            None => out.push(0),
            Some(baseline) => {
                out.push(1);
                put_varint(&mut out, baseline.0);
            }
        }
        put_varint(&mut out, self.packs.len() as u64);
        let mut pack_places = BTreeMap::new();
        for (place, (pack, runs)) in self.packs.iter().enumerate() {
            pack_places.insert(*pack, place as u64);
            out.extend_from_slice(&pack.0);
            put_varint(&mut out, runs.len() as u64);
            for run in runs {
                put_varint(&mut out, u64::from(run.first.0));
                put_varint(&mut out, run.hashes.len() as u64);
                put_varint(&mut out, u64::from(run.last_bytes));
                run.hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
            }
        }
        put_varint(&mut out, self.blobs.len() as u64);
        let mut blob_places = BTreeMap::new();
        for (place, (digest, blob)) in self.blobs.iter().enumerate() {
            blob_places.insert(*digest, place as u64);
            out.extend_from_slice(&digest.0);
            put_varint(&mut out, blob.bytes);
            put_varint(&mut out, blob.extents.len() as u64);
            for extent in &blob.extents {
                put_varint(&mut out, pack_places.get(&extent.pack).copied().unwrap_or(u64::MAX));
                put_varint(&mut out, extent.offset);
                put_varint(&mut out, extent.bytes);
            }
        }
        // A blob that is not listed encodes as a place that no parser accepts.
        let place = |digest: &Sha256| blob_places.get(digest).copied().unwrap_or(u64::MAX);
        put_varint(&mut out, self.artifacts.len() as u64);
        for (name, kind) in &self.artifacts {
            put_artifact(&mut out, name, kind, place);
        }
        out
    }

    /// Reads a release, checking everything that its parts say of each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.len() > INDEX_BYTES_MAX as usize {
            return Err(IndexError::Size { found: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        if reader.bytes(4).ok() != Some(MAGIC.as_slice()) {
            return Err(IndexError::Magic);
        }
        let version = match reader.u8()? {
            known @ VERSION_FILES_AND_PROVIDERS..=VERSION => known,
            found => return Err(IndexError::Version { found }),
        };
        let channel = reader.text("the channel name", 32)?.parse()?;
        let number = ReleaseNo(reader.varint()?);
        let created_s = reader.varint()?;
        let baseline =
            if flag(&mut reader, "the baseline")? { Some(ReleaseNo(reader.varint()?)) } else { None };
        if baseline.is_some_and(|baseline| baseline >= number) {
            return contradiction("its baseline is not older than itself");
        }
        let packs = parse_packs(&mut reader)?;
        let blobs = parse_blobs(&mut reader, &packs)?;
        let artifacts = parse_artifacts(&mut reader, version, &blobs)?;
        reader.finish()?;
        let index = Self { channel, number, created_s, baseline, packs, blobs, artifacts };
        check_names(index.artifacts.keys())?;
        Ok(index)
    }
}

/// Refuses names that some file system cannot hold beside each other.
pub fn check_names<'a>(names: impl Iterator<Item = &'a ArtifactName> + Clone) -> Result<(), IndexError> {
    let files = names.filter_map(|name| match name {
        ArtifactName::File(path) => Some(path),
        ArtifactName::Provider(..)
        | ArtifactName::Image(..)
        | ArtifactName::Package(_)
        | ArtifactName::Module(..) => None,
    });
    let mut folded: BTreeMap<String, &FilePath> = BTreeMap::new();
    for path in files {
        if let Some(other) = folded.insert(path.folded(), path) {
            return contradiction(format!(
                "{path:?} and {other:?} differ only by case",
                path = path.as_str(),
                other = other.as_str()
            ));
        }
    }
    // Directories too: "A/x" beside "a/y" is one directory on the one side and two on the other. Paths below one
    // directory are neighbours in this order, so each is compared with the one before, and nothing is kept for each
    // directory: there may be sixty times as many as paths.
    let mut before: Option<(&str, &FilePath)> = None;
    for (key, path) in &folded {
        for directory in prefixes(key) {
            if let Some(file) = folded.get(directory) {
                return contradiction(format!(
                    "{:?} is a file and the directory of {:?}",
                    file.as_str(),
                    path.as_str()
                ));
            }
        }
        if let Some((key_before, path_before)) = before {
            let here = prefixes(key).zip(path.parents());
            let there = prefixes(key_before).zip(path_before.parents());
            let shared =
                here.zip(there).take_while(|((folded, _), (folded_before, _))| folded == folded_before);
            for ((_, parent), (_, other)) in shared {
                if parent != other {
                    return contradiction(format!(
                        "the directories {other:?} and {parent:?} differ only by case"
                    ));
                }
            }
        }
        before = Some((key, path));
    }
    Ok(())
}

/// What stands before each `/`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| path.split_at(at).0)
}

fn flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, IndexError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(CodecError::Limit { what, found: u64::from(found), max: 1 }.into()),
    }
}

fn parse_packs(reader: &mut Reader<'_>) -> Result<BTreeMap<PackId, Vec<PackRun>>, IndexError> {
    let mut packs = BTreeMap::new();
    for _ in 0..reader.count("packs", PACKS_MAX, 9)? {
        let pack = PackId(reader.array()?);
        if packs.last_key_value().is_some_and(|(last, _)| *last >= pack) {
            return contradiction(format!("pack {pack} is out of order or twice"));
        }
        let mut runs: Vec<PackRun> = Vec::new();
        for _ in 0..reader.count("runs of a pack", u64::from(PACK_BLOCKS_MAX), 35)? {
            let first = reader.bounded("a block number", u64::from(PACK_BLOCKS_MAX) - 1)? as u32;
            let end_before = runs.last().map_or(0, |run| run.first.0 + run.hashes.len() as u32);
            if first < end_before {
                return contradiction(format!("the runs of pack {pack} are out of order or overlap"));
            }
            let max = u64::from(PACK_BLOCKS_MAX - first);
            let count = reader.bounded("blocks of a run", max)? as usize;
            let last_bytes = reader.bounded("octets of a block", BLOCK_BYTES as u64)? as u32;
            if count == 0 || last_bytes == 0 {
                return contradiction(format!("pack {pack} has an empty run or an empty block"));
            }
            let (hashes, _) = reader.bytes(count * 32)?.as_chunks::<32>();
            runs.push(PackRun {
                first: BlockNo(first),
                last_bytes,
                hashes: hashes.iter().map(|h| Blake3(*h)).collect(),
            });
        }
        if runs.is_empty() {
            return contradiction(format!("pack {pack} is listed without blocks"));
        }
        packs.insert(pack, runs);
    }
    Ok(packs)
}

fn parse_blobs(
    reader: &mut Reader<'_>,
    packs: &BTreeMap<PackId, Vec<PackRun>>,
) -> Result<BTreeMap<Sha256, Blob>, IndexError> {
    let ids: Vec<&PackId> = packs.keys().collect();
    let mut blobs = BTreeMap::new();
    for _ in 0..reader.count("blobs", BLOBS_MAX, 34)? {
        let digest = Sha256(reader.array()?);
        if blobs.last_key_value().is_some_and(|(last, _)| *last >= digest) {
            return contradiction(format!("blob {digest} is out of order or twice"));
        }
        let bytes = reader.varint()?;
        let mut extents = Vec::new();
        let mut total = 0u64;
        for _ in 0..reader.count("extents of a blob", EXTENTS_MAX, 3)? {
            let place = reader.varint()?;
            let pack = usize::try_from(place).ok().and_then(|place| ids.get(place).copied());
            let Some(pack) = pack else {
                return contradiction(format!("blob {digest} lies in a pack that is not listed"));
            };
            let extent = Extent { pack: *pack, offset: reader.varint()?, bytes: reader.varint()? };
            if !is_covered(&extent, packs.get(pack).map_or(&[], Vec::as_slice)) {
                return contradiction(format!(
                    "blob {digest} lies outside of the listed blocks of pack {pack}"
                ));
            }
            total = total.saturating_add(extent.bytes);
            extents.push(extent);
        }
        if total != bytes {
            return contradiction(format!("blob {digest} has {bytes} octets, its extents have {total}"));
        }
        blobs.insert(digest, Blob { bytes, extents });
    }
    Ok(blobs)
}

/// Whether an extent is not empty and lies within the listed blocks.
fn is_covered(extent: &Extent, runs: &[PackRun]) -> bool {
    let Some(end) = extent.offset.checked_add(extent.bytes) else { return false };
    let block = BLOCK_BYTES as u64;
    // Runs that touch hold an extent together if the earlier one ends with a whole block.
    let mut at = extent.offset;
    let start = runs.partition_point(|run| (u64::from(run.first.0) + run.hashes.len() as u64) * block <= at);
    for run in runs.iter().skip(start) {
        let run_start = u64::from(run.first.0) * block;
        let run_end = run_start + (run.hashes.len() as u64 - 1) * block + u64::from(run.last_bytes);
        if at < run_start || at >= run_end {
            break;
        }
        at = run_end;
        if at >= end {
            return extent.bytes > 0;
        }
    }
    false
}

/// The file name under which an archive of this provider is served.
pub fn archive_file_name(address: &ProviderAddress, version: &Version, platform: &Platform) -> String {
    name::provider_archive_name(&address.kind, version, platform)
}
