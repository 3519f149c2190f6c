//! What a producer has sent and is not staged yet:
//!
//! ```text
//! DIR/producers/NAME/SHA256.part   a blob that has come in part
//! DIR/producers/NAME/SHA256        one that has come, and is what its name says
//! DIR/producers/NAME/day           how much was taken from it today (fact)
//! ```
//!
//! A part is resumed where it ends, whatever ended the connection, and its digest is computed over all of it before it
//! counts; so a part that a power cut has garbled costs a second transfer and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::pack::fact;
use serde::{Deserialize, Serialize};
use sha2::Digest;

/// Octets after which a part is made durable.
const SYNC_BYTES: u64 = 64 << 20;
/// Octets from which on a blob is made durable before it counts. Smaller ones are compared with their digest once more when
/// they are staged, and cost little to send again.
const DURABLE_BYTES: u64 = 1 << 20;
const DAY_S: u64 = 86_400;

/// A producer's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// What is there of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Have {
    /// All of it.
    Whole,
    /// Its first octets.
    Part(u64),
}

/// How much was taken on a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// Days since 1970, in UTC.
    day: u64,
    /// Octets.
    bytes: u64,
}

impl Day {
    /// Octets taken today.
    pub fn bytes(&self, now_s: u64) -> u64 {
        if self.day == now_s / DAY_S { self.bytes } else { 0 }
    }

    /// With so many more.
    pub fn plus(&self, bytes: u64, now_s: u64) -> Self {
        Self { day: now_s / DAY_S, bytes: self.bytes(now_s).saturating_add(bytes) }
    }
}

impl Folder {
    /// Opens a producer's folder; it is made, if it is not there.
    pub fn open(dir: &Path, producer: &str) -> anyhow::Result<Self> {
        let path = dir.join("producers").join(producer);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Takes away what has come of those who are no producers any more.
    pub fn forget_others<'a>(dir: &Path, producers: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
        let (path, known) = (dir.join("producers"), producers.collect::<BTreeSet<_>>());
        let why = || format!("cannot tidy up {}", path.display());
        for entry in std::fs::read_dir(&path).with_context(why)? {
            let entry = entry.with_context(why)?;
            let is_known = entry.file_name().to_str().is_some_and(|name| known.contains(name));
            if !is_known && entry.file_type().with_context(why)?.is_dir() {
                std::fs::remove_dir_all(entry.path()).with_context(why)?;
            }
        }
        Ok(())
    }

    /// Where a blob is that has come.
    pub fn path(&self, sha256: &Sha256) -> PathBuf {
        self.0.join(sha256.to_string())
    }

    fn part(&self, sha256: &Sha256) -> PathBuf {
        self.0.join(format!("{sha256}.part"))
    }

    /// What is there of a blob of so many octets. A part that is longer is none.
    pub fn have(&self, sha256: &Sha256, bytes: u64) -> Have {
        let length =
            |path: &Path| std::fs::symlink_metadata(path).ok().filter(|it| it.is_file()).map(|it| it.len());
        if length(&self.path(sha256)) == Some(bytes) {
            return Have::Whole;
        }
        Have::Part(length(&self.part(sha256)).filter(|part| *part <= bytes).unwrap_or(0))
    }

