//! Facts: small files that must not be lost and are never guessed.
//!
//! A fact is written to a temporary file, synced, renamed over the old one, and the folder is synced, so that after a
//! crash the old or the new one is there. Its first line carries the BLAKE3 of the rest, so that a garbled one is
//! noticed:
//!
//! ```text
//! diodesync-fact 1 BLAKE3-in-hex LF
//! the content
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::PackError;
use crate::id::Blake3;

const HEAD: &str = "diodesync-fact 1 ";

/// The first line of a fact with this content.
pub fn head(content: &[u8]) -> String {
    format!("{HEAD}{}\n", Blake3::of(content))
}

/// The content of a fact as it stands in its file.
///
/// # Errors
/// What is wrong with it.
pub fn parse(file: &[u8]) -> Result<&[u8], &'static str> {
    let line_end = file.iter().position(|octet| *octet == b'\n');
    let (head, content) =
        line_end.and_then(|at| file.split_at_checked(at + 1)).ok_or("it has no first line")?;
    let digest = std::str::from_utf8(head)
        .ok()
        .and_then(|head| head.strip_prefix(HEAD)?.strip_suffix('\n')?.parse::<Blake3>().ok())
        .ok_or("its first line is not that of a fact")?;
    if Blake3::of(content) != digest {
        return Err("its content does not match the digest in its first line");
    }
    Ok(content)
}

/// Makes a folder's entries durable.
pub fn sync_dir(dir: &Path) -> Result<(), PackError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(PackError::io("sync the folder", dir))
}

/// Writes a file so that after a crash the old or the new content is there, never a part. `mode` is its permission
/// bits.
pub fn write_atomic(path: &Path, mode: u32, parts: &[&[u8]]) -> Result<(), PackError> {
    replace(path, mode, parts, true)?;
    sync_dir(folder_of(path))
}

/// The folder of a file. A bare name has an empty one, which cannot be opened.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, mode: u32, parts: &[&[u8]], is_durable: bool) -> Result<(), PackError> {
    let dir = folder_of(path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    let write = || {
        // A temporary left by a crash may have other permissions.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        if is_durable {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // On a full file system a part of it is in the way of what is smaller.
        let _ = std::fs::remove_file(&temporary);
        PackError::io("write", path)(error)
    })
}

/// Records a fact.
pub fn write(path: &Path, content: &[u8]) -> Result<(), PackError> {
    write_atomic(path, 0o640, &[head(content).as_bytes(), content])
}

/// Keeps content that may be lost in a power failure, and is noticed if it is garbled: nothing is synced.
pub fn write_lazily(path: &Path, content: &[u8]) -> Result<(), PackError> {
    replace(path, 0o640, &[head(content).as_bytes(), content], false)
}

/// Puts octets in the place of others, with no first line; they may be lost in a power failure.
pub fn replace_lazily(path: &Path, mode: u32, octets: &[u8]) -> Result<(), PackError> {
    replace(path, mode, &[octets], false)
}

/// Records a fact that others must not read.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), PackError> {
    write_atomic(path, 0o600, &[head(content).as_bytes(), content])
}

/// Octets of a fact at most: one names every block of a large release.
const BYTES_MAX: u64 = 1 << 30;

/// Reads a file that another process may have put there: it follows no link, waits for no pipe, and ends.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = open_regular(path, OpenOptions::new().read(true))?;
    let bytes = file.metadata()?.len();
    if bytes > BYTES_MAX {
        return Err(std::io::Error::other(format!("it has {bytes} octets, expected {BYTES_MAX} at most")));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// Opens a file that is one, and not a link, a pipe, or a device.
///
/// # Errors
/// Those of opening; [`std::io::ErrorKind::InvalidInput`] if it is something else.
pub fn open_regular(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        let why = "it is no regular file, and nothing else belongs there";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
    }
    Ok(file)
}

/// Reads a fact; `None` if it was never recorded.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PackError> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PackError::io("read", path)(error)),
    };
    let content = parse(&bytes).map_err(|why| PackError::Damaged { path: path.to_owned(), why })?;
    Ok(Some(content.to_vec()))
}

/// Refuses a secret file that others than its owner can read.
///
/// # Errors
/// [`PackError::Io`] naming the mode found and the command that mends it.
pub fn check_private(path: &Path) -> Result<(), PackError> {
    let mode = std::fs::metadata(path).map_err(PackError::io("read", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!(
            "its mode is {mode:04o}, others can read it; expected 0600. Run: chmod 600 {}",
            path.display()
        );
        return Err(PackError::io("use the secret file", path)(std::io::Error::other(why)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_fact_comes_back_and_a_garbled_one_stops() {
        let dir = TempDir::new("fact");
        let path = dir.path().join("session");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one\ntwo").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"one\ntwo");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path), Err(PackError::Damaged { .. })), "octet {at}");
        }
        for len in 0..good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(matches!(read(&path), Err(PackError::Damaged { .. })), "{len} octets");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let dir = TempDir::new("no-file");
        let (fact, link, pipe) = (dir.path().join("fact"), dir.path().join("link"), dir.path().join("pipe"));
        write(&fact, b"x").unwrap();
        std::os::unix::fs::symlink(&fact, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [&link, &pipe, &dir.path().to_owned()] {
            let error = read(path).unwrap_err();
            assert!(matches!(error, PackError::Io { .. }), "{}: {error}", path.display());
        }
        // More than a fact can hold; nothing of it is read.
        std::fs::File::create(link.with_extension("huge")).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert!(read(&link.with_extension("huge")).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = TempDir::new("secret");
        let path = dir.path().join("key");
        write_secret(&path, b"k").unwrap();
        check_private(&path).unwrap();
        write(&path, b"k").unwrap();
        let error = check_private(&path).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }
}
