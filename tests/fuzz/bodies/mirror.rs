//! The mirror's clients: any method, path and headers against a small site.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use diodesync::id::{Blake3, BlockNo, Channel, PackId, ReleaseNo, Sha256};
use diodesync::release::index::{Image, Provider, ProviderArchive, ProviderProof};
use diodesync::release::{ArtifactKind, ArtifactName, Blob, Extent, Index, PackRun};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower_service::Service;

use super::choice;

struct World {
    runtime: Runtime,
    router: Router,
    contents: BTreeMap<Sha256, Vec<u8>>,
}

const PACK: PackId = PackId([7; 8]);

/// A release in the making, all of it in one pack.
#[derive(Default)]
struct Making {
    octets: Vec<u8>,
    blobs: BTreeMap<Sha256, Blob>,
    contents: BTreeMap<Sha256, Vec<u8>>,
}

impl Making {
    fn blob(&mut self, content: &[u8]) -> Sha256 {
        let (digest, bytes) = (Sha256::of(content), content.len() as u64);
        let extent = Extent { pack: PACK, offset: self.octets.len() as u64, bytes };
        self.octets.extend_from_slice(content);
        self.blobs.insert(digest, Blob { bytes, extents: vec![extent] });
        self.contents.insert(digest, content.to_vec());
        digest
    }

    fn index(&self, artifacts: BTreeMap<ArtifactName, ArtifactKind>) -> Index {
        let last_bytes = self.octets.len() as u32;
        let run = PackRun { first: BlockNo(0), last_bytes, hashes: vec![Blake3::of(&self.octets)] };
        Index {
            channel: Channel::main(),
            number: ReleaseNo(1),
            created_s: 1_795_000_000,
            baseline: None,
            packs: BTreeMap::from([(PACK, vec![run])]),
            blobs: self.blobs.clone(),
            artifacts,
        }
    }
}

/// The manifest of the image, and one that refers to it.
pub fn manifests(config: &Sha256, layer: &Sha256) -> [String; 2] {
    let blob = |kind: &str, digest: &Sha256, size: usize| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#
        )
    };
    let (config, layer) = (blob("config.v1+json", config, 2), blob("layer.v1.tar+gzip", layer, 13));
    let manifest = |more: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",{more}"config":{config},"layers":[{layer}]}}"#
        )
    };
    let image = manifest("");
    let (digest, size) = (Sha256::of(image.as_bytes()), image.len());
    let subject = format!(
        r#""artifactType":"application/x.sig","subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digest}","size":{size}}},"#
    );
    let signature = manifest(&subject);
    [image, signature]
}

/// An image with a signature that refers to it.
fn images(making: &mut Making) -> [(ArtifactName, ArtifactKind); 1] {
    let (config, layer) = (making.blob(b"{}"), making.blob(b"a small layer"));
    let [manifest, signature] = manifests(&config, &layer).map(|text| making.blob(text.as_bytes()));
    let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let image = Image {
        manifest,
        manifests: BTreeMap::from([(manifest, kind.clone()), (signature, kind)]),
        blobs: BTreeSet::from([config, layer]),
        omitted: BTreeSet::new(),
    };
    let repository = "ghcr.io/acme/app".parse().expect("a repository");
    let name = ArtifactName::Image(repository, "1.0".parse().expect("a tag"));
    [(name, ArtifactKind::Image(image))]
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let mut making = Making::default();
        let mut artifacts = BTreeMap::new();
        for path in ["a", "docs/b.txt", "docs/deep/c", "docs/ä ö.html"] {
            let blob = making.blob(format!("the content of {path}").repeat(7).as_bytes());
            let name = ArtifactName::File(path.parse().expect("a path"));
            artifacts.insert(name, ArtifactKind::File { blob, executable: path == "a" });
        }
        let proof = ProviderProof {
            sums: making.blob(b"sums"),
            signature: making.blob(b"signature"),
            keys: BTreeMap::from([("34365D9472D7468F".to_owned(), making.blob(b"-----BEGIN PGP"))]),
        };
        for (version, proof) in [("1.0.0", Some(proof)), ("1.1.0", None)] {
            let archive = ProviderArchive { blob: making.blob(version.as_bytes()), h1: [7; 32] };
            let archives = BTreeMap::from([("linux_amd64".parse().expect("a platform"), archive)]);
            let address = "registry.terraform.io/coder/coder".parse().expect("an address");
            let name = ArtifactName::Provider(address, version.parse().expect("a version"));
            let provider = Provider { protocols: vec!["5.0".to_owned()], proof, archives };
            artifacts.insert(name, ArtifactKind::Provider(provider));
        }
        for (name, kind) in images(&mut making) {
            artifacts.insert(name, kind);
        }
        let index = Index::parse(&making.index(artifacts).encode()).expect("an index");
        // Named by its content, so that it is one folder for all runs.
        let name = diodesync::id::Blake3::of(&making.octets).tag();
        let dir = std::env::temp_dir().join(format!("diodesync-fuzz-mirror-{name}"));
        let router = diode_receiver::fuzz::mirror(&dir, &making.octets, PACK, index).expect("a site");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        World { runtime, router, contents: making.contents }
    })
}

