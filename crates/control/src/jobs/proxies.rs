//! Writes down what proxies said, and takes what other replicas wrote down.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::clock;
use crate::ring::Proxies;
use crate::store::{Store, StoreError};

/// Other replicas learn of acknowledgements from the database, and who waits for them is there.
const SHARED: Duration = Duration::from_millis(50);
/// Alone, what is in memory is what counts; after a restart proxies say it again.
const ALONE: Duration = Duration::from_secs(5);
/// How often it is written down who was heard of without news.
const HEARD: Duration = Duration::from_secs(5);
/// How often everything is read, so that what another replica forgot is forgotten here.
const RELOAD: Duration = Duration::from_secs(60);
/// What is read again, in milliseconds, since the clocks of replicas differ.
const AGAIN: u64 = 10_000;

/// Runs until `shutdown`, and writes everything down at its end.
pub async fn run(store: Arc<Store>, ring: i64, proxies: Arc<Proxies>, mut shutdown: watch::Receiver<bool>) {
    let mut writing = interval(if store.is_shared() { SHARED } else { ALONE });
    writing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = store.proxies_written.subscribe();
    let (mut heard, mut reloaded, mut failing) = (Instant::now(), Instant::now(), false);
    let stopped = async move {
        let _ = shutdown.wait_for(|stopping| *stopping).await;
    };
    let mut stopped = pin!(stopped);
    loop {
        let done = tokio::select! {
            _ = writing.tick() => {
                let all = heard.elapsed() >= HEARD;
                if all {
                    heard = Instant::now();
                }
                proxies.write(all).await
            }
            changed = written.changed(), if store.is_shared() => {
                let all = reloaded.elapsed() >= RELOAD;
                if all {
                    reloaded = Instant::now();
                }
                match changed {
                    Ok(()) if all => proxies.catch_up().await,
                    Ok(()) => latest(&store, ring, &proxies).await,
                    Err(_) => return,
                }
            }
            () = &mut stopped => break,
        };
        if let Err(error) = &done
            && !failing
        {
            warn!(%error, "What proxies say cannot be written down or read; trying again");
        }
        failing = done.is_err();
    }
    if let Err(error) = proxies.write(true).await {
        error!(%error, "What proxies said last could not be written down; they will say it again");
    }
}

async fn latest(store: &Store, ring: i64, proxies: &Proxies) -> Result<(), StoreError> {
    let since = Millis(clock::now().0.saturating_sub(AGAIN));
    proxies.merge(store.proxies(ring, since).await?, false);
    Ok(())
}
