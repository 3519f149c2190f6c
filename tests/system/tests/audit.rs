//! The audit logs of both sides: who did what, in order; no entry can be changed, taken out, swapped or cut off without
//! being named; and a full disk keeps from being done what cannot be told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::bins::bins;
use diodesync_system::side::{Pair, Setup, Side};
use diodesync_system::skip::Skip;
use diodesync_system::tmpfs::Tmpfs;
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn setup(name: &'static str) -> Setup {
    Setup { name, rounds: 250, round_gap: "300ms".to_owned(), ..Setup::default() }
}

/// The log, entry by entry.
fn log(side: &Side) -> Vec<Value> {
    let text = side.ok(&["audit", "show", "--json"]).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events(log: &[Value]) -> Vec<&str> {
    log.iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

fn of<'a>(log: &'a [Value], event: &str) -> Vec<&'a Value> {
    log.iter().filter(|entry| entry["event"] == event).collect()
}

/// That some events stand in this order, others in between.
fn assert_order(log: &[Value], expected: &[&str]) {
    let mut rest = events(log).into_iter();
    for event in expected {
        assert!(rest.any(|found| found == *event), "{event} is not in its place in {:#?}", events(log));
    }
}

fn submit(pair: &Pair, content: &[u8]) {
    let tree = pair.dir.join("tree");
    tree::write(&tree, "file", content, 0o644).unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
}

fn checkpoint(side: &Side, name: &str) -> PathBuf {
    let path = side.dir().with_extension(name);
    std::fs::write(&path, side.ok(&["audit", "checkpoint"]).unwrap()).unwrap();
    path
}

#[test]
fn both_sides_tell_what_a_release_went_through_and_by_whom() {
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("audit"), Weather::clear()).unwrap();
    pair.start().unwrap();
    submit(&pair, b"one");
    // Another user of the socket's group.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        let mut release = Command::new("setpriv");
        release.args(["--reuid=1", "--regid=0", "--clear-groups"]);
        release.arg(&bins().unwrap().sender).args(["release", "--config"]).arg(pair.low.config());
        let done = release.output().unwrap();
        assert!(done.status.success(), "{done:?}");
    } else {
        pair.low.ok(&["release"]).unwrap();
    }
    pair.wait_published(1, MINUTE).unwrap();
    assert_eq!(pair.low.run(&["release"]).unwrap().code, Some(1), "there is nothing to release");
    pair.low.ok(&["resend", "--release", "1"]).unwrap();
    pair.low.ok(&["withdraw", "file tree/file"]).unwrap();
    submit(&pair, b"two");
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(2, MINUTE).unwrap();
    pair.high.ok(&["gc"]).unwrap();
    pair.high.ok(&["verify"]).unwrap();

    // Both verify while they run, against what was exported before, too.
    let (low, high) = (checkpoint(&pair.low, "checkpoint"), checkpoint(&pair.high, "checkpoint"));
    pair.stop().unwrap();
    for (side, checkpoint) in [(&pair.low, &low), (&pair.high, &high)] {
        let said = side.ok(&["audit", "verify", "--checkpoint", checkpoint.to_str().unwrap()]).unwrap();
        assert!(
            said.contains("each as it was written") && said.contains("as the checkpoint of entry"),
            "{said}"
        );
    }
    // That of the other side is none of this.
    let done = pair.low.run(&["audit", "verify", "--checkpoint", high.to_str().unwrap()]).unwrap();
    assert!(done.code == Some(1) && done.stderr.contains("another log"), "{done:?}");

    let sent = log(&pair.low);
    assert_order(
        &sent,
        &[
            "begun",
            "paired",
            "started",
            "submitted",
            "released",
            "failed",
            "resent",
            "withdrawn",
            "submitted",
            "released",
            "stopped",
        ],
    );
    let uid = rustix::process::geteuid().as_raw();
    let released = of(&sent, "released");
    let caller = &released[0]["by"]["caller"];
    assert_eq!(caller["uid"], if is_root { 1 } else { uid });
    assert!(caller["command"].as_str().unwrap().contains("diode-sender release"), "{caller}");
    assert_eq!(released[1]["by"]["caller"]["uid"], uid);
    assert_eq!(of(&sent, "paired")[0]["by"]["command"]["uid"], uid);
    assert_eq!(of(&sent, "submitted")[0]["names"], serde_json::json!(["file tree/file"]));
    let failed = of(&sent, "failed")[0];
    assert_eq!(failed["what"], "POST /v1/release");
    assert!(failed["why"].as_str().unwrap().contains("nothing was submitted"), "{failed}");

    let arrived = log(&pair.high);
    assert_order(
        &arrived,
        &[
            "begun",
            "key",
            "paired",
            "started",
            "arrived",
            "checked",
            "published",
            "serving",
            "arrived",
            "checked",
            "published",
            "served",
            "serving",
            "asked",
            "verify",
            "served",
            "stopped",
        ],
    );
    for (number, (released, published)) in (1..).zip(released.iter().zip(of(&arrived, "published"))) {
        assert_eq!((&released["number"], &published["number"]), (&number.into(), &number.into()));
        assert_eq!(released["index"], published["index"], "both name the same octets");
        assert_eq!(published["by"]["daemon"], "publish");
    }
    let served = of(&arrived, "served");
    assert_eq!(served[0]["number"], 1);
    let (from, until) = (served[0]["from_ms"].as_u64().unwrap(), served[0]["until_ms"].as_u64().unwrap());
    assert!(from < until && from >= of(&arrived, "published")[0]["time_ms"].as_u64().unwrap(), "{served:?}");
    assert_eq!(served[1]["number"], 2, "and the second until the stop");
    assert_eq!(of(&arrived, "asked")[0]["by"]["caller"]["uid"], uid);

    // For people, and since then.
    let text = pair.high.ok(&["audit", "show"]).unwrap();
    assert!(text.contains("daemon:publish  published artifacts=1 channel=main index="), "{text}");
    assert_eq!(pair.high.ok(&["audit", "show", "--since", "2999-01-01T00:00:00Z"]).unwrap(), "");
    assert_eq!(pair.high.ok(&["audit", "show", "--since", "1h"]).unwrap(), text);
    // Without the daemon there are checkpoints, too.
    assert!(pair.high.ok(&["audit", "checkpoint"]).unwrap().contains("\"side\":\"receiver\""));
}

