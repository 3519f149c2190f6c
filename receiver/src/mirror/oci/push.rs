//! One run of a push: what is published is compared with what the registry has, and what it lacks is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::MANIFEST_BYTES_MAX;
use diodesync::release::Tag;
use serde::{Deserialize, Serialize};

use super::error::PushError;
use super::fallback::merge;
use super::http::Http;
use super::plan::{Piece, Plan, Repository, fallback_of};
use super::registry::{Begun, Registry};
use crate::mirror::config::OciConfig;
use crate::serve::Site;

/// Octets of a part of a blob, after which its upload can be taken up.
const PART_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// Times that one blob's upload is begun anew in one run.
const UPLOADS_MAX: u32 = 3;

/// What is remembered from run to run, over restarts too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Tags that were pushed from here, `REPOSITORY:TAG`, and what they stand for.
    pub tags: BTreeMap<String, Sha256>,
    /// The upload that is under way.
    pub upload: Option<Upload>,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    repository: String,
    digest: Sha256,
    location: String,
}

/// What a run tells of while it goes on.
pub trait Reporter {
    /// What is being done.
    fn doing(&mut self, what: String);
    /// Octets that were sent.
    fn sent(&mut self, bytes: u64);
    /// Keeps what is to be remembered.
    fn remember(&mut self, memory: &Memory) -> anyhow::Result<()>;
    /// Whether something newer is published.
    fn is_superseded(&self) -> bool;
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Tags that the registry holds as published.
    pub artifacts: u64,
    /// What an operator may want to know.
    pub notes: Vec<String>,
}

/// Pushes what is published.
///
/// # Errors
/// Why the registry does not hold it. What was pushed stays, and the next run goes on from there.
pub async fn push(
    config: &OciConfig,
    site: &Arc<Site>,
    memory: Memory,
    reporter: &mut (dyn Reporter + Send),
) -> Result<Outcome, PushError> {
    let http = Http::open(config)?;
    let (map, planned) = (config.map.clone(), site.clone());
    let plan = tokio::task::spawn_blocking(move || Plan::of(&planned, &map)).await;
    let plan = plan.map_err(|error| PushError::Here(error.to_string()))?.map_err(PushError::Here)?;
    let registry = Registry::new(http, config.registry.to_string());
    let mut run = Run {
        config,
        site,
        registry,
        memory,
        reporter,
        found: HashMap::new(),
        hints: &plan.hints,
        lists_referrers: None,
    };
    let mut outcome = run.all(&plan).await?;
    outcome
        .notes
        .extend(plan.unmapped.iter().map(|name| format!("{name} fits no pattern of map and is not pushed")));
    Ok(outcome)
}

struct Run<'a> {
    config: &'a OciConfig,
    site: &'a Arc<Site>,
    registry: Registry,
    memory: Memory,
    reporter: &'a mut (dyn Reporter + Send),
    /// Blobs that are known to be in a repository.
    found: HashMap<Sha256, BTreeSet<String>>,
    /// Repositories that may have them.
    hints: &'a BTreeMap<Sha256, String>,
    lists_referrers: Option<bool>,
}

