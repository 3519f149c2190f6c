//! What the command asks of the daemon.

use std::sync::Arc;

use anyhow::Context;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Buf, Bytes};
use diodesync::audit::{Actor, Event};
use diodesync::id::ExportId;
use diodesync::volume::MANIFEST_BYTES_MAX;
use diodesync_control::audit::Caller;
use diodesync_control::{ApiError, on_thread};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Offered, Summary, Taken, UnderWay};
use crate::api::Daemon;

/// Chunks that wait to be taken.
const CHUNKS_MAX: usize = 16;

/// Slots that come in chunks of any size, on their way into [`super::Imports::take`], which has a thread of its own. What
/// breaks off is a file that ends there.
#[derive(Debug)]
pub struct Taking {
    chunks: mpsc::Sender<Bytes>,
    work: JoinHandle<anyhow::Result<Taken>>,
}

impl Taking {
    /// Begins with slot `first`.
    pub fn start(daemon: &Arc<Daemon>, export: ExportId, first: u32) -> Self {
        let (chunks, mut receiver) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let daemon = daemon.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut rest = Bytes::new();
            daemon.imports.take(export, first, |out| {
                let mut filled = 0;
                while let Some(place) = out.get_mut(filled..).filter(|place| !place.is_empty()) {
                    while rest.is_empty() {
                        match receiver.blocking_recv() {
                            Some(chunk) => rest = chunk,
                            None => return Ok(filled),
                        }
                    }
                    let length = place.len().min(rest.len());
                    if let Some(place) = place.get_mut(..length) {
                        rest.copy_to_slice(place);
                    }
                    filled += length;
                }
                Ok(filled)
            })
        });
        Self { chunks, work }
    }

    /// Gives it a chunk; whether it wants more.
    pub async fn feed(&mut self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// What became of it.
    pub async fn end(self) -> anyhow::Result<Taken> {
        drop(self.chunks);
        self.work.await.context("the import crashed")?
    }
}

/// Refuses a manifest that no sender has written.
pub fn check_manifest_size(octets: &[u8]) -> anyhow::Result<()> {
    if octets.len() > MANIFEST_BYTES_MAX {
        anyhow::bail!("the manifest has {} octets, the limit is {MANIFEST_BYTES_MAX}", octets.len());
    }
    Ok(())
}

/// The handlers.
pub fn router() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/imports", get(list).post(begin))
        .route("/v1/imports/{export}/resume", post(resume))
        .route("/v1/imports/{export}/slots", post(slots).layer(DefaultBodyLimit::disable()))
        .route("/v1/imports/{export}/finish", post(finish))
        .route("/v1/imports/{export}/discard", post(discard))
}

async fn list(State(daemon): State<Arc<Daemon>>) -> Result<Json<UnderWay>, ApiError> {
    on_thread("import", move || Ok(daemon.imports.under_way(true))).await
}

async fn begin(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    manifest: Bytes,
) -> Result<Json<Offered>, ApiError> {
    on_thread("import", move || {
        check_manifest_size(&manifest)?;
        let offered = daemon.imports.begin(&manifest)?;
        daemon.audit.tell(&by, Event::Import { export: offered.export.to_string() })?;
        Ok(offered)
    })
    .await
}

async fn resume(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Path(export): Path<ExportId>,
) -> Result<Json<Offered>, ApiError> {
    on_thread("import", move || {
        let offered = daemon.imports.resume(export)?;
        daemon.audit.tell(&by, Event::Import { export: export.to_string() })?;
        Ok(offered)
    })
    .await
}

#[derive(Debug, Deserialize)]
struct First {
    first: u32,
}

async fn slots(
    State(daemon): State<Arc<Daemon>>,
    Path(export): Path<ExportId>,
    Query(First { first }): Query<First>,
    mut body: Body,
) -> Result<Json<Taken>, ApiError> {
    let mut taking = Taking::start(&daemon, export, first);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if !taking.feed(data).await {
            // More than the layout has, or an error. Who still writes must be read from, or never reads why.
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
            break;
        }
    }
    Ok(Json(taking.end().await?))
}

async fn finish(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Path(export): Path<ExportId>,
) -> Result<Json<Summary>, ApiError> {
    on_thread("import", move || {
        let summary = daemon.imports.finish(export)?;
        let Summary { missing_slots: missing, repaired, .. } = summary;
        daemon.audit.note(&by, Event::Imported { export: export.to_string(), missing, repaired });
        Ok(summary)
    })
    .await
}

/// Throws away what came of an import, and tells who had it done.
pub fn discarded(daemon: &Daemon, by: &Actor, export: ExportId) -> anyhow::Result<()> {
    let told = Event::Discarded { export: export.to_string() };
    daemon.imports.discard(export, || daemon.audit.tell(by, told))
}

async fn discard(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Path(export): Path<ExportId>,
) -> Result<Json<()>, ApiError> {
    on_thread("import", move || discarded(&daemon, &by, export)).await
}
