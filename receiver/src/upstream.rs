//! The **upstream** role of a mirror host, where another receiver has lanes: it follows the receiver at the diode over QUIC
//! ([`crate::feed`]), tells what it has, and fetches the blocks that the ledger lacks.
//!
//! Nothing of what comes is believed. Metadata and indexes go to the inbox and are judged by the publisher; a block is
//! compared with the signed index before it is written. But for expiry, which was judged on arrival, at the diode.

mod connect;
mod keep;
mod view;
mod wants;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diodesync::id::BlockId;
use diodesync::pack::PackStore;
use diodesync_control::clock_ms;
use diodesync_control::quic::{Identity, frame};
use diodesync_control::service::{Pulse, yield_to_others};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::feed::Upstream;
use crate::feed::protocol::{self, BATCH_MAX, BLOCK_STREAMS_MAX, Have, Told};
use crate::handover::{Inbox, Judge, Notice, Order};
use crate::init;
use crate::lane::LanesShared;
use connect::{connect, why};
use keep::{Fate, Having, Keeper};
pub use view::UpstreamView;
use wants::Wants;

/// How often orders are looked at, and what is lacking is asked for.
const TICK: Duration = Duration::from_millis(50);
/// How often it is looked what this host has.
const HAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The wait before the next attempt to connect, at first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time in which something must come of a batch.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Time for the other end to hear of the end.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// Blocks of which it is not noted yet what became of them.
const FATES_MAX: usize = 64;
/// How much it stands behind who serves.
const NICE: i32 = 5;

/// What it needs.
#[derive(Debug)]
pub struct UpstreamInput {
    /// Whom it follows.
    pub upstream: Upstream,
    /// The receiver's folder.
    pub dir: PathBuf,
    /// Bulk data.
    pub packs: Arc<PackStore>,
    /// Judges blocks.
    pub judge: Arc<dyn Judge>,
    /// Objects for the publisher.
    pub inbox: Inbox,
    /// Notices for the publisher.
    pub notices: Sender<Notice>,
    /// Orders of the publisher.
    pub orders: Receiver<Order>,
}

/// The thread; it ends when it is told to.
#[derive(Debug)]
pub struct Following {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    pulse: Pulse,
}

/// Starts it.
pub fn start(shared: Arc<LanesShared>, input: UpstreamInput) -> anyhow::Result<Following> {
    let identity = Identity::of_seed(&init::read_key(&init::host_key_path(&input.dir))?)?;
    let (stop, stopped) = watch::channel(false);
    let runtime =
        tokio::runtime::Builder::new_current_thread().thread_name("upstream work").enable_all().build()?;
    let UpstreamInput { upstream, dir, packs, judge, inbox, notices, orders } = input;
    let view = UpstreamView {
        from: upstream.from.clone(),
        key: identity.pin().to_string(),
        since_ms: clock_ms(),
        ..UpstreamView::default()
    };
    let pulse = Pulse::default();
    let mut follower = Follower {
        keeper: Arc::new(Keeper { packs, judge, inbox, notices, came: Default::default() }),
        having: Having::new(&dir),
        wants: Wants::default(),
        pulse: pulse.clone(),
        shared,
        upstream,
        identity,
        orders,
        view,
    };
    follower.show();
    let thread = std::thread::Builder::new().name("upstream".to_owned()).spawn(move || {
        yield_to_others(NICE);
        runtime.block_on(follower.run(stopped));
        runtime.shutdown_background();
    });
    Ok(Following { stop, thread: thread.context("cannot start the thread that follows upstream")?, pulse })
}

