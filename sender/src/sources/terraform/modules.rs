//! Modules from their registries.
//!
//! ```text
//! BASE NAMESPACE/NAME/SYSTEM/versions             what there is
//! BASE NAMESPACE/NAME/SYSTEM/VERSION/download     204, and X-Terraform-Get: where the archive is
//! ```
//!
//! <https://developer.hashicorp.com/terraform/internals/module-registry-protocol>
//!
//! Registries give no proof for modules, and a version that is here is not asked for again: what a version means does not
//! change. Where a registry names a git repository on github.com, as the public one does, the archive of that revision is taken,
//! of which the module is in the one folder at its top.

use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::MODULE_BYTES_MAX;
use diodesync::release::constraint::{Constraints, precedence};
use diodesync::release::module::FolderPattern;
use diodesync::release::name::{ArtifactName, ModuleAddress, ModuleFormat, Version};

use super::registry::Registry;
use super::{HOST_DEFAULT, newest_of};
use crate::sources::Job;
use crate::sources::fetch::Request;
use crate::sources::url::Url;
use crate::submit::{Item, Role, What};

/// A module and the versions of it that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedModule {
    /// What it is called here.
    pub address: ModuleAddress,
    /// `NAMESPACE/NAME/SYSTEM` as it was written.
    path: String,
    constraints: Constraints,
}

/// `[HOST/]NAMESPACE/NAME/SYSTEM [CONSTRAINTS]`.
pub fn parse_wanted(text: &str) -> Result<WantedModule, String> {
    let text = text.trim();
    let (address, constraints) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let full = match address.matches('/').count() {
        2 => format!("{HOST_DEFAULT}/{address}"),
        _ => address.to_owned(),
    };
    let path = full.split_once('/').map_or("", |(_, path)| path).to_owned();
    let address = full
        .to_ascii_lowercase()
        .parse()
        .map_err(|error: diodesync::release::NameError| error.to_string())?;
    let constraints: Result<_, diodesync::release::constraint::ConstraintError> = constraints.parse();
    Ok(WantedModule { address, path, constraints: constraints.map_err(|error| error.to_string())? })
}

impl WantedModule {
    /// The newest versions that are meant.
    pub async fn choose(
        &self,
        job: &Job,
        registry: &Registry,
        newest: usize,
    ) -> anyhow::Result<Vec<Version>> {
        let all = registry.module_versions(job, &self.path).await?;
        let offered = newest_of(all.iter());
        let mut meant: Vec<Version> =
            all.into_iter().filter(|version| self.constraints.take(version)).collect();
        if meant.is_empty() {
            bail!(
                "the registry offers {offered}, and none that is {}; look at the constraint",
                self.constraints
            );
        }
        meant.sort_by(|a, b| precedence(b, a));
        meant.dedup();
        meant.truncate(newest);
        Ok(meant)
    }

    /// Brings one version, if it is not here.
    pub async fn bring(&self, job: &Arc<Job>, registry: &Registry, version: &Version) -> anyhow::Result<()> {
        let name = ArtifactName::Module(self.address.clone(), version.clone());
        if job.present(&name).is_some() {
            job.unchanged(&name);
            return Ok(());
        }
        job.say(name.to_string());
        let (at, location) = registry.module_location(job, &self.path, version).await?;
        let Location { url, sha256, format, folder } = Location::parse(&at, &location)
            .with_context(|| format!("the registry says that it is at {location:?}"))?;
        let it = job.download_at_most(Request::get(url), sha256, MODULE_BYTES_MAX).await?;
        let item = Item {
            source: it.path,
            path: format!("module.{}", format.extension()),
            role: Role::Module,
            bytes: it.bytes,
        };
        let what = What::Module {
            address: self.address.to_string(),
            version: version.to_string(),
            folder: folder.to_string(),
        };
        job.submit(what, vec![item], &[name]).await?;
        Ok(())
    }
}

/// Where a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Location {
    url: Url,
    sha256: Option<Sha256>,
    format: ModuleFormat,
    folder: FolderPattern,
}

