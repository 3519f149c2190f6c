//! Slots: a piece of an object, sealed.
//!
//! ```text
//! data     0  1  object: 0 block, 1 index, 2 trust, as in SYMBOL
//!          1  3  zeros
//!          4  8  block: the pack; index and trust: the first octets of the object's BLAKE3
//!         12  4  block: its number in the pack; else 0
//!         16  4  octets of the object
//!         20  4  the piece, from 0
//!         24  8  zeros
//!         32  65536  the piece, filled up with zeros
//!         …  16  tag
//! parity   0  65584  Reed–Solomon over slots of data as they are sealed
//!         …  16  tag
//! ```
//!
//! Both are sealed by AES-256-GCM. The nonce is the export's IV xor the slot's number; the associated data is empty,
//! because the number says which slot it is and the key which export.

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{DATA_SLOT_BYTES, PARITY_SLOT_BYTES, SLOT_PAYLOAD_BYTES};
use crate::aead::Aead;
use crate::codec::{CodecError, Reader};
use crate::id::{BlockId, BlockNo, ExportId, ObjectTag, PackId};
use crate::limits::{BLOCK_BYTES, INDEX_BYTES_MAX, PACK_BLOCKS_MAX, TRUST_BYTES_MAX};
use crate::wire::ObjectId;

/// Octets before the payload.
pub(super) const HEADER_BYTES: usize = 32;
/// Octets of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// The secret of one export.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ExportSecret(pub [u8; 32]);

impl std::fmt::Debug for ExportSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExportSecret(…)")
    }
}

/// Why a slot is no slot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlotError {
    /// Its octets are not those that were sealed.
    #[error("slot {slot} is not what was written: the medium is damaged there, or it was changed")]
    Damaged {
        /// Which.
        slot: u32,
    },
    /// It is authentic and makes no sense: another version, or a bug.
    #[error("slot {slot} makes no sense: {why}")]
    Nonsense {
        /// Which.
        slot: u32,
        /// What is wrong.
        why: CodecError,
    },
}

/// What a slot of data carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// The object.
    pub object: ObjectId,
    /// Octets of the object, 1 or more.
    pub object_bytes: u32,
    /// Which piece of it.
    pub number: u32,
}

impl Piece {
    /// The pieces of an object.
    pub fn of(object: ObjectId, object_bytes: u32) -> impl Iterator<Item = Self> {
        let pieces = object_bytes.div_ceil(SLOT_PAYLOAD_BYTES as u32);
        (0..pieces).map(move |number| Self { object, object_bytes, number })
    }

    /// The octet of the object at which it starts.
    pub fn offset(&self) -> u64 {
        u64::from(self.number) * SLOT_PAYLOAD_BYTES as u64
    }

    /// Its octets.
    pub fn bytes(&self) -> usize {
        let left = u64::from(self.object_bytes).saturating_sub(self.offset());
        left.min(SLOT_PAYLOAD_BYTES as u64) as usize
    }

    /// Pieces of its object.
    pub fn count(&self) -> u32 {
        self.object_bytes.div_ceil(SLOT_PAYLOAD_BYTES as u32)
    }

    /// Its header, without the zeros at its end.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let (kind, name, number) = match self.object {
            ObjectId::Block(id) => (0u8, id.pack.0, id.block.0),
            ObjectId::Index(tag) => (1, tag.0, 0),
            ObjectId::Trust(tag) => (2, tag.0, 0),
        };
        let mut out = [0; HEADER_BYTES];
        let fields = [kind, 0, 0, 0]
            .into_iter()
            .chain(name)
            .chain(number.to_be_bytes())
            .chain(self.object_bytes.to_be_bytes())
            .chain(self.number.to_be_bytes());
        out.iter_mut().zip(fields).for_each(|(place, octet)| *place = octet);
        out
    }

    /// Reads a header; everything in it is within bounds.
    pub fn parse(header: &[u8]) -> Result<Self, CodecError> {
        let limit = |what, found: u32, max: u32| {
            let (found, max) = (u64::from(found), u64::from(max));
            if found > max { Err(CodecError::Limit { what, found, max }) } else { Ok(()) }
        };
        let mut reader = Reader::new(header);
        let kind = reader.u8()?;
        let padding = reader.bytes(3)?;
        let (name, number, object_bytes, piece) =
            (reader.array()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let rest = reader.bytes(reader.remaining())?;
        if let Some(octet) = padding.iter().chain(rest).find(|octet| **octet != 0) {
            limit("an octet that is kept for later versions", u32::from(*octet), 0)?;
        }
        let (object, bytes_max) = match kind {
            0 => {
                limit("a block number", number, PACK_BLOCKS_MAX - 1)?;
                let id = BlockId { pack: PackId(name), block: BlockNo(number) };
                (ObjectId::Block(id), BLOCK_BYTES as u32)
            }
            1 => (ObjectId::Index(ObjectTag(name)), INDEX_BYTES_MAX),
            2 => (ObjectId::Trust(ObjectTag(name)), TRUST_BYTES_MAX),
            found => {
                return Err(CodecError::Limit { what: "an object's kind", found: u64::from(found), max: 2 });
            }
        };
        if kind != 0 {
            limit("a number beside an object's tag", number, 0)?;
        }
        limit("the octets of an object", object_bytes, bytes_max)?;
        let found = Self { object, object_bytes, number: piece };
        match found.count().checked_sub(1) {
            Some(last) => limit("a piece of an object", piece, last)?,
            None => return Err(CodecError::Truncated { wanted: 1, left: 0 }),
        }
        Ok(found)
    }
}

/// Key and nonce base of one export.
pub struct SlotKeys(Aead);

impl std::fmt::Debug for SlotKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlotKeys(…)")
    }
}

