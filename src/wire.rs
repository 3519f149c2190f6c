//! The wire, octet by octet. Version 2; version 1 is read too.
//!
//! One UDP payload is one datagram. Integers are big-endian. Nothing answers: every datagram can be understood with
//! what the receiver was paired with and a SESSION datagram of the same session.
//!
//! # Outer layer
//!
//! ```text
//!  0  2  magic "DS"
//!  2  1  version: 2, or 1
//!  3  1  type: 1 SESSION, 2 SEALED
//! ```
//!
//! ## SESSION: in clear, signed
//!
//! ```text
//!  4 16  link id
//! 20  8  session number
//! 28  1  octets l of the lane's name (1 to 32)          } not in version 1
//! 29  l  the lane's name                                }
//! ..  1  n, the number of receivers it is sealed to (1 to 8)
//! ..  n × 88:
//!         8  key id: first octets of the BLAKE3 of the receiver's X25519 key
//!        32  HPKE encapsulated key        (RFC 9180, mode_psk, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM)
//!        48  the sealed session secret of 32 octets
//! ..  64  Ed25519 signature by the link key over "diodesync session V", V the version, and all octets before it
//! ```
//!
//! ## SEALED: AES-256-GCM
//!
//! ```text
//!  4  4  the low 32 bits of the session number
//!  8  8  sequence number, from 0
//! 16  …  ciphertext; octets 0 to 15 are its associated data
//! …  16  tag
//! ```
//!
//! Keys and nonces are those of [`crate::link`].
//!
//! # Inner layer
//!
//! ## SYMBOL
//!
//! ```text
//!  0  1  kind = 1
//!  1  1  FEC scheme: 1 = systematic Reed–Solomon over GF(2^16), high rate
//!  2  1  object: 0 block, 1 index, 2 trust
//!  3  1  log2 of the nominal repair count R, 0 to 10
//!  4  4  transfer length F of the object in octets (RFC 5052 §6.2)
//!  8  8  block: the pack; index and trust: the first octets of the object's BLAKE3
//! 16  4  block: its number in the pack; index and trust: source block number
//! 20  4  encoding symbol id
//! 24  T  the symbol; T is even. The last source symbol is filled up with zeros
//! ```
//!
//! An object of F octets is cut into ⌈F / 1 MiB⌉ source blocks of 1 MiB, the last one shorter; a block of a pack is
//! one source block. A source block of L octets has K = ⌈L / T⌉ source symbols. Symbols of one source block add up
//! only if F, T, R and scheme are equal.
//!
//! ## BEACON
//!
//! ```text
//!  0  1  kind = 2
//!  1  1  flags: 1 = filled up to the lane's full size
//!  2  8  the sender's clock, milliseconds since 1970
//! 10  8  the lane's rate, bits per second; 0 = as fast as it goes
//! 18  8  octets that wait to be sent
//! 26  2  octets t of the TUF timestamp; 0 = none yet
//! 28  t  the TUF timestamp
//! ..  1  number of channels, then for each:
//!         1  octets c of its name; c the name
//!         8  its newest release
//!         1  rounds of it that are complete
//!         1  rounds that it will have
//! ..  …  zeros up to the end
//! ```
//!
//! ## PROBE: in trains of rising rates, filled up to the lane's full size
//!
//! ```text
//!  0  1  kind = 3
//!  1  1  flags: 1 = the train is over
//!  2  8  which run of trains: the sender's clock at its start, milliseconds since 1970
//! 10  2  which train of it, from 0
//! 12  4  megabits per second at which the train went out; 0 before its end
//! 16  4  which datagram of the train, from 0; at its end how many there were
//! 20  …  zeros up to the end
//! ```
//!
//! # History
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//! | 2 | SESSION names its lane, so that what was recorded on one lane is nothing on another, and crossed paths show; PROBE |

mod beacon;
mod outer;
mod probe;
mod symbol;

use thiserror::Error;

use crate::codec::CodecError;
use crate::id::IdError;

pub use beacon::{Beacon, BeaconChannel};
pub use outer::{Outer, Sealed, SealedHeader, SealedSecret, SessionId, SessionOffer};
pub use probe::{PROBE_HEADER_BYTES, Probe};
pub use symbol::{FecScheme, ObjectId, SymbolHeader};

/// A version of the wire. Each side reads the newest and the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// SESSION does not name its lane.
    V1 = 1,
    /// What is written.
    V2 = 2,
}

impl Version {
    /// The version with this number.
    ///
    /// # Errors
    /// If this side does not read it.
    pub fn parse(number: u8) -> Result<Self, WireError> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            found => Err(WireError::Version { found }),
        }
    }

    /// What the link key signs before the octets of a SESSION.
    pub fn signed_context(self) -> &'static [u8] {
        match self {
            Self::V1 => b"diodesync session 1",
            Self::V2 => b"diodesync session 2",
        }
    }
}

/// Octets before the ciphertext of a SEALED datagram.
pub const SEALED_HEADER_BYTES: usize = 16;
/// Octets of the tag after it.
pub const TAG_BYTES: usize = 16;
/// Octets before the symbol in a SYMBOL.
pub const SYMBOL_HEADER_BYTES: usize = 24;
/// Octets of a datagram that carry no symbol.
pub const SYMBOL_OVERHEAD_BYTES: usize = SEALED_HEADER_BYTES + SYMBOL_HEADER_BYTES + TAG_BYTES;

/// Why a datagram is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// It is not of this protocol.
    #[error("not a Diodesync datagram")]
    Magic,
    /// It is of another version.
    #[error(
        "the datagram is of wire version {found}, this side reads versions 1 and 2; upgrade the receiver first"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// A tag names nothing known.
    #[error("{what} {found} is not known")]
    Unknown {
        /// What the tag stands for.
        what: &'static str,
        /// Its value.
        found: u8,
    },
    /// It is cut off, or a number is out of bounds.
    #[error("malformed datagram: {0}")]
    Codec(#[from] CodecError),
    /// A name in it is not one.
    #[error("malformed datagram: {0}")]
    Id(#[from] IdError),
}

/// The symbol size of a lane with this MTU: what an IPv6 packet leaves, so that the same symbols fit over IPv4, rounded
/// down to 16 octets.
pub fn symbol_bytes_for_mtu(mtu: usize) -> usize {
    const IPV6_UDP_BYTES: usize = 48;
    mtu.saturating_sub(IPV6_UDP_BYTES + SYMBOL_OVERHEAD_BYTES) / 16 * 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbol_size_follows_from_the_mtu() {
        assert_eq!(symbol_bytes_for_mtu(1500), 1392);
        assert_eq!(symbol_bytes_for_mtu(9000), 8896);
        assert_eq!(symbol_bytes_for_mtu(0), 0);
    }
}
