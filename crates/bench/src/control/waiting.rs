//! Many proxies that wait for a change.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use keywheel_keyring::signature::SIGNATURE_HEADER;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use keywheel_testkit::{ControlPlane, Relay, until};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::stats;

/// Connections are opened so many at a time: the listener's queue is short.
const AT_ONCE: usize = 100;
const HEADER: &str = "keywheel-proxy";

pub(super) struct Waiting {
    /// Of each proxy and change, the milliseconds from the call until it had all of the document.
    pub(super) told: Vec<f64>,
    /// Of the control plane, in bytes for each proxy.
    pub(super) memory: f64,
    /// Different signatures for one change, on average.
    pub(super) signatures: f64,
}

struct Proxy {
    connection: Connection,
    name: String,
}

/// What a proxy has of one change.
struct Told {
    at: Instant,
    signature: String,
}

/// With a relay they wait there, and it is the relay's memory.
pub(super) async fn measure(
    control: &ControlPlane,
    relay: Option<&Relay>,
    proxies: usize,
    changes: usize,
) -> anyhow::Result<Waiting> {
    let (target, pid) = match relay {
        Some(relay) => (relay.ring(), relay.pid()?),
        None => (control.ring(), control.pid()?),
    };
    let admin = control.admin()?;
    admin.create_client("acme").await?;
    let mut keys = Vec::with_capacity(changes);
    for _ in 0..changes {
        keys.push(admin.create_key("acme", &["market:read"]).await?.key);
    }
    let ring = admin.ring(RING).await?;
    if let Some(relay) = relay {
        until("the relay has the ring", async || {
            (figure(relay, "keywheel_relay_ring_revision").await.ok()? >= ring.revision as f64).then_some(())
        })
        .await?;
    }
    let before = stats::resident(pid)?;
    let mut waiting: Vec<Proxy> = connect(target, proxies).await?;
    let (mut told, mut signatures, mut memory) = (Vec::with_capacity(proxies * changes), 0, 0.0);
    let mut revision = ring.revision;
    for key in &keys {
        let mut asked = JoinSet::new();
        let path: Arc<str> =
            format!("/v1/rings/{RING}/changes?epoch={}&since={revision}&wait=60", ring.epoch).into();
        let (started, mut start) = watch::channel(0_usize);
        for mut proxy in waiting.drain(..) {
            let (path, started, epoch) = (path.clone(), started.clone(), ring.epoch.clone());
            asked.spawn(async move {
                let me = format!("{}&epoch={epoch}&stored={revision}&enforced={revision}&age=0", proxy.name);
                started.send_modify(|count| *count += 1);
                let reply = proxy.connection.get(&path, &[(HEADER, &me)]).await?;
                let told = Told { at: Instant::now(), signature: reply.header(SIGNATURE_HEADER).to_owned() };
                ensure!(reply.status == 200, "a proxy was answered {}", reply.status);
                anyhow::Ok((proxy, told))
            });
        }
        start.wait_for(|count| *count == proxies).await?;
        until("every proxy waits", async || {
            let waiters = match relay {
                Some(relay) => figure(relay, "keywheel_relay_ring_waiters").await.ok()?,
                None => admin.metric("keywheel_control_ring_waiters").await.ok()?,
            };
            (waiters >= proxies as f64).then_some(())
        })
        .await?;
        memory = (stats::resident(pid)?.saturating_sub(before)) as f64 / proxies as f64;
        let called = Instant::now();
        revision = admin
            .revoke(key)
            .await?
            .versions
            .iter()
            .map(|version| version.revision)
            .max()
            .context("a version")?;
        let mut different = BTreeSet::new();
        while let Some(done) = asked.join_next().await {
            let (proxy, Told { at, signature }) = done??;
            told.push(at.saturating_duration_since(called).as_secs_f64() * 1e3);
            different.insert(signature);
            waiting.push(proxy);
        }
        signatures += different.len();
    }
    Ok(Waiting { told, memory, signatures: signatures as f64 / changes as f64 })
}

/// A metric of the relay's only ring.
async fn figure(relay: &Relay, name: &str) -> anyhow::Result<f64> {
    let reply = Connection::open(relay.ring()).await?.get("/metrics", &[]).await?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let line = text.lines().find(|line| line.starts_with(name)).context("the relay shows no such metric")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

async fn connect(target: SocketAddr, proxies: usize) -> anyhow::Result<Vec<Proxy>> {
    let mut all = Vec::with_capacity(proxies);
    for from in (0..proxies).step_by(AT_ONCE) {
        let mut opening = JoinSet::new();
        for number in from..proxies.min(from + AT_ONCE) {
            opening.spawn(async move {
                let connection = Connection::open(target).await?;
                let name = format!("node=node-{number}&instance={number:016x}&filter=0.1.0&vms=2");
                anyhow::Ok(Proxy { connection, name })
            });
        }
        while let Some(opened) = opening.join_next().await {
            all.push(opened??);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(all)
}
