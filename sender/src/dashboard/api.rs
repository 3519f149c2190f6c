//! `/api/v1` of the sender, and the forms of its pages. Described in `openapi.json`; a test holds both together.

use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::Actor;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::Bytes;
use diodesync::release::change::Change;
use diodesync_control::ApiError;
use diodesync_control::dashboard::Board;
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use crate::api::{Daemon, ReleaseRequest};
use crate::export::Listed;
use crate::release::Cut;
use crate::resend::{self, Again};

/// What the handlers get.
pub type Shared = State<Arc<Board<Daemon>>>;

/// Who asks: all that is known is that they know the token.
pub fn by() -> Actor {
    Actor::Dashboard("who knows its token".to_owned())
}

/// Releases of an answer.
const RELEASES_MAX: usize = 50;

/// The handlers.
pub fn routes() -> Router<Arc<Board<Daemon>>> {
    Router::new()
        .route("/api/v1/releases", get(releases))
        .route("/api/v1/releases/{channel}/{number}", get(release))
        .route("/api/v1/exports", get(exports))
        .merge(super::sources::routes())
        .route("/api/v1/release", post(cut))
        .route("/api/v1/resend", post(resend))
        .route("/release", post(cut_form))
        .route("/resend", post(resend_form))
}

#[derive(Debug, Serialize)]
struct Releases {
    releases: Vec<Change>,
}

/// The newest releases, with what they changed.
pub fn newest(board: &Board<Daemon>) -> anyhow::Result<Vec<Arc<Change>>> {
    let daemon = &board.source;
    let mut releases = Vec::new();
    for (channel, number) in Changes::releases(daemon)?.into_iter().take(RELEASES_MAX) {
        releases.extend(daemon.changes.of(daemon, &channel, number)?);
    }
    releases.sort_by_key(|change| std::cmp::Reverse((change.created_s, change.number)));
    Ok(releases)
}

async fn releases(State(board): Shared) -> Result<Json<Releases>, ApiError> {
    let releases = board.work(|board| newest(board)).await?;
    Ok(Json(Releases { releases: releases.iter().map(|change| Change::clone(change)).collect() }))
}

async fn release(
    State(board): Shared,
    Path((channel, number)): Path<(Channel, ReleaseNo)>,
) -> Result<Response, ApiError> {
    let found = board.work(move |board| board.source.changes.of(&board.source, &channel, number)).await?;
    Ok(match found {
        Some(change) => Json(&*change).into_response(),
        None => {
            let error = serde_json::json!({ "error": "there is no such release here" });
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    })
}

#[derive(Debug, Serialize)]
struct ExportList {
    exports: Vec<Listed>,
}

async fn exports(State(board): Shared) -> Result<Json<ExportList>, ApiError> {
    let exports = board.work(|board| board.source.exports.list()).await?;
    Ok(Json(ExportList { exports }))
}

async fn cut(State(board): Shared, Json(request): Json<ReleaseRequest>) -> Result<Json<Cut>, ApiError> {
    Ok(Json(board.work(move |board| board.source.cut(&by(), &request.channel, request.full)).await?))
}

#[derive(Debug, Deserialize)]
struct TicketText {
    ticket: String,
}

#[derive(Debug, Serialize)]
struct Resent {
    resent: Vec<Again>,
}

async fn resend(
    State(board): Shared,
    Json(TicketText { ticket }): Json<TicketText>,
) -> Result<Json<Resent>, ApiError> {
    let resent = board.work(move |board| board.source.resend(&by(), resend::Request::Ticket(ticket))).await?;
    Ok(Json(Resent { resent }))
}

#[derive(Debug, Deserialize)]
struct CutForm {
    channel: Channel,
    full: Option<String>,
}

async fn cut_form(State(board): Shared, Form(form): Form<CutForm>) -> Response {
    let cut = board.work(move |board| board.source.cut(&by(), &form.channel, form.full.is_some())).await;
    let said = cut.map(|cut| {
        format!(
            "Release {} {} is cut: {} artifacts. {} blocks, {}, are being sent.",
            cut.channel,
            cut.number,
            cut.artifacts,
            cut.send_blocks,
            Bytes(cut.send_bytes)
        )
    });
    board.answer("Cut a release", said)
}

async fn resend_form(State(board): Shared, Form(TicketText { ticket }): Form<TicketText>) -> Response {
    let resent = board.work(move |board| board.source.resend(&by(), resend::Request::Ticket(ticket))).await;
    let line = |again: &Again| {
        format!(
            "{} blocks, {}, of release {} {}",
            again.blocks,
            Bytes(again.bytes),
            again.channel,
            again.number
        )
    };
    let said = resent.map(|resent| {
        format!(
            "Sent again before everything else: {}.",
            resent.iter().map(line).collect::<Vec<_>>().join("; ")
        )
    });
    board.answer("Resend", said)
}
