//! Damage: octets that a disk changed, files that were cut, facts and journals that are garbled or gone. What is wrong is
//! found, named and never served or sent; what cannot be guessed stops the daemon; the rest mends itself.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup, Side};
use diodesync_system::status::ReleaseState;
use diodesync_system::tree::{self, Digests};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const BLOCK: u64 = diodesync::limits::BLOCK_BYTES as u64;

/// Two releases of three large files and a small one, published.
struct Published {
    pair: Pair,
    expected: Digests,
}

impl Published {
    fn new(name: &'static str) -> Self {
        let setup = Setup { name, rounds: 1, round_gap: "100ms".to_owned(), ..Setup::default() };
        let mut pair = Pair::over_link(&setup, Weather::lossy(1)).unwrap();
        let tree = pair.dir.join("tree");
        let mut prng = Prng::new(4);
        tree::write(&tree, "one", &tree::octets(&mut prng, 2 << 20), 0o644).unwrap();
        pair.start().unwrap();
        let mut published = Self { pair, expected: Digests::new() };
        published.release(1);
        for file in ["two", "three"] {
            tree::write(&tree, file, &tree::octets(&mut prng, 3 << 20), 0o644).unwrap();
        }
        tree::write(&tree, "small", b"small\n", 0o644).unwrap();
        published.release(2);
        published
    }

    fn submit(&self) {
        let tree = self.pair.dir.join("tree");
        self.pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    }

    fn release(&mut self, number: u64) {
        self.submit();
        self.pair.low.ok(&["release", "--wait"]).unwrap();
        self.expected = tree::digests(&self.pair.dir.join("tree"), "tree").unwrap();
        self.finish(number);
    }

    fn finish(&mut self, number: u64) {
        self.pair.wait_published(number, 2 * MINUTE).unwrap();
        self.pair.mirror().unwrap().compare_files(&self.expected).unwrap();
    }
}

/// Where the content of a file lies in a side's packs: the pack and the octet.
fn find(side: &Side, content: &[u8]) -> (PathBuf, u64) {
    let head = &content[..content.len().min(64)];
    for entry in fs::read_dir(side.dir().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let octets = fs::read(&path).unwrap();
        if let Some(at) = octets.windows(head.len()).position(|window| window == head) {
            return (path, at as u64);
        }
    }
    panic!("it is in no pack of {}", side.dir().display());
}

/// Changes one bit in the middle of a file's content, as a disk does.
fn rot(side: &Side, content: &[u8]) -> (PathBuf, u64) {
    let (path, start) = find(side, content);
    let at = start + content.len() as u64 / 2;
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, at).unwrap();
    file.write_all_at(&[octet[0] ^ 4], at).unwrap();
    (path, at / BLOCK)
}

#[test]
fn what_the_receivers_disk_garbled_is_named_not_served_and_comes_again() {
    let _alone = alone();
    let mut published = Published::new("damage-high");
    let clean = published.pair.high.ok(&["verify"]).unwrap();
    assert!(clean.contains("nothing is damaged"), "{clean}");
    let two = fs::read(published.pair.dir.join("tree/two")).unwrap();
    let (path, block) = rot(&published.pair.high, &two);
    let done = published.pair.high.run(&["verify", "--json"]).unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let damaged = report["damaged_blocks"].as_array().unwrap();
    assert_eq!(damaged.len(), 1, "{report:#}");
    assert_eq!(damaged[0]["path"].as_str().unwrap(), path.to_str().unwrap());
    assert_eq!((damaged[0]["first"].as_u64(), damaged[0]["last"].as_u64()), (Some(block), Some(block)));
    assert!(damaged[0]["artifacts"].to_string().contains("tree/two"), "{report:#}");
    let text = published.pair.high.run(&["verify"]).unwrap();
    assert!(text.code == Some(1) && text.stdout.contains("release --full"), "{text:?}");

    let is_damaged = |published: &Published| {
        wait_for("the release is damaged", MINUTE, || {
            let status = published.pair.high_status()?;
            let damaged = status.release("main", 2).filter(|release| release.state == ReleaseState::Damaged);
            assert!(damaged.is_none() || status.alarm("damaged").is_some(), "no alarm: {status:#?}");
            Ok(damaged.map(drop))
        })
        .unwrap();
        let missing = published.pair.high.ok(&["missing"]).unwrap();
        assert!(missing.contains(&format!("/{block}")) && missing.contains("tree/two"), "{missing}");
        let mut mirror = published.pair.mirror().unwrap();
        assert_eq!(mirror.https.get("/files/tree/two").unwrap().status, 503);
        assert_eq!(mirror.https.get_ok("/files/tree/small").unwrap().body, b"small\n");
    };
    is_damaged(&published);
    // It is not forgotten, even with the journal gone.
    published.pair.high.kill_9().unwrap();
    fs::remove_dir_all(published.pair.high.dir().join("journal")).unwrap();
    published.pair.high.start().unwrap();
    is_damaged(&published);
    // There is one round, and nothing of it is understood before the session is known again.
    wait_for("the session is known again", MINUTE, || {
        Ok(published.pair.high_status()?.lanes[0].session.map(drop))
    })
    .unwrap();
    published.pair.low.ok(&["release", "--full"]).unwrap();
    published.finish(3);
    wait_for("everything is mended", MINUTE, || {
        Ok(published.pair.high_status()?.alarm("damaged").is_none().then_some(()))
    })
    .unwrap();
    published.pair.high.ok(&["verify"]).unwrap();
    assert_eq!(published.pair.high.ok(&["missing"]).unwrap(), "nothing is missing\n");
}

