//! Manifests: OCI image specification 1.1 (image manifest, image index, descriptor), OCI artifact manifests of its
//! release candidates, and Docker's manifest schema 2 and manifest list.
//!
//! Only what the closure and the referrers list need is kept; a manifest is always carried and served by its octets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::id::Sha256;
use crate::limits::{IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, MANIFEST_BYTES_MAX};
use crate::release::index::is_media_type;

/// Why octets are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// It is too large.
    #[error("it has {found} octets, a manifest has at most {MANIFEST_BYTES_MAX}")]
    Size {
        /// Its octets.
        found: u64,
    },
    /// It is not JSON, or not of the shape that a manifest has.
    #[error("it is not a manifest: {0}")]
    Json(String),
    /// It is of a kind that is not known.
    #[error(
        "the manifest type {0:?} is not known; known are the OCI image manifest, image index and artifact manifest, \
         and Docker's manifest (schema 2) and manifest list"
    )]
    Type(String),
    /// Docker's first manifest format, which names nothing by its own digest.
    #[error("it is of Docker's manifest schema 1; convert it with: skopeo copy --format oci")]
    SchemaOne,
    /// A digest that is not of SHA-256.
    #[error(
        "it names {0:?}; expected sha256: and 64 lower-case hexadecimal digits, no other digest is carried"
    )]
    Digest(String),
    /// Its parts are those of different kinds.
    #[error("it is of type {kind} and has {found:?}: one client would read it so and another otherwise")]
    Ambiguous {
        /// Its type.
        kind: &'static str,
        /// The part that does not belong to it.
        found: &'static str,
    },
    /// It lacks a part.
    #[error("it is of type {kind} and has no {lacking:?}")]
    Lacks {
        /// Its type.
        kind: &'static str,
        /// The part.
        lacking: &'static str,
    },
    /// It has more parts than a manifest can have.
    #[error("it names more than {max} {what}")]
    TooMany {
        /// The parts.
        what: &'static str,
        /// How many there may be.
        max: u64,
    },
}

/// The kinds of manifest that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestType {
    /// An OCI image manifest.
    OciImage,
    /// An OCI image index.
    OciIndex,
    /// An OCI artifact manifest, of the release candidates of image specification 1.1.
    OciArtifact,
    /// Docker's manifest, schema 2.
    DockerImage,
    /// Docker's manifest list.
    DockerList,
}

impl ManifestType {
    const ALL: [Self; 5] =
        [Self::OciImage, Self::OciIndex, Self::OciArtifact, Self::DockerImage, Self::DockerList];

    /// As it is written in descriptors and in `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OciImage => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::OciArtifact => "application/vnd.oci.artifact.manifest.v1+json",
            Self::DockerImage => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// The kind that a media type means.
    pub fn of(media_type: &str) -> Result<Self, ManifestError> {
        if media_type.starts_with("application/vnd.docker.distribution.manifest.v1+") {
            return Err(ManifestError::SchemaOne);
        }
        let known = Self::ALL.into_iter().find(|known| known.media_type() == media_type);
        known.ok_or_else(|| ManifestError::Type(media_type.chars().take(255).collect()))
    }

    /// Whether it lists manifests and not blobs.
    fn is_list(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }
}

/// A reference to content, with its length (OCI image specification, descriptor).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type, as it is written.
    pub media_type: String,
    /// Its digest.
    pub digest: Sha256,
    /// Its octets.
    pub bytes: u64,
    /// Whether it is to be fetched from elsewhere, by a URL or because it may not be distributed.
    pub is_foreign: bool,
    /// `org.opencontainers.image.ref.name`, by which a layout names its images.
    pub ref_name: Option<String>,
    /// The platform that an index says it is for.
    pub platform: Option<ImagePlatform>,
    /// The manifest that it says something of, by `vnd.docker.reference.digest`: how BuildKit puts attestations into an
    /// index.
    pub describes: Option<Sha256>,
}

/// `OS/ARCHITECTURE[/VARIANT]` (OCI image specification, image index).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ImagePlatform {
    /// The operating system, like `linux`.
    #[serde(default)]
    pub os: String,
    /// The architecture, like `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Its variant, like `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl ImagePlatform {
    /// Whether it is what is wanted, which may leave the variant open.
    pub fn is(&self, wanted: &Self) -> bool {
        let Self { os, architecture, variant } = wanted;
        self.os == *os
            && self.architecture == *architecture
            && (variant.is_none() || self.variant == *variant)
    }
}

impl FromStr for ImagePlatform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = |word: &&str| {
            (1..=32).contains(&word.len())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let words: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match words.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
            _ => {
                return Err(format!(
                    "expected OS/ARCHITECTURE, like linux/amd64 or linux/arm/v7, found {text:?}"
                ));
            }
        };
        if !words.iter().all(is_word) {
            return Err(format!("expected a platform of lower-case letters and digits, found {text:?}"));
        }
        Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant })
    }
}

