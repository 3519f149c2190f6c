//! The proof that a Terraform registry gives for a provider: SHA256SUMS, a detached OpenPGP signature over it, and
//! the keys that may have made it. The sender checks it at submission and the receiver before publication, with this
//! one [`verify`]; inside the gap every `terraform` checks the same octets again.
//!
//! What Terraform accepts is the measure, because a proof that passes here and fails there would be found too late:
//!
//! * Expired keys are accepted. A signature was made while its key was valid, and a provider is installed for years.
//! * The first signature whose issuer is among the keys decides; those by others are passed over.
//! * A revoked key, a subkey without a valid binding, and a key that is not for signing are refused.
//! * Stricter than Terraform: MD5 and SHA-1 are refused in the signature, because a chosen-prefix collision is within
//!   reach of whoever can get one document signed. In a key's own bindings SHA-1 is tolerated, since many keys that
//!   are still in use have them.
//!
//! Which keys may sign for a provider is policy and not decided here. Policy must compare fingerprints: a second key
//! with a given 64-bit key id can be made.

mod keys;
mod signature;
mod sums;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::id::Sha256;
use crate::limits::{PROOF_BYTES_MAX, PROVIDER_PARTS_MAX};

pub use keys::{fingerprints, key_ids, split_keys};
pub use signature::Signatures;
pub use sums::Sums;

/// What the sums are called in messages.
const SUMS: &str = "SHA256SUMS";
/// What the signature over them is called in messages.
const SIGNATURE: &str = "the signature of SHA256SUMS";

/// A proof as it was taken from the registry.
#[derive(Debug, Clone, Copy)]
pub struct ProofInput<'a> {
    /// SHA256SUMS.
    pub sums: &'a [u8],
    /// The detached signature over it, binary or ASCII-armored.
    pub signature: &'a [u8],
    /// One ASCII-armored public key for each primary key id, as [`split_keys`] gives them.
    pub keys: &'a BTreeMap<String, Vec<u8>>,
}

/// The key that signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The id of the primary key, 16 upper-case hexadecimal digits: what Terraform prints.
    pub key_id: String,
    /// The fingerprint of the primary key in upper-case hexadecimal digits: what policy compares.
    pub fingerprint: String,
    /// When the key expires by its own words, in seconds since 1970. Terraform does not mind, so it is no error here.
    pub key_expires_at: Option<u64>,
    /// When the signature itself expires, in seconds since 1970. Hardly any does, but Terraform refuses one that has,
    /// so a caller with a clock should hold a provider whose signature will not live to be used.
    pub signature_expires_at: Option<u64>,
}

