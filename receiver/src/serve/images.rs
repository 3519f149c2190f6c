//! What is published of container images, in the tables that a registry answers from.
//!
//! Manifests are read once, when a site is made, to learn which refer to which: a request parses none.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diodesync::id::Sha256;
use diodesync::limits::{MANIFEST_BYTES_MAX, REFERRERS_BYTES_MAX};
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::image::Manifest;
use diodesync::release::{ArtifactKind, ArtifactName, Blob, ImageRepository, Index};

use super::site::SiteError;

/// Every repository that is published.
#[derive(Debug, Default)]
pub struct Images {
    repositories: BTreeMap<ImageRepository, Repository>,
    /// What each manifest says of another one.
    read: BTreeMap<Sha256, Read>,
    referrers_bytes: usize,
}

/// What is published under one name.
#[derive(Debug, Default)]
pub struct Repository {
    tags: BTreeMap<String, Sha256>,
    /// Media types.
    manifests: BTreeMap<Sha256, Box<str>>,
    blobs: BTreeSet<Sha256>,
    referrers: BTreeMap<Sha256, BTreeMap<Sha256, Arc<Referrer>>>,
    is_damaged: bool,
}

/// A manifest that refers to another one.
#[derive(Debug)]
pub struct Referrer {
    subject: Sha256,
    /// What it is.
    pub artifact_type: Option<String>,
    /// Its descriptor, in JSON.
    pub descriptor: Box<str>,
}

/// What reading a manifest gave.
#[derive(Debug, Clone)]
enum Read {
    /// It refers to nothing.
    Plain,
    /// It refers to another.
    Referrer(Arc<Referrer>),
    /// It cannot be read now.
    Damaged,
}

impl Images {
    /// Adds the images of a release. Those of a release that is only kept are found by digest, and not by tag.
    pub fn add(&mut self, index: &Index, packs: &PackStore, is_kept: bool) -> Result<(), SiteError> {
        for (name, kind) in &index.artifacts {
            let (ArtifactName::Image(name, tag), ArtifactKind::Image(image)) = (name, kind) else { continue };
            let mut referrers = Vec::new();
            let mut is_damaged = false;
            for digest in image.manifests.keys() {
                match self.read(digest, index.blobs.get(digest), packs)? {
                    Read::Plain => {}
                    Read::Referrer(referrer) => referrers.push((*digest, referrer)),
                    Read::Damaged => is_damaged = true,
                }
            }
            let repository = self.repositories.entry(name.clone()).or_default();
            if !is_kept {
                repository.tags.insert(tag.as_str().to_owned(), image.manifest);
            }
            for (digest, media_type) in &image.manifests {
                repository.manifests.entry(*digest).or_insert_with(|| media_type.as_str().into());
            }
            repository.blobs.extend(&image.blobs);
            repository.is_damaged |= is_damaged;
            for (digest, referrer) in referrers {
                repository.referrers.entry(referrer.subject).or_default().insert(digest, referrer);
            }
        }
        Ok(())
    }

    fn read(&mut self, digest: &Sha256, blob: Option<&Blob>, packs: &PackStore) -> Result<Read, SiteError> {
        let place = match self.read.entry(*digest) {
            Entry::Occupied(known) => return Ok(known.get().clone()),
            Entry::Vacant(place) => place,
        };
        let octets = blob.and_then(|blob| packs.whole_blob(blob, MANIFEST_BYTES_MAX).ok().flatten());
        let octets = octets.filter(|octets| Sha256::of(octets) == *digest);
        let Some(manifest) = octets.and_then(|octets| Manifest::parse(&octets).ok()) else {
            tracing::error!(%digest, "a published manifest cannot be read; run diode-receiver verify");
            return Ok(place.insert(Read::Damaged).clone());
        };
        let Some(subject) = manifest.subject else { return Ok(place.insert(Read::Plain).clone()) };
        let descriptor: Box<str> = manifest.descriptor(digest).to_string().into();
        self.referrers_bytes += descriptor.len();
        if self.referrers_bytes > REFERRERS_BYTES_MAX {
            return Err(SiteError::Referrers);
        }
        let referrer = Referrer { subject, artifact_type: manifest.artifact_type, descriptor };
        Ok(place.insert(Read::Referrer(Arc::new(referrer))).clone())
    }

    /// The repositories that have a tag, by name.
    pub fn repositories(&self) -> impl Iterator<Item = (&ImageRepository, &Repository)> {
        self.repositories.iter().filter(|(_, repository)| !repository.tags.is_empty())
    }

    /// A repository under the name that this gateway gives it, `REGISTRY/REPOSITORY`.
    pub fn by_path(&self, path: &str) -> Option<&Repository> {
        let (registry, name) = path.split_once('/')?;
        // A colon cannot stand in a path, and an underscore not in a host's name.
        self.by_name(&registry.replacen('_', ":", 1), name)
    }

    /// A repository under its own name, as its registry knows it.
    pub fn by_name(&self, registry: &str, name: &str) -> Option<&Repository> {
        self.repositories.get(&format!("{registry}/{name}").parse().ok()?)
    }
}

impl Repository {
    /// The manifest of each tag.
    pub fn tags(&self) -> &BTreeMap<String, Sha256> {
        &self.tags
    }

    /// A manifest's media type, if it is here.
    pub fn media_type(&self, manifest: &Sha256) -> Option<&str> {
        self.manifests.get(manifest).map(AsRef::as_ref)
    }

    /// Whether a blob, or a manifest asked for like a blob, is here.
    pub fn has_blob(&self, digest: &Sha256) -> bool {
        self.blobs.contains(digest) || self.manifests.contains_key(digest)
    }

    /// What refers to a manifest, by digest; `None` if a manifest could not be read, and it cannot be said.
    pub fn referrers(&self, subject: &Sha256) -> Option<impl Iterator<Item = &Referrer>> {
        let found = self.referrers.get(subject).into_iter().flat_map(BTreeMap::values).map(AsRef::as_ref);
        (!self.is_damaged).then_some(found)
    }
}

/// How a repository is called at this gateway: `REGISTRY/REPOSITORY`, where the colon of a port is an underscore.
pub fn path_of(repository: &ImageRepository) -> String {
    format!("{}/{}", registry_path(&repository.registry), repository.repository)
}

/// The first part of [`path_of`].
pub fn registry_path(registry: &str) -> String {
    registry.replace(':', "_")
}
