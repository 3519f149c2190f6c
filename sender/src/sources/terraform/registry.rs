//! What a registry says: discovery, versions, and where the parts of one are.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::{PROOF_BYTES_MAX, PROVIDER_PARTS_MAX};
use diodesync::release::name::{Platform, ProviderAddress, Version};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Deserialize;

use crate::sources::Job;
use crate::sources::fetch::Request;
use crate::sources::url::Url;

/// Octets of the discovery document.
const DISCOVERY_BYTES_MAX: u64 = 1 << 20;
/// Octets of a list of versions: providers that have been there for ten years have a thousand, with a dozen platforms.
const VERSIONS_BYTES_MAX: u64 = 32 << 20;

/// What a registry may offer.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    /// Providers.
    Providers,
    /// Modules.
    Modules,
}

impl Service {
    fn key(self) -> &'static str {
        match self {
            Self::Providers => "providers.v1",
            Self::Modules => "modules.v1",
        }
    }
}

/// One service of one registry.
#[derive(Debug, Clone)]
pub struct Registry {
    base: Url,
    authorization: Option<HeaderValue>,
}

/// A version that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The version.
    pub version: Version,
    /// What it is built for.
    pub platforms: BTreeSet<Platform>,
}

/// What a registry says of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// What it is called.
    pub file_name: String,
    /// Where it is.
    pub url: Url,
    /// What it must be.
    pub sha256: Sha256,
    /// Where SHA256SUMS is.
    pub sums: Url,
    /// Where the signature over it is.
    pub signature: Url,
    /// ASCII-armored keys.
    pub keys: Vec<String>,
    /// Plugin protocol versions.
    pub protocols: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Versions {
    #[serde(default)]
    versions: Vec<VersionOf>,
}

#[derive(Debug, Deserialize)]
struct Modules {
    #[serde(default)]
    modules: Vec<Versions>,
}

#[derive(Debug, Deserialize)]
struct VersionOf {
    version: String,
    #[serde(default)]
    platforms: Vec<PlatformOf>,
}

#[derive(Debug, Deserialize)]
struct PlatformOf {
    os: String,
    arch: String,
}

#[derive(Debug, Deserialize)]
struct DownloadOf {
    #[serde(default)]
    protocols: Vec<String>,
    os: String,
    arch: String,
    filename: String,
    download_url: String,
    shasum: String,
    shasums_url: String,
    shasums_signature_url: String,
    signing_keys: SigningKeys,
}

#[derive(Debug, Deserialize)]
struct SigningKeys {
    #[serde(default)]
    gpg_public_keys: Vec<KeyOf>,
}

#[derive(Debug, Deserialize)]
struct KeyOf {
    ascii_armor: String,
}

impl Registry {
    /// Asks a host where it speaks the protocol
    /// (<https://developer.hashicorp.com/terraform/internals/remote-service-discovery>).
    pub async fn discover(job: &Job, host: &str, service: Service) -> anyhow::Result<Self> {
        let authorization = job.fetch.authorization();
        let url = Url::parse(&format!("https://{host}/.well-known/terraform.json"))?;
        let request = Request::get(url).authorized(authorization.clone());
        let answer = job.fetch.answer(&request, DISCOVERY_BYTES_MAX).await?;
        let at = answer.url.clone();
        let services: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&answer.ok()?)
            .with_context(|| format!("{at}: this is no list of services; is {host} a Terraform registry?"))?;
        let Some(base) = services.get(service.key()).and_then(|value| value.as_str()) else {
            bail!("{at}: {host} does not offer {}", service.key());
        };
        let base = if base.ends_with('/') { base.to_owned() } else { format!("{base}/") };
        Ok(Self { base: at.join(&base)?, authorization })
    }

    async fn ask(&self, job: &Job, path: &str, bytes_max: u64) -> anyhow::Result<(Url, bytes::Bytes)> {
        let request = Request::get(self.base.join(path)?).authorized(self.authorization.clone());
        let answer = job.fetch.answer(&request, bytes_max).await?;
        if answer.status == StatusCode::NOT_FOUND {
            bail!("{}: the registry has no such provider or version; look at the name", answer.url);
        }
        Ok((answer.url.clone(), answer.ok()?))
    }

    /// The versions of a module.
    pub async fn module_versions(&self, job: &Job, path: &str) -> anyhow::Result<Vec<Version>> {
        let (url, body) = self.ask(job, &format!("{path}/versions"), VERSIONS_BYTES_MAX).await?;
        let read: Modules =
            serde_json::from_slice(&body).with_context(|| format!("{url}: this is no list of versions"))?;
        // The first one is the module, further ones are those that it uses.
        let versions = read.modules.into_iter().next().map(|module| module.versions).unwrap_or_default();
        Ok(versions.into_iter().filter_map(|it| it.version.parse().ok()).collect())
    }

    /// What a registry says of where a version of a module is, and where it said so.
    pub async fn module_location(
        &self,
        job: &Job,
        path: &str,
        version: &Version,
    ) -> anyhow::Result<(Url, String)> {
        let request = Request::get(self.base.join(&format!("{path}/{version}/download"))?);
        let answer =
            job.fetch.answer(&request.authorized(self.authorization.clone()), DISCOVERY_BYTES_MAX).await?;
        let location =
            answer.headers.get("x-terraform-get").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let url = answer.url.clone();
        if !answer.status.is_success() {
            answer.ok()?;
        }
        Ok((
            url.clone(),
            location.with_context(|| format!("{url}: there is no X-Terraform-Get in the answer"))?,
        ))
    }

    /// The versions of a provider.
    pub async fn versions(&self, job: &Job, address: &ProviderAddress) -> anyhow::Result<Vec<Offer>> {
        let path = format!("{}/{}/versions", address.namespace, address.kind);
        let (url, body) = self.ask(job, &path, VERSIONS_BYTES_MAX).await?;
        let read: Versions =
            serde_json::from_slice(&body).with_context(|| format!("{url}: this is no list of versions"))?;
        // What has no name that can be served is none for us; a registry may have odd ones from long ago.
        let offer = |it: VersionOf| {
            let platforms =
                it.platforms.iter().filter_map(|it| format!("{}_{}", it.os, it.arch).parse().ok());
            Some(Offer { version: it.version.parse().ok()?, platforms: platforms.collect() })
        };
        Ok(read.versions.into_iter().filter_map(offer).collect())
    }

    /// Where the archive of a version for a platform is.
    pub async fn download(
        &self,
        job: &Job,
        address: &ProviderAddress,
        version: &Version,
        platform: &Platform,
    ) -> anyhow::Result<Archive> {
        let Platform { os, arch } = platform;
        // A build part has a plus sign, which is one in a path.
        let path = format!("{}/{}/{version}/download/{os}/{arch}", address.namespace, address.kind);
        let (url, body) = self.ask(job, &path, PROOF_BYTES_MAX).await?;
        parse_download(&url, &body, platform).with_context(|| url.to_string())
    }
}

