//! A provider's zip: Terraform's `h1:` digest of what is in it, and whether Terraform could install it.
//!
//! `h1:` is SHA-256 over the lines `HEX␠␠NAME\n` of all entries, sorted by name as octets, where HEX is the SHA-256 of
//! an entry's content (Go's `dirhash.HashZip`). A network mirror's `h1:` counts directory entries as files without
//! content; the lock file's, which Terraform takes from the unpacked directory, does not. This is the mirror's.
//!
//! The zip comes from outside: entries, names and unpacked octets are limited, content streams through one buffer and
//! is never held, and what Terraform's reader would see differently, or not at all, is refused.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek};

use diodesync::release::module::{Metered, open_zip};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zip::read::ZipFileEntry;
use zip::result::ZipError as Unreadable;
use zip::{CompressionMethod, ZipArchive};

/// Entries of one provider zip. Real ones have fewer than ten.
const ENTRIES_MAX: usize = 10_000;
/// Octets read to find and hold a zip's directory.
const DIRECTORY_BYTES_MAX: u64 = 32 << 20;
/// Octets of one entry's name.
const NAME_BYTES_MAX: usize = 1024;
/// Octets that all entries have when unpacked. The largest provider of today has under one GiB.
const UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// Octets read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why a zip is not a provider's.
#[derive(Debug, Error)]
pub enum ZipError {
    /// It cannot be read as a zip, or not to its end.
    #[error("expected a readable zip, found one that is damaged or no zip ({0}); download it again")]
    Unreadable(#[from] Unreadable),
    /// The disk or the packed data failed while an entry was read.
    #[error(
        "{name}: expected content that unpacks to its checksum, found {source}; download the zip again, or look for \
         errors of the disk"
    )]
    Content {
        /// The entry.
        name: String,
        /// What was found.
        source: io::Error,
    },
    /// There is more in it than a provider has.
    #[error(
        "expected a provider zip with at most {max} {what}, found {found}; this is no provider, or a zip bomb"
    )]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found, or at least that much.
        found: u64,
        /// How much is allowed.
        max: u64,
    },
    /// An entry is not one that Terraform could unpack, or not in one way only.
    #[error("{name}: expected a plain entry of a provider zip, found {why}; take the publisher's own zip")]
    Entry {
        /// The entry.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two entries have one name, of which one reader sees the first and another the last.
    #[error("expected each name once in a provider zip, found one twice; take the publisher's own zip")]
    NameTwice,
    /// The provider's executable is not in it.
    #[error(
        "expected an executable terraform-provider-{kind} at the top of the zip, where terraform looks for it, found \
         {found}; check that the zip and the --source belong together"
    )]
    NoProvider {
        /// The provider's type.
        kind: String,
        /// The names at hand.
        found: String,
    },
}

/// Terraform's `h1:` digest; what Terraform writes after `h1:` is its base64.
///
/// Reads and checks all of the content, so it takes as long as unpacking.
pub fn h1(zip: impl Read + Seek) -> Result<[u8; 32], ZipError> {
    h1_within(zip, UNPACKED_BYTES_MAX)
}

fn h1_within(zip: impl Read + Seek, unpacked_bytes_max: u64) -> Result<[u8; 32], ZipError> {
    let budget = Cell::new(DIRECTORY_BYTES_MAX);
    let mut archive = open(zip, &budget)?;
    let mut digests = BTreeMap::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = unpacked_bytes_max;
    for place in 0..archive.len() {
        let entry = archive.by_index_data(place)?;
        check_entry(&entry)?;
        let raw = entry.name_raw().to_vec();
        let name = shown(&raw);
        let mut content = archive.by_index(place)?;
        let mut digest = Sha256::new();
        loop {
            let read = content
                .read(&mut buffer)
                .map_err(|source| ZipError::Content { name: name.clone(), source })?;
            let Some(octets) = buffer.get(..read).filter(|octets| !octets.is_empty()) else { break };
            // Counted as it comes, since the sizes that a zip states are whatever its maker wrote.
            left = left.checked_sub(read as u64).ok_or(ZipError::TooMuch {
                what: "octets when unpacked",
                found: unpacked_bytes_max.saturating_add(1),
                max: unpacked_bytes_max,
            })?;
            digest.update(octets);
        }
        digests.insert(raw, digest.finalize());
    }
    let mut all = Sha256::new();
    for (name, digest) in digests {
        digest.iter().for_each(|octet| all.update(format!("{octet:02x}")));
        all.update(b"  ");
        all.update(name);
        all.update(b"\n");
    }
    Ok(all.finalize().into())
}

