//! The commands.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use diodesync::id::{Channel, LaneId, ReleaseNo};
use diodesync::pack::verify::Report;
use diodesync::quantity::{BitsPerS, Bytes, Rate};
use diodesync_control::audit;
use diodesync_control::reload::Reloaded;
use diodesync_control::{Client, Manual, Progress, ask_verify};
use serde_json::Value;

use crate::api::ReleaseRequest;
use crate::audit as own_audit;
use crate::config::Config;
use crate::release::Cut;
use crate::resend::Again;
use crate::sources::command::sync;
use crate::sources::profile::{self, ProfileArgs};
use crate::status::Status;
use crate::verify::MEND;
use crate::withdraw::{self, Listing};
use crate::{export, init, link_key, probe, producers, receivers, resend, restore, rotate, run, submit};

#[derive(Debug, Parser)]
#[command(name = "diode-sender", version, about = "The low side of a Diodesync link", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/sender.toml")]
    config: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys, configuration and the pairing file for a receiver
    Init {
        /// The folder for everything that the sender keeps
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The receiver's public key, made by: diode-receiver init
        #[arg(long, value_name = "FILE")]
        receiver: PathBuf,
    },
    /// Run the daemon
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/sender.toml")]
        config: PathBuf,
    },
    /// Hand artifacts to the sender for the next release
    #[command(subcommand)]
    Submit(Submit),
    /// Make the key by which a sender elsewhere knows this host: for submit --to
    ProducerKey {
        /// The folder for it
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Show who may submit over the network, and the pin by which they know this sender
    Producers {
        #[command(flatten)]
        common: Common,
    },
    /// Pull what is configured as [[source]] now; exit code 1 if something was refused or failed
    Sync {
        #[command(flatten)]
        common: Common,
        /// Names of sources; all of them, if none is given
        #[arg(value_name = "SOURCE")]
        sources: Vec<String>,
    },
    /// Print the sources that a profile stands for, to copy and change
    Profile(ProfileArgs),
    /// Cut a release of the present state and send it
    Release {
        #[command(flatten)]
        common: Common,
        /// The channel
        #[arg(long, default_value = "main")]
        channel: Channel,
        /// Send every block, also those that went out with earlier releases
        #[arg(long)]
        full: bool,
        /// Wait until all rounds went out
        #[arg(long)]
        wait: bool,
    },
    /// Show what the next release of a channel would serve
    List {
        #[command(flatten)]
        common: Common,
        /// The channel
        #[arg(long, default_value = "main")]
        channel: Channel,
    },
    /// Have the next release of a channel not serve some artifacts any more
    Withdraw {
        #[command(flatten)]
        common: Common,
        /// Names as list shows them, like "image ghcr.io/a/b:v1"; with a * at the end, all that begin so
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// The channel
        #[arg(long, default_value = "main")]
        channel: Channel,
    },
    /// Send trains of datagrams at rising rates; the receiver's status names the highest that was clean
    Probe {
        #[command(flatten)]
        common: Common,
        /// The lane, if there are several
        #[arg(value_name = "LANE")]
        lane: Option<LaneId>,
        /// Go no higher than this, such as 1gbit
        #[arg(long, value_name = "RATE", default_value = "max")]
        max: Rate,
    },
    /// Send again what the receiver lacks, by the ticket that diode-receiver missing --ticket has printed there
    Resend {
        #[command(flatten)]
        common: Common,
        /// A file that holds the ticket, - for standard input, or its text
        #[arg(value_name = "TICKET", required_unless_present = "release")]
        ticket: Vec<String>,
        /// Without a ticket: all of this release
        #[arg(long, value_name = "N", conflicts_with = "ticket")]
        release: Option<u64>,
        /// The channel of --release
        #[arg(long, default_value = "main")]
        channel: Channel,
    },
    /// Make a new TUF root with a new root key, signed by the old one too
    RotateRoot {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: rotate::RotateRootArgs,
    },
    /// Make a new link key and announce it in signed metadata; sessions use it after --finish
    RotateLink {
        #[command(flatten)]
        common: Common,
        /// Sign sessions with the announced key from the next start on, and forget the old one
        #[arg(long)]
        finish: bool,
    },
    /// The receivers that sessions are sealed to
    #[command(subcommand)]
    Receivers(Receivers),
    /// Go on above the numbers that the high side knows, after this side was restored from a backup
    Restore {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: restore::RestoreArgs,
    },
    /// Write the newest release onto removable media
    Export {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: export::ExportArgs,
    },
    /// Who did what: a log in which no entry can be changed without a trace
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Compare everything that is kept with its digests; exit code 1 if something is damaged
    Verify {
        #[command(flatten)]
        common: Common,
    },
    /// Take what has changed in the configuration: sources, producers, channels, lives of signatures, rates of lanes
    Reload {
        #[command(flatten)]
        common: Common,
    },
    /// Show what the sender is doing
    Status {
        #[command(flatten)]
        common: Common,
        /// Show it live until interrupted
        #[arg(long)]
        watch: bool,
    },
    #[command(flatten)]
    Manual(Manual),
}

