//! `envoy/istio/` as Istio hands it to Envoy: the filter comes by discovery of extensions, without a `vm_id`, its
//! configuration as JSON in a string, and the control plane is a cluster with a name of Istio's.
//!
//! What Istio makes of a WasmPlugin is written here as it was read in its source; Istio itself does not run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keywheel_keyring::Digest;
use keywheel_manifests::{Object, read};
use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::envoy_config::publish;
use keywheel_testkit::{Admin, ControlPlane, Envoy, EnvoyConfig, Upstream, http, port, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::listener_update::until_told_in;
use crate::neighbour::{Neighbour, overwrite};
use crate::scene::{config, paths, settle, valid_and_revoked};
use crate::traffic::Traffic;

/// The filter of `istio/gateway.yaml`, and Envoy, which reads it from a file.
struct Mesh {
    listener: SocketAddr,
    envoy_admin: SocketAddr,
    config: EnvoyConfig,
    admin: Admin,
    plugin: Object,
    file: PathBuf,
    // Dropped last.
    _control: ControlPlane,
    _upstream: Upstream,
    dir: TempDir,
}

impl Mesh {
    /// Everything but Envoy.
    async fn new() -> Self {
        let control = ControlPlane::start(&paths()).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let admin = control.admin().unwrap();
        admin.create_client("acme").await.unwrap();
        let mut plugin = read("istio/gateway.yaml").unwrap().remove(0);
        plugin.value["spec"]["pluginConfig"]["control"]["trust"] = json!(control.trust());
        let cluster = plugin.text("/spec/pluginConfig/control/clusters/0").to_owned();
        assert!(cluster.starts_with("outbound|7071||"), "{cluster}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keywheel.json");
        let (listener, envoy_admin) = (port::free(), port::free());
        let config = config(&control, &upstream)
            .with_another_cluster(&cluster, "keywheel", control.ring())
            .with_filter_instead(discovered(&resource_name(&plugin), &file))
            // Nothing may come from there.
            .with_cluster("keywheel", port::free())
            .with_listener(listener)
            .with_admin(envoy_admin);
        Self {
            listener,
            envoy_admin,
            config,
            admin,
            plugin,
            file,
            _control: control,
            _upstream: upstream,
            dir,
        }
    }

    async fn envoy(&self) -> Envoy {
        let envoy = Envoy::start_at(&paths(), &self.config, 2, self.listener, self.envoy_admin).await;
        envoy.unwrap()
    }

    /// Hands the plugin to Envoy, with changes, as the next version of the resource.
    fn publish(&self, version: u64, change: impl FnOnce(&mut Value)) {
        let mut plugin = self.plugin.clone();
        change(&mut plugin.value["spec"]["pluginConfig"]);
        publish(&self.file, &[extension(&resource_name(&plugin), &wasm(&plugin, version))]).unwrap();
    }

    async fn key(&self) -> Issued {
        let key = self.admin.create_key("acme", &[]).await.unwrap();
        settle(&self.admin, RING).await;
        key
    }

    /// Waits until a key is answered so eight times in a row, which is often enough for all workers, and never in another
    /// way than these.
    async fn until_status(&self, key: &str, wanted: u16, until_then: &[u16]) {
        until(&format!("the key is answered with {wanted}"), async || {
            for _ in 0..8 {
                let status = self.status(key).await;
                assert!(status == wanted || until_then.contains(&status), "{status}");
                if status != wanted {
                    return None;
                }
            }
            Some(())
        })
        .await
        .unwrap();
    }

    async fn status(&self, key: &str) -> u16 {
        http::get(self.listener, "/", &[("x-api-key", key)]).await.unwrap().status
    }
}

/// As Istio names it: namespace and name.
fn resource_name(plugin: &Object) -> String {
    format!("{}.{}", plugin.namespace(), plugin.name())
}

/// The filter's place in the chain. Without a limit to the first fetch the listener waits for it.
fn discovered(name: &str, file: &Path) -> Value {
    json!({
        "name": name,
        "config_discovery": {
            "config_source": {
                "path_config_source": {"path": file.display().to_string()},
                "resource_api_version": "V3",
                "initial_fetch_timeout": "0s",
            },
            "type_urls": [
                "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            ],
        },
    })
}

fn extension(name: &str, typed_config: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": name,
        "typed_config": typed_config,
    })
}

/// What Istio makes of a WasmPlugin. Its agent fetches an image and puts a file in its place; the environment is what
/// stays of a `file://` plugin, and changes with each version of the resource.
fn wasm(plugin: &Object, version: u64) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": resource_name(plugin),
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": plugin.at("/spec/pluginConfig").to_string(),
            },
            "failure_policy": plugin.text("/spec/failStrategy"),
            "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": paths().wasm.display().to_string()}},
                "environment_variables": {
                    "key_values": {"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": version.to_string()},
                },
            },
        },
    })
}

