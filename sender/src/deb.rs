//! A `.deb` (deb(5)): an `ar` archive of `debian-binary`, `control.tar` and `data.tar`, of which the control file is
//! taken out.
//!
//! ```text
//! "!<arch>" LF
//! header [60]: name [16], mtime [12], uid [6], gid [6], mode [8], octets [10], "`" LF     then the member, padded to even
//!     debian-binary              "2.0" LF
//!     control.tar[.gz|.xz|.zst]  ./control among others
//!     data.tar[.…]               what is installed; not unpacked here
//! ```
//!
//! The package comes from outside: what its control archive unpacks to is counted while it unpacks, in octets, memory
//! and entries, and nothing of it is held but the control file.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use diodesync::limits::CONTROL_BYTES_MAX;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_BYTES: u64 = 60;
/// Members of one package. Real ones have three, or four with a signature.
const MEMBERS_MAX: usize = 32;
/// Octets of a control archive as it stands in the package. The largest of Debian's have one MiB.
const PACKED_BYTES_MAX: u64 = 16 << 20;
/// Octets that a control archive unpacks to.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// What a control archive may unpack to whatever its own size is.
const UNPACKED_BYTES_FREE: u64 = 1 << 20;
/// How many octets one packed octet may become beyond that. Digests and scripts, which is what is in it, give 10.
const RATIO_MAX: u64 = 200;
/// Octets of memory that unpacking may take for its window: what `xz -9` takes.
const WINDOW_BYTES_MAX: u64 = 64 << 20;
/// Entries of a control archive. Real ones have about ten.
const ENTRIES_MAX: u64 = 1000;

