use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use keywheel_api::{
    Applied, AuditRecord, Key, List, Promote, Promoted, Ring, RingSummary, Rotation, RotationEnd,
    RotationProgress, RotationState, State, WaitsFor, time,
};
use keywheel_control::jobs::{canary, scheduler};
use keywheel_control::{app, clock};
use keywheel_keyring::document::Kind;
use keywheel_keyring::{Digest, Document, Entry, Millis};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const MAIN: &str = "production";
const CANARY: &str = "production-canary";
/// The pause of a canary of which nothing else was said, in milliseconds.
const PAUSE: u64 = 15 * 60 * 1000;

async fn with_canary(more: Value) -> Plane {
    let plane = plane().await;
    make(&plane, more).await;
    plane
}

async fn make(plane: &Plane, more: Value) -> RingSummary {
    let mut new = json!({ "name": CANARY, "canary_of": MAIN });
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plane.post("/v1/rings", new).await.json(StatusCode::CREATED)
}

async fn ask(plane: &Plane, ring: &str, path: &str) -> Document {
    let path = format!("/v1/rings/{ring}/{path}");
    let answer = plane.ask(app::ring(plane.control.clone()), None, "GET", &path, "").await;
    answer.document(&plane.control.trust(&plane.control.ring(ring).unwrap()).await.unwrap())
}

/// Everything that a ring shows, as its first page has it.
async fn shown(plane: &Plane, ring: &str) -> Document {
    ask(plane, ring, "snapshot").await
}

async fn changes(plane: &Plane, ring: &str, since: u64) -> Document {
    let epoch = plane.control.ring(ring).unwrap().record.epoch;
    ask(plane, ring, &format!("changes?epoch={epoch}&since={since}")).await
}

async fn entry(plane: &Plane, ring: &str, version: &str) -> Option<Entry> {
    shown(plane, ring).await.entries.into_iter().find(|entry| entry.version == version)
}

async fn state(plane: &Plane, ring: &str, version: &str) -> Option<State> {
    entry(plane, ring, version).await.map(|entry| entry.state)
}

fn head(plane: &Plane, ring: &str) -> u64 {
    plane.control.ring(ring).unwrap().head()
}

/// What a proxy says of itself, as it asks for changes.
async fn says(plane: &Plane, ring: &str, instance: &str, enforced: u64) {
    let epoch = plane.control.ring(ring).unwrap().record.epoch;
    let header = format!(
        "node=edge&instance={instance}&filter=0.1.0&vms=3&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
    );
    let request = axum::http::Request::builder()
        .uri(format!("/v1/rings/{ring}/changes?epoch={epoch}&since={}", head(plane, ring)))
        .header("keywheel-proxy", header);
    let request = request.body(axum::body::Body::empty()).unwrap();
    let answer = crate::support::call(app::ring(plane.control.clone()), request).await;
    assert_eq!(answer.status, StatusCode::OK);
}

/// What the control plane does by itself, so many milliseconds from now.
async fn later(plane: &Plane, milliseconds: u64) {
    let now = Millis(clock::now().0 + milliseconds);
    scheduler::catch_up(plane.store(), now).await.unwrap();
    canary::catch_up(plane.store(), &plane.control.ring(CANARY).unwrap(), now).await.unwrap();
}

async fn actions(plane: &Plane) -> Vec<String> {
    let trail: List<AuditRecord> = plane.get("/v1/audit").await.json(StatusCode::OK);
    trail.items.into_iter().map(|record| record.event.action).collect()
}

async fn rotation(plane: &Plane, id: &str) -> Rotation {
    plane.get(&format!("/v1/rotations/{id}")).await.json(StatusCode::OK)
}

async fn promote(plane: &Plane, rotation: &Rotation) -> Rotation {
    plane.post(&format!("/v1/rotations/{}/promote", rotation.id), json!(null)).await.json(StatusCode::OK)
}

