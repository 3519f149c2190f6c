//! `diode-receiver`: the high side of a Diodesync link.
//!
//! ```text
//! (one way) ══► lane ──inbox, blocks──► publish ──switch──► serve ──► terraform, browsers
//! ```
//!
//! Three roles, which one process fills: **lane** parses datagrams and writes packs, and knows no site key; **publish**
//! checks, and switches what is served; **serve** reads. They hand over by renamed files and by the [`handover`]
//! module's notices.

mod api;
mod apt;
mod certs;
mod cli;
mod config;
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod import;
mod init;
mod lane;
mod link_keys;
mod publish;
mod rotate;
mod run;
mod serve;
mod status;
mod ticket;
mod verify;

pub use cli::main;
