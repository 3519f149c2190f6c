//! Files by URL. Each has a digest: one that the configuration gives, or one out of a list that its publisher gives, like
//! `SHA256SUMS`, with the signature over it where there is one. Their version may be open: then it is that of the newest tags
//! of an image.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::release::index::ArtifactKind;
use diodesync::release::name::{ArtifactName, FilePath, Tag};
use diodesync::release::provider::{ProofInput, Sums, split_keys, verify};
use diodesync_control::table::Table;
use tokio::task::JoinSet;

use super::config::parse_path;
use super::fetch::{Downloaded, Request};
use super::oci::pattern::{ImagePattern, Tags, newest};
use super::oci::registry::{Registry, base};
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};

/// What a URL has where the version goes.
const VERSION: &str = "{version}";

/// The files of a source.
#[derive(Debug, Clone)]
pub struct Http {
    files: Vec<FileText>,
    versions: Option<Versions>,
}

/// Where versions come from: the tags of a repository of images, without the `v` at their beginning.
#[derive(Debug, Clone)]
struct Versions {
    of: ImagePattern,
    newest: usize,
}

/// A file as it is configured, in which the version may be open.
#[derive(Debug, Clone)]
struct FileText {
    url: String,
    into: String,
    sha256: Option<Sha256>,
    sums: Option<String>,
    signature: Option<String>,
    key: Option<PathBuf>,
    keeps_sums: bool,
    executable: bool,
}

#[derive(Debug, Clone)]
struct File {
    url: Url,
    name: FilePath,
    executable: bool,
    digest: From,
}

/// Where a digest comes from.
#[derive(Debug, Clone)]
enum From {
    Given(Sha256),
    Sums { url: Url, signature: Option<Signature>, kept_in: Option<String> },
}

/// The signature over a list, and the key that must have made it; without one it is kept for those on the far side.
#[derive(Debug, Clone)]
struct Signature {
    url: Url,
    key: Option<PathBuf>,
}

/// What came of a file.
#[derive(Debug, Default)]
struct Came {
    /// The file, if it was not here.
    file: Option<(FilePath, bool, Downloaded)>,
    /// The list that names it and the signature over that, if they are kept.
    proof: Vec<(FilePath, Vec<u8>)>,
}

impl Pull for Http {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        let of = table.parsed("version_of", str::parse::<ImagePattern>)?;
        let newest = table.number("newest", 1..=1000)?;
        if of.is_none() && newest.is_some() {
            bail!(table.error_at("newest", "newest: of what? It goes with version_of"));
        }
        if of.is_some() && (table.has("token_file") || table.has("user_file")) {
            bail!(table.error_at(
                "version_of",
                "version_of: a credential for the files would go to this registry too; name the versions instead"
            ));
        }
        let versions = of.map(|of| Versions { of, newest: newest.unwrap_or(1) as usize });
        let tables = table.tables("files")?;
        let files = tables.into_iter().map(|file| parse_file(file, versions.is_some()));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        if files.is_empty() {
            bail!(table.error_at(
                "files",
                "files: expected a table for each file, like { url = \"https://…\", sha256 = \"…\" }"
            ));
        }
        let it = Self { files, versions };
        it.of(&it.probe()).map_err(|why| table.error_at("files", format!("files: {why}")))?;
        Ok(it)
    }

    fn homes(&self) -> Vec<Url> {
        let of = |file: File| match file.digest {
            From::Given(_) => vec![file.url],
            From::Sums { url, signature, .. } => {
                [file.url, url].into_iter().chain(signature.map(|it| it.url)).collect()
            }
        };
        let files = self.of(&self.probe()).unwrap_or_default();
        let of_versions = self.versions.iter().filter_map(|it| base(&it.of.repository, false).ok());
        files.into_iter().flat_map(of).chain(of_versions).collect()
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let versions = match &self.versions {
            None => vec![None],
            Some(versions) => versions.ask(job).await?.into_iter().map(Some).collect(),
        };
        let files = self.of(&versions).map_err(anyhow::Error::msg)?;
        job.plan(files.len())?;
        let mut tasks = JoinSet::new();
        for file in files {
            let job = job.clone();
            tasks.spawn(async move {
                let name = ArtifactName::File(file.name.clone());
                file.fetch(&job, &name).await.unwrap_or_else(|error| {
                    job.problem(&name, &error);
                    Came::default()
                })
            });
        }
        let mut items = BTreeMap::new();
        for came in tasks.join_all().await {
            for (name, octets) in came.proof {
                let blob = Sha256::of(&octets);
                let artifact = ArtifactName::File(name.clone());
                if job.present(&artifact) == Some(ArtifactKind::File { blob, executable: false }) {
                    job.unchanged(&artifact);
                } else if !items.contains_key(&name) {
                    let (source, bytes) = (job.keep(&octets)?, octets.len() as u64);
                    items.insert(
                        name.clone(),
                        Item { source, path: name.to_string(), role: Role::Plain, bytes },
                    );
                }
            }
            if let Some((name, executable, it)) = came.file {
                let role = if executable { Role::Executable } else { Role::Plain };
                let item = Item { source: it.path, path: name.to_string(), role, bytes: it.bytes };
                items.insert(name, item);
            }
        }
        if items.is_empty() {
            return Ok(());
        }
        let names: Vec<ArtifactName> = items.keys().cloned().map(ArtifactName::File).collect();
        job.submit(What::Files, items.into_values().collect(), &names).await?;
        Ok(())
    }
}

