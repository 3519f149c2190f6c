//! Images, checked again on this side: what the index says of each must be what its manifests say. For which platforms an
//! image is, its configurations say, and not the list that points to them.

use std::collections::BTreeSet;

use anyhow::Context;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::image::{self, ImagePlatform, Manifests};
use diodesync::release::index::{ArtifactKind, Image, Index};

use super::gate::Found;

/// Checks every image of a release, and says for which platforms it is.
///
/// # Errors
/// The first image that is not what the index says, and why.
pub fn check(index: &Index, packs: &PackStore, found: &mut Found) -> anyhow::Result<()> {
    for (name, kind) in &index.artifacts {
        if let ArtifactKind::Image(image) = kind {
            let platforms = check_image(index, packs, image).with_context(|| name.to_string())?;
            found.platforms.insert(name.clone(), platforms.into_iter().collect());
        }
    }
    Ok(())
}

fn check_image(index: &Index, packs: &PackStore, image: &Image) -> anyhow::Result<BTreeSet<String>> {
    let mut manifests = Manifests::default();
    for digest in image.manifests.keys() {
        let blob = index.blobs.get(digest).with_context(|| format!("blob {digest} is not listed"))?;
        let octets = packs.whole_blob(blob, MANIFEST_BYTES_MAX)?.with_context(|| {
            format!("manifest {digest} has {} octets, the limit is {MANIFEST_BYTES_MAX}", blob.bytes)
        })?;
        let found = manifests.insert(&octets)?;
        if found != *digest {
            anyhow::bail!(
                "manifest {digest} was found right and has SHA-256 {found} now; look at this side's disk"
            );
        }
    }
    image.omitted.iter().for_each(|digest| manifests.omit(*digest));
    image::check(image, &manifests, |digest| index.blobs.get(digest).map(|blob| blob.bytes))?;
    let mut platforms = BTreeSet::new();
    for (_, manifest) in manifests.iter() {
        let configs = manifest.blobs.iter().filter(|blob| CONFIG_TYPES.contains(&blob.media_type.as_str()));
        for config in configs {
            let blob = index.blobs.get(&config.digest);
            let blob = blob.with_context(|| format!("blob {} is not listed", config.digest))?;
            let octets = packs.whole_blob(blob, MANIFEST_BYTES_MAX)?;
            let octets =
                octets.with_context(|| format!("configuration {} is larger than any", config.digest))?;
            let platform: ImagePlatform = serde_json::from_slice(&octets)
                .with_context(|| format!("configuration {} is none", config.digest))?;
            // Signatures and attestations have configurations of the same type that are for no machine. What has a
            // file system can be run, whatever its configuration keeps to itself.
            if !matches!(platform.os.as_str(), "" | UNKNOWN) {
                platforms.insert(platform.to_string());
            } else if manifest.blobs.iter().any(|blob| is_layer(&blob.media_type)) {
                platforms.insert(format!("{UNKNOWN}/{UNKNOWN}"));
            }
        }
    }
    Ok(platforms)
}

/// What BuildKit calls the platform of an attestation.
const UNKNOWN: &str = "unknown";
/// Whether it is the media type of a part of a file system (same sources as below).
fn is_layer(media_type: &str) -> bool {
    ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."]
        .iter()
        .any(|layer| media_type.starts_with(layer))
}

/// The media types of configurations that say a platform (OCI image specification, Docker image manifest version 2).
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diodesync::id::Sha256;
    use serde_json::json;

    use super::*;
    use crate::serve::testing::{Release, TempDir};

    #[test]
    fn what_can_be_run_is_for_some_platform() {
        const CONFIG: &str = CONFIG_TYPES[0];
        let platforms = |config: &serde_json::Value, layer_type: &str| {
            let dir = TempDir::new("image-platforms");
            let packs = PackStore::open(dir.path()).unwrap();
            let descriptor = |media_type: &str, octets: &[u8]| json!({ "mediaType": media_type, "digest": format!("sha256:{}", Sha256::of(octets)), "size": octets.len() });
            let config = config.to_string().into_bytes();
            let manifest = json!({ "schemaVersion": 2, "config": descriptor(CONFIG, &config), "layers": [descriptor(layer_type, b"layer")] });
            let mut release = Release::new("main", 1);
            release.image("ghcr.io/a/b", "x", &[manifest.to_string().as_bytes()], &[&config, b"layer"]);
            let mut found = Found::default();
            check(&release.publish(&packs), &packs, &mut found).unwrap();
            found.platforms.into_values().next().unwrap().join(", ")
        };
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(platforms(&json!({ "os": "linux", "architecture": "amd64" }), layer), "linux/amd64");
        assert_eq!(platforms(&json!({}), layer), "unknown/unknown");
        assert_eq!(platforms(&json!({ "os": "unknown", "architecture": "x" }), layer), "unknown/unknown");
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(platforms(&json!({ "os": "" }), docker), "unknown/unknown");
        // An attestation is for no machine.
        assert_eq!(platforms(&json!({ "os": "unknown" }), "application/vnd.in-toto+json"), "");
    }

    #[test]
    fn an_index_that_lies_of_an_image() {
        let dir = TempDir::new("images");
        let packs = PackStore::open(dir.path()).unwrap();
        let descriptor = |octets: &[u8]| json!({ "mediaType": "text/plain", "digest": format!("sha256:{}", Sha256::of(octets)), "size": octets.len() });
        let manifest =
            json!({ "schemaVersion": 2, "config": descriptor(b"{}"), "layers": [descriptor(b"layer")] });
        let manifest = manifest.to_string().into_bytes();
        let other = json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes();
        let mut release = Release::new("main", 1);
        release.image("ghcr.io/a/b", "x", &[&manifest], &[b"{}", b"layer"]);
        release.file("other", &other);
        let index = release.publish(&packs);
        check(&index, &packs, &mut Found::default()).unwrap();

        let refused = |change: &dyn Fn(&mut Image, &mut Index)| {
            let mut index = Arc::unwrap_or_clone(index.clone());
            let (name, kind) = index.artifacts.pop_last().unwrap();
            let ArtifactKind::Image(mut image) = kind else { panic!("{name}") };
            change(&mut image, &mut index);
            index.artifacts.insert(name, ArtifactKind::Image(image));
            let error = format!("{:#}", check(&index, &packs, &mut Found::default()).unwrap_err());
            assert!(error.starts_with("image ghcr.io/a/b:x: "), "{error}");
            error
        };
        let digest = Sha256::of(&manifest);
        let layer = Sha256::of(b"layer");
        let error = refused(&|image, _| *image.manifests.get_mut(&digest).unwrap() = "text/html".to_owned());
        assert!(error.contains("listed as text/html"), "{error}");
        let error = refused(&|image, _| assert!(image.blobs.remove(&layer)));
        assert!(error.contains("is missing"), "{error}");
        let error = refused(&|image, _| assert!(image.blobs.insert(Sha256::of(&other))));
        assert!(error.contains("no manifest names it"), "{error}");
        let error = refused(&|_, index| index.blobs.get_mut(&layer).unwrap().bytes = 6);
        assert!(error.contains("has 5 octets, it has 6"), "{error}");
        let error = refused(&|image, _| {
            image.manifests.insert(Sha256::of(&other), "application/vnd.oci.image.index.v1+json".to_owned());
        });
        assert!(error.contains("does not belong to it"), "{error}");
        let error = refused(&|image, _| {
            image.manifest = layer;
            image.manifests.insert(layer, "application/vnd.oci.image.manifest.v1+json".to_owned());
        });
        assert!(error.contains("not a JSON object"), "{error}");
    }
}
