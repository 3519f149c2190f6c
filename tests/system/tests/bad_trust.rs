//! Who has captured the link's keys, and some of the others, sends metadata that is not right over a real lane: expired,
//! of another root, older than what was accepted, mixed of two releases. Nothing of it is published, and each is named.

#[path = "../../simulator/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diodesync::fec::{Codec, Oti, RepairUse};
use diodesync::id::{Blake3, Channel, Esi, ReleaseNo, Sbn, SessionNo, Sha256};
use diodesync::link::{LinkKey, PairingSecret, Sealer, offer_session};
use diodesync::pack::fact;
use diodesync::release::Index;
use diodesync::trust::{Bundle, Release, Repository, RoleKey, RoleKeys};
use diodesync::wire::{ObjectId, SEALED_HEADER_BYTES, SessionId, SymbolHeader, TAG_BYTES};
use diodesync_system::side::{Pair, Setup};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use world::Rng;

const MINUTE: Duration = Duration::from_secs(60);

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The sender's keys in other hands.
struct Captured {
    sealer: Sealer,
    offer: Vec<u8>,
    socket: UdpSocket,
    to: SocketAddr,
    codec: Codec,
}

fn key(pair: &Pair, name: &str) -> [u8; 32] {
    fact::read(&pair.low.dir().join("keys").join(name)).unwrap().unwrap().try_into().unwrap()
}

impl Captured {
    fn new(pair: &Pair) -> Self {
        let text = std::fs::read(pair.low.dir().join("pairing.json")).unwrap();
        let pairing: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let id = SessionId {
            link: pairing["link"].as_str().unwrap().parse().unwrap(),
            number: SessionNo(now_s() * 1000),
            lane: Some("lane0".parse().unwrap()),
        };
        let receiver = std::fs::read_to_string(pair.high.dir().join("receiver.pub")).unwrap();
        let (secret, offer) = offer_session(
            &mut Rng::new(1, "captured"),
            &id,
            &PairingSecret(key(pair, "pairing.key")),
            &LinkKey::from_seed(&key(pair, "link.key")),
            &[receiver.trim().parse().unwrap()],
        )
        .unwrap();
        Self {
            sealer: Sealer::new(secret, &id).unwrap(),
            offer,
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            to: pair.link().unwrap().entry(),
            codec: Codec::default(),
        }
    }

    fn send(&mut self, object: ObjectId, octets: &[u8]) {
        self.socket.send_to(&self.offer, self.to).unwrap();
        let oti = Oti::for_object(octets.len() as u32, 1392, RepairUse::Control);
        let encoded = self.codec.encode(oti, Sbn(0), octets.to_vec(), Vec::new());
        for esi in (0..oti.source_symbols(Sbn(0))).map(Esi) {
            let header = SymbolHeader { object, oti, sbn: Sbn(0), esi };
            let mut datagram = vec![0; SEALED_HEADER_BYTES];
            datagram.extend_from_slice(&header.encode());
            datagram.extend_from_slice(encoded.symbol(esi));
            datagram.extend_from_slice(&[0; TAG_BYTES]);
            self.sealer.seal(&mut datagram).unwrap();
            self.socket.send_to(&datagram, self.to).unwrap();
        }
    }

    fn send_release(&mut self, bundle: &Bundle, index: &[u8]) {
        let trust = bundle.encode();
        self.send(ObjectId::Trust(Blake3::of(&trust).tag()), &trust);
        self.send(ObjectId::Index(Blake3::of(index).tag()), index);
    }
}

/// A release of nothing, which is whole at once.
fn index(number: u64) -> Vec<u8> {
    let index = Index {
        channel: Channel::main(),
        number: ReleaseNo(number),
        created_s: 0,
        baseline: None,
        packs: BTreeMap::new(),
        blobs: BTreeMap::new(),
        artifacts: BTreeMap::new(),
    };
    index.encode()
}

/// What a release's metadata is signed over.
fn repository(number: u64, index: &[u8]) -> Repository {
    let release = Release { number: ReleaseNo(number), bytes: index.len() as u64, sha256: Sha256::of(index) };
    Repository {
        version: number,
        timestamp_version: number,
        releases: BTreeMap::from([(Channel::main(), release)]),
        link_keys: Vec::new(),
    }
}

