use axum::http::StatusCode;
use keywheel_api::{Key, Rotation, RotationEnd, RotationState, State, WaitsFor, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_control::store::NewUsage;
use keywheel_keyring::Millis;
use keywheel_keyring::usage::{Batch, Count};
use serde_json::{Value, json};

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A batch of a VM up to `to`, which arrives then.
async fn report(plane: &Plane, vm: &str, number: u64, to: u64, used: Option<&str>) {
    counted(plane, vm, number, to, used, "valid").await;
}

async fn counted(plane: &Plane, vm: &str, number: u64, to: u64, used: Option<&str>, outcome: &str) {
    let count = |version: &str| Count {
        version: version.into(),
        outcome: outcome.into(),
        minute: Millis(to - to % MINUTE),
        count: 1,
    };
    let batch = Batch {
        node: "edge".into(),
        instance: "0a".into(),
        vm: vm.into(),
        batch: number,
        from: Millis(to - MINUTE),
        to: Millis(to),
        counts: used.map(count).into_iter().collect(),
    };
    let ring = plane.control.ring("production").unwrap().record.id;
    let report = NewUsage { ring, batches: vec![batch], now: Millis(to) };
    plane.store().record_usage(report).await.unwrap();
}

async fn start(plane: &Plane) -> (Key, Rotation) {
    let terms = json!({
        "overlap_seconds": 24 * 3600, "retire": "when_unused", "quiet_period_seconds": 2 * 3600,
    });
    policy_of_acme(plane, terms).await;
    let key = plane.key().await;
    let body = json!({ "version": new_version() });
    let path = format!("/v1/keys/{}/rotations", key.id);
    (key.clone(), plane.post(&path, body).await.json(StatusCode::CREATED))
}

async fn show(plane: &Plane, rotation: &Rotation) -> Rotation {
    plane.get(&format!("/v1/rotations/{}", rotation.id)).await.json(StatusCode::OK)
}

async fn audit_of(plane: &Plane, action: &str) -> Value {
    let page: Value = plane.get("/v1/audit").await.json(StatusCode::OK);
    let record = page["items"].as_array().unwrap().iter().find(|record| record["action"] == action);
    serde_json::from_str(record.unwrap()["after"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn an_old_version_that_nobody_uses_drains_and_ends_with_its_reasons() {
    let plane = plane().await;
    let (key, rotation) = start(&plane).await;
    let begun = time::millis(rotation.begins_at).unwrap().0;
    report(&plane, "1", 1, begun + 10 * MINUTE, Some(&rotation.old_version)).await;
    report(&plane, "1", 2, begun + 2 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 2 * HOUR)).await.unwrap();
    let waiting = show(&plane, &rotation).await;
    assert_eq!(waiting.state, RotationState::Overlapping);
    assert!(matches!(waiting.waits_for[..], [WaitsFor::Used { .. }]), "{:?}", waiting.waits_for);

    let head = plane.head();
    report(&plane, "1", 3, begun + 3 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 3 * HOUR)).await.unwrap();
    let draining = show(&plane, &rotation).await;
    assert_eq!(draining.state, RotationState::Draining);
    assert_eq!(time::millis(draining.overlap_ends_at).unwrap().0, begun + 3 * HOUR + 2 * MINUTE);
    let evidence = draining.evidence.unwrap();
    assert_eq!((draining.deadline, evidence.vms), (rotation.deadline, 1));
    assert_eq!(evidence.reported.len(), 1, "who was silent is named");
    assert_eq!(evidence.reported[0].at, evidence.quiet_to);
    let entry = plane.changes(head).await.entries.remove(0);
    assert_eq!(
        (entry.state, entry.expires_at),
        (State::Retiring, Some(Millis(begun + 3 * HOUR + 2 * MINUTE)))
    );

    catch_up(plane.store(), Millis(begun + 3 * HOUR + 2 * MINUTE)).await.unwrap();
    let done = show(&plane, &rotation).await;
    assert_eq!((done.state, done.ended_by), (RotationState::Completed, Some(RotationEnd::Unused)));
    assert_eq!(plane.show(&key).await.versions[0].state, State::Retired);
    let recorded = audit_of(&plane, "rotation.complete").await;
    assert_eq!(recorded["rotation"]["evidence"]["vms"], 1, "{recorded}");
}

#[tokio::test]
async fn use_while_it_drains_takes_the_early_end_back() {
    let plane = plane().await;
    let (key, rotation) = start(&plane).await;
    let begun = time::millis(rotation.begins_at).unwrap().0;
    report(&plane, "1", 1, begun + 3 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 3 * HOUR)).await.unwrap();
    assert_eq!(show(&plane, &rotation).await.state, RotationState::Draining);
    report(&plane, "1", 2, begun + 3 * HOUR + MINUTE, Some(&rotation.old_version)).await;
    catch_up(plane.store(), Millis(begun + 3 * HOUR + MINUTE)).await.unwrap();
    let back = show(&plane, &rotation).await;
    assert_eq!((back.state, back.overlap_ends_at), (RotationState::Overlapping, rotation.deadline));
    assert_eq!(back.evidence, None);
    assert_eq!(plane.show(&key).await.versions[0].expires_at, Some(rotation.deadline));
}

#[tokio::test]
async fn who_is_refused_in_a_brownout_still_uses_it_and_a_gap_proves_nothing() {
    let plane = plane().await;
    let (_, rotation) = start(&plane).await;
    let begun = time::millis(rotation.begins_at).unwrap().0;
    counted(&plane, "1", 1, begun + 3 * HOUR, Some(&rotation.old_version), "key_brownout").await;
    report(&plane, "2", 1, begun + 2 * HOUR, None).await;
    report(&plane, "2", 3, begun + 3 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 3 * HOUR)).await.unwrap();
    let waiting = show(&plane, &rotation).await;
    assert_eq!(waiting.state, RotationState::Overlapping);
    let [WaitsFor::Used { .. }, WaitsFor::Gap { vms: 1, first }] = &waiting.waits_for[..] else {
        panic!("{:?}", waiting.waits_for)
    };
    assert_eq!((first.vm.as_str(), first.node.as_str()), ("2", "edge"));
}

#[tokio::test]
async fn a_rotation_keeps_the_terms_that_it_began_with() {
    let plane = plane().await;
    let (_, rotation) = start(&plane).await;
    let terms = json!({ "overlap_seconds": 60 }).to_string();
    assert_eq!(plane.admin("PUT", "/v1/policies/ours", terms).await.status, StatusCode::OK);
    catch_up(plane.store(), context().now).await.unwrap();
    assert_eq!(show(&plane, &rotation).await, rotation);
}

#[tokio::test]
async fn without_reports_it_waits_for_its_deadline() {
    let plane = plane().await;
    let (_, rotation) = start(&plane).await;
    let deadline = time::millis(rotation.deadline).unwrap().0;
    catch_up(plane.store(), Millis(deadline - 1)).await.unwrap();
    let waiting = show(&plane, &rotation).await;
    assert_eq!(
        (waiting.state, &waiting.waits_for[..]),
        (RotationState::Overlapping, &[WaitsFor::NoReports][..])
    );
    catch_up(plane.store(), Millis(deadline)).await.unwrap();
    let done = show(&plane, &rotation).await;
    assert_eq!(
        (done.ended_by, &done.waits_for[..]),
        (Some(RotationEnd::Deadline), &[WaitsFor::NoReports][..])
    );
    assert!(deadline > context().now.0);
}
