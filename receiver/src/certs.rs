//! The certificates of the gateway's HTTPS: a private authority, server certificates made by it, and the check of
//! whatever the daemon is about to serve with.
//!
//! An air-gapped site seldom has an authority to ask on the first day, so `init` makes one: its key signs nothing but
//! this gateway's server certificates (a path length of 0), which live 397 days, the most that clients accept
//! everywhere. A site that has its own authority gives its own chain and key, and [`load`] holds them to the same
//! rules.
//!
//! rustls takes any certificate whose key fits; that it has expired would be found by the clients only, one by one.
//! So the dates are read here (RFC 5280 §4.1.2.5), and a certificate that no client would take is refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diodesync::pack::PackError;
use diodesync_control::secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use thiserror::Error;

const DAY_S: u64 = 86_400;
/// Life of the authority. Clients are told to trust it by hand, so it outlives the appliance.
const CA_LIFE_S: u64 = 20 * 365 * DAY_S;
/// Life of a server certificate of ours.
const SERVER_LIFE_S: u64 = 397 * DAY_S;
/// How far a certificate's life reaches back, for clients whose clock is behind.
const BACKDATE_S: u64 = 3600;
/// The last second that X.509 can write: 9999-12-31T23:59:59Z.
const TIME_S_MAX: u64 = 253_402_300_799;
/// Names of one server certificate.
const NAMES_MAX: usize = 100;

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
pub enum CertError {
    /// A file cannot be read, or others can read a key.
    #[error(transparent)]
    File(#[from] PackError),
    /// A file holds something else.
    #[error("{path} does not hold {expected} in PEM: {source}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What was found.
        source: pem::Error,
    },
    /// A certificate is not one.
    #[error("{0} is not an X.509 certificate: its validity cannot be read; make the file anew")]
    Malformed(String),
    /// A certificate of the chain is too old.
    #[error(
        "{what} expired at {} and it is {} now; renew it, or set this host's clock",
        utc(*expired_s),
        utc(*now_s)
    )]
    Expired {
        /// Which certificate.
        what: String,
        /// When it expired.
        expired_s: u64,
        /// The time given.
        now_s: u64,
    },
    /// A certificate of the chain is too young.
    #[error(
        "{what} is not valid before {} and it is {} now; set this host's clock, or make the certificate anew",
        utc(*starts_s),
        utc(*now_s)
    )]
    NotYetValid {
        /// Which certificate.
        what: String,
        /// When it becomes valid.
        starts_s: u64,
        /// The time given.
        now_s: u64,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {key} does not belong to the first certificate in {chain}; give the key of the server's \
         certificate, and put that certificate first and its issuers after it",
        key = key.display(),
        chain = chain.display()
    )]
    KeyMismatch {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls takes it not.
    #[error("cannot serve HTTPS with {chain} and {key}: {source}", chain = chain.display(), key = key.display())]
    Tls {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The certificate is not for a name under which clients reach the mirror.
    #[error(
        "the first certificate in {path} is not for {host}, which serve.hosts names: clients that ask for {host} refuse it. \
         Have it in the certificate's subject alternative names, or take it out of serve.hosts; and put the server's \
         certificate first and its issuers after it",
        path = path.display()
    )]
    OtherName {
        /// The chain's file.
        path: PathBuf,
        /// The name.
        host: String,
    },
    /// A name cannot stand in a certificate.
    #[error(
        "{name:?} cannot be a server's name: expected a DNS name like gateway.example.com or an IP address"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Too many names.
    #[error("{found} names for one certificate, the limit is {NAMES_MAX}")]
    Names {
        /// How many.
        found: usize,
    },
    /// The clock says something absurd.
    #[error("it cannot be {now_s} seconds after 1970 now; set this host's clock")]
    Clock {
        /// The time given.
        now_s: u64,
    },
    /// Making a certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The system has no random octets.
    #[error("cannot make a certificate: the system gives no random octets: {0}")]
    Random(getrandom::Error),
}

/// Seconds since 1970 as an operator reads them.
pub fn utc(time_s: u64) -> String {
    i64::try_from(time_s)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| format!("{time_s} s after 1970"), |time| time.to_string())
}

