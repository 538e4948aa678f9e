//! What a campaign's next step depends on.

use keywheel_keyring::Millis;
use sqlx::Row as _;

use super::campaigns::CampaignRow;
use super::rows::{int, uint};
use super::{Store, StoreError};
use crate::campaign::{Phase, Situation, Step};
use crate::usage::{HOUR, floor};

/// What proxies refuse a version for that a rotation ended, or has not begun. A brown-out refuses on purpose.
const REFUSED: &str = "('key_not_yet_valid', 'key_expired', 'key_retired', 'key_revoked')";

impl Store {
    /// What a campaign that runs does next.
    pub(super) async fn next_step(&self, row: &CampaignRow, now: Millis) -> Result<Step, StoreError> {
        let count = async |state: &'static str| {
            let sql = "SELECT count(*) FROM campaign_keys WHERE campaign_id = $1 AND state = $2";
            let count = sqlx::query_scalar::<_, i64>(sql).bind(row.id).bind(state);
            count.fetch_one(self.db.readers()).await.map(uint)
        };
        let phase = if row.starting {
            let sql = "SELECT count(*) FROM campaign_keys WHERE campaign_id = $1 AND state = 'waiting' AND wave = $2";
            let left = sqlx::query_scalar::<_, i64>(sql).bind(row.id).bind(int(row.campaign.waves));
            Phase::Starting { left: uint(left.fetch_one(self.db.readers()).await?) }
        } else {
            let keys = sqlx::query(
                "SELECT count(*) AS waiting,
                     CAST(coalesce(sum(CASE WHEN k.revoked_at IS NOT NULL OR k.expires_at <= $2 THEN 1 ELSE 0 END), 0)
                          AS BIGINT) AS ended,
                     CAST(coalesce(sum(CASE WHEN k.next_version IS NOT NULL AND o.id IS NULL THEN 1 ELSE 0 END), 0)
                          AS BIGINT) AS ready
                 FROM campaign_keys m JOIN keys k ON k.id = m.key_id
                 LEFT JOIN rotations o ON o.key_id = k.id AND o.ended_at IS NULL
                 WHERE m.campaign_id = $1 AND m.state = 'waiting'",
            )
            .bind(row.id)
            .bind(int(now.0))
            .fetch_one(self.db.readers())
            .await?;
            Phase::Between {
                next_wave_at: row.next_wave_at,
                waiting: uint(keys.try_get("waiting")?),
                ended: uint(keys.try_get("ended")?),
                ready: uint(keys.try_get("ready")?),
                rotating: count("rotating").await?,
                requests: self.campaign_requests(row).await.map(|(refused, all)| {
                    let (refused_before, all_before) = row.refused_before;
                    (refused.saturating_sub(refused_before), all.saturating_sub(all_before))
                })?,
                behind: self.behind(row, now).await?,
                ahead: self.ahead(row).await?,
            }
        };
        let rolled_back = count("rolled_back").await?.saturating_sub(row.rolled_before);
        Ok(Situation { stop: &row.campaign.stop, rolled_back, phase }.step(now))
    }

    /// Requests with the versions of a campaign's rotations since the hour of its first wave: those that were refused,
    /// and all. Not counted where nobody asked for it.
    pub(super) async fn campaign_requests(&self, row: &CampaignRow) -> Result<(u64, u64), StoreError> {
        let (Some(_), Some(begun_at)) = (row.campaign.stop.max_refused_share, row.begun_at) else {
            return Ok((0, 0));
        };
        let versions = |side| {
            format!(
                "SELECT r.{side} AS version FROM campaign_keys m JOIN rotations r ON r.id = m.rotation_id
                 WHERE m.campaign_id = $1"
            )
        };
        let sql = format!(
            "SELECT CAST(coalesce(sum(u.count), 0) AS BIGINT) AS requests,
                 CAST(coalesce(sum(CASE WHEN u.outcome IN {REFUSED} THEN u.count ELSE 0 END), 0) AS BIGINT) AS refused
             FROM ({} UNION ALL {}) AS v JOIN usage_hours u ON u.version = v.version WHERE u.hour >= $2",
            versions("old_version"),
            versions("new_version")
        );
        let sums = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(row.id)
            .bind(int(floor(begun_at.0, HOUR)))
            .fetch_one(self.db.readers())
            .await?;
        Ok((uint(sums.try_get("refused")?), uint(sums.try_get("requests")?)))
    }

    /// New versions of its rotations that wait in a canary.
    async fn ahead(&self, row: &CampaignRow) -> Result<u64, StoreError> {
        if !row.campaign.stop.wait_for_proxies || row.campaign.waves == 0 {
            return Ok(0);
        }
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM versions v JOIN rotations r ON r.new_version = v.id
             JOIN campaign_keys m ON m.rotation_id = r.id
             WHERE v.ring_id = $1 AND v.promote_at IS NOT NULL AND m.campaign_id = $2",
        );
        Ok(uint(count.bind(row.ring).bind(row.id).fetch_one(self.db.readers()).await?))
    }

    /// Proxies that do not enforce the last wave. One that refuses every request by itself does no harm.
    async fn behind(&self, row: &CampaignRow, now: Millis) -> Result<u64, StoreError> {
        if !row.campaign.stop.wait_for_proxies || row.campaign.waves == 0 {
            return Ok(0);
        }
        let proxies = self.proxies(row.ring, Millis(0)).await?;
        let behind = proxies
            .iter()
            .filter(|proxy| !proxy.enforces(row.epoch, row.wave_revision) && !proxy.is_expired(now));
        Ok(behind.count() as u64)
    }
}
