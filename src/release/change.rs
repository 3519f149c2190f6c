//! What a release changed, against the one before it.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::Index;
use crate::id::{Channel, ReleaseNo, Sha256};

/// Names that are kept of each kind of change.
const NAMES_MAX: usize = 1000;

/// What a release changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// When it was cut, seconds since 1970.
    pub created_s: u64,
    /// The release whose blocks were taken to be there already.
    pub baseline: Option<ReleaseNo>,
    /// The release that it is compared with; none if none is kept.
    pub against: Option<ReleaseNo>,
    /// Artifacts that it serves.
    pub artifacts: usize,
    /// Octets that it serves.
    pub bytes: u64,
    /// Octets of it that were not in the release before.
    pub new_bytes: u64,
    /// What came.
    pub added: Names,
    /// What has another content.
    pub changed: Names,
    /// What went.
    pub removed: Names,
}

/// Artifacts, not all of them named if they are many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub names: Vec<String>,
}

impl Names {
    fn add(&mut self, name: &dyn Display) {
        self.count += 1;
        if self.names.len() < NAMES_MAX {
            self.names.push(name.to_string());
        }
    }
}

impl Change {
    /// Compares a release with the one before.
    pub fn between(index: &Index, before: Option<&Index>) -> Self {
        let (mut added, mut changed, mut removed) = (Names::default(), Names::default(), Names::default());
        for (name, kind) in &index.artifacts {
            match before.and_then(|before| before.artifacts.get(name)) {
                None => added.add(name),
                Some(other) if other != kind => changed.add(name),
                Some(_) => {}
            }
        }
        let gone = before.into_iter().flat_map(|before| before.artifacts.keys());
        gone.filter(|name| !index.artifacts.contains_key(name)).for_each(|name| removed.add(name));
        let was_there = |digest: &Sha256| before.is_some_and(|before| before.blobs.contains_key(digest));
        let new = index.blobs.iter().filter(|(digest, _)| !was_there(digest));
        Self {
            channel: index.channel.clone(),
            number: index.number,
            created_s: index.created_s,
            baseline: index.baseline,
            against: before.map(|before| before.number),
            artifacts: index.artifacts.len(),
            bytes: index.blob_bytes(),
            new_bytes: new.map(|(_, blob)| blob.bytes).sum(),
            added,
            changed,
            removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::release::{ArtifactKind, ArtifactName, Blob};

    fn index(number: u64, files: &[(&str, u8)]) -> Index {
        let blob = |content: u8| Sha256([content; 32]);
        Index {
            channel: Channel::main(),
            number: ReleaseNo(number),
            created_s: 7,
            baseline: None,
            packs: BTreeMap::new(),
            blobs: files
                .iter()
                .map(|(_, content)| (blob(*content), Blob { bytes: 10, extents: Vec::new() }))
                .collect(),
            artifacts: files
                .iter()
                .map(|(name, content)| {
                    let kind = ArtifactKind::File { blob: blob(*content), executable: false };
                    (ArtifactName::File(name.parse().unwrap()), kind)
                })
                .collect(),
        }
    }

    #[test]
    fn what_came_went_and_changed_is_named() {
        let (before, after) =
            (index(1, &[("a", 1), ("b", 2), ("c", 3)]), index(2, &[("a", 1), ("b", 9), ("d", 4)]));
        let change = Change::between(&after, Some(&before));
        let names = |names: &Names| (names.count, names.names.join(" "));
        assert_eq!(names(&change.added), (1, "file d".to_owned()));
        assert_eq!(names(&change.changed), (1, "file b".to_owned()));
        assert_eq!(names(&change.removed), (1, "file c".to_owned()));
        assert_eq!((change.bytes, change.new_bytes, change.against), (30, 20, Some(ReleaseNo(1))));
        assert_eq!(Change::between(&before, None).added.count, 3);
    }
}
