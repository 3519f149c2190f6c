//! The sender's alarms: their codes, who watches them, and where they go.
//!
//! A code never changes and is never given to another alarm. `DS-S-01` is about sending, `02` about what is sent, `04` about
//! this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use diodesync_control::alarms::{Codes, Config, Deliverer, Hook, Identity, Trouble, Watch};

use crate::api::Daemon;

/// Id, code, and what it means.
pub const CODES: Codes = &[
    ("lane-send", "DS-S-0101", "nothing can be sent on a lane"),
    ("lane-stopped", "DS-S-0102", "a lane has stopped"),
    ("packs-unreadable", "DS-S-0103", "blocks could not be read and were not sent"),
    ("packs-damaged", "DS-S-0201", "blocks are damaged or gone and are not sent"),
    ("source", "DS-S-0202", "a source could not be pulled wholly, again and again"),
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

/// How often it is looked what is wrong.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether to stop: what comes after must not wait for this.
const TICK: Duration = Duration::from_millis(20);

/// Waits for the next look. Whether there is none.
fn rest(stop: &AtomicBool) -> bool {
    for _ in 0..INTERVAL.as_millis() / TICK.as_millis() {
        if stop.load(Ordering::Relaxed) {
            return true;
        }
        std::thread::sleep(TICK);
    }
    stop.load(Ordering::Relaxed)
}

fn command_state(dir: &Path) -> PathBuf {
    dir.join("alarms.command")
}

fn webhook_state(dir: &Path) -> PathBuf {
    dir.join("alarms.webhook")
}

/// Threads that end when they are told to.
#[derive(Debug)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Watches the daemon's alarms, and takes them to command and webhook.
    pub fn start(daemon: Arc<Daemon>) -> anyhow::Result<Self> {
        let (dir, stop) = (daemon.config.dir.clone(), Arc::new(AtomicBool::new(false)));
        let mut watch = Watch::open(&dir, Identity { side: "sender", link: daemon.link, codes: CODES })?;
        let mut threads = Vec::new();
        if let Some(hook) = Hook::command(&daemon.config.alarms) {
            threads.push(Deliverer::new(&dir, hook, command_state(&dir)).start(stop.clone())?);
        }
        if let Some(hook) = Hook::webhook(&daemon.config.alarms)? {
            threads.push(Deliverer::new(&dir, hook, webhook_state(&dir)).start(stop.clone())?);
        }
        let until = stop.clone();
        let looking = move || {
            while !rest(&until) {
                let alarms = daemon.status().alarms;
                watch.look(alarms.iter().map(|alarm| (alarm.id.as_str(), alarm.text.as_str())));
            }
        };
        let thread = std::thread::Builder::new().name("alarms".to_owned()).spawn(looking);
        threads.push(thread.context("cannot start a thread")?);
        Ok(Self { stop, threads })
    }

    /// Ends them.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// What does not get through: id and text.
pub fn troubles(dir: &Path, config: &Config) -> Vec<(&'static str, String)> {
    let command = (!config.command.is_empty()).then(|| Trouble::read(&command_state(dir)).text("command"));
    let webhook = config.webhook.is_some().then(|| Trouble::read(&webhook_state(dir)).text("webhook"));
    let named = |id: &'static str| move |text: String| (id, text);
    let command = command.flatten().map(named("alarm-command"));
    command.into_iter().chain(webhook.flatten().map(named("alarm-webhook"))).collect()
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
