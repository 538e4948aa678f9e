use axum::http::StatusCode;
use keywheel_api::{
    Campaign, CampaignKey, CampaignKeyState, CampaignKeys, CampaignPreview, CampaignProgress, CampaignState,
    CampaignWait, Key, List, Notice, NoticeKind, RotationState, SkipReason, State, time,
};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_control::secret::random;
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::{Value, json};

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

async fn run(plane: &Plane, at: u64) {
    catch_up(plane.store(), Millis(at)).await.unwrap();
}

/// Keys whose policy says how long an overlap is, and nothing of when they rotate.
async fn keys(plane: &Plane, count: usize) -> Vec<Key> {
    policy_of_acme(plane, json!({ "overlap_seconds": 86_400 })).await;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(plane.key().await);
    }
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    keys
}

async fn deposit(plane: &Plane, key: &Key) {
    let body = json!({ "version": new_version() });
    let answer = plane.post(&format!("/v1/keys/{}/next", key.id), body).await;
    answer.json::<Key>(StatusCode::OK);
}

async fn campaign(plane: &Plane, new: Value) -> Campaign {
    plane.post("/v1/campaigns", new).await.json(StatusCode::CREATED)
}

async fn progress(plane: &Plane) -> CampaignProgress {
    plane.get("/v1/campaigns/q4").await.json(StatusCode::OK)
}

async fn members(plane: &Plane, query: &str) -> Vec<CampaignKey> {
    let page: List<CampaignKey> =
        plane.get(&format!("/v1/campaigns/q4/keys{query}")).await.json(StatusCode::OK);
    page.items
}

fn counts(keys: CampaignKeys) -> [u64; 6] {
    [keys.waiting_for_deposit, keys.waiting, keys.rotating, keys.done, keys.rolled_back, keys.skipped]
}

async fn audited(plane: &Plane, action: &str) -> Vec<Value> {
    let records = plane.store().audit_records(0, 500).await.unwrap();
    let records = records.into_iter().filter(|record| record.event.action == action);
    records.map(|record| serde_json::from_str(&record.event.after.unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn each_wave_comes_a_pause_after_the_last_one() {
    let plane = plane().await;
    let keys = keys(&plane, 5).await;
    let made = campaign(&plane, json!({ "name": "q4", "wave": { "percent": 40 } })).await;
    assert_eq!((made.selected, made.keys_per_wave, made.waves), (5, 2, 0));
    for key in &keys {
        deposit(&plane, key).await;
    }
    let head = plane.head();
    let start = context().now.0;
    run(&plane, start).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 3, 2, 0, 0, 0]);
    assert_eq!(plane.head(), head + 4, "two rotations, of two versions each");
    run(&plane, start + HOUR - 1).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 3, 2, 0, 0, 0]);
    run(&plane, start + HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 1, 4, 0, 0, 0]);
    assert_eq!(
        plane.store().next_deadline(Millis(start + HOUR)).await.unwrap(),
        Some(Millis(start + 2 * HOUR))
    );
    run(&plane, start + 2 * HOUR).await;
    let all = progress(&plane).await;
    assert_eq!(counts(all.keys), [0, 0, 5, 0, 0, 0]);
    assert_eq!(all.waits_for, Some(CampaignWait::Overlaps));
    assert_eq!(all.latest_waves.iter().map(|wave| wave.keys.rotating).collect::<Vec<_>>(), [2, 2, 1]);
    let shown = plane.show(&keys[0]).await;
    let rotation: keywheel_api::Rotation =
        plane.get(&format!("/v1/rotations/{}", shown.open_rotation.unwrap())).await.json(StatusCode::OK);
    assert_eq!((rotation.state, rotation.automatic), (RotationState::Overlapping, false));
    assert_eq!(time::millis(rotation.overlap_ends_at).unwrap().0, start + DAY, "what its policy says");

    run(&plane, start + DAY + HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 0, 1, 4, 0, 0]);
    run(&plane, start + DAY + 2 * HOUR).await;
    let all = progress(&plane).await;
    assert_eq!((counts(all.keys), all.campaign.state), ([0, 0, 0, 5, 0, 0], CampaignState::Completed));
    assert!(all.campaign.ended_at.is_some() && all.waits_for.is_none());

    let waves = audited(&plane, "campaign.wave").await;
    assert_eq!(waves.len(), 3);
    let first = json!({ "wave": 1, "keys": 2, "first_keys": [keys[0].id, keys[1].id] });
    assert_eq!(waves[0], first);
    assert_eq!(audited(&plane, "campaign.complete").await.len(), 1);
    assert_eq!(audited(&plane, "rotation.start").await.len(), 5);
}

