//! Container images, and everything else that an OCI registry keeps: what belongs to a tag, and whether it is all
//! there. The sender gathers an image with [`closure`] out of a layout; the receiver gathers it again out of what
//! arrived, and publishes it only if it is the same.
//!
//! To the manifest that a tag names belong
//!
//! * the manifests below it, if it is an index, at any depth and of every platform;
//! * the manifests that refer to one of these by their `subject` (signatures, attestations, SBOMs; OCI distribution
//!   specification 1.1, referrers), again with what is below them and refers to them;
//! * the configuration and the layers of all of them.
//!
//! An operator may take some platforms only. Then the index keeps its octets, because its digest is what was signed, and
//! the manifests of the others are left out ([`Image::omitted`]); stock clients ask for the manifest of their platform.
//!
//! A signature that is found by its tag (`sha256-HEX.sig`, or `sha256-HEX`, the fallback tag of registries without
//! referrers) is an artifact of its own; see [`Accessory`].
//!
//! Digests are SHA-256: what blobs are named by here. Layers with `urls` (foreign, non-distributable) are carried like
//! any other, for nobody inside the gap can follow the URL; so they must be there.

mod manifest;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::index::Image;
use super::name::Tag;
use crate::id::Sha256;
use crate::limits::{IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_BYTES_MAX, IMAGE_MANIFESTS_MAX};

pub use manifest::{Descriptor, ImagePlatform, Manifest, ManifestError, ManifestType, parse_digest};

/// Why an image is not whole, or not what it says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// A manifest cannot be read.
    #[error("manifest sha256:{digest}: {error}")]
    Manifest {
        /// Which.
        digest: Sha256,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// Something that a manifest names is not there.
    #[error("{what} sha256:{digest} ({media_type}), which manifest sha256:{parent} names, is missing{hint}")]
    Missing {
        /// What it would be.
        what: &'static str,
        /// Its digest.
        digest: Sha256,
        /// Its media type.
        media_type: String,
        /// Who names it.
        parent: Sha256,
        /// Why it may be missing.
        hint: &'static str,
    },
    /// The manifest that a tag names is not there.
    #[error("manifest sha256:{0} is missing")]
    NoRoot(Sha256),
    /// A descriptor says another length than its content has.
    #[error(
        "manifest sha256:{parent} says that sha256:{digest} has {expected} octets, it has {found}; whoever wrote the \
         manifest must correct it"
    )]
    Size {
        /// What is described.
        digest: Sha256,
        /// By whom.
        parent: Sha256,
        /// The octets described.
        expected: u64,
        /// Its octets.
        found: u64,
    },
    /// A descriptor says another media type than the manifest is of.
    #[error(
        "manifest sha256:{parent} says that sha256:{digest} is of type {expected}, it is of type {found}"
    )]
    Type {
        /// What is described.
        digest: Sha256,
        /// By whom.
        parent: Sha256,
        /// The type described.
        expected: String,
        /// Its type.
        found: &'static str,
    },
    /// It has more parts than an image can have.
    #[error("it has more than {max} {what}")]
    TooMany {
        /// The parts.
        what: &'static str,
        /// How many there may be.
        max: u64,
    },
    /// An index says something else of an image than its manifests do.
    #[error("the release's index and the manifests disagree: {0}")]
    Disagreement(String),
}

/// Manifests by digest, each read once and found to be what its digest says.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    by_digest: BTreeMap<Sha256, Manifest>,
    /// Those that refer to a manifest.
    referrers: BTreeMap<Sha256, BTreeSet<Sha256>>,
    /// Those that are not here on purpose.
    omitted: BTreeSet<Sha256>,
    bytes: u64,
}

impl Manifests {
    /// Reads a manifest and keeps what it says.
    ///
    /// # Errors
    /// If it is not a manifest, or more are kept than images have.
    pub fn insert(&mut self, octets: &[u8]) -> Result<Sha256, ImageError> {
        let digest = Sha256::of(octets);
        let Entry::Vacant(place) = self.by_digest.entry(digest) else { return Ok(digest) };
        let manifest = Manifest::parse(octets).map_err(|error| ImageError::Manifest { digest, error })?;
        self.bytes = self.bytes.saturating_add(manifest.bytes);
        if self.bytes > IMAGE_MANIFESTS_BYTES_MAX {
            return Err(ImageError::TooMany { what: "octets of manifests", max: IMAGE_MANIFESTS_BYTES_MAX });
        }
        if let Some(subject) = manifest.subject {
            self.referrers.entry(subject).or_default().insert(digest);
        }
        place.insert(manifest);
        Ok(digest)
    }

    /// Has a manifest left out, with all that is below it and refers to it: an image need not have it.
    pub fn omit(&mut self, digest: Sha256) {
        self.omitted.insert(digest);
    }

    /// What a manifest says.
    pub fn get(&self, digest: &Sha256) -> Option<&Manifest> {
        self.by_digest.get(digest)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Sha256, &Manifest)> {
        self.by_digest.iter()
    }
}