/// Whether Terraform would find the provider's executable: a file at the top of the zip that is named
/// `terraform-provider-TYPE`, alone or with `_` or `.` and more behind it. Reads the directory of the zip only.
pub fn check_is_provider_zip(zip: impl Read + Seek, kind: &str) -> Result<(), ZipError> {
    let wanted = format!("terraform-provider-{kind}");
    let mut others = Vec::new();
    let budget = Cell::new(DIRECTORY_BYTES_MAX);
    let archive = open(zip, &budget)?;
    for place in 0..archive.len() {
        let entry = archive.by_index_data(place)?;
        check_entry(&entry)?;
        let name = shown(entry.name_raw());
        let rest = name.strip_prefix(&wanted).filter(|rest| !rest.contains('/'));
        if entry.is_file() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '.'])) {
            return Ok(());
        }
        if others.len() < 5 {
            others.push(name);
        }
    }
    let found = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
    Err(ZipError::NoProvider { kind: kind.to_owned(), found })
}

/// Reads the directory of a zip within the budget.
fn open<'a, R: Read + Seek>(zip: R, budget: &'a Cell<u64>) -> Result<ZipArchive<Metered<'a, R>>, ZipError> {
    let archive = open_zip(zip, budget)?;
    if archive.len() > ENTRIES_MAX {
        let found = archive.len() as u64;
        return Err(ZipError::TooMuch { what: "entries", found, max: ENTRIES_MAX as u64 });
    }
    if archive.has_duplicate_names() {
        return Err(ZipError::NameTwice);
    }
    Ok(archive)
}

fn check_entry(entry: &ZipFileEntry<'_>) -> Result<(), ZipError> {
    let raw = entry.name_raw();
    let refuse = |why| Err(ZipError::Entry { name: shown(raw), why });
    if raw.is_empty() || raw.len() > NAME_BYTES_MAX {
        return refuse("a name that is empty or longer than 1024 octets");
    }
    if std::str::from_utf8(raw).is_err() {
        return refuse("a name that is not UTF-8");
    }
    if raw.iter().any(|octet| octet.is_ascii_control() || *octet == b'\\') {
        return refuse("a name with a control character or a backslash");
    }
    if raw.starts_with(b"/") || raw.split(|octet| *octet == b'/').any(|part| part == b"..") {
        return refuse("a path that leaves the provider's directory");
    }
    if entry.encrypted() {
        return refuse("encrypted content");
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return refuse("a compression that terraform does not read (only store and deflate)");
    }
    if entry.is_symlink() {
        return refuse("a symbolic link");
    }
    if raw.ends_with(b"/") && entry.size() > 0 {
        return refuse("a directory with content");
    }
    Ok(())
}

