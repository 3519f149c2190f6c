//! Releases on removable media, with real daemons: the cable is out, or was out for half of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diodesync::volume::DATA_SLOT_BYTES;
use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::tree::{self, Digests, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// A pair, something released, and folders that stand for media.
struct Carried {
    pair: Pair,
    expected: Digests,
}

impl Carried {
    /// About 9 MiB are released into a cable that is out.
    fn new(name: &'static str) -> Self {
        Self::at(name, &Setup::default().rate)
    }

    /// With a cable that carries so much.
    fn at(name: &'static str, rate: &str) -> Self {
        let setup = Setup { name, rate: rate.to_owned(), rounds: 1, ..Setup::default() };
        let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        pair.link().unwrap().cut(true);
        let tree = pair.dir.join("tree");
        tree::make(&tree, Spec { small: 30, largest: 4 << 20, ..Spec::default() }).unwrap();
        let expected = tree::digests(&tree, "tree").unwrap();
        pair.start().unwrap();
        pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
        pair.low.ok(&["release"]).unwrap();
        Self { pair, expected }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.pair.dir.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Exports onto volumes; their folders in order.
    fn export(&self, arguments: &[&str]) -> Vec<PathBuf> {
        let to = self.folder("media");
        let words = [&["export", "--to", to.to_str().unwrap()], arguments].concat();
        self.pair.low.ok(&words).unwrap();
        volumes(&to)
    }

    /// Imports one volume from a medium of its own; exit code and output.
    fn import(&self, volume: &Path) -> (Option<i32>, String) {
        let medium = self.folder(&format!("medium-{}", volume.file_name().unwrap().display()));
        let at = medium.join(volume.file_name().unwrap());
        if !at.exists() {
            copy(volume, &at);
        }
        let done = self.pair.high.run(&["import", medium.to_str().unwrap()]).unwrap();
        (done.code, done.stdout + &done.stderr)
    }

    fn check(&mut self) {
        self.pair.wait_published(1, 2 * MINUTE).unwrap();
        self.pair.mirror().unwrap().compare_files(&self.expected).unwrap();
        let left = std::fs::read_dir(self.pair.high.dir().join("import")).unwrap().count();
        assert_eq!(left, 0, "an import that is done leaves nothing behind");
    }

    fn is_published(&self) -> bool {
        self.pair.high_status().unwrap().channel("main").is_some_and(|channel| channel.published.is_some())
    }
}

fn volumes(folder: &Path) -> Vec<PathBuf> {
    let mut volumes: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    volumes.sort();
    volumes
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn slot_files(volume: &Path) -> Vec<PathBuf> {
    let mut files = volumes(volume);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slots"));
    files
}

#[test]
fn one_volume_brings_a_release() {
    let _alone = alone();
    let mut carried = Carried::new("volume-one");
    let volumes = carried.export(&[]);
    assert_eq!(volumes.len(), 1);
    assert!(volumes[0].join("complete").exists());
    let (code, said) = carried.import(&volumes[0]);
    assert_eq!(code, Some(0), "{said}");
    carried.check();
    let again = carried.import(&volumes[0]);
    assert_eq!(again.0, Some(0), "{}", again.1);
    carried.check();
    assert_eq!(std::fs::read_dir(carried.pair.low.dir().join("exports")).unwrap().count(), 0);
}

#[test]
fn volumes_come_in_any_order_and_one_may_be_lost() {
    let _alone = alone();
    let mut carried = Carried::new("volume-many");
    let mut volumes = carried.export(&["--volume-size", "2.5MB", "--parity", "15%"]);
    assert!(volumes.len() >= 6, "{volumes:?}");
    Prng::new(7).shuffle(&mut volumes);
    let lost = volumes.pop().unwrap();
    let last = volumes.pop().unwrap();
    for volume in &volumes {
        let (code, said) = carried.import(volume);
        assert_eq!(code, Some(1), "it is whole too early: {said}");
        assert!(said.contains("pieces are missing") && said.contains("not whole yet"), "{said}");
    }
    assert!(!carried.is_published());
    let (code, said) = carried.import(&last);
    assert_eq!(code, Some(0), "{} is lost and was to be repaired: {said}", lost.display());
    carried.check();
}

#[test]
fn beyond_parity_what_is_missing_is_named_and_still_counts() {
    let _alone = alone();
    let mut carried = Carried::new("volume-beyond");
    let volumes = carried.export(&["--volume-size", "2.5MB", "--parity", "10%"]);
    for volume in &volumes[2..] {
        assert_eq!(carried.import(volume).0, Some(1));
    }
    // The daemon's memory is not needed.
    carried.pair.high.kill_9().unwrap();
    carried.pair.high.start().unwrap();
    let (code, said) = carried.import(&volumes[0]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("volume 002: "), "{said}");
    assert!(!carried.is_published());
    assert_eq!(carried.import(&volumes[1]).0, Some(0));
    carried.check();
}

#[test]
fn rotten_sectors_are_repaired() {
    let _alone = alone();
    let mut carried = Carried::new("volume-rot");
    let volumes = carried.export(&["--parity", "20%"]);
    let mut prng = Prng::new(3);
    for path in slot_files(&volumes[0]) {
        let mut octets = std::fs::read(&path).unwrap();
        for _ in 0..1 + octets.len() / (1 << 20) {
            let at = prng.below(octets.len());
            octets[at] ^= 1 << prng.below(8);
        }
        std::fs::write(&path, octets).unwrap();
    }
    let (code, said) = carried.import(&volumes[0]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("repaired by parity"), "{said}");
    carried.check();
}

#[test]
fn what_is_damaged_beyond_repair_is_never_published() {
    let _alone = alone();
    let mut carried = Carried::new("volume-damage");
    let volumes = carried.export(&["--parity", "0%"]);
    let file = slot_files(&volumes[0]).remove(0);
    let good = std::fs::read(&file).unwrap();
    // Pieces that came add up, so every lie lacks the last one.
    let end = good.len() - DATA_SLOT_BYTES;
    let lies: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("zeros", vec![0; good.len()]),
        ("cut off in a slot", good[..good.len() - 1].to_vec()),
        ("the last slot is the first", [&good[..end], &good[..DATA_SLOT_BYTES]].concat()),
        ("too much", [&good[..end], &good[end + 1..], &good[..1_000_000]].concat()),
    ];
    for (lie, octets) in lies {
        std::fs::write(&file, octets).unwrap();
        let done =
            carried.pair.high.run(&["import", volumes[0].parent().unwrap().to_str().unwrap()]).unwrap();
        assert_eq!(done.code, Some(1), "{lie}: {done:?}");
        assert!(done.stdout.contains("pieces are missing"), "{lie}: {done:?}");
        assert!(!carried.is_published(), "{lie}");
    }
    std::fs::write(&file, good).unwrap();
    assert_eq!(carried.import(&volumes[0]).0, Some(0));
    carried.check();
}

#[test]
fn a_renamed_or_foreign_volume_is_refused() {
    let _alone = alone();
    let carried = Carried::new("volume-foreign");
    let other = Carried::new("volume-other");
    let volumes = carried.export(&[]);
    let done = other.pair.high.run(&["import", volumes[0].parent().unwrap().to_str().unwrap()]).unwrap();
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("is of link"), "{done:?}");
    // A manifest with one octet changed, and no other volume to take it from.
    let path = volumes[0].join("manifest");
    let mut manifest = std::fs::read(&path).unwrap();
    manifest[30] ^= 1;
    std::fs::write(&path, manifest).unwrap();
    let done = carried.pair.high.run(&["import", volumes[0].parent().unwrap().to_str().unwrap()]).unwrap();
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("not signed by the paired sender"), "{done:?}");
    assert!(!carried.is_published());
}

