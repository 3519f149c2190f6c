//! What a mirror host and the receiver that feeds it say to each other over QUIC ([`TALK`]). The host connects.
//!
//! ```text
//! news stream, in both directions, opened by the host first and kept for as long as the connection lives
//!   host   ──► Have   what it has: first, and whenever that has changed
//!   feeder ──► Told   metadata, and behind it the index of a release if the host lacks it: whenever there is something
//!                     that the host lacks
//!
//! block stream, in both directions, one for each batch, opened by the host
//!   host   ──► 1 to 32 names of blocks, 12 octets each: pack (8), block (u32)
//!   feeder ──► for each, in the same order: its octets (u32), and then the block; 0 if it is not to be had
//! ```
//!
//! Have and the head of Told are JSON behind their length (u32). Numbers are big-endian. Nothing is taken by a length from
//! the wire before it was compared with the limits here; and nothing that comes is believed: metadata, index and blocks are
//! judged by the host as if they had come over a lane.

use diodesync::id::{BlockId, BlockNo, Channel, PackId, ReleaseNo};
use diodesync::limits::{BLOCK_BYTES, INDEX_BYTES_MAX, TRUST_BYTES_MAX};
use diodesync_control::quic::Talk;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The protocol and its version. The host opens the news stream and a few block streams.
pub const TALK: Talk =
    Talk { alpn: b"diodesync-feed/1", bidi_streams_max: BLOCK_STREAMS_MAX as u32 + 1, uni_streams_max: 0 };
/// Block streams of a connection at once.
pub const BLOCK_STREAMS_MAX: usize = 3;
/// Blocks of one batch.
pub const BATCH_MAX: usize = 32;
/// Octets of a block's name.
pub const NAME_BYTES: usize = 12;
/// Octets of the longest JSON.
const JSON_BYTES_MAX: usize = 64 << 10;
/// Channels that a host may say it has.
const CHANNELS_MAX: usize = 256;

/// What came is not understood.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// It is too long.
    #[error("{what} of {found} octets was announced, the limit is {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Octets.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// It is no message.
    #[error("a message is not understood; the two programs may be of different versions: {0}")]
    Json(#[from] serde_json::Error),
    /// No batch of names.
    #[error("a request for blocks has {found} octets, expected 1 to {BATCH_MAX} times {NAME_BYTES}")]
    Batch {
        /// Octets.
        found: usize,
    },
    /// Too many channels.
    #[error("{found} channels are named, the limit is {CHANNELS_MAX}")]
    Channels {
        /// How many.
        found: usize,
    },
}

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Have {
    /// The version of the timestamp that it has accepted.
    pub version: Option<u64>,
    /// Its channels.
    pub channels: Vec<HaveChannel>,
    /// Blocks that it lacks of what it has accepted.
    pub lacking: u64,
}

/// A channel of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaveChannel {
    /// Its name.
    pub channel: Channel,
    /// The newest release whose index it has accepted.
    pub accepted: Option<ReleaseNo>,
    /// The release that it serves.
    pub published: Option<ReleaseNo>,
}

impl Have {
    /// Reads it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        let have: Self = parse(body)?;
        match have.channels.len() {
            0..=CHANNELS_MAX => Ok(have),
            found => Err(ProtocolError::Channels { found }),
        }
    }

    /// The newest release of a channel whose index it has accepted.
    pub fn accepted(&self, channel: &Channel) -> Option<ReleaseNo> {
        self.channels.iter().find(|have| have.channel == *channel)?.accepted
    }
}

/// What metadata and an index follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The channel of the release that the metadata is told for.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// The time by which the feeder judged whether the metadata has expired, seconds since 1970.
    pub judged_s: u64,
    /// Octets of the trust bundle that follows.
    pub bundle_bytes: u64,
    /// Octets of the index that follows it; none does if the host has it.
    pub index_bytes: Option<u64>,
}

impl Told {
    /// Reads it.
    ///
    /// # Errors
    /// If it is none, or announces too much.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        let told: Self = parse(body)?;
        check("a trust bundle", told.bundle_bytes, u64::from(TRUST_BYTES_MAX))?;
        check("an index", told.index_bytes.unwrap_or(0), u64::from(INDEX_BYTES_MAX))?;
        Ok(told)
    }
}

fn check(what: &'static str, found: u64, max: u64) -> Result<(), ProtocolError> {
    if found > max { Err(ProtocolError::TooLong { what, found, max }) } else { Ok(()) }
}

fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, ProtocolError> {
    Ok(serde_json::from_slice(body)?)
}

/// A message as it is sent, its length first.
///
/// # Errors
/// If it is longer than the other side takes.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let body = serde_json::to_vec(message)?;
    check("a message", body.len() as u64, JSON_BYTES_MAX as u64)?;
    Ok([(body.len() as u32).to_be_bytes().as_slice(), body.as_slice()].concat())
}

/// Octets of the message that follows its length.
///
/// # Errors
/// If it is too long.
pub fn message_bytes(length: [u8; 4]) -> Result<usize, ProtocolError> {
    let found = u32::from_be_bytes(length);
    check("a message", u64::from(found), JSON_BYTES_MAX as u64)?;
    Ok(found as usize)
}

