//! What the command asks of the daemon.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::routing::post;
use axum::{Json, Router};
use bytes::{Buf, Bytes};
use diodesync::audit::Event;
use diodesync::id::ExportId;
use diodesync_control::audit::Caller;
use diodesync_control::{ApiError, on_thread};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Offered, Summary, Taken, check_manifest_size};
use crate::api::Daemon;

/// The handlers.
pub fn router() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/imports", post(begin))
        .route("/v1/imports/{export}/resume", post(resume))
        .route("/v1/imports/{export}/slots", post(slots).layer(DefaultBodyLimit::disable()))
        .route("/v1/imports/{export}/finish", post(finish))
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
    let (sender, mut chunks) = mpsc::channel::<Bytes>(16);
    let work = tokio::spawn(on_thread("import", move || {
        let mut rest = Bytes::new();
        // What broke off is a file that ends there.
        daemon.imports.take(export, first, |out| {
            let mut filled = 0;
            while let Some(place) = out.get_mut(filled..).filter(|place| !place.is_empty()) {
                while rest.is_empty() {
                    match chunks.blocking_recv() {
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
    }));
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if sender.send(data).await.is_err() {
            // More than the layout has, or an error. Who still writes must be read from, or never reads why.
            tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
            break;
        }
    }
    drop(sender);
    work.await.map_err(|error| ApiError::refused(format!("the import crashed: {error}")))?
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
