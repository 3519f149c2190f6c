//! Verifying TUF metadata (specification 1.0.33, §5.3 to §5.6). The time is an argument, and is judged once, on
//! arrival: what was accepted stays accepted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sigstore_tuf::canonical_json::to_canonical_bytes;
use sigstore_tuf::metadata::Metadata;
use sigstore_tuf::{Error, Role, TrustedMetadataSet};
use thiserror::Error as ThisError;

use super::Bundle;
use super::metadata::LINK_KEYS;
use crate::id::Sha256;

/// Why metadata is not trusted.
#[derive(Debug, ThisError)]
pub enum TrustError {
    /// A check of TUF failed.
    #[error("the release's TUF metadata is refused: {0}")]
    Tuf(#[from] Error),
    /// The metadata is older than what was accepted.
    #[error(
        "the TUF timestamp has version {found}, version {held} was accepted before: an old release was sent again, or \
         the sender was restored from a backup (then: diode-sender restore --floor)"
    )]
    Rollback {
        /// The version accepted before.
        held: u64,
        /// The version offered.
        found: u64,
    },
    /// Another root of a version that is known.
    #[error(
        "the bundle's root of version {0} is not the one that was accepted: it was changed on its way, or the sender's \
         roots are not those of the pairing"
    )]
    OtherRoot(u64),
    /// Metadata that is not written as the sender writes it.
    #[error("{0} is not in canonical form: it was changed on its way")]
    Form(&'static str),
    /// The time is out of range.
    #[error("the time {0} s since 1970 cannot be judged; set the receiver's clock")]
    Clock(u64),
    /// A target lacks its digest.
    #[error("target {0} has no SHA-256 or an unusable one")]
    Digest(String),
}

/// The metadata that was accepted last. A fact on the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustState {
    /// The newest root.
    pub root: String,
    /// timestamp.json, snapshot.json and targets.json, once a release was accepted.
    pub accepted: Option<Accepted>,
}

/// See [`TrustState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// timestamp.json
    pub timestamp: String,
    /// snapshot.json
    pub snapshot: String,
    /// targets.json
    pub targets: String,
    /// The time by which expiry was judged, seconds since 1970.
    pub judged_s: u64,
}

/// An index that may be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Octets of the index.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

impl TrustError {
    /// Whether a clock decides: at another time the same metadata may be good.
    pub fn is_about_time(&self) -> bool {
        matches!(self, Self::Clock(_) | Self::Tuf(Error::Expired { .. }))
    }
}

impl TrustState {
    /// Trusts the root of a pairing.
    pub fn from_root(root: &[u8]) -> Result<Self, TrustError> {
        TrustedMetadataSet::from_root(root)?;
        Ok(Self { root: text(root), accepted: None })
    }

    /// When the accepted timestamp expires, in seconds since 1970.
    pub fn expires_s(&self) -> Option<u64> {
        timestamp_expires_s(self.accepted.as_ref()?.timestamp.as_bytes())
    }

    /// The link keys that the accepted metadata names, hexadecimal, the oldest first; none if it names none.
    pub fn link_keys(&self) -> Vec<String> {
        let targets = self.accepted.as_ref().map(|accepted| accepted.targets.as_str()).unwrap_or_default();
        let targets: serde_json::Value = serde_json::from_str(targets).unwrap_or_default();
        let keys = targets.pointer(&format!("/signed/{LINK_KEYS}")).and_then(|keys| keys.as_array());
        keys.into_iter().flatten().filter_map(|key| key.as_str()).map(str::to_owned).collect()
    }

    /// The highest version of the accepted timestamp, snapshot and targets: what a restored sender must go above.
    pub fn version(&self) -> Option<u64> {
        let accepted = self.accepted.as_ref()?;
        let version = |file: &str| {
            let file: serde_json::Value = serde_json::from_str(file).ok()?;
            file.pointer("/signed/version")?.as_u64()
        };
        [&accepted.timestamp, &accepted.snapshot, &accepted.targets]
            .into_iter()
            .filter_map(|f| version(f))
            .max()
    }

    fn load(&self) -> Result<TrustedMetadataSet, TrustError> {
        let mut set = TrustedMetadataSet::from_root(self.root.as_bytes())?;
        if let Some(accepted) = &self.accepted {
            let then = time(accepted.judged_s)?;
            set.update_timestamp(accepted.timestamp.as_bytes(), then)?;
            set.update_snapshot(accepted.snapshot.as_bytes(), then)?;
        }
        Ok(set)
    }
}

