//! Sessions: offering one, sealing under it, opening it.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use thiserror::Error;
use zeroize::ZeroizeOnDrop;

use super::keys::{EncappedKey, LinkKey, LinkVerifier, PairingSecret, ReceiverKey, ReceiverPublic, psk};
use super::{KeyError, ReplayWindow};
use crate::aead::Aead;
use crate::id::{LaneId, LinkId, SessionNo};
use crate::limits::{KEY_EPOCH_LOG2, RECEIVER_KEYS_MAX};
use crate::wire::{
    SEALED_HEADER_BYTES, Sealed, SealedHeader, SealedSecret, SessionId, SessionOffer, TAG_BYTES, Version,
};

/// The secret of one session.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct SessionSecret([u8; 32]);

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret(…)")
    }
}

/// Why a datagram could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// All sequence numbers are used; a new session is needed.
    #[error("the session's sequence numbers are used up; restart the sender for a new session")]
    Exhausted,
    /// The buffer has no room for header and tag.
    #[error("the buffer is too short for header and tag")]
    Buffer,
}

/// Why a datagram, or a session offer, is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Sealed under a session that is not the accepted one.
    #[error("sealed under session {found:08x}, the accepted one is {expected:08x} (low 32 bits)")]
    OtherSession {
        /// The accepted session.
        expected: u32,
        /// The datagram's.
        found: u32,
    },
    /// Seen before, or older than the replay window.
    #[error("datagram {0} was seen before or is older than the replay window")]
    Replay(u64),
    /// The tag does not match.
    #[error("the datagram is not authentic")]
    Forged,
    /// Another link's session.
    #[error("the session is of link {found}, this receiver is paired with link {expected}")]
    OtherLink {
        /// The paired link.
        expected: LinkId,
        /// The offer's.
        found: LinkId,
    },
    /// Another lane's session.
    #[error(
        "the session is of lane {found}, and this is lane {expected}: the paths are crossed, or a lane has not the same name on both sides"
    )]
    OtherLane {
        /// The lane that it came on.
        expected: LaneId,
        /// The offer's.
        found: LaneId,
    },
    /// Lower than what may come.
    #[error("session {found} is old: {least} is the least that is accepted now")]
    OldSession {
        /// The least number that is accepted.
        least: SessionNo,
        /// The offer's.
        found: SessionNo,
    },
    /// The signature is not the link key's.
    #[error(
        "the session is not signed by the paired sender; if its link key was rotated while this receiver was down, see: \
         diode-receiver accept-link-key --help"
    )]
    Signature,
    /// Not sealed to this receiver.
    #[error("the session is not sealed to this receiver's key; pair the sender with this receiver.pub")]
    NotForUs,
}

/// Makes a session: the secret, and the SESSION datagram that offers it to up to eight receivers.
pub fn offer_session(
    rng: &mut impl CryptoRng,
    id: &SessionId,
    pairing: &PairingSecret,
    key: &LinkKey,
    receivers: &[ReceiverPublic],
) -> Result<(SessionSecret, Vec<u8>), KeyError> {
    let mut secret = SessionSecret([0; 32]);
    rng.fill_bytes(&mut secret.0);
    let sealed = seal_secret(rng, &secret.0, id.link, pairing, receivers, &session_info(id))?;
    let mut datagram = SessionOffer::encode_unsigned(id, &sealed);
    let signature = key.sign(id.version().signed_context(), &datagram);
    datagram.extend_from_slice(&signature);
    Ok((secret, datagram))
}

