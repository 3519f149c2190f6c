//! Container images for tests: OCI layouts made with the real `umoci`, signed as cosign does, and the real `skopeo`
//! and `podman`, which see nothing of this machine's own configuration.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::skip::Skip;
use crate::tree::hex;

/// Media type of an OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Whether these programs can be run, which are in Debian packages of the same names.
pub fn find(programs: &[&str]) -> Result<(), Skip> {
    for program in programs {
        let version = if *program == "openssl" { "version" } else { "--version" };
        let quiet = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Err(error) = quiet {
            return Err(Skip::curable(format!("cannot run {program} ({error}); the package is {program}")));
        }
    }
    Ok(())
}

/// `sha256:HEX`.
pub fn digest(octets: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    format!("sha256:{}", hex(&Sha256::digest(octets)))
}

/// A descriptor.
pub fn descriptor(media_type: &str, octets: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(octets), "size": octets.len() })
}

/// An OCI layout on disk.
#[derive(Debug)]
pub struct Layout {
    /// Where it is.
    pub dir: PathBuf,
}

impl Layout {
    /// An empty layout, made by `umoci`.
    pub fn new(dir: &Path) -> Result<Self> {
        run(Command::new("umoci").args(["init", "--layout"]).arg(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Adds an image of one platform under `tag`, with `content` as its file `/content`, and returns its descriptor.
    pub fn image(&self, tag: &str, architecture: &str, content: &[u8]) -> Result<Value> {
        let image = format!("{}:{tag}", self.dir.display());
        let source = self.dir.with_extension("content");
        std::fs::write(&source, content)?;
        // The layer has the file's time: the same content is the same layer, whenever it is made.
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        std::fs::File::options().write(true).open(&source)?.set_modified(made)?;
        run(Command::new("umoci").args(["new", "--image", &image]))?;
        run(Command::new("umoci").args([
            "config",
            "--image",
            &image,
            "--os",
            "linux",
            "--architecture",
            architecture,
        ]))?;
        run(Command::new("umoci").args(["insert", "--image", &image]).arg(&source).arg("/content"))?;
        std::fs::remove_file(source)?;
        let mut entry = self.entry(tag)?;
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry.as_object_mut().context("a descriptor is an object")?.remove("annotations");
        Ok(entry)
    }

    /// Adds a blob.
    pub fn blob(&self, octets: &[u8]) -> Result<()> {
        let path = self.path(&digest(octets));
        std::fs::write(&path, octets).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds a manifest and lists it in `index.json`, under a tag if there is one. Its descriptor.
    pub fn manifest(&self, media_type: &str, manifest: &Value, tag: Option<&str>) -> Result<Value> {
        let octets = format!("{manifest:#}\n").into_bytes();
        self.blob(&octets)?;
        let descriptor = descriptor(media_type, &octets);
        let mut entry = descriptor.clone();
        if let Some(tag) = tag {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        }
        self.edit(|entries| entries.push(entry))?;
        Ok(descriptor)
    }

    /// An OCI artifact: a manifest with the empty configuration and one layer. What refers to `subject` has no tag.
    pub fn artifact(&self, artifact_type: &str, content: &[u8], subject: Option<&Value>) -> Result<Value> {
        self.blob(b"{}")?;
        self.blob(content)?;
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type,
            "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
            "layers": [descriptor(artifact_type, content)],
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.clone();
        }
        self.manifest(MANIFEST, &manifest, None)
    }

    /// What `index.json` says of a tag.
    pub fn entry(&self, tag: &str) -> Result<Value> {
        let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let entries = self.entries()?;
        entries.iter().find(named).cloned().with_context(|| format!("{} has no {tag}", self.dir.display()))
    }

    fn entries(&self) -> Result<Vec<Value>> {
        let index: Value = serde_json::from_slice(&std::fs::read(self.dir.join("index.json"))?)?;
        // umoci writes null where there is none.
        Ok(index["manifests"].as_array().cloned().unwrap_or_default())
    }

    /// Changes what `index.json` lists.
    pub fn edit(&self, change: impl FnOnce(&mut Vec<Value>)) -> Result<()> {
        let mut entries = self.entries()?;
        change(&mut entries);
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        Ok(std::fs::write(self.dir.join("index.json"), index.to_string())?)
    }

    /// Where a blob is, by `sha256:HEX`.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// The octets of what a descriptor describes.
    pub fn read(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let path = self.path(descriptor["digest"].as_str().context("a descriptor has a digest")?);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The names of all blobs. Each is compared with its content, so that equal names are equal blobs.
    pub fn blobs(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for (name, (hex, _)) in crate::tree::digests(&self.dir.join("blobs/sha256"), "")? {
            if name != hex {
                bail!("blob {name} of {} holds {hex}", self.dir.display());
            }
            names.insert(name);
        }
        Ok(names)
    }
}

/// A key that signs images as cosign does.
#[derive(Debug)]
pub struct Signer {
    dir: PathBuf,
}

impl Signer {
    /// A fresh ECDSA P-256 key.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let signer = Self { dir: dir.to_owned() };
        let (key, public) = (dir.join("image.key"), signer.public());
        let generate =
            ["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        run(Command::new("openssl").args(generate).arg(&key))?;
        run(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(public))?;
        Ok(signer)
    }

    /// Where the public key is.
    pub fn public(&self) -> PathBuf {
        self.dir.join("image.pub")
    }

    /// Whether a signature manifest, read out of a layout, signs a manifest with this key, as cosign would find it.
    pub fn verify(&self, layout: &Layout, signature: &Value, signed: &Value) -> Result<()> {
        use base64::Engine as _;
        let manifest: Value = serde_json::from_slice(&layout.read(signature)?)?;
        let layer = &manifest["layers"][0];
        let payload: Value = serde_json::from_slice(&layout.read(layer)?)?;
        if payload["critical"]["image"]["docker-manifest-digest"] != signed["digest"] {
            bail!("{payload} does not sign {signed}");
        }
        let text =
            layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().context("no signature")?;
        let file = self.dir.join("found");
        std::fs::write(&file, base64::prelude::BASE64_STANDARD.decode(text)?)?;
        let verify = ["dgst", "-sha256", "-verify"];
        let mut command = Command::new("openssl");
        command.args(verify).arg(self.public()).arg("-signature").arg(&file);
        run(command.arg(layout.path(layer["digest"].as_str().context("a layer has a digest")?)))?;
        Ok(())
    }

    /// Signs a manifest of a repository, and puts the signature under the tag `sha256-HEX.sig`.
    pub fn sign(&self, layout: &Layout, repository: &str, signed: &Value) -> Result<()> {
        use base64::Engine as _;
        let digest = signed["digest"].as_str().context("a descriptor has a digest")?;
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": repository },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let (file, signature) = (self.dir.join("payload"), self.dir.join("signature"));
        std::fs::write(&file, &payload)?;
        let sign = ["dgst", "-sha256", "-sign"];
        run(Command::new("openssl")
            .args(sign)
            .arg(self.dir.join("image.key"))
            .arg("-out")
            .arg(&signature)
            .arg(&file))?;
        let signature = base64::prelude::BASE64_STANDARD.encode(std::fs::read(&signature)?);

        let mut layer = descriptor("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
        let config = json!({
            "architecture": "", "os": "", "config": {}, "created": "0001-01-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = config.to_string().into_bytes();
        layout.blob(&payload)?;
        layout.blob(&config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer],
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        });
        layout.manifest(MANIFEST, &manifest, Some(&format!("{}.sig", digest.replace(':', "-"))))?;
        Ok(())
    }
}

/// `skopeo` and `podman` with a folder of their own for everything that they read and write.
#[derive(Debug)]
pub struct Client {
    dir: PathBuf,
    prefix: Vec<OsString>,
}

impl Client {
    /// Clients that trust one CA and look for signatures by cosign's tags. `prefix` goes before each command.
    pub fn new(dir: &Path, prefix: &[OsString], ca: &Path) -> Result<Self> {
        for name in ["certs", "registries.d", "home/.config/containers/registries.conf.d", "root", "run"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        std::fs::copy(ca, dir.join("certs/ca.crt"))?;
        // Debian's skopeo and podman find these signatures and are built without the code that checks them.
        let policy = json!({ "default": [{ "type": "insecureAcceptAnything" }] });
        std::fs::write(dir.join("policy.json"), policy.to_string())?;
        let attachments = "default-docker:\n  use-sigstore-attachments: true\n";
        std::fs::write(dir.join("registries.d/attachments.yaml"), attachments)?;
        Ok(Self { dir: dir.to_owned(), prefix: prefix.to_vec() })
    }

    /// Puts what the gateway gives out as `/client/registries.conf` where a user puts it.
    pub fn set_registries(&self, conf: &str) -> Result<()> {
        let path = self.dir.join("home/.config/containers/registries.conf.d/diodesync.conf");
        Ok(std::fs::write(path, conf)?)
    }

    /// `skopeo copy` of one image into a plain folder, with the signatures that it finds by cosign's tags: the octets of
    /// each.
    pub fn signatures(&self, image: &str, into: &Path) -> Result<Vec<Vec<u8>>> {
        run(self.skopeo(&[]).arg(format!("docker://{image}")).arg(format!("dir:{}", into.display())))?;
        let mut found = Vec::new();
        while let Ok(signature) = std::fs::read(into.join(format!("signature-{}", found.len() + 1))) {
            found.push(signature);
        }
        Ok(found)
    }

    /// `skopeo copy` of something published, by any of its names, into a layout.
    pub fn copy(&self, image: &str, into: &Path, tag: &str, options: &[&str]) -> Result<()> {
        let mut command = self.skopeo(&[&["--remove-signatures"], options].concat());
        run(command.arg(format!("docker://{image}")).arg(format!("oci:{}:{tag}", into.display())))?;
        Ok(())
    }

    fn skopeo(&self, options: &[&str]) -> Command {
        let mut command = self.command("skopeo");
        command.arg("--policy").arg(self.dir.join("policy.json"));
        command.arg("--registries.d").arg(self.dir.join("registries.d"));
        command
            .args(["copy", "--preserve-digests", "--src-cert-dir"])
            .arg(self.dir.join("certs"))
            .args(options);
        command
    }

    /// Logs in to a registry, for skopeo and podman alike.
    pub fn log_in(&self, registry: &str, user: &str, password: &str) -> Result<()> {
        use base64::Engine as _;
        let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
        let path = self.dir.join("run/containers");
        std::fs::create_dir_all(&path)?;
        let auths = json!({ "auths": { registry: { "auth": auth } } });
        Ok(std::fs::write(path.join("auth.json"), auths.to_string())?)
    }

    /// The octets of a manifest, as `skopeo inspect --raw` gets them.
    pub fn raw(&self, image: &str) -> Result<String> {
        let mut command = self.command("skopeo");
        command.arg("--policy").arg(self.dir.join("policy.json"));
        command.args(["inspect", "--raw", "--cert-dir"]).arg(self.dir.join("certs"));
        run(command.arg(format!("docker://{image}")))
    }

    /// `podman pull`, and what `podman image inspect` says then.
    pub fn pull(&self, image: &str) -> Result<Value> {
        let mut pull = self.podman();
        pull.args(["pull", "--quiet", "--cert-dir"]).arg(self.dir.join("certs"));
        pull.arg("--signature-policy").arg(self.dir.join("policy.json")).arg(image);
        run(&mut pull)?;
        let mut inspect = self.podman();
        inspect.args(["image", "inspect", image]);
        let said: Value = serde_json::from_str(&run(&mut inspect)?).context("podman image inspect")?;
        Ok(said[0].clone())
    }

    fn podman(&self) -> Command {
        let mut command = self.command("podman");
        command.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut words = self.prefix.clone();
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("HOME", self.dir.join("home"))
            .env("XDG_RUNTIME_DIR", self.dir.join("run"));
        command
    }
}

/// Runs a command that must succeed; its standard output.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ends with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
