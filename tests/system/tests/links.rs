//! The paths themselves: what the other tests stand on has to be true first.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use diodesync_system::netns::{Family, Gap};
use diodesync_system::wait_for;
use diodesync_system::weather::{Link, Weather};

const SECOND: Duration = Duration::from_secs(1);

/// A socket with as large a buffer as the kernel grants, which gives up soon after the last datagram.
fn bind(address: impl std::net::ToSocketAddrs) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 16 << 20))
        .unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

fn far_end() -> (UdpSocket, SocketAddr) {
    let socket = bind((Ipv4Addr::LOCALHOST, 0));
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Sends `count` numbered datagrams, each a number and its complement. After every 32, `pace` may wait.
fn send_numbered(socket: &UdpSocket, to: SocketAddr, count: u64, pace: impl Fn(u64)) {
    for number in 0..count {
        let mut datagram = [0; 1400];
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        datagram[8..16].copy_from_slice(&(!number).to_le_bytes());
        socket.send_to(&datagram, to).unwrap();
        if number % 32 == 31 {
            pace(number + 1);
        }
    }
}

/// Sends `count` datagrams through `link` to `high`, never more at once than the smallest buffer holds: what is lost
/// is lost by the weather.
fn cross(link: &Link, count: u64, high: &UdpSocket) -> (Vec<u64>, u64) {
    let low = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let got = AtomicU64::new(0);
    let pace = |sent| {
        let start = Instant::now();
        loop {
            let counts = link.counts();
            let under_way = counts.forwarded.saturating_sub(got.load(Ordering::Relaxed));
            if counts.received >= sent && under_way <= 48 {
                return;
            }
            assert!(
                start.elapsed() < 10 * SECOND,
                "the link does not keep up: {counts:?}, {under_way} under way"
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    };
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_numbered(&low, link.entry(), count, pace));
        receive_numbered(high, &got, || sender.is_finished())
    })
}

/// Receives until nothing comes any more: the numbers of datagrams that are whole, and how many are not.
fn receive_numbered(socket: &UdpSocket, got: &AtomicU64, is_sent: impl Fn() -> bool) -> (Vec<u64>, u64) {
    let (mut numbers, mut broken) = (Vec::new(), 0);
    let mut buffer = [0; 10_000];
    loop {
        // Looked at before the read, so that what was sent last is still waited for.
        let was_sent = is_sent();
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(_) if was_sent => return (numbers, broken),
            Err(_) => continue,
        };
        got.fetch_add(1, Ordering::Relaxed);
        let word = |at: usize| u64::from_le_bytes(buffer[at..at + 8].try_into().unwrap());
        if length == 1400 && word(0) == !word(8) && buffer[16..1400].iter().all(|octet| *octet == 0) {
            numbers.push(word(0));
        } else {
            broken += 1;
        }
    }
}

#[test]
fn clear_weather_passes_everything_in_order() {
    let (high, to) = far_end();
    let link = Link::open(to, Weather::clear()).unwrap();
    let (numbers, broken) = cross(&link, 2000, &high);
    assert_eq!((numbers, broken), ((0..2000).collect(), 0));
    let counts = link.counts();
    assert_eq!((counts.received, counts.forwarded, counts.dropped, counts.back), (2000, 2000, 0, 0));
}

#[test]
fn foul_weather_does_all_of_it_and_counts_it() {
    let (high, to) = far_end();
    let link = Link::open(to, Weather { burst: 0.002, ..Weather::foul(42) }).unwrap();
    let (numbers, broken) = cross(&link, 20_000, &high);
    let counts = link.counts();
    for (what, count) in [
        ("dropped", counts.dropped),
        ("bursts", counts.bursts),
        ("reordered", counts.reordered),
        ("duplicated", counts.duplicated),
        ("truncated", counts.truncated),
        ("flipped", counts.flipped),
        ("forged", counts.forged),
        ("replayed", counts.replayed),
    ] {
        assert!(count > 0, "nothing was {what}: {counts:?}");
    }
    assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "nothing came out of order");
    assert!(broken > 0);
    assert_eq!(counts.received, 20_000, "the kernel lost some: {:?}", link.kernel_drops());
    assert_eq!(
        counts.forwarded + counts.refused,
        counts.received - counts.dropped + counts.duplicated + counts.forged + counts.replayed
    );
    assert_eq!(counts.forwarded, numbers.len() as u64 + broken);
}

#[test]
fn the_same_seed_is_the_same_weather() {
    let once = || {
        let (high, to) = far_end();
        let link = Link::open(to, Weather::lossy(7)).unwrap();
        cross(&link, 3000, &high).0
    };
    let numbers = once();
    assert!((2880..2990).contains(&numbers.len()), "{} of 3000 passed 2 % loss", numbers.len());
    assert_eq!(numbers, once());
}

