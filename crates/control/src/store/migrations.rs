//! The schema, and what may be wrong with a database that is found.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyPool, SqlSafeStr as _};

use super::db::{Dialect, Location, Sql};
use super::{StoreError, audit, sqlite_code};

type Step = (i64, &'static str, &'static str);

/// In order; one that was released never changes. The two lists have the same numbers from 4 on, when
/// PostgreSQL came.
const SQLITE: &[Step] = &[
    (1, "first light", include_str!("../../migrations/sqlite/0001_first_light.sql")),
    (2, "usage", include_str!("../../migrations/sqlite/0002_usage.sql")),
    (3, "audit", include_str!("../../migrations/sqlite/0003_audit.sql")),
    (4, "lifecycle", include_str!("../../migrations/sqlite/0004_lifecycle.sql")),
    (5, "tokens", include_str!("../../migrations/sqlite/0005_tokens.sql")),
    (6, "policies", include_str!("../../migrations/sqlite/0006_policies.sql")),
    (7, "signing keys", include_str!("../../migrations/sqlite/0007_signing_keys.sql")),
    (8, "proxies", include_str!("../../migrations/sqlite/0008_proxies.sql")),
    (9, "usage minutes", include_str!("../../migrations/sqlite/0009_usage_minutes.sql")),
    (10, "self service", include_str!("../../migrations/sqlite/0010_self_service.sql")),
    (11, "repeats", include_str!("../../migrations/sqlite/0011_repeats.sql")),
    (12, "campaigns", include_str!("../../migrations/sqlite/0012_campaigns.sql")),
    (13, "sweeps", include_str!("../../migrations/sqlite/0013_sweeps.sql")),
    (14, "deposits", include_str!("../../migrations/sqlite/0014_deposits.sql")),
    (15, "canary", include_str!("../../migrations/sqlite/0015_canary.sql")),
    (16, "via", include_str!("../../migrations/sqlite/0016_via.sql")),
];
const POSTGRES: &[Step] = &[
    (4, "first schema", include_str!("../../migrations/postgres/0004_first_schema.sql")),
    (5, "tokens", include_str!("../../migrations/postgres/0005_tokens.sql")),
    (6, "policies", include_str!("../../migrations/postgres/0006_policies.sql")),
    (7, "signing keys", include_str!("../../migrations/postgres/0007_signing_keys.sql")),
    (8, "proxies", include_str!("../../migrations/postgres/0008_proxies.sql")),
    (9, "usage minutes", include_str!("../../migrations/postgres/0009_usage_minutes.sql")),
    (10, "self service", include_str!("../../migrations/postgres/0010_self_service.sql")),
    (11, "repeats", include_str!("../../migrations/postgres/0011_repeats.sql")),
    (12, "campaigns", include_str!("../../migrations/postgres/0012_campaigns.sql")),
    (13, "sweeps", include_str!("../../migrations/postgres/0013_sweeps.sql")),
    (14, "deposits", include_str!("../../migrations/postgres/0014_deposits.sql")),
    (15, "canary", include_str!("../../migrations/postgres/0015_canary.sql")),
    (16, "via", include_str!("../../migrations/postgres/0016_via.sql")),
];

/// Whether there are tables but not our history: then it belongs to somebody else.
const FOREIGN: Sql = Sql {
    sqlite: "SELECT CAST(EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table')
             AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations') AS INTEGER)",
    postgres: "SELECT CAST(EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema())
               AND NOT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema()
                               AND tablename = '_sqlx_migrations') AS INTEGER)",
};

