//! `envoy/gateway/` as Envoy Gateway hands it to Envoy, with the control plane that `envoy/kubernetes/sqlite` starts: mTLS
//! between the two, certificates from files, the module from an HTTP server, the filter on chosen routes.
//!
//! What Envoy Gateway makes of its policies is written here as it was read in its source; it itself does not run.

use std::fs;

use keywheel_manifests::{Object, parse};
use keywheel_testkit::module_server::ModuleServer;
use keywheel_testkit::upstream::seen_header;
use keywheel_testkit::{Envoy, EnvoyConfig, Upstream, http, until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::deployed::{Deployed, object};
use crate::pki::Authority;
use crate::scene::paths;

const CLUSTERS: &str = "/static_resources/clusters";
const ROUTES: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";

/// Named after the policy, and the same for the filter's VM.
fn vm_id(policy: &Object) -> String {
    format!("envoyextensionpolicy/{}/{}/wasm/0", policy.namespace(), policy.name())
}

fn filter_name(policy: &Object) -> String {
    format!("envoy.filters.http.wasm/{}", vm_id(policy))
}

/// Off, but for the routes that turn it on. No failure policy is set.
fn filter(policy: &Object, trust: &[String], module: &[u8]) -> Value {
    let mut config = policy.at("/spec/wasm/0/config").clone();
    config["control"]["trust"] = json!(trust);
    json!({
        "name": filter_name(policy),
        "disabled": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": policy.text("/spec/wasm/0/name"),
                "fail_open": policy.at("/spec/wasm/0/failOpen"),
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": config.to_string(),
                },
                "vm_config": {
                    "vm_id": vm_id(policy),
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"remote": {
                        "http_uri": {"uri": "https://eg:18002/keywheel.wasm", "cluster": "wasm_cluster", "timeout": "10s"},
                        "sha256": hex::encode(Sha256::digest(module)),
                    }},
                },
            },
        },
    })
}

