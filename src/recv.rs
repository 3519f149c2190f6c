//! Receiving: what a datagram means.
//!
//! [`Intake`] authenticates the datagrams of one lane. [`Collector`] puts the symbols of all lanes into their blocks
//! and says which blocks are ready. [`Assembler`] joins the source blocks of an index or a trust bundle. Nothing here
//! reads a clock, a socket or a file: the daemon does what the actions say.

mod assembler;
mod collector;
mod intake;
mod probe;

pub use assembler::{Assembled, Assembler};
pub use collector::{Action, BlockKey, Collector, CollectorStats};
pub use intake::{Intake, IntakeStats, Intaken, PendingSession, Reject};
pub use probe::{ProbeSeen, TrainSeen};
