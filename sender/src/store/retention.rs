//! What the store forgets, and what it knows to be damaged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync::pack::verify::judge_block;
use diodesync::pack::{PackStore, fact};
use diodesync::release::catalog::Catalog;
use diodesync::release::index::Index;
use diodesync::release::retention::{KEEP_DEFAULT, Known, Plan, kept_releases};

use super::Store;

impl Store {
    /// The releases of which there is an index.
    pub fn releases(&self) -> anyhow::Result<BTreeMap<Channel, BTreeSet<ReleaseNo>>> {
        let folder = self.dir.join("releases");
        let entries = |folder: &std::path::Path| -> anyhow::Result<Vec<String>> {
            let list =
                std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
            let mut names = Vec::new();
            for entry in list {
                names.extend(entry?.file_name().into_string());
            }
            Ok(names)
        };
        let mut releases = BTreeMap::new();
        for name in entries(&folder)? {
            let Ok(channel) = name.parse::<Channel>() else { continue };
            let numbers = entries(&folder.join(&name))?;
            let numbers = numbers.iter().filter_map(|name| name.strip_suffix(".index")?.parse().ok());
            releases.insert(channel, numbers.map(ReleaseNo).collect());
        }
        Ok(releases)
    }

    /// Forgets releases that are not kept, and gives the room of blocks back that neither these nor `others` need: octets.
    /// The caller sees to it that no submission is under way.
    ///
    /// # Errors
    /// If something cannot be read or removed. What is not given back is at the next time.
    pub fn retain(
        &mut self,
        packs: &PackStore,
        keep: &BTreeMap<Channel, usize>,
        others: &BTreeSet<BlockId>,
    ) -> anyhow::Result<u64> {
        let mut kept: Vec<Index> = Vec::new();
        for (channel, numbers) in self.releases()? {
            let newest = self.newest.get(&channel).map(|index| index.number);
            let mut known = Known::default();
            for number in &numbers {
                let baseline = self.kept_index(&channel, *number)?.baseline;
                known.releases.insert(*number, baseline);
            }
            // One that is newer was not signed before a crash.
            known
                .used
                .extend(numbers.iter().filter(|number| newest.is_some_and(|newest| **number <= newest)));
            known.needed.extend(self.complete(&channel)?);
            let kept_numbers = kept_releases(&known, keep.get(&channel).copied().unwrap_or(KEEP_DEFAULT));
            for number in numbers.difference(&kept_numbers) {
                let path = self.release_path(&channel, *number);
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                tracing::info!(%channel, release = number.0, "release forgotten");
            }
            fact::sync_dir(&self.dir.join("releases").join(channel.as_str()))?;
            for number in kept_numbers {
                kept.push(self.kept_index(&channel, number)?);
            }
        }
        let indexes = || self.newest.values().chain(self.staged.values()).chain(&kept);
        let mut needed: BTreeSet<BlockId> =
            indexes().flat_map(|index| index.blocks()).map(|block| block.id).collect();
        needed.extend(others);
        let plan = Plan::new(&packs.stored_blocks()?, &needed);
        // From here on nothing is built on what goes.
        let mut catalog = Catalog::default();
        for (pack, end) in self.catalog.pack_ends() {
            if !plan.packs.contains(&pack) {
                catalog.reserve(pack, end);
            }
        }
        let damaged: BTreeSet<BlockId> =
            self.catalog.condemned().iter().filter(|id| needed.contains(id)).copied().collect();
        damaged.iter().for_each(|id| catalog.condemn(*id));
        indexes().for_each(|index| catalog.absorb(index));
        for id in self.catalog.condemned().difference(&damaged) {
            packs.absolve(id);
        }
        let is_less = damaged.len() < self.catalog.condemned().len();
        self.catalog = catalog;
        if is_less {
            self.record_damaged(&damaged)?;
        }
        let before = packs.stored_bytes()?;
        for pack in &plan.packs {
            packs.remove(*pack)?;
        }
        for (pack, range) in &plan.holes {
            if !packs.punch(*pack, range)? {
                tracing::debug!(%pack, "this file system punches no holes; a pack goes when nothing of it is needed");
            }
        }
        Ok(before.saturating_sub(packs.stored_bytes()?))
    }

    fn kept_index(&self, channel: &Channel, number: ReleaseNo) -> anyhow::Result<Index> {
        match self.newest.get(channel).filter(|index| index.number == number) {
            Some(index) => Ok(index.clone()),
            None => self.release(channel, number),
        }
    }

