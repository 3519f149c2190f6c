//! Indexes, names, upstream proofs, and what belongs to an image.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use diodesync::id::{BlockId, Channel, PackId, Sha256};
use diodesync::limits::{BLOCK_BYTES, PACK_BLOCKS_MAX};
use diodesync::release::archive::{self, ArchiveProof, Packing, Release, Stanzas};
use diodesync::release::catalog::Catalog;
use diodesync::release::delta::blocks_to_send;
use diodesync::release::image::{Manifests, check, closure};
use diodesync::release::name::{
    ImageRepository, ModuleFormat, PackageName, Suite, Tag, parse_provider_archive_name,
};
use diodesync::release::provider::{ProofInput, Sums, key_ids, split_keys, verify};
use diodesync::release::{ArtifactName, FilePath, Index, ModuleAddress, Platform, ProviderAddress, Version};

use super::{choice, parts};

/// An index.
pub fn index(data: &[u8]) {
    let index = match Index::parse(data) {
        Ok(index) => index,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(index.encode(), data, "one release has one encoding");
    let blocks: BTreeMap<BlockId, u32> = index.blocks().map(|block| (block.id, block.bytes)).collect();
    assert_eq!(blocks.len(), index.blocks().count(), "no block is named twice");
    for (id, bytes) in &blocks {
        assert!(id.block.0 < PACK_BLOCKS_MAX && (1..=BLOCK_BYTES as u32).contains(bytes));
    }
    for (digest, blob) in &index.blobs {
        assert_eq!(blob.extents.iter().map(|extent| extent.bytes).sum::<u64>(), blob.bytes, "{digest}");
        for extent in &blob.extents {
            let last = extent.offset + extent.bytes - 1;
            let block = (last / BLOCK_BYTES as u64) as u32;
            let held = blocks.get(&BlockId { pack: extent.pack, block: diodesync::id::BlockNo(block) });
            let within = last % BLOCK_BYTES as u64;
            assert!(held.is_some_and(|bytes| u64::from(*bytes) > within), "{digest} lies in no block");
        }
    }
    let _ = index.blob_bytes();
    assert!(blocks_to_send(&index, Some(&index)).is_empty());
    assert_eq!(blocks_to_send(&index, None).len(), blocks.len());
    let mut catalog = Catalog::default();
    catalog.absorb(&index);
    for name in index.artifacts.keys() {
        check_name(name);
    }
}

fn check_name(name: &ArtifactName) {
    let text = name.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    if let ArtifactName::File(path) = name {
        check_path(path);
    }
}

fn check_path(path: &FilePath) {
    let text = path.as_str();
    assert!(!text.starts_with('/') && !text.contains('\\'));
    assert!(text.split('/').all(|part| !part.is_empty() && part != "." && part != ".."), "{text:?}");
    assert!(path.parents().all(|parent| text.starts_with(parent) && !parent.is_empty()));
}

/// The archive of a module, whose format and folder the first octet says.
pub fn module(data: &[u8]) {
    let Some((kind, archive)) = choice(data, 8) else { return };
    let format = if kind % 2 == 0 { ModuleFormat::TarGz } else { ModuleFormat::Zip };
    let folder = ["", "*", "a", "*/a"][usize::from(kind / 2)].parse().expect("a folder, or a pattern of one");
    let judge = || {
        let archive = std::io::Cursor::new(archive);
        let checked = diodesync::release::module::check(archive, data.len() as u64, format, &folder);
        checked.map(|folder| folder.as_str().to_owned()).map_err(|error| error.to_string())
    };
    let verdict = judge();
    assert_eq!(verdict, judge());
    assert!(verdict.is_ok() || verdict.is_err_and(|why| !why.is_empty()));
}

/// Names, each alone.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    again::<FilePath>(text);
    again::<ProviderAddress>(text);
    again::<ModuleAddress>(text);
    again::<Version>(text);
    again::<Platform>(text);
    again::<Channel>(text);
    again::<ImageRepository>(text);
    again::<Tag>(text);
    again::<Suite>(text);
    again::<Sha256>(text);
    again::<PackId>(text);
    if let Ok(path) = text.parse() {
        check_path(&path);
    }
    if let Ok((version, platform)) = parse_provider_archive_name("coder", text) {
        assert_eq!(format!("terraform-provider-coder_{version}_{platform}.zip"), text);
    }
    let fields: Vec<&str> = text.split('\n').collect();
    if let [suite, component, package, version, architecture] = fields.as_slice()
        && let Ok(suite) = suite.parse()
        && let Ok(name) = PackageName::new(suite, component, package, version, architecture)
    {
        let file = name.file_name();
        assert!(!file.contains('/') && !file.starts_with('.'), "{file}");
        check_name(&ArtifactName::Package(name));
    }
}

