//! How long a revoked key still works, from the call to the control plane until the last request that
//! any worker of a proxy lets pass. The control plane is a real one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use keywheel_testkit::load::{Ask, Credential};
use keywheel_testkit::{ControlPlane, Envoy, Load, Paths, Plan, Sample};

use crate::arm;

const WORKERS: usize = 2;
const CONNECTIONS: usize = 8;
/// Of all connections together: each asks every two milliseconds, and the machine is not busy with it.
const RATE: f64 = 4_000.0;
/// The kernel gives connections to workers as it likes, and may leave one without.
const TRIES: usize = 20;
/// Requests under way are answered within it, on a machine that keeps up.
const SETTLED: Duration = Duration::from_millis(30);
/// A key that works this long after it was revoked will go on working.
const PATIENCE: Duration = Duration::from_secs(5);

/// The milliseconds that each of so many revocations took.
pub(crate) async fn latencies(paths: &Paths, revokes: usize) -> anyhow::Result<Vec<f64>> {
    let control = ControlPlane::start(paths).await?;
    let admin = control.admin()?;
    admin.create_client("acme").await?;
    let mut keys = Vec::with_capacity(revokes);
    for _ in 0..revokes {
        keys.push(admin.create_key("acme", &["market:read"]).await?);
    }
    let envoy = Envoy::start(paths, arm::base(paths, control.ring(), control.trust())?, WORKERS).await?;
    arm::synced(&envoy, revokes as u64).await?;
    let load = on_every_worker(&envoy).await?;

    let mut found = Vec::with_capacity(revokes);
    for key in keys {
        load.switch(Credential { label: "key", key: key.secret.as_str().into() });
        tokio::time::sleep(SETTLED).await;
        let _ = load.drain();
        tokio::time::sleep(SETTLED).await;
        let before = load.drain();
        ensure!(before.iter().all(Sample::served), "a key was refused before it was revoked");
        let start = Instant::now();
        admin.revoke(&key.key).await?;
        let last = last_served(&load, start).await?.or(before.iter().map(|sample| sample.done).max());
        let took = last.context("no request was served")?.saturating_duration_since(start);
        found.push(took.as_secs_f64() * 1e3);
    }
    Ok(found)
}

/// Load with at least one connection to each worker.
async fn on_every_worker(envoy: &Envoy) -> anyhow::Result<Load> {
    let plan = Plan {
        target: envoy.listener(),
        asks: vec![Ask::get("/")],
        connections: CONNECTIONS,
        rate: Some(RATE),
        bound: Duration::from_secs(600),
    };
    for _ in 0..TRIES {
        let load = Load::start(&plan, Credential { label: "none", key: "none".into() });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let workers = envoy.metrics().connections_by_worker("downstream_cx_active").await?;
        if workers.len() == WORKERS && workers.iter().all(|connections| *connections > 0) {
            return Ok(load);
        }
        load.stop().await;
    }
    anyhow::bail!("a worker got no connection in {TRIES} tries")
}

/// When the last request was served, once every connection is refused and none is served any more.
async fn last_served(load: &Load, start: Instant) -> anyhow::Result<Option<Instant>> {
    let mut last = None;
    let mut refused = [false; CONNECTIONS];
    loop {
        tokio::time::sleep(SETTLED).await;
        let samples = load.drain();
        let served = samples.iter().filter(|sample| sample.served()).map(|sample| sample.done).max();
        last = last.max(served);
        for sample in samples.iter().filter(|sample| sample.status == Some(401)) {
            refused[sample.connection] = true;
        }
        if served.is_none() && refused.iter().all(|refused| *refused) {
            return Ok(last);
        }
        ensure!(start.elapsed() < PATIENCE, "a revoked key worked for {} s", PATIENCE.as_secs());
    }
}
