//! The receiver's audit log, and its commands. Of a receiver that runs as several processes the publish role writes it: the
//! others see neither log nor key.

use std::path::Path;

use anyhow::Context;
use diodesync::audit::{Event, Side};
use diodesync::pack::fact;
use diodesync::pairing::Pairing;
use diodesync_control::audit::{Audit, Place, command};

/// Where it lies.
pub fn place(dir: &Path) -> Place {
    Place { dir: dir.to_owned(), side: Side::Receiver, key: "keys/site/audit.key" }
}

/// Opens it; it is begun, if there is none.
pub fn open(dir: &Path) -> anyhow::Result<Audit> {
    let link = match fact::read(&dir.join("pairing"))? {
        Some(text) => {
            let pairing: Pairing =
                serde_json::from_slice(&text).context("the fact file pairing is damaged")?;
            Some(pairing.link)
        }
        None => None,
    };
    Audit::open(place(dir), link)
}

/// Tells what a command is about to do without the daemon.
pub fn tell(dir: &Path, event: Event) -> anyhow::Result<()> {
    open(dir)?.tell(&command(), event)
}
