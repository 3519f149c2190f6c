//! A tree of files on this host that follows what is published, for web servers and for `terraform` itself.
//!
//! ```text
//! PATH                          a link, always to a whole tree
//! PATH.trees/S-ID               the tree that was made at second S, of the content ID
//! PATH.trees/S-ID.sha256        its list, as `sha256sum -c` reads it
//! PATH.trees/ID.new             a tree in the making
//! PATH.trees/part               a file in the making
//! ```
//!
//! A new tree is made beside the one in use: files that are in both are linked, the others are taken out of the packs and
//! compared with their digest. When it is whole and on the disk, the link is switched by one rename. A tree that was
//! replaced stays for a grace, for who reads it. No file is ever there in part under its name, and after a kill at any
//! moment the same tree is made to its end.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::pack::{PackStore, fact};
use diodesync::release::Blob;
use rustix::fs::syncfs;
use sha2::Digest;

use super::layout::{Entry, Layout, id, parse_sums, sums};

/// Octets of a list that is read.
const SUMS_BYTES_MAX: u64 = 1 << 30;
/// Octets hashed at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A tree's place on the disk.
#[derive(Debug)]
pub struct Tree<'a> {
    /// The link.
    pub path: &'a Path,
    /// How long a tree that was replaced stays.
    pub grace: Duration,
    /// Bulk data.
    pub packs: &'a PackStore,
}

/// What the making of a tree tells of.
pub trait Watch {
    /// So many octets were written; called often.
    ///
    /// # Errors
    /// If it is to stop.
    fn wrote(&mut self, bytes: u64) -> anyhow::Result<()>;
}

