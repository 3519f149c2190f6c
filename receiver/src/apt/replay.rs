//! Suites that are here whole, as their archives signed them.
//!
//! ```text
//! SUITE/key.asc                                          the key that signed, as it came with the proof
//! SUITE/dists/SUITE/InRelease                            octet by octet the archive's own
//! SUITE/dists/SUITE/COMPONENT/binary-ARCH/Packages.xz    the same, and by-hash/SHA256/HEX
//! SUITE/pool/…                                           where the archive has its packages
//! ```
//!
//! A client that already trusts the archive's key goes on trusting nobody else. It needs each package that the `Packages`
//! files of its component and architecture name, so a component is here for an architecture if all of them are. Only the
//! newest `InRelease` of a suite counts: to serve an older one in its place would hide what the archive has mended since.
//! How long it is valid its archive says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use diodesync::id::Sha256;
use diodesync::limits::{PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::archive::{Packing, Release, Stanzas, keyring};
use diodesync::release::{ArtifactKind, ArtifactName, Blob, Index, Suite};
use serde::{Deserialize, Serialize};

/// How `Packages` files are packed, in the order in which apt prefers them.
const PACKINGS: [&str; 3] = [".xz", ".gz", ""];

/// A suite as its archive signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// What is served, by path.
    files: BTreeMap<String, Sha256>,
    /// Components that are here whole, with the architectures for which they are.
    components: BTreeMap<String, BTreeSet<String>>,
}

impl Replay {
    /// A file.
    pub fn file(&self, path: &str) -> Option<Sha256> {
        self.files.get(path).copied()
    }

    /// Components that are here whole, with the architectures for which they are.
    pub fn components(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.components
    }
}

/// The suites of these releases of which something is here whole. One whose proof cannot be read is left out, with a line
/// in the log: the site's own archive has its packages.
pub fn replays(releases: &[Arc<Index>], packs: &PackStore) -> BTreeMap<String, Replay> {
    let mut proofs: BTreeMap<&Suite, BTreeSet<(Sha256, Sha256)>> = BTreeMap::new();
    for (name, kind) in releases.iter().flat_map(|index| &index.artifacts) {
        if let (ArtifactName::Package(name), ArtifactKind::Package(package)) = (name, kind)
            && let Some(proof) = package.proof
        {
            proofs.entry(&name.suite).or_default().insert((proof.release, proof.key));
        }
    }
    let held = Held { releases, packs };
    let replay = |(suite, proofs): (&Suite, BTreeSet<_>)| {
        let made = held.newest(&proofs).and_then(|newest| match newest {
            Some((release, proof)) => held.replay(suite, &release, proof),
            None => Ok(Replay::default()),
        });
        match made {
            Ok(replay) if replay.components.is_empty() => None,
            Ok(replay) => Some((suite.to_string(), replay)),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%suite, error, "the suite is not served as its archive signed it");
                None
            }
        }
    };
    proofs.into_iter().filter_map(replay).collect()
}

/// What is published.
struct Held<'a> {
    releases: &'a [Arc<Index>],
    packs: &'a PackStore,
}

impl Held<'_> {
    fn blob(&self, digest: &Sha256) -> Option<&Blob> {
        self.releases.iter().find_map(|index| index.blobs.get(digest))
    }

    fn read(&self, digest: &Sha256, max: u64) -> anyhow::Result<Vec<u8>> {
        let blob = self.blob(digest).with_context(|| format!("blob {digest} is not listed"))?;
        self.packs.whole_blob(blob, max)?.context("a proof is larger than any proof should be")
    }

    /// The newest `InRelease` of these, with its digest and its key's.
    fn newest(
        &self,
        proofs: &BTreeSet<(Sha256, Sha256)>,
    ) -> anyhow::Result<Option<(Release, (Sha256, Sha256))>> {
        let mut newest: Option<(Release, (Sha256, Sha256))> = None;
        for proof in proofs {
            let keys = keyring(&self.read(&proof.1, PROOF_BYTES_MAX)?)?;
            let release = Release::verify(&self.read(&proof.0, PROOF_BYTES_MAX)?, &keys)?;
            if newest.as_ref().is_none_or(|(before, _)| before.date_s < release.date_s) {
                newest = Some((release, *proof));
            }
        }
        Ok(newest)
    }

    fn replay(&self, suite: &Suite, release: &Release, proof: (Sha256, Sha256)) -> anyhow::Result<Replay> {
        let mut replay = Replay::default();
        for component in &release.components {
            let common = match release.has_all_apart && index_of(release, component, "all").is_some() {
                true => match self.whole(suite, release, component, "all")? {
                    Some(files) => files,
                    None => continue,
                },
                false => BTreeMap::new(),
            };
            for architecture in release.architectures.iter().filter(|architecture| *architecture != "all") {
                if let Some(files) = self.whole(suite, release, component, architecture)? {
                    replay.files.extend(files);
                    replay.files.extend(common.clone());
                    replay.components.entry(component.clone()).or_default().insert(architecture.clone());
                }
            }
        }
        replay.files.insert(format!("{suite}/dists/{suite}/InRelease"), proof.0);
        replay.files.insert(format!("{suite}/key.asc"), proof.1);
        Ok(replay)
    }

    /// The files of a component for an architecture, if all of them are here.
    fn whole(
        &self,
        suite: &Suite,
        release: &Release,
        component: &str,
        architecture: &str,
    ) -> anyhow::Result<Option<BTreeMap<String, Sha256>>> {
        let index = index_of(release, component, architecture);
        let Some((path, digest)) = index.filter(|(_, digest)| self.blob(digest).is_some()) else {
            return Ok(None);
        };
        let base = format!("{suite}/dists/{suite}");
        let by_hash = format!("{base}/{component}/binary-{architecture}/by-hash/SHA256/{digest}");
        let mut files = BTreeMap::from([(by_hash, digest), (format!("{base}/{path}"), digest)]);
        let packages = self.read(&digest, PACKAGES_PACKED_BYTES_MAX)?;
        for stanza in Stanzas::new(&packages, Packing::of_path(&path)?)? {
            let stanza = stanza?;
            let (place, digest, bytes) = stanza.place()?;
            if self.blob(&digest).map(|blob| blob.bytes) != Some(bytes) {
                tracing::debug!(%suite, component, architecture, lacking = place, "it is not here whole");
                return Ok(None);
            }
            files.insert(format!("{suite}/{place}"), digest);
        }
        Ok(Some(files))
    }
}

