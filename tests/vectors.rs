//! Golden vectors: every datagram, the index and the trust bundle, octet for octet.
//!
//! Each is built from fixed inputs, compared with `tests/vectors/NAME.hex`, and read back. The files change only with
//! the version of the format that they show. `DIODESYNC_WRITE_VECTORS=1 cargo test --test vectors` writes them anew.

#[path = "simulator/world.rs"]
mod world;

use std::path::PathBuf;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use diodesync::fec::{Codec, Oti, RepairUse};
use diodesync::id::{
    Blake3, BlockId, BlockNo, Channel, Esi, ObjectTag, PackId, ReleaseNo, Sbn, SessionNo, Sha256,
};
use diodesync::limits::BLOCK_BYTES;
use diodesync::link::{Sealer, SessionSecret};
use diodesync::recv::{Intake, Intaken};
use diodesync::release::index::{
    Image, Module, Package, PackageProof, Provider, ProviderArchive, ProviderProof,
};
use diodesync::release::name::ModuleFormat;
use diodesync::release::{ArtifactKind, ArtifactName, Blob, Extent, Index, PackRun, PackageName};
use diodesync::ticket::{Ticket, Want, What};
use diodesync::trust::Bundle;
use diodesync::wire::{Beacon, BeaconChannel, ObjectId, Outer, Probe, SessionId, SymbolHeader, Version};
use world::{LINK, Rng, lane, offer_of, paired, pairing_secret, seal, session_id, start};

const SESSION: SessionNo = SessionNo(0x0102_0304_0506_0708);

/// Compares with the file, or writes it.
fn golden(name: &str, comment: &str, octets: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/vectors/{name}.hex"));
    let hex: Vec<String> =
        octets.chunks(32).map(|line| line.iter().map(|octet| format!("{octet:02x}")).collect()).collect();
    let text = format!("# {comment}\n{}\n", hex.join("\n"));
    if std::env::var_os("DIODESYNC_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{} differs from\n{text}", path.display());
}

/// The golden session of a wire version. What is inside a sealed datagram is the same in both.
fn id(version: Version) -> SessionId {
    let lane = (version == Version::V2).then(lane);
    SessionId { lane, ..session_id(SESSION) }
}

fn session(version: Version) -> (SessionSecret, Vec<u8>) {
    offer_of(&mut Rng::new(1, "golden session"), &id(version))
}

/// The session's secret is the first thing that a sender draws.
fn secret_octets() -> Vec<u8> {
    Rng::new(1, "golden session").octets(32)
}

fn sealer(version: Version) -> Sealer {
    Sealer::new(session(version).0, &id(version)).unwrap()
}

/// Opens a datagram as a receiver does that has accepted the golden session.
fn with_opened(version: Version, datagram: &[u8], check: impl FnOnce(Intaken<'_>)) {
    let mut intake = Intake::new(lane(), paired(), None);
    let Ok(Intaken::NewSession(pending)) = intake.handle_datagram(start(), &mut session(version).1) else {
        panic!("the session is refused");
    };
    intake.adopt(pending, 0);
    check(intake.handle_datagram(start(), &mut datagram.to_vec()).unwrap());
}

#[test]
fn session_datagrams() {
    for (version, name, comment) in [
        (
            Version::V1,
            "session",
            "SESSION for one receiver: link, number 0x0102030405060708, HPKE, signature",
        ),
        (Version::V2, "session-2", "SESSION of version 2, of lane lane0"),
    ] {
        let (_, datagram) = session(version);
        golden(name, comment, &datagram);
        let mut copy = datagram.clone();
        let Outer::Session(parsed) = Outer::parse(&mut copy).unwrap() else { panic!("not a session") };
        assert_eq!((&parsed.id, parsed.secrets.len()), (&id(version), 1));
        assert!(paired().accept(&parsed, &lane(), SESSION).is_ok());
    }
}

/// The secret inside, taken out with nothing but the words of `wire` and RFC 9180.
#[test]
fn session_secret_by_the_letter() {
    use hpke::Kem;
    use hpke::{Deserializable, OpModeR, PskBundle, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256};
    let (private, public) = X25519HkdfSha256::derive_keypair(&[2; 32]);
    let before = [LINK.0.as_slice(), &SESSION.0.to_be_bytes()].concat();
    for (version, info) in [
        (Version::V1, [b"diodesync session 1".as_slice(), &before].concat()),
        (Version::V2, [b"diodesync session 2".as_slice(), &before, b"\x05lane0"].concat()),
    ] {
        let (_, datagram) = session(version);
        let at = 4 + info.len() - "diodesync session N".len() + 1;
        let sealed = &datagram[at..at + 88];
        assert_eq!(sealed[..8], blake3::hash(&hpke::Serializable::to_bytes(&public)).as_bytes()[..8]);
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed[8..40]).unwrap();
        let secret = pairing_secret();
        let psk = PskBundle::new(&secret.0, &LINK.0).unwrap();
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Psk(psk),
            &private,
            &encapsulated,
            &info,
            &sealed[40..],
            &[],
        );
        assert_eq!(opened.unwrap(), secret_octets());
    }
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

