//! What is served: made of the facts at the start, and switched when a release is whole.
//!
//! The order of a switch: the release before is kept, the new one is a fact, the whole of what is served is a fact (for a
//! serve role in another process, and for the next start), and then this process serves it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use diodesync::audit::Event;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::pack::PackStore;
use diodesync::release::index::Index;
use diodesync_control::clock_s;

use super::arrival::Arrival;
use super::gate::Found;
use super::{Facts, Publisher, image, module, package, proof};
use crate::apt::Signer;
use crate::serve::{Site, SiteFact};

/// What is published at the start, before anything is judged: the facts, nothing else.
pub fn restore_site(dir: &Path, packs: &Arc<PackStore>, apt: &Signer) -> anyhow::Result<Site> {
    let facts = Facts::open(dir)?;
    let (mut releases, mut kept) = (Vec::new(), Vec::new());
    for (channel, number) in facts.published()? {
        releases.push(Arc::new(facts.index(&channel, number)?));
        let known = facts.numbers(&channel)?;
        for before in facts.before(&channel)? {
            if before != number && known.contains(&before) {
                kept.push(Arc::new(facts.index(&channel, before)?));
            }
        }
    }
    let site =
        Site::new(releases, packs.clone()).context("what was published cannot be served")?.keeping(kept);
    let recorded = SiteFact::read(dir)?;
    let is_same = site
        .releases()
        .iter()
        .map(|index| (&index.channel, index.number))
        .eq(recorded.releases.iter().map(|(channel, number)| (channel, *number)));
    let is_current = is_same && recorded.apt.key() == apt.public_key()? && !recorded.apt.is_due(clock_s());
    if is_current {
        return Ok(site.with_apt(recorded.apt));
    }
    // What a disk has changed must not keep everything else from being served.
    let archive =
        apt.archive(site.releases(), packs, Some(&recorded.apt), clock_s()).unwrap_or_else(|error| {
            tracing::error!(
                error = format!("{error:#}"),
                "the archive of packages is not served; run: diode-receiver verify"
            );
            Default::default()
        });
    let site = site.with_apt(archive);
    SiteFact::record(dir, &site)?;
    Ok(site)
}

impl Publisher {
    pub(super) fn publish_what_is_whole(&mut self) -> anyhow::Result<()> {
        if self.clocks.why_held().is_some() {
            return Ok(());
        }
        let whole: Vec<Channel> =
            self.arrivals.iter().filter(|(_, a)| a.is_whole()).map(|(channel, _)| channel.clone()).collect();
        for channel in whole {
            let Some(index) = self.arrivals.get(&channel).map(|arrival| arrival.index().clone()) else {
                continue;
            };
            // One that is held is checked once more when it is approved.
            let mut passed = None;
            if !self.arrivals.get(&channel).is_some_and(Arrival::is_passed) {
                let Some(site) = self.pass_or_refuse(&index) else { continue };
                passed = Some(site);
            }
            if !self.is_scanned(&index)? || !self.is_approved(&channel)? {
                continue;
            }
            // What scanners know now they may not have known when it began to wait.
            if self.is_scan_old(&index) {
                self.scans.remove(&channel);
                continue;
            }
            if let Some(site) = passed.or_else(|| self.pass_or_refuse(&index)) {
                self.switch(&index, site)?;
            }
        }
        Ok(())
    }

    /// What would be served if this release was published; if it must not be, it is refused.
    fn pass_or_refuse(&mut self, index: &Arc<Index>) -> Option<Site> {
        let passed = self.pass(index);
        let arrival = self.arrivals.get_mut(&index.channel)?;
        match passed {
            Ok(site) => {
                arrival.set_passed();
                Some(site)
            }
            Err(why) => {
                let text = format!("{why:#}");
                tracing::warn!(channel = %index.channel, release = index.number.0, why = text, "release refused");
                arrival.refuse(text);
                None
            }
        }
    }

