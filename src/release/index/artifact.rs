//! What an index says of its artifacts: what each is made of, and how that is written.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Blob, IndexError, VERSION_FILES_AND_PROVIDERS, VERSION_IMAGES_AND_PACKAGES, VERSION_PARTS_AND_PROOFS,
    contradiction, flag,
};
use crate::codec::{Reader, put_run, put_varint};
use crate::id::Sha256;
use crate::limits::{
    ARTIFACTS_MAX, IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, PATH_BYTES_MAX, PROVIDER_PARTS_MAX,
};
use crate::release::name::{
    ArtifactName, FilePath, ImageRepository, ModuleAddress, ModuleFolder, ModuleFormat, PackageName,
    Platform, ProviderAddress, Suite, Tag, Version,
};

/// Octets of a media type (RFC 6838 §4.2 allows 127 on either side of the slash).
const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// One thing that a mirror serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is called.
    pub name: ArtifactName,
    /// What it is.
    pub kind: ArtifactKind,
}

/// What an artifact is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactKind {
    /// A plain file.
    File {
        /// Its content.
        blob: Sha256,
        /// Whether it may be executed.
        executable: bool,
    },
    /// One version of a Terraform provider.
    Provider(Provider),
    /// What a tag names.
    Image(Image),
    /// A Debian package.
    Package(Package),
    /// One version of a Terraform module.
    Module(Module),
}

/// One version of a Terraform provider, with the proof that its registry gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Plugin protocol versions, like `5.0`.
    pub protocols: Vec<String>,
    /// The upstream's proof; none if it was submitted with `--unsigned`.
    pub proof: Option<ProviderProof>,
    /// Its archives by platform.
    pub archives: BTreeMap<Platform, ProviderArchive>,
}

/// `SHA256SUMS`, its detached OpenPGP signature, and the keys that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderProof {
    /// The `SHA256SUMS` file.
    pub sums: Sha256,
    /// The binary detached signature over it.
    pub signature: Sha256,
    /// ASCII-armored public keys by key id (16 upper-case hexadecimal digits).
    pub keys: BTreeMap<String, Sha256>,
}

/// A provider's zip for one platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderArchive {
    /// The zip.
    pub blob: Sha256,
    /// Terraform's `h1:` digest of its content.
    pub h1: [u8; 32],
}

/// What a tag of an image repository names: an image, an image index, or any other OCI artifact, with everything that
/// belongs to it. Signatures that are tagged are artifacts of their own; those that only refer to a manifest by its
/// `subject` are among the manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The manifest that the tag names.
    pub manifest: Sha256,
    /// That one, those below it, and those that refer to one of them, with their media types.
    pub manifests: BTreeMap<Sha256, String>,
    /// Configurations and layers of all of them.
    pub blobs: BTreeSet<Sha256>,
    /// Manifests that an index among them names and that were left out on purpose, being of other platforms than the
    /// operator takes. The index keeps its octets, and with them its digest and its signatures.
    pub omitted: BTreeSet<Sha256>,
}

/// A Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// The `.deb`.
    pub deb: Sha256,
    /// Its control paragraph, as it stands in the `.deb`.
    pub control: Sha256,
    /// The upstream archive's proof; none if it was submitted by hand.
    pub proof: Option<PackageProof>,
}

/// What an archive says of a package: its signed `InRelease`, the index of packages that this names, and the key that
/// signed. All packages of one index share these blobs. See [`crate::release::archive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageProof {
    /// The `InRelease` file.
    pub release: Sha256,
    /// The `Packages` file, packed as the archive has it.
    pub packages: Sha256,
    /// The OpenPGP public key, ASCII-armored.
    pub key: Sha256,
}

/// One version of a Terraform module. Registries give no proof for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// How its archive is packed.
    pub format: ModuleFormat,
    /// Where in it the module is.
    pub folder: ModuleFolder,
    /// The archive.
    pub archive: Sha256,
}

impl Artifact {
    /// The blobs that it is made of.
    pub fn blobs(&self) -> Vec<Sha256> {
        match &self.kind {
            ArtifactKind::File { blob, .. } => vec![*blob],
            ArtifactKind::Provider(provider) => {
                let proof = provider.proof.iter();
                let proof =
                    proof.flat_map(|p| [p.sums, p.signature].into_iter().chain(p.keys.values().copied()));
                proof.chain(provider.archives.values().map(|archive| archive.blob)).collect()
            }
            ArtifactKind::Image(image) => image.manifests.keys().chain(&image.blobs).copied().collect(),
            ArtifactKind::Package(package) => {
                let proof = package.proof.iter().flat_map(|p| [p.release, p.packages, p.key]);
                [package.deb, package.control].into_iter().chain(proof).collect()
            }
            ArtifactKind::Module(module) => vec![module.archive],
        }
    }
}

