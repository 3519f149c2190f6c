//! Public key files: reading them, taking them apart, and what a key allows its parts to do.

use std::collections::BTreeMap;
use std::io::Read;

use pgp::armor::Dearmor;
use pgp::composed::{ArmorOptions, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, KeyVersion, Tag};

use super::{ProofError, check_size, hex_upper};
use crate::limits::PROVIDER_PARTS_MAX;

/// Signatures of one key that are checked at most. Each costs a public-key operation, and a key file can hold as many
/// as fit into it; keys in use have a handful of their own.
const KEY_CHECKS_MAX: usize = 256;

/// A key with the names it goes by.
#[derive(Debug)]
pub(super) struct Key {
    /// The primary key's id.
    pub id: String,
    /// The primary key's fingerprint.
    pub fingerprint: String,
    /// The key itself.
    pub cert: SignedPublicKey,
}

/// The ids of the primary keys in a key file, ASCII-armored or binary, in its order.
pub fn key_ids(armored: &[u8]) -> Result<Vec<String>, ProofError> {
    Ok(parse(armored)?.keys.into_iter().map(|key| key.id).collect())
}

/// The fingerprints of the primary keys in a key file, ASCII-armored or binary, in its order.
pub fn fingerprints(armored: &[u8]) -> Result<Vec<String>, ProofError> {
    Ok(parse(armored)?.keys.into_iter().map(|key| key.fingerprint).collect())
}

/// One ASCII-armored key for each primary key in a key file, ASCII-armored or binary. A file that is one such key
/// already keeps its octets, since they go to clients as the publisher made them.
pub fn split_keys(armored: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, ProofError> {
    let file = parse(armored)?;
    let as_it_is = file.keys.len() == 1 && file.blocks == 1;
    let mut split = BTreeMap::new();
    for key in file.keys {
        let bytes = if as_it_is {
            armored.to_vec()
        } else {
            let options = ArmorOptions { headers: None, include_checksum: true };
            key.cert.to_armored_bytes(options).map_err(|e| unreadable(&e))?
        };
        split.insert(key.id, bytes);
    }
    Ok(split)
}

/// The keys of a proof, each of which must be what it is filed under, in the form that a registry serves.
pub(super) fn parse_labelled(keys: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Key>, ProofError> {
    let mut all = Vec::new();
    for (label, bytes) in keys {
        let refuse = |found: String| Err(ProofError::KeyLabel { expected: label.clone(), found });
        let file = parse(bytes)?;
        if file.blocks != 1 {
            return refuse("a file that is not one block of ASCII armor in UTF-8".to_owned());
        }
        match <[Key; 1]>::try_from(file.keys) {
            Ok([key]) if key.id == *label => all.push(key),
            Ok([key]) => return refuse(format!("key {}", key.id)),
            Err(several) => return refuse(format!("{} keys", several.len())),
        }
    }
    Ok(all)
}

/// What a key file holds.
struct KeyFile {
    keys: Vec<Key>,
    /// Blocks of ASCII armor; 0 where the file is binary, or not UTF-8 and so cannot be served in JSON as it is.
    blocks: usize,
}

fn parse(bytes: &[u8]) -> Result<KeyFile, ProofError> {
    check_size("the key file", bytes.len() as u64)?;
    let mut keys: Vec<Key> = Vec::new();
    let mut add = |binary: &[u8]| -> Result<(), ProofError> {
        for cert in SignedPublicKey::from_bytes_many(binary).map_err(|e| unreadable(&e))? {
            let key = name(cert.map_err(|e| unreadable(&e))?)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(ProofError::KeyTwice { key_id: key.id });
            }
            keys.push(key);
            if keys.len() > PROVIDER_PARTS_MAX as usize {
                let max = PROVIDER_PARTS_MAX as usize;
                return Err(ProofError::TooMany { what: "the keys of a key file", max });
            }
        }
        Ok(())
    };
    let mut blocks = 0;
    // The first octet of a packet has its highest bit set, which no ASCII has (RFC 9580 §4.2).
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        add(bytes)?;
    } else {
        for block in armor_blocks(bytes, "PUBLIC KEY BLOCK")? {
            add(&dearmor(block).map_err(|found| ProofError::KeyFormat { found })?)?;
            blocks += 1;
        }
        if std::str::from_utf8(bytes).is_err() {
            blocks = 0;
        }
    }
    if keys.is_empty() {
        return Err(ProofError::KeyFormat { found: "no public key".to_owned() });
    }
    Ok(KeyFile { keys, blocks })
}

