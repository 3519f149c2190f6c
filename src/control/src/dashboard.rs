//! The dashboard of a daemon: pages for people, `/api/v1` and `/metrics` for programs, over HTTP on this host alone.
//!
//! ```text
//! daemon ──Source::view, once a second──► Board ──┬──► History (rates and losses, ten minutes and a day)
//!                                                 ├──► pages, drawn here; they need no script
//!                                                 └──► /live: the parts that changed, to everyone who looks on
//! ```
//!
//! It cannot slow the link: it has a thread of its own, of low priority, looks at the daemon once a second however many
//! clients there are, and draws each page once a second at most. Everything that a client can take is bounded
//! ([`listen`], [`LIVE_MAX`]). Who may ask is [`guard`]'s, who may do more than look is [`access`]'s.

mod access;
mod config;
mod guard;
mod history;
mod html;
mod listen;
mod live;
mod metrics;
pub mod page;
mod plot;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{DefaultBodyLimit, Form, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{ApiError, clock_ms};
use access::Access;
pub use config::{Config, Listen};
pub use history::{History, Reading, Sample};
pub use html::{Html, count, encode, time};
use listen::Listener;
pub use listen::{Life, uploads};
pub use live::LIVE_MAX;
use live::Live;
pub use metrics::{Kind, Metrics};
use page::{Frame, Page};
pub use plot::{Line, Plot, Range, Unit};

/// How often the daemon is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look that is older says that something stands still.
const STALE_MS: u64 = 15_000;
/// How often it is tried to listen.
const BIND_INTERVAL: Duration = Duration::from_secs(5);
/// Octets of what is posted: a ticket.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Pages and answers that are made at once; each may read an index.
const WORKERS: usize = 2;
/// How much lower its priority is than the daemon's.
const NICE: i32 = 10;

/// A daemon, as its dashboard sees it.
pub trait Source: Send + Sync + std::fmt::Debug + 'static {
    /// What a look gives: what `status --json` says.
    type View: Serialize + Send + Sync + std::fmt::Debug + 'static;

    /// `Sender` or `Receiver`.
    const SIDE: &'static str;
    /// Where it stands.
    const PLACE: &'static str;
    /// The name of its cookie.
    const COOKIE: &'static str;
    /// The paths and names of its pages.
    const PAGES: &'static [(&'static str, &'static str)];
    /// The description of its API.
    const OPENAPI: &'static str;
    /// What is counted, as [`Source::reading`] gives it.
    const COUNTS: &'static [&'static str];
    /// What is measured.
    const GAUGES: &'static [&'static str];

    /// Looks at the daemon.
    fn view(&self) -> Self::View;
    /// The link, for people.
    fn link(&self) -> String;
    /// The numbers whose past is kept.
    fn reading(view: &Self::View) -> Reading;
    /// Everything for Prometheus.
    fn metrics(view: &Self::View, out: &mut Metrics);
    /// What keeps the daemon from doing what it is for.
    fn not_ready(view: &Self::View) -> Vec<String>;
    /// A page; none if there is none at this path. Blocks the thread.
    fn page(board: &Board<Self>, asked: &Asked) -> anyhow::Result<Option<Page>>
    where
        Self: Sized;
    /// What is particular to this side, below `/api/v1` and for forms. POST gets here only from who may do more than look.
    fn routes() -> Router<Arc<Board<Self>>>
    where
        Self: Sized;
}

/// What was seen at one moment.
#[derive(Debug)]
pub struct Seen<V> {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub view: V,
}

/// Which page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The path's components.
    pub path: Vec<String>,
    /// The query's fields.
    pub query: Vec<(String, String)>,
    /// Whether this is someone who may do more than look.
    pub may_act: bool,
}

impl Asked {
    /// Reads a path with its query.
    fn parse(text: &str, may_act: bool) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let components = path.split('/').filter(|component| !component.is_empty());
        Self {
            path: components.map(|component| decode(component, false)).collect(),
            query: query
                .split('&')
                .filter_map(|field| field.split_once('='))
                .map(|(name, value)| (decode(name, true), decode(value, true)))
                .collect(),
            may_act,
        }
    }

    /// The path's components, to be matched.
    pub fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// A field of the query.
    pub fn field(&self, name: &str) -> &str {
        self.query.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// The page of a list, from 1.
    pub fn page(&self) -> usize {
        self.field("page").parse().unwrap_or(1).max(1)
    }
}

