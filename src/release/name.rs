//! Names of artifacts. A name that exists is safe: it cannot leave its tree, hide a control character, or mean one
//! thing here and another on the far side. Everything is parsed once, from the command line, from a tree on disk and
//! from an index alike.

mod image;
mod module;
mod package;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use image::{ImageRepository, Tag};
pub use module::{ModuleAddress, ModuleFolder, ModuleFormat};
pub use package::{PackageName, Suite};

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {name:?} is refused: {why}")]
pub struct NameError {
    /// What kind of name it was to be.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn refuse<T>(what: &'static str, name: &str, why: &'static str) -> Result<T, NameError> {
    Err(NameError { what, name: name.to_owned(), why })
}

/// A relative path with `/` between its components, in UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(String);

impl FilePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above it, nearest last: `a/b/c` gives `a`, `a/b`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| self.0.split_at(at).0)
    }

    /// What two paths share that some file system cannot tell apart.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }
}

impl FromStr for FilePath {
    type Err = NameError;

    fn from_str(path: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the path", path, why);
        if path.is_empty() {
            return no("it is empty");
        }
        if path.len() > PATH_BYTES_MAX {
            return no("it is longer than 1024 octets");
        }
        if path.starts_with('/') {
            return no("it is absolute; paths are relative to the tree that is served");
        }
        if path.contains('\\') {
            return no("it holds a backslash");
        }
        if path.chars().any(is_hidden) {
            return no("it holds a control or direction-changing character");
        }
        if path.split('/').count() > PATH_DEPTH_MAX {
            return no("it is more than 64 directories deep");
        }
        for component in path.split('/') {
            match component {
                "" => return no("it has an empty component"),
                "." | ".." => return no("it has a component . or .."),
                _ if component.len() > NAME_BYTES_MAX => return no("a component is longer than 255 octets"),
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Characters that a listing does not show as what they are: controls, and those that reorder or hide text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `HOST/NAMESPACE/TYPE`, as Terraform writes a provider's source address, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderAddress {
    /// The origin registry, with its port if it has one.
    pub host: String,
    /// The namespace.
    pub namespace: String,
    /// The type.
    pub kind: String,
}

impl FromStr for ProviderAddress {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the provider source", text, why);
        let parts: Vec<&str> = text.split('/').collect();
        let [host, namespace, kind] = parts.as_slice() else {
            return no("expected HOST/NAMESPACE/TYPE, like registry.terraform.io/coder/coder");
        };
        if !is_host(host) {
            return no("the host is not a lower-case host name with an optional port");
        }
        if !is_label(namespace) || !is_label(kind) {
            return no("namespace and type are 1 to 64 of a-z, 0-9, - and _");
        }
        Ok(Self { host: (*host).to_owned(), namespace: (*namespace).to_owned(), kind: (*kind).to_owned() })
    }
}

impl fmt::Display for ProviderAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.namespace, self.kind)
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port))
}

fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// A provider's version: Semantic Versioning 2.0.0 without a leading `v`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Major, minor and patch.
    pub fn numbers(&self) -> [u64; 3] {
        let core = self.0.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = core.split('.').map(|number| number.parse().unwrap_or_default());
        std::array::from_fn(|_| numbers.next().unwrap_or_default())
    }

    /// The pre-release part; empty for a release.
    pub fn pre(&self) -> &str {
        let before_build = self.0.split('+').next().unwrap_or_default();
        before_build.split_once('-').map_or("", |(_, pre)| pre)
    }

    /// Whether it is a pre-release.
    pub fn is_pre_release(&self) -> bool {
        !self.pre().is_empty()
    }
}

impl FromStr for Version {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let no = |why| refuse("the version", text, why);
        if text.len() > 128 {
            return no("it is longer than 128 octets");
        }
        let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let numbers: Vec<&str> = core.split('.').collect();
        let number = |n: &&str| {
            !n.is_empty()
                && n.bytes().all(|b| b.is_ascii_digit())
                && (*n == "0" || !n.starts_with('0'))
                && n.parse::<u64>().is_ok()
        };
        if numbers.len() != 3 || !numbers.iter().all(number) {
            return no("expected MAJOR.MINOR.PATCH, like 2.13.1");
        }
        let tail = |tail: &str| {
            tail.split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        };
        if !pre.is_none_or(tail) || !build.is_none_or(tail) {
            return no("its pre-release or build part is not dotted letters, digits and hyphens");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `OS_ARCH`, as Terraform writes a platform.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// The operating system, like `linux`.
    pub os: String,
    /// The architecture, like `amd64`.
    pub arch: String,
}

impl FromStr for Platform {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |word: &str| {
            (1..=32).contains(&word.len())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('_') {
            Some((os, arch)) if word(os) && word(arch) => {
                Ok(Self { os: os.to_owned(), arch: arch.to_owned() })
            }
            _ => refuse("the platform", text, "expected OS_ARCH, like linux_amd64"),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.os, self.arch)
    }
}

/// What an artifact is called. Unique within a release, and within the union of a link's channels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtifactName {
    /// A plain file.
    File(FilePath),
    /// One version of a Terraform provider, with all its platforms.
    Provider(ProviderAddress, Version),
    /// What a tag of an image repository names.
    Image(ImageRepository, Tag),
    /// A Debian package.
    Package(PackageName),
    /// One version of a Terraform module.
    Module(ModuleAddress, Version),
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {path}"),
            Self::Provider(address, version) => write!(f, "provider {address} {version}"),
            Self::Image(repository, tag) => write!(f, "image {repository}:{tag}"),
            Self::Package(name) => write!(f, "package {name}"),
            Self::Module(address, version) => write!(f, "module {address} {version}"),
        }
    }
}

