//! `missing --ticket`: what is lacking, as a ticket for an operator to carry to the sender ([`diodesync::ticket`]).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use diodesync::id::{Channel, ReleaseNo};
use diodesync::link::Paired;
use diodesync::release::index::Index;
use diodesync::ticket::{Ticket, Want, What};
use qrcodegen::{QrCode, QrCodeEcc};

use crate::publish::{Facts, Stage, View};
use crate::serve::Site;

/// Lines of a ticket in one QR code: codes of some 100 modules, which a terminal can show and a camera can read.
const QR_LINES: usize = 16;
/// Modules of the margin that readers need.
const QR_MARGIN: i32 = 4;

/// The ticket for everything that is lacking and does not come by itself; none if nothing is.
pub fn make(
    dir: &Path,
    paired: &Paired,
    site: &Site,
    publish: &View,
    now_s: u64,
) -> anyhow::Result<Option<String>> {
    let facts = Facts::open(dir)?;
    let served = |channel: &Channel| site.releases().iter().find(|index| index.channel == *channel);
    let index = |channel: &Channel, number: ReleaseNo| -> anyhow::Result<Index> {
        facts.index(channel, number).with_context(|| format!("the index of release {channel} {number}"))
    };
    // The newest release of a channel that lacks something: what older ones lack and it needs is among that.
    let mut wants: BTreeMap<Channel, Want> = BTreeMap::new();
    let mut put = |want: Want| {
        let is_older = |before: &Want| before.number > want.number;
        if !wants.get(&want.channel).is_some_and(is_older) {
            wants.insert(want.channel.clone(), want);
        }
    };
    for damaged in &publish.damaged {
        let index = index(&damaged.channel, damaged.number)?;
        put(Want::of_blocks(&index, &damaged.lacking.blocks, None));
    }
    for arrival in publish.arrivals.iter().filter(|arrival| arrival.stage == Stage::Incomplete) {
        let index = index(&arrival.channel, arrival.number)?;
        let published = served(&arrival.channel).map(AsRef::as_ref);
        put(Want::of_blocks(&index, &arrival.lacking.blocks, published));
    }
    for (channel, number) in publish.never_came() {
        let what = publish.published.get(&channel).map_or(What::Everything, |number| What::Since(*number));
        put(Want { channel, number, what });
    }
    if wants.is_empty() {
        return Ok(None);
    }
    let receiver = paired.keys.first().context("this receiver has no key")?.public().id();
    let ticket = Ticket { receiver, made_s: now_s, wants: wants.into_values().collect() };
    Ok(Some(ticket.encode(paired.link, &paired.secret)))
}

/// A ticket as QR codes (ISO/IEC 18004, alphanumeric); read in their order they are the ticket.
pub fn codes(ticket: &str) -> anyhow::Result<Vec<QrCode>> {
    let lines: Vec<&str> = ticket.lines().collect();
    let code = |lines: &[&str]| {
        // Spaces say nothing in a ticket, and cost a reader a larger code.
        let text: String = lines.concat().chars().filter(|c| !c.is_whitespace()).collect();
        QrCode::encode_text(&text, QrCodeEcc::Low).ok().context("the ticket fits no QR code")
    };
    lines.chunks(QR_LINES).map(code).collect()
}

/// A ticket as QR codes for a terminal, one below the other.
pub fn qr(ticket: &str) -> anyhow::Result<String> {
    let codes = codes(ticket)?;
    let mut out = String::new();
    for (at, code) in codes.iter().enumerate() {
        if codes.len() > 1 {
            out.push_str(&format!("{} of {}\n", at + 1, codes.len()));
        }
        // Two modules in a character, dark on light whatever the terminal's colours are.
        let range = -QR_MARGIN..code.size() + QR_MARGIN;
        for y in range.clone().step_by(2) {
            out.push_str("\x1b[30;107m");
            for x in range.clone() {
                out.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                });
            }
            out.push_str("\x1b[0m\n");
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_ticket_is_several_codes_that_fit_a_terminal() {
        let line = "0123456789ABCDEFGHJKMNPQRSTVWXYZ0123456789ABCDEFGHJK";
        let ticket = format!("{line}\n").repeat(40);
        let codes = qr(&ticket).unwrap();
        assert!(codes.starts_with("1 of 3\n") && codes.contains("\n3 of 3\n"));
        let widths: Vec<usize> = codes.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width < 140), "{widths:?}");
        assert!(!qr(line).unwrap().contains(" of "), "one code needs no number");
    }
}
