//! The receiver's dashboard: what came, what is lacking, what is published, how the site's mirrors stand. Who has the token
//! can hand in what was carried here: what an approver has signed elsewhere, and volumes of an export.

mod api;
mod blocks;
mod catalog;
mod form;
mod hand_in;
mod held;
mod hosts;
mod import;
mod mirrors;
mod pages;

use std::sync::Arc;

use axum::Router;
use diodesync_control::dashboard::page::Page;
use diodesync_control::dashboard::{Asked, Board, Kind, Metrics, Reading, Source};

use crate::api::Daemon;
use crate::status::{LaneStatus, Status};

/// The places of the counts, as [`Source::COUNTS`] names them.
mod counts {
    pub const BYTES: usize = 0;
    pub const LOST: usize = 2;
    pub const REPAIRED: usize = 3;
    pub const KERNEL_DROPS: usize = 5;
}

/// The place of the disk's free octets among the gauges.
const DISK_FREE: usize = 0;

/// Alarms with which nothing can be received or published.
const NOT_READY: [&str; 4] = ["lane-role", "publisher", "disk", "disk-full"];

impl Source for Daemon {
    type View = Status;

    const SIDE: &'static str = "Receiver";
    const PLACE: &'static str = "High side";
    const COOKIE: &'static str = "diodesync_receiver";
    const PAGES: &'static [(&'static str, &'static str)] = &[
        ("/", "Overview"),
        ("/releases", "Releases"),
        ("/artifacts", "Artifacts"),
        ("/mirrors", "Mirrors"),
        ("/missing", "Missing"),
        ("/import", "Import"),
    ];
    const OPENAPI: &'static str = include_str!("dashboard/openapi.json");
    const COUNTS: &'static [&'static str] = &[
        "received_bytes",
        "received_datagrams",
        "lost_datagrams",
        "repaired_symbols",
        "rejected_datagrams",
        "kernel_dropped_packets",
    ];
    const GAUGES: &'static [&'static str] = &["disk_free_bytes", "lacking_blocks"];

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
                // A mirror host has no lanes, and blocks come from its upstream.
                sum(|lane| lane.received_bytes)
                    + status.upstream.as_ref().map_or(0, |upstream| upstream.received_bytes),
                sum(|lane| lane.received),
                sum(|lane| lane.lost),
                status.decoding.repaired,
                sum(|lane| lane.rejected),
                sum(|lane| lane.kernel_drops),
            ],
            gauges: vec![status.disk.as_ref().map(|disk| disk.free_bytes), Some(lacking_blocks(status))],
        }
    }

    fn metrics(status: &Status, out: &mut Metrics) {
        lane_metrics(status, out);
        release_metrics(status, out);
        let decoding = &status.decoding;
        let mut count = |name, help, value: u64| out.one(Kind::Counter, name, help, value);
        count("diodesync_receiver_blocks_total", "Blocks that became complete.", decoding.blocks);
        count(
            "diodesync_receiver_repaired_symbols_total",
            "Source symbols that repair symbols replaced.",
            decoding.repaired,
        );
        count(
            "diodesync_receiver_surplus_symbols_total",
            "Symbols that were there already or not needed.",
            decoding.duplicates,
        );
        count(
            "diodesync_receiver_mismatched_blocks_total",
            "Blocks that decoded to something else than the index names.",
            decoding.mismatched,
        );
        let mut gauge = |name, help, value: Option<f64>| {
            out.put(Kind::Gauge, name, help, value.map(|value| (Vec::new(), value)));
        };
        gauge(
            "diodesync_receiver_clock_skew_seconds",
            "The sender's clock less the receiver's.",
            status.skew_ms.map(|ms| ms as f64 / 1000.0),
        );
        gauge(
            "diodesync_receiver_metadata_expires_timestamp_seconds",
            "When the accepted metadata expires, since 1970.",
            status.trust_expires_s.map(|s| s as f64),
        );
        gauge(
            "diodesync_receiver_certificate_expires_timestamp_seconds",
            "When the mirror's certificate expires, since 1970.",
            status.certificate_expires_s.map(|s| s as f64),
        );
        mirrors::metrics(&status.mirrors, out);
        hosts::metrics(status, out);
        out.disk(status.disk.as_ref());
        out.alarms(status.alarms.iter().map(|alarm| alarm.id.as_str()));
    }

    fn not_ready(status: &Status) -> Vec<String> {
        let is_in_the_way = |id: &str| NOT_READY.contains(&id);
        let alarms = status.alarms.iter().filter(|alarm| is_in_the_way(&alarm.id));
        alarms.map(|alarm| format!("{}: {}", alarm.id, alarm.text)).collect()
    }

    fn page(board: &Board<Self>, asked: &Asked) -> anyhow::Result<Option<Page>> {
        pages::page(board, asked)
    }

    fn routes() -> Router<Arc<Board<Self>>> {
        api::routes()
    }
}

