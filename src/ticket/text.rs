//! Octets as text that a person can type from a screen, and that fits a QR code's alphanumeric mode.
//!
//! Crockford's base 32 (no I, L, O, U), in lines of 50 characters and two more that check the line, so that a typing
//! error is named by its line. Space and hyphens between characters say nothing; lower case is read as upper case, O
//! as 0, and I and L as 1. The first line starts with how many characters there are, so that no line gets lost.

use thiserror::Error;

use crate::id::Blake3;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a line besides its check.
const LINE_CHARS: usize = 50;
/// Characters between two spaces.
const GROUP_CHARS: usize = 5;
/// Characters of the count at the start.
const COUNT_CHARS: usize = 4;
/// Characters of a line's check.
const CHECK_CHARS: usize = 2;

/// Why a text is not what was printed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TextError {
    /// A character that is not used.
    #[error("line {line}: {found:?} is never in a ticket; expected digits and letters other than U")]
    Character {
        /// The line, from 1.
        line: usize,
        /// The character.
        found: char,
    },
    /// A line's check does not match.
    #[error("line {line} is mistyped: its last two characters do not match the others")]
    Line {
        /// The line, from 1.
        line: usize,
    },
    /// There is less or more than there should be.
    #[error("the ticket is cut off or has too much: expected {expected} characters, found {found}")]
    Length {
        /// Characters that its start announces.
        expected: usize,
        /// Characters that are there.
        found: usize,
    },
}

/// Writes octets, at most 2^20 characters of them.
pub fn write(octets: &[u8]) -> String {
    let data_chars = (octets.len() * 8).div_ceil(5);
    let mut digits: Vec<u8> = (0..COUNT_CHARS).rev().map(|at| (data_chars >> (5 * at)) as u8 & 31).collect();
    let (mut bits, mut held) = (0u32, 0u32);
    for octet in octets {
        (bits, held) = (bits << 8 | u32::from(*octet), held + 8);
        while held >= 5 {
            held -= 5;
            digits.push((bits >> held) as u8 & 31);
        }
    }
    if held > 0 {
        digits.push((bits << (5 - held)) as u8 & 31);
    }
    let mut out = String::new();
    for (number, line) in digits.chunks(LINE_CHARS).enumerate() {
        let with_check: Vec<u8> = line.iter().copied().chain(check(number, line)).collect();
        for (at, digit) in with_check.iter().enumerate() {
            if at > 0 && at % GROUP_CHARS == 0 {
                out.push(' ');
            }
            out.extend(ALPHABET.get(usize::from(*digit)).map(|c| char::from(*c)));
        }
        out.push('\n');
    }
    out
}

/// Ten bits over a line and its number.
fn check(number: usize, line: &[u8]) -> [u8; CHECK_CHARS] {
    let [a, b, ..] = Blake3::of(&[&(number as u64).to_be_bytes(), line].concat()).0;
    [a & 31, b & 31]
}

/// Reads what was typed.
pub fn read(typed: &str) -> Result<Vec<u8>, TextError> {
    let mut digits = Vec::new();
    for c in typed.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let line = digits.len() / (LINE_CHARS + CHECK_CHARS) + 1;
        let folded = match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        };
        let digit = ALPHABET.iter().position(|known| char::from(*known) == folded);
        digits.push(digit.ok_or(TextError::Character { line, found: c })? as u8);
    }
    let mut data = Vec::with_capacity(digits.len());
    for (number, line) in digits.chunks(LINE_CHARS + CHECK_CHARS).enumerate() {
        let mistyped = TextError::Line { line: number + 1 };
        let (content, found) = line.split_last_chunk::<CHECK_CHARS>().ok_or_else(|| mistyped.clone())?;
        if content.is_empty() || *found != check(number, content) {
            return Err(mistyped);
        }
        data.extend_from_slice(content);
    }
    let (head, data) = data.split_at_checked(COUNT_CHARS).unwrap_or_default();
    let expected = head.iter().fold(0, |count, digit| count << 5 | usize::from(*digit));
    if expected != data.len() || data.is_empty() {
        return Err(TextError::Length { expected, found: data.len() });
    }
    let mut octets = Vec::with_capacity(data.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for digit in data {
        (bits, held) = (bits << 5 | u32::from(*digit), held + 5);
        if held >= 8 {
            held -= 8;
            octets.push((bits >> held) as u8);
        }
    }
    // One text for one run of octets: what is left over of the last character is zero, and less than a character.
    if held >= 5 || bits & ((1 << held) - 1) != 0 {
        return Err(TextError::Length { expected, found: data.len() });
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_back_however_they_are_typed() {
        for length in [1, 2, 3, 4, 5, 28, 29, 30, 31, 32, 100, 1000] {
            let octets: Vec<u8> = (0..length).map(|n| (n * 37) as u8).collect();
            let text = write(&octets);
            assert_eq!(read(&text).as_ref(), Ok(&octets));
            let typed = text.to_lowercase().replace('0', "o").replace('1', "l").replace([' ', '\n'], "-");
            assert_eq!(read(&typed).as_ref(), Ok(&octets));
            assert!(text.lines().all(|line| line.len() <= 63), "{text}");
        }
        assert_eq!(read(""), Err(TextError::Length { expected: 0, found: 0 }));
    }

    #[test]
    fn a_typing_error_is_named_by_its_line() {
        let text = write(&[0xa5; 100]);
        let bad = text.replacen("\n", "\n0", 1);
        assert_eq!(read(&bad), Err(TextError::Line { line: 2 }));
        assert_eq!(read("U"), Err(TextError::Character { line: 1, found: 'U' }));
        let lines: Vec<&str> = text.lines().collect();
        let swapped = [lines[0], lines[2], lines[1], lines[3]].join("\n");
        assert_eq!(read(&swapped), Err(TextError::Line { line: 2 }));
        assert!(matches!(read(&lines[..3].join("\n")), Err(TextError::Length { .. })));
    }
}
