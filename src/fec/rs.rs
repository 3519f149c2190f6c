//! Reed–Solomon for blocks. This file and [`shards`](super::shards) alone name `reed-solomon-simd`.
//!
//! The code is that crate's `HighRate` one (Leopard's): GF(2^16) written in a Cantor basis, in which the sum of two
//! elements is the exclusive or of their numbers. Source symbol i stands at the element R + i; the repair symbols are
//! a polynomial's values at the elements 0 to R. In repair symbol j the source symbol i weighs
//!
//! ```text
//! (⌊i / R⌋ + 1) / (j ^ (R + i))
//! ```
//!
//! (the outer quotient is the field's): a Cauchy matrix but for a factor for each column. Two things follow, and they
//! are why the crate's transforms are used here and not its encoder and decoder, which come to the same results.
//!
//! *Some repair symbols can be computed without the others.* An aligned group of g, a power of two, needs transforms of
//! g source symbols instead of R: K (1 + log₂ g / 2) products of a symbol and an element ([`Work::gather`]).
//!
//! *A few losses need no full decoder and no elimination.* e repair symbols, less what the known source symbols gave
//! to them, are e equations with a Cauchy matrix, and the inverse of one is another. With y over the repair symbols
//! taken and z one of the lost,
//!
//! ```text
//! lost(z) = column(z)⁻¹ U(z)⁻¹ Σ U(y) rest(y) / (y ^ z)      U(x) = Π (x ^ every lost) / Π (x ^ every y)
//! ```
//!
//! where factors of 0 are left out. The sum is added up product by product for few losses ([`Work::add_up`]). But for
//! a factor it is also the value at z of the polynomial that has the values U(y) rest(y), so that one transform gives
//! it for all z of g neighbours ([`Work::evaluate`]), which is cheaper for many.
//!
//! Measured by `cargo bench --bench parts` on 2026-11-24, one core of a shared Intel Xeon (Sapphire Rapids, family 6,
//! model 207, 2 virtual cores, load 10), medians of three runs, GB/s of source data, the repair symbols from the first:
//!
//! | K, R | T | lost: 1 | 4 | 10 | 20 | 41 | 80 (K = 118: 64) | crate's decoder, any |
//! |---|---|---|---|---|---|---|---|---|
//! | 754, 256 | 1392 | 11.2 | 7.1 | 4.6 | 3.2 | 1.9 | 1.5 | 0.7 to 0.8 |
//! | 118, 64 | 8896 | 13.8 | 6.2 | 3.4 | 1.8 | 1.6 | 1.5 | 0.8 |
//!
//! 256 lost of 754 still take 1.0 against 0.7, so the crate's decoder has no place left. The products that either way
//! needs decide between the two sums ([`Work::is_few`]: up to 55 losses at K = 754), and [`FACTORS_MAX`] between
//! two ways to U. All repair symbols are computed as fast as by the crate's encoder (2.8 at K = 754).

use std::ops::Range;

use reed_solomon_simd::engine::{DefaultEngine, Engine, GF_ORDER, ShardsRefMut, tables};

use super::Oti;
use super::block::{Repair, Undecodable};
use super::encoded::{EncodedBlock, Window};
use super::rows::{Rows, add, add_symbol, load, store};
use crate::buffer::Buffer;
use crate::id::Sbn;

