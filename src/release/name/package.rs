//! Names of Debian packages: where in an archive they stand, and the fields that tell one from another
//! (Debian Policy §5.6).

use std::fmt;
use std::str::FromStr;

use super::{NameError, refuse};

/// Octets of each part of a package's name.
const PART_BYTES_MAX: usize = 128;

/// A suite, like `bookworm` or `bookworm-security`; parts may be separated by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suite(String);

impl Suite {
    /// The suite as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Suite {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > PART_BYTES_MAX || !text.split('/').all(is_word) {
            return refuse(
                "the suite",
                text,
                "expected letters, digits, . + ~ _ - in parts joined by /, like bookworm",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a package is called: one package, version and architecture in one component of one suite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageName {
    /// The suite.
    pub suite: Suite,
    /// The component, like `main`.
    pub component: String,
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
}

impl PackageName {
    /// Checks every part.
    pub fn new(
        suite: Suite,
        component: &str,
        package: &str,
        version: &str,
        architecture: &str,
    ) -> Result<Self, NameError> {
        if !is_word(component) {
            return refuse("the component", component, "expected letters, digits, . + ~ _ -, like main");
        }
        // §5.6.7
        let is_package = package.len() >= 2
            && package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && package.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        if !is_package || package.len() > PART_BYTES_MAX {
            return refuse(
                "the package",
                package,
                "expected 2 or more of a-z, 0-9, + - . (Debian Policy 5.6.7)",
            );
        }
        if !is_version(version) {
            return refuse(
                "the package version",
                version,
                "expected [EPOCH:]UPSTREAM[-REVISION] (Debian Policy 5.6.12)",
            );
        }
        let is_architecture = !architecture.is_empty()
            && architecture.len() <= PART_BYTES_MAX
            && architecture.starts_with(|c: char| c.is_ascii_lowercase())
            && architecture.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        // `source` and `any` are no architectures of a binary package (§5.6.8).
        if !is_architecture || matches!(architecture, "source" | "any") {
            return refuse("the architecture", architecture, "expected one like amd64, or all");
        }
        Ok(Self {
            suite,
            component: component.to_owned(),
            package: package.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        })
    }

    /// `PACKAGE_VERSION_ARCHITECTURE.deb`, without the epoch, as archives name it.
    pub fn file_name(&self) -> String {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, rest)| rest);
        format!("{}_{version}_{}.deb", self.package, self.architecture)
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suite, component, package, version, architecture } = self;
        write!(f, "{suite}/{component} {package} {version} {architecture}")
    }
}

fn is_word(text: &str) -> bool {
    (1..=PART_BYTES_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~_-".contains(&b))
}

fn is_version(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').map_or((None, text), |(epoch, rest)| (Some(epoch), rest));
    let (upstream, revision) = rest.rsplit_once('-').map_or((rest, None), |(up, rev)| (up, Some(rev)));
    text.len() <= PART_BYTES_MAX
        && epoch.is_none_or(|epoch| epoch.parse::<u32>().is_ok() && epoch.bytes().all(|b| b.is_ascii_digit()))
        && upstream.starts_with(|c: char| c.is_ascii_digit())
        // An upstream part may hold colons if there is an epoch; a file name could not, so they are refused.
        && upstream.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~-".contains(&b))
        && revision.is_none_or(|rev| {
            !rev.is_empty() && rev.bytes().all(|b| b.is_ascii_alphanumeric() || b".+~".contains(&b))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(
        component: &str,
        package: &str,
        version: &str,
        architecture: &str,
    ) -> Result<PackageName, NameError> {
        PackageName::new("bookworm".parse()?, component, package, version, architecture)
    }

    #[test]
    fn names_follow_debian_policy() {
        let good = name("main", "libstdc++6", "1:12.2.0-14+deb12u1~bpo1", "amd64").unwrap();
        assert_eq!(good.to_string(), "bookworm/main libstdc++6 1:12.2.0-14+deb12u1~bpo1 amd64");
        assert_eq!(good.file_name(), "libstdc++6_12.2.0-14+deb12u1~bpo1_amd64.deb");
        assert!(name("main", "tzdata", "2024a", "all").is_ok());
        assert!("bookworm-security/updates".parse::<Suite>().is_ok());
        for (component, package, version, architecture) in [
            ("", "ab", "1", "all"),
            ("a/b", "ab", "1", "all"),
            ("..", "ab", "1", "all"),
            ("main", "a", "1", "all"),
            ("main", "Ab", "1", "all"),
            ("main", "../b", "1", "all"),
            ("main", "ab", "", "all"),
            ("main", "ab", "a1", "all"),
            ("main", "ab", "x:1", "all"),
            ("main", "ab", "1-", "all"),
            ("main", "ab", "1/2", "all"),
            ("main", "ab", "1 2", "all"),
            ("main", "ab", "1", ""),
            ("main", "ab", "1", "source"),
            ("main", "ab", "1", "amd64/x"),
        ] {
            assert!(
                name(component, package, version, architecture).is_err(),
                "{component} {package} {version} {architecture}"
            );
        }
        for bad in ["", "/", "a//b", "../a", "a/..", ".a", "a b"] {
            assert!(bad.parse::<Suite>().is_err(), "{bad}");
        }
    }
}
