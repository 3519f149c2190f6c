//! Resend tickets: what the receiver lacks, on a piece of paper.
//!
//! Nobody can ask the sender over the wire, so an operator carries the question by hand: `diode-receiver missing
//! --ticket` prints a few lines, `diode-sender resend` takes them. A ticket says nothing but numbers and digests, so an
//! approver can let it pass from the high side to the low side; [`Ticket`]'s fields are all there is in it.
//!
//! It is authenticated by a MAC under the pairing secret, which the receiver and the sender alone know: who finds a
//! ticket cannot make the sender send anything else, and one with any character changed is refused. A MAC of 16 octets
//! serves as well as a signature of 64 would, because the sender is the only one who has to be convinced, and it is
//! shorter to type.
//!
//! ```text
//! version u8 = 1
//! link     first 8 octets of the link id
//! receiver id of the receiver's key [8]
//! made     varint, seconds since 1970
//! wants    count varint (1 to 16), then for each, by rising channel:
//!          channel text   number varint   kind u8, then
//!     0 everything
//!     1 since     number varint: what that release holds is there
//!     2 blocks    first octets of the index's BLAKE3 [8]
//!                 runs count varint (1…), then for each: varint gap << 1 | (length > 1), [ varint length - 2 ]
//! MAC [16]: BLAKE3 of all before it, keyed with the pairing secret by derive_key
//! ```
//!
//! Blocks are counted in the order of the index, so that a run may go over the border of two packs, and a gap is
//! counted from the end of the run before. The octets are written as text by [`text`].

mod text;

use thiserror::Error;

use crate::codec::{CodecError, Reader, put_run, put_varint};
use crate::id::{Blake3, BlockId, Channel, IdError, LinkId, ObjectTag, ReleaseNo};
use crate::limits::{CHANNELS_MAX, PACK_BLOCKS_MAX, PACKS_MAX};
use crate::link::PairingSecret;
use crate::release::delta::blocks_to_send;
use crate::release::index::{Index, NeededBlock};

pub use text::TextError;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const MAC_CONTEXT: &str = "diodesync 2026-11-24 resend ticket 1";

/// What a receiver lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The receiver's key, by its id.
    pub receiver: [u8; 8],
    /// When it was made, in seconds since 1970.
    pub made_s: u64,
    /// What of each channel, by rising channel.
    pub wants: Vec<Want>,
}

/// What a receiver lacks of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// What of it.
    pub what: What,
}

/// See [`Want`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// All of it.
    Everything,
    /// What this older release of the channel, which is there, does not hold.
    Since(ReleaseNo),
    /// These blocks.
    Blocks {
        /// The index by whose order they are counted.
        index: ObjectTag,
        /// Runs of places: first, and how many (1…). They rise and do not touch.
        runs: Vec<(u32, u32)>,
    },
}

/// Why a ticket is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TicketError {
    /// It was not typed as it is printed.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Written by another version.
    #[error("the ticket is of version {found}, this sender reads version {VERSION}; upgrade the sender")]
    Version {
        /// The version found.
        found: u8,
    },
    /// It is of another pair.
    #[error("the ticket is of another link; expected one that the receiver of link {expected} has printed")]
    OtherLink {
        /// This sender's link.
        expected: LinkId,
    },
    /// The MAC does not match.
    #[error("the ticket is not from the paired receiver, or was changed on the way; have it printed again")]
    Forged,
    /// The octets are broken although the MAC matches.
    #[error("the ticket is malformed: {0}")]
    Codec(#[from] CodecError),
    /// A channel name in it is none.
    #[error("the ticket is malformed: {0}")]
    Id(#[from] IdError),
    /// Its parts contradict each other.
    #[error("the ticket contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The release that it speaks of is not the one that this sender has under that number.
    #[error(
        "the ticket speaks of another release {channel} {number} than this sender has; if the sender was restored from a \
         backup: diode-sender restore --floor, then diode-sender release --full"
    )]
    OtherIndex {
        /// The channel.
        channel: Channel,
        /// The number.
        number: ReleaseNo,
    },
}

impl Ticket {
    /// Its text, in lines that can be typed.
    pub fn encode(&self, link: LinkId, secret: &PairingSecret) -> String {
        let mut out = vec![VERSION];
        out.extend_from_slice(&short(link));
        out.extend_from_slice(&self.receiver);
        put_varint(&mut out, self.made_s);
        put_varint(&mut out, self.wants.len() as u64);
        self.wants.iter().for_each(|want| want.put(&mut out));
        Self::seal(&out, secret)
    }

    /// The text of a ticket's octets, with their MAC. What is in them is not looked at.
    pub fn seal(octets: &[u8], secret: &PairingSecret) -> String {
        text::write(&[octets, &mac(secret, octets)].concat())
    }

