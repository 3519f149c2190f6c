//! `rotate-root`: a new TUF root, and the keys that it names.
//!
//! ```text
//! 1. KEY.next for each new key            nothing uses it yet
//! 2. roots/N.json, signed by both         from here on the new keys count
//! 3. KEY.next over KEY
//! ```
//!
//! The newest root decides which file is in use: a key it names is taken from `KEY` or `KEY.next`, wherever it is. So a
//! power cut between any two steps leaves the old keys under the old root or the new ones under the new root, the daemon
//! signs with what fits, and the same command goes on. No daemon needs the root key.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, bail};
use diodesync::audit::{Event, Side};
use diodesync::pack::fact;
use diodesync::trust::{RoleKey, RoleKeys, follow};
use diodesync_control::{Client, DirLock, clock_s, secret};

use crate::audit;
use crate::config::Config;
use crate::init::read_key;
use crate::random;

/// What `rotate-root` is told.
#[derive(Debug, clap::Args)]
pub struct RotateRootArgs {
    /// The present root key; keys/root.key in the sender's folder, if it was left there
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// Where the new root key goes; in place of the old one, if it is not given
    #[arg(long, value_name = "FILE")]
    new_root_key: Option<PathBuf>,
    /// Also make new targets and timestamp keys
    #[arg(long)]
    all: bool,
}

/// The keys that sign releases: those that the newest root names.
#[derive(Debug)]
pub struct Roles {
    dir: Option<PathBuf>,
    keys: RwLock<RoleKeys>,
}

impl Roles {
    /// Reads them.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let keys = dir.join("keys");
        let roles = RoleKeys {
            targets: RoleKey::from_seed(&read_key(&keys.join("targets.key"))?),
            timestamp: RoleKey::from_seed(&read_key(&keys.join("timestamp.key"))?),
        };
        Ok(Self { dir: Some(keys), keys: RwLock::new(roles) })
    }

    /// Keys that are in no file.
    #[cfg(test)]
    pub fn new(keys: RoleKeys) -> Self {
        Self { dir: None, keys: RwLock::new(keys) }
    }

    /// The keys that the newest of these roots names; read again from their files after a rotation.
    ///
    /// # Errors
    /// If they are nowhere.
    pub fn named_by(&self, roots: &[Vec<u8>]) -> anyhow::Result<RoleKeys> {
        let root = roots.last().context("there is no TUF root")?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &self.dir
            && !(keys.targets.is_named_by(root, "targets") && keys.timestamp.is_named_by(root, "timestamp"))
        {
            *keys = RoleKeys {
                targets: find(&dir.join("targets.key"), root, "targets")?,
                timestamp: find(&dir.join("timestamp.key"), root, "timestamp")?,
            };
        }
        Ok(keys.clone())
    }
}

fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

/// The key that a root names for a role, from `path` or from what a rotation left beside it.
fn find(path: &Path, root: &[u8], role: &str) -> anyhow::Result<RoleKey> {
    for path in [path.to_owned(), next(path)] {
        if secret::find(Side::Sender, &path).exists() {
            let key = RoleKey::from_seed(&read_key(&path)?);
            if key.is_named_by(root, role) {
                return Ok(key);
            }
        }
    }
    bail!(
        "neither {} nor {} holds the {role} key that the newest root names; give the file that does",
        path.display(),
        next(path).display()
    )
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The version of the newest root.
    pub version: usize,
    /// Whether a rotation that was broken off was finished, and no new one begun.
    pub is_continued: bool,
}

/// `rotate-root`.
pub async fn rotate_root(config: &Config, client: &Client, args: &RotateRootArgs) -> anyhow::Result<()> {
    let old = args.root_key.clone().unwrap_or_else(|| config.dir.join("keys/root.key"));
    let new = args.new_root_key.clone().unwrap_or_else(|| old.clone());
    let lock = DirLock::take(&config.dir.join("keys"), "lock").context("another rotation is under way")?;
    let names = if args.all { "root, targets, timestamp" } else { "root" };
    audit::tell(&config.dir, Event::key(names, "made", new.display()))?;
    let rotated = rotate(&config.dir, &old, &new, args.all, clock_s())?;
    drop(lock);
    if rotated.is_continued {
        println!(
            "the rotation to root {} was broken off and is finished now; nothing more was done",
            rotated.version
        );
    } else {
        println!("root {} is made", rotated.version);
    }
    println!("its key is in {}; no daemon needs it: put it into a safe", new.display());
    if new != old && old.exists() {
        println!("{} signs nothing any more; destroy it", old.display());
    }
    if config.socket().exists() {
        client.post("/v1/sign", &serde_json::Value::Null).await.context(
            "the keys are rotated, and the running daemon does not sign with them yet; restart it, or say why it runs not",
        )?;
        println!("the running sender signs with it and sends it");
    } else {
        println!("the sender does not run; it sends the root when it does");
    }
    Ok(())
}

