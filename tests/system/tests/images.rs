//! Container images, from a layout on the low side to stock clients on the high side: blob for blob, with the
//! signatures, attestations and SBOMs that belong to them, which the clients check; and layouts that are not right.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::netns::{Family, Gap};
use diodesync_system::oci::{self, Client, INDEX, Layout, MANIFEST, Signer};
use diodesync_system::prng::Prng;
use diodesync_system::scratch::Scratch;
use diodesync_system::side::{Done, Pair, Setup};
use diodesync_system::tree;
use diodesync_system::weather::Weather;
use serde_json::{Value, json};

const NAME: &str = "ghcr.io/diodesync/demo";
const MINUTE: Duration = Duration::from_secs(60);

/// A multi-platform image, called `v1`, with everything that can belong to one.
struct Made {
    layout: Layout,
    index: Value,
    children: Vec<Value>,
    on_index: Value,
    on_child: Value,
    on_referrer: Value,
    fallback: Value,
}

fn make(dir: &Path, signer: &Signer, seed: u64) -> Made {
    let layout = Layout::new(dir).unwrap();
    let content = |seed| tree::octets(&mut Prng::new(seed), 3 << 20);
    let children: Vec<Value> = [("amd64", seed), ("arm64", seed + 1)]
        .into_iter()
        .map(|(architecture, seed)| layout.image(architecture, architecture, &content(seed)).unwrap())
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let index = layout.manifest(INDEX, &index, Some("v1")).unwrap();
    // By cosign's tags, of the index and of each platform.
    for signed in children.iter().chain([&index]) {
        signer.sign(&layout, NAME, signed).unwrap();
    }
    // By what they refer to.
    let on_index =
        layout.artifact("application/vnd.example.signature", b"of the index", Some(&index)).unwrap();
    let on_child = layout.artifact("application/spdx+json", b"{\"sbom\":1}", Some(&children[1])).unwrap();
    let on_referrer =
        layout.artifact("application/vnd.example.signature", b"of the sbom", Some(&on_child)).unwrap();
    // By the fallback tag, in whose index alone it is listed.
    let fallback = layout.artifact("application/vnd.example.attestation", b"attested", Some(&index)).unwrap();
    layout.edit(|entries| entries.retain(|entry| entry["digest"] != fallback["digest"])).unwrap();
    let mut listed = fallback.clone();
    listed["artifactType"] = json!("application/vnd.example.attestation");
    let tag = text(&index["digest"]).replace(':', "-");
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [listed] });
    layout.manifest(INDEX, &list, Some(&tag)).unwrap();
    Made { layout, index, children, on_index, on_child, on_referrer, fallback }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn submit(pair: &Pair, layout: &Layout, name: &str, more: &[&str]) -> Done {
    let dir = layout.dir.to_str().unwrap();
    pair.low.run(&[&["submit", "image", dir, "--name", name], more].concat()).unwrap()
}

fn release(pair: &mut Pair, number: u64) {
    pair.low.run_within(&["release", "--wait"], 4 * MINUTE).unwrap().ok().unwrap();
    pair.wait_published(number, 2 * MINUTE).unwrap();
}

