//! One connection to a registry: TLS, HTTP/1.1, credentials, and the bounds on everything that comes back.
//!
//! | bound | what it stops |
//! |---|---|
//! | [`CONNECT_MAX`] | a host that takes the connection and says nothing |
//! | [`ANSWER_MAX`], [`FINISH_MAX`] | an answer that does not come |
//! | [`HEADER_BYTES_MAX`] | an answer that is all header |
//! | [`BODY_BYTES_MAX`] | a body that does not end |

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync_control::secret;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::RegistryHost;
use super::challenge::{Challenge, query};
use super::error::{PushError, retry_after, said};
use crate::mirror::config::OciConfig;
use crate::serve::{BlobBody, Site};

/// Time for a connection, TLS and all.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Time for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Time for an answer to what has to be written, or hashed, over there.
const FINISH_MAX: Duration = Duration::from_secs(600);
/// Octets of an answer's header.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Octets of an answer's body: that of a manifest.
const BODY_BYTES_MAX: usize = MANIFEST_BYTES_MAX as usize;
/// Octets of a file with a credential.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;
/// Time by which a token is renewed before its end.
const TOKEN_MARGIN: Duration = Duration::from_secs(20);
/// How long a token lives that does not say it (the token specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What is sent.
#[derive(Clone)]
pub enum Payload {
    /// Nothing.
    Nothing,
    /// Octets of a media type.
    Octets(Bytes, String),
    /// A part of a blob.
    Blob(Arc<Site>, Sha256, Range<u64>),
}

/// A request.
#[derive(Clone)]
pub struct Ask {
    /// For people: what is being done.
    pub what: String,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// What a token has to allow, `repository:NAME:pull,push`, and more of these.
    pub scopes: Vec<String>,
    /// Media types that are taken.
    pub accept: Option<&'static str>,
    /// What is sent.
    pub payload: Payload,
    /// Whether it may take long over there.
    pub is_slow: bool,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A field of the header, as text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A registry.
pub struct Http {
    host: RegistryHost,
    tls: TlsConnector,
    /// What goes with requests in place of nothing: user and password as RFC 7617 writes them.
    basic: Option<HeaderValue>,
    /// How an error names them.
    given: String,
    challenge: Option<Challenge>,
    tokens: HashMap<Vec<String>, (HeaderValue, Instant)>,
    connection: Option<SendRequest<Body>>,
}

impl Http {
    /// A client as configured. Files are read anew, so that replaced ones need no restart.
    pub fn open(config: &OciConfig) -> Result<Self, PushError> {
        let here = |error: anyhow::Error| PushError::Here(format!("{error:#}"));
        let (basic, given) = match &config.user {
            Some((user, password)) => {
                let given = format!("the user and password of {} and {}", user.display(), password.display());
                (Some(credentials(user, password).map_err(here)?), given)
            }
            None => (None, "a request without credentials".to_owned()),
        };
        let tls = TlsConnector::from(Arc::new(client_config(config).map_err(here)?));
        let (host, tokens) = (config.registry.clone(), HashMap::new());
        Ok(Self { host, tls, basic, given, challenge: None, tokens, connection: None })
    }

    /// Asks, with whatever credentials are asked for, and takes the answer whole.
    ///
    /// # Errors
    /// If there is none, or it is 401, 403, 429 or of the 5xx. Every other status is for the caller to judge.
    pub async fn ask(&mut self, ask: Ask) -> Result<Answer, PushError> {
        let mut answer = self.ask_once(&ask).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            let header = answer.field("www-authenticate").unwrap_or_default();
            let challenge = Challenge::parse(header).map_err(|why| {
                self.nonsense(&ask.what, format!("asks for credentials in a way that is not known: {why}"))
            })?;
            // With another challenge, or a token that was not taken any more, there may be a way in.
            let is_new =
                self.challenge.as_ref() != Some(&challenge) || self.tokens.remove(&ask.scopes).is_some();
            self.challenge = Some(challenge);
            if is_new && (self.basic.is_some() || matches!(self.challenge, Some(Challenge::Bearer { .. }))) {
                answer = self.ask_once(&ask).await?;
            }
        }
        self.judge(&ask.what, answer)
    }

