//! The lane's end.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diodesync::id::{Blake3, BlockId};
use diodesync::limits::{BLOCK_BYTES, UNCLAIMED_BYTES_MAX};
use diodesync::link::LinkVerifier;
use diodesync::pack::PackStore;
use diodesync::release::index::NeededBlock;

use super::{ANSWER_MAX, Answer, Ask, BLOCKS_MAX, Command, INTERVAL, JUDGEMENT, NEWS, News, receive, send};
use crate::handover::{Claim, Judge, Notice, Order};
use crate::lane::LanesShared;

/// The longest wait for a notice.
const TICK: Duration = Duration::from_millis(20);

/// The publisher's judge in another process.
#[derive(Debug)]
pub struct Remote {
    path: PathBuf,
    packs: Arc<PackStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<UnixStream>,
    /// When there is the next attempt to connect.
    due: Option<Instant>,
    /// Blocks that were written and are not judged.
    unjudged: Vec<NeededBlock>,
    unjudged_bytes: u64,
}

fn connect(path: &Path, kind: u8) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

impl Remote {
    /// The publisher of this receiver's folder.
    pub fn new(dir: &Path, packs: Arc<PackStore>) -> Self {
        Self { path: super::socket(dir), packs, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if there is a publisher.
    fn ask(&self, ask: &Ask) -> Option<Answer> {
        let mut state = self.lock();
        if state.stream.is_none() && state.due.is_none_or(|due| Instant::now() >= due) {
            state.due = Some(Instant::now() + INTERVAL);
            let stream = connect(&self.path, JUDGEMENT).ok()?;
            stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
            state.stream = Some(stream);
        }
        let stream = state.stream.as_mut()?;
        match send(stream, ask).and_then(|()| receive(stream)) {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::warn!(%error, "the publisher is gone; blocks are written, and judged when it is there again");
                state.stream = None;
                None
            }
        }
    }

    /// Takes out blocks that were written and are not judged.
    fn take_unjudged(&self) -> Vec<NeededBlock> {
        let mut state = self.lock();
        let rest = state.unjudged.len().saturating_sub(BLOCKS_MAX);
        let taken = state.unjudged.split_off(rest);
        let bytes: u64 = taken.iter().map(|block| u64::from(block.bytes)).sum();
        state.unjudged_bytes = state.unjudged_bytes.saturating_sub(bytes);
        taken
    }
}

impl Judge for Remote {
    fn claim(&self, id: &BlockId) -> Claim {
        if let Some(Answer::Claim(claim)) = self.ask(&Ask::Claim(*id)) {
            return claim;
        }
        if let Err(error) = self.packs.admit("blocks that arrive", BLOCK_BYTES as u64) {
            return Claim::NoSpace(error.to_string());
        }
        if self.lock().unjudged_bytes < UNCLAIMED_BYTES_MAX { Claim::Unknown } else { Claim::NoRoom }
    }

    fn written(&self, id: BlockId, hash: Blake3, bytes: u32) {
        if self.ask(&Ask::Written(id, hash, bytes)).is_none() {
            let mut state = self.lock();
            state.unjudged_bytes += u64::from(bytes);
            state.unjudged.push(NeededBlock { id, bytes, hash });
        }
    }

    fn gave_up(&self, id: &BlockId) {
        // A publisher that is gone has forgotten the claim.
        let _ = self.ask(&Ask::GaveUp(*id));
    }

