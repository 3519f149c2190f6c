//! Volumes handed in through the receiver's dashboard: by a person in a real browser, by a form without a script, by a
//! program; and what is refused, and how.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use diodesync::volume::{DATA_SLOT_BYTES, MANIFEST_FILE};
use diodesync_system::alone;
use diodesync_system::bins::workspace;
use diodesync_system::browser::Browser;
use diodesync_system::http::{Answer, Http, read};
use diodesync_system::side::{Pair, Setup, TOKEN};
use diodesync_system::tree::{self, Digests, Spec};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// A pair whose cable is out, a release of about 9 MiB, and its volumes.
struct Carried {
    pair: Pair,
    expected: Digests,
    volumes: Vec<PathBuf>,
}

impl Carried {
    fn new(name: &'static str, parity: &str) -> Self {
        let setup = Setup { name, rounds: 1, ..Setup::default() };
        let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        pair.link().unwrap().cut(true);
        pair.high.let_in().unwrap();
        let tree = pair.dir.join("tree");
        tree::make(&tree, Spec { small: 30, largest: 4 << 20, ..Spec::default() }).unwrap();
        let expected = tree::digests(&tree, "tree").unwrap();
        pair.start().unwrap();
        pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
        pair.low.ok(&["release"]).unwrap();
        let media = pair.dir.join("media");
        std::fs::create_dir_all(&media).unwrap();
        let to = media.to_str().unwrap();
        pair.low.ok(&["export", "--to", to, "--volume-size", "2.5MB", "--parity", parity]).unwrap();
        let volumes = entries(&media);
        assert!(volumes.len() >= 4, "{volumes:?}");
        Self { pair, expected, volumes }
    }

    fn high(&self) -> Http {
        let [_, high] = self.pair.dashboards();
        high
    }

    /// All of it is published, and nothing of the import is left.
    fn check(&mut self) {
        self.pair.wait_published(1, 2 * MINUTE).unwrap();
        self.pair.mirror().unwrap().compare_files(&self.expected).unwrap();
        assert_eq!(entries(&self.pair.high.dir().join("import")), Vec::<PathBuf>::new());
    }

