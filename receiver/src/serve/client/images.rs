//! Client files for container images: `registries.conf` for podman, skopeo and their kin, `hosts.toml` for containerd.

use std::collections::BTreeSet;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::super::html::Page;
use super::super::images::registry_path;
use super::super::site::Site;
use super::super::{Asked, Gateway, text};

/// Where the client page has containerd look for this gateway's authority.
const CONTAINERD_CA: &str = "/etc/containerd/certs.d/diodesync-ca.pem";

/// The registries that something is published of. A registry's name holds lower-case letters, digits, dots, hyphens
/// and a port: nothing to escape.
fn registries(site: &Site) -> BTreeSet<&str> {
    site.images().repositories().map(|(name, _)| name.registry.as_str()).collect()
}

/// `/client/registries.conf`
pub async fn registries_conf(State(gateway): State<Gateway>, asked: Asked) -> Response {
    let host = gateway.client.host(&asked.headers);
    let mut out = String::from(
        "# For podman, skopeo, buildah and CRI-O: put it into /etc/containers/registries.conf.d/diodesync.conf.\n\
         # Images keep the names that they have outside; this gateway is asked in place of their registries, and the\n\
         # registries themselves never.\n",
    );
    let registries = registries(&asked.site);
    if registries.is_empty() {
        out.push_str("# No image is published yet; fetch this file again when one is.\n");
    }
    for registry in registries {
        let path = registry_path(registry);
        out.push_str(&format!("\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{host}/{path}\"\n"));
    }
    plain(out)
}

/// Of which registry.
#[derive(Debug, Deserialize)]
pub struct Which {
    registry: Option<String>,
}

/// `/client/hosts.toml[?registry=REGISTRY]`
pub async fn hosts_toml(
    State(gateway): State<Gateway>,
    asked: Asked,
    Query(which): Query<Which>,
) -> Response {
    let registries = registries(&asked.site);
    let directory = match which.registry.as_deref() {
        // containerd says whose image it asks for, so one file does for all.
        None => "_default",
        Some(registry) => match registries.get(registry) {
            Some(registry) => registry,
            None => {
                let known: Vec<&str> = registries.into_iter().collect();
                let why = format!("no image of this registry is published; known: {}\n", known.join(", "));
                return text(StatusCode::NOT_FOUND, why);
            }
        },
    };
    let base = gateway.client.base(&asked.headers);
    let mut out = format!(
        "# For containerd: put it into /etc/containerd/certs.d/{directory}/hosts.toml, and have containerd's config.toml\n\
         # say config_path = \"/etc/containerd/certs.d\" for its registries.\n\
         server = \"{base}\"\n\n[host.\"{base}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    if gateway.client.ca_pem.is_some() {
        out.push_str(&format!("  ca = \"{CONTAINERD_CA}\"\n"));
    }
    plain(out)
}

/// Client files name the gateway as this client does.
fn plain(content: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, content).into_response()
}

/// The part of the client page that is about images.
pub fn section(page: &mut Page, site: &Site, base: &str, has_own_ca: bool) {
    let host = base.strip_prefix("https://").unwrap_or(base);
    page.raw("<h2>Container images</h2>\n<p>Images keep their names and digests. For podman, skopeo and buildah, fetch ");
    page.link("/client/registries.conf", "registries.conf").raw(":</p>\n<pre>");
    if has_own_ca {
        page.text(&format!("mkdir -p /etc/containers/certs.d/{host}\n"));
        page.text(&format!("cp gateway-ca.pem /etc/containers/certs.d/{host}/ca.crt\n"));
    }
    page.text(&format!(
        "curl -o /etc/containers/registries.conf.d/diodesync.conf {base}/client/registries.conf\n"
    ));
    let example = site.images().repositories().next().and_then(|(name, repository)| {
        let is_plain = |tag: &&String| !tag.starts_with("sha256-");
        Some((name, repository.tags().keys().find(is_plain)?))
    });
    let (name, tag) = match example {
        Some((name, tag)) => (name.to_string(), tag.as_str()),
        None => ("ghcr.io/coder/coder".to_owned(), "latest"),
    };
    page.text(&format!("podman pull {name}:{tag}"));
    page.raw("</pre>\n<p>For containerd, fetch ").link("/client/hosts.toml", "hosts.toml");
    page.raw(" for all registries, or for one:</p>\n<pre>");
    if has_own_ca {
        page.text(&format!("mkdir -p /etc/containerd/certs.d && cp gateway-ca.pem {CONTAINERD_CA}\n"));
    }
    let registry = name.split('/').next().unwrap_or_default();
    page.text(&format!(
        "mkdir -p /etc/containerd/certs.d/{registry}\n\
         curl -o /etc/containerd/certs.d/{registry}/hosts.toml '{base}/client/hosts.toml?registry={registry}'"
    ));
    page.raw("</pre>\n<p>Docker takes no mirror for other registries than its own; there, pull by the name that an image has \
              at this gateway:</p>\n<pre>");
    if has_own_ca {
        page.text(&format!(
            "mkdir -p /etc/docker/certs.d/{host}\ncp gateway-ca.pem /etc/docker/certs.d/{host}/ca.crt\n"
        ));
    }
    let (registry, repository) = name.split_once('/').unwrap_or((&name, ""));
    page.text(&format!("docker pull {host}/{}/{repository}:{tag}", registry_path(registry)));
    page.raw("</pre>\n");
}