/// Undoes percent-encoding; what is none stays as it is.
fn decode(text: &str, is_query: bool) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        rest = after;
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', ..) if is_query => out.push(b' '),
            _ => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What the handlers share.
#[derive(Debug)]
pub struct Board<S: Source> {
    /// The daemon.
    pub source: Arc<S>,
    seen: watch::Sender<Arc<Seen<S::View>>>,
    history: Mutex<History>,
    live: Live,
    work: Semaphore,
    upload: Arc<Semaphore>,
    access: Access,
    hosts: Vec<String>,
}

impl<S: Source> Board<S> {
    /// What was seen last.
    pub fn seen(&self) -> Arc<Seen<S::View>> {
        self.seen.borrow().clone()
    }

    /// What was seen before. Held for a moment only.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let (at_ms, view) = (clock_ms(), self.source.view());
        self.history().add(at_ms, S::reading(&view));
        self.seen.send_replace(Arc::new(Seen { at_ms, view }));
    }

    /// Does on a thread of its own what may take a while; only so many at once.
    pub async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let _slot = self.work.acquire().await?;
        let board = self.clone();
        tokio::task::spawn_blocking(move || work(&board)).await.context("the dashboard's work crashed")?
    }

    /// Leave to take up what is uploaded, with a thread for it: one request at a time has it, so that pages are drawn
    /// meanwhile. None while another one has it.
    pub fn upload(&self) -> Option<OwnedSemaphorePermit> {
        self.upload.clone().try_acquire_owned().ok()
    }

    fn document(&self, page: &Page, asked: &str, may_act: bool) -> Response {
        let frame = Frame {
            side: S::SIDE,
            place: S::PLACE,
            link: self.source.link(),
            version: env!("CARGO_PKG_VERSION"),
            pages: S::PAGES,
            path: asked.split('?').next().unwrap_or("/"),
            asked,
            seen_s: self.seen().at_ms / 1000,
            access: (self.access.is_possible(), may_act),
        };
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], frame.document(page)).into_response()
    }
}

/// A running dashboard; it ends when it is told to.
#[derive(Debug)]
pub struct Dashboard {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What an operator should know of a dashboard, for the daemon's alarms.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// Why there is no dashboard, or why it cannot do all that it is to.
    pub fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, text: Option<String>) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = text.as_ref().filter(|text| now.as_ref() != Some(text)) {
            tracing::warn!("{text}");
        }
        *now = text;
    }
}

