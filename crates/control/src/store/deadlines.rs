use keywheel_api::{Rotation, RotationState};
use keywheel_keyring::Millis;

use super::change::{Change, Context};
use super::keys::VERSION;
use super::rows::{VersionRow, int, uint, version};
use super::{Store, StoreError};
use crate::lifecycle::Event;

/// What happened by its time.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl Store {
    /// When the next version begins or ends.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        let at: Option<i64> = sqlx::query_scalar(
            "SELECT min(at) FROM (SELECT min(not_before) AS at FROM versions WHERE state = 'pending'
             UNION ALL SELECT min(retire_at) FROM versions WHERE state = 'retiring') AS due",
        )
        .fetch_one(self.db.readers())
        .await?;
        Ok(at.map(|at| Millis(uint(at))))
    }

    /// Carries out one thing whose time has come, if there is one. Finding it and doing it are one
    /// transaction, so that it happens once.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn carry_out_one_due(&self, context: &Context) -> Result<Option<Due>, StoreError> {
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
            rotation.new_version == version.id && rotation.state == RotationState::Distributing
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
