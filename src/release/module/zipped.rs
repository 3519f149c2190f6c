//! A zip, and how its directory is read within a budget.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use zip::CompressionMethod;
use zip::ZipArchive;
use zip::result::ZipError;

use super::{Found, Is, ModuleError};
use crate::limits::{MODULE_ENTRIES_MAX, PATH_BYTES_MAX};

/// Octets read to find and hold a zip's directory.
const DIRECTORY_BYTES_MAX: u64 = 32 << 20;

/// A reader that fails when more is read than the budget allows.
#[derive(Debug)]
pub struct Metered<'a, R> {
    inner: BufReader<R>,
    budget: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.budget.get().checked_sub(read as u64);
        self.budget.set(left.ok_or_else(|| io::Error::other("the zip's directory is larger than allowed"))?);
        Ok(read)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Reads the directory of a zip within the budget, in octets, which is lifted for the content.
///
/// The zip crate holds the whole directory, which can be as large as the file, so counting entries afterwards would
/// be too late; its reader that counts first is not yet stable.
pub fn open_zip<R: Read + Seek>(zip: R, budget: &Cell<u64>) -> Result<ZipArchive<Metered<'_, R>>, ZipError> {
    let archive = ZipArchive::new(Metered { inner: BufReader::new(zip), budget })?;
    budget.set(u64::MAX);
    Ok(archive)
}

/// Looks into an archive.
pub fn look(archive: impl Read + Seek, found: &mut Found) -> Result<(), ModuleError> {
    let budget = Cell::new(DIRECTORY_BYTES_MAX);
    let mut archive = open_zip(archive, &budget).map_err(ModuleError::Zip)?;
    let entries = archive.len() as u64;
    if entries > MODULE_ENTRIES_MAX {
        return Err(ModuleError::TooMuch { what: "entries", found: entries, max: MODULE_ENTRIES_MAX });
    }
    if archive.has_duplicate_names() {
        let why = "two entries of one name, of which one reader takes the first and another the last";
        return Err(ModuleError::Entry { name: String::new(), why });
    }
    for place in 0..archive.len() {
        let entry = archive.by_index_data(place).map_err(ModuleError::Zip)?;
        let name = entry.name_raw().to_vec();
        let refuse = |why| Err(ModuleError::Entry { name: String::from_utf8_lossy(&name).into_owned(), why });
        if entry.encrypted() {
            return refuse("encrypted content");
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return refuse("a compression that terraform does not read (only store and deflate)");
        }
        let is_link = entry.is_symlink();
        let is_folder = !is_link && name.ends_with(b"/");
        let mut content = archive.by_index(place).map_err(ModuleError::Zip)?;
        if is_link {
            let mut target = Vec::new();
            let read = (&mut content).take(PATH_BYTES_MAX as u64 + 1).read_to_end(&mut target);
            read.map_err(|error| ModuleError::Zip(error.into()))?;
            found.add(&name, Is::Link(&target))?;
        } else {
            found.add(&name, if is_folder { Is::Folder } else { Is::File })?;
        }
        drain(&mut content, found)?;
    }
    Ok(())
}

/// Counted as it comes, since the sizes that a zip states are whatever its maker wrote.
fn drain(content: &mut impl Read, found: &mut Found) -> Result<(), ModuleError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match content.read(&mut buffer).map_err(|error| ModuleError::Zip(error.into()))? {
            0 => return Ok(()),
            read => found.spend(read as u64)?,
        }
    }
}
