//! Where a slot is: arithmetic, and nothing else.
//!
//! ```text
//! slots       0 … D−1 data, D … D + C·R − 1 parity
//! codeword c  data slots i with i mod C = c, shard i / C of K; parity slots D + j with j mod C = c, shard K + j / C
//! volume v    slots v·V … v·V + V − 1
//! ```
//!
//! The last shard of some codewords has no slot: it is all zeros and is written nowhere.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{DATA_SLOT_BYTES, FILE_BYTES_MAX, MANIFEST_BYTES_MAX, PARITY_SLOT_BYTES};
use crate::codec::{CodecError, Reader, put_varint};

/// Shards of data of one codeword: what a repair holds in memory is 13 MiB.
const DATA_SHARDS_MAX: u32 = 200;
/// Shards of parity of one codeword.
const PARITY_SHARDS_MAX: u32 = 200;
/// Slots of an export: 64 TiB.
const SLOTS_MAX: u64 = 1 << 30;
/// Octets of a volume that no slot uses: manifest, marker, and what a file system takes for folders and files.
const VOLUME_OVERHEAD_BYTES: u64 = 4 * MANIFEST_BYTES_MAX as u64 + 1024 * 1024;

/// A volume, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNo(pub u32);

/// A slot's place in its codeword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The codeword.
    pub codeword: u32,
    /// The place: `0..K` data, `K..K+R` parity.
    pub place: u32,
}

/// Slots that lie end to end in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first slot.
    pub first: u32,
    /// The slot after the last.
    pub end: u32,
}

/// An export that cannot be laid out so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// There is nothing to export.
    #[error("there is nothing to export")]
    Empty,
    /// Volumes too small to hold anything.
    #[error("a volume of {found} octets holds no data; expected {min} at least")]
    VolumeSize {
        /// What was asked for.
        found: u64,
        /// What is needed.
        min: u64,
    },
    /// More parity than the code has.
    #[error("parity is {found}%, expected 0% to 100%")]
    Parity {
        /// What was asked for.
        found: u32,
    },
    /// More than an export can be.
    #[error("the export needs {found} slots of 64 KiB, the limit is {SLOTS_MAX}")]
    Slots {
        /// What it needs.
        found: u64,
    },
}

/// How an export is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    data_slots: u32,
    codewords: u32,
    parity_shards: u32,
    volume_slots: u32,
}

impl Layout {
    /// For `data_slots` slots of data, with `parity_percent` of them in parity, on volumes of `volume_bytes` octets.
    pub fn new(data_slots: u64, parity_percent: u32, volume_bytes: u64) -> Result<Self, LayoutError> {
        if data_slots == 0 {
            return Err(LayoutError::Empty);
        }
        if parity_percent > 100 {
            return Err(LayoutError::Parity { found: parity_percent });
        }
        let codewords = data_slots.div_ceil(u64::from(DATA_SHARDS_MAX));
        let data_shards = data_slots.div_ceil(codewords);
        let parity_shards = (data_shards * u64::from(parity_percent)).div_ceil(100);
        let total = data_slots + parity_shards * codewords;
        if total > SLOTS_MAX {
            return Err(LayoutError::Slots { found: total });
        }
        let room = volume_bytes.saturating_sub(VOLUME_OVERHEAD_BYTES) / PARITY_SLOT_BYTES as u64;
        if room == 0 {
            let min = VOLUME_OVERHEAD_BYTES + PARITY_SLOT_BYTES as u64;
            return Err(LayoutError::VolumeSize { found: volume_bytes, min });
        }
        Ok(Self {
            data_slots: data_slots as u32,
            codewords: codewords as u32,
            parity_shards: parity_shards as u32,
            volume_slots: room.min(total) as u32,
        })
    }

    /// Slots of data: D.
    pub fn data_slots(&self) -> u32 {
        self.data_slots
    }

    /// Slots of data and parity.
    pub fn slots(&self) -> u32 {
        self.data_slots + self.codewords * self.parity_shards
    }

    /// Codewords: C.
    pub fn codewords(&self) -> u32 {
        self.codewords
    }

    /// Shards of data of a codeword: K.
    pub fn data_shards(&self) -> u32 {
        self.data_slots.div_ceil(self.codewords)
    }

    /// Shards of parity of a codeword: R.
    pub fn parity_shards(&self) -> u32 {
        self.parity_shards
    }

