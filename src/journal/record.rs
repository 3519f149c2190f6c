//! What the journal holds. Keys are plain octets that sort; values are a version octet and bincode (standard
//! configuration, with a limit, trailing octets refused).

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use thiserror::Error;

use crate::id::{Blake3, BlockId, BlockNo, Channel, PackId, Sha256};
use crate::limits::JOURNAL_VALUE_BYTES_MAX;

/// A record cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by another version.
    #[error("a journal record has version {found:?}, this version writes {expected}")]
    Version {
        /// What this version writes.
        expected: u8,
        /// What was found.
        found: Option<u8>,
    },
    /// Not what it should be.
    #[error("a journal record is malformed: {0}")]
    Malformed(String),
}

/// The name of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Receiver: a block that is in its pack.
    Block(BlockId),
    /// Receiver: a blob whose SHA-256 was found right, in one place.
    Checked(Sha256),
    /// Receiver: a blob in which scanners found nothing.
    Scanned(Sha256),
    /// Sender: how far the newest release of a channel was sent.
    Progress(Channel),
}

impl Key {
    /// The prefix of all [`Key::Block`].
    pub const BLOCKS: &'static [u8] = b"b";
    /// The prefix of all [`Key::Checked`].
    pub const CHECKED: &'static [u8] = b"c";

    /// Its octets.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Block(id) => [Self::BLOCKS, &id.pack.0, &id.block.0.to_be_bytes()].concat(),
            Self::Checked(digest) => [Self::CHECKED, &digest.0].concat(),
            Self::Scanned(digest) => [b"s".as_slice(), &digest.0].concat(),
            Self::Progress(channel) => [b"p", channel.as_str().as_bytes()].concat(),
        }
    }

    /// The block that a key of [`Key::BLOCKS`] names.
    pub fn block_of(key: &[u8]) -> Option<BlockId> {
        let rest = key.strip_prefix(Self::BLOCKS)?;
        let (pack, block) = rest.split_first_chunk::<8>()?;
        Some(BlockId { pack: PackId(*pack), block: BlockNo(u32::from_be_bytes(block.try_into().ok()?)) })
    }

    /// The blob that a key of [`Key::CHECKED`] names.
    pub fn checked_of(key: &[u8]) -> Option<Sha256> {
        Some(Sha256(key.strip_prefix(Self::CHECKED)?.try_into().ok()?))
    }
}

/// A block that is in its pack, with the digest of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct HeldBlock {
    /// Its digest.
    pub hash: Blake3,
    /// Its octets.
    pub bytes: u32,
}

/// A blob whose SHA-256 was found right, and where: what lies elsewhere was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct CheckedBlob {
    /// The digest of its extents and of the blocks that they lie in.
    pub place: Blake3,
}

/// A blob in which scanners found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ScannedBlob {
    /// The digest of what they are, what they know, and within which limits.
    pub by: Blake3,
}

/// How far a release was sent. It says *sent*, never *delivered*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Progress {
    /// Its number.
    pub release: u64,
    /// Rounds that are complete.
    pub round: u8,
    /// Blocks of the round under way that went out.
    pub position: u64,
}

type Config = Configuration<LittleEndian, Varint, Limit<JOURNAL_VALUE_BYTES_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<JOURNAL_VALUE_BYTES_MAX>();

/// A journal value.
pub trait Record: bincode::Encode + bincode::Decode<()> {
    /// The version that is written.
    const VERSION: u8 = 1;

    /// Its octets.
    fn to_value(&self) -> Result<Vec<u8>, RecordError> {
        let body = bincode::encode_to_vec(self, CONFIG)
            .map_err(|error| RecordError::Malformed(error.to_string()))?;
        Ok([&[Self::VERSION], body.as_slice()].concat())
    }

    /// From its octets.
    fn from_value(value: &[u8]) -> Result<Self, RecordError> {
        let body = match value.split_first() {
            Some((version, body)) if *version == Self::VERSION => body,
            other => {
                let found = other.map(|(version, _)| *version);
                return Err(RecordError::Version { expected: Self::VERSION, found });
            }
        };
        let (record, used) = bincode::decode_from_slice(body, CONFIG)
            .map_err(|error| RecordError::Malformed(error.to_string()))?;
        if used != body.len() {
            return Err(RecordError::Malformed(format!("{} octets follow the end", body.len() - used)));
        }
        Ok(record)
    }
}

impl Record for HeldBlock {}
impl Record for Progress {}
impl Record for ScannedBlob {}
impl Record for CheckedBlob {
    /// Version 1 did not say where.
    const VERSION: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_version_or_with_a_tail_is_refused() {
        let good = Progress { release: 300, round: 1, position: 70_000 }.to_value().unwrap();
        assert!(Progress::from_value(&good).is_ok());
        let mut other = good.clone();
        other[0] = 2;
        assert_eq!(Progress::from_value(&other), Err(RecordError::Version { expected: 1, found: Some(2) }));
        assert!(Progress::from_value(&[]).is_err());
        assert!(Progress::from_value(&[good.clone(), vec![0]].concat()).is_err());
        assert!(Progress::from_value(&good[..good.len() - 1]).is_err());
    }
}