/// The `Packages` file of a component for an architecture, by its path and digest: apt takes the first that is named, and no
/// other.
fn index_of(release: &Release, component: &str, architecture: &str) -> Option<(String, Sha256)> {
    let mut paths =
        PACKINGS.iter().map(|packing| format!("{component}/binary-{architecture}/Packages{packing}"));
    paths.find_map(|path| release.files.get(&path).map(|listed| listed.digest).map(|digest| (path, digest)))
}

#[cfg(test)]
mod tests {
    use diodesync::release::name::PackageName;

    use super::*;
    use crate::serve::testing::{Release, TempDir};

    macro_rules! vector {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/vectors/archive/", $name)).as_slice()
        };
    }

    #[test]
    fn a_suite_is_replayed_if_every_package_that_it_names_is_here() {
        let dir = TempDir::new("replay");
        let packs = PackStore::open(dir.path()).unwrap();
        let (demo, data) = (vector!("demo_1.0-1_amd64.deb"), vector!("demo-data_1.0_all.deb"));
        let proof = |release| Some([release, vector!("Packages.xz"), vector!("good.asc")]);
        let make = |debs: &[(&str, &str, &str, &[u8])], release: &'static [u8]| {
            let mut published = Release::new("main", 1);
            for (package, version, architecture, deb) in debs {
                let name = PackageName::new("demo".parse().unwrap(), "main", package, version, architecture);
                published.package(name.unwrap(), deb, b"Package: x\n", proof(release));
            }
            replays(&[published.publish(&packs)], &packs)
        };
        let (one, other) = (("demo", "1.0-1", "amd64", demo), ("demo-data", "1.0", "all", data));
        assert!(make(&[one], vector!("InRelease")).is_empty(), "demo-data is not here");
        let changed = ("demo-data", "1.0", "all", b"another".as_slice());
        assert!(make(&[one, changed], vector!("InRelease")).is_empty(), "it is another");
        assert!(make(&[one, other], vector!("changed")).is_empty(), "nobody signed this");
        let whole = make(&[one, other], vector!("InRelease"));
        let replay = whole.get("demo").unwrap();
        let expected = BTreeMap::from([("main".to_owned(), BTreeSet::from(["amd64".to_owned()]))]);
        assert_eq!(*replay.components(), expected);
        let index = Sha256::of(vector!("Packages.xz"));
        for (path, digest) in [
            ("demo/dists/demo/InRelease".to_owned(), Sha256::of(vector!("InRelease"))),
            ("demo/dists/demo/main/binary-amd64/Packages.xz".to_owned(), index),
            (format!("demo/dists/demo/main/binary-amd64/by-hash/SHA256/{index}"), index),
            ("demo/pool/demo_1.0-1_amd64.deb".to_owned(), Sha256::of(demo)),
            ("demo/pool/demo-data_1.0_all.deb".to_owned(), Sha256::of(data)),
            ("demo/key.asc".to_owned(), Sha256::of(vector!("good.asc"))),
        ] {
            assert_eq!(replay.file(&path), Some(digest), "{path}");
        }
        assert_eq!(replay.file("demo/dists/demo/Release"), None);
    }
}
