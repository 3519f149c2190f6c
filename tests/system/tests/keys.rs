//! Keys over time, and numbers that a backup has forgotten.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diodesync::id::Sha256;
use diodesync_system::alone;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

fn pair(name: &'static str) -> Pair {
    Pair::over_link(&Setup { name, ..Setup::default() }, Weather::clear()).unwrap()
}

fn release(pair: &Pair, name: &str) {
    let file = pair.dir.join(name);
    std::fs::write(&file, format!("this is {name}\n").repeat(100_000)).unwrap();
    pair.low.ok(&["submit", "files", file.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
}

/// The version of the root that the receiver trusts.
fn trusted_root(pair: &Pair) -> u64 {
    let fact = std::fs::read_to_string(pair.high.dir().join("trust")).unwrap();
    let (_, json) = fact.split_once('\n').unwrap();
    let trust: serde_json::Value = serde_json::from_str(json).unwrap();
    let root: serde_json::Value = serde_json::from_str(trust["root"].as_str().unwrap()).unwrap();
    root["signed"]["version"].as_u64().unwrap()
}

#[test]
fn a_receiver_that_slept_through_fifty_roots_catches_up() {
    let _alone = alone();
    let mut pair = pair("roots");
    pair.start().unwrap();
    release(&pair, "one");
    pair.wait_published(1, MINUTE).unwrap();
    assert_eq!(trusted_root(&pair), 1);
    pair.high.stop().unwrap();

    // The root key lies elsewhere, as it should, and wanders on.
    let mut key = pair.low.dir().join("keys/root.key");
    for version in 2..=51 {
        let mut words = vec!["rotate-root".to_owned(), "--root-key".to_owned(), key.display().to_string()];
        if version == 2 {
            key = pair.dir.join("safe.key");
            words.extend(["--new-root-key".to_owned(), key.display().to_string()]);
        }
        if version % 10 == 0 {
            words.push("--all".to_owned());
        }
        let said = pair.low.ok(&words).unwrap();
        assert!(said.contains(&format!("root {version} is made")), "{said}");
    }
    let old = pair.low.run(&["rotate-root"]).unwrap();
    assert!(old.code == Some(1) && old.stderr.contains("--root-key"), "{old:?}");

    pair.high.start().unwrap();
    release(&pair, "two");
    pair.wait_published(2, MINUTE).unwrap();
    assert_eq!(trusted_root(&pair), 51);
    // A restart of the sender finds keys and roots together.
    pair.low.stop().unwrap();
    pair.low.start().unwrap();
    release(&pair, "three");
    pair.wait_published(3, MINUTE).unwrap();
}

#[test]
fn a_rotation_reaches_a_receiver_without_a_release() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "rotated", rounds: 1, ..Setup::default() }, Weather::clear()).unwrap();
    pair.start().unwrap();
    release(&pair, "one");
    pair.low.ok(&["release", "--full", "--wait"]).unwrap();
    pair.wait_published(2, MINUTE).unwrap();
    pair.low.ok(&["rotate-root", "--all"]).unwrap();
    wait_for("the new root is trusted", MINUTE, || Ok((trusted_root(&pair) == 2).then_some(()))).unwrap();
    assert_eq!(pair.high_status().unwrap().channel("main").unwrap().published, Some(2));
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_sender_restored_from_a_backup_goes_on_above_its_numbers() {
    let _alone = alone();
    let mut pair = pair("restore");
    pair.start().unwrap();
    release(&pair, "one");
    pair.wait_published(1, MINUTE).unwrap();
    pair.low.stop().unwrap();
    let (low, backup) = (pair.low.dir().to_owned(), pair.dir.join("backup"));
    copy(&low, &backup);
    pair.low.start().unwrap();
    for (number, name) in [(2, "two"), (3, "three")] {
        release(&pair, name);
        pair.wait_published(number, MINUTE).unwrap();
    }

    // The disk is lost; the backup is older than the high side.
    pair.low.kill_9().unwrap();
    std::fs::rename(&low, pair.dir.join("lost")).unwrap();
    copy(&backup, &low);
    pair.low.start().unwrap();
    release(&pair, "other-two");
    let refused = wait_for("the rollback is refused", MINUTE, || {
        Ok(pair.high_status()?.alarms.into_iter().find(|alarm| alarm.id == "refused"))
    })
    .unwrap();
    let at = refused.text.find("diode-sender restore --floor main=3 --versions ").expect(&refused.text);
    let line = refused.text[at..].split_once(' ').unwrap().1.to_owned();
    assert_eq!(pair.high_status().unwrap().channel("main").unwrap().published, Some(3));
    let status = pair.high.ok(&["status"]).unwrap();
    assert!(status.contains(&line), "{status}");

    let words: Vec<&str> = line.split(' ').collect();
    let running = pair.low.run(&words).unwrap();
    assert!(running.code == Some(1) && running.stderr.contains("another daemon"), "{running:?}");
    pair.low.stop().unwrap();
    pair.low.ok(&words).unwrap();
    pair.low.start().unwrap();
    release(&pair, "new");
    pair.wait_published(4, MINUTE).unwrap();
    release(&pair, "newer");
    pair.wait_published(5, MINUTE).unwrap();
    let sums = pair.mirror().unwrap().sums().unwrap();
    for name in ["one", "other-two", "new", "newer"] {
        let digest = Sha256::of(format!("this is {name}\n").repeat(100_000).as_bytes()).to_string();
        assert_eq!(sums.get(name), Some(&digest), "{sums:?}");
    }
}

