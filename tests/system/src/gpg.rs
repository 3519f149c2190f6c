//! The real `gpg`, with a key ring of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::skip::Skip;

/// Whether there is one.
pub fn find() -> Result<(), Skip> {
    crate::deb::find("gpg", "gnupg")
}

/// A publisher's key ring, with one key in it.
#[derive(Debug)]
pub struct Gpg {
    home: PathBuf,
    user: String,
}

impl Gpg {
    /// Makes a key that signs, in a folder that is made. `expires` is as gpg has it, like `never`.
    pub fn new(home: &Path, user: &str, expires: &str) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        std::fs::set_permissions(home, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let gpg = Self { home: home.to_owned(), user: user.to_owned() };
        gpg.run(&["--quick-generate-key", user, "ed25519", "sign", expires])?;
        Ok(gpg)
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new("gpg")
            .arg("--homedir")
            .arg(&self.home)
            .args(["--batch", "--yes", "--quiet", "--pinentry-mode", "loopback"])
            .args(["--passphrase", ""])
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("gpg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// A binary detached signature.
    pub fn sign(&self, content: &[u8]) -> Result<Vec<u8>> {
        let path = self.home.join("content");
        std::fs::write(&path, content)?;
        let path = path.display().to_string();
        self.run(&["--local-user", &self.user, "--detach-sign", "--output", "-", &path])
    }

    /// A text with its signature around it.
    pub fn clearsign(&self, content: &[u8]) -> Result<Vec<u8>> {
        let path = self.home.join("content");
        std::fs::write(&path, content)?;
        let path = path.display().to_string();
        self.run(&["--local-user", &self.user, "--clearsign", "--output", "-", &path])
    }

    /// The ASCII-armored public key.
    pub fn key(&self) -> Result<String> {
        Ok(String::from_utf8(self.run(&["--armor", "--export", &self.user])?)?)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent of this key ring alone.
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).output();
    }
}
