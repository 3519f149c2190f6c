//! How a registry asks for credentials: `WWW-Authenticate` (RFC 9110 §11.6.1), Basic (RFC 7617), and the token
//! authentication of the distribution project.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>

use std::collections::BTreeMap;

/// Octets of a token service's address.
const REALM_BYTES_MAX: usize = 2048;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token, which a service gives out.
    Bearer {
        /// Where: `https://HOST[:PORT]/PATH`.
        realm: String,
        /// What for.
        service: String,
    },
}

impl Challenge {
    /// Reads the header. Of several challenges in it the first that is known counts.
    ///
    /// # Errors
    /// What was found instead.
    pub fn parse(header: &str) -> Result<Self, String> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(Self::Basic);
        }
        let found: String = header.chars().filter(|c| !c.is_control()).take(160).collect();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(format!("expected the scheme Basic or Bearer, found {found:?}"));
        }
        let parameters = parameters(rest);
        let realm = parameters.get("realm").cloned().unwrap_or_default();
        // A token is as good as the password, for a while: not in clear, and not to where the registry likes.
        if !realm.starts_with("https://") || realm.len() > REALM_BYTES_MAX {
            return Err(format!("expected a token service at https://, found {found:?}"));
        }
        Ok(Self::Bearer { realm, service: parameters.get("service").cloned().unwrap_or_default() })
    }
}

/// `NAME="VALUE", …`, with values in quotes or as tokens.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut letters = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, letter)) = letters.next() {
                    match letter {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
                        letter => value.push(letter),
                    }
                }
                (value, quoted.get(end..).unwrap_or_default())
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                let (value, rest) = after.split_at(end);
                (value.trim().to_owned(), rest)
            }
        };
        found.insert(name.trim().to_ascii_lowercase(), value);
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

/// A text as a part of a query (RFC 3986 §2.3: what is unreserved stays).
pub fn query(text: &str) -> String {
    let mut out = String::new();
    for octet in text.bytes() {
        match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(octet))
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_ask_for() {
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Ok(Challenge::Basic));
        assert_eq!(Challenge::parse("basic"), Ok(Challenge::Basic));
        let bearer = |realm: &str, service: &str| {
            Ok(Challenge::Bearer { realm: realm.to_owned(), service: service.to_owned() })
        };
        let harbor = "Bearer realm=\"https://harbor.site/service/token\",service=\"harbor-registry\"";
        assert_eq!(Challenge::parse(harbor), bearer("https://harbor.site/service/token", "harbor-registry"));
        let spaced = "bearer Service=a , REALM=\"https://a/\\\"b\" , scope=\"repository:x:pull,push\"";
        assert_eq!(Challenge::parse(spaced), bearer("https://a/\"b", "a"));
        for bad in [
            "",
            "Digest realm=\"x\"",
            "Bearer",
            "Bearer realm=\"http://a/b\"",
            "Bearer realm=\"",
            "Bearer =,=,",
        ] {
            assert!(Challenge::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(query("repository:a/b:pull,push"), "repository%3Aa%2Fb%3Apull%2Cpush");
    }
}
