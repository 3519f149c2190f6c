//! The gate: what a release that was found right needs besides, before it is published.
//!
//! ```text
//! blobs, proofs found right ──► policy: every artifact ──► scanners: every file ──► approvers ──► switch
//! ```
//!
//! What the policy denies is refused, by name and rule; so is what a scanner finds. What lacks an approver is held, and goes
//! on by itself when the last one has spoken; then scanners, proofs and policy look once more, since it may have waited for
//! weeks.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::audit::{Actor, Event};
use diodesync::id::{Channel, LinkId, ReleaseNo, Sha256};
use diodesync::release::approval::{Approval, Approver, Decision, Quorum, Standing, Subject};
use diodesync::release::policy::{Policy, Seen};
use diodesync::release::retention::Keep;
use diodesync::release::{Artifact, ArtifactKind, ArtifactName, Index};
use serde::{Deserialize, Serialize};

use super::{PublishShared, Publisher, Stage};
use crate::scan::{Scan, Scanner};

/// Decisions that are kept of one release.
const DECISIONS_MAX: usize = 64;

/// Who and what decides.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The link, which approvals name.
    pub link: LinkId,
    /// Which artifacts may be published.
    pub policy: Policy,
    /// Whose word counts.
    pub approvers: Vec<Approver>,
    /// How many of them a channel needs, where that is configured.
    pub quorum: BTreeMap<Channel, Quorum>,
    /// What looks for malware.
    pub scanner: Option<Scanner>,
}

/// What the configuration says of what may be published, and of what is kept.
#[derive(Debug)]
pub struct Rules {
    /// Who and what decides.
    pub gate: Gate,
    /// What each channel keeps.
    pub keep: BTreeMap<Channel, Keep>,
}

/// What the checks of a release have found out about its artifacts.
#[derive(Debug, Default)]
pub struct Found {
    /// `OS/ARCHITECTURE[/VARIANT]` of images and packages.
    pub platforms: BTreeMap<ArtifactName, Vec<String>>,
    /// Fingerprints of the keys that upstreams' proofs hold by.
    pub signers: BTreeMap<ArtifactName, Vec<String>>,
}

/// A release that waits for approvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The digest of its index.
    pub index: Sha256,
    /// How many must approve.
    pub quorum: Quorum,
    /// Who has spoken.
    pub standing: Standing,
    /// What scanners say.
    pub scan: Option<String>,
}

impl Held {
    /// Why it is held, for people.
    pub fn why(&self) -> String {
        let (needed, standing) = (self.quorum.count(), &self.standing);
        let approved = match standing.approved.is_empty() {
            true => String::new(),
            false => format!(", approved so far by {}", list(standing.approved.iter())),
        };
        let who = if needed == 1 { "one approver" } else { "two different approvers" };
        let void = standing.void.iter().map(|error| format!(". Void: {error}")).collect::<String>();
        format!("it waits for {who}{approved}; see: diode-receiver held{void}")
    }
}

fn list(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// What an approver has signed, and who brings it.
#[derive(Debug)]
pub struct Handed {
    /// What was signed.
    pub decision: String,
    /// Who brings it.
    pub by: Actor,
}

/// What became of a decision that was handed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decided {
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// Whose decision it is.
    pub approver: String,
    /// Whether it approves.
    pub is_approval: bool,
    /// Who has approved by now.
    pub approved: Vec<String>,
    /// How many are needed.
    pub needed: usize,
    /// Who has rejected it.
    pub rejected: Vec<String>,
}

impl Decided {
    /// For people.
    pub fn to_text(&self) -> String {
        let (release, approver) = (format!("release {} {}", self.channel, self.number), &self.approver);
        if !self.is_approval {
            return format!(
                "{release} is rejected by {approver}; it is not published, and what is served stays"
            );
        }
        if !self.rejected.is_empty() {
            return format!("{approver} approves {release}, and {} rejects it", self.rejected.join(", "));
        }
        match self.needed.saturating_sub(self.approved.len()) {
            0 => format!("{release} is approved by {}; it is published now", self.approved.join(", ")),
            left => {
                format!("{release} is approved by {}; {left} more must approve it", self.approved.join(", "))
            }
        }
    }
}

