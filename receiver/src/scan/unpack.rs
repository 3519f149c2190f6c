//! Looks into archives, and shows each file in them to a scanner.
//!
//! What an archive is, its first octets say, not its name. Everything that is unpacked counts against limits of octets,
//! entries and depth; where one is reached, or an archive is damaged or encrypted, the rest of it is *unscanned*, and named.
//! Nothing is written anywhere: files are shown while they are unpacked, and only a zip inside another archive is held in
//! memory, since its directory is at its end.

use std::cell::Cell;
use std::io::{self, BufReader, Chain, Cursor, Read, Seek, SeekFrom};

use diodesync::release::module::open_zip;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tar::Archive;

use super::zstd::{self, Frames};
use super::{Down, Verdict};

/// Octets that tell what an archive is: a tar says so at 257.
const HEAD_BYTES: usize = 512;
/// Octets of memory that unpacking may take for its window.
const WINDOW_BYTES_MAX: u64 = 128 << 20;
/// Octets of a zip inside another archive.
const ZIP_BYTES_MAX: u64 = 64 << 20;
/// Entries of a zip: its directory is held.
const ZIP_DIRECTORY_BYTES_MAX: u64 = 64 << 20;
/// What may be unpacked whatever the size of an archive is.
const UNPACKED_BYTES_FREE: u64 = 16 << 20;
/// Octets of what a tar says of its next entry.
const TAR_HEADER_BYTES_MAX: u64 = 1 << 20;
/// Octets of a header in an `ar` archive.
const AR_HEADER_BYTES: usize = 60;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of one file.
    pub file_bytes_max: u64,
    /// Octets that an artifact's part unpacks to.
    pub unpacked_bytes_max: u64,
    /// The same as a multiple of its own.
    pub ratio_max: u64,
    /// Files in it.
    pub entries_max: u64,
    /// Archives within each other.
    pub depth_max: u32,
}

/// What a file is shown to.
pub type Visit<'a> = &'a mut dyn FnMut(&str, &mut dyn Read) -> io::Result<Verdict>;

/// Who is told what is not clean: the place, and what was found there.
pub type Tell<'a> = &'a mut dyn FnMut(&str, Verdict);

/// Goes through one blob.
pub struct Unpacker<'a> {
    limits: Limits,
    bytes_left: u64,
    entries_left: u64,
    visit: Visit<'a>,
    tell: Tell<'a>,
    /// Of which place it was told last that it is unscanned.
    told: Option<String>,
}

/// Why a part is not looked at any further.
enum Stop {
    /// This part: why.
    Part(String),
    /// All of it: a scanner is down, or it is to end.
    All(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        let is_down = error.get_ref().is_some_and(|inner| inner.is::<Down>());
        if is_down { Self::All(error) } else { Self::Part(error.to_string()) }
    }
}

/// First octets of archives that are shown as they are and not looked into.
const OTHERS: [(&[u8], &str); 4] =
    [(b"BZh", "bzip2"), (b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!\x1a\x07", "RAR"), (b"\x5d\0\0", "lzma")];

/// What the first octets say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Zip,
    Ar,
    Tar,
    Gzip,
    Xz,
    Zstd,
    /// One that is not looked into: by what it is packed.
    Other(&'static str),
    Plain,
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        // First, because a tar begins with a name, which may look like anything.
        if is_tar(head) {
            Self::Tar
        } else if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            Self::Zip
        } else if head.starts_with(b"!<arch>\n") {
            Self::Ar
        } else if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Self::Xz
        } else if zstd::is_frame(head) {
            Self::Zstd
        } else if let Some((_, by)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            Self::Other(by)
        } else {
            Self::Plain
        }
    }
}