impl fmt::Display for ImagePlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its kind.
    pub kind: ManifestType,
    /// Its octets.
    pub bytes: u64,
    /// What kind of artifact it is: its `artifactType`, else the media type of its configuration.
    pub artifact_type: Option<String>,
    /// The manifest that it refers to.
    pub subject: Option<Sha256>,
    /// The manifests that it lists.
    pub manifests: Vec<Descriptor>,
    /// Its configuration and layers.
    pub blobs: Vec<Descriptor>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<ImagePlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    blobs: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    subject: Option<RawDescriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Its entry in a list of referrers (distribution specification 1.1, "Listing Referrers").
    pub fn descriptor(&self, digest: &Sha256) -> serde_json::Value {
        let mut descriptor = json!({
            "mediaType": self.kind.media_type(),
            "digest": format!("sha256:{digest}"),
            "size": self.bytes,
        });
        if let Some(object) = descriptor.as_object_mut() {
            object.extend(self.artifact_type.iter().map(|own| ("artifactType".to_owned(), json!(own))));
            if !self.annotations.is_empty() {
                object.insert("annotations".to_owned(), json!(self.annotations));
            }
        }
        descriptor
    }

    /// Reads a manifest. Its kind is its `mediaType`, which only OCI manifests may lack; those are told apart by their
    /// parts.
    pub fn parse(octets: &[u8]) -> Result<Self, ManifestError> {
        let bytes = octets.len() as u64;
        if bytes > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Size { found: bytes });
        }
        // An array would do for serde as well.
        if octets.trim_ascii_start().first() != Some(&b'{') {
            return Err(ManifestError::Json("it is not a JSON object".to_owned()));
        }
        let raw: Raw =
            serde_json::from_slice(octets).map_err(|error| ManifestError::Json(error.to_string()))?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(ManifestError::SchemaOne);
        }
        let kind = raw.kind()?;
        raw.check_parts(kind)?;
        let own_type = raw.artifact_type.filter(|own| !own.is_empty());
        let config_type = raw.config.as_ref().map(|config| config.media_type.clone());
        // Others put this into a list of referrers and into a query.
        let artifact_type = own_type.or(config_type).filter(|own| is_media_type(own));
        let subject = raw.subject.map(|subject| parse_digest(&subject.digest)).transpose()?;
        let manifests = raw.manifests.unwrap_or_default();
        let layers = raw.layers.or(raw.blobs).unwrap_or_default();
        let blobs: Vec<_> = raw.config.into_iter().chain(layers).collect();
        for (what, found, max) in [
            ("manifests", manifests.len(), IMAGE_MANIFESTS_MAX),
            ("configurations and layers", blobs.len(), IMAGE_BLOBS_MAX),
        ] {
            if found as u64 > max {
                return Err(ManifestError::TooMany { what, max });
            }
        }
        let all = |list: Vec<RawDescriptor>| list.into_iter().map(RawDescriptor::check).collect();
        let (manifests, blobs): (Result<Vec<_>, _>, Result<Vec<_>, _>) = (all(manifests), all(blobs));
        Ok(Self {
            kind,
            bytes,
            artifact_type,
            subject,
            manifests: manifests?,
            blobs: blobs?,
            annotations: raw.annotations.unwrap_or_default(),
        })
    }
}

impl Raw {
    fn kind(&self) -> Result<ManifestType, ManifestError> {
        match self.media_type.as_deref().filter(|own| !own.is_empty()) {
            Some(own) => ManifestType::of(own),
            None if self.schema_version != Some(2) => {
                Err(ManifestError::Json("it has neither a mediaType nor schemaVersion 2".to_owned()))
            }
            None if self.manifests.is_some() => Ok(ManifestType::OciIndex),
            None if self.config.is_some() => Ok(ManifestType::OciImage),
            None => {
                Err(ManifestError::Json("it has neither a mediaType, nor a config, nor manifests".to_owned()))
            }
        }
    }

    /// A manifest that has parts of two kinds means one thing to one client and another to the next (CVE-2021-41190).
    fn check_parts(&self, kind: ManifestType) -> Result<(), ManifestError> {
        let has = [
            ("config", self.config.is_some()),
            ("layers", self.layers.is_some()),
            ("blobs", self.blobs.is_some()),
            ("manifests", self.manifests.is_some()),
        ];
        let own: &[&str] = match kind {
            ManifestType::OciIndex | ManifestType::DockerList => &["manifests"],
            ManifestType::OciImage | ManifestType::DockerImage => &["config", "layers"],
            ManifestType::OciArtifact => &["blobs"],
        };
        let media_type = kind.media_type();
        if let Some((found, _)) = has.into_iter().find(|(part, is_there)| *is_there && !own.contains(part)) {
            return Err(ManifestError::Ambiguous { kind: media_type, found });
        }
        let needed = if kind.is_list() { "manifests" } else { "config" };
        let is_whole = has.contains(&(needed, true)) || kind == ManifestType::OciArtifact;
        if is_whole { Ok(()) } else { Err(ManifestError::Lacks { kind: media_type, lacking: needed }) }
    }
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, ManifestError> {
        let is_foreign = self.urls.is_some_and(|urls| !urls.is_empty())
            || self.media_type.contains(".foreign.")
            || self.media_type.contains(".nondistributable.");
        let mut annotations = self.annotations.unwrap_or_default();
        let describes = annotations.remove("vnd.docker.reference.digest");
        Ok(Descriptor {
            digest: parse_digest(&self.digest)?,
            media_type: self.media_type,
            bytes: self.size,
            is_foreign,
            ref_name: annotations.remove("org.opencontainers.image.ref.name"),
            platform: self.platform,
            describes: describes.and_then(|text| parse_digest(&text).ok()),
        })
    }
}

/// Reads `sha256:HEX`.
pub fn parse_digest(text: &str) -> Result<Sha256, ManifestError> {
    let hex = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    hex.ok_or_else(|| ManifestError::Digest(text.chars().take(160).collect()))
}
