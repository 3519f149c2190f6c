//! The sources that are configured, and how each stands.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use diodesync::pack::fact;
use diodesync_control::clock_s;

use super::config::Source;
use super::job::Job;
use super::nearest;
use super::state::{Report, SourceDetail, SourceStatus, State};
use crate::status::Alarm;

/// Pulls in a row that fail before it is an alarm.
const ALARM_FAILURES: u32 = 2;

/// All sources.
#[derive(Debug)]
pub struct Sources {
    pub(super) dir: PathBuf,
    live: Mutex<BTreeMap<String, Live>>,
}

/// What is known of a source.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// As it is configured; none once it is not any more. A pull under way goes on with what it began with.
    pub source: Option<Arc<Source>>,
    pub state: State,
    pub is_running: bool,
    /// Set once it has begun.
    pub job: Option<Arc<Job>>,
    /// Someone wants it pulled now.
    pub is_asked: bool,
    pub runs: u64,
    /// Those of them that did not bring everything.
    pub failed_runs: u64,
}

/// Sources, with what is kept of those that were not known before.
#[derive(Debug, Default)]
pub struct Prepared(BTreeMap<String, (Arc<Source>, Option<State>)>);

impl Live {
    /// When it is pulled next; none if only by hand.
    fn next_s(&self, now_s: u64) -> Option<u64> {
        let State { last_began_s, failures, first_seen_s, .. } = &self.state;
        let schedule = self.source.as_ref()?.schedule.as_ref()?;
        // What lies ahead was recorded before the clock was set back, and would hold the source for as long.
        let last_began_s = last_began_s.filter(|last_s| *last_s <= now_s);
        Some(schedule.next_s(last_began_s, *failures, (*first_seen_s).min(now_s)))
    }
}

impl Sources {
    /// Reads what is kept of them.
    pub fn open(dir: &Path, sources: &[Source], now_s: u64) -> anyhow::Result<Self> {
        let all = Self { dir: dir.join("sources"), live: Mutex::default() };
        all.set(all.prepare(sources, now_s)?);
        Ok(all)
    }

    /// Reads what is kept of these, in place of those that are known.
    ///
    /// # Errors
    /// If something cannot be read; nothing has changed by then.
    pub fn prepare(&self, sources: &[Source], now_s: u64) -> anyhow::Result<Prepared> {
        let mut prepared = Prepared::default();
        for source in sources {
            let is_known = self.live().contains_key(&source.name);
            let state = if is_known { None } else { Some(self.read(&source.name, now_s)?) };
            prepared.0.insert(source.name.clone(), (Arc::new(source.clone()), state));
        }
        Ok(prepared)
    }

    /// Has these be all that there are. What is kept of others stays, in case that they come back.
    pub fn set(&self, Prepared(mut sources): Prepared) {
        let mut live = self.live();
        for (name, one) in live.iter_mut() {
            one.source = sources.remove(name).map(|(source, _)| source);
            one.is_asked &= one.source.is_some();
        }
        for (name, (source, state)) in sources {
            let one = Live { source: Some(source), state: state.unwrap_or_default(), ..Live::default() };
            live.insert(name, one);
        }
    }

    fn read(&self, name: &str, now_s: u64) -> anyhow::Result<State> {
        let folder = self.dir.join(name);
        std::fs::create_dir_all(folder.join("parts"))
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("state");
        if let Some(content) = fact::read(&path)? {
            return serde_json::from_slice(&content)
                .with_context(|| format!("the fact file {} is damaged", path.display()));
        }
        let state = State { first_seen_s: now_s, ..State::default() };
        self.write(name, &state)?;
        Ok(state)
    }

    pub(super) fn live(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that are meant: all of them if none is given.
    pub fn named(&self, names: &[String]) -> anyhow::Result<Vec<String>> {
        let all = self.names();
        if all.is_empty() {
            bail!("no [[source]] is configured; add one to sender.toml, and: diode-sender reload");
        }
        if names.is_empty() {
            return Ok(all);
        }
        if let Some(name) = names.iter().find(|name| !all.contains(name)) {
            let hint = match nearest(name, all.iter().map(String::as_str)) {
                Some(near) => format!("{near:?} is probably meant"),
                None => format!("there are {}", all.join(", ")),
            };
            bail!("there is no source {name:?}; {hint}");
        }
        Ok(names.to_vec())
    }

    /// Those that are configured.
    fn names(&self) -> Vec<String> {
        let live = self.live();
        live.iter().filter(|(_, one)| one.source.is_some()).map(|(name, _)| name.clone()).collect()
    }

    /// What is due now.
    pub(super) fn due(&self, now_s: u64) -> Vec<String> {
        let live = self.live();
        let is_due = |one: &Live| {
            let is_time = || one.next_s(now_s).is_some_and(|next_s| next_s <= now_s);
            one.source.is_some() && !one.is_running && (one.is_asked || is_time())
        };
        live.iter().filter(|(_, one)| is_due(one)).map(|(name, _)| name.clone()).collect()
    }

    /// How one stands, with what its pull under way or its last one brought.
    fn look<'l>(
        &self,
        name: &str,
        live: &'l BTreeMap<String, Live>,
    ) -> Option<(SourceStatus, Cow<'l, Report>)> {
        let one = live.get(name)?;
        let source = one.source.as_ref()?;
        let job = one.job.as_ref().filter(|_| one.is_running);
        let report = job.map_or(Cow::Borrowed(&one.state.report), |job| Cow::Owned(job.report()));
        let now_s = clock_s();
        let next_s = if one.is_asked { Some(now_s) } else { one.next_s(now_s) };
        let status = SourceStatus {
            name: name.to_owned(),
            kind: source.kind.name().to_owned(),
            channel: source.channel.clone(),
            running: one.is_running,
            message: job.map(|job| job.message()).unwrap_or_default(),
            bytes: report.bytes,
            new: report.new.len(),
            unchanged: report.unchanged,
            gone: report.gone.len(),
            refused: report.refused.len(),
            failed: report.failed.len(),
            runs: one.runs,
            failed_runs: one.failed_runs,
            failures: one.state.failures,
            last_began_s: one.state.last_began_s,
            last_good_s: one.state.last_good_s,
            next_s,
            problem: one.state.report.failed.iter().chain(&one.state.report.refused).next().cloned(),
        };
        Some((status, report))
    }