#[test]
fn an_image_crosses_between_two_network_namespaces_with_all_that_belongs_to_it() {
    let _alone = alone();
    let what = "images between two network namespaces";
    if let Err(skip) = oci::find(&["skopeo", "podman", "umoci", "openssl"]) {
        return skip.announce_or_fail_in_ci(what);
    }
    let gap = match Gap::open(Family::V4, 0.02) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci(what),
    };
    let setup = Setup { name: "images", rounds: 2, ..Setup::default() };
    let mut pair = Pair::over_gap(&setup, gap).unwrap();
    let work = Scratch::new("images-in").unwrap();
    let signer = Signer::new(&work.join("signer")).unwrap();
    let first = make(&work.join("first"), &signer, 1);
    pair.start().unwrap();

    let said = submit(&pair, &first.layout, &format!("{NAME}:v1"), &[]).ok().unwrap();
    // The image, three signatures by tag, and the fallback tag.
    assert!(said.contains("submitted 5 artifacts"), "{said}");
    assert!(said.contains(&format!("{NAME}:v1 {}", text(&first.index["digest"]))), "{said}");
    release(&mut pair, 1);

    let client = Client::new(&work.join("client"), pair.high_prefix(), &pair.ca()).unwrap();
    let gateway = format!("localhost:{}", pair.serve_port());
    copy_equals_source(&client, &gateway, &first, &work.join("copy"));
    check_signatures(&pair, &client, &first, &signer, &work.join("signed"));
    let pulled = client.pull(&format!("{NAME}:v1")).unwrap();
    assert_eq!(pulled["Digest"], first.index["digest"], "{pulled}");

    // A second release of the same tag; the first is still there for who knows its digest.
    let second = make(&work.join("second"), &signer, 11);
    submit(&pair, &second.layout, &format!("{NAME}:v1"), &[]).ok().unwrap();
    release(&mut pair, 2);
    copy_equals_source(&client, &gateway, &second, &work.join("copy2"));
    let by_digest = format!("{NAME}@{}", text(&first.index["digest"]));
    let copied = work.join("before");
    client.copy(&by_digest, &copied, "before", &["--all"]).unwrap();
    assert_eq!(Layout { dir: copied }.entry("before").unwrap()["digest"], first.index["digest"]);

    // What is there already is not read again.
    let again = submit(&pair, &second.layout, &format!("{NAME}:again"), &["--ref", "v1"]).ok().unwrap();
    assert!(again.contains("(0 B new)"), "{again}");
    assert_eq!(pair.gap().unwrap().back_arrivals().unwrap(), 0, "something reached the low side");
}

/// Everything that was submitted comes back through `skopeo`, blob for blob and under its tags, and nothing else.
fn copy_equals_source(client: &Client, gateway: &str, made: &Made, into: &Path) {
    let copied = Layout { dir: into.to_owned() };
    let name = format!("{gateway}/{NAME}");
    let signatures = made.children.iter().chain([&made.index]);
    let signatures = signatures.map(|signed| format!("{}.sig", text(&signed["digest"]).replace(':', "-")));
    for tag in signatures.chain(["v1".to_owned()]) {
        client.copy(&format!("{name}:{tag}"), into, &tag, &["--all"]).unwrap();
        assert_eq!(
            copied.entry(&tag).unwrap()["digest"],
            made.layout.entry(&tag).unwrap()["digest"],
            "{tag}"
        );
    }
    // No tag leads to these.
    let referrers = [&made.on_index, &made.on_child, &made.on_referrer, &made.fallback];
    for (place, referrer) in referrers.into_iter().enumerate() {
        let reference = format!("{name}@{}", text(&referrer["digest"]));
        client.copy(&reference, into, &format!("referrer{place}"), &["--all"]).unwrap();
    }
    // umoci leaves the manifests and configurations of its steps behind, which no index names; and skopeo 1.9 does not
    // copy a list without platforms as it is, which the list of the fallback tag is: that one is fetched apart.
    let fallback = made.layout.entry(&text(&made.index["digest"]).replace(':', "-")).unwrap();
    let mut needed = reachable(&made.layout);
    assert!(needed.remove(&text(&fallback["digest"])[7..]));
    assert_eq!(copied.blobs().unwrap(), needed);
}

/// What can be reached from a layout's `index.json`.
fn reachable(layout: &Layout) -> BTreeSet<String> {
    let index: Value =
        serde_json::from_slice(&std::fs::read(layout.dir.join("index.json")).unwrap()).unwrap();
    let (mut open, mut found) = (vec![index], BTreeSet::new());
    while let Some(manifest) = open.pop() {
        for child in manifest["manifests"].as_array().into_iter().flatten() {
            open.push(serde_json::from_slice(&layout.read(child).unwrap()).unwrap());
            found.insert(text(&child["digest"])[7..].to_owned());
        }
        let blobs = manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config"));
        found.extend(blobs.map(|blob| text(&blob["digest"])[7..].to_owned()));
    }
    found
}

