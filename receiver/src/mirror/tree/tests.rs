use std::sync::Arc;

use diodesync::pack::PackStore;

use super::*;
use crate::mirror::config::TreeKind;
use crate::mirror::layout::layout;
use crate::serve::Site;
use crate::serve::testing::{Release, TempDir};

/// Stops after so many calls.
struct Counter {
    left: usize,
    bytes: u64,
}

impl Watch for Counter {
    fn wrote(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.bytes += bytes;
        self.left = self.left.checked_sub(1).context("stopped")?;
        Ok(())
    }
}

fn endless() -> Counter {
    Counter { left: usize::MAX, bytes: 0 }
}

struct Stand {
    dir: TempDir,
    packs: Arc<PackStore>,
}

impl Stand {
    fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
        Self { dir, packs }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mirror")
    }

    fn site(&self, pack: u8, files: &[(&str, &str)]) -> Site {
        let mut release = Release::new("main", pack);
        for (path, content) in files {
            release.file(path, content.as_bytes());
        }
        Site::new(vec![release.publish(&self.packs)], self.packs.clone()).unwrap()
    }

    fn converge(&self, site: &Site, now_s: u64, watch: &mut impl Watch) -> anyhow::Result<bool> {
        let path = self.path();
        let tree = Tree { path: &path, grace: Duration::from_secs(60), packs: &self.packs };
        tree.converge(&layout(site, TreeKind::Files), |digest| site.blob(digest), now_s, watch)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap()
    }

    fn trees(&self) -> Vec<String> {
        let mut path = self.path().into_os_string();
        path.push(".trees");
        names(Path::new(&path)).unwrap()
    }
}

#[test]
fn a_tree_follows_and_the_old_one_stays_for_a_while() {
    let stand = Stand::new("tree-follows");
    let first = stand.site(1, &[("a/one", "1"), ("a/two", "2"), ("three", "3")]);
    let mut watch = endless();
    assert!(stand.converge(&first, 100, &mut watch).unwrap());
    assert_eq!((stand.read("a/one"), watch.bytes), ("1".to_owned(), 3));
    let mode = std::fs::metadata(stand.path().join("a/one")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o444);
    // Again there is nothing to do.
    assert!(!stand.converge(&first, 101, &mut endless()).unwrap());

    let second = stand.site(2, &[("a/one", "1"), ("a/two", "II"), ("b/four", "4")]);
    let old = std::fs::canonicalize(stand.path()).unwrap();
    let mut watch = endless();
    assert!(stand.converge(&second, 102, &mut watch).unwrap());
    // What is the same is linked.
    assert_eq!(watch.bytes, 3);
    assert_eq!((stand.read("a/two"), stand.read("b/four")), ("II".to_owned(), "4".to_owned()));
    assert!(!stand.path().join("three").exists());
    assert_eq!(std::fs::read_to_string(old.join("a/two")).unwrap(), "2", "who reads the old tree goes on");
    assert!(!stand.converge(&second, 161, &mut endless()).unwrap());
    assert!(old.exists());
    assert!(!stand.converge(&second, 162, &mut endless()).unwrap());
    assert!(!old.exists());
    assert_eq!(stand.trees().len(), 2, "{:?}", stand.trees());
    // The list is one that sha256sum reads.
    let list = stand.trees().into_iter().find(|name| name.ends_with(".sha256")).unwrap();
    let list = std::fs::read_to_string(stand.dir.path().join("mirror.trees").join(list)).unwrap();
    assert!(list.lines().any(|line| line == format!("{}  b/four", Sha256::of(b"4"))), "{list}");
}

#[test]
fn a_making_that_is_broken_off_anywhere_is_taken_up() {
    let stand = Stand::new("tree-broken-off");
    let first = stand.site(1, &[("x", "old")]);
    stand.converge(&first, 1, &mut endless()).unwrap();
    let second = stand.site(2, &[("a", "1"), ("b/c", "22"), ("b/d", "333"), ("x", "new")]);
    for left in 0.. {
        let done = stand.converge(&second, 2, &mut Counter { left, bytes: 0 });
        if done.is_ok() {
            assert!(left >= 3, "it was not broken off");
            break;
        }
        assert_eq!(stand.read("x"), "old", "stopped after {left}");
        assert!(!stand.path().join("a").exists());
    }
    assert_eq!((stand.read("x"), stand.read("b/d")), ("new".to_owned(), "333".to_owned()));
    assert!(
        !stand.trees().iter().any(|name| name.ends_with(".new") || name == "part"),
        "{:?}",
        stand.trees()
    );
}

#[test]
fn what_somebody_took_away_is_made_again() {
    let stand = Stand::new("tree-again");
    let site = stand.site(1, &[("a", "1"), ("b", "2")]);
    stand.converge(&site, 1, &mut endless()).unwrap();
    std::fs::remove_file(stand.path().join("a")).unwrap();
    assert!(stand.converge(&site, 2, &mut endless()).unwrap());
    assert_eq!((stand.read("a"), stand.read("b")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn what_is_not_ours_stays() {
    let stand = Stand::new("tree-not-ours");
    let site = stand.site(1, &[("a", "1")]);
    std::fs::create_dir(stand.path()).unwrap();
    let error = stand.converge(&site, 1, &mut endless()).unwrap_err().to_string();
    assert!(error.contains("is no link") && error.contains("Move it away"), "{error}");
    std::fs::remove_dir(stand.path()).unwrap();
    std::os::unix::fs::symlink("/srv", stand.path()).unwrap();
    let error = stand.converge(&site, 1, &mut endless()).unwrap_err().to_string();
    assert!(error.contains("which this mirror did not make"), "{error}");
}

#[test]
fn what_a_disk_has_changed_is_not_written_under_its_name() {
    let stand = Stand::new("tree-damage");
    let site = stand.site(1, &[("a", "content")]);
    let packs = stand.packs.list().unwrap();
    let pack = std::fs::read(stand.packs.path(packs[0])).unwrap();
    let changed: Vec<u8> = pack.iter().map(|octet| if *octet == b'c' { b'x' } else { *octet }).collect();
    std::fs::write(stand.packs.path(packs[0]), changed).unwrap();
    let error = format!("{:#}", stand.converge(&site, 1, &mut endless()).unwrap_err());
    assert!(error.contains("a is not written") && error.contains("diode-receiver verify"), "{error}");
    assert!(!stand.path().exists());
}
