//! Trains: what the lane's thread sends when an operator asks how fast the path is. Releases wait in the meantime.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use diodesync::send::{ProbeTurn, Probing, Train};
use diodesync_control::clock_ms;
use serde::{Deserialize, Serialize};

use super::{BATCH_BYTES, Lane};

/// What was asked for, and what went out.
#[derive(Debug, Default)]
pub struct ProbeState(Mutex<(Option<u64>, Trains)>);

/// What went out of the newest run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Trains {
    /// Whether more is to come.
    pub is_running: bool,
    /// For each train the rate that was wanted, the rate that it had, bits per second, and its datagrams.
    pub trains: Vec<(u64, u64, u32)>,
    /// Why it ended early.
    pub failure: Option<String>,
}

impl ProbeState {
    fn change<T>(&self, change: impl FnOnce(&mut (Option<u64>, Trains)) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for trains up to a rate; false if some are under way.
    pub fn request(&self, max_bits_per_s: u64) -> bool {
        self.change(|(request, trains)| {
            if trains.is_running {
                return false;
            }
            *request = Some(max_bits_per_s);
            *trains = Trains { is_running: true, ..Trains::default() };
            true
        })
    }

    pub(super) fn take_request(&self) -> Option<u64> {
        self.change(|(request, _)| request.take())
    }

    fn show(&self, is_running: bool, trains: &[Train], failure: Option<String>) {
        let trains = trains.iter().map(|t| (t.wanted_bits_per_s, t.rate_bits_per_s, t.datagrams)).collect();
        self.change(|(_, shown)| *shown = Trains { is_running, trains, failure });
    }

    /// What went out.
    pub fn view(&self) -> Trains {
        self.change(|(_, trains)| trains.clone())
    }
}

impl Lane {
    /// Sends trains up to a rate. Sessions and beacons go on.
    pub(super) fn send_trains(&mut self, max_bits_per_s: u64) {
        tracing::info!(lane = %self.shared.config.name, "trains of rising rates go out; releases wait");
        let mut probing = Probing::new(clock_ms(), max_bits_per_s);
        let mut shown = 0;
        let mut failure = None;
        loop {
            if self.shared.stop.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            self.shared.pulse.beat();
            let now = Instant::now();
            if self.transmitter.is_due(now) && self.send_announcements(now).is_err() {
                failure = self.shared.view().send_error;
                break;
            }
            match probing.poll(now) {
                ProbeTurn::Over => break,
                ProbeTurn::Wait(time) => std::thread::sleep(time.min(super::TICK)),
                ProbeTurn::Send(first) => {
                    self.batch.clear();
                    let mut probe = first;
                    let mut segment = 0;
                    // As many as one call takes; the end of a train goes alone.
                    for _ in 0..self.socket.segments_max() {
                        let Ok(bytes) = self.transmitter.write_probe(&probe, &mut self.batch) else { break };
                        segment = bytes;
                        probing.sent(now, &probe, bytes as u64);
                        match probing.poll(now) {
                            ProbeTurn::Send(next)
                                if !next.is_end
                                    && !probe.is_end
                                    && self.batch.len() + bytes <= BATCH_BYTES =>
                            {
                                probe = next;
                            }
                            _ => break,
                        }
                    }
                    if self.flush(0..self.batch.len(), segment).is_err() {
                        failure = self.shared.view().send_error;
                        break;
                    }
                }
            }
            if probing.trains().len() != shown {
                shown = probing.trains().len();
                self.shared.probe.show(true, probing.trains(), None);
            }
            self.report(now);
        }
        self.shared.probe.show(false, probing.trains(), failure);
    }

    /// Sends the session and the beacon that are due, and nothing else.
    fn send_announcements(&mut self, now: Instant) -> Result<(), super::Refused> {
        while self.transmitter.is_due(now) {
            self.batch.clear();
            let (sending, rate) = (&self.sending, self.rates.usual.bits_per_s());
            let sent = self.transmitter.poll_transmit(now, || sending.beacon(rate), &mut self.batch);
            let Ok(Some(sent)) = sent else { break };
            self.flush(0..sent.bytes, sent.bytes)?;
        }
        Ok(())
    }
}
