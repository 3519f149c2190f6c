//! Several channels: an urgent one overtakes a bulk one in the middle, a newer release supersedes an unfinished one, and
//! one name is never in two of them.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// A pair whose channel `urgent` overtakes `main`, over a link that loses 2 %.
fn pair(name: &'static str, rate: &str) -> Pair {
    let setup = Setup { name, rate: rate.to_owned(), ..Setup::default() };
    let pair = Pair::over_link(&setup, Weather::lossy(7)).unwrap();
    let channel = |name: &str, priority: i64| {
        let mut table = toml::Table::new();
        table.insert("name".to_owned(), name.into());
        table.insert("priority".to_owned(), priority.into());
        table.insert("rounds".to_owned(), 4.into());
        table.insert("round_gap".to_owned(), "1s".into());
        toml::Value::Table(table)
    };
    let channels = vec![channel("main", 100), channel("urgent", 200)];
    pair.low.set(&["channel"], channels).unwrap();
    pair
}

/// Makes a file of so many octets and submits it.
fn submit(pair: &Pair, channel: &str, file: &str, octets: usize) {
    let dir = pair.dir.join("files");
    tree::write(&dir, file, &tree::octets(&mut Prng::new(octets as u64), octets), 0o644).unwrap();
    let path = dir.join(file).display().to_string();
    pair.low.ok(&["submit", "files", &path, "--channel", channel]).unwrap();
}

fn published(pair: &Pair, channel: &str) -> Option<u64> {
    pair.high_status().unwrap().channel(channel).and_then(|channel| channel.published)
}

fn wait_published(pair: &Pair, channel: &str, number: u64) {
    wait_for(&format!("release {channel} {number} is published"), 3 * MINUTE, || {
        Ok((published(pair, channel) == Some(number)).then_some(()))
    })
    .unwrap();
}

#[test]
fn what_is_withdrawn_goes_with_the_next_release_and_can_come_back() {
    let _alone = alone();
    let mut pair = pair("withdraw", "100mbit");
    pair.start().unwrap();
    for file in ["a/one", "a/two", "b/three"] {
        submit(&pair, "main", file, 1000 + file.len());
    }
    pair.low.ok(&["release"]).unwrap();
    wait_published(&pair, "main", 1);
    let listed = pair.low.ok(&["list"]).unwrap();
    assert_eq!(listed, "file one\nfile three\nfile two\n");
    let unknown = pair.low.run(&["withdraw", "file one", "file four"]).unwrap();
    assert!(unknown.code == Some(1) && unknown.stderr.contains("has no \"file four\""), "{unknown:?}");
    assert_eq!(pair.low.ok(&["list"]).unwrap(), listed, "nothing is withdrawn of what was refused");

    let said = pair.low.ok(&["withdraw", "file t*"]).unwrap();
    assert!(said.contains("withdrawn: file two") && said.contains("withdrawn: file three"), "{said}");
    // It holds over a kill, and what is submitted again is not withdrawn any more.
    pair.low.kill_9().unwrap();
    pair.low.start().unwrap();
    submit(&pair, "main", "b/three", 77);
    assert_eq!(pair.low.ok(&["list"]).unwrap(), "file one\nfile three\n");
    assert_eq!(pair.mirror().unwrap().sums().unwrap().len(), 3, "until it is released it is served");
    pair.low.ok(&["release"]).unwrap();
    wait_published(&pair, "main", 2);
    let sums = pair.mirror().unwrap().sums().unwrap();
    assert_eq!(sums.keys().map(String::as_str).collect::<Vec<_>>(), ["one", "three"]);
    let nothing = pair.low.run(&["release"]).unwrap();
    assert!(nothing.code == Some(1) && nothing.stderr.contains("nothing was submitted"), "{nothing:?}");
    // Its name is free for another channel now.
    submit(&pair, "urgent", "a/two", 1005);
    pair.low.ok(&["release", "--channel", "urgent"]).unwrap();
    wait_published(&pair, "urgent", 1);
    assert_eq!(pair.mirror().unwrap().sums().unwrap().len(), 3);
}

#[test]
fn an_urgent_channel_overtakes_a_bulk_one_which_goes_on_where_it_was() {
    let _alone = alone();
    let mut pair = pair("overtake", "40mbit");
    pair.start().unwrap();
    submit(&pair, "main", "bulk.bin", 40 << 20);
    pair.low.ok(&["release"]).unwrap();
    let held = |pair: &Pair| {
        let status = pair.high_status().unwrap();
        status.release("main", 1).map_or(0, |release| release.blocks_held)
    };
    wait_for("the bulk release is in the middle", MINUTE, || Ok((held(&pair) >= 4).then_some(()))).unwrap();
    submit(&pair, "urgent", "urgent.bin", 4 << 20);
    pair.low.ok(&["release", "--channel", "urgent"]).unwrap();
    wait_published(&pair, "urgent", 1);
    let held_then = held(&pair);
    assert!(held_then < 36, "{held_then} of 40 blocks of the bulk release were there before the urgent one");
    assert_eq!(published(&pair, "main"), None);
    wait_published(&pair, "main", 1);
    let status = pair.high_status().unwrap();
    let alarms: Vec<_> = status.alarms.iter().filter(|alarm| alarm.id != "kernel-drops").collect();
    assert!(alarms.is_empty(), "{alarms:?}");
    wait_for("both channels complete their rounds", 3 * MINUTE, || {
        let status = pair.low_status()?;
        let is_complete = |channel: &str| {
            let state = status.channel(channel).map(|channel| channel.state);
            state == Some(diodesync_system::status::SendState::Complete)
        };
        Ok((is_complete("main") && is_complete("urgent")).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_newer_release_supersedes_and_sends_what_the_old_one_had_not() {
    let _alone = alone();
    let mut pair = pair("supersede", "40mbit");
    pair.start().unwrap();
    submit(&pair, "main", "one.bin", 20 << 20);
    pair.low.ok(&["release"]).unwrap();
    wait_for("the first release is in the middle", MINUTE, || {
        Ok(pair.low_status()?.channel("main").filter(|channel| channel.sent_blocks >= 8).map(drop))
    })
    .unwrap();
    submit(&pair, "main", "two.bin", 2 << 20);
    pair.low.ok(&["release"]).unwrap();
    let channel = pair.low_status().unwrap().channel("main").unwrap().clone();
    assert_eq!((channel.newest, channel.round), (Some(2), 1));
    assert!(channel.sent_blocks >= 8, "what went out with release 1 goes again: {channel:?}");
    wait_published(&pair, "main", 2);
    // Another channel's number does not disturb it, and neither do two sends at once.
    submit(&pair, "urgent", "three.bin", 1 << 20);
    pair.low.ok(&["release", "--channel", "urgent", "--wait"]).unwrap();
    wait_published(&pair, "urgent", 1);
    assert_eq!(published(&pair, "main"), Some(2));
}

#[test]
fn one_name_is_not_in_two_channels() {
    let _alone = alone();
    let mut pair = pair("twice", "200mbit");
    pair.start().unwrap();
    submit(&pair, "main", "same.bin", 1000);
    pair.low.ok(&["release"]).unwrap();
    let path = pair.dir.join("files/same.bin").display().to_string();
    let refused = pair.low.run(&["submit", "files", &path, "--channel", "urgent"]).unwrap();
    assert_eq!(refused.code, Some(1));
    for word in ["same.bin", "main", "one name cannot be in two channels"] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
}
