//! A signed statement of how far a log goes.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::ZeroizeOnDrop;

use super::{Head, Side};
use crate::id::{Blake3, LinkId, Sha256};

/// What is before that which is signed, so that a signature is good for nothing else.
const CONTEXT: &[u8] = b"diodesync audit checkpoint 1\n";

/// Signs checkpoints: an Ed25519 key of one side.
#[derive(Clone, ZeroizeOnDrop)]
pub struct AuditKey(SigningKey);

impl AuditKey {
    /// From its 32 secret octets.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What a verifier needs.
    pub fn public(&self) -> AuditPublic {
        AuditPublic(Blake3(self.0.verifying_key().to_bytes()))
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

/// The public half, written as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuditPublic(Blake3);

impl fmt::Display for AuditPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for AuditPublic {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        text.trim().parse().map(Self).map_err(|_| CheckpointError::Key { found: text.trim().to_owned() })
    }
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// It is not one.
    #[error("it is no checkpoint: {0}; one is made by: audit checkpoint")]
    Syntax(String),
    /// It is of a later version.
    #[error("the checkpoint is of version {found}, expected {}", Checkpoint::VERSION)]
    Version {
        /// Which.
        found: u32,
    },
    /// It is another side's, or another link's.
    #[error(
        "the checkpoint is signed with the audit key {found}, expected {expected}: it is of another log, or forged"
    )]
    OtherKey {
        /// The key that counts.
        expected: AuditPublic,
        /// The one that it names.
        found: AuditPublic,
    },
    /// The signature does not fit.
    #[error("the checkpoint was changed: its signature is not of the audit key {key}")]
    Signature {
        /// Which.
        key: AuditPublic,
    },
    /// A text is no key.
    #[error("expected an audit key of 64 hexadecimal digits, found {found:?}")]
    Key {
        /// The text.
        found: String,
    },
}

/// How far a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Version of what this is.
    pub version: u32,
    /// Whose log.
    pub side: Side,
    /// Of which link; none before the pairing.
    pub link: Option<LinkId>,
    /// The last entry.
    pub seq: u64,
    /// Its SHA-256.
    pub hash: Sha256,
    /// When this was made, milliseconds since 1970.
    pub time_ms: u64,
    /// The audit key.
    pub key: AuditPublic,
    /// Its signature, base64.
    pub signature: String,
}

impl Checkpoint {
    /// The one that is written.
    pub const VERSION: u32 = 1;

    /// Signs one.
    pub fn sign(key: &AuditKey, side: Side, link: Option<LinkId>, head: Head, time_ms: u64) -> Self {
        let mut checkpoint = Self {
            version: Self::VERSION,
            side,
            link,
            seq: head.seq,
            hash: head.hash,
            time_ms,
            key: key.public(),
            signature: String::new(),
        };
        checkpoint.signature = BASE64_STANDARD.encode(key.0.sign(&checkpoint.signed()).to_bytes());
        checkpoint
    }

    /// Reads one and checks its signature. `expected` is the key that it must be of.
    pub fn parse(text: &[u8], expected: AuditPublic) -> Result<Self, CheckpointError> {
        let checkpoint: Self =
            serde_json::from_slice(text).map_err(|error| CheckpointError::Syntax(error.to_string()))?;
        if checkpoint.version != Self::VERSION {
            return Err(CheckpointError::Version { found: checkpoint.version });
        }
        let key = checkpoint.key;
        if key != expected {
            return Err(CheckpointError::OtherKey { expected, found: key });
        }
        let signature = BASE64_STANDARD.decode(&checkpoint.signature).ok();
        let signature = signature.and_then(|octets| <[u8; 64]>::try_from(octets).ok());
        let verifier = VerifyingKey::from_bytes(&key.0.0).ok().filter(|key| !key.is_weak());
        let is_good = verifier.zip(signature).is_some_and(|(verifier, signature)| {
            verifier.verify_strict(&checkpoint.signed(), &Signature::from_bytes(&signature)).is_ok()
        });
        if is_good { Ok(checkpoint) } else { Err(CheckpointError::Signature { key }) }
    }

    /// The entry that it names.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// One line of JSON.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    fn signed(&self) -> Vec<u8> {
        let link = self.link.map_or_else(|| "-".to_owned(), |link| link.to_string());
        let Self { side, seq, hash, time_ms, .. } = self;
        let text = format!("{}\n{link}\n{seq}\n{hash}\n{time_ms}\n", side.as_str());
        [CONTEXT, text.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(key: &AuditKey) -> Checkpoint {
        let head = Head { seq: 42, hash: Sha256([7; 32]) };
        Checkpoint::sign(key, Side::Receiver, Some(LinkId([9; 16])), head, 1_795_000_000_000)
    }

    #[test]
    fn a_checkpoint_comes_back_and_is_as_it_is_specified() {
        let key = AuditKey::from_seed(&[3; 32]);
        let checkpoint = checkpoint(&key);
        let text = checkpoint.encode();
        assert_eq!(Checkpoint::parse(text.as_bytes(), key.public()).unwrap(), checkpoint);
        let start = format!(
            "{{\"version\":1,\"side\":\"receiver\",\"link\":\"{}\",\"seq\":42,\"hash\":\"{}\",\"time_ms\":1795000000000,",
            "09".repeat(16),
            "07".repeat(32)
        );
        assert!(text.starts_with(&start) && text.ends_with("\"}\n"), "{text}");
    }

    #[test]
    fn no_part_of_it_can_be_changed() {
        let key = AuditKey::from_seed(&[3; 32]);
        let good = checkpoint(&key);
        let lies = [
            Checkpoint { side: Side::Sender, ..good.clone() },
            Checkpoint { link: None, ..good.clone() },
            Checkpoint { seq: 41, ..good.clone() },
            Checkpoint { hash: Sha256([8; 32]), ..good.clone() },
            Checkpoint { time_ms: 1, ..good.clone() },
            Checkpoint { signature: String::new(), ..good.clone() },
            Checkpoint { signature: good.signature.replacen('A', "B", 1) + "=", ..good.clone() },
        ];
        for lie in lies {
            let error = Checkpoint::parse(lie.encode().as_bytes(), key.public()).unwrap_err();
            assert_eq!(error, CheckpointError::Signature { key: key.public() }, "{lie:?}");
        }
        let other = AuditKey::from_seed(&[4; 32]).public();
        let error = Checkpoint::parse(good.encode().as_bytes(), other).unwrap_err();
        assert_eq!(error, CheckpointError::OtherKey { expected: other, found: key.public() });
        // Another key under the name of the right one.
        let forged = Checkpoint { key: key.public(), ..checkpoint(&AuditKey::from_seed(&[4; 32])) };
        assert!(Checkpoint::parse(forged.encode().as_bytes(), key.public()).is_err());
        assert!(Checkpoint::parse(b"{}", key.public()).is_err());
        let later = Checkpoint { version: 2, ..good };
        let error = Checkpoint::parse(later.encode().as_bytes(), key.public()).unwrap_err();
        assert_eq!(error, CheckpointError::Version { found: 2 });
        assert!("zz".parse::<AuditPublic>().is_err());
    }
}