#[test]
fn roles_of_their_own_are_told_by_the_one_that_publishes() {
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("audit-roles"), Weather::clear()).unwrap();
    pair.high.split();
    pair.start().unwrap();
    for number in 1..=2 {
        submit(&pair, &[number as u8]);
        pair.low.ok(&["release"]).unwrap();
        pair.wait_published(number, MINUTE).unwrap();
        wait_for("it is told that it is served", MINUTE, || {
            Ok(of(&log(&pair.high), "serving").iter().any(|entry| entry["number"] == number).then_some(()))
        })
        .unwrap();
    }
    // Who serves is gone, and so is what was served.
    pair.high.kill_9_role("serve").unwrap();
    wait_for("that is told", MINUTE, || {
        Ok(of(&log(&pair.high), "served").iter().any(|entry| entry["number"] == 2).then_some(()))
    })
    .unwrap();
    assert_order(
        &log(&pair.high),
        &[
            "started",
            "arrived",
            "published",
            "serving",
            "arrived",
            "published",
            "served",
            "serving",
            "served",
        ],
    );
    pair.high.ok(&["audit", "verify"]).unwrap();
}

/// The one file of a log.
fn file(side: &Side) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(side.dir().join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

fn write(path: &Path, lines: &[Vec<u8>]) {
    std::fs::write(
        path,
        lines.iter().map(|line| [line, b"\n".as_slice()].concat()).collect::<Vec<_>>().concat(),
    )
    .unwrap();
}

#[test]
fn each_entry_that_is_changed_dropped_swapped_or_cut_off_is_named() {
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("audit-tamper"), Weather::clear()).unwrap();
    pair.start().unwrap();
    for number in 1..=2 {
        submit(&pair, &[number as u8]);
        pair.low.ok(&["release"]).unwrap();
        pair.wait_published(number, MINUTE).unwrap();
    }
    pair.stop().unwrap();
    for side in [&pair.low, &pair.high] {
        let exported = checkpoint(side, "exported");
        let path = file(side);
        let text = std::fs::read(&path).unwrap();
        let good: Vec<Vec<u8>> =
            text.strip_suffix(b"\n").unwrap().split(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect();
        assert!(good.len() >= 8, "{} entries", good.len());
        // Who changes the log changes what lies beside it.
        let own = side.dir().join("audit/checkpoint");
        std::fs::remove_file(&own).unwrap();
        let refused = |lines: &[Vec<u8>], seq: usize, how: &str| {
            write(&path, lines);
            let words = ["audit", "verify", "--checkpoint", exported.to_str().unwrap()];
            let done = side.run(&words).unwrap();
            assert_eq!(done.code, Some(1), "entry {seq} is {how} and nothing is said");
            let named = [format!("error: entry {seq} "), format!("error: entries {seq} to")];
            assert!(named.iter().any(|name| done.stderr.contains(name)), "{how} {seq}: {}", done.stderr);
        };
        for (at, line) in good.iter().enumerate() {
            let seq = at + 1;
            // Its number, its time, who, what, and what binds it.
            for octet in [8, 20, line.len() / 3, line.len() / 2, line.len() - 3] {
                let mut bad = good.clone();
                bad[at][octet] ^= 1;
                refused(&bad, seq, "changed");
            }
            let mut bad = good.clone();
            bad.remove(at);
            refused(&bad, seq, "dropped");
            if at + 1 < good.len() {
                let mut bad = good.clone();
                bad.swap(at, at + 1);
                refused(&bad, seq, "swapped");
            }
            refused(&good[..at], seq, "cut off");
        }
        // In the middle of the last.
        let mut torn = text.clone();
        torn.truncate(text.len() - 10);
        std::fs::write(&path, torn).unwrap();
        let done = side.run(&["audit", "verify"]).unwrap();
        assert!(
            done.code == Some(1) && done.stderr.contains(&format!("entry {} is cut off", good.len())),
            "{done:?}"
        );
        write(&path, &good);
        side.ok(&["audit", "verify", "--checkpoint", exported.to_str().unwrap()]).unwrap();
        // With nothing exported, the log's own checkpoint finds the same.
        std::fs::copy(&exported, &own).unwrap();
        write(&path, &good[..good.len() - 2]);
    }
    // A daemon that starts on such a log says so, and does its work.
    pair.start().unwrap();
    for (alarm, side) in [
        (pair.low_status().unwrap().alarms.iter().find(|alarm| alarm.id == "audit").cloned(), &pair.low),
        (pair.high_status().unwrap().alarms.iter().find(|alarm| alarm.id == "audit").cloned(), &pair.high),
    ] {
        let text = alarm.expect("an alarm of the audit log").text;
        assert!(text.contains("are missing: the log ends with entry"), "{text}");
        assert_eq!(of(&log(side), "broken").len(), 1);
    }
    submit(&pair, b"three");
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(3, MINUTE).unwrap();
}

/// Fills the disk, and has something done that needs nothing but an entry until the last page is full, too; how often it
/// was done.
fn fill_up(side: &Side, tmpfs: &Tmpfs) -> usize {
    tmpfs.fill(0).unwrap();
    for done in 0..100 {
        let verified = side.run(&["verify"]).unwrap();
        if verified.code != Some(0) {
            for word in ["the audit log takes no entry", "is not done", "/audit/", "No space left"] {
                assert!(verified.stderr.contains(word), "{word} is not in {}", verified.stderr);
            }
            return done;
        }
    }
    panic!("a full disk takes entries without end");
}

#[test]
fn what_a_full_disk_keeps_from_being_told_is_not_done_and_is_done_later() {
    let _alone = alone();
    if !rustix::process::geteuid().is_root() {
        return Skip::curable("mounting a small file system needs root")
            .announce_or_fail_in_ci("the audit log on a full disk");
    }
    let mut pair = Pair::over_link(&setup("audit-space"), Weather::lossy(1)).unwrap();
    for side in [&pair.low, &pair.high] {
        side.set(&["space", "reserve"], "0B").unwrap();
    }
    let mounts = [&pair.low, &pair.high].map(|side| Tmpfs::over(side.dir(), 64 * MIB));
    let [low, high] =
        mounts.map(|mount| mount.map_err(|skip| skip.announce_or_fail_in_ci("the audit log on a full disk")));
    let (Ok(low), Ok(high)) = (low, high) else { return };
    pair.start().unwrap();
    submit(&pair, b"one");
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, MINUTE).unwrap();

    // The low side: nothing is done, each refusal says why, and an alarm does.
    let verified = fill_up(&pair.low, &low);
    let status = pair.low_status().unwrap();
    let alarm = status.alarms.iter().find(|alarm| alarm.id == "audit").expect("an alarm");
    assert!(alarm.text.contains("No space left") && alarm.text.contains("by itself"), "{}", alarm.text);
    let done = pair.low.run(&["resend", "--release", "1"]).unwrap();
    assert!(done.code == Some(1) && done.stderr.contains("audit log"), "{done:?}");
    low.relieve().unwrap();
    pair.low.ok(&["resend", "--release", "1"]).unwrap();
    let told = log(&pair.low);
    assert_eq!(of(&told, "verify").len(), verified, "what was acknowledged was told, and nothing else");
    assert_eq!(of(&told, "resent").len(), 1);
    // What was refused meanwhile is told now.
    let refused: Vec<&Value> = of(&told, "failed");
    assert!(refused.iter().any(|entry| entry["what"] == "POST /v1/resend"), "{refused:?}");
    assert!(pair.low_status().unwrap().alarms.iter().all(|alarm| alarm.id != "audit"));

    // The high side: a release comes and is not published before it can be told.
    let verified = fill_up(&pair.high, &high);
    submit(&pair, b"two");
    pair.low.ok(&["release"]).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let status = pair.high_status().unwrap();
    assert_eq!(status.channel("main").unwrap().published, Some(1), "what cannot be told is not published");
    assert!(status.alarms.iter().any(|alarm| alarm.id == "audit"), "{:?}", status.alarms);
    high.relieve().unwrap();
    pair.wait_published(2, MINUTE).unwrap();
    let told = log(&pair.high);
    assert_order(&told, &["published", "arrived", "checked", "published", "served", "serving"]);
    assert_eq!(of(&told, "verify").len(), verified);
    assert_eq!(of(&told, "published").len(), 2);
    for side in [&pair.low, &pair.high] {
        let exported = checkpoint(side, "exported");
        side.ok(&["audit", "verify", "--checkpoint", exported.to_str().unwrap()]).unwrap();
    }
    // Killed in the middle of anything, both are as they were told to be.
    pair.low.kill_9().unwrap();
    pair.high.kill_9().unwrap();
    for side in [&pair.low, &pair.high] {
        side.ok(&["audit", "verify"]).unwrap();
    }
    drop((low, high));
}
