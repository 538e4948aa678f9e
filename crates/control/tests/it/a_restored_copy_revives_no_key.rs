use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::StatusCode;
use keywheel_api::{Checkpoint, Key, List, Ring, State};
use keywheel_control::jobs::purge::{KEEP_ENDED, purge};
use keywheel_control::restore::evidence::EvidenceError;
use keywheel_control::restore::{FoundMasterKey, Report, RestoreError, RestoreOptions, restore};
use keywheel_control::{Control, StartError, clock};
use keywheel_keyring::bucket::{Bucket, merge};
use keywheel_keyring::merge::{Ending, Plan};
use keywheel_keyring::{Digest, Document, Epoch, Generation, Millis};
use serde_json::{Value, json};

use crate::support::{Answer, Plane, first_start, new_version, on_sqlite, options, plane};

/// A control plane whose copy is older than what happened since.
struct Past {
    plane: Plane,
    copy: PathBuf,
    /// Revoked since.
    revoked: Key,
    /// Its old version retired since.
    rotated: Key,
    /// Its secret leaked since.
    leaked: Key,
    /// Revoked and reinstated since.
    forgiven: Key,
    /// Accepted throughout.
    kept: Key,
    /// Younger than the copy.
    young: Key,
    /// Nobody's secret, which leaked since.
    unknown: Digest,
}

async fn past() -> Past {
    // PostgreSQL has tools of its own for copies; what follows on one is the last test's.
    let dir = tempfile::tempdir().unwrap();
    let options = on_sqlite(dir.path());
    let plane = first_start(dir, &options).await;
    let [revoked, rotated, leaked, forgiven, kept] =
        [plane.key().await, plane.key().await, plane.key().await, plane.key().await, plane.key().await];
    let copy = plane.dir.path().join("copy.db");
    let (mut file, length) = plane.store().copy(plane.dir.path()).await.unwrap().unwrap();
    let copied = std::io::copy(&mut file, &mut fs::File::create(&copy).unwrap()).unwrap();
    assert_eq!(copied, length);

    let (unknown, leak) = (Digest::of(b"nobody's"), digest_of(&plane, &leaked).await);
    plane.post(&format!("/v1/keys/{}/revoke", revoked.id), json!(null)).await.json::<Key>(StatusCode::OK);
    plane.rotate(&rotated, 0).await;
    plane.post("/v1/compromised", json!({ "digests": [leak, unknown] })).await.json::<Value>(StatusCode::OK);
    for what in ["revoke", "reinstate"] {
        plane
            .post(&format!("/v1/keys/{}/{what}", forgiven.id), json!(null))
            .await
            .json::<Key>(StatusCode::OK);
    }
    let young = plane.key().await;
    Past { plane, copy, revoked, rotated, leaked, forgiven, kept, young, unknown }
}

async fn digest_of(plane: &Plane, key: &Key) -> Digest {
    let entries = plane.changes(0).await.entries;
    entries.into_iter().find(|entry| entry.version == key.versions[0].id).unwrap().digest
}

impl Past {
    /// What `keywheel audit list --output json` prints.
    async fn journal(&self) -> PathBuf {
        let records: List<Value> = self.plane.get("/v1/audit").await.json(StatusCode::OK);
        assert_eq!(records.next, None);
        self.file("journal.json", &json!(records.items))
    }

    async fn checkpoint(&self) -> PathBuf {
        let signed: Checkpoint =
            self.plane.post("/v1/audit/checkpoints", json!(null)).await.json(StatusCode::OK);
        self.file("checkpoint.json", &json!(signed))
    }

    /// What `keywheel ring export --seed` prints.
    async fn document(&self) -> PathBuf {
        self.file("document.json", &seed(&self.plane.ring("snapshot").await))
    }

    fn file(&self, name: &str, value: &Value) -> PathBuf {
        let path = self.plane.dir.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path
    }

