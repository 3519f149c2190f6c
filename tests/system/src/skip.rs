//! Tests that cannot run on this machine say so where everybody sees it, and fail where they should have run.

use std::io::Write as _;

/// Why something cannot be tried here.
#[derive(Debug, Clone)]
pub struct Skip {
    /// The reason, for a person.
    pub reason: String,
    /// Whether this machine could be made to do it: a missing package or missing privileges, not a kernel that
    /// lacks the feature.
    pub curable: bool,
}

impl Skip {
    /// Something that root or a package would cure.
    pub fn curable(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), curable: true }
    }

    /// Something that this machine cannot do.
    pub fn incurable(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), curable: false }
    }

    /// Prints `SKIPPED: what: reason` past the test runner's capture of output.
    pub fn announce(&self, what: &str) {
        // A handle is not captured, the macros are. One write on a line of its own, whatever the runner prints beside it.
        let line = format!("\nSKIPPED: {what}: {}\n", self.reason);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    /// [`Skip::announce`], but a curable reason fails the test under `CI=true`.
    ///
    /// # Panics
    /// Under `CI=true` with a curable reason.
    pub fn announce_or_fail_in_ci(&self, what: &str) {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!(ci && self.curable), "{what} must run under CI=true: {}", self.reason);
        self.announce(what);
    }
}
