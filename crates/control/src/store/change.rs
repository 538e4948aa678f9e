//! The unit of work. A state change, its audit record and its ring revisions commit together, or
//! not at all; whoever waits for the ring is woken after the commit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use keywheel_api::audit::{Head, SYSTEM};
use keywheel_keyring::Millis;
use sqlx::{Any, Row as _, Transaction};
use tokio::sync::watch;

use super::canary::Canary;
use super::db::Dialect;
use super::preconditions::Precondition;
use super::repeats::Attempt;
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
    /// Of a request that is carried out once: commits its change.
    pub attempt: Option<Attempt>,
    /// What the change is made on condition of.
    pub condition: Option<Precondition>,
}

/// The revisions that a request's changes took: the last one of each ring, and when it was committed. Clones share
/// what they hold.
#[derive(Debug, Clone, Default)]
pub struct Committed(Arc<Mutex<Commits>>);

#[derive(Debug, Default)]
struct Commits {
    heads: BTreeMap<i64, (u64, Instant)>,
    /// Versions that wait in a canary.
    waits: Vec<String>,
}

/// A change under way. Dropped without [`commit`](Self::commit), it never was.
pub(super) struct Change<'a> {
    pub(super) tx: Transaction<'static, Any>,
    pub(super) context: &'a Context,
    store: &'a Store,
    heads: BTreeMap<i64, u64>,
    /// Of the rings that were asked about.
    pub(super) canaries: BTreeMap<i64, Option<Canary>>,
    /// Versions that it makes and that wait in a canary.
    pub(super) waits: Vec<String>,
    /// The end of the audit trail, once this change has its record in it.
    pub(super) audited: Option<Head>,
    /// The count of switches of signing keys, if this is one.
    pub(super) activation: Option<u64>,
}

/// A change that lacks nothing but the commit. Dropped, it never was.
pub(super) struct Uncommitted {
    pub(super) tx: Transaction<'static, Any>,
    heads: BTreeMap<i64, u64>,
    waits: Vec<String>,
    /// Absent where only an answer is kept.
    audited: Option<Head>,
    activation: Option<u64>,
    /// What the caller does once it is committed.
    then: Vec<Box<dyn FnOnce() + Send>>,
}

/// A point to which a change can go back.
pub(super) struct Mark {
    heads: BTreeMap<i64, u64>,
    waits: Vec<String>,
    audited: Option<Head>,
}

/// The newest committed revision of each ring, for whoever waits.
#[derive(Debug, Default)]
pub(super) struct Heads {
    by_ring: Mutex<BTreeMap<i64, watch::Sender<u64>>>,
    /// How many rings are known.
    rings: watch::Sender<usize>,
}

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
            attempt: None,
            condition: None,
        }
    }

    /// The same, for a request of which each change commits by itself.
    #[must_use]
    pub fn in_parts(&self) -> Self {
        Self { attempt: None, ..self.clone() }
    }

    /// Does something that nobody may see before the change is committed.
    pub fn once_committed(&self, then: impl FnOnce() + Send + 'static) {
        match &self.attempt {
            Some(attempt) => attempt.once_committed(Box::new(then)),
            None => then(),
        }
    }
}

impl Store {
    pub(super) async fn begin<'a>(&'a self, context: &'a Context) -> Result<Change<'a>, StoreError> {
        let mut tx = self.db.write().await?;
        if let Some(attempt) = &context.attempt {
            attempt.begin(&mut tx, context.now).await?;
        }
        let mut change = Change {
            tx,
            context,
            store: self,
            heads: BTreeMap::new(),
            canaries: BTreeMap::new(),
            waits: Vec::new(),
            audited: None,
            activation: None,
        };
        if let Some(condition) = &context.condition {
            change.require(condition).await?;
        }
        Ok(change)
    }

    /// Tells those who follow a ring that `head` is committed. A reader may see a commit before the
    /// writer has come to say so; a document cut at it must not be ahead of what is then answered.
    pub(super) fn known(&self, ring: i64, head: u64) {
        self.heads.publish(ring, head);
    }

