//! Each vector under `tests/vectors/archive` with its verdict. `make` in there makes them with real gpg, dpkg-deb and
//! apt-ftparchive.

use super::*;
use crate::release::name::Suite;

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/vectors/archive/", $name)).as_slice()
    };
}

/// The Date of the vectors.
const DATE_S: u64 = 1_795_000_000;
const DAY_S: u64 = 86_400;

fn release(octets: &[u8]) -> Result<Release, ArchiveError> {
    Release::verify(octets, &keyring(vector!("keyring.gpg")).unwrap())
}

fn name(package: &str, version: &str, architecture: &str) -> PackageName {
    let suite: Suite = "demo".parse().unwrap();
    PackageName::new(suite, "main", package, version, architecture).unwrap()
}

const CONTROL: &str = "Package: demo\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: T <t@example.com>\n\
                       Depends: demo-data (>= 1.0),\n libc6\nDescription: made for a test\n with a second line\n";

fn claim(name: &PackageName) -> Claim<'_> {
    let deb = vector!("demo_1.0-1_amd64.deb");
    let control = Control::parse(CONTROL.as_bytes()).unwrap();
    Claim { name, deb: Sha256::of(deb), bytes: deb.len() as u64, control }
}

fn proof(packages: &[u8]) -> ArchiveProof<'_> {
    ArchiveProof { release: vector!("InRelease"), packages, key: vector!("good.asc") }
}

#[test]
fn a_release_says_what_it_consists_of() {
    let release = release(vector!("InRelease")).unwrap();
    assert_eq!((release.suite.as_str(), release.codename.as_deref()), ("demo", Some("demo-1")));
    assert_eq!((release.date_s, release.valid_until_s), (DATE_S, Some(DATE_S + 7 * DAY_S)));
    assert!(release.by_hash);
    assert_eq!(
        (release.components.join(" "), release.architectures.join(" ")),
        ("main".into(), "amd64".into())
    );
    let packages = vector!("Packages.xz");
    let listed: Vec<&str> = release.named(&Sha256::of(packages), packages.len() as u64).collect();
    assert_eq!(listed, ["main/binary-amd64/Packages.xz"]);
    // By a subkey of two years, of a primary key that has no end.
    assert_eq!(release.signer.key_expires_at.map(|end| end > DATE_S), Some(true));
    // One of two is enough.
    assert_eq!(self::release(vector!("two-signatures")).unwrap().signer, release.signer);
}

#[test]
fn what_is_not_signed_by_a_known_key_is_refused() {
    let refused = |octets: &[u8]| release(octets).unwrap_err().to_string();
    for (octets, reason) in [
        (vector!("unknown-key"), "expected a signature by one of the keys"),
        (vector!("changed"), "does not match"),
        (vector!("text-before"), "expected -----BEGIN PGP SIGNED MESSAGE----- first, found \"Suite: other\""),
        (vector!("text-after"), "expected nothing after the signature, found \"Suite: other\""),
        (vector!("sha1"), "a digest that nobody can collide"),
        (vector!("Packages"), "expected -----BEGIN PGP SIGNED MESSAGE----- first"),
        (b"", "expected -----BEGIN PGP SIGNED MESSAGE----- first"),
    ] {
        let why = refused(octets);
        assert!(why.starts_with("InRelease") && why.contains(reason), "{why}");
    }
    let good = String::from_utf8(vector!("InRelease").to_vec()).unwrap();
    for (from, to) in [
        ("\n\nArch", "\nSuite: x\n\nArch"),
        ("Acquire-By-Hash: yes\n", "Acquire-By-Hash: yes\n-----BEGIN PGP SIGNED MESSAGE-----\n"),
        ("-----END PGP SIGNATURE-----", ""),
    ] {
        let why = refused(good.replace(from, to).as_bytes());
        assert!(why.starts_with("InRelease: expected"), "{why}");
    }
    // Every octet of what is signed counts, but for spaces at the ends of lines.
    let end = good.find("-----BEGIN PGP SIGNATURE").unwrap();
    for at in good.find("Architectures").unwrap()..end - 1 {
        let mut changed = good.clone().into_bytes();
        changed[at] ^= 1;
        assert!(release(&changed).is_err(), "octet {at}");
    }
}

#[test]
fn freshness_is_a_question_of_the_clock() {
    let good = release(vector!("InRelease")).unwrap();
    assert_eq!(good.check_fresh(DATE_S), Ok(()));
    assert_eq!(good.check_fresh(DATE_S + 7 * DAY_S), Ok(()));
    let why = good.check_fresh(DATE_S + 8 * DAY_S).unwrap_err().to_string();
    assert!(why.contains("of demo was valid until 2026-11-25T11:06:40Z, and it is 2026-11-26"), "{why}");
    let why = good.check_fresh(DATE_S - DAY_S).unwrap_err().to_string();
    assert!(why.contains("set this side's clock"), "{why}");
    // An old signature by an expired key is one all the same.
    let why = release(vector!("expired-key")).unwrap().check_fresh(DATE_S).unwrap_err().to_string();
    assert!(why.contains("which expired at 2024-12-31T"), "{why}");
}

