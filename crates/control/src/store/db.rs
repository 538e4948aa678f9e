//! The database itself: SQLite or PostgreSQL, behind one kind of connection.
//!
//! The statements of this store are written once, in what both understand; [`Sql`] holds the few that
//! cannot be. Two habits make the rest the same:
//!
//! - There is one writer at a time. SQLite has no other way. On PostgreSQL a change takes an advisory lock
//!   with its first statement, in each of the replicas: every change appends to one audit chain, so
//!   changes would queue there in any case, and this way none can deadlock or has to be tried again.
//! - What is read in several statements is read at one moment.

use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Transaction};

use super::presence::Presence;
use super::{OpenError, StoreError};

const READERS: u32 = 4;
/// On PostgreSQL, where writers queue for the lock and not for a connection.
const WRITERS: u32 = 4;
/// How long a request waits for PostgreSQL to let it in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The advisory lock of whoever writes: the bytes `keywheel`.
const WRITE_LOCK: i64 = 0x6b65_7977_6865_656c;
/// The advisory lock that every control plane shares while it serves, and that whoever needs the database alone takes.
pub(super) const SERVED: i64 = WRITE_LOCK + 1;

/// A statement waits five seconds for a lock that another process holds, such as a backup's.
///
/// `cache_size` is in KiB, as SQLite writes it. An import touches pages all over its indexes; with SQLite's own
/// 2 MB each would be written to the log and read back many times. Only what is used is allocated.
///
/// What it sorts and keeps for a transaction that may fail is kept in memory: a container whose root file system is read-only
/// may have no directory for it, and a large request would find that out.
///
/// The log is folded into the file beside the writer ([`Db::fold_log`]). A commit does it only when the log has grown
/// to 64 MB all the same.
const SQLITE_WRITER: &str =
    "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = on; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -131072; PRAGMA wal_autocheckpoint = 16384";
const SQLITE_READER: &str = "PRAGMA busy_timeout = 5000; PRAGMA query_only = on; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768";
/// A replica that was cut off in the middle of a change must not keep the lock.
const POSTGRES_SESSION: &str = "SET application_name = 'keywheel'; SET lock_timeout = '5s';
    SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s'";

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Sqlite(PathBuf),
    Postgres(PostgresUrl),
}

/// `postgres://user:password@host:port/database?sslmode=verify-full`. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    url: String,
    shown: String,
}