/// Seals a secret of 32 octets to 1 to 8 receivers (RFC 9180, `mode_psk` with the pairing secret). `info` says what it is
/// for, and differs for each secret.
pub(crate) fn seal_secret(
    rng: &mut impl CryptoRng,
    secret: &[u8; 32],
    link: LinkId,
    pairing: &PairingSecret,
    receivers: &[ReceiverPublic],
    info: &[u8],
) -> Result<Vec<SealedSecret>, KeyError> {
    if !(1..=RECEIVER_KEYS_MAX).contains(&receivers.len()) {
        return Err(KeyError::Receivers { found: receivers.len() });
    }
    let mut sealed = Vec::with_capacity(receivers.len());
    for receiver in receivers {
        let (encapsulated, mut context) = hpke::setup_sender_with_rng::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(
            &OpModeS::Psk(psk(pairing, &link)?), &receiver.0, info, rng
        )
        .map_err(|_| KeyError::Invalid("a receiver's public key"))?;
        let ciphertext =
            context.seal(secret, &[]).map_err(|_| KeyError::Invalid("a receiver's public key"))?;
        sealed.push(SealedSecret {
            key_id: receiver.id(),
            encapsulated: encapsulated.to_bytes().into(),
            ciphertext: ciphertext.try_into().map_err(|_| KeyError::Invalid("a receiver's public key"))?,
        });
    }
    Ok(sealed)
}

fn session_info(id: &SessionId) -> Vec<u8> {
    [id.version().signed_context(), &id.encode()].concat()
}

/// What a receiver was paired with.
#[derive(Debug, Clone)]
pub struct Paired {
    /// The link.
    pub link: LinkId,
    /// The sender's link keys, the oldest first: one, and while it is rotated the next one too.
    pub senders: Vec<LinkVerifier>,
    /// The shared secret.
    pub secret: PairingSecret,
    /// This receiver's keys: one, and while it is rotated the next one too.
    pub keys: Vec<ReceiverKey>,
}

impl Paired {
    /// The link key that has signed an offer.
    pub fn signer(&self, offer: &SessionOffer<'_>) -> Option<&LinkVerifier> {
        let context = offer.id.version().signed_context();
        self.senders.iter().find(|key| key.verify(context, offer.signed, &offer.signature))
    }

    /// Checks an offer that came on `lane`, numbered `least` or higher, and takes its secret out. The caller makes the
    /// number durable before anything is opened.
    ///
    /// # Errors
    /// Every way in which it is not a new session of the paired sender for this receiver.
    pub fn accept(
        &self,
        offer: &SessionOffer<'_>,
        lane: &LaneId,
        least: SessionNo,
    ) -> Result<SessionSecret, OpenError> {
        let id = &offer.id;
        if id.link != self.link {
            return Err(OpenError::OtherLink { expected: self.link, found: id.link });
        }
        if id.number < least {
            return Err(OpenError::OldSession { least, found: id.number });
        }
        if self.signer(offer).is_none() {
            return Err(OpenError::Signature);
        }
        // Only what is signed may tell an operator that the paths are crossed.
        if let Some(found) = id.lane.as_ref().filter(|found| *found != lane) {
            return Err(OpenError::OtherLane { expected: lane.clone(), found: found.clone() });
        }
        let secret = self.unseal(&offer.secrets, &session_info(id));
        secret.map(SessionSecret).ok_or(OpenError::NotForUs)
    }

    /// Whether the paired sender has signed `message` in `context`.
    pub(crate) fn has_signed(&self, context: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
        self.senders.iter().any(|key| key.verify(context, message, signature))
    }

    /// Opens what [`seal_secret`] has sealed, if it was to this receiver.
    pub(crate) fn unseal(&self, secrets: &[SealedSecret], info: &[u8]) -> Option<[u8; 32]> {
        self.keys.iter().find_map(|key| self.unseal_with(key, secrets, info))
    }

    fn unseal_with(&self, key: &ReceiverKey, secrets: &[SealedSecret], info: &[u8]) -> Option<[u8; 32]> {
        let id = key.public().id();
        let ours = secrets.iter().find(|sealed| sealed.key_id == id)?;
        let encapsulated = EncappedKey::from_bytes(&ours.encapsulated).ok()?;
        let mut context = hpke::setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Psk(psk(&self.secret, &self.link).ok()?),
            &key.private,
            &encapsulated,
            info,
        )
        .ok()?;
        context.open(&ours.ciphertext, &[]).ok()?.try_into().ok()
    }
}

/// Key and nonce base of one epoch: 2^28 datagrams.
struct EpochKey {
    epoch: u64,
    aead: Aead,
}

