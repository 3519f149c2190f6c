//! stub
mod provider_zip;
fn main() {}
