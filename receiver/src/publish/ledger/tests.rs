use std::collections::HashMap;

use diodesync::id::{BlockNo, PackId};

use super::freeing::Freed;
use super::*;
use crate::serve::testing::TempDir;

struct Stand {
    dir: TempDir,
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    ledger: Ledger,
}

impl Stand {
    fn new(name: &str) -> Self {
        Self::open(TempDir::new(name))
    }

    fn open(dir: TempDir) -> Self {
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
        let ledger = Ledger::open(dir.path(), packs.clone(), journal.clone()).unwrap();
        Self { dir, packs, journal, ledger }
    }

    /// As after a restart.
    fn again(self) -> Self {
        let Self { dir, packs, journal, ledger } = self;
        drop((packs, journal, ledger));
        Self::open(dir)
    }

    /// A block arrives.
    fn write(&self, number: u32) -> NeededBlock {
        let octets = vec![number as u8 + 1; BLOCK_BYTES];
        let block = block(number);
        assert!(!matches!(self.ledger.claim(&block.id), Claim::NoRoom | Claim::NoSpace(_)));
        self.packs.write_at(block.id.pack, block.id.offset(), &octets).unwrap();
        self.ledger.written(block.id, block.hash, block.bytes);
        block
    }

    fn free(&self, kept: &[NeededBlock], is_index_due: bool) -> Freed {
        self.ledger.free(wanted(kept), is_index_due).unwrap()
    }

    fn journalled(&self) -> Vec<u32> {
        let rows = self.journal.scan(Key::BLOCKS).unwrap();
        rows.iter().map(|(key, _)| Key::block_of(key).unwrap().block.0).collect()
    }
}

fn block(number: u32) -> NeededBlock {
    let id = BlockId { pack: PackId([5; 8]), block: BlockNo(number) };
    NeededBlock { id, bytes: BLOCK_BYTES as u32, hash: Blake3::of(&vec![number as u8 + 1; BLOCK_BYTES]) }
}

fn wanted(blocks: &[NeededBlock]) -> HashMap<BlockId, HeldBlock> {
    blocks.iter().map(|block| (block.id, HeldBlock { hash: block.hash, bytes: block.bytes })).collect()
}

#[test]
fn what_nothing_needs_is_forgotten_then_unjournalled_then_punched() {
    let stand = Stand::new("free");
    let blocks: Vec<_> = (0..4).map(|number| stand.write(number)).collect();
    assert!(stand.ledger.want(blocks.iter().copied()).is_empty());
    stand.ledger.commit().unwrap();
    assert_eq!(stand.journalled(), [0, 1, 2, 3]);
    assert_eq!(stand.free(&blocks, false), Freed::default(), "everything is needed");
    let mut freed = stand.free(&[blocks[0], blocks[3]], false);
    freed.blocks.sort_unstable();
    assert_eq!(freed.blocks, [blocks[1].id, blocks[2].id]);
    assert!(freed.bytes >= 2 * BLOCK_BYTES as u64, "{freed:?}");
    assert_eq!(stand.journalled(), [0, 3]);
    assert_eq!(stand.packs.stored_blocks().unwrap()[&PackId([5; 8])], [0..1, 3..4]);
    assert!(stand.ledger.holds(&blocks[0]) && !stand.ledger.holds(&blocks[1]));
    // It may come again.
    assert_eq!(stand.ledger.want([blocks[1]].into_iter()), [blocks[1]]);
    stand.write(1);
    assert!(stand.ledger.holds(&blocks[1]));
    // Nothing is left of the pack.
    assert_eq!(stand.free(&[], false).blocks.len(), 3);
    assert_eq!(stand.packs.list().unwrap(), []);
    assert_eq!((stand.ledger.unclaimed_bytes(), stand.journalled().len()), (0, 0));
}

#[test]
fn a_block_without_an_index_waits_for_one_and_not_for_ever() {
    let stand = Stand::new("unclaimed");
    let early = stand.write(7);
    assert_eq!(stand.ledger.unclaimed_bytes(), BLOCK_BYTES as u64);
    for _ in 0..3 {
        assert_eq!(stand.free(&[], true), Freed::default(), "its index is on its way");
    }
    assert_eq!(stand.free(&[], false), Freed::default(), "it has just come");
    assert_eq!(stand.free(&[], true), Freed::default(), "an index is on its way again");
    assert!(stand.ledger.holds(&early));
    assert_eq!(stand.free(&[], false).blocks, [early.id]);
    assert_eq!(stand.ledger.unclaimed_bytes(), 0);
}

