//! An upstream as sources find it: files over TLS with a CA of its own, byte ranges, validators, and whatever can go wrong
//! on purpose. [`Registry`] lays a Terraform origin registry out in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use diodesync_control::ReceiverStream;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What goes wrong with a path.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with these fields.
    Status(u16, Vec<(&'static str, String)>),
    /// The body breaks off after so many octets.
    Cut(usize),
    /// The body never ends.
    Endless,
    /// Other octets.
    Content(Vec<u8>),
    /// It is elsewhere.
    Redirect(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path, with its query.
    pub path: String,
    /// `Range`.
    pub range: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// A status and a field, without a body.
    answers: BTreeMap<String, (u16, (&'static str, String))>,
    /// How often a path fails still, and how, one after the other.
    faults: BTreeMap<String, VecDeque<(u32, Fault)>>,
    /// What every request must carry, but for those to `/files/`.
    authorization: Option<String>,
    asked: Vec<Asked>,
}

/// A running upstream. It ends with the value.
#[derive(Debug)]
pub struct Origin {
    state: Arc<Mutex<State>>,
    port: u16,
    /// Its CA certificate.
    pub ca: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Origin {
    /// Starts one on a free port of loopback, with a certificate for `localhost`; its CA goes into `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let (acceptor, ca_pem) = certificate()?;
        let ca = dir.join("origin-ca.pem");
        std::fs::write(&ca, ca_pem).with_context(|| format!("cannot write {}", ca.display()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = |request| {
                        let response = answer(&state, &request);
                        async move { Ok::<_, Infallible>(response) }
                    };
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Ok(Self { state, port, ca, _runtime: runtime })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `localhost:PORT`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// `127.0.0.1:PORT`: terraform takes no registry of modules whose name has no dot.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host())
    }

    /// Puts a file, over one that is there.
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        self.state().files.insert(path.to_owned(), content.into());
    }

    /// Has a path answered by a status and a field, without a body.
    pub fn say(&self, path: &str, status: u16, field: &'static str, value: &str) {
        let answer = (status, (field, value.to_owned()));
        self.state().answers.insert(path.to_owned(), answer);
    }

    /// Takes a file away.
    pub fn remove(&self, path: &str) {
        self.state().files.remove(path);
    }

    /// What a path has.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.state().files.get(path).cloned()
    }

    /// Has so many requests for a path fail, after those that are to fail already.
    pub fn fail(&self, path: &str, times: u32, fault: Fault) {
        self.state().faults.entry(path.to_owned()).or_default().push_back((times, fault));
    }

    /// Has everything work again.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Has every request need this `Authorization`, but for those to `/files/`: archives are open, as with real registries.
    pub fn guard(&self, authorization: Option<&str>) {
        self.state().authorization = authorization.map(str::to_owned);
    }

    /// What was asked for since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn certificate() -> Result<(TlsAcceptor, String)> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    ca.distinguished_name.push(rcgen::DnType::CommonName, "The test upstream's CA");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer)?;
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

fn answer(state: &Mutex<State>, request: &Request<Incoming>) -> Response<Body> {
    let field = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let asked = Asked {
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        range: field("range"),
        authorization: field("authorization"),
    };
    let mut state = lock(state);
    state.asked.push(asked.clone());
    let path = request.uri().path().to_owned();
    let is_open = path.starts_with("/files/");
    if !is_open && state.authorization.is_some() && state.authorization != asked.authorization {
        return plain(401, "who are you?", &[("www-authenticate", "Bearer".to_owned())]);
    }
    let faults = state.faults.entry(path.clone()).or_default();
    while faults.front().is_some_and(|(times, _)| *times == 0) {
        faults.pop_front();
    }
    let fault = faults.front_mut().map(|(times, fault)| {
        *times -= 1;
        fault.clone()
    });
    let content = state.files.get(&path).cloned();
    let answer = state.answers.get(&path).cloned();
    drop(state);
    if let (None, Some((status, field))) = (&fault, answer) {
        return plain(status, "", &[field]);
    }
    let (content, cut) = match (fault, content) {
        (Some(Fault::Status(status, fields)), _) => return plain(status, "not now", &fields),
        (Some(Fault::Redirect(to)), _) => return plain(302, "", &[("location", to)]),
        (Some(Fault::Endless), _) => return Response::new(endless()),
        (Some(Fault::Content(content)), _) => (content, None),
        (Some(Fault::Cut(at)), Some(content)) => (content, Some(at)),
        (None, Some(content)) => (content, None),
        (_, None) => return plain(404, "there is nothing", &[]),
    };
    let tag = format!("\"{}\"", &crate::tree::hex(&sha2::Sha256::digest(&content))[..16]);
    let start =
        asked.range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start =
        start.filter(|_| field("if-range").is_none_or(|it| it == tag)).filter(|start| *start < content.len());
    let total = content.len();
    let rest = Bytes::from(content).slice(start.unwrap_or(0)..);
    let mut response = Response::builder()
        .status(if start.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header("etag", tag)
        .header("content-length", rest.len());
    if let Some(start) = start {
        response = response.header("content-range", format!("bytes {start}-{}/{total}", total - 1));
    }
    let body = match (request.method() == Method::HEAD, cut) {
        (true, _) => empty(),
        (false, None) => http_body_util::Full::new(rest).map_err(|never| match never {}).boxed(),
        (false, Some(at)) => broken(rest.slice(..at.min(rest.len()))),
    };
    response.body(body).expect("fields that are right")
}

fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed()
}

fn plain(status: u16, text: &'static str, fields: &[(&'static str, String)]) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, value);
    }
    let body = http_body_util::Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    response.body(body).expect("fields that are right")
}