    /// Reads what an operator typed or pasted.
    ///
    /// # Errors
    /// What was mistyped and in which line; every way in which it is not a ticket of this link's receiver.
    pub fn parse(typed: &str, link: LinkId, secret: &PairingSecret) -> Result<Self, TicketError> {
        let octets = text::read(typed)?;
        let body_bytes = octets.len().saturating_sub(MAC_BYTES);
        let (body, found) = octets.split_at_checked(body_bytes).ok_or(TicketError::Forged)?;
        let mut reader = Reader::new(body);
        match reader.u8()? {
            VERSION => {}
            found => return Err(TicketError::Version { found }),
        }
        if reader.array()? != short(link) {
            return Err(TicketError::OtherLink { expected: link });
        }
        // In constant time, as `blake3::Hash` compares; the tail that a ticket leaves out is filled in.
        let expected = full_mac(secret, body);
        let mut filled = *expected.as_bytes();
        filled.iter_mut().zip(found).for_each(|(octet, found)| *octet = *found);
        if found.len() != MAC_BYTES || blake3::Hash::from_bytes(filled) != expected {
            return Err(TicketError::Forged);
        }
        let (receiver, made_s) = (reader.array()?, reader.varint()?);
        let mut wants: Vec<Want> = Vec::new();
        for _ in 0..reader.count("wants", CHANNELS_MAX as u64, 4)? {
            let want = Want::parse(&mut reader)?;
            if wants.last().is_some_and(|last| last.channel >= want.channel) {
                return Err(TicketError::Contradiction("its channels are out of order"));
            }
            wants.push(want);
        }
        reader.finish()?;
        if wants.is_empty() {
            return Err(TicketError::Contradiction("it wants nothing"));
        }
        Ok(Self { receiver, made_s, wants })
    }
}

impl Want {
    /// Asks for blocks of a release by the shorter of two texts: which, or, where an older release is there whole and
    /// all that it does not hold is lacking, since when. `lacking` are sorted.
    pub fn of_blocks(index: &Index, lacking: &[BlockId], published: Option<&Index>) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (place, block) in (0u32..).zip(index.blocks()) {
            if lacking.binary_search(&block.id).is_err() {
                continue;
            }
            match runs.last_mut() {
                Some((first, count)) if *first + *count == place => *count += 1,
                _ => runs.push((place, 1)),
            }
        }
        let asks_for_all_since = published.filter(|published| {
            let newer = blocks_to_send(index, Some(published));
            newer.len() == lacking.len() && newer.iter().all(|block| lacking.binary_search(&block.id).is_ok())
        });
        let what = match asks_for_all_since {
            Some(published) => What::Since(published.number),
            None if lacking.len() == index.blocks().count() => What::Everything,
            None => What::Blocks { index: Blake3::of(&index.encode()).tag(), runs },
        };
        Self { channel: index.channel.clone(), number: index.number, what }
    }

    /// The blocks that it asks for. `index` is the release, `release` reads an older one of its channel.
    pub fn blocks<E: From<TicketError>>(
        &self,
        index: &Index,
        release: impl FnOnce(ReleaseNo) -> Result<Index, E>,
    ) -> Result<Vec<NeededBlock>, E> {
        match &self.what {
            What::Everything => Ok(index.blocks().collect()),
            What::Since(older) => Ok(blocks_to_send(index, Some(&release(*older)?))),
            What::Blocks { index: tag, runs } => {
                let other = || TicketError::OtherIndex { channel: self.channel.clone(), number: self.number };
                if Blake3::of(&index.encode()).tag() != *tag {
                    return Err(other().into());
                }
                let mut places = runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count));
                let mut next = places.next();
                let mut blocks = Vec::new();
                for (place, block) in (0u32..).zip(index.blocks()) {
                    if next == Some(place) {
                        blocks.push(block);
                        next = places.next();
                    }
                }
                if next.is_some() { Err(other().into()) } else { Ok(blocks) }
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_run(out, self.channel.as_str().as_bytes());
        put_varint(out, self.number.0);
        match &self.what {
            What::Everything => out.push(0),
            What::Since(number) => {
                out.push(1);
                put_varint(out, number.0);
            }
            What::Blocks { index, runs } => {
                out.push(2);
                out.extend_from_slice(&index.0);
                put_varint(out, runs.len() as u64);
                let mut end = 0u32;
                for (first, count) in runs {
                    put_varint(out, u64::from(first.saturating_sub(end)) << 1 | u64::from(*count > 1));
                    if *count > 1 {
                        put_varint(out, u64::from(count - 2));
                    }
                    end = first.saturating_add(*count);
                }
            }
        }
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, TicketError> {
        let channel = reader.text("a channel name", 32)?.parse()?;
        let number = ReleaseNo(reader.varint()?);
        let what = match reader.u8()? {
            0 => What::Everything,
            1 => What::Since(ReleaseNo(reader.varint()?)),
            2 => What::Blocks { index: ObjectTag(reader.array()?), runs: parse_runs(reader)? },
            _ => {
                return Err(TicketError::Contradiction("it wants something that this version does not know"));
            }
        };
        if matches!(&what, What::Since(older) if *older >= number) {
            return Err(TicketError::Contradiction("it wants what is new since a release that is not older"));
        }
        Ok(Self { channel, number, what })
    }
}