#[tokio::test]
async fn a_canary_has_its_main_rings_keys_from_the_start_and_every_later_change() {
    let plane = plane().await;
    plane.import((0..700_u32).map(|n| Digest::of(&n.to_be_bytes()))).await;
    let key = plane.key().await;
    let made = make(&plane, json!({})).await;
    assert_eq!((made.revision, made.canary_of.as_deref()), (701, Some(MAIN)));
    assert_ne!(made.epoch, plane.epoch());

    // Another 700, of which the old ones and the new ones are told in one sequence.
    plane.import((700..1400_u32).map(|n| Digest::of(&n.to_be_bytes()))).await;
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await.json::<Key>(StatusCode::OK);
    let plane = plane.restart().await;
    for ring in [MAIN, CANARY] {
        let (mut since, mut digests) = (0, Vec::new());
        while since < head(&plane, ring) {
            let document = changes(&plane, ring, since).await;
            assert!(
                document
                    .entries
                    .iter()
                    .all(|entry| since < entry.revision && entry.revision <= document.revision)
            );
            assert!(document.entries.is_sorted_by_key(|entry| entry.revision));
            since = document.revision;
            digests.extend(document.entries.iter().map(|entry| entry.digest));
        }
        digests.sort_unstable();
        let (all, before) = (digests.len(), digests.clone());
        digests.dedup();
        assert_eq!((all, digests.len()), (1401, 1401), "{ring}: each of them once");

        let (mut cursor, mut paged) = (String::new(), Vec::new());
        loop {
            let page = ask(&plane, ring, &format!("snapshot?{cursor}")).await;
            paged.extend(page.entries.iter().map(|entry| entry.digest));
            let Kind::Snapshot { through: Some(through), .. } = page.kind else { break };
            cursor = format!("after={through}");
        }
        assert!(paged == before, "{ring}: a page and a run tell the same");
        let shown: Ring = plane.get(&format!("/v1/rings/{ring}")).await.json(StatusCode::OK);
        assert_eq!(shown.entries, 1401);
    }
    let revoked = changes(&plane, CANARY, 1401).await.entries;
    assert_eq!(revoked.iter().map(|entry| entry.state).collect::<Vec<_>>(), [State::Revoked]);
}

#[tokio::test]
async fn a_new_key_comes_to_the_main_ring_when_every_proxy_of_the_canary_enforces_it() {
    let plane = with_canary(json!({})).await;
    let key = plane.key().await;
    let version = &key.versions[0];
    assert_eq!((version.state, version.revision, version.canary_revision), (State::Active, 0, Some(1)));
    assert!(version.waits_until.is_some());
    assert_eq!(state(&plane, CANARY, &version.id).await, Some(State::Active));
    assert_eq!(entry(&plane, MAIN, &version.id).await, None);
    assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), (0, 1), "nothing is told to the main ring");
    let ring: Ring = plane.get(&format!("/v1/rings/{CANARY}")).await.json(StatusCode::OK);
    assert_eq!((ring.entries, ring.canary.unwrap().waiting), (1, 1));
    let ring: Ring = plane.get(&format!("/v1/rings/{MAIN}")).await.json(StatusCode::OK);
    assert_eq!((ring.entries, ring.has_canary.as_deref()), (0, Some(CANARY)));
    let follows = ring.follows.unwrap();
    assert_eq!((follows.promote, follows.pause_seconds), (Promote::WhenEnforced, PAUSE / 1000));
    assert_eq!((follows.waiting, follows.next_at), (1, version.waits_until));

    // One of two proxies lags.
    says(&plane, CANARY, "a1", 1).await;
    says(&plane, CANARY, "b2", 0).await;
    later(&plane, 0).await;
    assert_eq!(head(&plane, MAIN), 0);
    says(&plane, CANARY, "b2", 1).await;
    later(&plane, 0).await;
    assert_eq!(state(&plane, MAIN, &version.id).await, Some(State::Active));
    assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), (1, 1), "nothing changes for the canary");
    let shown = plane.show(&key).await;
    assert_eq!((shown.versions[0].revision, shown.versions[0].waits_until), (1, None));
    let ring: Ring = plane.get(&format!("/v1/rings/{MAIN}")).await.json(StatusCode::OK);
    let follows = ring.follows.unwrap();
    assert_eq!((follows.waiting, follows.next_at), (0, None));

    later(&plane, 2 * PAUSE).await;
    let promoted = actions(&plane).await.into_iter().filter(|action| action.starts_with("version.promote"));
    assert_eq!(promoted.collect::<Vec<_>>(), ["version.promote"], "once");
}

