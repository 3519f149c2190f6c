//! Which `Packages` files are proven anew although no package of them is new.
//!
//! A component of which every package is here is served on the far side as the archive signed it, by the newest
//! `InRelease` of its suite that is there. Its proof is renewed
//!
//! - when half of the time is over for which the `InRelease` is valid,
//! - when the archive has another list of packages: one is gone from it,
//! - when the newest `InRelease` of the suite names another file than the one that is here, or will do so after this pull.
//!
//! A file with the same packages in other octets is no reason of its own.

use std::collections::{BTreeMap, BTreeSet};

use diodesync::id::Sha256;
use diodesync::limits::{PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};
use diodesync::release::Suite;
use diodesync::release::archive::{Packing, Release, Stanzas};
use diodesync::release::index::PackageProof;

use super::suite::{Fetched, Index};
use super::{Chosen, package_of};
use crate::sources::Job;

/// The keys of an archive, by their ids.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// The newest of these proofs that is of the archive which has given out `release`.
pub fn newest(
    job: &Job,
    proofs: &BTreeSet<PackageProof>,
    release: &Release,
    keys: &Keys,
) -> anyhow::Result<Option<(Release, PackageProof)>> {
    let mut newest: Option<(Release, PackageProof)> = None;
    // Those of one release differ by their `Packages` files alone.
    let by_release: BTreeMap<Sha256, PackageProof> =
        proofs.iter().map(|proof| (proof.release, *proof)).collect();
    for (digest, proof) in by_release {
        let Some(octets) = job.held(&digest, PROOF_BYTES_MAX)? else { continue };
        // One by another key, or of another origin, is another archive's.
        if let Ok(held) = Release::verify(&octets, keys)
            && held.origin == release.origin
            && newest.as_ref().is_none_or(|(newest, _)| newest.date_s < held.date_s)
        {
            newest = Some((held, proof));
        }
    }
    Ok(newest)
}

/// The `Packages` files to be proven anew. `held` is the newest release of each suite that is here, and `touched` are
/// files with new packages.
pub fn renewed(
    job: &Job,
    fetched: &Fetched,
    chosen: &Chosen,
    held: &BTreeMap<Suite, Release>,
    touched: &BTreeSet<usize>,
    keys: &Keys,
    now_s: u64,
) -> anyhow::Result<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for (suite, release) in &fetched.releases {
        let Some(newest_of_suite) = held.get(suite) else { continue };
        let (mut renewed, mut in_other_octets) = (BTreeSet::new(), BTreeSet::new());
        let is_own = |at: usize| fetched.indexes.get(at).filter(|index| index.suite == *suite);
        for (at, index) in chosen.whole.difference(touched).filter_map(|at| Some((*at, is_own(*at)?))) {
            let own = chosen.packages.iter().filter(|one| one.index == at);
            let proofs: BTreeSet<PackageProof> =
                own.filter_map(|one| package_of(job, &one.name)?.proof).collect();
            let now = proof_of(index);
            if proofs.iter().eq([&now]) {
                continue;
            }
            let Some((newest, proof)) = newest(job, &proofs, release, keys)? else { continue };
            let is_over = newest.date_s < release.date_s && is_half_over(&newest, now_s);
            let named = newest_of_suite.files.get(&index.path).map(|listed| listed.digest);
            let is_other = proof.packages != now.packages;
            if is_over
                || named != Some(proof.packages)
                || is_other && debs_of(job, &newest, &proof)? != Some(debs(&index.octets, &index.path)?)
            {
                renewed.insert(at);
            } else if is_other {
                in_other_octets.insert(at);
            }
        }
        if !renewed.is_empty() || touched.iter().any(|at| is_own(*at).is_some()) {
            renewed.append(&mut in_other_octets);
        }
        all.append(&mut renewed);
    }
    Ok(all)
}

/// Whether half of the time is over for which a release is valid. For one without an end it never is.
fn is_half_over(release: &Release, now_s: u64) -> bool {
    release.valid_until_s.is_some_and(|until_s| now_s >= release.date_s.midpoint(until_s))
}

fn proof_of(index: &Index) -> PackageProof {
    let [release, packages, key] =
        [&index.release, &index.octets, &index.key].map(|octets| Sha256::of(octets));
    PackageProof { release, packages, key }
}

/// The packages that a `Packages` file names which is here; none if it is not.
fn debs_of(job: &Job, release: &Release, proof: &PackageProof) -> anyhow::Result<Option<BTreeSet<Sha256>>> {
    let path = release.files.iter().find(|(_, listed)| listed.digest == proof.packages).map(|(path, _)| path);
    let octets = job.held(&proof.packages, PACKAGES_PACKED_BYTES_MAX)?;
    path.zip(octets).map(|(path, octets)| debs(&octets, path)).transpose()
}

/// The packages that a `Packages` file names.
fn debs(octets: &[u8], path: &str) -> anyhow::Result<BTreeSet<Sha256>> {
    let mut debs = BTreeSet::new();
    for stanza in Stanzas::new(octets, Packing::of_path(path)?)? {
        debs.insert(stanza?.place()?.1);
    }
    Ok(debs)
}