#[test]
fn a_package_is_proven_by_its_archive() {
    let demo = name("demo", "1.0-1", "amd64");
    for packages in [vector!("Packages"), vector!("Packages.gz"), vector!("Packages.xz")] {
        assert_eq!(verify(&proof(packages), &[claim(&demo)]), Ok(()));
    }
    assert_eq!(verify(&proof(vector!("Packages.xz")), &[]), Ok(()));
}

#[test]
fn a_package_that_its_archive_does_not_prove() {
    let demo = name("demo", "1.0-1", "amd64");
    let packages = vector!("Packages.xz");
    let refused = |proof: &ArchiveProof<'_>, claim: Claim<'_>| verify(proof, &[claim]).unwrap_err();
    let error = refused(&proof(packages), Claim { bytes: 5, ..claim(&demo) });
    assert!(matches!(error, ArchiveError::Deb { .. }), "{error}");
    let error = refused(&proof(packages), Claim { deb: Sha256([1; 32]), ..claim(&demo) });
    assert!(matches!(error, ArchiveError::Deb { .. }), "{error}");
    let control = Control::parse(CONTROL.replace("libc6", "libc7").as_bytes()).unwrap();
    let error = refused(&proof(packages), Claim { control, ..claim(&demo) }).to_string();
    assert!(error.contains("expected Depends \"demo-data (>= 1.0), libc6\""), "{error}");
    let control = Control::parse(format!("{CONTROL}Essential: yes\n").as_bytes()).unwrap();
    let error = refused(&proof(packages), Claim { control, ..claim(&demo) });
    assert!(matches!(error, ArchiveError::Control { field: "Essential", .. }), "{error}");
    for other in
        [name("demo", "1.0-2", "amd64"), name("demos", "1.0-1", "amd64"), name("demo", "1.0-1", "all")]
    {
        let error = refused(&proof(packages), claim(&other));
        assert!(matches!(error, ArchiveError::NoPackage { .. }), "{error}");
    }
    let other = name("demo", "1.0-1", "arm64");
    let error = refused(&proof(packages), claim(&other));
    assert!(matches!(error, ArchiveError::OtherIndex { .. }), "{error}");
    let other = PackageName { component: "contrib".to_owned(), ..demo.clone() };
    let error = refused(&proof(packages), claim(&other));
    assert!(matches!(error, ArchiveError::OtherIndex { .. }), "{error}");

    let error = refused(&proof(&packages[1..]), claim(&demo));
    assert!(matches!(error, ArchiveError::NotListed { .. }), "{error}");
    let error = refused(&ArchiveProof { release: vector!("changed"), ..proof(packages) }, claim(&demo));
    assert!(matches!(error, ArchiveError::Signature(_)), "{error}");
    let error = refused(&ArchiveProof { release: vector!("unknown-key"), ..proof(packages) }, claim(&demo));
    assert!(matches!(error, ArchiveError::UnknownKey { .. }), "{error}");
    let error = refused(&ArchiveProof { key: b"", ..proof(packages) }, claim(&demo));
    assert!(matches!(error, ArchiveError::Keyring(_)), "{error}");
}

#[test]
fn stanzas_are_read_one_at_a_time() {
    let read = |octets: &[u8], packing| Stanzas::new(octets, packing).unwrap().collect::<Result<Vec<_>, _>>();
    let stanzas = read(vector!("Packages.gz"), Packing::Gzip).unwrap();
    let names: Vec<_> = stanzas.iter().map(|stanza| stanza.get("package").unwrap()).collect();
    assert_eq!(names, ["demo-data", "demo"]);
    assert_eq!(stanzas[1].get("Depends"), Some("demo-data (>= 1.0),\n libc6"));
    assert_eq!(stanzas[1].place().unwrap().0, "pool/demo_1.0-1_amd64.deb");
    assert_eq!(read(b"", Packing::Plain), Ok(vec![]));
    assert_eq!(read(b"\n\nPackage: a\n\n\n\nPackage: b", Packing::Plain).unwrap().len(), 2);
    for bad in ["/etc/passwd", "../../x.deb", "pool/../../x.deb", "http://x/y.deb?z"] {
        let text = format!("Package: a\nFilename: {bad}\nSize: 1\nSHA256: {}\n", "0".repeat(64));
        let stanza = read(text.as_bytes(), Packing::Plain).unwrap().pop().unwrap();
        assert!(stanza.place().unwrap_err().to_string().contains("no Filename"), "{bad}");
    }
    let long = [b"Package: a\nX: ".as_slice(), &vec![b'x'; 2 << 20]].concat();
    assert!(matches!(read(&long, Packing::Plain), Err(ArchiveError::Size { .. })));
    assert!(read(&vector!("Packages.xz")[..300], Packing::Xz).is_err());
    assert!(read(vector!("Packages.xz"), Packing::Gzip).is_err());
    assert!(read(b"Package: \xff\n", Packing::Plain).is_err());
}