    /// Restores the copy into a directory of its own, beside the one that was lost.
    fn options(&self) -> RestoreOptions {
        let data = self.plane.dir.path().join("restored/data");
        fs::create_dir_all(&data).unwrap();
        fs::copy(self.plane.dir.path().join("data/master.key"), data.join("master.key")).unwrap();
        from(&data, &self.copy)
    }

    fn seen(&self) -> Epoch {
        self.plane.epoch().parse().unwrap()
    }

    async fn restored(&self) -> Plane {
        let dir = self.plane.dir.path().join("restored");
        let options = on_sqlite(&dir);
        let (control, _) = Control::open(&options).await.unwrap();
        let (dir, token) = (self.plane.dir.clone(), self.plane.token.clone());
        Plane { dir, control: Arc::new(control), token }
    }
}

fn from(data: &Path, copy: &Path) -> RestoreOptions {
    RestoreOptions {
        data: data.to_owned(),
        database: None,
        master_key_file: None,
        from: Some(copy.to_owned()),
        journals: vec![],
        checkpoints: vec![],
        documents: vec![],
        trust: vec![],
        at_least: None,
        accept_loss: false,
    }
}

fn seed(answer: &Answer) -> Value {
    let header = |name| answer.headers[name].to_str().unwrap();
    json!({
        "signer": header("keywheel-signer"), "signature": header("keywheel-signature"),
        "document": String::from_utf8(answer.body.clone()).unwrap(),
    })
}

/// The state of a key's first version.
async fn state(plane: &Plane, key: &Key) -> State {
    plane.show(key).await.versions[0].state
}

/// A proxy: what it holds, and whether it takes a whole ring.
#[derive(Default)]
struct Proxy {
    generation: Generation,
    bytes: Option<Vec<u8>>,
}

impl Proxy {
    fn take(&mut self, document: Document) {
        let signer = keywheel_keyring::SignerId::from_bytes([1; 8]);
        let now = Millis(document.issued_at.0);
        let plan = self.generation.judge("production", document, signer, now, Ending::LastPage).unwrap();
        let Plan::Write(write) = plan else { panic!("it changes something") };
        for run in write.runs(|_| true) {
            // One bucket for all: the rules are the same.
            self.bytes = Some(merge(self.bytes.as_deref(), write.epoch(), &run.ops).unwrap().bytes);
        }
        self.generation = write.finish(0);
    }

    fn accepts(&self, digest: Digest) -> bool {
        let bytes = self.bytes.as_deref().unwrap();
        let entry = Bucket::parse(bytes).unwrap().find(&digest).unwrap();
        entry.is_some_and(|entry| !entry.state.is_denied())
    }
}

#[tokio::test]
async fn what_the_trail_says_is_denied_again() {
    let past = past().await;
    let (journal, checkpoint) = (past.journal().await, past.checkpoint().await);
    let options = RestoreOptions { journals: vec![journal], checkpoints: vec![checkpoint], ..past.options() };
    let report: Report = restore(&options).await.unwrap();
    assert_eq!((report.held, report.master_key), (false, FoundMasterKey::Right));
    assert_eq!(report.journal_record, Some(report.covered));
    assert!(report.epoch.parse::<Epoch>().unwrap() > past.seen());
    assert_eq!(report.denied.len(), 3, "{report:?}");
    assert!(report.lost.contains(&past.young.versions[0].id), "{report:?}");

    let plane = past.restored().await;
    assert_eq!(state(&plane, &past.revoked).await, State::Revoked);
    assert_eq!(state(&plane, &past.rotated).await, State::Revoked);
    assert_eq!(state(&plane, &past.leaked).await, State::Compromised);
    assert_eq!(state(&plane, &past.forgiven).await, State::Active);
    assert_eq!(state(&plane, &past.kept).await, State::Active);
    let mut leaked = new_version();
    leaked["digest"] = json!(past.unknown);
    plane.post("/v1/keys", json!({ "client": "acme", "version": leaked })).await.problem("compromised");
    let records: List<keywheel_api::AuditRecord> = plane.get("/v1/audit").await.json(StatusCode::OK);
    keywheel_api::audit::verify(&records.items, &[], &[]).unwrap();
    assert!(records.items.iter().any(|record| record.event.action == "ring.restore"));
}