impl Dashboard {
    /// Starts it, unless it is off. `default` is where it listens if the configuration does not say; a relative token
    /// file is in `dir`. That it cannot listen is no reason to stop the daemon: `trouble` says so, and it is tried again.
    pub fn start<S: Source>(
        source: Arc<S>,
        config: &Config,
        default: Listen,
        dir: &Path,
        trouble: Trouble,
    ) -> anyhow::Result<Option<Self>> {
        let listen = config.listen.clone().unwrap_or(default);
        if listen == Listen::Off {
            return Ok(None);
        }
        let (stop, stopped) = watch::channel(false);
        let (token, hosts) = (config.token_file.as_ref().map(|file| dir.join(file)), config.hosts.clone());
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        let board = move || {
            let seen = Seen { at_ms: clock_ms(), view: source.view() };
            Board {
                seen: watch::Sender::new(Arc::new(seen)),
                history: Mutex::default(),
                live: Live::default(),
                work: Semaphore::new(WORKERS),
                upload: Arc::new(Semaphore::new(1)),
                access: Access::new(token, S::COOKIE),
                hosts,
                source,
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            // One looks at the daemon, one takes what is uploaded.
            .max_blocking_threads(WORKERS + 2)
            .thread_name("dashboard work")
            .enable_all()
            .build()?;
        // From now on it is connected to, be its thread late: who sees the daemon up sees the dashboard.
        let bound = {
            let _guard = runtime.enter();
            Listener::bind(&listen)
        };
        let thread = std::thread::Builder::new().name("dashboard".to_owned()).spawn(move || {
            // Of this thread and of those that it starts. A sandbox may refuse it.
            let _ = rustix::process::nice(NICE);
            runtime.block_on(run(Arc::new(board()), &listen, bound, stopped, &trouble));
            runtime.shutdown_background();
        });
        Ok(Some(Self { stop, thread: thread.context("cannot start the dashboard's thread")? }))
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

async fn run<S: Source>(
    board: Arc<Board<S>>,
    listen: &Listen,
    bound: anyhow::Result<Option<Listener>>,
    mut stopped: watch::Receiver<bool>,
    trouble: &Trouble,
) {
    let looking = async {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let board = board.clone();
            // What it looks at may wait for a disk.
            let _ = tokio::task::spawn_blocking(move || board.look()).await;
        }
    };
    let serving = async {
        let mut bound = bound;
        loop {
            match bound {
                Ok(Some(listener)) => {
                    tracing::info!(at = listener.address(), "dashboard is up");
                    let watching = async {
                        loop {
                            trouble.set(board.access.trouble());
                            tokio::time::sleep(BIND_INTERVAL).await;
                        }
                    };
                    tokio::select! { () = listener.serve(router(board.clone())) => {}, () = watching => {} }
                }
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    trouble.set(Some(format!("there is no dashboard: {error:#}. It is tried again")))
                }
            }
            tokio::time::sleep(BIND_INTERVAL).await;
            bound = Listener::bind(listen);
        }
    };
    tokio::select! {
        () = looking => {}
        () = serving => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    if let Listen::Unix(path) = listen {
        let _ = std::fs::remove_file(path);
    }
}

/// Everything that it answers.
fn router<S: Source>(board: Arc<Board<S>>) -> Router {
    Router::new()
        .route(
            "/assets/style.css",
            get(|| asset("text/css; charset=utf-8", include_str!("dashboard/style.css"))),
        )
        .route(
            "/assets/live.js",
            get(|| asset("text/javascript; charset=utf-8", include_str!("dashboard/live.js"))),
        )
        .route("/assets/icon.svg", get(|| asset("image/svg+xml", include_str!("dashboard/icon.svg"))))
        .route("/healthz", get(healthz::<S>))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .route("/live", get(live::stream::<S>))
        .route("/sign-in", get(sign_in_form::<S>).post(sign_in::<S>))
        .route("/sign-out", post(sign_out::<S>))
        .route("/api/v1/openapi.json", get(|| asset("application/json", S::OPENAPI)))
        .route("/api/v1/status", get(status::<S>))
        .route("/api/v1/samples", get(samples::<S>))
        .merge(S::routes())
        .fallback(show_page::<S>)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(board.clone(), guarded::<S>))
        .with_state(board)
}

/// What comes before and after everything else.
async fn guarded<S: Source>(State(board): State<Arc<Board<S>>>, request: Request, next: Next) -> Response {
    let (method, headers) = (request.method(), request.headers());
    let mut answer = match guard::judge(method, request.uri(), headers, &board.hosts) {
        Err((status, why)) => refusal(status, &why),
        // Before the body is read.
        Ok(())
            if *method == Method::POST
                && request.uri().path() != "/sign-in"
                && !board.access.is_allowed(headers, clock_ms()).await =>
        {
            refusal(StatusCode::UNAUTHORIZED, "sign in first, or send the token: Authorization: Bearer TOKEN")
        }
        Ok(()) => next.run(request).await,
    };
    guard::protect(answer.headers_mut());
    answer
}

fn refusal(status: StatusCode, why: &str) -> Response {
    let mut answer = (status, Json(serde_json::json!({ "error": why }))).into_response();
    // What may follow in a refused request is not read.
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}

async fn healthz<S: Source>(State(board): State<Arc<Board<S>>>) -> Response {
    let age_ms = clock_ms().saturating_sub(board.seen().at_ms);
    match age_ms {
        0..STALE_MS => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, format!("the daemon was seen {age_ms} ms ago\n"))
            .into_response(),
    }
}

async fn readyz<S: Source>(State(board): State<Arc<Board<S>>>) -> Response {
    match S::not_ready(&board.seen().view) {
        reasons if reasons.is_empty() => "ready\n".into_response(),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response(),
    }
}

async fn metrics_text<S: Source>(State(board): State<Arc<Board<S>>>) -> Response {
    let mut out = Metrics::default();
    let version =
        vec![("side", S::SIDE.to_ascii_lowercase()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
    out.put(Kind::Gauge, "diodesync_build_info", "The program; always 1.", [(version, 1)]);
    S::metrics(&board.seen().view, &mut out);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], out.into_text()).into_response()
}

async fn status<S: Source>(State(board): State<Arc<Board<S>>>) -> Response {
    Json(&board.seen().view).into_response()
}

#[derive(Debug, Deserialize)]
struct Span {
    #[serde(default)]
    span: String,
}

#[derive(Debug, Serialize)]
struct Samples {
    counts: &'static [&'static str],
    gauges: &'static [&'static str],
    samples: Vec<Sample>,
}

