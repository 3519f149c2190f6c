//! Every octet of a small export changed, one at a time, in its manifest, its data and its parity: it is refused or
//! named, and never taken for something else.

use std::sync::mpsc::channel;

use diodesync::id::{BlockNo, PackId};
use diodesync::journal::SledJournal;
use diodesync::link::{LinkKey, PairingSecret, ReceiverKey};
use diodesync::volume::{ExportSecret, Offer, Piece, parity_of};

use super::*;
use crate::publish::Ledger;
use crate::serve::testing::TempDir;

const EXPORT: ExportId = ExportId([5; 8]);

/// An index, a block, and a shard of parity.
struct Small {
    dir: TempDir,
    paired: Paired,
    ledger: Arc<Ledger>,
    packs: Arc<PackStore>,
    inbox: Inbox,
    manifest: Vec<u8>,
    slots: Vec<Vec<u8>>,
    block: NeededBlock,
    index: ObjectId,
}

impl Small {
    fn new(name: &str) -> Self {
        let dir = TempDir::in_memory(name);
        let link_key = LinkKey::from_seed(&[1; 32]);
        let (link, secret) = (diodesync::id::LinkId([7; 16]), PairingSecret([3; 32]));
        let keys = vec![ReceiverKey::from_seed(&[2; 32])];
        let paired = Paired { link, senders: vec![link_key.verifier()], secret, keys };

        let index_octets = b"this stands for an index".to_vec();
        let index = ObjectId::Index(Blake3::of(&index_octets).tag());
        let content: Vec<u8> = (0..1000).map(|n| (n * 7) as u8).collect();
        let id = BlockId { pack: PackId([9; 8]), block: BlockNo(0) };
        let block = NeededBlock { id, bytes: 1000, hash: Blake3::of(&content) };
        let layout = Layout::new(2, 50, 1 << 30).unwrap();
        let export_secret = ExportSecret([4; 32]);
        let slot_keys = SlotKeys::derive(&export_secret, EXPORT).unwrap();
        let mut slots = Vec::new();
        for (slot, (object, octets)) in
            [(index, index_octets), (ObjectId::Block(id), content)].iter().enumerate()
        {
            let piece = Piece::of(*object, octets.len() as u32).next().unwrap();
            let mut sealed = Vec::new();
            slot_keys.seal(slot as u32, &piece, octets, &mut sealed);
            slots.push(sealed);
        }
        let data = slots.clone();
        let parity = parity_of::<RepairError>(&layout, 0, |slot| Ok(data[slot as usize].clone())).unwrap();
        for (at, shard) in parity.iter().enumerate() {
            let mut sealed = Vec::new();
            slot_keys.seal_parity(layout.data_slots() + at as u32, shard, &mut sealed);
            slots.push(sealed);
        }
        let manifest =
            Manifest { link, export: EXPORT, made_s: 1, layout, offer: Offer::Plain(export_secret) };
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
        let ledger = Arc::new(Ledger::open(dir.path(), packs.clone(), journal).unwrap());
        let inbox = Inbox::open(dir.path()).unwrap();
        Self { manifest: manifest.encode(&link_key), slots, dir, paired, ledger, packs, inbox, block, index }
    }

    fn imports(&self) -> Imports {
        let sink = Sink {
            packs: self.packs.clone(),
            ledger: self.ledger.clone(),
            inbox: self.inbox.clone(),
            notices: channel().0,
            orders: Orders::default(),
        };
        Imports::new(self.dir.path(), Some(self.paired.clone()), sink)
    }

    /// Hands one slot over.
    fn take(&self, imports: &Imports, slot: usize, octets: &[u8]) -> Taken {
        let mut rest = octets;
        imports.take(EXPORT, slot as u32, |out| Ok(std::io::Read::read(&mut rest, out)?)).unwrap()
    }

    fn nothing_came(&self) -> bool {
        !self.ledger.holds(&self.block) && self.inbox.list().unwrap().is_empty()
    }
}

#[test]
fn of_the_manifest() {
    let small = Small::new("every-manifest");
    let imports = small.imports();
    for at in 0..small.manifest.len() * 8 {
        let mut changed = small.manifest.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let error = imports.begin(&changed).unwrap_err().to_string();
        assert!(!error.is_empty(), "octet {}", at / 8);
    }
    assert!(!small.dir.path().join("import").exists(), "something was begun");
    imports.begin(&small.manifest).unwrap();
}

#[test]
fn of_the_slots() {
    let small = Small::new("every-slot");
    let imports = small.imports();
    imports.begin(&small.manifest).unwrap();
    let mut cases = 0;
    for (slot, octets) in small.slots.iter().enumerate() {
        let mut changed = octets.clone();
        for at in 0..octets.len() {
            changed[at] ^= 1 << (at % 8);
            let taken = small.take(&imports, slot, &changed);
            changed[at] ^= 1 << (at % 8);
            assert_eq!((taken.new, &taken.damaged[..]), (0, &[slot as u32][..]), "slot {slot}, octet {at}");
            cases += 1;
        }
    }
    assert!(small.nothing_came());
    println!("{cases} changed octets, each named");
    // One slot is damaged for good: parity makes up for it, and what comes of it is what was exported.
    let mut damaged = small.slots[1].clone();
    damaged[100] ^= 1;
    for (slot, octets) in [(0, &small.slots[0]), (1, &damaged), (2, &small.slots[2])] {
        small.take(&imports, slot, octets);
    }
    assert!(!small.ledger.holds(&small.block));
    let summary = imports.finish(EXPORT).unwrap();
    assert_eq!((summary.repaired, summary.missing_slots), (1, 0), "{summary:?}");
    assert!(small.ledger.holds(&small.block));
    assert_eq!(small.inbox.list().unwrap(), [small.index]);
    // Another of its media says nothing new, and is no failure.
    let imports = small.imports();
    imports.begin(&small.manifest).unwrap();
    small.take(&imports, 2, &small.slots[2]);
    assert!(imports.finish(EXPORT).unwrap().was_whole);
}

/// A slot in another's place, of another length, or twice.
#[test]
fn of_their_places() {
    let small = Small::new("every-place");
    let imports = small.imports();
    imports.begin(&small.manifest).unwrap();
    for slot in 0..3 {
        for other in (0..3).filter(|other| *other != slot) {
            let taken = small.take(&imports, slot, &small.slots[other]);
            assert!(taken.damaged.contains(&(slot as u32)), "{other} in the place of {slot}: {taken:?}");
        }
        for length in [1, 100, small.slots[slot].len() - 1] {
            let taken = small.take(&imports, slot, &small.slots[slot][..length]);
            assert_eq!(taken.damaged, [slot as u32], "{length} octets");
        }
    }
    assert!(small.nothing_came());
    assert_eq!(small.take(&imports, 1, &small.slots[1]).new, 1);
    assert_eq!(small.take(&imports, 1, &small.slots[1]).new, 0);
}
