//! Begins and retires versions, and with them rotations, when their time comes.

use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tracing::{error, info};

use crate::clock;
use crate::store::{Context, Due, Store, StoreError};

/// The longest sleep: a wall clock that jumps is noticed after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// Carries out everything whose time has come, each in a transaction of its own.
///
/// # Errors
///
/// [`StoreError`]; what was carried out before it stays so.
pub async fn catch_up(store: &Store, now: Millis) -> Result<(), StoreError> {
    let context = Context::system(now);
    while let Some(due) = store.carry_out_one_due(&context).await? {
        log(&due);
    }
    Ok(())
}

fn log(due: &Due) {
    match due {
        Due::Begun { key, version } => {
            info!(key.id = key, version.id = version, "Version {version} of key {key} is active");
        }
        Due::Overlapping(rotation) => info!(
            rotation.id,
            key.id = rotation.key,
            version.id = rotation.new_version,
            "Rotation {} has begun: version {} is active, {} is accepted until {}",
            rotation.id,
            rotation.new_version,
            rotation.old_version,
            rotation.overlap_ends_at,
        ),
        Due::Completed(rotation) => info!(
            rotation.id,
            key.id = rotation.key,
            version.id = rotation.old_version,
            "Rotation {} is complete: version {} is retired",
            rotation.id,
            rotation.old_version,
        ),
        Due::Retired { key, version } => {
            info!(key.id = key, version.id = version, "Version {version} of key {key} is retired");
        }
    }
}

/// Runs until `shutdown`. What was missed while nothing ran is caught up first.
pub async fn run(store: Arc<Store>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let sleep = match step(&store).await {
            Ok(sleep) => sleep,
            Err(error) => {
                error!(%error, "A deadline could not be looked at; trying again");
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

/// Carries out what is due and says how long nothing will be.
async fn step(store: &Store) -> Result<Duration, StoreError> {
    let Some(deadline) = store.next_deadline().await? else { return Ok(LOOK_AGAIN) };
    let now = clock::now();
    if deadline <= now {
        catch_up(store, now).await?;
        return Ok(Duration::ZERO);
    }
    Ok(Duration::from_millis(deadline.saturating_since(now)).min(LOOK_AGAIN))
}
