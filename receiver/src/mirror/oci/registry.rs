//! The writing half of the OCI distribution specification 1.1, as far as a push needs it.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md>

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::release::image::{ManifestType, parse_digest};
use hyper::Method;

use super::challenge::query;
use super::error::PushError;
use super::http::{Answer, Ask, Http, Payload};
use crate::serve::Site;

/// Tags that are looked through before one is deleted by its digest.
const TAGS_MAX: usize = 1000;
/// Octets of an upload's address.
const LOCATION_BYTES_MAX: usize = 8192;
/// What is taken as a manifest.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.oci.artifact.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// How an upload began.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// The registry had the blob elsewhere, and it is here now.
    Mounted,
    /// It is to be sent to this address, path and query.
    At(String),
}

/// A registry, and what is asked of it.
pub struct Registry {
    http: Http,
    host: String,
}

impl Registry {
    /// Over HTTP.
    pub fn new(http: Http, host: String) -> Self {
        Self { http, host }
    }

    fn ask(&self, method: Method, repository: &str, what: String, target: String) -> Ask {
        let scopes = vec![format!("repository:{repository}:pull,push")];
        Ask { what, method, target, scopes, accept: None, payload: Payload::Nothing, is_slow: false }
    }

    /// The digest that a tag or digest of a repository stands for there; `None` if it is not there.
    pub async fn manifest_digest(
        &mut self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Sha256>, PushError> {
        let what = format!("looking for {repository}:{reference}");
        let target = format!("/v2/{repository}/manifests/{reference}");
        let mut ask = self.ask(Method::HEAD, repository, what.clone(), target);
        ask.accept = Some(MANIFESTS);
        let answer = self.http.ask(ask).await?;
        match answer.status.as_u16() {
            404 => Ok(None),
            200 => match answer.field("docker-content-digest").map(parse_digest) {
                Some(Ok(digest)) => Ok(Some(digest)),
                // The specification only wishes for that header; the octets say it as well.
                _ => Ok(self.manifest(repository, reference).await?.map(|octets| Sha256::of(&octets))),
            },
            _ => Err(self.http.unexpected(&what, &answer, "200 or 404")),
        }
    }

    /// The octets of a manifest; `None` if it is not there.
    pub async fn manifest(&mut self, repository: &str, reference: &str) -> Result<Option<Bytes>, PushError> {
        let what = format!("reading {repository}:{reference}");
        let target = format!("/v2/{repository}/manifests/{reference}");
        let mut ask = self.ask(Method::GET, repository, what.clone(), target);
        ask.accept = Some(MANIFESTS);
        let answer = self.http.ask(ask).await?;
        match answer.status.as_u16() {
            404 => Ok(None),
            200 => Ok(Some(answer.body)),
            _ => Err(self.http.unexpected(&what, &answer, "200 or 404")),
        }
    }

    /// Puts a manifest, octet by octet, under a digest or tag.
    pub async fn put_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        media_type: &str,
        octets: Bytes,
    ) -> Result<(), PushError> {
        let what = format!("pushing manifest {repository}:{reference}");
        let digest = Sha256::of(&octets);
        let target = format!("/v2/{repository}/manifests/{reference}");
        let mut ask = self.ask(Method::PUT, repository, what.clone(), target);
        ask.payload = Payload::Octets(octets, media_type.to_owned());
        let answer = self.http.ask(ask).await?;
        if answer.status.as_u16() != 201 {
            return Err(self.http.unexpected(&what, &answer, "201"));
        }
        match answer.field("docker-content-digest").map(parse_digest) {
            Some(Ok(found)) if found != digest => {
                Err(self.http.nonsense(&what, format!("took sha256:{digest} for sha256:{found}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether a blob is in a repository.
    pub async fn has_blob(&mut self, repository: &str, digest: &Sha256) -> Result<bool, PushError> {
        let what = format!("looking for blob sha256:{digest} in {repository}");
        let target = format!("/v2/{repository}/blobs/sha256:{digest}");
        let answer = self.http.ask(self.ask(Method::HEAD, repository, what.clone(), target)).await?;
        match answer.status.as_u16() {
            404 => Ok(false),
            // Registries that keep blobs elsewhere say where.
            200 | 301 | 302 | 303 | 307 | 308 => Ok(true),
            _ => Err(self.http.unexpected(&what, &answer, "200 or 404")),
        }
    }

    /// Begins an upload, with the wish to take the blob from another repository, if one is given.
    pub async fn begin(
        &mut self,
        repository: &str,
        digest: &Sha256,
        from: Option<&str>,
    ) -> Result<Begun, PushError> {
        let what = format!("pushing blob sha256:{digest} to {repository}");
        let mut target = format!("/v2/{repository}/blobs/uploads/");
        let mut ask = self.ask(Method::POST, repository, what.clone(), String::new());
        if let Some(from) = from {
            target.push_str(&format!("?mount=sha256:{digest}&from={}", query(from)));
            ask.scopes.push(format!("repository:{from}:pull"));
        }
        ask.target = target;
        let answer = self.http.ask(ask).await?;
        match (answer.status.as_u16(), from) {
            (201, Some(_)) => Ok(Begun::Mounted),
            (202, _) => Ok(Begun::At(self.location(&what, &answer)?)),
            _ => Err(self.http.unexpected(&what, &answer, "202")),
        }
    }

    /// How many octets an upload has, and where it goes on; `None` if there is no such upload any more.
    pub async fn progress(
        &mut self,
        repository: &str,
        location: &str,
    ) -> Result<Option<(u64, String)>, PushError> {
        let what = format!("taking up an upload to {repository}");
        let answer = self.http.ask(self.ask(Method::GET, repository, what, location.to_owned())).await?;
        if !matches!(answer.status.as_u16(), 202 | 204) {
            return Ok(None);
        }
        let next = self.location("taking up an upload", &answer).unwrap_or_else(|_| location.to_owned());
        Ok(held(&answer).map(|held| (held, next)))
    }

    /// Sends a part of a blob. Where the next one goes, and how much is there.
    pub async fn send_part(
        &mut self,
        repository: &str,
        location: &str,
        blob: (&Arc<Site>, Sha256),
        part: Range<u64>,
    ) -> Result<(u64, String), PushError> {
        let (site, digest) = blob;
        let what =
            format!("pushing blob sha256:{digest} to {repository}, octets {} to {}", part.start, part.end);
        let mut ask = self.ask(Method::PATCH, repository, what.clone(), location.to_owned());
        let end = part.end;
        ask.payload = Payload::Blob(site.clone(), digest, part);
        ask.is_slow = true;
        let answer = self.http.ask(ask).await?;
        match answer.status.as_u16() {
            202 => Ok((held(&answer).unwrap_or(end), self.location(&what, &answer)?)),
            _ => Err(self.http.unexpected(&what, &answer, "202")),
        }
    }

    /// Ends an upload, with what of the blob was not sent yet. False if the registry does not know the upload, or found
    /// something else than the digest: it is begun anew.
    pub async fn end(
        &mut self,
        repository: &str,
        location: &str,
        blob: (&Arc<Site>, Sha256),
        rest: Range<u64>,
    ) -> Result<bool, PushError> {
        let (site, digest) = blob;
        let what = format!("pushing blob sha256:{digest} to {repository}");
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest=sha256:{digest}");
        let mut ask = self.ask(Method::PUT, repository, what.clone(), target);
        if !rest.is_empty() {
            ask.payload = Payload::Blob(site.clone(), digest, rest);
        }
        ask.is_slow = true;
        let answer = self.http.ask(ask).await?;
        match answer.status.as_u16() {
            201 | 204 => Ok(true),
            400 | 404 | 416 => {
                tracing::warn!(digest = %digest, repository, status = answer.status.as_u16(), "an upload is not taken and begins anew");
                Ok(false)
            }
            _ => Err(self.http.unexpected(&what, &answer, "201")),
        }
    }

    /// Whether the registry lists referrers by itself.
    pub async fn has_referrers_api(&mut self, repository: &str, subject: &Sha256) -> Result<bool, PushError> {
        let what = format!("looking for referrers in {repository}");
        let target = format!("/v2/{repository}/referrers/sha256:{subject}");
        let answer = self.http.ask(self.ask(Method::GET, repository, what, target)).await?;
        let is_index = answer
            .field("content-type")
            .is_some_and(|kind| kind.starts_with(ManifestType::OciIndex.media_type()));
        Ok(answer.status.as_u16() == 200 && is_index)
    }

    /// Other tags of a repository that stand for a manifest; `None` if there are too many tags to know.
    pub async fn tags_of(
        &mut self,
        repository: &str,
        digest: &Sha256,
    ) -> Result<Option<Vec<String>>, PushError> {
        let what = format!("listing the tags of {repository}");
        let target = format!("/v2/{repository}/tags/list?n={TAGS_MAX}");
        let answer = self.http.ask(self.ask(Method::GET, repository, what.clone(), target)).await?;
        if answer.status.as_u16() != 200 || answer.field("link").is_some() {
            return Ok(None);
        }
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let Some(list) = value.get("tags").and_then(serde_json::Value::as_array) else { return Ok(None) };
        if list.len() > TAGS_MAX {
            return Ok(None);
        }
        let tags = list.iter().filter_map(|tag| tag.as_str()?.parse::<diodesync::release::Tag>().ok());
        let tags: Vec<String> = tags.map(|tag| tag.to_string()).collect();
        let mut same = Vec::new();
        for tag in tags {
            if self.manifest_digest(repository, &tag).await? == Some(*digest) {
                same.push(tag);
            }
        }
        Ok(Some(same))
    }

    /// Deletes a tag, or a manifest with all its tags. False if the registry does not do it.
    pub async fn delete(&mut self, repository: &str, reference: &str) -> Result<bool, PushError> {
        let what = format!("deleting {repository}:{reference}");
        let target = format!("/v2/{repository}/manifests/{reference}");
        let answer = self.http.ask(self.ask(Method::DELETE, repository, what, target)).await?;
        Ok(matches!(answer.status.as_u16(), 202 | 200 | 204))
    }

    /// Where an upload goes on: on the registry itself, whatever it says of its own name (behind a proxy it may not know
    /// how it is called), and nowhere else.
    fn location(&self, what: &str, answer: &Answer) -> Result<String, PushError> {
        let found = answer.field("location").unwrap_or_default();
        let path = match found.split_once("://") {
            None => found,
            Some((_, rest)) => {
                let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
                let name = |host: &str| host.split(':').next().unwrap_or_default().to_ascii_lowercase();
                if name(authority) != name(&self.host) {
                    let why =
                        format!("sends the upload to another host, {authority:?}; it is not followed there");
                    return Err(self.http.nonsense(what, why));
                }
                rest.get(authority.len()..).unwrap_or_default()
            }
        };
        if !path.starts_with('/') || path.len() > LOCATION_BYTES_MAX {
            return Err(self.http.nonsense(what, "does not say where the upload goes on"));
        }
        Ok(path.to_owned())
    }
}

/// `Range: 0-LAST`: how much of an upload is there. Of `0-0` it cannot be told whether it is one octet or none.
fn held(answer: &Answer) -> Option<u64> {
    let range = answer.field("range")?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    if first != "0" {
        return None;
    }
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}
