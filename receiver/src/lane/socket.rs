//! A lane's socket on the high side: it receives, and nothing is ever sent from it.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Seek};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::buffer::Buffer;
use listenfd::ListenFd;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// Octets of the receive buffer that is asked for: 100 ms at 2.5 Gbit/s.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// Octets of one buffer: what the kernel joins into one by GRO.
const BUFFER_BYTES: usize = 65_536;
/// Buffers that are filled at once while the kernel joins datagrams: few, so that what it has copied is still in the
/// second-level cache when it is opened and placed. While it joins none, each has one datagram, and more are worth it.
const JOINED_BUFFERS: usize = 4;

/// Pauses are worth it on fast lanes only.
const PAUSE_RATE_MIN: u64 = 200_000_000;
/// A shorter sleep is none.
const PAUSE_MIN: Duration = Duration::from_micros(100);
/// A longer one would save nothing more.
const PAUSE_MAX: Duration = Duration::from_millis(1);

/// A UDP socket that receives batches of datagrams.
#[derive(Debug)]
pub struct LaneSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    buffer_bytes: usize,
    inode: u64,
    drops: Option<File>,
}

/// Sockets that the service manager has bound and handed over (sd_listen_fds(3)), so that the lane role needs no network
/// of its own.
#[derive(Debug, Default)]
pub struct Given(Vec<(SocketAddr, UdpSocket)>);

impl Given {
    /// Those of this process.
    ///
    /// # Errors
    /// If one of them is no UDP socket.
    pub fn take() -> anyhow::Result<Self> {
        let mut all = ListenFd::from_env();
        let mut given = Vec::new();
        for at in 0..all.len() {
            let what =
                || format!("socket {at} that was handed over; expected ListenDatagram= with an IP address");
            let socket = all.take_udp_socket(at).with_context(what)?.with_context(what)?;
            given.push((socket.local_addr().with_context(what)?, socket));
        }
        Ok(Self(given))
    }

    /// The one for an address; none if there are none at all.
    ///
    /// # Errors
    /// If there are some, and none of them is for this address.
    fn remove(&mut self, listen: SocketAddr) -> anyhow::Result<Option<UdpSocket>> {
        let Self(given) = self;
        if let Some(at) = given.iter().position(|(address, _)| *address == listen) {
            return Ok(Some(given.swap_remove(at).1));
        }
        let addresses: Vec<String> = given.iter().map(|(address, _)| address.to_string()).collect();
        match addresses.is_empty() {
            true => Ok(None),
            false => bail!(
                "it listens on {listen} by receiver.toml, and what was handed over listens on {}; make ListenDatagram= of \
                 the socket unit and receiver.toml say the same",
                addresses.join(", ")
            ),
        }
    }

    /// Refuses those that no lane has taken.
    pub fn check_taken(&self) -> anyhow::Result<()> {
        self.0.first().map_or(Ok(()), |(address, _)| {
            bail!("a socket for {address} was handed over, and no [[lane]] of receiver.toml listens there")
        })
    }
}

/// The buffers of a lane's thread.
#[derive(Debug)]
pub struct Buffers {
    octets: Buffer,
    metas: Vec<RecvMeta>,
    /// How many of them the kernel may fill, and how many it has filled.
    offered: usize,
    filled: usize,
}

impl LaneSocket {
    /// Takes the socket that was handed over for this address, or else binds one and asks for a large buffer.
    pub fn open(listen: SocketAddr, given: &mut Given) -> anyhow::Result<Self> {
        if let Some(socket) = given.remove(listen)? {
            return Self::new(socket, listen);
        }
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&listen.into()).with_context(|| {
            format!(
                "cannot receive on {listen}; is another receiver running, or is the address not of this host?"
            )
        })?;
        Self::new(socket.into(), listen)
    }

    fn new(socket: UdpSocket, listen: SocketAddr) -> anyhow::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let granted = state.recv_buffer_size((&socket).into())?;
        // With the privilege for it the limit of the system does not hold; without it, up to the limit.
        if granted < RECEIVE_BUFFER_BYTES
            && rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err()
        {
            let _ = state.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER_BYTES);
        }
        let buffer_bytes = state.recv_buffer_size((&socket).into())?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        Ok(Self { socket, state, buffer_bytes, inode, drops: drops_table(listen.is_ipv6(), inode) })
    }

    /// Octets of the kernel's buffer, as granted.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Buffers for [`Buffers::receive`].
    pub fn take_buffers(&self) -> Buffers {
        Buffers {
            octets: Buffer::zeroed(BUFFER_BYTES * BATCH_SIZE),
            metas: vec![RecvMeta::default(); BATCH_SIZE],
            offered: BATCH_SIZE,
            filled: 0,
        }
    }

    /// Packets that the kernel dropped because the buffer was full, each of up to 64 datagrams. 0 where that cannot be
    /// read.
    pub fn kernel_drops(&self) -> u64 {
        self.drops.as_ref().and_then(|table| drops_in(table, self.inode)).unwrap_or(0)
    }
}