#[tokio::test]
async fn a_later_document_denies_what_it_denies_and_what_it_forgot() {
    let past = past().await;
    // A page that no longer names one key at all: it was removed, long after it had ended.
    let digest = digest_of(&past.plane, &past.revoked).await;
    let later = Millis(clock::now().0 + KEEP_ENDED.as_millis() as u64 + 1000);
    purge(past.plane.store(), later, KEEP_ENDED).await.unwrap();
    let page = past.plane.ring("snapshot").await.document(&past.plane.trust().await);
    assert!(!page.entries.iter().any(|entry| entry.digest == digest));

    let options = RestoreOptions { documents: vec![past.document().await], ..past.options() };
    let report = restore(&options).await.unwrap();
    assert_eq!((report.held, report.denied.len()), (false, 3), "{report:?}");
    let plane = past.restored().await;
    for (key, is) in [(&past.revoked, State::Revoked), (&past.rotated, State::Revoked)] {
        assert_eq!(state(&plane, key).await, is);
    }
    // It is forgotten like the others, so how it ended is no longer known.
    assert_eq!(state(&plane, &past.leaked).await, State::Revoked);
    assert_eq!(state(&plane, &past.kept).await, State::Active);
}

#[tokio::test]
async fn a_copy_is_held_back_until_somebody_says_what_was_lost() {
    let past = past().await;
    let report = restore(&past.options()).await.unwrap();
    assert!(report.held);
    let plane = past.restored().await;
    let epoch = plane.epoch();
    for ask in ["snapshot".to_owned(), format!("changes?epoch={epoch}&since=0&wait=60")] {
        let answer = plane.ring(&ask).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
        answer.problem("ring-held");
    }
    plane.report(json!([])).await.problem("ring-held");
    assert!(plane.get("/v1/rings/production").await.json::<Ring>(StatusCode::OK).held);
    // Whatever is done meanwhile does not stand in the way of the trail.
    plane.client("globex").await;

    let merging = RestoreOptions { from: None, journals: vec![past.journal().await], ..past.options() };
    let locked = restore(&merging).await.unwrap_err();
    assert!(matches!(locked, RestoreError::Start(StartError::Locked { .. })), "{locked}");
    plane.store().close().await;
    drop(plane);
    let report = restore(&merging).await.unwrap();
    assert_eq!((report.held, report.denied.len()), (false, 3), "{report:?}");
    let plane = past.restored().await;
    assert!(plane.epoch() > epoch);
    plane.ring("snapshot").await.document(&plane.trust().await);
    assert_eq!(state(&plane, &past.revoked).await, State::Revoked);
}