    fn judge(&self, what: &str, answer: Answer) -> Result<Answer, PushError> {
        let (what, host, status) = (what.to_owned(), self.host.to_string(), answer.status.as_u16());
        match status {
            401 | 403 => {
                let hint = match (status, &self.basic) {
                    (401, None) => "give user_file and password_file",
                    (401, Some(_)) => "look whether they are right",
                    _ => "look whether that user may push there, and whether the project exists",
                };
                Err(PushError::Refused {
                    what,
                    host,
                    given: self.given.clone(),
                    status,
                    said: said(&answer.body),
                    hint,
                })
            }
            429 | 500.. => Err(PushError::Status {
                what,
                host,
                status,
                expected: "success",
                said: said(&answer.body),
                retry_after: retry_after(answer.field("retry-after")),
            }),
            _ => Ok(answer),
        }
    }

    /// An answer that makes no sense.
    pub fn nonsense(&self, what: &str, why: impl Into<String>) -> PushError {
        PushError::Nonsense { what: what.to_owned(), host: self.host.to_string(), why: why.into() }
    }

    /// An answer with another status than expected.
    pub fn unexpected(&self, what: &str, answer: &Answer, expected: &'static str) -> PushError {
        let (what, host, status) = (what.to_owned(), self.host.to_string(), answer.status.as_u16());
        PushError::Status { what, host, status, expected, said: said(&answer.body), retry_after: None }
    }

    async fn ask_once(&mut self, ask: &Ask) -> Result<Answer, PushError> {
        let authorization = self.authorization(&ask.scopes).await?;
        let is_kept = self.connection.as_ref().is_some_and(|connection| !connection.is_closed());
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect(&self.host.clone()).await?,
        };
        let mut sent = self.exchange(&mut connection, ask, authorization.as_ref()).await;
        // A connection that was kept may have been closed over there just now; what is small is sent again.
        if is_kept
            && matches!(sent, Err(PushError::Broken { .. }))
            && !matches!(ask.payload, Payload::Blob(..))
        {
            connection = self.connect(&self.host.clone()).await?;
            sent = self.exchange(&mut connection, ask, authorization.as_ref()).await;
        }
        if sent.is_ok() {
            self.connection = Some(connection);
        }
        sent
    }

    async fn exchange(
        &self,
        connection: &mut SendRequest<Body>,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, PushError> {
        let host = self.host.to_string();
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(&ask.target)
            .header(header::HOST, &host)
            .header(header::USER_AGENT, concat!("diode-receiver/", env!("CARGO_PKG_VERSION")));
        if let Some(accept) = ask.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match &ask.payload {
            Payload::Nothing => {
                if ask.method != Method::GET && ask.method != Method::HEAD {
                    request = request.header(header::CONTENT_LENGTH, 0);
                }
                Body::empty()
            }
            Payload::Octets(octets, media_type) => {
                request = request.header(header::CONTENT_TYPE, media_type);
                Body::from(octets.clone())
            }
            Payload::Blob(site, digest, range) => {
                request = request.header(header::CONTENT_TYPE, "application/octet-stream");
                if ask.method == Method::PATCH {
                    let last = range.end.saturating_sub(1);
                    request = request.header(header::CONTENT_RANGE, format!("{}-{last}", range.start));
                }
                request = request.header(header::CONTENT_LENGTH, range.end.saturating_sub(range.start));
                Body::new(BlobBody::new(site.clone(), *digest, range.clone()))
            }
        };
        let request =
            request.body(body).map_err(|error| PushError::Here(format!("{}: {error}", ask.what)))?;
        let limit = if ask.is_slow { FINISH_MAX } else { ANSWER_MAX };
        timeout(limit, exchange(connection, request)).await.map_or_else(
            |_| Err(PushError::Slow { what: ask.what.clone(), host: host.clone(), limit }),
            |done| done.map_err(|why| PushError::Broken { what: ask.what.clone(), host: host.clone(), why }),
        )
    }

    async fn connect(&self, host: &RegistryHost) -> Result<SendRequest<Body>, PushError> {
        let fail = |why: String| PushError::Connect { host: host.to_string(), why };
        let connect = async {
            let stream = TcpStream::connect((host.host.as_str(), host.port))
                .await
                .map_err(|error| fail(error.to_string()))?;
            let _ = stream.set_nodelay(true);
            let name = ServerName::try_from(host.host.clone()).map_err(|error| fail(error.to_string()))?;
            let stream = self.tls.connect(name, stream).await.map_err(|error| {
                let why = error.to_string();
                match why.contains("certificate") {
                    true => PushError::Certificate { host: host.to_string(), why },
                    false => fail(format!("TLS: {why}")),
                }
            })?;
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEADER_BYTES_MAX);
            let (sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|error| fail(error.to_string()))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a registry's connection ended");
                }
            });
            Ok(sender)
        };
        match timeout(CONNECT_MAX, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(fail(format!("no connection within {} s", CONNECT_MAX.as_secs()))),
        }
    }

    async fn authorization(&mut self, scopes: &[String]) -> Result<Option<HeaderValue>, PushError> {
        match self.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.basic.clone()),
            Some(Challenge::Bearer { realm, service }) => {
                if let Some((token, end)) = self.tokens.get(scopes)
                    && Instant::now() < *end
                {
                    return Ok(Some(token.clone()));
                }
                let (token, life) = self.token(&realm, &service, scopes).await?;
                let end = Instant::now() + life.saturating_sub(TOKEN_MARGIN).max(Duration::from_secs(5));
                self.tokens.insert(scopes.to_vec(), (token.clone(), end));
                Ok(Some(token))
            }
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: &str,
        scopes: &[String],
    ) -> Result<(HeaderValue, Duration), PushError> {
        let what = "asking for a token";
        let bad =
            || self.nonsense(what, format!("names {realm:?} as its token service, which is no address"));
        let rest = realm.strip_prefix("https://").ok_or_else(bad)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host: RegistryHost = authority.parse().map_err(|_| bad())?;
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut target = format!("/{path}{separator}service={}", query(service));
        scopes.iter().for_each(|scope| target.push_str(&format!("&scope={}", query(scope))));
        let mut request = Request::builder().uri(&target).header(header::HOST, host.to_string());
        if let Some(basic) = &self.basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        let request = request.body(Body::empty()).map_err(|_| bad())?;
        let mut connection = self.connect(&host).await?;
        let (what_owned, host_text) = (what.to_owned(), host.to_string());
        let answer = match timeout(ANSWER_MAX, exchange(&mut connection, request)).await {
            Ok(done) => done.map_err(|why| PushError::Broken { what: what_owned, host: host_text, why })?,
            Err(_) => return Err(PushError::Slow { what: what_owned, host: host_text, limit: ANSWER_MAX }),
        };
        let answer = self.judge(what, answer)?;
        if answer.status != StatusCode::OK {
            return Err(self.unexpected(what, &answer, "200"));
        }
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token =
            value.get("token").or_else(|| value.get("access_token")).and_then(serde_json::Value::as_str);
        let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let mut header =
            header.ok_or_else(|| self.nonsense(what, "gives no token that a request can carry"))?;
        header.set_sensitive(true);
        let life = value.get("expires_in").and_then(serde_json::Value::as_u64).map(Duration::from_secs);
        Ok((header, life.unwrap_or(TOKEN_LIFE).min(Duration::from_secs(86_400))))
    }
}

