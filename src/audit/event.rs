//! What is told, and by whom.

use serde::{Deserialize, Serialize};

use crate::id::{BlockId, Channel, LinkId, ReleaseNo, Sha256};
use crate::release::approval::ApproverId;

/// Names that an entry lists; of more it says how many there are.
const NAMES_MAX: usize = 50;
/// Octets of a text in an entry.
const TEXT_BYTES_MAX: usize = 2000;

/// A side of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The low side.
    Sender,
    /// The high side.
    Receiver,
}

impl Side {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
        }
    }
}

/// Someone with a process on this host, as the kernel tells of them (`SO_PEERCRED`, `/proc`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// User id of the process.
    pub uid: u32,
    /// Its name on this host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Who logged in, where that is another one (`sudo`, `runuser`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub login: Option<String>,
    /// Process id.
    pub pid: u32,
    /// The command line, if it could be read. It says what the process says of itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// This daemon, by itself: which part of it.
    Daemon(String),
    /// Whoever called the control socket.
    Caller(Person),
    /// A command that did it itself, without the daemon.
    Command(Person),
    /// A producer over the network, as `NAME@ADDRESS:PORT`.
    Producer(String),
    /// Someone at the dashboard who knows its token.
    Dashboard(String),
}

impl Actor {
    /// A part of the daemon.
    pub fn daemon(part: impl Into<String>) -> Self {
        Self::Daemon(part.into())
    }
}

