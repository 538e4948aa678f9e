//! A proxy that cannot reach its control plane gets the ring pushed, through a listener of its own.

use std::net::SocketAddr;

use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::http::Connection;
use keywheel_testkit::{ControlPlane, Envoy, Reply, Upstream, http, port, until};
use serde_json::{Value, json};

use crate::command_line::keywheel;
use crate::scene::{config, paths};

struct Pushed {
    envoy: Envoy,
    receiver: SocketAddr,
    control: ControlPlane,
    _upstream: Upstream,
}

impl Pushed {
    async fn start() -> Self {
        let control = ControlPlane::start(&paths()).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let receiver = port::free();
        let config = config(&control, &upstream)
            .with_plugin(|plugin| plugin["control"]["clusters"] = json!([]))
            .with_receiver(receiver);
        let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
        Self { envoy, receiver, control, _upstream: upstream }
    }

    async fn push(&self) -> Value {
        let to = format!("http://{}", self.receiver);
        keywheel(&self.control, &["ring", "push", RING, "--to", &to]).await
    }

    async fn status(&self, key: &str) -> u16 {
        http::get(self.envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap().status
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &'static str) -> Reply {
        let mut connection = Connection::open(self.receiver).await.unwrap();
        connection.send("POST".parse().unwrap(), path, headers, body).await.unwrap()
    }
}

#[tokio::test]
async fn a_ring_that_is_pushed_is_enforced_and_follows_the_control_plane() {
    let pushed = Pushed::start().await;
    let admin = pushed.control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    assert_eq!(pushed.status(&key.secret).await, 503);
    let position = http::get(pushed.receiver, "/v1/rings/production/position", &[]).await.unwrap();
    assert_eq!((position.status, &position.json()["epoch"]), (200, &Value::Null));

    pushed.push().await;
    // When the push says that it is enforced, it is, on every worker.
    for _ in 0..8 {
        assert_eq!(pushed.status(&key.secret).await, 200);
        assert_eq!(pushed.status("nobody").await, 401);
    }
    admin.revoke(&key.key).await.unwrap();
    let next = admin.create_key("acme", &[]).await.unwrap();
    pushed.push().await;
    for _ in 0..8 {
        assert_eq!(pushed.status(&key.secret).await, 401);
        assert_eq!(pushed.status(&next.secret).await, 200);
    }
    let position = http::get(pushed.receiver, "/v1/rings/production/position", &[]).await.unwrap().json();
    let head = admin.ring(RING).await.unwrap().revision;
    assert_eq!((&position["revision"], &position["enforced"]), (&json!(head), &json!(head)));
}

#[tokio::test]
async fn what_is_not_signed_changes_nothing() {
    let pushed = Pushed::start().await;
    pushed.push().await;
    let documents = "/v1/rings/production/documents";
    for (headers, body, reason) in [
        (&[][..], "{}", "unsigned"),
        (
            &[("keywheel-signer", "0011223344556677"), ("keywheel-signature", "AAAA")],
            "{}",
            "untrusted_signer",
        ),
        (&[], "", "unsigned"),
    ] {
        let reply = pushed.post(documents, headers, body).await;
        assert_eq!((reply.status, &reply.json()["code"]), (409, &json!("document_refused")));
        assert_eq!(reply.json()["reason"], reason);
        assert_eq!(reply.header("content-type"), "application/problem+json");
    }
    assert_eq!(pushed.status("nobody").await, 401, "the ring is as it was");
}

#[tokio::test]
async fn anything_else_is_answered_and_goes_nowhere() {
    let pushed = Pushed::start().await;
    assert_eq!(pushed.post("/v1/rings/staging/documents", &[], "{}").await.status, 404);
    assert_eq!(pushed.post("/", &[], "{}").await.status, 404);
    let wrong = pushed.post("/v1/rings/production/position", &[], "{}").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, "GET"));
    let wrong = http::get(pushed.receiver, "/v1/rings/production/documents", &[]).await.unwrap();
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"));
    // In pieces, and more than the filter takes.
    let long: &'static str = Box::leak("x".repeat(5 << 20).into_boxed_str());
    let reply = until("a long body is refused", async || {
        let mut connection = Connection::open(pushed.receiver).await.ok()?;
        let sent = connection.send("POST".parse().ok()?, "/v1/rings/production/documents", &[], long).await;
        sent.ok().map(|reply| reply.status)
    });
    assert_eq!(reply.await.unwrap(), 413);
    assert_eq!(http::get(pushed.envoy.listener(), "/", &[]).await.unwrap().status, 503);
}
