use keywheel_api::{HaltReason, Rotation, RotationState};
use keywheel_keyring::Millis;

use super::change::{Change, Context};
use super::keys::VERSION;
use super::rows::{VersionRow, int, uint, version};
use super::{Store, StoreError};
use crate::lifecycle::Event;
use crate::schedule::Announcement;

/// What happened by its time.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// A version is accepted from now on.
    Begun {
        key: String,
        version: String,
    },
    /// A rotation's new version is accepted from now on, and its overlap runs.
    Overlapping(Rotation),
    Completed(Rotation),
    /// A version's overlap ended whose rotation was over before.
    Retired {
        key: String,
        version: String,
    },
    /// The brown-out of a rotation began that its policy plans.
    BrownedOut(Rotation),
    /// Old versions were judged; the rotations that began or ceased to drain.
    Judged(Vec<Rotation>),
    /// A schedule started a rotation to the version that was deposited.
    Started(Rotation),
    /// It could not.
    DepositRefused {
        key: String,
        why: String,
    },
    /// A campaign was looked at.
    Campaign {
        campaign: String,
        news: Option<News>,
    },
    /// Keys were looked at; the notices that were given, with their keys.
    Planned(Vec<(String, Announcement)>),
}

/// What a campaign did by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News {
    /// It chose the keys of a wave.
    Wave {
        number: u64,
        keys: u64,
    },
    /// It started so many rotations of it.
    Rotating {
        keys: u64,
    },
    Halted(HaltReason),
    Completed,
    RolledBack,
}

impl Store {
    /// When there is something to carry out next.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn next_deadline(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let at: Option<i64> = sqlx::query_scalar(
            "SELECT min(at) FROM (SELECT min(not_before) AS at FROM versions WHERE state = 'pending'
             UNION ALL SELECT min(retire_at) FROM versions WHERE state = 'retiring'
             UNION ALL SELECT min(check_at) FROM rotations WHERE check_at IS NOT NULL
             UNION ALL SELECT min(look_at) FROM campaigns WHERE look_at IS NOT NULL
             UNION ALL SELECT min(brownout_at) FROM rotations WHERE brownout_at IS NOT NULL) AS due",
        )
        .fetch_one(self.db.readers())
        .await?;
        let (plan, sweep) = (self.next_plan(now).await?, self.next_sweep().await?);
        Ok(at.map(|at| Millis(uint(at))).into_iter().chain(plan).chain(sweep).min())
    }

    /// Carries out one thing whose time has come, if there is one. Finding it and doing it are one
    /// transaction, so that it happens once.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn carry_out_one_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        if let Some(due) = self.begin_or_retire_one_due(context).await? {
            return Ok(Some(due));
        }
        if let Some(due) = self.brown_out_one_due(context).await? {
            return Ok(Some(due));
        }
        if let Some(due) = self.judge_due(context).await? {
            return Ok(Some(due));
        }
        if let Some(due) = self.start_one_due(context).await? {
            return Ok(Some(due));
        }
        if let Some(due) = self.step_one_campaign(context).await? {
            return Ok(Some(due));
        }
        if let Some(due) = self.sweep(context).await? {
            return Ok(Some(due));
        }
        self.look_at_due_keys(context).await
    }

    /// As [`carry_out_one_due`](Self::carry_out_one_due), for versions that begin or end alone.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn begin_or_retire_one_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
        let mut change = self.begin(context).await?;
        // What begins comes first: of two deadlines that were both missed, none may leave a gap.
        let due = if let Some(version) = change.due("state = 'pending' AND not_before", "not_before").await? {
            change.begin_version(&version).await?
        } else if let Some(version) = change.due("state = 'retiring' AND retire_at", "retire_at").await? {
            change.retire_version(&version).await?
        } else {
            return Ok(None);
        };
        change.commit().await?;
        Ok(Some(due))
    }
}

impl Change<'_> {
    async fn due(
        &mut self,
        column: &'static str,
        order: &'static str,
    ) -> Result<Option<VersionRow>, StoreError> {
        let sql = format!("{VERSION} WHERE {column} <= $1 ORDER BY {order} LIMIT 1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(int(self.context.now.0))
            .fetch_optional(&mut *self.tx)
            .await?;
        row.as_ref().map(version).transpose()
    }

    async fn begin_version(&mut self, version: &VersionRow) -> Result<Due, StoreError> {
        let before = self.key(&version.key).await?;
        self.apply(version, Event::Begin).await?;
        let rotation = self.open_rotation(&version.key).await?;
        let rotation = rotation.filter(|rotation| {
            // What only a canary has touches nothing: the overlap begins when the others have it.
            rotation.new_version == version.id
                && rotation.state == RotationState::Distributing
                && version.promote_at.is_none()
        });
        let (key, id) = (version.key.clone(), version.id.clone());
        match rotation {
            Some(rotation) => {
                self.begin_overlap(&rotation).await?;
                self.audit_key("rotation.begin", &rotation.id, &before).await?;
                self.complete_if_over(&rotation.id).await?;
                Ok(Due::Overlapping(self.rotation(&rotation.id).await?))
            }
            None => {
                self.audit_key("version.begin", &id, &before).await?;
                Ok(Due::Begun { key, version: id })
            }
        }
    }

    async fn retire_version(&mut self, version: &VersionRow) -> Result<Due, StoreError> {
        let rotation = self.open_rotation(&version.key).await?;
        if let Some(rotation) = rotation.filter(|rotation| rotation.old_version == version.id) {
            self.complete(&rotation).await?;
            return Ok(Due::Completed(self.rotation(&rotation.id).await?));
        }
        let before = self.key(&version.key).await?;
        self.apply(version, Event::Retire).await?;
        let (key, id) = (version.key.clone(), version.id.clone());
        self.audit_key("version.retire", &id, &before).await?;
        Ok(Due::Retired { key, version: id })
    }
}
