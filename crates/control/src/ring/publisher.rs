//! Answers who asks for a ring, and wakes who waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keywheel_keyring::{Digest, Epoch, Kind, Millis, signature};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::error;

use super::propagation::Propagation;
use super::proxies::{Proxies, Report, Seen};
use super::shelf::Shelf;
use super::waiters::Waiters;
use super::{Press, Signed};
use crate::signers::Signers;
use crate::store::{Cut, RingRecord, Store, StoreError};

/// Everyone whose wait ends within this time gets one heartbeat. Whoever waited at least as long gets
/// one that was issued after they asked.
const HEARTBEAT_AGE: Duration = Duration::from_secs(1);
/// A later page cut before the latest change still serves a proxy, which follows the changes afterwards.
/// Not for long: each page that is far behind means changes to fetch.
const PAGE_AGE: Duration = Duration::from_secs(5);
/// What no change has overtaken serves longer, but must not come near its expiry.
const QUIET_AGE: Duration = Duration::from_secs(60);
const CHANGES_KEPT: usize = 64;
/// At most about 60 MB.
const PAGES_KEPT: usize = 256;

/// One ring, to everyone who asks for it.
#[derive(Debug)]
pub struct Publisher {
    pub record: RingRecord,
    pub proxies: Arc<Proxies>,
    press: Press,
    signers: Arc<Signers>,
    store: Arc<Store>,
    head: watch::Receiver<u64>,
    shutdown: watch::Receiver<bool>,
    changes: Shelf<u64>,
    heartbeats: Shelf<()>,
    pages: Shelf<Option<Digest>>,
    propagation: Propagation,
    waiters: Waiters,
}

/// What of a ring is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Ask {
    Changes { epoch: Epoch, since: u64, wait: Duration },
    Page { after: Option<Digest>, epoch: Option<Epoch>, at_least: u64 },
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("the ring's epoch is {0}; take a snapshot")]
    OtherEpoch(Epoch),
    #[error("revision {asked} is not in this ring's history, which ends at {head}; take a snapshot")]
    NoSuchRevision { asked: u64, head: u64 },
    /// Nothing is published that could bring a revoked key back.
    #[error("a restored copy is held back until what was revoked since is merged with `keywheel restore`")]
    Held,
    /// The database was restored under this process.
    #[error("the database has another epoch than when this control plane started; start it again")]
    Replaced,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write a document: {0}")]
    Json(#[from] serde_json::Error),
}

impl Publisher {
    #[must_use]
    pub fn new(
        record: RingRecord,
        signers: Arc<Signers>,
        store: Arc<Store>,
        known: Vec<Seen>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let ring = (record.id, record.name.clone(), record.epoch);
        Self {
            head: store.watch_head(record.id, record.revision),
            proxies: Arc::new(Proxies::new(ring, store.clone(), known)),
            press: Press::new(&record),
            record,
            signers,
            store,
            shutdown,
            changes: Shelf::new(CHANGES_KEPT),
            heartbeats: Shelf::new(1),
            pages: Shelf::new(PAGES_KEPT),
            propagation: Propagation::default(),
            waiters: Waiters::default(),
        }
    }

    /// The newest committed revision.
    #[must_use]
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Follows the newest committed revision.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// How many requests are held open until the ring changes.
    #[must_use]
    pub fn waiters(&self) -> u64 {
        self.waiters.count()
    }

    /// Takes what a proxy says about itself. Returns how long each commit took that it has come to enforce
    /// since it reported last.
    pub async fn report(&self, report: Report, at: Millis) -> Vec<Duration> {
        let now = Instant::now();
        let here = report.epoch == Some(self.press.epoch());
        let report = self.check(report, now).await;
        let enforced = report.enforced;
        match self.proxies.report(report, at).await {
            Some(before) if here => self.propagation.enforced(before, enforced, now),
            // A proxy that is new has taken the whole ring, and no change.
            _ => Vec::new(),
        }
    }

    /// As [`Publisher::report`], of many proxies that a relay speaks for.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: some are not on disk that were not known before.
    pub async fn report_all(&self, reports: Vec<(Report, Millis)>) -> Result<Vec<Duration>, StoreError> {
        let now = Instant::now();
        let (mut checked, mut enforced) = (Vec::with_capacity(reports.len()), Vec::new());
        for (report, at) in reports {
            let report = self.check(report, now).await;
            enforced.push((report.epoch == Some(self.press.epoch())).then_some(report.enforced));
            checked.push((report, at));
        }
        let before = self.proxies.report_all(checked).await?;
        let steps = before.into_iter().zip(enforced).filter_map(|(before, now)| Some((before?, now?)));
        Ok(steps.flat_map(|(before, after)| self.propagation.enforced(before, after, now)).collect())
    }

    /// What of a report is believed.
    async fn check(&self, report: Report, now: Instant) -> Report {
        // It may have been quicker than whoever notes the commits.
        self.propagation.committed(self.head(), now);
        let here = report.epoch == Some(self.press.epoch());
        // Another replica may have committed what has not been heard of here.
        let head = match self.head() {
            head if !here || report.enforced <= head => head,
            head => self.store.look_at_head(self.record.id).await.unwrap_or(head),
        };
        self.proxies.unless_ahead(report, head)
    }

