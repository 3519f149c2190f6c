//! What is lost for good is asked for by hand: `missing --ticket` on the high side, `resend` or `export --ticket` on the
//! low side.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::prng::Prng;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::status::{ReleaseState, SendState};
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// A pair of one round, and a release of 24 files of 1 MiB of which the link was cut for a while.
struct Lacking {
    pair: Pair,
}

impl Lacking {
    fn new(name: &'static str) -> Self {
        let setup = Setup { name, rate: "40mbit".to_owned(), rounds: 1, ..Setup::default() };
        let pair = Pair::over_link(&setup, Weather::clear()).unwrap();
        let mut lacking = Self { pair };
        lacking.pair.start().unwrap();
        lacking.change(0..24);
        lacking.release();
        lacking.lose_some(1);
        lacking
    }

    fn change(&self, files: std::ops::Range<u64>) {
        for file in files {
            let octets = tree::octets(&mut Prng::new(file), 1 << 20);
            tree::write(&self.pair.dir.join("tree"), &format!("f{file:02}"), &octets, 0o644).unwrap();
        }
    }

    fn release(&self) {
        self.pair.low.ok(&["submit", "files", self.pair.dir.join("tree").to_str().unwrap()]).unwrap();
        self.pair.low.ok(&["release"]).unwrap();
    }

    /// Cuts the link in the middle of a release, and waits for its only round to be over.
    fn lose_some(&mut self, number: u64) {
        wait_for("some blocks are held", MINUTE, || {
            let held = self.pair.high_status()?.release("main", number).map_or(0, |r| r.blocks_held);
            Ok((held >= 6).then_some(()))
        })
        .unwrap();
        self.pair.link().unwrap().cut(true);
        std::thread::sleep(Duration::from_secs(1));
        self.pair.link().unwrap().cut(false);
        self.wait_incomplete(number);
    }

    fn wait_incomplete(&self, number: u64) {
        wait_for("the release is incomplete", MINUTE, || {
            let status = self.pair.high_status()?;
            let release = status.release("main", number);
            Ok(release.filter(|release| release.state == ReleaseState::Incomplete).map(drop))
        })
        .unwrap();
    }

    fn lacks(&self, number: u64) -> u64 {
        let status = self.pair.high_status().unwrap();
        let release = status.release("main", number).unwrap();
        release.blocks_needed - release.blocks_held
    }

    fn ticket(&self) -> String {
        self.pair.high.ok(&["missing", "--ticket"]).unwrap()
    }

    fn compare(&self) {
        let expected = tree::digests(&self.pair.dir.join("tree"), "tree").unwrap();
        self.pair.mirror().unwrap().compare_files(&expected).unwrap();
        let done = self.pair.high.run(&["missing", "--ticket"]).unwrap();
        assert!(done.stdout.is_empty() && done.stderr.contains("nothing is missing"), "{done:?}");
    }
}

#[test]
fn a_ticket_brings_what_is_lacking_and_nothing_else() {
    let _alone = alone();
    let mut lacking = Lacking::new("ticket");
    let lacks = lacking.lacks(1);
    assert!(lacks >= 2, "only {lacks} blocks were lost");
    let ticket = lacking.ticket();
    assert!(ticket.lines().all(|line| line.len() <= 63), "{ticket}");
    let codes = lacking.pair.high.ok(&["missing", "--ticket", "--qr"]).unwrap();
    assert!(codes.contains('█') && codes.starts_with(ticket.lines().next().unwrap().get(..4).unwrap()));

    // Any character of it changed is refused, and named if it is not even mistyped as a whole.
    for at in (0..ticket.len()).filter(|at| !ticket.as_bytes()[*at].is_ascii_whitespace()).step_by(7) {
        let mut changed = ticket.clone().into_bytes();
        changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
        let changed = String::from_utf8(changed).unwrap();
        let done = lacking.pair.low.run(&["resend", &changed]).unwrap();
        assert!(done.code == Some(1) && done.stderr.contains("line"), "{at}: {done:?}");
    }
    let before = lacking.pair.low_status().unwrap().sent_bytes();
    let file = lacking.pair.dir.join("ticket.txt");
    std::fs::write(&file, &ticket).unwrap();
    let said = lacking.pair.low.ok(&["resend", file.to_str().unwrap()]).unwrap();
    assert!(said.contains(&format!("{lacks} blocks")), "{said}");
    lacking.pair.wait_published(1, MINUTE).unwrap();
    lacking.compare();
    let sent = lacking.pair.low_status().unwrap().sent_bytes() - before;
    let most = (lacks + 1) * (1 << 20) * 125 / 100;
    assert!(sent < most, "{sent} octets were sent for {lacks} blocks");
    wait_for("the ticket is answered", MINUTE, || {
        let open = std::fs::read_dir(lacking.pair.low.dir().join("resends"))?.count();
        Ok((open == 0).then_some(()))
    })
    .unwrap();

    // A ticket that comes while another one is being answered takes nothing from it.
    let before = lacking.pair.low_status().unwrap().sent_bytes();
    lacking.pair.low.ok(&["resend", "--release", "1"]).unwrap();
    lacking.pair.low.ok(&["resend", file.to_str().unwrap()]).unwrap();
    wait_for("both are answered", MINUTE, || {
        let open = std::fs::read_dir(lacking.pair.low.dir().join("resends"))?.count();
        Ok((open == 0).then_some(()))
    })
    .unwrap();
    let sent = lacking.pair.low_status().unwrap().sent_bytes() - before;
    assert!(sent >= 24 << 20, "{sent} octets were sent for all of the release and a ticket");
}

