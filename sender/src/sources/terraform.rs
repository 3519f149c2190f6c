//! Terraform providers from their origin registries, with the proof that those give, so that clients behind the gap check
//! what they would have checked outside; and [`modules`].
//!
//! ```text
//! https://HOST/.well-known/terraform.json        where the protocol is spoken
//! BASE NAMESPACE/TYPE/versions                   what there is
//! BASE NAMESPACE/TYPE/VERSION/download/OS/ARCH   archive, SHA256SUMS, signature, keys
//! ```
//!
//! <https://developer.hashicorp.com/terraform/internals/provider-registry-protocol>
//!
//! The proof is checked before an archive is downloaded, again when it is taken in, and on the high side. As Terraform
//! does it, a credential goes to the registry and never to where archives are.

mod modules;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::release::constraint::{Constraints, precedence};
use diodesync::release::index::{ArtifactKind, Provider};
use diodesync::release::name::{
    ArtifactName, ModuleAddress, Platform, ProviderAddress, Version, provider_archive_name,
};
use diodesync::release::provider::{ProofInput, Sums, split_keys, verify};
use diodesync_control::table::Table;
use tokio::task::JoinSet;

use self::modules::WantedModule;
use self::registry::{Offer, Registry, Service};
use super::fetch::{Downloaded, Request};
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};

/// The registry that an address without a host means.
const HOST_DEFAULT: &str = "registry.terraform.io";
/// The platform that is taken if none is named.
const PLATFORM_DEFAULT: &str = "linux_amd64";

/// What is taken from registries.
#[derive(Debug, Clone)]
pub struct Terraform {
    providers: Vec<Wanted>,
    modules: Vec<WantedModule>,
    platforms: BTreeSet<Platform>,
    newest: usize,
}

/// A provider and the versions of it that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    address: ProviderAddress,
    constraints: Constraints,
}

impl Pull for Terraform {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        let providers = table.list("providers", parse_wanted)?.unwrap_or_default();
        let modules = table.list("modules", modules::parse_wanted)?.unwrap_or_default();
        if providers.is_empty() && modules.is_empty() {
            bail!(table.error_at(
                "providers",
                "providers or modules is missing here, like [\"coder/coder ~> 2.0\"]"
            ));
        }
        let hosts = hosts(&providers, &modules);
        if hosts.len() > 1 && (table.has("token_file") || table.has("user_file")) {
            bail!(table.error_at(
                "providers",
                "a source with a credential names one registry, so that no other is given it; make a source for each"
            ));
        }
        let platforms = table.list("platforms", str::parse::<Platform>)?;
        let platforms = match platforms {
            Some(platforms) if platforms.is_empty() => {
                bail!(table.error_at("platforms", "platforms is empty"))
            }
            Some(platforms) => platforms.into_iter().collect(),
            None => BTreeSet::from([PLATFORM_DEFAULT.parse()?]),
        };
        let newest = table.number("newest", 1..=1000)?.unwrap_or(1) as usize;
        Ok(Self { providers, modules, platforms, newest })
    }

    fn homes(&self) -> Vec<Url> {
        hosts(&self.providers, &self.modules)
            .into_iter()
            .filter_map(|host| Url::parse(&format!("https://{host}/")).ok())
            .collect()
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let (providers, modules) = (self.choose_providers(job).await, self.choose_modules(job).await);
        job.plan(providers.len() + modules.len())?;
        let mut tasks = JoinSet::new();
        for (registry, address, offer) in providers {
            let job = job.clone();
            tasks.spawn(async move {
                let name = ArtifactName::Provider(address.clone(), offer.version.clone());
                if let Err(error) = bring(&job, &registry, &address, offer).await {
                    job.problem(&name, &error);
                }
            });
        }
        for ((address, version), (wanted, registry)) in modules {
            let job = job.clone();
            tasks.spawn(async move {
                if let Err(error) = wanted.bring(&job, &registry, &version).await {
                    job.problem(&ArtifactName::Module(address, version), &error);
                }
            });
        }
        tasks.join_all().await;
        Ok(())
    }
}

