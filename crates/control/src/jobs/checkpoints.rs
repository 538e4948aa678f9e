//! Has the audit trail signed as it grows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::error;

use crate::clock;
use crate::notary::Notary;
use crate::store::Store;

/// So many records at most are not covered by a checkpoint, unless they come faster than they are signed.
pub const EVERY: u64 = 100;
/// However few they are, records are covered after this time.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Runs until `shutdown`. What a sudden end left unsigned is signed first.
pub async fn run(store: Arc<Store>, notary: Arc<Notary>, mut shutdown: watch::Receiver<bool>) {
    let mut audited = store.audited.subscribe();
    loop {
        let seen = *audited.borrow_and_update();
        if let Err(error) = notary.sign(clock::now()).await {
            error!(%error, "The audit trail could not be signed; trying again after {EVERY} records or an hour");
        }
        tokio::select! {
            _ = audited.wait_for(|seq| seq.saturating_sub(seen) >= EVERY) => {}
            () = tokio::time::sleep(INTERVAL) => {}
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
    }
}
