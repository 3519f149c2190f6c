//! A webhook: POST over HTTP or TLS, one connection for each event.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Config, url_of};
use crate::secret;

/// Time for all of it.
const POST_MAX: Duration = Duration::from_secs(30);
/// Octets of a token.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Where events are posted. Files are read anew each time, so that replaced ones need no restart.
#[derive(Debug, Clone)]
pub struct Post {
    url: Uri,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Post {
    /// As configured.
    pub(super) fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.webhook else { return Ok(None) };
        let (token_file, ca_file) = (config.token_file.clone(), config.ca_file.clone());
        Ok(Some(Self { url: url_of(url)?, token_file, ca_file }))
    }

    /// Posts a body and waits for the answer. Blocks the thread.
    ///
    /// # Errors
    /// If the answer is not 2xx, or there is none.
    pub(super) fn send(&self, body: Vec<u8>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Its timer is one of the runtime.
        let done = runtime.block_on(async { tokio::time::timeout(POST_MAX, self.post(body)).await });
        runtime.shutdown_background();
        let host = self.url.authority().map_or("", |authority| authority.as_str());
        match done {
            Ok(sent) => sent.with_context(|| format!("POST to {host}")),
            Err(_) => bail!("POST to {host}: no answer within {} s", POST_MAX.as_secs()),
        }
    }

    async fn post(&self, body: Vec<u8>) -> anyhow::Result<()> {
        let is_tls = self.url.scheme_str() == Some("https");
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.context("cannot connect")?;
        if !is_tls {
            return self.exchange(stream, body).await;
        }
        let name = ServerName::try_from(host.to_owned()).context("no name that a certificate can have")?;
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        self.exchange(tls.connect(name, stream).await.context("TLS")?, body).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Vec<u8>,
    ) -> anyhow::Result<()> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::post(target)
            .header("host", self.url.authority().map_or("", |authority| authority.as_str()))
            .header("user-agent", concat!("diodesync/", env!("CARGO_PKG_VERSION")))
            .header("content-type", "application/json");
        if let Some(token) = self.token()? {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        connection.abort();
        ensure!(answer.status().is_success(), "the server answers {}, expected 2xx", answer.status());
        Ok(())
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        secret::check(path)?;
        let read = || format!("cannot read {}", path.display());
        let bytes = std::fs::metadata(path).with_context(read)?.len();
        ensure!(bytes <= TOKEN_BYTES_MAX, "{} has {bytes} octets, a token has fewer", path.display());
        Ok(Some(std::fs::read_to_string(path).with_context(read)?.trim().to_owned()))
    }

    fn tls(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
        let path = self.ca_file.clone().or_else(system).context(
            "this host has no list of authorities that it trusts; give that of the webhook's certificate as ca_file",
        )?;
        let certificates = CertificateDer::pem_file_iter(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        for certificate in certificates {
            let added = roots.add(certificate.with_context(|| format!("{} is not PEM", path.display()))?);
            // Of a system's list some may be of kinds that are not known here.
            if self.ca_file.is_some() {
                added.with_context(|| {
                    format!("{} holds what is no authority's certificate", path.display())
                })?;
            }
        }
        ensure!(!roots.is_empty(), "{} holds no certificate", path.display());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}
