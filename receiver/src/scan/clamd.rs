//! clamd(8) over its socket: `zVERSION` and `zINSTREAM`.
//!
//! ```text
//! "zINSTREAM" NUL  ( octets u32 big-endian, content ) …  0u32     ──►
//!                                                                 ◄──  "stream: OK" | "stream: NAME FOUND" | "… ERROR", NUL
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{Down, Verdict};

/// Octets that are sent at once.
const CHUNK_BYTES: usize = 1 << 17;
/// Octets of the longest answer.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Where clamd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clamd {
    place: Place,
    timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "expected clamd's socket like \"/run/clamav/clamd.ctl\" or \"127.0.0.1:3310\", found {text:?}"
            )
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Clamd {
    /// At a socket; `timeout` is for each of its answers.
    pub fn new(place: &str, timeout: Duration) -> Result<Self, String> {
        Ok(Self { place: place.parse()?, timeout })
    }

    fn connect(&self) -> Result<Box<dyn Stream>, Down> {
        let timeout = Some(self.timeout);
        let connected = match &self.place {
            Place::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }),
            Place::Tcp(address) => TcpStream::connect_timeout(address, self.timeout).and_then(|stream| {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }),
        };
        connected.map_err(|error| Down(format!("clamd does not answer at {}: {error}", self.place)))
    }

    /// Its version, and that of what it knows.
    pub fn version(&self) -> Result<String, Down> {
        let mut stream = self.connect()?;
        let asked = stream.write_all(b"zVERSION\0").and_then(|()| answer(&mut *stream));
        let text =
            asked.map_err(|error| Down(format!("clamd at {} gives no version: {error}", self.place)))?;
        if text.starts_with("ClamAV") {
            Ok(text)
        } else {
            Err(Down(format!("expected clamd at {}, found something that says {text:?}", self.place)))
        }
    }

    fn late(&self) -> Verdict {
        Verdict::Unscanned(format!("clamd has not finished within {} s", self.timeout.as_secs()))
    }

    /// Shows it a file of at most `max` octets.
    ///
    /// # Errors
    /// [`Down`] if it does not answer; others if the file cannot be read.
    pub fn scan(&self, content: &mut dyn Read, max: u64) -> anyhow::Result<Verdict> {
        let mut stream = self.connect()?;
        let silent = |error: io::Error| Down(format!("clamd at {} broke off: {error}", self.place));
        stream.write_all(b"zINSTREAM\0").map_err(silent)?;
        let (mut left, mut chunk) = (max, vec![0; CHUNK_BYTES]);
        loop {
            let read = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(rest) = left.checked_sub(read as u64) else {
                return Ok(Verdict::Unscanned(format!(
                    "it has more than {max} octets, the limit of [scan] bytes_max"
                )));
            };
            left = rest;
            let part = chunk.get(..read).unwrap_or_default();
            let sent = stream.write_all(&(read as u32).to_be_bytes()).and_then(|()| stream.write_all(part));
            if let Err(error) = sent {
                // It says why before it closes: over its own StreamMaxLength.
                return match answer(&mut *stream) {
                    Ok(text) => Ok(verdict(&text)),
                    Err(_) if error.kind() == io::ErrorKind::WouldBlock => Ok(self.late()),
                    Err(_) => Err(silent(error).into()),
                };
            }
        }
        let asked = stream.write_all(&[0; 4]).and_then(|()| answer(&mut *stream));
        match asked {
            Ok(text) => Ok(verdict(&text)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(self.late()),
            Err(error) => Err(silent(error).into()),
        }
    }
}

fn answer(stream: &mut dyn Stream) -> io::Result<String> {
    let mut octets = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut octets)?;
    if octets.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&octets);
    Ok(text.trim_end_matches(['\0', '\n']).chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// What an answer means. Only one is clean.
fn verdict(answer: &str) -> Verdict {
    match answer.strip_prefix("stream: ") {
        Some("OK") => Verdict::Clean,
        // What it says of its own limits is no find.
        Some(text) if text.starts_with("Heuristics.Limits.Exceeded") => {
            Verdict::Unscanned(format!("clamd says {text:?}; raise its limits"))
        }
        Some(text) if text.ends_with(" FOUND") => Verdict::Found(text.trim_end_matches(" FOUND").to_owned()),
        _ => Verdict::Unscanned(format!("clamd says {answer:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A clamd that gives one answer to each request, and what it was sent.
    fn fake(name: &str, answers: Vec<&'static str>) -> (Clamd, std::thread::JoinHandle<Vec<Vec<u8>>>) {
        let path = std::env::temp_dir().join(format!("diode-clamd-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let clamd = Clamd::new(path.to_str().unwrap(), Duration::from_secs(2)).unwrap();
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut octets = vec![0; 10];
                stream.read_exact(&mut octets).unwrap();
                let mut size = [0; 4];
                loop {
                    stream.read_exact(&mut size).unwrap();
                    match u32::from_be_bytes(size) {
                        0 => break,
                        bytes => {
                            let mut part = vec![0; bytes as usize];
                            stream.read_exact(&mut part).unwrap();
                            octets.extend_from_slice(&part);
                        }
                    }
                }
                sent.push(octets);
                if answer == "silence" {
                    std::thread::sleep(Duration::from_secs(4));
                }
                let _ = stream.write_all(answer.as_bytes());
            }
            std::fs::remove_file(path).unwrap();
            sent
        });
        (clamd, thread)
    }

    #[test]
    fn only_one_answer_is_clean() {
        let answers = vec![
            "stream: OK\0",
            "stream: Eicar-Test-Signature FOUND\0",
            "INSTREAM size limit exceeded. ERROR\0",
            "stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0",
            "stream: OK and more\0",
            "silence",
        ];
        let (clamd, thread) = fake("answers", answers);
        let ask = || clamd.scan(&mut &vec![7; 300_000][..], 300_000).unwrap();
        assert_eq!(ask(), Verdict::Clean);
        assert_eq!(ask(), Verdict::Found("Eicar-Test-Signature".to_owned()));
        for expected in ["size limit exceeded", "raise its limits", "OK and more", "has not finished"] {
            let Verdict::Unscanned(why) = ask() else { panic!("{expected}") };
            assert!(why.contains(expected), "{why}");
        }
        for sent in thread.join().unwrap() {
            assert_eq!(sent, [b"zINSTREAM\0".as_slice(), &[7; 300_000]].concat());
        }
    }

    #[test]
    fn what_is_down_or_too_large_is_not_clean() {
        let nowhere = Clamd::new("/nowhere/clamd.ctl", Duration::from_secs(1)).unwrap();
        assert!(nowhere.version().unwrap_err().0.contains("does not answer at /nowhere/clamd.ctl"));
        let error = nowhere.scan(&mut b"x".as_slice(), 10).unwrap_err();
        assert!(error.is::<Down>(), "{error}");
        let (clamd, thread) = fake("closes", vec![""]);
        assert!(clamd.scan(&mut b"x".as_slice(), 10).unwrap_err().is::<Down>());
        thread.join().unwrap();
        let path = std::env::temp_dir().join(format!("diode-clamd-large-{}", std::process::id()));
        let _listener = UnixListener::bind(&path).unwrap();
        let clamd = Clamd::new(path.to_str().unwrap(), Duration::from_secs(1)).unwrap();
        let Verdict::Unscanned(why) = clamd.scan(&mut [0; 11].as_slice(), 10).unwrap() else { panic!() };
        assert!(why.contains("more than 10 octets"), "{why}");
        std::fs::remove_file(path).unwrap();
        assert!(Clamd::new("clamd", Duration::from_secs(1)).is_err());
    }
}