/// A stock client finds the signatures through the gateway's own `registries.conf`, by the name that the image has
/// outside, and they are good; and what refers to the image is found where clients look for it.
fn check_signatures(pair: &Pair, client: &Client, made: &Made, signer: &Signer, into: &Path) {
    let mut https = pair.mirror().unwrap().https;
    let conf = https.get_ok("/client/registries.conf").unwrap();
    client.set_registries(conf.text().unwrap()).unwrap();
    let name = format!("{NAME}:v1");
    let copied = Layout { dir: into.to_owned() };
    client.copy(&name, into, "v1", &["--all"]).unwrap();
    assert_eq!(copied.entry("v1").unwrap()["digest"], made.index["digest"]);
    // skopeo looks for them by itself, on the manifest of this machine's platform; cosign on the index too.
    let found = client.signatures(&name, &into.with_extension("dir")).unwrap();
    assert_eq!(found.len(), 1);
    assert!(String::from_utf8_lossy(&found[0]).contains("dev.cosignproject.cosign/signature"));
    let stranger = Signer::new(&into.with_extension("stranger")).unwrap();
    for signed in made.children.iter().chain([&made.index]) {
        let tag = format!("{}.sig", text(&signed["digest"]).replace(':', "-"));
        client.copy(&format!("{NAME}:{tag}"), into, &tag, &[]).unwrap();
        let signature = copied.entry(&tag).unwrap();
        signer.verify(&copied, &signature, signed).unwrap();
        stranger.verify(&copied, &signature, signed).unwrap_err();
    }

    let (repository, index) = (format!("/v2/{NAME}"), text(&made.index["digest"]));
    let mut referrers = |subject: &Value| -> Vec<Value> {
        let answer = https.get_ok(&format!("{repository}/referrers/{}", text(&subject["digest"]))).unwrap();
        assert_eq!(answer.content_type, INDEX);
        let list = answer.json().unwrap()["manifests"].as_array().unwrap().clone();
        list.iter().map(|entry| entry["digest"].clone()).collect()
    };
    // What only the fallback tag lists refers to the index as well.
    let on_index = referrers(&made.index);
    assert_eq!(on_index.len(), 2);
    assert!(on_index.contains(&made.on_index["digest"]) && on_index.contains(&made.fallback["digest"]));
    assert_eq!(referrers(&made.children[1]), [made.on_child["digest"].clone()]);
    assert_eq!(referrers(&made.on_child), [made.on_referrer["digest"].clone()]);
    assert_eq!(referrers(&made.children[0]), [] as [Value; 0]);

    let fallback = https.get_ok(&format!("{repository}/manifests/{}", index.replace(':', "-"))).unwrap();
    assert_eq!(fallback.content_type, INDEX);
    let listed = made.layout.entry(&index.replace(':', "-")).unwrap();
    assert_eq!(fallback.body, made.layout.read(&listed).unwrap());
    let found = fallback.json().unwrap()["manifests"][0]["digest"].clone();
    assert_eq!(found, made.fallback["digest"]);
    let attestation = https.get_ok(&format!("{repository}/manifests/{}", text(&found))).unwrap();
    assert_eq!(
        (attestation.content_type.as_str(), &attestation.body),
        (MANIFEST, &made.layout.read(&made.fallback).unwrap())
    );
    // As containerd asks.
    let own = https.get_ok("/v2/diodesync/demo/manifests/v1?ns=ghcr.io").unwrap();
    assert_eq!(own.body, made.layout.read(&made.index).unwrap());
}

