//! What a producer and the sender say to each other over QUIC (ALPN [`ALPN`]). On one connection, one submission after the
//! other:
//!
//! ```text
//! offer stream, in both directions, opened by the producer
//!   producer ──► Offer      what it is made of: each file with its octets and SHA-256
//!   sender   ──► Want       the blobs that it lacks, and from which octet on
//!                           (content streams follow; Want may come again, once)
//!   sender   ──► Done       what was staged; or Refused, and why, at any time
//!
//! content stream, one for each blob that is wanted, opened by the producer
//!   0   32   SHA-256 of the blob
//!   32   8   the octet that the stream begins with (u64, big-endian), as the sender wanted it
//!   40   …   the rest of the blob, to its end and no further
//! ```
//!
//! Messages are JSON behind their length (u32, big-endian). Nothing is taken by a length or a count from the wire before it
//! was compared with the limits here.

use std::collections::BTreeMap;

use diodesync::id::{Channel, Sha256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::submit::{Role, What};

/// The protocol and its version.
pub const ALPN: &[u8] = b"diodesync-producer/1";
/// Octets of the longest message.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Files of one submission.
pub const FILES_MAX: usize = 30_000;
/// Octets of what a content stream begins with.
pub const BLOB_HEAD_BYTES: usize = 40;

/// A message is not understood.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// It is too long.
    #[error(
        "a message of {found} octets was announced, the limit is {MESSAGE_BYTES_MAX}; submit fewer files at once"
    )]
    TooLong {
        /// Octets.
        found: usize,
    },
    /// It is not one.
    #[error("a message is not understood; the two programs may be of different versions: {0}")]
    Json(#[from] serde_json::Error),
    /// So many files are too many.
    #[error("{found} files are submitted, expected 1 to {FILES_MAX}; submit them in several parts")]
    Files {
        /// How many.
        found: usize,
    },
    /// A digest stands for two lengths.
    #[error("{sha256} is announced with {one} octets and with {other}")]
    TwoLengths {
        /// The digest.
        sha256: Sha256,
        /// One length.
        one: u64,
        /// Another.
        other: u64,
    },
    /// More than can be counted.
    #[error("what is submitted has more octets than can be counted")]
    Overflow,
}

/// What a producer wants to submit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The channel to submit to.
    pub channel: Channel,
    /// What it is.
    pub what: What,
    /// All of its files.
    pub files: Vec<OfferedFile>,
}

/// A file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfferedFile {
    /// What it is called, as `submit` has it.
    pub path: String,
    /// What it is.
    pub role: Role,
    /// Its octets.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// What the sender says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// These are lacking.
    Want {
        /// In the order in which they are to come.
        blobs: Vec<Wanted>,
    },
    /// It is staged.
    Done {
        /// Artifacts.
        artifacts: u64,
        /// Octets of their blobs.
        bytes: u64,
        /// Octets that were not there before.
        new_bytes: u64,
    },
    /// It is not taken.
    Refused {
        /// Why.
        why: String,
    },
}

/// A blob that is lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Which.
    pub sha256: Sha256,
    /// The first octet that is lacking.
    pub from: u64,
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// If it is none, or contradicts itself.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        let offer: Self = parse(body)?;
        offer.blobs()?;
        Ok(offer)
    }

    /// Each blob once, with its octets.
    ///
    /// # Errors
    /// If there are too many files, or lengths that cannot be.
    pub fn blobs(&self) -> Result<BTreeMap<Sha256, u64>, ProtocolError> {
        if !(1..=FILES_MAX).contains(&self.files.len()) {
            return Err(ProtocolError::Files { found: self.files.len() });
        }
        let mut blobs = BTreeMap::new();
        let mut total = 0_u64;
        for OfferedFile { bytes, sha256, .. } in &self.files {
            total = total.checked_add(*bytes).ok_or(ProtocolError::Overflow)?;
            if let Some(other) = blobs.insert(*sha256, *bytes).filter(|other| other != bytes) {
                return Err(ProtocolError::TwoLengths { sha256: *sha256, one: other, other: *bytes });
            }
        }
        Ok(blobs)
    }

    /// Octets of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// Reads a message.
///
/// # Errors
/// If it is none.
pub fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, ProtocolError> {
    Ok(serde_json::from_slice(body)?)
}

