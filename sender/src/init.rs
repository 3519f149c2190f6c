//! `init`: keys, TUF root, configuration, and the pairing file that the operator carries to the receiver.
//!
//! ```text
//! DIR/sender.toml            configuration
//! DIR/pairing.json           to be carried to the receiver; its secret part is sealed to the receiver
//! DIR/link.json              the link's name and its receivers
//! DIR/roots/1.json           TUF root
//! DIR/keys/                  0600: link, targets, timestamp, pairing, audit; and root, which no daemon needs
//! DIR/audit/                 who did what
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diodesync::audit::{Event, Side};
use diodesync::id::{Blake3, LinkId};
use diodesync::link::{LinkKey, PairingSecret, ReceiverPublic, seal_pairing_secret};
use diodesync::pack::fact;
use diodesync::pairing::{Pairing, fingerprint};
use diodesync::trust::{RoleKey, RoleKeys};
use diodesync_control::{clock_s, secret};
use serde::{Deserialize, Serialize};

use crate::audit;
use crate::config::Config;
use crate::link_key;
use crate::random;
use crate::rotate::Roles;

/// `link.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkFile {
    /// The link's name.
    pub link: LinkId,
    /// The receivers' public keys.
    pub receivers: Vec<String>,
}

/// The keys that the daemon needs.
#[derive(Debug)]
pub struct Keys {
    /// Signs sessions.
    pub link: LinkKey,
    /// Sign releases.
    pub roles: Roles,
    /// Mixed into every session.
    pub pairing: PairingSecret,
    /// Their folder.
    pub dir: PathBuf,
}

impl Keys {
    /// Reads them, refusing files that others can read.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let key = |name: &str| read_key(&dir.join("keys").join(name));
        Ok(Self {
            link: link_key::load(&dir.join("keys"))?,
            roles: Roles::load(dir)?,
            pairing: PairingSecret(key("pairing.key")?),
            dir: dir.join("keys"),
        })
    }
}

pub(crate) fn read_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    secret::read_key(Side::Sender, path)
}

/// Makes a sender for the receiver whose public key is in `receiver`.
pub fn init(dir: &Path, receiver: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(receiver).with_context(|| {
        format!("cannot read {}; it is made by: diode-receiver init --dir DIR", receiver.display())
    })?;
    let receiver: ReceiverPublic =
        text.trim().parse().with_context(|| format!("{} is not a receiver.pub", receiver.display()))?;
    if dir.join("link.json").exists() {
        bail!("{} is initialised already; its keys are not overwritten. Use another --dir", dir.display());
    }
    for sub in ["keys", "roots"] {
        std::fs::create_dir_all(dir.join(sub))
            .with_context(|| format!("cannot create {}", dir.join(sub).display()))?;
    }
    let dir = &std::path::absolute(dir)?;

    let new_key = |name: &str| -> anyhow::Result<[u8; 32]> {
        let seed = random::array()?;
        fact::write_secret(&dir.join("keys").join(name), &seed)?;
        Ok(seed)
    };
    let link_key = LinkKey::from_seed(&new_key("link.key")?);
    let root_key = RoleKey::from_seed(&new_key("root.key")?);
    let roles = RoleKeys {
        targets: RoleKey::from_seed(&new_key("targets.key")?),
        timestamp: RoleKey::from_seed(&new_key("timestamp.key")?),
    };
    let secret = PairingSecret(new_key("pairing.key")?);
    let root = roles.root(&root_key, 1, clock_s());
    fact::write_atomic(&dir.join("roots/1.json"), 0o644, &[&root])?;

    let link = LinkId(random::array()?);
    let (encapsulated, sealed) = seal_pairing_secret(&mut random::rng(), &secret, link, &receiver)?;
    let pairing = Pairing {
        version: Pairing::VERSION,
        link,
        link_key: Blake3(link_key.verifier().to_bytes()).to_string(),
        receiver: receiver.to_string(),
        encapsulated: BASE64_STANDARD.encode(encapsulated),
        sealed_secret: BASE64_STANDARD.encode(sealed),
        root: String::from_utf8(root)?,
    };
    let text = serde_json::to_string_pretty(&pairing)? + "\n";
    fact::write_atomic(&dir.join("pairing.json"), 0o644, &[text.as_bytes()])?;
    let config = dir.join("sender.toml");
    if !config.exists() {
        fact::write_atomic(&config, 0o644, &[Config::template(dir).as_bytes()])?;
    }
    audit::tell(dir, Event::Paired { link, with: receiver.to_string() })?;
    let link_file = LinkFile { link, receivers: vec![receiver.to_string()] };
    fact::write(&dir.join("link.json"), &serde_json::to_vec_pretty(&link_file)?)?;

    println!("link        {link}");
    println!("fingerprint {}", fingerprint(text.as_bytes()));
    println!();
    println!("Carry {} to the receiver and run there:", dir.join("pairing.json").display());
    println!("  diode-receiver pair --config DIR/receiver.toml pairing.json");
    println!("It shows the fingerprint of the file that it got; it must be the one above.");
    println!("Move {} to a safe place; no daemon needs it.", dir.join("keys/root.key").display());
    println!("Set the lane in {}, then: diode-sender run --config {0}", config.display());
    Ok(())
}
