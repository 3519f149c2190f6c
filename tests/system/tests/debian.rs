//! The Debian packages of both sides, built by `systemd/debian/build`, in a machine of its own with a real systemd:
//! installed, started, upgraded, removed and purged, with a release going across whenever both run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diodesync_system::bins::workspace;
use diodesync_system::deb::run;
use diodesync_system::machine::Machine;
use diodesync_system::packaged::{SIDES, build, find_tools};
use diodesync_system::scratch::Scratch;
use diodesync_system::status::{ReceiverStatus, ReleaseState};
use diodesync_system::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
const ROLES: [&str; 4] = ["publish", "lane", "serve", "mirror"];

/// What `dpkg-deb --contents` lists: the mode and the owner by path.
fn contents(package: &Path) -> BTreeMap<String, String> {
    let listed = run(Command::new("dpkg-deb").arg("--contents").arg(package)).unwrap();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[5].trim_start_matches("./").to_owned(), format!("{} {}", words[0], words[1]))
    };
    listed.lines().map(entry).collect()
}

/// Where packages put what they have, and nothing elsewhere.
fn check_contents(side: &str, package: &Path) {
    let contents = contents(package);
    let name = format!("diodesync-{side}");
    let mut files = vec![
        format!("usr/bin/diode-{side}"),
        format!("usr/lib/systemd/system/{name}.service"),
        format!("usr/lib/systemd/system-preset/60-{name}.preset"),
        format!("usr/lib/sysusers.d/{name}.conf"),
        format!("usr/lib/tmpfiles.d/{name}.conf"),
        format!("usr/lib/sysctl.d/60-{name}.conf"),
        format!("usr/share/bash-completion/completions/diode-{side}"),
        format!("usr/share/zsh/vendor-completions/_diode-{side}"),
        format!("usr/share/fish/vendor_completions.d/diode-{side}.fish"),
        format!("usr/share/man/man1/diode-{side}.1.gz"),
        format!("usr/share/man/man1/diode-{side}-init.1.gz"),
        format!("usr/share/man/man1/diode-{side}-status.1.gz"),
        format!("usr/share/doc/{name}/copyright"),
        format!("usr/share/doc/{name}/examples/{name}.network.example"),
    ];
    if side == "sender" {
        files.push("usr/share/man/man1/diode-sender-submit-packages.1.gz".to_owned());
    } else {
        files.extend(ROLES.map(|role| format!("usr/lib/systemd/system/{name}-{role}.service")));
        files
            .extend(["dashboard", "lane"].map(|what| format!("usr/lib/systemd/system/{name}-{what}.socket")));
        files.push(format!("usr/lib/systemd/system/{name}.target"));
        files.push(format!("usr/share/doc/{name}/examples/{name}.nft"));
    }
    for file in &files {
        assert!(contents.contains_key(file), "{file} is not in {contents:#?}");
    }
    let program = format!("usr/bin/diode-{side}");
    for (path, attributes) in &contents {
        let expected = match path {
            path if path.ends_with('/') => "drwxr-xr-x 0/0",
            path if *path == program => "-rwxr-xr-x 0/0",
            _ => "-rw-r--r-- 0/0",
        };
        assert_eq!(attributes, expected, "{path}");
        // What builds packages is nothing that operators look for.
        assert!(!path.ends_with("-manual.1.gz") && !path.ends_with("-completions.1.gz"), "{path}");
    }
    let depends = run(Command::new("dpkg-deb").arg("--field").arg(package).arg("Depends")).unwrap();
    assert!(depends.contains("libc6 (>=") && depends.contains("systemd"), "{depends}");
}

/// The gateway's two sides as one machine's packages, which hear each other over its loopback.
struct Site {
    machine: Machine,
}

impl Site {
    /// Installs packages that were copied into the machine.
    fn dpkg(&self, packages: &BTreeMap<&'static str, PathBuf>) -> String {
        for (side, package) in packages {
            let to = self.machine.path(&format!("/tmp/{side}.deb")).unwrap();
            std::fs::copy(package, to).unwrap();
        }
        let said = self.machine.run(&["dpkg", "--install", "/tmp/sender.deb", "/tmp/receiver.deb"]).unwrap();
        let text = format!("{}{}", said.stdout, said.stderr);
        assert_eq!(said.code, Some(0), "{text}");
        text
    }

    /// systemd's word for a unit: active, inactive, failed.
    fn state(&self, unit: &str) -> String {
        self.machine.run(&["systemctl", "is-active", unit]).unwrap().stdout.trim().to_owned()
    }

    /// enabled or disabled.
    fn enabled(&self, unit: &str) -> String {
        self.machine.run(&["systemctl", "is-enabled", unit]).unwrap().stdout.trim().to_owned()
    }

