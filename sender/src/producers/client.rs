//! The producer's end: `submit --to`.
//!
//! Files are hashed first, so that nothing is sent that the sender has. A connection that breaks is made anew, and each blob
//! goes on where it was; a command that was killed goes on, too, when it is given again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use diodesync::id::{Channel, Sha256};
use diodesync::pack::fact;
use diodesync::quantity::Bytes;
use diodesync_control::Progress;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, TransportErrorCode};
use serde_json::{Value, json};
use sha2::Digest;

use super::identity::{Identity, Pin, TALK};
use super::listen::Close;
use super::protocol::{self, Answer, Offer, OfferedFile, Wanted};
use super::session::read_message;
use crate::submit::{Item, What};

/// Time in which a sender that was reached must be reached again.
const RETRY_MAX: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
/// Time for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Octets that are read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// TLS's alert for who is not let in (RFC 8446 §6.2).
const ACCESS_DENIED: u8 = 49;

/// A sender elsewhere.
#[derive(Debug)]
pub struct Remote {
    to: String,
    identity: Identity,
    server: Pin,
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    /// The next one may not.
    Broken(anyhow::Error),
    /// It is for good.
    Final(anyhow::Error),
}

impl Failure {
    fn broken(error: impl Into<anyhow::Error>) -> Self {
        Self::Broken(error.into())
    }
}

/// How far a submission is, over all connections.
#[derive(Debug)]
struct State {
    offer: Vec<u8>,
    /// Where each blob is, and its octets.
    files: BTreeMap<Sha256, (PathBuf, u64)>,
    /// Octets of all of it.
    total: u64,
    /// Octets of content that were sent.
    sent: Mutex<u64>,
    progress: Progress,
}

impl Remote {
    /// `HOST:PORT`, the key of this host, and that of the sender.
    pub fn new(to: String, identity: Identity, server: Pin) -> anyhow::Result<Self> {
        let has_port = to.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !has_port {
            bail!("--to {to}: expected HOST:PORT, like sender.site.example:7443");
        }
        Ok(Self { to, identity, server })
    }