/// Encoder and decoder with their work space, which is kept from block to block. One for each thread. Until there is
/// something to compute it holds nothing.
#[derive(Default)]
pub struct Codec(Option<Work>);

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl Codec {
    /// Computes all repair symbols of a source block. `source` holds its octets, is filled up to whole symbols, and
    /// moves into the result, copied if it is no [`Buffer`]; `repair` is a buffer to use again.
    pub fn encode(&mut self, oti: Oti, sbn: Sbn, source: impl Into<Buffer>, repair: Vec<u8>) -> EncodedBlock {
        let window = Window { start: 0, symbols: oti.repair_symbols() };
        self.encode_window(oti, sbn, window, source, repair)
    }

    /// Computes the repair symbols of a window, as [`encode`](Self::encode) does. For an empty one nothing is computed.
    pub fn encode_window(
        &mut self,
        oti: Oti,
        sbn: Sbn,
        window: Window,
        source: impl Into<Buffer>,
        mut repair: Vec<u8>,
    ) -> EncodedBlock {
        let mut source = source.into();
        debug_assert_eq!(source.len(), oti.block_bytes(sbn));
        let shape = Shape::of(oti, sbn);
        let (start, count) = (window.start as usize % shape.r, (window.symbols as usize).min(shape.r));
        source.resize(shape.k * shape.symbol_bytes);
        repair.resize(count * shape.symbol_bytes, 0);
        if count > 0 {
            let work = self.0.get_or_insert_default();
            let end = start + count;
            let (group, end) = match end > shape.r {
                true => (Group { start: 0, len: shape.r }, shape.r),
                false => (Group::around(start, end - 1), end),
            };
            work.gather(shape, group, end - group.start, |at| source.get(shape.place(at)));
            for (at, symbol) in repair.chunks_exact_mut(shape.symbol_bytes).enumerate() {
                store(work.sum.row((start + at) % shape.r - group.start), symbol);
            }
        }
        EncodedBlock { oti, sbn, source, repair, window_start: start }
    }

    /// Restores the source symbols that `source` lacks. `has` says which of the K are there. `repair` may hold more
    /// than are needed; those that are cheapest together are taken.
    ///
    /// # Errors
    /// [`Undecodable`] if there are fewer repair symbols than lost ones; `source` is as it was.
    pub fn restore(
        &mut self,
        oti: Oti,
        sbn: Sbn,
        source: &mut [u8],
        has: impl Fn(usize) -> bool,
        repair: Repair<'_>,
    ) -> Result<(), Undecodable> {
        let shape = Shape::of(oti, sbn);
        if (0..shape.k).all(&has) {
            return Ok(());
        }
        let work = self.0.get_or_insert_default();
        work.lost.clear();
        work.lost.extend((0..shape.k).filter(|at| !has(*at)));
        let group = work.choose(shape, repair)?;
        work.weigh(shape);
        work.gather(shape, group, group.len, |at| source.get(shape.place(at)).filter(|_| has(at)));
        work.subtract(group, |place| repair.symbols.get(shape.place(place)));
        let restored = |at: usize, row: &[[u8; 64]]| {
            if let Some(symbol) = source.get_mut(shape.place(at)) {
                store(row, symbol);
            }
        };
        if work.is_few(group) {
            work.add_up(shape, group, restored);
        } else {
            work.evaluate(shape, group, restored);
        }
        Ok(())
    }
}

/// A source block as the code sees it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    k: usize,
    /// A power of two.
    r: usize,
    symbol_bytes: usize,
}

impl Shape {
    fn of(oti: Oti, sbn: Sbn) -> Self {
        let (k, r) = (oti.source_symbols(sbn) as usize, oti.repair_symbols() as usize);
        Self { k, r, symbol_bytes: oti.symbol_bytes() }
    }

    /// Where symbol `at` is when symbols lie end to end.
    fn place(self, at: usize) -> Range<usize> {
        at * self.symbol_bytes..(at + 1) * self.symbol_bytes
    }

    /// The logarithm of what the weights of source symbol `at` have in common.
    fn column(self, at: usize) -> u32 {
        log(at / self.r + 1)
    }
}

/// Repair symbols that are computed together: `len` of them, a power of two, from a multiple of `len` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    start: usize,
    len: usize,
}

impl Group {
    /// The smallest one with these two in it.
    fn around(first: usize, last: usize) -> Self {
        let len = (first ^ last).checked_ilog2().map_or(1, |bit| 2 << bit);
        Self { start: first & !(len - 1), len }
    }

    /// The logarithm of the product of an element's distances from all of the group's: in a Cantor basis that is the
    /// element without the low bits.
    fn distance(self, element: usize) -> u32 {
        log((element ^ self.start) / self.len)
    }
}

/// A repair symbol that replaces a lost one.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    /// Which of the R.
    number: usize,
    /// Where it is among those that came.
    place: usize,
}

/// Lost symbols from which on the factors U are computed by a transform of the whole field, which takes as long for one
/// as for a thousand.
const FACTORS_MAX: usize = 160;

/// The engine, which brings tables of 8 MiB for the whole process, and what is used again.
#[derive(Default)]
struct Work {
    engine: DefaultEngine,
    sum: Rows,
    work: Rows,
    /// The lost source symbols, rising.
    lost: Vec<usize>,
    /// The repair symbols that replace them, rising.
    chosen: Vec<Chosen>,
    /// log U(x) at the elements x of both.
    factors: Vec<u16>,
}