#[tokio::test]
async fn what_was_missed_is_no_burst() {
    let plane = plane().await;
    let keys = keys(&plane, 4).await;
    let begins = context().now.0 + DAY;
    let at = time::timestamp(Millis(begins));
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 1 }, "not_before": at })).await;
    for key in &keys {
        deposit(&plane, key).await;
    }
    run(&plane, begins - 1).await;
    let waits = progress(&plane).await;
    assert_eq!((waits.campaign.waves, waits.waits_for), (0, Some(CampaignWait::Pause { until: at })));
    let plane = plane.restart().await;
    // Nothing ran for three hours.
    let late = begins + 3 * HOUR;
    run(&plane, late).await;
    assert_eq!(progress(&plane).await.campaign.waves, 1);
    run(&plane, late + HOUR - 1).await;
    assert_eq!(progress(&plane).await.campaign.waves, 1);
    run(&plane, late + HOUR).await;
    assert_eq!(progress(&plane).await.campaign.waves, 2);
    // A clock that is set back starts none twice, and none early.
    run(&plane, begins).await;
    assert_eq!(progress(&plane).await.campaign.waves, 2);
}

#[tokio::test]
async fn a_key_without_a_deposit_is_announced_and_rotates_in_a_later_wave() {
    let plane = plane().await;
    let keys = keys(&plane, 3).await;
    let body = json!({ "version": new_version() });
    plane.post(&format!("/v1/keys/{}/next", keys[0].id), body).await.problem("not-by-policy");
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 2 } })).await;
    let notices: List<Notice> = plane.get("/v1/notices").await.json(StatusCode::OK);
    let wanted: Vec<_> = notices.items.iter().map(|notice| (notice.kind, notice.key.as_str())).collect();
    assert_eq!(
        wanted,
        keys.iter().map(|key| (NoticeKind::DepositWanted, key.id.as_str())).collect::<Vec<_>>()
    );

    let start = context().now.0;
    run(&plane, start).await;
    let waits = progress(&plane).await;
    assert_eq!((waits.campaign.waves, waits.waits_for), (0, Some(CampaignWait::Deposits)));
    // The last one does not wait for the first ones.
    deposit(&plane, &keys[2]).await;
    run(&plane, start + 60_000).await;
    assert_eq!(counts(progress(&plane).await.keys), [2, 0, 1, 0, 0, 0]);
    let waiting = members(&plane, "?state=waiting_for_deposit").await;
    assert_eq!(waiting.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(), [&keys[0].id, &keys[1].id]);
    deposit(&plane, &keys[0]).await;
    run(&plane, start + 60_000 + HOUR - 1).await;
    assert_eq!(counts(progress(&plane).await.keys), [1, 1, 1, 0, 0, 0]);
    run(&plane, start + 60_000 + HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [1, 0, 2, 0, 0, 0]);
    assert_eq!(members(&plane, "?state=rotating").await[0].wave, Some(2));
}

#[tokio::test]
async fn who_rotates_by_himself_is_done_by_that() {
    let plane = plane().await;
    let keys = keys(&plane, 2).await;
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 1 } })).await;
    let rotation = plane.rotate(&keys[1], 3600).await;
    let member = &members(&plane, "").await[1];
    assert_eq!((member.state, member.wave), (CampaignKeyState::Rotating, None));
    assert_eq!(member.rotation.as_deref(), Some(rotation.id.as_str()));
    // Taken back it counts for nothing: the key waits again, and nothing halts.
    plane.post(&format!("/v1/rotations/{}/rollback", rotation.id), json!({})).await;
    assert_eq!(counts(progress(&plane).await.keys), [2, 0, 0, 0, 0, 0]);
    plane.rotate(&keys[1], 0).await;
    assert_eq!(counts(progress(&plane).await.keys), [1, 0, 0, 1, 0, 0]);
    deposit(&plane, &keys[0]).await;
    run(&plane, context().now.0).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 0, 1, 1, 0, 0]);
}

