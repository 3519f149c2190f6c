//! Terraform modules, looked into again on this side: no upstream proves them, and each client unpacks them for itself.

use anyhow::Context;
use diodesync::pack::{BlobReader, PackStore};
use diodesync::release::index::{ArtifactKind, Index};
use diodesync::release::module;

/// Checks every module of a release.
///
/// # Errors
/// The first module whose archive should not be given to clients, and why.
pub fn check(index: &Index, packs: &PackStore) -> anyhow::Result<()> {
    for (name, kind) in &index.artifacts {
        let ArtifactKind::Module(content) = kind else { continue };
        let blob = index.blobs.get(&content.archive);
        let blob = blob.with_context(|| format!("{name}: its blob is not listed"))?;
        let archive = BlobReader::new(packs, blob.clone());
        module::check(archive, blob.bytes, content.format, &content.folder.clone().into())
            .with_context(|| name.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{Release, TempDir, module_archive};

    /// What a captured sender could sign.
    #[test]
    fn a_module_that_no_client_should_unpack() {
        let dir = TempDir::new("modules");
        let packs = PackStore::open(dir.path()).unwrap();
        let verdict = |number: u8, file: &str, folder: &str| {
            let mut release = Release::new("main", number);
            release.module("gw.example/a/b/c", "1.0.0", folder, &module_archive(&[(file, b"# tf")]));
            check(&release.publish(&packs), &packs).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(verdict(1, "main.tf", ""), Ok(()));
        for (number, file, folder, why) in
            [(2, "../main.tf", "", "names that stay in the archive"), (3, "main.tf", "sub", "found none")]
        {
            let error = verdict(number, file, folder).unwrap_err();
            assert!(error.starts_with("module gw.example/a/b/c 1.0.0: ") && error.contains(why), "{error}");
        }
    }
}
