//! Removable media as they come: split in any number of volumes, mixed, old, hostile, full, and pulled out in the middle.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync::volume::PARITY_SLOT_BYTES;
use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Done, Pair, Setup, Side};
use diodesync_system::tmpfs::Tmpfs;
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use rustix::process::{Pid, Signal, kill_process};

const MINUTE: Duration = Duration::from_secs(60);

/// A pair whose cable is out: everything goes by hand.
struct Carried {
    pair: Pair,
    number: u64,
}

impl Carried {
    fn new(name: &'static str) -> Self {
        let setup = Setup { name, rounds: 1, ..Setup::default() };
        let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        pair.link().unwrap().cut(true);
        pair.start().unwrap();
        Self { pair, number: 0 }
    }

    /// Releases a tree in which one file has other octets.
    fn release(&mut self, octets: usize) {
        self.number += 1;
        let tree = self.pair.dir.join("tree");
        let content = tree::octets(&mut Prng::new(self.number), octets);
        tree::write(&tree, "bulk", &content, 0o644).unwrap();
        tree::write(&tree, "number", self.number.to_string().as_bytes(), 0o644).unwrap();
        self.pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
        self.pair.low.ok(&["release"]).unwrap();
    }

    /// A folder that stands for a medium.
    fn medium(&self, name: &str) -> PathBuf {
        let medium = self.pair.dir.join(name);
        let _ = std::fs::remove_dir_all(&medium);
        std::fs::create_dir_all(&medium).unwrap();
        medium
    }

    fn export(&self, to: &Path, more: &[&str]) -> Vec<PathBuf> {
        self.pair.low.ok(&[&["export", "--to", to.to_str().unwrap()], more].concat()).unwrap();
        entries(to)
    }

    fn import(&self, medium: &Path) -> Done {
        self.pair.high.run(&["import", medium.to_str().unwrap()]).unwrap()
    }

    fn published(&self) -> Option<u64> {
        self.pair.high_status().unwrap().channel("main").and_then(|channel| channel.published)
    }

