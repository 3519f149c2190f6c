//! Why something could not be fetched: each names the URL, what was found, and what can be done.

use std::time::{Duration, SystemTime};

use diodesync::id::Sha256;
use diodesync::quantity::{Bytes, Span};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use thiserror::Error;

use super::{Url, excerpt, is_worth_a_retry, retry_after};

/// Why something could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// There is no connection.
    #[error("{url}: {why}")]
    Connect {
        /// Where to.
        url: Url,
        /// What failed.
        why: String,
    },
    /// It leads to where only the operator may.
    #[error(
        "{url}: {host} is {address}, an address of this machine or of the link; an upstream may not lead there, because \
         the source's own URL is elsewhere"
    )]
    Inner {
        /// Where to.
        url: Url,
        /// The host.
        host: String,
        /// What it is.
        address: String,
    },
    /// The connection failed while an answer came.
    #[error("{url}: the connection broke off: {why}")]
    Broken {
        /// Where from.
        url: Url,
        /// What failed.
        why: String,
    },
    /// Nothing comes.
    #[error("{url}: nothing came for {}", Span(*.after))]
    Silent {
        /// Where from.
        url: Url,
        /// For so long.
        after: Duration,
    },
    /// Hardly anything comes.
    #[error("{url}: only {} came within {}", Bytes(*.bytes), Span(*.window))]
    Trickle {
        /// Where from.
        url: Url,
        /// That much.
        bytes: u64,
        /// In so long.
        window: Duration,
    },
    /// Another status than what was needed.
    #[error("{url}: the upstream answered {status}{detail}")]
    Status {
        /// Where from.
        url: Url,
        /// The status.
        status: StatusCode,
        /// The beginning of the body, and what can be done.
        detail: String,
        /// What it asks for before it is tried again.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirected to {to:?}, where it is not followed: {why}")]
    Redirect {
        /// Where from.
        url: Url,
        /// Where to.
        to: String,
        /// Why not.
        why: String,
    },
    /// A body that is too long.
    #[error("{url}: the answer is longer than {}, the limit for it", Bytes(*.max))]
    TooLong {
        /// Where from.
        url: Url,
        /// The limit.
        max: u64,
    },
    /// A body of another length than was announced.
    #[error("{url}: expected {expected} octets, the upstream has {found}; it lies, or the file was replaced")]
    Length {
        /// Where from.
        url: Url,
        /// What was announced.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// Other content than was announced.
    #[error(
        "{url}: expected SHA-256 {expected}, found {found}; what the upstream gives out is not what it names, nothing of \
         it is kept"
    )]
    Digest {
        /// Where from.
        url: Url,
        /// What was announced.
        expected: Sha256,
        /// What came.
        found: Sha256,
    },
    /// The source may not bring more.
    #[error("{url}: it would be more than {}, what this source may download at once (bytes_max)", Bytes(*.max))]
    Budget {
        /// Where from.
        url: Url,
        /// The limit.
        max: u64,
    },
    /// It cannot be kept here.
    #[error("{url}: it cannot be kept: {why}")]
    Disk {
        /// Where from.
        url: Url,
        /// What failed.
        why: String,
    },
    /// It was tried often enough.
    #[error("{last} (tried {tries} times)")]
    GivenUp {
        /// How often.
        tries: u32,
        /// How it failed last.
        last: Box<FetchError>,
    },
}

fn quoted(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(" ({body:?})") }
}

impl FetchError {
    /// An answer that is none.
    pub fn status(url: Url, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let retry_after = retry_after(headers, SystemTime::now());
        let hint = match (status.as_u16(), retry_after) {
            (401, _) => "; give credentials with token_file, or with user_file and password_file, or look whether they \
                         are still good"
                .to_owned(),
            (403, _) => "; the credentials, if any, are not for this".to_owned(),
            (404, _) => "; look at the name and at the URL of the source".to_owned(),
            (407, _) => "; the proxy wants credentials".to_owned(),
            (_, Some(wait)) => format!("; it asks to come back after {}", Span(wait)),
            _ => String::new(),
        };
        // Pages for people are no use in a message.
        let is_page = body.trim_ascii_start().starts_with(b"<");
        let body = if is_page { String::new() } else { excerpt(body) };
        Self::Status { url, status, detail: format!("{}{hint}", quoted(&body)), retry_after }
    }

    /// A connection that failed.
    pub fn broken(url: &Url, error: &dyn std::error::Error) -> Self {
        Self::Broken { url: url.clone(), why: chain(error) }
    }

    /// The status, if that is what it is.
    pub fn status_code(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::GivenUp { last, .. } => last.status_code(),
            _ => None,
        }
    }

    /// Whether it is about content that must not be taken, and not about the way to it.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Digest { .. } | Self::Length { .. } | Self::TooLong { .. } => true,
            Self::GivenUp { last, .. } => last.is_refusal(),
            _ => false,
        }
    }

    /// Whether it may be gone with the next try.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Trickle { .. } => true,
            Self::Status { status, .. } => is_worth_a_retry(*status),
            _ => false,
        }
    }

    /// The wait that the upstream asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