/// Why a file is not a Debian package that can be carried.
#[derive(Debug, Error)]
pub enum DebError {
    /// It is something else.
    #[error("expected a Debian package (an ar archive that starts with debian-binary), found {found}")]
    NotADeb {
        /// What was found.
        found: String,
    },
    /// It ends too early.
    #[error(
        "expected {expected} octets by the header of {member}, found the file's end after {found}; the package is \
         truncated, download it again"
    )]
    Truncated {
        /// The member.
        member: String,
        /// The octets that the file should have to its end.
        expected: u64,
        /// The octets that it has.
        found: u64,
    },
    /// A newer format.
    #[error("expected a Debian package of format 2.x, found format {found:?}")]
    Format {
        /// What its debian-binary says.
        found: String,
    },
    /// A member where none may be.
    #[error("expected {expected}, found a member {found:?}; build the package anew with dpkg-deb")]
    Member {
        /// What should stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A part that dpkg needs is not there.
    #[error("expected {expected} in the package, found none; it is incomplete, download it again")]
    Missing {
        /// What should be there.
        expected: &'static str,
    },
    /// There is more in it than a package has.
    #[error("{member}: expected at most {max} {what}, found {found}; this is no package, or a tarball bomb")]
    TooMuch {
        /// The member.
        member: String,
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        max: u64,
        /// How much was found, or at least that much.
        found: u64,
    },
    /// The control archive cannot be unpacked.
    #[error("{member}: expected an archive that unpacks, found {source}; download the package again")]
    Unpack {
        /// The member.
        member: String,
        /// What was found.
        source: io::Error,
    },
    /// The package itself cannot be read.
    #[error("cannot read the package back: {0}")]
    Read(#[from] io::Error),
}

/// A member's header.
struct Member {
    name: String,
    bytes: u64,
    /// The first octet of its content.
    start: u64,
}

/// The control file of a package of `bytes` octets, as it stands in the package.
pub fn control_file(mut deb: impl Read + Seek, bytes: u64) -> Result<Vec<u8>, DebError> {
    let mut control = None;
    let mut has_data = false;
    for (at, member) in members(&mut deb, bytes)?.into_iter().enumerate() {
        match member.name.as_str() {
            "debian-binary" if at == 0 => check_format(&mut deb, &member)?,
            _ if at == 0 => return Err(DebError::NotADeb { found: format!("{:?} first", member.name) }),
            // Signatures, and what newer formats may put between.
            name if name.starts_with('_') => {}
            "control.tar" | "control.tar.gz" | "control.tar.xz" | "control.tar.zst" if control.is_none() => {
                control = Some(unpack_control(&mut deb, &member)?);
            }
            "data.tar" | "data.tar.gz" | "data.tar.xz" | "data.tar.zst" | "data.tar.bz2"
            | "data.tar.lzma"
                if control.is_some() && !has_data =>
            {
                has_data = true;
            }
            name => {
                let expected = match (control.is_some(), has_data) {
                    (false, _) => "control.tar, plain or packed with gz, xz or zst",
                    (true, false) => "data.tar after control.tar",
                    (true, true) => "nothing after data.tar",
                };
                return Err(DebError::Member { expected, found: name.to_owned() });
            }
        }
    }
    let control = control.ok_or(DebError::Missing { expected: "control.tar" })?;
    if !has_data {
        return Err(DebError::Missing { expected: "data.tar" });
    }
    Ok(control)
}

/// The headers of all members, which must fill the file.
fn members(deb: &mut (impl Read + Seek), bytes: u64) -> Result<Vec<Member>, DebError> {
    let mut magic = Vec::new();
    deb.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        let found = if magic.is_empty() { "an empty file".to_owned() } else { shown(&magic) };
        return Err(DebError::NotADeb { found });
    }
    let mut members = Vec::new();
    let mut at = MAGIC.len() as u64;
    while at < bytes {
        let truncated = |member: &str, expected| DebError::Truncated {
            member: member.to_owned(),
            expected,
            found: bytes,
        };
        if bytes - at < HEADER_BYTES {
            return Err(truncated("a member", at + HEADER_BYTES));
        }
        deb.seek(SeekFrom::Start(at))?;
        let mut header = [0; HEADER_BYTES as usize];
        deb.read_exact(&mut header)?;
        let member = parse_header(&header, at + HEADER_BYTES)?;
        let end = member.start.checked_add(member.bytes).filter(|end| *end <= bytes);
        let Some(end) = end else {
            return Err(truncated(&member.name, member.start.saturating_add(member.bytes)));
        };
        // The last one may lack its padding.
        at = end + end % 2;
        members.push(member);
        if members.len() > MEMBERS_MAX {
            let (found, max) = (members.len() as u64, MEMBERS_MAX as u64);
            return Err(DebError::TooMuch { member: "the package".to_owned(), what: "members", max, found });
        }
    }
    Ok(members)
}

fn parse_header(header: &[u8; HEADER_BYTES as usize], start: u64) -> Result<Member, DebError> {
    let text = |from: usize, to: usize| {
        let field = header.get(from..to).unwrap_or_default();
        std::str::from_utf8(field).ok().map(|field| field.trim_end_matches(' '))
    };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok());
    match (text(0, 16), text(48, 58).and_then(number).flatten(), text(58, 60)) {
        (Some(name), Some(bytes), Some("`\n")) => {
            let name = name.strip_suffix('/').unwrap_or(name);
            Ok(Member { name: shown(name.as_bytes()), bytes, start })
        }
        _ => {
            Err(DebError::NotADeb { found: format!("no member's header at octet {}", start - HEADER_BYTES) })
        }
    }
}

fn check_format(deb: &mut (impl Read + Seek), member: &Member) -> Result<(), DebError> {
    deb.seek(SeekFrom::Start(member.start))?;
    let mut content = Vec::new();
    deb.take(member.bytes.min(64)).read_to_end(&mut content)?;
    let first = content.split(|octet| *octet == b'\n').next().unwrap_or_default();
    let is_minor = |minor: &[u8]| !minor.is_empty() && minor.iter().all(u8::is_ascii_digit);
    if !first.strip_prefix(b"2.").is_some_and(is_minor) || first.len() == content.len() {
        return Err(DebError::Format { found: shown(first) });
    }
    Ok(())
}

