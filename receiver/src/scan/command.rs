//! Any other scanner: a program that is given a file on its standard input, without a shell.
//!
//! | it ends with | means |
//! |---|---|
//! | 0 | clean |
//! | 1 | found; the first line of its output says what |
//! | anything else, or not in time | unscanned |

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diodesync::id::Sha256;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Down, Verdict};

/// Octets of its output that are looked at.
const OUTPUT_BYTES_MAX: u64 = 4096;
/// How often it is looked whether it has ended.
const TICK: Duration = Duration::from_millis(10);

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    program: PathBuf,
    arguments: Vec<String>,
    timeout: Duration,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

impl Command {
    /// A program by its absolute path, and its arguments.
    pub fn new(words: &[String], timeout: Duration) -> Result<Self, String> {
        match words.split_first() {
            Some((program, arguments)) if program.starts_with('/') => {
                Ok(Self { program: program.into(), arguments: arguments.to_vec(), timeout })
            }
            _ => Err(format!("expected a program's absolute path and its arguments, found {words:?}")),
        }
    }

    /// Shows it a file.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn scan(
        &self,
        content: &mut (impl Read + Send),
        artifact: &str,
        digest: &Sha256,
        stop: &AtomicBool,
    ) -> Result<Verdict, Down> {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("DIODESYNC_ARTIFACT", artifact)
            .env("DIODESYNC_SHA256", digest.to_string())
            .current_dir("/")
            // A group of its own, so that what it has started ends with it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = command.spawn();
        let mut child =
            child.map_err(|error| Down(format!("{} cannot be started: {error}", self.program.display())))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        std::thread::scope(|scope| {
            let feeding = scope.spawn(move || stdin.map_or(Ok(()), |mut stdin| feed(content, &mut stdin)));
            let reading = scope.spawn(move || {
                let mut output = Vec::new();
                if let Some(mut stdout) = stdout {
                    let _ = (&mut stdout).take(OUTPUT_BYTES_MAX).read_to_end(&mut output);
                    let _ = io::copy(&mut stdout, &mut io::sink());
                }
                output
            });
            let ended = self.wait(&mut child, stop);
            let fed = feeding.join().unwrap_or_else(|_| Err(io::Error::other("reading the file crashed")));
            let output = reading.join().unwrap_or_default();
            Ok(match (ended, fed) {
                (_, Err(error)) => Verdict::Unscanned(format!("it cannot be read: {error}")),
                (Err(why), _) => Verdict::Unscanned(why),
                (Ok(Some(0)), Ok(())) => Verdict::Clean,
                (Ok(Some(1)), Ok(())) => Verdict::Found(first_line(&output)),
                (Ok(code), Ok(())) => {
                    let code = code.map_or("a signal".to_owned(), |code| format!("code {code}"));
                    Verdict::Unscanned(format!("{} ended with {code}", self.program.display()))
                }
            })
        })
    }

    /// Ends what it has started and left behind, which would hold its output open.
    fn end(child: &Child) {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn wait(&self, child: &mut Child, stop: &AtomicBool) -> Result<Option<i32>, String> {
        let began = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    Self::end(child);
                    return Ok(status.code());
                }
                Ok(None) if began.elapsed() < self.timeout && !stop.load(Ordering::Relaxed) => {
                    std::thread::sleep(TICK);
                }
                other => {
                    Self::end(child);
                    let _ = child.wait();
                    return Err(match other {
                        Err(error) => error.to_string(),
                        Ok(_) => format!(
                            "{} has not ended within {} s",
                            self.program.display(),
                            self.timeout.as_secs()
                        ),
                    });
                }
            }
        }
    }
}

/// Gives a program what it reads; that it reads no further is its own matter.
fn feed(content: &mut impl Read, stdin: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = content.read(&mut buffer)?;
        if read == 0 || stdin.write_all(buffer.get(..read).unwrap_or_default()).is_err() {
            return Ok(());
        }
    }
}

fn first_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().next().unwrap_or_default();
    let line: String = line.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.trim().is_empty() { "something that it does not name".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, content: &[u8], timeout_ms: u64) -> Result<Verdict, Down> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        let command = Command::new(&words, Duration::from_millis(timeout_ms)).unwrap();
        command.scan(&mut &content[..], "file x", &Sha256([0xab; 32]), &AtomicBool::new(false))
    }

    #[test]
    fn its_exit_code_decides() {
        let script = "test \"$(wc -c)\" = 300000 && test \"$DIODESYNC_ARTIFACT\" = 'file x'";
        assert_eq!(run(script, &[7; 300_000], 20_000).unwrap(), Verdict::Clean);
        // One that does not read it all is no failure.
        assert_eq!(run("exit 0", &[7; 3_000_000], 20_000).unwrap(), Verdict::Clean);
        let found = run("echo Bad.Thing; echo more; exit 1", b"x", 20_000).unwrap();
        assert_eq!(found, Verdict::Found("Bad.Thing".to_owned()));
        let Verdict::Unscanned(why) = run("exit 2", b"x", 20_000).unwrap() else { panic!() };
        assert!(why.contains("code 2"), "{why}");
        let Verdict::Unscanned(why) = run("sleep 60; true", b"x", 100).unwrap() else { panic!() };
        assert!(why.contains("has not ended"), "{why}");
        // What it leaves behind is not waited for.
        assert_eq!(run("sleep 60 & exit 0", b"x", 20_000).unwrap(), Verdict::Clean);
        let nothing = Command::new(&["/nowhere/scan".to_owned()], Duration::from_secs(1)).unwrap();
        let stop = AtomicBool::new(false);
        let error = nothing.scan(&mut b"x".as_slice(), "file x", &Sha256([0; 32]), &stop).unwrap_err();
        assert!(error.0.contains("cannot be started"), "{error}");
        for bad in [vec![], vec!["scan".to_owned()]] {
            assert!(Command::new(&bad, Duration::from_secs(1)).is_err());
        }
    }
}
