//! TUF metadata: as anyone can make it, and as who holds one of its keys can.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use diodesync::id::{Channel, ReleaseNo, Sha256};
use diodesync::trust::{
    Bundle, Release, Repository, RoleKey, RoleKeys, Target, TrustState, verify, verify_timestamp,
};
use ed25519_dalek::Signer;
use serde_json::{Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;

use super::choice;

/// When everything here was signed and is judged.
pub const NOW_S: u64 = 1_795_000_000;

const ROOT_SEED: [u8; 32] = [1; 32];
const TARGETS_SEED: [u8; 32] = [2; 32];
const TIMESTAMP_SEED: [u8; 32] = [3; 32];

fn keys() -> RoleKeys {
    RoleKeys { targets: RoleKey::from_seed(&TARGETS_SEED), timestamp: RoleKey::from_seed(&TIMESTAMP_SEED) }
}

/// What the sender signed for its releases 1 to `number`, the newest of them.
pub fn signed(number: u64) -> Bundle {
    let bytes = number.to_be_bytes();
    let release = Release { number: ReleaseNo(number), bytes: 8, sha256: Sha256::of(&bytes) };
    let repository = Repository {
        version: number,
        timestamp_version: number,
        releases: BTreeMap::from([(Channel::main(), release)]),
        link_keys: Vec::new(),
    };
    let root = keys().root(&RoleKey::from_seed(&ROOT_SEED), 1, NOW_S);
    repository.sign(&keys(), vec![root], NOW_S, 7)
}

/// A receiver that has accepted the first release.
pub fn state() -> TrustState {
    let first = signed(1);
    let paired = TrustState::from_root(&first.roots[0]).expect("the first root");
    verify(&paired, &first, NOW_S).expect("the first release").0
}

/// A bundle, a timestamp, or the metadata of one role with a true signature on it.
pub fn trust(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 6) else { return };
    static STATE: LazyLock<TrustState> = LazyLock::new(state);
    match kind {
        0 => bundle(&STATE, rest),
        1 => {
            if let Ok(Some(fresh)) = verify_timestamp(&STATE, rest, NOW_S) {
                panic!("nobody has signed {fresh:?}");
            }
        }
        _ => with_a_key(&STATE, kind, rest),
    }
}

/// Without a key: what is accepted is what was signed.
fn bundle(state: &TrustState, data: &[u8]) {
    let Ok(bundle) = Bundle::parse(data) else { return };
    assert_eq!(bundle.encode(), data, "one bundle has one encoding");
    match verify(state, &bundle, NOW_S) {
        Ok((after, targets)) => {
            assert_eq!(after.root, state.root, "nobody has signed another root");
            let target = |number: u64| Target { bytes: 8, sha256: Sha256::of(&number.to_be_bytes()) };
            let is_true =
                |number: u64| targets == BTreeMap::from([(format!("main/{number}.index"), target(number))]);
            assert!(is_true(1) || is_true(2), "nobody has signed {targets:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// With the keys: what is accepted is loaded again, and nothing panics.
fn with_a_key(state: &TrustState, kind: u8, data: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Value>(data) else { return };
    static SECOND: LazyLock<Bundle> = LazyLock::new(|| signed(2));
    let mut bundle = SECOND.clone();
    match kind {
        2 => bundle.timestamp = sign(&TIMESTAMP_SEED, &body),
        3 => {
            bundle.snapshot = sign(&TIMESTAMP_SEED, &body);
            bundle.timestamp = sign(&TIMESTAMP_SEED, &pinned("timestamp", "snapshot.json", &bundle.snapshot));
        }
        4 => {
            bundle.targets = sign(&TARGETS_SEED, &body);
            bundle.snapshot = sign(&TIMESTAMP_SEED, &pinned("snapshot", "targets.json", &bundle.targets));
            bundle.timestamp = sign(&TIMESTAMP_SEED, &pinned("timestamp", "snapshot.json", &bundle.snapshot));
        }
        _ => bundle.roots.push(sign(&ROOT_SEED, &body)),
    }
    if let Ok((after, _)) = verify(state, &bundle, NOW_S) {
        let text = serde_json::to_vec(&after).expect("a fact");
        let again: TrustState = serde_json::from_slice(&text).expect("a fact");
        assert_eq!(again, after);
        let _ = again.expires_s();
        let held = Bundle { roots: Vec::new(), ..bundle };
        verify(&again, &held, NOW_S).expect("what was accepted stays accepted");
    }
}

fn pinned(role: &str, name: &str, file: &[u8]) -> Value {
    let pin = json!({ "version": 2, "length": file.len(), "hashes": { "sha256": Sha256::of(file) } });
    let expires = "2027-01-01T00:00:00Z";
    json!({ "_type": role, "spec_version": "1.0.33", "version": 2, "expires": expires, "meta": { name: pin } })
}

fn sign(seed: &[u8; 32], body: &Value) -> Vec<u8> {
    let canonical = |value: &Value| to_canonical_bytes(value).unwrap_or_default();
    let signature = ed25519_dalek::SigningKey::from_bytes(seed).sign(&canonical(body)).to_bytes();
    let signature: String = signature.iter().map(|octet| format!("{octet:02x}")).collect();
    let id = RoleKey::from_seed(seed).id();
    canonical(&json!({ "signatures": [{ "keyid": id, "sig": signature }], "signed": body }))
}
