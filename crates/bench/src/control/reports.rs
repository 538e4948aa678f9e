//! Usage reports, as fast as they are answered.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, Count, MINUTE, Report};
use keywheel_testkit::ControlPlane;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use tokio::task::JoinSet;

pub(super) const VMS: u64 = 32;
pub(super) const COUNTS: usize = 20;
const FOR: Duration = Duration::from_secs(10);

pub(super) struct Reports {
    pub(super) latencies: Vec<f64>,
    pub(super) a_second: f64,
}

pub(super) async fn measure(control: &ControlPlane) -> anyhow::Result<Reports> {
    let admin = control.admin()?;
    let mut versions = Vec::with_capacity(COUNTS);
    for _ in 0..COUNTS {
        versions.push(admin.create_key("client-1", &[]).await?.version);
    }
    let start = Instant::now();
    let mut vms = JoinSet::new();
    for vm in 0..VMS {
        let (target, versions) = (control.ring(), versions.clone());
        vms.spawn(async move {
            let mut connection = Connection::open(target).await?;
            let path = format!("/v1/rings/{RING}/usage");
            let mut times = Vec::new();
            for batch in 1.. {
                if start.elapsed() >= FOR {
                    break;
                }
                let body = report(vm, batch, &versions)?;
                let sent = Instant::now();
                let json = [("content-type", "application/json")];
                let reply = connection.send("POST".parse()?, &path, &json, body).await?;
                times.push(sent.elapsed().as_secs_f64() * 1e3);
                ensure!(reply.status < 300, "a report was answered {}", reply.status);
            }
            anyhow::Ok(times)
        });
    }
    let mut latencies = Vec::new();
    while let Some(times) = vms.join_next().await {
        latencies.extend(times??);
    }
    let a_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Reports { latencies, a_second })
}

pub(super) fn report(vm: u64, batch: u64, versions: &[String]) -> anyhow::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let now = u64::try_from(now.as_millis())?;
    let count = |version: &String| Count {
        version: version.clone(),
        outcome: "valid".into(),
        minute: Millis(now - now % MINUTE),
        count: 3,
    };
    let batch = Batch {
        node: format!("node-{vm}"),
        instance: format!("{vm:x}"),
        vm: "1".into(),
        batch,
        from: Millis(now),
        to: Millis(now),
        counts: versions.iter().map(count).collect(),
    };
    Ok(serde_json::to_vec(&Report { batches: vec![batch] })?)
}
