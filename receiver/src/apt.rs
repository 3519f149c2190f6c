//! The published packages as a Debian archive, signed with the site's own key.
//!
//! ```text
//! dists/SUITE/InRelease, Release, Release.gpg
//! dists/SUITE/COMPONENT/binary-ARCH/Packages           and the same by-hash/SHA256/HEX
//! pool/SHA256/PACKAGE_VERSION_ARCH.deb                 straight out of packs
//! ```
//!
//! A mirror of a part of an archive cannot be signed by the archive's key, so the site signs: its `Release` says what is
//! here, and lives for [`VALID_DAYS`], renewed every day for as long as the gateway lives. Packages of architecture `all`
//! have an index of their own, which apt takes with any architecture's. Indexes that were replaced stay under their
//! digests for [`BY_HASH_KEPT_S`], for a client in the middle of an update. A suite that is here whole is served beside it
//! as its archive signed it ([`replay`]).
//!
//! Formats: <https://wiki.debian.org/DebianRepository/Format>.

mod replay;
mod signer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::CONTROL_BYTES_MAX;
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::package::Control;
use diodesync::release::{ArtifactKind, ArtifactName, Index, Suite};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use replay::Replay;
pub use signer::Signer;

/// Days after which a client takes the archive for stale.
pub const VALID_DAYS: u64 = 14;
/// Seconds after which everything is signed anew.
pub const RENEW_S: u64 = 86_400;
/// Seconds for which an index that was replaced stays under its digest.
pub const BY_HASH_KEPT_S: u64 = 2 * 86_400;
/// Octets of replaced indexes that are kept; the oldest go first.
const BY_HASH_KEPT_BYTES: usize = 64 << 20;

/// Text that a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub Bytes);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.0).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.into()))
    }
}

/// What apt is served, besides the packages.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// By path below the archive.
    files: BTreeMap<String, Text>,
    /// Paths under a digest, and when each was last part of the archive, seconds since 1970.
    by_hash: BTreeMap<String, u64>,
    /// Suites with their components.
    suites: BTreeMap<String, BTreeSet<String>>,
    /// Suites that are here whole, as their archives signed them.
    #[serde(default)]
    replays: BTreeMap<String, Replay>,
    /// The public key, ASCII-armored.
    key: String,
    /// When it was signed, in seconds since 1970.
    signed_s: u64,
}

impl Signer {
    /// The archive of these releases. `before` is the one that it replaces.
    ///
    /// # Errors
    /// The first package whose control file cannot be read or is not one.
    pub fn archive(
        &self,
        releases: &[Arc<Index>],
        packs: &PackStore,
        before: Option<&Archive>,
        now_s: u64,
    ) -> anyhow::Result<Archive> {
        let mut suites: BTreeMap<Suite, BTreeMap<(String, String), Vec<u8>>> = BTreeMap::new();
        for index in releases {
            for (name, kind) in &index.artifacts {
                let (ArtifactName::Package(name), ArtifactKind::Package(package)) = (name, kind) else {
                    continue;
                };
                let control = control_of(index, packs, &package.control).with_context(|| name.to_string())?;
                let deb = index.blobs.get(&package.deb).context("a blob is not listed")?;
                let place = format!("pool/{}/{}", package.deb, name.file_name());
                let suite = suites.entry(name.suite.clone()).or_default();
                let packages = suite.entry((name.component.clone(), name.architecture.clone())).or_default();
                control.put_stanza(&place, deb.bytes, &package.deb, packages);
            }
        }
        let mut archive = Archive { key: self.public_key()?, signed_s: now_s, ..Archive::default() };
        for (suite, indexes) in suites {
            self.put_suite(&mut archive, suite, indexes, now_s)?;
        }
        archive.replays = replay::replays(releases, packs);
        if let Some(before) = before {
            archive.keep_replaced(before, now_s);
        }
        Ok(archive)
    }

