//! Seeds of the corpora, made of the golden vectors and of what real tools write.

use std::path::{Path, PathBuf};

use diodesync_system::provider::Publisher;
use diodesync_system::scratch::Scratch;

use super::bodies;

/// Target, file name, octets.
type Seed = (&'static str, String, Vec<u8>);

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let files = files.into_iter().filter(|file| file.is_file());
    files
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let octets = std::fs::read(&file).unwrap();
            (name, octets)
        })
        .collect()
}

/// A part with its length before it.
fn part(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes(), octets].concat()
}

/// The octets that a ticket's text stands for, without their MAC: see `src/ticket/text.rs`.
fn octets_of_ticket(text: &str) -> Vec<u8> {
    let digit = |c: char| "0123456789ABCDEFGHJKMNPQRSTVWXYZ".find(c).unwrap() as u32;
    let lines = text.lines().map(|line| line.replace([' ', '-'], ""));
    let digits: String = lines.map(|line| line[..line.len() - 2].to_owned()).collect();
    let (mut octets, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for c in digits[4..].chars() {
        (bits, held) = (bits << 5 | digit(c), held + 5);
        if held >= 8 {
            held -= 8;
            octets.push((bits >> held) as u8);
        }
    }
    octets.truncate(octets.len() - 16);
    octets
}

/// Manifests of exports, headers of slots, and tickets.
fn carried(seeds: &mut Vec<Seed>) {
    use diodesync::id::{BlockId, BlockNo, ExportId, LinkId, ObjectTag, PackId};
    use diodesync::link::LinkKey;
    use diodesync::volume::{ExportSecret, Layout, Manifest, Offer, Piece};
    use diodesync::wire::ObjectId;
    let paired = bodies::carried::paired();
    let (secret, export) = (ExportSecret([6; 32]), ExportId([2; 8]));
    let receivers = [paired.keys[0].public().clone()];
    let mut rng = super::world::Rng::new(1, "export");
    let sealed =
        Manifest::seal_offer(&mut rng, &secret, paired.link, export, &paired.secret, &receivers).unwrap();
    for (name, slots, parity, offer) in [
        ("plain", 1, 0, Offer::Plain(secret.clone())),
        ("sealed", 70_000, 10, sealed),
        ("large", 1 << 28, 100, Offer::Plain(secret)),
    ] {
        let layout = Layout::new(slots, parity, 4 << 30).unwrap();
        let manifest = Manifest { link: paired.link, export, made_s: 1_795_000_000, layout, offer };
        let octets = manifest.encode(&LinkKey::from_seed(&[1; 32]));
        let unsigned = octets.len() - 64;
        seeds.push(("volume", format!("manifest-{name}"), [&[1], &octets[..unsigned]].concat()));
        let other = LinkKey::from_seed(&[9; 32]);
        seeds.push((
            "volume",
            format!("manifest-{name}-of-another-key"),
            [&[0], manifest.encode(&other).as_slice()].concat(),
        ));
    }
    let block = ObjectId::Block(BlockId { pack: PackId([7; 8]), block: BlockNo(3) });
    for (name, object, bytes) in [
        ("block", block, 1 << 20),
        ("index", ObjectId::Index(ObjectTag([1; 8])), 200_000),
        ("trust", ObjectId::Trust(ObjectTag([1; 8])), 5),
    ] {
        let piece = Piece::of(object, bytes).last().unwrap();
        seeds.push(("volume", format!("slot-of-{name}"), [&[2], piece.encode().as_slice()].concat()));
    }
    use diodesync::id::ReleaseNo;
    use diodesync::ticket::{Ticket, Want, What};
    let want = |channel: &str, what| Want { channel: channel.parse().unwrap(), number: ReleaseNo(300), what };
    let blocks = What::Blocks { index: ObjectTag([1; 8]), runs: vec![(0, 1), (5, 200), (1000, 2)] };
    let all = vec![
        want("bulk", blocks.clone()),
        want("main", What::Everything),
        want("os", What::Since(ReleaseNo(7))),
    ];
    for (name, wants) in [("all", all), ("blocks", vec![want("main", blocks)])] {
        let ticket = Ticket { receiver: [5; 8], made_s: 1_795_000_000, wants };
        let text = ticket.encode(LinkId(*b"simulated link 1"), &paired.secret);
        seeds.push(("ticket", format!("typed-{name}"), [&[0], text.as_bytes()].concat()));
        let lower = text.to_lowercase().replace('0', "o");
        seeds.push(("ticket", format!("typed-in-lower-case-{name}"), [&[0], lower.as_bytes()].concat()));
        seeds.push((
            "ticket",
            format!("mistyped-{name}"),
            [&[0], text.replacen('S', "T", 1).as_bytes()].concat(),
        ));
        let octets = octets_of_ticket(&text);
        seeds.push(("ticket", format!("octets-{name}"), [&[1], octets.as_slice()].concat()));
    }
}

/// All of them.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    wire(&mut seeds);
    trust(&mut seeds);
    proofs(&mut seeds);
    archives(&mut seeds);
    submitted(&mut seeds);
    modules(&mut seeds);
    images(&mut seeds);
    carried(&mut seeds);
    settings(&mut seeds);
    disk(&mut seeds);
    http(&mut seeds);
    seeds
}

