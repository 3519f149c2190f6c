//! Client files, ready made: the authority's certificate, a `.terraformrc`, what clients of images need, and a page that says what to do with them.
//!
//! URLs in them name the gateway as the client named it. A `Host` header is an attacker's to choose, so it is taken
//! only if it can be nothing but a host and a port; else the configured name stands in.

pub mod images;

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diodesync::id::Sha256;
use diodesync::release::ProviderAddress;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::html::Page;
use super::site::Site;
use super::{Asked, Gateway, not_found, text};

/// What the configuration gives to the clients.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// The certificate of our own authority; none if the site's authority signed the server's certificate.
    pub ca_pem: Option<String>,
    /// `https://HOST[:PORT]` without a slash at its end, for requests whose `Host` header is not one.
    pub base_url: String,
}

impl ClientFiles {
    /// The gateway's URL as this client knows it.
    pub(super) fn base(&self, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        match host.filter(|host| is_authority(host)) {
            Some(host) => format!("https://{host}"),
            None => self.base_url.clone(),
        }
    }

    /// The same without `https://`.
    fn host(&self, headers: &HeaderMap) -> String {
        let base = self.base(headers);
        base.strip_prefix("https://").map(str::to_owned).unwrap_or(base)
    }

    /// The authority's SHA-256 fingerprint, as `openssl x509 -fingerprint -sha256` writes it.
    fn fingerprint(&self) -> Option<String> {
        let certificate = CertificateDer::from_pem_slice(self.ca_pem.as_deref()?.as_bytes()).ok()?;
        Some(Sha256::of(&certificate).0.map(|octet| format!("{octet:02X}")).join(":"))
    }
}

/// Whether a text is `HOST[:PORT]` with a DNS name, an IPv4 address or an IPv6 address in brackets.
fn is_authority(text: &str) -> bool {
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, rest)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        });
    }
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label) && port.is_none_or(is_port)
}

/// `/client/ca.pem`
pub async fn ca_pem(State(gateway): State<Gateway>) -> Response {
    match &gateway.client.ca_pem {
        Some(pem) => ([(header::CONTENT_TYPE, "application/x-pem-file")], pem.clone()).into_response(),
        None => not_found(),
    }
}

/// Which variant of a client file.
#[derive(Debug, Deserialize)]
pub struct Variant {
    via: Option<String>,
}

/// `/client/terraformrc[?via=mirror]`
pub async fn terraformrc(
    State(gateway): State<Gateway>,
    asked: Asked,
    Query(variant): Query<Variant>,
) -> Response {
    let base = gateway.client.base(&asked.headers);
    let content = match variant.via.as_deref() {
        None | Some("registry") => through_registry(&asked.site, &base),
        Some("mirror") => through_mirror(&asked.site, &base),
        Some(_) => return text(StatusCode::BAD_REQUEST, "expected via=registry or via=mirror\n"),
    };
    // It names the gateway as this client does.
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, content).into_response()
}

/// The published providers by the way in which Terraform can take them.
#[derive(Default)]
struct Ways<'a> {
    /// Through the replay of their origin: a version has a proof.
    registry: Vec<&'a ProviderAddress>,
    /// Through the mirror.
    mirror: Vec<&'a ProviderAddress>,
    /// Not at all. Terraform (1.11) makes the URL of a mirror's document out of `HOST:PORT/…`, takes the host for a
    /// scheme and fails, so origins with a port can be replayed and not mirrored.
    none: Vec<&'a ProviderAddress>,
    /// Origins of modules, which have one way only.
    modules: BTreeSet<&'a str>,
}

impl<'a> Ways<'a> {
    fn of(site: &'a Site, prefers_mirror: bool) -> Self {
        let modules = site.modules().keys().map(|address| address.host.as_str()).collect();
        let mut ways = Self { modules, ..Self::default() };
        for (address, versions) in site.providers() {
            let has_proof = versions.values().any(|provider| provider.proof.is_some());
            let is_mirrored = !address.host.contains(':');
            match (has_proof, is_mirrored) {
                (_, true) if prefers_mirror => ways.mirror.push(address),
                (true, _) => ways.registry.push(address),
                (false, true) => ways.mirror.push(address),
                (false, false) => ways.none.push(address),
            }
        }
        ways
    }

    /// A `host` block for each origin that is replayed. A published host name holds lower-case letters, digits, dots,
    /// hyphens and a port: nothing to escape.
    fn put_hosts(&self, out: &mut String, base: &str) {
        let hosts: BTreeSet<&str> = self.registry.iter().map(|address| address.host.as_str()).collect();
        for host in hosts.union(&self.modules) {
            out.push_str(&format!("\nhost \"{host}\" {{\n  services = {{\n"));
            if hosts.contains(host) {
                out.push_str(&format!("    \"providers.v1\" = \"{base}/v1/providers/{host}/\"\n"));
            }
            if self.modules.contains(host) {
                out.push_str(&format!("    \"modules.v1\" = \"{base}/v1/modules/{host}/\"\n"));
            }
            out.push_str("  }\n}\n");
        }
        for address in &self.none {
            out.push_str(&format!(
                "\n# Not for Terraform: {address} came without proof, and Terraform's mirror protocol cannot name an \
                 origin with a port.\n"
            ));
        }
    }
}

/// A list as an argument of a block.
fn argument(name: &str, addresses: &[&ProviderAddress]) -> String {
    let list: String = addresses.iter().map(|address| format!("      \"{address}\",\n")).collect();
    format!("    {name} = [\n{list}    ]\n")
}