/// The registries that are named.
fn hosts<'a>(providers: &'a [Wanted], modules: &'a [WantedModule]) -> BTreeSet<&'a str> {
    let modules = modules.iter().map(|wanted| wanted.address.host.as_str());
    providers.iter().map(|wanted| wanted.address.host.as_str()).chain(modules).collect()
}

/// The newest of versions, in words.
fn newest_of<'a>(versions: impl Iterator<Item = &'a Version>) -> String {
    let newest = versions.max_by(|a, b| precedence(a, b));
    newest.map_or("no version".to_owned(), |newest| format!("{newest} as the newest"))
}

/// Registries that were asked for a service, each once; one that failed was told.
struct Registries<'a> {
    service: Service,
    asked: BTreeMap<&'a str, Option<Registry>>,
}

impl<'a> Registries<'a> {
    fn of(service: Service) -> Self {
        Self { service, asked: BTreeMap::new() }
    }

    async fn get(&mut self, job: &Job, host: &'a str) -> Option<&Registry> {
        if !self.asked.contains_key(host) {
            job.say(format!("asking {host}"));
            let found = Registry::discover(job, host, self.service).await;
            self.asked.insert(host, found.map_err(|error| job.failed(&host, &error)).ok());
        }
        self.asked.get(host)?.as_ref()
    }
}

impl Terraform {
    /// The versions of modules that are meant.
    async fn choose_modules(
        &self,
        job: &Job,
    ) -> BTreeMap<(ModuleAddress, Version), (WantedModule, Registry)> {
        let mut registries = Registries::of(Service::Modules);
        let mut work = BTreeMap::new();
        for wanted in &self.modules {
            let Some(registry) = registries.get(job, &wanted.address.host).await else { continue };
            match wanted.choose(job, registry, self.newest).await {
                Ok(versions) => {
                    work.extend(versions.into_iter().map(|version| {
                        ((wanted.address.clone(), version), (wanted.clone(), registry.clone()))
                    }))
                }
                Err(error) => job.failed(&format!("module {}", wanted.address), &error),
            }
        }
        work
    }

    /// The versions of providers that are meant.
    async fn choose_providers(&self, job: &Job) -> Vec<(Registry, ProviderAddress, Offer)> {
        let mut registries = Registries::of(Service::Providers);
        let mut work = Vec::new();
        for wanted in &self.providers {
            let Some(registry) = registries.get(job, &wanted.address.host).await else { continue };
            match self.choose(job, registry, wanted).await {
                Ok(offers) => work.extend(
                    offers.into_iter().map(|offer| (registry.clone(), wanted.address.clone(), offer)),
                ),
                Err(error) => job.failed(&format!("provider {}", wanted.address), &error),
            }
        }
        // Two patterns may name the same version.
        work.sort_by(|(_, a, b), (_, c, d)| a.cmp(c).then_with(|| b.version.cmp(&d.version)));
        work.dedup_by(|(_, a, b), (_, c, d)| a == c && b.version == d.version);
        work
    }
}

/// `[HOST/]NAMESPACE/TYPE [CONSTRAINTS]`.
fn parse_wanted(text: &str) -> Result<Wanted, String> {
    let text = text.trim();
    let (address, constraints) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let full = match address.matches('/').count() {
        1 => format!("{HOST_DEFAULT}/{address}"),
        _ => address.to_owned(),
    };
    let address = full.parse().map_err(|error: diodesync::release::NameError| error.to_string())?;
    let constraints = constraints
        .parse()
        .map_err(|error: diodesync::release::constraint::ConstraintError| error.to_string())?;
    Ok(Wanted { address, constraints })
}

