//! The site's own mirrors follow what is published: a real `docker-registry` with TLS and a password, from which stock
//! `skopeo` and `podman` pull, and trees of files, from which stock `terraform` installs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::oci::{self, Client, INDEX, Layout, Signer};
use diodesync_system::prng::Prng;
use diodesync_system::provider::{OTHER_PLATFORM, ProviderRelease, Publisher, host_platform};
use diodesync_system::registry::{PASSWORD, Registry, USER};
use diodesync_system::scratch::Scratch;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::terraform::{self, Project};
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const NAME: &str = "ghcr.io/diodesync/demo";
const SOURCE: &str = "registry.terraform.io/diodesync/demo";

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// An index of two platforms, signed by cosign's tag, with an SBOM that refers to it, and another on one platform.
fn image(dir: &Path, signer: &Signer, seed: u64, layer_bytes: usize) -> (Layout, Value, Vec<Value>) {
    let layout = Layout::new(dir).unwrap();
    let platforms = ["amd64", "arm64"].into_iter().zip(seed..);
    let children: Vec<Value> = platforms
        .map(|(architecture, seed)| {
            let content = tree::octets(&mut Prng::new(seed), layer_bytes);
            layout.image(architecture, architecture, &content).unwrap()
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let index = layout.manifest(INDEX, &index, Some("v1")).unwrap();
    signer.sign(&layout, NAME, &index).unwrap();
    let referrers = vec![
        layout.artifact("application/spdx+json", b"{\"sbom\":1}", Some(&index)).unwrap(),
        layout.artifact("application/spdx+json", b"{\"sbom\":2}", Some(&children[0])).unwrap(),
    ];
    (layout, index, referrers)
}

fn submit(pair: &Pair, layout: &Layout, name: &str) {
    let dir = layout.dir.to_str().unwrap();
    pair.low.ok(&["submit", "image", dir, "--name", name, "--ref", "v1"]).unwrap();
}

fn secret(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

struct Stand {
    pair: Pair,
    registry: Registry,
    work: Scratch,
    signer: Signer,
    client: Client,
}

impl Stand {
    /// A pair with a mirror called `site`, whose password is wrong.
    fn new(name: &'static str, more: &str) -> Self {
        let setup = Setup { name, rate: "400mbit".to_owned(), rounds: 2, ..Setup::default() };
        let pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        let work = Scratch::new(&format!("{name}-in")).unwrap();
        let registry = Registry::start(&work.join("registry")).unwrap();
        let (user, password) = (work.join("user"), work.join("password"));
        secret(&user, USER);
        secret(&password, "wrong\n");
        let host = registry.host();
        pair.add_mirror(&format!(
            "name = 'site'\nkind = 'oci'\nregistry = '{host}'\nca_file = '{}'\nuser_file = '{}'\npassword_file = '{}'\n\
             map = [{{ from = 'ghcr.io/diodesync/*', to = '{host}/mirrored/*' }}]\n{more}",
            registry.ca().display(),
            user.display(),
            password.display()
        ))
        .unwrap();
        let signer = Signer::new(&work.join("signer")).unwrap();
        let client = Client::new(&work.join("client"), &[], &registry.ca()).unwrap();
        client.log_in(&host, USER, PASSWORD).unwrap();
        Self { pair, registry, work, signer, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    fn set_password(&self) {
        secret(&self.path("password"), &format!("{PASSWORD}\n"));
    }

    fn release(&mut self, number: u64) {
        self.pair.low.ok(&["release"]).unwrap();
        self.pair.wait_published(number, 3 * MINUTE).unwrap();
    }

    fn wait_current(&mut self, number: u64) {
        let holds = [("main".to_owned(), number)];
        self.pair
            .wait_mirror("site", 3 * MINUTE, |mirror| mirror.state == "current" && mirror.holds == holds)
            .unwrap();
    }

    /// What skopeo gets of a tag, with its digest compared on the way, into a layout.
    fn copied(&self, name: &str, into: &str) -> Value {
        let dir = self.path(into);
        self.client.copy(&format!("{}/{name}", self.registry.host()), &dir, "v", &["--all"]).unwrap();
        Layout { dir }.entry("v").unwrap()["digest"].clone()
    }

    fn uploads(&self) -> Vec<String> {
        self.registry.answered(&["POST", "PATCH", "PUT"], "/v2/").unwrap()
    }
}

const PROGRAMS: [&str; 5] = ["docker-registry", "skopeo", "podman", "umoci", "openssl"];

#[test]
fn a_registry_follows() {
    let _alone = alone();
    if let Err(skip) = oci::find(&PROGRAMS) {
        return skip.announce_or_fail_in_ci("push to docker-registry");
    }
    let mut stand = Stand::new("mirror-oci", "gone = 'delete'");
    let (first, index, referrers) = image(&stand.path("first"), &stand.signer, 1, 1 << 20);
    stand.pair.start().unwrap();
    submit(&stand.pair, &first, &format!("{NAME}:v1"));
    submit(&stand.pair, &first, "quay.io/elsewhere/demo:v1");
    stand.release(1);

    // A wrong password is named, and tried again by itself once it is right.
    let behind = stand.pair.wait_mirror("site", MINUTE, |mirror| mirror.state == "behind").unwrap();
    let reason = behind.reason.unwrap();
    let password = stand.path("password").display().to_string();
    for word in ["refuses the user and password of", &password, "status 401", "look whether they are right"] {
        assert!(reason.contains(word), "{word} is not in: {reason}");
    }
    let alarm = stand.pair.high_status().unwrap().alarm("mirror-behind").cloned().unwrap();
    assert!(alarm.text.contains("mirror site is behind"), "{}", alarm.text);
    stand.set_password();
    stand.wait_current(1);
    let status = stand.pair.high_status().unwrap();
    assert!(status.alarm("mirror-behind").is_none());
    let notes = status.mirror("site").unwrap().notes.join("\n");
    assert!(notes.contains("quay.io/elsewhere/demo fits no pattern of map"), "{notes}");

    // Stock clients pull what was submitted, digest by digest.
    assert_eq!(stand.copied("mirrored/demo:v1", "copy"), index["digest"]);
    let pulled = stand.client.pull(&format!("{}/mirrored/demo:v1", stand.registry.host())).unwrap();
    assert_eq!(pulled["Digest"], index["digest"]);
    let hex = &text(&index["digest"])[7..];
    let signature = first.entry(&format!("sha256-{hex}.sig")).unwrap();
    assert_eq!(stand.copied(&format!("mirrored/demo:sha256-{hex}.sig"), "signature"), signature["digest"]);
    // This registry lists no referrers; the fallback tag does.
    for (subject, referrer) in [&index, &first.entry("amd64").unwrap()].into_iter().zip(&referrers) {
        let tag = text(&subject["digest"]).replace(':', "-");
        let list = stand.client.raw(&format!("{}/mirrored/demo:{tag}", stand.registry.host())).unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["manifests"][0]["digest"], referrer["digest"], "{list}");
        assert_eq!(list["manifests"][0]["artifactType"], "application/spdx+json");
    }

    // Compared anew after everything was forgotten, nothing is sent twice.
    let before = stand.uploads();
    stand.pair.high.stop().unwrap();
    std::fs::remove_dir_all(stand.pair.high.dir().join("mirror")).unwrap();
    stand.pair.high.start().unwrap();
    stand.wait_current(1);
    assert_eq!(stand.uploads(), before);

    // A second release adds an image that shares its layers with the first, in another repository, and drops the first.
    submit(&stand.pair, &first, "ghcr.io/diodesync/other:v2");
    stand.pair.low.ok(&["withdraw", &format!("image {NAME}:v1")]).unwrap();
    stand.release(2);
    stand.wait_current(2);
    assert_eq!(stand.copied("mirrored/other:v2", "second"), index["digest"]);
    let sent = stand.uploads().split_off(before.len());
    let layers = sent.iter().filter(|request| {
        request.starts_with("PATCH") || request.contains("/blobs/uploads/") && request.starts_with("PUT")
    });
    assert_eq!(layers.count(), 0, "blobs were sent and not mounted: {sent:#?}");
    assert!(sent.iter().any(|request| request.contains("mount=sha256")), "{sent:#?}");
    let gone = stand.client.raw(&format!("{}/mirrored/demo:v1", stand.registry.host())).unwrap_err();
    assert!(gone.to_string().contains("manifest unknown"), "{gone}");
}

#[test]
fn a_push_goes_on_where_registry_or_gateway_died() {
    let _alone = alone();
    if let Err(skip) = oci::find(&PROGRAMS) {
        return skip.announce_or_fail_in_ci("push to a docker-registry that dies");
    }
    let mut stand = Stand::new("mirror-dies", "");
    stand.set_password();
    // Layers of three parts.
    let (layout, index, _) = image(&stand.path("first"), &stand.signer, 21, 36 << 20);
    stand.pair.start().unwrap();
    submit(&stand.pair, &layout, &format!("{NAME}:v1"));

    // The registry dies when it has a part and a half of the first layer.
    stand.registry.gate().stop_after(24 << 20);
    stand.release(1);
    wait_for("half of a layer is there", 3 * MINUTE, || Ok(stand.registry.gate().is_stopped().then_some(())))
        .unwrap();
    stand.registry.kill_9().unwrap();
    stand.registry.gate().cut();
    let behind = stand.pair.wait_mirror("site", 2 * MINUTE, |mirror| mirror.state == "behind").unwrap();
    let reason = behind.reason.unwrap();
    assert!(reason.contains(&stand.registry.host()), "{reason}");
    // What is published is served meanwhile.
    let mut https = stand.pair.mirror().unwrap().https;
    https.get_ok(&format!("/v2/{NAME}/manifests/v1")).unwrap();

    // It is back, and we die when the second layer is half there.
    stand.registry.gate().stop_after(48 << 20);
    stand.registry.resume().unwrap();
    wait_for("half of another is there", 6 * MINUTE, || Ok(stand.registry.gate().is_stopped().then_some(())))
        .unwrap();
    stand.pair.high.kill_9().unwrap();
    stand.registry.gate().cut();
    stand.registry.gate().open_again();
    stand.pair.high.start().unwrap();
    stand.wait_current(1);
    assert_eq!(stand.copied("mirrored/demo:v1", "copy"), index["digest"]);
    // Of two layers of three parts each, nothing was sent twice but what broke off: this registry takes up no upload of
    // which it has a part of a part.
    let parts = stand.registry.answered(&["PATCH"], "/blobs/uploads/").unwrap();
    assert!(parts.len() <= 4 + 2 + 2, "{parts:#?}");
}

fn provider(dir: &Path, version: &str) -> ProviderRelease {
    let executable = dir.join("executable");
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(&executable, tree::octets(&mut Prng::new(7), 3 << 20)).unwrap();
    let publisher = Publisher::new().unwrap();
    publisher
        .release(&dir.join(version), SOURCE, version, &executable, &[host_platform(), OTHER_PLATFORM])
        .unwrap()
}

/// `terraform init` from a filesystem mirror and nothing else.
fn install(pair: &Pair, mirror: &Path, release: &ProviderRelease, name: &str) -> Result<(), String> {
    let rc = format!(
        "provider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
        mirror.display().to_string()
    );
    let dir = pair.dir.join(name);
    let project = Project::new(&dir, &[], &rc, &pair.ca(), SOURCE, &release.version).unwrap();
    project.init(&[]).map_err(|error| format!("{error:#}"))?;
    assert_eq!(project.installed(&release.version, host_platform()).unwrap(), release.executable_digest);
    Ok(())
}

#[test]
fn trees_follow() {
    let _alone = alone();
    let setup = Setup { name: "mirror-trees", rounds: 2, ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    let (providers, files) = (pair.dir.join("site/providers"), pair.dir.join("site/files"));
    std::fs::create_dir_all(pair.dir.join("site")).unwrap();
    let tree_of = |name: &str, kind: &str, path: &Path| {
        format!(
            "name = '{name}'\nkind = '{kind}'\npath = '{}'\ngrace = '0s'\ncheck_every = '10s'",
            path.display()
        )
    };
    pair.add_mirror(&tree_of("tf", "terraform-tree", &providers)).unwrap();
    pair.add_mirror(&tree_of("files", "files-tree", &files)).unwrap();
    pair.high.split();
    pair.start().unwrap();
    wait_for("the alarm", MINUTE, || Ok(pair.high_status()?.alarm("mirror-role").map(drop))).unwrap();
    for mirror in pair.high_status().unwrap().mirrors {
        assert_eq!(mirror.state, "unknown", "{mirror:?}");
        assert!(mirror.reason.unwrap().contains("run --role mirror"));
    }
    pair.high.split_with("mirror");
    pair.high.spawn_role("mirror").unwrap();

    let source = pair.dir.join("tree");
    tree::write(&source, "docs/a.txt", b"a\n", 0o644).unwrap();
    tree::write(&source, "run.sh", b"#!/bin/sh\n", 0o755).unwrap();
    tree::write(&source, "bulk", &tree::octets(&mut Prng::new(1), 5 << 20), 0o644).unwrap();
    let (one, two) = (provider(&pair.dir.join("one"), "1.0.0"), provider(&pair.dir.join("two"), "2.0.0"));
    let submit = |pair: &Pair, release: &ProviderRelease| {
        pair.low.ok(&release.submit_arguments()).unwrap();
        pair.low.ok(&["submit", "files", source.to_str().unwrap()]).unwrap();
        pair.low.ok(&["release"]).unwrap();
    };
    let wait = |pair: &mut Pair, number: u64| {
        pair.wait_published(number, 2 * MINUTE).unwrap();
        for name in ["tf", "files"] {
            let holds = [("main".to_owned(), number)];
            pair.wait_mirror(name, 2 * MINUTE, |mirror| mirror.state == "current" && mirror.holds == holds)
                .unwrap();
        }
    };
    submit(&pair, &one);
    wait(&mut pair, 1);
    let compare = || {
        let expected = tree::digests(&source, "tree").unwrap();
        let found = tree::digests(&std::fs::canonicalize(&files).unwrap(), "").unwrap();
        assert_eq!(found, expected);
        let mode = |path: &str| std::fs::metadata(files.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("tree/run.sh"), mode("tree/docs/a.txt"), mode("tree")), (0o555, 0o444, 0o755));
    };
    compare();
    let terraform = terraform::find();
    match &terraform {
        Ok(()) => install(&pair, &providers, &one, "init1").unwrap(),
        Err(skip) => skip.announce("terraform init from the filesystem mirror's tree"),
    }

    // A second release adds a version and drops the other; who reads the old tree keeps it until the switch is over.
    std::fs::remove_file(source.join("docs/a.txt")).unwrap();
    tree::write(&source, "docs/b.txt", b"b\n", 0o644).unwrap();
    tree::write(&source, "docs/a.txt", b"another\n", 0o644).unwrap();
    pair.low.ok(&["withdraw", &format!("provider {SOURCE} 1.0.0")]).unwrap();
    submit(&pair, &two);
    wait(&mut pair, 2);
    compare();
    let names: Vec<String> =
        tree::digests(&std::fs::canonicalize(&providers).unwrap(), "").unwrap().into_keys().collect();
    let zip = |platform: &str| format!("{SOURCE}/terraform-provider-demo_2.0.0_{platform}.zip");
    let mut expected = [zip(host_platform()), zip(OTHER_PLATFORM)];
    expected.sort();
    assert_eq!(names, expected);
    if terraform.is_ok() {
        install(&pair, &providers, &two, "init2").unwrap();
        let refused = install(&pair, &providers, &one, "init3").unwrap_err();
        assert!(refused.contains("1.0.0"), "{refused}");
    }

    // A tree that somebody broke is made again, and the process may die at any moment.
    std::fs::remove_file(files.join("tree/bulk")).unwrap();
    for _ in 0..3 {
        pair.high.kill_9_role("mirror").unwrap();
        pair.high.spawn_role("mirror").unwrap();
    }
    wait_for("the file is there again", 2 * MINUTE, || Ok(files.join("tree/bulk").exists().then_some(())))
        .unwrap();
    compare();
    // What was replaced is gone, and nothing half made is left.
    wait_for("one tree is left", MINUTE, || {
        let trees = std::fs::read_dir(pair.dir.join("site/files.trees"))?;
        let names: Vec<_> =
            trees.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        Ok((names.len() == 2).then_some(()))
    })
    .unwrap();
    pair.high.stop().unwrap();
}