impl Http {
    /// A version to try the settings with.
    fn probe(&self) -> [Option<String>; 1] {
        [self.versions.as_ref().map(|_| "0.0.0".to_owned())]
    }

    /// The files of these versions.
    fn of(&self, versions: &[Option<String>]) -> Result<Vec<File>, String> {
        let mut files: BTreeMap<FilePath, File> = BTreeMap::new();
        for version in versions {
            for text in &self.files {
                let file = text.file(version.as_deref()).map_err(|(_, why)| why)?;
                let (name, url) = (file.name.clone(), file.url.clone());
                if let Some(other) = files.insert(name.clone(), file) {
                    return Err(format!("{} and {url} would both be {name}", other.url));
                }
            }
        }
        Ok(files.into_values().collect())
    }
}

impl Versions {
    /// The newest versions that are meant.
    async fn ask(&self, job: &Job) -> anyhow::Result<Vec<String>> {
        let tags = match &self.of.tags {
            Tags::One(tag, _) => vec![tag.clone()],
            Tags::Pattern(pattern) => {
                job.say(format!("the tags of {}", self.of.repository));
                let registry = Registry::new(job.fetch.clone(), self.of.repository.clone(), false)?;
                let listed = registry.tags().await?;
                newest(pattern, listed.iter(), self.newest)
            }
        };
        if tags.is_empty() {
            bail!("no tag of {} matches, so no version is known; look at version_of", self.of);
        }
        let version = |tag: Tag| tag.as_str().strip_prefix('v').unwrap_or(tag.as_str()).to_owned();
        Ok(tags.into_iter().map(version).collect())
    }
}

fn parse_file(mut table: Table<'_>, has_version: bool) -> anyhow::Result<FileText> {
    let any = |text: &str| Ok::<_, String>(text.to_owned());
    let file = FileText {
        url: table.required("url", any)?,
        into: table.parsed("into", any)?.unwrap_or_default(),
        sha256: table.parsed("sha256", |text| text.to_ascii_lowercase().parse::<Sha256>())?,
        sums: table.parsed("sums", any)?,
        signature: table.parsed("signature", any)?,
        key: table.parsed("key_file", parse_path)?,
        keeps_sums: table.flag("keep_sums", false)?,
        executable: table.flag("executable", false)?,
    };
    let has_open = file.url.contains(VERSION);
    if has_version != has_open {
        bail!(table.error_at("url", "url: {version} in it and version_of of the source go together"));
    }
    file.file(has_version.then_some("0.0.0")).map_err(|(key, why)| table.error_at(key, why))?;
    table.finish("a file of a source")?;
    Ok(file)
}

