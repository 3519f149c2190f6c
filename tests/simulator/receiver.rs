//! The high side: the pure `recv` driven as the daemon drives it, and the disk that outlives a restart.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use diodesync::fec::{Block, Codec, Collecting, Decoded, Verified};
use diodesync::id::{Blake3, BlockId, Esi, Sbn, SessionNo, Sha256};
use diodesync::recv::{
    Action, Assembled, Assembler, BlockKey, Collector, CollectorStats, Intake, Intaken, Reject,
};
use diodesync::release::Index;
use diodesync::trust::{Bundle, TrustState, target_name, verify};
use diodesync::wire::ObjectId;

use crate::model::Verdict;
use crate::sender::{NOW_S, Source};
use crate::world::{lane, paired};

/// What a restart does not take away.
#[derive(Default)]
pub struct Disk {
    pub newest: Option<SessionNo>,
    pub recorded: Option<(SessionNo, u64)>,
    pub spilled: BTreeMap<BlockKey, Vec<(Esi, Vec<u8>)>>,
    /// Blocks that came before their index.
    unclaimed: BTreeMap<BlockId, Block<Decoded>>,
    pub verified: BTreeMap<BlockId, Block<Verified>>,
    pub objects: BTreeMap<ObjectId, Vec<u8>>,
}

/// One run of the receiver.
pub struct High<'a> {
    source: &'a Source,
    capacity: usize,
    intake: Intake,
    collector: Collector,
    assembler: Assembler,
    codec: Codec,
    needed: HashMap<BlockId, Blake3>,
    pub disk: Disk,
    /// Source blocks that were ready since somebody looked.
    ready: Vec<BlockKey>,
    loads: u64,
}

impl<'a> High<'a> {
    pub fn start(source: &'a Source, capacity: usize, disk: Disk) -> Self {
        let mut collector = Collector::new(capacity, disk.spilled.keys().copied());
        let blocks = disk.verified.keys().chain(disk.unclaimed.keys());
        blocks.for_each(|id| collector.mark_done(ObjectId::Block(*id), Sbn(0)));
        for (object, octets) in &disk.objects {
            let source_blocks = octets.len().div_ceil(diodesync::limits::BLOCK_BYTES) as u32;
            (0..source_blocks).for_each(|sbn| collector.mark_done(*object, Sbn(sbn)));
        }
        let mut high = Self {
            source,
            capacity,
            intake: Intake::new(lane(), paired(), disk.newest),
            collector,
            assembler: Assembler::default(),
            codec: Codec::default(),
            needed: HashMap::new(),
            disk,
            ready: Vec::new(),
            loads: 0,
        };
        high.judge_release();
        high
    }

    /// Ends the run; the disk stays. A clean stop writes down what is in memory.
    pub fn stop(mut self, now: Instant, is_clean: bool) -> Disk {
        if is_clean {
            self.act(now);
            self.collector.handle_stop();
            self.act(now);
            assert_eq!(self.collector.collecting(), 0);
            self.record();
        }
        self.disk
    }

    pub fn record(&mut self) {
        self.disk.recorded = self.intake.position().or(self.disk.recorded);
    }

    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Blocks that came back from the disk.
    pub fn loads(&self) -> u64 {
        self.loads
    }

    pub fn collector_stats(&self) -> CollectorStats {
        self.collector.stats()
    }

    pub fn spill_idle(&mut self, now: Instant, idle: Duration) {
        self.collector.handle_timeout(now, idle);
        self.check_memory();
    }

    /// Takes a datagram and says what became of it.
    pub fn handle(&mut self, now: Instant, octets: &[u8]) -> Verdict {
        let mut copy = octets.to_vec();
        let verdict = match self.intake.handle_datagram(now, &mut copy) {
            Ok(Intaken::NewSession(pending)) => {
                let number = pending.number;
                self.disk.newest = Some(number);
                let floor = self.disk.recorded.filter(|(recorded, _)| *recorded == number);
                self.intake.adopt(pending, floor.map_or(0, |(_, floor)| floor));
                Verdict::NewSession(number)
            }
            Ok(Intaken::SameSession) => Verdict::SameSession,
            Ok(Intaken::Symbol(header, symbol)) => {
                self.collector.handle_symbol(now, &header, symbol);
                Verdict::Symbol(header)
            }
            Ok(Intaken::Beacon(_)) => Verdict::Beacon,
            Ok(Intaken::OldBeacon) => Verdict::OldBeacon,
            Ok(Intaken::Probe(probe)) => panic!("nobody has sent {probe:?}"),
            Err(Reject::Open(diodesync::link::OpenError::Replay(_))) => Verdict::Replayed,
            Err(_) => Verdict::Refused,
        };
        self.check_memory();
        verdict
    }

