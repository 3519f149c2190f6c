//! Debian packages: real `dpkg-deb` makes them, stock `apt` takes them on the far side, with every date and signature
//! checked.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use diodesync_system::apt::Apt;
use diodesync_system::deb::{deb, find, run};
use diodesync_system::netns::{Family, Gap};
use diodesync_system::side::{Pair, Setup};
use diodesync_system::tree;

const MINUTE: Duration = Duration::from_secs(60);

fn release(pair: &mut Pair, number: u64, debs: &[&PathBuf]) {
    let mut words = vec!["submit", "packages", "--suite", "bookworm"];
    words.extend(debs.iter().map(|deb| deb.to_str().unwrap()));
    pair.low.ok(&words).unwrap();
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(number, 2 * MINUTE).unwrap();
}

#[test]
fn stock_apt_installs_from_the_far_side() {
    for (program, package) in [("dpkg-deb", "dpkg"), ("apt-get", "apt"), ("gpgv", "gpgv")] {
        if let Err(skip) = find(program, package) {
            return skip.announce_or_fail_in_ci("packages for stock apt");
        }
    }
    let gap = match Gap::open(Family::V4, 0.02) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci("packages for stock apt"),
    };
    let mut pair = Pair::over_gap(&Setup { name: "packages", ..Setup::default() }, gap).unwrap();
    pair.start().unwrap();
    let work = pair.dir.join("debs");
    let tool = deb(&work, "diode-tool", "1:1.0-1", "amd64", "Depends: diode-data (>= 1.0)\n", "xz").unwrap();
    let data = deb(&work, "diode-data", "1.0", "all", "", "gzip").unwrap();
    let other = deb(&work, "diode-other", "2.0~rc1", "amd64", "", "zstd").unwrap();
    release(&mut pair, 1, &[&tool, &data, &other]);

    let mut mirror = pair.mirror().unwrap();
    let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
    let sources = text(mirror.https.get_ok("/client/diodesync.sources").unwrap().body);
    let key = mirror.https.get_ok("/client/apt-key.asc").unwrap().body;
    let apt = Apt::new(&pair, &sources, &key).unwrap();
    let said = apt.ok(&["update", "-o", "Debug::Acquire::https=true"]).unwrap();
    assert!(said.contains("/by-hash/SHA256/"), "apt did not ask by hash: {said}");
    let said = apt.ok(&["install", "--yes", "--download-only", "diode-tool", "diode-other"]).unwrap();
    assert_eq!(apt.archives().unwrap().len(), 3, "{said}");
    for (name, digest) in apt.archives().unwrap() {
        let source = [&tool, &data, &other].into_iter().find(|path| {
            let package = path.file_name().unwrap().to_str().unwrap().split('_').next().unwrap();
            name.starts_with(&format!("{package}_"))
        });
        assert_eq!(digest, tree::digest(source.unwrap()).unwrap().0, "{name}");
    }

    // The signature is one that gpgv takes, and another key is refused.
    let inrelease = mirror.https.get_ok("/apt/dists/bookworm/InRelease").unwrap().body;
    std::fs::write(work.join("InRelease"), &inrelease).unwrap();
    std::fs::write(work.join("key.asc"), &key).unwrap();
    run(Command::new("gpg")
        .args(["--batch", "--yes", "--dearmor", "-o"])
        .arg(work.join("key.gpg"))
        .arg(work.join("key.asc")))
    .unwrap();
    run(Command::new("gpgv").arg("--keyring").arg(work.join("key.gpg")).arg(work.join("InRelease"))).unwrap();
    let stranger = diodesync_system::provider::Publisher::new().unwrap().armored_key().unwrap();
    std::fs::write(apt.dir.join("key.asc"), stranger).unwrap();
    let (_, said) = apt.get(&["update"]).unwrap();
    assert!(said.contains("NO_PUBKEY") || said.contains("not signed"), "{said}");
    std::fs::write(apt.dir.join("key.asc"), &key).unwrap();

    // A newer version is an upgrade; the index of the release before is still there for who has begun.
    let packages = said_path(&text(inrelease), "main/binary-amd64/Packages");
    let newer = deb(&work, "diode-data", "1.1", "all", "", "xz").unwrap();
    release(&mut pair, 2, &[&newer]);
    apt.ok(&["update"]).unwrap();
    let said = apt.ok(&["install", "--yes", "--download-only", "diode-data"]).unwrap();
    assert!(said.contains("1.1"), "{said}");
    let old = format!("/apt/dists/bookworm/main/binary-amd64/by-hash/SHA256/{packages}");
    assert!(mirror.https.get_ok(&old).is_ok());

    // After a restart everything is there, under the same key, and the index from before it too.
    pair.high.kill_9().unwrap();
    pair.high.start().unwrap();
    apt.ok(&["update"]).unwrap();
    let mut mirror = pair.mirror().unwrap();
    assert!(mirror.https.get_ok(&old).is_ok());

    // The site's own key: as gpg makes it, the primary key certifies and a subkey signs.
    let gpg = Gpg::new(pair.dir.join("gpg"));
    let use_key = |pair: &mut Pair, key: &PathBuf| {
        pair.high.stop().unwrap();
        pair.high.set(&["apt", "signing_key"], key.display().to_string()).unwrap();
        pair.high.start().map_err(|error| error.to_string())
    };
    for (name, usage, subkey, time, words) in [
        ("certifies", "cert", None, None, "neither its primary key nor a subkey is for signing"),
        ("expired", "cert,sign", None, Some("20250101T000000!"), "the key expired at 2025"),
        (
            "expired-subkey",
            "cert",
            Some("1d"),
            Some("20250101T000000!"),
            "its signing subkey expired at 2025",
        ),
    ] {
        let life = if subkey.is_none() && time.is_some() { "1d" } else { "never" };
        let error = use_key(&mut pair, &gpg.key(name, usage, life, subkey, time)).unwrap_err();
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
    let alarm = |pair: &Pair| {
        let status = pair.high_status().unwrap();
        status.alarms.iter().find(|alarm| alarm.id == "apt-key").map(|alarm| alarm.text.clone())
    };
    use_key(&mut pair, &gpg.key("ends-soon", "cert", "never", Some("10d"), None)).unwrap();
    assert!(alarm(&pair).unwrap().contains("expires at"));
    use_key(&mut pair, &gpg.key("site", "cert", "never", Some("40d"), None)).unwrap();
    assert_eq!(alarm(&pair), None);
    let key = pair.mirror().unwrap().https.get_ok("/client/apt-key.asc").unwrap().body;
    std::fs::write(apt.dir.join("key.asc"), key).unwrap();
    apt.ok(&["update"]).unwrap();
    apt.clean().unwrap();
    apt.ok(&["install", "--yes", "--download-only", "diode-data"]).unwrap();
    let archives = apt.archives().unwrap();
    assert!(archives.len() == 1 && archives[0].1 == tree::digest(&newer).unwrap().0, "{archives:?}");
}

