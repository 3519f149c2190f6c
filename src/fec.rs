//! Forward error correction: objects, source blocks, symbols (RFC 5052's words).
//!
//! The code is systematic Reed–Solomon over GF(2^16): any K of a source block's K + R symbols give the block back. It
//! is linear but its repair symbols depend on the next power of two of R, so every source block has one nominal R,
//! fixed by K alone ([`nominal_repair_log2`]) before its first round; a round sends a window of the R.
//!
//! No code notices a forged symbol: what comes here was authenticated, and what leaves here is compared with the index.

mod block;
mod encoded;
mod rows;
mod rs;
mod shards;

use crate::codec::CodecError;
use crate::id::Sbn;
use crate::limits::{BLOCK_BYTES, REPAIR_LOG2_MAX, SYMBOL_BYTES_MAX};

pub use block::{Added, Block, Collecting, Decoded, Mismatch, Repair, Undecodable, Verified};
pub use encoded::{EncodedBlock, Window};
pub use rs::Codec;
pub use shards::{ShardError, encode_shards, restore_shards};

/// Object transmission information (RFC 5052 §6.2): what both sides must agree on to combine symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oti {
    transfer_bytes: u32,
    symbol_bytes: u16,
    repair_log2: u8,
}

impl Oti {
    /// For an object that this side sends: short objects get symbols no longer than they are.
    ///
    /// # Panics
    /// In debug builds, if the object is empty or `lane_symbol_bytes` is not a valid symbol size.
    pub fn for_object(transfer_bytes: u32, lane_symbol_bytes: usize, use_: RepairUse) -> Self {
        debug_assert!(transfer_bytes > 0 && (2..=SYMBOL_BYTES_MAX).contains(&lane_symbol_bytes));
        let first_block = (transfer_bytes as usize).min(BLOCK_BYTES);
        let symbol_bytes = lane_symbol_bytes.min(first_block.next_multiple_of(2)) as u16;
        let symbols = first_block.div_ceil(usize::from(symbol_bytes));
        Self { transfer_bytes, symbol_bytes, repair_log2: nominal_repair_log2(symbols, use_) }
    }

    /// From the wire: nothing out of bounds comes through.
    pub fn parse(transfer_bytes: u32, symbol_bytes: usize, repair_log2: u8) -> Result<Self, CodecError> {
        let limit = |what, found: u64, max: u64| {
            if found > max { Err(CodecError::Limit { what, found, max }) } else { Ok(()) }
        };
        limit("the octets of a symbol", symbol_bytes as u64, SYMBOL_BYTES_MAX as u64)?;
        limit("log2 of the repair count", u64::from(repair_log2), u64::from(REPAIR_LOG2_MAX))?;
        if symbol_bytes == 0 || !symbol_bytes.is_multiple_of(2) || transfer_bytes == 0 {
            return Err(CodecError::Limit {
                what: "an odd or empty symbol",
                found: symbol_bytes as u64,
                max: 0,
            });
        }
        let oti = Self { transfer_bytes, symbol_bytes: symbol_bytes as u16, repair_log2 };
        limit("the source symbols of a block", u64::from(oti.source_symbols(Sbn(0))), SOURCE_SYMBOLS_MAX)?;
        Ok(oti)
    }

    /// Octets of the object.
    pub fn transfer_bytes(&self) -> u32 {
        self.transfer_bytes
    }

    /// Octets of a symbol, even.
    pub fn symbol_bytes(&self) -> usize {
        usize::from(self.symbol_bytes)
    }

    /// log2 of the nominal repair count.
    pub fn repair_log2(&self) -> u8 {
        self.repair_log2
    }

    /// Repair symbols that each source block has.
    pub fn repair_symbols(&self) -> u32 {
        1 << self.repair_log2
    }

    /// Source blocks of the object.
    pub fn source_blocks(&self) -> u32 {
        self.transfer_bytes.div_ceil(BLOCK_BYTES as u32)
    }

