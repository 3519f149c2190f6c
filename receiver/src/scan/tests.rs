//! What is shown to a scanner of real archives, and what is not.

use std::io::{Cursor, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;

fn limits() -> Limits {
    Limits {
        file_bytes_max: 1 << 20,
        unpacked_bytes_max: 1 << 30,
        ratio_max: 500,
        entries_max: 100,
        depth_max: 7,
    }
}

/// What a scanner was shown, with what it found: all that contains `EVIL`.
fn look(limits: Limits, content: &[u8]) -> (Vec<String>, Vec<(String, Verdict)>) {
    let (mut shown, mut remarks) = (Vec::new(), Vec::new());
    let mut visit = |path: &str, file: &mut dyn Read| {
        let mut octets = Vec::new();
        file.take(limits.file_bytes_max + 1).read_to_end(&mut octets)?;
        shown.push(path.to_owned());
        Ok(match octets {
            octets if octets.len() as u64 > limits.file_bytes_max => Verdict::Unscanned("large".to_owned()),
            octets if octets.windows(4).any(|it| it == b"EVIL") => Verdict::Found("Evil".to_owned()),
            _ => Verdict::Clean,
        })
    };
    let bytes = content.len() as u64;
    let mut tell = |place: &str, verdict| remarks.push((place.to_owned(), verdict));
    let mut unpacker = Unpacker::new(limits, bytes, &mut visit, &mut tell);
    unpacker.look("it", &mut Cursor::new(content), bytes).unwrap();
    (shown, remarks)
}

fn found(content: &[u8]) -> Vec<String> {
    let (_, remarks) = look(limits(), content);
    remarks
        .into_iter()
        .filter(|(_, verdict)| *verdict == Verdict::Found("Evil".to_owned()))
        .map(|it| it.0)
        .collect()
}

fn unscanned(limits: Limits, content: &[u8]) -> String {
    let (_, remarks) = look(limits, content);
    let [(place, Verdict::Unscanned(why))] = remarks.as_slice() else { panic!("{remarks:?}") };
    format!("{place}: {why}")
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

/// `a/x`, which says `something EVIL`, in a tar packed by liblzma.
const TAR_XZ: &str = concat!(
    "/Td6WFoAAATm1rRGAgAhAQwAAACPmEGc4Cf/AGZdADCLywAOUCcI/OcAtM3z4KiDmMDJykNwJ22F7nFhyK0ghu/g9sAe1ewMAFrn",
    "em0hCiDaTdKzPmlrm554STMmG5WDW8MzgQjp7t4ynCi9P+eavzAHc+7D5ZoNf4fgDIItGcfQHh9pAAAAAKNMTvL5Q3VAAAGCAYBQ",
    "AAA10KgsscRn+wIAAAAABFla",
);

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let head = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, content.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(2), b'\n');
    }
    out
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Larger than what is shown whole, so that only what is in it tells.
fn bulk() -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..(1 << 20) - 1000).map(|_| next()).collect()
}

#[test]
fn it_is_found_wherever_it_lies() {
    let (bulk, evil) = (bulk(), b"something EVIL".as_slice());
    assert_eq!(found(evil), ["it"]);
    assert!(found(b"nothing").is_empty());
    let files = [("a/bulk", bulk.as_slice()), ("a/x", evil), ("bulk2", bulk.as_slice())];
    let plain = tar(&files);
    assert_eq!(found(&plain), ["it » a/x"]);
    assert_eq!(found(&gz(&plain)), ["it » a/x"]);
    let xz = BASE64_STANDARD.decode(TAR_XZ).unwrap();
    assert_eq!(found(&xz), ["it » a/x"]);
    assert_eq!(found(&zip(&files)), ["it » a/x"]);
    let deb = ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &gz(b"")), ("data.tar.xz", &xz)]);
    assert_eq!(found(&deb), ["it » data.tar.xz » a/x"]);
    // A package in a layer of an image; a zip in a zip.
    let small = ar(&[("debian-binary", b"2.0\n"), ("data.tar.gz", &gz(&tar(&[("x", evil)])))]);
    assert_eq!(found(&gz(&tar(&[("bulk", &bulk), ("y.deb", &small)]))), ["it » y.deb » data.tar.gz » x"]);
    assert_eq!(found(&zip(&[("bulk", &bulk), ("i.zip", &zip(&[("x", evil)]))])), ["it » i.zip » x"]);
    // A tar of before there was a magic, and one of which the first name looks like a zip.
    let mut old = plain.clone();
    old[257..265].fill(0);
    old[148..156].fill(b' ');
    let sum: u32 = old[..512].iter().map(|octet| u32::from(*octet)).sum();
    old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(found(&gz(&old)), ["it » a/x"]);
    let odd = tar(&[("PK\u{3}\u{4}x", bulk.as_slice()), ("y", evil)]);
    assert_eq!(found(&gz(&odd)), ["it » y"]);
    // What is small enough is shown whole, too.
    assert_eq!(look(limits(), &gz(b"x")).0, ["it", "it"]);
}

