//! `submit packages`: Debian packages. The command sends them as they are; the daemon takes the control file out of
//! each, which names it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use diodesync::id::{Channel, Sha256};
use diodesync::limits::{PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};
use diodesync::release::archive::{ArchiveProof, Claim, verify};
use diodesync::release::index::{ArtifactKind, Package, PackageProof};
use diodesync::release::name::{ArtifactName, PackageName, Suite};
use diodesync::release::package::Control;
use serde_json::Value;

use super::command::Item;
use super::server::{FrameReader, take_blob};
use super::{Role, Target, What};
use crate::deb;
use crate::ingest::Submission;

/// `submit packages`.
#[derive(Debug, clap::Args)]
pub struct PackagesArgs {
    /// Debian packages, whatever their files are called: the control file in each names it
    #[arg(required = true, value_name = "DEB")]
    debs: Vec<PathBuf>,
    /// The suite to put them into, like bookworm
    #[arg(long, value_name = "SUITE")]
    suite: Suite,
    /// The component of the suite
    #[arg(long, value_name = "COMPONENT", default_value = "main")]
    component: String,
    /// The channel to submit to
    #[arg(long, default_value = "main")]
    channel: Channel,
}

/// Submits Debian packages.
pub async fn packages(target: &Target, args: PackagesArgs) -> anyhow::Result<Value> {
    let items = args.debs.iter().map(|path| Item::of(path, Role::Package)).collect::<Result<_, _>>()?;
    let what = What::Packages { suite: args.suite.to_string(), component: args.component, held: Vec::new() };
    target.submit(args.channel, what, items).await
}

/// Takes packages until the end of the submission, and those of `held` that are here already. If the archive's proof
/// comes with them, it must speak of each of them.
pub fn take(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
    suite: &Suite,
    component: &str,
    held: &[Sha256],
) -> anyhow::Result<()> {
    let (mut release, mut packages, mut key) = (None, None, None);
    let mut taken = Vec::new();
    while let Some((path, role, bytes)) = frames.next_file()? {
        let (place, max) = match role {
            Role::Package => {
                let deb = take_blob(submission, frames, bytes)?;
                let deb = Taken::of(submission, deb, suite, component);
                taken.push(deb.with_context(|| format!("{path} is refused"))?);
                continue;
            }
            Role::Release => (&mut release, PROOF_BYTES_MAX),
            Role::Index => (&mut packages, PACKAGES_PACKED_BYTES_MAX),
            Role::Key => (&mut key, PROOF_BYTES_MAX),
            _ => bail!("{path} has no place among Debian packages"),
        };
        if bytes > max {
            bail!("{path} has {bytes} octets, the limit is {max}");
        }
        *place = Some(take_blob(submission, frames, bytes)?);
    }
    for deb in held {
        submission.count_held(deb);
        taken.push(Taken::of(submission, *deb, suite, component)?);
    }
    let proof = match (release, packages, key) {
        (None, None, None) => None,
        (Some(release), Some(packages), Some(key)) => Some(PackageProof { release, packages, key }),
        _ => bail!("an archive's proof is its InRelease, a Packages file and a key; one of them is lacking"),
    };
    if let Some(proof) = &proof {
        check_proof(submission, proof, &taken)?;
    }
    taken.into_iter().try_for_each(|deb| deb.add(submission, proof))
}

/// A package, and what it says of itself.
struct Taken {
    name: PackageName,
    deb: Sha256,
    bytes: u64,
    octets: Vec<u8>,
}

impl Taken {
    fn of(submission: &Submission<'_>, deb: Sha256, suite: &Suite, component: &str) -> anyhow::Result<Self> {
        let bytes = submission.blob(&deb).with_context(|| format!("package {deb} is not here"))?.bytes;
        let reader = submission.reader(&deb).context("a blob that was just written is missing")?;
        let octets = deb::control_file(reader, bytes)?;
        let name = Control::parse(&octets)?.name(suite.clone(), component)?;
        Ok(Self { name, deb, bytes, octets })
    }

    fn add(self, submission: &mut Submission<'_>, proof: Option<PackageProof>) -> anyhow::Result<()> {
        let Self { name, deb, octets, .. } = self;
        let before = package_of(submission, &name);
        if let Some(before) = before.filter(|before| before.deb != deb) {
            bail!(
                "{name} is there already with SHA-256 {}, and this one has {deb}; in a suite a version names one content, \
                 so give the new build a version of its own",
                before.deb
            );
        }
        // What its archive proved before is proven.
        let proof = proof.or(before.and_then(|before| before.proof));
        let name = ArtifactName::Package(name);
        if submission.has(&name) {
            // The same file given twice.
            return Ok(());
        }
        let control = submission.put(&octets)?;
        submission.artifact(name, ArtifactKind::Package(Package { deb, control, proof }))
    }
}

fn check_proof(submission: &Submission<'_>, proof: &PackageProof, taken: &[Taken]) -> anyhow::Result<()> {
    let read = |digest: &Sha256, max| submission.whole(digest, max);
    let (release, key) = (read(&proof.release, PROOF_BYTES_MAX)?, read(&proof.key, PROOF_BYTES_MAX)?);
    let packages = read(&proof.packages, PACKAGES_PACKED_BYTES_MAX)?;
    let mut claims = Vec::new();
    for Taken { name, deb, bytes, octets } in taken {
        claims.push(Claim { name, deb: *deb, bytes: *bytes, control: Control::parse(octets)? });
    }
    Ok(verify(&ArchiveProof { release: &release, packages: &packages, key: &key }, &claims)?)
}

/// What this submission, or an earlier one of its channel, holds under this name.
fn package_of(submission: &Submission<'_>, name: &PackageName) -> Option<Package> {
    match submission.present(&ArtifactName::Package(name.clone()))? {
        ArtifactKind::Package(package) => Some(package),
        ArtifactKind::File { .. }
        | ArtifactKind::Provider(_)
        | ArtifactKind::Image(_)
        | ArtifactKind::Module(_) => None,
    }
}
