//! `cargo bench`: what each part of the link costs on one core, next to memcpy in the same run.
//!
//! Each line is the median of the turns of at least [`SPENT`]: most turns are short enough that other work on the machine
//! interrupts only a few. The data is one block, so it is in the second-level cache, as it is in the daemons, where one
//! part follows the other. `cargo bench -- decode` runs what has that word in its name. Without `--bench` (as
//! `cargo test --benches` does) everything runs once, to see that it works.

#![allow(missing_docs)]
// A benchmark owns a clock.
#![allow(clippy::disallowed_methods)]

#[path = "../simulator/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use diodesync::buffer::Buffer;
use diodesync::fec::{Block, Codec, Collecting, EncodedBlock, Oti, Repair, Window, repair_window};
use diodesync::id::{Blake3, BlockNo, Channel, Esi, PackId, ReleaseNo, Sbn, SessionNo, Sha256};
use diodesync::limits::{BLOCK_BYTES, PACK_BLOCKS_MAX};
use diodesync::link::{Opener, Sealer};
use diodesync::release::index::{ArtifactKind, Blob, Extent, Index, PackRun};
use diodesync::release::name::ArtifactName;
use diodesync::wire::{Outer, symbol_bytes_for_mtu};
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, RateDecoder};
use world::Rng;

/// The least time spent on each part.
const SPENT: Duration = Duration::from_millis(400);
/// The least number of turns.
const TURNS: usize = 7;

struct Bench {
    filter: Option<String>,
    is_measuring: bool,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter))
    }

    /// Runs `turn` again and again; it returns how long it took without its preparations.
    fn time(&self, mut turn: impl FnMut() -> Duration) -> Duration {
        if !self.is_measuring {
            return turn();
        }
        turn();
        let (mut spent, mut turns) = (Duration::ZERO, Vec::new());
        while spent < SPENT || turns.len() < TURNS {
            let time = turn();
            spent += time;
            turns.push(time);
        }
        turns.sort();
        turns[turns.len() / 2]
    }

    /// A part that works through `bytes` octets in a turn.
    fn bytes(&self, name: &str, bytes: usize, turn: impl FnMut() -> Duration) {
        if self.wants(name) {
            let time = self.time(turn);
            println!(
                "{name:<46} {:>8.2} GB/s {:>12.1} µs",
                bytes as f64 / time.as_nanos() as f64,
                micros(time)
            );
        }
    }

    /// A part that does `count` things in a turn.
    fn each(&self, name: &str, count: u32, turn: impl FnMut() -> Duration) {
        if self.wants(name) {
            let time = self.time(turn);
            let each = time.as_nanos() as f64 / f64::from(count);
            println!("{name:<46} {each:>8.0} ns   {:>12.1} µs", micros(time));
        }
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = black_box(work());
    (start.elapsed(), result)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_measuring = arguments.iter().any(|argument| argument == "--bench");
    let filter = arguments.into_iter().find(|argument| !argument.starts_with("--"));
    let bench = Bench { filter, is_measuring };
    println!("{:<46} {:>13} {:>15}", "part", "median", "a turn");
    let block = Rng::new(1, "block").octets(BLOCK_BYTES);
    plain(&bench, &block);
    encode(&bench, &block);
    decode(&bench, &block);
    seal_and_open(&bench);
    index(&bench, "100,000 blobs", &index_of(100_000, 4096));
    index(&bench, "100,000 blocks", &index_of(1000, 100 * BLOCK_BYTES as u64));
}

/// The baseline and the hashes.
fn plain(bench: &Bench, block: &[u8]) {
    let mut copy = vec![0; BLOCK_BYTES];
    bench.bytes("memcpy of a block", BLOCK_BYTES, || {
        timed(|| black_box(&mut copy).copy_from_slice(black_box(block))).0
    });
    bench.bytes("BLAKE3 of a block", BLOCK_BYTES, || timed(|| Blake3::of(black_box(block))).0);
    bench.bytes("SHA-256 of a block", BLOCK_BYTES, || timed(|| Sha256::of(black_box(block))).0);
}

/// A block's transmission information on a lane of this MTU, with 2^`repair_log2` repair symbols.
fn oti(mtu: usize, repair_log2: u8) -> Oti {
    Oti::parse(BLOCK_BYTES as u32, symbol_bytes_for_mtu(mtu), repair_log2).expect("it is within bounds")
}

