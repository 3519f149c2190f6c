//! HTTP as clients speak it: the router in process, and the whole listener over TLS on the loopback.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use diodesync::id::{PackId, Sha256};
use diodesync::pack::{PackStore, fact};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::site::SiteError;
use super::testing::{Proof, Release, TempDir};
use super::{ClientFiles, Site, SiteHandle, router, run};
use crate::certs;

const SOURCE: &str = "registry.terraform.io/coder/coder";

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub struct Gateway {
    pub dir: TempDir,
    pub packs: Arc<PackStore>,
    pub site: SiteHandle,
}

/// Bytes that differ everywhere, longer than two pieces.
fn long() -> Vec<u8> {
    (0..700_001u32).flat_map(u32::to_le_bytes).take(700_001).collect()
}

impl Gateway {
    pub fn new() -> Self {
        let dir = TempDir::new("serve");
        let packs = Arc::new(PackStore::open(dir.path()).unwrap());
        let site = SiteHandle::new(Arc::new(Site::new(Vec::new(), packs.clone()).unwrap()));
        Self { dir, packs, site }
    }

    fn filled() -> Self {
        let gateway = Self::new();
        let proof =
            Proof { sums: b"sums", signature: b"\x00sig", key_id: "ABCDEF0123456789", key: b"-armor-" };
        let mut main = Release::new("main", 1);
        main.file("docs/a & <b>.html", b"<script>alert(1)</script>");
        main.file("docs/deep/down/x", b"x");
        main.file("docs-2", b"2");
        main.file("long.bin", &long());
        main.file("empty", b"");
        main.provider(SOURCE, "1.0.0", b"zip", Some(proof));
        main.provider(SOURCE, "1.1.0", b"zip 1.1", None);
        main.provider("tf.example.com:8443/own/thing", "0.1.0", b"own", None);
        main.provider("local.site/own/thing", "0.1.0", b"own", None);
        main.provider("tf.example.com:8443/own/proven", "0.1.0", b"own", Some(proof));
        let mut other = Release::new("extra", 2);
        other.file("docs/extra.txt", b"extra");
        other.provider("tf.example.com/x/y", "2.0.0-rc.1", b"y", Some(proof));
        gateway.publish(vec![main, other]);
        gateway
    }

    pub fn publish(&self, releases: Vec<Release>) {
        let releases = releases.into_iter().map(|release| release.publish(&self.packs)).collect();
        self.site.switch(Arc::new(Site::new(releases, self.packs.clone()).unwrap()));
    }