#[test]
fn metadata_that_is_not_right_publishes_nothing() {
    let mut pair =
        Pair::over_link(&Setup { name: "bad-trust", ..Setup::default() }, Weather::clear()).unwrap();
    pair.high.start().unwrap();
    let mut captured = Captured::new(&pair);
    let role = |name: &str| RoleKey::from_seed(&key(&pair, name));
    let (root_key, keys) =
        (role("root.key"), RoleKeys { targets: role("targets.key"), timestamp: role("timestamp.key") });
    let pairing = std::fs::read(pair.low.dir().join("pairing.json")).unwrap();
    let pairing: serde_json::Value = serde_json::from_slice(&pairing).unwrap();
    let root = pairing["root"].as_str().unwrap().as_bytes().to_vec();
    let sign =
        |number: u64, at_s: u64| repository(number, &index(number)).sign(&keys, vec![root.clone()], at_s, 7);

    // The true one, so that what is refused is refused for what is wrong with it.
    captured.send_release(&sign(5, now_s()), &index(5));
    pair.high.check_alive().unwrap();
    wait_for("the true release is published", MINUTE, || {
        Ok((pair.high_status()?.channel("main").and_then(|channel| channel.published) == Some(5))
            .then_some(()))
    })
    .unwrap();

    let (six, seven) = (sign(6, now_s()), sign(7, now_s()));
    let other_keys =
        RoleKeys { targets: RoleKey::from_seed(&[91; 32]), timestamp: RoleKey::from_seed(&[92; 32]) };
    let other_key = RoleKey::from_seed(&[93; 32]);
    let other_root = other_keys.root(&other_key, 1, now_s());
    let next_root = other_keys.root(&other_key, 2, now_s());
    let by_others = |roots: Vec<Vec<u8>>| repository(7, &index(7)).sign(&other_keys, roots, now_s(), 7);
    // Who holds the root key but not the others' trust may not skip a version either.
    let skipped = keys.next_root(&root_key, &root_key, 3, now_s());
    let mixed = |timestamp: &Bundle, snapshot: &Bundle, targets: &Bundle| Bundle {
        roots: vec![root.clone()],
        timestamp: timestamp.timestamp.clone(),
        snapshot: snapshot.snapshot.clone(),
        targets: targets.targets.clone(),
    };
    for (what, bundle, words) in [
        ("expired", sign(6, now_s() - 8 * 86_400), "expired"),
        ("of another root", by_others(vec![other_root]), "the sender's roots are not those of the pairing"),
        ("of a root that nobody trusts", by_others(vec![root.clone(), next_root]), "signature"),
        ("with a root left out", Bundle { roots: vec![root.clone(), skipped], ..six.clone() }, "version"),
        ("signed by other keys", by_others(vec![root.clone()]), "signature"),
        ("of a lower version", sign(4, now_s()), "version 4, version 5 was accepted before"),
        ("the snapshot before", mixed(&seven, &six, &seven), "snapshot"),
        ("the targets before", mixed(&seven, &seven, &six), "targets"),
        ("the timestamp before", mixed(&six, &seven, &seven), "snapshot"),
        ("snapshot and targets before", mixed(&seven, &six, &six), "snapshot"),
    ] {
        captured.send_release(&bundle, &index(7));
        let tag = Blake3::of(&bundle.encode()).tag().to_string();
        let text = wait_for(&format!("metadata {what} is named"), MINUTE, || {
            let alarm = pair.high_status()?.alarm("refused").map(|alarm| alarm.text.clone());
            Ok(alarm.filter(|text| text.contains(&tag)))
        })
        .unwrap();
        assert!(text.contains(words), "{what}: {text}");
        let status = pair.high_status().unwrap();
        assert_eq!(status.channel("main").and_then(|channel| channel.published), Some(5), "{what}");
        assert!(status.release("main", 7).is_none(), "{what}: {status:#?}");
    }
    // Its own metadata mends it: nothing of the above has changed what is trusted.
    captured.send_release(&seven, &index(7));
    wait_for("the true release is published", MINUTE, || {
        Ok((pair.high_status()?.channel("main").and_then(|channel| channel.published) == Some(7))
            .then_some(()))
    })
    .unwrap();
    assert!(pair.high_status().unwrap().alarm("refused").is_none());
}