impl Terraform {
    /// The newest versions that are meant, with those of the platforms that each has.
    async fn choose(&self, job: &Job, registry: &Registry, wanted: &Wanted) -> anyhow::Result<Vec<Offer>> {
        let all = registry.versions(job, &wanted.address).await?;
        let newest = newest_of(all.iter().map(|offer| &offer.version));
        let meant: Vec<Offer> =
            all.into_iter().filter(|offer| wanted.constraints.take(&offer.version)).collect();
        if meant.is_empty() {
            bail!(
                "the registry offers {newest}, and none that is {}; look at the constraint",
                wanted.constraints
            );
        }
        let mut chosen = Vec::new();
        for mut offer in meant {
            offer.platforms.retain(|platform| self.platforms.contains(platform));
            if !offer.platforms.is_empty() {
                chosen.push(offer);
            }
        }
        if chosen.is_empty() {
            let platforms: Vec<String> = self.platforms.iter().map(ToString::to_string).collect();
            bail!(
                "no version that is {} is for {}; look at platforms",
                wanted.constraints,
                platforms.join(" or ")
            );
        }
        chosen.sort_by(|a, b| precedence(&b.version, &a.version));
        chosen.truncate(self.newest);
        Ok(chosen)
    }
}

/// What a registry gives for one version.
struct Proof {
    sums: Vec<u8>,
    signature: Vec<u8>,
    /// As the registry gives them, one text with several keys at times.
    keys: Vec<Vec<u8>>,
    split: BTreeMap<String, Vec<u8>>,
}

/// Brings one version: its proof first, then what of it is not here.
async fn bring(
    job: &Arc<Job>,
    registry: &Registry,
    address: &ProviderAddress,
    offer: Offer,
) -> anyhow::Result<()> {
    let name = ArtifactName::Provider(address.clone(), offer.version.clone());
    job.say(name.to_string());
    let mut archives: BTreeMap<Platform, registry::Archive> = BTreeMap::new();
    for platform in &offer.platforms {
        let archive = registry.download(job, address, &offer.version, platform).await?;
        let expected = provider_archive_name(&address.kind, &offer.version, platform);
        if archive.file_name != expected {
            bail!(
                "the registry calls its archive for {platform} {:?}, expected {expected}",
                archive.file_name
            );
        }
        archives.insert(platform.clone(), archive);
    }
    let proof = fetch_proof(job, &archives).await?;
    let input = ProofInput { sums: &proof.sums, signature: &proof.signature, keys: &proof.split };
    let digests: Vec<_> =
        archives.values().map(|archive| (archive.file_name.clone(), archive.sha256)).collect();
    verify(&input, &digests)?;
    if let Some(ArtifactKind::Provider(before)) = job.present(&name)
        && is_same(&before, &proof, &archives)
    {
        job.unchanged(&name);
        return Ok(());
    }
    let mut items = Vec::new();
    let mut keep = |octets: &[u8], path: &str, role| -> anyhow::Result<()> {
        let item =
            Item { source: job.keep(octets)?, path: path.to_owned(), role, bytes: octets.len() as u64 };
        items.push(item);
        Ok(())
    };
    keep(&proof.sums, "SHA256SUMS", Role::Sums)?;
    keep(&proof.signature, "SHA256SUMS.sig", Role::Signature)?;
    for (at, key) in proof.keys.iter().enumerate() {
        keep(key, &format!("key-{at}.asc"), Role::Key)?;
    }
    let protocols = archives.values().flat_map(|archive| archive.protocols.clone()).collect::<BTreeSet<_>>();
    let came = fetch_archives(job, archives).await?;
    items.extend(came.into_iter().map(|(path, it)| Item {
        source: it.path,
        path,
        role: Role::Archive,
        bytes: it.bytes,
    }));
    let what = What::Provider {
        address: address.to_string(),
        protocols: protocols.into_iter().collect(),
        unsigned: false,
    };
    job.submit(what, items, &[name]).await?;
    Ok(())
}

