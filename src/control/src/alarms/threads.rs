//! The threads that watch alarms and take them to hooks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use super::{Config, Deliverer, Hook, Identity, Trouble, Watch};
use crate::service::rest;

/// How often it is looked what is wrong.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where hooks keep how far they have got.
#[derive(Debug, Clone)]
pub struct Places {
    /// The command.
    pub command: PathBuf,
    /// The webhook.
    pub webhook: PathBuf,
}

impl Places {
    /// What does not get through: id and text.
    pub fn troubles(&self, config: &Config) -> Vec<(&'static str, String)> {
        let told = |is_there: bool, path: &Path, hook| {
            is_there.then(|| Trouble::read(path)).and_then(|trouble| trouble.text(hook))
        };
        let command = told(!config.command.is_empty(), &self.command, "command");
        let webhook = told(config.webhook.is_some(), &self.webhook, "webhook");
        let command = command.map(|text| ("alarm-command", text));
        command.into_iter().chain(webhook.map(|text| ("alarm-webhook", text))).collect()
    }
}

/// Threads that end when they are told to.
#[derive(Debug, Default)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Watches what is wrong, id and text of each.
    ///
    /// # Errors
    /// If the record of the alarms is damaged, or there can be no thread.
    pub fn watch(
        dir: &Path,
        whose: Identity,
        alarms: impl Fn() -> Vec<(String, String)> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (mut watch, stop) = (Watch::open(dir, whose)?, Arc::new(AtomicBool::new(false)));
        let until = stop.clone();
        let looking = move || {
            while !rest(INTERVAL, &until) {
                watch.look(alarms().iter().map(|(id, text)| (id.as_str(), text.as_str())));
            }
        };
        let thread = std::thread::Builder::new().name("alarms".to_owned()).spawn(looking);
        Ok(Self { stop, threads: vec![thread.context("cannot start a thread")?] })
    }

    /// Takes the alarms in `dir` to a hook, too, if there is one.
    pub fn with(mut self, dir: &Path, hook: Option<Hook>, state: PathBuf) -> anyhow::Result<Self> {
        if let Some(hook) = hook {
            self.threads.push(Deliverer::new(dir, hook, state).start(self.stop.clone())?);
        }
        Ok(self)
    }

    /// Ends them.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
