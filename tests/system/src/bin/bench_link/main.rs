//! `tests/bench/link`: how fast releases cross, at what cost, against what the same path carries of plain UDP.
//!
//! Both daemons run with their default configuration but for `rate` (and `rounds = 1`, so that a measurement has an end;
//! time counts from the release command to publication). The path is a veth pair between two namespaces, see
//! [`diodesync_system::netns`]; everything on disk is in a tmpfs.
//!
//! Ratios against plain UDP in the same run are what counts across machines and days.

mod control;
mod meter;
mod plot;
mod raw;
mod report;
mod rows;
mod stand;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

/// Measures the link: both daemons on this machine, joined by a one-way path between two network namespaces.
#[derive(Debug, Parser)]
#[command(name = "tests/bench/link", max_term_width = 100)]
pub struct Options {
    /// JSON on standard output instead of tables
    #[arg(long)]
    json: bool,
    /// 1 GiB and one run of each
    #[arg(long)]
    quick: bool,
    /// Only these; can be given again
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Octets of the large release
    #[arg(long, default_value = "4GiB", value_name = "SIZE", value_parser = size)]
    size: u64,
    /// Runs of each goodput, of which the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    runs: usize,
    /// The lane's rate where the table says "max"
    #[arg(long, default_value = "max", value_name = "RATE")]
    rate: String,
    /// Draw goodput against loss, 0 to 10 %, into this SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Also CPU seconds for each GiB by thread
    #[arg(long)]
    threads: bool,
    /// Have perf record both daemons into this folder
    #[arg(long, value_name = "FOLDER")]
    perf: Option<PathBuf>,
    /// Names for --only
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    helper: Option<Helper>,
}

/// What this program runs itself as, inside the namespaces.
#[derive(Debug, Subcommand)]
enum Helper {
    #[command(hide = true)]
    RawSend { to: SocketAddr, payload: usize, bytes: u64 },
    #[command(hide = true)]
    RawReceive { listen: SocketAddr },
}

fn size(text: &str) -> Result<u64, String> {
    let error = || "expected a size like 512MiB or 4GiB".to_owned();
    let (number, shift) = match (text.strip_suffix("MiB"), text.strip_suffix("GiB")) {
        (Some(number), _) => (number, 20),
        (_, Some(number)) => (number, 30),
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(error)?;
    if (64 << 20..=64 << 30).contains(&bytes) { Ok(bytes) } else { Err("expected 64MiB to 64GiB".to_owned()) }
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    let result = match options.helper.take() {
        Some(Helper::RawSend { to, payload, bytes }) => raw::send(to, payload, bytes),
        Some(Helper::RawReceive { listen }) => raw::receive(listen),
        None => run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<()> {
    if options.list {
        rows::NAMES.iter().for_each(|(name, what)| println!("{name:<10} {what}"));
        return Ok(());
    }
    if let Some(name) = options.only.iter().find(|name| !rows::NAMES.iter().any(|(known, _)| known == name)) {
        bail!("there is no measurement called {name}; see --list");
    }
    if options.quick {
        (options.size, options.runs) = (1 << 30, 1);
    }
    let dir = std::env::temp_dir();
    let kind = rustix::fs::statfs(&dir).context("cannot look at the temporary folder")?.f_type;
    const TMPFS: u64 = 0x0102_1994;
    if kind as u64 != TMPFS {
        eprintln!("note: {} is not a tmpfs; its speed is part of what is measured", dir.display());
    }
    let report = rows::measure(&options)?;
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{:#}", report.to_json()?);
    } else {
        print!("{}", report.to_text(options.threads));
    }
    Ok(())
}
