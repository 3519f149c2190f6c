//! What the receiver serves, and whether it is what was submitted.
//!
//! | path | what |
//! |---|---|
//! | `/files/PATH` | a file, each component percent-encoded |
//! | `/files.sha256` | lines `HEX  PATH` for every file, as `sha256sum` writes them |
//! | `/client/terraformrc`, `/client/terraformrc?via=mirror` | Terraform's CLI configuration |
//! | `/client/ca.pem` | the CA |

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use crate::https::{Https, encode_path};
use crate::provider::ProviderRelease;
use crate::terraform::quoted_after;
use crate::tree::{self, Digests};

/// The receiver's HTTPS face.
#[derive(Debug)]
pub struct Mirror {
    /// The client.
    pub https: Https,
}

/// What was compared and equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Files or archives.
    pub files: u64,
    /// Their octets.
    pub bytes: u64,
}

impl Mirror {
    /// A mirror behind `https`.
    pub fn new(https: Https) -> Self {
        Self { https }
    }

    /// The listing: SHA-256 in hexadecimal by path.
    pub fn sums(&mut self) -> Result<BTreeMap<String, String>> {
        let listing = self.https.get_ok("/files.sha256")?;
        let mut sums = BTreeMap::new();
        for line in listing.text()?.lines() {
            let (hex, path) =
                line.split_once("  ").with_context(|| format!("not a line of sha256sum: {line:?}"))?;
            sums.insert(path.to_owned(), hex.to_owned());
        }
        Ok(sums)
    }

    /// Whether exactly the `expected` files are served: the listing, and each file downloaded and hashed.
    pub fn compare_files(&mut self, expected: &Digests) -> Result<Compared> {
        let sums = self.sums()?;
        let extra: Vec<&String> = sums.keys().filter(|path| !expected.contains_key(*path)).collect();
        if !extra.is_empty() {
            bail!("{} files are served that nobody submitted, like {:?}", extra.len(), extra[0]);
        }
        let mut compared = Compared::default();
        for (path, (hex, length)) in expected {
            match sums.get(path) {
                None => bail!("{path:?} is not listed"),
                Some(listed) if listed != hex => bail!("{path:?} is listed as {listed}, submitted as {hex}"),
                Some(_) => {}
            }
            let got = self.https.digest(&format!("/files/{}", encode_path(path)))?;
            if got != (hex.clone(), *length) {
                bail!("{path:?} is served as {} ({} octets), submitted as {hex} ({length})", got.0, got.1);
            }
            compared.files += 1;
            compared.bytes += length;
        }
        Ok(compared)
    }

    /// The CLI configuration that the receiver offers: for the replayed registry, or for the network mirror.
    pub fn terraformrc(&mut self, via_mirror: bool) -> Result<String> {
        let path = if via_mirror { "/client/terraformrc?via=mirror" } else { "/client/terraformrc" };
        Ok(self.https.get_ok(path)?.text()?.to_owned())
    }

    /// Whether the replayed registry gives every archive of `release`, its sums and its signature, octet by octet.
    pub fn compare_provider(&mut self, release: &ProviderRelease) -> Result<Compared> {
        let (host, rest) = release.source.split_once('/').context("a source is HOST/NAMESPACE/TYPE")?;
        let rc = self.terraformrc(false)?;
        let (_, block) = rc
            .split_once(&format!("host \"{host}\""))
            .with_context(|| format!("no host {host:?} in /client/terraformrc:\n{rc}"))?;
        let registry =
            quoted_after(block, "\"providers.v1\"").context("no providers.v1 in /client/terraformrc")?;
        let base = format!("{}/{rest}", registry.trim_end_matches('/'));
        let versions = self.https.get_ok(&format!("{base}/versions"))?.json()?;
        let listed = versions["versions"].as_array().context("no versions")?;
        if !listed.iter().any(|version| version["version"] == release.version.as_str()) {
            bail!("{} {} is not listed by {base}/versions", release.source, release.version);
        }
        let mut compared = Compared::default();
        for zip in &release.zips {
            let name = zip.file_name().and_then(|name| name.to_str()).context("an archive without a name")?;
            let (os, arch) = platform_of(name).with_context(|| format!("no platform in {name}"))?;
            let url = format!("{base}/{}/download/{os}/{arch}", release.version);
            let answer = self.https.get_ok(&url)?.json()?;
            let field = |field: &str| {
                answer[field].as_str().map(str::to_owned).with_context(|| format!("{url} says no {field}"))
            };
            let (hex, length) = tree::digest(zip)?;
            if field("filename")? != name || field("shasum")? != hex {
                bail!("{url} names another file or sum: {answer}");
            }
            let got = self.https.digest(&resolve(&url, &field("download_url")?))?;
            if got != (hex, length) {
                bail!("{name} is served as {} ({} octets)", got.0, got.1);
            }
            for (field_name, original) in
                [("shasums_url", &release.sums), ("shasums_signature_url", &release.signature)]
            {
                let got = self.https.get_ok(&resolve(&url, &field(field_name)?))?;
                if got.body != std::fs::read(original)? {
                    bail!("{field_name} of {name} is not what was submitted");
                }
            }
            let key = answer["signing_keys"]["gpg_public_keys"][0]["key_id"].as_str().unwrap_or_default();
            if !key.eq_ignore_ascii_case(&release.key_id) {
                bail!("{url} names the key {key:?}, not {}", release.key_id);
            }
            compared.files += 1;
            compared.bytes += length;
        }
        Ok(compared)
    }
}

/// A reference of a registry's answer may be absolute, or relative to the answer's own URL.
fn resolve(base: &str, reference: &str) -> String {
    if reference.contains("://") || reference.starts_with('/') {
        return reference.to_owned();
    }
    let folder = base.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{reference}")
}

fn platform_of(archive: &str) -> Option<(&str, &str)> {
    let (rest, arch) = archive.strip_suffix(".zip")?.rsplit_once('_')?;
    Some((rest.rsplit_once('_')?.1, arch))
}
