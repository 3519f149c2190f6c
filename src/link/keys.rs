//! The keys of a link.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, PskBundle, Serializable};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{Blake3, IdError, LinkId};
use crate::limits::RECEIVER_KEYS_MAX;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The octets are not a key.
    #[error("{0} is not a valid key")]
    Invalid(&'static str),
    /// The pairing file was made for another receiver, or changed on the way.
    #[error(
        "the pairing file's secret does not open with this receiver's key: it was made for another receiver.pub, or \
         it was changed on the way; make it again with this receiver's receiver.pub"
    )]
    NotForThisReceiver,
    /// A session is for one receiver at least, and for as many as its datagram can hold.
    #[error("a session is sealed to 1 to {RECEIVER_KEYS_MAX} receivers, here are {found}")]
    Receivers {
        /// How many there are.
        found: usize,
    },
}

/// The sender's link key: signs sessions.
#[derive(Clone, ZeroizeOnDrop)]
pub struct LinkKey(SigningKey);

impl LinkKey {
    /// From its 32 secret octets.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What the receiver needs to check its signatures.
    pub fn verifier(&self) -> LinkVerifier {
        LinkVerifier(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, context: &[u8], message: &[u8]) -> [u8; 64] {
        self.0.sign(&[context, message].concat()).to_bytes()
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(…)")
    }
}

/// The public half of the link key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkVerifier(VerifyingKey);

impl LinkVerifier {
    /// From its 32 octets (RFC 8032 §5.1.5); weak keys are refused.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Invalid("the link key"))?;
        if key.is_weak() { Err(KeyError::Invalid("the link key")) } else { Ok(Self(key)) }
    }

    /// Its 32 octets.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    pub(super) fn verify(&self, context: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(&[context, message].concat(), &Signature::from_bytes(signature)).is_ok()
    }
}

/// What both sides know besides public keys: mixed into every session (HPKE's `mode_psk`).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PairingSecret(pub [u8; 32]);

impl fmt::Debug for PairingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingSecret(…)")
    }
}

pub(super) type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
pub(super) type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
pub(super) type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// A receiver's key: opens sessions.
#[derive(Clone)]
pub struct ReceiverKey {
    pub(super) private: PrivateKey,
    public: ReceiverPublic,
}

impl fmt::Debug for ReceiverKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiverKey({}…)", self.public)
    }
}

impl ReceiverKey {
    /// Derived from 32 secret octets (RFC 9180 §7.1.3).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let (private, public) = X25519HkdfSha256::derive_keypair(seed);
        Self { private, public: ReceiverPublic(public) }
    }

    /// Its public half.
    pub fn public(&self) -> &ReceiverPublic {
        &self.public
    }
}

/// The public half of a receiver's key; as text, 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverPublic(pub(super) PublicKey);

impl ReceiverPublic {
    /// The name of the key on the wire.
    pub fn id(&self) -> [u8; 8] {
        Blake3::of(&self.0.to_bytes()).tag().0
    }
}

impl fmt::Display for ReceiverPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_bytes().iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for ReceiverPublic {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // Any 32 octets are an X25519 key; HPKE refuses the few bad ones when it is used (RFC 9180 §7.1.4).
        let error = || IdError {
            what: "a receiver's public key",
            expected: "64 lower-case hexadecimal digits",
            found: text.to_owned(),
        };
        let octets: Blake3 = text.parse().map_err(|_| error())?;
        PublicKey::from_bytes(&octets.0).map(Self).map_err(|_| error())
    }
}

const PAIRING_INFO: &[u8] = b"diodesync pairing 1";

/// Seals the pairing secret to the receiver, so that the pairing file can travel on any stick. Returns HPKE's
/// encapsulated key and the ciphertext (RFC 9180, base mode).
pub fn seal_pairing_secret(
    rng: &mut impl CryptoRng,
    secret: &PairingSecret,
    link: LinkId,
    to: &ReceiverPublic,
) -> Result<([u8; 32], Vec<u8>), KeyError> {
    let sealed = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &to.0,
        PAIRING_INFO,
        &secret.0,
        &link.0,
        rng,
    );
    let (encapsulated, ciphertext) = sealed.map_err(|_| KeyError::Invalid("receiver.pub"))?;
    Ok((encapsulated.to_bytes().into(), ciphertext))
}

/// Opens the pairing secret.
pub fn open_pairing_secret(
    key: &ReceiverKey,
    link: LinkId,
    encapsulated: &[u8; 32],
    ciphertext: &[u8],
) -> Result<PairingSecret, KeyError> {
    let encapsulated = EncappedKey::from_bytes(encapsulated).map_err(|_| KeyError::NotForThisReceiver)?;
    let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key.private,
        &encapsulated,
        PAIRING_INFO,
        ciphertext,
        &link.0,
    );
    let secret = opened.ok().and_then(|secret| secret.try_into().ok());
    secret.map(PairingSecret).ok_or(KeyError::NotForThisReceiver)
}

/// HPKE's pre-shared key: the pairing secret under the link's name.
pub(super) fn psk<'a>(secret: &'a PairingSecret, link: &'a LinkId) -> Result<PskBundle<'a>, KeyError> {
    PskBundle::new(&secret.0, &link.0).map_err(|_| KeyError::Invalid("the pairing secret"))
}
