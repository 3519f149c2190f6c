//! The manifest: what an export is, and its secret for those who may read it.
//!
//! ```text
//! "DSVM"  version u8 = 1
//! link id [16]   export id [8]   made varint (seconds since 1970)
//! D, C, R, V: varints, see [`Layout`]
//! secret u8: 0 in clear, then [32]
//!            1 sealed, then n u8 (1 to 8), n × 88 as in SESSION
//! Ed25519 signature [64] by the link key over "diodesync export 1" and all octets before it
//! ```

use thiserror::Error;

use super::{ExportSecret, Layout, MANIFEST_BYTES_MAX};
use crate::codec::{CodecError, Reader, put_varint};
use crate::id::{ExportId, LinkId};
use crate::limits::RECEIVER_KEYS_MAX;
use crate::link::{CryptoRng, KeyError, LinkKey, Paired, PairingSecret, ReceiverPublic, seal_secret};
use crate::wire::SealedSecret;

const MAGIC: &[u8; 4] = b"DSVM";
const VERSION: u8 = 1;
const SIGNATURE_BYTES: usize = 64;
const CONTEXT: &[u8] = b"diodesync export 1";

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// Not a manifest at all.
    #[error("this is not the manifest of an export: it does not start with DSVM")]
    Magic,
    /// Written by another version.
    #[error(
        "the export is of version {found}, this receiver reads version {VERSION}; upgrade the receiver first"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The octets are broken.
    #[error("the manifest is malformed: {0}")]
    Codec(#[from] CodecError),
    /// Made for another pair.
    #[error("the export is of link {found}, this receiver is paired with link {expected}")]
    OtherLink {
        /// The paired link.
        expected: LinkId,
        /// The export's.
        found: LinkId,
    },
    /// The signature is not the link key's.
    #[error(
        "the manifest is not signed by the paired sender, or the medium is damaged there; another volume has the same"
    )]
    Signature,
    /// Not sealed to this receiver.
    #[error("the export is not sealed to this receiver's key; export it again for this receiver.pub")]
    NotForUs,
}

/// How an export's secret travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// In clear: whoever finds a volume can read it.
    Plain(ExportSecret),
    /// For these receivers.
    Sealed(Vec<SealedSecret>),
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The link.
    pub link: LinkId,
    /// The export.
    pub export: ExportId,
    /// When it was begun, in seconds since 1970.
    pub made_s: u64,
    /// How it is laid out.
    pub layout: Layout,
    /// Its secret.
    pub offer: Offer,
}

impl Manifest {
    /// Seals an export's secret to receivers.
    pub fn seal_offer(
        rng: &mut impl CryptoRng,
        secret: &ExportSecret,
        link: LinkId,
        export: ExportId,
        pairing: &PairingSecret,
        receivers: &[ReceiverPublic],
    ) -> Result<Offer, KeyError> {
        seal_secret(rng, &secret.0, link, pairing, receivers, &info(link, export)).map(Offer::Sealed)
    }

    /// Its octets, signed.
    pub fn encode(&self, key: &LinkKey) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out.extend_from_slice(&self.link.0);
        out.extend_from_slice(&self.export.0);
        put_varint(&mut out, self.made_s);
        self.layout.put(&mut out);
        match &self.offer {
            Offer::Plain(secret) => {
                out.push(0);
                out.extend_from_slice(&secret.0);
            }
            Offer::Sealed(secrets) => {
                out.extend_from_slice(&[1, secrets.len() as u8]);
                for secret in secrets {
                    out.extend_from_slice(&secret.key_id);
                    out.extend_from_slice(&secret.encapsulated);
                    out.extend_from_slice(&secret.ciphertext);
                }
            }
        }
        let signature = key.sign(CONTEXT, &out);
        out.extend_from_slice(&signature);
        out
    }

    /// Reads what a medium holds, as the receiver that it is for.
    ///
    /// # Errors
    /// Every way in which it is not an export of the paired sender for this receiver.
    pub fn open(octets: &[u8], paired: &Paired) -> Result<(Self, ExportSecret), ManifestError> {
        if octets.len() > MANIFEST_BYTES_MAX {
            let (found, max) = (octets.len() as u64, MANIFEST_BYTES_MAX as u64);
            return Err(CodecError::Limit { what: "the octets of a manifest", found, max }.into());
        }
        let mut reader = Reader::new(octets);
        if reader.bytes(4).ok() != Some(MAGIC.as_slice()) {
            return Err(ManifestError::Magic);
        }
        match reader.u8()? {
            VERSION => {}
            found => return Err(ManifestError::Version { found }),
        }
        let link = LinkId(reader.array()?);
        if link != paired.link {
            return Err(ManifestError::OtherLink { expected: paired.link, found: link });
        }
        let left = octets.len().saturating_sub(SIGNATURE_BYTES);
        let truncated = CodecError::Truncated { wanted: SIGNATURE_BYTES, left: octets.len() };
        let (signed, signature) = octets.split_at_checked(left).ok_or(truncated.clone())?;
        let signature = signature.try_into().map_err(|_| truncated)?;
        if !paired.has_signed(CONTEXT, signed, signature) {
            return Err(ManifestError::Signature);
        }
        let export = ExportId(reader.array()?);
        let made_s = reader.varint()?;
        let layout = Layout::parse(&mut reader)?;
        let offer = match reader.u8()? {
            0 => Offer::Plain(ExportSecret(reader.array()?)),
            1 => Offer::Sealed(parse_secrets(&mut reader)?),
            found => {
                let what = "the kind of an export's secret";
                return Err(CodecError::Limit { what, found: u64::from(found), max: 1 }.into());
            }
        };
        reader.bytes(SIGNATURE_BYTES)?;
        reader.finish()?;
        let secret = match &offer {
            Offer::Plain(secret) => secret.clone(),
            Offer::Sealed(secrets) => paired
                .unseal(secrets, &info(link, export))
                .map(ExportSecret)
                .ok_or(ManifestError::NotForUs)?,
        };
        Ok((Self { link, export, made_s, layout, offer }, secret))
    }
}

