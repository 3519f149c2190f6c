//! `reload`: what may be published is read again from the configuration, without a restart. What else has changed there is
//! named, and waits for one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use diodesync::id::{LinkId, Sha256};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::publish::{Gate, PublishShared, Rules};
use crate::scan::ScanConfig;

/// Sections that are taken while it runs.
const TAKEN: [&str; 4] = ["policy", "approver", "scan", "channel"];

/// The configuration as it is in force.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    table: Mutex<toml::Table>,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The SHA-256 of the configuration.
    pub config: Sha256,
    /// Sections that are others now.
    pub taken: Vec<String>,
    /// Sections that are others in the file, and wait for a restart.
    pub waiting: Vec<String>,
}

impl Reloaded {
    fn new(text: &str, before: &toml::Table, after: &toml::Table) -> Self {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned();
        let (taken, waiting) = changed.partition(|name| TAKEN.contains(&name.as_str()));
        Self { config: Sha256::of(text.as_bytes()), taken, waiting }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let taken = match self.taken.as_slice() {
            [] => "nothing of what may be published has changed".to_owned(),
            taken => format!("taken: {}", taken.join(", ")),
        };
        match self.waiting.as_slice() {
            [] => taken + "\n",
            waiting => format!("{taken}\nchanged, and waiting for a restart: {}\n", waiting.join(", ")),
        }
    }
}

/// What the configuration says of what may be published.
pub fn rules(config: &Config, link: LinkId) -> anyhow::Result<Rules> {
    let gate = Gate {
        link,
        policy: config.policy(),
        approvers: config.approvers(),
        quorum: config.quorum(),
        scanner: config.scan.as_ref().map(ScanConfig::scanner).transpose()?,
    };
    Ok(Rules { gate, keep: config.keep() })
}

impl InForce {
    /// Of the file from which `config` was read just now.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (_, table, _) = read(path)?;
        Ok(Self { path: path.to_owned(), table: Mutex::new(table) })
    }

    /// Reads the file anew, and has the publisher go by it. Blocks the thread.
    ///
    /// # Errors
    /// If it is not sound; then everything stays as it was.
    pub fn reload(
        &self,
        link: LinkId,
        publish: &PublishShared,
        tell: impl FnOnce(&Reloaded) -> anyhow::Result<()>,
    ) -> anyhow::Result<Reloaded> {
        let mut before = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, after, text) = read(&self.path)?;
        let reloaded = Reloaded::new(&text, &before, &after);
        tell(&reloaded)?;
        publish.reload(rules(&config, link)?)?;
        // What waits for a restart still differs the next time.
        for name in &reloaded.taken {
            match after.get(name) {
                Some(section) => before.insert(name.clone(), section.clone()),
                None => before.remove(name),
            };
        }
        Ok(reloaded)
    }
}

fn read(path: &Path) -> anyhow::Result<(Config, toml::Table, String)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::parse(&text).with_context(|| format!("in {}", path.display()))?;
    let table = text.parse().with_context(|| format!("in {}", path.display()))?;
    Ok((config, table, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let before = table("dir = '/x'\n[policy]\ndefault = 'deny'\n[scan]\nclamd = '/y'\n");
        let after = table("dir = '/z'\n[policy]\ndefault = 'allow'\n[[approver]]\nname = 'a'\n");
        let reloaded = Reloaded::new("x", &before, &after);
        assert_eq!(reloaded.taken, ["approver", "policy", "scan"]);
        assert_eq!(reloaded.waiting, ["dir"]);
        assert!(reloaded.to_text().ends_with("waiting for a restart: dir\n"));
        let same = Reloaded::new("x", &before, &before);
        assert_eq!(same.to_text(), "nothing of what may be published has changed\n");
    }
}
