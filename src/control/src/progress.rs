//! Progress of long commands: a bar on a terminal, silence in a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over octets.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar on standard error if that is a terminal.
    pub fn new(total_bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
        let template = "{bar:30} {percent:>3} % {binary_bytes:>11}/{binary_total_bytes} {binary_bytes_per_sec:>12} \
                        {eta:>4} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// A bar that nobody sees.
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// What is being done.
    pub fn message(&self, text: impl Into<String>) {
        self.0.set_message(text.into());
    }

    /// That much more is done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// That much is done of so much.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
