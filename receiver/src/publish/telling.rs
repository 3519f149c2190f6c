//! What the publisher tells the audit log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use diodesync::audit::{Actor, Event};
use diodesync_control::audit::Audit;
use diodesync_control::clock_ms;

use super::Publisher;
use crate::feed::{FeedView, HostView};
use crate::serve::{ReleaseId, SERVE, Serving};

/// Events that are not told again when what they tell of is tried again.
const TOLD_MAX: usize = 64;
/// Refusals of an hour that are told one by one: who holds the link's key can send any number of things to refuse.
const REFUSALS_MAX: u64 = 100;
const HOUR_MS: u64 = 3_600_000;
/// How often it is looked what is served.
const SERVED_INTERVAL_MS: u64 = 1000;

/// Tells each thing once.
#[derive(Debug)]
pub struct Teller {
    audit: Audit,
    by: Actor,
    told: Mutex<Told>,
    /// What is served, and since when, milliseconds since 1970.
    serving: BTreeMap<ReleaseId, u64>,
    served_due_ms: u64,
    /// The mirror hosts that are connected, and from where.
    hosts: BTreeMap<String, String>,
    /// The newest connection of none that was told of.
    stranger: Option<String>,
}

#[derive(Debug, Default)]
struct Told {
    events: VecDeque<Event>,
    /// When the hour began in which refusals are counted, and how many there were.
    refusals: (u64, u64),
}

impl Told {
    fn knows(&self, event: &Event) -> bool {
        self.events.contains(event)
    }

    fn add(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > TOLD_MAX {
            self.events.pop_front();
        }
    }

    /// Counts a refusal. Whether it is told, and how many of the hour before were not.
    fn count_refusal(&mut self, now_ms: u64) -> (bool, u64) {
        let (began_ms, count) = self.refusals;
        let mut untold = 0;
        if now_ms.abs_diff(began_ms) >= HOUR_MS {
            untold = count.saturating_sub(REFUSALS_MAX);
            self.refusals = (now_ms, 0);
        }
        self.refusals.1 += 1;
        (self.refusals.1 <= REFUSALS_MAX, untold)
    }
}

