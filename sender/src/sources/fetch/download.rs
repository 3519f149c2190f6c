//! Downloads to files that go on where they broke off.
//!
//! ```text
//! FOLDER/KEY        what came so far; KEY is the digest that it must have, or one of the URL
//! FOLDER/KEY.of     where it came from, and the validator of that content (fact)
//! ```
//!
//! What has a known digest goes on whatever the upstream says of it: the digest is checked at the end, and if it is
//! another, once more from the start. Without one, `If-Range` has the upstream decide whether it is still the same
//! (RFC 9110 §13.1.5), and without a strong validator everything is fetched anew.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use diodesync::id::Sha256;
use diodesync::pack::fact;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio::sync::mpsc;

use super::{FetchError, Fetcher, Open, Pace, Request, Retry, Url};

/// Octets read at once when what is there is hashed.
const BUFFER_BYTES: usize = 1 << 20;
/// Chunks that wait for the disk.
const CHUNKS_AHEAD: usize = 16;

/// A file to be downloaded.
#[derive(Debug, Clone)]
pub struct Download {
    /// Where from.
    pub request: Request,
    /// The folder for it, which must be there.
    pub folder: PathBuf,
    /// The digest that it must have, if that is known.
    pub sha256: Option<Sha256>,
    /// Its octets, if they are known.
    pub bytes: Option<u64>,
    /// The most octets that it may have.
    pub bytes_max: u64,
}

/// A file that was downloaded.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Sha256,
    /// Its octets.
    pub bytes: u64,
}

impl Downloaded {
    /// Gives its room back.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(of_path(&self.path));
    }
}

/// `KEY.of`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    url: String,
    validator: Option<String>,
}

fn of_path(path: &Path) -> PathBuf {
    path.with_extension("of")
}

impl Download {
    /// Where it goes.
    pub fn path(&self) -> PathBuf {
        let url = format!("{}{}", self.request.url.origin(), self.request.url.target());
        let key = self.sha256.unwrap_or_else(|| Sha256::of(url.as_bytes()));
        self.folder.join(key.to_string())
    }

    /// Whether what was downloaded to its place is still there, and is what is wanted.
    fn is_met_by(&self, there: &Downloaded) -> bool {
        self.sha256.is_none_or(|sha256| sha256 == there.sha256)
            && self.bytes.is_none_or(|bytes| bytes == there.bytes)
            && there.bytes <= self.bytes_max
            && there.path.is_file()
    }

    fn of(&self, validator: Option<String>) -> Of {
        // What a query signs is nothing to be kept.
        Of { url: self.request.url.to_string(), validator }
    }
}

/// What is there of a file, and the hash over it.
struct Part {
    file: File,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl Part {
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut options = File::options();
        let mut file = fact::open_regular(path, options.read(true).write(true).create(true).truncate(false))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(Self { file, hasher, bytes });
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            bytes += read as u64;
        }
    }

    fn clear(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.bytes) = (sha2::Sha256::new(), 0);
        Ok(())
    }

    fn add(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.file.write_all(octets)?;
        self.hasher.update(octets);
        self.bytes += octets.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Sha256 {
        Sha256(self.hasher.clone().finalize().into())
    }
}

