//! The detached signature over SHA256SUMS.

use std::collections::BTreeMap;

use pgp::composed::{Deserializable, DetachedSignature};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::KeyDetails;

use super::keys::{self, Key};
use super::{ProofError, SIGNATURE, Signer, check_size, hex_upper};

/// Signatures that one file may hold: a publisher that changes keys signs with both.
const SIGNATURES_MAX: usize = 16;

/// Reads the signatures in a file, binary or ASCII-armored.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Signature>, ProofError> {
    check_size(SIGNATURE, bytes.len() as u64)?;
    let refuse = |found: String| ProofError::SignatureFormat { found };
    let armored;
    let binary = if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes
    } else {
        let blocks = keys::armor_blocks(bytes, "SIGNATURE")?;
        let [block] = blocks.as_slice() else {
            return Err(refuse(format!("{} blocks of ASCII armor with a signature", blocks.len())));
        };
        armored = keys::dearmor(block).map_err(refuse)?;
        armored.as_slice()
    };
    let unreadable = |error: pgp::errors::Error| refuse(format!("what cannot be read ({error})"));
    let mut signatures = Vec::new();
    for signature in DetachedSignature::from_bytes_many(binary).map_err(unreadable)? {
        signatures.push(signature.map_err(unreadable)?.signature);
        if signatures.len() > SIGNATURES_MAX {
            return Err(ProofError::TooMany { what: "the signatures of SHA256SUMS", max: SIGNATURES_MAX });
        }
    }
    if signatures.is_empty() {
        return Err(refuse("no signature".to_owned()));
    }
    Ok(signatures)
}

/// Checks the first signature whose maker is among the keys.
pub(super) fn verify(content: &[u8], signatures: &[Signature], keys: &[Key]) -> Result<Signer, ProofError> {
    let mut strangers = Vec::new();
    for signature in signatures {
        let issuers = keys::issuers(signature);
        let is_issuer = |part: &dyn KeyDetails| {
            let (id, print) = (part.legacy_key_id(), part.fingerprint());
            issuers.iter().any(|name| *name == hex_upper(id.as_ref()) || *name == hex_upper(print.as_bytes()))
        };
        // Two keys may share an id, so one that fails is not the last word.
        let mut failed = None;
        for key in keys {
            if is_issuer(&key.cert.primary_key) {
                match check(signature, key, &key.cert.primary_key, content) {
                    Ok(()) => return keys::check_primary(key).map(|end| signer(key, signature, end)),
                    Err(error) => failed = Some(error),
                }
            }
            for subkey in &key.cert.public_subkeys {
                if is_issuer(&subkey.key) {
                    match check(signature, key, &subkey.key, content) {
                        Ok(()) => {
                            return keys::check_subkey(key, subkey).map(|end| signer(key, signature, end));
                        }
                        Err(error) => failed = Some(error),
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        strangers.extend(issuers);
    }
    Err(ProofError::UnknownKey {
        expected: keys.iter().map(|key| key.id.clone()).collect(),
        found: strangers,
    })
}

/// Whether one part of a key made the signature over the content, in a way that can be relied on.
fn check(
    signature: &Signature,
    key: &Key,
    part: &impl pgp::types::VerifyingKey,
    content: &[u8],
) -> Result<(), ProofError> {
    let bad = |why: String| Err(ProofError::BadSignature { key_id: key.id.clone(), why });
    let Some(config) = signature.config() else {
        return bad("its version is not known".to_owned());
    };
    match config.hash_alg {
        HashAlgorithm::Sha224
        | HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512
        | HashAlgorithm::Sha3_256
        | HashAlgorithm::Sha3_512 => {}
        weak => return Err(ProofError::WeakDigest { found: weak.to_string() }),
    }
    // A signature of another kind signs something else with the same key: a name, a subkey.
    if !matches!(config.typ(), SignatureType::Binary | SignatureType::Text) {
        return bad(format!("it is of kind {:?}, not over a document", config.typ()));
    }
    // What its maker marked as critical and we do not understand may take the signature back (RFC 9580 §5.2.3.7).
    let unknown = |data: &SubpacketData| {
        matches!(
            data,
            SubpacketData::Notation(_) | SubpacketData::Experimental(..) | SubpacketData::Other(..)
        )
    };
    if config.hashed_subpackets().any(|subpacket| subpacket.is_critical && unknown(&subpacket.data)) {
        return bad("it has a critical condition that is not known".to_owned());
    }
    signature.verify(part, content).or_else(|error| bad(error.to_string()))
}

/// The signatures of one file, each to be judged by itself.
#[derive(Debug)]
pub struct Signatures {
    signatures: Vec<Signature>,
    keys: Vec<Key>,
}

impl Signatures {
    /// Reads signatures, binary or ASCII-armored, and the keys that may have made them ([`super::split_keys`]).
    pub fn parse(signatures: &[u8], keys: &BTreeMap<String, Vec<u8>>) -> Result<Self, ProofError> {
        Ok(Self { signatures: parse(signatures)?, keys: keys::parse_labelled(keys)? })
    }

    /// What is to be said of each over a text.
    pub fn verify_each(&self, content: &[u8]) -> impl Iterator<Item = Result<Signer, ProofError>> {
        let one = |signature| verify(content, std::slice::from_ref(signature), &self.keys);
        self.signatures.iter().map(one)
    }
}

fn signer(key: &Key, signature: &Signature, key_expires_at: Option<u64>) -> Signer {
    let lifetime = signature.signature_expiration_time().map(|lifetime| u64::from(lifetime.as_secs()));
    let created = signature.created().map_or(0, |created| u64::from(created.as_secs()));
    Signer {
        key_id: key.id.clone(),
        fingerprint: key.fingerprint.clone(),
        key_expires_at,
        // Zero means never (RFC 9580 §5.2.3.18).
        signature_expires_at: lifetime.filter(|lifetime| *lifetime > 0).map(|lifetime| created + lifetime),
    }
}
