//! One line of the log.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::short;
use super::{Actor, Event};
use crate::id::Sha256;

/// Octets of a line, its LF included.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Who did it.
    pub by: Actor,
    /// What.
    pub event: Event,
}

/// An entry, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub by: Actor,
    /// What.
    #[serde(flatten)]
    pub event: Event,
    /// The SHA-256 of the entry before.
    pub prev: Sha256,
}

impl Entry {
    /// The line without its LF. Texts that are too long are cut, never left out.
    pub fn encode(&self) -> Vec<u8> {
        let whole = || serde_json::to_value(self).ok();
        let line = serde_json::to_vec(self).unwrap_or_default();
        if line.len() < ENTRY_BYTES_MAX {
            return line;
        }
        // In the order of the keys, which a map of JSON does not keep.
        let mut event = whole().unwrap_or_default();
        shorten(&mut event);
        let entry: Option<Self> = serde_json::from_value(event).ok();
        entry.and_then(|entry| serde_json::to_vec(&entry).ok()).unwrap_or(line)
    }
}

/// Cuts texts and lists.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => *text = short(text),
        Value::Array(items) => {
            items.truncate(20);
            items.iter_mut().for_each(shorten);
        }
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

/// A line as a reader sees it, which may know fewer events than who wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// Who.
    pub by: Value,
    /// What kind of event.
    pub event: String,
    /// What belongs to it.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
    /// The SHA-256 of the entry before.
    pub prev: Sha256,
}

impl Line {
    /// Reads a line, without its LF.
    ///
    /// # Errors
    /// Why it is no entry.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }

    /// For people, on one line.
    pub fn to_text(&self) -> String {
        let mut out = format!("{:>6}  {}  {}  {}", self.seq, time(self.time_ms), who(&self.by), self.event);
        for (key, value) in &self.more {
            let _ = write!(out, " {key}={}", plain(value));
        }
        out
    }
}

/// RFC 3339, in UTC.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| format!("{time:.3}"))
}

fn who(by: &Value) -> String {
    let Some((kind, who)) = by.as_object().and_then(|by| by.iter().next()) else { return plain(by) };
    let text = |key: &str| who.get(key).and_then(Value::as_str);
    let Some(uid) = who.get("uid") else { return format!("{kind}:{}", plain(who)) };
    let user = text("user").map_or_else(|| format!("uid {uid}"), str::to_owned);
    let login = text("login").map_or_else(String::new, |login| format!(" (logged in as {login})"));
    let command =
        text("command").map_or_else(String::new, |command| format!(" [{}]", plain(&command.into())));
    format!("{user}{login}{command}")
}

/// A value on one line; what a terminal would take as an order is written out.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().all(|c| !c.is_control() && !c.is_whitespace()) => text.clone(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Person, names};
    use crate::id::{Channel, ReleaseNo};

    fn entry(event: Event) -> Entry {
        let person = Person {
            uid: 1000,
            user: Some("ann".to_owned()),
            login: None,
            pid: 7,
            command: Some("diode-sender release".to_owned()),
        };
        let prev = Sha256([0xab; 32]);
        Entry { seq: 5, time_ms: 1_795_000_000_123, by: Actor::Caller(person), event, prev }
    }

    #[test]
    fn a_line_is_as_it_is_specified() {
        let entry = entry(Event::Serving { channel: Channel::main(), number: ReleaseNo(4) });
        let line = String::from_utf8(entry.encode()).unwrap();
        assert_eq!(
            line,
            format!(
                "{{\"seq\":5,\"time_ms\":1795000000123,\"by\":{{\"caller\":{{\"uid\":1000,\"user\":\"ann\",\"pid\":7,\
                 \"command\":\"diode-sender release\"}}}},\"event\":\"serving\",\"channel\":\"main\",\"number\":4,\
                 \"prev\":\"{}\"}}",
                "ab".repeat(32)
            )
        );
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        let text = Line::parse(line.as_bytes()).unwrap().to_text();
        assert_eq!(
            text,
            "     5  2026-11-18T11:06:40.123Z  ann [\"diode-sender release\"]  serving channel=main number=4"
        );
    }

    #[test]
    fn a_reader_passes_over_events_that_it_does_not_know() {
        let line = format!(
            r#"{{"seq":1,"time_ms":0,"by":{{"daemon":"x"}},"event":"flown","to":["moon"],"prev":"{}"}}"#,
            "0".repeat(64)
        );
        let text = Line::parse(line.as_bytes()).unwrap().to_text();
        assert!(text.ends_with("daemon:x  flown to=[\"moon\"]"), "{text}");
    }

    #[test]
    fn no_line_is_too_long_and_none_orders_a_terminal_about() {
        let why = "\u{1b}]0;x\n".repeat(40_000);
        let line = entry(Event::Failed { what: "x".to_owned(), why }).encode();
        assert!(line.len() < ENTRY_BYTES_MAX && !line.contains(&b'\n') && !line.contains(&0x1b));
        let text = Line::parse(&line).unwrap().to_text();
        assert!(!text.contains('\u{1b}') && !text.contains('\n'), "{text:?}");
        assert_eq!(names(0..1000).len(), 50);
    }
}
