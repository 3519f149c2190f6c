//! Ingest: octets into packs, hashed once on their way.
//!
//! A submission appends blobs to the open pack, starting at a fresh block, so that blocks that were released never
//! change. Nothing of it counts until [`Submission::finish`] has made it durable and staged it; what a submission that
//! failed left behind is overwritten by the next one.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use diodesync::audit::{self, Event};
use diodesync::id::{Blake3, BlockNo, Channel, PackId, ReleaseNo, Sha256};
use diodesync::limits::{BLOB_ALIGN_BYTES, BLOB_ALIGN_MIN_BYTES, BLOCK_BYTES, PACK_BYTES_MAX};
use diodesync::pack::{BlobReader, PackStore};
use diodesync::release::catalog::{Catalog, Heading};
use diodesync::release::index::{ArtifactKind, Blob, Extent, Index, check_names};
use diodesync::release::name::ArtifactName;
use diodesync::release::package::check_versions;
use diodesync_control::audit::Tell;
use sha2::Digest;

use crate::random;
use crate::store::Store;

/// Octets collected before a write.
const BUFFER_BYTES: usize = 1 << 20;

/// What was submitted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Artifacts.
    pub artifacts: u64,
    /// Octets of their blobs.
    pub bytes: u64,
    /// Octets that were not there before.
    pub new_bytes: u64,
}

/// One submission under way. Only one at a time: the caller holds the lock.
#[derive(Debug)]
pub struct Submission<'a> {
    packs: &'a PackStore,
    store: &'a Mutex<Store>,
    channel: Channel,
    place: Place,
    /// Where this submission began, in each pack that it wrote to.
    started: Vec<Place>,
    /// New blobs.
    blobs: Catalog,
    artifacts: std::collections::BTreeMap<ArtifactName, ArtifactKind>,
    totals: Totals,
    is_staged: bool,
}

/// What a submission that failed has written gives its room back.
impl Drop for Submission<'_> {
    fn drop(&mut self) {
        for place in self.started.iter().filter(|_| !self.is_staged) {
            if let Err(error) = self.packs.truncate(place.pack, place.offset) {
                tracing::warn!(%error, "what a failed submission wrote stays until something is submitted");
            }
        }
    }
}

/// A place in a pack.
#[derive(Debug, Clone, Copy)]
struct Place {
    pack: PackId,
    offset: u64,
}

