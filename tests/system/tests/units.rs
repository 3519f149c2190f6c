//! The units of `systemd/`: sound by systemd's own judgement, and each role of the receiver does its part with no more
//! than its unit leaves it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use diodesync_system::bins::{bins, workspace};
use diodesync_system::http::Http;
use diodesync_system::mirror_host::{MirrorHost, feed};
use diodesync_system::prng::Prng;
use diodesync_system::scratch::Scratch;
use diodesync_system::side::{Pair, ROLES, Setup, Side};
use diodesync_system::skip::Skip;
use diodesync_system::tree;
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;

const MINUTE: Duration = Duration::from_secs(60);
const STATE: &str = "/var/lib/diodesync-receiver";

fn folder() -> PathBuf {
    workspace().join("systemd")
}

/// The units, with the programs that were built here.
fn units(to: &Path) -> Vec<PathBuf> {
    let bins = bins().unwrap();
    let mut units = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "service" || kind == "target" || kind == "socket") {
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text
                .replace("/usr/bin/diode-receiver", bins.receiver.to_str().unwrap())
                .replace("/usr/bin/diode-sender", bins.sender.to_str().unwrap());
            let at = to.join(path.file_name().unwrap());
            std::fs::write(&at, text).unwrap();
            units.push(at);
        }
    }
    units.sort();
    assert!(units.len() >= 7, "{units:?}");
    units
}

fn analyze(words: &[&str], units: &[PathBuf]) -> std::io::Result<Output> {
    Command::new("systemd-analyze").args(words).args(units).output()
}

#[test]
fn they_are_sound_and_expose_little() {
    let scratch = Scratch::new("units").unwrap();
    let units = units(scratch.path());
    let verified = match analyze(&["verify", "--man=no"], &units) {
        Ok(verified) => verified,
        Err(error) => {
            let skip = Skip::curable(format!("cannot run systemd-analyze ({error}); the package is systemd"));
            return skip.announce_or_fail_in_ci("systemd's judgement of the units");
        }
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && said.is_empty(), "{said}");
    for unit in units.iter().filter(|unit| unit.extension().is_some_and(|kind| kind == "service")) {
        // Tenths. What reads datagrams exposes least.
        let threshold = if unit.ends_with("diodesync-receiver-lane.service") { 15 } else { 25 };
        let words = ["security", "--offline=yes", "--no-pager", &format!("--threshold={threshold}")];
        let judged = analyze(&words, std::slice::from_ref(unit)).unwrap();
        let said = String::from_utf8_lossy(&judged.stdout).into_owned();
        assert!(judged.status.success(), "{said}");
        println!("{}", said.lines().last().unwrap_or_default());
        // Over that it says that it is ready, and that it lives.
        let text = std::fs::read_to_string(unit).unwrap();
        let families = text.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies="));
        let is_told = families.is_some_and(|families| families.split(' ').any(|family| family == "AF_UNIX"));
        assert!(text.contains("Type=notify") && is_told, "{}", unit.display());
    }
}

