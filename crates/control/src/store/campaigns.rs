//! Campaigns: made, shown, held, and taken back. What they do by themselves is in [`waves`](super::waves).

use keywheel_api::campaign::MAX_KEYS;
use keywheel_api::time::{millis, timestamp};
use keywheel_api::{Campaign, CampaignKeys, CampaignState, CreateCampaign, HaltReason, Skipped};
use keywheel_keyring::{Epoch, Millis};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::{Change, Context};
use super::rows::{int, json as parse, optional_time, optional_timestamp, time, uint, word};
use super::selection::Selected;
use super::{Refusal, Store, StoreError, unless_taken};
use crate::campaign::{self, Event};

pub(super) const CAMPAIGN: &str =
    "SELECT c.id, c.name, c.ring_id, r.name AS ring, r.epoch, c.request, c.state, c.halted_by, c.selected,
    c.wave_keys, c.wave, c.starting, c.begun_at, c.next_wave_at, c.wave_revision, c.rolled_before,
    c.refused_before, c.requests_before, c.rolling_after, c.steps, c.created_at, c.ended_at
    FROM campaigns c JOIN rings r ON r.id = c.ring_id ";

/// A campaign as the store works on it.
#[derive(Debug, Clone)]
pub(super) struct CampaignRow {
    pub(super) id: i64,
    pub(super) ring: i64,
    pub(super) epoch: Epoch,
    pub(super) campaign: Campaign,
    pub(super) starting: bool,
    pub(super) begun_at: Option<Millis>,
    pub(super) next_wave_at: Millis,
    pub(super) wave_revision: u64,
    pub(super) rolled_before: u64,
    pub(super) refused_before: (u64, u64),
    pub(super) rolling_after: String,
    pub(super) steps: i64,
}

impl Store {
    /// Chooses the keys of a campaign, once and for all, and lets it run. Asked for in the same way again it returns
    /// what the first call made, and `false`. `new` names its ring.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such ring or client, a campaign of that name exists, or no key is selected, or too many are.
    pub async fn create_campaign(
        &self,
        context: &Context,
        new: &CreateCampaign,
    ) -> Result<(Campaign, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let request = json!(new);
        if let Some(existing) = change.campaign(&new.name).await? {
            let same = change.request_of(existing.id).await? == request;
            return if same {
                Ok((existing.campaign, false))
            } else {
                Err(Refusal::CampaignExists(new.name.clone()).into())
            };
        }
        let ring = change.main_ring_id(new.ring.as_deref().unwrap_or_default()).await?;
        let clients = client_ids(&mut change.tx, &new.select.clients).await?;
        let selected = Selected { dialect: self.db.dialect, ring, clients, new, now: context.now };
        let (keys, _) = selected.count(&mut change.tx).await?;
        let count = selected.whole(&keys);
        if !(1..=MAX_KEYS).contains(&count) {
            return Err(Refusal::Selected(count).into());
        }
        let begins_at = new.not_before.and_then(millis).map_or(context.now, |at| at.max(context.now));
        let row = sqlx::query(
            "INSERT INTO campaigns (name, ring_id, request, state, selected, wave_keys, next_wave_at, look_at, created_at)
             VALUES ($1, $2, $3, 'running', $4, $5, $6, $6, $7) RETURNING id",
        )
        .bind(&new.name)
        .bind(ring)
        .bind(request.to_string())
        .bind(int(count))
        .bind(int(new.wave.of(count)))
        .bind(int(begins_at.0))
        .bind(int(context.now.0))
        .fetch_one(&mut *change.tx)
        .await
        .map_err(|error| unless_taken(error, || Refusal::CampaignExists(new.name.clone())))?;
        selected.keep(&mut change.tx, row.try_get("id")?, begins_at).await?;
        let made = change.found_campaign(&new.name).await?.campaign;
        change.audit("campaign.create", &new.name, None, Some(json!(made))).await?;
        change.commit().await?;
        Ok((made, true))
    }

