//! The publisher's end.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};

use anyhow::Context;
use diodesync::id::BlockId;
use diodesync::limits::{BLOCK_BYTES, PACK_BLOCKS_MAX};
use diodesync::release::index::NeededBlock;
use diodesync::wire::Beacon;
use diodesync_control::bind;

use super::{ANSWER_MAX, Answer, Ask, BLOCKS_MAX, Command, INTERVAL, JUDGEMENT, NEWS, News, receive, send};
use crate::handover::{Claim, Judge, Notice, Order, Orders};
use crate::lane::LanesShared;

/// Connections at once: the one lane process that there is has two, and one that was killed may have its own still.
const CONNECTIONS_MAX: usize = 16;
/// Blocks that a lane writes at once.
const CLAIMS_MAX: usize = 256;

/// What the publisher answers with.
pub struct Desk {
    /// Judges blocks.
    pub judge: Arc<dyn Judge>,
    /// Notices for the publisher.
    pub notices: Sender<Notice>,
    /// Where its orders go.
    pub orders: Orders,
    /// What a lane that joins is told first, the link keys last.
    pub first: Box<dyn Fn() -> Vec<Order> + Send + Sync>,
    /// What the lanes have seen.
    pub lanes: Arc<LanesShared>,
    /// How many processes that run lanes are there.
    pub joined: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Desk({} joined)", self.joined.load(Ordering::Relaxed))
    }
}

/// Listens for lanes, on threads that live as long as the process.
pub fn listen(dir: &Path, desk: Desk) -> anyhow::Result<()> {
    let listener = bind(&super::socket(dir))?;
    let desk = Arc::new(desk);
    let accept = move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let place = Arc::new(());
            open.retain(|place: &Weak<()>| place.strong_count() > 0);
            let begun = stream.and_then(|stream| {
                if open.len() >= CONNECTIONS_MAX {
                    return Err(io::Error::other(format!("{CONNECTIONS_MAX} connections are open")));
                }
                open.push(Arc::downgrade(&place));
                let desk = desk.clone();
                let attend = move || {
                    let _place = place;
                    attend(&desk, stream);
                };
                std::thread::Builder::new().name("lane desk".to_owned()).spawn(attend).map(drop)
            });
            if let Err(error) = begun {
                tracing::warn!(%error, "a lane cannot join; it tries again");
                std::thread::sleep(INTERVAL);
            }
        }
    };
    std::thread::Builder::new()
        .name("lane desk".to_owned())
        .spawn(accept)
        .context("cannot start a thread")?;
    Ok(())
}

/// Whether a block can have this name and length.
fn is_possible(id: &BlockId, bytes: u32) -> bool {
    u64::from(id.block.0) < u64::from(PACK_BLOCKS_MAX) && (1..=BLOCK_BYTES as u64).contains(&u64::from(bytes))
}

fn attend(desk: &Desk, mut stream: UnixStream) {
    let mut kind = [0];
    let said = stream.set_read_timeout(Some(ANSWER_MAX)).and_then(|()| stream.read_exact(&mut kind));
    let ended = said.and_then(|()| stream.set_read_timeout(None)).and_then(|()| match kind {
        [JUDGEMENT] => judge(desk, stream),
        [NEWS] => take_news(desk, stream),
        _ => Err(io::Error::other("it does not say what it is for")),
    });
    match ended {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => tracing::warn!(%error, "a lane's connection ended"),
        Ok(()) => {}
    }
}

