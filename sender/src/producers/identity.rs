//! Keys of producers and of the sender's end, on the disk; what they are used for is [`diodesync_control::quic`].

use std::path::Path;

use anyhow::Context;
use anyhow::bail;
use diodesync::audit::Side;
use diodesync::pack::fact;
use diodesync_control::quic::Talk;
pub use diodesync_control::quic::{Identity, Pin};
use diodesync_control::secret;

use super::protocol::ALPN;
use crate::{init, random};

/// A producer's secret key, in its folder.
const SECRET_FILE: &str = "producer.key";
/// Its pin beside it, for people.
const PIN_FILE: &str = "producer.pin";
/// Content streams of a connection at once.
pub const STREAMS_MAX: usize = 4;
/// What producers and the sender speak.
pub const TALK: Talk = Talk { alpn: ALPN, bidi_streams_max: 1, uni_streams_max: STREAMS_MAX as u32 };

/// Reads a key; whether it had to be made first.
pub fn open(path: &Path) -> anyhow::Result<(Identity, bool)> {
    let is_new = !secret::find(Side::Sender, path).exists();
    if is_new {
        fact::write_secret(path, &random::array::<32>()?)?;
    }
    Ok((Identity::of_seed(&init::read_key(path)?)?, is_new))
}

/// Makes a producer's key in a folder.
pub fn make_producer(dir: &Path) -> anyhow::Result<Identity> {
    let path = dir.join(SECRET_FILE);
    if path.exists() {
        bail!("{} is there already and is not overwritten; use another --out", path.display());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (identity, _) = open(&path)?;
    let text = format!("{}\n", identity.pin());
    fact::write_atomic(&dir.join(PIN_FILE), 0o644, &[text.as_bytes()])?;
    Ok(identity)
}

/// Reads it.
pub fn of_producer(dir: &Path) -> anyhow::Result<Identity> {
    let path = dir.join(SECRET_FILE);
    if !path.exists() {
        bail!(
            "{} has no {SECRET_FILE}; make it on this host: diode-sender producer-key --out {0}",
            dir.display()
        );
    }
    Identity::of_seed(&init::read_key(&path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = std::env::temp_dir().join(format!("diode-sender-identity-{}", std::process::id()));
        let made = make_producer(&dir).unwrap();
        assert_eq!(of_producer(&dir).unwrap().pin(), made.pin());
        let pin = std::fs::read_to_string(dir.join(PIN_FILE)).unwrap();
        assert_eq!(pin.trim().parse(), Ok(made.pin()));
        assert!(make_producer(&dir).unwrap_err().to_string().contains("not overwritten"));
        let mode = std::os::unix::fs::MetadataExt::mode(&dir.join(SECRET_FILE).metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(of_producer(&dir).unwrap_err().to_string().contains("producer-key --out"));
    }
}
