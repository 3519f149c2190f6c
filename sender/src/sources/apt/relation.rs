//! Relations between packages (Debian Policy §7.1), as they stand in `Depends`, `Pre-Depends`, `Recommends` and
//! `Provides`, and the patterns of a source, which may say a version in the same way.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use diodesync::release::glob::{GLOB_BYTES_MAX, is_pattern, matches};
use diodesync::release::package::version::compare;

/// Which versions are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    operator: &'static str,
    version: String,
}

impl Constraint {
    /// Reads `OPERATOR VERSION`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        // `<` and `>` are old ways to write `<=` and `>=`.
        const OPERATORS: [(&str, &str); 7] =
            [("<<", "<<"), ("<=", "<="), (">>", ">>"), (">=", ">="), ("=", "="), ("<", "<="), (">", ">=")];
        let (written, operator) = OPERATORS.iter().find(|(written, _)| text.starts_with(written))?;
        let version = text.strip_prefix(written)?.trim();
        (!version.is_empty() && !version.contains(char::is_whitespace))
            .then(|| Self { operator, version: version.to_owned() })
    }

    /// Whether a version is one of those.
    pub fn admits(&self, version: &str) -> bool {
        let order = compare(version, &self.version);
        match self.operator {
            "<<" => order == Ordering::Less,
            "<=" => order != Ordering::Greater,
            "=" => order == Ordering::Equal,
            ">=" => order != Ordering::Less,
            _ => order == Ordering::Greater,
        }
    }
}

/// One package that would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// What it is called, or provides.
    pub name: String,
    /// In which versions.
    pub constraint: Option<Constraint>,
}

impl Alternative {
    fn parse(text: &str) -> Option<Self> {
        // Restrictions to architectures and build profiles stand in source packages only.
        let text = text.split(['[', '<']).next().filter(|_| !text.contains('(')).unwrap_or(text);
        let (name, constraint) = match text.split_once('(') {
            Some((name, rest)) => (name, Some(Constraint::parse(rest.split_once(')')?.0)?)),
            None => (text, None),
        };
        // `:any`, `:native` and `:ARCH` ask for what is here anyway, one architecture at a time.
        let name = name.trim().split(':').next().unwrap_or_default();
        (!name.is_empty()).then(|| Self { name: name.to_owned(), constraint })
    }

    /// Whether a package of this name would do in a version.
    pub fn admits(&self, version: &str) -> bool {
        self.constraint.as_ref().is_none_or(|constraint| constraint.admits(version))
    }
}

/// What must be there: of each list one. What cannot be read is left out, as apt would not read it either.
pub fn groups(field: &str) -> Vec<Vec<Alternative>> {
    let group = |text: &str| text.split('|').filter_map(Alternative::parse).collect::<Vec<_>>();
    field.split(',').map(group).filter(|group| !group.is_empty()).collect()
}

/// What a package provides: names, with a version where it says one.
pub fn provided(field: &str) -> impl Iterator<Item = (String, Option<String>)> {
    let all = field.split(',').filter_map(Alternative::parse);
    all.map(|one| {
        (one.name, one.constraint.filter(|constraint| constraint.operator == "=").map(|c| c.version))
    })
}

/// Packages that a source names: a name or a pattern, with the versions that are meant if it says them:
/// `nginx`, `linux-image-*`, `curl (>= 7.88)`, `curl=7.88.1-10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagePattern {
    text: String,
    name: String,
    constraint: Option<Constraint>,
}

impl PackagePattern {
    /// The name, if it is none but one.
    pub fn exact(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !is_pattern(name))
    }

    /// Whether a package of this name is meant.
    pub fn is_of(&self, name: &str) -> bool {
        matches(&self.name, name)
    }

    /// Whether a version is meant.
    pub fn admits(&self, version: &str) -> bool {
        self.constraint.as_ref().is_none_or(|constraint| constraint.admits(version))
    }
}

impl FromStr for PackagePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || {
            format!(
                "expected a package like nginx, a pattern like linux-image-*, or one with its version like \"curl (>= 7.88)\" \
                 or curl=7.88.1-10, found {text:?}"
            )
        };
        let (name, constraint) = match (text.split_once('('), text.split_once('=')) {
            (Some((name, rest)), _) => {
                let version = rest.trim_end().strip_suffix(')').and_then(Constraint::parse);
                (name, Some(version.ok_or_else(no)?))
            }
            (None, Some((name, version))) => {
                (name, Some(Constraint::parse(&format!("={version}")).ok_or_else(no)?))
            }
            (None, None) => (text, None),
        };
        let name = name.trim();
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.*?".contains(&b);
        if name.is_empty() || name.len() > GLOB_BYTES_MAX || !name.bytes().all(is_letter) {
            return Err(no());
        }
        Ok(Self { text: text.to_owned(), name: name.to_owned(), constraint })
    }
}

impl fmt::Display for PackagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let all = groups(
            "libc6 (>= 2.36), default-mta | mail-transport-agent,\n perl:any (>> 5), x (= 1:2-3) | y [amd64], ",
        );
        let names: Vec<Vec<&str>> =
            all.iter().map(|group| group.iter().map(|one| one.name.as_str()).collect()).collect();
        let expected: [&[&str]; 4] =
            [&["libc6"], &["default-mta", "mail-transport-agent"], &["perl"], &["x", "y"]];
        assert_eq!(names, expected);
        assert!(all[0][0].admits("2.36-9") && !all[0][0].admits("2.31-13"));
        assert!(all[2][0].admits("5.36") && !all[2][0].admits("5"));
        assert!(all[3][0].admits("1:2-3") && !all[3][0].admits("1:2-4"));
        assert!(groups("").is_empty() && groups(" , ").is_empty());
        let given: Vec<_> = provided("mail-transport-agent, libfoo (= 1.2)").collect();
        assert_eq!(
            given,
            [("mail-transport-agent".to_owned(), None), ("libfoo".to_owned(), Some("1.2".to_owned()))]
        );
    }

    #[test]
    fn patterns_of_packages() {
        let read = |text: &str| text.parse::<PackagePattern>();
        assert_eq!(read("nginx").unwrap().exact(), Some("nginx"));
        assert!(read("linux-image-*").unwrap().is_of("linux-image-amd64"));
        let curl = read("curl (>= 7.88)").unwrap();
        assert!(curl.admits("7.88.1-10") && !curl.admits("7.74"));
        assert!(read("curl=7.88.1-10").unwrap().admits("7.88.1-10"));
        for bad in ["", "Nginx", "a b", "a (7)", "a (>= 7", "a=", "a/b", "(= 1)"] {
            assert!(read(bad).unwrap_err().starts_with("expected a package"), "{bad}");
        }
    }
}
