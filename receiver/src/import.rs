//! `import`: releases from removable media, the daemon's part.
//!
//! The command reads a medium and hands over what is in its files; nothing of it is believed. What opens under the
//! export's keys goes the way of what comes over the wire: trust bundles and indexes into the inbox, blocks to the ledger,
//! where the one judgement takes place. So half a release may come by wire and the rest by hand.
//!
//! ```text
//! DIR/import/EXPORT/manifest   the export
//! DIR/import/EXPORT/staged     pieces in their slots, until their object is whole; a sparse file
//! DIR/import/EXPORT/seen       32 octets for each slot: what it holds
//! DIR/import/EXPORT/parity     shards of parity in their slots
//! DIR/imported                 the exports that were whole, the oldest first
//! ```
//!
//! None of these is a fact: what is lost or garbled must be read from the medium again, and cannot make anything wrong,
//! because whole objects are judged by their digests.

mod api;
#[cfg(test)]
mod every_byte;
mod medium;
mod standing;
mod state;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::{Blake3, BlockId, ExportId};
use diodesync::link::Paired;
use diodesync::pack::{PackStore, fact};
use diodesync::release::index::NeededBlock;
use diodesync::volume::{Layout, Manifest, SlotKeys, repair};
use diodesync::wire::ObjectId;
use serde::{Deserialize, Serialize};

use crate::handover::{Claim, Inbox, Judge, Notice, Order, Orders};
use crate::publish::Ledger;
pub use api::{Taking, check_manifest_size, discarded, router};
pub use medium::{ImportArgs, import};
use standing::Standings;
pub use standing::{Standing, Stuck, UnderWay, VolumeLack};
use state::{Slots, State};

/// Slots after which what came is made durable: 256 MiB.
const COMMIT_SLOTS: usize = 4096;

/// Exports that are remembered to have been whole.
const WHOLE_MAX: usize = 1000;

/// Where whole objects go.
#[derive(Debug)]
pub struct Sink {
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Judges blocks.
    pub ledger: Arc<Ledger>,
    /// Takes the other objects.
    pub inbox: Inbox,
    /// Tells the publisher.
    pub notices: Sender<Notice>,
    /// Tells the lanes.
    pub orders: Orders,
}

/// The imports of a receiver.
#[derive(Debug)]
pub struct Imports {
    dir: PathBuf,
    /// What opens an export; a mirror host has nothing that does.
    paired: Option<Paired>,
    sink: Mutex<Sink>,
    /// One medium at a time.
    open: Mutex<BTreeMap<ExportId, Import>>,
    /// For who looks on, also while a medium is being read.
    standings: Standings,
}

/// What the command is told of an export.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offered {
    /// The export.
    pub export: ExportId,
    /// When it was made, seconds since 1970.
    pub made_s: u64,
    /// Volumes that it has.
    pub volumes: u32,
    /// Slots of data.
    pub data_slots: u32,
    /// Those of them that are not here yet.
    pub missing_slots: u32,
}

/// What became of a file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Taken {
    /// Slots that were read.
    pub slots: u32,
    /// Those that were not here before.
    pub new: u32,
    /// Slots that are not what was written.
    pub damaged: Vec<u32>,
}

/// Where an import stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Slots of data that were repaired by parity.
    pub repaired: u32,
    /// Slots of data that are not here.
    pub missing_slots: u32,
    /// The volumes that they lie on, from 1, with how many lie there.
    pub missing: Vec<(u32, u32)>,
    /// Blocks that the receiver did not keep, and why.
    pub dropped: Vec<String>,
    /// Whether all of it came before: another of its media says nothing new.
    pub was_whole: bool,
}

#[derive(Debug)]
struct Import {
    layout: Layout,
    keys: SlotKeys,
    made_s: u64,
    state: State,
    dropped: Vec<String>,
}

/// Time after which an import of which nothing came is not waited for.
const UNDER_WAY: Duration = Duration::from_secs(86_400);

/// Whether there is an import of which something came lately and not everything.
pub fn is_under_way(dir: &Path) -> bool {
    let Ok(exports) = std::fs::read_dir(dir.join("import")) else { return false };
    exports.flatten().any(|export| {
        let changed = std::fs::metadata(export.path().join("seen")).and_then(|seen| seen.modified());
        // One from the future is of another clock.
        changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|ago| ago < UNDER_WAY))
    })
}

