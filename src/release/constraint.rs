//! Version constraints as Terraform reads them: `>= 5, < 6`, `~> 2.0`, `1.2.3`, `!= 1.4.0`.
//!
//! <https://developer.hashicorp.com/terraform/language/expressions/version-constraints>
//!
//! A pre-release is taken only where a constraint names exactly it. `~>` lets the last number that is given rise:
//! `~> 2.0` is `>= 2.0, < 3`, `~> 2.0.1` is `>= 2.0.1, < 2.1`. `~> 2` means different things to different versions of
//! Terraform, so it is refused.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::name::Version;

/// Constraints of one text.
const CONSTRAINTS_MAX: usize = 32;

/// What a version must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints(Vec<Constraint>);

/// Why a text is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected version constraints like \">= 5, < 6\" or \"~> 2.0\", found {found:?}: {why}")]
pub struct ConstraintError {
    found: String,
    why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Constraint {
    operator: Operator,
    /// As it is given, at most three.
    numbers: Vec<u64>,
    pre: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Not,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Pessimistic,
}

/// Longer ones first.
const OPERATORS: [(&str, Operator); 7] = [
    ("~>", Operator::Pessimistic),
    (">=", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    ("!=", Operator::Not),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

impl FromStr for Constraints {
    type Err = ConstraintError;

    /// An empty text takes every version that is no pre-release.
    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let no = |why| ConstraintError { found: text.chars().take(200).collect(), why };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > CONSTRAINTS_MAX {
            return Err(no("there are more than 32"));
        }
        parts.into_iter().map(|part| parse(part.trim()).map_err(no)).collect::<Result<_, _>>().map(Self)
    }
}

impl Constraints {
    /// Whether a version is one of those that are meant.
    pub fn take(&self, version: &Version) -> bool {
        let is_named = |it: &Constraint| it.operator == Operator::Equal && !it.pre.is_empty();
        (!version.is_pre_release() || self.0.iter().any(is_named)) && self.hold(version)
    }

    /// The same by order alone: a pre-release counts as what lies before its release.
    pub fn hold(&self, version: &Version) -> bool {
        self.0.iter().all(|it| it.takes(version))
    }
}

impl Constraint {
    fn takes(&self, version: &Version) -> bool {
        let order = self.compare(version);
        match self.operator {
            Operator::Equal => order.is_eq(),
            Operator::Not => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Pessimistic => {
                let fixed = self.numbers.len().saturating_sub(1);
                order.is_ge() && version.numbers().iter().zip(&self.numbers).take(fixed).all(|(a, b)| a == b)
            }
        }
    }

    /// How the version compares with the one that is named.
    fn compare(&self, version: &Version) -> Ordering {
        let mut named = self.numbers.clone();
        named.resize(3, 0);
        version.numbers().as_slice().cmp(named.as_slice()).then_with(|| compare_pre(version.pre(), &self.pre))
    }
}

fn parse(text: &str) -> Result<Constraint, &'static str> {
    let found = OPERATORS.iter().find_map(|(sign, operator)| Some((text.strip_prefix(sign)?, *operator)));
    let (version, operator) = found.unwrap_or((text, Operator::Equal));
    let version = version.trim_start();
    let (core, pre) = version.split_once('-').unwrap_or((version, ""));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| part.parse().ok().filter(|_| is_number(part)).ok_or("a version is no number");
    let numbers: Vec<u64> = core.split('.').map(number).collect::<Result<_, _>>()?;
    match numbers.len() {
        1..=3 => {}
        _ => return Err("a version has one to three numbers"),
    }
    if operator == Operator::Pessimistic && numbers.len() == 1 {
        return Err("~> needs two numbers or three; say for example ~> 2.0, or >= 2, < 3");
    }
    if !pre.is_empty() && numbers.len() < 3 || version.contains('+') {
        return Err("a pre-release has three numbers before it, and no build part");
    }
    if version.ends_with('-') {
        return Err("the pre-release is empty");
    }
    Ok(Constraint { operator, numbers, pre: pre.to_owned() })
}

/// Precedence of versions (Semantic Versioning 2.0.0 §11); build parts do not count.
pub fn precedence(a: &Version, b: &Version) -> Ordering {
    a.numbers().cmp(&b.numbers()).then_with(|| compare_pre(a.pre(), b.pre()))
}

/// None is the release, which comes last.
fn compare_pre(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let identifier = |a: &str, b: &str| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    };
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match identifier(a, b) {
                Ordering::Equal => {}
                order => return order,
            },
        }
    }
}

impl fmt::Display for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("any version");
        }
        for (at, Constraint { operator, numbers, pre }) in self.0.iter().enumerate() {
            let sign = OPERATORS.iter().find(|(_, it)| it == operator).map_or("", |(sign, _)| sign);
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            let comma = if at == 0 { "" } else { ", " };
            let hyphen = if pre.is_empty() { "" } else { "-" };
            write!(f, "{comma}{sign} {}{hyphen}{pre}", numbers.join("."))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(constraints: &str) -> String {
        let all = [
            "1.9.9",
            "2.0.0",
            "2.0.1",
            "2.0.1-rc.1",
            "2.1.0",
            "2.10.0",
            "3.0.0-beta.2",
            "3.0.0",
            "5.99.0",
            "6.0.0",
        ];
        let constraints: Constraints = constraints.parse().unwrap();
        all.into_iter()
            .filter(|version| constraints.take(&version.parse().unwrap()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn constraints_mean_what_terraform_says() {
        for (constraints, expected) in [
            ("", "1.9.9 2.0.0 2.0.1 2.1.0 2.10.0 3.0.0 5.99.0 6.0.0"),
            ("~> 2.0", "2.0.0 2.0.1 2.1.0 2.10.0"),
            ("~> 2.0.1", "2.0.1"),
            (">= 2.0.1, < 3", "2.0.1 2.1.0 2.10.0"),
            ("> 2, <= 3.0", "2.0.1 2.1.0 2.10.0 3.0.0"),
            (">= 5, < 6", "5.99.0"),
            ("2.1.0", "2.1.0"),
            ("= 2.1", "2.1.0"),
            ("!= 2.0.0, ~>2.0", "2.0.1 2.1.0 2.10.0"),
            ("3.0.0-beta.2", "3.0.0-beta.2"),
            (">= 3.0.0-beta.1", "3.0.0 5.99.0 6.0.0"),
        ] {
            assert_eq!(taken(constraints), expected, "{constraints}");
            let written: Constraints = constraints.parse().unwrap();
            if !constraints.is_empty() {
                assert_eq!(written.to_string().parse(), Ok(written), "{constraints}");
            }
        }
        for bad in [
            "~> 2", "two", ">= ", "1.2.3.4", ">= 1,", "=> 1", "1.2-rc1", "1.2.3+b", "1.2.3-", "^1.2", "1.x",
            "-1",
        ] {
            assert!(bad.parse::<Constraints>().is_err(), "{bad}");
        }
        assert!(vec!["1"; 33].join(",").parse::<Constraints>().is_err());
    }

    /// The example of Semantic Versioning §11.
    #[test]
    fn precedence_is_that_of_semantic_versioning() {
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0",
        ];
        let versions: Vec<Version> = order.iter().map(|version| version.parse().unwrap()).collect();
        let mut sorted = versions.clone();
        sorted.reverse();
        sorted.sort_by(precedence);
        assert_eq!(sorted, versions);
    }
}
