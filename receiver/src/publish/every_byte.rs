//! Every octet of a small release changed, one at a time, in every place where someone could: on the wire by who holds
//! the link's key, in quarantine, among the facts, in a pack. It is never published, and something says so.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use diodesync::audit::Side;
use diodesync::id::{Blake3, ObjectTag, PackId};
use diodesync::pack::fact;
use diodesync::release::provider::key_ids;
use diodesync::trust::{Release, Repository, RoleKey, RoleKeys};
use diodesync_control::audit::Place;

use super::arrival::place_of;
use super::*;
use crate::handover::Judge;
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
    audit: Audit,
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
        let root = keys.root(&RoleKey::from_seed(&[1; 32]), 1, diodesync_control::clock_s());
        let (bytes, sha256) = (index_octets.len() as u64, Sha256::of(&index_octets));
        let repository = Repository {
            version: NUMBER,
            timestamp_version: NUMBER,
            releases: BTreeMap::from([(
                Channel::main(),
                Release { number: ReleaseNo(NUMBER), bytes, sha256 },
            )]),
            link_keys: Vec::new(),
        };
        let trust_octets =
            repository.sign(&keys, vec![root.clone()], diodesync_control::clock_s(), 7).encode();
        let journal = Arc::new(SledJournal::open(&base.path().join("journal")).unwrap().0);
        let place = Place { dir: base.path().join("told"), side: Side::Receiver, key: "audit.key" };
        Self {
            audit: Audit::open(place, None).unwrap(),
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
        let ledger = Arc::new(Ledger::open(&self.dir(), self.packs.clone(), self.journal.clone())?);
        let inbox = Inbox::open(&self.dir())?;
        let apt = Arc::new(Signer::generate("gw", diodesync_control::clock_s())?);
        let site = SiteHandle::new(Arc::new(restore_site(&self.dir(), &self.packs, &apt)?));
        let (notices, from_lane) = channel();
        let (to_lane, from_publisher) = channel();
        let orders = Orders::default();
        orders.join(to_lane, Vec::new);
        let input = PublishInput {
            dir: self.dir(),
            skew_max: Duration::from_secs(300),
            root: self.root.clone(),
            packs: self.packs.clone(),
            ledger: ledger.clone(),
            journal: self.journal.clone(),
            inbox: inbox.clone(),
            notices: from_lane,
            orders,
            site,
            apt,
            gate: Gate {
                link: diodesync::id::LinkId([1; 16]),
                policy: diodesync::release::policy::Policy::open(),
                approvers: Vec::new(),
                quorum: BTreeMap::new(),
                scanner: None,
            },
            keep: BTreeMap::new(),
            is_served_elsewhere: false,
            has_mirrors: false,
            is_mirror_host: false,
            feeds: false,
            audit: self.audit.clone(),
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

/// The session of the golden vectors: who holds the link's keys seals with it whatever they like.
mod link {
    use diodesync::id::{LaneId, LinkId, SessionNo};
    use diodesync::link::{LinkKey, Paired, PairingSecret, ReceiverKey, Sealer};
    use diodesync::recv::{Intake, Intaken};
    use diodesync::wire::{Outer, SEALED_HEADER_BYTES, TAG_BYTES};

    const OFFER: &str = include_str!("../../../tests/vectors/session-2.hex");

    fn offer() -> Vec<u8> {
        let digits: String = OFFER.lines().filter(|line| !line.starts_with('#')).collect();
        let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(octet).collect()
    }

    /// Both ends, before the first sealed datagram.
    pub fn joined(now: std::time::Instant) -> (Intake, Sealer) {
        let paired = Paired {
            link: LinkId(*b"simulated link 1"),
            senders: vec![LinkKey::from_seed(&[1; 32]).verifier()],
            secret: PairingSecret([3; 32]),
            keys: vec![ReceiverKey::from_seed(&[2; 32])],
        };
        let mut octets = offer();
        let Ok(Outer::Session(session)) = Outer::parse(&mut octets) else { panic!("no session") };
        let lane: LaneId = "lane0".parse().unwrap();
        let (id, secret) = (session.id.clone(), paired.accept(&session, &lane, SessionNo(0)).unwrap());
        drop(session);
        let mut intake = Intake::new(lane, paired, None);
        match intake.handle_datagram(now, &mut offer()) {
            Ok(Intaken::NewSession(pending)) => intake.adopt(pending, 0),
            other => panic!("{other:?}"),
        }
        (intake, Sealer::new(secret, &id).unwrap())
    }

    pub fn seal(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; SEALED_HEADER_BYTES];
        datagram.extend_from_slice(plain);
        datagram.extend_from_slice(&[0; TAG_BYTES]);
        sealer.seal(&mut datagram).unwrap();
        datagram
    }
}

/// What a round sends of the release, before it is sealed, and how many octets of each mean something: the last symbol
/// of an object is filled up. No repair symbols, so that every datagram is needed.
fn datagrams(world: &World) -> Vec<(Vec<u8>, usize)> {
    use diodesync::fec::{Codec, Oti, RepairUse};
    use diodesync::id::{Esi, Sbn};
    use diodesync::wire::SymbolHeader;
    let pack = std::fs::read(world.pack()).unwrap();
    let block = world.index.blocks().next().unwrap();
    let tag = |octets: &[u8]| Blake3::of(octets).tag();
    let mut datagrams = Vec::new();
    for (object, octets, use_) in [
        (ObjectId::Trust(tag(&world.trust_octets)), &world.trust_octets, RepairUse::Control),
        (ObjectId::Index(tag(&world.index_octets)), &world.index_octets, RepairUse::Control),
        (ObjectId::Block(block.id), &pack, RepairUse::Data),
    ] {
        let oti = Oti::for_object(octets.len() as u32, 400, use_);
        let encoded = Codec::default().encode(oti, Sbn(0), octets.clone(), Vec::new());
        for esi in (0..oti.source_symbols(Sbn(0))).map(Esi) {
            let header = SymbolHeader { object, oti, sbn: Sbn(0), esi };
            let plain = [header.encode().as_slice(), encoded.symbol(esi)].concat();
            let fill = ((esi.0 as usize + 1) * oti.symbol_bytes()).saturating_sub(octets.len());
            let meant = plain.len() - fill;
            datagrams.push((plain, meant));
        }
    }
    datagrams
}

/// Has datagrams taken in as a lane does; says whether something did not decode to what it was named.
fn take_datagrams(world: &World, high: &mut High, plains: &[Vec<u8>]) -> (bool, u64) {
    use crate::lane::worker::{Outcome, Worker};
    use diodesync::recv::{Action, Assembled, Assembler, Collector, Intaken};
    let now = Instant::now();
    let (mut intake, mut sealer) = link::joined(now);
    let mut collector = Collector::new(8, []);
    let (mut assembler, mut is_mismatched) = (Assembler::default(), false);
    let mut worker = Worker::new(world.packs.clone(), high.ledger.clone());
    for plain in plains {
        if let Ok(Intaken::Symbol(header, symbol)) =
            intake.handle_datagram(now, &mut link::seal(&mut sealer, plain))
        {
            collector.handle_symbol(now, &header, symbol);
        }
        while let Some(action) = collector.poll_action() {
            let Action::Ready(key, block) = action else { continue };
            match worker.work(key, block) {
                Outcome::Held(id, _) => high.notices.send(Notice::Held(vec![id])).unwrap(),
                Outcome::Dropped(_, _, is_wrong) => is_mismatched |= is_wrong,
                Outcome::Exercised(_) => panic!("nobody probes"),
                Outcome::Piece(key, octets) => {
                    match assembler.handle_block(key.object, key.oti, key.sbn, octets) {
                        Assembled::Whole(whole) => high.inbox.put(key.object, &whole).unwrap(),
                        Assembled::Forgotten(..) => is_mismatched = true,
                        Assembled::Waiting => {}
                    }
                }
            }
        }
        high.judge();
    }
    high.settle();
    (is_mismatched, intake.stats().malformed)
}

#[test]
fn of_every_datagram_past_the_seal() {
    let world = World::new("every-datagram");
    let (good, meant): (Vec<_>, Vec<_>) = datagrams(&world).into_iter().unzip();
    let pack = std::fs::read(world.pack()).unwrap();
    let afresh = || {
        let _ = std::fs::remove_dir_all(world.dir());
        std::fs::write(world.pack(), b"").unwrap();
        world.start().unwrap()
    };
    let (mut cases, mut counts) = (0, BTreeMap::<&str, usize>::new());
    for (number, datagram) in good.iter().enumerate() {
        for at in 0..datagram.len() {
            let mut plains = good.clone();
            plains[number][at] ^= 1 << (at % 8);
            let mut high = afresh();
            let (is_mismatched, malformed) = take_datagrams(&world, &mut high, &plains);
            let view = high.view();
            let named = match () {
                () if high.published() => {
                    assert!(at >= meant[number], "datagram {number}, octet {at} is published");
                    assert_eq!(std::fs::read(world.pack()).unwrap(), pack, "datagram {number}, octet {at}");
                    assert_eq!(*high.publisher.input.site.load().releases()[0], world.index);
                    world.forget();
                    "fill: what was signed is published"
                }
                () if view.refused.is_some() => "refused",
                () if is_mismatched => "not what it is named: counted and logged",
                () if malformed > 0 => "malformed: counted",
                () if !view.unnamed.is_empty() => "an index that no metadata names",
                () if view.arrivals.iter().any(|arrival| arrival.blocks.1 < arrival.blocks.0) => {
                    "a block lacks"
                }
                () if !high.publisher.targets.is_empty() => "its index never came",
                () => panic!("datagram {number}, octet {at}: nothing says that it was changed"),
            };
            *counts.entry(named).or_default() += 1;
            cases += 1;
        }
    }
    println!("{cases} changed octets of {} datagrams: {counts:?}", good.len());
    let mut high = afresh();
    take_datagrams(&world, &mut high, &good);
    assert!(high.published(), "the true ones are published");
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

/// A kill between the metadata and the index that it names; what came over no lane is told to nobody again.
#[test]
fn what_lies_in_the_inbox_is_judged_at_the_start() {
    let world = World::new("inbox-at-start");
    let mut high = world.start().unwrap();
    high.take(ObjectId::Trust, &world.trust_octets);
    high.inbox.put(ObjectId::Index(Blake3::of(&world.index_octets).tag()), &world.index_octets).unwrap();
    drop(high);
    let mut high = world.start().unwrap();
    high.publisher.turn().unwrap();
    assert_eq!(high.publisher.newest(&Channel::main()), Some(ReleaseNo(NUMBER)));
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
    let rows = world.index.blobs.iter().map(|(digest, blob)| {
        let record = CheckedBlob { place: place_of(&world.index, blob) };
        (Key::Checked(*digest).encode(), Some(record.to_value().unwrap()))
    });
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

/// What the disk changes after publication is served as it is, under the digest that it had, until `verify` looks: it
/// names the block, which is served no more until it came again.
#[test]
fn of_a_pack_after_publication() {
    let world = World::new("every-published");
    stopped_before_publication(&world);
    let mut high = world.start().unwrap();
    high.settle();
    assert!(high.published());
    let block = world.index.blocks().next().unwrap();
    let verify = |high: &High| {
        crate::verify::verify(&world.dir(), &world.packs, &high.ledger, &high.notices, |_, _| {}).unwrap()
    };
    let read = |high: &High, digest: &Sha256| high.publisher.input.site.load().read_whole(digest, 1 << 20);
    let octets = std::fs::read(world.pack()).unwrap();
    for at in 0..octets.len() {
        let mut changed = octets.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(world.pack(), changed).unwrap();
        let report = verify(&high);
        let named: Vec<_> =
            report.damaged_blocks.iter().map(|damaged| (damaged.pack, damaged.first)).collect();
        assert_eq!(named, [(block.id.pack, block.id.block.0)], "octet {at}");
        high.judge();
        for digest in world.index.blobs.keys() {
            assert!(read(&high, digest).is_err(), "octet {at}: it is served");
        }
        // It comes again.
        std::fs::write(world.pack(), &octets).unwrap();
        high.hold(&world.index);
        assert!(verify(&high).is_clean(), "octet {at}");
        for digest in world.index.blobs.keys() {
            assert_eq!(Sha256::of(&read(&high, digest).unwrap()), *digest);
        }
    }
    println!("{} octets changed after publication, each named by verify", octets.len());
}
