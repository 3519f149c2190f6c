//! Packages as a source: from an archive that `dpkg-deb`, `apt-ftparchive` and `gpg` made to stock `apt` on the far side,
//! with the archive's proof checked on both sides; and an archive that does everything wrong that one can.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::apt::Apt;
use diodesync_system::archive::Archive;
use diodesync_system::deb::{deb, find};
use diodesync_system::gpg::Gpg;
use diodesync_system::origin::{Fault, Origin};
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::skip::Skip;
use diodesync_system::tree;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

fn programs() -> Result<(), Skip> {
    for (program, package) in [
        ("dpkg-deb", "dpkg"),
        ("apt-get", "apt"),
        ("gpgv", "gpgv"),
        ("gpg", "gnupg"),
        ("apt-ftparchive", "apt-utils"),
        ("xz", "xz-utils"),
    ] {
        find(program, package)?;
    }
    Ok(())
}

/// Sets `[[source]]` of the sender; it takes them at its next start.
fn configure(pair: &Pair, text: &str) {
    let table: toml::Table = text.parse().unwrap();
    pair.low.set(&["source"], table["source"].clone()).unwrap();
}

fn sync(pair: &Pair) -> Done {
    pair.low.run_within(&["sync"], 10 * MINUTE).unwrap()
}

#[track_caller]
fn good(pair: &Pair) -> String {
    sync(pair).ok().unwrap()
}

#[track_caller]
fn bad(pair: &Pair, expected: &[&str]) {
    let done = sync(pair);
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    for expected in expected {
        assert!(done.stdout.contains(expected), "{expected:?} is not in:\n{}", done.stdout);
    }
}

/// The far side's apt, with what the gateway gives out to configure it.
fn far_apt(pair: &Pair) -> Apt {
    let mut https = pair.mirror().unwrap().https;
    let sources = String::from_utf8(https.get_ok("/client/diodesync.sources").unwrap().body).unwrap();
    let key = https.get_ok("/client/apt-key.asc").unwrap().body;
    Apt::new(pair, &sources, &key).unwrap()
}

/// Whether dpkg has a package in this version.
fn is_installed(status: &str, package: &str, version: &str) -> bool {
    status.split("\n\n").any(|stanza| {
        let has = |line: &str| stanza.lines().any(|own| own == line);
        has(&format!("Package: {package}"))
            && has(&format!("Version: {version}"))
            && has("Status: install ok installed")
    })
}

/// A date as archives write it, so many days from now.
fn archive_date(days: i32) -> String {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["--utc", "--date", &format!("{days} days")]);
    let output = date.arg("+%a, %d %b %Y %H:%M:%S UTC").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct World {
    work: PathBuf,
    origin: Origin,
    gpg: Gpg,
    base: Archive,
    updates: Archive,
    tool: PathBuf,
}

impl World {
    /// A suite with a tool and what it needs, and one with a newer version of that.
    fn new(work: &Path) -> Self {
        std::fs::create_dir_all(work).unwrap();
        let origin = Origin::start(work).unwrap();
        let gpg = Gpg::new(&work.join("gpg"), "Archive <archive@example.com>", "never").unwrap();
        let archive = |suite| Archive::new(&work.join(suite), suite).unwrap();
        let (base, updates) = (archive("demo"), archive("demo-updates"));
        let needs = "Depends: diode-data (>= 1.0), diode-sendmail | mail-server\nPre-Depends: diode-base\n";
        let tool = deb(&base.pool(), "diode-tool", "1:1.0-1", "amd64", needs, "xz").unwrap();
        for (name, version, architecture, more) in [
            ("diode-data", "1.0", "all", ""),
            ("diode-base", "3", "amd64", "Multi-Arch: same\n"),
            ("diode-exim", "4", "amd64", "Provides: mail-server\n"),
            ("diode-other", "1", "amd64", "Depends: diode-nowhere\n"),
            ("diode-plain", "1", "amd64", ""),
        ] {
            deb(&base.pool(), name, version, architecture, more, "gzip").unwrap();
        }
        deb(&updates.pool(), "diode-data", "1.1", "all", "", "zstd").unwrap();
        let world = Self { work: work.to_owned(), origin, gpg, base, updates, tool };
        std::fs::write(world.keyring(), world.gpg.key().unwrap()).unwrap();
        world.publish(&world.gpg, "");
        world
    }

