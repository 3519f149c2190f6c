//! SHA256SUMS, as `sha256sum` writes it and Terraform reads it.
//!
//! Terraform takes the first two words of a line, and the first line that names the file. So that no file can mean
//! one thing here and another there, names hold no white space, one name has one digest, and the separator is the one
//! that `sha256sum` writes. An empty line, at which terraform 1.11 crashes, is refused.

use std::collections::BTreeMap;

use super::{ProofError, SUMS, check_size};
use crate::id::Sha256;
use crate::limits::PATH_BYTES_MAX;

/// The digests that a publisher gives for its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(BTreeMap<String, Sha256>);

impl Sums {
    /// Reads lines of 64 hexadecimal digits, two spaces (or a space and the `*` that marks binary files) and a name.
    /// The last line may lack its newline.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        check_size(SUMS, bytes.len() as u64)?;
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut sums = BTreeMap::new();
        for (line, text) in (1..).zip(body.split(|octet| *octet == b'\n')) {
            let (digest, name) = parse_line(text).map_err(|why| ProofError::SumsLine {
                line,
                found: String::from_utf8_lossy(text).chars().take(100).collect(),
                why,
            })?;
            match sums.insert(name.to_owned(), digest) {
                Some(first) if first != digest => {
                    return Err(ProofError::SumsConflict { name: name.to_owned(), first, second: digest });
                }
                _ => {}
            }
        }
        Ok(Self(sums))
    }

    /// The digest of a file, if it is named.
    pub fn get(&self, file_name: &str) -> Option<Sha256> {
        self.0.get(file_name).copied()
    }
}

fn parse_line(line: &[u8]) -> Result<(Sha256, &str), &'static str> {
    if line.is_empty() {
        return Err("the line is empty");
    }
    if line.ends_with(b"\r") {
        return Err("the line ends with a carriage return");
    }
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (digest, rest) = line.split_at_checked(64).ok_or("it is too short")?;
    // Both cases mean the same octets, and Terraform reads both.
    let digest = digest.to_ascii_lowercase().parse().map_err(|_| "the digest is not hexadecimal")?;
    let name =
        rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *")).ok_or("the separator is another")?;
    if name.is_empty() {
        return Err("the name is empty");
    }
    if name.len() > PATH_BYTES_MAX {
        return Err("the name is longer than 1024 octets");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("the name holds white space or a control character");
    }
    Ok((digest, name))
}
