//! The schema, and what may be wrong with a database that is found.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr as _, SqlitePool};

use super::{StoreError, audit, primary_code};

/// In order; one that was released never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first light", include_str!("../../migrations/sqlite/0001_first_light.sql")),
    (2, "usage", include_str!("../../migrations/sqlite/0002_usage.sql")),
    (3, "audit", include_str!("../../migrations/sqlite/0003_audit.sql")),
    (4, "lifecycle", include_str!("../../migrations/sqlite/0004_lifecycle.sql")),
    (5, "tokens", include_str!("../../migrations/sqlite/0005_tokens.sql")),
];

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
    migrator(MIGRATIONS).run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => OpenError::Newer { path, version },
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            OpenError::Altered { path, version }
        }
        other => OpenError::Unusable { path, cause: other.to_string() },
    })
}

/// What no SQL can do of the third migration. Returns the number of the last audit record.
pub(super) async fn chain(path: &Path, pool: &SqlitePool) -> Result<u64, OpenError> {
    let chain = async {
        audit::chain_older_records(pool).await?;
        Ok(audit::head(&mut *pool.acquire().await?).await?.seq)
    };
    chain
        .await
        .map_err(|error: StoreError| OpenError::Unusable { path: path.to_owned(), cause: error.to_string() })
}

fn migrator(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = migrations.iter().map(|(version, description, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(*version, Cow::Borrowed(*description), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use keywheel_api::Role;
    use keywheel_api::audit::{AuditEvent, verify};
    use keywheel_api::time::timestamp;
    use keywheel_keyring::Millis;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::store::Store;

    #[test]
    fn what_was_released_never_changes() {
        let released = [
            "cd8ec1fb493217c78015462c4a2d0da09cc99983bd85686d9b4c018631b58473",
            "3a74deec6ce87e59701334f7fa0677801ac782fa5efd6a204f14b300ba60ecc6",
            "0df93925b1e0e0b8dbfbef787caa4123054608a22d895426fbe920ca53b45fe4",
            "d1cf042de8923525443ec2f88147aba8f966ca08f1054cf138abacaf01c8ec76",
            "d79d36e5971ea59245ac68b61f3b72bb777bf74ec9aa1ec60de97d3ed8fa5e23",
        ];
        let found: Vec<_> = MIGRATIONS.iter().map(|(_, _, sql)| hex::encode(Sha256::digest(sql))).collect();
        assert_eq!(found, released, "add a migration instead");
    }

    #[tokio::test]
    async fn a_database_of_the_first_schema_is_brought_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keywheel.db");
        std::fs::File::create(&path).unwrap();
        let old = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        migrator(&MIGRATIONS[..1]).run(&old).await.unwrap();
        for sql in [
            "INSERT INTO rings VALUES (1, 'production', '0199a3b4-0000-7000-8000-000000000001', 1, 'kw_live_', 0)",
            "INSERT INTO clients VALUES (1, 'acme', NULL, NULL, 0)",
            "INSERT INTO keys VALUES ('key_1', 1, 1, '[]', NULL, 0, NULL)",
            "INSERT INTO versions VALUES
             ('kv_1', 'key_1', 1, zeroblob(32), 'retiring', NULL, NULL, 90, 1, 0, NULL, NULL),
             ('kv_2', 'key_1', 1, randomblob(32), 'active', NULL, NULL, NULL, 2, 30, NULL, NULL)",
            "INSERT INTO rotations VALUES
             ('rot_1', 'key_1', 'kv_1', 'kv_2', 'overlapping', NULL, 90, 30, NULL)",
            "INSERT INTO tokens VALUES ('token_1', zeroblob(32), 'proxy', 3)",
            "INSERT INTO audit VALUES (1, 5, 'setup', 'ring.create', 'production', '{\"a\":1}', NULL)",
            "INSERT INTO audit VALUES (2, 6, 'token_1', 'key.create', 'key_1', '{}', 'request-1')",
        ] {
            sqlx::query(sql).execute(&old).await.unwrap();
        }
        old.close().await;

        let store = Store::open(&path).await.unwrap();
        let key = store.key("key_1").await.unwrap();
        assert_eq!((key.versions.len(), key.versions[0].last_used_at), (2, None));
        assert_eq!(key.open_rotation.as_deref(), Some("rot_1"));
        let rotation = store.rotation("rot_1").await.unwrap();
        assert_eq!(rotation.begins_at, rotation.created_at);
        assert_eq!(store.next_deadline().await.unwrap(), Some(keywheel_keyring::Millis(90)));
        assert_eq!(store.reporting("production", 1).await.unwrap(), (0, vec![]));
        let tokens = store.tokens("", 10, Millis(9)).await.unwrap();
        assert_eq!((tokens.len(), tokens[0].role, &tokens[0].rings), (1, Role::Proxy, &None));
        let hash = crate::secret::HashedToken::from_bytes([0; 32]);
        assert_eq!(store.bearer(hash, Millis(9)).await.unwrap().unwrap().token, "token_1");
        let records = store.audit_records(0, 10).await.unwrap();
        let verified = verify(&records, &[], &[]).unwrap();
        assert_eq!((verified.head.seq, *store.audited.borrow()), (2, 2));
        let event = AuditEvent {
            at: timestamp(Millis(6)),
            actor: "token_1".into(),
            action: "key.create".into(),
            resource: "key_1".into(),
            before: None,
            after: Some("{}".into()),
            request_id: Some("request-1".into()),
            client_address: None,
        };
        assert_eq!(records[1].event, event);
        store.close().await;
        let again = Store::open(&path).await.unwrap();
        assert_eq!(again.rings().await.unwrap()[0].revision, 1);
        assert_eq!(again.audit_records(0, 10).await.unwrap(), records, "chained once");
        again.close().await;
    }
}