/// The text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give `postgres://user@host:5432/database`: {0}")]
pub struct BadUrl(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// A statement that the two write differently.
pub(super) struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

#[derive(Debug)]
pub(super) struct Db {
    pub(super) dialect: Dialect,
    writer: AnyPool,
    readers: AnyPool,
    /// Of a file.
    presence: Option<Presence>,
    stale: Stale,
}

/// When a session of PostgreSQL was found to be read-only. A session keeps what it began with, as before a failover or a
/// change of the database's settings, so those from before are not used again.
#[derive(Debug, Clone, Default)]
struct Stale(Arc<Mutex<Option<Instant>>>);

impl Db {
    /// Connects. `prepare` brings the schema to this version before anybody reads.
    pub(super) async fn open<F>(
        location: &Location,
        prepare: impl FnOnce(Dialect, AnyPool) -> F,
    ) -> Result<Self, OpenError>
    where
        F: Future<Output = Result<(), OpenError>>,
    {
        sqlx::any::install_default_drivers();
        let dialect = location.dialect();
        let failed = |error| OpenError::new(location, &error);
        let options = location.options().map_err(failed)?;
        if let Location::Sqlite(path) = location {
            // No connection makes a file by itself: where one was removed, an empty one would take its place.
            let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
            made.map_err(|error| failed(error.into()))?;
        }
        // A pool would try again until its time is up what this finds out at once.
        let mut probe = AnyConnection::connect_with(&options).await.map_err(failed)?;
        let session = match dialect {
            Dialect::Sqlite => SQLITE_WRITER,
            Dialect::Postgres => POSTGRES_SESSION,
        };
        sqlx::raw_sql(session).execute(&mut probe).await.map_err(failed)?;
        let _ = probe.close().await;
        let stale = Stale::default();
        let (write, read) = match dialect {
            Dialect::Sqlite => {
                let pool = |session, connections| unless_stuck(pool(session, connections));
                (pool(SQLITE_WRITER, 1), pool(SQLITE_READER, READERS))
            }
            Dialect::Postgres => {
                let pool = |connections| pool(POSTGRES_SESSION, connections).acquire_timeout(CONNECT_TIMEOUT);
                (stale.guard(pool(WRITERS)), pool(READERS))
            }
        };
        let writer = write.connect_with(options.clone()).await.map_err(failed)?;
        prepare(dialect, writer.clone()).await?;
        let readers = read.connect_with(options).await.map_err(failed)?;
        let presence = match location {
            Location::Sqlite(path) => Some(Presence::of(path).map_err(|error| failed(error.into()))?),
            Location::Postgres(_) => None,
        };
        Ok(Self { dialect, writer, readers, presence, stale })
    }

    /// Begins a change. Nobody else changes anything until its end.
    pub(super) async fn write(&self) -> Result<Transaction<'static, Any>, StoreError> {
        self.check()?;
        let mut tx = write(self.dialect, &self.writer).await?;
        if self.dialect == Dialect::Postgres {
            self.stale.check(&mut tx).await?;
        }
        self.check_log()?;
        Ok(tx)
    }

    /// Ends a change. It is on the disk, under a name, when this says so.
    pub(super) async fn commit(&self, tx: Transaction<'static, Any>) -> Result<(), StoreError> {
        tx.commit().await?;
        self.check_log()
    }

    fn check_log(&self) -> Result<(), StoreError> {
        match &self.presence {
            Some(presence) => Ok(presence.check_log()?),
            None => Ok(()),
        }
    }

    /// Whether what is changed would last.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match &self.presence {
            Some(presence) => Ok(presence.check()?),
            None => Ok(()),
        }
    }

    /// Begins reading: every statement sees what was committed when the first one did.
    pub(super) async fn read(&self) -> Result<Transaction<'static, Any>, StoreError> {
        self.check()?;
        Ok(match self.dialect {
            Dialect::Sqlite => self.readers.begin().await?,
            Dialect::Postgres => {
                self.readers.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?
            }
        })
    }

    /// For statements that stand alone.
    pub(super) const fn readers(&self) -> &AnyPool {
        &self.readers
    }

    /// For statements that stand alone and that nobody's change depends on.
    pub(super) const fn writer(&self) -> &AnyPool {
        &self.writer
    }

    /// Brings what SQLite's write-ahead log holds into the file, as far as nobody reads what was there before. Writers
    /// go on meanwhile.
    pub(super) async fn fold_log(&self) -> Result<(), StoreError> {
        if self.dialect == Dialect::Sqlite {
            self.check()?;
            sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&self.readers).await?;
        }
        Ok(())
    }

    /// Ends every connection, so that SQLite's write-ahead log is folded into the database.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

pub(super) async fn write(dialect: Dialect, pool: &AnyPool) -> Result<Transaction<'static, Any>, StoreError> {
    match dialect {
        // Taking the write lock at once: a transaction that reads first cannot always upgrade.
        Dialect::Sqlite => Ok(pool.begin_with("BEGIN IMMEDIATE").await?),
        Dialect::Postgres => {
            let mut tx = pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(WRITE_LOCK).execute(&mut *tx).await?;
            Ok(tx)
        }
    }
}

// === impl Stale ===

