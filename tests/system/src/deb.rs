//! Real Debian packages, made by `dpkg-deb`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::skip::Skip;
use crate::tree;

/// Runs a program that must succeed; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(said)
}

/// Whether a program is here.
pub fn find(program: &str, package: &str) -> Result<(), Skip> {
    match Command::new(program).arg("--version").output() {
        Ok(_) => Ok(()),
        Err(error) => Err(Skip::curable(format!("cannot run {program} ({error}); the package is {package}"))),
    }
}

/// Makes a package out of one file. `more` are fields of its control file, `compression` is dpkg-deb's word.
pub fn deb(
    dir: &Path,
    name: &str,
    version: &str,
    architecture: &str,
    more: &str,
    compression: &str,
) -> Result<PathBuf> {
    let root = dir.join(format!("{name}-{version}"));
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Test <t@example.com>\n\
         {more}Description: made for a test\n with a second line\n"
    );
    tree::write(&root, "DEBIAN/control", control.as_bytes(), 0o644)?;
    tree::write(&root, &format!("usr/share/{name}/file"), version.as_bytes(), 0o644)?;
    let path = dir.join(format!("{name}_{version}_{architecture}.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", &format!("-Z{compression}"), "--build"]);
    run(build.arg(&root).arg(&path))?;
    Ok(path)
}
