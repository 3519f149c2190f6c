//! Producers: build hosts that submit over QUIC what they have made.
//!
//! | module | what it is for |
//! |---|---|
//! | [`protocol`] | what both ends say, octet by octet |
//! | [`rights`] | who may submit what; pure |
//! | [`identity`] | their keys |
//! | [`config`] | `[producers]` and `[[producer]]` |
//! | [`folder`] | what has come and is not staged yet |
//! | [`desk`] | what the daemon keeps of each producer |
//! | [`listen`] | where they are heard |
//! | [`plan`] | what is lacking of an offer |
//! | [`session`] | one connection, on the sender's end |
//! | [`client`] | on the producer's end |
//!
//! No producer learns from the answers what others have brought: a blob counts as held only if an artifact within the
//! producer's own rights is made of it, and an image is made only of blobs that its submission names.

mod client;
mod command;
mod config;
mod desk;
mod folder;
mod identity;
mod listen;
mod plan;
mod protocol;
mod rights;
mod session;

pub use client::Remote;
pub use command::{make_key, producers};
pub use config::{Listen, parse};
pub use desk::{Listing, ProducerStatus, Producers};
pub use identity::{Pin, TALK, of_producer};
pub use listen::Listening;
pub use rights::Producer;
