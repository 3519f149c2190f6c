//! The low side: a real release, and the pure `send` driven as the daemon drives it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use diodesync::buffer::Buffer;
use diodesync::fec::{Codec, Window};
use diodesync::id::{Blake3, BlockId, BlockNo, Channel, Esi, PackId, ReleaseNo, SessionNo, Sha256};
use diodesync::limits::BLOCK_BYTES;
use diodesync::link::{Opener, Sealer};
use diodesync::recv::BlockKey;
use diodesync::release::delta::blocks_to_send;
use diodesync::release::{Artifact, ArtifactKind, ArtifactName, Blob, Extent, Index, PackRun};
use diodesync::send::{
    LaneSet, LaneSlot, Pacer, ReleasePlan, RoundSettings, Rounds, RunId, Transmitter, Upcoming, Via,
};
use diodesync::trust::{Release, Repository, RoleKey, RoleKeys};
use diodesync::wire::{Beacon, BeaconChannel, ObjectId, Outer, SymbolHeader};

use crate::scenario::Scenario;
use crate::world::{Rng, offer, session_id};

/// The second at which releases of these tests are cut and judged.
pub const NOW_S: u64 = 1_795_000_000;

/// What a datagram is, as the one who made it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    Session(SessionNo),
    Symbol {
        session: SessionNo,
        sequence: u64,
        header: SymbolHeader,
    },
    Beacon {
        session: SessionNo,
        sequence: u64,
    },
    /// Made by somebody else.
    Lie,
}

#[derive(Debug, Clone)]
pub struct Sent {
    pub octets: Vec<u8>,
    pub truth: Truth,
}

/// A release with all that its blocks hold.
pub struct Source {
    pub blocks: BTreeMap<BlockId, Vec<u8>>,
    pub index: Index,
    pub plan: ReleasePlan,
    pub root: Vec<u8>,
    /// Index and trust bundle, by what the wire calls them.
    pub objects: HashMap<ObjectId, Vec<u8>>,
}

impl Source {
    pub fn new(scenario: &Scenario) -> Self {
        let rng = &mut Rng::new(scenario.seed, "source");
        let pack = PackId(rng.number().to_be_bytes());
        let blocks: BTreeMap<BlockId, Vec<u8>> = (0u32..)
            .zip(&scenario.blocks)
            .map(|(at, bytes)| (BlockId { pack, block: BlockNo(at) }, rng.octets(*bytes as usize)))
            .collect();
        let baseline = small_blocks(rng, scenario.baseline_blocks);
        let of_baseline = index(&baseline, ReleaseNo(1), None);
        let everything: BTreeMap<BlockId, Vec<u8>> =
            baseline.iter().chain(&blocks).map(|(id, octets)| (*id, octets.clone())).collect();
        let index = index(&everything, ReleaseNo(2), Some(ReleaseNo(1)));
        let octets = index.encode();
        assert_eq!(Index::parse(&octets).as_ref(), Ok(&index));

        let (root, trust) = trust(&octets);
        let name = |octets: &[u8]| (Blake3::of(octets).tag(), octets.len() as u32);
        let plan = ReleasePlan {
            channel: Channel::main(),
            number: index.number,
            trust: name(&trust),
            index: name(&octets),
            blocks: blocks_to_send(&index, Some(&of_baseline)),
        };
        assert!(plan.blocks.iter().map(|block| block.id).eq(blocks.keys().copied()));
        let objects = [(ObjectId::Index(plan.index.0), octets), (ObjectId::Trust(plan.trust.0), trust)];
        Self { blocks, index, plan, root, objects: objects.into() }
    }

    /// The octets of one source block.
    pub fn source_block(&self, key: &BlockKey) -> &[u8] {
        let object = match &key.object {
            ObjectId::Block(id) => &self.blocks[id],
            control => &self.objects[control],
        };
        let start = key.sbn.0 as usize * BLOCK_BYTES;
        &object[start..start + key.oti.block_bytes(key.sbn)]
    }
}