#[tokio::test]
async fn proxies_that_were_ahead_come_to_the_new_epoch_and_keep_their_denials() {
    let past = past().await;
    let trust = past.plane.trust().await;
    let digests = [&past.revoked, &past.rotated, &past.leaked, &past.kept];
    let mut digests_of = Vec::new();
    for key in digests {
        digests_of.push(digest_of(&past.plane, key).await);
    }
    let mut ahead = Proxy::default();
    ahead.take(past.plane.ring("snapshot").await.document(&trust));
    let accepted = |proxy: &Proxy| digests_of.iter().map(|digest| proxy.accepts(*digest)).collect::<Vec<_>>();
    assert_eq!(accepted(&ahead), [false, false, false, true]);

    // The worst case: nothing is known of the time since, and somebody accepts that.
    let far = past.seen().next().unwrap();
    let options = RestoreOptions { accept_loss: true, at_least: Some(far), ..past.options() };
    let report = restore(&options).await.unwrap();
    assert!(report.epoch.parse::<Epoch>().unwrap() > far && !report.held);
    let plane = past.restored().await;
    let page = plane.ring("snapshot").await.document(&trust);
    assert_eq!(page.entries.len(), 5);
    ahead.take(page);
    assert_eq!(accepted(&ahead), [false, false, false, true], "what it denied stays denied");
    assert_eq!(ahead.generation.complete.unwrap().epoch.to_string(), plane.epoch());

    // An operator brings one back on purpose, in the new epoch.
    let key = format!("/v1/keys/{}", past.revoked.id);
    let since = plane.head();
    for what in ["revoke", "reinstate"] {
        plane.post(&format!("{key}/{what}"), json!(null)).await.json::<Key>(StatusCode::OK);
    }
    let run = plane.changes(since).await;
    // A proxy that misses this epoch altogether hears of it in the next one.
    let mut missed = Proxy::default();
    missed.take(past.plane.ring("snapshot").await.document(&trust));
    ahead.take(run);
    assert!(ahead.accepts(digests_of[0]));
    plane.store().close().await;
    drop(plane);
    restore(&RestoreOptions { from: None, accept_loss: true, ..past.options() }).await.unwrap();
    let plane = past.restored().await;
    missed.take(plane.ring("snapshot").await.document(&trust));
    assert_eq!(accepted(&missed), [true, false, false, true]);
}

#[tokio::test]
async fn what_proves_nothing_changes_nothing() {
    let past = past().await;
    let database = past.options().data.join("keywheel.db");
    let check = async |options: RestoreOptions, what: &str| {
        let error = restore(&options).await.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!database.exists(), "nothing can be served: {what}");
    };
    let nowhere = past.plane.dir.path().join("nowhere");
    check(RestoreOptions { journals: vec![nowhere.clone()], ..past.options() }, "cannot read").await;
    check(RestoreOptions { from: Some(nowhere), ..past.options() }, "cannot copy").await;
    check(RestoreOptions { from: None, ..past.options() }, "there is no database").await;

    let mut records: Vec<Value> = serde_json::from_slice(&fs::read(past.journal().await).unwrap()).unwrap();
    let cut = past.file("cut.json", &json!(records[..2]));
    check(RestoreOptions { journals: vec![cut], ..past.options() }, "it ends at record 2").await;
    let checkpoint = past.checkpoint().await;
    let last = past.file("last.json", &json!(records[..records.len() - 1]));
    let options =
        RestoreOptions { journals: vec![last], checkpoints: vec![checkpoint.clone()], ..past.options() };
    check(options, "which a checkpoint covers").await;
    let at = records.iter().position(|record| record["action"] == "key.revoke").unwrap();
    records.remove(at);
    let dropped = past.file("dropped.json", &json!(records));
    check(RestoreOptions { journals: vec![dropped], ..past.options() }, "is missing").await;

    let mut forged: Value = serde_json::from_slice(&fs::read(past.document().await).unwrap()).unwrap();
    forged["document"] = json!(forged["document"].as_str().unwrap().replace("revoked", "active"));
    let forged = past.file("forged.json", &forged);
    check(RestoreOptions { documents: vec![forged], ..past.options() }, "does not fit").await;

    let junk = past.plane.dir.path().join("junk");
    fs::write(&junk, "no database").unwrap();
    check(RestoreOptions { from: Some(junk.clone()), ..past.options() }, "is not a whole copy").await;
    let mut bytes = fs::read(&past.copy).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&junk, bytes).unwrap();
    let error = restore(&RestoreOptions { from: Some(junk), ..past.options() }).await.unwrap_err();
    assert!(!database.exists(), "{error}");

    // An old document says nothing that the copy does not.
    let (epoch, since) = (past.plane.epoch(), 0);
    let whole = past.plane.ring(&format!("changes?epoch={epoch}&since={since}")).await;
    let restored = restore(&RestoreOptions { accept_loss: true, ..past.options() }).await.unwrap();
    assert!(!restored.held);
    let old = past.file("old.json", &seed(&whole));
    let again = RestoreOptions { from: None, documents: vec![old], ..past.options() };
    let error = restore(&again).await.unwrap_err();
    assert!(matches!(error, RestoreError::Document { cause: EvidenceError::Older, .. }), "{error}");
    let twice = restore(&past.options()).await.unwrap_err();
    assert!(matches!(twice, RestoreError::Exists(_)), "{twice}");
}

