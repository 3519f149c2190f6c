use super::super::protocol::OfferedFile;
use super::*;

fn producer() -> Producer {
    Producer {
        name: "ci".to_owned(),
        key: Pin(Sha256::of(b"key")),
        channels: vec![Channel::main()],
        kinds: vec![Kind::File, Kind::Provider, Kind::Image, Kind::Package],
        names: ["tools/*", "registry.example.com/acme/*", "ghcr.io/acme/*:v?", "bookworm/main/acme-*"]
            .map(str::to_owned)
            .to_vec(),
        unsigned: false,
        bytes_max: 100,
        bytes_per_day: 150,
    }
}

fn file(path: &str, role: Role, bytes: u64) -> OfferedFile {
    OfferedFile { path: path.to_owned(), role, bytes, sha256: Sha256::of(path.as_bytes()) }
}

fn offer(what: What, files: Vec<OfferedFile>) -> Offer {
    Offer { channel: Channel::main(), what, files }
}

fn provider(address: &str, unsigned: bool) -> Offer {
    let what = What::Provider { address: address.to_owned(), protocols: vec!["5.0".to_owned()], unsigned };
    offer(what, vec![file("terraform-provider-tool_1.0.0_linux_amd64.zip", Role::Archive, 9)])
}

fn image(tag: &str, omitted: BTreeSet<Sha256>) -> Offer {
    let tags = BTreeMap::from([(tag.to_owned(), Sha256::of(b"manifest"))]);
    let what = What::Image { repository: "ghcr.io/acme/app".to_owned(), tags, omitted };
    offer(what, vec![file("sha256:x", Role::Manifest, 9)])
}

fn packages(held: Vec<Sha256>) -> Offer {
    let what = What::Packages { suite: "bookworm".to_owned(), component: "main".to_owned(), held };
    offer(what, vec![file("x.deb", Role::Package, 9)])
}

#[test]
fn what_is_within_the_rights_is_taken() {
    for offer in [
        offer(What::Files, vec![file("tools/a", Role::Plain, 50), file("tools/b/c", Role::Executable, 50)]),
        provider("registry.example.com/acme/tool", false),
        image("v1", BTreeSet::new()),
        packages(Vec::new()),
    ] {
        producer().judge_offer(&offer).unwrap();
    }
}

#[test]
fn each_refusal_names_producer_artifact_and_rule() {
    let plain = |path: &str| offer(What::Files, vec![file(path, Role::Plain, 1)]);
    let elsewhere = Offer { channel: "other".parse().unwrap(), ..plain("tools/a") };
    let module = What::Module {
        address: "registry.example.com/acme/net/aws".to_owned(),
        version: "1.0.0".to_owned(),
        folder: String::new(),
    };
    for (offer, expected) in [
        (elsewhere, "producer ci may not submit to channel other: channels of its [[producer]] has main"),
        (
            offer(module, vec![file("m.zip", Role::Module, 1)]),
            "ci may not submit artifacts of kind module: kinds",
        ),
        (plain("toolbox"), "ci may not submit file toolbox: no pattern in names"),
        (plain("tools/../etc"), "the path \"tools/../etc\" is refused"),
        (
            offer(What::Files, vec![file("tools/a", Role::Plain, 1), file("b", Role::Plain, 1)]),
            "ci may not submit file b: no pattern",
        ),
        (provider("registry.example.com/other/tool", false), "matches \"registry.example.com/other/tool\""),
        (provider("registry.example.com/acme/tool", true), "unsigned of its [[producer]] is false"),
        (image("v10", BTreeSet::new()), "ci may not submit image ghcr.io/acme/app:v10: no pattern"),
        (image("v1", BTreeSet::from([Sha256::of(b"x")])), "content that it does not give"),
        (packages(vec![Sha256::of(b"x")]), "content that it does not give"),
        (offer(What::Files, vec![file("tools/a", Role::Plain, 101)]), "has 101 B, and bytes_max"),
    ] {
        let error = producer().judge_offer(&offer).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_package_is_judged_by_the_name_that_was_found_in_it() {
    let named = |package: &str| {
        let control = format!("Package: {package}\nVersion: 1.0\nArchitecture: amd64\n\n");
        let control = diodesync::release::package::Control::parse(control.as_bytes()).unwrap();
        ArtifactName::Package(control.name("bookworm".parse().unwrap(), "main").unwrap())
    };
    producer().judge(&named("acme-tool")).unwrap();
    let error = producer().judge(&named("openssl")).unwrap_err().to_string();
    assert!(error.contains("matches \"bookworm/main/openssl\""), "{error}");
}

#[test]
fn a_day_has_its_limit() {
    producer().judge_day(100, 50).unwrap();
    let error = producer().judge_day(100, 51).unwrap_err().to_string();
    assert!(error.contains("wants to send 51 B more, and 100 B came"), "{error}");
    assert!(producer().judge_day(u64::MAX, u64::MAX).is_err());
}

#[test]
fn nobody_is_told_of_what_others_have_brought() {
    let (own, other) = (Sha256::of(b"own"), Sha256::of(b"other"));
    let artifact = |path: &str, blob| {
        let name = ArtifactName::File(path.parse().unwrap());
        (name, ArtifactKind::File { blob, executable: false })
    };
    let here = [artifact("tools/a", own), artifact("secret/b", other)];
    let asked = BTreeMap::from([(own, 1), (other, 1), (Sha256::of(b"new"), 1)]);
    let known = known_to(&producer(), here.iter().map(|(name, kind)| (name, kind)), &asked);
    assert_eq!(known, BTreeSet::from([own]));
}

#[test]
fn an_image_has_a_thousand_names_at_most() {
    let tagged = |count: usize| {
        let tags = (0..count).map(|number| (format!("v{number}"), Sha256::of(b"manifest"))).collect();
        let what = What::Image { repository: "ghcr.io/acme/app".to_owned(), tags, omitted: BTreeSet::new() };
        offer(what, vec![file("sha256:x", Role::Manifest, 9)])
    };
    let ci = Producer { names: vec!["ghcr.io/acme/*".to_owned()], ..producer() };
    ci.judge_offer(&tagged(TAGS_MAX)).unwrap();
    let why = ci.judge_offer(&tagged(TAGS_MAX + 1)).unwrap_err().to_string();
    assert_eq!(why, "the image of producer ci has 1001 tags, and 1000 at most are taken at once");
}