/// The file name that a registry gives a provider's archive:
/// `terraform-provider-TYPE_VERSION_OS_ARCH.zip`.
pub fn provider_archive_name(kind: &str, version: &Version, platform: &Platform) -> String {
    format!("terraform-provider-{kind}_{version}_{platform}.zip")
}

/// Reads version and platform out of a provider archive's file name.
pub fn parse_provider_archive_name(kind: &str, name: &str) -> Result<(Version, Platform), NameError> {
    let no = || NameError {
        what: "the provider archive",
        name: name.to_owned(),
        why: "expected terraform-provider-TYPE_VERSION_OS_ARCH.zip with the TYPE of its source",
    };
    let rest = name
        .strip_prefix("terraform-provider-")
        .and_then(|rest| rest.strip_prefix(kind))
        .and_then(|rest| rest.strip_prefix('_'))
        .and_then(|rest| rest.strip_suffix(".zip"))
        .ok_or_else(no)?;
    let (version, platform) = rest.split_once('_').ok_or_else(no)?;
    Ok((version.parse()?, platform.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_leave_their_tree_or_hide() {
        for good in ["a", "a/b", "docs/ä ö.txt", ".hidden", "a..b", "x/...y"] {
            assert!(good.parse::<FilePath>().is_ok(), "{good}");
        }
        let deep = vec!["d"; 65].join("/");
        let long = "n".repeat(256);
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "a\nb",
            "a\0b",
            "\u{7f}",
            "a\u{202e}fdp.exe",
            "\u{feff}a",
            &deep,
            &long,
            &"p/".repeat(600),
        ] {
            assert!(bad.parse::<FilePath>().is_err(), "{bad:?}");
        }
        let parents: Vec<String> =
            "a/b/c".parse::<FilePath>().unwrap().parents().map(str::to_owned).collect();
        assert_eq!(parents, ["a", "a/b"]);
    }

    #[test]
    fn provider_sources_are_fully_qualified_and_lower_case() {
        for good in ["registry.terraform.io/coder/coder", "localhost:8443/a/b_c", "tf.example.com/x/y-z"] {
            assert_eq!(good.parse::<ProviderAddress>().unwrap().to_string(), good);
        }
        for bad in [
            "coder/coder",
            "registry.terraform.io/Coder/coder",
            "a/b/c/d",
            "../b/c",
            "h/../c",
            "h:0/b/c",
            "h:080/b/c",
            "h:/b/c",
            ".h/b/c",
            "h//c",
            "h/b/",
        ] {
            assert!(bad.parse::<ProviderAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_semantic() {
        for good in ["0.0.1", "2.13.1", "1.0.0-rc.1", "1.0.0+build.5", "1.0.0-a-b+c"] {
            assert!(good.parse::<Version>().is_ok(), "{good}");
        }
        for bad in
            ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3+", "1.2.3-a..b", "1.2.3/..", "1.2.-3"]
        {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_archive_name_gives_version_and_platform() {
        let (version, platform) =
            parse_provider_archive_name("coder", "terraform-provider-coder_2.13.1_linux_amd64.zip").unwrap();
        assert_eq!((version.as_str(), platform.to_string().as_str()), ("2.13.1", "linux_amd64"));
        assert_eq!(
            provider_archive_name("coder", &version, &platform),
            "terraform-provider-coder_2.13.1_linux_amd64.zip"
        );
        for bad in [
            "terraform-provider-aws_1.0.0_linux_amd64.zip",
            "terraform-provider-coder_1.0.0.zip",
            "terraform-provider-coder_1.0.0_linux.zip",
            "coder_1.0.0_linux_amd64.zip",
        ] {
            assert!(parse_provider_archive_name("coder", bad).is_err(), "{bad}");
        }
    }
}