#[test]
fn a_pack_that_was_cut_is_noticed_at_the_start() {
    let _alone = alone();
    let mut published = Published::new("damage-cut");
    let three = fs::read(published.pair.dir.join("tree/three")).unwrap();
    published.pair.stop().unwrap();
    let (path, at) = find(&published.pair.high, &three);
    fs::File::options().write(true).open(&path).unwrap().set_len(at + 70_000).unwrap();
    published.pair.high.start().unwrap();
    let status = wait_for("the release is damaged", MINUTE, || {
        let status = published.pair.high_status()?;
        let is_it = status.release("main", 2).is_some_and(|release| release.state == ReleaseState::Damaged);
        Ok(is_it.then_some(status))
    })
    .unwrap();
    assert!(status.alarm("damaged").is_some());
    assert!(published.pair.high.log().contains("files were cut"), "the log does not say so");
    assert_eq!(published.pair.mirror().unwrap().https.get("/files/tree/three").unwrap().status, 503);
    // The sender's, too.
    let (path, at) = find(&published.pair.low, &three);
    fs::File::options().write(true).open(&path).unwrap().set_len(at + 70_000).unwrap();
    published.pair.low.start().unwrap();
    let alarm = published.pair.low_status().unwrap().alarm("packs-damaged").cloned().unwrap();
    assert!(alarm.text.contains("main: file tree/"), "{alarm:?}");
    let named = published.pair.low.run(&["verify"]).unwrap();
    assert!(named.code == Some(1) && named.stdout.contains("tree/three"), "{named:?}");
    let refused = published.pair.low.run(&["release", "--full"]).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("submit it again"), "{refused:?}");
    published.submit();
    published.pair.low.ok(&["release"]).unwrap();
    published.finish(3);
}

#[test]
fn what_the_senders_disk_garbled_is_not_sent_and_can_be_submitted_again() {
    let _alone = alone();
    let mut published = Published::new("damage-low");
    let tree = published.pair.dir.join("tree");
    let fresh = tree::octets(&mut Prng::new(77), 3 << 20);
    tree::write(&tree, "fresh", &fresh, 0o644).unwrap();
    published.submit();
    let (path, _) = rot(&published.pair.low, &fresh);
    published.pair.low.ok(&["release"]).unwrap();
    let alarm = wait_for("the damage is found when it is sent", MINUTE, || {
        Ok(published.pair.low_status()?.alarm("packs-damaged").cloned())
    })
    .unwrap();
    assert!(alarm.text.contains("tree/fresh") && alarm.text.contains("submit"), "{alarm:?}");
    assert!(published.pair.low.log().contains(path.to_str().unwrap()), "the log does not name the pack");
    wait_for("the receiver lacks one block", MINUTE, || {
        let status = published.pair.high_status()?;
        let release = status.release("main", 3).filter(|release| release.state == ReleaseState::Incomplete);
        Ok(release.map(|release| assert_eq!(release.blocks_held + 1, release.blocks_needed)))
    })
    .unwrap();
    assert!(published.pair.high_status().unwrap().alarm("refused").is_none());
    let done = published.pair.low.run(&["verify"]).unwrap();
    assert!(done.code == Some(1) && done.stdout.contains("tree/fresh"), "{done:?}");
    // It is not forgotten.
    published.pair.low.kill_9().unwrap();
    published.pair.low.start().unwrap();
    assert!(published.pair.low_status().unwrap().alarm("packs-damaged").is_some());
    published.submit();
    assert!(published.pair.low_status().unwrap().alarm("packs-damaged").is_none());
    published.pair.low.ok(&["release"]).unwrap();
    published.expected = tree::digests(&tree, "tree").unwrap();
    published.finish(4);
}

