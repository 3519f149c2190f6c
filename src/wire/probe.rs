//! PROBE: datagrams that carry nothing, sent in trains of rising rates, so that the far side can say which rate path and
//! receiver take.

use super::WireError;
use crate::codec::{CodecError, Reader};

pub(super) const KIND_PROBE: u8 = 3;
const FLAG_END: u8 = 1;
/// Octets before the fill.
pub const PROBE_HEADER_BYTES: usize = 20;

/// A PROBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether the train is over; `number` is then how many datagrams it had.
    pub is_end: bool,
    /// Which run of trains, rising with time: the sender's clock at its start, milliseconds since 1970.
    pub run: u64,
    /// Which train of it, from 0.
    pub train: u16,
    /// The rate at which the train went out. Known at its end; 0 before.
    pub rate_bits_per_s: u64,
    /// Which datagram of the train, from 0.
    pub number: u32,
}

impl Probe {
    /// Appends what stands before the fill.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[KIND_PROBE, if self.is_end { FLAG_END } else { 0 }]);
        out.extend_from_slice(&self.run.to_be_bytes());
        out.extend_from_slice(&self.train.to_be_bytes());
        // Megabits are exact enough, and leave the header short.
        out.extend_from_slice(&((self.rate_bits_per_s / 1_000_000) as u32).to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
    }

    /// Reads a probe; the fill says nothing.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        match reader.u8()? {
            KIND_PROBE => {}
            found => return Err(WireError::Unknown { what: "kind", found }),
        }
        let is_end = match reader.u8()? {
            0 => false,
            FLAG_END => true,
            found => return Err(WireError::Unknown { what: "probe flags", found }),
        };
        let run = reader.u64()?;
        let train = reader.u16()?;
        let rate_bits_per_s = u64::from(reader.u32()?) * 1_000_000;
        let number = reader.u32()?;
        let fill = reader.bytes(reader.remaining())?;
        if fill.iter().any(|octet| *octet != 0) {
            return Err(CodecError::Trailing(fill.len()).into());
        }
        Ok(Self { is_end, run, train, rate_bits_per_s, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let probe =
            Probe { is_end: true, run: 7 << 40, train: 12, rate_bits_per_s: 2_500_000_000, number: 9 };
        let mut octets = Vec::new();
        probe.encode(&mut octets);
        assert_eq!(octets.len(), PROBE_HEADER_BYTES);
        octets.resize(100, 0);
        assert_eq!(Probe::parse(&octets), Ok(probe));
        for cut in 0..PROBE_HEADER_BYTES {
            assert!(Probe::parse(&octets[..cut]).is_err(), "{cut}");
        }
        octets[99] = 1;
        assert!(Probe::parse(&octets).is_err());
        octets[99] = 0;
        octets[1] = 2;
        assert!(Probe::parse(&octets).is_err());
    }
}
