//! What the commands ask of the daemon about sources.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::Event;
use diodesync_control::ApiError;
use diodesync_control::audit::Caller;
use serde::{Deserialize, Serialize};

use super::state::SourceDetail;
use crate::api::Daemon;

/// What is to be pulled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// Names of sources; all, if there is none.
    pub sources: Vec<String>,
}

/// The handlers.
pub fn router() -> Router<Arc<Daemon>> {
    Router::new().route("/v1/sources", get(sources)).route("/v1/sync", post(sync))
}

async fn sources(State(daemon): State<Arc<Daemon>>) -> Json<Vec<SourceDetail>> {
    Json(daemon.sources.details())
}

/// Begins pulls, joins those that are under way, and says how many of each had ended before.
async fn sync(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<SyncRequest>,
) -> Result<Json<Vec<(String, u64)>>, ApiError> {
    let names = daemon.sources.named(&request.sources)?;
    daemon.told(by, Event::Pull { sources: names.clone() }).await?;
    let before = daemon.sources.details();
    let before = before.into_iter().map(|detail| (detail.status.name, detail.status.runs));
    let before = before.filter(|(name, _)| names.contains(name)).collect();
    names.iter().for_each(|name| daemon.sources.start(&daemon, name));
    Ok(Json(before))
}