#[derive(Debug, Subcommand)]
enum Receivers {
    /// Show their keys
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Seal sessions to one more: a standby, a splitter, the next key of a receiver that rotates
    Add {
        #[command(flatten)]
        common: Common,
        /// Its receiver.pub
        public: PathBuf,
    },
    /// Seal sessions to one no more
    Remove {
        #[command(flatten)]
        common: Common,
        /// The key as the list shows it, or its first digits
        key: String,
    },
}

#[derive(Debug, Subcommand)]
enum Submit {
    /// Plain files and folders
    Files {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        to: submit::To,
        #[command(flatten)]
        args: submit::FilesArgs,
    },
    /// A version of a Terraform module, as the archive that its registry gives out
    Module {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        to: submit::To,
        #[command(flatten)]
        args: submit::ModuleArgs,
    },
    /// Debian packages, for a suite of the archive that the mirror serves
    Packages {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        to: submit::To,
        #[command(flatten)]
        args: submit::PackagesArgs,
    },
    /// A container image from an OCI layout, with its signatures
    Image {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        to: submit::To,
        #[command(flatten)]
        args: submit::ImageArgs,
    },
    /// Archives of a Terraform provider, with the proof that its registry gives
    Provider {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        to: submit::To,
        #[command(flatten)]
        args: submit::ProviderArgs,
    },
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Show the log; with --json its lines as they are
    Show {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: audit::ShowArgs,
    },
    /// Print how far the log goes, signed, to be kept elsewhere
    Checkpoint {
        #[command(flatten)]
        common: Common,
    },
    /// Look for entries that were changed, taken out, put in or cut off; exit code 1 if there is one
    Verify {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: audit::VerifyArgs,
    },
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    diodesync_control::init_log();
    diodesync_control::exit(match cli.command {
        Command::Init { dir, receiver } => init::init(&dir, &receiver),
        Command::Run { config } => run::run(&config),
        Command::Manual(manual) => manual.make(env!("CARGO_PKG_NAME"), &Cli::command()),
        Command::ProducerKey { out } => producers::make_key(&out),
        Command::Profile(args) => {
            profile::print(&args);
            Ok(())
        }
        Command::Receivers(command) => change_receivers(command),
        Command::Restore { common, args } => {
            Config::load(&common.config).and_then(|config| restore::restore(&config, &args))
        }
        other => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(ask(other))),
    })
}

fn change_receivers(command: Receivers) -> anyhow::Result<()> {
    let (common, change) = match command {
        Receivers::List { common } => (common, None),
        Receivers::Add { common, public } => (common, Some(receivers::Change::Add(public))),
        Receivers::Remove { common, key } => (common, Some(receivers::Change::Remove(key))),
    };
    receivers::receivers(&Config::load(&common.config)?.dir, change, common.json)
}

fn client(common: &Common) -> anyhow::Result<Client> {
    let config = Config::load(&common.config)?;
    let start_with = format!("diode-sender run --config {}", common.config.display());
    Ok(Client::new(&config.socket(), start_with))
}

fn target(common: &Common, to: submit::To) -> anyhow::Result<submit::Target> {
    submit::Target::new(to, || client(common))
}

