//! Where what came from upstream goes: the same inbox and the same ledger as if it had come over a lane.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use diodesync::id::{Blake3, BlockId};
use diodesync::pack::{PackStore, Stamp};
use diodesync::trust::{Bundle, timestamp_version};
use diodesync::wire::ObjectId;

use crate::feed::protocol::{Have, HaveChannel};
use crate::handover::{Claim, Inbox, Judge, Judged, Notice};
use crate::publish::Facts;

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is in its pack.
    Kept,
    /// It is not the block that the signed index names.
    Wrong(String),
    /// Upstream has none to give.
    Absent,
    /// It cannot be kept now.
    Later,
    /// No accepted index names it any more, or there is no publisher.
    Unwanted,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Judges blocks.
    pub judge: Arc<dyn Judge>,
    /// Takes metadata and indexes.
    pub inbox: Inbox,
    /// Tells the publisher.
    pub notices: Sender<Notice>,
    /// Octets of blocks that came, and blocks that were kept.
    pub came: (AtomicU64, AtomicU64),
}

impl Keeper {
    /// What becomes of a block before it is asked for; none if it is to be asked for.
    pub fn before(&self, id: BlockId) -> Option<Fate> {
        match self.judge.claim(&id) {
            Claim::Wanted(_) => {
                self.judge.gave_up(&id);
                None
            }
            Claim::Unknown => {
                self.judge.gave_up(&id);
                Some(Fate::Unwanted)
            }
            Claim::NoRoom => Some(Fate::Later),
            Claim::NoSpace(why) => {
                self.judge.note_trouble(why);
                Some(Fate::Later)
            }
        }
    }

    /// Writes a block into its pack, if the signed index names it.
    pub fn block(&self, id: BlockId, octets: &[u8]) -> Fate {
        self.came.0.fetch_add(octets.len() as u64, Ordering::Relaxed);
        let (hash, bytes) = (Blake3::of(octets), octets.len() as u32);
        match self.judge.claim(&id) {
            Claim::Wanted(wanted) if (wanted.hash, wanted.bytes) == (hash, bytes) => {}
            Claim::Wanted(wanted) => {
                self.judge.gave_up(&id);
                return Fate::Wrong(format!(
                    "block {id} came with {bytes} octets and BLAKE3 {hash}, the signed index says {} octets and {}",
                    wanted.bytes, wanted.hash
                ));
            }
            Claim::Unknown => {
                self.judge.gave_up(&id);
                return Fate::Unwanted;
            }
            Claim::NoRoom => return Fate::Later,
            Claim::NoSpace(why) => {
                self.judge.note_trouble(why);
                return Fate::Later;
            }
        }
        if let Err(error) = self.packs.write_at(id.pack, id.offset(), octets) {
            self.judge.gave_up(&id);
            self.judge.note_trouble(error.to_string());
            return Fate::Later;
        }
        self.judge.written(id, hash, bytes);
        self.came.1.fetch_add(1, Ordering::Relaxed);
        let _ = self.notices.send(Notice::Held(vec![id]));
        Fate::Kept
    }

    /// Puts into the inbox what is told of a release: the index first, because the metadata is judged together with what is
    /// there by then.
    ///
    /// # Errors
    /// If it is not what it should be, or cannot be written.
    pub fn told(&self, judged_s: u64, bundle: &[u8], index: Option<&[u8]>) -> anyhow::Result<()> {
        let bundle = Bundle::parse(bundle)?;
        if let Some(index) = index {
            self.packs.admit("an index from upstream", index.len() as u64)?;
            self.inbox.put(ObjectId::Index(Blake3::of(index).tag()), index)?;
        }
        self.inbox.put_judged(&Judged { judged_s, bundle })?;
        let _ = self.notices.send(Notice::Object);
        Ok(())
    }
}

/// What this host has, as its publisher records it.
#[derive(Debug)]
pub struct Having {
    dir: PathBuf,
    trust: Option<Stamp>,
    version: Option<u64>,
}

