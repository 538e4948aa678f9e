use axum::http::StatusCode;
use keywheel_api::{
    Campaign, CampaignKey, CampaignKeyState, CampaignProgress, CampaignState, HaltReason, Key, List, State,
};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_keyring::Millis;
use serde_json::{Value, json};

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const HOUR: u64 = 60 * 60 * 1000;

async fn run(plane: &Plane, at: u64) {
    catch_up(plane.store(), Millis(at)).await.unwrap();
}

/// A campaign `q4` of so many keys, each with its deposit, a key in a wave.
async fn campaign(plane: &Plane, keys: usize, stop: Value) -> Vec<Key> {
    policy_of_acme(plane, json!({ "overlap_seconds": 864_000 })).await;
    let mut made = Vec::new();
    for _ in 0..keys {
        made.push(plane.key().await);
    }
    made.sort_by(|a, b| a.id.cmp(&b.id));
    let new = json!({ "name": "q4", "wave": { "keys": 1 }, "stop": stop });
    plane.post("/v1/campaigns", new).await.json::<Campaign>(StatusCode::CREATED);
    for key in &made {
        let body = json!({ "version": new_version() });
        plane.post(&format!("/v1/keys/{}/next", key.id), body).await.json::<Key>(StatusCode::OK);
    }
    made
}

async fn progress(plane: &Plane) -> CampaignProgress {
    plane.get("/v1/campaigns/q4").await.json(StatusCode::OK)
}

async fn state(plane: &Plane) -> (CampaignState, u64) {
    let campaign = progress(plane).await.campaign;
    (campaign.state, campaign.waves)
}

async fn turn(plane: &Plane, what: &str) -> Campaign {
    plane.post(&format!("/v1/campaigns/q4/{what}"), json!(null)).await.json(StatusCode::OK)
}

async fn members(plane: &Plane) -> Vec<CampaignKey> {
    let page: List<CampaignKey> = plane.get("/v1/campaigns/q4/keys").await.json(StatusCode::OK);
    page.items
}

async fn roll_back(plane: &Plane, member: &CampaignKey) {
    let path = format!("/v1/rotations/{}/rollback", member.rotation.as_ref().unwrap());
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK);
}

async fn actions(plane: &Plane) -> Vec<String> {
    let records = plane.store().audit_records(0, 500).await.unwrap();
    let actions = records.into_iter().map(|record| record.event.action);
    actions.filter(|action| action.starts_with("campaign.")).collect()
}

#[tokio::test]
async fn a_rollback_halts_it_until_it_is_resumed() {
    let plane = plane().await;
    campaign(&plane, 4, json!({ "max_rolled_back": 0 })).await;
    let start = context().now.0;
    run(&plane, start).await;
    roll_back(&plane, &members(&plane).await[0]).await;
    assert_eq!(members(&plane).await[0].state, CampaignKeyState::RolledBack);
    run(&plane, start + HOUR).await;
    let halted = progress(&plane).await.campaign;
    assert_eq!((halted.state, halted.waves), (CampaignState::Halted, 1));
    assert_eq!(halted.halted_by, Some(HaltReason::RolledBack { rotations: 1, allowed: 0 }));
    run(&plane, start + 9 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Halted, 1), "nothing but a word lets it go on");
    plane.post("/v1/campaigns/q4/pause", json!(null)).await.problem("campaign-state");

    assert_eq!(turn(&plane, "resume").await.halted_by, None);
    run(&plane, start + 9 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2), "what was rolled back before is forgiven");
    roll_back(&plane, &members(&plane).await[1]).await;
    run(&plane, start + 10 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Halted, 2));
    let wanted = ["create", "wave", "halt", "resume", "wave", "halt"].map(|what| format!("campaign.{what}"));
    assert_eq!(actions(&plane).await, wanted);
}

#[tokio::test]
async fn as_many_rollbacks_as_are_allowed_do_not_halt_it() {
    let plane = plane().await;
    campaign(&plane, 3, json!({ "max_rolled_back": 1 })).await;
    let start = context().now.0;
    run(&plane, start).await;
    roll_back(&plane, &members(&plane).await[0]).await;
    run(&plane, start + HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2));
}

