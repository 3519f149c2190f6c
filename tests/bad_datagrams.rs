//! Datagrams that lie, each named for its lie: none is taken for anything, and the true one after it still is.

#[path = "simulator/world.rs"]
mod world;

use std::time::{Duration, Instant};

use diodesync::codec::CodecError;
use diodesync::fec::{Oti, RepairUse};
use diodesync::id::{BlockId, BlockNo, Esi, LinkId, PackId, ReleaseNo, Sbn, SessionNo};
use diodesync::limits::{
    BLOCK_BYTES, DATAGRAM_BYTES_MAX, INDEX_BYTES_MAX, PACK_BLOCKS_MAX, SESSION_CHECKS_PER_S,
    SYMBOL_BYTES_MAX, TRUST_BYTES_MAX,
};
use diodesync::link::{LinkKey, OpenError, ReceiverKey, Sealer, offer_session};
use diodesync::recv::{Action, Collector, Intake, Intaken, Reject};
use diodesync::wire::{
    Beacon, BeaconChannel, ObjectId, PROBE_HEADER_BYTES, SessionId, SymbolHeader, WireError,
};
use world::{
    LINK, Rng, joined, lane, link_key, offer, paired, pairing_secret, receiver_key, seal, session_id, start,
};

const SESSION: SessionNo = SessionNo(7);

/// A whole symbol of the largest size.
fn large_symbol() -> Vec<u8> {
    let oti = Oti::for_object(BLOCK_BYTES as u32, SYMBOL_BYTES_MAX, RepairUse::Data);
    let object = ObjectId::Block(BlockId { pack: PackId([1; 8]), block: BlockNo(2) });
    let header = SymbolHeader { object, oti, sbn: Sbn(0), esi: Esi(3) };
    [header.encode().as_slice(), &[0x5a; SYMBOL_BYTES_MAX]].concat()
}

fn beacon() -> Beacon {
    let channel = |name: &str| BeaconChannel {
        channel: name.parse().unwrap(),
        newest: ReleaseNo(9),
        rounds_done: 1,
        rounds: 2,
    };
    Beacon {
        is_full: false,
        clock_ms: 1_795_000_000_000,
        rate_bits_per_s: 1,
        queued_bytes: 2,
        timestamp: b"a timestamp".to_vec(),
        channels: vec![channel("main"), channel("os")],
    }
}

fn beacon_octets() -> Vec<u8> {
    let mut octets = Vec::new();
    beacon().encode(&mut octets);
    octets
}

fn is_refused(intake: &mut Intake, now: Instant, octets: &[u8]) -> bool {
    intake.handle_datagram(now, &mut octets.to_vec()).is_err()
}

/// Nothing that came before has moved anything: the sender's own datagram is still taken, once.
fn still_works(intake: &mut Intake, sealer: &mut Sealer, now: Instant) {
    let mut good = seal(sealer, &large_symbol());
    let mut copy = good.clone();
    let opened = intake.handle_datagram(now, &mut copy);
    assert!(matches!(opened, Ok(Intaken::Symbol(header, _)) if header.esi == Esi(3)), "{opened:?}");
    let again = intake.handle_datagram(now, &mut good);
    assert!(matches!(again, Err(Reject::Open(OpenError::Replay(_)))), "{again:?}");
}