impl PublishShared {
    /// Hands in what an approver has signed. Blocks the thread.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn decide(&self, handed: Handed) -> anyhow::Result<Decided> {
        self.decisions.ask(handed)
    }

    /// Has other rules in force from now on. Blocks the thread.
    ///
    /// # Errors
    /// If the publisher does not answer.
    pub fn reload(&self, rules: Rules) -> anyhow::Result<()> {
        self.rules.ask(rules)
    }
}

impl Gate {
    /// What is decided on.
    pub fn subject(&self, index: &Index, digest: Sha256) -> Subject {
        Subject { link: self.link, channel: index.channel.clone(), number: index.number, index: digest }
    }

    /// How many approvers a channel needs.
    pub fn quorum(&self, channel: &Channel) -> Quorum {
        self.quorum.get(channel).copied().unwrap_or_default()
    }

    /// Whether the policy allows every artifact.
    ///
    /// # Errors
    /// The first that it does not, and by which rule.
    pub fn judge(&self, index: &Index, found: &Found) -> anyhow::Result<()> {
        for (name, kind) in &index.artifacts {
            let artifact = Artifact { name: name.clone(), kind: kind.clone() };
            let blobs = artifact.blobs();
            let bytes =
                blobs.iter().filter_map(|digest| index.blobs.get(digest)).map(|blob| blob.bytes).sum();
            let of =
                |found: &BTreeMap<ArtifactName, Vec<String>>| found.get(name).cloned().unwrap_or_default();
            let platforms = match kind {
                ArtifactKind::Provider(provider) => {
                    provider.archives.keys().map(|it| format!("{}/{}", it.os, it.arch)).collect()
                }
                _ => of(&found.platforms),
            };
            let signers = of(&found.signers);
            self.policy.judge(&Seen {
                channel: &index.channel,
                name,
                platforms: &platforms,
                signers: &signers,
                bytes,
            })?;
        }
        Ok(())
    }
}

impl Publisher {
    /// Whether a release that was found right has the approvers that it needs; if not, it is held.
    pub(super) fn is_approved(&mut self, channel: &Channel) -> anyhow::Result<bool> {
        let now_s = self.judging_s();
        let Some(arrival) = self.arrivals.get_mut(channel) else { return Ok(false) };
        let (index, gate) = (arrival.index().clone(), &self.input.gate);
        let key = (channel.clone(), index.number);
        // Decisions on releases that are not on their way any more are of no use here.
        self.decisions.retain(|(of, number), _| of != channel || *number == index.number);
        if !self.decisions.contains_key(&key) {
            self.decisions.insert(key.clone(), self.facts.decisions(channel, index.number)?);
        }
        let decisions = self.decisions.get(&key).map(Vec::as_slice).unwrap_or_default();
        let quorum = gate.quorum(channel);
        let digest = arrival.digest();
        let standing = Standing::of(&gate.subject(&index, digest), decisions, &gate.approvers, now_s);
        if standing.is_enough(quorum) {
            if quorum != Quorum::Auto {
                tracing::info!(%channel, release = index.number.0, by = list(standing.approved.iter()), "approved");
            }
            arrival.hold(None);
            return Ok(true);
        }
        let scan =
            self.scans.get(channel).and_then(|(_, scan)| scan.outcome()).map(|outcome| outcome.summary());
        arrival.hold(Some(Held { index: digest, quorum, standing, scan }));
        Ok(false)
    }

    /// Whether scanners have looked at a release and found nothing; if they found something, it is refused.
    pub(super) fn is_scanned(&mut self, index: &Arc<Index>) -> anyhow::Result<bool> {
        let Some(scanner) = self.input.gate.scanner.clone() else { return Ok(true) };
        let allows_unscanned = scanner.allows_unscanned;
        self.scans.retain(|of, (number, _)| *of != index.channel || *number == index.number);
        if !self.scans.contains_key(&index.channel) {
            let (packs, journal) = (self.input.packs.clone(), self.input.journal.clone());
            let scan = Scan::start(scanner, packs, journal, index.clone())?;
            self.scans.insert(index.channel.clone(), (index.number, scan));
        }
        let Some((_, scan)) = self.scans.get(&index.channel) else { return Ok(false) };
        let Some(arrival) = self.arrivals.get_mut(&index.channel) else { return Ok(false) };
        let Some(outcome) = scan.outcome() else {
            arrival.set_scan(Some(scan.progress()));
            return Ok(false);
        };
        arrival.set_scan(None);
        match outcome.refusal(allows_unscanned) {
            None => {
                let (channel, number) = (index.channel.clone(), index.number);
                self.teller.tell(Event::Scanned { channel, number, summary: outcome.summary() })?;
                Ok(true)
            }
            Some(why) => {
                tracing::warn!(channel = %index.channel, release = index.number.0, why, "release refused");
                arrival.refuse(why);
                Ok(false)
            }
        }
    }

