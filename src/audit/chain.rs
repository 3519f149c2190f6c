//! Whether the entries of a log fit each other, and the checkpoints.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::ENTRY_BYTES_MAX;
use crate::id::Sha256;

/// What of an entry binds it.
#[derive(Debug, Deserialize)]
struct Bound {
    seq: u64,
    prev: Sha256,
}

/// The last entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first.
    pub seq: u64,
    /// Its SHA-256.
    pub hash: Sha256,
}

impl Head {
    /// Before the first entry.
    pub const NONE: Self = Self { seq: 0, hash: Sha256([0; 32]) };
}

/// The first thing that is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Wrong {
    /// A line is no entry.
    #[error("entry {seq} was changed: it is no entry any more ({why})")]
    NoEntry {
        /// Which is expected there.
        seq: u64,
        /// How not.
        why: String,
    },
    /// Entries are lacking.
    #[error("entry {expected} is missing: entry {found} follows entry {}", expected - 1)]
    Missing {
        /// The first that is lacking.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// An entry stands where it does not belong.
    #[error(
        "entry {expected} was expected and entry {found} stands there: it was put in, moved, or its number changed"
    )]
    Misplaced {
        /// Which belongs there.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// An entry is not the one that the next one was bound to.
    #[error("entry {seq} was changed: its SHA-256 is {found}, the next entry says {expected}")]
    Changed {
        /// Which.
        seq: u64,
        /// What the next one says.
        expected: Sha256,
        /// What it is.
        found: Sha256,
    },
    /// An entry says something else of the one before it.
    #[error("entry {seq} was changed: of the entry before it says SHA-256 {found}, that is {expected}")]
    Unbound {
        /// Which.
        seq: u64,
        /// What the one before is.
        expected: Sha256,
        /// What it says.
        found: Sha256,
    },
    /// The last line has no end.
    #[error("entry {seq} is cut off in the middle: the log ends with {octets} octets and no end of a line")]
    Torn {
        /// Which is expected there.
        seq: u64,
        /// Octets of it.
        octets: usize,
    },
    /// The end is lacking.
    #[error("entries {} to {expected} are missing: the log ends with entry {found}, the checkpoint says {expected}", found + 1)]
    CutOff {
        /// What the checkpoint says.
        expected: u64,
        /// The last that is there.
        found: u64,
    },
    /// An entry is not the one of the checkpoint.
    #[error(
        "entry {seq} has SHA-256 {found}, the checkpoint says {expected}: it or an entry before it was changed, and those \
         after it made to fit"
    )]
    Rewritten {
        /// Which.
        seq: u64,
        /// What the checkpoint says.
        expected: Sha256,
        /// What it is.
        found: Sha256,
    },
}

/// An entry that the one before does not fit.
#[derive(Debug, Clone, Copy)]
struct Mismatch {
    /// The later of the two.
    seq: u64,
    said: Sha256,
    is: Sha256,
}

/// Goes through a log, entry by entry.
#[derive(Debug, Clone)]
pub struct Chain {
    head: Head,
    mismatch: Option<Mismatch>,
    checkpoints: BTreeMap<u64, Sha256>,
}

impl Chain {
    /// From the first entry on, to be compared with entries that checkpoints name.
    pub fn new(checkpoints: impl IntoIterator<Item = Head>) -> Self {
        Self::after(Head::NONE, checkpoints)
    }

    /// From the entry after `head` on.
    pub fn after(head: Head, checkpoints: impl IntoIterator<Item = Head>) -> Self {
        let checkpoints = checkpoints.into_iter().map(|head| (head.seq, head.hash)).collect();
        Self { head, mismatch: None, checkpoints }
    }

