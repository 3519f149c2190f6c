//! The registry as clients of images speak to it.

use std::sync::Arc;

use diodesync::id::{PackId, Sha256};
use serde_json::{Value, json};

use super::Site;
use super::testing::Release;
use super::tests::{Answer, Gateway};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const NAME: &str = "ghcr.io/coder/coder";
const CONFIG: &[u8] = b"{}";

/// What one release holds.
struct Made {
    layer: Vec<u8>,
    child: Vec<u8>,
    index: Vec<u8>,
    signature: Vec<u8>,
    sbom: Vec<u8>,
}

fn descriptor(media_type: &str, octets: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(octets), "size": octets.len() })
}

fn digest(octets: &[u8]) -> String {
    format!("sha256:{}", Sha256::of(octets))
}

fn manifest(layer: &[u8], more: Value) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    // Octets matter, and this is how no program writes them.
    format!("{manifest:#}\n\n").into_bytes()
}

impl Made {
    fn new(salt: &str) -> Self {
        let layer = format!("layer of {salt}").into_bytes();
        let child = manifest(&layer, json!({}));
        let index =
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, &child)] });
        let index = index.to_string().into_bytes();
        let on_index = json!({ "subject": descriptor(INDEX, &index), "artifactType": "application/vnd.sig",
            "annotations": { "made": "today" } });
        let on_child = json!({ "subject": descriptor(IMAGE, &child) });
        let (signature, sbom) = (manifest(b"signature", on_index), manifest(b"sbom", on_child));
        Self { layer, child, index, signature, sbom }
    }

    fn put(&self, release: &mut Release, name: &str, tag: &str) {
        let manifests = [&self.index, &self.child, &self.signature, &self.sbom].map(Vec::as_slice);
        release.image(name, tag, &manifests, &[CONFIG, &self.layer, b"signature", b"sbom"]);
    }
}

fn filled() -> (Gateway, Made) {
    let (gateway, made) = (Gateway::new(), Made::new("1"));
    let mut release = Release::new("main", 1);
    made.put(&mut release, NAME, "v1");
    made.put(&mut release, NAME, "latest");
    release.image(
        NAME,
        &format!("sha256-{}.sig", Sha256::of(&made.index)),
        &[&made.child],
        &[CONFIG, &made.layer],
    );
    release.image("localhost:5000/a/manifests/b", "x", &[&made.child], &[CONFIG, &made.layer]);
    gateway.publish(vec![release]);
    (gateway, made)
}

fn error_of(answer: &Answer) -> (u16, String) {
    let code = answer.json()["errors"][0]["code"].as_str().unwrap().to_owned();
    (answer.status.as_u16(), code)
}

#[tokio::test]
async fn manifests_come_octet_by_octet_by_tag_and_digest() {
    let (gateway, made) = filled();
    let base = gateway.get("/v2/").await;
    assert_eq!((base.status.as_u16(), base.text()), (200, "{}"));
    assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");

    for (reference, octets, media_type) in [
        ("v1".to_owned(), &made.index, INDEX),
        (digest(&made.index), &made.index, INDEX),
        (digest(&made.child), &made.child, IMAGE),
        (digest(&made.signature), &made.signature, IMAGE),
    ] {
        let path = format!("/v2/{NAME}/manifests/{reference}");
        let answer = gateway.get(&path).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, media_type), "{path}");
        assert!(answer.body == *octets);
        assert_eq!(answer.header("docker-content-digest"), digest(octets));
        let head = gateway.send("HEAD", &path, &[]).await;
        assert_eq!((head.header("content-length"), head.body.len()), (octets.len().to_string().as_str(), 0));
        assert_eq!(head.header("docker-content-digest"), digest(octets));
        // As containerd asks.
        let (registry, name) = NAME.split_once('/').unwrap();
        let own = gateway.get(&format!("/v2/{name}/manifests/{reference}?ns={registry}")).await;
        assert!(own.body == *octets);
        // As containerd asks a mirror that is named with its path.
        assert!(gateway.get(&format!("{path}?ns={registry}")).await.body == *octets);
    }
    assert!(gateway.get("/v2/localhost_5000/a/manifests/b/manifests/x").await.body == made.child);
    assert!(gateway.get("/v2/a/manifests/b/manifests/x?ns=localhost:5000").await.body == made.child);
}

