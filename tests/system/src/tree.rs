//! File trees that are the same in every run, and the digests of what is on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use diodesync::limits::{BLOB_ALIGN_BYTES, BLOB_ALIGN_MIN_BYTES, BLOCK_BYTES};
use sha2::{Digest as _, Sha256};

use crate::prng::Prng;

/// SHA-256 in hexadecimal and length, by path relative to the tree's root with `/` between components.
pub type Digests = BTreeMap<String, (String, u64)>;

/// What a tree consists of.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Where the contents start.
    pub seed: u64,
    /// Files of a few octets to a few KiB.
    pub small: usize,
    /// Octets of the largest file.
    pub largest: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self { seed: 1, small: 300, largest: 24 << 20 }
    }
}

/// Makes a tree under `root` with everything that makes trees hard: empty files, sizes around every boundary, many
/// small files, deep paths, names that need care in a URL or a listing, and executable bits.
pub fn make(root: &Path, spec: Spec) -> Result<()> {
    let mut prng = Prng::new(spec.seed);
    let align = BLOB_ALIGN_BYTES as usize;
    let align_min = BLOB_ALIGN_MIN_BYTES as usize;
    for size in [
        0,
        1,
        align - 1,
        align,
        align_min - 1,
        align_min,
        align_min + 1,
        BLOCK_BYTES - 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        3 * BLOCK_BYTES + 17,
        spec.largest,
    ] {
        write(root, &format!("sizes/{size:09}.bin"), &octets(&mut prng, size), 0o644)?;
    }
    for number in 0..spec.small {
        let size = prng.below(if number % 10 == 0 { 16 << 10 } else { 600 });
        let path = format!("small/{}/{number:05}.txt", number % 7);
        write(root, &path, &octets(&mut prng, size), 0o644)?;
    }
    write(root, &format!("{}/bottom", vec!["deep"; 30].join("/")), b"far down\n", 0o644)?;
    for name in [
        "Grüße aus Zürich.txt",
        "日本語.md",
        "naïve café",
        "with space",
        "percent%41.txt",
        "hash#and?question&plus+equals=",
        "'quoted' \"twice\"",
        ".hidden",
        "-leading-dash",
        "semi;colon,comma~tilde",
        "[brackets]{braces}",
        "<angle>&amp;.html",
    ] {
        write(root, &format!("names/{name}"), &octets(&mut prng, 64), 0o644)?;
    }
    write(root, "bin/tool.sh", b"#!/bin/sh\nexec echo tool\n", 0o755)?;
    // The same octets under two names: one blob.
    write(root, "twice/a.bin", &octets(&mut Prng::new(spec.seed ^ 7), 200_000), 0o644)?;
    write(root, "twice/b.bin", &octets(&mut Prng::new(spec.seed ^ 7), 200_000), 0o644)
}

/// Writes one file of a tree, with its folders.
pub fn write(root: &Path, path: &str, contents: &[u8], mode: u32) -> Result<()> {
    let path = root.join(path);
    let what = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().with_context(what)?).with_context(what)?;
    fs::write(&path, contents).with_context(what)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(what)
}

/// `size` octets that no compressor shortens.
pub fn octets(prng: &mut Prng, size: usize) -> Vec<u8> {
    let mut contents = vec![0; size];
    prng.fill(&mut contents);
    contents
}

/// The digests of every file under `root`, with `prefix` before each path.
pub fn digests(root: &Path, prefix: &str) -> Result<Digests> {
    let mut found = Digests::new();
    walk(root, prefix, &mut found)?;
    Ok(found)
}

fn walk(dir: &Path, prefix: &str, found: &mut Digests) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let name =
            entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?} is not UTF-8"))?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            found.insert(path, digest(&entry.path())?);
        }
    }
    Ok(())
}

/// SHA-256 in hexadecimal and length of one file.
pub fn digest(path: &Path) -> Result<(String, u64)> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), length));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

/// Lower-case hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    octets.iter().fold(String::new(), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_same_seed_makes_the_same_tree() {
        let spec = Spec { small: 20, largest: 2 << 20, ..Spec::default() };
        let (one, two) = (Scratch::new("tree").unwrap(), Scratch::new("tree").unwrap());
        make(one.path(), spec).unwrap();
        make(two.path(), spec).unwrap();
        let digests_one = digests(one.path(), "p").unwrap();
        assert_eq!(digests_one, digests(two.path(), "p").unwrap());
        assert_eq!(digests_one["p/sizes/000000000.bin"].1, 0);
        assert_eq!(digests_one["p/twice/a.bin"], digests_one["p/twice/b.bin"]);
    }
}