impl FileText {
    /// The file of a version.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    fn file(&self, version: Option<&str>) -> Result<File, (&'static str, String)> {
        let fill = |text: &str| version.map_or(text.to_owned(), |version| text.replace(VERSION, version));
        let url = Url::parse(&fill(&self.url)).map_err(|error| ("url", format!("url: {error}")))?;
        let into = fill(&self.into);
        let path =
            if into.is_empty() || into.ends_with('/') { format!("{into}{}", url.file_name()) } else { into };
        let name = path.parse::<FilePath>().map_err(|error| ("into", format!("into: {error}")))?;
        let join = |key: &'static str, text: &Option<String>| {
            let joined = text.as_ref().map(|text| url.join(&fill(text))).transpose();
            joined.map_err(|error| (key, format!("{key}: {error}")))
        };
        let (sums, signature) = (join("sums", &self.sums)?, join("signature", &self.signature)?);
        let digest = match (self.sha256, sums) {
            (Some(digest), None) if !self.keeps_sums => From::Given(digest),
            (None, Some(sums)) => {
                let signature = match (signature, &self.key) {
                    (Some(url), key) if key.is_some() || self.keeps_sums => {
                        Some(Signature { url, key: key.clone() })
                    }
                    (None, None) => None,
                    _ => return Err(("sums", "signature and key_file belong together".to_owned())),
                };
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let kept_in = self.keeps_sums.then(|| folder.to_owned());
                From::Sums { url: sums, signature, kept_in }
            }
            _ => {
                let why = "a file needs one of sha256, its digest, and sums, the URL of a list that names it";
                return Err(("url", why.to_owned()));
            }
        };
        Ok(File { url, name, executable: self.executable, digest })
    }
}

impl File {
    /// Downloads it, if it is not here.
    async fn fetch(&self, job: &Job, name: &ArtifactName) -> anyhow::Result<Came> {
        let (digest, proof) = self.digest(job).await?;
        if job.present(name) == Some(ArtifactKind::File { blob: digest, executable: self.executable }) {
            job.unchanged(name);
            return Ok(Came { file: None, proof });
        }
        job.say(name.to_string());
        let request = Request::get(self.url.clone()).authorized(job.fetch.authorization());
        let it = job.download(request, Some(digest), None).await?;
        Ok(Came { file: Some((self.name.clone(), self.executable, it)), proof })
    }

    /// The digest that it must have, and what is kept of that which says so.
    async fn digest(&self, job: &Job) -> anyhow::Result<(Sha256, Vec<(FilePath, Vec<u8>)>)> {
        let (url, signature, kept_in) = match &self.digest {
            From::Given(digest) => return Ok((*digest, Vec::new())),
            From::Sums { url, signature, kept_in } => (url, signature, kept_in),
        };
        let list = self.get(job, url).await?;
        // A list of one may hold the digest alone.
        let alone =
            std::str::from_utf8(&list).ok().and_then(|text| text.trim().to_ascii_lowercase().parse().ok());
        if let (Some(digest), None, None) = (alone, signature, kept_in) {
            return Ok((digest, Vec::new()));
        }
        let file_name = self.url.file_name();
        let found = Sums::parse(&list).with_context(|| url.to_string())?.get(file_name);
        let digest = found.with_context(|| format!("{url} does not name {file_name}"))?;
        let mut proof = Vec::new();
        let mut keep = |url: &Url, octets: Vec<u8>| -> anyhow::Result<()> {
            let Some(folder) = kept_in else { return Ok(()) };
            let path = [folder.as_str(), url.file_name()].join("/");
            proof.push((path.trim_start_matches('/').parse()?, octets));
            Ok(())
        };
        if let Some(Signature { url, key }) = signature {
            let octets = self.get(job, url).await?;
            if let Some(key) = key {
                let keys = std::fs::read(key).with_context(|| format!("cannot read {}", key.display()))?;
                let keys = split_keys(&keys).with_context(|| format!("in {}", key.display()))?;
                let input = ProofInput { sums: &list, signature: &octets, keys: &keys };
                verify(&input, &[(file_name.to_owned(), digest)])?;
            }
            keep(url, octets)?;
        }
        keep(url, list)?;
        Ok((digest, proof))
    }

    /// A list or its signature. The credential is for the host of the file.
    async fn get(&self, job: &Job, url: &Url) -> anyhow::Result<Vec<u8>> {
        let authorization = job.fetch.authorization().filter(|_| url.origin() == self.url.origin());
        let request = Request::get(url.clone()).authorized(authorization);
        Ok(job.fetch.body(&request, PROOF_BYTES_MAX).await?.to_vec())
    }
}
