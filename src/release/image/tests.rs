//! Images that are whole, and each lie that a manifest can tell.

use serde_json::{Value, json};

use super::*;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str, octets: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", Sha256::of(octets)), "size": octets.len() })
}

fn of_manifest(octets: &[u8]) -> Value {
    descriptor(Manifest::parse(octets).unwrap().kind.media_type(), octets)
}

fn image(layer: &[u8], subject: Option<&[u8]>) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": ManifestType::OciImage.media_type(),
        "config": descriptor(CONFIG, b"{}"),
        "layers": [descriptor(LAYER, layer)],
    });
    if let Some(subject) = subject {
        manifest["subject"] = of_manifest(subject);
    }
    manifest.to_string().into_bytes()
}

fn index(children: &[&[u8]]) -> Vec<u8> {
    let manifests: Vec<Value> = children.iter().map(|child| of_manifest(child)).collect();
    json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into_bytes()
}

fn all(octets: &[&[u8]]) -> Manifests {
    let mut manifests = Manifests::default();
    for octets in octets {
        manifests.insert(octets).unwrap();
    }
    manifests
}

/// The configuration and layers of the tests.
fn blob_bytes(digest: &Sha256) -> Option<u64> {
    let blobs: [&[u8]; 5] = [b"{}", b"one", b"two", b"signature", b"of signature"];
    blobs.into_iter().find(|blob| Sha256::of(blob) == *digest).map(|blob| blob.len() as u64)
}

#[test]
fn a_closure_holds_children_referrers_and_referrers_of_those() {
    let (one, two) = (image(b"one", None), image(b"two", None));
    let root = index(&[&one, &two]);
    let on_child = image(b"signature", Some(&two));
    let on_referrer = image(b"of signature", Some(&on_child));
    let stranger = image(b"one", Some(b"{\"schemaVersion\":2,\"manifests\":[]}"));
    let manifests = all(&[&one, &two, &root, &on_child, &on_referrer, &stranger]);
    let found = closure(Sha256::of(&root), &manifests, blob_bytes).unwrap();
    let expected: BTreeSet<_> =
        [&root, &one, &two, &on_child, &on_referrer].map(|octets| Sha256::of(octets)).into();
    assert_eq!(found.manifests.keys().copied().collect::<BTreeSet<_>>(), expected);
    assert_eq!(found.manifests[&Sha256::of(&root)], "application/vnd.oci.image.index.v1+json");
    assert_eq!(found.blobs.len(), 5);

    let own = all(&[&one, &two, &root, &on_child, &on_referrer]);
    assert_eq!(check(&found, &own, blob_bytes), Ok(()));
}

#[test]
fn platforms_that_are_left_out_are_said_to_be() {
    let (one, two) = (image(b"one", None), image(b"two", None));
    let root = index(&[&one, &two]);
    let on_two = image(b"signature", Some(&two));
    let mut some = all(&[&root, &one, &on_two]);
    some.omit(Sha256::of(&two));
    some.omit(Sha256([7; 32]));
    let found = closure(Sha256::of(&root), &some, blob_bytes).unwrap();
    assert_eq!(found.omitted, BTreeSet::from([Sha256::of(&two)]));
    assert_eq!((found.manifests.len(), found.blobs.len()), (2, 2), "nor what refers to it");

    let mut own = all(&[&root, &one]);
    own.omit(Sha256::of(&two));
    assert_eq!(check(&found, &own, blob_bytes), Ok(()));
    let mut more = found.clone();
    more.omitted.insert(Sha256([7; 32]));
    let error = check(&more, &own, blob_bytes).unwrap_err().to_string();
    assert!(error.contains("said to be left out and no index names it"), "{error}");
    let error = check(&found, &all(&[&root, &one]), blob_bytes).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error}");
}

#[test]
fn platforms_are_matched() {
    let platform = |text: &str| text.parse::<ImagePlatform>().unwrap();
    assert!(platform("linux/arm64/v8").is(&platform("linux/arm64")));
    assert!(!platform("linux/arm/v6").is(&platform("linux/arm/v7")));
    assert!(!platform("linux/arm").is(&platform("linux/arm/v7")));
    assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
    for bad in ["", "linux", "linux/", "linux/amd64/v1/x", "Linux/amd64", "linux_amd64"] {
        assert!(bad.parse::<ImagePlatform>().is_err(), "{bad}");
    }
    let digest = Sha256([7; 32]);
    let child = json!({
        "mediaType": ManifestType::OciImage.media_type(), "digest": format!("sha256:{}", Sha256([8; 32])), "size": 9,
        "platform": { "os": "unknown", "architecture": "unknown" },
        "annotations": { "vnd.docker.reference.digest": format!("sha256:{digest}") },
    });
    let index = json!({ "schemaVersion": 2, "manifests": [child] }).to_string();
    let index = Manifest::parse(index.as_bytes()).unwrap();
    assert_eq!(index.manifests[0].describes, Some(digest));
    assert_eq!(index.manifests[0].platform, Some(platform("unknown/unknown")));
}

