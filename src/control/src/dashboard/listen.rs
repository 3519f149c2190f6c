//! The dashboard's listener, and its bounds.
//!
//! | bound | what it stops |
//! |---|---|
//! | [`CONNECTIONS_MAX`] | more waits in the kernel's queue |
//! | [`HEADER_BYTES_MAX`], [`HEADERS_MAX`] | a request that is all header: it is refused when it has grown so long |
//! | [`HEADER_MAX`] | a request that trickles in, and an idle connection kept alive |
//! | [`LIFE_MAX`] | a client that reads no more; a page that is followed live connects again by itself |

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Listen;

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
/// Time for a request's header, from the connection's start or the answer before.
const HEADER_MAX: Duration = Duration::from_secs(30);
/// Octets of a request's line and header.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Lines of a request's header.
const HEADERS_MAX: usize = 64;
/// Time after which a connection is closed, whatever it does.
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

async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(LIFE_MAX, connection).await {
        tracing::debug!(%error, "a connection of the dashboard ended early");
    }
}