/// Reads all artifacts of an index of a version, which must be the lowest that can say them.
pub(super) fn parse_artifacts(
    reader: &mut Reader<'_>,
    version: u8,
    blobs: &BTreeMap<Sha256, Blob>,
) -> Result<BTreeMap<ArtifactName, ArtifactKind>, IndexError> {
    let digests: Vec<Sha256> = blobs.keys().copied().collect();
    let mut artifacts = BTreeMap::new();
    let mut used = BTreeSet::new();
    for _ in 0..reader.count("artifacts", ARTIFACTS_MAX, 4)? {
        let mut blob = |reader: &mut Reader<'_>| -> Result<Sha256, IndexError> {
            let place = reader.varint()?;
            let digest = usize::try_from(place).ok().and_then(|place| digests.get(place).copied());
            let Some(digest) = digest else {
                return contradiction("an artifact names a blob that is not listed");
            };
            used.insert(digest);
            Ok(digest)
        };
        let (name, kind) = match reader.u8()? {
            1 => {
                let path: FilePath = reader.text("a path", PATH_BYTES_MAX)?.parse()?;
                let executable = flag(reader, "a file's flags")?;
                (ArtifactName::File(path), ArtifactKind::File { blob: blob(reader)?, executable })
            }
            2 => parse_provider(reader, &mut blob)?,
            3 if version >= VERSION_IMAGES_AND_PACKAGES => parse_image(reader, &mut blob, false)?,
            4 if version >= VERSION_IMAGES_AND_PACKAGES => parse_package(reader, &mut blob, false)?,
            5 if version >= VERSION_PARTS_AND_PROOFS => parse_package(reader, &mut blob, true)?,
            6 if version >= VERSION_PARTS_AND_PROOFS => parse_image(reader, &mut blob, true)?,
            7 if version > VERSION_PARTS_AND_PROOFS => parse_module(reader, &mut blob)?,
            found => return contradiction(format!("artifact kind {found} is not known to this version")),
        };
        if artifacts.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return contradiction(format!("{name} is out of order or twice"));
        }
        artifacts.insert(name, kind);
    }
    if used.len() != blobs.len() {
        return contradiction(format!("{} blobs belong to no artifact", blobs.len() - used.len()));
    }
    if version_for(&artifacts) != version {
        return contradiction(format!("version {version} is not the lowest that can say it"));
    }
    Ok(artifacts)
}

/// The lowest version of the index that can say these artifacts, so that an older receiver reads what it can.
pub(super) fn version_for(artifacts: &BTreeMap<ArtifactName, ArtifactKind>) -> u8 {
    let version = |kind: &ArtifactKind| match kind {
        ArtifactKind::File { .. } | ArtifactKind::Provider(_) => VERSION_FILES_AND_PROVIDERS,
        ArtifactKind::Module(_) => super::VERSION,
        ArtifactKind::Image(image) if !image.omitted.is_empty() => VERSION_PARTS_AND_PROOFS,
        ArtifactKind::Package(Package { proof: Some(_), .. }) => VERSION_PARTS_AND_PROOFS,
        ArtifactKind::Image(_) | ArtifactKind::Package(_) => VERSION_IMAGES_AND_PACKAGES,
    };
    artifacts.values().map(version).max().unwrap_or(VERSION_FILES_AND_PROVIDERS)
}

fn parse_provider(
    reader: &mut Reader<'_>,
    blob: &mut impl FnMut(&mut Reader<'_>) -> Result<Sha256, IndexError>,
) -> Result<(ArtifactName, ArtifactKind), IndexError> {
    let host = reader.text("a provider's host", 259)?;
    let namespace = reader.text("a provider's namespace", 64)?;
    let kind = reader.text("a provider's type", 64)?;
    let address: ProviderAddress = format!("{host}/{namespace}/{kind}").parse()?;
    let version: Version = reader.text("a provider's version", 128)?.parse()?;
    let mut protocols = Vec::new();
    for _ in 0..reader.count("a provider's protocols", PROVIDER_PARTS_MAX, 1)? {
        let protocol = reader.text("a protocol", 16)?;
        if protocol.is_empty() || !protocol.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return contradiction(format!("{protocol:?} is not a plugin protocol version"));
        }
        protocols.push(protocol.to_owned());
    }
    let proof = if flag(reader, "a provider's flags")? {
        let (sums, signature) = (blob(reader)?, blob(reader)?);
        let mut keys = BTreeMap::new();
        for _ in 0..reader.count("a provider's keys", PROVIDER_PARTS_MAX, 2)? {
            let id = reader.text("a key id", 40)?;
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
                return contradiction(format!("{id:?} is not a key id"));
            }
            if keys.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= id) {
                return contradiction(format!("key {id} is out of order or twice"));
            }
            keys.insert(id.to_owned(), blob(reader)?);
        }
        Some(ProviderProof { sums, signature, keys })
    } else {
        None
    };
    let mut archives = BTreeMap::new();
    for _ in 0..reader.count("a provider's archives", PROVIDER_PARTS_MAX, 36)? {
        let platform: Platform = reader.text("a platform", 65)?.parse()?;
        if archives.last_key_value().is_some_and(|(last, _)| *last >= platform) {
            return contradiction(format!("platform {platform} of {address} is out of order or twice"));
        }
        archives.insert(platform, ProviderArchive { blob: blob(reader)?, h1: reader.array()? });
    }
    if archives.is_empty() {
        return contradiction(format!("provider {address} {version} has no archive"));
    }
    let name = ArtifactName::Provider(address, version);
    Ok((name, ArtifactKind::Provider(Provider { protocols, proof, archives })))
}

