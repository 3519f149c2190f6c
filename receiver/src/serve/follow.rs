//! A role that reads what is published, in a process of its own: it follows what the publisher records.
//!
//! ```text
//! DIR/site      what is served: releases, those whose blobs are still read, the signed archive of packages (fact)
//! DIR/damaged   blocks that are not what they were (fact)
//! DIR/serve/serving  written here: which releases somebody still reads, and how the certificate stands
//! DIR/mirror/serving the same of the mirror role, which has no certificate
//! ```
//!
//! The publisher gives back no room of a release that stands in `serving`. That file is no fact: without it, what the
//! facts name is kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use diodesync::id::{BlockId, Channel, ReleaseNo};
use diodesync::pack::{PackStore, Stamp, fact};
use diodesync::release::Index;
use diodesync_control::service::Pulse;
use diodesync_control::{clock_ms, clock_s};
use serde::{Deserialize, Serialize};

use super::tls::{Tls, TlsStatus};
use super::{Site, SiteHandle};
use crate::apt::Archive;
use crate::publish::Facts;

/// How often the facts are looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// Looks at the start, before what is wrong ends it.
const OPEN_TRIES: u32 = 10;
/// How often the certificate's files are.
const TLS_INTERVAL: Duration = Duration::from_secs(1);
/// How often `serving` is written although nothing changed.
const SERVING_INTERVAL: Duration = Duration::from_secs(2);
/// Time after which a process that did not write `serving` is not there.
const SILENT: Duration = Duration::from_secs(10);

/// A release.
pub type ReleaseId = (Channel, ReleaseNo);

/// What is served, as the publisher records it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SiteFact {
    /// The published releases.
    pub releases: Vec<ReleaseId>,
    /// Those whose blobs can still be read by digest.
    pub kept: Vec<ReleaseId>,
    /// The archive of their packages.
    pub apt: Archive,
}

fn site_path(dir: &Path) -> PathBuf {
    dir.join("site")
}

impl SiteFact {
    /// What was recorded last.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let Some(content) = fact::read(&site_path(dir))? else { return Ok(Self::default()) };
        serde_json::from_slice(&content)
            .with_context(|| format!("the fact file {} is damaged", site_path(dir).display()))
    }

    /// Records what is served.
    pub fn record(dir: &Path, site: &Site) -> anyhow::Result<()> {
        let ids = |indexes: &[Arc<Index>]| -> Vec<ReleaseId> {
            indexes.iter().map(|index| (index.channel.clone(), index.number)).collect()
        };
        let value = serde_json::json!({
            "releases": ids(site.releases()),
            "kept": ids(site.kept()),
            "apt": site.apt(),
        });
        Ok(fact::write(&site_path(dir), &serde_json::to_vec(&value)?)?)
    }
}

/// What a role that reads in another process says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// Releases that somebody still reads.
    pub releases: BTreeSet<ReleaseId>,
    /// Those of them that are served under their names.
    #[serde(default)]
    pub served: BTreeSet<ReleaseId>,
    /// The certificate.
    pub tls: TlsStatus,
    /// Why the site is not the one that the publisher recorded.
    pub failure: Option<String>,
    /// When it was written, milliseconds since 1970.
    pub written_ms: u64,
}

/// The folder of the serve role.
pub const SERVE: &str = "serve";
/// The folder of the mirror role.
pub const MIRROR: &str = "mirror";

fn serving_path(dir: &Path, role: &str) -> PathBuf {
    dir.join(role).join("serving")
}

impl Serving {
    /// What was written last.
    ///
    /// # Errors
    /// If there is something that cannot be read: what is served is not known then.
    pub fn read(dir: &Path, role: &str) -> anyhow::Result<Option<Self>> {
        let path = serving_path(dir, role);
        let Some(content) = fact::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&content).map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Whether who wrote it is not there any more.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(self.written_ms)) > SILENT.as_millis()
    }
}

/// Follows the facts.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    packs: Arc<PackStore>,
    site: SiteHandle,
    tls: Option<Tls>,
    role: &'static str,
    site_stamp: Option<Stamp>,
    damaged_stamp: Option<Stamp>,
    damaged: BTreeSet<BlockId>,
    /// Everything that was served since the start, as long as somebody reads it.
    served: Vec<Weak<Index>>,
    failure: Option<String>,
    pulse: Pulse,
}

impl Follower {
    /// Begins with what is recorded now. `role` is the folder in which it says what it reads.
    pub fn open(
        dir: &Path,
        packs: Arc<PackStore>,
        role: &'static str,
        tls: Option<Tls>,
    ) -> anyhow::Result<Self> {
        let site = SiteHandle::new(Arc::new(Site::new(Vec::new(), packs.clone())?));
        let folder = dir.join(role);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut follower = Self {
            dir: dir.to_owned(),
            packs,
            site,
            tls,
            role,
            site_stamp: None,
            damaged_stamp: None,
            damaged: BTreeSet::new(),
            served: Vec::new(),
            failure: None,
            pulse: Pulse::default(),
        };
        follower.take_damaged()?;
        // A publisher may go on just now.
        for _ in 1..OPEN_TRIES {
            if follower.take_site().is_ok() {
                follower.write_serving()?;
                return Ok(follower);
            }
            std::thread::sleep(INTERVAL);
        }
        follower.take_site()?;
        follower.write_serving()?;
        Ok(follower)
    }

