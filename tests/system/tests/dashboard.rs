//! The dashboards of real daemons: what they say is true, who may not ask is refused, and a release is watched in a real
//! browser from nothing to published.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use diodesync_system::bins::workspace;
use diodesync_system::browser::Browser;
use diodesync_system::http::{Http, read};
use diodesync_system::prng::Prng;
use diodesync_system::provider::{OTHER_PLATFORM, Publisher, host_platform};
use diodesync_system::side::{Pair, Setup, TOKEN};
use diodesync_system::weather::Weather;
use diodesync_system::{alone, tree, wait_for};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
/// An export that nobody has made.
const NO_EXPORT: &str = "0011223344556677";

fn setup(name: &'static str) -> Setup {
    Setup { name, rounds: 2, ..Setup::default() }
}

/// Submits a tree of so many octets and cuts a release.
fn release(pair: &Pair, number: u64, bytes: usize) {
    let tree = pair.dir.join("tree");
    tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(number), bytes), 0o644).unwrap();
    tree::write(&tree, "number", number.to_string().as_bytes(), 0o644).unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
}

/// Both sides answer everything that they describe, as they describe it.
#[test]
fn what_the_interfaces_describe_is_true() {
    let mut pair = Pair::over_link(&setup("dash-api"), Weather::lossy(4)).unwrap();
    [&pair.low, &pair.high].into_iter().for_each(|side| drop(side.let_in().unwrap()));
    // A source, a mirror and an import, so that there is something to describe.
    let watched = pair.dir.join("watched");
    std::fs::create_dir_all(&watched).unwrap();
    let source = format!("[[source]]\nname = 'folder'\nkind = 'directory'\npath = '{}'\n", watched.display());
    pair.low.set(&["source"], source.parse::<toml::Table>().unwrap()["source"].clone()).unwrap();
    let tree = pair.dir.join("mirror/files");
    std::fs::create_dir_all(tree.parent().unwrap()).unwrap();
    pair.add_mirror(&format!("name = 'tree'\nkind = 'files-tree'\npath = '{}'", tree.display())).unwrap();
    pair.start().unwrap();
    release(&pair, 1, 3 << 20);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let [low, high] = pair.dashboards();
    let tree = pair.dir.join("tree");
    tree::write(&tree, "more", b"more", 0o644).unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    let media = pair.dir.join("media");
    std::fs::create_dir_all(&media).unwrap();
    let to = media.to_str().unwrap();
    pair.low.ok(&["export", "--to", to, "--volume-size", "2.5MB", "--parity", "0%"]).unwrap();
    let volume = std::fs::read_dir(&media).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(volume).unwrap();
    assert_eq!(pair.high.run(&["import", media.to_str().unwrap()]).unwrap().code, Some(1));
    pair.wait_mirror("tree", MINUTE, |mirror| mirror.state == "current").unwrap();

    for (side, http) in [("sender", low), ("receiver", high)] {
        let description = http.get_ok("/api/v1/openapi.json").unwrap().json().unwrap();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                check_operation(side, &http, &description, path, method, operation);
            }
        }
        // What is said twice is the same.
        let status = http.get_ok("/api/v1/status").unwrap().json().unwrap();
        assert_eq!(status["side"], side);
        let samples = wait_for("there are samples", MINUTE, || {
            let samples = http.get_ok("/api/v1/samples?span=10m")?.json()?;
            Ok(samples["samples"].as_array().is_some_and(|samples| samples.len() > 2).then_some(samples))
        });
        let samples = samples.unwrap();
        assert_eq!(
            samples["samples"][0]["counts"].as_array().unwrap().len(),
            samples["counts"].as_array().unwrap().len()
        );
        assert_eq!(http.get("/api/v1/samples?span=9y").unwrap().status, 422);
        assert_eq!(http.get("/api/v1/nothing").unwrap().status, 404);
        assert_eq!(http.get("/releases/main/77").unwrap().status, 404);
    }
    // The release that POST cut below the loop above came, and the first page of the receiver's artifacts names it.
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let found = high.get_ok("/api/v1/artifacts?q=tree%2Fmore&kind=file").unwrap().json().unwrap();
    let (hex, _) = tree::digest(&tree.join("more")).unwrap();
    assert_eq!((&found["total"], &found["artifacts"][0]["digests"][0]["sha256"]), (&json!(1), &json!(hex)));
    assert_eq!(found["artifacts"][0]["state"], "published");
    pair.wait_mirror("tree", MINUTE, |mirror| mirror.holds == [("main".to_owned(), 2)]).unwrap();
    wait_for("the artifact is in the site's mirror", MINUTE, || {
        let found = high.get_ok("/api/v1/artifacts?q=tree%2Fmore")?.json()?;
        let mirrors = &found["artifacts"][0]["mirrors"];
        Ok((*mirrors == json!([{ "mirror": "tree", "state": "held" }])).then_some(()))
    })
    .unwrap();
    let by_digest = high.get_ok(&format!("/artifacts?q={hex}")).unwrap().body;
    assert!(by_digest.contains("tree/more") && !by_digest.contains("tree/bulk"), "{by_digest}");
    let change = low.get_ok("/api/v1/releases/main/2").unwrap().json().unwrap();
    assert_eq!(
        (&change["added"]["names"], &change["added"]["count"]),
        (&json!(["file tree/more"]), &json!(1))
    );
}

