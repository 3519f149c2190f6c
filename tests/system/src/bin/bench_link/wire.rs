//! What one small file costs on the wire: every datagram of its release is taken off the path and opened with the
//! receiver's key, so that each is counted for what it is.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use diodesync::link::ReceiverKey;
use diodesync::pack::fact;
use diodesync::pairing::Pairing;
use diodesync::recv::{Intake, Intaken};
use diodesync::wire::ObjectId;
use diodesync_system::status::SendState;

use crate::raw::HEADER_BYTES;
use crate::stand::Stand;

/// How long the sender is listened to after it says that it is through.
const AFTER: Duration = Duration::from_millis(500);
/// A release of one small file takes no longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Octets on the wire, the headers of IP and UDP included.
#[derive(Debug, Default)]
pub struct Wire {
    /// The index.
    pub index: u64,
    /// The block that holds the file.
    pub block: u64,
    /// The trust bundle.
    pub trust: u64,
    /// SESSION datagrams.
    pub sessions: u64,
    /// Beacons.
    pub beacons: u64,
}

/// Sends one file of `bytes` octets in one round.
pub fn one_file(stand: &mut Stand, bytes: u64) -> Result<Wire> {
    let seed = fact::read(&stand.pair().high.dir().join("keys/receiver.key"))?
        .context("there is no receiver key")?;
    let seed = seed.try_into().ok().context("the receiver's key has not 32 octets")?;
    let pairing = std::fs::read(stand.pair().low.dir().join("pairing.json"))?;
    let (paired, _) = Pairing::open(&pairing, ReceiverKey::from_seed(&seed))?;
    let mut intake = Intake::new("lane0".parse()?, paired, None);

    let to: SocketAddr = stand.low_address()?;
    let socket = stand.gap()?.in_high(|| Ok(UdpSocket::bind(to)?))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    stand.pair().low.set(&["channel", "rounds"], 1)?;
    stand.submit(std::iter::once(("file".to_owned(), 1)), bytes)?;
    stand.pair().low.ok(&["release"])?;

    let mut wire = Wire::default();
    let mut datagram = [0; 65_536];
    let started = Instant::now();
    let mut through: Option<Instant> = None;
    while through.is_none_or(|at| at.elapsed() < AFTER) {
        if through.is_none()
            && stand.low()?.channel("main").is_some_and(|main| main.state == SendState::Complete)
        {
            through = Some(Instant::now());
        }
        if started.elapsed() > LIMIT {
            bail!("the sender is not through after {} s", LIMIT.as_secs());
        }
        while let Ok(length) = socket.recv(&mut datagram) {
            let octets = (length + HEADER_BYTES) as u64;
            let Some(received) = datagram.get_mut(..length) else { continue };
            match intake.handle_datagram(Instant::now(), received)? {
                Intaken::Symbol(header, _) => match header.object {
                    ObjectId::Trust(_) => wire.trust += octets,
                    ObjectId::Index(_) => wire.index += octets,
                    ObjectId::Block(_) => wire.block += octets,
                },
                Intaken::NewSession(session) => {
                    intake.adopt(session, 0);
                    wire.sessions += octets;
                }
                Intaken::SameSession => wire.sessions += octets,
                Intaken::Beacon(_) | Intaken::OldBeacon | Intaken::Probe(_) => wire.beacons += octets,
            }
        }
    }
    Ok(wire)
}
