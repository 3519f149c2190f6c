//! A one-way path between two network namespaces, as near to a diode as one machine can get:
//!
//! ```text
//! namespace LOW  ── veth ─────────► veth ──  namespace HIGH
//!  10.147.0.1       │  2 % lost at random │    10.147.0.2
//!  permanent        │                     └◄── everything that leaves HIGH is counted and dropped
//!  neighbour        └◄── frames that arrive are counted: there must be none
//! ```
//!
//! Each datagram is a packet of its own on the veth pair (no segmentation offload), so that loss hits datagrams and
//! not the kernel's batches. Clients of the mirror run inside HIGH, over its loopback.
//!
//! For measuring, [`Gap::open_fast`] makes the path as a network card would: the low side hands large batches to the
//! device, which cuts them, and the high side joins what arrives (GRO). Its losses come after that, so one loss takes
//! a run of datagrams; [`Gap::set_gro`] switches the joining off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::skip::Skip;

const DEVICE: &str = "diode";
const LOW_V4: Ipv4Addr = Ipv4Addr::new(10, 147, 0, 1);
const HIGH_V4: Ipv4Addr = Ipv4Addr::new(10, 147, 0, 2);
const LOW_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xd10d, 0, 0, 0, 0, 0, 1);
const HIGH_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xd10d, 0, 0, 0, 0, 0, 2);
const LOW_MAC: &str = "02:d1:0d:e0:00:01";
const HIGH_MAC: &str = "02:d1:0d:e0:00:02";

/// Which addresses the path has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4; IPv6 is off on both ends.
    V4,
    /// IPv6.
    V6,
}

/// Where the datagrams of one large send are cut and joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batches {
    /// Nothing is ever more than one datagram.
    Never,
    /// The sending device cuts, the receiving one joins.
    AsACard,
}

