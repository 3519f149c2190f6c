//! What an image is called at the registry that it is pushed to.
//!
//! Patterns are tried in their order, and the first that fits decides. A `*` stands for any part of a name, and for the
//! same in what it becomes. Without patterns, every image keeps its whole name below the registry:
//! `ghcr.io/coder/coder` is pushed as `REGISTRY/ghcr.io/coder/coder`.

use std::fmt;
use std::str::FromStr;

use diodesync::release::ImageRepository;

use crate::serve::image_path;

/// `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryHost {
    /// The host, as TLS names it.
    pub host: String,
    /// Its port.
    pub port: u16,
    text: String,
}

impl FromStr for RegistryHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("expected HOST or HOST:PORT, like \"harbor.site.example\", found {text:?}");
        // What clients write before an image's name.
        let probe: ImageRepository = match text.contains(['.', ':']) || text == "localhost" {
            true => format!("{text}/x").parse().map_err(|_| bad())?,
            false => return Err(bad()),
        };
        if probe.registry != text {
            return Err(bad());
        }
        let (host, port) = match probe.registry.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (probe.registry.as_str(), 443),
        };
        Ok(Self { host: host.to_owned(), port, text: text.to_owned() })
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct NameMap {
    registry: RegistryHost,
    entries: Vec<(Pattern, Pattern)>,
}

/// A text with at most one `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    before: String,
    after: Option<String>,
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None => Some(Self { before: text.to_owned(), after: None }),
            Some((_, after)) if after.contains('*') => None,
            Some((before, after)) => Some(Self { before: before.to_owned(), after: Some(after.to_owned()) }),
        }
    }

    /// What the `*` stands for in a text that fits.
    fn part<'t>(&self, text: &'t str) -> Option<&'t str> {
        match &self.after {
            None => (text == self.before).then_some(""),
            Some(after) => text.strip_prefix(&self.before)?.strip_suffix(after.as_str()),
        }
    }

    fn with(&self, part: &str) -> String {
        match &self.after {
            None => self.before.clone(),
            Some(after) => format!("{}{part}{after}", self.before),
        }
    }
}

impl NameMap {
    /// A map without patterns.
    pub fn of(registry: RegistryHost) -> Self {
        Self { registry, entries: Vec::new() }
    }

    /// Adds a pattern.
    ///
    /// # Errors
    /// Which of the two is wrong, and how.
    pub fn add(&mut self, from: &str, to: &str) -> Result<(), (&'static str, String)> {
        let expected = "expected a name with at most one *";
        let from_pattern = Pattern::parse(from).ok_or(("from", format!("{expected}, found {from:?}")))?;
        let prefix = format!("{}/", self.registry);
        let Some(rest) = to.strip_prefix(&prefix) else {
            return Err(("to", format!("expected a name in {prefix}, found {to:?}")));
        };
        let to_pattern = Pattern::parse(rest).ok_or(("to", format!("{expected}, found {to:?}")))?;
        match (&from_pattern.after, &to_pattern.after) {
            (Some(_), None) => {
                return Err((
                    "to",
                    format!("expected one * as in from, or all of {from} would become one, found {to:?}"),
                ));
            }
            (None, Some(_)) => return Err(("to", format!("expected no *, as in from, found {to:?}"))),
            _ => {}
        }
        // A whole name says at once whether it can be one.
        let probe = to_pattern.with("x");
        if let Err(error) = format!("{}/{probe}", self.registry).parse::<ImageRepository>() {
            return Err(("to", error.to_string()));
        }
        self.entries.push((from_pattern, to_pattern));
        Ok(())
    }

    /// The repository at the registry, without the registry's name; `None` if no pattern fits.
    ///
    /// # Errors
    /// If what the pattern makes of it is no repository's name.
    pub fn target(&self, source: &ImageRepository) -> Option<Result<String, String>> {
        let name = source.to_string();
        let target = match self.entries.is_empty() {
            true => image_path(source),
            false => self.entries.iter().find_map(|(from, to)| from.part(&name).map(|part| to.with(part)))?,
        };
        let checked: Result<ImageRepository, _> = format!("{}/{target}", self.registry).parse();
        Some(match checked {
            Ok(_) => Ok(target),
            Err(error) => Err(format!("{name} would be pushed as {}/{target}: {error}", self.registry)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(map: &NameMap, name: &str) -> Option<String> {
        map.target(&name.parse().unwrap()).map(Result::unwrap)
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let mut map = NameMap::of("harbor.site:8443".parse().unwrap());
        assert_eq!(target(&map, "ghcr.io/coder/coder").unwrap(), "ghcr.io/coder/coder");
        assert_eq!(target(&map, "localhost:5000/x").unwrap(), "localhost_5000/x");
        for (from, to) in [
            ("ghcr.io/coder/coder", "harbor.site:8443/main/coder"),
            ("ghcr.io/coder/*", "harbor.site:8443/coder/*"),
            ("docker.io/library/*", "harbor.site:8443/hub/*-image"),
        ] {
            map.add(from, to).unwrap();
        }
        assert_eq!(target(&map, "ghcr.io/coder/coder").unwrap(), "main/coder");
        assert_eq!(target(&map, "ghcr.io/coder/a/b").unwrap(), "coder/a/b");
        assert_eq!(target(&map, "docker.io/library/postgres").unwrap(), "hub/postgres-image");
        assert_eq!(target(&map, "quay.io/x/y"), None);
        map.add("quay.io/*", "harbor.site:8443/q/-*").unwrap_err();
        map.add("q*y.io/*", "harbor.site:8443/q/*").unwrap_err();
    }

    #[test]
    fn a_registry_is_a_host_and_perhaps_a_port() {
        let registry: RegistryHost = "harbor.site".parse().unwrap();
        assert_eq!((registry.host.as_str(), registry.port), ("harbor.site", 443));
        let registry: RegistryHost = "localhost:5000".parse().unwrap();
        assert_eq!((registry.host.as_str(), registry.port), ("localhost", 5000));
        for bad in ["", "harbor", "https://harbor.site", "harbor.site/x", "a.b:0", "a.b:x", "user@a.b", "A.b"]
        {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad}");
        }
    }
}
