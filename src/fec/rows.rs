//! Symbols as the erasure code computes with them.
//!
//! A row is a symbol in chunks of 32 elements of two octets: the 32 low octets, then the 32 high ones. A last chunk that
//! is not full has its own two halves at the start of either. The order is part of the code: it decides which octets of
//! a symbol are one element.

/// Rows of one length, end to end.
#[derive(Default)]
pub struct Rows {
    /// All of them.
    pub data: Vec<[u8; 64]>,
    /// Chunks of a row.
    pub chunks: usize,
}

impl Rows {
    /// Makes room for `count` symbols. What was there stays or not.
    pub fn reshape(&mut self, count: usize, symbol_bytes: usize) {
        self.chunks = symbol_bytes.div_ceil(64);
        self.data.resize(count * self.chunks, [0; 64]);
    }

    /// One of them.
    pub fn row(&self, at: usize) -> &[[u8; 64]] {
        self.data.get(at * self.chunks..(at + 1) * self.chunks).unwrap_or_default()
    }

    /// One of them, to be changed.
    pub fn row_mut(&mut self, at: usize) -> &mut [[u8; 64]] {
        self.data.get_mut(at * self.chunks..(at + 1) * self.chunks).unwrap_or_default()
    }
}

/// Octets become a row.
pub fn load(row: &mut [[u8; 64]], symbol: &[u8]) {
    let (whole, tail) = symbol.as_chunks::<64>();
    let (head, last) = row.split_at_mut(whole.len());
    head.copy_from_slice(whole);
    if let Some(last) = last.first_mut() {
        *last = spread(tail);
    }
}

/// Octets are added to a row.
pub fn add_symbol(row: &mut [[u8; 64]], symbol: &[u8]) {
    let (whole, tail) = symbol.as_chunks::<64>();
    let (head, last) = row.split_at_mut(whole.len());
    add(head, whole);
    if let Some(last) = last.first_mut() {
        add(std::slice::from_mut(last), &[spread(tail)]);
    }
}

/// A row becomes octets.
pub fn store(row: &[[u8; 64]], symbol: &mut [u8]) {
    let (whole, tail) = symbol.as_chunks_mut::<64>();
    let (head, last) = row.split_at(whole.len());
    whole.copy_from_slice(head);
    if let Some(last) = last.first() {
        let (low, high) = tail.split_at_mut(tail.len() / 2);
        low.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
        high.iter_mut().zip(last.iter().skip(32)).for_each(|(to, from)| *to = *from);
    }
}

/// A last chunk of fewer than 64 octets.
fn spread(tail: &[u8]) -> [u8; 64] {
    let mut chunk = [0; 64];
    let (low, high) = tail.split_at(tail.len() / 2);
    chunk.iter_mut().zip(low).for_each(|(to, from)| *to = *from);
    chunk.iter_mut().skip(32).zip(high).for_each(|(to, from)| *to = *from);
    chunk
}

/// Addition in the field: exclusive or.
pub fn add(to: &mut [[u8; 64]], from: &[[u8; 64]]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to ^= *from);
    }
}
