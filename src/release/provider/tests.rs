//! Each vector under `tests/vectors/openpgp` with its verdict; its README says how it was made and what the real
//! terraform says of it.

use super::*;

macro_rules! vector {
    ($($name:expr),+) => {
        include_bytes!(concat!("../../../tests/vectors/openpgp/", $($name),+)).as_slice()
    };
}

macro_rules! verdict {
    ($folder:literal) => {
        verdict_of(
            vector!($folder, "/SHA256SUMS"),
            vector!($folder, "/SHA256SUMS.sig"),
            vector!($folder, "/key.asc"),
        )
    };
}

const ARCHIVE: &str = "terraform-provider-demo_1.0.0_linux_amd64.zip";

fn archives() -> [(String, Sha256); 1] {
    let zip = include_bytes!("../../../tests/vectors/provider-zip/plain.zip");
    [(ARCHIVE.to_owned(), Sha256::of(zip))]
}

fn verdict_of(sums: &[u8], signature: &[u8], keys: &[u8]) -> Result<Signer, ProofError> {
    let keys = split_keys(keys)?;
    verify(&ProofInput { sums, signature, keys: &keys }, &archives())
}

#[test]
fn what_terraform_accepts_is_accepted_and_the_primary_key_named() {
    for (folder, verdict) in [
        ("good-rsa", verdict!("good-rsa")),
        ("good-ed25519", verdict!("good-ed25519")),
        ("good-p256", verdict!("good-p256")),
        ("subkey", verdict!("subkey")),
        ("expired-key", verdict!("expired-key")),
        ("text-signature", verdict!("text-signature")),
        ("two-signatures", verdict!("two-signatures")),
        ("armored-signature", verdict!("armored-signature")),
    ] {
        let signer = verdict.unwrap_or_else(|error| panic!("{folder}: {error}"));
        assert!(
            signer.fingerprint.ends_with(&signer.key_id),
            "{folder}: a version 4 id ends its fingerprint"
        );
        assert_eq!(signer.signature_expires_at, None, "{folder}");
    }
    // The key ids that terraform printed for these vectors.
    for (verdict, id) in [
        (verdict!("good-rsa"), include_str!("../../../tests/vectors/openpgp/good-rsa/key-id")),
        (verdict!("subkey"), include_str!("../../../tests/vectors/openpgp/subkey/key-id")),
        (verdict!("expired-key"), include_str!("../../../tests/vectors/openpgp/expired-key/key-id")),
    ] {
        assert_eq!(verdict.unwrap().key_id, id.trim());
    }
}

#[test]
fn a_signature_that_expires_says_when() {
    let signer = verdict!("expired-signature").unwrap();
    let (made, day) = (1_767_312_000, 86_400);
    assert_eq!(signer.signature_expires_at, Some(made + day));
}

#[test]
fn lies_about_the_signature_have_distinct_refusals() {
    assert!(matches!(verdict!("unknown-key"), Err(ProofError::UnknownKey { .. })));
    assert!(matches!(verdict!("tampered-sums"), Err(ProofError::BadSignature { .. })));
    assert_eq!(verdict!("sha1-signature"), Err(ProofError::WeakDigest { found: "SHA1".into() }));
    assert_eq!(verdict!("md5-signature"), Err(ProofError::WeakDigest { found: "MD5".into() }));
    assert!(matches!(verdict!("revoked-key"), Err(ProofError::Revoked { .. })));
    for (folder, verdict, expected) in [
        ("certify-only-key", verdict!("certify-only-key"), "its owner did not make it for signing"),
        ("stolen-subkey", verdict!("stolen-subkey"), "the primary key did not bind the subkey that signed"),
    ] {
        match verdict {
            Err(ProofError::NotForSigning { why, .. }) => assert_eq!(why, expected, "{folder}"),
            other => panic!("{folder}: {other:?}"),
        }
    }
}

#[test]
fn an_archive_must_be_in_the_sums_with_its_digest() {
    let keys = split_keys(vector!("good-rsa/key.asc")).unwrap();
    let proof = ProofInput {
        sums: vector!("good-rsa/SHA256SUMS"),
        signature: vector!("good-rsa/SHA256SUMS.sig"),
        keys: &keys,
    };
    let [(name, digest)] = archives();
    let other = "terraform-provider-demo_2.0.0_linux_amd64.zip".to_owned();
    assert_eq!(
        verify(&proof, &[(name.clone(), digest), (other.clone(), digest)]),
        Err(ProofError::ArchiveMissing { name: other })
    );
    let found = Sha256::of(b"another archive");
    assert_eq!(
        verify(&proof, &[(name.clone(), found)]),
        Err(ProofError::ArchiveDigest { name, expected: digest, found })
    );
}