/// What is told. Numbers of releases are those of their channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The log begins.
    Begun {
        /// Whose it is.
        side: Side,
        /// Version of the log.
        version: u32,
        /// The audit key, which signs checkpoints.
        key: AuditKeyText,
    },
    /// A daemon starts.
    Started {
        /// Version of the program.
        program: String,
        /// SHA-256 of its configuration.
        config: Sha256,
    },
    /// A daemon ends because it was told to.
    Stopped {},
    /// The end of the log that a crash left was no entry and was taken out.
    Mended {
        /// Octets.
        octets: u64,
    },
    /// The log did not verify.
    Broken {
        /// How not.
        why: String,
    },
    /// Something was asked for.
    Asked {
        /// What.
        what: String,
    },
    /// What was asked for, or told above, did not take place.
    Failed {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The two sides know each other.
    Paired {
        /// The link.
        link: LinkId,
        /// The other side's key, or the fingerprint of the pairing file.
        with: String,
    },
    /// A key is made, taken or forgotten.
    Key {
        /// Which: `link`, `root`, `receiver`, …
        key: String,
        /// `made`, `added`, `removed`, `accepted`, `finished`.
        change: String,
        /// Its public half, or its number.
        value: String,
    },
    /// Numbers were set after a restore from a backup.
    Restored {
        /// The floor of each channel, as `CHANNEL=N`.
        floors: Vec<String>,
        /// Version of the metadata.
        versions: u64,
    },
    /// Artifacts were submitted.
    Submitted {
        /// The channel.
        channel: Channel,
        /// How many.
        artifacts: usize,
        /// Octets.
        bytes: u64,
        /// The names of the first.
        names: Vec<String>,
    },
    /// Artifacts were taken out of the next release.
    Withdrawn {
        /// The channel.
        channel: Channel,
        /// How many.
        artifacts: usize,
        /// The names of the first.
        names: Vec<String>,
    },
    /// Sources are pulled now.
    Pull {
        /// Their names.
        sources: Vec<String>,
    },
    /// A source was pulled.
    Pulled {
        /// The source.
        source: String,
        /// What came of it.
        report: String,
    },
    /// A release was cut, and is sent.
    Released {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// What it takes to be there.
        baseline: Option<ReleaseNo>,
        /// SHA-256 of its index.
        index: Sha256,
        /// Artifacts.
        artifacts: usize,
        /// Octets that it serves.
        bytes: u64,
    },
    /// Blocks are sent again.
    Resent {
        /// The channel.
        channel: Channel,
        /// The release that they go with.
        number: ReleaseNo,
        /// The release that was asked for.
        asked: ReleaseNo,
        /// Blocks.
        blocks: usize,
    },
    /// A release is exported to removable media.
    Exported {
        /// The export.
        export: String,
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// Blocks.
        blocks: usize,
        /// Volumes.
        volumes: u32,
    },
    /// A volume of an export is on its medium.
    Written {
        /// The export.
        export: String,
        /// The volume, from 1.
        volume: u32,
    },
    /// A lane is probed.
    Probed {
        /// The lane.
        lane: String,
    },
    /// Metadata is signed anew.
    Signed {},
    /// An export is being imported.
    Import {
        /// The export.
        export: String,
    },
    /// What came of an import so far.
    Imported {
        /// The export.
        export: String,
        /// Slots that are not here.
        missing: u32,
        /// Slots that parity repaired.
        repaired: u32,
    },
    /// What had come of an import that is not finished was thrown away.
    Discarded {
        /// The export.
        export: String,
    },
    /// Signed metadata was accepted.
    Trusted {
        /// Its version.
        version: u64,
        /// When it expires, seconds since 1970.
        expires_s: u64,
    },
    /// A release has come: its index is one that the metadata names.
    Arrived {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// SHA-256 of its index.
        index: Sha256,
        /// Artifacts.
        artifacts: usize,
        /// Octets that it serves.
        bytes: u64,
    },
    /// All of a release is there, and each digest, proof and rule was found to hold.
    Checked {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// Blobs.
        blobs: usize,
    },
    /// Scanners have looked at a release and found nothing.
    Scanned {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// By what, how much, and what they have not seen.
        summary: String,
    },
    /// An approver has decided on a release; who it was told by has only brought it.
    Decided {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// SHA-256 of its index.
        index: Sha256,
        /// Who.
        approver: String,
        /// The approver's key.
        key: ApproverId,
        /// `approve` or `reject`.
        decision: String,
        /// Why it is rejected.
        why: Option<String>,
    },
    /// Something that came is not taken, or a release is not published.
    Refused {
        /// What: `release main 4`, an object's name.
        what: String,
        /// Why.
        why: String,
    },
    /// A release is published.
    Published {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// SHA-256 of its index.
        index: Sha256,
        /// Artifacts.
        artifacts: usize,
    },
    /// A release is served from now on.
    Serving {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
    },
    /// A release is not served any more.
    Served {
        /// The channel.
        channel: Channel,
        /// The release.
        number: ReleaseNo,
        /// Since when it was, milliseconds since 1970.
        from_ms: u64,
        /// Until when.
        until_ms: u64,
    },
    /// A mirror host has connected, or is gone.
    Host {
        /// Its name.
        name: String,
        /// From where.
        from: String,
        /// `connected` or `gone`.
        change: String,
    },
    /// What is not kept is given back.
    Gc {
        /// Releases that are forgotten, as `CHANNEL N`.
        releases: Vec<String>,
    },
    /// The difference of the clocks was acknowledged.
    ClockAcknowledged {
        /// What it was.
        why: String,
    },
    /// A resend ticket was made.
    Ticket {
        /// Its SHA-256.
        ticket: Sha256,
    },
    /// Everything kept is compared with its digests.
    Verify {},
    /// Blocks are not what they were.
    Damaged {
        /// How many.
        blocks: usize,
        /// The first of them.
        first: Vec<BlockId>,
    },
}

impl Event {
    /// A key that changes.
    pub fn key(key: &str, change: &str, value: impl ToString) -> Self {
        Self::Key { key: key.to_owned(), change: change.to_owned(), value: value.to_string() }
    }
}

/// A public audit key in hexadecimal.
pub type AuditKeyText = String;

/// The first of these names, for an entry.
pub fn names<T: ToString>(all: impl IntoIterator<Item = T>) -> Vec<String> {
    all.into_iter().take(NAMES_MAX).map(|name| short(&name.to_string())).collect()
}

/// A text that is no longer than an entry holds.
pub(super) fn short(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}
