//! The audit log: who did what, and what arrived, was refused, published and served, in a form in which no entry can be
//! changed or taken out without a trace.
//!
//! # The log
//!
//! JSON lines (RFC 8259, one object in each, ended by LF, no line longer than [`ENTRY_BYTES_MAX`]). The keys of an entry
//! stand in this order:
//!
//! | key | says |
//! |---|---|
//! | `seq` | its number: 1, 2, 3 … without a gap |
//! | `time_ms` | when, by this side's clock, milliseconds since 1970 |
//! | `by` | who: [`Actor`] |
//! | `event`, and what belongs to it | what: [`Event`] |
//! | `prev` | the SHA-256 of the line before, without its LF; 64 zeros in the first |
//!
//! Each entry is durable before what it tells of is done, so nothing is done that is not told; where that then fails, an
//! entry `failed` follows. After a crash something may be told that is done, and told, once more.
//!
//! # What it proves
//!
//! An entry that was changed, taken out, put in or moved does not fit its neighbours. Who can write the whole log can
//! write another one that fits, or a shorter one; a [`Checkpoint`] that was exported before finds that: it names the
//! number and the hash of an entry, and is signed with the audit key of its side. What was written after the newest
//! checkpoint that is in good hands is only as good as the host that it lies on.
//!
//! Version 1. A reader passes over events and keys that it does not know.

mod chain;
mod checkpoint;
mod entry;
mod event;

pub use chain::{Chain, Head, Wrong};
pub use checkpoint::{AuditKey, AuditPublic, Checkpoint, CheckpointError};
pub use entry::{ENTRY_BYTES_MAX, Entry, Line, Told};
pub use event::{Actor, Event, Person, Side, names};