/// A GnuPG of its own.
struct Gpg {
    home: PathBuf,
}

impl Gpg {
    fn new(home: PathBuf) -> Self {
        std::fs::create_dir_all(&home).unwrap();
        std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { home }
    }

    fn run(&self, time: Option<&str>, words: &[&str]) -> String {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&self.home).args(["--batch", "--yes", "--quiet", "--passphrase", ""]);
        gpg.args(["--pinentry-mode", "loopback"]);
        if let Some(time) = time {
            gpg.args(["--faked-system-time", time]);
        }
        run(gpg.args(words)).unwrap()
    }

    /// A secret key in a file; `subkey` is the life of one that signs.
    fn key(&self, name: &str, usage: &str, life: &str, subkey: Option<&str>, time: Option<&str>) -> PathBuf {
        let user = format!("{name} <{name}@site.example>");
        self.run(time, &["--quick-gen-key", &user, "ed25519", usage, life]);
        let listing = self.run(None, &["--with-colons", "--list-keys", &user]);
        let fingerprint =
            listing.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().trim_matches(':');
        if let Some(life) = subkey {
            self.run(time, &["--quick-add-key", fingerprint, "ed25519", "sign", life]);
        }
        let path = self.home.join(format!("{name}.asc"));
        let file = path.display().to_string();
        self.run(None, &["--armor", "--output", &file, "--export-secret-keys", fingerprint]);
        path
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).output();
    }
}

/// The digest that a Release gives for a path.
fn said_path(release: &str, path: &str) -> String {
    let line = release.lines().find(|line| line.ends_with(path)).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}