    fn keyring(&self) -> PathBuf {
        self.work.join("keyring.asc")
    }

    fn publish(&self, gpg: &Gpg, more: &str) {
        for archive in [&self.base, &self.updates] {
            archive.index(gpg, more).unwrap();
            archive.give_out(&self.origin, "/archive").unwrap();
        }
    }

    fn source(&self, packages: &str, more: &str) -> String {
        format!(
            "[[source]]\nname = 'demo'\nkind = 'apt'\nurl = '{}'\nsuites = ['demo', 'demo-updates']\n\
             architectures = ['amd64']\npackages = [{packages}]\nkeyring = '{}'\nca_file = '{}'\n{more}",
            self.origin.url("/archive"),
            self.keyring().display(),
            self.origin.ca.display(),
        )
    }
}

#[test]
fn packages_are_pulled_from_an_archive_and_installed_by_stock_apt() {
    if let Err(skip) = programs() {
        return skip.announce_or_fail_in_ci("packages of an archive for stock apt");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-apt", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let world = World::new(&pair.dir.join("work"));
    configure(&pair, &world.source("'diode-tool'", ""));
    pair.start().unwrap();

    let said = good(&pair);
    assert!(said.contains("demo: 4 new, 0 unchanged") && said.contains("release 1"), "{said}");
    for name in [
        "demo/main diode-tool 1:1.0-1 amd64",
        "demo/main diode-base 3 amd64",
        "demo/main diode-exim 4 amd64",
        "demo-updates/main diode-data 1.1 all",
    ] {
        assert!(said.contains(&format!("new      package {name}\n")), "{name} is not in\n{said}");
    }
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let apt = far_apt(&pair);
    apt.ok(&["update"]).unwrap();
    let status = apt.install(&["diode-tool"]).unwrap();
    for (package, version) in
        [("diode-tool", "1:1.0-1"), ("diode-data", "1.1"), ("diode-base", "3"), ("diode-exim", "4")]
    {
        assert!(is_installed(&status, package, version), "{package} {version}:\n{status}");
    }
    assert_eq!(std::fs::read(apt.dir.join("root/usr/share/diode-data/file")).unwrap(), b"1.1");

    // What is here is not asked for again; what is new in one suite says nothing of the other.
    world.origin.asked();
    let said = good(&pair);
    assert!(said.contains("demo: 0 new, 4 unchanged"), "{said}");
    let asked = world.origin.asked();
    assert!(asked.iter().all(|asked| asked.path.ends_with("/InRelease")), "{asked:?}");
    deb(&world.base.pool(), "diode-tool", "1:1.1-1", "amd64", "Depends: diode-data\n", "xz").unwrap();
    world.publish(&world.gpg, "");
    let said = good(&pair);
    assert!(said.contains("demo: 1 new, 1 unchanged, 3 gone"), "{said}");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    apt.ok(&["update"]).unwrap();
    let status = apt.install(&["diode-tool"]).unwrap();
    assert!(is_installed(&status, "diode-tool", "1:1.1-1"), "{status}");
}

#[test]
fn a_suite_that_is_here_whole_is_served_as_its_archive_signed_it() {
    if let Err(skip) = programs() {
        return skip.announce_or_fail_in_ci("suites that are here whole for stock apt");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-replay", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let world = World::new(&pair.dir.join("work"));
    let dates = format!("Date: {}\nValid-Until: {}\n", archive_date(-2), archive_date(1));
    world.publish(&world.gpg, &dates);
    configure(&pair, &world.source("'diode-tool'", ""));
    pair.start().unwrap();
    good(&pair);
    pair.wait_published(1, 2 * MINUTE).unwrap();

    let mut https = pair.mirror().unwrap().https;
    let sources = String::from_utf8(https.get_ok("/client/replay.sources").unwrap().body).unwrap();
    let whole = "/replay/demo-updates\nSuites: demo-updates\nComponents: main\nArchitectures: amd64\n";
    assert!(sources.contains(whole), "{sources}");
    assert!(!sources.contains("Suites: demo\n"), "of demo three packages are not here: {sources}");
    let signed = https.get_ok("/replay/demo-updates/dists/demo-updates/InRelease").unwrap().body;
    assert_eq!(signed, std::fs::read(world.updates.dir.join("dists/demo-updates/InRelease")).unwrap());
    let key = https.get_ok("/replay/demo-updates/key.asc").unwrap().body;
    let of_site = "/etc/apt/keyrings/diodesync.asc";
    let apt = Apt::new(&pair, &sources.replace("/etc/apt/keyrings/demo-updates.asc", of_site), &key).unwrap();
    apt.ok(&["update"]).unwrap();
    let status = apt.install(&["diode-data"]).unwrap();
    assert!(is_installed(&status, "diode-data", "1.1"), "{status}");

    // More than half of the time is over for which it is valid: a newer one comes although no package is new. Of demo
    // none does, which is not here whole. The next one need not come, for it says nothing else.
    let publish = |pair: &Pair| {
        // Its date has whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        world.publish(&world.gpg, "");
        good(pair)
    };
    let renewed = "\n  renewed  main/binary-amd64/Packages.xz of suite demo-updates\n";
    let said = publish(&pair);
    assert!(said.contains("0 new, 4 unchanged, 1 renewed") && said.contains(renewed), "{said}");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let of_archive = || std::fs::read(world.updates.dir.join("dists/demo-updates/InRelease")).unwrap();
    let signed = https.get_ok("/replay/demo-updates/dists/demo-updates/InRelease").unwrap().body;
    assert_eq!(signed, of_archive());
    apt.ok(&["update"]).unwrap();
    let said = publish(&pair);
    assert!(said.contains("0 new, 4 unchanged; ") && !said.contains("release"), "{said}");

    // The newest release of the suite counts, and one from which a package is gone comes too.
    let newer = deb(&world.updates.pool(), "diode-data", "1.2", "all", "", "zstd").unwrap();
    publish(&pair);
    pair.wait_published(3, 2 * MINUTE).unwrap();
    apt.ok(&["update"]).unwrap();
    let status = apt.install(&["diode-data"]).unwrap();
    assert!(is_installed(&status, "diode-data", "1.2"), "{status}");
    std::fs::remove_file(newer).unwrap();
    let said = publish(&pair);
    assert!(said.contains(renewed), "{said}");
    pair.wait_published(4, 2 * MINUTE).unwrap();
    let signed = https.get_ok("/replay/demo-updates/dists/demo-updates/InRelease").unwrap().body;
    assert_eq!(signed, of_archive());
    apt.ok(&["update"]).unwrap();

    // It names a package that is not here: an older one in its place would hide what is new.
    deb(&world.updates.pool(), "diode-data", "1.3", "all", "", "zstd").unwrap();
    deb(&world.updates.pool(), "diode-extra", "1", "amd64", "", "xz").unwrap();
    publish(&pair);
    pair.wait_published(5, 2 * MINUTE).unwrap();
    let sources = String::from_utf8(https.get_ok("/client/replay.sources").unwrap().body).unwrap();
    assert!(sources.contains("None is"), "{sources}");
    let (done, said) = apt.get(&["update"]).unwrap();
    assert!(!done && said.contains("404"), "{said}");
    // The site's own archive has it.
    let apt = far_apt(&pair);
    apt.ok(&["update"]).unwrap();
    let status = apt.install(&["diode-data"]).unwrap();
    assert!(is_installed(&status, "diode-data", "1.3"), "{status}");
}

#[test]
fn what_an_archive_does_wrong_is_named_and_the_last_good_packages_stay() {
    if let Err(skip) = programs() {
        return skip.announce_or_fail_in_ci("packages of an archive with faults");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-aptbad", ..Setup::default() }, Weather::default()).unwrap();
    let world = World::new(&pair.dir.join("work"));
    configure(&pair, &world.source("'diode-tool'", ""));
    pair.start().unwrap();
    let (origin, gpg) = (&world.origin, &world.gpg);
    let release = "/archive/dists/demo/InRelease";
    let tool = "/archive/pool/demo/diode-tool_1:1.0-1_amd64.deb";
    let many = 99;

    // A package that breaks off is gone on with, and comes.
    let octets = origin.get(tool).unwrap();
    origin.asked();
    origin.fail(tool, 1, Fault::Cut(octets.len() / 2));
    origin.fail(release, 1, Fault::Status(429, vec![("retry-after", "1".to_owned())]));
    let said = good(&pair);
    assert!(said.contains("demo: 4 new"), "{said}");
    let asked = origin.asked();
    let ranges: Vec<_> = asked.iter().filter(|asked| asked.path == tool).map(|asked| &asked.range).collect();
    assert!(ranges.len() == 2 && ranges[0].is_none() && ranges[1].is_some(), "{ranges:?}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let apt = far_apt(&pair);
    apt.ok(&["update"]).unwrap();
    let is_served = || {
        apt.clean().unwrap();
        apt.ok(&["install", "--yes", "--download-only", "diode-tool=1:1.0-1"]).unwrap();
        let digest = tree::digest(&world.tool).unwrap().0;
        assert!(apt.archives().unwrap().iter().any(|(_, found)| *found == digest));
    };
    is_served();
    let before = origin.get(release).unwrap();

    // A newer package, behind everything that can go wrong.
    let newer =
        deb(&world.base.pool(), "diode-tool", "1:2.0-1", "amd64", "Depends: diode-data\n", "xz").unwrap();
    let newer_path = "/archive/pool/demo/diode-tool_1:2.0-1_amd64.deb";
    std::thread::sleep(Duration::from_millis(1100));
    world.publish(gpg, "Valid-Until: Sat, 01 Nov 2025 00:00:00 UTC\n");
    bad(&pair, &["FAILED", "demo: suite demo: https://", "was valid until 2025-11-01T00:00:00Z", "set it"]);
    let other = Gpg::new(&world.work.join("gpg2"), "New <new@example.com>", "never").unwrap();
    world.publish(&other, "");
    bad(&pair, &["FAILED", "expected a signature by one of the keys", "if the archive has changed its key"]);
    std::fs::write(world.keyring(), format!("{}{}", gpg.key().unwrap(), other.key().unwrap())).unwrap();
    let signed = origin.get(release).unwrap();
    let changed = String::from_utf8(signed).unwrap().replace("Suite: demo", "Suite: dem0");
    for (path, fault, expected) in [
        (release, Fault::Content(changed.into_bytes()), vec!["its signature by key", "does not match"]),
        (release, Fault::Content(b"<html>".to_vec()), vec!["expected -----BEGIN PGP SIGNED MESSAGE-----"]),
        (release, Fault::Endless, vec!["the answer is longer than"]),
        (release, Fault::Status(503, vec![]), vec!["503", "tried 5 times"]),
        (release, Fault::Status(404, vec![]), vec!["404"]),
        (release, Fault::Redirect("file:///etc/passwd".to_owned()), vec!["only https and http are fetched"]),
        (
            newer_path,
            Fault::Content(std::fs::read(&world.tool).unwrap()),
            vec!["package demo/main diode-tool 1:2.0-1 amd64", "it lies"],
        ),
        (
            newer_path,
            Fault::Status(404, vec![]),
            vec!["package demo/main diode-tool 1:2.0-1 amd64", "404", "1 packages could not be had"],
        ),
    ] {
        origin.heal();
        origin.fail(path, many, fault);
        bad(&pair, &expected);
    }
    origin.heal();
    is_served();
    let said = good(&pair);
    assert!(said.contains("new      package demo/main diode-tool 1:2.0-1 amd64"), "{said}");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    // An old release is good for ever if it has no Valid-Until; but what is newer is here.
    origin.fail(release, many, Fault::Content(before));
    bad(&pair, &["the archive gives out its release of", "it went back"]);
    origin.heal();
    apt.ok(&["update"]).unwrap();
    apt.clean().unwrap();
    apt.ok(&["install", "--yes", "--download-only", "diode-tool"]).unwrap();
    let digest = tree::digest(&newer).unwrap().0;
    assert!(apt.archives().unwrap().iter().any(|(_, found)| *found == digest));

    // What cannot be had whole, and what is not there.
    for (packages, more, expected) in [
        (
            "'diode-other'",
            "",
            vec!["diode-other 1 needs diode-nowhere for amd64", "name in assume what is there already"],
        ),
        ("'diode-tol'", "", vec!["no package for amd64 matches \"diode-tol\""]),
        ("'diode-plain (>= 2)'", "", vec!["no package for amd64 matches \"diode-plain (>= 2)\""]),
        (
            "'diode-plain'",
            "components = ['contrib']\n",
            vec!["no Packages file for component contrib", "it has components main"],
        ),
    ] {
        pair.low.stop().unwrap();
        configure(&pair, &world.source(packages, more));
        pair.low.start().unwrap();
        bad(&pair, &expected);
    }
    pair.low.stop().unwrap();
    configure(&pair, &world.source("'diode-o*', 'diode-plain=1'", "assume = ['diode-no*']\n"));
    pair.low.start().unwrap();
    let said = good(&pair);
    assert!(said.contains("demo: 2 new"), "{said}");
}

/// A real package with all that it depends on, from the archive that this machine's own apt is configured for, unpacked on
/// the far side into a root of its own, where it runs. It needs the network: `cargo test -- --ignored`.
#[test]
#[ignore = "it needs the archive that this machine's apt is configured for"]
fn a_real_package_of_the_configured_archive_runs_on_the_far_side() {
    programs().unwrap();
    let (url, suite, keyring) =
        configured_archive().expect("apt is configured for an archive with a keyring");
    let mut pair =
        Pair::over_link(&Setup { name: "src-real", ..Setup::default() }, Weather::lossy(1)).unwrap();
    configure(
        &pair,
        &format!(
            "[[source]]\nname = 'real'\nkind = 'apt'\nurl = '{url}'\nsuites = ['{suite}']\narchitectures = ['amd64']\n\
             packages = ['hello']\nkeyring = '{keyring}'\n"
        ),
    );
    pair.start().unwrap();
    let said = good(&pair);
    println!("{said}");
    pair.wait_published(1, 10 * MINUTE).unwrap();
    let apt = far_apt(&pair);
    apt.ok(&["update"]).unwrap();
    apt.ok(&["install", "--yes", "--download-only", "hello"]).unwrap();
    let debs = apt.archives().unwrap();
    assert!(debs.len() >= 3, "hello and its libraries: {debs:?}");
    // Their scripts would need a whole system around them; what they install does not.
    let root = apt.dir.join("root");
    for (deb, _) in &debs {
        let deb = apt.dir.join("cache/archives").join(deb);
        diodesync_system::deb::run(std::process::Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root))
            .unwrap();
    }
    let said =
        diodesync_system::deb::run(std::process::Command::new("chroot").arg(&root).arg("/usr/bin/hello"))
            .unwrap();
    assert!(said.contains("Hello, world!"), "{said}");
    println!("{said}");
}

/// Address, suite and keyring of the first archive that apt is configured for in a `.sources` file.
fn configured_archive() -> Option<(String, String, String)> {
    let shell = std::process::Command::new("apt-config")
        .args(["shell", "PARTS", "Dir::Etc::sourceparts/d"])
        .output()
        .ok()?;
    let shell = String::from_utf8(shell.stdout).ok()?;
    let folder = shell.trim().strip_prefix("PARTS='")?.strip_suffix('\'')?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let paragraphs: Vec<String> =
        texts.flat_map(|text| text.split("\n\n").map(str::to_owned).collect::<Vec<_>>()).collect();
    paragraphs.iter().find_map(|paragraph| {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let is_it = paragraph.contains("Components: main");
        let keyring = field("Signed-By").filter(|path| is_it && path.starts_with('/'))?;
        Some((field("URIs")?, field("Suites")?, keyring))
    })
}
