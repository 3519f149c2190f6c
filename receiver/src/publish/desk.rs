//! Where others ask the publisher something that only its thread may do, and wait for the answer.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

/// Time for an answer: everything stored may be looked through.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// Questions that wait.
const QUESTIONS_MAX: usize = 16;

/// A question, and who asks.
type Asked<Q, A> = (Q, SyncSender<Result<A, String>>);

/// Questions that wait for the publisher.
#[derive(Debug)]
pub struct Desk<Q, A>(Mutex<Vec<Asked<Q, A>>>);

impl<Q, A> Default for Desk<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q, A> Desk<Q, A> {
    /// Asks, and blocks the thread until there is an answer.
    pub fn ask(&self, question: Q) -> anyhow::Result<A> {
        let (answer, answered) = sync_channel(1);
        {
            let mut questions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            anyhow::ensure!(questions.len() < QUESTIONS_MAX, "{QUESTIONS_MAX} others ask already; try again");
            questions.push((question, answer));
        }
        let answer = answered
            .recv_timeout(ANSWER_MAX)
            .context("the publisher is busy and does not answer; try again")?;
        answer.map_err(anyhow::Error::msg)
    }

    /// Answers everyone who waits.
    pub fn answer(&self, mut how: impl FnMut(Q) -> Result<A, String>) {
        let questions = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (question, answer) in questions {
            // Who does not wait any more has gone.
            let _ = answer.try_send(how(question));
        }
    }
}
