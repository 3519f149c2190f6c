//! `resend`: what a receiver lacks, by the ticket that an operator has carried here, before anything else.
//!
//! ```text
//! DIR/resends/TAG   the text of a ticket that is being answered (fact), until all rounds of it went out
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::id::{Blake3, Channel, LinkId, ReleaseNo};
use diodesync::link::PairingSecret;
use diodesync::pack::fact;
use diodesync::release::index::{Index, NeededBlock};
use diodesync::send::Begin;
use diodesync::ticket::{Ticket, Want, What};
use diodesync_control::audit::Tell;
use serde::{Deserialize, Serialize};

use crate::release;
use crate::sending::Outgoing;
use crate::store::Store;

/// What is sent again of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The channel.
    pub channel: Channel,
    /// The release that the blocks go with: the newest of the channel.
    pub number: ReleaseNo,
    /// The release that the ticket speaks of.
    pub asked: ReleaseNo,
    /// Blocks that are sent.
    pub blocks: usize,
    /// Octets of them.
    pub bytes: u64,
}

/// What an operator asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Request {
    /// What this ticket says.
    Ticket(String),
    /// All of a release.
    Release(Channel, ReleaseNo),
}

impl Request {
    /// As a ticket: one that says "everything" of a release is as good as the receiver's.
    pub fn into_ticket(self, link: LinkId, secret: &PairingSecret, now_s: u64) -> String {
        match self {
            Self::Ticket(text) => text,
            Self::Release(channel, number) => {
                let wants = vec![Want { channel, number, what: What::Everything }];
                Ticket { receiver: [0; 8], made_s: now_s, wants }.encode(link, secret)
            }
        }
    }
}

fn folder(dir: &Path) -> PathBuf {
    dir.join("resends")
}

/// A ticket as an operator gives it: in a file, on standard input (`-`), or typed out.
pub fn read_ticket(words: &[String]) -> anyhow::Result<String> {
    match words {
        [] => bail!("give a ticket: a file that holds it, - for standard input, or its text"),
        [only] if only == "-" => {
            std::io::read_to_string(std::io::stdin()).context("cannot read standard input")
        }
        [only] if Path::new(only).is_file() => {
            std::fs::read_to_string(only).with_context(|| format!("cannot read {only}"))
        }
        words => Ok(words.join(" ")),
    }
}

/// Takes a ticket: what it asks for, and the fact that says that it is being answered.
pub fn take(
    store: &Store,
    dir: &Path,
    link: LinkId,
    secret: &PairingSecret,
    text: &str,
    tell: &Tell<'_>,
) -> anyhow::Result<(Vec<(Again, Outgoing)>, PathBuf)> {
    let ticket = Ticket::parse(text, link, secret)?;
    let sent = wanted(store, &ticket)?
        .into_iter()
        .map(|(again, blocks)| {
            let index = store.newest.get(&again.channel).context("there is no release")?;
            let mut outgoing = release::outgoing(store, index, Begin::Anew)?;
            outgoing.plan.blocks = blocks;
            Ok((again, outgoing))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for (again, _) in &sent {
        let Again { channel, number, asked, blocks, .. } = again.clone();
        tell(Event::Resent { channel, number, asked, blocks })?;
    }
    let folder = folder(dir);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(Blake3::of(text.as_bytes()).tag().to_string());
    fact::write(&path, text.as_bytes())?;
    Ok((sent, path))
}

/// The blocks that a ticket asks for, of the newest release of each channel.
///
/// # Errors
/// What it asks for and is not here, with what to do.
pub fn wanted(store: &Store, ticket: &Ticket) -> anyhow::Result<Vec<(Again, Vec<NeededBlock>)>> {
    let mut all = Vec::new();
    for want in &ticket.wants {
        let (channel, asked) = (&want.channel, want.number);
        let newest = store.newest.get(channel).with_context(|| {
            format!("the ticket asks for channel {channel}, of which this sender has no release")
        })?;
        if asked > newest.number {
            bail!(
                "the ticket asks for release {channel} {asked}, and the newest here is {}: this sender was restored from a \
                 backup. See: diode-sender restore --help",
                newest.number
            );
        }
        let older = |number: ReleaseNo| -> anyhow::Result<Index> {
            store.release(channel, number).with_context(|| {
                format!(
                    "the ticket speaks of release {channel} {number}, which is not kept here any more; send everything: \
                     diode-sender release --full --channel {channel}"
                )
            })
        };
        let blocks = if asked == newest.number {
            want.blocks(newest, older)?
        } else {
            // What only the older release needs is of no use any more.
            let needed: HashSet<_> = newest.blocks().map(|block| (block.id, block.hash)).collect();
            let mut blocks = want.blocks(&older(asked)?, older)?;
            blocks.retain(|block| needed.contains(&(block.id, block.hash)));
            blocks
        };
        let bytes = blocks.iter().map(|block| u64::from(block.bytes)).sum();
        let again =
            Again { channel: channel.clone(), number: newest.number, asked, blocks: blocks.len(), bytes };
        all.push((again, blocks));
    }
    Ok(all)
}

/// Tickets that were not answered wholly before a restart.
pub fn pending(dir: &Path) -> anyhow::Result<Vec<String>> {
    let folder = folder(dir);
    let list = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut texts = Vec::new();
    for entry in list {
        let path = entry?.path();
        if path.extension().is_none()
            && let Some(content) = fact::read(&path)?
        {
            let text = String::from_utf8(content);
            texts.push(text.with_context(|| format!("the fact file {} is no ticket", path.display()))?);
        }
    }
    Ok(texts)
}
