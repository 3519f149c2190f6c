//! The commands.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::verify::Report;
use diodesync::quantity::{BitsPerS, Bytes};
use diodesync::release::approval::Decision;
use diodesync_control::audit;
use diodesync_control::reload::Reloaded;
use diodesync_control::{Client, Manual, Progress, ask_verify};

use crate::approve::{self, DecideArgs, HeldReleases};
use crate::audit as own_audit;
use crate::config::Config;
use crate::publish::{GcReport, GcRequest};
use crate::status::{Missing, Status};
use crate::verify::MEND;
use crate::{feed, import, init, rotate, run, ticket};

#[derive(Debug, Parser)]
#[command(
    name = "diode-receiver",
    version,
    about = "The high side of a Diodesync link",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
    config: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make keys, the mirror's certificate, configuration and receiver.pub
    Init {
        /// The folder for everything that the receiver keeps
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Names and addresses under which clients reach the mirror; this host's name, if none is given
        #[arg(long, value_name = "NAME", num_args = 1..)]
        host: Vec<String>,
        /// Make a mirror host, which follows the receiver whose feed-file has made this file
        #[arg(long, value_name = "FILE")]
        mirror_host: Option<PathBuf>,
    },
    /// Write what a mirror host must know of this receiver to follow it; there is no secret in it
    FeedFile {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
        config: PathBuf,
        /// Where it goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Record the sender that this receiver listens to
    Pair {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
        config: PathBuf,
        /// The file that diode-sender init made
        pairing: PathBuf,
    },
    /// Make a new receiver key; sessions open with either until --finish
    Rotate {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
        config: PathBuf,
        /// Forget the old key: the sender seals its sessions to the new one
        #[arg(long)]
        finish: bool,
    },
    /// Let sessions be signed with a link key that the sender has gone over to while this receiver was down
    AcceptLinkKey {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
        config: PathBuf,
        /// The key as diode-sender status shows it on the low side; whoever has carried it here is trusted with the link
        key: String,
    },
    /// Run the daemon
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/diodesync/receiver.toml")]
        config: PathBuf,
        /// Fill only this role; the others run as processes of their own
        #[arg(long, value_name = "ROLE")]
        role: Option<run::Role>,
    },
    /// Show what arrived, what is served, and what needs an operator
    Status {
        #[command(flatten)]
        common: Common,
        /// Show it live until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Have releases published although the sender's clock and this one are apart
    AcknowledgeClock {
        #[command(flatten)]
        common: Common,
    },
    /// Read again what may be published: policy, approvers, scanners, what channels need and keep
    Reload {
        #[command(flatten)]
        common: Common,
    },
    /// Take releases from removable media, or show or throw away what came of them in part
    Import {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: import::ImportArgs,
    },
    /// Who did what: a log in which no entry can be changed without a trace
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Compare everything that is kept with its digests; exit code 1 if something is damaged
    Verify {
        #[command(flatten)]
        common: Common,
    },
    /// Forget releases that are not kept by the configuration as it is now, and give their room back; the daemon does so by
    /// itself after each publication
    Gc {
        #[command(flatten)]
        common: Common,
        /// Show what would go and how much room it takes, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make an approver's key, on any machine
    ApproverKey(approve::MakeKeyArgs),
    /// Show what waits for approvers, and what it changes
    Held {
        #[command(flatten)]
        common: Common,
        /// The release
        number: Option<u64>,
        /// Its channel
        #[arg(long, default_value = "main")]
        channel: Channel,
        /// Print a request, to be carried to where an approver's key is
        #[arg(long)]
        request: bool,
    },
    /// Sign that a release may be published
    Approve {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: DecideArgs,
    },
    /// Sign that a release must not be published
    Reject {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        args: DecideArgs,
        /// The reason, one line
        #[arg(long, value_name = "TEXT", required_unless_present = "signed")]
        why: Option<String>,
    },
    /// Name what a release still lacks after its last round
    Missing {
        #[command(flatten)]
        common: Common,
        /// Print a ticket that says so to the sender: carry it there, and run diode-sender resend
        #[arg(long)]
        ticket: bool,
        /// Print the ticket as QR codes too
        #[arg(long, requires = "ticket")]
        qr: bool,
    },
    #[command(flatten)]
    Manual(Manual),
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
        Command::Init { dir, host, mirror_host } => init::init(&dir, &host, mirror_host.as_deref()),
        Command::FeedFile { config, out } => {
            Config::load(&config).and_then(|config| feed::write(&config, &out))
        }
        Command::Pair { config, pairing } => {
            Config::load(&config).and_then(|config| init::pair(&config.dir, &pairing))
        }
        Command::Rotate { config, finish } => {
            Config::load(&config).and_then(|config| rotate::rotate(&config.dir, finish))
        }
        Command::AcceptLinkKey { config, key } => {
            Config::load(&config).and_then(|config| init::accept_link_key(&config.dir, &key))
        }
        Command::Run { config, role } => run::run(&config, role),
        Command::Manual(manual) => manual.make(env!("CARGO_PKG_NAME"), &Cli::command()),
        Command::ApproverKey(args) => approve::make_key(&args),
        Command::Approve { args, .. } if args.is_offline() => approve::offline(&args, Decision::Approve),
        Command::Reject { args, why, .. } if args.is_offline() => approve::offline(&args, rejection(why)),
        other => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(ask(other))),
    })
}

