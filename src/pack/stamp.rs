//! Whether a file is another one than before.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells two states of a file apart, as far as the file system knows. A fact that was replaced is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what is there now; none if it cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::fact;

    #[test]
    fn a_fact_that_was_written_again_is_another_file() {
        let dir = crate::testing::TempDir::new("stamp");
        let path = dir.path().join("fact");
        assert_eq!(Stamp::of(&path), None);
        fact::write(&path, b"1").unwrap();
        let first = Stamp::of(&path);
        assert!(first.is_some() && first == Stamp::of(&path));
        fact::write(&path, b"2").unwrap();
        assert_ne!(Stamp::of(&path), first);
    }
}