impl Stale {
    /// # Errors
    ///
    /// [`StoreError`] for a session that takes no change, after which none of its age is used again.
    async fn check(&self, session: &mut AnyConnection) -> Result<(), StoreError> {
        let read_only: String =
            sqlx::query_scalar("SELECT current_setting('transaction_read_only')").fetch_one(session).await?;
        if read_only == "off" {
            return Ok(());
        }
        *self.since() = Some(Instant::now());
        Err(sqlx::Error::Protocol("PostgreSQL takes no change: the session is read-only".into()).into())
    }

    fn guard(&self, pool: AnyPoolOptions) -> AnyPoolOptions {
        let stale = self.clone();
        pool.before_acquire(move |_, session| {
            let usable = stale.since().is_none_or(|since| session.age < since.elapsed());
            Box::pin(async move { Ok(usable) })
        })
    }

    // A std mutex: it is held for a moment, never across an await.
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool(session: &'static str, connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).after_connect(move |connection, _| {
        Box::pin(async move {
            sqlx::raw_sql(session).execute(connection).await?;
            Ok(())
        })
    })
}

/// A write that failed for want of space, or by the disk, made SQLite roll its transaction back by itself. To the
/// driver it goes on, and the connection could never begin another one.
fn unless_stuck(pool: AnyPoolOptions) -> AnyPoolOptions {
    pool.after_release(|connection, _| {
        Box::pin(async move {
            // What was asked for before, a rollback too, is done by then.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    })
}

/// `($1, $2), ($3, $4), …`: the parameters of so many rows.
pub(super) fn parameters(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let columns: Vec<_> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", columns.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

impl Dialect {
    pub(super) const fn pick(self, sql: &Sql) -> &'static str {
        match self {
            Self::Sqlite => sql.sqlite,
            Self::Postgres => sql.postgres,
        }
    }
}

// === impl Location ===

impl Location {
    const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    pub(super) const fn is_file(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// A pool that knows nothing of keywheel.
    ///
    /// # Errors
    ///
    /// [`sqlx::Error`].
    pub async fn pool(&self) -> Result<AnyPool, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let session = match self {
            Self::Sqlite(_) => "PRAGMA temp_store = MEMORY",
            Self::Postgres(_) => "SET application_name = 'keywheel'",
        };
        pool(session, 2).connect_with(self.options()?).await
    }

    fn options(&self) -> Result<AnyConnectOptions, sqlx::Error> {
        match self {
            Self::Sqlite(path) => {
                let path = std::path::absolute(path)?;
                let options = SqliteConnectOptions::new().filename(path).create_if_missing(false);
                AnyConnectOptions::from_url(&options.to_url_lossy())
            }
            Self::Postgres(url) => url.url.parse(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }
}

// === impl PostgresUrl ===

impl PostgresUrl {
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        self.url.parse()
    }
}

impl FromStr for PostgresUrl {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(BadUrl("it does not begin with `postgres://`".into()));
        }
        let options: PgConnectOptions =
            url.parse().map_err(|error: sqlx::Error| BadUrl(error.to_string()))?;
        let place = options.get_socket().map_or_else(
            || format!("{}:{}", options.get_host(), options.get_port()),
            |socket| socket.display().to_string(),
        );
        let user = options.get_username();
        let shown = format!("postgres://{user}@{place}/{}", options.get_database().unwrap_or(user));
        Ok(Self { url: url.to_owned(), shown })
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url: PostgresUrl = "postgres://keywheel:hunter2@db:6432/ring?sslmode=require".parse().unwrap();
        assert_eq!(Location::Postgres(url.clone()).to_string(), "postgres://keywheel@db:6432/ring");
        assert!(!format!("{url:?}").contains("hunter2"));
        let socket: PostgresUrl = "postgres://me@localhost/ring?host=/run/pg".parse().unwrap();
        assert_eq!(Location::Postgres(socket).to_string(), "postgres://me@/run/pg/ring");
        for bad in ["mysql://a@b/c", "postgres://a@b:no/c", ""] {
            bad.parse::<PostgresUrl>().unwrap_err();
        }
    }

    #[test]
    fn parameters_are_numbered_through() {
        assert_eq!(parameters(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
