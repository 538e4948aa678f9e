//! The VM that fetches the ring falls silent: to the others a leader that hangs, trapped or was killed
//! looks the same, a record in which nothing moves. One of them takes over, and the ring goes on.

use crate::neighbour::{Neighbour, assert_no_trap, lease, overwrite};
use crate::scene::Scene;
use crate::traffic::Traffic;

const GHOST: u64 = 0xdead_dead_dead_dead;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_a_leader_that_serves_nobody_falls_silent() {
    check(2, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_a_leader_that_serves_falls_silent() {
    check(2, true).await;
}

/// Nine VMs lose patience at about the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_takes_over() {
    check(8, false).await;
}

async fn check(workers: usize, serves: bool) {
    let neighbour = Neighbour::new();
    let scene = neighbour.scene(workers).await;
    let (key, revoked) = scene.valid_and_revoked().await;
    let traffic = Traffic::start(scene.envoy.listener(), &key).refusing("revoked", &revoked.secret);
    for beat in 0..3 {
        let led = leaders(&scene);
        overwrite(scene.envoy.listener(), "l", &lease(GHOST, beat, serves)).await;
        assert_refreshes(&scene).await;
        assert!(leaders(&scene) > led, "nobody took over, so nothing was taken");
    }
    traffic.assert_served().await;
    assert_no_trap(&scene).await;
    // All under one name, whoever of them fetched.
    scene.until_vms(workers + 1).await;
}

/// How many times a VM began to fetch.
fn leaders(scene: &Scene) -> usize {
    scene.envoy.log().matches("this VM fetches the ring from now on").count()
}

/// A new key is accepted and a revoked one refused.
pub(crate) async fn assert_refreshes(scene: &Scene) {
    let key = scene.key().await;
    for _ in 0..8 {
        assert_eq!(scene.get_with_key(&key.secret).await.status, 200);
    }
    scene.admin.revoke(&key.key).await.unwrap();
    scene.settle().await;
    for _ in 0..8 {
        assert_eq!(scene.get_with_key(&key.secret).await.status, 401);
    }
}
