use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use keywheel_api::audit::verify;
use keywheel_api::{
    Campaign, CampaignProgress, Key, List, Notice, RingProxies, RingSigningKey, Rotation, RotationState,
};
use keywheel_control::jobs::scheduler;
use keywheel_control::restore::{RestoreError, RestoreOptions, restore};
use keywheel_control::ring::proxies;
use keywheel_control::store::{Alone, Location};
use keywheel_control::{Control, Options, StartError, clock};
use keywheel_testkit::wait::until;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{Plane, database_of, first_start, new_version, on_sqlite, policy_of_acme};

/// Two control planes on one database, as different machines would be: each with a data directory of its
/// own, and copies of one master key.
struct Pair {
    one: Plane,
    two: Plane,
    _running: watch::Sender<bool>,
}

async fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { database: Some(database_of(dir.path())), ..on_sqlite(dir.path()) };
    let one = first_start(dir, &options).await;
    let master = one.dir.path().join("data/master.key");
    let two = replica(&options, &one, master).await;
    let running = watch::Sender::new(false);
    for plane in [&one, &two] {
        tokio::spawn(plane.control.store.clone().follow_replicas(running.subscribe()));
        tokio::spawn(plane.control.clone().serve_rings());
    }
    Pair { one, two, _running: running }
}

