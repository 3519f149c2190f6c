//! What an approver does: make a key, look at what is held, and sign a decision; here, or on a machine of their own from
//! which only text is carried.
//!
//! ```text
//! diode-receiver held --request > R        here
//! diode-receiver approve --offline R --key K > A    where the key is
//! diode-receiver approve --signed A        here, or pasted into the dashboard
//! ```
//!
//! The daemon never sees a private key: it is read by the command that signs, and by nothing else.

mod held;
mod key;
mod terminal;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::parse_duration;
use diodesync::release::approval::{APPROVAL_BYTES_MAX, Approval, Decision, Subject};
use diodesync_control::{Client, clock_s};

use crate::publish::Decided;
pub use held::{HeldRelease, HeldReleases};
pub use key::{MakeKeyArgs, make_key};

/// Octets of the longest request.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// `approve` and `reject`.
#[derive(Debug, clap::Args)]
pub struct DecideArgs {
    /// The release; the one that is held, if there is but one
    number: Option<u64>,
    /// Its channel
    #[arg(long, default_value = "main")]
    channel: Channel,
    /// The approver's key, which diode-receiver approver-key made
    #[arg(long, value_name = "FILE", required_unless_present = "signed")]
    key: Option<PathBuf>,
    /// Take the key's passphrase from the first line of this file, which nobody else may read, and not from the terminal
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "signed")]
    passphrase_file: Option<PathBuf>,
    /// How long an approval counts
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    valid: std::time::Duration,
    /// Sign what a request names, which diode-receiver held --request printed, and print it; asks no daemon. "-" reads it
    /// from standard input
    #[arg(long, value_name = "REQUEST", conflicts_with_all = ["number", "signed"])]
    offline: Option<PathBuf>,
    /// Hand in what was signed elsewhere. "-" reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["number", "key"])]
    signed: Option<PathBuf>,
}

impl DecideArgs {
    /// Whether the daemon need not run.
    pub fn is_offline(&self) -> bool {
        self.offline.is_some()
    }

    fn sign(&self, subject: Subject, decision: Decision) -> anyhow::Result<Approval> {
        let path = self.key.as_deref().context("--key is missing")?;
        let key = key::read_key(path, self.passphrase_file.as_deref())?;
        let now_s = clock_s();
        Ok(key.sign(subject, decision, (now_s, now_s.saturating_add(self.valid.as_secs())))?)
    }
}

/// Signs what a request names.
pub fn offline(args: &DecideArgs, decision: Decision) -> anyhow::Result<()> {
    let path = args.offline.as_deref().context("--offline is missing")?;
    let subject = Subject::parse_request(&read_text(path, REQUEST_BYTES_MAX)?)?;
    eprintln!(
        "release {} {} of link {}, index {}",
        subject.channel, subject.number, subject.link, subject.index
    );
    print!("{}", args.sign(subject, decision)?);
    Ok(())
}

/// Signs a decision on what is held, or takes one that was signed elsewhere, and hands it in.
pub async fn decide(client: &Client, args: &DecideArgs, decision: Decision) -> anyhow::Result<Decided> {
    let approval = match &args.signed {
        Some(path) => {
            let approval = Approval::parse(&read_text(path, APPROVAL_BYTES_MAX as u64 * 2)?)?;
            if std::mem::discriminant(&approval.decision) != std::mem::discriminant(&decision) {
                bail!("what was signed says the other thing: {approval}");
            }
            approval
        }
        None => {
            let held: HeldReleases = serde_json::from_value(client.get("/v1/held").await?)?;
            let release = held.find(&args.channel, args.number.map(ReleaseNo))?;
            args.sign(release.subject.clone(), decision)?
        }
    };
    let request = serde_json::json!({ "decision": approval.to_string() });
    Ok(serde_json::from_value(client.post("/v1/decisions", &request).await?)?)
}

fn read_text(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(bytes_max).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(bytes_max).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
