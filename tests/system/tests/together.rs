//! Files, a provider, an image and a package in one release appear at once: a client that asks for all four, over and
//! over, never sees a new one and then an old one.

use std::time::{Duration, Instant};

use diodesync_system::deb::{deb, find};
use diodesync_system::mirror::Mirror;
use diodesync_system::oci::Layout;
use diodesync_system::provider::{Publisher, host_platform};
use diodesync_system::side::{Pair, Setup};
use diodesync_system::tree;
use diodesync_system::weather::Weather;

const SOURCE: &str = "registry.example.com/diodesync/demo";
const LIMIT: Duration = Duration::from_secs(120);

/// Submits version `n` of all four.
fn submit(pair: &Pair, publisher: &Publisher, n: u64) {
    let dir = pair.dir.join(format!("input-{n}"));
    tree::write(&dir, "state/version.txt", format!("version {n}").as_bytes(), 0o644).unwrap();
    let state = dir.join("state").display().to_string();
    pair.low.ok(&["submit", "files", &state]).unwrap();
    let executable = dir.join("executable");
    std::fs::write(&executable, format!("#!/bin/sh\necho {n}\n")).unwrap();
    let version = format!("{n}.0.0");
    let release =
        publisher.release(&dir.join("provider"), SOURCE, &version, &executable, &[host_platform()]).unwrap();
    pair.low.ok(&release.submit_arguments()).unwrap();
    let layout = Layout::new(&dir.join("layout")).unwrap();
    layout.image("latest", "amd64", format!("layer of version {n}").as_bytes()).unwrap();
    let layout = dir.join("layout").display().to_string();
    pair.low.ok(&["submit", "image", &layout, "--name", "ghcr.io/diodesync/demo:latest"]).unwrap();
    let package = deb(&dir, "diode-demo", &format!("{n}.0"), "amd64", "", "gzip").unwrap();
    let package = package.display().to_string();
    pair.low.ok(&["submit", "packages", &package, "--suite", "bookworm"]).unwrap();
}

/// What each of the four shows, as text.
fn look(mirror: &mut Mirror, kind: usize) -> String {
    let path = [
        "/files/state/version.txt",
        "/v1/providers/registry.example.com/diodesync/demo/versions",
        "/v2/ghcr.io/diodesync/demo/manifests/latest",
        "/apt/dists/bookworm/main/binary-amd64/Packages",
    ][kind];
    String::from_utf8(mirror.https.get_ok(path).unwrap().body).unwrap()
}

#[test]
fn all_four_kinds_appear_at_once() {
    if let Err(skip) = find("dpkg-deb", "dpkg") {
        return skip.announce_or_fail_in_ci("all four kinds in one release");
    }
    let setup = Setup { name: "together", rate: "20mbit".to_owned(), ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(4)).unwrap();
    pair.start().unwrap();
    let publisher = Publisher::new().unwrap();
    submit(&pair, &publisher, 1);
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, LIMIT).unwrap();
    let mut mirror = pair.mirror().unwrap();
    let first: Vec<String> = (0..4).map(|kind| look(&mut mirror, kind)).collect();

    submit(&pair, &publisher, 2);
    let still: Vec<String> = (0..4).map(|kind| look(&mut mirror, kind)).collect();
    assert_eq!(still, first, "what is only submitted is served");
    let mut cutting = pair.low.spawn_command(&["release"]).unwrap();
    let start = Instant::now();
    let (mut looks, mut new_since) = (0, None);
    // Four more after the first that is new: all of them must be.
    while new_since.is_none_or(|since| looks < since + 8) {
        assert!(start.elapsed() < LIMIT, "release 2 does not appear");
        let kind = looks % 4;
        let is_new = look(&mut mirror, kind) != first[kind];
        assert!(is_new || new_since.is_none(), "kind {kind} is old after another was new");
        if is_new && new_since.is_none() {
            new_since = Some(looks);
        }
        looks += 1;
    }
    assert!(cutting.wait().unwrap().success());
    assert!(new_since > Some(0), "nobody looked before the release appeared");
    println!("{looks} looks, the first new one was number {new_since:?}");
    let second = look(&mut mirror, 3);
    assert!(second.contains("Version: 2.0"), "{second}");
}