fn parse_secrets(reader: &mut Reader<'_>) -> Result<Vec<SealedSecret>, CodecError> {
    let count = usize::from(reader.u8()?);
    if !(1..=RECEIVER_KEYS_MAX).contains(&count) {
        let (found, max) = (count as u64, RECEIVER_KEYS_MAX as u64);
        return Err(CodecError::Limit { what: "the number of receiver keys", found, max });
    }
    (0..count)
        .map(|_| {
            Ok(SealedSecret {
                key_id: reader.array()?,
                encapsulated: reader.array()?,
                ciphertext: reader.array()?,
            })
        })
        .collect()
}

fn info(link: LinkId, export: ExportId) -> Vec<u8> {
    [CONTEXT, &link.0, &export.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::ReceiverKey;
    use crate::testing::SeededRng;

    fn paired() -> (LinkKey, Paired) {
        let key = LinkKey::from_seed(&[1; 32]);
        let (link, secret) = (LinkId([7; 16]), PairingSecret([3; 32]));
        let paired = Paired {
            link,
            senders: vec![key.verifier()],
            secret,
            keys: vec![ReceiverKey::from_seed(&[2; 32])],
        };
        (key, paired)
    }

    fn manifest(paired: &Paired, is_plain: bool) -> (Manifest, ExportSecret) {
        let (secret, export) = (ExportSecret([9; 32]), ExportId([5; 8]));
        let receivers = [ReceiverKey::from_seed(&[8; 32]).public().clone(), paired.keys[0].public().clone()];
        let offer = match is_plain {
            true => Offer::Plain(secret.clone()),
            false => {
                let mut rng = SeededRng::new(1);
                Manifest::seal_offer(&mut rng, &secret, paired.link, export, &paired.secret, &receivers)
                    .unwrap()
            }
        };
        let layout = Layout::new(1000, 10, 1 << 30).unwrap();
        (Manifest { link: paired.link, export, made_s: 1_795_000_000, layout, offer }, secret)
    }

    #[test]
    fn an_export_opens_for_its_receivers_alone() {
        let (key, paired) = paired();
        for is_plain in [false, true] {
            let (manifest, secret) = manifest(&paired, is_plain);
            let octets = manifest.encode(&key);
            assert!(octets.len() <= MANIFEST_BYTES_MAX);
            assert_eq!(Manifest::open(&octets, &paired), Ok((manifest.clone(), secret)));
            let other = Paired { keys: vec![ReceiverKey::from_seed(&[4; 32])], ..paired.clone() };
            assert_eq!(Manifest::open(&octets, &other).is_ok(), is_plain);
            let other = Paired { link: LinkId([8; 16]), ..paired.clone() };
            assert!(matches!(Manifest::open(&octets, &other), Err(ManifestError::OtherLink { .. })));
            let forged = manifest.encode(&LinkKey::from_seed(&[6; 32]));
            assert_eq!(Manifest::open(&forged, &paired), Err(ManifestError::Signature));
        }
    }

    #[test]
    fn every_octet_of_a_manifest_matters() {
        let (key, paired) = paired();
        let octets = manifest(&paired, false).0.encode(&key);
        for at in 0..octets.len() {
            let mut bad = octets.clone();
            bad[at] ^= 1;
            assert!(Manifest::open(&bad, &paired).is_err(), "octet {at}");
            assert!(Manifest::open(&octets[..at], &paired).is_err(), "{at} octets");
        }
        assert!(Manifest::open(&[octets.as_slice(), &[0]].concat(), &paired).is_err());
    }
}
