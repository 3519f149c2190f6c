//! What is fuzzed: everything that reads what others wrote, and what must hold whatever they wrote.
//!
//! Each function takes any octets. It must not panic, and panics itself where a promise is broken: what parses has one
//! encoding, is within its bounds, and nothing is taken for authentic that is not. The fuzzer (`targets/`) and `cargo
//! test` (`tests/system/tests/fuzz_corpus.rs`, over `corpus/`) run the same functions.

pub mod carried;
pub mod disk;
pub mod mirror;
pub mod release;
pub mod settings;
pub mod submitted;
pub mod trust;
pub mod wire;

/// A target's body.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("datagram", wire::datagram),
    ("sealed", wire::sealed),
    ("symbols", wire::symbols),
    ("trust", trust::trust),
    ("index", release::index),
    ("names", release::names),
    ("proof", release::proof),
    ("archive", release::archive),
    ("image", release::image),
    ("module", release::module),
    ("zip", submitted::zip),
    ("submission", submitted::submission),
    ("deb", submitted::deb),
    ("volume", carried::volume),
    ("ticket", carried::ticket),
    ("config", settings::config),
    ("pairing", settings::pairing),
    ("disk", disk::disk),
    ("http", mirror::http),
];

/// Splits off a first octet that says which of several things the rest is for.
fn choice(data: &[u8], of: u8) -> Option<(u8, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((first % of, rest))
}

/// Parts of an input, each but the last after its length (u16, big-endian), which may exceed what is there.
fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut rest = data;
    let mut parts = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (part, tail) = tail.split_at(length);
        parts.push(part);
        rest = tail;
    }
    parts
}

/// Octets of a golden vector.
pub fn golden(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::bytes)
        .filter(u8::is_ascii_hexdigit)
        .collect();
    let digit = |octet: u8| (octet as char).to_digit(16).unwrap_or(0) as u8;
    digits.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
