//! What both programs need around their rules: the control socket (HTTP and JSON over a Unix socket), the dashboard, the
//! audit log, alarms, secret files, QUIC between programs that know each other's keys, what is taken of a configuration while
//! a daemon runs, the lock that makes it the only one in its folder, progress on a terminal, man pages, and the exit codes.

pub mod alarms;
pub mod audit;
mod client;
pub mod dashboard;
mod manual;
mod progress;
pub mod quic;
pub mod reload;
pub mod secret;
mod server;
pub mod service;
mod stream;
pub mod table;
mod verify;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

pub use client::Client;
pub use manual::Manual;
pub use progress::Progress;
pub use server::{ApiError, bind, on_thread, serve};
pub use stream::ReceiverStream;
pub use verify::{VerifyJob, VerifyState, ask_verify};

/// Milliseconds since 1970 by this machine's clock.
pub fn clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Seconds since 1970 by this machine's clock.
pub fn clock_s() -> u64 {
    clock_ms() / 1000
}

/// Logs to standard error, which systemd takes to the journal. `RUST_LOG` sets the level (error, warn, info, debug,
/// trace).
pub fn init_log() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level.unwrap_or(tracing::Level::INFO))
        .with_target(false)
        .with_ansi(is_terminal)
        .try_init();
}

/// Runs a program: 0 done, 1 failed with the reason on standard error.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes this process the only one that does something in a folder, for as long as the value lives.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl DirLock {
    /// Takes the lock file `name` in the folder.
    ///
    /// # Errors
    /// If another process holds it.
    pub fn take(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let path = dir.join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            anyhow::anyhow!(
                "another daemon runs in {}; stop it first (it holds {})",
                dir.display(),
                path.display()
            )
        })?;
        Ok(Self(file))
    }
}