impl Teller {
    /// For a publisher that starts.
    pub fn new(audit: Audit) -> Self {
        let by = Actor::daemon("publish");
        Self {
            audit,
            by,
            told: Mutex::default(),
            serving: BTreeMap::new(),
            served_due_ms: 0,
            hosts: BTreeMap::new(),
            stranger: None,
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what is about to be done.
    ///
    /// # Errors
    /// If it cannot be told; then it must not be done.
    pub fn tell(&self, event: Event) -> anyhow::Result<()> {
        if !self.told().knows(&event) {
            self.audit.tell(&self.by, event.clone())?;
            self.told().add(event);
        }
        Ok(())
    }

    /// Tells what somebody else is about to do.
    ///
    /// # Errors
    /// If it cannot be told; then it must not be done.
    pub fn tell_by(&self, by: &Actor, event: Event) -> anyhow::Result<()> {
        self.audit.tell(by, event).map(drop)
    }

    /// Tells what has happened.
    pub fn note(&self, event: Event) {
        if !self.told().knows(&event) {
            self.audit.note(&self.by, event.clone());
            self.told().add(event);
        }
    }

    /// Tells that something is not taken.
    pub fn refused(&self, what: impl Into<String>, why: impl Into<String>) {
        let event = Event::Refused { what: what.into(), why: why.into() };
        if self.told().knows(&event) {
            return;
        }
        let (is_told, untold) = self.told().count_refusal(clock_ms());
        if untold > 0 {
            let why = format!("{untold} more were refused within an hour; the journal of this host has them");
            self.audit.note(&self.by, Event::Refused { what: "others".to_owned(), why });
        }
        if is_told {
            self.note(event);
        }
    }

    /// Writes what waits.
    pub fn retry(&self) {
        self.audit.retry();
    }

    fn served(&mut self, served: BTreeSet<ReleaseId>, now_ms: u64) {
        let gone: Vec<ReleaseId> = self.serving.keys().filter(|id| !served.contains(*id)).cloned().collect();
        for id in gone {
            let from_ms = self.serving.remove(&id).unwrap_or(now_ms);
            let (channel, number) = id;
            self.audit.note(&self.by, Event::Served { channel, number, from_ms, until_ms: now_ms });
        }
        for id in served {
            if !self.serving.contains_key(&id) {
                let (channel, number) = id.clone();
                self.audit.note(&self.by, Event::Serving { channel, number });
                self.serving.insert(id, now_ms);
            }
        }
    }
}

impl Teller {
    fn hosts(&mut self, view: FeedView) {
        for HostView { name, from, .. } in view.hosts {
            let before = self.hosts.get(&name).cloned();
            if before == from {
                continue;
            }
            let host = |from: String, change: &str| Event::Host {
                name: name.clone(),
                from,
                change: change.to_owned(),
            };
            if let Some(before) = before {
                self.audit.note(&self.by, host(before, "gone"));
                self.hosts.remove(&name);
            }
            if let Some(from) = from {
                self.audit.note(&self.by, host(from.clone(), "connected"));
                self.hosts.insert(name, from);
            }
        }
        if view.last_refused != self.stranger {
            self.stranger.clone_from(&view.last_refused);
            view.last_refused.into_iter().for_each(|why| self.refused("a mirror host's connection", why));
        }
    }
}

impl Publisher {
    /// Tells what is served from now on, and what is not any more; and which mirror hosts are fed.
    pub(super) fn tell_served(&mut self) {
        let now_ms = clock_ms();
        let since_ms = self.teller.served_due_ms;
        if now_ms.abs_diff(since_ms) < SERVED_INTERVAL_MS {
            return;
        }
        self.teller.served_due_ms = now_ms;
        // The alarm says if it is not known.
        if self.input.feeds
            && let Ok(Some(view)) = FeedView::read(&self.input.dir, now_ms)
        {
            self.teller.hosts(view);
        }
        let served = match self.input.is_served_elsewhere {
            false => {
                let site = self.input.site.load();
                site.releases().iter().map(|index| (index.channel.clone(), index.number)).collect()
            }
            true => match Serving::read(&self.input.dir, SERVE) {
                Ok(Some(serving)) if !serving.is_silent(now_ms) => serving.served,
                Ok(_) => BTreeSet::new(),
                // The alarm says that it is not known.
                Err(_) => return,
            },
        };
        self.teller.served(served, now_ms);
    }

    /// Has that told at once.
    pub(super) fn tell_served_now(&mut self) {
        self.teller.served_due_ms = 0;
        self.tell_served();
    }

    /// Tells that this process serves nothing any more.
    pub(super) fn tell_end(&mut self) {
        if !self.input.is_served_elsewhere {
            self.teller.served(BTreeSet::new(), clock_ms());
        }
    }

    /// Tells which releases are refused.
    pub(super) fn tell_refused(&self) {
        for arrival in self.arrivals.values() {
            if let Some(why) = arrival.why_refused() {
                let index = arrival.index();
                self.teller.refused(format!("release {} {}", index.channel, index.number), why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_told_one_by_one() {
        let mut told = Told::default();
        let now_ms = 1_795_000_000_000;
        let each: Vec<_> = (0..REFUSALS_MAX + 50).map(|n| told.count_refusal(now_ms + n)).collect();
        assert_eq!(each.iter().filter(|(is_told, _)| *is_told).count() as u64, REFUSALS_MAX);
        assert!(each.iter().all(|(_, untold)| *untold == 0));
        assert_eq!(told.count_refusal(now_ms + HOUR_MS), (true, 50));
        assert_eq!(told.count_refusal(now_ms + HOUR_MS + 1), (true, 0));
        // A clock that is set back is another hour.
        assert_eq!(told.count_refusal(now_ms - HOUR_MS), (true, 0));
    }
}
