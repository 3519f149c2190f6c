//! Policy: which artifacts may be published.
//!
//! Rules are looked at in their order; the first whose conditions all hold decides, and where none does the default.
//! A rule that leaves a condition out holds for all. So an artifact that nobody has thought of falls to the default,
//! which the operator must write down.
//!
//! Where an artifact has several platforms or signers, a rule that allows must name all of them, and a rule that denies
//! one of them: what is allowed was thought of whole. For the same reason a rule about versions allows what is certainly
//! one of them, and denies what may be one: a tag that is no version, a pre-release of a version in the range.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::constraint::{ConstraintError, Constraints};
use super::glob::matches;
use super::name::{ArtifactName, Version};
use super::package::version;
use crate::id::Channel;
use crate::quantity::Bytes;

/// Parts of a package's versions.
const PARTS_MAX: usize = 32;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It may be published.
    Allow,
    /// It may not.
    Deny,
}

/// A kind of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A plain file.
    File,
    /// A Terraform provider.
    Provider,
    /// A Terraform module.
    Module,
    /// An image.
    Image,
    /// A Debian package.
    Package,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::File, Self::Provider, Self::Module, Self::Image, Self::Package];

    /// Of an artifact.
    pub fn of(name: &ArtifactName) -> Self {
        match name {
            ArtifactName::File(_) => Self::File,
            ArtifactName::Provider(..) => Self::Provider,
            ArtifactName::Image(..) => Self::Image,
            ArtifactName::Package(_) => Self::Package,
            ArtifactName::Module(..) => Self::Module,
        }
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Provider => "provider",
            Self::Module => "module",
            Self::Image => "image",
            Self::Package => "package",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == text);
        found.ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|kind| kind.word()).collect();
            format!("expected one of {}, found {text:?}", words.join(", "))
        })
    }
}

/// What versions a rule is for: of providers, modules and images by Terraform's constraints (an image's tag may begin with
/// `v`), of packages in Debian's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    text: String,
    constraints: Result<Constraints, ConstraintError>,
    debian: Option<Vec<(Comparison, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Above,
    Below,
    Not,
    Is,
}

/// Longer ones first.
const COMPARISONS: [(&str, Comparison); 6] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::Not),
    (">", Comparison::Above),
    ("<", Comparison::Below),
    ("=", Comparison::Is),
];

impl FromStr for Versions {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let (constraints, debian) = (text.parse(), parse_debian(text));
        match constraints {
            // What is no constraint of Terraform's may be one of Debian's, like ">= 1:2.3-4".
            Err(error) if debian.is_none() => Err(error),
            constraints => Ok(Self { text: text.to_owned(), constraints, debian }),
        }
    }
}

fn parse_debian(text: &str) -> Option<Vec<(Comparison, String)>> {
    let is_version = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let parse = |part: &&str| {
        let (sign, comparison) = COMPARISONS.iter().find(|(sign, _)| part.starts_with(sign))?;
        let version = part.get(sign.len()..)?.trim();
        is_version(version).then(|| (*comparison, version.to_owned()))
    };
    if parts.len() > PARTS_MAX { None } else { parts.iter().map(parse).collect() }
}

impl Versions {
    /// Whether a rule is for this version.
    fn take(&self, name: &ArtifactName, action: Action) -> bool {
        let if_unknown = action == Action::Deny;
        let take = |version: &Version| match (&self.constraints, action) {
            (Ok(constraints), Action::Allow) => constraints.take(version),
            (Ok(constraints), Action::Deny) => constraints.hold(version),
            (Err(_), _) => if_unknown,
        };
        match name {
            ArtifactName::Provider(_, version) | ArtifactName::Module(_, version) => take(version),
            ArtifactName::Image(_, tag) => {
                let tag = tag.as_str();
                tag.strip_prefix('v').unwrap_or(tag).parse().map_or(if_unknown, |version| take(&version))
            }
            ArtifactName::Package(name) => {
                let debian = self.debian.as_ref();
                debian.map_or(if_unknown, |parts| parts.iter().all(|part| holds(part, &name.version)))
            }
            // A file has no version at all.
            ArtifactName::File(_) => false,
        }
    }
}

fn holds((comparison, of): &(Comparison, String), version: &str) -> bool {
    let order = version::compare(version, of);
    match comparison {
        Comparison::AtLeast => order.is_ge(),
        Comparison::AtMost => order.is_le(),
        Comparison::Above => order.is_gt(),
        Comparison::Below => order.is_lt(),
        Comparison::Not => order.is_ne(),
        Comparison::Is => order.is_eq(),
    }
}

/// A rule. An empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What messages call it.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Channels.
    pub channels: Vec<Channel>,
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Patterns of names ([`super::glob`]), as [`subject`] gives them.
    pub names: Vec<String>,
    /// Versions.
    pub versions: Option<Versions>,
    /// Patterns of platforms, as `OS/ARCHITECTURE[/VARIANT]`.
    pub platforms: Vec<String>,
    /// Fingerprints of OpenPGP keys, upper-case hexadecimal.
    pub signers: Vec<String>,
    /// Octets that it has at most.
    pub bytes_max: Option<u64>,
    /// Octets of which it has more.
    pub bytes_over: Option<u64>,
}

impl Rule {
    /// One without conditions.
    pub fn new(name: impl Into<String>, action: Action) -> Self {
        Self {
            name: name.into(),
            action,
            channels: Vec::new(),
            kinds: Vec::new(),
            names: Vec::new(),
            versions: None,
            platforms: Vec::new(),
            signers: Vec::new(),
            bytes_max: None,
            bytes_over: None,
        }
    }
}

