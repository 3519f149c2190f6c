//! How sources speak HTTP: with bounds on octets, time and redirects; retried where that can help; and never led by an
//! upstream to where its configured URL is not.
//!
//! * Transport failures and the statuses 408, 429, 500, 502, 503 and 504 are tried again, with waits that double;
//!   `Retry-After` is honoured up to [`Patience::retry_after_max`]. Any other status is an answer.
//! * Redirects go to http and https only, and never from TLS to none. A name or address of this machine or of the link
//!   is reached only if the source's own URL is there. Credentials stay with the origin that they were given for.
//! * An answer that is read whole has a limit; one that goes to a file has a limit too, and can be resumed
//!   ([`download`]). A body that trickles is broken off.

mod connect;
mod download;
mod error;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use self::connect::{Connector, Lease};
pub use self::download::{Download, Downloaded};
pub use self::error::FetchError;
use super::config::Access;
use super::url::Url;

/// Redirects that one request follows.
const REDIRECTS_MAX: u32 = 10;
/// Octets of a credential's file.
const CREDENTIAL_BYTES_MAX: u64 = 64 << 10;
/// Octets that make a try that broke off one that got on.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Octets of an error's body that a message shows.
const EXCERPT_BYTES: usize = 200;

/// How long is waited, and how often it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries of one request.
    pub tries: u32,
    /// The first wait between two; it doubles.
    pub wait_first: Duration,
    /// The longest wait.
    pub wait_max: Duration,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
    /// The longest time until a connection is there, TLS included.
    pub connect_max: Duration,
    /// The longest silence within an answer.
    pub silence_max: Duration,
    /// The time in which [`Self::window_bytes_min`] octets must come.
    pub window: Duration,
    /// See there.
    pub window_bytes_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(120),
            connect_max: Duration::from_secs(30),
            silence_max: Duration::from_secs(60),
            window: Duration::from_secs(60),
            window_bytes_min: 16 << 10,
        }
    }
}

/// Says whether that many octets more may lie on the disk.
pub type Admit = Arc<dyn Fn(u64) -> anyhow::Result<()> + Send + Sync>;

/// Held while a file is downloaded; what came of it.
type FileLock = Arc<tokio::sync::Mutex<Option<Downloaded>>>;

/// What fetches for one pull of one source.
#[derive(Clone)]
pub struct Fetcher {
    connector: Arc<Connector>,
    patience: Patience,
    /// Requests and downloads at once: an upstream that asks to wait is waited for by all.
    slots: Arc<Semaphore>,
    /// Octets that may still be downloaded to files.
    bytes_left: Arc<AtomicU64>,
    bytes_max: u64,
    /// Octets that came.
    done: Arc<AtomicU64>,
    admit: Admit,
    /// One download of one file at a time.
    files: Arc<Mutex<BTreeMap<PathBuf, FileLock>>>,
    /// What a request to the source's own origins carries.
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// One request. It is a GET, or a HEAD.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub url: Url,
    /// GET or HEAD.
    pub method: Method,
    /// More fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A credential. It does not follow a redirect to another origin.
    pub authorization: Option<HeaderValue>,
}

impl Request {
    /// A plain GET.
    pub fn get(url: Url) -> Self {
        Self { url, method: Method::GET, headers: Vec::new(), authorization: None }
    }

    /// With one more field.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a credential.
    pub fn authorized(mut self, authorization: Option<HeaderValue>) -> Self {
        self.authorization = authorization;
        self
    }
}

/// An answer that was read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Where it came from, after redirects.
    pub url: Url,
    /// Its body; empty for HEAD.
    pub body: Bytes,
}

impl Answer {
    /// The body of a 200.
    ///
    /// # Errors
    /// [`FetchError::Status`] with the beginning of the body.
    pub fn ok(self) -> Result<Bytes, FetchError> {
        if self.status == StatusCode::OK {
            return Ok(self.body);
        }
        Err(FetchError::status(self.url, self.status, &self.headers, &self.body))
    }

