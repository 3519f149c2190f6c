//! Debian packages, checked again on this side: what the index says of each must be what its control file says, and where
//! it came with its archive's proof, what the archive says.

use std::collections::BTreeMap;

use anyhow::Context;
use diodesync::id::Sha256;
use diodesync::limits::{PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::archive::{ArchiveProof, Claim, verify};
use diodesync::release::index::{ArtifactKind, Index, PackageProof};
use diodesync::release::name::ArtifactName;
use diodesync::release::package::check_versions;
use diodesync::release::provider::fingerprints;

use super::gate::Found;
use crate::apt::control_of;

/// Checks every package of a release, and says for which architecture it is and who signed its archive.
///
/// # Errors
/// The first package that is not what the index says, and why.
pub fn check(index: &Index, packs: &PackStore, found: &mut Found) -> anyhow::Result<()> {
    check_versions(index.artifacts.iter())?;
    // Many packages share a proof, which is read once for all of them.
    let mut proofs: BTreeMap<ArtifactName, PackageProof> = BTreeMap::new();
    let mut proven: BTreeMap<PackageProof, Vec<Claim<'_>>> = BTreeMap::new();
    for (name, kind) in &index.artifacts {
        if let (ArtifactName::Package(package), ArtifactKind::Package(content)) = (name, kind) {
            let control = control_of(index, packs, &content.control).with_context(|| name.to_string())?;
            control.check(package).with_context(|| name.to_string())?;
            if package.architecture != "all" {
                found.platforms.insert(name.clone(), vec![format!("linux/{}", package.architecture)]);
            }
            let deb =
                index.blobs.get(&content.deb).with_context(|| format!("{name}: its blob is not listed"))?;
            if let Some(proof) = content.proof {
                proofs.insert(name.clone(), proof);
                let claim = Claim { name: package, deb: content.deb, bytes: deb.bytes, control };
                proven.entry(proof).or_default().push(claim);
            }
        }
    }
    let mut signers = BTreeMap::new();
    for (proof, claims) in &proven {
        signers.insert(*proof, check_proof(index, packs, proof, claims)?);
    }
    let signers_of = |(name, proof)| Some((name, signers.get(&proof)?.clone()));
    found.signers.extend(proofs.into_iter().filter_map(signers_of));
    Ok(())
}

/// Checks what an archive says of packages. All keys that it came with count as its signers, though one may have signed.
fn check_proof(
    index: &Index,
    packs: &PackStore,
    proof: &PackageProof,
    claims: &[Claim<'_>],
) -> anyhow::Result<Vec<String>> {
    let read = |digest: &Sha256, max| -> anyhow::Result<Vec<u8>> {
        let blob = index.blobs.get(digest).with_context(|| format!("blob {digest} is not listed"))?;
        packs.whole_blob(blob, max)?.context("a proof is larger than any proof should be")
    };
    let (release, key) = (read(&proof.release, PROOF_BYTES_MAX)?, read(&proof.key, PROOF_BYTES_MAX)?);
    let packages = read(&proof.packages, PACKAGES_PACKED_BYTES_MAX)?;
    let input = ArchiveProof { release: &release, packages: &packages, key: &key };
    let first = claims.first().map(|claim| claim.name);
    verify(&input, claims).with_context(|| match first {
        Some(name) => format!("the archive's proof of package {name}"),
        None => "the archive's proof".to_owned(),
    })?;
    Ok(fingerprints(&key)?)
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

    const CONTROL: &str =
        "Package: demo\nVersion: 1.0-1\nArchitecture: amd64\nDepends: demo-data (>= 1.0), libc6\n";

    fn verdict(number: u8, deb: &[u8], control: &str, proof: Option<[&[u8]; 3]>) -> anyhow::Result<()> {
        let dir = TempDir::new(&format!("packages-{number}"));
        let packs = PackStore::open(dir.path()).unwrap();
        let name = PackageName::new("demo".parse().unwrap(), "main", "demo", "1.0-1", "amd64").unwrap();
        let mut release = Release::new("main", 1);
        release.package(name, deb, control.as_bytes(), proof);
        check(&release.publish(&packs), &packs, &mut Found::default())
    }

    /// What a captured sender could sign, and its archive does not prove.
    #[test]
    fn a_package_that_its_archive_does_not_prove() {
        let deb = vector!("demo_1.0-1_amd64.deb");
        let proof = [vector!("InRelease"), vector!("Packages.xz"), vector!("good.asc")];
        verdict(0, deb, CONTROL, Some(proof)).unwrap();
        let refused = |number, deb: &[u8], control: &str, proof| {
            let error = format!("{:#}", verdict(number, deb, control, Some(proof)).unwrap_err());
            assert!(error.contains("demo/main demo 1.0-1 amd64"), "{error}");
            error
        };
        assert!(refused(1, b"another", CONTROL, proof).contains("not the package that the archive signed"));
        let control = CONTROL.replace("libc6", "rootkit");
        assert!(refused(2, deb, &control, proof).contains("expected Depends"));
        let changed = [vector!("changed"), proof[1], proof[2]];
        assert!(refused(3, deb, CONTROL, changed).contains("does not match"));
        let stranger = [vector!("unknown-key"), proof[1], proof[2]];
        assert!(refused(4, deb, CONTROL, stranger).contains("expected a signature by one of the keys"));
        let other = [proof[0], b"Package: demo\n".as_slice(), proof[2]];
        assert!(refused(5, deb, CONTROL, other).contains("expected a Packages file that InRelease names"));
    }
}
