//! What lies in a tree: paths and contents, by what is published.

use std::collections::BTreeMap;

use diodesync::id::Sha256;
use diodesync::release::index::archive_file_name;

use super::config::TreeKind;
use crate::serve::Site;

/// A file of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its content.
    pub digest: Sha256,
    /// Its octets.
    pub bytes: u64,
    /// Whether it may be executed.
    pub executable: bool,
}

/// Files by their path in the tree, which is safe by construction.
pub type Layout = BTreeMap<String, Entry>;

/// What is published, as a tree.
///
/// A `terraform-tree` has the packed layout of
/// <https://developer.hashicorp.com/terraform/cli/config/config-file#filesystem_mirror>:
/// `HOST/NAMESPACE/TYPE/terraform-provider-TYPE_VERSION_OS_ARCH.zip`.
pub fn layout(site: &Site, kind: TreeKind) -> Layout {
    match kind {
        TreeKind::Files => {
            let entry = |file: &crate::serve::FileEntry| Entry {
                digest: file.digest,
                bytes: file.bytes,
                executable: file.executable,
            };
            site.files().iter().map(|(path, file)| (path.clone(), entry(file))).collect()
        }
        TreeKind::Terraform => {
            let mut tree = Layout::new();
            for (address, versions) in site.providers() {
                for (version, provider) in versions {
                    for (platform, archive) in &provider.archives {
                        let name = archive_file_name(address, version, platform);
                        let bytes = site.blob(&archive.blob).map_or(0, |blob| blob.bytes);
                        let entry = Entry { digest: archive.blob, bytes, executable: false };
                        tree.insert(format!("{address}/{name}"), entry);
                    }
                }
            }
            tree
        }
    }
}

/// The list of a tree, as `sha256sum -c` reads it.
pub fn sums(layout: &Layout) -> String {
    layout.iter().map(|(path, entry)| format!("{}  {path}\n", entry.digest)).collect()
}

/// What a list says: digests by path. Lines that are none are passed over: the files that they name are written anew.
pub fn parse_sums(text: &str) -> BTreeMap<String, Sha256> {
    let line = |line: &str| {
        let (hex, path) = line.split_once("  ")?;
        Some((path.to_owned(), hex.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// The name of a tree of this content: files, modes and all.
pub fn id(layout: &Layout) -> String {
    let modes: String = layout.values().map(|entry| if entry.executable { 'x' } else { '-' }).collect();
    Sha256::of(format!("{}{modes}", sums(layout)).as_bytes()).to_string().chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use diodesync::pack::PackStore;

    use super::*;
    use crate::serve::testing::{Release, TempDir};

    #[test]
    fn providers_lie_packed_and_files_by_their_path() {
        let dir = TempDir::new("layout");
        let packs = Arc::new(PackStore::open(dir.path()).unwrap());
        let mut release = Release::new("main", 1);
        let zip = release.provider("registry.terraform.io/coder/coder", "2.1.0", b"zip", None);
        let doc = release.file("docs/a.txt", b"a");
        let site = Site::new(vec![release.publish(&packs)], packs).unwrap();
        let tree = layout(&site, TreeKind::Terraform);
        let path = "registry.terraform.io/coder/coder/terraform-provider-coder_2.1.0_linux_amd64.zip";
        assert_eq!(tree.keys().collect::<Vec<_>>(), [path]);
        assert_eq!((tree[path].digest, tree[path].bytes), (zip, 3));
        let files = layout(&site, TreeKind::Files);
        assert_eq!(parse_sums(&sums(&files)), BTreeMap::from([("docs/a.txt".to_owned(), doc)]));
        assert_ne!(id(&tree), id(&files));
        let mut other = files.clone();
        other.values_mut().for_each(|entry| entry.executable = true);
        assert_ne!(id(&other), id(&files));
    }
}