    /// What would be served if this release was published, and what the checks found out about it.
    ///
    /// # Errors
    /// Why it must not be.
    pub(super) fn check(&self, index: &Arc<Index>) -> anyhow::Result<(Site, Found)> {
        let packs = &self.input.packs;
        let mut found = Found::default();
        proof::check(index, packs, &mut found)?;
        image::check(index, packs, &mut found)?;
        package::check(index, packs, &mut found)?;
        module::check(index, packs)?;
        let served = self.input.site.load();
        let of_channel = |release: &Arc<Index>| release.channel == index.channel;
        let (before, others): (Vec<_>, Vec<_>) = served.releases().iter().cloned().partition(of_channel);
        let site = Site::new(others.into_iter().chain([index.clone()]).collect(), packs.clone())?;
        // Clients in the middle of a download still find what they were told of.
        let (kept_before, kept_others): (Vec<_>, Vec<_>) =
            served.kept().iter().cloned().partition(of_channel);
        let mut before = [kept_before, before].concat();
        let cut_s: Vec<u64> = before.iter().chain([index]).map(|release| release.created_s).collect();
        let keep = self.retention.keep(&index.channel).count(&cut_s, clock_s());
        before.drain(..before.len().saturating_sub(keep - 1));
        let site = self.with_apt(site.keeping([kept_others, before].concat()), &served)?;
        Ok((site, found))
    }

    /// With the archive of its packages, signed now.
    pub(super) fn with_apt(&self, site: Site, before: &Site) -> anyhow::Result<Site> {
        let (packs, apt) = (&self.input.packs, &self.input.apt);
        let archive = apt.archive(site.releases(), packs, Some(before.apt()), clock_s())?;
        Ok(site.with_apt(archive))
    }

    /// Signs the archive of packages anew in time, so that it is valid for as long as this runs.
    pub(super) fn renew_apt(&mut self) -> anyhow::Result<()> {
        let served = self.input.site.load();
        if !served.apt().is_due(clock_s()) {
            return Ok(());
        }
        let site = Site::new(served.releases().to_vec(), self.input.packs.clone())?;
        let site = self.with_apt(site.keeping(served.kept().to_vec()), &served)?;
        SiteFact::record(&self.input.dir, &site)?;
        self.input.site.switch(Arc::new(site));
        Ok(())
    }

    /// The switch: the facts, then what is served.
    fn switch(&mut self, index: &Arc<Index>, site: Site) -> anyhow::Result<()> {
        let channel = &index.channel;
        self.input.ledger.commit()?;
        if index.blocks().any(|block| !self.input.ledger.holds(&block)) {
            // `verify` was faster.
            if let Some(arrival) = self.arrivals.get_mut(channel) {
                *arrival = arrival.again(&self.input.ledger, &self.checked);
            }
            return Ok(());
        }
        if let Some(published) = self.published.get(channel) {
            let mut before: Vec<ReleaseNo> = self.facts.before(channel)?;
            before.retain(|number| number != published);
            before.push(*published);
            let known = self.facts.numbers(channel)?;
            before.retain(|number| known.contains(number));
            let cut_s = before.iter().map(|number| Ok(self.kept_index(channel, *number)?.created_s));
            let cut_s: Vec<u64> = cut_s.chain([Ok(index.created_s)]).collect::<anyhow::Result<_>>()?;
            let keep = self.retention.keep(channel).count(&cut_s, clock_s());
            self.facts.record_before(channel, &before, keep)?;
        }
        let (of, number) = (channel.clone(), index.number);
        self.teller.tell(Event::Checked { channel: of.clone(), number, blobs: index.blobs.len() })?;
        let digest = self.arrivals.get(channel).map(Arrival::digest).context("the release is gone")?;
        let artifacts = index.artifacts.len();
        self.teller.tell(Event::Published { channel: of, number, index: digest, artifacts })?;
        self.facts.record_published(channel, index.number)?;
        SiteFact::record(&self.input.dir, &site)?;
        self.served.push(Arc::downgrade(index));
        self.retention.hurry();
        self.input.site.switch(Arc::new(site));
        self.published.insert(channel.clone(), index.number);
        self.arrivals.remove(channel);
        self.tell_served_now();
        self.scans.remove(channel);
        tracing::info!(%channel, release = index.number.0, artifacts = index.artifacts.len(), "published");
        Ok(())
    }
}
