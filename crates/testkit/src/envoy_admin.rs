//! What a running Envoy tells about itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::{http, until};

/// The ring of the shipped configuration.
pub const RING: &str = "production";

/// The admin interface of an Envoy, whoever started it.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyAdmin {
    address: SocketAddr,
    /// Where clients connect to it.
    port: u16,
}

impl EnvoyAdmin {
    #[must_use]
    pub const fn new(address: SocketAddr, port: u16) -> Self {
        Self { address, port }
    }

    /// Counters and gauges whose names contain `part`.
    ///
    /// # Errors
    ///
    /// Envoy is gone.
    pub async fn stats(&self, part: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let reply = http::get(self.address, "/stats", &[]).await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let pairs = text.lines().filter(|line| line.contains(part)).filter_map(|line| line.split_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// One metric of the filter about the ring, such as `keywheel_ring_revision`; 0 before it was first
    /// written.
    ///
    /// # Errors
    ///
    /// Envoy is gone.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let name = format!("wasmcustom.{name}.ring.{RING}");
        Ok(self.stats(&name).await?.get(&name).copied().unwrap_or(0))
    }

    /// Waits until it holds the ring at `revision` or later.
    ///
    /// # Errors
    ///
    /// It does not come to that.
    pub async fn wait_for_revision(&self, revision: u64) -> anyhow::Result<()> {
        until(&format!("Envoy holds revision {revision}"), async || {
            let held = self.metric("keywheel_ring_revision").await.ok()?;
            (held >= revision).then_some(())
        })
        .await
    }

    /// One count for each worker of the listener, such as `downstream_cx_active`.
    ///
    /// # Errors
    ///
    /// Envoy is gone.
    pub async fn connections_by_worker(&self, which: &str) -> anyhow::Result<Vec<u64>> {
        let stats = self.stats(".worker_").await?;
        let port = format!("_{}.worker_", self.port);
        let of_listener =
            |name: &str| name.starts_with("listener.") && name.contains(&port) && name.ends_with(which);
        Ok(stats.into_iter().filter(|(name, _)| of_listener(name)).map(|(_, value)| value).collect())
    }
}
