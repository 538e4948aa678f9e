use keywheel_api::{Rotation, RotationEnd, RotationState, State, time};
use keywheel_keyring::key_text::random_id;
use keywheel_keyring::{Digest, Millis, VersionId};
use serde_json::json;
use sqlx::{Row as _, SqliteConnection};

use super::change::{Change, Context};
use super::rows::{int, rotation, uint};
use super::{Refusal, Store, StoreError};
use crate::lifecycle::Event;
use crate::secret::random;

const ROTATION: &str = "SELECT id, key_id, old_version, new_version, state, ended_by, overlap_ends_at,
    created_at, ended_at FROM rotations ";

/// A rotation to start.
#[derive(Debug, Clone)]
pub struct NewRotation {
    pub key: String,
    /// Milliseconds.
    pub overlap: u64,
    pub version: VersionId,
    pub digest: Digest,
}

impl NewRotation {
    /// Whether this is the request that `made` came from.
    fn repeats(&self, made: &Rotation) -> bool {
        let millis = |at| time::millis(at).map(|at| at.0);
        let overlap = || Some(millis(made.overlap_ends_at)?.saturating_sub(millis(made.created_at)?));
        made.key == self.key && overlap() == Some(self.overlap)
    }
}

impl Store {
    /// Publishes a new version, then gives the old one its deadline. Without an overlap the old one
    /// retires in the same transaction. Repeated with the same version and digest it returns what
    /// the first call made, and `false`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key, a rotation is open, the key is revoked or has expired, or the
    /// version or digest is taken.
    pub async fn start_rotation(
        &self,
        context: &Context,
        new: &NewRotation,
    ) -> Result<(Rotation, bool), StoreError> {
        let mut change = self.begin(context).await?;
        let key = change.key(&new.key).await?;
        if let Some(existing) = change.version(new.version.as_str()).await? {
            let made = change.rotation_that_made(&existing.id).await?;
            return match made {
                Some(made) if new.repeats(&made) && existing.digest == new.digest => Ok((made, false)),
                _ => Err(Refusal::VersionExists(existing.id).into()),
            };
        }
        if key.revoked_at.is_some() {
            return Err(Refusal::KeyRevoked(key.id).into());
        }
        if let Some(open) = key.open_rotation.clone() {
            return Err(Refusal::RotationOpen(open).into());
        }
        let expires_at = key.expires_at.and_then(time::millis);
        if expires_at.is_some_and(|at| at <= context.now) {
            return Err(Refusal::KeyExpired(key.id).into());
        }
        let versions = change.versions(&key.id).await?;
        let active = versions.into_iter().find(|version| version.state == State::Active);
        let mut old = active.ok_or_else(|| Refusal::KeyRevoked(key.id.clone()))?;

        // The new version first: no proxy may see the old one end before it has the new one.
        change.insert_version(&key.id, old.ring, &new.version, new.digest, expires_at).await?;
        let ends_at = Millis(context.now.0.saturating_add(new.overlap));
        old.retire_at = Some(ends_at);
        change.apply(&old, Event::Supersede).await?;

        let id = random_id("rot", random()?);
        sqlx::query(
            "INSERT INTO rotations (id, key_id, old_version, new_version, state, overlap_ends_at, created_at)
             VALUES (?, ?, ?, ?, 'overlapping', ?, ?)",
        )
        .bind(&id)
        .bind(&key.id)
        .bind(&old.id)
        .bind(new.version.as_str())
        .bind(int(ends_at.0))
        .bind(int(context.now.0))
        .execute(&mut *change.tx)
        .await?;
        change.audit_key("rotation.start", &id, &key).await?;
        if new.overlap == 0 {
            change.complete(&id).await?;
        }
        let rotation = change.rotation(&id).await?;
        change.commit().await?;
        Ok((rotation, true))
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn rotation(&self, id: &str) -> Result<Rotation, StoreError> {
        let mut connection = self.readers.acquire().await?;
        load(&mut connection, id).await
    }

    /// When the next overlap ends.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn next_deadline(&self) -> Result<Option<Millis>, StoreError> {
        let at: Option<i64> =
            sqlx::query_scalar("SELECT min(overlap_ends_at) FROM rotations WHERE state = 'overlapping'")
                .fetch_one(&self.readers)
                .await?;
        Ok(at.map(|at| Millis(uint(at))))
    }

    /// Completes one rotation whose overlap is over, if there is one. Finding it and completing it
    /// are one transaction, so that it happens once.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn complete_one_due(&self, context: &Context) -> Result<Option<Rotation>, StoreError> {
        let mut change = self.begin(context).await?;
        let due = sqlx::query(
            "SELECT id FROM rotations WHERE state = 'overlapping' AND overlap_ends_at <= ?
             ORDER BY overlap_ends_at LIMIT 1",
        )
        .bind(int(context.now.0))
        .fetch_optional(&mut *change.tx)
        .await?;
        let Some(due) = due else { return Ok(None) };
        let id: String = due.try_get(0)?;
        change.complete(&id).await?;
        let rotation = change.rotation(&id).await?;
        change.commit().await?;
        Ok(Some(rotation))
    }
}

impl Change<'_> {
    pub(super) async fn rotation(&mut self, id: &str) -> Result<Rotation, StoreError> {
        load(&mut self.tx, id).await
    }

    pub(super) async fn end_rotation(
        &mut self,
        id: &str,
        state: RotationState,
        ended_by: RotationEnd,
    ) -> Result<(), StoreError> {
        let (state, ended_by) = (json!(state), json!(ended_by));
        sqlx::query("UPDATE rotations SET state = ?, ended_by = ?, ended_at = ? WHERE id = ?")
            .bind(state.as_str())
            .bind(ended_by.as_str())
            .bind(int(self.context.now.0))
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn rotation_that_made(&mut self, version: &str) -> Result<Option<Rotation>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{ROTATION} WHERE new_version = ?"));
        let row = sqlx::query(sql).bind(version).fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(rotation).transpose()
    }

    /// Retires the old version.
    async fn complete(&mut self, id: &str) -> Result<(), StoreError> {
        let rotation = self.rotation(id).await?;
        let key = self.key(&rotation.key).await?;
        let old = self.version(&rotation.old_version).await?;
        let old = old.ok_or_else(|| StoreError::Corrupt(format!("rotation {id} without its old version")))?;
        self.apply(&old, Event::Retire).await?;
        self.end_rotation(id, RotationState::Completed, RotationEnd::Deadline).await?;
        self.audit_key("rotation.complete", id, &key).await?;
        Ok(())
    }
}

async fn load(connection: &mut SqliteConnection, id: &str) -> Result<Rotation, StoreError> {
    let sql = sqlx::AssertSqlSafe(format!("{ROTATION} WHERE id = ?"));
    let row = sqlx::query(sql).bind(id).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| Refusal::NotFound { what: "rotation", name: id.to_owned() })?;
    rotation(&row)
}