impl Tree<'_> {
    fn trees(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".trees");
        name.into()
    }

    fn io<T>(what: &str, path: &Path, done: std::io::Result<T>) -> anyhow::Result<T> {
        done.with_context(|| format!("cannot {what} {}", path.display()))
    }

    /// The name of the tree in use; none if there is none.
    fn current(&self) -> anyhow::Result<Option<String>> {
        match std::fs::symlink_metadata(self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Self::io("look at", self.path, Err(error)),
            Ok(found) if !found.is_symlink() => bail!(
                "{} is there and is no link; the mirror would replace it. Move it away, or give another path",
                self.path.display()
            ),
            Ok(_) => {}
        }
        let target = Self::io("read the link", self.path, std::fs::read_link(self.path))?;
        let folder = self.trees().file_name().map(PathBuf::from).unwrap_or_default();
        match target.strip_prefix(&folder).ok().and_then(Path::to_str) {
            Some(name) if is_tree(name) => Ok(Some(name.to_owned())),
            _ => bail!(
                "{} is a link to {}, which this mirror did not make. Remove it, or give another path",
                self.path.display(),
                target.display()
            ),
        }
    }

    /// Makes the tree of `layout` the one in use, if it is not; `blob` finds the contents. Returns whether it was switched.
    pub fn converge<'b>(
        &self,
        layout: &Layout,
        blob: impl Fn(&Sha256) -> Option<&'b Blob>,
        now_s: u64,
        watch: &mut impl Watch,
    ) -> anyhow::Result<bool> {
        let trees = self.trees();
        if !trees.is_dir() {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&trees);
            Self::io("create the folder", &trees, made)?;
            Self::io(
                "open to readers",
                &trees,
                std::fs::set_permissions(&trees, Permissions::from_mode(0o755)),
            )?;
        }
        let id = id(layout);
        let current = self.current()?;
        let is_current = current.as_deref().is_some_and(|name| name.ends_with(&format!("-{id}")));
        if is_current && self.is_whole(current.as_deref().unwrap_or_default(), layout)? {
            self.sweep(current.as_deref(), now_s)?;
            return Ok(false);
        }
        let new = trees.join(format!("{id}.new"));
        self.sweep_unfinished(&new)?;
        let before = match &current {
            Some(name) => Some((trees.join(name), self.list_of(name)?)),
            None => None,
        };
        self.build(&new, layout, blob, before.as_ref(), watch)?;
        let name = self.finish(&new, layout, &id, now_s)?;
        self.switch(&name)?;
        if let Some(old) = current.filter(|old| *old != name) {
            // From now on it is old.
            let _ = std::fs::write(trees.join(format!("{old}.replaced")), now_s.to_string());
        }
        self.sweep(Some(&name), now_s)?;
        Ok(true)
    }

    /// Whether every file is there, with its length.
    fn is_whole(&self, name: &str, layout: &Layout) -> anyhow::Result<bool> {
        let tree = self.trees().join(name);
        for (path, entry) in layout {
            let found = std::fs::symlink_metadata(tree.join(path));
            if !found.is_ok_and(|found| found.is_file() && found.len() == entry.bytes) {
                tracing::warn!(tree = %tree.display(), path, "a file of the tree is gone or has another length; the tree is made anew");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Digests of the files of a tree; of one without a list, nothing.
    fn list_of(&self, name: &str) -> anyhow::Result<BTreeMap<String, Sha256>> {
        let path = self.trees().join(format!("{name}.sha256"));
        let file = match fact::open_regular(&path, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Self::io("read", &path, Err(error)),
        };
        let mut text = String::new();
        Self::io("read", &path, file.take(SUMS_BYTES_MAX).read_to_string(&mut text))?;
        Ok(parse_sums(&text))
    }

    fn build<'b>(
        &self,
        new: &Path,
        layout: &Layout,
        blob: impl Fn(&Sha256) -> Option<&'b Blob>,
        before: Option<&(PathBuf, BTreeMap<String, Sha256>)>,
        watch: &mut impl Watch,
    ) -> anyhow::Result<()> {
        make_folder(new)?;
        let mut folder = PathBuf::new();
        for (path, entry) in layout {
            let at = new.join(path);
            if let Some(parent) = at.parent()
                && parent != folder
            {
                make_folders(new, parent)?;
                parent.clone_into(&mut folder);
            }
            // Of a making that was broken off.
            if is_file_of(&at, entry, watch)? {
                continue;
            }
            remove_file(&at)?;
            if let Some((tree, digests)) = before
                && digests.get(path) == Some(&entry.digest)
                && link(&tree.join(path), &at, entry)
            {
                continue;
            }
            let blob = blob(&entry.digest)
                .with_context(|| format!("{path}: blob {} is not listed", entry.digest))?;
            self.write(&at, entry, blob, watch).with_context(|| format!("{path} is not written"))?;
        }
        Ok(())
    }

    fn write(&self, at: &Path, entry: &Entry, blob: &Blob, watch: &mut impl Watch) -> anyhow::Result<()> {
        let part = self.trees().join("part");
        remove_file(&part)?;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = Self::io("create", &part, options.open(&part))?;
        let mut stopped = Ok(());
        let copied = self.packs.copy_blob(blob, &file, &part, || {
            if stopped.is_ok() {
                stopped = watch.wrote(0);
            }
        });
        stopped?;
        if copied.as_ref().is_err_and(diodesync::pack::PackError::is_full) {
            // It is in the way of everything else on that file system.
            let _ = remove_file(&part);
        }
        copied?;
        let found = hash(&file, watch)?;
        if found != entry.digest {
            bail!(
                "it has SHA-256 {found}, expected {}: the packs' disk changed it; run diode-receiver verify",
                entry.digest
            );
        }
        Self::io(
            "set the mode of",
            &part,
            std::fs::set_permissions(&part, Permissions::from_mode(entry.mode())),
        )?;
        watch.wrote(entry.bytes)?;
        Self::io("rename to", at, std::fs::rename(&part, at))
    }

    /// Makes a whole tree durable under its name.
    fn finish(&self, new: &Path, layout: &Layout, id: &str, now_s: u64) -> anyhow::Result<String> {
        let trees = self.trees();
        let mut second = now_s;
        let name = loop {
            let name = format!("{second}-{id}");
            if !trees.join(&name).exists() {
                break name;
            }
            second += 1;
        };
        fact::write_atomic(&trees.join(format!("{name}.sha256")), 0o644, &[sums(layout).as_bytes()])?;
        let folder = Self::io("open", new, File::open(new))?;
        // One call, for however many files and folders there are.
        syncfs(&folder).with_context(|| format!("cannot sync the file system of {}", new.display()))?;
        Self::io("rename", new, std::fs::rename(new, trees.join(&name)))?;
        fact::sync_dir(&trees)?;
        Ok(name)
    }

    fn switch(&self, name: &str) -> anyhow::Result<()> {
        let trees = self.trees();
        let target = PathBuf::from(trees.file_name().unwrap_or_default()).join(name);
        let temporary = trees.join("link");
        remove_file(&temporary)?;
        // The link's text counts from where it will be.
        Self::io("make the link", &temporary, symlink(&target, &temporary))?;
        Self::io("switch", self.path, std::fs::rename(&temporary, self.path))?;
        Ok(fact::sync_dir(self.path.parent().unwrap_or(Path::new("/")))?)
    }

    /// Removes trees that were replaced longer ago than the grace.
    fn sweep(&self, current: Option<&str>, now_s: u64) -> anyhow::Result<()> {
        let trees = self.trees();
        for name in names(&trees)? {
            // What a crash has left of a tree that is not there.
            if let Some(of) = name.strip_suffix(".sha256").or_else(|| name.strip_suffix(".replaced"))
                && is_tree(of)
                && !trees.join(of).exists()
            {
                remove_file(&trees.join(&name))?;
            }
            if !is_tree(&name) || Some(name.as_str()) == current {
                continue;
            }
            let mark = trees.join(format!("{name}.replaced"));
            let replaced =
                std::fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse::<u64>().ok());
            let Some(replaced) = replaced else {
                Self::io("write", &mark, std::fs::write(&mark, now_s.to_string()))?;
                continue;
            };
            if now_s.saturating_sub(replaced) < self.grace.as_secs() {
                continue;
            }
            let tree = trees.join(&name);
            Self::io("remove the old tree", &tree, std::fs::remove_dir_all(&tree))?;
            remove_file(&trees.join(format!("{name}.sha256")))?;
            remove_file(&mark)?;
            tracing::info!(tree = %tree.display(), "a tree that was replaced is removed");
        }
        Ok(())
    }

    /// Removes other trees in the making: what they were for is not published any more.
    fn sweep_unfinished(&self, new: &Path) -> anyhow::Result<()> {
        let trees = self.trees();
        for name in names(&trees)?.iter().filter(|name| name.ends_with(".new")) {
            let path = trees.join(name);
            if path != new {
                Self::io("remove", &path, std::fs::remove_dir_all(&path))?;
            }
        }
        Ok(())
    }

    /// When the next tree that was replaced is to go, seconds since 1970; none if there is none.
    pub fn sweep_due_s(&self) -> Option<u64> {
        let trees = self.trees();
        let marks = names(&trees).ok()?.into_iter().filter(|name| name.ends_with(".replaced"));
        let due = marks.filter_map(|mark| {
            let text = std::fs::read_to_string(trees.join(mark)).ok()?;
            Some(text.trim().parse::<u64>().ok()?.saturating_add(self.grace.as_secs()))
        });
        due.min()
    }
}

