//! Keeps SQLite's write-ahead log short, beside the writer: a commit that has to do it waits for the disk twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::store::Store;

/// A log of so much time is folded at once.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `shutdown`.
pub async fn run(store: Arc<Store>, mut shutdown: watch::Receiver<bool>) {
    let mut written = store.audited.subscribe();
    let mut failing = false;
    loop {
        let some = async {
            let changed = written.changed().await;
            tokio::time::sleep(INTERVAL).await;
            changed
        };
        tokio::select! {
            changed = some => if changed.is_err() { return },
            _ = shutdown.wait_for(|stopping| *stopping) => return,
        }
        match store.fold_log().await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                warn!(%error, "The write-ahead log could not be folded; trying again with the next changes");
                failing = true;
            }
            Err(_) => {}
        }
    }
}
