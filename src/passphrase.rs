//! A key of 32 octets under a passphrase: for keys that lie on a person's machine and not in a daemon's folder.
//!
//! ```text
//! "DSPK" | version 1 (u8) | rounds (u32, big-endian) | salt (16 octets) | sealed (32 octets, and a tag of 16)
//! ```
//!
//! PBKDF2-HMAC-SHA512 (RFC 8018 §5.2) makes 32 octets of the passphrase, the salt and the rounds. The key and the nonce
//! with which AES-256-GCM seals follow from them (HKDF-SHA256, RFC 5869: the same salt, info `diodesync passphrase 1`);
//! what stands before `sealed` is authenticated with it. A salt is never used twice, and so no key either.
//!
//! PBKDF2 costs whoever guesses time and no memory. It is what the cryptographic library of this tree has; a passphrase
//! that stands in no list makes up for it.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use thiserror::Error;
use zeroize::Zeroize;

use crate::aead::Aead;
use crate::wire::TAG_BYTES;

/// The first octets.
const MAGIC: &[u8; 4] = b"DSPK";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 1 + 4 + SALT_BYTES;
/// Octets of a sealed key.
pub const SEALED_BYTES: usize = HEAD_BYTES + KEY_BYTES + TAG_BYTES;
/// Rounds with which keys are sealed now. OWASP's Password Storage Cheat Sheet (2023) asks for 210,000 at least.
pub const ROUNDS: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// More than that is not waited for: a garbled number would keep its reader for hours.
const ROUNDS_MAX: u32 = 100_000_000;

/// Why a sealed key cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PassphraseError {
    /// Not of this form.
    #[error(
        "expected a key under a passphrase, {SEALED_BYTES} octets that begin with DSPK, version {VERSION}"
    )]
    Form,
    /// The tag does not match.
    #[error("the passphrase is wrong, or the file was changed")]
    Wrong,
}

/// Whether this is a sealed key, good or not.
pub fn is_sealed(octets: &[u8]) -> bool {
    octets.starts_with(MAGIC)
}

/// Seals a key. `salt` must be random.
///
/// # Errors
/// Only if the cipher refuses its own key length.
pub fn seal(
    key: &[u8; KEY_BYTES],
    passphrase: &str,
    salt: &[u8; SALT_BYTES],
    rounds: NonZeroU32,
) -> Result<Vec<u8>, PassphraseError> {
    let mut out = Vec::with_capacity(SEALED_BYTES);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&rounds.get().to_be_bytes());
    out.extend_from_slice(salt);
    let aead = aead(passphrase, salt, rounds)?;
    let mut sealed = *key;
    let tag = aead.seal(0, &out, &mut sealed).map_err(|_| PassphraseError::Wrong);
    out.extend_from_slice(&sealed);
    // In case it was not sealed.
    sealed.zeroize();
    out.extend_from_slice(&tag?);
    Ok(out)
}

/// Opens a sealed key. Takes about a second.
///
/// # Errors
/// See [`PassphraseError`].
pub fn open(octets: &[u8], passphrase: &str) -> Result<[u8; KEY_BYTES], PassphraseError> {
    let octets: &[u8; SEALED_BYTES] = octets.try_into().map_err(|_| PassphraseError::Form)?;
    let (head, sealed) = octets.split_at(HEAD_BYTES);
    let parts = head.split_first_chunk::<4>().and_then(|(magic, rest)| {
        let (version, rest) = rest.split_first()?;
        let (rounds, salt) = rest.split_first_chunk()?;
        let rounds = NonZeroU32::new(u32::from_be_bytes(*rounds)).filter(|it| it.get() <= ROUNDS_MAX)?;
        (magic == MAGIC && *version == VERSION).then_some((rounds, salt))
    });
    let (rounds, salt) = parts.ok_or(PassphraseError::Form)?;
    let mut sealed: [u8; KEY_BYTES + TAG_BYTES] = sealed.try_into().map_err(|_| PassphraseError::Form)?;
    let opened = aead(passphrase, salt, rounds)?.open(0, head, &mut sealed);
    let key = opened.ok().and_then(|key| <[u8; KEY_BYTES]>::try_from(&*key).ok());
    sealed.zeroize();
    key.ok_or(PassphraseError::Wrong)
}

fn aead(passphrase: &str, salt: &[u8], rounds: NonZeroU32) -> Result<Aead, PassphraseError> {
    let mut secret = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, passphrase.as_bytes(), &mut secret);
    let aead = Aead::derive(&secret, salt, &[b"diodesync passphrase 1"]);
    secret.zeroize();
    aead.ok_or(PassphraseError::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

    #[test]
    fn nothing_but_the_passphrase_opens_it_and_no_octet_can_be_changed() {
        let sealed = seal(&[7; 32], "tromboneföhn", &[9; 16], FEW).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(&[7; 32]));
        assert_eq!((sealed.len(), open(&sealed, "tromboneföhn")), (SEALED_BYTES, Ok([7; 32])));
        for wrong in ["", "tromboneföh", "Tromboneföhn", "tromboneföhn "] {
            assert_eq!(open(&sealed, wrong), Err(PassphraseError::Wrong), "{wrong:?}");
        }
        for at in (0..SEALED_BYTES * 8).filter(|at| !(40..72).contains(at)) {
            let mut changed = sealed.clone();
            changed[at / 8] ^= 1 << (at % 8);
            let expected = if at < 40 { PassphraseError::Form } else { PassphraseError::Wrong };
            assert_eq!(open(&changed, "tromboneföhn"), Err(expected), "bit {at}");
        }
        for cut in [0, 4, SEALED_BYTES - 1] {
            assert_eq!(open(&sealed[..cut], "tromboneföhn"), Err(PassphraseError::Form));
        }
        assert_eq!(open(&[&sealed[..], &[0]].concat(), "tromboneföhn"), Err(PassphraseError::Form));
    }

    #[test]
    fn the_number_of_rounds_is_bound_too() {
        let sealed = seal(&[7; 32], "a", &[9; 16], FEW).unwrap();
        let with = |rounds: u32| {
            let mut changed = sealed.clone();
            changed[5..9].copy_from_slice(&rounds.to_be_bytes());
            open(&changed, "a")
        };
        assert_eq!(with(3), Ok([7; 32]));
        assert_eq!((with(2), with(4)), (Err(PassphraseError::Wrong), Err(PassphraseError::Wrong)));
        assert_eq!((with(0), with(u32::MAX)), (Err(PassphraseError::Form), Err(PassphraseError::Form)));
    }

    /// Made by another program out of the module's words (Python, `hashlib` and `cryptography`).
    #[test]
    fn a_key_that_another_program_has_sealed() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        let salt: [u8; 16] = std::array::from_fn(|at| 0xa0 + at as u8);
        let expected = "4453504b01000003e8a0a1a2a3a4a5a6a7a8a9aaabacadaeaf9fea56a4d1e98517a0ab0833a93978724d420b973c7b44130816ece8556dc93ffdf1dba4523f95f85ede99ab79345970";
        let sealed = seal(&key, "correct horse", &salt, NonZeroU32::new(1000).unwrap()).unwrap();
        assert_eq!(sealed.iter().map(|octet| format!("{octet:02x}")).collect::<String>(), expected);
    }
}
