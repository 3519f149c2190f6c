use std::sync::Arc;

use diodesync::journal::SledJournal;

use super::*;
use crate::handover::Judge;
use crate::serve::testing::{Release, TempDir};

/// A blob that was found right in one place says nothing of another place that an index gives it.
#[test]
fn a_blob_that_moves_is_hashed_again() {
    let dir = TempDir::new("moved");
    let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
    let journal = Arc::new(SledJournal::open(&dir.path().join("journal")).unwrap().0);
    let ledger = Ledger::open(dir.path(), packs.clone(), journal).unwrap();
    let mut first = Release::new("main", 1);
    let digest = first.file("a", b"what it is");
    let first = first.publish(&packs);
    let hold =
        |index: &Index| index.blocks().for_each(|block| ledger.written(block.id, block.hash, block.bytes));
    hold(&first);
    let mut checked = HashMap::new();
    let mut arrival = Arrival::new(first.clone(), &ledger, &checked);
    let (found, place) = arrival.check_next(&packs).unwrap().unwrap();
    assert_eq!(found, digest);
    checked.insert(found, place);
    assert!(arrival.is_whole());
    assert!(Arrival::new(first.clone(), &ledger, &checked).is_whole(), "it is known in this place");

    let mut other = Release::new("main", 2);
    other.file("b", b"other octets");
    let mut other = (*other.publish(&packs)).clone();
    hold(&other);
    let [(_, blob)] = std::mem::take(&mut other.blobs).into_iter().collect::<Vec<_>>().try_into().unwrap();
    other.blobs.insert(digest, blob);
    let mut arrival = Arrival::new(other, &ledger, &checked);
    assert!(!arrival.is_whole(), "it was taken without a look");
    assert_eq!(arrival.check_next(&packs).unwrap(), None);
    assert!(matches!(arrival.view().stage, Stage::Refused(_)));
}
