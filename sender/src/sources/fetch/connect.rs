//! Connections: names, the addresses that may be reached, a proxy, TLS, and the ones that are kept for the next request.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::FetchError;
use super::error::chain;
use crate::sources::config::Access;
use crate::sources::url::{Url, is_inner};

/// Octets of what a proxy answers.
const PROXY_ANSWER_BYTES_MAX: usize = 8192;
/// Octets of the fields of an answer: what hyper reads at once.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections to one origin that are kept while nothing is asked over them.
const IDLE_MAX: usize = 16;

type Sender = SendRequest<Empty<Bytes>>;
type Idle = Arc<Mutex<BTreeMap<String, Vec<Sender>>>>;

/// Makes connections, and keeps them.
pub(super) struct Connector {
    tls: TlsConnector,
    proxy: Option<Url>,
    homes: Vec<Url>,
    hosts: BTreeMap<String, Url>,
    connect_max: Duration,
    idle: Idle,
}

/// A connection over which an answer comes.
pub(super) struct Lease {
    idle: Idle,
    origin: String,
    sender: Sender,
}

impl Lease {
    /// The answer was read to its end: the next request may use it.
    pub fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(self.origin).or_default();
        if kept.len() < IDLE_MAX {
            kept.push(self.sender);
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connector {
    pub fn new(access: &Access, homes: &[Url], connect_max: Duration) -> anyhow::Result<Self> {
        Ok(Self {
            tls: tls(access)?,
            proxy: access.proxy.clone(),
            // What the configuration has a host asked for at is as much named by it.
            homes: homes.iter().chain(access.hosts.values()).cloned().collect(),
            hosts: access.hosts.clone(),
            connect_max,
            idle: Idle::default(),
        })
    }

    /// Sends a request over a kept connection, or over a new one.
    pub async fn ask(
        &self,
        url: &Url,
        method: &Method,
        headers: &[(HeaderName, HeaderValue)],
        answer_max: Duration,
    ) -> Result<(Response<Incoming>, Lease), FetchError> {
        let moved = self.hosts.get(&url.authority()).map(|origin| url.at(origin));
        let url = moved.as_ref().unwrap_or(url);
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            std::iter::from_fn(|| idle.get_mut(&url.origin())?.pop()).find(|sender| !sender.is_closed())
        };
        if let Some(mut sender) = kept {
            // The upstream may just have closed it, which says nothing.
            if let Ok(answer) = self.ask_over(&mut sender, url, method, headers, answer_max).await {
                return Ok((answer, self.lease(url, sender)));
            }
        }
        let mut sender = match tokio::time::timeout(self.connect_max, self.connect(url)).await {
            Ok(sender) => sender?,
            Err(_) => {
                let why = format!("no connection within {} s", self.connect_max.as_secs());
                return Err(FetchError::Connect { url: url.clone(), why });
            }
        };
        let answer = self.ask_over(&mut sender, url, method, headers, answer_max).await?;
        Ok((answer, self.lease(url, sender)))
    }

    fn lease(&self, url: &Url, sender: Sender) -> Lease {
        Lease { idle: self.idle.clone(), origin: url.origin(), sender }
    }

    async fn ask_over(
        &self,
        sender: &mut Sender,
        url: &Url,
        method: &Method,
        headers: &[(HeaderName, HeaderValue)],
        answer_max: Duration,
    ) -> Result<Response<Incoming>, FetchError> {
        let bad = |error: &dyn std::error::Error| FetchError::broken(url, error);
        // A proxy is told the whole URL of what it fetches itself (RFC 9112 §3.2.2).
        let target = match &self.proxy {
            Some(_) if !url.is_tls() => format!("{}{}", url.origin(), url.target()),
            _ => url.target().to_owned(),
        };
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, url.authority())
            .header(USER_AGENT, concat!("diode-sender/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| bad(&error))?;
        sender.ready().await.map_err(|error| bad(&error))?;
        match tokio::time::timeout(answer_max, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|error| bad(&error)),
            Err(_) => Err(FetchError::Silent { url: url.clone(), after: answer_max }),
        }
    }

    async fn connect(&self, url: &Url) -> Result<Sender, FetchError> {
        let failed = |why: String| FetchError::Connect { url: url.clone(), why };
        let stream = match &self.proxy {
            None => self.dial(url, url).await?,
            Some(proxy) => {
                self.check_literal(url).await?;
                let stream = dial_any(proxy, &lookup(proxy).await.map_err(&failed)?).await;
                let stream = stream.map_err(|why| failed(format!("the proxy {proxy}: {why}")))?;
                if url.is_tls() {
                    tunnel(stream, url).await.map_err(|why| failed(format!("the proxy {proxy}: {why}")))?
                } else {
                    stream
                }
            }
        };
        let stream: Box<dyn Stream> = if url.is_tls() {
            let name = ServerName::try_from(url.host().to_owned());
            let name =
                name.map_err(|_| failed(format!("no certificate can be for the host {:?}", url.host())))?;
            let stream = self.tls.connect(name, stream).await;
            Box::new(stream.map_err(|error| failed(format!("TLS failed: {}", chain(&error))))?)
        } else {
            Box::new(stream)
        };
        let (sender, connection) = Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(chain(&error)))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Connects to one of the addresses that a host has and that may be reached.
    async fn dial(&self, url: &Url, asked: &Url) -> Result<TcpStream, FetchError> {
        let failed = |why: String| FetchError::Connect { url: asked.clone(), why };
        let addresses = lookup(url).await.map_err(&failed)?;
        let inner = addresses.iter().find(|address| is_inner(address.ip()));
        if let Some(inner) = inner
            && !self.is_home(url)
            && !self.is_home_inner().await
        {
            let (host, address) = (url.host().to_owned(), inner.ip().to_string());
            return Err(FetchError::Inner { url: asked.clone(), host, address });
        }
        let stream = dial_any(url, &addresses).await.map_err(failed)?;
        // What has the same address at both ends is this machine, by whatever address.
        if let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr())
            && peer.ip() == own.ip()
            && !self.is_home(url)
            && !self.is_home_inner().await
        {
            let (host, address) = (url.host().to_owned(), peer.ip().to_string());
            return Err(FetchError::Inner { url: asked.clone(), host, address });
        }
        Ok(stream)
    }

