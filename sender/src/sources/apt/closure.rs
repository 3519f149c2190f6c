//! Which packages of an archive a source means, with all that they depend on.
//!
//! Of each package the newest version of all suites is taken, or the newest that what needs it admits. Of alternatives the
//! first that can be had is taken, unless another is taken already; of the providers of a virtual package the one of the
//! highest priority, then the first by name. Packages that must not be together may well be in one archive, so conflicts
//! do not matter here. All of it is done for one architecture at a time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use diodesync::id::Sha256;
use diodesync::release::archive::{ArchiveError, Stanza};
use diodesync::release::package::version::compare;

use super::relation::{Alternative, PackagePattern, groups, provided};

/// Priorities from the highest on (Debian Policy §2.5).
const PRIORITIES: [&str; 4] = ["required", "important", "standard", "optional"];
/// Dependencies that nothing satisfies, at most, that are told.
const LACKING_MAX: usize = 20;

/// A package that an archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The `Packages` file that names it, by its place in the caller's list.
    pub index: usize,
    /// What it is called.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// Where it is, below the archive.
    pub path: String,
    /// Its digest.
    pub deb: Sha256,
    /// Its octets.
    pub bytes: u64,
    depends: String,
    priority: usize,
}

/// All packages for one architecture.
#[derive(Debug, Default)]
pub struct Universe {
    all: Vec<Candidate>,
    by_name: BTreeMap<String, Vec<usize>>,
    /// Who provides a name, and in which version.
    providers: BTreeMap<String, Vec<(usize, Option<String>)>>,
}

/// What is to be had.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Packages, by their places in the universe.
    places: BTreeSet<usize>,
    /// Patterns that match nothing.
    pub unmatched: Vec<String>,
    /// What nothing satisfies.
    pub lacking: Vec<String>,
}

impl Universe {
    /// Adds a package of a `Packages` file.
    pub fn add(&mut self, index: usize, stanza: &Stanza, recommends: bool) -> Result<(), ArchiveError> {
        let get = |name: &str| stanza.get(name).unwrap_or_default().to_owned();
        let (path, deb, bytes) = stanza.place()?;
        let fields =
            ["Pre-Depends", "Depends", "Recommends"].into_iter().take(if recommends { 3 } else { 2 });
        let depends: Vec<&str> = fields.filter_map(|field| stanza.get(field)).collect();
        let priority =
            stanza.get("Priority").and_then(|own| PRIORITIES.iter().position(|known| *known == own));
        let candidate = Candidate {
            index,
            name: get("Package"),
            version: get("Version"),
            architecture: get("Architecture"),
            path: path.to_owned(),
            deb,
            bytes,
            depends: depends.join(", "),
            priority: priority.unwrap_or(PRIORITIES.len()),
        };
        let place = self.all.len();
        self.by_name.entry(candidate.name.clone()).or_default().push(place);
        for (name, version) in provided(stanza.get("Provides").unwrap_or_default()) {
            self.providers.entry(name).or_default().push((place, version));
        }
        self.all.push(candidate);
        Ok(())
    }

    /// The chosen packages.
    pub fn packages<'a>(&'a self, chosen: &'a Chosen) -> impl Iterator<Item = &'a Candidate> {
        chosen.places.iter().filter_map(|place| self.all.get(*place))
    }

    /// What patterns mean, with all that it depends on. What is assumed to be on the far side already is not followed.
    pub fn choose(&self, patterns: &[PackagePattern], assumed: &[PackagePattern]) -> Chosen {
        let mut chosen = Chosen::default();
        let mut open = VecDeque::new();
        for pattern in patterns {
            let names: Vec<&Vec<usize>> = match pattern.exact() {
                Some(name) => self.by_name.get(name).into_iter().collect(),
                None => self
                    .by_name
                    .iter()
                    .filter(|(name, _)| pattern.is_of(name))
                    .map(|(_, places)| places)
                    .collect(),
            };
            let newest = names
                .into_iter()
                .filter_map(|places| self.newest(places, |one| pattern.admits(&one.version)));
            let mut matches_something = false;
            for place in newest {
                matches_something = true;
                if chosen.places.insert(place) {
                    open.push_back(place);
                }
            }
            if !matches_something {
                chosen.unmatched.push(pattern.to_string());
            }
        }
        while let Some(package) = open.pop_front().and_then(|place| self.all.get(place)) {
            for group in groups(&package.depends) {
                let is_assumed = |one: &Alternative| assumed.iter().any(|pattern| pattern.is_of(&one.name));
                let is_there =
                    |one: &Alternative| self.that_do(one).any(|place| chosen.places.contains(&place));
                if group.iter().any(is_assumed) || group.iter().any(is_there) {
                    continue;
                }
                match group.iter().find_map(|one| self.best(one)) {
                    Some(place) => {
                        chosen.places.insert(place);
                        open.push_back(place);
                    }
                    None if chosen.lacking.len() < LACKING_MAX => {
                        let names: Vec<&str> = group.iter().map(|one| one.name.as_str()).collect();
                        chosen.lacking.push(format!(
                            "{} {} needs {}",
                            package.name,
                            package.version,
                            names.join(" or ")
                        ));
                    }
                    None => {}
                }
            }
        }
        chosen
    }

    fn newest(&self, places: &[usize], is_meant: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let meant = places.iter().copied().filter(|place| self.all.get(*place).is_some_and(&is_meant));
        // Of two that are equal, the one of the suite that is named first.
        meant.reduce(|best, next| match (self.all.get(best), self.all.get(next)) {
            (Some(a), Some(b)) if compare(&b.version, &a.version) == Ordering::Greater => next,
            _ => best,
        })
    }

