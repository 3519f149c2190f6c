//! From symbols to sealed datagrams, with session and beacon in between.

use std::time::{Duration, Instant};

use super::Interleaver;
use super::interleave::Finished;
use crate::limits::{BEACON_INTERVAL, SESSION_INTERVAL};
use crate::link::{SealError, Sealer};
use crate::wire::{Beacon, Probe, SEALED_HEADER_BYTES, SYMBOL_HEADER_BYTES, TAG_BYTES};

/// For this long after a start only sessions and beacons go out, so that no data is lost before the receiver knows the
/// session, however many of its first datagrams are.
pub const WARM_UP: Duration = Duration::from_millis(150);
const WARM_UP_INTERVAL: Duration = Duration::from_millis(15);

/// The sending end of a lane.
#[derive(Debug)]
pub struct Transmitter {
    sealer: Sealer,
    session: Vec<u8>,
    symbol_bytes: usize,
    interleaver: Interleaver,
    started: Option<Instant>,
    session_due: Option<Instant>,
    beacon_due: Option<Instant>,
    beacons: u64,
}

/// What [`Transmitter::poll_transmit`] wrote.
#[derive(Debug)]
pub struct Transmitted {
    /// Octets of the datagram.
    pub bytes: usize,
    /// The job that it completes.
    pub finished: Finished,
}

impl Transmitter {
    /// For a session whose number is durable; `session` is its SESSION datagram.
    pub fn new(sealer: Sealer, session: Vec<u8>, symbol_bytes: usize, depth: usize) -> Self {
        Self {
            sealer,
            session,
            symbol_bytes,
            interleaver: Interleaver::new(depth),
            started: None,
            session_due: None,
            beacon_due: None,
            beacons: 0,
        }
    }

    /// The blocks that are being sent.
    pub fn interleaver(&mut self) -> &mut Interleaver {
        &mut self.interleaver
    }

    /// Datagrams sealed so far.
    pub fn sealed(&self) -> u64 {
        self.sealer.sealed()
    }

