use axum::http::StatusCode;
use keywheel_api::{List, Ring, RingSigningKey, SigningKeyState};
use keywheel_keyring::PublicKey;
use serde_json::json;

use crate::support::{Answer, Plane, call, plane};

const KEYS: &str = "/v1/rings/production/signing-keys";

async fn keys(plane: &Plane) -> Vec<RingSigningKey> {
    plane.get(KEYS).await.json::<List<RingSigningKey>>(StatusCode::OK).items
}

async fn create(plane: &Plane) -> RingSigningKey {
    plane.post(KEYS, json!(null)).await.json(StatusCode::CREATED)
}

async fn step(plane: &Plane, key: &RingSigningKey, what: &str) -> Answer {
    plane.post(&format!("{KEYS}/{}/{what}", key.id), json!(null)).await
}

async fn shown(plane: &Plane) -> Vec<String> {
    plane.get("/v1/rings/production").await.json::<Ring>(StatusCode::OK).trust
}

fn public(key: &RingSigningKey) -> Vec<PublicKey> {
    vec![key.public_key.parse().unwrap()]
}

/// A proxy that asks for changes, and says what it trusts.
async fn ask(plane: &Plane, node: &str, trust: &str) {
    let (epoch, head) = (plane.epoch(), plane.head());
    let report =
        format!("node={node}&instance=0a&filter=0.1.0&vms=3&epoch=&stored=0&enforced=0&age=0{trust}");
    let request = axum::http::Request::builder()
        .uri(format!("/v1/rings/production/changes?epoch={epoch}&since={head}"))
        .header("keywheel-proxy", report);
    let app = keywheel_control::app::ring(plane.control.clone());
    assert_eq!(call(app, request.body(axum::body::Body::empty()).unwrap()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_is_made_published_signs_and_ends_without_a_restart() {
    let plane = plane().await;
    plane.key().await;
    let old = keys(&plane).await.remove(0);
    assert_eq!(old.state, SigningKeyState::Active);
    // Both kinds of document are kept, signed by the old key.
    let ask = format!("changes?epoch={}&since=0", plane.epoch());
    let heartbeat = format!("changes?epoch={}&since={}", plane.epoch(), plane.head());
    for ask in ["snapshot", ask.as_str(), heartbeat.as_str()] {
        plane.ring(ask).await.document(&public(&old));
    }

    let new = create(&plane).await;
    assert_eq!((new.state, shown(&plane).await), (SigningKeyState::Created, vec![old.public_key.clone()]));
    step(&plane, &new, "activate").await.problem("signing-key-state");
    step(&plane, &new, "publish").await.json::<RingSigningKey>(StatusCode::OK);
    assert_eq!(shown(&plane).await, [old.public_key.clone(), new.public_key.clone()]);
    plane.ring("snapshot").await.document(&public(&old));

    for _ in 0..2 {
        let key: RingSigningKey = step(&plane, &new, "activate").await.json(StatusCode::OK);
        assert_eq!(key.state, SigningKeyState::Active, "twice is once");
    }
    for ask in ["snapshot", ask.as_str(), heartbeat.as_str()] {
        plane.ring(ask).await.document(&public(&new));
    }
    let checkpoint: keywheel_api::Checkpoint =
        plane.post("/v1/audit/checkpoints", json!(null)).await.json(StatusCode::OK);
    assert_eq!(checkpoint.signer, new.id);

    step(&plane, &new, "retire").await.problem("signing-key-state");
    step(&plane, &old, "retire").await.json::<RingSigningKey>(StatusCode::OK);
    assert_eq!(shown(&plane).await, std::slice::from_ref(&new.public_key));
    for what in ["publish", "activate"] {
        step(&plane, &old, what).await.problem("signing-key-state");
    }
    let states: Vec<_> = keys(&plane).await.into_iter().map(|key| key.state).collect();
    assert_eq!(states, [SigningKeyState::Retired, SigningKeyState::Active]);
    let checkpoints: keywheel_api::Checkpoints =
        plane.get("/v1/audit/checkpoints").await.json(StatusCode::OK);
    assert!(checkpoints.trust.contains(&old.public_key), "what a retired key signed can still be verified");

    let plane = plane.restart().await;
    plane.ring("snapshot").await.document(&public(&new));
    let unknown = RingSigningKey { id: "0000000000000000".into(), ..new };
    step(&plane, &unknown, "publish").await.problem("not-found");
}

#[tokio::test]
async fn a_switch_back_is_a_switch() {
    let plane = plane().await;
    let old = keys(&plane).await.remove(0);
    let new = create(&plane).await;
    step(&plane, &new, "publish").await;
    for key in [&new, &old, &new] {
        step(&plane, key, "activate").await.json::<RingSigningKey>(StatusCode::OK);
        plane.ring("snapshot").await.document(&public(key));
    }
}

#[tokio::test]
async fn a_switch_that_would_strand_proxies_is_refused_unless_forced() {
    let plane = plane().await;
    let old = keys(&plane).await.remove(0);
    let new = create(&plane).await;
    step(&plane, &new, "publish").await;

    ask(&plane, "both", &format!("&trust={}%2C{}", old.id, new.id)).await;
    ask(&plane, "behind", &format!("&trust={}", old.id)).await;
    ask(&plane, "silent", "").await;
    let refused = step(&plane, &new, "activate").await.problem("proxies-stranded");
    assert!(refused.detail.contains("2 proxies") && refused.detail.contains("behind, silent"), "{refused:?}");
    plane.ring("snapshot").await.document(&public(&old));

    for node in ["behind", "silent"] {
        ask(&plane, node, &format!("&trust={}%2C{}", old.id, new.id)).await;
    }
    step(&plane, &new, "activate").await.json::<RingSigningKey>(StatusCode::OK);

    ask(&plane, "behind", &format!("&trust={}", new.id)).await;
    step(&plane, &old, "activate").await.problem("proxies-stranded");
    let forced = plane.post(&format!("{KEYS}/{}/activate", old.id), json!({ "force": true })).await;
    forced.json::<RingSigningKey>(StatusCode::OK);
    plane.ring("snapshot").await.document(&public(&old));
}
