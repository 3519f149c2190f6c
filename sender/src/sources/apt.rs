//! Packages of a Debian archive, with the archive's own proof: a signed `InRelease`, which names the `Packages` files,
//! which name the packages ([`diodesync::release::archive`]).
//!
//! | module | what it rules |
//! |---|---|
//! | [`closure`] | which packages are meant, and what they depend on |
//! | [`relation`], [`version`] | dependencies and the order of versions |
//! | [`suite`] | what a suite has |
//! | [`renewal`] | what is proven anew although no package is new |
//!
//! What is taken hangs together, so it comes whole or not at all. The proof of what was taken before stays as it is until
//! a package of the same `Packages` file is new; then all of that file are proven anew, so that one proof is carried and
//! not one for each day.

mod closure;
mod relation;
mod renewal;
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::release::archive::{Packing, Release, Stanzas, keyring};
use diodesync::release::index::{ArtifactKind, Package};
use diodesync::release::{ArtifactName, PackageName, Suite};
use diodesync_control::clock_s;
use diodesync_control::table::Table;
use tokio::task::JoinSet;

use super::config::parse_path;
use super::fetch::{Downloaded, Request};
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};
use closure::{Candidate, Universe};
use relation::PackagePattern;
use renewal::Keys;
use suite::{Fetched, Index};

/// Packages of one submission. Their digests must fit into one message.
const CHUNK: usize = 4000;

/// What a source takes from an archive.
#[derive(Debug, Clone)]
pub struct Apt {
    url: Url,
    suites: Vec<Suite>,
    components: Vec<String>,
    architectures: Vec<String>,
    packages: Vec<PackagePattern>,
    /// What is on the far side already, and is not followed.
    assumed: Vec<PackagePattern>,
    recommends: bool,
    keyring: PathBuf,
}

/// What of an archive is to be had.
#[derive(Debug)]
struct Chosen {
    packages: BTreeSet<Wanted>,
    /// `Packages` files of which every package is, or is here.
    whole: BTreeSet<usize>,
    /// What hinders.
    problems: Vec<String>,
}

/// A package that is to be had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    /// Its `Packages` file.
    index: usize,
    name: PackageName,
    path: String,
    deb: Sha256,
    bytes: u64,
}

impl Pull for Apt {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        let word = |what: &'static str| {
            move |text: &str| {
                // What may be a part of a package's name may be one of a path.
                let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~_-".contains(&b));
                if is_word { Ok(text.to_owned()) } else { Err(format!("expected {what}, found {text:?}")) }
            }
        };
        let url = table.required("url", |text| Url::parse(&format!("{}/", text.trim_end_matches('/'))))?;
        let suites = table.list("suites", str::parse::<Suite>)?.unwrap_or_default();
        let components = table
            .list("components", word("a component like main"))?
            .unwrap_or_else(|| vec!["main".to_owned()]);
        let architectures =
            table.list("architectures", word("an architecture like amd64"))?.unwrap_or_default();
        let packages = table.list("packages", str::parse)?.unwrap_or_default();
        for (key, is_empty, example) in [
            ("suites", suites.is_empty(), "[\"bookworm\", \"bookworm-updates\"]"),
            ("architectures", architectures.is_empty(), "[\"amd64\"]"),
            ("packages", packages.is_empty(), "[\"nginx\", \"postgresql-*\"]"),
        ] {
            if is_empty {
                bail!(table.error_at(key, format!("{key}: expected something like {example}")));
            }
        }
        if architectures.iter().any(|architecture| architecture == "all") {
            bail!(table.error_at(
                "architectures",
                "architectures: packages for all come with those of each; name those"
            ));
        }
        Ok(Self {
            url,
            suites,
            components,
            architectures,
            packages,
            assumed: table.list("assume", str::parse)?.unwrap_or_default(),
            recommends: table.flag("recommends", false)?,
            keyring: table.required("keyring", parse_path)?,
        })
    }

    fn homes(&self) -> Vec<Url> {
        vec![self.url.clone()]
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let keys = self.keys()?;
        let mut fetched = Fetched::default();
        for suite in &self.suites {
            job.say(format!("suite {suite}"));
            self.fetch_suite(job, suite, &keys, &mut fetched)
                .await
                .with_context(|| format!("suite {suite}"))?;
        }
        job.say("dependencies");
        let held: BTreeMap<&Suite, Vec<Package>> =
            self.suites.iter().map(|suite| (suite, job.packages(suite))).collect();
        let debs: BTreeSet<Sha256> = held.values().flatten().map(|package| package.deb).collect();
        let (apt, fetched) = (self.clone(), Arc::new(fetched));
        let indexes = fetched.clone();
        let chosen = tokio::task::spawn_blocking(move || apt.choose(&indexes, debs));
        let chosen = chosen.await.context("the search for dependencies crashed")??;
        job.plan(chosen.packages.len())?;
        if let Some(first) = chosen.problems.first() {
            for problem in &chosen.problems {
                tracing::warn!(source = job.source.name, "{problem}");
            }
            bail!(
                "{first}{}; nothing of the source was taken, because packages would be lacking on the far side. Correct \
                 packages, add a suite or a component, or name in assume what is there already",
                if chosen.problems.len() > 1 {
                    format!(", and {} more like that", chosen.problems.len() - 1)
                } else {
                    String::new()
                }
            );
        }
        let mut newest = BTreeMap::new();
        for (suite, release) in &fetched.releases {
            let packages = held.get(suite).into_iter().flatten();
            let proofs = packages.filter_map(|package| package.proof).collect();
            if let Some((held, _)) = renewal::newest(job, &proofs, release, &keys)? {
                refuse_older(suite, release, &held)?;
                newest.insert(suite.clone(), held);
            }
        }
        self.take(job, fetched, chosen, newest, keys).await
    }
}