    /// Appends the next datagram to `out`; `None` if there is nothing to send before [`poll_timeout`]. `beacon` is asked
    /// for what a beacon should say when one is due.
    ///
    /// [`poll_timeout`]: Self::poll_timeout
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        beacon: impl FnOnce() -> Beacon,
        out: &mut Vec<u8>,
    ) -> Result<Option<Transmitted>, SealError> {
        let start = out.len();
        let started = *self.started.get_or_insert(now);
        let is_warming_up = now.saturating_duration_since(started) < WARM_UP;
        let mut finished = Finished(None);
        if self.session_due.is_none_or(|due| now >= due) {
            self.session_due = Some(now + if is_warming_up { WARM_UP_INTERVAL } else { SESSION_INTERVAL });
            out.extend_from_slice(&self.session);
            return Ok(Some(Transmitted { bytes: out.len() - start, finished }));
        }
        if self.beacon_due.is_none_or(|due| now >= due) {
            self.beacon_due = Some(now + if is_warming_up { WARM_UP_INTERVAL } else { BEACON_INTERVAL });
            self.write_beacon(beacon(), out);
        } else if is_warming_up {
            return Ok(None);
        } else {
            out.resize(start + SEALED_HEADER_BYTES, 0);
            let next = self.interleaver.next_symbol(|header, symbol| {
                out.extend_from_slice(&header.encode());
                out.extend_from_slice(symbol);
            });
            match next {
                Some(next) => finished = next,
                None => {
                    out.truncate(start);
                    return Ok(None);
                }
            }
        }
        out.resize(out.len() + TAG_BYTES, 0);
        self.sealer.seal(out.get_mut(start..).unwrap_or_default())?;
        Ok(Some(Transmitted { bytes: out.len() - start, finished }))
    }

    /// Appends a probe as large as the lane's largest datagram.
    pub fn write_probe(&mut self, probe: &Probe, out: &mut Vec<u8>) -> Result<usize, SealError> {
        let start = out.len();
        out.resize(start + SEALED_HEADER_BYTES, 0);
        probe.encode(out);
        out.resize(start + SEALED_HEADER_BYTES + SYMBOL_HEADER_BYTES + self.symbol_bytes + TAG_BYTES, 0);
        self.sealer.seal(out.get_mut(start..).unwrap_or_default())?;
        Ok(out.len() - start)
    }

    /// Whether a session or a beacon is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_none_or(|due| now >= due)
    }

    /// Appends a beacon as large as the lane's largest datagram, whatever is due: whether a lane works that did not is
    /// seen by whether this goes out.
    pub fn probe(&mut self, beacon: Beacon, out: &mut Vec<u8>) -> Result<usize, SealError> {
        let start = out.len();
        self.beacons |= 1;
        self.write_beacon(beacon, out);
        out.resize(out.len() + TAG_BYTES, 0);
        self.sealer.seal(out.get_mut(start..).unwrap_or_default())?;
        Ok(out.len() - start)
    }

    /// Every other beacon is as large as the lane's largest datagram, so that a path that carries only small ones shows.
    /// None is larger: what does not fit is left out, the timestamp first, which a trust bundle brings too.
    fn write_beacon(&mut self, mut beacon: Beacon, out: &mut Vec<u8>) {
        beacon.is_full = self.beacons % 2 == 1;
        self.beacons += 1;
        out.resize(out.len() + SEALED_HEADER_BYTES, 0);
        let body = out.len();
        let full = body + SYMBOL_HEADER_BYTES + self.symbol_bytes;
        beacon.encode(out);
        while out.len() > full && !(beacon.timestamp.is_empty() && beacon.channels.is_empty()) {
            if beacon.timestamp.is_empty() {
                beacon.channels.pop();
            }
            beacon.timestamp.clear();
            out.truncate(body);
            beacon.encode(out);
        }
        if beacon.is_full && out.len() < full {
            out.resize(full, 0);
        }
    }

    /// When there is something to send even if no block comes.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session_due.min(self.beacon_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{LinkId, ReleaseNo, SessionNo};
    use crate::limits::{BEACON_TIMESTAMP_BYTES_MAX, CHANNELS_MAX, LANE_SYMBOL_BYTES_MIN};
    use crate::link::{LinkKey, PairingSecret, ReceiverKey, offer_session};
    use crate::testing::SeededRng;
    use crate::wire::{BeaconChannel, SYMBOL_OVERHEAD_BYTES, SessionId};

    #[test]
    fn no_beacon_is_larger_than_the_lanes_datagrams() {
        let channel = |n| BeaconChannel {
            channel: format!("channel-with-a-long-name-{n:07}").parse().unwrap(),
            newest: ReleaseNo(n),
            rounds_done: 0,
            rounds: 1,
        };
        let largest = Beacon {
            is_full: false,
            clock_ms: 1,
            rate_bits_per_s: 0,
            queued_bytes: 0,
            timestamp: vec![b't'; BEACON_TIMESTAMP_BYTES_MAX],
            channels: (0..CHANNELS_MAX as u64).map(channel).collect(),
        };
        let id = SessionId { link: LinkId([7; 16]), number: SessionNo(1), lane: "lane0".parse().ok() };
        let secret = PairingSecret([3; 32]);
        let receivers = [ReceiverKey::from_seed(&[2; 32]).public().clone()];
        let key = LinkKey::from_seed(&[1; 32]);
        for symbol_bytes in [LANE_SYMBOL_BYTES_MIN, 1392, 8896] {
            let mut rng = SeededRng::new(1);
            let (session, offer) = offer_session(&mut rng, &id, &secret, &key, &receivers).unwrap();
            let sealer = Sealer::new(session, &id).unwrap();
            let mut transmitter = Transmitter::new(sealer, offer.clone(), symbol_bytes, 1);
            let mut now = Instant::now();
            let mut beacons = Vec::new();
            while beacons.len() < 4 {
                let mut out = Vec::new();
                match transmitter.poll_transmit(now, || largest.clone(), &mut out).unwrap() {
                    None => now = transmitter.poll_timeout().unwrap(),
                    Some(_) if out == offer => {}
                    Some(sent) => beacons.push(sent.bytes),
                }
            }
            let full = symbol_bytes + SYMBOL_OVERHEAD_BYTES;
            assert!(beacons.iter().all(|bytes| *bytes <= full), "{beacons:?} of at most {full}");
            assert_eq!((beacons[1], beacons[3]), (full, full));
        }
    }
}
