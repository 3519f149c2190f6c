//! What the roles hand each other.
//!
//! ```text
//! lane ──► publish   objects: files that are renamed into DIR/inbox when they are whole
//!                    blocks: written into packs, if the publisher's [`Judge`] lets them
//!                    [`Notice`]: there is something to look at
//! publish ──► lane   [`Order`]: what to collect
//!                    On a mirror host the upstream role stands where the lane does: what it brings is metadata as it was
//!                    [`Judged`] at the diode, indexes, and blocks
//! publish ──► serve  facts: what is published, kept and damaged ([`crate::serve::follow`])
//! ```
//!
//! In one process these are calls and channels; between processes they go over `DIR/handover/lane.sock` ([`remote`]). A notice or
//! an order that is lost costs time, not data: the publisher looks by itself every now and then, and whoever joins is
//! told everything anew.

mod judged;
pub mod remote;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use diodesync::id::{Blake3, BlockId, ObjectTag};
use diodesync::journal::HeldBlock;
use diodesync::link::LinkVerifier;
use diodesync::pack::{PackError, fact};
use diodesync::release::index::NeededBlock;
use diodesync::wire::{Beacon, ObjectId};

pub use judged::Judged;

/// From the lane to the publisher.
#[derive(Debug)]
pub enum Notice {
    /// An object is in the inbox.
    Object,
    /// Blocks are in their packs.
    Held(Vec<BlockId>),
    /// Blocks were written while no publisher judged them; each is what is said here, or must come again.
    Unjudged(Vec<NeededBlock>),
    /// A beacon came.
    Beacon(Box<Beacon>),
    /// These blocks are not what they were (from `verify`).
    Damaged(Vec<BlockId>),
}

/// From the publisher to the lane.
#[derive(Debug, Clone)]
pub enum Order {
    /// These blocks are there: their symbols are surplus.
    Done(Vec<BlockId>),
    /// These are not, or not the right ones: collect them.
    Missing(Vec<BlockId>),
    /// Sessions may be signed with these link keys, the oldest first.
    Senders(Vec<LinkVerifier>),
}

/// Whether a block that was decoded may be written.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Claim {
    /// An accepted index names it.
    Wanted(HeldBlock),
    /// No index names it yet.
    Unknown,
    /// Not now: no index names it and too much of the kind is there already, or its pack is being worked on.
    NoRoom,
    /// The file system is full, but for what is kept back.
    NoSpace(String),
}

/// Says which decoded blocks may be written. Whoever may says [`Judge::written`] or [`Judge::gave_up`] afterwards.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// Whether a decoded block may be written.
    fn claim(&self, id: &BlockId) -> Claim;

    /// Records that a block was written.
    fn written(&self, id: BlockId, hash: Blake3, bytes: u32);

    /// Records that a block that was claimed is not written.
    fn gave_up(&self, id: &BlockId);

    /// Notes why blocks cannot be written; one line in the log for many of them.
    fn note_trouble(&self, text: String);
}

/// Where orders go: to all lanes that have joined.
#[derive(Debug, Clone, Default)]
pub struct Orders(Arc<Mutex<Vec<Sender<Order>>>>);

impl Orders {
    /// Sends an order to whoever listens.
    pub fn send(&self, order: Order) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.send(order.clone()).is_ok());
    }

    /// Adds a listener, who is told first what `first` says. No order is sent in between.
    pub fn join(&self, lane: Sender<Order>, first: impl FnOnce() -> Vec<Order>) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first().into_iter().all(|order| lane.send(order).is_ok()) {
            lanes.push(lane);
        }
    }
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

    /// Puts in what the receiver at the diode has judged.
    pub fn put_judged(&self, judged: &Judged) -> Result<(), PackError> {
        let octets = judged.encode();
        fact::write(&self.dir.join(format!("{}.judged", Blake3::of(&octets).tag())), &octets)
    }

    /// What the receiver at the diode has judged, as files.
    pub fn list_judged(&self) -> Result<Vec<PathBuf>, PackError> {
        let entries = std::fs::read_dir(&self.dir).map_err(PackError::io("list", &self.dir))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(PackError::io("list", &self.dir))?.path();
            if path.extension().is_some_and(|kind| kind == "judged") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
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