fn encode(bench: &Bench, block: &[u8]) {
    let mut codec = Codec::default();
    for (mtu, repair_log2) in [(1500, 6), (1500, 7), (1500, 8), (1500, 9), (9000, 5), (9000, 6)] {
        let oti = oti(mtu, repair_log2);
        let name = format!("encode, K {}, R {}", oti.source_symbols(Sbn(0)), oti.repair_symbols());
        let mut buffers = (Buffer::from(block), Vec::new());
        bench.bytes(&name, BLOCK_BYTES, || {
            let (mut source, repair) = std::mem::take(&mut buffers);
            source.resize(BLOCK_BYTES);
            let (time, encoded) = timed(|| codec.encode(oti, Sbn(0), source, repair));
            buffers = encoded.into_buffers();
            time
        });
        let symbols = repair_window(oti.source_symbols(Sbn(0)) as usize, 10) as u32;
        if symbols < oti.repair_symbols() {
            bench.bytes(&format!("{name}, a window of {symbols}"), BLOCK_BYTES, || {
                let (mut source, repair) = std::mem::take(&mut buffers);
                source.resize(BLOCK_BYTES);
                let window = Window { start: 0, symbols };
                let (time, encoded) = timed(|| codec.encode_window(oti, Sbn(0), window, source, repair));
                buffers = encoded.into_buffers();
                time
            });
        }
    }
}

/// Whether a source symbol is one of `lost`, which are spread over the block, as they come.
fn is_lost(oti: Oti, lost: u32, at: u32) -> bool {
    let k = u64::from(oti.source_symbols(Sbn(0)));
    (u64::from(at) * u64::from(lost)) % k < u64::from(lost)
}

/// Everything arrived but `lost` source symbols, and as many repair symbols instead.
fn collect(encoded: &EncodedBlock, lost: u32, buffer: Buffer) -> Block<Collecting> {
    let k = encoded.oti().source_symbols(Sbn(0));
    let mut collecting = Block::new(encoded.oti(), Sbn(0), buffer);
    let arrived = (0..k).filter(|at| !is_lost(encoded.oti(), lost, *at)).chain(k..k + lost);
    arrived.for_each(|esi| {
        collecting.add(Esi(esi), encoded.symbol(Esi(esi)));
    });
    collecting
}

fn decode(bench: &Bench, block: &[u8]) {
    let mut codec = Codec::default();
    for (mtu, repair_log2, losses) in
        [(1500, 8, [1, 4, 10, 20, 41, 80, 94, 256]), (9000, 6, [1, 2, 4, 6, 10, 20, 41, 64])]
    {
        let encoded = codec.encode(oti(mtu, repair_log2), Sbn(0), block.to_vec(), Vec::new());
        let k = encoded.oti().source_symbols(Sbn(0));
        let mut buffer = Buffer::default();
        bench.bytes(&format!("collect, K {k}, nothing lost"), BLOCK_BYTES, || {
            let (time, collecting) = timed(|| collect(&encoded, 0, std::mem::take(&mut buffer)));
            buffer = collecting.decode(&mut codec).expect("it is complete").into_bytes();
            time
        });
        for lost in [0].into_iter().chain(losses) {
            bench.bytes(&format!("decode with its BLAKE3, K {k}, {lost} lost"), BLOCK_BYTES, || {
                let collecting = collect(&encoded, lost, std::mem::take(&mut buffer));
                let (time, decoded) = timed(|| collecting.decode(&mut codec));
                let decoded = decoded.expect("it is complete");
                assert_eq!(decoded.hash(), Blake3::of(block));
                buffer = decoded.into_bytes();
                time
            });
        }
        for lost in losses {
            decode_alone(bench, &mut codec, &encoded, lost);
        }
    }
}

/// What decoding alone costs, next to the crate's decoder in the same run.
fn decode_alone(bench: &Bench, codec: &mut Codec, encoded: &EncodedBlock, lost: u32) {
    let oti = encoded.oti();
    let (k, size) = (oti.source_symbols(Sbn(0)), oti.symbol_bytes());
    let whole: Vec<u8> = (0..k).flat_map(|at| encoded.symbol(Esi(at)).to_vec()).collect();
    let esis: Vec<u32> = (k..k + lost).collect();
    let symbols: Vec<u8> = esis.iter().flat_map(|esi| encoded.symbol(Esi(*esi)).to_vec()).collect();
    let has: Vec<bool> = (0..k).map(|at| !is_lost(oti, lost, at)).collect();
    let mut source = whole.clone();
    bench.bytes(&format!("decode alone, K {k}, {lost} lost"), BLOCK_BYTES, || {
        let gone = source.chunks_mut(size).zip(&has).filter(|(_, has)| !**has);
        gone.for_each(|(symbol, _)| symbol.fill(0xaa));
        let repair = Repair { esis: &esis, symbols: &symbols };
        let (time, done) = timed(|| codec.restore(oti, Sbn(0), &mut source, |at| has[at], repair));
        done.expect("there are enough");
        assert_eq!(source, whole);
        time
    });
    let (count, repair_count) = (k as usize, oti.repair_symbols() as usize);
    let decoder = HighRateDecoder::new(count, repair_count, size, DefaultEngine::new(), None);
    let mut decoder = decoder.expect("it is within bounds");
    bench.bytes(&format!("decode alone in full, K {k}, {lost} lost"), BLOCK_BYTES, || {
        let run = || {
            decoder.reset(count, repair_count, size)?;
            for (at, symbol) in source.chunks(size).enumerate().filter(|(at, _)| has[*at]) {
                decoder.add_original_shard(at, symbol)?;
            }
            for (number, symbol) in symbols.chunks(size).enumerate() {
                decoder.add_recovery_shard(number, symbol)?;
            }
            for (at, symbol) in decoder.decode()?.restored_original_iter() {
                source[at * size..(at + 1) * size].copy_from_slice(symbol);
            }
            Ok::<_, reed_solomon_simd::Error>(())
        };
        let (time, done) = timed(run);
        done.expect("there are enough");
        assert_eq!(source, whole);
        time
    });
}

