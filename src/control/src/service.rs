//! What the service manager is told (`sd_notify(3)`): that the daemon is up, that it gets on, that it stops. Without one
//! nothing is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Counts the turns of a thread that must not stand still.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// One more turn.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Has the calling thread take second place (`nice`, setpriority(2): on Linux that is a thread's own) behind what must
/// not wait, like a socket. Where that is not allowed it goes on as it is.
pub fn yield_to_others(nice: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(%error, "the thread's priority stays as it is");
    }
}

/// How often who rests looks whether to stop.
const REST_TICK: Duration = Duration::from_millis(20);

/// Waits, but not once it is to stop. Whether it is.
pub fn rest(time: Duration, stop: &AtomicBool) -> bool {
    for _ in 0..time.as_millis() / REST_TICK.as_millis() {
        if stop.load(Ordering::Relaxed) {
            return true;
        }
        std::thread::sleep(REST_TICK);
    }
    stop.load(Ordering::Relaxed)
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// The daemon does what it is for from now on.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The daemon ends.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Feeds the watchdog, if there is one, for as long as every pulse beats: a thread that hangs is a reason to start anew.
/// Goes on until it is aborted.
pub async fn feed_watchdog(pulses: Vec<Pulse>) {
    let Some(time) = sd_notify::watchdog_enabled() else { return };
    let mut before: Vec<u64> = pulses.iter().map(|pulse| pulse.count().wrapping_sub(1)).collect();
    loop {
        let now: Vec<u64> = pulses.iter().map(Pulse::count).collect();
        if before.iter().zip(&now).all(|(before, now)| before != now) {
            tell(NotifyState::Watchdog);
        } else {
            tracing::warn!("a thread stands still; the watchdog is not fed");
        }
        before = now;
        tokio::time::sleep((time / 3).max(Duration::from_millis(100))).await;
    }
}
