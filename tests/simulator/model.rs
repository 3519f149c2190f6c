//! What the receiver must do, said with sets and nothing clever.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use diodesync::fec::Added;
use diodesync::id::{Esi, Sbn, SessionNo};
use diodesync::limits::{REPLAY_WINDOW, SESSION_CHECKS_PER_S};
use diodesync::recv::{BlockKey, CollectorStats};
use diodesync::wire::{ObjectId, SymbolHeader};

use crate::sender::Truth;
use crate::weather::Arrival;
use crate::world::LINK;

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    NewSession(SessionNo),
    SameSession,
    Symbol(SymbolHeader),
    Beacon,
    OldBeacon,
    /// Refused as seen before, or too old to know.
    Replayed,
    /// Refused for any other reason.
    Refused,
}

/// The accepted session.
#[derive(Debug, Default)]
struct Session {
    number: u64,
    offer: Vec<u8>,
    floor: u64,
    seen: BTreeSet<u64>,
    newest_beacon: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Model {
    newest: Option<SessionNo>,
    recorded: Option<(SessionNo, u64)>,
    session: Option<Session>,
    lost_before: u64,
    offers: Option<(Instant, u32)>,
    sets: HashMap<BlockKey, BTreeSet<Esi>>,
    done: HashSet<(ObjectId, Sbn)>,
    pub received: u64,
    pub authentic: u64,
    pub stats: CollectorStats,
}

impl Session {
    /// One more than the highest number that came.
    fn end(&self) -> u64 {
        self.seen.last().map_or(self.floor, |last| last + 1)
    }

    fn is_fresh(&self, sequence: u64) -> bool {
        let in_window = self.end() <= sequence || self.end() - sequence <= REPLAY_WINDOW;
        sequence >= self.floor && in_window && !self.seen.contains(&sequence)
    }

    /// Numbers between the least and the greatest that came, which did not come.
    fn lost(&self) -> BTreeSet<u64> {
        let Some(first) = self.seen.first() else { return BTreeSet::new() };
        (*first..self.end()).filter(|number| !self.seen.contains(number)).collect()
    }
}

impl Model {
    /// What must become of a datagram.
    pub fn judge(&mut self, now: Instant, arrival: &Arrival) -> Verdict {
        self.received += 1;
        if let Some(session) = &self.session
            && session.offer == arrival.octets
        {
            return Verdict::SameSession;
        }
        match arrival.truth {
            Truth::Session(number) => self.judge_offer(now, number, &arrival.octets, true),
            Truth::Lie => {
                if let Some(number) = offered(&arrival.octets) {
                    self.judge_offer(now, number, &arrival.octets, false);
                }
                Verdict::Refused
            }
            Truth::Symbol { session, sequence, header } => {
                self.judge_sealed(session, sequence).unwrap_or(Verdict::Symbol(header))
            }
            Truth::Beacon { session, sequence } => {
                let refused = self.judge_sealed(session, sequence);
                refused.unwrap_or_else(|| {
                    let session = self.session.as_mut().unwrap();
                    if session.newest_beacon.is_some_and(|newest| newest > sequence) {
                        return Verdict::OldBeacon;
                    }
                    session.newest_beacon = Some(sequence);
                    Verdict::Beacon
                })
            }
        }
    }