/// A method, then lines: the target, and headers as `NAME: VALUE`.
pub fn http(data: &[u8]) {
    let Some((method, rest)) = choice(data, 8) else { return };
    let method = match method {
        0 => Method::POST,
        1 => Method::HEAD,
        2 => Method::PUT,
        3 => Method::DELETE,
        _ => Method::GET,
    };
    let mut lines = rest.split(|octet| *octet == b'\n');
    let mut request = Request::builder().method(method.clone()).uri(lines.next().unwrap_or_default());
    for line in lines.take(64) {
        let Some(at) = line.iter().position(|octet| *octet == b':') else { continue };
        let (name, value) = line.split_at(at);
        request = request.header(name, value.get(1..).unwrap_or_default().trim_ascii());
    }
    // What is no request never reaches the router.
    let Ok(request) = request.body(Body::empty()) else { return };
    let world = world();
    let (status, headers, body) = world.runtime.block_on(async {
        let response = world.router.clone().call(request).await.unwrap_or_else(|never| match never {});
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("all packs can be read").to_bytes();
        (parts.status, parts.headers, body)
    });
    assert!(!status.is_server_error(), "{status}: {}", String::from_utf8_lossy(&body));
    assert!(headers.contains_key(header::X_CONTENT_TYPE_OPTIONS));
    if method != Method::GET && method != Method::HEAD {
        return assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    if let Some(location) = headers.get(header::LOCATION) {
        let location = location.to_str().expect("plain");
        assert!(location.starts_with('/') && !location.starts_with("//"), "{location}");
    }
    if method == Method::GET {
        check_content(world, status, &headers, &body);
    } else {
        assert!(body.is_empty(), "HEAD has no body");
    }
}

/// Whatever was asked for, what carries a digest is that content, or the stretch of it that the answer names.
fn check_content(world: &World, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if let Some(length) = text(header::CONTENT_LENGTH) {
        assert!(status == StatusCode::NOT_MODIFIED || length == body.len().to_string(), "{length}");
    }
    let digest = text(header::ETAG).and_then(|etag| etag.strip_prefix("\"sha256:")?.strip_suffix('"'));
    let Some(digest) = digest else { return };
    let content = &world.contents[&digest.parse().expect("a digest")];
    match status {
        StatusCode::OK => assert_eq!(body, content),
        StatusCode::PARTIAL_CONTENT => {
            let range = text(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
            let (range, all) = range.and_then(|range| range.split_once('/')).expect("a range");
            let (first, last) = range.split_once('-').expect("a range");
            let (first, last): (usize, usize) = (first.parse().expect("first"), last.parse().expect("last"));
            assert_eq!(all, content.len().to_string());
            assert_eq!(Some(body), content.get(first..=last));
        }
        StatusCode::NOT_MODIFIED => assert!(body.is_empty()),
        _ => assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE),
    }
}