impl Work {
    /// Puts the first `end` repair symbols of the group into the first rows of `sum`. A source symbol that is not there
    /// counts as zeros.
    fn gather<'a>(
        &mut self,
        shape: Shape,
        group: Group,
        end: usize,
        symbol: impl Fn(usize) -> Option<&'a [u8]>,
    ) {
        self.sum.reshape(group.len, shape.symbol_bytes);
        self.work.reshape(group.len, shape.symbol_bytes);
        for start in (0..shape.k).step_by(group.len) {
            let rows = if start == 0 { &mut self.sum } else { &mut self.work };
            let count = group.len.min(shape.k - start);
            for at in 0..group.len {
                match symbol(start + at).filter(|_| at < count) {
                    Some(symbol) => load(rows.row_mut(at), symbol),
                    None => rows.row_mut(at).fill([0; 64]),
                }
            }
            let element = shape.r + start;
            self.engine.ifft(&mut shards(rows), 0, group.len, count, element);
            let factor = quotient(shape.column(start), group.distance(element));
            if factor != 0 {
                self.engine.mul(&mut rows.data, factor);
            }
            if start > 0 {
                add(&mut self.sum.data, &self.work.data);
            }
        }
        self.engine.fft(&mut shards(&mut self.sum), 0, group.len, end, group.start);
    }

    /// Chooses as many repair symbols as are lost, those in the smallest group.
    fn choose(&mut self, shape: Shape, repair: Repair<'_>) -> Result<Group, Undecodable> {
        let there = repair.symbols.len() / shape.symbol_bytes;
        let numbers = repair.esis.iter().map(|esi| (*esi as usize).wrapping_sub(shape.k)).take(there);
        self.chosen.clear();
        self.chosen.extend(numbers.enumerate().map(|(place, number)| Chosen { number, place }));
        self.chosen.retain(|chosen| chosen.number < shape.r);
        self.chosen.sort_unstable_by_key(|chosen| chosen.number);
        self.chosen.dedup_by_key(|chosen| chosen.number);
        let groups = self.chosen.windows(self.lost.len()).enumerate().filter_map(|(at, window)| {
            Some((Group::around(window.first()?.number, window.last()?.number), at))
        });
        let (group, at) = groups.min_by_key(|(group, _)| group.len).ok_or(Undecodable)?;
        self.chosen.drain(..at);
        self.chosen.truncate(self.lost.len());
        Ok(group)
    }

    /// Computes the factors U.
    fn weigh(&mut self, shape: Shape) {
        let lost = self.lost.iter().map(|at| shape.r + at);
        let chosen = self.chosen.iter().map(|chosen| chosen.number);
        self.factors.clear();
        let mut set = |element: usize, log: u32| {
            self.factors.resize(self.factors.len().max(element + 1), 0);
            self.factors.get_mut(element).into_iter().for_each(|factor| *factor = log as u16);
        };
        if self.lost.len() < FACTORS_MAX {
            for x in chosen.clone().chain(lost.clone()) {
                let above: u32 = lost.clone().map(|z| log(x ^ z)).sum();
                let below: u32 = chosen.clone().map(|y| ORDER - log(x ^ y)).sum();
                set(x, (above + below) % ORDER);
            }
            return;
        }
        // The exponents with which each element's distance counts become the logarithms of the products.
        lost.for_each(|z| set(z, 1));
        chosen.for_each(|y| set(y, ORDER - 1));
        self.factors.resize(GF_ORDER, 0);
        if let Some(factors) = self.factors.first_chunk_mut::<GF_ORDER>() {
            DefaultEngine::eval_poly(factors, shape.r + shape.k);
        }
    }

    /// Leaves in `sum` what the known source symbols leave of the chosen repair symbols, with their factors.
    fn subtract<'a>(&mut self, group: Group, symbol: impl Fn(usize) -> Option<&'a [u8]>) {
        let mut chosen = self.chosen.iter().peekable();
        for at in 0..group.len {
            let number = group.start + at;
            let factor = log_at(&self.factors, number);
            let row = self.sum.row_mut(at);
            match chosen.next_if(|chosen| chosen.number == number) {
                Some(chosen) => {
                    add_symbol(row, symbol(chosen.place).unwrap_or_default());
                    self.engine.mul(row, quotient(factor, 0));
                }
                None => row.fill([0; 64]),
            }
        }
    }

    /// Whether [`add_up`](Self::add_up) is cheaper than [`evaluate`](Self::evaluate), by the products of either.
    fn is_few(&self, group: Group) -> bool {
        let runs = self.lost.chunk_by(|one, next| one / group.len == next / group.len).count();
        self.lost.len().pow(2) < runs * group.len * (2 + group.len.ilog2() as usize) / 2
    }

    /// Computes the lost source symbols as sums of products.
    fn add_up(&mut self, shape: Shape, group: Group, mut restored: impl FnMut(usize, &[[u8; 64]])) {
        self.work.reshape(2, shape.symbol_bytes);
        let (product, total) = self.work.data.split_at_mut(self.work.chunks);
        for at in &self.lost {
            let element = shape.r + at;
            total.fill([0; 64]);
            for chosen in &self.chosen {
                product.copy_from_slice(self.sum.row(chosen.number - group.start));
                self.engine.mul(product, quotient(0, log(chosen.number ^ element)));
                add(total, product);
            }
            let factor = log_at(&self.factors, element) + shape.column(*at);
            self.engine.mul(total, quotient(0, factor));
            restored(*at, total);
        }
    }

    /// Computes the lost source symbols as a polynomial's values.
    fn evaluate(&mut self, shape: Shape, group: Group, mut restored: impl FnMut(usize, &[[u8; 64]])) {
        self.engine.ifft(&mut shards(&mut self.sum), 0, group.len, group.len, group.start);
        for run in self.lost.chunk_by(|one, next| one / group.len == next / group.len) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let start = first - first % group.len;
            self.work.data.copy_from_slice(&self.sum.data);
            self.engine.fft(&mut shards(&mut self.work), 0, group.len, last + 1 - start, shape.r + start);
            for at in run {
                let element = shape.r + at;
                let factor = log_at(&self.factors, element) + shape.column(*at) + group.distance(element);
                let row = self.work.row_mut(at - start);
                self.engine.mul(row, quotient(0, factor));
                restored(*at, row);
            }
        }
    }
}

