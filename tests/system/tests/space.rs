//! Full disks: what would not fit is refused or held before it is begun, and a file system that is full in the middle of
//! anything costs time and nothing else. The file systems are small ones of memory, filled by a file beside the daemon.

use std::path::Path;
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::status::ReleaseState;
use diodesync_system::tmpfs::Tmpfs;
use diodesync_system::tree::{self, Digests};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A pair that sends its newest release for as long as a test takes.
fn pair(name: &'static str, reserve: &str) -> Pair {
    let setup = Setup { name, rounds: 250, round_gap: "300ms".to_owned(), ..Setup::default() };
    let pair = Pair::over_link(&setup, Weather::lossy(1)).unwrap();
    for side in [&pair.low, &pair.high] {
        side.set(&["space", "reserve"], reserve).unwrap();
    }
    pair
}

/// Files that are to be there at the end, and where they are.
struct Files<'a> {
    root: &'a Path,
    prng: Prng,
    expected: Digests,
}

impl<'a> Files<'a> {
    fn new(root: &'a Path) -> Self {
        Self { root, prng: Prng::new(9), expected: Digests::new() }
    }

    /// A fresh folder with one file of so many octets, and its digests as they are served.
    fn make(&mut self, name: &str, bytes: u64) -> (String, Digests) {
        let folder = self.root.join(name);
        tree::write(&folder, "bulk", &tree::octets(&mut self.prng, bytes as usize), 0o644).unwrap();
        tree::write(&folder, "small", name.as_bytes(), 0o644).unwrap();
        (folder.to_str().unwrap().to_owned(), tree::digests(&folder, name).unwrap())
    }

    fn submit(&mut self, pair: &Pair, name: &str, bytes: u64) {
        let (folder, digests) = self.make(name, bytes);
        pair.low.ok(&["submit", "files", &folder]).unwrap();
        self.expected.extend(digests);
    }
}

#[test]
fn a_submission_that_does_not_fit_is_refused_before_it_is_taken() {
    let _alone = alone();
    let mut pair = pair("space-submit", "1MB");
    let tmpfs = match Tmpfs::over(pair.low.dir(), 40 * MIB) {
        Ok(tmpfs) => tmpfs,
        Err(skip) => return skip.announce_or_fail_in_ci("a submission to a small file system"),
    };
    pair.low.start().unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    let (large, _) = files.make("large", 60 * MIB);
    let done = pair.low.run(&["submit", "files", &large]).unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    for word in ["no room for the submission", "low/packs", "60.0 MiB", "free", "are kept back"] {
        assert!(done.stderr.contains(word), "{word} is not in: {}", done.stderr);
    }
    let status = pair.low_status().unwrap();
    assert!(status.disk.path.ends_with("low/packs") && status.disk.reserve_bytes == 1_000_000, "{status:?}");
    assert_eq!((status.disk.total_bytes, status.disk.packs_bytes, status.staged()), (40 * MIB, 0, 0));
    // What is announced fits, and its list does not: what was written goes.
    pair.low.stop().unwrap();
    pair.low.set(&["space", "reserve"], "0B").unwrap();
    pair.low.start().unwrap();
    let (middle, _) = files.make("middle", 12 * MIB);
    tmpfs.fill(12 * MIB + 4096).unwrap();
    let before = tmpfs.free().unwrap();
    let done = pair.low.run(&["submit", "files", &middle]).unwrap();
    assert!(done.code == Some(1) && done.stderr.contains("/low/"), "{done:?}");
    assert!(tmpfs.free().unwrap() + 65536 > before, "a refused submission keeps its room");
    tmpfs.relieve().unwrap();
    files.submit(&pair, "small", MIB);
    assert_eq!(pair.low_status().unwrap().staged(), 2);
    pair.low.stop().unwrap();
    drop(tmpfs);
}

