//! Archives, good ones and those that lie.

use std::io::{Cursor, Write};

use tar::EntryType::{Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink};
use tar::{Builder, EntryType, Header};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;

/// An entry with a name as only a hostile one has it; `content` is the target of a link.
fn append(builder: &mut Builder<impl Write>, name: &str, kind: EntryType, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    let is_link = matches!(kind, Symlink | Link);
    if is_link {
        header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
    }
    let content = if is_link { b"".as_slice() } else { content };
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn packed(fill: impl FnOnce(&mut Builder<flate2::write::GzEncoder<Vec<u8>>>)) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = Builder::new(encoder);
    fill(&mut builder);
    builder.into_inner().unwrap().finish().unwrap()
}

fn tar_gz(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    packed(|builder| entries.iter().for_each(|(name, kind, content)| append(builder, name, *kind, content)))
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn judge_as(format: ModuleFormat, archive: &[u8], folder: &str) -> Result<(), String> {
    let checked = check(Cursor::new(archive), archive.len() as u64, format, &folder.parse().unwrap());
    checked.map(|_| ()).map_err(|error| error.to_string())
}

fn judge(archive: &[u8], folder: &str) -> Result<(), String> {
    judge_as(ModuleFormat::TarGz, archive, folder)
}

fn refused(verdict: Result<(), String>, why: &str) {
    let error = verdict.expect_err(why);
    assert!(error.contains(why), "{why}: {error}");
}

#[test]
fn a_module_is_where_it_is_said_to_be() {
    let good = tar_gz(&[("./", Directory, b""), ("./main.tf", Regular, b"x"), ("./sub/a.txt", Regular, b"")]);
    assert_eq!(judge(&good, ""), Ok(()));
    refused(judge(&good, "sub"), "in the folder \"sub\"");
    refused(judge(&good, "none"), "in the folder \"none\"");
    let of_git = tar_gz(&[("repo-1a2b/", Directory, b""), ("repo-1a2b/modules/a/x.tf.json", Regular, b"{}")]);
    assert_eq!(judge(&of_git, "*/modules/a"), Ok(()));
    refused(judge(&of_git, "*"), "in the folder \"repo-1a2b\"");
    refused(judge(&of_git, "*/modules/b"), "and 0 fit");
    refused(judge(&of_git, "*/mod"), "and 0 fit");
    refused(judge(&of_git, ""), "in the folder \"\"");
    let found = check(Cursor::new(&of_git), 1, ModuleFormat::TarGz, &"*/modules/a".parse().unwrap()).unwrap();
    assert_eq!(found.as_str(), "repo-1a2b/modules/a");
    for (text, is_pattern) in
        [("*", true), ("*/a", true), ("", true), ("a/b", true), ("*a", false), ("*/", false)]
    {
        let parsed = text.parse::<FolderPattern>();
        assert_eq!(parsed.map(|it| it.to_string()).ok().as_deref(), is_pattern.then_some(text), "{text}");
    }
    // Files at the top count, and hidden ones too.
    let two = tar_gz(&[("a/main.tf", Regular, b""), (".b", Regular, b"")]);
    refused(judge(&two, "*"), "and 2 fit");
    assert_eq!(judge(&tar_gz(&[("a/s/main.tf", Regular, b""), ("b/main.tf", Regular, b"")]), "*/s"), Ok(()));
}

#[test]
fn paths_that_leave_the_archive() {
    for bad in
        ["../main.tf", "a/../../main.tf", "/etc/main.tf", "//main.tf", "a\\..\\main.tf", "..", "a\n.tf"]
    {
        refused(judge(&tar_gz(&[(bad, Regular, b"")]), ""), "names that stay in the archive");
    }
    refused(judge(&tar_gz(&[("/", Directory, b"")]), ""), "names that stay in the archive");
    refused(judge(&tar_gz(&[("a/", Regular, b"")]), ""), "ends with a slash");
    for name in ["../main.tf", "/main.tf"] {
        refused(judge_as(ModuleFormat::Zip, &zip(&[(name, b"")]), ""), "names that stay in the archive");
    }
    // The long name is the one that counts, whichever way it is said.
    let long = format!("{}/../../../main.tf", "a".repeat(120));
    let by_pax = packed(|builder| {
        let record = |key: &str, value: &str| {
            let rest = format!(" {key}={value}\n");
            let bytes = (rest.len() + 1..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
            format!("{bytes}{rest}")
        };
        append(builder, "x", EntryType::XHeader, record("path", "../evil.tf").as_bytes());
        append(builder, "main.tf", Regular, b"");
    });
    let by_gnu = packed(|builder| {
        append(builder, "././@LongLink", EntryType::GNULongName, format!("{long}\0").as_bytes());
        append(builder, "main.tf", Regular, b"");
    });
    for bad in [by_pax, by_gnu] {
        refused(judge(&bad, ""), "names that stay in the archive");
    }
}

#[test]
fn links_that_leave_the_archive() {
    let with = |more: &[(&str, EntryType, &[u8])]| {
        judge(&tar_gz(&[&[("main.tf", Regular, b"".as_slice())], more].concat()), "")
    };
    for (link, target) in
        [("l", "main.tf"), ("a/l", "../main.tf"), ("a/b/l", ".././../main.tf"), ("l", "./x/y")]
    {
        assert_eq!(with(&[(link, Symlink, target.as_bytes())]), Ok(()), "{link} -> {target}");
    }
    for (link, target) in [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("a/l", "../../x"),
        ("a/l", "x/../../../y"),
        ("l", "a/../main.tf"),
        ("l", ""),
        ("l", "a\\b"),
    ] {
        refused(with(&[(link, Symlink, target.as_bytes())]), "a link that leaves it");
    }
    // Through a link, what stays would not.
    refused(with(&[("d", Symlink, b"."), ("d/l", Symlink, b"../x")]), "below a link");
    refused(with(&[("d/x", Regular, b""), ("d", Symlink, b"e")]), "below a link");
    refused(with(&[("l", Symlink, b"e"), ("l", Regular, b"")]), "has the name of one");
    refused(with(&[("l", Link, b"main.tf")]), "a hard link");
    for special in [Fifo, Char, GNUSparse] {
        refused(with(&[("s", special, b"")]), "a device, a pipe");
    }
    let of_zip = |target: &str| {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file("main.tf", SimpleFileOptions::default()).unwrap();
        writer.add_symlink("l", target, SimpleFileOptions::default()).unwrap();
        judge_as(ModuleFormat::Zip, &writer.finish().unwrap().into_inner(), "")
    };
    assert_eq!(of_zip("main.tf"), Ok(()));
    refused(of_zip("/etc/passwd"), "a link that leaves it");
}

#[test]
fn what_is_too_much() {
    let folder = FolderPattern::default();
    let content = vec![0; 600_000];
    let bomb = tar_gz(&[("main.tf", Regular, &content), ("b", Regular, &content)]);
    let zip_bomb = zip(&[("main.tf", &content), ("b", &content)]);
    for (format, bomb) in [(ModuleFormat::TarGz, bomb), (ModuleFormat::Zip, zip_bomb)] {
        assert!(bomb.len() < 20_000);
        assert!(check_within(Cursor::new(&bomb), format, &folder, 1_200_000).is_ok());
        let error = check_within(Cursor::new(&bomb), format, &folder, 1_199_999).unwrap_err().to_string();
        assert!(error.contains("1199999 octets when unpacked"), "{error}");
    }
    let names: Vec<String> = (0..=MODULE_ENTRIES_MAX).map(|n| format!("{n}.tf")).collect();
    let many = packed(|builder| names.iter().for_each(|name| append(builder, name, Regular, b"")));
    refused(judge(&many, ""), "entries");
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    refused(judge_as(ModuleFormat::Zip, &zip(&many), ""), "entries");
    let long_name = packed(|builder| {
        append(builder, "././@LongLink", EntryType::GNULongName, &vec![b'a'; 100_000]);
    });
    refused(judge(&long_name, ""), "octets of what is said of one entry");
    let too_large = check(Cursor::new(b""), MODULE_BYTES_MAX + 1, ModuleFormat::Zip, &folder);
    assert!(matches!(too_large, Err(ModuleError::TooMuch { what: "octets", .. })));
}

#[test]
fn what_is_damaged_or_no_archive() {
    let good = tar_gz(&[("main.tf", Regular, b"x")]);
    assert_eq!(judge(&good, ""), Ok(()));
    for cut in [good.len() - 1, good.len() / 2, 5] {
        refused(judge(&good[..cut], ""), "damaged, cut or none");
    }
    let mut flipped = good.clone();
    // The checksum of what was compressed.
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    refused(judge(&flipped, ""), "damaged, cut or none");
    refused(judge(b"no archive", ""), "damaged, cut or none");
    refused(judge_as(ModuleFormat::Zip, &good, ""), "expected a zip file");
    let packed_zip = zip(&[("main.tf", b"x")]);
    assert_eq!(judge_as(ModuleFormat::Zip, &packed_zip, ""), Ok(()));
    refused(judge(&packed_zip, ""), "damaged, cut or none");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000 {
        let (format, mut octets) = match round % 2 {
            0 => (ModuleFormat::TarGz, good.clone()),
            _ => (ModuleFormat::Zip, packed_zip.clone()),
        };
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = (state >> 16) as usize % octets.len();
        octets[at] = state as u8;
        let _ = judge_as(format, &octets, "");
    }
}
