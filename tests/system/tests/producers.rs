//! Build hosts that submit over QUIC, as real processes: what they may is released and crosses the link; what they may not
//! is refused with its rule, and told in the audit log; a submission that was cut goes on where it was, and one that
//! is made twice sends nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use diodesync_system::bins::bins;
use diodesync_system::deb;
use diodesync_system::oci::Layout;
use diodesync_system::prng::Prng;
use diodesync_system::provider::{ProviderRelease, Publisher, host_platform};
use diodesync_system::side::{Done, Pair, Setup, free_port};
use diodesync_system::tree::{self, Spec};
use diodesync_system::weather::Weather;
use diodesync_system::{alone, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A pair whose sender hears producers.
struct Site {
    pair: Pair,
    port: u16,
}

impl Site {
    /// `rights` of the producer `ci`, beside its name and its key.
    fn new(name: &'static str, rights: &str) -> Self {
        // What came on a day is counted anew from midnight on (UTC), and these tests look at it.
        const DAY_S: u64 = 86_400;
        let left_s = DAY_S - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % DAY_S;
        if left_s < 180 {
            std::thread::sleep(Duration::from_secs(left_s));
        }
        let setup = Setup { name, rounds: 2, ..Setup::default() };
        let pair = Pair::over_link(&setup, Weather::lossy(2)).unwrap();
        let site = Self { pair, port: free_port().unwrap() };
        let pin = site.make_key("ci");
        let text = format!("[[producer]]\nname = 'ci'\nkey = '{pin}'\n{rights}");
        let table: toml::Table = text.parse().unwrap();
        site.pair.low.set(&["producers", "listen"], format!("127.0.0.1:{}", site.port)).unwrap();
        site.pair.low.set(&["producer"], table["producer"].clone()).unwrap();
        site
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.pair.dir.join(name)
    }

    /// Makes the key of a build host; its pin.
    fn make_key(&self, name: &str) -> String {
        let dir = self.dir(name);
        let said =
            self.pair.low.command(&["producer-key", "--out", dir.to_str().unwrap()]).unwrap().ok().unwrap();
        let pin = said.lines().next().unwrap().strip_prefix("pin ").unwrap();
        assert!(said.contains(&format!("key = \"{pin}\"")), "{said}");
        pin.to_owned()
    }

    /// The sender's own pin.
    fn server_pin(&self) -> String {
        self.listing()["pin"].as_str().unwrap().to_owned()
    }

    fn listing(&self) -> Value {
        serde_json::from_str(&self.pair.low.ok(&["producers", "--json"]).unwrap()).unwrap()
    }

    /// What goes behind a `submit` of a build host.
    fn to(&self, who: &str, pin: &str) -> Vec<String> {
        let to = format!("127.0.0.1:{}", self.port);
        let identity = self.dir(who).display().to_string();
        ["--to", &to, "--identity", &identity, "--server-pin", pin].map(str::to_owned).to_vec()
    }

    /// Submits as `who`, who needs no configuration.
    fn submit_as(&self, who: &str, pin: &str, words: &[impl AsRef<str>]) -> Done {
        let mut all: Vec<String> = vec!["submit".to_owned()];
        all.extend(words.iter().map(|word| word.as_ref().to_owned()));
        all.extend(self.to(who, pin));
        all.push("--json".to_owned());
        self.pair.low.command(&all).unwrap()
    }

    /// Submits as `ci`; what was answered.
    fn submit(&self, words: &[impl AsRef<str>]) -> Value {
        let said = self.submit_as("ci", &self.server_pin(), words).ok().unwrap();
        serde_json::from_str(&said).unwrap()
    }

    /// A submission that is refused, with all of this in the answer.
    fn refused(&self, words: &[impl AsRef<str>], expected: &[&str]) {
        let done = self.submit_as("ci", &self.server_pin(), words);
        assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
        for expected in expected {
            assert!(done.stderr.contains(expected), "{expected:?} is not in {}", done.stderr);
        }
    }

    /// Entries of the audit log.
    fn audit(&self, event: &str) -> Vec<Value> {
        let text = self.pair.low.ok(&["audit", "show", "--json"]).unwrap();
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| entry["event"] == event).collect()
    }

    /// Starts a submission and does not wait for it.
    fn spawn(&self, path: &Path) -> Child {
        let mut command = Command::new(&bins().unwrap().sender);
        command.args(["submit", "files"]).arg(path).args(["--into", "tools", "--json"]);
        command.args(self.to("ci", &self.server_pin()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Octets of the only blob that has come in part.
    fn part(&self) -> Option<u64> {
        let folder = self.pair.low.dir().join("producers/ci");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut parts = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".part"));
        parts.next().map(|part| part.metadata().unwrap().len())
    }

    /// Waits until so much of it has come.
    fn wait_part(&self, bytes: u64) -> u64 {
        let start = Instant::now();
        loop {
            if let Some(part) = self.part().filter(|part| *part >= bytes) {
                return part;
            }
            assert!(start.elapsed() < MINUTE, "nothing comes: {:?}", self.part());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn big_file(&self, bytes: u64) -> PathBuf {
        let path = self.dir("work");
        tree::write(&path, "big.bin", &tree::octets(&mut Prng::new(bytes), bytes as usize), 0o644).unwrap();
        path.join("big.bin")
    }
}

/// The words of `submit provider`, without the first two.
fn provider_words(release: &ProviderRelease) -> Vec<String> {
    release.submit_arguments().split_off(1)
}

fn make_provider(work: &Path, source: &str) -> ProviderRelease {
    let executable = work.join("executable");
    std::fs::create_dir_all(work).unwrap();
    std::fs::write(&executable, tree::octets(&mut Prng::new(7), 1 << 20)).unwrap();
    let publisher = Publisher::new().unwrap();
    publisher.release(&work.join("release"), source, "1.0.0", &executable, &[host_platform()]).unwrap()
}

const SOURCE: &str = "registry.example.com/acme/tool";
const RIGHTS: &str = "kinds = ['file', 'provider']\nnames = ['tools/*', 'registry.example.com/acme/*']\n";

#[test]
fn what_a_build_host_submits_crosses_the_link_and_comes_once() {
    let _alone = alone();
    let mut site = Site::new("producers", RIGHTS);
    site.pair.start().unwrap();
    let files = site.dir("work").join("tree");
    tree::make(&files, Spec { small: 60, largest: 3 << 20, ..Spec::default() }).unwrap();
    let provider = make_provider(&site.dir("work"), SOURCE);
    let words = ["files", files.to_str().unwrap(), "--into", "tools"];

    let answer = site.submit(&words);
    let expected = tree::digests(&files, "tools/tree").unwrap();
    assert_eq!(answer["artifacts"], expected.len() as u64);
    let sent = answer["sent_bytes"].as_u64().unwrap();
    assert!(sent > 3 << 20 && sent <= answer["bytes"].as_u64().unwrap(), "{answer}");
    let answer = site.submit(&provider_words(&provider));
    assert_eq!((&answer["artifacts"], answer["sent_bytes"].as_u64().unwrap() > MIB), (&1.into(), true));
    let today = site.listing()["producers"][0]["today_bytes"].as_u64().unwrap();
    assert!(today > sent + MIB, "{today} octets were counted");

    // The same again, before and after it was released, and with one file more.
    for _ in 0..2 {
        let answer = site.submit(&words);
        assert_eq!((&answer["sent_bytes"], &answer["new_bytes"]), (&0.into(), &0.into()), "{answer}");
        let answer = site.submit(&provider_words(&provider));
        assert_eq!(answer["sent_bytes"], 0, "{answer}");
        if site.pair.low_status().unwrap().staged() > 0 {
            site.pair.low.ok(&["release"]).unwrap();
        }
    }
    assert_eq!(site.listing()["producers"][0]["today_bytes"], today);
    tree::write(&files, "more", b"more\n", 0o644).unwrap();
    assert_eq!(site.submit(&words)["sent_bytes"], 5);
    assert!(site.part().is_none(), "something is left");
    site.pair.low.ok(&["release"]).unwrap();
    let number = site.pair.low_status().unwrap().channel("main").unwrap().newest.unwrap();
    site.pair.wait_published(number, 2 * MINUTE).unwrap();
    let mut mirror = site.pair.mirror().unwrap();
    mirror.compare_files(&tree::digests(&files, "tools/tree").unwrap()).unwrap();
    mirror.compare_provider(&provider).unwrap();

    let submitted = site.audit("submitted");
    let by = submitted[0]["by"]["producer"].as_str().unwrap();
    assert!(by.starts_with("ci@127.0.0.1:"), "{by}");
    assert!(site.audit("key").iter().any(|entry| entry["key"] == "producers" && entry["change"] == "made"));
    let status = site.pair.low.ok(&["status"]).unwrap();
    assert!(status.contains("producer ci\n") && status.contains("7 taken, 0 refused"), "{status}");
}

#[test]
fn what_is_outside_of_the_rights_is_refused_and_told() {
    let _alone = alone();
    let limits = "bytes_max = '2MB'\nbytes_per_day = '4.5MB'\n";
    let mut site = Site::new("producers-no", &format!("{RIGHTS}{limits}"));
    site.pair.low.start().unwrap();
    let work = site.dir("work");
    let file = |name: &str, bytes: usize| {
        tree::write(&work, name, &tree::octets(&mut Prng::new(bytes as u64), bytes), 0o644).unwrap();
        work.join(name).display().to_string()
    };
    let small = file("small", 1000);
    let files = |path: &str, into: &str| ["files", path, "--into", into].map(str::to_owned).to_vec();
    let tools = files(&small, "tools");

    site.refused(
        &files(&small, "etc"),
        &["producer ci may not submit file etc/small", "no pattern in names", "tools/*"],
    );
    let elsewhere = [tools.clone(), vec!["--channel".to_owned(), "other".to_owned()]].concat();
    site.refused(
        &elsewhere,
        &["ci may not submit to channel other", "channels of its [[producer]] has main"],
    );
    let module = [
        "module",
        &file("m.zip", 100),
        "--source",
        "registry.example.com/acme/net/aws",
        "--version",
        "1.0.0",
    ];
    site.refused(
        &module,
        &["may not submit artifacts of kind module", "kinds of its [[producer]] has file, provider"],
    );
    let other = make_provider(&work.join("other"), "registry.example.com/other/tool");
    site.refused(
        &provider_words(&other),
        &["provider registry.example.com/other/tool 1.0.0", "no pattern in names"],
    );
    let own = make_provider(&work.join("own"), SOURCE);
    let zip = own.zips[0].display().to_string();
    let unsigned = ["provider", &zip, "--source", SOURCE, "--unsigned"];
    site.refused(&unsigned, &["without its proof", "unsigned of its [[producer]] is false"]);
    site.refused(
        &files(&file("large", 2_000_001), "tools"),
        &["the submission of producer ci has", "bytes_max of its [[producer]] is"],
    );
    assert_eq!(
        site.listing()["producers"][0]["today_bytes"],
        0,
        "content was taken before the rights were looked at"
    );

    // The same checks as for what comes over the control socket.
    std::fs::write(&own.sums, std::fs::read_to_string(&own.sums).unwrap().replace('1', "2")).unwrap();
    site.refused(&provider_words(&own), &["signature"]);
    assert_eq!(site.pair.low_status().unwrap().staged(), 0);
    // What is refused is not kept, so that it costs as much to offer it again.
    let today = || site.listing()["producers"][0]["today_bytes"].as_u64().unwrap();
    let cost = today();
    assert!(cost > MIB, "{cost} octets were counted");
    site.refused(&provider_words(&own), &["signature"]);
    assert_eq!(today(), 2 * cost);
    let kept = std::fs::read_dir(site.pair.low.dir().join("producers/ci")).unwrap();
    assert_eq!(kept.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["day"]);

    site.submit(&files(&file("first", 1_500_000), "tools"));
    let second = file("second", 1_600_000);
    site.refused(&files(&second, "tools"), &["ci wants to send", "bytes_per_day of its [[producer]] is"]);
    // The day is counted over a restart, too.
    site.pair.low.stop().unwrap();
    site.pair.low.start().unwrap();
    site.refused(&files(&second, "tools"), &["bytes_per_day"]);
    site.submit(&tools);

    // A host whose key nobody knows, and one that is not the sender that is meant.
    let stranger = site.make_key("stranger");
    let done = site.submit_as("stranger", &site.server_pin(), &tools);
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("its key is in no [[producer]]") && done.stderr.contains(&stranger),
        "{}",
        done.stderr
    );
    let done = site.submit_as("ci", &stranger, &tools);
    assert_eq!(done.code, Some(1));
    let expected = format!("expected {stranger}, as --server-pin says, and found {}", site.server_pin());
    assert!(done.stderr.contains(&expected), "{}", done.stderr);

    let refused = site.audit("refused");
    let by =
        |entry: &&Value| entry["by"]["producer"].as_str().is_some_and(|by| by.starts_with("ci@127.0.0.1:"));
    let why = |entry: &Value| entry["why"].as_str().unwrap().to_owned();
    assert_eq!(refused.iter().filter(by).count(), 10, "{refused:#?}");
    assert!(refused.iter().any(|entry| why(entry).contains("file etc/small")), "{refused:#?}");
    assert!(
        refused.iter().any(|entry| entry["what"] == "a producer's connection from 127.0.0.1"),
        "{refused:#?}"
    );
}

#[test]
fn a_submission_that_is_cut_goes_on_where_it_was() {
    let _alone = alone();
    let mut site = Site::new("producers-cut", RIGHTS);
    site.pair.low.start().unwrap();
    let total = 200 * MIB;
    let big = site.big_file(total);

    // The build host loses power.
    let mut child = site.spawn(&big);
    site.wait_part(20 * MIB);
    child.kill().unwrap();
    child.wait().unwrap();
    // What was on its way still arrives.
    let mut part = 0;
    wait_for("the part to stand still", MINUTE, || {
        let before = std::mem::replace(&mut part, site.part().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        Ok((before == part).then_some(()))
    })
    .unwrap();
    assert!(part < total, "the cut came too late");

    // The sender loses power, and the command goes on by itself.
    let child = site.spawn(&big);
    site.wait_part(part + 40 * MIB);
    site.pair.low.kill_9().unwrap();
    let second = site.part().unwrap();
    assert!(second < total, "the cut came too late");
    site.pair.low.start().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sent = answer["sent_bytes"].as_u64().unwrap();
    println!(
        "{part} octets came before the first cut, {second} before the second; then {sent} were sent of {total}"
    );
    // What was in flight when the sender died is sent twice, and nothing else.
    let rest = total - part;
    assert!((rest..rest + 10 * MIB).contains(&sent), "{rest} octets were lacking, {sent} were sent");
    assert_eq!(answer["artifacts"], 1);
    assert_eq!(site.submit(&["files", big.to_str().unwrap(), "--into", "tools"])["sent_bytes"], 0);
    assert_eq!(site.part(), None);
}

#[test]
fn a_port_that_is_taken_is_an_alarm_until_it_is_free() {
    let mut site = Site::new("producers-port", RIGHTS);
    let taken = std::net::UdpSocket::bind(("127.0.0.1", site.port)).unwrap();
    site.pair.low.start().unwrap();
    let has_alarm =
        |site: &Site| site.pair.low_status().unwrap().alarms.iter().any(|alarm| alarm.id == "producers");
    wait_for("the alarm", MINUTE, || Ok(has_alarm(&site).then_some(()))).unwrap();
    drop(taken);
    wait_for("the end of the alarm", MINUTE, || Ok((!has_alarm(&site)).then_some(()))).unwrap();
    let small = site.dir("work");
    tree::write(&small, "tool", b"tool", 0o755).unwrap();
    site.submit(&["files", small.join("tool").to_str().unwrap(), "--into", "tools"]);
}

/// A producer whose program does not do what the protocol says.
struct Rogue {
    runtime: tokio::runtime::Runtime,
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
    answers: Option<quinn::RecvStream>,
}

impl Rogue {
    fn connect(site: &Site, pin: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = diode_sender::fuzz::producer(&site.dir("ci"), pin).unwrap();
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
            let to = ([127, 0, 0, 1], site.port).into();
            let connection = endpoint.connect_with(config, to, "sender").unwrap().await.unwrap();
            (endpoint, connection)
        });
        Self { runtime, connection, _endpoint: endpoint, answers: None }
    }

    /// Sends octets as an offer, its length first.
    fn offer(&mut self, body: &[u8]) {
        let connection = self.connection.clone();
        let wire = [&(body.len() as u32).to_be_bytes(), body].concat();
        self.answers = Some(self.runtime.block_on(async move {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(&wire).await.unwrap();
            let _ = send.finish();
            receive
        }));
    }

    /// The next answer; none if the sender has closed the connection.
    fn answer(&mut self) -> Option<Value> {
        let answers = self.answers.as_mut().unwrap();
        let body = self.runtime.block_on(async {
            let mut length = [0; 4];
            answers.read_exact(&mut length).await.ok()?;
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            answers.read_exact(&mut body).await.ok()?;
            Some(body)
        })?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    fn why(&mut self) -> String {
        let answer = self.answer().unwrap();
        assert_eq!(answer["say"], "refused", "{answer}");
        answer["why"].as_str().unwrap().to_owned()
    }

    /// A content stream with this in it; it stays open if it is not to be finished.
    fn content(&self, digest: &str, from: u64, octets: &[u8], finish: bool) -> quinn::SendStream {
        let digest: Vec<u8> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&digest[at..at + 2], 16).unwrap()).collect();
        let connection = self.connection.clone();
        let wire = [&digest, from.to_be_bytes().as_slice(), octets].concat();
        self.runtime.block_on(async move {
            let mut stream = connection.open_uni().await.unwrap();
            // The sender may have seen enough before the end.
            let _ = stream.write_all(&wire).await;
            if finish {
                let _ = stream.finish();
            }
            stream
        })
    }

    fn closed(&self, within: Duration) -> String {
        let closed = async { tokio::time::timeout(within, self.connection.closed()).await };
        self.runtime.block_on(closed).expect("the sender does not close").to_string()
    }
}