/// A layer that no pack holds whole. It is of zeros, so that making it costs no time and no space.
#[test]
fn a_layer_of_more_than_two_gib_crosses() {
    const LAYER_BYTES: u64 = (2 << 30) + (32 << 20) + 5;
    let _alone = alone();
    if let Err(skip) = oci::find(&["umoci"]) {
        return skip.announce_or_fail_in_ci("a layer of more than 2 GiB");
    }
    let setup = Setup { name: "large", rounds: 4, rate: "400mbit".to_owned(), ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    pair.start().unwrap();
    let layout = Layout::new(&pair.dir.join("layout")).unwrap();
    let zeros = pair.dir.join("zeros");
    std::fs::File::create(&zeros).unwrap().set_len(LAYER_BYTES).unwrap();
    let (hex, _) = tree::digest(&zeros).unwrap();
    std::fs::rename(&zeros, layout.path(&hex)).unwrap();
    layout.blob(b"{}").unwrap();
    let layer = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{hex}"), "size": LAYER_BYTES,
    });
    let config = oci::descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    layout.manifest(MANIFEST, &manifest, Some("large")).unwrap();
    let clock = std::time::Instant::now();
    let arguments = ["submit", "image", layout.dir.to_str().unwrap(), "--name", &format!("{NAME}:large")];
    pair.low.run_within(&arguments, 10 * MINUTE).unwrap().ok().unwrap();
    let submitted_s = clock.elapsed().as_secs();
    // The other rounds are for machines that are too busy for the first.
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, 10 * MINUTE).unwrap();
    let published_s = clock.elapsed().as_secs();
    let mut https = pair.mirror().unwrap().https;
    let served = https.digest(&format!("/v2/{NAME}/blobs/sha256:{hex}")).unwrap();
    assert_eq!(served, (hex, LAYER_BYTES));
    println!("submitted {submitted_s} s, published {published_s} s, served {} s", clock.elapsed().as_secs());
}