impl Entry {
    fn mode(&self) -> u32 {
        if self.executable { 0o555 } else { 0o444 }
    }
}

/// `SECONDS-ID`
fn is_tree(name: &str) -> bool {
    let is_id = |id: &str| id.len() == 16 && id.bytes().all(|octet| octet.is_ascii_hexdigit());
    name.split_once('-').is_some_and(|(second, id)| second.parse::<u64>().is_ok() && is_id(id))
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in list {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn remove_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot create the folder {}", path.display()))
        }
        _ => {
            // Whatever the umask takes away, readers need.
            let opened = std::fs::set_permissions(path, Permissions::from_mode(0o755));
            opened.with_context(|| format!("cannot set the mode of {}", path.display()))
        }
    }
}

/// Makes the folders from `root`, which is there, down to `folder`.
fn make_folders(root: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut at = root.to_owned();
    for part in folder.strip_prefix(root).unwrap_or(Path::new("")) {
        at.push(part);
        make_folder(&at)?;
    }
    Ok(())
}

/// Whether a file of a tree in the making is there and is what it should be.
fn is_file_of(path: &Path, entry: &Entry, watch: &mut impl Watch) -> anyhow::Result<bool> {
    let Ok(file) = fact::open_regular(path, OpenOptions::new().read(true)) else { return Ok(false) };
    let found = file.metadata()?;
    let is_like = found.len() == entry.bytes && found.mode() & 0o777 == entry.mode();
    Ok(is_like && hash(&file, watch)? == entry.digest)
}

/// Takes over a file of the tree in use. It was compared with its digest when it was written.
fn link(old: &Path, new: &Path, entry: &Entry) -> bool {
    let is_like = std::fs::symlink_metadata(old).is_ok_and(|found| {
        found.is_file() && found.len() == entry.bytes && found.mode() & 0o777 == entry.mode()
    });
    // A file system without links, or with too many of them: it is written.
    is_like && std::fs::hard_link(old, new).is_ok()
}

fn hash(file: &File, watch: &mut impl Watch) -> anyhow::Result<Sha256> {
    use std::os::unix::fs::FileExt;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut buffer, at).context("cannot read what was written")?;
        if read == 0 {
            return Ok(Sha256(hasher.finalize().into()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        at += read as u64;
        watch.wrote(0)?;
    }
}

#[cfg(test)]
mod tests;