/// Blocks that all rounds have not brought.
fn lacking_blocks(status: &Status) -> u64 {
    let releases = status.channels.iter().flat_map(|channel| &channel.releases);
    let lacking = releases.filter(|release| matches!(release.state.as_str(), "incomplete" | "damaged"));
    lacking.map(|release| (release.blocks_needed - release.blocks_held) as u64).sum()
}

fn lane_metrics(status: &Status, out: &mut Metrics) {
    let mut lane = |kind, name, help, value: fn(&LaneStatus) -> Option<f64>| {
        let samples =
            status.lanes.iter().filter_map(|lane| Some((vec![("lane", lane.name.clone())], value(lane)?)));
        out.put(kind, name, help, samples.collect::<Vec<_>>());
    };
    lane(
        Kind::Counter,
        "diodesync_receiver_received_bytes_total",
        "Octets of datagrams that came.",
        |lane| Some(lane.received_bytes as f64),
    );
    lane(Kind::Counter, "diodesync_receiver_received_datagrams_total", "Datagrams that came.", |lane| {
        Some(lane.received as f64)
    });
    lane(
        Kind::Counter,
        "diodesync_receiver_lost_datagrams_total",
        "Datagrams that were sent and never came, before decoding.",
        |lane| Some(lane.lost as f64),
    );
    lane(
        Kind::Counter,
        "diodesync_receiver_kernel_dropped_packets_total",
        "Packets that the kernel dropped because its buffer was full.",
        |lane| Some(lane.kernel_drops as f64),
    );
    lane(
        Kind::Gauge,
        "diodesync_receiver_last_datagram_timestamp_seconds",
        "When the last authentic datagram came, since 1970.",
        |lane| lane.last_ms.map(|ms| ms as f64 / 1000.0),
    );
    let rejected = |lane: &LaneStatus| {
        [
            ("malformed", lane.malformed),
            ("forged", lane.forged),
            ("replayed", lane.replayed),
            ("other_session", lane.other_session),
        ]
        .map(|(why, count)| (vec![("lane", lane.name.clone()), ("reason", why.to_owned())], count))
    };
    out.put(
        Kind::Counter,
        "diodesync_receiver_rejected_datagrams_total",
        "Datagrams that changed nothing, by reason.",
        status.lanes.iter().flat_map(rejected).collect::<Vec<_>>(),
    );
}

fn release_metrics(status: &Status, out: &mut Metrics) {
    let channels =
        || status.channels.iter().map(|channel| (vec![("channel", channel.channel.to_string())], channel));
    let published = channels().filter_map(|(labels, channel)| Some((labels, channel.published?.0)));
    out.put(
        Kind::Gauge,
        "diodesync_receiver_published_release",
        "The number of the release that is served.",
        published.collect::<Vec<_>>(),
    );
    let newest = channels().filter_map(|(labels, channel)| Some((labels, channel.newest?.0)));
    out.put(
        Kind::Gauge,
        "diodesync_receiver_newest_release",
        "The number of the sender's newest release.",
        newest.collect::<Vec<_>>(),
    );
    let releases = || {
        status.channels.iter().flat_map(|channel| {
            channel.releases.iter().map(move |release| {
                let labels = [
                    ("channel", channel.channel.to_string()),
                    ("release", release.number.to_string()),
                    ("state", release.state.clone()),
                ];
                (labels.to_vec(), release)
            })
        })
    };
    out.put(
        Kind::Gauge,
        "diodesync_receiver_release_needed_bytes",
        "Octets of the blocks that a release needs.",
        releases().map(|(labels, release)| (labels, release.bytes_needed)).collect::<Vec<_>>(),
    );
    out.put(
        Kind::Gauge,
        "diodesync_receiver_release_held_bytes",
        "Octets of them that are there.",
        releases().map(|(labels, release)| (labels, release.bytes_held)).collect::<Vec<_>>(),
    );
    out.one(
        Kind::Gauge,
        "diodesync_receiver_lacking_blocks",
        "Blocks that all rounds have not brought, or that were damaged since.",
        lacking_blocks(status),
    );
}
