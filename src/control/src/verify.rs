//! `verify` takes a while: the daemon does it on a thread of its own, and the command asks how far it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Client, Progress};

/// How often the command asks.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// How far it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyState {
    /// Whether it is under way.
    pub running: bool,
    /// Octets that were read.
    pub done_bytes: u64,
    /// Octets to be read.
    pub total_bytes: u64,
    /// What was found by the last one that ended.
    pub report: Option<Value>,
    /// Why the last one ended without a report.
    pub error: Option<String>,
}

/// At most one at a time.
#[derive(Debug, Clone, Default)]
pub struct VerifyJob(Arc<Mutex<VerifyState>>);

impl VerifyJob {
    /// How far it is.
    pub fn state(&self) -> VerifyState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts it, unless it is under way. The thread ends with the process, if that is sooner.
    pub fn start(
        &self,
        work: impl FnOnce(&dyn Fn(u64, u64)) -> anyhow::Result<Value> + Send + 'static,
    ) -> anyhow::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.running {
            return Ok(());
        }
        let shared = self.0.clone();
        let run = move || {
            let progress = |done, total| {
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                (state.done_bytes, state.total_bytes) = (done, total);
            };
            let result = work(&progress);
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            match result {
                Ok(report) => state.report = Some(report),
                Err(error) => state.error = Some(format!("{error:#}")),
            }
        };
        std::thread::Builder::new().name("verify".to_owned()).spawn(run).context("cannot start a thread")?;
        *state = VerifyState { running: true, ..VerifyState::default() };
        Ok(())
    }
}

/// The command's end: has it done, shows how far it is, and returns the report.
pub async fn ask_verify(client: &Client) -> anyhow::Result<Value> {
    let mut answer = client.post("/v1/verify", &Value::Null).await?;
    let progress = Progress::new(0);
    loop {
        let state: VerifyState = serde_json::from_value(answer)?;
        progress.set(state.done_bytes, state.total_bytes);
        if !state.running {
            progress.finish();
            if let Some(error) = state.error {
                anyhow::bail!("{error}");
            }
            return state.report.context("the daemon says that it is done and does not say what it found");
        }
        tokio::time::sleep(ASK_INTERVAL).await;
        answer = client.get("/v1/verify").await?;
    }
}
