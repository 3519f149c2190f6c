//! `feed-file`: what a mirror host must know of the receiver that feeds it, as a file without a secret.
//!
//! ```text
//! DIR/tls/feed.key   the key of the receiver's end; feed-file makes it (secret fact, 0600)
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::audit::{Event, Side};
use diodesync::id::LinkId;
use diodesync::pack::fact;
use diodesync::trust::TrustState;
use diodesync_control::quic::{Identity, Pin};
use diodesync_control::secret;
use serde::{Deserialize, Serialize};

use crate::audit;
use crate::config::Config;
use crate::init;
use crate::publish::Facts;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// [`Introduction::VERSION`].
    pub version: u32,
    /// The link whose releases are fed.
    pub link: LinkId,
    /// Where the receiver feeds, as well as it knows.
    pub from: String,
    /// Its pin.
    pub pin: Pin,
    /// The TUF root from which the host goes on.
    pub root: String,
}

impl Introduction {
    /// The version that is written and read.
    pub const VERSION: u32 = 1;

    /// Reads it.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let made_by = "this is no file for a mirror host; it is made by: diode-receiver feed-file";
        let found: Self = serde_json::from_slice(text).context(made_by)?;
        if found.version != Self::VERSION {
            bail!("the file has version {}, expected {}", found.version, Self::VERSION);
        }
        found.trust()?;
        Ok(found)
    }

    /// What is trusted at first.
    ///
    /// # Errors
    /// If its root is none.
    pub fn trust(&self) -> anyhow::Result<TrustState> {
        TrustState::from_root(self.root.as_bytes()).context("its TUF root is refused")
    }
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("tls/feed.key")
}

/// The key of the end that feeds.
///
/// # Errors
/// If it was not made, or others can read it.
pub fn identity(dir: &Path) -> anyhow::Result<Identity> {
    if !secret::find(Side::Receiver, &key_path(dir)).exists() {
        bail!(
            "there is no key for mirror hosts to know this receiver by; make it with: diode-receiver feed-file --out FILE"
        );
    }
    Identity::of_seed(&init::read_key(&key_path(dir))?)
}

/// Writes the file; makes the key first, if there is none.
pub fn write(config: &Config, out: &Path) -> anyhow::Result<()> {
    let Some(feed) = &config.feed else {
        bail!(
            "this receiver feeds nobody: put [feed] with listen = \"ADDRESS:PORT\" into its configuration first"
        );
    };
    let dir = &config.dir;
    let origin = init::load_origin(config)?;
    if !secret::find(Side::Receiver, &key_path(dir)).exists() {
        let seed = init::random_seed()?;
        audit::tell(dir, Event::key("feed", "made", Identity::of_seed(&seed)?.pin()))?;
        fact::write_secret(&key_path(dir), &seed)?;
    }
    let pin = identity(dir)?.pin();
    let host = config.serve.hosts.first().map_or("", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let from = format!("{host}:{}", feed.listen.port());
    // The newest root: who begins now need not follow those before it.
    let root = Facts::open(dir)?.trust()?.map_or(origin.root.root, |trust| trust.root);
    let introduction = Introduction { version: Introduction::VERSION, link: origin.link, from, pin, root };
    fact::write_atomic(out, 0o644, &[&serde_json::to_vec_pretty(&introduction)?])?;
    println!("pin {pin}");
    println!("Carry {} to the mirror host and run there:", out.display());
    println!(
        "  diode-receiver init --dir DIR --host NAME --mirror-host {}",
        out.file_name().unwrap_or_default().display()
    );
    println!("It shows a pin, to be written here as the key of a [[feed.host]]; then restart this receiver.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use diodesync::id::Sha256;
    use diodesync::trust::{RoleKey, RoleKeys};

    use super::*;

    #[test]
    fn what_is_no_introduction_is_refused() {
        let roles =
            RoleKeys { targets: RoleKey::from_seed(&[1; 32]), timestamp: RoleKey::from_seed(&[2; 32]) };
        let root = roles.root(&RoleKey::from_seed(&[3; 32]), 1, 1_795_000_000);
        let good = Introduction {
            version: 1,
            link: LinkId([7; 16]),
            from: "gateway.example:7444".to_owned(),
            pin: Pin(Sha256([1; 32])),
            root: String::from_utf8(root).unwrap(),
        };
        let parse = |it: &Introduction| Introduction::parse(&serde_json::to_vec(it).unwrap());
        assert_eq!(parse(&good).unwrap(), good);
        let error = |it: Introduction| format!("{:#}", parse(&it).unwrap_err());
        assert!(error(Introduction { version: 2, ..good.clone() }).contains("version 2, expected 1"));
        let changed = good.root.replacen("\"sig\":\"", "\"sig\":\"00", 1);
        assert!(error(Introduction { root: changed, ..good }).contains("root is refused"));
        let text = format!("{:#}", Introduction::parse(b"{}").unwrap_err());
        assert!(text.contains("diode-receiver feed-file"), "{text}");
    }
}
