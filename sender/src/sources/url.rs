//! URLs as sources need them: http and https, absolute, without credentials in them, and joined as RFC 3986 §5.2 says.
//!
//! What an upstream names (a download, a redirect) is parsed here before anything else looks at it, so a scheme that
//! reads files cannot get further than this.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// Octets of the longest URL.
const URL_BYTES_MAX: usize = 8192;

/// An absolute `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    is_tls: bool,
    /// A name in lower case, or an address; IPv6 without its brackets.
    host: String,
    port: u16,
    /// Path and query; begins with a slash.
    target: String,
}

/// Why a text is no URL that a source may use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{found:?} is no URL that can be used here: {why}")]
pub struct UrlError {
    found: String,
    why: &'static str,
}

/// A query may hold a signature that gives access, and what stands before `@` a password.
fn without_secrets(text: &str) -> &str {
    let text = text.split('?').next().unwrap_or_default();
    let authority_end = text.find("://").and_then(|at| text.get(at + 3..)?.find('/').map(|end| at + 3 + end));
    let secret_end =
        text.get(..authority_end.unwrap_or(text.len())).and_then(|authority| authority.rfind('@'));
    secret_end.and_then(|at| text.get(at + 1..)).unwrap_or(text)
}

impl Url {
    /// Reads an absolute URL. A fragment is left out.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let no = |why| UrlError { found: without_secrets(text).chars().take(200).collect(), why };
        if text.len() > URL_BYTES_MAX {
            return Err(no("it is longer than 8192 octets"));
        }
        if text.chars().any(|c| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(c)) {
            return Err(no("it holds a character that must be percent-encoded"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| no("expected https://HOST/… or http://HOST/…"))?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(no("only https and http are fetched")),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(no(
                "it holds a user or a password; give them by file, with user_file and password_file",
            ));
        }
        let (host, port) = split_authority(authority).ok_or_else(|| no("its host or port cannot be read"))?;
        let port = match port {
            "" if is_tls => 443,
            "" => 80,
            digits => digits.parse().ok().filter(|port| *port > 0).ok_or_else(|| no("its port is none"))?,
        };
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), port, target })
    }

    /// What a reference means that was found at this URL: `https://…`, `//host/…`, `/path`, `./path`, `path` or `?query`.
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let scheme_end = reference.find([':', '/', '?', '#']).filter(|at| reference[*at..].starts_with(':'));
        if scheme_end.is_some() {
            return Self::parse(reference);
        }
        let scheme = if self.is_tls { "https" } else { "http" };
        if reference.starts_with("//") {
            return Self::parse(&format!("{scheme}:{reference}"));
        }
        let (path, _) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let reference = reference.split_once('#').map_or(reference, |(before, _)| before);
        let joined = match reference {
            "" => self.target.clone(),
            query if query.starts_with('?') => format!("{path}{query}"),
            absolute if absolute.starts_with('/') => without_dots(absolute),
            relative => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                without_dots(&format!("{folder}/{relative}"))
            }
        };
        Self::parse(&format!("{}{joined}", self.origin()))
    }

    /// The same path and query at another origin.
    pub fn at(&self, origin: &Self) -> Self {
        Self { target: self.target.clone(), ..origin.clone() }
    }

    /// Whether it is fetched over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The host's name or address, as it is looked up and certified.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as a request names them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The last component of the path: what a file is called.
    pub fn file_name(&self) -> &str {
        let path = self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path);
        path.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// `HOST` or `HOST:PORT`, as the Host field of a request says it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// `HOST:PORT`, the port always given.
    pub fn authority_with_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme and authority: what credentials are for.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Display for Url {
    /// Without its query, which may hold a signature that gives access.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target.split_once('?') {
            Some((path, _)) => write!(f, "{}{path}?…", self.origin()),
            None => write!(f, "{}{}", self.origin(), self.target),
        }
    }
}

impl std::str::FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

/// Host and port of an authority; the port is empty if it is not given.
fn split_authority(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return Some((host, if port.is_empty() { port } else { port.strip_prefix(':')? }));
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    (host.len() <= 253 && name.split('.').all(is_label) && port.bytes().all(|octet| octet.is_ascii_digit()))
        .then_some((host, port))
}

/// RFC 3986 §5.2.4 for a path that begins with a slash; a query stays as it is.
fn without_dots(target: &str) -> String {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut components = path.split('/').skip(1).peekable();
    while let Some(component) = components.next() {
        let is_last = components.peek().is_none();
        match component {
            "." if is_last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if is_last {
                    kept.push("");
                }
            }
            name => kept.push(name),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Whether an address is this machine's, or one that is never routed: where an upstream must not lead.
pub fn is_inner(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, written) in [
            ("https://registry.example", "https://registry.example/"),
            ("HTTPS://Registry.Example:443/a/b?c=d#e", "https://registry.example/a/b?…"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("http://127.0.0.1:80", "http://127.0.0.1/"),
            ("https://h?q", "https://h/?…"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), written, "{text}");
        }
        assert_eq!(Url::parse("https://h/a?b=c").unwrap().target(), "/a?b=c");
        assert_eq!(Url::parse("https://h/a/b.zip?c").unwrap().file_name(), "b.zip");
        for bad in [
            "",
            "/a",
            "h/a",
            "file:///etc/passwd",
            "ftp://h/a",
            "https://",
            "https:///a",
            "https://u:p@h/a",
            "https://h:0/",
            "https://h:99999/",
            "https://h:a/",
            "https://h /",
            "https://h/ä",
            "https://h/a b",
            "https://[::g]/",
            "https://[::1]x/",
            "https://h..x/",
            "javascript:alert(1)",
            "https://h/\r\nHost: x",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Url::parse(&format!("https://h/{}", "a".repeat(URL_BYTES_MAX))).is_err());
    }

    /// The examples of RFC 3986 §5.4 that http can have.
    #[test]
    fn references_are_joined_as_the_rfc_says() {
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, expected) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p?y"),
            ("g?y", "/b/c/g?y"),
            ("#s", "/b/c/d;p?q"),
            ("g#s", "/b/c/g"),
            (";x", "/b/c/;x"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../g", "/g"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            ("..g", "/b/c/..g"),
            ("./../g", "/b/g"),
            ("./g/.", "/b/c/g/"),
            ("g/./h", "/b/c/g/h"),
            ("g/../h", "/b/c/h"),
            ("g?y/../x", "/b/c/g?y/../x"),
        ] {
            let joined = base.join(reference).unwrap();
            assert_eq!((joined.origin().as_str(), joined.target()), ("http://a", expected), "{reference}");
        }
        assert_eq!(base.join("//g").unwrap().origin(), "http://g");
        assert_eq!(base.join("https://g/x").unwrap().origin(), "https://g");
        for bad in ["file:///etc/passwd", "g:h", "mailto:x", "//"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn inner_addresses_are_told_however_they_are_written() {
        for inner in [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_inner(inner.parse().unwrap()), "{inner}");
        }
        for outer in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1", "8.8.8.8"] {
            assert!(!is_inner(outer.parse().unwrap()), "{outer}");
        }
    }
}
