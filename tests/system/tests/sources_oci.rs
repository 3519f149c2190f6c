//! Images as a source: from the real `docker-registry` with TLS and a password, filled by `skopeo`, to `skopeo` on the far
//! side; and from one that does everything wrong that a registry can.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::deb::run;
use diodesync_system::oci::{self, Client, INDEX, Layout, MANIFEST, Signer};
use diodesync_system::origin::{Fault, Origin};
use diodesync_system::prng::Prng;
use diodesync_system::registry::{PASSWORD, Registry, USER};
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::tree;
use diodesync_system::weather::Weather;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// Sets `[[source]]` of the sender; it takes them at its next start.
fn configure(pair: &Pair, text: &str) {
    let table: toml::Table = text.parse().unwrap();
    pair.low.set(&["source"], table["source"].clone()).unwrap();
}

fn sync(pair: &Pair, source: &str) -> Done {
    pair.low.run_within(&["sync", source], 4 * MINUTE).unwrap()
}

/// A pull that brings everything; what it says.
#[track_caller]
fn good(pair: &Pair, source: &str) -> String {
    sync(pair, source).ok().unwrap()
}

/// A pull that does not; what it says.
#[track_caller]
fn bad(pair: &Pair, source: &str, expected: &[&str]) -> String {
    let done = sync(pair, source);
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    for expected in expected {
        assert!(done.stdout.contains(expected), "{expected:?} is not in:\n{}", done.stdout);
    }
    done.stdout
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// An image for two platforms under a tag.
struct Made {
    layout: Layout,
    index: Value,
    children: Vec<Value>,
}

fn make(dir: &Path, tag: &str, seed: u64, bytes: usize) -> Made {
    let layout = Layout::new(dir).unwrap();
    let children: Vec<Value> = ["amd64", "arm64"]
        .into_iter()
        .enumerate()
        .map(|(at, architecture)| {
            let content = tree::octets(&mut Prng::new(seed + at as u64), bytes);
            layout.image(architecture, architecture, &content).unwrap()
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let index = layout.manifest(INDEX, &index, Some(tag)).unwrap();
    Made { layout, index, children }
}

/// The tag of what belongs to a manifest.
fn tag_of(descriptor: &Value, kind: &str) -> String {
    format!("{}{kind}", text(&descriptor["digest"]).replace(':', "-"))
}

/// Pushes what a layout has under a tag.
fn push(registry: &Registry, certs: &Path, layout: &Layout, tag: &str, to: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet"]);
    skopeo.args(["--dest-creds", &format!("{USER}:{PASSWORD}"), "--dest-cert-dir"]).arg(certs);
    skopeo
        .arg(format!("oci:{}:{tag}", layout.dir.display()))
        .arg(format!("docker://{}/{to}", registry.host()));
    run(&mut skopeo).unwrap();
}

fn private(path: PathBuf, content: &str) -> PathBuf {
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The far side's client, and what it calls a repository of the upstream.
fn far_client(pair: &Pair, dir: &Path, upstream: &str) -> (Client, String) {
    let client = Client::new(dir, pair.high_prefix(), &pair.ca()).unwrap();
    (client, format!("localhost:{}/{}", pair.serve_port(), upstream.replace(':', "_")))
}

#[test]
fn images_are_pulled_from_a_stock_registry() {
    let what = "images from docker-registry";
    if let Err(skip) = oci::find(&["skopeo", "podman", "umoci", "openssl", "docker-registry"]) {
        return skip.announce_or_fail_in_ci(what);
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-oci", ..Setup::default() }, Weather::lossy(2)).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(work.join("certs")).unwrap();
    let mut registry = Registry::start(&work.join("registry")).unwrap();
    std::fs::copy(registry.ca(), work.join("certs/ca.crt")).unwrap();
    let (signer, stranger) =
        (Signer::new(&work.join("signer")).unwrap(), Signer::new(&work.join("stranger")).unwrap());
    let name = format!("{}/acme/app", registry.host());

    let mut all = BTreeMap::new();
    for (seed, version) in ["v1.9.0", "v1.10.0", "v1.11.0-rc.1", "v2.0.0"].into_iter().enumerate() {
        let made = make(&work.join(version), version, 10 * seed as u64, 400_000);
        push(&registry, &work.join("certs"), &made.layout, version, &format!("acme/app:{version}"));
        for signed in made.children.iter().chain([&made.index]) {
            signer.sign(&made.layout, &name, signed).unwrap();
            let tag = tag_of(signed, ".sig");
            push(&registry, &work.join("certs"), &made.layout, &tag, &format!("acme/app:{tag}"));
        }
        all.insert(version, made);
    }
    let user = private(work.join("user"), USER);
    let password = private(work.join("password"), &format!("{PASSWORD}\n"));
    let source = |images: &str, more: &str| {
        format!(
            "[[source]]\nname = 'app'\nkind = 'oci'\nimages = ['{name}:{images}']\nnewest = 2\nca_file = '{}'\n\
             user_file = '{}'\npassword_file = '{}'\ncosign_key = '{}'\n{more}",
            registry.ca().display(),
            user.display(),
            password.display(),
            signer.public().display(),
        )
    };
    configure(&pair, &source("v1.*", ""));
    pair.start().unwrap();

    // Two versions, each with the signatures of its index and of both platforms.
    let said = good(&pair, "app");
    assert!(said.contains("app: 8 new, 0 unchanged") && said.contains("release 1"), "{said}");
    assert!(!said.contains("rc.1") && !said.contains("v2.0.0"), "{said}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let (client, far) = far_client(&pair, &work.join("client"), &name);
    for version in ["v1.9.0", "v1.10.0"] {
        let made = &all[version];
        let copied = Layout { dir: work.join(format!("copy-{version}")) };
        client.copy(&format!("{far}:{version}"), &copied.dir, version, &["--all"]).unwrap();
        assert_eq!(copied.entry(version).unwrap()["digest"], made.index["digest"]);
        for signed in made.children.iter().chain([&made.index]) {
            let tag = tag_of(signed, ".sig");
            client.copy(&format!("{far}:{tag}"), &copied.dir, &tag, &[]).unwrap();
            signer.verify(&copied, &copied.entry(&tag).unwrap(), signed).unwrap();
        }
        assert!(copied.blobs().unwrap().iter().all(|blob| made.layout.path(blob).exists()));
    }
    assert!(client.copy(&format!("{far}:v2.0.0"), &work.join("none"), "v2.0.0", &["--all"]).is_err());

    // What is here is not asked for again.
    let before = registry.answered(&["GET"], "/blobs/").unwrap().len();
    let said = good(&pair, "app");
    assert!(said.contains("app: 0 new, 8 unchanged"), "{said}");
    // The payload of each root's signature is looked at again, the layers are not.
    let after = registry.answered(&["GET"], "/blobs/").unwrap().len();
    assert!(after - before <= 2, "{before} {after}");

    // A tag that is moved to what the key did not sign: refused, and what it named is served on.
    let moved = make(&work.join("moved"), "v1.10.0", 77, 400_000);
    push(&registry, &work.join("certs"), &moved.layout, "v1.10.0", "acme/app:v1.10.0");
    let said =
        bad(&pair, "app", &["REFUSED", &format!("image {name}:v1.10.0"), "it has no signature by cosign"]);
    assert!(!said.contains("gone  "), "{said}");
    stranger.sign(&moved.layout, &name, &moved.index).unwrap();
    let tag = tag_of(&moved.index, ".sig");
    push(&registry, &work.join("certs"), &moved.layout, &tag, &format!("acme/app:{tag}"));
    bad(&pair, "app", &["REFUSED", "its signature by cosign does not hold: it is not by the key"]);
    // Signed, it is taken; unless tags must not move.
    pair.low.stop().unwrap();
    configure(&pair, &source("v1.*", "moved_tags = 'refuse'\n"));
    pair.low.start().unwrap();
    signer.sign(&moved.layout, &name, &moved.index).unwrap();
    let layout = &moved.layout;
    layout.edit(|entries| drop(entries.remove(entries.len() - 2))).unwrap();
    push(&registry, &work.join("certs"), layout, &tag, &format!("acme/app:{tag}"));
    let (old, new) =
        (text(&all["v1.10.0"].index["digest"]).to_owned(), text(&moved.index["digest"]).to_owned());
    bad(
        &pair,
        "app",
        &["REFUSED", &format!("image {name}:v1.10.0: the tag was moved: it named {old}"), &new],
    );
    let copied = Layout { dir: work.join("still") };
    client.copy(&format!("{far}:v1.10.0"), &copied.dir, "x", &["--all"]).unwrap();
    assert_eq!(text(&copied.entry("x").unwrap()["digest"]), old);
    pair.low.stop().unwrap();
    configure(&pair, &source("v1.*", ""));
    pair.low.start().unwrap();
    let said = good(&pair, "app");
    assert!(said.contains(&format!("new      image {name}:v1.10.0")), "{said}");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    let copied = Layout { dir: work.join("taken") };
    client.copy(&format!("{far}:v1.10.0"), &copied.dir, "x", &["--all"]).unwrap();
    assert_eq!(text(&copied.entry("x").unwrap()["digest"]), new);

    // One platform of two: the index keeps its digest, and stock clients of that platform find what they need.
    let slim = make(&work.join("slim"), "latest", 500, 400_000);
    push(&registry, &work.join("certs"), &slim.layout, "latest", "acme/slim:latest");
    let sbom =
        slim.layout.artifact("application/spdx+json", b"{\"sbom\":1}", Some(&slim.children[0])).unwrap();
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [sbom] });
    let fallback = tag_of(&slim.children[0], "");
    slim.layout.manifest(INDEX, &list, Some(&fallback)).unwrap();
    slim.layout.edit(|entries| entries.retain(|entry| entry["digest"] != sbom["digest"])).unwrap();
    // skopeo 1.9 does not copy a list without platforms; the registry's own interface takes it.
    put_by_hand(&registry, &work, "acme/slim", &slim.layout, &sbom, &fallback);
    pair.low.stop().unwrap();
    let one = source("v1.*", "")
        .replace("acme/app:v1.*", "acme/slim:latest")
        .replace("newest = 2", "platforms = ['linux/amd64']");
    let one = one.split("cosign_key").next().unwrap().replace("'app'", "'slim'");
    configure(&pair, &format!("{}\n{one}", source("v1.*", "")));
    pair.low.start().unwrap();
    let said = good(&pair, "slim");
    assert!(said.contains("slim: 2 new"), "{said}");
    pair.wait_published(3, 2 * MINUTE).unwrap();
    let far_slim = far.replace("/app", "/slim");
    let pulled = client.pull(&format!("{far_slim}:latest")).unwrap();
    assert_eq!(pulled["Digest"], slim.index["digest"], "{pulled}");
    let mut https = pair.mirror().unwrap().https;
    let base = format!("/v2/{}", far_slim.split_once('/').unwrap().1);
    let missing = https.get(&format!("{base}/manifests/{}", text(&slim.children[1]["digest"]))).unwrap();
    assert_eq!(missing.status, 404, "the other platform is not there");
    let referrers = https.get_ok(&format!("{base}/referrers/{}", text(&slim.children[0]["digest"]))).unwrap();
    assert_eq!(referrers.json().unwrap()["manifests"][0]["digest"], sbom["digest"]);

    // A wrong password, and a registry that is gone: told, and what was there is served on.
    private(work.join("password"), "wrong\n");
    bad(
        &pair,
        "slim",
        &["FAILED", &format!("image {}", name.replace("/app", "/slim")), "401", "password_file"],
    );
    registry.kill_9().unwrap();
    bad(&pair, "slim", &["FAILED", &format!("image {}", name.replace("/app", "/slim")), &registry.host()]);
    client.pull(&format!("{far_slim}:latest")).unwrap();
}

/// Puts an artifact and the list of a fallback tag into a registry, with `curl`'s help.
fn put_by_hand(
    registry: &Registry,
    work: &Path,
    repository: &str,
    layout: &Layout,
    artifact: &Value,
    tag: &str,
) {
    let base = format!("https://{}/v2/{repository}", registry.host());
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--user",
            &format!("{USER}:{PASSWORD}"),
            "--cacert",
        ]);
        run(curl.arg(work.join("certs/ca.crt")).args(arguments)).unwrap()
    };
    let manifest: Value = serde_json::from_slice(&layout.read(artifact).unwrap()).unwrap();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let head = curl(&["--request", "POST", "--include", &format!("{base}/blobs/uploads/")]);
        let field = |line: &str| line.to_ascii_lowercase().starts_with("location: ");
        let location = head.lines().find(|line| field(line)).unwrap()["location: ".len()..].trim().to_owned();
        let digest = text(&blob["digest"]);
        let data = format!("@{}", layout.path(digest).display());
        let to = format!("{location}&digest={digest}");
        curl(&[
            "--request",
            "PUT",
            "--header",
            "Content-Type: application/octet-stream",
            "--data-binary",
            &data,
            &to,
        ]);
    }
    let list = layout.entry(tag).unwrap();
    for (descriptor, media_type, reference) in
        [(artifact, MANIFEST, text(&artifact["digest"])), (&list, INDEX, tag)]
    {
        let data = format!("@{}", layout.path(text(&descriptor["digest"])).display());
        let kind = format!("Content-Type: {media_type}");
        let to = format!("{base}/manifests/{reference}");
        curl(&["--request", "PUT", "--header", &kind, "--data-binary", &data, &to]);
    }
}

