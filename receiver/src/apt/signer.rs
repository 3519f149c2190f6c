//! The site's OpenPGP key for its archive (RFC 9580).

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use diodesync::audit::Side;
use diodesync::pack::fact;
use diodesync_control::secret;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::Signature;
use pgp::types::{KeyDetails, Password, SigningKey, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::certs::utc;

/// How far a key of ours reaches back, for clients whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(86_400);
/// Days before the end of the site's key from which on it is an alarm.
const ALARM_DAYS: u64 = 30;

/// The site's key for its archive.
pub struct Signer {
    key: SignedSecretKey,
    /// The subkey that signs; none for the primary key.
    subkey: Option<usize>,
    /// When the first of the two expires, seconds since 1970.
    expires_s: Option<u64>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({:?})", self.subkey)
    }
}

impl Signer {
    /// A fresh key.
    pub fn generate(host: &str, now_s: u64) -> anyhow::Result<Self> {
        let created = (UNIX_EPOCH + Duration::from_secs(now_s)).checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH);
        let created = Timestamp::try_from(created).ok().context("the clock cannot be right; set it")?;
        let mut parameters = SecretKeyParamsBuilder::default();
        parameters
            .key_type(KeyType::Ed25519Legacy)
            .created_at(created)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id(format!("Diodesync archive {host}"));
        let key =
            parameters.build().context("an OpenPGP key cannot be made")?.generate(StdRng::from_entropy());
        Ok(Self { key: key.context("an OpenPGP key cannot be made")?, subkey: None, expires_s: None })
    }

    /// The key of the configuration, or the receiver's own, which is made when it is needed first.
    ///
    /// # Errors
    /// A file that others can read, or that is no secret key without a passphrase; a key of which no part may sign, or
    /// that has expired.
    pub fn open(dir: &Path, configured: Option<&Path>, host: &str, now_s: u64) -> anyhow::Result<Self> {
        let own = secret::find(Side::Receiver, &dir.join("keys/site/apt.key"));
        if configured.is_none() && !own.exists() {
            let signer = Self::generate(host, now_s)?;
            let armored = signer.key.to_armored_string(ArmorOptions::default())?;
            fact::write_atomic(&own, 0o600, &[armored.as_bytes()])?;
            return Ok(signer);
        }
        let path = configured.unwrap_or(&own);
        let what =
            || format!("{} is not an ASCII-armored OpenPGP secret key without a passphrase", path.display());
        secret::check(path)?;
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (key, _) = SignedSecretKey::from_string(&text).with_context(what)?;
        let (subkey, expires_s) =
            choose(&key, now_s).with_context(|| format!("{} cannot sign", path.display()))?;
        let signer = Self { key, subkey, expires_s };
        // A key that cannot sign is found at the start, and not by the clients.
        let signed = signer.signed("\n").with_context(what)?;
        let is_good = match subkey.and_then(|at| signer.key.secret_subkeys.get(at)) {
            Some(subkey) => signed.verify(&subkey.key.public_key()).is_ok(),
            None => signed.verify(&signer.key.primary_key.public_key()).is_ok(),
        };
        if !is_good {
            bail!("what {} signs does not verify with its public half; export the key anew", path.display());
        }
        Ok(signer)
    }

    /// What is wrong with its end, if that is near or past.
    pub fn alarm(&self, now_s: u64) -> Option<String> {
        let end = self.expires_s.filter(|end| *end < now_s + ALARM_DAYS * 86_400)?;
        let (state, then) =
            if end <= now_s { ("expired", "apt refuses") } else { ("expires", "apt will refuse") };
        Some(format!(
            "the key for the archive of packages {state} at {}; {then} what is published afterwards. Extend it, export it \
             again in its place, and restart; clients need the extended public key",
            utc(end)
        ))
    }

    /// The key that clients trust, ASCII-armored.
    pub fn public_key(&self) -> anyhow::Result<String> {
        Ok(SignedPublicKey::from(self.key.clone()).to_armored_string(ArmorOptions::default())?)
    }

    fn signing(&self) -> &dyn SigningKey {
        match self.subkey.and_then(|at| self.key.secret_subkeys.get(at)) {
            Some(subkey) => &subkey.key,
            None => &self.key.primary_key,
        }
    }

    fn signed(&self, text: &str) -> anyhow::Result<CleartextSignedMessage> {
        let rng = StdRng::from_entropy();
        Ok(CleartextSignedMessage::sign(rng, text, &Box::new(self.signing()), &Password::empty())?)
    }

    /// A text with its signature around it, as `InRelease` is.
    pub(super) fn clearsign(&self, text: &str) -> anyhow::Result<String> {
        Ok(self.signed(text)?.to_armored_string(ArmorOptions::default())?)
    }

    /// The signature of a text, as `Release.gpg` is.
    pub(super) fn sign(&self, text: &str) -> anyhow::Result<String> {
        let signature = DetachedSignature::sign_binary_data(
            StdRng::from_entropy(),
            &Box::new(self.signing()),
            &Password::empty(),
            HashAlgorithm::Sha512,
            Cursor::new(text.as_bytes()),
        )?;
        Ok(signature.to_armored_string(ArmorOptions::default())?)
    }
}

