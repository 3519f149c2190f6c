//! `producer-key` and `producers`.

use std::path::Path;

use diodesync_control::{Client, clock_s};

use super::desk::Listing;
use super::identity;

/// Makes a producer's key on its own host, and says what to do with it.
pub fn make_key(dir: &Path) -> anyhow::Result<()> {
    let pin = identity::make_producer(dir)?.pin();
    println!("pin {pin}");
    println!();
    println!(
        "Have it written into sender.toml, with what this host may submit, and the sender started anew:"
    );
    println!("  [[producer]]");
    println!("  name = \"NAME\"");
    println!("  key = \"{pin}\"");
    println!("  kinds = [\"file\"]");
    println!("  names = [\"NAME/*\"]");
    println!("Its operator tells the server's pin, as diode-sender producers shows it. Then, on this host:");
    println!("  diode-sender submit files PATH --to HOST:PORT --identity {} --server-pin PIN", dir.display());
    Ok(())
}

/// Shows the sender's own pin, and its producers.
pub async fn producers(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get("/v1/producers").await?;
    if json {
        println!("{answer:#}");
    } else {
        print!("{}", serde_json::from_value::<Listing>(answer)?.to_text(clock_s()));
    }
    Ok(())
}
