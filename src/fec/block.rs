//! A source block on the receiving side, by what is known of it: collecting → decoded → verified.

use super::Oti;
use super::rs::Codec;
use crate::buffer::Buffer;
use crate::id::{Blake3, Esi, Sbn};

/// A source block in one of its states.
#[derive(Debug)]
pub struct Block<State> {
    oti: Oti,
    sbn: Sbn,
    /// Room for K symbols.
    source: Buffer,
    state: State,
}

/// Symbols are still missing.
#[derive(Debug)]
pub struct Collecting {
    /// One bit for each encoding symbol that is there.
    have: Vec<u64>,
    /// Source symbols that are there.
    source_have: u32,
    /// Repair symbols end to end, and which they are.
    repair: Vec<u8>,
    repair_esis: Vec<u32>,
}

/// The octets are there; nobody has said that they are the right ones.
#[derive(Debug)]
pub struct Decoded {
    hash: Blake3,
}

/// The octets are those that the index names.
#[derive(Debug)]
pub struct Verified {
    hash: Blake3,
}

/// What a symbol did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was there already.
    Duplicate,
    /// It is new, and more are needed.
    New,
    /// It was the last one needed.
    Enough,
}

/// A decoded block is not the one that the index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the block decodes to BLAKE3 {found}, the signed index says {expected}")]
pub struct Mismatch {
    /// What the index says.
    pub expected: Blake3,
    /// What it is.
    pub found: Blake3,
}

/// Repair symbols as they came.
#[derive(Debug, Clone, Copy)]
pub struct Repair<'a> {
    /// Their ids, K and more.
    pub esis: &'a [u32],
    /// They themselves, end to end.
    pub symbols: &'a [u8],
}

/// Lost symbols are more than repair symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the block cannot be decoded from the symbols that are there")]
pub struct Undecodable;

impl Block<Collecting> {
    /// An empty source block. `buffer` is used again.
    pub fn new(oti: Oti, sbn: Sbn, buffer: impl Into<Buffer>) -> Self {
        let (symbols, size) = (oti.source_symbols(sbn) as usize, oti.symbol_bytes());
        let mut buffer = buffer.into();
        // What it held is overwritten symbol by symbol, or by the decoder; only the length matters.
        buffer.resize(symbols * size);
        let state = Collecting {
            have: vec![0; (oti.encoding_symbols(sbn) as usize).div_ceil(64)],
            source_have: 0,
            repair: Vec::new(),
            repair_esis: Vec::new(),
        };
        Self { oti, sbn, source: buffer, state }
    }

    /// The object's transmission information.
    pub fn oti(&self) -> Oti {
        self.oti
    }

    /// Puts a symbol in its place. Symbols of another length, or with an id out of range, change nothing.
    pub fn add(&mut self, esi: Esi, symbol: &[u8]) -> Added {
        let at = esi.0 as usize;
        let size = self.oti.symbol_bytes();
        let missing = self.missing();
        let Some(word) = self.state.have.get_mut(at / 64) else { return Added::Duplicate };
        let bit = 1 << (at % 64);
        if *word & bit != 0 || symbol.len() != size {
            return Added::Duplicate;
        }
        if let Some(place) = self.source.get_mut(at * size..(at + 1) * size) {
            place.copy_from_slice(symbol);
            self.state.source_have += 1;
        } else if esi.0 < self.oti.encoding_symbols(self.sbn) {
            if self.state.repair_esis.is_empty() {
                // Once, and no more than can be needed: doubling would copy them again and again.
                let most = missing.min(self.oti.repair_symbols()) as usize;
                self.state.repair.reserve_exact(most * size);
                self.state.repair_esis.reserve_exact(most);
            }
            self.state.repair.extend_from_slice(symbol);
            self.state.repair_esis.push(esi.0);
        } else {
            return Added::Duplicate;
        }
        *word |= bit;
        if self.missing() == 0 { Added::Enough } else { Added::New }
    }

    /// Symbols that are still needed.
    pub fn missing(&self) -> u32 {
        let have = self.state.source_have + self.state.repair_esis.len() as u32;
        self.oti.source_symbols(self.sbn).saturating_sub(have)
    }

    /// Source symbols that repair symbols must replace.
    pub fn lost(&self) -> u32 {
        self.oti.source_symbols(self.sbn) - self.state.source_have
    }

    /// The symbols that are there, to be kept on disk while others wait.
    pub fn symbols(&self) -> impl Iterator<Item = (Esi, &[u8])> {
        let (size, k) = (self.oti.symbol_bytes(), self.oti.source_symbols(self.sbn) as usize);
        let source = self.source.chunks_exact(size).take(k).enumerate();
        let source = source.filter(|(at, _)| self.has(*at)).map(|(at, symbol)| (Esi(at as u32), symbol));
        let repair = self.state.repair_esis.iter().zip(self.state.repair.chunks_exact(size));
        source.chain(repair.map(|(esi, symbol)| (Esi(*esi), symbol)))
    }

