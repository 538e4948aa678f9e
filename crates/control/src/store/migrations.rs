//! The schema, and what may be wrong with a database that is found.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr as _, SqlitePool};

use super::primary_code;

/// In order; one that was released never changes.
const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "first light", include_str!("../../migrations/sqlite/0001_first_light.sql"))];

/// Why a database cannot be used. Each says what to do; none changes anything.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database {} was written by a newer keywheel (schema {version}); start that version instead",
        .path.display()
    )]
    Newer { path: PathBuf, version: i64 },
    #[error(
        "schema {version} of the database {} is not the one that this keywheel knows; start the version that wrote it, or restore a backup",
        .path.display()
    )]
    Altered { path: PathBuf, version: i64 },
    #[error("{} is not a keywheel database; move it away, or choose another --data directory", .path.display())]
    Foreign { path: PathBuf },
    #[error("cannot open the database {}: {cause}; check that the directory is writable and has space", .path.display())]
    Unusable { path: PathBuf, cause: String },
}

impl OpenError {
    pub(super) fn new(path: &Path, error: sqlx::Error) -> Self {
        let path = path.to_owned();
        match primary_code(&error) {
            Some(26) => Self::Foreign { path },
            _ => Self::Unusable { path, cause: error.to_string() },
        }
    }
}

pub(super) async fn run(path: &Path, pool: &SqlitePool) -> Result<(), OpenError> {
    // A database with tables but without our history belongs to somebody else.
    let foreign = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table')
                      AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')";
    let foreign: bool =
        sqlx::query_scalar(foreign).fetch_one(pool).await.map_err(|error| OpenError::new(path, error))?;
    let path = path.to_owned();
    if foreign {
        return Err(OpenError::Foreign { path });
    }
    migrator().run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => OpenError::Newer { path, version },
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            OpenError::Altered { path, version }
        }
        other => OpenError::Unusable { path, cause: other.to_string() },
    })
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, description, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, Cow::Borrowed(*description), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}
