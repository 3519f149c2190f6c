//! An approver's key: made on any machine, and read by the command that signs. It is under a passphrase
//! ([`diodesync::passphrase`]), unless its owner wants none.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::pack::fact;
use diodesync::passphrase;
use diodesync::release::approval::ApproverKey;
use diodesync_control::secret;

use super::terminal;

/// Octets of the longest file with a passphrase.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// `approver-key`.
#[derive(Debug, clap::Args)]
pub struct MakeKeyArgs {
    /// Where the key goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Who it is for
    #[arg(long)]
    name: String,
    /// Take its passphrase from the first line of this file, which nobody else may read, and not from the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Leave it without a passphrase: whoever can read the file can approve
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
}

/// Makes an approver's key.
pub fn make_key(args: &MakeKeyArgs) -> anyhow::Result<()> {
    let path = &args.out;
    check_free(path)?;
    let passphrase = match &args.passphrase_file {
        _ if args.no_passphrase => None,
        Some(file) => Some(of_file(file)?),
        None => Some(new_passphrase()?),
    };
    let (mut seed, mut salt) = ([0; 32], [0; 16]);
    getrandom::fill(&mut seed).context("the operating system gives no random numbers")?;
    getrandom::fill(&mut salt).context("the operating system gives no random numbers")?;
    let content = match passphrase {
        Some(passphrase) => passphrase::seal(&seed, &passphrase, &salt, passphrase::ROUNDS)?,
        None => seed.to_vec(),
    };
    check_free(path)?;
    fact::write_secret(path, &content)?;
    let name = toml::Value::String(args.name.clone());
    eprintln!("{} is the key: it stays with whoever approves. In receiver.toml:", path.display());
    println!("[[approver]]\nname = {name}\nkey = \"{}\"", ApproverKey::from_seed(&seed).id());
    Ok(())
}

fn check_free(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} exists; a key is not overwritten", path.display());
    }
    Ok(())
}

/// Reads an approver's key, asking for its passphrase if it has one and no file brings it.
pub fn read_key(path: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<ApproverKey> {
    let octets = secret::read_file(path)?;
    let seed = match <[u8; 32]>::try_from(octets.as_slice()) {
        Ok(_) if passphrase_file.is_some() => bail!(
            "{} has no passphrase; leave --passphrase-file out, or make a key that has one: diode-receiver approver-key",
            path.display()
        ),
        Ok(seed) => seed,
        Err(_) if passphrase::is_sealed(&octets) => {
            let passphrase = match passphrase_file {
                Some(file) => of_file(file)?,
                None => ask(&format!("Passphrase of {}: ", path.display()))?,
            };
            passphrase::open(&octets, &passphrase)
                .with_context(|| format!("cannot open the key {}", path.display()))?
        }
        Err(_) => bail!("{} is not a key that diode-receiver approver-key made", path.display()),
    };
    Ok(ApproverKey::from_seed(&seed))
}

/// The first line of a file.
fn of_file(path: &Path) -> anyhow::Result<String> {
    secret::check(path)?;
    let text = super::read_text(path, PASSPHRASE_BYTES_MAX)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("expected a passphrase in the first line of {}, found none", path.display());
    }
    Ok(line.to_owned())
}

/// Asks twice: who mistypes would never open it again.
fn new_passphrase() -> anyhow::Result<String> {
    let first = ask("Passphrase for the new key: ")?;
    if first.is_empty() {
        bail!("expected a passphrase, found none; for a key without one: --no-passphrase");
    }
    if ask("The same again: ")? != first {
        bail!("the second passphrase is another one; no key was made");
    }
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    terminal::ask(prompt)
        .context(
            "cannot ask for the passphrase on a terminal; name a file that has it: --passphrase-file FILE",
        )?
        .context("no passphrase was given")
}