#[test]
fn what_is_not_there_or_not_as_described_is_named() {
    let one = image(b"one", None);
    let root = index(&[&one]);
    let (root_digest, one_digest) = (Sha256::of(&root), Sha256::of(&one));
    let error = closure(root_digest, &all(&[&root]), blob_bytes).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("manifest sha256:{one_digest}")) && error.contains("--all"),
        "{error}"
    );
    let error = closure(root_digest, &Manifests::default(), blob_bytes).unwrap_err();
    assert_eq!(error, ImageError::NoRoot(root_digest));

    let both = all(&[&root, &one]);
    let layer = Sha256::of(b"one");
    let error = closure(root_digest, &both, |d| blob_bytes(d).filter(|_| *d != layer)).unwrap_err();
    assert!(matches!(error, ImageError::Missing { what: "blob", digest, .. } if digest == layer), "{error}");
    let error = closure(root_digest, &both, |d| blob_bytes(d).map(|bytes| bytes + 1)).unwrap_err();
    assert!(matches!(error, ImageError::Size { expected: 2, found: 3, .. }), "{error}");

    let change = |from: &str, to: &str| {
        let changed = String::from_utf8(root.clone()).unwrap().replace(from, to).into_bytes();
        closure(Sha256::of(&changed), &all(&[&changed, &one]), blob_bytes).unwrap_err()
    };
    let error = change(&format!("\"size\":{}", one.len()), "\"size\":7");
    assert!(matches!(error, ImageError::Size { expected: 7, .. }), "{error}");
    let error = change("oci.image.manifest", "oci.image.index");
    assert!(matches!(error, ImageError::Type { .. }), "{error}");
    let error = change("oci.image.manifest.v1+json", "example.thing");
    assert!(error.to_string().contains("\"application/vnd.example.thing\" is not known"), "{error}");
}

#[test]
fn a_foreign_layer_is_carried_if_it_is_there() {
    let layer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": ManifestType::DockerImage.media_type(),
        "config": descriptor(CONFIG, b"{}"),
        "layers": [descriptor(layer, b"one")],
    });
    manifest["layers"][0]["urls"] = json!(["https://example.com/one"]);
    let octets = manifest.to_string().into_bytes();
    let root = Sha256::of(&octets);
    assert_eq!(closure(root, &all(&[&octets]), blob_bytes).unwrap().blobs.len(), 2);
    let error = closure(root, &all(&[&octets]), |d| blob_bytes(d).filter(|bytes| *bytes == 2)).unwrap_err();
    assert!(error.to_string().contains("foreign layer"), "{error}");
}

#[test]
fn an_image_that_is_not_what_its_manifests_say() {
    let (one, two) = (image(b"one", None), image(b"two", None));
    let root = index(&[&one]);
    let honest = closure(Sha256::of(&root), &all(&[&root, &one]), blob_bytes).unwrap();
    let refused = |change: &dyn Fn(&mut Image), manifests: &[&[u8]]| {
        let mut image = honest.clone();
        change(&mut image);
        check(&image, &all(manifests), blob_bytes).unwrap_err().to_string()
    };
    let one_digest = Sha256::of(&one);
    let error =
        refused(&|image| drop(image.manifests.insert(one_digest, "text/plain".into())), &[&root, &one]);
    assert!(
        error.contains("is listed as text/plain, it is of type application/vnd.oci.image.man"),
        "{error}"
    );
    let error = refused(
        &|image| drop(image.manifests.insert(Sha256::of(&two), image.manifests[&one_digest].clone())),
        &[&root, &one, &two],
    );
    assert!(error.contains("is listed and does not belong to it"), "{error}");
    let error = refused(&|image| drop(image.manifests.remove(&one_digest)), &[&root]);
    assert!(error.contains("is missing"), "{error}");
    let error = refused(&|image| assert!(image.blobs.insert(Sha256::of(b"two"))), &[&root, &one]);
    assert!(error.contains("is listed and no manifest names it"), "{error}");
    let error = refused(&|image| assert!(image.blobs.remove(&Sha256::of(b"one"))), &[&root, &one]);
    assert!(error.starts_with("blob sha256:") && error.contains("is missing"), "{error}");
}

