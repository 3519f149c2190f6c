//! What of an export is here.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::pack::{PackStore, fact};
use diodesync::volume::{DATA_SLOT_BYTES, Layout, Piece, SLOT_PAYLOAD_BYTES};
use diodesync::wire::ObjectId;

/// Octets that `seen` has for each slot.
const RECORD_BYTES: usize = 32;
/// The last octet of a record, which a piece's header leaves at zero.
const MARK_AT: usize = RECORD_BYTES - 1;
/// The slot's content is in `staged` or `parity`.
const STAGED: u8 = 1;
/// The slot's object was handed over.
const DELIVERED: u8 = 2;

/// The slots of one object.
#[derive(Debug, Clone, Copy)]
pub struct Slots {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

type Record = [u8; RECORD_BYTES];

/// See the module.
#[derive(Debug)]
pub struct State {
    staged: (PathBuf, File),
    seen: (PathBuf, File),
    parity: (PathBuf, File),
    /// Records that are not written yet: what they speak of is not durable.
    pending: BTreeMap<u32, Record>,
}

impl State {
    /// Opens what there is of an export, or begins it.
    pub fn open(dir: &Path, manifest: &[u8], layout: &Layout) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        // Who only looks must not make an import look as if something had just come of it.
        let path = dir.join("manifest");
        if std::fs::read(&path).ok().as_deref() != Some(manifest) {
            fact::write_atomic(&path, 0o640, &[manifest])?;
        }
        let file = |name: &str| -> anyhow::Result<(PathBuf, File)> {
            let path = dir.join(name);
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            Ok((path.clone(), file.with_context(|| format!("cannot open {}", path.display()))?))
        };
        let seen = file("seen")?;
        let bytes = u64::from(layout.slots()) * RECORD_BYTES as u64;
        if seen.1.metadata()?.len() != bytes {
            seen.1.set_len(bytes)?;
        }
        Ok(Self { staged: file("staged")?, seen, parity: file("parity")?, pending: BTreeMap::new() })
    }

    /// Slots whose records are not durable.
    pub fn uncommitted(&self) -> usize {
        self.pending.len()
    }

    fn record(&self, slot: u32) -> anyhow::Result<Record> {
        if let Some(record) = self.pending.get(&slot) {
            return Ok(*record);
        }
        let mut record = [0; RECORD_BYTES];
        let at = u64::from(slot) * RECORD_BYTES as u64;
        let (path, file) = &self.seen;
        file.read_exact_at(&mut record, at).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(record)
    }

    /// What a slot of data holds, and whether it was handed over.
    fn piece_of(&self, slot: u32) -> anyhow::Result<Option<(Piece, bool)>> {
        let mut record = self.record(slot)?;
        let mark = std::mem::take(record.last_mut().context("a record has octets")?);
        // A record that is garbled is as good as none: the slot must come again.
        Ok(Piece::parse(&record).ok().filter(|_| mark != 0).map(|piece| (piece, mark == DELIVERED)))
    }

    fn mark(&mut self, slot: u32, mut record: Record, mark: u8) {
        if let Some(last) = record.get_mut(MARK_AT) {
            *last = mark;
        }
        self.pending.insert(slot, record);
    }

    /// Keeps a piece; says whether it was not here.
    pub fn put_piece(&mut self, slot: u32, piece: &Piece, content: &[u8]) -> anyhow::Result<bool> {
        if self.piece_of(slot)?.is_some_and(|(known, _)| known == *piece) {
            return Ok(false);
        }
        let (path, file) = &self.staged;
        file.write_all_at(content, staged_at(slot))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.mark(slot, piece.encode(), STAGED);
        Ok(true)
    }

    /// Keeps a shard of parity; says whether it was not here.
    pub fn put_parity(&mut self, layout: &Layout, slot: u32, shard: &[u8]) -> anyhow::Result<bool> {
        if self.record(slot)?.last() == Some(&STAGED) {
            return Ok(false);
        }
        let (path, file) = &self.parity;
        file.write_all_at(shard, parity_at(layout, slot))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.mark(slot, [0; RECORD_BYTES], STAGED);
        Ok(true)
    }