    /// Behind a proxy, it looks names up; what says by itself where it leads is refused all the same.
    async fn check_literal(&self, url: &Url) -> Result<(), FetchError> {
        let address = url.host().parse::<IpAddr>().ok().filter(|address| is_inner(*address));
        let name = url.host().strip_suffix('.').unwrap_or(url.host());
        let is_local = name == "localhost" || name.ends_with(".localhost");
        if (address.is_none() && !is_local) || self.is_home(url) || self.is_home_inner().await {
            return Ok(());
        }
        let address = address.map_or("this machine".to_owned(), |address| address.to_string());
        Err(FetchError::Inner { url: url.clone(), host: url.host().to_owned(), address })
    }

    fn is_home(&self, url: &Url) -> bool {
        self.homes.iter().any(|home| home.origin() == url.origin())
    }

    /// Whether a URL that the source itself names is at such an address.
    async fn is_home_inner(&self) -> bool {
        for home in &self.homes {
            if lookup(home).await.is_ok_and(|found| found.iter().any(|address| is_inner(address.ip()))) {
                return true;
            }
        }
        false
    }
}

async fn lookup(url: &Url) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = url.host().parse() {
        return Ok(vec![SocketAddr::new(address, url.port())]);
    }
    let found = tokio::net::lookup_host((url.host(), url.port())).await;
    let found: Vec<_> =
        found.map_err(|error| format!("the host {:?} is not found: {error}", url.host()))?.collect();
    if found.is_empty() {
        return Err(format!("the host {:?} has no address", url.host()));
    }
    Ok(found)
}

async fn dial_any(url: &Url, addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut why = String::new();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => why = format!("cannot connect to {address}: {error}"),
        }
    }
    if why.is_empty() { Err(format!("the host {:?} has no address", url.host())) } else { Err(why) }
}

/// Has a proxy connect to a host (CONNECT, RFC 9110 §9.3.6).
async fn tunnel(mut stream: TcpStream, url: &Url) -> Result<TcpStream, String> {
    let authority = url.authority_with_port();
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // Octet by octet: what comes after the empty line belongs to the host.
    while !answer.ends_with(b"\r\n\r\n") {
        let octet = stream.read_u8().await.map_err(|error| format!("it closed the connection: {error}"))?;
        answer.push(octet);
        if answer.len() > PROXY_ANSWER_BYTES_MAX {
            return Err("its answer has no end".to_owned());
        }
    }
    let line = answer.split(|octet| *octet == b'\r').next().unwrap_or_default();
    let mut words = line.split(|octet| *octet == b' ');
    let is_http = words.next().is_some_and(|word| word.starts_with(b"HTTP/1."));
    if is_http && words.next().is_some_and(|status| status.starts_with(b"2") && status.len() == 3) {
        return Ok(stream);
    }
    Err(format!("it does not connect to {authority}: {}", super::excerpt(line)))
}

/// TLS with the authorities of `ca_file`, or of the system.
fn tls(access: &Access) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match &access.ca_file {
        Some(path) => {
            let read = || format!("cannot read the certificates in {}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots.add(certificate.with_context(read)?).with_context(read)?;
            }
            anyhow::ensure!(!roots.is_empty(), "{} holds no certificate in PEM", path.display());
        }
        None => {
            // Without any, every https upstream fails and says so; sources without TLS need none.
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "a certificate of the system cannot be used");
            }
            roots.add_parsable_certificates(found.certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