/// When a timestamp expires, in seconds since 1970.
pub fn timestamp_expires_s(timestamp: &[u8]) -> Option<u64> {
    let timestamp = Metadata::<sigstore_tuf::Timestamp>::from_slice(timestamp).ok()?;
    u64::try_from(timestamp.signed().expires().as_second()).ok()
}

/// The version of a timestamp.
pub fn timestamp_version(timestamp: &[u8]) -> Option<u64> {
    Some(Metadata::<sigstore_tuf::Timestamp>::from_slice(timestamp).ok()?.signed().version)
}

/// Accepts a bundle, or says why not. Returns the state to record and the indexes that may be published.
pub fn verify(
    state: &TrustState,
    bundle: &Bundle,
    now_s: u64,
) -> Result<(TrustState, BTreeMap<String, Target>), TrustError> {
    let now = time(now_s)?;
    let mut set = state.load()?;
    // A new root makes the set forget the timestamp, and with it the version below which nothing is accepted.
    let held = set.timestamp().map(|timestamp| timestamp.version);
    check_roots(&set, state, &bundle.roots)?;
    for (name, file) in [
        ("timestamp.json", &bundle.timestamp),
        ("snapshot.json", &bundle.snapshot),
        ("targets.json", &bundle.targets),
    ] {
        check_form(name, file)?;
    }
    for root in &bundle.roots {
        if Metadata::<sigstore_tuf::Root>::from_slice(root)?.signed().version > set.root().version {
            set.update_root(root)?;
        }
    }
    set.check_root_expired(now)?;

    let offered = Metadata::<sigstore_tuf::Timestamp>::from_slice(&bundle.timestamp)?.signed().version;
    let held_pin = set.timestamp().and_then(|t| t.snapshot_meta()).map(|pin| pin.version);
    let bundle_snapshot = Metadata::<sigstore_tuf::Snapshot>::from_slice(&bundle.snapshot)?.signed().version;
    let mut timestamp = text(&bundle.timestamp);
    match held {
        // A beacon brought a fresher timestamp over the same snapshot.
        Some(held) if offered <= held && held_pin == Some(bundle_snapshot) => {
            timestamp = state.accepted.as_ref().map_or(timestamp, |accepted| accepted.timestamp.clone());
        }
        Some(held) if offered < held => return Err(TrustError::Rollback { held, found: offered }),
        _ => set.update_timestamp(&bundle.timestamp, now)?,
    }
    set.update_snapshot(&bundle.snapshot, now)?;
    let targets = set.update_targets(&bundle.targets, now)?;
    let targets = targets
        .targets
        .iter()
        .map(|(name, file)| {
            let sha256 = file.hashes.get("sha256").and_then(|digest| digest.parse().ok());
            let sha256 = sha256.ok_or_else(|| TrustError::Digest(name.clone()))?;
            Ok((name.clone(), Target { bytes: file.length, sha256 }))
        })
        .collect::<Result<_, TrustError>>()?;
    let accepted = Accepted {
        timestamp,
        snapshot: text(&bundle.snapshot),
        targets: text(&bundle.targets),
        judged_s: now_s,
    };
    Ok((TrustState { root: text(set.root_bytes()), accepted: Some(accepted) }, targets))
}

/// Accepts a fresher timestamp over the snapshot that is held, as a beacon brings it; `None` if it says nothing new.
pub fn verify_timestamp(
    state: &TrustState,
    timestamp: &[u8],
    now_s: u64,
) -> Result<Option<TrustState>, TrustError> {
    let Some(accepted) = &state.accepted else { return Ok(None) };
    check_form("timestamp.json", timestamp)?;
    let mut set = state.load()?;
    let held_pin = set.timestamp().and_then(|t| t.snapshot_meta()).map(|pin| pin.version);
    match set.update_timestamp(timestamp, time(now_s)?) {
        Err(Error::EqualVersion { .. }) => return Ok(None),
        other => other?,
    }
    if set.timestamp().and_then(|t| t.snapshot_meta()).map(|pin| pin.version) != held_pin {
        return Ok(None);
    }
    let accepted = Accepted { timestamp: text(timestamp), judged_s: now_s, ..accepted.clone() };
    Ok(Some(TrustState { root: state.root.clone(), accepted: Some(accepted) }))
}