#[test]
fn manifests_of_every_kind_are_read() {
    let kind = |value: Value| Manifest::parse(value.to_string().as_bytes()).unwrap();
    let config = descriptor(CONFIG, b"{}");
    let plain = kind(json!({ "schemaVersion": 2, "config": config, "layers": null }));
    assert_eq!((plain.kind, plain.artifact_type.as_deref()), (ManifestType::OciImage, Some(CONFIG)));
    assert_eq!(kind(json!({ "schemaVersion": 2, "manifests": [] })).kind, ManifestType::OciIndex);
    let artifact = kind(json!({
        "mediaType": ManifestType::OciArtifact.media_type(),
        "artifactType": "application/spdx+json",
        "blobs": [descriptor("application/spdx+json", b"one")],
        "subject": descriptor(ManifestType::OciImage.media_type(), b"two"),
        "annotations": { "a": "b" },
    }));
    assert_eq!(artifact.artifact_type.as_deref(), Some("application/spdx+json"));
    assert_eq!((artifact.subject, artifact.blobs.len()), (Some(Sha256::of(b"two")), 1));
    assert_eq!(artifact.annotations["a"], "b");
    let own = kind(json!({
        "schemaVersion": 2, "artifactType": "application/vnd.example", "config": config, "layers": [],
    }));
    assert_eq!(own.artifact_type.as_deref(), Some("application/vnd.example"));
    let list =
        json!({ "schemaVersion": 2, "mediaType": ManifestType::DockerList.media_type(), "manifests": [] });
    assert_eq!(kind(list).artifact_type, None);
}

#[test]
fn what_is_no_manifest_is_refused() {
    let config = descriptor(CONFIG, b"{}");
    let sha512 = json!({ "mediaType": LAYER, "digest": format!("sha512:{}", "ab".repeat(64)), "size": 1 });
    let upper = json!({ "mediaType": LAYER, "digest": format!("sha256:{}", "AB".repeat(32)), "size": 1 });
    let negative = json!({ "mediaType": LAYER, "digest": config["digest"], "size": -1 });
    for (lie, value, words) in [
        ("no-object", json!([2]), "not a JSON object"),
        ("nothing", json!({}), "neither a mediaType nor schemaVersion 2"),
        ("no-parts", json!({ "schemaVersion": 2 }), "nor manifests"),
        ("unknown-type", json!({ "mediaType": "text/html", "config": config }), "\"text/html\" is not known"),
        ("schema-1", json!({ "schemaVersion": 1, "fsLayers": [] }), "skopeo copy --format oci"),
        (
            "schema-1-by-type",
            json!({ "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws" }),
            "skopeo copy --format oci",
        ),
        (
            "two-kinds",
            json!({ "schemaVersion": 2, "config": config, "manifests": [] }),
            "one client would read",
        ),
        (
            "index-with-layers",
            json!({ "mediaType": ManifestType::OciIndex.media_type(), "manifests": [], "layers": [] }),
            "one client would read",
        ),
        (
            "no-config",
            json!({ "mediaType": ManifestType::OciImage.media_type(), "layers": [] }),
            "no \"config\"",
        ),
        ("sha512", json!({ "schemaVersion": 2, "config": config, "layers": [sha512] }), "no other digest"),
        ("upper-case", json!({ "schemaVersion": 2, "config": upper }), "64 lower-case"),
        ("negative-size", json!({ "schemaVersion": 2, "config": negative }), "not a manifest"),
    ] {
        let error = Manifest::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{lie}: {error}");
    }
    // The last of two layers would count for some clients, the first for others.
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(matches!(Manifest::parse(twice), Err(ManifestError::Json(_))));
    let deep = "[".repeat(100_000);
    assert!(matches!(Manifest::parse(deep.as_bytes()), Err(ManifestError::Json(_))));
    let long = vec![b' '; MANIFEST_MAX + 1];
    assert_eq!(Manifest::parse(&long), Err(ManifestError::Size { found: MANIFEST_MAX as u64 + 1 }));
}

const MANIFEST_MAX: usize = crate::limits::MANIFEST_BYTES_MAX as usize;

#[test]
fn a_tag_may_belong_to_a_manifest() {
    let digest = Sha256::of(b"");
    for tag in [format!("sha256-{digest}"), format!("sha256-{digest}.sig"), format!("sha256-{digest}.att")] {
        assert_eq!(Accessory::of(&tag.parse().unwrap()), Some(Accessory(digest)), "{tag}");
    }
    for tag in
        ["latest".to_owned(), "sha256-ab.sig".to_owned(), format!("sha256-{digest}0"), format!("x-{digest}")]
    {
        assert_eq!(Accessory::of(&tag.parse().unwrap()), None, "{tag}");
    }
}