impl Imports {
    /// In the receiver's folder.
    pub fn new(dir: &Path, paired: Option<Paired>, sink: Sink) -> Self {
        let (dir, sink) = (dir.join("import"), Mutex::new(sink));
        Self { dir, paired, sink, open: Mutex::default(), standings: Standings::default() }
    }

    /// Begins an import, or goes on with it.
    pub fn begin(&self, manifest: &[u8]) -> anyhow::Result<Offered> {
        self.begin_in(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner), manifest)
    }

    fn begin_in(&self, open: &mut BTreeMap<ExportId, Import>, manifest: &[u8]) -> anyhow::Result<Offered> {
        let paired = self.paired.as_ref().context(
            "a mirror host has no keys of the link and opens no media: import it at the receiver that this host follows",
        )?;
        let (manifest_read, secret) = Manifest::open(manifest, paired)?;
        let Manifest { export, layout, made_s, .. } = manifest_read;
        let import = match open.entry(export) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let state = State::open(&self.folder(export), manifest, &layout)?;
                let keys = SlotKeys::derive(&secret, export).context("the cipher refuses its key")?;
                entry.insert(Import { layout, keys, made_s, state, dropped: Vec::new() })
            }
        };
        let missing = import.state.missing(&layout)?;
        self.standings.count(export, import.made_s, layout, &missing);
        Ok(Offered {
            export,
            made_s: import.made_s,
            volumes: layout.volumes(),
            data_slots: layout.data_slots(),
            missing_slots: missing.len() as u32,
        })
    }

    /// Goes on with an export whose manifest cannot be read on this medium, from what an earlier one said.
    pub fn resume(&self, export: ExportId) -> anyhow::Result<Offered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let manifest = std::fs::read(self.manifest_path(export)).with_context(|| {
            format!(
                "the manifest of export {export} is not readable on this medium, and none was seen before; \
                 import another volume of it first"
            )
        })?;
        self.begin_in(&mut open, &manifest)
    }

    fn folder(&self, export: ExportId) -> PathBuf {
        self.dir.join(export.to_string())
    }

    fn manifest_path(&self, export: ExportId) -> PathBuf {
        self.folder(export).join("manifest")
    }

    /// The imports of which not everything is here, in the order of their exports. With `wait` it waits until no medium is
    /// being read; otherwise what an earlier run of the daemon began is left out meanwhile.
    pub fn under_way(&self, wait: bool) -> UnderWay {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut exports: Vec<ExportId> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        exports.sort_unstable();
        let mut under_way = UnderWay::default();
        for export in exports {
            match self.standing(export, wait) {
                Ok(standing) => under_way.imports.extend(standing),
                Err(error) => under_way.stuck.push(Stuck { export, why: format!("{error:#}") }),
            }
        }
        under_way
    }

    fn standing(&self, export: ExportId, wait: bool) -> anyhow::Result<Option<Standing>> {
        if let Some(standing) = self.standings.get(export) {
            return Ok(Some(standing));
        }
        let mut open = match self.open.try_lock() {
            Ok(open) => open,
            Err(_) if wait => self.open.lock().unwrap_or_else(PoisonError::into_inner),
            Err(_) => return Ok(None),
        };
        // Under the lock: one that is finished meanwhile must not come back.
        if !self.folder(export).exists() {
            return Ok(None);
        }
        let path = self.manifest_path(export);
        let manifest = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.begin_in(&mut open, &manifest)?;
        Ok(self.standings.get(export))
    }

    /// Takes slots that lie end to end, from `first` on, as `read` gives them: an empty piece ends it.
    pub fn take(
        &self,
        export: ExportId,
        first: u32,
        mut read: impl FnMut(&mut [u8]) -> anyhow::Result<usize>,
    ) -> anyhow::Result<Taken> {
        let (layout, dropped) = self.with(export, |import, _| Ok((import.layout, import.dropped.len())))?;
        let (mut taken, mut buffer) = (Taken::default(), Vec::new());
        for slot in first..layout.slots() {
            buffer.resize(layout.slot_bytes(slot), 0);
            // Whoever is slow keeps nobody else waiting: nothing is locked meanwhile.
            let got = read(&mut buffer)?;
            if got == 0 {
                break;
            }
            taken.slots += 1;
            buffer.truncate(got);
            let is_new = self.with(export, |import, sink| {
                let is_new = import.take_slot(sink, slot, &mut buffer)?;
                if import.state.uncommitted() >= COMMIT_SLOTS {
                    import.commit(sink)?;
                }
                Ok(is_new)
            })?;
            match is_new {
                Some(true) => {
                    taken.new += 1;
                    if !layout.is_parity(slot) {
                        self.standings.came(export, slot);
                    }
                }
                Some(false) => {}
                None => taken.damaged.push(slot),
            }
        }
        self.with(export, |import, sink| {
            import.commit(sink)?;
            if import.dropped.len() > dropped {
                let missing = import.state.missing(&layout)?;
                self.standings.count(export, import.made_s, layout, &missing);
            }
            Ok(())
        })?;
        Ok(taken)
    }

    /// Does something with an import that was begun, alone.
    fn with<T>(
        &self,
        export: ExportId,
        work: impl FnOnce(&mut Import, &Sink) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let import = open.get_mut(&export).with_context(|| not_begun(export))?;
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        work(import, &sink)
    }

    /// Repairs what parity can, and says what is missing. A finished import leaves nothing behind.
    pub fn finish(&self, export: ExportId) -> anyhow::Result<Summary> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let import = open.get_mut(&export).with_context(|| not_begun(export))?;
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let repaired = import.repair(&sink)?;
        import.commit(&sink)?;
        let missing = import.state.missing(&import.layout)?;
        let was_whole = !missing.is_empty() && self.whole().contains(&export);
        self.standings.count(export, import.made_s, import.layout, &missing);
        let by_volume = self.standings.get(export).map(|standing| standing.missing).unwrap_or_default();
        let summary = Summary {
            repaired,
            missing_slots: missing.len() as u32,
            missing: by_volume.into_iter().map(|lack| (lack.volume, lack.slots)).collect(),
            dropped: std::mem::take(&mut import.dropped),
            was_whole,
        };
        if missing.is_empty() || was_whole {
            self.record_whole(export)?;
            open.remove(&export);
            self.forget(export)?;
        }
        Ok(summary)
    }

    /// Throws away what came of an import that nobody goes on with, once `tell` has told of it. Objects that were whole are
    /// with the releases already and stay; begun anew, it begins from its first slot.
    pub fn discard(&self, export: ExportId, tell: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.folder(export).exists() {
            bail!("no import of export {export} is under way; those that are: diode-receiver import --list");
        }
        tell()?;
        open.remove(&export);
        self.forget(export)
    }

    /// Removes what is kept of an import that is not open any more.
    fn forget(&self, export: ExportId) -> anyhow::Result<()> {
        self.standings.forget(export);
        let folder = self.folder(export);
        // What says that pieces are here goes before they do.
        let removed = match std::fs::remove_file(folder.join("seen")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => std::fs::remove_dir_all(&folder),
        };
        removed.with_context(|| format!("cannot remove {}", folder.display()))
    }
}

