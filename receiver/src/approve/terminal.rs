//! Asking for a passphrase at the terminal of whoever typed the command, without showing it.
//!
//! Keys reach the program one by one, and Ctrl-C as one of them: a signal would end the process before the terminal is what
//! it was.

use std::fs::File;
use std::io::{Read, Result, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CTRL_U: u8 = 21;
const DELETE: u8 = 127;
/// Octets of the longest line.
const LINE_BYTES_MAX: usize = 4096;

/// Asks. None if whoever was asked pressed Ctrl-C, or Ctrl-D, or is gone.
///
/// # Errors
/// If the process has no terminal, or it cannot be used.
pub fn ask(prompt: &str) -> Result<Option<String>> {
    let terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let quiet = Quiet::new(&terminal)?;
    (&terminal).write_all(prompt.as_bytes())?;
    let line = read_line(&terminal);
    drop(quiet);
    (&terminal).write_all(b"\n")?;
    line
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG;
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Now, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

fn read_line(mut from: impl Read) -> Result<Option<String>> {
    let (mut line, mut key) = (Vec::new(), [0]);
    loop {
        if from.read(&mut key)? == 0 {
            return Ok(None);
        }
        match key[0] {
            b'\n' | b'\r' => break,
            CTRL_C | CTRL_D => return Ok(None),
            CTRL_U => line.clear(),
            BACKSPACE | DELETE => {
                // A letter may have several octets, of which all but the first are 0b10xx_xxxx.
                while line.pop().is_some_and(|octet| octet & 0xc0 == 0x80) {}
            }
            // Other keys with Ctrl are no letters.
            octet if octet >= b' ' && line.len() < LINE_BYTES_MAX => line.push(octet),
            _ => {}
        }
    }
    String::from_utf8(line).map(Some).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_the_line() {
        let typed = |keys: &[u8]| read_line(keys).unwrap();
        assert_eq!(typed("Föhre\nnext".as_bytes()), Some("Föhre".to_owned()));
        assert_eq!(typed("Fö\x7fo\x08\x7f\x7f\x7fx\r".as_bytes()), Some("x".to_owned()));
        assert_eq!(typed(b"wrong\x15ri\x1aght\n"), Some("right".to_owned()));
        assert_eq!(typed(b"\n"), Some(String::new()));
        for gone in [b"abc\x03\n".as_slice(), b"abc\x04\n", b"abc", b""] {
            assert_eq!(typed(gone), None, "{gone:?}");
        }
        assert!(read_line(b"\xff\n".as_slice()).is_err());
        assert_eq!(typed(&[vec![b'a'; 5000], vec![b'\n']].concat()).unwrap().len(), LINE_BYTES_MAX);
    }
}
