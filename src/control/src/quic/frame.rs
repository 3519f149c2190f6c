//! Messages behind their length.

use anyhow::bail;
use quinn::RecvStream;

/// The next message, without its length, which `check` has judged before anything is set aside for it.
///
/// # Errors
/// If its length is refused, or the stream ends before its end.
pub async fn read(
    receive: &mut RecvStream,
    check: impl FnOnce([u8; 4]) -> anyhow::Result<usize>,
) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 4];
    receive.read_exact(&mut length).await?;
    read_rest(receive, check(length)?).await
}

/// So many octets.
///
/// # Errors
/// If the stream ends before them.
pub async fn read_rest(receive: &mut RecvStream, length: usize) -> anyhow::Result<Vec<u8>> {
    // No more is set aside than has come.
    let mut body = Vec::new();
    while body.len() < length {
        match receive.read_chunk(length - body.len(), true).await? {
            Some(chunk) => body.extend_from_slice(&chunk.bytes),
            None => bail!("a message broke off after {} of {length} octets", body.len()),
        }
    }
    Ok(body)
}