    fn put_suite(
        &self,
        archive: &mut Archive,
        suite: Suite,
        indexes: BTreeMap<(String, String), Vec<u8>>,
        now_s: u64,
    ) -> anyhow::Result<()> {
        let components: BTreeSet<String> = indexes.keys().map(|(component, _)| component.clone()).collect();
        let architectures: BTreeSet<&str> = indexes.keys().map(|(_, arch)| arch.as_str()).collect();
        let join = |words: &mut dyn Iterator<Item = &str>| words.collect::<Vec<_>>().join(" ");
        let mut release = format!(
            "Origin: Diodesync\nLabel: Diodesync\nSuite: {suite}\nCodename: {suite}\nDate: {}\nValid-Until: {}\n\
             Acquire-By-Hash: yes\nArchitectures: {}\nComponents: {}\nSHA256:\n",
            date(now_s)?,
            date(now_s + VALID_DAYS * 86_400)?,
            join(&mut architectures.iter().copied()),
            join(&mut components.iter().map(String::as_str)),
        );
        let base = format!("dists/{suite}");
        // Each component has an index for each architecture, be it empty: a client asks for all of them.
        for component in &components {
            for architecture in &architectures {
                let key = (component.clone(), (*architecture).to_owned());
                let content = Text(indexes.get(&key).cloned().unwrap_or_default().into());
                let folder = format!("{component}/binary-{architecture}");
                let digest = Sha256::of(&content.0);
                release.push_str(&format!(" {digest} {} {folder}/Packages\n", content.0.len()));
                let by_hash = format!("{base}/{folder}/by-hash/SHA256/{digest}");
                archive.by_hash.insert(by_hash.clone(), now_s);
                archive.files.insert(by_hash, content.clone());
                archive.files.insert(format!("{base}/{folder}/Packages"), content);
            }
        }
        archive.files.insert(format!("{base}/InRelease"), Text(self.clearsign(&release)?.into()));
        archive.files.insert(format!("{base}/Release.gpg"), Text(self.sign(&release)?.into()));
        archive.files.insert(format!("{base}/Release"), Text(release.into()));
        archive.suites.insert(suite.to_string(), components);
        Ok(())
    }
}

impl Archive {
    /// Keeps the indexes of the archive before under their digests, for a while.
    fn keep_replaced(&mut self, before: &Self, now_s: u64) {
        let mut replaced: Vec<(&String, u64)> = before
            .by_hash
            .iter()
            .filter(|(path, _)| !self.by_hash.contains_key(*path))
            // A clock that was set back must not keep them for ever.
            .filter(|(_, last_s)| now_s.abs_diff(**last_s) < BY_HASH_KEPT_S)
            .map(|(path, last_s)| (path, *last_s))
            .collect();
        replaced.sort_by_key(|(_, last_s)| std::cmp::Reverse(*last_s));
        let mut room = BY_HASH_KEPT_BYTES;
        for (path, last_s) in replaced {
            let Some(content) = before.files.get(path) else { continue };
            let Some(rest) = room.checked_sub(content.0.len()) else { break };
            room = rest;
            self.by_hash.insert(path.clone(), last_s);
            self.files.insert(path.clone(), content.clone());
        }
    }

    /// A file below the archive.
    pub fn file(&self, path: &str) -> Option<&Bytes> {
        self.files.get(path).map(|text| &text.0)
    }

    /// Suites that are here whole, as their archives signed them.
    pub fn replays(&self) -> &BTreeMap<String, Replay> {
        &self.replays
    }

    /// The suites with their components.
    pub fn suites(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.suites
    }

    /// The key that signs it, ASCII-armored.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it is time to sign anew.
    pub fn is_due(&self, now_s: u64) -> bool {
        !self.suites.is_empty() && now_s.abs_diff(self.signed_s) >= RENEW_S
    }
}

/// Reads and parses a control file.
pub fn control_of(index: &Index, packs: &PackStore, digest: &Sha256) -> anyhow::Result<Control> {
    let blob = index.blobs.get(digest).with_context(|| format!("blob {digest} is not listed"))?;
    let octets = packs.whole_blob(blob, CONTROL_BYTES_MAX)?;
    let octets = octets.with_context(|| {
        format!("its control file has {} octets, the limit is {CONTROL_BYTES_MAX}", blob.bytes)
    })?;
    Ok(Control::parse(&octets)?)
}

/// As archives write it.
fn date(s: u64) -> anyhow::Result<String> {
    let time = i64::try_from(s).ok().and_then(|s| Timestamp::from_second(s).ok());
    let time = time.context("the clock cannot be written as a date; set it")?;
    Ok(time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_an_archive() {
        assert_eq!(date(1_795_000_000).unwrap(), "Wed, 18 Nov 2026 11:06:40 UTC");
        assert!(date(u64::MAX).is_err());
    }
}