fn offer_of(files: &[(&str, u64, &str)]) -> Value {
    let file = |(path, bytes, sha256): &(&str, u64, &str)| serde_json::json!({ "path": path, "role": "plain", "bytes": bytes, "sha256": sha256 });
    let files: Vec<Value> = files.iter().map(file).collect();
    serde_json::json!({ "channel": "main", "what": { "kind": "files" }, "files": files })
}

fn sha256(octets: &[u8]) -> String {
    diodesync::id::Sha256::of(octets).to_string()
}

#[test]
fn a_producer_that_misbehaves_gets_nothing_and_hinders_nobody() {
    let _alone = alone();
    let mut site = Site::new("producers-bad", RIGHTS);
    site.pair.low.set(&["producers", "stall_max"], "8s").unwrap();
    site.pair.low.start().unwrap();
    let (good, bad) = (sha256(b"good"), sha256(b"bad"));
    let pin = site.server_pin();
    let offer = |path: &str, bytes: u64, digest: &str| offer_of(&[(path, bytes, digest)]).to_string();

    // What is no offer, and what lies.
    let mut rogue = Rogue::connect(&site, &pin);
    for (body, expected) in [
        ("{}".to_owned(), "missing field"),
        (offer("tools/a", 4, &good).replace("main", "Main"), "a channel name"),
        (offer_of(&[]).to_string(), "0 files are submitted"),
        (offer("tools/../a", 4, &good), "the path \"tools/../a\" is refused"),
        (offer_of(&[("tools/a", 4, &good), ("tools/b", 5, &good)]).to_string(), "with 4 octets and with 5"),
    ] {
        rogue.offer(body.as_bytes());
        let why = rogue.why();
        assert!(why.contains(expected), "{why}");
    }
    for (digest, from, octets, expected) in [
        (&good, 0, b"evil".as_slice(), "was announced and"),
        (&good, 0, b"goodgood", "has more octets than was announced"),
        (&good, 0, b"goo", "has fewer octets than was announced"),
        (&bad, 0, b"bad", "that was not asked for"),
        (&good, 1 << 40, b"good", "that was not asked for"),
    ] {
        rogue.offer(offer("tools/a", 4, &good).as_bytes());
        let answer = rogue.answer().unwrap();
        assert_eq!(answer["blobs"][0]["sha256"], good.as_str(), "{answer}");
        let from = from + answer["blobs"][0]["from"].as_u64().unwrap();
        // One that was short has left a part.
        let skip = answer["blobs"][0]["from"].as_u64().unwrap() as usize;
        let _stream = rogue.content(digest, from, &octets[skip.min(octets.len())..], true);
        let why = rogue.why();
        assert!(why.contains(expected), "{why}");
    }
    // A length that nobody sets aside.
    let mut huge = Rogue::connect(&site, &pin);
    let connection = huge.connection.clone();
    huge.answers = Some(huge.runtime.block_on(async move {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0xff; 8]).await.unwrap();
        receive
    }));
    assert!(huge.why().contains("4294967295 octets was announced"));

    // Nobody is told of what is not within its rights: it is wanted, as if it were not here.
    let secret = site.dir("work");
    tree::write(&secret, "secret", b"secret", 0o644).unwrap();
    site.pair.low.ok(&["submit", "files", secret.join("secret").to_str().unwrap()]).unwrap();
    rogue.offer(offer("tools/guess", 6, &sha256(b"secret")).as_bytes());
    let answer = rogue.answer().unwrap();
    assert_eq!(answer["blobs"][0]["from"], 0, "{answer}");

    // It says nothing more, though its connection is alive; and is dropped, and holds up the next one no longer.
    let small = site.dir("work").join("small");
    std::fs::write(&small, b"small").unwrap();
    let start = Instant::now();
    site.submit(&["files", small.to_str().unwrap(), "--into", "tools"]);
    assert!(start.elapsed() > Duration::from_secs(2), "it did not wait for its turn");
    let why = rogue.closed(MINUTE);
    assert!(why.contains("nothing has come of what was announced for 8 s"), "{why}");

    // Nor is an offer waited for for ever, and of one producer there are few connections at once.
    let crowd: Vec<Rogue> = (0..8).map(|_| Rogue::connect(&site, &pin)).collect();
    let why = Rogue::connect(&site, &pin).closed(MINUTE);
    assert!(why.contains("too many connections at once"), "{why}");
    // One that keeps to the protocol comes again until the others are gone.
    site.submit(&["files", small.to_str().unwrap(), "--into", "tools"]);
    let why = crowd[0].closed(MINUTE);
    assert!(why.contains("nothing was offered"), "{why}");
    drop(crowd);

    // What nobody goes on with is not kept.
    let mut rogue = Rogue::connect(&site, &pin);
    rogue.offer(offer("tools/a", 1 << 20, &good).as_bytes());
    rogue.answer().unwrap();
    let _stream = rogue.content(&good, 3, b"", false);
    drop(rogue);
    assert_eq!(site.part(), Some(3));
    site.pair.low.stop().unwrap();
    site.pair.low.set(&["producers", "keep_parts"], "1s").unwrap();
    site.pair.low.start().unwrap();
    wait_for("the end of what is old", MINUTE, || Ok(site.part().is_none().then_some(()))).unwrap();
    let names: Vec<String> = site.pair.low.ok(&["list"]).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(names, ["file secret", "file tools/small"]);
}