/// `span=10m`, in seconds, or `span=1d`, in minutes.
async fn samples<S: Source>(
    State(board): State<Arc<Board<S>>>,
    Query(Span { span }): Query<Span>,
) -> Result<Response, ApiError> {
    let history = board.history();
    let samples = match span.as_str() {
        "" | "10m" => history.seconds().cloned().collect(),
        "1d" => history.minutes().cloned().collect(),
        other => return Err(ApiError::refused(format!("expected span=10m or span=1d, found {other:?}"))),
    };
    drop(history);
    Ok(Json(Samples { counts: S::COUNTS, gauges: S::GAUGES, samples }).into_response())
}

async fn show_page<S: Source>(State(board): State<Arc<Board<S>>>, request: Request) -> Response {
    if *request.method() == Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "nothing is posted here");
    }
    let may_act = board.access.is_signed_in(request.headers(), clock_ms());
    let text = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let asked = Asked::parse(&text, may_act);
    let page = board.work(move |board| S::page(board, &asked)).await;
    match page {
        Ok(Some(page)) => board.document(&page, &text, may_act),
        Ok(None) => (
            StatusCode::NOT_FOUND,
            board.document(&message("Not found", "There is no such page."), &text, may_act),
        )
            .into_response(),
        Err(error) => {
            let page = message("This cannot be shown", &format!("{error:#}"));
            (StatusCode::INTERNAL_SERVER_ERROR, board.document(&page, &text, may_act)).into_response()
        }
    }
}

/// A page that says one thing.
fn message(title: &str, text: &str) -> Page {
    let mut html = Html::default();
    crate::put!(&mut html, "<div class=\"card\"><p>" (text) "</p><p><a href=\"/\">Overview</a></p></div>");
    Page::new(title).fixed("message", html)
}

impl<S: Source> Board<S> {
    /// Answers a form: with the page that says what was done, or why not.
    pub fn answer(&self, title: &str, done: anyhow::Result<String>) -> Response {
        self.answer_page(title, done.map(|text| message(title, &text)))
    }

    /// Answers a form whose answer is more than a sentence.
    pub fn answer_page(&self, title: &str, done: anyhow::Result<Page>) -> Response {
        match done {
            Ok(page) => self.document(&page, "/", true),
            Err(error) => {
                let page = message(&format!("{title}: not done"), &format!("{error:#}"));
                (StatusCode::UNPROCESSABLE_ENTITY, self.document(&page, "/", true)).into_response()
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
}

fn sign_in_page(said: Option<&str>) -> Page {
    let mut html = Html::default();
    html.raw("<div class=\"card\"><form method=\"post\" action=\"/sign-in\" class=\"stack\">");
    if let Some(said) = said {
        html.raw("<p role=\"alert\">");
        page::chip(&mut html, page::Mark::Bad, said);
        html.raw("</p>");
    }
    html.raw(
        "<label for=\"token\">Token</label><input id=\"token\" name=\"token\" type=\"password\" \
         autocomplete=\"current-password\" required><p class=\"dim\">It is in the file that <code>token_file</code> in \
         <code>[dashboard]</code> names.</p><button class=\"main\">Sign in</button></form></div>",
    );
    Page::new("Sign in").fixed("sign-in", html)
}

async fn sign_in_form<S: Source>(State(board): State<Arc<Board<S>>>) -> Response {
    board.document(&sign_in_page(None), "/sign-in", false)
}

async fn sign_in<S: Source>(
    State(board): State<Arc<Board<S>>>,
    Form(Token { token }): Form<Token>,
) -> Response {
    match board.access.sign_in(&token, clock_ms()).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
        Err(error) => {
            let page = sign_in_page(Some(&error.to_string()));
            (StatusCode::FORBIDDEN, board.document(&page, "/sign-in", false)).into_response()
        }
    }
}

async fn sign_out<S: Source>(State(board): State<Arc<Board<S>>>, headers: HeaderMap) -> Response {
    ([(header::SET_COOKIE, board.access.sign_out(&headers))], Redirect::to("/")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_its_query_are_read() {
        let asked = Asked::parse("/releases/main/1?q=a+b%2Fc&page=3&x=%zz", false);
        assert_eq!(asked.parts(), ["releases", "main", "1"]);
        assert_eq!(
            (asked.field("q"), asked.page(), asked.field("x"), asked.field("y")),
            ("a b/c", 3, "%zz", "")
        );
        assert_eq!(Asked::parse("/", true).parts(), [""; 0]);
    }
}
