//! Two control planes on one PostgreSQL.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use keywheel_testkit::postgres::Postgres;
use keywheel_testkit::{ControlPlane, Paths, until};

pub(super) const CHANGES: usize = 200;

/// The milliseconds from the call at one replica until who waits at the other has the change.
pub(super) async fn measure(paths: &Paths) -> anyhow::Result<Vec<f64>> {
    let postgres = Postgres::start()?;
    let one = ControlPlane::start_on(paths, &postgres.database()?).await?;
    let two = one.replica(paths).await?;
    let (here, there) = (one.admin()?, two.admin()?);
    here.create_client("acme").await?;
    let mut times = Vec::with_capacity(CHANGES);
    for _ in 0..CHANGES {
        let key = here.create_key("acme", &[]).await?;
        let made = here.key(&key.key).await?;
        let since = made.versions.first().context("a new key has a version")?.revision;
        let ring = there.ring(RING).await?;
        let path = format!("/v1/rings/{RING}/changes?epoch={}&since={since}&wait=30", ring.epoch);
        let target = two.ring();
        let waiting = tokio::spawn(async move {
            let reply = Connection::open(target).await?.get(&path, &[]).await?;
            anyhow::Ok((reply.status, Instant::now()))
        });
        until("the other replica's proxy waits", async || {
            (there.metric("keywheel_control_ring_waiters").await.ok()? >= 1.0).then_some(())
        })
        .await?;
        let called = Instant::now();
        here.revoke(&key.key).await?;
        let (status, told) = waiting.await??;
        ensure!(status == 200, "who waited was answered {status}");
        times.push(told.saturating_duration_since(called).as_secs_f64() * 1e3);
    }
    Ok(times)
}