/// A blob being written.
#[derive(Debug)]
pub struct BlobWriter {
    start: Place,
    at: Place,
    started_packs: usize,
    extents: Vec<Extent>,
    buffer: Vec<u8>,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<'a> Submission<'a> {
    /// Begins after everything that counts.
    pub fn begin(packs: &'a PackStore, store: &'a Mutex<Store>, channel: Channel) -> anyhow::Result<Self> {
        // Packs that are sealed, or nearly, are left alone.
        let room = PACK_BYTES_MAX - 16 * BLOCK_BYTES as u64;
        let open = {
            let store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let ends = store.catalog.pack_ends();
            let ends = ends
                .into_iter()
                .map(|(pack, end)| Place { pack, offset: u64::from(end.0) * BLOCK_BYTES as u64 });
            ends.filter(|place| place.offset < room).min_by_key(|place| (place.offset, place.pack))
        };
        let place = match open {
            Some(place) => place,
            None => Place { pack: PackId(random::array()?), offset: 0 },
        };
        Ok(Self {
            packs,
            store,
            channel,
            place,
            started: vec![place],
            blobs: Catalog::default(),
            artifacts: Default::default(),
            totals: Totals::default(),
            is_staged: false,
        })
    }

    /// Begins a blob that is expected to have `bytes` octets.
    pub fn begin_blob(&mut self, bytes: u64) -> BlobWriter {
        let mut at = self.place;
        if bytes >= BLOB_ALIGN_MIN_BYTES {
            at.offset = at.offset.next_multiple_of(BLOB_ALIGN_BYTES);
        }
        BlobWriter {
            start: self.place,
            at,
            started_packs: self.started.len(),
            extents: Vec::new(),
            buffer: Vec::with_capacity(BUFFER_BYTES.min(bytes as usize)),
            hasher: sha2::Sha256::new(),
            bytes: 0,
        }
    }

    /// Adds octets to a blob.
    pub fn write(&mut self, blob: &mut BlobWriter, mut octets: &[u8]) -> anyhow::Result<()> {
        blob.hasher.update(octets);
        blob.bytes += octets.len() as u64;
        while !octets.is_empty() {
            let (head, tail) = octets.split_at(octets.len().min(BUFFER_BYTES - blob.buffer.len()));
            blob.buffer.extend_from_slice(head);
            octets = tail;
            if blob.buffer.len() == BUFFER_BYTES {
                self.flush(blob)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, blob: &mut BlobWriter) -> anyhow::Result<()> {
        let buffer = std::mem::take(&mut blob.buffer);
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            if blob.at.offset >= PACK_BYTES_MAX {
                if blob.extents.is_empty() && blob.start.offset < PACK_BYTES_MAX {
                    // The gap that aligned the blob reaches the pack's end: make it part of the file.
                    self.packs.write_at(blob.at.pack, PACK_BYTES_MAX - 1, &[0])?;
                }
                blob.at = Place { pack: PackId(random::array()?), offset: 0 };
                self.started.push(blob.at);
            }
            let room = usize::try_from(PACK_BYTES_MAX - blob.at.offset).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            self.packs.write_at(blob.at.pack, blob.at.offset, now)?;
            match blob.extents.last_mut() {
                Some(last) if last.pack == blob.at.pack => last.bytes += now.len() as u64,
                _ => blob.extents.push(Extent {
                    pack: blob.at.pack,
                    offset: blob.at.offset,
                    bytes: now.len() as u64,
                }),
            }
            blob.at.offset += now.len() as u64;
            rest = later;
        }
        blob.buffer = buffer;
        blob.buffer.clear();
        Ok(())
    }

    /// Ends a blob and returns its digest. One that is there already leaves no trace.
    pub fn end_blob(&mut self, mut blob: BlobWriter) -> anyhow::Result<Sha256> {
        self.flush(&mut blob)?;
        let digest = Sha256(blob.hasher.finalize().into());
        self.totals.bytes += blob.bytes;
        if self.blob(&digest).is_some() {
            self.started.truncate(blob.started_packs);
            self.place = blob.start;
        } else {
            self.totals.new_bytes += blob.bytes;
            self.blobs.insert_blob(digest, Blob { bytes: blob.bytes, extents: blob.extents });
            self.place = blob.at;
        }
        Ok(digest)
    }

    /// A whole blob.
    pub fn put(&mut self, octets: &[u8]) -> anyhow::Result<Sha256> {
        let mut blob = self.begin_blob(octets.len() as u64);
        self.write(&mut blob, octets)?;
        self.end_blob(blob)
    }

    /// Counts a blob that was here before and was not given again.
    pub fn count_held(&mut self, digest: &Sha256) {
        self.totals.bytes += self.blob(digest).map_or(0, |blob| blob.bytes);
    }

    /// Counts a blob that is here and is not given, as one that has `bytes` octets.
    pub fn refer(&mut self, digest: &Sha256, bytes: u64) -> anyhow::Result<()> {
        let blob = self.blob(digest);
        let blob = blob.with_context(|| format!("blob {digest} is not here any more; submit it again"))?;
        anyhow::ensure!(
            blob.bytes == bytes,
            "blob {digest} was announced to have {bytes} octets, and it has {}",
            blob.bytes
        );
        self.totals.bytes += bytes;
        Ok(())
    }

    /// Where a blob is, be it new or old.
    pub fn blob(&self, digest: &Sha256) -> Option<Blob> {
        let known =
            || self.store.lock().unwrap_or_else(PoisonError::into_inner).catalog.blob(digest).cloned();
        self.blobs.blob(digest).cloned().or_else(known)
    }

    /// Reads a blob like a file.
    pub fn reader(&self, digest: &Sha256) -> Option<BlobReader<'a>> {
        Some(BlobReader::new(self.packs, self.blob(digest)?))
    }

    /// All of a blob that was just written and must have at most `max` octets.
    pub fn whole(&self, digest: &Sha256, max: u64) -> anyhow::Result<Vec<u8>> {
        let reader = self.reader(digest).context("a blob that was just written is missing")?;
        reader.whole(max)?.with_context(|| format!("it has {} octets, the limit is {max}", reader.bytes()))
    }

    /// The artifact that the next release of the channel would have under this name.
    pub fn present(&self, name: &ArtifactName) -> Option<ArtifactKind> {
        if let Some(own) = self.artifacts.get(name) {
            return Some(own.clone());
        }
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let staged = store.staged.values().rev().filter(|index| index.channel == self.channel);
        let newest = store.newest.get(&self.channel);
        let found = staged.chain(newest).find_map(|index| index.artifacts.get(name));
        found.cloned()
    }

    /// Whether this submission has such an artifact.
    pub fn has(&self, name: &ArtifactName) -> bool {
        self.artifacts.contains_key(name)
    }

    /// The artifacts of this submission.
    pub fn names(&self) -> impl Iterator<Item = &ArtifactName> {
        self.artifacts.keys()
    }

    /// Adds an artifact made of blobs that were put in.
    pub fn artifact(&mut self, name: ArtifactName, kind: ArtifactKind) -> anyhow::Result<()> {
        if self.artifacts.contains_key(&name) {
            anyhow::bail!("{name} is submitted twice");
        }
        self.totals.artifacts += 1;
        self.artifacts.insert(name, kind);
        Ok(())
    }

    /// Makes everything durable, tells it, and stages it.
    pub fn finish(mut self, now_s: u64, tell: &Tell<'_>) -> anyhow::Result<Totals> {
        self.hash_blocks()?;
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = store.present(&self.channel);
        names.extend(self.artifacts.clone());
        check_names(names.keys()).context("with what was submitted before")?;
        let others = store.newest.iter().filter(|(channel, _)| **channel != self.channel);
        let others = others.flat_map(|(_, index)| &index.artifacts);
        check_versions(names.iter().chain(others)).context("with what was submitted before")?;
        for (channel, index) in store.newest.iter().filter(|(channel, _)| **channel != self.channel) {
            if let Some(name) = self.artifacts.keys().find(|name| index.artifacts.contains_key(name)) {
                anyhow::bail!(
                    "{name} is served by channel {channel} already; one name cannot be in two channels"
                );
            }
        }
        // The blobs that were there before are known to the store, the new ones to this submission.
        for artifact in &self.artifacts {
            let (name, kind) = (artifact.0.clone(), artifact.1.clone());
            for digest in (diodesync::release::Artifact { name, kind }).blobs() {
                if let Some(blob) = store.catalog.blob(&digest).filter(|_| self.blobs.blob(&digest).is_none())
                {
                    self.blobs.insert_blob(digest, blob.clone());
                    self.blobs.copy_blocks(&store.catalog, blob);
                }
            }
        }
        let heading =
            Heading { channel: self.channel.clone(), number: ReleaseNo(0), created_s: now_s, baseline: None };
        let artifacts = std::mem::take(&mut self.artifacts);
        let index = self.blobs.compose(heading, artifacts);
        let index =
            index.map_err(|digest| anyhow::anyhow!("blob {digest} was not written; this is a bug"))?;
        // What would be refused when it is read must not be kept: this side reads it at its next start, the other one when
        // it comes.
        Index::parse(&index.encode()).context("what was submitted has no place in an index")?;
        tell(Event::Submitted {
            channel: self.channel.clone(),
            artifacts: index.artifacts.len(),
            bytes: self.totals.bytes,
            names: audit::names(index.artifacts.keys()),
        })?;
        store.stage(index)?;
        self.is_staged = true;
        Ok(self.totals)
    }

    /// Makes the packs durable and hashes the blocks that this submission filled.
    fn hash_blocks(&mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; BLOCK_BYTES];
        for (at, start) in self.started.iter().enumerate() {
            // Every pack but the last was filled to its end.
            let end = if at + 1 == self.started.len() { self.place.offset } else { PACK_BYTES_MAX };
            if end == start.offset {
                continue;
            }
            self.packs.sync(start.pack)?;
            let mut offset = start.offset;
            while offset < end {
                let len = (end - offset).min(BLOCK_BYTES as u64) as usize;
                let block = buffer.get_mut(..len).unwrap_or_default();
                self.packs.read_at(start.pack, offset, block)?;
                let number = BlockNo((offset / BLOCK_BYTES as u64) as u32);
                self.blobs.insert_block(start.pack, number, len as u32, Blake3::of(block));
                offset += len as u64;
            }
        }
        Ok(())
    }
}

/// What the daemon shares with each submission.
pub type SharedStore = Arc<Mutex<Store>>;