#[test]
fn what_cannot_be_seen_whole_is_never_clean() {
    let bulk = bulk();
    assert_eq!(unscanned(limits(), &[bulk.as_slice(), &[0; 2000]].concat()), "it: large");
    let few = Limits { entries_max: 2, ..limits() };
    let three = tar(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    assert_eq!(unscanned(few, &three), "it: it has more than 2 files, the limit");
    // What a tar says of its next entry is not read by whatever length it claims, and is looked at, too.
    let header = |kind, content: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_entry_type(kind);
        header.set_cksum();
        builder.append(&header, content).unwrap();
        gz(&[
            builder.into_inner().unwrap()[..].split_at(512 + content.len().next_multiple_of(512)).0,
            &tar(&[("b", b"EVIL")]),
        ]
        .concat())
    };
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader, tar::EntryType::XGlobalHeader] {
        let error = unscanned(Limits { ratio_max: 5000, ..limits() }, &header(kind, &vec![b'a'; 2 << 20]));
        assert!(error.contains("has 2097152 octets, expected at most 1048576"), "{error}");
    }
    assert_eq!(found(&header(tar::EntryType::GNULongName, b"a/long/name\0")), ["it » a/long/name"]);
    assert_eq!(found(&header(tar::EntryType::XHeader, b"15 path=a/long\n")), ["it » a/long"]);
    assert_eq!(found(&header(tar::EntryType::GNULongName, b"EVIL\0")), ["it » a header", "it » EVIL"]);
    let error = unscanned(limits(), &header(tar::EntryType::XHeader, b"9 size=1\n"));
    assert!(error.contains("a pax header gives a size"), "{error}");
    let error = unscanned(limits(), &header(tar::EntryType::GNUSparse, b"x"));
    assert!(error.contains("a sparse file"), "{error}");
    let deep = (0..8).fold(b"x".to_vec(), |inner, _| gz(&inner));
    assert_eq!(unscanned(limits(), &deep), "it: archives lie deeper in each other than 7");
    let bomb = gz(&vec![0; 40 << 20]);
    let error = unscanned(Limits { file_bytes_max: 1 << 30, ratio_max: 20, ..limits() }, &bomb);
    assert!(error.contains("it unpacks to more than the limits"), "{error}");
    let error = unscanned(limits(), &gz(&bulk)[..500_000]);
    assert!(error.starts_with("it: "), "{error}");
    let mut cut = ar(&[("debian-binary", b"2.0\n"), ("data.tar", b"0123456789")]);
    cut.truncate(cut.len() - 5);
    assert_eq!(unscanned(limits(), &cut), "it: its ar archive is cut off");
    let mut encrypted = zip(&[("secret", b"x")]);
    // The flag of encryption, in the local header and in the directory.
    let directory = encrypted.windows(4).position(|it| it == b"PK\x01\x02").unwrap();
    (encrypted[6], encrypted[directory + 8]) = (encrypted[6] | 1, encrypted[directory + 8] | 1);
    let error = unscanned(limits(), &encrypted);
    assert!(error.starts_with("it » secret: ") && error.to_lowercase().contains("password"), "{error}");
    assert_eq!(unscanned(limits(), b"BZh91AY&SY"), "it: it is packed by bzip2, which is not looked into");
    let before = [b"something".as_slice(), &zip(&[("x", b"y")])].concat();
    let inner = gz(&tar(&[("bulk", &bulk), ("i", &[b"PK\x03\x04".as_slice(), &before].concat())]));
    let error = unscanned(limits(), &inner);
    assert!(
        error.contains("something stands before its zip archive") || error.contains("cannot be read"),
        "{error}"
    );
    // What is damaged in the middle does not hide what is beside it.
    let mut half = zip(&[("a", &bulk), ("b", b"EVIL")]);
    half[1000] ^= 1;
    let (_, remarks) = look(limits(), &half);
    assert!(
        remarks
            .iter()
            .any(|(place, verdict)| place == "it » b" && *verdict == Verdict::Found("Evil".to_owned()))
    );
    assert!(
        remarks.iter().any(|(place, verdict)| place == "it » a" && matches!(verdict, Verdict::Unscanned(_)))
    );
}

#[test]
fn what_is_said_of_it() {
    let mut outcome = Outcome { version: "ClamAV 1".to_owned(), files: 7, ..Outcome::default() };
    assert_eq!(outcome.refusal(false), None);
    assert_eq!(outcome.summary(), "ClamAV 1: 7 files looked at, nothing found");
    outcome.add("image x » a", Verdict::Unscanned("it has more".to_owned()));
    assert_eq!(outcome.refusal(true), None);
    let why = outcome.refusal(false).unwrap();
    assert!(why.contains("unscanned is \"deny\": image x » a: it has more"), "{why}");
    assert!(outcome.summary().ends_with("NOT scanned: image x » a: it has more"));
    (0..30).for_each(|at| outcome.add(&format!("file {at}"), Verdict::Found("Evil".to_owned())));
    let why = outcome.refusal(true).unwrap();
    assert!(
        why.starts_with("file 0: Evil; ") && why.ends_with("; and 10 more was found by ClamAV 1"),
        "{why}"
    );
}