    fn property(&self, unit: &str, property: &str) -> String {
        self.machine
            .ok(&["systemctl", "show", "--value", "--property", property, unit])
            .unwrap()
            .trim()
            .to_owned()
    }

    /// The process of a service that runs, by the user that it has to have.
    fn process(&self, unit: &str) -> String {
        let state = self.state(unit);
        assert_eq!(state, "active", "{unit} says:\n{}", self.machine.log_of(unit));
        let pid = self.property(unit, "MainPID");
        let user = self.machine.ok(&["stat", "--format=%U", &format!("/proc/{pid}")]).unwrap();
        let side = if unit.contains("sender") { "sender" } else { "receiver" };
        assert_eq!(user.trim(), format!("diodesync-{side}"));
        pid
    }

    /// The digests of what a side must not lose.
    fn state_digests(&self) -> String {
        let keys = "/var/lib/diodesync-sender/keys /var/lib/diodesync-sender/link.json \
                    /var/lib/diodesync-receiver/keys /var/lib/diodesync-receiver/pairing";
        let digests = self.machine.sh(&format!("find {keys} -type f | sort | xargs sha256sum")).unwrap();
        assert!(digests.lines().count() >= 8, "{digests}");
        digests
    }

    fn receiver(&self) -> ReceiverStatus {
        let text = self.machine.ok(&["diode-receiver", "status", "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// What a client gets of the newest release.
    fn served(&self) -> String {
        let line = "curl --silent --show-error --fail --cacert /var/lib/diodesync-receiver/ca.pem \
                    https://localhost:8443/files/greeting";
        self.machine.run(&["sh", "-c", line]).unwrap().stdout.trim().to_owned()
    }

    /// Has release `number` cross, and a client get it.
    fn cross(&self, number: u64) {
        // What is sent before a receiver that has just started knows the session comes in the next round only.
        wait_for("the receiver knows the session", MINUTE, || {
            Ok(self.receiver().lanes.iter().any(|lane| lane.session.is_some()).then_some(()))
        })
        .unwrap();
        let text = format!("release {number}");
        self.machine.sh(&format!("echo '{text}' > /root/greeting")).unwrap();
        self.machine.ok(&["diode-sender", "submit", "files", "/root/greeting"]).unwrap();
        self.machine.ok(&["diode-sender", "release"]).unwrap();
        let mut last = None;
        let waited = wait_for(&format!("release {number} is published"), MINUTE, || {
            last = Some(self.receiver());
            let release = last.as_ref().and_then(|status| status.release("main", number));
            Ok(release.is_some_and(|release| release.state == ReleaseState::Published).then_some(()))
        });
        let logs = || SIDES.map(|side| self.machine.log_of(&format!("diodesync-{side}.service"))).concat();
        assert!(waited.is_ok(), "{waited:?}: {last:#?}\n{}", logs());
        self.wait_served(number);
    }

    fn wait_served(&self, number: u64) {
        let text = format!("release {number}");
        wait_for(&format!("{text} is served"), MINUTE, || Ok((self.served() == text).then_some(()))).unwrap();
    }

    /// Has systemd keep keys in place of their files, sealed by the machine's own key.
    fn seal(&self, side: &str, keys: &[&str]) {
        for key in keys {
            let (path, name) = (format!("/var/lib/diodesync-{side}/{key}"), key.rsplit('/').next().unwrap());
            let sealed = format!("/etc/credstore.encrypted/diodesync-{side}.{name}");
            let seal = format!("systemd-creds encrypt --with-key=host {path} {sealed}");
            self.machine.sh(&format!("mkdir -p /etc/credstore.encrypted && {seal} && rm {path}")).unwrap();
        }
    }

    /// As the README says it.
    fn introduce(&self) {
        let sh = |line: &str| self.machine.sh(line).unwrap();
        let (low, high) = ("/var/lib/diodesync-sender", "/var/lib/diodesync-receiver");
        sh(&format!("runuser -u diodesync-receiver -- diode-receiver init --dir {high} --host localhost"));
        sh(&format!("ln -s {high}/receiver.toml /etc/diodesync/ && cp {high}/receiver.pub /tmp/"));
        sh(&format!(
            "runuser -u diodesync-sender -- diode-sender init --dir {low} --receiver /tmp/receiver.pub"
        ));
        sh(&format!("ln -s {low}/sender.toml /etc/diodesync/ && cp {low}/pairing.json /tmp/"));
        sh("runuser -u diodesync-receiver -- diode-receiver pair /tmp/pairing.json");
        sh(r#"sed -i 's/^to = .*/to = "127.0.0.1:7400"/' /etc/diodesync/sender.toml"#);
        // sed has made a file of the link.
        sh(&format!("mv /etc/diodesync/sender.toml {low}/ && ln -s {low}/sender.toml /etc/diodesync/"));
        sh(&format!("chown diodesync-sender: {low}/sender.toml"));
    }
}

#[test]
fn they_install_upgrade_remove_and_purge_as_debian_users_expect() {
    const WHAT: &str = "the Debian packages";
    if let Err(skip) = find_tools() {
        return skip.announce_or_fail_in_ci(WHAT);
    }
    let scratch = Scratch::new("debian").unwrap();
    let [old, new] = ["1", "2"].map(|revision| build(scratch.path(), revision).unwrap());
    for (side, package) in &old {
        check_contents(side, package);
    }
    // Both can be on one machine.
    let [low, high] = SIDES.map(|side| contents(&old[side]));
    let shared: Vec<_> = low.keys().filter(|path| !path.ends_with('/') && high.contains_key(*path)).collect();
    assert!(shared.is_empty(), "{shared:?}");
    let site = match Machine::boot("debian") {
        Ok(machine) => Site { machine },
        Err(skip) => return skip.announce_or_fail_in_ci(WHAT),
    };
    let machine = &site.machine;

    // Installed: users, folders, services that wait for their configuration.
    site.dpkg(&old);
    for side in SIDES {
        let name = format!("diodesync-{side}");
        let user = machine.ok(&["getent", "passwd", &name]).unwrap();
        assert!(user.contains(&format!(":/var/lib/{name}:")) && user.contains("nologin"), "{user}");
        let owner = machine.ok(&["stat", "--format=%U:%G %a", &format!("/var/lib/{name}")]).unwrap();
        assert_eq!(owner.trim(), format!("{name}:{name} 750"));
        assert_eq!(site.enabled(&name), "enabled");
        assert_eq!(site.property(&name, "ConditionResult"), "no");
        assert_eq!(site.state(&name), "inactive");
        machine.ok(&[&format!("diode-{side}"), "--version"]).unwrap();
    }
    assert_eq!(site.enabled("diodesync-receiver.target"), "disabled");
    // What is packed of systemd's is in order, and says nothing twice.
    let said = machine.run(&["systemd-tmpfiles", "--create", "--prefix=/var/lib", "--prefix=/etc"]).unwrap();
    assert!(!said.stderr.contains("diodesync"), "{}", said.stderr);
    machine
        .sh("systemctl preset diodesync-sender.service diodesync-receiver.service diodesync-receiver.target")
        .unwrap();
    assert_eq!(site.enabled("diodesync-receiver"), "enabled");
    assert_eq!(site.enabled("diodesync-receiver.target"), "disabled");
    let completed =
        "source /usr/share/bash-completion/completions/diode-receiver; complete -p diode-receiver";
    machine.ok(&["bash", "-c", completed]).unwrap();

    // Started.
    site.introduce();
    machine.ok(&["systemctl", "start", "diodesync-sender", "diodesync-receiver"]).unwrap();
    site.cross(1);
    let digests = site.state_digests();
    let before = SIDES.map(|side| site.process(&format!("diodesync-{side}")));

    // Upgraded: what ran runs again, as the new one, and knows what it knew.
    site.dpkg(&new);
    let after = SIDES.map(|side| site.process(&format!("diodesync-{side}")));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    assert_eq!(site.state_digests(), digests);
    site.wait_served(1);
    site.cross(2);

    // The administrator prefers a service for each role, and has switched the sender off. An upgrade leaves it so.
    machine.sh("systemctl disable --now diodesync-receiver.service diodesync-sender.service").unwrap();
    machine.sh("systemctl enable --now diodesync-receiver.target").unwrap();
    let units = ROLES.map(|role| format!("diodesync-receiver-{role}.service"));
    let before = units.each_ref().map(|unit| site.process(unit));
    site.wait_served(2);
    site.dpkg(&old);
    let after = units.each_ref().map(|unit| site.process(unit));
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    for unit in ["diodesync-receiver.service", "diodesync-sender.service"] {
        assert_eq!((site.enabled(unit).as_str(), site.state(unit).as_str()), ("disabled", "inactive"));
    }
    site.wait_served(2);
    machine.ok(&["systemctl", "start", "diodesync-sender"]).unwrap();
    site.cross(3);

    // And back to one process, which finds that the others have let go.
    machine.sh("systemctl disable diodesync-receiver.target").unwrap();
    machine.ok(&["systemctl", "enable", "--now", "diodesync-receiver.service"]).unwrap();
    site.process("diodesync-receiver.service");
    assert_eq!(site.property("diodesync-receiver.service", "NRestarts"), "0");
    for unit in &units {
        assert_eq!(site.state(unit), "inactive", "{unit}");
    }
    machine.ok(&["systemctl", "enable", "diodesync-sender"]).unwrap();
    site.wait_served(3);

    // Removed: nothing runs, and nothing is lost.
    machine.ok(&["dpkg", "--remove", "diodesync-sender", "diodesync-receiver"]).unwrap();
    for side in SIDES {
        assert_eq!(site.state(&format!("diodesync-{side}")), "inactive");
        machine.sh(&format!("! command -v diode-{side} && ! pgrep -u diodesync-{side}")).unwrap();
        machine.sh(&format!("test -e /etc/diodesync/{side}.toml")).unwrap();
    }
    assert_eq!(site.state_digests(), digests);

    // Installed again: it goes on where it was.
    site.dpkg(&new);
    for side in SIDES {
        site.process(&format!("diodesync-{side}"));
    }
    site.wait_served(3);
    site.cross(4);

    // Keys that the service manager hands over, of which no file is left; one of them is rotated then.
    site.seal("sender", &["keys/link.key", "keys/targets.key", "keys/timestamp.key", "keys/pairing.key"]);
    site.seal("receiver", &["keys/receiver.key", "keys/site/ca.key", "keys/site/apt.key", "tls/server.key"]);
    for side in SIDES {
        let unit = format!("diodesync-{side}.service");
        let done = machine.run(&["systemctl", "restart", &unit]).unwrap();
        assert_eq!(done.code, Some(0), "{unit} says:\n{}", machine.log_of(&unit));
    }
    site.wait_served(4);
    site.cross(5);
    machine
        .sh("systemctl disable --now diodesync-receiver && systemctl enable --now diodesync-receiver.target")
        .unwrap();
    site.wait_served(5);
    site.cross(6);
    // systemd holds the lane's socket; the lane has no network of its own, and sees what is dropped all the same.
    let lane = site.process("diodesync-receiver-lane.service");
    assert_eq!(
        machine.sh(&format!("nsenter --net --target {lane} ip -brief link | wc -l")).unwrap().trim(),
        "1"
    );
    let log = machine.log_of("diodesync-receiver-lane.service");
    assert!(log.contains("buffer=134217728") && !log.contains("cannot be told"), "{log}");
    machine
        .sh("systemctl disable diodesync-receiver.target && systemctl enable --now diodesync-receiver")
        .unwrap();
    machine.ok(&["runuser", "-u", "diodesync-sender", "--", "diode-sender", "rotate-link"]).unwrap();
    site.cross(7);
    machine
        .ok(&["runuser", "-u", "diodesync-sender", "--", "diode-sender", "rotate-link", "--finish"])
        .unwrap();
    machine.ok(&["systemctl", "restart", "diodesync-sender"]).unwrap();
    site.cross(8);
    let keys = machine.sh("cd /var/lib && ls diodesync-sender/keys diodesync-receiver/keys").unwrap();
    assert!(keys.contains("link.key") && !keys.contains("targets.key"), "{keys}");

    // The kernel tells daemons in systemd's sandboxes who calls them, and their logs have come through all this.
    let by_root = |line: &&str| line.contains("\"event\":\"released\"") && line.contains("\"user\":\"root\"");
    let log = machine.ok(&["diode-sender", "audit", "show", "--json"]).unwrap();
    assert_eq!(log.lines().filter(by_root).count(), 8, "{log}");
    for side in SIDES {
        machine.ok(&[&format!("diode-{side}"), "audit", "verify"]).unwrap();
    }

    // Purged: one, and the other is as it was; then nothing is left but the users.
    machine.sh("mkdir -p /srv/diodesync/site && touch /srv/diodesync/site/file").unwrap();
    machine.ok(&["dpkg", "--purge", "diodesync-sender"]).unwrap();
    site.process("diodesync-receiver");
    site.wait_served(8);
    machine.ok(&["dpkg", "--purge", "diodesync-receiver"]).unwrap();
    let search = r"find /etc /usr /var /srv \( -name '*diodesync*' -o -name '*diode-*' \) -print | sort";
    let found = machine.sh(search).unwrap();
    // The tree that is tested may lie there, too.
    let own = workspace().canonicalize().unwrap();
    let ours = |path: &&str| !path.starts_with(own.to_str().unwrap()) && !path.starts_with("/etc/credstore");
    let left: Vec<&str> = found.lines().filter(ours).collect();
    assert_eq!(left, ["/srv/diodesync"], "what a site has put there itself");
    let known = machine.run(&["dpkg-query", "--show", "diodesync-*"]).unwrap();
    assert_ne!(known.code, Some(0), "{}", known.stdout);
}