/// The cluster that the patch adds, at this address and with files of the test.
fn cluster(control: &Deployed) -> Value {
    let patch = object("gateway/cluster.yaml", "EnvoyPatchPolicy");
    let secrets = object("gateway/proxy.yaml", "ConfigMap");
    let dir = control.proxy();
    let here = |text: &str| text.replace("/etc/keywheel/proxy", &dir.display().to_string());
    for (file, text) in secrets.at("/data").as_object().unwrap() {
        fs::write(dir.join(file), here(text.as_str().unwrap())).unwrap();
    }
    let cluster = patch.at("/spec/jsonPatches/0/operation/value").to_string();
    let cluster = cluster.replace("/etc/keywheel/sds", &dir.display().to_string());
    let mut cluster: Value = serde_json::from_str(&cluster).unwrap();
    let address = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    *cluster.pointer_mut(address).unwrap() =
        json!({"address": control.ring.ip().to_string(), "port_value": control.ring.port()});
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_comes_over_mtls_and_the_filter_from_a_server() {
    let control = Deployed::start("kubernetes/sqlite/deployment.yaml", "kubernetes/sqlite/ring.yaml").await;
    control.keywheel(&["client", "create", "acme"]).await;
    let key = control.keywheel(&["key", "create", "--client", "acme"]).await;
    let secret = key["secret"].as_str().unwrap().to_owned();

    let policy = object("gateway/extension-policy.yaml", "EnvoyExtensionPolicy");
    let module = fs::read(&paths().wasm).unwrap();
    let server = ModuleServer::start(module.clone()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let on = json!({filter_name(&policy): {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {},
    }});
    let proxy = object("gateway/proxy.yaml", "EnvoyProxy");
    let bootstrap = parse(&proxy.file, proxy.text("/spec/bootstrap/value")).unwrap().remove(0);
    let config = EnvoyConfig::shipped()
        .unwrap()
        .with_filter_instead(filter(&policy, &control.trust().await, &module))
        .with_cluster("upstream", upstream.address())
        .with_another_cluster("wasm_cluster", "upstream", server.address())
        .with(&format!("{CLUSTERS}/0"), cluster(&control))
        .with("/stats_config", bootstrap.at("/stats_config").clone())
        .with(
            ROUTES,
            json!([
                {"match": {"prefix": "/untargeted"}, "route": {"cluster": "upstream"}},
                {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}, "typed_per_filter_config": on},
            ]),
        );
    let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
    let get = async |path: &str, headers: &[(&str, &str)]| {
        http::get(envoy.listener(), path, headers).await.unwrap()
    };
    let with_key = async || get("/", &[("x-api-key", &secret)]).await;
    until("the ring is held", async || {
        let status = with_key().await.status;
        assert_ne!(status, 401, "{}", envoy.log());
        (status == 200).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(seen_header(&with_key().await, "x-client-id"), ["acme"]);
    assert_eq!(get("/", &[]).await.status, 401);
    // Where the policy is not, the filter is not.
    let forged = get("/untargeted", &[("x-client-id", "forged")]).await;
    assert_eq!((forged.status, seen_header(&forged, "x-client-id")), (200, vec!["forged".to_owned()]));

    until("metrics have labels", async || {
        let reply = http::get(envoy.admin(), "/stats/prometheus", &[]).await.ok()?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let mut lines = text.lines().filter(|line| line.starts_with("keywheel_requests{"));
        lines
            .any(|line| line.contains("ring=\"production\"") && line.contains("outcome=\"valid\""))
            .then_some(())
    })
    .await
    .unwrap();

    let id = key["id"].as_str().unwrap();
    control.keywheel(&["key", "revoke", id, "--wait"]).await;
    for _ in 0..8 {
        assert_eq!(with_key().await.status, 401);
    }
}

/// An Envoy with the shipped filter, which asks through the cluster that the patch adds.
async fn behind(control: &Deployed, cluster: Value, upstream: &Upstream) -> Envoy {
    let config = EnvoyConfig::shipped()
        .unwrap()
        .with_wasm(&paths().wasm)
        .with_trust(&control.trust().await)
        .with_cluster("upstream", upstream.address())
        .with(&format!("{CLUSTERS}/0"), cluster);
    let envoy = Envoy::start(&paths(), config, 1).await.unwrap();
    until("the ring is refused", async || {
        let failed = envoy.metric("keywheel_refresh_failures").await.ok()?;
        (failed >= 2).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(http::get(envoy.listener(), "/", &[("x-api-key", "any")]).await.unwrap().status, 503);
    envoy
}

/// What keeps others from the ring: without a certificate there is none.
#[tokio::test]
async fn without_its_certificate_a_gateway_gets_no_ring() {
    let control = Deployed::start("kubernetes/sqlite/deployment.yaml", "kubernetes/sqlite/ring.yaml").await;
    let mut cluster = cluster(&control);
    let tls = cluster.pointer_mut("/transport_socket/typed_config/common_tls_context").unwrap();
    tls.as_object_mut().unwrap().remove("tls_certificate_sds_secret_configs").unwrap();
    let upstream = Upstream::start().await.unwrap();
    behind(&control, cluster, &upstream).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let control = Deployed::start("kubernetes/sqlite/deployment.yaml", "kubernetes/sqlite/ring.yaml").await;
    let dir = control.proxy();
    let good = ["tls.key", "tls.crt"].map(|name| (name, fs::read(dir.join(name)).unwrap()));
    let stranger = Authority::new().client();
    fs::write(dir.join("tls.crt"), &stranger.cert).unwrap();
    fs::write(dir.join("tls.key"), &stranger.key).unwrap();
    let upstream = Upstream::start().await.unwrap();
    let envoy = behind(&control, cluster(&control), &upstream).await;
    // Into their places in one move each, as Kubernetes does with all of them.
    for (name, bytes) in good {
        fs::write(dir.join("new"), bytes).unwrap();
        fs::rename(dir.join("new"), dir.join(name)).unwrap();
    }
    until("the ring is there", async || {
        let status = http::get(envoy.listener(), "/", &[("x-api-key", "any")]).await.ok()?.status;
        (status == 401).then_some(())
    })
    .await
    .unwrap();
}
