//! A registry that can be pulled from: the OCI distribution specification 1.1, its reading half, at `/v2/`.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>
//!
//! | path | what |
//! |---|---|
//! | `/v2/` | that there is a registry |
//! | `/v2/NAME/manifests/TAG` or `…/DIGEST` | a manifest, octet by octet as it was |
//! | `/v2/NAME/blobs/DIGEST` | a configuration or layer, whole or a range |
//! | `/v2/NAME/tags/list[?n=N&last=TAG]` | tags |
//! | `/v2/NAME/referrers/DIGEST[?artifactType=TYPE]` | signatures, attestations and SBOMs of a manifest |
//! | `/v2/_catalog[?n=N&last=NAME]` | repositories |
//!
//! `NAME` is `REGISTRY/REPOSITORY` (`localhost:5000/x` is `localhost_5000/x`: no name holds a colon). containerd asks a
//! mirror for the repository's own name and says in `?ns=` whose it is; that is understood as well.
//!
//! Only what the release of a repository names is found in it. The release before is found by digest and not by tag.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use diodesync::id::Sha256;
use diodesync::release::image::{ManifestType, parse_digest};
use serde_json::json;

use super::images::{Repository, path_of};
use super::{Asked, blob, failed};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Names in one answer.
const PAGE_MAX: usize = 10_000;

/// What stands after the `?`.
pub type Arguments = Query<BTreeMap<String, String>>;

/// `/v2/`
pub async fn base() -> Response {
    json_response(StatusCode::OK, "application/json", "{}".to_owned())
}

/// Everything below `/v2/`.
pub async fn get(asked: Asked, Path(path): Path<String>, Query(arguments): Arguments) -> Response {
    if path == "_catalog" {
        return catalog(&asked, &arguments);
    }
    // From the end: a repository's name may hold these words too, a reference no slash.
    let mut parts = path.rsplitn(3, '/');
    let (Some(last), Some(what), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return unknown_name(&path);
    };
    let images = asked.site.images();
    let own = arguments.get("ns").and_then(|registry| images.by_name(registry, name));
    let (repository, ns) = match own {
        Some(repository) => (Some(repository), arguments.get("ns")),
        None => (images.by_path(name), None),
    };
    match (what, last, repository) {
        // A registry with this API never answers 404 here.
        ("referrers", subject, repository) => referrers(repository, subject, arguments.get("artifactType")),
        ("manifests" | "blobs" | "tags", _, None) => unknown_name(name),
        ("manifests", reference, Some(repository)) => manifest(&asked, repository, reference),
        ("blobs", digest, Some(repository)) => content(&asked, repository, digest),
        ("tags", "list", Some(repository)) => {
            let names = repository.tags().keys().map(String::as_str);
            let ns = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
            list(
                names,
                &arguments,
                &format!("/v2/{name}/tags/list"),
                &ns,
                |tags| json!({ "name": name, "tags": tags }),
            )
        }
        _ => unknown_name(&path),
    }
}

fn manifest(asked: &Asked, repository: &Repository, reference: &str) -> Response {
    let digest = if reference.contains(':') {
        match parse_digest(reference) {
            Ok(digest) => Some(digest),
            Err(_) => return invalid_digest(reference),
        }
    } else {
        repository.tags().get(reference).copied()
    };
    let known = digest.and_then(|digest| Some((digest, repository.media_type(&digest)?)));
    let Some((digest, media_type)) = known else {
        return error(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            "no such manifest is published here",
            reference,
        );
    };
    // It was checked to be a media type.
    let media_type =
        HeaderValue::from_str(media_type).unwrap_or(HeaderValue::from_static("application/json"));
    by_digest(asked, digest, Some(media_type), reference.contains(':'))
}

fn content(asked: &Asked, repository: &Repository, digest: &str) -> Response {
    match parse_digest(digest) {
        Ok(digest) if repository.has_blob(&digest) => by_digest(asked, digest, None, true),
        Ok(_) => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such blob is published here", digest),
        Err(_) => invalid_digest(digest),
    }
}

