use keywheel_api::Role;
use keywheel_keyring::key_text::random_id;
use serde_json::json;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::rows::int;
use super::{Store, StoreError};
use crate::secret::{HashedToken, random};

impl Store {
    /// Keeps a token's hash and returns its id.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn create_token(
        &self,
        context: &Context,
        role: Role,
        hash: HashedToken,
    ) -> Result<String, StoreError> {
        let mut change = self.begin(context).await?;
        let id = change.insert_token(role, hash).await?;
        change.commit().await?;
        Ok(id)
    }

    /// Whose token has this hash.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn token(&self, hash: HashedToken) -> Result<Option<(String, Role)>, StoreError> {
        let row = sqlx::query("SELECT id, role FROM tokens WHERE hash = $1")
            .bind(hash.as_bytes().to_vec())
            .fetch_optional(self.db.readers())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let role: &str = row.try_get("role")?;
        let role = role.parse().map_err(|_| StoreError::Corrupt(format!("the role `{role}`")))?;
        Ok(Some((row.try_get("id")?, role)))
    }
}

impl Change<'_> {
    pub(super) async fn insert_token(&mut self, role: Role, hash: HashedToken) -> Result<String, StoreError> {
        let id = random_id("token", random()?);
        sqlx::query("INSERT INTO tokens (id, hash, role, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&id)
            .bind(hash.as_bytes().to_vec())
            .bind(role.as_str())
            .bind(int(self.now().0))
            .execute(&mut *self.tx)
            .await?;
        self.audit("token.create", &id, None, Some(json!({ "role": role }))).await?;
        Ok(id)
    }
}