fn seal_and_open(bench: &Bench) {
    const COUNT: u32 = 512;
    for mtu in [1500, 9000] {
        let body = symbol_bytes_for_mtu(mtu) + diodesync::wire::SYMBOL_HEADER_BYTES;
        let number = SessionNo(1);
        let (secret, _) = world::offer(&mut Rng::new(1, "session"), number);
        let mut sealer = Sealer::new(secret.clone(), &world::session_id(number)).expect("a session begins");
        let plain = Rng::new(1, "datagram")
            .octets(body + diodesync::wire::SEALED_HEADER_BYTES + diodesync::wire::TAG_BYTES);
        let mut datagrams = vec![plain; COUNT as usize];
        let bytes = body * COUNT as usize;
        bench.bytes(&format!("seal, {body} octets"), bytes, || {
            timed(|| datagrams.iter_mut().for_each(|datagram| sealer.seal(datagram).expect("there is room")))
                .0
        });
        let (secret, _) = world::offer(&mut Rng::new(1, "session"), number);
        let mut sealer = Sealer::new(secret.clone(), &world::session_id(number)).expect("a session begins");
        datagrams.iter_mut().for_each(|datagram| sealer.seal(datagram).expect("there is room"));
        let open = |datagram: &mut Vec<u8>, opener: &mut Opener| match Outer::parse(datagram) {
            Ok(Outer::Sealed(sealed)) => opener.open(sealed).expect("it is authentic").len(),
            _ => unreachable!("it is sealed"),
        };
        bench.bytes(&format!("open, {body} octets"), bytes, || {
            let (mut copies, mut opener) = (datagrams.clone(), Opener::new(secret.clone(), number, 0));
            timed(|| copies.iter_mut().map(|datagram| open(datagram, &mut opener)).sum::<usize>()).0
        });
    }
}

/// A release of `count` blobs of `bytes` octets each, end to end.
fn index_of(count: u64, bytes: u64) -> Index {
    let pack_bytes = u64::from(PACK_BLOCKS_MAX) * BLOCK_BYTES as u64;
    let pack = |number: u64| PackId(number.to_be_bytes());
    let mut rng = Rng::new(count, "index");
    let mut digest = || {
        let mut digest = [0; 32];
        digest.copy_from_slice(&rng.octets(32));
        digest
    };
    let (mut blobs, mut artifacts) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..count {
        let (mut at, end) = (number * bytes, (number + 1) * bytes);
        let mut extents = Vec::new();
        while at < end {
            let stop = end.min((at / pack_bytes + 1) * pack_bytes);
            extents.push(Extent { pack: pack(at / pack_bytes), offset: at % pack_bytes, bytes: stop - at });
            at = stop;
        }
        let blob = Sha256(digest());
        blobs.insert(blob, Blob { bytes, extents });
        let path = format!("data/{:03}/{number:06}", number / 500).parse().expect("it is a safe path");
        artifacts.insert(ArtifactName::File(path), ArtifactKind::File { blob, executable: false });
    }
    let blocks = (count * bytes).div_ceil(BLOCK_BYTES as u64);
    let mut packs = BTreeMap::new();
    for first in (0..blocks).step_by(PACK_BLOCKS_MAX as usize) {
        let here = (blocks - first).min(u64::from(PACK_BLOCKS_MAX));
        let last_bytes =
            (count * bytes - (first + here - 1) * BLOCK_BYTES as u64).min(BLOCK_BYTES as u64) as u32;
        let hashes = (0..here).map(|_| Blake3(digest())).collect();
        packs.insert(
            pack(first / u64::from(PACK_BLOCKS_MAX)),
            vec![PackRun { first: BlockNo(0), last_bytes, hashes }],
        );
    }
    let (channel, number) = (Channel::main(), ReleaseNo(1));
    Index { channel, number, created_s: 1_700_000_000, baseline: None, packs, blobs, artifacts }
}

fn index(bench: &Bench, what: &str, index: &Index) {
    let octets = index.encode();
    let count = (index.blobs.len().max(index.blocks().count())) as u32;
    bench.each(&format!("index of {what}, encode, each"), count, || timed(|| index.encode()).0);
    bench.each(&format!("index of {what}, parse, each"), count, || {
        let (time, parsed) = timed(|| Index::parse(black_box(&octets)));
        assert_eq!(parsed.as_ref(), Ok(index));
        time
    });
}
