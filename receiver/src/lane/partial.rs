//! Blocks that are not complete, on disk: what one round brought of them waits here for the next.
//!
//! ```text
//! DIR/partial/KEY: symbols end to end, each after its encoding symbol id (u32, big-endian)
//! ```
//!
//! The file's name is its key. A file that is not whole is worth nothing and harms nothing: blocks are compared with the
//! index after decoding.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use diodesync::fec::{Block, Collecting, Oti};
use diodesync::id::{BlockId, BlockNo, Esi, ObjectTag, PackId, Sbn};
use diodesync::pack::{PackError, fact};
use diodesync::recv::BlockKey;
use diodesync::wire::ObjectId;

/// Files that are kept; more than that and the oldest go: what superseded releases left comes to nothing any more.
const FILES_MAX: usize = 65_536;

/// A folder of incomplete blocks.
#[derive(Debug)]
pub struct Partials {
    dir: PathBuf,
    by_object: HashMap<ObjectId, HashMap<BlockKey, u64>>,
    /// By age, the oldest first.
    by_age: BTreeMap<u64, BlockKey>,
    files_max: usize,
}

impl Partials {
    /// Opens the folder, making it if need be.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        std::fs::create_dir_all(dir).map_err(PackError::io("create the folder", dir))?;
        let mut partials = Self {
            dir: dir.to_owned(),
            by_object: HashMap::new(),
            by_age: BTreeMap::new(),
            files_max: FILES_MAX,
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(PackError::io("list", dir))? {
            let entry = entry.map_err(PackError::io("list", dir))?;
            match entry.file_name().to_str().and_then(parse_name) {
                Some(key) => found.push((entry.metadata().and_then(|file| file.modified()).ok(), key)),
                // A temporary of a write that did not end.
                None => std::fs::remove_file(entry.path()).map_err(PackError::io("remove", entry.path()))?,
            }
        }
        found.sort_by_key(|(written, _)| *written);
        found.into_iter().for_each(|(_, key)| partials.remember(key));
        Ok(partials)
    }

    /// What is there.
    pub fn keys(&self) -> Vec<BlockKey> {
        self.by_age.values().copied().collect()
    }

    fn remember(&mut self, key: BlockKey) {
        let age = self.by_age.last_key_value().map_or(0, |(age, _)| age + 1);
        if let Some(before) = self.by_object.entry(key.object).or_default().insert(key, age) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(age, key);
    }

    /// Keeps the symbols of a block.
    pub fn put(&mut self, key: &BlockKey, block: &Block<Collecting>) -> Result<(), PackError> {
        while self.by_age.len() >= self.files_max
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            let oldest = *oldest;
            self.remove(&oldest);
        }
        let mut octets = Vec::new();
        for (esi, symbol) in block.symbols() {
            octets.extend_from_slice(&esi.0.to_be_bytes());
            octets.extend_from_slice(symbol);
        }
        fact::write_lazily(&self.dir.join(name(key)), &octets)?;
        self.remember(*key);
        Ok(())
    }

    /// Takes the symbols of a block out.
    pub fn take(&mut self, key: &BlockKey) -> Result<Vec<(Esi, Vec<u8>)>, PackError> {
        let path = self.dir.join(name(key));
        let octets = fact::read(&path);
        self.remove(key);
        let octets = octets?.unwrap_or_default();
        let symbols = octets.chunks_exact(4 + key.oti.symbol_bytes()).filter_map(|record| {
            let (esi, symbol) = record.split_first_chunk::<4>()?;
            Some((Esi(u32::from_be_bytes(*esi)), symbol.to_vec()))
        });
        Ok(symbols.collect())
    }

    /// Removes what is kept of an object that is complete.
    pub fn forget(&mut self, object: ObjectId) {
        for (key, _) in self.by_object.get(&object).cloned().unwrap_or_default() {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &BlockKey) {
        let Some(keys) = self.by_object.get_mut(&key.object) else { return };
        if let Some(age) = keys.remove(key) {
            self.by_age.remove(&age);
            // If it stays, it is found and removed at the next start.
            let _ = std::fs::remove_file(self.dir.join(name(key)));
        }
        if keys.is_empty() {
            self.by_object.remove(&key.object);
        }
    }
}

/// The name of a key: `KIND-NAME-NUMBER-F-T-R`.
pub fn name(key: &BlockKey) -> String {
    let (kind, name, number) = match key.object {
        ObjectId::Block(id) => ("block", id.pack.to_string(), id.block.0),
        ObjectId::Index(tag) => ("index", tag.to_string(), key.sbn.0),
        ObjectId::Trust(tag) => ("trust", tag.to_string(), key.sbn.0),
    };
    let oti = key.oti;
    format!("{kind}-{name}-{number}-{}-{}-{}", oti.transfer_bytes(), oti.symbol_bytes(), oti.repair_log2())
}

