//! Which link keys may sign sessions.
//!
//! ```text
//! DIR/link-keys      what the accepted metadata names, the oldest first; the publisher writes it (fact)
//! DIR/session/signer the key of the newest accepted session; the lane writes it before the session counts (fact)
//! DIR/session/receivers the receivers' keys that it was sealed to (fact)
//! ```
//!
//! Until metadata names any, it is the key of the pairing. What stands before the key of the newest session is over: who
//! holds an old key cannot bring it back.

use std::path::Path;

use anyhow::Context;
use diodesync::id::{Blake3, PackId};
use diodesync::link::LinkVerifier;
use diodesync::pack::fact;
use diodesync::trust::TrustState;

/// Keys that one list may name.
const KEYS_MAX: usize = 4;

fn parse(key: &str) -> anyhow::Result<LinkVerifier> {
    let octets: Blake3 = key.parse().context("a link key is malformed")?;
    Ok(LinkVerifier::from_bytes(&octets.0)?)
}

/// Records what the metadata names; returns the keys that may sign if that is something new.
pub fn record(dir: &Path, trust: &TrustState) -> anyhow::Result<Option<Vec<LinkVerifier>>> {
    let named = trust.link_keys();
    if named.is_empty() || named.len() > KEYS_MAX {
        return Ok(None);
    }
    named
        .iter()
        .try_for_each(|key| parse(key).map(drop))
        .context("targets.json names a link key that is none")?;
    let content = serde_json::to_vec_pretty(&named)?;
    if fact::read(&dir.join("link-keys"))?.as_ref() == Some(&content) {
        return Ok(None);
    }
    fact::write(&dir.join("link-keys"), &content)?;
    load(dir, Vec::new()).map(Some)
}

/// The keys that may sign; `paired` if the metadata has named none yet.
pub fn load(dir: &Path, paired: Vec<LinkVerifier>) -> anyhow::Result<Vec<LinkVerifier>> {
    // What is damaged is said at the start, and not when a session comes.
    fact::read(&dir.join("session/receivers"))?;
    let Some(content) = fact::read(&dir.join("link-keys"))? else { return Ok(paired) };
    let named: Vec<String> =
        serde_json::from_slice(&content).context("the fact file link-keys is damaged")?;
    let mut keys = named.iter().map(|key| parse(key)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(signer) = fact::read(&dir.join("session/signer"))?
        && let Some(at) = keys.iter().position(|key| key.to_bytes().as_slice() == signer.as_slice())
    {
        keys.drain(..at);
    }
    Ok(keys)
}

/// Takes a key that an operator has carried here, for a receiver that was down from the announcement of a rotation until
/// after its end: nothing that it can read names the new key. Says whether it is new.
pub fn accept(dir: &Path, paired: Vec<LinkVerifier>, key: &str) -> anyhow::Result<bool> {
    let new = parse(key.trim())?;
    let mut keys = load(dir, paired)?;
    if keys.contains(&new) {
        return Ok(false);
    }
    anyhow::ensure!(
        keys.len() < KEYS_MAX,
        "{} link keys are known already, the limit is {KEYS_MAX}",
        keys.len()
    );
    keys.push(new);
    let named: Vec<String> = keys.iter().map(|key| Blake3(key.to_bytes()).to_string()).collect();
    fact::write(&dir.join("link-keys"), &serde_json::to_vec_pretty(&named)?)?;
    Ok(true)
}

/// Records to which of the receivers' keys, hexadecimal ids, the newest session was sealed.
pub fn record_receivers(dir: &Path, ids: &[[u8; 8]]) -> anyhow::Result<()> {
    let ids: Vec<String> = ids.iter().map(|id| PackId(*id).to_string()).collect();
    let (path, content) = (dir.join("session/receivers"), serde_json::to_vec(&ids)?);
    if fact::read(&path)?.as_ref() != Some(&content) {
        fact::write(&path, &content)?;
    }
    Ok(())
}

/// Whether the newest session was sealed to a key.
pub fn is_sealed_to(dir: &Path, id: [u8; 8]) -> anyhow::Result<bool> {
    let Some(content) = fact::read(&dir.join("session/receivers"))? else { return Ok(false) };
    let ids: Vec<String> =
        serde_json::from_slice(&content).context("the fact file session/receivers is damaged")?;
    Ok(ids.contains(&PackId(id).to_string()))
}

/// Records the key of a session that is about to count.
pub fn record_signer(dir: &Path, signer: &LinkVerifier) -> anyhow::Result<()> {
    let path = dir.join("session/signer");
    let octets = signer.to_bytes();
    if fact::read(&path)?.as_deref() != Some(octets.as_slice()) {
        fact::write(&path, &octets)?;
    }
    Ok(())
}