#[test]
fn after_a_restart_blocks_of_older_releases_do_not_count_against_new_ones_for_long() {
    let stand = Stand::new("restart");
    let (old, new) = (stand.write(1), stand.write(2));
    stand.ledger.commit().unwrap();
    let stand = stand.again();
    assert_eq!(stand.ledger.unclaimed_bytes(), 2 * BLOCK_BYTES as u64);
    stand.ledger.want([new].into_iter());
    assert_eq!(stand.ledger.unclaimed_bytes(), BLOCK_BYTES as u64);
    stand.free(&[new], false);
    assert_eq!(stand.free(&[new], false).blocks, [old.id]);
    assert_eq!(stand.ledger.unclaimed_bytes(), 0);
}

#[test]
fn a_hole_or_a_cut_file_is_seen_at_the_start_whatever_the_journal_says() {
    let stand = Stand::new("holes");
    let blocks: Vec<_> = (0..5).map(|number| stand.write(number)).collect();
    stand.ledger.commit().unwrap();
    // A power failure put rows back that were removed, and the end of the file is gone.
    stand.packs.punch(PackId([5; 8]), &(1..2)).unwrap();
    stand.packs.truncate(PackId([5; 8]), 4 * BLOCK_BYTES as u64 + 9).unwrap();
    let stand = stand.again();
    let held: Vec<bool> = blocks.iter().map(|block| stand.ledger.holds(block)).collect();
    assert_eq!(held, [true, false, true, true, false]);
    let mut octet = [0];
    assert!(
        stand.packs.read_at(PackId([5; 8]), BLOCK_BYTES as u64, &mut octet).is_err(),
        "zeros were served"
    );
    let missing = stand.ledger.want(blocks.iter().copied());
    assert_eq!(missing, [blocks[1], blocks[4]]);
    assert!(stand.ledger.rescan(&missing).is_empty());
    stand.write(1);
    stand.packs.read_at(PackId([5; 8]), BLOCK_BYTES as u64, &mut octet).unwrap();
}

#[test]
fn what_is_damaged_is_remembered_until_it_came_again() {
    let stand = Stand::new("damaged");
    let blocks: Vec<_> = (0..3).map(|number| stand.write(number)).collect();
    stand.ledger.want(blocks.iter().copied());
    stand.ledger.commit().unwrap();
    let bad = blocks[1];
    let looked_at = HeldBlock { hash: bad.hash, bytes: bad.bytes };
    assert!(!stand.ledger.condemn(bad.id, None), "it is there, so who found it missing was wrong");
    assert!(stand.ledger.condemn(bad.id, Some(looked_at)));
    stand.ledger.commit().unwrap();
    let mut octet = [0];
    let stand = stand.again();
    assert!(
        !stand.ledger.holds(&bad) && stand.packs.read_at(bad.id.pack, bad.id.offset(), &mut octet).is_err()
    );
    stand.ledger.want(blocks.iter().copied());
    stand.write(1);
    stand.ledger.commit().unwrap();
    let stand = stand.again();
    assert!(
        stand.ledger.holds(&bad) && stand.packs.read_at(bad.id.pack, bad.id.offset(), &mut octet).is_ok()
    );
    // One that is garbled is not guessed.
    std::fs::write(stand.dir.path().join("damaged"), b"[]").unwrap();
    let error = Ledger::open(stand.dir.path(), stand.packs.clone(), stand.journal.clone()).unwrap_err();
    assert!(format!("{error:#}").contains("damaged"), "{error:#}");
}

#[test]
fn nothing_is_written_beyond_the_reserve() {
    let stand = Stand::new("reserve");
    let free = stand.packs.space().unwrap().free_bytes;
    let packs = PackStore::open(&stand.dir.path().join("packs")).unwrap().with_reserve(free * 2);
    let ledger = Ledger::open(stand.dir.path(), Arc::new(packs), stand.journal.clone()).unwrap();
    let Claim::NoSpace(why) = ledger.claim(&block(1).id) else { panic!("there was room") };
    assert!(why.contains("are kept back") && why.contains("packs"), "{why}");
    assert_eq!(ledger.trouble(), None);
    ledger.note_trouble(why.clone());
    ledger.note_trouble(why.clone());
    let trouble = ledger.trouble().unwrap();
    assert!(trouble.starts_with("2 blocks") && trouble.contains(&why), "{trouble}");
}

#[test]
fn one_block_is_written_once_at_a_time_and_not_where_room_is_given_back() {
    let stand = Stand::new("claims");
    let id = block(3).id;
    assert_eq!(stand.ledger.claim(&id), Claim::Unknown);
    assert_eq!(stand.ledger.claim(&id), Claim::NoRoom);
    // What is being written is not taken away under it.
    stand.packs.write_at(id.pack, id.offset(), &[1; 10]).unwrap();
    assert_eq!(stand.free(&[], false), Freed::default());
    stand.ledger.gave_up(&id);
    assert_eq!(stand.ledger.claim(&id), Claim::Unknown);
    stand.ledger.gave_up(&id);
    assert!(stand.free(&[], false).bytes > 0);
    assert_eq!(stand.packs.list().unwrap(), []);
}
