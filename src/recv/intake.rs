//! One lane's way in: from any octets at all to an authenticated symbol or beacon.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::id::{LaneId, SessionNo};
use crate::limits::SESSION_CHECKS_PER_S;
use crate::link::{LinkVerifier, OpenError, Opener, Paired, SessionSecret};
use crate::wire::{Beacon, Outer, Probe, SessionOffer, SymbolHeader, Version, WireError};

/// Why a datagram changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reject {
    /// It is not understood.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is not authentic, not fresh, or not for this receiver.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No session was accepted yet.
    #[error("no session is accepted yet; the sender repeats its SESSION datagram every 250 ms")]
    NoSession,
    /// More sessions are offered than are worth checking.
    #[error("more than {SESSION_CHECKS_PER_S} new sessions a second are offered; the rest is not checked")]
    TooManyOffers,
}

/// What a datagram was.
#[derive(Debug)]
pub enum Intaken<'a> {
    /// A new session, checked. Make its number durable, then [`Intake::adopt`] it.
    NewSession(PendingSession),
    /// The accepted session, offered again.
    SameSession,
    /// A symbol.
    Symbol(SymbolHeader, &'a [u8]),
    /// A beacon that is newer than the last.
    Beacon(Beacon),
    /// A beacon that was overtaken.
    OldBeacon,
    /// A probe.
    Probe(Probe),
}

/// A session that was checked and is not in use yet.
#[derive(Debug)]
pub struct PendingSession {
    /// Its number, to be made durable first.
    pub number: SessionNo,
    /// The wire version that the sender writes.
    pub version: Version,
    /// The link key that has signed it: older ones count no more.
    pub signer: Box<LinkVerifier>,
    /// The receivers' keys that it is sealed to, by their ids.
    pub receivers: Vec<[u8; 8]>,
    secret: SessionSecret,
    offer: Vec<u8>,
}

/// Counters of one lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct IntakeStats {
    /// Datagrams that came.
    pub received: u64,
    /// Octets of them.
    pub received_bytes: u64,
    /// Sealed datagrams of accepted sessions that were authentic and fresh.
    pub authentic: u64,
    /// Datagrams of earlier sessions that never came.
    lost_before: u64,
    /// Datagrams that are not of this protocol, or cut off.
    pub malformed: u64,
    /// Datagrams that are not authentic.
    pub forged: u64,
    /// Datagrams that came before.
    pub replayed: u64,
    /// Datagrams of a session that is not accepted.
    pub other_session: u64,
    /// Authentic datagrams of this session.
    authentic_in_session: u64,
    /// Datagrams that the sender sent in this session, at least, since this side joined.
    sent_in_session: u64,
}

impl IntakeStats {
    /// Datagrams that were sent and never came, as far as the numbers that came tell.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.sent_in_session.saturating_sub(self.authentic_in_session)
    }

    /// Datagrams that changed nothing.
    pub fn rejected(&self) -> u64 {
        self.malformed + self.forged + self.replayed + self.other_session
    }
}

/// The state of one lane.
#[derive(Debug)]
pub struct Intake {
    lane: LaneId,
    paired: Paired,
    newest: Option<SessionNo>,
    opener: Option<Opener>,
    /// The accepted SESSION datagram, which is not checked again.
    offer: Vec<u8>,
    /// The least sequence number of the session that came, from which on losses count.
    first_sequence: Option<u64>,
    budget: CheckBudget,
    /// The sequence number of the session's newest beacon. The sender's clock may be set back; this never is.
    newest_beacon: Option<u64>,
    stats: IntakeStats,
}

impl Intake {
    /// `newest` is the highest session number that was ever accepted, from the disk.
    pub fn new(lane: LaneId, paired: Paired, newest: Option<SessionNo>) -> Self {
        Self {
            lane,
            paired,
            newest,
            opener: None,
            offer: Vec::new(),
            first_sequence: None,
            budget: CheckBudget::default(),
            newest_beacon: None,
            stats: IntakeStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> IntakeStats {
        self.stats
    }

    /// Takes the link keys that sessions may be signed with, the oldest first.
    pub fn set_senders(&mut self, senders: Vec<LinkVerifier>) {
        self.paired.senders = senders;
    }

    /// The accepted session, and the sequence number below which everything came or is lost.
    pub fn position(&self) -> Option<(SessionNo, u64)> {
        self.opener.as_ref().map(|opener| (opener.number(), opener.sent_at_least()))
    }

    /// Takes a datagram of any content and length.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        datagram: &'a mut [u8],
    ) -> Result<Intaken<'a>, Reject> {
        self.stats.received += 1;
        self.stats.received_bytes += datagram.len() as u64;
        if !self.offer.is_empty() && *datagram == *self.offer {
            return Ok(Intaken::SameSession);
        }
        let result = self.take_apart(now, datagram);
        match &result {
            Ok(_) => {}
            Err(Reject::Wire(_)) => self.stats.malformed += 1,
            Err(
                Reject::NoSession
                | Reject::Open(OpenError::OtherSession { .. } | OpenError::OldSession { .. }),
            ) => {
                self.stats.other_session += 1;
            }
            Err(Reject::Open(OpenError::Replay(_))) => self.stats.replayed += 1,
            Err(Reject::Open(_) | Reject::TooManyOffers) => self.stats.forged += 1,
        }
        result
    }

