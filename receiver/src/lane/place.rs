//! Where a lane is in its session, on disk: `DIR/floor/LANE`, so that after a restart old datagrams are not taken again.
//!
//! A thread of its own writes it for all lanes. A rename waits for the disk when others have it sync much, and a lane that
//! waits receives nothing.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;
use diodesync::id::SessionNo;
use diodesync::pack::fact;

/// A session, and the least number of a datagram of it that is still taken.
pub type Floor = (SessionNo, u64);

/// The place of one lane.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    shared: Arc<Mutex<Option<Floor>>>,
    wake: SyncSender<()>,
}

impl Place {
    /// Has it written soon. After a power failure it may be gone.
    pub fn set(&self, floor: Floor) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(floor);
        // A writer that is awake looks at all of them.
        let _ = self.wake.try_send(());
    }

    /// What was written last.
    ///
    /// # Errors
    /// If it is garbled, or cannot be read.
    pub fn read(&self) -> anyhow::Result<Option<Floor>> {
        let Some(content) = fact::read(&self.path)? else { return Ok(None) };
        let parse = || {
            let (session, floor) = std::str::from_utf8(&content).ok()?.split_once(' ')?;
            Some((SessionNo(session.parse().ok()?), floor.parse().ok()?))
        };
        parse().with_context(|| format!("{} holds no session and number", self.path.display())).map(Some)
    }
}

/// Writes the places of all lanes.
#[derive(Debug)]
pub struct Places {
    dir: PathBuf,
    all: Vec<(PathBuf, Arc<Mutex<Option<Floor>>>)>,
    wake: SyncSender<()>,
    woken: Receiver<()>,
}

impl Places {
    /// In the receiver's folder.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join("floor");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let (wake, woken) = sync_channel(1);
        Ok(Self { dir, all: Vec::new(), wake, woken })
    }

    /// That of a lane.
    pub fn place(&mut self, lane: &str) -> Place {
        let (path, shared) = (self.dir.join(lane), Arc::default());
        self.all.push((path.clone(), Arc::clone(&shared)));
        Place { path, shared, wake: self.wake.clone() }
    }

    /// Starts the thread. It ends when all places are dropped, and has written the last of them by then.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(self) -> anyhow::Result<JoinHandle<()>> {
        let Self { all, wake, woken, .. } = self;
        drop(wake);
        let thread = std::thread::Builder::new().name("lanes' places".to_owned()).spawn(move || {
            loop {
                let is_over = woken.recv().is_err();
                all.iter().for_each(|(path, shared)| write(path, shared));
                if is_over {
                    return;
                }
            }
        });
        thread.context("cannot start the thread that records where lanes are")
    }
}

fn write(path: &Path, shared: &Mutex<Option<Floor>>) {
    let floor = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((session, floor)) = floor else { return };
    if let Err(error) = fact::write_lazily(path, format!("{session} {floor}").as_bytes()) {
        tracing::debug!(%error, "the place in the session is not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::TempDir;

    #[test]
    fn the_last_place_of_each_lane_is_there_when_the_thread_has_ended() {
        let dir = TempDir::new("places");
        let mut places = Places::new(dir.path()).unwrap();
        let (one, other, idle) = (places.place("one"), places.place("other"), places.place("idle"));
        let thread = places.start().unwrap();
        assert_eq!(one.read().unwrap(), None);
        for number in 0..1000 {
            one.set((SessionNo(3), number));
            other.set((SessionNo(4), 2 * number));
        }
        let path = dir.path().join("floor/one");
        drop((one, other, idle));
        thread.join().unwrap();
        let mut places = Places::new(dir.path()).unwrap();
        let read = |lane: &str, places: &mut Places| places.place(lane).read().unwrap();
        assert_eq!(read("one", &mut places), Some((SessionNo(3), 999)));
        assert_eq!(read("other", &mut places), Some((SessionNo(4), 1998)));
        assert_eq!(read("idle", &mut places), None);
        fact::write(&path, b"no place").unwrap();
        let error = places.place("one").read().unwrap_err().to_string();
        assert!(error.contains("holds no session and number"), "{error}");
    }
}