    /// A field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer of which the body is still to come.
struct Open {
    status: StatusCode,
    headers: HeaderMap,
    url: Url,
    body: Body,
}

/// A body, with the connection that it comes over.
struct Body {
    incoming: Incoming,
    lease: Option<Lease>,
    silence_max: Duration,
    url: Url,
}

impl Body {
    /// The next octets; none at the end, with which the connection is free for the next request.
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = tokio::time::timeout(self.silence_max, self.incoming.frame()).await;
            let frame =
                frame.map_err(|_| FetchError::Silent { url: self.url.clone(), after: self.silence_max })?;
            match frame {
                None => {
                    self.lease.take().into_iter().for_each(Lease::give_back);
                    return Ok(None);
                }
                Some(Ok(frame)) => {
                    if let Ok(octets) = frame.into_data() {
                        return Ok(Some(octets));
                    }
                }
                Some(Err(error)) => return Err(FetchError::broken(&self.url, &error)),
            }
        }
    }
}

impl Fetcher {
    /// `homes` are the URLs that the source itself names; only they decide whether this machine may be reached.
    pub fn new(access: &Access, homes: &[Url], bytes_max: u64, admit: Admit) -> anyhow::Result<Self> {
        Self::with_patience(access, homes, bytes_max, admit, Patience::default())
    }

    /// The same, more or less patient.
    pub fn with_patience(
        access: &Access,
        homes: &[Url],
        bytes_max: u64,
        admit: Admit,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            connector: Arc::new(Connector::new(access, homes, patience.connect_max)?),
            patience,
            slots: Arc::new(Semaphore::new(access.parallel)),
            bytes_left: Arc::new(AtomicU64::new(bytes_max)),
            bytes_max,
            done: Arc::default(),
            admit,
            files: Arc::default(),
            authorization: authorization(access)?,
        })
    }

    /// Octets that came so far.
    pub fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The source's credential as a field of a request: Basic or Bearer. Whoever makes a request decides whether it goes
    /// with it.
    pub fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.clone()
    }

    /// An answer with a body of at most `bytes_max` octets, whatever its status. Tried again where that can help.
    pub async fn answer(&self, request: &Request, bytes_max: u64) -> Result<Answer, FetchError> {
        let _slot = self.slots.acquire().await;
        let mut retry = Retry::new(self.patience);
        loop {
            match self.answer_once(request, bytes_max).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.wait(error, 0).await?,
            }
        }
    }

    /// The body of a 200 that has at most `bytes_max` octets.
    pub async fn body(&self, request: &Request, bytes_max: u64) -> Result<Bytes, FetchError> {
        self.answer(request, bytes_max).await?.ok()
    }

    async fn answer_once(&self, request: &Request, bytes_max: u64) -> Result<Answer, FetchError> {
        let Open { status, headers, url, mut body } = self.open(request).await?;
        let mut octets = Vec::new();
        let mut pace = Pace::new(&self.patience);
        while let Some(chunk) = body.next().await? {
            if octets.len() as u64 + chunk.len() as u64 > bytes_max {
                return Err(FetchError::TooLong { url, max: bytes_max });
            }
            pace.add(chunk.len(), &url)?;
            octets.extend_from_slice(&chunk);
        }
        let bytes = octets.len() as u64;
        self.done.fetch_add(bytes, Ordering::Relaxed);
        // What is read into memory counts, too: many small answers are as much as one that is large.
        let left = self
            .bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if left.is_err() {
            return Err(FetchError::Budget { url, max: self.bytes_max });
        }
        let answer = Answer { status, headers, url, body: octets.into() };
        if is_worth_a_retry(status) {
            return Err(FetchError::status(answer.url, status, &answer.headers, &answer.body));
        }
        Ok(answer)
    }

    /// Sends a request, follows redirects, and leaves the body to the caller.
    async fn open(&self, request: &Request) -> Result<Open, FetchError> {
        let mut url = request.url.clone();
        let mut authorization = request.authorization.as_ref();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = request.headers.clone();
            headers.extend(authorization.map(|value| (AUTHORIZATION, value.clone())));
            let (answer, lease) =
                self.connector.ask(&url, &request.method, &headers, self.patience.silence_max).await?;
            let (parts, incoming) = answer.into_parts();
            let body = Body {
                incoming,
                lease: Some(lease),
                silence_max: self.patience.silence_max,
                url: url.clone(),
            };
            let location = parts.headers.get(LOCATION).filter(|_| is_redirect(parts.status));
            let Some(location) = location else {
                return Ok(Open { status: parts.status, headers: parts.headers, url, body });
            };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let no = |why: String| FetchError::Redirect {
                url: url.clone(),
                // A query may hold a signature that gives access.
                to: excerpt(location.split('?').next().unwrap_or_default().as_bytes()),
                why,
            };
            let next = url.join(&location).map_err(|error| no(error.to_string()))?;
            if url.is_tls() && !next.is_tls() {
                return Err(no("it leads from TLS to a connection without".to_owned()));
            }
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
        }
        Err(FetchError::Redirect {
            url: request.url.clone(),
            to: url.to_string(),
            why: format!("that is after more than {REDIRECTS_MAX} others"),
        })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn is_worth_a_retry(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Text of unknown origin for a message: short, and without what a terminal would obey.
fn excerpt(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets.get(..EXCERPT_BYTES).unwrap_or(octets));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// The wait that an answer asks for: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(SystemTime::from(at).duration_since(now).unwrap_or_default())
}

