//! Entrances for the fuzz targets (`tests/fuzz`), and for nothing else.

use std::path::Path;
use std::sync::Arc;

use diodesync::id::PackId;
use diodesync::pack::PackStore;
use diodesync::release::Index;

use crate::config::Config;
pub use crate::handover::remote::kinds_of_message;
use crate::lane::partial;
use crate::serve::{self, ClientFiles, Site, SiteHandle};

/// A text as `receiver.toml`; why it is refused.
pub fn config(text: &str) -> Result<(), String> {
    Config::parse(text).map(|_| ()).map_err(|error| format!("{error:#}"))
}

/// A text as the name of a file of symbols.
pub fn partial_name(text: &str) {
    if let Some(key) = partial::parse_name(text) {
        assert_eq!(partial::parse_name(&partial::name(&key)), Some(key));
    }
}

/// A mirror of one release in one pack, which is made in `dir`.
pub fn mirror(dir: &Path, octets: &[u8], pack: PackId, index: Index) -> anyhow::Result<axum::Router> {
    let packs = Arc::new(PackStore::open(dir)?);
    packs.write_at(pack, 0, octets)?;
    let site = Site::new(vec![Arc::new(index)], packs)?;
    let client = ClientFiles { ca_pem: None, base_url: "https://mirror.example:8443".to_owned() };
    Ok(serve::router(SiteHandle::new(Arc::new(site)), client))
}