    /// Volumes.
    pub fn volumes(&self) -> u32 {
        self.slots().div_ceil(self.volume_slots)
    }

    /// Whether a slot is parity.
    pub fn is_parity(&self, slot: u32) -> bool {
        slot >= self.data_slots
    }

    /// Octets of a slot.
    pub fn slot_bytes(&self, slot: u32) -> usize {
        if self.is_parity(slot) { PARITY_SLOT_BYTES } else { DATA_SLOT_BYTES }
    }

    /// A slot's place in its codeword.
    pub fn shard(&self, slot: u32) -> Shard {
        let (at, base) = match slot.checked_sub(self.data_slots) {
            Some(parity) => (parity, self.data_shards()),
            None => (slot, 0),
        };
        Shard { codeword: at % self.codewords, place: base + at / self.codewords }
    }

    /// The slot at a place of a codeword; none where nothing is written.
    pub fn slot(&self, shard: Shard) -> Option<u32> {
        let Shard { codeword, place } = shard;
        let at = |place: u32| place.checked_mul(self.codewords)?.checked_add(codeword);
        match place.checked_sub(self.data_shards()) {
            None => at(place).filter(|slot| *slot < self.data_slots),
            Some(parity) if parity < self.parity_shards => self.data_slots.checked_add(at(parity)?),
            Some(_) => None,
        }
    }

    /// The volume that a slot lies on.
    pub fn volume(&self, slot: u32) -> VolumeNo {
        VolumeNo(slot / self.volume_slots)
    }

    /// The slots of a volume.
    pub fn slots_of(&self, volume: VolumeNo) -> Stretch {
        let first = volume.0.saturating_mul(self.volume_slots).min(self.slots());
        Stretch { first, end: first.saturating_add(self.volume_slots).min(self.slots()) }
    }

    /// The files of a volume. Data and parity never share one, so that slots of a file are of one length.
    pub fn files_of(&self, volume: VolumeNo) -> Vec<Stretch> {
        let per_file = (FILE_BYTES_MAX / PARITY_SLOT_BYTES as u64) as u32;
        let Stretch { first, end } = self.slots_of(volume);
        let mut files = Vec::new();
        let mut at = first;
        while at < end {
            let border = if self.is_parity(at) { end } else { end.min(self.data_slots) };
            let next = at.saturating_add(per_file).min(border);
            files.push(Stretch { first: at, end: next });
            at = next;
        }
        files
    }

    /// Octets of a volume's slots.
    pub fn volume_bytes(&self, volume: VolumeNo) -> u64 {
        let slots = self.slots_of(volume);
        (slots.first..slots.end).map(|slot| self.slot_bytes(slot) as u64).sum()
    }

