//! `[alarms]`.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use hyper::Uri;
use serde::Deserialize;

/// Words of a command.
const WORDS_MAX: usize = 64;

/// Where alarms go besides the journal.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A program and its arguments; it gets each event as JSON on its standard input.
    pub command: Vec<String>,
    /// A URL that each event is sent to.
    pub webhook: Option<String>,
    /// A file whose text goes with it as a bearer token (RFC 6750), readable by its owner alone.
    pub token_file: Option<PathBuf>,
    /// The only authorities that are believed for the webhook, PEM; the system's, if it is not given.
    pub ca_file: Option<PathBuf>,
}

impl Config {
    /// Refuses what can never work.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(program) = self.command.first() {
            ensure!(
                program.starts_with('/'),
                "[alarms] command begins with {program:?}, expected the whole path of a program like \"/usr/local/bin/page\"; \
                 no shell reads it"
            );
            ensure!(self.command.len() <= WORDS_MAX, "[alarms] command has more than {WORDS_MAX} words");
        }
        if let Some(url) = &self.webhook {
            url_of(url)?;
        } else if self.token_file.is_some() || self.ca_file.is_some() {
            bail!("[alarms] token_file and ca_file are for a webhook, and there is none");
        }
        Ok(())
    }
}

/// The webhook's URL.
pub(super) fn url_of(text: &str) -> anyhow::Result<Uri> {
    let url = text.parse::<Uri>().ok();
    let is_good = |url: &Uri| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    match url.filter(is_good) {
        Some(url) => Ok(url),
        None => bail!(
            "[alarms] webhook is {text:?}, expected a URL like https://alerts.site.example/hook; credentials go into token_file"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> anyhow::Result<()> {
        toml::from_str::<Config>(text)?.check()
    }

    #[test]
    fn mistakes_are_named() {
        check("").unwrap();
        check("command = ['/bin/true', 'x']\nwebhook = 'http://[::1]:9093/a?b=c'\ntoken_file = '/t'")
            .unwrap();
        for (bad, word) in [
            ("command = ['page']", "whole path"),
            ("webhook = 'ftp://x/'", "expected a URL"),
            ("webhook = '/x'", "expected a URL"),
            ("webhook = 'https://u:p@x/'", "token_file"),
            ("token_file = '/t'", "for a webhook"),
            ("hook = 'x'", "hook"),
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