/// Asks for one operation and compares what comes with the description.
fn check_operation(
    side: &str,
    http: &Http,
    description: &Value,
    path: &str,
    method: &str,
    operation: &Value,
) {
    let names = [("{channel}", "main"), ("{number}", "1"), ("{source}", "folder"), ("{export}", NO_EXPORT)];
    let mut asked = names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    for one in parameters.filter(|one| one["in"] == "query" && one["required"] == true) {
        asked.push_str(&format!("?{}=0", one["name"].as_str().unwrap()));
    }
    let what = format!("{side}: {method} {path}");
    let (answer, allowed) = match method {
        "get" => (http.get(&asked).unwrap(), vec![200]),
        "post" => {
            assert!(operation["security"].is_array(), "{what}: not told that it needs the token");
            let body = match path {
                "/api/v1/release" => json!({ "channel": "main", "full": false }),
                "/api/v1/resend" => json!({ "ticket": "no ticket" }),
                "/api/v1/decisions" => json!({ "decision": "no decision" }),
                "/api/v1/sync" => json!({ "sources": ["folder"] }),
                other if other.starts_with("/api/v1/imports") => json!("no volume"),
                other => panic!("no example of {other}"),
            };
            let body = body.to_string();
            let kind = ("content-type", "application/json");
            let refused = http.ask("POST", &asked, &[kind, ("origin", &http.origin())], &body).unwrap();
            assert_eq!(refused.status, 401, "{what}: {}", refused.body);
            let token = format!("Bearer {TOKEN}");
            let fields = [kind, ("authorization", token.as_str())];
            (http.ask("POST", &asked, &fields, &body).unwrap(), vec![200, 422])
        }
        other => panic!("{what}: {other}"),
    };
    assert!(allowed.contains(&answer.status), "{what}: {} {}", answer.status, answer.body);
    let told = &operation["responses"][answer.status.to_string()]["content"];
    let (kind, told) =
        told.as_object().and_then(|told| told.iter().next()).unwrap_or_else(|| panic!("{what}: not told"));
    assert!(
        answer.field("content-type").starts_with(kind.as_str()),
        "{what}: {}",
        answer.field("content-type")
    );
    if kind == "application/json" {
        check_schema(&what, description, &told["schema"], &answer.json().unwrap());
    }
}

/// The part of JSON Schema that the descriptions use.
fn check_schema(what: &str, description: &Value, schema: &Value, value: &Value) {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
        let schema = &description["components"]["schemas"][name];
        assert!(schema.is_object(), "{what}: {name} is not described");
        return check_schema(what, description, schema, value);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let which = if value.is_null() { any.iter().find(|one| one["type"] == "null") } else { any.first() };
        return check_schema(what, description, which.unwrap(), value);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        other => panic!("{what}: no type but {other}"),
    };
    let is_of = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("{what}: {other}"),
    };
    assert!(types.iter().any(is_of), "{what}: {value} is not {types:?}");
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{what}: {value} is none of {allowed:?}");
    }
    if let (Some(kinds), Some(values)) = (schema["prefixItems"].as_array(), value.as_array()) {
        assert_eq!(kinds.len(), values.len(), "{what}: {value}");
        for (schema, value) in kinds.iter().zip(values) {
            check_schema(&format!("{what}[]"), description, schema, value);
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for value in values {
            check_schema(&format!("{what}[]"), description, items, value);
        }
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, schema) in properties {
            let value =
                fields.get(name).unwrap_or_else(|| panic!("{what}: {name} is described and does not come"));
            check_schema(&format!("{what}.{name}"), description, schema, value);
        }
        if schema["additionalProperties"] == false {
            for name in fields.keys() {
                assert!(
                    properties.contains_key(name),
                    "{what}: {name} comes and is not described in openapi.json"
                );
            }
        }
    }
}

