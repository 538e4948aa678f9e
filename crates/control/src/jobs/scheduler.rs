//! Begins and retires versions, and with them rotations, when their time comes.

use std::sync::Arc;
use std::time::Duration;

use keywheel_api::time::timestamp;
use keywheel_api::{Rotation, RotationState};
use keywheel_keyring::Millis;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::clock;
use crate::store::{Context, Due, News, Store, StoreError};

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

/// Begins and retires versions whose time has come, so that nobody is served what is over. The rest can wait for
/// [`run`].
///
/// # Errors
///
/// [`StoreError`]; what was carried out before it stays so.
pub async fn catch_up_deadlines(store: &Store, now: Millis) -> Result<(), StoreError> {
    let context = Context::system(now);
    while let Some(due) = store.begin_or_retire_one_due(&context).await? {
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
        Due::BrownedOut(rotation) => info!(
            rotation.id,
            key.id = rotation.key,
            "Rotation {}: a share of the requests with version {} is refused until its deadline",
            rotation.id,
            rotation.old_version,
        ),
        Due::Judged(rotations) => rotations.iter().for_each(judged),
        Due::Started(rotation) => info!(
            rotation.id,
            key.id = rotation.key,
            "The schedule of key {} started rotation {} to the version that was deposited",
            rotation.key,
            rotation.id,
        ),
        Due::DepositRefused { key, why } => {
            warn!(
                key.id = key,
                why, "Key {key} could not be rotated to the version that was deposited: {why}"
            );
        }
        Due::Campaign { campaign, news } => {
            if let Some(news) = news {
                campaign_news(campaign, *news);
            }
        }
        Due::Planned(notices) => {
            for (key, notice) in notices {
                let (kind, at) = (notice.kind, timestamp(notice.step_at));
                info!(key.id = key, notice = ?kind, at = %at, "Notice for key {key}: {kind:?} at {at}");
            }
        }
        Due::Retired { key, version } => {
            info!(key.id = key, version.id = version, "Version {version} of key {key} is retired");
        }
    }
}

fn campaign_news(campaign: &str, news: News) {
    match news {
        News::Wave { number, keys } => {
            info!(campaign, wave = number, keys, "Campaign {campaign}: wave {number} has {keys} keys");
        }
        News::Rotating { keys } => {
            info!(campaign, keys, "Campaign {campaign} started {keys} rotations");
        }
        News::Halted(reason) => {
            warn!(campaign, ?reason, "Campaign {campaign} is halted until it is resumed: {reason:?}");
        }
        News::Completed => info!(campaign, "Campaign {campaign} is complete"),
        News::RolledBack => info!(campaign, "Campaign {campaign} is rolled back"),
    }
}

fn judged(rotation: &Rotation) {
    let Rotation { id, key, old_version, overlap_ends_at, .. } = rotation;
    if rotation.state == RotationState::Draining {
        info!(
            rotation.id = id,
            key.id = key,
            "Rotation {id}: nobody uses version {old_version}; it ends at {overlap_ends_at}"
        );
    } else {
        info!(
            rotation.id = id,
            key.id = key,
            "Rotation {id}: version {old_version} is in use after all; it ends at {overlap_ends_at}"
        );
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
    let now = clock::now();
    let Some(deadline) = store.next_deadline(now).await? else { return Ok(LOOK_AGAIN) };
    if deadline <= now {
        catch_up(store, now).await?;
        return Ok(Duration::ZERO);
    }
    Ok(Duration::from_millis(deadline.saturating_since(now)).min(LOOK_AGAIN))
}
