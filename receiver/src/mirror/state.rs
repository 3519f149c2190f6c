//! What each mirror says of itself, for `status`: a small file, written by whoever pushes and read by whoever answers.
//!
//! ```text
//! DIR/mirror/NAME.status    what it holds, what is behind and why
//! DIR/mirror/NAME.memory    what a mirror has to remember (which tags it has pushed, which upload it is in)
//! DIR/mirror/serving        which releases are still read ([`crate::serve::Serving`])
//! ```
//!
//! None of these is a fact: without them a mirror is compared anew with what is published.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::fact;
use diodesync::quantity::{Bytes, Span};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Notes that are shown of one mirror.
const NOTES_MAX: usize = 20;

/// How a mirror stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorStatus {
    /// Its name.
    pub name: String,
    /// What it is: oci, terraform-tree, files-tree.
    pub kind: String,
    /// Where it is.
    pub target: String,
    /// starting, working, current (it holds what is published), behind (it does not, and `reason` says why), or unknown
    /// (nothing pushes to it, and everything else is what was said last).
    pub state: String,
    /// The releases that it was last found to hold, by channel.
    pub holds: Vec<(Channel, ReleaseNo)>,
    /// The releases that are published, by channel.
    pub published: Vec<(Channel, ReleaseNo)>,
    /// Artifacts that it holds of them.
    pub artifacts: u64,
    /// Why it is behind, or not known.
    pub reason: Option<String>,
    /// When it is tried again, milliseconds since 1970.
    pub retry_ms: Option<u64>,
    /// Since when it is behind, milliseconds since 1970.
    pub behind_since_ms: Option<u64>,
    /// Tries that failed since the start.
    pub failures: u64,
    /// When the last of all tries failed, milliseconds since 1970; it stays when all is well again.
    pub failed_ms: Option<u64>,
    /// Why it did.
    pub failure: Option<String>,
    /// When it was last found to hold everything, milliseconds since 1970.
    pub current_ms: Option<u64>,
    /// What is being done.
    pub doing: Option<String>,
    /// Octets that were sent or written since the start.
    pub pushed_bytes: u64,
    /// What an operator may want to know: names that fit no pattern, tags that stay.
    pub notes: Vec<String>,
}

impl MirrorStatus {
    /// Keeps the first of many notes.
    pub fn set_notes(&mut self, mut notes: Vec<String>) {
        if notes.len() > NOTES_MAX {
            let more = notes.len() - NOTES_MAX;
            notes.truncate(NOTES_MAX);
            notes.push(format!("and {more} more"));
        }
        self.notes = notes;
    }

    /// Lines for people.
    pub fn to_text(&self, clock_ms: u64) -> String {
        let numbers = |releases: &[(Channel, ReleaseNo)]| match releases {
            [] => "nothing".to_owned(),
            some => some
                .iter()
                .map(|(channel, number)| format!("{channel} {number}"))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let ago = |ms: u64| Span(std::time::Duration::from_millis(clock_ms.saturating_sub(ms)));
        let mut out = format!("mirror {} ({} {})\n  {:<9} ", self.name, self.kind, self.target, self.state);
        out.push_str(&match (self.state.as_str(), self.current_ms) {
            ("current", Some(ms)) => {
                format!(
                    "holds {}, {} artifacts, compared {} ago\n",
                    numbers(&self.holds),
                    self.artifacts,
                    ago(ms)
                )
            }
            _ => format!("holds {} of {}\n", numbers(&self.holds), numbers(&self.published)),
        });
        if let Some(doing) = &self.doing {
            out.push_str(&format!(
                "  now       {doing}, {} sent since the start\n",
                Bytes(self.pushed_bytes)
            ));
        }
        if let Some(reason) = &self.reason {
            let since = self.behind_since_ms.map(|ms| format!(" for {}", ago(ms))).unwrap_or_default();
            let word = if self.state == "unknown" { "not known" } else { "behind" };
            out.push_str(&format!("  {word}{since}: {reason}\n"));
        }
        if let Some(retry) = self.retry_ms {
            let wait = Span(std::time::Duration::from_millis(retry.saturating_sub(clock_ms)));
            out.push_str(&format!("  tried again in {wait}\n"));
        }
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        out
    }
}

/// The folder of what mirrors say and remember.
#[derive(Debug, Clone)]
pub struct MirrorDir(PathBuf);

impl MirrorDir {
    /// In the receiver's folder.
    pub fn of(dir: &Path) -> Self {
        Self(dir.join("mirror"))
    }

