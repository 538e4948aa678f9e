//! What becomes of keys, as campaigns see it, whoever does it.

use keywheel_api::{Rotation, RotationEnd, RotationState};

use super::StoreError;
use super::change::Change;

/// Campaigns that are not over.
const OPEN: &str = "('running', 'paused', 'halted')";
impl Change<'_> {
    /// Whether a campaign that is not over waits for the key's next version.
    pub(super) async fn is_wanted(&mut self, key: &str) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT m.key_id FROM campaign_keys m JOIN campaigns c ON c.id = m.campaign_id
             WHERE m.key_id = $1 AND m.state = 'waiting' AND c.state IN {OPEN} LIMIT 1"
        );
        Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(key).fetch_optional(&mut *self.tx).await?.is_some())
    }

    /// A rotation began, whoever started it: campaigns that were to rotate the key have it done by that. One that
    /// leaves other versions as they are counts only where it replaced the right one.
    pub(super) async fn count_for_campaigns(
        &mut self,
        rotation: &str,
        key: &str,
        old: &str,
        only_old: bool,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE campaign_keys SET state = 'rotating', rotation_id = $1
             WHERE key_id = $2 AND state = 'waiting'
                 AND (replaces IS NULL OR replaces = $3 OR CAST($4 AS BIGINT) = 0)
                 AND campaign_id IN (SELECT id FROM campaigns WHERE state IN {OPEN})"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(rotation)
            .bind(key)
            .bind(old)
            .bind(i64::from(only_old))
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// A rotation ended. One that was not of a wave and was taken back counts for nothing: the key waits again.
    pub(super) async fn settle_for_campaigns(
        &mut self,
        rotation: &Rotation,
        state: RotationState,
        ended_by: RotationEnd,
    ) -> Result<(), StoreError> {
        let (set, of) = match (state, ended_by) {
            (RotationState::RolledBack, RotationEnd::KeyRevoked) => {
                ("state = 'skipped', why = 'key_revoked'", "")
            }
            (RotationState::RolledBack, _) => ("state = 'rolled_back'", " AND wave IS NOT NULL"),
            _ => ("state = 'done'", ""),
        };
        let sql = format!("UPDATE campaign_keys SET {set} WHERE rotation_id = $1{of}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&rotation.id).execute(&mut *self.tx).await?;
        if !of.is_empty() {
            let sql = "UPDATE campaign_keys SET state = 'waiting', rotation_id = NULL
                       WHERE rotation_id = $1 AND wave IS NULL";
            sqlx::query(sql).bind(&rotation.id).execute(&mut *self.tx).await?;
        }
        Ok(())
    }
}