#[test]
fn of_every_length_with_nothing_right_in_it() {
    let now = start();
    let (mut intake, mut sealer, _) = joined(now, SESSION);
    let mut rng = Rng::new(1, "lengths");
    let noise = rng.octets(DATAGRAM_BYTES_MAX);
    // The header that a true datagram would have, with noise behind it.
    let sealed = seal(&mut Sealer::new(offer(&mut rng, SESSION).0, &session_id(SESSION)).unwrap(), b"x");
    let header = &sealed[..16];
    for len in 0..=DATAGRAM_BYTES_MAX {
        for octets in [vec![0; len], vec![0xff; len], noise[..len].to_vec()] {
            assert!(is_refused(&mut intake, now, &octets), "{len} octets");
        }
        let kinds: [&[u8]; 6] =
            [header, b"DS\x01\x01", b"DS\x02\x01", b"DS\x01\x02", b"DS\x02\x03", b"DS\x03\x02"];
        for kind in kinds {
            let mut octets = noise[..len].to_vec();
            octets.iter_mut().zip(kind).for_each(|(octet, right)| *octet = *right);
            assert!(is_refused(&mut intake, now, &octets), "{len} octets after {kind:?}");
        }
    }
    let stats = intake.stats();
    assert_eq!((stats.authentic, stats.lost()), (0, 0));
    assert_eq!(stats.rejected(), stats.received - 1, "all but the session");
    still_works(&mut intake, &mut sealer, now);
}

#[test]
fn cut_off_or_grown_at_any_length() {
    let now = start();
    let (mut intake, mut sealer, offered) = joined(now, SESSION);
    let goods = [seal(&mut sealer, &large_symbol()), seal(&mut sealer, &beacon_octets()), offered.clone()];
    for good in &goods {
        for len in 0..good.len() {
            assert!(is_refused(&mut intake, now, &good[..len]), "cut to {len} of {}", good.len());
        }
        for more in 1..50 {
            let grown = [good.as_slice(), &vec![0; more]].concat();
            assert!(is_refused(&mut intake, now, &grown), "grown by {more}");
        }
    }
    assert_eq!(intake.stats().authentic, 0);
    for mut good in goods {
        assert!(intake.handle_datagram(now, &mut good).is_ok());
    }
}

#[test]
fn with_any_one_bit_flipped() {
    let now = start();
    let (mut intake, mut sealer, offered) = joined(now, SESSION);
    let short = seal(&mut sealer, &large_symbol()[..24 + 2]);
    let goods = [seal(&mut sealer, &beacon_octets()), short, offered];
    for good in &goods {
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(&mut intake, now, &flipped), "bit {bit} of {}", good.len());
        }
    }
    assert_eq!(intake.stats().authentic, 0);
    still_works(&mut intake, &mut sealer, now);
}

#[test]
fn of_another_version() {
    let now = start();
    let (mut intake, mut sealer, offered) = joined(now, SESSION);
    for version in [0, 3, 255] {
        for mut octets in [seal(&mut sealer, &beacon_octets()), offered.clone()] {
            octets[2] = version;
            let error = intake.handle_datagram(now, &mut octets).unwrap_err();
            assert_eq!(error, Reject::Wire(WireError::Version { found: version }));
            let text = error.to_string();
            assert!(
                text.contains(&format!("version {version}")) && text.contains("versions 1 and 2"),
                "{text}"
            );
        }
    }
    // One that is read, and that the datagram is not of.
    for mut octets in [seal(&mut sealer, &beacon_octets()), offered] {
        octets[2] = 1;
        assert!(is_refused(&mut intake, now, &octets));
    }
    still_works(&mut intake, &mut sealer, now);
}

/// A SYMBOL's fields, any value in each.
#[derive(Clone)]
struct Lie {
    kind: u8,
    scheme: u8,
    object: u8,
    repair_log2: u8,
    transfer_bytes: u32,
    number: u32,
    esi: u32,
    symbol_bytes: usize,
}

/// K = 10, R = 16.
const TRUE: Lie = Lie {
    kind: 1,
    scheme: 1,
    object: 0,
    repair_log2: 4,
    transfer_bytes: 1000,
    number: 5,
    esi: 25,
    symbol_bytes: 100,
};

impl Lie {
    fn octets(&self) -> Vec<u8> {
        let mut octets = vec![self.kind, self.scheme, self.object, self.repair_log2];
        octets.extend_from_slice(&self.transfer_bytes.to_be_bytes());
        octets.extend_from_slice(b"somename");
        octets.extend_from_slice(&self.number.to_be_bytes());
        octets.extend_from_slice(&self.esi.to_be_bytes());
        octets.resize(octets.len() + self.symbol_bytes, 0x5a);
        octets
    }
}