#[tokio::test]
async fn without_anybody_in_the_canary_or_with_a_laggard_only_the_pause_counts() {
    let plane = with_canary(json!({ "pause_seconds": 60 })).await;
    let key = plane.key().await;
    later(&plane, 59_000).await;
    assert_eq!(head(&plane, MAIN), 0);
    let plane = plane.restart().await;
    later(&plane, 61_000).await;
    assert_eq!(state(&plane, MAIN, &key.versions[0].id).await, Some(State::Active));

    says(&plane, CANARY, "a1", 1).await;
    let lagging = plane.key().await;
    later(&plane, 1_000).await;
    assert_eq!(entry(&plane, MAIN, &lagging.versions[0].id).await, None);
    later(&plane, 61_000).await;
    assert_eq!(state(&plane, MAIN, &lagging.versions[0].id).await, Some(State::Active));
    let why = actions(&plane).await.into_iter().filter(|action| action.starts_with("version.promote"));
    assert_eq!(why.collect::<Vec<_>>(), ["version.promote-after-pause"; 2]);
}

#[tokio::test]
async fn a_soak_lasts_its_whole_pause_and_what_waits_keeps_its_time() {
    let plane = with_canary(json!({ "pause_seconds": 60, "promote": "after_pause" })).await;
    let key = plane.key().await;
    says(&plane, CANARY, "a1", 1).await;
    later(&plane, 59_000).await;
    assert_eq!(head(&plane, MAIN), 0, "it is enforced, and that is not enough");
    let path = format!("/v1/rings/{CANARY}");
    let set = plane.admin("PATCH", &path, json!({ "pause_seconds": 0 }).to_string()).await;
    let set: Ring = set.json(StatusCode::OK);
    assert_eq!(set.canary.map(|canary| (canary.pause_seconds, canary.waiting)), Some((0, 1)));
    later(&plane, 0).await;
    assert_eq!(head(&plane, MAIN), 0);
    let at_once = plane.key().await;
    assert_eq!(at_once.versions[0].waits_until, None);
    assert_eq!(state(&plane, MAIN, &at_once.versions[0].id).await, Some(State::Active));
    later(&plane, 61_000).await;
    assert_eq!(state(&plane, MAIN, &key.versions[0].id).await, Some(State::Active));
    assert!(actions(&plane).await.contains(&"ring.set-canary".to_owned()));
}