/// RFC 5869, written out.
fn hkdf_sha256(salt: &[u8], secret: &[u8], info: &[u8], octets: usize) -> Vec<u8> {
    let key = hmac_sha256(salt, secret);
    let mut out: Vec<u8> = Vec::new();
    let mut last = Vec::new();
    for counter in 1u8.. {
        last = hmac_sha256(&key, &[&last, info, &[counter]].concat());
        out.extend_from_slice(&last);
        if out.len() >= octets {
            break;
        }
    }
    out.truncate(octets);
    out
}

/// The key schedule of a session: HKDF with the session number as salt and the epoch in its info, 32 octets of key and
/// 12 of IV; the nonce is the IV xor the sequence number.
#[test]
fn key_schedule_by_the_letter() {
    let test_1 = hkdf_sha256(
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        &[0x0b; 22],
        &[0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9],
        42,
    );
    assert_eq!(test_1[..4], [0x3c, 0xb2, 0x5f, 0x25], "RFC 5869, appendix A.1");

    let info = [b"diodesync epoch 1".as_slice(), &0u64.to_be_bytes()].concat();
    let material = hkdf_sha256(&SESSION.0.to_be_bytes(), &secret_octets(), &info, 44);
    golden("key-schedule", "key and IV of epoch 0 of the session in session.hex", &material);

    let mut sealer = sealer(Version::V1);
    for sequence in 0..300u64 {
        let mut datagram = seal(&mut sealer, b"plain text");
        assert_eq!(datagram[8..16], sequence.to_be_bytes());
        let mut nonce: [u8; 12] = material[32..].try_into().unwrap();
        nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()).for_each(|(octet, number)| *octet ^= number);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &material[..32]).unwrap());
        let (head, body) = datagram.split_at_mut(16);
        let nonce = Nonce::assume_unique_for_key(nonce);
        assert_eq!(key.open_in_place(nonce, Aad::from(&*head), body).unwrap(), b"plain text");
    }
}

/// What stands before a symbol, then the sealed datagram, which is read back.
fn symbol(name: &str, comment: &str, object: ObjectId, bytes: u32, sbn: u32, esi: Esi) {
    let use_ = if matches!(object, ObjectId::Block(_)) { RepairUse::Data } else { RepairUse::Control };
    // The source symbols of a whole block must not be more than a receiver takes.
    let lane_symbol_bytes = if bytes as usize > BLOCK_BYTES { 400 } else { 64 };
    let (oti, sbn) = (Oti::for_object(bytes, lane_symbol_bytes, use_), Sbn(sbn));
    let octets = Rng::new(2, name).octets(oti.block_bytes(sbn));
    let encoded = Codec::default().encode(oti, sbn, octets, Vec::new());
    let header = SymbolHeader { object, oti, sbn, esi };
    let plain = [header.encode().as_slice(), encoded.symbol(esi)].concat();
    golden(&format!("{name}-plain"), &format!("{comment}; before it is sealed"), &plain);
    sealed(name, comment, &plain, |opened| match opened {
        Intaken::Symbol(read, payload) => assert_eq!((read, payload), (header, encoded.symbol(esi))),
        other => panic!("{other:?}"),
    });
}