/// Layouts that are not right: each is refused with what is wrong and what to do, and nothing of it is staged.
#[test]
fn layouts_that_are_not_right() {
    let _alone = alone();
    if let Err(skip) = oci::find(&["umoci"]) {
        return skip.announce_or_fail_in_ci("bad layouts");
    }
    let setup = Setup { name: "bad-layouts", ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    pair.low.start().unwrap();
    let work = Scratch::new("layouts").unwrap();
    let fresh = |name: &str| {
        let layout = Layout::new(&work.join(name)).unwrap();
        let image = layout.image("v1", "amd64", b"content").unwrap();
        (layout, image)
    };
    let refused = |layout: &Layout, more: &[&str], message: &str| {
        let done = submit(&pair, layout, &format!("{NAME}:v1"), more);
        assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
        let said = done.stderr.replace(layout.dir.to_str().unwrap(), "DIR");
        assert_eq!(said.trim(), format!("error: {message}"));
        assert_eq!(pair.low_status().unwrap().staged(), 0);
    };
    let parsed = |layout: &Layout, descriptor: &Value| -> Value {
        serde_json::from_slice(&layout.read(descriptor).unwrap()).unwrap()
    };

    let (layout, image) = fresh("wrong-digest-of-a-layer");
    let layer = parsed(&layout, &image)["layers"][0].clone();
    let mut octets = layout.read(&layer).unwrap();
    octets[20] ^= 1;
    std::fs::write(layout.path(text(&layer["digest"])), &octets).unwrap();
    let (is, found) = (text(&layer["digest"]), oci::digest(&octets));
    let (is, found) = (&is[7..], &found[7..]);
    let damaged = |is: &str, found: &str| {
        format!(
            "blobs/sha256/{is} of the layout has SHA-256 {found}: the layout is damaged; make it again from its source"
        )
    };
    refused(&layout, &[], &damaged(is, found));

    let (layout, image) = fresh("wrong-digest-of-a-manifest");
    let octets = [layout.read(&image).unwrap(), b" ".to_vec()].concat();
    std::fs::write(layout.path(text(&image["digest"])), &octets).unwrap();
    refused(&layout, &[], &damaged(&text(&image["digest"])[7..], &oci::digest(&octets)[7..]));

    let (layout, image) = fresh("missing-layer");
    let layer = parsed(&layout, &image)["layers"][0].clone();
    std::fs::remove_file(layout.path(text(&layer["digest"]))).unwrap();
    refused(
        &layout,
        &[],
        &format!(
            "{NAME}:v1 is not whole in the layout: blob {} ({}), which manifest {} names, is missing",
            text(&layer["digest"]),
            text(&layer["mediaType"]),
            text(&image["digest"])
        ),
    );

    let (layout, image) = fresh("missing-manifest");
    std::fs::remove_file(layout.path(text(&image["digest"]))).unwrap();
    let (digest, hex) = (text(&image["digest"]), &text(&image["digest"])[7..]);
    refused(&layout, &[], &format!("index.json names {digest}, and DIR/blobs/sha256/{hex} is missing"));

    let (layout, image) = fresh("missing-platform");
    let mut other = image.clone();
    other["digest"] = json!(oci::digest(b"arm64"));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image, other] });
    let index = layout.manifest(INDEX, &index, Some("both")).unwrap();
    refused(
        &layout,
        &["--ref", "both"],
        &format!(
            "{NAME}:v1 is not whole in the layout: manifest {} ({MANIFEST}), which manifest {} names, is missing; the whole \
             image is carried, every platform of it (skopeo copy --all)",
            oci::digest(b"arm64"),
            text(&index["digest"])
        ),
    );

    let (layout, _) = fresh("unknown-type");
    layout.manifest("application/vnd.example.v9+json", &json!({ "schemaVersion": 9 }), Some("v9")).unwrap();
    let v9 = layout.entry("v9").unwrap();
    refused(
        &layout,
        &["--ref", "v9"],
        &format!(
            "index.json of the layout DIR names {}: the manifest type \"application/vnd.example.v9+json\" is not known; \
             known are the OCI image manifest, image index and artifact manifest, and Docker's manifest (schema 2) and \
             manifest list",
            text(&v9["digest"])
        ),
    );

    let (layout, _) = fresh("no-such-ref");
    refused(&layout, &["--ref", "v2"], "the layout DIR has no image called \"v2\"; it has \"v1\"");

    let (layout, _) = fresh("several");
    layout.image("b", "amd64", b"b").unwrap();
    layout
        .edit(|entries| entries[0]["annotations"]["org.opencontainers.image.ref.name"] = json!("a"))
        .unwrap();
    refused(&layout, &[], "the layout DIR has several images; say which with --ref: \"a\", \"b\"");

    let (layout, image) = fresh("wrong-size");
    layout.edit(|entries| entries[0]["size"] = json!(7)).unwrap();
    let size = layout.read(&image).unwrap().len();
    refused(
        &layout,
        &[],
        &format!(
            "index.json says that {} is of type {MANIFEST} and has 7 octets; it is of type {MANIFEST} and has {size}",
            text(&image["digest"])
        ),
    );

    let (layout, _) = fresh("other-digest");
    layout.edit(|entries| entries[0]["digest"] = json!("sha512:00")).unwrap();
    refused(
        &layout,
        &[],
        "DIR/index.json is refused: it names \"sha512:00\"; expected sha256: and 64 lower-case hexadecimal digits, no \
         other digest is carried",
    );

    let layout = Layout { dir: work.join("nothing") };
    std::fs::create_dir(&layout.dir).unwrap();
    refused(
        &layout,
        &[],
        "DIR is not an OCI layout: it has no file oci-layout; make one with: skopeo copy --all docker://IMAGE:TAG \
         oci:DIR:TAG",
    );
    let layout = Layout { dir: work.join("archive.tar") };
    std::fs::write(&layout.dir, b"tar").unwrap();
    refused(
        &layout,
        &[],
        "DIR is a file; expected the folder of an OCI layout. If it is an OCI archive, unpack it: mkdir layout && tar -xf \
         DIR -C layout",
    );

    let (layout, _) = fresh("good");
    for (name, words) in [
        ("alpine:3", "docker.io/library/NAME"),
        ("ghcr.io/a/b", "expected REGISTRY/REPOSITORY:TAG"),
        ("localhost:5000/a", "expected REGISTRY/REPOSITORY:TAG"),
        ("ghcr.io/a/b@sha256:00", "expected a tag and no digest"),
        ("ghcr.io/A/b:c", "lower-case"),
    ] {
        let done = submit(&pair, &layout, name, &[]);
        assert_eq!(done.code, Some(1), "{name}");
        assert!(done.stderr.contains(words), "{name}: {}", done.stderr);
    }
    // The daemon goes on taking good ones: by the only image, whatever it is called.
    submit(&pair, &layout, "localhost:5000/any/name:tag", &[]).ok().unwrap();
    assert_eq!(pair.low_status().unwrap().staged(), 1);
}
