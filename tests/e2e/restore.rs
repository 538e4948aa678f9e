//! The control plane is lost and restored from a backup: proxies take the new epoch, and what was revoked after the
//! backup stays revoked. And a switch of the signing key that they would not follow does not happen.

use std::path::Path;
use std::process::{Command, Output};

use keywheel_api::{Proxy, RingSigningKey};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::until;

use crate::scene::{Scene, paths};

impl Scene {
    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(paths().keywheel);
        command.env("KEYWHEEL_URL", self.control.url());
        command.env("KEYWHEEL_TOKEN_FILE", self.control.token_file().unwrap());
        command.args(args).output().unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_take_a_restored_ring_and_what_was_revoked_since_stays_revoked() {
    for merged in [true, false] {
        let mut scene = Scene::start().await;
        let (kept, doomed) = (scene.key().await, scene.key().await);
        let dir = tempfile::tempdir().unwrap();
        let (copy, journal) = (dir.path().join("copy.db"), dir.path().join("journal.json"));
        scene.done(&["backup", "--out", text(&copy)]);
        scene.admin.revoke(&doomed.key).await.unwrap();
        scene.until_status(&doomed.secret, 401).await;
        std::fs::write(&journal, scene.done(&["audit", "list", "--output", "json"])).unwrap();
        let before = scene.admin.ring(RING).await.unwrap().epoch;

        // The disk is lost; the master key is kept elsewhere.
        scene.control.kill();
        let data = scene.control.data();
        for name in ["keywheel.db", "keywheel.db-wal", "keywheel.db-shm"] {
            let _ = std::fs::remove_file(data.join(name));
        }
        let mut args = vec!["restore", "--from", text(&copy), "--data", text(&data)];
        args.extend(if merged { vec!["--journal", text(&journal)] } else { vec!["--accept-loss"] });
        scene.done(&args);
        scene.control.restart().await.unwrap();
        assert!(scene.admin.ring(RING).await.unwrap().epoch > before);
        for _ in 0..8 {
            assert_eq!(scene.get_with_key(&kept.secret).await.status, 200, "the old ring serves meanwhile");
            assert_eq!(scene.get_with_key(&doomed.secret).await.status, 401);
        }
        scene.settle().await;
        let new = scene.key().await;
        scene.until_status(&new.secret, 200).await;
        for _ in 0..8 {
            assert_eq!(scene.get_with_key(&kept.secret).await.status, 200);
            assert_eq!(scene.get_with_key(&doomed.secret).await.status, 401, "merged: {merged}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_a_proxy_would_not_follow_is_refused() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    let old: Vec<RingSigningKey> =
        serde_json::from_str(&scene.done(&["ring", "signing-key", "list", "--output", "json"])).unwrap();
    let said = until("the proxy says what it trusts", async || {
        let proxies: Vec<Proxy> = scene.admin.ring(RING).await.ok()?.proxies;
        proxies.first()?.trust.clone()
    })
    .await
    .unwrap();
    assert_eq!(said, [old[0].id.clone()]);

    let created = scene.done(&["ring", "signing-key", "create", "--output", "json"]);
    let next: RingSigningKey = serde_json::from_str(&created).unwrap();
    scene.done(&["ring", "signing-key", "publish", &next.id]);
    let refused = scene.command(&["ring", "signing-key", "activate", &next.id]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("would refuse what it signs"), "{said}");
    scene.admin.revoke(&key.key).await.unwrap();
    scene.until_status(&key.secret, 401).await;
}
