//! Carries rotations out when their overlap ends.

use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tracing::{error, info};

use crate::clock;
use crate::store::{Context, Store, StoreError};

/// The longest sleep: a wall clock that jumps is noticed after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// Completes every rotation whose deadline has passed, each in a transaction of its own.
///
/// # Errors
///
/// [`StoreError`]; what was completed before it stays so.
pub async fn catch_up(store: &Store, now: Millis) -> Result<(), StoreError> {
    let context = Context::system(now);
    while let Some(rotation) = store.complete_one_due(&context).await? {
        info!(
            rotation.id,
            key.id = rotation.key,
            version.id = rotation.old_version,
            "Rotation {} is complete: version {} is retired",
            rotation.id,
            rotation.old_version,
        );
    }
    Ok(())
}

/// Runs until `shutdown`. What was missed while nothing ran is caught up first.
pub async fn run(store: Arc<Store>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let sleep = match step(&store).await {
            Ok(sleep) => sleep,
            Err(error) => {
                error!(%error, "A rotation's deadline could not be looked at; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = store.deadlines.notified() => {}
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// Completes what is due and says how long nothing will be.
async fn step(store: &Store) -> Result<Duration, StoreError> {
    let Some(deadline) = store.next_deadline().await? else { return Ok(LOOK_AGAIN) };
    let now = clock::now();
    if deadline <= now {
        catch_up(store, now).await?;
        return Ok(Duration::ZERO);
    }
    Ok(Duration::from_millis(deadline.saturating_since(now)).min(LOOK_AGAIN))
}
