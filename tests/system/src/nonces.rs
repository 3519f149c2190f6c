//! Which nonces the sender has used: AES-GCM is broken by the first one that seals two things.
//!
//! A nonce belongs to a session and a sequence number, and a session to one secret. So over any number of restarts no
//! two SESSION datagrams may offer one number with different octets, and no two SEALED datagrams may have one session
//! and sequence number with different octets.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use diodesync::wire::Outer;

/// What was seen so far. 24 octets a datagram.
#[derive(Debug, Default)]
pub struct Nonces {
    /// By session number.
    offers: HashMap<u64, u64>,
    /// By the low half of the session number and the sequence number.
    sealed: HashMap<(u32, u64), u64>,
    reused: Vec<String>,
}

impl Nonces {
    /// Takes a datagram as it left the sender.
    pub fn record(&mut self, datagram: &[u8]) {
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        let digest = hasher.finish();
        let (before, what) = match Outer::parse(&mut datagram.to_vec()) {
            Ok(Outer::Session(offer)) => {
                (self.offers.insert(offer.id.number.0, digest), format!("session {}", offer.id.number))
            }
            Ok(Outer::Sealed(sealed)) => {
                let key = (sealed.header.session_low, sealed.header.sequence);
                (self.sealed.insert(key, digest), format!("session …{:08x}, datagram {}", key.0, key.1))
            }
            Err(error) => (None, error.to_string()),
        };
        if before.is_some_and(|before| before != digest) {
            self.reused.push(what);
        }
    }

    /// Sessions that were offered.
    pub fn sessions(&self) -> usize {
        self.offers.len()
    }

    /// Nonces that were used.
    pub fn used(&self) -> usize {
        self.sealed.len()
    }

    /// Nonces that sealed two things, and session numbers that two secrets had.
    pub fn reused(&self) -> &[String] {
        &self.reused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_reused_when_it_seals_another_thing() {
        let mut nonces = Nonces::default();
        let datagram = |sequence: u8, content: u8| {
            let mut datagram = vec![content; 60];
            datagram[..16].copy_from_slice(&[b'D', b'S', 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, sequence]);
            datagram
        };
        for (sequence, content) in [(0, 1), (1, 1), (0, 1)] {
            nonces.record(&datagram(sequence, content));
        }
        assert_eq!((nonces.used(), nonces.reused().len()), (2, 0));
        nonces.record(&datagram(1, 2));
        assert_eq!(nonces.reused(), ["session …00000009, datagram 1"]);
    }
}
