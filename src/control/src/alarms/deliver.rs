//! Takes events to a command or a webhook, each until it was taken.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diodesync::pack::{Stamp, fact};
use serde::{Deserialize, Serialize};

use super::post::Post;
use super::watch::{Event, Record, path};
use crate::service::rest;

/// How often it is looked whether there is something.
const INTERVAL: Duration = Duration::from_millis(500);
/// Time that a command has.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Pause after the first failure; it doubles.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_LAST: Duration = Duration::from_secs(300);

/// Where events go.
#[derive(Debug, Clone)]
pub enum Hook {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A server.
    Webhook(Post),
}

impl Hook {
    /// A program and its arguments; none if there is none.
    pub fn command(config: &super::Config) -> Option<Self> {
        (!config.command.is_empty()).then(|| Self::Command(config.command.clone()))
    }

    /// A server; none if there is none.
    pub fn webhook(config: &super::Config) -> anyhow::Result<Option<Self>> {
        Ok(Post::of(config)?.map(Self::Webhook))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }

    fn take(&self, event: &Event, stop: &AtomicBool) -> anyhow::Result<()> {
        let body = serde_json::to_vec(event)?;
        match self {
            Self::Command(words) => run(words, &body, stop),
            Self::Webhook(post) => post.send(body),
        }
    }
}

/// How far a hook has got, in a file of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The last event that was taken.
    pub taken: u64,
    /// Why the next one is not.
    pub failure: Option<String>,
    /// Events that went before they were taken, because too many waited.
    pub lost: u64,
}

impl Trouble {
    /// What a hook's file says.
    pub fn read(path: &Path) -> Self {
        let content = fact::read(path).ok().flatten();
        content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
    }

    /// What an operator should know.
    pub fn text(&self, hook: &str) -> Option<String> {
        let why = self.failure.as_ref()?;
        let lost = if self.lost > 0 { format!("; {} are lost", self.lost) } else { String::new() };
        Some(format!(
            "alarms do not get through to the {hook} of [alarms]: {why}. It is tried again by itself{lost}"
        ))
    }
}

/// Takes events to one hook.
#[derive(Debug)]
pub struct Deliverer {
    dir: PathBuf,
    hook: Hook,
    /// Where it says how far it is.
    state: PathBuf,
}

impl Deliverer {
    /// Of the alarms in `dir`; how far it is stands in `state`.
    pub fn new(dir: &Path, hook: Hook, state: PathBuf) -> Self {
        Self { dir: dir.to_owned(), hook, state }
    }

    /// Goes on, on a thread of its own, until `stop`.
    pub fn start(self, stop: Arc<AtomicBool>) -> anyhow::Result<std::thread::JoinHandle<()>> {
        let thread = std::thread::Builder::new().name(format!("alarm {}", self.hook.name()));
        thread.spawn(move || self.run(&stop)).context("cannot start a thread")
    }

    fn run(&self, stop: &AtomicBool) {
        let mut state = Trouble::read(&self.state);
        let (mut stamp, mut pause, mut due) = (None, PAUSE_FIRST, Instant::now());
        let mut waiting: Vec<Event> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let now = Stamp::of(&path(&self.dir));
            if now != stamp {
                stamp = now;
                waiting = Record::read(&self.dir).events.into();
                // A folder that was made anew counts from 1.
                if waiting.last().is_some_and(|last| last.seq < state.taken) {
                    state = Trouble::default();
                }
            }
            waiting.retain(|event| event.seq > state.taken);
            let Some(event) = waiting.first().filter(|_| Instant::now() >= due) else {
                rest(INTERVAL, stop);
                continue;
            };
            // How far it was may have been forgotten.
            let gap = if state.taken == 0 { 0 } else { event.seq - state.taken - 1 };
            match self.hook.take(event, stop) {
                Ok(()) => {
                    state.lost += gap;
                    (state.taken, state.failure, pause) = (event.seq, None, PAUSE_FIRST);
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if state.failure.as_ref() != Some(&why) {
                        tracing::warn!(
                            why,
                            hook = self.hook.name(),
                            "an alarm does not get through; it is tried again"
                        );
                    }
                    state.failure = Some(why);
                    due = Instant::now() + pause;
                    pause = (pause * 2).min(PAUSE_LAST);
                }
            }
            let kept = serde_json::to_vec(&state).map_err(anyhow::Error::from);
            if let Err(error) = kept.and_then(|content| Ok(fact::write_lazily(&self.state, &content)?)) {
                tracing::debug!(%error, "how far alarms have got is not kept");
            }
        }
    }
}

/// Runs a command with this as its standard input, in a group of its own; no shell reads its words.
fn run(words: &[String], input: &[u8], stop: &AtomicBool) -> anyhow::Result<()> {
    let (program, arguments) = words.split_first().context("there is no command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // It is shorter than a pipe; who reads nothing may do so.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {program}"))? {
            if status.success() {
                return Ok(());
            }
            bail!("{program} ended with {status}, expected exit code 0");
        }
        if began.elapsed() > COMMAND_MAX || stop.load(Ordering::Relaxed) {
            end(&mut child);
            bail!("{program} did not end within {} s and was killed", COMMAND_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a command and what it has begun.
fn end(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_the_event_and_says_whether_it_took_it() {
        let dir = std::env::temp_dir().join(format!("diodesync-deliver-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let never = AtomicBool::new(false);
        let words =
            |script: &str| ["/bin/sh", "-c", script, "x", dir.to_str().unwrap()].map(str::to_owned).to_vec();
        run(&words("cat > $1/got"), b"{}", &never).unwrap();
        assert_eq!(std::fs::read(dir.join("got")).unwrap(), b"{}");
        let error = run(&words("exit 3"), b"{}", &never).unwrap_err().to_string();
        assert!(error.contains("/bin/sh") && error.contains('3'), "{error}");
        assert!(run(&["/nowhere/page".to_owned()], b"{}", &never).is_err());
        // One that reads nothing, and one that is ended with what it has begun.
        run(&words("exit 0"), &[b'x'; 1000], &never).unwrap();
        let began = Instant::now();
        run(&words("sleep 60 & sleep 60"), b"{}", &AtomicBool::new(true)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(20));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