fn by_digest(asked: &Asked, digest: Sha256, media_type: Option<HeaderValue>, is_immutable: bool) -> Response {
    let mut response = blob::respond(asked, digest);
    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if let Ok(value) = HeaderValue::try_from(format!("sha256:{digest}")) {
        headers.insert(CONTENT_DIGEST, value);
    }
    if status.is_success() {
        if let Some(media_type) = media_type {
            headers.insert(header::CONTENT_TYPE, media_type);
        }
        if is_immutable {
            headers.insert(header::CACHE_CONTROL, blob::FOREVER);
        }
    }
    response
}

fn referrers(repository: Option<&Repository>, subject: &str, artifact_type: Option<&String>) -> Response {
    let Ok(subject) = parse_digest(subject) else { return invalid_digest(subject) };
    let list_type = ManifestType::OciIndex.media_type();
    let mut body = format!("{{\"schemaVersion\":2,\"mediaType\":\"{list_type}\",\"manifests\":[");
    let mut separator = "";
    if let Some(repository) = repository {
        let Some(found) = repository.referrers(&subject) else { return failed() };
        for referrer in found {
            if artifact_type.is_none_or(|wanted| referrer.artifact_type.as_ref() == Some(wanted)) {
                let _ = write!(body, "{separator}{}", referrer.descriptor);
                separator = ",";
            }
        }
    }
    body.push_str("]}");
    let mut response = json_response(StatusCode::OK, list_type, body);
    if artifact_type.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    response
}

/// `/v2/_catalog`, which the specification has no more and many clients still ask for.
fn catalog(asked: &Asked, arguments: &BTreeMap<String, String>) -> Response {
    let mut names: Vec<String> = asked.site.images().repositories().map(|(name, _)| path_of(name)).collect();
    names.sort_unstable();
    let names = names.iter().map(String::as_str);
    list(names, arguments, "/v2/_catalog", "", |names| json!({ "repositories": names }))
}

/// Up to `n` names after `last`, in their order, with a link to the next ones.
fn list<'a>(
    names: impl Iterator<Item = &'a str>,
    arguments: &BTreeMap<String, String>,
    path: &str,
    rest: &str,
    body: impl FnOnce(&[&str]) -> serde_json::Value,
) -> Response {
    let max = match arguments.get("n").map(|n| n.parse::<usize>()) {
        None => PAGE_MAX,
        Some(Ok(n)) => n.min(PAGE_MAX),
        Some(Err(_)) => {
            let n = arguments.get("n").map(String::as_str).unwrap_or_default();
            return error(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n is not a number", n);
        }
    };
    let last = arguments.get("last");
    let mut names = names.skip_while(|name| last.is_some_and(|last| *name <= last.as_str()));
    let page: Vec<&str> = names.by_ref().take(max).collect();
    let mut response = json_response(StatusCode::OK, "application/json", body(&page).to_string());
    if let (Some(last), Some(_)) = (page.last(), names.next())
        && let Ok(link) = HeaderValue::try_from(format!("<{path}?n={max}&last={last}{rest}>; rel=\"next\""))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// Anything but GET and HEAD.
pub fn read_only() -> Response {
    let why = "this registry is read-only: images come in over the diode";
    error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why, "expected GET or HEAD")
}

fn unknown_name(name: &str) -> Response {
    let why = "no such repository is published here; names are REGISTRY/REPOSITORY";
    error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", why, name)
}

fn invalid_digest(digest: &str) -> Response {
    let why = "expected sha256: and 64 lower-case hexadecimal digits";
    error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why, digest)
}

/// An error as the specification writes it.
fn error(status: StatusCode, code: &str, message: &str, detail: &str) -> Response {
    let detail: String = detail.chars().take(300).collect();
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": detail }] });
    json_response(status, "application/json", body.to_string())
}

fn json_response(status: StatusCode, media_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (API_VERSION, HeaderValue::from_static("registry/2.0")),
    ];
    (status, headers, Body::from(body)).into_response()
}
