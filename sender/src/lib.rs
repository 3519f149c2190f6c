//! `diode-sender`: the low side of a Diodesync link.
//!
//! ```text
//! submit, sources ──► ingest ──► packs ──► release ──► lane ══► (one way)
//! ```
//!
//! One daemon (`run`) owns the folder; every other command speaks to it over its control socket, but for `init`.

mod alarms;
mod api;
mod audit;
mod cli;
mod config;
mod dashboard;
mod deb;
#[cfg(test)]
mod every_byte;
mod export;
#[doc(hidden)]
pub mod fuzz;
mod housekeep;
mod ingest;
mod init;
mod lane;
mod link_key;
mod probe;
mod producers;
mod provider_zip;
mod random;
mod receivers;
mod release;
mod reload;
mod resend;
mod restore;
mod rotate;
mod run;
mod sending;
mod sources;
mod status;
mod store;
mod submit;
mod verify;
mod withdraw;

pub use cli::main;
