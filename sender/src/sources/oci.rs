//! Container images, and everything else that a registry keeps under a tag, with what belongs to it: manifests by their
//! exact octets, so that digests and signatures hold on the far side.
//!
//! | module | what it rules |
//! |---|---|
//! | [`pattern`] | which tags are meant |
//! | [`registry`], [`challenge`] | how a registry is asked |
//! | [`gather`] | what belongs to a tag |
//! | [`cosign`] | whether it is signed by a given key |

mod challenge;
mod cosign;
mod gather;
pub(super) mod pattern;
pub(super) mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::release::image::ImagePlatform;
use diodesync::release::index::{ArtifactKind, Image};
use diodesync::release::{ArtifactName, ImageRepository, Tag};
use diodesync_control::table::Table;
use tokio::task::JoinSet;

use super::config::parse_path;
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};
use cosign::CosignKey;
use gather::{Gathered, Search};
use pattern::{ImagePattern, Tags};
pub(super) use registry::DOCKER_HUB;
use registry::Registry;

/// Tags that a pattern takes, if the source does not say otherwise.
const NEWEST_DEFAULT: u64 = 1;
/// Tags that a message names.
const NAMED_MAX: usize = 5;

/// The images of a source.
#[derive(Debug, Clone)]
pub struct Oci {
    images: Vec<ImagePattern>,
    /// How many tags each pattern takes.
    newest: usize,
    /// The platforms that are taken; all, if there is none.
    platforms: Vec<ImagePlatform>,
    cosign_key: Option<PathBuf>,
    /// Whether a tag may come to name something else.
    may_move: bool,
    plain_http: bool,
}

/// A tag that is to be pulled.
#[derive(Debug)]
struct Wanted {
    registry: Arc<Registry>,
    repository: ImageRepository,
    tag: Tag,
    /// The digest that it must name.
    pinned: Option<Sha256>,
    /// All tags of the repository, where they were listed.
    known: Option<Arc<BTreeSet<Tag>>>,
}

impl Pull for Oci {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        let images: Vec<ImagePattern> = table.list("images", str::parse)?.unwrap_or_default();
        if images.is_empty() {
            bail!(table.error_at("images", "images: expected images like \"ghcr.io/coder/coder:v2.*\""));
        }
        let registries: BTreeSet<&str> =
            images.iter().map(|image| image.repository.registry.as_str()).collect();
        if registries.len() > 1 && (table.has("token_file") || table.has("user_file")) {
            let list = registries.into_iter().collect::<Vec<_>>().join(", ");
            bail!(table.error_at(
                "images",
                format!(
                    "images: one credential would go to {list}; make a source of its own for each registry"
                )
            ));
        }
        Ok(Self {
            images,
            newest: table.number("newest", 1..=1000)?.unwrap_or(NEWEST_DEFAULT) as usize,
            platforms: table.list("platforms", str::parse)?.unwrap_or_default(),
            cosign_key: table.parsed("cosign_key", parse_path)?,
            may_move: table.parsed("moved_tags", parse_moved)?.unwrap_or(true),
            plain_http: table.flag("plain_http", false)?,
        })
    }

    fn homes(&self) -> Vec<Url> {
        self.images
            .iter()
            .filter_map(|image| registry::base(&image.repository, self.plain_http).ok())
            .collect()
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let key = self.cosign_key.as_deref().map(CosignKey::read).transpose()?;
        let wanted = self.wanted(job).await?;
        job.plan(wanted.len())?;
        for one in &wanted {
            let name = ArtifactName::Image(one.repository.clone(), one.tag.clone());
            if let Err(error) = self.pull_one(job, one, key.as_ref()).await {
                job.keep_all();
                job.problem(&name, &error);
            }
        }
        Ok(())
    }
}

fn parse_moved(text: &str) -> Result<bool, String> {
    match text {
        "take" => Ok(true),
        "refuse" => Ok(false),
        other => Err(format!("expected \"take\" or \"refuse\", found {other:?}")),
    }
}

