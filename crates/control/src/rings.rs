//! The rings that are served: those that were there at the start, and those that were made since, here or by
//! another replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keywheel_keyring::Millis;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::ring::Publisher;
use crate::signers::Signers;
use crate::store::{RingRecord, Store, StoreError};

/// How soon after a failure a ring that was made elsewhere is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// By name. One that was opened stays: rings are not deleted.
#[derive(Debug)]
pub(crate) struct Rings {
    store: Arc<Store>,
    signers: Arc<Signers>,
    stopping: watch::Receiver<bool>,
    // A std lock: it is held for a lookup, never across an await.
    open: RwLock<BTreeMap<String, Arc<Publisher>>>,
    opened: watch::Sender<usize>,
}

impl Rings {
    pub(crate) fn new(store: Arc<Store>, signers: Arc<Signers>, stopping: watch::Receiver<bool>) -> Self {
        Self { store, signers, stopping, open: RwLock::default(), opened: watch::Sender::new(0) }
    }

    /// Opens those of the database that are not open yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was opened before it stays so.
    pub(crate) async fn open(&self) -> Result<(), StoreError> {
        for record in self.store.rings().await? {
            if self.get(&record.name).is_some() {
                continue;
            }
            if record.held {
                warn!(
                    ring = record.name,
                    "Ring {} is held back: this is a restored copy, and what was revoked since is not in it. Stop, \
                     run `keywheel restore --in-place` with it or with --accept-loss, and start again",
                    record.name,
                );
            }
            // Whose turn it is to sign is known before anything is signed.
            self.store.standing(record.id).await?;
            let proxies = self.store.proxies(record.id, Millis(0)).await?;
            let (store, signers) = (self.store.clone(), self.signers.clone());
            self.insert(Publisher::new(record, signers, store, proxies, self.stopping.clone()));
        }
        Ok(())
    }

    /// Opens one that was made just now, so that no proxy has asked for it.
    pub(crate) fn add(&self, record: RingRecord) {
        let (store, signers) = (self.store.clone(), self.signers.clone());
        self.insert(Publisher::new(record, signers, store, Vec::new(), self.stopping.clone()));
    }

    fn insert(&self, publisher: Publisher) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // It may have been opened meanwhile, and whoever waits for that one must be woken.
        open.entry(publisher.record.name.clone()).or_insert_with(|| Arc::new(publisher));
        self.opened.send_replace(open.len());
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Publisher>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// By name.
    pub(crate) fn all(&self) -> Vec<Arc<Publisher>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Hands each ring to `serve` once, those that come to be as well, until the control plane stops.
    pub(crate) async fn follow(&self, mut serve: impl FnMut(Arc<Publisher>)) {
        let (mut opened, mut known) = (self.opened.subscribe(), self.store.watch_rings());
        let (mut stopping, mut served, mut missing) = (self.stopping.clone(), BTreeSet::new(), false);
        loop {
            opened.mark_unchanged();
            for ring in self.all() {
                if served.insert(ring.record.id) {
                    serve(ring);
                }
            }
            tokio::select! {
                _ = opened.changed() => continue,
                _ = known.changed() => {}
                () = sleep(AGAIN), if missing => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            missing = match self.open().await {
                Ok(()) => false,
                Err(error) => {
                    warn!(%error, "A ring that another control plane made cannot be opened yet");
                    true
                }
            };
        }
    }
}
