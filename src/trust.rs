//! What may be published: TUF metadata (The Update Framework 1.0), made on the low side, verified on the high side.
//!
//! Each index is a target named `CHANNEL/NUMBER.index`. Rollback, freeze, mix-and-match and key rotation are what TUF
//! solves; link keys only decide what is worth decoding. The metadata travels as one [`Bundle`].

mod bundle;
mod metadata;
mod verify;

use crate::id::{Channel, ReleaseNo};

pub use bundle::{Bundle, BundleError};
pub use metadata::{Release, Repository, RoleKey, RoleKeys};
pub use verify::{
    Target, TrustError, TrustState, follow, timestamp_expires_s, timestamp_version, verify, verify_timestamp,
};

/// The target name of a release's index.
pub fn target_name(channel: &Channel, number: ReleaseNo) -> String {
    format!("{channel}/{number}.index")
}
