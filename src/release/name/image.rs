//! Names of container images, as the OCI distribution specification 1.1 writes them, with the registry they are from.

use std::fmt;
use std::str::FromStr;

use super::{NameError, is_host, refuse};

/// Octets of a repository's name, registry included: what clients accept.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Characters of a tag.
const TAG_CHARS_MAX: usize = 128;

/// `REGISTRY/REPOSITORY`, in full: Docker Hub's `alpine` is `docker.io/library/alpine`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRepository {
    /// The registry, with its port if it has one.
    pub registry: String,
    /// The repository's name there.
    pub repository: String,
}

impl FromStr for ImageRepository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the image repository", text, why);
        if text.len() > REPOSITORY_BYTES_MAX {
            return no("it is longer than 255 octets");
        }
        let Some((registry, repository)) = text.split_once('/') else {
            return no(
                "expected REGISTRY/REPOSITORY, like ghcr.io/coder/coder, or docker.io/library/NAME for an image of \
                       Docker Hub",
            );
        };
        if !is_host(registry) || !(registry.contains(['.', ':']) || registry == "localhost") {
            return no("what is before the first / is not a registry's lower-case host name; \
                       write docker.io/library/NAME for an image of Docker Hub");
        }
        if !repository.split('/').all(is_path_component) {
            return no("a part of the repository is not lower-case letters and digits, \
                       joined by one of . or _, two _, or any number of -");
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned() })
    }
}

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_separator = |run: &str| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| is_word(*b))
        && bytes.last().is_some_and(|b| is_word(*b))
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(is_separator)
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_tag = text.len() <= TAG_CHARS_MAX
            && text.bytes().next().is_some_and(is_word)
            && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
        if !is_tag {
            return refuse(
                "the tag",
                text,
                "expected 1 to 128 letters, digits, _, . and -, not starting with . or -",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_name_their_registry() {
        for good in [
            "ghcr.io/coder/coder",
            "docker.io/library/alpine",
            "localhost/a",
            "localhost:5000/a/b",
            "r.example/a--b/c__d.e",
        ] {
            assert_eq!(good.parse::<ImageRepository>().unwrap().to_string(), good);
        }
        let long = format!("ghcr.io/{}", "a".repeat(256));
        for bad in [
            "alpine",
            "library/alpine",
            "ghcr.io/",
            "ghcr.io/A",
            "ghcr.io/a//b",
            "ghcr.io/../b",
            "ghcr.io/a_._b",
            "ghcr.io/-a",
            "ghcr.io/a-",
            "ghcr.io/a___b",
            "ghcr.io/a..b",
            "Ghcr.io/a",
            "ghcr.io/a:b",
            "ghcr.io:0/a",
            &long,
        ] {
            assert!(bad.parse::<ImageRepository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_plain() {
        for good in ["latest", "v2.13.1", "_x", "sha256-ab.sig", "A"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "ä", "a b", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
