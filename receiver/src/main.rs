//! stub
#![allow(dead_code, unused_imports, reason = "the daemon calls these")]
mod certs;
mod serve;

fn main() {}
