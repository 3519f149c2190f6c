//! The cleartext signature framework (RFC 9580 §7), as apt reads it: the signed text is all that is there.

use std::collections::BTreeMap;

use super::{ArchiveError, PROOF_BYTES_MAX, check_size};
use crate::release::provider::{ProofError, Signatures, Signer};

const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";
const END: &str = "-----END PGP SIGNATURE-----";

/// Takes a text out of its signatures, of which one must be good; who made that one. See [`super`].
pub(super) fn open(
    octets: &[u8],
    keys: &BTreeMap<String, Vec<u8>>,
) -> Result<(String, Signer), ArchiveError> {
    check_size("InRelease", octets.len() as u64, PROOF_BYTES_MAX)?;
    let refuse = |expected, found: &str| {
        let found = found.chars().take(60).collect();
        Err(ArchiveError::NotSigned { expected, found })
    };
    let Ok(text) = std::str::from_utf8(octets) else {
        return refuse("a clear-signed text in UTF-8", "other octets");
    };
    let mut rest = text;
    let mut next = || -> Option<&str> {
        let (line, after) = rest.split_once('\n')?;
        rest = after;
        Some(line.trim_end_matches([' ', '\t', '\r']))
    };
    match next() {
        Some(BEGIN) => {}
        found => return refuse("-----BEGIN PGP SIGNED MESSAGE----- first", found.unwrap_or(text)),
    }
    loop {
        match next() {
            Some("") => break,
            Some(line) if line.starts_with("Hash: ") => {}
            found => return refuse("Hash: lines and an empty line", found.unwrap_or_default()),
        }
    }
    let mut lines: Vec<&str> = Vec::new();
    loop {
        match next() {
            Some(SIGNATURE) => break,
            // A line that begins with a dash is escaped, so this is nothing that was signed.
            Some(line) if line.starts_with('-') && !line.starts_with("- ") => {
                return refuse("a signature after the text", line);
            }
            Some(line) => lines.push(line.strip_prefix("- ").unwrap_or(line)),
            None => return refuse("a signature after the text", "the end of the file"),
        }
    }
    let Some((armor, after)) = rest.split_once(END) else {
        return refuse("the end of the signature", "the end of the file");
    };
    if !after.trim_ascii().is_empty() {
        return refuse("nothing after the signature", after.trim_ascii());
    }
    let armor = format!("{SIGNATURE}\n{armor}{END}\n");
    let signer = check(lines.join("\r\n").as_bytes(), armor.as_bytes(), keys)?;
    Ok((lines.join("\n"), signer))
}

fn check(signed: &[u8], armor: &[u8], keys: &BTreeMap<String, Vec<u8>>) -> Result<Signer, ArchiveError> {
    let signatures = Signatures::parse(armor, keys).map_err(|error| match error {
        ProofError::SignatureFormat { found } => {
            ArchiveError::Signature(format!("expected a signature at its end, found {found}"))
        }
        other => ArchiveError::Keyring(other),
    })?;
    let (mut good, mut failed, mut strangers) = (None::<Signer>, None, Vec::new());
    for judged in signatures.verify_each(signed) {
        match judged {
            Ok(signer) => {
                // The one that lasts longest, for one of two keys may have expired.
                let end = |signer: &Signer| signer.key_expires_at.unwrap_or(u64::MAX);
                if good.as_ref().is_none_or(|other| end(other) < end(&signer)) {
                    good = Some(signer);
                }
            }
            Err(ProofError::UnknownKey { found, .. }) => strangers.extend(found),
            Err(ProofError::BadSignature { key_id, .. }) => {
                return Err(ArchiveError::Signature(format!(
                    "its signature by key {key_id} does not match; it was changed on its way, or is being replaced just \
                     now; try again, and if that stays, do not carry it"
                )));
            }
            Err(other) => failed = Some(other),
        }
    }
    match (good, failed) {
        (Some(signer), _) => Ok(signer),
        (None, Some(ProofError::Revoked { key_id })) => {
            Err(ArchiveError::Signature(format!("it is signed by key {key_id}, which its owner has revoked")))
        }
        (None, Some(ProofError::NotForSigning { key_id, why })) => {
            Err(ArchiveError::Signature(format!("it is signed by key {key_id}, which may not sign: {why}")))
        }
        (None, Some(ProofError::WeakDigest { found })) => Err(ArchiveError::Signature(format!(
            "expected a signature with a digest that nobody can collide, like SHA-256, found {found}"
        ))),
        (None, Some(other)) => Err(ArchiveError::Keyring(other)),
        (None, None) => {
            let expected = keys.keys().cloned().collect();
            Err(ArchiveError::UnknownKey { expected, found: strangers })
        }
    }
}
