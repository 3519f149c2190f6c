//! What a suite has: its release, checked, and its `Packages` files by the digests that the release names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use bytes::Bytes;
use diodesync::limits::{PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};
use diodesync::release::Suite;
use diodesync::release::archive::{Listed, Release};
use diodesync_control::clock_s;
use hyper::StatusCode;

use super::Apt;
use crate::sources::Job;
use crate::sources::fetch::FetchError;

/// How `Packages` files are packed, what is smallest first.
const PACKINGS: [&str; 3] = [".xz", ".gz", ""];

/// What was fetched of all suites.
#[derive(Debug, Default)]
pub struct Fetched {
    /// The release of each.
    pub releases: BTreeMap<Suite, Release>,
    /// Their `Packages` files.
    pub indexes: Vec<Index>,
}

/// A `Packages` file, and what proves it.
#[derive(Debug)]
pub struct Index {
    /// Its suite.
    pub suite: Suite,
    /// Its component.
    pub component: String,
    /// For which architectures of the source it is.
    pub architectures: Vec<String>,
    /// Its path below the suite.
    pub path: String,
    /// Its octets, packed.
    pub octets: Bytes,
    /// The `InRelease` that names it.
    pub release: Bytes,
    /// The key that signed that.
    pub key: Bytes,
}

impl Apt {
    /// Fetches a suite's release and its `Packages` files.
    pub(super) async fn fetch_suite(
        &self,
        job: &Job,
        suite: &Suite,
        keys: &BTreeMap<String, Vec<u8>>,
        fetched: &mut Fetched,
    ) -> anyhow::Result<()> {
        let request = self.request(job, &format!("dists/{suite}/InRelease"))?;
        let url = request.url.clone();
        let octets = job.fetch.answer(&request, PROOF_BYTES_MAX).await?.ok()?;
        let release = Release::verify(&octets, keys).with_context(|| url.to_string())?;
        release.check_fresh(clock_s()).with_context(|| url.to_string())?;
        let is_it = release.suite == suite.as_str() || release.codename.as_deref() == Some(suite.as_str());
        if !is_it {
            // apt says it, too, and goes on: third-party archives call their suites as they like.
            tracing::warn!(source = job.source.name, %suite, "{url} says that it is of suite {}", release.suite);
        }
        let key = keys.get(&release.signer.key_id).context("the key that signed is gone")?;
        let key = Bytes::copy_from_slice(key);
        for component in &self.components {
            for (architecture, architectures) in self.folders(&release)? {
                let folder = match self.folder(&release, component, &architecture) {
                    Err(_) if architecture == "all" => continue,
                    folder => folder?,
                };
                let (path, packages) = self.fetch_packages(job, suite, &release, &folder).await?;
                fetched.indexes.push(Index {
                    suite: suite.clone(),
                    component: component.clone(),
                    architectures,
                    path,
                    octets: packages,
                    release: octets.clone(),
                    key: key.clone(),
                });
            }
        }
        fetched.releases.insert(suite.clone(), release);
        Ok(())
    }

    /// The architectures that a suite has files for, each with those of the source that it serves.
    fn folders(&self, release: &Release) -> anyhow::Result<Vec<(String, Vec<String>)>> {
        for architecture in &self.architectures {
            if !release.architectures.contains(architecture) {
                let has = release.architectures.join(", ");
                bail!("it has no packages for {architecture}; it has them for {has}");
            }
        }
        let mut folders: Vec<_> =
            self.architectures.iter().map(|own| (own.clone(), vec![own.clone()])).collect();
        // Some archives have packages for all architectures in a file of their own, and only there.
        if release.has_all_apart {
            folders.push(("all".to_owned(), self.architectures.clone()));
        }
        Ok(folders)
    }

    /// Where a component has its `Packages` files for an architecture.
    fn folder(&self, release: &Release, component: &str, architecture: &str) -> anyhow::Result<String> {
        let folder = format!("{component}/binary-{architecture}");
        // As Debian's security archive was once.
        let older = format!("updates/{folder}");
        let is_there = |folder: &&String| {
            PACKINGS.iter().any(|packing| release.files.contains_key(&format!("{folder}/Packages{packing}")))
        };
        let found = [folder, older].iter().find(is_there).cloned();
        found.with_context(|| {
            let has = release.components.join(", ");
            format!("it names no Packages file for component {component} and {architecture}; it has components {has}")
        })
    }

    /// A `Packages` file, by its digest where the archive gives it out so.
    async fn fetch_packages(
        &self,
        job: &Job,
        suite: &Suite,
        release: &Release,
        folder: &str,
    ) -> anyhow::Result<(String, Bytes)> {
        let mut missing = BTreeSet::new();
        for packing in PACKINGS {
            let path = format!("{folder}/Packages{packing}");
            let Some(Listed { digest, bytes }) = release.files.get(&path).copied() else { continue };
            if bytes > PACKAGES_PACKED_BYTES_MAX {
                bail!("{path} has {bytes} octets, the limit is {PACKAGES_PACKED_BYTES_MAX}");
            }
            if let Some(octets) = job.held(&digest, PACKAGES_PACKED_BYTES_MAX)? {
                return Ok((path, octets.into()));
            }
            let by_hash = format!("dists/{suite}/{folder}/by-hash/SHA256/{digest}");
            let by_name = format!("dists/{suite}/{path}");
            for at in release.by_hash.then_some(by_hash).into_iter().chain([by_name]) {
                match job.download(self.request(job, &at)?, Some(digest), Some(bytes)).await {
                    Ok(came) => return Ok((path, std::fs::read(&came.path)?.into())),
                    Err(error) if error.status_code() == Some(StatusCode::NOT_FOUND) => missing.insert(at),
                    Err(error @ (FetchError::Digest { .. } | FetchError::Length { .. })) => {
                        return Err(anyhow::Error::from(error).context(format!(
                            "{path} is not the one that InRelease names; the archive may be in the middle of an update, try \
                             again"
                        )));
                    }
                    Err(error) => return Err(error.into()),
                };
            }
        }
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        bail!("its InRelease names files that the archive does not have: {missing}")
    }
}
