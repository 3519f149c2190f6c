//! What may be published: the policy's rules, and approvers who sign with keys that no daemon has.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use diodesync_system::bins::workspace;
use diodesync_system::browser::Browser;
use diodesync_system::prng::Prng;
use diodesync_system::provider::{OTHER_PLATFORM, Publisher, host_platform};
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::status::ReleaseState;
use diodesync_system::tmpfs::Tmpfs;
use diodesync_system::weather::Weather;
use diodesync_system::{tree, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a token of the test's own";

fn submit(pair: &Pair, file: &str, octets: usize) {
    let dir = pair.dir.join("files");
    tree::write(&dir, file, &tree::octets(&mut Prng::new(octets as u64), octets), 0o644).unwrap();
    pair.low.ok(&["submit", "files", &dir.join(file).display().to_string()]).unwrap();
}

/// Submits a file and cuts a release.
fn release(pair: &Pair, file: &str, octets: usize) {
    submit(pair, file, octets);
    pair.low.ok(&["release"]).unwrap();
}

/// What the mirror serves, by path.
fn served(pair: &Pair) -> BTreeMap<String, String> {
    pair.mirror().unwrap().sums().unwrap_or_default()
}

/// An approver.
struct Approver {
    key: PathBuf,
    /// Their `[[approver]]`, as `approver-key` prints it.
    table: toml::Table,
}

impl Approver {
    fn new(pair: &Pair, name: &str) -> Self {
        let key = pair.dir.join(format!("{name}.key"));
        let arguments =
            ["approver-key", "--name", name, "--out", &key.display().to_string(), "--no-passphrase"];
        let printed = pair.high.command(&arguments).unwrap().ok().unwrap();
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let again = pair.high.command(&arguments).unwrap();
        assert!(again.code == Some(1) && again.stderr.contains("is not overwritten"), "{again:?}");
        let all: toml::Table = printed.parse().unwrap();
        Self { key, table: all["approver"][0].as_table().unwrap().clone() }
    }

    fn decide(&self, pair: &Pair, words: &[&str]) -> Done {
        pair.high.run(&[words, &["--key", &self.key.display().to_string()]].concat()).unwrap()
    }

    /// What a decision looks like that is made where the key is.
    fn offline(&self, pair: &Pair, words: &[&str], request: &str) -> String {
        let file = pair.dir.join("request");
        std::fs::write(&file, request).unwrap();
        let (file, key) = (file.display().to_string(), self.key.display().to_string());
        let words = [words, &["--offline", &file, "--key", &key]].concat();
        pair.high.command(&words).unwrap().ok().unwrap()
    }
}

/// Hands in what was signed elsewhere.
fn hand_in(pair: &Pair, word: &str, signed: &str) -> Done {
    let file = pair.dir.join("signed");
    std::fs::write(&file, signed).unwrap();
    pair.high.run(&[word, "--signed", &file.display().to_string()]).unwrap()
}

fn refused(done: &Done, expected: &str) {
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains(expected), "{expected:?} is not in {}", done.stderr);
}