#[test]
fn a_release_that_does_not_fit_is_held_and_goes_on_by_itself() {
    let _alone = alone();
    let mut pair = pair("space-hold", "4MB");
    let tmpfs = match Tmpfs::over(pair.high.dir(), 64 * MIB) {
        Ok(tmpfs) => tmpfs,
        Err(skip) => return skip.announce_or_fail_in_ci("a release on a small file system"),
    };
    pair.start().unwrap();
    tmpfs.fill(12 * MIB).unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    files.submit(&pair, "large", 20 * MIB);
    pair.low.ok(&["release"]).unwrap();
    let held = wait_for("the release is held", MINUTE, || {
        let status = pair.high_status()?;
        let held = status.release("main", 1).is_some_and(|release| release.state == ReleaseState::NoSpace);
        Ok(held.then_some(status))
    })
    .unwrap();
    let reason = held.release("main", 1).unwrap().reason.clone().unwrap();
    for word in ["release main 1", "high/packs", "free", "kept back"] {
        assert!(reason.contains(word), "{word} is not in: {reason}");
    }
    assert!(held.alarm("no-space").unwrap().text.contains("high/packs"));
    // Blocks are collected to the reserve, and not beyond.
    std::thread::sleep(Duration::from_secs(2));
    assert!(tmpfs.free().unwrap() >= 3_000_000, "{} octets are left of the reserve", tmpfs.free().unwrap());
    let lines = pair.high.log().lines().filter(|line| line.contains("cannot be written")).count();
    assert!(lines <= 2, "{lines} lines in the log about one full disk");
    tmpfs.relieve().unwrap();
    pair.wait_published(1, MINUTE).unwrap();
    pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    wait_for("no alarm is left of it", MINUTE, || {
        let status = pair.high_status()?;
        Ok(["no-space", "disk-full", "blocks-not-written", "journal"]
            .iter()
            .all(|id| status.alarm(id).is_none())
            .then_some(()))
    })
    .unwrap();
    pair.stop().unwrap();
    drop(tmpfs);
}

/// What is free while the disk is full: nothing, a page, some facts, some of a journal, some blocks.
const LEFT: [u64; 11] = [
    0,
    4096,
    8192,
    16 << 10,
    32 << 10,
    128 << 10,
    600 << 10,
    MIB + 4096,
    3 * MIB + 4096,
    3 * MIB + 16384,
    5 * MIB,
];

#[test]
fn the_receivers_disk_is_full_at_every_kind_of_write() {
    let _alone = alone();
    let mut pair = pair("space-high", "0B");
    let tmpfs = match Tmpfs::over(pair.high.dir(), 96 * MIB) {
        Ok(tmpfs) => tmpfs,
        Err(skip) => return skip.announce_or_fail_in_ci("the receiver on a full file system"),
    };
    pair.start().unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    let mut has_named = 0;
    for (turn, left) in LEFT.into_iter().enumerate() {
        let release = turn as u64 + 1;
        let before = files.expected.clone();
        tmpfs.fill(left).unwrap();
        files.submit(&pair, &format!("turn{turn}"), 3 * MIB);
        pair.low.ok(&["release"]).unwrap();
        match turn % 3 {
            // A new session meets it.
            1 => {
                pair.low.kill_9().unwrap();
                pair.low.start().unwrap();
            }
            // A start meets it, and says what it met if it cannot be.
            2 => {
                pair.high.kill_9().unwrap();
                if pair.high.start().is_err() {
                    let log = pair.high.log();
                    assert!(log.contains("No space left") && log.contains("/high"), "{log}");
                    tmpfs.relieve().unwrap();
                    pair.high.start().unwrap();
                    tmpfs.fill(left).unwrap();
                }
            }
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(2500));
        pair.high.check_alive().unwrap();
        let status = pair.high_status().unwrap();
        if status.channel("main").unwrap().published != Some(release) {
            let named = status.alarms.iter().filter(|alarm| alarm.text.contains("/high")).count();
            has_named += usize::from(named > 0);
            // What was published is served as it was, until the new one is.
            let compared = pair.mirror().unwrap().compare_files(&before);
            let is_published =
                || pair.high_status().unwrap().channel("main").unwrap().published == Some(release);
            assert!(compared.is_ok() || is_published(), "{compared:?}");
        }
        tmpfs.relieve().unwrap();
        pair.wait_published(release, MINUTE).unwrap();
        pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    }
    assert!(has_named >= 5, "a full disk was named {has_named} times");
    wait_for("the journal is open again", MINUTE, || {
        Ok(pair.high_status()?.alarm("journal").is_none().then_some(()))
    })
    .unwrap();
    pair.high.ok(&["verify"]).unwrap();
    // Everything is known after a restart.
    pair.stop().unwrap();
    pair.high.start().unwrap();
    pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    pair.high.ok(&["verify"]).unwrap();
    pair.high.stop().unwrap();
    drop(tmpfs);
}

