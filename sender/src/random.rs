//! The operating system's random numbers.

use anyhow::Context;
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;

/// For the library's functions that take randomness as an argument.
pub fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Fresh random octets.
pub fn array<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out).context("the operating system gives no random numbers")?;
    Ok(out)
}
