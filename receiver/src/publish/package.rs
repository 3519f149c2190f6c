//! Debian packages, checked again on this side: what the index says of each must be what its control file says.

use anyhow::Context;
use diodesync::pack::PackStore;
use diodesync::release::index::{ArtifactKind, Index};
use diodesync::release::name::ArtifactName;
use diodesync::release::package::check_versions;

use crate::apt::control_of;

/// Checks every package of a release.
///
/// # Errors
/// The first package that is not what the index says, and why.
pub fn check(index: &Index, packs: &PackStore) -> anyhow::Result<()> {
    check_versions(index.artifacts.iter())?;
    for (name, kind) in &index.artifacts {
        if let (ArtifactName::Package(package), ArtifactKind::Package(content)) = (name, kind) {
            let control = control_of(index, packs, &content.control).with_context(|| name.to_string())?;
            control.check(package).with_context(|| name.to_string())?;
        }
    }
    Ok(())
}
