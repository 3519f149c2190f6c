//! A Debian archive as its publishers make one: `dpkg-deb`, `apt-ftparchive`, and `gpg` for the signature.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::deb::run;
use crate::gpg::Gpg;
use crate::origin::Origin;
use crate::tree::hex;

/// An archive with one suite, in a folder.
#[derive(Debug)]
pub struct Archive {
    /// `dists` and `pool` are in it.
    pub dir: PathBuf,
    suite: String,
}

impl Archive {
    /// An empty one.
    pub fn new(dir: &Path, suite: &str) -> Result<Self> {
        for sub in [format!("pool/{suite}"), format!("dists/{suite}/main/binary-amd64")] {
            std::fs::create_dir_all(dir.join(sub))?;
        }
        Ok(Self { dir: dir.to_owned(), suite: suite.to_owned() })
    }

    /// Where the packages are.
    pub fn pool(&self) -> PathBuf {
        self.dir.join("pool").join(&self.suite)
    }

    /// Writes the indexes anew. `more` are lines of the release, like its `Valid-Until`.
    pub fn index(&self, gpg: &Gpg, more: &str) -> Result<()> {
        let folder = format!("dists/{}", self.suite);
        let list = format!("{folder}/main/binary-amd64");
        let packages = self.ftparchive(&["packages", &format!("pool/{}", self.suite)])?;
        std::fs::write(self.dir.join(&list).join("Packages"), packages)?;
        run(Command::new("xz").args(["--keep", "--force"]).arg(self.dir.join(&list).join("Packages")))?;
        let option = |name: &str, value: &str| format!("APT::FTPArchive::Release::{name}={value}");
        let options = [
            option("Suite", &self.suite),
            option("Codename", &self.suite),
            option("Components", "main"),
            option("Architectures", "amd64"),
            option("Acquire-By-Hash", "yes"),
        ];
        let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option.as_str()]).collect();
        let release = self.ftparchive(&[options.as_slice(), &["release", &folder]].concat())?;
        // The sums of the release of before are none of this one.
        let own = |line: &&str| !line.ends_with("InRelease") && !line.ends_with(" Release");
        let release: String = release.lines().filter(own).map(|line| format!("{line}\n")).collect();
        let (head, sums) = release.split_once("MD5Sum:").context("apt-ftparchive writes sums")?;
        // Another date than now, if there is one.
        let is_dated = more.starts_with("Date:");
        let head: String =
            head.split_inclusive('\n').filter(|line| !is_dated || !line.starts_with("Date:")).collect();
        let signed = gpg.clearsign(format!("{head}{more}MD5Sum:{sums}").as_bytes())?;
        Ok(std::fs::write(self.dir.join(&folder).join("InRelease"), signed)?)
    }

    fn ftparchive(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("apt-ftparchive").args(arguments).current_dir(&self.dir).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Gives it out, with `Packages.xz` by its digest as well. Where the package files are.
    pub fn give_out(&self, origin: &Origin, below: &str) -> Result<()> {
        use sha2::{Digest as _, Sha256};
        for (path, (_, _)) in crate::tree::digests(&self.dir, "")? {
            let octets = std::fs::read(self.dir.join(&path))?;
            if let Some(folder) = path.strip_suffix("/Packages.xz") {
                let digest = hex(&Sha256::digest(&octets));
                origin.put(&format!("{below}/{folder}/by-hash/SHA256/{digest}"), octets.clone());
            }
            origin.put(&format!("{below}/{path}"), octets);
        }
        Ok(())
    }
}