#[test]
fn packages_and_images_are_judged_by_what_is_found_in_them() {
    let _alone = alone();
    for (program, package) in [("dpkg-deb", "dpkg"), ("umoci", "umoci")] {
        if let Err(skip) = deb::find(program, package) {
            return skip.announce_or_fail_in_ci("packages and images of a build host");
        }
    }
    let rights = "kinds = ['image', 'package']\nnames = ['bookworm/main/acme-*', 'ghcr.io/acme/*']\n";
    let mut site = Site::new("producers-oci", rights);
    site.pair.start().unwrap();
    let work = site.dir("work");
    std::fs::create_dir_all(&work).unwrap();

    // What a package is called stands in it, whatever its file is called.
    let own = deb::deb(&work, "acme-tool", "1.0", "amd64", "", "xz").unwrap();
    let other = deb::deb(&work, "openssl", "99.0", "amd64", "", "xz").unwrap();
    let disguised = work.join("acme-tool_2.0_amd64.deb");
    std::fs::rename(&other, &disguised).unwrap();
    let words = |path: &Path| ["packages", path.to_str().unwrap(), "--suite", "bookworm"].map(str::to_owned);
    assert!(site.submit(&words(&own))["sent_bytes"].as_u64().unwrap() > 0);
    assert_eq!(site.submit(&words(&own))["sent_bytes"], 0);
    site.refused(&words(&disguised), &["ci may not submit package", "openssl", "no pattern in names"]);

    // A layer that both images have goes over once.
    let layout = Layout::new(&work.join("layout")).unwrap();
    let content = tree::octets(&mut Prng::new(1), 1 << 20);
    layout.image("v1", "amd64", &content).unwrap();
    layout.image("v2", "amd64", &content).unwrap();
    let image = |tag: &str| {
        let dir = layout.dir.to_str().unwrap().to_owned();
        ["image".to_owned(), dir, "--name".to_owned(), format!("ghcr.io/acme/app:{tag}")]
    };
    let first = site.submit(&image("v1"));
    assert!(first["sent_bytes"].as_u64().unwrap() > MIB, "{first}");
    assert_eq!(site.submit(&image("v1"))["sent_bytes"], 0);
    let second = site.submit(&image("v2"));
    assert!((1..MIB / 2).contains(&second["sent_bytes"].as_u64().unwrap()), "{second}");

    // A manifest alone, for blobs that others have brought: they are not this producer's to use.
    let secret = Layout::new(&work.join("secret")).unwrap();
    let manifest = secret.image("v1", "amd64", b"secret").unwrap();
    let dir = secret.dir.to_str().unwrap();
    site.pair.low.ok(&["submit", "image", dir, "--name", "ghcr.io/others/app:v1"]).unwrap();
    let octets = secret.read(&manifest).unwrap();
    let digest = sha256(&octets);
    let offer = serde_json::json!({
        "channel": "main",
        "what": { "kind": "image", "repository": "ghcr.io/acme/stolen", "tags": { "v1": digest } },
        "files": [{ "path": format!("sha256:{digest}"), "role": "manifest", "bytes": octets.len(), "sha256": digest }],
    });
    let mut rogue = Rogue::connect(&site, &site.server_pin());
    rogue.offer(offer.to_string().as_bytes());
    assert_eq!(rogue.answer().unwrap()["blobs"][0]["from"], 0);
    let _stream = rogue.content(&digest, 0, &octets, true);
    let why = rogue.why();
    assert!(why.contains("ghcr.io/acme/stolen:v1 is not whole"), "{why}");

    site.pair.low.ok(&["release"]).unwrap();
    site.pair.wait_published(1, 2 * MINUTE).unwrap();
    let names = site.pair.low.ok(&["list"]).unwrap();
    assert!(names.contains("image ghcr.io/acme/app:v2") && names.contains("acme-tool"), "{names}");
    assert!(!names.contains("stolen") && !names.contains("openssl"), "{names}");
}