/// A certificate and its private key, both in PEM.
pub struct CertificateAndKey {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key (PKCS #8): write it with mode 0600.
    pub key_pem: String,
}

impl fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAndKey")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Makes a private authority called `name` that can sign server certificates and no further authorities.
///
/// # Errors
/// An absurd `now_s` (seconds since 1970), or no random octets.
pub fn make_ca(name: &str, now_s: u64) -> Result<CertificateAndKey, CertError> {
    let mut params = params(name, now_s, CA_LIFE_S)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(CertificateAndKey { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// Makes a server certificate for `names` (DNS names and IP addresses), and always for this host's own names, so that
/// a health check on the gateway itself works too.
///
/// # Errors
/// A name that cannot stand in a certificate, an authority that cannot be read, an absurd `now_s`.
pub fn make_server_certificate(
    ca: &CertificateAndKey,
    names: &[String],
    now_s: u64,
) -> Result<CertificateAndKey, CertError> {
    if names.len() > NAMES_MAX {
        return Err(CertError::Names { found: names.len() });
    }
    let mut alternatives = Vec::with_capacity(names.len() + 3);
    for name in names {
        alternatives.push(alternative(name)?);
    }
    for own in [
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ] {
        if !alternatives.contains(&own) {
            alternatives.push(own);
        }
    }
    // A chain is worth no more than its authority.
    let ca_left_s = expires_s(&ca.certificate_pem)?.saturating_sub(now_s);
    let common_name = names.first().map_or("localhost", String::as_str);
    // A common name has at most 64 characters (RFC 5280, ub-common-name); clients read the alternatives.
    let common_name = if common_name.len() > 64 { "diode-receiver" } else { common_name };
    let mut params = params(common_name, now_s, SERVER_LIFE_S.min(ca_left_s))?;
    params.subject_alt_names = alternatives;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem, KeyPair::from_pem(&ca.key_pem)?)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(CertificateAndKey { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// A host's name as a certificate holds it.
fn alternative(name: &str) -> Result<SanType, CertError> {
    let refuse = || CertError::Name { name: name.to_owned() };
    if name.ends_with('.') {
        return Err(refuse());
    }
    match ServerName::try_from(name).map_err(|_| refuse())? {
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(address.into())),
        ServerName::DnsName(name) => Ok(SanType::DnsName(name.as_ref().to_ascii_lowercase().try_into()?)),
        _ => Err(refuse()),
    }
}

/// What both kinds of certificate share: the name, the dates, a random serial number.
fn params(common_name: &str, now_s: u64, life_s: u64) -> Result<CertificateParams, CertError> {
    let ends_s =
        now_s.checked_add(life_s).filter(|end| *end <= TIME_S_MAX).ok_or(CertError::Clock { now_s })?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(BACKDATE_S));
    params.not_after = epoch + Duration::from_secs(ends_s);
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(CertError::Random)?;
    // A positive number without leading zeros: 126 random bits.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// A certificate that a server can use.
#[derive(Debug)]
pub struct Loaded {
    /// The settings of the server.
    pub server: ServerConfig,
    /// When the first certificate of the chain to do so expires, seconds since 1970.
    pub expires_s: u64,
    /// A certificate of the chain that is not valid now.
    pub dates: Option<CertError>,
}

/// Makes the settings of an HTTPS server out of a certificate chain (the server's first) and its key, both PEM files;
/// TLS 1.2 and newer, HTTP/1.1. `now_s` is the time in seconds since 1970.
///
/// # Errors
/// A key that others can read or that belongs to another certificate, a certificate for other names than `hosts`, a file
/// that holds something else; each names the file and what to do. Dates are the caller's to judge: see [`Loaded::dates`].
pub fn load(chain_path: &Path, key_path: &Path, hosts: &[String], now_s: u64) -> Result<Loaded, CertError> {
    secret::check(key_path)?;
    let read = |path: &Path| std::fs::read(path).map_err(PackError::io("read", path));
    let pem_error = |path: &Path, expected| {
        let path = path.to_owned();
        move |source| CertError::Pem { path, expected, source }
    };
    let key =
        PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(pem_error(key_path, "a private key"))?;
    let chain = CertificateDer::pem_slice_iter(&read(chain_path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem_error(chain_path, "certificates"))?;
    if chain.is_empty() {
        return Err(pem_error(chain_path, "certificates")(pem::Error::NoItemsFound));
    }
    let (mut expires_s, mut dates) = (u64::MAX, None);
    for (at, certificate) in chain.iter().enumerate() {
        let what = format!("certificate {} in {}", at + 1, chain_path.display());
        let life = Validity::read(certificate).ok_or_else(|| CertError::Malformed(what.clone()))?;
        expires_s = expires_s.min(life.not_after_s);
        if now_s > life.not_after_s {
            dates = dates.or(Some(CertError::Expired { what, expired_s: life.not_after_s, now_s }));
        } else if now_s < life.not_before_s {
            dates = dates.or(Some(CertError::NotYetValid { what, starts_s: life.not_before_s, now_s }));
        }
    }
    check_hosts(&chain, chain_path, hosts)?;
    let tls = |source| match source {
        rustls::Error::InconsistentKeys(_) => {
            CertError::KeyMismatch { chain: chain_path.to_owned(), key: key_path.to_owned() }
        }
        source => CertError::Tls { chain: chain_path.to_owned(), key: key_path.to_owned(), source },
    };
    // The provider is named here, so that it never depends on what another crate installed as the default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { server: config, expires_s, dates })
}

/// The names under which clients reach the mirror must all be in the server's certificate: it is the first of the chain.
fn check_hosts(chain: &[CertificateDer<'_>], path: &Path, hosts: &[String]) -> Result<(), CertError> {
    let Some(first) = chain.first() else { return Ok(()) };
    let malformed = |_| CertError::Malformed(format!("certificate 1 in {}", path.display()));
    let certificate = ParsedCertificate::try_from(first).map_err(malformed)?;
    for host in hosts {
        let name = ServerName::try_from(host.as_str()).map_err(|_| CertError::Name { name: host.clone() })?;
        if verify_server_name(&certificate, &name).is_err() {
            return Err(CertError::OtherName { path: path.to_owned(), host: host.clone() });
        }
    }
    Ok(())
}

/// When the first certificate of a PEM text expires, in seconds since 1970.
///
/// # Errors
/// [`CertError::Malformed`] if it is not a certificate.
pub fn expires_s(certificate_pem: &str) -> Result<u64, CertError> {
    CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .ok()
        .and_then(|certificate| Validity::read(&certificate))
        .map(|life| life.not_after_s)
        .ok_or_else(|| CertError::Malformed("the PEM text".to_owned()))
}

/// When a certificate may be used, in seconds since 1970.
struct Validity {
    not_before_s: u64,
    not_after_s: u64,
}

impl Validity {
    /// Reads it out of a certificate in DER: `SEQUENCE { tbs SEQUENCE { [0] version?, serial, algorithm, issuer,
    /// validity SEQUENCE { notBefore, notAfter } … } … }`.
    fn read(certificate: &[u8]) -> Option<Self> {
        const SEQUENCE: u8 = 0x30;
        const VERSION: u8 = 0xa0;
        let element = |input, tag| der_element(input).filter(|(found, ..)| *found == tag);
        let (_, certificate, _) = element(certificate, SEQUENCE)?;
        let (_, tbs, _) = element(certificate, SEQUENCE)?;
        let (first, _, after_first) = der_element(tbs)?;
        // The version is left out by X.509 version 1.
        let after_serial = if first == VERSION { der_element(after_first)?.2 } else { after_first };
        let (_, _, after_algorithm) = element(after_serial, SEQUENCE)?;
        let (_, _, after_issuer) = element(after_algorithm, SEQUENCE)?;
        let (_, validity, _) = element(after_issuer, SEQUENCE)?;
        let (tag, not_before, rest) = der_element(validity)?;
        let not_before_s = der_time(tag, not_before)?;
        let (tag, not_after, _) = der_element(rest)?;
        Some(Self { not_before_s, not_after_s: der_time(tag, not_after)? })
    }
}

/// Splits the first element off: its tag, its content, what follows it.
fn der_element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |len, octet| len << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// `UTCTime` (`YYMMDDHHMMSSZ`) or `GeneralizedTime` (`YYYYMMDDHHMMSSZ`) as seconds since 1970.
fn der_time(tag: u8, content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        0x17 if text.len() == 12 => {
            let (year, rest) = text.split_at(2);
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        0x18 if text.len() == 14 => {
            let (year, rest) = text.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let mut fields = [0i8; 5];
    for (at, field) in fields.iter_mut().enumerate() {
        *field = rest.get(2 * at..2 * at + 2)?.parse().ok()?;
    }
    let [month, day, hour, minute, second] = fields;
    let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let epoch = jiff::civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    // What was valid before 1970 is valid from the start.
    Some(u64::try_from(time.duration_since(epoch).as_secs()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use diodesync::pack::fact;

    use super::*;
    use crate::serve::testing::TempDir;

    const NOW_S: u64 = 1_795_000_000;

    fn made() -> (CertificateAndKey, CertificateAndKey) {
        let ca = make_ca("Diodesync test", NOW_S).unwrap();
        let names = ["Gateway.Example.com", "10.0.0.7", "fd00::7"].map(str::to_owned);
        let server = make_server_certificate(&ca, &names, NOW_S).unwrap();
        (ca, server)
    }

    fn put(dir: &TempDir, pair: &CertificateAndKey, key_mode: u32) -> (PathBuf, PathBuf) {
        let (chain, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
        fact::write_atomic(&chain, 0o644, &[pair.certificate_pem.as_bytes()]).unwrap();
        fact::write_atomic(&key, key_mode, &[pair.key_pem.as_bytes()]).unwrap();
        (chain, key)
    }

    #[test]
    fn a_server_certificate_lives_397_days_and_its_authority_longer() {
        let (ca, server) = made();
        assert_eq!(expires_s(&server.certificate_pem).unwrap(), NOW_S + 397 * DAY_S);
        assert_eq!(expires_s(&ca.certificate_pem).unwrap(), NOW_S + CA_LIFE_S);
        // Near the authority's end, it ends with the authority.
        let late = make_server_certificate(&ca, &[], NOW_S + CA_LIFE_S - DAY_S).unwrap();
        assert_eq!(expires_s(&late.certificate_pem).unwrap(), NOW_S + CA_LIFE_S);
        assert!(expires_s("nonsense").is_err());
        assert!(matches!(make_ca("x", TIME_S_MAX), Err(CertError::Clock { .. })));
        assert!(!format!("{server:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn names_that_no_client_asks_for_are_refused() {
        let (ca, _) = made();
        for bad in
            ["", "a b", "*.example.com", "https://x", "x:443", "-a", "a..b", "a.", "[::1]", "ä.example"]
        {
            let made = make_server_certificate(&ca, &[bad.to_owned()], NOW_S);
            assert!(matches!(made, Err(CertError::Name { .. })), "{bad:?}");
        }
    }

    #[test]
    fn only_a_fitting_private_valid_pair_is_served_with() {
        let dir = TempDir::new("certs");
        let (ca, server) = made();
        let (chain, key) = put(&dir, &server, 0o600);
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let loaded = load(&chain, &key, &hosts, NOW_S).unwrap();
        assert_eq!(loaded.server.alpn_protocols, [b"http/1.1"]);
        assert_eq!(loaded.expires_s, NOW_S + SERVER_LIFE_S);
        assert!(loaded.dates.is_none());

        let dates = |now_s| load(&chain, &key, &[], now_s).unwrap().dates.unwrap().to_string();
        let error = dates(NOW_S + 398 * DAY_S);
        assert!(error.contains("server.pem expired at 20") && error.contains("renew it"), "{error}");
        let error = dates(NOW_S - DAY_S);
        assert!(error.contains("not valid before") && error.contains("clock"), "{error}");

        let error = load(&chain, &key, &["other.example".to_owned()], NOW_S).unwrap_err().to_string();
        assert!(error.contains("not for other.example") && error.contains("serve.hosts"), "{error}");

        let other = make_server_certificate(&ca, &[], NOW_S).unwrap();
        let (chain, key) = put(
            &dir,
            &CertificateAndKey { certificate_pem: server.certificate_pem.clone(), key_pem: other.key_pem },
            0o600,
        );
        assert!(matches!(load(&chain, &key, &[], NOW_S), Err(CertError::KeyMismatch { .. })));

        let (chain, key) = put(&dir, &server, 0o640);
        let error = load(&chain, &key, &[], NOW_S).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");

        let (chain, key) = put(&dir, &server, 0o600);
        assert!(matches!(load(&key, &key, &[], NOW_S), Err(CertError::Pem { expected: "certificates", .. })));
        let error = load(&chain, &chain, &[], NOW_S).unwrap_err().to_string();
        assert!(error.contains("others can read it"), "{error}");
    }

    #[test]
    fn dates_are_read_in_both_forms() {
        assert_eq!(der_time(0x17, b"700101000000Z"), Some(0));
        assert_eq!(der_time(0x17, b"490101000000Z"), Some(2_493_072_000));
        assert_eq!(der_time(0x18, b"99991231235959Z"), Some(TIME_S_MAX));
        assert_eq!(der_time(0x17, b"500101000000Z"), Some(0));
        for bad in [b"70010100000Z".as_slice(), b"701301000000Z", b"700101000000", b"+00101000000Z", b"Z"] {
            assert_eq!(der_time(0x17, bad), None);
        }
        // No prefix of a certificate is taken for one, and none is read beyond its end.
        let (_, server) = made();
        let der = CertificateDer::from_pem_slice(server.certificate_pem.as_bytes()).unwrap();
        assert!((0..der.len()).all(|len| Validity::read(&der[..len]).is_none()));
    }
}