#[test]
fn key_files_are_taken_apart() {
    let rsa = vector!("good-rsa/key.asc");
    let ed25519 = vector!("good-ed25519/key.asc");
    let (sums, signature) = (vector!("two-keys/SHA256SUMS"), vector!("two-keys/SHA256SUMS.sig"));
    let ids = [key_ids(rsa).unwrap(), key_ids(ed25519).unwrap()].concat();
    for (name, file) in [
        ("one-block.asc", vector!("two-keys/one-block.asc")),
        ("two-blocks.asc", vector!("two-keys/two-blocks.asc")),
        ("keys.gpg", vector!("two-keys/keys.gpg")),
    ] {
        assert_eq!(key_ids(file).unwrap(), ids, "{name}");
        let split = split_keys(file).unwrap();
        assert_eq!(split.len(), 2, "{name}");
        for (id, armored) in &split {
            assert_eq!(key_ids(armored).unwrap(), [id.as_str()], "{name}");
            assert!(armored.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"), "{name}");
        }
        let signer = verify(&ProofInput { sums, signature, keys: &split }, &archives()).unwrap();
        assert_eq!(signer.key_id, ids[1], "{name}");
    }
    let commented = [b"The key of the publisher:\n\n".as_slice(), rsa].concat();
    assert_eq!(split_keys(&commented).unwrap().values().next().unwrap(), &commented);
    let not_utf8 = [b"M\xfcller:\n".as_slice(), rsa].concat();
    assert!(split_keys(&not_utf8).unwrap().values().all(|key| std::str::from_utf8(key).is_ok()));
}

#[test]
fn key_files_that_are_something_else_are_refused() {
    let rsa = vector!("good-rsa/key.asc");
    for bad in
        [b"".as_slice(), b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", b"\x99", b"hello", rsa.split_at(400).0]
    {
        assert!(
            matches!(key_ids(bad), Err(ProofError::KeyFormat { .. })),
            "{:?}",
            String::from_utf8_lossy(bad)
        );
    }
    assert!(matches!(key_ids(&[rsa, rsa].concat()), Err(ProofError::KeyTwice { .. })));
    assert_eq!(key_ids(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n"), Err(ProofError::PrivateKey));
    let large = vec![b'\n'; PROOF_BYTES_MAX as usize + 1];
    assert!(matches!(key_ids(&large), Err(ProofError::Size { .. })));
}

#[test]
fn a_key_must_be_what_it_is_filed_under() {
    let (sums, signature) = (vector!("good-rsa/SHA256SUMS"), vector!("good-rsa/SHA256SUMS.sig"));
    let rsa = split_keys(vector!("good-rsa/key.asc")).unwrap();
    for file in
        [vector!("good-ed25519/key.asc"), vector!("two-keys/one-block.asc"), vector!("two-keys/keys.gpg")]
    {
        let keys = rsa.keys().map(|id| (id.clone(), file.to_vec())).collect();
        let verdict = verify(&ProofInput { sums, signature, keys: &keys }, &archives());
        assert!(matches!(verdict, Err(ProofError::KeyLabel { .. })), "{verdict:?}");
    }
    let none = BTreeMap::new();
    let verdict = verify(&ProofInput { sums, signature, keys: &none }, &archives());
    assert!(matches!(verdict, Err(ProofError::UnknownKey { .. })), "{verdict:?}");
}

#[test]
fn sums_are_read_strictly() {
    let digest = Sha256::of(b"x");
    let good = format!("{digest}  a.zip\n{digest} *b.zip\n{}  c.zip", digest.to_string().to_uppercase());
    let sums = Sums::parse(good.as_bytes()).unwrap();
    assert!(["a.zip", "b.zip", "c.zip"].iter().all(|name| sums.get(name) == Some(digest)));
    assert_eq!((sums.get("*b.zip"), sums.get("d.zip")), (None, None));
    for bad in [
        "".to_owned(),
        "\n".to_owned(),
        format!("\n{digest}  a.zip\n"),
        format!("{digest}  a.zip\n\n{digest}  b.zip\n"),
        format!("{digest}  a.zip\n\n"),
        format!("{digest}  a.zip\r\n"),
        format!("{digest} a.zip\n"),
        format!("{digest}\ta.zip\n"),
        format!("{digest}  \n"),
        format!("{digest}   a.zip\n"),
        format!("{digest}  a.zip b.zip\n"),
        format!(" {digest}  a.zip\n"),
        format!("{}  a.zip\n", "é".repeat(40)),
        format!("{}  a.zip\n", digest.to_string().replacen('2', "g", 1)),
        format!("{digest}  {}\n", "n".repeat(PATH_BYTES_TOO_MANY)),
        format!("SHA256 (a.zip) = {digest}\n"),
    ] {
        assert!(matches!(Sums::parse(bad.as_bytes()), Err(ProofError::SumsLine { .. })), "{bad:?}");
    }
    let twice = format!("{digest}  a.zip\n{}  a.zip\n", Sha256::of(b"y"));
    assert!(matches!(Sums::parse(twice.as_bytes()), Err(ProofError::SumsConflict { .. })));
    assert!(Sums::parse(format!("{digest}  a.zip\n{digest}  a.zip\n").as_bytes()).is_ok());
    let large = vec![b'a'; PROOF_BYTES_MAX as usize + 1];
    assert!(matches!(Sums::parse(&large), Err(ProofError::Size { .. })));
}

const PATH_BYTES_TOO_MANY: usize = crate::limits::PATH_BYTES_MAX + 1;

#[test]
fn signatures_that_are_something_else_are_refused() {
    let (sums, keys) = (vector!("good-rsa/SHA256SUMS"), vector!("good-rsa/key.asc"));
    let rsa = vector!("good-rsa/SHA256SUMS.sig");
    let two_blocks = vector!("armored-signature/SHA256SUMS.sig").repeat(2);
    for bad in
        [b"".as_slice(), b"hello", sums, keys, rsa.split_at(100).0, &two_blocks, vector!("two-keys/keys.gpg")]
    {
        let verdict = verdict_of(sums, bad, keys);
        assert!(matches!(verdict, Err(ProofError::SignatureFormat { .. })), "{verdict:?}");
    }
    assert!(matches!(verdict_of(sums, &rsa.repeat(17), keys), Err(ProofError::TooMany { .. })));
}

/// Flips, cuts, repeats and splices of real proofs: nothing panics, and no changed sums pass.
#[test]
fn damaged_proofs_are_refused_and_never_panic() {
    let binary_key = vector!("two-keys/keys.gpg");
    let proofs = [
        (vector!("good-rsa/SHA256SUMS"), vector!("good-rsa/SHA256SUMS.sig"), vector!("good-rsa/key.asc")),
        (vector!("subkey/SHA256SUMS"), vector!("subkey/SHA256SUMS.sig"), vector!("subkey/key.asc")),
        (vector!("two-keys/SHA256SUMS"), vector!("two-keys/SHA256SUMS.sig"), binary_key),
        (vector!("good-p256/SHA256SUMS"), vector!("good-p256/SHA256SUMS.sig"), vector!("good-p256/key.asc")),
        (
            vector!("armored-signature/SHA256SUMS"),
            vector!("armored-signature/SHA256SUMS.sig"),
            vector!("revoked-key/key.asc"),
        ),
    ];
    let rounds = std::env::var("DIODESYNC_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3000_u64);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below.max(1)
    };
    for round in 0..rounds {
        let (sums, signature, keys) = proofs[random(proofs.len())];
        let mut parts = [sums.to_vec(), signature.to_vec(), keys.to_vec()];
        // Damage under the armor too, where a flip would otherwise mostly break base64.
        if random(2) == 0
            && let Ok(blocks) = keys::armor_blocks(&parts[2], "PUBLIC KEY BLOCK")
            && let Some(binary) = blocks.first().and_then(|block| keys::dearmor(block).ok())
        {
            parts[2] = binary;
        }
        let which = random(3);
        let part = &mut parts[which];
        for _ in 0..=random(3) {
            let at = random(part.len());
            match random(4) {
                0 => part[at] ^= 1 << random(8),
                1 => part[at] = random(256) as u8,
                2 => part.truncate(at + 1),
                _ => {
                    let piece = part[at..part.len().min(at + 1 + random(64))].to_vec();
                    let to = random(part.len());
                    part.splice(to..to, piece);
                }
            }
        }
        let changed_sums = parts[0] != sums;
        let verdict = verdict_of(&parts[0], &parts[1], &parts[2]);
        assert!(!(changed_sums && verdict.is_ok()), "round {round}: changed sums were accepted");
    }
}