    fn router(&self) -> axum::Router {
        let client = ClientFiles { ca_pem: None, base_url: "https://fallback".to_owned() };
        router(self.site.clone(), client)
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let service = TowerToHyperService::new(self.router());
        let request = request.body(Body::empty()).unwrap();
        let response = hyper::service::Service::call(&service, request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    pub async fn status(&self, path: &str) -> u16 {
        self.get(path).await.status.as_u16()
    }
}

#[tokio::test]
async fn the_registry_is_replayed_with_its_proof() {
    let gateway = Gateway::filled();
    let discovery = gateway.get("/.well-known/terraform.json").await.json();
    assert_eq!(discovery, json!({ "providers.v1": "/v1/providers/", "modules.v1": "/v1/modules/" }));

    let versions = gateway.get("/v1/providers/coder/coder/versions").await.json();
    // 1.1.0 came without proof: Terraform's check could only fail.
    let expected = json!({ "versions": [{
        "version": "1.0.0", "protocols": ["5.0"], "platforms": [{ "os": "linux", "arch": "amd64" }],
    }] });
    assert_eq!(versions, expected);
    let same = gateway.get("/v1/providers/registry.terraform.io/Coder/coder/versions").await.json();
    assert_eq!(same, expected);

    let package =
        gateway.get("/v1/providers/registry.terraform.io/coder/coder/1.0.0/download/linux/amd64").await;
    let package = package.json();
    assert_eq!(package, gateway.get("/v1/providers/coder/coder/1.0.0/download/linux/amd64").await.json());
    assert_eq!(package["filename"], "terraform-provider-coder_1.0.0_linux_amd64.zip");
    assert_eq!(package["shasum"], Sha256::of(b"zip").to_string());
    assert_eq!(
        package["signing_keys"],
        json!({ "gpg_public_keys": [
            { "key_id": "ABCDEF0123456789", "ascii_armor": "-armor-", "trust_signature": "" },
        ] })
    );
    for (url, bytes) in
        [("download_url", b"zip".as_slice()), ("shasums_url", b"sums"), ("shasums_signature_url", b"\x00sig")]
    {
        assert_eq!(gateway.get(package[url].as_str().unwrap()).await.body, bytes, "{url}");
    }

    for missing in [
        "/v1/providers/coder/coder/1.1.0/download/linux/amd64",
        "/v1/providers/coder/coder/1.0.0/download/linux/arm64",
        "/v1/providers/coder/coder/9.9.9/download/linux/amd64",
        "/v1/providers/coder/other/versions",
        "/v1/providers/tf.example.com:8443/own/thing/versions",
        "/v1/providers/tf.example.com/coder/coder/versions",
        "/v1/providers/x/y/versions",
        "/v1/providers/../../versions",
        "/v1/providers/",
        "/v1/providers/a",
    ] {
        assert_eq!(gateway.status(missing).await, 404, "{missing}");
    }
    assert_eq!(gateway.status("/v1/providers/tf.example.com/x/y/versions").await, 200);
}

#[tokio::test]
async fn the_mirror_has_everything_with_both_digests() {
    let gateway = Gateway::filled();
    let index = gateway.get("/mirror/registry.terraform.io/coder/coder/index.json").await.json();
    assert_eq!(index, json!({ "versions": { "1.0.0": {}, "1.1.0": {} } }));
    let version = gateway.get("/mirror/tf.example.com:8443/own/thing/0.1.0.json").await.json();
    let digest = Sha256::of(b"own");
    let name = "terraform-provider-thing_0.1.0_linux_amd64.zip";
    let expected = json!({ "archives": { "linux_amd64": {
        "url": format!("../../../../blobs/{digest}/{name}"),
        "hashes": ["h1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", format!("zh:{digest}")],
    } } });
    assert_eq!(version, expected);
    assert_eq!(gateway.get(&format!("/blobs/{digest}/{name}")).await.body, "own");
    for missing in [
        "/mirror/registry.terraform.io/coder/coder/9.9.9.json",
        "/mirror/registry.terraform.io/coder/coder/1.0.0",
        "/mirror/registry.terraform.io/coder/other/index.json",
        "/mirror/coder/coder/index.json",
        "/mirror/..%2f..%2findex.json",
        "/blobs/x",
        "/blobs/0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(gateway.status(missing).await, 404, "{missing}");
    }
}

#[tokio::test]
async fn files_come_whole_in_part_or_not_at_all() {
    let gateway = Gateway::filled();
    let digest = Sha256::of(&long());
    let etag = format!("\"sha256:{digest}\"");
    let whole = gateway.get("/files/long.bin").await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == long());
    assert_eq!(whole.header("etag"), etag);
    assert_eq!(whole.header("content-length"), "700001");
    assert_eq!(whole.header("accept-ranges"), "bytes");

    let head = gateway.send("HEAD", "/files/long.bin", &[]).await;
    assert_eq!((head.header("content-length"), head.body.len()), ("700001", 0));

    // Over a piece's end, and over the end of an extent.
    for (first, last) in [(0, 0), (262_143, 262_144), (350_000, 350_001), (1, 699_999), (700_000, 700_000)] {
        let part =
            gateway.send("GET", "/files/long.bin", &[("range", &format!("bytes={first}-{last}"))]).await;
        assert_eq!(part.status, 206);
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/700001"));
        assert_eq!(part.header("content-length"), (last - first + 1).to_string());
        assert!(part.body == long()[first..=last]);
    }
    let beyond = gateway.send("GET", "/files/long.bin", &[("range", "bytes=700001-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */700001"));

    let known = gateway.send("GET", "/files/long.bin", &[("if-none-match", &etag)]).await;
    assert_eq!((known.status.as_u16(), known.body.len(), known.header("etag")), (304, 0, etag.as_str()));
    let changed = [("if-range", "\"sha256:other\""), ("range", "bytes=5-")];
    assert_eq!(gateway.send("GET", "/files/long.bin", &changed).await.status, 200);

    let empty = gateway.get("/files/empty").await;
    assert_eq!((empty.status.as_u16(), empty.header("content-length"), empty.body.len()), (200, "0", 0));
}

#[tokio::test]
async fn nothing_from_the_low_side_runs_in_a_browser() {
    let gateway = Gateway::filled();
    let file = gateway.get("/files/docs/a%20%26%20%3Cb%3E.html").await;
    assert_eq!(file.body, "<script>alert(1)</script>");
    assert_eq!(file.header("content-type"), "application/octet-stream");
    assert_eq!(file.header("x-content-type-options"), "nosniff");
    assert_eq!(file.header("content-disposition"), "attachment");
    assert!(file.header("content-security-policy").contains("sandbox"));

    let listing = gateway.get("/files/docs/").await;
    assert!(listing.text().contains("<a href=\"a%20%26%20%3Cb%3E.html\">a &amp; &lt;b&gt;.html</a>"));
    assert!(listing.text().contains(&Sha256::of(b"extra").to_string()));
    assert!(listing.text().contains("<a href=\"deep/\">deep/</a>"));
    assert!(!listing.text().contains("docs-2"));
    assert!(listing.header("content-security-policy").starts_with("default-src 'none'"));
    for path in ["/", "/client/", "/files/"] {
        let page = gateway.get(path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(!page.text().contains("<script"));
    }
}

#[tokio::test]
async fn names_are_looked_up_and_never_followed() {
    let gateway = Gateway::filled();
    for missing in [
        "/files/../Cargo.toml",
        "/files/..%2f..%2fetc%2fpasswd",
        "/files/docs/../long.bin",
        "/files/%2e%2e/long.bin",
        "/files/docs//extra.txt",
        "/files//",
        "/files/docs/extra.txt/",
        "/files/doc",
        "/files/doc/",
        "/files/DOCS/extra.txt",
        "/files/docs%5cextra.txt",
        "/files/x%00",
        "/nothing",
    ] {
        let answer = gateway.get(missing).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (404, "not published here\n"), "{missing}");
    }
    assert_eq!(gateway.status("/files/%ff").await, 400);
    let redirect = gateway.get("/files/docs/deep").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (301, "/files/docs/deep/"));
    assert_eq!(gateway.get("/files").await.header("location"), "/files/");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECTED"] {
        for path in ["/", "/files/empty", "/nothing"] {
            let answer = gateway.send(method, path, &[]).await;
            assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, HEAD"), "{method}");
            assert!(answer.text().contains("expected GET or HEAD"));
        }
    }
    assert_eq!(gateway.get("/healthz").await.text(), "ok\n");
}

