//! The dashboard's listener, and its bounds.
//!
//! | bound | what it stops |
//! |---|---|
//! | [`CONNECTIONS_MAX`] | more waits in the kernel's queue |
//! | [`HEADER_BYTES_MAX`], [`HEADERS_MAX`] | a request that is all header: it is refused when it has grown so long |
//! | [`HEADER_MAX`] | a request that trickles in, and an idle connection kept alive |
//! | [`LIFE_MAX`] | a client that reads no more; a page that is followed live connects again by itself. What is uploaded may take longer, for as long as something comes ([`Life`]) |

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use super::Listen;

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
/// Time for a request's header, from the connection's start or the answer before.
const HEADER_MAX: Duration = Duration::from_secs(30);
/// Octets of a request's line and header.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Lines of a request's header.
const HEADERS_MAX: usize = 64;
/// Time after which a connection is closed, whatever it does but upload.
const LIFE_MAX: Duration = Duration::from_secs(900);
/// Pause after the system refused a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(tokio::net::TcpListener),
    /// A socket file.
    Unix(tokio::net::UnixListener),
}

impl Listener {
    /// Binds; none if it is off. A listening socket that a service manager gave as standard input comes first: so a
    /// service without network can have one (`StandardInput=socket`).
    pub fn bind(listen: &Listen) -> anyhow::Result<Option<Self>> {
        if let Some(inherited) = inherited() {
            return inherited.map(Some);
        }
        match listen {
            Listen::Off => Ok(None),
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).with_context(|| {
                    format!("cannot listen on {address}; is the port in use, or has this service no network?")
                })?;
                Self::of_tcp(listener).map(Some)
            }
            Listen::Unix(path) => Self::of_unix(crate::bind(path)?).map(Some),
        }
    }

    fn of_tcp(listener: std::net::TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(tokio::net::TcpListener::from_std(listener)?))
    }

    fn of_unix(listener: std::os::unix::net::UnixListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(tokio::net::UnixListener::from_std(listener)?))
    }

    /// Where it is, for people.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".to_owned(), |at| format!("http://{at}/"))
            }
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!("unix:{}", path.map_or_else(|| "?".into(), |path| path.display().to_string()))
            }
        }
    }

    /// Serves until it is dropped.
    pub async fn serve(&self, router: Router) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // A slot first: whom we cannot serve waits outside.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let router = router.clone();
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(async move {
                        connection(stream, router).await;
                        drop(slot);
                    });
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        connection(stream, router).await;
                        drop(slot);
                    });
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "the dashboard cannot accept a connection; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The listening socket on standard input, if there is one.
fn inherited() -> Option<anyhow::Result<Listener>> {
    use rustix::net::{AddressFamily, sockopt};
    let stdin = std::io::stdin();
    let fd = stdin.as_fd();
    if !sockopt::socket_acceptconn(fd).is_ok_and(|listens| listens) {
        return None;
    }
    let open = || {
        let owned: OwnedFd = fd.try_clone_to_owned().context("cannot take the socket from standard input")?;
        match sockopt::socket_domain(&owned)? {
            AddressFamily::INET | AddressFamily::INET6 => Listener::of_tcp(owned.into()),
            AddressFamily::UNIX => Listener::of_unix(owned.into()),
            other => anyhow::bail!(
                "the socket on standard input is of family {other:?}, expected TCP or a socket file"
            ),
        }
    };
    Some(open())
}

/// When a connection ends. Requests have that of the connection that they came on.
#[derive(Debug, Clone)]
pub struct Life {
    end: Arc<Mutex<Instant>>,
    span: Duration,
}

impl Life {
    fn new(span: Duration) -> Self {
        Self { end: Arc::new(Mutex::new(Instant::now() + span)), span }
    }

    fn end(&self) -> Instant {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + self.span;
    }

    async fn over(&self) {
        while Instant::now() < self.end() {
            sleep_until(self.end()).await;
        }
    }
}

/// For routes that take uploads: each piece that comes lets the connection live longer.
pub async fn uploads(Extension(life): Extension<Life>, request: Request, next: Next) -> Response {
    let body = |body: Body| {
        Body::new(body.map_frame(move |frame| {
            life.extend();
            frame
        }))
    };
    next.run(request.map(body)).await
}

async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, router: Router) {
    let life = Life::new(LIFE_MAX);
    let (router, mark) = (TowerToHyperService::new(router), life.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(mark.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = connection => if let Err(error) = done {
            tracing::debug!(%error, "a connection of the dashboard ended early");
        },
        () = life.over() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_lives_for_as_long_as_something_is_uploaded() {
        let (span, began) = (Duration::from_secs(1), Instant::now());
        let life = Life::new(span);
        let uploading = async {
            for _ in 0..5 {
                sleep(span / 2).await;
                life.extend();
            }
        };
        tokio::join!(life.over(), uploading);
        assert!(began.elapsed() >= 7 * span / 2, "{:?}", began.elapsed());
    }
}