    /// The next line, without its LF.
    ///
    /// # Errors
    /// What is wrong with it, or with one before.
    pub fn push(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let expected = self.head.seq + 1;
        let bound = match serde_json::from_slice::<Bound>(line) {
            _ if line.len() >= ENTRY_BYTES_MAX => Err(format!("it has {} octets", line.len())),
            Ok(bound) => Ok(bound),
            Err(error) => Err(error.to_string()),
        };
        let Bound { seq, prev } = match bound {
            Ok(bound) => bound,
            // What does not fit before it is wrong first.
            Err(why) => return Err(self.blame().unwrap_or(Wrong::NoEntry { seq: expected, why })),
        };
        let (hash, fits) = (Sha256::of(line), prev == self.head.hash);
        if let Some(mismatch) = self.mismatch {
            // One that does not fit on either side is the one that was changed.
            return Err(if fits { mismatch.earlier() } else { mismatch.later() });
        }
        if seq > expected {
            return Err(Wrong::Missing { expected, found: seq });
        }
        if seq < expected {
            return Err(Wrong::Misplaced { expected, found: seq });
        }
        if !fits {
            self.mismatch = Some(Mismatch { seq, said: prev, is: self.head.hash });
        }
        self.head = Head { seq, hash };
        if let Some(said) = self.checkpoints.get(&seq).filter(|said| **said != hash) {
            let (expected, found) = (*said, hash);
            return Err(self.blame().unwrap_or(Wrong::Rewritten { seq, expected, found }));
        }
        Ok(())
    }

    fn blame(&self) -> Option<Wrong> {
        let mismatch = self.mismatch?;
        // The checkpoint knows the later one.
        let is_later_good = self.checkpoints.get(&mismatch.seq) == Some(&self.head.hash);
        Some(if is_later_good { mismatch.earlier() } else { mismatch.later() })
    }

    /// The end; `rest` are octets after the last LF.
    ///
    /// # Errors
    /// What is wrong with the end.
    pub fn end(self, rest: &[u8]) -> Result<Head, Wrong> {
        if let Some(wrong) = self.blame() {
            return Err(wrong);
        }
        if !rest.is_empty() {
            return Err(Wrong::Torn { seq: self.head.seq + 1, octets: rest.len() });
        }
        match self.checkpoints.last_key_value() {
            Some((expected, _)) if *expected > self.head.seq => {
                Err(Wrong::CutOff { expected: *expected, found: self.head.seq })
            }
            _ => Ok(self.head),
        }
    }
}

impl Mismatch {
    fn earlier(self) -> Wrong {
        Wrong::Changed { seq: self.seq - 1, expected: self.said, found: self.is }
    }

    fn later(self) -> Wrong {
        Wrong::Unbound { seq: self.seq, expected: self.is, found: self.said }
    }
}

impl Wrong {
    /// The first entry that is wrong or lacking.
    pub fn seq(&self) -> u64 {
        match self {
            Self::NoEntry { seq, .. }
            | Self::Changed { seq, .. }
            | Self::Unbound { seq, .. }
            | Self::Torn { seq, .. }
            | Self::Rewritten { seq, .. } => *seq,
            Self::Missing { expected, .. } | Self::Misplaced { expected, .. } => *expected,
            Self::CutOff { found, .. } => found + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Actor, Entry, Event};

    const ENTRIES: u64 = 12;

    /// Entries from `head` on that fit each other.
    fn log(mut head: Head, to: u64, word: &str) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while head.seq < to {
            let seq = head.seq + 1;
            let event = Event::Failed { what: format!("{word} {seq}"), why: "y".to_owned() };
            let by = Actor::daemon("test");
            let line = Entry { seq, time_ms: 1000 + seq, by, event, prev: head.hash }.encode();
            head = Head { seq, hash: Sha256::of(&line) };
            lines.push(line);
        }
        lines
    }

    fn good() -> Vec<Vec<u8>> {
        log(Head::NONE, ENTRIES, "word")
    }

    fn verify(lines: &[Vec<u8>], checkpoint: Option<Head>) -> Result<Head, Wrong> {
        let mut chain = Chain::new(checkpoint);
        lines.iter().try_for_each(|line| chain.push(line))?;
        chain.end(b"")
    }

    fn head(lines: &[Vec<u8>]) -> Head {
        verify(lines, None).unwrap()
    }

    #[test]
    fn a_log_as_it_was_written_is_good() {
        let lines = good();
        assert_eq!(head(&lines).seq, ENTRIES);
        let middle = head(&lines[..5]);
        assert_eq!(verify(&lines, Some(middle)).unwrap(), head(&lines));
        assert_eq!(verify(&lines, Some(head(&lines))).unwrap(), head(&lines));
        assert_eq!(verify(&[], None).unwrap(), Head::NONE);
        let mut later = Chain::after(middle, Some(head(&lines)));
        lines[5..].iter().for_each(|line| later.push(line).unwrap());
        assert_eq!(later.end(b"").unwrap(), head(&lines));
    }