/// Octets, and then the connection is gone.
fn broken(octets: Bytes) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let _ = sender.send(Ok(Frame::data(octets))).await;
        // What was sent shall arrive before the end does.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = sender.send(Err(std::io::Error::other("cut"))).await;
    });
    StreamBody::new(ReceiverStream(receiver)).boxed()
}

fn endless() -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while sender.send(Ok(Frame::data(Bytes::from(vec![b'x'; 1 << 16])))).await.is_ok() {}
    });
    StreamBody::new(ReceiverStream(receiver)).boxed()
}

/// A Terraform origin registry, laid out in an [`Origin`].
#[derive(Debug)]
pub struct Registry<'a> {
    origin: &'a Origin,
    versions: BTreeMap<(String, String), BTreeMap<String, Vec<String>>>,
    modules: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Registry<'a> {
    /// An empty one.
    pub fn new(origin: &'a Origin) -> Self {
        let services = json!({ "providers.v1": "/v1/providers/", "modules.v1": "/v1/modules/" });
        origin.put("/.well-known/terraform.json", services.to_string());
        Self { origin, versions: BTreeMap::new(), modules: BTreeMap::new() }
    }

    /// Where the parts of a version are.
    pub fn folder(namespace: &str, kind: &str, version: &str) -> String {
        format!("/files/{namespace}/{kind}/{version}")
    }

    /// Offers a version: archives by platform, SHA256SUMS, its signature, and keys.
    pub fn offer(
        &mut self,
        (namespace, kind, version): (&str, &str, &str),
        archives: &BTreeMap<&str, Vec<u8>>,
        sums: &[u8],
        signature: &[u8],
        keys: &[String],
    ) {
        let folder = Self::folder(namespace, kind, version);
        let stem = format!("terraform-provider-{kind}_{version}");
        self.origin.put(&format!("{folder}/{stem}_SHA256SUMS"), sums);
        self.origin.put(&format!("{folder}/{stem}_SHA256SUMS.sig"), signature);
        let keys: Vec<_> = keys.iter().map(|key| json!({ "key_id": "", "ascii_armor": key })).collect();
        for (platform, archive) in archives {
            let (os, arch) = platform.split_once('_').expect("OS_ARCH");
            let name = format!("{stem}_{platform}.zip");
            self.origin.put(&format!("{folder}/{name}"), archive.clone());
            let download = json!({
                "protocols": ["5.0"], "os": os, "arch": arch, "filename": name,
                "download_url": format!("{folder}/{name}"),
                "shasum": crate::tree::hex(&sha2::Sha256::digest(archive)),
                "shasums_url": format!("{folder}/{stem}_SHA256SUMS"),
                "shasums_signature_url": format!("{folder}/{stem}_SHA256SUMS.sig"),
                "signing_keys": { "gpg_public_keys": keys },
            });
            let path = format!("/v1/providers/{namespace}/{kind}/{version}/download/{os}/{arch}");
            self.origin.put(&path, download.to_string());
        }
        let platforms = archives.keys().map(|platform| (*platform).to_owned()).collect();
        let of = self.versions.entry((namespace.to_owned(), kind.to_owned())).or_default();
        of.insert(version.to_owned(), platforms);
        self.list(namespace, kind);
    }

    /// Offers a version no more.
    pub fn withdraw(&mut self, namespace: &str, kind: &str, version: &str) {
        if let Some(of) = self.versions.get_mut(&(namespace.to_owned(), kind.to_owned())) {
            of.remove(version);
        }
        self.list(namespace, kind);
    }

    fn list(&self, namespace: &str, kind: &str) {
        let of = self.versions.get(&(namespace.to_owned(), kind.to_owned())).cloned().unwrap_or_default();
        let version = |(version, platforms): (String, Vec<String>)| {
            let platforms = platforms.iter().filter_map(|platform| platform.split_once('_'));
            let platforms: Vec<_> = platforms.map(|(os, arch)| json!({ "os": os, "arch": arch })).collect();
            json!({ "version": version, "protocols": ["5.0"], "platforms": platforms })
        };
        let list = json!({ "versions": of.into_iter().map(version).collect::<Vec<_>>() });
        self.origin.put(&format!("/v1/providers/{namespace}/{kind}/versions"), list.to_string());
    }

    /// Offers a version of the module `NAMESPACE/NAME/SYSTEM`, of which the registry says that it is at `get`.
    pub fn offer_module(&mut self, module: &str, version: &str, get: &str) {
        let path = format!("/v1/modules/{module}/{version}/download");
        self.origin.say(&path, 204, "x-terraform-get", get);
        self.modules.entry(module.to_owned()).or_default().insert(version.to_owned());
        self.list_modules(module);
    }

    /// Offers a version of a module no more.
    pub fn withdraw_module(&mut self, module: &str, version: &str) {
        self.modules.entry(module.to_owned()).or_default().remove(version);
        self.list_modules(module);
    }

    fn list_modules(&self, module: &str) {
        let versions = self.modules.get(module).into_iter().flatten();
        let versions: Vec<_> = versions.map(|version| json!({ "version": version })).collect();
        let list = json!({ "modules": [{ "source": module, "versions": versions }] });
        self.origin.put(&format!("/v1/modules/{module}/versions"), list.to_string());
    }
}
