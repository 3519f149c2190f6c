//! One connection of a producer: its submissions, one after the other.
//!
//! Rights are judged before anything is wanted; content goes to the producer's folder until its digest is proven; and what is
//! whole goes through the very same checks as what a command of this host submits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use diodesync::audit::{Actor, Event};
use diodesync::id::Sha256;
use diodesync::pack::PackError;
use diodesync::release::name::ArtifactName;
use diodesync_control::quic::frame;
use quinn::{Connection, ReadExactError, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::desk::Desk;
use super::folder::Came;
use super::identity::{Pin, STREAMS_MAX};
use super::listen::Close;
use super::plan::{Plan, give, plan};
use super::protocol::{self, Answer, BLOB_HEAD_BYTES, Offer, Wanted};
use super::rights::Producer;
use crate::api::Daemon;
use crate::ingest::Totals;
use crate::submit::{Frames, Garbled, Submitter, take_from};

/// Octets that are taken from a stream at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How often content is asked for: once more than needed if nothing was garbled.
const ROUNDS_MAX: usize = 3;
/// Time that a refusal takes, so that nobody fills the audit log.
const REFUSAL_TIME: std::time::Duration = std::time::Duration::from_millis(500);

/// A submission has ended without being staged.
#[derive(Debug)]
enum Ended {
    /// It is not taken, and the producer is told why.
    Refused(anyhow::Error),
    /// The connection is of no more use.
    Gone(String),
}

impl<E: Into<anyhow::Error>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    daemon: Arc<Daemon>,
    desk: Arc<Desk>,
    /// The key that it has proved.
    key: Pin,
    connection: Connection,
    /// From where it comes.
    from: String,
}

impl Session {
    /// Of a producer who has proved its key.
    pub fn new(daemon: Arc<Daemon>, desk: Arc<Desk>, key: Pin, connection: Connection) -> Self {
        let from = connection.remote_address().to_string();
        Self { daemon, desk, key, connection, from }
    }

    /// What the producer may by now.
    fn rights(&self) -> anyhow::Result<Arc<Producer>> {
        let rights = self.desk.rights(&self.key);
        rights.with_context(|| {
            format!("this key of producer {} is in no [[producer]] any more", self.desk.name)
        })
    }

    fn actor(&self) -> Actor {
        Actor::Producer(format!("{}@{}", self.desk.name, self.from))
    }

    /// Serves it to its end.
    pub async fn serve(self) {
        let session = Arc::new(self);
        let name = &session.desk.name;
        let (stall_max, accept) = (session.stall_max(), || session.connection.accept_bi());
        loop {
            let (mut send, mut receive) = match tokio::time::timeout(stall_max, accept()).await {
                Ok(Ok(streams)) => streams,
                Ok(Err(_)) => return,
                Err(_) => return session.connection.close(Close::Dropped.code(), b"nothing was offered"),
            };
            let answer = match session.clone().submission(&mut send, &mut receive).await {
                Ok(totals) => {
                    session.desk.heard(&session.from, true);
                    let Totals { artifacts, bytes, new_bytes } = totals;
                    tracing::info!(
                        producer = name,
                        from = session.from,
                        artifacts,
                        bytes,
                        new_bytes,
                        "submitted"
                    );
                    Answer::Done { artifacts, bytes, new_bytes }
                }
                Err(Ended::Refused(error)) => session.refuse(&error).await,
                Err(Ended::Gone(why)) => {
                    tracing::info!(
                        producer = name,
                        from = session.from,
                        why,
                        "a submission broke off; what came is kept"
                    );
                    session.connection.close(Close::Dropped.code(), why.as_bytes());
                    return;
                }
            };
            if session.say(&mut send, &answer).await.is_err() || send.finish().is_err() {
                return;
            }
        }
    }

    async fn refuse(&self, error: &anyhow::Error) -> Answer {
        let (why, name) = (told(error), &self.desk.name);
        self.desk.heard(&self.from, false);
        tracing::warn!(producer = name, from = self.from, why, "a submission is refused");
        let (audit, by) = (self.daemon.audit.clone(), self.actor());
        let event = Event::Refused { what: format!("a submission of producer {name}"), why: why.clone() };
        let _ = tokio::task::spawn_blocking(move || audit.note(&by, event)).await;
        tokio::time::sleep(REFUSAL_TIME).await;
        Answer::Refused { why }
    }

