//! A blob as a file that can be read and sought in.

use std::io::{self, Read, Seek, SeekFrom};

use super::{Blobs, PackError, PackStore};
use crate::release::Blob;

/// Reads a blob from its packs.
#[derive(Debug)]
pub struct BlobReader<'a> {
    packs: &'a PackStore,
    blob: Blob,
    at: u64,
}

impl<'a> BlobReader<'a> {
    /// Begins at the first octet.
    pub fn new(packs: &'a PackStore, blob: Blob) -> Self {
        Self { packs, blob, at: 0 }
    }

    /// Its octets.
    pub fn bytes(&self) -> u64 {
        self.blob.bytes
    }

    /// All of it, if it has at most `max` octets.
    pub fn whole(&self, max: u64) -> Result<Option<Vec<u8>>, PackError> {
        self.packs.whole_blob(&self.blob, max)
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.packs.read_blob(&self.blob, self.at, out).map_err(|error| match error {
            PackError::Io { source, .. } => source,
            damaged => io::Error::other(damaged),
        })?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for BlobReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => i128::from(offset),
            SeekFrom::End(offset) => i128::from(self.blob.bytes) + i128::from(offset),
            SeekFrom::Current(offset) => i128::from(self.at) + i128::from(offset),
        };
        self.at = u64::try_from(target).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
