//! The journal: progress and decisions, quick to write, and an index that can be rebuilt. Never the only copy of a fact
//! (those are [`crate::pack::fact`]), never bulk data.

mod memory;
mod record;
mod sled;

use thiserror::Error;

pub use self::sled::{Revived, SledJournal};
pub use memory::MemoryJournal;
pub use record::{CheckedBlob, HeldBlock, Key, Progress, Record, RecordError, ScannedBlob};

/// The journal could not be read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The database failed.
    #[error(
        "the journal in {dir} failed: {why}; it is an index and can be rebuilt: stop the daemon, move the folder away, start it"
    )]
    Database {
        /// Its folder.
        dir: String,
        /// What it said.
        why: String,
    },
    /// There is none at present; it is opened again later.
    #[error("the journal in {dir} is closed: {why}")]
    Closed {
        /// Its folder.
        dir: String,
        /// Why.
        why: String,
    },
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A change: a key, and its value or none to remove it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered map of small records. One process owns one journal.
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError>;
    /// Makes changes, all or none.
    fn apply(&self, changes: Vec<Change>) -> Result<(), JournalError>;
    /// All keys that start with `prefix`, with their values, by rising key.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Row>, JournalError>;
    /// Hands what was applied to the operating system.
    fn flush(&self) -> Result<(), JournalError>;
}

/// Typed access to a journal.
pub trait JournalExt: Journal {
    /// Reads a record.
    fn read<R: Record>(&self, key: &Key) -> Result<Option<R>, JournalError> {
        Ok(self.get(&key.encode())?.map(|value| R::from_value(&value)).transpose()?)
    }

    /// Writes a record.
    fn write<R: Record>(&self, key: &Key, record: &R) -> Result<(), JournalError> {
        self.apply(vec![(key.encode(), Some(record.to_value()?))])
    }
}

impl<J: Journal + ?Sized> JournalExt for J {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Blake3, BlockId, BlockNo, Channel, PackId};
    use crate::testing::TempDir;

    fn suite(journal: &dyn Journal) {
        let key = |n| Key::Block(BlockId { pack: PackId([1; 8]), block: BlockNo(n) });
        let held = |n: u8| HeldBlock { hash: Blake3([n; 32]), bytes: 7 };
        assert_eq!(journal.read::<HeldBlock>(&key(1)).unwrap(), None);
        for n in [300, 1, 2] {
            journal.write(&key(n), &held(n as u8)).unwrap();
        }
        journal
            .write(&Key::Progress(Channel::main()), &Progress { release: 4, round: 1, position: 9 })
            .unwrap();
        journal.apply(vec![(key(2).encode(), None)]).unwrap();
        journal.flush().unwrap();
        let blocks = journal.scan(Key::BLOCKS).unwrap();
        let blocks: Vec<_> = blocks.iter().map(|(key, _)| Key::block_of(key).unwrap().block.0).collect();
        assert_eq!(blocks, [1, 300]);
        assert_eq!(journal.read::<HeldBlock>(&key(300)).unwrap(), Some(held(44)));
    }

    #[test]
    fn both_journals_pass_one_suite() {
        suite(&MemoryJournal::default());
        let dir = TempDir::new("journal");
        suite(&SledJournal::open(dir.path()).unwrap().0);
    }

    #[test]
    fn an_unopenable_database_is_moved_aside() {
        let dir = TempDir::new("journal-bad");
        let path = dir.path().join("journal");
        {
            let (journal, aside) = SledJournal::open(&path).unwrap();
            assert_eq!(aside, None);
            suite(&journal);
        }
        for entry in std::fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"garbage that is no database").unwrap();
            }
        }
        let (journal, aside) = SledJournal::open(&path).unwrap();
        assert!(aside.is_some());
        suite(&journal);
    }
}