async fn ask_audit(command: AuditCommand) -> anyhow::Result<()> {
    let place = |common: &Common| anyhow::Ok(own_audit::place(&Config::load(&common.config)?.dir));
    match command {
        AuditCommand::Show { common, args } => audit::show(&place(&common)?, &args, common.json),
        AuditCommand::Verify { common, args } => audit::verify(&place(&common)?, &args, common.json),
        AuditCommand::Checkpoint { common } => {
            let config = Config::load(&common.config)?;
            let checkpoint = match config.socket().exists() {
                true => serde_json::from_value(client(&common)?.get("/v1/audit/checkpoint").await?)?,
                false => own_audit::open(&config.dir)?.checkpoint()?,
            };
            print!("{}", checkpoint.encode());
            Ok(())
        }
    }
}

async fn ask(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Audit(command) => ask_audit(command).await?,
        Command::RotateLink { common, finish } => {
            link_key::rotate(&Config::load(&common.config)?, &client(&common)?, finish).await?;
        }
        Command::RotateRoot { common, args } => {
            rotate::rotate_root(&Config::load(&common.config)?, &client(&common)?, &args).await?;
        }
        Command::Submit(Submit::Files { common, to, args }) => {
            let answer = submit::files(&target(&common, to)?, args).await?;
            report_submission(&common, &answer);
        }
        Command::Submit(Submit::Packages { common, to, args }) => {
            let answer = submit::packages(&target(&common, to)?, args).await?;
            report_submission(&common, &answer);
        }
        Command::Submit(Submit::Module { common, to, args }) => {
            let answer = submit::module(&target(&common, to)?, args).await?;
            report_submission(&common, &answer);
        }
        Command::Submit(Submit::Image { common, to, args }) => {
            let answer = submit::image(&target(&common, to)?, args).await?;
            report_submission(&common, &answer);
        }
        Command::Submit(Submit::Provider { common, to, args }) => {
            let answer = submit::provider(&target(&common, to)?, args).await?;
            report_submission(&common, &answer);
        }
        Command::Producers { common } => producers::producers(&client(&common)?, common.json).await?,
        Command::Sync { common, sources } => sync(&client(&common)?, sources, common.json).await?,
        Command::Release { common, channel, full, wait } => release(&common, channel, full, wait).await?,
        Command::List { common, channel } => {
            let answer = client(&common)?.get(&format!("/v1/artifacts/{channel}")).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                let listing: Listing = serde_json::from_value(answer)?;
                listing.artifacts.iter().for_each(|name| println!("{name}"));
                listing.withdrawn.iter().for_each(|name| eprintln!("withdrawn: {name}"));
            }
        }
        Command::Withdraw { common, names, channel } => {
            let request = serde_json::to_value(withdraw::Request { channel: channel.clone(), names })?;
            let answer = client(&common)?.post("/v1/withdraw", &request).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                for name in serde_json::from_value::<Vec<String>>(answer)? {
                    println!("withdrawn: {name}");
                }
                println!("The next release serves them no more: diode-sender release --channel {channel}");
            }
        }
        Command::Reload { common } => {
            let answer = client(&common)?.post("/v1/reload", &serde_json::Value::Null).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", serde_json::from_value::<Reloaded>(answer)?.to_text());
            }
        }
        Command::Probe { common, lane, max } => {
            let config = Config::load(&common.config)?;
            let lanes: Vec<LaneId> = config.lane.iter().map(|lane| lane.name.clone()).collect();
            probe::probe(&client(&common)?, &lanes, lane, max, common.json).await?;
        }
        Command::Resend { common, ticket, release, channel } => {
            let request = match release {
                Some(number) => resend::Request::Release(channel, ReleaseNo(number)),
                None => resend::Request::Ticket(resend::read_ticket(&ticket)?),
            };
            let answer = client(&common)?.post("/v1/resend", &serde_json::to_value(request)?).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                for again in serde_json::from_value::<Vec<Again>>(answer)? {
                    let Again { channel, number, asked, blocks, bytes } = again;
                    let bytes = Bytes(bytes);
                    println!("channel {channel}: {blocks} blocks, {bytes}, that release {asked} needs");
                    if asked != number {
                        println!("  they go with release {number}, which has superseded it");
                    }
                }
                println!("They go first, in all rounds. Nobody here can know whether they arrive.");
            }
        }
        Command::Export { common, args } => export::export(&client(&common)?, args).await?,
        Command::Status { common, watch: false } => {
            let answer = client(&common)?.get("/v1/status").await?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", serde_json::from_value::<Status>(answer)?.to_text());
            }
        }
        Command::Status { common, watch: true } => watch(&common).await?,
        Command::Verify { common } => {
            let answer = ask_verify(&client(&common)?).await?;
            let report: Report = serde_json::from_value(answer.clone())?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", report.to_text(MEND));
            }
            anyhow::ensure!(report.is_clean(), "damage was found");
        }
        Command::Init { .. }
        | Command::Run { .. }
        | Command::Restore { .. }
        | Command::ProducerKey { .. }
        | Command::Profile(_)
        | Command::Receivers(_)
        | Command::Manual(_) => {}
    }
    Ok(())
}