/// The credential that files hold, read anew for each pull.
fn authorization(access: &Access) -> anyhow::Result<Option<HeaderValue>> {
    let read = |path: &PathBuf| -> anyhow::Result<String> {
        diodesync_control::secret::check(path)?;
        let length = std::fs::metadata(path)?.len();
        anyhow::ensure!(
            length <= CREDENTIAL_BYTES_MAX,
            "{} has {length} octets, expected at most {CREDENTIAL_BYTES_MAX}",
            path.display()
        );
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    };
    let text = match (&access.user, &access.token_file) {
        (Some((user, password)), _) => {
            let user =
                std::fs::read_to_string(user).with_context(|| format!("cannot read {}", user.display()))?;
            let pair = format!("{}:{}", user.trim_end_matches(['\n', '\r']), read(password)?);
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }
        (None, Some(token)) => format!("Bearer {}", read(token)?),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| anyhow::anyhow!("a credential holds a character that no request can carry"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Waits between tries, for as long as they can help.
struct Retry {
    patience: Patience,
    tries: u32,
    wait: Duration,
}

impl Retry {
    fn new(patience: Patience) -> Self {
        Self { patience, tries: 1, wait: patience.wait_first }
    }

    /// Waits after an error. What got on by `bytes` is not given up soon.
    ///
    /// # Errors
    /// That error, if another try does not help.
    async fn wait(&mut self, error: FetchError, bytes: u64) -> Result<(), FetchError> {
        let asked = error.retry_after();
        if !error.is_passing() || asked.is_some_and(|asked| asked > self.patience.retry_after_max) {
            return Err(error);
        }
        if bytes >= PROGRESS_BYTES {
            *self = Self::new(self.patience);
        }
        if self.tries >= self.patience.tries {
            return Err(FetchError::GivenUp { tries: self.tries, last: Box::new(error) });
        }
        let pause = asked.map_or(self.wait, |asked| asked.max(self.wait));
        tracing::info!("{error}; trying again in {} s", pause.as_secs_f32());
        tokio::time::sleep(pause).await;
        self.tries += 1;
        self.wait = (self.wait * 2).min(self.patience.wait_max);
        Ok(())
    }
}

/// Breaks off what trickles.
struct Pace {
    window: Duration,
    bytes_min: u64,
    began: tokio::time::Instant,
    bytes: u64,
}

impl Pace {
    fn new(patience: &Patience) -> Self {
        let began = tokio::time::Instant::now();
        Self { window: patience.window, bytes_min: patience.window_bytes_min, began, bytes: 0 }
    }

    fn add(&mut self, bytes: usize, url: &Url) -> Result<(), FetchError> {
        self.bytes += bytes as u64;
        if self.began.elapsed() < self.window {
            return Ok(());
        }
        if self.bytes < self.bytes_min {
            return Err(FetchError::Trickle { url: url.clone(), bytes: self.bytes, window: self.window });
        }
        (self.began, self.bytes) = (tokio::time::Instant::now(), 0);
        Ok(())
    }
}
