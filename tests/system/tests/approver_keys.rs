//! Approvers' keys under a passphrase, as whoever approves makes and uses them: on a machine of their own, at a terminal.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use diodesync::pack::fact;
use diodesync::passphrase::SEALED_BYTES;
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
    let line = format!("tty; {}; code=$?; stty -a; exit $code", words.join(" "));
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
        // Not before nothing of it is shown.
        wait_for("the echo is off", Duration::from_secs(30), || {
            let state = Command::new("stty").args(["-a", "-F", &terminal]).output()?;
            Ok(String::from_utf8_lossy(&state.stdout).contains(" -echo ").then_some(()))
        })
        .unwrap();
        keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    for mode in ["isig", "icanon", "echo"] {
        assert!(
            shown.split_whitespace().any(|word| word == mode),
            "the terminal is left without {mode}: {shown}"
        );
    }
    (shown, child.wait().unwrap().code())
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
    let words = format!("{PASSPHRASE}\nand what comes after\n");
    for (name, text) in [("good", words.as_str()), ("bad", "drei Föhren\n"), ("none", "\nsecond line\n")] {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), Permissions::from_mode(0o600)).unwrap();
    }
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
    // What is on the disk is not the key, and with any octet of it changed it opens nothing.
    let content = fact::read(Path::new(&key)).unwrap().unwrap();
    assert!(content.starts_with(b"DSPK") && content.len() == SEALED_BYTES, "{} octets", content.len());
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    let mut changed = content.clone();
    *changed.last_mut().unwrap() ^= 1;
    fact::write_secret(Path::new(&key), &changed).unwrap();
    assert!(refused(&sign, &["--passphrase-file", &path("good")]).contains("or the file was changed"));
    fact::write_secret(Path::new(&key), &content).unwrap();

    // A file that others can read is no better than none; and one for a key that has no passphrase helps nobody.
    std::fs::set_permissions(path("good"), Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&sign, &["--passphrase-file", &path("good")]).contains("others can read it"));
    std::fs::set_permissions(path("good"), Permissions::from_mode(0o600)).unwrap();
    let bare = ["approver-key", "--name", "bob", "--out", "bare.key", "--no-passphrase"];
    let output = Command::new(&bins().unwrap().receiver).args(bare).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let bare = path("bare.key");
    let sign = ["approve", "--offline", &request, "--key", &bare];
    assert!(refused(&sign, &["--passphrase-file", &path("good")]).contains("has no passphrase"));
    assert!(ok(&sign, &[]).contains("signature "));
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
    // Ctrl-C, Ctrl-D.
    for key in ["\x03", "\x04"] {
        let (shown, code) = typed(&make, &[(first, key)]);
        assert!(code == Some(1) && shown.contains("no passphrase was given"), "{shown}");
    }
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