fn wire(seeds: &mut Vec<Seed>) {
    let mut story = Vec::new();
    for (name, text) in files(&vectors()) {
        let Some(name) = name.strip_suffix(".hex") else { continue };
        let octets = bodies::golden(std::str::from_utf8(&text).unwrap());
        if name.starts_with("index") {
            seeds.push(("index", name.to_owned(), octets));
        } else if name == "trust-bundle" {
            seeds.push(("trust", name.to_owned(), [&[0], octets.as_slice()].concat()));
        } else if let Some(name) = name.strip_suffix("-plain") {
            seeds.push(("sealed", name.to_owned(), part(&octets)));
            if name.starts_with("symbol") {
                let weathered = part(&[&[0], octets.as_slice()].concat());
                story.extend_from_slice(&weathered);
                seeds.push(("symbols", name.to_owned(), weathered));
            }
        } else if name.starts_with("session") {
            seeds.push(("datagram", name.to_owned(), [&[0], octets.as_slice()].concat()));
            let unsigned = octets.len() - 64;
            seeds.push(("datagram", format!("{name}-to-be-signed"), [&[1], &octets[..unsigned]].concat()));
        } else if name.starts_with("symbol") || name.starts_with("beacon") || name.starts_with("probe") {
            // The true one would be taken, as the fuzzer could not have made it.
            let mut forged = [&[0], octets.as_slice()].concat();
            forged.last_mut().into_iter().for_each(|octet| *octet ^= 1);
            seeds.push(("datagram", format!("forged-{name}"), forged));
        }
    }
    seeds.push(("symbols", "one-after-the-other".to_owned(), story));
    seeds.extend(stories());
    for (at, text) in [
        "docs/ä ö.txt",
        "registry.terraform.io/coder/coder",
        "localhost:8443/a/b_c",
        "1.0.0-rc.1+build.5",
        "linux_amd64",
        "main",
        "ghcr.io/coder/coder",
        "sha256-abc.sig",
        "bookworm-security",
        "terraform-provider-coder_2.13.1_linux_amd64.zip",
        "bookworm\nmain\nlibc6\n1:2.36-9+deb12u9\namd64",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "a/../b",
        "a\u{202e}fdp.exe",
    ]
    .into_iter()
    .enumerate()
    {
        seeds.push(("names", format!("name-{at:02}"), text.as_bytes().to_vec()));
    }
}