async fn replica(options: &Options, first: &Plane, master_key: std::path::PathBuf) -> Plane {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let options = Options { data, master_key_file: Some(master_key), ..options.clone() };
    let (control, token) = Control::open(&options).await.unwrap();
    assert!(token.is_none(), "the first replica handed it over");
    Plane { dir: Arc::new(dir), control: Arc::new(control), token: first.token.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_one_makes_is_served_by_the_other() {
    let pair = pair().await;
    let made = pair.one.post("/v1/rings", json!({ "name": "staging" })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let served = async || pair.two.control.ring("staging");
    until("the other serves the ring", served).await.unwrap();
    pair.one.client("acme").await;
    let new = json!({ "client": "acme", "ring": "staging", "version": new_version() });
    pair.two.post("/v1/keys", new).await.json::<Key>(StatusCode::CREATED);
    for plane in [&pair.one, &pair.two] {
        let told = async || Some(()).filter(|()| plane.control.ring("staging").unwrap().head() == 1);
        until("both know its newest revision", told).await.unwrap();
    }
}

/// A proxy that is forgotten the moment after it was told of a revision would be missing in the next proof.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_while_the_others_are_read_stays_known() {
    let pair = pair().await;
    let proxies = pair.one.control.ring("production").unwrap().proxies.clone();
    let running = Arc::new(AtomicBool::new(true));
    let reading = tokio::spawn({
        let (proxies, running) = (proxies.clone(), running.clone());
        async move {
            while running.load(Ordering::Relaxed) {
                proxies.catch_up().await.unwrap();
            }
        }
    });
    for number in 0..200 {
        let header = format!(
            "node=n&instance={number:016x}&filter=0.1.0&vms=1&epoch={}&stored=0&enforced=0&age=0",
            pair.one.epoch()
        );
        proxies.report(proxies::parse(header.as_bytes()).unwrap(), clock::now()).await;
        assert_eq!(proxies.count(), number + 1);
    }
    running.store(false, Ordering::Relaxed);
    reading.await.unwrap();
    assert_eq!(proxies.count(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_one_wakes_who_waits_on_the_other() {
    let pair = pair().await;
    let key = pair.one.key().await;
    for (here, there) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
        let epoch = there.epoch();
        let revoke = format!("/v1/keys/{}/revoke", here.key().await.id);
        let since = here.head();
        let asked = format!("changes?epoch={epoch}&since={since}&wait=30");
        // Whichever comes first: the wait or the change.
        let (answer, revoked) = tokio::join!(there.ring(&asked), here.post(&revoke, json!({})));
        assert_eq!(revoked.status, StatusCode::OK);
        let document = answer.document(&there.trust().await);
        assert!(document.revision > since, "{document:?}");
    }
    let seen = pair.two.show(&key).await;
    assert_eq!(seen.id, key.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_the_signing_key_on_one_is_followed_by_the_other() {
    let pair = pair().await;
    pair.one.key().await;
    // Both have kept a page that the old key signed.
    for plane in [&pair.one, &pair.two] {
        plane.ring("snapshot").await.document(&plane.trust().await);
    }
    let keys = "/v1/rings/production/signing-keys";
    let new: RingSigningKey = pair.one.post(keys, json!(null)).await.json(StatusCode::CREATED);
    for what in ["publish", "activate"] {
        let done = pair.one.post(&format!("{keys}/{}/{what}", new.id), json!(null)).await;
        done.json::<RingSigningKey>(StatusCode::OK);
    }
    let heartbeat = format!("changes?epoch={}&since={}", pair.two.epoch(), pair.two.head());
    for ask in ["snapshot", heartbeat.as_str()] {
        assert_eq!(pair.one.ring(ask).await.headers["keywheel-signer"], new.id.as_str());
        let mut signers = Vec::new();
        // It looks at the database once a second.
        while signers.last().is_none_or(|signer| *signer != new.id) {
            assert!(signers.len() < 500, "{signers:?}");
            let answer = pair.two.ring(ask).await;
            answer.document(&pair.two.trust().await);
            signers.push(answer.headers["keywheel-signer"].to_str().unwrap().to_owned());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_notification_is_made_up_for() {
    let pair = pair().await;
    pair.one.key().await;
    let database = Location::Postgres(database_of(pair.one.dir.path())).pool().await.unwrap();
    // Whoever listens is cut off again and again while the change is made.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let since = pair.one.head();
    let waiting = async {
        let asked = format!("changes?epoch={}&since={since}&wait=30", pair.two.epoch());
        pair.two.ring(&asked).await
    };
    let changing = async {
        sqlx::query(cut).execute(&database).await.unwrap();
        pair.one.key().await;
        sqlx::query(cut).execute(&database).await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, changing);
    assert!(answer.document(&pair.two.trust().await).revision > since);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_and_the_audit_chain_are_one_for_all() {
    let pair = pair().await;
    pair.one.client("acme").await;
    let pair = Arc::new(pair);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let pair = pair.clone();
        tasks.spawn(async move {
            let plane = if n % 2 == 0 { &pair.one } else { &pair.two };
            let body = json!({ "client": "acme", "version": new_version() });
            // On a busy machine the queue for the lock may be longer than a change waits in it; then it is asked again.
            let answer = loop {
                let answer = plane.post("/v1/keys", body.clone()).await;
                if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                    break answer;
                }
            };
            answer.json::<Key>(StatusCode::CREATED).versions[0].revision
        });
    }
    let revisions: BTreeSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(revisions, (1..=40).collect());
    let records = pair.two.store().audit_records(0, 500).await.unwrap();
    assert_eq!(verify(&records, &[], &[]).unwrap().head.seq, records.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_carried_out_once() {
    let pair = pair().await;
    let mut rotations = Vec::new();
    for _ in 0..10 {
        let key = pair.one.key().await;
        rotations.push(pair.one.rotate(&key, 1).await);
    }
    let later = keywheel_keyring::Millis(clock::now().0 + 60_000);
    let (one, two) = tokio::join!(
        scheduler::catch_up(&pair.one.control.store, later),
        scheduler::catch_up(&pair.two.control.store, later)
    );
    one.unwrap();
    two.unwrap();
    for rotation in rotations {
        let path = format!("/v1/rotations/{}", rotation.id);
        let rotation: Rotation = pair.two.get(&path).await.json(StatusCode::OK);
        assert_eq!(rotation.state, RotationState::Completed);
        let records = pair.two.store().audit_records(0, 500).await.unwrap();
        let completed = records.iter().filter(|record| {
            record.event.action == "rotation.complete" && record.event.resource == rotation.id
        });
        assert_eq!(completed.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_each_rotation_and_gives_each_notice_once() {
    let pair = pair().await;
    let terms =
        json!({ "rotate_every_seconds": 86_400, "overlap_seconds": 86_400, "longest_age_seconds": 86_400 });
    policy_of_acme(&pair.one, terms).await;
    let mut keys = Vec::new();
    for _ in 0..20 {
        let key = pair.one.key().await;
        let next = json!({ "version": new_version() });
        let answer = pair.two.post(&format!("/v1/keys/{}/next", key.id), next).await;
        keys.push(answer.json::<Key>(StatusCode::OK));
    }
    let later = keywheel_keyring::Millis(clock::now().0 + 2 * 86_400_000);
    let (one, two) = tokio::join!(
        scheduler::catch_up(&pair.one.control.store, later),
        scheduler::catch_up(&pair.two.control.store, later)
    );
    one.unwrap();
    two.unwrap();
    let records = pair.two.store().audit_records(0, 500).await.unwrap();
    let started = records.iter().filter(|record| record.event.action == "rotation.start");
    assert_eq!(started.count(), keys.len());
    let notices: List<Notice> = pair.two.get("/v1/notices").await.json(StatusCode::OK);
    let given: BTreeSet<_> =
        notices.items.iter().map(|n| (&n.key, n.step_at, format!("{:?}", n.kind))).collect();
    assert_eq!(given.len(), notices.items.len());
    for key in keys {
        assert!(pair.one.show(&key).await.open_rotation.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wave_of_a_campaign_is_run_once() {
    let pair = pair().await;
    policy_of_acme(&pair.one, json!({ "overlap_seconds": 86_400 })).await;
    let mut keys = Vec::new();
    for _ in 0..12 {
        keys.push(pair.one.key().await);
    }
    let new = json!({ "name": "q4", "wave": { "keys": 4 }, "pause_seconds": 3600 });
    let made: Campaign = pair.one.post("/v1/campaigns", new).await.json(StatusCode::CREATED);
    assert_eq!(made.selected, 12);
    for key in &keys {
        let next = json!({ "version": new_version() });
        let answer = pair.two.post(&format!("/v1/keys/{}/next", key.id), next).await;
        answer.json::<Key>(StatusCode::OK);
    }
    let start = clock::now().0;
    for wave in 1..=3 {
        let at = keywheel_keyring::Millis(start + (wave - 1) * 3_600_000);
        let (one, two) = tokio::join!(
            scheduler::catch_up(&pair.one.control.store, at),
            scheduler::catch_up(&pair.two.control.store, at)
        );
        one.unwrap();
        two.unwrap();
        let progress: CampaignProgress = pair.two.get("/v1/campaigns/q4").await.json(StatusCode::OK);
        assert_eq!((progress.campaign.waves, progress.keys.rotating), (wave, 4 * wave));
    }
    let records = pair.two.store().audit_records(0, 500).await.unwrap();
    for (action, times) in [("campaign.wave", 3), ("rotation.start", 12)] {
        let found = records.iter().filter(|record| record.event.action == action);
        assert_eq!(found.count(), times, "{action}");
    }
    assert_eq!(verify(&records, &[], &[]).unwrap().head.seq, records.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_starts_one_makes_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let database = database_of(dir.path());
    let (mine, other) = (dir.path().join("one"), dir.path().join("two"));
    let master = dir.path().join("master.key");
    std::fs::write(&master, "07".repeat(32)).unwrap();
    let options = |data: std::path::PathBuf| Options {
        data,
        database: Some(database.clone()),
        master_key_file: Some(master.clone()),
        ..on_sqlite(dir.path())
    };
    let (mine, other) = (options(mine), options(other));
    let (one, two) = tokio::join!(Control::open(&mine), Control::open(&other));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!([&one.1, &two.1].into_iter().filter(|token| token.is_some()).count(), 1);
    let epoch = |control: &Control| control.ring("production").unwrap().record.epoch;
    assert_eq!(epoch(&one.0), epoch(&two.0));
    let rings = Location::Postgres(database).pool().await.unwrap();
    let rings: i64 = sqlx::query_scalar("SELECT count(*) FROM rings").fetch_one(&rings).await.unwrap();
    assert_eq!(rings, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_tells_one_replica_proves_a_change_on_another() {
    let pair = pair().await;
    let key = pair.one.key().await;
    let says = async |enforced: u64| {
        let epoch = pair.two.epoch();
        let header = format!(
            "node=edge&instance=a1&filter=0.1.0&vms=3&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        pair.two.ring_as(&format!("changes?epoch={epoch}&since=0"), &header).await
    };
    says(1).await;
    // Known to the other replica as soon as it is answered: it was written down first.
    let known: RingProxies = pair.one.get("/v1/rings/production/proxies").await.json(StatusCode::OK);
    assert_eq!((known.proof.enforced, known.proof.of), (1, 1));
    let revoke = format!("/v1/keys/{}/revoke?wait=applied&timeout=30", key.id);
    let (answer, _) = tokio::join!(pair.one.post(&revoke, json!({})), async {
        while pair.two.head() < 2 {
            tokio::task::yield_now().await;
        }
        says(2).await
    });
    let applied: serde_json::Value = answer.json(StatusCode::OK);
    assert_eq!(applied["applied"]["complete"], true, "{applied}");
    assert_eq!(applied["applied"]["rings"][0]["of"], 1, "{applied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_restores_or_rekeys_a_database_that_is_served() {
    let pair = pair().await;
    let url = database_of(pair.one.dir.path());
    // Both say so as soon as they listen.
    while Alone::on(&url).await.unwrap().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let epoch = pair.one.epoch();
    let options = RestoreOptions {
        data: pair.one.dir.path().to_owned(),
        database: Some(url.clone()),
        master_key_file: None,
        from: None,
        journals: Vec::new(),
        checkpoints: Vec::new(),
        documents: Vec::new(),
        trust: Vec::new(),
        at_least: None,
        accept_loss: true,
    };
    let refused = restore(&options).await.unwrap_err();
    assert!(matches!(refused, RestoreError::Start(StartError::Served(_))), "{refused}");
    assert_eq!(pair.one.store().rings().await.unwrap()[0].epoch.to_string(), epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_canary_goes_on_once_whoever_hears_of_its_proxies() {
    let pair = pair().await;
    let new = json!({ "name": "ahead", "canary_of": "production" });
    let made = pair.one.post("/v1/rings", new).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let served = async || pair.two.control.ring("ahead");
    let there = until("the other serves the canary", served).await.unwrap();
    let here = pair.one.control.ring("ahead").unwrap();
    let epoch = here.record.epoch;
    let header = |instance: &str, enforced: u64| {
        let text = format!(
            "node=n&instance={instance}&filter=0.1.0&vms=1&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        proxies::parse(text.as_bytes()).unwrap()
    };
    // Of two proxies each asks another replica.
    here.proxies.report(header("a1", 0), clock::now()).await;
    there.proxies.report(header("b2", 0), clock::now()).await;
    let keys = [pair.one.key().await, pair.two.key().await, pair.one.key().await];
    here.proxies.report(header("a1", 3), clock::now()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(pair.one.store().rings().await.unwrap()[0].revision, 0, "one of them lags");
    there.proxies.report(header("b2", 3), clock::now()).await;
    for plane in [&pair.one, &pair.two] {
        let told = async || Some(()).filter(|()| plane.head() == 3);
        until("the main ring has all three, one revision for each", told).await.unwrap();
    }
    for key in keys {
        assert_eq!(pair.two.show(&key).await.versions[0].waits_until, None);
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let records = pair.one.store().audit_records(0, 100).await.unwrap();
    let promoted = records.iter().filter(|record| record.event.action == "version.promote");
    assert_eq!(promoted.count(), 3, "once each");
    assert_eq!(pair.one.head(), 3);
}
