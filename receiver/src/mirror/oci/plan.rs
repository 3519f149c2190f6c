//! What a registry should hold, by what is published: no request is made here.

use std::collections::{BTreeMap, BTreeSet};

use diodesync::id::Sha256;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::image::{Accessory, Manifest};
use diodesync::release::index::Image;
use diodesync::release::{ArtifactKind, ArtifactName, Tag};
use serde_json::Value;

use super::NameMap;
use crate::serve::Site;

/// What a registry should hold.
#[derive(Debug, Default)]
pub struct Plan {
    /// By the name of the repository there.
    pub repositories: BTreeMap<String, Repository>,
    /// Images that fit no pattern.
    pub unmapped: BTreeSet<String>,
    /// Repositories that may have a blob already: by what is published, and by what was published before.
    pub hints: BTreeMap<Sha256, String>,
}

/// What a repository should hold.
#[derive(Debug, Default)]
pub struct Repository {
    /// The manifest of each tag.
    pub tags: BTreeMap<Tag, Sha256>,
    /// Manifests in the order in which they are pushed: children before parents, subjects before what refers to them.
    pub manifests: Vec<Piece>,
}

/// A manifest.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Its digest.
    pub digest: Sha256,
    /// Its media type.
    pub media_type: String,
    /// Configuration and layers that it names.
    pub blobs: Vec<Sha256>,
    /// Manifests that it names and that belong here; those that were left out of the release are not among them.
    pub children: Vec<Sha256>,
    /// What it refers to.
    pub subject: Option<Sha256>,
    /// Its entry in a list of referrers.
    pub descriptor: Value,
    /// Whether it is an index of which some platforms were left out.
    pub is_partial: bool,
}

impl Repository {
    /// Whether a manifest belongs here.
    pub fn has(&self, digest: &Sha256) -> bool {
        self.manifests.iter().any(|piece| piece.digest == *digest)
    }

    /// What refers to each manifest.
    pub fn referrers(&self) -> BTreeMap<Sha256, Vec<Value>> {
        let mut referrers: BTreeMap<Sha256, Vec<Value>> = BTreeMap::new();
        for piece in &self.manifests {
            if let Some(subject) = piece.subject {
                referrers.entry(subject).or_default().push(piece.descriptor.clone());
            }
        }
        referrers
    }
}

/// Whether a tag is the list of referrers of a manifest, `sha256-HEX`.
pub fn fallback_of(tag: &Tag) -> Option<Sha256> {
    Accessory::of(tag).filter(|_| !tag.as_str().contains('.')).map(|accessory| accessory.0)
}

impl Plan {
    /// Of everything that is published. Blocks the thread.
    ///
    /// # Errors
    /// If two images would have one name, or a manifest cannot be read.
    pub fn of(site: &Site, map: &NameMap) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut sources: BTreeMap<(String, Tag), String> = BTreeMap::new();
        for index in site.releases() {
            for (name, kind) in &index.artifacts {
                let (ArtifactName::Image(source, tag), ArtifactKind::Image(image)) = (name, kind) else {
                    continue;
                };
                let Some(target) = map.target(source) else {
                    plan.unmapped.insert(source.to_string());
                    continue;
                };
                let target = target?;
                if let Some(other) = sources.insert((target.clone(), tag.clone()), source.to_string()) {
                    return Err(format!(
                        "{other}:{tag} and {source}:{tag} would both be {target}:{tag}; change map"
                    ));
                }
                let repository = plan.repositories.entry(target).or_default();
                repository.tags.insert(tag.clone(), image.manifest);
                repository.add(site, image)?;
            }
        }
        plan.hint(site, map);
        Ok(plan)
    }

    fn hint(&mut self, site: &Site, map: &NameMap) {
        for (name, kind) in site.kept().iter().chain(site.releases()).flat_map(|index| &index.artifacts) {
            let (ArtifactName::Image(source, _), ArtifactKind::Image(image)) = (name, kind) else { continue };
            let Some(Ok(target)) = map.target(source) else { continue };
            for blob in &image.blobs {
                self.hints.entry(*blob).or_insert_with(|| target.clone());
            }
        }
    }
}

