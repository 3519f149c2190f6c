//! Lane and publisher in two processes: `DIR/handover/lane.sock`, at which the publisher listens.
//!
//! A lane's process has two connections. The first octet of each says which it is; after that both carry frames, each of
//! a length in four octets (big-endian) and a message in bincode:
//!
//! ```text
//! J  judgement   lane ──► Ask, publisher ──► Answer, one for one
//! N  news        lane ──► News, publisher ──► Command, whenever there is something to say
//! ```
//!
//! While there is no publisher the lane goes on: what it decodes is written as if no index had named it yet, up to a
//! limit, and told when there is one again, who hashes it in the packs before it counts. A block that was held before is
//! not overwritten, because the lane remembers what it was told is there; so it begins only when it was told.

mod desk;
mod lane;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bincode::config::{Configuration, LittleEndian, Varint};
use diodesync::id::{Blake3, BlockId};

use super::Claim;
use crate::lane::View;
pub use desk::{Desk, listen};
pub use lane::{Relay, Remote};

/// Octets of a frame.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Blocks that one message names.
const BLOCKS_MAX: usize = 65_536;
/// How often the lanes' counters are told, and a publisher that is gone is looked for.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time in which the other side answers, or takes what it is told. It never takes long; it is gone or stuck.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The first octet of a connection.
const JUDGEMENT: u8 = b'J';
const NEWS: u8 = b'N';

type Config = Configuration<LittleEndian, Varint, bincode::config::Limit<FRAME_BYTES_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();

/// What a worker asks.
#[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
enum Ask {
    Claim(BlockId),
    Written(BlockId, Blake3, u32),
    GaveUp(BlockId),
    Trouble(String),
}

/// The answer to it.
#[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
enum Answer {
    Claim(Claim),
    Noted,
}

/// What the lane tells: its notices, and what it has seen.
#[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
enum News {
    Object,
    Held(Vec<BlockId>),
    Unjudged(Vec<(BlockId, Blake3, u32)>),
    /// As on the wire.
    Beacon(Vec<u8>),
    Seen(View),
}

/// What the publisher orders. The link keys end what a lane is told first.
#[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
enum Command {
    Done(Vec<BlockId>),
    Missing(Vec<BlockId>),
    Senders(Vec<[u8; 32]>),
}

/// Where the publisher listens.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("handover/lane.sock")
}

fn send(stream: &mut UnixStream, message: &impl bincode::Encode) -> io::Result<()> {
    let body = bincode::encode_to_vec(message, CONFIG).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &body].concat())
}

fn receive<M: bincode::Decode<()>>(stream: &mut UnixStream) -> io::Result<M> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        let text = format!("a frame of {length} octets, expected {FRAME_BYTES_MAX} at most");
        return Err(io::Error::other(text));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    parse(&body)
}

fn parse<M: bincode::Decode<()>>(body: &[u8]) -> io::Result<M> {
    let (message, used) = bincode::decode_from_slice(body, CONFIG).map_err(io::Error::other)?;
    if used != body.len() {
        return Err(io::Error::other(format!("{} octets after a message", body.len() - used)));
    }
    Ok(message)
}

/// Reads octets as a message of every kind, for the fuzzer; how many kinds they are of.
pub fn kinds_of_message(body: &[u8]) -> usize {
    let ok = [
        parse::<Ask>(body).is_ok(),
        parse::<Answer>(body).is_ok(),
        parse::<News>(body).is_ok(),
        parse::<Command>(body).is_ok(),
    ];
    ok.into_iter().filter(|ok| *ok).count()
}

#[cfg(test)]
mod tests;