    /// Changes when a ring is heard of that nobody follows here yet.
    pub(crate) fn watch_rings(&self) -> watch::Receiver<usize> {
        self.heads.rings.subscribe()
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

    pub(super) const fn dialect(&self) -> Dialect {
        self.store.db.dialect
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

    /// Tells of a ring that this change makes.
    pub(super) fn tell_of_ring(&mut self, ring: i64, revision: u64) {
        self.heads.insert(ring, revision);
    }

    /// Begins a part that may be refused: [`pass`](Self::pass) or [`go_back`](Self::go_back) ends it.
    pub(super) async fn mark(&mut self) -> Result<Mark, StoreError> {
        sqlx::raw_sql("SAVEPOINT mark").execute(&mut *self.tx).await?;
        Ok(Mark { heads: self.heads.clone(), waits: self.waits.clone(), audited: self.audited })
    }

    pub(super) async fn pass(&mut self, _: Mark) -> Result<(), StoreError> {
        sqlx::raw_sql("RELEASE SAVEPOINT mark").execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Nothing since the mark was.
    pub(super) async fn go_back(&mut self, mark: Mark) -> Result<(), StoreError> {
        // One by one: not every driver runs several through one call.
        for sql in ["ROLLBACK TO SAVEPOINT mark", "RELEASE SAVEPOINT mark"] {
            sqlx::raw_sql(sql).execute(&mut *self.tx).await?;
        }
        Mark { heads: self.heads, waits: self.waits, audited: self.audited } = mark;
        Ok(())
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

    /// Commits, or leaves that to whoever keeps the answer.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing of the change happened.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        if self.audited.is_none() {
            return Err(StoreError::Corrupt("a change without an audit record was about to commit".into()));
        }
        let Self { tx, context, store, heads, waits, audited, activation, canaries: _ } = self;
        let uncommitted = Uncommitted { tx, heads, waits, audited, activation, then: Vec::new() };
        match &context.attempt {
            Some(attempt) => {
                attempt.park(uncommitted);
                Ok(())
            }
            None => uncommitted.commit(store, context).await,
        }
    }
}

// === impl Uncommitted ===

impl Uncommitted {
    /// Of what is no state change.
    pub(super) fn of(tx: Transaction<'static, Any>) -> Self {
        let (heads, waits, then) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { tx, heads, waits, audited: None, activation: None, then }
    }

    pub(super) fn once_committed(&mut self, then: Box<dyn FnOnce() + Send>) {
        self.then.push(then);
    }

    pub(super) async fn commit(mut self, store: &Store, context: &Context) -> Result<(), StoreError> {
        if let Some(audited) = self.audited.filter(|_| store.db.dialect == Dialect::Postgres) {
            let rings = self.heads.iter().map(|(ring, head)| format!(" {ring}:{head}"));
            let payload = format!("{}{}", audited.seq, rings.collect::<String>());
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(payload)
                .execute(&mut *self.tx)
                .await?;
        }
        store.db.commit(self.tx).await?;
        for (ring, head) in self.heads {
            store.heads.publish(ring, head);
            context.committed.add(ring, head);
        }
        context.committed.wait(self.waits);
        if let Some(activation) = self.activation {
            store.signed_by(activation);
        }
        if let Some(audited) = self.audited {
            store.committed(audited.seq);
        }
        for then in self.then {
            then();
        }
        Ok(())
    }
}

// === impl Committed ===

impl Committed {
    /// By ring.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<i64, (u64, Instant)> {
        self.commits().heads.clone()
    }

    /// Versions that it made and that are in no ring but a canary yet.
    #[must_use]
    pub fn waits(&self) -> Vec<String> {
        self.commits().waits.clone()
    }

    fn add(&self, ring: i64, head: u64) {
        self.commits().heads.insert(ring, (head, Instant::now()));
    }

    fn wait(&self, versions: Vec<String>) {
        self.commits().waits.extend(versions);
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Heads ===

impl Heads {
    fn subscribe(&self, ring: i64, known: u64) -> watch::Receiver<u64> {
        let mut rings = self.by_ring.lock().unwrap_or_else(PoisonError::into_inner);
        let head = rings.entry(ring).or_insert_with(|| watch::Sender::new(known));
        raise(head, known);
        head.subscribe()
    }

    fn publish(&self, ring: i64, head: u64) {
        let mut rings = self.by_ring.lock().unwrap_or_else(PoisonError::into_inner);
        raise(rings.entry(ring).or_insert_with(|| watch::Sender::new(head)), head);
        let count = rings.len();
        self.rings.send_if_modified(|known| std::mem::replace(known, count) != count);
    }
}

fn raise(head: &watch::Sender<u64>, to: u64) {
    head.send_if_modified(|head| {
        let newer = to > *head;
        *head = to.max(*head);
        newer
    });
}