/// Whether octets are the header of a tar, of whatever age: its checksum is right (POSIX.1 ustar, the octets of the checksum
/// itself counted as spaces).
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<HEAD_BYTES>() else { return false };
    let octal = |text: &[u8]| {
        let text = std::str::from_utf8(text).ok()?.trim_matches(['\0', ' ']);
        u32::from_str_radix(text, 8).ok()
    };
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, octet)| if (148..156).contains(&at) { 32 } else { u32::from(*octet) })
        .sum();
    header.get(148..156).and_then(octal) == Some(sum) && sum > 8 * 32
}

type Peeked<'r> = Chain<Cursor<Vec<u8>>, &'r mut dyn Read>;

fn peek(content: &mut dyn Read) -> io::Result<(Kind, Peeked<'_>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    (&mut *content).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((Kind::of(&head), Cursor::new(head).chain(content)))
}

impl<'a> Unpacker<'a> {
    /// For a blob of so many octets.
    pub fn new(limits: Limits, bytes: u64, visit: Visit<'a>, tell: Tell<'a>) -> Self {
        let by_ratio = UNPACKED_BYTES_FREE.max(bytes.saturating_mul(limits.ratio_max));
        let bytes_left = limits.unpacked_bytes_max.min(by_ratio);
        Self { limits, bytes_left, entries_left: limits.entries_max, visit, tell, told: None }
    }

    /// Shows a blob as it is, and what is in it.
    ///
    /// # Errors
    /// If a scanner is down; anything else is a remark.
    pub fn look(&mut self, name: &str, content: &mut (impl Read + Seek), bytes: u64) -> io::Result<()> {
        let kind = match peek(content) {
            Ok((kind, _)) => kind,
            Err(error) => {
                self.note(name, Verdict::Unscanned(error.to_string()));
                return Ok(());
            }
        };
        // A scanner knows some archives as a whole; one that is too large for it is known by what is in it.
        if !matches!(kind, Kind::Other(_)) && (kind == Kind::Plain || bytes <= self.limits.file_bytes_max) {
            content.seek(SeekFrom::Start(0))?;
            self.show(name, content)?;
        }
        if kind == Kind::Plain {
            return Ok(());
        }
        content.seek(SeekFrom::Start(0))?;
        let looked = match kind {
            Kind::Zip => self.zip(name, content, 1),
            _ => self.into(name, content, 0),
        };
        self.remark(name, looked)
    }

    fn remark(&mut self, name: &str, looked: Result<(), Stop>) -> io::Result<()> {
        match looked {
            Ok(()) => Ok(()),
            Err(Stop::All(error)) => Err(error),
            Err(Stop::Part(why)) => {
                self.note(name, Verdict::Unscanned(why));
                Ok(())
            }
        }
    }

    /// Tells it once: what breaks off a file breaks off what it is packed in, too.
    fn note(&mut self, name: &str, verdict: Verdict) {
        let is_unscanned = matches!(verdict, Verdict::Unscanned(_));
        if is_unscanned && self.told.as_deref() == Some(name) {
            return;
        }
        self.told = is_unscanned.then(|| name.to_owned());
        (self.tell)(name, verdict);
    }

