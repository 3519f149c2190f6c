//! The real `apt`, with nothing of this machine's configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::side::Pair;
use crate::tree;

/// An apt of its own, on the high side.
#[derive(Debug)]
pub struct Apt {
    /// Everything that it reads and writes.
    pub dir: PathBuf,
    prefix: Vec<OsString>,
}

impl Apt {
    /// One that reads `sources` as the gateway gives them out, and trusts `key`.
    pub fn new(pair: &Pair, sources: &str, key: &[u8]) -> Result<Self> {
        let dir = pair.dir.join("apt");
        for sub in [
            "etc/sources.list.d",
            "etc/preferences.d",
            "etc/apt.conf.d",
            "state/lists/partial",
            "cache/archives/partial",
            "root/var/lib/dpkg/updates",
            "root/var/lib/dpkg/info",
        ] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        std::fs::write(dir.join("root/var/lib/dpkg/status"), b"")?;
        std::fs::write(dir.join("key.asc"), key)?;
        let path = |sub: &str| dir.join(sub).display().to_string();
        let sources = sources.replace("/etc/apt/keyrings/diodesync.asc", &path("key.asc"));
        std::fs::write(dir.join("etc/sources.list.d/diodesync.sources"), sources)?;
        let config = format!(
            "Dir::Etc \"{}\";\nDir::Etc::sourcelist \"/dev/null\";\nDir::State \"{}\";\nDir::Cache \"{}\";\n\
             Dir::State::status \"{}\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             Acquire::Check-Valid-Until \"true\";\nAcquire::Check-Date \"true\";\nAcquire::https::CAInfo \"{}\";\n\
             Acquire::Languages \"none\";\nAcquire::By-Hash \"force\";\nAPT::Sandbox::User \"root\";\nAcquire::Retries \"0\";\n\
             DPkg::Options {{ \"--root={}\"; \"--log=/dev/null\"; }};\nDPkg::Pre-Install-Pkgs {{ }};\n",
            path("etc"),
            path("state"),
            path("cache"),
            path("root/var/lib/dpkg/status"),
            pair.ca().display(),
            path("root"),
        );
        std::fs::write(dir.join("apt.conf"), config)?;
        Ok(Self { dir, prefix: pair.high_prefix().to_vec() })
    }

    /// Runs `apt-get`: whether it succeeded, and what it said.
    pub fn get(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut words = self.prefix.clone();
        words.push("apt-get".into());
        let (program, first) = words.split_first().expect("there is one word at least");
        let mut command = Command::new(program);
        command.args(first).args(arguments).env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        let output = command.env("DEBIAN_FRONTEND", "noninteractive").output()?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), said))
    }

    /// Runs `apt-get`, which must succeed; what it said.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let (done, said) = self.get(arguments)?;
        ensure!(done, "apt-get {arguments:?}: {said}");
        Ok(said)
    }

    /// SHA-256 of what was downloaded, by name.
    pub fn archives(&self) -> Result<Vec<(String, String)>> {
        let digests = tree::digests(&self.dir.join("cache/archives"), "")?;
        let debs = digests.into_iter().filter(|(name, _)| name.ends_with(".deb"));
        Ok(debs.map(|(name, (digest, _))| (name, digest)).collect())
    }

    /// Forgets what was downloaded.
    pub fn clean(&self) -> Result<()> {
        std::fs::remove_dir_all(self.dir.join("cache/archives"))?;
        Ok(std::fs::create_dir_all(self.dir.join("cache/archives/partial"))?)
    }

    /// Installs into the root of its own, and says which versions are there then.
    pub fn install(&self, packages: &[&str]) -> Result<String> {
        self.ok(&[&["install", "--yes", "--no-install-recommends"], packages].concat())?;
        Ok(std::fs::read_to_string(self.dir.join("root/var/lib/dpkg/status"))?)
    }
}