impl Following {
    /// What beats as long as it gets on.
    pub fn pulses(&self) -> Vec<Pulse> {
        vec![self.pulse.clone()]
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

/// What was told of a release.
struct News {
    told: Told,
    bundle: Vec<u8>,
    index: Option<Vec<u8>>,
}

/// Where it is told what became of each block.
type Fates = mpsc::Sender<(BlockId, Fate)>;

struct Follower {
    shared: Arc<LanesShared>,
    upstream: Upstream,
    identity: Identity,
    keeper: Arc<Keeper>,
    having: Having,
    orders: Receiver<Order>,
    wants: Wants,
    pulse: Pulse,
    view: UpstreamView,
}

impl Follower {
    async fn run(&mut self, mut stopped: watch::Receiver<bool>) {
        let mut wait = RETRY_MIN;
        loop {
            let ended = tokio::select! {
                ended = self.follow() => ended,
                _ = stopped.changed() => return,
            };
            if self.view.connected {
                wait = RETRY_MIN;
                self.view.since_ms = clock_ms();
            }
            let error = ended.err().map_or_else(|| "it ended".to_owned(), |error| format!("{error:#}"));
            if self.view.connected || self.view.why.as_ref() != Some(&error) {
                tracing::warn!(
                    from = self.upstream.from,
                    why = error,
                    "no connection upstream; it is tried again"
                );
            }
            self.view.connected = false;
            self.view.why = Some(error);
            self.wants.broke_off();
            let due = Instant::now() + wait;
            wait = (wait * 2).min(RETRY_MAX);
            while Instant::now() < due {
                self.turn();
                tokio::select! {
                    () = tokio::time::sleep(TICK) => {}
                    _ = stopped.changed() => return,
                }
            }
        }
    }

    /// Orders are taken, and it is shown how it stands.
    fn turn(&mut self) {
        self.pulse.beat();
        while let Ok(order) = self.orders.try_recv() {
            self.wants.order(order);
        }
        self.show();
    }

    fn show(&mut self) {
        let (bytes, blocks) = &self.keeper.came;
        self.view.received_bytes = bytes.load(Ordering::Relaxed);
        self.view.blocks = blocks.load(Ordering::Relaxed);
        self.view.lacking = self.wants.lacking();
        self.view.absent = self.wants.absent();
        self.view.wrong = self.wants.wrong().map(|(count, first)| match count {
            1 => first,
            count => format!("{first}; and {} more", count - 1),
        });
        self.shared.set_upstream(self.view.clone());
    }

    /// One connection.
    async fn follow(&mut self) -> anyhow::Result<()> {
        self.turn();
        let (endpoint, connection) = connect(&self.upstream, &self.identity).await?;
        let ended = self.talk(&connection).await;
        let closed = connection.close_reason().map(|reason| why(&reason, &self.identity));
        connection.close(0_u32.into(), b"");
        let _ = tokio::time::timeout(GOODBYE_MAX, endpoint.wait_idle()).await;
        // Who is not let in hears so after it has begun to speak.
        ended.map_err(|error| closed.map_or(error, anyhow::Error::msg))
    }

    async fn talk(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let (mut send, receive) = connection.open_bi().await?;
        let mut said = self.having.look(self.wants.lacking())?;
        say(&mut send, &said).await?;
        let (to_us, mut news) = mpsc::channel(1);
        let mut hearing = JoinSet::new();
        hearing.spawn(hear(receive, to_us));
        let (to_us_of_blocks, mut fates) = mpsc::channel(FATES_MAX);
        let mut fetching: JoinSet<Vec<BlockId>> = JoinSet::new();
        let (mut tick, mut have_due) = (tokio::time::interval(TICK), Instant::now() + HAVE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => self.take(heard).await,
                    // The reader says why.
                    None => match hearing.join_next().await {
                        Some(Ok(Err(error))) => return Err(error),
                        _ => bail!("it says no more"),
                    },
                },
                Some(done) = fetching.join_next() => {
                    let batch = done.context("fetching blocks crashed")?;
                    while let Ok((id, fate)) = fates.try_recv() {
                        self.fetched(id, fate);
                    }
                    self.wants.end(&batch);
                }
                Some((id, fate)) = fates.recv() => {
                    self.fetched(id, fate);
                    continue;
                }
                _ = tick.tick() => {}
            }
            self.turn();
            while fetching.len() < BLOCK_STREAMS_MAX {
                let batch = self.wants.next(Instant::now(), BATCH_MAX);
                if batch.is_empty() {
                    break;
                }
                fetching.spawn(fetch(
                    connection.clone(),
                    batch,
                    self.keeper.clone(),
                    to_us_of_blocks.clone(),
                ));
            }
            if let Some(reason) = connection.close_reason() {
                return Err(reason.into());
            }
            if Instant::now() >= have_due {
                have_due = Instant::now() + HAVE_INTERVAL;
                // That it was let in shows only by what it may do.
                let has = self.having.look(self.wants.lacking())?;
                if has != said {
                    say(&mut send, &has).await?;
                    said = has;
                }
                self.connected();
            }
        }
    }