#[tokio::test]
async fn a_rotation_touches_the_old_version_when_the_main_ring_has_the_new_one() {
    let plane = plane().await;
    let key = plane.key().await;
    make(&plane, json!({})).await;
    let before = head(&plane, MAIN);
    let rotation = plane.rotate(&key, 600).await;
    assert_eq!(rotation.state, RotationState::Distributing);
    let [WaitsFor::Canary { ring, until, promote }] = &rotation.waits_for[..] else { panic!("{rotation:?}") };
    assert_eq!((ring.as_str(), *until, *promote), (CANARY, rotation.begins_at, Promote::WhenEnforced));
    // It waits by the rule that there is, and not by the one that there was.
    for rule in [Promote::AfterPause, Promote::WhenEnforced] {
        let (path, update) = (format!("/v1/rings/{CANARY}"), json!({ "promote": rule }).to_string());
        plane.admin("PATCH", &path, update).await.json::<Ring>(StatusCode::OK);
        let shown = self::rotation(&plane, &rotation.id).await;
        assert!(
            matches!(&shown.waits_for[..], [WaitsFor::Canary { promote, .. }] if *promote == rule),
            "{shown:?}"
        );
    }
    let path = format!("/v1/rotations/{}/progress", rotation.id);
    let progress: RotationProgress = plane.get(&path).await.json(StatusCode::OK);
    assert_eq!((progress.proxies.ring.as_str(), progress.next.unwrap().at), (CANARY, *until));
    let both = [Some(State::Active), Some(State::Active)];
    let states = async |ring| {
        [state(&plane, ring, &rotation.old_version).await, state(&plane, ring, &rotation.new_version).await]
    };
    assert_eq!(states(CANARY).await, both);
    assert_eq!(states(MAIN).await, [Some(State::Active), None]);
    assert_eq!(head(&plane, MAIN), before);

    says(&plane, CANARY, "a1", head(&plane, CANARY)).await;
    later(&plane, 30_000).await;
    let begun = self::rotation(&plane, &rotation.id).await;
    assert_eq!((begun.state, &begun.waits_for[..]), (RotationState::Overlapping, &[][..]));
    let span = |rotation: &Rotation| rotation.deadline.duration_since(rotation.begins_at).as_secs();
    assert_eq!(span(&begun), 600, "the whole overlap, from when it began");
    for ring in [MAIN, CANARY] {
        assert_eq!(states(ring).await, [Some(State::Retiring), Some(State::Active)], "{ring}");
        let [old, new] = [&rotation.old_version, &rotation.new_version];
        let (old, new) = (entry(&plane, ring, old).await.unwrap(), entry(&plane, ring, new).await.unwrap());
        assert!(new.revision < old.revision, "{ring}: the new version first");
    }
    later(&plane, 700_000).await;
    for ring in [MAIN, CANARY] {
        assert_eq!(states(ring).await, [Some(State::Retired), Some(State::Active)], "{ring}");
    }
}

#[tokio::test]
async fn an_operator_may_wait_no_longer() {
    let plane = plane().await;
    let (key, leaking) = (plane.key().await, plane.key().await);
    make(&plane, json!({})).await;
    let rotation = plane.rotate(&key, 0).await;
    let promoted = promote(&plane, &rotation).await;
    assert_eq!(promoted.ended_by, Some(RotationEnd::Deadline), "it has no overlap");
    plane
        .post(&format!("/v1/rotations/{}/promote", rotation.id), json!(null))
        .await
        .problem("rotation-ended");
    let rotation = plane.rotate(&key, 600).await;
    assert_eq!(promote(&plane, &rotation).await.state, RotationState::Overlapping);
    let heads = (head(&plane, MAIN), head(&plane, CANARY));
    assert_eq!(promote(&plane, &rotation).await.state, RotationState::Overlapping, "twice is once");
    assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), heads);

    // A key and its rotation that both wait: the old version is there before it gets its deadline.
    let young = plane.key().await;
    let rotation = plane.rotate(&young, 600).await;
    assert_eq!(promote(&plane, &rotation).await.state, RotationState::Overlapping);
    assert_eq!(state(&plane, MAIN, &rotation.old_version).await, Some(State::Retiring));

    // The old version leaked meanwhile: that ends the rotation, and what is to take its place need not wait.
    let rotation = plane.rotate(&leaking, 600).await;
    let path = format!("/v1/keys/{}/versions/{}/revoke", leaking.id, rotation.old_version);
    plane.post(&path, json!({ "compromised": true })).await.json::<Key>(StatusCode::OK);
    let over = promote(&plane, &rotation).await;
    assert_eq!((over.ended_by, &over.waits_for[..]), (Some(RotationEnd::OldVersionRevoked), &[][..]));
    assert_eq!(state(&plane, MAIN, &rotation.new_version).await, Some(State::Active));

    for _ in 0..60 {
        plane.key().await;
    }
    let path = format!("/v1/rings/{MAIN}/promote");
    let all: Promoted = plane.post(&path, json!(null)).await.json(StatusCode::OK);
    assert_eq!((all.canary.as_str(), all.versions), (CANARY, 60));
    let none: Promoted = plane.post(&path, json!(null)).await.json(StatusCode::OK);
    assert_eq!(none.versions, 0);
    assert_eq!(shown(&plane, MAIN).await.entries.len(), shown(&plane, CANARY).await.entries.len());
}