    fn judge_offer(&mut self, now: Instant, number: SessionNo, octets: &[u8], is_true: bool) -> Verdict {
        let least = match &self.session {
            Some(session) => SessionNo(session.number + 1),
            None => self.newest.unwrap_or(SessionNo(0)),
        };
        if number < least {
            return Verdict::Refused;
        }
        let (since, taken) = self.offers.get_or_insert((now, 0));
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *taken) = (now, 0);
        }
        *taken += 1;
        if *taken > SESSION_CHECKS_PER_S || !is_true {
            return Verdict::Refused;
        }
        self.lost_before = self.lost();
        self.newest = Some(number);
        let floor = self.recorded.filter(|(recorded, _)| *recorded == number).map_or(0, |(_, floor)| floor);
        let offer = octets.to_vec();
        self.session = Some(Session { number: number.0, offer, floor, ..Session::default() });
        Verdict::NewSession(number)
    }

    fn judge_sealed(&mut self, number: SessionNo, sequence: u64) -> Option<Verdict> {
        let Some(session) = self.session.as_mut().filter(|session| session.number == number.0) else {
            return Some(Verdict::Refused);
        };
        if !session.is_fresh(sequence) {
            return Some(Verdict::Replayed);
        }
        session.seen.insert(sequence);
        self.authentic += 1;
        None
    }

    /// Puts a symbol to the others; says what that must have done.
    pub fn add(&mut self, header: &SymbolHeader) -> Option<Added> {
        let SymbolHeader { object, oti, sbn, esi } = *header;
        if self.done.contains(&(object, sbn)) {
            self.stats.surplus += 1;
            return None;
        }
        let key = BlockKey { object, sbn, oti };
        let set = self.sets.entry(key).or_default();
        if !set.insert(esi) {
            self.stats.duplicates += 1;
            return Some(Added::Duplicate);
        }
        self.stats.symbols += 1;
        let k = oti.source_symbols(sbn);
        if set.len() < k as usize {
            return Some(Added::New);
        }
        self.stats.blocks += 1;
        self.stats.repaired += set.iter().filter(|esi| esi.0 >= k).count() as u64;
        self.sets.retain(|key, _| (key.object, key.sbn) != (object, sbn));
        self.done.insert((object, sbn));
        Some(Added::Enough)
    }

    pub fn record(&mut self) {
        if let Some(session) = &self.session {
            self.recorded = Some((SessionNo(session.number), session.end()));
        }
    }

    /// The receiver is gone: what it knew is what is on its disk.
    pub fn restart(
        &mut self,
        spilled: &BTreeMap<BlockKey, Vec<(Esi, Vec<u8>)>>,
        whole: impl Iterator<Item = ObjectId>,
    ) {
        let whole: HashSet<ObjectId> = whole.collect();
        self.session = None;
        self.lost_before = 0;
        self.offers = None;
        (self.received, self.authentic, self.stats) = (0, 0, CollectorStats::default());
        let kept = |symbols: &Vec<(Esi, Vec<u8>)>| symbols.iter().map(|(esi, _)| *esi).collect();
        self.sets = spilled.iter().map(|(key, symbols)| (*key, kept(symbols))).collect();
        self.done.retain(|(object, _)| match object {
            ObjectId::Block(_) => true,
            control => whole.contains(control),
        });
    }

    /// A source block was ready, and the receiver stopped before it was decoded.
    pub fn forget(&mut self, key: &BlockKey) {
        self.done.remove(&(key.object, key.sbn));
    }

    /// Symbols of blocks that are not complete.
    pub fn incomplete(&self) -> &HashMap<BlockKey, BTreeSet<Esi>> {
        &self.sets
    }

    /// Datagrams that a receiver can know to be lost.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.session.as_ref().map_or(0, |session| session.lost().len() as u64)
    }

    /// The numbers of those of the session under way.
    pub fn lost_now(&self) -> (SessionNo, BTreeSet<u64>) {
        self.session
            .as_ref()
            .map_or((SessionNo(0), BTreeSet::new()), |session| (SessionNo(session.number), session.lost()))
    }
}

/// The number of what looks like a session of this link, well-formed or not worth a signature check otherwise.
fn offered(octets: &[u8]) -> Option<SessionNo> {
    let receivers = usize::from(*octets.get(28)?);
    let is_well_formed = (1..=8).contains(&receivers) && octets.len() == 29 + 88 * receivers + 64;
    if !octets.starts_with(b"DS\x01\x01") || octets[4..20] != LINK.0 || !is_well_formed {
        return None;
    }
    Some(SessionNo(u64::from_be_bytes(octets[20..28].try_into().unwrap())))
}
