//! `submit packages`: Debian packages. The command sends them as they are; the daemon takes the control file out of
//! each, which names it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use diodesync::id::{Channel, Sha256};
use diodesync::release::index::{ArtifactKind, Package};
use diodesync::release::name::{ArtifactName, PackageName, Suite};
use diodesync::release::package::Control;
use diodesync_control::Client;
use serde_json::Value;

use super::command::{Item, send};
use super::server::{FrameReader, take_blob};
use super::{Role, What};
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
pub async fn packages(client: &Client, args: PackagesArgs) -> anyhow::Result<Value> {
    let items = args.debs.iter().map(|path| Item::of(path, Role::Package)).collect::<Result<_, _>>()?;
    let what = What::Packages { suite: args.suite.to_string(), component: args.component };
    send(client, args.channel, what, items).await
}

/// Takes packages until the end of the submission.
pub fn take(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
    suite: &Suite,
    component: &str,
) -> anyhow::Result<()> {
    while let Some((path, role, bytes)) = frames.next_file()? {
        if role != Role::Package {
            bail!("{path} is not a Debian package");
        }
        let blob = take_blob(submission, frames, bytes)?;
        add(submission, blob, bytes, suite, component).with_context(|| format!("{path} is refused"))?;
    }
    Ok(())
}

fn add(
    submission: &mut Submission<'_>,
    deb: Sha256,
    bytes: u64,
    suite: &Suite,
    component: &str,
) -> anyhow::Result<()> {
    let reader = submission.reader(&deb).context("a blob that was just written is missing")?;
    let octets = deb::control_file(reader, bytes)?;
    let name = Control::parse(&octets)?.name(suite.clone(), component)?;
    if let Some(before) = deb_of(submission, &name)
        && before != deb
    {
        bail!(
            "{name} is there already with SHA-256 {before}, and this one has {deb}; in a suite a version names one \
             content, so give the new build a version of its own"
        );
    }
    let name = ArtifactName::Package(name);
    if submission.has(&name) {
        // The same file given twice.
        return Ok(());
    }
    let control = submission.put(&octets)?;
    submission.artifact(name, ArtifactKind::Package(Package { deb, control }))
}

/// What this submission, or an earlier one of its channel, holds under this name.
fn deb_of(submission: &Submission<'_>, name: &PackageName) -> Option<Sha256> {
    match submission.present(&ArtifactName::Package(name.clone()))? {
        ArtifactKind::Package(package) => Some(package.deb),
        ArtifactKind::File { .. } | ArtifactKind::Provider(_) | ArtifactKind::Image(_) => None,
    }
}
