//! `cargo demo [PATH...] [--exit]`: the main job on a machine with nothing set up and no privileges.
//!
//! A real sender and a real receiver, joined by a loopback link that loses 2 % of the datagrams and returns nothing.
//! Real input: the paths given, or the crate archives that this very build has downloaded, and a provider zip made of
//! a built binary and signed on the spot. When everything has crossed, each digest is checked on the far side over
//! HTTPS; then the mirrors stay up, and the next commands to try are printed.
//!
//! Exit status: 0 done (with `--exit`: every digest matched), 1 failed, 2 usage, 130 ended by Ctrl-C before it was done.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use diodesync_system::bins::{Bins, bins, workspace};
use diodesync_system::mirror::Compared;
use diodesync_system::provider::{ProviderRelease, Publisher, host_platform};
use diodesync_system::scratch::Scratch;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::status::{ReceiverStatus, ReleaseState, SendState, SenderStatus};
use diodesync_system::terraform;
use diodesync_system::tree::{self, Digests};
use diodesync_system::weather::Weather;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

const SOURCE: &str = "registry.example.com/diodesync/demo";
const VERSION: &str = "1.0.0";
/// Without any progress for so long, something is wrong.
const STALL_MAX: Duration = Duration::from_secs(90);

/// Sends real input over a one-way loopback link that loses datagrams, checks every digest on the far side, and keeps
/// the mirrors up to be tried.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Options {
    /// Files and folders to send. Without any: the crate archives that this build has downloaded.
    paths: Vec<PathBuf>,
    /// End when everything has been checked, with status 0 only if every digest matched.
    #[arg(long)]
    exit: bool,
    /// The share of datagrams that the link loses.
    #[arg(long, default_value_t = 0.02, value_name = "SHARE", value_parser = share)]
    loss: f64,
    /// The lane's rate.
    #[arg(long, default_value = "400mbit", value_name = "RATE")]
    rate: String,
    /// Where the losses start: the same seed loses the same datagrams.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "expected a number, like 0.02".to_owned())?;
    if (0.0..=0.5).contains(&share) { Ok(share) } else { Err("expected 0 to 0.5".to_owned()) }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    match run(&options, &interrupted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            eprintln!("\ninterrupted; both daemons are stopped and the temporary folder is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, interrupted: &Arc<AtomicBool>) -> Result<()> {
    say("building the daemons (the first time takes a few minutes)");
    let bins = bins()?;
    // Until here Ctrl-C may simply end us; from here on there is something to clean up.
    listen_for_signals(Arc::clone(interrupted))?;
    let input = Input::prepare(&options.paths, &bins)?;
    let mut pair = start(options)?;
    let result = cross(options, &mut pair, &input, interrupted);
    if result.is_err() && !interrupted.load(Ordering::Relaxed) {
        show_logs(&pair);
    }
    result
}

/// Prints a step.
fn say(step: &str) {
    println!("── {step}");
}

/// Sets the flag at SIGINT, SIGTERM or SIGHUP.
fn listen_for_signals(interrupted: Arc<AtomicBool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        interrupted.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// What is sent, and what must be served on the far side.
struct Input {
    /// Arguments for each `submit files`.
    submissions: Vec<Vec<String>>,
    /// Digests by the path on the far side.
    expected: Digests,
    provider: ProviderRelease,
    /// Holds the provider.
    _scratch: Scratch,
}

impl Input {
    fn prepare(paths: &[PathBuf], bins: &Bins) -> Result<Self> {
        let (what, files) = if paths.is_empty() {
            let (archives, into) = downloaded_crates()?;
            let what = format!("{} crate archives that this build has downloaded", archives.len());
            (what, vec![(archives, Some(into))])
        } else {
            (format!("{} paths from the command line", paths.len()), vec![(paths.to_vec(), None)])
        };
        let mut expected = Digests::new();
        let mut submissions = Vec::new();
        for (paths, into) in files {
            let mut arguments = vec!["submit".to_owned(), "files".to_owned()];
            for path in &paths {
                let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
                arguments.push(path.to_str().with_context(|| format!("{path:?} is not UTF-8"))?.to_owned());
                expected.extend(landed(&path, into)?);
            }
            if let Some(into) = into {
                arguments.extend(["--into".to_owned(), into.to_owned()]);
            }
            submissions.push(arguments);
        }
        say(&format!("input: {what}, {}", HumanBytes(expected.values().map(|(_, length)| length).sum())));
        let scratch = Scratch::new("demo-input")?;
        let publisher = Publisher::new()?;
        let provider = publisher.release(
            &scratch.join("provider"),
            SOURCE,
            VERSION,
            &bins.sender,
            &[host_platform()],
        )?;
        let zip = provider.zips.first().context("no platform")?;
        say(&format!(
            "input: provider {SOURCE} {VERSION}, {}, made of the diode-sender binary, signed by key {}",
            HumanBytes(std::fs::metadata(zip)?.len()),
            provider.key_id,
        ));
        Ok(Self { submissions, expected, provider, _scratch: scratch })
    }
}

/// What a submitted path is called on the far side: its own name, below `into`.
fn landed(path: &Path, into: Option<&str>) -> Result<Digests> {
    let name = path.file_name().and_then(|name| name.to_str()).context("a path without a name")?;
    let name = into.map_or_else(|| name.to_owned(), |into| format!("{into}/{name}"));
    if path.is_dir() { tree::digests(path, &name) } else { Ok([(name, tree::digest(path)?)].into()) }
}

/// The archives of the crates in Cargo.lock, from cargo's own cache; the sources of this workspace when there are none
/// (a vendored build downloads nothing).
fn downloaded_crates() -> Result<(Vec<PathBuf>, &'static str)> {
    #[derive(serde::Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let lock = workspace().join("Cargo.lock");
    let lock: Lock = toml::from_str(&std::fs::read_to_string(&lock).context("cannot read Cargo.lock")?)?;
    let wanted: BTreeSet<String> =
        lock.package.iter().map(|package| format!("{}-{}.crate", package.name, package.version)).collect();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let cache = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/cache");
    let mut found = std::collections::BTreeMap::new();
    for registry in std::fs::read_dir(&cache).into_iter().flatten().flatten() {
        for archive in std::fs::read_dir(registry.path()).into_iter().flatten().flatten() {
            let name = archive.file_name().to_string_lossy().into_owned();
            if wanted.contains(&name) {
                // The same archive in two registries' folders is one file.
                found.entry(name).or_insert_with(|| archive.path());
            }
        }
    }
    if found.is_empty() {
        println!("   no crate archives in {}: sending this workspace's sources instead", cache.display());
        return Ok((vec![workspace().join("src").canonicalize()?], "sources"));
    }
    Ok((found.into_values().collect(), "crates"))
}

fn start(options: &Options) -> Result<Pair> {
    let setup = Setup {
        name: "demo",
        rate: options.rate.clone(),
        rounds: 3,
        round_gap: "2s".to_owned(),
        // Ctrl-C is for us; we stop the daemons.
        own_group: true,
        ..Setup::default()
    };
    let weather = Weather { loss: options.loss, ..Weather::lossy(options.seed) };
    say("keys and pairing: diode-receiver init, diode-sender init, diode-receiver pair");
    let mut pair = Pair::over_link(&setup, weather)?;
    pair.start()?;
    let link = pair.link().context("no link")?;
    say(&format!(
        "both daemons run; the link between them loses {} % and carries nothing back ({} → {})",
        options.loss * 100.0,
        link.entry(),
        pair.high_status()?.lanes.first().map(|lane| lane.listen.clone()).unwrap_or_default(),
    ));
    Ok(pair)
}

/// Submits, releases, waits, checks; then keeps the mirrors up.
fn cross(options: &Options, pair: &mut Pair, input: &Input, interrupted: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    for arguments in &input.submissions {
        say(&format!("$ diode-sender {}", shortened(arguments)));
        pair.low.ok(arguments)?;
    }
    let arguments = input.provider.submit_arguments();
    say(&format!("$ diode-sender {}", shortened(&arguments)));
    pair.low.ok(&arguments)?;
    let submitted = start.elapsed();

    say("$ diode-sender release");
    let start = Instant::now();
    pair.low.ok(&["release"])?;
    let high = watch(pair, interrupted)?;
    let crossed = start.elapsed();

    say("checking every digest on the far side, over HTTPS");
    let mut mirror = pair.mirror()?;
    let files = mirror.compare_files(&input.expected)?;
    let archives = mirror.compare_provider(&input.provider)?;
    summarise(pair, &high, submitted, crossed, files, archives)?;
    if options.exit {
        return pair.stop();
    }
    show_next_commands(pair, &input.expected)?;
    while !interrupted.load(Ordering::Relaxed) {
        pair.low.check_alive()?;
        pair.high.check_alive()?;
        std::thread::sleep(Duration::from_millis(200));
    }
    println!();
    say("stopping; the temporary folder is removed");
    pair.stop()
}

/// A command line with its middle left out.
fn shortened(arguments: &[String]) -> String {
    const SHOWN: usize = 5;
    if arguments.len() <= 2 * SHOWN {
        return arguments.join(" ");
    }
    let (head, tail) = (&arguments[..3], &arguments[arguments.len() - 2..]);
    format!("{} … ({} more) {}", head.join(" "), arguments.len() - 5, tail.join(" "))
}

/// Time in which what has come is decoded, at most.
const DECODE_MAX: Duration = Duration::from_secs(10);

/// Shows progress until release 1 is published.
fn watch(pair: &mut Pair, interrupted: &AtomicBool) -> Result<ReceiverStatus> {
    let mut display = Display::new();
    let (mut last_change, mut last_seen) = (Instant::now(), None);
    // Since when no more blocks have come, whatever else is sent.
    let (mut still_since, mut still) = (Instant::now(), None);
    loop {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        pair.low.check_alive()?;
        pair.high.check_alive()?;
        let (low, high) = (pair.low_status()?, pair.high_status()?);
        display.show(&low, &high);
        let release = high.release("main", 1);
        match release.map(|release| release.state) {
            Some(ReleaseState::Published) => {
                display.finish();
                return Ok(high);
            }
            Some(ReleaseState::Refused) => {
                let reason = release.and_then(|release| release.reason.clone()).unwrap_or_default();
                bail!("the receiver refuses the release: {reason}");
            }
            // What came last may still be with the decoder.
            Some(ReleaseState::Incomplete) if is_complete(&low) && still_since.elapsed() > DECODE_MAX => {
                let reason = release.and_then(|release| release.reason.clone()).unwrap_or_default();
                bail!("all rounds are sent and the release is incomplete: {reason}");
            }
            _ => {}
        }
        let here = release.map(|release| (release.blocks_held, release.state));
        if still != Some(here) {
            (still_since, still) = (Instant::now(), Some(here));
        }
        let seen = (here, low.sent_bytes());
        if last_seen != Some(seen) {
            (last_change, last_seen) = (Instant::now(), Some(seen));
        } else if last_change.elapsed() > STALL_MAX {
            bail!("no progress for {} s", STALL_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn is_complete(low: &SenderStatus) -> bool {
    low.channel("main").is_some_and(|channel| channel.state == SendState::Complete)
}

/// One progress line: redrawn on a terminal, now and then a line of its own in a pipe.
struct Display {
    bar: Option<ProgressBar>,
    last_line: Instant,
    last_text: String,
}

impl Display {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("   {bar:30} {percent:>3} % {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last_line: Instant::now(), last_text: String::new() }
    }

    fn show(&mut self, low: &SenderStatus, high: &ReceiverStatus) {
        let text = progress_text(low, high);
        match (&self.bar, high.release("main", 1)) {
            (Some(bar), release) => {
                if let Some(release) = release {
                    bar.set_length(release.bytes_needed);
                    bar.set_position(release.bytes_held);
                }
                bar.set_message(text);
            }
            (None, _) if self.last_line.elapsed() >= Duration::from_secs(2) && text != self.last_text => {
                println!("   {text}");
                let _ = std::io::stdout().flush();
                (self.last_line, self.last_text) = (Instant::now(), text);
            }
            (None, _) => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_text(low: &SenderStatus, high: &ReceiverStatus) -> String {
    let mut text = String::new();
    if let Some(channel) = low.channel("main") {
        text.push_str(&format!(
            "low: round {} of {}, {} of {}",
            channel.round,
            channel.rounds,
            HumanBytes(channel.sent_bytes),
            HumanBytes(channel.total_bytes)
        ));
    }
    if let Some(release) = high.release("main", 1) {
        text.push_str(&format!(" │ high: {} of {} blocks", release.blocks_held, release.blocks_needed));
    }
    if let Some(lane) = high.lanes.first() {
        text.push_str(&format!(", {} datagrams lost", lane.lost));
    }
    text
}

fn summarise(
    pair: &Pair,
    high: &ReceiverStatus,
    submitted: Duration,
    crossed: Duration,
    files: Compared,
    archives: Compared,
) -> Result<()> {
    let link = pair.link().context("no link")?;
    let counts = link.counts();
    let lane = high.lanes.first().context("the receiver has no lane")?;
    let bytes = files.bytes + archives.bytes;
    let mbit_per_s = bytes as f64 * 8.0 / 1e6 / crossed.as_secs_f64();
    println!();
    println!(
        "   every digest matches: {} files and {} provider archives, {}",
        files.files,
        archives.files,
        HumanBytes(bytes)
    );
    println!("   taken in (hashed, proofs checked)  {:.1} s", submitted.as_secs_f64());
    println!(
        "   released until published           {:.1} s, {mbit_per_s:.0} Mbit/s of content",
        crossed.as_secs_f64()
    );
    println!(
        "   the link lost                      {} of {} datagrams ({:.2} %)",
        counts.dropped,
        counts.received,
        counts.dropped as f64 * 100.0 / counts.received.max(1) as f64,
    );
    if let Some(drops) = link.kernel_drops().filter(|drops| *drops > 0) {
        println!("   and this machine was too slow for  {drops} more");
    }
    println!(
        "   the receiver missed                {} (its own socket dropped {})",
        lane.lost, lane.kernel_drops
    );
    println!("   repaired from parity               {}", high.decoding.repaired);
    println!("   rejected as not authentic          {}", lane.rejected);
    println!("   sent back by the receiving side    {}", counts.back);
    if counts.back > 0 {
        bail!("the receiving side sent {} datagrams towards the low side", counts.back);
    }
    Ok(())
}

fn show_next_commands(pair: &Pair, files: &Digests) -> Result<()> {
    let ca = pair.ca();
    let origin = format!("https://localhost:{}", pair.serve_port());
    let bins = bins()?;
    let rc = pair.dir.join("terraformrc");
    let project = pair.dir.join("project");
    std::fs::create_dir_all(&project)?;
    std::fs::write(&rc, pair.mirror()?.terraformrc(false)?)?;
    std::fs::write(
        project.join("main.tf"),
        format!(
            "terraform {{\n  required_providers {{\n    demo = {{\n      source  = {SOURCE:?}\n      version = {VERSION:?}\n    }}\n  }}\n}}\n"
        ),
    )?;
    let (sender, receiver) = (bins.sender.display(), bins.receiver.display());
    let (low, high) = (pair.low.config().display(), pair.high.config().display());
    let (ca, rc, project) = (ca.display(), rc.display(), project.display());
    let file = files.keys().next().map(|path| diodesync_system::https::encode_path(path)).unwrap_or_default();
    println!();
    say("the mirrors are up. In another terminal:");
    println!();
    println!("   # what the far side serves");
    println!("   curl --cacert {ca} {origin}/files.sha256");
    println!("   curl --cacert {ca} -O {origin}/files/{file}");
    println!();
    println!("   # stock terraform checks the publisher's own signature inside the gap");
    let missing = if terraform::find().is_err() { "   (terraform is not installed here)" } else { "" };
    println!("   cd {project}{missing}");
    println!("   TF_CLI_CONFIG_FILE={rc} SSL_CERT_FILE={ca} terraform init");
    println!();
    let [low_dashboard, high_dashboard] = pair.dashboards();
    println!("   # the dashboards");
    println!("   low side   {}/", low_dashboard.origin());
    println!("   high side  {}/", high_dashboard.origin());
    println!();
    println!("   # both sides");
    println!("   {sender} status --config {low}");
    println!("   {receiver} status --config {high}");
    println!();
    println!("   # send more; only what is new crosses");
    println!("   {sender} submit files PATH --config {low}");
    println!("   {sender} release --wait --config {low}");
    println!();
    println!("   Ctrl-C stops both daemons and removes {}", pair.dir.path().display());
    let _ = std::io::stdout().flush();
    Ok(())
}

fn show_logs(pair: &Pair) {
    for (name, log) in [("diode-sender", pair.low.log()), ("diode-receiver", pair.high.log())] {
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("── the last that {name} logged");
        for line in lines.iter().skip(lines.len().saturating_sub(25)) {
            eprintln!("   {line}");
        }
    }
}
