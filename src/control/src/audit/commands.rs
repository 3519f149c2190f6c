//! `audit show`, `audit verify`: they read the files themselves, and need no daemon.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use diodesync::audit::Line;
use diodesync::pack::PackError;
use diodesync::quantity::parse_duration;

use super::{Place, log, verify as rules};
use crate::clock_ms;

/// What `audit show` is told.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Only entries since then: a time like 2026-11-27T08:00:00Z, or a span like 2d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
}

/// What `audit verify` is told.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A checkpoint that was exported before; may be given more than once
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// The public audit key, if that which lies beside the log is not to be believed
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A point in time.
#[derive(Debug, Clone, Copy)]
enum Since {
    At(jiff::Timestamp),
    Ago(Duration),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(at) = text.parse() {
        return Ok(Since::At(at));
    }
    let expected = || format!("expected a time like 2026-11-27T08:00:00Z or a span like 2d, found {text:?}");
    parse_duration(text).map(Since::Ago).map_err(|_| expected())
}

impl Since {
    fn ms(self) -> u64 {
        match self {
            Self::At(at) => u64::try_from(at.as_millisecond()).unwrap_or(0),
            Self::Ago(span) => clock_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Prints entries, as they are or for people.
pub fn show(place: &Place, args: &ShowArgs, json: bool) -> anyhow::Result<()> {
    use std::io::Write;
    let since = args.since.map_or(0, Since::ms);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (_, path) in log::files(&place.folder())? {
        let done = log::each_line::<Ended>(&path, |octets| {
            match Line::parse(octets) {
                Ok(line) if line.time_ms < since => Ok(()),
                Ok(_) if json => out.write_all(octets).and_then(|()| out.write_all(b"\n")),
                Ok(line) => writeln!(out, "{}", line.to_text()),
                Err(why) => {
                    eprintln!("{}: a line is no entry: {why}; see: audit verify", path.display());
                    Ok(())
                }
            }
            .map_err(Ended::Pipe)
        });
        match done {
            Ok(_) => {}
            // Who reads has seen enough.
            Err(Ended::Pipe(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(Ended::Pipe(error)) => return Err(error).context("cannot write"),
            Err(Ended::Io(error)) => return Err(error.into()),
        }
    }
    match out.flush() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

enum Ended {
    Io(PackError),
    Pipe(std::io::Error),
}

impl From<PackError> for Ended {
    fn from(error: PackError) -> Self {
        Self::Io(error)
    }
}

/// Says whether the log is what was written.
///
/// # Errors
/// The first entry that is not.
pub fn verify(place: &Place, args: &VerifyArgs, json: bool) -> anyhow::Result<()> {
    let key = match &args.key {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .parse()
            .with_context(|| path.display().to_string())?,
        None => place.public_key()?,
    };
    let good = rules::verify(place, &args.checkpoint, key)?;
    if json {
        let compared: Vec<u64> = good.checkpoints.iter().map(|checkpoint| checkpoint.seq).collect();
        println!(
            "{:#}",
            serde_json::json!({ "entries": good.head.seq, "hash": good.head.hash, "checkpoints": compared })
        );
        return Ok(());
    }
    println!("{} entries, each as it was written; the last has SHA-256 {}", good.head.seq, good.head.hash);
    for checkpoint in &good.checkpoints {
        println!("as the checkpoint of entry {} says", checkpoint.seq);
    }
    if args.checkpoint.is_empty() {
        let own = if good.has_own { "; the log's own checkpoint lies beside it" } else { "" };
        println!(
            "Who can write the log could have written it anew{own}. An exported checkpoint finds that: audit checkpoint > FILE"
        );
    }
    Ok(())
}