/// Checks that roots follow each other, each signed by the one before and by itself. The sender asks before it sends
/// them, the receiver of all that a bundle brings, also of those that it knows: nothing in it goes unseen.
pub fn follow(roots: &[Vec<u8>]) -> Result<(), TrustError> {
    let mut chain: Option<TrustedMetadataSet> = None;
    for root in roots {
        check_form("a root", root)?;
        match &mut chain {
            None => chain = Some(TrustedMetadataSet::from_root(root)?),
            Some(chain) => chain.update_root(root)?,
        }
    }
    Ok(())
}

fn check_roots(set: &TrustedMetadataSet, state: &TrustState, roots: &[Vec<u8>]) -> Result<(), TrustError> {
    follow(roots)?;
    let held = set.root().version;
    for root in roots {
        let is_held = Metadata::<sigstore_tuf::Root>::from_slice(root)?.signed().version == held;
        if is_held && root != state.root.as_bytes() {
            return Err(TrustError::OtherRoot(held));
        }
    }
    Ok(())
}

/// One meaning has one encoding: canonical JSON, signatures in lower case. A signature covers the meaning only.
fn check_form(name: &'static str, file: &[u8]) -> Result<(), TrustError> {
    let form = || TrustError::Form(name);
    let value: serde_json::Value = serde_json::from_slice(file).map_err(|_| form())?;
    let signatures = value.get("signatures").and_then(|list| list.as_array()).ok_or_else(form)?;
    let is_lower = |signature: &serde_json::Value| {
        let text = signature.get("sig").and_then(|text| text.as_str());
        text.is_some_and(|text| !text.bytes().any(|octet| octet.is_ascii_uppercase()))
    };
    let is_canonical = to_canonical_bytes(&value).is_ok_and(|canonical| canonical == file);
    if is_canonical && signatures.iter().all(is_lower) { Ok(()) } else { Err(form()) }
}

fn time(s: u64) -> Result<Timestamp, TrustError> {
    i64::try_from(s).ok().and_then(|s| Timestamp::from_second(s).ok()).ok_or(TrustError::Clock(s))
}

