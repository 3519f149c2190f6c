//! The rules that both sides of a Diodesync link share.
//!
//! Time and randomness are arguments here; the daemons `diode-sender` and `diode-receiver` own the clocks, the
//! sockets and the threads. Read in this order:
//!
//! | module | what it rules |
//! |---|---|
//! | [`id`], [`limits`], [`codec`] | the words, the bounds, the encoding |
//! | [`buffer`] | octets where the kernel copies them fast |
//! | [`wire`] | the datagrams, octet by octet |
//! | [`link`] | sessions: keys, sealing, replay |
//! | [`fec`] | blocks and symbols |
//! | [`send`], [`recv`] | what to send next; what a datagram means |
//! | [`release`] | artifacts, the index, what a release has to send |
//! | [`trust`] | the TUF metadata that a release needs to be published |
//! | [`pack`], [`journal`] | what is on disk |
//! | [`ticket`], [`volume`] | what is missing, on paper; releases on removable media |
//! | [`passphrase`] | keys that lie on a person's machine |
//! | [`audit`] | who did what: a log in which no entry can be changed without a trace |

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]
// A test starts its virtual clock somewhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod aead;
pub mod audit;
pub mod buffer;
pub mod codec;
pub mod fec;
pub mod id;
pub mod journal;
pub mod limits;
pub mod link;
pub mod pack;
pub mod pairing;
pub mod passphrase;
pub mod quantity;
pub mod recv;
pub mod release;
pub mod send;
pub mod ticket;
pub mod trust;
pub mod volume;
pub mod wire;

#[cfg(test)]
mod testing;
