use axum::http::StatusCode;
use keywheel_api::{AuditRecord, Compromised, ImportRefusal, Key, List, RevokedClient, RotationState, State};
use keywheel_keyring::Digest;
use serde_json::json;

use crate::support::{new_version, plane, policy_of_acme};

#[tokio::test]
async fn a_compromised_key_is_never_reinstated_not_even_one_that_was_revoked_before() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    let revoke = format!("/v1/keys/{}/revoke", key.id);
    plane.post(&revoke, json!({})).await;
    let ended: Key = plane.post(&revoke, json!({ "compromised": true })).await.json(StatusCode::OK);
    assert!(ended.versions.iter().all(|version| version.state == State::Compromised));
    let head = plane.head();
    plane.post(&revoke, json!({ "compromised": true })).await;
    for path in ["reinstate".into(), format!("versions/{}/reinstate", rotation.old_version)] {
        plane.post(&format!("/v1/keys/{}/{path}", key.id), json!({})).await.problem("compromised");
    }
    assert_eq!(plane.head(), head);
}

#[tokio::test]
async fn a_compromised_new_version_rolls_its_rotation_back() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    let path = format!("/v1/keys/{}/versions/{}/revoke", key.id, rotation.new_version);
    let key: Key = plane.post(&path, json!({ "compromised": true })).await.json(StatusCode::OK);
    assert_eq!(plane.store().rotation(&rotation.id).await.unwrap().state, RotationState::RolledBack);
    let state = |id: &str| key.versions.iter().find(|version| version.id == id).unwrap().state;
    assert_eq!(state(&rotation.old_version), State::Active);
    assert_eq!(state(&rotation.new_version), State::Compromised);
}

#[tokio::test]
async fn leaked_digests_are_ended_reported_and_never_taken_again() {
    let plane = plane().await;
    plane.client("acme").await;
    let (known, unknown) = (new_version(), Digest::of(b"nobody's"));
    let body = json!({ "client": "acme", "version": known });
    let key: Key = plane.post("/v1/keys", body).await.json(StatusCode::CREATED);
    let leaked = json!({ "digests": [known["digest"], unknown] });
    let report: Compromised = plane.post("/v1/compromised", leaked.clone()).await.json(StatusCode::OK);
    assert_eq!((report.versions.len(), &report.unknown), (1, &vec![unknown]));
    assert_eq!((report.versions[0].key.as_str(), report.versions[0].was), (key.id.as_str(), State::Active));
    assert_eq!(plane.show(&key).await.versions[0].state, State::Compromised);
    let head = plane.head();
    let again: Compromised = plane.post("/v1/compromised", leaked).await.json(StatusCode::OK);
    assert_eq!((again.versions[0].was, plane.head()), (State::Compromised, head), "twice is once");

    for digest in [json!(unknown), known["digest"].clone()] {
        let body = json!({ "client": "acme", "version": { "id": new_version()["id"], "digest": digest } });
        plane.post("/v1/keys", body).await.problem("compromised");
        let digest: Digest = digest.as_str().unwrap().parse().unwrap();
        let import = plane.import([digest]).await;
        assert_eq!((import.imported, import.refused[0].reason), (0, ImportRefusal::Compromised));
    }
    assert_eq!(plane.head(), head);
    plane.post("/v1/compromised", json!({ "digests": [] })).await.problem("invalid-request");
}

#[tokio::test]
async fn many_keys_of_a_client_end_in_parts_that_nobody_waits_long_for() {
    let plane = plane().await;
    plane.import((0..120_u8).map(|number| Digest::of(&[number]))).await;
    let revoked: RevokedClient = plane.post("/v1/clients/acme/revoke", json!({})).await.json(StatusCode::OK);
    assert_eq!(revoked.keys, 120);
    let changes = plane.changes(120).await;
    assert!(
        changes.entries.len() == 120 && changes.entries.iter().all(|entry| entry.state == State::Revoked)
    );
    let records: List<AuditRecord> = plane.get("/v1/audit?after=0&limit=500").await.json(StatusCode::OK);
    let parts: Vec<_> =
        records.items.iter().filter(|record| record.event.action == "client.revoke").collect();
    assert_eq!(parts.len(), 3, "each part has its record");
}

#[tokio::test]
async fn a_clients_keys_end_together() {
    let plane = plane().await;
    let keys = [plane.key().await, plane.key().await];
    let path = "/v1/clients/acme/revoke";
    let body = json!({ "compromised": true });
    let revoked: RevokedClient = plane.post(path, body.clone()).await.json(StatusCode::OK);
    assert_eq!(revoked.keys, 2);
    for key in &keys {
        assert_eq!(plane.show(key).await.versions[0].state, State::Compromised);
    }
    let again: RevokedClient = plane.post(path, body).await.json(StatusCode::OK);
    assert_eq!(again.keys, 0);
    plane.post("/v1/clients/nobody/revoke", json!({})).await.problem("not-found");
}

#[tokio::test]
async fn a_leaked_secret_to_which_a_key_was_to_rotate_is_taken_back_and_told() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "rotate_every_seconds": 86_400, "overlap_seconds": 3600 })).await;
    let key = plane.key().await;
    let next = new_version();
    let path = format!("/v1/keys/{}/next", key.id);
    plane.post(&path, json!({ "version": next })).await.json::<Key>(StatusCode::OK);
    let leaked = json!({ "digests": [next["digest"]] });
    let report: Compromised = plane.post("/v1/compromised", leaked.clone()).await.json(StatusCode::OK);
    assert_eq!((report.versions.len(), report.unknown.len()), (0, 0));
    let deposit = &report.deposits[0];
    assert_eq!((&deposit.key, &*deposit.client, &*deposit.ring), (&key.id, "acme", "production"));
    assert_eq!(plane.show(&key).await.schedule.unwrap().next_version, None);
    plane.post(&path, json!({ "version": next })).await.problem("compromised");
    let again: Compromised = plane.post("/v1/compromised", leaked).await.json(StatusCode::OK);
    assert_eq!((again.deposits.len(), again.unknown.len()), (0, 1), "nobody has it any more");
}

#[tokio::test]
async fn a_secret_that_several_rings_know_is_compromised_in_all_of_them() {
    let plane = plane().await;
    plane.post("/v1/rings", json!({ "name": "staging" })).await;
    plane.client("acme").await;
    let digest = new_version()["digest"].clone();
    let mut keys: Vec<Key> = Vec::new();
    for ring in ["production", "staging"] {
        let version = json!({ "id": new_version()["id"], "digest": digest });
        let new = json!({ "client": "acme", "ring": ring, "version": version });
        keys.push(plane.post("/v1/keys", new).await.json(StatusCode::CREATED));
    }
    let path = format!("/v1/keys/{}/revoke", keys[0].id);
    plane.post(&path, json!({})).await.json::<Key>(StatusCode::OK);
    assert_eq!(plane.show(&keys[1]).await.versions[0].state, State::Active, "revoked is of one key");
    plane.post(&path, json!({ "compromised": true })).await.json::<Key>(StatusCode::OK);
    for key in &keys {
        assert_eq!(plane.show(key).await.versions[0].state, State::Compromised);
    }
    assert_eq!(plane.control.ring("staging").unwrap().head(), 2, "its proxies are told");
    let report: Compromised =
        plane.post("/v1/compromised", json!({ "digests": [digest] })).await.json(StatusCode::OK);
    assert_eq!(report.versions.len(), 2);
}