impl Imports {
    fn whole_path(&self) -> PathBuf {
        self.dir.with_file_name("imported")
    }

    /// The exports that were whole. What is lost or garbled of this costs a wrong word to an operator.
    fn whole(&self) -> Vec<ExportId> {
        let content = fact::read(&self.whole_path()).unwrap_or_default();
        content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
    }

    fn record_whole(&self, export: ExportId) -> anyhow::Result<()> {
        let mut whole = self.whole();
        whole.retain(|other| *other != export);
        whole.push(export);
        whole.drain(..whole.len().saturating_sub(WHOLE_MAX));
        Ok(fact::write_lazily(&self.whole_path(), &serde_json::to_vec(&whole)?)?)
    }
}

impl Import {
    /// Takes a slot; says whether it is new, or none if it is damaged.
    fn take_slot(&mut self, sink: &Sink, slot: u32, octets: &mut [u8]) -> anyhow::Result<Option<bool>> {
        // What is staged must not take the room that facts need.
        sink.packs.admit("what is read from a medium", octets.len() as u64)?;
        if self.layout.is_parity(slot) {
            let Ok(shard) = self.keys.open_parity(slot, octets) else { return Ok(None) };
            return Ok(Some(self.state.put_parity(&self.layout, slot, shard)?));
        }
        let Ok((piece, content)) = self.keys.open(slot, octets) else { return Ok(None) };
        let Some(first) = slot.checked_sub(piece.number) else { return Ok(None) };
        if !self.state.put_piece(slot, &piece, content)? {
            return Ok(Some(false));
        }
        if let Some(object) = self.state.whole(first, &piece)? {
            let slots = Slots { first, count: piece.count() };
            match deliver(sink, piece.object, &object)? {
                Kept::Yes => self.state.mark_delivered(slots)?,
                // The signed index says something else, and would again.
                Kept::Never(why) => {
                    self.drop_object(piece.object, &why);
                    self.state.mark_delivered(slots)?;
                }
                Kept::NotNow(why) => {
                    self.drop_object(piece.object, &why);
                    self.state.mark_missing(slots);
                }
            }
        }
        Ok(Some(true))
    }