/// `/metrics` is what Prometheus expects: each metric with help and type, of one kind, and no name twice.
#[test]
fn metrics_are_sound_and_readiness_is_told() {
    let mut pair = Pair::over_link(&setup("dash-metrics"), Weather::lossy(5)).unwrap();
    pair.start().unwrap();
    release(&pair, 1, 2 << 20);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    for (http, expected) in pair
        .dashboards()
        .into_iter()
        .zip(["diodesync_sender_sent_bytes_total", "diodesync_receiver_published_release"])
    {
        assert_eq!(http.get("/healthz").unwrap().body, "ok\n");
        assert_eq!(http.get("/readyz").unwrap().body, "ready\n");
        let answer = wait_for("metrics tell of the release", MINUTE, || {
            let answer = http.get_ok("/metrics")?;
            let is_there =
                answer.body.lines().any(|line| line.starts_with(expected) && !line.ends_with(" 0"));
            Ok(is_there.then_some(answer))
        });
        let answer = answer.unwrap();
        assert!(answer.field("content-type").starts_with("text/plain; version=0.0.4"));
        let (mut seen, mut current) = (Vec::new(), String::new());
        for line in answer.body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.') && !seen.contains(&name.to_owned()), "{line}");
                assert!(name.starts_with("diodesync_"), "{line}");
                seen.push(name.to_owned());
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let kind = if current.ends_with("_total") { "counter" } else { "gauge" };
                assert_eq!(rest, format!("{current} {kind}"));
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(name.split('{').next(), Some(current.as_str()), "{line}");
                assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
            }
        }
    }
    // A full disk is said where orchestrators look.
    pair.high.stop().unwrap();
    pair.high.set(&["space", "reserve"], "900000TB").unwrap();
    pair.high.start().unwrap();
    let [_, high] = pair.dashboards();
    let not_ready = high.get("/readyz").unwrap();
    assert_eq!((not_ready.status, not_ready.body.starts_with("disk-full: ")), (503, true), "{not_ready:?}");
}

/// A page of another site, a name that was rebound, a path that climbs and a header without end get nothing.
#[test]
fn who_is_not_meant_is_refused() {
    let mut pair = Pair::over_link(&setup("dash-refusals"), Weather::lossy(6)).unwrap();
    pair.start().unwrap();
    for http in pair.dashboards() {
        let port = http.address().port();
        let status = |method: &str, path: &str, fields: &[(&str, &str)]| {
            let answer = http.ask(method, path, fields, "").unwrap();
            assert!(!answer.body.contains("clock_ms"), "{method} {path} {fields:?} is answered: {answer:?}");
            assert!(answer.field("content-security-policy").contains("default-src 'none'"), "{answer:?}");
            answer.status
        };
        let path = "/api/v1/status";
        // A name of the attacker's that resolves to this host.
        for host in [
            format!("evil.example:{port}"),
            "evil.example".to_owned(),
            format!("localhost.evil.example:{port}"),
        ] {
            assert_eq!(status("GET", path, &[("host", &host)]), 421, "{host}");
        }
        // A page of another site in a browser of this host.
        assert_eq!(status("GET", path, &[("origin", "http://evil.example")]), 403);
        assert_eq!(status("GET", path, &[("origin", "null")]), 403);
        assert_eq!(status("GET", path, &[("origin", "http://localhost:1")]), 403);
        assert_eq!(
            status("GET", path, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]),
            403
        );
        assert_eq!(status("POST", "/api/v1/release", &[("origin", "http://evil.example")]), 403);
        assert_eq!(status("POST", "/release", &[]), 403);
        assert_eq!(status("POST", "/release", &[("origin", &http.origin())]), 401);
        assert_eq!(status("OPTIONS", path, &[("origin", "http://evil.example")]), 405);
        for path in ["/../etc/passwd", "/assets/../../keys", "/%2e%2e/x", "/assets/..%2f..%2fx", "/a\\..\\b"]
        {
            assert_eq!(status("GET", path, &[]), 400, "{path}");
        }
        assert_eq!(status("GET", &format!("/{}", "x".repeat(4000)), &[]), 414);
        // What is in a query is shown as text.
        let page = http.get("/artifacts?q=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E").unwrap();
        assert!(!page.body.contains("<script>"), "{}", page.body);
        endless_header(&http);
        assert_eq!(http.get("/healthz").unwrap().status, 200);
    }
}

