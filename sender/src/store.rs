//! What the sender holds between runs.
//!
//! ```text
//! DIR/packs/ID.pack             bulk data
//! DIR/staged/00000001.index     what was submitted since the last release, one index each
//! DIR/releases/CHANNEL/N.index  what was released
//! DIR/repository                numbers and digests of the newest releases, versions of the metadata, ends of the packs (fact)
//! DIR/trust                     the newest TUF metadata, as it is sent; signed anew if it is not that of the repository
//! DIR/session                   the newest session number (fact)
//! DIR/withdrawn/CHANNEL         names that its next release does not serve any more (fact)
//! DIR/complete/CHANNEL          the newest release whose rounds are complete (fact)
//! DIR/damaged                   blocks of the packs that are not what they were (fact)
//! DIR/journal/                  how far it was sent
//! ```

mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::id::{BlockNo, Channel, PackId, ReleaseNo, SessionNo, Sha256};
use diodesync::pack::{PackStore, fact};
use diodesync::release::catalog::{Catalog, Heading};
use diodesync::release::index::{ArtifactKind, Index};
use diodesync::release::name::ArtifactName;
use diodesync::trust::{Bundle, Release, Repository, follow};
use serde::{Deserialize, Serialize};

use crate::random;
use crate::withdraw::{self, Withdrawn};

/// The newest releases and what is staged, in memory as on disk.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Blobs and blocks of everything below.
    pub catalog: Catalog,
    /// What was submitted and is not released, oldest first, with its number.
    pub staged: BTreeMap<u64, Index>,
    /// The newest release of each channel.
    pub newest: BTreeMap<Channel, Index>,
    /// What TUF says of them.
    pub repository: Repository,
    /// The newest TUF metadata; none before the first release, and after a crash between the two facts.
    pub bundle: Option<Bundle>,
    /// Numbers that a restored sender goes above.
    floors: BTreeMap<Channel, ReleaseNo>,
    /// Names that the next releases do not serve any more.
    withdrawn: Withdrawn,
}

/// `repository`, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct RepositoryFile {
    version: u64,
    timestamp_version: u64,
    releases: BTreeMap<Channel, ReleaseFile>,
    /// The snapshot that belongs to it.
    snapshot: Sha256,
    /// The first free block of each pack. Blocks before it may belong to releases that are not the newest, and what was
    /// sent never changes.
    pack_ends: BTreeMap<String, u32>,
    /// See [`Store::restore`].
    #[serde(default)]
    floors: BTreeMap<Channel, ReleaseNo>,
    /// What the metadata says of link keys.
    #[serde(default)]
    link_keys: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReleaseFile {
    number: ReleaseNo,
    bytes: u64,
    sha256: Sha256,
}

