//! Requests that are carried out once, however often they are sent: what they were answered is kept under the key that
//! the caller chose for them.
//!
//! The answer is not known before the handler has written it, and must be on disk with the change. So a change of such
//! a request does not commit by itself: it is parked in its [`Attempt`], and [`Store::complete`] commits it together
//! with the answer. Until then it holds the write lock, so a repeat that comes meanwhile waits for it, on this
//! replica or another, and finds the answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keywheel_keyring::Millis;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::Uncommitted;
use super::rows::{int, uint};
use super::{Context, Store, StoreError};

/// How long an answer is kept, in milliseconds.
pub const KEEP_ANSWERS: u64 = 24 * 60 * 60 * 1000;
/// Rows of one statement, so that no change waits long behind it.
const CHUNK: i64 = 1000;

/// One try of a request that is carried out once. Clones are the same try.
#[derive(Clone)]
pub struct Attempt {
    request: Arc<Request>,
    state: Arc<Mutex<State>>,
}

/// What a repeat has in common with the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id of a token.
    pub caller: String,
    /// Chosen by the caller.
    pub key: String,
    /// Method and path.
    pub what: String,
    /// SHA-256 of the body.
    pub fingerprint: [u8; 32],
}

/// What the first was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    /// JSON without any secret.
    pub answer: String,
}

/// The key was used for another request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reused {
    /// Method and path of that one.
    pub what: String,
}

/// What was found under a key.
pub type Found = Result<Answered, Reused>;

#[derive(Default)]
enum State {
    #[default]
    Begun,
    /// Somebody else was quicker.
    Repeated(Found),
    Parked(Uncommitted),
}

impl Store {
    /// What the request was answered before, if it was.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn answered(&self, request: &Request, now: Millis) -> Result<Option<Found>, StoreError> {
        find(&mut *self.db.readers().acquire().await?, request, now).await
    }

    /// Keeps the answer, and commits the change that was parked. Of an answer that somebody else was quicker to give,
    /// that one is returned, and nothing changed.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then the change did not happen.
    pub async fn complete(
        &self,
        attempt: &Attempt,
        context: &Context,
        answered: &Answered,
    ) -> Result<Option<Found>, StoreError> {
        let request = &*attempt.request;
        let mut uncommitted = match attempt.take() {
            State::Parked(uncommitted) => uncommitted,
            State::Repeated(found) => return Ok(Some(found)),
            State::Begun => {
                let mut tx = self.db.write().await?;
                if let Some(found) = find(&mut tx, request, context.now).await? {
                    return Ok(Some(found));
                }
                Uncommitted::of(tx)
            }
        };
        let tx = &mut uncommitted.tx;
        sqlx::query("DELETE FROM repeats WHERE caller = $1 AND key = $2")
            .bind(&request.caller)
            .bind(&request.key)
            .execute(&mut **tx)
            .await?;
        sqlx::query(
            "INSERT INTO repeats (caller, key, request, fingerprint, status, answer, at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&request.caller)
        .bind(&request.key)
        .bind(&request.what)
        .bind(request.fingerprint.as_slice())
        .bind(i64::from(answered.status))
        .bind(&answered.answer)
        .bind(int(context.now.0))
        .execute(&mut **tx)
        .await?;
        uncommitted.commit(self, context).await?;
        Ok(None)
    }

    /// Forgets answers from before `before`. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; what was forgotten before it stays so.
    pub async fn forget_answers(&self, before: Millis) -> Result<u64, StoreError> {
        let mut forgotten: u64 = 0;
        loop {
            let rows = sqlx::query(
                "DELETE FROM repeats WHERE (caller, key) IN
                     (SELECT caller, key FROM repeats WHERE at <= $1 ORDER BY at LIMIT $2)",
            )
            .bind(int(before.0))
            .bind(CHUNK)
            .execute(self.db.writer())
            .await?
            .rows_affected();
            forgotten = forgotten.saturating_add(rows);
            if rows < uint(CHUNK) {
                return Ok(forgotten);
            }
        }
    }
}

async fn find(
    connection: &mut AnyConnection,
    request: &Request,
    now: Millis,
) -> Result<Option<Found>, StoreError> {
    let row = sqlx::query(
        "SELECT request, fingerprint, status, answer FROM repeats WHERE caller = $1 AND key = $2 AND at > $3",
    )
    .bind(&request.caller)
    .bind(&request.key)
    .bind(int(now.0.saturating_sub(KEEP_ANSWERS)))
    .fetch_optional(connection)
    .await?;
    row.map(|row| judge(&row, request)).transpose()
}

fn judge(row: &AnyRow, request: &Request) -> Result<Found, StoreError> {
    let what: String = row.try_get("request")?;
    let fingerprint: Vec<u8> = row.try_get("fingerprint")?;
    if what != request.what || fingerprint != request.fingerprint {
        return Ok(Err(Reused { what }));
    }
    let status: i64 = row.try_get("status")?;
    let status = u16::try_from(status).map_err(|_| StoreError::Corrupt(format!("status {status}")))?;
    Ok(Ok(Answered { status, answer: row.try_get("answer")? }))
}

// === impl Attempt ===

impl Attempt {
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self { request: Arc::new(request), state: Arc::default() }
    }

    /// Whether a change waits to be committed with its answer, or somebody else was quicker to make it.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(*self.state(), State::Begun)
    }

    /// Whether somebody else was quicker: what they were answered. What is parked is dropped, and so never was.
    #[must_use]
    pub fn give_up(&self) -> Option<Found> {
        match self.take() {
            State::Repeated(found) => Some(found),
            State::Begun | State::Parked(_) => None,
        }
    }

    /// Looks again once the write lock is held.
    pub(super) async fn begin(&self, connection: &mut AnyConnection, now: Millis) -> Result<(), StoreError> {
        if matches!(*self.state(), State::Parked(_)) {
            return Err(StoreError::Corrupt("a request that is carried out once changes twice".into()));
        }
        if let Some(found) = find(connection, &self.request, now).await? {
            *self.state() = State::Repeated(found);
            return Err(StoreError::Repeated);
        }
        Ok(())
    }

    pub(super) fn park(&self, uncommitted: Uncommitted) {
        *self.state() = State::Parked(uncommitted);
    }

    /// At once where nothing waits to be committed.
    pub(super) fn once_committed(&self, then: Box<dyn FnOnce() + Send>) {
        match &mut *self.state() {
            State::Parked(uncommitted) => uncommitted.once_committed(then),
            State::Begun | State::Repeated(_) => then(),
        }
    }

    fn take(&self) -> State {
        std::mem::take(&mut *self.state())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("request", &self.request).finish_non_exhaustive()
    }
}
