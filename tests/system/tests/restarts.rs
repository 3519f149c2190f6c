//! Power cuts: either daemon is killed with SIGKILL in the middle of a release, started again, and goes on by itself.
//! What was verified before stays verified.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::status::{ReleaseState, SendState};
use diodesync_system::tree::{self, Digests, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// A pair slow enough to be interrupted: about 20 MiB take 4 s.
struct Slow {
    pair: Pair,
    expected: Digests,
}

impl Slow {
    fn new(name: &'static str, rounds: u32) -> Self {
        let setup = Setup { name, rate: "40mbit".to_owned(), rounds, ..Setup::default() };
        let pair = Pair::over_link(&setup, Weather::lossy(5)).unwrap();
        let tree = pair.dir.join("tree");
        tree::make(&tree, Spec { small: 40, largest: 12 << 20, ..Spec::default() }).unwrap();
        let expected = tree::digests(&tree, "tree").unwrap();
        Self { pair, expected }
    }

    /// Submits the tree and starts its release, without waiting.
    fn release(&self) {
        let tree = self.pair.dir.join("tree");
        self.pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
        self.pair.low.ok(&["release"]).unwrap();
    }

    /// Blocks of release 1 that the receiver holds; `None` while it does not know the release.
    fn held(&self) -> Option<u64> {
        Some(self.pair.high_status().unwrap().release("main", 1)?.blocks_held)
    }

    fn wait_held(&self, blocks: u64) -> u64 {
        wait_for(&format!("{blocks} blocks are held"), MINUTE, || {
            Ok(self.held().filter(|held| *held >= blocks))
        })
        .unwrap()
    }

    /// The release is published, and is what was submitted.
    fn finish(&mut self) {
        self.pair.wait_published(1, 2 * MINUTE).unwrap();
        self.pair.mirror().unwrap().compare_files(&self.expected).unwrap();
        assert_eq!(self.pair.link().unwrap().counts().back, 0, "the high side sent something");
    }
}

#[test]
fn a_killed_receiver_goes_on_with_what_it_had() {
    let _alone = alone();
    let mut slow = Slow::new("kill-high", 4);
    slow.pair.start().unwrap();
    slow.release();
    for blocks in [2, 7, 12] {
        let before = slow.wait_held(blocks);
        slow.pair.high.kill_9().unwrap();
        slow.pair.high.start().unwrap();
        let after = wait_for("the release is known again", MINUTE, || Ok(slow.held())).unwrap();
        assert!(after >= before, "{before} blocks were held before the kill, {after} after it");
    }
    slow.finish();
}

#[test]
fn a_killed_sender_goes_on_by_itself() {
    let _alone = alone();
    let mut slow = Slow::new("kill-low", 3);
    slow.pair.start().unwrap();
    slow.release();
    let mut sessions = Vec::new();
    for blocks in [2, 7, 12] {
        slow.wait_held(blocks);
        sessions.push(slow.pair.low_status().unwrap().lanes[0].session.unwrap());
        slow.pair.low.kill_9().unwrap();
        slow.pair.low.start().unwrap();
    }
    assert!(sessions.is_sorted_by(|one, two| one < two), "session numbers must rise: {sessions:?}");
    slow.finish();
    wait_for("the sender completes its rounds", 2 * MINUTE, || {
        let status = slow.pair.low_status()?;
        let channel = status.channel("main").filter(|channel| channel.state == SendState::Complete);
        Ok(channel.map(|channel| assert_eq!(channel.newest, Some(1))))
    })
    .unwrap();
}

#[test]
fn both_killed_at_once_go_on() {
    let _alone = alone();
    let mut slow = Slow::new("kill-both", 4);
    slow.pair.start().unwrap();
    slow.release();
    let before = slow.wait_held(5);
    slow.pair.high.kill_9().unwrap();
    slow.pair.low.kill_9().unwrap();
    slow.pair.start().unwrap();
    let after = wait_for("the release is known again", MINUTE, || Ok(slow.held())).unwrap();
    assert!(after >= before, "{before} blocks were held before the kill, {after} after it");
    slow.finish();
}

#[test]
fn a_receiver_that_starts_late_joins_in() {
    let _alone = alone();
    let mut slow = Slow::new("late", 4);
    slow.pair.low.start().unwrap();
    slow.release();
    wait_for("the sender is in the middle", MINUTE, || {
        Ok(slow.pair.low_status()?.channel("main").filter(|channel| channel.sent_blocks >= 5).map(drop))
    })
    .unwrap();
    slow.pair.high.start().unwrap();
    slow.finish();
}

#[test]
fn what_is_published_is_served_again_without_a_sender() {
    let _alone = alone();
    let mut slow = Slow::new("again", 2);
    slow.pair.low.set(&["lane", "rate"], "200mbit").unwrap();
    slow.pair.start().unwrap();
    slow.release();
    slow.finish();
    slow.pair.low.kill_9().unwrap();
    slow.pair.high.kill_9().unwrap();
    slow.pair.high.start().unwrap();
    slow.finish();
}

#[test]
fn daemons_end_when_they_are_asked_to() {
    let _alone = alone();
    let mut slow = Slow::new("term", 2);
    slow.pair.start().unwrap();
    slow.release();
    slow.wait_held(1);
    assert_eq!(slow.pair.low.stop().unwrap(), Some(0));
    assert_eq!(slow.pair.high.stop().unwrap(), Some(0));
    slow.pair.start().unwrap();
    slow.finish();
}

/// The cable is out for a while in the only round: what is missing then is named, and the next release brings it.
#[test]
fn what_is_missing_after_the_last_round_is_named() {
    let _alone = alone();
    let mut slow = Slow::new("missing", 1);
    slow.pair.start().unwrap();
    slow.release();
    slow.wait_held(4);
    slow.pair.link().unwrap().cut(true);
    std::thread::sleep(Duration::from_millis(1500));
    slow.pair.link().unwrap().cut(false);
    let incomplete = wait_for("the release is incomplete", MINUTE, || {
        let status = slow.pair.high_status()?;
        Ok(status.release("main", 1).filter(|release| release.state == ReleaseState::Incomplete).cloned())
    })
    .unwrap();
    let lacking = incomplete.blocks_needed - incomplete.blocks_held;
    assert!(lacking > 0 && incomplete.blocks_held > 0, "{incomplete:?}");
    assert!(incomplete.reason.is_some_and(|reason| !reason.is_empty()), "an incomplete release says why");
    let missing = slow.pair.high.ok(&["missing"]).unwrap();
    assert!(
        missing.contains(&lacking.to_string()),
        "{lacking} blocks are missing, and `missing` says:\n{missing}"
    );
    assert_eq!(slow.pair.high_status().unwrap().channel("main").unwrap().published, None);

    slow.pair.low.ok(&["release", "--full"]).unwrap();
    slow.pair.wait_published(2, 2 * MINUTE).unwrap();
    slow.pair.mirror().unwrap().compare_files(&slow.expected).unwrap();
}

/// Changes one octet in each of these blocks of the only pack of a side, where its file reaches so far.
fn garble(packs: &std::path::Path, blocks: std::ops::Range<u64>) {
    use std::os::unix::fs::FileExt;
    let packs: Vec<_> = std::fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(packs.len(), 1, "{packs:?}");
    let pack = std::fs::File::options().read(true).write(true).open(&packs[0]).unwrap();
    for at in blocks.map(|block| (block << 20) + 5000) {
        let mut octet = [0];
        if pack.read_exact_at(&mut octet, at).is_ok() {
            pack.write_all_at(&[octet[0] ^ 1], at).unwrap();
        }
    }
}

#[test]
fn what_the_disk_changed_before_publication_comes_again() {
    let _alone = alone();
    let mut slow = Slow::new("garbled-high", 4);
    slow.pair.start().unwrap();
    slow.release();
    slow.wait_held(7);
    slow.pair.high.kill_9().unwrap();
    garble(&slow.pair.high.dir().join("packs"), 0..4);
    slow.pair.high.start().unwrap();
    slow.finish();
    assert!(slow.pair.high.log().contains("the disk has changed it"), "nothing says so");
}

#[test]
fn what_the_disk_changed_before_it_was_sent_is_not_sent() {
    let _alone = alone();
    let mut slow = Slow::new("garbled-low", 2);
    slow.pair.low.set(&["lane", "rate"], "200mbit").unwrap();
    slow.pair.low.start().unwrap();
    slow.pair.low.ok(&["submit", "files", slow.pair.dir.join("tree").to_str().unwrap()]).unwrap();
    slow.pair.low.kill_9().unwrap();
    let packs = slow.pair.low.dir().join("packs");
    garble(&packs, 3..5);
    slow.pair.start().unwrap();
    slow.pair.low.ok(&["release"]).unwrap();
    wait_for("the receiver says what lacks", 2 * MINUTE, || {
        let status = slow.pair.high_status()?;
        Ok(status.release("main", 1).filter(|release| release.state == ReleaseState::Incomplete).map(
            |release| {
                assert_eq!(release.blocks_needed - release.blocks_held, 2);
            },
        ))
    })
    .unwrap();
    let low = slow.pair.low_status().unwrap();
    assert!(low.alarms.iter().any(|alarm| alarm.id == "packs-unreadable"), "{:?}", low.alarms);
    assert!(slow.pair.low.log().contains("does not hold what was submitted: block 3"));
    // What is known to be damaged is not released again; submitted again it is.
    let refused = slow.pair.low.run(&["release", "--full"]).unwrap();
    assert!(refused.code == Some(1) && refused.stderr.contains("submit it again"), "{refused:?}");
    slow.pair.low.ok(&["submit", "files", slow.pair.dir.join("tree").to_str().unwrap()]).unwrap();
    slow.pair.low.ok(&["release"]).unwrap();
    slow.pair.wait_published(2, 2 * MINUTE).unwrap();
    slow.pair.mirror().unwrap().compare_files(&slow.expected).unwrap();
}
