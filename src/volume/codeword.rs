//! Parity over sealed slots: computing it, and restoring slots by it.

use super::{DATA_SLOT_BYTES, Layout, Shard};
use crate::fec::{ShardError, encode_shards, restore_shards};

/// The parity shards of a codeword, in the order of their places. `data` gives the sealed slot of a number.
pub fn parity_of<E>(
    layout: &Layout,
    codeword: u32,
    mut data: impl FnMut(u32) -> Result<Vec<u8>, E>,
) -> Result<Vec<Vec<u8>>, E>
where
    E: From<ShardError>,
{
    let mut shards = Vec::with_capacity(layout.data_shards() as usize);
    for place in 0..layout.data_shards() {
        shards.push(match layout.slot(Shard { codeword, place }) {
            Some(slot) => data(slot)?,
            None => vec![0; DATA_SLOT_BYTES],
        });
    }
    Ok(encode_shards(&shards, layout.parity_shards() as usize)?)
}

/// Restores the slots of data that a codeword lacks: their numbers and octets, as they were sealed. `has` gives a slot
/// of data as it is sealed, or a shard of parity, or none if it is lost.
///
/// What comes back is right only if what went in was: the caller opens it, which tells.
pub fn repair<E>(
    layout: &Layout,
    codeword: u32,
    mut has: impl FnMut(u32) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<(u32, Vec<u8>)>, E>
where
    E: From<ShardError>,
{
    let (mut data, mut parity) = (Vec::new(), Vec::new());
    let mut lost = 0;
    for place in 0..layout.data_shards() {
        data.push(match layout.slot(Shard { codeword, place }) {
            Some(slot) => has(slot)?,
            None => Some(vec![0; DATA_SLOT_BYTES]),
        });
        lost += usize::from(data.last().is_some_and(Option::is_none));
    }
    let parity_places = layout.data_shards()..layout.data_shards() + layout.parity_shards();
    for (number, place) in parity_places.enumerate() {
        // No more than are needed.
        if parity.len() == lost {
            break;
        }
        if let Some(slot) = layout.slot(Shard { codeword, place })
            && let Some(shard) = has(slot)?
        {
            parity.push((number, shard));
        }
    }
    let restored = restore_shards(&data, layout.parity_shards() as usize, &parity)?;
    let restored = restored
        .into_iter()
        .filter_map(|(place, shard)| Some((layout.slot(Shard { codeword, place: place as u32 })?, shard)));
    Ok(restored.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn as_many_slots_as_there_is_parity_come_back() {
        let layout = Layout::new(230, 10, 1 << 40).unwrap();
        assert_eq!((layout.codewords(), layout.data_shards(), layout.parity_shards()), (2, 115, 12));
        let mut slots: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut random = blake3::Hasher::new().update(b"slots").finalize_xof();
        for slot in 0..layout.data_slots() {
            let mut octets = vec![0; DATA_SLOT_BYTES];
            random.fill(&mut octets);
            slots.insert(slot, octets);
        }
        for codeword in 0..layout.codewords() {
            let parity = parity_of::<ShardError>(&layout, codeword, |slot| Ok(slots[&slot].clone())).unwrap();
            for (place, shard) in (layout.data_shards()..).zip(parity) {
                slots.insert(layout.slot(Shard { codeword, place }).unwrap(), shard);
            }
        }
        assert_eq!(slots.len(), layout.slots() as usize);
        // A stretch of 24 slots, somewhere and at the border of data and parity: 12 of each codeword.
        for first in [0, 100, layout.data_slots() - 10, layout.slots() - 24] {
            let lost = first..first + 24;
            let has = |slot| Ok((!lost.contains(&slot)).then(|| slots[&slot].clone()));
            for codeword in 0..layout.codewords() {
                let restored = repair::<ShardError>(&layout, codeword, has).unwrap();
                let expected = lost
                    .clone()
                    .filter(|s| *s < layout.data_slots() && layout.shard(*s).codeword == codeword);
                assert_eq!(restored.len(), expected.count());
                assert!(restored.iter().all(|(slot, octets)| slots[slot] == *octets));
            }
        }
        let too_many = |slot| Ok((!(0..26).contains(&slot)).then(|| slots[&slot].clone()));
        assert_eq!(
            repair::<ShardError>(&layout, 0, too_many),
            Err(ShardError::TooFew { lost: 13, parity: 12 })
        );
    }
}