    /// Beats with each look.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// What is served.
    pub fn site(&self) -> SiteHandle {
        self.site.clone()
    }

    fn take_site(&mut self) -> anyhow::Result<bool> {
        let stamp = Stamp::of(&site_path(&self.dir));
        if stamp == self.site_stamp {
            return Ok(false);
        }
        let recorded = SiteFact::read(&self.dir)?;
        let facts = Facts::open(&self.dir)?;
        let known = self.site.load();
        let index = |(channel, number): &ReleaseId| -> anyhow::Result<Arc<Index>> {
            let mut same = known.releases().iter().chain(known.kept());
            match same.find(|index| (&index.channel, &index.number) == (channel, number)) {
                Some(index) => Ok(index.clone()),
                None => Ok(Arc::new(facts.index(channel, *number)?)),
            }
        };
        let releases = recorded.releases.iter().map(index).collect::<anyhow::Result<Vec<_>>>()?;
        let kept = recorded.kept.iter().map(index).collect::<anyhow::Result<Vec<_>>>()?;
        self.served.retain(|index| index.strong_count() > 0);
        self.served.extend(releases.iter().chain(&kept).map(Arc::downgrade));
        // First it is said, so that none of it is given back. Had the publisher gone on before, it would not know.
        self.write_serving()?;
        anyhow::ensure!(
            Stamp::of(&site_path(&self.dir)) == stamp,
            "the publisher goes on too fast; looking again"
        );
        let numbers: Vec<String> =
            releases.iter().map(|index| format!("{} {}", index.channel, index.number)).collect();
        let site = Site::new(releases, self.packs.clone()).context("what was published cannot be served")?;
        self.site.switch(Arc::new(site.keeping(kept).with_apt(recorded.apt)));
        self.site_stamp = stamp;
        tracing::info!(releases = numbers.join(", "), role = self.role, "following what is published");
        Ok(true)
    }

    fn take_damaged(&mut self) -> anyhow::Result<()> {
        let path = self.dir.join("damaged");
        let stamp = Stamp::of(&path);
        if stamp == self.damaged_stamp {
            return Ok(());
        }
        let damaged: BTreeSet<BlockId> = match fact::read(&path)? {
            Some(content) => serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", path.display()))?,
            None => BTreeSet::new(),
        };
        damaged.iter().for_each(|id| self.packs.condemn(*id));
        for mended in self.damaged.difference(&damaged) {
            self.packs.absolve(mended);
        }
        (self.damaged, self.damaged_stamp) = (damaged, stamp);
        Ok(())
    }

    /// Says what is in use.
    fn write_serving(&self) -> anyhow::Result<()> {
        let used = self.served.iter().filter_map(Weak::upgrade);
        let id = |index: Arc<Index>| (index.channel.clone(), index.number);
        let serving = Serving {
            releases: used.map(id).collect(),
            served: self.site.load().releases().iter().cloned().map(id).collect(),
            tls: self.tls.as_ref().map(|tls| tls.status(clock_s())).unwrap_or_default(),
            failure: self.failure.clone(),
            written_ms: clock_ms(),
        };
        Ok(fact::write_lazily(&serving_path(&self.dir, self.role), &serde_json::to_vec(&serving)?)?)
    }

    /// Follows until `stop`.
    pub fn run(mut self, stop: impl Fn() -> bool) {
        let (mut tls_due, mut serving_due) = (Instant::now(), Instant::now());
        while !stop() {
            std::thread::sleep(INTERVAL);
            self.pulse.beat();
            let now = Instant::now();
            // Damage first: a block that came again may be part of what is published now.
            let taken = self.take_damaged().and_then(|()| self.take_site());
            let is_new = *taken.as_ref().unwrap_or(&false);
            let failure = taken.err().map(|error| format!("{error:#}"));
            if failure != self.failure {
                if let Some(why) = &failure {
                    tracing::error!(
                        why,
                        "what the publisher recorded cannot be served; what was served stays"
                    );
                }
                self.failure = failure;
                serving_due = now;
            }
            if let Some(tls) = self.tls.as_mut().filter(|_| now >= tls_due) {
                tls_due = now + TLS_INTERVAL;
                tls.look(clock_s());
            }
            if now >= serving_due || is_new {
                serving_due = now + SERVING_INTERVAL;
                if let Err(error) = self.write_serving() {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "what is in use cannot be told to the publisher"
                    );
                }
            }
        }
    }
}