#[test]
fn the_senders_disk_is_full_at_every_kind_of_write() {
    let _alone = alone();
    let mut pair = pair("space-low", "0B");
    let tmpfs = match Tmpfs::over(pair.low.dir(), 96 * MIB) {
        Ok(tmpfs) => tmpfs,
        Err(skip) => return skip.announce_or_fail_in_ci("the sender on a full file system"),
    };
    pair.start().unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    files.submit(&pair, "first", MIB);
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, MINUTE).unwrap();
    let mut refused = 0;
    let mut newest = 1;
    for (turn, left) in LEFT.into_iter().enumerate() {
        let (folder, digests) = files.make(&format!("turn{turn}"), 3 * MIB);
        // Half of the turns fill up after the submission, so that the release meets it.
        let is_early = turn % 2 == 0;
        if is_early {
            tmpfs.fill(left).unwrap();
        }
        let submitted = pair.low.run(&["submit", "files", &folder]).unwrap();
        if !is_early {
            tmpfs.fill(left).unwrap();
        }
        let named =
            |text: &str| text.contains("/low/") && (text.contains("No space") || text.contains("no room"));
        if submitted.code != Some(0) {
            refused += 1;
            assert!(named(&submitted.stderr), "{submitted:?}");
        }
        let released = pair.low.run(&["release"]).unwrap();
        if submitted.code == Some(0) && released.code != Some(0) {
            refused += 1;
            assert!(named(&released.stderr), "{released:?}");
        }
        if turn % 3 == 2 {
            pair.low.kill_9().unwrap();
            if pair.low.start().is_err() {
                assert!(pair.low.log().contains("No space left"), "{}", pair.low.log());
            }
        }
        tmpfs.relieve().unwrap();
        if !pair.low.is_started() {
            pair.low.start().unwrap();
        }
        pair.low.check_alive().unwrap();
        // What was acknowledged is there; what was not is submitted again.
        if submitted.code != Some(0) {
            pair.low.ok(&["submit", "files", &folder]).unwrap();
        }
        if released.code != Some(0) {
            pair.low.ok(&["release"]).unwrap();
        } else if submitted.code != Some(0) {
            panic!("a release was cut of nothing: {released:?}");
        }
        files.expected.extend(digests);
        let number = pair.low_status().unwrap().channel("main").unwrap().newest.unwrap();
        assert!(number > newest, "release numbers rise: {number} after {newest}");
        newest = number;
        pair.wait_published(number, MINUTE).unwrap();
        pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    }
    assert!(refused >= 5, "the full disk was met {refused} times");
    pair.low.ok(&["verify"]).unwrap();
    pair.stop().unwrap();
    drop(tmpfs);
}

