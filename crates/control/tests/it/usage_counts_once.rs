use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::{Key, KeyUsage, Ring};
use keywheel_control::jobs::purge::forget_usage;
use keywheel_control::{RingAuth, app};
use keywheel_keyring::Millis;
use keywheel_keyring::usage::{MAX_BATCHES, MAX_REPORT, MINUTE};
use serde_json::{Value, json};

use crate::support::{Plane, call, context, plane, plane_with};

/// The minute at hand.
fn minute() -> u64 {
    let now = context().now.0;
    now - now % MINUTE
}

fn batch(vm: &str, number: u64, counts: Value) -> Value {
    let to = context().now.0;
    let from = to - 1000;
    json!({
        "node": "edge", "instance": "0a", "vm": vm, "batch": number, "from": from, "to": to, "counts": counts,
        "a field of a newer filter": 1,
    })
}

fn count(version: &str, outcome: &str, count: u64) -> Value {
    json!({ "version": version, "outcome": outcome, "minute": minute(), "count": count })
}

fn version(key: &Key) -> &str {
    &key.versions[0].id
}

async fn usage(plane: &Plane, key: &Key) -> KeyUsage {
    plane.get(&format!("/v1/keys/{}/usage", key.id)).await.json(StatusCode::OK)
}

/// The sum of a key's counts with one outcome.
async fn sum(plane: &Plane, key: &Key, outcome: &str) -> u64 {
    let hours = usage(plane, key).await.hours;
    hours.iter().filter(|hour| hour.outcome == outcome).map(|hour| hour.count).sum()
}

async fn stored(plane: &Plane, batches: Value) {
    let answer = plane.report(batches).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.body, b"");
}

