//! Reed–Solomon over whole shards, for volumes: long shards, few of them, and no hurry. Here the crate's own encoder and
//! decoder do all the work.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

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