    fn check_memory(&self) {
        assert!(self.collector.collecting() <= self.capacity, "{:?}", self.collector);
    }

    /// Does what the collector wants done; returns what became ready.
    pub fn act(&mut self, now: Instant) -> Vec<BlockKey> {
        let mut actions = 0;
        while let Some(action) = self.collector.poll_action() {
            actions += 1;
            assert!(actions < 100_000, "the collector spills and loads without end");
            match action {
                Action::Ready(key, block) => self.decode(key, block),
                Action::Spill(key, block) => {
                    let symbols: Vec<_> =
                        block.symbols().map(|(esi, symbol)| (esi, symbol.to_vec())).collect();
                    assert!(self.disk.spilled.insert(key, symbols).is_none(), "spilled twice: {key:?}");
                }
                Action::Load(key) => {
                    self.loads += 1;
                    let symbols = self.disk.spilled.remove(&key).expect("loaded what was not spilled");
                    let symbols = symbols.iter().map(|(esi, symbol)| (*esi, symbol.as_slice()));
                    self.collector.restore(now, key, symbols);
                }
            }
            self.check_memory();
        }
        std::mem::take(&mut self.ready)
    }

    fn decode(&mut self, key: BlockKey, block: Block<Collecting>) {
        self.ready.push(key);
        self.disk.spilled.retain(|other, _| (other.object, other.sbn) != (key.object, key.sbn));
        let decoded = block.decode(&mut self.codec).expect("ready and not decodable");
        assert!(decoded.bytes() == self.source.source_block(&key), "decoded to something else: {key:?}");
        self.collector.mark_done(key.object, key.sbn);
        match key.object {
            ObjectId::Block(id) => match self.needed.get(&id) {
                Some(hash) => self.verify(id, decoded, *hash),
                None => {
                    self.disk.unclaimed.insert(id, decoded);
                }
            },
            control => match self.assembler.handle_block(control, key.oti, key.sbn, decoded.bytes().to_vec())
            {
                Assembled::Waiting => {}
                Assembled::Whole(octets) => {
                    self.disk.objects.insert(control, octets);
                    self.judge_release();
                }
                Assembled::Forgotten(object, source_blocks) => {
                    assert!(object != control, "a control object is spoiled");
                    (0..source_blocks).for_each(|sbn| self.collector.mark_missing(object, Sbn(sbn)));
                }
            },
        }
    }

    fn verify(&mut self, id: BlockId, decoded: Block<Decoded>, hash: Blake3) {
        let verified = decoded.verify(hash).expect("a wrong block");
        assert!(verified.bytes() == self.source.blocks[&id], "verified something else: {id}");
        assert!(self.disk.verified.insert(id, verified).is_none(), "verified twice: {id}");
    }

    /// Once trust and index are there, blocks can be judged.
    fn judge_release(&mut self) {
        let plan = &self.source.plan;
        let trust = self.disk.objects.get(&ObjectId::Trust(plan.trust.0));
        let index = self.disk.objects.get(&ObjectId::Index(plan.index.0));
        let (Some(trust), Some(index)) = (trust, index) else { return };
        let bundle = Bundle::parse(trust).unwrap();
        let state = TrustState::from_root(&self.source.root).unwrap();
        let (_, targets) = verify(&state, &bundle, NOW_S).unwrap();
        assert_eq!(targets[&target_name(&plan.channel, plan.number)].sha256, Sha256::of(index));
        let index = Index::parse(index).unwrap();
        assert!(index == self.source.index);
        self.needed = index.blocks().map(|block| (block.id, block.hash)).collect();
        for (id, decoded) in std::mem::take(&mut self.disk.unclaimed) {
            let hash = self.needed[&id];
            self.verify(id, decoded, hash);
        }
    }

    /// Blocks of the release that are not there.
    pub fn missing(&self) -> Vec<BlockId> {
        self.source.blocks.keys().filter(|id| !self.disk.verified.contains_key(id)).copied().collect()
    }
}
