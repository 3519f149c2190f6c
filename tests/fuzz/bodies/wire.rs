//! Datagrams: as anyone can send them, and as who holds the link's keys can.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use diodesync::buffer::Buffer;
use diodesync::fec::Codec;
use diodesync::id::{Blake3, Esi, LaneId, LinkId, Sbn, SessionNo};
use diodesync::limits::DATAGRAM_BYTES_MAX;
use diodesync::link::{LinkKey, Paired, PairingSecret, ReceiverKey, Sealer};
use diodesync::recv::{Action, Assembled, Assembler, BlockKey, Collector, Intake, Intaken};
use diodesync::wire::{
    Beacon, ObjectId, Outer, Probe, SEALED_HEADER_BYTES, SessionOffer, SymbolHeader, TAG_BYTES, Version,
};
use ed25519_dalek::Signer;

use super::{choice, golden, parts};

/// The session of the golden vectors.
const OFFER: &str = include_str!("../../vectors/session-2.hex");
const LINK_SEED: [u8; 32] = [1; 32];

fn paired() -> Paired {
    Paired {
        link: LinkId(*b"simulated link 1"),
        senders: vec![LinkKey::from_seed(&LINK_SEED).verifier()],
        secret: PairingSecret([3; 32]),
        keys: vec![ReceiverKey::from_seed(&[2; 32])],
    }
}

/// Both ends of the golden session. They are used again, because to begin a session takes longer than all the rest.
struct Ends {
    intake: Intake,
    sealer: Sealer,
    now: Instant,
    unopened: u64,
}

impl Ends {
    fn with(run: impl FnOnce(&mut Self)) {
        thread_local! {
            static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
        }
        ENDS.with_borrow_mut(|kept| {
            // One that a broken promise left behind is not used again.
            let mut ends = kept.take().unwrap_or_else(|| {
                let now = Instant::now();
                let (intake, sealer) = joined(now);
                Self { intake, sealer, now, unopened: 0 }
            });
            // Offers of sessions are looked at a number of times a second.
            ends.now += Duration::from_secs(1);
            run(&mut ends);
            *kept = Some(ends);
        });
    }
}

/// A receiver that has accepted the golden session, and what the sender seals with.
fn joined(now: Instant) -> (Intake, Sealer) {
    let mut offer = golden(OFFER);
    let lane: LaneId = "lane0".parse().expect("a name");
    let sealer = match Outer::parse(&mut offer.clone()) {
        Ok(Outer::Session(offer)) => {
            let secret = paired().accept(&offer, &lane, SessionNo(0)).expect("the golden session");
            Sealer::new(secret, &offer.id).expect("a session")
        }
        _ => panic!("the golden session is none"),
    };
    let mut intake = Intake::new(lane, paired(), None);
    match intake.handle_datagram(now, &mut offer) {
        Ok(Intaken::NewSession(pending)) => {
            intake.adopt(pending, 0);
            (intake, sealer)
        }
        other => panic!("{other:?}"),
    }
}

/// Any datagram, and any SESSION that the sender's own key has signed.
pub fn datagram(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 2) else { return };
    let mut octets = rest.to_vec();
    if kind == 1 {
        let version = rest.get(2).and_then(|number| Version::parse(*number).ok()).unwrap_or(Version::V2);
        let signed = [version.signed_context(), rest].concat();
        octets.extend_from_slice(&ed25519_dalek::SigningKey::from_bytes(&LINK_SEED).sign(&signed).to_bytes());
    }
    Ends::with(|Ends { intake, now, .. }| refused(intake, *now, octets));
}