    /// What a campaign would come to: how its keys stand, and why some are skipped.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for its ring or a client.
    pub async fn preview_campaign(
        &self,
        new: &CreateCampaign,
        now: Millis,
    ) -> Result<(CampaignKeys, Vec<Skipped>), StoreError> {
        let mut tx = self.db.read().await?;
        let ring = id_of(&mut tx, "ring", new.ring.as_deref().unwrap_or_default()).await?;
        let clients = client_ids(&mut tx, &new.select.clients).await?;
        let selected = Selected { dialect: self.db.dialect, ring, clients, new, now };
        selected.count(&mut tx).await
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn campaign(&self, name: &str) -> Result<Campaign, StoreError> {
        Ok(load(&mut *self.db.readers().acquire().await?, name).await?.campaign)
    }

    /// Up to `limit` campaigns in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn campaigns(&self, after: &str, limit: u32) -> Result<Vec<Campaign>, StoreError> {
        let sql = format!("{CAMPAIGN} WHERE c.name > $1 ORDER BY c.name LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.db.readers())
            .await?;
        rows.iter().map(|row| Ok(campaign(row)?.campaign)).collect()
    }

    /// Starts no wave until the campaign is resumed; one that is being started is not gone on with.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such campaign, or it is halted or over.
    pub async fn pause_campaign(&self, context: &Context, name: &str) -> Result<Campaign, StoreError> {
        self.turn_campaign(context, name, Event::Pause, "campaign.pause").await
    }

    /// Goes on. What was rolled back and refused until now is not held against it any more.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such campaign, or it is over.
    pub async fn resume_campaign(&self, context: &Context, name: &str) -> Result<Campaign, StoreError> {
        self.turn_campaign(context, name, Event::Resume, "campaign.resume").await
    }

    /// Starts no wave any more. Rotations that are open go on.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such campaign, or it is over.
    pub async fn cancel_campaign(&self, context: &Context, name: &str) -> Result<Campaign, StoreError> {
        self.turn_campaign(context, name, Event::Cancel, "campaign.cancel").await
    }

    /// Has every open rotation of its waves rolled back, and starts no wave any more.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such campaign, or it completed.
    pub async fn roll_back_campaign(&self, context: &Context, name: &str) -> Result<Campaign, StoreError> {
        self.turn_campaign(context, name, Event::RollBack, "campaign.rollback").await
    }

    /// Does what an operator asks for. Twice is once.
    async fn turn_campaign(
        &self,
        context: &Context,
        name: &str,
        event: Event,
        action: &'static str,
    ) -> Result<Campaign, StoreError> {
        let before = load(&mut *self.db.readers().acquire().await?, name).await?;
        // These may be many rows to add up, which is not done while nobody else can write.
        let requests = if event == Event::Resume { self.campaign_requests(&before).await? } else { (0, 0) };
        let mut change = self.begin(context).await?;
        let before = change.found_campaign(name).await?;
        let state = campaign::next(before.campaign.state, event).map_err(|refused| {
            Refusal::CampaignState { campaign: name.to_owned(), refused: refused.to_string() }
        })?;
        if state == before.campaign.state {
            return Ok(before.campaign);
        }
        let looked_at = matches!(state, CampaignState::Running | CampaignState::RollingBack);
        let ended = state == CampaignState::Cancelled;
        change.set_campaign_state(&before, state, None, ended, looked_at).await?;
        if event == Event::Resume {
            sqlx::query(
                "UPDATE campaigns SET refused_before = $1, requests_before = $2, rolled_before =
                     (SELECT count(*) FROM campaign_keys m WHERE m.campaign_id = campaigns.id AND m.state = 'rolled_back')
                 WHERE id = $3",
            )
            .bind(int(requests.0))
            .bind(int(requests.1))
            .bind(before.id)
            .execute(&mut *change.tx)
            .await?;
        }
        let after = change.found_campaign(name).await?.campaign;
        change.audit(action, name, Some(stands(&before.campaign)), Some(stands(&after))).await?;
        change.commit().await?;
        Ok(after)
    }
}

impl Change<'_> {
    pub(super) async fn found_campaign(&mut self, name: &str) -> Result<CampaignRow, StoreError> {
        load(&mut self.tx, name).await
    }

