//! Several lanes at once: blocks are striped over them, one dies in the middle, paths are crossed, the hour holds one
//! back; and a sender that writes the wire version before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diodesync_system::alone;
use diodesync_system::clock::ShiftedClock;
use diodesync_system::netns::{Family, Gap};
use diodesync_system::prng::Prng;
use diodesync_system::side::{LANE_PORT, Pair, Setup};
use diodesync_system::status::ReceiverStatus;
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// Makes a file and releases it.
fn release(pair: &Pair, file: &str, octets: usize) {
    let dir = pair.dir.join("files");
    tree::write(&dir, file, &tree::octets(&mut Prng::new(octets as u64), octets), 0o644).unwrap();
    pair.low.ok(&["submit", "files", dir.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
}

fn wait_held(pair: &Pair, number: u64, blocks: u64) -> ReceiverStatus {
    wait_for("some blocks are held", MINUTE, || {
        let status = pair.high_status()?;
        let held = status.release("main", number).map_or(0, |release| release.blocks_held);
        // What a lane counts is told four times a second.
        let is_seen = status.lanes.iter().all(|lane| lane.received > 1000);
        Ok((held >= blocks && is_seen).then_some(status))
    })
    .unwrap()
}

fn compare(pair: &Pair) {
    let expected = tree::digests(&pair.dir.join("files"), "files").unwrap();
    pair.mirror().unwrap().compare_files(&expected).unwrap();
}

/// The cable of one of two lanes is cut where no side can see it; the blocks that were on it come over the other.
#[test]
fn a_lane_that_is_silently_cut_costs_a_round() {
    let _alone = alone();
    let setup = Setup {
        name: "lanes-cut",
        rate: "30mbit".to_owned(),
        round_gap: "200ms".to_owned(),
        ..Setup::default()
    };
    let mut pair = Pair::over_link(&setup, Weather::lossy(3)).unwrap();
    pair.add_link("lane1", Ipv6Addr::LOCALHOST.into(), Weather::lossy(4)).unwrap();
    pair.link().unwrap().record_nonces();
    pair.more[0].record_nonces();
    pair.start().unwrap();
    release(&pair, "bulk", 32 << 20);
    let status = wait_held(&pair, 1, 8);
    assert_eq!(status.lanes.len(), 2);
    for lane in &status.lanes {
        assert!(lane.session.is_some(), "{lane:?}");
        assert_eq!(lane.wire_version, Some(2));
    }
    assert_ne!(status.lanes[0].session, status.lanes[1].session, "each lane has a session of its own");
    pair.more[0].cut(true);
    let alarm = wait_for("the alarm", MINUTE, || Ok(pair.high_status()?.alarm("silence").cloned())).unwrap();
    assert!(alarm.text.contains("lane1"), "{alarm:?}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    compare(&pair);
    pair.more[0].cut(false);
    wait_for("the alarm is over", MINUTE, || {
        Ok(pair.high_status()?.alarm("silence").is_none().then_some(()))
    })
    .unwrap();
    for link in [pair.link().unwrap(), &pair.more[0]] {
        assert_eq!(link.nonces().reused(), [""; 0]);
        assert_eq!(link.counts().back, 0);
    }
}

/// The carrier of one lane is gone: the sender sees it, and its blocks go over the other one within the round.
#[test]
fn a_lane_whose_cable_is_pulled_gives_its_blocks_to_the_other() {
    let _alone = alone();
    let gap = match Gap::open(Family::V4, 0.0) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci("two lanes between network namespaces"),
    };
    let second = gap.add_path(Family::V6).unwrap();
    let setup = Setup { name: "lanes-down", rate: "40mbit".to_owned(), rounds: 1, ..Setup::default() };
    let mut pair = Pair::over_gap(&setup, gap).unwrap();
    let address = SocketAddr::new(second.high_ip(), LANE_PORT);
    pair.add_lane("lane1", address, address).unwrap();
    pair.start().unwrap();
    release(&pair, "bulk", 32 << 20);
    wait_held(&pair, 1, 6);
    pair.gap().unwrap().take_down(&second).unwrap();
    pair.wait_published(1, 2 * MINUTE).unwrap();
    compare(&pair);
    let alarms = pair.low_status().unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.text.contains("lane1")), "{alarms:?}");

    pair.gap().unwrap().connect(&second).unwrap();
    wait_for("the lane is back", MINUTE, || Ok(pair.low_status()?.alarms.is_empty().then_some(()))).unwrap();
    let before = pair.high_status().unwrap().lanes[1].received;
    release(&pair, "more", 12 << 20);
    let status = pair.wait_published(2, 2 * MINUTE).unwrap();
    assert!(status.lanes[1].received > before + 1000, "{status:#?}");
    compare(&pair);
    assert_eq!(pair.gap().unwrap().back_arrivals().unwrap(), 0, "something reached the low side");
}