/// Rules that let nothing out over the interface at the end of the diode, loaded in a namespace of their own.
#[test]
fn the_rules_for_the_lanes_interface_can_be_loaded_and_hold() {
    let tried = Command::new("unshare").args(["-n", "nft", "--version"]).output();
    if !tried.as_ref().is_ok_and(|done| done.status.success()) {
        let skip = Skip::curable(format!("cannot run nft as root ({tried:?}); the package is nftables"));
        return skip.announce_or_fail_in_ci("the rules for the lanes' interface");
    }
    let rules = folder().join("diodesync-receiver.nft");
    // A datagram to a neighbour that is written down leaves without the rules, and not with them.
    let script = r#"
        set -e
        ip link add eth1 type veth peer name far
        ip link set far up; ip link set eth1 up
        ip address add 192.0.2.2/30 dev eth1
        ip neighbour replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth1 nud permanent
        count() { cat /sys/class/net/far/statistics/rx_packets; }
        speak() { bash -c 'echo x > /dev/udp/192.0.2.1/9' || true; }
        sleep 1; before=$(count); speak; sleep 0.2; after=$(count)
        [ "$after" -gt "$before" ] || { echo "nothing leaves even without rules"; exit 1; }
        nft -f "$1"
        before=$(count); speak; ping -c 1 -W 1 192.0.2.1 > /dev/null 2>&1 || true; sleep 0.2; after=$(count)
        [ "$after" -eq "$before" ] || { echo "$((after - before)) packets left in spite of the rules"; exit 1; }
    "#;
    let enter = r#"mount -t sysfs none /sys; exec sh -c "$0" x "$1""#;
    let mut apart = Command::new("unshare");
    let done = apart.args(["-n", "-m", "sh", "-c", enter, script]).arg(&rules).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

/// Makes of a unit's paths what systemd would, and goes on as the program.
const SANDBOX: &str = r#"
set -e
units=$1 dir=$2; shift 2
role=; last=
for word; do [ "$last" = --role ] && role=$word; last=$word; done
unit=$units/diodesync-receiver-$role.service
paths() { sed -n "s/^$1=//p" "$unit" | tr ' ' '\n' | sed "s|^-||; s|/var/lib/diodesync-receiver|$dir|"; }
mount --make-rprivate /
for path in $(paths ReadOnlyPaths); do mount --bind "$path" "$path"; mount -o remount,bind,ro "$path"; done
for path in $(paths ReadWritePaths); do [ -e "$path" ] || continue; mount --bind "$path" "$path"; mount -o remount,bind,rw "$path"; done
for path in $(paths InaccessiblePaths); do
    if [ -d "$path" ]; then mount -t tmpfs -o mode=000,size=4k,ro none "$path"
    elif [ -e "$path" ]; then mount --bind /dev/null "$path"; fi
done
if [ "$role" = lane ]; then
    # The socket unit's part. What activates has to come first; it is no datagram of a lane.
    listen=$(sed -n '/^\[\[lane\]\]/,/^\[/s/^listen = "\(.*\)"/\1/p' "$dir/receiver.toml")
    for try in $(seq 20); do sleep 0.1; bash -c "echo x > /dev/udp/127.0.0.1/${listen##*:}" || true; done &
    exec systemd-socket-activate -d -l "$listen" -E NOTIFY_SOCKET -E RUST_LOG unshare -n "$@" < /proc/net/udp
fi
if grep -q '^PrivateNetwork=yes' "$unit"; then exec unshare -n "$@"; fi
exec "$@"
"#;

/// Whether this machine can; if not, it is said why.
fn makes_sandboxes() -> bool {
    let what = "the roles' sandboxes";
    if !rustix::process::geteuid().is_root() {
        Skip::curable("mounts need root").announce_or_fail_in_ci(what);
        return false;
    }
    let tried = Command::new("unshare").args(["-m", "-n", "mount", "--make-rprivate", "/"]).output();
    if !tried.as_ref().is_ok_and(|done| done.status.success()) {
        Skip::incurable(format!("this machine makes no mounts: {tried:?}")).announce(what);
        return false;
    }
    true
}

/// Has the roles of a receiver see what their units leave them, from the next start on.
fn confine(script: &Path, high: &mut Side) {
    let dir = high.dir().to_owned();
    // What systemd-tmpfiles makes.
    let tmpfiles = std::fs::read_to_string(folder().join("diodesync-receiver.tmpfiles")).unwrap();
    for line in tmpfiles.lines().filter(|line| line.contains(STATE)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = words[1].replace(STATE, dir.to_str().unwrap());
        match words[0] {
            "d" => std::fs::create_dir_all(&path).unwrap(),
            "f" => drop(std::fs::File::options().create(true).append(true).open(&path).unwrap()),
            other => panic!("{other} in {line}"),
        }
    }
    std::fs::write(script, SANDBOX).unwrap();
    let units = folder();
    let words =
        ["unshare", "-m", "sh", script.to_str().unwrap(), units.to_str().unwrap(), dir.to_str().unwrap()];
    high.set_wrapper(&words);
}

/// A command in the sight of one role.
fn within(side: &Side, role: &str, command: &str) -> Output {
    let pid = side.role_pid(role).unwrap().to_string();
    Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", command]).output().unwrap()
}

#[test]
fn each_role_runs_with_what_its_unit_leaves_it() {
    if !makes_sandboxes() {
        return;
    }
    let setup = Setup { name: "sandbox", rounds: 2, ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::lossy(1)).unwrap();
    let site = pair.dir.join("site");
    std::fs::create_dir(&site).unwrap();
    let mirrored = site.join("files");
    pair.add_mirror(&format!("name = 'files'\nkind = 'files-tree'\npath = '{}'", mirrored.display()))
        .unwrap();
    pair.high.split_with("mirror");
    let roles = [ROLES.as_slice(), &["mirror"]].concat();
    let dir = pair.high.dir().to_owned();
    confine(&pair.dir.join("sandbox.sh"), &mut pair.high);
    // What the socket unit gives.
    let dashboard = Http::new(pair.high.activate().unwrap());
    pair.start().unwrap();

    let tree = pair.dir.join("tree");
    for number in 1..=3 {
        tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(number), 2 << 20), 0o644).unwrap();
        tree::write(&tree, "number", number.to_string().as_bytes(), 0o644).unwrap();
        pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
        // No round is under way when roles are killed: what the socket unit's small buffer drops then is an alarm that stays.
        pair.low.ok(&["release", "--wait"]).unwrap();
        pair.wait_published(number, 2 * MINUTE).unwrap();
        pair.mirror().unwrap().compare_files(&tree::digests(&tree, "tree").unwrap()).unwrap();
        let holds = [("main".to_owned(), number)];
        pair.wait_mirror("files", MINUTE, |mirror| mirror.state == "current" && mirror.holds == holds)
            .unwrap();
        assert_eq!(std::fs::read_to_string(mirrored.join("tree/number")).unwrap(), number.to_string());
        for role in roles.iter().copied() {
            pair.high.kill_9_role(role).unwrap();
            pair.high.spawn_role(role).unwrap();
            pair.high.wait_ready().unwrap();
        }
    }

    // In each role's sight, what its unit says.
    let size = |pair: &Pair, role: &str, name: &str| {
        let done = within(&pair.high, role, &format!("cat {}/{name} | wc -c", dir.display()));
        String::from_utf8_lossy(&done.stdout).trim().parse::<u64>().unwrap()
    };
    // The sandboxes are made before the programs start; these say that they have.
    let is_program = |role: &str| {
        let program = std::fs::read_link(format!("/proc/{}/exe", pair.high.role_pid(role).unwrap()));
        program.is_ok_and(|program| program.ends_with("diode-receiver"))
    };
    wait_for("all roles are there", MINUTE, || Ok(roles.iter().all(|role| is_program(role)).then_some(())))
        .unwrap();
    // A key that was replaced, and sockets that were made anew above, are kept out as the old ones were.
    std::fs::write(dir.join("credentials/password"), "x").unwrap();
    for key in ["keys/site/ca.key", "keys/site/apt.key", "tls/server.key"] {
        let (path, new) = (dir.join(key), dir.join(format!("{key}.new")));
        std::fs::copy(&path, &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
    }
    for (role, socket, is_seen) in [
        ("lane", "run/control.sock", false),
        ("lane", "handover/lane.sock", true),
        ("serve", "run/control.sock", false),
        ("serve", "handover/lane.sock", false),
        ("publish", "run/control.sock", true),
        ("mirror", "run/control.sock", false),
        ("mirror", "handover/lane.sock", false),
    ] {
        let done = within(&pair.high, role, &format!("test -S {}/{socket}", dir.display()));
        assert_eq!(done.status.success(), is_seen, "{role} and {socket}");
    }
    for (role, key, is_seen) in [
        ("lane", "keys/receiver.key", true),
        ("lane", "keys/site/ca.key", false),
        ("lane", "keys/site/audit.key", false),
        ("lane", "audit/checkpoint", false),
        ("serve", "audit/checkpoint", false),
        ("mirror", "audit/checkpoint", false),
        ("publish", "audit/checkpoint", true),
        ("lane", "keys/site/apt.key", false),
        ("lane", "tls/server.key", false),
        ("serve", "tls/server.key", true),
        ("serve", "keys/receiver.key", false),
        ("serve", "keys/site/ca.key", false),
        ("serve", "keys/site/apt.key", false),
        ("publish", "keys/site/ca.key", true),
        ("mirror", "keys/receiver.key", false),
        ("mirror", "keys/site/ca.key", false),
        ("mirror", "tls/server.key", false),
        ("mirror", "credentials/password", true),
        ("lane", "credentials/password", false),
        ("serve", "credentials/password", false),
        ("publish", "credentials/password", false),
        ("publish", "keys/site/apt.key", true),
    ] {
        assert_eq!(size(&pair, role, key) > 0, is_seen, "{role} and {key}");
    }
    for (role, place, may_write) in [
        ("lane", "inbox", true),
        ("lane", "packs", true),
        ("lane", "releases", false),
        ("lane", "published", false),
        ("lane", "run", false),
        ("serve", "handover", false),
        ("serve", "run", false),
        ("lane", ".", false),
        ("serve", "serve", true),
        ("serve", "packs", false),
        ("serve", "releases", false),
        ("mirror", "mirror", true),
        ("mirror", "packs", false),
        ("mirror", "releases", false),
        ("mirror", "credentials", false),
        ("publish", "releases", true),
    ] {
        let probe = format!("{}/{place}/probe", dir.display());
        let done = within(&pair.high, role, &format!("echo x > {probe} && rm {probe}"));
        assert_eq!(done.status.success(), may_write, "{role} and {place}: {done:?}");
    }
    let net = within(&pair.high, "publish", "true");
    assert!(net.status.success());
    // And yet it answers who looks on: the socket is not its own.
    let page = dashboard.get_ok("/").unwrap();
    assert!(page.body.contains("data-release=\"main 3\" data-state=\"published\""), "{}", page.body);
    let pid = pair.high.role_pid("publish").unwrap();
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(), ours, "publish has the network");
    wait_for("nothing is wrong", MINUTE, || Ok(pair.high_status()?.alarms.is_empty().then_some(()))).unwrap();
    assert_eq!(pair.high.stop().unwrap(), Some(0));
}

