//! Every artifact that is here or on its way: what it is, its digests, the upstream's proof, where it stands, and which of the
//! site's mirrors hold it.

use std::collections::BTreeSet;
use std::sync::Arc;

use diodesync::id::{Channel, ReleaseNo};
use diodesync::release::{Artifact, ArtifactKind, ArtifactName, Index};
use serde::Serialize;

use super::mirrors::{Held, held};
use crate::api::Daemon;
use crate::mirror::MirrorStatus;
use crate::publish::Stage;

/// Artifacts of a page.
const PAGE: usize = 50;
/// Digests that are named of one artifact.
const DIGESTS_MAX: usize = 32;
/// Characters of a digest that are enough to look for it.
const DIGEST_CHARS_MIN: usize = 6;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// What the name or a digest contains, whatever its case.
    pub text: String,
    /// file, provider, image, package or module; empty for all.
    pub kind: String,
    /// The page, from 1.
    pub page: usize,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Found {
    /// How many there are.
    pub total: usize,
    /// The page, from 1.
    pub page: usize,
    /// Pages.
    pub pages: usize,
    /// Those of the page.
    pub artifacts: Vec<Entry>,
}

/// An artifact.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Like `file`.
    pub kind: String,
    /// Its name, without the kind.
    pub name: String,
    /// Octets of what it is made of.
    pub bytes: u64,
    /// Its parts' digests.
    pub digests: Vec<Digest>,
    /// What its upstream says of it.
    pub proof: String,
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub release: ReleaseNo,
    /// published, damaged, or the state of the release that is on its way.
    pub state: &'static str,
    /// The site's mirrors that are to hold it, once it is published.
    pub mirrors: Vec<Held>,
}

/// A digest of a part.
#[derive(Debug, Serialize)]
pub struct Digest {
    /// The part.
    pub of: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Looks through everything that is published or on its way. `mirrors` are as they stand. May take a while.
pub fn search(daemon: &Daemon, mirrors: &[MirrorStatus], search: &Search) -> Found {
    let (site, publish) = (daemon.site.load(), daemon.publish.view());
    let mut releases: Vec<(Arc<Index>, &'static str, BTreeSet<String>)> = Vec::new();
    for index in site.releases() {
        let is_it = |of: (&Channel, ReleaseNo)| of == (&index.channel, index.number);
        let damaged = publish.damaged.iter().filter(|damaged| is_it((&damaged.channel, damaged.number)));
        let names = damaged.flat_map(|damaged| damaged.lacking.artifacts.iter().cloned());
        releases.push((index.clone(), "published", names.collect()));
    }
    for arrival in &publish.arrivals {
        releases.push((arrival.index.clone(), stage_word(&arrival.stage), BTreeSet::new()));
    }
    let text = search.text.trim().to_lowercase();
    let (mut total, mut artifacts) = (0, Vec::new());
    let page = search.page.max(1);
    let first = (page - 1).saturating_mul(PAGE);
    for (index, state, damaged) in &releases {
        for (name, kind) in &index.artifacts {
            // It begins with its kind.
            let shown = name.to_string();
            if !shown.starts_with(&search.kind) {
                continue;
            }
            if !text.is_empty() && !shown.to_lowercase().contains(&text) && !has_digest(kind, &text) {
                continue;
            }
            if total >= first && artifacts.len() < PAGE {
                let state = if damaged.contains(&shown) { "damaged" } else { *state };
                let mut entry = entry(index, name, kind, &shown, state);
                if matches!(state, "published" | "damaged") {
                    let release = (index.channel.clone(), index.number);
                    entry.mirrors = held(&daemon.config.mirrors, mirrors, name, &release);
                }
                artifacts.push(entry);
            }
            total += 1;
        }
    }
    Found { total, page, pages: total.div_ceil(PAGE), artifacts }
}

/// The word for a stage, as `status` has it.
fn stage_word(stage: &Stage) -> &'static str {
    match stage {
        Stage::Arriving => "arriving",
        Stage::Incomplete => "incomplete",
        Stage::NoSpace(_) => "no-space",
        Stage::Checking => "checking",
        Stage::Scanning(_) => "scanning",
        Stage::Unscanned(_) => "unscanned",
        Stage::Held(_) => "held",
        Stage::Refused(_) => "refused",
    }
}

fn has_digest(kind: &ArtifactKind, text: &str) -> bool {
    let text = text.trim_start_matches("sha256:");
    text.len() >= DIGEST_CHARS_MIN && digests(kind).iter().any(|digest| digest.sha256.contains(text))
}

fn digests(kind: &ArtifactKind) -> Vec<Digest> {
    let digest =
        |of: &str, sha256: &dyn std::fmt::Display| Digest { of: of.to_owned(), sha256: sha256.to_string() };
    match kind {
        ArtifactKind::File { blob, .. } => vec![digest("content", blob)],
        ArtifactKind::Provider(provider) => {
            let archives = provider.archives.iter().take(DIGESTS_MAX);
            archives.map(|(platform, archive)| digest(&platform.to_string(), &archive.blob)).collect()
        }
        ArtifactKind::Image(image) => vec![digest("manifest", &image.manifest)],
        ArtifactKind::Package(package) => vec![digest("deb", &package.deb)],
        ArtifactKind::Module(module) => vec![digest("archive", &module.archive)],
    }
}

fn proof(kind: &ArtifactKind) -> String {
    match kind {
        ArtifactKind::Provider(provider) => match &provider.proof {
            Some(proof) => {
                let keys: Vec<&str> = proof.keys.keys().map(String::as_str).collect();
                format!("signed SHA256SUMS, checked here; key {}", keys.join(", "))
            }
            None => "none came with it: for the network mirror only".to_owned(),
        },
        ArtifactKind::Image(image) => {
            let more = image.manifests.len().saturating_sub(1);
            let without = image.omitted.len();
            format!(
                "named by its digest; {more} further manifests with it, {without} of other platforms left out"
            )
        }
        ArtifactKind::File { .. } => "none: a plain file".to_owned(),
        ArtifactKind::Package(package) => match &package.proof {
            Some(_) => "its archive's signed InRelease, checked here".to_owned(),
            None => "none: submitted by hand".to_owned(),
        },
        ArtifactKind::Module(_) => {
            "none: registries give none for modules; its archive was looked into".to_owned()
        }
    }
}

fn entry(index: &Index, name: &ArtifactName, kind: &ArtifactKind, shown: &str, state: &'static str) -> Entry {
    let artifact = Artifact { name: name.clone(), kind: kind.clone() };
    let bytes =
        artifact.blobs().iter().filter_map(|digest| index.blobs.get(digest)).map(|blob| blob.bytes).sum();
    let (word, rest) = shown.split_once(' ').unwrap_or(("", shown));
    Entry {
        kind: word.to_owned(),
        name: rest.to_owned(),
        bytes,
        digests: digests(kind),
        proof: proof(kind),
        channel: index.channel.clone(),
        release: index.number,
        state,
        mirrors: Vec::new(),
    }
}