/// SHA256SUMS, its signature and the keys: the same for all platforms.
async fn fetch_proof(job: &Job, archives: &BTreeMap<Platform, registry::Archive>) -> anyhow::Result<Proof> {
    let first = archives.values().next().context("there is no platform")?;
    let keys: Vec<Vec<u8>> = first.keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    if let Some((platform, _)) = archives.iter().find(|(_, archive)| archive.keys != first.keys) {
        bail!("the registry gives other keys for {platform} than for the other platforms of this version");
    }
    let mut split = BTreeMap::new();
    for key in &keys {
        split.extend(split_keys(key).context("a key that the registry gives")?);
    }
    let sums = get(job, &first.sums).await?;
    let signature = get(job, &first.signature).await?;
    let parsed = Sums::parse(&sums)?;
    for archive in archives.values() {
        // Registries that name a list for each platform still have one list.
        if archive.sums != first.sums && get(job, &archive.sums).await? != sums {
            bail!(
                "the registry gives two lists of digests for one version, at {} and {}",
                first.sums,
                archive.sums
            );
        }
        let listed = parsed.get(&archive.file_name);
        if listed != Some(archive.sha256) {
            let listed = listed.map_or("none".to_owned(), |digest| digest.to_string());
            bail!(
                "{}: the registry says SHA-256 {}, and SHA256SUMS has {listed}; one of them was tampered with",
                archive.file_name,
                archive.sha256
            );
        }
    }
    Ok(Proof { sums, signature, keys, split })
}

async fn get(job: &Job, url: &Url) -> anyhow::Result<Vec<u8>> {
    Ok(job.fetch.body(&Request::get(url.clone()), PROOF_BYTES_MAX).await?.to_vec())
}

async fn fetch_archives(
    job: &Arc<Job>,
    archives: BTreeMap<Platform, registry::Archive>,
) -> anyhow::Result<BTreeMap<String, Downloaded>> {
    let mut tasks = JoinSet::new();
    for archive in archives.into_values() {
        let job = job.clone();
        tasks.spawn(async move {
            let it = match job.take_out(&archive.sha256).await? {
                Some(held) => held,
                None => job.download(Request::get(archive.url), Some(archive.sha256), None).await?,
            };
            anyhow::Ok((archive.file_name, it))
        });
    }
    let mut came = BTreeMap::new();
    while let Some(one) = tasks.join_next().await {
        let (name, it) = one.context("a download crashed")??;
        came.insert(name, it);
    }
    Ok(came)
}

/// Whether it is here with this proof, for these platforms.
fn is_same(before: &Provider, proof: &Proof, archives: &BTreeMap<Platform, registry::Archive>) -> bool {
    let Some(held) = &before.proof else { return false };
    let keys: BTreeMap<&String, Sha256> = proof.split.iter().map(|(id, key)| (id, Sha256::of(key))).collect();
    held.sums == Sha256::of(&proof.sums)
        && held.signature == Sha256::of(&proof.signature)
        && held.keys.iter().map(|(id, key)| (id, *key)).eq(keys)
        && archives.iter().all(|(platform, it)| {
            before.archives.get(platform).is_some_and(|archive| archive.blob == it.sha256)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_read() {
        let wanted = parse_wanted("coder/coder ~> 2.0").unwrap();
        assert_eq!(wanted.address.to_string(), "registry.terraform.io/coder/coder");
        assert_eq!(wanted.constraints.to_string(), "~> 2.0");
        let wanted = parse_wanted("tf.example:8443/a/b >= 5, < 6").unwrap();
        assert_eq!(
            (wanted.address.host.as_str(), wanted.constraints.to_string().as_str()),
            ("tf.example:8443", ">= 5, < 6")
        );
        assert!(parse_wanted("a/b").unwrap().constraints.take(&"1.0.0".parse::<Version>().unwrap()));
        for bad in ["", "coder", "a/b/c/d 1.0", "A/b", "a/b ~> 2", "a/b >= x", "https://h/a/b"] {
            assert!(parse_wanted(bad).is_err(), "{bad}");
        }
    }
}