fn refused(intake: &mut Intake, now: Instant, mut octets: Vec<u8>) {
    let before = intake.stats();
    if let Ok(Outer::Session(offer)) = Outer::parse(&mut octets.clone()) {
        let again = SessionOffer::encode_unsigned(&offer.id, &offer.secrets);
        assert_eq!([again.as_slice(), &offer.signature].concat(), octets, "one session has one encoding");
    }
    let is_golden = octets == golden(OFFER);
    match intake.handle_datagram(now, &mut octets) {
        Ok(Intaken::SameSession) => assert!(is_golden),
        // Nobody but the sender can make one: the fuzzer has the link's key, and not the pairing's secret.
        Ok(other) => panic!("{other:?} out of nowhere"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let after = intake.stats();
    assert_eq!(after.received, before.received + 1);
    assert!(is_golden || after.rejected() == before.rejected() + 1, "what changes nothing is counted");
    assert_eq!((after.authentic, after.lost()), (before.authentic, before.lost()));
}

/// What was sealed with the session's keys: any octets at all.
pub fn sealed(data: &[u8]) {
    Ends::with(|ends| parts(data).iter().for_each(|plain| taken(ends, plain)));
}

fn taken(Ends { intake, sealer, now, unopened }: &mut Ends, plain: &[u8]) {
    let plain = plain.get(..plain.len().min(DATAGRAM_BYTES_MAX)).unwrap_or_default();
    let mut datagram = vec![0; SEALED_HEADER_BYTES];
    datagram.extend_from_slice(plain);
    datagram.extend_from_slice(&[0; TAG_BYTES]);
    sealer.seal(&mut datagram).expect("there is room");
    match intake.handle_datagram(*now, &mut datagram) {
        Ok(Intaken::Symbol(header, symbol)) => {
            assert_eq!([header.encode().as_slice(), symbol].concat(), plain);
            let oti = header.oti;
            assert!(header.sbn.0 < oti.source_blocks());
            assert!(header.esi.0 < oti.encoding_symbols(header.sbn));
            assert!(oti.block_bytes(header.sbn) > 0);
        }
        Ok(Intaken::Beacon(beacon)) => {
            let mut again = Vec::new();
            beacon.encode(&mut again);
            let fill = plain.strip_prefix(again.as_slice()).expect("one beacon has one encoding");
            assert!(fill.iter().all(|octet| *octet == 0));
        }
        Ok(Intaken::Probe(probe)) => {
            let mut again = Vec::new();
            probe.encode(&mut again);
            let fill = plain.strip_prefix(again.as_slice()).expect("one probe has one encoding");
            assert!(fill.iter().all(|octet| *octet == 0));
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(
                Probe::parse(plain).is_err()
                    && Beacon::parse(plain).is_err()
                    && SymbolHeader::parse(plain).is_err()
            );
        }
    }
    // One without octets is not opened, and as good as lost.
    *unopened += u64::from(plain.is_empty());
    assert!(intake.stats().lost() <= *unopened);
}

/// Symbols of any objects in any order: collected, spilled, loaded, decoded and put together. An octet before each
/// says how much time went by, and whether a block that came whole was the right one.
pub fn symbols(data: &[u8]) {
    const CAPACITY: usize = 3;
    let mut now = Instant::now();
    let mut collector = Collector::new(CAPACITY, []);
    let mut assembler = Assembler::default();
    let mut codec = Codec::default();
    let mut spilled: HashMap<BlockKey, Vec<(Esi, Vec<u8>)>> = HashMap::new();
    for part in parts(data) {
        let Some((weather, plain)) = part.split_first() else { continue };
        let Ok((header, symbol)) = SymbolHeader::parse(plain) else { continue };
        now += Duration::from_millis(u64::from(*weather) * 50);
        collector.handle_symbol(now, &header, symbol);
        if *weather & 7 == 7 {
            collector.handle_timeout(now, Duration::from_secs(1));
        }
        if *weather & 31 == 31 {
            collector.handle_stop();
        }
        while let Some(action) = collector.poll_action() {
            match action {
                Action::Spill(key, block) => {
                    let kept = block.symbols().map(|(esi, symbol)| (esi, symbol.to_vec())).collect();
                    spilled.insert(key, kept);
                }
                Action::Load(key) => {
                    let symbols = spilled.remove(&key).unwrap_or_default();
                    let symbols = symbols.iter().map(|(esi, symbol)| (*esi, symbol.as_slice()));
                    collector.restore(now, key, symbols);
                }
                Action::Ready(key, block) => {
                    assert_eq!(block.missing(), 0);
                    let block = block.decode(&mut codec).expect("enough symbols decode");
                    assert_eq!(block.bytes().len(), key.oti.block_bytes(key.sbn));
                    assert_eq!(block.hash(), Blake3::of(block.bytes()));
                    let octets = block.into_bytes();
                    finish(&mut collector, &mut assembler, key, octets, *weather & 64 == 0);
                }
            }
        }
        assert!(collector.collecting() <= CAPACITY);
    }
}

fn finish(
    collector: &mut Collector,
    assembler: &mut Assembler,
    key: BlockKey,
    octets: Buffer,
    is_right: bool,
) {
    if let ObjectId::Block(_) = key.object {
        collector.recycle(octets);
        if is_right {
            collector.mark_done(key.object, key.sbn);
        } else {
            collector.mark_missing(key.object, key.sbn);
        }
        assert_eq!(collector.is_done(key.object, key.sbn), is_right);
        return;
    }
    match assembler.handle_block(key.object, key.oti, key.sbn, octets.to_vec()) {
        Assembled::Waiting => {}
        Assembled::Whole(whole) => {
            let (ObjectId::Index(tag) | ObjectId::Trust(tag)) = key.object else { panic!("no block is one") };
            assert_eq!(Blake3::of(&whole).tag(), tag);
            assert_eq!(whole.len(), key.oti.transfer_bytes() as usize);
        }
        Assembled::Forgotten(object, blocks) => {
            (0..blocks).for_each(|sbn| collector.mark_missing(object, Sbn(sbn)));
        }
    }
}