#[test]
fn authentic_symbols_with_parameters_out_of_bounds() {
    let now = start();
    let (mut intake, mut sealer, _) = joined(now, SESSION);
    let mut good = seal(&mut sealer, &TRUE.octets());
    assert!(matches!(intake.handle_datagram(now, &mut good), Ok(Intaken::Symbol(..))));

    let control = |object, transfer_bytes| Lie { object, transfer_bytes, symbol_bytes: 1000, ..TRUE };
    let lies = [
        ("kind-0", Lie { kind: 0, ..TRUE }),
        ("kind-3", Lie { kind: 3, ..TRUE }),
        ("kind-of-a-beacon", Lie { kind: 2, ..TRUE }),
        ("scheme-0", Lie { scheme: 0, ..TRUE }),
        ("scheme-of-raptorq", Lie { scheme: 6, ..TRUE }),
        ("object-3", Lie { object: 3, ..TRUE }),
        ("object-255", Lie { object: 255, ..TRUE }),
        ("2048-repair-symbols", Lie { repair_log2: 11, ..TRUE }),
        ("2-to-the-32-repair-symbols", Lie { repair_log2: 32, ..TRUE }),
        ("2-to-the-255-repair-symbols", Lie { repair_log2: 255, ..TRUE }),
        ("an-empty-object", Lie { transfer_bytes: 0, esi: 0, ..TRUE }),
        (
            "a-block-longer-than-a-block",
            Lie { transfer_bytes: BLOCK_BYTES as u32 + 1, symbol_bytes: 1000, ..TRUE },
        ),
        ("a-block-of-4-gib", Lie { transfer_bytes: u32::MAX, symbol_bytes: 1000, ..TRUE }),
        ("an-index-longer-than-an-index", control(1, INDEX_BYTES_MAX + 1)),
        ("an-index-of-4-gib", control(1, u32::MAX)),
        ("a-trust-bundle-longer-than-one", control(2, TRUST_BYTES_MAX + 1)),
        ("no-symbol", Lie { symbol_bytes: 0, ..TRUE }),
        ("a-symbol-of-one-octet", Lie { symbol_bytes: 1, ..TRUE }),
        ("an-odd-symbol", Lie { symbol_bytes: 101, ..TRUE }),
        ("a-symbol-longer-than-any", Lie { symbol_bytes: SYMBOL_BYTES_MAX + 2, esi: 0, ..TRUE }),
        ("a-million-tiny-symbols", Lie { symbol_bytes: 2, transfer_bytes: BLOCK_BYTES as u32, ..TRUE }),
        ("one-source-symbol-too-many", Lie { symbol_bytes: 254, transfer_bytes: BLOCK_BYTES as u32, ..TRUE }),
        ("a-block-after-the-last-of-a-pack", Lie { number: PACK_BLOCKS_MAX, ..TRUE }),
        ("a-block-number-without-end", Lie { number: u32::MAX, ..TRUE }),
        ("a-source-block-after-the-last", Lie { number: 1, ..control(1, 1000) }),
        ("a-source-block-number-without-end", Lie { number: u32::MAX, ..control(2, TRUST_BYTES_MAX) }),
        ("a-symbol-after-the-last", Lie { esi: 26, ..TRUE }),
        ("a-symbol-id-without-end", Lie { esi: u32::MAX, ..TRUE }),
    ];
    for (name, lie) in lies {
        let mut datagram = seal(&mut sealer, &lie.octets());
        let refused = intake.handle_datagram(now, &mut datagram).unwrap_err();
        assert!(matches!(refused, Reject::Wire(_)), "{name}: {refused:?}");
    }
    for len in 1..24 {
        let mut datagram = seal(&mut sealer, &TRUE.octets()[..len]);
        let refused = intake.handle_datagram(now, &mut datagram).unwrap_err();
        assert!(
            matches!(refused, Reject::Wire(WireError::Codec(CodecError::Truncated { .. }))),
            "{len} octets"
        );
    }
    // They were authentic: none counts as lost or forged.
    let stats = intake.stats();
    assert_eq!((stats.lost(), stats.forged, stats.malformed), (0, 0, 28 + 23));
}

