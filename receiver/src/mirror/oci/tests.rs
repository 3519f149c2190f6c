//! A push to a registry that is as a test wants it: with tokens, slow to take a blob, or lying. The real ones are in
//! `tests/system/tests/mirrors.rs`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diodesync::id::Sha256;
use diodesync::pack::PackStore;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::push::Reporter;
use super::{Memory, NameMap, Outcome, PushError, push};
use crate::certs;
use crate::mirror::config::OciConfig;
use crate::serve::Site;
use crate::serve::testing::{Release, TempDir};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the registry does that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    /// The second part of a blob is taken by half, and then it is busy.
    Busy,
    /// The same, and it fails when it is asked how far that is.
    Forgetful,
    /// One manifest is not taken.
    Picky,
    /// One manifest that an index names is not taken.
    Half,
    /// Uploads go on at another host.
    Elsewhere,
    /// Manifests are taken for others.
    OtherDigest,
    /// Blobs are never what they should be.
    WrongBlob,
    /// Tokens are given out in clear.
    PlainRealm,
    /// An answer without end.
    Endless,
}

#[derive(Debug)]
struct Fake {
    lie: Lie,
    host: String,
    blobs: HashMap<String, Vec<u8>>,
    manifests: BTreeMap<String, Vec<u8>>,
    upload: Vec<u8>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Fake>>;

struct Stand {
    dir: TempDir,
    fake: Shared,
    config: OciConfig,
    site: Arc<Site>,
    _stop: oneshot::Sender<()>,
}

fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

fn described(media_type: &str, octets: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", Sha256::of(octets)), "size": octets.len() })
}

async fn handle(State(fake): State<Shared>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let target = parts.uri.path_and_query().unwrap().to_string();
    fake.lock().unwrap().answer(parts.method.as_str(), &target, &parts.headers, body)
}

impl Fake {
    fn answer(&mut self, method: &str, target: &str, headers: &HeaderMap, body: Vec<u8>) -> Response<Body> {
        self.asked.push(format!("{method} {target}"));
        let authorization = headers.get("authorization").map_or("", |value| value.to_str().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/token" {
            if authorization != format!("Basic {}", STANDARD.encode("pusher:secret")) {
                return respond(401, &[], "");
            }
            return respond(200, &[], json!({ "token": query, "expires_in": 300 }).to_string());
        }
        let repository =
            path.strip_prefix("/v2/").and_then(|path| path.split('/').next()).unwrap_or_default();
        let scope = format!("repository%3A{repository}%3Apull%2Cpush");
        if !authorization.starts_with("Bearer ") || !authorization.contains(&scope) {
            let scheme = if self.lie == Lie::PlainRealm { "http" } else { "https" };
            let challenge = format!("Bearer realm=\"{scheme}://{}/token\",service=\"site\"", self.host);
            return respond(401, &[("www-authenticate", &challenge)], "");
        }
        if path.contains("/uploads/") {
            return self.upload(method, repository, query, body);
        }
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        match (method, path.contains("/manifests/")) {
            ("GET", _) if path.contains("/referrers/") => {
                respond(200, &[("content-type", super::push::INDEX)], r#"{"manifests":[]}"#)
            }
            ("HEAD", true) if self.lie == Lie::Endless => respond(404, &[("x", &"x".repeat(1_000_000))], ""),
            ("HEAD" | "GET", true) => match self.manifests.get(&last) {
                Some(octets) => {
                    let digest = format!("sha256:{}", Sha256::of(octets));
                    respond(
                        200,
                        &[("docker-content-digest", &digest)],
                        if method == "GET" { octets.clone() } else { Vec::new() },
                    )
                }
                None => respond(404, &[], ""),
            },
            ("PUT", true) if String::from_utf8_lossy(&body).contains("picky") => {
                respond(400, &[], r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}"#)
            }
            ("PUT", true) => {
                let digest = match self.lie {
                    Lie::OtherDigest => format!("sha256:{}", Sha256::of(b"other")),
                    _ => format!("sha256:{}", Sha256::of(&body)),
                };
                self.manifests.insert(last, body.clone());
                self.manifests.insert(digest.clone(), body);
                respond(201, &[("docker-content-digest", &digest)], "")
            }
            ("HEAD", false) => respond(if self.blobs.contains_key(&last) { 200 } else { 404 }, &[], ""),
            _ => respond(405, &[], ""),
        }
    }

    fn upload(&mut self, method: &str, repository: &str, query: &str, body: Vec<u8>) -> Response<Body> {
        let host = if self.lie == Lie::Elsewhere { "elsewhere.site" } else { "localhost" };
        let location = format!("https://{host}/v2/{repository}/blobs/uploads/1?_state=x");
        let parts = self.asked.iter().filter(|asked| asked.starts_with("PATCH")).count();
        match method {
            "POST" => self.upload.clear(),
            "GET" if self.lie == Lie::Forgetful => return respond(500, &[], ""),
            "PATCH" if matches!(self.lie, Lie::Busy | Lie::Forgetful) && parts == 2 => {
                self.upload.extend(&body[..body.len() / 2]);
                return respond(
                    503,
                    &[("retry-after", "7")],
                    r#"{"errors":[{"code":"BUSY","message":"too much to do"}]}"#,
                );
            }
            "PATCH" => self.upload.extend(&body),
            "PUT" => {
                self.upload.extend(&body);
                let digest = query.split("digest=").nth(1).unwrap_or_default();
                if self.lie == Lie::WrongBlob || digest != format!("sha256:{}", Sha256::of(&self.upload)) {
                    return respond(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                self.blobs.insert(digest.to_owned(), std::mem::take(&mut self.upload));
                return respond(201, &[], "");
            }
            _ => {}
        }
        let range = format!("0-{}", self.upload.len().saturating_sub(1));
        let status = if method == "GET" { 204 } else { 202 };
        respond(status, &[("location", &location), ("range", &range)], "")
    }
}

/// An image with a layer of several parts, and an artifact that refers to it.
fn image(release: &mut Release) -> Vec<u8> {
    let layer: Vec<u8> = (0..70_000u32).flat_map(u32::to_le_bytes).collect();
    let manifest = |layer: &[u8], subject: Option<&[u8]>| {
        let mut value = json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": described("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [described("application/octet-stream", layer)],
        });
        if let Some(subject) = subject {
            value["subject"] = described(IMAGE, subject);
        }
        value.to_string().into_bytes()
    };
    let main = manifest(&layer, None);
    let signature = manifest(b"signature", Some(&main));
    release.image("ghcr.io/coder/demo", "v1", &[&main, &signature], &[b"{}", &layer, b"signature"]);
    main
}

impl Stand {
    async fn new(lie: Lie) -> Self {
        let dir = TempDir::new("push");
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        let mut release = Release::new("main", 1);
        image(&mut release);
        if lie == Lie::Picky {
            let manifest = json!({
                "schemaVersion": 2, "mediaType": IMAGE, "layers": [],
                "config": described("application/vnd.picky", b"{}"),
            });
            release.image("ghcr.io/coder/demo", "a", &[manifest.to_string().as_bytes()], &[b"{}"]);
            release.image("ghcr.io/coder/a", "a", &[manifest.to_string().as_bytes()], &[b"{}"]);
        }
        if lie == Lie::Half {
            let child = json!({
                "schemaVersion": 2, "mediaType": IMAGE, "layers": [],
                "config": described("application/vnd.picky", b"{}"),
            });
            let child = child.to_string().into_bytes();
            let index = json!({
                "schemaVersion": 2, "mediaType": super::push::INDEX, "manifests": [described(IMAGE, &child)],
            });
            release.image("ghcr.io/coder/half", "half", &[index.to_string().as_bytes(), &child], &[b"{}"]);
        }
        let site = Arc::new(Site::new(vec![release.publish(&packs)], packs).unwrap());
        let ca = certs::make_ca("site", 1_795_000_000).unwrap();
        let server =
            certs::make_server_certificate(&ca, &["localhost".to_owned()], diodesync_control::clock_s())
                .unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("ca.pem"), &ca.certificate_pem).unwrap();
        std::fs::write(path("server.pem"), &server.certificate_pem).unwrap();
        for (name, content) in
            [("server.key", server.key_pem.as_str()), ("user", "pusher\n"), ("password", "secret\n")]
        {
            diodesync::pack::fact::write_atomic(&path(name), 0o600, &[content.as_bytes()]).unwrap();
        }
        let hosts = ["localhost".to_owned()];
        let tls = certs::load(&path("server.pem"), &path("server.key"), &hosts, diodesync_control::clock_s())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (blobs, manifests) = (HashMap::new(), BTreeMap::new());
        let fake = Fake { lie, host: host.clone(), blobs, manifests, upload: Vec::new(), asked: Vec::new() };
        let fake = Arc::new(Mutex::new(fake));
        let router = Router::new().fallback(handle).with_state(fake.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(crate::serve::run(listener, Arc::new(tls.server), router, async {
            let _ = stopped.await;
        }));
        let mut map = NameMap::of(host.parse().unwrap());
        map.add("ghcr.io/coder/*", &format!("{host}/*")).unwrap();
        let config = OciConfig {
            registry: host.parse().unwrap(),
            map,
            user: Some((path("user"), path("password"))),
            ca_file: Some(path("ca.pem")),
            deletes_gone: false,
        };
        Self { dir, fake, config, site, _stop: stop }
    }