fn judge(desk: &Desk, mut stream: UnixStream) -> io::Result<()> {
    let mut claimed = Vec::new();
    let ended = loop {
        let ask = match receive(&mut stream) {
            Ok(ask) => ask,
            Err(error) => break Err(error),
        };
        let answer = match ask {
            Ask::Claim(id) => {
                if claimed.len() >= CLAIMS_MAX || u64::from(id.block.0) >= u64::from(PACK_BLOCKS_MAX) {
                    break Err(io::Error::other(format!("it claims {id}, with {} claimed", claimed.len())));
                }
                let claim = desk.judge.claim(&id);
                if matches!(claim, Claim::Wanted(_) | Claim::Unknown) {
                    claimed.push(id);
                }
                Answer::Claim(claim)
            }
            Ask::Written(id, hash, bytes) => {
                if !is_possible(&id, bytes) {
                    break Err(io::Error::other(format!("it has written {bytes} octets as {id}")));
                }
                let claims = claimed.len();
                claimed.retain(|claimed| *claimed != id);
                if claimed.len() < claims {
                    desk.judge.written(id, hash, bytes);
                } else {
                    // It was claimed of a publisher that is gone.
                    let _ = desk.notices.send(Notice::Unjudged(vec![NeededBlock { id, bytes, hash }]));
                }
                Answer::Noted
            }
            Ask::GaveUp(id) => {
                let claims = claimed.len();
                claimed.retain(|claimed| *claimed != id);
                if claimed.len() < claims {
                    desk.judge.gave_up(&id);
                }
                Answer::Noted
            }
            Ask::Trouble(text) => {
                desk.judge.note_trouble(text);
                Answer::Noted
            }
        };
        if let Err(error) = send(&mut stream, &answer) {
            break Err(error);
        }
    };
    // The lane is gone. What it was writing may be half written, and is not held.
    claimed.iter().for_each(|id| desk.judge.gave_up(id));
    ended
}

fn take_news(desk: &Desk, mut stream: UnixStream) -> io::Result<()> {
    let (to_lane, orders) = channel();
    let is_gone = Arc::new(AtomicBool::new(false));
    let mut out = stream.try_clone()?;
    out.set_write_timeout(Some(ANSWER_MAX))?;
    let gone = is_gone.clone();
    let thread = std::thread::Builder::new().name("lane orders".to_owned());
    let writer = thread.spawn(move || {
        if let Err(error) = pass_orders(&mut out, &orders, &gone) {
            tracing::debug!(%error, "a lane takes no orders");
            // It joins again, and is told everything anew.
            let _ = out.shutdown(std::net::Shutdown::Both);
        }
    })?;
    tracing::info!("the lane role has joined");
    desk.joined.fetch_add(1, Ordering::Relaxed);
    desk.orders.join(to_lane, || (desk.first)());
    let ended = loop {
        match receive(&mut stream) {
            Ok(News::Seen(view)) => desk.lanes.set_view(view),
            Ok(news) => {
                let notice = match to_notice(news) {
                    Ok(notice) => notice,
                    Err(error) => break Err(error),
                };
                if desk.notices.send(notice).is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    is_gone.store(true, Ordering::Relaxed);
    let _ = writer.join();
    if desk.joined.fetch_sub(1, Ordering::Relaxed) == 1 {
        tracing::warn!("the lane role is gone");
        desk.lanes.upstream_gone();
    }
    ended
}

fn to_notice(news: News) -> io::Result<Notice> {
    Ok(match news {
        News::Held(blocks) => Notice::Held(blocks),
        News::Unjudged(blocks) => {
            let needed = blocks.into_iter().map(|(id, hash, bytes)| NeededBlock { id, bytes, hash });
            let needed: Vec<_> = needed.collect();
            if let Some(block) = needed.iter().find(|block| !is_possible(&block.id, block.bytes)) {
                let (id, bytes) = (block.id, block.bytes);
                return Err(io::Error::other(format!("it has written {bytes} octets as {id}")));
            }
            Notice::Unjudged(needed)
        }
        News::Beacon(octets) => Notice::Beacon(Box::new(Beacon::parse(&octets).map_err(io::Error::other)?)),
        News::Object | News::Seen(_) => Notice::Object,
    })
}

fn pass_orders(out: &mut UnixStream, orders: &Receiver<Order>, is_gone: &AtomicBool) -> io::Result<()> {
    while !is_gone.load(Ordering::Relaxed) {
        match orders.recv_timeout(INTERVAL) {
            Ok(Order::Done(blocks)) => {
                for blocks in blocks.chunks(BLOCKS_MAX) {
                    send(out, &Command::Done(blocks.to_vec()))?;
                }
            }
            Ok(Order::Missing(blocks)) => {
                for blocks in blocks.chunks(BLOCKS_MAX) {
                    send(out, &Command::Missing(blocks.to_vec()))?;
                }
            }
            Ok(Order::Senders(keys)) => {
                send(out, &Command::Senders(keys.iter().map(|key| key.to_bytes()).collect()))?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
    Ok(())
}
