//! The TUF metadata of one moment as one object.
//!
//! ```text
//! "DSTB"  version u8 = 1
//! roots   count varint, then each with its length before it, by rising version
//! timestamp, snapshot, targets: each with its length before it
//! ```

use thiserror::Error;

use crate::codec::{CodecError, Reader, put_run, put_varint};
use crate::limits::TRUST_BYTES_MAX;

const MAGIC: &[u8; 4] = b"DSTB";
const VERSION: u8 = 1;
const ROOTS_MAX: u64 = 1024;

/// Why bytes are not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not a bundle at all.
    #[error("this is not a trust bundle: it does not start with DSTB")]
    Magic,
    /// Written by another version.
    #[error(
        "the trust bundle is of version {found}, this receiver reads version {VERSION}; upgrade the receiver first"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// The bytes are broken.
    #[error("the trust bundle is malformed: {0}")]
    Codec(#[from] CodecError),
}

/// TUF metadata files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Every root since the pairing, by rising version.
    pub roots: Vec<Vec<u8>>,
    /// timestamp.json
    pub timestamp: Vec<u8>,
    /// snapshot.json
    pub snapshot: Vec<u8>,
    /// targets.json
    pub targets: Vec<u8>,
}

impl Bundle {
    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        put_varint(&mut out, self.roots.len() as u64);
        for file in self.roots.iter().chain([&self.timestamp, &self.snapshot, &self.targets]) {
            put_run(&mut out, file);
        }
        out
    }

    /// Takes it apart. Nothing in it is trusted yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(4).ok() != Some(MAGIC.as_slice()) {
            return Err(BundleError::Magic);
        }
        match reader.u8()? {
            VERSION => {}
            found => return Err(BundleError::Version { found }),
        }
        let max = TRUST_BYTES_MAX as usize;
        let mut roots = Vec::new();
        for _ in 0..reader.count("roots", ROOTS_MAX, 1)? {
            roots.push(reader.run("a root", max)?.to_vec());
        }
        let mut file = |what| reader.run(what, max).map(<[u8]>::to_vec);
        let (timestamp, snapshot, targets) =
            (file("the timestamp")?, file("the snapshot")?, file("the targets")?);
        reader.finish()?;
        Ok(Self { roots, timestamp, snapshot, targets })
    }
}
