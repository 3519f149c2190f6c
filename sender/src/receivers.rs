//! `receivers`: the keys that sessions are sealed to: standby, splitter, and the next key of a receiver that rotates.
//!
//! They are read when the daemon starts: a session is offered to those that were there when it began.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::audit::Event;
use diodesync::limits::RECEIVER_KEYS_MAX;
use diodesync::link::ReceiverPublic;
use diodesync::pack::fact;
use diodesync_control::DirLock;

use crate::audit;
use crate::init::LinkFile;

/// A change of the list.
#[derive(Debug)]
pub enum Change {
    /// One more, whose receiver.pub this is.
    Add(PathBuf),
    /// One less, whose key begins so.
    Remove(String),
}

/// Lists or changes them.
pub fn receivers(dir: &Path, change: Option<Change>, json: bool) -> anyhow::Result<()> {
    let path = dir.join("link.json");
    let _lock = DirLock::take(&dir.join("keys"), "lock").context("another change of keys is under way")?;
    let content = fact::read(&path)?.with_context(|| format!("{} is not initialised", dir.display()))?;
    let mut file: LinkFile =
        serde_json::from_slice(&content).context("the fact file link.json is damaged")?;
    let is_changed = change.is_some();
    let before = file.receivers.clone();
    match change {
        None => {}
        Some(Change::Add(public)) => {
            let text = std::fs::read_to_string(&public)
                .with_context(|| format!("cannot read {}", public.display()))?;
            let key: ReceiverPublic =
                text.trim().parse().with_context(|| format!("{} is not a receiver.pub", public.display()))?;
            add(&mut file.receivers, key.to_string())?;
        }
        Some(Change::Remove(key)) => remove(&mut file.receivers, &key)?,
    }
    if is_changed {
        for (keys, others, change) in
            [(&file.receivers, &before, "added"), (&before, &file.receivers, "removed")]
        {
            for key in keys.iter().filter(|key| !others.contains(key)) {
                audit::tell(dir, Event::key("receiver", change, key))?;
            }
        }
        fact::write(&path, &serde_json::to_vec_pretty(&file)?)?;
    }
    if json {
        println!("{:#}", serde_json::json!({ "receivers": file.receivers }));
        return Ok(());
    }
    file.receivers.iter().for_each(|key| println!("{key}"));
    if is_changed {
        println!("Restart the sender: its next session is sealed to these. A new session costs nothing.");
    }
    Ok(())
}

fn add(receivers: &mut Vec<String>, key: String) -> anyhow::Result<()> {
    if receivers.contains(&key) {
        return Ok(());
    }
    if receivers.len() >= RECEIVER_KEYS_MAX {
        bail!("sessions are sealed to {RECEIVER_KEYS_MAX} receivers already; remove one first");
    }
    receivers.push(key);
    Ok(())
}

fn remove(receivers: &mut Vec<String>, key: &str) -> anyhow::Result<()> {
    let found: Vec<String> = receivers.iter().filter(|known| known.starts_with(key)).cloned().collect();
    match found.as_slice() {
        [one] if receivers.len() > 1 => receivers.retain(|known| known != one),
        [_] => bail!("{key} is the only receiver; add another one first"),
        [] => bail!("no receiver has the key {key}; see: diode-sender receivers list"),
        _ => bail!("{} receivers have a key that begins with {key}; give more of it", found.len()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_one_to_eight_receivers() {
        let mut list = vec!["00aa".to_owned()];
        assert!(remove(&mut list, "00").unwrap_err().to_string().contains("only receiver"));
        (1..8).for_each(|n| add(&mut list, format!("{n}0aa")).unwrap());
        add(&mut list, "10aa".to_owned()).unwrap();
        assert_eq!(list.len(), 8);
        assert!(add(&mut list, "ff".to_owned()).unwrap_err().to_string().contains("8 receivers"));
        assert!(remove(&mut list, "9").is_err() && remove(&mut list, "").is_err());
        remove(&mut list, "00").unwrap();
        assert_eq!(list.len(), 7);
    }
}
