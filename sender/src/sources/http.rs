//! Files by URL. Each has a digest: one that the configuration gives, or one out of a list that its publisher gives, like
//! `SHA256SUMS`, with the signature over it where there is one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::release::index::ArtifactKind;
use diodesync::release::name::{ArtifactName, FilePath};
use diodesync::release::provider::{ProofInput, Sums, split_keys, verify};
use diodesync_control::table::Table;
use tokio::task::JoinSet;

use super::config::parse_path;
use super::fetch::{Downloaded, Request};
use super::url::Url;
use super::{Job, Pull};
use crate::submit::{Item, Role, What};

/// The files of a source.
#[derive(Debug, Clone)]
pub struct Http {
    files: Vec<File>,
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
    Sums { url: Url, signature: Option<(Url, PathBuf)> },
}

impl Pull for Http {
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self> {
        let files = table.tables("files")?.into_iter().map(parse_file).collect::<Result<Vec<_>, _>>()?;
        if files.is_empty() {
            bail!(table.error_at(
                "files",
                "files: expected a table for each file, like { url = \"https://…\", sha256 = \"…\" }"
            ));
        }
        let mut names = BTreeMap::new();
        for file in &files {
            if let Some(other) = names.insert(file.name.clone(), &file.url) {
                bail!(table.error_at(
                    "files",
                    format!("files: {other} and {} would both be {}", file.url, file.name)
                ));
            }
        }
        Ok(Self { files })
    }

    fn homes(&self) -> Vec<Url> {
        let of = |file: &File| match &file.digest {
            From::Given(_) => vec![file.url.clone()],
            From::Sums { url, signature } => {
                let signature = signature.iter().map(|(url, _)| url.clone());
                [file.url.clone(), url.clone()].into_iter().chain(signature).collect()
            }
        };
        self.files.iter().flat_map(of).collect()
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        job.plan(self.files.len())?;
        let mut tasks = JoinSet::new();
        for file in &self.files {
            let (file, job) = (file.clone(), job.clone());
            tasks.spawn(async move {
                let name = ArtifactName::File(file.name.clone());
                match file.fetch(&job, &name).await {
                    Ok(Some(downloaded)) => Some((file, downloaded)),
                    Ok(None) => None,
                    Err(error) => {
                        job.problem(&name, &error);
                        None
                    }
                }
            });
        }
        let came: Vec<(File, Downloaded)> = tasks.join_all().await.into_iter().flatten().collect();
        if came.is_empty() {
            return Ok(());
        }
        let names: Vec<ArtifactName> =
            came.iter().map(|(file, _)| ArtifactName::File(file.name.clone())).collect();
        let item = |(file, downloaded): (File, Downloaded)| Item {
            source: downloaded.path,
            path: file.name.to_string(),
            role: if file.executable { Role::Executable } else { Role::Plain },
            bytes: downloaded.bytes,
        };
        job.submit(What::Files, came.into_iter().map(item).collect(), &names).await?;
        Ok(())
    }
}

fn parse_file(mut table: Table<'_>) -> anyhow::Result<File> {
    let url = table.required("url", Url::parse)?;
    let into = table.parsed("into", |text| Ok::<_, String>(text.to_owned()))?.unwrap_or_default();
    let path =
        if into.is_empty() || into.ends_with('/') { format!("{into}{}", url.file_name()) } else { into };
    let name = path.parse::<FilePath>().map_err(|error| table.error_at("into", format!("into: {error}")))?;
    let given = table.parsed("sha256", |text| text.to_ascii_lowercase().parse::<Sha256>())?;
    let sums = table.parsed("sums", |text| url.join(text))?;
    let signature = table.parsed("signature", |text| url.join(text))?;
    let key = table.parsed("key_file", parse_path)?;
    let digest = match (given, sums) {
        (Some(digest), None) => From::Given(digest),
        (None, Some(sums)) => match (signature, key) {
            (Some(signature), Some(key)) => From::Sums { url: sums, signature: Some((signature, key)) },
            (None, None) => From::Sums { url: sums, signature: None },
            _ => bail!(table.error_at("sums", "signature and key_file belong together")),
        },
        _ => bail!(table.error_at(
            "url",
            "a file needs one of sha256, its digest, and sums, the URL of a list that names it"
        )),
    };
    let executable = table.flag("executable", false)?;
    table.finish("a file of a source")?;
    Ok(File { url, name, executable, digest })
}

impl File {
    /// Downloads it, if it is not here.
    async fn fetch(&self, job: &Job, name: &ArtifactName) -> anyhow::Result<Option<Downloaded>> {
        let digest = self.digest(job).await?;
        if job.present(name) == Some(ArtifactKind::File { blob: digest, executable: self.executable }) {
            job.unchanged(name);
            return Ok(None);
        }
        job.say(name.to_string());
        let request = Request::get(self.url.clone()).authorized(job.fetch.authorization());
        Ok(Some(job.download(request, Some(digest), None).await?))
    }

    /// The digest that it must have.
    async fn digest(&self, job: &Job) -> anyhow::Result<Sha256> {
        let (url, signature) = match &self.digest {
            From::Given(digest) => return Ok(*digest),
            From::Sums { url, signature } => (url, signature),
        };
        let list = self.get(job, url).await?;
        // A list of one may hold the digest alone.
        let alone =
            std::str::from_utf8(&list).ok().and_then(|text| text.trim().to_ascii_lowercase().parse().ok());
        if let (Some(digest), None) = (alone, signature) {
            return Ok(digest);
        }
        let file_name = self.url.file_name();
        let found = Sums::parse(&list).with_context(|| url.to_string())?.get(file_name);
        let digest = found.with_context(|| format!("{url} does not name {file_name}"))?;
        if let Some((signature, key)) = signature {
            let keys = std::fs::read(key).with_context(|| format!("cannot read {}", key.display()))?;
            let keys = split_keys(&keys).with_context(|| format!("in {}", key.display()))?;
            let input = ProofInput { sums: &list, signature: &self.get(job, signature).await?, keys: &keys };
            verify(&input, &[(file_name.to_owned(), digest)])?;
        }
        Ok(digest)
    }

    /// A list or its signature. The credential is for the host of the file.
    async fn get(&self, job: &Job, url: &Url) -> anyhow::Result<Vec<u8>> {
        let authorization = job.fetch.authorization().filter(|_| url.origin() == self.url.origin());
        let request = Request::get(url.clone()).authorized(authorization);
        Ok(job.fetch.body(&request, PROOF_BYTES_MAX).await?.to_vec())
    }
}
