//! `reload`: what the sender takes of its configuration while it runs.

use std::sync::{Arc, PoisonError};

use diodesync::audit::Actor;
use diodesync_control::clock_s;
use diodesync_control::reload::{Part, Reloaded};

use crate::api::Daemon;
use crate::config::Config;

/// What is taken while it runs.
const TAKEN: [(&str, Part); 6] = [
    ("source", Part::All),
    ("channel", Part::All),
    ("trust", Part::All),
    ("lane", Part::Keys(&["rate", "rate_windows"])),
    ("producers", Part::Keys(&["connections_max", "stall_max", "keep_parts"])),
    ("producer", Part::All),
];

/// Reads the configuration anew and goes by it. Blocks the thread.
///
/// # Errors
/// If it is not sound; then everything stays as it was.
pub fn reload(daemon: &Daemon, by: &Actor) -> anyhow::Result<Reloaded> {
    // Where nobody listens, producers have nowhere to come to.
    let is_heard = daemon.producers.open.is_some();
    let taken: Vec<_> =
        TAKEN.into_iter().filter(|(section, _)| is_heard || !section.starts_with("producer")).collect();
    daemon.in_force.reload(&taken, Config::parse, |config, reloaded| {
        let current = daemon.config();
        let sources = daemon.sources.prepare(&config.source, clock_s())?;
        let producers = daemon.producers.prepare(&current.dir, &config.producers)?;
        daemon.audit.tell(by, reloaded.event())?;
        // From here on nothing fails.
        daemon.sources.set(sources);
        daemon.producers.set(producers);
        daemon.sending.set_channels(config.channels());
        for lane in &daemon.lanes {
            if let Some(now) = config.lane.iter().find(|now| now.name == lane.config.name) {
                lane.set_rates(now);
            }
        }
        let mut next = Config::clone(&current);
        (next.channel, next.trust) = (config.channel, config.trust);
        *daemon.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        tracing::info!(taken = reloaded.taken.join(", "), "the configuration was read again");
        Ok(())
    })
}