fn rotate(dir: &Path, old: &Path, new: &Path, all: bool, now_s: u64) -> anyhow::Result<Rotated> {
    let roots_dir = dir.join("roots");
    let mut roots = Vec::new();
    while let Ok(root) = std::fs::read(roots_dir.join(format!("{}.json", roots.len() + 1))) {
        roots.push(root);
    }
    let root = roots.last().with_context(|| format!("{} has no root", roots_dir.display()))?;
    follow(&roots).with_context(|| format!("a root in {} is damaged", roots_dir.display()))?;
    let keys = dir.join("keys");
    let (targets, timestamp) = (keys.join("targets.key"), keys.join("timestamp.key"));

    if settle(new, root, "root")?
        | settle(&targets, root, "targets")?
        | settle(&timestamp, root, "timestamp")?
    {
        return Ok(Rotated { version: roots.len(), is_continued: true });
    }
    let old_key =
        RoleKey::from_seed(&read_key(old).context("give the present root key with --root-key FILE")?);
    if !old_key.is_named_by(root, "root") {
        bail!(
            "{} is not the key of root {}; give the present root key with --root-key FILE",
            old.display(),
            roots.len()
        );
    }
    if new != old && new.exists() {
        bail!("{} exists already and is not overwritten; give another --new-root-key", new.display());
    }
    let make = |path: &Path| -> anyhow::Result<RoleKey> {
        let seed = random::array()?;
        fact::write_secret(&next(path), &seed)?;
        Ok(RoleKey::from_seed(&seed))
    };
    let new_key = make(new)?;
    let roles = match all {
        true => RoleKeys { targets: make(&targets)?, timestamp: make(&timestamp)? },
        false => RoleKeys {
            targets: find(&targets, root, "targets")?,
            timestamp: find(&timestamp, root, "timestamp")?,
        },
    };
    let version = roots.len() + 1;
    let next_root = roles.next_root(&old_key, &new_key, version as u64, now_s);
    follow(&[root.clone(), next_root.clone()])
        .context("the new root does not follow the old one; this is a bug")?;
    fact::write_atomic(&roots_dir.join(format!("{version}.json")), 0o644, &[&next_root])?;
    settle(new, &next_root, "root")?;
    settle(&targets, &next_root, "targets")?;
    settle(&timestamp, &next_root, "timestamp")?;
    Ok(Rotated { version, is_continued: false })
}