/// Why a proof is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// A part is larger than a proof can be.
    #[error(
        "{what}: expected at most {max} octets, found {found}; check that this is the file that the registry names"
    )]
    Size {
        /// The part.
        what: &'static str,
        /// Octets found.
        found: u64,
        /// Octets allowed.
        max: u64,
    },
    /// There are more things than a proof can have.
    #[error("{what}: expected at most {max}, found more; remove what does not belong to this provider")]
    TooMany {
        /// The things.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A line of the sums is not a digest and a name.
    #[error(
        "SHA256SUMS line {line}: expected 64 hexadecimal digits, two spaces and a file name, found {found:?} ({why}); \
         take the file again from the registry, unchanged"
    )]
    SumsLine {
        /// The line, counted from 1.
        line: usize,
        /// Its beginning.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The sums name one file twice, and differently.
    #[error(
        "SHA256SUMS names {name} twice, as {first} and as {second}; the publisher must correct it, do not carry it"
    )]
    SumsConflict {
        /// The file.
        name: String,
        /// The digest named first.
        first: Sha256,
        /// The digest named next.
        second: Sha256,
    },
    /// The sums do not name an archive.
    #[error(
        "{name}: expected its digest in SHA256SUMS, found no such name there; submit the archive under the name that \
         the registry gives it, with the sums of its own version"
    )]
    ArchiveMissing {
        /// The archive.
        name: String,
    },
    /// The sums name another digest for an archive.
    #[error(
        "{name}: expected SHA-256 {expected} as SHA256SUMS says, found {found}; the archive is not the one that was \
         signed, download it again"
    )]
    ArchiveDigest {
        /// The archive.
        name: String,
        /// The digest in the sums.
        expected: Sha256,
        /// The digest of the archive.
        found: Sha256,
    },
    /// The signature cannot be read.
    #[error(
        "{SIGNATURE}: expected a detached OpenPGP signature, binary or ASCII-armored, found {found}; take the .sig \
         file again from the registry"
    )]
    SignatureFormat {
        /// What was found.
        found: String,
    },
    /// The signature was made with a digest that can be collided.
    #[error(
        "{SIGNATURE}: expected a digest that nobody can collide, like SHA-256, found {found}; the publisher must sign \
         again"
    )]
    WeakDigest {
        /// The digest's name.
        found: String,
    },
    /// None of the keys made the signature.
    #[error(
        "{SIGNATURE}: expected one by {}, found one by {}; submit the publisher's key that made it with --key",
        list(.expected),
        list(.found)
    )]
    UnknownKey {
        /// The primary key ids at hand.
        expected: Vec<String>,
        /// The key ids or fingerprints that the signature names.
        found: Vec<String>,
    },
    /// The signature is not one of these sums by this key.
    #[error(
        "{SIGNATURE}: expected one of this file by key {key_id}, found that it does not match ({why}); SHA256SUMS or \
         its signature was changed, do not carry it, take both again from the registry"
    )]
    BadSignature {
        /// The primary key.
        key_id: String,
        /// What the check said.
        why: String,
    },
    /// The key was revoked by its owner.
    #[error(
        "{SIGNATURE}: expected a key in force, found that key {key_id} is revoked by its owner; use a version that is \
         signed with the publisher's new key"
    )]
    Revoked {
        /// The primary key.
        key_id: String,
    },
    /// The key may not sign, or does not belong to the primary key it stands under.
    #[error(
        "{SIGNATURE}: expected a key that may sign, found that key {key_id} may not ({why}); take the key again from \
         the publisher"
    )]
    NotForSigning {
        /// The primary key.
        key_id: String,
        /// What is missing.
        why: &'static str,
    },
    /// A key file cannot be read.
    #[error(
        "the key file: expected OpenPGP public keys, found {found}; export them with: gpg --armor --export KEY"
    )]
    KeyFormat {
        /// What was found.
        found: String,
    },
    /// A key file holds a secret key.
    #[error(
        "the key file: expected public keys, found a private key; it was not read; keep it away from here and export \
         the public one with: gpg --armor --export KEY"
    )]
    PrivateKey,
    /// One key id comes twice.
    #[error("the key file: expected each key once, found {key_id} twice; keep the newer copy")]
    KeyTwice {
        /// The primary key.
        key_id: String,
    },
    /// A key of a proof is not the one that it is filed under.
    #[error(
        "the key filed under {expected}: expected that one ASCII-armored key, found {found}; submit it again"
    )]
    KeyLabel {
        /// The id it is filed under.
        expected: String,
        /// What the file holds.
        found: String,
    },
}

fn list(ids: &[String]) -> String {
    match ids {
        [] => "no key at all".to_owned(),
        [id] => format!("key {id}"),
        many => format!("one of the keys {}", many.join(", ")),
    }
}

/// The one check of a proof: the signature over the sums by one of the keys, then every archive in the sums.
///
/// `archives` are file names as the registry gives them with the digests of the files at hand. It may be a part of
/// what the sums name, since a site takes the platforms that it needs.
pub fn verify(proof: &ProofInput<'_>, archives: &[(String, Sha256)]) -> Result<Signer, ProofError> {
    let keys_max = PROVIDER_PARTS_MAX as usize;
    if proof.keys.len() > keys_max {
        return Err(ProofError::TooMany { what: "the keys of a provider", max: keys_max });
    }
    check_size("the keys of a provider together", proof.keys.values().map(|key| key.len() as u64).sum())?;
    let sums = Sums::parse(proof.sums)?;
    let signatures = signature::parse(proof.signature)?;
    let keys = keys::parse_labelled(proof.keys)?;
    let signer = signature::verify(proof.sums, &signatures, &keys)?;
    for (name, found) in archives {
        let expected = sums.get(name).ok_or_else(|| ProofError::ArchiveMissing { name: name.clone() })?;
        if expected != *found {
            return Err(ProofError::ArchiveDigest { name: name.clone(), expected, found: *found });
        }
    }
    Ok(signer)
}

/// Refuses what is too large to be a part of a proof.
fn check_size(what: &'static str, found: u64) -> Result<(), ProofError> {
    if found > PROOF_BYTES_MAX {
        return Err(ProofError::Size { what, found, max: PROOF_BYTES_MAX });
    }
    Ok(())
}

/// Octets as upper-case hexadecimal digits, as OpenPGP tools write key ids.
fn hex_upper(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}
