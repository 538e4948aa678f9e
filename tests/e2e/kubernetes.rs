//! The control plane starts with what the Deployments of `envoy/` hand it, and its ring listener lets in whom they say.
//! Kubernetes itself does not run, and neither does PostgreSQL here: without its URL the database is SQLite.

use keywheel_testkit::http;

use crate::deployed::Deployed;

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

/// There the sidecar in front of it decides.
#[tokio::test]
async fn in_a_mesh_the_ring_listener_is_open() {
    let ring = "istio/control-plane/ring.yaml";
    let control = Deployed::start("kubernetes/base-postgres/deployment.yaml", ring).await;
    assert_eq!(http::get(control.ring, SNAPSHOT, &[]).await.unwrap().status, 200);
}
