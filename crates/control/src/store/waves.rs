//! What campaigns do by themselves: their waves, in transactions of a bounded number of rotations.
//!
//! What a step depends on is read before its transaction, which finds out whether the campaign is still as it was
//! read. So nobody waits for the counting, and of several replicas one takes the step.

use keywheel_api::{CampaignState, SkipReason};
use keywheel_keyring::Millis;
use serde_json::json;
use sqlx::Row as _;

use super::campaigns::{CAMPAIGN, CampaignRow, campaign, stands};
use super::change::{Change, Context};
use super::deadlines::{Due, News};
use super::rotations::{NewRotation, RollBackTo};
use super::rows::int;
use super::{Refusal, Store, StoreError};
use crate::campaign::{Step, Wait};

/// Rotations that are started, or rolled back, in one transaction: revocations wait for it.
const ROTATIONS: i64 = 50;
/// Keys that are skipped in one transaction.
const SKIPS: i64 = 1_000;
/// Keys of a wave that its audit record names.
const NAMED: i64 = 100;

impl Store {
    /// Takes one step of a campaign that is to be looked at.
    pub(super) async fn step_one_campaign(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let sql = format!("{CAMPAIGN} WHERE c.look_at <= $1 ORDER BY c.look_at, c.id LIMIT 1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(int(context.now.0))
            .fetch_optional(self.db.readers())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let row = campaign(&row)?;
        let step = match row.campaign.state {
            CampaignState::Running => Some(self.next_step(&row, context.now).await?),
            _ => None,
        };
        let mut change = self.begin(context).await?;
        let news = if change.is_as_read(&row).await? {
            match step {
                Some(step) => change.take(&row, step).await?,
                None if row.campaign.state == CampaignState::RollingBack => change.roll_on(&row).await?,
                None => {
                    change.look_at_campaign(&row, None).await?;
                    None
                }
            }
        } else {
            // Another replica was faster, or an operator.
            None
        };
        change.commit_notes().await?;
        Ok(Some(Due::Campaign { campaign: row.campaign.name, news }))
    }
}

impl Change<'_> {
    async fn is_as_read(&mut self, row: &CampaignRow) -> Result<bool, StoreError> {
        let steps = sqlx::query_scalar::<_, i64>("SELECT steps FROM campaigns WHERE id = $1").bind(row.id);
        Ok(steps.fetch_one(&mut *self.tx).await? == row.steps)
    }

    async fn take(&mut self, row: &CampaignRow, step: Step) -> Result<Option<News>, StoreError> {
        Ok(match step {
            Step::Wait(wait) => {
                self.look_at_campaign(row, Some(wait.look_at(self.now()))).await?;
                None
            }
            Step::StartWave => self.start_wave(row).await?,
            Step::Rotate => Some(News::Rotating { keys: self.rotate(row).await? }),
            Step::EndWave => {
                self.end_wave(row).await?;
                None
            }
            Step::SkipEnded => {
                self.skip_ended(row).await?;
                None
            }
            Step::Halt(reason) => {
                self.set_campaign_state(row, CampaignState::Halted, Some(reason), false, false).await?;
                self.audit_campaign("campaign.halt", row).await?;
                Some(News::Halted(reason))
            }
            Step::Complete => {
                self.set_campaign_state(row, CampaignState::Completed, None, true, false).await?;
                self.audit_campaign("campaign.complete", row).await?;
                Some(News::Completed)
            }
        })
    }

    async fn audit_campaign(&mut self, action: &'static str, row: &CampaignRow) -> Result<(), StoreError> {
        let after = self.found_campaign(&row.campaign.name).await?.campaign;
        self.audit(action, &after.name, Some(stands(&row.campaign)), Some(stands(&after))).await
    }

