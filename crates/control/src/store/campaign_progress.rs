//! How far a campaign is, over the whole, by wave and by key.

use std::collections::BTreeMap;

use keywheel_api::campaign::SHOWN_WAVES;
use keywheel_api::time::timestamp;
use keywheel_api::{
    CampaignKey, CampaignKeyState, CampaignKeys, CampaignProgress, CampaignState, CampaignWait, SkipReason,
    Skipped, Wave,
};
use keywheel_keyring::Millis;
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::campaigns::{CampaignRow, load};
use super::rows::{int, named, time, uint, word};
use super::{Store, StoreError};
use crate::campaign::{Step, Wait};

/// How a key stands, for whoever asks.
const KEY_STATE: &str =
    "CASE WHEN m.state = 'waiting' AND k.next_version IS NULL THEN 'waiting_for_deposit' ELSE m.state END";

impl Store {
    /// How far a campaign is.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn campaign_progress(&self, name: &str, now: Millis) -> Result<CampaignProgress, StoreError> {
        let mut tx = self.db.read().await?;
        let row = load(&mut tx, name).await?;
        let (keys, skipped) = count_keys(&mut tx, row.id).await?;
        let latest_waves = latest_waves(&mut tx, &row).await?;
        drop(tx);
        let waits_for = match row.campaign.state {
            CampaignState::Running => match self.next_step(&row, now).await? {
                Step::Wait(wait) => Some(shown(wait)),
                _ => None,
            },
            _ => None,
        };
        Ok(CampaignProgress { campaign: row.campaign, keys, skipped, latest_waves, waits_for })
    }

    /// Up to `limit` keys of a campaign in the order of their ids, after `after`; of one state, if it is given.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn campaign_keys(
        &self,
        name: &str,
        state: Option<CampaignKeyState>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<CampaignKey>, StoreError> {
        let mut tx = self.db.read().await?;
        let id = load(&mut tx, name).await?.id;
        let sql = format!(
            "SELECT m.key_id, c.name AS client, {KEY_STATE} AS state, m.why, m.wave, m.rotation_id
             FROM campaign_keys m JOIN keys k ON k.id = m.key_id JOIN clients c ON c.id = k.client_id
             WHERE m.campaign_id = $1 AND m.key_id > $2 AND (CAST($3 AS TEXT) IS NULL OR {KEY_STATE} = $3)
             ORDER BY m.key_id LIMIT $4"
        );
        let state = state.map(|state| json!(state));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id)
            .bind(after)
            .bind(state.as_ref().and_then(Value::as_str))
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
        let key = |row: &AnyRow| {
            Ok(CampaignKey {
                key: row.try_get("key_id")?,
                client: row.try_get("client")?,
                state: word(row, "state")?,
                why: why(row)?,
                wave: row.try_get::<Option<i64>, _>("wave")?.map(uint),
                rotation: row.try_get("rotation_id")?,
            })
        };
        rows.iter().map(key).collect()
    }
}

async fn count_keys(
    connection: &mut AnyConnection,
    id: i64,
) -> Result<(CampaignKeys, Vec<Skipped>), StoreError> {
    let sql = format!(
        "SELECT {KEY_STATE} AS state, m.why, count(*) AS keys FROM campaign_keys m JOIN keys k ON k.id = m.key_id
         WHERE m.campaign_id = $1 GROUP BY 1, m.why ORDER BY 1, m.why"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_all(connection).await?;
    add_up(&rows)
}

/// Rows of `state`, `why` and `keys`.
pub(super) fn add_up(rows: &[AnyRow]) -> Result<(CampaignKeys, Vec<Skipped>), StoreError> {
    let (mut keys, mut skipped) = (CampaignKeys::default(), Vec::new());
    for row in rows {
        let count = uint(row.try_get("keys")?);
        let sum = keys.of(word(row, "state")?);
        *sum = sum.saturating_add(count);
        if let Some(why) = why(row)? {
            skipped.push(Skipped { why, keys: count });
        }
    }
    Ok((keys, skipped))
}

async fn latest_waves(connection: &mut AnyConnection, row: &CampaignRow) -> Result<Vec<Wave>, StoreError> {
    let after = int(row.campaign.waves.saturating_sub(SHOWN_WAVES));
    let rows =
        sqlx::query("SELECT number, started_at FROM campaign_waves WHERE campaign_id = $1 AND number > $2")
            .bind(row.id)
            .bind(after)
            .fetch_all(&mut *connection)
            .await?;
    let mut waves = BTreeMap::new();
    for row in &rows {
        let number = uint(row.try_get("number")?);
        let started_at = timestamp(time(row, "started_at")?);
        waves.insert(number, Wave { number, started_at, keys: CampaignKeys::default() });
    }
    let rows = sqlx::query(
        "SELECT wave, state, count(*) AS keys FROM campaign_keys
         WHERE campaign_id = $1 AND wave > $2 GROUP BY wave, state",
    )
    .bind(row.id)
    .bind(after)
    .fetch_all(connection)
    .await?;
    for row in &rows {
        if let Some(wave) = waves.get_mut(&uint(row.try_get("wave")?)) {
            *wave.keys.of(word(row, "state")?) = uint(row.try_get("keys")?);
        }
    }
    Ok(waves.into_values().collect())
}

fn why(row: &AnyRow) -> Result<Option<SkipReason>, StoreError> {
    let why: Option<&str> = row.try_get("why")?;
    why.map(named).transpose()
}

fn shown(wait: Wait) -> CampaignWait {
    match wait {
        Wait::Pause { until } => CampaignWait::Pause { until: timestamp(until) },
        Wait::Proxies { behind } => CampaignWait::Proxies { behind },
        Wait::Canary { versions } => CampaignWait::Canary { versions },
        Wait::Deposits => CampaignWait::Deposits,
        Wait::Overlaps => CampaignWait::Overlaps,
    }
}
