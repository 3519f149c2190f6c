//! Which images are meant: `REGISTRY/REPOSITORY:TAG`, where the tag may be a pattern, or be pinned to a digest.
//!
//! Tags are ordered as versions: `v2.9.0 < v2.13.0-rc.1 < v2.13.0`. A pattern without a hyphen matches no tag with one, so
//! that pre-releases and variants (`16.4-alpine`) are taken where they are asked for, and not because they are newest.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use diodesync::id::Sha256;
use diodesync::release::image::{Accessory, parse_digest};
use diodesync::release::{ImageRepository, Tag};

use diodesync::release::glob::{GLOB_BYTES_MAX, is_pattern, matches};

/// Beginnings of what follows a version's hyphen in a pre-release.
const PRE_RELEASES: [&str; 9] =
    ["alpha", "beta", "rc", "pre", "dev", "nightly", "snapshot", "canary", "unstable"];

/// The images of one repository that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern {
    /// The repository.
    pub repository: ImageRepository,
    /// Which tags.
    pub tags: Tags,
}

/// Which tags of a repository are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// This one; where a digest is given, only as long as it names that.
    One(Tag, Option<Sha256>),
    /// Those that match.
    Pattern(String),
}

impl FromStr for ImagePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(parse_digest(digest).map_err(|error| error.to_string())?)),
            None => (text, None),
        };
        // A colon before the last slash is the registry's port.
        let Some((repository, tag)) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
            return Err(format!(
                "expected REGISTRY/REPOSITORY:TAG, like ghcr.io/coder/coder:v2.*, found {text:?}; name the tag or a pattern, \
                 for there is no default"
            ));
        };
        let repository = repository.parse::<ImageRepository>().map_err(|error| error.to_string())?;
        let tags = if is_pattern(tag) {
            let is_tag = |b: u8| b.is_ascii_alphanumeric() || b"._-*?".contains(&b);
            if tag.len() > GLOB_BYTES_MAX || !tag.bytes().all(is_tag) {
                return Err(format!("expected a pattern of letters, digits, . _ - * and ?, found {tag:?}"));
            }
            if digest.is_some() {
                return Err(format!("{text:?} pins a pattern to one digest; pin one tag"));
            }
            Tags::Pattern(tag.to_owned())
        } else {
            Tags::One(tag.parse().map_err(|error: diodesync::release::NameError| error.to_string())?, digest)
        };
        Ok(Self { repository, tags })
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tags {
            Tags::One(tag, None) => write!(f, "{}:{tag}", self.repository),
            Tags::One(tag, Some(digest)) => write!(f, "{}:{tag}@sha256:{digest}", self.repository),
            Tags::Pattern(pattern) => write!(f, "{}:{pattern}", self.repository),
        }
    }
}

/// The newest tags that match a pattern, newest first.
pub fn newest<'t>(pattern: &str, tags: impl Iterator<Item = &'t Tag>, count: usize) -> Vec<Tag> {
    let is_meant = |tag: &&Tag| {
        matches(pattern, tag.as_str())
            && (pattern.contains('-') || !tag.as_str().contains('-'))
            && Accessory::of(tag).is_none()
    };
    let mut found: Vec<Tag> = tags.filter(is_meant).cloned().collect();
    found.sort_by(|a, b| compare(b.as_str(), a.as_str()));
    found.dedup();
    found.truncate(count);
    found
}

/// The order of two tags as versions; equal only if they are the same.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text| {
        let text: &str = text;
        let bare = text.strip_prefix('v').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let (core, suffix) = bare.unwrap_or(text).split_once('-').unwrap_or((bare.unwrap_or(text), ""));
        let is_pre_release = PRE_RELEASES.iter().any(|word| suffix.starts_with(word));
        (core, !is_pre_release, suffix)
    };
    let is_number = |core: &str| core.starts_with(|c: char| c.is_ascii_digit());
    let ((core_a, final_a, suffix_a), (core_b, final_b, suffix_b)) = (parts(a), parts(b));
    // What is no version is older than any.
    is_number(core_a)
        .cmp(&is_number(core_b))
        .then_with(|| natural(core_a, core_b))
        .then(final_a.cmp(&final_b))
        .then_with(|| natural(suffix_a, suffix_b))
        .then_with(|| a.cmp(b))
}

/// Text by its letters, but runs of digits by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        match (digits(a), digits(b)) {
            (x, y) if x > 0 && y > 0 => {
                let ((number_a, rest_a), (number_b, rest_b)) = (a.split_at(x), b.split_at(y));
                let (number_a, number_b) =
                    (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
                let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
            _ => match (a.chars().next(), b.chars().next()) {
                (None, None) => return Ordering::Equal,
                (x, y) if x != y => return x.cmp(&y),
                (x, _) => {
                    let bytes = x.map_or(0, char::len_utf8);
                    (a, b) = (a.split_at(bytes).1, b.split_at(bytes).1);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        let read = |text: &str| text.parse::<ImagePattern>();
        for good in [
            "ghcr.io/coder/coder:v2.*",
            "localhost:5000/a/b:latest",
            "docker.io/library/postgres:16-alpine",
            &format!("ghcr.io/a/b:v1@sha256:{}", "0".repeat(64)),
        ] {
            assert_eq!(read(good).unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("ghcr.io/coder/coder", "there is no default"),
            ("localhost:5000/a", "there is no default"),
            ("alpine:3", "docker.io/library/NAME"),
            ("ghcr.io/a/b:v[12]*", "expected a pattern"),
            ("ghcr.io/a/b:-x", "the tag"),
            ("ghcr.io/a/b:v1@sha256:xyz", "sha256:"),
            (&format!("ghcr.io/a/b:v*@sha256:{}", "0".repeat(64)), "pin one tag"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn tags_are_ordered_as_versions() {
        let rising = [
            "latest",
            "v1.0.0",
            "v1.9",
            "v1.10",
            "v2.0.0-alpha.1",
            "v2.0.0-rc.2",
            "v2.0.0-rc.10",
            "v2.0.0",
            "v2.0.0-alpine3.9",
            "v2.0.0-alpine3.20",
            "v2.0.1",
            "v10",
        ];
        for (at, low) in rising.iter().enumerate().skip(1) {
            for high in rising.iter().skip(at + 1) {
                assert_eq!(compare(low, high), Ordering::Less, "{low} < {high}");
                assert_eq!(compare(high, low), Ordering::Greater, "{high} > {low}");
            }
        }
        assert_eq!(compare("2.1", "v2.1"), Ordering::Less);
        assert_eq!(compare("007", "7"), Ordering::Less, "each order is one");
    }

    #[test]
    fn the_newest_that_match() {
        let signature = format!("sha256-{}.sig", "0".repeat(64));
        let tags: Vec<Tag> = [
            "v2.9.0",
            "v2.13.0",
            "v2.13.1",
            "v2.14.0-rc.1",
            "v1.0",
            "latest",
            &signature,
            "16.4-alpine",
            "16.4",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let found = |pattern, count| -> Vec<String> {
            newest(pattern, tags.iter(), count).iter().map(Tag::to_string).collect()
        };
        assert_eq!(found("v2.*", 2), ["v2.13.1", "v2.13.0"]);
        assert_eq!(found("v2.*-rc.*", 9), ["v2.14.0-rc.1"]);
        assert_eq!(found("16.*-alpine", 1), ["16.4-alpine"]);
        assert_eq!(found("*", 9).len(), 6, "neither signatures nor what has a hyphen");
        assert_eq!(found("sha256-*", 9), [""; 0]);
        assert_eq!(found("v3.*", 1), [""; 0]);
    }
}