/// What is a name is written as it was read.
fn again<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            assert!(!text.contains("..") || !text.contains("/../"), "{text:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// SHA256SUMS, a signature over it, key files, and the name of an archive.
pub fn proof(data: &[u8]) {
    let parts = parts(data);
    let [name, sums, signature, key_files @ ..] = parts.as_slice() else { return };
    let name = String::from_utf8_lossy(name).into_owned();
    if let Ok(sums) = Sums::parse(sums) {
        let _ = sums.get(&name);
    }
    let mut keys = BTreeMap::new();
    for file in key_files.iter().take(4) {
        if let (Ok(ids), Ok(split)) = (key_ids(file), split_keys(file)) {
            assert!(split.keys().all(|id| ids.contains(id) && id.len() == 16), "{ids:?}");
            for (id, armored) in &split {
                assert_eq!(key_ids(armored).as_deref(), Ok([id.clone()].as_slice()), "one key in each file");
            }
            keys.extend(split);
        }
    }
    let digest = Sums::parse(sums).ok().and_then(|sums| sums.get(&name)).unwrap_or(Sha256([0; 32]));
    let input = ProofInput { sums, signature, keys: &keys };
    match verify(&input, &[(name.clone(), digest)]) {
        Ok(signer) => {
            assert!(keys.contains_key(&signer.key_id), "signed by a key that was not given");
            assert!(Sums::parse(sums).is_ok_and(|sums| sums.get(&name) == Some(digest)));
            // One octet of what was signed, and it is not what was signed any more.
            let mut other = sums.to_vec();
            other.push(b'\n');
            assert!(verify(&ProofInput { sums: &other, ..input }, &[(name, digest)]).is_err());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a Debian archive says: `Packages` files, plain and packed, and its signed release.
pub fn archive(data: &[u8]) {
    let Some((which, rest)) = choice(data, 4) else { return };
    let packing = match which {
        0 => Packing::Plain,
        1 => Packing::Gzip,
        2 => Packing::Xz,
        _ => return archive_proof(rest),
    };
    let Ok(stanzas) = Stanzas::new(rest, packing) else { return };
    for stanza in stanzas {
        let stanza = match stanza {
            Ok(stanza) => stanza,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        let _ = (stanza.get("Package"), stanza.get("Depends"), stanza.get(""));
        if let Ok((path, ..)) = stanza.place() {
            assert!(
                !path.starts_with('/') && !path.split('/').any(|part| matches!(part, "" | "." | "..")),
                "{path}"
            );
        }
    }
}

fn archive_proof(data: &[u8]) {
    let parts = parts(data);
    let [release, packages, key] = parts.as_slice() else { return };
    let keys = match archive::keyring(key) {
        Ok(keys) => keys,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    match Release::verify(release, &keys) {
        Ok(_) => {
            // A line before what was signed, and it is not what was signed any more.
            let changed = [b"Suite: other\n".as_slice(), release].concat();
            assert!(Release::verify(&changed, &keys).is_err());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = archive::verify(&ArchiveProof { release, packages, key }, &[]);
}

/// Manifests of images. What the sender gathers, the receiver finds whole, and with a blob less it does not.
pub fn image(data: &[u8]) {
    let parts = parts(data);
    let parts: Vec<&[u8]> = parts.into_iter().take(16).collect();
    let mut manifests = Manifests::default();
    let mut octets: BTreeMap<Sha256, &[u8]> = BTreeMap::new();
    for part in parts {
        match manifests.insert(part) {
            Ok(digest) => {
                assert_eq!(digest, Sha256::of(part));
                octets.insert(digest, part);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let blobs = manifests.iter().flat_map(|(_, manifest)| &manifest.blobs);
    let sizes: BTreeMap<Sha256, u64> = blobs.map(|blob| (blob.digest, blob.bytes)).collect();
    let size = |digest: &Sha256| sizes.get(digest).copied();
    for root in octets.keys() {
        let image = match closure(*root, &manifests, size) {
            Ok(image) => image,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        assert!(image.manifests.contains_key(root));
        let mut own = Manifests::default();
        for digest in image.manifests.keys() {
            own.insert(octets[digest]).expect("it was read before");
        }
        check(&image, &own, size).expect("both sides agree");
        // Without one that it lists, which is said: the same again.
        let root_manifest = manifests.get(root).expect("it was read before");
        if let Some(left_out) = root_manifest.manifests.first().filter(|child| child.digest != *root) {
            let mut some = manifests.clone();
            some.omit(left_out.digest);
            let some = closure(*root, &some, size).expect("less is needed");
            assert!(some.omitted.contains(&left_out.digest));
            let mut own = Manifests::default();
            some.omitted.iter().for_each(|digest| own.omit(*digest));
            for digest in some.manifests.keys() {
                own.insert(octets[digest]).expect("it was read before");
            }
            check(&some, &own, size).expect("both sides agree");
        }
        if let Some(first) = image.blobs.first() {
            let mut less = image.clone();
            less.blobs.remove(first);
            assert!(check(&less, &own, size).is_err(), "a blob is lacking");
        }
    }
}
