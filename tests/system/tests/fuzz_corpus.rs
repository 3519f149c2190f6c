//! The bodies of the fuzz targets over their corpora: what the fuzzer found once holds in every run.

#[path = "../../fuzz/bodies/lib.rs"]
mod bodies;
#[path = "../../fuzz/seeds.rs"]
mod seeds;
#[path = "../../simulator/world.rs"]
mod world;

use std::path::{Path, PathBuf};

use bodies::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

#[test]
fn every_file_of_every_corpus_holds() {
    for (name, target) in TARGETS {
        let dir = corpus().join(name);
        let list = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut files: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 4, "{name} has {} files", files.len());
        for file in files {
            let octets = std::fs::read(&file).unwrap();
            let held = std::panic::catch_unwind(|| target(&octets));
            assert!(held.is_ok(), "{name} does not hold for {}", file.display());
        }
    }
}

/// Made of the golden vectors and of what real tools write.
#[test]
#[ignore = "writes the seeds of the corpora; run it when a format changes"]
fn write_seeds() {
    for (target, name, octets) in seeds::seeds() {
        assert!(TARGETS.iter().any(|(known, _)| *known == target), "{target}");
        let dir = corpus().join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), octets).unwrap();
    }
}
