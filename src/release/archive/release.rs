//! `InRelease`: what a suite consists of.

use std::collections::BTreeMap;

use super::{ArchiveError, clearsigned};
use crate::id::Sha256;
use crate::limits::{ARCHIVE_FILES_MAX, PATH_BYTES_MAX};
use crate::release::provider::Signer;

/// Seconds that an archive's clock may be ahead of ours: what apt takes (`Acquire::Max-FutureTime`).
const FUTURE_S_MAX: u64 = 10;

/// A file that a release names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its digest.
    pub digest: Sha256,
    /// Its octets.
    pub bytes: u64,
}

/// A signed release.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its suite, or its codename where it has no suite.
    pub suite: String,
    /// Whose it is: its `Origin` and its `Label`.
    pub origin: (Option<String>, Option<String>),
    /// Its codename.
    pub codename: Option<String>,
    /// When it was made, in seconds since 1970.
    pub date_s: u64,
    /// When its time is over.
    pub valid_until_s: Option<u64>,
    /// Whether its files can be fetched by their digests.
    pub by_hash: bool,
    /// Its components.
    pub components: Vec<String>,
    /// Its architectures.
    pub architectures: Vec<String>,
    /// Whether packages for all architectures stand in files of their own, and only there.
    pub has_all_apart: bool,
    /// Its files by path.
    pub files: BTreeMap<String, Listed>,
    /// Who signed it.
    pub signer: Signer,
}

impl Release {
    /// Reads an `InRelease` that is signed by one of the keys ([`super::keyring`]).
    pub fn verify(octets: &[u8], keys: &BTreeMap<String, Vec<u8>>) -> Result<Self, ArchiveError> {
        let (text, signer) = clearsigned::open(octets, keys)?;
        let fields = fields(&text)?;
        let get = |name: &str| fields.get(&name.to_ascii_lowercase()).map(|value| value.trim());
        let words = |name| -> Vec<String> {
            get(name).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
        };
        let architectures = words("Architectures");
        let has_no_all =
            get("No-Support-for-Architecture-all").is_some_and(|files| files.contains("Packages"));
        let codename = get("Codename").map(str::to_owned);
        let lacking = |expected| ArchiveError::Format { expected, found: "none".to_owned() };
        let suite = get("Suite").map(str::to_owned).or_else(|| codename.clone());
        Ok(Self {
            suite: suite.ok_or_else(|| lacking("a Suite or a Codename"))?,
            origin: (get("Origin").map(str::to_owned), get("Label").map(str::to_owned)),
            codename,
            date_s: date(get("Date").ok_or_else(|| lacking("a Date"))?)?,
            valid_until_s: get("Valid-Until").map(date).transpose()?,
            by_hash: get("Acquire-By-Hash") == Some("yes"),
            components: words("Components"),
            has_all_apart: !has_no_all && architectures.iter().any(|own| own == "all"),
            architectures,
            files: files(get("SHA256").ok_or_else(|| lacking("SHA256 sums"))?)?,
            signer,
        })
    }

    /// Refuses a release that is too old, or from the future, or was signed by a key that has expired since.
    pub fn check_fresh(&self, now_s: u64) -> Result<(), ArchiveError> {
        let (suite, date_s) = (self.suite.clone(), self.date_s);
        if date_s > now_s + FUTURE_S_MAX {
            return Err(ArchiveError::Future { suite, date_s, now_s });
        }
        if let Some(until_s) = self.valid_until_s.filter(|until_s| *until_s < now_s) {
            return Err(ArchiveError::Expired { suite, until_s, now_s });
        }
        let ends = [self.signer.key_expires_at, self.signer.signature_expires_at].into_iter().flatten().min();
        if let Some(expired_s) = ends.filter(|end| *end <= now_s) {
            return Err(ArchiveError::KeyExpired { key_id: self.signer.key_id.clone(), expired_s });
        }
        Ok(())
    }