#[test]
fn keys_and_rights_are_taken_without_a_restart() {
    let _alone = alone();
    let mut site = Site::new("producers-reload", RIGHTS);
    site.pair.low.start().unwrap();
    let producer = |pin: &str, names: &str| {
        let text = format!("[[producer]]\nname = 'ci'\nkey = '{pin}'\nkinds = ['file']\nnames = [{names}]\n");
        site.pair.low.set(&["producer"], text.parse::<toml::Table>().unwrap()["producer"].clone()).unwrap();
    };
    let reload = || site.pair.low.ok(&["reload"]).unwrap();
    tree::write(&site.dir("work"), "small", b"small", 0o644).unwrap();
    let small = site.dir("work").join("small").display().to_string();
    let etc = ["files", &small, "--into", "etc"];
    site.refused(&etc, &["no pattern in names"]);
    let old = site.listing()["producers"][0]["key"].as_str().unwrap().to_owned();
    producer(&old, "'tools/*', 'etc/*'");
    site.pair.low.set(&["producers", "connections_max"], 7).unwrap();
    site.pair.low.set(&["producers", "listen"], "127.0.0.1:1").unwrap();
    assert_eq!(
        reload(),
        "taken: producer ci, producers connections_max\nchanged, and waiting for a restart: producers listen\n"
    );
    site.submit(&etc);
    let today = || site.listing()["producers"][0]["today_bytes"].clone();
    assert_eq!(today(), 5);

    // Another key, in the middle of a submission: who has the old one is sent away, and what came of it is gone on with.
    let big = site.big_file(200 * MIB);
    let new = site.make_key("new");
    let child = site.spawn(&big);
    site.wait_part(20 * MIB);
    producer(&new, "'tools/*'");
    contains_all(&reload(), &["taken: producer ci\n", "waiting for a restart: producers listen\n"]);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("its key is in no [[producer]]"), "{said}");
    // What had come by then is written before the connection counts as gone.
    wait_for("nobody is connected", MINUTE, || {
        Ok((site.listing()["producers"][0]["connections"] == 0).then_some(()))
    })
    .unwrap();
    let came = site.part().unwrap();
    assert!((20 * MIB..200 * MIB).contains(&came), "{came} octets came");
    let pin = site.server_pin();
    let words = ["files", big.to_str().unwrap(), "--into", "tools"];
    let done: Value = serde_json::from_str(&site.submit_as("new", &pin, &words).ok().unwrap()).unwrap();
    assert_eq!(done["sent_bytes"], 200 * MIB - came, "{done}");
    assert!(today().as_u64().unwrap() >= 200 * MIB, "the day is counted over both keys");

    // And nobody at all.
    site.pair.low.unset(&["producer"]).unwrap();
    contains_all(&reload(), &["taken: producer ci (gone)\n"]);
    assert_eq!(site.listing()["producers"], Value::Array(Vec::new()));
    let done = site.submit_as("new", &pin, &words);
    assert!(done.code == Some(1) && done.stderr.contains("its key is in no [[producer]]"), "{}", done.stderr);
}

fn contains_all(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}