/// The kernel's table of sockets that has this one: `/proc/net/udp` or `udp6` of this process's network; or, if the socket
/// is of another, the file on standard input, which the service manager has opened there.
fn drops_table(is_ipv6: bool, inode: u64) -> Option<File> {
    let own = File::open(if is_ipv6 { "/proc/self/net/udp6" } else { "/proc/self/net/udp" });
    let given = || std::io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let is_table = |file: &File| {
        rustix::fs::fstatfs(file)
            .is_ok_and(|fs| fs.f_type as u64 == u64::from(rustix::fs::PROC_SUPER_MAGIC as u32))
    };
    let tables = own.into_iter().chain(given().ok().filter(is_table));
    let found = tables.into_iter().find(|table| drops_in(table, inode).is_some());
    if found.is_none() {
        tracing::warn!(
            "what the kernel drops cannot be told: no table of sockets that can be read has the lane's"
        );
    }
    found
}

/// The last column of a socket's line.
fn drops_in(mut table: &File, inode: u64) -> Option<u64> {
    let (inode, mut text) = (inode.to_string(), String::new());
    table.rewind().ok()?;
    table.read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.split_whitespace().nth(9) == Some(inode.as_str()))?;
    line.split_whitespace().last()?.parse().ok()
}

impl Buffers {
    /// Takes what has come, or else waits up to `wait` for more.
    pub fn receive(&mut self, socket: &LaneSocket, wait: Duration) -> io::Result<()> {
        if self.filled > 0 {
            let is_joined = self.metas.iter().take(self.filled).any(|meta| meta.len > meta.stride);
            self.offered = if is_joined { JOINED_BUFFERS } else { BATCH_SIZE };
        }
        self.filled = 0;
        let mut slices: Vec<IoSliceMut<'_>> =
            self.octets.chunks_mut(BUFFER_BYTES).take(self.offered).map(IoSliceMut::new).collect();
        self.filled = match socket.state.recv((&socket.socket).into(), &mut slices, &mut self.metas) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return wait_readable(&socket.socket, wait);
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Whether more may have come than was taken.
    pub fn is_full(&self) -> bool {
        self.filled == self.offered
    }

    /// What came: datagrams end to end, each of as many octets as stand beside them, but for a shorter last one.
    pub fn received(&mut self) -> impl Iterator<Item = (&mut [u8], usize)> {
        let buffers = self.octets.chunks_mut(BUFFER_BYTES).zip(&self.metas).take(self.filled);
        // A datagram without octets has no stride.
        buffers.filter_map(|(octets, meta)| Some((octets.get_mut(..meta.len)?, meta.stride.max(1))))
    }
}

/// How long to let datagrams pile up in the kernel's buffer once it was emptied, at the rate at which they come: a
/// wake-up for each of them would cost more than taking it. A sixteenth of the buffer is used for that, for the kernel
/// counts up to twice the octets, and a thread may sleep longer than it wanted.
pub fn pause(buffer_bytes: usize, rate_bits_per_s: u64) -> Duration {
    let time = Duration::from_secs_f64(buffer_bytes as f64 / 2.0 / rate_bits_per_s.max(1) as f64);
    if rate_bits_per_s < PAUSE_RATE_MIN || time < PAUSE_MIN { Duration::ZERO } else { time.min(PAUSE_MAX) }
}

fn wait_readable(socket: impl AsFd, wait: Duration) -> io::Result<()> {
    let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
    let wait =
        rustix::event::Timespec::try_from(wait).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    rustix::event::poll(&mut fds, Some(&wait))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_handed_over_is_for_the_lane_with_its_address() {
        let [first, second] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [one, two] = [&first, &second].map(|socket| socket.local_addr().unwrap());
        let other: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let mut given = Given(vec![(one, first), (two, second)]);
        let lane = LaneSocket::open(two, &mut given).unwrap();
        assert_eq!(lane.socket.local_addr().unwrap(), two);
        assert!(lane.drops.is_some());
        let error = LaneSocket::open(other, &mut given).unwrap_err().to_string();
        assert!(error.contains(&one.to_string()) && error.contains("127.0.0.1:9"), "{error}");
        let error = given.check_taken().unwrap_err().to_string();
        assert!(error.contains(&one.to_string()), "{error}");
        LaneSocket::open(one, &mut given).unwrap();
        given.check_taken().unwrap();
        // Without any, it is bound here.
        LaneSocket::open("127.0.0.1:0".parse().unwrap(), &mut given).unwrap();
    }

    #[test]
    fn a_pause_fills_a_small_part_of_the_buffer() {
        let (stock, large) = (2 * 212_992, 64 << 20);
        assert_eq!(pause(large, 10_000_000), Duration::ZERO, "slow: each datagram at once");
        assert_eq!(pause(large, 5_000_000_000), PAUSE_MAX);
        let short = pause(stock, 1_000_000_000);
        assert!((PAUSE_MIN..Duration::from_micros(250)).contains(&short), "{short:?}");
        assert_eq!(pause(stock, 10_000_000_000), Duration::ZERO);
    }
}
