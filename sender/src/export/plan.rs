//! What is exported: fixed when the export begins, so that every slot is the same however often it is made.

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diodesync::id::{Blake3, BlockId, BlockNo, Channel, ExportId, LinkId, PackId, ReleaseNo};
use diodesync::link::{LinkKey, PairingSecret, ReceiverPublic};
use diodesync::release::index::{Index, NeededBlock};
use diodesync::trust::{Bundle, timestamp_expires_s};
use diodesync::volume::{ExportSecret, Layout, Manifest, Offer, Piece};
use diodesync::wire::ObjectId;
use serde::{Deserialize, Serialize};

use crate::random;

/// What an operator asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The channel, whose newest release is exported.
    pub channel: Channel,
    /// The release that is there already; none for everything.
    pub since: Option<ReleaseNo>,
    /// The ticket that says which blocks are lacking, in place of `since`.
    pub ticket: Option<String>,
    /// Parity, as a share of the data.
    pub parity_percent: u32,
    /// Octets of a volume.
    pub volume_bytes: u64,
    /// Leave the contents readable for everyone.
    pub plain: bool,
}

/// Who exports, and for whom.
#[derive(Debug)]
pub struct Parties<'a> {
    /// The link.
    pub link: LinkId,
    /// Signs the manifest.
    pub key: &'a LinkKey,
    /// Mixed into what is sealed.
    pub pairing: &'a PairingSecret,
    /// Can read it.
    pub receivers: &'a [ReceiverPublic],
}

/// What is exported.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The export.
    pub export: ExportId,
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// The release whose blocks are taken to be there already.
    pub baseline: Option<ReleaseNo>,
    /// Whether a ticket says which blocks are lacking.
    #[serde(default)]
    pub is_by_ticket: bool,
    /// Until when the receiver takes the metadata, seconds since 1970.
    pub expires_s: u64,
    /// How it is laid out.
    pub layout: Layout,
    /// The manifest, base64.
    pub manifest: String,
    /// The secret of the export, hexadecimal.
    secret: Blake3,
    /// The trust bundle, base64.
    trust: String,
    /// The index, base64.
    index: String,
    /// Pack, block, octets.
    blocks: Vec<(PackId, BlockNo, u32)>,
}

impl Plan {
    /// Plans the export of these blocks of `index`, with metadata that outlives the way.
    pub fn new(
        request: &Request,
        parties: &Parties<'_>,
        index: &Index,
        blocks: &[NeededBlock],
        trust: &Bundle,
        now_s: u64,
    ) -> anyhow::Result<Self> {
        let blocks: Vec<_> = blocks.iter().map(|b| (b.id.pack, b.id.block, b.bytes)).collect();
        let mut plan = Self {
            export: ExportId(random::array()?),
            channel: index.channel.clone(),
            number: index.number,
            baseline: request.since,
            is_by_ticket: request.ticket.is_some(),
            expires_s: timestamp_expires_s(&trust.timestamp).context("the metadata has no expiry")?,
            layout: Layout::new(1, 0, u64::MAX)?,
            manifest: String::new(),
            secret: Blake3(random::array()?),
            trust: BASE64_STANDARD.encode(trust.encode()),
            index: BASE64_STANDARD.encode(index.encode()),
            blocks,
        };
        let slots = plan.objects()?.map(|(object, bytes)| Piece::of(object, bytes).count() as u64).sum();
        plan.layout = Layout::new(slots, request.parity_percent, request.volume_bytes)?;
        let secret = plan.secret();
        let offer = match request.plain {
            true => Offer::Plain(secret),
            false => Manifest::seal_offer(
                &mut random::rng(),
                &secret,
                parties.link,
                plan.export,
                parties.pairing,
                parties.receivers,
            )?,
        };
        let manifest =
            Manifest { link: parties.link, export: plan.export, made_s: now_s, layout: plan.layout, offer };
        plan.manifest = BASE64_STANDARD.encode(manifest.encode(parties.key));
        if plan.layout.volumes() > 999 {
            bail!("the export needs {} volumes, the limit is 999; use larger ones", plan.layout.volumes());
        }
        Ok(plan)
    }

    /// The secret of the export.
    pub fn secret(&self) -> ExportSecret {
        ExportSecret(self.secret.0)
    }

    /// The trust bundle.
    pub fn trust(&self) -> anyhow::Result<Vec<u8>> {
        BASE64_STANDARD.decode(&self.trust).context("the export's plan is damaged")
    }

    /// The index.
    pub fn index(&self) -> anyhow::Result<Vec<u8>> {
        BASE64_STANDARD.decode(&self.index).context("the export's plan is damaged")
    }

    /// Its blocks.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.blocks.iter().map(|(pack, block, _)| BlockId { pack: *pack, block: *block })
    }

    /// How many blocks it holds.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// What is exported, in the order of its slots, with octets: what says how to judge the rest comes first.
    pub fn objects(&self) -> anyhow::Result<impl Iterator<Item = (ObjectId, u32)>> {
        let (trust, index) = (self.trust()?, self.index()?);
        let control = [
            (ObjectId::Trust(Blake3::of(&trust).tag()), trust.len() as u32),
            (ObjectId::Index(Blake3::of(&index).tag()), index.len() as u32),
        ];
        let blocks = self
            .blocks
            .iter()
            .map(|(pack, block, bytes)| (ObjectId::Block(BlockId { pack: *pack, block: *block }), *bytes));
        Ok(control.into_iter().chain(blocks))
    }
}
