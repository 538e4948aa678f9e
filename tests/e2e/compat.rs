//! A filter and a control plane of different versions get along: every release in `tests/compat/` with what is built
//! now, either way round, and both filters in one process.

use std::path::{Path, PathBuf};

use keywheel_keyring::{Digest, Entry, State};
use keywheel_testkit::record::record;
use keywheel_testkit::release::{DOOMED, LATER, RETIRING, REVOKED, Release, SUCCESSOR, VALID};
use keywheel_testkit::{ControlPlane, Envoy, FakeControl, FakeRelease, Upstream, http, port, until};
use serde_json::json;
use tempfile::TempDir;

use crate::command_line::keywheel;
use crate::listener_update::until_told_in;
use crate::replaceable::Replaceable;
use crate::scene::{Scene, paths, valid_and_revoked};
use crate::stage;
use crate::traffic::Traffic;

fn releases() -> Vec<Release> {
    Release::all().unwrap()
}

/// Upgrade the control plane first, and proxies go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_filter_does_all_it_did_with_the_control_plane_of_now() {
    for release in releases() {
        let scene = Scene::with(|config| config.with_wasm(&release.wasm)).await;
        let old = scene.key().await;
        assert_eq!(scene.get_with_key(&old.secret).await.status, 200);
        assert_eq!(scene.get_with_key("made-elsewhere").await.status, 401);
        let new = scene.admin.rotate(&old.key, 3600).await.unwrap();
        scene.settle().await;
        let reply = scene.get_with_key(&old.secret).await;
        assert_eq!((reply.status, reply.header("api-key-status")), (200, "retiring"));
        assert_eq!(scene.get_with_key(&new.secret).await.status, 200);
        // Its word that all its VMs enforce it is understood.
        let limit = std::time::Duration::from_secs(30);
        let applied = scene.admin.revoke_and_wait(&old.key, limit).await.unwrap();
        assert!(applied.complete, "{applied:?}");
        for key in [&old, &new] {
            assert_eq!(scene.get_with_key(&key.secret).await.json()["code"], "key_revoked");
        }
        until("its reports of usage are understood", async || {
            let usage = keywheel(&scene.control, &["key", "usage", &old.key]).await;
            let rows = usage["hours"].as_array().cloned().unwrap_or_default();
            let counted =
                |version: &str| rows.iter().any(|row| row["version"] == version && row["outcome"] == "valid");
            (counted(&old.version) && counted(&new.version)).then_some(())
        })
        .await
        .unwrap();
    }
}

/// Upgrade proxies first, and the control plane goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_of_now_enforces_what_a_released_control_plane_says() {
    for release in releases() {
        let fake = FakeRelease::start(&release.recording).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let config = stage::config_of(fake.address(), &fake.trust(), &upstream);
        let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
        let outcome = async |key: &str| {
            stage::outcome(&http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap())
        };
        // A worker that has not looked yet says 503.
        let becomes = async |key: &str, wanted: &str| {
            until(&format!("{key} is answered with {wanted}"), async || {
                let outcome = outcome(key).await;
                assert!(outcome == wanted || outcome.starts_with("503"), "{key}: {outcome}");
                (outcome == wanted).then_some(())
            })
            .await
            .unwrap();
        };
        for key in [VALID, RETIRING, SUCCESSOR, DOOMED, "compat-more-0", "compat-more-499"] {
            becomes(key, "200").await;
        }
        becomes(REVOKED, "401 key_revoked").await;
        becomes(LATER, "401 unknown_key").await;
        let revision = envoy.metric("keywheel_ring_revision").await.unwrap();
        assert_eq!(revision, release.recording.revision().unwrap());
        fake.change();
        until("the changes are enforced", async || {
            (outcome(LATER).await == "200" && outcome(DOOMED).await == "401 key_revoked").then_some(())
        })
        .await
        .unwrap();
        assert_eq!(outcome(VALID).await, "200");
        until("usage is reported", async || (fake.reports() > 0).then_some(())).await.unwrap();
        // The heartbeats are taken, and nothing that it says is refused.
        let refused = envoy.stats("wasmcustom.keywheel_ring_rejected").await.unwrap();
        assert!(refused.values().all(|count| *count == 0), "{refused:?}");
    }
}