    /// Makes it, if need be.
    pub fn make(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.0).with_context(|| format!("cannot create {}", self.0.display()))
    }

    /// What a mirror said last; none if it never did, or it cannot be read.
    pub fn status(&self, name: &str) -> Option<MirrorStatus> {
        read(&self.0.join(format!("{name}.status")))
    }

    /// Says how a mirror stands.
    pub fn write_status(&self, status: &MirrorStatus) -> anyhow::Result<()> {
        let path = self.0.join(format!("{}.status", status.name));
        Ok(fact::write_lazily(&path, &serde_json::to_vec(status)?)?)
    }

    /// What a mirror remembers; nothing if it cannot be read.
    pub fn memory<T: DeserializeOwned + Default>(&self, name: &str) -> T {
        read(&self.0.join(format!("{name}.memory"))).unwrap_or_default()
    }

    /// Has a mirror remember.
    pub fn write_memory<T: Serialize>(&self, name: &str, memory: &T) -> anyhow::Result<()> {
        Ok(fact::write(&self.0.join(format!("{name}.memory")), &serde_json::to_vec(memory)?)?)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let read = fact::read(path).map_err(anyhow::Error::from);
    let parsed =
        read.and_then(|content| content.map(|content| Ok(serde_json::from_slice(&content)?)).transpose());
    parsed.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), error = format!("{error:#}"), "cannot be read; the mirror is compared anew");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::TempDir;

    fn status() -> MirrorStatus {
        MirrorStatus {
            name: "harbor".to_owned(),
            kind: "oci".to_owned(),
            target: "harbor.site".to_owned(),
            state: "behind".to_owned(),
            holds: vec![(Channel::main(), ReleaseNo(4))],
            published: vec![(Channel::main(), ReleaseNo(5))],
            reason: Some("it does not answer".to_owned()),
            retry_ms: Some(9_000),
            behind_since_ms: Some(1_000),
            ..MirrorStatus::default()
        }
    }

    #[test]
    fn what_was_said_is_read_and_what_is_garbled_is_nothing() {
        let dir = TempDir::new("mirror-state");
        let mirrors = MirrorDir::of(dir.path());
        mirrors.make().unwrap();
        assert_eq!(mirrors.status("harbor"), None);
        mirrors.write_status(&status()).unwrap();
        assert_eq!(mirrors.status("harbor"), Some(status()));
        // One of before, which knew less.
        let path = dir.path().join("mirror/harbor.status");
        fact::write_lazily(&path, br#"{"name":"harbor","kind":"oci"}"#).unwrap();
        assert_eq!(mirrors.status("harbor").unwrap().failures, 0);
        std::fs::write(dir.path().join("mirror/harbor.status"), b"x").unwrap();
        assert_eq!(mirrors.status("harbor"), None);
        assert_eq!(mirrors.memory::<Vec<u8>>("harbor"), Vec::<u8>::new());
        mirrors.write_memory("harbor", &[1u8, 2]).unwrap();
        assert_eq!(mirrors.memory::<Vec<u8>>("harbor"), [1, 2]);
    }

    #[test]
    fn people_read_what_is_behind_and_why() {
        let text = status().to_text(5_000);
        assert_eq!(
            text,
            "mirror harbor (oci harbor.site)\n  behind    holds main 4 of main 5\n  behind for 4 s: it does not answer\n  \
             tried again in 4 s\n"
        );
        let mut many = status();
        many.set_notes((0..30).map(|n| n.to_string()).collect());
        assert_eq!((many.notes.len(), many.notes.last().unwrap().as_str()), (21, "and 10 more"));
    }
}