fn name(cert: SignedPublicKey) -> Result<Key, ProofError> {
    if !matches!(cert.version(), KeyVersion::V4 | KeyVersion::V6) {
        let found = format!("a key of version {:?}, whose name is an MD5 digest", cert.version());
        return Err(ProofError::KeyFormat { found });
    }
    let id = hex_upper(cert.legacy_key_id().as_ref());
    let fingerprint = hex_upper(cert.fingerprint().as_bytes());
    Ok(Key { id, fingerprint, cert })
}

fn unreadable(error: &pgp::errors::Error) -> ProofError {
    ProofError::KeyFormat { found: format!("what cannot be read ({error})") }
}

/// The blocks of ASCII armor of one kind, each from its BEGIN to its END line. What stands outside is a comment.
pub(super) fn armor_blocks<'a>(bytes: &'a [u8], kind: &str) -> Result<Vec<&'a [u8]>, ProofError> {
    let (begin, end) = (format!("-----BEGIN PGP {kind}-----"), format!("-----END PGP {kind}-----"));
    let mut blocks = Vec::new();
    let (mut at, mut open) = (0, None);
    for line in bytes.split_inclusive(|octet| *octet == b'\n') {
        let text = line.trim_ascii();
        if text.starts_with(b"-----BEGIN PGP PRIVATE KEY") {
            return Err(ProofError::PrivateKey);
        } else if text == begin.as_bytes() {
            open = Some(at);
        } else if text == end.as_bytes()
            && let Some(block) = open.take().and_then(|start| bytes.get(start..at + line.len()))
        {
            blocks.push(block);
        }
        at += line.len();
    }
    Ok(blocks)
}

/// The octets in one block of ASCII armor.
pub(super) fn dearmor(block: &[u8]) -> Result<Vec<u8>, String> {
    let mut binary = Vec::new();
    match Dearmor::new(block).read_to_end(&mut binary) {
        Ok(_) => Ok(binary),
        Err(error) => Err(format!("broken ASCII armor ({error})")),
    }
}

/// Whether the primary key itself may sign documents: it is in force, and its newest valid signature over itself
/// does not say otherwise. When it expires, in seconds since 1970.
pub(super) fn check_primary(key: &Key) -> Result<Option<u64>, ProofError> {
    let why = match newest_self_signature(key, &mut Checks::default())? {
        None => "it has no valid signature over itself",
        Some(signature) if may_sign(signature) == Some(false) => "its owner did not make it for signing",
        Some(signature) => return Ok(expires_at(&key.cert.primary_key, signature)),
    };
    Err(ProofError::NotForSigning { key_id: key.id.clone(), why })
}

/// When a key expires by a signature over it, in seconds since 1970 (RFC 9580 §5.2.3.13).
fn expires_at(key: &impl KeyDetails, signature: &Signature) -> Option<u64> {
    let life_s =
        signature.key_expiration_time().map(|life| u64::from(life.as_secs())).filter(|life| *life > 0)?;
    Some(u64::from(key.created_at().as_secs()) + life_s)
}

/// The newest valid signature of a primary key over itself or its names; an error if it is revoked.
fn newest_self_signature<'a>(key: &'a Key, checks: &mut Checks) -> Result<Option<&'a Signature>, ProofError> {
    let primary = &key.cert.primary_key;
    let details = &key.cert.details;
    for revocation in &details.revocation_signatures {
        if checks.pass(revocation, || revocation.verify_key(primary))? {
            return Err(ProofError::Revoked { key_id: key.id.clone() });
        }
    }
    let mut newest: Option<&Signature> = None;
    let mut see = |signature| {
        if newest.is_none_or(|other| other.created() <= Signature::created(signature)) {
            newest = Some(signature);
        }
    };
    for direct in &details.direct_signatures {
        if direct.typ() == Some(SignatureType::Key) && checks.pass(direct, || direct.verify_key(primary))? {
            see(direct);
        }
    }
    for user in &details.users {
        let mut own = Vec::new();
        for certification in &user.signatures {
            // Other people's signatures over a name are none of our concern, and there may be thousands.
            let by_itself = issuers(certification).iter().any(|id| *id == key.id || *id == key.fingerprint);
            let check = || certification.verify_certification(primary, Tag::UserId, &user.id);
            if by_itself && checks.pass(certification, check)? {
                own.push(certification);
            }
        }
        if !own.iter().any(|signature| signature.typ() == Some(SignatureType::CertRevocation)) {
            own.into_iter().for_each(&mut see);
        }
    }
    Ok(newest)
}