fn parse_image(
    reader: &mut Reader<'_>,
    blob: &mut impl FnMut(&mut Reader<'_>) -> Result<Sha256, IndexError>,
    has_omitted: bool,
) -> Result<(ArtifactName, ArtifactKind), IndexError> {
    let registry = reader.text("an image's registry", 259)?;
    let repository = reader.text("an image's repository", 255)?;
    let repository: ImageRepository = format!("{registry}/{repository}").parse()?;
    let tag: Tag = reader.text("a tag", 128)?.parse()?;
    let manifest = blob(reader)?;
    let mut manifests = BTreeMap::new();
    for _ in 0..reader.count("an image's manifests", IMAGE_MANIFESTS_MAX, 4)? {
        let digest = blob(reader)?;
        let media_type = reader.text("a media type", MEDIA_TYPE_BYTES_MAX)?;
        if !is_media_type(media_type) {
            return contradiction(format!("{media_type:?} is not a media type"));
        }
        if manifests.last_key_value().is_some_and(|(last, _)| *last >= digest) {
            return contradiction(format!("manifest {digest} of {repository} is out of order or twice"));
        }
        manifests.insert(digest, media_type.to_owned());
    }
    if !manifests.contains_key(&manifest) {
        return contradiction(format!("{repository}:{tag} names a manifest that is not among its manifests"));
    }
    let mut blobs = BTreeSet::new();
    for _ in 0..reader.count("an image's blobs", IMAGE_BLOBS_MAX, 1)? {
        let digest = blob(reader)?;
        if blobs.last().is_some_and(|last| *last >= digest) {
            return contradiction(format!("blob {digest} of {repository} is out of order or twice"));
        }
        blobs.insert(digest);
    }
    let omitted = if has_omitted { parse_omitted(reader, &manifests)? } else { BTreeSet::new() };
    let image = Image { manifest, manifests, blobs, omitted };
    Ok((ArtifactName::Image(repository, tag), ArtifactKind::Image(image)))
}

fn parse_omitted(
    reader: &mut Reader<'_>,
    manifests: &BTreeMap<Sha256, String>,
) -> Result<BTreeSet<Sha256>, IndexError> {
    let mut omitted = BTreeSet::new();
    for _ in 0..reader.count("an image's omitted manifests", IMAGE_MANIFESTS_MAX, 32)? {
        let digest = Sha256(reader.array()?);
        if omitted.last().is_some_and(|last| *last >= digest) || manifests.contains_key(&digest) {
            return contradiction(format!(
                "omitted manifest {digest} is out of order, twice, or not omitted"
            ));
        }
        omitted.insert(digest);
    }
    if omitted.is_empty() {
        return contradiction("an image of some platforms omits nothing");
    }
    Ok(omitted)
}

/// `TYPE/SUBTYPE` of RFC 6838 §4.2, without parameters.
pub fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        (1..=127).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    text.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

fn parse_package(
    reader: &mut Reader<'_>,
    blob: &mut impl FnMut(&mut Reader<'_>) -> Result<Sha256, IndexError>,
    has_proof: bool,
) -> Result<(ArtifactName, ArtifactKind), IndexError> {
    let suite: Suite = reader.text("a suite", 128)?.parse()?;
    let component = reader.text("a component", 128)?;
    let package = reader.text("a package", 128)?;
    let version = reader.text("a package's version", 128)?;
    let architecture = reader.text("an architecture", 128)?;
    let name = PackageName::new(suite, component, package, version, architecture)?;
    let (deb, control) = (blob(reader)?, blob(reader)?);
    let proof = if has_proof {
        Some(PackageProof { release: blob(reader)?, packages: blob(reader)?, key: blob(reader)? })
    } else {
        None
    };
    Ok((ArtifactName::Package(name), ArtifactKind::Package(Package { deb, control, proof })))
}

fn parse_module(
    reader: &mut Reader<'_>,
    blob: &mut impl FnMut(&mut Reader<'_>) -> Result<Sha256, IndexError>,
) -> Result<(ArtifactName, ArtifactKind), IndexError> {
    let host = reader.text("a module's host", 259)?;
    let namespace = reader.text("a module's namespace", 64)?;
    let name = reader.text("a module's name", 64)?;
    let system = reader.text("a module's system", 64)?;
    let address: ModuleAddress = format!("{host}/{namespace}/{name}/{system}").parse()?;
    let version: Version = reader.text("a module's version", 128)?.parse()?;
    let format = match reader.u8()? {
        1 => ModuleFormat::TarGz,
        2 => ModuleFormat::Zip,
        found => {
            return contradiction(format!(
                "the format {found} of module {address} is not known to this version"
            ));
        }
    };
    let folder = reader.text("a module's folder", 255)?.parse()?;
    let kind = ArtifactKind::Module(Module { format, folder, archive: blob(reader)? });
    Ok((ArtifactName::Module(address, version), kind))
}

pub(super) fn put_artifact(
    out: &mut Vec<u8>,
    name: &ArtifactName,
    kind: &ArtifactKind,
    place: impl Fn(&Sha256) -> u64,
) {
    match (name, kind) {
        (ArtifactName::File(path), ArtifactKind::File { blob, executable }) => {
            out.push(1);
            put_run(out, path.as_str().as_bytes());
            out.push(u8::from(*executable));
            put_varint(out, place(blob));
        }
        (ArtifactName::Provider(address, version), ArtifactKind::Provider(provider)) => {
            out.push(2);
            for text in [address.host.as_str(), &address.namespace, &address.kind, version.as_str()] {
                put_run(out, text.as_bytes());
            }
            put_varint(out, provider.protocols.len() as u64);
            provider.protocols.iter().for_each(|protocol| put_run(out, protocol.as_bytes()));
            out.push(u8::from(provider.proof.is_some()));
            if let Some(proof) = &provider.proof {
                put_varint(out, place(&proof.sums));
                put_varint(out, place(&proof.signature));
                put_varint(out, proof.keys.len() as u64);
                for (id, blob) in &proof.keys {
                    put_run(out, id.as_bytes());
                    put_varint(out, place(blob));
                }
            }
            put_varint(out, provider.archives.len() as u64);
            for (platform, archive) in &provider.archives {
                put_run(out, platform.to_string().as_bytes());
                put_varint(out, place(&archive.blob));
                out.extend_from_slice(&archive.h1);
            }
        }
        (ArtifactName::Image(repository, tag), ArtifactKind::Image(image)) => {
            out.push(if image.omitted.is_empty() { 3 } else { 6 });
            for text in [&repository.registry, &repository.repository, tag.as_str()] {
                put_run(out, text.as_bytes());
            }
            put_varint(out, place(&image.manifest));
            put_varint(out, image.manifests.len() as u64);
            for (digest, media_type) in &image.manifests {
                put_varint(out, place(digest));
                put_run(out, media_type.as_bytes());
            }
            put_varint(out, image.blobs.len() as u64);
            image.blobs.iter().for_each(|digest| put_varint(out, place(digest)));
            if !image.omitted.is_empty() {
                put_varint(out, image.omitted.len() as u64);
                image.omitted.iter().for_each(|digest| out.extend_from_slice(&digest.0));
            }
        }
        (ArtifactName::Package(name), ArtifactKind::Package(package)) => {
            out.push(if package.proof.is_none() { 4 } else { 5 });
            for text in
                [name.suite.as_str(), &name.component, &name.package, &name.version, &name.architecture]
            {
                put_run(out, text.as_bytes());
            }
            put_varint(out, place(&package.deb));
            put_varint(out, place(&package.control));
            if let Some(proof) = &package.proof {
                [proof.release, proof.packages, proof.key]
                    .iter()
                    .for_each(|blob| put_varint(out, place(blob)));
            }
        }
        (ArtifactName::Module(address, version), ArtifactKind::Module(module)) => {
            out.push(7);
            let ModuleAddress { host, namespace, name, system } = address;
            for text in [host, namespace, name, system, version.as_str()] {
                put_run(out, text.as_bytes());
            }
            out.push(match module.format {
                ModuleFormat::TarGz => 1,
                ModuleFormat::Zip => 2,
            });
            put_run(out, module.folder.as_str().as_bytes());
            put_varint(out, place(&module.archive));
        }
        // A name of one kind on a thing of another: kind 0, which no parser accepts.
        (
            ArtifactName::File(_)
            | ArtifactName::Provider(..)
            | ArtifactName::Image(..)
            | ArtifactName::Package(_)
            | ArtifactName::Module(..),
            _,
        ) => out.push(0),
    }
}