    /// Everything that would do: packages of the name, then those that provide it.
    fn that_do<'a>(&'a self, wanted: &'a Alternative) -> impl Iterator<Item = usize> + 'a {
        let own = self.by_name.get(&wanted.name).into_iter().flatten().copied();
        let own = own.filter(|place| self.all.get(*place).is_some_and(|one| wanted.admits(&one.version)));
        own.chain(self.providers_of(wanted))
    }

    fn providers_of<'a>(&'a self, wanted: &'a Alternative) -> impl Iterator<Item = usize> + 'a {
        let all = self.providers.get(&wanted.name).into_iter().flatten();
        // What is provided without a version is in none that could be asked for (§7.5).
        let does = |version: &Option<String>| match version {
            Some(version) => wanted.admits(version),
            None => wanted.constraint.is_none(),
        };
        all.filter(move |(_, version)| does(version)).map(|(place, _)| *place)
    }

    fn best(&self, wanted: &Alternative) -> Option<usize> {
        let own = self.by_name.get(&wanted.name);
        let own = own.and_then(|places| self.newest(places, |one| wanted.admits(&one.version)));
        own.or_else(|| {
            let providers: Vec<usize> = self.providers_of(wanted).collect();
            let first = providers.iter().filter_map(|place| self.all.get(*place));
            let first = first.min_by_key(|one| (one.priority, one.name.as_str()))?;
            self.newest(&providers, |one| one.name == first.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use diodesync::release::archive::{Packing, Stanzas};

    use super::*;

    fn universe(text: &str, recommends: bool) -> Universe {
        let mut universe = Universe::default();
        for (at, paragraph) in text.split("\n\n").enumerate() {
            let text = format!(
                "{}\nFilename: pool/{at}.deb\nSize: 1\nSHA256: {}\nArchitecture: amd64\n",
                paragraph.trim(),
                Sha256([at as u8; 32])
            );
            let stanza = Stanzas::new(text.as_bytes(), Packing::Plain).unwrap().next().unwrap().unwrap();
            universe.add(0, &stanza, recommends).unwrap();
        }
        universe
    }

    fn choose(universe: &Universe, patterns: &[&str], assumed: &[&str]) -> (Vec<String>, Chosen) {
        let read =
            |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect::<Vec<PackagePattern>>();
        let chosen = universe.choose(&read(patterns), &read(assumed));
        let mut names: Vec<String> =
            universe.packages(&chosen).map(|one| format!("{} {}", one.name, one.version)).collect();
        names.sort();
        (names, chosen)
    }

    const ARCHIVE: &str = "Package: app\nVersion: 1.0\nDepends: lib (>= 2), mta | exim\nPre-Depends: base\nRecommends: docs\n\n\
        Package: app\nVersion: 1.10\nDepends: lib (>= 2), mta | exim\nPre-Depends: base\nRecommends: docs\n\n\
        Package: lib\nVersion: 1\n\nPackage: lib\nVersion: 2.1~rc1\n\nPackage: lib\nVersion: 2.1\nDepends: app\n\n\
        Package: base\nVersion: 3\nDepends: awk\n\nPackage: docs\nVersion: 1\n\n\
        Package: gawk\nVersion: 5\nProvides: awk\nPriority: optional\n\nPackage: mawk\nVersion: 1\nProvides: awk\nPriority: required\n\n\
        Package: exim\nVersion: 4\n\nPackage: old\nVersion: 1\nDepends: lib (<< 2), nothing | nowhere (>= 3), awk (>= 1)\n\n\
        Package: versioned\nVersion: 1\nProvides: thing (= 3)\n\nPackage: wants\nVersion: 1\nDepends: thing (>= 2)\n\n\
        Package: either\nVersion: 1\nDepends: gawk | mawk";

    #[test]
    fn the_newest_with_all_that_it_needs() {
        let all = universe(ARCHIVE, false);
        let (names, chosen) = choose(&all, &["app"], &[]);
        assert_eq!(names, ["app 1.10", "base 3", "exim 4", "lib 2.1", "mawk 1"]);
        assert!(chosen.lacking.is_empty() && chosen.unmatched.is_empty());
        assert_eq!(choose(&all, &["app=1.0"], &[]).0[0], "app 1.0");
        assert_eq!(choose(&universe(ARCHIVE, true), &["app"], &[]).0.len(), 6, "with docs");
        assert_eq!(choose(&all, &["wants"], &[]).0, ["versioned 1", "wants 1"]);
        assert_eq!(choose(&all, &["*awk"], &[]).0, ["gawk 5", "mawk 1"]);
        // One that is taken already will do.
        assert_eq!(choose(&all, &["mawk", "either"], &[]).0, ["either 1", "mawk 1"]);
    }

    #[test]
    fn what_nothing_satisfies_is_told() {
        let all = universe(ARCHIVE, false);
        let (names, chosen) = choose(&all, &["old", "no-such*"], &[]);
        assert_eq!(names, ["lib 1", "old 1"]);
        assert_eq!(chosen.unmatched, ["no-such*"]);
        assert_eq!(chosen.lacking, ["old 1 needs nothing or nowhere", "old 1 needs awk"]);
        let (names, chosen) = choose(&all, &["old"], &["no*", "awk", "lib"]);
        assert_eq!((names, chosen.lacking.len()), (vec!["old 1".to_owned()], 0));
    }
}
