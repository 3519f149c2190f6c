//! Whether the kernel knows the hardware address at the end of a lane. It asks for it by ARP (RFC 826), and over a diode
//! nobody answers: without a permanent neighbour nothing is ever sent, and no error says so.
//!
//! For IPv4, by `/proc/net/route` and `/proc/net/arp` (proc_net(5)). Neighbours of IPv6 stand in neither.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Flags of a route (linux/route.h): it is up; it refuses.
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;
/// A neighbour whose address is known (linux/if_arp.h).
const NEIGHBOUR_KNOWN: u32 = 0x2;
/// An interface that asks nobody (linux/if.h).
const INTERFACE_NO_ARP: u32 = 0x80;

/// Why datagrams to this address may never leave; none if nothing speaks for it.
pub fn trouble(to: SocketAddr) -> Option<String> {
    let IpAddr::V4(address) = to.ip() else { return None };
    if address.is_loopback() || is_own(to) {
        return None;
    }
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let (interface, hop) = next_hop(&read("/proc/self/net/route")?, address)?;
    let flags = read(&format!("/sys/class/net/{interface}/flags"))?;
    let asks = hexadecimal(flags.trim()).is_some_and(|flags| flags & INTERFACE_NO_ARP == 0);
    (asks && !is_known(&read("/proc/self/net/arp")?, &interface, hop)).then(|| {
        format!(
            "{interface} has no neighbour {hop}, and over a diode nobody answers when the kernel asks for its hardware address: \
             nothing leaves. Run, and write into its network configuration: ip neighbour replace {hop} lladdr \
             ADDRESS-OF-THE-RECEIVER dev {interface} nud permanent"
        )
    })
}

/// Whether it is an address of this machine: nothing is sent to find out.
fn is_own(to: SocketAddr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let from = socket.and_then(|socket| socket.connect(to).and_then(|()| socket.local_addr()));
    from.is_ok_and(|from| from.ip() == to.ip())
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// The interface and the next hop of the most exact route, by the text of `/proc/net/route`.
fn next_hop(routes: &str, to: Ipv4Addr) -> Option<(String, Ipv4Addr)> {
    // Addresses stand there as the numbers that their octets are in memory.
    let address = |text: &str| hexadecimal(text).map(|number| Ipv4Addr::from(number.to_ne_bytes()));
    let route = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, gateway, flags, _, _, metric, mask, ..] = columns.as_slice() else {
            return None;
        };
        let (destination, gateway, mask) = (address(destination)?, address(gateway)?, address(mask)?);
        let flags = hexadecimal(flags)?;
        let is_meant = to.to_bits() & mask.to_bits() == destination.to_bits();
        if flags & ROUTE_UP == 0 || flags & ROUTE_REJECT != 0 || !is_meant {
            return None;
        }
        let hop = if gateway.is_unspecified() { to } else { gateway };
        let metric: u32 = metric.parse().ok()?;
        Some(((mask.to_bits().count_ones(), std::cmp::Reverse(metric)), ((*interface).to_owned(), hop)))
    };
    routes.lines().skip(1).filter_map(route).max_by_key(|(order, _)| *order).map(|(_, hop)| hop)
}

/// Whether the text of `/proc/net/arp` knows a neighbour.
fn is_known(neighbours: &str, interface: &str, hop: Ipv4Addr) -> bool {
    neighbours.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [address, _, flags, _, _, device] = columns.as_slice() else { return false };
        address.parse() == Ok(hop)
            && *device == interface
            && hexadecimal(flags).is_some_and(|flags| flags & NEIGHBOUR_KNOWN != 0)
    })
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    /// As Linux 6.1 prints it: a default route, a network, a network that is refused, a host with a gateway.
    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
eth2\t0000000A\t00000000\t0001\t0\t0\t50\t000000FF\t0\t0\t0
eth3\t0001010A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth4\t0502000A\t0100000A\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";

    const NEIGHBOURS: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.0.0.2         0x1         0x6         02:00:00:00:00:02     *        eth1
10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        eth1
";

    #[test]
    fn the_most_exact_route_is_taken() {
        let hop =
            |to: [u8; 4]| next_hop(ROUTES, to.into()).map(|(interface, hop)| format!("{interface} {hop}"));
        assert_eq!(hop([10, 0, 0, 2]).unwrap(), "eth1 10.0.0.2");
        assert_eq!(hop([10, 0, 2, 5]).unwrap(), "eth4 10.0.0.1");
        assert_eq!(hop([8, 8, 8, 8]).unwrap(), "eth0 192.168.0.1");
        assert_eq!(next_hop("Iface\n", [10, 0, 0, 2].into()), None);
    }

    #[test]
    fn who_has_not_answered_is_not_known() {
        let known = |interface: &str, hop: [u8; 4]| is_known(NEIGHBOURS, interface, hop.into());
        assert!(known("eth1", [10, 0, 0, 2]));
        assert!(
            !known("eth2", [10, 0, 0, 2]) && !known("eth1", [10, 0, 0, 3]) && !known("eth1", [10, 0, 0, 4])
        );
    }

    #[test]
    fn this_machine_is_no_neighbour() {
        assert_eq!(trouble("127.0.0.1:7400".parse().unwrap()), None);
        assert!(is_own("127.0.0.1:7400".parse().unwrap()));
    }
}
