//! The sender's audit log, and its commands.

use std::path::Path;

use anyhow::Context;
use diodesync::audit::{Event, Side};
use diodesync::pack::fact;
use diodesync_control::audit::{Audit, Place, command};

use crate::init::LinkFile;

/// Where it lies.
pub fn place(dir: &Path) -> Place {
    Place { dir: dir.to_owned(), side: Side::Sender, key: "keys/audit.key" }
}

/// Opens it; it is begun, if there is none.
pub fn open(dir: &Path) -> anyhow::Result<Audit> {
    let link = match fact::read(&dir.join("link.json"))? {
        Some(content) => {
            let file: LinkFile =
                serde_json::from_slice(&content).context("the fact file link.json is damaged")?;
            Some(file.link)
        }
        None => None,
    };
    Audit::open(place(dir), link)
}

/// Tells what a command is about to do without the daemon.
pub fn tell(dir: &Path, event: Event) -> anyhow::Result<()> {
    open(dir)?.tell(&command(), event)
}
