//! Every octet of a small release changed, one at a time, in every place where someone could: on the wire by who holds
//! the link's key, in quarantine, among the facts, in a pack. It is never published, and something says so.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use diodesync::id::{Blake3, ObjectTag, PackId};
use diodesync::pack::{Blobs, fact};
use diodesync::release::provider::key_ids;
use diodesync::trust::{Release, Repository, RoleKey, RoleKeys};

use super::*;
use crate::serve::testing::{Proof, Release as Making, TempDir};

const PACK: PackId = PackId([7; 8]);
/// Neither the first, so that a change can make it older, nor far from it.
const NUMBER: u64 = 3;

macro_rules! vector {
    ($path:literal) => {
        include_bytes!(concat!("../../../tests/vectors/", $path)).as_slice()
    };
}

/// What a sender has released: two files and a provider with its publisher's proof.
struct World {
    base: TempDir,
    packs: Arc<PackStore>,
    journal: Arc<SledJournal>,
    index: Index,
    index_octets: Vec<u8>,
    trust_octets: Vec<u8>,
    root: TrustState,
}

impl World {
    fn new(name: &str) -> Self {
        let base = TempDir::in_memory(name);
        let packs = Arc::new(PackStore::open(&base.path().join("packs")).unwrap());
        let mut release = Making::new("main", PACK.0[0]);
        release.file("a", b"the first file");
        release.file("docs/b", b"the second file");
        let key = vector!("openpgp/good-ed25519/key.asc");
        let key_id = key_ids(key).unwrap().remove(0);
        let proof = Proof {
            sums: vector!("openpgp/good-ed25519/SHA256SUMS"),
            signature: vector!("openpgp/good-ed25519/SHA256SUMS.sig"),
            key_id: &key_id,
            key,
        };
        let archive = vector!("provider-zip/plain.zip");
        release.provider("registry.terraform.io/acme/demo", "1.0.0", archive, Some(proof));
        let index = Index { number: ReleaseNo(NUMBER), ..Index::clone(&release.publish(&packs)) };
        let index_octets = index.encode();
        let keys =
            RoleKeys { targets: RoleKey::from_seed(&[2; 32]), timestamp: RoleKey::from_seed(&[3; 32]) };
        let root = keys.root(&RoleKey::from_seed(&[1; 32]), 1, clock_s());
        let (bytes, sha256) = (index_octets.len() as u64, Sha256::of(&index_octets));
        let repository = Repository {
            version: NUMBER,
            timestamp_version: NUMBER,
            releases: BTreeMap::from([(
                Channel::main(),
                Release { number: ReleaseNo(NUMBER), bytes, sha256 },
            )]),
        };
        let trust_octets = repository.sign(&keys, vec![root.clone()], clock_s(), 7).encode();
        let journal = Arc::new(SledJournal::open(&base.path().join("journal")).unwrap().0);
        Self {
            packs,
            journal,
            index,
            index_octets,
            trust_octets,
            root: TrustState::from_root(&root).unwrap(),
            base,
        }
    }

    /// The receiver's folder.
    fn dir(&self) -> PathBuf {
        self.base.path().join("high")
    }

    /// A receiver as it starts in this folder, with this journal.
    fn start(&self) -> anyhow::Result<High> {
        let ledger = Arc::new(Ledger::open(self.packs.clone(), self.journal.clone())?);
        let inbox = Inbox::open(&self.dir())?;
        let site = SiteHandle::new(Arc::new(restore_site(&self.dir(), &self.packs)?));
        let (notices, from_lane) = channel();
        let (orders, from_publisher) = channel();
        let input = PublishInput {
            dir: self.dir(),
            root: self.root.clone(),
            packs: self.packs.clone(),
            ledger: ledger.clone(),
            journal: self.journal.clone(),
            inbox: inbox.clone(),
            notices: from_lane,
            orders,
            site,
        };
        let publisher = open(Arc::new(PublishShared::new()), input)?;
        Ok(High { publisher, ledger, inbox, notices, orders: from_publisher })
    }

    /// Takes back all that a receiver has recorded.
    fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.dir());
        for prefix in [Key::BLOCKS, Key::CHECKED] {
            let rows = self.journal.scan(prefix).unwrap().into_iter().map(|(key, _)| (key, None));
            self.journal.apply(rows.collect()).unwrap();
        }
    }

    fn pack(&self) -> PathBuf {
        self.packs.path(PACK)
    }
}

/// A receiver that does a turn when it is told to.
struct High {
    publisher: Publisher,
    ledger: Arc<Ledger>,
    inbox: Inbox,
    notices: Sender<Notice>,
    orders: Receiver<Order>,
}