/// Rows as the engine takes them.
fn shards(rows: &mut Rows) -> ShardsRefMut<'_> {
    ShardsRefMut::new(rows.data.len() / rows.chunks, rows.chunks, &mut rows.data)
}

/// The order of the field's multiplicative group: logarithms count modulo this.
const ORDER: u32 = GF_ORDER as u32 - 1;

/// The logarithm of an element. That of 0 is 0 modulo the order, so that it is no factor.
fn log(element: usize) -> u32 {
    log_at(tables::get_exp_log().log.as_slice(), element)
}

/// What a table of logarithms says of an element.
fn log_at(logs: &[u16], element: usize) -> u32 {
    logs.get(element).copied().map_or(0, u32::from)
}

/// The logarithm of a quotient, from those of a dividend and of a product of up to three.
fn quotient(above: u32, below: u32) -> u16 {
    ((above + 3 * ORDER - below) % ORDER) as u16
}

#[cfg(test)]
mod tests {
    use hpke::rand_core::TryRng;
    use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

    use super::*;
    use crate::id::Esi;
    use crate::testing::SeededRng;

    fn below(rng: &mut SeededRng, end: usize) -> usize {
        (rng.try_next_u64().unwrap() % end as u64) as usize
    }

    fn octets(rng: &mut SeededRng, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        rng.try_fill_bytes(&mut octets).unwrap();
        octets
    }