/// More keys than one transaction takes.
#[tokio::test]
async fn a_wave_goes_on_where_it_was_cut_off() {
    const KEYS: u64 = 120;
    let plane = plane().await;
    plane.import((0..KEYS).map(|n| Digest::of(&n.to_be_bytes()))).await;
    campaign(&plane, json!({ "name": "q4", "wave": { "percent": 100 }, "overlap_seconds": 60 })).await;
    for member in members(&plane, "").await {
        let (id, digest) = (VersionId::from_random(random().unwrap()), Digest::from_bytes(random().unwrap()));
        plane.store().deposit(&context(), &member.key, &id, digest).await.unwrap();
    }
    let later = context();
    let mut rotating = Vec::new();
    // The wave is chosen, then started in parts.
    for _ in 0..2 {
        plane.store().carry_out_one_due(&later).await.unwrap().unwrap();
        rotating.push(progress(&plane).await.keys.rotating);
    }
    assert!(rotating[0] == 0 && rotating[1] > 0 && rotating[1] < KEYS, "{rotating:?}");
    let plane = plane.restart().await;
    run(&plane, later.now.0).await;
    let all = progress(&plane).await;
    assert_eq!((all.keys.rotating, all.campaign.waves), (KEYS, 1));
    assert_eq!(audited(&plane, "campaign.wave").await[0]["first_keys"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn all_that_a_selection_names_must_hold() {
    let plane = plane().await;
    let acme = keys(&plane, 2).await;
    plane.client("other").await;
    let new = |labels: Value, scopes: Value| json!({ "client": "other", "labels": labels, "scopes": scopes, "version": new_version() });
    for (labels, scopes) in [
        (json!({ "team": "a", "env": "prod" }), json!(["trade", "market:read"])),
        (json!({ "team": "b" }), json!(["trade_all"])),
        (json!({}), json!([])),
    ] {
        plane.post("/v1/keys", new(labels, scopes)).await.json::<Key>(StatusCode::CREATED);
    }
    let preview = async |select: Value| {
        let new = json!({ "name": "q4", "wave": { "keys": 2 }, "overlap_seconds": 60, "select": select });
        let preview: CampaignPreview = plane.post("/v1/campaigns/preview", new).await.json(StatusCode::OK);
        preview.selected
    };
    for (select, selected) in [
        (json!({}), 5),
        (json!({ "clients": ["acme"] }), 2),
        (json!({ "clients": ["acme", "other"] }), 5),
        (json!({ "labels": { "team": null } }), 2),
        (json!({ "labels": { "team": "a" } }), 1),
        (json!({ "labels": { "team": "a", "env": "test" } }), 0),
        (json!({ "scope": "trade" }), 1),
        (json!({ "scope": "TRADE" }), 0),
        (json!({ "scope": "trade_all" }), 1),
        (json!({ "clients": ["acme"], "scope": "trade" }), 0),
        (json!({ "older_than_seconds": 3600 }), 0),
    ] {
        assert_eq!(preview(select.clone()).await, selected, "{select}");
    }
    let sql = format!("UPDATE versions SET created_at = 0 WHERE key_id = '{}'", acme[0].id);
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&plane.database().await).await.unwrap();
    assert_eq!(preview(json!({ "older_than_seconds": 3600 })).await, 1);
    plane.post(&format!("/v1/keys/{}/revoke", acme[1].id), json!({})).await;
    assert_eq!(preview(json!({ "clients": ["acme"] })).await, 1, "what has ended is not selected");
    let unknown = json!({ "name": "q4", "wave": { "keys": 2 }, "select": { "clients": ["nobody"] } });
    plane.post("/v1/campaigns/preview", unknown).await.problem("not-found");
    let list: List<Campaign> = plane.get("/v1/campaigns").await.json(StatusCode::OK);
    assert_eq!(list.items, [], "a preview makes none");
}

#[tokio::test]
async fn what_cannot_be_rotated_is_skipped_and_says_why() {
    let plane = plane().await;
    let keys = keys(&plane, 3).await;
    plane.client("plain").await;
    let plain = json!({ "client": "plain", "version": new_version() });
    let plain: Key = plane.post("/v1/keys", plain).await.json(StatusCode::CREATED);
    let soon = json!({ "client": "acme", "version": new_version(), "expires_at": time::timestamp(Millis(context().now.0 + HOUR)) });
    let expiring: Key = plane.post("/v1/keys", soon).await.json(StatusCode::CREATED);
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 10 } })).await;
    let skipped = async || {
        let skipped = members(&plane, "?state=skipped").await;
        skipped
            .into_iter()
            .map(|key| (key.key, key.why.unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(skipped().await, [(plain.id.clone(), SkipReason::NoOverlap)].into());
    plane.post(&format!("/v1/keys/{}/revoke", keys[0].id), json!({})).await;
    // Its secret leaks after it was deposited: the deposit goes, and another one is wanted.
    let spoilt = new_version();
    let body = json!({ "version": spoilt });
    plane.post(&format!("/v1/keys/{}/next", keys[1].id), body).await.json::<Key>(StatusCode::OK);
    plane.post("/v1/compromised", json!({ "digests": [spoilt["digest"]] })).await;
    deposit(&plane, &keys[2]).await;
    run(&plane, context().now.0 + HOUR).await;
    let all = skipped().await;
    let want = [
        (plain.id, SkipReason::NoOverlap),
        (expiring.id, SkipReason::KeyExpired),
        (keys[0].id.clone(), SkipReason::KeyRevoked),
    ];
    assert_eq!(all, want.into());
    assert_eq!(
        counts(progress(&plane).await.keys),
        [1, 0, 1, 0, 0, 3],
        "one bad deposit holds up no other key"
    );
    let notices: List<Notice> = plane.get("/v1/notices").await.json(StatusCode::OK);
    let refused = notices.items.iter().filter(|notice| notice.kind == NoticeKind::DepositRefused);
    assert_eq!(refused.map(|notice| &notice.key).collect::<Vec<_>>(), [&keys[1].id]);
    deposit(&plane, &keys[1]).await;
    run(&plane, context().now.0 + 2 * HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 0, 2, 0, 0, 3]);
    // Revoked in the middle of its rotation it is left out, too.
    plane.post(&format!("/v1/keys/{}/revoke", keys[2].id), json!({})).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 0, 1, 0, 0, 4]);
}