/// Symbols of small objects, with losses, stops and wrong blocks.
fn stories() -> Vec<Seed> {
    use diodesync::fec::{Codec, Oti, RepairUse};
    use diodesync::id::{Blake3, BlockId, BlockNo, Esi, PackId, Sbn};
    use diodesync::wire::{ObjectId, SymbolHeader};
    let octets: Vec<u8> = (0..600u32).map(|n| (n * 7) as u8).collect();
    let block = ObjectId::Block(BlockId { pack: PackId([1; 8]), block: BlockNo(2) });
    let objects = [
        ("block", block, RepairUse::Data),
        ("index", ObjectId::Index(Blake3::of(&octets).tag()), RepairUse::Control),
        ("trust", ObjectId::Trust(Blake3::of(&octets).tag()), RepairUse::Control),
        ("another-trust", ObjectId::Trust(Blake3::of(b"another").tag()), RepairUse::Control),
    ];
    let mut seeds = Vec::new();
    let mut all = Vec::new();
    for (name, object, use_) in objects {
        let oti = Oti::for_object(octets.len() as u32, 64, use_);
        let encoded = Codec::default().encode(oti, Sbn(0), octets.clone(), Vec::new());
        for (weather, how) in [(0u8, "calm"), (7, "idle"), (31, "stopped"), (64, "wrong")] {
            let mut story = Vec::new();
            // Two source symbols are lost, two repair symbols come.
            for esi in [0, 1, 2, 2, 4, 5, 6, 7, 9, 10, 11, 3] {
                let header = SymbolHeader { object, oti, sbn: Sbn(0), esi: Esi(esi) };
                let plain = [&[weather], header.encode().as_slice(), encoded.symbol(Esi(esi))].concat();
                story.extend(part(&plain));
            }
            all.extend_from_slice(&story);
            seeds.push(("symbols", format!("{name}-{how}"), story));
        }
    }
    seeds.push(("symbols", "everything".to_owned(), all));
    seeds
}

fn trust(seeds: &mut Vec<Seed>) {
    let mut put = |name: &str, kind: u8, octets: &[u8]| {
        seeds.push(("trust", name.to_owned(), [&[kind], octets].concat()));
    };
    let (first, second) = (bodies::trust::signed(1), bodies::trust::signed(2));
    put("first-release", 0, &first.encode());
    put("second-release", 0, &second.encode());
    put("timestamp", 1, &first.timestamp);
    put("newer-timestamp", 1, &second.timestamp);
    let roles = [
        ("timestamp", 2, &second.timestamp),
        ("snapshot", 3, &second.snapshot),
        ("targets", 4, &second.targets),
    ];
    for (name, kind, file) in roles.into_iter().chain([("root", 5, &second.roots[0])]) {
        let value: serde_json::Value = serde_json::from_slice(file).unwrap();
        let mut signed = value["signed"].clone();
        if name == "root" {
            signed["version"] = 2.into();
        }
        put(&format!("{name}-to-be-signed"), kind, signed.to_string().as_bytes());
    }
}

