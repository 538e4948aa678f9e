//! Two claim to fetch the ring, in turn, as fast as they can. As long as that goes on everybody serves
//! what there is; when it ends, one fetches.

use keywheel_testkit::Connection;

use crate::leader_silent::assert_refreshes;
use crate::neighbour::{Neighbour, assert_no_trap, lease, overwrite_on};
use crate::traffic::Traffic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_claim_the_lease_disturb_no_request_and_leave_one() {
    let neighbour = Neighbour::new();
    let scene = neighbour.scene(2).await;
    let (key, revoked) = scene.valid_and_revoked().await;
    let traffic = Traffic::start(scene.envoy.listener(), &key).refusing("revoked", &revoked.secret);
    // The real leader is a third: it loses the lease to each of them, and claims it in between.
    let mut connection = Connection::open(scene.envoy.listener()).await.unwrap();
    for beat in 0..500 {
        for (holder, serves) in [(1, false), (2, true)] {
            overwrite_on(&mut connection, "l", &lease(holder, beat, serves)).await;
            overwrite_on(&mut connection, "c", &lease(holder, beat, serves)).await;
        }
    }
    assert_refreshes(&scene).await;
    traffic.assert_served().await;
    assert_no_trap(&scene).await;
    scene.until_vms(3).await;
}
