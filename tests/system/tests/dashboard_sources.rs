//! What feeds the gateway and what it feeds, on the dashboards: sources of which one fails, and a site's registry that is down
//! and comes back.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::bins::workspace;
use diodesync_system::browser::Browser;
use diodesync_system::http::Http;
use diodesync_system::oci::{self, Layout};
use diodesync_system::registry::Registry;
use diodesync_system::side::{Pair, Setup, TOKEN};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn post(http: &Http, path: &str, body: &Value) -> (u16, Value) {
    let token = format!("Bearer {TOKEN}");
    let fields = [("authorization", token.as_str()), ("content-type", "application/json")];
    let answer = http.ask("POST", path, &fields, &body.to_string()).unwrap();
    (answer.status, answer.json().unwrap())
}

/// A sample of `/metrics` that is named with its labels.
fn metric(http: &Http, sample: &str) -> Option<f64> {
    let text = http.get_ok("/metrics").unwrap().body;
    let line = text.lines().find_map(|line| line.strip_prefix(sample).map(str::to_owned))?;
    Some(line.trim().parse().unwrap())
}

/// The source of this name, when it is as it is to be.
fn wait_source(http: &Http, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/api/v1/sources/{name}");
    wait_for(&format!("source {name}"), MINUTE, || {
        let source = http.get_ok(&path)?.json()?;
        Ok(is_so(&source).then_some(source))
    })
    .unwrap()
}

/// One source brings something, one cannot be reached and then can: pulled through the dashboard, and seen there.
#[test]
fn sources_are_pulled_and_say_what_came_and_why_not() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "dash-src", ..Setup::default() }, Weather::lossy(3)).unwrap();
    let (good, bad) = (pair.dir.join("good"), pair.dir.join("bad"));
    std::fs::create_dir_all(&good).unwrap();
    std::fs::write(good.join("a.txt"), b"a").unwrap();
    std::os::unix::fs::symlink("a.txt", good.join("link")).unwrap();
    let text = format!(
        "[[source]]\nname = 'bad'\nkind = 'directory'\npath = '{}'\ninto = 'bad'\nsettle = '0s'\nevery = '1h'\n\
         [[source]]\nname = 'good'\nkind = 'directory'\npath = '{}'\ninto = 'good'\nsettle = '0s'\n",
        bad.display(),
        good.display()
    );
    pair.low.set(&["source"], text.parse::<toml::Table>().unwrap()["source"].clone()).unwrap();
    pair.low.let_in().unwrap();
    pair.start().unwrap();
    let [low, _] = pair.dashboards();

    // The one with a schedule was pulled at the start, and its folder is not there.
    let failed = wait_source(&low, "bad", |source| source["failures"] == 1);
    assert_eq!(
        (&failed["failed"], &failed["failed_runs"], &failed["last_good_s"]),
        (&json!(1), &json!(1), &json!(null))
    );
    assert!(failed["next_s"].as_u64() > failed["last_began_s"].as_u64(), "{failed}");
    let why = failed["report"]["failed"]["problems"][0]["why"].as_str().unwrap().to_owned();
    assert!(why.contains(bad.to_str().unwrap()), "{why}");
    let idle = low.get_ok("/api/v1/sources/good").unwrap().json().unwrap();
    assert_eq!((&idle["runs"], &idle["next_s"]), (&json!(0), &json!(null)), "it has no schedule");

    // Who has no token pulls nothing; a name that is none is refused.
    assert_eq!(low.ask("POST", "/api/v1/sync", &[("origin", &low.origin())], "").unwrap().status, 401);
    let (status, no) = post(&low, "/api/v1/sync", &json!({ "sources": ["goot"] }));
    assert!(status == 422 && no["error"].as_str().unwrap().contains("\"good\" is probably meant"), "{no}");
    let (status, asked) = post(&low, "/api/v1/sync", &json!({ "sources": ["good"] }));
    assert_eq!((status, asked), (200, json!({ "sources": ["good"] })));
    let came = wait_source(&low, "good", |source| source["runs"] == 1);
    assert_eq!(came["report"]["new"], json!({ "count": 1, "names": ["file good/a.txt"] }), "{came}");
    assert_eq!(came["refused"], 1, "the link: {came}");
    assert_eq!(came["report"]["released"], 1, "{came}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    assert_eq!(low.get("/api/v1/sources/none").unwrap().status, 404);
    assert_eq!(low.get("/sources/none").unwrap().status, 404);

    // The link goes, and both are as they should be; what is not there any more is told.
    std::fs::remove_file(good.join("link")).unwrap();
    std::fs::write(good.join("b.txt"), b"b").unwrap();
    std::fs::remove_file(good.join("a.txt")).unwrap();
    std::fs::create_dir_all(&bad).unwrap();
    std::fs::write(bad.join("late.txt"), b"late").unwrap();
    assert_eq!(post(&low, "/api/v1/sync", &json!({ "sources": [] })).0, 200);
    let good_now = wait_source(&low, "good", |source| source["runs"] == 2);
    assert_eq!((&good_now["new"], &good_now["failures"]), (&json!(1), &json!(0)), "{good_now}");
    let gone = good_now["report"]["gone"]["names"].as_array().unwrap();
    assert!(gone.contains(&json!("file good/a.txt")), "{good_now}");
    let bad_now = wait_source(&low, "bad", |source| source["runs"] == 2);
    assert_eq!(
        (&bad_now["new"], &bad_now["failures"], &bad_now["failed_runs"]),
        (&json!(1), &json!(0), &json!(1))
    );
    wait_for("metrics say so", MINUTE, || {
        let sample = |name: &str| metric(&low, &format!("diodesync_sender_source_{name}{{source=\"bad\"}}"));
        let is_so = sample("failing_pulls") == Some(0.0)
            && sample("failures_total") == Some(1.0)
            && sample("pulls_total") == Some(2.0)
            && sample("last_success_timestamp_seconds").is_some_and(|at| at > 1.6e9);
        Ok(is_so.then_some(()))
    })
    .unwrap();
    let log = pair.low.ok(&["audit", "show", "--json"]).unwrap();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let asked = log.iter().filter(|entry| entry["event"] == "pull");
    let asked: Vec<&Value> =
        asked.inspect(|entry| assert!(!entry["by"]["dashboard"].is_null(), "{entry}")).collect();
    assert_eq!(asked.len(), 2, "{log:#?}");
    assert_eq!(asked[1]["sources"], json!(["bad", "good"]));
    in_a_browser(&low, &bad);
}