    fn take_apart<'a>(&mut self, now: Instant, datagram: &'a mut [u8]) -> Result<Intaken<'a>, Reject> {
        match Outer::parse(datagram)? {
            Outer::Session(offer) => self.handle_offer(now, &offer),
            Outer::Sealed(sealed) => {
                let opener = self.opener.as_mut().ok_or(Reject::NoSession)?;
                let sequence = sealed.header.sequence;
                let plain = opener.open(sealed)?;
                // The first to come need not be the first that was sent.
                let first = self.first_sequence.map_or(sequence, |first| first.min(sequence));
                self.first_sequence = Some(first);
                self.stats.authentic += 1;
                self.stats.authentic_in_session += 1;
                self.stats.sent_in_session = opener.sent_at_least().saturating_sub(first);
                self.handle_plain(sequence, plain)
            }
        }
    }

    fn handle_plain<'a>(&mut self, sequence: u64, plain: &'a [u8]) -> Result<Intaken<'a>, Reject> {
        // Both kinds say theirs in the first octet and refuse the other's.
        if let Ok((header, symbol)) = SymbolHeader::parse(plain) {
            return Ok(Intaken::Symbol(header, symbol));
        }
        if plain.first() == Some(&1) {
            SymbolHeader::parse(plain)?;
        }
        if plain.first() == Some(&3) {
            return Ok(Intaken::Probe(Probe::parse(plain)?));
        }
        let beacon = Beacon::parse(plain)?;
        if self.newest_beacon.is_some_and(|newest| sequence < newest) {
            return Ok(Intaken::OldBeacon);
        }
        self.newest_beacon = Some(sequence);
        Ok(Intaken::Beacon(beacon))
    }

    fn handle_offer<'a>(&mut self, now: Instant, offer: &SessionOffer<'_>) -> Result<Intaken<'a>, Reject> {
        // After a restart in the middle of a session the same number comes again; within one run it must rise.
        let least = match (&self.opener, self.newest) {
            (Some(opener), _) => SessionNo(opener.number().0.saturating_add(1)),
            (None, Some(newest)) => newest,
            (None, None) => SessionNo(0),
        };
        let id = &offer.id;
        if id.link == self.paired.link && id.number >= least && !self.budget.take(now) {
            return Err(Reject::TooManyOffers);
        }
        let secret = self.paired.accept(offer, &self.lane, least)?;
        let signer = Box::new(self.paired.signer(offer).ok_or(OpenError::Signature)?.clone());
        let offer_bytes = [offer.signed, &offer.signature].concat();
        let receivers = offer.secrets.iter().map(|sealed| sealed.key_id).collect();
        Ok(Intaken::NewSession(PendingSession {
            number: id.number,
            version: id.version(),
            signer,
            receivers,
            secret,
            offer: offer_bytes,
        }))
    }

    /// Goes over to a session whose number is durable. `floor` is the least sequence number to take: what was recorded
    /// if this very session was in use before a restart, else 0.
    pub fn adopt(&mut self, session: PendingSession, floor: u64) {
        self.stats.lost_before = self.stats.lost();
        self.stats.authentic_in_session = 0;
        self.stats.sent_in_session = 0;
        self.first_sequence = None;
        self.newest_beacon = None;
        self.newest = Some(session.number);
        // What came after it in the list may follow; what stood before it is over.
        let senders = &mut self.paired.senders;
        let at = senders.iter().position(|sender| *sender == *session.signer).unwrap_or(0);
        senders.drain(..at);
        self.opener = Some(Opener::new(session.secret, session.number, floor));
        self.offer = session.offer;
    }
}

/// A token bucket over the signature checks that strangers can cause.
#[derive(Debug, Default)]
struct CheckBudget {
    window: Option<Instant>,
    taken: u32,
}

