//! Clocks that are wrong: the high side's is a day or ten years ahead or behind, also from one moment to the next.
//! Nothing is published while the clocks are apart, what is published stays, and a clock that is set right needs no
//! other help.
//!
//! The daemon's clock is shifted by libfaketime.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::clock::ShiftedClock;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::skip::Skip;
use diodesync_system::status::ReleaseState;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

struct Shifted {
    pair: Pair,
    clock: ShiftedClock,
}

impl Shifted {
    /// A pair whose receiver's clock is shifted.
    fn new(name: &'static str) -> Result<Self, Skip> {
        let setup = Setup { name, rounds: 100, ..Setup::default() };
        let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        let clock = ShiftedClock::new(pair.dir.join("shift"))?;
        clock.give_to(&mut pair.high);
        Ok(Self { pair, clock })
    }

    fn shift(&self, by: &str) {
        self.clock.set(by).unwrap();
    }

    fn release(&self, name: &str) {
        let file = self.pair.dir.join(name);
        std::fs::write(&file, format!("this is {name}\n")).unwrap();
        self.pair.low.ok(&["submit", "files", file.to_str().unwrap()]).unwrap();
        self.pair.low.ok(&["release"]).unwrap();
    }

    fn alarm(&self, id: &str) -> Option<String> {
        let alarms = self.pair.high_status().unwrap().alarms;
        alarms.into_iter().find(|alarm| alarm.id == id).map(|alarm| alarm.text)
    }

    fn wait_alarm(&self, id: &str) -> String {
        wait_for(&format!("the alarm {id}"), MINUTE, || Ok(self.alarm(id))).unwrap()
    }

    fn assert_still(&self, published: u64) {
        std::thread::sleep(Duration::from_secs(3));
        let status = self.pair.high_status().unwrap();
        let channel = status.channel("main").unwrap();
        assert_eq!(channel.published, Some(published), "{status:?}");
        let served = channel.releases.iter().filter(|release| release.state == ReleaseState::Published);
        assert_eq!(served.map(|release| release.number).collect::<Vec<_>>(), [published]);
    }
}

#[test]
fn a_clock_that_jumps_holds_what_comes_and_no_more() {
    let _alone = alone();
    let mut world = match Shifted::new("jumps") {
        Ok(world) => world,
        Err(skip) => return skip.announce_or_fail_in_ci("clocks that jump"),
    };
    world.pair.start().unwrap();
    world.release("one.txt");
    world.pair.wait_published(1, MINUTE).unwrap();

    for (number, by, says) in
        [(2, "+1d", "behind"), (3, "-1d", "ahead of"), (4, "+10y", "behind"), (5, "-10y", "ahead of")]
    {
        world.shift(by);
        let why = world.wait_alarm("clock-skew");
        assert!(why.contains(says) && why.contains("acknowledge-clock"), "{by}: {why}");
        world.release(&format!("{number}.txt"));
        world.assert_still(number - 1);
        world.shift("+0");
        world.pair.wait_published(number, MINUTE).unwrap();
        assert_eq!(world.alarm("clock-skew"), None);
    }
}

#[test]
fn an_operator_acknowledges_a_difference_and_it_holds_over_a_restart() {
    let _alone = alone();
    let mut world = match Shifted::new("known") {
        Ok(world) => world,
        Err(skip) => return skip.announce_or_fail_in_ci("clocks that are apart"),
    };
    world.pair.start().unwrap();
    let nothing = world.pair.high.run(&["acknowledge-clock"]).unwrap();
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    world.release("one.txt");
    world.pair.wait_published(1, MINUTE).unwrap();
    world.shift("+1d");
    world.wait_alarm("clock-skew");
    world.release("two.txt");
    world.assert_still(1);
    world.pair.high.ok(&["acknowledge-clock"]).unwrap();
    world.pair.wait_published(2, MINUTE).unwrap();
    world.wait_alarm("clock-acknowledged");

    world.pair.high.kill_9().unwrap();
    world.pair.high.start().unwrap();
    world.release("three.txt");
    world.pair.wait_published(3, MINUTE).unwrap();
    assert_eq!(world.alarm("clock-skew"), None);

    // Ten years are not what was acknowledged; by this clock all that the sender signs has expired.
    world.shift("+10y");
    world.wait_alarm("clock-skew");
    world.release("four.txt");
    world.assert_still(3);
    world.pair.high.ok(&["acknowledge-clock"]).unwrap();
    let why = world.wait_alarm("refused");
    assert!(why.contains("expired"), "{why}");
    world.assert_still(3);
    // What was refused for the time alone is judged again by itself.
    world.shift("+0");
    world.pair.wait_published(4, MINUTE).unwrap();
}
