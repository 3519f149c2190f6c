//! `[[source]]`: what is pulled, when, into which channel, and with what access.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, bail};
use diodesync::audit::Actor;
use diodesync::id::Channel;
use diodesync::quantity::parse_bytes;
use diodesync_control::table::Table;
use toml::de::DeTable;

use super::Kind;
use super::profile::Profile;
use super::schedule::Schedule;
use super::url::Url;

/// Sources of one sender.
const SOURCES_MAX: usize = 64;
/// Octets that a source brings in one go, if it does not say otherwise.
const BYTES_MAX_DEFAULT: u64 = 100_000_000_000;
/// Artifacts that a source names, if it does not say otherwise.
const ARTIFACTS_MAX_DEFAULT: u64 = 10_000;
/// Downloads at once, if it does not say otherwise.
const PARALLEL_DEFAULT: u64 = 4;

/// One source.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name: that of its folder and its state.
    pub name: String,
    /// What is pulled.
    pub kind: Kind,
    /// Where it goes.
    pub channel: Channel,
    /// When; only by hand, if there is none.
    pub schedule: Option<Schedule>,
    /// Octets that one pull may download.
    pub bytes_max: u64,
    /// Artifacts that it may name.
    pub artifacts_max: u64,
    /// Whether a release is cut when something has changed.
    pub release: bool,
    /// What becomes of what it does not name any more.
    pub gone: Gone,
    /// How upstreams are reached.
    pub access: Access,
}

impl Source {
    /// As the audit log names it.
    pub fn actor(&self) -> Actor {
        Actor::daemon(format!("source {}", self.name))
    }
}

/// What becomes of artifacts that a source brought and does not name any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// They are told, and stay.
    Keep,
    /// The next release does not serve them any more.
    Withdraw,
}

/// How upstreams are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Downloads at once.
    pub parallel: usize,
    /// PEM certificates of the only authorities that are trusted; those of the system, if there is none.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy.
    pub proxy: Option<Url>,
    /// Files that hold a user's name and password.
    pub user: Option<(PathBuf, PathBuf)>,
    /// A file that holds a token.
    pub token_file: Option<PathBuf>,
    /// Hosts that are asked for elsewhere: a proxy that keeps what came through it, or a mirror.
    pub hosts: BTreeMap<String, Url>,
}

/// Reads every `[[source]]` of a configuration that is TOML, and those that profiles stand for.
pub fn parse_all(text: &str) -> anyhow::Result<Vec<Source>> {
    let document = DeTable::parse(text)?;
    let mut sources: Vec<Source> = Vec::new();
    let mut names = BTreeSet::new();
    let mut profiles = Vec::new();
    for mut table in Table::all_of(text, document.get_ref(), "source")? {
        if table.has("profile") {
            let begin = table.error_at("profile", "of this profile");
            profiles.push((begin, Profile::parse(table)?));
            continue;
        }
        let name = table.required("name", parse_name)?;
        if !names.insert(name.clone()) {
            bail!(
                table.error_at("name", format!("two sources are named {name}; give each a name of its own"))
            );
        }
        sources.push(parse_one(name, table)?);
    }
    // What the configuration names itself takes the place of a profile's part.
    let own = names.clone();
    for (begin, profile) in profiles {
        for (name, part) in profile.parts().into_iter().filter(|(name, _)| !own.contains(name)) {
            if !names.insert(name.clone()) {
                bail!(
                    "{begin}: two sources are named {name}; write one of them out: diode-sender profile coder"
                );
            }
            sources.extend(parse_part(&part).with_context(|| format!("{begin}, source {name}"))?);
        }
    }
    if sources.len() > SOURCES_MAX {
        bail!("expected at most {SOURCES_MAX} [[source]]");
    }
    Ok(sources)
}

/// The sources of a text that a profile wrote.
fn parse_part(text: &str) -> anyhow::Result<Vec<Source>> {
    let document = DeTable::parse(text)?;
    let tables = Table::all_of(text, document.get_ref(), "source")?;
    let one = |mut table: Table<'_>| parse_one(table.required("name", parse_name)?, table);
    tables.into_iter().map(one).collect()
}