    /// Notes when revisions are committed, until the control plane stops.
    pub(crate) async fn note_commits(&self) {
        let (mut head, mut shutdown) = (self.head.clone(), self.shutdown.clone());
        loop {
            self.propagation.committed(*head.borrow_and_update(), Instant::now());
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                _ = shutdown.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Whether a signature made now verifies.
    pub(crate) async fn can_sign(&self) -> bool {
        // No document begins like this, so it passes for none.
        const TEXT: &[u8] = b"keywheel: can this key sign?";
        let signing = async {
            let standing = self.store.standing(self.record.id).await?;
            self.signers.key(&standing.signer).await
        };
        let Ok(key) = signing.await else { return false };
        let (signer, signature) = (key.public().id().to_string(), key.sign(TEXT));
        signature::verify(&[key.public()], TEXT, Some(signer.as_bytes()), Some(signature.as_bytes())).is_ok()
    }

    /// # Errors
    ///
    /// [`RingError`]. What is not in the ring's history asks for a snapshot.
    pub async fn answer(&self, ask: Ask) -> Result<Signed, RingError> {
        self.published()?;
        match ask {
            Ask::Changes { epoch, since, wait } => self.changes(epoch, since, wait).await,
            Ask::Page { after, epoch, at_least } => self.page(after, epoch, at_least).await,
        }
    }

    /// # Errors
    ///
    /// [`RingError::Held`].
    pub fn published(&self) -> Result<(), RingError> {
        if self.record.held { Err(RingError::Held) } else { Ok(()) }
    }

    async fn changes(&self, epoch: Epoch, since: u64, wait: Duration) -> Result<Signed, RingError> {
        self.same_epoch(Some(epoch))?;
        self.in_history(since).await?;
        let mut head = self.head.clone();
        let mut shutdown = self.shutdown.clone();
        let waiter = self.waiters.begin();
        // Whoever waits is answered early when the control plane stops, so that it can stop.
        tokio::select! {
            _ = timeout(wait, head.wait_for(|head| *head > since)) => {}
            _ = shutdown.wait_for(|stopping| *stopping) => {}
        }
        drop(waiter);
        let head = self.head();
        let kind = Kind::Changes { since };
        if head == since {
            let make = || async {
                // A change that commits meanwhile is for the next answer.
                let nothing = Cut::nothing(self.store.standing(self.record.id).await?);
                self.sign(kind, Cut { head, revision: head, ..nothing }).await
            };
            let serves = |kept, age| kept == head && age < HEARTBEAT_AGE;
            return self.heartbeats.get(&(), (head, self.store.activation()), serves, make).await;
        }
        let make = || async {
            let cut = self.store.cut_changes(&self.record, since).await?;
            self.sign(kind, cut).await
        };
        let serves = |kept, age| kept >= head && age < QUIET_AGE;
        self.changes.get(&since, (head, self.store.activation()), serves, make).await
    }

    async fn page(
        &self,
        after: Option<Digest>,
        epoch: Option<Epoch>,
        at_least: u64,
    ) -> Result<Signed, RingError> {
        self.same_epoch(epoch)?;
        self.in_history(at_least).await?;
        let make = || async {
            let cut = self.store.cut_page(&self.record, after).await?;
            let through = cut.entries.last().filter(|_| cut.more).map(|entry| entry.digest);
            // It is a guess, so it need not be of the same moment.
            let ahead = match through {
                Some(through) => self.store.end_of_page(&self.record, through).await?,
                None => None,
            };
            // A page holds the state at the head, whatever the revision of its last entry.
            let cut = Cut { revision: cut.head, ..cut };
            Ok(Signed { ahead, ..self.sign(Kind::Snapshot { after, through }, cut).await? })
        };
        // A page is cut at or after the head at which it was asked for. A press has one epoch, so
        // pages of another are never among these.
        let head = self.head();
        // The first page is never behind: where a ring is pushed, a proxy without one enforces what it says until
        // the changes after it come, and a key may have been revoked a moment ago.
        let may_lag = after.is_some();
        let serves =
            |kept, age| age < QUIET_AGE && (kept >= head || (may_lag && kept >= at_least && age < PAGE_AGE));
        self.pages.get(&after, (head, self.store.activation()), serves, make).await
    }

    async fn sign(&self, kind: Kind, cut: Cut) -> Result<Signed, RingError> {
        if cut.epoch != self.press.epoch() {
            return Err(RingError::Replaced);
        }
        let key = self.signers.key(&cut.signer).await?;
        Ok(self.press.sign(kind, cut, &key)?)
    }

    fn same_epoch(&self, asked: Option<Epoch>) -> Result<(), RingError> {
        let epoch = self.press.epoch();
        if asked.is_none_or(|asked| asked == epoch) { Ok(()) } else { Err(RingError::OtherEpoch(epoch)) }
    }

    async fn in_history(&self, asked: u64) -> Result<(), RingError> {
        if asked <= self.head() {
            return Ok(());
        }
        // Another replica may have committed and answered what has not been heard of here.
        let head = self.store.look_at_head(self.record.id).await?;
        if asked <= head {
            return Ok(());
        }
        // Nobody but this control plane hands revisions out, so its data is older than it was.
        error!(
            ring = self.record.name,
            asked,
            head,
            "A proxy is at revision {asked}, this control plane only at {head}: the database is an older copy. \
             Proxies that are ahead refuse it, and others accept keys that were revoked since. Stop it, and \
             bring the newest database back, or run `keywheel restore --in-place` on this one",
        );
        Err(RingError::NoSuchRevision { asked, head })
    }
}
