//! A registry, asked as the OCI distribution specification 1.1 says: manifests by their exact octets, tags, referrers.
//!
//! Credentials go to the registry once it has asked for them, and to the realm that it names for tokens, which must not be
//! worse protected than the registry itself; a redirect to another host takes none of them along.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::image::{Manifest, ManifestType, parse_digest};
use diodesync::release::{ImageRepository, Tag};
use hyper::header::{ACCEPT, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::challenge::Challenge;
use crate::sources::Job;
use crate::sources::fetch::{Answer, Downloaded, FetchError, Fetcher, Request};
use crate::sources::url::Url;

/// Octets of an answer with a token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Octets of one page of tags.
const TAGS_PAGE_BYTES_MAX: u64 = 8 << 20;
/// Tags of a repository that are looked at.
const TAGS_MAX: usize = 200_000;
/// Pages of a list.
const PAGES_MAX: usize = 1000;
/// Docker Hub, by the name that images have and by the one that its registry has.
pub const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One repository of a registry.
#[derive(Debug)]
pub struct Registry {
    fetch: Fetcher,
    base: Url,
    repository: ImageRepository,
    /// What the registry wants to see with each request.
    authorization: Mutex<Option<HeaderValue>>,
}

/// The root of the registry that keeps a repository.
pub fn base(repository: &ImageRepository, plain_http: bool) -> anyhow::Result<Url> {
    let (name, host) = DOCKER_HUB;
    let host = if repository.registry == name { host } else { repository.registry.as_str() };
    let scheme = if plain_http { "http" } else { "https" };
    Ok(Url::parse(&format!("{scheme}://{host}/v2/"))?)
}

impl Registry {
    /// A repository; nothing is asked yet.
    pub fn new(fetch: Fetcher, repository: ImageRepository, plain_http: bool) -> anyhow::Result<Self> {
        let base = base(&repository, plain_http)?;
        Ok(Self { fetch, base, repository, authorization: Mutex::new(None) })
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        Ok(self.base.join(&format!("{}/{path}", self.repository.repository))?)
    }

    fn request(&self, method: Method, url: Url) -> Request {
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Request { method, ..Request::get(url) }.authorized(authorization)
    }

    /// Asks, and again with what the registry wants to see if it says so.
    async fn ask(&self, method: Method, url: Url, accept: &'static str, max: u64) -> anyhow::Result<Answer> {
        let accept = HeaderValue::from_static(accept);
        let ask = async || {
            let request = self.request(method.clone(), url.clone()).with(ACCEPT, accept.clone());
            self.fetch.answer(&request, max).await
        };
        let answer = ask().await?;
        // What a redirect has led to is not the registry, and gets nothing of what is the registry's.
        let is_own = answer.url.origin() == self.base.origin();
        if answer.status == StatusCode::UNAUTHORIZED && is_own && self.authorize(&answer).await? {
            return Ok(ask().await?);
        }
        Ok(answer)
    }

    /// Gets what the registry wants to see; false if there is nothing to be had.
    async fn authorize(&self, answer: &Answer) -> anyhow::Result<bool> {
        let fields = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let fields: Vec<&str> = fields.filter_map(|field| field.to_str().ok()).collect();
        let Some(challenge) = Challenge::parse(&fields.join(", ")) else { return Ok(false) };
        let own = self.fetch.authorization();
        let is = |scheme: &str| own.as_ref().is_some_and(|own| own.as_bytes().starts_with(scheme.as_bytes()));
        let wanted = match challenge {
            Challenge::Basic if is("Basic ") => own,
            Challenge::Basic => return Ok(false),
            Challenge::Bearer { .. } if is("Bearer ") => own,
            Challenge::Bearer { realm, service, scope } => {
                Some(self.token(&realm, service.as_deref(), scope.as_deref(), own).await?)
            }
        };
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *authorization != wanted;
        *authorization = wanted;
        Ok(is_new)
    }

    /// A token, of the realm that the registry names.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        own: Option<HeaderValue>,
    ) -> anyhow::Result<HeaderValue> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let own_scope = format!("repository:{}:pull", self.repository.repository);
        let mut url = realm.to_owned();
        for (name, value) in [("service", service), ("scope", scope.or(Some(&own_scope)))] {
            let Some(value) = value else { continue };
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&format!("{name}={}", encode(value)));
        }
        let url =
            Url::parse(&url).with_context(|| format!("the realm that {} names for tokens", self.base))?;
        if self.base.is_tls() && !url.is_tls() {
            bail!(
                "{} has tokens given out over {url}, without TLS; credentials are not sent there",
                self.base
            );
        }
        let request = Request::get(url.clone()).authorized(own);
        let body = self.fetch.answer(&request, TOKEN_BYTES_MAX).await?.ok()?;
        let answer: Token =
            serde_json::from_slice(&body).with_context(|| format!("{url}: the answer holds no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.with_context(|| format!("{url}: the answer holds no token"))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| anyhow::anyhow!("{url}: the token holds a character that no request can carry"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The octets of a manifest, by its tag or its digest, whose digest they must have; `None` if there is none.
    pub async fn manifest(&self, reference: &str) -> anyhow::Result<Option<(Sha256, Bytes)>> {
        const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
             application/vnd.oci.artifact.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.docker.distribution.manifest.v2+json";
        let url = self.url(&format!("manifests/{reference}"))?;
        let answer = self.ask(Method::GET, url, ACCEPTED, MANIFEST_BYTES_MAX).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        // What the registry says of the tag; other digests than SHA-256 say nothing to us.
        let said = answer.header("docker-content-digest").and_then(|text| parse_digest(text).ok());
        let url = answer.url.clone();
        let octets = answer.ok()?;
        let found = Sha256::of(&octets);
        let wanted = reference.starts_with("sha256:").then(|| parse_digest(reference)).transpose()?;
        match [wanted, said].into_iter().flatten().find(|expected| *expected != found) {
            Some(expected) => Err(FetchError::Digest { url, expected, found }.into()),
            None => Ok(Some((found, octets))),
        }
    }

    /// The tags of the repository.
    pub async fn tags(&self) -> anyhow::Result<BTreeSet<Tag>> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = BTreeSet::new();
        let mut next = Some(self.url("tags/list?n=1000")?);
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { return Ok(tags) };
            let answer = self.ask(Method::GET, url.clone(), "application/json", TAGS_PAGE_BYTES_MAX).await?;
            next = self.next_page(&answer)?;
            let page: Page = serde_json::from_slice(&answer.ok()?)
                .with_context(|| format!("{url}: expected a list of tags, found something else"))?;
            let before = tags.len();
            // What is no tag cannot be asked for.
            tags.extend(page.tags.unwrap_or_default().iter().filter_map(|text| text.parse().ok()));
            if tags.len() > TAGS_MAX {
                bail!(
                    "{url}: the repository has more than {TAGS_MAX} tags, the limit; name tags without a pattern"
                );
            }
            if tags.len() == before {
                return Ok(tags);
            }
        }
        bail!("{}: its list of tags has more than {PAGES_MAX} pages, the limit", self.repository)
    }

    /// The manifests that refer to one, by the registry's own list; `None` if it keeps none.
    pub async fn referrers(&self, digest: &Sha256) -> anyhow::Result<Option<Vec<Sha256>>> {
        let mut found = Vec::new();
        let mut next = Some(self.url(&format!("referrers/sha256:{digest}"))?);
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { return Ok(Some(found)) };
            let media_type = ManifestType::OciIndex.media_type();
            let answer = self.ask(Method::GET, url.clone(), media_type, MANIFEST_BYTES_MAX).await?;
            if matches!(answer.status.as_u16(), 400 | 404 | 405 | 406 | 501) && found.is_empty() {
                return Ok(None);
            }
            next = self.next_page(&answer)?;
            let page = Manifest::parse(&answer.ok()?);
            let page = page.with_context(|| format!("{url}: expected an index of referrers"))?;
            if page.manifests.is_empty() {
                break;
            }
            found.extend(page.manifests.into_iter().map(|entry| entry.digest));
        }
        Ok(Some(found))
    }

    /// Where a list goes on (RFC 8288), which must be at this registry.
    fn next_page(&self, answer: &Answer) -> anyhow::Result<Option<Url>> {
        let Some(link) = answer.header("link") else { return Ok(None) };
        let is_next = |link: &&str| link.contains("rel=\"next\"") || link.contains("rel=next");
        let Some(link) = link.split(',').find(is_next) else { return Ok(None) };
        let target =
            link.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(target, _)| target);
        let target =
            target.with_context(|| format!("{}: a link to the next page cannot be read", answer.url))?;
        let next = answer.url.join(target)?;
        if next.origin() != self.base.origin() {
            bail!(
                "{}: the list goes on at {next}, which is not this registry; it is not followed",
                answer.url
            );
        }
        Ok(Some(next))
    }

    /// Downloads a blob into the job's folder.
    pub async fn blob(&self, job: &Job, digest: &Sha256, bytes: u64) -> anyhow::Result<Downloaded> {
        let url = self.url(&format!("blobs/sha256:{digest}"))?;
        let get =
            async || job.download(self.request(Method::GET, url.clone()), Some(*digest), Some(bytes)).await;
        match get().await {
            // A token lives for minutes, and layers are large.
            Err(error) if error.status_code() == Some(StatusCode::UNAUTHORIZED) => {
                self.ask(Method::HEAD, url.clone(), "*/*", 0).await?;
                Ok(get().await?)
            }
            other => Ok(other?),
        }
    }

    /// The octets of a small blob.
    pub async fn small_blob(&self, digest: &Sha256, max: u64) -> anyhow::Result<Bytes> {
        let url = self.url(&format!("blobs/sha256:{digest}"))?;
        let octets = self.ask(Method::GET, url.clone(), "*/*", max).await?.ok()?;
        let found = Sha256::of(&octets);
        if found != *digest {
            return Err(FetchError::Digest { url, expected: *digest, found }.into());
        }
        Ok(octets)
    }
}

/// Percent-encodes a value for a query.
fn encode(text: &str) -> String {
    let letter = |octet: u8| match octet {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
            char::from(octet).to_string()
        }
        _ => format!("%{octet:02X}"),
    };
    text.bytes().map(letter).collect()
}
