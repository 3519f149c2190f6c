//! `/api/v1` of the receiver, beside what both sides have, and the form of its pages. Described in `openapi.json`; a test holds both together.

use std::sync::Arc;

use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use diodesync::audit::Actor;
use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync_control::ApiError;
use diodesync_control::dashboard::Board;
use serde::{Deserialize, Serialize};

use super::catalog::{Found, Search, search};
use super::pages::index_of;
use super::{hand_in, mirrors};
use crate::api::Daemon;
use crate::approve::HeldReleases;
use crate::publish::{Decided, Handed};
use crate::status::{Missing, ranges};

/// What the handlers get.
pub type Shared = State<Arc<Board<Daemon>>>;

/// The handlers.
pub fn routes() -> Router<Arc<Board<Daemon>>> {
    Router::new()
        .route("/api/v1/missing", get(missing))
        .route("/api/v1/ticket", get(ticket_text))
        .route("/api/v1/held", get(held))
        .route("/api/v1/decisions", post(decide))
        .route("/decide", post(decide_form))
        .route("/api/v1/artifacts", get(artifacts))
        .merge(mirrors::routes())
        .merge(hand_in::routes())
        .route("/api/v1/releases/{channel}/{number}/blocks", get(blocks))
}

async fn missing(State(board): Shared) -> Json<Missing> {
    Json(board.source.missing())
}

#[derive(Debug, Serialize)]
struct TicketText {
    ticket: Option<String>,
}

async fn ticket_text(State(board): Shared) -> Result<Json<TicketText>, ApiError> {
    let ticket = board.work(|board| ticket_of(&board.source)).await?;
    Ok(Json(TicketText { ticket }))
}

/// The ticket for what is lacking; none if nothing is.
pub fn ticket_of(daemon: &Daemon) -> anyhow::Result<Option<String>> {
    daemon.ticket()
}

async fn held(State(board): Shared) -> Result<Json<HeldReleases>, ApiError> {
    Ok(Json(board.work(|board| Ok(HeldReleases::of(&board.source))).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionText {
    decision: String,
}

/// Who asks: all that is known is that they know the token.
pub fn by() -> Actor {
    Actor::Dashboard("who knows its token".to_owned())
}

/// What came through the dashboard.
fn handed(decision: String) -> Handed {
    Handed { decision, by: by() }
}

async fn decide(
    State(board): Shared,
    Json(DecisionText { decision }): Json<DecisionText>,
) -> Result<Json<Decided>, ApiError> {
    Ok(Json(board.work(move |board| board.source.publish.decide(handed(decision))).await?))
}

async fn decide_form(State(board): Shared, Form(DecisionText { decision }): Form<DecisionText>) -> Response {
    let decided = board.work(move |board| board.source.publish.decide(handed(decision))).await;
    board.answer("Decision", decided.map(|decided| format!("{}.", decided.to_text())))
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    page: usize,
}

async fn artifacts(State(board): Shared, Query(asked): Query<Asked>) -> Result<Json<Found>, ApiError> {
    let asked = Search { text: asked.q, kind: asked.kind, page: asked.page };
    Ok(Json(board.work(move |board| Ok(search(&board.source, &board.seen().view.mirrors, &asked))).await?))
}

#[derive(Debug, Serialize)]
struct Blocks {
    channel: Channel,
    number: ReleaseNo,
    blocks_needed: usize,
    blocks_held: usize,
    /// As `PACK/FIRST-LAST`.
    missing: Vec<String>,
}

async fn blocks(
    State(board): Shared,
    Path((channel, number)): Path<(Channel, ReleaseNo)>,
) -> Result<Response, ApiError> {
    let found = board.work(move |board| {
        let Some(index) = index_of(&board.source, &channel, number) else { return Ok(None) };
        let lacking = index.blocks().filter(|block| !board.source.ledger.holds(block)).map(|block| block.id);
        let lacking: Vec<BlockId> = lacking.collect();
        let blocks_needed = index.blocks().count();
        let blocks_held = blocks_needed - lacking.len();
        Ok(Some(Blocks { channel, number, blocks_needed, blocks_held, missing: ranges(&lacking) }))
    });
    Ok(match found.await? {
        Some(blocks) => Json(blocks).into_response(),
        None => {
            let error = serde_json::json!({ "error": "there is no such release here" });
            (StatusCode::NOT_FOUND, Json(error)).into_response()
        }
    })
}
