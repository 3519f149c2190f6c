//! What is carried by hand: volumes, and resend tickets.

use diodesync::id::LinkId;
use diodesync::link::{LinkKey, Paired, PairingSecret, ReceiverKey};
use diodesync::ticket::{Ticket, What};
use diodesync::volume::{Layout, Manifest, Piece, SLOT_PAYLOAD_BYTES, VolumeNo};
use ed25519_dalek::Signer;

use super::choice;

const LINK: LinkId = LinkId(*b"simulated link 1");
const LINK_SEED: [u8; 32] = [1; 32];
const SECRET: PairingSecret = PairingSecret([3; 32]);
/// What the link key signs before a manifest's octets.
const CONTEXT: &[u8] = b"diodesync export 1";

/// What both ends of the seeds' link know.
pub fn paired() -> Paired {
    let senders = vec![LinkKey::from_seed(&LINK_SEED).verifier()];
    Paired { link: LINK, senders, secret: SECRET, keys: vec![ReceiverKey::from_seed(&[2; 32])] }
}

/// A manifest without its signature, which is put on here, or the header of a slot.
pub fn volume(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 3) else { return };
    match kind {
        0 => {
            if Manifest::open(rest, &paired()).is_ok() {
                panic!("nobody has signed {rest:?}");
            }
        }
        1 => {
            let key = ed25519_dalek::SigningKey::from_bytes(&LINK_SEED);
            let signature = key.sign(&[CONTEXT, rest].concat()).to_bytes();
            let octets = [rest, &signature].concat();
            match Manifest::open(&octets, &paired()) {
                Ok((manifest, _)) => {
                    assert_eq!(manifest.encode(&LinkKey::from_seed(&LINK_SEED)), octets, "one encoding");
                    layout(&manifest.layout);
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        _ => {
            if let Ok(piece) = Piece::parse(rest) {
                let header = piece.encode();
                assert!(header.starts_with(rest) || rest.starts_with(&header), "one piece has one header");
                assert!((1..=SLOT_PAYLOAD_BYTES).contains(&piece.bytes()));
                assert!(piece.number < piece.count());
                assert!(piece.offset() + piece.bytes() as u64 <= u64::from(piece.object_bytes));
            }
        }
    }
}

/// Every slot has one place, and every place its slot.
fn layout(layout: &Layout) {
    let (slots, volumes) = (layout.slots(), layout.volumes());
    assert!(layout.data_slots() <= slots && volumes > 0);
    for slot in [0, 1, layout.data_slots() - 1, layout.data_slots(), slots / 2, slots - 1] {
        let slot = slot.min(slots - 1);
        let shard = layout.shard(slot);
        assert!(shard.codeword < layout.codewords());
        assert!(shard.place < layout.data_shards() + layout.parity_shards());
        assert_eq!(layout.slot(shard), Some(slot));
        assert!(layout.volume(slot).0 < volumes);
    }
    for volume in [0, volumes / 2, volumes - 1].map(VolumeNo) {
        let all = layout.slots_of(volume);
        assert!(all.first < all.end && all.end <= slots);
        if all.end - all.first > 1 << 20 {
            continue;
        }
        let mut at = all.first;
        for file in layout.files_of(volume) {
            assert_eq!(file.first, at);
            assert!(file.end > file.first);
            at = file.end;
        }
        assert_eq!(at, all.end);
        let _ = layout.volume_bytes(volume);
    }
}

/// A text as it is typed, or the octets of a ticket, whose MAC and checks are put on here.
pub fn ticket(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 2) else { return };
    let text = if kind == 0 {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        text.to_owned()
    } else {
        Ticket::seal(rest, &SECRET)
    };
    match Ticket::parse(&text, LINK, &SECRET) {
        Ok(ticket) => {
            let again = ticket.encode(LINK, &SECRET);
            if kind == 1 {
                assert_eq!(again, text, "one ticket has one text");
            }
            assert_eq!(Ticket::parse(&again, LINK, &SECRET).as_ref(), Ok(&ticket));
            for want in &ticket.wants {
                if let What::Blocks { runs, .. } = &want.what {
                    let mut end = None;
                    for (first, count) in runs {
                        assert!(
                            *count > 0 && end.is_none_or(|end| *first > end),
                            "runs rise and do not touch"
                        );
                        end = first.checked_add(*count);
                        assert!(end.is_some());
                    }
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