#[test]
fn a_receivers_key_is_rotated_and_the_old_one_forgotten() {
    let _alone = alone();
    let mut pair = pair("receiver-key");
    pair.start().unwrap();
    release(&pair, "one");
    pair.wait_published(1, MINUTE).unwrap();
    let public = pair.high.dir().join("receiver.pub");
    let old = std::fs::read_to_string(&public).unwrap();

    pair.high.ok(&["rotate"]).unwrap();
    let new = std::fs::read_to_string(&public).unwrap();
    assert_ne!(old, new);
    pair.high.ok(&["rotate"]).unwrap();
    assert_eq!(new, std::fs::read_to_string(&public).unwrap(), "a second call goes on with the same key");
    let early = pair.high.run(&["rotate", "--finish"]).unwrap();
    assert!(early.code == Some(1) && early.stderr.contains("not sealed to the new key"), "{early:?}");
    // The sender knows of nothing yet.
    pair.high.stop().unwrap();
    pair.high.start().unwrap();
    release(&pair, "two");
    pair.wait_published(2, MINUTE).unwrap();

    pair.low.ok(&["receivers", "add", public.to_str().unwrap()]).unwrap();
    pair.low.ok(&["receivers", "remove", old.trim()]).unwrap();
    assert_eq!(pair.low.ok(&["receivers", "list"]).unwrap(), new);
    pair.low.stop().unwrap();
    pair.low.start().unwrap();
    release(&pair, "three");
    pair.wait_published(3, MINUTE).unwrap();

    pair.high.ok(&["rotate", "--finish"]).unwrap();
    let again = pair.high.run(&["rotate", "--finish"]).unwrap();
    assert!(again.code == Some(1) && again.stderr.contains("no rotation"), "{again:?}");
    pair.high.stop().unwrap();
    pair.high.start().unwrap();
    release(&pair, "four");
    pair.wait_published(4, MINUTE).unwrap();
}

/// The receiver was down from the announcement until after the end: an operator carries the key to it.
#[test]
fn a_receiver_that_missed_a_rotation_of_the_link_key_is_told_by_hand() {
    let _alone = alone();
    let mut pair = pair("link-key-missed");
    pair.start().unwrap();
    release(&pair, "one");
    pair.wait_published(1, MINUTE).unwrap();
    pair.high.stop().unwrap();
    pair.low.ok(&["rotate-link"]).unwrap();
    pair.low.ok(&["rotate-link", "--finish"]).unwrap();
    pair.low.stop().unwrap();
    pair.start().unwrap();
    let refused = wait_for("the new key is refused", MINUTE, || {
        Ok(pair.high_status()?.alarms.into_iter().find(|alarm| alarm.id == "session-refused"))
    });
    assert!(refused.unwrap().text.contains("accept-link-key"));
    let status = pair.low.ok(&["status"]).unwrap();
    let key = status.lines().find_map(|line| line.strip_prefix("link key ")).unwrap().to_owned();
    for bad in ["", "00", &key[..63], &key.to_uppercase()] {
        assert_eq!(pair.high.run(&["accept-link-key", bad]).unwrap().code, Some(1), "{bad:?}");
    }
    pair.high.ok(&["accept-link-key", &key]).unwrap();
    assert!(pair.high.ok(&["accept-link-key", &key]).unwrap().contains("known already"));
    pair.high.stop().unwrap();
    pair.high.start().unwrap();
    release(&pair, "two");
    pair.wait_published(2, MINUTE).unwrap();
}

/// How many link keys the receiver knows from the metadata.
fn link_keys(pair: &Pair) -> usize {
    let fact = std::fs::read_to_string(pair.high.dir().join("link-keys")).unwrap_or_default();
    let (_, json) = fact.split_once('\n').unwrap_or_default();
    serde_json::from_str::<Vec<String>>(json).unwrap_or_default().len()
}

#[test]
fn a_link_key_is_rotated_and_the_old_one_never_comes_back() {
    let _alone = alone();
    let mut pair = pair("link-key");
    pair.start().unwrap();
    release(&pair, "one");
    pair.wait_published(1, MINUTE).unwrap();
    let key = pair.low.dir().join("keys/link.key");
    let captured = std::fs::read(&key).unwrap();

    pair.low.ok(&["rotate-link"]).unwrap();
    wait_for("the receiver knows both keys", MINUTE, || Ok((link_keys(&pair) == 2).then_some(()))).unwrap();
    // The old key signs until the operator finishes, also over restarts of both.
    pair.high.kill_9().unwrap();
    pair.low.kill_9().unwrap();
    pair.start().unwrap();
    release(&pair, "two");
    pair.wait_published(2, MINUTE).unwrap();

    pair.low.ok(&["rotate-link", "--finish"]).unwrap();
    pair.low.stop().unwrap();
    pair.low.start().unwrap();
    release(&pair, "three");
    pair.wait_published(3, MINUTE).unwrap();

    // Who has captured the old key begins a session with it, and nobody listens: not now, not after a restart.
    let new = std::fs::read(&key).unwrap();
    pair.low.stop().unwrap();
    std::fs::write(&key, captured).unwrap();
    pair.low.start().unwrap();
    for restart in [false, true] {
        if restart {
            pair.high.kill_9().unwrap();
            pair.high.start().unwrap();
        }
        let refused = wait_for("the old key is refused", MINUTE, || {
            Ok(pair.high_status()?.alarms.into_iter().find(|alarm| alarm.id == "session-refused"))
        });
        let text = refused.unwrap().text;
        assert!(text.contains("not signed"), "{text}");
    }
    pair.low.stop().unwrap();
    std::fs::write(&key, new).unwrap();
    pair.low.start().unwrap();
    release(&pair, "four");
    pair.wait_published(4, MINUTE).unwrap();
}
