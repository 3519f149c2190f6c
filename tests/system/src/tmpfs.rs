//! Small file systems that a test can fill.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::skip::Skip;

/// A tmpfs in place of a folder, with what was in it. Dropping it unmounts it; stop what runs in it first.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Moves a folder onto a file system of `bytes`.
    pub fn over(path: &Path, bytes: u64) -> std::result::Result<Self, Skip> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skip::curable("mounting a small file system needs root"));
        }
        let aside = path.with_extension("aside");
        let moved = fs::rename(path, &aside).and_then(|()| fs::create_dir(path));
        moved.map_err(|error| Skip::curable(format!("cannot move {}: {error}", path.display())))?;
        let options = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "diodesync-test"]).arg(path).output();
        let why = match mount {
            Ok(done) if done.status.success() => None,
            Ok(done) => Some(String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(error) => Some(format!("cannot run mount ({error})")),
        };
        if let Some(why) = why {
            // As it was.
            let _ = fs::remove_dir(path).and_then(|()| fs::rename(&aside, path));
            return Err(Skip::incurable(format!("no file system can be mounted here: {why}")));
        }
        let tmpfs = Self { path: path.to_owned() };
        let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(path).status();
        match copied {
            Ok(status) if status.success() => Ok(tmpfs),
            other => Err(Skip::curable(format!("cannot copy {}: {other:?}", aside.display()))),
        }
    }

    /// Octets that are free.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills it until at most `left` octets are free, rounded down to whole pages.
    pub fn fill(&self, left: u64) -> Result<()> {
        let path = self.path.join("filler");
        let mut filler = File::options().create(true).append(true).open(&path).context("cannot fill")?;
        let piece = vec![0x46; 1 << 16];
        loop {
            let free = self.free()?;
            if free <= left {
                return Ok(());
            }
            let now = (free - left).next_multiple_of(4096).min(piece.len() as u64) as usize;
            match filler.write(&piece[..now]) {
                Ok(0) => bail!("the filler takes nothing more"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("cannot fill"),
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn relieve(&self) -> Result<()> {
        match fs::remove_file(self.path.join("filler")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