impl Run<'_> {
    async fn all(&mut self, plan: &Plan) -> Result<Outcome, PushError> {
        // First everything is looked for, so that it is known what can be mounted from where.
        let mut missing: BTreeMap<&str, BTreeSet<Sha256>> = BTreeMap::new();
        for (name, repository) in &plan.repositories {
            self.go_on(format!("comparing {name}"))?;
            let mut lacking = BTreeSet::new();
            for piece in &repository.manifests {
                let reference = format!("sha256:{}", piece.digest);
                if self.registry.manifest_digest(name, &reference).await? == Some(piece.digest) {
                    piece.blobs.iter().for_each(|blob| self.note(blob, name));
                } else {
                    lacking.insert(piece.digest);
                }
            }
            missing.insert(name, lacking);
        }
        let (mut outcome, mut failures) = (Outcome::default(), Vec::new());
        for (name, repository) in &plan.repositories {
            let lacking = missing.remove(name.as_str()).unwrap_or_default();
            outcome.artifacts += self.push_repository(name, repository, &lacking, &mut failures).await?;
        }
        if let Some(first) = failures.first() {
            let more = match failures.len() {
                1 => String::new(),
                many => format!(" (and {} more that are not taken)", many - 1),
            };
            return Err(PushError::Here(format!("{first}{more}")));
        }
        self.take_away_gone(plan, &mut outcome).await?;
        Ok(outcome)
    }

    /// What of a repository is lacking, and its tags. What the registry does not take of one image is no reason to keep the
    /// others from it. Returns the tags that are there.
    async fn push_repository(
        &mut self,
        name: &str,
        repository: &Repository,
        lacking: &BTreeSet<Sha256>,
        failures: &mut Vec<PushError>,
    ) -> Result<u64, PushError> {
        let (mut tags, mut refused) = (0, BTreeSet::new());
        for piece in &repository.manifests {
            // An index is as good as what it names: a tag must not be moved onto half an image, even if the registry holds
            // the index from before.
            if piece.children.iter().any(|child| refused.contains(child)) {
                refused.insert(piece.digest);
                continue;
            }
            if !lacking.contains(&piece.digest) {
                continue;
            }
            match self.push_piece(name, piece).await {
                Err(error) if error.is_of_one_image() => {
                    failures.push(error);
                    refused.insert(piece.digest);
                }
                pushed => pushed?,
            }
        }
        self.push_referrers(name, repository).await?;
        // Signatures before what they sign: whoever sees the image's tag finds them.
        let (accessories, plain): (Vec<_>, Vec<_>) =
            repository.tags.iter().partition(|(tag, _)| tag.as_str().starts_with("sha256-"));
        for (tag, digest) in accessories.into_iter().chain(plain) {
            if refused.contains(digest) {
                continue;
            }
            match self.push_tag(name, repository, tag, digest).await {
                Err(error) if error.is_of_one_image() => failures.push(error),
                pushed => {
                    pushed?;
                    tags += 1;
                }
            }
        }
        Ok(tags)
    }

    fn go_on(&mut self, doing: String) -> Result<(), PushError> {
        self.reporter.doing(doing);
        if self.reporter.is_superseded() { Err(PushError::Superseded) } else { Ok(()) }
    }

    fn note(&mut self, blob: &Sha256, repository: &str) {
        self.found.entry(*blob).or_default().insert(repository.to_owned());
    }

    fn remember(&mut self) -> Result<(), PushError> {
        self.reporter.remember(&self.memory).map_err(|error| PushError::Here(format!("{error:#}")))
    }

    async fn octets(&self, digest: Sha256) -> Result<Bytes, PushError> {
        let site = self.site.clone();
        let read = tokio::task::spawn_blocking(move || site.read_whole(&digest, MANIFEST_BYTES_MAX)).await;
        let octets = read.map_err(|error| PushError::Here(error.to_string()))?;
        let octets = octets.map_err(|error| PushError::Here(error.to_string()))?;
        if Sha256::of(&octets) != digest {
            return Err(PushError::Here(format!(
                "manifest sha256:{digest} is damaged; run diode-receiver verify"
            )));
        }
        Ok(octets.into())
    }

    /// A manifest with what it names.
    async fn push_piece(&mut self, name: &str, piece: &Piece) -> Result<(), PushError> {
        for blob in &piece.blobs {
            self.push_blob(name, blob).await?;
        }
        self.go_on(format!("pushing manifest sha256:{} to {name}", piece.digest))?;
        let octets = self.octets(piece.digest).await?;
        self.reporter.sent(octets.len() as u64);
        let reference = format!("sha256:{}", piece.digest);
        match self.registry.put_manifest(name, &reference, &piece.media_type, octets).await {
            Err(PushError::Status { what, host, status: status @ (400 | 404 | 422), .. })
                if piece.is_partial =>
            {
                Err(PushError::Partial { what, host, status })
            }
            put => put,
        }
    }

    async fn push_blob(&mut self, name: &str, digest: &Sha256) -> Result<(), PushError> {
        if self.found.get(digest).is_some_and(|repositories| repositories.contains(name)) {
            return Ok(());
        }
        self.go_on(format!("pushing blob sha256:{digest} to {name}"))?;
        if !self.registry.has_blob(name, digest).await? {
            let Some(bytes) = self.site.blob(digest).map(|blob| blob.bytes) else {
                return Err(PushError::Here(format!(
                    "blob sha256:{digest} is listed by no release that is published"
                )));
            };
            if let Some(block) = self.site.damage(digest) {
                return Err(PushError::Here(format!(
                    "blob sha256:{digest} lies in block {block}, which is damaged; see: diode-receiver missing"
                )));
            }
            let mut tries = 0;
            while !self.upload(name, digest, bytes).await? {
                tries += 1;
                if tries == UPLOADS_MAX {
                    return Err(PushError::Here(format!(
                        "{} does not take blob sha256:{digest} ({bytes} octets) for {name}, whose upload was begun {tries} \
                         times: it says each time that it is something else",
                        self.config.registry
                    )));
                }
            }
        }
        self.note(digest, name);
        Ok(())
    }

    /// False if it has to begin anew.
    async fn upload(&mut self, name: &str, digest: &Sha256, bytes: u64) -> Result<bool, PushError> {
        let Some((mut held, mut location)) = self.take_up(name, digest, bytes).await? else {
            return Ok(true);
        };
        let site = self.site.clone();
        // The last part goes with the end; a small blob is one part.
        while bytes.saturating_sub(held) > PART_BYTES {
            self.go_on(format!("pushing blob sha256:{digest} to {name}, octet {held} of {bytes}"))?;
            let part = held..held + PART_BYTES;
            let (now, next) = self.registry.send_part(name, &location, (&site, *digest), part).await?;
            if now <= held || now > bytes {
                self.memory.upload = None;
                self.remember()?;
                return Ok(false);
            }
            self.reporter.sent(now - held);
            (held, location) = (now, next);
            // From here it can be taken up.
            self.memory.upload =
                Some(Upload { repository: name.to_owned(), digest: *digest, location: location.clone() });
            self.remember()?;
        }
        let is_taken = self.registry.end(name, &location, (&site, *digest), held..bytes).await?;
        if self.memory.upload.take().is_some() {
            self.remember()?;
        }
        if is_taken {
            self.reporter.sent(bytes.saturating_sub(held));
        }
        Ok(is_taken)
    }

    /// Where an upload goes on, or begins; `None` if the registry has the blob already.
    async fn take_up(
        &mut self,
        name: &str,
        digest: &Sha256,
        bytes: u64,
    ) -> Result<Option<(u64, String)>, PushError> {
        let known = self.memory.upload.clone();
        if let Some(known) = known.filter(|known| known.repository == name && known.digest == *digest) {
            let progress = match self.registry.progress(name, &known.location).await {
                // One that fails over an old upload must not fail over it for ever.
                Err(PushError::Status { .. }) => None,
                progress => progress?,
            };
            if let Some((held, location)) = progress.filter(|(held, _)| (1..=bytes).contains(held)) {
                tracing::info!(%digest, repository = name, held, bytes, "an upload that broke off is taken up");
                return Ok(Some((held, location)));
            }
        }
        let from = self.found.get(digest).and_then(|repositories| repositories.first());
        // One that has it not after all costs nothing: the upload begins with the same request.
        let from = from.or_else(|| self.hints.get(digest).filter(|hint| *hint != name)).cloned();
        match self.registry.begin(name, digest, from.as_deref()).await? {
            Begun::Mounted => Ok(None),
            Begun::At(location) => Ok(Some((0, location))),
        }
    }

    /// Lists what refers to manifests, where the registry does not do it by itself.
    async fn push_referrers(&mut self, name: &str, repository: &Repository) -> Result<(), PushError> {
        let mut referrers = repository.referrers();
        let lists: BTreeMap<Sha256, Sha256> =
            repository.tags.iter().filter_map(|(tag, list)| Some((fallback_of(tag)?, *list))).collect();
        for subject in lists.keys() {
            referrers.entry(*subject).or_default();
        }
        for (subject, wanted) in &referrers {
            if self.does_list_referrers(name, subject).await? {
                return Ok(());
            }
            let tag = format!("sha256-{subject}");
            self.go_on(format!("listing what refers to sha256:{subject} in {name}"))?;
            let current = self.registry.manifest(name, &tag).await?;
            let published = match lists.get(subject) {
                Some(list) => Some(self.octets(*list).await?),
                None => None,
            };
            let merged = merge(current.as_deref(), published.as_deref(), wanted)
                .map_err(|why| PushError::Here(format!("{name}:{tag}: {why}")))?;
            if let Some(octets) = merged {
                let octets = Bytes::from(octets);
                let digest = Sha256::of(&octets);
                // What was the upstream's own is pushed with its own type.
                let is_upstream = lists.get(subject) == Some(&digest);
                let own = repository.manifests.iter().find(|piece| is_upstream && piece.digest == digest);
                let media_type = own.map_or(INDEX, |piece| piece.media_type.as_str());
                self.registry.put_manifest(name, &tag, media_type, octets).await?;
            }
        }
        Ok(())
    }

    async fn does_list_referrers(&mut self, name: &str, subject: &Sha256) -> Result<bool, PushError> {
        if let Some(known) = self.lists_referrers {
            return Ok(known);
        }
        let found = self.registry.has_referrers_api(name, subject).await?;
        self.lists_referrers = Some(found);
        Ok(found)
    }

    async fn push_tag(
        &mut self,
        name: &str,
        repository: &Repository,
        tag: &Tag,
        digest: &Sha256,
    ) -> Result<(), PushError> {
        // Where the registry lists no referrers, this one is more than the upstream's.
        if fallback_of(tag).is_some() && self.lists_referrers == Some(false) {
            return Ok(());
        }
        let full = format!("{name}:{tag}");
        if self.registry.manifest_digest(name, tag.as_str()).await? != Some(*digest) {
            self.go_on(format!("pushing tag {full}"))?;
            let Some(piece) = repository.manifests.iter().find(|piece| piece.digest == *digest) else {
                return Err(PushError::Here(format!("{full} names a manifest that is not its own")));
            };
            let octets = self.octets(*digest).await?;
            self.registry.put_manifest(name, tag.as_str(), &piece.media_type, octets).await?;
            tracing::info!(registry = %self.config.registry, tag = full, %digest, "pushed");
        }
        if self.memory.tags.insert(full, *digest) != Some(*digest) {
            self.remember()?;
        }
        Ok(())
    }

    /// Tags that were pushed from here and are not published any more.
    async fn take_away_gone(&mut self, plan: &Plan, outcome: &mut Outcome) -> Result<(), PushError> {
        let is_wanted = |full: &str| {
            let (name, tag) = full.rsplit_once(':')?;
            let tag: Tag = tag.parse().ok()?;
            plan.repositories.get(name)?.tags.get(&tag)
        };
        let gone: Vec<(String, Sha256)> = self
            .memory
            .tags
            .iter()
            .filter(|(full, _)| is_wanted(full).is_none())
            .map(|(full, digest)| (full.clone(), *digest))
            .collect();
        for (full, digest) in gone {
            if !self.config.deletes_gone {
                outcome.notes.push(format!("{full} is not published any more and stays (gone = \"keep\")"));
                continue;
            }
            self.go_on(format!("deleting {full}"))?;
            match self.delete(plan, &full, &digest).await? {
                None => {
                    tracing::info!(registry = %self.config.registry, tag = full, "not published any more, deleted");
                    self.memory.tags.remove(&full);
                    self.remember()?;
                }
                Some(why) => outcome.notes.push(format!("{full} is not published any more and stays: {why}")),
            }
        }
        Ok(())
    }

    /// Deletes a tag; says why it stays, if it does.
    async fn delete(
        &mut self,
        plan: &Plan,
        full: &str,
        digest: &Sha256,
    ) -> Result<Option<String>, PushError> {
        let Some((name, tag)) = full.rsplit_once(':') else { return Ok(None) };
        match self.registry.manifest_digest(name, tag).await? {
            None => return Ok(None),
            Some(found) if found != *digest => {
                return Ok(Some(format!("somebody else has made it sha256:{found}")));
            }
            Some(_) => {}
        }
        // Not every registry deletes a tag alone, and some say that they have and have not.
        match self.registry.delete(name, tag).await {
            Ok(true) if self.registry.manifest_digest(name, tag).await?.is_none() => return Ok(None),
            Ok(_) | Err(PushError::Status { .. }) => {}
            Err(error) => return Err(error),
        }
        if plan.repositories.get(name).is_some_and(|repository| repository.has(digest)) {
            return Ok(Some("its manifest is published under another name".to_owned()));
        }
        match self.registry.tags_of(name, digest).await? {
            Some(tags) if tags == [tag] => {}
            Some(tags) => {
                let others: Vec<_> = tags.into_iter().filter(|other| other != tag).collect();
                return Ok(Some(format!(
                    "the registry deletes no tag alone, and it is also {}",
                    others.join(", ")
                )));
            }
            None => {
                return Ok(Some("the registry deletes no tag alone, and does not list its tags".to_owned()));
            }
        }
        match self.registry.delete(name, &format!("sha256:{digest}")).await? {
            true => Ok(None),
            false => Ok(Some("the registry does not take deletions".to_owned())),
        }
    }
}

/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