/// What changes goes: packs do not grow without end on either side, and what is kept is whole.
#[test]
fn releases_beyond_those_that_are_kept_give_their_room_back() {
    let _alone = alone();
    let setup = Setup { name: "retention", rounds: 1, round_gap: "100ms".to_owned(), ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(0)).unwrap();
    pair.start().unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    files.submit(&pair, "stays", 2 * MIB);
    for turn in 1..=6 {
        // The same name, other octets.
        files.submit(&pair, "changes", 4 * MIB);
        pair.low.ok(&["release", "--wait"]).unwrap();
        pair.wait_published(turn, MINUTE).unwrap();
    }
    // Two releases, and a baseline of each.
    let most = 2 * MIB + 4 * 5 * MIB;
    let small =
        |disk: &diodesync_system::status::Disk| disk.packs_bytes <= most && disk.freed_bytes >= 8 * MIB;
    wait_for("room is given back on both sides", MINUTE, || {
        let (low, high) = (pair.low_status()?, pair.high_status()?);
        Ok((small(&low.disk) && small(&high.disk)).then_some(()))
    })
    .unwrap();
    for side in [&pair.low, &pair.high] {
        let kept = std::fs::read_dir(side.dir().join("releases/main")).unwrap().count();
        assert!((2..=4).contains(&kept), "{kept} indexes are kept in {}", side.dir().display());
        side.ok(&["verify"]).unwrap();
    }
    pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    // After a restart, too, and the next release builds on what is kept.
    pair.stop().unwrap();
    pair.start().unwrap();
    files.submit(&pair, "more", MIB);
    pair.low.ok(&["release", "--wait"]).unwrap();
    pair.wait_published(7, MINUTE).unwrap();
    pair.mirror().unwrap().compare_files(&files.expected).unwrap();
    pair.high.ok(&["verify"]).unwrap();
}

/// What a changed configuration would let go is shown first, and then it goes, without a restart.
#[test]
fn gc_shows_what_goes_before_it_goes() {
    let _alone = alone();
    let setup = Setup { name: "gc", rounds: 1, round_gap: "100ms".to_owned(), ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    let path = pair.high.config().to_owned();
    let config = std::fs::read_to_string(&path).unwrap();
    let keep = |words: &str| {
        std::fs::write(&path, format!("{config}\n[[channel]]\nname = \"main\"\n{words}\n")).unwrap();
    };
    keep("keep_days = 1");
    pair.start().unwrap();
    let source = pair.dir.join("source");
    let mut files = Files::new(&source);
    files.submit(&pair, "stays", 2 * MIB);
    for turn in 1..=5 {
        files.submit(&pair, "changes", 4 * MIB);
        pair.low.ok(&["release", "--wait"]).unwrap();
        pair.wait_published(turn, MINUTE).unwrap();
    }
    let indexes = || std::fs::read_dir(pair.high.dir().join("releases/main")).unwrap().count();
    let gc = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&pair.high.ok(&[&["gc", "--json"], more].concat()).unwrap()).unwrap()
    };
    assert_eq!(indexes(), 5, "what was in use within a day is kept");
    assert_eq!(gc(&["--dry-run"])["releases"], serde_json::json!([]));

    keep("keep = 1");
    let shown = gc(&["--dry-run"]);
    let releases: Vec<u64> =
        shown["releases"].as_array().unwrap().iter().map(|release| release[1].as_u64().unwrap()).collect();
    assert!(releases.starts_with(&[1, 2, 3]), "{shown}");
    let bytes = shown["bytes"].as_u64().unwrap();
    assert!(bytes >= 3 * 4 * MIB, "{shown}");
    assert_eq!(indexes(), 5, "a dry run changes nothing");
    assert_eq!(gc(&["--dry-run"]), shown);
    let before = pair.high_status().unwrap().disk.packs_bytes;
    let said = pair.high.ok(&["gc", "--dry-run"]).unwrap();
    assert!(
        said.contains("would go main 1, main 2, main 3") && said.contains(&format!("({bytes} octets)")),
        "{said}"
    );

    let done = gc(&[]);
    assert_eq!(
        (&done["releases"], &done["kept"], &done["blocks"]),
        (&shown["releases"], &shown["kept"], &shown["blocks"])
    );
    let after = pair.high_status().unwrap().disk.packs_bytes;
    assert_eq!(before - after, done["bytes"].as_u64().unwrap());
    // Holes cost the file system a little, too.
    assert!((before - after).abs_diff(bytes) <= MIB / 4, "{shown} {done}");
    assert_eq!(indexes(), 5 - releases.len());
    pair.high.ok(&["verify"]).unwrap();
    pair.mirror().unwrap().compare_files(&files.expected).unwrap();
}
