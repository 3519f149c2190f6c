//! The main job, with real daemons and real clients: files and a signed Terraform provider go over a one-way path that
//! loses 2 %, are published whole, and stock `terraform` installs them from the far side; then a second release goes
//! over as a delta.

use std::path::Path;
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::mirror::Mirror;
use diodesync_system::netns::{Family, Gap};
use diodesync_system::prng::Prng;
use diodesync_system::provider::{OTHER_PLATFORM, ProviderRelease, Publisher, host_platform};
use diodesync_system::scratch::Scratch;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::status::SendState;
use diodesync_system::terraform::{self, Project, quoted_after};
use diodesync_system::tree::{self, Digests, Spec};
use diodesync_system::weather::Weather;

const SOURCE: &str = "registry.example.com/diodesync/demo";
const MINUTE: Duration = Duration::from_secs(60);

fn setup(name: &'static str) -> Setup {
    Setup { name, rounds: 2, ..Setup::default() }
}

#[test]
fn a_provider_and_files_cross_a_userspace_link() {
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("cross-link"), Weather::lossy(2)).unwrap();
    cross(&mut pair);
    let counts = pair.link().unwrap().counts();
    assert!(counts.dropped > 0, "nothing was lost: {counts:?}");
    assert_eq!(counts.back, 0, "the high side sent something");
}

#[test]
fn a_provider_and_files_cross_between_two_network_namespaces() {
    cross_gap(Family::V4, "cross-gap4");
}

#[test]
fn a_provider_and_files_cross_between_two_network_namespaces_over_ipv6() {
    cross_gap(Family::V6, "cross-gap6");
}

fn cross_gap(family: Family, name: &'static str) {
    let _alone = alone();
    let gap = match Gap::open(family, 0.02) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci("the crossing between two network namespaces"),
    };
    let mut pair = Pair::over_gap(&setup(name), gap).unwrap();
    cross(&mut pair);
    let gap = pair.gap().unwrap();
    assert!(gap.lost().unwrap() > 0, "nothing was lost");
    assert_eq!(gap.back_attempts().unwrap(), 0, "the high side tried to send something");
    assert_eq!(gap.back_arrivals().unwrap(), 0, "something reached the low side");
}

/// Noise, forgeries, replays, bursts and disorder change nothing of what is published.
#[test]
fn files_cross_in_foul_weather() {
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("cross-foul"), Weather::foul(3)).unwrap();
    let tree = pair.dir.join("tree");
    tree::make(&tree, Spec { small: 100, largest: 8 << 20, ..Spec::default() }).unwrap();
    pair.start().unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    let status = pair.wait_published(1, 2 * MINUTE).unwrap();
    assert!(status.lanes[0].rejected > 0, "forgeries were not counted: {status:#?}");
    assert!(status.decoding.duplicates > 0, "replays were not counted: {status:#?}");
    pair.mirror().unwrap().compare_files(&tree::digests(&tree, "tree").unwrap()).unwrap();
    let counts = pair.link().unwrap().counts();
    assert!(
        counts.forged > 0 && counts.replayed > 0 && counts.flipped > 0 && counts.truncated > 0,
        "{counts:?}"
    );
    assert_eq!(counts.back, 0, "the high side sent something");
}

/// Two releases over the path of `pair`.
fn cross(pair: &mut Pair) {
    let work = Scratch::new("input").unwrap();
    let tree = work.join("tree");
    tree::make(&tree, Spec::default()).unwrap();
    let publisher = Publisher::new().unwrap();
    let first = provider(&publisher, work.path(), "1.0.0");
    pair.start().unwrap();

    let tree_text = tree.to_str().unwrap().to_owned();
    let submit_tree = ["submit", "files", tree_text.as_str(), "--into", "site"];
    pair.low.ok(&submit_tree).unwrap();
    pair.low.ok(&first.submit_arguments()).unwrap();
    assert!(pair.low_status().unwrap().staged() > 0, "nothing is staged after two submissions");
    let sent_first = release(pair, 1);
    check_site(pair, &tree::digests(&tree, "site/tree").unwrap(), &[&first]);

    // A second version and a changed file: everything else is there already.
    let second = provider(&publisher, work.path(), "1.1.0");
    let changed = "sizes/001048577.bin";
    tree::write(&tree, changed, &tree::octets(&mut Prng::new(99), 1_100_000), 0o644).unwrap();
    tree::write(&tree, "new/file.txt", b"new\n", 0o644).unwrap();
    pair.low.ok(&submit_tree).unwrap();
    pair.low.ok(&second.submit_arguments()).unwrap();
    let sent_second = release(pair, 2);
    assert!(
        sent_second * 3 < sent_first,
        "the delta sent {sent_second} octets, the first release {sent_first}"
    );
    check_site(pair, &tree::digests(&tree, "site/tree").unwrap(), &[&first, &second]);

    match terraform::find() {
        Ok(()) => install(pair, work.path(), &[&first, &second]),
        Err(skip) => skip.announce_or_fail_in_ci("installing with stock terraform"),
    }
}

/// A provider with an executable of 2 MiB, for this machine's platform and another one.
fn provider(publisher: &Publisher, work: &Path, version: &str) -> ProviderRelease {
    let executable = work.join(format!("executable-{version}"));
    let seed = version.bytes().map(u64::from).sum();
    std::fs::write(&executable, tree::octets(&mut Prng::new(seed), 2 << 20)).unwrap();
    let platforms = [host_platform(), OTHER_PLATFORM];
    publisher.release(&work.join(version), SOURCE, version, &executable, &platforms).unwrap()
}