#[tokio::test]
async fn blobs_come_whole_or_in_part_and_only_from_their_repository() {
    let (gateway, made) = filled();
    let path = format!("/v2/{NAME}/blobs/{}", digest(&made.layer));
    let whole = gateway.get(&path).await;
    assert_eq!((whole.status.as_u16(), whole.body == made.layer), (200, true));
    assert_eq!(whole.header("docker-content-digest"), digest(&made.layer));
    let part = gateway.send("GET", &path, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.header("content-range")), (206, "bytes 2-4/10"));
    assert!(part.body == made.layer[2..5]);
    assert_eq!(gateway.send("HEAD", &path, &[]).await.header("content-length"), "10");
    // It is published, but not there.
    let elsewhere = format!("/v2/localhost_5000/a/manifests/b/blobs/{}", digest(b"sbom"));
    assert_eq!(error_of(&gateway.get(&elsewhere).await), (404, "BLOB_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn what_is_not_there_is_said_as_the_specification_has_it() {
    let (gateway, _) = filled();
    let nothing = digest(b"nothing");
    for (path, status, code) in [
        ("ghcr.io/coder/other/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("coder/coder/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("coder/coder/manifests/v1?ns=docker.io".to_owned(), 404, "NAME_UNKNOWN"),
        ("ghcr.io/../coder/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("..%2f..%2fetc/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("x".to_owned(), 404, "NAME_UNKNOWN"),
        (format!("{NAME}/uploads/v1"), 404, "NAME_UNKNOWN"),
        (format!("{NAME}/manifests/v2"), 404, "MANIFEST_UNKNOWN"),
        (format!("{NAME}/manifests/{nothing}"), 404, "MANIFEST_UNKNOWN"),
        (format!("{NAME}/manifests/sha512:{}", "ab".repeat(64)), 400, "DIGEST_INVALID"),
        (format!("{NAME}/manifests/{}", nothing.to_uppercase()), 400, "DIGEST_INVALID"),
        (format!("{NAME}/blobs/{nothing}"), 404, "BLOB_UNKNOWN"),
        (format!("{NAME}/blobs/x"), 400, "DIGEST_INVALID"),
        (format!("{NAME}/referrers/x"), 400, "DIGEST_INVALID"),
        (format!("{NAME}/tags/list?n=x"), 400, "PAGINATION_NUMBER_INVALID"),
    ] {
        let answer = gateway.get(&format!("/v2/{path}")).await;
        assert_eq!(error_of(&answer), (status, code.to_owned()), "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = gateway.send(method, &format!("/v2/{NAME}/blobs/uploads/"), &[]).await;
        assert_eq!(error_of(&answer), (405, "UNSUPPORTED".to_owned()));
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn tags_and_repositories_come_in_pages() {
    let (gateway, made) = filled();
    let tags = gateway.get(&format!("/v2/{NAME}/tags/list")).await;
    let signature = format!("sha256-{}.sig", Sha256::of(&made.index));
    assert_eq!(tags.json(), json!({ "name": NAME, "tags": ["latest", signature, "v1"] }));
    assert_eq!(tags.header("link"), "");
    let (mut path, mut seen) = ("/v2/coder/coder/tags/list?n=1&ns=ghcr.io".to_owned(), Vec::new());
    for _ in 0..3 {
        let page = gateway.get(&path).await;
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        path = page.header("link").split('>').next().unwrap().trim_start_matches('<').to_owned();
    }
    assert_eq!((seen, path.as_str()), (vec![json!("latest"), json!(signature), json!("v1")], ""));
    let none = gateway.get(&format!("/v2/{NAME}/tags/list?n=0")).await;
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), ""));
    let after = gateway.get(&format!("/v2/{NAME}/tags/list?last=m")).await;
    assert_eq!(after.json()["tags"], json!([signature, "v1"]));

    let catalog = gateway.get("/v2/_catalog").await.json();
    assert_eq!(catalog, json!({ "repositories": [NAME, "localhost_5000/a/manifests/b"] }));
    let catalog = gateway.get("/v2/_catalog?n=1").await;
    assert_eq!(catalog.header("link"), format!("</v2/_catalog?n=1&last={NAME}>; rel=\"next\""));
}

#[tokio::test]
async fn signatures_are_found_by_what_they_refer_to() {
    let (gateway, made) = filled();
    let on_index = gateway.get(&format!("/v2/{NAME}/referrers/{}", digest(&made.index))).await;
    assert_eq!((on_index.status.as_u16(), on_index.header("content-type")), (200, INDEX));
    let list: Value = serde_json::from_slice(&on_index.body).unwrap();
    let mut expected = descriptor(IMAGE, &made.signature);
    expected["artifactType"] = json!("application/vnd.sig");
    expected["annotations"] = json!({ "made": "today" });
    assert_eq!(list, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [expected] }));

    // Without a type of its own, it is of its configuration's.
    let on_child = gateway.get(&format!("/v2/{NAME}/referrers/{}", digest(&made.child))).await;
    let list: Value = serde_json::from_slice(&on_child.body).unwrap();
    assert_eq!(list["manifests"][0]["artifactType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(on_child.header("oci-filters-applied"), "");

    for (wanted, count) in [("application/vnd.sig", 1), ("application/other", 0)] {
        let path = format!("/v2/{NAME}/referrers/{}?artifactType={wanted}", digest(&made.index));
        let answer = gateway.get(&path).await;
        let list: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(list["manifests"].as_array().unwrap().len(), count);
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    }
    for nothing in
        [format!("/v2/{NAME}/referrers/{}", digest(b"x")), format!("/v2/no/such/referrers/{}", digest(b"x"))]
    {
        let answer = gateway.get(&nothing).await;
        let list: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), list["manifests"].clone()), (200, json!([])));
    }
}

