//! Indexes and trust bundles that lie, each named for its lie: refused with a reason, whatever key has signed them.

#[path = "simulator/world.rs"]
mod world;

use diodesync::codec::{put_run, put_varint};
use diodesync::limits::{
    ARTIFACTS_MAX, BLOBS_MAX, BLOCK_BYTES, EXTENTS_MAX, IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX,
    INDEX_BYTES_MAX, PACK_BLOCKS_MAX, PACKS_MAX, PATH_BYTES_MAX, PROVIDER_PARTS_MAX,
};
use diodesync::release::{Index, IndexError};
use diodesync::trust::Bundle;
use world::Rng;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A run: first block, count, octets of the last, digests (as many as they are, whatever the count says).
type Run = (u64, u64, u64, usize);

#[derive(Clone)]
struct Blob {
    name: [u8; 32],
    bytes: u64,
    /// Place of the pack, offset, octets.
    extents: Vec<(u64, u64, u64)>,
}

/// The parts of an index, in any order and with any numbers.
#[derive(Clone)]
struct Raw {
    head: Vec<u8>,
    packs: Vec<([u8; 8], Vec<Run>)>,
    blobs: Vec<Blob>,
    artifacts: Vec<Vec<u8>>,
    tail: Vec<u8>,
    /// Counts that are not those of the lists: packs, runs, blobs, extents, artifacts.
    counts: [Option<u64>; 5],
}

fn head(channel: &str, number: u64, baseline: &[u8]) -> Vec<u8> {
    let mut head = b"DSIX\x01".to_vec();
    put_run(&mut head, channel.as_bytes());
    put_varint(&mut head, number);
    put_varint(&mut head, 1_795_000_000);
    head.extend_from_slice(baseline);
    head
}

fn file(path: &str, blob: u64) -> Vec<u8> {
    let mut out = vec![1];
    put_run(&mut out, path.as_bytes());
    out.push(0);
    put_varint(&mut out, blob);
    out
}

