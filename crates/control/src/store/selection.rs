//! Which keys a campaign has.

use keywheel_api::{CampaignKeys, CreateCampaign, Skipped};
use keywheel_keyring::Millis;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};

use super::StoreError;
use super::campaign_progress::add_up;
use super::db::Dialect;
use super::keys::{bind_labels, label_conditions};
use super::rows::int;

/// What a request selects at a moment.
pub(super) struct Selected<'a> {
    pub(super) dialect: Dialect,
    pub(super) ring: i64,
    /// None: of all clients.
    pub(super) clients: Vec<i64>,
    pub(super) new: &'a CreateCampaign,
    pub(super) now: Millis,
}

impl Selected<'_> {
    /// How the keys would stand, and why some are skipped.
    pub(super) async fn count(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<(CampaignKeys, Vec<Skipped>), StoreError> {
        let sql = format!(
            "SELECT s.state, s.why, count(*) AS keys FROM (SELECT key_id, why,
                 CASE WHEN why IS NOT NULL THEN 'skipped' WHEN deposited = 0 THEN 'waiting_for_deposit'
                      ELSE 'waiting' END AS state FROM ({}) AS found) AS s
             GROUP BY s.state, s.why ORDER BY s.state, s.why",
            self.sql()
        );
        let labels = self.labels();
        let query = self.bind(sqlx::query(sqlx::AssertSqlSafe(sql)), &labels);
        add_up(&query.fetch_all(connection).await?)
    }

    pub(super) fn whole(&self, keys: &CampaignKeys) -> u64 {
        keys.waiting_for_deposit.saturating_add(keys.waiting).saturating_add(keys.skipped)
    }

    /// Keeps them as the campaign's, and announces to those without a deposit that one is wanted.
    pub(super) async fn keep(
        &self,
        connection: &mut AnyConnection,
        campaign: i64,
        begins_at: Millis,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO campaign_keys (campaign_id, key_id, replaces, state, why)
             SELECT {campaign}, key_id, replaces, CASE WHEN why IS NULL THEN 'waiting' ELSE 'skipped' END, why
             FROM ({}) AS found",
            self.sql()
        );
        let labels = self.labels();
        self.bind(sqlx::query(sqlx::AssertSqlSafe(sql)), &labels).execute(&mut *connection).await?;
        sqlx::query(
            "INSERT INTO notices (at, key_id, kind, step_at, lead)
             SELECT CAST($2 AS BIGINT), m.key_id, 'deposit_wanted', CAST($3 AS BIGINT), CAST($4 AS BIGINT)
             FROM campaign_keys m JOIN keys k ON k.id = m.key_id
             WHERE m.campaign_id = $1 AND m.state = 'waiting' AND k.next_version IS NULL
             ON CONFLICT DO NOTHING",
        )
        .bind(campaign)
        .bind(int(self.now.0))
        .bind(int(begins_at.0))
        .bind(int(begins_at.saturating_since(self.now)))
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Rows of `key_id`, `replaces`, `why` and `deposited`. Its parameters are those of [`bind`](Self::bind).
    fn sql(&self) -> String {
        let (most, position) = match self.dialect {
            Dialect::Sqlite => ("(f.terms ->> 'max_versions')", "instr"),
            Dialect::Postgres => ("(f.terms::jsonb ->> 'max_versions')", "strpos"),
        };
        let why = if self.new.overlap_seconds.is_some() {
            "CAST(NULL AS TEXT)"
        } else {
            "CASE WHEN f.id IS NULL THEN 'no_overlap' END"
        };
        let clients = if self.clients.is_empty() {
            String::new()
        } else {
            let ids: Vec<_> = self.clients.iter().map(i64::to_string).collect();
            format!(" AND k.client_id IN ({})", ids.join(", "))
        };
        let labels = label_conditions(self.dialect, "k", &self.labels(), 5);
        let active = "SELECT a.id FROM versions a WHERE a.key_id = k.id AND a.state = 'active' ORDER BY";
        // Where versions stand beside each other the oldest gives way; otherwise the newest, and the others with it.
        format!(
            "SELECT k.id AS key_id, CASE WHEN {most} IS NOT NULL THEN v.id END AS replaces, {why} AS why,
                 CASE WHEN k.next_version IS NULL THEN 0 ELSE 1 END AS deposited
             FROM keys k JOIN clients c ON c.id = k.client_id JOIN rings r ON r.id = k.ring_id
             LEFT JOIN policies f ON f.id = coalesce(k.policy_id, c.policy_id, r.policy_id)
             JOIN versions v ON v.id = CASE WHEN {most} IS NULL
                 THEN ({active} a.created_at DESC, a.id DESC LIMIT 1)
                 ELSE ({active} a.created_at, a.id LIMIT 1) END
             WHERE k.ring_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $2)
             AND (CAST($3 AS BIGINT) IS NULL
                  OR CASE WHEN v.not_before > v.created_at THEN v.not_before ELSE v.created_at END < $3)
             AND (CAST($4 AS TEXT) IS NULL OR {position}(k.scopes, $4) > 0){clients}{labels}"
        )
    }

    fn bind<'q>(
        &self,
        query: Query<'q, Any, AnyArguments>,
        labels: &'q [(String, Option<String>)],
    ) -> Query<'q, Any, AnyArguments> {
        let before = |seconds: u64| int(self.now.0.saturating_sub(seconds.saturating_mul(1000)));
        // No scope has a quote or a backslash in it, so this is its place in the array.
        let scope = self.new.select.scope.as_ref().map(|scope| format!("\"{scope}\""));
        let query = query
            .bind(self.ring)
            .bind(int(self.now.0))
            .bind(self.new.select.older_than_seconds.map(before))
            .bind(scope);
        bind_labels(query, labels)
    }

    fn labels(&self) -> Vec<(String, Option<String>)> {
        self.new.select.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