    /// The paths under which it names a file.
    pub fn named(&self, digest: &Sha256, bytes: u64) -> impl Iterator<Item = &str> {
        let wanted = Listed { digest: *digest, bytes };
        self.files.iter().filter(move |(_, listed)| **listed == wanted).map(|(path, _)| path.as_str())
    }
}

/// The fields of one paragraph, by their names in lower case; the lines of a value as they stand.
fn fields(text: &str) -> Result<BTreeMap<String, String>, ArchiveError> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        let refuse = |expected| {
            let found = line.chars().take(60).collect();
            Err(ArchiveError::Format { expected, found })
        };
        if line.is_empty() {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let Some(value) = last.as_ref().and_then(|name| fields.get_mut(name)) else {
                return refuse("a field before its continuation");
            };
            value.push('\n');
            value.push_str(line);
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { return refuse("FIELD: VALUE") };
        let name = name.to_ascii_lowercase();
        if fields.insert(name.clone(), value.to_owned()).is_some() {
            return refuse("each field once");
        }
        last = Some(name);
    }
    Ok(fields)
}

/// `DIGEST SIZE PATH` in each line.
fn files(value: &str) -> Result<BTreeMap<String, Listed>, ArchiveError> {
    let mut files = BTreeMap::new();
    for line in value.lines().filter(|line| !line.trim().is_empty()) {
        let refuse = |expected| {
            let found = line.chars().take(120).collect();
            Err(ArchiveError::Format { expected, found })
        };
        let mut words = line.split_ascii_whitespace();
        let (digest, bytes) = (words.next().map(str::parse), words.next().map(str::parse));
        let (Some(Ok(digest)), Some(Ok(bytes)), Some(path), None) =
            (digest, bytes, words.next(), words.next())
        else {
            return refuse("SHA-256, octets and path in a line of sums");
        };
        if !is_path(path) {
            return refuse("a path below the suite");
        }
        if files.len() == ARCHIVE_FILES_MAX {
            return refuse("fewer files in one release");
        }
        files.insert(path.to_owned(), Listed { digest, bytes });
    }
    Ok(files)
}

/// Whether a path stays below where it starts, and means the same in a URL.
pub(super) fn is_path(path: &str) -> bool {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.~_:@=,".contains(&b))
    };
    path.len() <= PATH_BYTES_MAX && path.split('/').all(is_part)
}

/// `Sat, 17 May 2025 10:15:20 UTC`, in seconds since 1970.
fn date(text: &str) -> Result<u64, ArchiveError> {
    let zone = ["UTC", "GMT", "Z"].iter().find_map(|zone| text.strip_suffix(zone));
    let offset = zone.map_or_else(|| text.to_owned(), |rest| format!("{rest}+0000"));
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(offset.trim());
    let seconds = time.ok().and_then(|time| u64::try_from(time.as_second()).ok());
    seconds.ok_or_else(|| ArchiveError::Format {
        expected: "a date like Sat, 17 May 2025 10:15:20 UTC",
        found: text.chars().take(60).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_archives() {
        for text in [
            "Wed, 18 Nov 2026 11:06:40 UTC",
            "Wed, 18 Nov 2026 11:06:40 +0000",
            "Wed, 18 Nov 2026 12:06:40 +0100",
            "Wed, 18 Nov 2026 11:06:40 GMT",
        ] {
            assert_eq!(date(text), Ok(1_795_000_000), "{text}");
        }
        assert_eq!(date("Sat, 7 Nov 2026 09:05:00 UTC").map(|s| s % 60), Ok(0));
        for bad in ["", "tomorrow", "Wed, 18 Nov 2026", "Wed, 18 Nov 1969 11:06:40 UTC"] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_stay_below_the_suite() {
        for good in [
            "main/binary-amd64/Packages.xz",
            "pool/main/libs/libstdc++6_1%3a2.deb".split('%').next().unwrap(),
        ] {
            assert!(is_path(good), "{good}");
        }
        for bad in
            ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\\b", "a b", "a?b", "a#b", "a%2fb"]
        {
            assert!(!is_path(bad), "{bad}");
        }
    }
}