/// Each origin that is published is replayed by this gateway; what has no proof comes through the mirror.
fn through_registry(site: &Site, base: &str) -> String {
    let ways = Ways::of(site, false);
    let mut out = String::from(
        "# Terraform asks this gateway in place of the origin registries and checks the origins' own signatures.\n",
    );
    if ways.registry.is_empty() && ways.modules.is_empty() {
        out.push_str("# No provider with a proof is published yet; fetch this file again when one is.\n");
    }
    ways.put_hosts(&mut out, base);
    if !ways.mirror.is_empty() {
        out.push_str(&format!(
            "\n# These were submitted without their origin's signature: only this gateway vouches for them.\n\
             provider_installation {{\n  network_mirror {{\n    url = \"{base}/mirror/\"\n{}  }}\n  direct {{\n{}  }}\n}}\n",
            argument("include", &ways.mirror),
            argument("exclude", &ways.mirror),
        ));
    }
    out
}

/// Without a `direct` block, Terraform never asks an origin; with one, it asks for those only that no mirror can name.
fn through_mirror(site: &Site, base: &str) -> String {
    let ways = Ways::of(site, true);
    let mut out = String::from(
        "# Terraform takes providers from this gateway, by the digests that the gateway checked.\n",
    );
    ways.put_hosts(&mut out, base);
    let (exclude, direct) = if ways.registry.is_empty() {
        (String::new(), String::new())
    } else {
        let direct = format!("  direct {{\n{}  }}\n", argument("include", &ways.registry));
        (argument("exclude", &ways.registry), direct)
    };
    out.push_str(&format!(
        "\nprovider_installation {{\n  network_mirror {{\n    url = \"{base}/mirror/\"\n{exclude}  }}\n{direct}}}\n"
    ));
    out
}

/// `/client/`
pub async fn page(State(gateway): State<Gateway>, asked: Asked) -> Response {
    let base = gateway.client.base(&asked.headers);
    let mut page = Page::new("Set up a client");
    page.raw("<nav>").link("/", "gateway").raw("</nav>\n<h2>Trust this gateway</h2>\n");
    match gateway.client.fingerprint() {
        Some(fingerprint) => {
            page.raw("<p>Fetch ").link("/client/ca.pem", "ca.pem");
            page.raw(
                " and compare its fingerprint with the one that the gateway's operator reads out.</p>\n<pre>",
            );
            page.text(&format!("curl -k -o gateway-ca.pem {base}/client/ca.pem\n"));
            page.raw("openssl x509 -in gateway-ca.pem -noout -fingerprint -sha256</pre>\n");
            page.raw("<p>The gateway that sent this page has <code>").text(&fingerprint);
            page.raw("</code>; until you trust it, believe the operator and not this page.</p>\n");
            page.raw("<p>For the whole machine, as root:</p>\n<pre># Debian, Ubuntu\n");
            page.raw("cp gateway-ca.pem /usr/local/share/ca-certificates/diodesync.crt &amp;&amp; update-ca-certificates\n");
            page.raw(
                "# Red Hat and relatives\ncp gateway-ca.pem /etc/pki/ca-trust/source/anchors/ &amp;&amp; ",
            );
            page.raw("update-ca-trust</pre>\n<p>For one shell only:</p>\n");
            page.raw("<pre>export SSL_CERT_FILE=$PWD/gateway-ca.pem</pre>\n");
        }
        None => {
            page.raw(
                "<p>Its certificate was signed by the site's own authority; nothing to do on machines that ",
            );
            page.raw("trust it.</p>\n");
        }
    }
    page.raw("<h2>Terraform and OpenTofu</h2>\n<p>Fetch ").link("/client/terraformrc", "terraformrc");
    page.raw(": the origin registries as they were, so that the client checks the origins' signatures itself.</p>\n<pre>");
    page.text(&format!("curl -o ~/.terraformrc {base}/client/terraformrc\n"));
    page.raw("terraform init</pre>\n<p>Or take everything from this gateway as a ");
    page.link("/client/terraformrc?via=mirror", "network mirror").raw(", by digest only.</p>\n<pre>");
    page.text(&format!(
        "curl -o ~/.terraformrc '{base}/client/terraformrc?via=mirror'\n\
         terraform providers lock -net-mirror={base}/mirror/ -platform=linux_amd64"
    ));
    page.raw("</pre>\n");
    images::section(&mut page, &asked.site, &base, gateway.client.ca_pem.is_some());
    super::apt::section(&mut page, &asked.site, &base);
    page.raw("<h2>Files</h2>\n<p>").link("/files/", "Browse").raw(", or copy all and check:</p>\n<pre>");
    page.text(&format!(
        "wget -r -np -nH --cut-dirs=1 -R 'index.html*' {base}/files/\n\
         curl -s {base}/files.sha256 | sha256sum -c --quiet"
    ));
    page.raw("</pre>\n");
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_is_a_host_or_nothing() {
        for good in
            ["gw", "gw.example.com:8443", "10.0.0.1", "10.0.0.1:1", "[::1]", "[fd00::1]:443", "GW.Example"]
        {
            assert!(is_authority(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "", "gw:", "gw:0", "gw:65536", "gw:+1", "a b", "gw/x", "gw\"", "gw${x}", "user@gw", "gw:1:2",
            "::1", "[::1", "[::1]x", "[gw]", "gw.", "ä", &long,
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