    /// Goes on with a blob at this octet, and begins it where that is 0. Reads what is there; `alive` is called now and
    /// then meanwhile.
    pub fn resume(&self, sha256: Sha256, bytes: u64, from: u64, alive: &dyn Fn()) -> anyhow::Result<Part> {
        let path = self.part(&sha256);
        let why = || format!("cannot write {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(why)?;
        if from == 0 {
            file.set_len(0).with_context(why)?;
        }
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut found = 0;
        loop {
            let read = file.read(&mut buffer).with_context(why)?;
            if read == 0 {
                break;
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            found += read as u64;
            alive();
        }
        if found != from {
            bail!("{} has {found} octets, expected {from}", path.display());
        }
        Ok(Part { path, whole: self.path(&sha256), file, hasher, sha256, bytes, at: from, from, unsynced: 0 })
    }

    /// Takes away what is left of a blob.
    pub fn remove(&self, sha256: &Sha256) {
        for path in [self.path(sha256), self.part(sha256)] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes away what nobody has gone on with for so long; and the oldest, until no more than `bytes_max` is kept. Blobs
    /// of `spared` stay, and do not count.
    pub fn tidy(
        &self,
        now: SystemTime,
        keep: Duration,
        bytes_max: u64,
        spared: &BTreeMap<Sha256, u64>,
    ) -> anyhow::Result<()> {
        let entries =
            std::fs::read_dir(&self.0).with_context(|| format!("cannot list {}", self.0.display()))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            match name.strip_suffix(".part").unwrap_or(name).parse::<Sha256>() {
                Ok(sha256) if !spared.contains_key(&sha256) => {}
                _ => continue,
            }
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort();
        let mut kept: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (written, bytes, path) in files {
            let age = now.duration_since(written).unwrap_or_default();
            if age > keep || kept > bytes_max {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                kept -= bytes;
            }
        }
        Ok(())
    }

    /// How much was taken; if that is lost, as much as ever can be, and from tomorrow on it is counted anew.
    pub fn day_or_full(&self, now_s: u64) -> Day {
        self.day().unwrap_or_else(|error| {
            let full = Day { day: now_s / DAY_S, bytes: u64::MAX };
            let kept = self.set_day(&full).err().map(|error| format!("{error:#}"));
            tracing::error!(error = format!("{error:#}"), kept, "nothing is taken from this producer today");
            full
        })
    }

    /// Where that is kept.
    pub fn day_path(&self) -> PathBuf {
        self.0.join("day")
    }

    fn day(&self) -> anyhow::Result<Day> {
        match fact::read(&self.day_path())? {
            Some(content) => serde_json::from_slice(&content)
                .with_context(|| format!("{}/day is damaged", self.0.display())),
            None => Ok(Day::default()),
        }
    }

    /// Keeps it.
    pub fn set_day(&self, day: &Day) -> anyhow::Result<()> {
        Ok(fact::write(&self.day_path(), &serde_json::to_vec(day)?)?)
    }
}

/// A blob on its way.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    whole: PathBuf,
    file: File,
    hasher: sha2::Sha256,
    sha256: Sha256,
    bytes: u64,
    at: u64,
    from: u64,
    unsynced: u64,
}

/// What came of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It is there.
    Whole,
    /// It broke off, and is gone on with another time.
    Part,
    /// It is not what was announced, and was begun in an earlier connection: what was there may have been garbled.
    Again,
    /// It is not what was announced.
    Wrong(Sha256),
}

impl Part {
    /// Adds octets. The caller gives no more than was announced.
    pub fn write(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        let why = || format!("cannot write {}", self.path.display());
        self.file.write_all(octets).with_context(why)?;
        self.hasher.update(octets);
        self.at += octets.len() as u64;
        self.unsynced += octets.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data().with_context(why)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Ends it: durable if it is large, and under its name if it is what was announced.
    pub fn end(self) -> anyhow::Result<Came> {
        let why = || format!("cannot write {}", self.path.display());
        if self.bytes >= DURABLE_BYTES {
            self.file.sync_data().with_context(why)?;
        }
        if self.at < self.bytes {
            return Ok(Came::Part);
        }
        let found = Sha256(self.hasher.clone().finalize().into());
        if found != self.sha256 {
            std::fs::remove_file(&self.path).with_context(why)?;
            return Ok(if self.from > 0 { Came::Again } else { Came::Wrong(found) });
        }
        std::fs::rename(&self.path, &self.whole).with_context(why)?;
        if self.bytes >= DURABLE_BYTES {
            fact::sync_dir(fact::folder_of(&self.path))?;
        }
        Ok(Came::Whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("diode-sender-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_blob_that_broke_off_is_gone_on_with() {
        let dir = Dir::new("parts");
        let folder = Folder::open(&dir.0, "ci").unwrap();
        let sha256 = Sha256::of(b"one two");
        assert_eq!(folder.have(&sha256, 7), Have::Part(0));
        let mut part = folder.resume(sha256, 7, 0, &|| ()).unwrap();
        part.write(b"one ").unwrap();
        assert_eq!(part.end().unwrap(), Came::Part);
        assert_eq!(folder.have(&sha256, 7), Have::Part(4));
        // As long as another one of that name would be.
        assert_eq!(folder.have(&sha256, 3), Have::Part(0));
        assert!(folder.resume(sha256, 7, 3, &|| ()).is_err());
        let mut part = folder.resume(sha256, 7, 4, &|| ()).unwrap();
        part.write(b"two").unwrap();
        assert_eq!(part.end().unwrap(), Came::Whole);
        assert_eq!(folder.have(&sha256, 7), Have::Whole);
        assert_eq!(std::fs::read(folder.path(&sha256)).unwrap(), b"one two");
        folder.remove(&sha256);
        assert_eq!(folder.have(&sha256, 7), Have::Part(0));
    }

    #[test]
    fn what_is_not_what_was_announced_goes() {
        let dir = Dir::new("wrong");
        let folder = Folder::open(&dir.0, "ci").unwrap();
        let sha256 = Sha256::of(b"abc");
        let mut part = folder.resume(sha256, 3, 0, &|| ()).unwrap();
        part.write(b"abd").unwrap();
        assert_eq!(part.end().unwrap(), Came::Wrong(Sha256::of(b"abd")));
        assert_eq!(folder.have(&sha256, 3), Have::Part(0));
        // A power cut has left zeros.
        std::fs::write(folder.part(&sha256), [0, 0]).unwrap();
        let mut part = folder.resume(sha256, 3, 2, &|| ()).unwrap();
        part.write(b"c").unwrap();
        assert_eq!(part.end().unwrap(), Came::Again);
        assert_eq!(folder.have(&sha256, 3), Have::Part(0));
    }

    #[test]
    fn what_is_old_or_too_much_goes() {
        let dir = Dir::new("tidy");
        let folder = Folder::open(&dir.0, "ci").unwrap();
        let (old, new) = (Sha256::of(b"old"), Sha256::of(b"new"));
        let now = SystemTime::now();
        for (sha256, age_s) in [(old, 90), (new, 10)] {
            let mut part = folder.resume(sha256, 100, 0, &|| ()).unwrap();
            part.write(&[1; 10]).unwrap();
            part.file.set_modified(now - Duration::from_secs(age_s)).unwrap();
            part.end().unwrap();
        }
        folder.set_day(&Day { day: 1, bytes: 1 }).unwrap();
        let parts = |folder: &Folder| [old, new].map(|sha256| folder.have(&sha256, 100));
        let none = BTreeMap::new();
        folder.tidy(now, Duration::from_secs(100), 20, &none).unwrap();
        assert_eq!(parts(&folder), [Have::Part(10); 2]);
        folder.tidy(now, Duration::from_secs(1), 9, &BTreeMap::from([(old, 1), (new, 1)])).unwrap();
        assert_eq!(parts(&folder), [Have::Part(10); 2], "what is spared stays");
        folder.tidy(now, Duration::from_secs(100), 19, &none).unwrap();
        assert_eq!(parts(&folder), [Have::Part(0), Have::Part(10)], "the oldest goes first");
        folder.tidy(now, Duration::from_secs(9), 19, &none).unwrap();
        assert_eq!(parts(&folder), [Have::Part(0); 2]);
        assert_eq!(folder.day().unwrap(), Day { day: 1, bytes: 1 }, "what is no blob stays");
    }

    #[test]
    fn who_is_no_producer_any_more_is_forgotten() {
        let dir = Dir::new("others");
        let folders = ["ci", "gone"].map(|name| Folder::open(&dir.0, name).unwrap());
        let sha256 = Sha256::of(b"abc");
        for folder in &folders {
            folder.resume(sha256, 3, 0, &|| ()).unwrap().write(b"ab").unwrap();
        }
        Folder::forget_others(&dir.0, ["ci"].into_iter()).unwrap();
        assert_eq!(folders[0].have(&sha256, 3), Have::Part(2));
        assert!(!dir.0.join("producers/gone").exists());
    }

    #[test]
    fn a_day_ends_at_midnight() {
        let dir = Dir::new("day");
        let folder = Folder::open(&dir.0, "ci").unwrap();
        assert_eq!(folder.day().unwrap().bytes(5), 0);
        let day = Day::default().plus(7, 2 * DAY_S - 1).plus(5, 2 * DAY_S - 1);
        folder.set_day(&day).unwrap();
        let day = folder.day().unwrap();
        assert_eq!((day.bytes(2 * DAY_S - 1), day.bytes(2 * DAY_S)), (12, 0));
        assert_eq!(day.plus(1, 2 * DAY_S).bytes(2 * DAY_S), 1);
    }

    #[test]
    fn a_day_that_is_lost_is_full() {
        let dir = Dir::new("lost-day");
        let folder = Folder::open(&dir.0, "ci").unwrap();
        std::fs::write(folder.day_path(), "{").unwrap();
        let day = folder.day_or_full(5);
        assert_eq!((day.bytes(5), day.bytes(DAY_S)), (u64::MAX, 0));
        assert_eq!(day.plus(7, 5).bytes(5), u64::MAX);
        // It is written anew: the day after, nothing is damaged any more.
        assert_eq!(folder.day().unwrap(), day);
    }
}