    /// Takes one submission.
    async fn submission(
        self: Arc<Self>,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> Result<Totals, Ended> {
        let stall_max = self.stall_max();
        let body = tokio::time::timeout(stall_max, read_message(receive)).await;
        let body = body.map_err(|_| self.stalled("an offer"))?.map_err(|error| {
            // What is too long is refused, what broke off is gone.
            match self.connection.close_reason() {
                Some(reason) => Ended::Gone(reason.to_string()),
                None => Ended::Refused(error),
            }
        })?;
        let _turn = tokio::select! {
            turn = self.desk.turn.lock() => turn,
            error = self.connection.closed() => return Err(Ended::Gone(error.to_string())),
        };
        // An offer takes several times its octets once it is read: one of each producer at a time.
        let offer = Arc::new(Offer::parse(&body)?);
        drop(body);
        for _ in 0..ROUNDS_MAX {
            let plan = self.clone().plan(offer.clone()).await?;
            if plan.wanted.is_empty() {
                return self.clone().stage(offer.clone(), plan).await;
            }
            let _promise = self.daemon.producers.promise(plan.wanted_bytes);
            self.say(send, &Answer::Want { blobs: plan.wanted.clone() }).await?;
            self.clone().content(&offer, plan.wanted).await?;
        }
        Err(Ended::Refused(anyhow!(
            "what comes is again and again not what was announced; look at the way to here"
        )))
    }

    fn stall_max(&self) -> std::time::Duration {
        let open = self.daemon.producers.open.as_ref();
        open.map_or(std::time::Duration::from_secs(60), |open| open.config().stall_max)
    }

    fn stalled(&self, what: &str) -> Ended {
        Ended::Gone(format!("nothing has come of {what} for {} s", self.stall_max().as_secs()))
    }

    /// Sends a message. Who does not take it is as good as gone.
    async fn say(&self, send: &mut SendStream, answer: &Answer) -> Result<(), Ended> {
        let octets = protocol::encode(answer)?;
        match tokio::time::timeout(self.stall_max(), send.write_all(&octets)).await {
            Ok(sent) => sent.map_err(|error| Ended::Gone(error.to_string())),
            Err(_) => Err(self.stalled("taking an answer")),
        }
    }

    /// Whether it may, and what is lacking.
    async fn plan(self: Arc<Self>, offer: Arc<Offer>) -> anyhow::Result<Plan> {
        let work = move || {
            let Self { daemon, desk, .. } = &*self;
            let rights = self.rights()?;
            rights.judge_offer(&offer)?;
            let plan = plan(daemon, desk, &rights, &offer)?;
            let new_bytes = offer.bytes() - plan.held.values().sum::<u64>().min(offer.bytes());
            rights.judge_day(desk.today_bytes(), plan.wanted_bytes)?;
            // It is there twice until it is staged: in the folder, and in a pack.
            let needed = plan.wanted_bytes.saturating_add(new_bytes);
            let needed = needed.saturating_add(daemon.producers.promised());
            let what = format!("the submission of producer {}", desk.name);
            daemon.packs.admit(what, needed)?;
            Ok(plan)
        };
        tokio::task::spawn_blocking(work).await.context("looking at an offer crashed")?
    }

    /// Takes what was wanted, all of it.
    async fn content(self: Arc<Self>, offer: &Offer, wanted: Vec<Wanted>) -> Result<(), Ended> {
        let lengths = offer.blobs()?;
        let mut left = wanted.len();
        let (stop, stopped) = watch::channel(());
        let intake = Arc::new(Intake {
            session: self.clone(),
            wanted: Mutex::new(wanted.into_iter().map(|it| (it.sha256, it.from)).collect()),
            lengths,
            alive: AtomicU64::new(0),
            stopped,
        });
        let mut streams = JoinSet::new();
        let mut ended = Ok(());
        let (mut stall, mut before) = (tokio::time::interval(self.stall_max()), None);
        while left > 0 && ended.is_ok() {
            tokio::select! {
                stream = self.connection.accept_uni(), if streams.len() < STREAMS_MAX.min(left) => match stream {
                    Ok(stream) => drop(streams.spawn(intake.clone().take(stream))),
                    Err(error) => ended = Err(Ended::Gone(error.to_string())),
                },
                Some(done) = streams.join_next() => match done {
                    Ok(Ok(())) => left -= 1,
                    Ok(Err(why)) => ended = Err(why),
                    Err(error) => ended = Err(Ended::Refused(error.into())),
                },
                _ = stall.tick() => {
                    let now = Some((intake.alive.load(Ordering::Relaxed), left));
                    if before == now {
                        ended = Err(self.stalled("what was announced"));
                    }
                    before = now;
                }
            }
        }
        // The next submission of this producer may want the same blobs: nobody writes to them by then.
        drop(stop);
        while streams.join_next().await.is_some() {}
        let desk = self.desk.clone();
        let kept = tokio::task::spawn_blocking(move || desk.keep_day()).await.context("a crash")?;
        ended.and_then(|()| Ok(kept?))
    }

    /// Hands what is whole to the ingest.
    async fn stage(self: Arc<Self>, offer: Arc<Offer>, plan: Plan) -> Result<Totals, Ended> {
        let work = move || -> anyhow::Result<Totals> {
            let Self { daemon, desk, .. } = &*self;
            let by = self.actor();
            let tell = |event| daemon.audit.tell(&by, event);
            let judge = |name: &ArtifactName| Ok(self.rights()?.judge(name)?);
            let submitter = Submitter { tell: &tell, judge: &judge, only_given: true };
            let give = |frames: &Frames| give(&offer, &plan, &desk.folder, frames);
            let taken = take_from(&daemon.packs, &daemon.store, &daemon.writer, &submitter, give);
            let why = taken.as_ref().err();
            if let Some(Garbled { expected, .. }) = why.and_then(|error| error.downcast_ref()) {
                // It comes again.
                desk.folder.remove(expected);
            } else if !why.is_some_and(|error| error.chain().any(|cause| cause.is::<PackError>())) {
                // What is refused is not kept: to offer it again costs the producer as much. What this side has no room
                // for is.
                offer.files.iter().for_each(|file| desk.folder.remove(&file.sha256));
            }
            let mut totals = taken?;
            // What others have submitted is no business of this producer's.
            let blobs = offer.blobs()?;
            totals.new_bytes = blobs
                .iter()
                .filter(|(sha256, _)| !plan.held.contains_key(sha256))
                .map(|(_, bytes)| bytes)
                .sum();
            Ok(totals)
        };
        Ok(tokio::task::spawn_blocking(work).await.context("the submission crashed")??)
    }
}

/// Characters of a refusal: what is refused may be quoted in it.
const WHY_CHARS_MAX: usize = 1000;

/// Why something is refused, for logs and for who sent it.
fn told(error: &anyhow::Error) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    format!("{error:#}").chars().take(WHY_CHARS_MAX).map(plain).collect()
}

