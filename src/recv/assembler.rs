//! Source blocks of an index or a trust bundle into the object.

use crate::fec::Oti;
use crate::id::{Blake3, Sbn};
use crate::wire::ObjectId;

/// Objects that are being put together, the least recently touched first.
#[derive(Debug, Default)]
pub struct Assembler {
    objects: Vec<Partial>,
    /// Source blocks that were given up to make room.
    forgotten: Vec<(ObjectId, Sbn)>,
}

#[derive(Debug)]
struct Partial {
    object: ObjectId,
    transfer_bytes: u32,
    /// Source blocks by number; empty ones are missing.
    blocks: Vec<Vec<u8>>,
}

/// Objects put together at once: trust and index of two releases for each of two channels.
const OBJECTS_MAX: usize = 8;

impl Assembler {
    /// Takes a decoded source block; returns the object when it is whole and its octets have the digest that its tag
    /// begins. What does not is forgotten, and `Err` names it.
    pub fn handle_block(
        &mut self,
        object: ObjectId,
        oti: Oti,
        sbn: Sbn,
        bytes: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ObjectId> {
        let tag = match object {
            ObjectId::Index(tag) | ObjectId::Trust(tag) => tag,
            ObjectId::Block(_) => return Ok(None),
        };
        let transfer_bytes = oti.transfer_bytes();
        let at = self.objects.iter().position(|o| (o.object, o.transfer_bytes) == (object, transfer_bytes));
        let mut partial = match at {
            Some(at) => self.objects.remove(at),
            None => {
                Partial { object, transfer_bytes, blocks: vec![Vec::new(); oti.source_blocks() as usize] }
            }
        };
        if let Some(place) = partial.blocks.get_mut(sbn.0 as usize) {
            *place = bytes;
        }
        if partial.blocks.iter().any(Vec::is_empty) {
            if self.objects.len() >= OBJECTS_MAX {
                let Partial { object, blocks, .. } = self.objects.remove(0);
                let there = (0..).zip(&blocks).filter(|(_, block)| !block.is_empty());
                self.forgotten.extend(there.map(|(sbn, _)| (object, Sbn(sbn))));
            }
            self.objects.push(partial);
            return Ok(None);
        }
        let whole = partial.blocks.concat();
        if Blake3::of(&whole).tag() == tag { Ok(Some(whole)) } else { Err(object) }
    }

    /// Source blocks that had to make room for those of other objects. They are needed again: the caller tells the
    /// [`Collector`](super::Collector) that they are missing, or their object would never be whole.
    pub fn take_forgotten(&mut self) -> Vec<(ObjectId, Sbn)> {
        std::mem::take(&mut self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::RepairUse;
    use crate::id::ObjectTag;
    use crate::limits::BLOCK_BYTES;

    #[test]
    fn what_makes_room_is_named() {
        let mut assembler = Assembler::default();
        let oti = Oti::for_object(BLOCK_BYTES as u32 + 1, 1392, RepairUse::Control);
        let object = |n| ObjectId::Index(ObjectTag([n; 8]));
        for n in 0..OBJECTS_MAX as u8 {
            assert_eq!(assembler.handle_block(object(n), oti, Sbn(1), vec![n]), Ok(None));
        }
        assert_eq!(assembler.handle_block(object(0), oti, Sbn(1), vec![0]), Ok(None), "touched again");
        assert_eq!(assembler.take_forgotten(), []);
        assert_eq!(assembler.handle_block(object(99), oti, Sbn(1), vec![9]), Ok(None));
        assert_eq!(assembler.take_forgotten(), [(object(1), Sbn(1))]);
        assert_eq!(assembler.take_forgotten(), []);
    }

    #[test]
    fn an_object_that_is_not_what_its_tag_says_is_named() {
        let mut assembler = Assembler::default();
        let oti = Oti::for_object(3, 1392, RepairUse::Control);
        let whole = |tag| ObjectId::Trust(tag);
        let good = Blake3::of(b"abc").tag();
        assert_eq!(
            assembler.handle_block(whole(good), oti, Sbn(0), b"abc".to_vec()),
            Ok(Some(b"abc".to_vec()))
        );
        assert_eq!(assembler.handle_block(whole(good), oti, Sbn(0), b"abd".to_vec()), Err(whole(good)));
    }
}