    /// Everything about one; none if none has this name.
    pub fn detail(&self, name: &str) -> Option<SourceDetail> {
        let live = self.live();
        let (status, report) = self.look(name, &live)?;
        Some(SourceDetail { status, report: report.into_owned() })
    }

    /// Everything about them.
    pub fn details(&self) -> Vec<SourceDetail> {
        self.names().iter().filter_map(|name| self.detail(name)).collect()
    }

    /// What `status` says of them, and what needs an operator.
    pub fn status(&self) -> (Vec<SourceStatus>, Vec<Alarm>) {
        let live = self.live();
        let all: Vec<SourceStatus> = live.keys().filter_map(|name| Some(self.look(name, &live)?.0)).collect();
        drop(live);
        let alarm = |status: &SourceStatus| {
            let problem = status.problem.as_ref().filter(|_| status.failures >= ALARM_FAILURES)?;
            let text = format!(
                "source {} could not be pulled wholly {} times in a row; what it brought before is served. {}: {}",
                status.name, status.failures, problem.what, problem.why
            );
            Some(Alarm { id: "source".to_owned(), text })
        };
        let alarms = all.iter().filter_map(alarm).collect();
        (all, alarms)
    }

    /// Has these pulled as soon as the clock looks, which has the runtime for it; those under way are joined.
    pub fn ask(&self, names: &[String]) {
        let mut live = self.live();
        for name in names {
            if let Some(one) = live.get_mut(name).filter(|one| one.source.is_some() && !one.is_running) {
                one.is_asked = true;
            }
        }
    }

    /// Keeps a state.
    pub(super) fn write(&self, name: &str, state: &State) -> anyhow::Result<()> {
        Ok(fact::write(&self.dir.join(name).join("state"), &serde_json::to_vec(state)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_all;
    use super::*;

    fn sources(names: &[(&str, &str)]) -> Vec<Source> {
        let one = |(name, more): &(&str, &str)| {
            format!("[[source]]\nname = '{name}'\nkind = 'directory'\npath = '/d'\n{more}\n")
        };
        parse_all(&names.iter().map(one).collect::<String>()).unwrap()
    }

    #[test]
    fn who_is_no_source_any_more_is_not_pulled_and_is_known_when_it_comes_back() {
        let dir = std::env::temp_dir().join(format!("diode-sender-known-{}", std::process::id()));
        let often = "every = '1h'";
        let all = Sources::open(&dir, &sources(&[("a", often), ("b", often)]), 1000).unwrap();
        assert_eq!(all.due(1000), ["a", "b"]);
        // It is being pulled meanwhile.
        all.live().get_mut("b").unwrap().is_running = true;
        all.ask(&["a".to_owned()]);
        let set = |now: &[(&str, &str)]| all.set(all.prepare(&sources(now), 2000).unwrap());
        set(&[("c", "")]);
        assert_eq!(all.named(&[]).unwrap(), ["c"]);
        assert!(all.due(9000).is_empty() && all.detail("a").is_none());
        assert!(all.named(&["a".to_owned()]).is_err());
        all.live().get_mut("a").unwrap().state.failures = 7;
        set(&[("a", ""), ("b", often), ("d", often)]);
        assert_eq!(all.detail("a").unwrap().status.failures, 7);
        assert_eq!(
            all.due(9000),
            ["d"],
            "what was asked for is forgotten, and what is being pulled is joined"
        );
        assert!(all.detail("b").unwrap().status.running);
        std::fs::create_dir_all(dir.join("sources/e")).unwrap();
        std::fs::write(dir.join("sources/e/state"), "{").unwrap();
        let error = all.prepare(&sources(&[("f", ""), ("e", "")]), 3000).unwrap_err().to_string();
        assert!(error.contains("sources/e/state is damaged"), "{error}");
        assert_eq!(all.named(&[]).unwrap(), ["a", "b", "d"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
