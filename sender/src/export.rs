//! `export`: a release onto removable media, the daemon's part.
//!
//! ```text
//! DIR/exports/EXPORT/plan      what is exported: manifest, secret, metadata, blocks (fact, 0600)
//! DIR/exports/EXPORT/parity    Reed–Solomon parity, once it was needed
//! DIR/exports/EXPORT/written/N the volume is on its medium, read back and compared (fact)
//! ```
//!
//! The daemon has the keys and the packs, the command has the medium: the command asks for slots and writes them. The
//! plan is durable before the first slot leaves, and a slot has one ciphertext, so an export that was broken off goes on
//! at any slot, and no nonce ever seals two things.

mod api;
mod medium;
mod plan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use diodesync::fec::ShardError;
use diodesync::id::{BlockId, Channel, ExportId, ReleaseNo};
use diodesync::pack::{PackStore, fact};
use diodesync::volume::{DATA_SLOT_BYTES, Layout, Piece, Shard, SlotKeys, VolumeNo, parity_of};
use diodesync::wire::ObjectId;
use serde::{Deserialize, Serialize};

pub use api::router;
pub use medium::{ExportArgs, export};
pub use plan::{Parties, Plan, Request};

/// What the command is told of an export.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// The export.
    pub export: String,
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// The release whose blocks are taken to be there already.
    pub baseline: Option<ReleaseNo>,
    /// Whether a ticket says which blocks are lacking.
    pub is_by_ticket: bool,
    /// Blocks.
    pub blocks: usize,
    /// How many volumes may be lost.
    pub expendable: u32,
    /// Until when the receiver takes its metadata, seconds since 1970.
    pub expires_s: u64,
    /// The manifest, base64.
    pub manifest: String,
    /// The volumes.
    pub volumes: Vec<VolumePlan>,
}

/// What goes onto one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumePlan {
    /// Octets of its slots.
    pub bytes: u64,
    /// Its files of slots: first slot, end, octets of a slot.
    pub files: Vec<(u32, u32, usize)>,
}

/// An export that is under way.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The export.
    pub export: String,
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// Blocks.
    pub blocks: usize,
    /// Octets of its slots.
    pub bytes: u64,
    /// How many volumes may be lost.
    pub expendable: u32,
    /// Until when the receiver takes its metadata, seconds since 1970.
    pub expires_s: u64,
    /// Volumes.
    pub volumes: u32,
    /// Those of them that are on their media.
    pub volumes_written: u32,
}

/// The exports of a sender.
#[derive(Debug)]
pub struct Exports {
    dir: PathBuf,
    packs: Arc<PackStore>,
    /// One parity at a time.
    computing: Mutex<()>,
}

impl Exports {
    /// In the sender's folder.
    pub fn new(dir: &Path, packs: Arc<PackStore>) -> Self {
        Self { dir: dir.join("exports"), packs, computing: Mutex::new(()) }
    }

    fn folder(&self, export: ExportId) -> PathBuf {
        self.dir.join(export.to_string())
    }

    /// Makes a plan durable.
    pub fn begin(&self, plan: &Plan) -> anyhow::Result<Begun> {
        let folder = self.folder(plan.export);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let parity_bytes = u64::from(plan.layout.slots() - plan.layout.data_slots()) * DATA_SLOT_BYTES as u64;
        let free = self.packs.space()?.free_bytes;
        if parity_bytes > free {
            bail!(
                "{} octets of parity are kept in {} while the export is written, {free} are free; make room or lower --parity",
                parity_bytes,
                folder.display()
            );
        }
        fact::write_secret(&folder.join("plan"), &serde_json::to_vec(plan)?)?;
        fact::sync_dir(&self.dir)?;
        Ok(begun(plan))
    }

    /// An export that was begun.
    pub fn open(&self, export: ExportId) -> anyhow::Result<Plan> {
        let path = self.folder(export).join("plan");
        let content = fact::read(&path)?.with_context(|| {
            format!("export {export} is not known here; it was finished, or begun by another sender. Export into another folder")
        })?;
        serde_json::from_slice(&content)
            .with_context(|| format!("the fact file {} is damaged", path.display()))
    }