impl Fetcher {
    /// Downloads a file, or what is lacking of it.
    ///
    /// # Errors
    /// [`FetchError`]; what came stays for the next time, unless it is wrong.
    pub async fn file(&self, want: &Download) -> Result<Downloaded, FetchError> {
        let file = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.entry(want.path()).or_default().clone()
        };
        // Those that want the same share it: what one pull has downloaded, it does not ask for again.
        let mut file = file.lock().await;
        if let Some(there) = file.as_ref().filter(|there| want.is_met_by(there)) {
            return Ok(there.clone());
        }
        *file = None;
        let _slot = self.slots.acquire().await;
        let mut retry = Retry::new(self.patience);
        loop {
            let before = self.done_bytes();
            match self.file_once(want).await {
                Ok(downloaded) => return Ok(file.insert(downloaded).clone()),
                Err(error) => retry.wait(error, self.done_bytes() - before).await?,
            }
        }
    }

    async fn file_once(&self, want: &Download) -> Result<Downloaded, FetchError> {
        let (url, path) = (&want.request.url, want.path());
        let opened = path.clone();
        let part = on_disk(url, move || Part::open(&opened)).await?;
        let done = |part: &Part| Downloaded { path: path.clone(), sha256: part.digest(), bytes: part.bytes };
        if part.bytes > 0 && want.sha256 == Some(part.digest()) {
            return Ok(done(&part));
        }
        let before = read_of(&path).filter(|of| of.url == want.of(None).url).and_then(|of| of.validator);
        let can_resume = part.bytes > 0 && (want.sha256.is_some() || before.is_some());
        let mut request = want.request.clone();
        if can_resume {
            request = request.with(RANGE, text(&format!("bytes={}-", part.bytes)));
            if let Some(validator) = before.filter(|_| want.sha256.is_none()) {
                request = request.with(IF_RANGE, text(&validator));
            }
        }
        let open = self.open(&request).await?;
        let resumed = open.status == StatusCode::PARTIAL_CONTENT && can_resume;
        if open.status == StatusCode::RANGE_NOT_SATISFIABLE && can_resume {
            // It is shorter than what is here.
            let _ = std::fs::remove_file(&path);
            return Err(FetchError::Broken {
                url: url.clone(),
                why: "what came before does not fit".to_owned(),
            });
        }
        if open.status != StatusCode::OK && !resumed {
            return Err(self.refused(open).await);
        }
        let start = if resumed { part.bytes } else { 0 };
        if resumed && range_start(&open.headers) != Some(start) {
            let _ = std::fs::remove_file(&path);
            return Err(FetchError::Broken {
                url: url.clone(),
                why: "another range came than was asked for".to_owned(),
            });
        }
        self.check_length(want, &open, start)?;
        if !resumed {
            let of = want.of(validator(&open.headers));
            let of = serde_json::to_vec(&of).unwrap_or_default();
            let to = of_path(&path);
            on_disk(url, move || fact::write_lazily(&to, &of).map_err(std::io::Error::other)).await?;
        }
        let part = self.take(want, open, part, start).await?;
        let found = done(&part);
        self.judge(want, &found, resumed)
    }

    /// What the answer says of its length must be what is expected, and fit.
    fn check_length(&self, want: &Download, open: &Open, start: u64) -> Result<(), FetchError> {
        let url = want.request.url.clone();
        let Some(rest) = hyper::body::Body::size_hint(&open.body.incoming).exact() else {
            return Ok(());
        };
        let found = start.saturating_add(rest);
        match want.bytes {
            Some(expected) if expected != found => return Err(FetchError::Length { url, expected, found }),
            _ if found > want.bytes_max => return Err(FetchError::TooLong { url, max: want.bytes_max }),
            _ => {}
        }
        if rest > self.bytes_left.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(FetchError::Budget { url, max: self.bytes_max });
        }
        (self.admit)(rest).map_err(|error| FetchError::Disk { url, why: format!("{error:#}") })
    }

    /// Takes the body to the disk, on a thread of its own.
    async fn take(
        &self,
        want: &Download,
        open: Open,
        mut part: Part,
        start: u64,
    ) -> Result<Part, FetchError> {
        use std::sync::atomic::Ordering::Relaxed;
        let url = &want.request.url;
        let (chunks, mut receiver) = mpsc::channel::<bytes::Bytes>(CHUNKS_AHEAD);
        let writer = tokio::task::spawn_blocking(move || {
            if start == 0 {
                part.clear()?;
            }
            while let Some(chunk) = receiver.blocking_recv() {
                part.add(&chunk)?;
            }
            part.file.flush()?;
            std::io::Result::Ok(part)
        });
        let mut body = open.body;
        let mut pace = Pace::new(&self.patience);
        let mut total = start;
        let max = want.bytes.unwrap_or(want.bytes_max);
        let came = loop {
            let chunk = match body.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let bytes = chunk.len() as u64;
            total += bytes;
            if total > max {
                break Err(match want.bytes {
                    Some(expected) => FetchError::Length { url: url.clone(), expected, found: total },
                    None => FetchError::TooLong { url: url.clone(), max },
                });
            }
            let left = self.bytes_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
            if left.is_err() {
                break Err(FetchError::Budget { url: url.clone(), max: self.bytes_max });
            }
            self.done.fetch_add(bytes, Relaxed);
            if let Err(error) = pace.add(chunk.len(), url) {
                break Err(error);
            }
            if chunks.send(chunk).await.is_err() {
                // The disk failed; the writer says how.
                break Ok(());
            }
        };
        drop(chunks);
        let failed = |why: String| FetchError::Disk { url: url.clone(), why };
        let part = writer
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        match came {
            Ok(()) => Ok(part),
            Err(error) => {
                // What is wrong must not be gone on with.
                if error.is_refusal() {
                    let _ = std::fs::remove_file(want.path());
                }
                Err(error)
            }
        }
    }

    /// Whether it is what was wanted.
    fn judge(&self, want: &Download, found: &Downloaded, resumed: bool) -> Result<Downloaded, FetchError> {
        let url = want.request.url.clone();
        let expected = want.bytes.unwrap_or(found.bytes);
        let error = match want.sha256 {
            _ if found.bytes != expected => {
                FetchError::Length { url: url.clone(), expected, found: found.bytes }
            }
            Some(expected) if expected != found.sha256 => {
                FetchError::Digest { url: url.clone(), expected, found: found.sha256 }
            }
            _ => return Ok(found.clone()),
        };
        found.remove();
        // A part of something else may have been gone on with.
        if resumed {
            return Err(FetchError::Broken { url, why: "what was gone on with does not fit".to_owned() });
        }
        Err(error)
    }

    /// An answer that is not the file.
    async fn refused(&self, open: Open) -> FetchError {
        let Open { status, headers, url, mut body } = open;
        let beginning = body.next().await.ok().flatten().unwrap_or_default();
        FetchError::status(url, status, &headers, &beginning)
    }
}

async fn on_disk<T: Send + 'static>(
    url: &Url,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, FetchError> {
    let failed = |why: String| FetchError::Disk { url: url.clone(), why };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?;
    done.map_err(|error| failed(error.to_string()))
}

fn read_of(path: &Path) -> Option<Of> {
    serde_json::from_slice(&fact::read(&of_path(path)).ok()??).ok()
}

/// What `If-Range` may say: a strong entity tag, or the date of the last change where no range could go wrong.
fn validator(headers: &HeaderMap) -> Option<String> {
    let field = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if headers.get(ACCEPT_RANGES).is_some_and(|value| value == "none") {
        return None;
    }
    match field(ETAG) {
        Some(tag) if tag.starts_with('"') => Some(tag),
        Some(_) => None,
        None => field(LAST_MODIFIED),
    }
}

/// The first octet of `Content-Range: bytes FIRST-LAST/TOTAL`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (first, _) = text.strip_prefix("bytes ")?.split_once('-')?;
    first.trim().parse().ok()
}

/// A field's value out of what is known to be one.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
