//! The **serve** role: one HTTPS listener that offers what is published, straight from the packs.
//!
//! | path | what |
//! |---|---|
//! | `/` | what is published |
//! | `/client/` | what a client needs: the authority's certificate, a `.terraformrc`, a `registries.conf`, a `hosts.toml` |
//! | `/.well-known/terraform.json`, `/v1/providers/…` | the origin registries, replayed with their own proofs ([`registry`]) |
//! | `/v1/modules/…` | Terraform's module registry ([`modules`]) |
//! | `/mirror/…` | Terraform's network mirror protocol ([`mirror`]) |
//! | `/apt/…`, `/replay/…` | a Debian archive, and suites that are here whole ([`apt`]) |
//! | `/v2/…` | a registry of container images ([`oci`]) |
//! | `/blobs/SHA256/NAME` | any published blob by its digest |
//! | `/files/…`, `/files.json`, `/files.sha256` | the file tree ([`files`]) |
//! | `/healthz` | 200 while the listener lives |
//!
//! A request looks at one [`Site`], an immutable snapshot of what is published, from its start to its end, so a
//! publication that switches meanwhile neither mixes two releases in one answer nor cuts a download. Names from a
//! request are looked up in the snapshot's tables and never on the file system. What came from the low side is offered
//! for download only and never as something that a browser would run.

mod apt;
mod blob;
mod client;
mod files;
mod follow;
mod html;
mod images;
mod listen;
mod mirror;
mod modules;
mod oci;
mod pages;
mod registry;
mod site;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_images;
#[cfg(test)]
mod tests_of_modules;
mod tls;

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

pub use blob::BlobBody;
pub use client::ClientFiles;
pub use follow::{Follower, MIRROR, ReleaseId, SERVE, Serving, SiteFact};
pub use images::path_of as image_path;
pub use listen::run;
pub use site::{FileEntry, Site};
pub use tls::{Tls, TlsStatus, renewed_dir};

/// A value that is replaced as a whole while others use it: who loaded the old one keeps it until done.
#[derive(Debug)]
pub struct Current<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Current<T> {
    /// Starts with `value`.
    pub fn new(value: Arc<T>) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    /// What holds now.
    pub fn load(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it for everyone who loads from now on.
    pub fn switch(&self, value: Arc<T>) {
        // The old one is dropped after the lock is released: a large site takes a while to free.
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value);
        drop(old);
    }
}

impl<T> From<Arc<T>> for Current<T> {
    fn from(value: Arc<T>) -> Self {
        Self::new(value)
    }
}

/// What is published now.
pub type SiteHandle = Current<Site>;
/// The certificate in use now; a renewed one serves the next connections.
pub type TlsHandle = Current<rustls::ServerConfig>;

/// What every handler can ask for.
#[derive(Clone)]
struct Gateway {
    site: SiteHandle,
    client: Arc<ClientFiles>,
}

/// Everything that the listener answers.
pub fn router(site: SiteHandle, client: ClientFiles) -> Router {
    Router::new()
        .route("/", get(pages::home))
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/client", get(|| async { redirect("/client/") }))
        .route("/client/", get(client::page))
        .route("/client/ca.pem", get(client::ca_pem))
        .route("/client/terraformrc", get(client::terraformrc))
        .route("/apt/{*path}", get(apt::file))
        .route("/replay/{*path}", get(apt::replayed))
        .route("/client/apt-key.asc", get(apt::key))
        .route("/client/diodesync.sources", get(apt::sources))
        .route("/client/replay.sources", get(apt::replay_sources))
        .route("/client/registries.conf", get(client::images::registries_conf))
        .route("/client/hosts.toml", get(client::images::hosts_toml))
        .route("/.well-known/terraform.json", get(registry::discovery))
        .route("/v1/providers/{*path}", get(registry::provider))
        .route("/v1/modules/{*path}", get(modules::module))
        .route("/mirror/{*path}", get(mirror::provider))
        .route("/v2", get(oci::base))
        .route("/v2/", get(oci::base))
        .route("/v2/{*path}", get(oci::get))
        .route("/blobs/{digest}", get(blob::by_digest))
        .route("/blobs/{digest}/{name}", get(blob::by_digest_and_name))
        .route("/files", get(|| async { redirect("/files/") }))
        .route("/files/", get(files::root))
        .route("/files/{*path}", get(files::path))
        .route("/files.json", get(files::json))
        .route("/files.sha256", get(files::sha256))
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn(get_and_head_only))
        .layer(middleware::map_response(harden))
        .with_state(Gateway { site, client: Arc::new(client) })
}

/// Anything but GET and HEAD is refused before a path is looked at: nothing here can be changed over HTTP.
async fn get_and_head_only(request: Request, next: Next) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => next.run(request).await,
        _ => {
            let allow = [(header::ALLOW, "GET, HEAD")];
            if request.uri().path().starts_with("/v2/") {
                return (allow, oci::read_only()).into_response();
            }
            let why = "this gateway only serves: expected GET or HEAD\n";
            (allow, text(StatusCode::METHOD_NOT_ALLOWED, why)).into_response()
        }
    }
}

/// Headers that every answer has, unless it says otherwise: nothing is guessed to be a page, framed, or run.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut default = |name, value| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    default(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    default(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox");
    default(header::REFERRER_POLICY, "no-referrer");
    default(header::CACHE_CONTROL, "no-cache");
    response
}

/// A short answer in plain text.
fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

/// Terraform wants exactly this content type.
fn json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "not published here\n")
}

/// What the client did was right, and it is logged already why it failed.
fn failed() -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, "the gateway could not read this; its log says why\n")
}

/// A permanent redirect within this gateway; `path` starts with one slash and is percent-encoded.
fn redirect(path: &str) -> Response {
    match HeaderValue::from_str(path) {
        Ok(location) => {
            let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(_) => not_found(),
    }
}

/// The snapshot that a request works on, and the headers that it came with.
struct Asked {
    site: Arc<Site>,
    headers: HeaderMap,
    /// HEAD: the same answer without its body.
    is_head: bool,
}

impl FromRequestParts<Gateway> for Asked {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Self::Rejection> {
        Ok(Self {
            site: gateway.site.load(),
            headers: parts.headers.clone(),
            is_head: parts.method == Method::HEAD,
        })
    }
}