#[tokio::test]
async fn the_whole_tree_is_listed_for_checking() {
    let gateway = Gateway::filled();
    let sums = gateway.get("/files.sha256").await;
    let lines: Vec<&str> = sums.text().lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0], format!("{}  docs-2", Sha256::of(b"2")));
    let files = gateway.get("/files.json").await.json();
    let files = files["files"].as_array().unwrap();
    assert_eq!(files.len(), 6);
    assert!(files.iter().any(|file| {
        file["path"] == "docs/extra.txt" && file["bytes"] == 5 && file["channel"] == "extra"
    }));
    let empty = Gateway::new();
    assert_eq!(empty.get("/files.json").await.json(), json!({ "files": [] }));
    assert_eq!(empty.get("/files.sha256").await.text(), "");
}

#[tokio::test]
async fn a_large_directory_comes_in_pages_and_its_list_in_parts() {
    let gateway = Gateway::new();
    let mut release = Release::new("main", 1);
    for at in 0..2100 {
        match at % 3 {
            0 => release.file(&format!("big/{at:04}/x"), b"x"),
            _ => release.file(&format!("big/{at:04}"), b"x"),
        };
    }
    gateway.publish(vec![release]);
    let (mut path, mut seen) = ("/files/big/".to_owned(), Vec::new());
    for _ in 0..3 {
        let page = gateway.get(&path).await;
        let links = page.text().split("<a href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let links: Vec<&str> = links.collect();
        let names = links.iter().filter(|link| link.starts_with(|c: char| c.is_ascii_digit()));
        seen.extend(names.map(|link| link.trim_end_matches('/').to_owned()));
        path = format!("/files/big/{}", links.last().unwrap());
    }
    seen.sort();
    assert_eq!(seen, (0..2100).map(|at| format!("{at:04}")).collect::<Vec<_>>());
    let sums = gateway.get("/files.sha256").await;
    assert!(sums.text().len() > 2 * 64 * 1024);
    assert_eq!(sums.text().lines().count(), 2100);
    assert_eq!(gateway.get("/files.json").await.json()["files"].as_array().unwrap().len(), 2100);
}

#[tokio::test]
async fn client_files_name_the_gateway_as_the_client_does() {
    let gateway = Gateway::filled();
    let replay = gateway.send("GET", "/client/terraformrc", &[("host", "gw.site:8443")]).await;
    assert!(replay.text().contains(
        "host \"registry.terraform.io\" {\n  services = {\n    \"providers.v1\" = \
         \"https://gw.site:8443/v1/providers/registry.terraform.io/\"\n"
    ));
    assert!(replay.text().contains("host \"tf.example.com\" {"));
    assert!(replay.text().contains("host \"tf.example.com:8443\" {"));
    // It has no proof, so it can come through the mirror only.
    assert!(!replay.text().contains("host \"local.site\""));
    assert!(replay.text().contains("url = \"https://gw.site:8443/mirror/\""));
    assert_eq!(replay.text().matches("\"local.site/own/thing\"").count(), 2);
    // Terraform has no way to either.
    assert!(replay.text().contains("# Not for Terraform: tf.example.com:8443/own/thing"));

    let mirror = gateway.send("GET", "/client/terraformrc?via=mirror", &[("host", "gw.site")]).await;
    assert!(mirror.text().contains("url = \"https://gw.site/mirror/\""));
    assert_eq!(mirror.text().matches("host \"").count(), 1, "{}", mirror.text());
    assert!(mirror.text().contains("host \"tf.example.com:8443\" {"));
    assert_eq!(mirror.text().matches("\"tf.example.com:8443/own/proven\"").count(), 2);
    for forged in ["evil\"\nx", "a b", "evil/", "${x}"] {
        let Ok(value) = axum::http::HeaderValue::from_str(forged) else { continue };
        let fallback = gateway.send("GET", "/client/terraformrc", &[("host", value.to_str().unwrap())]).await;
        assert!(fallback.text().contains("https://fallback/v1/"), "{forged}");
        assert!(!fallback.text().contains("evil"), "{forged}");
    }
    assert_eq!(gateway.status("/client/terraformrc?via=x").await, 400);
    assert_eq!(gateway.status("/client/ca.pem").await, 404);
}

#[tokio::test]
async fn a_switch_changes_what_is_found_and_not_what_is_under_way() {
    let gateway = Gateway::filled();
    let old = gateway.site.load();
    let service = TowerToHyperService::new(gateway.router());
    let request = Request::get("/files/long.bin").body(Body::empty()).unwrap();
    let under_way = hyper::service::Service::call(&service, request).await.unwrap();
    let mut next = Release::new("main", 3);
    next.file("new", b"new");
    gateway.publish(vec![next]);
    assert_eq!(gateway.status("/files/long.bin").await, 404);
    assert_eq!(gateway.get("/files/new").await.body, "new");
    assert!(under_way.into_body().collect().await.unwrap().to_bytes() == long());

    let by_digest = format!("/blobs/{}", Sha256::of(b"extra"));
    assert_eq!(gateway.status(&by_digest).await, 404);
    let now = gateway.site.load().releases().to_vec();
    let keeping = Site::new(now, gateway.packs.clone()).unwrap().keeping(old.releases().to_vec());
    gateway.site.switch(Arc::new(keeping));
    assert_eq!(gateway.get(&by_digest).await.body, "extra");
    assert_eq!(gateway.status("/files/docs/extra.txt").await, 404);
}

#[test]
fn channels_that_contradict_each_other_are_no_site() {
    let dir = TempDir::new("union");
    let packs = Arc::new(PackStore::open(dir.path()).unwrap());
    let one = |channel, pack, path| {
        let mut release = Release::new(channel, pack);
        release.file(path, b"x");
        release.publish(&packs)
    };
    let site = |a, b| Site::new(vec![a, b], packs.clone()).unwrap_err();
    assert!(matches!(site(one("a", 1, "x"), one("a", 2, "y")), SiteError::ChannelTwice { .. }));
    let error = site(one("b", 1, "x"), one("a", 2, "x"));
    assert!(error.to_string().starts_with("file x is in channel a and in channel b"), "{error}");
    assert!(matches!(site(one("a", 1, "x"), one("b", 2, "x/y")), SiteError::Tree(_)));
    assert!(matches!(site(one("a", 1, "X/1"), one("b", 2, "x/2")), SiteError::Tree(_)));
}

/// One connection over TLS that trusts `ca_pem` only.
async fn connect(port: u16, ca_pem: &str) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("gw.site").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn https_serves_whole_bodies_and_cuts_broken_ones() {
    let gateway = Gateway::filled();
    // The listener judges no dates here, but the client does, by its clock: the certificate must be valid now.
    let now_s = jiff::Timestamp::now().as_second() as u64;
    let ca = certs::make_ca("test", now_s).unwrap();
    let server = certs::make_server_certificate(&ca, &["gw.site".to_owned()], now_s).unwrap();
    let (chain, key) = (gateway.dir.path().join("s.pem"), gateway.dir.path().join("s.key"));
    fact::write_atomic(&chain, 0o644, &[server.certificate_pem.as_bytes()]).unwrap();
    fact::write_atomic(&key, 0o600, &[server.key_pem.as_bytes()]).unwrap();
    let tls = Arc::new(certs::load(&chain, &key, &[], now_s).unwrap().server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(run(listener, tls, gateway.router(), async {
        let _ = stopped.await;
    }));

    let get = |path: &str| Request::get(path).header("host", "gw.site").body(Empty::<Bytes>::new()).unwrap();
    let mut client = connect(port, &ca.certificate_pem).await;
    for _ in 0..2 {
        let response = client.send_request(get("/files/long.bin")).await.unwrap();
        assert_eq!(response.headers()["content-length"], "700001");
        assert!(response.into_body().collect().await.unwrap().to_bytes() == long());
        client.ready().await.unwrap();
    }
    let mut headers = get("/healthz");
    headers.headers_mut().insert("x-long", "x".repeat(20_000).parse().unwrap());
    assert_eq!(client.send_request(headers).await.unwrap().status(), 431);

    // The pack loses its end: what was promised cannot be delivered.
    let pack = gateway.packs.path(PackId([1; 8]));
    let bytes = std::fs::metadata(&pack).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&pack).unwrap();
    // Two pieces are more than hyper holds back, so the answer's head is out before the third piece fails.
    file.set_len(bytes - 50_000).unwrap();
    let mut client = connect(port, &ca.certificate_pem).await;
    let response = client.send_request(get("/files/long.bin")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-length"]),
        (200, &"700001".parse().unwrap())
    );
    assert!(response.into_body().collect().await.is_err());
    // When the second piece fails, the head may be out or not; in neither case is there a whole answer.
    file.set_len(bytes / 2).unwrap();
    let mut client = connect(port, &ca.certificate_pem).await;
    if let Ok(response) = client.send_request(get("/files/long.bin")).await {
        assert!(response.into_body().collect().await.is_err());
    }

    // A request under way is finished, and the listener ends.
    let _idle = connect(port, &ca.certificate_pem).await;
    stop.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(5), running).await.unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}
