//! What the command asks of the daemon.

use std::sync::{Arc, PoisonError};

use anyhow::{Context, bail};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use diodesync::audit::Event;
use diodesync::id::ExportId;
use diodesync::release::delta::blocks_to_send;
use diodesync::ticket::Ticket;
use diodesync::trust::Bundle;
use diodesync_control::audit::Caller;
use diodesync_control::{ApiError, clock_s, on_thread};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Begun, Parties, Plan, Request};
use crate::api::Daemon;
use crate::resend;

/// Slots that wait for the command.
const QUEUE: usize = 16;

/// The handlers.
pub fn router() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/exports", post(begin))
        .route("/v1/exports/{export}", get(describe))
        .route("/v1/exports/{export}/slots", get(slots))
        .route("/v1/exports/{export}/volumes/{volume}", get(is_written).post(written))
        .route("/v1/exports/{export}/finish", post(finish))
}

async fn begin(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Json(request): Json<Request>,
) -> Result<Json<Begun>, ApiError> {
    on_thread("export", move || {
        let plan = plan(&daemon, &request)?;
        let event = Event::Exported {
            export: plan.export.to_string(),
            channel: plan.channel.clone(),
            number: plan.number,
            blocks: plan.block_count(),
            volumes: plan.layout.volumes(),
        };
        daemon.audit.tell(&by, event)?;
        daemon.exports.begin(&plan)
    })
    .await
}

fn plan(daemon: &Daemon, request: &Request) -> anyhow::Result<Plan> {
    let channel = &request.channel;
    let now_s = clock_s();
    let mut store = daemon.store.lock().unwrap_or_else(PoisonError::into_inner);
    let index = store.newest.get(channel).cloned();
    let index = index.with_context(|| {
        format!(
            "channel {channel} has no release yet; cut one with: diode-sender release --channel {channel}"
        )
    })?;
    let blocks = match (&request.ticket, request.since) {
        (Some(_), Some(_)) => bail!("a ticket says what is lacking; give it without --since"),
        (Some(text), None) => {
            let ticket = Ticket::parse(text, daemon.link, &daemon.keys.pairing)?;
            let wanted = resend::wanted(&store, &ticket)?;
            let channels: Vec<String> = wanted.iter().map(|(again, _)| again.channel.to_string()).collect();
            let ours = wanted.into_iter().find(|(again, _)| again.channel == *channel);
            let (_, blocks) = ours.with_context(|| {
                format!("the ticket asks for nothing of channel {channel}, but of: {}", channels.join(", "))
            })?;
            blocks
        }
        (None, Some(since)) if since >= index.number => {
            bail!(
                "--since {since} is not older than release {}, the newest of channel {channel}",
                index.number
            )
        }
        (None, Some(since)) => {
            blocks_to_send(&index, Some(&store.release(channel, since).context("--since")?))
        }
        (None, None) => blocks_to_send(&index, None),
    };
    // A timestamp that outlives the way, and after it a newer one for the wire, which stays the newest.
    let bundle = store.bundle.clone().context("there is no metadata for the release")?;
    let mut repository = store.repository.clone();
    let (keys, config) = (&daemon.keys, daemon.config());
    let trust = &config.trust;
    repository.timestamp_version += 1;
    let roles = keys.roles.named_by(&bundle.roots)?;
    let carried = repository.sign_timestamp(&roles, &bundle.snapshot, now_s, trust.carry_days);
    repository.timestamp_version += 1;
    let fresh = repository.sign_timestamp(&roles, &bundle.snapshot, now_s, trust.timestamp_days);
    let bundle = Bundle { timestamp: carried, ..bundle };
    store.commit_metadata(repository, Bundle { timestamp: fresh, ..bundle.clone() })?;
    let parties =
        Parties { link: daemon.link, key: &keys.link, pairing: &keys.pairing, receivers: &daemon.receivers };
    Plan::new(request, &parties, &index, &blocks, &bundle, now_s)
}

async fn describe(
    State(daemon): State<Arc<Daemon>>,
    Path(export): Path<ExportId>,
) -> Result<Json<Begun>, ApiError> {
    on_thread("export", move || daemon.exports.describe(export)).await
}

#[derive(Debug, Deserialize)]
struct Range {
    first: u32,
    end: u32,
}

async fn slots(
    State(daemon): State<Arc<Daemon>>,
    Path(export): Path<ExportId>,
    Query(range): Query<Range>,
) -> Result<Body, ApiError> {
    let (plan, Range { first, end }) = (daemon.exports.open(export)?, range);
    let (sender, receiver) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(QUEUE);
    tokio::task::spawn_blocking(move || {
        let result = daemon
            .exports
            .slots(&plan, first, end, |slot| sender.blocking_send(Ok(Frame::data(slot.into()))).is_ok());
        if let Err(error) = result {
            tracing::error!(%export, error = format!("{error:#}"), "the export is broken off");
            // Breaking the body off tells the command that this is not the end.
            let _ = sender.blocking_send(Err(std::io::Error::other("the export broke off")));
        }
    });
    Ok(Body::new(http_body_util::StreamBody::new(diodesync_control::ReceiverStream(receiver))))
}

async fn is_written(
    State(daemon): State<Arc<Daemon>>,
    Path((export, volume)): Path<(ExportId, u32)>,
) -> Result<Json<bool>, ApiError> {
    on_thread("export", move || daemon.exports.is_written(export, volume)).await
}

async fn written(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Path((export, volume)): Path<(ExportId, u32)>,
) -> Result<Json<()>, ApiError> {
    on_thread("export", move || {
        let event = Event::Written { export: export.to_string(), volume: volume.saturating_add(1) };
        daemon.audit.tell(&by, event)?;
        daemon.exports.record_written(export, volume)
    })
    .await
}

async fn finish(
    State(daemon): State<Arc<Daemon>>,
    Path(export): Path<ExportId>,
) -> Result<Json<()>, ApiError> {
    on_thread("export", move || daemon.exports.finish(export)).await
}
