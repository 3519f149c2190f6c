//! Entrances for the fuzz targets (`tests/fuzz`), and for nothing else.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use diodesync::pack::PackStore;

use crate::config::Config;
use crate::deb;
use crate::provider_zip;
use crate::store::Store;
use crate::submit;

/// A text as `sender.toml`; why it is refused.
pub fn config(text: &str) -> Result<(), String> {
    Config::parse(text).map(|_| ()).map_err(|error| format!("{error:#}"))
}

/// Octets as the zip of a provider of this type: its `h1:` digest, and whether Terraform would find the executable.
pub fn provider_zip(zip: &[u8], kind: &str) -> (Result<[u8; 32], String>, Result<(), String>) {
    let is_provider = provider_zip::check_is_provider_zip(Cursor::new(zip), kind);
    (
        provider_zip::h1(Cursor::new(zip)).map_err(|error| error.to_string()),
        is_provider.map_err(|error| error.to_string()),
    )
}

/// The control file of a Debian package, or why it is none.
pub fn control_file(deb: &[u8]) -> Result<Vec<u8>, String> {
    deb::control_file(Cursor::new(deb), deb.len() as u64).map_err(|error| error.to_string())
}

/// What a producer connects with, for tests that then do not keep to the protocol: its folder, and the sender's pin.
pub fn producer(dir: &std::path::Path, server: &str) -> Result<quinn::ClientConfig, String> {
    let identity = crate::producers::of_producer(dir).map_err(|error| format!("{error:#}"))?;
    identity
        .client(server.parse()?, &crate::producers::TALK)
        .map(|(config, _)| config)
        .map_err(|error| format!("{error:#}"))
}

/// A whole submission to an empty sender; the indexes that it staged, or why it was refused.
pub fn submission<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, String> {
    let chunks: Vec<Bytes> = chunks.map(Bytes::copy_from_slice).collect();
    let (sender, receiver) = tokio::sync::mpsc::channel(chunks.len().max(1));
    for chunk in chunks {
        sender.try_send(chunk).map_err(|error| error.to_string())?;
    }
    drop(sender);
    let dir = Folder::new();
    let text = |error: anyhow::Error| format!("{error:#}");
    let store = Mutex::new(Store::open(&dir.0).map_err(text)?);
    let packs = PackStore::open(&dir.0.join("packs")).map_err(|error| error.to_string())?;
    let staged = |store: &Mutex<Store>| -> Vec<Vec<u8>> {
        store
            .lock()
            .map(|store| store.staged.values().map(|index| index.encode()).collect())
            .unwrap_or_default()
    };
    match submit::receive(&packs, &store, &Mutex::new(()), receiver, &submit::Submitter::trusted(&|_| Ok(())))
    {
        Ok(_) => Ok(staged(&store)),
        Err(error) => {
            assert!(staged(&store).is_empty(), "nothing is kept of what was refused");
            Err(text(error))
        }
    }
}

/// A folder in memory, if there is such a file system.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(base.join(format!("diodesync-fuzz-{}-{next}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
