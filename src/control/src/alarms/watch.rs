//! Which alarms are new, and which are over.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::id::LinkId;
use diodesync::pack::fact;
use serde::{Deserialize, Serialize};

use crate::clock_ms;

/// Events that wait to be taken.
pub const EVENTS_MAX: usize = 500;
/// Looks in a row that must see an alarm before it counts, so that what passes by wakes nobody.
const RAISE_LOOKS: u32 = 2;
/// Looks in a row that must not see it before it is over.
const CLEAR_LOOKS: u32 = 3;

/// Ids of alarms, their codes and what they are about. A code never changes and is never given to another.
pub type Codes = &'static [(&'static str, &'static str, &'static str)];

/// Whose alarms.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `sender` or `receiver`.
    pub side: &'static str,
    /// The link.
    pub link: LinkId,
    /// The codes of its alarms.
    pub codes: Codes,
}

/// An alarm is raised, or is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1.
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// `sender` or `receiver`.
    pub side: String,
    /// The link.
    pub link: LinkId,
    /// The code.
    pub event: String,
    /// The alarm's id.
    pub alarm: String,
    /// What it names; empty, if nothing.
    pub about: String,
    /// `raised` or `cleared`.
    pub state: String,
    /// What it says.
    pub text: String,
}

/// What one alarm is told apart by: its id, and what it names.
type Key = (String, String);

/// `DIR/alarms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The number of the next event, less one.
    last: u64,
    raised: Vec<(Key, String)>,
    pub(super) events: VecDeque<Event>,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("alarms")
}

impl Record {
    /// What was written last.
    ///
    /// # Errors
    /// If it is damaged: numbers that begin anew would be those of events that hooks have taken.
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let Some(content) = fact::read(&path(dir))? else { return Ok(Self::default()) };
        serde_json::from_slice(&content)
            .with_context(|| format!("the fact file {} is damaged", path(dir).display()))
    }

    /// The same for who only looks.
    pub(super) fn read(dir: &Path) -> Self {
        let content = fact::read(&path(dir)).ok().flatten();
        content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
    }
}

/// An alarm that is seen, or was.
#[derive(Debug, Clone)]
struct Seen {
    text: String,
    is_raised: bool,
    /// Looks in a row that say otherwise than `is_raised`.
    against: u32,
}

/// Tells new alarms from those that are known.
#[derive(Debug)]
pub struct Watch {
    dir: PathBuf,
    whose: Identity,
    record: Record,
    is_unwritten: bool,
    seen: BTreeMap<Key, Seen>,
}

impl Watch {
    /// In the side's folder, with what was raised before the start.
    ///
    /// # Errors
    /// If the record of it is damaged.
    pub fn open(dir: &Path, whose: Identity) -> anyhow::Result<Self> {
        let record = Record::open(dir)?;
        let known = |(key, text): &(Key, String)| {
            (key.clone(), Seen { text: text.clone(), is_raised: true, against: 0 })
        };
        let seen = record.raised.iter().map(known).collect();
        Ok(Self { dir: dir.to_owned(), whose, record, is_unwritten: false, seen })
    }

    /// Takes what is wrong now: id and text of each.
    pub fn look<'a>(&mut self, alarms: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut now: BTreeMap<Key, &str> = BTreeMap::new();
        for (id, text) in alarms {
            now.entry((id.to_owned(), subject(text))).or_insert(text);
        }
        for (key, text) in &now {
            let fresh = Seen { text: String::new(), is_raised: false, against: 0 };
            let seen = self.seen.entry(key.clone()).or_insert(fresh);
            seen.text = (*text).to_owned();
        }
        let mut changed = Vec::new();
        for (key, seen) in &mut self.seen {
            let is_there = now.contains_key(key);
            seen.against = if is_there == seen.is_raised { 0 } else { seen.against + 1 };
            if seen.against >= (if is_there { RAISE_LOOKS } else { CLEAR_LOOKS }) {
                (seen.is_raised, seen.against) = (is_there, 0);
                changed.push((key.clone(), seen.clone()));
            }
        }
        self.seen.retain(|key, seen| seen.is_raised || now.contains_key(key));
        self.is_unwritten |= !changed.is_empty();
        for (key, seen) in changed {
            self.tell(key, &seen);
        }
        self.write();
    }

    fn tell(&mut self, (alarm, about): Key, seen: &Seen) {
        let code =
            self.whose.codes.iter().find(|(id, ..)| *id == alarm).map_or("DS-0000", |(_, code, _)| code);
        let state = if seen.is_raised { "raised" } else { "cleared" };
        let text = &seen.text;
        match seen.is_raised {
            true => tracing::warn!(event = code, alarm, about, state, "alarm {code} raised: {text}"),
            false => tracing::info!(event = code, alarm, about, state, "alarm {code} cleared: {text}"),
        }
        self.record.last += 1;
        self.record.events.push_back(Event {
            seq: self.record.last,
            time_ms: clock_ms(),
            side: self.whose.side.to_owned(),
            link: self.whose.link,
            event: code.to_owned(),
            alarm,
            about,
            state: state.to_owned(),
            text: text.clone(),
        });
        while self.record.events.len() > EVENTS_MAX {
            self.record.events.pop_front();
        }
    }

    /// Keeps it; on a full disk with the next look.
    fn write(&mut self) {
        if !self.is_unwritten {
            return;
        }
        let raised = self.seen.iter().filter(|(_, seen)| seen.is_raised);
        self.record.raised = raised.map(|(key, seen)| (key.clone(), seen.text.clone())).collect();
        let written = serde_json::to_vec(&self.record).map_err(anyhow::Error::from);
        match written.and_then(|content| Ok(fact::write_lazily(&path(&self.dir), &content)?)) {
            Ok(()) => self.is_unwritten = false,
            Err(error) => tracing::debug!(%error, "alarms are not handed on yet"),
        }
    }
}

