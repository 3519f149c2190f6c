//! `reload`: what may be published is read again from the configuration, without a restart.

use diodesync::id::LinkId;
use diodesync_control::reload::{InForce, Part, Reloaded};

use crate::config::Config;
use crate::publish::{Gate, PublishShared, Rules};
use crate::scan::ScanConfig;

/// What is taken while it runs.
const TAKEN: [(&str, Part); 4] =
    [("policy", Part::All), ("approver", Part::All), ("scan", Part::All), ("channel", Part::All)];

/// What the configuration says of what may be published.
pub fn rules(config: &Config, link: LinkId) -> anyhow::Result<Rules> {
    let gate = Gate {
        link,
        policy: config.policy(),
        approvers: config.approvers(),
        quorum: config.quorum(),
        scanner: config.scan.as_ref().map(ScanConfig::scanner).transpose()?,
    };
    Ok(Rules { gate, keep: config.keep() })
}

/// Reads the configuration anew, and has the publisher go by it. Blocks the thread.
///
/// # Errors
/// If it is not sound; then everything stays as it was.
pub fn reload(
    in_force: &InForce,
    link: LinkId,
    publish: &PublishShared,
    tell: impl FnOnce(&Reloaded) -> anyhow::Result<()>,
) -> anyhow::Result<Reloaded> {
    in_force.reload(&TAKEN, Config::parse, |config, reloaded| {
        let rules = rules(&config, link)?;
        tell(reloaded)?;
        publish.reload(rules)
    })
}