/// Small datagrams pass and full-size ones do not: nothing can come, and it is said why.
#[test]
fn a_path_that_swallows_large_datagrams_is_named() {
    let _alone = alone();
    let gap = match Gap::open(Family::V4, 0.0) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci("a path with a small MTU"),
    };
    let mut pair = Pair::over_gap(&Setup { name: "black-hole", ..Setup::default() }, gap).unwrap();
    pair.start().unwrap();
    release(&pair, "first", 1 << 20);
    pair.wait_published(1, MINUTE).unwrap();
    assert!(pair.high_status().unwrap().alarm("mtu").is_none());
    pair.gap().unwrap().lose_longer_than(1200).unwrap();
    let alarm = wait_for("the alarm", MINUTE, || Ok(pair.high_status()?.alarm("mtu").cloned())).unwrap();
    assert!(alarm.text.contains("lane0") && alarm.text.contains("mtu"), "{alarm:?}");
    pair.gap().unwrap().set_loss(0.0).unwrap();
    wait_for("the alarm is over", MINUTE, || Ok(pair.high_status()?.alarm("mtu").is_none().then_some(())))
        .unwrap();
}

#[test]
fn crossed_paths_are_named_and_nothing_of_them_is_taken() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "lanes-crossed", ..Setup::default() }, Weather::clear()).unwrap();
    pair.add_link("lane1", IpAddr::V4(Ipv4Addr::LOCALHOST), Weather::clear()).unwrap();
    // The first of the file is meant.
    pair.high.set(&["lane", "name"], "lane1").unwrap();
    let text = std::fs::read_to_string(pair.high.config()).unwrap();
    let mut root: toml::Table = text.parse().unwrap();
    root["lane"].as_array_mut().unwrap()[1]["name"] = "lane0".into();
    std::fs::write(pair.high.config(), toml::to_string(&root).unwrap()).unwrap();
    pair.start().unwrap();
    let status = wait_for("the alarms", MINUTE, || {
        let status = pair.high_status()?;
        let refused = status.alarms.iter().filter(|alarm| alarm.id == "session-refused").count();
        Ok((refused == 2).then_some(status))
    })
    .unwrap();
    for alarm in status.alarms.iter().filter(|alarm| alarm.id == "session-refused") {
        assert!(alarm.text.contains("lane0") && alarm.text.contains("lane1"), "{alarm:?}");
        assert!(alarm.text.contains("crossed"), "{alarm:?}");
    }
    assert!(status.lanes.iter().all(|lane| lane.session.is_none()), "{status:#?}");
}

/// The receiver is upgraded first, so it reads what a sender of the version before writes.
#[test]
fn a_sender_of_the_wire_version_before_is_understood() {
    let _alone = alone();
    let mut pair = Pair::over_link(&Setup { name: "wire-1", ..Setup::default() }, Weather::lossy(5)).unwrap();
    pair.low.set(&["lane", "wire_version"], 1).unwrap();
    pair.start().unwrap();
    release(&pair, "old", 3 << 20);
    let status = pair.wait_published(1, 2 * MINUTE).unwrap();
    assert_eq!(status.lanes[0].wire_version, Some(1));
    compare(&pair);
    // The sender is upgraded, too.
    pair.low.stop().unwrap();
    pair.low.unset(&["lane", "wire_version"]).unwrap();
    pair.low.start().unwrap();
    release(&pair, "new", 3 << 20);
    pair.wait_published(2, 2 * MINUTE).unwrap();
    wait_for("the version is shown", MINUTE, || {
        Ok((pair.high_status()?.lanes[0].wire_version == Some(2)).then_some(()))
    })
    .unwrap();
    compare(&pair);
}

/// `HH:MM` so many minutes from now, UTC.
fn minute(from_now: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 / 60;
    let minute = (now + from_now).rem_euclid(24 * 60);
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

#[test]
fn a_rate_window_holds_data_back_until_its_end() {
    let _alone = alone();
    let mut pair = Pair::over_link(&Setup { name: "window", ..Setup::default() }, Weather::clear()).unwrap();
    let mut window = toml::Table::new();
    window.insert("rate".to_owned(), "off".into());
    window.insert("from".to_owned(), minute(-60).into());
    window.insert("to".to_owned(), minute(3).into());
    pair.low.set(&["lane", "rate_windows"], vec![toml::Value::Table(window)]).unwrap();
    let clock = match ShiftedClock::new(pair.dir.join("shift")) {
        Ok(clock) => clock,
        Err(skip) => return skip.announce_or_fail_in_ci("a rate window"),
    };
    clock.give_to(&mut pair.low);
    pair.start().unwrap();
    release(&pair, "held-back", 3 << 20);
    std::thread::sleep(Duration::from_secs(12));
    assert!(pair.low_status().unwrap().lanes[0].is_paused);
    let status = pair.high_status().unwrap();
    assert!(status.release("main", 1).is_none(), "{status:#?}");
    assert!(status.lanes[0].session.is_some() && status.alarm("silence").is_none(), "{status:#?}");
    // Four minutes later, by the sender's clock; the receiver takes five.
    clock.set("+240").unwrap();
    pair.wait_published(1, 2 * MINUTE).unwrap();
    assert!(!pair.low_status().unwrap().lanes[0].is_paused);
    compare(&pair);
}
