//! `multipart/form-data` as browsers write it (RFC 7578; HTML, "multipart/form-data encoding algorithm"), read as it comes: of
//! a file nothing is held but what a delimiter could begin in. Pure.
//!
//! axum's own parser would bring two crates for the one form that has files; what a browser writes needs less than they read.

use bytes::{Bytes, BytesMut};

/// Characters of a boundary (RFC 2046).
const BOUNDARY_CHARS: std::ops::RangeInclusive<usize> = 1..=70;
/// Octets of a field's header.
const HEADER_BYTES_MAX: usize = 8192;

/// What comes of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A field begins.
    Begin {
        /// Its name.
        name: String,
        /// The name of its file, if it is one. A browser sends an empty one where none was chosen.
        file: Option<String>,
    },
    /// Octets of it.
    Octets(Bytes),
    /// It ends.
    End,
}

/// What is no form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Another kind of body.
    #[error("expected multipart/form-data with a boundary of 1 to 70 characters, found {0:?}")]
    Kind(String),
    /// A field whose header has no end.
    #[error("the header of a field of the form has more than {HEADER_BYTES_MAX} octets")]
    HeaderSize,
    /// A field whose header names none.
    #[error("expected the name of a field of the form, found {0:?}")]
    Header(String),
    /// Something else after a boundary.
    #[error("the form has something else than a line's end after its boundary")]
    Boundary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Preamble,
    /// Behind a boundary: a line's end or the form's.
    Delimiter,
    Header,
    Field,
    Done,
}

/// A form that is being read.
#[derive(Debug)]
pub struct FormReader {
    /// Line's end, two hyphens, boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: State,
}

impl FormReader {
    /// For a body of this Content-Type.
    pub fn new(kind: &str) -> Result<Self, FormError> {
        let no = || FormError::Kind(kind.to_owned());
        let (word, rest) = kind.split_once(';').ok_or_else(no)?;
        if !word.trim().eq_ignore_ascii_case("multipart/form-data") {
            return Err(no());
        }
        let boundary = parameter(rest, "boundary").ok_or_else(no)?;
        if !BOUNDARY_CHARS.contains(&boundary.len())
            || !boundary.bytes().all(|octet| octet.is_ascii_graphic())
        {
            return Err(no());
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first boundary may stand at the very beginning.
        Ok(Self { delimiter, buffer: BytesMut::from(&b"\r\n"[..]), state: State::Preamble })
    }

    /// Adds what has come.
    pub fn push(&mut self, octets: &[u8]) {
        if self.state != State::Done {
            self.buffer.extend_from_slice(octets);
        }
    }

    /// Whether no field has begun yet.
    pub fn is_before_fields(&self) -> bool {
        self.state == State::Preamble
    }

    /// Whether the form is at its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The next piece; none if it takes more octets.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FormError> {
        loop {
            match self.state {
                State::Done => return Ok(None),
                State::Preamble => match find(&self.buffer, &self.delimiter) {
                    Some(at) => self.pass(at + self.delimiter.len(), State::Delimiter),
                    None => {
                        self.ready();
                        return Ok(None);
                    }
                },
                State::Delimiter => match self.buffer.get(..2) {
                    None => return Ok(None),
                    Some(b"\r\n") => self.pass(2, State::Header),
                    Some(b"--") => {
                        self.buffer.clear();
                        self.state = State::Done;
                    }
                    Some(_) => return Err(FormError::Boundary),
                },
                State::Header => match find(&self.buffer, b"\r\n\r\n") {
                    Some(at) if at <= HEADER_BYTES_MAX => {
                        let header = self.buffer.split_to(at);
                        self.pass(4, State::Field);
                        return parse_header(&String::from_utf8_lossy(&header)).map(Some);
                    }
                    None if self.buffer.len() <= HEADER_BYTES_MAX => return Ok(None),
                    _ => return Err(FormError::HeaderSize),
                },
                State::Field => match find(&self.buffer, &self.delimiter) {
                    Some(0) => {
                        self.pass(self.delimiter.len(), State::Delimiter);
                        return Ok(Some(Piece::End));
                    }
                    Some(at) => return Ok(Some(Piece::Octets(self.buffer.split_to(at).freeze()))),
                    None => return Ok(self.ready().map(Piece::Octets)),
                },
            }
        }
    }

    fn pass(&mut self, octets: usize, state: State) {
        let _ = self.buffer.split_to(octets);
        self.state = state;
    }

    /// What cannot belong to a delimiter of which the rest has not come.
    fn ready(&mut self) -> Option<Bytes> {
        let ready = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
        (ready > 0).then(|| self.buffer.split_to(ready).freeze())
    }
}

