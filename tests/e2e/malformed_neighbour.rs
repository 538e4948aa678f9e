//! Another plugin writes bytes over ours that nobody could have meant. No bad key gets in by it, the
//! filter lives, and the ring mends itself.
//!
//! That is all that is promised: a plugin which forges well-formed bytes is not found out.

use keywheel_keyring::Digest;
use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{Connection, until};

use crate::neighbour::{Neighbour, assert_no_trap, overwrite, overwrite_on};
use crate::scene::{Scene, on_every_worker, settle_under_some_name};
use crate::traffic::Traffic;

/// What no part of the filter ever writes.
fn malformed() -> [Vec<u8>; 3] {
    [b"\x00".to_vec(), vec![0xff; 100], b"\x01\x01\x01 not what it seems".to_vec()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_damaged_record_is_mended() {
    let neighbour = Neighbour::new();
    let scene = neighbour.scene(2).await;
    let (key, revoked) = scene.valid_and_revoked().await;
    let traffic = Traffic::start(scene.envoy.listener(), &key).refusing("revoked", &revoked.secret);
    for name in names(&[&key, &revoked]) {
        for bytes in malformed() {
            overwrite(scene.envoy.listener(), &name, &bytes).await;
            assert_mended(&scene, &key, &revoked, &name).await;
        }
    }
    // While the ring is fetched anew there is none to decide by, and the filter says just that.
    traffic.assert_served_or(&[503]).await;
    assert_no_trap(&scene).await;
    assert!(scene.envoy.log().contains("a stored bucket is damaged"), "the plugin damaged nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_damage_lets_nobody_in_and_passes() {
    let neighbour = Neighbour::new();
    let scene = neighbour.scene(2).await;
    let listener = scene.envoy.listener();
    let (key, revoked) = scene.valid_and_revoked().await;
    let traffic = Traffic::start(listener, &key).refusing("revoked", &revoked.secret);
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let names = names(&[&key, &revoked]);
        storm.spawn(async move {
            let mut connection = Connection::open(listener).await.unwrap();
            for _ in 0..40 {
                for name in &names {
                    for bytes in malformed() {
                        overwrite_on(&mut connection, name, &bytes).await;
                    }
                }
            }
        });
    }
    // The ring changes in the midst of it.
    let new = scene.admin.create_key("acme", &[]).await.unwrap();
    while let Some(done) = storm.join_next().await {
        done.unwrap();
    }
    assert_mended(&scene, &new, &revoked, "everything").await;
    assert_mended(&scene, &key, &revoked, "everything").await;
    traffic.assert_served_or(&[503]).await;
    assert_no_trap(&scene).await;
}

/// A bucket that was written always holds something, so nobody meant this either.
#[tokio::test]
async fn an_emptied_bucket_is_mended() {
    let neighbour = Neighbour::new();
    let scene = neighbour.scene(2).await;
    let (key, revoked) = scene.valid_and_revoked().await;
    let bucket = format!("b{:04x}", Digest::of(key.secret.as_bytes()).bucket());
    overwrite(scene.envoy.listener(), &bucket, b"").await;
    assert_mended(&scene, &key, &revoked, &bucket).await;
}

/// Every kind of record that the filter keeps, the buckets of these keys among them.
fn names(keys: &[&Issued]) -> Vec<String> {
    let buckets = keys.iter().map(|key| format!("b{:04x}", Digest::of(key.secret.as_bytes()).bucket()));
    ["g", "l", "c", "v", "o", "i"].into_iter().map(str::to_owned).chain(buckets).collect()
}

/// The ring is whole on every worker, and goes on changing.
async fn assert_mended(scene: &Scene, valid: &Issued, revoked: &Issued, name: &str) {
    let mut connections = on_every_worker(&scene.envoy, scene.envoy.listener()).await;
    // A change of the ring has every worker read what is stored.
    let new = scene.admin.create_key("acme", &[]).await.unwrap();
    until(&format!("the ring is whole again after damage to {name}"), async || {
        for connection in &mut connections {
            for key in [valid, &new] {
                if connection.get("/", &[("x-api-key", &key.secret)]).await.ok()?.status != 200 {
                    return None;
                }
            }
            let reply = connection.get("/", &[("x-api-key", &revoked.secret)]).await.ok()?;
            assert_ne!(reply.status, 200, "a revoked key was accepted after damage to {name}");
        }
        Some(())
    })
    .await
    .unwrap();
    // By whatever name: the process's own is among what was damaged.
    scene.admin.revoke(&new.key).await.unwrap();
    settle_under_some_name(&scene.admin, RING).await;
    // That word rests on the list of VMs, which was damaged too; so each worker is asked.
    until(&format!("every worker refuses a revoked key after damage to {name}"), async || {
        for connection in &mut connections {
            if connection.get("/", &[("x-api-key", &new.secret)]).await.ok()?.status == 200 {
                return None;
            }
        }
        Some(())
    })
    .await
    .unwrap();
}