#[tokio::test]
async fn a_database_that_was_restored_by_other_tools_is_made_fit_in_place() {
    let plane = plane().await;
    let key = plane.key().await;
    let (before, trust) = (plane.epoch(), plane.trust().await);
    plane.store().close().await;
    let Plane { dir, control, token } = plane;
    drop(control);
    let here = options(dir.path());
    let in_place = RestoreOptions {
        database: here.database.clone(),
        from: None,
        accept_loss: true,
        ..from(&here.data, Path::new(""))
    };
    let report = restore(&in_place).await.unwrap();
    let (control, _) = Control::open(&here).await.unwrap();
    let plane = Plane { dir, control: Arc::new(control), token };
    assert!(plane.epoch() == report.epoch && plane.epoch() > before);
    let page = plane.ring("snapshot").await.document(&trust);
    assert_eq!((page.entries.len(), page.entries[0].key.as_str()), (1, key.id.as_str()));
    plane.ring(&format!("changes?epoch={before}&since=0")).await.problem("revision-gone");
}

#[tokio::test]
async fn a_canarys_document_tells_of_its_main_rings_denials_and_both_get_the_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let options = on_sqlite(dir.path());
    let plane = first_start(dir, &options).await;
    let (kept, revoked) = (plane.key().await, plane.key().await);
    let canary = json!({ "name": "ahead", "canary_of": "production" });
    assert_eq!(plane.post("/v1/rings", canary).await.status, StatusCode::CREATED);
    let (waiting, leaked) = (plane.key().await, plane.key().await);
    let copy = plane.dir.path().join("copy.db");
    let (mut file, _) = plane.store().copy(plane.dir.path()).await.unwrap().unwrap();
    std::io::copy(&mut file, &mut fs::File::create(&copy).unwrap()).unwrap();
    for key in [&revoked, &leaked] {
        plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await.json::<Key>(StatusCode::OK);
    }
    for ring in ["production", "ahead"] {
        let path = format!("/v1/rings/{ring}/snapshot");
        let page =
            plane.ask(keywheel_control::app::ring(plane.control.clone()), None, "GET", &path, "").await;
        let document = plane.dir.path().join(format!("{ring}.json"));
        fs::write(&document, seed(&page).to_string()).unwrap();
        let data = plane.dir.path().join(format!("{ring}/data"));
        fs::create_dir_all(&data).unwrap();
        fs::copy(plane.dir.path().join("data/master.key"), data.join("master.key")).unwrap();
        let restored = RestoreOptions { documents: vec![document], ..from(&data, &copy) };
        let report = restore(&restored).await.unwrap();
        assert_eq!((report.held, report.denied.len()), (false, 2), "{ring}: {report:?}");

        let (control, _) = Control::open(&on_sqlite(&plane.dir.path().join(ring))).await.unwrap();
        let token = plane.token.clone();
        let restored = Plane { dir: plane.dir.clone(), control: Arc::new(control), token };
        for name in ["production", "ahead"] {
            assert_eq!(restored.control.ring(name).unwrap().record.epoch.to_string(), report.epoch, "{name}");
        }
        for (key, is) in [
            (&kept, State::Active),
            (&revoked, State::Revoked),
            (&waiting, State::Active),
            (&leaked, State::Revoked),
        ] {
            assert_eq!(state(&restored, key).await, is, "by a document of {ring}");
        }
        let still = restored.show(&waiting).await.versions[0].waits_until;
        assert!(still.is_some(), "and the main ring has not got it");
    }
}