    fn connected(&mut self) {
        if !self.view.connected {
            tracing::info!(from = self.upstream.from, "following upstream");
            self.view.connected = true;
            self.view.since_ms = clock_ms();
            self.view.why = None;
        }
    }

    async fn take(&mut self, news: News) {
        self.connected();
        let (channel, number) = (news.told.channel.clone(), news.told.number);
        let with = if news.index.is_some() { "metadata and index" } else { "metadata" };
        let keeper = self.keeper.clone();
        let work = move || keeper.told(news.told.judged_s, &news.bundle, news.index.as_deref());
        match tokio::task::spawn_blocking(work).await.map_err(anyhow::Error::from).flatten() {
            Ok(()) => {
                tracing::info!(%channel, release = number.0, with, "told from upstream");
                self.view.told_ms = Some(clock_ms());
                self.view.told = Some(format!("{channel} {number}"));
                self.wants.ask_again();
            }
            Err(error) => {
                tracing::warn!(%channel, release = number.0, error = format!("{error:#}"), "what upstream tells is not taken");
            }
        }
    }

    fn fetched(&mut self, id: BlockId, fate: Fate) {
        if let Some(why) = self.wants.came(Instant::now(), id, fate) {
            tracing::error!(from = self.upstream.from, "refused: {why}");
        }
    }
}

async fn say(send: &mut SendStream, have: &Have) -> anyhow::Result<()> {
    Ok(send.write_all(&protocol::encode(have)?).await?)
}

/// Hears what is told, until nothing more is.
async fn hear(mut receive: RecvStream, news: mpsc::Sender<News>) -> anyhow::Result<()> {
    loop {
        let head = frame::read(&mut receive, |length| Ok(protocol::message_bytes(length)?)).await?;
        let told = Told::parse(&head)?;
        let bundle = frame::read_rest(&mut receive, usize::try_from(told.bundle_bytes)?).await?;
        let index = match told.index_bytes {
            Some(bytes) => Some(frame::read_rest(&mut receive, usize::try_from(bytes)?).await?),
            None => None,
        };
        if news.send(News { told, bundle, index }).await.is_err() {
            return Ok(());
        }
    }
}

/// Asks for a batch, and keeps what comes of it.
async fn fetch(
    connection: Connection,
    batch: Vec<BlockId>,
    keeper: Arc<Keeper>,
    fates: Fates,
) -> Vec<BlockId> {
    if let Err(error) = fetch_all(&connection, &batch, &keeper, &fates).await {
        tracing::debug!(error = format!("{error:#}"), "a batch of blocks broke off");
        if connection.close_reason().is_none() {
            connection.close(0_u32.into(), b"what comes is not understood");
        }
    }
    batch
}

async fn fetch_all(
    connection: &Connection,
    batch: &[BlockId],
    keeper: &Arc<Keeper>,
    fates: &Fates,
) -> anyhow::Result<()> {
    let (asked, before) = (batch.to_vec(), keeper.clone());
    let look = move || -> Vec<_> { asked.into_iter().map(|id| (id, before.before(id))).collect() };
    let mut asked = Vec::new();
    for (id, fate) in tokio::task::spawn_blocking(look).await? {
        match fate {
            Some(fate) => fates.send((id, fate)).await?,
            None => asked.push(id),
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&protocol::encode_batch(&asked)).await?;
    send.finish()?;
    for id in asked {
        let block = frame::read(&mut receive, |length| Ok(protocol::block_bytes(length)?));
        let octets =
            tokio::time::timeout(STALL_MAX, block).await.context("nothing comes of what was asked for")??;
        let keeper = keeper.clone();
        let fate = match octets.is_empty() {
            true => Fate::Absent,
            false => tokio::task::spawn_blocking(move || keeper.block(id, &octets)).await?,
        };
        fates.send((id, fate)).await?;
    }
    Ok(())
}
