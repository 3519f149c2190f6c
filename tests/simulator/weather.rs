//! The way between the two ends: it loses, delays, doubles, cuts and flips, and somebody on it lies and replays.

use std::collections::{BTreeMap, HashMap, HashSet};

use diodesync::fec::repair_window;
use diodesync::id::SessionNo;
use diodesync::recv::BlockKey;
use diodesync::wire::ObjectId;

use crate::sender::{Sent, Truth};
use crate::world::{LINK, Rng};

/// How bad it is. Chances are in a thousand.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// Of each source block at most as many symbols are lost as one round repairs, and no session that is needed.
    pub within_budget: bool,
    pub loss: usize,
    /// Chance that a burst of losses begins, and its longest.
    pub bursts: usize,
    pub burst_datagrams: usize,
    pub delayed: usize,
    /// By how many datagrams at most.
    pub delay: usize,
    pub doubled: usize,
    pub cut: usize,
    pub flipped: usize,
    pub forged: usize,
    pub replayed: usize,
}

impl Weather {
    pub fn from_seed(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, "weather");
        let mut weather = Self {
            within_budget: rng.chance(400),
            loss: rng.pick(&[0, 5, 20, 50, 200]),
            bursts: rng.pick(&[0, 0, 2, 20]),
            burst_datagrams: rng.pick(&[3, 20, 200]),
            delayed: rng.pick(&[0, 0, 50, 500]),
            delay: rng.pick(&[1, 10, 300]),
            doubled: rng.pick(&[0, 0, 50, 300]),
            cut: rng.pick(&[0, 0, 10]),
            flipped: rng.pick(&[0, 0, 10]),
            forged: rng.pick(&[0, 0, 20, 200]),
            replayed: rng.pick(&[0, 0, 20, 200]),
        };
        if rng.chance(50) {
            weather = Self { within_budget: weather.within_budget, ..Self::default() };
        }
        if weather.within_budget {
            // A flood of forged sessions may hold up a true one, and with it what the first round needs.
            weather.forged = weather.forged.min(20);
        }
        weather
    }
}

/// A datagram that arrives.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub octets: Vec<u8>,
    /// What it was when it was sent; a lie if it was changed since.
    pub truth: Truth,
}

/// The path.
pub struct Path {
    weather: Weather,
    rng: Rng,
    repair_percent: u32,
    slot: usize,
    under_way: BTreeMap<(usize, u64), Arrival>,
    count: u64,
    burst_left: usize,
    /// What somebody has recorded.
    tape: Vec<Arrival>,
    lost: HashMap<BlockKey, usize>,
    sessions: HashMap<SessionNo, usize>,
    /// Sealed datagrams that never come as they were sent.
    pub gone: HashSet<(SessionNo, u64)>,
}

/// The session that is spared if the weather keeps to its budget: the third of the warm-up.
const SPARED_SESSION: usize = 3;
const TAPE: usize = 500;

impl Path {
    pub fn new(seed: u64, weather: Weather, repair_percent: u32) -> Self {
        Self {
            weather,
            rng: Rng::new(seed, "path"),
            repair_percent,
            slot: 0,
            under_way: BTreeMap::new(),
            count: 0,
            burst_left: 0,
            tape: Vec::new(),
            lost: HashMap::new(),
            sessions: HashMap::new(),
            gone: HashSet::new(),
        }
    }

    /// Symbols of a source block that may be lost.
    fn budget(&self, key: &BlockKey) -> usize {
        let k = key.oti.source_symbols(key.sbn) as usize;
        let window = match key.object {
            ObjectId::Block(_) => repair_window(k, self.repair_percent),
            ObjectId::Index(_) | ObjectId::Trust(_) => k.max(2),
        };
        window.min(key.oti.repair_symbols() as usize)
    }

    /// Whether a datagram may be lost, late or spoiled; if so its loss is counted.
    fn may_lose(&mut self, truth: &Truth) -> bool {
        if let Truth::Symbol { header, .. } = truth {
            let key = BlockKey { object: header.object, sbn: header.sbn, oti: header.oti };
            let budget = self.budget(&key);
            let lost = self.lost.entry(key).or_default();
            *lost += 1;
            return !self.weather.within_budget || *lost <= budget;
        }
        true
    }