    /// Takes up what was known to be damaged, and finds files that were cut or removed: `DIR/damaged` is a fact, a JSON
    /// list of blocks. To be done before anything is read from the packs.
    pub fn open_damaged(&mut self, packs: &PackStore) -> anyhow::Result<()> {
        let path = self.dir.join("damaged");
        if let Some(content) = fact::read(&path)? {
            let damaged: BTreeSet<BlockId> = serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", path.display()))?;
            for id in damaged {
                packs.condemn(id);
                self.catalog.condemn(id);
            }
        }
        let indexes = self.newest.values().chain(self.staged.values());
        let blocks: BTreeMap<_, _> = indexes.flat_map(Index::blocks).map(|block| (block.id, block)).collect();
        let mut buffer = Vec::new();
        for id in packs.not_stored(blocks.values().map(|block| (block.id, block.bytes)))? {
            let Some(block) = blocks.get(&id) else { continue };
            if let Err(why) = judge_block(packs, block, &mut buffer) {
                tracing::error!(block = %id, why, "it is not in its pack; submit what lies in it again");
                packs.condemn(id);
            }
        }
        self.note_damage(packs)
    }

    /// Records what the packs know to be damaged: nothing is built on it, so that what lies in it can be submitted again.
    pub fn note_damage(&mut self, packs: &PackStore) -> anyhow::Result<()> {
        let damaged = packs.condemned();
        if damaged == *self.catalog.condemned() {
            return Ok(());
        }
        self.record_damaged(&damaged)?;
        damaged.into_iter().for_each(|id| self.catalog.condemn(id));
        Ok(())
    }

    fn record_damaged(&self, damaged: &BTreeSet<BlockId>) -> anyhow::Result<()> {
        Ok(fact::write(&self.dir.join("damaged"), &serde_json::to_vec(damaged)?)?)
    }

    /// Artifacts of the newest releases, and of what is staged, that lie in damaged blocks, as `CHANNEL: NAME`.
    pub fn damaged_artifacts(&self) -> BTreeSet<String> {
        let damaged = self.catalog.condemned();
        if damaged.is_empty() {
            return BTreeSet::new();
        }
        let mut channels: BTreeSet<&Channel> = self.newest.keys().collect();
        channels.extend(self.staged.values().map(|index| &index.channel));
        let mut names = BTreeSet::new();
        for channel in channels {
            // What was submitted again since lies elsewhere.
            for (name, kind) in self.present(channel) {
                let artifact = diodesync::release::Artifact { name, kind };
                if artifact.blobs().iter().any(|digest| self.catalog.blob(digest).is_none()) {
                    names.insert(format!("{channel}: {}", artifact.name));
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use diodesync::limits::BLOCK_BYTES;

    use super::super::tests::{folder, release};
    use super::*;

    fn numbers(store: &Store) -> Vec<u64> {
        store.releases().unwrap()[&Channel::main()].iter().map(|number| number.0).collect()
    }

    #[test]
    fn what_nothing_builds_on_goes_and_can_be_submitted_anew() {
        let dir = folder("retain");
        let store = Mutex::new(Store::open(&dir).unwrap());
        let packs = PackStore::open(&dir.join("packs")).unwrap();
        let content = |number: u8| vec![number; BLOCK_BYTES + 77];
        for number in 1..=5 {
            release(&dir, &store, "a", &content(number));
        }
        let mut locked = store.lock().unwrap();
        // Release 2 went out whole, so the next one builds on it.
        locked.commit_complete(&Channel::main(), ReleaseNo(2)).unwrap();
        let freed = locked.retain(&packs, &BTreeMap::new(), &BTreeSet::new()).unwrap();
        assert_eq!(numbers(&locked), [2, 4, 5]);
        assert!(freed >= 2 * BLOCK_BYTES as u64, "{freed} octets were given back");
        assert_eq!(locked.retain(&packs, &BTreeMap::new(), &BTreeSet::new()).unwrap(), 0);
        locked.retain(&packs, &BTreeMap::from([(Channel::main(), 1)]), &BTreeSet::new()).unwrap();
        assert_eq!(numbers(&locked), [2, 5]);
        drop(locked);
        // What is gone is written anew, and to a place that was never used.
        let again = release(&dir, &store, "a", &content(1));
        let locked = store.lock().unwrap();
        let kept = locked.release(&Channel::main(), ReleaseNo(2)).unwrap();
        let mut buffer = Vec::new();
        for block in again.blocks().chain(kept.blocks()) {
            judge_block(&packs, &block, &mut buffer).unwrap();
        }
        drop(locked);
        let reopened = Store::open(&dir).unwrap();
        assert_eq!(reopened.newest[&Channel::main()].number, ReleaseNo(6));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn numbers_that_are_gone_are_not_guessed() {
        let dir = folder("numbers");
        let store = Mutex::new(Store::open(&dir).unwrap());
        release(&dir, &store, "a", b"one");
        std::fs::remove_file(dir.join("repository")).unwrap();
        let error = Store::open(&dir).unwrap_err().to_string();
        assert!(error.contains("repository is missing") && error.contains("backup"), "{error}");
        // A crash in the middle of the first release leaves an index alone, and nothing was signed.
        std::fs::remove_file(dir.join("trust")).unwrap();
        Store::open(&dir).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
