//! BEACON: what the far side could not know otherwise, every second.

use super::WireError;
use crate::codec::{CodecError, Reader};
use crate::id::{Channel, ReleaseNo};
use crate::limits::{BEACON_TIMESTAMP_BYTES_MAX, CHANNELS_MAX};

pub(super) const KIND_BEACON: u8 = 2;
const FLAG_FULL: u8 = 1;

/// A BEACON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Whether it is filled up to the lane's full size, so that an MTU black hole shows.
    pub is_full: bool,
    /// The sender's clock, in milliseconds since 1970.
    pub clock_ms: u64,
    /// The lane's rate; 0 for as fast as it goes.
    pub rate_bits_per_s: u64,
    /// Octets that wait to be sent.
    pub queued_bytes: u64,
    /// The newest TUF timestamp; empty before the first release.
    pub timestamp: Vec<u8>,
    /// The newest release of each channel.
    pub channels: Vec<BeaconChannel>,
}

/// What a beacon says of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeaconChannel {
    /// The channel.
    pub channel: Channel,
    /// Its newest release.
    pub newest: ReleaseNo,
    /// Rounds of it that are complete.
    pub rounds_done: u8,
    /// Rounds that it will have.
    pub rounds: u8,
}

impl Beacon {
    /// Appends the beacon; the caller fills up with zeros.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(KIND_BEACON);
        out.push(if self.is_full { FLAG_FULL } else { 0 });
        for number in [self.clock_ms, self.rate_bits_per_s, self.queued_bytes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&(self.timestamp.len() as u16).to_be_bytes());
        out.extend_from_slice(&self.timestamp);
        out.push(self.channels.len() as u8);
        for channel in &self.channels {
            out.push(channel.channel.as_str().len() as u8);
            out.extend_from_slice(channel.channel.as_str().as_bytes());
            out.extend_from_slice(&channel.newest.0.to_be_bytes());
            out.extend_from_slice(&[channel.rounds_done, channel.rounds]);
        }
    }

    /// Reads a beacon.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        match reader.u8()? {
            KIND_BEACON => {}
            found => return Err(WireError::Unknown { what: "kind", found }),
        }
        let is_full = match reader.u8()? {
            0 => false,
            FLAG_FULL => true,
            found => return Err(WireError::Unknown { what: "beacon flags", found }),
        };
        let (clock_ms, rate_bits_per_s, queued_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let limit = |what, found: usize, max: usize| {
            let (found, max) = (found as u64, max as u64);
            if found > max { Err(CodecError::Limit { what, found, max }) } else { Ok(()) }
        };
        let timestamp_bytes = usize::from(reader.u16()?);
        limit("the octets of a timestamp", timestamp_bytes, BEACON_TIMESTAMP_BYTES_MAX)?;
        let timestamp = reader.bytes(timestamp_bytes)?.to_vec();
        let count = usize::from(reader.u8()?);
        limit("the number of channels", count, CHANNELS_MAX)?;
        let mut channels = Vec::with_capacity(count);
        for _ in 0..count {
            let name_bytes = usize::from(reader.u8()?);
            let name = std::str::from_utf8(reader.bytes(name_bytes)?)
                .map_err(|_| CodecError::Utf8("a channel name"))?;
            channels.push(BeaconChannel {
                channel: name.parse()?,
                newest: ReleaseNo(reader.u64()?),
                rounds_done: reader.u8()?,
                rounds: reader.u8()?,
            });
        }
        // The fill says nothing, so that one beacon has one encoding and a later version may say more.
        let fill = reader.bytes(reader.remaining())?;
        if fill.iter().any(|octet| *octet != 0) {
            return Err(CodecError::Trailing(fill.len()).into());
        }
        Ok(Self { is_full, clock_ms, rate_bits_per_s, queued_bytes, timestamp, channels })
    }
}