/// The receiver at the diode feeds out of its serve role, and a mirror host's upstream role fetches, each with what its unit
/// leaves it.
#[test]
fn a_mirror_hosts_roles_run_with_what_their_units_leave_them() {
    if !makes_sandboxes() {
        return;
    }
    let setup = Setup { name: "sandbox-host", rounds: 2, ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather::clear()).unwrap();
    let at = feed(&pair).unwrap();
    let mut host = MirrorHost::make(&pair, "host", at).unwrap();
    pair.high.split();
    host.split();
    confine(&pair.dir.join("sandbox.sh"), &mut pair.high);
    confine(&pair.dir.join("sandbox-host.sh"), &mut host.side);
    // What the socket unit gives; the host has no dashboard.
    pair.high.activate().unwrap();
    let tree = pair.dir.join("tree");
    tree::write(&tree, "bulk", &tree::octets(&mut Prng::new(1), 2 << 20), 0o644).unwrap();
    pair.start().unwrap();
    host.side.start().unwrap();
    pair.low.ok(&["submit", "files", tree.to_str().unwrap()]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    pair.wait_published(1, 2 * MINUTE).unwrap();
    host.wait_published(1, MINUTE).unwrap();
    host.mirror().unwrap().compare_files(&tree::digests(&tree, "tree").unwrap()).unwrap();
    let dir = host.dir().display().to_string();
    for (path, is_seen) in [
        ("keys/host.key", true),
        ("upstream", true),
        ("handover/lane.sock", true),
        ("keys/site/ca.key", false),
        ("tls/server.key", false),
        ("run/control.sock", false),
        ("audit/checkpoint", false),
    ] {
        let done = within(&host.side, "upstream", &format!("test -e {dir}/{path} && test -r {dir}/{path}"));
        assert_eq!(done.status.success(), is_seen, "{path}");
    }
    for (place, may_write) in
        [("packs", true), ("inbox", true), ("releases", false), ("published", false), (".", false)]
    {
        let probe = format!("{dir}/{place}/probe");
        let done = within(&host.side, "upstream", &format!("echo x > {probe} && rm {probe}"));
        assert_eq!(done.status.success(), may_write, "{place}: {done:?}");
    }
    // What feeds sees its own key and none of the link.
    let high = pair.high.dir().display();
    for (key, is_seen) in [("tls/feed.key", true), ("keys/receiver.key", false)] {
        assert_eq!(
            within(&pair.high, "serve", &format!("test -e {high}/{key}")).status.success(),
            is_seen,
            "{key}"
        );
    }
    assert_eq!(host.side.stop().unwrap(), Some(0));
    assert_eq!(pair.high.stop().unwrap(), Some(0));
}
