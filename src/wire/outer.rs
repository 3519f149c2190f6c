//! The outer layer: SESSION and SEALED.

use super::{SEALED_HEADER_BYTES, TAG_BYTES, Version, WireError};
use crate::codec::{CodecError, Reader};
use crate::id::{LaneId, LinkId, SessionNo};
use crate::limits::RECEIVER_KEYS_MAX;

const MAGIC: &[u8; 2] = b"DS";
const TYPE_SESSION: u8 = 1;
const TYPE_SEALED: u8 = 2;
const SIGNATURE_BYTES: usize = 64;

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

/// Which session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId {
    /// The link.
    pub link: LinkId,
    /// The session's number.
    pub number: SessionNo,
    /// The lane; none in wire version 1, which does not name it.
    pub lane: Option<LaneId>,
}

impl SessionId {
    /// The wire version that its datagrams are of.
    pub fn version(&self) -> Version {
        if self.lane.is_some() { Version::V2 } else { Version::V1 }
    }

    /// Its octets in a SESSION datagram, and in what is bound to it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [self.link.0.as_slice(), &self.number.0.to_be_bytes()].concat();
        if let Some(lane) = &self.lane {
            out.push(lane.as_str().len() as u8);
            out.extend_from_slice(lane.as_str().as_bytes());
        }
        out
    }

    fn parse(reader: &mut Reader<'_>, version: Version) -> Result<Self, WireError> {
        let link = LinkId(reader.array()?);
        let number = SessionNo(reader.u64()?);
        let lane = match version {
            Version::V1 => None,
            Version::V2 => {
                let bytes = usize::from(reader.u8()?);
                let name =
                    std::str::from_utf8(reader.bytes(bytes)?).map_err(|_| CodecError::Utf8("a lane name"))?;
                Some(name.parse()?)
            }
        };
        Ok(Self { link, number, lane })
    }
}

/// A SESSION datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOffer<'a> {
    /// Which session it offers.
    pub id: SessionId,
    /// The secret, for each receiver.
    pub secrets: Vec<SealedSecret>,
    /// What is signed, after [`Version::signed_context`].
    pub signed: &'a [u8],
    /// The signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// The header of a SEALED datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHeader {
    /// The version of its session.
    pub version: Version,
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
        let version = Version::parse(version)?;
        match kind {
            TYPE_SESSION => parse_session(version, datagram).map(Self::Session),
            TYPE_SEALED => parse_sealed(version, datagram).map(Self::Sealed),
            found => Err(WireError::Unknown { what: "datagram type", found }),
        }
    }
}

fn parse_session(version: Version, datagram: &[u8]) -> Result<SessionOffer<'_>, WireError> {
    let mut reader = Reader::new(datagram);
    reader.bytes(4)?;
    let id = SessionId::parse(&mut reader, version)?;
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
    Ok(SessionOffer { id, secrets, signed, signature })
}

fn parse_sealed(version: Version, datagram: &mut [u8]) -> Result<Sealed<'_>, WireError> {
    let left = datagram.len();
    let truncated = CodecError::Truncated { wanted: SEALED_HEADER_BYTES + TAG_BYTES + 1, left };
    let (head, body) = datagram.split_first_chunk_mut::<SEALED_HEADER_BYTES>().ok_or(truncated.clone())?;
    if body.len() <= TAG_BYTES {
        return Err(truncated.into());
    }
    let [_, _, _, _, a, b, c, d, sequence @ ..] = *head;
    let header = SealedHeader {
        version,
        session_low: u32::from_be_bytes([a, b, c, d]),
        sequence: u64::from_be_bytes(sequence),
    };
    Ok(Sealed { header, associated: *head, body })
}

impl SessionOffer<'_> {
    /// Writes all of a SESSION datagram but its signature.
    pub fn encode_unsigned(id: &SessionId, secrets: &[SealedSecret]) -> Vec<u8> {
        let mut out = Vec::with_capacity(62 + secrets.len() * 88 + SIGNATURE_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[id.version() as u8, TYPE_SESSION]);
        out.extend_from_slice(&id.encode());
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
        [m0, m1, self.version as u8, TYPE_SEALED, a, b, c, d, s0, s1, s2, s3, s4, s5, s6, s7]
    }
}