fn parse_one(name: String, mut table: Table<'_>) -> anyhow::Result<Source> {
    let text = |text: &str| Ok::<_, String>(text.to_owned());
    let kind_name = table.required("kind", text)?;
    let channel = table.parsed("channel", str::parse)?.unwrap_or_else(Channel::main);
    let schedule = match (table.parsed("every", Schedule::every)?, table.parsed("cron", Schedule::cron)?) {
        (Some(_), Some(_)) => {
            bail!(table.error_at("cron", "every and cron are two schedules; keep one of them"))
        }
        (every, cron) => every.or(cron),
    };
    let source = Source {
        channel,
        schedule,
        bytes_max: table.parsed("bytes_max", parse_bytes)?.unwrap_or(BYTES_MAX_DEFAULT),
        artifacts_max: table.number("artifacts_max", 1..=4_000_000)?.unwrap_or(ARTIFACTS_MAX_DEFAULT),
        release: table.flag("release", true)?,
        gone: table.parsed("gone", parse_gone)?.unwrap_or(Gone::Keep),
        access: parse_access(&mut table)?,
        kind: Kind::parse(&kind_name, &mut table)?,
        name,
    };
    table.finish(&format!("a source of kind {kind_name}"))?;
    Ok(source)
}

fn parse_access(table: &mut Table<'_>) -> anyhow::Result<Access> {
    let user = match (table.parsed("user_file", parse_path)?, table.parsed("password_file", parse_path)?) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => bail!(table.error_at("user_file", "user_file needs its password_file")),
        (None, Some(_)) => bail!(table.error_at("password_file", "password_file needs its user_file")),
    };
    let token_file = table.parsed("token_file", parse_path)?;
    if user.is_some() && token_file.is_some() {
        bail!(table.error_at(
            "token_file",
            "a user with a password and a token are two credentials; keep one of them"
        ));
    }
    let hosts: BTreeMap<String, Url> = table.pairs("hosts", parse_host)?.into_iter().flatten().collect();
    if (user.is_some() || token_file.is_some()) && hosts.values().any(|to| !to.is_tls()) {
        bail!(table.error_at("hosts", "hosts: a credential would go over a connection without TLS"));
    }
    Ok(Access {
        hosts,
        parallel: table.number("parallel", 1..=16)?.unwrap_or(PARALLEL_DEFAULT) as usize,
        ca_file: table.parsed("ca_file", parse_path)?,
        proxy: table.parsed("proxy", parse_proxy)?,
        user,
        token_file,
    })
}

/// A name that is a folder's, too.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let is_name = (1..=32).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
        && !text.starts_with('-');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(format!("expected 1 to 32 of a-z, 0-9 and -, found {text:?}"))
    }
}

fn parse_gone(text: &str) -> Result<Gone, String> {
    match text {
        "keep" => Ok(Gone::Keep),
        "withdraw" => Ok(Gone::Withdraw),
        other => Err(format!("expected \"keep\" or \"withdraw\", found {other:?}")),
    }
}

/// An absolute path: the daemon's folder is not where its configuration was written.
pub fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(format!("expected an absolute path, found {text:?}"))
    }
}

/// A host, and where it is asked for instead; by all the names that it has.
pub fn parse_host(host: &str, to: &str) -> Result<Vec<(String, Url)>, String> {
    let from = Url::parse(&format!("https://{host}/")).map_err(|error| error.to_string())?;
    let to = Url::parse(to).map_err(|error| error.to_string())?;
    if from.target() != "/" || to.target() != "/" {
        return Err(format!(
            "expected \"HOST\" = \"https://HOST:PORT\" without a path, found {host:?} = \"{to}\""
        ));
    }
    let (name, registry) = super::oci::DOCKER_HUB;
    let more = (from.authority() == name).then(|| (registry.to_owned(), to.clone()));
    Ok([(from.authority(), to)].into_iter().chain(more).collect())
}

fn parse_proxy(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.is_tls() || url.target() != "/" {
        return Err(format!("expected http://HOST:PORT, found {text:?}"));
    }
    Ok(url)
}
