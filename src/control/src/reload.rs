//! `reload`: what of a configuration a daemon takes while it runs. What else has changed there is named, and waits for a
//! restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use diodesync::audit::Event;
use diodesync::id::Sha256;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// How much of a section is taken. What has none waits.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// All of it; of `[[section]]` each table for itself, new ones and the ends of old ones, too.
    All,
    /// These keys, of a table that is there before and after.
    Keys(&'static [&'static str]),
}

/// Sections, and what is taken of them.
pub type Taken<'a> = &'a [(&'a str, Part)];

/// The configuration as it is in force.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    settings: Mutex<Settings>,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The SHA-256 of the configuration.
    pub config: Sha256,
    /// What is another now: `policy`, `source tools (new)`, `lane lane0 rate`.
    pub taken: Vec<String>,
    /// What is another in the file, and waits for a restart.
    pub waiting: Vec<String>,
}

impl Reloaded {
    /// For the audit log.
    pub fn event(&self) -> Event {
        let taken = match self.taken.as_slice() {
            [] => "nothing changed".to_owned(),
            taken => taken.join(", "),
        };
        Event::Asked { what: format!("reload of configuration {}: {taken}", self.config) }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let taken = match self.taken.as_slice() {
            [] => "nothing has changed that is taken without a restart".to_owned(),
            taken => format!("taken: {}", taken.join(", ")),
        };
        match self.waiting.as_slice() {
            [] => taken + "\n",
            waiting => format!("{taken}\nchanged, and waiting for a restart: {}\n", waiting.join(", ")),
        }
    }
}

impl InForce {
    /// Of the file from which the configuration was read just now.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let settings = settings(read(path)?.parse().with_context(|| format!("in {}", path.display()))?);
        Ok(Self { path: path.to_owned(), settings: Mutex::new(settings) })
    }

    /// Reads the file anew and has `take` go by it, which fails only where nothing is changed yet. Blocks the thread.
    ///
    /// # Errors
    /// If it is not sound, or `take` fails; then everything stays as it was.
    pub fn reload<C>(
        &self,
        taken: Taken<'_>,
        parse: impl FnOnce(&str) -> anyhow::Result<C>,
        take: impl FnOnce(C, &Reloaded) -> anyhow::Result<()>,
    ) -> anyhow::Result<Reloaded> {
        let mut before = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let context = || format!("nothing is changed; in {}", self.path.display());
        let text = read(&self.path)?;
        let config = parse(&text).with_context(context)?;
        let after = settings(text.parse().with_context(context)?);
        let changes = changes(&before, &after, taken);
        let (ours, others): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.is_taken);
        let told = |changes: &[Change]| changes.iter().map(|change| change.text(&before, &after)).collect();
        let reloaded =
            Reloaded { config: Sha256::of(text.as_bytes()), taken: told(&ours), waiting: told(&others) };
        take(config, &reloaded)?;
        // What waits for a restart still differs the next time.
        ours.iter().for_each(|change| change.apply(&mut before, &after));
        Ok(reloaded)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Each table by what it is called: `policy`, `lane lane0`. A key that stands alone is a table of one.
type Settings = BTreeMap<String, Table>;

fn settings(root: Table) -> Settings {
    let mut settings = Settings::new();
    for (section, value) in root {
        match value {
            Value::Table(table) => _ = settings.insert(section, table),
            Value::Array(values) if values.iter().all(Value::is_table) => {
                let tables = values.into_iter().filter_map(|value| value.try_into::<Table>().ok());
                for (number, table) in (1..).zip(tables) {
                    // A profile of sources has no name.
                    let name = table.get("name").or(table.get("profile")).and_then(Value::as_str);
                    let mut what = name.map_or(section.clone(), |name| format!("{section} {name}"));
                    if name.is_none() || settings.contains_key(&what) {
                        what = format!("{what} {number}");
                    }
                    settings.insert(what, table);
                }
            }
            other => _ = settings.insert(section.clone(), Table::from_iter([(section, other)])),
        }
    }
    settings
}

/// A table that is another, or one key of it.
#[derive(Debug)]
struct Change {
    table: String,
    key: Option<String>,
    is_taken: bool,
}

fn changes(before: &Settings, after: &Settings, taken: Taken<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let section = name.split(' ').next().unwrap_or_default();
        let part = taken.iter().find(|(taken, _)| *taken == section).map(|(_, part)| *part);
        let (old, new) = (before.get(name), after.get(name));
        match (part, old, new) {
            _ if old == new => {}
            (Some(Part::Keys(taken)), Some(old), Some(new)) => {
                let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
                changes.extend(changed.map(|key| Change {
                    table: name.clone(),
                    key: Some(key.clone()),
                    is_taken: taken.contains(&key.as_str()),
                }));
            }
            _ => {
                let is_taken = matches!(part, Some(Part::All));
                changes.push(Change { table: name.clone(), key: None, is_taken });
            }
        }
    }
    changes
}