/// Why a database cannot be used. Each says what to do; none changes anything.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database {place} was written by a newer keywheel (schema {version}); start that version instead"
    )]
    Newer { place: String, version: i64 },
    #[error(
        "schema {version} of the database {place} is not the one that this keywheel knows; start the version that wrote it, or restore a backup"
    )]
    Altered { place: String, version: i64 },
    #[error("{0} is not a keywheel database; move it away, or choose another --data directory")]
    Foreign(String),
    #[error(
        "the database {0} holds tables that are not keywheel's; give --database one of its own, or a schema of its own with `?options=-csearch_path=keywheel`"
    )]
    ForeignTables(String),
    #[error("cannot open the database {place}: {cause}; check that the directory is writable and has space")]
    Unusable { place: String, cause: String },
    #[error(
        "cannot use the database {place}: {cause}; check that it runs, that the address, user and password are right, and that the user may create tables"
    )]
    Unreachable { place: String, cause: String },
}

impl OpenError {
    pub(super) fn new(location: &Location, error: &sqlx::Error) -> Self {
        match sqlite_code(error) {
            Some(26) if location.is_file() => Self::Foreign(location.to_string()),
            _ => Self::because(location, error.to_string()),
        }
    }

    pub(super) fn store(location: &Location, error: &StoreError) -> Self {
        Self::because(location, error.to_string())
    }

    fn because(location: &Location, cause: String) -> Self {
        let place = location.to_string();
        if location.is_file() { Self::Unusable { place, cause } } else { Self::Unreachable { place, cause } }
    }
}

/// Brings the schema to this version.
pub(super) async fn run(location: &Location, dialect: Dialect, pool: AnyPool) -> Result<(), OpenError> {
    let failed = |error: sqlx::Error| OpenError::new(location, &error);
    let place = location.to_string();
    let foreign: i32 = sqlx::query_scalar(dialect.pick(&FOREIGN)).fetch_one(&pool).await.map_err(failed)?;
    if foreign != 0 {
        return Err(match dialect {
            Dialect::Sqlite => OpenError::Foreign(place),
            Dialect::Postgres => OpenError::ForeignTables(place),
        });
    }
    let steps = match dialect {
        Dialect::Sqlite => SQLITE,
        Dialect::Postgres => POSTGRES,
    };
    migrator(steps).run(&pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => OpenError::Newer { place, version },
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            OpenError::Altered { place, version }
        }
        other => OpenError::because(location, other.to_string()),
    })?;
    match dialect {
        // What no SQL can do of the third migration.
        Dialect::Sqlite => {
            audit::chain_older_records(&pool).await.map_err(|error| OpenError::store(location, &error))
        }
        Dialect::Postgres => Ok(()),
    }
}

