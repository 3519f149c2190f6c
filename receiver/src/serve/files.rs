//! The file tree: directories to browse, files to fetch, and lists of everything to check a copy with.

use std::fmt::Write;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;

use super::html::{Page, encode, size};
use super::site::{FileEntry, Site};
use super::{Asked, blob, not_found, redirect};

/// Names on one page of a directory.
const PAGE_NAMES_MAX: usize = 1000;
/// Octets after which a part of a long list is sent.
const LIST_PART_BYTES: usize = 64 * 1024;

/// Which page of a directory.
#[derive(Debug, Deserialize)]
pub struct PageOf {
    from: Option<String>,
}

/// `/files/`
pub async fn root(asked: Asked, Query(page): Query<PageOf>) -> Response {
    directory(&asked.site, "", page.from.as_deref())
}

/// `/files/PATH`: a file, or a directory if it ends with a slash.
pub async fn path(asked: Asked, Path(path): Path<String>, Query(page): Query<PageOf>) -> Response {
    if let Some(entry) = asked.site.files().get(&path) {
        return blob::respond(&asked, entry.digest);
    }
    match path.strip_suffix('/') {
        Some(path) if !path.is_empty() && asked.site.is_directory(path) => {
            directory(&asked.site, path, page.from.as_deref())
        }
        None if asked.site.is_directory(&path) => redirect(&format!("/files/{}/", encode_path(&path))),
        _ => not_found(),
    }
}

fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

fn directory(site: &Site, path: &str, from: Option<&str>) -> Response {
    let listing = site.list(path, from, PAGE_NAMES_MAX);
    let mut page = Page::new(&format!("/{path}{}", if path.is_empty() { "" } else { "/" }));
    page.raw("<nav>").link("/", "gateway").raw(" · ").link("/files.sha256", "all digests");
    page.raw(" · ")
        .link("/files.json", "all as JSON")
        .raw("</nav>\n<table><tr><th>name</th><th class=\"n\">size");
    page.raw("</th><th>SHA-256</th></tr>\n");
    if !path.is_empty() {
        page.raw("<tr><td>").link("../", "../").raw("</td><td></td><td></td></tr>\n");
    }
    for name in &listing.directories {
        page.raw("<tr><td>").link(&format!("{}/", encode(name)), &format!("{name}/"));
        page.raw("</td><td></td><td></td></tr>\n");
    }
    for (name, entry) in &listing.files {
        page.raw("<tr><td>").link(&encode(name), name).raw("</td><td class=\"n\">").text(&size(entry.bytes));
        page.raw("</td><td class=\"d\"><code>").text(&entry.digest.to_string()).raw("</code></td></tr>\n");
    }
    page.raw("</table>\n");
    if listing.directories.is_empty() && listing.files.is_empty() {
        page.raw("<p>Nothing is published here.</p>\n");
    }
    if let Some(next) = &listing.next {
        page.raw("<p>").link(&format!("?from={}", encode(next)), "more").raw("</p>\n");
    }
    page.finish()
}

/// `/files.json`: the whole tree.
pub async fn json(asked: Asked) -> Response {
    list(asked, "application/json", Form::Json)
}

/// `/files.sha256`: the whole tree, as `sha256sum -c` reads it.
pub async fn sha256(asked: Asked) -> Response {
    list(asked, "text/plain; charset=utf-8", Form::Sums)
}

fn list(asked: Asked, content_type: &'static str, form: Form) -> Response {
    let body = ListBody { site: asked.site, form, place: Place::Start };
    ([(header::CONTENT_TYPE, content_type)], Body::new(body)).into_response()
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Sums,
}

impl Form {
    fn head(self) -> &'static str {
        match self {
            Self::Json => "{\"files\":[",
            Self::Sums => "",
        }
    }

    fn tail(self) -> &'static str {
        match self {
            Self::Json => "\n]}\n",
            Self::Sums => "",
        }
    }

    fn put(self, out: &mut String, site: &Site, path: &str, entry: &FileEntry, is_first: bool) {
        match self {
            Self::Json => {
                let release = site.releases().get(entry.release);
                let line = serde_json::json!({
                    "path": path,
                    "bytes": entry.bytes,
                    "sha256": entry.digest,
                    "executable": entry.executable,
                    "channel": release.map(|release| release.channel.as_str()),
                });
                out.push_str(if is_first { "\n" } else { ",\n" });
                // Writing to a text does not fail.
                let _ = write!(out, "{line}");
            }
            // No path holds a backslash or a line's end, which sha256sum would escape.
            Self::Sums => {
                let _ = writeln!(out, "{}  {path}", entry.digest);
            }
        }
    }
}

enum Place {
    Start,
    After(String),
    End,
}

/// A list that is written as the client takes it: a site can have millions of files.
struct ListBody {
    site: Arc<Site>,
    form: Form,
    place: Place,
}

impl hyper::body::Body for ListBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        let mut out = String::with_capacity(LIST_PART_BYTES + 4096);
        let (after, mut is_first) = match &body.place {
            Place::Start => {
                out.push_str(body.form.head());
                (Bound::Unbounded, true)
            }
            Place::After(path) => (Bound::Excluded(path.as_str()), false),
            Place::End => return Poll::Ready(None),
        };
        let mut next = Place::End;
        for (path, entry) in body.site.files().range::<str, _>((after, Bound::Unbounded)) {
            body.form.put(&mut out, &body.site, path, entry, is_first);
            is_first = false;
            if out.len() >= LIST_PART_BYTES {
                next = Place::After(path.clone());
                break;
            }
        }
        if matches!(next, Place::End) {
            out.push_str(body.form.tail());
        }
        body.place = next;
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}