/// What an alarm names: the first lane, release, mirror or source in its text. Two alarms of one id that name different
/// things are two.
fn subject(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let bare = |word: &str| word.trim_end_matches([':', ',', '.', ';']).to_owned();
    for (at, word) in words.iter().enumerate() {
        let names = match *word {
            "lane" | "mirror" | "source" => 1,
            "release" => 2,
            _ => continue,
        };
        let named = words.get(at + 1..at + 1 + names).unwrap_or_default();
        // That of a command is none.
        let is_name = |word: &&str| !word.starts_with('-');
        let is_number = |word: &&str| bare(word).parse::<u64>().is_ok();
        if named.len() == names
            && named.iter().all(is_name)
            && (names == 1 || named.last().is_some_and(is_number))
        {
            let named: Vec<String> = named.iter().map(|word| bare(word)).collect();
            return format!("{word} {}", named.join(" "));
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: Codes = &[("silence", "DS-T-0001", ""), ("disk-full", "DS-T-0002", "")];

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn watch(name: &str) -> (Folder, Watch) {
        let dir = std::env::temp_dir().join(format!("diodesync-watch-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let watch = open(&dir);
        (Folder(dir), watch)
    }

    fn open(dir: &Path) -> Watch {
        Watch::open(dir, Identity { side: "receiver", link: LinkId([1; 16]), codes: CODES }).unwrap()
    }

    fn events(dir: &Path) -> Vec<(u64, String, String, String)> {
        let record = Record::read(dir);
        record.events.into_iter().map(|e| (e.seq, e.event, e.about, e.state)).collect()
    }

    fn event(seq: u64, code: &str, about: &str, state: &str) -> (u64, String, String, String) {
        (seq, code.to_owned(), about.to_owned(), state.to_owned())
    }

    #[test]
    fn an_alarm_is_told_when_it_comes_and_when_it_goes_and_no_more() {
        let (dir, mut watch) = watch("once");
        let alarms = |s: u32| {
            [
                ("silence", format!("lane a: nothing came for {s} s")),
                ("silence", "lane b: nothing".to_owned()),
            ]
        };
        let look = |watch: &mut Watch, alarms: &[(&str, String)]| {
            watch.look(alarms.iter().map(|(id, text)| (*id, text.as_str())))
        };
        look(&mut watch, &alarms(10));
        assert!(events(&dir.0).is_empty(), "what passes by wakes nobody");
        (11..20).for_each(|s| look(&mut watch, &alarms(s)));
        let raised = [event(1, "DS-T-0001", "lane a", "raised"), event(2, "DS-T-0001", "lane b", "raised")];
        assert_eq!(events(&dir.0), raised);
        // One of them is over.
        (0..CLEAR_LOOKS - 1).for_each(|_| look(&mut watch, &alarms(20)[..1]));
        look(&mut watch, &alarms(21));
        assert_eq!(events(&dir.0), raised, "it was there again");
        (0..CLEAR_LOOKS).for_each(|_| look(&mut watch, &alarms(22)[..1]));
        assert_eq!(events(&dir.0)[2..], [event(3, "DS-T-0001", "lane b", "cleared")]);
        // A daemon that starts knows what was raised.
        let mut watch = open(&dir.0);
        (0..5).for_each(|_| look(&mut watch, &alarms(30)[..1]));
        assert_eq!(events(&dir.0).len(), 3);
        (0..5).for_each(|_| look(&mut watch, &[("new", "x".to_owned())]));
        assert_eq!(
            events(&dir.0)[3..],
            [event(4, "DS-0000", "", "raised"), event(5, "DS-T-0001", "lane a", "cleared")]
        );
    }

    #[test]
    fn no_more_events_are_kept_than_the_limit() {
        let (dir, mut watch) = watch("limit");
        for _ in 0..EVENTS_MAX {
            (0..RAISE_LOOKS).for_each(|_| watch.look([("disk-full", "full")].into_iter()));
            (0..CLEAR_LOOKS).for_each(|_| watch.look(std::iter::empty()));
        }
        let events = events(&dir.0);
        assert_eq!(events.len(), EVENTS_MAX);
        assert_eq!(events.last().unwrap().0, 2 * EVENTS_MAX as u64);
    }

    #[test]
    fn an_alarm_is_about_what_its_text_names_first() {
        for (text, about) in [
            ("lane lane0: nothing came for 12 s; look at the sender", "lane lane0"),
            (
                "release main 4: 3 blocks are damaged, on the low side: diode-sender release --full",
                "release main 4",
            ),
            ("release main 4 is held: there is no room", "release main 4"),
            ("mirror harbor is behind: no route", "mirror harbor"),
            ("nothing can be sent on lane x: no route", "lane x"),
            ("Mend that, then: diode-sender release --full", ""),
            ("no kept release needs it", ""),
            ("the journal is closed", ""),
        ] {
            assert_eq!(subject(text), about, "{text}");
        }
    }
}
