//! A plain HTTP/1.1 client that says exactly what it is told to, the wrong things too. One request on each connection.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long one answer may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// What is taken into memory of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A server on this machine's loopback.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    port: u16,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The header's fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A field of the header; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("the body is not JSON: {}", self.body))
    }
}

impl Http {
    /// The server at `port`.
    pub fn new(port: u16) -> Self {
        Self { port }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `http://localhost:PORT`.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// A connection.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address())
            .with_context(|| format!("cannot connect to {}", self.address()))?;
        stream.set_read_timeout(Some(TIME_MAX))?;
        stream.set_write_timeout(Some(TIME_MAX))?;
        Ok(stream)
    }

    /// GETs a path.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path, &[], "")
    }

    /// GETs what must be there.
    pub fn get_ok(&self, path: &str) -> Result<Answer> {
        let answer = self.get(path)?;
        if answer.status != 200 {
            bail!("GET {path}: {}: {}", answer.status, answer.body);
        }
        Ok(answer)
    }

    /// Asks with these fields; a `host` among them takes the place of the right one.
    pub fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Result<Answer> {
        self.ask_octets(method, path, fields, body.as_bytes())
    }

    /// [`Http::ask`] with a body of any octets.
    pub fn ask_octets(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| *name == "host") {
            request.push_str(&format!("host: localhost:{}\r\n", self.port));
        }
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("connection: close\r\n\r\n");
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        stream.write_all(body)?;
        read(&mut stream).with_context(|| format!("{method} {path}"))
    }
}

/// Reads an answer up to its end or that of the connection.
pub fn read(stream: &mut TcpStream) -> Result<Answer> {
    let mut octets = Vec::new();
    let mut piece = [0; 65536];
    loop {
        if let Some(answer) = parse(&octets)? {
            return Ok(answer);
        }
        let n = stream.read(&mut piece).context("the answer does not come")?;
        if n == 0 {
            return parse_to_end(&octets);
        }
        octets.extend_from_slice(&piece[..n]);
        if octets.len() > ANSWER_BYTES_MAX {
            bail!("the answer is longer than {ANSWER_BYTES_MAX} octets");
        }
    }
}

/// Status, fields and what follows of the body.
type Head<'a> = (u16, Vec<(String, String)>, &'a [u8]);

fn head(octets: &[u8]) -> Result<Option<Head<'_>>> {
    let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&octets[..end]).context("the header is not text")?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status line")?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Some((status, fields, &octets[end + 4..])))
}

/// The answer, if its length is known and all of it is there.
fn parse(octets: &[u8]) -> Result<Option<Answer>> {
    let Some((status, fields, body)) = head(octets)? else { return Ok(None) };
    let length =
        fields.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let Some(body) = length.and_then(|length: usize| body.get(..length)) else { return Ok(None) };
    let body = String::from_utf8_lossy(body).into_owned();
    Ok(Some(Answer { status, fields, body }))
}

fn parse_to_end(octets: &[u8]) -> Result<Answer> {
    let (status, fields, body) = head(octets)?.context("the connection was closed without an answer")?;
    Ok(Answer { status, fields, body: String::from_utf8_lossy(body).into_owned() })
}
