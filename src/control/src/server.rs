//! The daemon's end of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error as an answer: `{"error": "…"}`, with the whole chain of causes.
#[derive(Debug)]
pub struct ApiError(StatusCode, String);

impl ApiError {
    /// The request cannot be done as it is.
    pub fn refused(error: impl std::fmt::Display) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<anyhow::Error> for ApiError {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({ "error": self.1 }))).into_response()
    }
}

/// Serves the control socket until `shutdown` completes. Who may write to the socket file (its owner and group) may
/// control the daemon.
pub async fn serve(
    path: &Path,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    // The folder's lock is held, so a socket that is there was left by a daemon that was killed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("cannot remove the old control socket {}", path.display()));
        }
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    let result = axum::serve(listener, router).with_graceful_shutdown(shutdown).await;
    let _ = std::fs::remove_file(path);
    result.context("the control socket failed")
}
