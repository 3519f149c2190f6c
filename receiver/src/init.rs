//! `init` and `pair`: the receiver's keys, its certificate, and what it must know of its sender.
//!
//! ```text
//! DIR/receiver.toml     configuration
//! DIR/receiver.pub      to be carried to the sender
//! DIR/ca.pem            the authority that clients trust
//! DIR/server.pem        the mirror's certificate
//! DIR/pairing           the pairing file, once paired (fact)
//! DIR/upstream          on a mirror host, in place of the pairing: whom it follows (fact)
//! DIR/host.pin          on a mirror host, in place of receiver.pub: its pin, to be carried to whom it follows
//! DIR/keys/             receiver.key, or host.key of a mirror host; after a rotation receiver.next.key and pairing.key (secret facts, 0600)
//! DIR/keys/site/        ca.key, apt.key, audit.key (0600)
//! DIR/audit/            who did what
//! DIR/tls/server.key  the mirror's (0600)
//! DIR/run/, DIR/handover/  sockets: of the commands, and of the lane role
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diodesync::audit::{Event, Side};
use diodesync::id::LinkId;
use diodesync::link::{Paired, PairingSecret, ReceiverKey};
use diodesync::pack::fact;
use diodesync::pairing::{Pairing, fingerprint};
use diodesync::trust::TrustState;
use diodesync_control::quic::Identity;
use diodesync_control::{clock_s, secret};

use crate::audit;
use crate::certs::{self, CertificateAndKey};
use crate::config::Config;
use crate::feed::Introduction;
use crate::link_keys;

/// Fresh octets of a secret key.
pub fn random_seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the operating system gives no random numbers")?;
    Ok(seed)
}

/// Where a mirror host's key is.
pub fn host_key_path(dir: &Path) -> PathBuf {
    dir.join("keys/host.key")
}

/// Makes a receiver; a mirror host, if there is the file that `feed-file` has made.
pub fn init(dir: &Path, hosts: &[String], mirror_host: Option<&Path>) -> anyhow::Result<()> {
    if ["receiver.pub", "host.pin"].iter().any(|name| dir.join(name).exists()) {
        bail!("{} is initialised already; its keys are not overwritten. Use another --dir", dir.display());
    }
    // Each role is kept out of whole folders: a file that is kept from it would not stay so when it is replaced.
    for folder in ["keys/site", "tls", "serve", "mirror", "credentials", "run", "handover"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let dir = &std::path::absolute(dir)?;
    let mut hosts = hosts.to_vec();
    if hosts.is_empty() {
        hosts.push(rustix::system::uname().nodename().to_string_lossy().into_owned());
    }
    let introduction = mirror_host.map(read_introduction).transpose()?;
    let seed = random_seed()?;
    let ca =
        certs::make_ca(&format!("Diodesync mirror {}", hosts.first().map_or("", String::as_str)), clock_s())?;
    let server = certs::make_server_certificate(&ca, &hosts, clock_s())?;

    fact::write_atomic(&dir.join("keys/site/ca.key"), 0o600, &[ca.key_pem.as_bytes()])?;
    fact::write_atomic(&dir.join("ca.pem"), 0o644, &[ca.certificate_pem.as_bytes()])?;
    write_server_certificate(dir, &server)?;
    let config = dir.join("receiver.toml");
    let origin = match &introduction {
        None => Config::lanes_template(),
        Some((found, _)) => Config::upstream_template(&found.from, found.pin),
    };
    if !config.exists() {
        fact::write_atomic(&config, 0o644, &[Config::template(dir, &hosts, &origin).as_bytes()])?;
    }
    if let Some((found, text)) = introduction {
        return end_mirror_host(dir, &seed, &found, &text, &config);
    }
    let key = ReceiverKey::from_seed(&seed);
    fact::write_secret(&dir.join("keys/receiver.key"), &seed)?;
    audit::tell(dir, Event::key("receiver", "made", key.public()))?;
    // Last, because it says that all the rest is there.
    fact::write_atomic(&dir.join("receiver.pub"), 0o644, &[format!("{}\n", key.public()).as_bytes()])?;

    println!("Carry {} to the sender and run there:", dir.join("receiver.pub").display());
    println!("  diode-sender init --dir DIR --receiver receiver.pub");
    println!("Then carry the sender's pairing.json here and run:");
    println!("  diode-receiver pair --config {} pairing.json", config.display());
    Ok(())
}

fn read_introduction(file: &Path) -> anyhow::Result<(Introduction, Vec<u8>)> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = Introduction::parse(&text).with_context(|| format!("{} is refused", file.display()))?;
    Ok((found, text))
}

/// What a mirror host has of its own: a key, and whom it follows.
fn end_mirror_host(
    dir: &Path,
    seed: &[u8; 32],
    found: &Introduction,
    text: &[u8],
    config: &Path,
) -> anyhow::Result<()> {
    let pin = Identity::of_seed(seed)?.pin();
    fact::write_secret(&host_key_path(dir), seed)?;
    audit::tell(dir, Event::key("host", "made", pin))?;
    audit::tell(dir, Event::Paired { link: found.link, with: found.pin.to_string() })?;
    fact::write(&dir.join("upstream"), text)?;
    // Last, because it says that all the rest is there.
    fact::write_atomic(&dir.join("host.pin"), 0o644, &[format!("{pin}\n").as_bytes()])?;
    println!("mirror host of link {}", found.link);
    println!("upstream         {}, pin {}", found.from, found.pin);
    println!("pin              {pin}");
    println!("On the receiver at the diode, into its receiver.toml, and then restart it:");
    println!("  [[feed.host]]");
    println!("  name = \"NAME\"");
    println!("  key = \"{pin}\"");
    println!("Then, here:");
    println!("  diode-receiver run --config {}", config.display());
    Ok(())
}

