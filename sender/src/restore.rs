//! `restore`: a sender that was restored from a backup has forgotten numbers, and the high side has not.
//!
//! The receiver's status shows them in one line to be copied. What was released since the backup has to be submitted
//! again; the next release of each channel is full.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context;
use diodesync::audit::Event;
use diodesync::id::{Channel, ReleaseNo};
use diodesync_control::{DirLock, clock_s};

use crate::audit;
use crate::config::Config;
use crate::store::Store;

/// What `restore` is told.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The newest release of a channel that the high side knows, as CHANNEL=NUMBER
    #[arg(long, value_name = "CHANNEL=N", required = true)]
    floor: Vec<Floor>,
    /// The newest version of TUF metadata that the high side knows
    #[arg(long, value_name = "N")]
    versions: u64,
    /// The newest session that the high side knows; needed where this side's clock is behind
    #[arg(long, value_name = "N")]
    session: Option<u64>,
}

/// `CHANNEL=N`.
#[derive(Debug, Clone)]
struct Floor(Channel, ReleaseNo);

impl FromStr for Floor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected CHANNEL=NUMBER like main=41, found {text:?}");
        let (channel, number) = text.split_once('=').ok_or_else(expected)?;
        let channel = channel.parse().map_err(|error| format!("{error}"))?;
        Ok(Self(channel, ReleaseNo(number.parse().map_err(|_| expected())?)))
    }
}

/// Goes on above the numbers.
pub fn restore(config: &Config, args: &RestoreArgs) -> anyhow::Result<()> {
    let _lock = DirLock::take(&config.dir, "lock").context("the sender is restored while it does not run")?;
    let mut store = Store::open(&config.dir)?;
    let floors: BTreeMap<Channel, ReleaseNo> =
        args.floor.iter().map(|Floor(channel, number)| (channel.clone(), *number)).collect();
    let event = Event::Restored {
        floors: floors.iter().map(|(channel, number)| format!("{channel}={number}")).collect(),
        versions: args.versions,
    };
    audit::tell(&config.dir, event)?;
    store.restore(&floors, args.versions, args.session, clock_s())?;
    for (channel, number) in &floors {
        println!("channel {channel} goes on with release {}, which sends everything", number.0 + 1);
    }
    println!("Submit again what was submitted since the backup, start the sender, and: diode-sender release");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_a_channel_and_a_number() {
        let Floor(channel, number) = "main=41".parse().unwrap();
        assert_eq!((channel, number), (Channel::main(), ReleaseNo(41)));
        for bad in ["main", "=1", "main=", "main=-1", "Main=1", "main=1=2"] {
            assert!(bad.parse::<Floor>().is_err(), "{bad}");
        }
    }
}
