//! An OCI image layout on disk (OCI image specification 1.1, image layout): `oci-layout`, `index.json` and
//! `blobs/sha256/HEX`. Reading only; which of its images is meant is decided here too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::image::{Accessory, Descriptor, Manifest, ManifestType, Manifests};
use diodesync::release::{ImageRepository, Tag};

/// Octets of the `oci-layout` file.
const MARK_BYTES_MAX: u64 = 4096;

/// A layout, with every manifest that can be reached from its `index.json`.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    /// What `index.json` lists.
    entries: Vec<Descriptor>,
    /// What was read.
    pub manifests: Manifests,
}

impl Layout {
    /// Reads a layout's manifests; a manifest whose octets are not those that its name says is an error.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        check_is_layout(dir)?;
        let path = dir.join("index.json");
        let octets = read(&path, MANIFEST_BYTES_MAX)?;
        let index = Manifest::parse(&octets).with_context(|| format!("{} is refused", path.display()))?;
        if index.kind != ManifestType::OciIndex {
            bail!("{} is of type {}, expected an image index", path.display(), index.kind.media_type());
        }
        let mut layout =
            Self { dir: dir.to_owned(), entries: index.manifests, manifests: Manifests::default() };
        let mut open = layout.entries.clone();
        while let Some(entry) = open.pop() {
            // What is no manifest, or not there, is an error when an image needs it, and not before.
            let is_needed =
                ManifestType::of(&entry.media_type).is_ok() && layout.bytes(&entry.digest).is_some();
            if is_needed && layout.manifests.get(&entry.digest).is_none() {
                layout.read_manifest(&entry.digest)?;
                let manifest = layout.manifests.get(&entry.digest);
                open.extend(manifest.into_iter().flat_map(|manifest| manifest.manifests.iter().cloned()));
            }
        }
        Ok(layout)
    }

    fn read_manifest(&mut self, digest: &Sha256) -> anyhow::Result<()> {
        let path = self.path(digest);
        let octets = read(&path, MANIFEST_BYTES_MAX)?;
        let found = Sha256::of(&octets);
        if found != *digest {
            bail!("{}", wrong_digest(digest, &found));
        }
        self.manifests
            .insert(&octets)
            .with_context(|| format!("the layout {} is refused", self.dir.display()))?;
        Ok(())
    }

    /// Where a blob is, if it is there.
    pub fn path(&self, digest: &Sha256) -> PathBuf {
        self.dir.join("blobs").join("sha256").join(digest.to_string())
    }

    /// The octets of a blob, if it is there.
    pub fn bytes(&self, digest: &Sha256) -> Option<u64> {
        let metadata = std::fs::metadata(self.path(digest)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// The image that is meant: the one called `wanted`; else the one that is called like the tag; else the only one.
    pub fn select(
        &self,
        wanted: Option<&str>,
        repository: &ImageRepository,
        tag: &Tag,
    ) -> anyhow::Result<Sha256> {
        let found: Vec<&Descriptor> = match wanted {
            Some(wanted) => {
                let is_it = |entry: &&Descriptor| {
                    entry.ref_name.as_deref() == Some(wanted)
                        || wanted.strip_prefix("sha256:") == Some(&entry.digest.to_string())
                };
                self.entries.iter().filter(is_it).collect()
            }
            None => {
                let is_it = |entry: &&Descriptor| own_tag(entry, repository).is_some_and(|own| own == *tag);
                let named: Vec<_> = self.entries.iter().filter(is_it).collect();
                if named.is_empty() { self.images(repository) } else { named }
            }
        };
        let digests: BTreeSet<Sha256> = found.iter().map(|entry| entry.digest).collect();
        let dir = self.dir.display();
        match (found.first(), digests.len(), wanted) {
            (Some(entry), 1, _) => self.check_entry(entry),
            (None, _, Some(wanted)) => {
                let images = names(&self.images(repository));
                bail!("the layout {dir} has no image called {wanted:?}; it has {images}")
            }
            (None, _, None) => bail!("the layout {dir} has no image: its index.json lists none"),
            (Some(_), ..) => {
                let images = names(&found);
                bail!("the layout {dir} has several images; say which with --ref: {images}")
            }
        }
    }

    /// What could be meant: all that has a name but for signatures; if nothing has, all that belongs to nothing else.
    fn images(&self, repository: &ImageRepository) -> Vec<&Descriptor> {
        let named = |entry: &&Descriptor| {
            let is_accessory = own_tag(entry, repository).is_some_and(|own| Accessory::of(&own).is_some());
            entry.ref_name.is_some() && !is_accessory
        };
        let found: Vec<_> = self.entries.iter().filter(named).collect();
        if !found.is_empty() {
            return found;
        }
        let below: BTreeSet<Sha256> = self
            .manifests
            .iter()
            .flat_map(|(_, manifest)| manifest.manifests.iter().map(|child| child.digest))
            .collect();
        let belongs_to_nothing = |entry: &&Descriptor| {
            let refers = self.manifests.get(&entry.digest).is_some_and(|manifest| manifest.subject.is_some());
            entry.ref_name.is_none() && !below.contains(&entry.digest) && !refers
        };
        self.entries.iter().filter(belongs_to_nothing).collect()
    }

    /// The tags that say that they belong to a manifest.
    pub fn accessories(
        &self,
        repository: &ImageRepository,
    ) -> anyhow::Result<BTreeMap<Tag, (Accessory, Sha256)>> {
        let mut found = BTreeMap::new();
        for entry in &self.entries {
            let Some(tag) = own_tag(entry, repository) else { continue };
            let Some(accessory) = Accessory::of(&tag) else { continue };
            let digest = entry.digest;
            if let Some((_, other)) = found.insert(tag.clone(), (accessory, digest))
                && other != digest
            {
                bail!("the layout has two manifests called {tag}: sha256:{other} and sha256:{digest}");
            }
        }
        Ok(found)
    }

    /// Checks an entry of `index.json` that is used, and returns its digest.
    fn check_entry(&self, entry: &Descriptor) -> anyhow::Result<Sha256> {
        let digest = entry.digest;
        let kind = ManifestType::of(&entry.media_type).with_context(|| {
            format!("index.json of the layout {} names sha256:{digest}", self.dir.display())
        })?;
        let manifest = self.manifests.get(&digest).with_context(|| {
            format!("index.json names sha256:{digest}, and {} is missing", self.path(&digest).display())
        })?;
        if manifest.kind != kind || manifest.bytes != entry.bytes {
            bail!(
                "index.json says that sha256:{digest} is of type {} and has {} octets; it is of type {} and has {}",
                entry.media_type,
                entry.bytes,
                manifest.kind.media_type(),
                manifest.bytes
            );
        }
        Ok(digest)
    }
}

/// What the command and the daemon say when a blob is another one.
pub fn wrong_digest(expected: &Sha256, found: &Sha256) -> String {
    format!(
        "blobs/sha256/{expected} of the layout has SHA-256 {found}: the layout is damaged; make it again from its source"
    )
}

/// The tag that an entry's name means in this repository: layouts hold tags, and some hold whole references.
fn own_tag(entry: &Descriptor, repository: &ImageRepository) -> Option<Tag> {
    let name = entry.ref_name.as_deref()?;
    let own = name.strip_prefix(&repository.to_string()).and_then(|rest| rest.strip_prefix(':'));
    own.unwrap_or(name).parse().ok()
}

fn names(entries: &[&Descriptor]) -> String {
    let name = |entry: &&Descriptor| match &entry.ref_name {
        Some(name) => format!("{name:?}"),
        None => format!("sha256:{}", entry.digest),
    };
    let mut all: Vec<String> = entries.iter().map(name).collect();
    let more = all.len().saturating_sub(20);
    all.truncate(20);
    match (all.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => all.join(", "),
        (false, more) => format!("{} and {more} more", all.join(", ")),
    }
}

fn check_is_layout(dir: &Path) -> anyhow::Result<()> {
    let shown = dir.display();
    let metadata = std::fs::metadata(dir).with_context(|| format!("cannot read {shown}"))?;
    if !metadata.is_dir() {
        bail!(
            "{shown} is a file; expected the folder of an OCI layout. If it is an OCI archive, unpack it: \
             mkdir layout && tar -xf {shown} -C layout"
        );
    }
    let mark = dir.join("oci-layout");
    if !mark.exists() {
        let hint = if dir.join("manifest.json").exists() {
            "it looks like an unpacked docker archive; convert that with: skopeo copy docker-archive:FILE oci:DIR:TAG"
        } else {
            "make one with: skopeo copy --all docker://IMAGE:TAG oci:DIR:TAG"
        };
        bail!("{shown} is not an OCI layout: it has no file oci-layout; {hint}");
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mark {
        image_layout_version: String,
    }
    let octets = read(&mark, MARK_BYTES_MAX)?;
    let version = serde_json::from_slice::<Mark>(&octets)
        .with_context(|| format!("{} is not understood", mark.display()))?
        .image_layout_version;
    if version != "1.0.0" {
        bail!("{} says version {version:?}; expected 1.0.0", mark.display());
    }
    Ok(())
}

/// Reads a small file whole.
fn read(path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut octets = Vec::new();
    file.take(max + 1).read_to_end(&mut octets).with_context(|| format!("cannot read {}", path.display()))?;
    if octets.len() as u64 > max {
        bail!("{} has more than {max} octets, the limit", path.display());
    }
    Ok(octets)
}
