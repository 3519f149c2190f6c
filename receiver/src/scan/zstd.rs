//! zstd as publishers write it: frames one after the other, and some that are to be skipped (RFC 8878 §3.1). Layers of images
//! often have one for each file, and whoever unpacks them reads all.

use std::io::{self, BufRead, BufReader, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Whether octets begin a frame, also one that is to be skipped.
pub fn is_frame(head: &[u8]) -> bool {
    match head.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(magic) => magic == 0xfd2f_b528 || magic & 0xffff_fff0 == 0x184d_2a50,
        None => false,
    }
}

/// What all frames hold.
pub struct Frames<R> {
    decoder: FrameDecoder,
    packed: BufReader<R>,
    is_within: bool,
}

impl<R: Read> Frames<R> {
    /// Reads from the first frame on; windows of more than so many octets are refused.
    pub fn new(packed: R, window_bytes_max: u64) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(window_bytes_max);
        Self { decoder, packed: BufReader::new(packed), is_within: false }
    }

    /// Goes to the next frame that holds something. False at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.packed.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.packed).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_within {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.is_within = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.packed, blocks).map_err(io::Error::other)?;
            }
            match self.decoder.read(buffer)? {
                0 => self.is_within = false,
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(packed, 8 << 20).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn every_frame_is_read() {
        let frame = |content: &[u8]| compress_to_vec(content, CompressionLevel::Fastest);
        let skipped = [b"\x5f\x2a\x4d\x18\x03\0\0\0".as_slice(), b"abc"].concat();
        let long = vec![b'x'; 300_000];
        let all =
            [skipped.as_slice(), &frame(b"one"), &frame(b""), &skipped, &frame(&long), &skipped].concat();
        assert_eq!(unpack(&all).unwrap(), [b"one".as_slice(), &long].concat());
        assert!(is_frame(&all) && is_frame(&frame(b"x")) && !is_frame(b"\x28\xb5\x2f"));
        assert!(unpack(&all[..all.len() - 1]).is_err(), "cut off within a frame that is skipped");
        assert!(unpack(&[frame(b"one").as_slice(), b"garbage"].concat()).is_err());
        let cut = frame(&long);
        assert!(unpack(&cut[..cut.len() - 3]).is_err());
        assert_eq!(unpack(b"").unwrap(), b"");
    }
}
