//! The real `terraform`, in an environment that has nothing in it but what a test put there: no plugin cache, no
//! configuration of this machine's user, and one CA.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::skip::Skip;

/// A folder with a configuration that needs one provider.
#[derive(Debug)]
pub struct Project {
    dir: PathBuf,
    prefix: Vec<OsString>,
    rc: PathBuf,
    ca: PathBuf,
    source: String,
}

/// One provider's entry of `.terraform.lock.hcl`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// The selected version.
    pub version: String,
    /// Hashes with their scheme, like `zh:…` and `h1:…`.
    pub hashes: Vec<String>,
}

impl Lock {
    /// Hashes of the scheme, without it.
    pub fn of(&self, scheme: &str) -> Vec<&str> {
        self.hashes.iter().filter_map(|hash| hash.strip_prefix(scheme)?.strip_prefix(':')).collect()
    }
}

/// Whether there is a `terraform` to run.
pub fn find() -> Result<(), Skip> {
    match Command::new("terraform").arg("version").env("CHECKPOINT_DISABLE", "1").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Skip::incurable(format!("terraform version ends with {}", output.status))),
        // Not curable by CI: Debian does not carry it.
        Err(error) => Err(Skip::incurable(format!("cannot run terraform ({error})"))),
    }
}

impl Project {
    /// A project in the fresh folder `dir` that wants `source` at exactly `version`. `rc` is the CLI configuration,
    /// `ca` the only CA that is trusted; `prefix` goes before the command, like `ip netns exec NAME`.
    pub fn new(
        dir: &Path,
        prefix: &[OsString],
        rc: &str,
        ca: &Path,
        source: &str,
        version: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir.join("home"))?;
        let project = Self {
            dir: dir.to_owned(),
            prefix: prefix.to_vec(),
            rc: dir.join("terraformrc"),
            ca: ca.to_owned(),
            source: source.to_owned(),
        };
        std::fs::write(&project.rc, rc)?;
        project.want(version)?;
        Ok(project)
    }

    /// Changes the version that is wanted.
    pub fn want(&self, version: &str) -> Result<()> {
        let main = format!(
            "terraform {{\n  required_providers {{\n    it = {{\n      source  = {:?}\n      version = {version:?}\n    }}\n  }}\n}}\n",
            self.source
        );
        Ok(std::fs::write(self.dir.join("main.tf"), main)?)
    }

    /// Runs `terraform` with `arguments`; its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut words = self.prefix.clone();
        words.push("terraform".into());
        words.extend(arguments.iter().map(OsString::from));
        let output = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("TF_CLI_CONFIG_FILE", &self.rc)
            .env("TF_DATA_DIR", self.data())
            .env("TF_IN_AUTOMATION", "1")
            .env("CHECKPOINT_DISABLE", "1")
            .env("SSL_CERT_FILE", &self.ca)
            .env("SSL_CERT_DIR", self.dir.join("home"))
            .output()
            .context("cannot run terraform")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("terraform {} ends with {}:\n{text}", arguments.join(" "), output.status);
        }
        Ok(text)
    }

    /// `terraform init`.
    pub fn init(&self, more: &[&str]) -> Result<String> {
        self.run(&[&["init", "-no-color", "-input=false"], more].concat())
    }

    /// `terraform providers lock` for the platforms.
    pub fn providers_lock(&self, platforms: &[&str], more: &[&str]) -> Result<String> {
        let platforms: Vec<String> =
            platforms.iter().map(|platform| format!("-platform={platform}")).collect();
        let mut arguments = vec!["providers", "lock", "-no-color"];
        arguments.extend(platforms.iter().map(String::as_str));
        arguments.extend(more);
        self.run(&arguments)
    }

    /// Changes all of the configuration.
    pub fn write(&self, main: &str) -> Result<()> {
        Ok(std::fs::write(self.dir.join("main.tf"), main)?)
    }

    /// The folder of an installed module, by the name of its block.
    pub fn module(&self, name: &str) -> Result<PathBuf> {
        let list = std::fs::read(self.data().join("modules/modules.json"))?;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        let all = list["Modules"].as_array().into_iter().flatten();
        let dir = all.filter(|it| it["Key"] == name).find_map(|it| it["Dir"].as_str());
        Ok(self.dir.join(dir.with_context(|| format!("no module {name} in {list}"))?))
    }

    /// The lock file's entry for the provider.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.dir.join(".terraform.lock.hcl");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse_lock(&text, &self.source).with_context(|| format!("no entry for {} in:\n{text}", self.source))
    }

    /// Forgets the lock file and what is installed.
    pub fn forget(&self) -> Result<()> {
        for path in [self.dir.join(".terraform.lock.hcl"), self.data()] {
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// SHA-256 of the installed provider's executable.
    pub fn installed(&self, version: &str, platform: &str) -> Result<String> {
        let dir = self.data().join("providers").join(&self.source).join(version).join(platform);
        let kind = self.source.rsplit('/').next().unwrap_or_default();
        Ok(crate::tree::digest(&dir.join(format!("terraform-provider-{kind}_v{version}")))?.0)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// The string value of `name = "value"` on a line.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.trim()
        .strip_prefix(name)?
        .trim_start()
        .strip_prefix('=')?
        .trim()
        .strip_prefix('"')?
        .strip_suffix('"')
}

fn parse_lock(text: &str, source: &str) -> Option<Lock> {
    let head = format!("provider \"{source}\" {{");
    let mut lines = text.lines().skip_while(|line| line.trim() != head);
    lines.next()?;
    let mut lock = Lock::default();
    for line in lines.take_while(|line| *line != "}") {
        if let Some(version) = value(line, "version") {
            lock.version = version.to_owned();
        } else if let Some(hash) = line.trim().strip_prefix('"').and_then(|line| line.strip_suffix("\",")) {
            lock.hashes.push(hash.to_owned());
        }
    }
    Some(lock)
}

/// The first `"…"` after `before` in a CLI configuration: `services` or `url`.
pub fn quoted_after<'a>(rc: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = rc.split_once(before)?;
    let (_, rest) = rest.split_once('"')?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_is_read() {
        let text = "# c\n\nprovider \"h.example/a/b\" {\n  version     = \"1.0.0\"\n  constraints = \"1.0.0\"\n  \
                    hashes = [\n    \"h1:QQ==\",\n    \"zh:00ff\",\n    \"zh:11\",\n  ]\n}\n";
        let lock = parse_lock(text, "h.example/a/b").unwrap();
        assert_eq!(lock.version, "1.0.0");
        assert_eq!((lock.of("h1"), lock.of("zh")), (vec!["QQ=="], vec!["00ff", "11"]));
        assert!(parse_lock(text, "h.example/a/c").is_none());
    }

    #[test]
    fn urls_are_found_in_a_cli_configuration() {
        let rc = "host \"h\" {\n  services = {\n    \"providers.v1\" = \"https://localhost:1/v1/providers/\"\n  }\n}\n";
        assert_eq!(quoted_after(rc, "\"providers.v1\""), Some("https://localhost:1/v1/providers/"));
        assert_eq!(quoted_after("url = \"https://x/\"", "url"), Some("https://x/"));
    }
}
