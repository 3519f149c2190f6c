//! One lane's way in: from any octets at all to an authenticated symbol or beacon.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::id::SessionNo;
use crate::limits::SESSION_CHECKS_PER_S;
use crate::link::{OpenError, Opener, Paired, SessionSecret};
use crate::wire::{Beacon, Outer, SessionOffer, SymbolHeader, WireError};

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
}

/// A session that was checked and is not in use yet.
#[derive(Debug)]
pub struct PendingSession {
    /// Its number, to be made durable first.
    pub number: SessionNo,
    secret: SessionSecret,
    offer: Vec<u8>,
}

/// Counters of one lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    paired: Paired,
    newest: Option<SessionNo>,
    opener: Option<Opener>,
    /// The accepted SESSION datagram, which is not checked again.
    offer: Vec<u8>,
    /// The first sequence number of the session that came, from which on losses count.
    first_sequence: Option<u64>,
    budget: CheckBudget,
    last_beacon_ms: u64,
    stats: IntakeStats,
}

impl Intake {
    /// `newest` is the highest session number that was ever accepted, from the disk.
    pub fn new(paired: Paired, newest: Option<SessionNo>) -> Self {
        Self {
            paired,
            newest,
            opener: None,
            offer: Vec::new(),
            first_sequence: None,
            budget: CheckBudget::default(),
            last_beacon_ms: 0,
            stats: IntakeStats::default(),
        }
    }

    /// The counters.
    pub fn stats(&self) -> IntakeStats {
        self.stats
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
                let first = *self.first_sequence.get_or_insert(sequence);
                self.stats.authentic += 1;
                self.stats.authentic_in_session += 1;
                self.stats.sent_in_session = opener.sent_at_least().saturating_sub(first);
                self.handle_plain(plain)
            }
        }
    }

    fn handle_plain<'a>(&mut self, plain: &'a [u8]) -> Result<Intaken<'a>, Reject> {
        // Both kinds say theirs in the first octet and refuse the other's.
        if let Ok((header, symbol)) = SymbolHeader::parse(plain) {
            return Ok(Intaken::Symbol(header, symbol));
        }
        if plain.first() == Some(&1) {
            SymbolHeader::parse(plain)?;
        }
        let beacon = Beacon::parse(plain)?;
        if beacon.clock_ms <= self.last_beacon_ms {
            return Ok(Intaken::OldBeacon);
        }
        self.last_beacon_ms = beacon.clock_ms;
        Ok(Intaken::Beacon(beacon))
    }

    fn handle_offer<'a>(&mut self, now: Instant, offer: &SessionOffer<'_>) -> Result<Intaken<'a>, Reject> {
        // After a restart in the middle of a session the same number comes again; within one run it must rise.
        let least = match (&self.opener, self.newest) {
            (Some(opener), _) => SessionNo(opener.number().0.saturating_add(1)),
            (None, Some(newest)) => newest,
            (None, None) => SessionNo(0),
        };
        if offer.link == self.paired.link && offer.number >= least && !self.budget.take(now) {
            return Err(Reject::TooManyOffers);
        }
        let secret = self.paired.accept(offer, least)?;
        let offer_bytes = [offer.signed, &offer.signature].concat();
        Ok(Intaken::NewSession(PendingSession { number: offer.number, secret, offer: offer_bytes }))
    }

    /// Goes over to a session whose number is durable. `floor` is the least sequence number to take: what was recorded
    /// if this very session was in use before a restart, else 0.
    pub fn adopt(&mut self, session: PendingSession, floor: u64) {
        self.stats.lost_before = self.stats.lost();
        self.stats.authentic_in_session = 0;
        self.stats.sent_in_session = 0;
        self.first_sequence = None;
        self.newest = Some(session.number);
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
