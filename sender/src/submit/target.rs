//! Where `submit` hands things to: the daemon of this host over its control socket, or a sender elsewhere over QUIC.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use diodesync::id::{Channel, Sha256};
use diodesync_control::Client;
use serde_json::{Value, json};

use super::What;
use super::command::{Item, send};
use crate::producers::{Pin, Remote, of_producer};

/// A sender elsewhere.
#[derive(Debug, clap::Args)]
pub struct To {
    /// Submit as a producer to the sender at this address, over QUIC, and not to the daemon of this host
    #[arg(long, value_name = "HOST:PORT", requires = "identity", requires = "server_pin")]
    to: Option<String>,
    /// With --to: the folder that diode-sender producer-key has made on this host
    #[arg(long, value_name = "DIR", requires = "to")]
    identity: Option<PathBuf>,
    /// With --to: the pin of the sender's key, as diode-sender producers shows it there
    #[arg(long, value_name = "PIN", requires = "to")]
    server_pin: Option<Pin>,
}

/// Where a submission goes.
#[derive(Debug)]
pub enum Target {
    /// The daemon of this host.
    Local(Client),
    /// A sender elsewhere.
    Remote(Remote),
}

impl Target {
    /// What was asked for; `local` gives the daemon of this host.
    pub fn new(to: To, local: impl FnOnce() -> anyhow::Result<Client>) -> anyhow::Result<Self> {
        match (to.to, to.identity, to.server_pin) {
            (Some(to), Some(identity), Some(pin)) => {
                Ok(Self::Remote(Remote::new(to, of_producer(&identity)?, pin)?))
            }
            _ => local().map(Self::Local),
        }
    }

    /// Which of these blobs need not be given. A sender elsewhere says so when it was told all that comes.
    pub async fn held(&self, blobs: &[Sha256]) -> anyhow::Result<BTreeSet<Sha256>> {
        let Self::Local(client) = self else { return Ok(BTreeSet::new()) };
        let answer = client.post("/v1/held", &json!({ "blobs": blobs })).await?;
        serde_json::from_value(answer.get("held").cloned().unwrap_or_default())
            .context("the daemon's answer is not understood")
    }

    /// Submits files; what was answered.
    pub async fn submit(&self, channel: Channel, what: What, items: Vec<Item>) -> anyhow::Result<Value> {
        match self {
            Self::Local(client) => send(client, channel, what, items).await,
            Self::Remote(remote) => remote.submit(channel, what, items).await,
        }
    }
}