impl Oci {
    /// The tags that the patterns mean now.
    async fn wanted(&self, job: &Arc<Job>) -> anyhow::Result<Vec<Wanted>> {
        let mut wanted: BTreeMap<(ImageRepository, Tag), Wanted> = BTreeMap::new();
        let mut registries: BTreeMap<ImageRepository, Arc<Registry>> = BTreeMap::new();
        let mut lists: BTreeMap<ImageRepository, Arc<BTreeSet<Tag>>> = BTreeMap::new();
        for image in &self.images {
            let repository = &image.repository;
            let registry = match registries.get(repository) {
                Some(registry) => registry.clone(),
                None => Arc::new(Registry::new(job.fetch.clone(), repository.clone(), self.plain_http)?),
            };
            registries.insert(repository.clone(), registry.clone());
            let tags = match &image.tags {
                Tags::One(tag, pinned) => vec![(tag.clone(), *pinned)],
                Tags::Pattern(pattern) => {
                    job.say(format!("the tags of {repository}"));
                    let listed = match lists.get(repository) {
                        Some(listed) => Ok(listed.clone()),
                        None => registry.tags().await.map(Arc::new),
                    };
                    let listed = match listed {
                        Ok(listed) => listed,
                        Err(error) => {
                            job.failed(&format!("images {image}"), &error);
                            continue;
                        }
                    };
                    lists.insert(repository.clone(), listed.clone());
                    match matching(pattern, &listed, self.newest) {
                        Ok(tags) => tags.into_iter().map(|tag| (tag, None)).collect(),
                        Err(error) => {
                            // Nobody knows whether they are gone, or the list is lacking.
                            job.keep_all();
                            job.problem(&format!("images {image}"), &error);
                            continue;
                        }
                    }
                }
            };
            for (tag, pinned) in tags {
                let (repository, registry) = (repository.clone(), registry.clone());
                let one = Wanted {
                    registry,
                    repository: repository.clone(),
                    tag: tag.clone(),
                    pinned,
                    known: None,
                };
                let place = wanted.entry((repository, tag)).or_insert(one);
                place.pinned = place.pinned.or(pinned);
            }
        }
        let mut wanted: Vec<Wanted> = wanted.into_values().collect();
        wanted.iter_mut().for_each(|one| one.known = lists.get(&one.repository).cloned());
        Ok(wanted)
    }

    async fn pull_one(&self, job: &Arc<Job>, one: &Wanted, key: Option<&CosignKey>) -> anyhow::Result<()> {
        let Wanted { registry, repository, tag, pinned, known } = one;
        let name = ArtifactName::Image(repository.clone(), tag.clone());
        job.say(name.to_string());
        let found = registry.manifest(tag.as_str()).await?;
        let (root, octets) = found.context("the registry has no such tag")?;
        if let Some(pinned) = pinned.filter(|pinned| *pinned != root) {
            bail!("the tag names sha256:{root}, and this source pins it to sha256:{pinned}; it was moved");
        }
        if let Some(ArtifactKind::Image(before)) = job.present(&name)
            && before.manifest != root
        {
            let before = before.manifest;
            if !self.may_move {
                bail!(
                    "the tag was moved: it named sha256:{before}, which is served on, and now names sha256:{root}; if that is \
                     meant, set moved_tags = \"take\" for one pull, or withdraw it first"
                );
            }
            tracing::warn!(
                source = job.source.name,
                "{name}: the tag was moved from sha256:{before} to sha256:{root}"
            );
        }
        let search = Search { registry, job, platforms: &self.platforms, known: known.as_deref() };
        let found = search.gather(tag.clone(), root, octets).await?;
        if let Some(key) = key {
            check_signature(registry, &found, key, root).await?;
        }
        take(job, registry, repository, found).await
    }
}

