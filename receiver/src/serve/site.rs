//! What is published, as one immutable snapshot with the tables that requests look names up in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use diodesync::id::{BlockId, Channel, ReleaseNo, Sha256};
use diodesync::limits::REFERRERS_BYTES_MAX;
use diodesync::pack::{Blobs, PackError, PackStore};
use diodesync::release::index::{Module, Provider, check_names};
use diodesync::release::package::{VersionTwice, check_versions};
use diodesync::release::{
    ArtifactKind, ArtifactName, Blob, Index, IndexError, ModuleAddress, ProviderAddress, Version,
};
use thiserror::Error;

use super::images::Images;
use crate::apt::Archive;

/// Why releases cannot be served beside each other.
#[derive(Debug, Error)]
pub enum SiteError {
    /// A version of a package in two channels is two things.
    #[error(transparent)]
    Version(#[from] VersionTwice),
    /// A channel has one published release.
    #[error("channel {channel} is to be published twice: as release {first} and as release {second}")]
    ChannelTwice {
        /// The channel.
        channel: Channel,
        /// One release.
        first: ReleaseNo,
        /// The other.
        second: ReleaseNo,
    },
    /// Two channels claim one name.
    #[error(
        "{name} is in channel {first} and in channel {second}; an artifact belongs to one channel, so take it out of \
         one of them on the low side"
    )]
    NameTwice {
        /// The artifact.
        name: Box<ArtifactName>,
        /// One channel.
        first: Channel,
        /// The other.
        second: Channel,
    },
    /// The union of the file trees is not one.
    #[error("the channels cannot be served as one tree: {0}; rename one of the files on the low side")]
    Tree(IndexError),
    /// More is said of manifests that refer to others than is kept in memory.
    #[error(
        "what the published manifests that refer to others (signatures, SBOMs) have in their annotations is more than \
         {REFERRERS_BYTES_MAX} octets; the images' publishers must shorten it, do not carry it"
    )]
    Referrers,
}

/// A blob that cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Its pack cannot be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// No index lists it.
    #[error("blob {0} is listed by no release that is served")]
    Unknown(Sha256),
    /// Its extents end too early.
    #[error("blob {digest} ends after octet {found} of {expected}; run diode-receiver verify")]
    Short {
        /// Which blob.
        digest: Sha256,
        /// The octets wanted.
        expected: u64,
        /// The octets there.
        found: u64,
    },
    /// A proof that is larger than any proof is.
    #[error("blob {digest} has {found} octets, and what it stands for has at most {max}")]
    Large {
        /// Which blob.
        digest: Sha256,
        /// Its octets.
        found: u64,
        /// The bound.
        max: u64,
    },
}

/// A published file.
#[derive(Debug, Clone, Copy)]
pub struct FileEntry {
    /// Its content.
    pub digest: Sha256,
    /// Its octets.
    pub bytes: u64,
    /// Whether it may be executed.
    pub executable: bool,
    /// The place of its release among [`Site::releases`].
    pub release: usize,
}

/// One page of a directory, in the order of its names.
#[derive(Debug, Default)]
pub struct Listing<'a> {
    /// Names of directories in it.
    pub directories: Vec<&'a str>,
    /// Names of files in it.
    pub files: Vec<(&'a str, FileEntry)>,
    /// Where the next page starts, if this one was full.
    pub next: Option<String>,
}

/// Modules and their versions.
pub type Modules = BTreeMap<ModuleAddress, BTreeMap<Version, Module>>;

/// What is published: the union of one release of each channel.
#[derive(Debug)]
pub struct Site {
    packs: Arc<PackStore>,
    releases: Vec<Arc<Index>>,
    kept: Vec<Arc<Index>>,
    providers: BTreeMap<ProviderAddress, BTreeMap<Version, Provider>>,
    modules: Modules,
    /// By path. The directories are implied: all that is in `a` lies side by side, as what starts with `a/`.
    files: BTreeMap<String, FileEntry>,
    images: Images,
    apt: Arc<Archive>,
}

