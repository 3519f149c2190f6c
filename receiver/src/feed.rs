//! Feeding mirror hosts: receivers on other hosts that publish and serve what is published here.
//!
//! | module | what it is for |
//! |---|---|
//! | [`protocol`] | what both ends say, octet by octet |
//! | [`config`] | `[feed]`, and `[upstream]` of the other end |
//! | [`introduction`] | what a host must know of this receiver |
//! | [`stock`] | what there is to feed; what a host lacks of it |
//! | [`hosts`] | what is known of the hosts |
//! | [`listen`] | where they are fed |
//! | [`session`] | one connection |
//!
//! It is a part of the serve role: it reads what is published, and packs. What waits in quarantine, for a scanner or for an
//! approver is not published, and so is not fed. The other end is [`crate::upstream`].

mod config;
mod hosts;
mod introduction;
mod listen;
pub mod protocol;
mod session;
mod stock;

pub use config::{Feed, Upstream};
pub use hosts::{FeedView, HostView};
pub use introduction::{Introduction, write};
pub use listen::Feeding;