/// Lays a repository out as a registry gives it out: tags, manifests and blobs. The paths of the blobs.
fn lay_out(origin: &Origin, repository: &str, layout: &Layout, tags: &[&str]) -> BTreeSet<String> {
    let base = format!("/v2/{repository}");
    let mut open = Vec::new();
    for tag in tags {
        let entry = layout.entry(tag).unwrap();
        origin.put(&format!("{base}/manifests/{tag}"), layout.read(&entry).unwrap());
        open.push(entry);
    }
    origin.put(&format!("{base}/tags/list"), json!({ "name": repository, "tags": tags }).to_string());
    let mut blobs = BTreeSet::new();
    while let Some(descriptor) = open.pop() {
        let octets = layout.read(&descriptor).unwrap();
        let manifest: Value = serde_json::from_slice(&octets).unwrap();
        origin.put(&format!("{base}/manifests/{}", text(&descriptor["digest"])), octets);
        open.extend(manifest["manifests"].as_array().into_iter().flatten().cloned());
        for blob in manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config")) {
            let path = format!("{base}/blobs/{}", text(&blob["digest"]));
            origin.put(&path, layout.read(blob).unwrap());
            blobs.insert(path);
        }
    }
    blobs
}

#[test]
fn what_a_registry_does_wrong_is_named_and_the_last_good_image_stays() {
    if let Err(skip) = oci::find(&["skopeo", "umoci"]) {
        return skip.announce_or_fail_in_ci("images from a registry with faults");
    }
    let mut pair =
        Pair::over_link(&Setup { name: "src-ocibad", ..Setup::default() }, Weather::default()).unwrap();
    let work = pair.dir.join("work");
    std::fs::create_dir_all(&work).unwrap();
    let origin = Origin::start(&work).unwrap();
    let name = format!("{}/acme/app", origin.host());
    let first = make(&work.join("first"), "v1", 1, 600_000);
    lay_out(&origin, "acme/app", &first.layout, &["v1"]);
    configure(
        &pair,
        &format!(
            "[[source]]\nname = 'app'\nkind = 'oci'\nimages = ['{name}:v*']\nnewest = 1\nca_file = '{}'\n\
             [[source]]\nname = 'none'\nkind = 'oci'\nimages = ['{name}:v9.*']\nca_file = '{}'\n\
             [[source]]\nname = 'pinned'\nkind = 'oci'\nimages = ['{name}:v1@sha256:{}']\nca_file = '{}'\nchannel = 'pinned'\n",
            origin.ca.display(),
            origin.ca.display(),
            "7".repeat(64),
            origin.ca.display(),
        ),
    );
    pair.start().unwrap();
    let said = good(&pair, "app");
    assert!(said.contains("app: 1 new"), "{said}");
    pair.wait_published(1, 2 * MINUTE).unwrap();
    let (client, far) = far_client(&pair, &work.join("client"), &name);
    let served = |tag: &str, expected: &Value, into: &str| {
        let copied = Layout { dir: work.join(into) };
        client.copy(&format!("{far}:{tag}"), &copied.dir, "x", &["--all"]).unwrap();
        assert_eq!(copied.entry("x").unwrap()["digest"], expected["digest"]);
    };

    // The next version, and everything that can go wrong with it.
    let second = make(&work.join("second"), "v2", 100, 600_000);
    let blobs = lay_out(&origin, "acme/app", &second.layout, &["v2"]);
    let old = lay_out(&origin, "acme/app", &first.layout, &["v1"]);
    origin.put("/v2/acme/app/tags/list", json!({ "name": "acme/app", "tags": ["v1", "v2"] }).to_string());
    let large = |blob: &&String| origin.get(blob).unwrap().len() > 300_000;
    let layer = blobs.difference(&old).find(large).unwrap().clone();
    let manifest = "/v2/acme/app/manifests/v2".to_owned();
    let child = format!("/v2/acme/app/manifests/{}", text(&second.children[0]["digest"]));
    let image = format!("image {name}:v2");
    let status = |code, fields: Vec<(&'static str, String)>| Fault::Status(code, fields);
    let many = 99;
    for (path, fault, expected) in [
        (
            &layer,
            Fault::Content(vec![b'x'; origin.get(&layer).unwrap().len()]),
            vec!["REFUSED", "expected SHA-256", "nothing of it is kept"],
        ),
        (&layer, Fault::Content(b"short".to_vec()), vec!["REFUSED", "octets, the upstream has 5", "it lies"]),
        (&layer, Fault::Endless, vec!["REFUSED", "it lies"]),
        (
            &layer,
            Fault::Redirect("file:///etc/passwd".to_owned()),
            vec!["redirected to \"file:///etc/passwd\"", "only https and http"],
        ),
        (&layer, Fault::Redirect(origin.url(&layer)), vec!["that is after more than"]),
        (&layer, status(404, vec![]), vec!["FAILED", "404"]),
        (&child, Fault::Content(origin.get(&manifest).unwrap()), vec!["REFUSED", "expected SHA-256"]),
        (&manifest, Fault::Content(b"<html>".to_vec()), vec!["REFUSED", "it is not a manifest"]),
        (&manifest, Fault::Endless, vec!["REFUSED", "the answer is longer than"]),
        (
            &manifest,
            status(401, vec![("www-authenticate", "Bearer realm=\"file:///x\"".to_owned())]),
            vec!["only https and http"],
        ),
        (
            &manifest,
            status(401, vec![("www-authenticate", "Bearer realm=\"http://localhost:1/x\"".to_owned())]),
            vec!["without TLS"],
        ),
        (&manifest, status(403, vec![]), vec!["FAILED", "403"]),
        (&manifest, status(503, vec![]), vec!["FAILED", "503", "tried 5 times"]),
        (
            &manifest,
            status(429, vec![("retry-after", "3600".to_owned())]),
            vec!["FAILED", "429", "come back after"],
        ),
    ] {
        origin.heal();
        origin.fail(path, many, fault);
        bad(&pair, "app", &[&[image.as_str()], expected.as_slice()].concat());
    }
    origin.heal();
    served("v1", &first.index, "still");
    // A list of tags that cannot be had, and one in which nothing matches.
    origin.fail("/v2/acme/app/tags/list", many, Fault::Content(b"[]".to_vec()));
    bad(&pair, "app", &["images", "expected a list of tags"]);
    origin.heal();
    bad(&pair, "none", &["REFUSED", &format!("images {name}:v9.*"), "none of the 2 tags", "v2, v1"]);
    bad(&pair, "pinned", &["REFUSED", "this source pins it to sha256:777"]);

    // What passes by itself is waited for: too many requests, and a connection that breaks off in the middle of a layer,
    // which goes on where it was.
    origin.asked();
    origin.fail(&manifest, 1, status(429, vec![("retry-after", "1".to_owned())]));
    origin.fail(&manifest, 1, status(503, vec![]));
    origin.fail(&layer, 1, Fault::Cut(250_000));
    // And a token is got where the registry says, for the next request.
    let realm = origin.url("/token");
    let challenge =
        format!("Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:acme/app:pull\"");
    origin.put("/token", json!({ "token": "of-the-test" }).to_string());
    origin.fail("/v2/acme/app/tags/list", 1, status(401, vec![("www-authenticate", challenge)]));
    let said = good(&pair, "app");
    assert!(said.contains(&format!("new      {image}")) && said.contains("1 gone"), "{said}");
    let asked = origin.asked();
    let of_layer: Vec<_> = asked.iter().filter(|asked| asked.path == layer).collect();
    assert!(of_layer.len() == 2 && of_layer[0].range.is_none(), "{of_layer:?}");
    let range = of_layer[1].range.as_deref().unwrap();
    assert!(range.starts_with("bytes=") && range != "bytes=0-", "{range}");
    assert_eq!(of_layer[1].authorization.as_deref(), Some("Bearer of-the-test"));
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!(token.path, "/token?service=the%20registry&scope=repository:acme/app:pull");
    pair.wait_published(2, 2 * MINUTE).unwrap();
    served("v2", &second.index, "at-last");
    served("v1", &first.index, "kept");
}
