//! Every octet of what the sender keeps changed, one at a time, while it was stopped: it says which file, or what it
//! then releases is what was submitted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo, Sha256};
use diodesync::link::ReceiverKey;
use diodesync::pack::{PackStore, fact};
use diodesync::release::index::{ArtifactKind, Provider, ProviderArchive};
use diodesync::release::{ArtifactName, Index};
use diodesync::trust::{TrustState, target_name, verify};

use crate::ingest::Submission;
use crate::init::{self, Keys, LinkFile};
use crate::release;
use crate::store::Store;

const NOW_S: u64 = 1_795_000_000;

struct Low {
    dir: PathBuf,
    /// Every file as it was at the stop.
    files: BTreeMap<PathBuf, Vec<u8>>,
    root: TrustState,
    /// What was submitted.
    artifacts: BTreeMap<ArtifactName, ArtifactKind>,
}

impl Low {
    /// One release that went out, and one more file that waits for the next.
    fn new() -> Self {
        let base = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let dir = base.join(format!("diode-sender-every-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let receiver = dir.join("receiver.pub");
        let key = ReceiverKey::from_seed(&[2; 32]).public().to_string();
        std::fs::write(&receiver, key).unwrap();
        init::init(&dir, &receiver).unwrap();
        let root = TrustState::from_root(&std::fs::read(dir.join("roots/1.json")).unwrap()).unwrap();
        let mut low = Self { dir, files: BTreeMap::new(), root, artifacts: BTreeMap::new() };
        let store = Mutex::new(Store::open(&low.dir).unwrap());
        let keys = Keys::load(&low.dir).unwrap();
        low.submit(&store, "a", b"the first file");
        release::cut(&store, &keys, &Channel::main(), false, NOW_S, 7, &|_| Ok(())).unwrap();
        store.lock().unwrap().commit_complete(&Channel::main(), ReleaseNo(1)).unwrap();
        store.lock().unwrap().next_session(NOW_S * 1000).unwrap();
        low.submit(&store, "docs/b", b"the second file");
        low.artifacts = store.lock().unwrap().present(&Channel::main());
        for folder in ["", "keys", "roots", "staged", "releases/main", "complete", "packs"] {
            for entry in std::fs::read_dir(low.dir.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    low.files.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        low
    }

    fn submit(&self, store: &Mutex<Store>, path: &str, octets: &[u8]) {
        let packs = PackStore::open(&self.dir.join("packs")).unwrap();
        let mut submission = Submission::begin(&packs, store, Channel::main()).unwrap();
        let blob = submission.put(octets).unwrap();
        let name = ArtifactName::File(path.parse().unwrap());
        submission.artifact(name, ArtifactKind::File { blob, executable: false }).unwrap();
        let archives =
            BTreeMap::from([("linux_amd64".parse().unwrap(), ProviderArchive { blob, h1: [7; 32] })]);
        let provider = Provider { protocols: vec!["5.0".to_owned()], proof: None, archives };
        let address = "registry.terraform.io/acme/demo".parse().unwrap();
        let version = format!("1.0.{}", octets.len()).parse().unwrap();
        submission
            .artifact(ArtifactName::Provider(address, version), ArtifactKind::Provider(provider))
            .unwrap();
        submission.finish(NOW_S, &|_| Ok(())).unwrap();
    }

    /// What a start reads, and what the next release then is.
    fn start_and_release(&self) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let link = fact::read(&self.dir.join("link.json"))?.context("link.json is missing")?;
        let _: LinkFile = serde_json::from_slice(&link)?;
        let keys = Keys::load(&self.dir)?;
        let store = Store::open(&self.dir)?;
        store.complete(&Channel::main())?;
        store.next_session(NOW_S * 1000)?;
        let store = Mutex::new(store);
        release::renew_timestamp(&store, &keys, NOW_S, 7)?;
        let (_, outgoing) = release::cut(&store, &keys, &Channel::main(), true, NOW_S, 7, &|_| Ok(()))?;
        Ok((outgoing.control.trust.to_vec(), outgoing.control.index.to_vec()))
    }

    /// Whether the receiver would take it for the sender's.
    fn is_accepted(&self, trust: &[u8], index: &[u8]) -> bool {
        let Ok(bundle) = diodesync::trust::Bundle::parse(trust) else { return false };
        let Ok((_, targets)) = verify(&self.root, &bundle, NOW_S) else { return false };
        let Ok(index_read) = Index::parse(index) else { return false };
        let target = targets.get(&target_name(&index_read.channel, index_read.number));
        target.is_some_and(|target| target.sha256 == Sha256::of(index))
    }

    fn put_back(&self) {
        for folder in ["staged", "releases/main"] {
            for entry in std::fs::read_dir(self.dir.join(folder)).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        // In place, so that a key keeps its mode.
        self.files.iter().for_each(|(path, octets)| std::fs::write(path, octets).unwrap());
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn of_the_spool() {
    let low = Low::new();
    // A configuration means what it says, and the daemon does not read these.
    let unread =
        ["sender.toml", "receiver.pub", "pairing.json", "keys/root.key"].map(|name| low.dir.join(name));
    let (mut cases, mut files) = (0, 0);
    for (path, octets) in &low.files {
        // Blocks are looked at when they are sent: see the encoder.
        if unread.contains(path) || path.extension().is_some_and(|extension| extension == "pack") {
            continue;
        }
        // The audit log has tests of its own.
        if path.starts_with(low.dir.join("audit")) || path.ends_with("audit.key") {
            continue;
        }
        files += 1;
        for at in 0..octets.len() {
            let mut changed = octets.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(path, changed).unwrap();
            match low.start_and_release() {
                Ok(_) => panic!("{}, octet {at}: nothing is said of it", path.display()),
                Err(error) => {
                    let (text, path) = (format!("{error:#}"), path.display().to_string());
                    assert!(text.contains(&path), "{path}, octet {at}: {text}");
                }
            }
            low.put_back();
            cases += 1;
        }
    }
    println!("{cases} changed octets of {files} files, each named");
    assert!(files >= 11, "{files} files: {:?}", low.files.keys());
    let (trust, index) = low.start_and_release().unwrap();
    assert!(low.is_accepted(&trust, &index));
    assert_eq!(Index::parse(&index).unwrap().artifacts, low.artifacts);
}