/// Whatever an authentic sender says, what comes through is within bounds and costs a block at most.
#[test]
fn authentic_noise() {
    let now = start();
    let (mut intake, mut sealer, _) = joined(now, SESSION);
    let rng = &mut Rng::new(3, "noise");
    let mut collector = Collector::new(4, []);
    let (mut symbols, mut beacons) = (0, 0);
    for _ in 0..100_000 {
        let edge = |rng: &mut Rng, near: u32| match rng.range(0, 3) {
            0 => rng.number() as u32,
            1 => near,
            2 => near.wrapping_sub(1),
            _ => rng.range(0, 30) as u32,
        };
        let mut lie = TRUE;
        for _ in 0..rng.range(0, 3) {
            match rng.range(0, 7) {
                0 => lie.kind = rng.pick(&[2, 0]),
                1 => lie.scheme = rng.range(0, 2) as u8,
                2 => lie.object = rng.range(0, 3) as u8,
                3 => lie.repair_log2 = rng.range(0, 11) as u8,
                4 => lie.transfer_bytes = edge(rng, BLOCK_BYTES as u32),
                5 => lie.number = edge(rng, PACK_BLOCKS_MAX),
                6 => lie.esi = edge(rng, 4096),
                _ => lie.symbol_bytes = rng.pick(&[0, 1, 2, 100, 256, 1000]),
            }
        }
        let plain = lie.octets();
        let mut datagram = seal(&mut sealer, &plain);
        match intake.handle_datagram(now, &mut datagram) {
            Ok(Intaken::Symbol(header, symbol)) => {
                symbols += 1;
                assert_eq!([header.encode().as_slice(), symbol].concat(), plain);
                let SymbolHeader { oti, sbn, esi, .. } = header;
                assert!(esi.0 < oti.encoding_symbols(sbn) && (1..=4096).contains(&oti.source_symbols(sbn)));
                assert!((1..=BLOCK_BYTES).contains(&oti.block_bytes(sbn)) && sbn.0 < oti.source_blocks());
                collector.handle_symbol(now, &header, symbol);
                while let Some(action) = collector.poll_action() {
                    if let Action::Ready(key, block) = action {
                        let decoded = block.decode(&mut Default::default()).unwrap();
                        assert_eq!(decoded.bytes().len(), key.oti.block_bytes(key.sbn));
                        collector.recycle(decoded.into_bytes());
                    }
                }
                assert!(collector.collecting() <= 4);
            }
            Ok(Intaken::Beacon(_)) => beacons += 1,
            Ok(Intaken::Probe(probe)) => assert!(plain.len() >= PROBE_HEADER_BYTES, "{probe:?}"),
            Ok(other) => panic!("{other:?}"),
            Err(refused) => assert!(matches!(refused, Reject::Wire(_)), "{refused:?}"),
        }
    }
    assert!(symbols > 1000, "{symbols} symbols, {beacons} beacons");
}

