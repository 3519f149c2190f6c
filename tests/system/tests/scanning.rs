//! Malware: a real clamd, with a signature database of the test's own, sees what is inside of what is inside.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diodesync_system::deb;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::skip::Skip;
use diodesync_system::status::ReleaseState;
use diodesync_system::weather::Weather;
use diodesync_system::{tree, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// What the database of the test knows. Not EICAR's own text, so that no scanner of this machine minds the source.
const EVIL: &str = "this is what the test calls evil, 4f1d7c";

/// A clamd of the test's own.
struct Clamd {
    child: Child,
    socket: PathBuf,
    dir: PathBuf,
}

impl Clamd {
    fn start(dir: &Path) -> Result<Self, Skip> {
        let program = Path::new("/usr/sbin/clamd");
        if !program.is_file() {
            return Err(Skip::curable("clamd is not installed; apt-get install clamav-daemon"));
        }
        std::fs::create_dir_all(dir.join("db")).unwrap();
        let hex: String = EVIL.bytes().map(|octet| format!("{octet:02x}")).collect();
        // NAME:any target:at any place:what (the format .ndb of ClamAV's manual).
        std::fs::write(dir.join("db/test.ndb"), format!("Test.Evil:0:*:{hex}\n")).unwrap();
        let config = format!(
            "Foreground yes\nLocalSocket {dir}/clamd.ctl\nDatabaseDirectory {dir}/db\nTemporaryDirectory {dir}\nUser root\n\
             StreamMaxLength 100M\n",
            dir = dir.display()
        );
        std::fs::write(dir.join("clamd.conf"), config).unwrap();
        let mut clamd =
            Self { child: spawn(program, dir), socket: dir.join("clamd.ctl"), dir: dir.to_owned() };
        clamd.wait();
        Ok(clamd)
    }

    fn wait(&mut self) {
        wait_for("clamd listens", MINUTE, || {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("clamd ended: {status}");
            }
            Ok(std::os::unix::net::UnixStream::connect(&self.socket).is_ok().then_some(()))
        })
        .unwrap();
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }

    fn start_again(&mut self) {
        self.child = spawn(Path::new("/usr/sbin/clamd"), &self.dir);
        self.wait();
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(program: &Path, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("clamd.log")).unwrap();
    Command::new(program)
        .arg("--config-file")
        .arg(dir.join("clamd.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn submit(pair: &Pair, file: &str, content: &[u8]) {
    let dir = pair.dir.join("files");
    tree::write(&dir, file, content, 0o644).unwrap();
    pair.low.ok(&["submit", "files", &dir.join(file).display().to_string()]).unwrap();
}

fn scan(pair: &Pair, more: &str) {
    let table: toml::Table = more.parse().unwrap();
    pair.high.set(&["scan"], table).unwrap();
}

#[test]
fn what_clamd_finds_in_a_package_holds_the_release() {
    let mut pair = Pair::over_link(&Setup { name: "scan", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let mut clamd = match Clamd::start(&pair.dir.join("clamd")) {
        Ok(clamd) => clamd,
        Err(skip) => return skip.announce_or_fail_in_ci("scanning by a real clamd"),
    };
    scan(&pair, &format!("clamd = '{}'\nunscanned = 'deny'\nbytes_max = '1MB'\n", clamd.socket.display()));
    pair.start().unwrap();
    submit(&pair, "good", &tree::octets(&mut Prng::new(1), 100_000));
    pair.low.ok(&["release"]).unwrap();
    pair.wait_state(1, ReleaseState::Published);
    let before = pair.mirror().unwrap().sums().unwrap();
    assert_eq!(before.len(), 1);

    // In a file of a package, which only dpkg unpacks.
    let debs = pair.dir.join("debs");
    tree::write(&debs, "evil-tool-1.0-1/usr/share/evil/x", EVIL.as_bytes(), 0o644).unwrap();
    let deb = deb::deb(&debs, "evil-tool", "1.0-1", "all", "", "xz").unwrap().display().to_string();
    pair.low.ok(&["submit", "packages", &deb, "--suite", "demo"]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    let why = pair.wait_state(2, ReleaseState::Refused);
    assert!(
        why.contains("package demo/main evil-tool 1.0-1")
            && why.contains("usr/share/evil/x: Test.Evil.UNOFFICIAL"),
        "{why}"
    );
    assert!(why.contains("was found by ClamAV"), "{why}");
    assert_eq!(pair.mirror().unwrap().sums().unwrap(), before);
    pair.low.ok(&["withdraw", "package demo/main evil-tool 1.0-1 all"]).unwrap();

    // What is too large to be seen whole is not clean.
    submit(&pair, "large", &tree::octets(&mut Prng::new(2), 1_200_000));
    pair.low.ok(&["release"]).unwrap();
    let why = pair.wait_state(3, ReleaseState::Refused);
    assert!(why.contains("file large: it has more than 1000000 octets"), "{why}");
    pair.low.ok(&["withdraw", "file large"]).unwrap();

    // Nor is anything while it is down; it goes on by itself.
    clamd.stop();
    submit(&pair, "later", b"later");
    pair.low.ok(&["release"]).unwrap();
    let why = pair.wait_state(4, ReleaseState::Unscanned);
    assert!(why.contains("clamd does not answer at"), "{why}");
    assert!(pair.high_status().unwrap().alarm("release-unscanned").is_some());
    assert_eq!(pair.mirror().unwrap().sums().unwrap(), before);
    clamd.start_again();
    pair.wait_state(4, ReleaseState::Published);
    assert_eq!(pair.mirror().unwrap().sums().unwrap().len(), 2);
}

#[test]
fn another_scanner_is_a_program() {
    let mut pair =
        Pair::over_link(&Setup { name: "scan-cmd", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let script = pair.dir.join("bin/scan");
    let text =
        format!("#!/bin/sh\nif grep -qF '{EVIL}'; then echo \"Evil in $DIODESYNC_ARTIFACT\"; exit 1; fi\n");
    tree::write(&pair.dir.join("bin"), "scan", text.as_bytes(), 0o755).unwrap();
    scan(&pair, &format!("command = ['{}']\nunscanned = 'deny'\n", script.display()));
    pair.start().unwrap();
    submit(&pair, "good", b"good");
    pair.low.ok(&["release"]).unwrap();
    pair.wait_state(1, ReleaseState::Published);
    submit(&pair, "bad", EVIL.as_bytes());
    pair.low.ok(&["release"]).unwrap();
    let why = pair.wait_state(2, ReleaseState::Refused);
    assert!(why.contains("file bad: Evil in file bad"), "{why}");
    assert_eq!(pair.mirror().unwrap().sums().unwrap().len(), 1);
}