    /// Chooses the keys of the next wave.
    async fn start_wave(&mut self, row: &CampaignRow) -> Result<Option<News>, StoreError> {
        let number = row.campaign.waves.saturating_add(1);
        let keys = sqlx::query(
            "UPDATE campaign_keys SET wave = $2 WHERE campaign_id = $1 AND key_id IN (
                 SELECT m.key_id FROM campaign_keys m JOIN keys k ON k.id = m.key_id
                 LEFT JOIN rotations o ON o.key_id = k.id AND o.ended_at IS NULL
                 WHERE m.campaign_id = $1 AND m.state = 'waiting' AND k.next_version IS NOT NULL AND o.id IS NULL
                 ORDER BY m.key_id LIMIT $3)",
        )
        .bind(row.id)
        .bind(int(number))
        .bind(int(row.campaign.keys_per_wave))
        .execute(&mut *self.tx)
        .await?
        .rows_affected();
        if keys == 0 {
            // They were there a moment ago.
            self.look_at_campaign(row, Some(Wait::Deposits.look_at(self.now()))).await?;
            return Ok(None);
        }
        sqlx::query("INSERT INTO campaign_waves (campaign_id, number, started_at) VALUES ($1, $2, $3)")
            .bind(row.id)
            .bind(int(number))
            .bind(int(self.now().0))
            .execute(&mut *self.tx)
            .await?;
        sqlx::query(
            "UPDATE campaigns SET wave = $1, starting = 1, begun_at = coalesce(begun_at, $2), steps = steps + 1
             WHERE id = $3",
        )
        .bind(int(number))
        .bind(int(self.now().0))
        .bind(row.id)
        .execute(&mut *self.tx)
        .await?;
        let named = self.keys_of_wave(row.id, number, NAMED).await?;
        let named: Vec<_> = named.into_iter().map(|(key, _)| key).collect();
        let wave = json!({ "wave": number, "keys": keys, "first_keys": named });
        self.audit("campaign.wave", &row.campaign.name, None, Some(wave)).await?;
        Ok(Some(News::Wave { number, keys }))
    }

    /// Keys of a wave whose rotations are not started, each with the version that it replaces if that is not the
    /// newest.
    async fn keys_of_wave(
        &mut self,
        campaign: i64,
        number: u64,
        limit: i64,
    ) -> Result<Vec<(String, Option<String>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT key_id, replaces FROM campaign_keys
             WHERE campaign_id = $1 AND state = 'waiting' AND wave = $2 ORDER BY key_id LIMIT $3",
        )
        .bind(campaign)
        .bind(int(number))
        .bind(limit)
        .fetch_all(&mut *self.tx)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("key_id")?, row.try_get("replaces")?))).collect()
    }

    /// Starts rotations of the wave at hand. Returns how many.
    async fn rotate(&mut self, row: &CampaignRow) -> Result<u64, StoreError> {
        let mut started: u64 = 0;
        for (key, replaces) in self.keys_of_wave(row.id, row.campaign.waves, ROTATIONS).await? {
            if self.rotate_key(row, &key, replaces).await? {
                started = started.saturating_add(1);
            }
        }
        sqlx::query("UPDATE campaigns SET steps = steps + 1 WHERE id = $1")
            .bind(row.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(started)
    }

    /// As its schedule would: to the version that was deposited. What stands in the way of one key does not hold up
    /// the others.
    async fn rotate_key(
        &mut self,
        row: &CampaignRow,
        key: &str,
        replaces: Option<String>,
    ) -> Result<bool, StoreError> {
        let Some((version, digest)) = self.deposited(key).await? else {
            self.wait_for_another_wave(row, key).await?;
            return Ok(false);
        };
        let overlap = row.campaign.overlap_seconds.map(|seconds| seconds.saturating_mul(1000));
        let new = NewRotation { overlap, replaces, ..NewRotation::to(key.to_owned(), version, digest) };
        let mark = self.mark().await?;
        let refusal = match self.start(&new).await {
            Ok(_) => {
                self.pass(mark).await?;
                return Ok(true);
            }
            Err(StoreError::Refused(refusal)) => refusal,
            Err(error) => return Err(error),
        };
        self.go_back(mark).await?;
        match refusal {
            Refusal::RotationOpen(_) => self.wait_for_another_wave(row, key).await?,
            Refusal::VersionExists(_) | Refusal::DigestTaken | Refusal::DigestCompromised(_) => {
                self.drop_deposit(key, &refusal).await?;
                self.wait_for_another_wave(row, key).await?;
            }
            Refusal::KeyRevoked(_) => self.skip(row, key, SkipReason::KeyRevoked).await?,
            Refusal::KeyExpired(_) => self.skip(row, key, SkipReason::KeyExpired).await?,
            Refusal::NoOverlap(_) => self.skip(row, key, SkipReason::NoOverlap).await?,
            Refusal::Policy { .. } => self.skip(row, key, SkipReason::TooManyVersions).await?,
            Refusal::KeyPending { .. } | Refusal::NotFound { .. } => {
                self.skip(row, key, SkipReason::VersionEnded).await?;
            }
            other => return Err(other.into()),
        }
        Ok(false)
    }

    async fn wait_for_another_wave(&mut self, row: &CampaignRow, key: &str) -> Result<(), StoreError> {
        let sql = "UPDATE campaign_keys SET wave = NULL WHERE campaign_id = $1 AND key_id = $2";
        sqlx::query(sql).bind(row.id).bind(key).execute(&mut *self.tx).await?;
        Ok(())
    }

    async fn skip(&mut self, row: &CampaignRow, key: &str, why: SkipReason) -> Result<(), StoreError> {
        let why = json!(why);
        sqlx::query(
            "UPDATE campaign_keys SET state = 'skipped', why = $3 WHERE campaign_id = $1 AND key_id = $2",
        )
        .bind(row.id)
        .bind(key)
        .bind(why.as_str())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn skip_ended(&mut self, row: &CampaignRow) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE campaign_keys SET state = 'skipped', why = CASE WHEN
                 (SELECT k.revoked_at FROM keys k WHERE k.id = campaign_keys.key_id) IS NULL
                 THEN 'key_expired' ELSE 'key_revoked' END
             WHERE campaign_id = $1 AND key_id IN (
                 SELECT m.key_id FROM campaign_keys m JOIN keys k ON k.id = m.key_id
                 WHERE m.campaign_id = $1 AND m.state = 'waiting'
                     AND (k.revoked_at IS NOT NULL OR k.expires_at <= $2)
                 ORDER BY m.key_id LIMIT $3)",
        )
        .bind(row.id)
        .bind(int(self.now().0))
        .bind(SKIPS)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// The pause counts from now, when the last rotation of the wave has been started.
    async fn end_wave(&mut self, row: &CampaignRow) -> Result<(), StoreError> {
        let pause = row.campaign.pause_seconds.saturating_mul(1000);
        sqlx::query(
            "UPDATE campaigns SET starting = 0, next_wave_at = $1, steps = steps + 1,
                 wave_revision = (SELECT revision FROM rings WHERE rings.id = campaigns.ring_id)
             WHERE id = $2",
        )
        .bind(int(self.now().0.saturating_add(pause)))
        .bind(row.id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Rolls back what is open of the campaign's waves. What cannot be taken back any more goes on.
    async fn roll_on(&mut self, row: &CampaignRow) -> Result<Option<News>, StoreError> {
        let rows = sqlx::query(
            "SELECT key_id, rotation_id FROM campaign_keys WHERE campaign_id = $1 AND state = 'rotating'
                 AND wave IS NOT NULL AND key_id > $2 ORDER BY key_id LIMIT $3",
        )
        .bind(row.id)
        .bind(&row.rolling_after)
        .bind(ROTATIONS)
        .fetch_all(&mut *self.tx)
        .await?;
        let Some(last) = rows.last() else {
            self.set_campaign_state(row, CampaignState::RolledBack, None, true, false).await?;
            self.audit_campaign("campaign.rolled-back", row).await?;
            return Ok(Some(News::RolledBack));
        };
        let last: String = last.try_get("key_id")?;
        for rotation in &rows {
            let rotation = self.rotation(rotation.try_get("rotation_id")?).await?;
            match self.take_back(&rotation, RollBackTo::Overlap(None)).await {
                Ok(_) | Err(StoreError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        sqlx::query("UPDATE campaigns SET rolling_after = $1, steps = steps + 1 WHERE id = $2")
            .bind(last)
            .bind(row.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(None)
    }

    /// Has running campaigns looked at that wait for a deposit of this key.
    pub(super) async fn wake_campaigns_of(&mut self, key: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE campaigns SET look_at = $1 WHERE state = 'running' AND look_at > $1
             AND id IN (SELECT campaign_id FROM campaign_keys WHERE key_id = $2)",
        )
        .bind(int(self.now().0))
        .bind(key)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Has running campaigns looked at that may wait for proxies of this ring.
    pub(super) async fn wake_campaigns_on(&mut self, ring: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE campaigns SET look_at = $1 WHERE state = 'running' AND look_at > $1 AND ring_id = $2",
        )
        .bind(int(self.now().0))
        .bind(ring)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn look_at_campaign(&mut self, row: &CampaignRow, at: Option<Millis>) -> Result<(), StoreError> {
        sqlx::query("UPDATE campaigns SET look_at = $1 WHERE id = $2")
            .bind(at.map(|at| int(at.0)))
            .bind(row.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