impl Having {
    /// Of a receiver's folder.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), trust: None, version: None }
    }

    /// What it has now.
    ///
    /// # Errors
    /// If a fact is damaged.
    pub fn look(&mut self, lacking: u64) -> anyhow::Result<Have> {
        let facts = Facts::open(&self.dir)?;
        let stamp = Stamp::of(&self.dir.join("trust"));
        if stamp.is_none() || stamp != self.trust {
            let trust = facts.trust()?;
            let accepted = trust.as_ref().and_then(|trust| trust.accepted.as_ref());
            self.version = accepted.and_then(|accepted| timestamp_version(accepted.timestamp.as_bytes()));
            self.trust = stamp;
        }
        let (accepted, published) = (facts.accepted()?, facts.published()?);
        let channels = accepted.iter().map(|(channel, number)| HaveChannel {
            channel: channel.clone(),
            accepted: Some(*number),
            published: published.get(channel).copied(),
        });
        Ok(Have { version: self.version, channels: channels.collect(), lacking })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use diodesync::id::{BlockNo, PackId};
    use diodesync::journal::SledJournal;
    use diodesync::release::index::NeededBlock;

    use super::*;
    use crate::publish::Ledger;
    use crate::serve::testing::TempDir;

    #[test]
    fn only_the_block_that_the_index_names_is_written() {
        let dir = TempDir::new("upstream-keep");
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
        let ledger = Arc::new(Ledger::open(dir.path(), packs.clone(), journal).unwrap());
        let (notices, heard) = channel();
        let keeper = Keeper {
            packs: packs.clone(),
            judge: ledger.clone(),
            inbox: Inbox::open(dir.path()).unwrap(),
            notices,
            came: Default::default(),
        };
        let id = BlockId { pack: PackId([3; 8]), block: BlockNo(0) };
        let octets = vec![9; 5000];
        assert_eq!(keeper.block(id, &octets), Fate::Unwanted, "no index names it");
        assert_eq!(keeper.before(id), Some(Fate::Unwanted));
        let needed = NeededBlock { id, bytes: 5000, hash: Blake3::of(&octets) };
        ledger.want([needed].into_iter());
        assert_eq!(keeper.before(id), None, "it may be asked for");
        for wrong in [vec![8; 5000], vec![9; 4999], Vec::new()] {
            let Fate::Wrong(why) = keeper.block(id, &wrong) else { panic!("it was taken") };
            assert!(
                why.contains(&id.to_string()) && why.contains("the signed index says 5000 octets"),
                "{why}"
            );
        }
        assert!(!packs.path(id.pack).exists() && !ledger.holds(&needed) && heard.try_recv().is_err());
        assert_eq!(keeper.block(id, &octets), Fate::Kept);
        assert!(ledger.holds(&needed) && matches!(heard.try_recv(), Ok(Notice::Held(_))));
    }

    #[test]
    fn what_is_no_bundle_is_not_put_into_the_inbox() {
        let dir = TempDir::new("upstream-told");
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
        let ledger = Arc::new(Ledger::open(dir.path(), packs.clone(), journal).unwrap());
        let inbox = Inbox::open(dir.path()).unwrap();
        let keeper = Keeper {
            packs,
            judge: ledger,
            inbox: inbox.clone(),
            notices: channel().0,
            came: Default::default(),
        };
        assert!(keeper.told(1, b"DSTX", Some(b"an index")).is_err());
        assert!(inbox.list().unwrap().is_empty() && inbox.list_judged().unwrap().is_empty());
        let file = || b"{}".to_vec();
        let bundle = Bundle { roots: vec![file()], timestamp: file(), snapshot: file(), targets: file() };
        keeper.told(7, &bundle.encode(), None).unwrap();
        let [path] = inbox.list_judged().unwrap().try_into().unwrap();
        let octets = diodesync::pack::fact::read(&path).unwrap().unwrap();
        assert_eq!(Judged::parse(&octets).unwrap(), Judged { judged_s: 7, bundle });
    }
}
