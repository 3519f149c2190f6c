//! `status` and `missing`: what the receiver has, and what it lacks, for programs and for people.

use std::fmt::Write;
use std::time::Duration;

use diodesync::id::{BlockId, Channel, LinkId, PackId, ReleaseNo};
use diodesync::pack::Disk;
use diodesync::quantity::{BitsPerS, Bytes, Span};
use diodesync::recv::{ProbeSeen, TrainSeen};
use serde::{Deserialize, Serialize};

use crate::feed::FeedView;
use crate::mirror::MirrorStatus;
use crate::upstream::UpstreamView;

/// The whole answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Always `receiver`.
    pub side: String,
    /// The program's version.
    pub version: String,
    /// The link.
    pub link: LinkId,
    /// The receiver's clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// The sender's clock less the receiver's, milliseconds, when the newest beacon came.
    pub skew_ms: Option<i64>,
    /// When the accepted metadata expires, seconds since 1970.
    pub trust_expires_s: Option<u64>,
    /// What a sender that was restored from a backup is told to go on above what is known here.
    pub restore_with: Option<String>,
    /// Lanes.
    pub lanes: Vec<LaneStatus>,
    /// What became of their symbols.
    pub decoding: DecodingStatus,
    /// When the mirror's certificate expires, seconds since 1970; none while nothing serves.
    pub certificate_expires_s: Option<u64>,
    /// Channels.
    pub channels: Vec<ChannelStatus>,
    /// The site's own mirrors that are pushed to.
    #[serde(default)]
    pub mirrors: Vec<MirrorStatus>,
    /// Whom this receiver follows, if it is a mirror host.
    #[serde(default)]
    pub upstream: Option<UpstreamView>,
    /// The mirror hosts that follow this receiver; none if it feeds none.
    #[serde(default)]
    pub feed: Option<FeedView>,
    /// The disk; none if it cannot be measured.
    pub disk: Option<Disk>,
    /// What needs an operator.
    pub alarms: Vec<Alarm>,
}

/// A lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// The accepted session.
    pub session: Option<u64>,
    /// The wire version that the sender writes in it.
    pub wire_version: Option<u8>,
    /// The rate over the last moments.
    pub rate_bits_per_s: u64,
    /// Datagrams that came.
    pub received: u64,
    /// Octets of them.
    pub received_bytes: u64,
    /// Datagrams that were sent and never came, before decoding.
    pub lost: u64,
    /// Datagrams that changed nothing: the sum of the next four.
    pub rejected: u64,
    /// Not of this protocol, or cut off.
    pub malformed: u64,
    /// Not authentic.
    pub forged: u64,
    /// Came before.
    pub replayed: u64,
    /// Of a session that is not accepted.
    pub other_session: u64,
    /// Packets that the kernel dropped because its buffer was full; it may have joined up to 64 datagrams in one.
    pub kernel_drops: u64,
    /// Octets of the kernel's buffer, as granted.
    pub buffer_bytes: u64,
    /// When the last authentic datagram came, milliseconds since 1970.
    pub last_ms: Option<u64>,
    /// What came of the newest `diode-sender probe`.
    pub probe: Option<ProbeStatus>,
}

/// What came of trains of rising rates.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// When they began, by the sender's clock, milliseconds since 1970.
    pub began_ms: u64,
    /// The highest rate of which, and below which, nothing was lost.
    pub clean_bits_per_s: Option<u64>,
    /// The trains.
    pub trains: Vec<TrainStatus>,
}

/// A train.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainStatus {
    /// Its rate; none if its end was lost too.
    pub rate_bits_per_s: Option<u64>,
    /// Datagrams that were sent, as far as that is known.
    pub sent: u32,
    /// Datagrams that came.
    pub received: u32,
}

impl ProbeStatus {
    /// Of what the lane saw; none if no probe came.
    pub fn of(seen: &ProbeSeen) -> Option<Self> {
        let train = |train: &TrainSeen| TrainStatus {
            rate_bits_per_s: (train.rate_bits_per_s > 0).then_some(train.rate_bits_per_s),
            sent: train.sent,
            received: train.received,
        };
        (!seen.trains.is_empty()).then(|| Self {
            began_ms: seen.run,
            clean_bits_per_s: seen.clean_bits_per_s(),
            trains: seen.trains.iter().map(train).collect(),
        })
    }