/// Cuts a release, waits until it is sent and published; the octets that it put on the lane.
fn release(pair: &mut Pair, number: u64) -> u64 {
    let before = pair.low_status().unwrap().sent_bytes();
    pair.low.run_within(&["release", "--wait"], 4 * MINUTE).unwrap().ok().unwrap();
    let low = pair.low_status().unwrap();
    let channel = low.channel("main").unwrap();
    assert_eq!((channel.newest, channel.state, channel.staged), (Some(number), SendState::Complete, 0));
    let high = pair.wait_published(number, MINUTE).unwrap();
    let release = high.release("main", number).unwrap();
    assert_eq!(release.blocks_held, release.blocks_needed);
    assert_eq!(release.bytes_held, release.bytes_needed);
    low.sent_bytes() - before
}

/// Everything that was submitted is served, octet by octet, and nothing else.
fn check_site(pair: &Pair, files: &Digests, providers: &[&ProviderRelease]) {
    let mut mirror = pair.mirror().unwrap();
    assert_eq!(mirror.compare_files(files).unwrap().files, files.len() as u64);
    for provider in providers {
        assert_eq!(mirror.compare_provider(provider).unwrap().files, provider.zips.len() as u64);
    }
    let ca = mirror.https.get_ok("/client/ca.pem").unwrap();
    assert_eq!(ca.body, std::fs::read(pair.ca()).unwrap());
}

/// Stock `terraform`, with an empty plugin cache, installs both versions both ways.
fn install(pair: &Pair, work: &Path, releases: &[&ProviderRelease; 2]) {
    let mut mirror = pair.mirror().unwrap();
    let platforms = [host_platform(), OTHER_PLATFORM];
    for via_mirror in [false, true] {
        let rc = mirror.terraformrc(via_mirror).unwrap();
        let dir = work.join(if via_mirror { "via-mirror" } else { "via-registry" });
        let [first, second] = releases;
        let project =
            Project::new(&dir, pair.high_prefix(), &rc, &pair.ca(), SOURCE, &first.version).unwrap();
        let said = project.init(&[]).unwrap();
        check_installed(&project, first, &said, via_mirror);

        project.want(&second.version).unwrap();
        let said = project.init(&["-upgrade"]).unwrap();
        check_installed(&project, second, &said, via_mirror);

        // The lock file for both platforms, from nothing.
        project.forget().unwrap();
        let url = quoted_after(&rc, "url").map(|url| format!("-net-mirror={url}"));
        match &url {
            Some(url) if via_mirror => project.providers_lock(&platforms, &[url]).unwrap(),
            _ => project.providers_lock(&platforms, &[]).unwrap(),
        };
        let lock = project.lock().unwrap();
        assert_eq!(lock.version, second.version);
        assert_eq!(lock.of("h1").len(), platforms.len(), "{lock:?}");
        if !via_mirror {
            check_zip_hashes(second, &lock);
        }
        project.init(&["-lockfile=readonly"]).unwrap();
        if via_mirror {
            check_mirror_document(&mut mirror, quoted_after(&rc, "url").unwrap(), second, &lock);
        }
    }
}

fn check_installed(project: &Project, release: &ProviderRelease, said: &str, via_mirror: bool) {
    let installed = project.installed(&release.version, host_platform()).unwrap();
    assert_eq!(installed, release.executable_digest);
    let lock = project.lock().unwrap();
    assert_eq!(lock.version, release.version);
    assert!(!lock.of("h1").is_empty(), "{lock:?}");
    if !via_mirror {
        // Terraform itself has checked the publisher's signature, and so it takes the digests of all platforms.
        assert!(said.contains(&format!("key ID {}", release.key_id)), "{said}");
        check_zip_hashes(release, &lock);
    }
}

/// Terraform records what a mirror says of other platforms only if it could check a signature, which the mirror
/// protocol has none of: its lock file has the `h1:` that it computed itself. So the mirror's own document is looked at
/// for the `zh:` of every archive, and for the same `h1:` as Terraform's.
fn check_mirror_document(mirror: &mut Mirror, url: &str, release: &ProviderRelease, lock: &terraform::Lock) {
    let document =
        mirror.https.get_ok(&format!("{url}{SOURCE}/{}.json", release.version)).unwrap().json().unwrap();
    for (zip, platform) in release.zips.iter().zip([host_platform(), OTHER_PLATFORM]) {
        let hashes = document["archives"][platform]["hashes"].as_array().unwrap();
        let has = |hash: String| hashes.iter().any(|offered| *offered == hash.as_str());
        assert!(
            has(format!("zh:{}", tree::digest(zip).unwrap().0)),
            "no zh: of {} in {document}",
            zip.display()
        );
        assert!(
            lock.of("h1").iter().any(|h1| has(format!("h1:{h1}"))),
            "another h1: in {document} than in {lock:?}"
        );
    }
}

/// The lock file holds the digest of every platform's archive.
fn check_zip_hashes(release: &ProviderRelease, lock: &terraform::Lock) {
    for zip in &release.zips {
        let (hex, _) = tree::digest(zip).unwrap();
        assert!(lock.of("zh").contains(&hex.as_str()), "{} is not in {lock:?}", zip.display());
    }
}