#[tokio::test]
async fn denials_go_to_both_rings_at_once_also_of_what_waits() {
    let plane = plane().await;
    let (old, rotated) = (plane.key().await, plane.key().await);
    make(&plane, json!({})).await;
    let waiting = plane.key().await;
    let rotation = plane.rotate(&rotated, 600).await;
    for (what, key) in [("revoke", &old), ("revoke", &waiting)] {
        let heads = (head(&plane, MAIN), head(&plane, CANARY));
        plane.post(&format!("/v1/keys/{}/{what}", key.id), json!({})).await.json::<Key>(StatusCode::OK);
        assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), (heads.0 + 1, heads.1 + 1));
        for ring in [MAIN, CANARY] {
            assert_eq!(state(&plane, ring, &key.versions[0].id).await, Some(State::Revoked), "{ring}");
        }
    }
    // Leaked before the main ring ever had it.
    let digest = entry(&plane, CANARY, &rotation.new_version).await.unwrap().digest;
    plane.post("/v1/compromised", json!({ "digests": [digest] })).await.json::<Value>(StatusCode::OK);
    for ring in [MAIN, CANARY] {
        assert_eq!(state(&plane, ring, &rotation.new_version).await, Some(State::Compromised), "{ring}");
        assert_eq!(state(&plane, ring, &rotation.old_version).await, Some(State::Active), "{ring}");
    }
    // Brought back it is in both: only what is new waits.
    plane.post(&format!("/v1/keys/{}/reinstate", waiting.id), json!(null)).await.json::<Key>(StatusCode::OK);
    for ring in [MAIN, CANARY] {
        assert_eq!(state(&plane, ring, &waiting.versions[0].id).await, Some(State::Active), "{ring}");
    }
    later(&plane, 2 * PAUSE).await;
    assert!(!actions(&plane).await.iter().any(|action| action.starts_with("version.promote")));
}

#[tokio::test]
async fn what_is_taken_back_while_it_waits_is_gone_from_both() {
    let plane = plane().await;
    let key = plane.key().await;
    make(&plane, json!({})).await;
    let supersede = json!({ "overlap_seconds": 60, "supersede": true, "version": new_version() });
    let path = format!("/v1/keys/{}/rotations", key.id);
    for how in ["rollback", "cancel", "supersede", "revoke"] {
        let rotation = plane.rotate(&key, 600).await;
        match how {
            "supersede" => {
                let next: Rotation = plane.post(&path, supersede.clone()).await.json(StatusCode::CREATED);
                plane.post(&format!("/v1/rotations/{}/cancel", next.id), json!(null)).await
            }
            "revoke" => {
                let version = &rotation.new_version;
                plane.post(&format!("/v1/keys/{}/versions/{version}/revoke", key.id), json!({})).await
            }
            how => plane.post(&format!("/v1/rotations/{}/{how}", rotation.id), json!(null)).await,
        }
        .json::<Value>(StatusCode::OK);
        for ring in [MAIN, CANARY] {
            assert_eq!(
                state(&plane, ring, &rotation.new_version).await,
                Some(State::Revoked),
                "{ring} {how}"
            );
            assert_eq!(state(&plane, ring, &rotation.old_version).await, Some(State::Active), "{ring} {how}");
        }
        assert_eq!(self::rotation(&plane, &rotation.id).await.state, RotationState::RolledBack, "{how}");
    }
    later(&plane, 2 * PAUSE).await;
    assert_eq!(plane.show(&key).await.open_rotation, None);
    // Once the main ring has it, a client may use it.
    let rotation = plane.rotate(&key, 600).await;
    promote(&plane, &rotation).await;
    plane.post(&format!("/v1/rotations/{}/cancel", rotation.id), json!(null)).await.problem("rotation-begun");
    plane
        .post(&format!("/v1/rotations/{}/rollback", rotation.id), json!(null))
        .await
        .json::<Value>(StatusCode::OK);
    for ring in [MAIN, CANARY] {
        assert_eq!(state(&plane, ring, &rotation.new_version).await, Some(State::Retiring), "{ring}");
    }
}