/// Where `what`, which begins with a line's end, is first.
fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = octets.get(from..)?;
        let at = from + rest.iter().position(|octet| *octet == b'\r')?;
        if octets.get(at..)?.starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn parse_header(header: &str) -> Result<Piece, FormError> {
    let mut fields = header.split("\r\n").filter_map(|line| line.split_once(':'));
    let value = fields.find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let parameters = value.and_then(|(_, value)| value.trim().strip_prefix("form-data"));
    let name = parameters.and_then(|text| parameter(text, "name"));
    match (name, parameters) {
        (Some(name), Some(text)) => Ok(Piece::Begin { name, file: parameter(text, "filename") }),
        _ => Err(FormError::Header(header.to_owned())),
    }
}

/// A parameter of a header's field, without its quotes and with what browsers escape.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(';').unwrap_or((after, "")),
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            let value = value.trim().replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n");
            return Some(value);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "multipart/form-data; boundary=--xyz";

    /// Name, file and octets of each field.
    type Fields = Vec<(String, Option<String>, Vec<u8>)>;

    /// Reads a form that comes in pieces of so many octets; its fields, and whether it ended.
    fn read(body: &[u8], piece: usize) -> Result<(Fields, bool), FormError> {
        let mut form = FormReader::new(KIND)?;
        let (mut fields, mut open) = (Fields::new(), 0);
        for octets in body.chunks(piece) {
            form.push(octets);
            while let Some(piece) = form.next_piece()? {
                match piece {
                    Piece::Begin { name, file } => {
                        fields.push((name, file, Vec::new()));
                        open += 1;
                    }
                    Piece::Octets(octets) => fields.last_mut().unwrap().2.extend_from_slice(&octets),
                    Piece::End => open -= 1,
                }
            }
            assert!(form.buffer.len() <= HEADER_BYTES_MAX + piece, "{} are held", form.buffer.len());
        }
        assert!(!form.is_done() || open == 0);
        Ok((fields, form.is_done()))
    }

    fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (header, octets) in fields {
            body.extend_from_slice(
                format!("----xyz\r\nContent-Disposition: form-data; {header}\r\n").as_bytes(),
            );
            body.extend_from_slice(b"Content-Type: application/octet-stream\r\n\r\n");
            body.extend_from_slice(octets);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"----xyz--\r\n");
        body
    }

    #[test]
    fn fields_are_the_same_however_they_are_cut() {
        // Octets that look like the beginning of a delimiter, up to its last octet.
        let tricky = b"\r\n\r\n----xy\r\n----xY----xyz\r\r\n--\r\n\r\n----xy";
        let body = form(&[
            ("name=\"manifest\"; filename=\"manifest\"", b"m"),
            ("name=\"slots\"; filename=\"a %22b%22; c.slots\"", tricky),
            ("name=\"slots\"; filename=\"\"", b""),
            ("name=plain", b"\r\n"),
        ]);
        let named = |name: &str, file: Option<&str>, octets: &[u8]| {
            (name.to_owned(), file.map(str::to_owned), octets.to_vec())
        };
        let expected = vec![
            named("manifest", Some("manifest"), b"m"),
            named("slots", Some("a \"b\"; c.slots"), tricky),
            named("slots", Some(""), b""),
            named("plain", None, b"\r\n"),
        ];
        for piece in 1..=body.len() {
            assert_eq!(read(&body, piece), Ok((expected.clone(), true)), "in pieces of {piece}");
        }
        let with_more = [b"preamble\r\n", body.as_slice(), b"epilogue\r\n----xyz\r\n"].concat();
        assert_eq!(read(&with_more, 7), Ok((expected, true)));
    }

    #[test]
    fn a_form_that_is_cut_off_is_not_done() {
        let body = form(&[("name=\"a\"; filename=\"b\"", b"content")]);
        for length in 0..body.len() - 4 {
            assert!(!read(&body[..length], 5).unwrap().1, "at {length}");
        }
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for kind in [
            "",
            "text/plain; boundary=x",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"a b\"",
            &format!("multipart/form-data; boundary={}", "x".repeat(71)),
        ] {
            assert!(matches!(FormReader::new(kind), Err(FormError::Kind(_))), "{kind}");
        }
        assert!(FormReader::new("Multipart/Form-Data; charset=x; boundary=\"a\"").is_ok());
        assert_eq!(read(b"----xyzzy\r\n", 3), Err(FormError::Boundary));
        for header in [
            "",
            "x",
            "Content-Type: x",
            "Content-Disposition: form-data",
            "Content-Disposition: form-data; name=\"",
        ] {
            let body = format!("----xyz\r\n{header}\r\n\r\n");
            assert!(matches!(read(body.as_bytes(), 4), Err(FormError::Header(_))), "{header}");
        }
        let endless = [b"----xyz\r\n".as_slice(), &vec![b'x'; 100_000]].concat();
        assert_eq!(read(&endless, 1000), Err(FormError::HeaderSize));
        let late = [endless.as_slice(), b"\r\n\r\n"].concat();
        assert_eq!(read(&late, late.len()), Err(FormError::HeaderSize));
    }
}
