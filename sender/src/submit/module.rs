//! `submit module`: a version of a Terraform module, as the archive that its registry gives out.
//!
//! The archive goes over unchanged, after a look into it ([`diodesync::release::module`]).

use std::path::PathBuf;

use anyhow::{Context, bail};
use diodesync::id::Channel;
use diodesync::limits::MODULE_BYTES_MAX;
use diodesync::release::index::{ArtifactKind, Module};
use diodesync::release::module::{FolderPattern, check};
use diodesync::release::name::{ArtifactName, ModuleAddress, ModuleFormat, Version};
use serde_json::Value;

use super::command::Item;
use super::server::{FrameReader, take_blob};
use super::{Role, Target, What};
use crate::ingest::Submission;

/// `submit module`.
#[derive(Debug, clap::Args)]
pub struct ModuleArgs {
    /// Its archive, .tar.gz or .zip
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// The module's source address
    #[arg(long, value_name = "HOST/NAMESPACE/NAME/SYSTEM")]
    source: ModuleAddress,
    /// Its version
    #[arg(long = "version", value_name = "VERSION")]
    module_version: Version,
    /// The folder of the archive in which the module is; * for the only folder at its top
    #[arg(long, value_name = "FOLDER", default_value = "")]
    folder: FolderPattern,
    /// The channel to submit to
    #[arg(long, default_value = "main")]
    channel: Channel,
}

/// Submits a module.
pub async fn module(target: &Target, args: ModuleArgs) -> anyhow::Result<Value> {
    let item = Item::of(&args.archive, Role::Module)?;
    let what = What::Module {
        address: args.source.to_string(),
        version: args.module_version.to_string(),
        folder: args.folder.to_string(),
    };
    target.submit(args.channel, what, vec![item]).await
}

/// The daemon's end: takes the archive.
pub(super) fn take(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
    address: ModuleAddress,
    version: Version,
    folder: FolderPattern,
) -> anyhow::Result<()> {
    let Some((path, Role::Module, bytes)) = frames.next_file()? else {
        bail!("a module comes with one archive");
    };
    let format = ModuleFormat::of_file_name(&path);
    let format =
        format.with_context(|| format!("{path}: expected an archive that is a .tar.gz or a .zip"))?;
    if bytes > MODULE_BYTES_MAX {
        bail!("{path} has {bytes} octets; the archive of a module has at most {MODULE_BYTES_MAX}");
    }
    let archive = take_blob(submission, frames, bytes)?;
    if frames.next_file()?.is_some() {
        bail!("a module comes with one archive");
    }
    let reader = submission.reader(&archive).context("a blob that was just written is missing")?;
    let folder = check(reader, bytes, format, &folder).with_context(|| format!("{path} is refused"))?;
    tracing::info!(%address, %version, %archive, "module");
    let kind = ArtifactKind::Module(Module { format, folder, archive });
    submission.artifact(ArtifactName::Module(address, version), kind)
}
