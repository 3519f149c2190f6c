//! Sending: what goes out next.
//!
//! [`Rounds`] says which object comes next, [`Interleaver`] spreads a burst of losses over many of them, [`Transmitter`]
//! seals, and repeats session and beacon, and [`Pacer`] says when. Nothing here reads a clock, a socket or a file.

mod interleave;
mod pacer;
mod rounds;
mod transmitter;

pub use interleave::{Finished, Interleaver, depth_for_burst};
pub use pacer::Pacer;
pub use rounds::{Job, ReleasePlan, RoundSettings, Rounds, Upcoming};
pub use transmitter::{Transmitted, Transmitter, WARM_UP};
