//! The files of the log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::audit::{Actor, AuditPublic, ENTRY_BYTES_MAX, Entry, Event, Head, Line, Side, Told};
use diodesync::id::Sha256;
use diodesync::pack::{PackError, fact};

/// Octets of a file after which a new one is begun.
const FILE_BYTES: u64 = 8 << 20;

/// The files of a log, the oldest first, with the number of the first entry of each.
pub fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, PackError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(PackError::io("list", folder))? {
        let path = entry.map_err(PackError::io("list", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.and_then(|name| name.strip_suffix(".jsonl")?.parse().ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// Where the log ends.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: File,
    bytes: u64,
    inode: u64,
    head: Head,
}

/// Appends to a log that other processes may append to.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    side: Side,
    key: AuditPublic,
    tail: Option<Tail>,
    /// Octets of an end that was no entry and was taken out.
    torn: u64,
    /// Octets of a file after which a new one is begun.
    pub(super) file_bytes: u64,
}

/// Held while the log is looked at and written.
struct Lock(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl Log {
    /// In this folder; nothing is read yet.
    pub fn new(folder: PathBuf, side: Side, key: AuditPublic) -> Self {
        Self { folder, side, key, tail: None, torn: 0, file_bytes: FILE_BYTES }
    }

    fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.folder.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
        let file = file.map_err(PackError::io("open", &path))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| PackError::io("lock", &path)(errno.into()))?;
        Ok(Lock(file))
    }

    /// The last entry.
    pub fn head(&mut self) -> anyhow::Result<Head> {
        let _lock = self.lock()?;
        self.look()?;
        Ok(self.tail.as_ref().map_or(Head::NONE, |tail| tail.head))
    }

    /// Makes entries durable; the last of them. All of them or none.
    pub fn append(&mut self, told: &[Told]) -> anyhow::Result<Head> {
        let _lock = self.lock()?;
        self.look()?;
        let mut head = self.tail.as_ref().map_or(Head::NONE, |tail| tail.head);
        let time_ms = told.first().map_or(0, |told| told.time_ms);
        let mut lines = Vec::new();
        let mut put = |by: &Actor, event: Event, time_ms: u64| {
            let line = Entry { seq: head.seq + 1, time_ms, by: by.clone(), event, prev: head.hash }.encode();
            head = Head { seq: head.seq + 1, hash: Sha256::of(&line) };
            lines.extend_from_slice(&line);
            lines.push(b'\n');
        };
        let log = Actor::daemon("audit");
        if self.tail.as_ref().is_none_or(|tail| tail.head == Head::NONE) && !told.is_empty() {
            put(&log, Event::Begun { side: self.side, version: 1, key: self.key.to_string() }, time_ms);
        }
        if self.torn > 0 && !told.is_empty() {
            put(&log, Event::Mended { octets: self.torn }, time_ms);
        }
        told.iter().for_each(|told| put(&told.by, told.event.clone(), told.time_ms));
        if lines.is_empty() {
            return Ok(head);
        }
        let tail = self.room()?;
        if let Err(error) = tail.write(&lines) {
            // A part of an entry would be in the way of the next one.
            let _ = tail.file.set_len(tail.bytes);
            let path = tail.path.clone();
            self.tail = None;
            return Err(PackError::io("write", path)(error).into());
        }
        tail.head = head;
        self.torn = 0;
        Ok(head)
    }

    /// Finds the end, if it is not where it was.
    fn look(&mut self) -> anyhow::Result<()> {
        let files = files(&self.folder)?;
        let Some((first, path)) = files.last() else {
            self.tail = None;
            return Ok(());
        };
        if let Some(tail) = &self.tail
            && tail.path == *path
        {
            let found = std::fs::metadata(path).map_err(PackError::io("read", path))?;
            if (found.ino(), found.len()) == (tail.inode, tail.bytes) {
                return Ok(());
            }
        }
        self.tail = None;
        let file = OpenOptions::new().read(true).append(true).open(path);
        let file = file.map_err(PackError::io("open", path))?;
        let bytes = std::fs::read(path).map_err(PackError::io("read", path))?;
        let end = bytes.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
        let (whole, torn) = bytes.split_at(end);
        if !torn.is_empty() {
            // Nothing that it tells of was done.
            tracing::warn!(path = %path.display(), octets = torn.len(), "the end of the audit log is no entry and is taken out");
            file.set_len(end as u64).map_err(PackError::io("cut", path))?;
            self.torn += torn.len() as u64;
        }
        let before = files.len().checked_sub(2).and_then(|at| files.get(at));
        let head = match last(whole, *first) {
            Some(head) => head,
            None => match before {
                Some((first, path)) => {
                    let bytes = std::fs::read(path).map_err(PackError::io("read", path))?;
                    last(&bytes, *first).with_context(|| format!("{} has no entry", path.display()))?
                }
                None => Head::NONE,
            },
        };
        let inode = file.metadata().map_err(PackError::io("read", path))?.ino();
        self.tail = Some(Tail { path: path.clone(), file, bytes: end as u64, inode, head });
        Ok(())
    }

    /// The file for the next entry; a new one, if the last is long.
    fn room(&mut self) -> anyhow::Result<&mut Tail> {
        let head = self.tail.as_ref().map_or(Head::NONE, |tail| tail.head);
        let file_bytes = self.file_bytes;
        if self.tail.as_ref().is_none_or(|tail| tail.bytes >= file_bytes) {
            let path = self.folder.join(file_name(head.seq + 1));
            let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o640).open(&path);
            let file = file.map_err(PackError::io("create", &path))?;
            fact::sync_dir(&self.folder)?;
            let inode = file.metadata().map_err(PackError::io("read", &path))?.ino();
            self.tail = Some(Tail { path, file, bytes: 0, inode, head });
        }
        self.tail.as_mut().context("the log has no file")
    }
}

impl Tail {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

/// The last of some lines, of which the first has the number `first`. One that is no entry has its number by its place.
fn last(lines: &[u8], first: u64) -> Option<Head> {
    let lines = lines.strip_suffix(b"\n")?;
    let line = lines.rsplit(|octet| *octet == b'\n').next()?;
    let place = || first + lines.iter().filter(|octet| **octet == b'\n').count() as u64;
    let seq = Line::parse(line).map_or_else(|_| place(), |line| line.seq);
    Some(Head { seq, hash: Sha256::of(line) })
}

/// Goes through the lines of a file, without their LF; what is after the last LF.
pub fn each_line<E: From<PackError>>(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let file =
        fact::open_regular(path, OpenOptions::new().read(true)).map_err(PackError::io("open", path))?;
    let (mut rest, mut at) = (Vec::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read_at(&mut buffer, at).map_err(PackError::io("read", path))?;
        if read == 0 {
            return Ok(rest);
        }
        at += read as u64;
        let mut pieces = buffer.get(..read).unwrap_or_default().split(|octet| *octet == b'\n');
        rest.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            take(&rest)?;
            rest.clear();
            rest.extend_from_slice(piece);
        }
        if rest.len() > ENTRY_BYTES_MAX {
            // It is no entry; whoever takes it says so.
            take(&rest)?;
            rest.clear();
        }
    }
}