impl Site {
    /// A site of one published release for each channel. Of no releases, it serves an empty tree.
    pub fn new(mut releases: Vec<Arc<Index>>, packs: Arc<PackStore>) -> Result<Self, SiteError> {
        releases.sort_by(|a, b| a.channel.cmp(&b.channel));
        for pair in releases.windows(2) {
            if let [a, b] = pair
                && a.channel == b.channel
            {
                let channel = a.channel.clone();
                return Err(SiteError::ChannelTwice { channel, first: a.number, second: b.number });
            }
        }
        let mut owners: BTreeMap<&ArtifactName, &Index> = BTreeMap::new();
        for index in &releases {
            for name in index.artifacts.keys() {
                if let Some(other) = owners.insert(name, index) {
                    return Err(SiteError::NameTwice {
                        name: Box::new(name.clone()),
                        first: other.channel.clone(),
                        second: index.channel.clone(),
                    });
                }
            }
        }
        check_names(owners.keys().copied()).map_err(SiteError::Tree)?;
        check_versions(releases.iter().flat_map(|index| &index.artifacts))?;
        drop(owners);

        let mut providers: BTreeMap<ProviderAddress, BTreeMap<Version, Provider>> = BTreeMap::new();
        let mut modules: Modules = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut images = Images::default();
        for (release, index) in releases.iter().enumerate() {
            images.add(index, &packs, false)?;
            for (name, kind) in &index.artifacts {
                match (name, kind) {
                    (ArtifactName::File(path), ArtifactKind::File { blob, executable }) => {
                        let bytes = index.blobs.get(blob).map_or(0, |blob| blob.bytes);
                        let entry = FileEntry { digest: *blob, bytes, executable: *executable, release };
                        files.insert(path.as_str().to_owned(), entry);
                    }
                    (ArtifactName::Provider(address, version), ArtifactKind::Provider(provider)) => {
                        if let Entry::Vacant(entry) =
                            providers.entry(address.clone()).or_default().entry(version.clone())
                        {
                            entry.insert(provider.clone());
                        }
                    }
                    (ArtifactName::Module(address, version), ArtifactKind::Module(module)) => {
                        modules.entry(address.clone()).or_default().insert(version.clone(), module.clone());
                    }
                    // No parser makes a name of one kind for a thing of another.
                    (
                        ArtifactName::File(_)
                        | ArtifactName::Provider(..)
                        | ArtifactName::Image(..)
                        | ArtifactName::Package(_)
                        | ArtifactName::Module(..),
                        _,
                    ) => {}
                }
            }
        }
        Ok(Self { packs, releases, kept: Vec::new(), providers, modules, files, images, apt: Arc::default() })
    }

    /// Lets the blobs of these releases be read by digest as well, so that who read the name of a blob just before a
    /// publication still gets it. Their blocks must stay on disk as long as this site is served.
    pub fn keeping(mut self, kept: Vec<Arc<Index>>) -> Self {
        for index in &kept {
            if let Err(error) = self.images.add(index, &self.packs, true) {
                tracing::warn!(%error, release = index.number.0, "images of the release before are not found by digest");
            }
        }
        self.kept = kept;
        self
    }

    /// With the archive of its packages.
    pub fn with_apt(mut self, apt: Archive) -> Self {
        self.apt = Arc::new(apt);
        self
    }

    /// The archive of its packages.
    pub fn apt(&self) -> &Archive {
        &self.apt
    }

    /// The releases whose blobs can still be read by digest.
    pub fn kept(&self) -> &[Arc<Index>] {
        &self.kept
    }

    /// The published releases, by channel.
    pub fn releases(&self) -> &[Arc<Index>] {
        &self.releases
    }

    /// The providers and their versions.
    pub fn providers(&self) -> &BTreeMap<ProviderAddress, BTreeMap<Version, Provider>> {
        &self.providers
    }

    /// The modules and their versions.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// The files by path.
    pub fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.files
    }

    /// The container images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// Whether there is such a directory. The empty path is the root, which is always there.
    pub fn is_directory(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        path.is_empty()
            || self
                .files
                .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                .next()
                .is_some_and(|(path, _)| path.starts_with(&prefix))
    }

    /// Up to `max` names in a directory, from the start or from where the page before said.
    pub fn list(&self, directory: &str, from: Option<&str>, max: usize) -> Listing<'_> {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let mut listing = Listing::default();
        let mut cursor = format!("{prefix}{}", from.unwrap_or_default());
        while let Some((path, entry)) =
            self.files.range::<str, _>((Bound::Included(cursor.as_str()), Bound::Unbounded)).next()
        {
            let Some(rest) = path.strip_prefix(&prefix) else { break };
            if listing.directories.len() + listing.files.len() == max {
                listing.next = Some(rest.split_inclusive('/').next().unwrap_or(rest).to_owned());
                break;
            }
            match rest.split_once('/') {
                Some((name, _)) => {
                    listing.directories.push(name);
                    // '0' follows '/': the first path that is not in that directory.
                    cursor = format!("{prefix}{name}0");
                }
                None => {
                    listing.files.push((rest, *entry));
                    // The first text after a text is itself and the lowest character.
                    cursor = format!("{path}\0");
                }
            }
        }
        listing
    }

    /// A blob of a published or kept release.
    pub fn blob(&self, digest: &Sha256) -> Option<&Blob> {
        self.releases.iter().chain(&self.kept).find_map(|index| index.blobs.get(digest))
    }

    /// A block that a blob lies in and that is known to be damaged.
    pub fn damage(&self, digest: &Sha256) -> Option<BlockId> {
        self.blob(digest)?.blocks().find(|block| self.packs.is_condemned(block))
    }

    /// Fills `out` from `offset` of a blob. Blocks the thread.
    pub fn read(&self, digest: &Sha256, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let blob = self.blob(digest).ok_or(ReadError::Unknown(*digest))?;
        let found = self.packs.read_blob(blob, offset, out)?;
        if found != out.len() {
            let (expected, found) = (offset + out.len() as u64, offset + found as u64);
            return Err(ReadError::Short { digest: *digest, expected, found });
        }
        Ok(())
    }

    /// A whole small blob. Blocks the thread.
    pub fn read_whole(&self, digest: &Sha256, max: u64) -> Result<Vec<u8>, ReadError> {
        let blob = self.blob(digest).ok_or(ReadError::Unknown(*digest))?;
        let large = ReadError::Large { digest: *digest, found: blob.bytes, max };
        self.packs.whole_blob(blob, max)?.ok_or(large)
    }
}