fn with_token(pair: &Pair) {
    let token = pair.high.dir().join("keys/dashboard.token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    pair.high.set(&["dashboard", "token_file"], "keys/dashboard.token").unwrap();
}

/// A channel whose releases need as many approvers.
fn approval(how: &str) -> Vec<toml::Value> {
    let text = format!("name = 'main'\napproval = '{how}'\n");
    vec![toml::Value::Table(text.parse().unwrap())]
}

/// A decision is recorded and told before it is said to count; where there is no room for that, it counts for nothing and
/// can be made again.
#[test]
fn a_full_disk_loses_no_decision() {
    /// Octets left on the disk: none, and enough for this file but not for that one.
    const LEFT: [u64; 6] = [0, 4096, 8192, 12_288, 24_576, 65_536];
    let mut pair =
        Pair::over_link(&Setup { name: "approve-full", ..Setup::default() }, Weather::lossy(3)).unwrap();
    let tmpfs = match Tmpfs::over(pair.high.dir(), 64 << 20) {
        Ok(tmpfs) => tmpfs,
        Err(skip) => return skip.announce_or_fail_in_ci("approvals on a full disk"),
    };
    let alice = Approver::new(&pair, "alice");
    pair.high.set(&["space", "reserve"], "0B").unwrap();
    pair.high.set(&["channel"], approval("one")).unwrap();
    pair.high.set(&["approver"], vec![toml::Value::Table(alice.table.clone())]).unwrap();
    pair.start().unwrap();
    let (mut refusals, mut before) = (0, BTreeMap::new());
    for (turn, left) in LEFT.into_iter().enumerate() {
        let number = turn as u64 + 1;
        release(&pair, &format!("file{number}"), 100_000 + turn);
        pair.wait_state(number, ReleaseState::Held);
        tmpfs.fill(left).unwrap();
        let said = alice.decide(&pair, &["approve", &number.to_string()]);
        let counts = said.code == Some(0);
        if !counts {
            refusals += 1;
            assert!(said.stderr.contains("No space left"), "{left} octets left: {said:?}");
            assert_eq!(served(&pair), before, "it is not published");
        }
        // With the disk as full as it is; what starts no more says why.
        pair.high.kill_9().unwrap();
        if pair.high.start().is_err() {
            assert!(pair.high.log().contains("No space left"), "{}", pair.high.log());
        }
        tmpfs.relieve().unwrap();
        if !pair.high.is_started() {
            pair.high.start().unwrap();
        }
        if !counts {
            pair.wait_state(number, ReleaseState::Held);
            alice.decide(&pair, &["approve", &number.to_string()]).ok().unwrap();
        }
        pair.wait_state(number, ReleaseState::Published);
        before = served(&pair);
        assert!(before.contains_key(&format!("file{number}")) && before.len() == turn + 1, "{before:?}");
    }
    assert!((1..LEFT.len()).contains(&refusals), "{refusals} decisions of {} were refused", LEFT.len());
    pair.high.ok(&["audit", "verify"]).unwrap();
    pair.high.ok(&["verify"]).unwrap();
    pair.stop().unwrap();
    drop(tmpfs);
}

#[test]
fn rules_are_read_again_without_a_restart() {
    let mut pair = Pair::over_link(&Setup { name: "reload", ..Setup::default() }, Weather::lossy(5)).unwrap();
    let alice = Approver::new(&pair, "alice");
    let policy = |default: &str| toml::Table::from_iter([("default".to_owned(), default.into())]);
    pair.high.set(&["policy"], policy("deny")).unwrap();
    pair.start().unwrap();
    release(&pair, "one", 50_000);
    let why = pair.wait_state(1, ReleaseState::Refused);
    assert!(why.contains("its default is \"deny\""), "{why}");
    let reload = || pair.high.run(&["reload"]).unwrap();
    assert_eq!(reload().ok().unwrap(), "nothing has changed that is taken without a restart\n");
    // What is no configuration changes nothing.
    pair.high.set(&["policy"], policy("perhaps")).unwrap();
    refused(&reload(), "unknown variant `perhaps`");
    pair.high.set(&["policy"], policy("deny")).unwrap();
    pair.wait_state(1, ReleaseState::Refused);
    // Other rules, an approver, and a place that needs a restart.
    pair.high.set(&["policy"], policy("allow")).unwrap();
    pair.high.set(&["channel"], approval("one")).unwrap();
    pair.high.set(&["approver"], vec![toml::Value::Table(alice.table.clone())]).unwrap();
    pair.high.set(&["trust", "skew_max"], "4m").unwrap();
    let said = reload().ok().unwrap();
    assert_eq!(
        said,
        "taken: approver alice (new), channel main (new), policy\nchanged, and waiting for a restart: trust\n"
    );
    assert_eq!(pair.low_status().unwrap().channel("main").unwrap().newest, Some(1));
    pair.wait_state(1, ReleaseState::Held);
    alice.decide(&pair, &["approve", "1"]).ok().unwrap();
    pair.wait_state(1, ReleaseState::Published);
    assert_eq!(served(&pair).keys().collect::<Vec<_>>(), ["one"]);
    let told = pair.high.ok(&["audit", "show", "--json"]).unwrap();
    assert!(told.contains("approver alice (new), channel main (new), policy"), "{told}");
}

#[test]
fn what_has_waited_is_scanned_once_more_before_it_is_published() {
    let setup = Setup { name: "approve-late", ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(4)).unwrap();
    let alice = Approver::new(&pair, "alice");
    let (bin, known) = (pair.dir.join("bin"), pair.dir.join("known"));
    let script = format!("#!/bin/sh\nif grep -qFf '{}'; then echo Worm; exit 1; fi\n", known.display());
    tree::write(&bin, "scan", script.as_bytes(), 0o755).unwrap();
    std::fs::write(&known, "another worm\n").unwrap();
    let program = bin.join("scan").display().to_string();
    let scan = format!("command = ['{program}']\nunscanned = 'deny'\nvalid = '2s'\n");
    pair.high.set(&["scan"], toml::Value::Table(scan.parse().unwrap())).unwrap();
    pair.high.set(&["channel"], approval("one")).unwrap();
    pair.high.set(&["approver"], vec![toml::Value::Table(alice.table.clone())]).unwrap();
    pair.start().unwrap();
    for (number, name) in [(1, "good"), (2, "a worm")] {
        let file = pair.dir.join("files").join(name);
        tree::write(&pair.dir.join("files"), name, name.as_bytes(), 0o644).unwrap();
        pair.low.ok(&["submit", "files", &file.display().to_string()]).unwrap();
        pair.low.ok(&["release"]).unwrap();
        pair.wait_state(number, ReleaseState::Held);
    }
    // Release 1 was superseded while it waited. Now the scanner learns something.
    std::thread::sleep(Duration::from_millis(2500));
    std::fs::write(&known, "a worm\n").unwrap();
    let said = alice.decide(&pair, &["approve", "2"]).ok().unwrap();
    assert!(said.contains("approved by alice"), "{said}");
    let why = pair.wait_state(2, ReleaseState::Refused);
    assert!(why.contains("file a worm: Worm"), "{why}");
    assert!(served(&pair).is_empty());
    // And what it does not mind is published, however long it has waited.
    pair.low.ok(&["withdraw", "file a worm"]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    pair.wait_state(3, ReleaseState::Held);
    std::thread::sleep(Duration::from_millis(2500));
    alice.decide(&pair, &["approve", "3"]).ok().unwrap();
    pair.wait_state(3, ReleaseState::Published);
    assert_eq!(served(&pair).keys().collect::<Vec<_>>(), ["good"]);
}

#[test]
fn two_people_approve_what_is_published() {
    let mut pair =
        Pair::over_link(&Setup { name: "approve", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let [alice, bob, eve, mut old] = ["alice", "bob", "eve", "old"].map(|name| Approver::new(&pair, name));
    old.table.insert("until".to_owned(), "2026-01-31".into());
    let known: Vec<toml::Value> =
        [&alice, &bob, &old].map(|approver| toml::Value::Table(approver.table.clone())).into();
    pair.high.set(&["channel"], approval("two")).unwrap();
    pair.high.set(&["approver"], known).unwrap();
    with_token(&pair);
    pair.start().unwrap();

    release(&pair, "one", 300_000);
    let why = pair.wait_state(1, ReleaseState::Held);
    assert!(why.contains("it waits for two different approvers"), "{why}");
    assert!(pair.high_status().unwrap().alarm("release-held").is_some());
    assert!(served(&pair).is_empty());
    let shown = pair.high.ok(&["held"]).unwrap();
    assert!(shown.contains("release main 1\n") && shown.contains("  + file one\n"), "{shown}");

    // Who is nobody here, who was somebody, and what was signed for another content.
    refused(&eve.decide(&pair, &["approve"]), "is of no approver that this receiver knows");
    refused(&old.decide(&pair, &["approve", "1"]), "the key of approver old expired");
    refused(&alice.decide(&pair, &["approve", "7"]), "release main 7 is not held; main 1 is");
    let request = pair.high.ok(&["held", "--request"]).unwrap();
    let line = request.lines().find(|line| line.starts_with("index ")).unwrap();
    let other = request.replace(line, &format!("index {}", "0".repeat(64)));
    let other = alice.offline(&pair, &["approve"], &other);
    refused(&hand_in(&pair, "approve", &other), "the approval is for an index with digest 0000");
    let short = ["approve", "--valid", "1s"];
    let short = alice.offline(&pair, &short, &request);
    std::thread::sleep(Duration::from_millis(2100));
    refused(&hand_in(&pair, "approve", &short), "the approval of alice expired");

    // The same key twice is one approver, whether it signs again or the same text is handed in again.
    let first = alice.decide(&pair, &["approve", "1"]).ok().unwrap();
    assert_eq!(first, "release main 1 is approved by alice; 1 more must approve it\n");
    let signed = alice.offline(&pair, &["approve"], &request);
    for _ in 0..2 {
        assert_eq!(hand_in(&pair, "approve", &signed).ok().unwrap(), first);
    }
    refused(&hand_in(&pair, "approve", &signed.replace("approve\n", "reject\n")), "expected a reason");
    refused(&hand_in(&pair, "reject", &signed), "says the other thing");
    assert!(served(&pair).is_empty());

    // What was said holds over a kill.
    pair.high.kill_9().unwrap();
    pair.high.start().unwrap();
    let why = pair.wait_state(1, ReleaseState::Held);
    assert!(why.contains("approved so far by alice"), "{why}");
    let second = bob.offline(&pair, &["approve"], &request);
    let said = hand_in(&pair, "approve", &second).ok().unwrap();
    assert_eq!(said, "release main 1 is approved by alice, bob; it is published now\n");
    pair.wait_state(1, ReleaseState::Published);
    let before = served(&pair);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["one"]);

    // One rejection outweighs any approval, and a text from before does not bring it back.
    release(&pair, "two", 200_000);
    pair.wait_state(2, ReleaseState::Held);
    let request = pair.high.ok(&["held", "--request", "2"]).unwrap();
    let early = alice.offline(&pair, &["approve"], &request);
    std::thread::sleep(Duration::from_millis(1100));
    let no = alice.decide(&pair, &["reject", "2", "--why", "two is not reviewed"]).ok().unwrap();
    assert!(no.contains("release main 2 is rejected by alice"), "{no}");
    let why = pair.wait_state(2, ReleaseState::Refused);
    assert_eq!(why, "alice rejects it: two is not reviewed");
    hand_in(&pair, "approve", &early).ok().unwrap();
    hand_in(&pair, "approve", &bob.offline(&pair, &["approve"], &request)).ok().unwrap();
    assert_eq!(pair.wait_state(2, ReleaseState::Refused), why);
    assert_eq!(served(&pair), before);

    // A newer release takes its place, and this time the browser is where it is handed in.
    release(&pair, "three", 100_000);
    pair.wait_state(3, ReleaseState::Held);
    alice.decide(&pair, &["approve", "3"]).ok().unwrap();
    let request = pair.high.ok(&["held", "--request", "3"]).unwrap();
    in_the_browser(&pair, &bob.offline(&pair, &["approve"], &request));
    pair.wait_state(3, ReleaseState::Published);
    assert_eq!(served(&pair).keys().collect::<Vec<_>>(), ["one", "three", "two"]);
    assert!(pair.high.ok(&["held"]).unwrap().contains("nothing waits"));
}

/// Pastes what was signed into the release's page.
fn in_the_browser(pair: &Pair, signed: &str) {
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(skip) => {
            skip.announce_or_fail_in_ci("pasting an approval in a real browser");
            hand_in(pair, "approve", signed).ok().unwrap();
            return;
        }
    };
    let [_, high] = pair.dashboards();
    let pictures = workspace().join("target/dashboard");
    browser.look(1280, 900, false, "light").unwrap();
    browser.go(&format!("{}/releases/main/3", high.origin())).unwrap();
    let there = |selector: &str| {
        let script = format!("return document.querySelectorAll({selector:?}).length");
        browser.run(&script).unwrap().as_u64().unwrap()
    };
    assert_eq!((there("[data-held]"), there("textarea")), (1, 0), "without the token nothing is handed in");
    browser.sign_in(&high).unwrap();
    browser.go(&format!("{}/releases/main/3", high.origin())).unwrap();
    assert_eq!(there("textarea"), 1);
    browser.picture(&pictures, "receiver-held", true).unwrap();
    let text = serde_json::to_string(signed).unwrap();
    let paste = format!(
        "const it = document.querySelector('textarea[name=decision]'); it.value = {text}; it.form.requestSubmit()"
    );
    browser.run(&paste).unwrap();
    wait_for("the page says that it is approved", MINUTE, || {
        let text = browser.run("return document.body.textContent")?;
        Ok(text.as_str().unwrap_or_default().contains("is approved by alice, bob").then_some(()))
    })
    .unwrap();
    assert_eq!(browser.errors().unwrap(), [""; 0]);
}

#[test]
fn what_no_rule_allows_holds_the_release_by_name() {
    let mut pair = Pair::over_link(&Setup { name: "policy", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let rules = |pair: &Pair, more: &str| {
        let text = format!(
            "default = 'deny'\n[[rule]]\nname = 'no-secrets'\nthen = 'deny'\nnames = ['*secret*']\n\
             [[rule]]\nname = 'small-files'\nthen = 'allow'\nkinds = ['file']\nbytes_max = '250kB'\n{more}"
        );
        let table: toml::Table = text.parse().unwrap();
        pair.high.set(&["policy"], table).unwrap();
    };
    rules(&pair, "");
    pair.start().unwrap();
    release(&pair, "one", 200_000);
    pair.wait_state(1, ReleaseState::Published);
    let before = served(&pair);
    assert_eq!(before.len(), 1);

    release(&pair, "large", 300_000);
    let why = pair.wait_state(2, ReleaseState::Refused);
    let expected = "file large: no rule of the policy allows it, and its default is \"deny\"; rule \"small-files\" would, but it has";
    assert!(why.starts_with(expected) && why.contains("bytes_max is "), "{why}");
    assert_eq!(served(&pair), before);
    // Approvers have no say in it: the policy comes first.
    let none = pair.high.run(&["held", "--request"]).unwrap();
    refused(&none, "release main is not held; none is");
    pair.low.ok(&["withdraw", "file large"]).unwrap();
    release(&pair, "secret.txt", 10);
    let why = pair.wait_state(3, ReleaseState::Refused);
    assert_eq!(why, "file secret.txt: rule \"no-secrets\" of the policy denies it");
    pair.low.ok(&["withdraw", "file secret.txt"]).unwrap();
    assert_eq!(served(&pair), before);

    // A provider is known by who signed it, and for which platforms it is.
    let publisher = Publisher::new().unwrap();
    let executable = pair.dir.join("executable");
    std::fs::write(&executable, b"executable").unwrap();
    let platforms = [host_platform(), OTHER_PLATFORM];
    let provider = publisher
        .release(
            &pair.dir.join("provider"),
            "registry.example.com/acme/tool",
            "1.2.3",
            &executable,
            &platforms,
        )
        .unwrap();
    pair.low.ok(&provider.submit_arguments()).unwrap();
    pair.low.ok(&["release"]).unwrap();
    pair.wait_state(4, ReleaseState::Refused);
    let providers = |signer: &str, platforms: &str| {
        format!(
            "[[rule]]\nname = 'acme'\nthen = 'allow'\nkinds = ['provider']\nnames = ['registry.example.com/acme/*']\n\
             versions = '~> 1.2'\nsigners = ['{signer}']\nplatforms = [{platforms}]\n"
        )
    };
    let both = format!("'{}', '{OTHER_PLATFORM}'", host_platform());
    let say = |pair: &mut Pair, rule: &str, state: ReleaseState| {
        rules(pair, rule);
        pair.high.stop().unwrap();
        pair.high.start().unwrap();
        pair.wait_state(4, state)
    };
    let why = say(&mut pair, &providers(&"0".repeat(40), &both), ReleaseState::Refused);
    let signer = why.split("it is signed by ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert!(signer.ends_with(&provider.key_id), "{why}");
    let why = say(&mut pair, &providers(&signer, &format!("'{OTHER_PLATFORM}'")), ReleaseState::Refused);
    assert!(why.contains("rule \"acme\" would, but it is for "), "{why}");
    say(&mut pair, &providers(&signer, &both), ReleaseState::Published);
    assert_eq!(served(&pair), before);
}