#[tokio::test]
async fn refused_requests_halt_it_beyond_their_share() {
    let plane = plane().await;
    let keys = campaign(&plane, 3, json!({ "max_refused_share": 0.1 })).await;
    let start = context().now.0;
    run(&plane, start).await;
    let old = &keys[0].versions[0].id;
    let report = async |batch: u64, valid: u64, refused: u64| {
        let now = context().now.0;
        let count = |outcome: &str, count: u64| json!({ "version": old, "outcome": outcome, "minute": now - now % 60_000, "count": count });
        // A brown-out refuses on purpose.
        let counts = [count("valid", valid), count("key_retired", refused), count("key_brownout", 500)];
        let batch = json!({ "node": "edge", "instance": "0a", "vm": "1", "batch": batch, "from": now - 1000,
                            "to": now, "counts": counts });
        assert_eq!(plane.report(json!([batch])).await.status, StatusCode::NO_CONTENT);
    };
    report(1, 400, 100).await;
    run(&plane, start + HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2), "a tenth, and not more");
    report(2, 1, 100).await;
    run(&plane, start + 2 * HOUR).await;
    let halted = progress(&plane).await.campaign;
    let reason = HaltReason::Refused { refused: 200, requests: 1601, allowed: 0.1 };
    assert_eq!((halted.state, halted.halted_by), (CampaignState::Halted, Some(reason)));
    turn(&plane, "resume").await;
    run(&plane, start + 3 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 3));
}

#[tokio::test]
async fn proxies_that_lag_hold_the_next_wave_up() {
    let plane = plane().await;
    campaign(&plane, 2, json!({})).await;
    let says = async |enforced: u64| {
        let epoch = plane.epoch();
        let header = format!(
            "node=edge&instance=a1&filter=0.1.0&vms=3&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        plane.ring_as(&format!("changes?epoch={epoch}&since=0"), &header).await;
        plane.control.ring("production").unwrap().proxies.write(true).await.unwrap();
    };
    says(0).await;
    let start = context().now.0;
    run(&plane, start).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 1), "there is no wave before the first");
    says(plane.head() - 1).await;
    run(&plane, start + HOUR).await;
    let waits = progress(&plane).await;
    // Looked at by the clock of the test, and shown by that of the server.
    assert_eq!((waits.campaign.state, waits.campaign.waves), (CampaignState::Running, 1));
    says(plane.head()).await;
    run(&plane, start + HOUR).await;
    assert_eq!(state(&plane).await.1, 1, "it is looked at again after a while");
    run(&plane, start + HOUR + 30_000).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2));
}

#[tokio::test]
async fn who_does_not_wait_for_proxies_goes_on() {
    let plane = plane().await;
    campaign(&plane, 2, json!({ "wait_for_proxies": false })).await;
    let epoch = plane.epoch();
    let header = format!("node=edge&instance=a1&filter=0.1.0&vms=3&epoch={epoch}&stored=0&enforced=0&age=0");
    plane.ring_as(&format!("changes?epoch={epoch}&since=0"), &header).await;
    let start = context().now.0;
    run(&plane, start).await;
    run(&plane, start + HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2));
}

#[tokio::test]
async fn paused_it_starts_nothing_and_cancelled_it_never_will() {
    let plane = plane().await;
    let keys = campaign(&plane, 3, json!({})).await;
    let start = context().now.0;
    run(&plane, start).await;
    turn(&plane, "pause").await;
    assert_eq!(turn(&plane, "pause").await.state, CampaignState::Paused, "twice is once");
    let plane = plane.restart().await;
    run(&plane, start + 5 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Paused, 1));
    turn(&plane, "resume").await;
    run(&plane, start + 5 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Running, 2), "one wave, not those that it missed");

    let cancelled = turn(&plane, "cancel").await;
    assert!(cancelled.ended_at.is_some());
    run(&plane, start + 9 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::Cancelled, 2));
    assert_eq!(progress(&plane).await.keys.rotating, 2, "they go on");
    plane.post("/v1/campaigns/q4/resume", json!(null)).await.problem("campaign-state");
    run(&plane, start + 300 * HOUR).await;
    assert_eq!(progress(&plane).await.keys.done, 2);
    let body = json!({ "version": new_version() });
    let refused = plane.post(&format!("/v1/keys/{}/next", keys[2].id), body).await;
    refused.problem("not-by-policy");
    let wanted =
        ["create", "wave", "pause", "resume", "wave", "cancel"].map(|what| format!("campaign.{what}"));
    assert_eq!(actions(&plane).await, wanted);
}

