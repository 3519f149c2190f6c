//! `diode-receiver`: the high side of a Diodesync link.
//!
//! ```text
//! (one way) ══► lane ──inbox, blocks──► publish ──switch──► serve ──► terraform, browsers
//!                                                      └─► mirror ──► the site's registries and trees
//! ```
//!
//! Four roles, which one process fills: **lane** parses datagrams and writes packs, and knows no site key; **publish**
//! checks, and switches what is served; **serve** reads, and feeds mirror hosts; **mirror** pushes to the site's own mirrors.
//! On a mirror host **upstream** stands where the lane does. They hand over by renamed files and by the [`handover`]
//! module's notices.

mod alarms;
mod api;
mod approve;
mod apt;
mod audit;
mod certs;
mod cli;
mod config;
mod dashboard;
mod feed;
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod import;
mod init;
mod lane;
mod link_keys;
mod mirror;
mod publish;
mod reload;
mod rotate;
mod run;
mod scan;
mod serve;
mod status;
mod ticket;
mod upstream;
mod verify;

pub use cli::main;
