//! Debian packages through the real command line: what `dpkg-deb` makes is taken, whatever packs it, and what is not
//! whole or not one package is refused with the reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use diodesync_system::side::{Pair, Setup};
use diodesync_system::skip::Skip;
use diodesync_system::weather::Weather;

/// A pair whose sender runs, or nothing where there is no dpkg-deb.
fn submitting(name: &'static str) -> Option<Pair> {
    if let Err(error) = Command::new("dpkg-deb").arg("--version").output() {
        let skip = Skip::curable(format!("cannot run dpkg-deb ({error}); the package is dpkg"));
        skip.announce_or_fail_in_ci("submitting Debian packages");
        return None;
    }
    let mut pair = Pair::over_link(&Setup { name, ..Setup::default() }, Weather::clear()).unwrap();
    pair.low.start().unwrap();
    Some(pair)
}

/// Builds a package whose control file is `control` and which installs one file with `content`.
fn build(dir: &Path, file: &str, packed: &str, control: &str, content: &str) -> PathBuf {
    let root = dir.join(format!("{file}.root"));
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::create_dir_all(root.join("usr/share/demo")).unwrap();
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    fs::write(root.join("usr/share/demo/file"), content).unwrap();
    let deb = dir.join(file);
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "--uniform-compression", &format!("-Z{packed}"), "--build"])
        .args([&root, &deb])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    deb
}

fn control(package: &str, version: &str, more: &str) -> String {
    format!(
        "Package: {package}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.com>\n\
         {more}Description: made for a test\n"
    )
}

fn submit<'a>(deb: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["submit", "packages", deb.to_str().unwrap(), "--suite", "bookworm"], more].concat()
}

fn refuse(pair: &Pair, deb: &Path, more: &[&str], reason: &str) {
    let before = pair.low_status().unwrap().staged();
    let done = pair.low.run(&submit(deb, more)).unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains(reason), "{} does not say {reason:?}:\n{}", done.line, done.stderr);
    assert_eq!(pair.low_status().unwrap().staged(), before, "{} staged something", done.line);
}

#[test]
fn packages_of_every_compression_are_taken() {
    let Some(pair) = submitting("debs") else { return };
    for (at, packed) in (1..).zip(["none", "gzip", "xz", "zstd"]) {
        let name = format!("demo-{packed}");
        let deb =
            build(pair.dir.path(), &format!("{packed}.deb"), packed, &control(&name, "1:1.0-1", ""), packed);
        pair.low.ok(&submit(&deb, &[])).unwrap();
        assert_eq!(pair.low_status().unwrap().staged(), at);
    }
    // The same again changes nothing, in this component or as another one's.
    let deb = pair.dir.join("xz.deb");
    pair.low.ok(&submit(&deb, &[])).unwrap();
    pair.low.ok(&submit(&deb, &["--component", "contrib"])).unwrap();
}

#[test]
fn bad_packages_are_refused_with_the_reason() {
    let Some(pair) = submitting("bad-debs") else { return };
    let dir = pair.dir.path().to_owned();
    let good = build(&dir, "good.deb", "xz", &control("demo", "1.0", ""), "one");

    let octets = fs::read(&good).unwrap();
    let cut = dir.join("cut.deb");
    for end in [octets.len() - 10, octets.len() / 2, 100] {
        fs::write(&cut, &octets[..end]).unwrap();
        refuse(&pair, &cut, &[], "cut.deb is refused");
        refuse(&pair, &cut, &[], "the package is truncated, download it again");
    }
    fs::write(&cut, b"").unwrap();
    refuse(&pair, &cut, &[], "found an empty file");
    let text = dir.join("text.deb");
    fs::write(&text, "<html>404 Not Found</html>\n").unwrap();
    refuse(&pair, &text, &[], "expected a Debian package (an ar archive that starts with debian-binary)");

    // dpkg-deb packs maintainers' files beside the control file; this one is a bomb in a few kilobytes.
    let bomb_root = dir.join("bomb.deb.root");
    build(&dir, "bomb.deb", "xz", &control("bomb", "1", ""), "x");
    fs::write(bomb_root.join("DEBIAN/zeros"), vec![0; 80 << 20]).unwrap();
    for packed in ["gzip", "xz", "zstd"] {
        let bomb = build(&dir, "bomb.deb", packed, &control("bomb", "1", ""), "x");
        assert!(fs::metadata(&bomb).unwrap().len() < 200_000);
        refuse(&pair, &bomb, &[], "this is no package, or a tarball bomb");
    }

    refuse(&pair, &good, &["--component", "a/b"], "the component \"a/b\" is refused");
    let usage = pair.low.run(&["submit", "packages", good.to_str().unwrap(), "--suite", "../x"]).unwrap();
    assert_eq!(usage.code, Some(2), "{usage:?}");

    // One version has one content in a suite, whatever component it is in.
    pair.low.ok(&submit(&good, &[])).unwrap();
    let other = build(&dir, "other.deb", "xz", &control("demo", "1.0", ""), "two");
    refuse(&pair, &other, &[], "bookworm/main demo 1.0 all is there already");
    refuse(&pair, &other, &["--component", "contrib"], "are one version with two contents");
    pair.low.ok(&["submit", "packages", other.to_str().unwrap(), "--suite", "trixie"]).unwrap();
}
