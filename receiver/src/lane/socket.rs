//! A lane's socket on the high side: it receives, and nothing is ever sent from it.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// Octets of the receive buffer that is asked for: 100 ms at 2.5 Gbit/s.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// Octets of one buffer: what the kernel joins into one by GRO.
const BUFFER_BYTES: usize = 65_536;

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
    is_ipv6: bool,
}

/// The buffers of a lane's thread.
#[derive(Debug)]
pub struct Buffers {
    octets: Vec<u8>,
    metas: Vec<RecvMeta>,
    /// How many of them are filled.
    filled: usize,
}

impl LaneSocket {
    /// Binds the socket and asks for a large buffer.
    pub fn open(listen: SocketAddr) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&listen.into()).with_context(|| {
            format!(
                "cannot receive on {listen}; is another receiver running, or is the address not of this host?"
            )
        })?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        // With the privilege for it the limit of the system does not hold; without it, up to the limit.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
            let _ = state.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER_BYTES);
        }
        let buffer_bytes = state.recv_buffer_size((&socket).into())?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        Ok(Self { socket, state, buffer_bytes, inode, is_ipv6: listen.is_ipv6() })
    }

    /// Octets of the kernel's buffer, as granted.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Buffers for [`Buffers::receive`].
    pub fn take_buffers(&self) -> Buffers {
        Buffers {
            octets: vec![0; BUFFER_BYTES * BATCH_SIZE],
            metas: vec![RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }

    /// Packets that the kernel dropped because the buffer was full, each of up to 64 datagrams: the last column of the socket's line in
    /// `/proc/net/udp` or `udp6`. 0 where that cannot be read.
    pub fn kernel_drops(&self) -> u64 {
        let table = if self.is_ipv6 { "/proc/net/udp6" } else { "/proc/net/udp" };
        let inode = self.inode.to_string();
        let Ok(text) = std::fs::read_to_string(table) else { return 0 };
        let line = text.lines().find(|line| line.split_whitespace().nth(9) == Some(inode.as_str()));
        line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(0)
    }
}

impl Buffers {
    /// Takes what has come, or else waits up to `wait` for more.
    pub fn receive(&mut self, socket: &LaneSocket, wait: Duration) -> io::Result<()> {
        self.filled = 0;
        let mut slices: Vec<IoSliceMut<'_>> =
            self.octets.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new).collect();
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
        self.filled == BATCH_SIZE
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
    fn a_pause_fills_a_small_part_of_the_buffer() {
        let (stock, large) = (2 * 212_992, 64 << 20);
        assert_eq!(pause(large, 10_000_000), Duration::ZERO, "slow: each datagram at once");
        assert_eq!(pause(large, 5_000_000_000), PAUSE_MAX);
        let short = pause(stock, 1_000_000_000);
        assert!((PAUSE_MIN..Duration::from_micros(250)).contains(&short), "{short:?}");
        assert_eq!(pause(stock, 10_000_000_000), Duration::ZERO);
    }
}
