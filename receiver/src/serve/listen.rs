//! The listener: TCP, TLS, HTTP/1.1, and the bounds on each, so that no client can take the gateway from the others.
//!
//! | bound | what it stops |
//! |---|---|
//! | [`CONNECTIONS_MAX`] | more waits in the kernel's queue; at two pieces each, bodies hold 128 MiB at the most, and HTTP buffers about as much |
//! | [`HANDSHAKE_MAX`] | a client that connects and says nothing |
//! | [`HEADER_MAX`] | a request that trickles in, and an idle connection kept alive |
//! | [`STALL_MAX`] | a client that asks for much and does not read it |
//! | [`HEADER_BYTES_MAX`], [`HEADERS_MAX`] | a request that is all header |
//!
//! One failed connection is that client's loss only; one failed `accept` is waited out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::TlsHandle;

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Time for a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time for a request's header, from the connection's start or the answer before.
const HEADER_MAX: Duration = Duration::from_secs(30);
/// Time in which a client must take something of what is sent to it.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Time for answers under way when the daemon stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Octets of a request's line and header.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Lines of a request's header.
const HEADERS_MAX: usize = 64;

/// Serves until `shutdown` is done; then lets answers under way finish, for a while.
pub async fn run(
    listener: TcpListener,
    tls: impl Into<TlsHandle>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let tls = tls.into();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // A slot first: whom we cannot serve waits outside.
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            (slot, accepted) = accept => match accepted {
                Ok((stream, peer)) => {
                    let connection = serve(stream, peer, tls.clone(), router.clone(), stopping.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an https connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let drain = async {
        while let Some(ended) = connections.join_next().await {
            note_panic(ended);
        }
    };
    if timeout(DRAIN_MAX, drain).await.is_err() {
        tracing::warn!(cut = connections.len(), "stopped before all downloads were done");
    }
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an https connection failed in a way that it should not");
    }
}

/// One connection from its handshake to its end.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsHandle,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    // Answers are written whole; waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(tls.load()).accept(Unstalled::new(stream));
    let stream = match timeout(HANDSHAKE_MAX, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let stopped = async {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an https connection ended early");
    }
}

/// A stream whose writes fail when the peer takes nothing for [`STALL_MAX`]. Reads are bounded by the protocol above.
struct Unstalled {
    stream: TcpStream,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl Unstalled {
    fn new(stream: TcpStream) -> Self {
        Self { stream, stall: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        stall.as_mut().poll(context).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing of what was sent to it"))
        })
    }
}

impl AsyncRead for Unstalled {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, into)
    }
}

impl AsyncWrite for Unstalled {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
