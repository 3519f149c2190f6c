//! What a Debian package says of itself, and the stanza of a `Packages` index that is made of it. Both sides read it
//! with this one parser: the sender when a `.deb` is submitted, the receiver before it publishes.
//!
//! The format is deb822 (Debian Policy §5.1). The measure is that dpkg, apt and this parser see the same fields: a
//! control file is one paragraph of UTF-8 without comments, control characters, empty lines or fields that stand there
//! twice. What apt reads out of an index and not out of a package (its place, its digests, whether it is installed) is
//! the archive's to say; a control file that says it is not believed, and such fields are left out of the stanza, as
//! `apt-ftparchive` does.

pub mod version;

use std::collections::BTreeMap;

use thiserror::Error;

use super::index::{ArtifactKind, Package};
use super::name::{ArtifactName, NameError, PackageName, Suite};
use crate::id::Sha256;
use crate::limits::{CONTROL_BYTES_MAX, CONTROL_FIELDS_MAX};

/// Fields that only an archive, or dpkg's own database, can say.
const NOT_ITS_OWN: [&str; 11] = [
    "Filename",
    "Size",
    "MD5sum",
    "SHA1",
    "SHA256",
    "SHA512",
    "Description-md5",
    "Status",
    "Config-Version",
    "Conffiles",
    "Phased-Update-Percentage",
];
/// Octets that a stanza has besides the control file, at most: `Filename`, `Size`, `SHA256` and an empty line.
const STANZA_EXTRA_BYTES: u64 = 512;

/// Why a control file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// It is larger than a control file can be.
    #[error("expected a control file of at most {CONTROL_BYTES_MAX} octets, found {found}")]
    Size {
        /// Its octets.
        found: u64,
    },
    /// It is not text.
    #[error(
        "expected a control file in UTF-8, found other octets after octet {valid}; build the package anew"
    )]
    Encoding {
        /// Octets before the first that is not UTF-8.
        valid: usize,
    },
    /// A line is not of the format.
    #[error("line {line} of the control file: expected {expected}, found {found:?}; build the package anew")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What could stand there.
        expected: &'static str,
        /// Its beginning.
        found: String,
    },
    /// A field stands there twice, and one reader takes the first, another the last.
    #[error("line {line} of the control file: the field {name} stands there twice; build the package anew")]
    Twice {
        /// The line of the second, counted from 1.
        line: usize,
        /// The field.
        name: String,
    },
    /// There are more fields than a control file has.
    #[error("expected at most {CONTROL_FIELDS_MAX} fields in a control file, found more")]
    Fields,
    /// A field without which a package has no name is missing.
    #[error("expected the field {name} in the control file, found none; build the package anew")]
    Missing {
        /// The field.
        name: &'static str,
    },
    /// A field that names the package cannot be part of a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The control file is another package's.
    #[error("expected the control file of {expected}, found that of {found}")]
    Other {
        /// The package that it should belong to.
        expected: Box<PackageName>,
        /// The package that it names.
        found: Box<PackageName>,
    },
}

/// A field: its name, and its value with all lines as they stand, without the space around the first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    value: String,
}

/// A control paragraph that dpkg and apt read as we do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    fields: Vec<Field>,
}

impl Control {
    /// Reads the control file of a package.
    pub fn parse(octets: &[u8]) -> Result<Self, ControlError> {
        if octets.len() as u64 > CONTROL_BYTES_MAX {
            return Err(ControlError::Size { found: octets.len() as u64 });
        }
        let text = std::str::from_utf8(octets)
            .map_err(|error| ControlError::Encoding { valid: error.valid_up_to() })?;
        let mut control = Self { fields: Vec::new() };
        for (at, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            control.take_line(at + 1, line)?;
        }
        for name in ["Package", "Version", "Architecture"] {
            control.get(name).ok_or(ControlError::Missing { name })?;
        }
        Ok(control)
    }

