//! Bad input through the real command line: each is refused with an exit code of its own kind (1 failed, 2 usage) and a
//! message that names the thing and what to do, nothing is staged, and the daemon goes on taking good input.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::provider::{OTHER_PLATFORM, ProviderRelease, Publisher, host_platform};
use diodesync_system::side::{Done, Pair, Setup, Side};
use diodesync_system::weather::Weather;

const SOURCE: &str = "registry.example.com/diodesync/demo";
/// A daemon that should refuse to start may take this long to say so.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

fn pair(name: &'static str) -> Pair {
    Pair::over_link(&Setup { name, ..Setup::default() }, Weather::clear()).unwrap()
}

/// A pair whose sender runs.
fn submitting(name: &'static str) -> Pair {
    let mut pair = pair(name);
    pair.low.start().unwrap();
    pair
}

/// Asserts that a command ended with `code` and that its standard error has every one of `words`; `a|b` is either.
fn assert_refused(done: &Done, code: i32, words: &[&str]) {
    let Done { line, stderr, stdout, .. } = done;
    assert_eq!(done.code, Some(code), "{line} says:\n{stdout}{stderr}");
    let lower = stderr.to_lowercase();
    for word in words {
        let said = word.split('|').any(|word| stderr.contains(word) || lower.contains(&word.to_lowercase()));
        assert!(said, "{line} does not say {word:?}:\n{stderr}");
    }
    assert!(!lower.contains("panicked"), "{line} panicked:\n{stderr}");
}

/// A submission that is refused and leaves nothing behind.
fn refuse_submission(pair: &Pair, arguments: &[&str], code: i32, words: &[&str]) {
    let staged = || pair.low_status().unwrap().staged();
    let before = staged();
    assert_refused(&pair.low.run(arguments).unwrap(), code, words);
    assert_eq!(staged(), before, "{arguments:?} was refused and still staged something");
}

/// The sender still takes a good submission, and only that is staged.
fn assert_still_takes_input(pair: &Pair) {
    assert_eq!(pair.low_status().unwrap().staged(), 0);
    let good = pair.dir.join("good.txt");
    fs::write(&good, "good\n").unwrap();
    pair.low.ok(&["submit", "files", good.to_str().unwrap()]).unwrap();
    assert_eq!(pair.low_status().unwrap().staged(), 1);
}

fn provider(pair: &Pair, publisher: &Publisher) -> ProviderRelease {
    let executable = pair.dir.join("executable");
    fs::write(&executable, b"#!/bin/sh\n".repeat(1000)).unwrap();
    let platforms = [host_platform(), OTHER_PLATFORM];
    publisher.release(&pair.dir.join("provider"), SOURCE, "1.0.0", &executable, &platforms).unwrap()
}

fn refuse_provider(pair: &Pair, release: &ProviderRelease, code: i32, words: &[&str]) {
    let arguments = release.submit_arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refuse_submission(pair, &arguments, code, words);
}

#[test]
fn a_zip_that_does_not_match_its_sums() {
    let pair = submitting("bad-zip");
    let release = provider(&pair, &Publisher::new().unwrap());
    let zip = &release.zips[1];
    let mut octets = fs::read(zip).unwrap();
    octets[40] ^= 1;
    fs::write(zip, octets).unwrap();
    let name = zip.file_name().unwrap().to_str().unwrap();
    refuse_provider(&pair, &release, 1, &[name, "SHA256SUMS|sum"]);
    assert_still_takes_input(&pair);
}