/// Refuses a release that is older than one that proves what is here: a mirror that went back, or an old one that somebody
/// gives out while it is valid.
fn refuse_older(suite: &Suite, release: &Release, newest: &Release) -> anyhow::Result<()> {
    if release.date_s < newest.date_s {
        let of = |s| jiff::Timestamp::from_second(s as i64).map(|time| time.to_string()).unwrap_or_default();
        bail!(
            "suite {suite}: the archive gives out its release of {}, and packages of that of {} are here already; it went \
             back, or this mirror of it is behind. What is here stays",
            of(release.date_s),
            of(newest.date_s)
        );
    }
    Ok(())
}

fn package_of(job: &Job, name: &PackageName) -> Option<Package> {
    match job.present(&ArtifactName::Package(name.clone()))? {
        ArtifactKind::Package(package) => Some(package),
        _ => None,
    }
}

impl Apt {
    fn keys(&self) -> anyhow::Result<Keys> {
        let path = self.keyring.display();
        let length = std::fs::metadata(&self.keyring).with_context(|| format!("cannot read {path}"))?.len();
        if length > PROOF_BYTES_MAX {
            bail!("{path} has {length} octets, a keyring has at most {PROOF_BYTES_MAX}");
        }
        let octets = std::fs::read(&self.keyring).with_context(|| format!("cannot read {path}"))?;
        keyring(&octets).with_context(|| format!("in {path}"))
    }

    fn request(&self, job: &Job, path: &str) -> anyhow::Result<Request> {
        Ok(Request::get(self.url.join(path)?).authorized(job.fetch.authorization()))
    }

    /// The packages that are meant, and what hinders. `debs` are those that are here.
    fn choose(&self, fetched: &Fetched, mut debs: BTreeSet<Sha256>) -> anyhow::Result<Chosen> {
        let (mut wanted, mut problems) = (BTreeSet::new(), Vec::new());
        for architecture in &self.architectures {
            let mut universe = Universe::default();
            let of = |index: &(usize, &Index)| index.1.architectures.contains(architecture);
            for (at, index) in fetched.indexes.iter().enumerate().filter(of) {
                let named = || format!("{} of suite {}", index.path, index.suite);
                for stanza in
                    Stanzas::new(&index.octets, Packing::of_path(&index.path)?).with_context(named)?
                {
                    universe.add(at, &stanza.with_context(named)?, self.recommends).with_context(named)?;
                }
            }
            let chosen = universe.choose(&self.packages, &self.assumed);
            problems.extend(chosen.unmatched.iter().map(|pattern| {
                format!("no package for {architecture} matches {pattern:?} in any suite of the source")
            }));
            problems.extend(
                chosen
                    .lacking
                    .iter()
                    .map(|what| format!("{what} for {architecture}, which no suite of the source has")),
            );
            for Candidate { index, name, version, architecture, path, deb, bytes, .. } in
                universe.packages(&chosen)
            {
                let of = fetched.indexes.get(*index).context("an index is gone")?;
                let name = PackageName::new(of.suite.clone(), &of.component, name, version, architecture)?;
                wanted.insert(Wanted { index: *index, name, path: path.clone(), deb: *deb, bytes: *bytes });
            }
        }
        // Packages for all architectures stand in the index of each.
        let mut names = BTreeSet::new();
        wanted.retain(|one| names.insert(one.name.clone()));
        debs.extend(wanted.iter().map(|one| one.deb));
        let mut whole = BTreeSet::new();
        for (at, index) in fetched.indexes.iter().enumerate() {
            // Most name a package near the beginning that is not taken.
            let mut is_whole = true;
            for stanza in Stanzas::new(&index.octets, Packing::of_path(&index.path)?)? {
                is_whole = debs.contains(&stanza?.place()?.1);
                if !is_whole {
                    break;
                }
            }
            whole.extend(is_whole.then_some(at));
        }
        Ok(Chosen { packages: wanted, whole, problems })
    }

