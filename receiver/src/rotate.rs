//! `rotate`: a new receiver key.
//!
//! ```text
//! 1. keys/pairing.key        the pairing secret, which was sealed to the old key
//! 2. keys/receiver.next.key  sessions open with either key
//! 3. receiver.pub            the new one, to be carried to the sender: diode-sender receivers add
//! 4. --finish: keys/receiver.next.key over keys/receiver.key
//! ```
//!
//! A power cut between any two steps leaves keys that open the sessions; the same command goes on.

use std::path::Path;

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::link::ReceiverKey;
use diodesync::pack::fact;

use crate::audit;
use crate::init;
use crate::link_keys;

/// Begins a rotation, or ends it.
pub fn rotate(dir: &Path, finish: bool) -> anyhow::Result<()> {
    let (current, next) = (dir.join("keys/receiver.key"), dir.join("keys/receiver.next.key"));
    if finish {
        if !next.exists() {
            bail!("no rotation is under way; begin one with: diode-receiver rotate");
        }
        let new = ReceiverKey::from_seed(&init::read_key(&next)?);
        if !link_keys::is_sealed_to(dir, new.public().id())? {
            bail!(
                "the newest session that came is not sealed to the new key; with the old one forgotten nothing could be read. \
                 On the low side: diode-sender receivers add receiver.pub, and restart the sender"
            );
        }
        let old = ReceiverKey::from_seed(&init::read_key(&current)?).public().clone();
        audit::tell(dir, Event::key("receiver", "finished", new.public()))?;
        std::fs::rename(&next, &current).with_context(|| format!("cannot replace {}", current.display()))?;
        fact::sync_dir(&dir.join("keys"))?;
        println!("the old key is forgotten. Restart the receiver; on the low side:");
        println!("  diode-sender receivers remove {old}");
        return Ok(());
    }
    let (paired, _) = init::load_pairing(dir)?;
    fact::write_secret(&dir.join("keys/pairing.key"), &paired.secret.0)?;
    if !next.exists() {
        let seed = init::random_seed()?;
        audit::tell(dir, Event::key("receiver", "made", ReceiverKey::from_seed(&seed).public()))?;
        fact::write_secret(&next, &seed)?;
    }
    let key = ReceiverKey::from_seed(&init::read_key(&next)?);
    let public = dir.join("receiver.pub");
    fact::write_atomic(&public, 0o644, &[format!("{}\n", key.public()).as_bytes()])?;
    println!("Restart the receiver: it opens sessions with the old key and the new one.");
    println!("Carry {} to the sender and run there:", public.display());
    println!("  diode-sender receivers add receiver.pub");
    println!("When the sender has been restarted and releases arrive, forget the old key here:");
    println!("  diode-receiver rotate --finish");
    Ok(())
}
