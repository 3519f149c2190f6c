//! Source blocks of an index or a trust bundle into the object.

use crate::fec::Oti;
use crate::id::{Blake3, Sbn};
use crate::wire::ObjectId;

/// Objects that are being put together, the least recently touched first.
#[derive(Debug, Default)]
pub struct Assembler {
    objects: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    object: ObjectId,
    transfer_bytes: u32,
    /// Source blocks by number; empty ones are missing.
    blocks: Vec<Vec<u8>>,
}

/// What became of a source block.
#[derive(Debug, PartialEq, Eq)]
pub enum Assembled {
    /// Others are missing.
    Waiting,
    /// It was the last one; the object's octets have the digest that its tag begins.
    Whole(Vec<u8>),
    /// This object was given up, with so many source blocks, which must come again: another took its place, or it does
    /// not have the digest that its tag begins.
    Forgotten(ObjectId, u32),
}

/// Objects put together at once: the trust bundle and the indexes of as many channels as overtake each other.
const OBJECTS_MAX: usize = 16;

impl Assembler {
    /// Takes a decoded source block.
    pub fn handle_block(&mut self, object: ObjectId, oti: Oti, sbn: Sbn, bytes: Vec<u8>) -> Assembled {
        let tag = match object {
            ObjectId::Index(tag) | ObjectId::Trust(tag) => tag,
            ObjectId::Block(_) => return Assembled::Waiting,
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
            let forgotten = (self.objects.len() >= OBJECTS_MAX).then(|| self.objects.remove(0));
            self.objects.push(partial);
            return match forgotten {
                Some(Partial { object, blocks, .. }) => Assembled::Forgotten(object, blocks.len() as u32),
                None => Assembled::Waiting,
            };
        }
        let whole = partial.blocks.concat();
        if Blake3::of(&whole).tag() == tag {
            Assembled::Whole(whole)
        } else {
            Assembled::Forgotten(object, oti.source_blocks())
        }
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
            assert_eq!(assembler.handle_block(object(n), oti, Sbn(1), vec![n]), Assembled::Waiting);
        }
        assert_eq!(
            assembler.handle_block(object(0), oti, Sbn(1), vec![0]),
            Assembled::Waiting,
            "touched again"
        );
        let forgotten = assembler.handle_block(object(99), oti, Sbn(1), vec![9]);
        assert_eq!(forgotten, Assembled::Forgotten(object(1), 2));
    }

    #[test]
    fn an_object_that_is_not_what_its_tag_says_is_named() {
        let mut assembler = Assembler::default();
        let oti = Oti::for_object(3, 1392, RepairUse::Control);
        let object = ObjectId::Trust(Blake3::of(b"abc").tag());
        let whole = assembler.handle_block(object, oti, Sbn(0), b"abc".to_vec());
        assert_eq!(whole, Assembled::Whole(b"abc".to_vec()));
        let other = assembler.handle_block(object, oti, Sbn(0), b"abd".to_vec());
        assert_eq!(other, Assembled::Forgotten(object, 1));
    }
}