fn parse_download(url: &Url, body: &[u8], platform: &Platform) -> anyhow::Result<Archive> {
    let read: DownloadOf = serde_json::from_slice(body).context("this does not say where an archive is")?;
    if read.os != platform.os || read.arch != platform.arch {
        bail!("this is for {}_{}, asked for was {platform}", read.os, read.arch);
    }
    let keys = read.signing_keys.gpg_public_keys;
    if keys.is_empty() {
        bail!(
            "the registry gives no signing key, so its signature cannot be checked; terraform does not install this either"
        );
    }
    if keys.len() as u64 > PROVIDER_PARTS_MAX || read.protocols.len() as u64 > PROVIDER_PARTS_MAX {
        bail!("it names more than {PROVIDER_PARTS_MAX} keys or protocols");
    }
    let protocols = if read.protocols.is_empty() { vec!["5.0".to_owned()] } else { read.protocols };
    Ok(Archive {
        file_name: read.filename,
        url: url.join(&read.download_url)?,
        sha256: read.shasum.to_ascii_lowercase().parse().context("shasum")?,
        sums: url.join(&read.shasums_url)?,
        signature: url.join(&read.shasums_signature_url)?,
        keys: keys.into_iter().map(|key| key.ascii_armor).collect(),
        protocols,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_read() {
        let url = Url::parse("https://r.example/v1/providers/a/b/1.0.0/download/linux/amd64").unwrap();
        let body = serde_json::json!({
            "protocols": ["5.0"], "os": "linux", "arch": "amd64", "filename": "f.zip", "download_url": "./f.zip",
            "shasum": "AB".repeat(32), "shasums_url": "/s", "shasums_signature_url": "https://cdn.example/s.sig?x=y",
            "signing_keys": { "gpg_public_keys": [{ "key_id": "1", "ascii_armor": "k", "trust_signature": "" }] },
            "more": 1,
        });
        let platform: Platform = "linux_amd64".parse().unwrap();
        let parse = |body: &serde_json::Value| parse_download(&url, body.to_string().as_bytes(), &platform);
        let archive = parse(&body).unwrap();
        assert_eq!(archive.url.to_string(), "https://r.example/v1/providers/a/b/1.0.0/download/linux/f.zip");
        assert_eq!((archive.sums.target(), archive.signature.target()), ("/s", "/s.sig?x=y"));
        for (key, value, why) in [
            ("os", serde_json::json!("darwin"), "asked for was linux_amd64"),
            ("signing_keys", serde_json::json!({}), "no signing key"),
            ("shasum", serde_json::json!("12"), "shasum"),
            ("download_url", serde_json::json!("file:///etc/passwd"), "only https and http"),
            ("filename", serde_json::json!(7), "does not say where"),
        ] {
            let mut bad = body.clone();
            bad[key] = value;
            let error = format!("{:#}", parse(&bad).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