impl EpochKey {
    /// With the session number as salt; the info names the epoch.
    fn derive(secret: &SessionSecret, number: SessionNo, epoch: u64) -> Option<Self> {
        let info = [b"diodesync epoch 1".as_slice(), &epoch.to_be_bytes()];
        let aead = Aead::derive(&secret.0, &number.0.to_be_bytes(), &info)?;
        Some(Self { epoch, aead })
    }
}

/// The sending end of a session. Never two for one session: a sequence number is used once.
pub struct Sealer {
    secret: SessionSecret,
    number: SessionNo,
    version: Version,
    current: EpochKey,
    next_sequence: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} at {})", self.number, self.next_sequence)
    }
}

impl Sealer {
    /// For a session that was just made and whose number is durable.
    pub fn new(secret: SessionSecret, id: &SessionId) -> Result<Self, SealError> {
        let (number, version) = (id.number, id.version());
        let current = EpochKey::derive(&secret, number, 0).ok_or(SealError::Exhausted)?;
        Ok(Self { secret, number, version, current, next_sequence: 0 })
    }

    /// The session.
    pub fn number(&self) -> SessionNo {
        self.number
    }

    /// Datagrams sealed so far.
    pub fn sealed(&self) -> u64 {
        self.next_sequence
    }

    /// Seals a datagram in place: `datagram` has room for the header before the plain text and for the tag after it.
    pub fn seal(&mut self, datagram: &mut [u8]) -> Result<(), SealError> {
        let sequence = self.next_sequence;
        let epoch = sequence >> KEY_EPOCH_LOG2;
        if epoch != self.current.epoch {
            self.current = EpochKey::derive(&self.secret, self.number, epoch).ok_or(SealError::Exhausted)?;
        }
        let (head, rest) =
            datagram.split_first_chunk_mut::<SEALED_HEADER_BYTES>().ok_or(SealError::Buffer)?;
        let (body, tag) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or(SealError::Buffer)?;
        *head = SealedHeader { version: self.version, session_low: self.number.0 as u32, sequence }.encode();
        *tag = self.current.aead.seal(sequence, head, body).map_err(|_| SealError::Buffer)?;
        self.next_sequence = sequence.checked_add(1).ok_or(SealError::Exhausted)?;
        Ok(())
    }
}

/// The receiving end of a session.
pub struct Opener {
    secret: SessionSecret,
    number: SessionNo,
    /// The newest epoch's key and the one before, for datagrams that overtake each other at the border.
    keys: Vec<EpochKey>,
    window: ReplayWindow,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({} at {})", self.number, self.window.end())
    }
}

impl Opener {
    /// For a session that was accepted and whose number is durable. `floor` is the least sequence number that is
    /// taken: 0, or what was recorded before a restart of the receiver in the middle of the session.
    pub fn new(secret: SessionSecret, number: SessionNo, floor: u64) -> Self {
        Self { secret, number, keys: Vec::new(), window: ReplayWindow::starting_at(floor) }
    }

    /// The session.
    pub fn number(&self) -> SessionNo {
        self.number
    }

    /// The least number of datagrams that the sender has sent.
    pub fn sent_at_least(&self) -> u64 {
        self.window.end()
    }

