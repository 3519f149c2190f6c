//! What a release has to send: the blocks that its baseline lacks.
//!
//! The sender cannot know what arrived, so the baseline is policy. A receiver that lacks blocks of the baseline names
//! them.

use std::collections::HashMap;

use super::index::{Index, NeededBlock};
use crate::id::{Blake3, BlockId};

/// The blocks of `index` that `baseline` does not hold, in the order in which they are sent.
pub fn blocks_to_send(index: &Index, baseline: Option<&Index>) -> Vec<NeededBlock> {
    let held: HashMap<BlockId, Blake3> =
        baseline.into_iter().flat_map(Index::blocks).map(|block| (block.id, block.hash)).collect();
    index.blocks().filter(|block| held.get(&block.id) != Some(&block.hash)).collect()
}
