//! The yardstick: how much UDP the same path carries on the same machine at the same time, with GSO and GRO and with
//! nothing to do for it. Sender and receiver are two processes, as the daemons are.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use diodesync_system::netns::Gap;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use serde::{Deserialize, Serialize};

use crate::meter::Cost;

const PORT: u16 = 7500;
/// What the receiving daemon asks for too.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// The receiver ends when nothing came for so long.
const SILENCE: Duration = Duration::from_millis(500);
/// Headers of IPv4 and UDP.
pub const HEADER_BYTES: usize = 28;
/// Octets of one send call.
const BATCH_BYTES: usize = 64_000;

/// What the receiving end says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Received {
    datagrams: u64,
    octets: u64,
    seconds: f64,
    cpu_s: f64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Raw {
    /// Octets of UDP payload that arrived, in bits per second.
    pub gbit_s: f64,
    /// The share of datagrams that did not arrive.
    pub lost: f64,
    /// CPU seconds for each GiB that arrived.
    pub send_cpu_s_per_gib: f64,
    /// CPU seconds for each GiB that arrived.
    pub receive_cpu_s_per_gib: f64,
}

/// Sends `bytes` octets as fast as it goes.
pub fn measure(gap: &Gap, mtu: u16, bytes: u64) -> Result<Raw> {
    let exe = std::env::current_exe()?;
    let address = SocketAddr::new(gap.high_ip(), PORT).to_string();
    let payload = (usize::from(mtu) - HEADER_BYTES).to_string();
    let within = |namespace: &str, arguments: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(&exe).args(arguments).stdout(Stdio::piped());
        command
    };
    let mut receiver = within(gap.high(), &["raw-receive", &address]).spawn()?;
    // It has no way to say that it is ready other than its socket.
    std::thread::sleep(Duration::from_millis(200));
    let sent = within(gap.low(), &["raw-send", &address, &payload, &bytes.to_string()]).output()?;
    if !sent.status.success() {
        let _ = receiver.kill();
        let _ = receiver.wait();
        bail!("the raw sender failed");
    }
    let received = receiver.wait_with_output()?;
    let received: Received = serde_json::from_slice(&received.stdout).context("the raw receiver failed")?;
    let sent: Received = serde_json::from_slice(&sent.stdout).context("the raw sender failed")?;
    let gib = received.octets as f64 / f64::from(1 << 30);
    Ok(Raw {
        gbit_s: received.octets as f64 * 8.0 / received.seconds / 1e9,
        lost: 1.0 - received.datagrams as f64 / sent.datagrams as f64,
        send_cpu_s_per_gib: sent.cpu_s / gib,
        receive_cpu_s_per_gib: received.cpu_s / gib,
    })
}

/// The sending process.
pub fn send(to: SocketAddr, payload: usize, bytes: u64) -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    let state = UdpSocketState::new((&socket).into())?;
    let _ = state.set_send_buffer_size((&socket).into(), 4 << 20);
    let segments = state.max_gso_segments().min(BATCH_BYTES / payload).max(1);
    let octets = vec![0x5a; segments * payload];
    let contents = octets.as_slice();
    let transmit =
        Transmit { destination: to, ecn: None, contents, segment_size: Some(payload), src_ip: None };
    let started = Instant::now();
    let mut datagrams = 0;
    while datagrams * (payload as u64) < bytes {
        match state.try_send((&socket).into(), &transmit) {
            Ok(()) => datagrams += segments as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut fds, None)?;
            }
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    report(datagrams, datagrams * payload as u64, started.elapsed())
}

/// The receiving process.
pub fn receive(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot receive on {listen}"))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
    let state = UdpSocketState::new((&socket).into())?;
    let mut octets = vec![0; BATCH_SIZE << 16];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let (mut datagrams, mut bytes) = (0, 0);
    let mut span: Option<(Instant, Instant)> = None;
    let started = Instant::now();
    loop {
        let mut slices: Vec<IoSliceMut<'_>> = octets.chunks_mut(1 << 16).map(IoSliceMut::new).collect();
        match state.recv((&socket).into(), &mut slices, &mut metas) {
            Ok(count) => {
                for meta in metas.iter().take(count) {
                    datagrams += meta.len.div_ceil(meta.stride.max(1)) as u64;
                    bytes += meta.len as u64;
                }
                let now = Instant::now();
                span = Some((span.map_or(now, |(first, _)| first), now));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut fds = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
                let wait = rustix::event::Timespec::try_from(SILENCE).unwrap_or_default();
                if rustix::event::poll(&mut fds, Some(&wait))? == 0
                    && (span.is_some() || started.elapsed() > Duration::from_secs(10))
                {
                    break;
                }
            }
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
    report(datagrams, bytes, span.map_or(Duration::ZERO, |(first, last)| last - first))
}

fn report(datagrams: u64, octets: u64, time: Duration) -> Result<()> {
    let cpu_s = Cost::of(std::process::id())?.cpu_s;
    let received = Received { datagrams, octets, seconds: time.as_secs_f64(), cpu_s };
    println!("{}", serde_json::to_string(&received)?);
    Ok(())
}