    fn take_line(&mut self, line: usize, text: &str) -> Result<(), ControlError> {
        let refuse = |expected| {
            let found = text.chars().take(60).collect();
            Err(ControlError::Line { line, expected, found })
        };
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return refuse("no control characters (is it a file with CR line ends?)");
        }
        if text.bytes().all(|b| b == b' ' || b == b'\t') {
            return refuse("one paragraph without empty lines");
        }
        if text.starts_with([' ', '\t']) {
            let Some(field) = self.fields.last_mut() else {
                return refuse("a field before its continuation");
            };
            field.value.push('\n');
            field.value.push_str(text);
            return Ok(());
        }
        let Some((name, value)) = text.split_once(':') else {
            return refuse("FIELD: VALUE, or a continuation that starts with a space");
        };
        // §5.1: US-ASCII without controls, space and colon; not starting with # or -.
        if name.is_empty() || name.starts_with(['#', '-']) || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return refuse("the name of a field before the colon");
        }
        if self.get(name).is_some() {
            return Err(ControlError::Twice { line, name: name.to_owned() });
        }
        if self.fields.len() == CONTROL_FIELDS_MAX {
            return Err(ControlError::Fields);
        }
        self.fields.push(Field { name: name.to_owned(), value: value.trim().to_owned() });
        Ok(())
    }

    /// The value of a field, whose name is compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| field.value.as_str())
    }

    /// What the package is called in a component of a suite.
    pub fn name(&self, suite: Suite, component: &str) -> Result<PackageName, ControlError> {
        let part = |name| self.get(name).ok_or(ControlError::Missing { name });
        let (package, version, architecture) = (part("Package")?, part("Version")?, part("Architecture")?);
        Ok(PackageName::new(suite, component, package, version, architecture)?)
    }

    /// Refuses the control file of another package.
    pub fn check(&self, name: &PackageName) -> Result<(), ControlError> {
        let found = self.name(name.suite.clone(), &name.component)?;
        if found != *name {
            return Err(ControlError::Other { expected: Box::new(name.clone()), found: Box::new(found) });
        }
        Ok(())
    }

    /// Writes the stanza of a `Packages` index, with the empty line that ends it: the package's own fields, and then
    /// the archive's. `place` is relative to the archive.
    pub fn put_stanza(&self, place: &str, bytes: u64, digest: &Sha256, out: &mut Vec<u8>) {
        let mut put = |name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            // A value that begins on the next line needs no space.
            out.extend_from_slice(if value.is_empty() || value.starts_with('\n') { b":" } else { b": " });
            out.extend_from_slice(value.as_bytes());
            out.push(b'\n');
        };
        let is_first = |field: &&Field| field.name.eq_ignore_ascii_case("Package");
        let is_own = |field: &&Field| !NOT_ITS_OWN.iter().any(|name| field.name.eq_ignore_ascii_case(name));
        let first = self.fields.iter().filter(is_first);
        let rest = self.fields.iter().filter(|field| !is_first(field)).filter(is_own);
        first.chain(rest).for_each(|field| put(&field.name, &field.value));
        put("Filename", place);
        put("Size", &bytes.to_string());
        put("SHA256", &digest.to_string());
        out.push(b'\n');
    }
}

/// Octets that the stanza of a package has at most, by those of its control file.
pub fn stanza_bytes_max(control_bytes: u64) -> u64 {
    // Spaces after colons may come in.
    control_bytes + CONTROL_FIELDS_MAX as u64 + STANZA_EXTRA_BYTES
}

/// One version of one package has two contents in one suite: apt could not tell which of them is installed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{first} and {second} are one version with two contents, SHA-256 {first_deb} and {second_deb}; in a suite a version \
     names one content, so give the new build a version of its own"
)]
pub struct VersionTwice {
    /// One of them.
    pub first: Box<PackageName>,
    /// Its `.deb`.
    pub first_deb: Sha256,
    /// The other.
    pub second: Box<PackageName>,
    /// Its `.deb`.
    pub second_deb: Sha256,
}