    fn note_trouble(&self, text: String) {
        if self.ask(&Ask::Trouble(text.clone())).is_none() {
            tracing::error!(why = text, "a block came and cannot be written; it must come again");
        }
    }
}

/// What the lanes tell the publisher and are told.
#[derive(Debug)]
pub struct Relay {
    /// Judges blocks.
    pub remote: Arc<Remote>,
    /// The lanes' notices.
    pub notices: Receiver<Notice>,
    /// The publisher's orders.
    pub orders: Sender<Order>,
    /// What the lanes have seen.
    pub lanes: Arc<LanesShared>,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
    /// Told once, when all of what a lane is told first was passed on.
    pub joined: Sender<()>,
}

impl Relay {
    /// Passes on until it is stopped.
    pub fn run(self) {
        let mut backlog = Vec::new();
        let mut is_said = false;
        while !self.stop.load(Ordering::Relaxed) {
            let ended = connect(&self.remote.path, NEWS).and_then(|stream| {
                tracing::info!("the publisher is there");
                is_said = false;
                self.pass_on(stream, &mut backlog)
            });
            if let Err(error) = ended
                && !is_said
            {
                is_said = true;
                let socket = self.remote.path.display();
                tracing::warn!(%error, %socket, "there is no publisher; run: diode-receiver run --role publish");
            }
            backlog.extend(self.notices.try_iter().filter_map(to_news));
            // What a beacon said of the clock is not true any more when there is somebody to hear it.
            backlog.retain(|news| !matches!(news, News::Beacon(_)));
            std::thread::sleep(INTERVAL);
        }
    }

    fn pass_on(&self, mut stream: UnixStream, backlog: &mut Vec<News>) -> io::Result<()> {
        let mut reader = stream.try_clone()?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_over = &is_over;
            let (orders, joined) = (self.orders.clone(), self.joined.clone());
            let thread = std::thread::Builder::new().name("lane orders".to_owned());
            thread.spawn_scoped(scope, move || {
                while let Ok(command) = receive(&mut reader) {
                    if take(command, &orders, &joined).is_none() {
                        break;
                    }
                }
                is_over.store(true, Ordering::Relaxed);
            })?;
            let result = self.tell(&mut stream, backlog, is_over);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            result
        })
    }

    fn tell(&self, stream: &mut UnixStream, backlog: &mut Vec<News>, is_over: &AtomicBool) -> io::Result<()> {
        let mut seen_due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if is_over.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            if let Ok(notice) = self.notices.recv_timeout(TICK) {
                backlog.extend([notice].into_iter().chain(self.notices.try_iter()).filter_map(to_news));
            }
            if Instant::now() >= seen_due {
                seen_due = Instant::now() + INTERVAL;
                let unjudged = self.remote.take_unjudged();
                if !unjudged.is_empty() {
                    let blocks = unjudged.iter().map(|block| (block.id, block.hash, block.bytes));
                    backlog.push(News::Unjudged(blocks.collect()));
                }
                send(stream, &News::Seen(self.lanes.view()))?;
            }
            self.send_all(stream, backlog)?;
        }
        // The lanes are over; this is the last that they have to say.
        backlog.extend(self.notices.try_iter().filter_map(to_news));
        self.send_all(stream, backlog)
    }

    fn send_all(&self, stream: &mut UnixStream, backlog: &mut Vec<News>) -> io::Result<()> {
        for news in &*backlog {
            send(stream, news)?;
        }
        backlog.clear();
        Ok(())
    }
}

fn take(command: Command, orders: &Sender<Order>, joined: &Sender<()>) -> Option<()> {
    let order = match command {
        Command::Done(blocks) => Order::Done(blocks),
        Command::Missing(blocks) => Order::Missing(blocks),
        Command::Senders(keys) => {
            Order::Senders(keys.iter().map(LinkVerifier::from_bytes).collect::<Result<_, _>>().ok()?)
        }
    };
    let is_last = matches!(order, Order::Senders(_));
    orders.send(order).ok()?;
    if is_last {
        // Who waited for it waits no more.
        let _ = joined.send(());
    }
    Some(())
}

fn to_news(notice: Notice) -> Option<News> {
    match notice {
        Notice::Object => Some(News::Object),
        Notice::Held(blocks) => Some(News::Held(blocks)),
        Notice::Beacon(beacon) => {
            let mut octets = Vec::new();
            beacon.encode(&mut octets);
            Some(News::Beacon(octets))
        }
        // Nobody in this process makes one.
        Notice::Unjudged(_) | Notice::Damaged(_) => None,
    }
}