#[tokio::test]
async fn rolled_back_everything_that_overlaps_is_as_it_was() {
    let plane = plane().await;
    let keys = campaign(&plane, 4, json!({})).await;
    let own = plane.rotate(&keys[3], 864_000).await;
    let start = context().now.0;
    run(&plane, start).await;
    run(&plane, start + HOUR).await;
    assert_eq!(turn(&plane, "rollback").await.state, CampaignState::RollingBack);
    let plane = plane.restart().await;
    run(&plane, start + HOUR).await;
    let over = progress(&plane).await;
    assert_eq!(over.campaign.state, CampaignState::RolledBack);
    assert_eq!((over.keys.rolled_back, over.keys.waiting, over.keys.rotating), (2, 1, 1));
    for key in &keys[..2] {
        let states: Vec<_> = plane.show(key).await.versions.iter().map(|version| version.state).collect();
        assert_eq!(states, [State::Active, State::Retiring]);
    }
    let shown = plane.show(&keys[3]).await;
    assert_eq!(shown.open_rotation.as_deref(), Some(own.id.as_str()), "it was not the campaign's");
    run(&plane, start + 9 * HOUR).await;
    assert_eq!(state(&plane).await, (CampaignState::RolledBack, 2));
    assert_eq!(turn(&plane, "rollback").await.state, CampaignState::RolledBack, "twice is once");
    plane.post("/v1/campaigns/q4/cancel", json!(null)).await.problem("campaign-state");
    let wanted = ["create", "wave", "wave", "rollback", "rolled-back"].map(|what| format!("campaign.{what}"));
    assert_eq!(actions(&plane).await, wanted);
}

/// A request keeps its rules, and each refusal names field and rule.
#[tokio::test]
async fn a_bad_campaign_names_field_and_rule() {
    let plane = plane().await;
    plane.key().await;
    let good = json!({ "name": "q4", "wave": { "keys": 1 }, "overlap_seconds": 60 });
    for (field, change) in [
        ("name", json!({ "name": "a b" })),
        ("name", json!({ "name": "preview" })),
        ("wave.keys", json!({ "wave": { "keys": 0 } })),
        ("wave.keys", json!({ "wave": { "keys": 10_001 } })),
        ("wave.percent", json!({ "wave": { "percent": 101 } })),
        ("wave", json!({ "wave": { "share": 1 } })),
        ("pause_seconds", json!({ "pause_seconds": 7_776_001 })),
        ("not_before", json!({ "not_before": "9998-01-01T00:00:00Z" })),
        ("overlap_seconds", json!({ "overlap_seconds": 7_776_001 })),
        ("stop.max_rolled_back", json!({ "stop": { "max_rolled_back": 100_001 } })),
        ("stop.max_refused_share", json!({ "stop": { "max_refused_share": 1.5 } })),
        ("stop.max_rolled_back", json!({ "stop": { "max_rolled_back": -1 } })),
        ("select.clients", json!({ "select": { "clients": ["a b"] } })),
        ("select.clients", json!({ "select": { "clients": vec!["a"; 101] } })),
        ("select.labels", json!({ "select": { "labels": { "a b": null } } })),
        ("select.older_than_seconds", json!({ "select": { "older_than_seconds": 315_360_001_u64 } })),
        ("select.scope", json!({ "select": { "scope": "a\"b" } })),
        ("select.age", json!({ "select": { "age": 1 } })),
        ("ring", json!({ "ring": "a b" })),
        ("select", json!({ "select": { "scope": "none" } })),
    ] {
        let mut new = good.clone();
        new.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = plane.post("/v1/campaigns", new).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{change}");
        let problem = answer.problem("invalid-request");
        assert_eq!(problem.errors.len(), 1, "{problem:?}");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
        assert!(!problem.errors[0].rule.is_empty());
    }
    let mut elsewhere = good.clone();
    elsewhere["ring"] = json!("nowhere");
    plane.post("/v1/campaigns", elsewhere).await.problem("not-found");

    let made: Campaign = plane.post("/v1/campaigns", good.clone()).await.json(StatusCode::CREATED);
    let again: Campaign = plane.post("/v1/campaigns", good.clone()).await.json(StatusCode::OK);
    assert_eq!(made, again, "twice is once");
    let mut other = good;
    other["pause_seconds"] = json!(5);
    plane.post("/v1/campaigns", other).await.problem("campaign-exists");
    for path in ["/v1/campaigns/none", "/v1/campaigns/none/keys"] {
        plane.get(path).await.problem("not-found");
    }
    let problem = plane.get("/v1/campaigns/q4/keys?state=lost").await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "state");
}
