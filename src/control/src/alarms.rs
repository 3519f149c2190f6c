//! What becomes of alarms: each that is raised, and each that is over, is a line in the journal with a code that stays the
//! same, and goes to a command and to a webhook of this side.
//!
//! ```text
//! DIR/alarms             what is raised, and the newest events; the role that knows the alarms writes it
//! DIR/alarms.command     how far the command has got
//! DIR/mirror/alarms      how far the webhook has got, on the receiver: by the role that has a network
//! DIR/alarms.webhook     the same on the sender
//! ```
//!
//! An event stays until it was taken, over restarts, too: a command that ends with another exit code than 0 and a server
//! that does not answer with 2xx get it again, after pauses of up to five minutes. Of more than [`EVENTS_MAX`] that wait the
//! oldest go. An event may come twice; its number says so.
//!
//! As JSON, on the command's standard input and as the body of a POST:
//!
//! | key | says |
//! |---|---|
//! | `seq` | number of the event on this side: 1, 2, 3 … |
//! | `time_ms` | when, milliseconds since 1970 |
//! | `side`, `link` | whose |
//! | `event` | the code: `DS-R-0101` |
//! | `alarm`, `about` | its id, as `status` shows it; the lane, release, mirror or source that it names, if it does |
//! | `state` | `raised` or `cleared` |
//! | `text` | what `status` says; of an alarm that is over, what it said last |

mod config;
mod deliver;
mod post;
mod threads;
mod watch;

pub use config::Config;
pub use deliver::{Deliverer, Hook, Trouble};
pub use threads::{Places, Threads};
pub use watch::{Codes, EVENTS_MAX, Event, Identity, Watch};

/// The ids of the alarms that a program's source raises, for the test that each has a code.
pub fn used_ids(source: &std::path::Path) -> std::collections::BTreeSet<String> {
    let mut ids = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(source).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            ids.extend(used_ids(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for (at, beginning) in text.match_indices("alarm(").chain(text.match_indices("Alarm { id:")) {
            let rest = text.get(at + beginning.len()..).unwrap_or_default().trim_start();
            let id = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
            ids.extend(id.map(str::to_owned));
        }
    }
    ids
}