#[test]
fn a_ticket_is_answered_over_a_kill_and_goes_with_a_newer_release() {
    let _alone = alone();
    let mut lacking = Lacking::new("ticket-kill");
    let ticket = lacking.ticket();
    // Nothing arrives, the sender dies in the middle, and a newer release is cut.
    lacking.pair.link().unwrap().cut(true);
    let before = lacking.pair.low_status().unwrap().sent_bytes();
    lacking.pair.low.ok(&["resend", &ticket]).unwrap();
    wait_for("some of it is sent", MINUTE, || {
        Ok((lacking.pair.low_status()?.sent_bytes() > before + (1 << 20)).then_some(()))
    })
    .unwrap();
    lacking.pair.low.kill_9().unwrap();
    lacking.pair.link().unwrap().cut(false);
    lacking.pair.low.start().unwrap();
    lacking.change(24..26);
    lacking.release();
    lacking.pair.wait_published(2, MINUTE).unwrap();
    lacking.compare();

    // A ticket for a release that has been superseded still helps.
    lacking.change(26..48);
    lacking.release();
    lacking.lose_some(3);
    let ticket = lacking.ticket();
    tree::write(&lacking.pair.dir.join("tree"), "last", b"last\n", 0o644).unwrap();
    lacking.release();
    wait_for("release 4 went out", MINUTE, || {
        let status = lacking.pair.low_status()?;
        let main = status.channel("main").filter(|main| main.newest == Some(4));
        Ok(main.filter(|main| main.state == SendState::Complete).map(drop))
    })
    .unwrap();
    lacking.wait_incomplete(4);
    let said = lacking.pair.low.ok(&["resend", &ticket]).unwrap();
    assert!(said.contains("release 4, which has superseded it"), "{said}");
    lacking.pair.wait_published(4, MINUTE).unwrap();
    lacking.compare();
}

#[test]
fn a_ticket_is_answered_on_a_stick() {
    let _alone = alone();
    let mut lacking = Lacking::new("ticket-stick");
    let lacks = lacking.lacks(1);
    let file = lacking.pair.dir.join("ticket.txt");
    std::fs::write(&file, lacking.ticket()).unwrap();
    let stick = lacking.pair.dir.join("stick");
    std::fs::create_dir(&stick).unwrap();
    let (stick, file) = (stick.display().to_string(), file.display().to_string());
    let words = ["export", "--to", &stick, "--ticket", &file, "--volume-size", "1GB"];
    let said = lacking.pair.low.ok(&words).unwrap();
    assert!(said.contains(&format!("the {lacks} blocks that the ticket asks for")), "{said}");
    lacking.pair.high.ok(&["import", &stick]).unwrap();
    lacking.pair.wait_published(1, MINUTE).unwrap();
    lacking.compare();
}

/// What nobody has missed comes again by itself, if the operator says how often.
#[test]
fn everything_is_sent_again_when_it_is_due() {
    let _alone = alone();
    let mut lacking = Lacking::new("full-every");
    lacking.pair.low.stop().unwrap();
    lacking.pair.low.set(&["channel", "name"], "main").unwrap();
    lacking.pair.low.set(&["channel", "full_every"], "10s").unwrap();
    lacking.pair.low.start().unwrap();
    lacking.pair.wait_published(2, MINUTE).unwrap();
    lacking.compare();
}

/// Not even the index came: the ticket asks for everything since what is published.
#[test]
fn a_ticket_asks_for_a_release_of_which_nothing_came() {
    let _alone = alone();
    let mut lacking = Lacking::new("ticket-none");
    lacking.pair.low.ok(&["resend", &lacking.ticket()]).unwrap();
    lacking.pair.wait_published(1, MINUTE).unwrap();
    lacking.change(24..30);
    lacking.pair.link().unwrap().cut(true);
    lacking.release();
    wait_for("its round is over", MINUTE, || {
        let status = lacking.pair.low_status()?;
        Ok(status.channel("main").filter(|main| main.state == SendState::Complete).map(drop))
    })
    .unwrap();
    lacking.pair.link().unwrap().cut(false);
    wait_for("the alarm", MINUTE, || Ok(lacking.pair.high_status()?.alarm("release-never-came").map(drop)))
        .unwrap();
    let ticket = lacking.ticket();
    assert_eq!(ticket.lines().count(), 2, "{ticket}");
    let unknown = lacking.pair.low.run(&["resend", "--release", "9"]).unwrap();
    assert!(unknown.code == Some(1) && unknown.stderr.contains("the newest here is 2"), "{unknown:?}");
    lacking.pair.low.ok(&["resend", &ticket]).unwrap();
    lacking.pair.wait_published(2, MINUTE).unwrap();
    lacking.compare();
    // Without a ticket, all of a release; nothing of it is needed any more.
    let said = lacking.pair.low.ok(&["resend", "--release", "2"]).unwrap();
    let needed = lacking.pair.high_status().unwrap().release("main", 2).unwrap().blocks_needed;
    assert!(said.contains(&format!("{needed} blocks")), "{said}");
    // Of another pair it is refused.
    let other =
        Pair::over_link(&Setup { name: "ticket-other", ..Setup::default() }, Weather::clear()).unwrap();
    lacking.pair.low.stop().unwrap();
    let mut other = other;
    other.low.start().unwrap();
    let done = other.low.run(&["resend", &ticket]).unwrap();
    assert!(done.code == Some(1) && done.stderr.contains("of another link"), "{done:?}");
}
