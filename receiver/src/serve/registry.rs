//! The origin registries, replayed: Terraform's provider registry protocol with the sums, signature and keys that the
//! origin gave, so that the client checks inside the gap what it would have checked outside.
//!
//! <https://developer.hashicorp.com/terraform/internals/provider-registry-protocol>
//!
//! One gateway stands in for several origins. A `host` block of the client's configuration sends each origin to a base
//! of its own, `/v1/providers/HOST/`; without the host it is the public registry. A version that came without proof is
//! not offered here, because the client's check could only fail; the [mirror](super::mirror) has it.

use axum::extract::Path;
use axum::response::Response;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::release::index::{Provider, archive_file_name};
use diodesync::release::{Platform, ProviderAddress, Version};
use serde_json::json;

use super::{Asked, blob, failed, json as respond_json, not_found};

/// The origin that a path without a host means.
pub const DEFAULT_HOST: &str = "registry.terraform.io";

/// `/.well-known/terraform.json`
pub async fn discovery() -> Response {
    respond_json(&json!({ "providers.v1": "/v1/providers/", "modules.v1": "/v1/modules/" }))
}

/// `/v1/providers/[HOST/]NAMESPACE/TYPE/versions` and `…/VERSION/download/OS/ARCH`.
pub async fn provider(asked: Asked, Path(path): Path<String>) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [namespace, kind, "versions"] => versions(&asked, DEFAULT_HOST, namespace, kind),
        [host, namespace, kind, "versions"] => versions(&asked, host, namespace, kind),
        [namespace, kind, version, "download", os, arch] => {
            download(&asked, address(DEFAULT_HOST, namespace, kind), version, os, arch).await
        }
        [host, namespace, kind, version, "download", os, arch] => {
            download(&asked, address(host, namespace, kind), version, os, arch).await
        }
        _ => not_found(),
    }
}

/// A provider's address out of a path. Terraform writes them in lower case, other clients not always.
pub fn address(host: &str, namespace: &str, kind: &str) -> Option<ProviderAddress> {
    format!("{host}/{namespace}/{kind}").to_ascii_lowercase().parse().ok()
}

fn versions(asked: &Asked, host: &str, namespace: &str, kind: &str) -> Response {
    let provider = address(host, namespace, kind).and_then(|address| asked.site.providers().get(&address));
    let versions: Vec<_> = provider
        .into_iter()
        .flatten()
        .filter(|(_, provider)| provider.proof.is_some())
        .map(|(version, provider)| {
            let platforms = provider.archives.keys().map(|p| json!({ "os": p.os, "arch": p.arch }));
            json!({
                "version": version.as_str(),
                "protocols": provider.protocols,
                "platforms": platforms.collect::<Vec<_>>(),
            })
        })
        .collect();
    if versions.is_empty() { not_found() } else { respond_json(&json!({ "versions": versions })) }
}

async fn download(
    asked: &Asked,
    address: Option<ProviderAddress>,
    version: &str,
    os: &str,
    arch: &str,
) -> Response {
    let found = || -> Option<(&ProviderAddress, Version, &Provider, Platform)> {
        let (address, versions) = asked.site.providers().get_key_value(address.as_ref()?)?;
        let version: Version = version.parse().ok()?;
        let provider = versions.get(&version)?;
        Some((address, version, provider, format!("{os}_{arch}").parse().ok()?))
    };
    let Some((address, version, provider, platform)) = found() else { return not_found() };
    let (Some(proof), Some(archive)) = (&provider.proof, provider.archives.get(&platform)) else {
        return not_found();
    };
    let mut keys = Vec::new();
    for (key_id, digest) in &proof.keys {
        let armor = match blob::whole(&asked.site, *digest, PROOF_BYTES_MAX).await {
            Ok(armor) => armor,
            Err(response) => return response,
        };
        let Ok(armor) = String::from_utf8(armor) else {
            tracing::error!(%address, %version, key_id, "a signing key is not ASCII-armored text");
            return failed();
        };
        keys.push(json!({ "key_id": key_id, "ascii_armor": armor, "trust_signature": "" }));
    }
    let name = archive_file_name(address, &version, &platform);
    let sums_name = format!("terraform-provider-{}_{version}_SHA256SUMS", address.kind);
    // By digest, so that a publication between this answer and the download changes nothing for the client. URLs are
    // resolved against this one by the client, whatever name it knows the gateway by.
    respond_json(&json!({
        "protocols": provider.protocols,
        "os": platform.os,
        "arch": platform.arch,
        "download_url": format!("/blobs/{}/{name}", archive.blob),
        "filename": name,
        "shasum": archive.blob.to_string(),
        "shasums_url": format!("/blobs/{}/{sums_name}", proof.sums),
        "shasums_signature_url": format!("/blobs/{}/{sums_name}.sig", proof.signature),
        "signing_keys": { "gpg_public_keys": keys },
    }))
}