    /// Takes a datagram in; what arrives by now comes out.
    pub fn carry(&mut self, sent: Sent) -> Vec<Arrival> {
        self.slot += 1;
        let Sent { octets, truth } = sent;
        let arrival = Arrival { octets, truth };
        if self.tape.len() < TAPE {
            self.tape.push(arrival.clone());
        } else if self.rng.chance(100) {
            let at = self.rng.range(0, TAPE - 1);
            self.tape[at] = arrival.clone();
        }
        self.weather_on(arrival);
        if self.rng.chance(self.weather.forged) {
            let forged = self.forge();
            self.send_after(0, forged);
        }
        if self.rng.chance(self.weather.replayed) {
            let at = self.rng.range(0, self.tape.len() - 1);
            let again = self.tape[at].clone();
            self.send_after(0, again);
        }
        let later = self.under_way.split_off(&(self.slot + 1, 0));
        std::mem::replace(&mut self.under_way, later).into_values().collect()
    }

    /// Time passes: all that is under way arrives.
    pub fn settle(&mut self) -> Vec<Arrival> {
        self.burst_left = 0;
        std::mem::take(&mut self.under_way).into_values().collect()
    }

    fn weather_on(&mut self, mut arrival: Arrival) {
        let truth = arrival.truth;
        if let Truth::Session(number) = truth {
            let nth = self.sessions.entry(number).or_default();
            *nth += 1;
            if self.weather.within_budget && *nth == SPARED_SESSION {
                return self.send_after(0, arrival);
            }
        }
        if self.burst_left == 0 && self.rng.chance(self.weather.bursts) {
            self.burst_left = self.rng.range(1, self.weather.burst_datagrams);
        }
        let in_burst = self.burst_left > 0;
        self.burst_left = self.burst_left.saturating_sub(1);
        if (in_burst || self.rng.chance(self.weather.loss)) && self.may_lose(&truth) {
            self.note_gone(&truth);
            return;
        }
        let (cut, flipped) = (self.rng.chance(self.weather.cut), self.rng.chance(self.weather.flipped));
        if (cut || flipped) && self.may_lose(&truth) {
            self.note_gone(&truth);
            arrival.truth = Truth::Lie;
            let at = self.rng.range(0, arrival.octets.len() - 1);
            if cut {
                arrival.octets.truncate(at);
            } else {
                arrival.octets[at] ^= 1 << self.rng.range(0, 7);
            }
        }
        let delayed = self.rng.chance(self.weather.delayed);
        let delay = if delayed { self.rng.range(1, self.weather.delay) } else { 0 };
        if self.rng.chance(self.weather.doubled) {
            let later = self.rng.range(0, self.weather.delay);
            self.send_after(later, arrival.clone());
        }
        self.send_after(delay, arrival);
    }

    /// Counts a sealed datagram as one that never came.
    pub fn note_gone(&mut self, truth: &Truth) {
        if let Truth::Symbol { session, sequence, .. } | Truth::Beacon { session, sequence } = truth {
            self.gone.insert((*session, *sequence));
        }
    }

    fn send_after(&mut self, datagrams: usize, arrival: Arrival) {
        self.count += 1;
        self.under_way.insert((self.slot + datagrams, self.count), arrival);
    }

    /// What somebody without the keys can make.
    fn forge(&mut self) -> Arrival {
        let rng = &mut self.rng;
        let at = rng.range(0, self.tape.len() - 1);
        let mut octets = self.tape[at].octets.clone();
        let len = octets.len();
        match rng.range(0, 5) {
            0 => {
                let len = rng.range(0, 2000);
                octets = rng.octets(len);
            }
            // The right outer header, and nothing right behind it.
            1 => {
                let body = rng.octets(len - 16);
                octets.splice(16.., body);
            }
            // A number far ahead, which must not move the window.
            2 if octets[3] == 2 => octets[8..16].copy_from_slice(&(rng.number() >> 1).to_be_bytes()),
            // The number after this one.
            3 if octets[3] == 2 => octets[15] = octets[15].wrapping_add(1),
            // A session with a higher number.
            4 if octets[3] == 1 => octets[20] ^= 0x40,
            // A session of this link, freely invented.
            4 => {
                octets =
                    [b"DS\x01\x01".as_slice(), &LINK.0, &rng.octets(8), &[1], &rng.octets(88 + 64)].concat();
            }
            _ => {
                let tail = rng.octets(7);
                octets.extend_from_slice(&tail);
            }
        }
        Arrival { octets, truth: Truth::Lie }
    }
}
