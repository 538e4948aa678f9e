//! Has proxies forget versions that ended long ago, and forgets old usage, notices and answers.

use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tracing::{error, info};

use crate::clock;
use crate::store::{Context, KEEP_ANSWERS, Store, StoreError};
use crate::usage::LATELY;

/// How long an ended version stays in the ring, so that its use is refused with the true reason.
pub const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long counts by the hour are kept.
pub const KEEP_USAGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How long notices are kept.
pub const KEEP_NOTICES: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a VM is kept that is not heard of.
pub const KEEP_VMS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Removes every version that ended more than `keep` ago. Returns how many.
///
/// # Errors
///
/// [`StoreError`]; what was removed before it stays so.
pub async fn purge(store: &Store, now: Millis, keep: Duration) -> Result<usize, StoreError> {
    let context = Context::system(now);
    let before = before(now, keep);
    let mut removed: usize = 0;
    loop {
        match store.remove_ended(&context, before).await? {
            0 => return Ok(removed),
            some => removed = removed.saturating_add(some),
        }
    }
}

/// Forgets counts and VMs whose time is over. Returns how many rows of each.
///
/// # Errors
///
/// [`StoreError`]; what was forgotten before it stays so.
pub async fn forget_usage(store: &Store, now: Millis) -> Result<(u64, u64), StoreError> {
    store.forget_minutes(before(now, Duration::from_millis(LATELY))).await?;
    store.forget_usage(before(now, KEEP_USAGE), before(now, KEEP_VMS)).await
}

/// Forgets notices whose time is over. Returns how many.
///
/// # Errors
///
/// [`StoreError`]; what was forgotten before it stays so.
pub async fn forget_notices(store: &Store, now: Millis) -> Result<u64, StoreError> {
    store.forget_notices(before(now, KEEP_NOTICES)).await
}

/// Forgets what requests with an `Idempotency-Key` were answered, once nobody may ask again. Returns how many.
///
/// # Errors
///
/// [`StoreError`]; what was forgotten before it stays so.
pub async fn forget_answers(store: &Store, now: Millis) -> Result<u64, StoreError> {
    store.forget_answers(before(now, Duration::from_millis(KEEP_ANSWERS))).await
}

fn before(now: Millis, keep: Duration) -> Millis {
    Millis(now.0.saturating_sub(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX)))
}

/// Runs until `shutdown`.
pub async fn run(store: Arc<Store>, keep: Duration, mut shutdown: watch::Receiver<bool>) {
    loop {
        match purge(&store, clock::now(), keep).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, "Removed {removed} versions from the rings that ended long ago"),
            Err(error) => error!(%error, "Ended versions could not be removed; trying again in an hour"),
        }
        match forget_usage(&store, clock::now()).await {
            Ok((0, 0)) => {}
            Ok((hours, vms)) => info!(hours, vms, "Forgot {hours} hourly counts and {vms} VMs of long ago"),
            Err(error) => error!(%error, "Old usage could not be forgotten; trying again in an hour"),
        }
        match forget_notices(&store, clock::now()).await {
            Ok(0) => {}
            Ok(notices) => info!(notices, "Forgot {notices} notices of long ago"),
            Err(error) => error!(%error, "Old notices could not be forgotten; trying again in an hour"),
        }
        match forget_answers(&store, clock::now()).await {
            Ok(0) => {}
            Ok(answers) => info!(answers, "Forgot {answers} answers that could be asked for again"),
            Err(error) => error!(%error, "Old answers could not be forgotten; trying again in an hour"),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
    }
}
