//! Requests with keys drawn at random, and what they cost Envoy.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use keywheel_testkit::{Connection, Envoy};
use tokio::task::JoinSet;

const CONNECTIONS: u64 = 16;

/// Sends `requests` over 16 connections as fast as they are answered, each with a key drawn at random,
/// and gives the CPU that Envoy spent on each.
pub(crate) async fn cpu_per_request(
    envoy: &Envoy,
    keys: &Arc<[String]>,
    requests: u64,
    seed: u64,
) -> anyhow::Result<Duration> {
    let before = cpu(envoy.pid())?;
    let mut callers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let keys = Arc::clone(keys);
        let target = envoy.listener();
        // Any odd seed will do; each connection draws other keys.
        let mut draw = Draw((seed * CONNECTIONS + number) * 2 + 1);
        callers.spawn(async move {
            let mut connection = Connection::open(target).await?;
            for _ in 0..requests / CONNECTIONS {
                let key = &keys[draw.below(keys.len())];
                let reply = connection.get("/", &[("x-api-key", key)]).await?;
                ensure!(reply.status == 200, "a request was answered with {}", reply.status);
            }
            Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    let spent = cpu(envoy.pid())? - before;
    Ok(spent / u32::try_from(requests)?)
}

/// CPU time of a process so far: user and system, of all its threads.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("Envoy is gone")?;
    // The second field is the program's name, in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("not the shape of /proc/<pid>/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("not the shape of /proc/<pid>/stat")?;
    // Linux reports hundredths of a second, whatever the kernel counts in.
    Ok(Duration::from_millis(10 * (ticks.0 + ticks.1)))
}

/// xorshift64: cheap, and random enough to defeat a cache.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap_or_default()
    }
}