/// Refuses packages that one suite cannot hold beside each other, whatever component and channel they come from.
pub fn check_versions<'a>(
    artifacts: impl Iterator<Item = (&'a ArtifactName, &'a ArtifactKind)>,
) -> Result<(), VersionTwice> {
    let mut seen: BTreeMap<(&str, &str, &str, &str), (&PackageName, Sha256)> = BTreeMap::new();
    for (name, kind) in artifacts {
        let (ArtifactName::Package(name), ArtifactKind::Package(Package { deb, .. })) = (name, kind) else {
            continue;
        };
        let key =
            (name.suite.as_str(), name.package.as_str(), name.version.as_str(), name.architecture.as_str());
        match seen.insert(key, (name, *deb)) {
            Some((first, first_deb)) if first_deb != *deb => {
                let (first, second) = (Box::new(first.clone()), Box::new(name.clone()));
                return Err(VersionTwice { first, first_deb, second, second_deb: *deb });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Package: demo\nVersion: 1:2.0-1\nArchitecture: amd64\nMaintainer: Ä <a@example.com>\n\
                        Depends: libc6 (>= 2.36),\n other | third\nDescription: short\n long: not a field\n .\n end\n";

    fn refused(text: impl AsRef<[u8]>) -> String {
        Control::parse(text.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn a_control_file_becomes_a_stanza() {
        let control = Control::parse(GOOD.as_bytes()).unwrap();
        let name = control.name("bookworm".parse().unwrap(), "main").unwrap();
        assert_eq!(name.to_string(), "bookworm/main demo 1:2.0-1 amd64");
        control.check(&name).unwrap();
        assert_eq!(control.get("depends"), Some("libc6 (>= 2.36),\n other | third"));
        let mut out = Vec::new();
        control.put_stanza("pool/x/demo.deb", 7, &Sha256([0xab; 32]), &mut out);
        let expected = format!("{GOOD}Filename: pool/x/demo.deb\nSize: 7\nSHA256: {}\n\n", "ab".repeat(32));
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        assert!(out.len() as u64 <= stanza_bytes_max(GOOD.len() as u64));
        // What is written is read again, as the same.
        let again = Control::parse(&out).unwrap();
        assert_eq!(again.get("Description"), control.get("Description"));
    }

    #[test]
    fn a_package_says_nothing_in_the_archives_name() {
        let lies = "Architecture: all\nFILENAME: ../../x\nsize: 1\nSHA256: 00\nmd5sum: 00\nStatus: install ok installed\n\
                    Conffiles:\n /etc/x 00\nVersion: 1\nPackage: demo\nTag: x\nDepends:a\n";
        let control = Control::parse(lies.as_bytes()).unwrap();
        let mut out = Vec::new();
        control.put_stanza("pool/d.deb", 9, &Sha256([0; 32]), &mut out);
        let expected = format!(
            "Package: demo\nArchitecture: all\nVersion: 1\nTag: x\nDepends: a\nFilename: pool/d.deb\nSize: 9\nSHA256: {}\n\n",
            "00".repeat(32)
        );
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        assert!(out.len() as u64 <= stanza_bytes_max(lies.len() as u64));
    }

    #[test]
    fn what_readers_would_see_differently_is_refused() {
        let with = |line: &str| refused(format!("Package: demo\n{line}\nVersion: 1\nArchitecture: all\n"));
        for (line, reason) in [
            ("", "line 2 of the control file: expected one paragraph without empty lines, found \"\""),
            (" \t", "one paragraph without empty lines"),
            ("Section: x\r", "expected no control characters"),
            ("Section: \0", "expected no control characters"),
            ("Section: \u{85}", "expected no control characters"),
            ("# a comment: x", "expected the name of a field before the colon"),
            ("-x: y", "expected the name of a field"),
            (": y", "expected the name of a field"),
            ("a b: y", "expected the name of a field"),
            ("Ä: y", "expected the name of a field"),
            ("no colon", "expected FIELD: VALUE"),
            ("package: other", "line 2 of the control file: the field package stands there twice"),
        ] {
            let why = with(line);
            assert!(why.contains(reason), "{line:?}: {why}");
        }
        assert!(refused(" first: x\n").contains("a field before its continuation"));
        assert!(refused(b"Package: \xff\n").contains("after octet 9"));
        assert!(refused("").contains("one paragraph"));
        assert!(refused(vec![b'x'; CONTROL_BYTES_MAX as usize + 1]).contains("found 1048577"));
        let many: String = (0..=CONTROL_FIELDS_MAX).map(|n| format!("F{n}: x\n")).collect();
        assert!(refused(many).contains("found more"));
        for (text, missing) in [
            ("Version: 1\nArchitecture: all\n", "Package"),
            ("Package: demo\nArchitecture: all\n", "Version"),
            ("Package: demo\nVersion: 1\n", "Architecture"),
        ] {
            assert!(refused(text).contains(&format!("expected the field {missing}")));
        }
        // Empty lines at the end are none in between.
        assert!(Control::parse(b"Package: demo\nVersion: 1\nArchitecture: all\n\n\n").is_ok());
    }

    #[test]
    fn names_of_control_files_are_names() {
        for (package, version, architecture) in
            [("../x", "1", "all"), ("demo\n x", "1", "all"), ("demo", "1/2", "all"), ("demo", "1", "any")]
        {
            let text = format!("Package: {package}\nVersion: {version}\nArchitecture: {architecture}\n");
            let control = Control::parse(text.as_bytes()).unwrap();
            assert!(control.name("s".parse().unwrap(), "main").is_err(), "{text}");
        }
        let control = Control::parse(GOOD.as_bytes()).unwrap();
        let other = PackageName::new("s".parse().unwrap(), "main", "demo", "1:2.0-2", "amd64").unwrap();
        assert_eq!(
            control.check(&other).unwrap_err().to_string(),
            "expected the control file of s/main demo 1:2.0-2 amd64, found that of s/main demo 1:2.0-1 amd64"
        );
    }

    #[test]
    fn a_version_has_one_content_in_a_suite() {
        let package = |suite: &str, component: &str, deb| {
            let name = PackageName::new(suite.parse().unwrap(), component, "demo", "1", "all").unwrap();
            let package = Package { deb: Sha256([deb; 32]), control: Sha256([9; 32]), proof: None };
            let kind = ArtifactKind::Package(package);
            (ArtifactName::Package(name), kind)
        };
        let check = |list: &[(ArtifactName, ArtifactKind)]| check_versions(list.iter().map(|(n, k)| (n, k)));
        assert!(check(&[package("a", "main", 1), package("b", "main", 2), package("a", "x", 1)]).is_ok());
        let error = check(&[package("a", "main", 1), package("a", "x", 2)]).unwrap_err().to_string();
        assert!(error.starts_with("a/main demo 1 all and a/x demo 1 all are one version"), "{error}");
    }
}