/// An artifact, as rules see it.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The channel of its release.
    pub channel: &'a Channel,
    /// Its name.
    pub name: &'a ArtifactName,
    /// Its platforms, as `OS/ARCHITECTURE[/VARIANT]`; none for what runs anywhere, or nowhere.
    pub platforms: &'a [String],
    /// Fingerprints of the keys that its upstream's proof holds by; none if there is no proof.
    pub signers: &'a [String],
    /// Octets of everything that it is made of.
    pub bytes: u64,
}

/// What patterns of names are compared with: `PATH`, `HOST/NAMESPACE/TYPE`, `HOST/NAMESPACE/NAME/SYSTEM`,
/// `REGISTRY/REPOSITORY:TAG`, or `SUITE/COMPONENT/PACKAGE`.
pub fn subject(name: &ArtifactName) -> String {
    match name {
        ArtifactName::File(path) => path.to_string(),
        ArtifactName::Provider(address, _) => address.to_string(),
        ArtifactName::Module(address, _) => address.to_string(),
        ArtifactName::Image(repository, tag) => format!("{repository}:{tag}"),
        ArtifactName::Package(name) => format!("{}/{}/{}", name.suite, name.component, name.package),
    }
}

/// An artifact may not be published.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// A rule says so.
    #[error("{artifact}: rule {rule:?} of the policy denies it")]
    Denied {
        /// What.
        artifact: String,
        /// By which rule.
        rule: String,
    },
    /// No rule says otherwise.
    #[error("{artifact}: no rule of the policy allows it, and its default is \"deny\"{}", near(.nearest))]
    Default {
        /// What.
        artifact: String,
        /// The first rule that would, but for one condition, and that condition.
        nearest: Option<(String, String)>,
    },
}

fn near(nearest: &Option<(String, String)>) -> String {
    nearest.as_ref().map_or(String::new(), |(rule, why)| format!("; rule {rule:?} would, but {why}"))
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What holds where no rule does.
    pub default: Action,
    /// The rules in their order.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// What allows everything.
    pub fn open() -> Self {
        Self { default: Action::Allow, rules: Vec::new() }
    }

    /// Whether an artifact may be published.
    ///
    /// # Errors
    /// By which rule it may not.
    pub fn judge(&self, seen: &Seen<'_>) -> Result<(), PolicyError> {
        let artifact = || seen.name.to_string();
        let mut near = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.is_about(seen)) {
            let failed = rule.failed(seen);
            match (failed.as_slice(), rule.action) {
                ([], Action::Allow) => return Ok(()),
                ([], Action::Deny) => {
                    return Err(PolicyError::Denied { artifact: artifact(), rule: rule.name.clone() });
                }
                ([why], Action::Allow) => near.push((rule, why.clone())),
                _ => {}
            }
        }
        match self.default {
            Action::Allow => Ok(()),
            Action::Deny => {
                // One that is for this name was meant for it.
                near.sort_by_key(|(rule, _)| !rule.names(seen));
                let nearest = near.into_iter().next().map(|(rule, why)| (rule.name.clone(), why));
                Err(PolicyError::Default { artifact: artifact(), nearest })
            }
        }
    }
}

impl Rule {
    /// Whether it is for artifacts of this kind in this channel.
    fn is_about(&self, seen: &Seen<'_>) -> bool {
        (self.channels.is_empty() || self.channels.contains(seen.channel))
            && (self.kinds.is_empty() || self.kinds.contains(&Kind::of(seen.name)))
    }

    fn names(&self, seen: &Seen<'_>) -> bool {
        let subject = subject(seen.name);
        self.names.is_empty() || self.names.iter().any(|pattern| matches(pattern, &subject))
    }

    /// Further conditions that do not hold, in words.
    fn failed(&self, seen: &Seen<'_>) -> Vec<String> {
        let mut failed = Vec::new();
        let mut check = |holds: bool, why: &dyn Fn() -> String| {
            if !holds {
                failed.push(why());
            }
        };
        check(self.names(seen), &|| {
            format!("the name {} is not among {}", subject(seen.name), list(&self.names))
        });
        check(self.versions.as_ref().is_none_or(|versions| versions.take(seen.name, self.action)), &|| {
            format!("its version is not {}", self.versions.as_ref().map_or("", |versions| &versions.text))
        });
        let platforms = |platform: &String| self.platforms.iter().any(|pattern| matches(pattern, platform));
        check(self.platforms.is_empty() || self.some_or_all(seen.platforms, platforms, true), &|| {
            format!("it is for {}, and that is not among {}", list(seen.platforms), list(&self.platforms))
        });
        check(
            self.signers.is_empty()
                || self.some_or_all(seen.signers, |signer| self.signers.contains(signer), false),
            &|| match seen.signers {
                [] => "no upstream's signature came with it".to_owned(),
                signers => format!("it is signed by {}, and that is not among its signers", list(signers)),
            },
        );
        check(self.bytes_max.is_none_or(|max| seen.bytes <= max), &|| {
            let max = Bytes(self.bytes_max.unwrap_or_default());
            format!("it has {}, and bytes_max is {max}", Bytes(seen.bytes))
        });
        check(self.bytes_over.is_none_or(|over| seen.bytes > over), &|| {
            format!("it has {} only", Bytes(seen.bytes))
        });
        failed
    }

    /// What has several of something: all must be meant to be allowed, one to be refused. `if_none` is for what has none
    /// where all must be.
    fn some_or_all(&self, of: &[String], is_meant: impl Fn(&String) -> bool, if_none: bool) -> bool {
        match self.action {
            Action::Allow if of.is_empty() => if_none,
            Action::Allow => of.iter().all(is_meant),
            Action::Deny => of.iter().any(is_meant),
        }
    }
}

fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
