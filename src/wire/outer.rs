//! The outer layer: SESSION and SEALED.

use super::{SEALED_HEADER_BYTES, TAG_BYTES, VERSION, WireError};
use crate::codec::{CodecError, Reader};
use crate::id::{LinkId, SessionNo};
use crate::limits::RECEIVER_KEYS_MAX;

const MAGIC: &[u8; 2] = b"DS";
const TYPE_SESSION: u8 = 1;
const TYPE_SEALED: u8 = 2;
const SIGNATURE_BYTES: usize = 64;

/// What the link key signs, before the datagram's own octets.
pub const SIGNED_CONTEXT: &[u8] = b"diodesync session 1";

/// A datagram, by its outer layer.
#[derive(Debug)]
pub enum Outer<'a> {
    /// A session is offered.
    Session(SessionOffer<'a>),
    /// A sealed datagram.
    Sealed(Sealed<'a>),
}

/// The session secret, sealed to one receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSecret {
    /// The receiver's key.
    pub key_id: [u8; 8],
    /// HPKE's encapsulated key.
    pub encapsulated: [u8; 32],
    /// The secret, with its tag.
    pub ciphertext: [u8; 48],
}

/// A SESSION datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOffer<'a> {
    /// The link.
    pub link: LinkId,
    /// The session's number.
    pub number: SessionNo,
    /// The secret, for each receiver.
    pub secrets: Vec<SealedSecret>,
    /// What is signed, after [`SIGNED_CONTEXT`].
    pub signed: &'a [u8],
    /// The signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// The header of a SEALED datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHeader {
    /// The low 32 bits of the session number.
    pub session_low: u32,
    /// The sequence number.
    pub sequence: u64,
}

/// A SEALED datagram.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// Its header.
    pub header: SealedHeader,
    /// The header's octets: the associated data.
    pub associated: [u8; SEALED_HEADER_BYTES],
    /// Ciphertext and tag.
    pub body: &'a mut [u8],
}

impl<'a> Outer<'a> {
    /// Takes a datagram apart. Any octets of any length are allowed.
    pub fn parse(datagram: &'a mut [u8]) -> Result<Self, WireError> {
        let [m0, m1, version, kind, ..] = *datagram else {
            return Err(WireError::Magic);
        };
        if [m0, m1] != *MAGIC {
            return Err(WireError::Magic);
        }
        if version != VERSION {
            return Err(WireError::Version { found: version });
        }
        match kind {
            TYPE_SESSION => parse_session(datagram).map(Self::Session),
            TYPE_SEALED => parse_sealed(datagram).map(Self::Sealed),
            found => Err(WireError::Unknown { what: "datagram type", found }),
        }
    }
}

fn parse_session(datagram: &[u8]) -> Result<SessionOffer<'_>, WireError> {
    let mut reader = Reader::new(datagram);
    reader.bytes(4)?;
    let link = LinkId(reader.array()?);
    let number = SessionNo(reader.u64()?);
    let count = usize::from(reader.u8()?);
    if !(1..=RECEIVER_KEYS_MAX).contains(&count) {
        let (found, max) = (count as u64, RECEIVER_KEYS_MAX as u64);
        return Err(CodecError::Limit { what: "the number of receiver keys", found, max }.into());
    }
    let mut secrets = Vec::with_capacity(count);
    for _ in 0..count {
        secrets.push(SealedSecret {
            key_id: reader.array()?,
            encapsulated: reader.array()?,
            ciphertext: reader.array()?,
        });
    }
    let left = reader.remaining();
    let signed = datagram.get(..datagram.len() - left).unwrap_or_default();
    let signature = reader.array()?;
    reader.finish()?;
    Ok(SessionOffer { link, number, secrets, signed, signature })
}

fn parse_sealed(datagram: &mut [u8]) -> Result<Sealed<'_>, WireError> {
    let left = datagram.len();
    let truncated = CodecError::Truncated { wanted: SEALED_HEADER_BYTES + TAG_BYTES + 1, left };
    let (head, body) = datagram.split_first_chunk_mut::<SEALED_HEADER_BYTES>().ok_or(truncated.clone())?;
    if body.len() <= TAG_BYTES {
        return Err(truncated.into());
    }
    let [_, _, _, _, a, b, c, d, sequence @ ..] = *head;
    let header = SealedHeader {
        session_low: u32::from_be_bytes([a, b, c, d]),
        sequence: u64::from_be_bytes(sequence),
    };
    Ok(Sealed { header, associated: *head, body })
}

impl SessionOffer<'_> {
    /// Writes all of a SESSION datagram but its signature.
    pub fn encode_unsigned(link: LinkId, number: SessionNo, secrets: &[SealedSecret]) -> Vec<u8> {
        let mut out = Vec::with_capacity(29 + secrets.len() * 88 + SIGNATURE_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, TYPE_SESSION]);
        out.extend_from_slice(&link.0);
        out.extend_from_slice(&number.0.to_be_bytes());
        out.push(secrets.len() as u8);
        for secret in secrets {
            out.extend_from_slice(&secret.key_id);
            out.extend_from_slice(&secret.encapsulated);
            out.extend_from_slice(&secret.ciphertext);
        }
        out
    }
}

impl SealedHeader {
    /// The octets before the ciphertext.
    pub fn encode(&self) -> [u8; SEALED_HEADER_BYTES] {
        let [m0, m1] = *MAGIC;
        let [a, b, c, d] = self.session_low.to_be_bytes();
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.sequence.to_be_bytes();
        [m0, m1, VERSION, TYPE_SEALED, a, b, c, d, s0, s1, s2, s3, s4, s5, s6, s7]
    }
}