/// A name for a message: short and without surprises.
fn shown(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw)
        .chars()
        .take(NAME_BYTES_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../tests/vectors/provider-zip/plain.zip");
    const WITH_DIRECTORIES: &[u8] = include_bytes!("../../tests/vectors/provider-zip/with-directories.zip");
    const NO_PROVIDER: &[u8] = include_bytes!("../../tests/vectors/provider-zip/no-provider.zip");

    fn base64_h1(zip: &[u8]) -> String {
        STANDARD.encode(h1(Cursor::new(zip)).unwrap())
    }

    fn make(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// Changes a name of the same length in local headers and directory alike.
    fn rename(mut zip: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        for at in 0..zip.len() - from.len() {
            if zip[at..].starts_with(from) {
                zip[at..at + to.len()].copy_from_slice(to);
            }
        }
        zip
    }

    fn why(zip: &[u8]) -> &'static str {
        match h1(Cursor::new(zip)) {
            Err(ZipError::Entry { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn h1_is_what_terraform_writes_into_its_lock_file() {
        // terraform 1.11.4, `terraform providers lock -fs-mirror=…` on this very zip.
        assert_eq!(base64_h1(PLAIN), "zuOecbHN+6nNrlM4eOIevL070B7tvqu7dtQ4uBgfONM=");
    }

    #[test]
    fn directory_entries_count_for_a_mirror() {
        // With the entry `docs/`; the lock file's digest of the unpacked directory is JqUTkZ8g8QbmXGZ8….
        assert_eq!(base64_h1(WITH_DIRECTORIES), "s5wbHGZPl7PLCVdcZHw64/7HlerIOJT3PEa0JXx/gLQ=");
    }

    #[test]
    fn names_are_sorted_as_octets() {
        let one_way = make(&[("a/b", b"1"), ("a.c", b"2")]);
        let other_way = make(&[("a.c", b"2"), ("a/b", b"1")]);
        assert_eq!(base64_h1(&one_way), base64_h1(&other_way));
    }

    #[test]
    fn the_executable_must_be_where_terraform_looks() {
        assert!(check_is_provider_zip(Cursor::new(PLAIN), "demo").is_ok());
        assert!(check_is_provider_zip(Cursor::new(WITH_DIRECTORIES), "demo").is_ok());
        for (zip, kind) in [(PLAIN, "dem"), (PLAIN, "demo_v2"), (NO_PROVIDER, "demo"), (PLAIN, "other")] {
            let error = check_is_provider_zip(Cursor::new(zip), kind).unwrap_err();
            assert!(matches!(error, ZipError::NoProvider { .. }), "{kind}: {error}");
        }
        for name in ["terraform-provider-demo", "terraform-provider-demo.exe"] {
            assert!(check_is_provider_zip(Cursor::new(make(&[(name, b"")])), "demo").is_ok(), "{name}");
        }
        let directory = make(&[("terraform-provider-demo/", b"")]);
        assert!(check_is_provider_zip(Cursor::new(directory), "demo").is_err());
    }

    #[test]
    fn absurd_zips_are_refused() {
        for bad in [b"".as_slice(), b"PK", b"hello, this is not a zip", &PLAIN[..200], &PLAIN[60..]] {
            assert!(h1(Cursor::new(bad)).is_err());
        }
        let pair = || make(&[("aaaa", b"1"), ("bbbb", b"2")]);
        let twice = rename(pair(), b"bbbb", b"aaaa");
        assert!(matches!(h1(Cursor::new(&twice)), Err(ZipError::NameTwice)));
        assert!(matches!(check_is_provider_zip(Cursor::new(&twice), "aaaa"), Err(ZipError::NameTwice)));
        for bad in [b"../b", b"a/..", b"/bbb"] {
            assert_eq!(why(&rename(pair(), b"bbbb", bad)), "a path that leaves the provider's directory");
        }
        assert_eq!(why(&rename(pair(), b"bbbb", b"b\nbb")), "a name with a control character or a backslash");
        assert_eq!(why(&rename(pair(), b"bbbb", b"b\xffbb")), "a name that is not UTF-8");
        assert_eq!(why(&rename(pair(), b"bbbb", b"bbb/")), "a directory with content");
    }

    #[test]
    fn encrypted_and_strangely_packed_entries_are_refused() {
        let directory = PLAIN.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
        let mut encrypted = PLAIN.to_vec();
        encrypted[directory + 8] |= 1;
        assert_eq!(why(&encrypted), "encrypted content");
        let mut lzma = PLAIN.to_vec();
        lzma[directory + 10] = 14;
        assert_eq!(why(&lzma), "a compression that terraform does not read (only store and deflate)");
    }

    #[test]
    fn bombs_are_cut_off_while_they_unpack() {
        let bomb = make(&[("a", &vec![0; 600_000]), ("b", &vec![0; 600_000])]);
        assert!(bomb.len() < 10_000);
        assert!(h1_within(Cursor::new(&bomb), 1_200_000).is_ok());
        let error = h1_within(Cursor::new(&bomb), 1_199_999).unwrap_err();
        assert!(matches!(error, ZipError::TooMuch { what: "octets when unpacked", .. }), "{error}");
        let names: Vec<String> = (0..=ENTRIES_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        let error = h1(Cursor::new(make(&many))).unwrap_err();
        assert!(matches!(error, ZipError::TooMuch { what: "entries", .. }), "{error}");
    }

    #[test]
    fn a_directory_beyond_its_budget_is_not_read() {
        let budget = Cell::new(PLAIN.len() as u64 / 4);
        assert!(open(Cursor::new(PLAIN), &budget).is_err());
    }

    #[test]
    fn a_flipped_octet_of_content_is_found() {
        let content = 30 + "terraform-provider-demo_v1.0.0".len();
        let mut zip = PLAIN.to_vec();
        zip[content + 5] ^= 1;
        assert!(matches!(h1(Cursor::new(zip)), Err(ZipError::Content { .. })));
    }

    #[test]
    fn damaged_zips_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..5000 {
            let mut zip = PLAIN.to_vec();
            for _ in 0..2 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = (state >> 16) as usize % zip.len();
                zip[at] = state as u8;
            }
            let _ = h1_within(Cursor::new(&zip), 1 << 20);
            let _ = check_is_provider_zip(Cursor::new(&zip), "demo");
        }
    }
}