#[test]
fn what_the_high_side_sends_is_counted_and_goes_nowhere() {
    let (high, to) = far_end();
    let link = Link::open(to, Weather::clear()).unwrap();
    let (low, _) = far_end();
    low.send_to(b"up", link.entry()).unwrap();
    high.set_read_timeout(Some(10 * SECOND)).unwrap();
    let (_, exit) = high.recv_from(&mut [0; 16]).unwrap();
    high.send_to(b"an answer", exit).unwrap();
    wait_for("the answer is counted", 10 * SECOND, || Ok((link.counts().back == 1).then_some(()))).unwrap();
    assert!(low.recv(&mut [0; 16]).is_err());
}

#[test]
fn a_pulled_cable_carries_nothing() {
    let (high, to) = far_end();
    let link = Link::open(to, Weather::clear()).unwrap();
    link.cut(true);
    assert_eq!(cross(&link, 10, &high).0.len(), 0);
    link.cut(false);
    assert_eq!(cross(&link, 10, &high).0.len(), 10);
}

/// Not a promise, a measurement: how fast the userspace link passes 2 % loss. `--ignored --nocapture` shows it.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    let (high, to) = far_end();
    let link = Link::open(to, Weather::lossy(1)).unwrap();
    let entry = link.entry();
    let sender = std::thread::spawn(move || {
        let low = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let datagram = [0; 1472];
        let start = Instant::now();
        let mut sent = 0u64;
        // 1.5 Gbit/s, in steps of 64.
        while start.elapsed() < 3 * SECOND {
            let due = (start.elapsed().as_secs_f64() * 1.5e9 / 8.0 / 1472.0) as u64;
            for _ in 0..(due - sent).min(64) {
                low.send_to(&datagram, entry).unwrap();
                sent += 1;
            }
        }
        sent
    });
    let mut buffer = [0; 2048];
    let (mut count, mut first) = (0u64, None);
    let mut last = Instant::now();
    while let Ok(_length) =
        high.recv(&mut buffer).or_else(|error| if sender.is_finished() { Err(error) } else { Ok(0) })
    {
        first.get_or_insert_with(Instant::now);
        last = Instant::now();
        count += 1;
    }
    let seconds = (last - first.unwrap()).as_secs_f64();
    println!(
        "{:.2} Gbit/s out, {} sent, {:?}, lost by the kernel at the entry: {:?}",
        count as f64 * 1472.0 * 8.0 / seconds / 1e9,
        sender.join().unwrap(),
        link.counts(),
        link.kernel_drops(),
    );
}

#[test]
fn a_gap_carries_one_way_only_over_ipv4() {
    gap(Family::V4);
}

#[test]
fn a_gap_carries_one_way_only_over_ipv6() {
    gap(Family::V6);
}

fn gap(family: Family) {
    let gap = match Gap::open(family, 0.02) {
        Ok(gap) => gap,
        Err(skip) => return skip.announce_or_fail_in_ci("the path between two network namespaces"),
    };
    let high = gap.in_high(|| Ok(bind((gap.high_ip(), 7400)))).unwrap();
    let low = gap.in_low(|| Ok(bind((gap.low_ip(), 7400)))).unwrap();

    // Only root comes here, so the buffer holds them all.
    send_numbered(&low, high.local_addr().unwrap(), 3000, |_| {});
    let (numbers, broken) = receive_numbered(&high, &AtomicU64::new(0), || true);
    assert_eq!(broken, 0);
    assert!((2850..2999).contains(&numbers.len()), "{} of 3000 passed 2 % loss", numbers.len());
    // On IPv6 the low side's kernel also says which multicast groups it listens to; that way is open.
    let (lost, arrivals) = (gap.lost().unwrap(), gap.arrivals().unwrap());
    assert!(family == Family::V6 || (arrivals, lost) == (3000, 3000 - numbers.len() as u64));
    assert_eq!((gap.back_attempts().unwrap(), gap.back_arrivals().unwrap()), (0, 0));

    // An answer is seen, counted, and does not arrive.
    let answer = high.send_to(b"an answer", low.local_addr().unwrap());
    assert!(answer.is_err() || gap.back_attempts().unwrap() == 1);
    assert_eq!(gap.back_attempts().unwrap(), 1);
    assert!(low.recv(&mut [0; 16]).is_err());
    // Neither does what the kernel would say by itself to a closed port. (The first question may be lost.)
    wait_for("the kernel answers", 10 * SECOND, || {
        low.send_to(b"nobody is there", (gap.high_ip(), 9))?;
        Ok((gap.back_attempts()? > 1).then_some(()))
    })
    .unwrap();
    assert_eq!(gap.back_arrivals().unwrap(), 0);
}
