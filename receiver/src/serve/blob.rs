//! Blobs over HTTP: conditions, ranges, and bodies that are read out of packs piece by piece.
//!
//! A body reads one piece ahead of the client and no further, on the threads that may block, so that a slow client
//! costs memory for two pieces and a slow disk costs no other client anything. If a piece cannot be read, the
//! connection is cut: the length was promised already, and a client must never take a part for the whole.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diodesync::id::Sha256;
use hyper::body::{Frame, SizeHint};
use thiserror::Error;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::site::{ReadError, Site};
use super::{Asked, failed, not_found, text};

/// The `Cache-Control` of what a digest names.
pub const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Octets read at once.
const PIECE_BYTES: u64 = 256 * 1024;
/// Pieces that are read or wait to be sent, for each connection.
const PIECES_MAX: usize = 2;

/// `/blobs/SHA256`: a blob by its digest, which never means anything else.
pub async fn by_digest(asked: Asked, Path(digest): Path<String>) -> Response {
    let Ok(digest) = digest.parse::<Sha256>() else { return not_found() };
    let mut response = respond(&asked, digest);
    if response.status().is_success() {
        response.headers_mut().insert(header::CACHE_CONTROL, FOREVER);
    }
    response
}

/// `/blobs/SHA256/NAME`: the same; the name is what the client's download is called.
pub async fn by_digest_and_name(asked: Asked, Path((digest, _name)): Path<(String, String)>) -> Response {
    by_digest(asked, Path(digest)).await
}

/// The answer to a request for a blob, with whatever conditions and range it came with.
pub fn respond(asked: &Asked, digest: Sha256) -> Response {
    let Some(bytes) = asked.site.blob(&digest).map(|blob| blob.bytes) else { return not_found() };
    if let Some(block) = asked.site.damage(&digest) {
        tracing::error!(%digest, %block, "not served: it lies in a block that is damaged or gone; see: diode-receiver missing");
        let why = "this is damaged on the gateway's disk and not served; its operator was told\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let etag = format!("\"sha256:{digest}\"");
    let outcome = Outcome::of(&asked.headers, asked.is_head, &etag, bytes);
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: String| {
        // Digits and hexadecimal are always a header's value.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(header::ETAG, etag);
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    let (status, range) = match outcome {
        Outcome::NotModified => return (StatusCode::NOT_MODIFIED, headers).into_response(),
        Outcome::Unsatisfiable => {
            set(header::CONTENT_RANGE, format!("bytes */{bytes}"));
            let why = format!("the range starts at or after the end, octet {bytes}\n");
            return (headers, text(StatusCode::RANGE_NOT_SATISFIABLE, why)).into_response();
        }
        Outcome::Whole => (StatusCode::OK, 0..bytes),
        Outcome::Part(range) => {
            set(header::CONTENT_RANGE, format!("bytes {}-{}/{bytes}", range.start, range.end - 1));
            (StatusCode::PARTIAL_CONTENT, range)
        }
    };
    set(header::CONTENT_LENGTH, (range.end - range.start).to_string());
    set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    set(header::CONTENT_DISPOSITION, "attachment".to_owned());
    // The body reads nothing until it is asked to, so HEAD costs no disk access.
    (status, headers, Body::new(BlobBody::new(asked.site.clone(), digest, range))).into_response()
}

/// What to send of a representation (RFC 9110 §13 and §14).
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The client has it.
    NotModified,
    /// It has no such octets.
    Unsatisfiable,
    /// All of it.
    Whole,
    /// Some of it, never nothing.
    Part(Range<u64>),
}

impl Outcome {
    fn of(headers: &HeaderMap, is_head: bool, etag: &str, bytes: u64) -> Self {
        let listed = |value: &HeaderValue| {
            let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
            tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag == etag)
        };
        if headers.get_all(header::IF_NONE_MATCH).iter().any(listed) {
            return Self::NotModified;
        }
        // A range continues the representation that the client knows, or there is no range.
        let continues = headers.get(header::IF_RANGE).is_none_or(|known| known == etag);
        match headers.get(header::RANGE) {
            Some(range) if !is_head && continues => Self::of_range(range.to_str().unwrap_or_default(), bytes),
            _ => Self::Whole,
        }
    }

    /// What is not understood is ignored, and so are several ranges at once: both are allowed, and the whole is right.
    fn of_range(value: &str, bytes: u64) -> Self {
        let number = |text: &str| {
            text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>()).and_then(Result::ok)
        };
        let spec = match value.split_once('=') {
            Some((unit, spec)) if unit.eq_ignore_ascii_case("bytes") => spec.trim(),
            _ => return Self::Whole,
        };
        let range = match spec.split_once('-') {
            Some(("", count)) => match number(count) {
                Some(count) => bytes.saturating_sub(count)..bytes,
                None => return Self::Whole,
            },
            Some((first, "")) => match number(first) {
                Some(first) => first..bytes,
                None => return Self::Whole,
            },
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(bytes),
                _ => return Self::Whole,
            },
            None => return Self::Whole,
        };
        if range.is_empty() { Self::Unsatisfiable } else { Self::Part(range) }
    }
}

