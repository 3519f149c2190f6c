//! The daemon's end of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::audit::{self, Audit, Caller};
use crate::service;

/// How long a stop waits for requests that are under way; a submission can take hours, and one whose command was
/// suspended never ends.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Why a request was not done, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Why(pub String);

/// An error as an answer: `{"error": "…"}`, with the whole chain of causes.
#[derive(Debug)]
pub struct ApiError(StatusCode, String);

impl ApiError {
    /// The request cannot be done as it is.
    pub fn refused(error: impl std::fmt::Display) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }

    /// It can be done later.
    pub fn busy(error: impl std::fmt::Display) -> Self {
        Self(StatusCode::CONFLICT, error.to_string())
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut answer = (self.0, axum::Json(json!({ "error": self.1 }))).into_response();
        answer.extensions_mut().insert(Why(self.1));
        answer
    }
}

/// Answers with what `work` returns, which may take its time: it has a thread of its own. `what` it is says an error.
pub async fn on_thread<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<axum::Json<T>, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(axum::Json(done.map_err(|error| ApiError::refused(format!("the {what} crashed: {error}")))??))
}

/// Listens on a socket for this user and group, in a folder that is made if need be. The caller holds the lock of what the
/// socket belongs to, so one that is there was left by a process that was killed.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on the socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves the control socket until `shutdown` completes. Who may write to the socket file (its owner and group) may
/// control the daemon; what is asked and not done goes to the audit log, what is done tells its handler.
pub async fn serve(
    path: &Path,
    router: Router,
    audit: Audit,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let listener = bind(path)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    service::ready();
    let router = router.layer(axum::middleware::from_fn_with_state(audit, audit::refusals));
    let router = router.into_make_service_with_connect_info::<Caller>();
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    let graceful = async move {
        shutdown.await;
        service::stopping();
        drop(stop);
    };
    let late = async move {
        while stopped.changed().await.is_ok() {}
        tokio::time::sleep(SHUTDOWN_MAX).await;
    };
    let result = tokio::select! {
        result = std::future::IntoFuture::into_future(axum::serve(listener, router).with_graceful_shutdown(graceful)) => result,
        () = late => {
            tracing::warn!("requests that are under way are broken off");
            Ok(())
        }
    };
    let _ = std::fs::remove_file(path);
    result.context("the control socket failed")
}