#[tokio::test]
async fn of_versions_beside_each_other_the_oldest_gives_way() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "max_versions": 3, "overlap_seconds": 3600 })).await;
    let (key, full) = (plane.key().await, plane.key().await);
    for (key, more) in [(&key, 1), (&full, 2)] {
        for _ in 0..more {
            let path = format!("/v1/keys/{}/versions", key.id);
            let body = json!({ "version": new_version() });
            assert_eq!(plane.post(&path, body).await.status, StatusCode::CREATED);
        }
    }
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 10 } })).await;
    deposit(&plane, &key).await;
    deposit(&plane, &full).await;
    run(&plane, context().now.0).await;
    let versions = plane.show(&key).await.versions;
    let states: Vec<_> = versions.iter().map(|version| version.state).collect();
    assert_eq!(states, [State::Retiring, State::Active, State::Active]);
    let skipped = members(&plane, "?state=skipped").await;
    assert_eq!(skipped.len(), 1);
    assert_eq!(
        (skipped[0].key.as_str(), skipped[0].why),
        (full.id.as_str(), Some(SkipReason::TooManyVersions))
    );
}

#[tokio::test]
async fn a_key_that_rotates_already_waits_for_the_end_of_that() {
    let plane = plane().await;
    let keys = keys(&plane, 2).await;
    plane.rotate(&keys[0], 7200).await;
    campaign(&plane, json!({ "name": "q4", "wave": { "keys": 1 } })).await;
    for key in &keys {
        deposit(&plane, key).await;
    }
    let start = context().now.0;
    run(&plane, start).await;
    assert_eq!(members(&plane, "?state=rotating").await[0].key, keys[1].id);
    run(&plane, start + HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 1, 1, 0, 0, 0]);
    run(&plane, start + 3 * HOUR).await;
    assert_eq!(counts(progress(&plane).await.keys), [0, 0, 2, 0, 0, 0]);
}
