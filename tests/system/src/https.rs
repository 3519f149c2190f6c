//! A small HTTPS client: GET, over one kept connection, trusting exactly the CA it was given. The tests and the demo
//! need no `curl` this way, and the connection can be made from inside a network namespace.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long one answer may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// What [`Https::get`] takes into memory at most.
const BODY_BYTES_MAX: usize = 64 << 20;

/// An answer that was taken whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The Content-Type, empty when there is none.
    pub content_type: String,
    /// The Location, empty when there is none.
    pub location: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the body is not UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("the body is not JSON")
    }
}

/// One server, known by its CA.
pub struct Https {
    runtime: Runtime,
    tls: TlsConnector,
    name: String,
    address: SocketAddr,
    namespace: Option<String>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Https({} at {})", self.name, self.address)
    }
}

impl Https {
    /// A client for the server on this machine's loopback at `port`, which must have a certificate for `localhost`
    /// from the CA in the PEM file `ca`. With a `namespace`, connections are made inside it.
    pub fn new(ca: &Path, port: u16, namespace: Option<&str>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {}", ca.display()))?
        {
            roots.add(certificate.with_context(|| format!("{} is not PEM", ca.display()))?)?;
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            tls: TlsConnector::from(Arc::new(config)),
            name: "localhost".to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            namespace: namespace.map(str::to_owned),
            connection: None,
        })
    }

    /// `https://localhost:PORT`.
    pub fn origin(&self) -> String {
        format!("https://{}:{}", self.name, self.address.port())
    }

    /// GETs a path (percent-encoded, with its leading slash) or an absolute URL of this server.
    pub fn get(&mut self, target: &str) -> Result<Answer> {
        let mut body = Vec::new();
        let (parts, ()) = self.fetch(target, |chunk| {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                bail!("the body is longer than {BODY_BYTES_MAX} octets");
            }
            body.extend_from_slice(chunk);
            Ok(())
        })?;
        let header = |name: &str| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        Ok(Answer {
            status: parts.status.as_u16(),
            content_type: header("content-type"),
            location: header("location"),
            body,
        })
    }

    /// GETs something that must be there.
    pub fn get_ok(&mut self, target: &str) -> Result<Answer> {
        let answer = self.get(target)?;
        if answer.status != 200 {
            bail!("GET {target}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim());
        }
        Ok(answer)
    }

    /// GETs something that must be there, of any size; its SHA-256 in hexadecimal and its length.
    pub fn digest(&mut self, target: &str) -> Result<(String, u64)> {
        let mut hash = Sha256::new();
        let mut length = 0;
        let (parts, ()) = self.fetch(target, |chunk| {
            hash.update(chunk);
            length += chunk.len() as u64;
            Ok(())
        })?;
        if parts.status != StatusCode::OK {
            bail!("GET {target}: {}", parts.status);
        }
        Ok((crate::tree::hex(&hash.finalize()), length))
    }

    fn fetch(
        &mut self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(hyper::http::response::Parts, ())> {
        let path = self.path_of(target)?;
        let response = self.request(&path).with_context(|| format!("GET {}{path}", self.origin()))?;
        let (parts, mut body) = response.into_parts();
        self.runtime.block_on(async {
            while let Some(frame) =
                tokio::time::timeout(TIME_MAX, body.frame()).await.context("the body stalls")?
            {
                if let Ok(chunk) = frame.with_context(|| format!("the body of {path} broke off"))?.into_data()
                {
                    take(&chunk)?;
                }
            }
            anyhow::Ok(())
        })?;
        Ok((parts, ()))
    }

    fn path_of(&self, target: &str) -> Result<String> {
        if target.starts_with('/') {
            return Ok(target.to_owned());
        }
        match target.strip_prefix(&self.origin()) {
            Some(path) if path.starts_with('/') => Ok(path.to_owned()),
            _ => bail!("{target} is not on {}", self.origin()),
        }
    }

    /// Asks on the kept connection, and once more on a fresh one when the server had closed it.
    fn request(&mut self, path: &str) -> Result<Response<Incoming>> {
        let kept = self.connection.take();
        let was_kept = kept.is_some();
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect()?,
        };
        match self.ask(connection, path) {
            Err(_) if was_kept => {
                let connection = self.connect()?;
                self.ask(connection, path)
            }
            answer => answer,
        }
    }

    fn ask(&mut self, mut connection: SendRequest<Empty<Bytes>>, path: &str) -> Result<Response<Incoming>> {
        let host = format!("{}:{}", self.name, self.address.port());
        let request = Request::get(path).header("host", host).body(Empty::new())?;
        let response = self.runtime.block_on(async {
            connection.ready().await?;
            tokio::time::timeout(TIME_MAX, connection.send_request(request)).await?.context("no answer")
        })?;
        self.connection = Some(connection);
        Ok(response)
    }

    fn connect(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let address = self.address;
        let dial =
            move || TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"));
        let stream = match &self.namespace {
            Some(namespace) => crate::netns::enter(namespace, dial)?,
            None => dial()?,
        };
        stream.set_nonblocking(true)?;
        self.runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let name = ServerName::try_from(self.name.clone())?;
            let stream = self.tls.connect(name, stream).await.context("the TLS handshake failed")?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(sender)
        })
    }
}

/// Percent-encodes a relative path for a URL; the slashes stay.
pub fn encode_path(path: &str) -> String {
    use std::fmt::Write as _;
    let mut url = String::with_capacity(path.len());
    for octet in path.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(octet.into())
            }
            _ => {
                let _ = write!(url, "%{octet:02X}");
            }
        }
    }
    url
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_are_encoded() {
        assert_eq!(super::encode_path("a b/ä#?%+~.txt"), "a%20b/%C3%A4%23%3F%25%2B~.txt");
    }
}
