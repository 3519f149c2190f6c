//! The Debian packages of both sides, built by `systemd/debian/build`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::bins::{bins, workspace};
use crate::deb::{find, run};
use crate::skip::Skip;

/// Each has a package.
pub const SIDES: [&str; 2] = ["sender", "receiver"];

/// What must be here to build them.
pub fn find_tools() -> Result<(), Skip> {
    let tried = Command::new("cargo").args(["deb", "--version"]).output();
    if !tried.as_ref().is_ok_and(|done| done.status.success()) {
        return Err(Skip::curable(format!("cannot run cargo deb ({tried:?}); cargo install cargo-deb")));
    }
    find("dpkg-shlibdeps", "dpkg-dev")
}

/// Builds both as this revision, of the profile that is tested: the packages by side, in a folder of `dir`.
pub fn build(dir: &Path, revision: &str) -> Result<BTreeMap<&'static str, PathBuf>> {
    // What is packed is put together in one place.
    let _alone = crate::alone();
    let bins = bins()?;
    let folder = bins.sender.parent().context("the programs have no folder")?;
    let target = folder.parent().context("the profile's folder has no parent")?;
    let profile =
        match folder.file_name().and_then(|name| name.to_str()).context("the profile has no name")? {
            "debug" => "dev",
            other => other,
        };
    let to = dir.join(revision);
    std::fs::create_dir(&to)?;
    let mut command = Command::new(workspace().join("systemd/debian/build"));
    command.args(["--profile", profile, "--fast", "--deb-revision", revision, "--output"]).arg(&to);
    run(command.env("CARGO_TARGET_DIR", target))?;
    let mut packages = BTreeMap::new();
    for entry in std::fs::read_dir(&to)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let side = SIDES.into_iter().find(|side| name.starts_with(&format!("diodesync-{side}_")));
        packages.insert(side.with_context(|| format!("{name} is of neither side"))?, path);
    }
    ensure!(packages.len() == 2, "not both were built: {packages:?}");
    Ok(packages)
}