/// The fact files of a folder.
fn facts(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        // Bulk data, the journal, and what waits and comes again if it is garbled.
        if ["packs", "journal", "partial", "inbox", "floor", "imported", "serve"]
            .contains(&name.to_str().unwrap())
        {
            continue;
        }
        if path.is_dir() {
            found.extend(facts(&path));
        } else if fs::read(&path).is_ok_and(|content| content.starts_with(b"diodesync-fact 1 ")) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_garbled_fact_stops_with_its_name_and_is_never_guessed() {
    let _alone = alone();
    let mut published = Published::new("facts");
    // Something is staged, and something is damaged, so that there are facts of every kind.
    let tree = published.pair.dir.join("tree");
    let rotten = tree::octets(&mut Prng::new(78), 1 << 20);
    tree::write(&tree, "rotten", &rotten, 0o644).unwrap();
    published.submit();
    rot(&published.pair.low, &rotten);
    let two = fs::read(tree.join("two")).unwrap();
    rot(&published.pair.high, &two);
    for side in [&published.pair.low, &published.pair.high] {
        assert_eq!(side.run(&["verify"]).unwrap().code, Some(1));
    }
    std::thread::sleep(Duration::from_secs(2));
    published.pair.stop().unwrap();
    let Pair { low, high, .. } = &mut published.pair;
    for (side, least) in [(low, 10), (high, 8)] {
        let facts = facts(side.dir());
        assert!(facts.len() >= least, "{} fact files: {facts:?}", facts.len());
        for path in facts.iter().filter(|path| !path.ends_with("root.key")) {
            let good = fs::read(path).unwrap();
            let mut flipped = good.clone();
            *flipped.last_mut().unwrap() ^= 1;
            for (lie, bad) in [("flipped", &flipped[..]), ("cut", &good[..good.len() - 1]), ("empty", &[])] {
                fs::write(path, bad).unwrap();
                let name = path.to_str().unwrap();
                match side.start() {
                    // An older release is not needed to start, and `verify` looks at it.
                    Ok(()) => {
                        assert!(name.ends_with(".index"), "{name}, {lie}, was taken");
                        let done = side.run(&["verify"]).unwrap();
                        assert!(
                            done.code == Some(1) && done.stdout.contains(name),
                            "{name}, {lie}: {done:?}"
                        );
                        side.stop().unwrap();
                    }
                    Err(_) => {
                        // One line for each of its processes at least, if it is split.
                        let log = side.log();
                        let mut last = log.lines().rev().take(12);
                        let is_said = last.any(|line| line.contains(name) && line.contains("damaged"));
                        assert!(is_said, "{name}, {lie}: {log}");
                    }
                }
            }
            fs::write(path, &good).unwrap();
        }
        side.start().unwrap();
        side.stop().unwrap();
    }
}

#[test]
fn a_journal_that_is_gone_or_garbled_is_rebuilt_and_nothing_is_needed_again() {
    let _alone = alone();
    let setup = Setup { name: "journals", rate: "40mbit".to_owned(), rounds: 4, ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(2)).unwrap();
    let tree = pair.dir.join("tree");
    tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(5), 20 << 20), 0o644).unwrap();
    pair.start().unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    let held = |pair: &Pair| Ok(pair.high_status()?.release("main", 1).map(|release| release.blocks_held));
    let lies: [Lie; 3] = [
        ("gone", |journal| fs::remove_dir_all(journal).unwrap()),
        ("garbled", |journal| {
            change_files(journal, |octets| octets.iter_mut().for_each(|octet| *octet ^= 0x5a))
        }),
        ("cut", |journal| change_files(journal, |octets| octets.truncate(octets.len() / 3))),
    ];
    for (at, (lie, spoil)) in lies.into_iter().enumerate() {
        wait_for("some blocks are held", MINUTE, || {
            Ok(held(&pair)?.filter(|held| *held >= 3 * (at as u64 + 1)))
        })
        .unwrap();
        // Nothing more comes, so that what is there afterwards was there before.
        pair.link().unwrap().cut(true);
        std::thread::sleep(Duration::from_millis(1500));
        let before = held(&pair).unwrap().unwrap();
        pair.high.kill_9().unwrap();
        pair.low.kill_9().unwrap();
        spoil(&pair.high.dir().join("journal"));
        spoil(&pair.low.dir().join("journal"));
        pair.high.start().unwrap();
        let after = wait_for("the release is known again", MINUTE, || held(&pair)).unwrap();
        assert_eq!(after, before, "the journal was {lie}");
        pair.low.start().unwrap();
        pair.link().unwrap().cut(false);
    }
    let log = pair.high.log();
    assert!(log.contains("the journal was damaged and is rebuilt"), "{log}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    pair.mirror().unwrap().compare_files(&tree::digests(&tree, "tree").unwrap()).unwrap();
    assert_eq!(pair.high.ok(&["missing"]).unwrap(), "nothing is missing\n");
}

/// What was done to a folder, and how.
type Lie = (&'static str, fn(&Path));

fn change_files(dir: &Path, change: impl Fn(&mut Vec<u8>)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let mut octets = fs::read(&path).unwrap();
            change(&mut octets);
            fs::write(&path, octets).unwrap();
        }
    }
}
