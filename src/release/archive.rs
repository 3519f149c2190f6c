//! The proof that a Debian archive gives for a package: its signed `InRelease`, which names the `Packages` files by
//! digest, which name the `.deb`s by digest. The sender checks it when it takes a package from an archive, and the
//! receiver before it publishes, with this one [`verify`].
//!
//! What apt accepts is the measure ([apt-secure(8)], [DebianRepository/Format]):
//!
//! * Nothing stands before or after the signed text, so that no reader takes unsigned lines for signed ones.
//! * One good signature by a key of the keyring is enough, for an archive that changes keys signs with both; one that
//!   does not match the text is refused whatever the others say.
//! * Only SHA-256 counts.
//! * Whether the archive was fresh and its key in force is judged once, by the sender's clock, when it is fetched
//!   ([`Release::check_fresh`]): a proof does not get worse on its way through the gap.
//!
//! Which key may sign for an archive is what the operator of the sender says with the keyring; the key that signed goes
//! with the proof.
//!
//! [apt-secure(8)]: https://manpages.debian.org/apt-secure
//! [DebianRepository/Format]: https://wiki.debian.org/DebianRepository/Format

mod clearsigned;
mod packages;
mod release;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use thiserror::Error;

use super::name::PackageName;
use super::package::Control;
use super::provider::{ProofError, split_keys};
use crate::id::Sha256;
use crate::limits::{PACKAGES_BYTES_MAX, PACKAGES_PACKED_BYTES_MAX, PROOF_BYTES_MAX};

pub use packages::{Packing, Stanza, Stanzas};
pub use release::{Listed, Release};

/// Why what an archive says is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArchiveError {
    /// A file is larger than one can be.
    #[error("{what}: expected at most {max} octets, found {found}")]
    Size {
        /// The file.
        what: &'static str,
        /// Octets found, or at least that many.
        found: u64,
        /// Octets allowed.
        max: u64,
    },
    /// It is not a clear-signed text.
    #[error("InRelease: expected {expected}, found {found:?}; look at what the archive's address gives out")]
    NotSigned {
        /// What should stand there.
        expected: &'static str,
        /// Its beginning.
        found: String,
    },
    /// Nobody signed whose key is in the keyring.
    #[error(
        "InRelease: expected a signature by one of the keys {}, found {}; if the archive has changed its key, get the new \
         one from its publisher by a way that you trust, and put it into the keyring",
        .expected.join(", "), .found.join(", ")
    )]
    UnknownKey {
        /// The keys of the keyring.
        expected: Vec<String>,
        /// Those that the signatures name.
        found: Vec<String>,
    },
    /// A signature is not good.
    #[error("InRelease: {0}")]
    Signature(String),
    /// The key that signed had expired.
    #[error("InRelease: it is signed by key {key_id}, which expired at {}; put the archive's newer key into the keyring", utc(*.expired_s))]
    KeyExpired {
        /// The primary key.
        key_id: String,
        /// When, in seconds since 1970.
        expired_s: u64,
    },
    /// The keyring cannot be read.
    #[error("the keyring: {0}")]
    Keyring(ProofError),
    /// A line or field of the release is not of the format.
    #[error("InRelease: expected {expected}, found {found:?}; the archive's publisher must correct it")]
    Format {
        /// What could stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// Its time is over.
    #[error(
        "InRelease of {suite} was valid until {}, and it is {}; the archive or this mirror of it is not kept up to date, or \
         somebody gives out an old one. If this side's clock is wrong, set it",
        utc(*.until_s), utc(*.now_s)
    )]
    Expired {
        /// The suite.
        suite: String,
        /// Its Valid-Until, in seconds since 1970.
        until_s: u64,
        /// The clock.
        now_s: u64,
    },
    /// It was made later than now.
    #[error("InRelease of {suite} is of {}, and it is {}; set this side's clock", utc(*.date_s), utc(*.now_s))]
    Future {
        /// The suite.
        suite: String,
        /// Its Date, in seconds since 1970.
        date_s: u64,
        /// The clock.
        now_s: u64,
    },
    /// A file is not one that the release names.
    #[error(
        "expected a Packages file that InRelease names, found one with SHA-256 {found}, which it does not"
    )]
    NotListed {
        /// Its digest.
        found: Sha256,
    },
    /// The index of packages does not unpack, or is none.
    #[error("Packages: {0}")]
    Packages(String),
    /// The package is not in its index.
    #[error("{name}: expected it in the Packages file of {path}, found no such package there")]
    NoPackage {
        /// The package.
        name: Box<PackageName>,
        /// The file.
        path: String,
    },
    /// The package stands in the index of another component or architecture.
    #[error(
        "{name}: expected it in an index of its component and architecture, found the proof to be {path}"
    )]
    OtherIndex {
        /// The package.
        name: Box<PackageName>,
        /// The file.
        path: String,
    },
    /// The package is not the one of the index.
    #[error(
        "{name}: expected SHA-256 {expected} and {expected_bytes} octets as the archive's Packages file says, found {found} \
         and {found_bytes}; it is not the package that the archive signed"
    )]
    Deb {
        /// The package.
        name: Box<PackageName>,
        /// The digest in the index.
        expected: Sha256,
        /// The octets in the index.
        expected_bytes: u64,
        /// The digest of the package.
        found: Sha256,
        /// The octets of the package.
        found_bytes: u64,
    },
    /// Its control file says something else than the index.
    #[error(
        "{name}: expected {field} {expected:?} as the archive's Packages file says, found {found:?} in its control file"
    )]
    Control {
        /// The package.
        name: Box<PackageName>,
        /// The field.
        field: &'static str,
        /// Its value in the index.
        expected: String,
        /// Its value in the control file.
        found: String,
    },
}