/// When a key expires by the newest of the signatures that bind it, seconds since 1970; and that signature.
fn binding<'a>(
    key: &impl KeyDetails,
    signatures: impl Iterator<Item = &'a Signature>,
) -> Option<(&'a Signature, Option<u64>)> {
    let newest = signatures.max_by_key(|signature| signature.created().map(Timestamp::as_secs))?;
    let life_s = newest.key_expiration_time().map(|life| u64::from(life.as_secs())).filter(|life| *life > 0);
    Some((newest, life_s.map(|life| u64::from(key.created_at().as_secs()) + life)))
}

/// Which part of a key signs: a subkey for it, as `gpg` prefers, or the primary key; and when that comes to an end.
fn choose(key: &SignedSecretKey, now_s: u64) -> anyhow::Result<(Option<usize>, Option<u64>)> {
    let details = &key.details;
    let of_primary = details.users.iter().flat_map(|user| &user.signatures).chain(&details.direct_signatures);
    let (primary, expires_s) =
        binding(&key.primary_key, of_primary).context("nothing binds a name to its primary key")?;
    if !details.revocation_signatures.is_empty() {
        bail!("the key is revoked");
    }
    if let Some(expired_s) = expires_s.filter(|end| *end <= now_s) {
        bail!("the key expired at {}; extend it and export it again", utc(expired_s));
    }
    let mut expired = None;
    for (at, subkey) in key.secret_subkeys.iter().enumerate().rev() {
        let Some((bound, subkey_expires_s)) = binding(&subkey.key, subkey.signatures.iter()) else {
            continue;
        };
        if !bound.key_flags().sign() {
            continue;
        }
        match subkey_expires_s.filter(|end| *end <= now_s) {
            None => return Ok((Some(at), expires_s.into_iter().chain(subkey_expires_s).min())),
            end => expired = expired.max(end),
        }
    }
    if primary.key_flags().sign() {
        return Ok((None, expires_s));
    }
    match expired {
        Some(end) => bail!("its signing subkey expired at {}; extend it and export it again", utc(end)),
        None => bail!("neither its primary key nor a subkey is for signing; add a signing subkey"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_795_000_000;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = std::env::temp_dir().join(format!("diodesync-apt-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("keys/site")).unwrap();
        let open = || Signer::open(&dir, None, "gw", NOW_S);
        let (made, read) = (open().unwrap(), open().unwrap());
        assert_eq!(made.public_key().unwrap(), read.public_key().unwrap());
        let path = dir.join("keys/site/apt.key");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, b"garbled").unwrap();
        assert!(open().unwrap_err().to_string().contains("not an ASCII-armored"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