fn parse_runs(reader: &mut Reader<'_>) -> Result<Vec<(u32, u32)>, TicketError> {
    const PLACES_MAX: u64 = PACKS_MAX * PACK_BLOCKS_MAX as u64;
    let mut runs = Vec::new();
    let mut end = 0u64;
    for at in 0..reader.count("runs of blocks", PLACES_MAX, 1)? {
        let head = reader.bounded("a gap between blocks", PLACES_MAX << 1)?;
        let gap = head >> 1;
        let count = if head & 1 == 1 { reader.bounded("blocks of a run", PLACES_MAX)? + 2 } else { 1 };
        if at > 0 && gap == 0 {
            return Err(TicketError::Contradiction("two of its runs touch"));
        }
        let first = end + gap;
        end = first + count;
        let place = |place: u64| u32::try_from(place).ok().filter(|_| end <= PLACES_MAX);
        match (place(first), place(count)) {
            (Some(first), Some(count)) => runs.push((first, count)),
            _ => return Err(TicketError::Contradiction("it names more blocks than a release can have")),
        }
    }
    if runs.is_empty() {
        return Err(TicketError::Contradiction("it names no blocks"));
    }
    Ok(runs)
}

fn short(link: LinkId) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = link.0;
    [a, b, c, d, e, f, g, h]
}

fn full_mac(secret: &PairingSecret, body: &[u8]) -> blake3::Hash {
    let key = zeroize::Zeroizing::new(blake3::derive_key(MAC_CONTEXT, &secret.0));
    blake3::keyed_hash(&key, body)
}