    fn wait_published(&mut self) {
        self.pair.wait_published(self.number, MINUTE).unwrap();
        let expected = tree::digests(&self.pair.dir.join("tree"), "tree").unwrap();
        self.pair.mirror().unwrap().compare_files(&expected).unwrap();
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn pid(side: &Side) -> Pid {
    side.pid().and_then(|pid| Pid::from_raw(pid as i32)).unwrap()
}

/// Each number of volumes from 1 to 40; they come on two media, in any order, and the release is published.
#[test]
fn every_split_from_1_to_40_volumes() {
    let _alone = alone();
    let mut carried = Carried::new("splits");
    let mut prng = Prng::new(40);
    // Two slots, and what a volume has besides.
    let size = ((1 << 20) + (1 << 14) + 2 * PARITY_SLOT_BYTES).to_string() + "B";
    let mut seen = BTreeSet::new();
    let mut octets = 1000;
    while seen.len() < 40 {
        carried.release(octets);
        octets += 60_000;
        let media = carried.medium("media");
        let since = (carried.number - 1).to_string();
        let mut words = vec!["--parity", "10%"];
        // One volume is what is written if no size is given.
        if carried.number > 1 {
            words.extend(["--volume-size", size.as_str()]);
        }
        if carried.number > 1 {
            words.extend(["--since", since.as_str()]);
        }
        let mut volumes = carried.export(&media, &words);
        let count = volumes.len();
        assert!(count <= 41, "{count} volumes");
        if !seen.insert(count) {
            // This split was had; what it brings is brought all the same.
            assert_eq!(carried.import(&media).code, Some(0));
            carried.wait_published();
            continue;
        }
        let halves = [carried.medium("first"), carried.medium("second")];
        while !volumes.is_empty() {
            let volume = volumes.swap_remove(prng.below(volumes.len()));
            let half = &halves[prng.below(2)];
            std::fs::rename(&volume, half.join(volume.file_name().unwrap())).unwrap();
        }
        let halves: Vec<&PathBuf> = halves.iter().filter(|half| !entries(half).is_empty()).collect();
        let codes: Vec<_> = halves.iter().map(|half| carried.import(half)).collect();
        assert_eq!(codes.last().unwrap().code, Some(0), "{count} volumes: {codes:?}");
        carried.wait_published();
    }
    assert!((1..=40).all(|count| seen.contains(&count)), "{seen:?}");
    println!("{} releases over 1 to {} volumes", carried.number, seen.last().unwrap());
}

#[test]
fn volumes_of_two_releases_mixed_and_those_of_an_older_one() {
    let _alone = alone();
    let mut carried = Carried::new("mixed");
    carried.release(1 << 20);
    let (old, new) = (carried.medium("old"), carried.medium("new"));
    carried.export(&old, &["--volume-size", "1.2MB"]);
    carried.release(1 << 20);
    carried.export(&new, &["--volume-size", "1.2MB"]);
    // One volume of each on one medium, the rest on another; both releases are whole then, and the newer counts.
    let (first, second) = (carried.medium("first"), carried.medium("second"));
    for volumes in [entries(&old), entries(&new)] {
        assert!(volumes.len() >= 2);
        for (at, volume) in volumes.iter().enumerate() {
            let to = if at == 0 { &first } else { &second };
            copy(volume, &to.join(volume.file_name().unwrap()));
        }
    }
    assert_eq!(carried.import(&first).code, Some(1));
    assert_eq!(carried.import(&second).code, Some(0));
    carried.wait_published();
    // The old one alone changes nothing: its blocks are known, its metadata is older than what was seen.
    let done = carried.import(&old);
    assert_eq!(done.code, Some(0), "{done:?}");
    wait_for("it is said that it is older", MINUTE, || {
        Ok(carried.pair.high.log().contains("was accepted before").then_some(()))
    })
    .unwrap();
    assert_eq!(carried.published(), Some(2));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in entries(from) {
        std::fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
    }
}

/// A receiver that was rebuilt with its keys alone comes up from one export, or from one full release.
#[test]
fn a_rebuilt_receiver_comes_up_from_one_export_or_one_full_release() {
    let _alone = alone();
    let mut carried = Carried::new("rebuilt");
    carried.pair.link().unwrap().cut(false);
    let is_heard = |carried: &Carried| {
        wait_for("the session is known", MINUTE, || {
            Ok(carried.pair.high_status()?.lanes[0].session.map(drop))
        })
        .unwrap();
    };
    is_heard(&carried);
    for octets in [2 << 20, 1 << 20] {
        carried.release(octets);
        carried.wait_published();
    }
    let media = carried.medium("media");
    for by_wire in [false, true] {
        carried.pair.high.stop().unwrap();
        for entry in entries(carried.pair.high.dir()) {
            let is_kept = ["keys", "tls", "pairing", "receiver.pub", "receiver.toml", "ca.pem", "server.pem"];
            if is_kept.iter().any(|kept| entry.ends_with(kept)) {
                continue;
            }
            match entry.is_dir() {
                true => std::fs::remove_dir_all(&entry).unwrap(),
                false => std::fs::remove_file(&entry).unwrap(),
            }
        }
        carried.pair.high.start().unwrap();
        if by_wire {
            carried.number += 1;
            is_heard(&carried);
            carried.pair.low.ok(&["release", "--full"]).unwrap();
        } else {
            carried.export(&media, &["--full"]);
            assert_eq!(carried.import(&media).code, Some(0));
        }
        carried.wait_published();
        assert_eq!(carried.pair.high.ok(&["missing"]).unwrap(), "nothing is missing\n");
    }
}

/// What somebody else has put on the medium is passed over, and what is good is taken.
#[test]
fn a_hostile_medium() {
    let _alone = alone();
    let mut carried = Carried::new("hostile");
    carried.release(3 << 20);
    let medium = carried.medium("medium");
    let volumes = carried.export(&medium, &["--volume-size", "1.2MB", "--parity", "30%"]);
    let volume = &volumes[0];
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let export = &name(volume)[.."diodesync-".len() + 16];
    let secret = carried.pair.high.dir().join("keys/receiver.key");
    let link = |target: &Path, at: PathBuf| std::os::unix::fs::symlink(target, at).unwrap();
    // Links in the place of a volume and of its files, to secrets and to themselves.
    link(Path::new("/etc"), medium.join(format!("{export}-900")));
    link(&medium.join(format!("{export}-901")), medium.join(format!("{export}-901")));
    let odd = medium.join(format!("{export}-902"));
    std::fs::create_dir(&odd).unwrap();
    link(&secret, odd.join("manifest"));
    link(&secret, odd.join("0.slots"));
    link(Path::new("/dev/zero"), odd.join("1.slots"));
    for fifo in [odd.join("2.slots"), medium.join(format!("{export}-903"))] {
        assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    }
    let device = Command::new("mknod").arg(odd.join("3.slots")).args(["c", "1", "5"]).output().unwrap();
    println!("a device node: {}", if device.status.success() { "made" } else { "not allowed here" });
    // A folder where a file should be, deep paths, names that are none.
    std::fs::create_dir_all(odd.join("4.slots")).unwrap();
    std::fs::create_dir_all(odd.join("a/".repeat(120))).unwrap();
    for bad in ["18446744073709551616.slots", "-1.slots", "\u{1b}[2J.slots", "x\ny.slots", "4294967295.slots"]
    {
        std::fs::write(odd.join(bad), b"x").unwrap();
    }
    for bad in ["diodesync-..-001", "diodesync-0000000000000000-1", "diodesync-\u{7}-001"] {
        std::fs::create_dir(medium.join(bad)).unwrap();
    }
    std::fs::write(medium.join(format!("{export}-904")), b"a file").unwrap();
    // A volume twice, one that was cut off, one under another's name.
    copy(volume, &medium.join(format!("{export}-905")));
    copy(volume, &medium.join(format!("{export}-906")));
    for file in entries(&medium.join(format!("{export}-906"))) {
        let octets = std::fs::read(&file).unwrap();
        std::fs::write(&file, &octets[..octets.len() / 2]).unwrap();
    }
    let done = carried.import(&medium);
    assert_eq!(done.code, Some(0), "{done:?}");
    let said = done.stdout + &done.stderr;
    assert!(said.contains("-900: it is passed over") && said.contains("-903: it is passed over"), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
    carried.wait_published();
}

/// The stick is too small, the receiver's disk is full: it is said, and the same command goes on when there is room.
#[test]
fn no_space_on_the_stick_and_none_on_the_receiver() {
    let _alone = alone();
    let mut carried = Carried::new("no-room");
    carried.release(6 << 20);
    let small = carried.medium("small");
    let stick = match Tmpfs::over(&small, 4 << 20) {
        Ok(stick) => stick,
        Err(skip) => return skip.announce_or_fail_in_ci("media without room"),
    };
    let words = ["export", "--to", small.to_str().unwrap(), "--volume-size", "2.5MB"];
    let media = carried.medium("media");
    // Each stick takes one volume; what is on it is carried off.
    let mut sticks = 0;
    loop {
        let done = carried.pair.low.run(&words).unwrap();
        for volume in entries(&small).iter().filter(|volume| volume.join("complete").exists()) {
            copy(volume, &media.join(volume.file_name().unwrap()));
        }
        if done.code == Some(0) {
            break;
        }
        assert!(done.stderr.contains("put the next medium in"), "{done:?}");
        sticks += 1;
        assert!(sticks < 10, "{done:?}");
        for volume in entries(&small) {
            // What is not complete stays, so that the export is recognised, as on a second stick it would be.
            if volume.join("complete").exists() {
                for file in entries(&volume).iter().filter(|path| path.extension().is_some()) {
                    std::fs::remove_file(file).unwrap();
                }
            }
        }
    }
    assert!(sticks >= 2 && entries(&media).len() >= 3, "{sticks} sticks");
    drop(stick);

    carried.pair.high.stop().unwrap();
    carried.pair.high.set(&["space", "reserve"], "1MB").unwrap();
    let high = carried.pair.high.dir().to_owned();
    let disk = Tmpfs::over(&high, 40 << 20).unwrap();
    carried.pair.high.start().unwrap();
    disk.fill(3 << 20).unwrap();
    let done = carried.import(&media);
    assert_eq!(done.code, Some(1), "{done:?}");
    let said = done.stdout + &done.stderr;
    assert!(
        said.contains("the file system of") && said.contains("high/packs"),
        "it does not name the file system: {said}"
    );
    assert_eq!(carried.published(), None);
    disk.relieve().unwrap();
    let done = carried.import(&media);
    assert_eq!(done.code, Some(0), "{done:?}");
    carried.wait_published();
    carried.pair.high.stop().unwrap();
    drop(disk);
}

/// kill -9 of the daemon, or of the command, in the middle of writing and of reading, until at least so many.
#[test]
fn kills_at_random_moments_cost_time_only() {
    const KILLS: u32 = 30;
    let _alone = alone();
    let seed = std::env::var("DIODESYNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    println!("DIODESYNC_SEED={seed}");
    let mut prng = Prng::new(seed);
    let mut carried = Carried::new("media-kills");
    let mut kills = [0, 0];
    while kills.iter().any(|kills| *kills < KILLS) {
        carried.release(8 << 20);
        let media = carried.medium("media");
        let to = media.to_str().unwrap().to_owned();
        let since = (carried.number - 1).to_string();
        let mut words = vec!["export", "--to", &to, "--volume-size", "2.5MB"];
        if carried.number > 1 {
            words.extend(["--since", &since]);
        }
        kills[0] += storm(&mut carried.pair.low, &words, &mut prng);
        kills[1] += storm(&mut carried.pair.high, &["import", &to], &mut prng);
        carried.wait_published();
    }
    println!("{} kills of exports, {} of imports, over {} releases", kills[0], kills[1], carried.number);
}

/// Runs a command until it succeeds, and kills it or its daemon up to ten times.
fn storm(side: &mut Side, words: &[&str], prng: &mut Prng) -> u32 {
    for kills in 0..10 {
        let life = Duration::from_millis(prng.below(120) as u64);
        if prng.chance(0.5) {
            let mut command = side.spawn_command(words).unwrap();
            std::thread::sleep(life);
            let ended = command.try_wait().unwrap();
            let _ = command.kill();
            if command.wait().unwrap().success() && ended.is_some() {
                return kills;
            }
            continue;
        }
        let victim = pid(side);
        let done = std::thread::scope(|scope| {
            let command = scope.spawn(|| side.run(words).unwrap());
            std::thread::sleep(life);
            kill_process(victim, Signal::KILL).unwrap();
            command.join().unwrap()
        });
        side.kill_9().unwrap();
        side.start().unwrap();
        if done.code == Some(0) {
            return kills + 1;
        }
    }
    side.ok(words).unwrap();
    10
}

/// A third of the time nothing comes through: rounds alone bring a release.
#[test]
fn a_link_that_is_down_for_a_third_of_the_time() {
    let _alone = alone();
    let setup = Setup {
        name: "thirds",
        rate: "60mbit".to_owned(),
        rounds: 8,
        round_gap: "200ms".to_owned(),
        ..Setup::default()
    };
    let mut pair = Pair::over_link(&setup, Weather::lossy(9)).unwrap();
    pair.start().unwrap();
    let tree = pair.dir.join("tree");
    tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(1), 20 << 20), 0o644).unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    let mut downs = 0;
    wait_for("it is published", 2 * MINUTE, || {
        pair.link().unwrap().cut(true);
        std::thread::sleep(Duration::from_millis(300));
        pair.link().unwrap().cut(false);
        std::thread::sleep(Duration::from_millis(600));
        downs += 1;
        let published = pair.high_status()?.channel("main").and_then(|channel| channel.published);
        Ok((published == Some(1)).then_some(()))
    })
    .unwrap();
    let sent = pair.low_status().unwrap();
    assert!(downs >= 3 && sent.channel("main").unwrap().round >= 2, "{downs} times down: {sent:#?}");
    pair.mirror().unwrap().compare_files(&tree::digests(&tree, "tree").unwrap()).unwrap();
}