fn unpack_control(deb: &mut (impl Read + Seek), member: &Member) -> Result<Vec<u8>, DebError> {
    let name = &member.name;
    if member.bytes > PACKED_BYTES_MAX {
        let (max, found) = (PACKED_BYTES_MAX, member.bytes);
        return Err(DebError::TooMuch { member: name.clone(), what: "octets", max, found });
    }
    deb.seek(SeekFrom::Start(member.start))?;
    let packed = BufReader::new(deb.take(member.bytes));
    let unpack = |source| DebError::Unpack { member: name.clone(), source };
    match name.rsplit('.').next() {
        Some("gz") => find_control(MultiGzDecoder::new(packed), member),
        Some("xz") => {
            let memory_kib = (WINDOW_BYTES_MAX >> 10) as u32 + 1024;
            find_control(XzReader::new_mem_limit(packed, true, memory_kib), member)
        }
        Some("zst") => {
            let decoder = StreamingDecoder::new_with_max_window_size(packed, WINDOW_BYTES_MAX);
            find_control(decoder.map_err(|error| unpack(io::Error::other(error)))?, member)
        }
        _ => find_control(packed, member),
    }
}

/// The file `./control` of a control archive, which is read to its end.
fn find_control(unpacked: impl Read, member: &Member) -> Result<Vec<u8>, DebError> {
    let max = (UNPACKED_BYTES_FREE.max(member.bytes.saturating_mul(RATIO_MAX))).min(UNPACKED_BYTES_MAX);
    let left = Cell::new(Some(max));
    let metered = Metered { inner: unpacked, left: &left };
    let found = find_control_within(metered, &member.name);
    if left.get().is_none() {
        let what = "octets when unpacked, by its size";
        return Err(DebError::TooMuch { member: member.name.clone(), what, max, found: max + 1 });
    }
    found
}

fn find_control_within(unpacked: impl Read, member: &str) -> Result<Vec<u8>, DebError> {
    let unpack = |source| DebError::Unpack { member: member.to_owned(), source };
    let too_much = |what, max| DebError::TooMuch { member: member.to_owned(), what, max, found: max + 1 };
    let mut archive = tar::Archive::new(unpacked);
    let mut control = None;
    for (at, entry) in archive.entries().map_err(unpack)?.enumerate() {
        let entry = entry.map_err(unpack)?;
        if at as u64 >= ENTRIES_MAX {
            return Err(too_much("entries", ENTRIES_MAX));
        }
        if !matches!(entry.path_bytes().as_ref(), b"control" | b"./control") {
            continue;
        }
        if control.is_some() {
            return Err(DebError::Member { expected: "one control file", found: "a second one".to_owned() });
        }
        if !entry.header().entry_type().is_file() {
            let found = "control that is no regular file".to_owned();
            return Err(DebError::Member { expected: "a control file", found });
        }
        let expected = entry.size();
        if expected > CONTROL_BYTES_MAX {
            return Err(too_much("octets of a control file", CONTROL_BYTES_MAX));
        }
        let mut octets = Vec::new();
        entry.take(CONTROL_BYTES_MAX).read_to_end(&mut octets).map_err(unpack)?;
        if octets.len() as u64 != expected {
            return Err(unpack(io::ErrorKind::UnexpectedEof.into()));
        }
        control = Some(octets);
    }
    // Its padding too: a stream that breaks off there is a broken one.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unpack)?;
    control.ok_or(DebError::Missing { expected: "a control file in control.tar" })
}

/// A reader that gives no more octets than are left, and remembers that there were more.
struct Metered<'a, R> {
    inner: R,
    left: &'a Cell<Option<u64>>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left.set(self.left.get().and_then(|left| left.checked_sub(read as u64)));
        match self.left.get() {
            Some(_) => Ok(read),
            None => Err(io::Error::other("it unpacks to too much")),
        }
    }
}