/// Sends a header of 1 GiB as it comes, until it is refused: long before its end.
fn endless_header(http: &Http) {
    let mut stream = http.connect().unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-large: ").unwrap();
    let piece = [b'x'; 64 << 10];
    let mut sent = 0usize;
    while sent < 1 << 30 {
        match stream.write(&piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => sent += n,
        }
    }
    assert!(sent < 64 << 20, "{sent} octets of a header were taken");
    // The answer, unless the closing of the connection was faster.
    if let Ok(answer) = read(&mut stream) {
        assert_eq!(answer.status, 431, "{answer:?}");
    }
}

/// Who shows the token can cut a release; who shows another one, or a token that others can read, cannot.
#[test]
fn only_the_token_lets_someone_do_more_than_look() {
    let mut pair = Pair::over_link(&setup("dash-token"), Weather::lossy(7)).unwrap();
    let token = pair.low.let_in().unwrap();
    let mode = |mode| std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    pair.start().unwrap();
    let tree = pair.dir.join("tree");
    tree::write(&tree, "a", b"a", 0o644).unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    let [low, _] = pair.dashboards();
    let origin = low.origin();
    let form = [("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str())];
    let sign_in = |token: &str| low.ask("POST", "/sign-in", &form, &format!("token={token}")).unwrap();
    assert_eq!(sign_in("a+token+of+the+test%27s+own").status, 403, "others can read the token");
    wait_for("the token's mode is an alarm", MINUTE, || {
        Ok(pair.low_status()?.alarm("dashboard").filter(|alarm| alarm.text.contains("chmod 600")).map(drop))
    })
    .unwrap();
    mode(0o600);
    wait_for("the alarm ends", MINUTE, || Ok(pair.low_status()?.alarm("dashboard").is_none().then_some(())))
        .unwrap();
    assert_eq!(sign_in("another+token+altogether").status, 403);
    let signed_in = sign_in("a+token+of+the+test%27s+own");
    assert_eq!(signed_in.status, 303, "{signed_in:?}");
    let cookie = signed_in.field("set-cookie").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    assert!(!low.get_ok("/releases").unwrap().body.contains("Cut and send"));
    let page = low.ask("GET", "/releases", &[("cookie", cookie)], "").unwrap();
    assert!(page.body.contains("Cut and send"), "{}", page.body);
    let cut = |origin: &str, cookie: &str| {
        let fields =
            [("content-type", "application/x-www-form-urlencoded"), ("origin", origin), ("cookie", cookie)];
        low.ask("POST", "/release", &fields, "channel=main").unwrap()
    };
    assert_eq!(cut("http://evil.example", cookie).status, 403, "a page of another site uses the cookie");
    assert_eq!(cut(&origin, "diodesync_sender=0000").status, 401);
    let done = cut(&origin, cookie);
    assert!(done.status == 200 && done.body.contains("Release main 1 is cut"), "{done:?}");
    pair.wait_published(1, MINUTE).unwrap();
    assert_eq!(cut(&origin, cookie).status, 422, "there is nothing new");
    low.ask("POST", "/sign-out", &[("origin", &origin), ("cookie", cookie)], "").unwrap();
    assert_eq!(cut(&origin, cookie).status, 401);
}

/// Two hundred who look on, and who ask for pages besides, take nothing from a release that arrives.
#[test]
fn two_hundred_clients_do_not_cost_a_datagram() {
    const CLIENTS: usize = 200;
    let _alone = alone();
    let mut pair = Pair::over_link(&setup("dash-clients"), Weather::clear()).unwrap();
    pair.low.set(&["lane", "rate"], "60mbit").unwrap();
    pair.start().unwrap();
    release(&pair, 1, 24 << 20);
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let lost = |pair: &Pair| {
        let lane = pair.high_status().unwrap().lanes.remove(0);
        (lane.lost, lane.received)
    };
    let (lost_before, received_before) = lost(&pair);

    let [_, high] = pair.dashboards();
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = high.connect().unwrap();
            stream.write_all(b"GET /live?page=%2F HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let mut piece = vec![0; 64 << 10];
    for stream in &mut clients {
        let n = stream.read(&mut piece).unwrap();
        assert!(piece[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&piece[..n]));
    }
    release(&pair, 2, 24 << 20);
    let mut pages = 0;
    wait_for("release 2 is published while all look on", 4 * MINUTE, || {
        pages += usize::from(high.get_ok("/")?.body.contains("Overview"));
        Ok((pair.high_status()?.channel("main").and_then(|channel| channel.published) == Some(2))
            .then_some(()))
    })
    .unwrap();
    assert!(pages > 0);
    // All of them are told of it.
    for (at, stream) in clients.iter_mut().enumerate() {
        let told = r#"data-release=\"main 2\" data-state=\"published\""#;
        let (mut heard, began) = (Vec::new(), Instant::now());
        while !String::from_utf8_lossy(&heard).contains(told) {
            assert!(began.elapsed() < 2 * MINUTE, "client {at} did not hear of it");
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "client {at} was cut off");
            // A piece may begin in the middle of what is looked for.
            heard.drain(..heard.len().saturating_sub(1000));
            heard.extend_from_slice(&piece[..n]);
        }
    }
    let (lost_after, received_after) = lost(&pair);
    let (lost, received) = (lost_after - lost_before, received_after - received_before);
    println!("lost {lost_before} of {received_before} alone, {lost} of {received} with {CLIENTS} clients");
    // This machine may drop a few at any time.
    assert!(
        lost <= lost_before + received / 1000,
        "{lost} of {received} were lost, {lost_before} without clients"
    );
    // One more than there may be is told so, and those who look at pages are served all the same.
    drop(clients);
    assert_eq!(high.get_ok("/").unwrap().status, 200);
}

/// What is seen of a release while it is watched.
fn seen(browser: &Browser) -> (String, f64) {
    let script = "const card = document.querySelector('[data-release=\"main 1\"]'); \
                  return card ? [card.dataset.state, card.querySelector('progress').position] : ['', 0];";
    let seen = browser.run(script).unwrap();
    (seen[0].as_str().unwrap().to_owned(), seen[1].as_f64().unwrap())
}

/// In a real browser, on a page that is never loaded again: nothing, then more and more of it, then published.
#[test]
fn a_release_is_watched_from_nothing_to_published() {
    let _alone = alone();
    let browser = match Browser::start() {
        Ok(browser) => browser,
        Err(skip) => return skip.announce_or_fail_in_ci("the dashboards in a real browser"),
    };
    let mut pair = Pair::over_link(&setup("dash-browser"), Weather::lossy(9)).unwrap();
    pair.low.let_in().unwrap();
    pair.low.set(&["lane", "rate"], "24mbit").unwrap();
    pair.start().unwrap();
    let [low, high] = pair.dashboards();
    let pictures = workspace().join("target/dashboard");

    let publisher = Publisher::new().unwrap();
    let executable = pair.dir.join("executable");
    std::fs::write(&executable, tree::octets(&mut Prng::new(1), 2 << 20)).unwrap();
    let platforms = [host_platform(), OTHER_PLATFORM];
    let source = "registry.example.com/diodesync/demo";
    let provider =
        publisher.release(&pair.dir.join("provider"), source, "1.0.0", &executable, &platforms).unwrap();
    pair.low.ok(&provider.submit_arguments()).unwrap();

    browser.look(1280, 900, false, "light").unwrap();
    browser.go(&format!("{}/", high.origin())).unwrap();
    browser.run("window.sameDocument = true").unwrap();
    assert_eq!(seen(&browser), (String::new(), 0.0));
    // The release is cut by hand on the low side, in another page of the browser's.
    release(&pair, 1, 24 << 20);
    let mut shares: Vec<f64> = Vec::new();
    let mut is_pictured = false;
    wait_for("the page says that the release is published", 4 * MINUTE, || {
        let (state, share) = seen(&browser);
        if state == "arriving" && shares.last() != Some(&share) {
            if shares.is_empty() {
                browser.run("document.querySelector('[data-release] a').focus()")?;
            }
            shares.push(share);
            if share > 0.35 && !is_pictured {
                is_pictured = true;
                browser.picture(&pictures, "receiver-arriving", false)?;
                browser.look(390, 844, true, "dark")?;
                browser.picture(&pictures, "receiver-arriving-phone-dark", false)?;
                browser.look(1280, 900, false, "light")?;
            }
        }
        Ok((state == "published").then_some(()))
    })
    .unwrap();
    assert!(shares.len() >= 3 && shares.is_sorted(), "it was not seen to grow: {shares:?}");
    assert!(shares.iter().all(|share| (0.0..1.0).contains(share)), "{shares:?}");
    assert_eq!(
        browser.run("return window.sameDocument === true").unwrap(),
        json!(true),
        "the page was loaded again"
    );
    let focus = browser.run("return document.activeElement.textContent").unwrap();
    assert_eq!(focus, "Release main 1", "the live parts take the focus away");
    assert_eq!(browser.run("return document.body.dataset.state").unwrap(), "live");
    assert_eq!(browser.errors().unwrap(), [""; 0]);

    for (side, http, paths) in [
        (
            "receiver",
            high,
            vec!["/", "/releases", "/releases/main/1", "/artifacts", "/mirrors", "/missing", "/import"],
        ),
        ("sender", low, vec!["/", "/sources", "/releases", "/releases/main/1", "/exports", "/sign-in"]),
    ] {
        for path in paths {
            browser.look(1280, 900, false, "light").unwrap();
            browser.go(&format!("{}{path}", http.origin())).unwrap();
            let name = format!("{side}{}", path.trim_end_matches('/').replace('/', "-"));
            for (kind, width, height, is_phone, scheme) in [
                ("", 1280, 900, false, "light"),
                ("-dark", 1280, 900, false, "dark"),
                ("-phone", 390, 844, true, "light"),
            ] {
                browser.look(width, height, is_phone, scheme).unwrap();
                browser.picture(&pictures, &format!("{name}{kind}"), true).unwrap();
                // Nothing is cut off or has to be pushed sideways.
                let found = browser.run("return document.documentElement.scrollWidth").unwrap();
                assert!(
                    found.as_u64() <= Some(u64::from(width)),
                    "{name}{kind} is {found} wide, not {width}"
                );
            }
            assert_eq!(browser.errors().unwrap(), [""; 0], "{name}");
        }
    }
    without_a_script(&browser, &high);
    assert_eq!(browser.errors().unwrap(), [""; 0]);
    with_the_keyboard(&browser, &low);
    // A release that cannot be cut is answered with that status, which the console notes.
    let errors = browser.errors().unwrap();
    assert!(errors.iter().all(|error| error.contains("status of 422")), "{errors:?}");
}

/// Signing in and cutting a release without a pointer.
fn with_the_keyboard(browser: &Browser, low: &Http) {
    browser.look(1280, 900, false, "light").unwrap();
    browser.go(&format!("{}/sign-in", low.origin())).unwrap();
    let focused = |what: &str| browser.run(&format!("return document.activeElement.{what}")).unwrap();
    let mut stops = Vec::new();
    while focused("id") != "token" {
        browser.press_tab().unwrap();
        stops.push(focused("textContent"));
        assert!(stops.len() < 20, "the token's field is not reached: {stops:?}");
    }
    assert_eq!(stops.first(), Some(&json!("Skip to content")));
    browser.devtools("Input.insertText", &json!({ "text": TOKEN })).unwrap();
    browser.press_enter().unwrap();
    wait_for("the browser is signed in", MINUTE, || {
        let text = browser.run("return document.body.textContent")?;
        Ok(text.as_str().is_some_and(|text| text.contains("Sign out")).then_some(()))
    })
    .unwrap();
    browser.go(&format!("{}/releases", low.origin())).unwrap();
    let said = browser.run("document.querySelector('form[action=\"/release\"] button').click();");
    said.unwrap();
    // There is nothing to release, and that is said.
    wait_for("the answer is shown", MINUTE, || {
        let text = browser.run("return document.body.textContent")?;
        Ok(text.as_str().is_some_and(|text| text.contains("nothing was submitted")).then_some(()))
    })
    .unwrap();
}

/// Everything but the live parts is there where no script runs.
fn without_a_script(browser: &Browser, high: &Http) {
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true })).unwrap();
    browser.go(&format!("{}/", high.origin())).unwrap();
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": false })).unwrap();
    let said = browser
        .run("return [document.body.dataset.state ?? '', document.querySelectorAll('.plot > svg').length]");
    assert_eq!(said.unwrap(), json!(["", 4]));
    assert_eq!(seen(browser).0, "published");
}