#[test]
fn authentic_beacons_that_contradict_the_layout() {
    let now = start();
    let (mut intake, mut sealer, _) = joined(now, SESSION);
    let good = beacon_octets();
    // 28 octets, the timestamp, the count of channels, then the first one's length.
    let channels = 28 + beacon().timestamp.len();
    let lie = |at: usize, octets: &[u8]| {
        let mut lie = good.clone();
        lie[at..at + octets.len()].copy_from_slice(octets);
        lie
    };
    let lies = [
        ("flags-of-no-version", lie(1, &[2])),
        ("a-timestamp-longer-than-the-datagram", lie(26, &200u16.to_be_bytes())),
        ("a-timestamp-longer-than-any", lie(26, &u16::MAX.to_be_bytes())),
        ("more-channels-than-any-link-has", lie(channels, &[17])),
        ("more-channels-than-follow", lie(channels, &[3])),
        ("a-channel-without-a-name", lie(channels + 1, &[0])),
        ("a-channel-name-longer-than-the-datagram", lie(channels + 1, &[255])),
        ("a-channel-name-in-capitals", lie(channels + 2, b"MAIN")),
        ("a-channel-name-that-climbs", lie(channels + 2, b"../x")),
        ("a-channel-name-not-in-utf-8", lie(channels + 2, &[0xff; 4])),
        ("something-after-the-end", [good.as_slice(), &[0, 0, 1]].concat()),
    ];
    for (name, lie) in lies {
        let mut datagram = seal(&mut sealer, &lie);
        let refused = intake.handle_datagram(now, &mut datagram);
        assert!(matches!(refused, Err(Reject::Wire(_))), "{name}: {refused:?}");
    }
    for len in 1..good.len() {
        assert!(is_refused(&mut intake, now, &seal(&mut sealer, &good[..len])), "cut to {len}");
    }
    assert!(matches!(intake.handle_datagram(now, &mut seal(&mut sealer, &good)), Ok(Intaken::Beacon(_))));
}

/// Whatever is read as a beacon says what its octets say.
#[test]
fn beacons_with_any_one_octet_changed() {
    let mut good = beacon_octets();
    good.resize(good.len() + 3, 0);
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut changed = good.clone();
            changed[at] = value;
            if let Ok(read) = Beacon::parse(&changed) {
                let mut again = Vec::new();
                read.encode(&mut again);
                assert!(again.len() <= changed.len());
                again.resize(changed.len(), 0);
                assert_eq!(again, changed, "octet {at} = {value}");
            }
        }
    }
}

/// A session as somebody makes it who has some of the keys.
fn session_by(key: &LinkKey, link: LinkId, number: u64, receivers: &[ReceiverKey]) -> Vec<u8> {
    let receivers: Vec<_> = receivers.iter().map(|receiver| receiver.public().clone()).collect();
    let mut rng = Rng::new(number, "somebody");
    let id = SessionId { link, ..session_id(SessionNo(number)) };
    offer_session(&mut rng, &id, &pairing_secret(), key, &receivers).unwrap().1
}

