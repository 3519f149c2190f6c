//! Mirror hosts follow the receiver at the diode: they serve the same octets, fetch only what they lack, go on after a kill
//! of either end, and take nothing that was not signed.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::clock::ShiftedClock;
use diodesync_system::http::Http;
use diodesync_system::mirror_host::{MirrorHost, Relay, feed};
use diodesync_system::oci::Layout;
use diodesync_system::prng::Prng;
use diodesync_system::provider::{ProviderRelease, Publisher, host_platform};
use diodesync_system::side::{Pair, Setup, free_port};
use diodesync_system::status::ReleaseState;
use diodesync_system::tree::{self, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SOURCE: &str = "registry.example.com/diodesync/demo";
/// What the image's manifest is read by.
const MANIFEST: &str = "/v2/ghcr.io/diodesync/demo/manifests/latest";

fn pair(name: &'static str, weather: Weather) -> Pair {
    let setup = Setup { name, rate: "400mbit".to_owned(), rounds: 2, ..Setup::default() };
    Pair::over_link(&setup, weather).unwrap()
}

fn release(pair: &Pair) {
    pair.low.ok(&["submit", "files", pair.dir.join("tree").to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
}

/// A file of the tree, changed by so many octets of a seed.
fn write(pair: &Pair, name: &str, seed: u64, bytes: usize) {
    tree::write(&pair.dir.join("tree"), name, &tree::octets(&mut Prng::new(seed), bytes), 0o644).unwrap();
}

fn submit_provider_and_image(pair: &Pair) -> ProviderRelease {
    let dir = pair.dir.join("input");
    std::fs::create_dir_all(&dir).unwrap();
    let executable = dir.join("executable");
    std::fs::write(&executable, "#!/bin/sh\necho 1\n").unwrap();
    let publisher = Publisher::new().unwrap();
    let provider =
        publisher.release(&dir.join("provider"), SOURCE, "1.0.0", &executable, &[host_platform()]).unwrap();
    pair.low.ok(&provider.submit_arguments()).unwrap();
    let layout = Layout::new(&dir.join("layout")).unwrap();
    layout.image("latest", "amd64", b"a layer of an image").unwrap();
    let layout = dir.join("layout").display().to_string();
    pair.low.ok(&["submit", "image", &layout, "--name", "ghcr.io/diodesync/demo:latest"]).unwrap();
    provider
}

fn received(host: &MirrorHost) -> u64 {
    host.upstream().unwrap()["received_bytes"].as_u64().unwrap()
}

/// How the receiver at the diode sees a host.
fn seen(pair: &Pair, name: &str) -> serde_json::Value {
    let status: serde_json::Value =
        serde_json::from_str(&pair.high.ok(&["status", "--json"]).unwrap()).unwrap();
    let hosts = status["feed"]["hosts"].as_array().cloned().unwrap_or_default();
    hosts.into_iter().find(|host| host["name"] == name).unwrap_or_default()
}

#[test]
fn hosts_serve_what_the_diode_serves_and_fetch_only_what_has_changed() {
    let _alone = alone();
    let mut pair = pair("hosts", Weather::lossy(3));
    let at = feed(&pair).unwrap();
    let mut hosts = ["berlin", "bern"].map(|name| MirrorHost::make(&pair, name, at).unwrap());
    hosts[1].split();
    let dashboard = free_port().unwrap();
    hosts[0].side.set(&["dashboard", "listen"], format!("127.0.0.1:{dashboard}")).unwrap();
    tree::make(&pair.dir.join("tree"), Spec { seed: 1, small: 30, largest: 8 << 20 }).unwrap();
    pair.start().unwrap();
    hosts.iter_mut().for_each(|host| host.side.start().unwrap());
    let provider = submit_provider_and_image(&pair);
    release(&pair);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let expected = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    let manifest = pair.mirror().unwrap().https.get_ok(MANIFEST).unwrap().body;
    for host in &mut hosts {
        host.wait_published(1, MINUTE).unwrap();
        let mut mirror = host.mirror().unwrap();
        mirror.compare_files(&expected).unwrap();
        mirror.compare_provider(&provider).unwrap();
        assert_eq!(mirror.https.get_ok(MANIFEST).unwrap().body, manifest);
    }

    // A small change: its blocks, and no others.
    let before = hosts.each_ref().map(|host| {
        wait_for("nothing is lacking", MINUTE, || Ok(lacking(host).filter(|lacking| *lacking == 0))).unwrap();
        received(host)
    });
    write(&pair, "changed", 7, 300_000);
    release(&pair);
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let expected = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    for (host, before) in hosts.iter_mut().zip(before) {
        host.wait_published(2, MINUTE).unwrap();
        host.mirror().unwrap().compare_files(&expected).unwrap();
        // Of a role in a process of its own it is told a little later.
        let more = wait_for("it is told what came", MINUTE, || {
            Ok(Some(received(host) - before).filter(|more| *more > 0))
        })
        .unwrap();
        println!("{before} octets for release 1, {more} more for release 2");
        assert!(before > 8 * MIB && (300_000..4 * MIB).contains(&more), "{before}, {more}");
    }
    for name in ["berlin", "bern"] {
        wait_for("the receiver at the diode sees who has what", MINUTE, || {
            let host = seen(&pair, name);
            Ok((host["published"] == serde_json::json!([["main", 2]]) && host["lacking"] == 0).then_some(()))
        })
        .unwrap();
        assert!(seen(&pair, name)["from"].is_string());
    }
    let text = pair.high.ok(&["status"]).unwrap();
    assert!(text.contains("berlin: connected from 127.0.0.1:") && text.contains("serves main 2"), "{text}");
    let text = hosts[1].side.ok(&["status"]).unwrap();
    assert!(
        text.contains("upstream ") && text.contains("connected for") && text.contains("main 2"),
        "{text}"
    );

    // On the dashboards and for Prometheus, at both ends.
    let shows = |http: &Http, path: &str, expected: &[&str]| {
        wait_for(&format!("{expected:?} on {path}"), MINUTE, || {
            let body = http.get_ok(path)?.body;
            Ok(expected.iter().all(|expected| body.contains(expected)).then_some(()))
        })
        .unwrap();
    };
    let [_, diode] = pair.dashboards();
    for path in ["/", "/mirrors"] {
        let current = |name: &str| format!("data-host=\"{name}\" data-state=\"current\"");
        shows(&diode, path, &[current("berlin").as_str(), &current("bern")]);
    }
    let (connected, serves) = ("diodesync_receiver_host_connected", "diodesync_receiver_host_release");
    let metrics = [
        format!("{connected}{{host=\"bern\"}} 1"),
        format!("{serves}{{host=\"berlin\",channel=\"main\"}} 2"),
    ];
    shows(&diode, "/metrics", &metrics.each_ref().map(String::as_str));
    let berlin = Http::new(dashboard);
    shows(&berlin, "/", &["data-upstream=", ">connected<", "blocks kept"]);
    shows(&berlin, "/metrics", &["diodesync_receiver_upstream_connected 1"]);

    // A role that is gone is connected to nobody.
    hosts[1].side.kill_9_role("upstream").unwrap();
    hosts[1].wait_alarm("lane-role", MINUTE).unwrap();
    wait_for("it says so", MINUTE, || Ok((hosts[1].upstream()?["connected"] == false).then_some(())))
        .unwrap();

    // What is served is served without the diode, and goes on when it is there again.
    pair.high.kill_9().unwrap();
    wait_for("it is noticed", MINUTE, || Ok((hosts[0].upstream()?["connected"] == false).then_some(())))
        .unwrap();
    shows(&berlin, "/", &["data-upstream=", ">not connected<"]);
    hosts[0].mirror().unwrap().compare_files(&expected).unwrap();
    pair.high.start().unwrap();
    hosts[1].side.spawn_role("upstream").unwrap();
    write(&pair, "changed", 8, 300_000);
    release(&pair);
    pair.wait_published(3, 2 * MINUTE).unwrap();
    hosts.iter_mut().for_each(|host| host.wait_published(3, MINUTE).unwrap());

    // What has to do with the link is not for a mirror host.
    for (words, expected) in [
        (vec!["missing", "--ticket"], "a mirror host makes no tickets"),
        (vec!["run", "--role", "lane"], "run --role upstream"),
        (vec!["feed-file", "--out", "/dev/null"], "feeds nobody"),
    ] {
        let done = hosts[0].side.run(&words).unwrap();
        assert!(done.code == Some(1) && done.stderr.contains(expected), "{done:?}");
    }
    hosts.iter_mut().for_each(|host| assert_eq!(host.side.stop().unwrap(), Some(0)));
    assert_eq!(pair.high.stop().unwrap(), Some(0));
}

#[test]
fn who_does_not_know_the_other_gets_nothing() {
    let _alone = alone();
    let mut pair = pair("hosts-strangers", Weather::clear());
    let at = feed(&pair).unwrap();
    let mut known = MirrorHost::make(&pair, "known", at).unwrap();
    let mut stranger = MirrorHost::stranger(&pair, "stranger", at).unwrap();
    let mut misled = MirrorHost::make(&pair, "misled", at).unwrap();
    misled.side.set(&["upstream", "pin"], stranger.pin().unwrap()).unwrap();
    write(&pair, "file", 1, 100_000);
    pair.start().unwrap();
    release(&pair);
    for host in [&mut known, &mut stranger, &mut misled] {
        host.side.start().unwrap();
    }
    known.wait_published(1, 2 * MINUTE).unwrap();
    let why = |host: &MirrorHost, expected: &str| {
        wait_for(expected, MINUTE, || {
            let upstream = host.upstream()?;
            Ok(upstream["why"].as_str().filter(|why| why.contains(expected)).map(str::to_owned))
        })
        .unwrap()
    };
    let told = why(&stranger, "it does not know this host");
    assert!(told.contains(&stranger.pin().unwrap()), "{told}");
    let told = why(&misled, "has another key");
    assert!(told.contains(&format!("expected {}", stranger.pin().unwrap())), "{told}");
    for host in [&stranger, &misled] {
        assert_eq!(host.status().unwrap().channel("main").unwrap().published, None);
        assert_eq!(host.upstream().unwrap()["told"], serde_json::Value::Null);
    }
    let refused = || -> serde_json::Value {
        serde_json::from_str(&pair.high.ok(&["status", "--json"]).unwrap()).unwrap()
    };
    wait_for("the refusal is counted", MINUTE, || {
        Ok(refused()["feed"]["refused"].as_u64().filter(|count| *count > 0))
    })
    .unwrap();
    assert_eq!(seen(&pair, "misled")["from"], serde_json::Value::Null);
    for told in [r#""event":"host","name":"known""#, "a mirror host's connection"] {
        wait_for("the audit log tells", MINUTE, || {
            Ok(pair.high.ok(&["audit", "show", "--json"])?.contains(told).then_some(()))
        })
        .unwrap();
    }
}

/// How many blocks a host lacks; none before it was told, or after a restart has begun to fetch.
fn lacking(host: &MirrorHost) -> Option<u64> {
    let upstream = host.upstream().ok()?;
    let has_begun = upstream["told"].is_string() || upstream["received_bytes"].as_u64() > Some(0);
    upstream["lacking"].as_u64().filter(|_| has_begun)
}

#[test]
fn a_kill_of_either_end_costs_what_was_under_way_and_a_slow_host_holds_up_nobody() {
    let _alone = alone();
    let mut pair = pair("hosts-kills", Weather::clear());
    let at = feed(&pair).unwrap();
    let relay = Relay::open(at, 2 * MIB).unwrap();
    let mut slow = MirrorHost::make(&pair, "slow", relay.entry()).unwrap();
    let mut quick = MirrorHost::make(&pair, "quick", at).unwrap();
    let bytes = 40 * MIB;
    write(&pair, "bulk", 1, bytes as usize);
    pair.start().unwrap();
    release(&pair);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    slow.side.start().unwrap();
    let half = |host: &MirrorHost, left: u64| {
        wait_for("a part has come", MINUTE, || Ok(lacking(host).filter(|lacking| *lacking <= left))).unwrap()
    };
    wait_for("it has begun", MINUTE, || Ok(lacking(&slow).filter(|lacking| *lacking > 0))).unwrap();
    let left = half(&slow, 30);
    quick.side.start().unwrap();
    quick.wait_published(1, MINUTE).unwrap();
    assert!(lacking(&slow).unwrap() > 0, "the slow one was not slow");
    slow.side.kill_9().unwrap();
    slow.side.start().unwrap();
    wait_for("it goes on", MINUTE, || Ok(lacking(&slow).filter(|lacking| *lacking > 0))).unwrap();
    let left_again = half(&slow, left);
    half(&slow, left_again.saturating_sub(5));
    pair.high.kill_9().unwrap();
    pair.high.start().unwrap();
    slow.wait_published(1, 2 * MINUTE).unwrap();
    let expected = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    slow.mirror().unwrap().compare_files(&expected).unwrap();
    let came = relay.came();
    println!(
        "{came} octets came over the slow path for {bytes} of the release; {left} and {left_again} blocks were left"
    );
    // What was under way at each kill, three batches of 32 blocks at most in part, may come again.
    assert!((bytes..bytes * 3 / 2).contains(&came), "{came} octets for {bytes}");
    slow.side.ok(&["verify"]).unwrap();
}

/// Where the content of a file lies in the packs of the receiver at the diode.
fn find(pair: &Pair, content: &[u8]) -> (PathBuf, u64) {
    for entry in std::fs::read_dir(pair.high.dir().join("packs")).unwrap() {
        let path = entry.unwrap().path();
        let octets = std::fs::read(&path).unwrap();
        if let Some(at) = octets.windows(64).position(|window| window == &content[..64]) {
            return (path, at as u64);
        }
    }
    panic!("it is in no pack");
}

/// Waits until the diode says that a release is not fed, and which file is to blame, or until it says so no more.
fn wait_fed(pair: &Pair, number: u64, is_fed: bool) {
    let note = format!("release main {number} is not fed");
    wait_for(&format!("{note}: {}", !is_fed), MINUTE, || {
        let text = pair.high.ok(&["status"])?;
        Ok(match text.lines().find(|line| line.contains(&note)) {
            Some(line) => !is_fed && line.contains(&format!("{number}.judged")),
            None => is_fed,
        }
        .then_some(()))
    })
    .unwrap();
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut octet = [0];
    file.read_exact_at(&mut octet, at).unwrap();
    file.write_all_at(&[octet[0] ^ 1], at).unwrap();
}

#[test]
fn what_was_not_signed_is_refused_and_what_is_served_stays() {
    let _alone = alone();
    let mut pair = pair("hosts-lies", Weather::clear());
    let at = feed(&pair).unwrap();
    let mut host = MirrorHost::make(&pair, "host", at).unwrap();
    write(&pair, "first", 1, 3_000_000);
    pair.start().unwrap();
    release(&pair);
    host.side.start().unwrap();
    host.wait_published(1, 2 * MINUTE).unwrap();
    let first = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    let judged = |number: u64| pair.high.dir().join(format!("releases/main/{number}.judged"));
    let old = std::fs::read(judged(1)).unwrap();

    // A block that is another one.
    host.side.stop().unwrap();
    write(&pair, "second", 2, 3_000_000);
    release(&pair);
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let judged = pair.high.dir().join("releases/main/2.judged");
    let content = std::fs::read(pair.dir.join("tree/second")).unwrap();
    let (pack, start) = find(&pair, &content);
    let at = start + 1_500_000;
    let block = format!("{}/{}", pack.file_stem().unwrap().to_str().unwrap(), at / MIB);
    flip(&pack, at);
    host.side.start().unwrap();
    let why = host.wait_alarm("upstream-wrong", MINUTE).unwrap();
    assert!(why.contains(&block) && why.contains("the signed index says"), "{block}: {why}");
    assert_eq!(host.status().unwrap().channel("main").unwrap().published, Some(1));
    host.mirror().unwrap().compare_files(&first).unwrap();
    flip(&pack, at);
    host.wait_published(2, MINUTE).unwrap();
    let second = tree::digests(&pair.dir.join("tree"), "tree").unwrap();
    host.mirror().unwrap().compare_files(&second).unwrap();
    wait_for("the alarm is over", MINUTE, || {
        Ok(host.status()?.alarm("upstream-wrong").is_none().then_some(()))
    })
    .unwrap();

    // Metadata that is older than what the host has.
    std::fs::write(&judged, &old).unwrap();
    host.side.stop().unwrap();
    write(&pair, "third", 3, 1_000_000);
    release(&pair);
    pair.wait_published(3, 2 * MINUTE).unwrap();
    let judged = pair.high.dir().join("releases/main/3.judged");
    let good = std::fs::read(&judged).unwrap();
    let mut garbled = good.clone();
    garbled[good.len() / 2] ^= 1;
    // The diode looks at it a few times a second, and says that one is garbled: so it is known to feed the old one.
    std::fs::write(&judged, &garbled).unwrap();
    wait_fed(&pair, 3, false);
    std::fs::write(&judged, &old).unwrap();
    wait_fed(&pair, 3, true);
    host.side.start().unwrap();
    let why = host.wait_alarm("refused", MINUTE).unwrap();
    assert!(why.contains("version"), "{why}");
    host.wait_alarm("unnamed-index", MINUTE).unwrap();
    assert_eq!(host.status().unwrap().channel("main").unwrap().published, Some(2));
    host.mirror().unwrap().compare_files(&second).unwrap();
    std::fs::write(&judged, &good).unwrap();
    host.wait_published(3, MINUTE).unwrap();

    // Metadata that a disk has changed is named, and the next release is fed.
    std::fs::write(&judged, &garbled).unwrap();
    wait_fed(&pair, 3, false);
    let verified = pair.high.run(&["verify"]).unwrap();
    assert!(verified.code == Some(1) && verified.stdout.contains("3.judged"), "{verified:?}");
    write(&pair, "fourth", 4, 100_000);
    release(&pair);
    pair.wait_published(4, 2 * MINUTE).unwrap();
    host.wait_published(4, MINUTE).unwrap();
}

#[test]
fn expiry_is_judged_at_the_diode_and_nowhere_else() {
    let _alone = alone();
    let mut pair = pair("hosts-clock", Weather::clear());
    let clock = match ShiftedClock::new(pair.dir.join("shift")) {
        Ok(clock) => clock,
        Err(skip) => return skip.announce_or_fail_in_ci("a mirror host whose clock is ahead"),
    };
    write(&pair, "file", 1, 100_000);
    pair.start().unwrap();
    release(&pair);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    // What was published before there was a [feed] is fed, too.
    pair.high.stop().unwrap();
    let at = feed(&pair).unwrap();
    let mut host = MirrorHost::make(&pair, "host", at).unwrap();
    pair.high.start().unwrap();
    // The metadata is valid for days; by this clock it has expired long ago.
    clock.give_to(&mut host.side);
    clock.set("+90d").unwrap();
    host.side.start().unwrap();
    host.wait_published(1, MINUTE).unwrap();
    assert!(host.status().unwrap().alarm("metadata-expires").is_some());
    // A restart does not judge again either.
    host.side.kill_9().unwrap();
    host.side.start().unwrap();
    host.wait_published(1, MINUTE).unwrap();
}

#[test]
fn what_is_held_at_the_diode_is_not_fed() {
    let _alone = alone();
    let mut pair = pair("hosts-held", Weather::clear());
    let at = feed(&pair).unwrap();
    let key = pair.dir.join("alice.key").display().to_string();
    let printed = pair
        .high
        .command(&["approver-key", "--name", "alice", "--out", &key, "--no-passphrase"])
        .unwrap()
        .ok()
        .unwrap();
    let approver: toml::Table = printed.parse().unwrap();
    pair.high.set(&["approver"], approver["approver"].clone()).unwrap();
    let channel =
        toml::Table::from_iter([("name".to_owned(), "main".into()), ("approval".to_owned(), "one".into())]);
    pair.high.set(&["channel"], toml::Value::Array(vec![channel.into()])).unwrap();
    let mut host = MirrorHost::make(&pair, "host", at).unwrap();
    write(&pair, "file", 1, 100_000);
    pair.start().unwrap();
    host.side.start().unwrap();
    release(&pair);
    pair.wait_state(1, ReleaseState::Held);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(host.upstream().unwrap()["told"], serde_json::Value::Null, "it was told of what is held");
    assert_eq!(received(&host), 0);
    pair.high.ok(&["approve", "1", "--key", &key]).unwrap();
    pair.wait_published(1, MINUTE).unwrap();
    host.wait_published(1, MINUTE).unwrap();
}
