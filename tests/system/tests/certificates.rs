//! The mirror's certificate: the site's own is checked before it is used, replaced without a restart, and watched; ours
//! is renewed, and no clock keeps the mirror from serving.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::clock::ShiftedClock;
use diodesync_system::deb::run;
use diodesync_system::https::Https;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::skip::Skip;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);

/// A site's authority.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(dir: PathBuf) -> Result<Self, Skip> {
        for program in ["openssl", "faketime"] {
            let found = Command::new(program).arg("--help").output();
            found.map_err(|error| {
                Skip::curable(format!("cannot run {program} ({error}); so is the package"))
            })?;
        }
        std::fs::create_dir_all(&dir).unwrap();
        let authority = Self { dir };
        let (key, pem) = (authority.path("ca.key"), authority.path("ca.pem"));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        make.args(["-days", "3650", "-subj", "/CN=The site's authority", "-keyout"]).arg(key);
        run(make.arg("-out").arg(pem)).unwrap();
        Ok(authority)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A chain and its key for a host, made so long ago, for so many days.
    fn certificate(&self, name: &str, host: &str, made: &str, days: u32) -> (PathBuf, PathBuf) {
        let [key, request, chain, names] =
            ["key", "csr", "pem", "names"].map(|kind| self.path(&format!("{name}.{kind}")));
        let mut ask = Command::new("openssl");
        ask.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        ask.args(["-subj", &format!("/CN={host}"), "-keyout"]).arg(&key).arg("-out").arg(&request);
        run(&mut ask).unwrap();
        std::fs::write(&names, format!("subjectAltName=DNS:{host}\n")).unwrap();
        let mut sign = Command::new("faketime");
        sign.args([made, "openssl", "x509", "-req", "-days", &days.to_string(), "-CAcreateserial", "-in"]);
        sign.arg(&request).arg("-CA").arg(self.path("ca.pem")).arg("-CAkey").arg(self.path("ca.key"));
        run(sign.arg("-extfile").arg(&names).arg("-out").arg(&chain)).unwrap();
        (chain, key)
    }
}

/// Puts a file in the place of another one, whole.
fn replace(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(from, &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

fn alarm(pair: &Pair) -> Option<String> {
    pair.high_status().unwrap().alarm("certificate").map(|alarm| alarm.text.clone())
}

fn wait_alarm(pair: &Pair, words: &str) {
    wait_for(&format!("the alarm says {words:?}"), MINUTE, || {
        Ok(alarm(pair).is_some_and(|text| text.contains(words)).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}; it says {:?}", alarm(pair)));
}

/// Whether a client that trusts this authority is served.
fn is_served(pair: &Pair, ca: &Path) -> bool {
    Https::new(ca, pair.serve_port(), None).unwrap().get("/healthz").is_ok()
}

fn site_certificates(split: bool, name: &'static str) {
    let _alone = alone();
    let mut pair = Pair::over_link(&Setup { name, ..Setup::default() }, Weather::clear()).unwrap();
    if split {
        pair.high.split();
    }
    let site = match Authority::new(pair.dir.join("site")) {
        Ok(site) => site,
        Err(skip) => return skip.announce_or_fail_in_ci("certificates of the site's own"),
    };
    let (chain, key) = (site.path("mirror.pem"), site.path("mirror.key"));
    let put = |(from_chain, from_key): &(PathBuf, PathBuf)| {
        replace(from_key, &key);
        replace(from_chain, &chain);
    };
    pair.high.set(&["serve", "certificate"], chain.display().to_string()).unwrap();
    pair.high.set(&["serve", "key"], key.display().to_string()).unwrap();

    let soon = site.certificate("soon", "localhost", "1 hour ago", 10);
    let good = site.certificate("good", "localhost", "1 hour ago", 300);
    let other_host = site.certificate("other", "mirror.example", "1 hour ago", 300);
    let expired = site.certificate("expired", "localhost", "40 days ago", 10);
    let early = site.certificate("early", "localhost", "+3 days", 10);
    for (bad, words) in [
        (&other_host, "not for localhost"),
        (&expired, "expired at"),
        (&early, "not valid before"),
        (&(good.0.clone(), soon.1.clone()), "does not belong"),
        (&(good.1.clone(), good.1.clone()), "does not hold certificates"),
    ] {
        put(bad);
        let error = pair.high.start().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&chain.display().to_string()), "{error}");
        let _ = pair.high.kill_9();
    }

    put(&soon);
    pair.high.start().unwrap();
    let ca = site.path("ca.pem");
    assert!(is_served(&pair, &ca));
    wait_alarm(&pair, "no restart is needed");
    // What is wrong is named, and what was in use stays.
    for (bad, words) in [(&other_host, "not for localhost"), (&expired, "expired at")] {
        put(bad);
        wait_alarm(&pair, words);
        assert!(is_served(&pair, &ca), "the old certificate is not used any more");
    }
    put(&good);
    wait_for("the alarm is over", MINUTE, || Ok(alarm(&pair).is_none().then_some(()))).unwrap();
    assert!(is_served(&pair, &ca));
    assert!(!is_served(&pair, &pair.ca()), "who trusts another authority is served");
}

#[test]
fn the_sites_own_certificate_is_checked_and_replaced_without_a_restart() {
    site_certificates(false, "site-cert");
}

#[test]
fn so_it_is_when_another_process_serves() {
    site_certificates(true, "site-cert-roles");
}

/// Our own: renewed when its end is near, and no reason not to serve when the clock is wrong.
#[test]
fn a_wrong_clock_is_an_alarm_and_no_end() {
    let _alone = alone();
    let mut pair =
        Pair::over_link(&Setup { name: "own-cert", ..Setup::default() }, Weather::clear()).unwrap();
    let clock = match ShiftedClock::new(pair.dir.join("shift")) {
        Ok(clock) => clock,
        Err(skip) => return skip.announce_or_fail_in_ci("certificates and wrong clocks"),
    };
    clock.give_to(&mut pair.high);
    let read = |pair: &Pair| std::fs::read(pair.high.dir().join("server.pem")).unwrap();
    let first = read(&pair);
    clock.set("-400d").unwrap();
    pair.high.start().unwrap();
    wait_alarm(&pair, "not valid before");
    assert!(is_served(&pair, &pair.ca()), "clients whose clock is right are served");
    assert_eq!(read(&pair), first);
    pair.high.stop().unwrap();
    // It has 397 days; 20 before its end it is made anew.
    clock.set("+377d").unwrap();
    pair.high.start().unwrap();
    assert_eq!(alarm(&pair), None);
    assert_ne!(read(&pair), first);
    pair.high.stop().unwrap();
}
