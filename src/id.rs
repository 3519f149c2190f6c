//! The numbers and names that everything else speaks in, each a type of its own, so that two of them cannot be
//! swapped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[derive(bincode::Encode, bincode::Decode)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// One run of the sender on a lane. Rises over the life of a link.
    SessionNo(u64)
}
number! {
    /// A release of a channel. Rises by one or more.
    ReleaseNo(u64)
}
number! {
    /// A block's place in its pack, counted in [`BLOCK_BYTES`](crate::limits::BLOCK_BYTES).
    BlockNo(u32)
}
number! {
    /// Source block number of an object (RFC 5052 §6.1); 0 for a block of a pack, which is a source block itself.
    Sbn(u32)
}
number! {
    /// Encoding symbol id (RFC 5052 §6.1): `0..K` are source symbols, `K..K+R` repair symbols.
    Esi(u32)
}

/// A text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} expected {expected}, found {found:?}")]
pub struct IdError {
    /// What was read.
    pub what: &'static str,
    /// What it should have been.
    pub expected: &'static str,
    /// What it was.
    pub found: String,
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self).ok_or_else(|| IdError {
                    what: $what,
                    expected: $expected,
                    found: text.to_owned(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_bytes! {
    /// A SHA-256 digest: the name of a blob.
    Sha256, 32, "a SHA-256 digest", "64 lower-case hexadecimal digits"
}
hex_bytes! {
    /// A BLAKE3 digest: the name of a block.
    Blake3, 32, "a BLAKE3 digest", "64 lower-case hexadecimal digits"
}
hex_bytes! {
    /// The name of a link: chosen at random when the two sides are paired.
    LinkId, 16, "a link id", "32 lower-case hexadecimal digits"
}
hex_bytes! {
    /// The name of a pack: chosen at random, so that a sender restored from a backup never names two things alike.
    PackId, 8, "a pack id", "16 lower-case hexadecimal digits"
}
hex_bytes! {
    /// The name of an index or a trust bundle on the wire: the first octets of its BLAKE3.
    ObjectTag, 8, "an object tag", "16 lower-case hexadecimal digits"
}
hex_bytes! {
    /// The name of an export onto removable media: chosen at random.
    ExportId, 8, "an export id", "16 lower-case hexadecimal digits"
}

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl Blake3 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Its first octets, which name an index or a trust bundle on the wire.
    pub fn tag(&self) -> ObjectTag {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        ObjectTag([a, b, c, d, e, f, g, h])
    }
}

/// Lower-case hexadecimal text as octets; `None` for anything else.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut out = [0; N];
    for (octet, [high, low]) in out.iter_mut().zip(pairs) {
        *octet = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

/// What names that operators give to channels and lanes are.
const NAME_EXPECTED: &str = "1 to 32 of a-z, 0-9 and -, starting with a letter";

fn is_name(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[derive(bincode::Encode, bincode::Decode)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Its name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let error = || IdError { what: $what, expected: NAME_EXPECTED, found: text.to_owned() };
                is_name(text).then(|| Self(text.to_owned())).ok_or_else(error)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name! {
    /// The name of a channel: 1 to 32 of `a-z`, `0-9` and `-`, starting with a letter.
    Channel, "a channel name"
}
name! {
    /// The name of a lane, the same on both sides: 1 to 32 of `a-z`, `0-9` and `-`, starting with a letter.
    LaneId, "a lane name"
}

impl Channel {
    /// The channel that exists without being configured.
    pub fn main() -> Self {
        Self("main".to_owned())
    }
}

/// A block: a place in a pack.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
pub struct BlockId {
    /// The pack.
    pub pack: PackId,
    /// The place in it.
    pub block: BlockNo,
}

impl BlockId {
    /// The octet of the pack at which the block starts.
    pub fn offset(&self) -> u64 {
        u64::from(self.block.0) * crate::limits::BLOCK_BYTES as u64
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pack, self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_lower_case_hexadecimal_and_nothing_else() {
        let digest = Sha256::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Sha256>(), Ok(digest));
        for bad in ["", "ba", &digest.to_string().to_uppercase(), &format!("{digest}00")] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }

    #[test]
    fn channel_names_are_plain() {
        assert!("main".parse::<Channel>().is_ok());
        for bad in ["", "Main", "a/b", "..", "1st", "a b", "ä", &"a".repeat(33)] {
            assert!(bad.parse::<Channel>().is_err(), "{bad}");
        }
    }
}
