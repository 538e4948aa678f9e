//! Whether memory stays flat: keys come, rotate and go, proxies follow and report, callers leave in the middle.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use keywheel_testkit::ControlPlane;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::reports;
use crate::stats::{self, median};

pub(super) const PROXIES: usize = 50;
const SAMPLE: Duration = Duration::from_millis(500);
/// Between one key and the next, so that proxies wait.
const PAUSE: Duration = Duration::from_millis(20);
/// A proxy that leaves does so after this time, in the middle of its wait.
const PATIENCE: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(5);

pub(super) struct Soak {
    /// Resident memory in the last quarter, as a multiple of that in the second one.
    pub(super) growth: f64,
    pub(super) megabytes: f64,
    /// So many of them came after the second quarter.
    pub(super) added: f64,
    /// Keys that came, were rotated and were revoked.
    pub(super) keys: u64,
    pub(super) calls: u64,
}

pub(super) async fn measure(control: &ControlPlane, length: Duration) -> anyhow::Result<Soak> {
    let admin = control.admin()?;
    admin.ensure_client("acme").await?;
    let reported = admin.create_key("acme", &[]).await?.version;
    // Of a large ring this takes long.
    let epoch = admin.ring(RING).await?.epoch;
    let end = Instant::now() + length;
    let (stop, stopped) = watch::channel(false);
    let mut followers = JoinSet::new();
    for number in 0..PROXIES {
        let (target, stopped, versions) = (control.ring(), stopped.clone(), vec![reported.clone()]);
        followers.spawn(follow(number, target, epoch.clone(), versions, stopped));
    }
    let keys = tokio::spawn(async move {
        let mut keys = 0_u64;
        while Instant::now() < end {
            let key = admin.create_key("acme", &["market:read"]).await?.key;
            admin.rotate(&key, 60).await?;
            admin.revoke(&key).await?;
            keys += 1;
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(keys)
    });
    let mut memory = Vec::new();
    while Instant::now() < end {
        memory.push(stats::resident(control.pid()?)? as f64);
        tokio::time::sleep(SAMPLE).await;
    }
    let keys = keys.await??;
    stop.send_replace(true);
    let mut calls = 0;
    while let Some(follower) = followers.join_next().await {
        calls += follower??;
    }
    let quarter = memory.len() / 4;
    let second = memory.get(quarter..2 * quarter).context("a second quarter")?;
    let last = memory.get(3 * quarter..).context("a last quarter")?;
    ensure!(!second.is_empty(), "a soak takes longer than {length:?}");
    let (second, last) = (median(second), median(last));
    Ok(Soak { growth: last / second, megabytes: last / 1e6, added: (last - second) / 1e6, keys, calls })
}

/// A proxy that reports, waits for changes, and every fourth time leaves before they come. Returns its calls.
async fn follow(
    number: usize,
    target: std::net::SocketAddr,
    epoch: String,
    versions: Vec<String>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<u64> {
    let mut connection = Connection::open(target).await?;
    let (mut since, mut calls) = (0_u64, 0_u64);
    while !*stopped.borrow() {
        calls += 1;
        let me = format!(
            "node=node-{number}&instance={number:016x}&filter=0.1.0&vms=2&epoch={epoch}&stored={since}&enforced={since}&age=0"
        );
        let path = format!("/v1/rings/{RING}/changes?epoch={epoch}&since={since}&wait=1");
        let headers = [("keywheel-proxy", me.as_str())];
        let ask = connection.get(&path, &headers);
        let Ok(reply) = tokio::time::timeout(if calls % 4 == 0 { PATIENCE } else { LONG }, ask).await else {
            connection = Connection::open(target).await?;
            continue;
        };
        let reply = reply?;
        ensure!(reply.status == 200, "a proxy was answered {}", reply.status);
        since = serde_json::from_slice::<Head>(&reply.body)?.revision;
        let report = reports::report(number as u64, calls, &versions)?;
        let json = [("content-type", "application/json")];
        let reply =
            connection.send("POST".parse()?, &format!("/v1/rings/{RING}/usage"), &json, report).await?;
        ensure!(reply.status < 300, "a report was answered {}", reply.status);
    }
    Ok(calls)
}

#[derive(serde::Deserialize)]
struct Head {
    revision: u64,
}