/// Why a body ended before its length.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The blob cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The reading thread died.
    #[error("the thread that reads packs failed: {0}")]
    Thread(#[from] JoinError),
}

/// Some octets of a blob, read as the client takes them.
pub struct BlobBody {
    site: Arc<Site>,
    digest: Sha256,
    /// What is not being read yet.
    unread: Range<u64>,
    /// Pieces that are being read, in order.
    pieces: VecDeque<JoinHandle<Result<Bytes, ReadError>>>,
    /// Octets that the client has not been given.
    left: u64,
}

impl BlobBody {
    /// That range of it, which lies within it.
    pub fn new(site: Arc<Site>, digest: Sha256, range: Range<u64>) -> Self {
        let left = range.end.saturating_sub(range.start);
        Self { site, digest, unread: range, pieces: VecDeque::new(), left }
    }

    fn read_ahead(&mut self) {
        while self.pieces.len() < PIECES_MAX && !self.unread.is_empty() {
            let start = self.unread.start;
            let end = self.unread.end.min(start + PIECE_BYTES);
            self.unread.start = end;
            let (site, digest) = (self.site.clone(), self.digest);
            self.pieces.push_back(spawn_blocking(move || {
                // At most PIECE_BYTES.
                let mut piece = vec![0; (end - start) as usize];
                site.read(&digest, start, &mut piece)?;
                Ok(piece.into())
            }));
        }
    }
}

impl hyper::body::Body for BlobBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        body.read_ahead();
        let Some(piece) = body.pieces.front_mut() else { return Poll::Ready(None) };
        let joined = ready!(Pin::new(piece).poll(context));
        body.pieces.pop_front();
        let piece = joined.map_err(BodyError::from).and_then(|read| read.map_err(BodyError::from));
        match &piece {
            Ok(bytes) => {
                body.left = body.left.saturating_sub(bytes.len() as u64);
                body.read_ahead();
            }
            Err(error) => {
                let digest = body.digest;
                tracing::error!(%error, %digest, "cut a download short; run diode-receiver verify");
                body.unread = 0..0;
                body.pieces.clear();
            }
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads a small blob whole, without blocking the other requests. The failure is logged; what is returned answers it.
pub async fn whole(site: &Arc<Site>, digest: Sha256, max: u64) -> Result<Vec<u8>, Response> {
    let reader = site.clone();
    let read = spawn_blocking(move || reader.read_whole(&digest, max)).await;
    read.map_err(BodyError::from).and_then(|read| read.map_err(BodyError::from)).map_err(|error| {
        tracing::error!(%error, %digest, "cannot answer a request; run diode-receiver verify");
        failed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(headers: &[(&'static str, &str)], bytes: u64) -> Outcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Outcome::of(&map, false, "\"e\"", bytes)
    }

    #[test]
    fn one_range_is_served_and_nonsense_ignored() {
        let range = |value| outcome(&[("range", value)], 10);
        for (value, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-", 0..10),
            ("bytes=9-", 9..10),
            ("bytes=2-4", 2..5),
            ("BYTES=2-4", 2..5),
            ("bytes=2-400", 2..10),
            ("bytes=2-18446744073709551615", 2..10),
            ("bytes=-3", 7..10),
            ("bytes=-11", 0..10),
        ] {
            assert_eq!(range(value), Outcome::Part(part), "{value}");
        }
        for value in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=18446744073709551615-"] {
            assert_eq!(range(value), Outcome::Unsatisfiable, "{value}");
        }
        for value in [
            "bytes=4-2",
            "bytes=0-1,3-4",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=--1",
            "bytes=-",
            "bytes=",
            "items=0-1",
            "bytes",
            "",
            "bytes=18446744073709551616-",
        ] {
            assert_eq!(range(value), Outcome::Whole, "{value}");
        }
        assert_eq!(outcome(&[("range", "bytes=0-")], 0), Outcome::Unsatisfiable);
        assert_eq!(outcome(&[("range", "bytes=-1")], 0), Outcome::Unsatisfiable);
    }

    #[test]
    fn conditions_come_before_ranges() {
        for known in ["\"e\"", "W/\"e\"", "*", "\"x\", \"e\""] {
            let headers = [("if-none-match", known), ("range", "bytes=0-1")];
            assert_eq!(outcome(&headers, 10), Outcome::NotModified, "{known}");
        }
        let twice = [("if-none-match", "\"x\""), ("if-none-match", "\"e\"")];
        assert_eq!(outcome(&twice, 10), Outcome::NotModified);
        assert_eq!(outcome(&[("if-none-match", "\"x\"")], 10), Outcome::Whole);
        assert_eq!(outcome(&[("if-range", "\"e\""), ("range", "bytes=1-")], 10), Outcome::Part(1..10));
        for other in ["\"x\"", "W/\"e\"", "Mon, 23 Nov 2026 00:00:00 GMT"] {
            assert_eq!(outcome(&[("if-range", other), ("range", "bytes=1-")], 10), Outcome::Whole, "{other}");
        }
    }
}
