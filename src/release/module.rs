//! The archive of a Terraform module, looked into before it is handed on.
//!
//! It goes over the link as its upstream packs it, and those who use the module unpack it, each with the care that the
//! installer at hand takes. So both sides look into it: paths that stay in it, links that do not lead out of it, so many
//! entries and octets, and a module in the folder that is named.
//!
//! Terraform (1.11) makes empty files of links, follows none, and reads no `*` in what a registry answers, though sources of
//! other kinds may have it. So a folder that is meant by `*` is found here, once, and served by its name.

mod tarred;
mod zipped;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Seek};
use std::str::FromStr;

use thiserror::Error;
use zip::result::ZipError;

use super::name::{FilePath, ModuleFolder, ModuleFormat, NameError};
use crate::limits::{MODULE_BYTES_MAX, MODULE_ENTRIES_MAX, MODULE_UNPACKED_BYTES_MAX, PATH_BYTES_MAX};

pub use zipped::{Metered, open_zip};

/// Ends of file names by which Terraform and OpenTofu know what belongs to a module.
const MODULE_ENDS: [&str; 4] = [".tf", ".tf.json", ".tofu", ".tofu.json"];

/// Why an archive is not a module's.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// It does not unpack as a tar file.
    #[error("expected a tar file that is compressed by gzip, found one that is damaged, cut or none ({0})")]
    Tar(io::Error),
    /// It does not unpack as a zip.
    #[error("expected a zip file that can be read, found one that is damaged, cut or none ({0})")]
    Zip(ZipError),
    /// There is more of something than a module has.
    #[error("expected the archive of a module with at most {max} {what}, found {found} or more")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: u64,
        /// How much is allowed.
        max: u64,
    },
    /// A name that is unsafe.
    #[error("expected names that stay in the archive; {0}")]
    Name(NameError),
    /// An entry that has no place in a module.
    #[error(
        "expected files, folders, and links that stay in the archive, found {why} under the name {name:?}"
    )]
    Entry {
        /// The entry.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no single folder where one is meant.
    #[error(
        "the folder {folder:?} of the archive begins with a *, which means the only name at its top, and {found} fit"
    )]
    Top {
        /// The folder that is named.
        folder: String,
        /// How many there are.
        found: usize,
    },
    /// There is no module.
    #[error(
        "expected a .tf file in the folder {folder:?} of the archive, found none; name the folder in which the module is"
    )]
    NoModule {
        /// The folder, empty for the top.
        folder: String,
    },
}

/// A folder as upstreams name it: with `*` as its first component, below the one folder at the top of the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderPattern {
    is_below_top: bool,
    folder: ModuleFolder,
}

impl From<ModuleFolder> for FolderPattern {
    fn from(folder: ModuleFolder) -> Self {
        Self { is_below_top: false, folder }
    }
}

impl FromStr for FolderPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let below = match text.strip_prefix('*') {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('/').filter(|rest| !rest.is_empty()),
            None => None,
        };
        Ok(Self { is_below_top: below.is_some(), folder: below.unwrap_or(text).parse()? })
    }
}

impl fmt::Display for FolderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_below_top, self.folder.as_str()) {
            (false, folder) => f.write_str(folder),
            (true, "") => f.write_str("*"),
            (true, folder) => write!(f, "*/{folder}"),
        }
    }
}

/// Looks into an archive, and says in which folder the module is. It is read through a buffer.
///
/// # Errors
/// What makes it none that clients should get.
pub fn check(
    archive: impl Read + Seek,
    bytes: u64,
    format: ModuleFormat,
    folder: &FolderPattern,
) -> Result<ModuleFolder, ModuleError> {
    if bytes > MODULE_BYTES_MAX {
        return Err(ModuleError::TooMuch { what: "octets", found: bytes, max: MODULE_BYTES_MAX });
    }
    check_within(archive, format, folder, MODULE_UNPACKED_BYTES_MAX)
}

fn check_within(
    archive: impl Read + Seek,
    format: ModuleFormat,
    folder: &FolderPattern,
    unpacked_bytes_max: u64,
) -> Result<ModuleFolder, ModuleError> {
    let mut found = Found { left: unpacked_bytes_max, unpacked_bytes_max, ..Found::default() };
    match format {
        ModuleFormat::TarGz => tarred::look(archive, &mut found)?,
        ModuleFormat::Zip => zipped::look(archive, &mut found)?,
    }
    found.check_links()?;
    found.check_module(folder)
}

/// What an entry is.
enum Is<'a> {
    File,
    Folder,
    /// A symbolic link to this.
    Link(&'a [u8]),
}

/// What was found in an archive.
#[derive(Default)]
struct Found {
    files: BTreeSet<FilePath>,
    folders: BTreeSet<FilePath>,
    links: BTreeSet<FilePath>,
    entries: u64,
    /// Octets that may still come.
    left: u64,
    unpacked_bytes_max: u64,
}

