//! The command's end of the control socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Octets of the longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Speaks to a running daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// What the operator runs to start the daemon.
    start_with: String,
}

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;

impl Client {
    /// `start_with` is the command that an error message names when no daemon answers.
    pub fn new(socket: &Path, start_with: impl Into<String>) -> Self {
        Self { socket: socket.to_owned(), start_with: start_with.into() }
    }

    /// Asks for something.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, Full::default().map_err(|never| match never {}).boxed()).await
    }

    /// Has something done.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = Full::new(Bytes::from(body.to_string()));
        self.send(Method::POST, path, body.map_err(|never| match never {}).boxed()).await
    }

    /// Hands over a stream of octets.
    pub async fn post_stream(&self, path: &str, body: Body) -> anyhow::Result<Value> {
        self.send(Method::POST, path, body).await
    }

    /// Takes a stream of octets as they come. It ends when the daemon has sent all of them, and fails when it breaks off.
    pub async fn get_octets(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let empty = Full::default().map_err(|never| match never {}).boxed();
        let (answer, connection) = self.ask(Method::GET, path, empty).await?;
        if !answer.status().is_success() {
            return read_json(path, answer).await.map(drop);
        }
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the daemon broke the stream off; its log says why")?;
            if let Ok(octets) = frame.into_data() {
                take(&octets)?;
            }
        }
        connection.abort();
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> anyhow::Result<Value> {
        let (answer, connection) = self.ask(method, path, body).await?;
        let value = read_json(path, answer).await;
        connection.abort();
        value
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> anyhow::Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>)> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "the daemon does not answer at {}; is it running? Start it with: {}",
                self.socket.display(),
                self.start_with
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(body)?;
        let answer = sender.send_request(request).await;
        drop(sender);
        Ok((answer.context("the daemon closed the connection; its log says why")?, connection))
    }
}

async fn read_json(path: &str, answer: Response<Incoming>) -> anyhow::Result<Value> {
    let status = answer.status();
    let bytes = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the daemon's answer broke off: {error}"))?
        .to_bytes();
    let value: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("the daemon's answer to {path} is not JSON (status {status})"))?;
    if !status.is_success() {
        bail!(
            "{}",
            value.get("error").and_then(Value::as_str).unwrap_or("the daemon refused without a reason")
        );
    }
    Ok(value)
}
