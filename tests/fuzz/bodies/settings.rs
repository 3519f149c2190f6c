//! Configurations, quantities in them, and the files of the pairing.

use std::time::Duration;

use diodesync::link::{ReceiverKey, ReceiverPublic};
use diodesync::pairing::{Pairing, fingerprint};
use diodesync::quantity::{BitsPerS, Bytes, Rate, Span, parse_duration, parse_percent};

use super::choice;

/// A configuration, or a quantity.
pub fn config(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 3) else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind {
        0 => named(diode_sender::fuzz::config(text)),
        1 => named(diode_receiver::fuzz::config(text)),
        _ => quantities(text),
    }
}

/// What is refused says why.
fn named(result: Result<(), String>) {
    if let Err(why) = result {
        assert!(!why.trim().is_empty());
    }
}

fn quantities(text: &str) {
    if let Ok(Rate::BitsPerS(rate)) = text.parse() {
        assert!((1_000..=1_000_000_000_000).contains(&rate));
        let _ = BitsPerS(rate).to_string();
    }
    if let Ok(time) = parse_duration(text) {
        assert!(time <= Duration::from_secs(86_400 * 3660));
        let _ = Span(time).to_string();
    }
    if let Ok(share) = parse_percent(text) {
        assert!(share <= 100);
    }
    if let Ok(number) = text.trim().parse() {
        let _ = (Bytes(number).to_string(), BitsPerS(number).to_string());
    }
}

/// `pairing.json`, or `receiver.pub`.
pub fn pairing(data: &[u8]) {
    let Some((kind, rest)) = choice(data, 2) else { return };
    if kind == 1 {
        if let Ok(text) = std::str::from_utf8(rest)
            && let Ok(key) = text.trim().parse::<ReceiverPublic>()
        {
            assert_eq!(key.to_string(), text.trim());
        }
        return;
    }
    let _ = fingerprint(rest);
    if let Ok(pairing) = serde_json::from_slice::<Pairing>(rest) {
        let again = serde_json::to_vec(&pairing).expect("a pairing file");
        assert_eq!(serde_json::from_slice::<Pairing>(&again).ok(), Some(pairing));
    }
    match Pairing::open(rest, ReceiverKey::from_seed(&[1; 32])) {
        // The seed: nobody else has sealed a secret to this key.
        Ok((paired, _)) => assert_eq!(paired.secret.0, [3; 32]),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