impl SlotKeys {
    /// With the export's id as salt. None only if the cipher refuses its own key length.
    pub fn derive(secret: &ExportSecret, export: ExportId) -> Option<Self> {
        Aead::derive(&secret.0, &export.0, &[b"diodesync export slots 1"]).map(Self)
    }

    /// Seals a piece into `out`, which becomes [`DATA_SLOT_BYTES`] long. `octets` are the piece's own.
    pub fn seal(&self, slot: u32, piece: &Piece, octets: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&piece.encode());
        out.extend_from_slice(octets);
        out.resize(DATA_SLOT_BYTES - TAG_BYTES, 0);
        self.finish(slot, out);
    }

    /// Seals a shard of parity.
    pub fn seal_parity(&self, slot: u32, shard: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(shard);
        out.resize(PARITY_SLOT_BYTES - TAG_BYTES, 0);
        self.finish(slot, out);
    }

    fn finish(&self, slot: u32, out: &mut Vec<u8>) {
        // It refuses more than 64 GiB, which a slot is not.
        match self.0.seal(slot.into(), &[], out) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(_) => out.clear(),
        }
    }

    /// Opens a slot of data: which piece it is, and its octets.
    pub fn open<'a>(&self, slot: u32, sealed: &'a mut [u8]) -> Result<(Piece, &'a [u8]), SlotError> {
        let plain = self.unseal(slot, sealed, DATA_SLOT_BYTES)?;
        let nonsense = |why| SlotError::Nonsense { slot, why };
        let short = || nonsense(CodecError::Truncated { wanted: HEADER_BYTES, left: plain.len() });
        let (header, payload) = plain.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
        let piece = Piece::parse(header).map_err(nonsense)?;
        let (octets, fill) = payload.split_at_checked(piece.bytes()).ok_or_else(short)?;
        if fill.iter().any(|octet| *octet != 0) {
            return Err(nonsense(CodecError::Trailing(fill.len())));
        }
        Ok((piece, octets))
    }

    /// Opens a parity slot.
    pub fn open_parity<'a>(&self, slot: u32, sealed: &'a mut [u8]) -> Result<&'a [u8], SlotError> {
        self.unseal(slot, sealed, PARITY_SLOT_BYTES).map(|plain| &*plain)
    }

    fn unseal<'a>(&self, slot: u32, sealed: &'a mut [u8], bytes: usize) -> Result<&'a mut [u8], SlotError> {
        if sealed.len() != bytes {
            return Err(SlotError::Damaged { slot });
        }
        let opened = self.0.open(slot.into(), &[], sealed);
        opened.map_err(|_| SlotError::Damaged { slot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> SlotKeys {
        SlotKeys::derive(&ExportSecret([1; 32]), ExportId([2; 8])).unwrap()
    }

    fn block(bytes: u32) -> ObjectId {
        ObjectId::Block(BlockId { pack: PackId([bytes as u8; 8]), block: BlockNo(7) })
    }

    #[test]
    fn a_piece_comes_back_from_its_own_slot_alone() {
        let object_bytes = 2 * SLOT_PAYLOAD_BYTES as u32 + 5;
        let pieces: Vec<Piece> = Piece::of(block(9), object_bytes).collect();
        assert_eq!(pieces.iter().map(Piece::bytes).collect::<Vec<_>>(), [65536, 65536, 5]);
        let octets = [7; 5];
        let (mut one, mut two) = (Vec::new(), Vec::new());
        keys().seal(40, &pieces[2], &octets, &mut one);
        keys().seal(40, &pieces[2], &octets, &mut two);
        assert_eq!((one.len(), &one), (DATA_SLOT_BYTES, &two), "one slot has one ciphertext");
        assert_eq!(keys().open(41, &mut two), Err(SlotError::Damaged { slot: 41 }));
        assert_eq!(keys().open(40, &mut one).unwrap(), (pieces[2], octets.as_slice()));
        let other = SlotKeys::derive(&ExportSecret([1; 32]), ExportId([3; 8])).unwrap();
        keys().seal(40, &pieces[0], &[1; SLOT_PAYLOAD_BYTES], &mut one);
        assert!(other.open(40, &mut one).is_err());
    }

    #[test]
    fn every_octet_of_a_slot_matters() {
        let piece = Piece::of(block(3), 100).next().unwrap();
        let mut sealed = Vec::new();
        keys().seal(0, &piece, &[5; 100], &mut sealed);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(keys().open(0, &mut bad).is_err(), "octet {at}");
        }
        for length in [0, 1, 16, DATA_SLOT_BYTES - 1] {
            assert!(keys().open(0, &mut sealed.clone()[..length]).is_err(), "{length}");
        }
        let mut parity = Vec::new();
        keys().seal_parity(9, &sealed, &mut parity);
        assert_eq!(parity.len(), PARITY_SLOT_BYTES);
        assert_eq!(keys().open_parity(9, &mut parity.clone()).unwrap(), sealed);
        parity[100] ^= 1;
        assert!(keys().open_parity(9, &mut parity).is_err());
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let good = Piece::of(ObjectId::Index(ObjectTag([4; 8])), 70_000).nth(1).unwrap();
        assert_eq!(Piece::parse(&good.encode()), Ok(good));
        for (at, octet) in [(0, 3), (1, 1), (15, 1), (16, 255), (19, 0), (23, 2), (31, 1)] {
            let mut bad = good.encode();
            bad[at] = octet;
            let read = Piece::parse(&bad);
            assert!(read.is_err() || (at == 19 && read != Ok(good)), "octet {at}: {read:?}");
        }
        let empty = Piece { object_bytes: 0, number: 0, ..good };
        assert!(Piece::parse(&empty.encode()).is_err());
    }
}