impl CheckBudget {
    fn take(&mut self, now: Instant) -> bool {
        let is_new =
            self.window.is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1));
        if is_new {
            self.window = Some(now);
            self.taken = 0;
        }
        self.taken += 1;
        self.taken <= SESSION_CHECKS_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LinkId;
    use crate::link::{LinkKey, PairingSecret, ReceiverKey, Sealer, offer_session};
    use crate::testing::SeededRng;
    use crate::wire::{SEALED_HEADER_BYTES, SessionId, TAG_BYTES};

    fn lane() -> LaneId {
        "lane0".parse().unwrap()
    }

    fn id(number: u64) -> SessionId {
        SessionId { link: LinkId([7; 16]), number: SessionNo(number), lane: Some(lane()) }
    }

    /// A receiver that has accepted a session, and the sender's end of it.
    fn joined(now: Instant) -> (Intake, Sealer) {
        let (id, secret) = (id(5), PairingSecret([3; 32]));
        let (sender, key) = (LinkKey::from_seed(&[1; 32]), ReceiverKey::from_seed(&[2; 32]));
        let receivers = [key.public().clone()];
        let mut rng = SeededRng::new(1);
        let (session, mut offer) = offer_session(&mut rng, &id, &secret, &sender, &receivers).unwrap();
        let paired = Paired { link: id.link, senders: vec![sender.verifier()], secret, keys: vec![key] };
        let mut intake = Intake::new(lane(), paired, None);
        match intake.handle_datagram(now, &mut offer) {
            Ok(Intaken::NewSession(pending)) => intake.adopt(pending, 0),
            other => panic!("{other:?}"),
        }
        (intake, Sealer::new(session, &id).unwrap())
    }

    fn beacon(sealer: &mut Sealer, clock_ms: u64) -> Vec<u8> {
        let mut datagram = vec![0; SEALED_HEADER_BYTES];
        let beacon = Beacon {
            is_full: false,
            clock_ms,
            rate_bits_per_s: 0,
            queued_bytes: 0,
            timestamp: Vec::new(),
            channels: Vec::new(),
        };
        beacon.encode(&mut datagram);
        datagram.extend_from_slice(&[0; TAG_BYTES]);
        sealer.seal(&mut datagram).unwrap();
        datagram
    }

    #[test]
    fn a_beacon_counts_although_the_senders_clock_was_set_back() {
        let now = Instant::now();
        let (mut intake, mut sealer) = joined(now);
        let [mut first, mut overtaken, mut newest] = [900, 950, 100].map(|ms| beacon(&mut sealer, ms));
        assert!(matches!(intake.handle_datagram(now, &mut first), Ok(Intaken::Beacon(_))));
        assert!(
            matches!(intake.handle_datagram(now, &mut newest), Ok(Intaken::Beacon(b)) if b.clock_ms == 100)
        );
        assert!(matches!(intake.handle_datagram(now, &mut overtaken), Ok(Intaken::OldBeacon)));
    }

    #[test]
    fn a_session_under_the_next_link_key_ends_the_old_one() {
        let now = Instant::now();
        let (secret, key) = (PairingSecret([3; 32]), ReceiverKey::from_seed(&[2; 32]));
        let [old, new] = [1, 4].map(|seed| LinkKey::from_seed(&[seed; 32]));
        let receivers = [key.public().clone()];
        let mut rng = SeededRng::new(1);
        let mut offer = |signer: &LinkKey, number| {
            offer_session(&mut rng, &id(number), &secret, signer, &receivers).unwrap().1
        };
        let senders = vec![old.verifier()];
        let link = LinkId([7; 16]);
        let paired = Paired { link, senders, secret: secret.clone(), keys: vec![key.clone()] };
        let mut intake = Intake::new(lane(), paired, None);
        let refused = intake.handle_datagram(now, &mut offer(&new, 1)).unwrap_err();
        assert_eq!(refused, Reject::Open(OpenError::Signature), "nobody announced it");
        intake.set_senders(vec![old.verifier(), new.verifier()]);
        for (signer, number) in [(&old, 1), (&new, 2)] {
            match intake.handle_datagram(now, &mut offer(signer, number)) {
                Ok(Intaken::NewSession(pending)) => intake.adopt(pending, 0),
                other => panic!("{other:?}"),
            }
        }
        let refused = intake.handle_datagram(now, &mut offer(&old, 3)).unwrap_err();
        assert_eq!(refused, Reject::Open(OpenError::Signature));
    }

    #[test]
    fn what_is_overtaken_hides_no_loss() {
        let now = Instant::now();
        let (mut intake, mut sealer) = joined(now);
        let mut sent: Vec<_> = (0..10).map(|ms| beacon(&mut sealer, ms)).collect();
        for at in [4, 0, 1, 2, 9] {
            intake.handle_datagram(now, &mut sent[at]).unwrap();
        }
        assert_eq!(intake.stats().lost(), 5, "3, 5, 6, 7 and 8");
    }
}
