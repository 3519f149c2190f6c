//! What the roles hand each other.
//!
//! Objects go as files that are renamed into `DIR/inbox` when they are whole; blocks go through the packs and the
//! [`Ledger`](crate::lane::Ledger). A [`Notice`] says that there is something to look at; one that is lost costs time,
//! not data, because the publisher looks by itself every now and then.

use std::path::{Path, PathBuf};

use diodesync::id::{BlockId, ObjectTag};
use diodesync::link::LinkVerifier;
use diodesync::pack::{PackError, fact};
use diodesync::wire::{Beacon, ObjectId};

/// From the lane to the publisher.
#[derive(Debug)]
pub enum Notice {
    /// An object is in the inbox.
    Object,
    /// Blocks are in their packs.
    Held(Vec<BlockId>),
    /// A beacon came.
    Beacon(Box<Beacon>),
    /// These blocks are not what they were (from `verify`).
    Damaged(Vec<BlockId>),
}

/// From the publisher to the lane.
#[derive(Debug)]
pub enum Order {
    /// These blocks are there: their symbols are surplus.
    Done(Vec<BlockId>),
    /// These are not, or not the right ones: collect them.
    Missing(Vec<BlockId>),
    /// Sessions may be signed with these link keys, the oldest first.
    Senders(Vec<LinkVerifier>),
}

/// The folder of objects that came and were not judged yet.
#[derive(Debug, Clone)]
pub struct Inbox {
    dir: PathBuf,
}

impl Inbox {
    /// In the receiver's folder.
    pub fn open(dir: &Path) -> Result<Self, PackError> {
        let dir = dir.join("inbox");
        std::fs::create_dir_all(&dir).map_err(PackError::io("create the folder", &dir))?;
        Ok(Self { dir })
    }

    fn path(&self, object: ObjectId) -> Option<PathBuf> {
        match object {
            ObjectId::Trust(tag) => Some(self.dir.join(format!("{tag}.trust"))),
            ObjectId::Index(tag) => Some(self.dir.join(format!("{tag}.index"))),
            ObjectId::Block(_) => None,
        }
    }

    /// Puts an object in.
    pub fn put(&self, object: ObjectId, octets: &[u8]) -> Result<(), PackError> {
        self.path(object).map_or(Ok(()), |path| fact::write(&path, octets))
    }

    /// Where an object is, for tests that change it.
    #[cfg(test)]
    pub fn file(&self, object: ObjectId) -> Option<PathBuf> {
        self.path(object)
    }

    /// What is in it.
    pub fn list(&self) -> Result<Vec<ObjectId>, PackError> {
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(PackError::io("list", &self.dir))? {
            let entry = entry.map_err(PackError::io("list", &self.dir))?;
            let name = entry.file_name();
            let Some((tag, kind)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let Ok(tag) = tag.parse::<ObjectTag>() else { continue };
            match kind {
                "trust" => objects.push(ObjectId::Trust(tag)),
                "index" => objects.push(ObjectId::Index(tag)),
                _ => {}
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    /// Reads an object.
    pub fn read(&self, object: ObjectId) -> Result<Option<Vec<u8>>, PackError> {
        self.path(object).map_or(Ok(None), |path| fact::read(&path))
    }

    /// Takes an object out.
    pub fn remove(&self, object: ObjectId) -> Result<(), PackError> {
        match self.path(object) {
            Some(path) => std::fs::remove_file(&path).map_err(PackError::io("remove", path)),
            None => Ok(()),
        }
    }
}
