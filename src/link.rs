//! The link: who may speak on it, and how each datagram is sealed.
//!
//! No handshake is possible, so the sender offers a *session* over and over: a fresh secret, sealed by HPKE to every
//! paired receiver and signed by the link key. Every other datagram of the session is sealed under keys that follow
//! from the secret. A receiver takes only sessions whose number is higher than any it took before, and each sequence
//! number once.
//!
//! Authentication comes before forward error correction, because one forged symbol would spoil a block and no erasure
//! code notices it.

mod keys;
mod replay;
mod session;

pub use hpke::rand_core::CryptoRng;
pub use keys::{
    KeyError, LinkKey, LinkVerifier, PairingSecret, ReceiverKey, ReceiverPublic, open_pairing_secret,
    seal_pairing_secret,
};
pub use replay::ReplayWindow;
pub(crate) use session::seal_secret;
pub use session::{OpenError, Opener, Paired, SealError, Sealer, SessionSecret, offer_session};
