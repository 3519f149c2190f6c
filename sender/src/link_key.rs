//! `rotate-link`: a new key that signs sessions.
//!
//! ```text
//! 1. keys/link.next.key            announced in targets.json, after the present key
//! 2. the receiver accepts either   it takes a key from TUF metadata only, so a captured link key introduces none
//! 3. --finish: link.next.key over link.key; with the next session the receiver forgets the old key
//! ```
//!
//! Nobody can ask whether the receiver has heard of the new key, so a person says when to finish. A receiver that was
//! down until then has to be told by hand: `diode-receiver accept-link-key`.

use std::path::Path;

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::id::Blake3;
use diodesync::link::LinkKey;
use diodesync::pack::fact;
use diodesync_control::{Client, DirLock};

use crate::audit;
use crate::config::Config;
use crate::init::{Keys, read_key};
use crate::random;

/// The key that signs sessions, from the folder of keys.
pub fn load(keys: &Path) -> anyhow::Result<LinkKey> {
    Ok(LinkKey::from_seed(&read_key(&keys.join("link.key"))?))
}

/// A key as the other side names it: hexadecimal.
pub fn text(key: &LinkKey) -> String {
    Blake3(key.verifier().to_bytes()).to_string()
}

impl Keys {
    /// What the metadata says of link keys: the one that signs the running session, then the one in the folder, then the
    /// next one. Read anew each time, so that a running daemon sees a rotation.
    pub fn link_keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = vec![text(&self.link)];
        for name in ["link.key", "link.next.key"] {
            let path = self.dir.join(name);
            if path.exists() {
                keys.push(text(&LinkKey::from_seed(&read_key(&path)?)));
            }
        }
        keys.dedup();
        Ok(keys)
    }
}

fn tell(dir: &Path, change: &str, key: &LinkKey) -> anyhow::Result<()> {
    audit::tell(dir, Event::key("link", change, text(key)))
}

/// Begins a rotation, or ends it.
pub async fn rotate(config: &Config, client: &Client, finish: bool) -> anyhow::Result<()> {
    let keys = config.dir.join("keys");
    let _lock = DirLock::take(&keys, "lock").context("another change of keys is under way")?;
    let (current, next) = (keys.join("link.key"), keys.join("link.next.key"));
    if finish {
        if !next.exists() {
            bail!("no rotation is under way; begin one with: diode-sender rotate-link");
        }
        let key = LinkKey::from_seed(&read_key(&next)?);
        tell(&config.dir, "finished", &key)?;
        std::fs::rename(&next, &current).with_context(|| format!("cannot replace {}", current.display()))?;
        fact::sync_dir(&keys)?;
        println!("sessions are signed with the new key when the sender has been restarted");
        println!("with the first of them the receiver forgets the old key");
        return Ok(());
    }
    if !next.exists() {
        let seed: [u8; 32] = random::array()?;
        tell(&config.dir, "made", &LinkKey::from_seed(&seed))?;
        fact::write_secret(&next, &seed)?;
    }
    println!("the new link key is {}", text(&LinkKey::from_seed(&read_key(&next)?)));
    if config.socket().exists() {
        client.post("/v1/sign", &serde_json::Value::Null).await.context(
            "the key is made and the running daemon does not announce it yet; restart it, or say why it runs not",
        )?;
        println!("the running sender announces it; the receiver's status shows when it knows it. Then:");
    } else {
        println!("the sender announces it when it runs; the receiver's status shows when it knows it. Then:");
    }
    println!("  diode-sender rotate-link --finish");
    Ok(())
}
