//! `submit image`: a container image, or any other OCI artifact, from an OCI layout, with everything that belongs to
//! it. What that is, command and daemon find out with the same rules ([`diodesync::release::image`]); the command to
//! say what is missing before anything is sent, the daemon because it trusts no command.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail};
use diodesync::id::{Channel, Sha256};
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::image::{Manifests, closure, parse_digest};
use diodesync::release::index::{ArtifactKind, Image};
use diodesync::release::{ArtifactName, ImageRepository, Tag};
use serde_json::{Value, json};

use super::command::Item;
use super::layout::{Layout, wrong_digest};
use super::server::{FrameReader, take_blob};
use super::{Role, Target, What};
use crate::ingest::Submission;

/// `submit image`.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// The folder of an OCI layout, as skopeo copy --all docker://IMAGE:TAG oci:DIR:TAG makes it
    #[arg(value_name = "OCI_LAYOUT")]
    layout: PathBuf,
    /// What the image is called, registry included: docker.io/library/alpine:3.20
    #[arg(long, value_name = "REGISTRY/REPOSITORY:TAG")]
    name: String,
    /// What it is called in the layout; needed if it is neither called TAG there nor the only one
    #[arg(long = "ref", value_name = "NAME")]
    reference: Option<String>,
    /// The channel to submit to
    #[arg(long, default_value = "main")]
    channel: Channel,
}

/// Submits an image, with the signatures, attestations and SBOMs that the layout holds for it.
pub async fn image(target: &Target, args: ImageArgs) -> anyhow::Result<Value> {
    let (repository, tag) = parse_name(&args.name)?;
    let layout = Layout::open(&args.layout)?;
    let root = layout.select(args.reference.as_deref(), &repository, &tag)?;
    let images = gather(&layout, &repository, tag, root)?;

    let manifests: BTreeSet<Sha256> =
        images.values().flat_map(|image| image.manifests.keys().copied()).collect();
    let blobs: BTreeSet<Sha256> = images.values().flat_map(|image| image.blobs.iter().copied()).collect();
    let blobs: Vec<Sha256> = blobs.difference(&manifests).copied().collect();
    let held = target.held(&blobs).await?;
    let item = |digest: Sha256, role| {
        let bytes = layout.bytes(&digest).context("a blob vanished from the layout")?;
        anyhow::Ok(Item { source: layout.path(&digest), path: format!("sha256:{digest}"), role, bytes })
    };
    let manifests = manifests.into_iter().map(|digest| item(digest, Role::Manifest));
    let blobs = blobs.into_iter().filter(|digest| !held.contains(digest));
    let items = manifests.chain(blobs.map(|digest| item(digest, Role::Blob))).collect::<Result<_, _>>()?;

    let tags = images.iter().map(|(tag, image)| (tag.to_string(), image.manifest)).collect();
    let what = What::Image { repository: repository.to_string(), tags, omitted: BTreeSet::new() };
    let mut answer = target.submit(args.channel, what, items).await?;
    let images = images.iter().map(|(tag, image)| {
        json!({
            "image": format!("{repository}:{tag}"), "manifest": format!("sha256:{}", image.manifest),
            "manifests": image.manifests.len(), "blobs": image.blobs.len(),
        })
    });
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("images".to_owned(), images.collect());
    }
    Ok(answer)
}

fn parse_name(name: &str) -> anyhow::Result<(ImageRepository, Tag)> {
    if name.contains('@') {
        bail!("--name {name}: expected a tag and no digest; the image keeps its digest as it is");
    }
    // A colon before the last slash is the registry's port.
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => Ok((repository.parse()?, tag.parse()?)),
        _ => bail!("--name {name}: expected REGISTRY/REPOSITORY:TAG, like ghcr.io/coder/coder:v2.13.1"),
    }
}

/// The image, and the tags of the layout that belong to one of its manifests, or to one of theirs.
fn gather(
    layout: &Layout,
    repository: &ImageRepository,
    tag: Tag,
    root: Sha256,
) -> anyhow::Result<BTreeMap<Tag, Image>> {
    let accessories = layout.accessories(repository)?;
    let mut images = BTreeMap::new();
    let mut open = vec![(tag, root)];
    while let Some((tag, root)) = open.pop() {
        let image = closure(root, &layout.manifests, |digest| layout.bytes(digest));
        let image = image.with_context(|| format!("{repository}:{tag} is not whole in the layout"))?;
        let belongs = accessories.iter().filter(|(_, (of, _))| image.manifests.contains_key(&of.0));
        let belongs: Vec<_> = belongs.map(|(tag, (_, digest))| (tag.clone(), *digest)).collect();
        images.insert(tag, image);
        open.extend(belongs.into_iter().filter(|(tag, _)| !images.contains_key(tag)));
    }
    Ok(images)
}

/// What is submitted, as [`What::Image`] says it.
pub(super) struct Named {
    pub repository: ImageRepository,
    pub tags: BTreeMap<String, Sha256>,
    pub omitted: BTreeSet<Sha256>,
}

/// The daemon's end: takes manifests and blobs, and makes an artifact of each tag. With `only_given`, blobs that are here
/// and were not named do not count.
pub(super) fn take(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
    Named { repository, tags, omitted }: Named,
    only_given: bool,
) -> anyhow::Result<()> {
    let mut manifests = Manifests::default();
    omitted.into_iter().for_each(|digest| manifests.omit(digest));
    let mut taken = BTreeSet::new();
    while let Some((path, role, bytes)) = frames.next_file()? {
        let expected = parse_digest(&path)?;
        match role {
            Role::Blob => {}
            Role::Manifest if bytes <= MANIFEST_BYTES_MAX => {}
            Role::Manifest => bail!("manifest {path} has {bytes} octets, the limit is {MANIFEST_BYTES_MAX}"),
            _ => bail!("{path} has no place in an image"),
        }
        let found = take_blob(submission, frames, bytes)?;
        if found != expected {
            bail!("{}", wrong_digest(&expected, &found));
        }
        if role == Role::Manifest {
            manifests.insert(&submission.whole(&found, MANIFEST_BYTES_MAX)?)?;
        }
        taken.insert(found);
    }
    if tags.is_empty() {
        bail!("no tag was given for {repository}");
    }
    for (tag, root) in tags {
        let tag: Tag = tag.parse()?;
        let image = closure(root, &manifests, |digest| {
            let blob = submission.blob(digest).filter(|_| !only_given || taken.contains(digest));
            blob.map(|blob| blob.bytes)
        });
        let image = image.with_context(|| format!("{repository}:{tag} is not whole"))?;
        // What was here before was not sent again.
        for held in image.blobs.iter().filter(|digest| taken.insert(**digest)) {
            submission.count_held(held);
        }
        tracing::info!(%repository, %tag, manifest = %root, manifests = image.manifests.len(), "image");
        submission.artifact(ArtifactName::Image(repository.clone(), tag), ArtifactKind::Image(image))?;
    }
    Ok(())
}
