use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::{Applied, ForgottenProxies, Key, ProxyState, RingProxies, TokenWithSecret};
use keywheel_control::{RingAuth, app};
use serde::Deserialize;
use serde_json::json;

use crate::support::{Plane, call, new_version, plane, plane_with};

#[derive(Deserialize)]
struct WithProof {
    #[serde(flatten)]
    key: Key,
    applied: Applied,
}

/// What proxy `instance` says of itself, as it asks for changes.
async fn says(plane: &Plane, instance: &str, enforced: u64) {
    let epoch = plane.epoch();
    let header = format!(
        "node=edge&instance={instance}&filter=0.1.0&vms=3&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
    );
    let answer = plane.ring_as(&format!("changes?epoch={epoch}&since=0"), &header).await;
    assert_eq!(answer.status, StatusCode::OK);
}

async fn proxies(plane: &Plane) -> RingProxies {
    plane.get("/v1/rings/production/proxies").await.json(StatusCode::OK)
}

fn revoke(key: &Key, query: &str) -> String {
    format!("/v1/keys/{}/revoke?{query}", key.id)
}

#[tokio::test]
async fn the_answer_comes_when_the_last_proxy_has_said_so() {
    let plane = Arc::new(plane().await);
    let key = plane.key().await;
    says(&plane, "a1", 1).await;
    says(&plane, "b2", 1).await;
    let waiting = {
        let (plane, path) = (plane.clone(), revoke(&key, "wait=applied&timeout=60"));
        tokio::spawn(async move { plane.post(&path, json!({})).await })
    };
    while plane.head() < 2 {
        tokio::task::yield_now().await;
    }
    says(&plane, "a1", 2).await;
    let proof = proxies(&plane).await.proof;
    assert_eq!((proof.enforced, proof.of), (1, 2));
    assert_eq!(proof.laggards.iter().map(|name| name.instance.as_str()).collect::<Vec<_>>(), ["b2"]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "one is missing");
    says(&plane, "b2", 2).await;

    let answer: WithProof = waiting.await.unwrap().json(StatusCode::OK);
    assert!(answer.applied.complete && answer.key.revoked_at.is_some());
    let [proof] = &answer.applied.rings[..] else { panic!("{:?}", answer.applied) };
    assert_eq!((proof.revision, proof.enforced, proof.of), (2, 2, 2));
    // The same request again changed nothing, and says what holds.
    let again: WithProof = plane.post(&revoke(&key, "wait=applied"), json!({})).await.json(StatusCode::OK);
    assert!(again.applied.complete);
}

#[tokio::test]
async fn at_the_time_limit_the_laggards_are_named() {
    let plane = plane().await;
    let key = plane.key().await;
    says(&plane, "a1", 1).await;
    let answer: WithProof =
        plane.post(&revoke(&key, "wait=applied&timeout=1"), json!({})).await.json(StatusCode::OK);
    assert!(!answer.applied.complete);
    assert!(answer.applied.milliseconds >= 1000);
    assert_eq!(answer.applied.rings[0].laggards[0].instance, "a1");
    assert!(answer.key.revoked_at.is_some(), "it happened all the same");
}

#[tokio::test]
async fn a_refused_change_and_a_bad_query_wait_for_nobody() {
    let plane = plane().await;
    let key = plane.key().await;
    says(&plane, "a1", 0).await;
    plane.post("/v1/keys/key_x/revoke?wait=applied", json!({})).await.problem("not-found");
    for (query, field) in
        [("wait=forever", "wait"), ("wait=applied&timeout=0", "timeout"), ("timeout=x", "timeout")]
    {
        let problem = plane.post(&revoke(&key, query), json!({})).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, field);
    }
    assert_eq!(plane.head(), 1, "nothing was revoked");
}

#[tokio::test]
async fn a_restart_forgets_no_proxy() {
    let plane = plane().await;
    let key = plane.key().await;
    says(&plane, "a1", 1).await;
    // As after a kill: nothing was written in order but the proxy's first call.
    says(&plane, "a1", 1).await;
    let plane = plane.restart().await;
    let known = proxies(&plane).await;
    assert_eq!((known.proof.enforced, known.proof.of), (1, 1));
    assert_eq!(known.items[0].state, ProxyState::Current);
    let answer: WithProof =
        plane.post(&revoke(&key, "wait=applied&timeout=1"), json!({})).await.json(StatusCode::OK);
    assert!(!answer.applied.complete, "it has not said so since");
}

#[tokio::test]
async fn a_proxy_is_missed_until_it_is_forgotten_by_name() {
    let plane = plane().await;
    plane.key().await;
    says(&plane, "a1", 1).await;
    says(&plane, "b2", 0).await;
    let forget = "/v1/rings/production/proxies/forget";
    plane.post(forget, json!({})).await.problem("invalid-request");
    plane.post(forget, json!({ "silent_for_seconds": 59 })).await.problem("invalid-request");
    let none: ForgottenProxies =
        plane.post(forget, json!({ "silent_for_seconds": 60 })).await.json(StatusCode::OK);
    assert_eq!(none.forgotten, []);
    let gone: ForgottenProxies =
        plane.post(forget, json!({ "instances": ["b2", "c3"] })).await.json(StatusCode::OK);
    assert_eq!(gone.forgotten.len(), 1);
    let proof = proxies(&plane).await.proof;
    assert_eq!((proof.enforced, proof.of), (1, 1));
    let plane = plane.restart().await;
    assert_eq!(proxies(&plane).await.proof.of, 1);
    let records = plane.store().audit_records(0, 100).await.unwrap();
    let record = &records.iter().find(|record| record.event.action == "proxies.forget").unwrap().event;
    assert!(record.before.as_ref().unwrap().contains("b2"));

    says(&plane, "b2", 1).await;
    assert_eq!(proxies(&plane).await.proof.of, 2, "who is not gone comes back");
}