impl Store {
    /// Reads everything back.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        for sub in ["staged", "releases", "complete", "packs"] {
            std::fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("cannot create {}", dir.join(sub).display()))?;
        }
        let mut store = Self {
            dir: dir.to_owned(),
            catalog: Catalog::default(),
            staged: BTreeMap::new(),
            newest: BTreeMap::new(),
            repository: Repository::default(),
            bundle: None,
            floors: BTreeMap::new(),
            withdrawn: withdraw::open(dir)?,
        };
        store.open_repository()?;
        for entry in std::fs::read_dir(dir.join("staged")).context("cannot list what is staged")? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if let (Some(number), Some("index")) = (number, path.extension().and_then(|e| e.to_str())) {
                store.staged.insert(number, read_index(&path)?);
            }
        }
        for index in store.newest.values().chain(store.staged.values()) {
            store.catalog.absorb(index);
        }
        // What is damaged is said at the start and not when it is needed.
        store.newest.keys().try_for_each(|channel| store.last_full_s(channel).map(drop))?;
        Ok(store)
    }

    fn open_repository(&mut self) -> anyhow::Result<()> {
        let Some(content) = fact::read(&self.dir.join("repository"))? else {
            // It is written with the first release, and before the metadata.
            if self.dir.join("trust").exists()
                || self.releases()?.values().flatten().any(|number| number.0 > 1)
            {
                bail!(
                    "the fact file {} is missing although there are releases; it records numbers that must never be used \
                     again. Restore it from a backup of this host",
                    self.dir.join("repository").display()
                );
            }
            return Ok(());
        };
        let file: RepositoryFile =
            serde_json::from_slice(&content).context("the fact file repository is damaged")?;
        self.floors = file.floors;
        for (pack, end) in file.pack_ends {
            let pack: PackId = pack.parse().context("the fact file repository names a pack that is none")?;
            self.catalog.reserve(pack, BlockNo(end));
        }
        for (channel, release) in file.releases {
            let ReleaseFile { number, bytes, sha256 } = release;
            let index = self.release(&channel, number)?;
            if Sha256::of(&index.encode()) != sha256 {
                bail!(
                    "release {channel} {number} is not the one that was signed; restore its index from a backup"
                );
            }
            self.newest.insert(channel.clone(), index);
            self.repository.releases.insert(channel, Release { number, bytes, sha256 });
        }
        self.repository.link_keys = file.link_keys;
        self.repository.version = file.version;
        self.repository.timestamp_version = file.timestamp_version;
        if let Some(content) = fact::read(&self.dir.join("trust"))? {
            let bundle = Bundle::parse(&content).context("the fact file trust is damaged")?;
            // A crash before it was replaced left one that names older releases.
            self.bundle = Some(bundle).filter(|bundle| Sha256::of(&bundle.snapshot) == file.snapshot);
        }
        Ok(())
    }

    /// The folder of the packs.
    pub fn packs_dir(&self) -> PathBuf {
        self.dir.join("packs")
    }

    /// Reads a release.
    pub fn release(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Index> {
        read_index(&self.release_path(channel, number))
    }

    /// Where it is.
    pub fn release_path(&self, channel: &Channel, number: ReleaseNo) -> PathBuf {
        self.dir.join("releases").join(channel.as_str()).join(format!("{number}.index"))
    }

    /// Every TUF root since the pairing.
    pub fn roots(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut roots = Vec::new();
        for version in 1.. {
            let path = self.dir.join("roots").join(format!("{version}.json"));
            match std::fs::read(&path) {
                Ok(root) => {
                    roots.push(root);
                    follow(&roots).with_context(|| format!("{} is damaged", path.display()))?;
                }
                Err(_) if version > 1 => break,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            }
        }
        Ok(roots)
    }

    /// Stages an index: durable when this returns.
    pub fn stage(&mut self, index: Index) -> anyhow::Result<()> {
        // What is submitted again is not withdrawn any more.
        let mut names = self.withdrawn(&index.channel).clone();
        let before = names.len();
        names.retain(|name| !index.artifacts.keys().any(|artifact| artifact.to_string() == *name));
        if names.len() != before {
            self.set_withdrawn(&index.channel, names)?;
        }
        let number = self.staged.last_key_value().map_or(1, |(last, _)| last + 1);
        fact::write(&self.dir.join("staged").join(format!("{number:08}.index")), &index.encode())?;
        self.catalog.absorb(&index);
        self.staged.insert(number, index);
        Ok(())
    }

    /// What the next release of a channel would serve.
    pub fn present(&self, channel: &Channel) -> BTreeMap<ArtifactName, ArtifactKind> {
        let mut artifacts = self.newest.get(channel).map(|index| index.artifacts.clone()).unwrap_or_default();
        for index in self.staged.values().filter(|index| index.channel == *channel) {
            artifacts.extend(index.artifacts.clone());
        }
        let withdrawn = self.withdrawn(channel);
        if !withdrawn.is_empty() {
            artifacts.retain(|name, _| !withdrawn.contains(&name.to_string()));
        }
        artifacts
    }

    /// Names that the next release of a channel does not serve any more.
    pub fn withdrawn(&self, channel: &Channel) -> &BTreeSet<String> {
        static NOTHING: BTreeSet<String> = BTreeSet::new();
        self.withdrawn.get(channel).unwrap_or(&NOTHING)
    }

    /// Has the next release of a channel not serve these: durable when this returns.
    pub fn withdraw(&mut self, channel: &Channel, names: BTreeSet<String>) -> anyhow::Result<()> {
        let mut all = self.withdrawn(channel).clone();
        all.extend(names);
        self.set_withdrawn(channel, all)
    }

    fn set_withdrawn(&mut self, channel: &Channel, names: BTreeSet<String>) -> anyhow::Result<()> {
        withdraw::record(&self.dir, channel, &names)?;
        self.withdrawn.insert(channel.clone(), names);
        Ok(())
    }

    /// Records a release, with the metadata that signs it. What was staged for its channel is in it.
    pub fn commit_release(
        &mut self,
        index: Index,
        repository: Repository,
        bundle: Bundle,
    ) -> anyhow::Result<()> {
        let path = self.release_path(&index.channel, index.number);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fact::write(&path, &index.encode())?;
        self.write_repository(&repository, &bundle.snapshot)?;
        // From here on the number is taken, whatever fails.
        self.repository = repository;
        self.catalog.absorb(&index);
        self.newest.insert(index.channel.clone(), index.clone());
        self.bundle = Some(bundle);
        if let Err(error) = self.write_trust() {
            tracing::error!(
                error = format!("{error:#}"),
                "the metadata is kept in memory only; it is signed anew at the next start"
            );
        }
        let released: Vec<u64> = self
            .staged
            .iter()
            .filter(|(_, staged)| staged.channel == index.channel)
            .map(|(n, _)| *n)
            .collect();
        for number in released {
            let path = self.dir.join("staged").join(format!("{number:08}.index"));
            // One that stays says again what the release says.
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "what was released cannot be removed");
            }
            self.staged.remove(&number);
        }
        // If it stays, it speaks of names that are not there, or that a submission takes out of it.
        if !self.withdrawn(&index.channel).is_empty()
            && let Err(error) = self.set_withdrawn(&index.channel, BTreeSet::new())
        {
            tracing::warn!(error = format!("{error:#}"), "what was withdrawn cannot be forgotten");
        }
        Ok(())
    }

    /// Records metadata. The versions are durable before anything that was signed with them leaves.
    pub fn commit_metadata(&mut self, repository: Repository, bundle: Bundle) -> anyhow::Result<()> {
        self.write_repository(&repository, &bundle.snapshot)?;
        self.repository = repository;
        self.bundle = Some(bundle);
        self.write_trust()
    }

    /// The number above which a channel goes on after a restore.
    pub fn floor(&self, channel: &Channel) -> Option<ReleaseNo> {
        self.floors.get(channel).copied()
    }

    /// Takes up numbers that the backup has forgotten: the next release of a channel is above its floor, metadata is
    /// above `version`, sessions are above `session`. What the channels held is staged again under new packs' names,
    /// because on the high side other content may lie in the places of the old ones, also of what was submitted since
    /// the backup. Until the repository is written the old state holds, and a second call finds the same.
    pub fn restore(
        &mut self,
        floors: &BTreeMap<Channel, ReleaseNo>,
        version: u64,
        session: Option<u64>,
        now_s: u64,
    ) -> anyhow::Result<()> {
        let path = self.dir.join("session");
        if let Some(last) = read_number(&path)?.max(session) {
            fact::write(&path, last.to_string().as_bytes())?;
        }
        let packs = PackStore::open(&self.packs_dir())?;
        let mut names = BTreeMap::new();
        let channels: BTreeSet<Channel> =
            self.newest.keys().chain(self.staged.values().map(|index| &index.channel)).cloned().collect();
        let mut indexes = Vec::new();
        for channel in channels {
            let heading = Heading { channel, number: ReleaseNo(0), created_s: now_s, baseline: None };
            let present = self.present(&heading.channel);
            let index = self.catalog.compose(heading, present);
            let mut index = index
                .map_err(|digest| anyhow::anyhow!("blob {digest} is not in a pack; restore the packs"))?;
            rename_packs(&mut index, &mut names)?;
            indexes.push(index);
        }
        for (old, new) in &names {
            let (from, to) = (packs.path(*old), packs.path(*new));
            std::fs::hard_link(&from, &to)
                .with_context(|| format!("cannot name {} anew as {}", from.display(), to.display()))?;
        }
        fact::sync_dir(packs.dir())?;
        let before: Vec<u64> = self.staged.keys().copied().collect();
        for index in indexes {
            self.stage(index)?;
        }
        for number in before {
            self.staged.remove(&number);
        }
        for (channel, index) in std::mem::take(&mut self.newest) {
            self.raise_floor(channel, index.number);
        }
        for (channel, number) in floors {
            self.raise_floor(channel.clone(), *number);
        }
        self.catalog = Catalog::default();
        self.staged.values().for_each(|index| self.catalog.absorb(index));
        self.repository.version = self.repository.version.max(version);
        self.repository.timestamp_version = self.repository.timestamp_version.max(version);
        self.repository.releases.clear();
        self.bundle = None;
        // A snapshot that there is none of: everything is signed anew.
        self.write_repository(&self.repository, &[])?;
        // From here on the new names count.
        for entry in std::fs::read_dir(self.dir.join("staged"))? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            if number.is_some_and(|number: u64| !self.staged.contains_key(&number)) {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        // Nothing is built on releases from before, and they would keep the old packs' names in use.
        for folder in ["releases", "complete"].map(|name| self.dir.join(name)) {
            std::fs::remove_dir_all(&folder)
                .and_then(|()| std::fs::create_dir(&folder))
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        let kept: BTreeSet<PackId> = names.into_values().collect();
        for old in packs.list()?.into_iter().filter(|pack| !kept.contains(pack)) {
            let path = packs.path(old);
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    fn raise_floor(&mut self, channel: Channel, number: ReleaseNo) {
        let floor = self.floors.entry(channel).or_insert(number);
        *floor = number.max(*floor);
    }

    fn write_repository(&self, repository: &Repository, snapshot: &[u8]) -> anyhow::Result<()> {
        let releases = repository.releases.iter().map(|(channel, release)| {
            let Release { number, bytes, sha256 } = *release;
            (channel.clone(), ReleaseFile { number, bytes, sha256 })
        });
        let file = RepositoryFile {
            version: repository.version,
            timestamp_version: repository.timestamp_version,
            releases: releases.collect(),
            snapshot: Sha256::of(snapshot),
            floors: self.floors.clone(),
            link_keys: repository.link_keys.clone(),
            pack_ends: self.catalog.pack_ends().iter().map(|(pack, end)| (pack.to_string(), end.0)).collect(),
        };
        Ok(fact::write(&self.dir.join("repository"), &serde_json::to_vec_pretty(&file)?)?)
    }

    fn write_trust(&self) -> anyhow::Result<()> {
        let Some(bundle) = &self.bundle else { return Ok(()) };
        Ok(fact::write(&self.dir.join("trust"), &bundle.encode())?)
    }

    /// The newest release of a channel whose rounds are complete.
    pub fn complete(&self, channel: &Channel) -> anyhow::Result<Option<ReleaseNo>> {
        read_number(&self.dir.join("complete").join(channel.as_str())).map(|number| number.map(ReleaseNo))
    }

    /// Records that all rounds of a release went out.
    pub fn commit_complete(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<()> {
        let path = self.dir.join("complete").join(channel.as_str());
        Ok(fact::write(&path, number.to_string().as_bytes())?)
    }

    /// When a channel's last full release was cut, seconds since 1970.
    pub fn last_full_s(&self, channel: &Channel) -> anyhow::Result<Option<u64>> {
        read_number(&self.dir.join("full").join(channel.as_str()))
    }

    /// Records when a full release was cut.
    pub fn record_full(&self, channel: &Channel, now_s: u64) -> anyhow::Result<()> {
        let folder = self.dir.join("full");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(fact::write(&folder.join(channel.as_str()), now_s.to_string().as_bytes())?)
    }

    /// Takes a session number that was never used, and makes it durable.
    pub fn next_session(&self, clock_ms: u64) -> anyhow::Result<SessionNo> {
        let path = self.dir.join("session");
        let last = read_number(&path)?.unwrap_or(0);
        let number = clock_ms.max(last + 1);
        fact::write(&path, number.to_string().as_bytes())?;
        Ok(SessionNo(number))
    }
}

/// Gives every pack that an index names another name, the same for all indexes.
fn rename_packs(index: &mut Index, names: &mut BTreeMap<PackId, PackId>) -> anyhow::Result<()> {
    for old in index.packs.keys() {
        if !names.contains_key(old) {
            names.insert(*old, PackId(random::array()?));
        }
    }
    let name = |old: &PackId| names.get(old).copied().unwrap_or(*old);
    index.packs =
        std::mem::take(&mut index.packs).into_iter().map(|(old, runs)| (name(&old), runs)).collect();
    let extents = index.blobs.values_mut().flat_map(|blob| &mut blob.extents);
    extents.for_each(|extent| extent.pack = name(&extent.pack));
    Ok(())
}

fn read_number(path: &Path) -> anyhow::Result<Option<u64>> {
    let Some(content) = fact::read(path)? else { return Ok(None) };
    let number = std::str::from_utf8(&content).ok().and_then(|text| text.parse().ok());
    Ok(Some(number.with_context(|| format!("the fact file {} holds no number", path.display()))?))
}

/// Reads an index that was released or staged.
pub fn read_index(path: &Path) -> anyhow::Result<Index> {
    let content = fact::read(path)?.with_context(|| format!("{} is missing", path.display()))?;
    Index::parse(&content).with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use diodesync::trust::{RoleKey, RoleKeys};

    use super::*;
    use crate::ingest::Submission;
    use diodesync::pack::Blobs;
    use std::sync::Mutex;

    const NOW_S: u64 = 1_795_000_000;

    pub(super) fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("diode-sender-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("roots")).unwrap();
        let root = keys().root(&RoleKey::from_seed(&[3; 32]), 1, NOW_S);
        std::fs::write(dir.join("roots/1.json"), root).unwrap();
        dir
    }

    fn keys() -> RoleKeys {
        RoleKeys { targets: RoleKey::from_seed(&[1; 32]), timestamp: RoleKey::from_seed(&[2; 32]) }
    }

    /// Submits a file, and releases it.
    pub(super) fn release(dir: &Path, store: &Mutex<Store>, path: &str, octets: &[u8]) -> Index {
        let packs = PackStore::open(&dir.join("packs")).unwrap();
        let mut submission = Submission::begin(&packs, store, Channel::main()).unwrap();
        let blob = submission.put(octets).unwrap();
        let name = ArtifactName::File(path.parse().unwrap());
        submission.artifact(name, ArtifactKind::File { blob, executable: false }).unwrap();
        submission.finish(NOW_S, &|_| Ok(())).unwrap();
        let mut store = store.lock().unwrap();
        let number = ReleaseNo(store.newest.get(&Channel::main()).map_or(1, |index| index.number.0 + 1));
        let heading = diodesync::release::catalog::Heading {
            channel: Channel::main(),
            number,
            created_s: NOW_S,
            baseline: None,
        };
        let index = store.catalog.compose(heading, store.present(&Channel::main())).unwrap();
        let (bytes, mut repository) = (index.encode(), store.repository.clone());
        repository.version += 1;
        repository.timestamp_version += 1;
        let release = Release { number, bytes: bytes.len() as u64, sha256: Sha256::of(&bytes) };
        repository.releases.insert(Channel::main(), release);
        let bundle = repository.sign(&keys(), store.roots().unwrap(), NOW_S, 7);
        store.commit_release(index.clone(), repository, bundle).unwrap();
        index
    }

    #[test]
    fn a_restart_forgets_no_block_that_an_older_release_sent() {
        let dir = folder("ends");
        let store = Mutex::new(Store::open(&dir).unwrap());
        let first = release(&dir, &store, "a", b"one");
        let second = release(&dir, &store, "a", b"two");
        // The first content again: the newest release needs nothing of what the second one sent.
        let third = release(&dir, &store, "a", b"one");
        assert!(first.blocks().eq(third.blocks()) && !first.blocks().eq(second.blocks()));
        let store = Mutex::new(Store::open(&dir).unwrap());
        let fourth = release(&dir, &store, "b", b"three");
        let sent: BTreeMap<_, _> = second.blocks().map(|block| (block.id, block)).collect();
        assert!(fourth.blocks().all(|block| sent.get(&block.id).is_none_or(|sent| *sent == block)));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_restored_store_goes_above_its_numbers_under_new_names() {
        let dir = folder("restored");
        let store = Mutex::new(Store::open(&dir).unwrap());
        let first = release(&dir, &store, "a", b"one");
        let second = release(&dir, &store, "b", b"two");
        // Twice, as after a power cut in the middle.
        for _ in 0..2 {
            let mut store = Store::open(&dir).unwrap();
            store.restore(&BTreeMap::from([(Channel::main(), ReleaseNo(7))]), 40, Some(99), NOW_S).unwrap();
        }
        let store = Store::open(&dir).unwrap();
        assert_eq!(store.floor(&Channel::main()), Some(ReleaseNo(7)));
        assert_eq!((store.repository.version, store.repository.timestamp_version), (40, 40));
        assert_eq!(store.next_session(5).unwrap(), SessionNo(100));
        assert_eq!(store.present(&Channel::main()), second.artifacts);
        let packs = PackStore::open(&dir.join("packs")).unwrap();
        let old: BTreeSet<_> = first.packs.keys().chain(second.packs.keys()).collect();
        assert!(packs.list().unwrap().iter().all(|pack| !old.contains(pack)));
        for digest in second.blobs.keys() {
            let octets = packs.whole_blob(store.catalog.blob(digest).unwrap(), 99).unwrap().unwrap();
            assert_eq!(Sha256::of(&octets), *digest);
        }
        let keys = crate::init::Keys {
            link: diodesync::link::LinkKey::from_seed(&[3; 32]),
            roles: crate::rotate::Roles::new(keys()),
            pairing: diodesync::link::PairingSecret([4; 32]),
            dir: dir.join("keys"),
        };
        let store = Mutex::new(store);
        let (cut, _) =
            crate::release::cut(&store, &keys, &Channel::main(), false, NOW_S, 7, &|_| Ok(())).unwrap();
        assert_eq!((cut.number, cut.baseline, cut.artifacts), (ReleaseNo(8), None, 2));
        assert_eq!(store.lock().unwrap().repository.version, 41);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn metadata_that_a_crash_left_behind_is_signed_anew() {
        let dir = folder("between");
        let store = Mutex::new(Store::open(&dir).unwrap());
        release(&dir, &store, "a", b"one");
        let before = std::fs::read(dir.join("trust")).unwrap();
        release(&dir, &store, "a", b"two");
        // A crash after the repository was recorded, and before the metadata.
        for left in [Some(before), None] {
            match left {
                Some(before) => std::fs::write(dir.join("trust"), before).unwrap(),
                None => std::fs::remove_file(dir.join("trust")).unwrap(),
            }
            let store = Store::open(&dir).unwrap();
            assert_eq!(store.newest[&Channel::main()].number, ReleaseNo(2));
            assert_eq!(store.bundle, None);
            let keys = crate::init::Keys {
                link: diodesync::link::LinkKey::from_seed(&[3; 32]),
                roles: crate::rotate::Roles::new(keys()),
                pairing: diodesync::link::PairingSecret([4; 32]),
                dir: dir.join("keys"),
            };
            let version = store.repository.version;
            let store = Mutex::new(store);
            crate::release::renew_timestamp(&store, &keys, NOW_S, 7).unwrap();
            assert_eq!(store.lock().unwrap().repository.version, version + 1, "never signed twice");
            assert_eq!(Store::open(&dir).unwrap().bundle, store.lock().unwrap().bundle);
            assert!(store.lock().unwrap().bundle.is_some());
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
