//! Sending: what goes out next.
//!
//! [`Carousel`] says which object of which release comes next, [`Interleaver`] spreads a burst of losses over many of them, [`Transmitter`]
//! seals, and repeats session and beacon, and [`Pacer`] says when. Nothing here reads a clock, a socket or a file.

mod carousel;
mod interleave;
mod pacer;
mod probe;
mod rounds;
mod transmitter;
mod windows;

pub use carousel::{Begin, Carousel, ChannelSettings, Turn};
pub use interleave::{Finished, Interleaver, depth_for_burst};
pub use pacer::{Pacer, rate_of_round};
pub use probe::{PROBE_RATES, ProbeTurn, Probing, Train};
pub use rounds::{Job, LaneSet, LaneSlot, ReleasePlan, RoundSettings, Rounds, RunId, Upcoming, Via};
pub use transmitter::{Transmitted, Transmitter, WARM_UP};
pub use windows::{RateWindow, RateWindows, WindowError, WindowRate};