async fn exchange(connection: &mut SendRequest<Body>, request: Request<Body>) -> Result<Answer, String> {
    let chain = |error: hyper::Error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    };
    connection.ready().await.map_err(chain)?;
    let (parts, body) = connection.send_request(request).await.map_err(chain)?.into_parts();
    let collected = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = collected.map_err(|error| format!("its answer's body: {error}"))?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

fn credentials(user: &PathBuf, password: &PathBuf) -> anyhow::Result<HeaderValue> {
    let read = |path: &PathBuf| -> anyhow::Result<String> {
        let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        anyhow::ensure!(
            bytes <= CREDENTIAL_BYTES_MAX,
            "{} has {bytes} octets, expected at most {CREDENTIAL_BYTES_MAX}",
            path.display()
        );
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    };
    secret::check(password)?;
    let pair = STANDARD.encode(format!("{}:{}", read(user)?, read(password)?));
    let mut value = HeaderValue::try_from(format!("Basic {pair}"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn client_config(config: &OciConfig) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
    let path = config.ca_file.clone().or_else(system).context(
        "this host has no list of authorities that it trusts; give that of the registry's certificate as ca_file",
    )?;
    let certificates =
        CertificateDer::pem_file_iter(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("{} is not PEM", path.display()))?;
        let added = roots.add(certificate);
        // Of a system's list some may be of kinds that are not known here.
        if config.ca_file.is_some() {
            added.with_context(|| format!("{} holds what is no authority's certificate", path.display()))?;
        }
    }
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificate", path.display());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