/// The page of a source in a browser: a pull that fails is begun there, and its cause is shown without a reload.
fn in_a_browser(low: &Http, bad: &std::path::Path) {
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(skip) => return skip.announce_or_fail_in_ci("sources in a real browser"),
    };
    std::fs::remove_dir_all(bad).unwrap();
    browser.look(1280, 900, false, "light").unwrap();
    browser.go(&format!("{}/sources", low.origin())).unwrap();
    assert_eq!(browser.run("return document.querySelectorAll('form[action=\"/sync\"]').length").unwrap(), 0);
    browser.sign_in(low).unwrap();
    browser.go(&format!("{}/sources", low.origin())).unwrap();
    browser.run("document.querySelector('[data-source=bad] form button').click()").unwrap();
    wait_for("the answer is shown", MINUTE, || {
        let text = browser.run("return document.body.innerText")?;
        Ok(text.as_str().is_some_and(|text| text.contains("bad is being pulled")).then_some(()))
    })
    .unwrap();
    browser.go(&format!("{}/sources", low.origin())).unwrap();
    let state = "return document.querySelector('[data-source=bad]').dataset.state";
    wait_for("the page says that it failed", MINUTE, || {
        Ok((browser.run(state)? == json!("failed")).then_some(()))
    })
    .unwrap();
    let text = browser.run("return document.querySelector('[data-source=bad]').innerText").unwrap();
    assert!(text.as_str().unwrap().contains(bad.to_str().unwrap()), "{text}");
    let good = "return document.querySelector('[data-source=good]').dataset.state";
    assert_eq!(browser.run(good).unwrap(), "good");
    browser.picture(&workspace().join("target/dashboard"), "sender-sources-failed", true).unwrap();
    assert_eq!(browser.errors().unwrap(), [""; 0]);
}