/// Gathers what belongs to a manifest, and checks that it is there as described. `blob_bytes` gives the octets of a
/// configuration or layer that is there.
pub fn closure(
    root: Sha256,
    manifests: &Manifests,
    blob_bytes: impl Fn(&Sha256) -> Option<u64>,
) -> Result<Image, ImageError> {
    let mut image = Image {
        manifest: root,
        manifests: BTreeMap::new(),
        blobs: BTreeSet::new(),
        omitted: BTreeSet::new(),
    };
    let mut open = vec![root];
    while let Some(digest) = open.pop() {
        let Entry::Vacant(place) = image.manifests.entry(digest) else { continue };
        let manifest = manifests.get(&digest).ok_or(ImageError::NoRoot(digest))?;
        place.insert(manifest.kind.media_type().to_owned());
        if image.manifests.len() as u64 > IMAGE_MANIFESTS_MAX {
            return Err(ImageError::TooMany { what: "manifests", max: IMAGE_MANIFESTS_MAX });
        }
        for child in &manifest.manifests {
            if manifests.omitted.contains(&child.digest) {
                image.omitted.insert(child.digest);
                continue;
            }
            check_child(digest, child, manifests)?;
            open.push(child.digest);
        }
        for blob in &manifest.blobs {
            check_blob(digest, blob, blob_bytes(&blob.digest))?;
            image.blobs.insert(blob.digest);
        }
        if image.blobs.len() as u64 > IMAGE_BLOBS_MAX {
            return Err(ImageError::TooMany { what: "configurations and layers", max: IMAGE_BLOBS_MAX });
        }
        open.extend(manifests.referrers.get(&digest).into_iter().flatten());
    }
    Ok(image)
}

fn check_child(parent: Sha256, child: &Descriptor, manifests: &Manifests) -> Result<(), ImageError> {
    let digest = child.digest;
    let described = ManifestType::of(&child.media_type)
        .map_err(|error| ImageError::Manifest { digest: parent, error })?;
    let Some(manifest) = manifests.get(&digest) else {
        let media_type = child.media_type.clone();
        let hint = "; the whole image is carried, every platform of it (skopeo copy --all)";
        return Err(ImageError::Missing { what: "manifest", digest, media_type, parent, hint });
    };
    if manifest.bytes != child.bytes {
        let (expected, found) = (child.bytes, manifest.bytes);
        return Err(ImageError::Size { digest, parent, expected, found });
    }
    if manifest.kind != described {
        let (expected, found) = (child.media_type.clone(), manifest.kind.media_type());
        return Err(ImageError::Type { digest, parent, expected, found });
    }
    Ok(())
}

fn check_blob(parent: Sha256, blob: &Descriptor, found: Option<u64>) -> Result<(), ImageError> {
    let digest = blob.digest;
    match found {
        Some(found) if found == blob.bytes => Ok(()),
        Some(found) => Err(ImageError::Size { digest, parent, expected: blob.bytes, found }),
        None => {
            let hint = if blob.is_foreign {
                "; it is a foreign layer, which its publisher gives out by URL only: fetch it into the layout, for \
                 nobody inside the gap can"
            } else {
                ""
            };
            let media_type = blob.media_type.clone();
            Err(ImageError::Missing { what: "blob", digest, media_type, parent, hint })
        }
    }
}

/// Checks that an image of an index is what its manifests say, no more and no less. `manifests` holds those that the
/// image lists and no others, and omits what the image omits.
pub fn check(
    image: &Image,
    manifests: &Manifests,
    blob_bytes: impl Fn(&Sha256) -> Option<u64>,
) -> Result<(), ImageError> {
    let disagree = |text: String| Err(ImageError::Disagreement(text));
    for (digest, media_type) in &image.manifests {
        let Some(manifest) = manifests.get(digest) else { return Err(ImageError::NoRoot(*digest)) };
        let found = manifest.kind.media_type();
        if found != media_type {
            return disagree(format!("sha256:{digest} is listed as {media_type}, it is of type {found}"));
        }
    }
    // What is listed for another artifact of the release is not listed for this one.
    let listed = |digest: &Sha256| blob_bytes(digest).filter(|_| image.blobs.contains(digest));
    let found = closure(image.manifest, manifests, listed)?;
    if let Some(digest) = image.manifests.keys().find(|digest| !found.manifests.contains_key(*digest)) {
        return disagree(format!("manifest sha256:{digest} is listed and does not belong to it"));
    }
    if let Some(digest) = image.blobs.difference(&found.blobs).next() {
        return disagree(format!("blob sha256:{digest} is listed and no manifest names it"));
    }
    if let Some(digest) = image.omitted.difference(&found.omitted).next() {
        return disagree(format!("manifest sha256:{digest} is said to be left out and no index names it"));
    }
    Ok(())
}

/// A tag that says which manifest it belongs to: `sha256-HEX` (the referrers of registries that have no API for them)
/// or `sha256-HEX.KIND` (`sig`, `att`, `sbom`: where cosign has put them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accessory(
    /// The manifest.
    pub Sha256,
);

impl Accessory {
    /// What a tag says, if it is such a tag.
    pub fn of(tag: &Tag) -> Option<Self> {
        let rest = tag.as_str().strip_prefix("sha256-")?;
        rest.split('.').next()?.parse().ok().map(Self)
    }
}