    /// Submits files; what was answered.
    pub async fn submit(&self, channel: Channel, what: What, items: Vec<Item>) -> anyhow::Result<Value> {
        let total = items.iter().map(|item| item.bytes).sum();
        let hash = move || {
            let progress = Progress::new(total);
            let hashed = hash_all(channel, what, items, &progress);
            progress.finish();
            hashed
        };
        let (offer, files) = tokio::task::spawn_blocking(hash).await??;
        let (offer, progress) = (protocol::encode(&offer)?, Progress::new(total));
        let state = State { offer, files, total, sent: Mutex::new(0), progress };
        let answer = self.attempts(&state).await;
        state.progress.finish();
        let mut answer = answer?;
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("sent_bytes".to_owned(), state.sent().into());
        }
        Ok(answer)
    }

    async fn attempts(&self, state: &State) -> anyhow::Result<Value> {
        // When it got on last; none as long as nobody has answered.
        let mut alive: Option<Instant> = None;
        loop {
            let sent = state.sent();
            let error = match self.attempt(state, &mut alive).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(error)) => error,
            };
            if state.sent() > sent {
                alive = Some(Instant::now());
            }
            match alive {
                None => return Err(error),
                Some(alive) if alive.elapsed() > RETRY_MAX => {
                    return Err(error.context(format!(
                        "the submission to {} broke off; what came there is kept for a while, and the same command goes on \
                         with it",
                        self.to
                    )));
                }
                Some(_) => {}
            }
            state.progress.message(format!("{error:#}; trying again"));
            tracing::debug!(error = format!("{error:#}"), "trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One connection.
    async fn attempt(&self, state: &State, alive: &mut Option<Instant>) -> Result<Value, Failure> {
        let (endpoint, connection) = self.connect().await?;
        let asked = self.ask(&connection, state, alive).await;
        let closed = connection.close_reason();
        if matches!(&closed, Some(ConnectionError::ApplicationClosed(why)) if why.error_code == Close::Busy.code())
        {
            // There is a sender, and it has time for this one later.
            alive.get_or_insert_with(Instant::now);
        }
        connection.close(0_u32.into(), b"");
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        // Who is not let in hears so after it has begun to speak.
        asked.map_err(|failure| closed.and_then(|why| self.not_let_in(&why)).unwrap_or(failure))
    }

    /// That the sender does not know this host's key, if that is why.
    fn not_let_in(&self, why: &ConnectionError) -> Option<Failure> {
        let denied = TransportErrorCode::crypto(ACCESS_DENIED);
        matches!(why, ConnectionError::ConnectionClosed(close) if close.error_code == denied).then(|| {
            Failure::Final(anyhow!(
                "the sender at {} takes nothing from this host: its key is in no [[producer]] of its sender.toml; have key = \
                 \"{}\" written there, and the sender started anew",
                self.to,
                self.identity.pin()
            ))
        })
    }

    async fn connect(&self) -> Result<(Endpoint, Connection), Failure> {
        let to = &self.to;
        let addresses = tokio::net::lookup_host(to).await;
        let addresses = addresses.with_context(|| format!("cannot find {to}")).map_err(Failure::Broken)?;
        let mut last = anyhow!("{to} has no address");
        for address in addresses {
            match self.connect_to(address).await {
                Err(Failure::Broken(error)) => last = error,
                other => return other,
            }
        }
        Err(Failure::Broken(last))
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<(Endpoint, Connection), Failure> {
        let (config, stranger) = self.identity.client(self.server, &TALK).map_err(Failure::Final)?;
        let own = if address.is_ipv4() {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        };
        let endpoint = Endpoint::client(own).context("cannot open a UDP socket").map_err(Failure::Final)?;
        // The name is for TLS's sake: who is meant says the pin.
        let connecting = endpoint.connect_with(config, address, "sender").map_err(Failure::broken)?;
        let connected = tokio::time::timeout(CONNECT_MAX, connecting).await;
        if let Some(found) = *stranger.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Failure::Final(anyhow!(
                "{} has another key: expected {}, as --server-pin says, and found {found}. If the sender's key was changed, its \
                 operator sees the new pin with: diode-sender producers. If not, it is someone else",
                self.to,
                self.server
            )));
        }
        match connected {
            Ok(Ok(connection)) => Ok((endpoint, connection)),
            Ok(Err(error)) => {
                Err(self.not_let_in(&error).unwrap_or_else(|| Failure::Broken(self.why(&error))))
            }
            Err(_) => Err(Failure::Broken(self.silent())),
        }
    }

    fn silent(&self) -> anyhow::Error {
        anyhow!(
            "no sender answers at {}; does it run there with [producers] listen, and do UDP packets get there?",
            self.to
        )
    }

    fn why(&self, error: &ConnectionError) -> anyhow::Error {
        match error {
            ConnectionError::TimedOut => self.silent(),
            ConnectionError::ApplicationClosed(close) => {
                anyhow!(
                    "the sender at {} closed the connection: {}",
                    self.to,
                    String::from_utf8_lossy(&close.reason)
                )
            }
            error => anyhow!("no connection to the sender at {}: {error}", self.to),
        }
    }

    /// Offers, sends what is wanted, and waits for the end.
    async fn ask(
        &self,
        connection: &Connection,
        state: &State,
        alive: &mut Option<Instant>,
    ) -> Result<Value, Failure> {
        let broken = |error: anyhow::Error| match connection.close_reason() {
            Some(reason) => Failure::Broken(self.why(&reason)),
            None => Failure::Broken(error),
        };
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|error| Failure::Broken(self.why(&error)))?;
        send.write_all(&state.offer).await.map_err(|error| broken(error.into()))?;
        // One submission for one connection.
        send.finish().map_err(|error| broken(error.into()))?;
        let mut next = answer(&mut receive).await.map_err(broken)?;
        loop {
            let wanted = match next {
                Answer::Done { artifacts, bytes, new_bytes } => {
                    return Ok(json!({ "artifacts": artifacts, "bytes": bytes, "new_bytes": new_bytes }));
                }
                Answer::Refused { why } => return Err(Failure::Final(anyhow!("{why}"))),
                Answer::Want { blobs } => blobs,
            };
            *alive = Some(Instant::now());
            state.begin(&wanted);
            // It may be refused before all is sent, and then nobody takes the rest.
            let mut coming = pin!(answer(&mut receive));
            let early = tokio::select! {
                biased;
                early = &mut coming => Some(early),
                sent = send_all(connection, state, &wanted) => match sent {
                    Ok(()) => None,
                    Err(Failure::Broken(error)) => return Err(broken(error)),
                    Err(failure) => return Err(failure),
                },
            };
            next = match early {
                Some(early) => early,
                None => coming.await,
            }
            .map_err(broken)?;
        }
    }
}

