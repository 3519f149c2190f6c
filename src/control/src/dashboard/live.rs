//! The live parts: server-sent events with the sections that changed, drawn once a second for all who look at a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use diodesync::id::Blake3;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::{Asked, Board, Source, refusal};
use crate::{ReceiverStream, clock_ms};

/// Clients that look on at once.
pub const LIVE_MAX: usize = 256;
/// Pages that are drawn in a second; who looks at another one waits for the next.
const PAGES_MAX: usize = 32;

/// A section as an event, and what tells it from others.
type Event = (Blake3, Bytes);
/// When a page was drawn, and its sections.
type Drawn = (u64, Arc<Vec<Event>>);

/// See the module.
#[derive(Debug)]
pub struct Live {
    clients: Arc<Semaphore>,
    /// The pages that were drawn, by what was asked for.
    drawn: Mutex<BTreeMap<String, Drawn>>,
}

impl Default for Live {
    fn default() -> Self {
        Self { clients: Arc::new(Semaphore::new(LIVE_MAX)), drawn: Mutex::default() }
    }
}

#[derive(Debug, Deserialize)]
pub struct Of {
    page: String,
}

/// `/live?page=PATH`
pub async fn stream<S: Source>(
    State(board): State<Arc<Board<S>>>,
    Query(Of { page }): Query<Of>,
    headers: HeaderMap,
) -> Response {
    let Ok(client) = board.live.clients.clone().try_acquire_owned() else {
        let why = format!("{LIVE_MAX} clients look on already; reload the page to see what is new");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &why);
    };
    let may_act = board.access.is_signed_in(&headers, clock_ms());
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    tokio::spawn(async move {
        let _client = client;
        let mut seen = board.seen.subscribe();
        let mut known: Vec<Blake3> = Vec::new();
        loop {
            let at_ms = seen.borrow_and_update().at_ms;
            let Some(events) = events(&board, &page, may_act, at_ms).await else { return };
            let mut out = Vec::new();
            for (_, event) in events.iter().filter(|(digest, _)| !known.contains(digest)) {
                out.extend_from_slice(event);
            }
            known = events.iter().map(|(digest, _)| *digest).collect();
            out.extend_from_slice(format!("event: seen\ndata: {at_ms}\n\n").as_bytes());
            // Who does not read waits here, and gets what is newest then.
            if sender.send(Ok(Frame::data(out.into()))).await.is_err() || seen.changed().await.is_err() {
                return;
            }
        }
    });
    let body = Body::new(StreamBody::new(ReceiverStream(receiver)));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// The live sections of a page, as of a moment. None if there is no such page.
async fn events<S: Source>(
    board: &Arc<Board<S>>,
    page: &str,
    may_act: bool,
    at_ms: u64,
) -> Option<Arc<Vec<Event>>> {
    let key = format!("{}{page}", u8::from(may_act));
    let mut drawn = board.live.drawn.lock().await;
    if let Some((_, events)) = drawn.get(&key).filter(|(then, _)| *then == at_ms) {
        return Some(events.clone());
    }
    drawn.retain(|_, (then, _)| *then == at_ms);
    if drawn.len() >= PAGES_MAX {
        return Some(Arc::default());
    }
    let asked = Asked::parse(page, may_act);
    let page = board.work(move |board| S::page(board, &asked)).await.ok()??;
    let sections = page.sections.into_iter().filter(|section| section.is_live);
    let events = sections.map(|section| {
        let data = serde_json::json!({ "id": section.id, "html": section.html.as_str() });
        let event = Bytes::from(format!("event: section\ndata: {data}\n\n"));
        (Blake3::of(&event), event)
    });
    let events = Arc::new(events.collect::<Vec<_>>());
    drawn.insert(key, (at_ms, events.clone()));
    Some(events)
}