/// A message as it is sent, its length first.
///
/// # Errors
/// If it is longer than the other side takes.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let body = serde_json::to_vec(message)?;
    match u32::try_from(body.len()) {
        Ok(length) if body.len() <= MESSAGE_BYTES_MAX => {
            Ok([length.to_be_bytes().as_slice(), body.as_slice()].concat())
        }
        _ => Err(ProtocolError::TooLong { found: body.len() }),
    }
}

/// Octets of the message that follows its length.
///
/// # Errors
/// If it is too long.
pub fn message_bytes(length: [u8; 4]) -> Result<usize, ProtocolError> {
    let found = u32::from_be_bytes(length) as usize;
    if found > MESSAGE_BYTES_MAX { Err(ProtocolError::TooLong { found }) } else { Ok(found) }
}

impl Wanted {
    /// What the content stream of this blob begins with.
    pub fn head(&self) -> [u8; BLOB_HEAD_BYTES] {
        let mut head = [0; BLOB_HEAD_BYTES];
        let (digest, from) = head.split_at_mut(32);
        digest.copy_from_slice(&self.sha256.0);
        from.copy_from_slice(&self.from.to_be_bytes());
        head
    }

    /// Reads it.
    pub fn of_head(head: &[u8; BLOB_HEAD_BYTES]) -> Self {
        let (mut digest, mut from) = ([0; 32], [0; 8]);
        let (a, b) = head.split_at(32);
        digest.copy_from_slice(a);
        from.copy_from_slice(b);
        Self { sha256: Sha256(digest), from: u64::from_be_bytes(from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64, content: &[u8]) -> OfferedFile {
        OfferedFile { path: path.to_owned(), role: Role::Plain, bytes, sha256: Sha256::of(content) }
    }

    fn offer(files: Vec<OfferedFile>) -> Offer {
        Offer { channel: Channel::main(), what: What::Files, files }
    }

    #[test]
    fn a_message_comes_back_and_no_part_of_it_does() {
        let offer = offer(vec![file("a/b", 3, b"abc"), file("c", 0, b"")]);
        let wire = encode(&offer).unwrap();
        let (length, body) = wire.split_first_chunk::<4>().unwrap();
        assert_eq!(message_bytes(*length).unwrap(), body.len());
        assert_eq!(Offer::parse(body).unwrap(), offer);
        for end in 0..body.len() {
            assert!(Offer::parse(&body[..end]).is_err(), "{end} octets were taken for all");
        }
        assert!(Offer::parse(&[body, b"{}"].concat()).is_err(), "more than one message");
        let answers = [
            Answer::Want { blobs: vec![Wanted { sha256: Sha256::of(b"x"), from: 7 }] },
            Answer::Done { artifacts: 1, bytes: 2, new_bytes: 0 },
            Answer::Refused { why: "no".to_owned() },
        ];
        for answer in answers {
            let wire = encode(&answer).unwrap();
            assert_eq!(parse::<Answer>(&wire[4..]).unwrap(), answer);
            for end in 0..wire.len() - 4 {
                assert!(parse::<Answer>(&wire[4..4 + end]).is_err());
            }
        }
        let head = Wanted { sha256: Sha256::of(b"x"), from: 1 << 40 };
        assert_eq!(Wanted::of_head(&head.head()), head);
    }

    #[test]
    fn what_contradicts_itself_is_no_offer() {
        let error = |files| {
            let wire = encode(&offer(files)).unwrap();
            Offer::parse(&wire[4..]).unwrap_err().to_string()
        };
        assert!(error(vec![]).contains("0 files are submitted, expected 1 to"));
        assert!(error(vec![file("a", 3, b"abc"), file("b", 4, b"abc")]).contains("with 3 octets and with 4"));
        let huge = error(vec![file("a", u64::MAX, b"a"), file("b", 1, b"b")]);
        assert!(huge.contains("more octets than can be counted"), "{huge}");
        let many = (0..=FILES_MAX).map(|at| file(&at.to_string(), 1, b"1")).collect();
        assert!(error(many).contains("30001 files"));
        assert!(message_bytes(u32::MAX.to_be_bytes()).unwrap_err().to_string().contains("4294967295 octets"));
        let unknown = br#"{"channel":"main","what":{"kind":"files"},"files":[],"more":1}"#;
        assert!(Offer::parse(unknown).unwrap_err().to_string().contains("unknown field `more`"));
    }
}