/// Blocks of a few octets in packs of their own.
fn small_blocks(rng: &mut Rng, count: u32) -> BTreeMap<BlockId, Vec<u8>> {
    let id =
        |at: u32| BlockId { pack: PackId(u64::from(at / 2000).to_be_bytes()), block: BlockNo(at % 2000) };
    (0..count).map(|at| (id(at), rng.octets(8))).collect()
}

/// One file for each block; each block is a run of its own, because only the last block of a run may be short.
fn index(blocks: &BTreeMap<BlockId, Vec<u8>>, number: ReleaseNo, baseline: Option<ReleaseNo>) -> Index {
    let mut packs: BTreeMap<PackId, Vec<PackRun>> = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    let mut artifacts = BTreeMap::new();
    for (id, octets) in blocks {
        let bytes = octets.len() as u64;
        let run = PackRun { first: id.block, last_bytes: bytes as u32, hashes: vec![Blake3::of(octets)] };
        packs.entry(id.pack).or_default().push(run);
        let extents = vec![Extent { pack: id.pack, offset: id.offset(), bytes }];
        let blob = Sha256::of(octets);
        blobs.insert(blob, Blob { bytes, extents });
        let path = format!("{}/{}", id.pack, id.block).parse().unwrap();
        let file =
            Artifact { name: ArtifactName::File(path), kind: ArtifactKind::File { blob, executable: false } };
        artifacts.insert(file.name, file.kind);
    }
    Index { channel: Channel::main(), number, created_s: NOW_S, baseline, packs, blobs, artifacts }
}

fn trust(index: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let key = |n: u8| RoleKey::from_seed(&[n; 32]);
    let keys = RoleKeys { targets: key(2), timestamp: key(3) };
    let root = keys.root(&key(1), 1, NOW_S);
    let release = Release { number: ReleaseNo(2), bytes: index.len() as u64, sha256: Sha256::of(index) };
    let releases = [(Channel::main(), release)].into();
    let repository = Repository { version: 1, timestamp_version: 1, releases, link_keys: Vec::new() };
    let bundle = repository.sign(&keys, vec![root.clone()], NOW_S, 7);
    (root, bundle.encode())
}

/// What the sender does next.
pub enum Next {
    Datagram(Sent),
    Sleep(Instant),
    Done,
}

/// One run of the sender.
pub struct Low<'a> {
    source: &'a Source,
    rounds: Rounds,
    via: Via,
    transmitter: Transmitter,
    pacer: Pacer,
    codec: Codec,
    number: SessionNo,
    /// Opens what was just sealed: the truth about it.
    witness: Opener,
    buffers: Vec<(Buffer, Vec<u8>)>,
    epoch: Instant,
}

impl<'a> Low<'a> {
    pub fn start(
        source: &'a Source,
        plan: ReleasePlan,
        scenario: &Scenario,
        number: SessionNo,
        (round, position): (u8, usize),
        now: Instant,
    ) -> Self {
        let (secret, session) = offer(&mut Rng::new(number.0, "session"), number);
        let settings = RoundSettings { rounds: scenario.rounds, round_gap: scenario.round_gap };
        let via = Via {
            slot: LaneSlot(0),
            symbol_bytes: scenario.symbol_bytes,
            repair_percent: scenario.repair_percent,
        };
        let sealer = Sealer::new(secret.clone(), &session_id(number)).unwrap();
        Self {
            source,
            rounds: Rounds::new(RunId(1), plan, settings, round, position),
            via,
            transmitter: Transmitter::new(sealer, session, scenario.symbol_bytes, scenario.depth),
            pacer: Pacer::new(scenario.rate_bits_per_s),
            codec: Codec::default(),
            number,
            witness: Opener::new(secret, number, 0),
            buffers: Vec::new(),
            epoch: now,
        }
    }

    pub fn number(&self) -> SessionNo {
        self.number
    }

    pub fn position(&self) -> (u8, usize) {
        self.rounds.position()
    }

