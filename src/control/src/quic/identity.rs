//! Who is who: an Ed25519 key on each end, and its pin on the other.
//!
//! TLS 1.3 with raw public keys (RFC 7250): there is no certificate that could expire, name a host or be signed by
//! somebody. A pin is the SHA-256 of the public key as X.509 writes it (SubjectPublicKeyInfo). Neither side ever resumes a
//! session, so that each connection proves both keys, and nothing is taken early (0-RTT).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use diodesync::id::Sha256;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Time after which a connection of which nothing is heard is gone.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// How often who has connected is heard of while it waits.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Octets that may be under way on a connection, and on one stream of it.
const WINDOW_BYTES: u32 = 4 << 20;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// What two ends speak.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// The protocol and its version.
    pub alpn: &'static [u8],
    /// Streams in both directions that who has connected may have open at once; the other end opens none.
    pub bidi_streams_max: u32,
    /// Streams in one direction, the same.
    pub uni_streams_max: u32,
}

/// A public key by its digest: `sha256:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(pub Sha256);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digest = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
        digest.map(Self).ok_or_else(|| {
            format!("expected a pin, sha256: and 64 lower-case hexadecimal digits, found {text:?}")
        })
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

impl Pin {
    /// Of a raw public key, which rustls hands around as if it were a certificate.
    pub fn of(key: &CertificateDer<'_>) -> Self {
        Self(Sha256::of(key.as_ref()))
    }
}

/// A key of ours.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.pin()).finish()
    }
}

impl Identity {
    /// Of the 32 octets of a secret key.
    pub fn of_seed(seed: &[u8; 32]) -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok().context("the key is not taken")?;
        let der = pair.to_pkcs8v1().ok().context("the key cannot be written as PKCS #8")?;
        let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_ref()))?;
        let public = key.public_key().context("the key has no public half")?;
        let public = CertificateDer::from(public.as_ref().to_vec());
        Ok(Self(Arc::new(CertifiedKey::new(vec![public], key))))
    }

    /// What the other side knows it by.
    pub fn pin(&self) -> Pin {
        self.0.cert.first().map_or(Pin(Sha256([0; 32])), Pin::of)
    }

    /// For an endpoint that lets in those who hold one of these keys.
    pub fn server(&self, known: BTreeSet<Pin>, talk: &Talk) -> anyhow::Result<quinn::ServerConfig> {
        let verifier = Arc::new(Known::new(known));
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.0.clone())));
        tls.alpn_protocols = vec![talk.alpn.to_vec()];
        tls.max_early_data_size = 0;
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        let mut transport = transport()?;
        transport.max_concurrent_bidi_streams(VarInt::from_u32(talk.bidi_streams_max));
        transport.max_concurrent_uni_streams(VarInt::from_u32(talk.uni_streams_max));
        config.transport_config(Arc::new(transport));
        // Who has connected stays where it is.
        config.migration(false);
        Ok(config)
    }

    /// For an endpoint that connects to who holds `server`; which key was found instead, once it was another.
    pub fn client(
        &self,
        server: Pin,
        talk: &Talk,
    ) -> anyhow::Result<(quinn::ClientConfig, Arc<Mutex<Option<Pin>>>)> {
        let verifier = Arc::new(Known::new(BTreeSet::from([server])));
        let found = verifier.stranger.clone();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.0.clone())));
        tls.alpn_protocols = vec![talk.alpn.to_vec()];
        tls.enable_early_data = false;
        tls.resumption = Resumption::disabled();
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let mut transport = transport()?;
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        transport.max_concurrent_uni_streams(VarInt::from_u32(0));
        config.transport_config(Arc::new(transport));
        Ok((config, found))
    }
}

fn transport() -> anyhow::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE_MAX)?));
    transport.receive_window(VarInt::from_u32(WINDOW_BYTES));
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
    transport.send_window(u64::from(WINDOW_BYTES));
    transport.datagram_receive_buffer_size(None);
    Ok(transport)
}

/// Takes those whose pins are known, and nobody else.
#[derive(Debug)]
struct Known {
    pins: BTreeSet<Pin>,
    provider: CryptoProvider,
    /// The last that was not.
    stranger: Arc<Mutex<Option<Pin>>>,
}

impl Known {
    fn new(pins: BTreeSet<Pin>) -> Self {
        Self { pins, provider: provider::default_provider(), stranger: Arc::default() }
    }

    fn judge(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let pin = Pin::of(key);
        if self.pins.contains(&pin) {
            return Ok(());
        }
        *self.stranger.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.2 is never spoken over QUIC.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".to_owned()))
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
