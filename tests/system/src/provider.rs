//! Terraform provider releases as a registry has them: zips, SHA256SUMS, a detached OpenPGP signature over it, and the
//! publisher's armored key. Stock `terraform` checks all of it, without any `gpg` on this machine.

use std::fs::File;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pgp::composed::{
    ArmorOptions, DetachedSignature, KeyType, SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails as _, Password};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::tree::digest;

/// Somebody who publishes providers.
#[derive(Debug)]
pub struct Publisher {
    key: SignedSecretKey,
}

/// A release on disk, ready for `diode-sender submit provider`.
#[derive(Debug, Clone)]
pub struct ProviderRelease {
    /// `HOST/NAMESPACE/TYPE`.
    pub source: String,
    /// The version.
    pub version: String,
    /// One archive for each platform.
    pub zips: Vec<PathBuf>,
    /// SHA256SUMS.
    pub sums: PathBuf,
    /// The binary detached signature over it.
    pub signature: PathBuf,
    /// The publisher's armored public key.
    pub key: PathBuf,
    /// The key's id as Terraform prints it, 16 upper-case hexadecimal digits.
    pub key_id: String,
    /// SHA-256 of the executable in the archives, in hexadecimal.
    pub executable_digest: String,
}

impl Publisher {
    /// A publisher with a fresh key.
    pub fn new() -> Result<Self> {
        let mut parameters = SecretKeyParamsBuilder::default();
        parameters
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("Diodesync Test Publisher <publisher@example.com>".to_owned());
        let key = parameters.build()?.generate(StdRng::from_entropy())?;
        Ok(Self { key })
    }

    /// The key's id as Terraform prints it.
    pub fn key_id(&self) -> String {
        self.key.legacy_key_id().to_string().to_uppercase()
    }

    /// The armored public key.
    pub fn armored_key(&self) -> Result<String> {
        Ok(SignedPublicKey::from(self.key.clone()).to_armored_string(ArmorOptions::default())?)
    }

    /// A binary detached signature.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signature = DetachedSignature::sign_binary_data(
            StdRng::from_entropy(),
            &self.key.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha256,
            Cursor::new(message),
        )?;
        Ok(signature.to_bytes()?)
    }

    /// Makes a release under `dir`: an archive around `executable` for each platform, like `linux_amd64`.
    pub fn release(
        &self,
        dir: &Path,
        source: &str,
        version: &str,
        executable: &Path,
        platforms: &[&str],
    ) -> Result<ProviderRelease> {
        std::fs::create_dir_all(dir)?;
        let kind = source.rsplit('/').next().context("a source is HOST/NAMESPACE/TYPE")?;
        let stem = format!("terraform-provider-{kind}_{version}");
        let contents =
            std::fs::read(executable).with_context(|| format!("cannot read {}", executable.display()))?;
        let mut sums = String::new();
        let mut zips = Vec::new();
        for platform in platforms {
            let name = format!("{stem}_{platform}.zip");
            let path = dir.join(&name);
            archive(&path, &format!("terraform-provider-{kind}_v{version}"), &contents, platform)?;
            sums.push_str(&format!("{}  {name}\n", digest(&path)?.0));
            zips.push(path);
        }
        let put = |name: String, contents: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(ProviderRelease {
            source: source.to_owned(),
            version: version.to_owned(),
            sums: put(format!("{stem}_SHA256SUMS"), sums.as_bytes())?,
            signature: put(format!("{stem}_SHA256SUMS.sig"), &self.sign(sums.as_bytes())?)?,
            key: put("publisher.asc".to_owned(), self.armored_key()?.as_bytes())?,
            key_id: self.key_id(),
            executable_digest: digest(executable)?.0,
            zips,
        })
    }
}

impl ProviderRelease {
    /// The arguments of `diode-sender` that submit it, with every proof.
    pub fn submit_arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut arguments = vec!["submit".to_owned(), "provider".to_owned()];
        arguments.extend(self.zips.iter().map(|zip| path(zip)));
        for (option, value) in [
            ("--source", self.source.clone()),
            ("--sums", path(&self.sums)),
            ("--signature", path(&self.signature)),
            ("--key", path(&self.key)),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        arguments
    }
}

/// The platform that this machine's `terraform` asks for.
pub fn host_platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux_amd64",
        "aarch64" => "linux_arm64",
        "x86" => "linux_386",
        _ => "linux_arm",
    }
}

/// A second platform, which no test machine has.
pub const OTHER_PLATFORM: &str = "darwin_arm64";

fn archive(path: &Path, executable: &str, contents: &[u8], platform: &str) -> Result<()> {
    let mut zip =
        ZipWriter::new(File::create(path).with_context(|| format!("cannot make {}", path.display()))?);
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let options = options.compression_level(Some(1));
    zip.start_file("LICENSE", options.unix_permissions(0o644))?;
    zip.write_all(b"Apache-2.0\n")?;
    zip.start_file("README.md", options.unix_permissions(0o644))?;
    zip.write_all(format!("A provider for {platform}, made for a test.\n").as_bytes())?;
    zip.start_file(executable, options.unix_permissions(0o755))?;
    zip.write_all(contents)?;
    zip.finish()?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use pgp::composed::Deserializable as _;

    #[test]
    fn a_release_proves_itself() {
        let dir = Scratch::new("provider").unwrap();
        let executable = dir.join("executable");
        std::fs::write(&executable, b"#!/bin/sh\n").unwrap();
        let publisher = Publisher::new().unwrap();
        let release = publisher
            .release(
                &dir.join("r"),
                "tf.example.com/a/b",
                "1.0.0",
                &executable,
                &["linux_amd64", OTHER_PLATFORM],
            )
            .unwrap();
        let (key, _) = SignedPublicKey::from_armor_single(File::open(&release.key).unwrap()).unwrap();
        key.verify_bindings().unwrap();
        let signature = DetachedSignature::from_bytes(
            File::open(&release.signature).map(std::io::BufReader::new).unwrap(),
        );
        let sums = std::fs::read(&release.sums).unwrap();
        signature.unwrap().verify(&key.primary_key, &sums).unwrap();
        for (zip, line) in release.zips.iter().zip(String::from_utf8(sums).unwrap().lines()) {
            let name = zip.file_name().unwrap().to_str().unwrap();
            assert_eq!(line, format!("{}  {name}", digest(zip).unwrap().0));
            let mut zip = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
            assert_eq!(
                zip.by_name("terraform-provider-b_v1.0.0").unwrap().unix_mode().unwrap() & 0o777,
                0o755
            );
        }
        assert_eq!(release.key_id.len(), 16);
    }
}
