//! A tar file, compressed by gzip.
//!
//! Entries are read raw, because the crate reads the long name of an entry into memory whatever its length.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType, PaxExtensions};

use super::{Found, Is, ModuleError};
use crate::limits::MODULE_ENTRIES_MAX;

/// Octets of what is said of the next entry: a long name, a link's target, times.
const EXTENSION_BYTES_MAX: u64 = 16 * 1024;

/// What was said of the next entry.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

/// Looks into an archive.
pub fn look(archive: impl Read, found: &mut Found) -> Result<(), ModuleError> {
    let archive = BufReader::with_capacity(1 << 16, archive);
    // Headers and padding count too.
    let bytes_max = found.left.saturating_add(MODULE_ENTRIES_MAX * (2 * 512 + EXTENSION_BYTES_MAX));
    let mut archive = Archive::new(MultiGzDecoder::new(archive).take(bytes_max));
    let mut said = Said::default();
    for entry in archive.entries().map_err(ModuleError::Tar)?.raw(true) {
        let mut entry = entry.map_err(ModuleError::Tar)?;
        found.count()?;
        let name = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        let refuse = |why| Err(ModuleError::Entry { name: String::from_utf8_lossy(&name).into_owned(), why });
        match kind {
            EntryType::GNULongName => said.path = Some(text_of(&mut entry)?),
            EntryType::GNULongLink => said.target = Some(text_of(&mut entry)?),
            EntryType::XHeader => {
                let records = octets_of(&mut entry)?;
                for record in PaxExtensions::new(&records) {
                    let record = record.map_err(ModuleError::Tar)?;
                    match record.key_bytes() {
                        b"path" => said.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => said.target = Some(record.value_bytes().to_vec()),
                        b"size" => return refuse("a file of more than 8 GiB"),
                        key if key.starts_with(b"GNU.sparse.") => return refuse("a sparse file"),
                        _ => {}
                    }
                }
            }
            // What git archive writes at the beginning.
            EntryType::XGlobalHeader => {
                octets_of(&mut entry)?;
            }
            _ => {
                let Said { path, target } = std::mem::take(&mut said);
                let name = path.unwrap_or_else(|| name.clone());
                match kind {
                    EntryType::Regular | EntryType::Continuous => found.add(&name, Is::File)?,
                    EntryType::Directory => found.add(&name, Is::Folder)?,
                    EntryType::Symlink => {
                        let target = target.or_else(|| Some(entry.link_name_bytes()?.into_owned()));
                        found.add(&name, Is::Link(&target.unwrap_or_default()))?;
                    }
                    EntryType::Link => return refuse("a hard link, of which terraform makes an empty file"),
                    _ => return refuse("a device, a pipe, or what only some programs unpack"),
                }
                found.spend(entry.size())?;
                io::copy(&mut entry, &mut io::sink()).map_err(ModuleError::Tar)?;
            }
        }
    }
    // To the end, for the checksum of what was compressed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ModuleError::Tar)?;
    Ok(())
}

fn octets_of(entry: &mut impl Read) -> Result<Vec<u8>, ModuleError> {
    let mut octets = Vec::new();
    entry.take(EXTENSION_BYTES_MAX + 1).read_to_end(&mut octets).map_err(ModuleError::Tar)?;
    let (what, found, max) =
        ("octets of what is said of one entry", octets.len() as u64, EXTENSION_BYTES_MAX);
    if found > max { Err(ModuleError::TooMuch { what, found, max }) } else { Ok(octets) }
}

/// Up to the first NUL.
fn text_of(entry: &mut impl Read) -> Result<Vec<u8>, ModuleError> {
    let mut octets = octets_of(entry)?;
    octets.truncate(octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len()));
    Ok(octets)
}