fn migrator(steps: &[Step]) -> Migrator {
    let migrations = steps.iter().map(|(version, description, sql)| {
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
    use keywheel_api::{SigningKeyState, State};
    use keywheel_keyring::Millis;
    use sha2::{Digest as _, Sha256};

    use sqlx::SqlitePool;

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
            "dce40cda1421c21ce7394a06d26ad902852d08c85d082b70e71540fb4a1ed89a",
            "a697ad201c7ea1a830a939f907a0a8820a2db54437afc44e49cac772056e60e2",
            "95f6b1ee490be5f9e4c86b46a9f0ff05653d2c9937ab172bb23a9b49decd3e7d",
            "cfcae8bd7f958e8e955c68de2f106cbc9e1038a5deac335d99a4a3441499eda2",
            "0b56173b31c47d331b0d267cbd4e469a0325240bbcea6dda268e369f9e46fc2d",
            "f7853401a832547cf6ef7de4eff995709391f46f648c197c687c3dec142a1f70",
            "601dc4960335e0883e8f76385f577780a1b2be11288fa40efc89c8aca7e82495",
            "53e1401ab4bafae1a9ac23896911e4c3fc919283d5840006d54ae0ec046f105e",
            "d7cd2507217412e8d4c39f3eeea4f0aed78256d68b934a4c48ab7e8ef14039d7",
            "95813155b446dd24b071c6f297c32a9f5e9055f39650494c8b0976551de88b89",
            "d526cebb09b4392d6765896ec83fcaca42a398d88f886a388f0e4b53f59fda58",
        ];
        let found: Vec<_> = SQLITE.iter().map(|(_, _, sql)| hex::encode(Sha256::digest(sql))).collect();
        assert_eq!(found, released, "add a migration instead");
    }

    #[tokio::test]
    async fn a_database_of_the_first_schema_is_brought_forward() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keywheel.db");
        std::fs::File::create(&path).unwrap();
        let old = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        migrator(&SQLITE[..1]).run(&old).await.unwrap();
        for sql in [
            "INSERT INTO rings VALUES (1, 'production', '0199a3b4-0000-7000-8000-000000000001', 1, 'kw_live_', 0)",
            "INSERT INTO clients VALUES (1, 'acme', NULL, NULL, 0)",
            "INSERT INTO keys VALUES ('key_1', 1, 1, '[]', NULL, 0, NULL)",
            "INSERT INTO versions VALUES
             ('kv_1', 'key_1', 1, zeroblob(32), 'retiring', NULL, NULL, 90, 1, 0, NULL, NULL),
             ('kv_2', 'key_1', 1, randomblob(32), 'active', NULL, NULL, NULL, 2, 30, NULL, NULL)",
            "INSERT INTO rotations VALUES
             ('rot_1', 'key_1', 'kv_1', 'kv_2', 'overlapping', NULL, 90, 30, NULL)",
            "INSERT INTO signing_keys VALUES
             ('0102030405060708', 'public-1', x'01', 3), ('1112131415161718', 'public-2', x'02', 4)",
            "INSERT INTO tokens VALUES ('token_1', zeroblob(32), 'proxy', 4)",
            "INSERT INTO audit VALUES (1, 5, 'setup', 'ring.create', 'production', '{\"a\":1}', NULL)",
            "INSERT INTO audit VALUES (2, 6, 'token_1', 'key.create', 'key_1', '{}', 'request-1')",
        ] {
            sqlx::query(sql).execute(&old).await.unwrap();
        }
        old.close().await;

        let store = Store::open(&Location::Sqlite(path.clone())).await.unwrap();
        let key = store.key("key_1").await.unwrap();
        assert_eq!((key.versions.len(), key.versions[0].last_used_at), (2, None));
        assert_eq!(key.open_rotation.as_deref(), Some("rot_1"));
        let rotation = store.rotation("rot_1").await.unwrap();
        assert_eq!(rotation.begins_at, rotation.created_at);
        assert_eq!(
            store.next_deadline(keywheel_keyring::Millis(0)).await.unwrap(),
            Some(keywheel_keyring::Millis(90))
        );
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

        let signers = store.signers().await.unwrap();
        let states: Vec<_> = signers.iter().map(|signer| (signer.ring, signer.key.state)).collect();
        assert_eq!(states, [(1, SigningKeyState::Retired), (1, SigningKeyState::Active)]);
        assert_eq!(
            (signers[1].key.public_key.as_str(), signers[1].sealed.as_slice()),
            ("public-2", &[2][..])
        );
        assert_eq!(signers[1].key.changed_at, timestamp(Millis(4)));
        let standing = store.standing(1).await.unwrap();
        assert_eq!((standing.revision, standing.signer.as_str()), (1, "1112131415161718"));
        let ring = store.rings().await.unwrap().remove(0);
        assert!(!ring.held, "what was never restored is published");
        let cut = store.cut_page(&ring, None).await.unwrap();
        let states: Vec<_> = cut.entries.iter().map(|entry| (entry.version.as_str(), entry.state)).collect();
        assert_eq!(cut.epoch.to_string(), "0199a3b4-0000-7000-8000-000000000001");
        assert!(states.contains(&("kv_1", State::Retiring)) && states.contains(&("kv_2", State::Active)));
        store.close().await;
        let again = Store::open(&Location::Sqlite(path.clone())).await.unwrap();
        assert_eq!(again.rings().await.unwrap()[0].revision, 1);
        assert_eq!(again.audit_records(0, 10).await.unwrap(), records, "chained once");
        again.close().await;
    }
}