#[tokio::test]
async fn what_changes_while_it_waits_changes_in_the_canary_alone() {
    let plane = with_canary(json!({})).await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}", key.id);
    plane.admin("PATCH", &path, json!({ "scopes": ["trade"] }).to_string()).await.json::<Key>(StatusCode::OK);
    assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), (0, 2));
    says(&plane, CANARY, "a1", 1).await;
    later(&plane, 0).await;
    assert_eq!(head(&plane, MAIN), 0, "that was the version before");
    says(&plane, CANARY, "a1", 2).await;
    later(&plane, 0).await;
    for ring in [MAIN, CANARY] {
        assert_eq!(entry(&plane, ring, &key.versions[0].id).await.unwrap().scopes, ["trade"], "{ring}");
    }
    plane.admin("PATCH", &path, json!({ "scopes": [] }).to_string()).await.json::<Key>(StatusCode::OK);
    assert_eq!((head(&plane, MAIN), head(&plane, CANARY)), (2, 3), "from then on in both");
}

#[tokio::test]
async fn a_version_that_begins_later_is_known_to_both_rings_before() {
    let plane = plane().await;
    let (early, late) = (plane.key().await, plane.key().await);
    make(&plane, json!({ "pause_seconds": 600 })).await;
    let begin = |seconds: u64| time::timestamp(Millis(clock::now().0 + seconds * 1000));
    let rotate = async |key: &Key, seconds| -> Rotation {
        let body = json!({ "overlap_seconds": 60, "not_before": begin(seconds), "version": new_version() });
        plane.post(&format!("/v1/keys/{}/rotations", key.id), body).await.json(StatusCode::CREATED)
    };
    // Its time comes after the pause, and that of the other one before.
    let after = rotate(&early, 3600).await;
    later(&plane, 601_000).await;
    assert_eq!(state(&plane, MAIN, &after.new_version).await, Some(State::Pending));
    let known = rotation(&plane, &after.id).await;
    assert_eq!((known.state, known.begins_at), (RotationState::Distributing, after.begins_at));
    let before = rotate(&late, 60).await;
    later(&plane, 120_000).await;
    assert_eq!(state(&plane, CANARY, &before.new_version).await, Some(State::Active));
    assert_eq!(entry(&plane, MAIN, &before.new_version).await, None);
    for ring in [MAIN, CANARY] {
        assert_eq!(state(&plane, ring, &before.old_version).await, Some(State::Active), "{ring}");
    }
    later(&plane, 601_000).await;
    assert_eq!(rotation(&plane, &before.id).await.state, RotationState::Overlapping);
    assert_eq!(state(&plane, MAIN, &before.old_version).await, Some(State::Retiring));
    later(&plane, 3_601_000).await;
    for ring in [MAIN, CANARY] {
        assert_eq!(state(&plane, ring, &after.new_version).await, Some(State::Active), "{ring}");
        assert_eq!(state(&plane, ring, &after.old_version).await, Some(State::Retiring), "{ring}");
    }
}

#[tokio::test]
async fn ended_versions_are_removed_from_both() {
    let plane = with_canary(json!({})).await;
    let key = plane.key().await;
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await.json::<Key>(StatusCode::OK);
    assert_eq!(plane.store().remove_ended(&context(), Millis(u64::MAX >> 1)).await.unwrap(), 1);
    for ring in [MAIN, CANARY] {
        assert_eq!(shown(&plane, ring).await.entries, []);
        let changes = changes(&plane, ring, head(&plane, ring) - 1).await;
        assert_eq!((changes.entries.len(), changes.removed.len()), (0, 1), "{ring}");
        let ring: Ring = plane.get(&format!("/v1/rings/{ring}")).await.json(StatusCode::OK);
        assert_eq!(ring.entries, 0);
    }
}

