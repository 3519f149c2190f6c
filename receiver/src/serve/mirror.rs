//! Terraform's provider network mirror protocol: every published provider, with or without its origin's proof, by the
//! digests that this gateway checked.
//!
//! <https://developer.hashicorp.com/terraform/internals/provider-network-mirror-protocol>
//!
//! Both digests are given: `zh:` is that of the zip and `h1:` that of its content. A client takes any that matches,
//! and its lock file may know either.

use axum::extract::Path;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diodesync::release::Version;
use diodesync::release::index::archive_file_name;
use serde_json::{Map, Value, json};

use super::registry::address;
use super::{Asked, json as respond_json, not_found};

/// `/mirror/HOST/NAMESPACE/TYPE/index.json` and `…/VERSION.json`.
pub async fn provider(asked: Asked, Path(path): Path<String>) -> Response {
    answer(&asked, &path).unwrap_or_else(not_found)
}

fn answer(asked: &Asked, path: &str) -> Option<Response> {
    let parts: Vec<&str> = path.split('/').collect();
    let [host, namespace, kind, file] = parts.as_slice() else { return None };
    let (address, versions) = asked.site.providers().get_key_value(&address(host, namespace, kind)?)?;
    if *file == "index.json" {
        let versions: Map<String, Value> =
            versions.keys().map(|version| (version.to_string(), json!({}))).collect();
        return Some(respond_json(&json!({ "versions": versions })));
    }
    let version: Version = file.strip_suffix(".json")?.parse().ok()?;
    let provider = versions.get(&version)?;
    let archives: Map<String, Value> = provider
        .archives
        .iter()
        .map(|(platform, archive)| {
            let name = archive_file_name(address, &version, platform);
            let hashes = [format!("h1:{}", STANDARD.encode(archive.h1)), format!("zh:{}", archive.blob)];
            // Relative to this document, which lies four directories deep.
            let url = format!("../../../../blobs/{}/{name}", archive.blob);
            (platform.to_string(), json!({ "url": url, "hashes": hashes }))
        })
        .collect();
    Some(respond_json(&json!({ "archives": archives })))
}