impl Location {
    /// Reads what `X-Terraform-Get` says, as Terraform's installer does
    /// (<https://developer.hashicorp.com/terraform/language/modules/sources>): an archive by HTTP, or a revision of a
    /// repository on github.com.
    fn parse(at: &Url, text: &str) -> anyhow::Result<Self> {
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        // Two slashes that are not those of the scheme begin the folder.
        let from = address.find("://").map_or(0, |found| found + 3);
        let split = address.get(from..).and_then(|rest| rest.find("//")).map(|found| from + found);
        let (address, folder) = match split {
            Some(split) => {
                (address.get(..split).unwrap_or_default(), address.get(split + 2..).unwrap_or_default())
            }
            None => (address, ""),
        };
        if let Some(repository) = github(address) {
            let revision = parameter(query, "ref").unwrap_or("HEAD");
            let url = Url::parse(&format!("https://github.com/{repository}/archive/{revision}.tar.gz"))?;
            let folder = if folder.is_empty() { "*".to_owned() } else { format!("*/{folder}") };
            return Ok(Self { url, sha256: None, format: ModuleFormat::TarGz, folder: folder.parse()? });
        }
        if address.contains("::") || !(address.contains("://") || address.starts_with(['/', '.'])) {
            bail!(
                "it is neither an archive by http nor on github.com; fetch it by hand, and hand it over with diode-sender \
                 submit module"
            );
        }
        let format = match parameter(query, "archive") {
            Some(format) => ModuleFormat::of_file_name(&format!(".{format}")),
            None => ModuleFormat::of_file_name(address),
        };
        let format = format.context("it is no archive that is a .tar.gz or a .zip")?;
        let sha256 = parameter(query, "checksum").and_then(|it| it.strip_prefix("sha256:"));
        let sha256 =
            sha256.map(|digest| digest.to_ascii_lowercase().parse()).transpose().context("its checksum")?;
        // These are for the installer and not for the server.
        let rest: Vec<&str> = query
            .split('&')
            .filter(|it| !it.is_empty() && !it.starts_with("archive=") && !it.starts_with("checksum="))
            .collect();
        let reference =
            if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        Ok(Self { url: at.join(&reference)?, sha256, format, folder: folder.parse()? })
    }
}

/// `OWNER/REPOSITORY` of an address on github.com.
fn github(address: &str) -> Option<&str> {
    let plain = address.strip_prefix("git::").unwrap_or(address);
    let is_git = plain.len() != address.len() || plain.starts_with("github.com/");
    let plain = plain.strip_prefix("https://").or_else(|| plain.strip_prefix("ssh://git@")).unwrap_or(plain);
    let repository = plain.strip_prefix("github.com/").filter(|_| is_git)?;
    let repository = repository.strip_suffix(".git").unwrap_or(repository);
    (repository.matches('/').count() == 1).then_some(repository)
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read() {
        let wanted = parse_wanted("Azure/aks/azurerm ~> 9.0").unwrap();
        assert_eq!(wanted.address.to_string(), "registry.terraform.io/azure/aks/azurerm");
        assert_eq!(wanted.path, "Azure/aks/azurerm");
        assert_eq!(parse_wanted("r.example:1/a/b/c").unwrap().address.host, "r.example:1");
        for bad in ["", "a/b", "a/b/c/d/e", "a/b/c ~> 1"] {
            assert!(parse_wanted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_a_module_is() {
        let at = Url::parse("https://r.example/v1/modules/a/b/c/1.0.0/download").unwrap();
        let parse = |text: &str| {
            let it = Location::parse(&at, text).map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(format!(
                "{}{} {} {:?}",
                it.url.origin(),
                it.url.target(),
                it.format.extension(),
                it.folder.to_string()
            ))
        };
        for (text, expected) in [
            ("./m.tar.gz", "https://r.example/v1/modules/a/b/c/1.0.0/m.tar.gz tar.gz \"\""),
            ("/m.zip//sub", "https://r.example/m.zip zip \"sub\""),
            ("https://cdn.example/x?archive=tar.gz&token=1", "https://cdn.example/x?token=1 tar.gz \"\""),
            ("https://cdn.example/m.tgz//*?archive=tgz", "https://cdn.example/m.tgz tar.gz \"*\""),
            (
                "git::https://github.com/o/r?ref=0a1b",
                "https://github.com/o/r/archive/0a1b.tar.gz tar.gz \"*\"",
            ),
            (
                "git::https://github.com/o/r.git//modules/x?ref=v1.2.0",
                "https://github.com/o/r/archive/v1.2.0.tar.gz tar.gz \"*/modules/x\"",
            ),
            ("github.com/o/r//m", "https://github.com/o/r/archive/HEAD.tar.gz tar.gz \"*/m\""),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
        let digest = "ab".repeat(32);
        let it = Location::parse(&at, &format!("/m.zip?checksum=sha256:{digest}")).unwrap();
        assert_eq!(it.sha256.unwrap().to_string(), digest);
        for (bad, why) in [
            ("git::https://gitlab.com/o/r?ref=1", "neither an archive by http nor on github.com"),
            ("s3::https://s3.amazonaws.com/b/m.zip", "neither an archive"),
            ("file:///etc/m.zip", "only https and http"),
            ("https://cdn.example/m", "no archive that is a .tar.gz"),
            ("https://cdn.example/m.zip//../x", "one that is . or .."),
            ("https://cdn.example/m.zip?checksum=sha256:12", "its checksum"),
            ("m.zip", "neither an archive"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
