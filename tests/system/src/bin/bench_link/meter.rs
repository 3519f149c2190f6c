//! What processes cost, from `/proc`: CPU time by thread, memory, and what else kept the machine busy.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The unit of `/proc/PID/stat` is 1/100 s on every architecture that Debian has.
const TICKS_PER_S: f64 = 100.0;

/// A process at one moment, or what it used between two.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// CPU seconds, user and system.
    pub cpu_s: f64,
    /// Of them in user mode.
    pub user_s: f64,
    /// CPU seconds of each thread by its name; threads of one name are added up.
    pub threads: BTreeMap<String, f64>,
    /// The most memory that was resident so far, octets.
    pub rss_peak_bytes: u64,
}

impl Cost {
    /// Of a process, since it started.
    pub fn of(pid: u32) -> Result<Self> {
        let dir = format!("/proc/{pid}");
        let (user, system) = times(&read(format!("{dir}/stat"))?).context("/proc/PID/stat is malformed")?;
        let status = read(format!("{dir}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: u64 =
            peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("{dir}/task"))? {
            let task = task?.path();
            // A thread may have ended since it was listed.
            let Ok((name, cpu_s)) = thread(&task) else { continue };
            *threads.entry(name).or_default() += cpu_s;
        }
        Ok(Self { cpu_s: user + system, user_s: user, threads, rss_peak_bytes: peak_kib * 1024 })
    }

    /// What was used since `before`. The memory is that of now.
    pub fn since(&self, before: &Self) -> Self {
        let threads = self
            .threads
            .iter()
            .map(|(name, now)| (name.clone(), now - before.threads.get(name).copied().unwrap_or_default()));
        Self {
            cpu_s: self.cpu_s - before.cpu_s,
            user_s: self.user_s - before.user_s,
            threads: threads.collect(),
            rss_peak_bytes: self.rss_peak_bytes,
        }
    }
}

/// Name and CPU seconds; the scheduler's own account is in nanoseconds.
fn thread(task: &Path) -> Result<(String, f64)> {
    let name = read(task.join("comm"))?.trim().to_owned();
    let nanoseconds: Option<f64> =
        read(task.join("schedstat"))?.split_whitespace().next().and_then(|first| first.parse().ok());
    Ok((name, nanoseconds.context("schedstat is malformed")? / 1e9))
}

/// User and system seconds of a line of `/proc/PID/stat`.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut seconds = || fields.next()?.parse().ok().map(|ticks: f64| ticks / TICKS_PER_S);
    Some((seconds()?, seconds()?))
}

/// The whole machine at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine {
    /// CPU seconds of everybody, all cores.
    busy_s: f64,
    /// CPU seconds that the hypervisor gave to somebody else.
    stolen_s: f64,
    /// CPU seconds of the kernel's network threads (ksoftirqd), which belong to no process.
    softirqd_s: f64,
}

/// What the machine did besides.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Besides {
    /// CPU seconds of the kernel's network threads: they work for the daemons and are in neither account.
    pub softirqd_s: f64,
    /// Cores that were busy with something that has nothing to do with the measurement.
    pub other_cores: f64,
    /// Cores that the hypervisor gave to somebody else.
    pub stolen_cores: f64,
}

impl Machine {
    /// Now.
    pub fn now() -> Result<Self> {
        let stat = read("/proc/stat")?;
        let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat")?;
        let ticks: Vec<f64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let field = |at: usize| ticks.get(at).copied().unwrap_or_default() / TICKS_PER_S;
        // user, nice, system, idle, iowait, irq, softirq, steal
        let busy_s = [0, 1, 2, 5, 6].map(field).iter().sum();
        let mut softirqd_s = 0.0;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let path = entry.path();
            let is_process = entry.file_name().to_string_lossy().bytes().all(|octet| octet.is_ascii_digit());
            if is_process && read(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/")) {
                let (user, system) = read(path.join("stat")).ok().and_then(|s| times(&s)).unwrap_or_default();
                softirqd_s += user + system;
            }
        }
        Ok(Self { busy_s, stolen_s: field(7), softirqd_s })
    }

    /// What happened since `before`, `seconds` ago, in which the measured processes used `ours_s` of CPU.
    pub fn since(&self, before: &Self, seconds: f64, ours_s: f64) -> Besides {
        let softirqd_s = self.softirqd_s - before.softirqd_s;
        let other_s = self.busy_s - before.busy_s - ours_s - softirqd_s;
        Besides {
            softirqd_s,
            other_cores: (other_s / seconds).max(0.0),
            stolen_cores: (self.stolen_s - before.stolen_s) / seconds,
        }
    }
}

/// Packets that arrived in the network namespace of a process, on all interfaces but loopback.
pub fn arrivals(pid: u32) -> Result<u64> {
    let table = read(format!("/proc/{pid}/net/dev"))?;
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    let packets = rows.filter(|(name, _)| name.trim() != "lo");
    Ok(packets.filter_map(|(_, row)| row.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_with_an_odd_name_is_read() {
        let stat = "12 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(super::times(stat), Some((2.5, 0.5)));
        assert!(super::Cost::of(std::process::id()).unwrap().rss_peak_bytes > 1 << 20);
    }
}
