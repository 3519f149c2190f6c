//! `diode-sender probe`: trains of rising rates go out, the high side says which was clean, and a release that came in
//! between crosses when they are over.

use std::time::Duration;

use diodesync_system::alone;
use diodesync_system::side::{Pair, Setup};
use diodesync_system::wait_for;
use diodesync_system::weather::Weather;
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

fn probe_of(pair: &Pair) -> Value {
    let status: Value = serde_json::from_str(&pair.high.ok(&["status", "--json"]).unwrap()).unwrap();
    status["lanes"][0]["probe"].clone()
}

/// Waits until the ends of so many trains were seen.
fn wait_trains(pair: &Pair, count: usize, after_ms: u64) -> Value {
    wait_for("the trains", MINUTE, || {
        let probe = probe_of(pair);
        let whole = probe["trains"]
            .as_array()
            .map_or(0, |trains| trains.iter().filter(|train| train["rate_bits_per_s"].is_u64()).count());
        Ok((whole == count && probe["began_ms"].as_u64() > Some(after_ms)).then_some(probe))
    })
    .unwrap()
}

#[test]
fn the_high_side_names_the_highest_clean_rate() {
    let _alone = alone();
    let mut pair = Pair::over_link(&Setup { name: "probe", ..Setup::default() }, Weather::clear()).unwrap();
    pair.start().unwrap();
    assert_eq!(probe_of(&pair), Value::Null, "nobody probed yet");

    let told = pair.low.ok(&["probe", "--max", "50mbit"]).unwrap();
    assert!(told.contains("50 Mbit/s wanted") && told.contains("diode-receiver status"), "{told}");
    let probe = wait_trains(&pair, 1, 0);
    let train = &probe["trains"][0];
    assert!(train["sent"].as_u64().unwrap() > 1000, "{probe}");
    assert!(train["received"].as_u64() <= train["sent"].as_u64(), "{probe}");
    // Whether a slow machine's loopback loses something is the machine's matter; that it is told is not.
    let is_clean = train["received"] == train["sent"];
    assert_eq!(probe["clean_bits_per_s"].is_u64(), is_clean, "{probe}");
    let text = pair.high.ok(&["status"]).unwrap();
    assert!(text.contains("  probe     "), "{text}");

    let refused = pair.low.run(&["probe", "lane7"]).unwrap();
    assert!(refused.stderr.contains("there is no lane lane7; there are lane0"), "{}", refused.stderr);
    let refused = pair.low.run(&["probe", "--max", "1mbit"]).unwrap();
    assert!(refused.stderr.contains("the slowest train goes at 50 Mbit/s"), "{}", refused.stderr);

    // A release that is cut in the meantime waits, and nothing of it is lost.
    let file = pair.dir.join("waits.txt");
    std::fs::write(&file, "this waits\n").unwrap();
    pair.low.ok(&["submit", "files", file.to_str().unwrap()]).unwrap();
    let mut probing = pair.low.spawn_command(&["probe", "--max", "100mbit", "--json"]).unwrap();
    pair.low.ok(&["release"]).unwrap();
    assert!(probing.wait().unwrap().success());
    wait_trains(&pair, 2, probe["began_ms"].as_u64().unwrap());
    pair.wait_published(1, MINUTE).unwrap();
}

#[test]
fn a_path_that_loses_has_no_clean_rate() {
    let _alone = alone();
    let setup = Setup { name: "probe-lossy", ..Setup::default() };
    let mut pair = Pair::over_link(&setup, Weather { seed: 5, loss: 0.05, ..Weather::clear() }).unwrap();
    pair.start().unwrap();
    pair.low.ok(&["probe", "--max", "50mbit"]).unwrap();
    // Its end is told five times.
    let probe = wait_trains(&pair, 1, 0);
    assert_eq!(probe["clean_bits_per_s"], Value::Null, "{probe}");
    assert!(probe["trains"][0]["received"].as_u64() < probe["trains"][0]["sent"].as_u64(), "{probe}");
    let text = pair.high.ok(&["status"]).unwrap();
    assert!(text.contains("no rate was clean; of ") && text.contains("% was lost"), "{text}");
}