/// A proof as it was taken from the archive.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveProof<'a> {
    /// `InRelease`.
    pub release: &'a [u8],
    /// A `Packages` file that it names, packed as the archive has it.
    pub packages: &'a [u8],
    /// The key that signed, or a keyring with it.
    pub key: &'a [u8],
}

/// A package of which the proof must speak.
#[derive(Debug)]
pub struct Claim<'a> {
    /// What it is called.
    pub name: &'a PackageName,
    /// The `.deb`.
    pub deb: Sha256,
    /// Its octets.
    pub bytes: u64,
    /// Its control file.
    pub control: Control,
}

/// The one check of a proof: a key signed the release, the release names the index, and the index names each package.
pub fn verify(proof: &ArchiveProof<'_>, claims: &[Claim<'_>]) -> Result<(), ArchiveError> {
    let release = Release::verify(proof.release, &keyring(proof.key)?)?;
    let digest = Sha256::of(proof.packages);
    let listed = release.named(&digest, proof.packages.len() as u64);
    let paths: Vec<&str> = listed.collect();
    let Some(first) = paths.first() else { return Err(ArchiveError::NotListed { found: digest }) };
    let mut wanted = BTreeMap::new();
    for claim in claims {
        let name = claim.name;
        if !paths.iter().any(|path| is_index_of(path, name)) {
            let path = (*first).to_owned();
            return Err(ArchiveError::OtherIndex { name: Box::new(name.clone()), path });
        }
        wanted.insert((name.package.clone(), name.version.clone(), name.architecture.clone()), claim);
    }
    for stanza in Stanzas::new(proof.packages, Packing::of_path(first)?)? {
        let stanza = stanza?;
        let part = |name| stanza.get(name).unwrap_or_default().to_owned();
        if let Some(claim) = wanted.remove(&(part("Package"), part("Version"), part("Architecture"))) {
            stanza.check(claim)?;
        }
    }
    match wanted.into_values().next() {
        None => Ok(()),
        Some(claim) => {
            let name = Box::new(claim.name.clone());
            Err(ArchiveError::NoPackage { name, path: (*first).to_owned() })
        }
    }
}

/// Whether a path of a release is that of an index in which a package may stand: `COMPONENT/binary-ARCH/Packages…`,
/// where packages for all architectures may stand in any. Components of Debian's security archive were once called
/// `updates/main`.
fn is_index_of(path: &str, name: &PackageName) -> bool {
    let Some((folder, file)) = path.rsplit_once('/') else { return false };
    let Some((component, architecture)) = folder.rsplit_once("/binary-") else { return false };
    let component = component.strip_prefix("updates/").unwrap_or(component);
    Packing::of_path(file).is_ok()
        && component == name.component
        && (architecture == name.architecture || name.architecture == "all")
}

/// One ASCII-armored key for each primary key of a keyring, ASCII-armored or binary, by its id.
pub fn keyring(octets: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, ArchiveError> {
    split_keys(octets).map_err(ArchiveError::Keyring)
}

/// Refuses what is too large.
fn check_size(what: &'static str, found: u64, max: u64) -> Result<(), ArchiveError> {
    if found > max { Err(ArchiveError::Size { what, found, max }) } else { Ok(()) }
}

fn utc(s: u64) -> String {
    let time = i64::try_from(s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| format!("second {s}"), |time| time.to_string())
}