    /// The next datagram, or when to ask again.
    pub fn poll(&mut self, now: Instant) -> Next {
        let mut wake = None;
        let mut is_complete = false;
        while self.transmitter.interleaver().has_room() {
            match self.rounds.poll(now, &self.via, LaneSet::default().with(self.via.slot)) {
                Upcoming::Job(job) => {
                    let key = BlockKey { object: job.object, sbn: job.sbn, oti: job.oti };
                    let (mut octets, repair) = self.buffers.pop().unwrap_or_default();
                    let source = self.source.source_block(&key);
                    octets.resize(source.len());
                    octets.copy_from_slice(source);
                    let window = Window { start: job.window_start, symbols: job.window_symbols };
                    let block = self.codec.encode_window(job.oti, job.sbn, window, octets, repair);
                    self.transmitter.interleaver().push(job, block);
                }
                Upcoming::Drain => break,
                Upcoming::Wait(until) => {
                    wake = Some(until);
                    break;
                }
                Upcoming::Complete => {
                    is_complete = true;
                    break;
                }
            }
        }
        if is_complete && self.transmitter.interleaver().is_empty() {
            return Next::Done;
        }
        let wait = self.pacer.wait(now);
        if !wait.is_zero() {
            return Next::Sleep(now + wait);
        }
        let beacon = self.beacon(now);
        let mut octets = Vec::new();
        match self.transmitter.poll_transmit(now, || beacon, &mut octets).unwrap() {
            None => {
                let due = self.transmitter.poll_timeout();
                Next::Sleep(wake.into_iter().chain(due).min().unwrap())
            }
            Some(sent) => {
                assert_eq!(sent.bytes, octets.len());
                self.pacer.sent(now, octets.len() as u64);
                if let Some((job, block)) = sent.finished.0 {
                    self.rounds.finished(&job);
                    self.buffers.push(block.into_buffers());
                }
                let truth = self.truth(&octets);
                Next::Datagram(Sent { octets, truth })
            }
        }
    }

    fn truth(&mut self, octets: &[u8]) -> Truth {
        let mut copy = octets.to_vec();
        let session = self.number;
        match Outer::parse(&mut copy).unwrap() {
            Outer::Session(offer) => Truth::Session(offer.id.number),
            Outer::Sealed(sealed) => {
                let sequence = sealed.header.sequence;
                let plain = self.witness.open(sealed).unwrap();
                match SymbolHeader::parse(plain) {
                    Ok((header, symbol)) => {
                        self.check_symbol(&header, symbol);
                        Truth::Symbol { session, sequence, header }
                    }
                    Err(_) => {
                        Beacon::parse(plain).unwrap();
                        Truth::Beacon { session, sequence }
                    }
                }
            }
        }
    }

    /// A source symbol is a piece of the source, whoever cut it.
    fn check_symbol(&self, header: &SymbolHeader, symbol: &[u8]) {
        let SymbolHeader { object, oti, sbn, esi: Esi(esi) } = *header;
        assert_eq!(symbol.len(), oti.symbol_bytes());
        if esi < oti.source_symbols(sbn) {
            let block = self.source.source_block(&BlockKey { object, sbn, oti });
            let start = esi as usize * symbol.len();
            let piece = &block[start..block.len().min(start + symbol.len())];
            assert!(symbol.starts_with(piece) && symbol[piece.len()..].iter().all(|octet| *octet == 0));
        }
    }

    fn beacon(&self, now: Instant) -> Beacon {
        let since = now.saturating_duration_since(self.epoch);
        let (round, _) = self.rounds.position();
        let newest = BeaconChannel {
            channel: Channel::main(),
            newest: self.rounds.plan().number,
            rounds_done: round,
            rounds: self.rounds.rounds(),
        };
        Beacon {
            is_full: false,
            // This clock runs backwards: what is newer is not for it to say.
            clock_ms: NOW_S * 1000 - (since.min(Duration::from_secs(1_000_000))).as_millis() as u64,
            rate_bits_per_s: 0,
            queued_bytes: 0,
            timestamp: Vec::new(),
            channels: vec![newest],
        }
    }
}