    async fn push(&self, memory: &mut Memory) -> Result<Outcome, PushError> {
        let mut told = Told { memory: memory.clone(), sent: 0 };
        let pushed = push(&self.config, &self.site, memory.clone(), &mut told).await;
        *memory = told.memory;
        pushed
    }

    async fn failure(lie: Lie) -> String {
        Self::new(lie).await.push(&mut Memory::default()).await.unwrap_err().to_string()
    }

    fn asked(&self, beginning: &str) -> usize {
        self.fake.lock().unwrap().asked.iter().filter(|asked| asked.starts_with(beginning)).count()
    }
}

struct Told {
    memory: Memory,
    sent: u64,
}

impl Reporter for Told {
    fn doing(&mut self, _: String) {}

    fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    fn remember(&mut self, memory: &Memory) -> anyhow::Result<()> {
        self.memory = memory.clone();
        Ok(())
    }

    fn is_superseded(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn tokens_are_asked_for_and_an_upload_that_broke_off_is_taken_up() {
    let stand = Stand::new(Lie::Busy).await;
    let mut memory = Memory::default();
    let error = stand.push(&mut memory).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let text = error.to_string();
    assert!(
        text.contains("status 503")
            && text.contains("BUSY too much to do")
            && text.contains("octets 65536 to"),
        "{text}"
    );
    assert!(memory.upload.is_some() && memory.tags.is_empty());
    // It goes on in the middle of the part that broke off.
    let outcome = stand.push(&mut memory).await.unwrap();
    assert_eq!((outcome.artifacts, memory.upload.clone()), (1, None));
    assert_eq!(stand.asked("POST /v2/demo/blobs/uploads/"), 3, "one for each blob");
    let check = |fake: &Fake| {
        assert!(
            fake.manifests.contains_key("v1") && fake.manifests.len() == 3,
            "{:?}",
            fake.manifests.keys()
        );
        assert!(
            !fake.asked.iter().any(|asked| asked.contains("manifests/sha256-")),
            "this one lists referrers itself"
        );
        let place = |of: &str| fake.asked.iter().rposition(|asked| asked.starts_with(of)).unwrap();
        assert!(place("PUT /v2/demo/blobs/") < place("PUT /v2/demo/manifests/v1"), "tags come last");
    };
    check(&stand.fake.lock().unwrap());
    // Again nothing is sent.
    let before = (stand.asked("P"), memory.clone());
    stand.push(&mut memory).await.unwrap();
    assert_eq!((stand.asked("P"), memory), before);
}

#[tokio::test]
async fn an_upload_that_cannot_be_taken_up_begins_anew() {
    let stand = Stand::new(Lie::Forgetful).await;
    let mut memory = Memory::default();
    stand.push(&mut memory).await.unwrap_err();
    assert!(memory.upload.is_some());
    assert_eq!(stand.push(&mut memory).await.unwrap().artifacts, 1);
    assert_eq!(stand.asked("POST /v2/demo/blobs/uploads/"), 4, "one for each blob, and one again");
}

#[tokio::test]
async fn what_is_not_taken_of_one_image_keeps_no_other_from_being_pushed() {
    let stand = Stand::new(Lie::Picky).await;
    let mut memory = Memory::default();
    let text = stand.push(&mut memory).await.unwrap_err().to_string();
    for word in
        ["pushing manifest a:sha256:", "status 400", "MANIFEST_INVALID no", "and 1 more that are not taken"]
    {
        assert!(text.contains(word), "{text}");
    }
    let fake = stand.fake.lock().unwrap();
    assert!(fake.manifests.contains_key("v1") && !fake.manifests.contains_key("a"));
    assert_eq!(memory.tags.len(), 1);
}

#[tokio::test]
async fn a_tag_is_not_moved_onto_half_an_image() {
    let stand = Stand::new(Lie::Half).await;
    stand.fake.lock().unwrap().manifests.insert("half".to_owned(), b"good".to_vec());
    let mut memory = Memory::default();
    for _ in 0..2 {
        stand.push(&mut memory).await.unwrap_err();
        assert_eq!(stand.fake.lock().unwrap().manifests["half"], b"good");
    }
    assert_eq!(stand.asked("PUT /v2/half/manifests/"), 2, "the child alone, once in each run");
    assert_eq!(memory.tags.len(), 1, "the other image is there");
}

#[tokio::test]
async fn a_registry_that_lies_is_named_and_not_followed() {
    for (lie, expected) in [
        (Lie::Elsewhere, "sends the upload to another host, \"elsewhere.site\""),
        (Lie::OtherDigest, "took sha256:"),
        (Lie::WrongBlob, "whose upload was begun 3 times"),
        (Lie::PlainRealm, "expected a token service at https://"),
        (Lie::Endless, "broke"),
    ] {
        let text = Stand::failure(lie).await;
        assert!(text.contains(expected), "{lie:?}: {text}");
    }
}

#[tokio::test]
async fn who_is_not_there_or_not_believed_is_named() {
    let mut stand = Stand::new(Lie::None).await;
    std::fs::write(stand.dir.path().join("password"), "wrong").unwrap();
    let text = stand.push(&mut Memory::default()).await.unwrap_err().to_string();
    for word in ["asking for a token", "refuses the user and password of", "look whether they are right"] {
        assert!(text.contains(word), "{text}");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(stand.dir.path().join("password"), mode).unwrap();
    let text = stand.push(&mut Memory::default()).await.unwrap_err().to_string();
    assert!(text.contains("chmod 600"), "{text}");
    let other = certs::make_ca("another", 1_795_000_000).unwrap();
    std::fs::write(stand.dir.path().join("ca.pem"), other.certificate_pem).unwrap();
    stand.config.user = None;
    let text = stand.push(&mut Memory::default()).await.unwrap_err().to_string();
    assert!(text.contains("the certificate of localhost") && text.contains("as ca_file"), "{text}");
    stand.config.registry = "localhost:1".parse().unwrap();
    let text = stand.push(&mut Memory::default()).await.unwrap_err().to_string();
    assert!(text.contains("localhost:1 does not answer"), "{text}");
}