    /// Shows a file to the scanner.
    fn show(&mut self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let verdict = (self.visit)(name, content);
        match verdict {
            Ok(Verdict::Clean) => {}
            Ok(other) => self.note(name, other),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Down>()) => return Err(error),
            Err(error) => self.note(name, Verdict::Unscanned(error.to_string())),
        }
        Ok(())
    }

    /// Goes into what is an archive, and shows what is none.
    fn into(&mut self, name: &str, content: &mut dyn Read, depth: u32) -> Result<(), Stop> {
        let (kind, mut content) = peek(content)?;
        if kind == Kind::Plain {
            return Ok(self.show(name, &mut content)?);
        }
        if let Kind::Other(by) = kind {
            self.show(name, &mut content)?;
            return Err(Stop::Part(format!("it is packed by {by}, which is not looked into")));
        }
        let depth = depth + 1;
        if depth > self.limits.depth_max {
            return Err(Stop::Part(format!(
                "archives lie deeper in each other than {}",
                self.limits.depth_max
            )));
        }
        match kind {
            Kind::Plain | Kind::Other(_) => Ok(()),
            Kind::Gzip => self.packed(name, MultiGzDecoder::new(BufReader::new(content)), depth),
            Kind::Xz => {
                let memory_kib = (WINDOW_BYTES_MAX >> 10) as u32;
                self.packed(name, XzReader::new_mem_limit(BufReader::new(content), true, memory_kib), depth)
            }
            Kind::Zstd => self.packed(name, Frames::new(content, WINDOW_BYTES_MAX), depth),
            Kind::Tar => self.tar(name, content, depth),
            Kind::Ar => self.ar(name, content, depth),
            Kind::Zip => {
                let mut octets = Vec::new();
                content.take(ZIP_BYTES_MAX + 1).read_to_end(&mut octets)?;
                if octets.len() as u64 > ZIP_BYTES_MAX {
                    return Err(Stop::Part(format!(
                        "a zip in an archive has more than {ZIP_BYTES_MAX} octets"
                    )));
                }
                self.zip(name, &mut Cursor::new(octets), depth)
            }
        }
    }

    /// What unpacks to one file.
    fn packed(&mut self, name: &str, unpacked: impl Read, depth: u32) -> Result<(), Stop> {
        let (mut metered, left) = self.metered(unpacked);
        let result = self.into(name, &mut metered, depth);
        // Its end too: what is damaged there may be what somebody else reads otherwise.
        let result = result.and_then(|()| Ok(io::copy(&mut metered, &mut io::sink()).map(drop)?));
        self.settle(metered.left, left);
        result
    }

    fn metered<R: Read>(&self, inner: R) -> (Metered<R>, u64) {
        (Metered { inner, left: self.bytes_left }, self.bytes_left)
    }

    /// Takes what a reader has used off what is left. What was unpacked within it counts once more: it took as long.
    fn settle(&mut self, left: u64, before: u64) {
        self.bytes_left = self.bytes_left.saturating_sub(before.saturating_sub(left));
    }

    fn entry(&mut self) -> Result<(), Stop> {
        let left = self.entries_left.checked_sub(1);
        self.entries_left = left.ok_or_else(|| {
            Stop::Part(format!("it has more than {} files, the limit", self.limits.entries_max))
        })?;
        Ok(())
    }

    /// POSIX.1 pax, and GNU's. Each header is an entry of its own here: names and the like are not read into memory by
    /// whatever length they claim, and are shown like files.
    fn tar(&mut self, name: &str, content: impl Read, depth: u32) -> Result<(), Stop> {
        let mut archive = Archive::new(content);
        let mut long_name = None;
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            self.entry()?;
            let (kind, bytes) = (entry.header().entry_type(), entry.size());
            if kind.is_gnu_sparse() {
                // Its map may go on in further headers, and what others make of it has holes.
                return Err(Stop::Part(
                    "a sparse file lies in its tar archive, and is not looked into".to_owned(),
                ));
            }
            let is_about_next = kind.is_gnu_longname() || kind.is_pax_local_extensions();
            if is_about_next || kind.is_pax_global_extensions() {
                if bytes > TAR_HEADER_BYTES_MAX {
                    return Err(Stop::Part(format!(
                        "a header in its tar archive has {bytes} octets, expected at most {TAR_HEADER_BYTES_MAX}"
                    )));
                }
                let mut octets = Vec::new();
                entry.read_to_end(&mut octets)?;
                if kind.is_gnu_longname() {
                    long_name = Some(octets.split(|octet| *octet == 0).next().unwrap_or_default().to_vec());
                } else {
                    long_name = pax(&octets)?.filter(|_| is_about_next).or(long_name);
                }
                let looked = self.into(&inside(name, b"a header"), &mut octets.as_slice(), depth);
                self.remark(name, looked)?;
                continue;
            }
            let path = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            // Whatever its type says: one reader takes what another leaves.
            if bytes == 0 {
                continue;
            }
            let place = inside(name, &path);
            let looked = self.into(&place, &mut entry, depth);
            self.remark(&place, looked)?;
        }
        let mut rest = archive.into_inner();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = rest.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            if buffer.iter().take(read).any(|octet| *octet != 0) {
                return Err(Stop::Part("something follows the end of its tar archive".to_owned()));
            }
        }
    }

    /// deb(5), ar(5): headers of 60 octets, each before its member, which is padded to an even length.
    fn ar(&mut self, name: &str, mut content: impl Read, depth: u32) -> Result<(), Stop> {
        io::copy(&mut (&mut content).take(8), &mut io::sink())?;
        loop {
            let mut header = Vec::with_capacity(AR_HEADER_BYTES);
            (&mut content).take(AR_HEADER_BYTES as u64).read_to_end(&mut header)?;
            if header.is_empty() {
                return Ok(());
            }
            let field = |from, to| header.get(from..to).and_then(|field| std::str::from_utf8(field).ok());
            let bytes = field(48, 58).and_then(|text| text.trim_end().parse::<u64>().ok());
            let (Some(member), Some(bytes), Some("`\n")) = (field(0, 16), bytes, field(58, 60)) else {
                return Err(Stop::Part("its ar archive is damaged".to_owned()));
            };
            self.entry()?;
            let place = inside(name, member.trim_end().trim_end_matches('/').as_bytes());
            let mut member = (&mut content).take(bytes);
            let looked = self.into(&place, &mut member, depth);
            io::copy(&mut member, &mut io::sink())?;
            if member.limit() > 0 {
                return Err(Stop::Part("its ar archive is cut off".to_owned()));
            }
            self.remark(&place, looked)?;
            io::copy(&mut (&mut content).take(bytes % 2), &mut io::sink())?;
        }
    }

    fn zip(&mut self, name: &str, content: &mut (impl Read + Seek), depth: u32) -> Result<(), Stop> {
        let budget = Cell::new(ZIP_DIRECTORY_BYTES_MAX);
        let damaged =
            |error: zip::result::ZipError| Stop::Part(format!("its zip archive cannot be read: {error}"));
        let mut archive = open_zip(content, &budget).map_err(damaged)?;
        if archive.offset() != 0 {
            return Err(Stop::Part("something stands before its zip archive".to_owned()));
        }
        if archive.has_duplicate_names() {
            let why =
                "two of its entries have one name, of which one reader takes the first and another the last";
            return Err(Stop::Part(why.to_owned()));
        }
        for at in 0..archive.len() {
            self.entry()?;
            let place = {
                let entry = archive.by_index_raw(at).map_err(damaged)?;
                inside(name, entry.name_raw())
            };
            let looked = match archive.by_index(at) {
                Ok(entry) => {
                    let (mut metered, left) = self.metered(entry);
                    let looked = self.into(&place, &mut metered, depth);
                    self.settle(metered.left, left);
                    looked
                }
                Err(error) => Err(damaged(error)),
            };
            self.remark(&place, looked)?;
        }
        Ok(())
    }
}

/// The name that a pax header gives to the next entry, if it does.
fn pax(octets: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
    let mut path = None;
    for record in tar::PaxExtensions::new(octets) {
        let record = record?;
        match record.key_bytes() {
            b"path" => path = Some(record.value_bytes().to_vec()),
            // Where the next entry ends would be another place to whoever heeds it, and to whoever does not.
            b"size" => return Err(Stop::Part("a pax header gives a size, which is not followed".to_owned())),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Stop::Part(
                    "a sparse file lies in its tar archive, and is not looked into".to_owned(),
                ));
            }
            _ => {}
        }
    }
    Ok(path)
}

/// A place in an archive, for people.
fn inside(name: &str, path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let path: String = path.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{name} » {}", path.trim_start_matches("./"))
}

/// A reader that gives no more than is left.
struct Metered<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(io::Error::other("it unpacks to more than the limits of [scan] allow"));
            }
        }
        Ok(read)
    }
}