/// The key that a name stands for.
pub fn parse_name(text: &str) -> Option<BlockKey> {
    let parts: Vec<&str> = text.split('-').collect();
    let [kind, name, number, transfer, symbol, repair] = parts.as_slice() else { return None };
    let number: u32 = number.parse().ok()?;
    let oti = Oti::parse(transfer.parse().ok()?, symbol.parse().ok()?, repair.parse().ok()?).ok()?;
    let tag = || name.parse::<ObjectTag>().ok();
    let (object, sbn) = match *kind {
        "block" => {
            let pack: PackId = name.parse().ok()?;
            (ObjectId::Block(BlockId { pack, block: BlockNo(number) }), Sbn(0))
        }
        "index" => (ObjectId::Index(tag()?), Sbn(number)),
        "trust" => (ObjectId::Trust(tag()?), Sbn(number)),
        _ => return None,
    };
    Some(BlockKey { object, sbn, oti })
}

#[cfg(test)]
mod tests {
    use diodesync::fec::{Codec, RepairUse};

    use super::*;

    #[test]
    fn symbols_come_back_after_a_restart() {
        let dir = std::env::temp_dir().join(format!("diodesync-partial-{}", std::process::id()));
        let object = ObjectId::Block(BlockId { pack: PackId([7; 8]), block: BlockNo(3) });
        let oti = Oti::for_object(1000, 100, RepairUse::Data);
        let key = BlockKey { object, sbn: Sbn(0), oti };
        let data: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        let encoded = Codec::default().encode(oti, Sbn(0), data.clone(), Vec::new());
        let mut block = Block::new(oti, Sbn(0), Vec::new());
        for esi in [0, 2, 3, 4, 5, 6, 7, 8, 11] {
            block.add(Esi(esi), encoded.symbol(Esi(esi)));
        }
        Partials::open(&dir).unwrap().put(&key, &block).unwrap();
        std::fs::write(dir.join("block-x.new"), b"half").unwrap();
        let mut partials = Partials::open(&dir).unwrap();
        assert_eq!(partials.keys(), [key]);
        let mut block = Block::new(oti, Sbn(0), Vec::new());
        for (esi, symbol) in partials.take(&key).unwrap() {
            block.add(esi, &symbol);
        }
        assert_eq!(block.missing(), 1);
        block.add(Esi(12), encoded.symbol(Esi(12)));
        assert_eq!(block.decode(&mut Codec::default()).unwrap().bytes(), data);
        assert!(Partials::open(&dir).unwrap().keys().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let dir = std::env::temp_dir().join(format!("diodesync-partial-many-{}", std::process::id()));
        let oti = Oti::for_object(200, 100, RepairUse::Data);
        let key = |number| {
            let object = ObjectId::Block(BlockId { pack: PackId([7; 8]), block: BlockNo(number) });
            BlockKey { object, sbn: Sbn(0), oti }
        };
        let mut partials = Partials::open(&dir).unwrap();
        partials.files_max = 3;
        let mut block = Block::new(oti, Sbn(0), Vec::new());
        block.add(Esi(1), &[5; 100]);
        // The first is written once more, and is not the oldest then.
        for number in [1, 2, 3, 1, 4, 5] {
            partials.put(&key(number), &block).unwrap();
        }
        assert_eq!(partials.keys(), [key(1), key(4), key(5)]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3);
        assert_eq!(partials.take(&key(4)).unwrap().len(), 1);
        assert!(partials.take(&key(2)).unwrap().is_empty());
        assert_eq!(Partials::open(&dir).unwrap().keys().len(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn no_changed_octet_is_taken_for_a_symbol() {
        let dir = std::env::temp_dir().join(format!("diodesync-partial-octets-{}", std::process::id()));
        let oti = Oti::for_object(200, 100, RepairUse::Data);
        let object = ObjectId::Block(BlockId { pack: PackId([7; 8]), block: BlockNo(3) });
        let key = BlockKey { object, sbn: Sbn(0), oti };
        let mut block = Block::new(oti, Sbn(0), Vec::new());
        block.add(Esi(1), &[5; 100]);
        let mut partials = Partials::open(&dir).unwrap();
        partials.put(&key, &block).unwrap();
        let path = dir.join(name(&key));
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&path, changed).unwrap();
            partials.remember(key);
            let error = partials.take(&key).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "octet {at}: {error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
