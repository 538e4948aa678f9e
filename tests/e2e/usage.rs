//! Who still uses which version: counted in every worker, and told to the control plane, once.

use keywheel_testkit::until;
use serde_json::Value;

use crate::command_line::keywheel;
use crate::scene::Scene;

/// How often a version had an outcome, as the control plane has it.
async fn counted(scene: &Scene, key: &str, version: &str, outcome: &str) -> u64 {
    let usage = keywheel(&scene.control, &["key", "usage", key]).await;
    let rows = usage["hours"].as_array().cloned().unwrap_or_default();
    let ours = |row: &&Value| row["version"] == version && row["outcome"] == outcome;
    rows.iter().filter(ours).filter_map(|row| row["count"].as_u64()).sum()
}

#[tokio::test]
async fn requests_are_counted_by_version_and_outcome() {
    let mut scene = Scene::start().await;
    let old = scene.key().await;
    let new = scene.admin.rotate(&old.key, 3600).await.unwrap();
    scene.settle().await;
    for _ in 0..20 {
        assert_eq!(scene.get_with_key(&old.secret).await.status, 200);
    }
    for _ in 0..7 {
        assert_eq!(scene.get_with_key(&new.secret).await.status, 200);
    }
    until("the control plane knows of every request", async || {
        let known = (
            counted(&scene, &old.key, &old.version, "valid").await,
            counted(&scene, &old.key, &new.version, "valid").await,
        );
        assert!(known.0 <= 20 && known.1 <= 7, "counted twice: {known:?}");
        (known == (20, 7)).then_some(())
    })
    .await
    .unwrap();

    // What happens while the control plane is away is told when it is back.
    scene.control.kill();
    for _ in 0..5 {
        assert_eq!(scene.get_with_key(&old.secret).await.status, 200);
    }
    scene.control.restart().await.unwrap();
    scene.admin.revoke_version(&old.key, &old.version).await.unwrap();
    scene.until_status(&old.secret, 401).await;
    until("and of refused ones", async || {
        let valid = counted(&scene, &old.key, &old.version, "valid").await;
        let refused = counted(&scene, &old.key, &old.version, "key_revoked").await;
        assert!(valid <= 25 + 8, "counted twice: {valid}");
        (valid >= 25 && refused >= 8).then_some(())
    })
    .await
    .unwrap();
}