    /// The first `count` of 0 to `end` in a random order.
    fn some(rng: &mut SeededRng, end: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..end).collect();
        for at in 0..count {
            let other = at + below(rng, end - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }

    /// A block of `k` source symbols, of which the last is short by a random number of octets.
    fn shape(rng: &mut SeededRng, k: usize, symbol_bytes: usize, repair_log2: u8) -> (Oti, Vec<u8>) {
        let len = k * symbol_bytes - below(rng, symbol_bytes);
        let oti = Oti::parse(len as u32, symbol_bytes, repair_log2).unwrap();
        assert_eq!(oti.source_symbols(Sbn(0)) as usize, k);
        (oti, octets(rng, len))
    }

    /// All repair symbols, from the crate's own encoder.
    fn repair_of(oti: Oti, source: &[u8]) -> Vec<u8> {
        let Shape { k, r, symbol_bytes } = Shape::of(oti, Sbn(0));
        let mut encoder = HighRateEncoder::new(k, r, symbol_bytes, DefaultEngine::new(), None).unwrap();
        let mut padded = source.to_vec();
        padded.resize(k * symbol_bytes, 0);
        padded.chunks(symbol_bytes).for_each(|symbol| encoder.add_original_shard(symbol).unwrap());
        encoder.encode().unwrap().recovery_iter().flatten().copied().collect()
    }

    /// The lost symbols in order, from the crate's own decoder.
    fn decoded_in_full(oti: Oti, source: &[u8], lost: &[usize], repair: Repair<'_>) -> Vec<u8> {
        let Shape { k, r, symbol_bytes } = Shape::of(oti, Sbn(0));
        let mut decoder = HighRateDecoder::new(k, r, symbol_bytes, DefaultEngine::new(), None).unwrap();
        for (at, symbol) in source.chunks(symbol_bytes).enumerate().filter(|(at, _)| !lost.contains(at)) {
            decoder.add_original_shard(at, symbol).unwrap();
        }
        for (esi, symbol) in repair.esis.iter().zip(repair.symbols.chunks(symbol_bytes)) {
            decoder.add_recovery_shard(*esi as usize - k, symbol).unwrap();
        }
        let restored = decoder.decode().unwrap();
        restored.restored_original_iter().flat_map(|(_, symbol)| symbol.to_vec()).collect()
    }

    /// Loses `e` source symbols and restores them from `e` repair symbols and `more`.
    fn check(codec: &mut Codec, rng: &mut SeededRng, oti: Oti, data: &[u8], e: usize, more: usize) {
        let Shape { k, r, symbol_bytes } = Shape::of(oti, Sbn(0));
        let encoded = codec.encode(oti, Sbn(0), data.to_vec(), Vec::new());
        let mut lost = some(rng, k, e);
        lost.sort_unstable();
        let numbers = some(rng, r, (e + more).min(r));
        let esis: Vec<u32> = numbers.iter().map(|number| (k + number) as u32).collect();
        let symbols: Vec<u8> = esis.iter().flat_map(|esi| encoded.symbol(Esi(*esi)).to_vec()).collect();
        let repair = Repair { esis: &esis, symbols: &symbols };
        let mut source = encoded.source.clone();
        // What a buffer held before is not zeros.
        lost.iter().for_each(|at| source[at * symbol_bytes..(at + 1) * symbol_bytes].fill(0xaa));
        let full = decoded_in_full(oti, &source, &lost, repair);
        codec.restore(oti, Sbn(0), &mut source, |at| lost.binary_search(&at).is_err(), repair).unwrap();
        let ours: Vec<u8> =
            lost.iter().flat_map(|at| source[at * symbol_bytes..(at + 1) * symbol_bytes].to_vec()).collect();
        let what = format!("{oti:?}, K {k}, lost {lost:?}, repair {numbers:?}");
        assert!(ours == full, "the crate's decoder says otherwise: {what}");
        assert!(source == encoded.source, "not the original: {what}");
    }

    #[test]
    fn every_number_of_losses_is_restored() {
        let mut codec = Codec::default();
        for (seed, (k, symbol_bytes, repair_log2)) in [
            (1, 2, 0),
            (1, 8896, 1),
            (2, 66, 0),
            (7, 62, 3),
            (33, 64, 10),
            (119, 130, 6),
            (754, 10, 8),
            (755, 2, 9),
        ]
        .into_iter()
        .enumerate()
        {
            let rng = &mut SeededRng::new(seed as u64);
            let (oti, data) = shape(rng, k, symbol_bytes, repair_log2);
            for e in 0..=k.min(1 << repair_log2) {
                let more = below(rng, 3);
                check(&mut codec, rng, oti, &data, e, more);
            }
        }
    }

    #[test]
    fn random_blocks_are_restored() {
        let mut codec = Codec::default();
        for seed in 100..400 {
            let rng = &mut SeededRng::new(seed);
            // Short and long symbols are equally likely, and so are few and many.
            let symbol_bytes = (2 << below(rng, 13)).min(8896) - 2 * below(rng, 2);
            let symbol_bytes = symbol_bytes.max(2);
            let k_max = ((1 << 17) / symbol_bytes).clamp(1, 4096);
            let k = 1 + below(rng, k_max);
            let repair_log2 = below(rng, 11) as u8;
            let (oti, data) = shape(rng, k, symbol_bytes, repair_log2);
            let max = k.min(oti.repair_symbols() as usize);
            let e_max = [max, max.min(20)][below(rng, 2)];
            let e = 1 + below(rng, e_max);
            let more = below(rng, 10);
            check(&mut codec, rng, oti, &data, e, more);
        }
    }

    #[test]
    fn windows_are_parts_of_what_the_crate_encodes() {
        let mut codec = Codec::default();
        for seed in 0..200 {
            let rng = &mut SeededRng::new(seed);
            let (symbol_bytes, repair_log2) = (2 + 2 * below(rng, 100), below(rng, 11) as u8);
            let k = 1 + below(rng, 600);
            let (oti, data) = shape(rng, k, symbol_bytes, repair_log2);
            let r = oti.repair_symbols();
            let window =
                Window { start: rng.try_next_u32().unwrap(), symbols: below(rng, 2 + r as usize) as u32 };
            let expected = repair_of(oti, &data);
            let encoded = codec.encode_window(oti, Sbn(0), window, data.clone(), octets(rng, 50));
            let count = window.symbols.min(r);
            for number in 0..r {
                let is_inside = (number + r - window.start % r) % r < count;
                let at = number as usize * symbol_bytes;
                let symbol = if is_inside { &expected[at..at + symbol_bytes] } else { &[] };
                assert!(
                    encoded.symbol(Esi(k as u32 + number)) == symbol,
                    "seed {seed}, {window:?}, {number}"
                );
            }
            assert_eq!(encoded.symbol(Esi(k as u32 + r)), &[0; 0]);
            assert_eq!(encoded.symbol(Esi(0))[..2.min(data.len())], data[..2.min(data.len())]);
            assert!(codec.encode(oti, Sbn(0), data, Vec::new()).repair == expected, "seed {seed}");
        }
    }

    #[test]
    fn without_loss_or_window_nothing_is_computed() {
        let mut codec = Codec::default();
        let oti = Oti::parse(1000, 100, 2).unwrap();
        let none = Window { start: 3, symbols: 0 };
        let encoded = codec.encode_window(oti, Sbn(0), none, vec![7; 1000], Vec::new());
        let mut source = encoded.source.clone();
        let repair = Repair { esis: &[10], symbols: &[1; 100] };
        codec.restore(oti, Sbn(0), &mut source, |_| true, repair).unwrap();
        assert_eq!(source, encoded.source);
        assert!(codec.0.is_none());
    }

    #[test]
    fn repair_symbols_that_are_none_do_not_count() {
        let mut codec = Codec::default();
        let oti = Oti::parse(1000, 100, 2).unwrap();
        let encoded = codec.encode(oti, Sbn(0), vec![7; 1000], Vec::new());
        let mut source = encoded.source.clone();
        source[200..400].fill(0);
        let before = source.clone();
        let two = encoded.repair[100..300].to_vec();
        // One too few, the same one twice, one past R, a source symbol, one without octets.
        for (esis, bytes) in [
            (vec![11], 100),
            (vec![11, 11], 200),
            (vec![11, 14], 200),
            (vec![11, 3], 200),
            (vec![11, 12], 199),
        ] {
            let repair = Repair { esis: &esis, symbols: &two[..bytes] };
            let result = codec.restore(oti, Sbn(0), &mut source, |at| at != 2 && at != 3, repair);
            assert_eq!((result, &source), (Err(Undecodable), &before), "{esis:?}, {bytes}");
        }
        let repair = Repair { esis: &[11, 12], symbols: &two };
        codec.restore(oti, Sbn(0), &mut source, |at| at != 2 && at != 3, repair).unwrap();
        assert_eq!(source, encoded.source);
    }

    #[test]
    fn the_work_space_is_used_again() {
        let mut codec = Codec::default();
        let rng = &mut SeededRng::new(5);
        let (oti, data) = shape(rng, 300, 200, 9);
        let room = |codec: &Codec| {
            let work = codec.0.as_ref().unwrap();
            let rows = [&work.sum, &work.work].map(|rows| (rows.data.as_ptr(), rows.data.capacity()));
            (rows, work.lost.as_ptr(), work.chosen.as_ptr(), work.factors.as_ptr())
        };
        check(&mut codec, rng, oti, &data, 300, 200);
        let before = room(&codec);
        for e in [1, 10, 250, 2, 300] {
            check(&mut codec, rng, oti, &data, e, 5);
        }
        assert_eq!(room(&codec), before);
    }
}
