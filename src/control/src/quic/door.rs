//! The door: what somebody costs before it has proved its key. An address must answer first (Retry), has few handshakes at
//! once, and a handshake has little time; and not each of those who were turned away is told of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Connection, Incoming};
use rustls::pki_types::CertificateDer;

use super::Pin;

/// Time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes of one address at once.
const HANDSHAKES_MAX: usize = 8;
/// Handshakes of all addresses at once: they take no connection from who has proved its key.
const ALL_HANDSHAKES_MAX: usize = 64;
/// Of strangers is told this often at most.
const STRANGERS_INTERVAL: Duration = Duration::from_secs(10);

/// Lets an address begin a handshake, if it has answered and has not too many under way.
pub fn knock(incoming: Incoming, handshakes: &Handshakes) -> Option<(Incoming, Handshake)> {
    if !incoming.remote_address_validated() {
        // Cannot fail for one that was not validated; and where it does, the other end tries again.
        let _ = incoming.retry();
        return None;
    }
    let Some(handshake) = handshakes.enter(incoming.remote_address().ip()) else {
        incoming.refuse();
        return None;
    };
    Some((incoming, handshake))
}

/// The connection, once the other end has proved its key; or why it has not.
///
/// # Errors
/// Why it is turned away.
pub async fn shake(incoming: Incoming, handshake: Handshake) -> Result<Connection, String> {
    let shaken = tokio::time::timeout(HANDSHAKE_MAX, async { incoming.accept()?.await }).await;
    drop(handshake);
    match shaken {
        Ok(shaken) => shaken.map_err(|error| error.to_string()),
        Err(_) => Err("the handshake took too long".to_owned()),
    }
}

/// The key that the other end has proved.
pub fn key_of(connection: &Connection) -> Option<Pin> {
    let keys = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    keys.first().map(Pin::of)
}

/// Connections of those who have proved their key.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<AtomicUsize>);

/// One of them, for as long as the value lives.
#[derive(Debug)]
pub struct Place(Places);

impl Places {
    /// Whether there is none of so many left.
    pub fn are_taken(&self, max: usize) -> bool {
        self.0.load(Ordering::Relaxed) >= max
    }

    /// None if there is none of so many left.
    pub fn enter(&self, max: usize) -> Option<Place> {
        let more = |now: usize| (now < max).then_some(now + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.is_ok().then(|| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handshakes under way, by address.
#[derive(Debug, Clone, Default)]
pub struct Handshakes(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them; it is over when this is dropped.
#[derive(Debug)]
pub struct Handshake(Handshakes, IpAddr);

impl Handshakes {
    /// None if the address, or all together, have as many as they may.
    pub fn enter(&self, ip: IpAddr) -> Option<Handshake> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(&ip).copied().unwrap_or_default();
        if count >= HANDSHAKES_MAX || all.values().sum::<usize>() >= ALL_HANDSHAKES_MAX {
            return None;
        }
        all.insert(ip, count + 1);
        Some(Handshake(self.clone(), ip))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all.remove(&self.1).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            all.insert(self.1, left);
        }
    }
}

/// Those who have not proved a key. Not each of them is told of: they could fill the log.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<(Option<Instant>, u64)>);

impl Strangers {
    /// What to tell of one that was turned away at `now`; none if one was told of just now.
    pub fn tell(&self, now: Instant, why: &str) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, untold) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < STRANGERS_INTERVAL) {
            *untold += 1;
            return None;
        }
        *last = Some(now);
        Some(match std::mem::take(untold) {
            0 => why.to_owned(),
            untold => format!("{why}; and {untold} more before it"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_few_handshakes_at_once() {
        let handshakes = Handshakes::default();
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mut under_way: Vec<_> = (0..HANDSHAKES_MAX).map(|_| handshakes.enter(one).unwrap()).collect();
        assert!(handshakes.enter(one).is_none());
        assert!(handshakes.enter(other).is_some());
        under_way.pop();
        under_way.push(handshakes.enter(one).unwrap());
        under_way.clear();
        assert!(handshakes.0.lock().unwrap().is_empty(), "who is done is forgotten");
    }

    #[test]
    fn handshakes_of_many_addresses_take_no_connection() {
        let (handshakes, places) = (Handshakes::default(), Places::default());
        let address = |number: usize| IpAddr::from([192, 0, 2, number as u8]);
        let under_way: Vec<_> = (0..200).filter_map(|number| handshakes.enter(address(number))).collect();
        assert_eq!(under_way.len(), ALL_HANDSHAKES_MAX);
        assert!(handshakes.enter(address(201)).is_none());
        assert_eq!(handshakes.0.lock().unwrap().len(), ALL_HANDSHAKES_MAX, "who was refused is not kept");
        let place = places.enter(1).unwrap();
        assert!(places.are_taken(1) && places.enter(1).is_none() && places.enter(2).is_some());
        drop(place);
        assert!(!places.are_taken(1));
    }

    #[test]
    fn strangers_are_told_of_now_and_then_and_counted() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        assert_eq!(strangers.tell(now, "a").as_deref(), Some("a"));
        assert_eq!(strangers.tell(now, "b"), None);
        assert_eq!(strangers.tell(now + STRANGERS_INTERVAL, "c").as_deref(), Some("c; and 1 more before it"));
    }
}