/// Upgrade the filter, and the ring stays in the process: nobody is refused while old and new VMs work side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_takes_over_from_a_released_one_without_a_refusal() {
    for release in releases() {
        let now = Distinct::copy(&paths().wasm);
        let scene = Replaceable::with(|config| config.with_wasm(&release.wasm)).await;
        let (key, revoked) = valid_and_revoked(&scene.admin).await;
        let traffic = Traffic::start(scene.listener(), &key).refusing("revoked", &revoked.secret);
        let doomed = scene.key().await;
        scene.replace(|config| {
            config
                .with_wasm(&now.wasm)
                .with_plugin(|plugin| plugin["identity"] = json!({"client": "x-caller"}))
        });
        // In the midst of it.
        let new = scene.admin.create_key("acme", &[]).await.unwrap();
        scene.admin.revoke(&doomed.key).await.unwrap();
        until_told_in(scene.listener(), &key, "x-caller").await;
        scene.settle().await;
        for _ in 0..8 {
            assert_eq!(scene.get(&new.secret).await.status, 200);
            assert_eq!(scene.get(&doomed.secret).await.status, 401);
        }
        // And the ring goes on changing when the old one is gone.
        scene.until_vms(3).await;
        let last = scene.key().await;
        assert_eq!(scene.get(&last.secret).await.status, 200);
        traffic.assert_served().await;
        let log = scene.envoy.log();
        assert!(
            !log.contains("a stored bucket is damaged"),
            "one filter took the other's records for damaged"
        );
    }
}

/// Roll the filter back while it has all pages and waits for the changes behind them: the released one, which knows nothing
/// of that, goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_filter_goes_on_where_this_one_waits_for_changes() {
    for release in releases() {
        let fake = FakeControl::start().await.unwrap();
        let good = Entry::new(Digest::of(b"good"), "kv_good", "key_1", "acme", 20, State::Active);
        fake.serve_snapshot(fake.snapshot(20, vec![good]));
        fake.withhold_changes();
        let upstream = Upstream::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("listener.json");
        let (listener, admin) = (port::free(), port::free());
        let config = stage::config(&fake, &upstream).with_listener(listener).with_admin(admin);
        let (bootstrap, in_file) = config.clone().with_listener_in(&file);
        in_file.write(&file).unwrap();
        let envoy = Envoy::start_at(&paths(), &bootstrap, 2, listener, admin).await.unwrap();
        let outcome = async || {
            stage::outcome(&http::get(envoy.listener(), "/", &[("x-api-key", "good")]).await.unwrap())
        };
        until("all pages are in", async || (fake.withheld() > 1).then_some(())).await.unwrap();
        assert_eq!(outcome().await, "503 ring_unavailable");
        let (_, released) = config.with_wasm(&release.wasm).with_listener_in(&file);
        released.write(&file).unwrap();
        until("the released filter has its ring", async || (outcome().await == "200").then_some(()))
            .await
            .unwrap();
    }
}

/// A copy of a module that Envoy takes for another one, as two versions are, even where nothing else differs.
struct Distinct {
    wasm: PathBuf,
    _dir: TempDir,
}

impl Distinct {
    fn copy(module: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("distinct.wasm");
        let mut bytes = std::fs::read(module).unwrap();
        // A custom section with a name and no content.
        bytes.extend([&[0, 5, 4][..], b"copy"].concat());
        std::fs::write(&wasm, bytes).unwrap();
        Self { wasm, _dir: dir }
    }
}

/// `cargo xtask record-release` runs this, and says where to.
#[tokio::test]
#[ignore = "writes tests/compat/; cargo xtask record-release runs it"]
async fn record_a_release() {
    let dir =
        PathBuf::from(std::env::var_os("KEYWHEEL_RECORD_TO").expect("KEYWHEEL_RECORD_TO names a directory"));
    let version = dir.file_name().unwrap().to_string_lossy().into_owned();
    let control = ControlPlane::start(&paths()).await.unwrap();
    let recording = record(&control, &version).await.unwrap();
    assert!(recording.pages.len() > 1 && !recording.changes.is_empty());
    assert_eq!((recording.gone.status, recording.usage.status), (410, 204));
    std::fs::create_dir_all(&dir).unwrap();
    let text = serde_json::to_string_pretty(&recording).unwrap() + "\n";
    std::fs::write(dir.join("recording.json"), text).unwrap();
    // Without the mode that a build gives it.
    std::fs::write(dir.join("keywheel_filter.wasm"), std::fs::read(paths().wasm).unwrap()).unwrap();
}
