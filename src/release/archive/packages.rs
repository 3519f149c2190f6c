//! A `Packages` file, packed or plain: read once from its beginning, one stanza at a time.

use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::release::is_path;
use super::{ArchiveError, Claim, PACKAGES_BYTES_MAX, PACKAGES_PACKED_BYTES_MAX, check_size};
use crate::id::Sha256;
use crate::limits::CONTROL_BYTES_MAX;

/// KiB of memory that unpacking may take for its window: what `xz -9` takes.
const WINDOW_KIB_MAX: u32 = (64 << 10) + 1024;
/// Fields by which packages hang together. An archive may override what a package says of its section or priority, but
/// with another of these it would be another package.
const RELATIONS: [&str; 11] = [
    "Source",
    "Pre-Depends",
    "Depends",
    "Recommends",
    "Conflicts",
    "Breaks",
    "Replaces",
    "Provides",
    "Enhances",
    "Essential",
    "Multi-Arch",
];

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// By gzip.
    Gzip,
    /// By xz.
    Xz,
}

impl Packing {
    /// How a `Packages` file of this name is packed.
    pub fn of_path(path: &str) -> Result<Self, ArchiveError> {
        match path.rsplit('/').next().unwrap_or(path) {
            "Packages" => Ok(Self::Plain),
            "Packages.gz" => Ok(Self::Gzip),
            "Packages.xz" => Ok(Self::Xz),
            _ => Err(ArchiveError::Packages(format!(
                "expected Packages, Packages.gz or Packages.xz, found {path}"
            ))),
        }
    }
}

/// The stanzas of a file.
pub struct Stanzas<'a> {
    lines: BufReader<io::Take<Box<dyn Read + 'a>>>,
    left: u64,
}

impl<'a> Stanzas<'a> {
    /// Begins to read a file.
    pub fn new(octets: &'a [u8], packing: Packing) -> Result<Self, ArchiveError> {
        check_size("Packages", octets.len() as u64, PACKAGES_PACKED_BYTES_MAX)?;
        let unpacked: Box<dyn Read + 'a> = match packing {
            Packing::Plain => Box::new(octets),
            Packing::Gzip => Box::new(MultiGzDecoder::new(octets)),
            Packing::Xz => Box::new(XzReader::new_mem_limit(octets, true, WINDOW_KIB_MAX)),
        };
        let lines = BufReader::with_capacity(1 << 16, unpacked.take(PACKAGES_BYTES_MAX + 1));
        Ok(Self { lines, left: PACKAGES_BYTES_MAX })
    }

    fn read(&mut self) -> Result<Option<Stanza>, ArchiveError> {
        let mut text = Vec::new();
        loop {
            let before = text.len();
            let room = CONTROL_BYTES_MAX.saturating_sub(before as u64) + 1;
            let read = (&mut self.lines).take(room).read_until(b'\n', &mut text);
            let read =
                read.map_err(|error| ArchiveError::Packages(format!("it does not unpack: {error}")))? as u64;
            let too_large = |what, max| ArchiveError::Size { what, found: max + 1, max };
            self.left =
                self.left.checked_sub(read).ok_or(too_large("Packages, unpacked", PACKAGES_BYTES_MAX))?;
            if text.len() as u64 > CONTROL_BYTES_MAX {
                return Err(too_large("a stanza of Packages", CONTROL_BYTES_MAX));
            }
            let is_empty_line = text.get(before..).unwrap_or_default().trim_ascii().is_empty();
            if read == 0 || is_empty_line && before > 0 {
                text.truncate(before);
                break;
            }
            if is_empty_line {
                text.clear();
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(text);
        Ok(Some(Stanza(text.map_err(|_| ArchiveError::Packages("a stanza is not UTF-8".to_owned()))?)))
    }
}

impl Iterator for Stanzas<'_> {
    type Item = Result<Stanza, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// What an archive says of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza(String);

impl Stanza {
    /// The value of a field with its lines, without the space around it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut at = 0;
        for line in self.0.split_inclusive('\n') {
            at += line.len();
            let Some((field, _)) = line.split_once(':') else { continue };
            if !field.eq_ignore_ascii_case(name) {
                continue;
            }
            let start = at - line.len() + field.len() + 1;
            let rest = self.0.get(at..).unwrap_or_default();
            let more: usize = rest
                .split_inclusive('\n')
                .take_while(|line| line.starts_with([' ', '\t']))
                .map(str::len)
                .sum();
            return self.0.get(start..at + more).map(str::trim);
        }
        None
    }

    /// Where the package is, below the archive; its digest and octets.
    pub fn place(&self) -> Result<(&str, Sha256, u64), ArchiveError> {
        let refuse = |what: &str| {
            let package = self.get("Package").unwrap_or("a package").chars().take(60).collect::<String>();
            ArchiveError::Packages(format!("{package} has no {what} that can be used"))
        };
        let path =
            self.get("Filename").map(|path| path.trim_start_matches("./")).filter(|path| is_path(path));
        let digest = self.get("SHA256").and_then(|text| text.parse().ok());
        let bytes = self.get("Size").and_then(|text| text.parse().ok());
        Ok((
            path.ok_or_else(|| refuse("Filename"))?,
            digest.ok_or_else(|| refuse("SHA256"))?,
            bytes.ok_or_else(|| refuse("Size"))?,
        ))
    }

    /// Refuses a package that is not this one.
    pub fn check(&self, claim: &Claim<'_>) -> Result<(), ArchiveError> {
        let name = || Box::new(claim.name.clone());
        let (_, expected, expected_bytes) = self.place()?;
        if (expected, expected_bytes) != (claim.deb, claim.bytes) {
            let (found, found_bytes) = (claim.deb, claim.bytes);
            return Err(ArchiveError::Deb { name: name(), expected, expected_bytes, found, found_bytes });
        }
        for field in RELATIONS {
            let words = |value: Option<&str>| {
                value.unwrap_or_default().split_ascii_whitespace().collect::<Vec<_>>().join(" ")
            };
            let (expected, found) = (words(self.get(field)), words(claim.control.get(field)));
            if expected != found {
                return Err(ArchiveError::Control { name: name(), field, expected, found });
            }
        }
        Ok(())
    }
}