    async fn campaign(&mut self, name: &str) -> Result<Option<CampaignRow>, StoreError> {
        find(&mut self.tx, name).await
    }

    async fn request_of(&mut self, id: i64) -> Result<Value, StoreError> {
        let row = sqlx::query("SELECT request FROM campaigns WHERE id = $1").bind(id);
        parse(row.fetch_one(&mut *self.tx).await?.try_get(0)?)
    }

    /// `ended`: it is over now; `looked_at`: the scheduler comes by at once.
    pub(super) async fn set_campaign_state(
        &mut self,
        row: &CampaignRow,
        state: CampaignState,
        halted_by: Option<HaltReason>,
        ended: bool,
        looked_at: bool,
    ) -> Result<(), StoreError> {
        let now = int(self.now().0);
        let state = json!(state);
        sqlx::query(
            "UPDATE campaigns SET state = $1, halted_by = $2, ended_at = $3, look_at = $4, steps = steps + 1
             WHERE id = $5",
        )
        .bind(state.as_str())
        .bind(halted_by.map(|reason| json!(reason).to_string()))
        .bind(ended.then_some(now))
        .bind(looked_at.then_some(now))
        .bind(row.id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}

/// What the audit trail says of a campaign that goes from one state to another.
pub(super) fn stands(campaign: &Campaign) -> Value {
    json!({ "state": campaign.state, "halted_by": campaign.halted_by, "waves": campaign.waves })
}

async fn client_ids(connection: &mut AnyConnection, names: &[String]) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        ids.push(id_of(connection, "client", name).await?);
    }
    Ok(ids)
}

/// Of a ring or a client.
async fn id_of(connection: &mut AnyConnection, what: &'static str, name: &str) -> Result<i64, StoreError> {
    let sql = format!("SELECT id FROM {what}s WHERE name = $1");
    let id = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(connection).await?;
    Ok(id.ok_or_else(|| Refusal::NotFound { what, name: name.to_owned() })?)
}

pub(super) async fn load(connection: &mut AnyConnection, name: &str) -> Result<CampaignRow, StoreError> {
    let found = find(connection, name).await?;
    Ok(found.ok_or_else(|| Refusal::NotFound { what: "campaign", name: name.to_owned() })?)
}

async fn find(connection: &mut AnyConnection, name: &str) -> Result<Option<CampaignRow>, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{CAMPAIGN} WHERE c.name = $1"));
    let row = sqlx::query(sql).bind(name).fetch_optional(connection).await?;
    row.as_ref().map(campaign).transpose()
}

pub(super) fn campaign(row: &AnyRow) -> Result<CampaignRow, StoreError> {
    let request: CreateCampaign = parse(row.try_get("request")?)?;
    let halted_by: Option<&str> = row.try_get("halted_by")?;
    let epoch: &str = row.try_get("epoch")?;
    let campaign = Campaign {
        name: request.name,
        ring: row.try_get("ring")?,
        select: request.select,
        wave: request.wave,
        pause_seconds: request.pause_seconds,
        not_before: request.not_before,
        overlap_seconds: request.overlap_seconds,
        stop: request.stop,
        state: word(row, "state")?,
        halted_by: halted_by.map(parse).transpose()?,
        selected: uint(row.try_get("selected")?),
        keys_per_wave: uint(row.try_get("wave_keys")?),
        waves: uint(row.try_get("wave")?),
        created_at: timestamp(time(row, "created_at")?),
        ended_at: optional_timestamp(row, "ended_at")?,
    };
    Ok(CampaignRow {
        id: row.try_get("id")?,
        ring: row.try_get("ring_id")?,
        epoch: epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch `{epoch}`")))?,
        campaign,
        starting: row.try_get::<i64, _>("starting")? != 0,
        begun_at: optional_time(row, "begun_at")?,
        next_wave_at: time(row, "next_wave_at")?,
        wave_revision: uint(row.try_get("wave_revision")?),
        rolled_before: uint(row.try_get("rolled_before")?),
        refused_before: (uint(row.try_get("refused_before")?), uint(row.try_get("requests_before")?)),
        rolling_after: row.try_get("rolling_after")?,
        steps: row.try_get("steps")?,
    })
}
