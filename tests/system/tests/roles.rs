//! The receiver's three roles in three processes: the main job, and kill -9 or a stop of each of them at random moments. What a
//! role that is gone did not do, it does when it is there again; the others go on meanwhile.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, ROLES, Setup};
use diodesync_system::tree::{self, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
/// Kills that the storm makes at least; the daemons as wholes are killed in `crashes.rs`.
const KILLS_MIN: u32 = 60;
/// Kills of one release, after which it may go on in peace.
const KILLS_OF_ONE: u32 = 12;
/// The longest time between two kills.
const LIFE_MS_MAX: usize = 700;

fn split(setup: &Setup, weather: Weather) -> Pair {
    let mut pair = Pair::over_link(setup, weather).unwrap();
    pair.high.split();
    pair
}

fn release(pair: &Pair) {
    pair.low.ok(&["submit", "files", pair.dir.join("tree").to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
}

fn compare(pair: &Pair) {
    let expected = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    pair.mirror().unwrap().compare_files(&expected).unwrap();
}

#[test]
fn each_role_does_its_part_while_another_is_gone() {
    let _alone = alone();
    let setup = Setup { name: "roles", rate: "60mbit".to_owned(), rounds: 10, ..Setup::default() };
    let mut pair = split(&setup, Weather::clear());
    let tree = pair.dir.join("tree");
    tree::make(&tree, Spec { small: 30, largest: 4 << 20, ..Spec::default() }).unwrap();
    pair.start().unwrap();
    release(&pair);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    compare(&pair);
    let old = tree::digests(&tree, "tree").unwrap();

    // No publisher: what is published is served, and what comes is kept until there is one.
    tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(1), 6 << 20), 0o644).unwrap();
    pair.high.kill_9_role("publish").unwrap();
    release(&pair);
    wait_for("the sender's first round is over", MINUTE, || {
        let status = pair.low_status()?;
        Ok(status
            .channel("main")
            .filter(|main| main.round > 1 || main.sent_blocks >= main.total_blocks)
            .map(drop))
    })
    .unwrap();
    pair.mirror().unwrap().compare_files(&old).unwrap();
    // Nothing more comes: what the publisher finds came while it was gone.
    pair.link().unwrap().cut(true);
    pair.high.spawn_role("publish").unwrap();
    pair.high.wait_ready().unwrap();
    pair.wait_published(2, 2 * MINUTE).unwrap();
    compare(&pair);
    pair.link().unwrap().cut(false);

    // Nobody receives: an alarm says so, and the next round brings what was missed.
    pair.high.kill_9_role("lane").unwrap();
    wait_for("the alarm", MINUTE, || Ok(pair.high_status()?.alarm("lane-role").map(drop))).unwrap();
    tree::write(&tree, "more", &tree::octets(&mut Prng::new(2), 3 << 20), 0o644).unwrap();
    release(&pair);
    std::thread::sleep(Duration::from_millis(300));
    pair.high.spawn_role("lane").unwrap();
    pair.high.wait_ready().unwrap();
    pair.wait_published(3, 2 * MINUTE).unwrap();
    compare(&pair);

    // Nobody serves: releases are published, and served when somebody does.
    pair.high.kill_9_role("serve").unwrap();
    tree::write(&tree, "last", b"last\n", 0o644).unwrap();
    release(&pair);
    pair.wait_published(4, 2 * MINUTE).unwrap();
    wait_for("the alarm", MINUTE, || Ok(pair.high_status()?.alarm("serve-role").map(drop))).unwrap();
    pair.high.spawn_role("serve").unwrap();
    pair.high.wait_ready().unwrap();
    compare(&pair);

    // A second of any role is refused.
    for role in ROLES {
        let done = pair.high.run(&["run", "--role", role]).unwrap();
        assert!(done.code == Some(1) && done.stderr.contains("another daemon"), "{done:?}");
    }
    assert_eq!(pair.high.stop().unwrap(), Some(0));
    // The state is the same in one process.
    assert!(pair.high.command(&["run", "--role", "judge"]).unwrap().code == Some(2));
}

#[test]
fn kills_and_stops_of_any_role_lose_nothing() {
    let _alone = alone();
    let seed = std::env::var("DIODESYNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    println!("DIODESYNC_SEED={seed}");
    let setup = Setup { name: "role-kills", rate: "60mbit".to_owned(), rounds: 30, ..Setup::default() };
    let mut pair = split(&setup, Weather::lossy(seed));
    let tree = pair.dir.join("tree");
    tree::make(&tree, Spec { seed, small: 60, largest: 3 << 20 }).unwrap();
    pair.start().unwrap();
    let mut prng = Prng::new(seed);
    let (mut kills, mut stops, mut number) = ([0; ROLES.len()], [0; ROLES.len()], 0);
    while kills.iter().sum::<u32>() < KILLS_MIN || kills.contains(&0) || stops.contains(&0) {
        number += 1;
        let octets = tree::octets(&mut Prng::new(number), (2 << 20) + 1000 * number as usize);
        tree::write(&tree, "sizes/changing.bin", &octets, 0o644).unwrap();
        release(&pair);
        let mut held = 0;
        for _ in 0..KILLS_OF_ONE {
            std::thread::sleep(Duration::from_millis(prng.below(LIFE_MS_MAX) as u64));
            let status = pair.high_status().unwrap();
            if status.channel("main").and_then(|channel| channel.published) == Some(number) {
                break;
            }
            held = held.max(status.release("main", number).map_or(0, |release| release.blocks_held));
            let victim = prng.below(ROLES.len());
            if prng.chance(0.25) {
                assert_eq!(pair.high.stop_role(ROLES[victim]).unwrap(), Some(0), "{}", ROLES[victim]);
                stops[victim] += 1;
            } else {
                pair.high.kill_9_role(ROLES[victim]).unwrap();
                kills[victim] += 1;
            }
            std::thread::sleep(Duration::from_millis(prng.below(LIFE_MS_MAX / 2) as u64));
            pair.high.spawn_role(ROLES[victim]).unwrap();
            pair.high.wait_ready().unwrap();
            // What was shown as held is held. Until everything was looked through, nothing is said of a release.
            if held > 0 {
                let again = wait_for("the release is known again", 2 * MINUTE, || {
                    Ok(pair.high_status()?.release("main", number).map(|release| release.blocks_held))
                })
                .unwrap();
                assert!(again >= held, "{held} blocks were held before the kill, {again} after it");
            }
        }
        pair.wait_published(number, 4 * MINUTE).unwrap();
        wait_for("it is served", MINUTE, || {
            // One that was killed may not listen again yet.
            let answer = pair.mirror()?.https.get_ok("/files/tree/sizes/changing.bin");
            Ok(answer.is_ok_and(|answer| answer.body == octets).then_some(()))
        })
        .unwrap();
        compare(&pair);
        assert!(pair.high.ok(&["missing"]).unwrap().contains("nothing is missing"));
    }
    println!("kills of {ROLES:?}: {kills:?}, stops: {stops:?}, over {number} releases");
    assert!(pair.link().unwrap().counts().dropped > 0, "nothing was lost on the way");
    assert_eq!(pair.link().unwrap().counts().back, 0, "the high side sent something");
    pair.high.ok(&["verify"]).unwrap();
}