    /// The exports that are under way.
    pub fn list(&self) -> anyhow::Result<Vec<Listed>> {
        let list = match std::fs::read_dir(&self.dir) {
            Ok(list) => list,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.dir.display())),
        };
        let mut exports = Vec::new();
        for entry in list {
            let name = entry?.file_name();
            let Some(export) = name.to_str().and_then(|name| name.parse::<ExportId>().ok()) else { continue };
            // Without a plan it was not begun, or is being finished.
            if fact::read(&self.folder(export).join("plan"))?.is_none() {
                continue;
            }
            let Begun { channel, number, blocks, expendable, expires_s, volumes, .. } =
                self.describe(export)?;
            let bytes = volumes.iter().map(|volume| volume.bytes).sum();
            let volumes = volumes.len() as u32;
            let mut volumes_written = 0;
            for volume in 0..volumes {
                volumes_written += u32::from(self.is_written(export, volume)?);
            }
            let export = export.to_string();
            exports.push(Listed {
                export,
                channel,
                number,
                blocks,
                bytes,
                expendable,
                expires_s,
                volumes,
                volumes_written,
            });
        }
        exports.sort_by(|a, b| a.export.cmp(&b.export));
        Ok(exports)
    }

    /// The blocks that exports under way read: retention keeps them.
    pub fn needed_blocks(&self) -> anyhow::Result<BTreeSet<BlockId>> {
        let mut needed = BTreeSet::new();
        let list = match std::fs::read_dir(&self.dir) {
            Ok(list) => list,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(needed),
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.dir.display())),
        };
        for entry in list {
            let path = entry?.path().join("plan");
            // Without a plan it was not begun, or is being finished.
            let Some(content) = fact::read(&path)? else { continue };
            let plan: Plan = serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", path.display()))?;
            needed.extend(plan.blocks());
        }
        Ok(needed)
    }

    /// What the command is told of an export that was begun.
    pub fn describe(&self, export: ExportId) -> anyhow::Result<Begun> {
        Ok(begun(&self.open(export)?))
    }

    fn written_path(&self, export: ExportId, volume: u32) -> PathBuf {
        self.folder(export).join("written").join(volume.to_string())
    }

    /// Whether a volume is on its medium.
    pub fn is_written(&self, export: ExportId, volume: u32) -> anyhow::Result<bool> {
        Ok(fact::read(&self.written_path(export, volume))?.is_some())
    }

    /// Records that a volume is on its medium.
    pub fn record_written(&self, export: ExportId, volume: u32) -> anyhow::Result<()> {
        self.open(export)?;
        let path = self.written_path(export, volume);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(fact::write(&path, b"")?)
    }

    /// Forgets an export whose volumes are all written.
    pub fn finish(&self, export: ExportId) -> anyhow::Result<()> {
        let folder = self.folder(export);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Seals the slots `first..end` and hands them to `take` in their order; ends early when it says so.
    pub fn slots(
        &self,
        plan: &Plan,
        first: u32,
        end: u32,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> anyhow::Result<()> {
        let source = Source::new(plan, &self.packs)?;
        let parity = match end > plan.layout.data_slots() {
            true => Some(self.parity(plan, &source)?),
            false => None,
        };
        for slot in first..end.min(plan.layout.slots()) {
            let mut out = Vec::new();
            match &parity {
                Some(parity) if plan.layout.is_parity(slot) => {
                    let mut shard = vec![0; DATA_SLOT_BYTES];
                    let at = u64::from(slot - plan.layout.data_slots()) * DATA_SLOT_BYTES as u64;
                    std::os::unix::fs::FileExt::read_exact_at(parity, &mut shard, at)
                        .context("cannot read the export's parity")?;
                    source.keys.seal_parity(slot, &shard, &mut out);
                }
                _ => out = source.sealed(slot)?,
            }
            if !take(out) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The export's parity, computed if it was not yet.
    fn parity(&self, plan: &Plan, source: &Source<'_>) -> anyhow::Result<std::fs::File> {
        let _one_at_a_time = self.computing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder(plan.export).join("parity");
        if let Ok(file) = std::fs::File::open(&path) {
            return Ok(file);
        }
        let temporary = path.with_extension("new");
        let file =
            std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = file.with_context(|| format!("cannot create {}", temporary.display()))?;
        let layout = &plan.layout;
        for codeword in 0..layout.codewords() {
            let shards = parity_of::<ParityError>(layout, codeword, |slot| Ok(source.sealed(slot)?))?;
            for (place, shard) in (layout.data_shards()..).zip(shards) {
                let Some(slot) = layout.slot(Shard { codeword, place }) else { continue };
                let at = u64::from(slot - layout.data_slots()) * DATA_SLOT_BYTES as u64;
                std::os::unix::fs::FileExt::write_all_at(&file, &shard, at)
                    .with_context(|| format!("cannot write {}", temporary.display()))?;
            }
        }
        // It can be computed again, so it need not be durable; whole it must be.
        std::fs::rename(&temporary, &path)
            .with_context(|| format!("cannot rename {}", temporary.display()))?;
        Ok(file)
    }
}

/// Why parity could not be computed.
#[derive(Debug, thiserror::Error)]
enum ParityError {
    #[error(transparent)]
    Code(#[from] ShardError),
    #[error(transparent)]
    Read(#[from] anyhow::Error),
}

/// Slots of data, made out of packs.
struct Source<'a> {
    packs: &'a PackStore,
    keys: SlotKeys,
    trust: Vec<u8>,
    index: Vec<u8>,
    /// The objects in the order of their slots, with the first slot of each.
    objects: Vec<(u32, ObjectId, u32)>,
}

impl<'a> Source<'a> {
    fn new(plan: &Plan, packs: &'a PackStore) -> anyhow::Result<Self> {
        let keys = SlotKeys::derive(&plan.secret(), plan.export).context("the cipher refuses its key")?;
        let mut objects = Vec::with_capacity(plan.block_count() + 2);
        let mut first = 0;
        for (object, bytes) in plan.objects()? {
            objects.push((first, object, bytes));
            first += Piece::of(object, bytes).count() as u32;
        }
        Ok(Self { packs, keys, trust: plan.trust()?, index: plan.index()?, objects })
    }

    fn sealed(&self, slot: u32) -> anyhow::Result<Vec<u8>> {
        let at = self.objects.partition_point(|(first, ..)| *first <= slot);
        let (first, object, bytes) =
            *at.checked_sub(1).and_then(|at| self.objects.get(at)).context("there is no such slot")?;
        let piece = Piece { object, object_bytes: bytes, number: slot - first };
        let mut octets = vec![0; piece.bytes()];
        match object {
            ObjectId::Block(id) => self.packs.read_at(id.pack, id.offset() + piece.offset(), &mut octets)?,
            ObjectId::Index(_) => copy(&self.index, &piece, &mut octets)?,
            ObjectId::Trust(_) => copy(&self.trust, &piece, &mut octets)?,
        }
        let mut out = Vec::with_capacity(DATA_SLOT_BYTES);
        self.keys.seal(slot, &piece, &octets, &mut out);
        Ok(out)
    }
}

fn copy(whole: &[u8], piece: &Piece, out: &mut [u8]) -> anyhow::Result<()> {
    let start = piece.offset() as usize;
    out.copy_from_slice(
        whole.get(start..start + piece.bytes()).context("an object is shorter than planned")?,
    );
    Ok(())
}

fn begun(plan: &Plan) -> Begun {
    let layout: &Layout = &plan.layout;
    let volume = |volume: u32| VolumePlan {
        bytes: layout.volume_bytes(VolumeNo(volume)),
        files: layout
            .files_of(VolumeNo(volume))
            .iter()
            .map(|file| (file.first, file.end, layout.slot_bytes(file.first)))
            .collect(),
    };
    Begun {
        export: plan.export.to_string(),
        channel: plan.channel.clone(),
        number: plan.number,
        baseline: plan.baseline,
        is_by_ticket: plan.is_by_ticket,
        blocks: plan.block_count(),
        expendable: layout.expendable_volumes(),
        expires_s: plan.expires_s,
        manifest: plan.manifest.clone(),
        volumes: (0..layout.volumes()).map(volume).collect(),
    }
}