fn mac(secret: &PairingSecret, body: &[u8]) -> [u8; MAC_BYTES] {
    let mut out = [0; MAC_BYTES];
    out.iter_mut().zip(full_mac(secret, body).as_bytes()).for_each(|(octet, mac)| *octet = *mac);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BlockNo, PackId};
    use crate::limits::BLOCK_BYTES;
    use crate::release::index::PackRun;

    const LINK: LinkId = LinkId([7; 16]);
    const SECRET: PairingSecret = PairingSecret([3; 32]);

    fn ticket(wants: Vec<Want>) -> Ticket {
        Ticket { receiver: *b"receiver", made_s: 1_795_000_000, wants }
    }

    /// A release of `packs` packs of `blocks` blocks.
    fn index(number: u64, packs: u8, blocks: u32) -> Index {
        let run = |pack: u8| PackRun {
            first: BlockNo(0),
            last_bytes: BLOCK_BYTES as u32,
            hashes: (0..blocks)
                .map(|n| Blake3::of(&[&[pack], n.to_be_bytes().as_slice()].concat()))
                .collect(),
        };
        Index {
            channel: Channel::main(),
            number: ReleaseNo(number),
            created_s: 1_795_000_000,
            baseline: None,
            packs: (0..packs).map(|pack| (PackId([pack; 8]), vec![run(pack)])).collect(),
            blobs: Default::default(),
            artifacts: Default::default(),
        }
    }

    fn never(_: ReleaseNo) -> Result<Index, TicketError> {
        panic!("no older release is needed")
    }

    #[test]
    fn what_is_asked_for_comes_back() {
        let index = index(9, 3, 100);
        let all: Vec<NeededBlock> = index.blocks().collect();
        let places = [0, 1, 2, 50, 99, 100, 101, 299];
        let mut lacking: Vec<BlockId> = places.iter().map(|place| all[*place].id).collect();
        lacking.sort_unstable();
        let want = Want::of_blocks(&index, &lacking, None);
        let What::Blocks { runs, .. } = &want.what else { panic!("{want:?}") };
        assert_eq!(*runs, [(0, 3), (50, 1), (99, 3), (299, 1)]);
        let made = ticket(vec![want]);
        let read = Ticket::parse(&made.encode(LINK, &SECRET), LINK, &SECRET).unwrap();
        assert_eq!(read, made);
        let blocks: Vec<NeededBlock> = places.iter().map(|place| all[*place]).collect();
        assert_eq!(read.wants[0].blocks(&index, never), Ok(blocks));
    }

    #[test]
    fn the_shorter_question_is_asked() {
        let (older, newer) = (index(1, 1, 100), index(2, 2, 100));
        let lacking: Vec<BlockId> = newer.blocks().skip(100).map(|block| block.id).collect();
        let since = Want::of_blocks(&newer, &lacking, Some(&older));
        assert_eq!(since.what, What::Since(ReleaseNo(1)));
        let blocks = since.blocks::<TicketError>(&newer, |_| Ok(older.clone())).unwrap();
        assert!(blocks.iter().map(|block| block.id).eq(lacking));
        let all: Vec<BlockId> = newer.blocks().map(|block| block.id).collect();
        assert_eq!(Want::of_blocks(&newer, &all, None).what, What::Everything);
        assert!(matches!(Want::of_blocks(&newer, &all[7..9], Some(&older)).what, What::Blocks { .. }));
    }

    #[test]
    fn a_thousand_scattered_blocks_of_100_gib_fit_in_4_kib() {
        let index = index(1, 50, 2048);
        let mut scattered = std::collections::BTreeSet::new();
        let mut random = blake3::Hasher::new().update(b"scattered").finalize_xof();
        while scattered.len() < 1000 {
            let mut octets = [0; 4];
            random.fill(&mut octets);
            scattered.insert(u32::from_be_bytes(octets) % (50 * 2048));
        }
        let mut lacking: Vec<BlockId> =
            index.blocks().zip(0..).filter(|(_, at)| scattered.contains(at)).map(|(b, _)| b.id).collect();
        lacking.sort_unstable();
        let text = ticket(vec![Want::of_blocks(&index, &lacking, None)]).encode(LINK, &SECRET);
        assert!(text.len() <= 4096, "{} octets", text.len());
        let blocks = Ticket::parse(&text, LINK, &SECRET).unwrap().wants[0].blocks(&index, never).unwrap();
        assert!(blocks.iter().map(|block| block.id).eq(lacking));
    }

    #[test]
    fn any_character_changed_is_refused() {
        let index = index(9, 2, 300);
        let lacking: Vec<BlockId> = index.blocks().step_by(7).map(|block| block.id).collect();
        let good = ticket(vec![Want::of_blocks(&index, &lacking, None)]).encode(LINK, &SECRET);
        let parsed = Ticket::parse(&good, LINK, &SECRET).unwrap();
        for (at, old) in good.char_indices() {
            for new in ['0', '7', 'A', 'K', 'Z', '-', ' ', '\n', 'U', '!', 'ä'] {
                let bad = format!("{}{new}{}", &good[..at], &good[at + old.len_utf8()..]);
                if new != old {
                    // Space between the characters says nothing.
                    let is_space = |c: char| c.is_whitespace() || c == '-';
                    match Ticket::parse(&bad, LINK, &SECRET) {
                        Ok(read) => assert!(is_space(old) && is_space(new) && read == parsed, "{at} {new:?}"),
                        Err(error) => assert!(!error.to_string().is_empty()),
                    }
                }
            }
            let is_cut = !good[at..].trim().is_empty();
            assert_eq!(Ticket::parse(&good[..at], LINK, &SECRET).is_err(), is_cut, "cut at {at}");
        }
    }

    #[test]
    fn tickets_of_others_are_refused() {
        let want = || Want { channel: Channel::main(), number: ReleaseNo(1), what: What::Everything };
        let text = ticket(vec![want()]).encode(LINK, &SECRET);
        let other = LinkId([8; 16]);
        assert_eq!(Ticket::parse(&text, other, &SECRET), Err(TicketError::OtherLink { expected: other }));
        assert_eq!(Ticket::parse(&text, LINK, &PairingSecret([4; 32])), Err(TicketError::Forged));
        assert!(Ticket::parse(&ticket(vec![]).encode(LINK, &SECRET), LINK, &SECRET).is_err());
        assert!(Ticket::parse(&ticket(vec![want(), want()]).encode(LINK, &SECRET), LINK, &SECRET).is_err());
        let newer = Want { what: What::Since(ReleaseNo(1)), ..want() };
        assert!(Ticket::parse(&ticket(vec![newer]).encode(LINK, &SECRET), LINK, &SECRET).is_err());
        for runs in [vec![], vec![(u32::MAX, 2)]] {
            let what = What::Blocks { index: ObjectTag([1; 8]), runs };
            let lie = Want { what, ..want() };
            assert!(Ticket::parse(&ticket(vec![lie]).encode(LINK, &SECRET), LINK, &SECRET).is_err());
        }
        let (mine, theirs) = (index(1, 1, 10), index(1, 1, 11));
        let lacking = [theirs.blocks().last().unwrap().id];
        let asked = Want::of_blocks(&theirs, &lacking, None);
        assert!(matches!(asked.blocks(&mine, never), Err(TicketError::OtherIndex { .. })));
    }
}
