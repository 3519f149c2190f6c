//! A lane's socket on the low side: it sends, and nothing is ever read from it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use quinn_udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Lane;

/// Octets of the send buffer that is asked for.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// A UDP socket that sends batches of datagrams.
#[derive(Debug)]
pub struct LaneSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    to: SocketAddr,
}

impl LaneSocket {
    /// Opens the socket. The kernel must not fragment: see the full-size beacons.
    pub fn open(config: &Lane) -> anyhow::Result<Self> {
        let any = match config.to {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let from = config.from.unwrap_or(any);
        let socket = Socket::new(Domain::for_address(config.to), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&from.into()).with_context(|| format!("cannot send from {from}"))?;
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        // A smaller buffer than asked for costs speed, not data.
        let _ = state.set_send_buffer_size((&socket).into(), SEND_BUFFER_BYTES);
        Ok(Self { socket, state, to: config.to })
    }

    /// Datagrams of one length that one call can send.
    pub fn segments_max(&self) -> usize {
        self.state.max_gso_segments().max(1)
    }

    /// Sends datagrams of `segment` octets each; the last may be shorter. Returns how many octets went out: all, or
    /// those before the error, which is [`io::ErrorKind::WouldBlock`] when the buffer stays full.
    pub fn send(&self, octets: &[u8], segment: usize) -> (usize, io::Result<()>) {
        let mut sent = 0;
        while let Some(rest) = octets.get(sent..).filter(|rest| !rest.is_empty()) {
            // A path that turns out not to take segments takes fewer at once from now on.
            let now = rest.get(..segment.saturating_mul(self.segments_max())).unwrap_or(rest);
            if let Err(error) = self.send_at_once(now, segment) {
                return (sent, Err(error));
            }
            sent += now.len();
        }
        (sent, Ok(()))
    }

    fn send_at_once(&self, octets: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents: octets,
            segment_size: (octets.len() > segment).then_some(segment),
            src_ip: None,
        };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_writable()?;
                self.state.try_send((&self.socket).into(), &transmit)
            }
            other => other,
        }
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::OUT)];
        let time = rustix::event::Timespec::try_from(Duration::from_millis(100))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        rustix::event::poll(&mut fds, Some(&time))?;
        Ok(())
    }
}
