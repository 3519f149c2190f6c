//! One connection of a mirror host: what it lacks is told to it, and the blocks that it asks for are given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{BlockId, Channel};
use diodesync_control::quic::frame;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::hosts::Host;
use super::listen::Feeder;
use super::protocol::{self, BATCH_MAX, Have, NAME_BYTES, Told};
use super::stock::{Item, Lack, Stock, lack};

/// Time in which a host says what it has, and in which a request for blocks is whole.
const SPEAK_MAX: Duration = Duration::from_secs(10);
/// Time after which something is told again that the host still lacks: it may have been garbled on its disk.
const RETELL: Duration = Duration::from_secs(60);
/// How often it is looked whether something has to be told again.
const TICK: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub struct Session {
    /// What all of them share.
    pub feeder: Arc<Feeder>,
    /// Who it is.
    pub host: Arc<Host>,
    /// The connection.
    pub connection: Connection,
}

impl Session {
    /// Serves it to its end; why it has ended.
    pub async fn serve(self) -> String {
        let begun = tokio::time::timeout(SPEAK_MAX, async {
            let (send, mut receive) = self.connection.accept_bi().await?;
            let have = read_have(&mut receive).await?;
            anyhow::Ok((send, receive, have))
        });
        let (send, receive, have) = match begun.await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return format!("{error:#}"),
            Err(_) => return "it has not said what it has".to_owned(),
        };
        self.host.has(have.clone());
        let (to_teller, has) = watch::channel(have);
        let mut tasks = JoinSet::new();
        tasks.spawn(hear(self.host.clone(), receive, to_teller));
        tasks.spawn(tell(self.host.clone(), send, has, self.feeder.stock.subscribe()));
        loop {
            tokio::select! {
                streams = self.connection.accept_bi() => match streams {
                    // As many as the transport lets the host open.
                    Ok((send, receive)) => {
                        tasks.spawn(give(self.feeder.clone(), self.host.clone(), send, receive));
                    }
                    Err(error) => return error.to_string(),
                },
                Some(done) = tasks.join_next() => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        let closed = self.connection.close_reason().map(|why| why.to_string());
                        return closed.unwrap_or_else(|| format!("{error:#}"));
                    }
                    Err(error) => return error.to_string(),
                },
            }
        }
    }
}

async fn read_have(receive: &mut RecvStream) -> anyhow::Result<Have> {
    let body = frame::read(receive, |length| Ok(protocol::message_bytes(length)?)).await?;
    Ok(Have::parse(&body)?)
}

/// Hears what the host has, until it says no more.
async fn hear(host: Arc<Host>, mut receive: RecvStream, have: watch::Sender<Have>) -> anyhow::Result<()> {
    loop {
        let heard = read_have(&mut receive).await?;
        host.has(heard.clone());
        have.send_replace(heard);
    }
}

/// Tells what the host lacks, whenever it lacks something.
async fn tell(
    host: Arc<Host>,
    mut send: SendStream,
    mut have: watch::Receiver<Have>,
    mut stock: watch::Receiver<Arc<Stock>>,
) -> anyhow::Result<()> {
    let mut told: BTreeMap<Channel, (u64, u64, Instant)> = BTreeMap::new();
    loop {
        let (has, items) = (have.borrow_and_update().clone(), stock.borrow_and_update().items.clone());
        for item in items.iter().filter(|item| host.config.gets(&item.index.channel)) {
            let (channel, number) = (&item.index.channel, item.index.number);
            let lack = lack(&has, channel, number, item.version);
            let is_told = told.get(channel).is_some_and(|(before, version, then)| {
                (*before, *version) == (number.0, item.version) && then.elapsed() < RETELL
            });
            if lack == Lack::Nothing || is_told {
                continue;
            }
            send_item(&mut send, item, lack).await?;
            told.insert(channel.clone(), (number.0, item.version, Instant::now()));
            tracing::info!(host = host.config.name, %channel, release = number.0, ?lack, "told");
        }
        tokio::select! {
            changed = have.changed() => changed.context("it says no more what it has")?,
            changed = stock.changed() => changed.context("nothing is fed any more")?,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn send_item(send: &mut SendStream, item: &Arc<Item>, lack: Lack) -> anyhow::Result<()> {
    let index = match lack {
        Lack::Index => {
            let item = item.clone();
            Some(tokio::task::spawn_blocking(move || item.index.encode()).await?)
        }
        _ => None,
    };
    let told = Told {
        channel: item.index.channel.clone(),
        number: item.index.number,
        judged_s: item.judged_s,
        bundle_bytes: item.bundle.len() as u64,
        index_bytes: index.as_ref().map(|index| index.len() as u64),
    };
    send.write_all(&protocol::encode(&told)?).await?;
    send.write_all(&item.bundle).await?;
    if let Some(index) = index {
        send.write_all(&index).await?;
    }
    Ok(())
}

/// Gives the blocks of one batch.
async fn give(
    feeder: Arc<Feeder>,
    host: Arc<Host>,
    mut send: SendStream,
    mut receive: RecvStream,
) -> anyhow::Result<()> {
    let names = tokio::time::timeout(SPEAK_MAX, receive.read_to_end(BATCH_MAX * NAME_BYTES)).await;
    let blocks = protocol::parse_batch(&names.context("a request for blocks is not whole")??)?;
    for id in blocks {
        let (work, of) = (feeder.clone(), host.clone());
        let octets = tokio::task::spawn_blocking(move || read(&work, &of, id)).await?.unwrap_or_default();
        send.write_all(&(octets.len() as u32).to_be_bytes()).await?;
        host.sent(octets.len() as u64);
        send.write_chunk(octets.into()).await?;
    }
    send.finish()?;
    Ok(())
}

/// A block that the host may have. What the disk has changed is for the host to find: each block is checked there.
fn read(feeder: &Feeder, host: &Host, id: BlockId) -> Option<Vec<u8>> {
    let stock = feeder.stock.borrow().clone();
    let bytes = stock.block(&host.config, &id)?;
    let mut octets = vec![0; bytes as usize];
    match feeder.packs.read_at(id.pack, id.offset(), &mut octets) {
        Ok(()) => Some(octets),
        Err(error) => {
            tracing::warn!(host = host.config.name, block = %id, %error, "a block cannot be given");
            None
        }
    }
}