    /// Whether a release has waited so long since it was scanned that it must be scanned once more.
    pub(super) fn is_scan_old(&self, index: &Index) -> bool {
        let age = self.scans.get(&index.channel).and_then(|(_, scan)| scan.age());
        let valid = self.input.gate.scanner.as_ref().map(|scanner| scanner.valid);
        age.zip(valid).is_some_and(|(age, valid)| age > valid)
    }

    /// Goes over to other rules: everything that is not published yet is judged by them anew.
    pub(super) fn take_rules(&mut self) {
        let shared = self.shared.clone();
        shared.rules.answer(|Rules { gate, keep }| {
            self.input.gate = gate;
            self.retention.set_keep(keep);
            self.retention.hurry();
            self.scans.clear();
            for arrival in self.arrivals.values_mut() {
                *arrival = arrival.again(&self.input.ledger, &self.checked);
            }
            Ok(())
        });
    }

    /// Takes what approvers have signed.
    pub(super) fn answer_decisions(&mut self) {
        let shared = self.shared.clone();
        shared.decisions.answer(|handed| self.decide(&handed).map_err(|error| format!("{error:#}")));
    }

    fn decide(&mut self, handed: &Handed) -> anyhow::Result<Decided> {
        let approval = Approval::parse(&handed.decision)?;
        let (channel, number) = (approval.subject.channel.clone(), approval.subject.number);
        let now_s = self.judging_s();
        let Some(arrival) = self.arrivals.get_mut(&channel).filter(|it| it.index().number == number) else {
            bail!(
                "release {channel} {number} does not wait here; those that do are listed by: diode-receiver held"
            );
        };
        if let Stage::Refused(why) = arrival.view().stage
            && arrival.held().is_none()
        {
            bail!("release {channel} {number} is refused, and no approver can change that: {why}");
        }
        let (index, digest) = (arrival.index().clone(), arrival.digest());
        let gate = &self.input.gate;
        let subject = gate.subject(&index, digest);
        let approver = approval.judge(&subject, &gate.approvers, now_s)?.name.clone();
        let is_approval = approval.decision == Decision::Approve;
        let mut decisions = self.facts.decisions(&channel, number)?;
        if !decisions.contains(&approval) {
            if decisions.len() >= DECISIONS_MAX {
                bail!("{DECISIONS_MAX} decisions on release {channel} {number} are kept already");
            }
            tracing::info!(%channel, release = number.0, approver, approves = is_approval, "decision");
            let (decision, why) = match &approval.decision {
                Decision::Approve => ("approve", None),
                Decision::Reject(why) => ("reject", Some(why.clone())),
            };
            let event = Event::Decided {
                channel: channel.clone(),
                number,
                index: digest,
                approver: approver.clone(),
                key: approval.key,
                decision: decision.to_owned(),
                why,
            };
            self.teller.tell_by(&handed.by, event)?;
            decisions.push(approval);
            self.facts
                .record_decisions(&channel, number, &decisions)
                .context("the decision is not recorded")?;
        }
        let standing = Standing::of(&subject, &decisions, &gate.approvers, now_s);
        let needed = gate.quorum(&channel).count();
        self.decisions.insert((channel.clone(), number), decisions);
        Ok(Decided {
            channel,
            number,
            approver,
            is_approval,
            approved: standing.approved.into_iter().collect(),
            needed,
            rejected: standing.rejected.into_keys().collect(),
        })
    }

    /// Whether everything in a release is what it says and allowed; what would be served then.
    pub(super) fn pass(&self, index: &Arc<Index>) -> anyhow::Result<crate::serve::Site> {
        let (site, found) = self.check(index)?;
        self.input.gate.judge(index, &found)?;
        Ok(site)
    }
}
