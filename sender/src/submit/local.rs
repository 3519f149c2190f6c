//! What the daemon itself has fetched, or taken from a producer, goes in like what a command sends: in the same frames,
//! through the same checks.

use std::sync::Mutex;

use anyhow::bail;
use bytes::Bytes;
use diodesync::id::Channel;
use diodesync::pack::PackStore;
use diodesync_control::Progress;
use diodesync_control::audit::Tell;
use tokio::sync::mpsc;

use super::What;
use super::command::{Frames, Item, ReadFailure, read_all};
use super::server::{Submitter, receive};
use crate::ingest::Totals;
use crate::store::Store;

/// Submits files. Takes its time; not for a thread that others wait for.
pub fn hand_over(
    packs: &PackStore,
    store: &Mutex<Store>,
    writer: &Mutex<()>,
    channel: Channel,
    what: What,
    items: &[Item],
    tell: &Tell<'_>,
) -> anyhow::Result<Totals> {
    let give = |frames: &Frames| read_all(channel, what, items, frames, &Progress::hidden());
    take_from(packs, store, writer, &Submitter::trusted(tell), give)
}

/// Takes a submission from whoever gives its frames. Takes its time, as above.
pub fn take_from(
    packs: &PackStore,
    store: &Mutex<Store>,
    writer: &Mutex<()>,
    by: &Submitter<'_>,
    give: impl FnOnce(&Frames) -> Result<(), ReadFailure> + Send,
) -> anyhow::Result<Totals> {
    let (chunks, receiver) = mpsc::channel::<Bytes>(8);
    // One that cannot be read ends the chunks without an end message, which the other side takes as what it is.
    let put =
        move |octets: std::io::Result<Bytes>| octets.is_ok_and(|octets| chunks.blocking_send(octets).is_ok());
    let (read, taken) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || give(&Frames(Box::new(put))));
        let taken = receive(packs, store, writer, receiver, by);
        (reader.join(), taken)
    });
    match (read, taken) {
        (Ok(Err(ReadFailure::File(error))), _) => Err(error),
        (Ok(_), taken) => taken,
        (Err(_), _) => bail!("reading what was fetched crashed"),
    }
}