#[tokio::test]
async fn every_change_can_wait() {
    let plane = plane().await;
    let key = plane.key().await;
    let version = new_version();
    for (path, body) in [
        (format!("/v1/keys/{}/rotations", key.id), json!({ "overlap_seconds": 60, "version": version })),
        ("/v1/clients".into(), json!({ "name": "other" })),
        ("/v1/keys".into(), json!({ "client": "acme" })),
        (format!("/v1/keys/{}/reinstate", key.id), json!({})),
    ] {
        let answer = plane.post(&format!("{path}?wait=applied"), body).await;
        if answer.status.is_success() {
            let json: serde_json::Value = answer.json(answer.status);
            assert_eq!(json["applied"]["complete"], true, "{path}: there is no proxy to wait for");
        } else {
            answer.problem("not-ended");
        }
    }
}

#[tokio::test]
async fn who_is_ahead_of_what_was_issued_acknowledges_nothing() {
    let plane = plane().await;
    let key = plane.key().await;
    // Its ring is of another copy of the database, and it refuses what this one signs.
    says(&plane, "a1", u64::MAX).await;
    let proof = proxies(&plane).await.proof;
    assert_eq!((proof.enforced, proof.of, proof.laggards.len()), (0, 1, 1));
    // Not even when this one has come as far.
    says(&plane, "b2", 2).await;
    let answer: WithProof =
        plane.post(&revoke(&key, "wait=applied&timeout=1"), json!({})).await.json(StatusCode::OK);
    assert!(!answer.applied.complete);
    says(&plane, "b2", 2).await;
    assert_eq!(proxies(&plane).await.proof.enforced, 0);
}

#[tokio::test]
async fn only_a_proxys_own_token_speaks_for_it() {
    let plane = plane_with(RingAuth::Token).await;
    plane.key().await;
    let epoch = plane.epoch();
    for (role, known) in [("auditor", 0), ("operator", 0), ("proxy", 1)] {
        let token: TokenWithSecret =
            plane.post("/v1/tokens", json!({ "role": role })).await.json(StatusCode::CREATED);
        let request = Request::builder()
            .uri(format!("/v1/rings/production/changes?epoch={epoch}&since=0"))
            .header("authorization", format!("Bearer {}", token.token.as_deref().unwrap()))
            .header(
                "keywheel-proxy",
                format!("node=edge&instance=a1&filter=0.1.0&vms=3&epoch={epoch}&stored=1&enforced=1&age=0"),
            );
        let answer = call(app::ring(plane.control.clone()), request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{role} may read the ring");
        assert_eq!(proxies(&plane).await.items.len(), known, "{role}");
    }
}

/// A relay's report of proxies: each an instance, the revision it enforces, and how long ago it said so.
async fn relay_says(plane: &Plane, proxies: &[(&str, u64, u64)]) {
    let epoch = plane.epoch();
    let report = |(instance, enforced, ago): &(&str, u64, u64)| {
        let said = format!(
            "node=edge&instance={instance}&filter=0.1.0&vms=3&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        json!({ "proxy": said, "ago_ms": ago })
    };
    let body = json!({ "proxies": proxies.iter().map(report).collect::<Vec<_>>() });
    let answer = plane.tell(&body.to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", String::from_utf8_lossy(&answer.body));
}

#[tokio::test]
async fn what_a_relay_tells_of_proxies_is_their_own_word() {
    let plane = plane().await;
    let key = plane.key().await;
    says(&plane, "a1", 1).await;
    relay_says(&plane, &[("b2", 1, 0), ("c3", 1, 61_000), ("d4", 9, 0)]).await;
    let known = proxies(&plane).await;
    assert_eq!((known.proof.enforced, known.proof.of), (3, 4), "nobody enforces what was not issued");
    let state = |known: &RingProxies, instance: &str| {
        known
            .items
            .iter()
            .find(|proxy| proxy.instance == instance)
            .map(|proxy| (proxy.state, proxy.enforced))
            .unwrap()
    };
    assert_eq!(state(&known, "b2"), (ProxyState::Current, 1));
    assert_eq!(state(&known, "c3"), (ProxyState::Unproven, 1), "it was heard of a minute ago");
    assert_eq!(state(&known, "d4"), (ProxyState::Lagging, 0));
    let plane = plane.restart().await;
    assert_eq!(proxies(&plane).await.proof.of, 4, "they are on disk");

    plane.post(&revoke(&key, ""), json!({})).await;
    says(&plane, "a1", 2).await;
    relay_says(&plane, &[("a1", 1, 5_000), ("b2", 2, 0)]).await;
    let known = proxies(&plane).await;
    assert_eq!((state(&known, "a1").1, state(&known, "b2").1), (2, 2), "older word changes nothing");
}

#[tokio::test]
async fn a_relays_report_is_judged_as_others_are() {
    let plane = plane().await;
    let known = |plane: &Plane| {
        let plane = plane.clone();
        async move { proxies(&plane).await.proof.of }
    };
    let one = json!({ "proxy": "nonsense", "ago_ms": 0 });
    let answer = plane.tell(&json!({ "proxies": [one] }).to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "what cannot be read is left out");
    let many = vec![one; 1001];
    let problem = plane.tell(&json!({ "proxies": many }).to_string()).await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "proxies");
    plane.tell("[]").await.problem("invalid-request");
    assert_eq!(known(&plane).await, 0);
}
