//! Everything that belongs to a tag, found in a registry: the manifests below it, of the platforms that are wanted; what
//! refers to any of them, by the registry's list; and what cosign and registries without such a list put under tags of
//! their own ([`Accessory`]), for child manifests too. What has to be there is then said by the rules that both sides
//! share ([`diodesync::release::image`]).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::{IMAGE_MANIFESTS_MAX, MANIFEST_BYTES_MAX};
use diodesync::release::Tag;
use diodesync::release::image::{Accessory, Descriptor, ImagePlatform, Manifest, Manifests, closure};
use diodesync::release::index::Image;

use super::registry::Registry;
use crate::sources::Job;

/// What follows the digest in the tags of what belongs to it.
const KINDS: [&str; 4] = ["", ".sig", ".att", ".sbom"];

/// Octets of all manifests of one tag, which are held in memory: some thousand times what an image has.
const MANIFESTS_BYTES_MAX: usize = 64 << 20;

/// What was found for one tag.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The tag, and those of what belongs to it, with their manifests.
    pub tags: BTreeMap<Tag, Sha256>,
    /// The octets of each manifest.
    pub octets: BTreeMap<Sha256, Bytes>,
    /// Manifests of platforms that are not wanted.
    pub omitted: BTreeSet<Sha256>,
    /// Octets of configurations and layers, as the manifests say.
    pub blobs: BTreeMap<Sha256, u64>,
    manifests: Manifests,
}

impl Gathered {
    /// Refuses what no image has, while it is being read.
    fn check_size(&self) -> anyhow::Result<()> {
        let (count, bytes) = (self.octets.len() as u64, self.octets.values().map(Bytes::len).sum::<usize>());
        if count > IMAGE_MANIFESTS_MAX || self.tags.len() as u64 > IMAGE_MANIFESTS_MAX {
            bail!("more than {IMAGE_MANIFESTS_MAX} manifests or tags belong to it, the limit");
        }
        if bytes > MANIFESTS_BYTES_MAX {
            bail!("its manifests have more than {} MiB, the limit", MANIFESTS_BYTES_MAX >> 20);
        }
        Ok(())
    }

    /// What is to be served under a tag.
    pub fn image(&self, root: Sha256) -> anyhow::Result<Image> {
        let mut manifests = self.manifests.clone();
        self.omitted.iter().for_each(|digest| manifests.omit(*digest));
        Ok(closure(root, &manifests, |digest| self.blobs.get(digest).copied())?)
    }
}

/// Where it is looked.
#[derive(Debug)]
pub struct Search<'a> {
    /// The repository.
    pub registry: &'a Registry,
    /// What is here already.
    pub job: &'a Job,
    /// The platforms that are wanted; all, if there is none.
    pub platforms: &'a [ImagePlatform],
    /// All tags of the repository, where they were listed.
    pub known: Option<&'a BTreeSet<Tag>>,
}

impl Search<'_> {
    /// Finds everything that belongs to a tag whose manifest was read.
    pub async fn gather(&self, tag: Tag, root: Sha256, octets: Bytes) -> anyhow::Result<Gathered> {
        let mut found = Gathered::default();
        found.tags.insert(tag, root);
        found.octets.insert(root, octets);
        let mut open = vec![root];
        let mut seen = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            if seen.len() as u64 > IMAGE_MANIFESTS_MAX {
                bail!("more than {IMAGE_MANIFESTS_MAX} manifests belong to it, the limit");
            }
            self.job.say(format!("manifest sha256:{digest}"));
            let octets = match found.octets.get(&digest) {
                Some(octets) => octets.clone(),
                None => self.manifest(&digest).await?,
            };
            found.manifests.insert(&octets)?;
            found.octets.insert(digest, octets);
            found.check_size()?;
            let manifest =
                found.manifests.get(&digest).cloned().context("a manifest that was just read is gone")?;
            found.blobs.extend(manifest.blobs.iter().map(|blob| (blob.digest, blob.bytes)));
            let (kept, left_out) = self.choose(&manifest)?;
            open.extend(kept.iter().map(|child| child.digest));
            found.omitted.extend(left_out);
            open.extend(self.registry.referrers(&digest).await?.unwrap_or_default());
            self.accessories(&digest, &mut found, &mut open).await?;
        }
        // What is left out of one index may be needed by another.
        found.omitted.retain(|digest| !seen.contains(digest));
        Ok(found)
    }

    /// A manifest, from here or from the registry.
    async fn manifest(&self, digest: &Sha256) -> anyhow::Result<Bytes> {
        if let Some(octets) = self.job.held(digest, MANIFEST_BYTES_MAX)? {
            return Ok(octets.into());
        }
        let found = self.registry.manifest(&format!("sha256:{digest}")).await?;
        let (_, octets) =
            found.with_context(|| format!("the registry names manifest sha256:{digest} and has none"))?;
        Ok(octets)
    }

    /// The children that are wanted, and the digests of the others. What an index says of no platform is wanted, and what
    /// describes another manifest is wanted with it.
    fn choose<'m>(&self, manifest: &'m Manifest) -> anyhow::Result<(Vec<&'m Descriptor>, Vec<Sha256>)> {
        if self.platforms.is_empty() {
            return Ok((manifest.manifests.iter().collect(), Vec::new()));
        }
        let own = |child: &&Descriptor| child.platform.is_some() && child.describes.is_none();
        let is_wanted = |child: &&Descriptor| {
            child.platform.as_ref().is_none_or(|own| self.platforms.iter().any(|wanted| own.is(wanted)))
        };
        let children = manifest.manifests.iter();
        let wanted: BTreeSet<Sha256> = children
            .clone()
            .filter(|child| child.describes.is_none())
            .filter(is_wanted)
            .map(|child| child.digest)
            .collect();
        if let (true, Some(_)) = (wanted.is_empty(), children.clone().find(own)) {
            let list = |all: &mut dyn Iterator<Item = String>| all.take(20).collect::<Vec<_>>().join(", ");
            bail!(
                "expected an image for {}, found only {}; correct the platforms of the source",
                list(&mut self.platforms.iter().map(ToString::to_string)),
                list(
                    &mut children
                        .filter(own)
                        .filter_map(|child| child.platform.as_ref())
                        .map(ToString::to_string)
                ),
            );
        }
        let (kept, left_out): (Vec<_>, Vec<_>) =
            children.partition(|child| wanted.contains(&child.describes.unwrap_or(child.digest)));
        Ok((kept, left_out.into_iter().map(|child| child.digest).collect()))
    }

    /// What is found under the tags that say that they belong to a manifest.
    async fn accessories(
        &self,
        digest: &Sha256,
        found: &mut Gathered,
        open: &mut Vec<Sha256>,
    ) -> anyhow::Result<()> {
        let name = format!("sha256-{digest}");
        let tags: Vec<Tag> = match self.known {
            Some(known) => {
                let is_of = |tag: &&Tag| Accessory::of(tag) == Some(Accessory(*digest));
                known.iter().filter(is_of).cloned().collect()
            }
            None => KINDS.iter().filter_map(|kind| format!("{name}{kind}").parse().ok()).collect(),
        };
        for tag in tags {
            if let Some((root, octets)) = self.registry.manifest(tag.as_str()).await? {
                found.tags.insert(tag, root);
                found.octets.insert(root, octets);
                found.check_size()?;
                open.push(root);
            }
        }
        Ok(())
    }
}
