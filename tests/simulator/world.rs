//! What the whole-protocol tests share: numbers that a seed decides, one fixed pairing, and sealing by hand.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use diodesync::id::{LaneId, LinkId, SessionNo};
use diodesync::link::{LinkKey, Paired, PairingSecret, ReceiverKey, Sealer, SessionSecret, offer_session};
use diodesync::recv::{Intake, Intaken};
use diodesync::wire::{SEALED_HEADER_BYTES, SessionId, TAG_BYTES};

/// Random numbers that a seed decides.
pub struct Rng(blake3::OutputReader);

impl Rng {
    /// The same seed and purpose give the same numbers.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_be_bytes()).update(purpose.as_bytes());
        Self(hasher.finalize_xof())
    }

    pub fn number(&mut self) -> u64 {
        let mut octets = [0; 8];
        self.0.fill(&mut octets);
        u64::from_be_bytes(octets)
    }

    /// From `least` to `most`, both included.
    pub fn range(&mut self, least: usize, most: usize) -> usize {
        least + (self.number() % (most - least + 1) as u64) as usize
    }

    /// True in `per_mille` of a thousand cases.
    pub fn chance(&mut self, per_mille: usize) -> bool {
        self.range(0, 999) < per_mille
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() - 1)]
    }

    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        self.0.fill(&mut octets);
        octets
    }
}

impl hpke::rand_core::TryRng for Rng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.number() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.number())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Rng {}

/// The one pairing of these tests.
pub const LINK: LinkId = LinkId(*b"simulated link 1");

pub fn link_key() -> LinkKey {
    LinkKey::from_seed(&[1; 32])
}

pub fn receiver_key() -> ReceiverKey {
    ReceiverKey::from_seed(&[2; 32])
}

pub fn pairing_secret() -> PairingSecret {
    PairingSecret([3; 32])
}

pub fn paired() -> Paired {
    Paired {
        link: LINK,
        senders: vec![link_key().verifier()],
        secret: pairing_secret(),
        keys: vec![receiver_key()],
    }
}

/// The one lane of these tests.
pub fn lane() -> LaneId {
    "lane0".parse().unwrap()
}

pub fn session_id(number: SessionNo) -> SessionId {
    SessionId { link: LINK, number, lane: Some(lane()) }
}

/// A session as the sender of this pairing makes it.
pub fn offer(rng: &mut Rng, number: SessionNo) -> (SessionSecret, Vec<u8>) {
    offer_of(rng, &session_id(number))
}

pub fn offer_of(rng: &mut Rng, id: &SessionId) -> (SessionSecret, Vec<u8>) {
    let receivers = [receiver_key().public().clone()];
    offer_session(rng, id, &pairing_secret(), &link_key(), &receivers).unwrap()
}

/// Seals any octets, so that a lie is authentic.
pub fn seal(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; SEALED_HEADER_BYTES];
    datagram.extend_from_slice(plain);
    datagram.extend_from_slice(&[0; TAG_BYTES]);
    sealer.seal(&mut datagram).unwrap();
    datagram
}

/// Where every virtual clock starts. Nothing depends on when that is.
#[allow(clippy::disallowed_methods)]
pub fn start() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// A receiver that has accepted a session, and the sender's end of it.
pub fn joined(now: Instant, number: SessionNo) -> (Intake, Sealer, Vec<u8>) {
    let (secret, offer) = offer(&mut Rng::new(number.0, "session"), number);
    let mut intake = Intake::new(lane(), paired(), None);
    let Ok(Intaken::NewSession(pending)) = intake.handle_datagram(now, &mut offer.clone()) else {
        panic!("the session is not accepted");
    };
    intake.adopt(pending, 0);
    (intake, Sealer::new(secret, &session_id(number)).unwrap(), offer)
}
