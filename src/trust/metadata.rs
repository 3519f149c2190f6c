//! Making TUF metadata (specification 1.0.33, §4): root, targets, snapshot, timestamp, signed with Ed25519.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use jiff::Timestamp;
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;
use zeroize::ZeroizeOnDrop;

use super::{Bundle, target_name};
use crate::id::{Channel, ReleaseNo, Sha256};

const SPEC_VERSION: &str = "1.0.33";
/// The field of targets.json for [`Repository::link_keys`]; TUF passes over what it does not know (§4.1).
pub(super) const LINK_KEYS: &str = "x-diodesync-link-keys";
const DAY_S: u64 = 86_400;
/// A root outlives the hardware; it is replaced by rotation, not by expiry.
const ROOT_DAYS: u64 = 3650;
/// Targets and snapshot are signed anew with each release.
const RELEASE_DAYS: u64 = 365;

/// A key that signs one or more roles.
#[derive(Clone, ZeroizeOnDrop)]
pub struct RoleKey(SigningKey);

impl std::fmt::Debug for RoleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RoleKey({}…)", self.id())
    }
}

impl RoleKey {
    /// From its 32 secret octets.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    fn declaration(&self) -> Value {
        let public: String =
            self.0.verifying_key().to_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        json!({ "keytype": "ed25519", "scheme": "ed25519", "keyval": { "public": public } })
    }

    /// The key's id: SHA-256 of its canonical declaration (§4.2).
    pub fn id(&self) -> String {
        Sha256::of(&canonical(&self.declaration())).to_string()
    }

    fn sign(&self, signed: Value) -> Vec<u8> {
        sign_with(&[self], signed)
    }

    /// Whether a root names this key for a role. Nothing is verified: the root is one of our own.
    pub fn is_named_by(&self, root: &[u8], role: &str) -> bool {
        let root: Value = serde_json::from_slice(root).unwrap_or_default();
        let ids = root.pointer(&format!("/signed/roles/{role}/keyids")).and_then(Value::as_array);
        ids.is_some_and(|ids| ids.iter().any(|id| id.as_str() == Some(&self.id())))
    }
}

/// Metadata with the signature of each of these keys.
fn sign_with(keys: &[&RoleKey], signed: Value) -> Vec<u8> {
    let message = canonical(&signed);
    let signature = |key: &&RoleKey| {
        let octets = key.0.sign(&message).to_bytes();
        let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        json!({ "keyid": key.id(), "sig": text })
    };
    let signatures: Vec<Value> = keys.iter().map(signature).collect();
    canonical(&json!({ "signatures": signatures, "signed": signed }))
}

/// Canonical JSON. What is made here holds integers, texts and maps, which always have a canonical form.
fn canonical(value: &Value) -> Vec<u8> {
    to_canonical_bytes(value).unwrap_or_default()
}

fn expires(now_s: u64, days: u64) -> String {
    let s = i64::try_from(now_s.saturating_add(days * DAY_S)).unwrap_or(i64::MAX);
    Timestamp::from_second(s).unwrap_or(Timestamp::MAX).to_string()
}

/// The keys that sign releases. The root key is not among them: no daemon needs it.
#[derive(Debug, Clone)]
pub struct RoleKeys {
    /// Signs which indexes there are.
    pub targets: RoleKey,
    /// Signs which targets metadata is current, and that it still is.
    pub timestamp: RoleKey,
}

impl RoleKeys {
    /// A root that names these keys, signed by the root key.
    pub fn root(&self, root: &RoleKey, version: u64, now_s: u64) -> Vec<u8> {
        sign_with(&[root], self.root_body(root, version, now_s))
    }

    /// The root that follows one of `old`: it names these keys and `new`, and both root keys sign it (§5.3.4), so that
    /// who trusts the old one follows.
    pub fn next_root(&self, old: &RoleKey, new: &RoleKey, version: u64, now_s: u64) -> Vec<u8> {
        sign_with(&[old, new], self.root_body(new, version, now_s))
    }

    fn root_body(&self, root: &RoleKey, version: u64, now_s: u64) -> Value {
        let keys: BTreeMap<String, Value> =
            [root, &self.targets, &self.timestamp].iter().map(|key| (key.id(), key.declaration())).collect();
        let role = |key: &RoleKey| json!({ "keyids": [key.id()], "threshold": 1 });
        json!({
            "_type": "root",
            "spec_version": SPEC_VERSION,
            "version": version,
            "expires": expires(now_s, ROOT_DAYS),
            "consistent_snapshot": false,
            "keys": keys,
            "roles": {
                "root": role(root),
                "targets": role(&self.targets),
                "snapshot": role(&self.timestamp),
                "timestamp": role(&self.timestamp),
            },
        })
    }
}

/// The index that a channel serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Its number.
    pub number: ReleaseNo,
    /// Octets of the index.
    pub bytes: u64,
    /// SHA-256 of the index.
    pub sha256: Sha256,
}

/// The newest release of each channel, and the versions of the metadata that says so. Versions rise with every signing
/// and are durable before what was signed leaves the sender.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repository {
    /// Version of targets and snapshot.
    pub version: u64,
    /// Version of the timestamp.
    pub timestamp_version: u64,
    /// The newest release of each channel.
    pub releases: BTreeMap<Channel, Release>,
    /// The link keys that sessions are signed with, hexadecimal: the present one, then the next one while it is rotated.
    /// The receiver takes a new one from here only, so that the old key alone introduces none.
    pub link_keys: Vec<String>,
}

impl Repository {
    /// Signs all roles over the present state. The timestamp lives for `timestamp_days`.
    pub fn sign(&self, keys: &RoleKeys, roots: Vec<Vec<u8>>, now_s: u64, timestamp_days: u64) -> Bundle {
        let targets: BTreeMap<String, Value> = self
            .releases
            .iter()
            .map(|(channel, release)| {
                let target = json!({ "length": release.bytes, "hashes": { "sha256": release.sha256 } });
                (target_name(channel, release.number), target)
            })
            .collect();
        let mut targets = json!({
            "_type": "targets",
            "spec_version": SPEC_VERSION,
            "version": self.version,
            "expires": expires(now_s, RELEASE_DAYS),
            "targets": targets,
        });
        if let Some(body) = targets.as_object_mut().filter(|_| !self.link_keys.is_empty()) {
            body.insert(LINK_KEYS.to_owned(), json!(self.link_keys));
        }
        let targets = keys.targets.sign(targets);
        let snapshot = keys.timestamp.sign(json!({
            "_type": "snapshot",
            "spec_version": SPEC_VERSION,
            "version": self.version,
            "expires": expires(now_s, RELEASE_DAYS),
            "meta": { "targets.json": pin(&targets, self.version) },
        }));
        let timestamp = self.sign_timestamp(keys, &snapshot, now_s, timestamp_days);
        Bundle { roots, timestamp, snapshot, targets }
    }

    /// Signs a fresh timestamp over an existing snapshot.
    pub fn sign_timestamp(
        &self,
        keys: &RoleKeys,
        snapshot: &[u8],
        now_s: u64,
        timestamp_days: u64,
    ) -> Vec<u8> {
        keys.timestamp.sign(json!({
            "_type": "timestamp",
            "spec_version": SPEC_VERSION,
            "version": self.timestamp_version,
            "expires": expires(now_s, timestamp_days),
            "meta": { "snapshot.json": pin(snapshot, self.version) },
        }))
    }
}

fn pin(file: &[u8], version: u64) -> Value {
    json!({ "version": version, "length": file.len(), "hashes": { "sha256": Sha256::of(file) } })
}