/// Metadata is JSON, which is UTF-8; what parsed is.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Release, Repository, RoleKey, RoleKeys};
    use super::*;
    use crate::id::{Channel, ReleaseNo};

    const NOW: u64 = 1_795_000_000;
    const DAY: u64 = 86_400;

    struct Low {
        root_key: RoleKey,
        keys: RoleKeys,
        roots: Vec<Vec<u8>>,
        repository: Repository,
    }

    impl Low {
        fn new(seed: u8) -> Self {
            let key = |n: u8| RoleKey::from_seed(&[seed ^ n; 32]);
            let keys = RoleKeys { targets: key(2), timestamp: key(3) };
            let roots = vec![keys.root(&key(1), 1, NOW)];
            Self { root_key: key(1), keys, roots, repository: Repository::default() }
        }

        fn release(&mut self, number: u64, now_s: u64) -> Bundle {
            self.repository.version += 1;
            self.repository.timestamp_version += 1;
            let sha256 = Sha256::of(&number.to_be_bytes());
            self.repository
                .releases
                .insert(Channel::main(), Release { number: ReleaseNo(number), bytes: 10, sha256 });
            self.repository.sign(&self.keys, self.roots.clone(), now_s, 7)
        }

        fn state(&self) -> TrustState {
            TrustState::from_root(&self.roots[0]).unwrap()
        }
    }

    #[test]
    fn a_release_is_accepted_and_the_next_one_too() {
        let mut low = Low::new(0);
        let first = low.release(1, NOW);
        let second = low.release(2, NOW + DAY);
        let (state, targets) = verify(&low.state(), &first, NOW).unwrap();
        assert_eq!(targets.keys().collect::<Vec<_>>(), ["main/1.index"]);
        let (again, _) = verify(&state, &first, NOW + 1).unwrap();
        assert_eq!(again.accepted.as_ref().unwrap().timestamp, state.accepted.as_ref().unwrap().timestamp);
        let (state, targets) = verify(&state, &second, NOW + DAY).unwrap();
        assert_eq!(targets["main/2.index"].sha256, Sha256::of(&2u64.to_be_bytes()));
        assert!(matches!(verify(&state, &first, NOW + DAY), Err(TrustError::Rollback { held: 2, found: 1 })));
        assert_eq!((state.expires_s(), state.version()), (Some(NOW + 8 * DAY), Some(2)));
    }

    #[test]
    fn what_is_expired_of_another_root_or_mixed_is_refused() {
        let mut low = Low::new(0);
        let first = low.release(1, NOW);
        let second = low.release(2, NOW);
        let expired = verify(&low.state(), &first, NOW + 8 * DAY).unwrap_err();
        assert!(expired.is_about_time(), "{expired}");
        assert!(verify(&Low::new(9).state(), &first, NOW).is_err(), "another root");
        for mixed in [
            Bundle { timestamp: first.timestamp.clone(), ..second.clone() },
            Bundle { snapshot: first.snapshot.clone(), ..second.clone() },
            Bundle { targets: first.targets.clone(), ..second.clone() },
        ] {
            assert!(verify(&low.state(), &mixed, NOW).is_err(), "mixed");
        }
    }

    #[test]
    fn every_octet_of_the_metadata_matters() {
        let mut low = Low::new(0);
        let good = low.release(1, NOW);
        let state = low.state();
        let try_file = |file: &[u8], make: &dyn Fn(Vec<u8>) -> Bundle| {
            for at in 0..file.len() {
                let mut bad = file.to_vec();
                bad[at] ^= 1;
                assert!(verify(&state, &make(bad), NOW).is_err(), "octet {at}");
            }
        };
        try_file(&good.timestamp, &|timestamp| Bundle { timestamp, ..good.clone() });
        try_file(&good.snapshot, &|snapshot| Bundle { snapshot, ..good.clone() });
        try_file(&good.targets, &|targets| Bundle { targets, ..good.clone() });
    }

    #[test]
    fn fifty_rotations_are_caught_up_and_rollback_is_still_seen() {
        let mut low = Low::new(0);
        let old = low.release(1, NOW);
        let state = verify(&low.state(), &old, NOW).unwrap().0;
        for version in 2..=51 {
            // Every key is another one, root, targets and timestamp.
            let key = |n: u8| RoleKey::from_seed(&[version as u8 * 3 + n; 32]);
            low.keys = RoleKeys { targets: key(1), timestamp: key(2) };
            low.roots.push(low.keys.next_root(&low.root_key, &key(0), version, NOW));
            low.root_key = key(0);
        }
        let mut unlinked = low.roots.clone();
        unlinked.push(low.keys.root(&RoleKey::from_seed(&[250; 32]), 52, NOW));
        assert!(follow(&unlinked).is_err(), "a root that the old root key did not sign");
        let new = low.release(2, NOW);
        let (rotated, _) = verify(&state, &new, NOW).unwrap();
        assert!(rotated.root.contains("\"version\":51"));
        let replayed = Bundle { roots: low.roots.clone(), ..old };
        assert!(matches!(verify(&rotated, &replayed, NOW), Err(TrustError::Rollback { .. })));
    }

    #[test]
    fn a_beacon_freshens_the_timestamp_and_nothing_else() {
        let mut low = Low::new(0);
        let first = low.release(1, NOW);
        let (state, _) = verify(&low.state(), &first, NOW).unwrap();
        low.repository.timestamp_version += 1;
        let fresh = low.repository.sign_timestamp(&low.keys, &first.snapshot, NOW + 5 * DAY, 7);
        let state = verify_timestamp(&state, &fresh, NOW + 5 * DAY).unwrap().unwrap();
        assert_eq!(state.expires_s(), Some(NOW + 12 * DAY));
        assert!(verify_timestamp(&state, &fresh, NOW + 5 * DAY).unwrap().is_none());
        // The bundle of the same release, with its older timestamp, still counts.
        assert!(verify(&state, &first, NOW + 6 * DAY).is_ok());
        let newer = low.release(2, NOW + 6 * DAY);
        assert!(verify_timestamp(&state, &newer.timestamp, NOW + 6 * DAY).unwrap().is_none());
        assert!(verify(&state, &newer, NOW + 6 * DAY).is_ok());
    }
}