/// The sealed datagram in both versions, read back.
fn sealed(name: &str, comment: &str, plain: &[u8], check: impl Fn(Intaken<'_>)) {
    for (version, suffix) in [(Version::V1, ""), (Version::V2, "-2")] {
        let datagram = seal(&mut sealer(version), plain);
        let comment = format!("{comment}; sealed as the first of the session in session{suffix}.hex");
        golden(&format!("{name}{suffix}"), &comment, &datagram);
        with_opened(version, &datagram, &check);
    }
}

const BLOCK: BlockId = BlockId { pack: PackId(*b"apackid1"), block: BlockNo(0x0203) };

#[test]
fn symbol_datagrams() {
    let block = ObjectId::Block(BLOCK);
    symbol(
        "symbol-of-a-block",
        "SYMBOL, first source symbol of a block of 1000 octets, T = 64",
        block,
        1000,
        0,
        Esi(0),
    );
    symbol(
        "symbol-last-and-short",
        "SYMBOL, last source symbol, 40 octets and zeros",
        block,
        1000,
        0,
        Esi(15),
    );
    symbol(
        "symbol-of-repair",
        "SYMBOL, third repair symbol of a block of 1000 octets",
        block,
        1000,
        0,
        Esi(18),
    );
    symbol(
        "symbol-of-one-octet",
        "SYMBOL, the only source symbol of a block of one octet, T = 2",
        block,
        1,
        0,
        Esi(0),
    );
    let index = ObjectId::Index(ObjectTag(*b"indextag"));
    symbol(
        "symbol-of-an-index",
        "SYMBOL, source block 1 of an index of 1 MiB and 100 octets, second symbol",
        index,
        BLOCK_BYTES as u32 + 100,
        1,
        Esi(1),
    );
    let trust = ObjectId::Trust(ObjectTag(*b"trusttag"));
    symbol(
        "symbol-of-a-trust-bundle",
        "SYMBOL, first symbol of a trust bundle of 700 octets",
        trust,
        700,
        0,
        Esi(0),
    );
}

/// Every repair symbol of one block: the code itself may not change within a version.
#[test]
fn repair_symbols() {
    let oti = Oti::for_object(300, 20, RepairUse::Data);
    let octets: Vec<u8> = (0..=255).chain(0..44).collect();
    let encoded = Codec::default().encode(oti, Sbn(0), octets, Vec::new());
    let k = oti.source_symbols(Sbn(0));
    let repair: Vec<u8> =
        (k..k + oti.repair_symbols()).flat_map(|esi| encoded.symbol(Esi(esi)).to_vec()).collect();
    assert_eq!((k, oti.repair_symbols()), (15, 16));
    golden("repair-symbols", "all 16 repair symbols of octets 0 to 255 and 0 to 43, T = 20, K = 15", &repair);
}

fn beacon(name: &str, comment: &str, beacon: &Beacon, full_bytes: usize) {
    let mut plain = Vec::new();
    beacon.encode(&mut plain);
    plain.resize(plain.len().max(full_bytes), 0);
    assert_eq!(Beacon::parse(&plain).as_ref(), Ok(beacon));
    golden(&format!("{name}-plain"), &format!("{comment}; before it is sealed"), &plain);
    sealed(name, comment, &plain, |opened| match opened {
        Intaken::Beacon(read) => assert_eq!(&read, beacon),
        other => panic!("{other:?}"),
    });
}

#[test]
fn beacon_datagrams() {
    let minimal = Beacon {
        is_full: false,
        clock_ms: 1_795_000_000_123,
        rate_bits_per_s: 0,
        queued_bytes: 0,
        timestamp: Vec::new(),
        channels: Vec::new(),
    };
    beacon("beacon-minimal", "BEACON before the first release", &minimal, 0);
    let channel = |name: &str, newest, rounds_done| BeaconChannel {
        channel: name.parse().unwrap(),
        newest: ReleaseNo(newest),
        rounds_done,
        rounds: 3,
    };
    let full = Beacon {
        is_full: true,
        rate_bits_per_s: 900_000_000,
        queued_bytes: 1 << 33,
        timestamp: br#"{"signatures":[],"signed":{}}"#.to_vec(),
        channels: vec![channel("main", 7, 1), channel("os-patches", 1 << 40, 3)],
        ..minimal
    };
    beacon("beacon-full", "BEACON with a timestamp and two channels, filled up to 160 octets", &full, 160);
}

#[test]
fn probe_datagrams() {
    let datagram =
        Probe { is_end: false, run: 1_795_000_000_123, train: 3, rate_bits_per_s: 0, number: 70_000 };
    let end = Probe { is_end: true, rate_bits_per_s: 2_500_000_000, ..datagram };
    for (name, comment, probe) in [
        ("probe", "PROBE, filled up to 60 octets", datagram),
        ("probe-end", "PROBE at the end of a train, filled up to 60 octets", end),
    ] {
        let mut plain = Vec::new();
        probe.encode(&mut plain);
        plain.resize(60, 0);
        golden(&format!("{name}-plain"), &format!("{comment}; before it is sealed"), &plain);
        sealed(name, comment, &plain, |opened| match opened {
            Intaken::Probe(read) => assert_eq!(read, probe),
            other => panic!("{other:?}"),
        });
    }
}

fn text_blob(octets: &[u8], pack: PackId, offset: u64) -> (Sha256, Blob) {
    let bytes = octets.len() as u64;
    (Sha256::of(octets), Blob { bytes, extents: vec![Extent { pack, offset, bytes }] })
}

fn index(name: &str, comment: &str, index: &Index) {
    let octets = index.encode();
    golden(name, comment, &octets);
    assert_eq!(Index::parse(&octets).as_ref(), Ok(index));
}

fn file(path: &str, blob: Sha256, executable: bool) -> (ArtifactName, ArtifactKind) {
    (ArtifactName::File(path.parse().unwrap()), ArtifactKind::File { blob, executable })
}

#[test]
fn index_of_nothing() {
    let nothing = Index {
        channel: Channel::main(),
        number: ReleaseNo(1),
        created_s: 1_795_000_000,
        baseline: None,
        packs: [].into(),
        blobs: [].into(),
        artifacts: [].into(),
    };
    index("index-of-nothing", "index of a release that serves nothing", &nothing);
}

#[test]
fn index_of_files_and_a_provider() {
    let pack = PackId(*b"apackid1");
    let run = PackRun { first: BlockNo(0), last_bytes: 400, hashes: vec![Blake3::of(b"the block")] };
    let at = |text: &str, offset| text_blob(text.as_bytes(), pack, offset);
    let (hello, sums, signature, key, zip) = (
        at("hello\n", 0),
        at("the SHA256SUMS file", 10),
        at("its signature", 50),
        at("an armored key", 70),
        at("the zip of linux_amd64", 100),
    );
    let archive = ProviderArchive { blob: zip.0, h1: [0xab; 32] };
    let provider = Provider {
        protocols: vec!["5.0".to_owned(), "6.0".to_owned()],
        proof: Some(ProviderProof {
            sums: sums.0,
            signature: signature.0,
            keys: [("34365D9472D7468F".to_owned(), key.0)].into(),
        }),
        archives: [("linux_amd64".parse().unwrap(), archive)].into(),
    };
    let name = ArtifactName::Provider(
        "registry.terraform.io/coder/coder".parse().unwrap(),
        "2.13.1".parse().unwrap(),
    );
    let unsigned = ArtifactName::Provider(
        "registry.terraform.io/coder/coder".parse().unwrap(),
        "2.13.2-rc.1".parse().unwrap(),
    );
    let bare = Provider { proof: None, protocols: Vec::new(), ..provider.clone() };
    let release = Index {
        channel: Channel::main(),
        number: ReleaseNo(300),
        created_s: 1_795_000_000,
        baseline: Some(ReleaseNo(299)),
        packs: [(pack, vec![run])].into(),
        artifacts: [
            file("bin/tool", hello.0, true),
            file("docs/ä.txt", hello.0, false),
            (name, ArtifactKind::Provider(provider)),
            (unsigned, ArtifactKind::Provider(bare)),
        ]
        .into(),
        blobs: [hello, sums, signature, key, zip].into(),
    };
    index(
        "index-of-files-and-a-provider",
        "index with two files, a provider with its proof, and one without",
        &release,
    );
}

#[test]
fn index_of_an_image_and_a_package() {
    let pack = PackId(*b"apackid1");
    let [manifest, config, layer] = [b"manifest".as_slice(), b"config", b"layer"]
        .map(|octets| text_blob(octets, pack, u64::from(octets[0]) - u64::from(b'a')));
    let (deb, control) = (text_blob(b"!<arch>", pack, 100), text_blob(b"Package: hello", pack, 200));
    let image = Image {
        manifest: manifest.0,
        manifests: [(manifest.0, "application/vnd.oci.image.manifest.v1+json".to_owned())].into(),
        blobs: [config.0, layer.0].into(),
        omitted: [].into(),
    };
    let tag = ArtifactName::Image("ghcr.io/coder/coder".parse().unwrap(), "v2.13.1".parse().unwrap());
    let name = PackageName::new("bookworm".parse().unwrap(), "main", "hello", "2.10-3", "amd64").unwrap();
    let package = Package { deb: deb.0, control: control.0, proof: None };
    let run = PackRun { first: BlockNo(0), last_bytes: 300, hashes: vec![Blake3::of(b"block")] };
    let release = Index {
        channel: "images".parse().unwrap(),
        number: ReleaseNo(2),
        created_s: 1_795_000_000,
        baseline: None,
        packs: [(pack, vec![run])].into(),
        artifacts: [
            (tag, ArtifactKind::Image(image)),
            (ArtifactName::Package(name), ArtifactKind::Package(package)),
        ]
        .into(),
        blobs: [manifest, config, layer, deb, control].into(),
    };
    index("index-of-an-image-and-a-package", "index of version 2 with an image and a package", &release);
    let mut older = release.encode();
    older[4] = 1;
    assert!(Index::parse(&older).is_err(), "version 1 knows no images");
    let mut newer = Index { artifacts: [].into(), blobs: [].into(), packs: [].into(), ..release }.encode();
    assert_eq!(newer[4], 1);
    newer[4] = 2;
    assert!(Index::parse(&newer).is_err(), "one release has one encoding");
}

#[test]
fn index_of_some_platforms_and_a_proven_package() {
    let pack = PackId(*b"apackid1");
    let at = |octets: &[u8], offset| text_blob(octets, pack, offset);
    let (list, manifest) = (at(b"index", 0), at(b"manifest", 10));
    let (deb, control) = (at(b"!<arch>", 100), at(b"Package: hello", 200));
    let (release, packages, key) = (at(b"InRelease", 220), at(b"Packages.xz", 240), at(b"a key", 260));
    let media_type = |kind: &str| format!("application/vnd.oci.image.{kind}.v1+json");
    let image = Image {
        manifest: list.0,
        manifests: [(list.0, media_type("index")), (manifest.0, media_type("manifest"))].into(),
        blobs: [].into(),
        omitted: [Sha256([1; 32]), Sha256([2; 32])].into(),
    };
    let proof = PackageProof { release: release.0, packages: packages.0, key: key.0 };
    let package = Package { deb: deb.0, control: control.0, proof: Some(proof) };
    let tag = ArtifactName::Image("ghcr.io/coder/coder".parse().unwrap(), "v2.13.1".parse().unwrap());
    let name = PackageName::new("bookworm".parse().unwrap(), "main", "hello", "2.10-3", "amd64").unwrap();
    let run = PackRun { first: BlockNo(0), last_bytes: 300, hashes: vec![Blake3::of(b"block")] };
    let release = Index {
        channel: "images".parse().unwrap(),
        number: ReleaseNo(3),
        created_s: 1_795_000_000,
        baseline: None,
        packs: [(pack, vec![run])].into(),
        artifacts: [
            (tag, ArtifactKind::Image(image)),
            (ArtifactName::Package(name), ArtifactKind::Package(package)),
        ]
        .into(),
        blobs: [list, manifest, deb, control, release, packages, key].into(),
    };
    index(
        "index-of-some-platforms-and-a-proven-package",
        "index of version 3 with an image of some platforms and a package with its archive's proof",
        &release,
    );
    let mut older = release.encode();
    older[4] = 2;
    assert!(Index::parse(&older).is_err(), "version 2 knows neither");
}

#[test]
fn index_of_a_module() {
    let pack = PackId(*b"apackid1");
    let (file_blob, archive) = (text_blob(b"hello", pack, 0), text_blob(b"an archive", pack, 100));
    let run = PackRun { first: BlockNo(0), last_bytes: 110, hashes: vec![Blake3::of(b"block")] };
    let name = |version: &str| {
        let address = "registry.terraform.io/terraform-aws-modules/vpc/aws".parse().unwrap();
        ArtifactName::Module(address, version.parse().unwrap())
    };
    let of = |format, folder: &str| {
        ArtifactKind::Module(Module { format, folder: folder.parse().unwrap(), archive: archive.0 })
    };
    let release = Index {
        channel: Channel::main(),
        number: ReleaseNo(4),
        created_s: 1_795_000_000,
        baseline: Some(ReleaseNo(3)),
        packs: [(pack, vec![run])].into(),
        artifacts: [
            file("hello", file_blob.0, false),
            (name("5.21.0"), of(ModuleFormat::TarGz, "repo-0a1b/modules/a")),
            (name("6.0.0-rc.1"), of(ModuleFormat::Zip, "")),
        ]
        .into(),
        blobs: [file_blob, archive.clone()].into(),
    };
    index("index-of-a-module", "index of version 4 with a file and two versions of a module", &release);
    for version in [1, 2, 3] {
        let mut older = release.encode();
        older[4] = version;
        assert!(Index::parse(&older).is_err(), "version {version} knows no modules");
    }
}

#[test]
fn ticket() {
    let want = |channel: &str, what| Want { channel: channel.parse().unwrap(), number: ReleaseNo(300), what };
    let runs = vec![(0, 3), (50, 1), (99, 2), (2000, 48)];
    let ticket = Ticket {
        receiver: *b"receiver",
        made_s: 1_795_000_000,
        wants: vec![
            want("bulk", What::Everything),
            want("main", What::Blocks { index: ObjectTag(*b"indextag"), runs }),
            want("urgent", What::Since(ReleaseNo(298))),
        ],
    };
    let text = ticket.encode(LINK, &pairing_secret());
    golden(
        "ticket",
        "the text of a resend ticket: everything, blocks, and what is new since a release",
        text.as_bytes(),
    );
    assert_eq!(Ticket::parse(&text, LINK, &pairing_secret()), Ok(ticket));
}

#[test]
fn index_over_several_packs() {
    let block = BLOCK_BYTES as u64;
    let (first, second) = (PackId(*b"apackid1"), PackId(*b"apackid2"));
    let hash = |n: u8| Blake3([n; 32]);
    let long = PackRun { first: BlockNo(1), last_bytes: 5, hashes: vec![hash(1), hash(2)] };
    let apart = PackRun { first: BlockNo(9), last_bytes: 1000, hashes: vec![hash(3)] };
    let last = PackRun { first: BlockNo(2047), last_bytes: block as u32, hashes: vec![hash(4)] };
    // One blob over a block's border, then in another run, then in another pack.
    let extents = vec![
        Extent { pack: first, offset: block + 100, bytes: block - 95 },
        Extent { pack: first, offset: 9 * block, bytes: 1000 },
        Extent { pack: second, offset: 2047 * block, bytes: block },
    ];
    let name = Sha256([0x11; 32]);
    let release = Index {
        channel: "os-patches".parse().unwrap(),
        number: ReleaseNo(2),
        created_s: 0,
        baseline: None,
        packs: [(first, vec![long, apart]), (second, vec![last])].into(),
        blobs: [(name, Blob { bytes: 2 * block + 905, extents })].into(),
        artifacts: [file("large", name, false)].into(),
    };
    index(
        "index-over-several-packs",
        "index of one file of three extents in two packs and three runs",
        &release,
    );
}

#[test]
fn trust_bundle() {
    let bundle = Bundle {
        roots: vec![br#"{"root":1}"#.to_vec(), br#"{"root":2}"#.to_vec()],
        timestamp: b"timestamp.json".to_vec(),
        snapshot: vec![b's'; 200],
        targets: b"targets.json".to_vec(),
    };
    let octets = bundle.encode();
    golden(
        "trust-bundle",
        "trust bundle layout: two roots, timestamp, snapshot of 200 octets, targets",
        &octets,
    );
    assert_eq!(Bundle::parse(&octets), Ok(bundle));
}
