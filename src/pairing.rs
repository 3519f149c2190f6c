//! The pairing file: everything that a receiver must know of its sender, once, by hand.
//!
//! It may travel on any stick: the shared secret in it is sealed to the receiver. What it cannot do is prove where it
//! comes from, so both sides show its [`fingerprint`] and a person compares them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Blake3, LinkId};
use crate::link::{KeyError, LinkVerifier, Paired, PairingSecret, ReceiverKey, open_pairing_secret};
use crate::trust::{TrustError, TrustState};

/// `pairing.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairing {
    /// [`Pairing::VERSION`].
    pub version: u32,
    /// The link's name.
    pub link: LinkId,
    /// The sender's Ed25519 link key, hexadecimal.
    pub link_key: String,
    /// The X25519 key that the secret is sealed to, hexadecimal.
    pub receiver: String,
    /// HPKE's encapsulated key, base64.
    pub encapsulated: String,
    /// The sealed pairing secret, base64.
    pub sealed_secret: String,
    /// The first TUF root.
    pub root: String,
}

/// Why a pairing file is refused.
#[derive(Debug, Error)]
pub enum PairingError {
    /// Not JSON of the right shape.
    #[error("this is not a pairing file: {0}; it is made by: diode-sender init --receiver receiver.pub")]
    Shape(#[from] serde_json::Error),
    /// Of another version.
    #[error("the pairing file has version {found}, expected {}", Pairing::VERSION)]
    Version {
        /// The version found.
        found: u32,
    },
    /// Made for another receiver.
    #[error(
        "the pairing file is for the receiver with key {found}, this receiver's key is {expected}; run diode-sender \
         init with this receiver's receiver.pub"
    )]
    OtherReceiver {
        /// This receiver's key.
        expected: String,
        /// The key in the file.
        found: String,
    },
    /// A key in it is none.
    #[error("the pairing file is damaged: {0}")]
    Key(#[from] KeyError),
    /// A field in it is not what it should be.
    #[error("the pairing file is damaged: {0} is malformed")]
    Field(&'static str),
    /// Its root is not a TUF root.
    #[error("the pairing file is damaged: its TUF root is refused: {0}")]
    Root(TrustError),
}

impl Pairing {
    /// The version that is written and read.
    pub const VERSION: u32 = 1;

    /// Opens a pairing file with the receiver's key.
    pub fn open(text: &[u8], key: ReceiverKey) -> Result<(Paired, TrustState), PairingError> {
        use base64::Engine;
        let base64 = base64::prelude::BASE64_STANDARD;
        let pairing: Self = serde_json::from_slice(text)?;
        if pairing.version != Self::VERSION {
            return Err(PairingError::Version { found: pairing.version });
        }
        let expected = key.public().to_string();
        if pairing.receiver != expected {
            return Err(PairingError::OtherReceiver { expected, found: pairing.receiver });
        }
        let link_key: Blake3 = pairing.link_key.parse().map_err(|_| PairingError::Field("link_key"))?;
        let sender = LinkVerifier::from_bytes(&link_key.0)?;
        let encapsulated =
            base64.decode(&pairing.encapsulated).ok().and_then(|octets| octets.try_into().ok());
        let encapsulated = encapsulated.ok_or(PairingError::Field("encapsulated"))?;
        let sealed =
            base64.decode(&pairing.sealed_secret).map_err(|_| PairingError::Field("sealed_secret"))?;
        let secret = open_pairing_secret(&key, pairing.link, &encapsulated, &sealed)?;
        let state = TrustState::from_root(pairing.root.as_bytes()).map_err(PairingError::Root)?;
        Ok((Paired { link: pairing.link, senders: vec![sender], secret, keys: vec![key] }, state))
    }

    /// Reads a pairing file that was opened before, by a receiver whose key may be another one by now.
    pub fn reopen(
        text: &[u8],
        secret: PairingSecret,
        keys: Vec<ReceiverKey>,
    ) -> Result<(Paired, TrustState), PairingError> {
        let pairing: Self = serde_json::from_slice(text)?;
        if pairing.version != Self::VERSION {
            return Err(PairingError::Version { found: pairing.version });
        }
        let link_key: Blake3 = pairing.link_key.parse().map_err(|_| PairingError::Field("link_key"))?;
        let sender = LinkVerifier::from_bytes(&link_key.0)?;
        let state = TrustState::from_root(pairing.root.as_bytes()).map_err(PairingError::Root)?;
        Ok((Paired { link: pairing.link, senders: vec![sender], secret, keys }, state))
    }
}

/// What two people compare: the first 16 octets of the file's BLAKE3, in groups of four digits.
pub fn fingerprint(file: &[u8]) -> String {
    let digits: Vec<char> = Blake3::of(file).to_string().chars().take(32).collect();
    let groups: Vec<String> = digits.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::link::{LinkKey, seal_pairing_secret};
    use crate::testing::SeededRng;
    use crate::trust::{RoleKey, RoleKeys};

    fn pairing(receiver: &ReceiverKey) -> Pairing {
        let roles =
            RoleKeys { targets: RoleKey::from_seed(&[1; 32]), timestamp: RoleKey::from_seed(&[2; 32]) };
        let link = LinkId([5; 16]);
        let secret = PairingSecret([6; 32]);
        let mut rng = SeededRng::new(1);
        let (encapsulated, sealed) = seal_pairing_secret(&mut rng, &secret, link, receiver.public()).unwrap();
        Pairing {
            version: 1,
            link,
            link_key: Blake3(LinkKey::from_seed(&[7; 32]).verifier().to_bytes()).to_string(),
            receiver: receiver.public().to_string(),
            encapsulated: BASE64_STANDARD.encode(encapsulated),
            sealed_secret: BASE64_STANDARD.encode(sealed),
            root: String::from_utf8(roles.root(&RoleKey::from_seed(&[3; 32]), 1, 1_795_000_000)).unwrap(),
        }
    }

    fn open(pairing: &Pairing, key: &ReceiverKey) -> Result<(Paired, TrustState), PairingError> {
        Pairing::open(&serde_json::to_vec(pairing).unwrap(), key.clone())
    }

    #[test]
    fn the_right_receiver_opens_it_and_no_other() {
        let (ours, other) = (ReceiverKey::from_seed(&[1; 32]), ReceiverKey::from_seed(&[2; 32]));
        let good = pairing(&ours);
        let (paired, _) = open(&good, &ours).unwrap();
        assert_eq!((paired.link, paired.secret.0), (LinkId([5; 16]), [6; 32]));
        assert!(matches!(open(&good, &other), Err(PairingError::OtherReceiver { .. })));
        let redirected = Pairing { receiver: other.public().to_string(), ..good.clone() };
        assert!(matches!(open(&redirected, &other), Err(PairingError::Key(KeyError::NotForThisReceiver))));
        let renamed = Pairing { link: LinkId([0; 16]), ..good.clone() };
        assert!(matches!(open(&renamed, &ours), Err(PairingError::Key(KeyError::NotForThisReceiver))));
        let newer = Pairing { version: 2, ..good.clone() };
        assert!(matches!(open(&newer, &ours), Err(PairingError::Version { found: 2 })));
        let broken = Pairing { root: good.root.replace("ed25519", "ed25518"), ..good };
        assert!(matches!(open(&broken, &ours), Err(PairingError::Root(_))));
        assert!(matches!(Pairing::open(b"{}", ours), Err(PairingError::Shape(_))));
    }

    #[test]
    fn a_fingerprint_is_short_enough_to_read_aloud() {
        assert_eq!(fingerprint(b""), "af13 49b9 f5f9 a1a6 a040 4dea 36dc c949");
    }
}
