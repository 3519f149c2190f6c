//! What the tests of this role share: a folder that goes when the test does, and a published release in packs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use diodesync::id::{Blake3, BlockNo, Channel, PackId, ReleaseNo, Sha256};
use diodesync::limits::BLOCK_BYTES;
use diodesync::pack::PackStore;
use diodesync::release::image::{Manifests, closure};
use diodesync::release::index::{Module, Package, PackageProof, Provider, ProviderArchive, ProviderProof};
use diodesync::release::name::ModuleFormat;
use diodesync::release::{ArtifactKind, ArtifactName, Blob, Extent, Index, PackRun, PackageName};

/// A folder that goes when the test does.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh folder with `name` in its path.
    pub fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }

    /// The same in memory, if there is such a file system: for thousands of small files that are synced.
    pub fn in_memory(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::below(memory, name) } else { Self::new(name) }
    }

    fn below(base: &Path, name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("diode-receiver-{name}-{}-{place}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an origin gives with a provider version.
#[derive(Clone, Copy)]
pub struct Proof<'a> {
    /// The `SHA256SUMS` file.
    pub sums: &'a [u8],
    /// Its signature.
    pub signature: &'a [u8],
    /// The id of the key that made it.
    pub key_id: &'a str,
    /// That key.
    pub key: &'a [u8],
}

/// A release in the making, all of it in one pack.
pub struct Release {
    pack: PackId,
    content: Vec<u8>,
    index: Index,
}

impl Release {
    /// Release 1 of a channel.
    pub fn new(channel: &str, pack: u8) -> Self {
        Self {
            pack: PackId([pack; 8]),
            content: Vec::new(),
            index: Index {
                channel: channel.parse::<Channel>().unwrap(),
                number: ReleaseNo(1),
                created_s: 1_795_000_000,
                baseline: None,
                packs: BTreeMap::new(),
                blobs: BTreeMap::new(),
                artifacts: BTreeMap::new(),
            },
        }
    }

    /// Adds bytes, in two extents if there are enough of them.
    pub fn blob(&mut self, bytes: &[u8]) -> Sha256 {
        let digest = Sha256::of(bytes);
        if self.index.blobs.contains_key(&digest) {
            return digest;
        }
        let mut extents = Vec::new();
        for part in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
            self.content.extend_from_slice(b"gap");
            let offset = self.content.len() as u64;
            extents.push(Extent { pack: self.pack, offset, bytes: part.len() as u64 });
            self.content.extend_from_slice(part);
        }
        self.index.blobs.insert(digest, Blob { bytes: bytes.len() as u64, extents });
        digest
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> Sha256 {
        let blob = self.blob(bytes);
        let kind = ArtifactKind::File { blob, executable: false };
        self.index.artifacts.insert(ArtifactName::File(path.parse().unwrap()), kind);
        blob
    }

    /// Adds a provider version with one archive, and its proof if there is one.
    pub fn provider(
        &mut self,
        source: &str,
        version: &str,
        archive: &[u8],
        proof: Option<Proof<'_>>,
    ) -> Sha256 {
        let blob = self.blob(archive);
        let proof = proof.map(|proof| ProviderProof {
            sums: self.blob(proof.sums),
            signature: self.blob(proof.signature),
            keys: BTreeMap::from([(proof.key_id.to_owned(), self.blob(proof.key))]),
        });
        let archives =
            BTreeMap::from([("linux_amd64".parse().unwrap(), ProviderArchive { blob, h1: [7; 32] })]);
        let name = ArtifactName::Provider(source.parse().unwrap(), version.parse().unwrap());
        let kind = ArtifactKind::Provider(Provider { protocols: vec!["5.0".to_owned()], proof, archives });
        self.index.artifacts.insert(name, kind);
        blob
    }

    /// Adds what a tag names: its manifest, and others that belong to it, with the blobs that they name.
    pub fn image(&mut self, name: &str, tag: &str, manifests: &[&[u8]], blobs: &[&[u8]]) -> Sha256 {
        let mut known = Manifests::default();
        for manifest in manifests {
            known.insert(manifest).unwrap();
            self.blob(manifest);
        }
        let bytes: BTreeMap<Sha256, u64> =
            blobs.iter().map(|blob| (self.blob(blob), blob.len() as u64)).collect();
        let root = Sha256::of(manifests[0]);
        let image = closure(root, &known, |digest| bytes.get(digest).copied()).unwrap();
        let name = ArtifactName::Image(name.parse().unwrap(), tag.parse().unwrap());
        self.index.artifacts.insert(name, ArtifactKind::Image(image));
        root
    }

    /// Adds a version of a module, whose archive is a .tar.gz.
    pub fn module(&mut self, source: &str, version: &str, folder: &str, archive: &[u8]) -> Sha256 {
        let archive = self.blob(archive);
        let name = ArtifactName::Module(source.parse().unwrap(), version.parse().unwrap());
        let module = Module { format: ModuleFormat::TarGz, folder: folder.parse().unwrap(), archive };
        self.index.artifacts.insert(name, ArtifactKind::Module(module));
        archive
    }

    /// Adds a package with its control file and, if there is one, its archive's proof: InRelease, Packages and key.
    pub fn package(&mut self, name: PackageName, deb: &[u8], control: &[u8], proof: Option<[&[u8]; 3]>) {
        let proof = proof.map(|parts| parts.map(|part| self.blob(part)));
        let proof = proof.map(|[release, packages, key]| PackageProof { release, packages, key });
        let package = Package { deb: self.blob(deb), control: self.blob(control), proof };
        self.index.artifacts.insert(ArtifactName::Package(name), ArtifactKind::Package(package));
    }

    /// Writes the pack, and checks the index by writing and reading it.
    pub fn publish(mut self, packs: &PackStore) -> Arc<Index> {
        if !self.content.is_empty() {
            packs.write_at(self.pack, 0, &self.content).unwrap();
            let blocks: Vec<&[u8]> = self.content.chunks(BLOCK_BYTES).collect();
            let run = PackRun {
                first: BlockNo(0),
                last_bytes: blocks.last().unwrap().len() as u32,
                hashes: blocks.into_iter().map(Blake3::of).collect(),
            };
            self.index.packs.insert(self.pack, vec![run]);
        }
        Arc::new(Index::parse(&self.index.encode()).unwrap())
    }
}

/// A .tar.gz of files, with names that may be hostile.
pub fn module_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}
