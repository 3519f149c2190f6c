//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110 §11.6.1, and the token authentication of the
//! distribution project).

use std::collections::BTreeMap;

/// Octets of a field that is read.
const FIELD_BYTES_MAX: usize = 8192;
/// Challenges and parameters that are read.
const PARTS_MAX: usize = 32;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user's name and password with each request.
    Basic,
    /// A token, which the realm gives out.
    Bearer {
        /// The URL of who gives out tokens.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of a field that is known, a token before a password.
    pub fn parse(field: &str) -> Option<Self> {
        let all = challenges(field.get(..FIELD_BYTES_MAX).unwrap_or(field))?;
        let named =
            |name: &str| all.iter().find(|(scheme, _)| scheme == name).map(|(_, parameters)| parameters);
        if let Some(parameters) = named("bearer") {
            let get = |name: &str| parameters.get(name).filter(|value| !value.is_empty()).cloned();
            return Some(Self::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") });
        }
        named("basic").map(|_| Self::Basic)
    }
}

type Challenges = Vec<(String, BTreeMap<String, String>)>;

/// Schemes in lower case with their parameters. `None` if the field cannot be read.
fn challenges(field: &str) -> Option<Challenges> {
    let mut all: Challenges = Vec::new();
    let mut rest = field.trim_start_matches([' ', '\t', ',']);
    for _ in 0..PARTS_MAX {
        if rest.is_empty() {
            return Some(all);
        }
        let (word, after) = token(rest)?;
        let after_space = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after_space.strip_prefix('=') {
            let (value, after) = value_of(value.trim_start_matches([' ', '\t']))?;
            let (_, parameters) = all.last_mut()?;
            if parameters.insert(word.to_ascii_lowercase(), value).is_some() {
                return None;
            }
            rest = after;
        } else {
            all.push((word.to_ascii_lowercase(), BTreeMap::new()));
            rest = after_space;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    None
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token, or a quoted string.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            other if other.is_control() => return None,
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges_of_registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#;
        let expected =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull"));
        assert_eq!(Challenge::parse(hub), expected);
        assert_eq!(Challenge::parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Some(Challenge::Basic));
        let both = r#"Basic realm="a, b=\"c\"", BEARER Realm = "https://x/t" , scope=pull"#;
        assert_eq!(Challenge::parse(both), bearer("https://x/t", None, Some("pull")));
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        let many = "Basic, ".repeat(40);
        for bad in [
            "",
            ",",
            "Negotiate",
            "Bearer",
            "Bearer realm=",
            "Bearer realm=\"x",
            "Bearer realm=\"\"",
            "realm=\"x\"",
            "Bearer realm=\"a\", realm=\"b\"",
            "Bearer realm=\"a\u{7f}\"",
            "\"x\"",
            &many,
        ] {
            assert_eq!(Challenge::parse(bad), None, "{bad:?}");
        }
    }
}