fn write_server_certificate(dir: &Path, server: &CertificateAndKey) -> anyhow::Result<()> {
    fact::write_atomic(&dir.join("tls/server.key"), 0o600, &[server.key_pem.as_bytes()])?;
    fact::write_atomic(&dir.join("server.pem"), 0o644, &[server.certificate_pem.as_bytes()])?;
    Ok(())
}

/// Days before its end at which our own certificate is renewed.
const RENEW_DAYS: u64 = 60;

/// Renews the mirror's certificate when its end is near. Says whether it did.
pub fn renew_certificate(dir: &Path, hosts: &[String], now_s: u64) -> anyhow::Result<bool> {
    let read = |name: &str| {
        std::fs::read_to_string(dir.join(name))
            .with_context(|| format!("cannot read {}", dir.join(name).display()))
    };
    if certs::expires_s(&read("server.pem")?)? > now_s + RENEW_DAYS * 86_400 {
        return Ok(false);
    }
    let key = secret::find(Side::Receiver, &dir.join("keys/site/ca.key"));
    secret::check(&key)?;
    let key_pem = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    let ca = CertificateAndKey { certificate_pem: read("ca.pem")?, key_pem };
    write_server_certificate(dir, &certs::make_server_certificate(&ca, hosts, now_s)?)?;
    Ok(true)
}

/// Reads a key of the receiver's.
pub fn read_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    secret::read_key(Side::Receiver, path)
}

fn receiver_key(dir: &Path) -> anyhow::Result<ReceiverKey> {
    Ok(ReceiverKey::from_seed(&read_key(&dir.join("keys/receiver.key"))?))
}

/// Records the sender that this receiver listens to.
pub fn pair(dir: &Path, file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (paired, _) =
        Pairing::open(&text, receiver_key(dir)?).with_context(|| format!("{} is refused", file.display()))?;
    if let Some(old) = fact::read(&dir.join("pairing"))? {
        if old == text {
            println!("already paired with link {}", paired.link);
            return Ok(());
        }
        bail!(
            "this receiver is paired with another sender; a new sender needs a new receiver folder, so that old \
             releases stay under the keys that signed them"
        );
    }
    audit::tell(dir, Event::Paired { link: paired.link, with: fingerprint(&text).to_string() })?;
    fact::write(&dir.join("pairing"), &text)?;
    println!("paired with link {}", paired.link);
    println!("fingerprint      {}", fingerprint(&text));
    println!(
        "Compare the fingerprint with the one that diode-sender init showed. If it differs, someone changed the"
    );
    println!("file on its way: remove {} and start over.", dir.join("pairing").display());
    Ok(())
}

/// Takes a link key of the sender that an operator has carried here.
pub fn accept_link_key(dir: &Path, key: &str) -> anyhow::Result<()> {
    let (paired, _) = load_pairing(dir)?;
    audit::tell(dir, Event::key("link", "accepted", key))?;
    if link_keys::accept(dir, paired.senders, key)? {
        println!("sessions may be signed with it, too. Restart the receiver");
    } else {
        println!("it is known already");
    }
    Ok(())
}

/// What the roles know of the sender: the lane the link's keys, the publisher the root of trust.
pub fn load_pairing(dir: &Path) -> anyhow::Result<(Paired, TrustState)> {
    let text = fact::read(&dir.join("pairing"))?.with_context(|| {
        format!(
            "this receiver is not paired; run: diode-receiver pair --config {}/receiver.toml pairing.json",
            dir.display()
        )
    })?;
    let (mut paired, root) = open_pairing(dir, &text)?;
    paired.senders = link_keys::load(dir, paired.senders)?;
    Ok((paired, root))
}

/// Whose releases a receiver takes.
#[derive(Debug)]
pub struct Origin {
    /// The link that they come over, at first.
    pub link: LinkId,
    /// The root of trust.
    pub root: TrustState,
    /// The link's keys; a mirror host has none.
    pub paired: Option<Paired>,
}

/// What the publisher knows of where releases come from.
pub fn load_origin(config: &Config) -> anyhow::Result<Origin> {
    if config.upstream.is_none() {
        let (paired, root) = load_pairing(&config.dir)?;
        return Ok(Origin { link: paired.link, root, paired: Some(paired) });
    }
    let text = fact::read(&config.dir.join("upstream"))?.with_context(|| {
        format!(
            "{} is no mirror host's folder; make one with: diode-receiver init --dir DIR --mirror-host FILE",
            config.dir.display()
        )
    })?;
    let found = Introduction::parse(&text).context("the fact file upstream is damaged")?;
    Ok(Origin { link: found.link, root: found.trust()?, paired: None })
}

fn open_pairing(dir: &Path, text: &[u8]) -> anyhow::Result<(Paired, TrustState)> {
    let pairing_key = dir.join("keys/pairing.key");
    if !secret::find(Side::Receiver, &pairing_key).exists() {
        return Ok(Pairing::open(text, receiver_key(dir)?)?);
    }
    // The key to which the pairing file was sealed may be gone.
    let mut keys = vec![receiver_key(dir)?];
    let next = dir.join("keys/receiver.next.key");
    if next.exists() {
        keys.push(ReceiverKey::from_seed(&read_key(&next)?));
    }
    Ok(Pairing::reopen(text, PairingSecret(read_key(&pairing_key)?), keys)?)
}