impl Repository {
    fn add(&mut self, site: &Site, image: &Image) -> Result<(), String> {
        let mut parsed = BTreeMap::new();
        for digest in image.manifests.keys() {
            let octets = site.read_whole(digest, MANIFEST_BYTES_MAX).map_err(|error| error.to_string())?;
            if Sha256::of(&octets) != *digest {
                return Err(format!("manifest sha256:{digest} is damaged; run diode-receiver verify"));
            }
            let manifest =
                Manifest::parse(&octets).map_err(|error| format!("manifest sha256:{digest}: {error}"))?;
            parsed.insert(*digest, manifest);
        }
        let mut done: BTreeSet<Sha256> = self.manifests.iter().map(|piece| piece.digest).collect();
        // The root first, then what refers to it; everything after what it names.
        let mut open: Vec<(Sha256, bool)> = image.manifests.keys().map(|digest| (*digest, false)).collect();
        open.push((image.manifest, false));
        while let Some((digest, is_seen)) = open.pop() {
            let Some(manifest) = parsed.get(&digest).filter(|_| !done.contains(&digest)) else { continue };
            if is_seen {
                done.insert(digest);
                let (omitted, children): (Vec<Sha256>, Vec<Sha256>) = manifest
                    .manifests
                    .iter()
                    .map(|child| child.digest)
                    .partition(|child| image.omitted.contains(child));
                self.manifests.push(piece(digest, manifest, children, !omitted.is_empty()));
                continue;
            }
            open.push((digest, true));
            open.extend(manifest.subject.map(|subject| (subject, false)));
            open.extend(manifest.manifests.iter().map(|child| (child.digest, false)));
        }
        Ok(())
    }
}

fn piece(digest: Sha256, manifest: &Manifest, children: Vec<Sha256>, is_partial: bool) -> Piece {
    Piece {
        digest,
        media_type: manifest.kind.media_type().to_owned(),
        blobs: manifest.blobs.iter().map(|blob| blob.digest).collect(),
        children,
        subject: manifest.subject,
        descriptor: manifest.descriptor(&digest),
        is_partial,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diodesync::pack::PackStore;

    use serde_json::json;

    use super::*;
    use crate::serve::testing::{Release, TempDir};

    fn manifest(parts: Value) -> Vec<u8> {
        parts.to_string().into_bytes()
    }

    fn described(media_type: &str, octets: &[u8]) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", Sha256::of(octets)), "size": octets.len() })
    }

    #[test]
    fn what_is_named_comes_before_what_names_it() {
        const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        let dir = TempDir::new("plan");
        let packs = Arc::new(PackStore::open(dir.path()).unwrap());
        let config = b"{}".to_vec();
        let image = |layer: &[u8], subject: Option<&[u8]>| {
            let mut value = json!({
                "schemaVersion": 2, "mediaType": IMAGE, "config": described("application/vnd.oci.empty.v1+json", &config),
                "layers": [described("application/octet-stream", layer)],
            });
            if let Some(subject) = subject {
                value["subject"] = described(INDEX, subject);
            }
            manifest(value)
        };
        let (one, two) = (image(b"one", None), image(b"two", None));
        let index = manifest(json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [described(IMAGE, &one), described(IMAGE, &two)],
        }));
        let signature = image(b"signature", Some(&index));
        let of_signature = image(b"of the signature", Some(&signature));
        let mut release = Release::new("main", 1);
        let manifests: [&[u8]; 5] = [&index, &of_signature, &signature, &two, &one];
        let blobs: [&[u8]; 5] = [&config, b"one", b"two", b"signature", b"of the signature"];
        release.image("ghcr.io/coder/coder", "v1", &manifests, &blobs);
        release.image("quay.io/x/y", "v1", &[&one], &[&config, b"one"]);
        let site = Site::new(vec![release.publish(&packs)], packs).unwrap();
        let mut map = NameMap::of("harbor.site".parse().unwrap());
        map.add("ghcr.io/coder/*", "harbor.site/c/*").unwrap();
        let plan = Plan::of(&site, &map).unwrap();
        assert_eq!(plan.unmapped.iter().collect::<Vec<_>>(), ["quay.io/x/y"]);
        let repository = &plan.repositories["c/coder"];
        let place = |octets: &[u8]| {
            repository.manifests.iter().position(|piece| piece.digest == Sha256::of(octets)).unwrap()
        };
        assert_eq!(repository.manifests.len(), 5);
        assert!(place(&one) < place(&index) && place(&two) < place(&index));
        assert!(place(&index) < place(&signature) && place(&signature) < place(&of_signature));
        let referrers = repository.referrers();
        assert_eq!(referrers[&Sha256::of(&index)][0]["digest"], described(IMAGE, &signature)["digest"]);
        map.add("quay.io/x/y", "harbor.site/c/coder").unwrap();
        assert!(Plan::of(&site, &map).unwrap_err().contains("would both be c/coder:v1"));
    }
}
