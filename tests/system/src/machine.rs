//! A machine of its own for packages and services, made of this one's files:
//!
//! ```text
//! namespaces of mounts, processes, network, host name, IPC and control groups
//!   /      this machine's files, and a layer in memory that takes what is changed
//!   1      systemd, with the units of packages and none that this machine's administrator has added
//!   lo     the only interface
//!   /sys, /proc/sys    to be read: the kernel is shared
//! ```
//!
//! Dropping a [`Machine`] ends all that runs in it, and takes its namespaces, mounts and control groups away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::Scratch;
use crate::side::{Done, finish};
use crate::skip::Skip;
use crate::wait_for;

const SYSTEMD: &str = "/lib/systemd/systemd";
/// How long the namespaces may take to be made, and systemd to start what it starts.
const BOOT_MAX: Duration = Duration::from_secs(60);
/// How long a command in it may take.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// In a mount namespace of its own: the layers, and a control group that is the machine's root.
const OUTER: &str = r#"
set -eu
dir=$1 group=$2 inner=$3
mkdir "$dir/layers" "$dir/groups" "$dir/root"
mount -t tmpfs -o mode=755,size=6g none "$dir/layers"
mkdir "$dir/layers/upper" "$dir/layers/work"
mount -t overlay -o "lowerdir=/,upperdir=$dir/layers/upper,workdir=$dir/layers/work" none "$dir/root"
mount -t cgroup2 none "$dir/groups"
mkdir "$dir/groups/$group"
echo $$ > "$dir/groups/$group/cgroup.procs"
exec unshare --cgroup --pid --net --uts --ipc --fork --kill-child=KILL sh -c "$inner" inner "$dir"
"#;

/// As the first process of the machine, until it is systemd.
const INNER: &str = r#"
set -eu
dir=$1 root=$1/root
# /proc is still the one outside, and tells the number of this process there.
read -r pid rest < /proc/self/stat
hostname machine
ip link set lo up
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 none "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount -t tmpfs -o mode=755 none "$root/run"
mount -t tmpfs -o mode=1777 none "$root/tmp"
# What belongs to this machine: services that were added, disks, and a policy that no service is started.
rm -rf "$root"/etc/systemd/system "$root"/etc/rc?.d "$root/etc/fstab" "$root/usr/sbin/policy-rc.d"
mkdir "$root/etc/systemd/system"
echo "$pid" > "$dir/pid.new"
mv "$dir/pid.new" "$dir/pid"
cd "$root"
mkdir run/outside
pivot_root . run/outside
# What systemd mounts for a service in a child of its own, like credentials, it has to see, too.
exec chroot . sh -c 'umount -l /run/outside && rmdir /run/outside && mount --make-rshared / && exec env -i container=other \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd'
"#;

/// Takes the control groups away, as soon as nothing runs in them.
const CLEAN: &str = r#"
mount -t cgroup2 none "$1/groups"
for try in $(seq 50); do
    find "$1/groups/$2" -depth -type d -exec rmdir {} + 2> /dev/null
    [ -d "$1/groups/$2" ] || exit 0
    sleep 0.1
done
exit 1
"#;

/// A machine that has started.
#[derive(Debug)]
pub struct Machine {
    scratch: Scratch,
    group: String,
    child: Child,
    /// systemd's process, as it is seen from outside.
    pid: Option<Pid>,
}

impl Machine {
    /// Starts one, and waits until its services run.
    pub fn boot(name: &str) -> Result<Self, Skip> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skip::curable("a machine of namespaces needs root"));
        }
        if !Path::new(SYSTEMD).exists() {
            return Err(Skip::curable(format!("{SYSTEMD} is not there; the package is systemd")));
        }
        let refused =
            |error: anyhow::Error| Skip::incurable(format!("this machine makes no other: {error:#}"));
        let scratch = Scratch::new(name).map_err(refused)?;
        let group = format!("diodesync-{name}-{}", std::process::id());
        let child = Self::spawn(&scratch, &group).map_err(refused)?;
        let mut machine = Self { scratch, group, child, pid: None };
        machine.pid = Some(machine.wait_pid().map_err(refused)?);
        // Where all this can be made, systemd can start.
        machine.wait_running().map_err(|error| {
            let units = machine.run(&["systemctl", "--no-pager", "list-jobs"]);
            Skip::curable(format!("systemd does not start in it: {error:#}; its jobs: {units:?}"))
        })?;
        Ok(machine)
    }

    fn spawn(scratch: &Scratch, group: &str) -> Result<Child> {
        let log = std::fs::File::create(scratch.join("log"))?;
        // It goes with the thread that made it, also where nothing is dropped.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.args(["sh", "-c", OUTER, "outer"]).arg(scratch.path()).args([group, INNER]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("cannot run setpriv and unshare, of the package util-linux")
    }

    fn wait_pid(&mut self) -> Result<Pid> {
        let (path, log) = (self.scratch.join("pid"), self.scratch.join("log"));
        wait_for("its first process", BOOT_MAX, || {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{status}: {}", std::fs::read_to_string(&log)?);
            }
            let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
            Ok(Pid::from_raw(text.trim().parse()?))
        })
    }

    fn wait_running(&mut self) -> Result<()> {
        let mut said = String::new();
        let waited = wait_for("systemd", BOOT_MAX, || {
            let state = self.run(&["systemctl", "is-system-running"])?;
            said = format!("{}{}", state.stdout, state.stderr);
            // Not all of this machine's packages start in another one.
            Ok(matches!(state.stdout.trim(), "running" | "degraded").then_some(()))
        });
        waited.with_context(|| format!("it said last: {said}"))
    }

    /// Runs a command in it to its end.
    pub fn run(&self, words: &[&str]) -> Result<Done> {
        let pid = self.pid.context("it has not started")?.as_raw_nonzero().to_string();
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        let enter = ["--target", &pid, "--all", "--wd=/", "--"];
        finish(command, Path::new("nsenter"), &[&enter, words].concat(), COMMAND_MAX)
    }

    /// Runs a command in it that must succeed; its standard output.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        self.run(words)?.ok()
    }

    /// Runs a line of shell in it that must succeed; its standard output.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.ok(&["sh", "-ec", line])
    }

    /// Where a file of the machine is, seen from outside.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let pid = self.pid.context("it has not started")?.as_raw_nonzero();
        Ok(PathBuf::from(format!("/proc/{pid}/root{path}")))
    }

    /// The end of what a unit has logged.
    pub fn log_of(&self, unit: &str) -> String {
        let done = self.run(&["journalctl", "--no-pager", "--lines=40", "--unit", unit]);
        done.map_or_else(|error| format!("{error:#}"), |done| done.stdout)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Ends its own child, if that is still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut clean = Command::new("unshare");
        clean.args(["--mount", "--propagation", "private", "sh", "-c", CLEAN, "clean"]);
        clean.arg(self.scratch.path()).arg(&self.group).stdin(Stdio::null());
        let cleaned = clean.output();
        if !cleaned.as_ref().is_ok_and(|done| done.status.success()) && !std::thread::panicking() {
            eprintln!("the control group {} stays: {cleaned:?}", self.group);
        }
    }
}
