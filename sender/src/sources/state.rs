//! What is kept of each source, and what is told of it.
//!
//! ```text
//! DIR/sources/NAME/state    (fact) when it was pulled, how that ended, and what it holds
//! DIR/sources/NAME/parts/   what came in part
//! ```

use std::collections::BTreeSet;
use std::fmt::Write;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::{Bytes, Span};
use serde::{Deserialize, Serialize};

/// Something that was not taken, or could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The artifact, or whatever it concerns.
    pub what: String,
    /// Why.
    pub why: String,
}

/// How a pull ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Artifacts that came, new or changed.
    pub new: Vec<String>,
    /// How many are as they were.
    pub unchanged: u64,
    /// Lists of artifacts that are as they were, and have a newer proof of their upstream.
    #[serde(default)]
    pub renewed: Vec<String>,
    /// Artifacts that the source brought before and does not name any more.
    pub gone: Vec<String>,
    /// What is not taken, and why.
    pub refused: Vec<Problem>,
    /// What could not be had, and why.
    pub failed: Vec<Problem>,
    /// Octets that were downloaded.
    pub bytes: u64,
    /// Octets that are new here.
    pub new_bytes: u64,
    /// The release that was cut then.
    pub released: Option<ReleaseNo>,
}

impl Report {
    /// Whether everything that the upstream names is here.
    pub fn is_good(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }

    /// For people.
    pub fn to_text(&self, name: &str) -> String {
        let mut out = String::new();
        let counts = [
            (self.new.len() as u64, "new"),
            (self.unchanged, "unchanged"),
            (self.renewed.len() as u64, "renewed"),
            (self.gone.len() as u64, "gone"),
            (self.refused.len() as u64, "refused"),
            (self.failed.len() as u64, "failed"),
        ];
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(count, word)| *count > 0 || ["new", "unchanged"].contains(word))
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let _ = write!(out, "{name}: {}; {} downloaded", counts.join(", "), Bytes(self.bytes));
        if let Some(number) = self.released {
            let _ = write!(out, "; release {number}");
        }
        out.push('\n');
        for (word, names) in [("new", &self.new), ("renewed", &self.renewed), ("gone", &self.gone)] {
            for what in names {
                let _ = writeln!(out, "  {word:8} {what}");
            }
        }
        for (word, problems) in [("REFUSED", &self.refused), ("FAILED", &self.failed)] {
            for Problem { what, why } in problems {
                let _ = writeln!(out, "  {word:8} {what}: {why}");
            }
        }
        out
    }
}

/// `state`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When the daemon first knew of it, seconds since 1970.
    pub first_seen_s: u64,
    /// When it was last pulled.
    pub last_began_s: Option<u64>,
    /// When everything last was here.
    pub last_good_s: Option<u64>,
    /// Pulls since then.
    pub failures: u32,
    /// Whether something that it brought may wait for a release.
    #[serde(default)]
    pub is_open: bool,
    /// How the last one ended.
    pub report: Report,
    /// Names of what it brought and its upstream still has.
    pub held: BTreeSet<String>,
}

/// What `status` says of a source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its channel.
    pub channel: Channel,
    /// Whether it is being pulled.
    pub running: bool,
    /// What is being done.
    pub message: String,
    /// Octets that were downloaded by this pull, or by the last one.
    pub bytes: u64,
    /// Artifacts of this pull, or of the last one.
    pub new: usize,
    /// The same.
    pub unchanged: u64,
    /// The same.
    pub gone: usize,
    /// The same.
    pub refused: usize,
    /// The same.
    pub failed: usize,
    /// Pulls that ended since the daemon was started.
    pub runs: u64,
    /// Those of them that did not bring everything.
    pub failed_runs: u64,
    /// Pulls in a row that did not, up to the last one.
    pub failures: u32,
    /// When it was last pulled, seconds since 1970.
    pub last_began_s: Option<u64>,
    /// When everything last was here.
    pub last_good_s: Option<u64>,
    /// When it is pulled next; none if only by hand.
    pub next_s: Option<u64>,
    /// The first thing that was refused or failed in the last pull.
    pub problem: Option<Problem>,
}

impl SourceStatus {
    /// For people.
    pub fn to_text(&self, now_s: u64) -> String {
        let since = |at: u64| Span(std::time::Duration::from_secs(now_s.abs_diff(at)));
        let mut out = format!("source {} ({}) for channel {}\n", self.name, self.kind, self.channel);
        if self.running {
            let _ = writeln!(out, "  pulling   {}, {}", Bytes(self.bytes), self.message);
        }
        let last = match (self.last_began_s, self.last_good_s) {
            (None, _) => "never pulled".to_owned(),
            (Some(began), None) => format!("{} ago; never wholly", since(began)),
            (Some(began), Some(good)) if good >= began => format!("{} ago, good", since(began)),
            (Some(began), Some(good)) => format!("{} ago; last wholly {} ago", since(began), since(good)),
        };
        let _ = writeln!(out, "  last      {last}");
        let _ = writeln!(
            out,
            "  found     {} new, {} unchanged, {} gone, {} refused, {} failed",
            self.new, self.unchanged, self.gone, self.refused, self.failed
        );
        if self.failures > 1 {
            let _ = writeln!(out, "  failures  {} in a row", self.failures);
        }
        let next = match self.next_s {
            None => "by hand: diode-sender sync".to_owned(),
            Some(next) if next <= now_s => "now".to_owned(),
            Some(next) => format!("in {}", since(next)),
        };
        let _ = writeln!(out, "  next      {next}");
        if let Some(Problem { what, why }) = &self.problem {
            let _ = writeln!(out, "  problem   {what}: {why}");
        }
        out
    }
}

/// A source with everything about its last pull.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceDetail {
    /// As in `status`.
    #[serde(flatten)]
    pub status: SourceStatus,
    /// How the last pull ended.
    pub report: Report,
}
