//! Reed–Solomon: the only file that names `reed-solomon-simd`.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use super::Oti;
use crate::id::{Esi, Sbn};

/// Encoder and decoder with their work space, which is kept from block to block. One for each thread.
#[derive(Default)]
pub struct Codec {
    encoder: Option<HighRateEncoder<DefaultEngine>>,
    decoder: Option<HighRateDecoder<DefaultEngine>>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

/// A source block with its repair symbols, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBlock {
    oti: Oti,
    sbn: Sbn,
    /// Source symbols end to end, the last one filled up with zeros.
    source: Vec<u8>,
    /// Repair symbols end to end.
    repair: Vec<u8>,
}

impl EncodedBlock {
    /// The object's transmission information.
    pub fn oti(&self) -> Oti {
        self.oti
    }

    /// Which source block of the object.
    pub fn sbn(&self) -> Sbn {
        self.sbn
    }

    /// An encoding symbol; empty if there is none with that id.
    pub fn symbol(&self, esi: Esi) -> &[u8] {
        let size = self.oti.symbol_bytes();
        let at = esi.0 as usize;
        let source_symbols = self.oti.source_symbols(self.sbn) as usize;
        let (from, at) =
            if at < source_symbols { (&self.source, at) } else { (&self.repair, at - source_symbols) };
        from.get(at * size..(at + 1) * size).unwrap_or_default()
    }

    /// Gives the buffers back, source first, to be used again.
    pub fn into_buffers(self) -> (Vec<u8>, Vec<u8>) {
        (self.source, self.repair)
    }
}

/// Lost symbols are more than repair symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the block cannot be decoded from the symbols that are there")]
pub struct Undecodable;

impl Codec {
    /// Computes all repair symbols of a source block. `source` holds its octets, is filled up to whole symbols, and
    /// moves into the result; `repair` is a buffer to use again.
    pub fn encode(&mut self, oti: Oti, sbn: Sbn, mut source: Vec<u8>, mut repair: Vec<u8>) -> EncodedBlock {
        let (k, r, size) =
            (oti.source_symbols(sbn) as usize, oti.repair_symbols() as usize, oti.symbol_bytes());
        debug_assert_eq!(source.len(), oti.block_bytes(sbn));
        source.resize(k * size, 0);
        repair.clear();
        let done = self.run_encoder(k, r, size, &source, &mut repair);
        // The bounds of an Oti are within those of the code, so this does not happen; a block without repair
        // symbols is still a right one.
        debug_assert!(done.is_ok(), "{done:?}");
        EncodedBlock { oti, sbn, source, repair }
    }

    fn run_encoder(
        &mut self,
        k: usize,
        r: usize,
        size: usize,
        source: &[u8],
        repair: &mut Vec<u8>,
    ) -> Result<(), reed_solomon_simd::Error> {
        let encoder = match &mut self.encoder {
            Some(encoder) => {
                encoder.reset(k, r, size)?;
                encoder
            }
            none => none.insert(HighRateEncoder::new(k, r, size, DefaultEngine::new(), None)?),
        };
        source.chunks_exact(size).try_for_each(|symbol| encoder.add_original_shard(symbol))?;
        let result = encoder.encode()?;
        repair.reserve(r * size);
        result.recovery_iter().for_each(|symbol| repair.extend_from_slice(symbol));
        Ok(())
    }

    /// Restores the source symbols that `source` lacks. `has` says which of the K are there; `repair` yields
    /// `(number from 0, symbol)`.
    pub fn restore<'a>(
        &mut self,
        oti: Oti,
        sbn: Sbn,
        source: &mut [u8],
        has: impl Fn(usize) -> bool,
        repair: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<(), Undecodable> {
        let (k, r, size) =
            (oti.source_symbols(sbn) as usize, oti.repair_symbols() as usize, oti.symbol_bytes());
        let run = || -> Result<(), reed_solomon_simd::Error> {
            let decoder = match &mut self.decoder {
                Some(decoder) => {
                    decoder.reset(k, r, size)?;
                    decoder
                }
                none => none.insert(HighRateDecoder::new(k, r, size, DefaultEngine::new(), None)?),
            };
            for (at, symbol) in source.chunks_exact(size).enumerate() {
                if has(at) {
                    decoder.add_original_shard(at, symbol)?;
                }
            }
            for (at, symbol) in repair {
                decoder.add_recovery_shard(at, symbol)?;
            }
            let restored = decoder.decode()?;
            for (at, symbol) in restored.restored_original_iter() {
                if let Some(place) = source.get_mut(at * size..(at + 1) * size) {
                    place.copy_from_slice(symbol);
                }
            }
            Ok(())
        };
        run().map_err(|_| Undecodable)
    }
}

/// Shards that the code cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ShardError {
    /// More are lost than parity makes good.
    #[error("{lost} shards are lost, {parity} of parity are there")]
    TooFew {
        /// Shards of data that are lost.
        lost: usize,
        /// Shards of parity that are there.
        parity: usize,
    },
    /// They are of different or odd lengths, or too many.
    #[error("the code does not take these shards: {0}")]
    Shape(#[from] reed_solomon_simd::Error),
}

/// `parity` shards over `data`, all of one even length.
pub fn encode_shards(data: &[Vec<u8>], parity: usize) -> Result<Vec<Vec<u8>>, ShardError> {
    let (Some(first), 1..) = (data.first(), parity) else { return Ok(Vec::new()) };
    let mut encoder = HighRateEncoder::new(data.len(), parity, first.len(), DefaultEngine::new(), None)?;
    data.iter().try_for_each(|shard| encoder.add_original_shard(shard))?;
    let encoded = encoder.encode()?;
    Ok(encoded.recovery_iter().map(<[u8]>::to_vec).collect())
}

/// The lost ones of `data`, with their places. `parity` is how many shards of parity were made; `has` are those that are
/// there, with their numbers.
pub fn restore_shards(
    data: &[Option<Vec<u8>>],
    parity: usize,
    has: &[(usize, Vec<u8>)],
) -> Result<Vec<(usize, Vec<u8>)>, ShardError> {
    let lost = data.iter().filter(|shard| shard.is_none()).count();
    if lost == 0 {
        return Ok(Vec::new());
    }
    if has.len() < lost {
        return Err(ShardError::TooFew { lost, parity: has.len() });
    }
    let bytes = has.first().map_or(0, |(_, shard)| shard.len());
    let mut decoder = HighRateDecoder::new(data.len(), parity, bytes, DefaultEngine::new(), None)?;
    for (place, shard) in data.iter().enumerate() {
        if let Some(shard) = shard {
            decoder.add_original_shard(place, shard)?;
        }
    }
    has.iter().try_for_each(|(number, shard)| decoder.add_recovery_shard(*number, shard))?;
    let restored = decoder.decode()?;
    Ok(restored.restored_original_iter().map(|(place, shard)| (place, shard.to_vec())).collect())
}
