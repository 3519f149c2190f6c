//! Secret files: those of a side's folder, and those that the service manager hands to the service.
//!
//! A key is taken from the side's folder. If it is not there, it is taken from the service's credentials
//! (systemd.exec(5), *Credentials*), where the units ask for it under this name:
//!
//! ```text
//! DIR/keys/link.key    or    $CREDENTIALS_DIRECTORY/diodesync-sender.link.key
//! ```
//!
//! Both have the same octets. The folder comes first, because that is where a rotation puts the key that counts from then
//! on.

use std::path::{Path, PathBuf};

use anyhow::Context;
use diodesync::audit::Side;
use diodesync::pack::{PackError, fact};

/// The folder of the service's credentials, if it has any.
fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute())
}

/// Where a secret is that belongs at `path`: there, or among the credentials. It may be in neither.
pub fn find(side: Side, path: &Path) -> PathBuf {
    find_in(credentials().as_deref(), side, path)
}

fn find_in(credentials: Option<&Path>, side: Side, path: &Path) -> PathBuf {
    let named = |dir: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        dir.join(format!("diodesync-{}.{name}", side.as_str()))
    };
    let given = credentials.filter(|_| !path.exists()).map(named).filter(|given| given.exists());
    given.unwrap_or_else(|| path.to_owned())
}

/// Refuses a secret file that others than its owner can read. Who reads a credential is the service manager's to see to:
/// it lets the service's user in by an access control list, which looks like a group's permission.
///
/// # Errors
/// As [`fact::check_private`].
pub fn check(path: &Path) -> Result<(), PackError> {
    check_in(credentials().as_deref(), path)
}

fn check_in(credentials: Option<&Path>, path: &Path) -> Result<(), PackError> {
    match credentials {
        Some(dir) if path.parent() == Some(dir) => Ok(()),
        _ => fact::check_private(path),
    }
}

/// Reads a key of 32 octets that belongs at `path`.
///
/// # Errors
/// If it is nowhere, others can read it, or it is something else.
pub fn read_key(side: Side, path: &Path) -> anyhow::Result<[u8; 32]> {
    read_key_in(credentials().as_deref(), side, path)
}

fn read_key_in(credentials: Option<&Path>, side: Side, path: &Path) -> anyhow::Result<[u8; 32]> {
    let found = find_in(credentials, side, path);
    if !found.exists() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let given =
            format!("no credential diodesync-{}.{name} was given to this process either", side.as_str());
        anyhow::bail!("the key {} is missing, and {given}", path.display());
    }
    check_in(credentials, &found)?;
    parse_key(&found)
}

/// Reads a key of 32 octets out of this very file, whatever the service manager has given.
///
/// # Errors
/// If it is not there, others can read it, or it is something else.
pub fn read_key_file(path: &Path) -> anyhow::Result<[u8; 32]> {
    fact::check_private(path)?;
    parse_key(path)
}

/// Reads this very secret file, whatever is in it.
///
/// # Errors
/// If it is not there, or others can read it.
pub fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    fact::check_private(path)?;
    parse_file(path)
}

fn parse_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    fact::read(path)?.with_context(|| format!("the key {} is missing", path.display()))
}

fn parse_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    let seed = parse_file(path)?;
    seed.try_into().map_err(|_| anyhow::anyhow!("{} is not a key of 32 octets", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("diodesync-secret-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("keys")).unwrap();
        std::fs::create_dir(folder.join("given")).unwrap();
        folder
    }

    #[test]
    fn the_folder_comes_first_then_what_was_given() {
        let dir = folder("first");
        let (path, given) = (dir.join("keys/link.key"), dir.join("given"));
        let read = || read_key_in(Some(&given), Side::Sender, &path);
        let text = format!("{:#}", read().unwrap_err());
        assert!(text.contains("link.key is missing") && text.contains("diodesync-sender.link.key"), "{text}");
        // As the service manager gives it: readable by an access control list.
        let credential = given.join("diodesync-sender.link.key");
        fact::write_secret(&credential, &[1; 32]).unwrap();
        std::fs::set_permissions(&credential, PermissionsExt::from_mode(0o440)).unwrap();
        assert_eq!(read().unwrap(), [1; 32]);
        assert!(read_key_in(Some(&given), Side::Receiver, &path).is_err(), "it is the other side's");
        assert!(read_key_in(None, Side::Sender, &path).is_err());
        // A rotation has put another one into the folder.
        fact::write_secret(&path, &[2; 32]).unwrap();
        assert_eq!(read().unwrap(), [2; 32]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_credential_must_be_private() {
        let dir = folder("private");
        let (path, given) = (dir.join("keys/link.key"), dir.join("given"));
        fact::write(&path, &[1; 32]).unwrap();
        assert!(check_in(Some(&given), &path).is_err() && check_in(None, &path).is_err());
        // A path that leads out of the folder of credentials is none of theirs.
        assert!(check_in(Some(&given), &given.join("../keys/link.key")).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