impl State {
    fn sent(&self) -> u64 {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the bar begin where the sender is already.
    fn begin(&self, wanted: &[Wanted]) {
        let of =
            |it: &Wanted| self.files.get(&it.sha256).map_or(0, |(_, bytes)| bytes.saturating_sub(it.from));
        let (total, left) = (self.total, wanted.iter().map(of).sum::<u64>());
        self.progress.set(total.saturating_sub(left), total);
        self.progress.message(format!("{} to send", Bytes(left)));
    }

    fn add(&self, bytes: u64) {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.progress.add(bytes);
    }
}

async fn answer(receive: &mut RecvStream) -> anyhow::Result<Answer> {
    Ok(protocol::parse(&read_message(receive).await?)?)
}

/// Sends what is wanted, one blob after the other.
async fn send_all(connection: &Connection, state: &State, wanted: &[Wanted]) -> Result<(), Failure> {
    for it in wanted {
        let Some((path, bytes)) = state.files.get(&it.sha256).filter(|(_, bytes)| it.from <= *bytes) else {
            return Err(Failure::Final(anyhow!("the sender wants {}, which was not offered", it.sha256)));
        };
        let mut stream = connection.open_uni().await.map_err(Failure::broken)?;
        stream.write_all(&it.head()).await.map_err(Failure::broken)?;
        let (path, bytes, from) = (path.clone(), *bytes, it.from);
        let (chunks, mut receiver) = tokio::sync::mpsc::channel(4);
        let reader = tokio::task::spawn_blocking(move || read(&path, from, bytes, &chunks));
        while let Some(chunk) = receiver.recv().await {
            let length = chunk.len() as u64;
            stream.write_chunk(chunk).await.map_err(Failure::broken)?;
            state.add(length);
        }
        reader.await.map_err(Failure::broken)?.map_err(Failure::Final)?;
        stream.finish().map_err(Failure::broken)?;
    }
    Ok(())
}

/// Reads a file from an octet on, to where it ended when it was offered. What has changed since, the sender finds by its
/// digest.
fn read(
    path: &Path,
    from: u64,
    bytes: u64,
    chunks: &tokio::sync::mpsc::Sender<bytes::Bytes>,
) -> anyhow::Result<()> {
    let why = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(why)?;
    file.seek(SeekFrom::Start(from)).with_context(why)?;
    let mut left = bytes - from;
    while left > 0 {
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = file.read(&mut chunk).with_context(why)?;
        if read == 0 {
            bail!(
                "{} was made shorter while it was submitted; submit it again when it has settled",
                path.display()
            );
        }
        chunk.truncate(read);
        left -= read as u64;
        if chunks.blocking_send(chunk.into()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// An offer, and where each of its blobs is.
type Offered = (Offer, BTreeMap<Sha256, (PathBuf, u64)>);

/// Hashes everything.
fn hash_all(channel: Channel, what: What, items: Vec<Item>, progress: &Progress) -> anyhow::Result<Offered> {
    let mut files = BTreeMap::new();
    let mut offered = Vec::new();
    for Item { source, path, role, bytes } in items {
        progress.message(format!("hashing {path}"));
        let sha256 = hash(&source, bytes, progress)?;
        files.insert(sha256, (source, bytes));
        offered.push(OfferedFile { path, role, bytes, sha256 });
    }
    let offer = Offer { channel, what, files: offered };
    offer.blobs()?;
    Ok((offer, files))
}

fn hash(path: &Path, bytes: u64, progress: &Progress) -> anyhow::Result<Sha256> {
    let why = || format!("cannot read {}", path.display());
    let mut file = fact::open_regular(path, File::options().read(true)).with_context(why)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut read_bytes = 0;
    loop {
        let read = file.read(&mut buffer).with_context(why)?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        read_bytes += read as u64;
        progress.add(read as u64);
    }
    if read_bytes != bytes {
        bail!("{} changed while it was read; submit it again when it has settled", path.display());
    }
    Ok(Sha256(hasher.finalize().into()))
}
