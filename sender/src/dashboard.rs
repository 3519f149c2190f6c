//! The sender's dashboard: what is pulled and sent, and what releases change. Who has the token can have a source pulled,
//! cut a release and have a ticket answered.

mod api;
mod changes;
mod pages;
mod sources;

use std::sync::Arc;

use axum::Router;
use diodesync_control::dashboard::page::Page;
use diodesync_control::dashboard::{Asked, Board, Kind, Metrics, Reading, Source};

use crate::api::Daemon;
use crate::status::{ChannelStatus, LaneStatus, Status};
pub use changes::Changes;

/// The places of the counts, as [`Source::COUNTS`] names them.
mod counts {
    pub const BYTES: usize = 0;
    pub const DATAGRAMS: usize = 1;
    pub const ERRORS: usize = 2;
}

/// The place of the disk's free octets among the gauges.
const DISK_FREE: usize = 0;

/// Alarms with which nothing can be sent.
const NOT_READY: [&str; 4] = ["lane-stopped", "lane-send", "disk", "disk-full"];

impl Source for Daemon {
    type View = Status;

    const SIDE: &'static str = "Sender";
    const PLACE: &'static str = "Low side";
    const COOKIE: &'static str = "diodesync_sender";
    const PAGES: &'static [(&'static str, &'static str)] =
        &[("/", "Overview"), ("/sources", "Sources"), ("/releases", "Releases"), ("/exports", "Exports")];
    const OPENAPI: &'static str = include_str!("dashboard/openapi.json");
    const COUNTS: &'static [&'static str] = &["sent_bytes", "sent_datagrams", "send_errors"];
    const GAUGES: &'static [&'static str] = &["disk_free_bytes", "queued_bytes"];

    fn view(&self) -> Status {
        self.status()
    }

    fn link(&self) -> String {
        self.link.to_string()
    }

    fn reading(status: &Status) -> Reading {
        let sum = |count: fn(&LaneStatus) -> u64| status.lanes.iter().map(count).sum();
        Reading {
            counts: vec![
                sum(|lane| lane.sent_bytes),
                sum(|lane| lane.sent_datagrams),
                sum(|lane| lane.send_errors),
            ],
            gauges: vec![
                status.disk.as_ref().map(|disk| disk.free_bytes),
                Some(status.channels.iter().map(queued_bytes).sum()),
            ],
        }
    }

    fn metrics(status: &Status, out: &mut Metrics) {
        let mut lane = |kind, name, help, value: fn(&LaneStatus) -> u64| {
            let samples = status.lanes.iter().map(|lane| (vec![("lane", lane.name.clone())], value(lane)));
            out.put(kind, name, help, samples.collect::<Vec<_>>());
        };
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        lane(counter, "diodesync_sender_sent_bytes_total", "Octets of datagrams sent.", |lane| {
            lane.sent_bytes
        });
        lane(counter, "diodesync_sender_sent_datagrams_total", "Datagrams sent.", |lane| lane.sent_datagrams);
        lane(
            counter,
            "diodesync_sender_send_errors_total",
            "Send calls that the operating system refused.",
            |lane| lane.send_errors,
        );
        lane(gauge, "diodesync_sender_lane_paused", "1 while a rate window holds data back.", |lane| {
            lane.is_paused.into()
        });
        let mut channel = |name, help, value: fn(&ChannelStatus) -> u64| {
            let samples =
                status.channels.iter().map(|c| (vec![("channel", c.channel.to_string())], value(c)));
            out.put(gauge, name, help, samples.collect::<Vec<_>>());
        };
        channel(
            "diodesync_sender_newest_release",
            "The number of the newest release; 0 for none.",
            |channel| channel.newest.map_or(0, |number| number.0),
        );
        channel("diodesync_sender_round", "The round under way, from 1.", |channel| channel.round.into());
        channel("diodesync_sender_rounds", "Rounds of a release.", |channel| channel.rounds.into());
        channel("diodesync_sender_round_bytes", "Octets of a round.", |channel| channel.total_bytes);
        channel("diodesync_sender_round_sent_bytes", "Octets of it that went out.", |channel| {
            channel.sent_bytes
        });
        channel("diodesync_sender_queued_bytes", "Octets that rounds have still to send.", queued_bytes);
        channel(
            "diodesync_sender_staged_artifacts",
            "Artifacts that wait for the next release.",
            |channel| channel.staged as u64,
        );
        sources::metrics(&status.sources, out);
        out.disk(status.disk.as_ref());
        out.alarms(status.alarms.iter().map(|alarm| alarm.id.as_str()));
    }

    fn not_ready(status: &Status) -> Vec<String> {
        let alarms = status.alarms.iter().filter(|alarm| NOT_READY.contains(&alarm.id.as_str()));
        alarms.map(|alarm| format!("{}: {}", alarm.id, alarm.text)).collect()
    }

    fn page(board: &Board<Self>, asked: &Asked) -> anyhow::Result<Option<Page>> {
        pages::page(board, asked)
    }

    fn routes() -> Router<Arc<Board<Self>>> {
        api::routes()
    }
}

/// Octets of blocks that the rounds of a channel's release have still to send.
fn queued_bytes(channel: &ChannelStatus) -> u64 {
    if !matches!(channel.state.as_str(), "sending" | "waiting") {
        return 0;
    }
    let rounds_left = u64::from(channel.rounds.saturating_sub(channel.round));
    channel.total_bytes.saturating_sub(channel.sent_bytes) + rounds_left * channel.total_bytes
}