    /// For people: the highest clean rate, and the first one that lost something.
    fn to_text(&self) -> String {
        let clean = self.clean_bits_per_s;
        let clean =
            clean.map_or("no rate was clean".to_owned(), |rate| format!("clean up to {}", BitsPerS(rate)));
        let lossy =
            self.trains.iter().find(|train| train.received < train.sent || train.rate_bits_per_s.is_none());
        let lossy = lossy.map(|train| {
            let rate = train.rate_bits_per_s.map_or("a train".to_owned(), |rate| BitsPerS(rate).to_string());
            let lost =
                f64::from(train.sent.saturating_sub(train.received)) / f64::from(train.sent.max(1)) * 100.0;
            format!("; of {rate} {lost:.2} % was lost")
        });
        format!("{clean}{}", lossy.unwrap_or_default())
    }
}

/// What became of the symbols of all lanes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DecodingStatus {
    /// Symbols that were there already, or that a complete block did not need.
    pub duplicates: u64,
    /// Source symbols that repair symbols replaced.
    pub repaired: u64,
    /// Blocks that were complete.
    pub blocks: u64,
    /// Blocks that decoded to something else than the index names.
    pub mismatched: u64,
    /// Blocks that are being collected.
    pub collecting: u64,
}

/// A channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub channel: Channel,
    /// The release that is served.
    pub published: Option<ReleaseNo>,
    /// The sender's newest release, by its beacon.
    pub newest: Option<ReleaseNo>,
    /// Releases that are served or on their way.
    pub releases: Vec<ReleaseStatus>,
}

/// A release.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// Its number.
    pub number: ReleaseNo,
    /// arriving, checking, scanning, unscanned (it waits for a scanner), published, incomplete (the last round is over and something is lacking), no-space, damaged
    /// (published, and something was lost since), held (it waits for approvers) or refused.
    pub state: String,
    /// Artifacts.
    pub artifacts: usize,
    /// Blocks that it needs.
    pub blocks_needed: usize,
    /// Blocks of them that are there.
    pub blocks_held: usize,
    /// Octets that it needs.
    pub bytes_needed: u64,
    /// Octets of them that are there.
    pub bytes_held: u64,
    /// Why it is held or refused.
    pub reason: Option<String>,
}

/// What needs an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind, for programs.
    pub id: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// The answer of `missing`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    /// Releases that are not whole although all their rounds are over, and those that were damaged since.
    pub releases: Vec<MissingRelease>,
}

/// What a release lacks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MissingRelease {
    /// The channel.
    pub channel: Channel,
    /// The number.
    pub number: ReleaseNo,
    /// Whether not even the index came.
    pub index: bool,
    /// Blocks, as `PACK/FIRST-LAST`.
    pub blocks: Vec<String>,
    /// Octets of them at most.
    pub block_count: usize,
    /// Artifacts that lie in them.
    pub artifacts: Vec<String>,
}

/// Joins neighbouring blocks of a pack; `blocks` are sorted.
pub fn ranges(blocks: &[BlockId]) -> Vec<String> {
    let mut runs: Vec<(PackId, u32, u32)> = Vec::new();
    for BlockId { pack, block } in blocks {
        match runs.last_mut() {
            Some((last_pack, _, end)) if last_pack == pack && *end + 1 == block.0 => *end = block.0,
            _ => runs.push((*pack, block.0, block.0)),
        }
    }
    let text = |(pack, first, last): (PackId, u32, u32)| match first == last {
        true => format!("{pack}/{first}"),
        false => format!("{pack}/{first}-{last}"),
    };
    runs.into_iter().map(text).collect()
}