/// Octets of the block that follows its length; 0 if it is not to be had.
///
/// # Errors
/// If no block is so long.
pub fn block_bytes(length: [u8; 4]) -> Result<usize, ProtocolError> {
    let found = u32::from_be_bytes(length);
    check("a block", u64::from(found), BLOCK_BYTES as u64)?;
    Ok(found as usize)
}

/// Names of blocks as they are asked for.
pub fn encode_batch(blocks: &[BlockId]) -> Vec<u8> {
    blocks.iter().flat_map(|id| id.pack.0.into_iter().chain(id.block.0.to_be_bytes())).collect()
}

/// Reads them.
///
/// # Errors
/// If they are no batch.
pub fn parse_batch(octets: &[u8]) -> Result<Vec<BlockId>, ProtocolError> {
    let (names, rest) = octets.as_chunks::<NAME_BYTES>();
    if !rest.is_empty() || !(1..=BATCH_MAX).contains(&names.len()) {
        return Err(ProtocolError::Batch { found: octets.len() });
    }
    Ok(names
        .iter()
        .map(|[a, b, c, d, e, f, g, h, block @ ..]| BlockId {
            pack: PackId([*a, *b, *c, *d, *e, *f, *g, *h]),
            block: BlockNo(u32::from_be_bytes(*block)),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u32) -> BlockId {
        BlockId { pack: PackId([1, 2, 3, 4, 5, 6, 7, 8]), block: BlockNo(number) }
    }

    #[test]
    fn a_message_comes_back_and_no_part_of_it_does() {
        let channels = vec![HaveChannel {
            channel: Channel::main(),
            accepted: Some(ReleaseNo(3)),
            published: Some(ReleaseNo(2)),
        }];
        let have = Have { version: Some(7), channels, lacking: 12 };
        let told = Told {
            channel: Channel::main(),
            number: ReleaseNo(4),
            judged_s: 1_795_000_000,
            bundle_bytes: 3000,
            index_bytes: Some(70_000),
        };
        let [one, other] = [encode(&have).unwrap(), encode(&told).unwrap()];
        for wire in [&one, &other] {
            let (length, body) = wire.split_first_chunk::<4>().unwrap();
            assert_eq!(message_bytes(*length).unwrap(), body.len());
        }
        assert_eq!(Have::parse(&one[4..]).unwrap(), have);
        assert_eq!(Told::parse(&other[4..]).unwrap(), told);
        assert_eq!(have.accepted(&Channel::main()), Some(ReleaseNo(3)));
        for end in 0..one.len() - 4 {
            assert!(Have::parse(&one[4..4 + end]).is_err(), "{end} octets were taken for all");
        }
        for end in 0..other.len() - 4 {
            assert!(Told::parse(&other[4..4 + end]).is_err(), "{end} octets were taken for all");
        }
        assert!(Have::parse(&other[4..]).is_err() && Told::parse(&one[4..]).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_comes() {
        assert!(message_bytes(u32::MAX.to_be_bytes()).unwrap_err().to_string().contains("4294967295 octets"));
        assert!(block_bytes((BLOCK_BYTES as u32 + 1).to_be_bytes()).is_err());
        assert_eq!(block_bytes((BLOCK_BYTES as u32).to_be_bytes()).unwrap(), BLOCK_BYTES);
        let told = |bundle: u64, index: u64| {
            let text = format!(
                r#"{{"channel":"main","number":1,"judged_s":1,"bundle_bytes":{bundle},"index_bytes":{index}}}"#
            );
            Told::parse(text.as_bytes())
        };
        assert!(told(1, 1).is_ok());
        assert!(told(1 << 40, 1).unwrap_err().to_string().contains("a trust bundle of 1099511627776"));
        assert!(told(1, 1 << 40).unwrap_err().to_string().contains("an index of 1099511627776"));
        let channel = |n: usize| HaveChannel {
            channel: format!("c{n}").parse().unwrap(),
            accepted: None,
            published: None,
        };
        let many = Have { channels: (0..=CHANNELS_MAX).map(channel).collect(), ..Have::default() };
        let wire = encode(&many).unwrap();
        assert!(Have::parse(&wire[4..]).unwrap_err().to_string().contains("257 channels"));
    }

    #[test]
    fn a_batch_comes_back_and_no_part_of_a_name_does() {
        let blocks: Vec<BlockId> = (0..BATCH_MAX as u32).map(|n| block(n * 77)).collect();
        let wire = encode_batch(&blocks);
        assert_eq!(parse_batch(&wire).unwrap(), blocks);
        for end in 0..wire.len() {
            let whole = end > 0 && end.is_multiple_of(NAME_BYTES);
            assert_eq!(parse_batch(&wire[..end]).is_ok(), whole, "{end} octets");
        }
        assert!(parse_batch(&encode_batch(&vec![block(1); BATCH_MAX + 1])).is_err());
    }
}