/// What cannot be read back out of an index never gets into one: the sender would not start with it.
#[test]
fn a_protocol_that_is_none() {
    let mut pair = submitting("protocol");
    let release = provider(&pair, &Publisher::new().unwrap());
    let mut arguments = release.submit_arguments();
    arguments.extend(["--protocol", "x"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refuse_submission(&pair, &arguments, 1, &["not a plugin protocol version"]);
    pair.low.kill_9().unwrap();
    pair.low.start().unwrap();
    assert_still_takes_input(&pair);
}

#[test]
fn a_zip_that_its_sums_do_not_name() {
    let pair = submitting("stray-zip");
    let mut release = provider(&pair, &Publisher::new().unwrap());
    let stray = release.zips[0].with_file_name("terraform-provider-demo_1.0.0_plan9_mips.zip");
    fs::copy(&release.zips[0], &stray).unwrap();
    release.zips = vec![stray];
    refuse_provider(&pair, &release, 1, &["terraform-provider-demo_1.0.0_plan9_mips.zip", "SHA256SUMS|sum"]);
    assert_still_takes_input(&pair);
}

#[test]
fn a_zip_with_another_providers_name() {
    let pair = submitting("other-zip");
    let mut release = provider(&pair, &Publisher::new().unwrap());
    release.source = "registry.example.com/diodesync/other".to_owned();
    refuse_provider(&pair, &release, 1, &["terraform-provider-demo_1.0.0", "terraform-provider-TYPE|other"]);
    assert_still_takes_input(&pair);
}

#[test]
fn a_signature_over_something_else() {
    let pair = submitting("bad-sig");
    let publisher = Publisher::new().unwrap();
    let release = provider(&pair, &publisher);
    fs::write(&release.signature, publisher.sign(b"other sums\n").unwrap()).unwrap();
    refuse_provider(&pair, &release, 1, &["signature"]);
    fs::write(&release.signature, b"not OpenPGP at all").unwrap();
    refuse_provider(&pair, &release, 1, &["signature"]);
    fs::write(&release.signature, b"").unwrap();
    refuse_provider(&pair, &release, 1, &["signature"]);
    assert_still_takes_input(&pair);
}

#[test]
fn a_signature_of_an_unknown_key() {
    let pair = submitting("unknown-key");
    let release = provider(&pair, &Publisher::new().unwrap());
    let stranger = Publisher::new().unwrap();
    fs::write(&release.key, stranger.armored_key().unwrap()).unwrap();
    refuse_provider(&pair, &release, 1, &["key|signature", &release.key_id]);
    fs::write(&release.key, "no key at all\n").unwrap();
    refuse_provider(&pair, &release, 1, &["key"]);
    assert_still_takes_input(&pair);
}

#[test]
fn a_missing_signature_unless_it_is_said() {
    let pair = submitting("unsigned");
    let release = provider(&pair, &Publisher::new().unwrap());
    let zip = release.zips[0].to_str().unwrap();
    let bare = ["submit", "provider", zip, "--source", SOURCE];
    refuse_submission(&pair, &bare, 1, &["--unsigned", "signature"]);
    assert_still_takes_input(&pair);
    pair.low.ok(&[bare.as_slice(), &["--unsigned"]].concat()).unwrap();
    assert_eq!(pair.low_status().unwrap().staged(), 2);
}

/// A tree in which everything is good but for what `spoil` does to it.
fn refuse_tree(name: &'static str, spoil: impl FnOnce(&Path), words: &[&str]) {
    let pair = submitting(name);
    let tree = pair.dir.join("tree");
    for path in ["a/good.txt", "z/good.txt"] {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::write(tree.join(path), "good\n").unwrap();
    }
    spoil(&tree);
    refuse_submission(&pair, &["submit", "files", tree.to_str().unwrap()], 1, words);
    assert_still_takes_input(&pair);
}

#[test]
fn a_symbolic_link_in_a_tree() {
    refuse_tree(
        "symlink",
        |tree| symlink("/etc/passwd", tree.join("a/way-out")).unwrap(),
        &["a/way-out", "symlink|symbolic link"],
    );
}

#[test]
fn a_symbolic_link_to_a_folder_in_a_tree() {
    refuse_tree(
        "symdir",
        |tree| symlink("/etc", tree.join("a/way-out")).unwrap(),
        &["a/way-out", "symlink|symbolic link"],
    );
}

#[test]
fn a_fifo_in_a_tree() {
    let fifo =
        |tree: &Path| assert!(Command::new("mkfifo").arg(tree.join("a/pipe")).status().unwrap().success());
    refuse_tree("fifo", fifo, &["a/pipe", "FIFO|named pipe|regular file"]);
}

#[test]
fn names_that_collide_by_case() {
    let spoil = |tree: &Path| {
        fs::write(tree.join("a/README"), "1").unwrap();
        fs::write(tree.join("a/readme"), "2").unwrap();
    };
    refuse_tree("case", spoil, &["a/README|a/readme", "case"]);
}

#[test]
fn a_file_that_collides_with_a_folder_by_case() {
    refuse_tree(
        "case-dir",
        |tree| fs::write(tree.join("A"), "1").unwrap(),
        &["tree/A|tree/a", "case|collide|folder|directory"],
    );
}

#[test]
fn a_name_with_a_control_character() {
    refuse_tree("control", |tree| fs::write(tree.join("a/two\nlines"), "1").unwrap(), &["control"]);
}

#[test]
fn a_name_that_is_not_utf8() {
    let spoil = |tree: &Path| fs::write(tree.join("a").join(OsStr::from_bytes(b"\xff.txt")), "1").unwrap();
    refuse_tree("utf8", spoil, &["UTF-8"]);
}

#[test]
fn a_name_with_a_backslash() {
    refuse_tree("backslash", |tree| fs::write(tree.join(r"a\b"), "1").unwrap(), &["backslash"]);
}

#[test]
fn a_path_that_is_not_there_and_prefixes_that_leave_the_tree() {
    let pair = submitting("paths");
    let nowhere = pair.dir.join("nowhere");
    refuse_submission(
        &pair,
        &["submit", "files", nowhere.to_str().unwrap()],
        1,
        &["nowhere", "no such file"],
    );
    let good = pair.dir.join("file.txt");
    fs::write(&good, "x").unwrap();
    for into in ["../up", "/etc", "a/../b", "a//b", "a\nb"] {
        let done = pair.low.run(&["submit", "files", good.to_str().unwrap(), "--into", into]).unwrap();
        assert!(matches!(done.code, Some(1 | 2)), "--into {into:?}: {done:?}");
        assert!(!done.stderr.is_empty());
    }
    assert_still_takes_input(&pair);
}

/// The key files that a daemon reads.
fn keys(side: &Side) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, data) = (entry.path(), entry.metadata().unwrap());
            if data.is_dir() {
                walk(&path, found);
            } else if data.permissions().mode() & 0o077 == 0
                && path.extension().is_some_and(|end| end == "key")
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(side.dir(), &mut found);
    found
}