    /// Opens a datagram in place and returns its plain text.
    pub fn open<'a>(&mut self, sealed: Sealed<'a>) -> Result<&'a [u8], OpenError> {
        let SealedHeader { session_low, sequence, .. } = sealed.header;
        let expected = self.number.0 as u32;
        if session_low != expected {
            return Err(OpenError::OtherSession { expected, found: session_low });
        }
        if !self.window.is_fresh(sequence) {
            return Err(OpenError::Replay(sequence));
        }
        let epoch = sequence >> KEY_EPOCH_LOG2;
        // A forged number must not make us derive keys without end: one derivation a datagram, and it is cheap.
        let known = self.keys.iter().position(|key| key.epoch == epoch);
        let fresh;
        let key = match known.and_then(|at| self.keys.get(at)) {
            Some(key) => key,
            None => {
                fresh = EpochKey::derive(&self.secret, self.number, epoch).ok_or(OpenError::Forged)?;
                &fresh
            }
        };
        let opened = key.aead.open(sequence, &sealed.associated, sealed.body);
        let plain = opened.map_err(|_| OpenError::Forged)?;
        if known.is_none() {
            self.remember(epoch);
        }
        self.window.record(sequence);
        Ok(plain)
    }

    fn remember(&mut self, epoch: u64) {
        self.keys.extend(EpochKey::derive(&self.secret, self.number, epoch));
        self.keys.sort_by_key(|key| std::cmp::Reverse(key.epoch));
        self.keys.truncate(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededRng;
    use crate::wire::Outer;

    struct World {
        rng: SeededRng,
        link_key: LinkKey,
        paired: Paired,
    }

    fn world() -> World {
        let link_key = LinkKey::from_seed(&[1; 32]);
        let paired = Paired {
            link: LinkId([7; 16]),
            senders: vec![link_key.verifier()],
            secret: PairingSecret([3; 32]),
            keys: vec![ReceiverKey::from_seed(&[2; 32])],
        };
        World { rng: SeededRng::new(9), link_key, paired }
    }

    fn offer(world: &mut World, number: u64) -> (SessionSecret, Vec<u8>) {
        let World { rng, link_key, paired } = world;
        let receivers = [ReceiverKey::from_seed(&[8; 32]).public().clone(), paired.keys[0].public().clone()];
        offer_session(rng, &id(number), &paired.secret, link_key, &receivers).unwrap()
    }

    fn lane() -> LaneId {
        "lane0".parse().unwrap()
    }

    fn id(number: u64) -> SessionId {
        SessionId { link: LinkId([7; 16]), number: SessionNo(number), lane: Some(lane()) }
    }

    fn accept(paired: &Paired, datagram: &mut [u8], least: u64) -> Result<SessionSecret, OpenError> {
        match Outer::parse(datagram).unwrap() {
            Outer::Session(offer) => paired.accept(&offer, &lane(), SessionNo(least)),
            Outer::Sealed(_) => panic!("not a session"),
        }
    }

    #[test]
    fn a_session_opens_for_the_paired_receiver_alone() {
        let mut world = world();
        let (secret, mut datagram) = offer(&mut world, 5);
        assert_eq!(accept(&world.paired, &mut datagram, 0), Ok(secret.clone()));
        assert_eq!(accept(&world.paired, &mut datagram, 5), Ok(secret));
        let old = accept(&world.paired, &mut datagram, 6).unwrap_err();
        assert_eq!(old, OpenError::OldSession { least: SessionNo(6), found: SessionNo(5) });

        let mut other = world.paired.clone();
        other.keys = vec![ReceiverKey::from_seed(&[4; 32])];
        assert_eq!(accept(&other, &mut datagram, 0), Err(OpenError::NotForUs));
        // While a receiver's key is rotated, either opens it.
        other.keys.push(world.paired.keys[0].clone());
        assert!(accept(&other, &mut datagram, 0).is_ok());
        let mut other = world.paired.clone();
        other.secret = PairingSecret([0; 32]);
        assert_eq!(accept(&other, &mut datagram, 0), Err(OpenError::NotForUs));
        let mut other = world.paired.clone();
        other.senders = vec![LinkKey::from_seed(&[4; 32]).verifier()];
        assert_eq!(accept(&other, &mut datagram, 0), Err(OpenError::Signature));
        let mut other = world.paired.clone();
        other.link = LinkId([0; 16]);
        assert!(matches!(accept(&other, &mut datagram, 0), Err(OpenError::OtherLink { .. })));
    }

    #[test]
    fn every_bit_of_a_session_matters() {
        let mut world = world();
        let (_, datagram) = offer(&mut world, 5);
        for at in 0..datagram.len() {
            let mut bad = datagram.clone();
            bad[at] ^= 1;
            let refused = match Outer::parse(&mut bad) {
                Err(_) => true,
                Ok(Outer::Session(offer)) => world.paired.accept(&offer, &lane(), SessionNo(0)).is_err(),
                Ok(Outer::Sealed(_)) => true,
            };
            assert!(refused, "octet {at}");
        }
    }

    #[test]
    fn what_was_recorded_on_one_lane_is_nothing_on_another() {
        let mut world = world();
        let (_, mut datagram) = offer(&mut world, 5);
        let Outer::Session(offer) = Outer::parse(&mut datagram).unwrap() else { panic!("not a session") };
        let other: LaneId = "lane1".parse().unwrap();
        let refused = world.paired.accept(&offer, &other, SessionNo(0)).unwrap_err();
        assert_eq!(refused, OpenError::OtherLane { expected: other, found: lane() });
    }

    #[test]
    fn a_session_of_version_1_opens_on_any_lane() {
        let World { mut rng, link_key, paired } = world();
        let receivers = [paired.keys[0].public().clone()];
        let old = SessionId { lane: None, ..id(5) };
        let (secret, mut datagram) =
            offer_session(&mut rng, &old, &paired.secret, &link_key, &receivers).unwrap();
        assert_eq!(datagram[2], 1);
        assert_eq!(accept(&paired, &mut datagram.clone(), 0), Ok(secret.clone()));
        // Its version cannot be changed on the way.
        datagram[2] = 2;
        assert!(Outer::parse(&mut datagram).is_err());
        let mut sealed = self::datagram(&mut Sealer::new(secret.clone(), &old).unwrap(), b"plain");
        let mut opener = Opener::new(secret, SessionNo(5), 0);
        sealed[2] = 2;
        assert_eq!(open(&mut opener, &sealed), Err(OpenError::Forged));
        sealed[2] = 1;
        assert_eq!(open(&mut opener, &sealed).unwrap(), b"plain");
    }

    fn datagram(sealer: &mut Sealer, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; SEALED_HEADER_BYTES];
        out.extend_from_slice(plain);
        out.extend_from_slice(&[0; TAG_BYTES]);
        sealer.seal(&mut out).unwrap();
        out
    }

    fn open(opener: &mut Opener, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut copy = datagram.to_vec();
        match Outer::parse(&mut copy).unwrap() {
            Outer::Sealed(sealed) => opener.open(sealed).map(<[u8]>::to_vec),
            Outer::Session(_) => panic!("not sealed"),
        }
    }

    #[test]
    fn sealed_datagrams_open_once_in_any_order() {
        let (number, secret) = (SessionNo(77), SessionSecret([5; 32]));
        let mut sealer = Sealer::new(secret.clone(), &id(number.0)).unwrap();
        let mut opener = Opener::new(secret, number, 0);
        let datagrams: Vec<_> = (0..10u8).map(|n| datagram(&mut sealer, &[n; 100])).collect();
        for n in [3, 0, 9, 1, 2, 4, 8, 7, 6, 5] {
            assert_eq!(open(&mut opener, &datagrams[n]).unwrap(), [n as u8; 100]);
            assert_eq!(open(&mut opener, &datagrams[n]), Err(OpenError::Replay(n as u64)));
        }
        assert_eq!(opener.sent_at_least(), 10);
    }

    #[test]
    fn every_bit_of_a_sealed_datagram_matters() {
        let (number, secret) = (SessionNo(77), SessionSecret([5; 32]));
        let good = datagram(&mut Sealer::new(secret.clone(), &id(number.0)).unwrap(), b"the plain text");
        let mut opener = Opener::new(secret, number, 0);
        for at in 4..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(open(&mut opener, &bad).is_err(), "octet {at}");
        }
        assert_eq!(open(&mut opener, &good).unwrap(), b"the plain text");
    }

    #[test]
    fn keys_change_with_the_epoch_and_datagrams_may_cross_the_border() {
        let (number, secret) = (SessionNo(1), SessionSecret([5; 32]));
        let mut sealer = Sealer::new(secret.clone(), &id(number.0)).unwrap();
        sealer.next_sequence = (1 << KEY_EPOCH_LOG2) - 1;
        let (last, first) = (datagram(&mut sealer, b"last"), datagram(&mut sealer, b"first"));
        let mut opener = Opener::new(secret, number, 0);
        assert_eq!(open(&mut opener, &first).unwrap(), b"first");
        assert_eq!(open(&mut opener, &last).unwrap(), b"last");
    }
}