#[test]
fn half_by_wire_and_the_rest_by_hand() {
    let _alone = alone();
    let mut carried = Carried::at("volume-half", "20mbit");
    carried.pair.link().unwrap().cut(false);
    wait_for("some blocks have come", MINUTE, || {
        let status = carried.pair.high_status()?;
        Ok(status.release("main", 1).filter(|release| release.blocks_held >= 3).map(drop))
    })
    .unwrap();
    carried.pair.link().unwrap().cut(true);
    let volumes = carried.export(&["--plain"]);
    assert_eq!(carried.import(&volumes[0]).0, Some(0));
    carried.check();
}

/// The daemon is killed in the middle of writing and of reading: the same command goes on.
#[test]
fn a_broken_off_export_and_import_go_on() {
    let _alone = alone();
    let mut carried = Carried::new("volume-kill");
    let to = carried.folder("media");
    let words = ["export", "--to", to.to_str().unwrap(), "--volume-size", "2.5MB"];
    for life_ms in [5, 30, 60, 90, 150] {
        let low = &carried.pair.low;
        let pid = rustix::process::Pid::from_raw(low.pid().unwrap() as i32).unwrap();
        std::thread::scope(|scope| {
            let command = scope.spawn(|| low.run(&words).unwrap());
            std::thread::sleep(Duration::from_millis(life_ms));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            command.join().unwrap()
        });
        carried.pair.low.kill_9().unwrap();
        carried.pair.low.start().unwrap();
    }
    carried.pair.low.ok(&words).unwrap();
    let media = to.to_str().unwrap().to_owned();
    for life_ms in [5, 30, 60, 90, 150] {
        let high = &carried.pair.high;
        let pid = rustix::process::Pid::from_raw(high.pid().unwrap() as i32).unwrap();
        std::thread::scope(|scope| {
            let command = scope.spawn(|| high.run(&["import", &media]).unwrap());
            std::thread::sleep(Duration::from_millis(life_ms));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            command.join().unwrap()
        });
        carried.pair.high.kill_9().unwrap();
        carried.pair.high.start().unwrap();
    }
    carried.pair.high.ok(&["import", &media]).unwrap();
    carried.check();
}