#[tokio::test]
async fn what_is_sent_again_counts_once() {
    let plane = plane().await;
    let key = plane.key().await;
    assert_eq!(plane.show(&key).await.versions[0].last_used_at, None);
    let revision = plane.head();

    let first =
        batch("1", 1, json!([count(version(&key), "valid", 5), count(version(&key), "key_expired", 2)]));
    let second = batch("1", 2, json!([count(version(&key), "valid", 7)]));
    stored(&plane, json!([second, first])).await;
    stored(&plane, json!([first])).await;
    stored(&plane, json!([first, second, batch("1", 3, json!([]))])).await;
    stored(&plane, json!([])).await;
    let plane = plane.restart().await;
    stored(&plane, json!([second])).await;

    assert_eq!((sum(&plane, &key, "valid").await, sum(&plane, &key, "key_expired").await), (12, 2));
    let usage = usage(&plane, &key).await;
    assert_eq!((usage.vms, usage.reporting.len()), (1, 1));
    let vm = &usage.reporting[0];
    assert_eq!((vm.node.as_str(), vm.vm.as_str(), vm.missing, vm.missing_since), ("edge", "1", 0, None));
    assert!(vm.covered_from < vm.covered_to && vm.covered_to <= vm.received_at);
    let last = plane.show(&key).await.versions[0].last_used_at.unwrap();
    assert_eq!(last.as_second() % 60, 0);
    assert_eq!(last, usage.hours.iter().find(|hour| hour.outcome == "valid").unwrap().last_minute);
    assert_eq!(plane.head(), revision, "a count is no change of the ring");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_come_at_once_are_all_counted() {
    let plane = Arc::new(plane().await);
    let key = plane.key().await;
    let report = |n: u64| {
        let (plane, version) = (plane.clone(), version(&key).to_owned());
        let batches = json!([batch(&format!("{n:x}"), 1, json!([count(&version, "valid", 1)]))]);
        tokio::spawn(async move { stored(&plane, batches).await })
    };
    for done in (0..200).map(report).collect::<Vec<_>>() {
        done.await.unwrap();
    }
    assert_eq!(sum(&plane, &key, "valid").await, 200);
    let ring: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
    assert_eq!(ring.usage.reports, 200);
}

#[tokio::test]
async fn a_gap_and_a_vm_met_in_its_middle_are_recorded() {
    let plane = plane().await;
    let key = plane.key().await;
    for (vm, number) in [("1", 1), ("1", 4), ("2", 3), ("3", 1)] {
        stored(&plane, json!([batch(vm, number, json!([count(version(&key), "valid", 1)]))])).await;
    }
    let usage = usage(&plane, &key).await;
    let missing: Vec<_> = usage.reporting.iter().map(|vm| (vm.vm.as_str(), vm.missing)).collect();
    assert_eq!(missing, [("1", 2), ("2", 2), ("3", 0)], "those with gaps come first");
    assert!(usage.reporting[0].missing_since.is_some());
    assert_eq!(sum(&plane, &key, "valid").await, 4, "what came is counted");
}

#[tokio::test]
async fn a_bad_batch_does_not_hold_up_the_good_ones() {
    let plane = plane().await;
    let key = plane.key().await;
    let mut unnamed = batch("1", 1, json!([]));
    unnamed["node"] = "a\nb".into();
    let half = json!([count(version(&key), "valid", 1), count(version(&key), "Valid!", 1)]);
    let bad = [unnamed, batch("1", 0, json!([])), batch("1", 1, half), json!({ "node": "edge" }), json!(7)];
    let good = batch("2", 1, json!([count(version(&key), "valid", 3)]));
    stored(&plane, json!([bad[0], bad[1], good, bad[2]])).await;
    stored(&plane, json!([bad[3], batch("2", 2, json!([count(version(&key), "valid", 1)])), bad[4]])).await;
    assert_eq!(sum(&plane, &key, "valid").await, 4, "of a bad batch nothing counts");
    let ring: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
    assert_eq!((ring.usage.reports, ring.usage.refused_batches), (2, 5));
}

#[tokio::test]
async fn nobody_fills_the_database_with_names_of_their_own() {
    let plane = plane().await;
    let key = plane.key().await;
    let counts = json!([
        count("kv_invented", "valid", 9),
        count(version(&key), "invented", 1),
        count(version(&key), "invented_too", 1),
    ]);
    stored(&plane, json!([batch("1", 1, counts)])).await;
    let hours = usage(&plane, &key).await.hours;
    let rows: Vec<_> = hours.iter().map(|hour| (hour.outcome.as_str(), hour.count)).collect();
    assert_eq!(rows, [("other", 2)]);
    let database = plane.database().await;
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM usage_hours").fetch_one(&database).await.unwrap();
    assert_eq!(rows, 1);
    let ring: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
    assert_eq!(ring.usage.unknown_counts, 1);
    assert_eq!(plane.show(&key).await.versions[0].last_used_at, None, "`other` is no use");
}

#[tokio::test]
async fn counts_and_batch_numbers_have_no_end_that_breaks_the_store() {
    let plane = plane().await;
    let key = plane.key().await;
    for number in [1, u64::MAX, u64::MAX] {
        let mut last = batch("1", number, json!([count(version(&key), "valid", u64::MAX)]));
        (last["from"], last["to"]) = (0.into(), u64::MAX.into());
        stored(&plane, json!([last])).await;
    }
    assert_eq!(sum(&plane, &key, "valid").await, (1 << 53) - 1);
}

#[tokio::test]
async fn what_is_no_report_is_refused() {
    let plane = plane().await;
    for body in ["", "[]", "{}", r#"{"batches":7}"#, "\u{1}"] {
        plane.report_to("production", body.into()).await.problem("invalid-request");
    }
    let many = Value::Array(vec![batch("1", 1, json!([])); MAX_BATCHES + 1]);
    let problem = plane.report(many).await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "batches");
    let long = plane.report_to("production", " ".repeat(MAX_REPORT + 1)).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(long.problem("body-too-large").detail.contains("2097152"));
    let empty = r#"{"batches":[]}"#;
    let full = format!("{empty}{}", " ".repeat(MAX_REPORT - empty.len()));
    assert_eq!(plane.report_to("production", full).await.status, StatusCode::NO_CONTENT);
    let elsewhere = plane.report_to("staging", r#"{"batches":[]}"#.into()).await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    elsewhere.problem("not-found");
    let get = plane.ring("usage").await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_report_needs_a_token_where_the_ring_does() {
    let plane = plane_with(RingAuth::Token).await;
    plane.report(json!([])).await.problem("unauthorized");
    let request = Request::builder().method("POST").uri("/v1/rings/production/usage");
    let request = request.header("authorization", format!("Bearer {}", plane.token));
    let request = request.body(Body::from(r#"{"batches":[]}"#)).unwrap();
    assert_eq!(call(app::ring(plane.control.clone()), request).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_span_is_asked_for_and_has_its_rules() {
    let plane = plane().await;
    let key = plane.key().await;
    let day = 24 * 60 * MINUTE;
    let yesterday = json!({
        "version": version(&key), "outcome": "valid", "minute": minute() - day, "count": 1,
    });
    stored(&plane, json!([batch("1", 1, json!([yesterday, count(version(&key), "valid", 10)]))])).await;
    assert_eq!(sum(&plane, &key, "valid").await, 11);

    let ask = async |query: String| plane.get(&format!("/v1/keys/{}/usage?{query}", key.id)).await;
    let at = |ago: u64| keywheel_api::time::timestamp(Millis(context().now.0 - ago));
    let lately: KeyUsage = ask(format!("from={}", at(day / 2))).await.json(StatusCode::OK);
    assert_eq!(lately.hours.iter().map(|hour| hour.count).collect::<Vec<_>>(), [10]);
    let before: KeyUsage = ask(format!("from={}&to={}", at(2 * day), at(day / 2))).await.json(StatusCode::OK);
    assert_eq!(before.hours.iter().map(|hour| hour.count).collect::<Vec<_>>(), [1]);
    for bad in [
        "from=yesterday".into(),
        format!("from={}", at(91 * day)),
        format!("to={}&from={0}", at(1)),
        "x=1".into(),
    ] {
        ask(bad).await.problem("invalid-request");
    }
    plane.get("/v1/keys/key_none/usage").await.problem("not-found");
}

#[tokio::test]
async fn old_counts_and_silent_vms_are_forgotten_and_the_last_use_is_not() {
    let plane = plane().await;
    let key = plane.key().await;
    stored(&plane, json!([batch("1", 1, json!([count(version(&key), "valid", 1)]))])).await;
    let days =
        |days: u64| Millis(context().now.0 + Duration::from_secs(days * 24 * 60 * 60).as_millis() as u64);
    assert_eq!(forget_usage(plane.store(), days(29)).await.unwrap(), (0, 0));
    assert_eq!(forget_usage(plane.store(), days(31)).await.unwrap(), (0, 1));
    assert_eq!(forget_usage(plane.store(), days(91)).await.unwrap(), (1, 0));
    assert_eq!(usage(&plane, &key).await.hours, []);
    assert!(plane.show(&key).await.versions[0].last_used_at.is_some());
}