fn proofs(seeds: &mut Vec<Seed>) {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(vectors().join("openpgp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    for dir in dirs.into_iter().filter(|dir| dir.is_dir()) {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let files = files(&dir);
        let of = |end: &str| files.iter().filter(|(name, _)| name.ends_with(end)).collect::<Vec<_>>();
        let sums = of("SHA256SUMS");
        let (Some((_, sums)), Some((_, signature))) = (sums.first(), of(".sig").first()) else { continue };
        let archive = String::from_utf8_lossy(sums).split_whitespace().nth(1).unwrap_or_default().to_owned();
        let mut octets = [part(archive.as_bytes()), part(sums), part(signature)].concat();
        of(".asc").into_iter().for_each(|(_, key)| octets.extend(part(key)));
        seeds.push(("proof", name, octets));
    }
}

/// A Debian archive's files.
fn archives(seeds: &mut Vec<Seed>) {
    let dir = vectors().join("archive");
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    for (kind, name) in [(0u8, "Packages"), (1, "Packages.gz"), (2, "Packages.xz")] {
        seeds.push(("archive", name.to_owned(), [&[kind], read(name).as_slice()].concat()));
    }
    for release in
        ["InRelease", "two-signatures", "unknown-key", "expired-key", "changed", "sha1", "text-before"]
    {
        let parts = [part(&read(release)), part(&read("Packages.xz")), part(&read("good.asc"))].concat();
        seeds.push(("archive", release.to_owned(), [&[3], parts.as_slice()].concat()));
    }
}

/// Manifests, and the submission of the image that they make.
fn images(seeds: &mut Vec<Seed>) {
    use diodesync::id::Sha256;
    let (config, layer) = (Sha256::of(b"{}"), Sha256::of(b"a small layer"));
    let [image, signature] = bodies::mirror::manifests(&config, &layer);
    let digest = Sha256::of(image.as_bytes());
    let entry = |digest: &Sha256, size: usize, more: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digest}","size":{size}{more}}}"#
        )
    };
    let platform = r#","platform":{"os":"linux","architecture":"amd64"},"annotations":{"a":"b"}"#;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entry(&digest, image.len(), platform)
    );
    let docker = image
        .replace(
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        )
        .replace("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
        .replace(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        );
    let mut put = |name: &str, manifests: &[&String]| {
        let octets = manifests.iter().flat_map(|manifest| part(manifest.as_bytes())).collect();
        seeds.push(("image", name.to_owned(), octets));
    };
    put("image", &[&image]);
    put("image-and-signature", &[&image, &signature]);
    put("index", &[&index, &image, &signature]);
    put("index-without-its-image", &[&index]);
    put("docker", &[&docker]);
    put("wrong-size", &[&index.replace("\"size\":", "\"size\":1"), &image]);
    let begin = serde_json::json!({ "say": "begin", "channel": "main", "what": {
        "kind": "image", "repository": "ghcr.io/acme/app", "tags": { "1.0": digest },
    }});
    let parts = [
        frame(1, begin.to_string().as_bytes()),
        file(&format!("sha256:{digest}"), "manifest", image.as_bytes()),
        file(&format!("sha256:{config}"), "blob", b"{}"),
        file(&format!("sha256:{layer}"), "blob", b"a small layer"),
        frame(1, br#"{"say":"end"}"#),
    ];
    seeds.push(("submission", "image".to_owned(), [&[9], parts.concat().as_slice()].concat()));
}

/// A frame of a submission.
fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], (body.len() as u32).to_be_bytes().as_slice(), body].concat()
}

