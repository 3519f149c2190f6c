//! Where the daemons' binaries are. They are built once per process when nobody named a folder, so that
//! `cargo test` and `cargo demo` alone are enough.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

/// The two daemons.
#[derive(Debug, Clone)]
pub struct Bins {
    /// `diode-sender`.
    pub sender: PathBuf,
    /// `diode-receiver`.
    pub receiver: PathBuf,
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The daemons: from `DIODESYNC_BIN_DIR`, else from the folder of the running executable's profile after a build.
pub fn bins() -> Result<Bins> {
    static FOUND: OnceLock<std::result::Result<Bins, String>> = OnceLock::new();
    FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<Bins> {
    let dir = match std::env::var_os("DIODESYNC_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => build()?,
    };
    let bin = |name: &str| {
        let path = dir.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there; build it, or set DIODESYNC_BIN_DIR to the folder that has it",
                path.display()
            );
        }
        Ok(path)
    };
    Ok(Bins { sender: bin("diode-sender")?, receiver: bin("diode-receiver")? })
}

/// Builds both in the profile and target folder of the running executable, and returns their folder.
fn build() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where the running executable is")?;
    let mut dir = exe.parent().context("the running executable has no folder")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("deps has no parent")?;
    }
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is not a profile's folder; set DIODESYNC_BIN_DIR", dir.display()),
    };
    let target = dir.parent().context("the profile's folder has no parent")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    let status = command
        .current_dir(workspace())
        .args(["build", "--locked", "-p", "diode-sender", "-p", "diode-receiver", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .status()
        .context(
            "cannot run cargo to build the daemons; set DIODESYNC_BIN_DIR to the folder that has them",
        )?;
    if !status.success() {
        bail!("building the daemons failed ({status})");
    }
    Ok(dir.to_owned())
}
