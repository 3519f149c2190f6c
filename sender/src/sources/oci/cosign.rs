//! Signatures as cosign makes them with a key: a manifest under the tag `sha256-HEX.sig`, of which each layer is a payload
//! in the simple signing format that names the digest, with the signature over it in an annotation.
//!
//! Formats: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>. Certificates and transparency logs
//! are not looked at: what counts here is the one key that the operator gives.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diodesync::id::Sha256;
use diodesync::release::image::parse_digest;
use serde::Deserialize;

/// Octets of a payload.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 10;
/// Signatures of one manifest that are looked at.
const SIGNATURES_MAX: usize = 64;
/// Octets of a key file.
const KEY_BYTES_MAX: u64 = 64 << 10;
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What kinds of key there are, by the beginning of their DER encoding (RFC 5280 SubjectPublicKeyInfo, RFC 5480, RFC 8410).
const KINDS: [(&[u8], &dyn VerificationAlgorithm); 4] = [
    (
        &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48,
        ],
        &ECDSA_P256_SHA256_ASN1,
    ),
    (
        &[0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05],
        &ECDSA_P384_SHA384_ASN1,
    ),
    (&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70], &ED25519),
    (&[0x30, 0x82], &RSA_PKCS1_2048_8192_SHA256),
];

/// The key that must have signed.
#[derive(Clone)]
pub struct CosignKey {
    der: Vec<u8>,
    algorithm: &'static dyn VerificationAlgorithm,
}

impl std::fmt::Debug for CosignKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CosignKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl CosignKey {
    /// Reads a file like `cosign.pub`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let length =
            std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if length > KEY_BYTES_MAX {
            bail!("{} has {length} octets, expected a public key", path.display());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads a PEM public key.
    pub fn parse(pem: &str) -> anyhow::Result<Self> {
        const EXPECTED: &str =
            "expected a public key in PEM (-----BEGIN PUBLIC KEY-----), as cosign public-key prints it";
        if pem.contains("PRIVATE KEY") {
            bail!("{EXPECTED}, found a private key; keep it away from here");
        }
        let body = pem
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"));
        let (body, _) = body.context(EXPECTED)?;
        let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        let der = BASE64_STANDARD.decode(body).context(EXPECTED)?;
        let kind = KINDS.iter().find(|(prefix, _)| der.starts_with(prefix));
        let (_, algorithm) =
            kind.context("expected an ECDSA key on P-256 or P-384, an Ed25519 key or an RSA key")?;
        Ok(Self { der, algorithm: *algorithm })
    }

    fn verifies(&self, content: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.der).verify(content, signature).is_ok()
    }
}

/// A signature over a payload that is still to be fetched.
#[derive(Debug)]
pub struct Signed {
    /// The payload.
    pub payload: Sha256,
    signature: Vec<u8>,
}

/// The signatures in the manifest under a `.sig` tag.
pub fn signatures(manifest: &[u8]) -> anyhow::Result<Vec<Signed>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        #[serde(default)]
        media_type: String,
        digest: String,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    struct Layers {
        #[serde(default)]
        layers: Vec<Layer>,
    }
    let Layers { layers } =
        serde_json::from_slice(manifest).context("what is under the tag of its signatures is none")?;
    let mut all = Vec::new();
    for layer in layers.into_iter().filter(|layer| layer.media_type == PAYLOAD_TYPE).take(SIGNATURES_MAX) {
        let Some(text) = layer.annotations.get(SIGNATURE) else { continue };
        let signature = BASE64_STANDARD.decode(text).context("a signature is not in base64")?;
        all.push(Signed { payload: parse_digest(&layer.digest)?, signature });
    }
    Ok(all)
}

/// Whether a payload is signed by the key, and says that a manifest is what it signs.
///
/// # Errors
/// Why not.
pub fn check(key: &CosignKey, signed: &Signed, payload: &[u8], manifest: &Sha256) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: String,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
        #[serde(rename = "type")]
        kind: String,
    }
    #[derive(Deserialize)]
    struct Payload {
        critical: Critical,
    }
    if !key.verifies(payload, &signed.signature) {
        bail!("it is not by the key that cosign_key names, or its payload was changed");
    }
    let Payload { critical } =
        serde_json::from_slice(payload).context("its payload is not in the simple signing format")?;
    if critical.kind != "cosign container image signature" && critical.kind != "atomic container signature" {
        bail!("its payload is of type {:?}, not the signature of an image", critical.kind);
    }
    let found = parse_digest(&critical.image.digest)?;
    if found != *manifest {
        bail!("it signs sha256:{found}, not this image");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    fn pem(pair: &EcdsaKeyPair) -> String {
        // The header of a P-256 key in SubjectPublicKeyInfo, then the point.
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [head.as_slice(), pair.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der))
    }

    fn pair() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()
    }

    fn payload(digest: &Sha256, kind: &str) -> Vec<u8> {
        let critical = json!({ "identity": {}, "image": { "docker-manifest-digest": format!("sha256:{digest}") }, "type": kind });
        json!({ "critical": critical, "optional": null }).to_string().into_bytes()
    }

    fn signed(pair: &EcdsaKeyPair, payload: &[u8]) -> Signed {
        let signature = pair.sign(&SystemRandom::new(), payload).unwrap();
        let layer = json!({
            "mediaType": PAYLOAD_TYPE, "digest": format!("sha256:{}", Sha256::of(payload)), "size": payload.len(),
            "annotations": { SIGNATURE: BASE64_STANDARD.encode(signature) },
        });
        let other = json!({ "mediaType": "text/plain", "digest": "sha512:x", "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "layers": [other, layer] }).to_string();
        signatures(manifest.as_bytes()).unwrap().pop().unwrap()
    }

    #[test]
    fn a_signature_binds_a_digest_to_a_key() {
        const KIND: &str = "cosign container image signature";
        let (pair, stranger, digest) = (pair(), self::pair(), Sha256([7; 32]));
        let key = CosignKey::parse(&pem(&pair)).unwrap();
        let good = payload(&digest, KIND);
        let by_key = signed(&pair, &good);
        assert_eq!(by_key.payload, Sha256::of(&good));
        check(&key, &by_key, &good, &digest).unwrap();
        let refused = |signed: &Signed, payload: &[u8], digest: &Sha256| {
            check(&key, signed, payload, digest).unwrap_err().to_string()
        };
        assert!(refused(&signed(&stranger, &good), &good, &digest).contains("not by the key"));
        assert!(refused(&by_key, &good, &Sha256([8; 32])).contains("not this image"));
        let mut changed = good.clone();
        changed[20] ^= 1;
        assert!(refused(&by_key, &changed, &digest).contains("not by the key"));
        let other = payload(&digest, "something else");
        assert!(refused(&signed(&pair, &other), &other, &digest).contains("not the signature of an image"));
    }

    #[test]
    fn keys_that_are_none() {
        for (bad, why) in [
            ("", "expected a public key in PEM"),
            ("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----", "a private key"),
            ("-----BEGIN PUBLIC KEY-----\n***\n-----END PUBLIC KEY-----", "expected a public key"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "expected an ECDSA key"),
        ] {
            let error = CosignKey::parse(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
