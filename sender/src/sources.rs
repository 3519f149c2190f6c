//! Sources: what is pulled from upstreams, by the clock or by hand.
//!
//! ```text
//! [[source]] ──► Source ──► pull (one module for each kind) ──► the ingest of submit ──► staged ──► release
//!                            │ Fetcher: bounds, retries, resumed downloads
//!                            └ Job: what is here already, what came, what was refused and why
//! ```
//!
//! | module | what it rules |
//! |---|---|
//! | [`config`] | `[[source]]`, and what is wrong with it, with line and column |
//! | [`profile`] | one `[[source]]` that stands for several |
//! | [`schedule`] | when |
//! | [`fetch`], [`url`] | HTTP: how far an upstream may lead, how long is waited, what is resumed |
//! | [`job`] | one pull under way: what the kinds see of the daemon |
//! | [`known`] | which there are, and how each stands |
//! | [`sync`] | one pull from its beginning to its end; the clock |
//! | [`state`] | what is kept of each source, and told |
//! | [`terraform`], [`http`], [`directory`] | the kinds |
//!
//! What a pull brings goes through the same checks as what is submitted by hand. One that fails leaves everything as it
//! is: what came whole is staged for the next release, what came in part is gone on with.

pub mod api;
mod apt;
pub mod command;
mod config;
mod directory;
mod fetch;
mod http;
mod job;
mod known;
mod oci;
pub mod profile;
mod schedule;
mod state;
mod sync;
mod terraform;
mod url;

use std::sync::Arc;

use anyhow::bail;
use diodesync_control::table::Table;
pub use diodesync_control::table::nearest;

pub(crate) use config::parse_name;
pub use config::{Source, parse_all};
pub use job::Job;
pub use known::Sources;
pub use state::{Problem, Report, SourceDetail, SourceStatus};
pub use sync::run;
use url::Url;

/// What a kind of source does.
trait Pull: Sized {
    /// Reads the keys of `[[source]]` that this kind has of its own.
    fn parse(table: &mut Table<'_>) -> anyhow::Result<Self>;

    /// The URLs that the configuration names: only they decide whether this machine may be reached.
    fn homes(&self) -> Vec<Url>;

    /// Pulls once, and tells the job of each artifact whether it is new, unchanged or refused.
    ///
    /// # Errors
    /// What hinders all of it; what concerns one artifact goes to the job.
    fn pull(&self, job: &Arc<Job>) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Each kind, with its settings.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Packages of a Debian archive.
    Apt(apt::Apt),
    /// A folder that is watched.
    Directory(directory::Directory),
    /// Files by URL.
    Http(http::Http),
    /// Images of container registries.
    Oci(oci::Oci),
    /// Terraform providers and modules from their registries.
    Terraform(terraform::Terraform),
}

/// Their names.
const KINDS: [&str; 5] = ["apt", "directory", "http", "oci", "terraform"];

impl Kind {
    fn parse(name: &str, table: &mut Table<'_>) -> anyhow::Result<Self> {
        Ok(match name {
            "apt" => Self::Apt(Pull::parse(table)?),
            "directory" => Self::Directory(Pull::parse(table)?),
            "http" => Self::Http(Pull::parse(table)?),
            "oci" => Self::Oci(Pull::parse(table)?),
            "terraform" => Self::Terraform(Pull::parse(table)?),
            other => {
                let hint = match nearest(other, KINDS.into_iter()) {
                    Some(near) => format!("`{near}` is probably meant"),
                    None => format!("expected one of {}", KINDS.join(", ")),
                };
                bail!(table.error_at("kind", format!("kind: there is no {other:?}; {hint}")))
            }
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Apt(_) => "apt",
            Self::Directory(_) => "directory",
            Self::Http(_) => "http",
            Self::Oci(_) => "oci",
            Self::Terraform(_) => "terraform",
        }
    }

    fn homes(&self) -> Vec<Url> {
        match self {
            Self::Apt(kind) => kind.homes(),
            Self::Directory(kind) => kind.homes(),
            Self::Http(kind) => kind.homes(),
            Self::Oci(kind) => kind.homes(),
            Self::Terraform(kind) => kind.homes(),
        }
    }

    async fn pull(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        match self {
            Self::Apt(kind) => kind.pull(job).await,
            Self::Directory(kind) => kind.pull(job).await,
            Self::Http(kind) => kind.pull(job).await,
            Self::Oci(kind) => kind.pull(job).await,
            Self::Terraform(kind) => kind.pull(job).await,
        }
    }
}