#[tokio::test]
async fn a_schedule_waits_for_the_canary_too() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "rotate_every_seconds": 86_400, "overlap_seconds": 600 })).await;
    let key = plane.key().await;
    make(&plane, json!({})).await;
    let path = format!("/v1/keys/{}/next", key.id);
    plane.post(&path, json!({ "version": new_version() })).await.json::<Key>(StatusCode::OK);
    later(&plane, 87_000_000).await;
    let rotations: List<Rotation> =
        plane.get(&format!("/v1/rotations?key={}", key.id)).await.json(StatusCode::OK);
    let [started] = &rotations.items[..] else { panic!("{rotations:?}") };
    assert_eq!((started.automatic, started.state), (true, RotationState::Distributing));
    assert_eq!(entry(&plane, MAIN, &started.new_version).await, None);
    later(&plane, 87_000_000 + PAUSE + 1000).await;
    assert_eq!(rotation(&plane, &started.id).await.state, RotationState::Overlapping);
}

#[derive(Deserialize)]
struct WithProof {
    applied: Applied,
}

#[tokio::test]
async fn who_waits_for_a_change_waits_for_the_ring_that_follows() {
    let plane = Arc::new(with_canary(json!({})).await);
    plane.client("acme").await;
    says(&plane, MAIN, "c3", 0).await;
    let create = async |seconds: u64| -> Applied {
        let body = json!({ "client": "acme", "version": new_version() });
        let answer = plane.post(&format!("/v1/keys?wait=applied&timeout={seconds}"), body).await;
        answer.json::<WithProof>(StatusCode::CREATED).applied
    };
    // Nobody is in the canary, so nobody could bring it to the main ring in time.
    let applied = create(60).await;
    assert!(!applied.complete, "the main ring has not got it");
    let [follows] = &applied.follows[..] else { panic!("{applied:?}") };
    assert_eq!((follows.ring.as_str(), follows.canary.as_str()), (MAIN, CANARY));
    assert_eq!(applied.rings.iter().map(|proof| proof.ring.as_str()).collect::<Vec<_>>(), [CANARY]);

    // Asked again it is still so, for this key and for no other.
    let body = json!({ "client": "acme", "version": new_version() });
    for status in [StatusCode::CREATED, StatusCode::OK] {
        let again = plane.post("/v1/keys?wait=applied&timeout=60", body.clone()).await;
        assert_eq!(again.json::<WithProof>(status).applied.follows.len(), 1);
    }
    let other = json!({ "name": "acme" });
    let other = plane.post("/v1/clients?wait=applied&timeout=1", other).await;
    let other: WithProof = other.json(StatusCode::OK);
    assert_eq!(other.applied.follows, []);

    says(&plane, CANARY, "a1", 2).await;
    later(&plane, 0).await;
    says(&plane, MAIN, "c3", 2).await;
    assert_eq!(create(1).await.rings[0].laggards.len(), 1, "of the canary");

    let waiting = {
        let plane = plane.clone();
        let body = json!({ "client": "acme", "version": new_version() });
        tokio::spawn(async move { plane.post("/v1/keys?wait=applied&timeout=60", body).await })
    };
    while head(&plane, CANARY) < 4 {
        tokio::task::yield_now().await;
    }
    says(&plane, CANARY, "a1", 4).await;
    later(&plane, 0).await;
    assert_eq!(head(&plane, MAIN), 4);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "a proxy of the main ring is missing");
    says(&plane, MAIN, "c3", 4).await;
    let applied = waiting.await.unwrap().json::<WithProof>(StatusCode::CREATED).applied;
    assert!(applied.complete && applied.follows.is_empty(), "{applied:?}");
    assert_eq!(applied.rings.iter().map(|proof| proof.enforced).collect::<Vec<_>>(), [1, 1]);

    // A revocation is complete when both enforce it.
    let key = plane.key().await;
    let path = format!("/v1/keys/{}/revoke?wait=applied&timeout=1", key.id);
    let applied = plane.post(&path, json!({})).await.json::<WithProof>(StatusCode::OK).applied;
    assert_eq!((applied.rings.len(), applied.follows.len(), applied.complete), (2, 0, false));
}
