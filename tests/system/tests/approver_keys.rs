//! Approvers' keys under a passphrase, as whoever approves makes and uses them: on a machine of their own, at a terminal.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use diodesync_system::bins::bins;
use diodesync_system::scratch::Scratch;
use diodesync_system::wait_for;

const PASSPHRASE: &str = "drei Föhren am Hang";

/// A request as `held --request` prints it.
fn request(dir: &Path) -> PathBuf {
    let path = dir.join("request");
    let text = format!(
        "diodesync approval request 1\nlink {}\nchannel main\nrelease 7\nindex {}\n",
        "0a".repeat(16),
        "1b".repeat(32)
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs the receiver's command in a session of its own, which has no terminal.
fn run(arguments: &[&str], more: &[&str]) -> Output {
    Command::new("setsid")
        .arg("--wait")
        .arg(&bins().unwrap().receiver)
        .args(arguments)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ok(arguments: &[&str], more: &[&str]) -> String {
    let output = run(arguments, more);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(arguments: &[&str], more: &[&str]) -> String {
    let output = run(arguments, more);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs it at a terminal, and types an answer whenever it has asked. What the terminal shows, and the exit code.
fn typed(arguments: &[&str], answers: &[(&str, &str)]) -> (String, Option<i32>) {
    let program = bins().unwrap().receiver.display().to_string();
    let words: Vec<String> =
        [&[program.as_str()], arguments].concat().iter().map(|word| format!("'{word}'")).collect();
    let line = format!("tty; exec {}", words.join(" "));
    let mut child = Command::new("timeout")
        .args(["--foreground", "120", "script", "-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    let mut read_to = |end: &str, shown: &mut Vec<u8>| {
        let mut octet = [0];
        while !shown.ends_with(end.as_bytes()) {
            assert_eq!(screen.read(&mut octet).unwrap(), 1, "{end:?}: {}", String::from_utf8_lossy(shown));
            shown.push(octet[0]);
        }
    };
    read_to("\n", &mut shown);
    let terminal = String::from_utf8(std::mem::take(&mut shown)).unwrap().trim().to_owned();
    for (question, answer) in answers {
        read_to(question, &mut shown);
        // It asks before it turns the echo off.
        wait_for("the echo is off", Duration::from_secs(30), || {
            let state = Command::new("stty").args(["-a", "-F", &terminal]).output()?;
            Ok(String::from_utf8_lossy(&state.stdout).contains(" -echo ").then_some(()))
        })
        .unwrap();
        keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    (String::from_utf8_lossy(&shown).into_owned(), child.wait().unwrap().code())
}

/// The `key` of the `[[approver]]` that was printed.
fn public(text: &str) -> String {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("key = \"")?.strip_suffix('"'));
    line.unwrap_or_else(|| panic!("there is no key in {text:?}")).to_owned()
}

#[test]
fn a_passphrase_from_a_file() {
    let dir = Scratch::new("approver-file").unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(path("good"), format!("{PASSPHRASE}\nand what comes after\n")).unwrap();
    std::fs::write(path("bad"), "drei Föhren\n").unwrap();
    std::fs::write(path("none"), "\nsecond line\n").unwrap();
    let (key, request) = (path("key"), request(dir.path()).display().to_string());
    let make = ["approver-key", "--name", "alice", "--out", &key];
    // Nobody is there to be asked, and a key without a passphrase must be meant.
    assert!(refused(&make, &[]).contains("--passphrase-file FILE"));
    assert!(refused(&make, &["--passphrase-file", &path("none")]).contains("expected a passphrase"));
    assert!(!Path::new(&key).exists());
    let public = public(&ok(&make, &["--passphrase-file", &path("good")]));

    let sign = ["approve", "--offline", &request, "--key", &key];
    let signed = ok(&sign, &["--passphrase-file", &path("good")]);
    assert!(signed.contains(&format!("key {public}")), "{signed}");
    assert!(refused(&sign, &["--passphrase-file", &path("bad")]).contains("the passphrase is wrong"));
    assert!(refused(&sign, &[]).contains("--passphrase-file FILE"));
    // The key itself is not what is on the disk: with any octet of it changed it does not sign.
    let octets = std::fs::read(&key).unwrap();
    let mut changed = octets.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&key, changed).unwrap();
    assert!(refused(&sign, &["--passphrase-file", &path("good")]).contains("key"));
}

#[test]
fn a_passphrase_that_is_typed() {
    let dir = Scratch::new("approver-typed").unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let (key, request) = (path("key"), request(dir.path()).display().to_string());
    let make = ["approver-key", "--name", "alice", "--out", &key];
    let (first, second) = ("Passphrase for the new key: ", "The same again: ");
    let (shown, code) = typed(&make, &[(first, PASSPHRASE), (second, "drei Föhren")]);
    assert!(code == Some(1) && shown.contains("another one; no key was made"), "{shown}");
    let (shown, code) = typed(&make, &[(first, "")]);
    assert!(code == Some(1) && shown.contains("--no-passphrase"), "{shown}");
    assert!(!Path::new(&key).exists());
    let (shown, code) = typed(&make, &[(first, PASSPHRASE), (second, PASSPHRASE)]);
    assert!(code == Some(0) && !shown.contains("Hang"), "{shown}");
    let public = public(&shown);

    let sign = ["approve", "--offline", &request, "--key", &key];
    let question = format!("Passphrase of {key}: ");
    let (shown, code) = typed(&sign, &[(&question, "drei Föhren am Ufer")]);
    assert!(code == Some(1) && shown.contains("the passphrase is wrong"), "{shown}");
    let (shown, code) = typed(&sign, &[(&question, PASSPHRASE)]);
    assert!(code == Some(0) && shown.contains(&format!("key {public}")), "{shown}");
    assert!(!shown.contains("Hang"), "{shown}");
}
