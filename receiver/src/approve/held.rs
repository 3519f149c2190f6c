//! Releases that wait for approvers, for programs and for people.

use std::fmt::Write;

use anyhow::bail;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::quantity::Bytes;
use diodesync::release::approval::{Quorum, Subject};
use diodesync::release::change::{Change, Names};
use serde::{Deserialize, Serialize};

use crate::api::Daemon;
use crate::publish::Stage;

/// Names of a kind of change that are shown.
const NAMES_SHOWN: usize = 50;

/// The answer of `held`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldReleases {
    /// The releases.
    pub releases: Vec<HeldRelease>,
}

/// A release that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldRelease {
    /// What approvers sign.
    pub subject: Subject,
    /// How many of them are needed.
    pub quorum: Quorum,
    /// Who has approved.
    pub approved: Vec<String>,
    /// What scanners say of it; none if nothing scans here.
    pub scan: Option<String>,
    /// Decisions that do not count (any more), and why.
    pub void: Vec<String>,
    /// What it changes against what is served.
    pub change: Change,
}

impl HeldReleases {
    /// What waits in a daemon. May read through indexes.
    pub fn of(daemon: &Daemon) -> Self {
        let (site, arrivals) = (daemon.site.load(), daemon.publish.view().arrivals);
        let held = |arrival: &crate::publish::ArrivalView| {
            let Stage::Held(held) = &arrival.stage else { return None };
            let before = site.releases().iter().find(|index| index.channel == arrival.channel);
            Some(HeldRelease {
                subject: Subject {
                    link: daemon.link,
                    channel: arrival.channel.clone(),
                    number: arrival.number,
                    index: held.index,
                },
                quorum: held.quorum,
                approved: held.standing.approved.iter().cloned().collect(),
                scan: held.scan.clone(),
                void: held.standing.void.iter().map(ToString::to_string).collect(),
                change: Change::between(&arrival.index, before.map(|index| &**index)),
            })
        };
        Self { releases: arrivals.iter().filter_map(held).collect() }
    }

    /// The one that is meant.
    ///
    /// # Errors
    /// If there is none, or no number is given and several are there.
    pub fn find(&self, channel: &Channel, number: Option<ReleaseNo>) -> anyhow::Result<&HeldRelease> {
        let mut of_channel = self.releases.iter().filter(|release| release.subject.channel == *channel);
        let is_it = |release: &&HeldRelease| number.is_none_or(|number| release.subject.number == number);
        let Some(found) = of_channel.find(is_it) else {
            let names =
                self.releases.iter().map(|it| format!("{} {}", it.subject.channel, it.subject.number));
            let names: Vec<String> = names.collect();
            let held = if names.is_empty() { "none is".to_owned() } else { names.join(", ") + " is" };
            let number = number.map_or(String::new(), |number| format!(" {number}"));
            bail!(
                "release {channel}{number} is not held; {held}. Others arrive still, or are refused: diode-receiver status"
            );
        };
        Ok(found)
    }

    /// For people.
    pub fn to_text(&self) -> String {
        if self.releases.is_empty() {
            return "nothing waits for an approver\n".to_owned();
        }
        self.releases.iter().map(HeldRelease::to_text).collect::<Vec<_>>().join("\n")
    }
}

impl HeldRelease {
    /// For people.
    pub fn to_text(&self) -> String {
        let (subject, change) = (&self.subject, &self.change);
        let mut out = String::new();
        let _ = writeln!(out, "release {} {}", subject.channel, subject.number);
        let _ = writeln!(out, "  index     {}", subject.index);
        let approved =
            if self.approved.is_empty() { "nobody yet".to_owned() } else { self.approved.join(", ") };
        let _ = writeln!(out, "  approved  by {approved}; {} needed", self.quorum.count());
        if let Some(scan) = &self.scan {
            let _ = writeln!(out, "  scanned   {scan}");
        }
        for why in &self.void {
            let _ = writeln!(out, "  void      {why}");
        }
        let against =
            change.against.map_or("nothing is served yet".to_owned(), |n| format!("against release {n}"));
        let _ = writeln!(
            out,
            "  content   {} artifacts, {}, of which {} are new {against}",
            change.artifacts,
            Bytes(change.bytes),
            Bytes(change.new_bytes)
        );
        for (sign, names) in [("+", &change.added), ("~", &change.changed), ("-", &change.removed)] {
            put_names(&mut out, sign, names);
        }
        out
    }

    /// To be carried to where an approver's key is: what is signed, and what it means as comments.
    pub fn to_request(&self) -> String {
        let comments: String = self.to_text().lines().map(|line| format!("# {line}\n")).collect();
        format!("{}{comments}", self.subject.to_request())
    }
}

fn put_names(out: &mut String, sign: &str, names: &Names) {
    for name in names.names.iter().take(NAMES_SHOWN) {
        let _ = writeln!(out, "  {sign} {name}");
    }
    if let Some(more @ 1..) = names.count.checked_sub(NAMES_SHOWN) {
        let _ = writeln!(out, "  {sign} and {more} more");
    }
}
