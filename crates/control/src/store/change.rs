//! The unit of work. A state change, its audit record and its ring revisions commit together, or
//! not at all; whoever waits for the ring is woken after the commit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use keywheel_api::audit::{Head, SYSTEM};
use keywheel_keyring::Millis;
use sqlx::{Any, Row as _, Transaction};
use tokio::sync::watch;

use super::db::Dialect;
use super::replicas::CHANNEL;
use super::rows::{int, uint};
use super::{Store, StoreError};

/// Who asks for a change, when, and in which request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The id of a token, of a key and its version, or [`SYSTEM`].
    pub actor: String,
    pub now: Millis,
    pub request_id: Option<String>,
    pub client_address: Option<IpAddr>,
    /// Is told what the change committed.
    pub committed: Committed,
}

/// The revisions that a request's changes took: the last one of each ring, and when it was committed. Clones share
/// what they hold.
#[derive(Debug, Clone, Default)]
pub struct Committed(Arc<Mutex<BTreeMap<i64, (u64, Instant)>>>);

/// A change under way. Dropped without [`commit`](Self::commit), it never was.
pub(super) struct Change<'a> {
    pub(super) tx: Transaction<'static, Any>,
    pub(super) context: &'a Context,
    store: &'a Store,
    heads: BTreeMap<i64, u64>,
    /// The end of the audit trail, once this change has its record in it.
    pub(super) audited: Option<Head>,
}

/// The newest committed revision of each ring, for whoever waits.
#[derive(Debug, Default)]
pub(super) struct Heads(Mutex<BTreeMap<i64, watch::Sender<u64>>>);

impl Context {
    /// Of what the control plane does by itself.
    #[must_use]
    pub fn system(now: Millis) -> Self {
        Self {
            actor: SYSTEM.to_owned(),
            now,
            request_id: None,
            client_address: None,
            committed: Committed::default(),
        }
    }
}

impl Store {
    pub(super) async fn begin<'a>(&'a self, context: &'a Context) -> Result<Change<'a>, StoreError> {
        let tx = self.db.write().await?;
        Ok(Change { tx, context, store: self, heads: BTreeMap::new(), audited: None })
    }

    /// Tells those who follow a ring that `head` is committed. A reader may see a commit before the
    /// writer has come to say so; a document cut at it must not be ahead of what is then answered.
    pub(super) fn known(&self, ring: i64, head: u64) {
        self.heads.publish(ring, head);
    }

    /// Follows a ring's head.
    pub(crate) fn watch_head(&self, ring: i64, known: u64) -> watch::Receiver<u64> {
        self.heads.subscribe(ring, known)
    }
}

impl Change<'_> {
    pub(super) const fn now(&self) -> Millis {
        self.context.now
    }

    /// Takes the ring's next revision. Its row stays locked until the commit.
    pub(super) async fn next_revision(&mut self, ring: i64) -> Result<u64, StoreError> {
        self.next_revisions(ring, 1).await
    }

    /// Takes a run of revisions and returns its last.
    pub(super) async fn next_revisions(&mut self, ring: i64, count: u64) -> Result<u64, StoreError> {
        let row = sqlx::query("UPDATE rings SET revision = revision + $1 WHERE id = $2 RETURNING revision")
            .bind(int(count))
            .bind(ring)
            .fetch_one(&mut *self.tx)
            .await?;
        let head = uint(row.try_get(0)?);
        self.heads.insert(ring, head);
        Ok(head)
    }

    /// Commits what is no state change: when the scheduler looks again, what it announced, what a rotation waits
    /// for.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing of it happened.
    pub(super) async fn commit_notes(self) -> Result<(), StoreError> {
        if self.audited.is_some() {
            return self.commit().await;
        }
        if !self.heads.is_empty() {
            return Err(StoreError::Corrupt("a ring changed without an audit record".into()));
        }
        Ok(self.tx.commit().await?)
    }

    /// # Errors
    ///
    /// [`StoreError`]; then nothing of the change happened.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        let Some(audited) = self.audited else {
            return Err(StoreError::Corrupt("a change without an audit record was about to commit".into()));
        };
        if self.store.db.dialect == Dialect::Postgres {
            let rings = self.heads.iter().map(|(ring, head)| format!(" {ring}:{head}"));
            let payload = format!("{}{}", audited.seq, rings.collect::<String>());
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(payload)
                .execute(&mut *self.tx)
                .await?;
        }
        self.store.db.commit(self.tx).await?;
        for (ring, head) in self.heads {
            self.store.heads.publish(ring, head);
            self.context.committed.add(ring, head);
        }
        self.store.committed(audited.seq);
        Ok(())
    }
}

// === impl Committed ===

impl Committed {
    /// By ring.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<i64, (u64, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, ring: i64, head: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ring, (head, Instant::now()));
    }
}

// === impl Heads ===

impl Heads {
    fn subscribe(&self, ring: i64, known: u64) -> watch::Receiver<u64> {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let head = rings.entry(ring).or_insert_with(|| watch::Sender::new(known));
        raise(head, known);
        head.subscribe()
    }

    fn publish(&self, ring: i64, head: u64) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raise(rings.entry(ring).or_insert_with(|| watch::Sender::new(head)), head);
    }
}

fn raise(head: &watch::Sender<u64>, to: u64) {
    head.send_if_modified(|head| {
        let newer = to > *head;
        *head = to.max(*head);
        newer
    });
}
