//! What an offer asks of the sender: which blobs are lacking, and what is given to the ingest once none is.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use diodesync::id::Sha256;

use super::desk::Desk;
use super::folder::{Folder, Have};
use super::protocol::{Offer, Wanted};
use super::rights::{Producer, known_to};
use crate::api::Daemon;
use crate::submit::{Frames, Item, ReadFailure};

/// What is to be done for an offer.
#[derive(Debug)]
pub struct Plan {
    /// What is lacking, in the order of the offer.
    pub wanted: Vec<Wanted>,
    /// Octets of that.
    pub wanted_bytes: u64,
    /// Blobs that were staged or released before, and that the producer may know of.
    pub held: BTreeMap<Sha256, u64>,
}

/// What is lacking of an offer that is within the producer's rights.
pub fn plan(daemon: &Daemon, desk: &Desk, rights: &Producer, offer: &Offer) -> anyhow::Result<Plan> {
    let mut blobs = offer.blobs()?;
    daemon.producers.tidy(desk, rights.bytes_max, &blobs)?;
    let held = {
        let store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
        let may = |channel| rights.channels.contains(channel);
        let newest = store.newest.iter().filter(|(channel, _)| may(channel)).map(|(_, index)| index);
        let staged = store.staged.values().filter(|index| may(&index.channel));
        let known = known_to(rights, newest.chain(staged).flat_map(|index| &index.artifacts), &blobs);
        let is_here = |digest: &Sha256, bytes: u64| {
            store.catalog.blob(digest).is_some_and(|blob| blob.bytes == bytes) && known.contains(digest)
        };
        blobs.iter().filter(|(digest, bytes)| is_here(digest, **bytes)).map(|(a, b)| (*a, *b)).collect()
    };
    let mut plan = Plan { wanted: Vec::new(), wanted_bytes: 0, held };
    for file in &offer.files {
        // Each blob once.
        let Some(bytes) = blobs.remove(&file.sha256) else { continue };
        if plan.held.contains_key(&file.sha256) {
            continue;
        }
        if let Have::Part(from) = desk.folder.have(&file.sha256, bytes) {
            plan.wanted.push(Wanted { sha256: file.sha256, from });
            plan.wanted_bytes += bytes - from;
        }
    }
    Ok(plan)
}

/// Gives the frames of a submission, of which all is here.
pub fn give(offer: &Offer, plan: &Plan, folder: &Folder, frames: &Frames) -> Result<(), ReadFailure> {
    let is_held = |sha256: &Sha256| plan.held.contains_key(sha256);
    let fresh = offer.files.iter().filter(|file| !is_held(&file.sha256));
    frames.begin(offer.channel.clone(), offer.what.clone(), fresh.map(|file| file.bytes).sum())?;
    for file in &offer.files {
        let source = folder.path(&file.sha256);
        let item = Item { source, path: file.path.clone(), role: file.role, bytes: file.bytes };
        if is_held(&file.sha256) {
            frames.held(&item, file.sha256)?;
        } else {
            frames.file_of(&item, file.sha256)?;
        }
    }
    frames.end()
}