    fn has(&self, at: usize) -> bool {
        self.state.have.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    /// Restores what is missing and hashes the octets.
    ///
    /// # Errors
    /// [`Undecodable`] if [`missing`](Self::missing) is not 0.
    pub fn decode(mut self, codec: &mut Codec) -> Result<Block<Decoded>, Undecodable> {
        if self.missing() > 0 {
            return Err(Undecodable);
        }
        if self.lost() > 0 {
            let mut source = std::mem::take(&mut self.source);
            let repair = Repair { esis: &self.state.repair_esis, symbols: &self.state.repair };
            codec.restore(self.oti, self.sbn, &mut source, |at| self.has(at), repair)?;
            self.source = source;
        }
        self.source.resize(self.oti.block_bytes(self.sbn));
        let hash = Blake3::of(&self.source);
        Ok(Block { oti: self.oti, sbn: self.sbn, source: self.source, state: Decoded { hash } })
    }
}

impl Block<Decoded> {
    /// What the octets hash to.
    pub fn hash(&self) -> Blake3 {
        self.state.hash
    }

    /// Its octets.
    pub fn bytes(&self) -> &[u8] {
        &self.source
    }

    /// Gives the buffer back.
    pub fn into_bytes(self) -> Buffer {
        self.source
    }

    /// Compares with what the index names. The only way to a verified block.
    pub fn verify(self, expected: Blake3) -> Result<Block<Verified>, (Mismatch, Buffer)> {
        let found = self.state.hash;
        if found != expected {
            return Err((Mismatch { expected, found }, self.source));
        }
        Ok(Block { oti: self.oti, sbn: self.sbn, source: self.source, state: Verified { hash: found } })
    }
}

impl Block<Verified> {
    /// Its digest.
    pub fn hash(&self) -> Blake3 {
        self.state.hash
    }

    /// Its octets.
    pub fn bytes(&self) -> &[u8] {
        &self.source
    }

    /// Gives the buffer back.
    pub fn into_bytes(self) -> Buffer {
        self.source
    }
}

#[cfg(test)]
mod tests {
    use super::super::RepairUse;
    use super::*;

    fn block(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[test]
    fn any_k_symbols_give_the_block_back() {
        let mut codec = Codec::default();
        for (len, symbol_bytes) in [(1, 1392), (1000, 64), (4096, 64), (1 << 20, 1392), ((1 << 20) - 1, 8896)]
        {
            let data = block(len);
            let oti = Oti::for_object(len as u32, symbol_bytes, RepairUse::Data);
            let encoded = codec.encode(oti, Sbn(0), data.clone(), Vec::new());
            let (k, all) = (oti.source_symbols(Sbn(0)), oti.encoding_symbols(Sbn(0)));
            // As many source symbols lost as there are repair symbols, from the front and from the back.
            let lost = k.min(all - k);
            for kept in [(lost..lost + k).collect::<Vec<_>>(), (0..k - lost).chain(all - lost..all).collect()]
            {
                let mut collecting = Block::new(oti, Sbn(0), vec![0xaa; 10]);
                for (count, esi) in kept.iter().enumerate() {
                    let added = collecting.add(Esi(*esi), encoded.symbol(Esi(*esi)));
                    let expected = if count + 1 == kept.len() { Added::Enough } else { Added::New };
                    assert_eq!(added, expected);
                    assert_eq!(collecting.add(Esi(*esi), encoded.symbol(Esi(*esi))), Added::Duplicate);
                }
                let decoded = collecting.decode(&mut codec).unwrap();
                assert_eq!(decoded.bytes(), data);
                assert!(decoded.verify(Blake3::of(&data)).is_ok());
            }
        }
    }

    #[test]
    fn one_symbol_too_few_decodes_nothing() {
        let mut codec = Codec::default();
        let oti = Oti::for_object(4000, 100, RepairUse::Data);
        let encoded = codec.encode(oti, Sbn(0), block(4000), Vec::new());
        let mut collecting = Block::new(oti, Sbn(0), Vec::new());
        for esi in 1..40 {
            collecting.add(Esi(esi), encoded.symbol(Esi(esi)));
        }
        assert_eq!(collecting.missing(), 1);
        assert_eq!(collecting.decode(&mut codec).unwrap_err(), Undecodable);
    }

    #[test]
    fn another_block_is_not_verified() {
        let mut codec = Codec::default();
        let oti = Oti::for_object(10, 100, RepairUse::Data);
        let encoded = codec.encode(oti, Sbn(0), block(10), Vec::new());
        let mut collecting = Block::new(oti, Sbn(0), Vec::new());
        assert_eq!(collecting.add(Esi(0), encoded.symbol(Esi(0))), Added::Enough);
        let (mismatch, _) = collecting.decode(&mut codec).unwrap().verify(Blake3([0; 32])).unwrap_err();
        assert_eq!(mismatch.found, Blake3::of(&block(10)));
    }

    #[test]
    fn symbols_out_of_range_change_nothing() {
        let oti = Oti::for_object(1000, 100, RepairUse::Data);
        let mut collecting = Block::new(oti, Sbn(0), Vec::new());
        let all = oti.encoding_symbols(Sbn(0));
        for esi in [all, all + 1, 63, 64, u32::MAX] {
            assert_eq!(collecting.add(Esi(esi), &[0; 100]), Added::Duplicate, "{esi}");
        }
        assert_eq!(collecting.add(Esi(0), &[0; 99]), Added::Duplicate);
        assert_eq!(collecting.missing(), 10);
    }
}
