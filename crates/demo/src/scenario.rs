//! What happens, and when: steady traffic, a rotation in it, the end of the old version, a revocation.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use keywheel_api::Timestamp;
use keywheel_testkit::load::{Ask, Credential, Load, Plan};
use keywheel_testkit::{Connection, Reply, Sample, until};

use crate::parts::Parts;
use crate::screen::Screen;
use crate::timeline::Timeline;
use crate::verdict::{Revocation, Rotation, Verdict};

/// The ring of `envoy/envoy.yaml`.
const RING: &str = "production";
const OLD: &str = "v1";
const NEW: &str = "v2";
/// So many that each worker has some, but for one time in many thousands.
const CONNECTIONS_PER_WORKER: usize = 8;
/// Nothing is asked of the old version so close to its end: a request may take as long.
const MARGIN: Duration = Duration::from_millis(300);
/// How long the traffic is watched before the rotation, after it, and after the revocation.
const CALM: Duration = Duration::from_secs(2);
/// The traffic ends by itself after this, whatever happens.
const BOUND: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(crate) struct Pace {
    /// How long the old and the new version are both accepted
    #[arg(long, default_value = "6s", value_parser = seconds, value_name = "SECONDS")]
    overlap: u64,
    /// Requests per second
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
}

/// Plays the scenario. `begin` is when the program started.
pub(crate) async fn run(
    parts: &Parts,
    pace: &Pace,
    screen: &mut Screen,
    begin: Instant,
) -> anyhow::Result<Verdict> {
    parts.admin.ensure_client("acme").await?;
    let old = parts.admin.create_key("acme", &["market:read", "trade"]).await?;
    let first = until("the proxy accepts the new key", async || {
        let reply = probe(parts, &old.secret).await.ok()?;
        (reply.status == 200).then(Instant::now)
    })
    .await?;
    screen.line(&format!("The first request was served after {:.1} s.", (first - begin).as_secs_f64()));
    enforced(parts).await;

    let workers = parts.envoy.connections_by_worker("downstream_cx_active").await?.len().max(1);
    let plan = Plan {
        target: parts.proxy,
        asks: vec![
            Ask::get("/v1/ticker/BTC-USD"),
            Ask::get("/v1/ticker/ETH-USD"),
            Ask::post("/v1/orders", r#"{"side":"buy","symbol":"BTC-USD","amount":"0.01"}"#),
        ],
        connections: CONNECTIONS_PER_WORKER * workers,
        rate: Some(pace.rate),
        bound: BOUND,
    };
    let load = Load::start(&plan, credential(OLD, &old.secret));
    let mut timeline = Timeline::start(load, parts.envoy, screen);
    timeline.event("traffic with v1, the first version of acme's key");
    timeline.during(tokio::time::sleep(CALM)).await;

    let (rotation, new) = rotate(parts, pace, &mut timeline, &old.key, &old.secret).await?;
    timeline.during(tokio::time::sleep(CALM)).await;
    timeline.catch_up();
    let rotation = Rotation { traffic: timeline.samples().to_vec(), ..rotation };

    let connections = parts.envoy.connections_by_worker("downstream_cx_active").await?;
    let start = Instant::now();
    timeline.during(parts.admin.revoke(&old.key)).await?;
    let answered = start.elapsed();
    timeline.event("revoked: the whole key, under traffic");
    timeline.during(tokio::time::sleep(CALM)).await;
    let refusal = probe(parts, &new).await?;
    let samples = timeline.stop().await;
    let traffic: Vec<Sample> = samples.into_iter().filter(|sample| sample.done >= start).collect();
    let revocation = Revocation { start, answered, connections, traffic, refusal: code(&refusal) };
    Ok(Verdict { rotation, revocation })
}

/// Rotates, lets the client switch half-way, and waits until the old version is refused. Gives the new
/// version's text too.
async fn rotate(
    parts: &Parts,
    pace: &Pace,
    timeline: &mut Timeline<'_>,
    key: &str,
    old: &str,
) -> anyhow::Result<(Rotation, String)> {
    let made = timeline.during(parts.admin.start_rotation(key, pace.overlap)).await?;
    let new = made.secret.context("the server made the text")?;
    let end = instant_of(made.rotation.overlap_ends_at);
    timeline.event(&format!("rotated: v2 exists, v1 and v2 are both accepted for {} s", pace.overlap));
    timeline.during(enforced(parts)).await;

    // Beside the traffic, both versions are asked for all the time.
    let probes = |label, key: &str| {
        let asks = vec![Ask::get("/v1/ticker/BTC-USD")];
        let plan = Plan { target: parts.proxy, asks, connections: 2, rate: Some(20.0), bound: BOUND };
        Load::start(&plan, credential(label, key))
    };
    let (with_old, with_new) = (probes(OLD, old), probes(NEW, &new));
    let left = end.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    timeline.during(tokio::time::sleep(left / 2)).await;
    timeline.switch(credential(NEW, &new));
    timeline.event("the client switched to v2");
    timeline.during(tokio::time::sleep(left / 2)).await;
    let (old_in_overlap, new_in_overlap) = (with_old.stop().await, with_new.stop().await);

    let refused = timeline.during(until("the old version is refused", async || {
        let reply = probe(parts, old).await.ok()?;
        (reply.status == 401).then(|| (Instant::now(), code(&reply)))
    }));
    let (refused_at, refusal) = refused.await?;
    timeline.event(&format!("v1 has ended: {refusal}"));
    let refused_after = refused_at.saturating_duration_since(end);
    let traffic = Vec::new();
    Ok((Rotation { traffic, old_in_overlap, new_in_overlap, refused_after, refusal }, new))
}

/// Waits a moment for the proxy to say that all its VMs enforce the ring. Nothing is claimed from it, so
/// a proxy of an earlier run, which says nothing any more, does no harm.
async fn enforced(parts: &Parts) {
    let all = until("all VMs enforce the ring", async || {
        let ring = parts.admin.ring(RING).await.ok()?;
        ring.proxies.iter().any(|proxy| proxy.enforced >= ring.revision).then_some(())
    });
    let _ = tokio::time::timeout(CALM, all).await;
}

/// One request on a connection of its own.
async fn probe(parts: &Parts, key: &str) -> anyhow::Result<Reply> {
    Connection::open(parts.proxy).await?.get("/v1/ticker/BTC-USD", &[("x-api-key", key)]).await
}

fn code(reply: &Reply) -> String {
    format!("{} {}", reply.status, reply.json()["code"].as_str().unwrap_or("without a code"))
}

fn credential(label: &'static str, key: &str) -> Credential {
    Credential { label, key: key.into() }
}

fn instant_of(time: Timestamp) -> Instant {
    let left = time.as_millisecond() - Timestamp::now().as_millisecond();
    Instant::now() + Duration::from_millis(left.try_into().unwrap_or(0))
}

fn seconds(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.ok().filter(|seconds| (2..=3600).contains(seconds)).ok_or_else(|| "2s to 3600s".into())
}