/// A pair of devices that joins the namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    device: &'static str,
    family: Family,
    low: (IpAddr, &'static str),
    high: (IpAddr, &'static str),
}

impl Path {
    /// The receiving end's address.
    pub fn high_ip(&self) -> IpAddr {
        self.high.0
    }
}

/// Two namespaces and the path between them. Dropping it removes both; stop what runs in them first.
#[derive(Debug)]
pub struct Gap {
    low: String,
    high: String,
    family: Family,
}

impl Gap {
    /// Makes the namespaces, with `loss` (0 to 1) on the way.
    pub fn open(family: Family, loss: f64) -> Result<Self, Skip> {
        Self::open_as(family, loss, Batches::Never)
    }

    /// Makes the namespaces without loss, over IPv4, for measuring speed: datagrams are cut where a network card would
    /// cut them, and joined where one would join them. Needs `ethtool`.
    pub fn open_fast() -> Result<Self, Skip> {
        if let Err(error) = Command::new("ethtool").arg("--version").output() {
            return Err(Skip::curable(format!("cannot run ethtool ({error}); the package is ethtool")));
        }
        Self::open_as(Family::V4, 0.0, Batches::AsACard)
    }

    fn open_as(family: Family, loss: f64, batches: Batches) -> Result<Self, Skip> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skip::curable("network namespaces need root"));
        }
        for (tool, package) in [("ip", "iproute2"), ("iptables", "iptables"), ("ip6tables", "iptables")] {
            if let Err(error) =
                Command::new(tool).arg("--version").output().or(Command::new(tool).arg("-V").output())
            {
                return Err(Skip::curable(format!("cannot run {tool} ({error}); the package is {package}")));
            }
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("diode-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let gap = Self { low: format!("{unique}-low"), high: format!("{unique}-high"), family };
        // From here on, dropping `gap` cleans up.
        gap.build(loss, batches)
            .map_err(|error| Skip::incurable(format!("this kernel refused: {error:#}")))?;
        Ok(gap)
    }

    fn build(&self, loss: f64, batches: Batches) -> Result<()> {
        let (low, high) = (self.low.as_str(), self.high.as_str());
        run("ip", &["netns", "add", low])?;
        run("ip", &["netns", "add", high])?;
        run(
            "ip",
            &[
                "link", "add", "name", DEVICE, "address", LOW_MAC, "netns", low, "type", "veth", "peer",
                "name", DEVICE, "address", HIGH_MAC, "netns", high,
            ],
        )?;
        // Nothing may slip out before the rules stand, and nothing is up before them.
        for tables in ["iptables", "ip6tables"] {
            in_namespace(high, &[tables, "-A", "OUTPUT", "-o", "lo", "-j", "ACCEPT"])?;
        }
        if self.family == Family::V6 {
            // What a kernel says by itself on an IPv6 interface (multicast listener reports, router and neighbour
            // discovery): dropped too, and counted apart from what somebody sends.
            for kind in ["143", "133", "135", "136"] {
                in_namespace(
                    high,
                    &["ip6tables", "-A", "OUTPUT", "-p", "icmpv6", "--icmpv6-type", kind, "-j", "DROP"],
                )?;
            }
        }
        for tables in ["iptables", "ip6tables"] {
            in_namespace(
                high,
                &[tables, "-A", "OUTPUT", "-m", "comment", "--comment", "back", "-j", "DROP"],
            )?;
        }
        self.add_loss(loss)?;
        self.connect(&self.path())?;
        match batches {
            // Every datagram its own packet: the low side segments before the veth, the high side does not merge.
            Batches::Never => run("ip", &["-n", low, "link", "set", "dev", DEVICE, "gso_max_segs", "1"]),
            Batches::AsACard => {
                in_namespace(low, &["ethtool", "-K", DEVICE, "tx-udp-segmentation", "off"])?;
                self.set_gro(true)
            }
        }
    }

    fn add_loss(&self, loss: f64) -> Result<()> {
        let probability = loss.to_string();
        let random = ["-m", "statistic", "--mode", "random", "--probability", probability.as_str()];
        self.add_drop("loss", &random)
    }

    /// Adds a rule that drops what arrives and matches, and that is counted under `comment`.
    fn add_drop(&self, comment: &str, matching: &[&str]) -> Result<()> {
        let head = [self.tables(), "-A", "INPUT", "-i", DEVICE];
        let tail = ["-m", "comment", "--comment", comment, "-j", "DROP"];
        in_namespace(&self.high, &[&head, matching, &tail].concat())
    }

    /// From now on loses `loss` (0 to 1) of what arrives. The counter of [`Gap::lost`] starts anew. Without loss there
    /// is no rule that would take time for each packet.
    pub fn set_loss(&self, loss: f64) -> Result<()> {
        in_namespace(&self.high, &[self.tables(), "-F", "INPUT"])?;
        if loss > 0.0 { self.add_loss(loss) } else { Ok(()) }
    }

    /// Loses the next `bytes` octets that arrive (IP and UDP headers included), whatever they are. It adds to
    /// [`Gap::set_loss`], which ends it.
    pub fn lose_next(&self, bytes: u64) -> Result<()> {
        self.add_drop("burst", &["-m", "quota", "--quota", &bytes.to_string()])
    }

    /// From now on loses what is longer than so many octets (IP and UDP headers included), as a path with a smaller MTU
    /// does that says nothing of it.
    pub fn lose_longer_than(&self, bytes: u16) -> Result<()> {
        self.add_drop("long", &["-m", "length", "--length", &format!("{}:65535", bytes + 1)])
    }

    /// Octets lost by [`Gap::lose_next`].
    pub fn lost_in_burst(&self) -> Result<u64> {
        self.rule_column(self.tables(), "INPUT", "burst", 1)
    }

    /// Octets that a packet of the path may have.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        for namespace in [&self.low, &self.high] {
            run("ip", &["-n", namespace, "link", "set", "dev", DEVICE, "mtu", &mtu.to_string()])?;
        }
        Ok(())
    }

    /// Whether the high side joins datagrams before anything looks at them, as a network card would.
    pub fn set_gro(&self, on: bool) -> Result<()> {
        let word = if on { "on" } else { "off" };
        in_namespace(&self.high, &["ethtool", "-K", DEVICE, "gro", word, "rx-udp-gro-forwarding", word])
    }

    /// The first path.
    fn path(&self) -> Path {
        Path {
            device: DEVICE,
            family: self.family,
            low: (self.low_ip(), LOW_MAC),
            high: (self.high_ip(), HIGH_MAC),
        }
    }

    /// Adds a second path without loss, with addresses of either family.
    pub fn add_path(&self, family: Family) -> Result<Path> {
        let (low, high): (IpAddr, IpAddr) = match family {
            Family::V4 => (Ipv4Addr::new(10, 147, 1, 1).into(), Ipv4Addr::new(10, 147, 1, 2).into()),
            Family::V6 => {
                let address = |n| Ipv6Addr::new(0xfd00, 0xd10d, 1, 0, 0, 0, 0, n).into();
                (address(1), address(2))
            }
        };
        let (low_mac, high_mac) = ("02:d1:0d:e0:01:01", "02:d1:0d:e0:01:02");
        let path = Path { device: "diode2", family, low: (low, low_mac), high: (high, high_mac) };
        run(
            "ip",
            &[
                "link",
                "add",
                "name",
                path.device,
                "address",
                low_mac,
                "netns",
                &self.low,
                "type",
                "veth",
                "peer",
                "name",
                path.device,
                "address",
                high_mac,
                "netns",
                &self.high,
            ],
        )?;
        self.connect(&path)?;
        run("ip", &["-n", &self.low, "link", "set", "dev", path.device, "gso_max_segs", "1"])?;
        Ok(path)
    }

    /// Takes the sending end of a path down, as when its cable is pulled and the carrier is gone.
    pub fn take_down(&self, path: &Path) -> Result<()> {
        run("ip", &["-n", &self.low, "link", "set", path.device, "down"])
    }

    /// Addresses, permanent neighbours and loopbacks of both ends.
    pub fn connect(&self, path: &Path) -> Result<()> {
        self.connect_end(&self.low, path, path.low.0, path.high)?;
        self.connect_end(&self.high, path, path.high.0, path.low)
    }

    fn connect_end(&self, namespace: &str, path: &Path, mine: IpAddr, theirs: (IpAddr, &str)) -> Result<()> {
        let (device, (theirs, other)) = (path.device, theirs);
        let setting = |name: &str, value: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/{name}");
            // A kernel without IPv6 has no such file and needs none.
            let script = format!("if [ -e {path} ]; then echo {value} > {path}; fi");
            in_namespace(namespace, &["sh", "-c", &script])
        };
        let mine = match path.family {
            Family::V4 => {
                setting("disable_ipv6", "1")?;
                format!("{mine}/30")
            }
            Family::V6 => {
                setting("accept_dad", "0")?;
                setting("router_solicitations", "0")?;
                setting("addr_gen_mode", "1")?;
                format!("{mine}/64")
            }
        };
        let mut add = vec!["-n", namespace, "address", "replace", mine.as_str(), "dev", device];
        if path.family == Family::V6 {
            add.push("nodad");
        }
        run("ip", &add)?;
        run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        // Nobody ever has to ask who has an address.
        run("ip", &["-n", namespace, "link", "set", device, "up", "arp", "off"])?;
        run(
            "ip",
            &[
                "-n",
                namespace,
                "neighbour",
                "replace",
                &theirs.to_string(),
                "lladdr",
                other,
                "dev",
                device,
                "nud",
                "permanent",
            ],
        )
    }

    fn tables(&self) -> &'static str {
        match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    /// The sending namespace's name, for `ip netns exec`.
    pub fn low(&self) -> &str {
        &self.low
    }

    /// The receiving namespace's name, for `ip netns exec`.
    pub fn high(&self) -> &str {
        &self.high
    }

    /// The sending end's address.
    pub fn low_ip(&self) -> IpAddr {
        match self.family {
            Family::V4 => LOW_V4.into(),
            Family::V6 => LOW_V6.into(),
        }
    }

    /// The receiving end's address.
    pub fn high_ip(&self) -> IpAddr {
        match self.family {
            Family::V4 => HIGH_V4.into(),
            Family::V6 => HIGH_V6.into(),
        }
    }

    /// Packets that processes on the high side, or its kernel in answer to something, tried to send to the low side.
    pub fn back_attempts(&self) -> Result<u64> {
        Ok(self.rule("iptables", "OUTPUT", "back")? + self.rule("ip6tables", "OUTPUT", "back")?)
    }

    /// Frames that reached the low side's end of the path.
    pub fn back_arrivals(&self) -> Result<u64> {
        self.device_count(&self.low, "rx_packets")
    }

    /// Packets lost on purpose on the way up.
    pub fn lost(&self) -> Result<u64> {
        self.rule(self.tables(), "INPUT", "loss")
    }

    /// Packets that arrived at the high side's end of the path, the lost ones included.
    pub fn arrivals(&self) -> Result<u64> {
        self.device_count(&self.high, "rx_packets")
    }

    fn device_count(&self, namespace: &str, name: &str) -> Result<u64> {
        let path = format!("/sys/class/net/{DEVICE}/statistics/{name}");
        let text = in_namespace_output(namespace, &["cat", &path])?;
        text.trim().parse().with_context(|| format!("{path} holds {text:?}"))
    }

    /// Packets counted by the rule with this comment.
    fn rule(&self, tables: &str, chain: &str, comment: &str) -> Result<u64> {
        self.rule_column(tables, chain, comment, 0)
    }

    /// One of the counters of the rule with this comment: 0 is packets, 1 is octets.
    fn rule_column(&self, tables: &str, chain: &str, comment: &str, column: usize) -> Result<u64> {
        let listing = in_namespace_output(&self.high, &[tables, "-nvxL", chain])?;
        let mark = format!("/* {comment} */");
        let line = listing.lines().find(|line| line.contains(&mark));
        line.and_then(|line| line.split_whitespace().nth(column))
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("no rule {comment} in {chain}:\n{listing}"))
    }

    /// Runs `work` with its sockets in the receiving namespace. A socket stays where it was made.
    pub fn in_high<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter(&self.high, work)
    }

    /// Runs `work` with its sockets in the sending namespace.
    pub fn in_low<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        enter(&self.low, work)
    }
}

impl Drop for Gap {
    fn drop(&mut self) {
        for namespace in [&self.low, &self.high] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
        }
    }
}

/// Runs `work` on a thread of its own that has moved into `namespace`; the thread ends with it.
pub fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let handle = std::fs::File::open(format!("/run/netns/{namespace}"))
                .with_context(|| format!("no network namespace {namespace}"))?;
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {namespace}"))?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn in_namespace(namespace: &str, command: &[&str]) -> Result<()> {
    in_namespace_output(namespace, command).map(drop)
}

fn in_namespace_output(namespace: &str, command: &[&str]) -> Result<String> {
    output("ip", &[&["netns", "exec", namespace], command].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    output(program, arguments).map(drop)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().with_context(line)?;
    if !output.status.success() {
        bail!("{}: {}", line(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
