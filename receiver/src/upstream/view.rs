//! How it stands with the receiver that feeds this host.

use std::fmt::Write;
use std::time::Duration;

use diodesync::quantity::{Bytes, Span};
use serde::{Deserialize, Serialize};

/// Time without a connection after which there is an alarm.
const SILENT_MS: u64 = 60_000;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct UpstreamView {
    /// Where it is, as configured.
    pub from: String,
    /// The pin of this host, for its `[[feed.host]]`.
    pub key: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when it is, or is not, milliseconds since 1970.
    pub since_ms: u64,
    /// Why it is not.
    pub why: Option<String>,
    /// When something was told last, milliseconds since 1970; and of which release.
    pub told_ms: Option<u64>,
    /// See `told_ms`.
    pub told: Option<String>,
    /// Blocks that are lacking.
    pub lacking: u64,
    /// Those of them that upstream had not when it was asked.
    pub absent: u64,
    /// Octets of blocks that came since the start.
    pub received_bytes: u64,
    /// Blocks of them that were kept.
    pub blocks: u64,
    /// What came and was not what was signed.
    pub wrong: Option<String>,
}

impl UpstreamView {
    /// For people.
    pub fn to_text(&self, now_ms: u64) -> String {
        let ago = |ms: u64| Span(Duration::from_millis(now_ms.saturating_sub(ms)));
        let since = ago(self.since_ms);
        let mut out = format!("upstream {}\n", self.from);
        let _ = match (self.connected, &self.why) {
            (true, _) => writeln!(out, "  connected for {since}"),
            (false, Some(why)) => writeln!(out, "  not connected for {since}: {why}"),
            (false, None) => writeln!(out, "  not connected for {since}"),
        };
        let told = match (self.told_ms, &self.told) {
            (Some(then), Some(told)) => format!("{told}, {} ago", ago(then)),
            _ => "nothing yet".to_owned(),
        };
        let _ = writeln!(
            out,
            "  told      {told}\n  lacking   {} blocks, {} of them not to be had there now\n  received  {}, {} blocks kept",
            self.lacking,
            self.absent,
            Bytes(self.received_bytes),
            self.blocks
        );
        out
    }

    /// What needs an operator: id and text.
    pub fn silent(&self, now_ms: u64) -> Option<String> {
        if self.connected || now_ms.saturating_sub(self.since_ms) < SILENT_MS {
            return None;
        }
        let since = Span(Duration::from_millis(now_ms.saturating_sub(self.since_ms)));
        let why = self.why.as_deref().unwrap_or("it is being tried");
        Some(format!("{} is not reached for {since}: {why}. It is tried again by itself", self.from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_without_a_connection_is_an_alarm() {
        let gone = UpstreamView {
            from: "gateway:7444".to_owned(),
            since_ms: 1_000_000,
            why: Some("nobody answers".to_owned()),
            ..UpstreamView::default()
        };
        assert_eq!(gone.silent(1_059_999), None);
        assert_eq!(
            gone.silent(1_060_000).as_deref(),
            Some("gateway:7444 is not reached for 1 min 0 s: nobody answers. It is tried again by itself")
        );
        assert_eq!(UpstreamView { connected: true, ..gone.clone() }.silent(9_000_000), None);
        assert!(gone.to_text(1_060_000).contains("not connected for 1 min 0 s: nobody answers"));
    }
}