impl Change {
    fn text(&self, before: &Settings, after: &Settings) -> String {
        let Self { table, key, .. } = self;
        match key {
            Some(key) => format!("{table} {key}"),
            None if !before.contains_key(table) => format!("{table} (new)"),
            None if !after.contains_key(table) => format!("{table} (gone)"),
            None => table.clone(),
        }
    }

    /// Makes one like the other in this.
    fn apply(&self, before: &mut Settings, after: &Settings) {
        let new = after.get(&self.table);
        match &self.key {
            None => match new {
                Some(new) => _ = before.insert(self.table.clone(), new.clone()),
                None => _ = before.remove(&self.table),
            },
            Some(key) => {
                let Some(old) = before.get_mut(&self.table) else { return };
                match new.and_then(|new| new.get(key)) {
                    Some(value) => _ = old.insert(key.clone(), value.clone()),
                    None => _ = old.remove(key),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const TAKEN: Taken<'_> =
        &[("policy", Part::All), ("source", Part::All), ("lane", Part::Keys(&["rate", "windows"]))];

    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("diodesync-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const BEFORE: &str = "dir = '/x'\n[policy]\ndefault = 'deny'\n[trust]\ndays = 1\n[[source]]\nname = 'a'\n[[source]]\n\
                          name = 'b'\n[[lane]]\nname = 'l'\nrate = '1'\nto = 'x'\n";

    #[test]
    fn what_has_changed_is_named_and_what_waits_is_named_again() {
        let file = File::new("reload", BEFORE);
        let in_force = InForce::open(&file.0).unwrap();
        let reload = |text: &str| {
            std::fs::write(&file.0, text).unwrap();
            in_force.reload(TAKEN, |text| Ok(text.to_owned()), |_, _| Ok(())).unwrap()
        };
        let same = reload(BEFORE);
        assert_eq!(same.to_text(), "nothing has changed that is taken without a restart\n");
        let after = "dir = '/z'\n[policy]\ndefault = 'allow'\n[trust]\ndays = 2\n[[source]]\nname = 'c'\n[[source]]\n\
                     name = 'b'\nx = 1\n[[source]]\nprofile = 'p'\n[[lane]]\nname = 'm'\nrate = '1'\n[[lane]]\nname = 'l'\n\
                     windows = 3\nto = 'y'\n";
        let first = reload(after);
        let taken =
            ["lane l rate", "lane l windows", "policy", "source a (gone)", "source b", "source c (new)"];
        assert_eq!(first.taken, [taken.as_slice(), &["source p (new)"]].concat());
        let waiting = ["dir", "lane l to", "lane m (new)", "trust"];
        assert_eq!(first.waiting, waiting);
        assert!(first.to_text().ends_with("waiting for a restart: dir, lane l to, lane m (new), trust\n"));
        assert_eq!(first.config, Sha256::of(after.as_bytes()));
        let second = reload(after);
        assert_eq!((second.taken.as_slice(), second.waiting), ([].as_slice(), first.waiting));
        let back = reload(BEFORE);
        assert!(back.waiting.is_empty(), "{back:?}");
        assert_eq!(back.taken.len(), first.taken.len());
    }

    #[test]
    fn what_is_not_taken_is_still_to_be_taken() {
        let file = File::new("reload-fails", BEFORE);
        let in_force = InForce::open(&file.0).unwrap();
        std::fs::write(&file.0, BEFORE.replace("deny", "allow")).unwrap();
        let parse = |text: &str| Ok(text.len());
        let error = in_force.reload(TAKEN, |_| bail!("line 1") as anyhow::Result<()>, |_, _| Ok(()));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("nothing is changed; in ") && error.ends_with("line 1"), "{error}");
        in_force.reload(TAKEN, parse, |_, _| bail!("no")).unwrap_err();
        assert_eq!(in_force.reload(TAKEN, parse, |_, _| Ok(())).unwrap().taken, ["policy"]);
        std::fs::write(&file.0, "[").unwrap();
        in_force.reload(TAKEN, parse, |_, _| Ok(())).unwrap_err();
    }

    #[test]
    fn tables_without_a_name_are_told_apart() {
        let table = |text: &str| settings(text.parse().unwrap());
        let before = table("[[source]]\nprofile = 'p'\nx = 1\n[[source]]\nprofile = 'p'\n[[rule]]\na = 1\n");
        assert_eq!(before.keys().collect::<Vec<_>>(), ["rule 1", "source p", "source p 2"]);
    }
}