/// Puts a new key in its place if the newest root names it. One that no root names yet is left: it is overwritten by the
/// next rotation.
fn settle(path: &Path, root: &[u8], role: &str) -> anyhow::Result<bool> {
    let next = next(path);
    if !next.exists() || !RoleKey::from_seed(&read_key(&next)?).is_named_by(root, role) {
        return Ok(false);
    }
    std::fs::rename(&next, path).with_context(|| format!("cannot put {} in its place", next.display()))?;
    fact::sync_dir(fact::folder_of(path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_795_000_000;

    fn write(dir: &Path, name: &str, seed: u8) -> RoleKey {
        fact::write_secret(&dir.join("keys").join(name), &[seed; 32]).unwrap();
        RoleKey::from_seed(&[seed; 32])
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("diode-sender-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("keys")).unwrap();
        std::fs::create_dir_all(dir.join("roots")).unwrap();
        let roles =
            RoleKeys { targets: write(&dir, "targets.key", 2), timestamp: write(&dir, "timestamp.key", 3) };
        let root = roles.root(&write(&dir, "root.key", 1), 1, NOW_S);
        std::fs::write(dir.join("roots/1.json"), root).unwrap();
        dir
    }

    fn roots(dir: &Path) -> Vec<Vec<u8>> {
        (1..).map_while(|version| std::fs::read(dir.join(format!("roots/{version}.json"))).ok()).collect()
    }

    /// What a power cut leaves after each step of a rotation that went through.
    fn cuts(before: &Path, after: &Path) -> Vec<(&'static str, PathBuf)> {
        let key = |name: &str| std::fs::read(after.join("keys").join(name)).unwrap();
        let steps: [(&str, &str, Vec<u8>); 4] = [
            ("the root key", "keys/root.key.next", key("root.key")),
            ("the targets key", "keys/targets.key.next", key("targets.key")),
            ("the timestamp key", "keys/timestamp.key.next", key("timestamp.key")),
            ("the root", "roots/2.json", std::fs::read(after.join("roots/2.json")).unwrap()),
        ];
        let mut cuts = Vec::new();
        let copy = |name: &str| {
            let to = before.with_extension(name);
            let _ = std::fs::remove_dir_all(&to);
            for folder in ["keys", "roots"] {
                std::fs::create_dir_all(to.join(folder)).unwrap();
                for entry in std::fs::read_dir(before.join(folder)).unwrap().map(Result::unwrap) {
                    std::fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
                }
            }
            to
        };
        let secret = |path: &Path, octets: &[u8]| fact::write_atomic(path, 0o600, &[octets]).unwrap();
        for end in 1..=steps.len() {
            let to = copy(&format!("cut{end}"));
            steps[..end].iter().for_each(|(_, path, octets)| secret(&to.join(path), octets));
            cuts.push((steps[end - 1].0, to));
        }
        for settled in 1..=2 {
            let to = copy(&format!("settled{settled}"));
            steps.iter().for_each(|(_, path, octets)| secret(&to.join(path), octets));
            for name in &["root.key", "targets.key"][..settled] {
                std::fs::rename(to.join(format!("keys/{name}.next")), to.join("keys").join(name)).unwrap();
            }
            cuts.push(("a key in its place", to));
        }
        cuts
    }

    #[test]
    fn a_rotation_that_is_cut_anywhere_goes_on() {
        let before = folder("cut");
        let after = folder("whole");
        let key = |dir: &Path| dir.join("keys/root.key");
        let done = rotate(&after, &key(&after), &key(&after), true, NOW_S).unwrap();
        assert_eq!(done, Rotated { version: 2, is_continued: false });
        follow(&roots(&after)).unwrap();
        for (what, dir) in cuts(&before, &after) {
            // The daemon that starts now signs with keys that the newest root names.
            let roles = Roles::load(&dir).unwrap().named_by(&roots(&dir)).unwrap();
            let newest = roots(&dir).pop().unwrap();
            assert!(roles.targets.is_named_by(&newest, "targets"), "after {what}");
            // The command goes on, and the next rotation works.
            let done = rotate(&dir, &key(&dir), &key(&dir), true, NOW_S).unwrap();
            assert_eq!(done.version, 2, "after {what}");
            assert_eq!(
                rotate(&dir, &key(&dir), &key(&dir), false, NOW_S).unwrap().version,
                3,
                "after {what}"
            );
            follow(&roots(&dir)).unwrap();
            Roles::load(&dir).unwrap().named_by(&roots(&dir)).unwrap();
            std::fs::remove_dir_all(dir).unwrap();
        }
        std::fs::remove_dir_all(before).unwrap();
        std::fs::remove_dir_all(after).unwrap();
    }

    #[test]
    fn only_the_present_root_key_rotates_and_nothing_is_overwritten() {
        let dir = folder("wrong");
        let (key, moved) = (dir.join("keys/root.key"), dir.join("moved.key"));
        let stranger = dir.join("keys/stranger.key");
        fact::write_secret(&stranger, &[9; 32]).unwrap();
        let error = rotate(&dir, &stranger, &stranger, false, NOW_S).unwrap_err().to_string();
        assert!(error.contains("not the key of root 1") && error.contains("--root-key"), "{error}");
        let error = rotate(&dir, &key, &stranger, false, NOW_S).unwrap_err().to_string();
        assert!(error.contains("--new-root-key"), "{error}");
        rotate(&dir, &key, &moved, false, NOW_S).unwrap();
        let error = rotate(&dir, &key, &key, false, NOW_S).unwrap_err().to_string();
        assert!(error.contains("not the key of root 2"), "{error}");
        assert_eq!(rotate(&dir, &moved, &moved, false, NOW_S).unwrap().version, 3);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