    #[test]
    fn each_octet_of_each_entry_that_is_changed_names_that_entry() {
        let lines = good();
        let checkpoint = head(&lines);
        for (at, line) in lines.iter().enumerate() {
            for octet in 0..line.len() {
                let mut bad = lines.clone();
                bad[at][octet] ^= 1;
                let wrong = verify(&bad, Some(checkpoint)).unwrap_err();
                assert_eq!(wrong.seq(), at as u64 + 1, "octet {octet} of entry {}: {wrong}", at + 1);
            }
        }
    }

    #[test]
    fn an_entry_that_is_dropped_put_in_or_moved_is_named() {
        let lines = good();
        let checkpoint = Some(head(&lines));
        for at in 0..lines.len() {
            let seq = at as u64 + 1;
            let mut dropped = lines.clone();
            dropped.remove(at);
            let wrong = verify(&dropped, checkpoint).unwrap_err();
            assert_eq!(wrong.seq(), seq, "{wrong}");
            assert!(wrong.to_string().contains("missing"), "{wrong}");
            let mut twice = lines.clone();
            twice.insert(at, lines[at].clone());
            let wrong = verify(&twice, checkpoint).unwrap_err();
            assert_eq!(wrong, Wrong::Misplaced { expected: seq + 1, found: seq });
            for other in at + 1..lines.len() {
                let mut swapped = lines.clone();
                swapped.swap(at, other);
                let wrong = verify(&swapped, checkpoint).unwrap_err();
                assert_eq!(wrong, Wrong::Missing { expected: seq, found: other as u64 + 1 });
            }
            // One of another log, with the right number.
            let mut foreign = lines.clone();
            foreign[at] = log(Head::NONE, ENTRIES, "other").remove(at);
            assert_eq!(verify(&foreign, checkpoint).unwrap_err().seq(), seq);
            let mut junk = lines.clone();
            junk.insert(at, b"{}".to_vec());
            let wrong = verify(&junk, checkpoint).unwrap_err();
            assert!(matches!(wrong, Wrong::NoEntry { seq: named, .. } if named == seq), "{wrong}");
        }
    }

    #[test]
    fn a_log_that_is_cut_anywhere_is_found_by_the_checkpoint() {
        let lines = good();
        let checkpoint = Some(head(&lines));
        for end in 0..lines.len() {
            let wrong = verify(&lines[..end], checkpoint).unwrap_err();
            assert_eq!(wrong, Wrong::CutOff { expected: ENTRIES, found: end as u64 });
            for octets in [1, lines[end].len()] {
                let mut chain = Chain::new(checkpoint);
                lines[..end].iter().for_each(|line| chain.push(line).unwrap());
                let wrong = chain.end(&lines[end][..octets]).unwrap_err();
                assert_eq!(wrong, Wrong::Torn { seq: end as u64 + 1, octets });
            }
        }
    }

    #[test]
    fn a_log_that_was_written_anew_and_fits_is_found_by_the_checkpoint() {
        let lines = good();
        let checkpoint = head(&lines);
        for from in 0..lines.len() {
            let kept = lines[..from].to_vec();
            let forged = [kept.clone(), log(head(&kept), ENTRIES + 3, "forged")].concat();
            verify(&forged, None).unwrap();
            let wrong = verify(&forged, Some(checkpoint)).unwrap_err();
            assert!(matches!(wrong, Wrong::Rewritten { seq: ENTRIES, .. }), "{wrong}");
        }
    }

    #[test]
    fn the_next_entry_tells_which_of_two_was_changed() {
        let lines = good();
        // What entry 4 says of entry 3.
        let mut bad = lines.clone();
        let text = String::from_utf8(bad[3].clone()).unwrap();
        let prev = text.find("\"prev\":\"").unwrap() + 8;
        bad[3][prev] = if bad[3][prev] == b'a' { b'b' } else { b'a' };
        assert!(matches!(verify(&bad, None).unwrap_err(), Wrong::Unbound { seq: 4, .. }));
        // The last entry has none after it, and the checkpoint tells.
        let mut bad = lines.clone();
        bad[10][20] ^= 1;
        assert_eq!(verify(&bad, Some(head(&lines))).unwrap_err().seq(), 11);
    }
}
