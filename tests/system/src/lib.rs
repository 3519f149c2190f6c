//! What the whole-system tests and the demo share: real daemons, real clients, and a path that carries one way.
//!
//! | module | what it gives |
//! |---|---|
//! | [`bins`] | the daemons' binaries, built when they are not there |
//! | [`side`] | a paired sender and receiver, started, stopped, killed and cleaned up |
//! | [`status`] | what `status --json` says, typed |
//! | [`nonces`] | what the sender has sealed with, over all its sessions |
//! | [`weather`] | a one-way UDP path in user space, with seeded bad weather |
//! | [`netns`] | a one-way path between two network namespaces |
//! | [`packaged`] | the Debian packages of both sides |
//! | [`machine`] | a machine of its own for packages and services, with a real systemd |
//! | [`origin`], [`gpg`] | an upstream with faults, a Terraform registry in it, and the real `gpg` |
//! | [`deb`], [`archive`], [`apt`] | Debian packages, an archive of them, and the real `apt` with a root of its own |
//! | [`provider`] | a Terraform provider release as a registry has it, signed |
//! | [`oci`] | container images, signed, and the real `skopeo` and `podman` |
//! | [`registry`] | the real `docker-registry`, and a gate in front of it that stops half-way |
//! | [`clock`] | a clock that is wrong |
//! | [`terraform`] | the real `terraform`, in an empty environment |
//! | [`tmpfs`] | small file systems that a test can fill |
//! | [`tree`] | file trees that are the same in every run, and their digests |
//! | [`http`] | a plain HTTP client that says exactly what it is told to |
//! | [`browser`] | the real Chromium, by WebDriver |
//! | [`https`] | a small HTTPS client that trusts one CA |
//! | [`mirror`] | what the receiver serves, and comparing it with what was submitted |
//! | [`scratch`], [`prng`], [`skip`] | temporary folders, seeded numbers, tests that cannot run here |

pub mod apt;
pub mod archive;
pub mod bins;
pub mod browser;
pub mod clock;
pub mod deb;
pub mod gpg;
pub mod http;
pub mod https;
pub mod machine;
pub mod mirror;
pub mod mirror_host;
pub mod netns;
pub mod nonces;
pub mod oci;
pub mod origin;
pub mod packaged;
pub mod prng;
pub mod provider;
pub mod registry;
pub mod scratch;
pub mod side;
pub mod skip;
pub mod status;
pub mod terraform;
pub mod tmpfs;
pub mod tree;
pub mod weather;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Held by a test that measures daemons against clocks: two pairs at once on a small machine would measure each other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks `ready` until it gives something, every 50 ms; after `limit` it fails with `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