    /// How many volumes may be lost, whichever they are.
    pub fn expendable_volumes(&self) -> u32 {
        // What the loss of a volume costs a codeword at most.
        let mut costs: Vec<u32> = (0..self.volumes())
            .map(|volume| {
                let Stretch { first, end } = self.slots_of(VolumeNo(volume));
                let data = end.min(self.data_slots).saturating_sub(first.min(self.data_slots));
                (data.div_ceil(self.codewords)) + (end - first - data).div_ceil(self.codewords)
            })
            .collect();
        costs.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = self.parity_shards;
        let affordable = costs.iter().take_while(|cost| match left.checked_sub(**cost) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        affordable.count() as u32
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for number in [self.data_slots, self.codewords, self.parity_shards, self.volume_slots] {
            put_varint(out, u64::from(number));
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut number = |what, max: u64| -> Result<u32, CodecError> {
            let found = reader.bounded(what, max)?;
            if found == 0 { Err(CodecError::Limit { what, found, max }) } else { Ok(found as u32) }
        };
        let data_slots = number("slots of data", SLOTS_MAX)?;
        let codewords = number("codewords", u64::from(data_slots))?;
        let shards = data_slots.div_ceil(codewords);
        if shards > DATA_SHARDS_MAX {
            let (found, max) = (u64::from(shards), u64::from(DATA_SHARDS_MAX));
            return Err(CodecError::Limit { what: "shards of a codeword", found, max });
        }
        let parity_shards = reader.bounded("shards of parity", u64::from(PARITY_SHARDS_MAX))? as u32;
        let total = u64::from(data_slots) + u64::from(codewords) * u64::from(parity_shards);
        if total > SLOTS_MAX {
            return Err(CodecError::Limit { what: "slots", found: total, max: SLOTS_MAX });
        }
        let volume_slots = reader.bounded("slots of a volume", total)? as u32;
        if volume_slots == 0 {
            return Err(CodecError::Limit { what: "slots of a volume", found: 0, max: total });
        }
        Ok(Self { data_slots, codewords, parity_shards, volume_slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(slots: u64) -> u64 {
        VOLUME_OVERHEAD_BYTES + slots * PARITY_SLOT_BYTES as u64
    }

    #[test]
    fn every_slot_has_one_place_and_every_place_one_slot() {
        for (data, parity, volume) in
            [(1, 0, 1), (1, 10, 5), (199, 10, 40), (200, 0, 7), (201, 10, 50), (5000, 13, 999)]
        {
            let layout = Layout::new(data, parity, bytes(volume)).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for slot in 0..layout.slots() {
                let shard = layout.shard(slot);
                assert_eq!(layout.slot(shard), Some(slot));
                assert!(shard.place < layout.data_shards() + layout.parity_shards());
                assert_eq!(shard.place >= layout.data_shards(), layout.is_parity(slot));
                assert!(seen.insert((shard.codeword, shard.place)));
            }
            let places =
                u64::from(layout.data_shards() + layout.parity_shards()) * u64::from(layout.codewords());
            let empty = places - u64::from(layout.slots());
            assert!(empty < u64::from(layout.codewords()), "{empty}");
            let files: Vec<Stretch> =
                (0..layout.volumes()).flat_map(|volume| layout.files_of(VolumeNo(volume))).collect();
            assert!(files.iter().all(|file| file.first < file.end));
            assert!(files.windows(2).all(|pair| pair[0].end == pair[1].first));
            assert_eq!((files[0].first, files.last().unwrap().end), (0, layout.slots()));
            let mut out = Vec::new();
            layout.put(&mut out);
            assert_eq!(Layout::parse(&mut Reader::new(&out)), Ok(layout));
        }
    }

    #[test]
    fn a_lost_volume_costs_each_codeword_no_more_than_is_said() {
        for (data, parity, volume) in
            [(1000, 10, 50), (1000, 10, 120), (777, 25, 100), (300, 100, 40), (90, 10, 100)]
        {
            let layout = Layout::new(data, parity, bytes(volume)).unwrap();
            let expendable = layout.expendable_volumes();
            let lost = |volumes: std::ops::Range<u32>| {
                let mut costs = vec![0; layout.codewords() as usize];
                for slot in (0..layout.slots()).filter(|slot| volumes.contains(&layout.volume(*slot).0)) {
                    costs[layout.shard(slot).codeword as usize] += 1;
                }
                costs.into_iter().max().unwrap()
            };
            for first in 0..layout.volumes().saturating_sub(expendable) {
                assert!(lost(first..first + expendable) <= layout.parity_shards(), "{layout:?} from {first}");
            }
        }
        // One stick of eleven, at the share that is the default.
        assert!(Layout::new(100_000, 10, bytes(10_000)).unwrap().expendable_volumes() >= 1);
        assert_eq!(Layout::new(1000, 0, bytes(10)).unwrap().expendable_volumes(), 0);
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        assert_eq!(Layout::new(0, 10, bytes(9)), Err(LayoutError::Empty));
        assert_eq!(Layout::new(1, 101, bytes(9)), Err(LayoutError::Parity { found: 101 }));
        assert!(matches!(Layout::new(1, 10, 1000), Err(LayoutError::VolumeSize { .. })));
        assert!(matches!(Layout::new(1 << 40, 10, u64::MAX), Err(LayoutError::Slots { .. })));
        let numbers = |numbers: [u64; 4]| {
            let mut out = Vec::new();
            numbers.into_iter().for_each(|number| put_varint(&mut out, number));
            Layout::parse(&mut Reader::new(&out))
        };
        assert!(numbers([10, 1, 1, 11]).is_ok());
        for bad in [
            [0, 1, 1, 1],
            [10, 0, 1, 1],
            [10, 11, 1, 1],
            [10, 1, 1, 0],
            [10, 1, 1, 12],
            [10, 1, 201, 1],
            [1000, 1, 1, 1],
            [1 << 30, 1 << 29, 1, 1],
            [1 << 31, 1 << 30, 0, 1],
        ] {
            assert!(numbers(bad).is_err(), "{bad:?}");
        }
    }
}
