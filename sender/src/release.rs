//! Cutting a release: the present state of a channel, signed, and what of it has to be sent.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::id::{Blake3, Channel, ReleaseNo, Sha256};
use diodesync::limits::{CHANNELS_MAX, INDEX_BYTES_MAX, TRUST_BYTES_MAX};
use diodesync::pack::Space;
use diodesync::release::catalog::Heading;
use diodesync::release::delta::blocks_to_send;
use diodesync::release::index::Index;
use diodesync::send::{Begin, ReleasePlan};
use diodesync::trust::Release;
use diodesync_control::audit::Tell;
use serde::{Deserialize, Serialize};

use crate::init::Keys;
use crate::lane::Control;
use crate::sending::Outgoing;
use crate::store::Store;

/// Octets of metadata and facts that are written with an index, at most, about.
const METADATA_BYTES: u64 = 256 << 10;

/// What was cut.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cut {
    /// The channel.
    pub channel: Channel,
    /// Its number.
    pub number: ReleaseNo,
    /// The release whose blocks are taken to be there already.
    pub baseline: Option<ReleaseNo>,
    /// Artifacts that it serves.
    pub artifacts: usize,
    /// Octets that it serves.
    pub bytes: u64,
    /// Blocks that are sent.
    pub send_blocks: usize,
    /// Octets of them.
    pub send_bytes: u64,
}

/// Cuts a release.
pub fn cut(
    store: &Mutex<Store>,
    keys: &Keys,
    channel: &Channel,
    full: bool,
    now_s: u64,
    timestamp_days: u64,
    tell: &Tell<'_>,
) -> anyhow::Result<(Cut, Outgoing)> {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = store.newest.get(channel).map(|index| index.number);
    let floor = store.floor(channel);
    // What was restored from a backup is released anew, with everything: nobody knows what the high side has of it.
    let full = full || floor >= newest && floor.is_some();
    let is_staged =
        store.staged.values().any(|index| index.channel == *channel) || !store.withdrawn(channel).is_empty();
    match (is_staged, newest) {
        (false, None) => {
            bail!("nothing was submitted to channel {channel} yet; see diode-sender submit --help")
        }
        (false, Some(newest)) if !full => {
            bail!(
                "nothing was submitted to channel {channel} since release {newest}; --full sends everything again"
            )
        }
        _ => {}
    }
    // A beacon names all of them, and one that names more is refused on the high side.
    if newest.is_none() && store.newest.len() >= CHANNELS_MAX {
        bail!(
            "{} channels have releases, the limit is {CHANNELS_MAX}; release it in one of them",
            store.newest.len()
        );
    }
    let number = ReleaseNo(newest.max(floor).map_or(1, |newest| newest.0 + 1));
    let baseline =
        if full { None } else { store.complete(channel)?.filter(|complete| Some(*complete) > floor) };
    let heading = Heading { channel: channel.clone(), number, created_s: now_s, baseline };
    let index = store.catalog.compose(heading, store.present(channel));
    let index = index.map_err(|digest| {
        let lacks = |(name, kind)| diodesync::release::Artifact { name, kind }.blobs().contains(&digest);
        let present = store.present(channel);
        let name = present.into_iter().find(|artifact| lacks(artifact.clone())).map(|(name, _)| name.to_string());
        anyhow::anyhow!(
            "{} lies in a block that is damaged or gone; submit it again, and whatever else diode-sender verify names",
            name.unwrap_or_else(|| format!("blob {digest}"))
        )
    })?;
    let bytes = index.encode();
    if bytes.len() > INDEX_BYTES_MAX as usize {
        bail!("the index has {} octets, the limit is {INDEX_BYTES_MAX}; split the channel", bytes.len());
    }

    // Twice, because the old file is there until the new one is.
    let needed = 2 * bytes.len() as u64 + METADATA_BYTES;
    Space::of(&store.packs_dir(), 0)?.admit(format!("the index of release {channel} {number}"), needed)?;

    let mut repository = store.repository.clone();
    repository.version += 1;
    repository.timestamp_version += 1;
    let release = Release { number, bytes: bytes.len() as u64, sha256: Sha256::of(&bytes) };
    repository.releases.insert(channel.clone(), release.clone());
    repository.link_keys = keys.link_keys()?;
    let roots = store.roots()?;
    let bundle = repository.sign(&keys.roles.named_by(&roots)?, roots, now_s, timestamp_days);
    tell(Event::Released {
        channel: channel.clone(),
        number,
        baseline,
        index: release.sha256,
        artifacts: index.artifacts.len(),
        bytes: index.blob_bytes(),
    })?;
    store.commit_release(index.clone(), repository, bundle)?;
    if baseline.is_none() {
        store.record_full(channel, now_s)?;
    }

    let outgoing = outgoing(&store, &index, if full { Begin::Anew } else { Begin::Superseding })?;
    let plan = &outgoing.plan;
    let cut = Cut {
        channel: channel.clone(),
        number,
        baseline,
        artifacts: index.artifacts.len(),
        bytes: index.blob_bytes(),
        send_blocks: plan.blocks.len(),
        send_bytes: plan.blocks.iter().map(|block| u64::from(block.bytes)).sum(),
    };
    Ok((cut, outgoing))
}

/// What has to be sent of the newest release of a channel.
pub fn outgoing(store: &Store, index: &Index, begin: Begin) -> anyhow::Result<Outgoing> {
    let baseline = index.baseline.map(|number| store.release(&index.channel, number)).transpose()?;
    let index_octets = index.encode();
    let trust = store.bundle.as_ref().context("there is no metadata for the release")?.encode();
    if trust.len() > TRUST_BYTES_MAX as usize {
        bail!("the trust bundle has {} octets, the limit is {TRUST_BYTES_MAX}", trust.len());
    }
    let plan = ReleasePlan {
        channel: index.channel.clone(),
        number: index.number,
        trust: (Blake3::of(&trust).tag(), trust.len() as u32),
        index: (Blake3::of(&index_octets).tag(), index_octets.len() as u32),
        blocks: blocks_to_send(index, baseline.as_ref()),
    };
    let control = Control { trust: Arc::new(trust), index: Arc::new(index_octets) };
    Ok(Outgoing { plan, control, begin })
}

/// Signs a fresh timestamp over the present releases.
pub fn renew_timestamp(
    store: &Mutex<Store>,
    keys: &Keys,
    now_s: u64,
    timestamp_days: u64,
) -> anyhow::Result<()> {
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    let mut repository = store.repository.clone();
    if repository.releases.is_empty() {
        return Ok(());
    }
    repository.timestamp_version += 1;
    let roots = store.roots()?;
    let roles = keys.roles.named_by(&roots)?;
    // After a rotation everything is signed by the keys that the newest root names.
    let link_keys = keys.link_keys()?;
    let is_same = link_keys == repository.link_keys;
    repository.link_keys = link_keys;
    let Some(mut bundle) = store.bundle.clone().filter(|bundle| bundle.roots == roots && is_same) else {
        repository.version += 1;
        let bundle = repository.sign(&roles, roots, now_s, timestamp_days);
        return store.commit_metadata(repository, bundle);
    };
    bundle.timestamp = repository.sign_timestamp(&roles, &bundle.snapshot, now_s, timestamp_days);
    store.commit_metadata(repository, bundle)
}
