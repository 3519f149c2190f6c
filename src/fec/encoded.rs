//! A source block on the sending side: its symbols, ready to go out.

use super::Oti;
use crate::buffer::Buffer;
use crate::id::{Esi, Sbn};

/// A source block with a window of its repair symbols, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBlock {
    pub(super) oti: Oti,
    pub(super) sbn: Sbn,
    /// Source symbols end to end, the last one filled up with zeros.
    pub(super) source: Buffer,
    /// The window's repair symbols end to end.
    pub(super) repair: Vec<u8>,
    /// The number of the first of them.
    pub(super) window_start: usize,
}

impl EncodedBlock {
    /// The object's transmission information.
    pub fn oti(&self) -> Oti {
        self.oti
    }

    /// Which source block of the object.
    pub fn sbn(&self) -> Sbn {
        self.sbn
    }

    /// An encoding symbol; empty if there is none with that id, or if it is a repair symbol out of the window.
    pub fn symbol(&self, esi: Esi) -> &[u8] {
        let (size, r) = (self.oti.symbol_bytes(), self.oti.repair_symbols() as usize);
        let at = esi.0 as usize;
        let (from, at) = match at.checked_sub(self.oti.source_symbols(self.sbn) as usize) {
            None => (&*self.source, at),
            Some(number) if number < r => (&*self.repair, (number + r - self.window_start) % r),
            Some(_) => return &[],
        };
        from.get(at * size..(at + 1) * size).unwrap_or_default()
    }

    /// Gives the buffers back, source first, to be used again.
    pub fn into_buffers(self) -> (Buffer, Vec<u8>) {
        (self.source, self.repair)
    }
}

/// Repair symbols that one round sends, modulo R: the first one follows the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The number of the first, from 0.
    pub start: u32,
    /// How many.
    pub symbols: u32,
}
