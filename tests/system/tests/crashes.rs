//! Power cuts at random moments: while a submission is taken, while a release is cut, while it is sent and received,
//! while it is checked and published, and while a daemon is only just starting. At least [`CUTS_MIN`] of them, over a
//! path that loses 2 %.
//!
//! What must hold through all of them: what a command has acknowledged is there after the cut; every release is
//! published in the end and is what was submitted; what the receiver has once shown as held it holds after the cut,
//! and so no `missing` ever asks for it; no nonce seals two things.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use diodesync_system::prng::Prng;
use diodesync_system::side::{Done, Pair, Setup, Side};
use diodesync_system::tree::{self, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use rustix::process::{Pid, Signal, kill_process};

const MINUTE: Duration = Duration::from_secs(60);
/// Cuts that the test makes at least.
const CUTS_MIN: u32 = 100;
/// Cuts of one release, after which it may go on in peace.
const CUTS_OF_ONE: u32 = 14;
/// The longest time that a daemon lives between two cuts.
const LIFE_MS_MAX: usize = 700;

#[test]
fn a_hundred_power_cuts_lose_nothing() {
    let seed = std::env::var("DIODESYNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    println!("DIODESYNC_SEED={seed}");
    let setup = Setup { name: "cuts", rate: "60mbit".to_owned(), rounds: 30, ..Setup::default() };
    let pair = Pair::over_link(&setup, Weather::lossy(seed)).unwrap();
    pair.link().unwrap().record_nonces();
    let tree = pair.dir.join("tree");
    tree::make(&tree, Spec { seed, small: 60, largest: 3 << 20 }).unwrap();
    let mut storm = Storm { pair, tree, prng: Prng::new(seed), cuts: 0, acknowledged: 0 };
    storm.pair.start().unwrap();

    let mut number = 0;
    while storm.cuts < CUTS_MIN {
        number += 1;
        storm.change(number);
        storm.submit();
        storm.release(number);
        storm.cut_until_published(number);
    }

    let Storm { pair, cuts, acknowledged, .. } = &storm;
    let nonces = pair.link().unwrap().nonces();
    println!(
        "{cuts} cuts over {number} releases, {acknowledged} commands acknowledged in spite of one; {} sessions, {} nonces",
        nonces.sessions(),
        nonces.used()
    );
    assert_eq!(nonces.reused(), [""; 0], "nonces were used twice");
    assert!(nonces.sessions() > 20 && nonces.used() > 10_000, "hardly anything was recorded");
    assert!(pair.link().unwrap().counts().dropped > 0, "nothing was lost on the way");
    assert_eq!(pair.link().unwrap().counts().back, 0, "the high side sent something");
}

struct Storm {
    pair: Pair,
    tree: PathBuf,
    prng: Prng,
    cuts: u32,
    /// Commands that succeeded although their daemon was killed.
    acknowledged: u32,
}

impl Storm {
    /// Another content for some of the tree, so that each release has something to send.
    fn change(&mut self, number: u64) {
        let mut prng = Prng::new(number);
        let octets = tree::octets(&mut prng, (2 << 20) + 1000 * number as usize);
        tree::write(&self.tree, "sizes/changing.bin", &octets, 0o644).unwrap();
        tree::write(&self.tree, &format!("new/{number}.txt"), format!("{number}\n").as_bytes(), 0o644)
            .unwrap();
    }

    /// Submits until it is acknowledged; what is acknowledged is staged, whatever happened meanwhile.
    fn submit(&mut self) {
        let tree = self.tree.display().to_string();
        let staged = |storm: &Self| storm.pair.low_status().unwrap().staged();
        loop {
            let done = self.under_fire(&["submit", "files", &tree]);
            match done.code {
                Some(0) => break,
                // It may have been staged all the same: the cut came before the answer.
                _ if staged(self) > 0 => break,
                _ => assert!(done.stderr.contains("daemon") || done.stderr.contains("broke off"), "{done:?}"),
            }
        }
        assert!(staged(self) > 0, "a submission that was acknowledged is gone");
    }

    fn release(&mut self, number: u64) {
        loop {
            let done = self.under_fire(&["release"]);
            let status = self.pair.low_status().unwrap();
            let newest = status.channel("main").and_then(|channel| channel.newest);
            if done.code == Some(0) {
                assert_eq!(newest, Some(number), "a release that was acknowledged is gone");
            }
            if newest == Some(number) {
                assert_eq!(status.staged(), 0, "what was released is staged still");
                return;
            }
            assert!(newest.unwrap_or(0) < number, "release {newest:?} was never asked for");
        }
    }

    /// Runs a command of the sender, and sometimes kills the sender in the middle of it. It runs again afterwards.
    fn under_fire(&mut self, arguments: &[&str]) -> Done {
        if !self.prng.chance(0.5) {
            return self.pair.low.run(arguments).unwrap();
        }
        let life = Duration::from_millis(self.prng.below(250) as u64);
        let pid = pid_of(&self.pair.low);
        let low = &self.pair.low;
        let done = std::thread::scope(|scope| {
            let command = scope.spawn(|| low.run(arguments).unwrap());
            std::thread::sleep(life);
            kill_process(pid, Signal::KILL).unwrap();
            command.join().unwrap()
        });
        self.pair.low.kill_9().unwrap();
        self.cuts += 1;
        self.acknowledged += u32::from(done.code == Some(0));
        self.pair.low.start().unwrap();
        done
    }

    /// Kills one side, the other, or both, again and again, then lets them finish.
    fn cut_until_published(&mut self, number: u64) {
        let mut held = 0;
        for _ in 0..CUTS_OF_ONE {
            let life = Duration::from_millis(self.prng.below(LIFE_MS_MAX) as u64);
            let end = Instant::now() + life;
            while Instant::now() < end {
                held = self.held(number).unwrap_or(held).max(held);
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.is_published(number) {
                break;
            }
            let victim = self.prng.below(3);
            if victim != 0 {
                self.pair.high.kill_9().unwrap();
            }
            if victim != 1 {
                self.pair.low.kill_9().unwrap();
            }
            self.cuts += 1;
            self.restart(victim);
            // What was shown as held is held. Until everything was looked through, nothing is said of a release.
            if victim != 0 && held > 0 {
                let again =
                    wait_for("the release is known again", 2 * MINUTE, || Ok(self.held(number))).unwrap();
                assert!(again >= held, "{held} blocks were held before the cut, {again} after it");
            }
        }
        self.pair.wait_published(number, 4 * MINUTE).unwrap();
        let expected = tree::digests(&self.tree, "tree").unwrap();
        self.pair.mirror().unwrap().compare_files(&expected).unwrap();
        assert!(self.pair.high.ok(&["missing"]).unwrap().contains("nothing is missing"));
    }

    /// Starts what was killed. Now and then the power fails again before a daemon is up.
    fn restart(&mut self, victim: usize) {
        for (side, is_down) in [(&mut self.pair.high, victim != 0), (&mut self.pair.low, victim != 1)] {
            if !is_down {
                continue;
            }
            if self.prng.chance(0.3) {
                side.spawn().unwrap();
                std::thread::sleep(Duration::from_millis(self.prng.below(120) as u64));
                side.kill_9().unwrap();
                self.cuts += 1;
            }
            side.start().unwrap();
        }
    }

    /// Blocks of a release that the receiver shows as held; none while it shows no such release.
    fn held(&self, number: u64) -> Option<u64> {
        Some(self.pair.high_status().ok()?.release("main", number)?.blocks_held)
    }

    fn is_published(&self, number: u64) -> bool {
        let status = self.pair.high_status().unwrap();
        status.channel("main").and_then(|channel| channel.published) == Some(number)
    }
}

fn pid_of(side: &Side) -> Pid {
    side.pid().and_then(|pid| Pid::from_raw(pid as i32)).unwrap()
}
