//! `status`: what the sender is doing, for programs and for people.

use std::fmt::Write;

use diodesync::id::{Channel, LinkId, ReleaseNo};
use diodesync::pack::Disk;
use diodesync::quantity::{BitsPerS, Bytes};
use serde::{Deserialize, Serialize};

use crate::producers::ProducerStatus;
use crate::sources::SourceStatus;

/// The whole answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Always `sender`.
    pub side: String,
    /// The program's version.
    pub version: String,
    /// The link.
    pub link: LinkId,
    /// The key that signs its sessions, hexadecimal.
    pub link_key: String,
    /// The sender's clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// Lanes.
    pub lanes: Vec<LaneStatus>,
    /// Channels.
    pub channels: Vec<ChannelStatus>,
    /// Sources.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// Who submits over the network.
    #[serde(default)]
    pub producers: Vec<ProducerStatus>,
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
    /// The receiver's address.
    pub to: String,
    /// The session.
    pub session: u64,
    /// The rate that holds at this hour; none for as fast as it goes.
    pub rate_max_bits_per_s: Option<u64>,
    /// Whether a rate window holds data back.
    pub is_paused: bool,
    /// The rate over the last moments.
    pub rate_bits_per_s: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Octets of them.
    pub sent_bytes: u64,
    /// Sends that failed.
    pub send_errors: u64,
}

/// A channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub channel: Channel,
    /// Artifacts that were submitted since the newest release.
    pub staged: usize,
    /// Artifacts that were withdrawn since.
    pub withdrawn: usize,
    /// The newest release.
    pub newest: Option<ReleaseNo>,
    /// idle, sending, waiting (for the next round) or complete. Sent is not delivered: nobody can know.
    pub state: String,
    /// The round under way, from 1.
    pub round: u8,
    /// Rounds of a release.
    pub rounds: u8,
    /// Blocks of the round that went out.
    pub sent_blocks: usize,
    /// Blocks of a round.
    pub total_blocks: usize,
    /// Octets of the round's blocks that went out.
    pub sent_bytes: u64,
    /// Octets of a round's blocks.
    pub total_bytes: u64,
    /// What a ticket asked for and has not gone out in all rounds.
    pub resend: Option<ResendStatus>,
}

/// What a ticket asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResendStatus {
    /// The round under way, from 1.
    pub round: u8,
    /// Blocks of the round that went out.
    pub sent_blocks: usize,
    /// Blocks that were asked for.
    pub total_blocks: usize,
}

/// What needs an operator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind, for programs.
    pub id: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl Status {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "Diodesync sender {}, link {}", self.version, self.link);
        let _ = writeln!(out, "link key {}", self.link_key);
        for lane in &self.lanes {
            let max = match lane.rate_max_bits_per_s {
                _ if lane.is_paused => "none: a rate window holds data back".to_owned(),
                Some(rate) => BitsPerS(rate).to_string(),
                None => "no limit".to_owned(),
            };
            let _ = writeln!(
                out,
                "\nlane {} to {}\n  rate      {} of {max}\n  sent      {} datagrams, {}, {} errors\n  session   {}",
                lane.name,
                lane.to,
                BitsPerS(lane.rate_bits_per_s),
                lane.sent_datagrams,
                Bytes(lane.sent_bytes),
                lane.send_errors,
                lane.session
            );
        }
        for channel in &self.channels {
            let newest = channel.newest.map_or("none yet".to_owned(), |number| number.to_string());
            let _ = writeln!(out, "\nchannel {}\n  release   {newest}, {}", channel.channel, channel.state);
            if channel.newest.is_some() {
                let _ = writeln!(
                    out,
                    "  round     {} of {}: {} of {} blocks, {} of {}",
                    channel.round,
                    channel.rounds,
                    channel.sent_blocks,
                    channel.total_blocks,
                    Bytes(channel.sent_bytes),
                    Bytes(channel.total_bytes)
                );
            }
            if let Some(ResendStatus { round, sent_blocks, total_blocks }) = &channel.resend {
                let _ = writeln!(out, "  ticket    round {round}: {sent_blocks} of {total_blocks} blocks");
            }
            let _ = writeln!(out, "  staged    {} artifacts for the next release", channel.staged);
            if channel.withdrawn > 0 {
                let _ = writeln!(out, "  withdrawn {} artifacts from the next release", channel.withdrawn);
            }
        }
        for source in &self.sources {
            let _ = write!(out, "\n{}", source.to_text(self.clock_ms / 1000));
        }
        for producer in &self.producers {
            let _ = write!(out, "\n{}", producer.to_text(self.clock_ms / 1000));
        }
        if let Some(disk) = &self.disk {
            let _ = writeln!(out, "\n{}", disk.to_text());
        }
        for alarm in &self.alarms {
            let _ = writeln!(out, "\nALARM {}: {}", alarm.id, alarm.text);
        }
        out
    }
}
