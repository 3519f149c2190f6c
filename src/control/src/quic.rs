//! QUIC between two programs that know each other's keys.
//!
//! | module | what it is for |
//! |---|---|
//! | [`identity`] | keys and pins, and TLS with them |
//! | [`door`] | what somebody costs before it has proved its key |
//! | [`frame`] | messages behind their length |

pub mod door;
pub mod frame;
mod identity;

pub use identity::{Identity, Pin, Talk};
