//! Push to a registry: docker-registry, Harbor, zot, or any other that follows the distribution specification.
//!
//! What is there already is asked for and not sent again; blobs that another repository of the registry has are mounted
//! from there; large ones are sent in parts, and an upload that broke off is taken up where it was, after a restart of
//! either side too. Manifests are pushed octet by octet, children before parents, and tags last, so that no tag ever
//! leads to a part of an image. Where the registry lists no referrers, the fallback tag does ([`fallback`]).

mod challenge;
mod error;
mod fallback;
mod http;
mod name_map;
mod plan;
mod push;
mod registry;
#[cfg(test)]
mod tests;

pub use error::PushError;
pub use name_map::{NameMap, RegistryHost};
pub use push::{Memory, Outcome, Reporter, push};