    fn drop_object(&mut self, object: ObjectId, why: &str) {
        tracing::warn!(%object, why, "it came on a medium and is not kept");
        self.dropped.push(format!("{object}: {why}"));
    }

    /// What was written is made durable before it is said to be here.
    fn commit(&mut self, sink: &Sink) -> anyhow::Result<()> {
        sink.ledger.commit()?;
        self.state.commit()
    }

    /// Restores slots of data by parity; how many. What is restored is taken like what was read.
    fn repair(&mut self, sink: &Sink) -> anyhow::Result<u32> {
        let missing = self.state.missing(&self.layout)?;
        let mut codewords: Vec<u32> = missing.iter().map(|slot| self.layout.shard(*slot).codeword).collect();
        codewords.sort_unstable();
        codewords.dedup();
        let mut repaired = 0;
        for codeword in codewords {
            let (layout, keys, state) = (self.layout, &self.keys, &self.state);
            let restored = repair::<RepairError>(&layout, codeword, |slot| {
                Ok(match layout.is_parity(slot) {
                    true => state.parity(&layout, slot)?,
                    false => state.piece(slot, &sink.packs)?.map(|(piece, content)| {
                        let mut sealed = Vec::new();
                        keys.seal(slot, &piece, &content, &mut sealed);
                        sealed
                    }),
                })
            });
            let restored = match restored {
                Ok(restored) => restored,
                Err(RepairError::Code(_)) => continue,
                Err(RepairError::State(error)) => return Err(error),
            };
            for (slot, mut octets) in restored {
                repaired += u32::from(self.take_slot(sink, slot, &mut octets)? == Some(true));
            }
        }
        Ok(repaired)
    }
}

#[derive(Debug, thiserror::Error)]
enum RepairError {
    #[error(transparent)]
    Code(#[from] diodesync::fec::ShardError),
    #[error(transparent)]
    State(#[from] anyhow::Error),
}

fn not_begun(export: ExportId) -> String {
    format!("export {export} was not begun, or was thrown away meanwhile; begin with its manifest")
}

/// What became of an object.
enum Kept {
    Yes,
    /// It is not the right one.
    Never(String),
    /// It must come again.
    NotNow(String),
}

/// Hands a whole object over.
fn deliver(sink: &Sink, object: ObjectId, octets: &[u8]) -> anyhow::Result<Kept> {
    let hash = Blake3::of(octets);
    match object {
        ObjectId::Block(id) => keep_block(sink, id, hash, octets),
        ObjectId::Index(tag) | ObjectId::Trust(tag) if hash.tag() != tag => {
            Ok(Kept::Never("it is not what it is named".to_owned()))
        }
        ObjectId::Index(_) | ObjectId::Trust(_) => {
            sink.inbox.put(object, octets)?;
            let _ = sink.notices.send(Notice::Object);
            Ok(Kept::Yes)
        }
    }
}

/// Writes a block into its pack if the ledger wants it or has room for it.
fn keep_block(sink: &Sink, id: BlockId, hash: Blake3, octets: &[u8]) -> anyhow::Result<Kept> {
    let bytes = octets.len() as u32;
    match sink.ledger.claim(&id) {
        Claim::Wanted(wanted) if (wanted.hash, wanted.bytes) != (hash, bytes) => {
            sink.ledger.gave_up(&id);
            return Ok(Kept::Never(format!("it has BLAKE3 {hash}, the signed index says {}", wanted.hash)));
        }
        Claim::NoRoom => {
            let why = "no index names it yet and too much of the kind is here already, or its pack is being worked on; \
                       import the medium again later";
            return Ok(Kept::NotNow(why.to_owned()));
        }
        Claim::NoSpace(why) => return Ok(Kept::NotNow(format!("{why}; then import the medium again"))),
        Claim::Wanted(_) | Claim::Unknown => {}
    }
    if sink.ledger.holds(&NeededBlock { id, bytes, hash }) {
        sink.ledger.gave_up(&id);
    } else {
        let written = sink.packs.write_at(id.pack, id.offset(), octets);
        written.inspect_err(|_| sink.ledger.gave_up(&id))?;
        sink.ledger.written(id, hash, bytes);
    }
    let _ = sink.notices.send(Notice::Held(vec![id]));
    sink.orders.send(Order::Done(vec![id]));
    Ok(Kept::Yes)
}