impl High {
    /// Puts an object into the inbox under the name that its octets give it, as a lane does.
    fn take(&mut self, kind: fn(ObjectTag) -> ObjectId, octets: &[u8]) -> ObjectId {
        let object = kind(Blake3::of(octets).tag());
        self.inbox.put(object, octets).unwrap();
        self.judge();
        object
    }

    fn judge(&mut self) {
        self.notices.send(Notice::Object).unwrap();
        self.publisher.turn().unwrap();
    }

    /// Says that all blocks of the release are in their pack, as they are named.
    fn hold(&mut self, index: &Index) {
        index.blocks().for_each(|block| self.ledger.written(block.id, block.hash, block.bytes));
        self.notices.send(Notice::Held(index.blocks().map(|block| block.id).collect())).unwrap();
        self.publisher.turn().unwrap();
    }

    fn view(&self) -> View {
        self.publisher.shared.view()
    }

    fn published(&self) -> bool {
        !self.view().published.is_empty() || !self.publisher.input.site.load().releases().is_empty()
    }

    fn refused(&self) -> String {
        self.view().refused.unwrap_or_default()
    }

    /// Goes on until nothing is left to look at.
    fn settle(&mut self) {
        while {
            self.judge();
            !self.publisher.to_rescan.is_empty() || self.publisher.arrivals.values().any(Arrival::has_work)
        } {}
        self.judge();
    }
}

/// Every octet with each of its bits changed, in turn.
fn changes(octets: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..octets.len() * 8).map(|at| {
        let mut changed = octets.to_vec();
        changed[at / 8] ^= 1 << (at % 8);
        (at / 8, changed)
    })
}

/// Every octet of a file changed on the disk, in turn; the file is put back after each.
fn each_octet(path: &Path, mut look: impl FnMut(usize)) -> usize {
    let octets = std::fs::read(path).unwrap();
    for at in 0..octets.len() {
        let mut changed = octets.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(path, changed).unwrap();
        look(at);
        std::fs::write(path, &octets).unwrap();
    }
    octets.len()
}

#[test]
fn of_the_trust_bundle_on_the_wire() {
    let world = World::new("every-trust");
    let mut high = world.start().unwrap();
    high.hold(&world.index);
    high.take(ObjectId::Index, &world.index_octets);
    let mut cases = 0;
    for (at, changed) in changes(&world.trust_octets) {
        let object = high.take(ObjectId::Trust, &changed);
        assert!(!high.published(), "octet {at}");
        let why = high.refused();
        assert!(why.starts_with(&object.to_string()), "octet {at}: {why:?}");
        high.publisher.set_refused(None);
        cases += 1;
    }
    println!("{cases} changed trust bundles, none accepted");
    high.take(ObjectId::Trust, &world.trust_octets);
    high.settle();
    assert!(high.published(), "the true one is published: {}", high.refused());
}

#[test]
fn of_the_index_on_the_wire() {
    let world = World::new("every-index");
    let mut high = world.start().unwrap();
    high.hold(&world.index);
    high.take(ObjectId::Trust, &world.trust_octets);
    let (mut cases, mut older) = (0, 0);
    for (at, changed) in changes(&world.index_octets) {
        let object = high.take(ObjectId::Index, &changed);
        assert!(!high.published() && high.view().arrivals.is_empty(), "octet {at}");
        if high.view().unnamed.iter().any(|(unnamed, _)| *unnamed == object) {
            high.inbox.remove(object).unwrap();
        } else {
            // It says that it is an older release: it is logged, and goes.
            assert!(Index::parse(&changed).unwrap().number < ReleaseNo(NUMBER), "octet {at} is not named");
            older += 1;
        }
        cases += 1;
    }
    println!("{cases} changed indexes, none accepted; {older} of them said that they were older");
    assert!(older <= 2);
    high.take(ObjectId::Index, &world.index_octets);
    high.settle();
    assert!(high.published(), "the true one is published: {}", high.refused());
}

#[test]
fn of_a_block_that_came_before_its_index() {
    let world = World::new("every-early");
    let needed: Vec<NeededBlock> = world.index.blocks().collect();
    assert_eq!(needed.len(), 1);
    let mut content = std::fs::read(world.pack()).unwrap();
    for at in 0..content.len() {
        world.forget();
        content[at] ^= 1 << (at % 8);
        std::fs::write(world.pack(), &content).unwrap();
        let mut high = world.start().unwrap();
        // The lane has kept it with its own digest, for nobody had named it yet.
        high.ledger.written(needed[0].id, Blake3::of(&content), needed[0].bytes);
        high.take(ObjectId::Trust, &world.trust_octets);
        high.take(ObjectId::Index, &world.index_octets);
        high.settle();
        assert!(!high.published(), "octet {at}");
        let ordered = high
            .orders
            .try_iter()
            .any(|order| matches!(order, Order::Missing(blocks) if blocks.contains(&needed[0].id)));
        assert!(ordered, "octet {at}: the lane is not told to collect it again");
        assert_eq!(high.view().arrivals[0].blocks, (1, 0), "octet {at}");
        content[at] ^= 1 << (at % 8);
    }
    println!("{} changed octets of a block, none accepted", content.len());
}