/// What takes content streams.
#[derive(Debug)]
struct Intake {
    session: Arc<Session>,
    /// What no stream has brought yet, and from where.
    wanted: Mutex<BTreeMap<Sha256, u64>>,
    lengths: BTreeMap<Sha256, u64>,
    /// Counts what gets on, over all streams: what is read of what was here, and what is written.
    alive: AtomicU64,
    /// Closed when no more is taken.
    stopped: watch::Receiver<()>,
}

impl Intake {
    /// Takes one blob. What broke off is kept.
    async fn take(self: Arc<Self>, mut stream: RecvStream) -> Result<(), Ended> {
        let mut stopped = self.stopped.clone();
        let mut head = [0; BLOB_HEAD_BYTES];
        tokio::select! {
            read = stream.read_exact(&mut head) => read.map_err(|error| gone(&error))?,
            _ = stopped.changed() => return Err(Ended::Gone("it was stopped".to_owned())),
        }
        let Wanted { sha256, from } = Wanted::of_head(&head);
        let expected = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&sha256);
        let bytes = self.lengths.get(&sha256).copied().unwrap_or_default();
        if expected != Some(from) {
            return Err(
                anyhow!("blob {sha256} comes from octet {from} on, and that was not asked for").into()
            );
        }
        // The blob's thread stands still when it does not get on, and so does the stream.
        let (chunks, receiver) = mpsc::channel(8);
        let desk = self.session.desk.clone();
        let intake = self.clone();
        let alive = move || _ = intake.alive.fetch_add(1, Ordering::Relaxed);
        let writer = tokio::task::spawn_blocking(move || write(&desk, sha256, bytes, from, receiver, &alive));
        let mut left = bytes - from;
        let read = loop {
            let chunk = tokio::select! {
                chunk = stream.read_chunk(CHUNK_BYTES, true) => chunk,
                _ = stopped.changed() => break Err(Ended::Gone("it was stopped".to_owned())),
            };
            match chunk {
                Ok(Some(chunk)) if chunk.bytes.len() as u64 <= left => {
                    left -= chunk.bytes.len() as u64;
                    if chunks.send(chunk.bytes).await.is_err() {
                        // The writer says why.
                        break Ok(());
                    }
                }
                Ok(Some(_)) => break Err(anyhow!("blob {sha256} has more octets than was announced").into()),
                Ok(None) => break Ok(()),
                Err(error) => break Err(Ended::Gone(error.to_string())),
            }
        };
        drop(chunks);
        let came = writer.await.context("writing a blob crashed")?;
        read?;
        match came? {
            Came::Whole | Came::Again => Ok(()),
            Came::Part => Err(anyhow!("blob {sha256} has fewer octets than was announced").into()),
            Came::Wrong(found) => {
                let why = "the file has changed while it was submitted; submit it again when it has settled";
                Err(anyhow!("blob {sha256} was announced and {found} came: {why}").into())
            }
        }
    }
}

/// Writes a blob to its end, or as far as it comes.
fn write(
    desk: &Desk,
    sha256: Sha256,
    bytes: u64,
    from: u64,
    mut chunks: mpsc::Receiver<Bytes>,
    alive: &dyn Fn(),
) -> anyhow::Result<Came> {
    let mut part = desk.folder.resume(sha256, bytes, from, alive)?;
    while let Some(chunk) = chunks.blocking_recv() {
        part.write(&chunk)?;
        desk.took(chunk.len() as u64)?;
        alive();
    }
    part.end()
}

/// How the other end has left.
fn gone(error: &ReadExactError) -> Ended {
    Ended::Gone(error.to_string())
}

/// The next message, without its length.
pub(super) async fn read_message(receive: &mut RecvStream) -> anyhow::Result<Vec<u8>> {
    frame::read(receive, |length| Ok(protocol::message_bytes(length)?)).await
}
