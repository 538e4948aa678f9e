use std::borrow::Cow;

use keywheel_api::{Role, SigningKeyState};
use keywheel_control::secret::PlainToken;
use keywheel_control::store::{Location, Store};
use keywheel_keyring::{Millis, State};
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::support::database_of;

#[tokio::test]
async fn a_database_of_the_first_schema_is_brought_forward_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::Postgres(database_of(dir.path()));
    let pool = location.pool().await.unwrap();
    let first = include_str!("../../migrations/postgres/0004_first_schema.sql").into_sql_str();
    let first = Migration::new(4, Cow::Borrowed("first schema"), MigrationType::Simple, first, false);
    Migrator::with_migrations(vec![first]).run(&pool).await.unwrap();
    for sql in [
        "INSERT INTO rings VALUES (1, 'production', '0199a3b4-0000-7000-8000-000000000001', 1, 'kw_live_', 0)",
        "INSERT INTO clients VALUES (1, 'acme', NULL, NULL, 0)",
        "INSERT INTO keys VALUES ('key_1', 1, 1, '[]', NULL, 0, NULL)",
        "INSERT INTO versions VALUES ('kv_1', 'key_1', 1, sha256('x'), 'revoked', NULL, NULL, NULL, 1, 0, 5)",
        "INSERT INTO signing_keys VALUES ('0102030405060708', 'public-1', '\\x01', 3)",
        "INSERT INTO signing_keys VALUES ('1112131415161718', 'public-2', '\\x02', 4)",
        "INSERT INTO tokens VALUES ('token_1', sha256('kwt_1'), 'proxy', 4)",
    ] {
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;

    for _ in 0..2 {
        let store = Store::open(&location).await.unwrap();
        let signers = store.signers().await.unwrap();
        let states: Vec<_> = signers.iter().map(|signer| (signer.ring, signer.key.state)).collect();
        assert_eq!(states, [(1, SigningKeyState::Retired), (1, SigningKeyState::Active)]);
        assert_eq!(signers[1].sealed, [2]);
        let cut = store.cut_page(&store.rings().await.unwrap()[0], None).await.unwrap();
        assert_eq!((cut.signer.as_str(), cut.entries[0].state), ("1112131415161718", State::Revoked));
        let bearer = store.bearer(PlainToken::from("kwt_1").hash(), Millis(9)).await.unwrap().unwrap();
        assert_eq!((bearer.token.as_str(), bearer.role, bearer.rings), ("token_1", Role::Proxy, None));
        assert_eq!(store.tokens("", 10, Millis(9)).await.unwrap().len(), 1);
        assert!(!store.rings().await.unwrap()[0].held);
        store.close().await;
    }
}
