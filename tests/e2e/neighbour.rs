//! Another Wasm plugin in the same proxy, which may write where the filter keeps its ring: Istio names
//! no `vm_id`, so that all plugins of a proxy share one memory.

use std::net::SocketAddr;
use std::path::PathBuf;

use keywheel_testkit::{Connection, EnvoyConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::Scene;

/// It does what requests tell it to, through a listener that it is in.
pub(crate) struct Neighbour {
    wasm: PathBuf,
    _dir: TempDir,
}

impl Neighbour {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("neighbour.wasm");
        std::fs::write(&wasm, wat::parse_str(include_str!("neighbour.wat")).unwrap()).unwrap();
        Self { wasm, _dir: dir }
    }

    /// A scene as in Istio: the plugin before the filter, no `vm_id`, the configuration in a string.
    pub(crate) async fn scene(&self, workers: usize) -> Scene {
        Scene::with_workers(workers, |config| {
            let config = config.with_vm(|vm| vm["vm_id"] = json!("")).with_plugin_in_a_string();
            self.before_the_filter(config)
        })
        .await
    }

    fn before_the_filter(&self, config: EnvoyConfig) -> EnvoyConfig {
        config.with_filter_before(json!({"name": "neighbour", "typed_config": self.typed_config()}))
    }

    /// As a filter of Envoy, without `vm_id`.
    pub(crate) fn typed_config(&self) -> Value {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "neighbour",
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": self.wasm.display().to_string()}},
                },
            },
        })
    }
}

/// Has the plugin overwrite what is stored of the ring under `name`.
pub(crate) async fn overwrite(listener: SocketAddr, name: &str, bytes: &[u8]) {
    let mut connection = Connection::open(listener).await.unwrap();
    overwrite_on(&mut connection, name, bytes).await;
}

pub(crate) async fn overwrite_on(connection: &mut Connection, name: &str, bytes: &[u8]) {
    let key = format!("kw1/production/{name}");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let reply = connection.get("/", &[("neighbour-key", &key), ("neighbour-value", &hex)]).await.unwrap();
    assert_eq!(reply.status, 204, "the plugin did not answer");
}

/// The record of the lease as `src/lease.rs` writes it.
pub(crate) fn lease(holder: u64, beat: u64, serves: bool) -> Vec<u8> {
    let mut bytes = [holder.to_le_bytes(), beat.to_le_bytes()].concat();
    bytes.push(u8::from(serves));
    bytes
}

/// The filter neither trapped nor was made anew, and Envoy is the one that was started.
pub(crate) async fn assert_no_trap(scene: &Scene) {
    let log = scene.envoy.log();
    for sign in ["panicked", "Uncaught RuntimeError", "Wasm VM failed", "Function: proxy_on_"] {
        assert!(!log.contains(sign), "Envoy's log says `{sign}`");
    }
    let reloads = scene.envoy.stats("wasm.keywheel.vm_reload").await.unwrap();
    assert_eq!(reloads.into_values().sum::<u64>(), 0, "a VM was made anew");
}
