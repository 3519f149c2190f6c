//! What there is to feed: the published releases with the metadata that names them, and the blocks that they need.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync::pack::Stamp;
use diodesync::release::Index;

use super::config::FeedHost;
use super::protocol::Have;
use crate::publish::Facts;
use crate::serve::Site;

/// See the module.
#[derive(Debug, Default)]
pub struct Stock {
    /// The published releases, those with the oldest metadata first: newer metadata may not name an older release.
    pub items: Vec<Arc<Item>>,
    /// Octets of each block that a release of a channel needs, of those that are kept too.
    blocks: BTreeMap<Channel, HashMap<BlockId, u32>>,
    /// Published releases that cannot be fed, and why.
    pub notes: Vec<String>,
    /// What was looked at: somebody reads it for as long as this lives.
    site: Option<Arc<Site>>,
    stamps: Vec<Option<Stamp>>,
}

/// A published release.
#[derive(Debug)]
pub struct Item {
    /// Its index.
    pub index: Arc<Index>,
    /// The time by which its metadata was judged, seconds since 1970.
    pub judged_s: u64,
    /// Its metadata, as in [`diodesync::trust::Bundle`].
    pub bundle: Vec<u8>,
    /// The version of the metadata's timestamp.
    pub version: u64,
}

/// What a host is told of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// It knows all of it.
    Nothing,
    /// It has the index, and older metadata.
    Metadata,
    /// It has an older index.
    Index,
}

/// What a host that has `have` lacks of a release of a channel, whose metadata has this version.
pub fn lack(have: &Have, channel: &Channel, number: ReleaseNo, version: u64) -> Lack {
    match have.accepted(channel) {
        accepted if accepted < Some(number) => Lack::Index,
        accepted if accepted == Some(number) && have.version < Some(version) => Lack::Metadata,
        _ => Lack::Nothing,
    }
}

impl Stock {
    /// Of what is served now; none if it is what it was. Blocks the thread.
    pub fn renew(&self, dir: &Path, site: &Arc<Site>) -> Option<Self> {
        let facts = match Facts::open(dir) {
            Ok(facts) => facts,
            Err(error) => {
                return Some(Self { notes: vec![format!("{error:#}")], ..Self::default() });
            }
        };
        let judged = |index: &Arc<Index>| facts.judged_path(&index.channel, index.number);
        let stamps: Vec<_> = site.releases().iter().map(|index| Stamp::of(&judged(index))).collect();
        let is_same = self.site.as_ref().is_some_and(|before| Arc::ptr_eq(before, site));
        if is_same && stamps == self.stamps {
            return None;
        }
        let mut stock = Self { site: Some(site.clone()), stamps, ..Self::default() };
        for index in site.releases() {
            let (channel, number) = (&index.channel, index.number);
            match facts.judged(channel, number) {
                Ok(Some(judged)) => stock.items.push(Arc::new(Item {
                    index: index.clone(),
                    judged_s: judged.judged_s,
                    version: judged.version(),
                    bundle: judged.bundle.encode(),
                })),
                Ok(None) => stock.notes.push(format!(
                    "release {channel} {number} was published before its metadata was kept for mirror hosts; they get \
                     the next one"
                )),
                Err(error) => stock.notes.push(format!(
                    "release {channel} {number} is not fed: {error:#}; it is written anew with the next metadata"
                )),
            }
        }
        stock.items.sort_by_key(|item| item.version);
        for index in site.releases().iter().chain(site.kept()) {
            let blocks = stock.blocks.entry(index.channel.clone()).or_default();
            blocks.extend(index.blocks().map(|block| (block.id, block.bytes)));
        }
        Some(stock)
    }

    /// Octets of a block that a host may have.
    pub fn block(&self, host: &FeedHost, id: &BlockId) -> Option<u32> {
        let of_host = self.blocks.iter().filter(|(channel, _)| host.gets(channel));
        of_host.into_iter().find_map(|(_, blocks)| blocks.get(id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::protocol::HaveChannel;

    #[test]
    fn a_host_is_told_what_it_lacks_and_nothing_else() {
        let main = Channel::main();
        let have = |version: Option<u64>, accepted: Option<u64>| {
            let accepted = accepted.map(ReleaseNo);
            let channels = vec![HaveChannel { channel: Channel::main(), accepted, published: None }];
            Have { version, channels, lacking: 0 }
        };
        let lack = |have: &Have| lack(have, &main, ReleaseNo(5), 9);
        assert_eq!(lack(&Have::default()), Lack::Index, "a new host");
        assert_eq!(lack(&have(Some(8), Some(4))), Lack::Index);
        assert_eq!(lack(&have(Some(12), Some(4))), Lack::Index, "metadata of another channel came first");
        assert_eq!(lack(&have(Some(8), Some(5))), Lack::Metadata);
        assert_eq!(lack(&have(Some(9), Some(5))), Lack::Nothing);
        assert_eq!(lack(&have(Some(8), Some(6))), Lack::Nothing, "it never goes back");
    }
}