/// The newest tags that match.
fn matching(pattern: &str, listed: &BTreeSet<Tag>, newest: usize) -> anyhow::Result<Vec<Tag>> {
    let tags = pattern::newest(pattern, listed.iter(), newest);
    if tags.is_empty() {
        let some: Vec<&str> = listed.iter().rev().take(NAMED_MAX).map(Tag::as_str).collect();
        bail!(
            "none of the {} tags of the repository matches; it has tags like {}",
            listed.len(),
            some.join(", ")
        );
    }
    Ok(tags)
}

/// Refuses an image that the key did not sign.
async fn check_signature(
    registry: &Registry,
    found: &Gathered,
    key: &CosignKey,
    root: Sha256,
) -> anyhow::Result<()> {
    let tag: Tag = format!("sha256-{root}.sig").parse()?;
    let octets = found.tags.get(&tag).and_then(|digest| found.octets.get(digest));
    let octets = octets.with_context(|| {
        format!(
            "it has no signature by cosign (no tag {tag}), and this source takes none without (cosign_key)"
        )
    })?;
    let mut why = None;
    for signed in cosign::signatures(octets)? {
        let payload = registry.small_blob(&signed.payload, cosign::PAYLOAD_BYTES_MAX).await?;
        match cosign::check(key, &signed, &payload, &root) {
            Ok(()) => return Ok(()),
            Err(error) => why = Some(error),
        }
    }
    let why = why.map_or_else(|| "there is none under its tag".to_owned(), |error| error.to_string());
    bail!("its signature by cosign does not hold: {why}")
}

/// Downloads what is not here, and hands over what has changed.
async fn take(
    job: &Arc<Job>,
    registry: &Arc<Registry>,
    repository: &ImageRepository,
    found: Gathered,
) -> anyhow::Result<()> {
    let mut changed: BTreeMap<Tag, (Sha256, Image)> = BTreeMap::new();
    for (tag, root) in &found.tags {
        let image = found.image(*root).with_context(|| format!("{repository}:{tag}"))?;
        let name = ArtifactName::Image(repository.clone(), tag.clone());
        if job.present(&name) == Some(ArtifactKind::Image(image.clone())) {
            job.unchanged(&name);
        } else {
            changed.insert(tag.clone(), (*root, image));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let images = || changed.values().map(|(_, image)| image);
    let manifests: BTreeSet<Sha256> = images().flat_map(|image| image.manifests.keys().copied()).collect();
    let blobs: BTreeSet<Sha256> = images().flat_map(|image| image.blobs.iter().copied()).collect();
    let mut items = Vec::new();
    for digest in &manifests {
        let octets = found.octets.get(digest).context("a manifest that was just read is gone")?;
        let (source, bytes) = (job.keep(octets)?, octets.len() as u64);
        items.push(Item { source, path: format!("sha256:{digest}"), role: Role::Manifest, bytes });
    }
    let lacking = blobs.difference(&manifests).filter(|digest| !job.holds(digest));
    let mut tasks = JoinSet::new();
    for digest in lacking.copied() {
        let bytes = found.blobs.get(&digest).copied().unwrap_or_default();
        let (job, registry) = (job.clone(), registry.clone());
        tasks.spawn(async move {
            let blob = registry.blob(&job, &digest, bytes).await;
            blob.with_context(|| format!("blob sha256:{digest}")).map(|blob| (digest, blob))
        });
    }
    while let Some(came) = tasks.join_next().await {
        let (digest, blob) = came.context("a download crashed")??;
        let path = format!("sha256:{digest}");
        items.push(Item { source: blob.path, path, role: Role::Blob, bytes: blob.bytes });
    }
    let names: Vec<ArtifactName> =
        changed.keys().map(|tag| ArtifactName::Image(repository.clone(), tag.clone())).collect();
    let tags = changed.iter().map(|(tag, (root, _))| (tag.to_string(), *root)).collect();
    let omitted = images().flat_map(|image| image.omitted.iter().copied()).collect();
    let what = What::Image { repository: repository.to_string(), tags, omitted };
    job.submit(what, items, &names).await?;
    Ok(())
}
