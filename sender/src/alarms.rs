//! The sender's alarms: their codes, who watches them, and where they go.
//!
//! A code never changes and is never given to another alarm. `DS-S-01` is about sending, `02` about what is sent, `04` about
//! this host.

use std::path::Path;
use std::sync::Arc;

use diodesync_control::alarms::{Codes, Config, Hook, Identity, Places, Threads};

use crate::api::Daemon;

/// Id, code, and what it means.
pub const CODES: Codes = &[
    ("lane-send", "DS-S-0101", "nothing can be sent on a lane"),
    ("lane-stopped", "DS-S-0102", "a lane has stopped"),
    ("packs-unreadable", "DS-S-0103", "blocks could not be read and were not sent"),
    ("neighbour", "DS-S-0104", "the kernel does not know the hardware address at the end of a lane"),
    ("packs-damaged", "DS-S-0201", "blocks are damaged or gone and are not sent"),
    ("source", "DS-S-0202", "a source could not be pulled wholly, again and again"),
    ("producers", "DS-S-0203", "producers are not heard, or nothing is taken from one"),
    ("disk-full", "DS-S-0401", "less is free than what is kept back"),
    ("disk", "DS-S-0402", "the disk cannot be measured"),
    ("journal", "DS-S-0403", "the journal is closed"),
    (
        "housekeeping",
        "DS-S-0404",
        "what is not kept cannot be given back, or what is due cannot be sent again",
    ),
    ("audit", "DS-S-0406", "the audit log cannot be written, or is not what was written"),
    ("dashboard", "DS-S-0407", "the dashboard does not answer"),
    ("alarm-command", "DS-S-0410", "alarms do not get through to the command"),
    ("alarm-webhook", "DS-S-0411", "alarms do not get through to the webhook"),
];

/// Where hooks keep how far they have got.
fn places(dir: &Path) -> Places {
    Places { command: dir.join("alarms.command"), webhook: dir.join("alarms.webhook") }
}

/// Watches the daemon's alarms, and takes them to command and webhook.
pub fn start(daemon: Arc<Daemon>) -> anyhow::Result<Threads> {
    let config = daemon.config();
    let dir = config.dir.clone();
    let identity = Identity { side: "sender", link: daemon.link, codes: CODES };
    let command = Hook::command(&config.alarms);
    let webhook = Hook::webhook(&config.alarms)?;
    Threads::watch(&dir, identity, move || {
        daemon.status().alarms.into_iter().map(|alarm| (alarm.id, alarm.text)).collect()
    })?
    .with(&dir, command, places(&dir).command)?
    .with(&dir, webhook, places(&dir).webhook)
}

/// What does not get through: id and text.
pub fn troubles(dir: &Path, config: &Config) -> Vec<(&'static str, String)> {
    places(dir).troubles(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_of_the_source_has_a_code_and_each_code_one_alarm() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let used = diodesync_control::alarms::used_ids(&source);
        assert!(used.len() > 8, "{used:?}");
        for id in &used {
            assert!(CODES.iter().any(|(known, ..)| known == id), "alarm {id} has no code");
        }
        let codes: std::collections::BTreeSet<_> = CODES.iter().map(|(_, code, _)| code).collect();
        let ids: std::collections::BTreeSet<_> = CODES.iter().map(|(id, ..)| id).collect();
        assert_eq!((codes.len(), ids.len()), (CODES.len(), CODES.len()));
    }
}