/// Whether a subkey may sign documents for its primary key: it is bound by it, binds it in return, is for signing and
/// in force. When it or the primary key expires, in seconds since 1970.
pub(super) fn check_subkey(key: &Key, subkey: &SignedPublicSubKey) -> Result<Option<u64>, ProofError> {
    let primary = &key.cert.primary_key;
    let mut checks = Checks::default();
    let of_primary = newest_self_signature(key, &mut checks)?;
    let primary_end = of_primary.and_then(|signature| expires_at(primary, signature));
    let mut newest: Option<&Signature> = None;
    for signature in &subkey.signatures {
        if !checks.pass(signature, || signature.verify_subkey_binding(primary, &subkey.key))? {
            continue;
        }
        if signature.typ() == Some(SignatureType::SubkeyRevocation) {
            return Err(ProofError::Revoked { key_id: key.id.clone() });
        }
        if newest.is_none_or(|other| other.created() <= signature.created()) {
            newest = Some(signature);
        }
    }
    let refuse = |why| Err(ProofError::NotForSigning { key_id: key.id.clone(), why });
    let Some(binding) = newest else {
        return refuse("the primary key did not bind the subkey that signed");
    };
    if may_sign(binding) != Some(true) {
        return refuse("the subkey that signed was not made for signing");
    }
    // Without the back signature, anybody could claim another's subkey, and with it what that one signed.
    let Some(back) = binding.embedded_signature() else {
        return refuse("the subkey that signed does not name its primary key");
    };
    let is_back = back.typ() == Some(SignatureType::KeyBinding);
    if !is_back || !checks.pass(back, || back.verify_primary_key_binding(&subkey.key, primary))? {
        return refuse("the subkey that signed does not belong to this primary key");
    }
    Ok(primary_end.into_iter().chain(expires_at(&subkey.key, binding)).min())
}

/// Counts the checks that a key costs.
#[derive(Default)]
struct Checks(usize);

impl Checks {
    /// Whether a signature of a key over a part of itself is valid; an error after too many.
    fn pass(
        &mut self,
        signature: &Signature,
        check: impl FnOnce() -> pgp::errors::Result<()>,
    ) -> Result<bool, ProofError> {
        self.0 += 1;
        if self.0 > KEY_CHECKS_MAX {
            return Err(ProofError::TooMany {
                what: "the signatures of a key over itself",
                max: KEY_CHECKS_MAX,
            });
        }
        let sound = !matches!(
            signature.hash_alg(),
            None | Some(HashAlgorithm::None | HashAlgorithm::Md5 | HashAlgorithm::Ripemd160)
        );
        Ok(sound && check().is_ok())
    }
}

/// What a signature over a key says about signing; `None` where it says nothing about use.
fn may_sign(signature: &Signature) -> Option<bool> {
    let says = |data: &SubpacketData| matches!(data, SubpacketData::KeyFlags(_));
    let config = signature.config()?;
    config.hashed_subpackets().any(|subpacket| says(&subpacket.data)).then(|| signature.key_flags().sign())
}

/// The key ids and fingerprints that a signature names as its maker's.
pub(super) fn issuers(signature: &Signature) -> Vec<String> {
    let ids = signature.issuer_key_id().into_iter().map(|id| hex_upper(id.as_ref()));
    let fingerprints = signature.issuer_fingerprint().into_iter().map(|print| hex_upper(print.as_bytes()));
    ids.chain(fingerprints).collect()
}
