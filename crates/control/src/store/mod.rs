//! All SQL. SQLite, one connection that writes and several that read.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`change`] | the unit of work: state, audit record and revisions commit together |
//! | [`audit`] | the audit trail and its checkpoints |
//! | [`clients`], [`keys`], [`rotations`], [`tokens`] | one resource each |
//! | [`rings`] | rings, and the rows that documents are cut from |
//! | [`setup`] | what the first start makes |
//! | [`deadlines`] | what happens to versions and rotations by its time |
//! | [`endings`] | revoked, compromised, brought back |
//! | [`import`] | many digests at once |
//! | [`usage`] | what proxies counted, written for all who wait |
//! | [`figures`] | counts for whoever watches |
//! | [`rows`] | rows as types |
//!
//! No write waits for a lock that another of our connections holds: there is one writer, and with a
//! write-ahead log readers neither wait for it nor stop it.

mod audit;
pub mod change;
mod clients;
mod deadlines;
mod endings;
mod figures;
mod import;
mod keys;
mod migrations;
mod rings;
mod rotations;
mod rows;
mod setup;
mod tokens;
mod usage;

pub use change::Context;
pub use deadlines::Due;
pub use endings::Ending;
pub use figures::{AGES, Ages, Figures};
pub use import::ImportedVersion;
pub use keys::NewKey;
pub use migrations::OpenError;
pub use rings::{Cut, RingRecord, Signer};
pub use rotations::{NewRotation, RollBackTo};
pub use setup::Setup;
pub use usage::NewUsage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keywheel_api::Timestamp;
use keywheel_keyring::Digest;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::{Notify, watch};

use change::Heads;
use usage::UsageQueue;

/// How long a statement waits for a lock that another process holds, such as a backup's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// In KiB, as SQLite writes it. An import touches pages all over its indexes; with SQLite's own 2 MB each
/// would be written to the log and read back many times. Only what is used is allocated.
const WRITER_CACHE: &str = "-131072";

/// The database.
#[derive(Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    heads: Heads,
    usage: UsageQueue,
    /// The newest audit record's number.
    pub(crate) audited: watch::Sender<u64>,
    /// Woken when a deadline may have come closer.
    pub(crate) deadlines: Notify,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Asking again unchanged will not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Asking again later may help: locked, read-only, out of space.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("the database failed: {0}")]
    Failed(#[source] sqlx::Error),
    /// Asking again later will help.
    #[error("too many usage reports wait to be written")]
    Busy,
    /// One failure of a write that was made for many.
    #[error(transparent)]
    Shared(Arc<StoreError>),
    #[error("the database holds what no version of keywheel writes: {0}")]
    Corrupt(String),
    #[error(transparent)]
    Random(#[from] crate::secret::NoRandomness),
}

/// What stands in the way of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no {what} `{name}`")]
    NotFound { what: &'static str, name: String },
    #[error("client `{0}` exists already")]
    ClientExists(String),
    #[error("version `{0}` exists already, made by a different request")]
    VersionExists(String),
    #[error("the digest belongs to another key version of this ring")]
    DigestTaken,
    #[error("version `{0}` has ended already and is refused everywhere")]
    VersionEnded(String),
    #[error("{what} `{name}` has not ended, so there is nothing to reinstate")]
    NotEnded { what: &'static str, name: String },
    #[error(
        "version `{0}` ended so long ago that proxies have forgotten it; create a new key, or rotate this one"
    )]
    VersionRemoved(String),
    #[error("version `{0}` is compromised, which is for ever; rotate the key, or create a new one")]
    VersionCompromised(String),
    #[error("digest {0} is known to be compromised and is never accepted again; make another key")]
    DigestCompromised(Digest),
    #[error("rotation `{0}` is open; wait for its end, roll it back, or start this one with `supersede`")]
    RotationOpen(String),
    #[error("rotation `{0}` has ended; reinstate a version of its key to have that accepted again")]
    RotationEnded(String),
    #[error("rotation `{0}` has begun, and its new version may be in use; roll it back instead")]
    RotationBegun(String),
    #[error("key `{key}` is not accepted before {at}; wait until then, or revoke it and create another one")]
    KeyPending { key: String, at: Timestamp },
    #[error("key `{0}` has no active version: it was revoked; create a new key, or reinstate it")]
    KeyRevoked(String),
    #[error("key `{0}` has expired; create a new key")]
    KeyExpired(String),
}

impl Store {
    /// Opens the database, creates it if there is none, and brings it to this version's schema.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which says what to do.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone().pragma("cache_size", WRITER_CACHE))
            .await;
        let writer = writer.map_err(|error| OpenError::new(path, error))?;
        migrations::run(path, &writer).await?;
        let audited = migrations::chain(path, &writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(|error| OpenError::new(path, error))?;
        Ok(Self {
            writer,
            readers,
            heads: Heads::default(),
            usage: UsageQueue::default(),
            audited: watch::Sender::new(audited),
            deadlines: Notify::new(),
        })
    }

    /// Ends every connection, so that the write-ahead log is folded into the database.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// # Errors
    ///
    /// [`StoreError`] if the database does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM rings").fetch_optional(&self.readers).await?;
        Ok(())
    }
}

// === impl StoreError ===

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // https://sqlite.org/rescode.html: busy, locked, read-only, I/O error, full, cannot open.
        let later = match &error {
            sqlx::Error::PoolTimedOut => true,
            _ => matches!(primary_code(&error), Some(5 | 6 | 8 | 10 | 13 | 14)),
        };
        if later { Self::Unavailable(error) } else { Self::Failed(error) }
    }
}

// Who asks for what cannot be is told so before the change; here it means that the rows contradict each other.
impl From<crate::lifecycle::Refused> for StoreError {
    fn from(refused: crate::lifecycle::Refused) -> Self {
        Self::Corrupt(format!("a version: {refused}"))
    }
}

impl From<crate::lifecycle::NoTurn> for StoreError {
    fn from(refused: crate::lifecycle::NoTurn) -> Self {
        Self::Corrupt(format!("a rotation: {refused}"))
    }
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Turns the violation of a unique index into what it means.
fn unless_taken(error: sqlx::Error, refusal: impl FnOnce() -> Refusal) -> StoreError {
    match error.as_database_error() {
        Some(inner) if inner.is_unique_violation() => refusal().into(),
        _ => error.into(),
    }
}