    /// Octets of one source block; 0 beyond the last.
    pub fn block_bytes(&self, sbn: Sbn) -> usize {
        let start = u64::from(sbn.0) * BLOCK_BYTES as u64;
        u64::from(self.transfer_bytes).saturating_sub(start).min(BLOCK_BYTES as u64) as usize
    }

    /// Source symbols of one source block: K.
    pub fn source_symbols(&self, sbn: Sbn) -> u32 {
        self.block_bytes(sbn).div_ceil(self.symbol_bytes()) as u32
    }

    /// Source and repair symbols of one source block.
    pub fn encoding_symbols(&self, sbn: Sbn) -> u32 {
        self.source_symbols(sbn) + self.repair_symbols()
    }
}

/// Source symbols of one block: bounds the decoder's memory against a sender that chooses tiny symbols.
const SOURCE_SYMBOLS_MAX: u64 = 4096;

/// What an object's repair symbols are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairUse {
    /// A block of a pack: enough for two rounds with different windows at the usual share.
    Data,
    /// An index or a trust bundle: more repair than data, because nothing can be judged without it.
    Control,
}

/// log2 of the nominal repair count of a block of `source_symbols`.
///
/// Data: twice the window that a share of 10 % gives, see [`repair_window`]. Control: twice the data.
pub fn nominal_repair_log2(source_symbols: usize, use_: RepairUse) -> u8 {
    let wanted = match use_ {
        RepairUse::Data => 2 * repair_window(source_symbols, 10),
        RepairUse::Control => 2 * source_symbols + 2,
    };
    (wanted.next_power_of_two().trailing_zeros() as u8).min(REPAIR_LOG2_MAX)
}

/// Repair symbols that one round sends for a block of `source_symbols` at a share of `percent`: the share, and three
/// standard deviations of the losses that the share is made for, so that short blocks are as safe as long ones.
pub fn repair_window(source_symbols: usize, percent: u32) -> usize {
    if percent == 0 {
        return 0;
    }
    let mean = source_symbols as f64 * f64::from(percent) / 100.0;
    // Losses of 5 % within a share of 10 %: the deviation is that of half the mean.
    (mean + 3.0 * (mean / 2.0).sqrt()).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_objects_have_short_symbols() {
        let oti = Oti::for_object(1000, 1392, RepairUse::Data);
        assert_eq!((oti.symbol_bytes(), oti.source_symbols(Sbn(0)), oti.source_blocks()), (1000, 1, 1));
        let oti = Oti::for_object(1, 1392, RepairUse::Data);
        assert_eq!((oti.symbol_bytes(), oti.source_symbols(Sbn(0))), (2, 1));
        let oti = Oti::for_object(BLOCK_BYTES as u32, 1392, RepairUse::Data);
        assert_eq!((oti.source_symbols(Sbn(0)), oti.repair_symbols()), (754, 256));
        let oti = Oti::for_object(BLOCK_BYTES as u32 + 1, 1392, RepairUse::Control);
        assert_eq!((oti.source_blocks(), oti.source_symbols(Sbn(1)), oti.repair_symbols()), (2, 1, 1024));
    }

    #[test]
    fn transmission_information_out_of_bounds_is_refused() {
        for (transfer, symbol, repair) in
            [(0, 100, 4), (100, 0, 4), (100, 101, 4), (100, 100, 11), (1 << 20, 2, 4), (100, 8898, 4)]
        {
            assert!(Oti::parse(transfer, symbol, repair).is_err(), "{transfer} {symbol} {repair}");
        }
    }

    #[test]
    fn windows_are_safe_for_short_blocks_too() {
        assert_eq!(repair_window(1, 10), 1);
        assert_eq!(repair_window(10, 10), 4);
        assert_eq!(repair_window(754, 10), 94);
        assert_eq!(repair_window(754, 0), 0);
        assert_eq!(nominal_repair_log2(754, RepairUse::Data), 8);
    }
}
