//! Sources: a Terraform origin registry over real files signed by real gpg, with every fault that an upstream can have;
//! files by URL; a folder that is watched. What came is released and, where terraform is, installed on the far side.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use diodesync_system::gpg::{self, Gpg};
use diodesync_system::origin::{Fault, Origin, Registry};
use diodesync_system::provider::{OTHER_PLATFORM, Publisher, host_platform};
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::terraform::{self, Project};
use diodesync_system::weather::Weather;
use diodesync_system::{tree, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// Sets `[[source]]` of the sender; it takes them at its next start, or by `reload`.
fn configure(pair: &Pair, text: &str) {
    let table: toml::Table = text.parse().unwrap();
    pair.low.set(&["source"], table["source"].clone()).unwrap();
}

fn sync(pair: &Pair) -> Done {
    pair.low.run_within(&["sync"], 3 * MINUTE).unwrap()
}

/// A pull that brings everything.
fn good(pair: &Pair) -> String {
    sync(pair).ok().unwrap()
}

/// A pull that does not; what it says.
fn bad(pair: &Pair) -> String {
    let done = sync(pair);
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    done.stdout
}

fn contains(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

/// Who signs.
trait Signs {
    fn sign(&self, content: &[u8]) -> Vec<u8>;
    fn key(&self) -> String;
}

impl Signs for Gpg {
    fn sign(&self, content: &[u8]) -> Vec<u8> {
        Gpg::sign(self, content).unwrap()
    }

    fn key(&self) -> String {
        Gpg::key(self).unwrap()
    }
}

/// A version for two platforms, with archives that differ from version to version.
struct Version {
    archives: BTreeMap<&'static str, Vec<u8>>,
    sums: Vec<u8>,
}

impl Version {
    fn make(work: &Path, version: &str, bytes: usize) -> Self {
        let executable = work.join(format!("executable-{version}"));
        let seed = version.bytes().map(u64::from).sum();
        let octets = tree::octets(&mut diodesync_system::prng::Prng::new(seed), bytes);
        std::fs::write(&executable, octets).unwrap();
        let platforms = [host_platform(), OTHER_PLATFORM];
        let source = "registry.example.com/acme/tool";
        // Only the archives: who signs them is another matter.
        let release = Publisher::new().unwrap();
        let release = release.release(&work.join(version), source, version, &executable, &platforms).unwrap();
        let archives = platforms
            .into_iter()
            .zip(&release.zips)
            .map(|(platform, zip)| (platform, std::fs::read(zip).unwrap()));
        Self { archives: archives.collect(), sums: std::fs::read(&release.sums).unwrap() }
    }

    fn offer(&self, registry: &mut Registry<'_>, version: &str, by: &impl Signs) {
        registry.offer(
            ("acme", "tool", version),
            &self.archives,
            &self.sums,
            &by.sign(&self.sums),
            &[by.key()],
        );
    }
}

fn archive_path(version: &str) -> String {
    let folder = Registry::folder("acme", "tool", version);
    format!("{folder}/terraform-provider-tool_{version}_{}.zip", host_platform())
}

fn provider_source(origin: &Origin, more: &str) -> String {
    format!(
        "[[source]]\nname = 'registry'\nkind = 'terraform'\nproviders = ['{}/acme/tool ~> 1.0']\n\
         platforms = ['{}', '{OTHER_PLATFORM}']\nnewest = 2\nca_file = '{}'\n{more}",
        origin.host(),
        host_platform(),
        origin.ca.display()
    )
}

#[test]
fn providers_are_pulled_from_their_registry_and_installed_on_the_far_side() {
    if let Err(skip) = gpg::find() {
        return skip.announce_or_fail_in_ci("a registry signed by gpg");
    }
    let mut pair = Pair::over_link(&Setup { name: "src-tf", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let (first, second) = (
        Gpg::new(&work.join("gpg1"), "First <first@example.com>", "never").unwrap(),
        Gpg::new(&work.join("gpg2"), "Second <second@example.com>", "never").unwrap(),
    );
    let mut registry = Registry::new(&origin);
    for version in ["0.9.0", "1.0.0", "1.1.0", "1.2.0-rc.1", "2.0.0"] {
        Version::make(&work, version, 300_000).offer(&mut registry, version, &first);
    }
    configure(&pair, &provider_source(&origin, "gone = 'withdraw'\n"));
    pair.start().unwrap();
    let name = |version: &str| format!("provider {}/acme/tool {version}", origin.host());

    let said = good(&pair);
    contains(&said, &["registry: 2 new, 0 unchanged", &name("1.0.0"), &name("1.1.0"), "release 1"]);
    assert!(!said.contains("rc.1") && !said.contains("2.0.0"), "{said}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    origin.asked();
    contains(&good(&pair), &["registry: 0 new, 2 unchanged"]);
    let asked = origin.asked();
    assert!(!asked.iter().any(|asked| asked.path.ends_with(".zip")), "{asked:?}");
    install(&pair, &origin, &work.join("project1"), &["1.0.0", "1.1.0"], &[]);

    // A version more, and one less; and the newest is signed anew by another key, which asks for no archive.
    Version::make(&work, "1.2.0", 300_000).offer(&mut registry, "1.2.0", &first);
    registry.withdraw("acme", "tool", "1.0.0");
    let said = good(&pair);
    contains(
        &said,
        &[
            "1 new, 1 unchanged, 1 gone",
            &format!("new      {}", name("1.2.0")),
            &format!("gone     {}", name("1.0.0")),
            "release 2",
        ],
    );
    pair.wait_published(2, 2 * MINUTE).unwrap();
    install(&pair, &origin, &work.join("project2"), &["1.2.0", "1.1.0"], &["1.0.0"]);
    Version::make(&work, "1.2.0", 300_000).offer(&mut registry, "1.2.0", &second);
    origin.asked();
    contains(&good(&pair), &["1 new, 1 unchanged; ", "release 3"]);
    let asked = origin.asked();
    assert!(!asked.iter().any(|asked| asked.path.ends_with(".zip")), "{asked:?}");
    pair.wait_published(3, 2 * MINUTE).unwrap();
    install(&pair, &origin, &work.join("project3"), &["1.2.0"], &[]);
}

#[test]
fn the_limit_of_artifacts_is_for_all_that_a_source_names() {
    let mut pair =
        Pair::over_link(&Setup { name: "src-max", ..Setup::default() }, Weather::default()).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let signer = Gpg::new(&work.join("gpg"), "Acme <acme@example.com>", "never").unwrap();
    let mut registry = Registry::new(&origin);
    Version::make(&work, "1.0.0", 1000).offer(&mut registry, "1.0.0", &signer);
    registry.offer_module("acme/net/aws", "1.0.0", "/files/1.0.0.zip");
    let more = format!("modules = ['{}/acme/net/aws']\nartifacts_max = 1\n", origin.host());
    configure(&pair, &provider_source(&origin, &more));
    pair.start().unwrap();
    origin.asked();
    let done = pair.low.run_within(&["sync"], 2 * MINUTE).unwrap();
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    contains(&done.stdout, &["it names 2 artifacts, the limit of this source is 1"]);
    let asked = origin.asked();
    assert!(!asked.iter().any(|asked| asked.path.contains("download")), "{asked:?}");
}

/// Installs versions with stock terraform; others are not there.
fn install(pair: &Pair, origin: &Origin, dir: &Path, there: &[&str], gone: &[&str]) {
    if let Err(skip) = terraform::find() {
        return skip.announce_or_fail_in_ci("installing what a source brought with stock terraform");
    }
    let rc = pair.mirror().unwrap().terraformrc(false).unwrap();
    let source = format!("{}/acme/tool", origin.host());
    let project = Project::new(dir, pair.high_prefix(), &rc, &pair.ca(), &source, "0.0.1").unwrap();
    for version in there {
        project.forget().unwrap();
        project.want(version).unwrap();
        let said = project.init(&[]).unwrap();
        contains(&said, &["self-signed, key ID"]);
        assert_eq!(project.lock().unwrap().of("zh").len(), 2, "every platform's hash");
    }
    for version in gone {
        project.forget().unwrap();
        project.want(version).unwrap();
        let error = format!("{:#}", project.init(&[]).unwrap_err());
        contains(&error, &["no available releases match"]);
    }
}

#[test]
fn what_an_upstream_does_wrong_is_named_and_the_last_good_state_stays() {
    if let Err(skip) = gpg::find() {
        return skip.announce_or_fail_in_ci("a registry signed by gpg, with faults");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-bad", ..Setup::default() }, Weather::default()).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let gpg = Gpg::new(&work.join("gpg"), "Publisher <publisher@example.com>", "never").unwrap();
    let mut registry = Registry::new(&origin);
    Version::make(&work, "1.0.0", 1_000_000).offer(&mut registry, "1.0.0", &gpg);
    configure(&pair, &provider_source(&origin, "bytes_max = '8MB'\n"));
    pair.low.start().unwrap();
    good(&pair);
    let staged_before = pair.low.ok(&["list"]).unwrap();
    let newest = || pair.low_status().unwrap().channel("main").unwrap().newest;
    assert_eq!(newest(), Some(1));

    // What is new is lied about in every way; what was good stays, and nothing is released.
    Version::make(&work, "1.1.0", 1_000_000).offer(&mut registry, "1.1.0", &gpg);
    let zip = archive_path("1.1.0");
    let sums =
        format!("{}/terraform-provider-tool_1.1.0_SHA256SUMS", Registry::folder("acme", "tool", "1.1.0"));
    let (good_sums, good_zip) = (origin.get(&sums).unwrap(), origin.get(&zip).unwrap());
    let versions = "/v1/providers/acme/tool/versions";
    let flipped: Vec<u8> =
        good_zip.iter().enumerate().map(|(at, octet)| if at == 99 { octet ^ 1 } else { *octet }).collect();
    let tampered =
        String::from_utf8(good_sums.clone()).unwrap().replacen(|c: char| c.is_ascii_digit(), "a", 1);
    let name = format!("{}/acme/tool 1.1.0", origin.host());
    let cases: Vec<(&str, Fault, Vec<&str>)> = vec![
        (&zip, Fault::Content(flipped), vec!["REFUSED", &name, &zip, "expected SHA-256", "found"]),
        (&zip, Fault::Endless, vec!["FAILED", &name, &zip, "bytes_max"]),
        (
            &zip,
            Fault::Redirect("file:///etc/passwd".to_owned()),
            vec!["FAILED", &name, "only https and http are fetched"],
        ),
        (
            &zip,
            Fault::Redirect("http://localhost/x".to_owned()),
            vec!["FAILED", &name, "from TLS to a connection without"],
        ),
        (&zip, Fault::Status(403, Vec::new()), vec!["FAILED", &name, "403 Forbidden"]),
        (&sums, Fault::Content(tampered.into_bytes()), vec!["REFUSED", &name, "tampered"]),
        (&sums, Fault::Endless, vec!["REFUSED", &name, "the answer is longer than 4 MiB"]),
        (
            versions,
            Fault::Content(b"<html>".to_vec()),
            vec!["FAILED", "acme/tool", "this is no list of versions"],
        ),
        (versions, Fault::Endless, vec!["FAILED", "acme/tool", "the answer is longer than 32 MiB"]),
        (versions, Fault::Content(br#"{"versions":[]}"#.to_vec()), vec!["FAILED", "acme/tool", "no version"]),
        (
            versions,
            Fault::Status(429, vec![("retry-after", "86400".to_owned())]),
            vec!["FAILED", "come back after 1 d 0 h"],
        ),
        (
            versions,
            Fault::Status(503, Vec::new()),
            vec!["FAILED", "acme/tool", "503 Service Unavailable", "tried 5 times"],
        ),
        (
            "/.well-known/terraform.json",
            Fault::Content(b"{}".to_vec()),
            vec!["FAILED", "does not offer providers.v1"],
        ),
    ];
    for (path, fault, expected) in cases {
        origin.heal();
        origin.fail(path, 99, fault.clone());
        let said = bad(&pair);
        contains(&said, &expected);
        assert_eq!(newest(), Some(1), "{fault:?}");
        assert_eq!(pair.low.ok(&["list"]).unwrap(), staged_before, "{fault:?}");
    }
    let alarms = pair.low_status().unwrap().alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.id == "source" && alarm.text.contains("source registry")),
        "{alarms:?}"
    );

    // Signed by somebody else than the registry says.
    let stranger = Gpg::new(&work.join("stranger"), "Stranger <stranger@example.com>", "never").unwrap();
    origin.heal();
    let signature = format!("{sums}.sig");
    let good_signature = origin.get(&signature).unwrap();
    origin.put(&signature, stranger.sign(&good_sums).unwrap());
    contains(&bad(&pair), &["REFUSED", &name, "expected one by key"]);
    origin.put(&signature, good_signature);

    // Cut in the middle, again and again; then the daemon is killed, and what came is gone on with.
    origin.fail(&zip, 1, Fault::Cut(600_000));
    origin.asked();
    let versions_busy = Fault::Status(429, vec![("retry-after", "1".to_owned())]);
    origin.fail(versions, 1, versions_busy);
    contains(&good(&pair), &["1 new, 1 unchanged", "release 2"]);
    let ranges: Vec<_> =
        origin.asked().into_iter().filter(|asked| asked.path == zip).map(|asked| asked.range).collect();
    // What the endless one left behind does not count.
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges.last(), Some(&Some("bytes=600000-".to_owned())));
    assert!(pair.low_status().unwrap().alarms.iter().all(|alarm| alarm.id != "source"));

    Version::make(&work, "1.2.0", 1_000_000).offer(&mut registry, "1.2.0", &gpg);
    let zip = archive_path("1.2.0");
    let content = origin.get(&zip).unwrap();
    origin.fail(&zip, 1, Fault::Cut(700_000));
    origin.fail(&zip, 99, Fault::Status(503, Vec::new()));
    let mut command = pair.low.spawn_command(&["sync"]).unwrap();
    let part = pair
        .low
        .dir()
        .join("sources/registry/parts")
        .join(tree::hex(&<sha2::Sha256 as sha2::Digest>::digest(&content)));
    wait_for("a part came", MINUTE, || Ok(part.metadata().is_ok_and(|it| it.len() >= 700_000).then_some(())))
        .unwrap();
    pair.low.kill_9().unwrap();
    command.wait().unwrap();
    origin.heal();
    origin.asked();
    pair.low.start().unwrap();
    contains(&good(&pair), &[&format!("new      provider {}/acme/tool 1.2.0", origin.host())]);
    let ranges: Vec<_> =
        origin.asked().into_iter().filter(|asked| asked.path == zip).map(|asked| asked.range).collect();
    assert_eq!(ranges, [Some("bytes=700000-".to_owned())]);
}

#[test]
fn a_registry_that_wants_a_token_gets_it_and_nobody_else() {
    let mut pair =
        Pair::over_link(&Setup { name: "src-token", ..Setup::default() }, Weather::default()).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let publisher = Publisher::new().unwrap();
    let mut registry = Registry::new(&origin);
    let version = Version::make(&work, "1.0.0", 100_000);
    let signature = publisher.sign(&version.sums).unwrap();
    registry.offer(
        ("acme", "tool", "1.0.0"),
        &version.archives,
        &version.sums,
        &signature,
        &[publisher.armored_key().unwrap()],
    );
    origin.guard(Some("Bearer t0ken"));
    configure(&pair, &provider_source(&origin, ""));
    pair.low.start().unwrap();
    contains(&bad(&pair), &["401 Unauthorized", "token_file"]);

    let token = work.join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    pair.low.stop().unwrap();
    configure(&pair, &provider_source(&origin, &format!("token_file = '{}'\n", token.display())));
    pair.low.start().unwrap();
    contains(&bad(&pair), &["others can read it", "chmod 600"]);
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    origin.asked();
    good(&pair);
    for asked in origin.asked() {
        assert_eq!(asked.authorization.is_some(), !asked.path.starts_with("/files/"), "{asked:?}");
    }
    assert!(!pair.low.log().contains("t0ken"));
    assert!(!pair.low.ok(&["status", "--json"]).unwrap().contains("t0ken"));
}

#[test]
fn files_by_url_and_from_a_folder() {
    let mut pair =
        Pair::over_link(&Setup { name: "src-files", ..Setup::default() }, Weather::default()).unwrap();
    let work = pair.dir.join("work");
    let drop_box = work.join("drop");
    std::fs::create_dir_all(drop_box.join("sub")).unwrap();
    let origin = Origin::start(&work).unwrap();
    let publisher = Publisher::new().unwrap();
    std::fs::write(work.join("publisher.asc"), publisher.armored_key().unwrap()).unwrap();
    let digest = |content: &[u8]| tree::hex(&<sha2::Sha256 as sha2::Digest>::digest(content));
    let list = |content: &[u8]| format!("{}  listed.bin\n", digest(content));
    let publish = |content: &[u8]| {
        origin.put("/d/listed.bin", content);
        origin.put("/d/SHA256SUMS", list(content));
        origin.put("/d/SHA256SUMS.sig", publisher.sign(list(content).as_bytes()).unwrap());
    };
    origin.put("/given.bin", b"given".as_slice());
    publish(b"listed");
    let text = format!(
        "[[source]]\nname = 'web'\nkind = 'http'\nca_file = '{}'\nfiles = [\n\
         {{ url = '{}', sha256 = '{}', executable = true }},\n\
         {{ url = '{}', sums = 'SHA256SUMS', signature = 'SHA256SUMS.sig', key_file = '{}', into = 'tools/' }} ]\n\
         [[source]]\nname = 'drop'\nkind = 'directory'\npath = '{}'\ninto = 'dropped'\nsettle = '1s'\ngone = 'withdraw'\n\
         release = false\n",
        origin.ca.display(),
        origin.url("/given.bin"),
        digest(b"given"),
        origin.url("/d/listed.bin"),
        work.join("publisher.asc").display(),
        drop_box.display()
    );
    configure(&pair, &text);
    std::fs::write(drop_box.join("a.txt"), b"a").unwrap();
    std::fs::write(drop_box.join("sub/b.txt"), b"b").unwrap();
    std::fs::create_dir(drop_box.join("empty")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    pair.low.start().unwrap();

    contains(
        &good(&pair),
        &[
            "web: 2 new",
            "file given.bin",
            "file tools/listed.bin",
            "release 1",
            "drop: 2 new",
            "file dropped/sub/b.txt",
        ],
    );
    contains(&good(&pair), &["web: 0 new, 2 unchanged", "drop: 0 new, 2 unchanged"]);

    // A file that another one has replaced, one that is gone, a link, and one that has not settled.
    publish(b"listed anew");
    std::fs::write(drop_box.join("a.txt"), b"A").unwrap();
    std::fs::remove_file(drop_box.join("sub/b.txt")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    contains(
        &good(&pair),
        &["web: 1 new, 1 unchanged", "drop: 1 new, 0 unchanged, 1 gone", "gone     file dropped/sub/b.txt"],
    );
    std::os::unix::fs::symlink("/etc/passwd", drop_box.join("link")).unwrap();
    contains(&bad(&pair), &["REFUSED  file dropped/link", "a symbolic link"]);
    std::fs::remove_file(drop_box.join("link")).unwrap();

    // The publisher's list must be the publisher's.
    origin.put("/d/SHA256SUMS", list(b"evil"));
    origin.put("/d/listed.bin", b"evil".as_slice());
    contains(&bad(&pair), &["REFUSED  file tools/listed.bin", "the signature of SHA256SUMS"]);
    let listed = pair.low.ok(&["list"]).unwrap();
    contains(&listed, &["file tools/listed.bin", "file dropped/a.txt"]);
    assert!(!listed.contains("file dropped/sub/b.txt"), "{listed}");

    let error = pair.low.run(&["sync", "drap"]).unwrap();
    assert_eq!(error.code, Some(1));
    contains(&error.stderr, &["there is no source \"drap\"", "\"drop\" is probably meant"]);
    let json: Value =
        serde_json::from_str(&pair.low.run(&["sync", "drop", "--json"]).unwrap().ok().unwrap()).unwrap();
    assert_eq!((json[0]["name"].as_str(), json[0]["report"]["unchanged"].as_u64()), (Some("drop"), Some(1)));
}

#[test]
fn a_source_is_pulled_by_the_clock_and_a_mistake_stops_the_start() {
    let mut pair =
        Pair::over_link(&Setup { name: "src-clock", ..Setup::default() }, Weather::default()).unwrap();
    let drop_box = pair.dir.join("drop");
    std::fs::create_dir_all(&drop_box).unwrap();
    std::fs::write(drop_box.join("a.txt"), b"a").unwrap();
    let source = format!(
        "[[source]]\nname = 'drop'\nkind = 'directory'\npath = '{}'\nsettle = '0s'\n",
        drop_box.display()
    );
    configure(&pair, &format!("{source}every = '1h'\n"));
    pair.start().unwrap();
    pair.wait_published(1, 2 * MINUTE).unwrap();
    contains(
        &pair.low.ok(&["status"]).unwrap(),
        &["source drop (directory) for channel main", "next      in "],
    );

    pair.low.stop().unwrap();
    for (mistake, expected) in [
        ("evry = '1h'\n", vec!["has no key `evry`; `every` is probably meant", "line ", "column 1"]),
        ("cron = '0 0 30 2 *'\n", vec!["expected times that come", "line ", "column 8"]),
        ("every = '1h'\ncron = '0 0 1 * *'\n", vec!["two schedules"]),
    ] {
        configure(&pair, &format!("{source}{mistake}"));
        assert!(pair.low.start().is_err());
        contains(&pair.low.log(), &expected);
    }
}

#[test]
fn sources_and_rates_are_taken_without_a_restart() {
    let setup = Setup { name: "src-reload", round_gap: "0s".to_owned(), ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(6)).unwrap();
    let source = |name: &str, more: &str| {
        let path = pair.dir.join("drop").join(name);
        tree::write(&path, name, name.as_bytes(), 0o644).unwrap();
        let path = path.display();
        format!("[[source]]\nname = '{name}'\nkind = 'directory'\npath = '{path}'\nsettle = '0s'\n{more}")
    };
    let (old, new) = (source("old", ""), source("new", "every = '1h'\n"));
    let damaged = source("damaged", "");
    configure(&pair, &old);
    pair.start().unwrap();
    let reload = |pair: &Pair| pair.low.run(&["reload"]).unwrap();
    let rate = |pair: &Pair| {
        let status: Value = serde_json::from_str(&pair.low.ok(&["status", "--json"]).unwrap()).unwrap();
        status["lanes"][0]["rate_max_bits_per_s"].as_u64().unwrap()
    };
    assert_eq!(reload(&pair).ok().unwrap(), "nothing has changed that is taken without a restart\n");
    contains(&good(&pair), &["old: 1 new", "release 1"]);
    pair.wait_published(1, 2 * MINUTE).unwrap();

    // One more, one less, another rate, and what needs a restart. The new one is pulled by the clock.
    configure(&pair, &new);
    pair.low.set(&["lane", "rate"], "50mbit").unwrap();
    pair.low.set(&["lane", "burst"], "30ms").unwrap();
    pair.low.set(&["channel", "rounds"], 3).unwrap();
    assert_eq!(
        reload(&pair).ok().unwrap(),
        "taken: channel main, lane lane0 rate, source new (new), source old (gone)\nchanged, and waiting for a restart: \
         lane lane0 burst\n"
    );
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let served = pair.mirror().unwrap().sums().unwrap();
    assert_eq!(served.keys().collect::<Vec<_>>(), ["new", "old"]);
    wait_for("the rate to be another", MINUTE, || Ok((rate(&pair) == 50_000_000).then_some(()))).unwrap();
    assert_eq!(pair.low_status().unwrap().channel("main").unwrap().rounds, 3);
    let error = pair.low.run(&["sync", "old"]).unwrap();
    assert_eq!(error.code, Some(1));
    contains(&error.stderr, &["there is no source \"old\"; there are new"]);
    contains(&good(&pair), &["new: 0 new, 1 unchanged"]);

    // What is no configuration, and what cannot be taken, changes nothing.
    pair.low.set(&["lane", "rate"], "60mbit").unwrap();
    configure(&pair, &new.replace("every", "evry"));
    let error = reload(&pair);
    assert_eq!(error.code, Some(1));
    contains(&error.stderr, &["line ", "column 1", "`every` is probably meant"]);
    let state = pair.low.dir().join("sources/damaged/state");
    std::fs::create_dir_all(state.parent().unwrap()).unwrap();
    std::fs::write(&state, "{").unwrap();
    configure(&pair, &damaged);
    let error = reload(&pair);
    assert_eq!(error.code, Some(1));
    contains(&error.stderr, &["sources/damaged/state is damaged"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rate(&pair), 50_000_000);
    contains(&good(&pair), &["new: 0 new, 1 unchanged"]);

    // One that comes back is known.
    configure(&pair, &format!("{old}{new}"));
    contains(
        &reload(&pair).ok().unwrap(),
        &["taken: lane lane0 rate, source old (new)\n", "restart: lane lane0 burst"],
    );
    contains(&good(&pair), &["new: 0 new, 1 unchanged", "old: 0 new, 1 unchanged"]);
    contains(
        &pair.low.ok(&["audit", "show", "--json"]).unwrap(),
        &["lane lane0 rate, source new (new), source old (gone)"],
    );
    // A restart takes the rest, and what was taken holds over it.
    pair.low.stop().unwrap();
    pair.low.start().unwrap();
    assert_eq!(reload(&pair).ok().unwrap(), "nothing has changed that is taken without a restart\n");
    assert_eq!(rate(&pair), 60_000_000);
}