impl Found {
    /// Counts an entry, of whatever kind.
    fn count(&mut self) -> Result<(), ModuleError> {
        self.entries += 1;
        let (what, found, max) = ("entries", self.entries, MODULE_ENTRIES_MAX);
        if found > max { Err(ModuleError::TooMuch { what, found, max }) } else { Ok(()) }
    }

    /// Counts octets of content, before they are read or as they come.
    fn spend(&mut self, bytes: u64) -> Result<(), ModuleError> {
        let (what, max) = ("octets when unpacked", self.unpacked_bytes_max);
        let left = self.left.checked_sub(bytes);
        self.left =
            left.ok_or(ModuleError::TooMuch { what, found: (max - self.left).saturating_add(bytes), max })?;
        Ok(())
    }

    /// Takes an entry by the name that it has in the archive.
    fn add(&mut self, name: &[u8], is: Is<'_>) -> Result<(), ModuleError> {
        let shown = || String::from_utf8_lossy(name).chars().take(200).collect::<String>();
        let refuse = |why| Err(ModuleError::Entry { name: shown(), why });
        let Ok(text) = std::str::from_utf8(name) else { return refuse("a name that is not UTF-8") };
        let mut plain = text.trim_end_matches('/');
        while let Some(rest) = plain.strip_prefix("./") {
            plain = rest;
        }
        let is_folder = matches!(is, Is::Folder);
        // A folder itself, as tar writes it.
        if is_folder && matches!(plain, "" | ".") && !text.starts_with('/') {
            return Ok(());
        }
        let path: FilePath = plain.parse().map_err(ModuleError::Name)?;
        match is {
            Is::File if text.ends_with('/') => return refuse("a file whose name ends with a slash"),
            Is::File => self.files.insert(path),
            Is::Folder => self.folders.insert(path),
            Is::Link(target) if stays(&path, target) => self.links.insert(path),
            Is::Link(_) => return refuse("a link that leaves it, or whose target is none"),
        };
        Ok(())
    }

    /// Nothing lies below a link or beside one of the same name, so that what a link seems to mean is what it means.
    fn check_links(&self) -> Result<(), ModuleError> {
        if self.links.is_empty() {
            return Ok(());
        }
        for path in self.files.iter().chain(&self.folders).chain(&self.links) {
            let is_below = path
                .parents()
                .any(|parent| parent.parse::<FilePath>().is_ok_and(|parent| self.links.contains(&parent)));
            let is_twice =
                self.links.contains(path) && (self.files.contains(path) || self.folders.contains(path));
            if is_below || is_twice {
                let why = "what lies below a link, or has the name of one";
                return Err(ModuleError::Entry { name: path.as_str().to_owned(), why });
            }
        }
        Ok(())
    }

    /// There is a module in the folder.
    fn check_module(&self, folder: &FolderPattern) -> Result<ModuleFolder, ModuleError> {
        let folder = if folder.is_below_top { self.only(folder)? } else { folder.folder.clone() };
        let prefix = if folder.as_str().is_empty() { String::new() } else { format!("{}/", folder.as_str()) };
        let is_of_module = |file: &FilePath| {
            let name = file.as_str().strip_prefix(&prefix).filter(|name| !name.contains('/'));
            name.is_some_and(|name| MODULE_ENDS.iter().any(|end| name.ends_with(end)))
        };
        if self.files.iter().any(is_of_module) {
            Ok(folder)
        } else {
            Err(ModuleError::NoModule { folder: folder.as_str().to_owned() })
        }
    }

    /// The one name that `*` stands for: all names at the top count, of which `rest` is below.
    fn only(&self, folder: &FolderPattern) -> Result<ModuleFolder, ModuleError> {
        let rest = folder.folder.as_str();
        let mut fitting = BTreeSet::new();
        for path in self.files.iter().chain(&self.folders).chain(&self.links) {
            let (top, below) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
            let below = below.strip_prefix(rest);
            if below.is_some_and(|below| rest.is_empty() || below.is_empty() || below.starts_with('/')) {
                fitting.insert(top);
            }
        }
        let found = match (fitting.first(), fitting.len()) {
            (Some(top), 1) if rest.is_empty() => (*top).to_owned(),
            (Some(top), 1) => format!("{top}/{rest}"),
            (_, found) => return Err(ModuleError::Top { folder: folder.to_string(), found }),
        };
        found.parse().map_err(ModuleError::Name)
    }
}

/// Whether a link stays in the archive. Parents come first in its target, because behind another name they would lead from
/// wherever that name leads.
fn stays(link: &FilePath, target: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(target) else { return false };
    let is_text = !target.is_empty() && target.len() <= PATH_BYTES_MAX && !target.contains(['\\', '\0']);
    let mut parents = 0;
    let mut is_down = false;
    for component in target.split('/').filter(|component| !matches!(*component, "" | ".")) {
        match component {
            ".." if is_down => return false,
            ".." => parents += 1,
            _ => is_down = true,
        }
    }
    is_text && !target.starts_with('/') && parents <= link.as_str().matches('/').count()
}

#[cfg(test)]
mod tests;
