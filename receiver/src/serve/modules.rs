//! Terraform's module registry protocol, for the modules of all origins.
//!
//! <https://developer.hashicorp.com/terraform/internals/module-registry-protocol>
//!
//! As with providers, a `host` block of the client's configuration sends each origin to a base of its own,
//! `/v1/modules/HOST/`, so that templates keep their sources; without the host it is the public registry. An answer names
//! the archive by its digest, with the folder in it after two slashes, as Terraform's own installer reads it.

use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use diodesync::release::index::Module;
use diodesync::release::{ModuleAddress, Version};
use serde_json::json;

use super::registry::DEFAULT_HOST;
use super::{Asked, json as respond_json, not_found};

const GET: HeaderName = HeaderName::from_static("x-terraform-get");

/// `/v1/modules/[HOST/]NAMESPACE/NAME/SYSTEM/versions` and `…/VERSION/download`.
pub async fn module(asked: Asked, Path(path): Path<String>) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [namespace, name, system, "versions"] => versions(&asked, DEFAULT_HOST, namespace, name, system),
        [host, namespace, name, system, "versions"] => versions(&asked, host, namespace, name, system),
        [namespace, name, system, version, "download"] => {
            download(&asked, address(DEFAULT_HOST, namespace, name, system), version)
        }
        [host, namespace, name, system, version, "download"] => {
            download(&asked, address(host, namespace, name, system), version)
        }
        _ => not_found(),
    }
}

/// A module's address out of a path. Registries do not tell cases apart, and clients write them as they like.
fn address(host: &str, namespace: &str, name: &str, system: &str) -> Option<ModuleAddress> {
    format!("{host}/{namespace}/{name}/{system}").to_ascii_lowercase().parse().ok()
}

fn versions(asked: &Asked, host: &str, namespace: &str, name: &str, system: &str) -> Response {
    let found = address(host, namespace, name, system).and_then(|address| asked.site.modules().get(&address));
    let Some(found) = found else { return not_found() };
    let versions: Vec<_> = found.keys().map(|version| json!({ "version": version.as_str() })).collect();
    respond_json(&json!({ "modules": [{ "versions": versions }] }))
}

fn download(asked: &Asked, address: Option<ModuleAddress>, version: &str) -> Response {
    let found = || -> Option<(ModuleAddress, Version, &Module)> {
        let (address, version): (_, Version) = (address?, version.parse().ok()?);
        let module = asked.site.modules().get(&address)?.get(&version)?;
        Some((address, version, module))
    };
    let Some((address, version, module)) = found() else { return not_found() };
    let name = format!("{}-{}-{version}.{}", address.name, address.system, module.format.extension());
    let folder = match module.folder.as_str() {
        "" => String::new(),
        folder => format!("//{folder}"),
    };
    // A build part would be an encoded space to some.
    let location = format!("/blobs/{}/{}{folder}", module.archive, name.replace('+', "_"));
    match HeaderValue::from_str(&location) {
        Ok(location) => (StatusCode::NO_CONTENT, [(GET, location)]).into_response(),
        Err(_) => not_found(),
    }
}