fn file(path: &str, role: &str, octets: &[u8]) -> Vec<u8> {
    let head = serde_json::json!({ "say": "file", "path": path, "role": role, "bytes": octets.len() });
    let data = if octets.is_empty() { Vec::new() } else { frame(2, octets) };
    [frame(1, head.to_string().as_bytes()), data, frame(1, br#"{"say":"end-file"}"#)].concat()
}

/// The first octet is the format and the folder: even for a .tar.gz.
fn modules(seeds: &mut Vec<Seed>) {
    let scratch = Scratch::new("seeds-of-modules").unwrap();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let tree = scratch.join("tree");
    std::fs::create_dir_all(tree.join("a").join(&long)).unwrap();
    std::fs::write(tree.join("a/main.tf"), b"# tf\n").unwrap();
    std::fs::write(tree.join("a").join(&long).join("main.tf"), b"").unwrap();
    for (at, (name, link)) in [("tar", "main.tf"), ("tar-with-a-link-out", "../../x")].into_iter().enumerate()
    {
        let _ = std::fs::remove_file(tree.join("a/link"));
        std::os::unix::fs::symlink(link, tree.join("a/link")).unwrap();
        for format in ["gnu", "pax"] {
            let path = scratch.join(format!("{name}-{format}"));
            let mut tar = std::process::Command::new("tar");
            tar.args(["--owner=0", "--group=0", "--mtime=@0", "--sort=name", &format!("--format={format}")]);
            let done = tar.arg("-czf").arg(&path).arg("-C").arg(&tree).arg("a").status().unwrap();
            assert!(done.success());
            let octets = [&[2 + 2 * at as u8], std::fs::read(&path).unwrap().as_slice()].concat();
            seeds.push(("module", format!("{name}-{format}"), octets));
        }
    }
    for (name, file) in [("zip", "a/main.tf"), ("zip-that-leaves", "../main.tf")] {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(file, options).unwrap();
        writer.add_symlink("a/link", "main.tf", options).unwrap();
        let octets = writer.finish().unwrap().into_inner();
        seeds.push(("module", name.to_owned(), [&[3], octets.as_slice()].concat()));
    }
}

fn submitted(seeds: &mut Vec<Seed>) {
    for (name, octets) in files(&vectors().join("provider-zip")) {
        if name.ends_with(".zip") {
            seeds.push(("zip", name, octets));
        }
    }
    let scratch = Scratch::new("seeds").unwrap();
    let executable = scratch.join("executable");
    std::fs::write(&executable, b"#!/bin/sh\n").unwrap();
    let publisher = Publisher::new().unwrap();
    let source = "registry.terraform.io/acme/demo";
    let platforms = ["linux_amd64", "darwin_arm64"];
    let release =
        publisher.release(&scratch.join("release"), source, "1.2.3", &executable, &platforms).unwrap();
    let read = |path: &PathBuf| std::fs::read(path).unwrap();
    for zip in &release.zips {
        seeds.push(("zip", zip.file_name().unwrap().to_str().unwrap().to_owned(), read(zip)));
    }
    // Without dpkg-deb the corpus keeps the packages that it has.
    for compression in ["none", "gzip", "xz", "zstd"] {
        let more = "Depends: libc6 (>= 2.36)\nSection: utils\n";
        let made =
            diodesync_system::deb::deb(scratch.path(), compression, "1:2.0-1~x", "amd64", more, compression);
        if let Ok(path) = made {
            seeds.push(("deb", format!("deb-{compression}"), [&[0], read(&path).as_slice()].concat()));
        }
    }
    let control = b"Package: a\nVersion: 1\nArchitecture: all\nDescription: short\n long\n .\n end\n";
    seeds.push(("deb", "control".to_owned(), [&[1], control.as_slice()].concat()));
    seeds.push(("deb", "not-a-deb".to_owned(), b"\0!<arch>\n".to_vec()));
    let mut put = |name: &str, parts: &[Vec<u8>]| {
        seeds.push(("submission", name.to_owned(), [&[9], parts.concat().as_slice()].concat()));
    };
    let begin = |what: serde_json::Value| {
        frame(
            1,
            serde_json::json!({ "say": "begin", "channel": "main", "what": what }).to_string().as_bytes(),
        )
    };
    let end = frame(1, br#"{"say":"end"}"#);
    let files = begin(serde_json::json!({ "kind": "files" }));
    put(
        "files",
        &[
            files.clone(),
            file("a", "plain", b"content"),
            file("docs/b", "executable", b"more"),
            file("empty", "plain", b""),
            end.clone(),
        ],
    );
    put("no-files", &[files.clone(), end.clone()]);
    put("breaks-off", &[files.clone(), file("a", "plain", b"content")]);
    put("one-path-twice", &[files.clone(), file("a", "plain", b"x"), file("a", "plain", b"y"), end.clone()]);
    put(
        "a-file-and-its-directory",
        &[files, file("a", "plain", b"x"), file("a/b", "plain", b"y"), end.clone()],
    );
    let provider = |unsigned: bool| {
        begin(serde_json::json!({
            "kind": "provider", "address": source, "protocols": ["5.0"], "unsigned": unsigned,
        }))
    };
    let zip_name = "terraform-provider-demo_1.2.3_linux_amd64.zip";
    let zip = file(zip_name, "archive", &read(&release.zips[0]));
    let proof = [
        file("SHA256SUMS", "sums", &read(&release.sums)),
        file("SHA256SUMS.sig", "signature", &read(&release.signature)),
        file("publisher.asc", "key", &read(&release.key)),
    ]
    .concat();
    put("provider", &[provider(false), proof.clone(), zip.clone(), end.clone()]);
    put("provider-unsigned", &[provider(true), zip.clone(), end.clone()]);
    put("provider-without-archives", &[provider(false), proof, end.clone()]);
    put("provider-without-proof", &[provider(false), zip, end]);
    let octets = [
        part(zip_name.as_bytes()),
        part(&read(&release.sums)),
        part(&read(&release.signature)),
        part(&read(&release.key)),
    ];
    seeds.push(("proof", "real".to_owned(), octets.concat()));
}

fn settings(seeds: &mut Vec<Seed>) {
    let sender = "dir = '/x'\n[[lane]]\nname = 'a'\nto = '[fd00::2]:7400'\nfrom = '[::]:0'\nrate = '2.5gbit'\nmtu = 9000\n\
                  repair = '10%'\nrounds = 3\nround_gap = '10m'\nburst = '50ms'\n[trust]\ntimestamp_days = 7\n";
    let receiver = "dir = '/x'\n[[lane]]\nname = 'a'\nlisten = '0.0.0.0:7400'\n[serve]\nlisten = '0.0.0.0:8443'\n\
                    hosts = ['h', '10.0.0.7']\ncertificate = '/a'\nkey = '/b'\n";
    let quantities =
        ["max", "500mbit", "2.5gbit", "50ms", "1.5h", "2d", "10%", "1e9mbit", "18446744073709551615"];
    let texts = [(0u8, "sender", sender), (1, "receiver", receiver)].into_iter();
    for (kind, name, text) in texts.chain(quantities.map(|text| (2, text, text))) {
        let name = name.replace(['%', '.'], "-");
        seeds.push(("config", name, [&[kind], text.as_bytes()].concat()));
    }
    let golden = pairing();
    seeds.push(("pairing", "golden".to_owned(), [&[0], golden.as_slice()].concat()));
    let other = String::from_utf8(golden).unwrap();
    for (name, from, to) in [
        ("another-version", "\"version\":1", "\"version\":2"),
        ("another-root", "ed25519", "ed25518"),
        ("not-base64", "sealed_secret\":\"", "sealed_secret\":\"!"),
    ] {
        assert!(other.contains(from), "{from}");
        seeds.push(("pairing", name.to_owned(), [&[0], other.replace(from, to).as_bytes()].concat()));
    }
    let key = diodesync::link::ReceiverKey::from_seed(&[1; 32]).public().to_string();
    seeds.push(("pairing", "receiver-pub".to_owned(), [&[1], key.as_bytes(), b"\n"].concat()));
}

/// A pairing file for the receiver whose seed is all ones.
fn pairing() -> Vec<u8> {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use diodesync::id::{Blake3, LinkId};
    use diodesync::link::{LinkKey, PairingSecret, ReceiverKey, seal_pairing_secret};
    let receiver = ReceiverKey::from_seed(&[1; 32]);
    let (link, mut rng) = (LinkId([5; 16]), super::world::Rng::new(1, "pairing"));
    let (encapsulated, sealed) =
        seal_pairing_secret(&mut rng, &PairingSecret([3; 32]), link, receiver.public()).unwrap();
    let root = bodies::trust::signed(1).roots.remove(0);
    let pairing = diodesync::pairing::Pairing {
        version: 1,
        link,
        link_key: Blake3(LinkKey::from_seed(&[7; 32]).verifier().to_bytes()).to_string(),
        receiver: receiver.public().to_string(),
        encapsulated: BASE64_STANDARD.encode(encapsulated),
        sealed_secret: BASE64_STANDARD.encode(sealed),
        root: String::from_utf8(root).unwrap(),
    };
    serde_json::to_vec(&pairing).unwrap()
}

fn disk(seeds: &mut Vec<Seed>) {
    use diodesync::journal::{HeldBlock, Progress, Record};
    use diodesync::pack::fact;
    let mut put = |name: &str, kind: u8, octets: &[u8]| {
        seeds.push(("disk", name.to_owned(), [&[kind], octets].concat()));
    };
    for (name, content) in [("number", b"17".as_slice()), ("nothing", b""), ("lines", b"a\nb\n")] {
        put(&format!("fact-{name}"), 0, &[fact::head(content).as_bytes(), content].concat());
    }
    put("fact-garbled", 0, &[fact::head(b"17").as_bytes(), b"18"].concat());
    let hash = diodesync::id::Blake3([9; 32]);
    put("held", 1, &HeldBlock { hash, bytes: 70_000 }.to_value().unwrap());
    put("progress", 1, &Progress { release: 300, round: 1, position: 70_000 }.to_value().unwrap());
    let block =
        diodesync::id::BlockId { pack: diodesync::id::PackId([7; 8]), block: diodesync::id::BlockNo(3) };
    put("key-of-a-block", 1, &diodesync::journal::Key::Block(block).encode());
    let state = bodies::trust::state();
    put("trust", 2, &serde_json::to_vec(&state).unwrap());
    put("name-of-a-block", 3, b"block-0707070707070707-3-1000-100-4");
    put("name-of-an-index", 3, b"index-0707070707070707-1-2000000-1392-10");
}

fn http(seeds: &mut Vec<Seed>) {
    use diodesync::id::Sha256;
    let digest = Sha256::of("the content of a".repeat(7).as_bytes());
    let targets = [
        "/",
        "/healthz",
        "/client/",
        "/client/ca.pem",
        "/client/terraformrc?via=mirror\nHost: gw.example:8443",
        "/.well-known/terraform.json\nHost: [::1]:443",
        "/v1/providers/coder/coder/versions",
        "/v1/providers/registry.terraform.io/coder/coder/1.0.0/download/linux/amd64",
        "/mirror/registry.terraform.io/coder/coder/index.json",
        "/mirror/registry.terraform.io/coder/coder/1.1.0.json",
        "/files/",
        "/files/?from=docs",
        "/files/docs",
        "/files/docs/%C3%A4%20%C3%B6.html",
        "/files/../../etc/passwd",
        "/files/a\nRange: bytes=3-9",
        "/files/a\nRange: bytes=-5\nIf-Range: \"x\"",
        "/files/docs/b.txt\nIf-None-Match: *",
        "/files/docs/b.txt\nRange: bytes=100000-",
        "/files.json",
        "/files.sha256",
        "/v2/",
        "/v2/_catalog?n=1",
        "/v2/ghcr.io/acme/app/tags/list?n=10&last=0",
        "/v2/ghcr.io/acme/app/manifests/1.0\nAccept: application/vnd.oci.image.manifest.v1+json",
        "/v2/acme/app/manifests/1.0?ns=ghcr.io",
        "/client/registries.conf\nHost: gw:1",
        "/client/hosts.toml?registry=ghcr.io",
        "*",
        "http://other/files/a",
    ];
    for (at, target) in targets.into_iter().enumerate() {
        seeds.push(("http", format!("get-{at:02}"), [&[7], target.as_bytes()].concat()));
    }
    let (config, layer) = (Sha256::of(b"{}"), Sha256::of(b"a small layer"));
    let manifest = Sha256::of(bodies::mirror::manifests(&config, &layer)[0].as_bytes());
    for (name, target) in [
        (
            "referrers",
            format!("/v2/ghcr.io/acme/app/referrers/sha256:{manifest}?artifactType=application/x.sig"),
        ),
        ("manifest", format!("/v2/ghcr.io/acme/app/manifests/sha256:{manifest}")),
        ("layer", format!("/v2/ghcr.io/acme/app/blobs/sha256:{layer}\nRange: bytes=2-5")),
    ] {
        seeds.push(("http", format!("v2-{name}"), [&[7], target.as_bytes()].concat()));
    }
    let blob = format!("/blobs/{digest}/name\nRange: bytes=0-0");
    seeds.push(("http", "blob".to_owned(), [&[7], blob.as_bytes()].concat()));
    seeds.push(("http", "head-blob".to_owned(), [&[1], blob.as_bytes()].concat()));
    seeds.push(("http", "post".to_owned(), [&[0], "/files/a".as_bytes()].concat()));
}