/// Octets for a message: short and without surprises.
fn shown(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    text.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const CONTROL: &[u8] = b"Package: demo\nVersion: 1\nArchitecture: all\n";

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut out =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, content.len()).into_bytes();
        out.extend_from_slice(content);
        if content.len() % 2 == 1 {
            out.push(b'\n');
        }
        out
    }

    fn deb(members: &[(&str, &[u8])]) -> Vec<u8> {
        let members: Vec<u8> = members.iter().flat_map(|(name, content)| member(name, content)).collect();
        [MAGIC.as_slice(), &members].concat()
    }

    fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gz(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn with_control(name: &str, archive: &[u8]) -> Vec<u8> {
        deb(&[("debian-binary", b"2.0\n"), (name, archive), ("data.tar.xz", b"not looked at")])
    }

    fn read(deb: &[u8]) -> Result<Vec<u8>, DebError> {
        control_file(Cursor::new(deb), deb.len() as u64)
    }

    #[track_caller]
    fn refused(deb: &[u8], reason: &str) {
        assert_eq!(read(deb).unwrap_err().to_string(), reason);
    }

    #[test]
    fn the_control_file_is_found() {
        let archive = tar(&[("md5sums", b"x"), ("control", CONTROL), ("postinst", b"#!/bin/sh\n")]);
        assert_eq!(read(&with_control("control.tar", &archive)).unwrap(), CONTROL);
        assert_eq!(read(&with_control("control.tar.gz/", &gz(&archive))).unwrap(), CONTROL);
        let signed = deb(&[
            ("debian-binary", b"2.1\nand more\n"),
            ("_before", b"x"),
            ("control.tar", &archive),
            ("data.tar", b"x"),
            ("_gpgorigin", b"sig"),
        ]);
        assert_eq!(read(&signed).unwrap(), CONTROL);
        // The padding of the last member may be missing.
        let unpadded = &signed[..signed.len() - 1];
        assert_eq!(read(unpadded).unwrap(), CONTROL);
    }

    #[test]
    fn what_is_no_package_is_said_to_be_none() {
        let no_deb = "expected a Debian package (an ar archive that starts with debian-binary), found";
        refused(b"", &format!("{no_deb} an empty file"));
        refused(b"PK\x03\x04zip!", &format!("{no_deb} PK\u{fffd}\u{fffd}zip!"));
        refused(&deb(&[("hello.o/", b"x")]), &format!("{no_deb} \"hello.o\" first"));
        let mut garbled = with_control("control.tar", b"");
        garbled[8 + 59] = b'x';
        refused(&garbled, &format!("{no_deb} no member's header at octet 8"));
        refused(
            &deb(&[("debian-binary", b"3.0\n")]),
            "expected a Debian package of format 2.x, found format \"3.0\"",
        );
        refused(
            &deb(&[("debian-binary", b"2.")]),
            "expected a Debian package of format 2.x, found format \"2.\"",
        );
    }

    #[test]
    fn a_truncated_package_is_said_to_be_truncated() {
        let archive = tar(&[("control", CONTROL)]);
        let whole = with_control("control.tar", &archive);
        refused(
            &whole[..whole.len() - 5],
            "expected 2253 octets by the header of data.tar.xz, found the file's end after 2249; the package is \
             truncated, download it again",
        );
        for len in 0..whole.len() - 2 {
            assert!(read(&whole[..len]).is_err(), "cut to {len} of {}", whole.len());
        }
        refused(
            &deb(&[("debian-binary", b"2.0\n"), ("control.tar", &archive)]),
            "expected data.tar in the package, found none; it is incomplete, download it again",
        );
        refused(
            &deb(&[("debian-binary", b"2.0\n")]),
            "expected control.tar in the package, found none; it is incomplete, download it again",
        );
    }

    #[test]
    fn members_stand_in_their_order() {
        let archive = tar(&[("control", CONTROL)]);
        let anew = "; build the package anew with dpkg-deb";
        refused(
            &deb(&[("debian-binary", b"2.0\n"), ("data.tar", b"")]),
            &format!(
                "expected control.tar, plain or packed with gz, xz or zst, found a member \"data.tar\"{anew}"
            ),
        );
        refused(
            &with_control("control.tar.bz2", b"x"),
            &format!(
                "expected control.tar, plain or packed with gz, xz or zst, found a member \"control.tar.bz2\"{anew}"
            ),
        );
        let twice =
            [("debian-binary", b"2.0\n".as_slice()), ("control.tar", &archive), ("control.tar", &archive)];
        refused(
            &deb(&twice),
            &format!("expected data.tar after control.tar, found a member \"control.tar\"{anew}"),
        );
        let mut more = with_control("control.tar", &archive);
        more.extend(member("extra", b""));
        refused(&more, &format!("expected nothing after data.tar, found a member \"extra\"{anew}"));
        let many: Vec<_> = std::iter::once(("debian-binary", b"2.0\n".as_slice()))
            .chain(std::iter::repeat_n(("_x", b"".as_slice()), MEMBERS_MAX))
            .collect();
        assert!(matches!(read(&deb(&many)), Err(DebError::TooMuch { what: "members", .. })));
    }

    #[test]
    fn there_is_one_control_file() {
        refused(
            &with_control("control.tar", &tar(&[("md5sums", b"")])),
            "expected a control file in control.tar in the package, found none; it is incomplete, download it again",
        );
        let twice = tar(&[("control", CONTROL), ("./control", b"Package: other\n")]);
        assert!(matches!(read(&with_control("control.tar", &twice)), Err(DebError::Member { .. })));
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_link(&mut link, "control", "/etc/passwd").unwrap();
        let link = builder.into_inner().unwrap();
        assert!(matches!(read(&with_control("control.tar", &link)), Err(DebError::Member { .. })));
    }

    #[test]
    fn bombs_are_cut_off_while_they_unpack() {
        let zeros = vec![0; 3 << 20];
        let bomb = gz(&tar(&[("control", CONTROL), ("zeros", &zeros)]));
        refused(
            &with_control("control.tar.gz", &bomb),
            "control.tar.gz: expected at most 1048576 octets when unpacked, by its size, found 1048577; this is no \
             package, or a tarball bomb",
        );
        // As large, and no bomb.
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(3 << 20)
        .collect();
        let honest = gz(&tar(&[("noise", &noise), ("control", CONTROL)]));
        assert_eq!(read(&with_control("control.tar.gz", &honest)).unwrap(), CONTROL);
        let large = vec![b'x'; CONTROL_BYTES_MAX as usize + 1];
        refused(
            &with_control("control.tar", &tar(&[("control", &large)])),
            "control.tar: expected at most 1048576 octets of a control file, found 1048577; this is no package, or a \
             tarball bomb",
        );
        let names: Vec<String> = (0..=ENTRIES_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        refused(
            &with_control("control.tar", &tar(&many)),
            "control.tar: expected at most 1000 entries, found 1001; this is no package, or a tarball bomb",
        );
        let long = vec![0; PACKED_BYTES_MAX as usize + 1];
        assert!(matches!(read(&with_control("control.tar", &long)), Err(DebError::TooMuch { .. })));
    }

    #[test]
    fn a_control_archive_that_does_not_unpack_is_named() {
        let archive = tar(&[("control", CONTROL)]);
        let packed = gz(&archive);
        for name in ["control.tar.gz", "control.tar.xz", "control.tar.zst", "control.tar"] {
            for content in [b"no archive at all".as_slice(), &packed[..packed.len() / 2], b""] {
                let error = read(&with_control(name, content)).unwrap_err();
                let is_named = matches!(&error, DebError::Unpack { member, .. } if member == name);
                assert!(is_named || matches!(error, DebError::Missing { .. }), "{name}: {error}");
            }
        }
        // Every octet of the packed archive counts: its end carries a checksum.
        for at in 10..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 1;
            let found = read(&with_control("control.tar.gz", &changed));
            assert!(found.is_err() || found.unwrap() == CONTROL, "octet {at}");
        }
    }
}