/// What Istio's agent puts in the place of a plugin whose module it cannot get, unless it is to fail open.
fn nobody() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {},
        "rules_stat_prefix": "wasm-default-deny",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_updated_under_traffic_beside_another_that_shares_its_memory() {
    let (mut mesh, neighbour) = (Mesh::new().await, Neighbour::new());
    let other = mesh.dir.path().join("neighbour.json");
    publish(&other, &[extension("shop.neighbour", &neighbour.typed_config())]).unwrap();
    mesh.config = mesh.config.clone().with_filter_before(discovered("shop.neighbour", &other));
    mesh.publish(1, |_| ());
    let envoy = mesh.envoy().await;
    let _ = mesh.key().await;
    let (key, revoked) = valid_and_revoked(&mesh.admin).await;
    let traffic = Traffic::start(mesh.listener, &key).refusing("revoked", &revoked.secret);

    for (version, identity) in [(2, "x-caller"), (3, "x-consumer"), (4, "x-client-id")] {
        let doomed = mesh.key().await;
        mesh.publish(version, |config| config["identity"] = json!({"client": identity}));
        // In the midst of it.
        let new = mesh.admin.create_key("acme", &[]).await.unwrap();
        mesh.admin.revoke(&doomed.key).await.unwrap();
        until_told_in(mesh.listener, &key, identity).await;
        settle(&mesh.admin, RING).await;
        for _ in 0..8 {
            assert_eq!(mesh.status(&new.secret).await, 200);
            assert_eq!(mesh.status(&doomed.secret).await, 401);
        }
    }
    // One that the filter does not take leaves the other at work.
    mesh.publish(5, |config| config["sources"] = json!([]));
    until("Envoy refused a configuration", async || envoy.log().contains("sources: must be").then_some(()))
        .await
        .unwrap();
    let new = mesh.key().await;
    assert_eq!(mesh.status(&new.secret).await, 200);
    traffic.assert_served().await;

    // It is one memory: what the other plugin damages there is found and mended.
    let bucket = format!("b{:04x}", Digest::of(key.secret.as_bytes()).bucket());
    overwrite(mesh.listener, &bucket, b"\x00").await;
    let new = mesh.admin.create_key("acme", &[]).await.unwrap();
    until("the damage is found and mended", async || {
        let found = envoy.log().contains("a stored bucket is damaged");
        let good = mesh.status(&key.secret).await == 200 && mesh.status(&new.secret).await == 200;
        assert_ne!(mesh.status(&revoked.secret).await, 200);
        (found && good).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_there_is_a_plugin_nobody_is_served() {
    let mesh = Mesh::new().await;
    let key = mesh.admin.create_key("acme", &[]).await.unwrap();
    // An answer without it. Istio's own discovery gives none, and the listener is not there until it does.
    publish(&mesh.file, &[]).unwrap();
    let envoy = mesh.envoy().await;
    for key in [&key.secret, "made-elsewhere"] {
        assert_eq!(mesh.status(key).await, 500, "{}", envoy.log());
    }

    // The agent cannot get the module.
    publish(&mesh.file, &[extension(&resource_name(&mesh.plugin), &nobody())]).unwrap();
    mesh.until_status(&key.secret, 403, &[500]).await;
    assert_eq!(mesh.status("made-elsewhere").await, 403);

    // It got it.
    mesh.publish(2, |_| ());
    mesh.until_status(&key.secret, 200, &[403, 503]).await;
    settle(&mesh.admin, RING).await;
    for _ in 0..8 {
        assert_eq!(mesh.status(&key.secret).await, 200);
        assert_eq!(mesh.status("made-elsewhere").await, 401);
    }
}

/// Istio's own tags stand where the shipped ones do, and it keeps only metrics whose names begin as these do.
fn in_istio(tags: &Value) -> Value {
    json!({
        "use_all_default_tags": false,
        "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": [
            {"prefix": "cluster_manager"}, {"prefix": "listener_manager"}, {"prefix": "server"}, {"prefix": "wasm"},
        ]}},
    })
}

#[tokio::test]
async fn metrics_have_labels_once_the_bootstrap_is_merged_and_long_names_before() {
    let mut mesh = Mesh::new().await;
    let patch = read("istio/stats-tags.yaml").unwrap().remove(0);
    let tags = patch.at("/spec/configPatches/0/patch/value/stats_config/stats_tags").clone();
    let own = json!([{"tag_name": "cluster_name", "regex": r"^cluster\.((.+?)\.)"}]);
    let merged: Vec<_> =
        [&own, &tags].into_iter().flat_map(|tags| tags.as_array().unwrap().clone()).collect();
    mesh.publish(1, |_| ());
    let key = mesh.admin.create_key("acme", &[]).await.unwrap();
    for (tags, wanted) in [
        (json!(merged), r#"keywheel_requests{ring="production",outcome="valid"} "#),
        (own, "keywheel_requests_ring_production_outcome_valid{} "),
    ] {
        mesh.config = mesh.config.clone().with("/stats_config", in_istio(&tags));
        let envoy = mesh.envoy().await;
        until("the key is served", async || (mesh.status(&key.secret).await == 200).then_some(()))
            .await
            .unwrap();
        until(&format!("/stats/prometheus holds {wanted}"), async || {
            let reply = http::get(envoy.admin(), "/stats/prometheus", &[]).await.ok()?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            let other = wanted
                .replace(r#"ring="production",outcome="valid""#, r#"outcome="valid",ring="production""#);
            text.lines().any(|line| line.starts_with(wanted) || line.starts_with(&other)).then_some(())
        })
        .await
        .unwrap();
    }
}
