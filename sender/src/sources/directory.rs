//! A folder that is watched: what others put there is taken once it has settled.
//!
//! A file has settled when neither its content nor its name changed for a while. Links and special files are refused,
//! each by itself. What was hashed once is hashed again only after it has changed; that is kept in
//! `DIR/sources/NAME/known`, which may be lost.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::PATH_DEPTH_MAX;
use diodesync::pack::fact;
use diodesync::quantity::parse_duration;
use diodesync::release::index::ArtifactKind;
use diodesync::release::name::{ArtifactName, FilePath};
use diodesync_control::clock_s;
use diodesync_control::table::Table;
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::config::parse_path;
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};

/// What a folder is watched for.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    into: Option<FilePath>,
    settle: Duration,
}

/// A regular file that was found.
#[derive(Debug)]
struct Found {
    source: PathBuf,
    name: FilePath,
    bytes: u64,
    executable: bool,
    mark: Mark,
    changed_s: i64,
}

/// What tells that a file is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// What was hashed, by name.
type Known = BTreeMap<String, (Mark, Sha256)>;

impl Pull for Directory {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            path: table.required("path", parse_path)?,
            into: table.parsed("into", |text| text.trim_end_matches('/').parse())?,
            settle: table.parsed("settle", parse_duration)?.unwrap_or(Duration::from_secs(60)),
        })
    }

    fn homes(&self) -> Vec<Url> {
        Vec::new()
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let (own, theirs) = (self.clone(), job.clone());
        let look = tokio::task::spawn_blocking(move || own.look(&theirs, clock_s()));
        let items = look.await.context("looking through the folder crashed")??;
        if items.is_empty() {
            return Ok(());
        }
        let names: Vec<ArtifactName> =
            items.iter().map(|item| item.path.parse().map(ArtifactName::File)).collect::<Result<_, _>>()?;
        job.say(format!("taking in {} files", items.len()));
        job.submit(What::Files, items, &names).await?;
        Ok(())
    }
}

impl Directory {
    /// What is new here.
    fn look(&self, job: &Job, now_s: u64) -> anyhow::Result<Vec<Item>> {
        let mut found = Vec::new();
        let at = self.into.as_ref().map(ToString::to_string).unwrap_or_default();
        // A folder that cannot be read is not an empty one.
        self.walk(job, &self.path, &at, 0, &mut found)?;
        job.plan(found.len())?;
        let known_path = job.folder.with_file_name("known");
        let mut known: Known = fact::read(&known_path)
            .ok()
            .flatten()
            .and_then(|content| serde_json::from_slice(&content).ok())
            .unwrap_or_default();
        let (mut items, mut now_known) = (Vec::new(), Known::new());
        for file in found {
            let name = ArtifactName::File(file.name.clone());
            job.say(file.name.to_string());
            if now_s.saturating_sub(file.changed_s.max(0) as u64) < self.settle.as_secs() {
                job.later(&name);
                continue;
            }
            let known = known.remove(file.name.as_str()).filter(|(mark, _)| *mark == file.mark);
            let digest = match known.map_or_else(|| hash(&file.source), |(_, digest)| Ok(digest)) {
                Ok(digest) => digest,
                Err(error) => {
                    job.problem(&name, &error);
                    continue;
                }
            };
            now_known.insert(file.name.to_string(), (file.mark, digest));
            let kind = ArtifactKind::File { blob: digest, executable: file.executable };
            if job.present(&name) == Some(kind) {
                job.unchanged(&name);
                continue;
            }
            let role = if file.executable { Role::Executable } else { Role::Plain };
            items.push(Item { source: file.source, path: file.name.to_string(), role, bytes: file.bytes });
        }
        let bytes: u64 = items.iter().map(|item| item.bytes).sum();
        if bytes > job.source.bytes_max {
            bail!(
                "what is new there has {bytes} octets, the limit of this source is {}",
                job.source.bytes_max
            );
        }
        fact::write_lazily(&known_path, &serde_json::to_vec(&now_known)?)?;
        Ok(items)
    }

    fn walk(
        &self,
        job: &Job,
        folder: &Path,
        at: &str,
        depth: usize,
        found: &mut Vec<Found>,
    ) -> anyhow::Result<()> {
        if depth > PATH_DEPTH_MAX {
            bail!("{} is more than {PATH_DEPTH_MAX} folders deep", folder.display());
        }
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            let (path, own) = (entry.path(), entry.file_name());
            let own = own.to_string_lossy();
            let name = if at.is_empty() { own.into_owned() } else { format!("{at}/{own}") };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // It was taken away meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
            };
            if metadata.is_dir() {
                self.walk(job, &path, &name, depth + 1, found)?;
                continue;
            }
            match Found::of(path, &name, &metadata) {
                Ok(file) => found.push(file),
                Err(error) => job.problem(&format!("file {name}"), &error),
            }
            job.plan(found.len())?;
        }
        Ok(())
    }
}

impl Found {
    fn of(source: PathBuf, name: &str, metadata: &std::fs::Metadata) -> anyhow::Result<Self> {
        if !metadata.is_file() {
            let what = if metadata.is_symlink() { "a symbolic link" } else { "a FIFO, socket or device" };
            bail!("{} is {what}; only regular files and folders are taken", source.display());
        }
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let mark = Mark {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        };
        let executable = metadata.mode() & 0o111 != 0;
        let changed_s = metadata.mtime().max(metadata.ctime());
        Ok(Self { name: name.parse()?, bytes: metadata.len(), executable, mark, changed_s, source })
    }
}

fn hash(path: &Path) -> anyhow::Result<Sha256> {
    let read = || format!("cannot read {}", path.display());
    let mut file = fact::open_regular(path, std::fs::File::options().read(true)).with_context(read)?;
    let mut hasher = sha2::Sha256::new();
    std::io::copy(&mut file, &mut HashWriter(&mut hasher)).with_context(read)?;
    Ok(Sha256(hasher.finalize().into()))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.update(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