#[test]
fn key_files_are_private_and_refused_otherwise() {
    let pair = pair("key-modes");
    for (side, needless) in [(&pair.low, "root.key"), (&pair.high, "ca.key")] {
        let keys = keys(side);
        assert!(!keys.is_empty(), "no private key files in {}", side.dir().display());
        // Keys that no running daemon needs may lie anywhere.
        for key in keys.iter().filter(|key| !key.ends_with(needless)) {
            for mode in [0o640, 0o604] {
                fs::set_permissions(key, fs::Permissions::from_mode(mode)).unwrap();
                let done = side.run_within(&["run"], REFUSAL_MAX).unwrap();
                assert_refused(&done, 1, &[key.file_name().unwrap().to_str().unwrap(), "chmod|0600"]);
            }
            fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn an_unknown_key_in_a_configuration() {
    let pair = pair("config");
    for side in [&pair.low, &pair.high] {
        let good = fs::read_to_string(side.config()).unwrap();
        let file = side.config().file_name().unwrap().to_str().unwrap();
        for keys in [["colour"].as_slice(), &["lane", "colour"]] {
            side.set(keys, "blue").unwrap();
            let done = side.run_within(&["run"], REFUSAL_MAX).unwrap();
            assert_refused(&done, 1, &["colour", file]);
            fs::write(side.config(), &good).unwrap();
        }
        fs::write(side.config(), "this is = = not toml\n").unwrap();
        assert_refused(&side.run_within(&["run"], REFUSAL_MAX).unwrap(), 1, &[file, "line 1"]);
        fs::remove_file(side.config()).unwrap();
        assert_refused(&side.run_within(&["run"], REFUSAL_MAX).unwrap(), 1, &[file, "init"]);
    }
}

#[test]
fn ports_in_use() {
    let pair = pair("ports");
    let configuration: toml::Table = fs::read_to_string(pair.high.config()).unwrap().parse().unwrap();
    let lane = match &configuration["lane"] {
        toml::Value::Array(lanes) => &lanes[0],
        lane => lane,
    };
    let lane = lane["listen"].as_str().unwrap();
    let serve = configuration["serve"]["listen"].as_str().unwrap();
    let taken = UdpSocket::bind(lane).unwrap();
    assert_refused(&pair.high.run_within(&["run"], REFUSAL_MAX).unwrap(), 1, &[lane, "in use"]);
    drop(taken);
    let _taken = TcpListener::bind(serve).unwrap();
    assert_refused(&pair.high.run_within(&["run"], REFUSAL_MAX).unwrap(), 1, &[serve, "in use"]);
}

#[test]
fn a_second_daemon_in_the_same_folder() {
    let mut pair = pair("second");
    pair.start().unwrap();
    for side in [&pair.low, &pair.high] {
        let done = side.run_within(&["run"], REFUSAL_MAX).unwrap();
        assert_refused(&done, 1, &[side.dir().to_str().unwrap(), "another|already"]);
    }
    assert_still_takes_input(&pair);
}

#[test]
fn wrong_pairing_files() {
    let pair = pair("pairing");
    // Another receiver, to which nothing was ever paired.
    let other = pair.dir.join("other");
    let other_text = other.to_str().unwrap();
    pair.high.command(&["init", "--dir", other_text, "--host", "localhost"]).unwrap().ok().unwrap();
    let config = other.join("receiver.toml");
    let introduce = |file: &Path| {
        pair.high.command(&["pair", "--config", config.to_str().unwrap(), file.to_str().unwrap()]).unwrap()
    };
    let pairing = pair.low.dir().join("pairing.json");
    assert_refused(&introduce(&pairing), 1, &["pairing.json", "receiver"]);

    let text = fs::read_to_string(&pairing).unwrap();
    let broken = pair.dir.join("broken.json");
    for (what, contents) in [
        ("nothing", ""),
        ("half of it", &text[..text.len() / 2]),
        ("something else", "{\"version\": 1}\n"),
        ("no JSON", "receiver\n"),
    ] {
        fs::write(&broken, contents).unwrap();
        let done = introduce(&broken);
        assert_eq!(done.code, Some(1), "{what}: {done:?}");
        assert_refused(&done, 1, &["broken.json"]);
    }
    assert_refused(&introduce(&pair.dir.join("nowhere.json")), 1, &["nowhere.json", "no such file"]);

    // The right one is still taken.
    let low = pair.dir.join("other-low");
    let public = other.join("receiver.pub");
    let init = ["init", "--dir", low.to_str().unwrap(), "--receiver", public.to_str().unwrap()];
    pair.low.command(&init).unwrap().ok().unwrap();
    introduce(&low.join("pairing.json")).ok().unwrap();
}

#[test]
fn init_overwrites_nothing() {
    let pair = pair("init");
    let contents = |side: &Side| keys(side).iter().map(|key| fs::read(key).unwrap()).collect::<Vec<_>>();
    let before = (contents(&pair.low), contents(&pair.high));
    let (high, low) = (pair.high.dir().to_str().unwrap(), pair.low.dir().to_str().unwrap());
    let public = pair.high.dir().join("receiver.pub");
    assert_refused(&pair.high.command(&["init", "--dir", high]).unwrap(), 1, &[high, "already"]);
    let again = ["init", "--dir", low, "--receiver", public.to_str().unwrap()];
    assert_refused(&pair.low.command(&again).unwrap(), 1, &[low, "already"]);
    let nonsense = pair.dir.join("nonsense.pub");
    fs::write(&nonsense, "nonsense\n").unwrap();
    let fresh = pair.dir.join("fresh");
    let init = ["init", "--dir", fresh.to_str().unwrap(), "--receiver", nonsense.to_str().unwrap()];
    assert_refused(&pair.low.command(&init).unwrap(), 1, &["nonsense.pub"]);
    assert_eq!(before, (contents(&pair.low), contents(&pair.high)));
}

#[test]
fn usage_and_a_daemon_that_does_not_run() {
    let pair = pair("usage");
    for arguments in [["frobnicate"].as_slice(), &["submit"], &["submit", "provider", "x.zip"], &["init"]] {
        assert_refused(&pair.low.command(arguments).unwrap(), 2, &["Usage"]);
    }
    assert_refused(&pair.high.command(&["frobnicate"]).unwrap(), 2, &["Usage"]);
    for (side, name) in [(&pair.low, "diode-sender run"), (&pair.high, "diode-receiver run")] {
        assert_refused(&side.run(&["status"]).unwrap(), 1, &[name]);
    }
}
