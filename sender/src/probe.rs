//! `probe`: how fast the path of a lane is. The low side sends trains of rising rates; what came of them only the high
//! side knows, and its status says it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use diodesync::audit::Event;
use diodesync::id::LaneId;
use diodesync::quantity::{BitsPerS, Rate};
use diodesync::send::PROBE_RATES;
use diodesync_control::audit::Caller;
use diodesync_control::{ApiError, Client};
use serde::{Deserialize, Serialize};

use crate::api::Daemon;
use crate::lane::Trains;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    max_bits_per_s: u64,
}

/// The handlers.
pub fn router() -> Router<Arc<Daemon>> {
    Router::new().route("/v1/probe/{lane}", get(trains).post(start))
}

async fn start(
    State(daemon): State<Arc<Daemon>>,
    Caller(by): Caller,
    Path(name): Path<String>,
    Json(request): Json<Request>,
) -> Result<Json<Trains>, ApiError> {
    let lane = daemon.lane(&name)?;
    daemon.told(by, Event::Probed { lane: name.clone() }).await?;
    let view = lane.view();
    let why = if lane.config.wire_version < 2 {
        Some(
            "the lane writes wire version 1, which knows no probes: upgrade the receiver, then set wire_version = 2",
        )
    } else if view.is_paused {
        Some("a rate window holds the lane's data back now")
    } else if view.send_error.is_some() {
        Some("the lane cannot send at present; see: diode-sender status")
    } else if !lane.probe.request(request.max_bits_per_s) {
        Some("trains are under way on it; see again when they are over")
    } else {
        None
    };
    match why {
        Some(why) => Err(ApiError::refused(format!("lane {name}: {why}"))),
        None => Ok(Json(lane.probe.view())),
    }
}

async fn trains(
    State(daemon): State<Arc<Daemon>>,
    Path(name): Path<String>,
) -> Result<Json<Trains>, ApiError> {
    Ok(Json(daemon.lane(&name)?.probe.view()))
}

/// Has trains sent over a lane and tells what went out.
pub async fn probe(
    client: &Client,
    lanes: &[LaneId],
    lane: Option<LaneId>,
    max: Rate,
    json: bool,
) -> anyhow::Result<()> {
    let lane = match (lane, lanes) {
        (Some(lane), _) => lane,
        (None, [only]) => only.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(LaneId::as_str).collect();
            bail!("which lane? There are {}", names.join(", "));
        }
    };
    let slowest = PROBE_RATES.first().copied().unwrap_or_default();
    let max_bits_per_s = max.bits_per_s().unwrap_or(u64::MAX);
    if max_bits_per_s < slowest {
        bail!("--max {}: the slowest train goes at {}", BitsPerS(max_bits_per_s), BitsPerS(slowest));
    }
    let path = format!("/v1/probe/{lane}");
    client.post(&path, &serde_json::to_value(Request { max_bits_per_s })?).await?;
    let mut told = 0;
    let trains = loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let trains: Trains =
            serde_json::from_value(client.get(&path).await?).context("the daemon's answer")?;
        for (wanted, rate, datagrams) in trains.trains.iter().skip(told).filter(|_| !json) {
            println!("{:>12} wanted, {:>12} sent: {datagrams} datagrams", BitsPerS(*wanted), BitsPerS(*rate));
        }
        told = trains.trains.len();
        if !trains.is_running {
            break trains;
        }
    };
    if json {
        println!("{:#}", serde_json::to_value(&trains)?);
    }
    if let Some(failure) = trains.failure {
        bail!("lane {lane} cannot send any more: {failure}");
    }
    if !json {
        println!("what came of them, and the highest clean rate, on the high side: diode-receiver status");
    }
    Ok(())
}