fn report_submission(common: &Common, answer: &Value) {
    if common.json {
        println!("{answer:#}");
        return;
    }
    let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
    for image in answer.get("images").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| image.get(key).and_then(Value::as_str).unwrap_or_default();
        println!("{} {}", text("image"), text("manifest"));
    }
    let (artifacts, bytes, new) = (number("artifacts"), Bytes(number("bytes")), Bytes(number("new_bytes")));
    match answer.get("sent_bytes").and_then(Value::as_u64) {
        Some(sent) => println!("submitted {artifacts} artifacts, {bytes}; {} were sent", Bytes(sent)),
        None => {
            println!(
                "submitted {artifacts} artifacts, {bytes} ({new} new). Send them with: diode-sender release"
            );
        }
    }
}

async fn release(common: &Common, channel: Channel, full: bool, wait: bool) -> anyhow::Result<()> {
    let client = client(common)?;
    let request = serde_json::to_value(ReleaseRequest { channel, full })?;
    let answer = client.post("/v1/release", &request).await?;
    let cut: Cut = serde_json::from_value(answer.clone())?;
    if common.json {
        println!("{answer:#}");
    } else {
        let baseline = match cut.baseline {
            Some(baseline) => format!("what release {baseline} lacks"),
            None => "everything".to_owned(),
        };
        println!(
            "release {} {}: {} artifacts, {}; sending {baseline}: {} in {} blocks",
            cut.channel,
            cut.number,
            cut.artifacts,
            Bytes(cut.bytes),
            Bytes(cut.send_bytes),
            cut.send_blocks
        );
    }
    if !wait {
        return Ok(());
    }
    let progress = Progress::new(cut.send_bytes);
    loop {
        let status: Status = serde_json::from_value(client.get("/v1/status").await?)?;
        let channel = status.channels.iter().find(|channel| channel.channel == cut.channel);
        let Some(channel) = channel.filter(|channel| channel.newest == Some(cut.number)) else {
            anyhow::bail!(
                "release {} was superseded by a newer one before its rounds were complete",
                cut.number
            );
        };
        progress.message(format!("round {} of {}, {}", channel.round, channel.rounds, channel.state));
        progress.set(channel.sent_bytes, channel.total_bytes);
        if channel.state == "complete" {
            progress.finish();
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Live progress: a bar on a terminal, a line a second in a pipe.
async fn watch(common: &Common) -> anyhow::Result<()> {
    let client = client(common)?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let progress = Progress::new(0);
    loop {
        let status: Status = serde_json::from_value(client.get("/v1/status").await?)?;
        for (channel, lane) in status.channels.iter().zip(status.lanes.iter().cycle()) {
            let newest = channel.newest.map_or("-".to_owned(), |newest| newest.to_string());
            let text = format!(
                "{} {newest} {}, round {} of {}, {}",
                channel.channel,
                channel.state,
                channel.round,
                channel.rounds,
                BitsPerS(lane.rate_bits_per_s)
            );
            if is_terminal {
                progress.set(channel.sent_bytes, channel.total_bytes);
                progress.message(text);
            } else {
                println!("{text}, {} of {}", Bytes(channel.sent_bytes), Bytes(channel.total_bytes));
            }
        }
        tokio::time::sleep(Duration::from_millis(if is_terminal { 250 } else { 1000 })).await;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
