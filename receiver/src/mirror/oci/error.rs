//! What goes wrong with a registry, so that an operator knows what to do.

use std::time::Duration;

use thiserror::Error;

/// Characters of what a registry says that are shown.
const SAID_CHARS_MAX: usize = 300;

/// Why a push did not go on.
#[derive(Debug, Error)]
pub enum PushError {
    /// Nothing answers.
    #[error("{host} does not answer: {why}")]
    Connect {
        /// Whom we asked.
        host: String,
        /// What was met.
        why: String,
    },
    /// Its certificate is not believed.
    #[error("the certificate of {host} is refused: {why}; give the authority that made it as ca_file")]
    Certificate {
        /// Whom we asked.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// It took too long.
    #[error("{what}: {host} gave no answer within {} s", limit.as_secs())]
    Slow {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The connection broke.
    #[error("{what}: the connection to {host} broke: {why}")]
    Broken {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// What was met.
        why: String,
    },
    /// It wants credentials, or others.
    #[error("{what}: {host} refuses {given} (status {status}{}{said}); {hint}", if said.is_empty() { "" } else { ": " })]
    Refused {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// What it was given.
        given: String,
        /// Its status.
        status: u16,
        /// What it said.
        said: String,
        /// What to do.
        hint: &'static str,
    },
    /// Another answer than expected.
    #[error("{what}: {host} answers with status {status}, expected {expected}{}{said}", if said.is_empty() { "" } else { ": " })]
    Status {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// Its status.
        status: u16,
        /// What was expected.
        expected: &'static str,
        /// What it said.
        said: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer that makes no sense.
    #[error("{what}: {host} {why}")]
    Nonsense {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// What is wrong with its answer.
        why: String,
    },
    /// An index of some platforms is not taken.
    #[error(
        "{what}: it was released for some of its platforms, and {host} takes no index whose manifests are not all there \
         (status {status}); release all of its platforms"
    )]
    Partial {
        /// What was asked.
        what: String,
        /// Whom.
        host: String,
        /// Its status.
        status: u16,
    },
    /// Something of ours.
    #[error("{0}")]
    Here(String),
    /// A newer release is published.
    #[error("a newer release is published")]
    Superseded,
}

impl PushError {
    /// Whether it is about one image, so that the others can be pushed.
    pub fn is_of_one_image(&self) -> bool {
        match self {
            Self::Partial { .. } => true,
            Self::Status { status, .. } => (400..500).contains(status) && *status != 429,
            _ => false,
        }
    }

    /// When it is to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What a registry says in the body of an error, in its own words and no more of them than fit.
pub fn said(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            let first = value.get("errors").and_then(|errors| errors.get(0)).cloned().unwrap_or(value);
            let part = |name: &str| {
                first.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
            };
            format!("{} {}", part("code"), part("message"))
        }
        Err(_) => String::from_utf8_lossy(body.get(..1024.min(body.len())).unwrap_or_default()).into_owned(),
    };
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect();
    text
}

/// Reads `Retry-After` (RFC 9110 §10.2.3) in seconds; a date is not waited for.
pub fn retry_after(header: Option<&str>) -> Option<Duration> {
    header?.trim().parse().ok().map(|s: u64| Duration::from_secs(s.min(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_quoted_in_short() {
        let json = br#"{"errors":[{"code":"DENIED","message":"requested access is denied","detail":[]}]}"#;
        assert_eq!(said(json), "DENIED requested access is denied");
        assert_eq!(said(b"<html>\r\n\x1b[31mno"), "<html>[31mno");
        assert_eq!(said(b""), "");
        assert_eq!(said(&[b'x'; 5000]).len(), SAID_CHARS_MAX);
        assert_eq!(retry_after(Some(" 7 ")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(Some("99999999")), Some(Duration::from_secs(3600)));
        assert_eq!(retry_after(Some("Fri, 31 Dec 1999 23:59:59 GMT")), None);
    }
}
