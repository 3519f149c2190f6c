//! `sync`: has sources pulled, and says how it went.

use std::collections::BTreeMap;
use std::time::Duration;

use diodesync_control::{Client, Progress};

use super::api::SyncRequest;
use super::state::SourceDetail;

/// How often it is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// Pulls, waits, and prints.
///
/// # Errors
/// If something was refused or failed.
pub async fn sync(client: &Client, sources: Vec<String>, json: bool) -> anyhow::Result<()> {
    let answer = client.post("/v1/sync", &serde_json::to_value(SyncRequest { sources })?).await?;
    let before: BTreeMap<String, u64> =
        serde_json::from_value::<Vec<(String, u64)>>(answer)?.into_iter().collect();
    let progress = Progress::new(0);
    let ended = loop {
        let all: Vec<SourceDetail> = serde_json::from_value(client.get("/v1/sources").await?)?;
        let ours: Vec<_> =
            all.into_iter().filter(|detail| before.contains_key(&detail.status.name)).collect();
        let is_under_way =
            |detail: &&SourceDetail| before.get(&detail.status.name) == Some(&detail.status.runs);
        let running: Vec<&SourceDetail> = ours.iter().filter(is_under_way).collect();
        let Some(first) = running.first() else { break ours };
        let bytes = running.iter().map(|detail| detail.status.bytes).sum();
        progress.set(bytes, bytes);
        progress.message(format!("{}: {}", first.status.name, first.status.message));
        tokio::time::sleep(ASK_INTERVAL).await;
    };
    progress.finish();
    if json {
        println!("{:#}", serde_json::to_value(&ended)?);
    } else {
        ended.iter().for_each(|detail| print!("{}", detail.report.to_text(&detail.status.name)));
    }
    let bad: Vec<&str> = ended
        .iter()
        .filter(|detail| !detail.report.is_good())
        .map(|detail| detail.status.name.as_str())
        .collect();
    anyhow::ensure!(bad.is_empty(), "not everything could be pulled: {}", bad.join(", "));
    Ok(())
}