    /// The object that `piece` is of and whose first slot is `first`, if all its pieces are here.
    pub fn whole(&self, first: u32, piece: &Piece) -> anyhow::Result<Option<Vec<u8>>> {
        for (slot, expected) in (first..).zip(Piece::of(piece.object, piece.object_bytes)) {
            match self.piece_of(slot)? {
                Some((found, false)) if found == expected => {}
                _ => return Ok(None),
            }
        }
        let mut octets = vec![0; piece.object_bytes as usize];
        for (chunk, slot) in octets.chunks_mut(SLOT_PAYLOAD_BYTES).zip(first..) {
            self.read_staged(slot, chunk)?;
        }
        Ok(Some(octets))
    }

    fn read_staged(&self, slot: u32, out: &mut [u8]) -> anyhow::Result<()> {
        let (path, file) = &self.staged;
        file.read_exact_at(out, staged_at(slot)).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Records that an object was handed over.
    pub fn mark_delivered(&mut self, slots: Slots) -> anyhow::Result<()> {
        for slot in slots.first..slots.first.saturating_add(slots.count) {
            let record = self.record(slot)?;
            self.mark(slot, record, DELIVERED);
        }
        Ok(())
    }

    /// Forgets an object that must come again.
    pub fn mark_missing(&mut self, slots: Slots) {
        for slot in slots.first..slots.first.saturating_add(slots.count) {
            self.mark(slot, [0; RECORD_BYTES], 0);
        }
    }

    /// Makes everything durable, contents first. Blocks that are in their packs need no room here any more.
    pub fn commit(&mut self) -> anyhow::Result<()> {
        let sync = |(path, file): &(PathBuf, File)| {
            file.sync_data().with_context(|| format!("cannot sync {}", path.display()))
        };
        if self.pending.is_empty() {
            return Ok(());
        }
        sync(&self.staged)?;
        sync(&self.parity)?;
        let (path, file) = &self.seen;
        for (slot, record) in &self.pending {
            let at = u64::from(*slot) * RECORD_BYTES as u64;
            file.write_all_at(record, at).with_context(|| format!("cannot write {}", path.display()))?;
        }
        sync(&self.seen)?;
        for (slot, mut record) in std::mem::take(&mut self.pending) {
            let mark = record.last_mut().map_or(0, std::mem::take);
            let is_block =
                Piece::parse(&record).is_ok_and(|piece| matches!(piece.object, ObjectId::Block(_)));
            if mark == DELIVERED && is_block {
                // A file system without holes keeps the room until the import is done.
                let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                let _ =
                    rustix::fs::fallocate(&self.staged.1, flags, staged_at(slot), SLOT_PAYLOAD_BYTES as u64);
            }
        }
        Ok(())
    }

    /// Slots of data that are not here.
    pub fn missing(&self, layout: &Layout) -> anyhow::Result<Vec<u32>> {
        let mut missing = Vec::new();
        for slot in 0..layout.data_slots() {
            if self.piece_of(slot)?.is_none() {
                missing.push(slot);
            }
        }
        Ok(missing)
    }

    /// A piece that is here, out of the pack if its block was handed over. None if it cannot be had.
    pub fn piece(&self, slot: u32, packs: &PackStore) -> anyhow::Result<Option<(Piece, Vec<u8>)>> {
        let Some((piece, is_delivered)) = self.piece_of(slot)? else { return Ok(None) };
        let mut content = vec![0; piece.bytes()];
        match piece.object {
            ObjectId::Block(id) if is_delivered => {
                // If the block was not kept, something else is there; what is restored from it does not open.
                if packs.read_at(id.pack, id.offset() + piece.offset(), &mut content).is_err() {
                    return Ok(None);
                }
            }
            _ => self.read_staged(slot, &mut content)?,
        }
        Ok(Some((piece, content)))
    }

    /// A shard of parity that is here.
    pub fn parity(&self, layout: &Layout, slot: u32) -> anyhow::Result<Option<Vec<u8>>> {
        if self.record(slot)?.last() != Some(&STAGED) {
            return Ok(None);
        }
        let mut shard = vec![0; DATA_SLOT_BYTES];
        let (path, file) = &self.parity;
        file.read_exact_at(&mut shard, parity_at(layout, slot))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(shard))
    }
}

fn staged_at(slot: u32) -> u64 {
    u64::from(slot) * SLOT_PAYLOAD_BYTES as u64
}

fn parity_at(layout: &Layout, slot: u32) -> u64 {
    u64::from(slot.saturating_sub(layout.data_slots())) * DATA_SLOT_BYTES as u64
}