#[tokio::test]
async fn a_list_of_referrers_is_whole_or_not_given() {
    let (gateway, made) = filled();
    let pack = gateway.packs.path(PackId([1; 8]));
    let octets = std::fs::read(&pack).unwrap();
    // The second half of the manifest, as it is written in two extents.
    let half = &made.signature[made.signature.len().div_ceil(2)..];
    let at = octets.windows(half.len()).position(|window| window == half).unwrap();
    gateway.packs.write_at(PackId([1; 8]), at as u64, b"#").unwrap();
    let releases = gateway.site.load().releases().to_vec();
    gateway.site.switch(Arc::new(Site::new(releases, gateway.packs.clone()).unwrap()));
    assert_eq!(gateway.status(&format!("/v2/{NAME}/referrers/{}", digest(&made.index))).await, 500);
    assert_eq!(gateway.status(&format!("/v2/{NAME}/manifests/v1")).await, 200);
}

#[tokio::test]
async fn the_release_before_is_found_by_digest() {
    let (gateway, old) = filled();
    let before = gateway.site.load().releases().to_vec();
    let new = Made::new("2");
    let mut release = Release::new("main", 2);
    new.put(&mut release, NAME, "v1");
    let now = Site::new(vec![release.publish(&gateway.packs)], gateway.packs.clone()).unwrap();
    gateway.site.switch(Arc::new(now.keeping(before)));

    assert!(gateway.get(&format!("/v2/{NAME}/manifests/v1")).await.body == new.index);
    assert_eq!(gateway.status(&format!("/v2/{NAME}/manifests/latest")).await, 404);
    for octets in [&old.index, &old.child, &new.child] {
        assert!(gateway.get(&format!("/v2/{NAME}/manifests/{}", digest(octets))).await.body == *octets);
    }
    assert!(gateway.get(&format!("/v2/{NAME}/blobs/{}", digest(&old.layer))).await.body == old.layer);
    let referrers = gateway.get(&format!("/v2/{NAME}/referrers/{}", digest(&old.index))).await;
    assert!(referrers.text().contains(&digest(&old.signature)));
    // What only the release before had is not listed.
    let catalog = gateway.get("/v2/_catalog").await.json();
    assert_eq!(catalog, json!({ "repositories": [NAME] }));
}

#[tokio::test]
async fn client_files_send_every_registry_here() {
    let (gateway, _) = filled();
    let host = [("host", "gw.site:8443")];
    let conf = gateway.send("GET", "/client/registries.conf", &host).await;
    let entry =
        |prefix, path| format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"gw.site:8443/{path}\"\n");
    assert!(conf.text().contains(&entry("ghcr.io", "ghcr.io")), "{}", conf.text());
    assert!(conf.text().contains(&entry("localhost:5000", "localhost_5000")), "{}", conf.text());
    let hosts = gateway.send("GET", "/client/hosts.toml?registry=ghcr.io", &host).await;
    assert!(hosts.text().contains("/etc/containerd/certs.d/ghcr.io/hosts.toml"));
    assert!(hosts.text().ends_with(
        "server = \"https://gw.site:8443\"\n\n[host.\"https://gw.site:8443\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    ));
    assert!(gateway.get("/client/hosts.toml").await.text().contains("certs.d/_default/hosts.toml"));
    let unknown = gateway.get("/client/hosts.toml?registry=quay.io").await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.text().contains("known: ghcr.io, localhost:5000")),
        (404, true)
    );
    let page = gateway.send("GET", "/client/", &host).await;
    assert!(page.text().contains("podman pull ghcr.io/coder/coder:latest"));
    assert!(page.text().contains("docker pull gw.site:8443/ghcr.io/coder/coder:latest"));
    let home = gateway.get("/").await;
    assert!(home.text().contains("<code>ghcr.io/coder/coder</code></td><td>latest, v1</td>"));
    assert!(Gateway::new().get("/client/registries.conf").await.text().contains("No image is published yet"));
}
