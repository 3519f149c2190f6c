//! SYMBOL: a piece of an object.

use std::fmt;

use super::{SYMBOL_HEADER_BYTES, WireError};
use crate::codec::{CodecError, Reader};
use crate::fec::Oti;
use crate::id::{BlockId, BlockNo, Esi, ObjectTag, PackId, Sbn};
use crate::limits::{BLOCK_BYTES, INDEX_BYTES_MAX, PACK_BLOCKS_MAX, TRUST_BYTES_MAX};

pub(super) const KIND_SYMBOL: u8 = 1;

/// The code that repair symbols are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FecScheme {
    /// Systematic Reed–Solomon over GF(2^16), the high-rate form of the FFT code (Lin, Han, Chung 2014).
    ReedSolomon16 = 1,
}

/// What is sent with its own FEC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// The trust bundle with this tag.
    Trust(ObjectTag),
    /// The index with this tag.
    Index(ObjectTag),
    /// A block of a pack.
    Block(BlockId),
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(id) => write!(f, "block {id}"),
            Self::Index(tag) => write!(f, "index {tag}"),
            Self::Trust(tag) => write!(f, "trust bundle {tag}"),
        }
    }
}

/// What stands before a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolHeader {
    /// The object.
    pub object: ObjectId,
    /// Its transmission information; the scheme is always Reed–Solomon in this version.
    pub oti: Oti,
    /// Which of its source blocks.
    pub sbn: Sbn,
    /// Which symbol of it.
    pub esi: Esi,
}

impl SymbolHeader {
    /// The octets before the symbol.
    pub fn encode(&self) -> [u8; SYMBOL_HEADER_BYTES] {
        let (kind, name, number) = match self.object {
            ObjectId::Block(id) => (0, id.pack.0, id.block.0),
            ObjectId::Index(tag) => (1, tag.0, self.sbn.0),
            ObjectId::Trust(tag) => (2, tag.0, self.sbn.0),
        };
        let scheme = FecScheme::ReedSolomon16 as u8;
        let [f0, f1, f2, f3] = self.oti.transfer_bytes().to_be_bytes();
        let [n0, n1, n2, n3, n4, n5, n6, n7] = name;
        let [b0, b1, b2, b3] = number.to_be_bytes();
        let [e0, e1, e2, e3] = self.esi.0.to_be_bytes();
        // For each datagram: written as one array, it is a few stores.
        let log2 = self.oti.repair_log2();
        [
            KIND_SYMBOL,
            scheme,
            kind,
            log2,
            f0,
            f1,
            f2,
            f3,
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
            b0,
            b1,
            b2,
            b3,
            e0,
            e1,
            e2,
            e3,
        ]
    }

    /// Reads header and symbol; everything that it returns is within bounds.
    pub fn parse(body: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut reader = Reader::new(body);
        match reader.u8()? {
            KIND_SYMBOL => {}
            found => return Err(WireError::Unknown { what: "kind", found }),
        }
        match reader.u8()? {
            1 => {}
            found => return Err(WireError::Unknown { what: "FEC scheme", found }),
        }
        let kind = reader.u8()?;
        let repair_log2 = reader.u8()?;
        let transfer_bytes = reader.u32()?;
        let name = reader.array()?;
        let number = reader.u32()?;
        let esi = Esi(reader.u32()?);
        let symbol = reader.bytes(reader.remaining())?;

        let limit = |what, found: u32, max: u32| {
            let (found, max) = (u64::from(found), u64::from(max));
            if found > max { Err(CodecError::Limit { what, found, max }) } else { Ok(()) }
        };
        let (object, sbn) = match kind {
            0 => {
                limit("the octets of a block", transfer_bytes, BLOCK_BYTES as u32)?;
                limit("a block number", number, PACK_BLOCKS_MAX - 1)?;
                (ObjectId::Block(BlockId { pack: PackId(name), block: BlockNo(number) }), Sbn(0))
            }
            1 => {
                limit("the octets of an index", transfer_bytes, INDEX_BYTES_MAX)?;
                (ObjectId::Index(ObjectTag(name)), Sbn(number))
            }
            2 => {
                limit("the octets of a trust bundle", transfer_bytes, TRUST_BYTES_MAX)?;
                (ObjectId::Trust(ObjectTag(name)), Sbn(number))
            }
            found => return Err(WireError::Unknown { what: "object", found }),
        };
        let oti = Oti::parse(transfer_bytes, symbol.len(), repair_log2)?;
        limit("a source block number", sbn.0, oti.source_blocks() - 1)?;
        limit("an encoding symbol id", esi.0, oti.encoding_symbols(sbn) - 1)?;
        Ok((Self { object, oti, sbn, esi }, symbol))
    }
}
