//! The control plane starts with what the Deployments of `envoy/` hand it, and its ring listener lets in whom they say.
//! Kubernetes itself does not run, and neither does PostgreSQL here: without its URL the database is SQLite.

use keywheel_testkit::{http, until};

use crate::deployed::{Deployed, DeployedRelay};

const SNAPSHOT: &str = "/v1/rings/production/snapshot";

#[tokio::test]
async fn every_deployment_starts() {
    for deployment in ["kubernetes/sqlite/deployment.yaml", "kubernetes/base-postgres/deployment.yaml"] {
        let control = Deployed::start(deployment, "kubernetes/postgres/ring.yaml").await;
        assert_eq!(control.trust().await.len(), 1, "{deployment}");
        // Its ring listener speaks TLS alone.
        let plain = http::get(control.ring, SNAPSHOT, &[]).await;
        assert!(plain.is_err() || plain.is_ok_and(|reply| reply.status == 400), "{deployment}");
    }
}

#[tokio::test]
async fn a_relay_of_the_stateful_set_serves_whoever_shows_a_certificate() {
    let control = Deployed::start("kubernetes/sqlite/deployment.yaml", "kubernetes/sqlite/ring.yaml").await;
    let relay = DeployedRelay::start(&control).await;
    until("the control plane knows it by its pod's name", async || {
        let ring = control.keywheel(&["ring", "proxies"]).await;
        let mut proxies = ring["items"].as_array().unwrap().iter();
        let is_known = proxies.any(|proxy| proxy["node"] == relay.name && !proxy["epoch"].is_null());
        is_known.then_some(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {}", relay.log()));
    // As README.md checks it, and without what it says to show.
    let url = format!("https://localhost:{}", relay.ring.port());
    let doctor = ["doctor", "--ring-url", &url];
    let shown = |name: &str| control.proxy().join(name).display().to_string();
    let (cert, key) = (shown("tls.crt"), shown("tls.key"));
    let with = ["--client-cert", &cert, "--client-key", &key];
    let findings = control.keywheel(&[&doctor[..], &with].concat()).await;
    let about = |finding: &&serde_json::Value| finding["about"] == "ring listener";
    let found = findings.as_array().unwrap().iter().find(about).unwrap();
    assert_eq!(found["level"], "good", "{found}");
    let refused = control.fails(&doctor).await;
    assert!(refused.contains("doctor is not let in") && refused.contains("--client-cert"), "{refused}");
}

/// There the sidecar in front of it decides.
#[tokio::test]
async fn in_a_mesh_the_ring_listener_is_open() {
    let ring = "istio/control-plane/ring.yaml";
    let control = Deployed::start("kubernetes/base-postgres/deployment.yaml", ring).await;
    assert_eq!(http::get(control.ring, SNAPSHOT, &[]).await.unwrap().status, 200);
}