#[test]
fn of_the_inbox() {
    let world = World::new("every-inbox");
    let mut cases = 0;
    let tag = |octets: &[u8]| Blake3::of(octets).tag();
    for (object, octets) in [
        (ObjectId::Trust(tag(&world.trust_octets)), &world.trust_octets),
        (ObjectId::Index(tag(&world.index_octets)), &world.index_octets),
    ] {
        let mut high = world.start().unwrap();
        high.hold(&world.index);
        if let ObjectId::Index(_) = object {
            high.take(ObjectId::Trust, &world.trust_octets);
        }
        let file = [fact::head(octets).as_bytes(), octets.as_slice()].concat();
        for (at, changed) in changes(&file) {
            let path = high.inbox.file(object).unwrap();
            std::fs::write(&path, changed).unwrap();
            high.judge();
            assert!(!high.published() && !path.exists(), "{object}, octet {at}");
            assert!(high.refused().contains(&object.to_string()), "octet {at}: {:?}", high.refused());
            high.publisher.set_refused(None);
            cases += 1;
        }
    }
    println!("{cases} changed files of the inbox, none accepted");
}

/// Every block is journalled and every blob was checked, and then the power went.
fn stopped_before_publication(world: &World) {
    world.forget();
    let content = std::fs::read(world.pack()).unwrap();
    std::fs::write(world.pack(), vec![0; content.len()]).unwrap();
    let mut high = world.start().unwrap();
    high.take(ObjectId::Trust, &world.trust_octets);
    high.take(ObjectId::Index, &world.index_octets);
    std::fs::write(world.pack(), content).unwrap();
    high.ledger.rescan(&world.index.blocks().collect::<Vec<_>>());
    high.ledger.commit().unwrap();
    let checked = world.index.blobs.keys().map(|digest| Key::Checked(*digest).encode());
    let rows = checked.map(|key| (key, Some(().to_value().unwrap())));
    world.journal.apply(rows.collect()).unwrap();
    assert!(!high.published());
}

#[test]
fn of_a_pack_before_publication() {
    let world = World::new("every-quarantined");
    stopped_before_publication(&world);
    let block = world.index.blocks().next().unwrap();
    let cases = each_octet(&world.pack(), |at| {
        let mut high = world.start().unwrap();
        high.settle();
        assert!(!high.published(), "octet {at}");
        assert!(high.refused().contains(&format!("block {}", block.id)), "octet {at}: {:?}", high.refused());
        assert_eq!(high.view().arrivals[0].blocks, (1, 0), "octet {at}");
    });
    println!("{cases} changed octets of a pack, none published");
    let mut high = world.start().unwrap();
    high.settle();
    assert!(high.published(), "the true one is published: {}", high.refused());
}

#[test]
fn of_the_facts() {
    let world = World::new("every-fact");
    stopped_before_publication(&world);
    let named = |path: &Path, at: usize| {
        let Err(error) = world.start() else { panic!("{}, octet {at}: it starts", path.display()) };
        let text = format!("{error:#}");
        assert!(text.contains(&path.display().to_string()), "{text}");
    };
    let index = world.dir().join(format!("releases/main/{NUMBER}.index"));
    let mut cases = 0;
    for path in [world.dir().join("trust"), index.clone()] {
        cases += each_octet(&path, |at| named(&path, at));
    }
    let mut high = world.start().unwrap();
    high.settle();
    assert!(high.published());
    for path in [world.dir().join("trust"), index, world.dir().join("published/main")] {
        cases += each_octet(&path, |at| named(&path, at));
    }
    println!("{cases} changed octets of facts, none started with");
}

/// The promise ends at publication: what the disk changes afterwards is served as it is, under the digest that it had,
/// until `verify` looks.
#[test]
fn of_a_pack_after_publication_is_for_verify() {
    let world = World::new("every-published");
    stopped_before_publication(&world);
    let mut high = world.start().unwrap();
    high.settle();
    assert!(high.published());
    drop(high);
    let mut served = 0;
    let cases = each_octet(&world.pack(), |_| {
        let wrong = world.index.blobs.iter().filter(|(digest, blob)| {
            let content = world.packs.whole_blob(blob, 1 << 20).unwrap().unwrap();
            Sha256::of(&content) != **digest
        });
        served += wrong.count();
    });
    println!("{cases} octets changed after publication, {served} of them octets of a blob");
    assert!(served > 0 && served <= cases);
}
