//! Metadata together with the time by which it was judged: what the receiver at the diode keeps of each release that it may
//! feed to mirror hosts, and what they find in their inbox.
//!
//! ```text
//! judged_s  u64, big-endian: seconds since 1970
//! bundle    the rest, as in [`diodesync::trust::Bundle`]
//! ```

use diodesync::trust::{Bundle, BundleError, timestamp_version};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The time by which expiry was judged, seconds since 1970.
    pub judged_s: u64,
    /// What was judged.
    pub bundle: Bundle,
}

impl Judged {
    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        [self.judged_s.to_be_bytes().as_slice(), &self.bundle.encode()].concat()
    }

    /// Takes it apart. Nothing in it is trusted yet.
    ///
    /// # Errors
    /// If it is not what [`Judged::encode`] makes.
    pub fn parse(octets: &[u8]) -> Result<Self, BundleError> {
        let (judged_s, bundle) = octets.split_first_chunk::<8>().ok_or(BundleError::Magic)?;
        Ok(Self { judged_s: u64::from_be_bytes(*judged_s), bundle: Bundle::parse(bundle)? })
    }

    /// The version of its timestamp: of two, the higher is the newer.
    pub fn version(&self) -> u64 {
        timestamp_version(&self.bundle.timestamp).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_no_part_of_it_does() {
        let bundle = Bundle {
            roots: vec![b"root".to_vec()],
            timestamp: b"timestamp".to_vec(),
            snapshot: b"snapshot".to_vec(),
            targets: b"targets".to_vec(),
        };
        let judged = Judged { judged_s: 1_795_000_000, bundle };
        let octets = judged.encode();
        assert_eq!(Judged::parse(&octets).unwrap(), judged);
        for end in 0..octets.len() {
            assert!(Judged::parse(&octets[..end]).is_err(), "{end} octets were taken for all");
        }
    }
}
