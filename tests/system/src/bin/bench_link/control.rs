//! Asking a daemon for its status without starting a process for it, which would cost what is being measured.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

/// `GET /v1/status` over the control socket in `dir`.
pub fn status<T: DeserializeOwned>(dir: &Path) -> Result<T> {
    let of_receiver = dir.join("run/control.sock");
    let socket = if of_receiver.exists() { of_receiver } else { dir.join("control.sock") };
    let what = || format!("{} does not answer", socket.display());
    let mut stream = UnixStream::connect(&socket).with_context(what)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(what)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").with_context(what)?;
    let (head, body) = answer.split_at(end + 4);
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("{}: {}", what(), String::from_utf8_lossy(&answer));
    }
    serde_json::from_slice(body)
        .with_context(|| format!("status says what nobody expects:\n{}", String::from_utf8_lossy(body)))
}
