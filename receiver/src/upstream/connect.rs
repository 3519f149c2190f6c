//! The connection to who feeds this host.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, anyhow};
use diodesync_control::quic::Identity;
use quinn::{Connection, ConnectionError, Endpoint, TransportErrorCode};

use crate::feed::Upstream;
use crate::feed::protocol::TALK;

/// Time for a connection to come about.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// TLS's alert for a certificate, or a key, that is not let in (access_denied).
const ACCESS_DENIED: u8 = 49;

/// Tries all addresses.
///
/// # Errors
/// Why there is none.
pub async fn connect(upstream: &Upstream, identity: &Identity) -> anyhow::Result<(Endpoint, Connection)> {
    let from = &upstream.from;
    let addresses = tokio::net::lookup_host(from).await.with_context(|| format!("cannot find {from}"))?;
    let mut last = anyhow!("{from} has no address");
    for address in addresses {
        match connect_to(upstream, identity, address).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(
    upstream: &Upstream,
    identity: &Identity,
    address: SocketAddr,
) -> anyhow::Result<(Endpoint, Connection)> {
    let (config, stranger) = identity.client(upstream.pin, &TALK)?;
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(own).context("cannot open a UDP socket")?;
    // The name is for TLS's sake: who is meant says the pin.
    let connecting = endpoint.connect_with(config, address, "feed")?;
    let connected = tokio::time::timeout(CONNECT_MAX, connecting).await;
    if let Some(found) = *stranger.lock().unwrap_or_else(PoisonError::into_inner) {
        return Err(anyhow!(
            "{address} has another key: expected {}, as pin of [upstream] says, and found {found}. If the key of the \
             receiver there was changed, its diode-receiver status shows the new pin. If not, it is someone else",
            upstream.pin
        ));
    }
    match connected {
        Ok(Ok(connection)) => Ok((endpoint, connection)),
        Ok(Err(error)) => Err(anyhow!("{}", why(&error, identity))),
        Err(_) => Err(anyhow!("{}", why(&ConnectionError::TimedOut, identity))),
    }
}

/// Why a connection is over, for an operator.
pub fn why(error: &ConnectionError, identity: &Identity) -> String {
    let denied = TransportErrorCode::crypto(ACCESS_DENIED);
    match error {
        ConnectionError::ConnectionClosed(close) if close.error_code == denied => format!(
            "it does not know this host: have name and key = \"{}\" written into a [[feed.host]] of its receiver.toml, and \
             that receiver restarted",
            identity.pin()
        ),
        ConnectionError::TimedOut => {
            "nobody answers; does the receiver run there with [feed] listen, and do UDP packets get there and back?"
                .to_owned()
        }
        ConnectionError::ApplicationClosed(close) => {
            format!("it has closed the connection: {}", String::from_utf8_lossy(&close.reason))
        }
        error => error.to_string(),
    }
}