#[test]
fn sessions_that_are_not_ours() {
    let now = start();
    let (mut intake, mut sealer, offered) = joined(now, SESSION);
    let ours = [receiver_key()];
    let other = ReceiverKey::from_seed(&[9; 32]);
    let by_another = session_by(&LinkKey::from_seed(&[9; 32]), LINK, 8, &ours);
    let of_another_link = session_by(&link_key(), LinkId([9; 16]), 8, &ours);
    let for_another = session_by(&link_key(), LINK, 8, std::slice::from_ref(&other));
    let old = session_by(&link_key(), LINK, 6, &ours);
    let same_number_other_secret = session_by(&link_key(), LINK, 7, &ours);
    // After the lane's name.
    const COUNT_AT: usize = 29 + "lane0".len();
    let mut counted = |at: usize, value: u8| {
        let mut lie = offered.clone();
        lie[at] = value;
        intake.handle_datagram(now, &mut lie).unwrap_err()
    };
    for octets in [0, 33, 255] {
        assert!(matches!(counted(28, octets), Reject::Wire(WireError::Id(_) | WireError::Codec(_))));
    }
    for count in [0, 9, 255] {
        assert!(matches!(counted(COUNT_AT, count), Reject::Wire(WireError::Codec(CodecError::Limit { .. }))));
    }
    assert!(matches!(counted(COUNT_AT, 2), Reject::Wire(WireError::Codec(CodecError::Truncated { .. }))));
    let mut refused = |octets: Vec<u8>| match intake.handle_datagram(now, &mut octets.clone()) {
        Err(Reject::Open(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(by_another), OpenError::Signature);
    assert_eq!(refused(for_another), OpenError::NotForUs);
    assert!(matches!(refused(of_another_link), OpenError::OtherLink { .. }));
    assert!(matches!(refused(old), OpenError::OldSession { .. }));
    assert!(matches!(refused(same_number_other_secret), OpenError::OldSession { .. }));
    still_works(&mut intake, &mut sealer, now);

    // Ours is the last of eight, and one too many is not made.
    let eight: Vec<_> = (20..27).map(|seed| ReceiverKey::from_seed(&[seed; 32])).chain(ours).collect();
    let mut good = session_by(&link_key(), LINK, 8, &eight);
    assert!(matches!(intake.handle_datagram(now, &mut good), Ok(Intaken::NewSession(_))));
    let publics: Vec<_> = eight.iter().chain([&other]).map(|key| key.public().clone()).collect();
    for receivers in [&publics[..], &[]] {
        let rng = &mut Rng::new(1, "too many");
        let made = offer_session(rng, &session_id(SessionNo(9)), &pairing_secret(), &link_key(), receivers);
        assert!(made.is_err(), "{} receivers", receivers.len());
    }
}

#[test]
fn a_flood_of_sessions_is_not_checked_without_end() {
    let now = start();
    let mut intake = Intake::new(lane(), paired(), None);
    let forged = session_by(&LinkKey::from_seed(&[9; 32]), LINK, 8, &[receiver_key()]);
    let mut errors = Vec::new();
    for _ in 0..5 * SESSION_CHECKS_PER_S {
        errors.push(intake.handle_datagram(now, &mut forged.clone()).unwrap_err());
    }
    let checked = errors.iter().filter(|error| **error == Reject::Open(OpenError::Signature)).count();
    assert_eq!(checked, SESSION_CHECKS_PER_S as usize);
    assert_eq!(errors.last(), Some(&Reject::TooManyOffers));
    let (_, mut good) = offer(&mut Rng::new(1, "session"), SESSION);
    assert_eq!(intake.handle_datagram(now, &mut good.clone()).unwrap_err(), Reject::TooManyOffers);
    let later = now + Duration::from_secs(1);
    assert!(matches!(intake.handle_datagram(later, &mut good), Ok(Intaken::NewSession(_))));
}

/// After a restart of the receiver the session under way is taken again, from where it was, and none before it.
#[test]
fn recorded_traffic_after_a_restart() {
    let now = start();
    let (mut intake, mut sealer, offered) = joined(now, SESSION);
    let recorded: Vec<_> = (0..50).map(|_| seal(&mut sealer, &large_symbol())).collect();
    for datagram in &recorded[..40] {
        intake.handle_datagram(now, &mut datagram.clone()).unwrap();
    }
    let (number, floor) = intake.position().unwrap();
    assert_eq!((number, floor), (SESSION, 40));

    let mut intake = Intake::new(lane(), paired(), Some(number));
    let before = intake.handle_datagram(now, &mut recorded[45].clone()).unwrap_err();
    assert_eq!(before, Reject::NoSession);
    let older = session_by(&link_key(), LINK, 6, &[receiver_key()]);
    let refused = intake.handle_datagram(now, &mut older.clone()).unwrap_err();
    assert!(matches!(refused, Reject::Open(OpenError::OldSession { .. })));
    let Ok(Intaken::NewSession(pending)) = intake.handle_datagram(now, &mut offered.clone()) else {
        panic!("the session is not taken again");
    };
    intake.adopt(pending, floor);
    for (at, datagram) in recorded.iter().enumerate().rev() {
        let taken = intake.handle_datagram(now, &mut datagram.clone()).is_ok();
        assert_eq!(taken, at >= 40, "datagram {at}");
    }
}