    /// Downloads what is not here, and hands over what has changed, and what is proven anew.
    async fn take(
        &self,
        job: &Arc<Job>,
        fetched: Arc<Fetched>,
        chosen: Chosen,
        newest: BTreeMap<Suite, Release>,
        keys: Keys,
    ) -> anyhow::Result<()> {
        let is_here = |one: &Wanted| {
            package_of(job, &one.name).is_some_and(|here| here.deb == one.deb && here.proof.is_some())
        };
        let changed: BTreeSet<Wanted> = chosen.packages.iter().filter(|one| !is_here(one)).cloned().collect();
        let came = self.download(job, &changed).await;
        let lacking =
            changed.iter().filter(|one| !came.contains_key(&one.deb) && !job.holds(&one.deb)).count();
        if lacking > 0 {
            // What came is gone on with.
            bail!("{lacking} packages could not be had, and what depends on them is not taken without them");
        }
        let touched: BTreeSet<usize> = changed.iter().map(|one| one.index).collect();
        let chosen = Arc::new(chosen);
        let work = {
            let (job, fetched, chosen) = (job.clone(), fetched.clone(), chosen.clone());
            let touched = touched.clone();
            move || renewal::renewed(&job, &fetched, &chosen, &newest, &touched, &keys, clock_s())
        };
        let renewed = tokio::task::spawn_blocking(work).await.context("the look at proofs crashed")?;
        for one in chosen.packages.iter().filter(|one| !touched.contains(&one.index)) {
            job.unchanged(&ArtifactName::Package(one.name.clone()));
        }
        for at in touched {
            self.hand_over_all(job, &fetched, &chosen, at, &changed, &came).await?;
        }
        // What is new does not wait for what is only newer.
        for at in renewed.context("what is to be proven anew")? {
            let Some(index) = fetched.indexes.get(at) else { continue };
            let what = format!("{} of suite {}", index.path, index.suite);
            match self.hand_over_all(job, &fetched, &chosen, at, &changed, &came).await {
                Ok(()) => job.renewed(what),
                Err(error) => job.failed(&what, &error.context("it cannot be proven anew")),
            }
        }
        Ok(())
    }

    /// Hands over what is taken of one `Packages` file.
    async fn hand_over_all(
        &self,
        job: &Arc<Job>,
        fetched: &Fetched,
        chosen: &Chosen,
        at: usize,
        changed: &BTreeSet<Wanted>,
        came: &BTreeMap<Sha256, Downloaded>,
    ) -> anyhow::Result<()> {
        let index = fetched.indexes.get(at).context("an index is gone")?;
        let own: Vec<&Wanted> = chosen.packages.iter().filter(|one| one.index == at).collect();
        for chunk in own.chunks(CHUNK) {
            self.hand_over(job, index, chunk, changed, came).await?;
        }
        Ok(())
    }

    async fn download(&self, job: &Arc<Job>, wanted: &BTreeSet<Wanted>) -> BTreeMap<Sha256, Downloaded> {
        let mut tasks = JoinSet::new();
        for one in wanted.iter().filter(|one| !job.holds(&one.deb)) {
            let (job, one, request) = (job.clone(), one.clone(), self.request(job, &one.path));
            tasks.spawn(async move {
                let name = ArtifactName::Package(one.name);
                let came = async {
                    job.say(name.to_string());
                    anyhow::Ok(job.download(request?, Some(one.deb), Some(one.bytes)).await?)
                };
                match came.await {
                    Ok(came) => Some((one.deb, came)),
                    Err(error) => {
                        job.problem(&name, &error);
                        None
                    }
                }
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    }

    async fn hand_over(
        &self,
        job: &Arc<Job>,
        index: &Index,
        packages: &[&Wanted],
        changed: &BTreeSet<Wanted>,
        came: &BTreeMap<Sha256, Downloaded>,
    ) -> anyhow::Result<()> {
        let (mut items, mut held, mut names) = (Vec::new(), Vec::new(), Vec::new());
        let proof = [(Role::Release, &index.release), (Role::Index, &index.octets), (Role::Key, &index.key)];
        for (role, octets) in proof {
            let (source, bytes) = (job.keep(octets)?, octets.len() as u64);
            items.push(Item { source, path: format!("{role:?} of {}", index.path), role, bytes });
        }
        for one in packages {
            let name = ArtifactName::Package(one.name.clone());
            match came.get(&one.deb) {
                Some(came) => items.push(Item {
                    source: came.path.clone(),
                    path: one.path.clone(),
                    role: Role::Package,
                    bytes: came.bytes,
                }),
                None => held.push(one.deb),
            }
            if changed.contains(*one) { names.push(name) } else { job.unchanged(&name) }
        }
        let (suite, component) = (index.suite.to_string(), index.component.clone());
        let what = What::Packages { suite, component, held };
        let totals = job.submit(what, items, &names).await;
        totals.with_context(|| format!("{} of suite {}", index.path, index.suite))?;
        Ok(())
    }
}