fn client(common: &Common) -> anyhow::Result<Client> {
    let config = Config::load(&common.config)?;
    let start_with = format!("diode-receiver run --config {}", common.config.display());
    Ok(Client::new(&config.socket(), start_with))
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

fn rejection(why: Option<String>) -> Decision {
    Decision::Reject(why.unwrap_or_default())
}

async fn decide(common: &Common, args: &DecideArgs, decision: Decision) -> anyhow::Result<()> {
    let decided = approve::decide(&client(common)?, args, decision).await?;
    if common.json {
        println!("{:#}", serde_json::to_value(&decided)?);
    } else {
        println!("{}", decided.to_text());
    }
    Ok(())
}

async fn ask(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Audit(command) => ask_audit(command).await?,
        Command::Status { common, watch: false } => {
            let answer = client(&common)?.get("/v1/status").await?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", serde_json::from_value::<Status>(answer)?.to_text());
            }
        }
        Command::Status { common, watch: true } => watch(&common).await?,
        Command::Import { common, args } => import::import(&client(&common)?, args, common.json).await?,
        Command::AcknowledgeClock { common } => {
            let answer = client(&common)?.post("/v1/acknowledge-clock", &serde_json::Value::Null).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                println!("acknowledged; status tells what is published");
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
        Command::Missing { common, ticket: true, qr } => {
            let answer = client(&common)?.get("/v1/ticket").await?;
            match answer.as_str() {
                _ if common.json => println!("{}", serde_json::json!({ "ticket": answer })),
                Some(text) => {
                    print!("{text}");
                    if qr {
                        print!("{}", ticket::qr(text)?);
                    }
                    eprintln!(
                        "On the low side: diode-sender resend FILE, or type it after diode-sender resend"
                    );
                }
                None => eprintln!("nothing is missing, or it may still come by itself"),
            }
        }
        Command::Missing { common, ticket: false, .. } => {
            let answer = client(&common)?.get("/v1/missing").await?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", serde_json::from_value::<Missing>(answer)?.to_text());
            }
        }
        Command::Gc { common, dry_run } => {
            let keep = Some(Config::load(&common.config)?.keep());
            let request = serde_json::to_value(GcRequest { is_dry_run: dry_run, keep })?;
            let answer = client(&common)?.post("/v1/gc", &request).await?;
            if common.json {
                println!("{answer:#}");
            } else {
                print!("{}", serde_json::from_value::<GcReport>(answer)?.to_text());
            }
        }
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
        Command::Held { common, number, channel, request } => {
            let answer = client(&common)?.get("/v1/held").await?;
            let held: HeldReleases = serde_json::from_value(answer.clone())?;
            match (common.json, request) {
                (true, _) => println!("{answer:#}"),
                (false, true) => print!("{}", held.find(&channel, number.map(ReleaseNo))?.to_request()),
                (false, false) => print!("{}", held.to_text()),
            }
        }
        Command::Approve { common, args } => decide(&common, &args, Decision::Approve).await?,
        Command::Reject { common, args, why } => decide(&common, &args, rejection(why)).await?,
        Command::ApproverKey { .. }
        | Command::Init { .. }
        | Command::FeedFile { .. }
        | Command::Pair { .. }
        | Command::Rotate { .. }
        | Command::AcceptLinkKey { .. }
        | Command::Run { .. }
        | Command::Manual(_) => {}
    }
    Ok(())
}

/// Live progress: a bar on a terminal, a line a second in a pipe.
async fn watch(common: &Common) -> anyhow::Result<()> {
    let client = client(common)?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let progress = Progress::new(0);
    loop {
        let status: Status = serde_json::from_value(client.get("/v1/status").await?)?;
        let rate = status.lanes.iter().map(|lane| lane.rate_bits_per_s).sum();
        let lost: u64 = status.lanes.iter().map(|lane| lane.lost).sum();
        for channel in &status.channels {
            let Some(release) = channel.releases.last() else { continue };
            let text = format!(
                "{} {} {}, {}, {} lost, {} repaired",
                channel.channel,
                release.number,
                release.state,
                BitsPerS(rate),
                lost,
                status.decoding.repaired
            );
            if is_terminal {
                progress.set(release.bytes_held, release.bytes_needed);
                progress.message(text);
            } else {
                println!("{text}, {} of {}", Bytes(release.bytes_held), Bytes(release.bytes_needed));
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
