//! Reading and writing of the project's own byte formats (wire, index, volumes).
//!
//! Integers are big-endian; counts and lengths are unsigned LEB128 in their shortest form, so that one value has one
//! encoding and signed bytes have one meaning. A reader never allocates by a number that it has read.

use thiserror::Error;

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error("truncated: {wanted} more octets expected, {left} left")]
    Truncated {
        /// Octets that the value needs.
        wanted: usize,
        /// Octets that are there.
        left: usize,
    },
    /// A variable-length integer is longer than needed or than 64 bits.
    #[error("a variable-length integer is not in its shortest form or exceeds 64 bits")]
    Varint,
    /// A number is beyond its limit.
    #[error("{what} is {found}, the limit is {max}")]
    Limit {
        /// What the number counts.
        what: &'static str,
        /// The number read.
        found: u64,
        /// The largest allowed.
        max: u64,
    },
    /// Text is not UTF-8.
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    /// Octets follow the end of the value.
    #[error("{0} octets follow the end")]
    Trailing(usize),
}

/// A cursor over received bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Octets not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` octets.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let left = self.rest.len();
        let (head, rest) = self.rest.split_at_checked(n).ok_or(CodecError::Truncated { wanted: n, left })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` octets as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let left = self.rest.len();
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated { wanted: N, left })?;
        self.rest = rest;
        Ok(*head)
    }

    /// One octet.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two octets.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four octets.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight octets.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// An unsigned LEB128 integer in its shortest form.
    pub fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let octet = self.u8()?;
            let bits = u64::from(octet & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Varint);
            }
            value |= bits << shift;
            if octet & 0x80 == 0 {
                return if octet == 0 && shift > 0 { Err(CodecError::Varint) } else { Ok(value) };
            }
        }
        Err(CodecError::Varint)
    }

    /// A variable-length integer of at most `max`.
    pub fn bounded(&mut self, what: &'static str, max: u64) -> Result<u64, CodecError> {
        let found = self.varint()?;
        if found > max { Err(CodecError::Limit { what, found, max }) } else { Ok(found) }
    }

    /// A count of things that take at least `unit_bytes` each, so that what follows can hold them.
    pub fn count(&mut self, what: &'static str, max: u64, unit_bytes: usize) -> Result<usize, CodecError> {
        let count = self.bounded(what, max)?;
        let wanted = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(unit_bytes);
        if wanted > self.remaining() {
            return Err(CodecError::Truncated { wanted, left: self.remaining() });
        }
        Ok(wanted / unit_bytes.max(1))
    }

    /// Text with its length before it.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, CodecError> {
        let bytes = self.run(what, max)?;
        std::str::from_utf8(bytes).map_err(|_| CodecError::Utf8(what))
    }

    /// Octets with their length before them.
    pub fn run(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], CodecError> {
        let len = self.bounded(what, max as u64)?;
        self.bytes(len as usize)
    }

    /// Refuses octets after the end.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }
}

/// Appends an unsigned LEB128 integer.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends octets with their length before them.
pub fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_has_one_encoding() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint(), Ok(value));
            reader.finish().unwrap();
        }
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), Err(CodecError::Varint));
        assert_eq!(Reader::new(&[0xff; 10]).varint(), Err(CodecError::Varint));
        let mut eleven = vec![0x80; 10];
        eleven.push(1);
        assert_eq!(Reader::new(&eleven).varint(), Err(CodecError::Varint));
    }

    #[test]
    fn a_count_must_fit_into_what_follows() {
        let mut out = Vec::new();
        put_varint(&mut out, 1_000_000);
        let error = Reader::new(&out).count("rows", u64::MAX, 32).unwrap_err();
        assert_eq!(error, CodecError::Truncated { wanted: 32_000_000, left: 0 });
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let mut reader = Reader::new(&[1, 2]);
        reader.u8().unwrap();
        assert_eq!(reader.finish(), Err(CodecError::Trailing(1)));
    }
}