/// A registry that follows, is down when the next release is published, and comes back; the role that pushes is a process of
/// its own.
#[test]
fn a_mirror_that_is_down_is_seen_to_be_behind() {
    let _alone = alone();
    if let Err(skip) = oci::find(&["docker-registry", "openssl"]) {
        return skip.announce_or_fail_in_ci("a docker-registry that is down");
    }
    let setup = Setup { name: "dash-mirror", rounds: 2, ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    let mut registry = Registry::start_open(&pair.dir.join("registry")).unwrap();
    pair.add_mirror(&format!(
        "name = 'site'\nkind = 'oci'\nregistry = '{}'\nca_file = '{}'",
        registry.host(),
        registry.ca().display()
    ))
    .unwrap();
    pair.high.split_with("mirror");
    pair.start().unwrap();
    let [_, high] = pair.dashboards();
    let submit = |pair: &Pair, name: &str, content: &[u8]| {
        let layout = Layout::new(&pair.dir.join(format!("image-{name}"))).unwrap();
        layout.image("v1", "amd64", content).unwrap();
        let (dir, name) = (layout.dir.to_str().unwrap().to_owned(), format!("ghcr.io/diodesync/{name}:v1"));
        pair.low.ok(&["submit", "image", &dir, "--name", &name, "--ref", "v1"]).unwrap();
        pair.low.ok(&["release"]).unwrap();
    };
    let mirror = |is_so: &dyn Fn(&Value) -> bool| {
        wait_for("the mirror is told of", 2 * MINUTE, || {
            let mirror = high.get_ok("/api/v1/mirrors")?.json()?["mirrors"][0].clone();
            Ok(is_so(&mirror).then_some(mirror))
        })
        .unwrap()
    };
    let held = |text: &str| {
        let found = high.get_ok(&format!("/api/v1/artifacts?q={text}")).unwrap().json().unwrap();
        found["artifacts"][0]["mirrors"].clone()
    };
    submit(&pair, "first", b"first");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let current = mirror(&|mirror| mirror["state"] == "current" && mirror["holds"] == json!([["main", 1]]));
    assert_eq!((&current["failures"], &current["failure"]), (&json!(0), &json!(null)));
    assert!(current["pushed_bytes"].as_u64() > Some(0), "{current}");
    assert_eq!(held("first"), json!([{ "mirror": "site", "state": "held" }]));

    // It is down.
    registry.kill_9().unwrap();
    submit(&pair, "second", b"second");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let behind = mirror(&|mirror| mirror["state"] == "behind");
    assert_eq!(behind["holds"], json!([["main", 1]]));
    assert_eq!(behind["published"], json!([["main", 2]]));
    assert!(behind["reason"].as_str().unwrap().contains(&registry.host()), "{behind}");
    assert_eq!((&behind["failure"], behind["failures"].as_u64() >= Some(1)), (&behind["reason"], true));
    assert!(behind["retry_ms"].as_u64() >= behind["failed_ms"].as_u64(), "{behind}");
    let page = high.get_ok("/mirrors").unwrap().body;
    assert!(page.contains("data-state=\"behind\"") && page.contains("Next try"), "{page}");
    assert!(high.get_ok("/").unwrap().body.contains("data-mirror=\"site\""));
    assert_eq!(held("second"), json!([{ "mirror": "site", "state": "behind" }]));
    assert!(high.get_ok("/artifacts?q=second").unwrap().body.contains("not in site, which is behind"));
    let sample = |name: &str| metric(&high, &format!("diodesync_receiver_mirror_{name}{{mirror=\"site\"}}"));
    assert_eq!(sample("behind"), Some(1.0));
    assert!(sample("behind_since_timestamp_seconds").is_some_and(|at| at > 1.6e9));
    assert!(sample("failures_total") >= Some(1.0));
    pictured(&high);

    // It is back, and what had failed can still be read.
    registry.resume().unwrap();
    let back = mirror(&|mirror| mirror["state"] == "current" && mirror["holds"] == json!([["main", 2]]));
    assert_eq!((&back["reason"], &back["retry_ms"]), (&json!(null), &json!(null)));
    assert!(back["failure"].is_string() && back["failures"].as_u64() >= Some(1), "{back}");
    wait_for("all of it is told", MINUTE, || {
        let is_so = sample("behind") == Some(0.0)
            && sample("behind_since_timestamp_seconds").is_none()
            && held("second") == json!([{ "mirror": "site", "state": "held" }])
            && high.get_ok("/mirrors")?.body.contains("What failed last, and is over");
        Ok(is_so.then_some(()))
    })
    .unwrap();
}

fn pictured(high: &Http) {
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(skip) => return skip.announce_or_fail_in_ci("mirrors in a real browser"),
    };
    let pictures = workspace().join("target/dashboard");
    for (name, width, height, is_phone, scheme) in [
        ("receiver-mirrors-behind", 1280, 900, false, "light"),
        ("receiver-mirrors-behind-phone", 390, 844, true, "dark"),
    ] {
        browser.look(width, height, is_phone, scheme).unwrap();
        browser.go(&format!("{}/mirrors", high.origin())).unwrap();
        browser.picture(&pictures, name, true).unwrap();
        let found = browser.run("return document.documentElement.scrollWidth").unwrap();
        assert!(found.as_u64() <= Some(u64::from(width)), "{name} is {found} wide, not {width}");
    }
    assert_eq!(browser.errors().unwrap(), [""; 0]);
}