impl Missing {
    /// For people.
    pub fn to_text(&self) -> String {
        if self.releases.is_empty() {
            return "nothing is missing\n".to_owned();
        }
        let mut out = String::new();
        for release in &self.releases {
            let _ = writeln!(out, "channel {} release {}", release.channel, release.number);
            if release.index {
                let _ = writeln!(out, "  its index never came");
            } else {
                let _ = writeln!(out, "  {} blocks: {}", release.block_count, release.blocks.join(" "));
                for artifact in &release.artifacts {
                    let _ = writeln!(out, "  {artifact}");
                }
            }
            let _ = writeln!(
                out,
                "  to have it sent again: diode-receiver missing --ticket here, and its text to diode-sender resend there;\n  \
                 or without a ticket, everything: diode-sender release --full --channel {}",
                release.channel
            );
        }
        out
    }
}

impl Status {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "Diodesync receiver {}, link {}", self.version, self.link);
        for lane in &self.lanes {
            let silence = lane.last_ms.map_or("nothing came yet".to_owned(), |last| {
                let ago = Duration::from_millis(self.clock_ms.saturating_sub(last));
                format!("last datagram {} ago", Span(ago))
            });
            let _ = writeln!(
                out,
                "\nlane {} on {}\n  rate      {}, {silence}\n  received  {} datagrams, {}; {} lost\n  \
                 rejected  {}: {} malformed, {} forged, {} replayed, {} of another session\n  \
                 kernel    {} packets dropped for lack of buffer, {} granted",
                lane.name,
                lane.listen,
                BitsPerS(lane.rate_bits_per_s),
                lane.received,
                Bytes(lane.received_bytes),
                lane.lost,
                lane.rejected,
                lane.malformed,
                lane.forged,
                lane.replayed,
                lane.other_session,
                lane.kernel_drops,
                Bytes(lane.buffer_bytes)
            );
            if let Some(probe) = &lane.probe {
                let _ = writeln!(out, "  probe     {}", probe.to_text());
            }
        }
        let decoding = &self.decoding;
        if let Some(upstream) = &self.upstream {
            let _ = write!(out, "\n{}", upstream.to_text(self.clock_ms));
        } else {
            let _ = writeln!(
                out,
                "\ndecoding\n  blocks    {} complete, {} being collected, {} wrong\n  symbols   {} repaired, {} more than needed",
                decoding.blocks,
                decoding.collecting,
                decoding.mismatched,
                decoding.repaired,
                decoding.duplicates
            );
        }
        for channel in &self.channels {
            let _ = writeln!(out, "\nchannel {}", channel.channel);
            for release in &channel.releases {
                let _ = writeln!(
                    out,
                    "  release {} {}: {} artifacts, {} of {} blocks, {} of {}{}",
                    release.number,
                    release.state,
                    release.artifacts,
                    release.blocks_held,
                    release.blocks_needed,
                    Bytes(release.bytes_held),
                    Bytes(release.bytes_needed),
                    release.reason.as_ref().map(|reason| format!("\n    {reason}")).unwrap_or_default()
                );
            }
            if channel.releases.is_empty() {
                let _ = writeln!(out, "  nothing yet");
            }
        }
        for mirror in &self.mirrors {
            let _ = write!(out, "\n{}", mirror.to_text(self.clock_ms));
        }
        if let Some(feed) = &self.feed {
            let _ = write!(out, "\n{}", feed.to_text(self.clock_ms));
        }
        if let Some(disk) = &self.disk {
            let _ = writeln!(out, "\n{}", disk.to_text());
        }
        if let Some(line) = &self.restore_with {
            let _ = writeln!(out, "\nshould the sender ever be restored from a backup\n  {line}");
        }
        for alarm in &self.alarms {
            let _ = writeln!(out, "\nALARM {}: {}", alarm.id, alarm.text);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use diodesync::id::BlockNo;

    use super::*;

    #[test]
    fn neighbouring_blocks_are_joined() {
        let block = |pack: u8, number| BlockId { pack: PackId([pack; 8]), block: BlockNo(number) };
        let blocks = [block(1, 3), block(1, 4), block(1, 5), block(1, 9), block(2, 10)];
        let expected = ["0101010101010101/3-5", "0101010101010101/9", "0202020202020202/10"];
        assert_eq!(ranges(&blocks), expected);
    }
}