    /// What the audit log says that the dashboard did.
    fn told(&self) -> Vec<Value> {
        let log = self.pair.high.ok(&["audit", "show", "--json"]).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| !entry["by"]["dashboard"].is_null()).collect()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// The files of slots of a volume, with the first slot of each.
fn slot_files(volume: &Path) -> Vec<(u32, PathBuf)> {
    let first =
        |path: PathBuf| Some((path.file_name()?.to_str()?.strip_suffix(".slots")?.parse().ok()?, path));
    entries(volume).into_iter().filter_map(first).collect()
}

/// POSTs as a program with the token does.
fn post(http: &Http, path: &str, body: &[u8]) -> Answer {
    http.ask_octets("POST", path, &[("authorization", &format!("Bearer {TOKEN}"))], body).unwrap()
}

/// What must be taken.
fn post_ok(http: &Http, path: &str, body: &[u8]) -> Value {
    let answer = post(http, path, body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json().unwrap()
}

/// Why something is not taken.
fn refused(http: &Http, path: &str, body: &[u8]) -> String {
    let answer = post(http, path, body);
    assert_eq!(answer.status, 422, "{path}: {}", answer.body);
    answer.json().unwrap()["error"].as_str().unwrap().to_owned()
}

fn begin(http: &Http, volume: &Path) -> String {
    let manifest = std::fs::read(volume.join(MANIFEST_FILE)).unwrap();
    post_ok(http, "/api/v1/imports", &manifest)["export"].as_str().unwrap().to_owned()
}

/// A program hands in one volume and then the others, over a restart, and sees at each moment what is missing.
#[test]
fn a_program_hands_volumes_in() {
    let _alone = alone();
    let mut carried = Carried::new("hand-api", "0%");
    let (high, volumes) = (carried.high(), carried.volumes.clone());
    let standing = |high: &Http| high.get_ok("/api/v1/imports").unwrap().json().unwrap()["imports"].clone();
    assert_eq!(standing(&high), json!([]));
    let export = begin(&high, &volumes[0]);
    let slots = |first: u32| format!("/api/v1/imports/{export}/slots?first={first}");
    let finish = format!("/api/v1/imports/{export}/finish");
    let began = standing(&high);
    assert_eq!(began[0]["missing_slots"], began[0]["data_slots"]);
    assert_eq!(began[0]["missing"].as_array().unwrap().len(), volumes.len());

    // One slot is rotten: it is named, and what is beside it counts.
    let (first, file) = slot_files(&volumes[0]).remove(0);
    let mut octets = std::fs::read(&file).unwrap();
    let count = octets.len() / DATA_SLOT_BYTES;
    octets[DATA_SLOT_BYTES + 100] ^= 1;
    let taken = post_ok(&high, &slots(first), &octets);
    assert_eq!((&taken["slots"], &taken["damaged"]), (&json!(count), &json!([first + 1])));
    assert_eq!(taken["new"], json!(count - 1));
    let after = standing(&high);
    let lack = json!({ "volume": 1, "slots": 1 });
    assert_eq!(after[0]["missing"][0], lack, "{after}");
    let finished = post_ok(&high, &finish, b"");
    assert_eq!(finished["missing"], after[0]["missing"]);
    assert_eq!(standing(&high), after);

    // A daemon that was started anew has not forgotten; without the manifest, what an earlier medium said is enough.
    carried.pair.high.kill_9().unwrap();
    carried.pair.high.start().unwrap();
    assert_eq!(standing(&high), after);
    let offered = post_ok(&high, &format!("/api/v1/imports/{export}/resume"), b"");
    assert_eq!(offered["missing_slots"], after[0]["missing_slots"]);
    for volume in &volumes {
        for (first, file) in slot_files(volume) {
            let taken = post_ok(&high, &slots(first), &std::fs::read(&file).unwrap());
            assert_eq!(taken["damaged"], json!([]), "{}", file.display());
        }
    }
    assert_eq!(post_ok(&high, &finish, b"")["missing_slots"], 0);
    assert_eq!(standing(&high), json!([]));
    carried.check();
    let told = carried.told();
    let events: Vec<&str> = told.iter().filter_map(|entry| entry["event"].as_str()).collect();
    assert_eq!(events, ["import", "imported", "import", "imported"], "{told:#?}");
    assert_eq!((&told[3]["export"], &told[3]["missing"]), (&json!(export), &json!(0)));
}

/// What came of an export that nobody goes on with goes, from afar and on the host, and the export can come again.
#[test]
fn what_came_in_part_is_thrown_away() {
    let _alone = alone();
    let mut carried = Carried::new("hand-discard", "0%");
    let (high, volumes) = (carried.high(), carried.volumes.clone());
    let in_part = || {
        let export = begin(&high, &volumes[0]);
        let (first, file) = slot_files(&volumes[0]).remove(0);
        let slots = format!("/api/v1/imports/{export}/slots?first={first}");
        assert_eq!(post_ok(&high, &slots, &std::fs::read(file).unwrap())["damaged"], json!([]));
        export
    };
    let export = in_part();
    let listed = carried.pair.high.ok(&["import", "--list"]).unwrap();
    assert!(
        listed.contains(&format!("export {export}: ")) && listed.contains("on volume 002, 003"),
        "{listed}"
    );
    let discard = format!("/api/v1/imports/{export}/discard");
    let origin = high.origin();
    assert_eq!(high.ask_octets("POST", &discard, &[("origin", &origin)], b"").unwrap().status, 401);
    assert_eq!(post_ok(&high, &discard, b""), json!({ "export": export }));
    assert_eq!(entries(&carried.pair.high.dir().join("import")), Vec::<PathBuf>::new());
    assert!(refused(&high, &discard, b"").contains("no import of export"));
    let finish = format!("/api/v1/imports/{export}/finish");
    assert!(refused(&high, &finish, b"").contains("was not begun"));
    assert_eq!(carried.pair.high.ok(&["import", "--list"]).unwrap(), "no import is under way\n");

    assert_eq!(in_part(), export);
    // One that cannot be gone on with is named, and goes, too.
    let stuck = carried.pair.high.dir().join("import/00000000000000aa");
    std::fs::create_dir(&stuck).unwrap();
    std::fs::write(stuck.join("manifest"), b"garbled").unwrap();
    let listed = carried.pair.high.ok(&["import", "--list"]).unwrap();
    assert!(listed.contains("--discard 00000000000000aa") && listed.lines().count() == 2, "{listed}");
    let seen = high.get_ok("/api/v1/imports").unwrap().json().unwrap();
    assert_eq!(seen["stuck"][0]["export"], "00000000000000aa", "{seen}");
    carried.pair.high.ok(&["import", "--discard", "00000000000000aa"]).unwrap();
    assert!(!stuck.exists());
    // A daemon that was started anew has no import open.
    carried.pair.high.kill_9().unwrap();
    carried.pair.high.start().unwrap();
    carried.pair.high.ok(&["import", "--discard", &export]).unwrap();
    assert_eq!(entries(&carried.pair.high.dir().join("import")), Vec::<PathBuf>::new());
    let again = carried.pair.high.run(&["import", "--discard", &export]).unwrap();
    assert!(again.code == Some(1) && again.stderr.contains("import --list"), "{again:?}");

    carried.pair.high.ok(&["import", volumes[0].parent().unwrap().to_str().unwrap()]).unwrap();
    carried.check();
    let log = carried.pair.high.ok(&["audit", "show", "--json"]).unwrap();
    let told = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let discarded: Vec<Value> = told.filter(|entry| entry["event"] == "discarded").collect();
    let exports: Vec<&Value> = discarded.iter().map(|entry| &entry["export"]).collect();
    assert_eq!(exports, [export.as_str(), "00000000000000aa", export.as_str()], "{discarded:#?}");
    assert!(!discarded[0]["by"]["dashboard"].is_null() && discarded[2]["by"]["dashboard"].is_null());
}

/// What the README says that a program is to do hands in every volume.
#[test]
fn the_lines_of_the_readme_hand_volumes_in() {
    let _alone = alone();
    let mut carried = Carried::new("hand-readme", "0%");
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let (_, lines) = readme.split_once("cd /media/usb/diodesync-0011223344556677-001\n").unwrap();
    let (lines, _) = lines.split_once("```").unwrap();
    let high = carried.high();
    for (left, volume) in (0..carried.volumes.len()).rev().zip(&carried.volumes) {
        let export = volume.file_name().unwrap().to_str().unwrap().split('-').nth(1).unwrap();
        let script = lines
            .replace("0011223344556677", export)
            .replace("http://localhost:7481", &high.origin())
            .replace("TOKEN", TOKEN);
        let run = std::process::Command::new("bash").args(["-ec", &script]).current_dir(volume).output();
        let run = run.unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
        let finished: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(finished["missing"].as_array().unwrap().len(), left, "{finished}");
    }
    carried.check();
}

/// What is not meant, not whole, or has no room, is refused with a reason that the other side can read.
#[test]
fn what_cannot_be_taken_is_refused() {
    let _alone = alone();
    let mut carried = Carried::new("hand-refused", "0%");
    let high = carried.high();
    let manifest = std::fs::read(carried.volumes[0].join(MANIFEST_FILE)).unwrap();
    let (first, file) = slot_files(&carried.volumes[0]).remove(0);
    let octets = std::fs::read(&file).unwrap();

    // Who does not know the token, and a page of another site.
    for path in ["/api/v1/imports", "/hand-in", "/api/v1/imports/0011223344556677/slots?first=0"] {
        let origin = high.origin();
        assert_eq!(high.ask_octets("POST", path, &[("origin", &origin)], &manifest).unwrap().status, 401);
        let fields = [("origin", "http://evil.example"), ("authorization", &format!("Bearer {TOKEN}"))];
        assert_eq!(high.ask_octets("POST", path, &fields, &manifest).unwrap().status, 403);
    }
    assert!(!high.get_ok("/import").unwrap().body.contains("<form method=\"post\" action=\"/hand-in\""));

    // What is no manifest, a changed one, and one that is too long.
    refused(&high, "/api/v1/imports", b"no manifest");
    let mut changed = manifest.clone();
    *changed.last_mut().unwrap() ^= 1;
    refused(&high, "/api/v1/imports", &changed);
    let long = refused(&high, "/api/v1/imports", &[0; 100_000]);
    assert!(long.contains("the limit is 4096"), "{long}");
    assert_eq!(post(&high, "/api/v1/imports", &vec![0; (1 << 20) + 1]).status, 413);
    let unknown = refused(&high, "/api/v1/imports/0011223344556677/slots?first=0", &octets);
    assert!(unknown.contains("was not begun"), "{unknown}");
    assert!(refused(&high, "/api/v1/imports/0011223344556677/resume", b"").contains("none was seen before"));

    // While one browser hands in, another one waits; what breaks off counts as far as it came.
    let export = begin(&high, &carried.volumes[0]);
    let slots = format!("/api/v1/imports/{export}/slots?first={first}");
    let mut slow = high.connect().unwrap();
    let head = format!(
        "POST {slots} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
        octets.len()
    );
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&octets[..3 * DATA_SLOT_BYTES]).unwrap();
    let busy = wait_for("the slow one has the way in", MINUTE, || {
        let answer = post(&high, "/api/v1/imports", &manifest);
        Ok((answer.status == 409).then_some(answer.body))
    });
    assert!(busy.as_ref().unwrap().contains("another browser is handing in volumes"), "{busy:?}");
    assert_eq!(high.get_ok("/import").unwrap().status, 200, "pages are drawn meanwhile");
    drop(slow);
    let standing = wait_for("what broke off is here", MINUTE, || {
        let imports = high.get_ok("/api/v1/imports")?.json()?["imports"].clone();
        let here = imports[0]["data_slots"].as_u64().zip(imports[0]["missing_slots"].as_u64());
        Ok(here.filter(|(all, missing)| all - missing == 3))
    });
    standing.unwrap();
    // It is here before it is durable; until then the way in is taken.
    wait_for("the way in is free", MINUTE, || {
        Ok((post(&high, "/api/v1/imports", &manifest).status == 200).then_some(()))
    })
    .unwrap();
    // Names that are no number of a slot, and slots that the export does not have.
    let path = format!("/api/v1/imports/{export}/slots");
    assert_eq!(post(&high, &format!("{path}?first=x"), b"x").status, 400);
    assert_eq!(post_ok(&high, &format!("{path}?first=4000000000"), &octets)["slots"], 0);

    // A disk without room: told to who still sends, and gone on with later.
    carried.pair.high.stop().unwrap();
    carried.pair.high.set(&["space", "reserve"], "900000TB").unwrap();
    carried.pair.high.start().unwrap();
    begin(&high, &carried.volumes[0]);
    let mut much = octets.clone();
    much.resize(64 << 20, 0);
    let full = refused(&high, &slots, &much);
    assert!(full.contains("what is read from a medium"), "{full}");
    carried.pair.high.stop().unwrap();
    carried.pair.high.unset(&["space", "reserve"]).unwrap();
    carried.pair.high.start().unwrap();
    begin(&high, &carried.volumes[0]);
    let count = octets.len() / DATA_SLOT_BYTES;
    assert_eq!(post_ok(&high, &slots, &octets)["new"], json!(count - 3));
}

/// What a browser sends that runs no script.
fn multipart(fields: &[(&str, &str, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "----of-the-test-0011223344556677";
    let mut body = Vec::new();
    for (name, file, octets) in fields {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(octets);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// The form of the page does the same without a script, in one go.
#[test]
fn a_form_brings_volumes_without_a_script() {
    let _alone = alone();
    let mut carried = Carried::new("hand-form", "15%");
    let high = carried.high();
    let origin = high.origin();
    let form = [("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str())];
    let signed_in = high.ask("POST", "/sign-in", &form, "token=a+token+of+the+test%27s+own").unwrap();
    let cookie = signed_in.field("set-cookie").split(';').next().unwrap().to_owned();
    let send = |fields: &[(&str, &str, &[u8])]| {
        let (kind, body) = multipart(fields);
        let fields = [("content-type", kind.as_str()), ("origin", &origin), ("cookie", &cookie)];
        high.ask_octets("POST", "/hand-in", &fields, &body).unwrap()
    };
    let page = high.ask("GET", "/import", &[("cookie", &cookie)], "").unwrap();
    assert!(page.body.contains("enctype=\"multipart/form-data\""), "{}", page.body);

    let nothing = send(&[("manifest", "", b""), ("slots", "", b"")]);
    assert!(nothing.status == 422 && nothing.body.contains("no file of this name came"), "{nothing:?}");
    let early = send(&[("slots", "00000000.slots", &vec![1; 8 << 20])]);
    assert!(early.status == 422 && early.body.contains("manifest before its files"), "{early:?}");
    let evil = send(&[("manifest", "<script>alert(1)</script>", b"x")]);
    assert!(evil.status == 422 && !evil.body.contains("<script>alert"), "{evil:?}");
    // What belongs to no file is not read for ever, be it in a field or before the first.
    let other = send(&[("notes", "notes.txt", &vec![1; 2 << 20])]);
    assert!(other.status == 422 && other.body.contains("belong to no file"), "{other:?}");
    let (kind, end) = multipart(&[]);
    let fields = [("content-type", kind.as_str()), ("origin", &origin), ("cookie", &cookie)];
    let before = high.ask_octets("POST", "/hand-in", &fields, &[vec![b'x'; 2 << 20], end].concat()).unwrap();
    assert!(before.status == 422 && before.body.contains("belong to no file"), "{before:?}");

    // One volume is lost, which parity makes up for; the first brings a file that is none of it, too.
    let manifest = std::fs::read(carried.volumes[0].join(MANIFEST_FILE)).unwrap();
    let (last, others) = carried.volumes[1..].split_last().unwrap();
    for volume in others {
        let files: Vec<(String, Vec<u8>)> = slot_files(volume)
            .into_iter()
            .map(|(_, path)| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, std::fs::read(&path).unwrap())
            })
            .collect();
        let mut fields: Vec<(&str, &str, &[u8])> = vec![("manifest", "manifest", &manifest)];
        fields.push(("slots", "thumbs.db", b"x"));
        fields.extend(files.iter().map(|(name, octets)| ("slots", name.as_str(), octets.as_slice())));
        let answer = send(&fields);
        assert_eq!(answer.status, 200, "{answer:?}");
        for (name, _) in &files {
            assert!(answer.body.contains(name), "{}", answer.body);
        }
        assert!(
            answer.body.contains("not whole yet") && answer.body.contains("Volume 001: "),
            "{}",
            answer.body
        );
    }
    let (_, path) = slot_files(last).remove(0);
    let name = path.file_name().unwrap().to_str().unwrap();
    let octets = std::fs::read(&path).unwrap();
    let done = send(&[("manifest", "manifest", &manifest), ("slots", name, &octets)]);
    assert!(done.body.contains("everything is here"), "{}", done.body);
    assert!(done.body.contains("pieces were repaired by parity"), "{}", done.body);
    carried.check();
    let again = send(&[("manifest", "manifest", &manifest), ("slots", name, &octets)]);
    assert!(again.body.contains("all of it came before"), "{}", again.body);
}

/// A person signs in, chooses a folder, sees what is missing, chooses files of which one is rotten, and then the rest.
#[test]
fn a_person_hands_volumes_in_with_a_browser() {
    let _alone = alone();
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(skip) => return skip.announce_or_fail_in_ci("volumes handed in through a real browser"),
    };
    let mut carried = Carried::new("hand-browser", "0%");
    let high = carried.high();
    let volumes = carried.volumes.clone();
    let pictures = workspace().join("target/dashboard");
    browser.look(1280, 900, false, "light").unwrap();
    browser.sign_in(&high).unwrap();
    browser.go(&format!("{}/import", high.origin())).unwrap();
    let hand_in = |expected: &str| {
        browser.run("document.querySelector('#import-form button').click()").unwrap();
        let state = "return document.getElementById('outcome').dataset.state";
        wait_for("the answer is shown", 2 * MINUTE, || {
            let state = browser.run(state)?;
            Ok((state == json!("done") || state == json!("failed")).then_some(()))
        })
        .unwrap();
        assert_eq!(browser.run(state).unwrap(), json!(expected));
        let said = browser.run("return document.getElementById('outcome').innerText").unwrap();
        said.as_str().unwrap().to_owned()
    };

    // Nothing chosen, and something that is none of it.
    assert!(hand_in("failed").contains("there is no file of a volume"));
    browser.choose("#slots", &[&volumes[0].join("complete")]).unwrap();
    assert!(hand_in("failed").contains("there is no file of a volume"));

    // A whole folder.
    browser.run("document.getElementById('import-form').reset()").unwrap();
    browser.choose("#folder", &[&volumes[0]]).unwrap();
    let said = hand_in("done");
    assert!(said.contains("Not whole yet") && said.contains("Volume 002: "), "{said}");
    assert!(!said.contains("Volume 001"), "{said}");
    browser.picture(&pictures, "receiver-import-done", true).unwrap();

    // The manifest and the files of the next, of which one slot is rotten.
    let (_, file) = slot_files(&volumes[1]).remove(0);
    let good = std::fs::read(&file).unwrap();
    let mut rotten = good.clone();
    rotten[10] ^= 1;
    std::fs::write(&file, &rotten).unwrap();
    browser.choose("#manifest", &[&volumes[1].join(MANIFEST_FILE)]).unwrap();
    browser.choose("#slots", &[&file]).unwrap();
    let said = hand_in("done");
    assert!(said.contains("in part damaged") && said.contains("Volume 002: 1 pieces are missing"), "{said}");
    // What stays is shown to whoever looks, live, and on a phone.
    let live = wait_for("the page says what is missing", MINUTE, || {
        let text = browser.run("return document.getElementById('imports').innerText")?;
        Ok(text.as_str().filter(|text| text.contains("Volume 002: 1 pieces")).map(str::to_owned))
    });
    live.unwrap();
    browser.look(390, 844, true, "dark").unwrap();
    browser.picture(&pictures, "receiver-import-phone-dark", true).unwrap();
    let width = browser.run("return document.documentElement.scrollWidth").unwrap();
    assert!(width.as_u64() <= Some(390), "it is {width} wide");
    browser.look(1280, 900, false, "light").unwrap();

    // What came of it can be thrown away.
    browser.run("document.querySelector('[data-export] form button').click()").unwrap();
    wait_for("it is asked again", MINUTE, || {
        let form = browser.run("return document.querySelectorAll('#sure form').length")?;
        Ok((form == json!(1)).then_some(()))
    })
    .unwrap();
    browser.run("document.querySelector('#sure form button').click()").unwrap();
    wait_for("it is said that it is gone", MINUTE, || {
        let text = browser.run("return document.body.innerText")?;
        Ok(text.as_str().filter(|text| text.contains("is thrown away")).map(|_| ()))
    })
    .unwrap();
    browser.go(&format!("{}/import", high.origin())).unwrap();
    wait_for("no import is under way", MINUTE, || {
        let text = browser.run("return document.getElementById('imports').innerText")?;
        Ok(text.as_str().filter(|text| text.contains("No import is under way")).map(|_| ()))
    })
    .unwrap();

    // The whole medium at once.
    std::fs::write(&file, &good).unwrap();
    browser.choose("#folder", &[volumes[0].parent().unwrap()]).unwrap();
    let said = hand_in("done");
    assert!(said.contains("Everything is here"), "{said}");
    assert_eq!(browser.errors().unwrap(), [""; 0]);
    carried.check();
    browser.go(&format!("{}/", high.origin())).unwrap();
    wait_for("the overview has it", MINUTE, || {
        let script = "return document.querySelector('[data-release=\"main 1\"]')?.dataset.state";
        Ok((browser.run(script)? == json!("published")).then_some(()))
    })
    .unwrap();
}

/// A body that is sent in chunks and never ends is not read for ever, and one that stops is not waited for by others.
#[test]
fn an_endless_upload_ends() {
    let _alone = alone();
    let carried = Carried::new("hand-endless", "0%");
    let high = carried.high();
    let export = begin(&high, &carried.volumes[0]);
    let mut stream = high.connect().unwrap();
    let head = format!(
        "POST /api/v1/imports/{export}/slots?first=0 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![0; 1 << 20], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 4096 && stream.write_all(&chunk).is_ok() {
        sent += 1;
    }
    assert!((1024..2048).contains(&sent), "{sent} MiB were taken");
    // The answer, unless the closing of the connection was faster.
    if let Ok(answer) = read(&mut stream) {
        let taken = answer.json().unwrap();
        assert_eq!(taken["new"], 0, "{taken}");
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    // The way in is free again.
    assert_eq!(begin(&high, &carried.volumes[0]), export);

    // One that breaks off is not answered as one that was taken.
    let (_, file) = slot_files(&carried.volumes[0]).remove(0);
    let two = &std::fs::read(&file).unwrap()[..2 * DATA_SLOT_BYTES];
    let mut stream = high.connect().unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
        .write_all(&[format!("{:x}\r\n", two.len()).as_bytes(), two, b"\r\nno length\r\n"].concat())
        .unwrap();
    let answer = read(&mut stream).unwrap();
    assert_eq!(answer.status, 422, "{}", answer.body);
    for expected in ["it broke off: ", "2 of its pieces came, 2 of them were new and are kept"] {
        assert!(answer.body.contains(expected), "{expected:?} is not in {}", answer.body);
    }
}
