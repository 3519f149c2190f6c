//! The receiver's alarms: their codes, who watches them, and where they go.
//!
//! A code never changes and is never given to another alarm. `DS-R-01` is about receiving, `02` about releases, `03` about
//! trust and clocks, `04` about this host, `05` about roles and mirrors.

use std::path::Path;
use std::sync::Arc;

use diodesync_control::alarms::{Codes, Config, Hook, Identity, Places, Threads};

use crate::api::Daemon;

/// Id, code, and what it means.
pub const CODES: Codes = &[
    ("silence", "DS-R-0101", "nothing comes over a lane"),
    ("mtu", "DS-R-0102", "small datagrams come, and full-size ones do not"),
    ("session-refused", "DS-R-0103", "a session is refused: an old number, another key, another version"),
    ("kernel-drops", "DS-R-0104", "the kernel drops datagrams for want of buffer"),
    ("blocks-not-written", "DS-R-0105", "decoded blocks cannot be written"),
    ("upstream", "DS-R-0106", "the receiver that a mirror host follows is not reached"),
    ("upstream-wrong", "DS-R-0107", "what that receiver gives is not what was signed"),
    ("release-refused", "DS-R-0201", "a release is not published"),
    ("release-incomplete", "DS-R-0202", "the last round is over and blocks are lacking"),
    ("release-never-came", "DS-R-0203", "a release was sent and nothing of it was understood"),
    ("no-space", "DS-R-0204", "a release is held because there is no room for it"),
    ("damaged", "DS-R-0205", "what is published is damaged and not served"),
    ("looking-for-blocks", "DS-R-0206", "after a start the packs are looked through"),
    ("release-held", "DS-R-0207", "a release waits for approvers"),
    ("release-unscanned", "DS-R-0208", "a release waits for a scanner that is down"),
    ("refused", "DS-R-0301", "metadata or an index is refused"),
    ("unnamed-index", "DS-R-0302", "an index came that no metadata names"),
    ("metadata-expires", "DS-R-0303", "the metadata is about to expire"),
    ("clock-skew", "DS-R-0304", "the clocks are too far apart: nothing is published"),
    ("clock-acknowledged", "DS-R-0305", "the clocks are apart, and that was acknowledged"),
    ("disk-full", "DS-R-0401", "less is free than what is kept back"),
    ("disk", "DS-R-0402", "the disk cannot be measured"),
    ("journal", "DS-R-0403", "the journal is closed"),
    ("retention", "DS-R-0404", "what is not kept cannot be given back"),
    ("publisher", "DS-R-0405", "the publisher cannot go on"),
    ("audit", "DS-R-0406", "the audit log cannot be written, or is not what was written"),
    ("dashboard", "DS-R-0407", "the dashboard does not answer"),
    ("certificate", "DS-R-0408", "the mirror's certificate is wrong, or about to expire"),
    ("apt-key", "DS-R-0409", "the key of the apt archive is about to expire"),
    ("alarm-command", "DS-R-0410", "alarms do not get through to the command"),
    ("alarm-webhook", "DS-R-0411", "alarms do not get through to the webhook"),
    ("lane-role", "DS-R-0501", "nothing receives"),
    ("serve-role", "DS-R-0502", "nothing serves, or not what is published"),
    ("mirror-role", "DS-R-0503", "nothing pushes to mirrors and webhook"),
    ("mirror-behind", "DS-R-0504", "a mirror of the site is behind"),
    ("feed", "DS-R-0505", "mirror hosts are not fed"),
];

/// Where hooks keep how far they have got: the webhook in the folder of the role that has a network.
fn places(dir: &Path) -> Places {
    Places { command: dir.join("alarms.command"), webhook: dir.join("mirror/alarms") }
}

/// Watches the daemon's alarms, and takes them to the command.
pub fn watch(daemon: Arc<Daemon>) -> anyhow::Result<Threads> {
    let dir = daemon.config.dir.clone();
    let identity = Identity { side: "receiver", link: daemon.link, codes: CODES };
    let command = Hook::command(&daemon.config.alarms);
    Threads::watch(&dir, identity, move || {
        daemon.status().alarms.into_iter().map(|alarm| (alarm.id, alarm.text)).collect()
    })?
    .with(&dir, command, places(&dir).command)
}

/// Takes them to the webhook, too.
pub fn with_webhook(threads: Threads, dir: &Path, config: &Config) -> anyhow::Result<Threads> {
    threads.with(dir, Hook::webhook(config)?, places(dir).webhook)
}

/// What does not get through: id and text.
pub fn troubles(dir: &Path, config: &Config) -> Vec<(&'static str, String)> {
    places(dir).troubles(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_of_the_source_has_a_code_and_each_code_one_alarm() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let used = diodesync_control::alarms::used_ids(&source);
        assert!(used.len() > 20, "{used:?}");
        for id in &used {
            assert!(CODES.iter().any(|(known, ..)| known == id), "alarm {id} has no code");
        }
        let codes: std::collections::BTreeSet<_> = CODES.iter().map(|(_, code, _)| code).collect();
        let ids: std::collections::BTreeSet<_> = CODES.iter().map(|(id, ..)| id).collect();
        assert_eq!((codes.len(), ids.len()), (CODES.len(), CODES.len()));
    }
}