#[derive(Clone)]
struct Provider {
    address: [&'static str; 3],
    version: &'static str,
    protocols: Vec<&'static str>,
    flag: u8,
    keys: Vec<(&'static str, u64)>,
    archives: Vec<(&'static str, u64)>,
    counts: [Option<u64>; 3],
}

fn provider() -> Provider {
    Provider {
        address: ["registry.terraform.io", "coder", "coder"],
        version: "2.13.1",
        protocols: vec!["5.0"],
        flag: 1,
        keys: vec![("34365D9472D7468F", 2)],
        archives: vec![("darwin_arm64", 1), ("linux_amd64", 1)],
        counts: [None; 3],
    }
}

impl Provider {
    fn octets(&self) -> Vec<u8> {
        let mut out = vec![2];
        let texts = self.address.iter().chain([&self.version]);
        texts.for_each(|text| put_run(&mut out, text.as_bytes()));
        put_varint(&mut out, self.counts[0].unwrap_or(self.protocols.len() as u64));
        self.protocols.iter().for_each(|protocol| put_run(&mut out, protocol.as_bytes()));
        out.push(self.flag);
        if self.flag != 0 {
            out.extend_from_slice(&[0, 1]);
            put_varint(&mut out, self.counts[1].unwrap_or(self.keys.len() as u64));
            for (id, blob) in &self.keys {
                put_run(&mut out, id.as_bytes());
                put_varint(&mut out, *blob);
            }
        }
        put_varint(&mut out, self.counts[2].unwrap_or(self.archives.len() as u64));
        for (platform, blob) in &self.archives {
            put_run(&mut out, platform.as_bytes());
            put_varint(&mut out, *blob);
            out.extend_from_slice(&[7; 32]);
        }
        out
    }
}

/// Two packs: three blocks and, apart, one; then one. Three blobs, of which one has two extents.
fn good() -> Raw {
    let blob = |name: u8, bytes, extents: &[(u64, u64, u64)]| Blob {
        name: [name; 32],
        bytes,
        extents: extents.to_vec(),
    };
    Raw {
        head: head("main", 300, &[1, 200, 1]),
        packs: vec![([1; 8], vec![(2, 3, 500, 3), (9, 1, BLOCK, 1)]), ([2; 8], vec![(0, 1, 1000, 1)])],
        blobs: vec![
            blob(3, 2 * BLOCK, &[(0, 2 * BLOCK + 500, 2 * BLOCK)]),
            blob(4, BLOCK + 1000, &[(0, 9 * BLOCK, BLOCK), (1, 0, 1000)]),
            blob(5, 10, &[(1, 990, 10)]),
        ],
        artifacts: vec![file("a/b", 0), file("c", 1), file("d", 2), provider().octets()],
        tail: Vec::new(),
        counts: [None; 5],
    }
}

impl Raw {
    fn octets(&self) -> Vec<u8> {
        let [packs, runs, blobs, extents, artifacts] = self.counts;
        let mut out = self.head.clone();
        put_varint(&mut out, packs.unwrap_or(self.packs.len() as u64));
        for (id, list) in &self.packs {
            out.extend_from_slice(id);
            put_varint(&mut out, runs.unwrap_or(list.len() as u64));
            for (first, count, last_bytes, digests) in list {
                [*first, *count, *last_bytes].iter().for_each(|number| put_varint(&mut out, *number));
                out.resize(out.len() + digests * 32, 0xdd);
            }
        }
        put_varint(&mut out, blobs.unwrap_or(self.blobs.len() as u64));
        for blob in &self.blobs {
            out.extend_from_slice(&blob.name);
            put_varint(&mut out, blob.bytes);
            put_varint(&mut out, extents.unwrap_or(blob.extents.len() as u64));
            for (pack, offset, bytes) in &blob.extents {
                [*pack, *offset, *bytes].iter().for_each(|number| put_varint(&mut out, *number));
            }
        }
        put_varint(&mut out, artifacts.unwrap_or(self.artifacts.len() as u64));
        self.artifacts.iter().for_each(|artifact| out.extend_from_slice(artifact));
        out.extend_from_slice(&self.tail);
        out
    }

    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut raw = good();
        change(&mut raw);
        raw.octets()
    }
}

/// Refused, and the text that an operator sees holds `reason`.
#[track_caller]
fn refused(name: &str, reason: &str, octets: &[u8]) {
    match Index::parse(octets) {
        Ok(_) => panic!("{name} is accepted"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(reason), "{name}: {text:?} does not say {reason:?}");
        }
    }
}

#[test]
fn the_true_one_is_read_and_written_again() {
    let octets = good().octets();
    let index = Index::parse(&octets).unwrap();
    assert_eq!(index.encode(), octets);
    assert_eq!((index.blocks().count(), index.blob_bytes()), (5, 3 * BLOCK + 1010));
}

#[test]
fn heads() {
    refused("nothing", "DSIX", b"");
    refused("another-format", "DSIX", b"DSTB\x01");
    let version = |version| Raw::with(|raw| raw.head[4] = version);
    refused("version-0", "version 0", &version(0));
    refused("version-2-without-need", "not the lowest", &version(2));
    refused("version-3-without-need", "not the lowest", &version(3));
    refused("version-4-without-need", "not the lowest", &version(4));
    refused("version-5", "versions 1 to 4; upgrade", &version(5));
    for channel in ["", "Main", "..", "a/b", "m\0"] {
        refused(
            "a-channel-name-that-is-none",
            "a channel name",
            &Raw::with(|raw| raw.head = head(channel, 1, &[0])),
        );
    }
    let long = "m".repeat(33);
    refused("a-channel-name-too-long", "the limit is 32", &Raw::with(|raw| raw.head = head(&long, 1, &[0])));
    for baseline in [&[1u8, 100][..], &[1, 101]] {
        let lie = Raw::with(|raw| raw.head = head("main", 100, baseline));
        refused("a-baseline-that-is-not-older", "not older", &lie);
    }
    refused("a-flag-of-two", "the limit is 1", &Raw::with(|raw| raw.head = head("main", 100, &[2, 1])));
    refused(
        "a-number-not-in-its-shortest-form",
        "shortest form",
        &Raw::with(|raw| {
            raw.head = head("main", 100, &[1, 0x80, 0]);
        }),
    );
    let error = Index::parse(&vec![0; INDEX_BYTES_MAX as usize + 1]).unwrap_err();
    assert_eq!(error, IndexError::Size { found: INDEX_BYTES_MAX as usize + 1 });
}

#[test]
fn counts_beyond_every_limit() {
    let max = [PACKS_MAX, u64::from(PACK_BLOCKS_MAX), BLOBS_MAX, EXTENTS_MAX, ARTIFACTS_MAX];
    let names = ["packs", "runs of a pack", "blobs", "extents of a blob", "artifacts"];
    for (at, (max, name)) in max.into_iter().zip(names).enumerate() {
        for count in [max + 1, u64::from(u32::MAX), u64::MAX] {
            let lie = Raw::with(|raw| raw.counts[at] = Some(count));
            refused(name, &format!("{name} is {count}, the limit is {max}"), &lie);
        }
        // Within its limit, and more than the octets that follow can hold: nothing is allocated for it.
        refused(name, "truncated", &Raw::with(|raw| raw.counts[at] = Some(max)));
    }
    let names = ["protocols", "keys", "archives"];
    for (at, name) in names.into_iter().enumerate() {
        let lie = |count| {
            let mut lie = provider();
            lie.counts[at] = Some(count);
            Raw::with(|raw| raw.artifacts[3] = lie.octets())
        };
        let reason = format!("a provider's {name} is {}, the limit is", PROVIDER_PARTS_MAX + 1);
        refused(name, &reason, &lie(PROVIDER_PARTS_MAX + 1));
        refused(name, "truncated", &lie(PROVIDER_PARTS_MAX));
        refused(name, "the limit is", &lie(u64::MAX));
    }
}

#[test]
fn packs_and_runs() {
    let runs = |runs: &[Run]| Raw::with(|raw| raw.packs[0].1 = runs.to_vec());
    refused("packs-out-of-order", "out of order", &Raw::with(|raw| raw.packs.swap(0, 1)));
    refused("a-pack-twice", "or twice", &Raw::with(|raw| raw.packs[1].0 = [1; 8]));
    refused("a-pack-without-blocks", "without blocks", &Raw::with(|raw| raw.packs[1].1.clear()));
    refused("runs-out-of-order", "out of order or overlap", &runs(&[(9, 1, BLOCK, 1), (2, 3, 500, 3)]));
    refused("runs-that-overlap", "out of order or overlap", &runs(&[(2, 3, 500, 3), (4, 6, BLOCK, 6)]));
    refused("an-empty-run", "an empty run", &runs(&[(2, 0, 500, 0), (9, 1, BLOCK, 1)]));
    refused("an-empty-last-block", "an empty block", &runs(&[(2, 3, 0, 3), (9, 1, BLOCK, 1)]));
    refused("a-block-longer-than-a-block", "octets of a block", &runs(&[(2, 3, BLOCK + 1, 3)]));
    let max = u64::from(PACK_BLOCKS_MAX);
    refused("a-run-after-the-last-block", "a block number is", &runs(&[(max, 1, 500, 1)]));
    refused("a-run-over-the-last-block", "blocks of a run is 2", &runs(&[(max - 1, 2, 500, 2)]));
    refused("a-run-without-end", "blocks of a run is", &runs(&[(2, u64::MAX, 500, 3)]));
    refused("a-run-with-too-few-digests", "truncated", &runs(&[(2, max - 2, 500, 3), (9, 1, BLOCK, 1)]));
}

#[test]
fn blobs_and_extents() {
    let blob = |at: usize, bytes, extents: &[(u64, u64, u64)]| {
        Raw::with(|raw| (raw.blobs[at].bytes, raw.blobs[at].extents) = (bytes, extents.to_vec()))
    };
    refused("blobs-out-of-order", "out of order", &Raw::with(|raw| raw.blobs.swap(0, 1)));
    refused("a-blob-twice", "or twice", &Raw::with(|raw| raw.blobs[1].name = [3; 32]));
    refused(
        "a-blob-that-no-artifact-has",
        "belong to no artifact",
        &Raw::with(|raw| {
            raw.blobs.push(Blob { name: [9; 32], bytes: 1, extents: vec![(1, 0, 1)] });
        }),
    );
    refused("a-pack-that-is-not-listed", "not listed", &blob(2, 10, &[(2, 0, 10)]));
    refused("a-pack-place-without-end", "not listed", &blob(2, 10, &[(u64::MAX, 0, 10)]));
    let outside = "outside of the listed blocks";
    refused("an-extent-before-the-first-block", outside, &blob(2, 10, &[(0, 2 * BLOCK - 1, 10)]));
    refused("an-extent-after-a-short-last-block", outside, &blob(2, 10, &[(0, 4 * BLOCK + 495, 10)]));
    refused("an-extent-in-a-gap", outside, &blob(2, 10, &[(0, 6 * BLOCK, 10)]));
    refused("an-extent-over-a-gap", outside, &blob(2, 5 * BLOCK, &[(0, 4 * BLOCK, 5 * BLOCK)]));
    refused("an-extent-after-the-last-block", outside, &blob(2, 10, &[(0, 10 * BLOCK, 10)]));
    refused("an-extent-of-nothing", outside, &blob(2, 0, &[(1, 0, 0)]));
    refused("an-extent-that-wraps", outside, &blob(2, 10, &[(1, u64::MAX - 5, 10)]));
    refused("an-extent-without-end", outside, &blob(2, u64::MAX, &[(1, 0, u64::MAX)]));
    refused("a-blob-longer-than-its-extents", "its extents have 10", &blob(2, 11, &[(1, 0, 10)]));
    refused(
        "a-blob-shorter-than-its-extents",
        "its extents have 20",
        &blob(2, 10, &[(1, 0, 10), (1, 0, 10)]),
    );
    refused("a-blob-of-octets-without-extents", "its extents have 0", &blob(2, 10, &[]));
    let sum_wraps = blob(2, 9, &[(1, 0, 10), (1, 0, u64::MAX)]);
    refused("extents-whose-sum-wraps", outside, &sum_wraps);
    // An empty blob has no extents, and runs that touch hold an extent together.
    assert!(Index::parse(&blob(2, 0, &[])).is_ok());
    let touching = Raw::with(|raw| raw.packs[0].1 = vec![(2, 2, BLOCK, 2), (4, 1, 500, 1), (9, 1, BLOCK, 1)]);
    assert!(Index::parse(&touching).is_ok());
    let apart = Raw::with(|raw| raw.packs[0].1 = vec![(2, 2, 700, 2), (4, 1, 500, 1), (9, 1, BLOCK, 1)]);
    refused("an-extent-over-a-short-block", outside, &apart);
}

#[test]
fn unsafe_names() {
    let deep = vec!["d"; 65].join("/");
    let wide = "n".repeat(256);
    let long = vec!["n".repeat(100); 11].join("/");
    let names = [
        ("empty", ""),
        ("the-parent", ".."),
        ("through-the-parent", "a/../../etc/passwd"),
        ("itself", "."),
        ("absolute", "/etc/passwd"),
        ("an-empty-component", "a//b"),
        ("a-directory", "a/"),
        ("a-backslash", "a\\..\\b"),
        ("a-nul", "a\0b"),
        ("a-line-feed", "a\nb"),
        ("an-escape", "a\u{1b}[2Jb"),
        ("a-c1-control", "a\u{9b}b"),
        ("right-to-left", "a\u{202e}gpj.exe"),
        ("invisible", "a\u{200b}b"),
        ("too-deep", &deep),
        ("a-component-too-long", &wide),
        ("too-long", &long),
    ];
    for (name, path) in names {
        let reason = if path.len() > PATH_BYTES_MAX { "a path is" } else { "is refused" };
        refused(name, reason, &Raw::with(|raw| raw.artifacts[0] = file(path, 0)));
    }
    let mut not_utf8 = file("a/b", 0);
    not_utf8[2] = 0xff;
    refused("not-utf-8", "not UTF-8", &Raw::with(|raw| raw.artifacts[0] = not_utf8));
}

#[test]
fn names_that_some_file_system_cannot_hold_beside_each_other() {
    let two = |first: &str, second: &str| {
        Raw::with(|raw| {
            (raw.artifacts[0], raw.artifacts[1]) = (file(first, 0), file(second, 1));
            raw.artifacts[2] = file("\u{1f600}", 2);
        })
    };
    refused("differ-by-case", "only by case", &two("A", "a"));
    refused("differ-by-case-not-in-ascii", "only by case", &two("Ä", "ä"));
    refused("the-kelvin-sign", "only by case", &two("k", "\u{212a}"));
    refused("directories-differ-by-case", "only by case", &two("A/x", "a/y"));
    refused("deep-directories-differ-by-case", "only by case", &two("q/r/S/x", "q/r/s/y"));
    refused("far-directories-differ-by-case", "only by case", &two("a/B/x", "a/b/c/d"));
    refused("a-file-as-a-directory", "is a file and the directory", &two("a", "a/b"));
    refused("a-file-as-a-directory-by-case", "is a file and the directory", &two("A", "a/b"));
    refused("a-file-as-a-far-directory", "is a file and the directory", &two("a", "a/b/c/d"));
    assert!(Index::parse(&two("a", "a.b")).is_ok());
    assert!(Index::parse(&two("a!", "a/b")).is_ok());
}

/// Paths as deep as allowed: checking them costs no more than the paths themselves.
#[test]
fn many_deep_paths() {
    let mut raw = good();
    raw.artifacts = (0..20_000)
        .map(|n| {
            let deep: Vec<String> = (0..63).map(|depth| format!("{n:06}-{depth:07}")).collect();
            file(&format!("{}/f", deep.join("/")), n % 3)
        })
        .collect();
    assert!(Index::parse(&raw.octets()).is_ok());
}

#[test]
fn artifacts() {
    refused("artifacts-out-of-order", "out of order", &Raw::with(|raw| raw.artifacts.swap(1, 2)));
    refused("an-artifact-twice", "or twice", &Raw::with(|raw| raw.artifacts[1] = file("a/b", 1)));
    refused("a-provider-before-a-file", "out of order", &Raw::with(|raw| raw.artifacts.swap(2, 3)));
    refused("a-blob-that-is-not-listed", "not listed", &Raw::with(|raw| raw.artifacts[1] = file("c", 3)));
    refused(
        "a-blob-place-without-end",
        "not listed",
        &Raw::with(|raw| raw.artifacts[1] = file("c", u64::MAX)),
    );
    for kind in [0, 3, 255] {
        refused("a-kind-of-no-version", "is not known", &Raw::with(|raw| raw.artifacts[1][0] = kind));
    }
    let mut flagged = file("c", 1);
    flagged[3] = 2;
    refused("a-file-flag-of-two", "a file's flags is 2", &Raw::with(|raw| raw.artifacts[1] = flagged));
    refused("octets-after-the-end", "1 octets follow the end", &Raw::with(|raw| raw.tail = vec![0]));
}

#[test]
fn providers() {
    let with = |change: &dyn Fn(&mut Provider)| {
        let mut lie = provider();
        change(&mut lie);
        Raw::with(|raw| raw.artifacts[3] = lie.octets())
    };
    let refuse =
        |name: &str, reason: &str, change: &dyn Fn(&mut Provider)| refused(name, reason, &with(change));
    for host in ["", "Registry.terraform.io", "..", "a/b", "h:0", "h:99999", "h_x", "h\n"] {
        refuse("a-host-that-is-none", "is refused", &|lie| lie.address[0] = host);
    }
    for label in ["", "..", "Coder", "a/b", "a.b"] {
        refuse("a-namespace-that-is-none", "is refused", &|lie| lie.address[1] = label);
        refuse("a-type-that-is-none", "is refused", &|lie| lie.address[2] = label);
    }
    for version in ["", "v1.0.0", "1.0", "1.0.0/..", "01.0.0", "1.0.0-", "1.0.0+a_b"] {
        refuse("a-version-that-is-none", "is refused", &|lie| lie.version = version);
    }
    for protocol in ["", "five", "5.0\n"] {
        refuse("a-protocol-that-is-none", "not a plugin protocol", &|lie| lie.protocols = vec![protocol]);
    }
    for platform in ["linux", "linux_", "_amd64", "Linux_amd64", "linux_amd64_x", "../_x"] {
        refuse("a-platform-that-is-none", "is refused", &|lie| lie.archives[1].0 = platform);
    }
    for id in ["", "34365d9472d7468f", "../../x"] {
        refuse("a-key-id-that-is-none", "is not a key id", &|lie| lie.keys[0].0 = id);
    }
    refuse("a-key-twice", "or twice", &|lie| lie.keys.push(lie.keys[0]));
    refuse("keys-out-of-order", "out of order", &|lie| lie.keys.push(("00", 2)));
    refuse("platforms-out-of-order", "out of order", &|lie| lie.archives.reverse());
    refuse("a-platform-twice", "or twice", &|lie| lie.archives[0] = lie.archives[1]);
    refuse("no-archive", "has no archive", &|lie| lie.archives.clear());
    refuse("an-archive-that-is-not-listed", "not listed", &|lie| lie.archives[0].1 = 3);
    refuse("a-key-that-is-not-listed", "not listed", &|lie| lie.keys[0].1 = 300);
    refuse("a-flag-of-two", "a provider's flags is 2", &|lie| lie.flag = 2);
    assert!(Index::parse(&with(&|lie| lie.flag = 0)).is_ok());
}

/// A package of two blobs, in an index of version 2.
fn package(names: [&str; 5], blobs: [u64; 2]) -> Vec<u8> {
    let mut out = vec![4];
    names.iter().for_each(|name| put_run(&mut out, name.as_bytes()));
    blobs.iter().for_each(|blob| put_varint(&mut out, *blob));
    Raw::with(|raw| {
        raw.head[4] = 2;
        raw.artifacts.push(out);
    })
}

#[test]
fn packages() {
    const NAMES: [&str; 5] = ["bookworm", "main", "coder", "1:2.13.1-1", "amd64"];
    assert!(Index::parse(&package(NAMES, [1, 2])).is_ok());
    let long = "a".repeat(129);
    for (at, what, lies) in [
        (0, "a-suite-that-is-none", ["", "/", "a//b", "../x", "a/", "ä", "a b"]),
        (1, "a-component-that-is-none", ["", "a/b", "..", "-a", "a b", "ä", "\n"]),
        (2, "a-package-that-is-none", ["", "a", "Coder", "../x", "a/b", "a b", "a\nb"]),
        (3, "a-version-that-is-none", ["", "v1", "1/2", "1:", "1-", "x:1", "1 2"]),
        (4, "an-architecture-that-is-none", ["", "source", "any", "Amd64", "../x", "a b", "4"]),
    ] {
        for lie in lies {
            let mut names = NAMES;
            names[at] = lie;
            refused(what, "is refused", &package(names, [1, 2]));
        }
        let mut names = NAMES;
        names[at] = &long;
        let error = Index::parse(&package(names, [1, 2])).unwrap_err().to_string();
        assert!(error.contains("128"), "{what}: {error}");
    }
    refused("a-deb-that-is-not-listed", "not listed", &package(NAMES, [3, 2]));
    refused("a-control-file-that-is-not-listed", "not listed", &package(NAMES, [1, 300]));
    // Only version 2 has packages.
    let mut old = package(NAMES, [1, 2]);
    old[4] = 1;
    assert!(Index::parse(&old).is_err());
}

/// An image of one manifest and two blobs, in an index of version 2; the counts are of manifests and blobs.
fn image(
    names: [&str; 3],
    root: u64,
    manifests: &[(u64, &str)],
    blobs: &[u64],
    counts: [Option<u64>; 2],
) -> Vec<u8> {
    let mut out = vec![3];
    names.iter().for_each(|name| put_run(&mut out, name.as_bytes()));
    put_varint(&mut out, root);
    put_varint(&mut out, counts[0].unwrap_or(manifests.len() as u64));
    for (blob, media_type) in manifests {
        put_varint(&mut out, *blob);
        put_run(&mut out, media_type.as_bytes());
    }
    put_varint(&mut out, counts[1].unwrap_or(blobs.len() as u64));
    blobs.iter().for_each(|blob| put_varint(&mut out, *blob));
    Raw::with(|raw| {
        raw.head[4] = 2;
        raw.artifacts.push(out);
    })
}

#[test]
fn images() {
    const NAMES: [&str; 3] = ["ghcr.io", "coder/coder", "v2"];
    const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
    let good = image(NAMES, 0, &[(0, TYPE)], &[1, 2], [None; 2]);
    assert_eq!(Index::parse(&good).unwrap().encode(), good);
    let one = &[(0, TYPE)][..];
    for registry in ["", "GHCR.io", "ghcr", "..", "a/b.c", "ghcr.io:0"] {
        refused(
            "a-registry-that-is-none",
            "is refused",
            &image([registry, "a", "v2"], 0, one, &[1], [None; 2]),
        );
    }
    for repository in ["", "..", "a/../b", "A", "a//b", "a:b"] {
        refused(
            "a-repository-that-is-none",
            "is refused",
            &image(["ghcr.io", repository, "v2"], 0, one, &[1], [None; 2]),
        );
    }
    for tag in ["", "..", "a/b", "-a"] {
        refused("a-tag-that-is-none", "is refused", &image(["ghcr.io", "a", tag], 0, one, &[1], [None; 2]));
    }
    for media_type in ["", "json", "a/b\r\nx: y", "a/b; c=d", "/x"] {
        refused(
            "a-media-type-that-is-none",
            "is not a media type",
            &image(NAMES, 0, &[(0, media_type)], &[1], [None; 2]),
        );
    }
    refused(
        "a-manifest-that-is-not-among-them",
        "not among its manifests",
        &image(NAMES, 1, one, &[1], [None; 2]),
    );
    refused(
        "a-manifest-that-is-not-listed",
        "not listed",
        &image(NAMES, 0, &[(0, TYPE), (9, TYPE)], &[], [None; 2]),
    );
    refused(
        "manifests-out-of-order",
        "out of order",
        &image(NAMES, 0, &[(1, TYPE), (0, TYPE)], &[], [None; 2]),
    );
    refused("a-manifest-twice", "or twice", &image(NAMES, 0, &[(0, TYPE), (0, TYPE)], &[], [None; 2]));
    refused("blobs-of-an-image-out-of-order", "out of order", &image(NAMES, 0, one, &[2, 1], [None; 2]));
    refused("a-blob-of-an-image-twice", "or twice", &image(NAMES, 0, one, &[1, 1], [None; 2]));
    refused("a-blob-of-an-image-that-is-not-listed", "not listed", &image(NAMES, 0, one, &[3], [None; 2]));
    for (at, (what, max)) in
        [("manifests", IMAGE_MANIFESTS_MAX), ("blobs", IMAGE_BLOBS_MAX)].into_iter().enumerate()
    {
        let lie = |count| {
            let mut counts = [None; 2];
            counts[at] = Some(count);
            image(NAMES, 0, one, &[1], counts)
        };
        refused(what, &format!("an image's {what} is {}, the limit is {max}", max + 1), &lie(max + 1));
        refused(what, "the limit is", &lie(u64::MAX));
        refused(what, "truncated", &lie(max));
    }
}

#[test]
fn an_index_cut_off_anywhere() {
    let octets = good().octets();
    for len in 0..octets.len() {
        assert!(Index::parse(&octets[..len]).is_err(), "cut to {len} of {}", octets.len());
    }
}

/// Signed octets have one meaning: whatever is accepted is written again just so.
#[test]
fn an_index_with_any_one_octet_changed() {
    let octets = good().octets();
    let mut accepted = 0;
    for at in 0..octets.len() {
        for value in 0..=255 {
            let mut changed = octets.clone();
            changed[at] = value;
            if let Ok(index) = Index::parse(&changed) {
                accepted += 1;
                assert!(index.encode() == changed, "octet {at} = {value} is read as something else");
            }
        }
    }
    assert!(accepted > 1000);
}

#[test]
fn an_index_with_octets_taken_out_or_put_in() {
    let rng = &mut Rng::new(1, "index");
    let octets = good().octets();
    for _ in 0..50_000 {
        let mut changed = octets.clone();
        let at = rng.range(0, octets.len() - 1);
        let end = (at + rng.range(0, 4)).min(octets.len());
        let count = rng.range(0, 4);
        let new = rng.octets(count);
        changed.splice(at..end, new);
        if let Ok(index) = Index::parse(&changed) {
            assert!(index.encode() == changed);
        }
    }
}

fn bundle() -> Bundle {
    Bundle {
        roots: vec![b"root 1".to_vec(), b"root 2".to_vec()],
        timestamp: b"timestamp".to_vec(),
        snapshot: vec![b's'; 130],
        targets: b"targets".to_vec(),
    }
}

#[test]
fn trust_bundles() {
    let good = bundle().encode();
    assert_eq!(Bundle::parse(&good), Ok(bundle()));
    for len in 0..good.len() {
        assert!(Bundle::parse(&good[..len]).is_err(), "cut to {len}");
    }
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut changed = good.clone();
            changed[at] = value;
            if let Ok(bundle) = Bundle::parse(&changed) {
                assert_eq!(bundle.encode(), changed, "octet {at} = {value}");
            }
        }
    }
    let lie = |count: u64, rest: &[u8]| {
        let mut out = b"DSTB\x01".to_vec();
        put_varint(&mut out, count);
        out.extend_from_slice(rest);
        Bundle::parse(&out).unwrap_err().to_string()
    };
    assert!(lie(1025, &[0; 2000]).contains("roots is 1025, the limit is 1024"));
    assert!(lie(u64::MAX, &[]).contains("the limit is 1024"));
    assert!(lie(1024, &[0; 100]).contains("truncated"));
    assert!(lie(1, &[0xff, 0xff, 0xff, 0xff, 0x7f]).contains("a root is"));
    assert!(lie(0, &[0, 0, 0, 0]).contains("1 octets follow"));
    assert!(Bundle::parse(b"DSTB\x02").unwrap_err().to_string().contains("version 2"));
    assert!(Bundle::parse(b"DSIX\x01").unwrap_err().to_string().contains("DSTB"));
}
