//! A control plane with so many keys, and an Envoy.

use std::time::{Duration, Instant};

use keywheel_control::store::{Context, ImportedVersion, Store};
use keywheel_keyring::key_text::KeyPrefix;
use keywheel_keyring::{Millis, PlainKey, VersionId};
use keywheel_testkit::{ControlPlane, Envoy, EnvoyConfig, Paths};
use serde_json::json;

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// A control plane whose ring has a given number of keys.
pub(crate) struct Keys {
    pub(crate) control: ControlPlane,
    pub(crate) secrets: Vec<String>,
}

impl Keys {
    /// Imports `count` keys, all active. The import goes around the API and is not measured.
    pub(crate) async fn import(paths: &Paths, count: u32) -> anyhow::Result<Self> {
        let mut control = ControlPlane::start(paths).await?;
        control.admin()?.create_client("acme").await?;
        control.kill();
        let prefix: KeyPrefix = "kw_live_".parse()?;
        let keys: Vec<PlainKey> = (0..count).map(|number| key(&prefix, number)).collect();
        let version = |key: &PlainKey| ImportedVersion {
            digest: key.digest(),
            scopes: vec!["market:read".into(), "trade".into()],
            expires_at: None,
        };
        let context = Context { actor: "bench".into(), now: now(), request_id: None };
        let store = Store::open(&control.data().join("keywheel.db")).await?;
        store.import(&context, "production", "acme", keys.iter().map(version).collect()).await?;
        store.close().await;
        control.restart().await?;
        let secrets = keys.iter().map(|key| key.expose().to_owned()).collect();
        Ok(Self { control, secrets })
    }

    /// The shipped configuration, without what costs the same whether there is a filter or not: it
    /// answers by itself and writes no access log.
    fn config(&self, paths: &Paths) -> anyhow::Result<EnvoyConfig> {
        let config =
            EnvoyConfig::shipped()?.with_wasm(&paths.wasm).with_cluster("keywheel", self.control.ring());
        let answer = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]);
        let routes = format!("{MANAGER}/route_config/virtual_hosts/0/routes");
        let config = config.with_trust(self.control.trust()).with(&routes, answer);
        // Nothing reaches the upstream, but its cluster must have an address.
        let config = config.with_cluster("upstream", self.control.ring());
        Ok(config.with(&format!("{MANAGER}/access_log"), json!([])))
    }

    /// An Envoy that enforces the ring, with one worker.
    pub(crate) async fn envoy(&self, paths: &Paths) -> anyhow::Result<Envoy> {
        Envoy::start(paths, self.config(paths)?, 1).await
    }

    /// Starts an Envoy and measures how long it takes from the start of its process until it holds the
    /// whole ring.
    pub(crate) async fn cold_sync(&self, paths: &Paths) -> anyhow::Result<(Envoy, Duration)> {
        let start = Instant::now();
        let envoy = self.envoy(paths).await?;
        loop {
            let entries = envoy.metric("keywheel_ring_entries").await?;
            if entries == self.secrets.len() as u64 {
                return Ok((envoy, start.elapsed()));
            }
            anyhow::ensure!(start.elapsed() < Duration::from_secs(120), "only {entries} entries after 120 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The same Envoy with no filter before its answer.
pub(crate) async fn bare_envoy(paths: &Paths, keys: &Keys) -> anyhow::Result<Envoy> {
    Envoy::start(paths, keys.config(paths)?.without_filter(), 1).await
}

fn key(prefix: &KeyPrefix, number: u32) -> PlainKey {
    let mut id = [7; 12];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let mut random = [42; 32];
    random[..4].copy_from_slice(&number.to_be_bytes());
    PlainKey::generate(prefix, &VersionId::from_random(id), random)
}

fn now() -> Millis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
